//! Each check by pods that pass and pods that do not, in the way of `pod-security-admission/test`.

use serde_json::{Map, Value, json};

use super::*;

fn standard(level: Level, version: Version) -> Standard {
    Standard { level, version }
}

/// A pod that meets every standard.
fn model() -> Value {
    json!({
        "metadata": {},
        "spec": {
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container("c")],
            "initContainers": [container("i")],
        },
    })
}

fn container(name: &str) -> Value {
    json!({"name": name, "image": "a", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}})
}

/// Puts a change on a value: objects field by field, `null` removes, everything else replaces.
fn patch(value: &mut Value, change: &Value) {
    let Value::Object(fields) = change else {
        *value = change.clone();
        return;
    };
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    for (key, change) in fields {
        if change.is_null() {
            value.as_object_mut().unwrap().remove(key);
        } else {
            patch(&mut value[key.as_str()], change);
        }
    }
}

/// The model with these changes: of the pod, and of its container `c`.
fn pod(change: &Value, of_container: &Value) -> Value {
    let mut pod = model();
    patch(&mut pod, change);
    patch(&mut pod["spec"]["containers"][0], of_container);
    pod
}

fn context(fields: Value) -> Value {
    json!({"securityContext": fields})
}

/// What is found at a level, in a version.
fn found(level: Level, version: Version, pod: &Value) -> String {
    details(&violations(standard(level, version), Pod::of(pod)))
}

#[test]
fn checks_are_in_upstreams_order() {
    let ids: Vec<(Level, &str)> = CHECKS.iter().map(|check| (check.level, check.id)).collect();
    let mut sorted = ids.clone();
    sorted.sort_unstable();
    assert_eq!(ids, sorted);
    for check in CHECKS {
        assert!(check.since <= NEWEST, "{}", check.id);
        let replaced = check.instead_of.map(|id| CHECKS.iter().find(|other| other.id == id).map(|other| other.level));
        assert!(matches!(replaced, None | Some(Some(Level::Baseline))), "{}", check.id);
    }
}

#[test]
fn the_model_passes() {
    for minor in 0..=NEWEST + 2 {
        for level in [Level::Privileged, Level::Baseline, Level::Restricted] {
            assert_eq!(found(level, Version::Minor(minor), &model()), "", "{level:?} 1.{minor}");
        }
    }
}

#[test]
fn privileged_lets_everything_pass() {
    let worst = pod(&json!({"spec": {"hostNetwork": true}}), &context(json!({"privileged": true})));
    assert_eq!(found(Level::Privileged, Version::Latest, &worst), "");
    assert!(!found(Level::Baseline, Version::Latest, &worst).is_empty());
}

#[test]
fn a_plain_pod_is_told_all_that_restricted_asks() {
    let plain = json!({"spec": {"containers": [{"name": "c", "image": "a"}]}});
    assert_eq!(found(Level::Baseline, Version::Latest, &plain), "");
    assert_eq!(
        found(Level::Restricted, Version::Latest, &plain),
        "allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false), \
         unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), \
         runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true), \
         seccompProfile (pod or container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
    );
    let found = violations(standard(Level::Restricted, Version::Latest), Pod::of(&plain));
    assert_eq!(
        reasons(&found),
        "allowPrivilegeEscalation != false, unrestricted capabilities, runAsNonRoot != true, seccompProfile"
    );
    // Version 1.0 knew little.
    assert_eq!(
        self::found(Level::Restricted, Version::Minor(0), &plain),
        "runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true)"
    );
}

