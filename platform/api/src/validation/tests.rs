use serde_json::{Value, json};

use super::validate;
use crate::defaulting;
use crate::registry::by_kind;

/// Defaults the objects, validates, and compares the texts of all errors.
fn check(group: &str, kind: &str, new: Value, old: Option<Value>, want: &[&str]) {
    let row = by_kind(group, "v1", kind).expect("built-in kind");
    let named = |mut object: Value| {
        if object.pointer("/metadata/name").is_none() {
            object["metadata"]["name"] = "x".into();
        }
        defaulting::apply(row, &mut object);
        object
    };
    let (new, old) = (named(new), old.map(named));
    let have: Vec<String> = validate(row, &new, old.as_ref()).iter().map(ToString::to_string).collect();
    assert_eq!(have, want, "{kind} {new}");
}

fn pod(container: Value) -> Value {
    json!({"spec": {"containers": [container]}})
}

#[test]
fn metadata() {
    let name = "metadata.name: Invalid value: \"A_b\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
                start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
                '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
    check("", "ConfigMap", json!({"metadata": {"name": "A_b"}}), None, &[name]);
    check("", "ConfigMap", json!({"metadata": {"name": "a"}}), None, &[]);
    check("rbac.authorization.k8s.io", "Role", json!({"metadata": {"name": "system:A_b"}}), None, &[]);
}

#[test]
fn pods() {
    check("", "Pod", json!({"spec": {}}), None, &["spec.containers: Required value"]);
    check("", "Pod", pod(json!({"name": "c", "image": "i"})), None, &[]);
    check("", "Pod", pod(json!({"name": "c"})), None, &["spec.containers[0].image: Required value"]);
    let bad = json!({"name": "c", "image": "i", "ports": [{"containerPort": 70000}], "volumeMounts": [{"name": "v", "mountPath": "/v"}],
        "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}, "livenessProbe": {}, "env": [{"name": "E", "valueFrom": {}}],
        "imagePullPolicy": "Sometimes"});
    check(
        "",
        "Pod",
        pod(bad),
        None,
        &[
            "spec.containers[0].imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
            "spec.containers[0].env[0].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
            "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
            "spec.containers[0].livenessProbe: Required value: must specify a handler type",
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ],
    );
}

#[test]
fn workloads() {
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let deployment = |selector: Value| json!({"spec": {"selector": selector, "template": template}});
    check("apps", "Deployment", deployment(json!({"matchLabels": {"a": "b"}})), None, &[]);
    check(
        "apps",
        "Deployment",
        deployment(json!({"matchLabels": {"a": "c"}})),
        None,
        &["spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`"],
    );
    check("apps", "Deployment", deployment(Value::Null), None, &["spec.selector: Required value"]);
    check(
        "apps",
        "Deployment",
        deployment(json!({"matchLabels": {"a": "b"}})),
        Some(deployment(json!({"matchLabels": {"z": "b"}}))),
        &["spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"b\"}}: field is immutable"],
    );
    let cron = |schedule: &str| {
        json!({"spec": {"schedule": schedule, "jobTemplate": {"spec": {"template": {"spec": {"restartPolicy": "Never",
        "containers": [{"name": "c", "image": "i"}]}}}}}})
    };
    check("batch", "CronJob", cron("*/5 1-3 * jan mon-fri"), None, &[]);
    check(
        "batch",
        "CronJob",
        cron("* * *"),
        None,
        &["spec.schedule: Invalid value: \"* * *\": expected exactly 5 fields, found 3: [* * *]"],
    );
}

