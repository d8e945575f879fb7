//! Admission webhooks and policies, custom resource definitions.

use serde_json::{Map, Value, json};

use super::{child, each, inside, set, set_text, text};

pub(super) fn admission(kind: &str, object: &mut Value) {
    match kind {
        "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration" => each(object, "webhooks", |webhook| {
            set(webhook, "failurePolicy", "Fail");
            set(webhook, "timeoutSeconds", 10);
            if kind == "MutatingWebhookConfiguration" {
                set(webhook, "reinvocationPolicy", "Never");
            }
            inside(webhook, &["clientConfig", "service"], |service| set(service, "port", 443));
            each(webhook, "rules", |rule| set(rule, "scope", "*"));
            matching(webhook);
        }),
        "ValidatingAdmissionPolicy" | "MutatingAdmissionPolicy" => {
            set(child(object, "spec"), "failurePolicy", "Fail");
            inside(object, &["spec", "matchConstraints"], resources);
        }
        "ValidatingAdmissionPolicyBinding" | "MutatingAdmissionPolicyBinding" => {
            inside(object, &["spec", "matchResources"], resources)
        }
        _ => {}
    }
}

fn matching(webhook: &mut Value) {
    set(webhook, "matchPolicy", "Equivalent");
    set(webhook, "namespaceSelector", Map::new());
    set(webhook, "objectSelector", Map::new());
}

fn resources(resources: &mut Value) {
    matching(resources);
    for list in ["resourceRules", "excludeResourceRules"] {
        each(resources, list, |rule| set(rule, "scope", "*"));
    }
}

pub(super) fn definition(object: &mut Value) {
    inside(object, &["spec"], |spec| {
        inside(spec, &["names"], |names| {
            let kind = text(names, "kind").to_owned();
            set_text(names, "singular", &kind.to_ascii_lowercase());
            set_text(names, "listKind", &format!("{kind}List"));
        });
        set(spec, "conversion", json!({"strategy": "None"}));
        inside(spec, &["conversion", "webhook", "clientConfig", "service"], |service| set(service, "port", 443));
    });
}