#[test]
fn baseline() {
    let none = json!({});
    let spec = |fields: Value| json!({"spec": fields});
    let pod_context = |fields: Value| json!({"spec": {"securityContext": fields}});
    // What is changed of the pod and of its container, and what is found.
    let table = [
        // hostNamespaces
        (spec(json!({"hostNetwork": true, "hostPID": true})), none.clone(), "host namespaces (hostNetwork=true, hostPID=true)"),
        (spec(json!({"hostIPC": true})), none.clone(), "host namespaces (hostIPC=true)"),
        (spec(json!({"hostIPC": false, "hostUsers": true})), none.clone(), ""),
        // privileged
        (
            none.clone(),
            context(json!({"privileged": true})),
            "privileged (container \"c\" must not set securityContext.privileged=true)",
        ),
        (none.clone(), context(json!({"privileged": false})), ""),
        // capabilities_baseline
        (none.clone(), context(json!({"capabilities": {"add": ["NET_BIND_SERVICE", "SYS_CHROOT", "CHOWN"]}})), ""),
        (
            none.clone(),
            context(json!({"capabilities": {"add": ["NET_RAW", "CAP_CHOWN", "ALL"]}})),
            "non-default capabilities (container \"c\" must not include \"ALL\", \"CAP_CHOWN\", \"NET_RAW\" in \
             securityContext.capabilities.add)",
        ),
        // hostPathVolumes
        (
            spec(json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}, {"name": "w", "emptyDir": {}}]})),
            none.clone(),
            "hostPath volumes (volume \"v\")",
        ),
        (
            spec(json!({"volumes": [{"name": "v", "hostPath": {}}, {"name": "w", "hostPath": {}}]})),
            none.clone(),
            "hostPath volumes (volumes \"v\", \"w\")",
        ),
        // hostPorts
        (none.clone(), json!({"ports": [{"containerPort": 80}, {"containerPort": 81, "hostPort": 0}]}), ""),
        (none.clone(), json!({"ports": [{"hostPort": 8080}]}), "hostPort (container \"c\" uses hostPort 8080)"),
        (
            spec(json!({"initContainers": [{"name": "i", "ports": [{"hostPort": 9}]}]})),
            json!({"ports": [{"hostPort": 10}]}),
            "hostPort (containers \"i\", \"c\" use hostPorts 10, 9)",
        ),
        // hostProbesAndHostLifecycle
        (none.clone(), json!({"livenessProbe": {"httpGet": {"port": 1, "host": ""}}}), ""),
        (
            none.clone(),
            json!({"livenessProbe": {"httpGet": {"host": "10.0.0.1"}}, "lifecycle": {"preStop": {"tcpSocket": {"host": "b"}}}}),
            "probe or lifecycle host (container \"c\" uses probe or lifecycle hosts \"10.0.0.1\", \"b\")",
        ),
        // appArmorProfile
        (pod_context(json!({"appArmorProfile": {"type": "Localhost"}})), none.clone(), ""),
        (
            pod_context(json!({"appArmorProfile": {"type": "Unconfined"}})),
            context(json!({"appArmorProfile": {"type": "Unconfined"}})),
            "forbidden AppArmor profile (pod and container \"c\" must not set AppArmor profile type to \"Unconfined\")",
        ),
        (
            json!({"metadata": {"annotations": {"container.apparmor.security.beta.kubernetes.io/c": "unconfined", "a": "unconfined"}}}),
            context(json!({"appArmorProfile": {"type": "Unconfined"}})),
            "forbidden AppArmor profiles (container \"c\" and annotation must not set AppArmor profile type to \"Unconfined\", \
             \"container.apparmor.security.beta.kubernetes.io/c=\"unconfined\"\")",
        ),
        (
            json!({"metadata": {"annotations": {"container.apparmor.security.beta.kubernetes.io/c": "localhost/x"}}}),
            none.clone(),
            "",
        ),
        // seLinuxOptions
        (pod_context(json!({"seLinuxOptions": {"type": "container_engine_t", "level": "s0"}})), none.clone(), ""),
        (
            pod_context(json!({"seLinuxOptions": {"type": "spc_t", "user": "u"}})),
            context(json!({"seLinuxOptions": {"type": "x_t", "role": "r"}})),
            "seLinuxOptions (pod and container \"c\" set forbidden securityContext.seLinuxOptions: types \"spc_t\", \"x_t\"; \
             user may not be set; role may not be set)",
        ),
        // procMount
        (none.clone(), context(json!({"procMount": "Default"})), ""),
        (
            none.clone(),
            context(json!({"procMount": "Unmasked"})),
            "procMount (container \"c\" must not set securityContext.procMount to \"Unmasked\")",
        ),
        (spec(json!({"hostUsers": false})), context(json!({"procMount": "Unmasked"})), ""),
        // seccompProfile_baseline
        (pod_context(json!({"seccompProfile": null})), context(json!({"seccompProfile": {"type": "Localhost"}})), ""),
        (
            pod_context(json!({"seccompProfile": {"type": "Unconfined"}})),
            none.clone(),
            "seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")",
        ),
        // sysctls
        (
            pod_context(json!({"sysctls": [{"name": "net.ipv4.tcp_notsent_lowat"}, {"name": "kernel.shm_rmid_forced"}]})),
            none.clone(),
            "",
        ),
        (
            pod_context(json!({"sysctls": [{"name": "kernel.msgmax"}, {"name": "a"}]})),
            none.clone(),
            "forbidden sysctls (kernel.msgmax, a)",
        ),
        // windowsHostProcess
        (
            pod_context(json!({"windowsOptions": {"hostProcess": true}})),
            context(json!({"windowsOptions": {"hostProcess": true}})),
            "hostProcess (pod and container \"c\" must not set securityContext.windowsOptions.hostProcess=true)",
        ),
    ];
    for (change, of_container, wanted) in table {
        let pod = pod(&change, &of_container);
        assert_eq!(found(Level::Baseline, Version::Latest, &pod), wanted, "{change} {of_container}");
    }
}

