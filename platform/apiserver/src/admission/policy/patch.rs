//! What an expression wants changed, done to an object.
//!
//! Follows `policy/mutating/patch/{smd,json_patch}.go`.

use pharos_api::{
    fields,
    patch::{json, structured},
    registry::Kind,
    schema,
};
use serde_json::Value;

use super::definition::ChangeKind;
use crate::{
    admission::{Attributes, request::group_version_kind, versions},
    status::{self, Status},
};

/// Why a change is not made.
#[derive(Debug)]
pub(super) enum Error {
    /// The policy's fault: its failure policy decides.
    Mutation(String),
    /// Nobody's but the request's.
    Refused(Status),
}

impl From<String> for Error {
    fn from(text: String) -> Self {
        Error::Mutation(text)
    }
}

/// Makes of an object what the value of an expression says.
pub(super) fn apply(
    attributes: &Attributes<'_>,
    kind: &Kind,
    change: ChangeKind,
    object: &Value,
    value: &pharos_cel::Value,
) -> Result<Value, Error> {
    let patched = match change {
        ChangeKind::Apply => configuration(attributes, kind, object, value)?,
        ChangeKind::JsonPatch => match operations(object, value)? {
            Some(patched) => patched,
            None => return Ok(object.clone()),
        },
    };
    // An object is stored where it was asked for, whatever it says afterwards.
    for field in ["name", "namespace", "uid"] {
        if patched["metadata"][field] != object["metadata"][field] {
            return Err(format!("attempted to modify metadata.{field}, which is immutable").into());
        }
    }
    let (object, problems) = versions::reread(attributes, kind, patched).map_err(|why| Error::Refused(status::internal(why)))?;
    // Custom resources lose what their schema does not know, here as anywhere.
    if !problems.is_empty() && !kind.custom {
        return Err(Error::Refused(status::internal(fields::strict_error(&problems))));
    }
    Ok(object)
}

/// An apply configuration: `Object{spec: Object.spec{…}}`.
fn configuration(attributes: &Attributes<'_>, kind: &Kind, object: &Value, value: &pharos_cel::Value) -> Result<Value, Error> {
    if value.type_name() != "Object" {
        let found = value.type_name();
        return Err(format!("unsupported return type from ApplyConfiguration expression: {found}").into());
    }
    if let Some(mismatch) = value.mismatched_type_name() {
        return Err(format!("type mismatch: {mismatch}").into());
    }
    let mut patch = value.to_json().map_err(|error| error.to_string())?;
    for field in ["apiVersion", "kind"] {
        patch[field] = object[field].clone();
    }
    let (group, version, name) = group_version_kind(kind, attributes.subresource);
    let own = name == kind.kind && group == kind.group;
    let foreign = if own { None } else { schema::definition_for(&group, &version, &name) };
    let schema = match foreign {
        Some(definition) => &definition.schema,
        None if own => kind.schema(),
        None => {
            return Err(Error::Refused(status::unavailable(format!(
                "Resource kind {group}/{version}, Kind={name} not found. There can be a delay between when \
                 CustomResourceDefinitions are created and when they are available."
            ))));
        }
    };
    structured::merge(schema, object, &patch).map_err(|why| Error::Mutation(format!("error applying patch: {why}")))
}

/// A JSON patch: `[JSONPatch{op: "add", path: "/spec/x", value: 1}]`. None if a test in it fails.
fn operations(object: &Value, value: &pharos_cel::Value) -> Result<Option<Value>, Error> {
    if let Some(mismatch) = value.mismatched_type_name() {
        return Err(format!("type mismatch: {mismatch}").into());
    }
    let unfit = |error: &dyn std::fmt::Display| {
        format!("JSONPath valueExpression evaluated to a type that could not marshal to JSON: {error}")
    };
    let operations = value.to_json().map_err(|error| unfit(&error))?;
    let Value::Array(mut operations) = operations else {
        return Err("type mismatch: JSONPatchType.expression should evaluate to array".to_owned().into());
    };
    for operation in &mut operations {
        let Some(fields) = operation.as_object_mut() else {
            return Err("type mismatch: JSONPatchType.expression should evaluate to array of JSONPatch".to_owned().into());
        };
        if fields.get("from").is_some_and(|from| from == "") {
            fields.remove("from");
        }
    }
    json::apply_operations(object, &operations).map_err(|why| Error::Mutation(format!("JSON Patch: {why}")))
}
