use serde_json::{Value, json};

use super::{v2, v2_protobuf, v3, v3_index, v3_protobuf};
use crate::{protobuf::wire, registry::Registry};

fn parse(body: &[u8]) -> Value {
    serde_json::from_slice(body).expect("JSON")
}

#[test]
fn group_documents_have_what_kubectl_reads() {
    let registry = Registry::builtin();
    let document = v3(&registry, "apis/apps/v1").expect("apps/v1");
    let index = parse(&v3_index(&registry).body);
    let url = format!("/openapi/v3/apis/apps/v1?hash={}", document.etag.trim_matches('"'));
    assert_eq!(index["paths"]["apis/apps/v1"]["serverRelativeURL"], url);
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
        let document = parse(&v3(&registry, path).expect("document").body);
        resolve(&document, &document, "#/components/schemas/");
    }
    let document = parse(&v2(&registry, &[]).body);
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

/// The values of a length-delimited field, in order.
fn fields(message: &[u8], number: u32) -> Vec<&[u8]> {
    let mut found = Vec::new();
    wire::each(message, |n, field| {
        if n == number {
            found.push(field.bytes()?);
        }
        Ok(())
    })
    .expect("a message");
    found
}

/// The value of a name in a list of names and values.
fn named<'a>(list: &'a [u8], number: u32, name: &str) -> &'a [u8] {
    let entry = fields(list, number).into_iter().find(|entry| fields(entry, 1) == [name.as_bytes()]);
    fields(entry.unwrap_or_else(|| panic!("{name}")), 2)[0]
}

#[test]
fn version_2_as_protobuf_has_what_go_clients_read() {
    let registry = Registry::builtin();
    let document = v2_protobuf(&registry, &[]).body;
    assert_eq!(fields(&document, 1), [b"2.0"]);
    let pod = named(fields(&document, 9)[0], 1, "io.k8s.api.core.v1.Pod");
    let spec = named(fields(pod, 25)[0], 1, "spec");
    assert_eq!(fields(spec, 1), [b"#/definitions/io.k8s.api.core.v1.PodSpec"]);
    let gvk = named(pod, 31, "x-kubernetes-group-version-kind");
    let gvk: Value = serde_json::from_slice(fields(gvk, 2)[0]).expect("JSON, which is YAML");
    assert_eq!(gvk, json!([{"group": "", "version": "v1", "kind": "Pod"}]));

    let path = named(fields(&document, 8)[0], 2, "/api/v1/namespaces/{namespace}/pods");
    let post = fields(path, 4)[0];
    let body = fields(post, 8).into_iter().find_map(|item| {
        let parameter = fields(item, 1)[0]; // Of `ParametersItem`, then of `Parameter`: the body.
        fields(parameter, 1).first().copied()
    });
    assert_eq!(fields(fields(body.expect("a body"), 5)[0], 1), [b"#/definitions/io.k8s.api.core.v1.Pod"]);
    let ok = named(fields(post, 9)[0], 1, "200");
    let schema = fields(fields(fields(ok, 1)[0], 2)[0], 1)[0];
    assert_eq!(fields(schema, 1), [b"#/definitions/io.k8s.api.core.v1.Pod"]);
}

#[test]
fn what_is_no_resource_has_paths_too() {
    let registry = Registry::builtin();
    let document = parse(&v2(&registry, &[]).body);
    let operation = |path: &str| document["paths"][path]["get"]["operationId"].as_str().unwrap_or_default().to_owned();
    for (path, id) in [
        ("/.well-known/openid-configuration/", "getServiceAccountIssuerOpenIDConfiguration"),
        ("/api/", "getCoreAPIVersions"),
        ("/api/v1/", "getCoreV1APIResources"),
        ("/apis/", "getAPIVersions"),
        ("/apis/apps/", "getAppsAPIGroup"),
        ("/apis/rbac.authorization.k8s.io/", "getRbacAuthorizationAPIGroup"),
        ("/apis/rbac.authorization.k8s.io/v1/", "getRbacAuthorizationV1APIResources"),
        ("/openid/v1/jwks/", "getServiceAccountIssuerOpenIDKeyset"),
        ("/version/", "getCodeVersion"),
        ("/api/v1/pods", "listCoreV1PodForAllNamespaces"),
        ("/api/v1/watch/pods", "watchCoreV1PodListForAllNamespaces"),
        ("/api/v1/watch/namespaces/{namespace}/pods", "watchCoreV1NamespacedPodList"),
        ("/api/v1/watch/namespaces/{namespace}/pods/{name}", "watchCoreV1NamespacedPod"),
        ("/api/v1/watch/nodes/{name}", "watchCoreV1Node"),
        ("/apis/rbac.authorization.k8s.io/v1/clusterroles", "listRbacAuthorizationV1ClusterRole"),
    ] {
        assert_eq!(operation(path), id, "{path}");
    }
    assert_eq!(document["paths"]["/apis/rbac.authorization.k8s.io/v1/"]["get"]["tags"], json!(["rbacAuthorization_v1"]));
    let schema = &document["paths"]["/version/"]["get"]["responses"]["200"]["schema"];
    assert_eq!(schema["$ref"], "#/definitions/io.k8s.apimachinery.pkg.version.Info");
    for path in ["api", "apis", "apis/apps", "version", "openid/v1/jwks", ".well-known/openid-configuration"] {
        let page = parse(&v3(&registry, path).expect(path).body);
        assert_eq!(page["paths"].as_object().map(serde_json::Map::len), Some(1), "{path}");
    }
    assert!(v3(&registry, "apis/none").is_none() && v3(&registry, "apis/apps/v9").is_none());
}

#[test]
fn version_3_as_protobuf_has_what_go_clients_read() {
    let registry = Registry::builtin();
    let document = v3_protobuf(&registry, "apis/apps/v1").expect("apps/v1").body;
    assert_eq!(fields(&document, 1), [b"3.0.0"]);
    let schemas = fields(fields(&document, 5)[0], 1)[0];
    let spec = fields(named(schemas, 1, "io.k8s.api.apps.v1.DeploymentSpec"), 1)[0]; // Of the two, the schema.
    let template = fields(named(fields(spec, 31)[0], 1, "template"), 1)[0];
    let reference = fields(fields(template, 26)[0], 2)[0]; // Of the two, the reference.
    assert_eq!(fields(reference, 1), [b"#/components/schemas/io.k8s.api.core.v1.PodTemplateSpec"]);
    let gvk = named(fields(named(schemas, 1, "io.k8s.api.apps.v1.Deployment"), 1)[0], 36, "x-kubernetes-group-version-kind");
    let gvk: Value = serde_json::from_slice(fields(gvk, 2)[0]).expect("JSON, which is YAML");
    assert_eq!(gvk, json!([{"group": "apps", "version": "v1", "kind": "Deployment"}]));

    let path = named(fields(&document, 4)[0], 1, "/apis/apps/v1/namespaces/{namespace}/deployments");
    let post = fields(path, 6)[0];
    let body = fields(fields(post, 7)[0], 1)[0];
    let schema = fields(named(fields(body, 2)[0], 1, "*/*"), 1)[0];
    assert_eq!(fields(fields(schema, 2)[0], 1), [b"#/components/schemas/io.k8s.api.apps.v1.Deployment"]);
    let ok = fields(named(fields(post, 8)[0], 2, "200"), 1)[0];
    assert_eq!(fields(ok, 1), [b"OK"]);
    let parameter = fields(fields(path, 13)[0], 1)[0];
    assert_eq!(fields(parameter, 2), [b"path"]);
}
