//! Patches against the built-in schemas, so that merge keys and list types are the published ones.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::managed_fields::{Write, update};
use super::{apply, strategic};
use crate::schema::{Schema, definition_for};

fn schema(group: &str, kind: &str) -> &'static Schema {
    &definition_for(group, "v1", kind).unwrap().schema
}

fn write(manager: &str) -> Write<'_> {
    Write { manager, api_version: "v1", subresource: "", now: Timestamp::UNIX_EPOCH }
}

fn fields(object: &Value) -> &Value {
    &object["metadata"]["managedFields"][0]["fieldsV1"]
}

#[test]
fn strategic_merge_of_a_pod_template() {
    let deployment = json!({"spec": {"template": {"spec": {
        "containers": [{"name": "a", "image": "1", "ports": [{"containerPort": 80}], "env": [{"name": "X", "value": "1"}]}],
        "tolerations": [{"key": "a"}], "volumes": [{"name": "v", "emptyDir": {}}]}}}});
    let patch = json!({"spec": {"template": {"spec": {
        "containers": [{"name": "a", "image": "2", "env": [{"name": "Y", "value": "2"}]}],
        "tolerations": [{"key": "b"}],
        "volumes": [{"name": "v", "$retainKeys": ["name", "configMap"], "emptyDir": null, "configMap": {"name": "c"}}]}}}});
    let merged = strategic::apply_value(&deployment, patch, schema("apps", "Deployment")).unwrap();
    assert_eq!(
        merged["spec"]["template"]["spec"],
        json!({"containers": [{"name": "a", "image": "2", "ports": [{"containerPort": 80}],
                "env": [{"name": "Y", "value": "2"}, {"name": "X", "value": "1"}]}],
            "tolerations": [{"key": "b"}], "volumes": [{"name": "v", "configMap": {"name": "c"}}]})
    );
    let node =
        json!({"status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "DiskPressure", "status": "False"}]}});
    let patch = json!({"status": {"conditions": [{"type": "DiskPressure", "status": "True"}]}});
    let merged = strategic::apply_value(&node, patch, schema("", "Node")).unwrap();
    assert_eq!(
        merged["status"]["conditions"],
        json!([{"type": "Ready", "status": "True"}, {"type": "DiskPressure", "status": "True"}])
    );
}

#[test]
fn managed_fields_of_a_created_deployment() {
    let mut object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web"}},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "nginx", "image": "nginx", "resources": {},
                "ports": [{"containerPort": 80, "protocol": "TCP"}]}], "restartPolicy": "Always"}}}});
    update(schema("apps", "Deployment"), None, &mut object, write("kubectl-create"));
    assert_eq!(
        fields(&object),
        &json!({
            "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {"f:replicas": {}, "f:selector": {},
                "f:strategy": {"f:rollingUpdate": {".": {}, "f:maxSurge": {}, "f:maxUnavailable": {}}, "f:type": {}},
                "f:template": {"f:metadata": {"f:labels": {".": {}, "f:app": {}}}, "f:spec": {
                    "f:containers": {"k:{\"name\":\"nginx\"}": {".": {}, "f:image": {}, "f:name": {}, "f:resources": {},
                        "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}, "f:protocol": {}}}}},
                    "f:restartPolicy": {}}}}
        })
    );
}

#[test]
fn apply_of_a_service_and_a_config_map() {
    let service = schema("", "Service");
    let config = |ports: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"selector": {"a": "b"}, "ports": ports}});
    let live = apply::apply(service, None, &config(json!([{"port": 80, "name": "http"}])), write("one"), false).unwrap();
    assert_eq!(fields(&live)["f:spec"]["f:selector"], json!({}));
    assert_eq!(
        fields(&live)["f:spec"]["f:ports"],
        json!({"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}, "f:name": {}}})
    );
    let mut defaulted = live.clone();
    defaulted["spec"]["ports"][0]["protocol"] = json!("TCP");
    let after = apply::apply(service, Some(&defaulted), &config(json!([{"port": 443}])), write("two"), false).unwrap();
    assert_eq!(after["spec"]["ports"].as_array().map(Vec::len), Some(2));
    let map = schema("", "ConfigMap");
    let config = |data: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data});
    let live = apply::apply(map, None, &config(json!({"a": "1", "b": "2"})), write("one"), false).unwrap();
    let after = apply::apply(map, Some(&live), &config(json!({"a": "1"})), write("one"), false).unwrap();
    assert_eq!(after["data"], json!({"a": "1"}));
}
