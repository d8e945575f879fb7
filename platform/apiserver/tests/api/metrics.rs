//! What is measured of requests.

use pharos_apiserver::authn::UserInfo;
use serde_json::json;

use crate::common::Server;

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

impl Server {
    /// What a scrape of its metrics shows.
    pub(crate) fn exposition(&self) -> String {
        prometheus::TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap()
    }
}

/// Whether a sample of that name has all these labels, and a value above zero.
fn counts(text: &str, name: &str, labels: &[(&str, &str)]) -> bool {
    text.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{') || rest.starts_with(' '))).any(
        |line| {
            let has = |(label, value): &(&str, &str)| line.contains(&format!("{label}=\"{value}\""));
            labels.iter().all(has) && !line.ends_with(" 0")
        },
    )
}

#[tokio::test]
async fn requests_are_counted_by_upstreams_names() {
    let server = Server::start().await;
    server.create(CONFIG_MAPS, json!({"metadata": {"name": "m", "labels": {"a": "b"}}})).await;
    server.merge(&format!("{CONFIG_MAPS}/m"), &json!({"data": {"c": "d"}})).await;
    server.get(&format!("{CONFIG_MAPS}?labelSelector=a%3Db")).await;
    server.get("/api/v1/namespaces/default/endpoints").await;
    server.get("/api/v1/namespaces/default/configmaps/m/invented").await;
    let text = server.exposition();
    let check = |name: &str, labels: &[(&str, &str)]| assert!(counts(&text, name, labels), "{name} {labels:?}\n{text}");
    check("apiserver_request_total", &[("verb", "POST"), ("resource", "configmaps"), ("scope", "resource"), ("code", "201")]);
    check("apiserver_request_duration_seconds_count", &[("verb", "LIST"), ("resource", "configmaps"), ("dry_run", "")]);
    check("apiserver_request_sli_duration_seconds_count", &[("verb", "PATCH"), ("resource", "configmaps")]);
    check("apiserver_response_sizes_count", &[("verb", "LIST"), ("resource", "configmaps"), ("scope", "namespace")]);
    check("apiserver_request_timestamp_comparison_time_count", &[("code_path", "unequalObjectsSlow")]);
    check("apiserver_requested_deprecated_apis", &[("resource", "endpoints"), ("version", "v1"), ("removed_release", "")]);
    check("apiserver_selfrequest_total", &[("verb", "POST"), ("resource", "namespaces")]);
    check("apiserver_storage_list_total", &[("resource", "configmaps"), ("storage", "watchcache"), ("index", "")]);
    check("apiserver_storage_list_evaluated_objects_total", &[("resource", "configmaps")]);
    check("apiserver_storage_list_returned_objects_total", &[("resource", "configmaps")]);
    check("apiserver_storage_objects", &[("resource", "clusterroles.rbac.authorization.k8s.io")]);
    check(
        "apiserver_admission_controller_admission_duration_seconds_count",
        &[("name", "NamespaceLifecycle"), ("type", "admit"), ("operation", "CREATE"), ("rejected", "false")],
    );
    check("apiserver_admission_step_admission_duration_seconds_count", &[("type", "validate"), ("operation", "UPDATE")]);
    assert!(!text.contains("invented"), "clients can make no series up");
    assert!(!text.contains("\ngo_"));
}

#[tokio::test]
async fn what_admission_refuses_is_told_apart() {
    let server = Server::start().await;
    let body = json!({"metadata": {"name": "m"}});
    assert_eq!(server.post("/api/v1/namespaces/nowhere/configmaps", &body).await.code, 404);
    let text = server.exposition();
    let refused = [("name", "NamespaceLifecycle"), ("operation", "CREATE"), ("rejected", "true")];
    assert!(counts(&text, "apiserver_admission_controller_admission_duration_seconds_count", &refused), "{text}");
    let step = [("type", "admit"), ("operation", "CREATE"), ("rejected", "true")];
    assert!(counts(&text, "apiserver_admission_step_admission_duration_seconds_count", &step), "{text}");
}

#[tokio::test]
async fn open_watches_are_counted_while_they_last() {
    let server = Server::start().await;
    let jane = UserInfo::new("jane", ["system:masters"]);
    let path = format!("{CONFIG_MAPS}?watch=1");
    let open = [("verb", "WATCH"), ("resource", "configmaps"), ("scope", "namespace")];
    let watch = server.send(&jane, http::Method::GET, &path, &[], pharos_transport::Body::empty()).await;
    assert!(counts(&server.exposition(), "apiserver_longrunning_requests", &open));
    drop(watch);
    assert!(!counts(&server.exposition(), "apiserver_longrunning_requests", &open));
}
