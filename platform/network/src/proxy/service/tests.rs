use std::sync::Arc;

use serde_json::{Value, json};

use super::*;

fn config() -> Checked {
    Checked {
        node_name: "n1".into(),
        cluster_cidrs: vec!["10.42.0.0/16".parse().unwrap()],
        masquerade_all: false,
        node_port_addresses: crate::proxy::config::NodePortAddresses::Primary,
        healthz: None,
        min_sync_period: std::time::Duration::ZERO,
    }
}

/// The rules of a Service with the given spec and endpoints (address, node), hashes taken out.
fn rules(spec: Value, endpoints: &[(&str, &str)]) -> Vec<String> {
    let service: Service = serde_json::from_value(json!({
        "metadata": {"namespace": "ns", "name": "svc"}, "spec": spec,
        "status": {"loadBalancer": {"ingress": spec["testIngress"]}}
    }))
    .unwrap();
    let endpoints: Vec<Value> = endpoints.iter().map(|(ip, node)| json!({"addresses": [ip], "nodeName": node})).collect();
    let slice: EndpointSlice = serde_json::from_value(json!({
        "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "", "port": 8080, "protocol": spec["ports"][0]["protocol"].as_str().unwrap_or("TCP")}]
    }))
    .unwrap();
    let here = Here { node: "n1".into(), zone: None };
    let fragment = fragment(&service, &[Arc::new(slice)], &here, &config());
    assert_eq!(fragment.v6, Rules::default());
    let mut lines: Vec<String> = Vec::new();
    for (chain, rules) in &fragment.v4.chains {
        lines.extend(rules.iter().map(|rule| format!("{chain}: {rule}")));
    }
    lines.extend(fragment.v4.elements.iter().map(|((map, key), value)| format!("{map:?} {key} {value}")));
    lines.iter().map(|l| without_hashes(l)).collect()
}

fn without_hashes(line: &str) -> String {
    let mut words = Vec::new();
    for word in line.split(' ') {
        let mut parts: Vec<&str> = word.splitn(3, '-').collect();
        if parts.len() == 3 && parts[1].len() == 10 && parts[1].bytes().all(|b| b.is_ascii_hexdigit()) {
            parts.remove(1);
        }
        words.push(parts.join("-").replace("ns/svc/", ""));
    }
    words.join(" ")
}

#[test]
fn a_cluster_ip_spreads_over_its_endpoints() {
    let spec = json!({"clusterIP": "10.43.0.7", "ports": [{"port": 80}]});
    assert_eq!(
        rules(spec.clone(), &[("10.42.0.2", "n1"), ("10.42.1.2", "n2")]),
        [
            "endpoint-tcp/__10.42.0.2/8080: ip saddr 10.42.0.2 jump mark-for-masquerade",
            "endpoint-tcp/__10.42.0.2/8080: meta l4proto tcp dnat to 10.42.0.2:8080",
            "endpoint-tcp/__10.42.1.2/8080: ip saddr 10.42.1.2 jump mark-for-masquerade",
            "endpoint-tcp/__10.42.1.2/8080: meta l4proto tcp dnat to 10.42.1.2:8080",
            "service-tcp/: ip daddr 10.43.0.7 ip saddr != { 10.42.0.0/16 } jump mark-for-masquerade",
            "service-tcp/: numgen random mod 2 vmap { 0 : goto endpoint-tcp/__10.42.0.2/8080, 1 : goto endpoint-tcp/__10.42.1.2/8080 }",
            "ClusterIps 10.43.0.7 ",
            "ServiceIps 10.43.0.7 . tcp . 80 goto service-tcp/",
        ]
    );
    assert_eq!(rules(spec, &[]), ["ClusterIps 10.43.0.7 ", "NoEndpointServices 10.43.0.7 . tcp . 80 goto reject-chain"]);
}

#[test]
fn load_balancers_are_told_of_local_endpoints() {
    let check = |spec: Value| {
        let service: Service =
            serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "svc"}, "spec": spec})).unwrap();
        let slice: EndpointSlice = serde_json::from_value(json!({
            "addressType": "IPv4", "ports": [{"name": "a", "port": 1}, {"name": "b", "port": 2}],
            "endpoints": [
                {"addresses": ["10.42.0.2"], "nodeName": "n1"}, {"addresses": ["10.42.0.3"], "nodeName": "n1", "conditions": {"ready": false}},
                {"addresses": ["10.42.1.2"], "nodeName": "n2"}
            ]
        }))
        .unwrap();
        fragment(&service, &[Arc::new(slice)], &Here { node: "n1".into(), zone: None }, &config()).check
    };
    let mut spec = json!({
        "type": "LoadBalancer", "clusterIP": "10.43.0.7", "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000,
        "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81}]
    });
    assert_eq!(check(spec.clone()), Some(HealthCheck { port: 31000, v4: 1, v6: 0 }));
    spec["externalTrafficPolicy"] = json!("Cluster");
    assert_eq!(check(spec), None);
}

#[test]
fn others_services_are_left_alone() {
    assert!(rules(json!({"clusterIP": "None", "ports": [{"port": 80}]}), &[("10.42.0.2", "n1")]).is_empty());
    assert!(rules(json!({"type": "ExternalName", "externalName": "x", "ports": [{"port": 80}]}), &[]).is_empty());
    let mut service = Service { spec: Some(Default::default()), ..Service::default() };
    service.spec.as_mut().unwrap().cluster_ip = Some("10.43.0.7".into());
    assert!(is_ours(&service));
    service.metadata.labels = Some([(PROXY_NAME.to_owned(), "dns".to_owned())].into());
    assert!(!is_ours(&service));
}