#[test]
fn restricted() {
    let none = json!({});
    let pod_context = |fields: Value| json!({"spec": {"securityContext": fields}});
    let volumes = |volumes: Value| json!({"spec": {"volumes": volumes}});
    let table = [
        // allowPrivilegeEscalation
        (
            none.clone(),
            context(json!({"allowPrivilegeEscalation": true})),
            "allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false)",
        ),
        // capabilities_restricted
        (none.clone(), context(json!({"capabilities": {"add": ["NET_BIND_SERVICE"]}})), ""),
        (
            none.clone(),
            context(json!({"capabilities": {"add": ["CHOWN"], "drop": ["NET_RAW"]}})),
            "unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]; container \"c\" must \
             not include \"CHOWN\" in securityContext.capabilities.add)",
        ),
        // procMount_restricted
        (
            json!({"spec": {"hostUsers": false}}),
            context(json!({"procMount": "Unmasked"})),
            "procMount (container \"c\" must not set securityContext.procMount to \"Unmasked\")",
        ),
        // restrictedVolumes
        (
            volumes(json!([
                {"name": "a", "configMap": {}}, {"name": "b", "csi": {}}, {"name": "c", "downwardAPI": {}},
                {"name": "d", "emptyDir": {}}, {"name": "e", "ephemeral": {}}, {"name": "f", "image": {}},
                {"name": "g", "persistentVolumeClaim": {}}, {"name": "h", "projected": {}}, {"name": "i", "secret": {}},
            ])),
            none.clone(),
            "",
        ),
        (
            volumes(json!([{"name": "a", "hostPath": {}}])),
            none.clone(),
            "restricted volume types (volume \"a\" uses restricted volume type \"hostPath\")",
        ),
        (
            volumes(json!([{"name": "a", "nfs": {}}, {"name": "b", "awsElasticBlockStore": {}}, {"name": "c"}])),
            none.clone(),
            "restricted volume types (volumes \"a\", \"b\", \"c\" use restricted volume types \"awsElasticBlockStore\", \"nfs\", \
             \"unknown\")",
        ),
        // runAsNonRoot
        (
            pod_context(json!({"runAsNonRoot": false})),
            context(json!({"runAsNonRoot": false})),
            "runAsNonRoot != true (pod and container \"c\" must not set securityContext.runAsNonRoot=false)",
        ),
        (
            pod_context(json!({"runAsNonRoot": null})),
            context(json!({"runAsNonRoot": true})),
            "runAsNonRoot != true (pod or container \"i\" must set securityContext.runAsNonRoot=true)",
        ),
        (json!({"spec": {"hostUsers": false, "securityContext": {"runAsNonRoot": false}}}), none.clone(), ""),
        // runAsUser
        (pod_context(json!({"runAsUser": 1000})), none.clone(), ""),
        (
            pod_context(json!({"runAsUser": 0})),
            context(json!({"runAsUser": 0})),
            "runAsUser=0 (pod and container \"c\" must not set runAsUser=0)",
        ),
        (json!({"spec": {"hostUsers": false, "securityContext": {"runAsUser": 0}}}), none.clone(), ""),
        // seccompProfile_restricted
        (
            pod_context(json!({"seccompProfile": null})),
            context(json!({"seccompProfile": {"type": "Localhost"}})),
            "seccompProfile (pod or container \"i\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \
             \"Localhost\")",
        ),
        (
            none.clone(),
            context(json!({"seccompProfile": {"type": "Unconfined"}})),
            "seccompProfile (container \"c\" must not set securityContext.seccompProfile.type to \"Unconfined\")",
        ),
    ];
    for (change, of_container, wanted) in table {
        let pod = pod(&change, &of_container);
        assert_eq!(found(Level::Restricted, Version::Latest, &pod), wanted, "{change} {of_container}");
    }
}

