//! Webhook configurations and admission policies.

use serde_json::Value;

use super::{Cells, Print, selector};

pub(super) fn find(kind: &str) -> Option<(&'static str, Print)> {
    Some(match kind {
        "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration" => {
            ("Name|Webhooks#|Age", |o| vec![o.name(), o.count("webhooks").into(), o.age()])
        }
        "ValidatingAdmissionPolicy" => ("Name|Validations#|ParamKind|Age", |o| policy(o, "spec.validations")),
        "MutatingAdmissionPolicy" => ("Name|Mutations#|ParamKind|Age", |o| policy(o, "spec.mutations")),
        "ValidatingAdmissionPolicyBinding" | "MutatingAdmissionPolicyBinding" => ("Name|PolicyName|ParamRef|Age", binding),
        _ => return None,
    })
}

fn policy(o: &Cells<'_>, rules: &str) -> Vec<Value> {
    let param = match o.at("spec.paramKind") {
        Value::Object(_) => format!("{}/{}", o.text("spec.paramKind.apiVersion"), o.text("spec.paramKind.kind")),
        _ => "<unset>".to_owned(),
    };
    vec![o.name(), o.count(rules).into(), param.into(), o.age()]
}

fn binding(o: &Cells<'_>) -> Vec<Value> {
    let param = match (o.text("spec.paramRef.name"), o.text("spec.paramRef.namespace"), o.at("spec.paramRef.selector")) {
        ("", _, Value::Null) => "<unset>".to_owned(),
        ("", _, labels) => selector(labels),
        (name, "", _) => format!("*/{name}"),
        (name, namespace, _) => format!("{namespace}/{name}"),
    };
    vec![o.name(), o.text("spec.policyName").into(), param.into(), o.age()]
}
