use serde_json::json;

use crate::fields::{decode, strict_error};
use crate::registry::lookup;

fn check(resource: (&str, &str), body: &str) -> Result<(serde_json::Value, String), String> {
    let kind = lookup(resource.0, "v1", resource.1).expect("built-in kind");
    let decoded = decode(kind, body.as_bytes()).map_err(|e| e.to_string())?;
    let problems = if decoded.problems.is_empty() { String::new() } else { strict_error(&decoded.problems) };
    Ok((decoded.value, problems))
}

#[test]
fn unknown_and_duplicate_fields_are_named() {
    let cases = [
        (("apps", "deployments"), r#"{"spec":{"foo":1}}"#, r#"unknown field "spec.foo""#),
        (
            ("apps", "deployments"),
            r#"{"spec":{"template":{"spec":{"containers":[{"name":"a","imag":"x"},{"name":"b","x":{}}]}}},"extra":1}"#,
            r#"unknown field "spec.template.spec.containers[0].imag", unknown field "spec.template.spec.containers[1].x", unknown field "extra""#,
        ),
        (("", "pods"), r#"{"metadata":{"name":"a","name":"b"}}"#, r#"duplicate field "metadata.name""#),
        (("", "configmaps"), r#"{"data":{"a":"1","a":"2"}}"#, r#"duplicate field "data.a""#),
    ];
    for (resource, body, want) in cases {
        let (_, problems) = check(resource, body).expect(body);
        assert_eq!(problems, format!("strict decoding error: {want}"), "{body}");
    }
}

#[test]
fn wrong_types_are_refused_with_gos_words() {
    let deployments = ("apps", "deployments");
    let cases = [
        (
            deployments,
            r#"{"spec":{"replicas":"two"}}"#,
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            deployments,
            r#"{"spec":{"replicas":1.5}}"#,
            "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            deployments,
            r#"{"spec":{"template":{"spec":{"containers":[{"env":[{"name":"a","value":1}]}]}}}}"#,
            "json: cannot unmarshal number into Go struct field EnvVar.spec.template.spec.containers.env.value of type string",
        ),
        (
            deployments,
            r#"{"spec":{"template":{"spec":{"containers":{}}}}}"#,
            "json: cannot unmarshal object into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container",
        ),
        (
            deployments,
            r#"{"metadata":{"labels":{"a":1}}}"#,
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (("", "pods"), "[]", "json: cannot unmarshal array into Go value of type v1.Pod"),
        (("", "secrets"), r#"{"data":{"a":"***"}}"#, "illegal base64 data at input byte 0"),
    ];
    for (resource, body, want) in cases {
        assert_eq!(check(resource, body).expect_err(body), want, "{body}");
    }
}

#[test]
fn values_take_the_form_go_writes() {
    let body = r#"{"metadata":{"creationTimestamp":null,"labels":{"a":""},"finalizers":[]},
        "spec":{"hostNetwork":false,"automountServiceAccountToken":false,"volumes":[{"name":"v","emptyDir":{}}],
        "containers":[{"name":"c","args":[],"env":[{"name":"E","value":""}],"resources":{"limits":{"cpu":1,"memory":"1024Mi"}}}]}}"#;
    let (value, problems) = check(("", "pods"), body).expect("decodes");
    assert_eq!(problems, "");
    let want = json!({"metadata": {"labels": {"a": ""}},
        "spec": {"automountServiceAccountToken": false, "volumes": [{"name": "v", "emptyDir": {}}],
        "containers": [{"name": "c", "env": [{"name": "E"}], "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}]}});
    assert_eq!(value, want);
}

#[test]
fn schemas_in_definitions_keep_their_unions() {
    let body = r#"{"spec":{"versions":[{"name":"v1","schema":{"openAPIV3Schema":{"type":"object","additionalProperties":false,
        "properties":{"a":{"items":{"type":"string","bad":1},"default":{"x":null}}}}}}]}}"#;
    let (value, problems) = check(("apiextensions.k8s.io", "customresourcedefinitions"), body).expect("decodes");
    assert_eq!(
        problems,
        r#"strict decoding error: unknown field "spec.versions[0].schema.openAPIV3Schema.properties.a.items.bad""#
    );
    let schema = &value["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    assert_eq!(schema["additionalProperties"], json!(false));
    assert_eq!(schema["properties"]["a"]["default"], json!({"x": null}));
}
