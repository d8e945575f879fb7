//! Pods that a Docker Engine runs, through the kubelet.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use pharos_tests::{BUSYBOX, Cluster, eventually, run};

/// A Docker daemon of the test's own: no bridge, no firewall rules, everything below one folder.
struct Dockerd(Child);

impl Dockerd {
    fn start(folder: &Path) -> Self {
        let socket = folder.join("docker.sock");
        let log = std::fs::File::create(folder.join("log")).unwrap();
        let daemon = Command::new("dockerd")
            .args(["--bridge=none", "--iptables=false", "--ip6tables=false", "--exec-opt=native.cgroupdriver=cgroupfs"])
            .arg(format!("--host=unix://{}", socket.display()))
            .arg(format!("--data-root={}", folder.join("data").display()))
            .arg(format!("--exec-root={}", folder.join("exec").display()))
            .arg(format!("--pidfile={}", folder.join("pid").display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("dockerd is installed; scripts/deps test does it");
        let daemon = Self(daemon);
        eventually("dockerd answers", Duration::from_secs(60), || {
            UnixStream::connect(&socket).map_err(|_| std::fs::read_to_string(folder.join("log")).unwrap_or_default())
        });
        daemon
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        // Asked nicely, it takes its containers' processes and mounts along.
        let _ = run(Command::new("kill").arg(self.0.id().to_string()), "");
        let _ = self.0.wait();
    }
}

const WEB: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: page}
data: {index.html: "hello\n"}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      initContainers: [{name: init, image: IMAGE, command: [sh, -c, 'echo first > /shared/file'], volumeMounts: [{name: shared, mountPath: /shared}]}]
      containers:
        - name: web
          image: IMAGE
          command: [sh, -c, 'cat /shared/file; exec httpd -f -p 8080 -h /www']
          env: [{name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
          ports: [{name: http, containerPort: 8080}]
          readinessProbe: {httpGet: {path: /index.html, port: http}, periodSeconds: 1}
          livenessProbe: {exec: {command: [test, "!", -e, /tmp/ill]}, periodSeconds: 1, failureThreshold: 1}
          resources: {limits: {memory: 32Mi, cpu: 500m}}
          volumeMounts: [{name: page, mountPath: /www}, {name: shared, mountPath: /shared}]
      volumes: [{name: page, configMap: {name: page}}, {name: shared, emptyDir: {}}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}
"#;

#[test]
fn a_deployment_on_docker() {
    let folder = tempfile::Builder::new().prefix("pharos-docker-").tempdir().unwrap();
    let daemon = Dockerd::start(folder.path());
    let socket = folder.path().join("docker.sock").display().to_string();
    let mut cluster = Cluster::with(1, &["--runtime=docker", "--container-runtime-endpoint", &socket]);
    cluster.load_busybox(0);
    cluster.apply(&WEB.replace("IMAGE", BUSYBOX));
    let status = ["rollout", "status", "deployment/web", "--timeout=90s"];
    let _ = cluster.kubectl(&status).success();
    let node = cluster.get(&["node", "server"]);
    let version = node["status"]["nodeInfo"]["containerRuntimeVersion"].as_str().unwrap();
    assert!(version.starts_with("docker://"), "{version}");

    let pods = || -> Vec<String> {
        cluster.kubectl(&["get", "pods", "-l", "app=web", "-o", "name"]).success().lines().map(str::to_owned).collect()
    };
    let pod = pods().remove(0);
    let kubectl = |arguments: &[&str]| cluster.kubectl(arguments).success();
    assert_eq!(kubectl(&["logs", &pod, "-c", "web"]), "first\n");
    let both = cluster.kubectl(&["exec", &pod, "-c", "web", "--", "sh", "-c", "echo $POD; echo err >&2; exit 7"]);
    assert!(both.code == Some(7) && pod.ends_with(both.stdout.trim()) && both.stderr.starts_with("err\n"), "{both:?}");
    let sent = cluster.kubectl_of("1.37", &["exec", "-i", &pod, "-c", "web", "--", "wc", "-c"], &"x".repeat(100_000)).success();
    assert_eq!(sent.trim(), "100000");
    let address = kubectl(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"]);
    eventually("the Service answers", Duration::from_secs(30), || {
        let answer = run(cluster.command(0, "curl").args(["-sS", "-m", "5", &format!("http://{address}/index.html")]), "");
        if answer.stdout == "hello\n" { Ok(()) } else { Err(format!("{answer:?}")) }
    });
    let resolved = kubectl(&["exec", &pod, "-c", "web", "--", "nslookup", "-type=a", "web.default.svc.cluster.local"]);
    assert!(resolved.contains(&address), "{resolved}");

    // A probe that fails has the container started again.
    let _ = kubectl(&["exec", &pod, "-c", "web", "--", "touch", "/tmp/ill"]);
    eventually("the container was started again", Duration::from_secs(60), || {
        let path = "jsonpath={.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].ready}";
        let text = cluster.try_kubectl(&["get", &pod, "-o", path])?;
        if text == "1 true" { Ok(()) } else { Err(text) }
    });
    assert_eq!(kubectl(&["logs", &pod, "-c", "web", "--previous"]), "first\n");

    let _ = kubectl(&["delete", &pod, "--wait=true", "--timeout=60s"]);
    let _ = kubectl(&status);
    assert!(!pods().contains(&pod), "another took its place");

    // Containers go on while the server is away, and are its own again.
    let started = "jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[0].containerID}{\"\\n\"}{end}";
    let before = kubectl(&["get", "pods", "-l", "app=web", "-o", started]);
    cluster.stop(0);
    cluster.launch(0);
    eventually("the API answers again", Duration::from_secs(30), || cluster.try_kubectl(&["get", "--raw", "/readyz"]));
    let _ = cluster.kubectl(&["scale", "deployment/web", "--replicas=3"]).success();
    let _ = cluster.kubectl(&status).success();
    let after = cluster.kubectl(&["get", "pods", "-l", "app=web", "-o", started]).success();
    assert!(before.lines().all(|line| after.contains(line)), "before: {before}after: {after}");

    let _ = cluster.kubectl(&["delete", "deployment", "web", "--cascade=foreground", "--timeout=60s"]).success();
    let left = docker(&socket, &["ps", "--quiet"]);
    assert!(left.is_empty(), "containers are left: {left}");
    drop(cluster);
    drop(daemon);
}

fn docker(socket: &str, arguments: &[&str]) -> String {
    run(Command::new("docker").arg(format!("--host=unix://{socket}")).args(arguments), "").success()
}
