//! Roles, bindings, certificates.

use serde_json::Value;

use super::{Cells, Print, join, name_and_creation, or, text};
use crate::time;

pub(super) fn find(kind: &str) -> Option<(&'static str, Print)> {
    Some(match kind {
        "Role" | "ClusterRole" => ("Name|Created At", name_and_creation),
        "RoleBinding" | "ClusterRoleBinding" => ("Name|Role|Age|Users*|Groups*|ServiceAccounts*", binding),
        "CertificateSigningRequest" => ("Name|Age|SignerName|Requestor|RequestedDuration|Condition", request),
        "ClusterTrustBundle" => ("Name|SignerName", |o| vec![o.name(), or(o.text("spec.signerName"), "<none>").into()]),
        _ => return None,
    })
}

fn binding(o: &Cells<'_>) -> Vec<Value> {
    let subjects = o.list("subjects");
    let of_kind = |kind: &'static str| subjects.iter().filter(move |s| text(s, "kind") == kind);
    let accounts: Vec<String> =
        of_kind("ServiceAccount").map(|s| format!("{}/{}", text(s, "namespace"), text(s, "name"))).collect();
    vec![
        o.name(),
        format!("{}/{}", o.text("roleRef.kind"), o.text("roleRef.name")).into(),
        o.age(),
        join(of_kind("User").map(|s| text(s, "name")), ", ").into(),
        join(of_kind("Group").map(|s| text(s, "name")), ", ").into(),
        accounts.join(", ").into(),
    ]
}

fn request(o: &Cells<'_>) -> Vec<Value> {
    let has = |ty: &str| o.list("status.conditions").iter().any(|c| text(c, "type") == ty);
    let mut condition = match () {
        () if has("Denied") => "Denied",
        () if has("Approved") => "Approved",
        () => "Pending",
    }
    .to_owned();
    if has("Failed") {
        condition += ",Failed";
    }
    if !o.text("status.certificate").is_empty() {
        condition += ",Issued";
    }
    let duration = match o.at("spec.expirationSeconds").as_i64() {
        Some(seconds) => time::human(jiff::SignedDuration::from_secs(seconds)),
        None => "<none>".to_owned(),
    };
    vec![
        o.name(),
        o.age(),
        or(o.text("spec.signerName"), "<none>").into(),
        o.text("spec.username").into(),
        duration.into(),
        condition.into(),
    ]
}
