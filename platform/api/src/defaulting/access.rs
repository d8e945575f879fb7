//! RBAC and API priority.

use serde_json::Value;

use super::{child, each, inside, set, set_text, text};

const RBAC: &str = "rbac.authorization.k8s.io";

pub(super) fn binding(object: &mut Value) {
    set_text(child(object, "roleRef"), "apiGroup", RBAC);
    each(object, "subjects", |subject| {
        if matches!(text(subject, "kind"), "User" | "Group") {
            set_text(subject, "apiGroup", RBAC);
        }
    });
}

pub(super) fn priority_level(object: &mut Value) {
    inside(object, &["spec", "exempt"], |exempt| {
        set(exempt, "nominalConcurrencyShares", 0);
        set(exempt, "lendablePercent", 0);
    });
    inside(object, &["spec", "limited"], |limited| {
        set(limited, "nominalConcurrencyShares", 30);
        set(limited, "lendablePercent", 0);
        inside(limited, &["limitResponse", "queuing"], |queuing| {
            for (field, value) in [("queues", 64), ("handSize", 8), ("queueLengthLimit", 50)] {
                if queuing.get(field).and_then(Value::as_i64).unwrap_or(0) == 0 {
                    queuing[field] = value.into();
                }
            }
        });
    });
}
