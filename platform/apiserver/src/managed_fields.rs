//! Who owns which field: `metadata.managedFields`.

use pharos_api::patch::{
    apply,
    managed_fields::{self, Write, manager_of_user_agent},
};
use serde_json::Value;

use crate::{
    call::Call,
    options::WriteOptions,
    status::Status,
    verbs::{object_meta, update::Part},
};

/// Who writes what: the manager is the one the client names, or the beginning of its user agent.
fn write<'a>(call: &'a Call, api_version: &'a str, part: Part, options: &'a WriteOptions) -> Write<'a> {
    let agent = call.headers.get(http::header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    Write {
        manager: options.field_manager.as_deref().unwrap_or_else(|| manager_of_user_agent(agent)),
        api_version,
        subresource: match part {
            // A binding or eviction is the server's own writing, to the pod's status among others.
            Part::Internal("scale") => "scale",
            Part::Internal(_) => "",
            part => part.subresource(),
        },
        now: call.api.0.clock.now(),
    }
}

/// A new object belongs to its creator.
pub(crate) fn created(call: &Call, object: &mut Value, options: &WriteOptions) {
    if call.info.verb == "patch" && object_meta::of(object).contains_key("managedFields") {
        return; // Made by an apply, which has said who owns what.
    }
    let api_version = call.kind.api_version();
    managed_fields::update(call.kind.schema(), None, object, write(call, &api_version, Part::Main, options));
}

/// What an update changes belongs to its writer.
pub(crate) fn updated(call: &Call, part: Part, new: &mut Value, old: &Value, options: &WriteOptions) {
    let api_version = call.kind.api_version();
    managed_fields::update(call.kind.schema(), Some(old), new, write(call, &api_version, part, options));
}

/// The object after an apply.
pub(crate) fn applied(
    call: &Call,
    part: Part,
    old: Option<&Value>,
    configuration: &Value,
    options: &WriteOptions,
) -> Result<Value, Status> {
    let api_version = call.kind.api_version();
    let write = write(call, &api_version, part, options);
    let object = apply::apply(call.kind.schema(), old, configuration, write, options.force)?;
    let validation = crate::options::FieldValidation::Ignore;
    crate::body::check_patched(call, &call.kind, object, validation)
}