#[test]
fn versions_differ() {
    use Level::{Baseline, Restricted};
    let none = json!({});
    let sysctl = |name: &str| json!({"spec": {"securityContext": {"sysctls": [{"name": name}]}}});
    let windows = json!({"spec": {"os": {"name": "windows"}, "securityContext": {"seccompProfile": null}}});
    let unmasked = context(json!({"procMount": "Unmasked"}));
    // A pod, the level at which it is looked at, and the first version that finds nothing wrong with it any more.
    let better = [
        (Baseline, pod(&sysctl("net.ipv4.ip_local_reserved_ports"), &none), 27),
        (Baseline, pod(&sysctl("net.ipv4.tcp_keepalive_time"), &none), 29),
        (Baseline, pod(&sysctl("net.ipv4.tcp_rmem"), &none), 32),
        (Baseline, pod(&sysctl("net.ipv4.tcp_slow_start_after_idle"), &none), 37),
        (Baseline, pod(&json!({"spec": {"securityContext": {"seLinuxOptions": {"type": "container_engine_t"}}}}), &none), 31),
        (Baseline, pod(&json!({"spec": {"hostUsers": false}}), &unmasked), 35),
        (Restricted, pod(&json!({"spec": {"hostUsers": false, "securityContext": {"runAsNonRoot": false}}}), &none), 35),
    ];
    for (level, pod, version) in better {
        for minor in 0..=NEWEST {
            assert_eq!(found(level, Version::Minor(minor), &pod).is_empty(), minor >= version, "{pod} 1.{minor}");
        }
    }
    // The other way round: the first version that finds something.
    let worse = [
        (Restricted, pod(&none, &context(json!({"allowPrivilegeEscalation": null}))), 8),
        (Restricted, pod(&json!({"spec": {"securityContext": {"seccompProfile": null}}}), &none), 19),
        (Restricted, pod(&none, &context(json!({"capabilities": null}))), 22),
        (Restricted, pod(&json!({"spec": {"securityContext": {"runAsUser": 0}}}), &none), 23),
        (Baseline, pod(&none, &json!({"livenessProbe": {"tcpSocket": {"host": "a"}}})), 34),
    ];
    for (level, pod, version) in worse {
        for minor in 0..=NEWEST {
            assert_eq!(!found(level, Version::Minor(minor), &pod).is_empty(), minor >= version, "{pod} 1.{minor}");
        }
    }
    // Pods for Windows were asked what they cannot set until 1.25.
    let windows = pod(&windows, &context(json!({"allowPrivilegeEscalation": null, "capabilities": null})));
    for (minor, clean) in [(24, false), (25, true)] {
        assert_eq!(found(Restricted, Version::Minor(minor), &windows).is_empty(), clean, "1.{minor}");
    }
    // Before 1.19 seccomp was told by annotations.
    let annotated = json!({"metadata": {"annotations": {
        "seccomp.security.alpha.kubernetes.io/pod": "unconfined",
        "container.seccomp.security.alpha.kubernetes.io/c": "docker/default",
        "container.seccomp.security.alpha.kubernetes.io/i": "x",
    }}});
    let annotated = pod(&annotated, &none);
    assert_eq!(
        found(Baseline, Version::Minor(18), &annotated),
        "seccompProfile (forbidden annotations container.seccomp.security.alpha.kubernetes.io/i=\"x\", \
         seccomp.security.alpha.kubernetes.io/pod=\"unconfined\")"
    );
    assert_eq!(found(Baseline, Version::Minor(19), &annotated), "");
}

#[test]
fn ephemeral_containers_are_looked_at() {
    let change = json!({"spec": {"ephemeralContainers": [{"name": "e", "securityContext": {"privileged": true}}]}});
    assert_eq!(
        found(Level::Baseline, Version::Latest, &pod(&change, &json!({}))),
        "privileged (container \"e\" must not set securityContext.privileged=true)"
    );
}