#[test]
fn affinity_goes_to_the_remembered_endpoint_first() {
    let spec = json!({
        "clusterIP": "10.43.0.7", "ports": [{"port": 53, "protocol": "UDP"}], "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 30}}
    });
    assert_eq!(
        rules(spec, &[("10.42.0.2", "n1")])[..5],
        [
            "endpoint-udp/__10.42.0.2/8080: ip saddr 10.42.0.2 jump mark-for-masquerade",
            "endpoint-udp/__10.42.0.2/8080: update @affinity-udp/__10.42.0.2/8080/30 { ip saddr }",
            "endpoint-udp/__10.42.0.2/8080: meta l4proto udp dnat to 10.42.0.2:8080",
            "service-udp/: ip daddr 10.43.0.7 ip saddr != { 10.42.0.0/16 } jump mark-for-masquerade",
            "service-udp/: ip saddr @affinity-udp/__10.42.0.2/8080/30 goto endpoint-udp/__10.42.0.2/8080",
        ]
    );
}

#[test]
fn outside_traffic_of_policy_cluster_is_masqueraded() {
    let spec = json!({
        "type": "LoadBalancer", "clusterIP": "10.43.0.7", "ports": [{"port": 80, "nodePort": 30080}],
        "externalIPs": ["1.2.3.4"], "loadBalancerSourceRanges": ["9.0.0.0/8", "9.1.0.0/16"],
        "testIngress": [{"ip": "5.6.7.8"}, {"ip": "5.6.7.9", "ipMode": "Proxy"}]
    });
    let lines = rules(spec.clone(), &[("10.42.0.2", "n1")]);
    assert_eq!(
        lines[2..],
        [
            "external-tcp/: jump mark-for-masquerade",
            "external-tcp/: goto service-tcp/",
            "firewall-tcp/: ip saddr != { 9.0.0.0/8 } drop",
            "service-tcp/: ip daddr 10.43.0.7 ip saddr != { 10.42.0.0/16 } jump mark-for-masquerade",
            "service-tcp/: goto endpoint-tcp/__10.42.0.2/8080",
            "ClusterIps 10.43.0.7 ",
            "ServiceIps 1.2.3.4 . tcp . 80 goto external-tcp/",
            "ServiceIps 10.43.0.7 . tcp . 80 goto service-tcp/",
            "ServiceIps 5.6.7.8 . tcp . 80 goto external-tcp/",
            "ServiceNodeports tcp . 30080 goto external-tcp/",
            "FirewallIps 5.6.7.8 . tcp . 80 goto firewall-tcp/",
        ]
    );
    let lines = rules(spec, &[]);
    assert!(lines.contains(&"NoEndpointNodeports tcp . 30080 goto reject-chain".to_owned()), "{lines:?}");
    assert!(lines.contains(&"NoEndpointServices 5.6.7.8 . tcp . 80 goto reject-chain".to_owned()), "{lines:?}");
}

#[test]
fn policy_local_keeps_to_this_node() {
    let spec = json!({
        "type": "NodePort", "clusterIP": "10.43.0.7", "ports": [{"port": 80, "nodePort": 30080}],
        "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local"
    });
    let lines = rules(spec.clone(), &[("10.42.0.2", "n1"), ("10.42.1.2", "n2")]);
    assert_eq!(
        lines[4..],
        [
            "external-tcp/: ip saddr 10.42.0.0/16 goto service-tcp/",
            "external-tcp/: fib saddr type local jump mark-for-masquerade",
            "external-tcp/: fib saddr type local goto service-tcp/",
            "external-tcp/: goto local-tcp/",
            "local-tcp/: ip daddr 10.43.0.7 ip saddr != { 10.42.0.0/16 } jump mark-for-masquerade",
            "local-tcp/: goto endpoint-tcp/__10.42.0.2/8080",
            "service-tcp/: ip daddr 10.43.0.7 ip saddr != { 10.42.0.0/16 } jump mark-for-masquerade",
            "service-tcp/: numgen random mod 2 vmap { 0 : goto endpoint-tcp/__10.42.0.2/8080, 1 : goto endpoint-tcp/__10.42.1.2/8080 }",
            "ClusterIps 10.43.0.7 ",
            "ServiceIps 10.43.0.7 . tcp . 80 goto local-tcp/",
            "ServiceNodeports tcp . 30080 goto external-tcp/",
        ]
    );
    // None here: dropped, so that clients try another node; but the node itself and pods still get through.
    let lines = rules(spec, &[("10.42.1.2", "n2")]);
    for line in [
        "NoEndpointServices 10.43.0.7 . tcp . 80 drop",
        "NoEndpointNodeports tcp . 30080 drop",
        "ServiceNodeports tcp . 30080 goto external-tcp/",
        "external-tcp/: fib saddr type local goto service-tcp/",
    ] {
        assert!(lines.contains(&line.to_owned()), "{line} not in {lines:?}");
    }
    assert!(!lines.iter().any(|l| l.contains("local-tcp/")));
}

#[test]
fn names_are_unique_and_fit_the_kernel() {
    let long = "x".repeat(63);
    let config = config();
    let port = |name: &str| Port {
        family: Family::V6,
        name: format!("{long}/{long}/tcp/{name}"),
        protocol: "tcp".into(),
        port: 80,
        node_port: None,
        cluster_ip: "fd00::1".parse().unwrap(),
        external_ips: vec![],
        load_balancer_ips: vec![],
        source_ranges: None,
        internal_local: false,
        external_local: false,
        affinity_seconds: None,
        config: &config,
    };
    let (a, b) = (port("a").chain("endpoint", "fd00::2/80"), port("b").chain("endpoint", "fd00::2/80"));
    assert_ne!(a, b);
    assert!(a.len() <= 127 && !a.contains(':'));
}
