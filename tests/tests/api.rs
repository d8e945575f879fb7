//! The API as kubectl sees it, old and new, on a control plane without a node.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use pharos_tests::{Cluster, run};
use serde_json::{Value, json};

fn control_plane() -> Cluster {
    Cluster::with(1, &["--disable=agent"])
}

const OBJECTS: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, labels: {tier: test}}
data: {colour: blue}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: example.com/web, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
"#;

#[test]
fn kubectl_old_and_new() {
    let cluster = control_plane();
    for version in ["1.32", "1.37"] {
        let kubectl = |arguments: &[&str]| cluster.kubectl_of(version, arguments, "").success();
        let applied = cluster.kubectl_of(version, &["apply", "-f", "-"], OBJECTS).success();
        assert_eq!(applied.matches(" created").count(), 3, "{version}: {applied}");
        let again = cluster.kubectl_of(version, &["apply", "-f", "-"], OBJECTS).success();
        assert_eq!(again.matches(" unchanged").count(), 3, "{version}: {again}");
        let changed = OBJECTS.replace("blue", "green");
        let diff = cluster.kubectl_of(version, &["diff", "-f", "-"], &changed);
        assert!(diff.code == Some(1) && diff.stdout.contains("+  colour: green"), "{version}: {diff:?}");
        let served = cluster.kubectl_of(version, &["apply", "--server-side", "--force-conflicts", "-f", "-"], &changed).success();
        assert_eq!(served.matches("serverside-applied").count(), 3, "{version}: {served}");

        kubectl(&["scale", "deployment/web", "--replicas=5"]);
        kubectl(&["set", "image", "deployment/web", "c=example.com/web:2"]);
        kubectl(&["label", "configmap", "settings", "a=b"]);
        kubectl(&["annotate", "configmap", "settings", "c=d"]);
        kubectl(&["patch", "service", "web", "-p", r#"{"spec":{"type":"NodePort"}}"#]);
        let deployment = cluster.get(&["deployment", "web"]);
        assert_eq!(deployment["spec"]["replicas"], 5);
        assert_eq!(deployment["spec"]["template"]["spec"]["containers"][0]["image"], "example.com/web:2");
        let service = cluster.get(&["service", "web"]);
        assert!(service["spec"]["ports"][0]["nodePort"].as_u64().is_some_and(|p| (30000..32768).contains(&p)), "{service}");
        let settings = cluster.get(&["configmap", "settings"]);
        assert_eq!(settings["metadata"]["labels"], json!({"tier": "test", "a": "b"}));

        assert!(kubectl(&["describe", "deployment", "web"]).contains("example.com/web:2"));
        assert!(kubectl(&["explain", "pod.spec.containers.image"]).contains("FIELD: image <string>"));
        assert!(kubectl(&["api-resources"]).contains("networkpolicies"));
        assert!(kubectl(&["get", "all", "-A"]).contains("service/kubernetes"));
        assert_eq!(kubectl(&["auth", "can-i", "create", "pods"]).trim(), "yes");
        let refused = cluster.kubectl_of(version, &["auth", "can-i", "list", "secrets", "--as", "nobody"], "");
        assert_eq!((refused.stdout.trim(), refused.code), ("no", Some(1)));
        assert!(kubectl(&["create", "token", "default"]).starts_with("ey"));
        assert!(kubectl(&["auth", "whoami"]).contains("pharos-admin"));
        let deleted = cluster.kubectl_of(version, &["delete", "-f", "-"], OBJECTS).success();
        assert_eq!(deleted.matches(" deleted").count(), 3, "{version}: {deleted}");
    }
}

/// Requests that must be refused: method, path, content type, body; then code, reason and a part of the message.
const BAD: [(&str, &str, &str, &str, u16, &str, &str); 19] = [
    ("POST", "/api/v1/namespaces/default/configmaps", "application/json", "{", 400, "BadRequest", ""),
    (
        "POST",
        "/api/v1/namespaces/default/configmaps?fieldValidation=Strict",
        "application/json",
        r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"dat":{}}"#,
        400,
        "BadRequest",
        "unknown field \"dat\"",
    ),
    (
        "POST",
        "/api/v1/namespaces/default/configmaps",
        "application/json",
        r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"k":1}}"#,
        400,
        "BadRequest",
        "cannot unmarshal number",
    ),
    (
        "POST",
        "/api/v1/namespaces/default/configmaps",
        "application/json",
        r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"No_Such_Name"}}"#,
        422,
        "Invalid",
        "metadata.name: Invalid value: \"No_Such_Name\"",
    ),
    (
        "POST",
        "/api/v1/namespaces/nowhere/configmaps",
        "application/json",
        r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}"#,
        404,
        "NotFound",
        "namespaces \"nowhere\" not found",
    ),
    ("POST", "/api/v1/namespaces/default/configmaps", "text/plain", "hello", 415, "UnsupportedMediaType", ""),
    ("GET", "/api/v1/namespaces/default/configmaps/none", "", "", 404, "NotFound", "configmaps \"none\" not found"),
    ("GET", "/api/v1/namespaces/default/pods?labelSelector=a%3D%3D%3Db", "", "", 400, "BadRequest", "unable to parse"),
    (
        "GET",
        "/api/v1/namespaces/default/pods?fieldSelector=spec.colour%3Dblue",
        "",
        "",
        400,
        "BadRequest",
        "field label not supported",
    ),
    ("GET", "/apis/nothing.example.com/v1/things", "", "", 404, "NotFound", ""),
    ("PATCH", "/api/v1/namespaces/default", "application/json-patch+json", "[{\"op\":\"fly\"}]", 422, "Invalid", ""),
    ("PATCH", "/api/v1/namespaces/default", "application/merge-patch+json", "{", 400, "BadRequest", "error decoding patch"),
    (
        "PATCH",
        "/api/v1/namespaces/default",
        "application/json",
        "{}",
        415,
        "UnsupportedMediaType",
        "application/merge-patch+json",
    ),
    (
        "POST",
        "/api/v1/namespaces/default/configmaps?fieldValidation=Strict",
        "application/json",
        r#"{"metadata":{"name":"a"},"data":{"k":"1","k":"2"}}"#,
        400,
        "BadRequest",
        "duplicate field \"data.k\"",
    ),
    (
        "POST",
        "/api/v1/namespaces/default/configmaps",
        "application/yaml",
        "a: [b",
        400,
        "BadRequest",
        "error converting YAML to JSON",
    ),
    ("POST", "/api/v1/namespaces/default/configmaps/a", "application/json", "{}", 405, "MethodNotAllowed", ""),
    (
        "DELETE",
        "/api/v1/namespaces/default",
        "application/json",
        r#"{"preconditions":{"uid":"another"}}"#,
        409,
        "Conflict",
        "UID in precondition: another",
    ),
    ("GET", "/api/v1/pods?watch=1&resourceVersion=abc", "", "", 422, "Invalid", "resourceVersion: Invalid value: \"abc\""),
    ("GET", "/api/v1/namespaces/default/pods/a/log?tailLines=-1", "", "", 422, "Invalid", "tailLines: Invalid value: -1"),
];

