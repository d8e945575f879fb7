//! What kubectl does to workloads and nodes, old and new: roll out, edit, scale, wait, describe, drain.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{os::unix::fs::PermissionsExt as _, time::Duration};

use pharos_tests::{BUSYBOX, Cluster, Output, Session, eventually, run};

const VERSIONS: [&str; 2] = ["1.32", "1.37"];

const WEB: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: page}
data: {index.html: "hello\n"}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
        - name: web
          image: IMAGE
          command: [httpd, -f, -p, "8080", -h, /www]
          ports: [{name: http, containerPort: 8080}]
          readinessProbe: {httpGet: {path: /index.html, port: http}, periodSeconds: 1}
          resources: {requests: {cpu: 1m, memory: 4Mi}}
          volumeMounts: [{name: page, mountPath: /www}]
      volumes: [{name: page, configMap: {name: page}}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}
"#;

/// A cluster, a namespace in it and a version of kubectl.
struct Client<'a> {
    cluster: &'a Cluster,
    version: &'a str,
    namespace: String,
}

impl<'a> Client<'a> {
    fn new(cluster: &'a Cluster, version: &'a str) -> Self {
        let client = Self { cluster, version, namespace: format!("with-{}", version.replace('.', "-")) };
        let _ = client.run(&["create", "namespace", &client.namespace]).success();
        client
    }

    /// Applies [`WEB`] and waits until it runs.
    fn run_web(&self) {
        self.apply(WEB);
        let status = self.ok(&["rollout", "status", "deployment/web", "--timeout=60s"]);
        assert!(status.contains("successfully rolled out"), "{status}");
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.cluster.kubectl_of(self.version, &[&["-n", &self.namespace], arguments].concat(), "")
    }

    /// Standard output, if it succeeded.
    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.ok(), "{} {arguments:?}: {output:?}", self.version);
        output.stdout
    }

    /// Checks that each command succeeds and says something.
    fn say(&self, cases: &[(&[&str], &str)]) {
        for (arguments, part) in cases {
            let text = self.ok(arguments);
            assert!(text.contains(part), "{} {arguments:?} does not say {part:?}: {text}", self.version);
        }
    }

    /// Checks that each command fails and says why.
    fn refuse(&self, cases: &[(&[&str], &str)]) {
        for (arguments, part) in cases {
            let output = self.run(arguments);
            let said = !output.ok() && output.stderr.contains(part);
            assert!(said, "{} {arguments:?} does not fail with {part:?}: {output:?}", self.version);
        }
    }

    fn apply(&self, manifests: &str) -> String {
        let arguments = ["-n", &self.namespace, "apply", "-f", "-"];
        self.cluster.kubectl_of(self.version, &arguments, &manifests.replace("IMAGE", BUSYBOX)).success()
    }

    fn pods(&self) -> Vec<String> {
        self.ok(&["get", "pods", "-l", "app=web", "-o", "name"]).lines().map(str::to_owned).collect()
    }
}

#[test]
fn rollouts_and_edits() {
    let cluster = Cluster::start();
    cluster.load_busybox(0);
    for version in VERSIONS {
        let client = Client::new(&cluster, version);
        client.run_web();
        rollout(&client);
        edit(&client);
        wait(&client);
        let _ = client.ok(&["delete", "namespace", &client.namespace, "--wait=true", "--timeout=60s"]);
    }
}

fn rollout(client: &Client<'_>) {
    let status = ["rollout", "status", "deployment/web", "--timeout=60s"];
    let _ = client.ok(&["annotate", "deployment/web", "kubernetes.io/change-cause=first"]);
    let _ = client.ok(&["set", "env", "deployment/web", "COLOUR=green"]);
    let _ = client.ok(&["annotate", "deployment/web", "kubernetes.io/change-cause=green", "--overwrite"]);
    let _ = client.ok(&status);
    client.say(&[
        (&["rollout", "history", "deployment/web"], "2         green"),
        (&["rollout", "history", "deployment/web", "--revision=2"], "COLOUR:\tgreen"),
        (&["set", "env", "deployment/web", "--list"], "COLOUR=green"),
        (&["rollout", "undo", "deployment/web"], "rolled back"),
        (&status, "successfully rolled out"),
        (&["rollout", "history", "deployment/web"], "3         first"),
        (&["rollout", "undo", "deployment/web", "--to-revision=2"], "rolled back"),
        (&status, "successfully rolled out"),
        (&["rollout", "pause", "deployment/web"], "paused"),
        (&["set", "env", "deployment/web", "COLOUR=blue"], "env updated"),
        (&["get", "deployment", "web", "-o", "jsonpath={.spec.paused}"], "true"),
        (&["rollout", "resume", "deployment/web"], "resumed"),
        (&status, "successfully rolled out"),
        (&["rollout", "restart", "deployment/web"], "restarted"),
        (&status, "successfully rolled out"),
        (&["scale", "deployment/web", "--replicas=3", "--current-replicas=2"], "scaled"),
        (&status, "successfully rolled out"),
    ]);
    assert_eq!(client.ok(&["get", "deployment", "web", "-o", "jsonpath={.status.readyReplicas}"]), "3");
    client.refuse(&[
        (&["scale", "deployment/web", "--replicas=1", "--current-replicas=7"], "Expected replicas to be 7, was 3"),
        (&["rollout", "undo", "deployment/web", "--to-revision=99"], "unable to find specified revision 99"),
        (&["rollout", "status", "deployment/none"], "deployments.apps \"none\" not found"),
    ]);
    // One that cannot be rolled out says so, and goes back.
    let _ = client.ok(&["set", "image", "deployment/web", "web=none.invalid/none:1"]);
    client.refuse(&[(&["rollout", "status", "deployment/web", "--timeout=1s"], "timed out waiting for the condition")]);
    let _ = client.ok(&["rollout", "undo", "deployment/web"]);
    let _ = client.ok(&status);
}

