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

const FLOW: &str = "flowcontrol.apiserver.k8s.io";

#[test]
fn flow_schemas() {
    let schema =
        |rule: Value| json!({"spec": {"priorityLevelConfiguration": {"name": "l"}, "matchingPrecedence": 50, "rules": [rule]}});
    let user = json!([{"kind": "User", "user": {"name": "u"}}]);
    let all = json!([{"verbs": ["*"], "nonResourceURLs": ["*"]}]);
    let resources = |rule: Value| schema(json!({"subjects": user, "resourceRules": [rule]}));
    let urls = |urls: Value| schema(json!({"subjects": user, "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": urls}]}));
    let subject = |subject: Value| schema(json!({"subjects": [subject], "nonResourceRules": all}));
    let named = |name: &str, spec: Value| json!({"metadata": {"name": name}, "spec": spec});
    let mandatory = crate::flowcontrol::mandatory_schema("catch-all").expect("one there is");
    let mut other = mandatory.clone();
    other["distinguisherMethod"] = json!({"type": "ByNamespace"});
    let fixed = format!("spec: Invalid value: {other}: spec of 'catch-all' must equal the fixed value");
    let verbs = "\"create\", \"delete\", \"deletecollection\", \"get\", \"list\", \"patch\", \"proxy\", \"update\", \"watch\"";
    let verb = format!("spec.rules[0].resourceRules[0].verbs: Unsupported value: [\"eat\"]: supported values: {verbs}");
    let table: Vec<(Value, Vec<&str>)> = vec![
        (named("catch-all", mandatory), vec![]),
        (named("catch-all", other), vec![&fixed]),
        (urls(json!(["/", "/a", "/a/*"])), vec![]),
        (
            urls(json!(["a", "/a b", "/a//b", "/*/a", "/a*", ""])),
            vec![
                "spec.rules[0].nonResourceRules[0].nonResourceURLs[0]: Invalid value: \"a\": must start with slash",
                "spec.rules[0].nonResourceRules[0].nonResourceURLs[1]: Invalid value: \"/a b\": must not contain white-space",
                "spec.rules[0].nonResourceRules[0].nonResourceURLs[2]: Invalid value: \"/a//b\": must not contain double slash",
                "spec.rules[0].nonResourceRules[0].nonResourceURLs[3]: Invalid value: \"/*/a\": wildcard can only do suffix matching",
                "spec.rules[0].nonResourceRules[0].nonResourceURLs[4]: Invalid value: \"/a*\": wildcard can only do suffix matching",
                "spec.rules[0].nonResourceRules[0].nonResourceURLs[5]: Invalid value: \"\": must not be empty",
            ],
        ),
        (
            urls(json!(["*", "/a"])),
            vec![
                "spec.rules[0].nonResourceRules[0].nonResourceURLs: Invalid value: [\"*\",\"/a\"]: if '*' is present, must not specify other non-resource URLs",
            ],
        ),
        (resources(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "clusterScope": true})), vec![]),
        (
            resources(json!({"verbs": ["eat"], "apiGroups": ["*", "a"], "resources": [], "namespaces": ["A"]})),
            vec![
                &verb,
                "spec.rules[0].resourceRules[0].apiGroups: Invalid value: [\"*\",\"a\"]: if '*' is present, must not specify other api groups",
                "spec.rules[0].resourceRules[0].resources: Required value: resource rules must supply at least one resource",
                "spec.rules[0].resourceRules[0].namespaces[0]: Invalid value: \"A\": each member of this list must be '*' or a DNS-1123 label; a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
            ],
        ),
        (
            resources(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]})),
            vec![
                "spec.rules[0].resourceRules[0].namespaces: Required value: resource rules that are not cluster scoped must supply at least one namespace",
            ],
        ),
        (
            schema(json!({"subjects": []})),
            vec![
                "spec.rules[0].subjects: Required value: subjects must contain at least one value",
                "spec.rules[0]: Required value: at least one of resourceRules and nonResourceRules has to be non-empty",
            ],
        ),
        (
            subject(json!({"kind": "Robot"})),
            vec![
                "spec.rules[0].subjects[0].kind: Unsupported value: \"Robot\": supported values: \"Group\", \"ServiceAccount\", \"User\"",
            ],
        ),
        (
            subject(json!({"kind": "Group", "user": {"name": "u"}})),
            vec![
                "spec.rules[0].subjects[0].user: Forbidden: user is forbidden when subject kind is not 'User'",
                "spec.rules[0].subjects[0].group: Required value: group is required when subject kind is 'Group'",
            ],
        ),
        (
            subject(json!({"kind": "ServiceAccount", "serviceAccount": {"name": "*"}})),
            vec![
                "spec.rules[0].subjects[0].serviceAccount.namespace: Required value: must specify namespace for service account",
            ],
        ),
        (
            json!({"spec": {"matchingPrecedence": 1, "distinguisherMethod": {"type": "ByHeight"}}}),
            vec![
                "spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1",
                "spec.distinguisherMethod.type: Unsupported value: \"ByHeight\": supported values: \"ByNamespace\", \"ByUser\"",
                "spec.priorityLevelConfiguration.name: Required value: must reference a priority level",
            ],
        ),
        (
            json!({"spec": {"matchingPrecedence": 10_001, "priorityLevelConfiguration": {"name": "l"}}}),
            vec!["spec.matchingPrecedence: Invalid value: 10001: must not be greater than 10000"],
        ),
    ];
    for (object, want) in table {
        check(FLOW, "FlowSchema", object, None, &want);
    }
}

