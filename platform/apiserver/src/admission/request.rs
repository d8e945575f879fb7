//! A write as webhooks and policies are told of it.
//!
//! Follows `apiserver/pkg/admission/plugin/webhook/request/admissionreview.go` and `CreateAdmissionRequest` in
//! `plugin/cel/condition.go`.

use pharos_api::registry::Kind;
use serde_json::{Value, json};

use super::{Attributes, Operation, Options};

/// The namespace of a write: a Namespace is in itself.
pub(super) fn namespace<'a>(attributes: &Attributes<'a>) -> &'a str {
    if is_namespace(attributes) { attributes.name } else { attributes.namespace }
}

pub(super) fn is_namespace(attributes: &Attributes<'_>) -> bool {
    attributes.kind.group.is_empty() && attributes.kind.plural == "namespaces"
}

impl Operation {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        }
    }
}

impl Options<'_> {
    pub(super) fn dry_run(self) -> bool {
        match self {
            Options::Create(options) | Options::Update(options) => options.dry_run,
            Options::Delete(options) => options.dry_run,
            Options::None | Options::Unreviewed => false,
        }
    }

    /// As the API writes them.
    fn to_value(self) -> Value {
        let mut value = match self {
            Options::Create(options) => options.to_value("CreateOptions"),
            Options::Update(options) => options.to_value("UpdateOptions"),
            Options::Delete(options) => options.to_value(),
            Options::None | Options::Unreviewed => return Value::Null,
        };
        if self.dry_run() {
            value["dryRun"] = json!(["All"]);
        }
        value
    }
}

/// The group, version and kind of what is written: a subresource may speak another kind than its parent.
pub(super) fn group_version_kind(kind: &Kind, subresource: &str) -> (String, String, String) {
    match kind.subresource(subresource) {
        Some(row) => {
            let (group, version) = row.group_version.clone().unwrap_or_else(|| (kind.group.clone(), kind.version.clone()));
            (group.to_string(), version.to_string(), row.kind.to_string())
        }
        None => (kind.group.to_string(), kind.version.to_string(), kind.kind.to_string()),
    }
}

/// `AdmissionRequest` without the objects, in the version `kind`.
pub(super) fn describe(attributes: &Attributes<'_>, kind: &Kind) -> Value {
    let gvk = |kind: &Kind| {
        let (group, version, kind) = group_version_kind(kind, attributes.subresource);
        json!({"group": group, "version": version, "kind": kind})
    };
    let gvr = |kind: &Kind| json!({"group": kind.group, "version": kind.version, "resource": kind.plural});
    let mut request = json!({
        "kind": gvk(kind),
        "resource": gvr(kind),
        "requestKind": gvk(attributes.kind),
        "requestResource": gvr(attributes.kind),
        "operation": attributes.operation.as_str(),
        "userInfo": attributes.user.to_value(),
        "dryRun": attributes.options.dry_run(),
        "options": attributes.options.to_value(),
    });
    let texts = [
        ("subResource", attributes.subresource),
        ("requestSubResource", attributes.subresource),
        ("name", attributes.name),
        ("namespace", namespace(attributes)),
    ];
    for (field, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
        request[field] = json!(text);
    }
    request
}