fn edit(client: &Client<'_>) {
    let editor = client.cluster.folder().join(format!("edit-{}", client.version));
    let edit = |script: &str, arguments: &[&str]| {
        std::fs::write(&editor, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&editor, std::fs::Permissions::from_mode(0o755)).unwrap();
        let arguments = [&["-n", client.namespace.as_str(), "edit"], arguments].concat();
        let mut command = client.cluster.kubectl_command(client.version, &arguments);
        run(command.env("EDITOR", &editor), "")
    };
    let edited = edit("sed -i 's/^  replicas: .*/  replicas: 1/' \"$1\"", &["deployment", "web"]).success();
    assert!(edited.contains("deployment.apps/web edited"), "{edited}");
    assert_eq!(client.ok(&["get", "deployment", "web", "-o", "jsonpath={.spec.replicas}"]), "1");
    let same = edit("exit 0", &["deployment", "web"]);
    assert!(same.stderr.contains("Edit cancelled, no changes made"), "{same:?}");
    // What is invalid is shown in the file again; leaving it so ends the edit.
    let invalid = edit("sed -i 's/^  replicas: .*/  replicas: -1/' \"$1\"", &["deployment", "web"]);
    assert!(!invalid.ok() && invalid.stderr.contains("deployments.apps \"web\" is invalid"), "{invalid:?}");
    let _ = client.ok(&["patch", "deployment", "web", "--subresource=scale", "--type=merge", "-p", r#"{"spec":{"replicas":2}}"#]);
    let _ = client.ok(&["rollout", "status", "deployment/web", "--timeout=60s"]);
}

fn wait(client: &Client<'_>) {
    client.say(&[
        (&["wait", "deployment/web", "--for=condition=Available", "--timeout=30s"], "condition met"),
        (&["wait", "deployment/web", "--for=jsonpath={.status.readyReplicas}=2", "--timeout=30s"], "condition met"),
    ]);
    client.refuse(&[
        (&["wait", "deployment/web", "--for=condition=No", "--timeout=1s"], "timed out waiting"),
        (&["wait", "pod/none", "--for=condition=Ready", "--timeout=1s"], "\"none\" not found"),
    ]);
    // A deletion is seen by who waits for it, and the list as a watch shows it go.
    let pod = client.pods().remove(0);
    let namespace = client.namespace.as_str();
    let start = |arguments: &[&str]| {
        Session::start(&mut client.cluster.kubectl_command(client.version, &[&["-n", namespace], arguments].concat()))
    };
    let mut watch = start(&["get", "pods", "-w", "-l", "app=web", "--output-watch-events"]);
    watch.expect("ADDED");
    let waiting = start(&["wait", &pod, "--for=delete", "--timeout=60s"]);
    let _ = client.ok(&["delete", &pod, "--wait=true"]);
    watch.expect("DELETED");
    let (code, said) = waiting.end();
    assert!(code == Some(0) || said.contains("not found"), "{code:?} {said}");
    eventually("another took its place", Duration::from_secs(30), || {
        let now = client.pods();
        if now.len() == 2 && !now.contains(&pod) { Ok(()) } else { Err(format!("{now:?}")) }
    });
    // Children that are orphaned stay, and are taken on again.
    let _ = client.ok(&["delete", "deployment", "web", "--cascade=orphan"]);
    let before = client.pods();
    assert_eq!(before.len(), 2);
    client.run_web();
    let _ = client.ok(&["delete", "deployment", "web", "--cascade=foreground", "--timeout=60s"]);
    assert!(client.pods().is_empty(), "in the foreground the pods go first");
}

#[test]
fn reading_and_making() {
    let cluster = Cluster::start();
    cluster.load_busybox(0);
    for version in VERSIONS {
        let client = Client::new(&cluster, version);
        client.run_web();
        read(&client);
        // What these commands make, they make in the client, and alike.
        if version == VERSIONS[1] {
            make(&client);
        }
        let _ = client.ok(&["delete", "namespace", &client.namespace, "--wait=true", "--timeout=60s"]);
    }
}

fn read(client: &Client<'_>) {
    let pod = client.pods().remove(0);
    client.say(&[
        (&["get", "deployment", "web"], "2/2     2            2"),
        (&["get", "pods", "-o", "wide"], "10.42.0."),
        (&["get", "pods", "--show-labels"], "app=web,pod-template-hash="),
        (&["get", "pods", "--sort-by=.metadata.name", "-o", "custom-columns=N:.metadata.name,P:.status.phase"], "Running"),
        (&["get", "deployment", "web", "-o", "go-template={{.metadata.name}}"], "web"),
        (&["get", "svc,cm,deploy,rs,po", "-o", "name"], "deployment.apps/web"),
        (&["get", "endpointslices", "-l", "kubernetes.io/service-name=web"], "8080"),
        (&["get", "deployment", "web", "-o", "yaml", "--show-managed-fields"], "manager: kubectl-client-side-apply"),
        (&["get", "pods", "--field-selector=status.phase=Running", "-o", "name"], "pod/web-"),
        (&["describe", &pod], "Successfully assigned"),
        (&["describe", &pod], "Readiness:"),
        (&["describe", "deployment", "web"], "ScalingReplicaSet"),
        (&["describe", "service", "web"], ":8080"),
        (&["describe", "configmap", "page"], "hello"),
        (&["describe", "node", "server"], "Allocated resources:"),
        (&["describe", "namespace", &client.namespace], "Active"),
        (&["events", "--for", &pod], "Started"),
        (&["events", "--types=Normal"], "Scheduled"),
        (&["get", "events", "--field-selector=reason=Scheduled"], "Successfully assigned"),
        (&["explain", "deployment.spec.strategy.rollingUpdate.maxSurge"], "IntOrString"),
        (&["explain", "pod", "--recursive"], "topologySpreadConstraints"),
        (&["explain", "cronjob", "--api-version=batch/v1"], "VERSION:    v1"),
        (&["api-resources", "--namespaced=true", "--verbs=list,get"], "deployments"),
        (&["api-resources", "--api-group=apps", "-o", "name"], "statefulsets.apps"),
        (&["api-versions"], "networking.k8s.io/v1"),
        (&["auth", "can-i", "--list"], "[*]"),
        (
            &["auth", "can-i", "--list", "--as=nobody", "--as-group=system:authenticated"],
            "selfsubjectaccessreviews.authorization.k8s.io",
        ),
        (&["auth", "can-i", "get", "pods", "--subresource=log"], "yes"),
        (&["cluster-info"], "Kubernetes control plane"),
        (&["version"], "Server Version: v1.37"),
        (&["create", "token", "default", "--duration=1h", "--audience=me"], "ey"),
    ]);
    client.refuse(&[
        (&["get", "nothings"], "the server doesn't have a resource type \"nothings\""),
        (&["explain", "pod.spec.nothing"], "field \"nothing\" does not exist"),
        (&["create", "token", "none"], "serviceaccounts \"none\" not found"),
        (&["get", "pods", "--field-selector=spec.none=1"], "field label not supported"),
        (&["describe", "pod", "none"], "pods \"none\" not found"),
    ]);
    eventually("top shows the node and its pods", Duration::from_secs(60), || {
        let output = client.run(&["top", "node"]);
        let pods = client.run(&["top", "pod", "--containers"]);
        let both = output.stdout.contains("server") && pods.stdout.matches("web-").count() >= 2;
        if both { Ok(()) } else { Err(format!("{output:?} {pods:?}")) }
    });
}

fn make(client: &Client<'_>) {
    let image = format!("--image={BUSYBOX}");
    client.say(&[
        (&["create", "deployment", "d", &image, "--replicas=1", "--port=8080", "--", "sleep", "1000"], "created"),
        (&["expose", "deployment", "d", "--port=80", "--target-port=8080", "--type=NodePort"], "exposed"),
        (&["autoscale", "deployment", "d", "--min=1", "--max=2", "--cpu-percent=80"], "autoscaled"),
        (&["create", "job", "j", &image, "--", "echo", "done"], "created"),
        (&["create", "cronjob", "c", &image, "--schedule=0 0 1 1 *", "--", "echo", "done"], "created"),
        (&["create", "job", "from-c", "--from=cronjob/c"], "created"),
        (&["create", "configmap", "m", "--from-literal=a=b"], "created"),
        (&["create", "secret", "generic", "s", "--from-literal=a=b"], "created"),
        (
            &["create", "secret", "docker-registry", "r", "--docker-server=x", "--docker-username=u", "--docker-password=p"],
            "created",
        ),
        (&["create", "serviceaccount", "a"], "created"),
        (&["create", "role", "r", "--verb=get", "--resource=pods", "--resource-name=x"], "created"),
        (&["create", "rolebinding", "b", "--role=r", "--serviceaccount=x:a"], "created"),
        (&["create", "quota", "q", "--hard=pods=10"], "created"),
        (&["create", "poddisruptionbudget", "p", "--selector=app=d", "--min-available=1"], "created"),
        (&["create", "ingress", "i", "--rule=example.com/*=web:80"], "created"),
        (&["create", "service", "externalname", "e", "--external-name=example.com"], "created"),
        (&["set", "resources", "deployment/d", "--limits=cpu=100m,memory=32Mi"], "updated"),
        (&["set", "serviceaccount", "deployment/d", "a"], "updated"),
        (&["label", "deployment/d", "x=y"], "labeled"),
        (&["patch", "deployment/d", "--type=json", "-p", r#"[{"op":"add","path":"/metadata/labels/z","value":"1"}]"#], "patched"),
        (&["patch", "deployment/d", "--type=merge", "-p", r#"{"metadata":{"labels":{"z":null}}}"#], "patched"),
        (&["rollout", "status", "deployment/d", "--timeout=60s"], "successfully rolled out"),
        (&["wait", "job/j", "job/from-c", "--for=condition=Complete", "--timeout=60s"], "condition met"),
        (&["logs", "job/j"], "done"),
        (&["get", "quota", "q"], "pods: "),
        (&["describe", "quota", "q"], "pods"),
        (&["describe", "ingress", "i"], "example.com"),
        (&["describe", "cronjob", "c"], "0 0 1 1 *"),
        (&["describe", "job", "j"], "1 Succeeded"),
        (&["describe", "hpa", "d"], "Deployment/d"),
        (&["describe", "secret", "s"], "1 bytes"),
    ]);
    // An attached run: what it says and its exit code come back, and the pod is gone.
    let script =
        ["run", "once", &image, "--rm", "-i", "--quiet", "--restart=Never", "--", "sh", "-c", "read x; echo got $x; exit 4"];
    let arguments = [&["-n", &client.namespace], &script[..]].concat();
    let attached = client.cluster.kubectl_of(client.version, &arguments, "this\n");
    assert!(attached.code == Some(4) && attached.stdout.contains("got this"), "{attached:?}");
    client.refuse(&[(&["get", "pod", "once"], "not found")]);
}

#[test]
fn nodes_are_cordoned_and_drained() {
    let cluster = Cluster::start();
    cluster.load_busybox(0);
    for version in VERSIONS {
        let client = Client::new(&cluster, version);
        client.run_web();
        client.say(&[(&["drain", "server", "--dry-run=server"], "drained (server dry run)")]);
        let _ = client.ok(&["create", "poddisruptionbudget", "web", "--selector=app=web", "--min-available=2"]);
        client.say(&[(&["cordon", "server"], "cordoned"), (&["get", "node", "server"], "SchedulingDisabled")]);
        let _ = client.ok(&["scale", "deployment/web", "--replicas=3"]);
        eventually("the third pod is told that no node takes it", Duration::from_secs(30), || {
            let text = client.ok(&["events", "--types=Warning"]);
            if text.contains("1 node(s) were unschedulable") { Ok(()) } else { Err(text) }
        });
        // The budget holds what is wanted, and is overcome by letting it go.
        eventually("the budget counts", Duration::from_secs(30), || {
            let text = client.ok(&["get", "pdb", "web", "-o", "jsonpath={.status.currentHealthy}"]);
            if text == "2" { Ok(()) } else { Err(text) }
        });
        client.refuse(&[(
            &["drain", "server", "--timeout=2s"],
            "Cannot evict pod as it would violate the pod's disruption budget",
        )]);
        client.say(&[
            (&["delete", "pdb", "web"], "deleted"),
            (&["drain", "server", "--timeout=60s"], "drained"),
            (&["uncordon", "server"], "uncordoned"),
            (&["rollout", "status", "deployment/web", "--timeout=60s"], "successfully rolled out"),
            (&["taint", "node", "server", "colour=blue:NoExecute"], "tainted"),
        ]);
        eventually("the taint evicts them", Duration::from_secs(30), || {
            let text = client.ok(&["get", "pods", "-o", "jsonpath={.items[*].status.phase}"]);
            if text == "Pending Pending Pending" { Ok(()) } else { Err(text) }
        });
        client.say(&[
            (&["taint", "node", "server", "colour-"], "untainted"),
            (&["rollout", "status", "deployment/web", "--timeout=60s"], "successfully rolled out"),
            (&["delete", "namespace", &client.namespace, "--timeout=60s"], "deleted"),
        ]);
    }
}