#[test]
fn priority_levels() {
    let level = |spec: Value| json!({"spec": spec});
    let queuing =
        |queuing: Value| level(json!({"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": queuing}}}));
    let exempt = |spec: Value| json!({"metadata": {"name": "exempt"}, "spec": spec});
    let table: Vec<(Value, Vec<&str>)> = vec![
        (queuing(json!({})), vec![]),
        (
            level(json!({"type": "Limited", "limited": {"nominalConcurrencyShares": 0, "limitResponse": {"type": "Reject"}}})),
            vec![],
        ),
        (exempt(json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 7, "lendablePercent": 50}})), vec![]),
        (
            exempt(json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": -1, "lendablePercent": 101}})),
            vec![
                "spec.exempt.nominalConcurrencyShares: Invalid value: -1: must be a non-negative integer",
                "spec.exempt.lendablePercent: Invalid value: 101: must be between 0 and 100, inclusive",
            ],
        ),
        (
            level(json!({"type": "Exempt"})),
            vec!["spec.type: Invalid value: \"Exempt\": type must be 'Exempt' if and only if name is 'exempt'"],
        ),
        (level(json!({"type": "Limited"})), vec!["spec.limited: Required value: must not be empty when type is Limited"]),
        (
            level(json!({"type": "Free"})),
            vec!["spec.type: Unsupported value: \"Free\": supported values: \"Exempt\", \"Limited\""],
        ),
        (
            level(json!({"type": "Limited", "limited": {"nominalConcurrencyShares": -2, "lendablePercent": -1,
                "borrowingLimitPercent": -3, "limitResponse": {"type": "Reject", "queuing": {}}}})),
            vec![
                "spec.limited.nominalConcurrencyShares: Invalid value: -2: must be a non-negative integer",
                "spec.limited.limitResponse.queuing: Forbidden: must be nil if limited.limitResponse.type is not Limited",
                "spec.limited.lendablePercent: Invalid value: -1: must be between 0 and 100, inclusive",
                "spec.limited.borrowingLimitPercent: Invalid value: -3: if specified, must be a non-negative integer",
            ],
        ),
        (
            level(json!({"type": "Limited", "limited": {"limitResponse": {"type": "Queue"}}})),
            vec![
                "spec.limited.limitResponse.queuing: Required value: must not be empty if limited.limitResponse.type is Limited",
            ],
        ),
        (
            level(json!({"type": "Limited", "limited": {"limitResponse": {"type": "Wait"}}})),
            vec!["spec.limited.limitResponse.type: Unsupported value: \"Wait\": supported values: \"Queue\", \"Reject\""],
        ),
        (
            queuing(json!({"queues": 512, "handSize": 8, "queueLengthLimit": -1})),
            vec![
                "spec.limited.limitResponse.queuing.queueLengthLimit: Invalid value: -1: must be positive",
                "spec.limited.limitResponse.queuing.handSize: Invalid value: 8: required entropy bits of deckSize 512 and handSize 8 should not be greater than 60",
            ],
        ),
        (
            queuing(json!({"queues": 4, "handSize": 8})),
            vec!["spec.limited.limitResponse.queuing.handSize: Invalid value: 8: should not be greater than queues (4)"],
        ),
        (
            queuing(json!({"queues": 10_000_001, "handSize": 1})),
            vec!["spec.limited.limitResponse.queuing.queues: Invalid value: 10000001: must not be greater than 10000000"],
        ),
    ];
    for (object, want) in table {
        check(FLOW, "PriorityLevelConfiguration", object, None, &want);
    }
}
