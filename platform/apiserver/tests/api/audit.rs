//! What is written down of requests.

use std::{path::PathBuf, time::Duration};

use http::Method;
use pharos_apiserver::{
    Config,
    audit::{LogOptions, Options, WebhookOptions},
    authn::UserInfo,
};
use pharos_transport::{Body, Response};
use prometheus::Registry;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    common::{Server, admin, read},
    remote::Remote,
};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// Keeps ConfigMaps of the namespace `default` whole, but for who manages which field, and of Secrets, and pods of the namespace
/// `strict`, the metadata.
const POLICY: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitManagedFields: true
rules:
- level: RequestResponse
  namespaces: [default]
  resources: [{group: '', resources: [configmaps]}]
- level: Metadata
  resources: [{group: '', resources: [secrets]}]
- level: Metadata
  namespaces: [strict]
  resources: [{group: '', resources: [pods]}]
";

/// Files of a server that audits.
pub(crate) struct Audited {
    dir: TempDir,
}

impl Audited {
    pub(crate) fn new() -> Self {
        Audited { dir: tempfile::tempdir().unwrap() }
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log/audit.log")
    }

    /// Settings by which a server audits to a file.
    pub(crate) fn config(&self) -> Config {
        let policy_file = Some(self.file("policy.yaml", POLICY));
        let log = Some(LogOptions::new(self.log()));
        Config { audit: Options { policy_file, log, ..Options::default() }, ..Config::default() }
    }

    /// The events written so far.
    pub(crate) fn events(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.log()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The events of one request.
    fn of(&self, audit_id: &str) -> Vec<Value> {
        self.events().into_iter().filter(|event| event["auditID"] == audit_id).collect()
    }
}

/// A request from outside of the process.
async fn from_outside(server: &Server, method: Method, path: &str, headers: &[(&str, &str)]) -> Response {
    let mut request = http::Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    server.api.handle(request.body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn a_write_is_written_down_whole() {
    let audited = Audited::new();
    let server = Server::start_with(audited.config()).await;
    assert!(audited.events().is_empty(), "what the server itself does is not in the policy");
    let body = json!({"metadata": {"name": "m"}, "data": {"a": "b"}}).to_string();
    let headers = [
        ("content-type", "application/json"),
        ("audit-id", "first"),
        ("user-agent", "kubectl/1.37"),
        ("x-forwarded-for", "198.51.100.7, 203.0.113.1"),
    ];
    let path = format!("{CONFIG_MAPS}?fieldManager=me");
    let answer = read(server.send(&admin(), Method::POST, &path, &headers, body).await).await;
    assert_eq!((answer.code.as_u16(), answer.headers["audit-id"].to_str().unwrap()), (201, "first"));
    let events = audited.of("first");
    let stages: Vec<&str> = events.iter().map(|event| event["stage"].as_str().unwrap()).collect();
    assert_eq!(stages, ["RequestReceived", "ResponseComplete"]);
    let (received, complete) = (&events[0], &events[1]);
    for event in &events {
        assert_eq!((&event["kind"], &event["apiVersion"]), (&json!("Event"), &json!("audit.k8s.io/v1")));
        assert_eq!((&event["level"], &event["verb"]), (&json!("RequestResponse"), &json!("create")));
        assert_eq!(event["requestURI"], path);
        assert_eq!(event["user"], json!({"username": "admin", "groups": ["system:masters"]}));
        assert_eq!(event["sourceIPs"], json!(["198.51.100.7", "203.0.113.1"]));
        assert_eq!(event["userAgent"], "kubectl/1.37");
        assert_eq!(event["requestReceivedTimestamp"].as_str().unwrap().len(), "2026-11-25T14:00:00.000000Z".len());
    }
    assert_eq!(received["stageTimestamp"], received["requestReceivedTimestamp"]);
    let reference = json!({"resource": "configmaps", "namespace": "default", "apiVersion": "v1"});
    assert_eq!((&received["objectRef"], &received["responseStatus"]), (&reference, &Value::Null));
    assert_eq!(complete["objectRef"]["name"], "m");
    assert_eq!(complete["responseStatus"], json!({"metadata": {}, "code": 201}));
    assert_eq!(complete["requestObject"]["data"], json!({"a": "b"}));
    assert_eq!(complete["responseObject"]["metadata"]["uid"], answer.body["metadata"]["uid"]);
    assert!(answer.body["metadata"]["managedFields"].is_array());
    assert!(complete["responseObject"]["metadata"]["managedFields"].is_null());
    assert_eq!(complete["annotations"], json!({"authorization.k8s.io/decision": "allow", "authorization.k8s.io/reason": ""}));
}

#[tokio::test]
async fn patches_deletes_and_refusals() {
    let audited = Audited::new();
    let server = Server::start_with(audited.config()).await;
    server.create(CONFIG_MAPS, json!({"metadata": {"name": "m"}})).await;
    let map = format!("{CONFIG_MAPS}/m");
    let last = || audited.events().pop().unwrap();
    server.merge(&map, &json!({"data": {"c": "d"}})).await;
    assert_eq!((&last()["verb"], &last()["requestObject"]), (&json!("patch"), &json!({"data": {"c": "d"}})));
    let apply = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\ndata: {e: f}\n";
    server.ask(Method::PATCH, &format!("{map}?fieldManager=me"), "application/apply-patch+yaml", apply).await;
    assert_eq!(last()["requestObject"]["data"], json!({"e": "f"}));
    server.delete(&map).await;
    assert_eq!(last()["responseStatus"]["status"], "Success");
    assert_eq!((&last()["responseStatus"]["code"], &last()["responseStatus"]["details"]["name"]), (&json!(200), &json!("m")));
    server.get(&map).await;
    let status = last()["responseStatus"].clone();
    let texts = ["status", "reason", "message"].map(|field| status[field].as_str().unwrap());
    assert_eq!(texts, ["Failure", "NotFound", "configmaps \"m\" not found"]);
    assert_eq!(last()["responseObject"]["kind"], "Status");
    let jane = UserInfo::new("jane", ["system:authenticated"]);
    server.send(&jane, Method::GET, "/api/v1/namespaces/a/secrets/s", &[], Body::empty()).await;
    let refused = last();
    assert_eq!((&refused["level"], &refused["responseStatus"]["code"]), (&json!("Metadata"), &json!(403)));
    assert_eq!(refused["annotations"]["authorization.k8s.io/decision"], "forbid");
}

#[tokio::test]
async fn secrets_are_not_told_at_level_metadata() {
    let audited = Audited::new();
    let server = Server::start_with(audited.config()).await;
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"password": "hunter2"}});
    server.create("/api/v1/namespaces/default/secrets", secret).await;
    server.get("/api/v1/namespaces/default/secrets/s").await;
    server.get("/api/v1/secrets").await;
    let events = audited.events();
    assert_eq!(events.len(), 6);
    assert!(events.iter().all(|event| event["requestObject"].is_null() && event["responseObject"].is_null()));
    assert_eq!(events[1]["objectRef"]["name"], "s");
}

