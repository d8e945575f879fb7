//! Which objects a quota's scopes take in.

use serde_json::Value;

use super::usage::Countable;

/// Whether all of a quota's scopes take an object in. Scopes are of pods and claims; nothing else is in any.
pub(super) fn contain(quota: &Value, countable: Countable, object: &Value) -> bool {
    let scopes = quota["spec"]["scopes"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let selected = quota["spec"]["scopeSelector"]["matchExpressions"].as_array().into_iter().flatten();
    let mut scopes = scopes.map(|scope| Scope { name: scope, operator: "Exists", values: &[] }).chain(selected.map(Scope::of));
    scopes.all(|scope| match countable {
        Countable::Pod => scope.contains_pod(object),
        Countable::Claim => scope.contains_claim(object),
        _ => false,
    })
}

struct Scope<'a> {
    name: &'a str,
    operator: &'a str,
    values: &'a [Value],
}

impl<'a> Scope<'a> {
    fn of(expression: &'a Value) -> Self {
        Scope {
            name: expression["scopeName"].as_str().unwrap_or_default(),
            operator: expression["operator"].as_str().unwrap_or_default(),
            values: expression["values"].as_array().map_or(&[], Vec::as_slice),
        }
    }

    fn contains_pod(&self, pod: &Value) -> bool {
        let best_effort = || crate::strategy::pod::qos_class(pod) == "BestEffort";
        let terminating = || pod["spec"]["activeDeadlineSeconds"].as_i64().is_some_and(|seconds| seconds >= 0);
        match self.name {
            "BestEffort" => best_effort(),
            "NotBestEffort" => !best_effort(),
            "Terminating" => terminating(),
            "NotTerminating" => !terminating(),
            "PriorityClass" => self.selects(text(&pod["spec"]["priorityClassName"])),
            "CrossNamespacePodAffinity" => crosses_namespaces(pod),
            _ => false,
        }
    }

    /// A claim on its way from one class to another is in both.
    fn contains_claim(&self, claim: &Value) -> bool {
        let status = &claim["status"];
        let classes = [
            &claim["spec"]["volumeAttributesClassName"],
            &status["currentVolumeAttributesClassName"],
            &status["modifyVolumeStatus"]["targetVolumeAttributesClassName"],
        ];
        let classes: Vec<&str> = classes.into_iter().filter_map(text).collect();
        let selected =
            if classes.is_empty() { self.selects(None) } else { classes.iter().any(|class| self.selects(Some(class))) };
        self.name == "VolumeAttributesClass" && selected
    }

    /// Whether the operator holds of a class.
    fn selects(&self, class: Option<&str>) -> bool {
        let named = || class.is_some_and(|class| self.values.iter().any(|value| value == class));
        match self.operator {
            "In" => named(),
            "NotIn" => !named(),
            "Exists" => class.is_some(),
            "DoesNotExist" => class.is_none(),
            _ => false,
        }
    }
}

fn text(value: &Value) -> Option<&str> {
    value.as_str().filter(|text| !text.is_empty())
}

fn crosses_namespaces(pod: &Value) -> bool {
    let affinity = &pod["spec"]["affinity"];
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let required = affinity[*kind]["requiredDuringSchedulingIgnoredDuringExecution"].as_array();
        let preferred = affinity[*kind]["preferredDuringSchedulingIgnoredDuringExecution"].as_array();
        let terms = required.into_iter().flatten();
        let preferred = preferred.into_iter().flatten().map(|term| &term["podAffinityTerm"]);
        terms.chain(preferred).any(|term| {
            term["namespaces"].as_array().is_some_and(|names| !names.is_empty()) || term["namespaceSelector"].is_object()
        })
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn scopes_of_pods() {
        let best_effort = json!({"spec": {"containers": [{"name": "a"}]}});
        let burstable = json!({"spec": {"activeDeadlineSeconds": 5, "priorityClassName": "high",
            "containers": [{"resources": {"requests": {"cpu": "1"}}}]}});
        let crossing = json!({"spec": {"affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"podAffinityTerm": {"namespaceSelector": {}}}]}}}});
        let scopes = |scopes: Value| json!({"spec": {"scopes": scopes}});
        let select = |scope: &str, operator: &str, values: &[&str]| {
            let expression = json!({"scopeName": scope, "operator": operator, "values": values});
            json!({"spec": {"scopeSelector": {"matchExpressions": [expression]}}})
        };
        // A quota, and whether its scopes contain each of the three pods.
        for (quota, wanted) in [
            (json!({"spec": {}}), [true, true, true]),
            (scopes(json!(["BestEffort"])), [true, false, true]),
            (scopes(json!(["NotBestEffort"])), [false, true, false]),
            (scopes(json!(["Terminating"])), [false, true, false]),
            (scopes(json!(["NotTerminating"])), [true, false, true]),
            (scopes(json!(["Terminating", "BestEffort"])), [false, false, false]),
            (scopes(json!(["PriorityClass"])), [false, true, false]),
            (scopes(json!(["CrossNamespacePodAffinity"])), [false, false, true]),
            (scopes(json!(["VolumeAttributesClass"])), [false, false, false]),
            (select("PriorityClass", "In", &["low", "high"]), [false, true, false]),
            (select("PriorityClass", "NotIn", &["high"]), [true, false, true]),
            (select("PriorityClass", "Exists", &[]), [false, true, false]),
            (select("PriorityClass", "DoesNotExist", &[]), [true, false, true]),
            (select("BestEffort", "Exists", &[]), [true, false, true]),
        ] {
            let contained = [&best_effort, &burstable, &crossing].map(|pod| contain(&quota, Countable::Pod, pod));
            assert_eq!(contained, wanted, "{quota}");
        }
    }

    #[test]
    fn scopes_of_claims() {
        let select = |operator: &str, values: &[&str]| {
            let expression = json!({"scopeName": "VolumeAttributesClass", "operator": operator, "values": values});
            json!({"spec": {"scopeSelector": {"matchExpressions": [expression]}}})
        };
        let plain = json!({"spec": {}});
        let moving =
            json!({"spec": {"volumeAttributesClassName": "gold"}, "status": {"currentVolumeAttributesClassName": "silver"}});
        for (quota, wanted) in [
            (select("In", &["gold"]), [false, true]),
            (select("In", &["silver"]), [false, true]),
            (select("In", &["copper"]), [false, false]),
            (select("NotIn", &["gold"]), [true, true]),
            (select("Exists", &[]), [false, true]),
            (select("DoesNotExist", &[]), [true, false]),
            (json!({"spec": {"scopes": ["Terminating"]}}), [false, false]),
        ] {
            assert_eq!([&plain, &moving].map(|claim| contain(&quota, Countable::Claim, claim)), wanted, "{quota}");
        }
        assert!(!contain(&select("DoesNotExist", &[]), Countable::Other, &plain));
        assert!(contain(&json!({"spec": {}}), Countable::Other, &plain));
    }
}
