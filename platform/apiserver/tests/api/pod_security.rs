//! PodSecurity: what a namespace's labels make of the pods in it.

use crate::{
    audit::Audited,
    common::{Answer, Server},
};
use http::Method;
use pharos_apiserver::{Config, pod_security::Configuration};
use serde_json::{Value, json};

const DETAIL: &str = "allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false), \
    unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), \
    runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true), \
    seccompProfile (pod or container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")";

/// A namespace with these modes, and a ServiceAccount for its pods.
async fn namespace(server: &Server, name: &str, modes: Value) {
    server.create("/api/v1/namespaces", json!({"metadata": {"name": name, "labels": labels(&modes)}})).await;
    let accounts = format!("/api/v1/namespaces/{name}/serviceaccounts");
    server.create(&accounts, json!({"metadata": {"name": "default"}})).await;
}

fn labels(modes: &Value) -> Value {
    modes.as_object().unwrap().iter().map(|(mode, value)| (format!("pod-security.kubernetes.io/{mode}"), value.clone())).collect()
}

fn plain(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

fn hardened(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "c", "image": "i", "securityContext": {
            "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
        }}],
    }})
}

fn privileged(name: &str) -> Value {
    let mut pod = plain(name);
    pod["spec"]["containers"][0]["securityContext"] = json!({"privileged": true});
    pod
}

/// The texts of an answer's warnings.
fn warnings(answer: &Answer) -> Vec<String> {
    let texts = answer.headers.get_all("warning").iter().map(|value| value.to_str().unwrap());
    texts.map(|text| text.strip_prefix("299 - \"").unwrap().strip_suffix('"').unwrap().replace("\\\"", "\"")).collect()
}

