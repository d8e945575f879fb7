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
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            "spec.containers[0].env[0].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
            "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
            "spec.containers[0].imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
            "spec.containers[0].livenessProbe: Required value: must specify a handler type",
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
        &["spec.accessModes: Required value: at least 1 access mode is required", "spec.resources[storage]: Required value"],
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

#[test]
fn quotas() {
    let hard = |hard: Value| json!({"spec": {"hard": hard}});
    let all = json!({"pods": "1", "requests.cpu": "1", "limits.memory": "1Gi", "requests.storage": "1Gi", "count/deployments.apps": 2,
        "requests.example.com/gpu": 1, "hugepages-2Mi": "2Mi", "requests.hugepages-2Mi": "2Mi", "services.nodeports": 1,
        "gold.storageclass.storage.k8s.io/requests.storage": "1Gi", "ephemeral-storage": "1Gi", "requests.ephemeral-storage": "1Gi"});
    let scoped = |scopes: Value, hard: Value| json!({"spec": {"hard": hard, "scopes": scopes}});
    let selected =
        |expression: Value, hard: Value| json!({"spec": {"hard": hard, "scopeSelector": {"matchExpressions": [expression]}}});
    let exists: &[&str] =
        &["spec.scopeSelector.matchExpressions.operator: Invalid value: \"In\": must be 'Exist' when scope is any of \
                  ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, \
                  ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity"];
    // A quota, what it was, and what is wrong.
    let table: Vec<(Value, Option<Value>, &[&str])> = vec![
        (hard(all), None, &[]),
        (
            hard(json!({"gpus": 1})),
            None,
            &[
                "spec.hard[gpus]: Invalid value: \"gpus\": must be a standard resource type or fully qualified",
                "spec.hard[gpus]: Invalid value: \"gpus\": must be a standard resource for quota",
            ],
        ),
        (
            hard(json!({"storage": 1})),
            None,
            &["spec.hard[storage]: Invalid value: \"storage\": must be a standard resource for quota"],
        ),
        (hard(json!({"pods": "-1"})), None, &["spec.hard[pods]: Invalid value: \"-1\": must be greater than or equal to 0"]),
        (hard(json!({"pods": "1500m"})), None, &["spec.hard[pods]: Invalid value: \"1500m\": must be an integer"]),
        (
            hard(json!({"count/jobs.batch": "1500m"})),
            None,
            &["spec.hard[count/jobs.batch]: Invalid value: \"1500m\": must be an integer"],
        ),
        (hard(json!({"cpu": "1500m"})), None, &[]),
        (scoped(json!(["NotBestEffort", "Terminating", "PriorityClass"]), json!({"pods": 1, "cpu": 1})), None, &[]),
        (scoped(json!(["BestEffort"]), json!({"pods": 1, "count/pods": 1})), None, &[]),
        (
            scoped(json!(["BestEffort"]), json!({"pods": 1, "cpu": 1})),
            None,
            &["spec.scopes: Invalid value: [\"BestEffort\"]: unsupported scope applied to resource"],
        ),
        (scoped(json!(["Other"]), json!({"pods": 1})), None, &["spec.scopes: Invalid value: [\"Other\"]: unsupported scope"]),
        (
            scoped(json!(["Terminating", "NotTerminating"]), json!({"pods": 1})),
            None,
            &["spec.scopes: Invalid value: [\"Terminating\",\"NotTerminating\"]: conflicting scopes"],
        ),
        (
            scoped(json!(["Terminating"]), json!({"pods": 1})),
            Some(scoped(json!(["NotTerminating"]), json!({"pods": 1}))),
            &["spec.scopes: Invalid value: [\"Terminating\"]: field is immutable"],
        ),
        (selected(json!({"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}), json!({"pods": 1})), None, &[]),
        (
            selected(
                json!({"scopeName": "VolumeAttributesClass", "operator": "In", "values": ["gold"]}),
                json!({"persistentvolumeclaims": 1, "requests.storage": "1Gi"}),
            ),
            None,
            &[],
        ),
        (
            selected(json!({"scopeName": "PriorityClass", "operator": "NotIn"}), json!({"pods": 1})),
            None,
            &[
                "spec.scopeSelector.matchExpressions.values: Required value: must be at least one value when `operator` is 'In' or \
                 'NotIn' for scope selector",
            ],
        ),
        (
            selected(json!({"scopeName": "PriorityClass", "operator": "Exists", "values": ["a"]}), json!({"pods": 1})),
            None,
            &[
                "spec.scopeSelector.matchExpressions.values: Invalid value: [\"a\"]: must be no value when `operator` is 'Exist' or \
                 'DoesNotExist' for scope selector",
            ],
        ),
        (selected(json!({"scopeName": "BestEffort", "operator": "In", "values": ["a"]}), json!({"pods": 1})), None, exists),
        (
            selected(json!({"scopeName": "Other", "operator": "Is"}), json!({"pods": 1})),
            None,
            &[
                "spec.scopeSelector.matchExpressions.scopeName: Invalid value: \"Other\": unsupported scope",
                "spec.scopeSelector.matchExpressions.operator: Invalid value: \"Is\": not a valid selector operator",
            ],
        ),
    ];
    for (new, old, want) in table {
        check("", "ResourceQuota", new, old, want);
    }
}

#[test]
fn limit_ranges() {
    let range = |item: Value| json!({"spec": {"limits": [item]}});
    let table: Vec<(Value, &[&str])> = vec![
        (
            range(json!({"type": "Container", "max": {"cpu": "2"}, "min": {"cpu": "100m"}, "default": {"cpu": "500m"},
                "defaultRequest": {"cpu": "200m"}, "maxLimitRequestRatio": {"cpu": "10"}})),
            &[],
        ),
        (range(json!({"type": "PersistentVolumeClaim", "max": {"storage": "2Gi"}})), &[]),
        (range(json!({"type": "example.com/thing", "max": {"storage": "2Gi"}})), &[]),
        (
            range(json!({"type": "Thing"})),
            &["spec.limits[0].type: Invalid value: \"Thing\": must be a standard limit type or fully qualified"],
        ),
        (json!({"spec": {"limits": [{"type": "Pod"}, {"type": "Pod"}]}}), &["spec.limits[1].type: Duplicate value: \"Pod\""]),
        (
            range(json!({"type": "PersistentVolumeClaim", "max": {"requests.storage": "1"}})),
            &[
                "spec.limits[0].limits: Required value: either minimum or maximum storage value is required, but neither was provided",
            ],
        ),
        (
            range(json!({"type": "Pod", "max": {"pods": "1"}})),
            &["spec.limits[0].max[pods]: Invalid value: \"pods\": must be a standard resource for containers"],
        ),
        (
            range(json!({"type": "Pod", "default": {"cpu": "1"}})),
            &["spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'"],
        ),
        (
            range(json!({"type": "Pod", "max": {"cpu": "1"}, "min": {"cpu": "2"}})),
            &["spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1"],
        ),
        (
            range(json!({"type": "Container", "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "800m"}})),
            &[
                "spec.limits[0].defaultRequest[cpu]: Invalid value: \"800m\": default request value 800m is greater than default limit \
                 value 500m",
            ],
        ),
        (
            range(json!({"type": "Pod", "maxLimitRequestRatio": {"cpu": "800m"}})),
            &["spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"800m\": ratio 800m is less than 1"],
        ),
        (
            range(
                json!({"type": "Pod", "max": {"memory": "2Gi"}, "min": {"memory": "512Mi"}, "maxLimitRequestRatio": {"memory": "10"}}),
            ),
            &["spec.limits[0].maxLimitRequestRatio[memory]: Invalid value: \"10\": ratio 10 is greater than max/min = 4.000000"],
        ),
        (
            range(json!({"type": "Container", "default": {"example.com/gpu": "2"}, "defaultRequest": {"example.com/gpu": "1"}})),
            &[
                "spec.limits[0].defaultRequest[example.com/gpu]: Invalid value: \"1\": default value 2 must equal to defaultRequest value \
                 1 in example.com/gpu",
            ],
        ),
    ];
    for (new, want) in table {
        check("", "LimitRange", new, None, want);
    }
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

#[test]
fn nodes_and_events() {
    let node = |spec: Value| json!({"spec": spec});
    let table: Vec<(Value, Option<Value>, &[&str])> = vec![
        (node(json!({"podCIDRs": ["10.0.0.0/24", "fd00::/64"], "taints": [{"key": "a", "effect": "NoSchedule"}]})), None, &[]),
        (
            node(json!({"taints": [{"key": "a", "effect": "Never"}, {"key": "b", "value": "v", "effect": "NoExecute"},
                {"key": "b", "effect": "NoExecute"}]})),
            None,
            &[
                "metadata.taints[0].effect: Unsupported value: \"Never\": supported values: \"NoExecute\", \"NoSchedule\", \
                 \"PreferNoSchedule\"",
                "metadata.taints[2]: Duplicate value: {\"effect\":\"NoExecute\",\"key\":\"b\"}: taints must be unique by key and \
                 effect pair",
            ],
        ),
        (
            node(json!({"podCIDRs": ["10.0.0.0/24", "10.0.1.0/24"]})),
            None,
            &["spec.podCIDRs: Invalid value: [\"10.0.0.0/24\",\"10.0.1.0/24\"]: may specify no more than one CIDR for each IP \
                 family"],
        ),
        (
            node(json!({"podCIDRs": ["10.0.1.0/24"], "providerID": "b"})),
            Some(node(json!({"podCIDRs": ["10.0.0.0/24"], "providerID": "a"}))),
            &[
                "spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid",
                "spec.providerID: Forbidden: node updates may not change providerID except from \"\" to valid",
            ],
        ),
    ];
    for (new, old, want) in table {
        check("", "Node", new, old, want);
    }
    let meta = json!({"name": "e", "namespace": "a"});
    check(
        "",
        "Event",
        json!({"metadata": meta, "involvedObject": {"namespace": "b"}}),
        None,
        &["involvedObject.namespace: Invalid value: \"b\": does not match event.namespace"],
    );
    let strict = json!({"metadata": meta, "regarding": {"namespace": "a"}, "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": "c", "reportingInstance": "i", "action": "a", "reason": "r", "type": "Normal"});
    check("events.k8s.io", "Event", strict.clone(), None, &[]);
    let mut other = strict.clone();
    other["note"] = "n".into();
    check("events.k8s.io", "Event", other, Some(strict.clone()), &["message: Invalid value: \"n\": field is immutable"]);
    let mut odd = strict;
    odd["type"] = "Odd".into();
    check("events.k8s.io", "Event", odd, None, &["type: Invalid value: \"\": has invalid value: Odd"]);
}

#[test]
fn addresses_and_policies_of_networks() {
    let policy = |peer: Value| json!({"spec": {"ingress": [{"from": [peer]}]}});
    check(
        "networking.k8s.io",
        "NetworkPolicy",
        policy(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}})),
        None,
        &[],
    );
    check(
        "networking.k8s.io",
        "NetworkPolicy",
        policy(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}})),
        None,
        &["spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`"],
    );
    let cidrs = |cidrs: Value| json!({"spec": {"cidrs": cidrs}});
    check("networking.k8s.io", "ServiceCIDR", cidrs(json!(["10.0.0.0/16"])), None, &[]);
    check(
        "networking.k8s.io",
        "ServiceCIDR",
        cidrs(json!([])),
        None,
        &["spec.cidrs: Required value: at least one CIDR required"],
    );
    check(
        "networking.k8s.io",
        "ServiceCIDR",
        cidrs(json!(["10.1.0.0/16"])),
        Some(cidrs(json!(["10.0.0.0/16"]))),
        &["spec.cidrs[0]: Invalid value: \"10.1.0.0/16\": field is immutable"],
    );
    let address = |spec: Value| json!({"metadata": {"name": "10.0.0.1"}, "spec": spec});
    check("networking.k8s.io", "IPAddress", address(json!({})), None, &["spec.parentRef: Required value"]);
    check("networking.k8s.io", "IPAddress", address(json!({"parentRef": {"resource": "services", "name": "s"}})), None, &[]);
}

#[test]
fn storage_kinds() {
    const STORAGE: &str = "storage.k8s.io";
    check(STORAGE, "CSIDriver", json!({"spec": {}}), None, &[]);
    check(
        STORAGE,
        "CSIDriver",
        json!({"spec": {"attachRequired": false}}),
        Some(json!({"spec": {}})),
        &["spec.attachedRequired: Invalid value: false: field is immutable"],
    );
    check(
        STORAGE,
        "CSINode",
        json!({"spec": {"drivers": [{"name": "a.b", "nodeID": "n"}, {"name": "a.b", "nodeID": ""}]}}),
        None,
        &["spec.drivers[1].nodeID: Required value", "spec.drivers[1].name: Duplicate value: \"a.b\""],
    );
    check(
        STORAGE,
        "VolumeAttributesClass",
        json!({"driverName": "a.b"}),
        None,
        &["parameters: Required value: must contain at least one key/value pair"],
    );
    check(
        STORAGE,
        "VolumeAttachment",
        json!({"spec": {"attacher": "a.b", "nodeName": "n", "source": {}}}),
        None,
        &["spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName"],
    );
}

#[test]
fn jobs() {
    let job = |spec: Value| {
        let mut job = json!({"spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
        crate::patch::merge::merge(&mut job["spec"], &spec);
        job
    };
    let table: Vec<(Value, &[&str])> = vec![
        (json!({}), &[]),
        (
            json!({"completionMode": "Indexed", "parallelism": 1}),
            &["spec.completions: Required value: when completion mode is Indexed"],
        ),
        (
            json!({"successPolicy": {"rules": []}}),
            &["spec.successPolicy: Invalid value: {\"rules\":[]}: requires indexed completion mode"],
        ),
        (
            json!({"podFailurePolicy": {"rules": [{"action": "FailJob"}]}}),
            &["spec.podFailurePolicy.rules[0]: Invalid value: specifying one of OnExitCodes and OnPodConditions is required"],
        ),
        (
            json!({"completionMode": "Indexed", "completions": 3, "successPolicy": {"rules": [{"succeededIndexes": "1-3"}]}}),
            &[
                "spec.successPolicy.rules[0].succeededIndexes: Invalid value: \"1-3\": error parsing succeededIndexes: too large index: \"3\"",
            ],
        ),
    ];
    for (spec, want) in table {
        check("batch", "Job", job(spec), None, want);
    }
}
