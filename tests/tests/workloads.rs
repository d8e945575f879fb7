//! Workloads on one node: what a new user does, with the image that the binary makes of itself.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use pharos_tests::{Cluster, Output, eventually, root, run};

fn demo() -> Cluster {
    let cluster = Cluster::start();
    cluster.load_demo(0);
    cluster.apply(&std::fs::read_to_string(root().join("scripts/demo/demo.yaml")).unwrap());
    let _ = cluster.kubectl(&["rollout", "status", "deployment/demo", "--timeout=90s"]).success();
    cluster
}

fn pods(cluster: &Cluster) -> Vec<String> {
    let path = "jsonpath={range .items[?(@.status.phase==\"Running\")]}{.metadata.name}{\"\\n\"}{end}";
    cluster.kubectl(&["get", "pods", "-l", "app=demo", "-o", path]).success().lines().map(str::to_owned).collect()
}

fn curl(cluster: &Cluster, url: &str) -> Output {
    run(cluster.command(0, "curl").args(["-sS", "-m", "5", url]), "")
}

#[test]
fn a_deployment_and_a_service() {
    let mut cluster = demo();
    let address = cluster.kubectl(&["get", "service", "demo", "-o", "jsonpath={.spec.clusterIP}"]).success();

    // The Service answers, from both pods in the end.
    let mut seen = std::collections::BTreeSet::new();
    eventually("both pods answer behind the Service", Duration::from_secs(30), || {
        let answer = curl(&cluster, &format!("http://{address}/"));
        if answer.ok() {
            seen.insert(answer.stdout);
        }
        if seen.len() == 2 { Ok(()) } else { Err(format!("{seen:?} {}", answer.stderr)) }
    });

    // Its name resolves, from the host and inside a pod.
    let dig = |name: &str| run(cluster.command(0, "dig").args(["@10.43.0.10", name, "+short", "+time=2", "+tries=2"]), "");
    assert_eq!(dig("demo.default.svc.cluster.local").success().trim(), address);
    assert_eq!(dig("kubernetes.default.svc.cluster.local").success().trim(), "10.43.0.1");
    let check = eventually("the demo's DNS check passes", Duration::from_secs(30), || {
        let answer = curl(&cluster, &format!("http://{address}/dns"));
        if answer.stdout.contains("address=10.43.0.1") { Ok(answer.stdout) } else { Err(answer.stdout) }
    });
    assert!(check.contains("kubernetes.default.svc"), "{check}");

    // Logs, exec, cp, port-forward.
    let pod = pods(&cluster).remove(0);
    assert!(cluster.kubectl(&["logs", &pod]).success().contains("msg=\"listening\""));
    let version = cluster.kubectl(&["exec", &pod, "--", "/pharos", "--version"]).success();
    assert!(version.starts_with("pharos "), "{version}");
    let refused = cluster.kubectl(&["exec", &pod, "--", "/pharos", "query"]);
    assert_eq!(refused.code, Some(2), "an exit code comes through: {refused:?}");
    let (there, back) = (cluster.folder().join("there"), cluster.folder().join("back"));
    std::fs::write(&there, "carried\n").unwrap();
    let _ = cluster.kubectl(&["cp", &there.display().to_string(), &format!("{pod}:/tmp/it")]).success();
    let _ = cluster.kubectl(&["cp", &format!("{pod}:/tmp/it"), &back.display().to_string()]).success();
    assert_eq!(std::fs::read_to_string(back).unwrap(), "carried\n");

    // A deleted pod is replaced, a killed container started again.
    let _ = cluster.kubectl(&["delete", "pod", &pod, "--wait=true"]).success();
    eventually("another pod took its place", Duration::from_secs(60), || {
        let now = pods(&cluster);
        if now.len() == 2 && !now.contains(&pod) { Ok(()) } else { Err(format!("{now:?}")) }
    });
    let pod = pods(&cluster).remove(0);
    kill_container(&cluster, &pod);
    eventually("the container was started again", Duration::from_secs(60), || {
        let path = "jsonpath={.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].ready}";
        let text = cluster.try_kubectl(&["get", "pod", &pod, "-o", path])?;
        if text == "1 true" { Ok(()) } else { Err(text) }
    });

    // The server dies, and the containers go on.
    let before = started(&cluster);
    cluster.kill(0);
    assert!(curl(&cluster, &format!("http://{address}/")).ok(), "the Service answers without the server");
    cluster.launch(0);
    eventually("the API answers again", Duration::from_secs(30), || cluster.try_kubectl(&["get", "--raw", "/readyz"]));
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(started(&cluster), before, "containers were not started again");

    // Rolling out, back and away.
    let _ = cluster.kubectl(&["set", "env", "deployment/demo", "COLOUR=green"]).success();
    let _ = cluster.kubectl(&["rollout", "status", "deployment/demo", "--timeout=90s"]).success();
    let _ = cluster.kubectl(&["rollout", "undo", "deployment/demo"]).success();
    let _ = cluster.kubectl(&["rollout", "status", "deployment/demo", "--timeout=90s"]).success();
    let _ = cluster.kubectl(&["scale", "deployment/demo", "--replicas=1"]).success();
    let _ = cluster.kubectl(&["wait", "deployment/demo", "--for=jsonpath={.status.replicas}=1", "--timeout=60s"]).success();
    let _ = cluster.kubectl(&["drain", "server", "--ignore-daemonsets", "--force", "--timeout=60s"]).success();
    let _ = cluster.kubectl(&["uncordon", "server"]).success();
    let _ = cluster.kubectl(&["delete", "deployment,service", "demo"]).success();
    eventually("its pods are gone", Duration::from_secs(60), || {
        let text = cluster.try_kubectl(&["get", "pods", "-o", "name"])?;
        if text.is_empty() { Ok(()) } else { Err(text) }
    });
}

