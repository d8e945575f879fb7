use serde_json::{Value, json};

use super::{v2, v3_group, v3_group_etag, v3_index};
use crate::registry::Registry;

fn parse(body: &[u8]) -> Value {
    serde_json::from_slice(body).expect("JSON")
}

#[test]
fn group_documents_have_what_kubectl_reads() {
    let registry = Registry::builtin();
    let document = v3_group(&registry, "apps", "v1").expect("apps/v1");
    assert_eq!(Some(document.etag), v3_group_etag(&registry, "apps", "v1"));
    let apps = parse(&document.body);
    let patch = &apps["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert_eq!(patch["x-kubernetes-group-version-kind"], json!({"group": "apps", "version": "v1", "kind": "Deployment"}));
    assert!(patch["parameters"].as_array().is_some_and(|p| p.iter().any(|p| p["name"] == "fieldValidation")));
    let schemas = &apps["components"]["schemas"];
    let spec = &schemas["io.k8s.api.apps.v1.DeploymentSpec"]["properties"];
    assert_eq!(spec["template"]["allOf"][0]["$ref"], "#/components/schemas/io.k8s.api.core.v1.PodTemplateSpec");
    assert!(spec["replicas"]["description"].as_str().is_some_and(|d| d.starts_with("Number of desired pods")));
    let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
}

#[test]
fn every_reference_resolves() {
    let registry = Registry::builtin();
    let index = parse(&v3_index(&registry).body);
    for path in index["paths"].as_object().expect("paths").keys() {
        let (group, version) = path.strip_prefix("apis/").and_then(|p| p.split_once('/')).unwrap_or(("", "v1"));
        let document = parse(&v3_group(&registry, group, version).expect("document").body);
        resolve(&document, &document, "#/components/schemas/");
    }
    let document = parse(&v2(&registry).body);
    resolve(&document, &document, "#/definitions/");
}

fn resolve(document: &Value, at: &Value, prefix: &str) {
    match at {
        Value::Object(map) => {
            if let Some(Value::String(target)) = map.get("$ref") {
                let pointer = target.strip_prefix('#').expect("local");
                assert!(target.starts_with(prefix) && document.pointer(pointer).is_some(), "{target}");
            }
            map.values().for_each(|v| resolve(document, v, prefix));
        }
        Value::Array(list) => list.iter().for_each(|v| resolve(document, v, prefix)),
        _ => {}
    }
}