#[test]
fn services_and_data() {
    check(
        "",
        "Service",
        json!({"spec": {"ports": [{"port": 80}, {"port": 80}]}}),
        None,
        &[
            "spec.ports[0].name: Required value",
            "spec.ports[1].name: Required value",
            "spec.ports[1]: Duplicate value: {\"port\":80,\"protocol\":\"TCP\"}",
        ],
    );
    check("", "Service", json!({"spec": {"type": "ExternalName"}}), None, &["spec.externalName: Required value"]);
    check(
        "",
        "ConfigMap",
        json!({"data": {"a/b": ""}}),
        None,
        &[
            "data[a/b]: Invalid value: \"a/b\": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or \
         'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
        ],
    );
    check(
        "",
        "Secret",
        json!({"type": "kubernetes.io/tls"}),
        None,
        &["data[tls.crt]: Required value", "data[tls.key]: Required value"],
    );
    check("", "Secret", json!({}), Some(json!({"type": "x"})), &["type: Invalid value: \"Opaque\": field is immutable"]);
    check(
        "",
        "PersistentVolumeClaim",
        json!({"spec": {}}),
        None,
        &[
            "spec.accessModes: Required value: at least 1 access mode is required",
            "spec.resources.requests[storage]: Required value",
        ],
    );
    check(
        "networking.k8s.io",
        "Ingress",
        json!({"spec": {"rules": [{"http": {"paths": [{"path": "x", "backend": {"service": {"name": "s", "port": {"number": 1}}}}]}}]}}),
        None,
        &["spec.rules[0].http.paths[0].pathType: Required value: pathType must be specified"],
    );
    check(
        "rbac.authorization.k8s.io",
        "RoleBinding",
        json!({"roleRef": {"kind": "Role", "name": "r"}}),
        Some(json!({"roleRef": {"kind": "Role", "name": "q"}})),
        &[
            "roleRef: Invalid value: {\"apiGroup\":\"rbac.authorization.k8s.io\",\"kind\":\"Role\",\"name\":\"r\"}: cannot change roleRef",
        ],
    );
}

#[test]
fn endpoints_are_at_ordinary_addresses() {
    let loopback = "may not be in the loopback range (127.0.0.0/8, ::1/128)";
    let link_local = "may not be in the link-local range (169.254.0.0/16, fe80::/10)";
    let multicast = "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)";
    let unspecified = "may not be unspecified (0.0.0.0 or ::)";
    for (family, ip, complaint) in [
        ("IPv4", "10.0.0.1", ""),
        ("IPv4", "224.0.1.1", ""),
        ("IPv4", "127.0.0.1", loopback),
        ("IPv4", "127.8.8.8", loopback),
        ("IPv4", "0.0.0.0", unspecified),
        ("IPv4", "169.254.169.254", link_local),
        ("IPv4", "224.0.0.1", multicast),
        ("IPv6", "2001:db8::1", ""),
        ("IPv6", "::1", loopback),
        ("IPv6", "::ffff:127.0.0.1", loopback),
        ("IPv6", "::", unspecified),
        ("IPv6", "fe80::1", link_local),
        ("IPv6", "ff02::1", multicast),
    ] {
        let wanted = |path: &str| -> Vec<String> {
            let wanted = (!complaint.is_empty()).then(|| format!("{path}: Invalid value: \"{ip}\": {complaint}"));
            wanted.into_iter().collect()
        };
        let slice = json!({"addressType": family, "endpoints": [{"addresses": [ip]}]});
        let texts = wanted("endpoints[0].addresses[0]");
        check("discovery.k8s.io", "EndpointSlice", slice, None, &texts.iter().map(String::as_str).collect::<Vec<_>>());
        let endpoints = json!({"subsets": [{"notReadyAddresses": [{"ip": ip}], "ports": [{"port": 1}]}]});
        let texts = wanted("subsets[0].notReadyAddresses[0].ip");
        check("", "Endpoints", endpoints.clone(), None, &texts.iter().map(String::as_str).collect::<Vec<_>>());
        // What stays as it is may be what it was before it was looked at.
        check("", "Endpoints", endpoints.clone(), Some(endpoints), &[]);
    }
    let bad = json!({"subsets": [{"ports": [{"port": 0}, {"name": "a", "port": 1}]}, {"addresses": [{"ip": "a"}]}]});
    check(
        "",
        "Endpoints",
        bad,
        None,
        &[
            "subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`",
            "subsets[0].ports[0].name: Required value",
            "subsets[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            "subsets[1].addresses[0].ip: Invalid value: \"a\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ],
    );
}