#[tokio::test]
async fn a_watch_is_told_at_its_start_and_its_end() {
    let audited = Audited::new();
    let server = Server::start_with(audited.config()).await;
    let headers = [("audit-id", "w")];
    let watch = server.send(&admin(), Method::GET, &format!("{CONFIG_MAPS}?watch=1"), &headers, Body::empty()).await;
    let stages = || audited.of("w").iter().map(|event| event["stage"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(stages(), ["RequestReceived", "ResponseStarted"]);
    drop(watch);
    assert_eq!(stages(), ["RequestReceived", "ResponseStarted", "ResponseComplete"]);
    assert_eq!(audited.of("w")[2]["responseStatus"], json!({"metadata": {}, "code": 200}));
}

#[tokio::test]
async fn who_is_not_known_and_who_acts_as_another() {
    let audited = Audited::new();
    let server = Server::start_with(audited.config()).await;
    let headers = [("authorization", "Bearer nonsense"), ("audit-id", "bad")];
    assert_eq!(from_outside(&server, Method::GET, CONFIG_MAPS, &headers).await.status(), 401);
    let events = audited.of("bad");
    assert_eq!((events.len(), &events[0]["stage"], &events[0]["user"]), (1, &json!("ResponseStarted"), &json!({})));
    let status = json!({"metadata": {}, "message": "Authentication failed, attempted: bearer", "code": 401});
    assert_eq!(events[0]["responseStatus"], status);

    let binding = json!({"metadata": {"name": "anybody"}, "subjects": [{"kind": "User", "name": "system:anonymous",
        "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"kind": "ClusterRole", "name": "cluster-admin", "apiGroup": "rbac.authorization.k8s.io"}});
    server.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await;
    let headers = [("impersonate-user", "jane"), ("impersonate-group", "devs"), ("audit-id", "as")];
    for _ in 0..1000 {
        assert_eq!(from_outside(&server, Method::GET, CONFIG_MAPS, &headers).await.status(), 403);
        if audited.events().last().unwrap()["impersonatedUser"].is_object() {
            break;
        }
        tokio::task::yield_now().await; // The authorizer has not heard of the binding yet.
    }
    let event = audited.events().pop().unwrap();
    assert_eq!(event["user"]["username"], "system:anonymous");
    assert_eq!(event["impersonatedUser"], json!({"username": "jane", "groups": ["devs", "system:authenticated"]}));
}

#[tokio::test]
async fn events_are_counted_and_what_nobody_keeps_is_not_made() {
    let audited = Audited::new();
    let server = Server::start_with(audited.config()).await;
    server.get("/api/v1/namespaces/default/pods").await;
    assert!(audited.events().is_empty());
    server.get(CONFIG_MAPS).await;
    let text = server.exposition();
    for line in [
        "apiserver_audit_event_total 2",
        "apiserver_audit_level_total{level=\"RequestResponse\"} 1",
        "apiserver_audit_requests_rejected_total 0",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    assert!(!text.contains("apiserver_audit_level_total{level=\"None\"} 0"));
}

#[tokio::test]
async fn a_strict_log_that_cannot_be_written_stops_requests() {
    let audited = Audited::new();
    for (mode, code) in [("blocking-strict", 500), ("blocking", 200)] {
        let mut config = audited.config();
        let mut log = LogOptions::new("/dev/full");
        log.delivery.mode = mode.to_owned();
        config.audit.log = Some(log);
        let server = Server::start_with(config).await;
        let answer = server.get(CONFIG_MAPS).await;
        assert_eq!(answer.code, code, "{}", answer.text);
        let text = server.exposition();
        assert!(text.contains("apiserver_audit_error_total{plugin=\"log\"} "), "{text}");
        let rejected = u8::from(code == 500);
        assert!(text.contains(&format!("apiserver_audit_requests_rejected_total {rejected}")), "{text}");
    }
}

#[tokio::test]
async fn the_index_gets_the_default_policys_events_without_bodies() {
    let (layer, mut records) = pharos_telemetry::logs::layer(&Registry::new()).unwrap();
    let audit = Options { index: Some(layer.writer("audit")), ..Options::default() };
    let server = Server::start_with(Config { audit, ..Config::default() }).await;
    while records.try_recv().is_ok() {} // The objects every cluster has.
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"password": "hunter2"}});
    server.create("/api/v1/namespaces/default/secrets", secret).await;
    server.get(CONFIG_MAPS).await;
    server.get("/api/v1/namespaces/default/secrets/s").await;
    let mut lines = Vec::new();
    while let Ok(record) = records.try_recv() {
        assert_eq!(record.job, Some("audit"));
        lines.push(record.message);
    }
    assert!(lines.iter().all(|line| !line.contains("hunter2")), "{lines:?}");
    let events: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<[&str; 3]> = events
        .iter()
        .filter(|event| event["user"]["username"] == "admin")
        .map(|event| [&event["verb"], &event["objectRef"]["name"], &event["stage"]].map(|value| value.as_str().unwrap()))
        .collect();
    assert_eq!(told, [["create", "s", "ResponseComplete"], ["get", "s", "ResponseComplete"]]);
}

#[tokio::test]
async fn a_webhook_gets_lists_of_events() {
    let audited = Audited::new();
    let remote = Remote::start(|_, _| async { json!({}) }).await;
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "s", "cluster": {
            "server": format!("https://{}/audit", remote.address), "certificate-authority-data": remote.ca_bundle()}}],
        "contexts": [{"name": "c", "context": {"cluster": "s"}}],
    });
    let mut config = audited.config();
    let mut webhook = WebhookOptions::new(audited.file("webhook.yaml", &kubeconfig.to_string()));
    webhook.delivery.max_batch_wait = Duration::from_millis(20);
    config.audit = Options { policy_file: config.audit.policy_file, webhook: Some(webhook), ..Options::default() };
    let server = Server::start_with(config).await;
    server.create(CONFIG_MAPS, json!({"metadata": {"name": "m"}})).await;
    let mut events = Vec::new();
    for _ in 0..500 {
        for (path, list) in remote.take().await {
            assert_eq!((path.as_str(), &list["kind"]), ("/audit", &json!("EventList")));
            events.extend(list["items"].as_array().unwrap().clone());
        }
        if events.len() == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(events.len(), 2);
    assert_eq!((&events[1]["stage"], &events[1]["objectRef"]["name"]), (&json!("ResponseComplete"), &json!("m")));
}
