//! The README lists the metrics there are.

use std::collections::BTreeSet;

use pharos_network::{Backend, PodRoutes, ProxyConfig, RoutesConfig, ServiceProxy};

#[tokio::test]
async fn the_readme_lists_the_metrics() {
    let registry = prometheus::Registry::new();
    let refuse = || tower::service_fn(async |_| Ok::<_, std::io::Error>(http::Response::new(String::new())));
    let config = ProxyConfig { node_name: "n".into(), ..ProxyConfig::default() };
    let client = || pharos_client::in_process(refuse());
    let _proxy = ServiceProxy::new(&config, client(), &registry).unwrap();
    let _routes = PodRoutes::new(RoutesConfig { node_name: "n".into(), backend: Backend::Vxlan }, client(), &registry).unwrap();
    let readme = include_str!("../README.md");
    let listed: BTreeSet<&str> =
        readme.lines().filter_map(|l| l.strip_prefix("- `")?.strip_suffix('`')).filter(|n| n.contains('_')).collect();
    let families = registry.gather();
    for family in &families {
        assert!(listed.contains(family.name()), "{} is not in the README", family.name());
    }
    // Vectors without children do not show.
    assert_eq!(listed.len(), families.len() + 3);
}
