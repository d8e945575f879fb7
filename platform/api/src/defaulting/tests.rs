use serde_json::{Value, json};

use super::apply;
use crate::registry::by_kind;

/// Defaults `given` and compares what was added at each path.
fn check(group: &str, kind: &str, given: Value, want: &[(&str, Value)]) {
    let version = "v1";
    let row = by_kind(group, version, kind).expect("built-in kind");
    let mut object = given;
    apply(row, &mut object);
    for (path, value) in want {
        assert_eq!(object.pointer(path).unwrap_or(&Value::Null), value, "{kind}{path}: {object}");
    }
    let once = object.clone();
    apply(row, &mut object);
    assert_eq!(object, once, "defaulting twice changes {kind}");
}

#[test]
fn secrets_take_texts() {
    let given = json!({"data": {"a": "MQ==", "b": "Mg=="}, "stringData": {"a": "one", "c": ""}});
    let want = [("/data", json!({"a": "b25l", "b": "Mg==", "c": ""})), ("/stringData", Value::Null), ("/type", json!("Opaque"))];
    check("", "Secret", given, &want);
    check(
        "",
        "Secret",
        json!({"stringData": {"a": "x"}, "type": "t"}),
        &[("/data", json!({"a": "eA=="})), ("/type", json!("t"))],
    );
    check("", "Secret", json!({"stringData": null}), &[("/data", Value::Null), ("/stringData", Value::Null)]);
}

#[test]
fn pods() {
    let given = json!({"spec": {"hostNetwork": true, "serviceAccount": "a", "volumes": [{"name": "e"}, {"name": "s", "secret": {"secretName": "x"}}],
        "containers": [{"name": "c", "image": "nginx", "ports": [{"containerPort": 80}], "resources": {"limits": {"cpu": "1"}},
        "livenessProbe": {"httpGet": {"port": 80}}}, {"name": "d", "image": "r:5000/nginx:1.2"}]}});
    check(
        "",
        "Pod",
        given,
        &[
            ("/spec/dnsPolicy", json!("ClusterFirst")),
            ("/spec/enableServiceLinks", json!(true)),
            ("/spec/serviceAccountName", json!("a")),
            ("/spec/securityContext", json!({})),
            ("/spec/terminationGracePeriodSeconds", json!(30)),
            ("/spec/volumes/0/emptyDir", json!({})),
            ("/spec/volumes/1/secret/defaultMode", json!(420)),
            ("/spec/containers/0/imagePullPolicy", json!("Always")),
            ("/spec/containers/0/ports/0", json!({"containerPort": 80, "hostPort": 80, "protocol": "TCP"})),
            ("/spec/containers/0/resources/requests", json!({"cpu": "1"})),
            (
                "/spec/containers/0/livenessProbe",
                json!({"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1,
            "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}),
            ),
            ("/spec/containers/1/imagePullPolicy", json!("IfNotPresent")),
        ],
    );
}

#[test]
fn workloads() {
    check(
        "apps",
        "Deployment",
        json!({"spec": {"template": {"spec": {"containers": [{"name": "c"}]}}}}),
        &[
            ("/spec/replicas", json!(1)),
            ("/spec/strategy", json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}})),
            ("/spec/template/spec/restartPolicy", json!("Always")),
            ("/spec/template/spec/enableServiceLinks", Value::Null),
        ],
    );
    check(
        "apps",
        "Deployment",
        json!({"spec": {"strategy": {"type": "Recreate"}}}),
        &[("/spec/strategy", json!({"type": "Recreate"}))],
    );
    check(
        "batch",
        "Job",
        json!({"spec": {"template": {"metadata": {"labels": {"a": "b"}}}}}),
        &[
            ("/metadata/labels", json!({"a": "b"})),
            ("/spec/completions", json!(1)),
            ("/spec/parallelism", json!(1)),
            ("/spec/backoffLimit", json!(6)),
        ],
    );
    check("batch", "Job", json!({"spec": {"parallelism": 3}}), &[("/spec/completions", Value::Null)]);
    check(
        "apps",
        "StatefulSet",
        json!({"spec": {"volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]}}),
        &[
            ("/spec/updateStrategy", json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}})),
            (
                "/spec/volumeClaimTemplates/0",
                json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"},
                    "spec": {"volumeMode": "Filesystem"}, "status": {"phase": "Pending"}}),
            ),
        ],
    );
}

#[test]
fn services_and_the_rest() {
    check(
        "",
        "Service",
        json!({"spec": {"ports": [{"port": 80}], "sessionAffinity": "ClientIP", "type": "LoadBalancer"}}),
        &[
            ("/spec/ports/0", json!({"port": 80, "protocol": "TCP", "targetPort": 80})),
            ("/spec/sessionAffinityConfig/clientIP/timeoutSeconds", json!(10800)),
            ("/spec/externalTrafficPolicy", json!("Cluster")),
            ("/spec/internalTrafficPolicy", json!("Cluster")),
            ("/spec/allocateLoadBalancerNodePorts", json!(true)),
        ],
    );
    check("", "Secret", json!({}), &[("/type", json!("Opaque"))]);
    check(
        "",
        "Namespace",
        json!({"metadata": {"name": "n"}}),
        &[("/metadata/labels", json!({"kubernetes.io/metadata.name": "n"}))],
    );
    check(
        "networking.k8s.io",
        "NetworkPolicy",
        json!({"spec": {"egress": [{}]}}),
        &[("/spec/policyTypes", json!(["Ingress", "Egress"]))],
    );
    check(
        "rbac.authorization.k8s.io",
        "RoleBinding",
        json!({"roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "name": "s"}]}),
        &[
            ("/roleRef/apiGroup", json!("rbac.authorization.k8s.io")),
            ("/subjects/0/apiGroup", json!("rbac.authorization.k8s.io")),
            ("/subjects/1/apiGroup", Value::Null),
        ],
    );
    check(
        "",
        "LimitRange",
        json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "2"}, "min": {"memory": "1Mi"}}]}}),
        &[
            ("/spec/limits/0/default", json!({"cpu": "2"})),
            ("/spec/limits/0/defaultRequest", json!({"cpu": "2", "memory": "1Mi"})),
        ],
    );
}
