//! The objects of API priority and fairness that every cluster has (`apiserver/pkg/apis/flowcontrol/bootstrap/default.go`),
//! and how they are kept (`pkg/registry/flowcontrol/ensurer`).
//!
//! The mandatory ones are put back whatever was done to them. The suggested ones are made anew if they are missing, and
//! follow this program while their annotation says so: whoever changes one sets it to `false`.

use pharos_api::flowcontrol::{CATCH_ALL, EXEMPT, everything, groups, mandatory_level, mandatory_schema, same};
use serde_json::{Value, json};

/// The annotation that says whether a suggested object follows this program.
pub(super) const AUTO_UPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

const NODES: &str = "system:nodes";
const EVERYONE: [&str; 2] = ["system:unauthenticated", "system:authenticated"];

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": kind,
        "metadata": {"name": name, "annotations": {AUTO_UPDATE: "true"}},
        "spec": spec,
    })
}

/// The PriorityLevelConfigurations.
pub(super) fn levels() -> Vec<Value> {
    let queues = |shares: u64, lendable: u64, queues: u64, hand: u64| {
        json!({"type": "Limited", "limited": {
            "nominalConcurrencyShares": shares, "lendablePercent": lendable,
            "limitResponse": {"type": "Queue", "queuing": {"queues": queues, "handSize": hand, "queueLengthLimit": 50}}}})
    };
    let suggested = [
        ("system", queues(30, 33, 64, 6)),
        ("node-high", queues(40, 25, 64, 6)),
        ("leader-election", queues(10, 0, 16, 4)),
        ("workload-high", queues(40, 50, 128, 6)),
        ("workload-low", queues(100, 90, 128, 6)),
        ("global-default", queues(20, 50, 128, 6)),
    ];
    let mandatory = [EXEMPT, CATCH_ALL].map(|name| (name, mandatory_level(name).unwrap_or_default()));
    let all = mandatory.into_iter().chain(suggested);
    all.map(|(name, spec)| object("PriorityLevelConfiguration", name, spec)).collect()
}