/// When each container of the demo was started.
/// Half of a resource that the node does not have by nature, for a pod that matters little and one that matters.
const UNEQUAL: &str = r#"
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: low}
value: 1
---
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: high}
value: 1000
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: filler}
spec: {maxUnavailable: 0, selector: {matchLabels: {app: filler}}}
---
apiVersion: apps/v1
kind: ReplicaSet
metadata: {name: filler}
spec:
  replicas: 1
  selector: {matchLabels: {app: filler}}
  template:
    metadata: {labels: {app: filler}}
    spec:
      priorityClassName: low
      terminationGracePeriodSeconds: 1
      containers:
        - name: web
          image: "pharos.io/demo:latest"
          imagePullPolicy: IfNotPresent
          resources: {limits: {example.com/fakecpu: "600"}}
"#;

const IMPORTANT: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: important}
spec:
  priorityClassName: high
  containers:
    - name: web
      image: "pharos.io/demo:latest"
      imagePullPolicy: IfNotPresent
      resources: {limits: {example.com/fakecpu: "600"}}
"#;

#[test]
fn less_important_pods_make_room() {
    let cluster = Cluster::start();
    cluster.load_demo(0);
    let offer = |amount: &str| {
        let patch = format!(r#"{{"status":{{"capacity":{{"example.com/fakecpu":{amount}}}}}}}"#);
        let _ = cluster.kubectl(&["patch", "node", "server", "--subresource=status", "--type=merge", "-p", &patch]).success();
        let expected = amount.trim_matches('"').replace("null", "");
        eventually("what the node has is for pods", Duration::from_secs(30), || {
            let path = "jsonpath={.status.allocatable.example\\.com/fakecpu}";
            let text = cluster.try_kubectl(&["get", "node", "server", "-o", path])?;
            if text == expected { Ok(()) } else { Err(text) }
        });
    };
    offer("\"999\"");
    cluster.apply(UNEQUAL);
    let available = "--for=jsonpath={.status.availableReplicas}=1";
    let _ = cluster.kubectl(&["wait", "rs/filler", available, "--timeout=60s"]).success();
    // The budget is told, and does not save the pod where there is no other.
    let _ = cluster.kubectl(&["wait", "pdb/filler", "--for=jsonpath={.status.currentHealthy}=1", "--timeout=30s"]).success();
    let victim = cluster.get(&["pods", "-l", "app=filler"])["items"][0]["metadata"]["name"].as_str().unwrap().to_owned();
    cluster.apply(IMPORTANT);
    let _ = cluster.kubectl(&["wait", "pod/important", "--for=condition=Ready", "--timeout=60s"]).success();
    let important = cluster.get(&["pod", "important"]);
    assert!(important["status"]["nominatedNodeName"].is_null(), "it is there: {important}");
    eventually("the victim is told why", Duration::from_secs(10), || {
        let path = "jsonpath={.items[*].message}";
        let selector = format!("reason=Preempted,involvedObject.name={victim}");
        let text = cluster.try_kubectl(&["get", "events", "--field-selector", &selector, "-o", path])?;
        let expected = format!("Preempted by pod {} on node server", important["metadata"]["uid"].as_str().unwrap());
        if text == expected { Ok(()) } else { Err(text) }
    });
    // The pod in its place waits: it may not take anybody's.
    eventually("the pod in its place is told why it waits", Duration::from_secs(30), || {
        let path = "jsonpath={range .items[*]}{.metadata.name} {.status.conditions[?(@.type==\"PodScheduled\")].message}{end}";
        let text = cluster.try_kubectl(&["get", "pods", "-l", "app=filler", "-o", path])?;
        let expected = "0/1 nodes are available: 1 Insufficient example.com/fakecpu. no new claims to deallocate, preemption: \
            0/1 nodes are available: 1 No preemption victims found for incoming pod.";
        match text.split_once(' ') {
            Some((name, message)) if name != victim && message == expected => Ok(()),
            _ => Err(text),
        }
    });
    offer("null");
}

fn started(cluster: &Cluster) -> String {
    let path = "jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[0].state.running.startedAt} {.status.containerStatuses[0].restartCount}{\"\\n\"}{end}";
    cluster.kubectl(&["get", "pods", "-l", "app=demo", "-o", path]).success()
}

/// Kills the first process of a pod's container from outside.
fn kill_container(cluster: &Cluster, pod: &str) {
    let uid = cluster.kubectl(&["get", "pod", pod, "-o", "jsonpath={.metadata.uid}"]).success();
    let output = run(std::process::Command::new("pgrep").args(["-f", "^/pharos demo"]), "").success();
    for pid in output.lines() {
        if std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default().contains(&uid) {
            let _ = run(std::process::Command::new("kill").args(["-9", pid]), "").success();
            return;
        }
    }
    panic!("no process of pod {pod} with UID {uid}");
}
