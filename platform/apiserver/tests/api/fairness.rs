//! API priority and fairness: who is served when, the objects that say so, and what is told of it.

use std::{sync::Arc, time::Duration};

use futures::StreamExt as _;
use http::Method;
use pharos_apiserver::Mount;
use pharos_transport::{Body, Request, Response};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinSet};

use crate::{
    audit::Audited,
    common::{Answer, Server, read},
};

const SCHEMAS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas";
const LEVELS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations";
const SCHEMA_UID: &str = "x-kubernetes-pf-flowschema-uid";
const LEVEL_UID: &str = "x-kubernetes-pf-prioritylevel-uid";
const UPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

/// A request of somebody outside, without credentials.
fn outside(path: &str) -> Request {
    http::Request::get(path).body(Body::empty()).unwrap()
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|object| object["metadata"]["name"].as_str().unwrap()).collect()
}

/// What a schema is told of its level.
fn dangling(schema: &Value) -> (&str, &str) {
    let conditions = schema["status"]["conditions"].as_array();
    let found = conditions.into_iter().flatten().find(|condition| condition["type"] == "Dangling");
    found.map_or(("", ""), |found| (found["status"].as_str().unwrap(), found["reason"].as_str().unwrap()))
}

impl Server {
    /// Waits until an object is as it should be.
    async fn until(&self, path: &str, is_right: impl Fn(&Answer) -> bool) -> Answer {
        for _ in 0..2000 {
            let answer = self.get(path).await;
            if is_right(&answer) {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{path} does not become right: {}", self.get(path).await.text);
    }

    /// Lets everybody do everything.
    async fn open_to_all(&self) {
        let binding = json!({"metadata": {"name": "all"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:unauthenticated"}]});
        self.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await;
        for _ in 0..2000 {
            if self.api.handle(outside("/api/v1/nodes")).await.status() == 200 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("the binding has no effect");
    }

    /// A column of a priority level's row in the dump.
    async fn level(&self, name: &str, column: &str) -> String {
        let text = self.get("/debug/api_priority_and_fairness/dump_priority_levels").await.text;
        let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split(',').map(str::trim).collect()).collect();
        let at = rows[0].iter().position(|head| *head == column).unwrap();
        rows.iter().find(|row| row[0] == name).unwrap_or_else(|| panic!("{name} in {text}"))[at].to_owned()
    }

    /// The sum of a counter or gauge of a schema's requests.
    fn measured(&self, name: &str, schema: &str) -> f64 {
        let families = self.registry.gather();
        let metrics = families.iter().filter(|family| family.name() == name).flat_map(|family| family.get_metric());
        let of_schema = metrics.filter(|metric| metric.get_label().iter().any(|label| label.value() == schema));
        of_schema.map(|metric| metric.get_counter().get_value() + metric.get_gauge().get_value()).sum()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_cluster_has_upstreams_objects() {
    let server = Server::start().await;
    let levels = server.get(LEVELS).await.body;
    let expected =
        ["catch-all", "exempt", "global-default", "leader-election", "node-high", "system", "workload-high", "workload-low"];
    assert_eq!(names(&levels), expected);
    let schemas = server.get(SCHEMAS).await.body;
    assert_eq!(schemas["items"].as_array().unwrap().len(), 11);
    for schema in schemas["items"].as_array().unwrap() {
        assert_eq!(dangling(schema), ("False", "Found"), "{schema}");
        assert_eq!(schema["metadata"]["annotations"][UPDATE], "true");
    }
    // What all need stays as it is.
    let wrong = json!({"spec": {"limited": {"nominalConcurrencyShares": 50}}});
    let answer = server.merge(&format!("{LEVELS}/catch-all"), &wrong).await;
    assert_eq!(answer.code, 422);
    assert!(answer.text.contains("spec of 'catch-all' must equal the fixed value"), "{}", answer.text);
    let lent = json!({"spec": {"exempt": {"nominalConcurrencyShares": 10, "lendablePercent": 50}}});
    assert_eq!(server.merge(&format!("{LEVELS}/exempt"), &lent).await.code, 200);
    // What is taken away comes back; what follows this server is put right, what does not is left.
    for path in [format!("{SCHEMAS}/exempt"), format!("{SCHEMAS}/probes"), format!("{LEVELS}/system")] {
        let before = server.get(&path).await.body["metadata"]["uid"].clone();
        assert_eq!(server.delete(&path).await.code, 200, "{path}");
        server.until(&path, |answer| answer.code == 200 && answer.body["metadata"]["uid"] != before).await;
    }
    let shares = |count: u64, update: &str| json!({"metadata": {"annotations": {UPDATE: update}}, "spec": {"limited": {"nominalConcurrencyShares": count}}});
    let count = |answer: &Answer| answer.body["spec"]["limited"]["nominalConcurrencyShares"].as_u64();
    let system = format!("{LEVELS}/system");
    server.merge(&system, &shares(7, "true")).await;
    server.until(&system, |answer| count(answer) == Some(30)).await;
    server.merge(&system, &shares(7, "false")).await;
    let high = format!("{LEVELS}/node-high");
    server.merge(&high, &shares(7, "true")).await;
    server.until(&high, |answer| count(answer) == Some(40)).await;
    assert_eq!(count(&server.get(&system).await), Some(7));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schemas_are_told_whether_their_level_is_there() {
    let server = Server::start().await;
    let schema = json!({"metadata": {"name": "own"}, "spec": {"priorityLevelConfiguration": {"name": "own"}}});
    server.create(SCHEMAS, schema).await;
    let path = format!("{SCHEMAS}/own");
    let answer = server.until(&path, |answer| dangling(&answer.body) == ("True", "NotFound")).await;
    let message = "This FlowSchema references the PriorityLevelConfiguration object named \"own\" but there is no such object";
    assert_eq!(answer.body["status"]["conditions"][0]["message"], message);
    let level =
        json!({"metadata": {"name": "own"}, "spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Reject"}}}});
    server.create(LEVELS, level).await;
    server.until(&path, |answer| dangling(&answer.body) == ("False", "Found")).await;
    server.delete(&format!("{LEVELS}/own")).await;
    server.until(&path, |answer| dangling(&answer.body) == ("True", "NotFound")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_say_what_the_request_was_taken_for() {
    let server = Server::start().await;
    let uid = |path: &str, name: &str| {
        let path = format!("{path}/{name}");
        let server = &server;
        async move { server.get(&path).await.body["metadata"]["uid"].as_str().unwrap().to_owned() }
    };
    for (path, code, schema, level) in [
        ("/version", 200, "global-default", "global-default"),
        ("/api/v1/pods", 403, "global-default", "global-default"),
        ("/livez", 200, "probes", "exempt"),
    ] {
        let answer = read(server.api.handle(outside(path)).await).await;
        assert_eq!(answer.code, code, "{path}");
        assert_eq!(answer.headers[SCHEMA_UID], uid(SCHEMAS, schema).await, "{path}");
        assert_eq!(answer.headers[LEVEL_UID], uid(LEVELS, level).await, "{path}");
    }
    let inside = server.get("/version").await;
    assert!(!inside.headers.contains_key(SCHEMA_UID), "the components of this process are not limited");
    assert!(server.measured("apiserver_flowcontrol_dispatched_requests_total", "global-default") >= 2.0);
    assert_eq!(server.measured("apiserver_flowcontrol_current_executing_requests", "global-default"), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_is_limited_only_while_it_begins() {
    let server = Server::start().await;
    server.open_to_all().await;
    let response = server.api.handle(outside("/api/v1/namespaces?watch=1")).await;
    assert_eq!(response.status(), 200);
    assert_eq!(server.level("global-default", "ExecutingRequests").await, "1", "nothing has been given yet");
    let mut stream = response.into_body().into_stream();
    stream.next().await.unwrap().unwrap();
    assert_eq!(server.level("global-default", "ExecutingRequests").await, "0");
    let list = server.get("/api/v1/namespaces").await.body;
    let revision = list["metadata"]["resourceVersion"].as_str().unwrap();
    let later = server.api.handle(outside(&format!("/api/v1/namespaces?watch=1&resourceVersion={revision}"))).await;
    assert_eq!(later.status(), 200);
    assert_eq!(server.level("global-default", "ExecutingRequests").await, "0", "it has no beginning");
}

/// Answers when it is let.
struct Slow {
    entered: watch::Sender<usize>,
    open: watch::Receiver<bool>,
}

#[async_trait::async_trait]
impl Mount for Slow {
    async fn handle(&self, _: Request) -> Response {
        self.entered.send_modify(|entered| *entered += 1);
        let mut open = self.open.clone();
        let _ = open.wait_for(|open| *open).await;
        Response::new(Body::full("done"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_finds_no_seat_waits_or_is_told_to_come_again() {
    let server = Server::start().await;
    server.open_to_all().await;
    let (entered, mut entries) = watch::channel(0);
    let (gate, open) = watch::channel(false);
    server.api.mount("/slow", Arc::new(Slow { entered, open }));
    // One share of 246: three seats of 600, which it neither lends nor borrows.
    let level = json!({"metadata": {"name": "narrow"}, "spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 1,
        "lendablePercent": 0, "borrowingLimitPercent": 0, "limitResponse": {"type": "Reject"}}}});
    let level_uid = server.create(LEVELS, level).await["metadata"]["uid"].as_str().unwrap().to_owned();
    let schema = json!({"metadata": {"name": "slow"}, "spec": {"priorityLevelConfiguration": {"name": "narrow"},
        "matchingPrecedence": 50, "distinguisherMethod": {"type": "ByUser"}, "rules": [{
            "subjects": [{"kind": "Group", "group": {"name": "system:unauthenticated"}}],
            "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/slow/*"]}]}]}});
    server.create(SCHEMAS, schema).await;
    server.until(&format!("{SCHEMAS}/slow"), |answer| dangling(&answer.body) == ("False", "Found")).await;

    let mut clients = JoinSet::new();
    let send = |clients: &mut JoinSet<Answer>| {
        let api = server.api.clone();
        clients.spawn(async move { read(api.handle(outside("/slow/a")).await).await })
    };
    for _ in 0..3 {
        send(&mut clients);
    }
    entries.wait_for(|entered| *entered == 3).await.unwrap();
    let refused = read(server.api.handle(outside("/slow/a")).await).await;
    assert_eq!((refused.code.as_u16(), &refused.headers["retry-after"]), (429, &"1".parse().unwrap()));
    assert_eq!(refused.body["reason"], "TooManyRequests");
    assert_eq!(refused.body["message"], "Too many requests, please try again later.");
    assert_eq!(refused.body["details"]["retryAfterSeconds"], 1);
    assert_eq!(refused.headers[LEVEL_UID], level_uid);
    assert_eq!(server.measured("apiserver_flowcontrol_rejected_requests_total", "slow"), 1.0);
    let other = read(server.api.handle(outside("/version")).await).await;
    assert_eq!(other.code, 200, "other levels have seats of their own");

    let queue = json!({"type": "Queue", "queuing": {"queues": 2, "handSize": 1, "queueLengthLimit": 1}});
    server.merge(&format!("{LEVELS}/narrow"), &json!({"spec": {"limited": {"limitResponse": queue}}})).await;
    server.until("/debug/api_priority_and_fairness/dump_queues", |answer| answer.text.contains("narrow")).await;
    // One user is one flow, and so has one queue: of one place.
    let fourth = send(&mut clients);
    while server.level("narrow", "WaitingRequests").await != "1" {}
    assert_eq!(read(server.api.handle(outside("/slow/a")).await).await.code, 429);
    let dump = server.get("/debug/api_priority_and_fairness/dump_requests?includeRequestDetails=1").await.text;
    let is_waiting =
        |line: &str| line.contains("0001-01-01T00:00:00Z") && line.contains("system:anonymous") && line.contains("/slow/a");
    assert!(dump.lines().any(is_waiting), "{dump}");
    // Whoever leaves makes room at once.
    fourth.abort();
    while server.level("narrow", "WaitingRequests").await != "0" {}
    assert_eq!(server.level("narrow", "CancelledRequests").await, "1");
    send(&mut clients);
    while server.level("narrow", "WaitingRequests").await != "1" {}
    assert_eq!(*entries.borrow(), 3);
    gate.send(true).unwrap();
    let mut done = 0;
    while let Some(outcome) = clients.join_next().await {
        done += usize::from(outcome.is_ok_and(|answer| answer.code == 200));
    }
    assert_eq!(done, 4);
    assert_eq!(server.level("narrow", "IsIdle").await, "true");
    assert_eq!(server.level("narrow", "DispatchedRequests").await, "4");
    assert_eq!(server.measured("apiserver_flowcontrol_current_executing_seats", "slow"), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_ends_with_a_quarter_of_the_time() {
    let server = Server::start().await;
    server.open_to_all().await;
    // Nothing is ever served at a level without seats.
    let level = json!({"metadata": {"name": "none"}, "spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 0,
        "borrowingLimitPercent": 0, "limitResponse": {"type": "Queue", "queuing": {"queues": 1, "handSize": 1}}}}});
    server.create(LEVELS, level).await;
    let schema = json!({"metadata": {"name": "none"}, "spec": {"priorityLevelConfiguration": {"name": "none"},
        "matchingPrecedence": 50, "rules": [{"subjects": [{"kind": "User", "user": {"name": "system:anonymous"}}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["/version"]}]}]}});
    server.create(SCHEMAS, schema).await;
    server.until(&format!("{SCHEMAS}/none"), |answer| dangling(&answer.body) == ("False", "Found")).await;
    let start = tokio::time::Instant::now();
    let answer = read(server.api.handle(outside("/version?timeout=2s")).await).await;
    assert_eq!(answer.code, 429);
    assert!((Duration::from_millis(500)..Duration::from_secs(2)).contains(&start.elapsed()), "{:?}", start.elapsed());
    assert_eq!(server.level("none", "TimedoutRequests").await, "1");
    let bad = read(server.api.handle(outside("/version?timeout=soon")).await).await;
    assert_eq!(bad.code, 400);
    assert_eq!(server.ask(Method::GET, "/version", "", "").await.code, 200, "the server itself is not limited");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_told_to_come_again_is_written_down_and_counted() {
    let audited = Audited::new();
    let server = Server::start_with(audited.config()).await;
    let level = json!({"metadata": {"name": "none"}, "spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 0,
        "borrowingLimitPercent": 0, "limitResponse": {"type": "Queue", "queuing": {"queues": 1, "handSize": 1}}}}});
    let level_uid = server.create(LEVELS, level).await["metadata"]["uid"].as_str().unwrap().to_owned();
    let schema = json!({"metadata": {"name": "none"}, "spec": {"priorityLevelConfiguration": {"name": "none"},
        "matchingPrecedence": 50, "rules": [{"subjects": [{"kind": "User", "user": {"name": "system:anonymous"}}],
            "resourceRules": [{"verbs": ["list"], "apiGroups": [""], "resources": ["configmaps"], "namespaces": ["*"]}]}]}});
    server.create(SCHEMAS, schema).await;
    server.until(&format!("{SCHEMAS}/none"), |answer| dangling(&answer.body) == ("False", "Found")).await;
    let answer = read(server.api.handle(outside("/api/v1/namespaces/default/configmaps?timeout=1s")).await).await;
    assert_eq!((answer.code.as_u16(), &answer.headers[LEVEL_UID]), (429, &level_uid.parse().unwrap()), "{}", answer.text);
    let event = audited.events().pop().unwrap();
    assert_eq!((&event["stage"], &event["user"]["username"]), (&json!("ResponseComplete"), &json!("system:anonymous")));
    let status = &event["responseStatus"];
    assert_eq!((&status["code"], &status["reason"]), (&json!(429), &json!("TooManyRequests")));
    assert!(event["annotations"].is_null(), "nobody has asked whether they may");
    let text = server.exposition();
    for name in ["apiserver_request_terminations_total{code=\"429\"", "apiserver_request_total{code=\"429\""] {
        let is_it = |line: &&str| line.starts_with(name) && line.contains("resource=\"configmaps\"");
        assert!(text.lines().find(is_it).is_some_and(|line| line.ends_with(" 1")), "{name}\n{text}");
    }
}
