//! Metrics and logs of everything, by the calls that Grafana makes.

use std::time::Duration;

use pharos_tests::{Cluster, eventually, root};
use serde_json::Value;

/// The components that must be seen.
const JOBS: [&str; 5] = ["apiserver", "kube-scheduler", "kube-controller-manager", "kubelet", "coredns"];

fn get(cluster: &Cluster, path: &str) -> Result<Value, String> {
    let text = cluster.try_kubectl(&["get", "--raw", path])?;
    serde_json::from_str(&text).map_err(|e| format!("{e}: {text}"))
}

#[test]
fn grafanas_own_calls_get_data() {
    let cluster = Cluster::start();
    cluster.load_demo(0);
    cluster.apply(&std::fs::read_to_string(root().join("scripts/demo/demo.yaml")).unwrap());
    let _ = cluster.kubectl(&["rollout", "status", "deployment/demo", "--timeout=90s"]).success();

    // Prometheus: the health check, then a series of each component, then the demo's own metric.
    let health = get(&cluster, "/observe/prometheus/api/v1/query?query=1%2B1").unwrap();
    assert_eq!(health["data"]["result"][1], "2", "{health}");
    for job in JOBS {
        eventually(&format!("metrics of {job}"), Duration::from_secs(60), || {
            let answer = get(&cluster, &format!("/observe/prometheus/api/v1/query?query=up%7Bjob%3D%22{job}%22%7D"))?;
            if answer["data"]["result"][0]["value"][1] == "1" { Ok(()) } else { Err(answer.to_string()) }
        });
    }
    eventually("the demo's metric", Duration::from_secs(90), || {
        let answer = get(&cluster, "/observe/prometheus/api/v1/query?query=sum(demo_dns_checks_total)")?;
        if answer["data"]["result"].as_array().is_some_and(|r| !r.is_empty()) { Ok(()) } else { Err(answer.to_string()) }
    });
    for path in ["labels", "label/job/values", "metadata", "targets", "status/buildinfo"] {
        let answer = get(&cluster, &format!("/observe/prometheus/api/v1/{path}")).unwrap();
        assert_eq!(answer["status"], "success", "{path}: {answer}");
    }

    // Loki: the health check, then lines of components, containers and events.
    let loki = "/observe/loki/loki/api/v1";
    let health = get(&cluster, &format!("{loki}/query?query=vector(1)%2Bvector(1)")).unwrap();
    assert_eq!(health["data"]["result"][0]["value"][1], "2", "{health}");
    for selector in [
        "{component=\"apiserver\"}",
        "{namespace=\"default\",container=\"web\"}",
        "{job=\"kubernetes-events\"}",
        "{job=\"audit\"}",
    ] {
        eventually(&format!("log lines of {selector}"), Duration::from_secs(30), || {
            let encoded =
                selector.replace('{', "%7B").replace('}', "%7D").replace('"', "%22").replace('=', "%3D").replace(',', "%2C");
            let answer = get(&cluster, &format!("{loki}/query_range?query={encoded}"))?;
            if answer["data"]["result"].as_array().is_some_and(|r| !r.is_empty()) { Ok(()) } else { Err(answer.to_string()) }
        });
    }

    // The command line asks the same.
    assert!(cluster.pharos(&["query", "count(up)"]).trim().ends_with(char::is_numeric));
    assert!(cluster.pharos(&["logs", "{namespace=\"default\"}"]).contains("listening"));

    // What is not there is not removed.
    let removal = cluster.try_image(&["rm", "nosuch"]);
    assert_eq!((removal.code, removal.stderr.trim()), (Some(1), "nosuch: no such image"));

    // kubectl top.
    eventually("kubectl top", Duration::from_secs(90), || {
        let nodes = cluster.try_kubectl(&["top", "nodes"])?;
        let pods = cluster.try_kubectl(&["top", "pods"])?;
        if nodes.contains("server") && pods.contains("demo-") { Ok(()) } else { Err(format!("{nodes}{pods}")) }
    });

    // Nobody else may ask.
    let refused = cluster.kubectl(&["get", "--raw", "/observe/prometheus/api/v1/query?query=up", "--as=nobody"]);
    assert!(!refused.ok() && refused.stderr.contains("Forbidden"), "{refused:?}");
}