#[test]
fn bad_input_is_refused_with_a_status() {
    let cluster = control_plane();
    for (method, path, kind, body, code, reason, part) in BAD {
        let (answered, status) = request(&cluster, method, path, kind, body);
        assert_eq!(answered, code, "{method} {path}: {status}");
        assert_eq!(status["kind"], "Status", "{method} {path}: {status}");
        assert_eq!(status["reason"], reason, "{method} {path}: {status}");
        assert!(status["message"].as_str().unwrap_or_default().contains(part), "{method} {path}: {status}");
    }
    let large =
        format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"a"}},"data":{{"k":"{}"}}}}"#, "x".repeat(4 << 20));
    let (code, status) = request(&cluster, "POST", "/api/v1/namespaces/default/configmaps", "application/json", &large);
    assert_eq!((code, status["reason"].as_str()), (413, Some("RequestEntityTooLarge")), "{status}");

    // A stale update, and a name that is taken.
    cluster.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}");
    let mut old = cluster.get(&["configmap", "a"]);
    let _ = cluster.kubectl(&["label", "configmap", "a", "x=y"]).success();
    old["data"] = json!({"k": "v"});
    let path = "/api/v1/namespaces/default/configmaps/a";
    let (code, status) = request(&cluster, "PUT", path, "application/json", &old.to_string());
    assert_eq!((code, status["reason"].as_str()), (409, Some("Conflict")), "{status}");
    let taken = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}"#;
    let (code, status) = request(&cluster, "POST", "/api/v1/namespaces/default/configmaps", "application/json", taken);
    assert_eq!((code, status["reason"].as_str()), (409, Some("AlreadyExists")), "{status}");
    assert!(cluster.kubectl(&["get", "--raw", "/livez"]).ok(), "the server is well after all that");
}

/// A raw request with curl and the administrator's certificate.
fn request(cluster: &Cluster, method: &str, path: &str, kind: &str, body: &str) -> (u16, Value) {
    let config = std::fs::read_to_string(cluster.kubeconfig()).unwrap();
    let field = |name: &str| config.lines().find_map(|l| l.trim().strip_prefix(name)).unwrap().trim().to_owned();
    for (name, file) in
        [("certificate-authority-data:", "ca.pem"), ("client-certificate-data:", "cert.pem"), ("client-key-data:", "key.pem")]
    {
        let decoded = run(std::process::Command::new("base64").arg("-d"), &field(name)).success();
        std::fs::write(cluster.folder().join(file), decoded).unwrap();
    }
    let mut curl = cluster.command(0, "curl");
    curl.current_dir(cluster.folder());
    curl.args(["-sS", "--cacert", "ca.pem", "--cert", "cert.pem", "--key", "key.pem", "-X", method, "-w", "\n%{http_code}"]);
    if !body.is_empty() {
        curl.args(["-H", &format!("Content-Type: {kind}"), "-H", "Expect:", "--data-binary", "@-"]);
    }
    curl.arg(format!("{}{path}", field("server:")));
    let output = run(&mut curl, body).success();
    let (text, code) = output.rsplit_once('\n').unwrap();
    (code.trim().parse().unwrap(), serde_json::from_str(text).unwrap_or(Value::String(text.to_owned())))
}
