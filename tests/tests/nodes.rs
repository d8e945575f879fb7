//! Two nodes: an agent joins, gets pods, and pods of both nodes reach each other.

use std::time::Duration;

use pharos_tests::{Cluster, eventually, root, run};

/// A pod on the agent, whatever the scheduler thinks.
const ON_WORKER: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: on-worker}
spec:
  nodeName: worker
  containers: [{name: web, image: "pharos.io/demo:latest", imagePullPolicy: IfNotPresent}]
"#;

#[test]
fn an_agent_joins_and_its_pods_are_reached() {
    let mut cluster = Cluster::with(2, &[]);
    cluster.join("worker");
    cluster.load_demo(0);
    cluster.load_demo(1);
    let manifest = std::fs::read_to_string(root().join("scripts/demo/demo.yaml")).unwrap();
    cluster.apply(&manifest);
    let _ = cluster.kubectl(&["rollout", "status", "deployment/demo", "--timeout=90s"]).success();
    let path = "jsonpath={range .items[*]}{.spec.nodeName} {.status.podIP}{\"\\n\"}{end}";
    let placed = cluster.kubectl(&["get", "pods", "-l", "app=demo", "-o", path]).success();
    assert!(placed.contains("server ") && placed.contains("worker "), "a pod on each node: {placed}");

    for line in placed.lines() {
        let ip = line.split(' ').nth(1).unwrap();
        for node in [0, 1] {
            eventually(&format!("pod {ip} answers machine {node}"), Duration::from_secs(30), || {
                let answer = run(cluster.command(node, "curl").args(["-sS", "-m", "3", &format!("http://{ip}:8080/")]), "");
                if answer.ok() { Ok(()) } else { Err(answer.stderr) }
            });
        }
    }
    // What an agent's own components measure is on the server, as the server's own is.
    for query in [
        "coredns_dns_requests_total{job=\"coredns\",instance=\"worker\"}",
        "kubeproxy_sync_proxy_rules_duration_seconds_count{job=\"kube-proxy\",instance=\"worker\"}",
        "process_resident_memory_bytes{job=\"pharos\",instance=\"worker\"}",
        "node_memory_MemTotal_bytes{job=\"node-exporter\",instance=\"worker\"}",
    ] {
        eventually(query, Duration::from_secs(60), || {
            let answer = cluster.observe("prometheus", "query", &[("query", query)])?;
            if answer["data"]["result"][0]["value"].is_array() { Ok(()) } else { Err(answer.to_string()) }
        });
    }
    let down = cluster.observe("prometheus", "query", &[("query", "up{instance=\"worker\"} == 0")]).unwrap();
    assert_eq!(down["data"]["result"], serde_json::json!([]));

    // So is what its containers and components log; soon, and once.
    let lines = |query: &str| -> Result<Vec<String>, String> {
        let answer = cluster.observe("loki", "query_range", &[("query", query)])?;
        let streams = answer["data"]["result"].as_array().ok_or_else(|| answer.to_string())?;
        let values = streams.iter().flat_map(|stream| stream["values"].as_array().into_iter().flatten());
        Ok(values.map(|value| value[1].as_str().unwrap_or_default().to_owned()).collect())
    };
    for query in
        ["{namespace=\"default\",app=\"demo\",node=\"worker\"} |= \"listening\"", "{component=\"kubelet\",node=\"worker\"}"]
    {
        eventually(query, Duration::from_secs(30), || match lines(query)? {
            lines if lines.is_empty() => Err("nothing is found".to_owned()),
            _ => Ok(()),
        });
    }
    cluster.apply(ON_WORKER);
    let _ = cluster.kubectl(&["wait", "--for=condition=Ready", "pod/on-worker", "--timeout=60s"]).success();
    let ip = cluster.kubectl(&["get", "pod", "on-worker", "-o", "jsonpath={.status.podIP}"]).success();
    let _ = run(cluster.command(0, "curl").args(["-sS", "-m", "3", &format!("http://{ip}:8080/needle")]), "").success();
    eventually("a line of a pod on the agent", Duration::from_secs(3), || {
        match lines("{pod=\"on-worker\"} |= \"/needle\"")?.len() {
            1 => Ok(()),
            count => Err(format!("{count} lines")),
        }
    });

    // A node's certificate opens the push of its own lines, and nothing else of what is observed.
    let status = |arguments: &[&str]| {
        let tls = cluster.data(1).join("agent/tls");
        let url = format!("https://{}:6443/observe/{}", cluster.address(0), arguments[0]);
        let mut curl = cluster.command(1, "curl");
        curl.args(["-sS", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}", "--cacert"]).arg(tls.join("ca.crt"));
        curl.arg("--cert").arg(tls.join("client.pem")).arg("--key").arg(tls.join("client.pem"));
        run(curl.args(["-H", "content-type: application/json", &url]).args(&arguments[1..]), "").success()
    };
    let body = |node: &str| format!(r#"{{"streams":[{{"stream":{{"node":"{node}"}},"values":[["1","x"]]}}]}}"#);
    assert_eq!(status(&["loki/loki/api/v1/push", "-d", &body("worker")]), "204");
    assert_eq!(status(&["loki/loki/api/v1/push", "-d", &body("server")]), "403");
    assert_eq!(status(&["loki/loki/api/v1/labels"]), "403");
    assert_eq!(status(&["prometheus/api/v1/query?query=up"]), "403");

    // Logs and exec reach through to the other node.
    let path = "jsonpath={.items[0].metadata.name}";
    let there =
        cluster.kubectl(&["get", "pods", "--field-selector=spec.nodeName=worker", "-l", "app=demo", "-o", path]).success();
    assert!(cluster.kubectl(&["logs", &there]).success().contains("listening"));
    assert!(cluster.kubectl(&["exec", &there, "--", "/pharos", "--version"]).success().starts_with("pharos "));
}