/// The FlowSchemas.
pub(super) fn schemas() -> Vec<Value> {
    let user = |name: &str| json!({"kind": "User", "user": {"name": name}});
    let (manager, scheduler) = (user("system:kube-controller-manager"), user("system:kube-scheduler"));
    let accounts = json!({"kind": "ServiceAccount", "serviceAccount": {"name": "*", "namespace": "kube-system"}});
    let resources = |verbs: &[&str], group: &str, resources: &[&str], cluster: bool| {
        let mut rule = json!({"verbs": verbs, "apiGroups": [group], "resources": resources, "namespaces": ["*"]});
        if cluster {
            rule["clusterScope"] = json!(true);
        }
        rule
    };
    let probes = json!({"subjects": groups(&EVERYONE),
        "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]}]});
    let leases = resources(&["get", "create", "update"], "coordination.k8s.io", &["leases"], false);
    let election = json!({"subjects": [manager, scheduler, accounts], "resourceRules": [leases]});
    let node_high = json!({"subjects": groups(&[NODES]), "resourceRules": [
        resources(&["*"], "", &["nodes", "nodes/status"], true),
        resources(&["*"], "coordination.k8s.io", &["leases"], false),
    ]});
    let (by_user, by_namespace) = (Some("ByUser"), Some("ByNamespace"));
    let suggested = [
        ("probes", EXEMPT, 2, None, probes),
        ("system-leader-election", "leader-election", 100, by_user, election),
        ("system-node-high", "node-high", 400, by_user, node_high),
        ("system-nodes", "system", 500, by_user, everything(&groups(&[NODES]))),
        ("kube-controller-manager", "workload-high", 800, by_namespace, everything(&json!([manager]))),
        ("kube-scheduler", "workload-high", 800, by_namespace, everything(&json!([scheduler]))),
        ("kube-system-service-accounts", "workload-high", 900, by_namespace, everything(&json!([accounts]))),
        ("service-accounts", "workload-low", 9000, by_user, everything(&groups(&["system:serviceaccounts"]))),
        ("global-default", "global-default", 9900, by_user, everything(&groups(&EVERYONE))),
    ];
    let suggested = suggested.into_iter().map(|(name, level, precedence, method, rule)| {
        let mut spec = json!({
            "priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence, "rules": [rule]});
        if let Some(method) = method {
            spec["distinguisherMethod"] = json!({"type": method});
        }
        (name, spec)
    });
    let mandatory = [EXEMPT, CATCH_ALL].map(|name| (name, mandatory_schema(name).unwrap_or_default()));
    mandatory.into_iter().chain(suggested).map(|(name, spec)| object("FlowSchema", name, spec)).collect()
}

fn annotation(object: &Value) -> &Value {
    &object["metadata"]["annotations"][AUTO_UPDATE]
}

/// A boolean as Go's `strconv.ParseBool` reads it.
fn boolean(value: &Value) -> Option<bool> {
    match value.as_str()? {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// What an object has to be changed to; `None` if it is as it should be (`ReviseIfNeeded` in `strategy.go`).
pub(super) fn revised(current: &Value, wanted: &Value) -> Option<Value> {
    let name = wanted["metadata"]["name"].as_str().unwrap_or_default();
    let is_mandatory = name == EXEMPT || name == CATCH_ALL;
    let asked = boolean(annotation(current));
    // Without a word on it: if nobody has changed it yet.
    let follows = is_mandatory || asked.unwrap_or_else(|| current["metadata"]["generation"] == 1);
    let is_other = follows && !as_wanted(name, &current["spec"], &wanted["spec"]);
    if asked == Some(follows) && !is_other {
        return None;
    }
    let mut revised = current.clone();
    if asked != Some(follows) {
        revised["metadata"]["annotations"][AUTO_UPDATE] = json!(follows.to_string());
    }
    if is_other {
        revised["spec"] = wanted["spec"].clone();
    }
    Some(revised)
}

fn as_wanted(name: &str, current: &Value, wanted: &Value) -> bool {
    let mut wanted = wanted.clone();
    if name == EXEMPT && !wanted["exempt"].is_null() && !current["exempt"].is_null() {
        // What the exempt lend is the administrator's to choose.
        wanted["exempt"] = current["exempt"].clone();
    }
    same(current, &wanted)
}

/// Whether an object followed a program that had it, and is none of this one's.
pub(super) fn is_unwanted(object: &Value, wanted: &[Value]) -> bool {
    let name = &object["metadata"]["name"];
    boolean(annotation(object)) == Some(true) && !wanted.iter().any(|wanted| wanted["metadata"]["name"] == *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_kept_as_they_say() {
        let wanted =
            |objects: Vec<Value>, name: &str| objects.into_iter().find(|object| object["metadata"]["name"] == name).unwrap();
        let suggested = wanted(levels(), "system");
        let other = json!({"type": "Limited", "limited": {"limitResponse": {"type": "Reject"}}});
        let with = |wanted: &Value, annotation: Value, generation: u64, spec: Option<&Value>| {
            let mut object = wanted.clone();
            object["metadata"]["annotations"][AUTO_UPDATE] = annotation;
            object["metadata"]["generation"] = json!(generation);
            if let Some(spec) = spec {
                object["spec"] = spec.clone();
            }
            object
        };
        let mandatory = wanted(levels(), "catch-all");
        // Object, annotation, generation, whether its spec is another; the annotation and whether the spec is right after.
        for (object, annotation, generation, is_other, want) in [
            (&suggested, json!("true"), 3, false, None),
            (&suggested, json!("true"), 3, true, Some(("true", true))),
            (&suggested, json!("false"), 3, true, None),
            (&suggested, json!("false"), 3, false, None),
            (&suggested, json!("maybe"), 1, true, Some(("true", true))),
            (&suggested, Value::Null, 2, true, Some(("false", false))),
            (&mandatory, json!("false"), 3, true, Some(("true", true))),
            (&mandatory, json!("true"), 3, false, None),
        ] {
            let current = with(object, annotation.clone(), generation, is_other.then_some(&other));
            let got = revised(&current, object);
            let got = got
                .as_ref()
                .map(|got| (got["metadata"]["annotations"][AUTO_UPDATE].as_str().unwrap(), got["spec"] == object["spec"]));
            assert_eq!(got, want, "{annotation} {generation} {is_other}");
        }
        let exempt = wanted(levels(), "exempt");
        let chosen = json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 5, "lendablePercent": 50}});
        assert_eq!(revised(&with(&exempt, json!("true"), 2, Some(&chosen)), &exempt), None);
    }

    #[test]
    fn only_what_followed_is_taken_away() {
        let object = |name: &str, value: Value| json!({"metadata": {"name": name, "annotations": {AUTO_UPDATE: value}}});
        for (name, value, want) in [
            ("old", json!("true"), true),
            ("old", json!("false"), false),
            ("old", json!("what"), false),
            ("old", Value::Null, false),
            ("probes", json!("true"), false),
        ] {
            assert_eq!(is_unwanted(&object(name, value.clone()), &schemas()), want, "{name} {value}");
        }
    }

    #[test]
    fn all_of_them_are_valid() {
        for object in levels().into_iter().chain(schemas()) {
            let kind =
                pharos_api::registry::by_kind("flowcontrol.apiserver.k8s.io", "v1", object["kind"].as_str().unwrap()).unwrap();
            let mut defaulted = object.clone();
            pharos_api::defaulting::apply(kind, &mut defaulted);
            assert!(same(&defaulted["spec"], &object["spec"]), "{object}");
            let errors = pharos_api::validation::validate(kind, &defaulted, None);
            assert!(errors.is_empty(), "{object}: {errors:?}");
        }
    }
}
