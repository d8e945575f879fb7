use serde_json::{Value, json};

use super::{Error, decode, encode, encode_list, watch_frame};

fn round_trip(object: &Value) {
    let body = encode(object).expect("encodes");
    let message = decode(&body, None).expect("decodes");
    assert_eq!(&message.value, object);
}

#[test]
fn objects_survive_the_round_trip() {
    round_trip(
        &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": {"x": ""}, "creationTimestamp": "2026-01-02T03:04:05Z"},
        "spec": {"volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Gi"}}, {"name": "c", "configMap": {"name": "n", "defaultMode": 420}}],
        "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}], "resources": {"limits": {"cpu": "500m"}},
        "livenessProbe": {"httpGet": {"path": "/", "port": "web"}, "periodSeconds": 3}, "env": [{"name": "E", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}}]}],
        "terminationGracePeriodSeconds": 0}, "status": {}}),
    );
    round_trip(&json!({"apiVersion": "apps/v1", "kind": "DeploymentList", "metadata": {"resourceVersion": "7"}, "items": [
        {"metadata": {"name": "d", "managedFields": [{"manager": "m", "fieldsV1": {"f:spec": {}}}]}, "spec": {"replicas": 0, "selector": {"matchLabels": {"a": "b"}},
        "strategy": {"rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 0}}, "template": {"metadata": {}, "spec": {"containers": []}}}, "status": {}}]}).as_object().map(|o| {
        let mut o = o.clone();
        o["items"][0]["spec"]["template"]["spec"] = json!({"containers": [{"name": "c", "resources": {}}]});
        Value::Object(o)
    }).expect("object"));
    round_trip(&json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "metadata": {},
        "spec": {"user": "u", "groups": ["g"], "extra": {"k": ["a", "b"]}, "resourceAttributes": {"verb": "get", "resource": "pods"}}, "status": {"allowed": false}}));
    round_trip(&json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "a"},
        "spec": {"group": "g", "names": {"kind": "K", "plural": "ks"}, "scope": "Namespaced", "versions": [{"name": "v1", "served": true, "storage": true,
        "schema": {"openAPIV3Schema": {"type": "object", "additionalProperties": false, "properties": {"a": {"type": "array", "items": {"type": "string"}, "default": ["x"]}},
        "x-kubernetes-preserve-unknown-fields": true, "minimum": 0.5}}}]}, "status": {}}).as_object().map(|o| {
        let mut o = o.clone();
        o["status"] = json!({"conditions": [], "acceptedNames": {"kind": "", "plural": ""}, "storedVersions": []});
        o.remove("status");
        Value::Object(o)
    }).expect("object"));
}

#[test]
fn zeros_are_left_out_as_go_does() {
    // Pod { metadata: { name: "a", generateName: "", generation: 0, creationTimestamp: {} }, spec: { hostNetwork: false } }
    let metadata = [0x0a, 0x01, b'a', 0x12, 0x00, 0x38, 0x00, 0x42, 0x00];
    let mut raw = vec![0x0a, metadata.len() as u8];
    raw.extend(metadata);
    raw.extend([0x12, 0x02, 0x58, 0x00]);
    let mut body = b"k8s\0\x0a\x09\x0a\x02v1\x12\x03Pod\x12".to_vec();
    body.push(raw.len() as u8);
    body.extend(raw);
    let message = decode(&body, None).expect("decodes");
    assert_eq!(message.value, json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {}}));
}

#[test]
fn a_blank_envelope_takes_the_endpoints_kind() {
    let message = decode(b"k8s\0\x12\x05\x0a\x03\x0a\x01a", Some(("v1", "ConfigMap"))).expect("decodes");
    assert_eq!((message.api_version.as_str(), message.kind.as_str()), ("v1", "ConfigMap"));
    assert_eq!(message.value["metadata"]["name"], "a");
}

#[test]
fn garbage_is_refused() {
    assert_eq!(decode(b"{}", None), Err(Error::Prefix));
    for body in [&b"k8s\0\x0a\xff"[..], b"k8s\0\x07", b"k8s\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"] {
        assert!(matches!(decode(body, Some(("v1", "Pod"))), Err(Error::Malformed(_))), "{body:?}");
    }
    assert!(matches!(decode(b"k8s\0", Some(("v1", "Nope"))), Err(Error::UnknownKind { .. })));
}

#[test]
fn a_list_of_encoded_objects_is_the_list_encoded() {
    let pods: Vec<Value> = ["a", "b"]
        .map(|name| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": []}}))
        .into();
    let metadata = json!({"resourceVersion": "7", "remainingItemCount": 3});
    let encoded: Vec<Vec<u8>> = pods.iter().map(|pod| encode(pod).expect("encodes")).collect();
    let list = encode_list("v1", "PodList", &metadata, encoded.iter().map(Vec::as_slice)).expect("encodes");
    let whole = json!({"apiVersion": "v1", "kind": "PodList", "metadata": metadata, "items": pods});
    let again = encode(&whole).expect("encodes");
    assert_eq!(list.len(), again.len());
    assert_eq!(decode(&list, None).expect("decodes"), decode(&again, None).expect("decodes"));
}

#[test]
fn watch_frames_carry_their_length() {
    let object = encode(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}})).expect("encodes");
    let frame = watch_frame("ADDED", &object).expect("fits");
    let length = u32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]);
    assert_eq!(length as usize, frame.len() - 4);
}

/// Upstream's golden files (`testdata/HEAD` of k8s.io/api), when a checkout is at hand; nothing of them is kept here.
#[test]
fn golden_files_decode_to_their_json() {
    let Some(dir) = std::env::var_os("PHAROS_GOLDEN") else { return };
    let mut bad = Vec::new();
    let mut seen = 0;
    for entry in std::fs::read_dir(dir).expect("folder").map(|e| e.expect("entry").path()) {
        if entry.extension().is_none_or(|e| e != "pb") {
            continue;
        }
        let body = std::fs::read(&entry).expect("file");
        let want: Value = serde_json::from_slice(&std::fs::read(entry.with_extension("json")).expect("file")).expect("json");
        match decode(&body, None) {
            Err(Error::UnknownKind { .. }) => {}
            Err(error) => bad.push(format!("{}: {error}", entry.display())),
            Ok(message) => {
                seen += 1;
                let mut diff = Vec::new();
                compare(&want, &message.value, String::new(), &mut diff);
                match encode(&message.value).and_then(|again| decode(&again, None)) {
                    Ok(again) if again.value == message.value => {}
                    other => diff.push(format!("encode: {:?}", other.err())),
                }
                if !diff.is_empty() {
                    bad.push(format!("{}: {}", entry.file_name().expect("name").to_string_lossy(), diff.join("; ")));
                }
            }
        }
    }
    assert!(bad.is_empty(), "{} of {seen}:\n{}", bad.len(), bad.join("\n"));
    assert!(seen > 70, "only {seen} files");
}

fn compare(want: &Value, have: &Value, path: String, diff: &mut Vec<String>) {
    match (want, have) {
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().chain(b.keys().filter(|k| !a.contains_key(*k))) {
                let at = format!("{path}.{key}");
                match (a.get(key), b.get(key)) {
                    (Some(a), Some(b)) => compare(a, b, at, diff),
                    (Some(Value::Null), None) => {}
                    (a, b) => diff.push(format!("{at}: {a:?} / {b:?}")),
                }
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().for_each(|(i, (a, b))| compare(a, b, format!("{path}[{i}]"), diff));
        }
        (a, b) if a == b => {}
        (a, b) => diff.push(format!("{path}: {a} / {b}")),
    }
}
