//! Two nodes: an agent joins, gets pods, and pods of both nodes reach each other.

use std::time::Duration;

use pharos_tests::{Cluster, eventually, root, run};

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
    // Logs and exec reach through to the other node.
    let path = "jsonpath={.items[0].metadata.name}";
    let there =
        cluster.kubectl(&["get", "pods", "--field-selector=spec.nodeName=worker", "-l", "app=demo", "-o", path]).success();
    assert!(cluster.kubectl(&["logs", &there]).success().contains("listening"));
    assert!(cluster.kubectl(&["exec", &there, "--", "/pharos", "--version"]).success().starts_with("pharos "));
}
