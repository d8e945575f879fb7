//! Objects in the version a webhook or policy names, and back.

use pharos_api::{
    defaulting,
    fields::{self, Problem},
    registry::Kind,
};
use serde_json::Value;

use super::{Attributes, request::group_version_kind};
use crate::{
    convert,
    status::{self, Status},
};

/// An object in the version that is asked for, if that is not the request's.
pub(super) async fn shown(attributes: &Attributes<'_>, kind: &Kind, object: Option<&Value>) -> Result<Option<Value>, Status> {
    let same = kind.group == attributes.kind.group && kind.version == attributes.kind.version;
    let speaks = |kind: &Kind| group_version_kind(kind, attributes.subresource);
    let Some(object) = object.filter(|_| !same && speaks(kind) != speaks(attributes.kind)) else { return Ok(None) };
    let converted = convert::between(attributes.api, attributes.kind, kind, object.clone()).await;
    converted.map(Some).map_err(|status| status::internal(status.message()))
}

/// What a webhook or policy has made of an object, read like a request: without unknown fields, which are told, and with
/// defaults.
pub(super) fn reread(attributes: &Attributes<'_>, kind: &Kind, object: Value) -> Result<(Value, Vec<Problem>), String> {
    let (group, version, name) = group_version_kind(kind, attributes.subresource);
    if kind.subresource(attributes.subresource).is_none() || (name == kind.kind && group == kind.group) {
        let mut decoded = fields::check(kind, object).map_err(|error| error.to_string())?;
        defaulting::apply(kind, &mut decoded.value);
        return Ok((decoded.value, decoded.problems));
    }
    let definition = pharos_api::schema::definition_for(&group, &version, &name);
    let definition = definition.ok_or_else(|| format!("no kind {name:?} is registered for version \"{group}/{version}\""))?;
    let mut decoded = fields::check_as(definition, object).map_err(|error| error.to_string())?;
    defaulting::apply_builtin(&group, &name, &mut decoded.value);
    Ok((decoded.value, decoded.problems))
}
