//! DefaultTolerationSeconds: pods leave a node that is not ready or unreachable after a while.
//!
//! Follows `plugin/pkg/admission/defaulttolerationseconds/admission.go`.

use serde_json::{Value, json};

use super::{Attributes, Operation};

pub(super) fn mutate(attributes: &Attributes<'_>, pod: &mut Value) {
    if attributes.is("", "pods", Operation::Create) {
        add(pod, attributes.api.0.config.default_toleration_seconds);
    }
}

fn add(pod: &mut Value, seconds: i64) {
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = pod["spec"]["tolerations"].as_array().into_iter().flatten().any(|toleration| {
            let names = |field: &str, value: &str| toleration[field].as_str().is_none_or(|text| text.is_empty() || text == value);
            names("key", key) && names("effect", "NoExecute")
        });
        if tolerated {
            continue;
        }
        let toleration = json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
        match pod["spec"]["tolerations"].as_array_mut() {
            Some(tolerations) => tolerations.push(toleration),
            None => pod["spec"]["tolerations"] = json!([toleration]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_what_is_missing() {
        let mut pod = json!({"spec": {}});
        add(&mut pod, 300);
        assert_eq!(pod["spec"]["tolerations"].as_array().unwrap().len(), 2);
        let mut all = json!({"spec": {"tolerations": [{"operator": "Exists"}]}});
        add(&mut all, 300);
        assert_eq!(all["spec"]["tolerations"].as_array().unwrap().len(), 1);
    }
}
