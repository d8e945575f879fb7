//! Built-in admission plugins that need other objects than the one that is written.

use crate::common::Server;
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/default/pods";
const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";
const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";

async fn start() -> Server {
    let server = Server::start().await;
    server.create("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}})).await;
    server
}

fn pod(name: &str, cpu: &str) -> Value {
    let resources = json!({"requests": {"cpu": cpu}, "limits": {"cpu": cpu}});
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i", "resources": resources}]}})
}

fn claim(name: &str, storage: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"storageClassName": "gold", "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": storage}}}})
}

/// Waits until a quota has been counted.
async fn quota(server: &Server, name: &str, spec: Value) {
    server.create(QUOTAS, json!({"metadata": {"name": name}, "spec": spec})).await;
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    while server.get(&format!("{QUOTAS}/{name}")).await.body["status"]["hard"] != spec["hard"] {
        assert!(tokio::time::Instant::now() < deadline, "{name} is not counted");
        tokio::task::yield_now().await;
    }
}

async fn used(server: &Server, name: &str) -> Value {
    server.get(&format!("{QUOTAS}/{name}")).await.body["status"]["used"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quotas_count_in_their_scopes() {
    let server = start().await;
    quota(&server, "ending", json!({"hard": {"pods": "1", "requests.cpu": "1"}, "scopes": ["Terminating"]})).await;
    let high = json!({"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]});
    quota(&server, "high", json!({"hard": {"pods": "1"}, "scopeSelector": high})).await;
    server.create("/apis/scheduling.k8s.io/v1/priorityclasses", json!({"metadata": {"name": "high"}, "value": 5})).await;
    server.create(PODS, pod("plain", "4")).await;
    let mut ending = pod("ending", "1");
    ending["spec"]["activeDeadlineSeconds"] = json!(60);
    server.create(PODS, ending.clone()).await;
    assert_eq!(used(&server, "ending").await, json!({"pods": "1", "requests.cpu": "1"}));
    assert_eq!(used(&server, "high").await, json!({"pods": "0"}));
    ending["metadata"]["name"] = json!("second");
    let refused = server.post(PODS, &ending).await;
    assert_eq!(
        refused.body["message"],
        "pods \"second\" is forbidden: exceeded quota: ending, requested: pods=1,requests.cpu=1, used: pods=1,requests.cpu=1, \
         limited: pods=1,requests.cpu=1"
    );
    let mut urgent = pod("urgent", "1");
    urgent["spec"]["priorityClassName"] = json!("high");
    server.create(PODS, urgent).await;
    assert_eq!(used(&server, "high").await, json!({"pods": "1"}));
    // A status is never refused, and an end gives back.
    let ended = server.merge(&format!("{PODS}/ending/status"), &json!({"status": {"phase": "Succeeded"}})).await;
    assert_eq!(ended.code, 200, "{}", ended.text);
    assert_eq!(used(&server, "ending").await, json!({"pods": "0", "requests.cpu": "0"}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quotas_count_objects_ports_and_classes() {
    let server = start().await;
    let hard = json!({
        "count/deployments.apps": "1", "resourcequotas": "2", "services.nodeports": "1", "services.loadbalancers": "0",
        "requests.storage": "3Gi", "gold.storageclass.storage.k8s.io/requests.storage": "2Gi", "requests.example.com/gpu": "1",
    });
    quota(&server, "all", json!({"hard": hard})).await;
    assert_eq!(used(&server, "all").await["resourcequotas"], "1");
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": pod("", "1")["spec"]});
    let deployment =
        |name: &str| json!({"metadata": {"name": name}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}});
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    server.create(deployments, deployment("a")).await;
    let refused = server.post(deployments, &deployment("b")).await;
    assert_eq!(
        refused.body["message"],
        "deployments.apps \"b\" is forbidden: exceeded quota: all, requested: count/deployments.apps=1, used: \
         count/deployments.apps=1, limited: count/deployments.apps=1"
    );
    let service = |ty: &str| json!({"metadata": {"name": "s"}, "spec": {"type": ty, "ports": [{"port": 1}]}});
    let services = "/api/v1/namespaces/default/services";
    assert_eq!(server.post(services, &service("LoadBalancer")).await.code, 403);
    server.create(services, service("NodePort")).await;
    let more = json!({"spec": {"ports": [{"name": "a", "port": 1}, {"name": "b", "port": 2}]}});
    for path in [format!("{services}/s"), format!("{services}/s?dryRun=All")] {
        let refused = server.merge(&path, &more).await;
        assert!(refused.text.contains("exceeded quota: all, requested: services.nodeports=1"), "{}", refused.text);
    }
    server.create(CLAIMS, claim("a", "2Gi")).await;
    let refused = server.post(CLAIMS, &claim("b", "1Gi")).await;
    assert!(
        refused.text.contains("requested: gold.storageclass.storage.k8s.io/requests.storage=1Gi, used: "),
        "{}",
        refused.text
    );
    let mut gpu = pod("gpu", "1");
    gpu["spec"]["containers"][0]["resources"] = json!({"limits": {"example.com/gpu": "2"}});
    let refused = server.post(PODS, &gpu).await;
    assert!(refused.text.contains("requested: requests.example.com/gpu=2"), "{}", refused.text);
    server.create(QUOTAS, json!({"metadata": {"name": "second"}, "spec": {"hard": {"pods": "9"}}})).await;
    let refused = server.post(QUOTAS, &json!({"metadata": {"name": "third"}, "spec": {"hard": {"pods": "9"}}})).await;
    assert!(refused.text.contains("exceeded quota: all, requested: resourcequotas=1"), "{}", refused.text);
    assert_eq!(server.delete(&format!("{QUOTAS}/second")).await.code, 200);
    assert_eq!(used(&server, "all").await["resourcequotas"], "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limit_ranges_bound_pods_and_claims() {
    let server = start().await;
    let limits = json!([
        {"type": "Container", "max": {"cpu": "2"}, "default": {"memory": "1Gi"}},
        {"type": "Pod", "max": {"cpu": "2"}},
        {"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}},
    ]);
    let ranges = "/api/v1/namespaces/default/limitranges";
    server.create(ranges, json!({"metadata": {"name": "l"}, "spec": {"limits": limits}})).await;
    let made = server.create(PODS, pod("a", "1")).await;
    assert_eq!(made["spec"]["containers"][0]["resources"]["limits"], json!({"cpu": "1", "memory": "1Gi"}));
    let refused = server.post(PODS, &pod("b", "3")).await;
    assert_eq!(
        refused.body["message"],
        "pods \"b\" is forbidden: [maximum cpu usage per Container is 2, but limit is 3, maximum cpu usage per Pod is 2, but limit is 3]"
    );
    let refused = server.post(CLAIMS, &claim("c", "1Mi")).await;
    assert_eq!(
        refused.body["message"],
        "persistentvolumeclaims \"c\" is forbidden: minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 1Mi"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn storage_is_protected_and_grows_where_its_class_lets_it() {
    let server = start().await;
    let volume = json!({"metadata": {"name": "v"}, "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
        "hostPath": {"path": "/data"}}});
    let volume = server.create("/api/v1/persistentvolumes", volume).await;
    assert_eq!(volume["metadata"]["finalizers"], json!(["kubernetes.io/pv-protection"]));
    let made = server.create(CLAIMS, claim("a", "1Gi")).await;
    assert_eq!(made["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
    let path = format!("{CLAIMS}/a");
    let bound = server.merge(&format!("{path}/status"), &json!({"status": {"phase": "Bound"}})).await;
    assert_eq!(bound.code, 200, "{}", bound.text);
    let grow = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}});
    let refused = server.merge(&path, &grow).await;
    assert_eq!(
        refused.body["message"],
        "persistentvolumeclaims \"a\" is forbidden: only dynamically provisioned pvc can be resized and the storageclass that \
         provisions the pvc must support resize"
    );
    let class = json!({"metadata": {"name": "gold"}, "provisioner": "example.com/p", "allowVolumeExpansion": true});
    server.create("/apis/storage.k8s.io/v1/storageclasses", class).await;
    assert_eq!(server.merge(&path, &grow).await.code, 200);
    // A delete waits for the controller.
    let marked = server.delete(&path).await;
    assert!(!marked.body["metadata"]["deletionTimestamp"].is_null(), "{}", marked.text);
    assert_eq!(server.merge(&path, &json!({"metadata": {"finalizers": null}})).await.code, 200);
    assert_eq!(server.get(&path).await.code, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_learn_and_respect_their_node() {
    let server = start().await;
    let labels = json!({"topology.kubernetes.io/zone": "z", "kubernetes.io/os": "linux", "other": "x"});
    let node = json!({"metadata": {"name": "n", "labels": labels}, "status": {"allocatable": {"cpu": "2", "memory": "1Gi"}}});
    server.create("/api/v1/nodes", node).await;
    server.create(PODS, pod("a", "1")).await;
    let binding = json!({"metadata": {"name": "a"}, "target": {"kind": "Node", "name": "n"}});
    assert_eq!(server.post(&format!("{PODS}/a/binding"), &binding).await.code, 201);
    let bound = server.get(&format!("{PODS}/a")).await.body;
    assert_eq!(bound["metadata"]["labels"], json!({"topology.kubernetes.io/zone": "z"}));
    let resize = |cpu: &str| {
        let resources = json!({"requests": {"cpu": cpu}, "limits": {"cpu": cpu}});
        json!({"spec": {"containers": [{"name": "c", "image": "i", "resources": resources}]}})
    };
    let path = format!("{PODS}/a/resize");
    let refused = server.merge(&path, &resize("3")).await;
    assert_eq!(
        refused.body["message"],
        "pods \"a\" is forbidden: Node didn't have enough allocatable resources: cpu, requested: 3000, allocatable: 2000"
    );
    let resized = server.merge(&path, &resize("2")).await;
    assert_eq!(resized.code, 200, "{}", resized.text);
}