/// The value of a counter with these labels.
fn counter(server: &Server, name: &str, labels: &[(&str, &str)]) -> f64 {
    let families = server.registry.gather();
    let family = families.iter().find(|family| family.name() == name).unwrap();
    let fits = |metric: &&prometheus::proto::Metric| {
        let has = |(name, value): &(&str, &str)| {
            metric.get_label().iter().any(|label| label.name() == *name && label.value() == *value)
        };
        labels.iter().all(has)
    };
    family.get_metric().iter().filter(fits).map(|metric| metric.get_counter().get_value()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_meet_what_their_namespace_enforces() {
    let server = Server::start().await;
    namespace(&server, "strict", json!({"enforce": "restricted"})).await;
    let pods = "/api/v1/namespaces/strict/pods";
    for path in [pods.to_owned(), format!("{pods}?dryRun=All")] {
        let refused = server.post(&path, &plain("a")).await;
        assert_eq!(refused.code, 403, "{}", refused.text);
        let message = format!("pods \"a\" is forbidden: violates PodSecurity \"restricted:latest\": {DETAIL}");
        assert_eq!(refused.body["message"], message);
        assert_eq!(refused.body["reason"], "Forbidden");
        assert_eq!(warnings(&refused), Vec::<String>::new(), "who is refused is not warned");
    }
    let allowed = server.post(pods, &hardened("a")).await;
    assert_eq!((allowed.code.as_u16(), warnings(&allowed)), (201, Vec::new()), "{}", allowed.text);
    // What may be changed of a pod is looked at where it matters.
    let path = format!("{pods}/a");
    assert_eq!(server.merge(&path, &json!({"metadata": {"labels": {"x": "y"}}})).await.code, 200);
    let debug = json!({"spec": {"ephemeralContainers": [{"name": "d", "image": "i"}]}}).to_string();
    let kind = "application/strategic-merge-patch+json";
    let refused = server.ask(Method::PATCH, &format!("{path}/ephemeralcontainers"), kind, debug).await;
    assert_eq!(refused.code, 403, "{}", refused.text);
    assert!(refused.text.contains("container \\\"d\\\" must set"), "{}", refused.text);
    let evaluations = |decision: &str, subresource: &str| {
        let labels = [("decision", decision), ("policy_level", "restricted"), ("mode", "enforce"), ("subresource", subresource)];
        counter(&server, "pod_security_evaluations_total", &labels)
    };
    assert_eq!((evaluations("deny", ""), evaluations("allow", ""), evaluations("deny", "ephemeralcontainers")), (2.0, 1.0, 1.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_version_asks_less() {
    let server = Server::start().await;
    namespace(&server, "old", json!({"enforce": "restricted", "enforce-version": "v1.7"})).await;
    let mut pod = plain("a");
    pod["spec"]["securityContext"] = json!({"runAsNonRoot": true});
    let made = server.post("/api/v1/namespaces/old/pods", &pod).await;
    assert_eq!((made.code.as_u16(), warnings(&made)), (201, Vec::new()), "{}", made.text);
    let refused = server.post("/api/v1/namespaces/old/pods", &plain("b")).await;
    assert!(refused.text.contains("violates PodSecurity \\\"restricted:v1.7\\\": runAsNonRoot != true ("), "{}", refused.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workloads_are_warned_of_and_never_refused() {
    let server = Server::start().await;
    namespace(&server, "mixed", json!({"enforce": "baseline", "warn": "restricted", "audit": "restricted"})).await;
    let would = format!("would violate PodSecurity \"restricted:latest\": {DETAIL}");
    let made = server.post("/api/v1/namespaces/mixed/pods", &plain("a")).await;
    assert_eq!((made.code.as_u16(), warnings(&made)), (201, vec![would.clone()]), "{}", made.text);
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": plain("")["spec"]});
    let selector = json!({"matchLabels": {"a": "b"}});
    let mut job = template.clone();
    job["spec"]["restartPolicy"] = json!("Never");
    let job = json!({"template": job});
    for (path, spec) in [
        ("apis/apps/v1/namespaces/mixed/deployments", json!({"selector": selector, "template": template})),
        ("apis/apps/v1/namespaces/mixed/daemonsets", json!({"selector": selector, "template": template})),
        ("apis/apps/v1/namespaces/mixed/replicasets", json!({"selector": selector, "template": template})),
        ("apis/apps/v1/namespaces/mixed/statefulsets", json!({"selector": selector, "template": template, "serviceName": "s"})),
        ("api/v1/namespaces/mixed/replicationcontrollers", json!({"selector": {"a": "b"}, "template": template})),
        ("apis/batch/v1/namespaces/mixed/jobs", job.clone()),
        ("apis/batch/v1/namespaces/mixed/cronjobs", json!({"schedule": "* * * * *", "jobTemplate": {"spec": job}})),
    ] {
        let made = server.post(&format!("/{path}"), &json!({"metadata": {"name": "w"}, "spec": spec})).await;
        assert_eq!((made.code.as_u16(), warnings(&made)), (201, vec![would.clone()]), "{path}: {}", made.text);
    }
    let template = json!({"metadata": {"name": "w"}, "template": template});
    let made = server.post("/api/v1/namespaces/mixed/podtemplates", &template).await;
    assert_eq!((made.code.as_u16(), warnings(&made)), (201, vec![would]), "{}", made.text);
    let audited = counter(&server, "pod_security_evaluations_total", &[("mode", "audit"), ("resource", "controller")]);
    assert_eq!(audited, 8.0);
    // Scaling touches no template.
    let scale = server.merge("/apis/apps/v1/namespaces/mixed/deployments/w/scale", &json!({"spec": {"replicas": 2}})).await;
    assert_eq!((scale.code.as_u16(), warnings(&scale)), (200, Vec::new()), "{}", scale.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn labels_of_namespaces_are_checked_and_their_pods_told_of() {
    let server = Server::start().await;
    let refused = server
        .post(
            "/api/v1/namespaces",
            &json!({"metadata": {"name": "odd", "labels": labels(&json!({"enforce": "tight", "warn-version": "1"}))}}),
        )
        .await;
    assert_eq!(refused.code, 422, "{}", refused.text);
    assert_eq!(
        refused.body["message"],
        "Namespace \"odd\" is invalid: [metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"tight\": must be one of \
         privileged, baseline, restricted, metadata.labels[pod-security.kubernetes.io/warn-version]: Invalid value: \"1\": must be \
         \"latest\" or \"v1.x\"]"
    );
    namespace(&server, "free", json!({})).await;
    let pods = "/api/v1/namespaces/free/pods";
    server.create(pods, hardened("fine")).await;
    let controlled = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "u", "controller": true}]);
    for (name, mut pod) in [("b", privileged("b")), ("a", privileged("a")), ("c", plain("c"))] {
        if name != "c" {
            pod["metadata"]["ownerReferences"] = controlled.clone();
        }
        server.create(pods, pod).await;
    }
    let label = |modes: Value| json!({"metadata": {"labels": labels(&modes)}});
    let path = "/api/v1/namespaces/free";
    for (modes, wanted) in [
        (
            json!({"enforce": "baseline"}),
            vec![
                "existing pods in namespace \"free\" violate the new PodSecurity enforce level \"baseline:latest\"",
                "a (and 1 other pod): privileged",
            ],
        ),
        (json!({"enforce": "baseline", "warn": "restricted"}), Vec::new()),
        (json!({"enforce": "privileged"}), Vec::new()),
    ] {
        let changed = server.merge(path, &label(modes.clone())).await;
        assert_eq!(
            (changed.code.as_u16(), warnings(&changed)),
            (200, wanted.iter().map(|text| (*text).to_owned()).collect()),
            "{modes}"
        );
    }
    let changed = server.merge(&format!("{path}?dryRun=All"), &label(json!({"enforce": "restricted", "warn": null}))).await;
    let warned = warnings(&changed);
    assert_eq!(warned.len(), 3, "{warned:?}");
    assert!(warned[1].starts_with("a (and 1 other pod): privileged, allowPrivilegeEscalation != false,"), "{warned:?}");
    assert!(warned[2].starts_with("c: allowPrivilegeEscalation != false,"), "{warned:?}");
    let refused = server.merge(path, &label(json!({"enforce": "tight"}))).await;
    assert_eq!(refused.code, 422, "{}", refused.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_exempt_are_left_alone() {
    let exempt = Configuration {
        exempt_namespaces: vec!["free".into()],
        exempt_runtime_classes: vec!["sandboxed".into()],
        ..Configuration::default()
    };
    let server = Server::start_with(Config { pod_security: exempt, ..Config::default() }).await;
    let modes = labels(&json!({"enforce": "restricted"}));
    let made = server.post("/api/v1/namespaces", &json!({"metadata": {"name": "free", "labels": modes}})).await;
    assert_eq!(
        warnings(&made),
        ["namespace \"free\" is exempt from Pod Security, and the policy (enforce=restricted:latest) will be ignored",]
    );
    server.create("/api/v1/namespaces/free/serviceaccounts", json!({"metadata": {"name": "default"}})).await;
    assert_eq!(server.post("/api/v1/namespaces/free/pods", &privileged("a")).await.code, 201);
    namespace(&server, "strict", json!({"enforce": "restricted"})).await;
    server.create("/apis/node.k8s.io/v1/runtimeclasses", json!({"metadata": {"name": "sandboxed"}, "handler": "x"})).await;
    let mut pod = privileged("a");
    pod["spec"]["runtimeClassName"] = json!("sandboxed");
    assert_eq!(server.post("/api/v1/namespaces/strict/pods", &pod).await.code, 201);
    assert_eq!(server.post("/api/v1/namespaces/strict/pods", &privileged("b")).await.code, 403);
    assert_eq!(counter(&server, "pod_security_exemptions_total", &[("request_operation", "create"), ("resource", "pod")]), 2.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_audit_log_is_told() {
    let audited = Audited::new();
    let server = Server::start_with(audited.config()).await;
    namespace(&server, "strict", json!({"enforce": "baseline", "audit": "restricted"})).await;
    let pods = "/api/v1/namespaces/strict/pods";
    let told = |key: &str| audited.events().pop().unwrap()["annotations"][format!("pod-security.kubernetes.io/{key}")].clone();
    assert_eq!(server.post(pods, &plain("a")).await.code, 201);
    assert_eq!(told("enforce-policy"), "baseline:latest");
    assert_eq!(told("audit-violations"), format!("would violate PodSecurity \"restricted:latest\": {DETAIL}"));
    assert_eq!(server.post(pods, &privileged("b")).await.code, 403);
    assert_eq!(told("enforce-policy"), "baseline:latest");
    assert_eq!(server.post(pods, &hardened("c")).await.code, 201);
    assert_eq!(told("audit-violations"), Value::Null);
}
