//! Bodies in: JSON, YAML and protobuf become JSON values; unknown and duplicate fields are found.

use http::{HeaderMap, header::CONTENT_TYPE};
use pharos_api::{fields, protobuf, registry::Kind, schema::Definition};
use serde_json::Value;

use crate::{
    call::Call,
    options::FieldValidation,
    status::{self, Status},
};

/// What a body is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Json,
    Yaml,
    Protobuf,
}

/// The full name of the schema of `DeleteOptions`.
const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";

const ACCEPTED: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";

fn encoding(headers: &HeaderMap) -> Result<Encoding, Status> {
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(Encoding::Json) };
    let text = value.to_str().unwrap_or_default();
    match text.split(';').next().unwrap_or_default().trim() {
        "" | "application/json" => Ok(Encoding::Json),
        "application/yaml" => Ok(Encoding::Yaml),
        "application/vnd.kubernetes.protobuf" => Ok(Encoding::Protobuf),
        other => Err(status::unsupported_media_type(other, ACCEPTED)),
    }
}

/// What a body is to be.
#[derive(Clone, Copy)]
enum Wanted<'a> {
    Kind(&'a Kind),
    Type(&'static Definition),
}

/// Reads an object of the call's kind out of its body.
pub(crate) fn object(call: &Call, validation: FieldValidation) -> Result<Value, Status> {
    decode(call, &call.kind.api_version(), &call.kind.kind, Wanted::Kind(&call.kind), validation)
}

/// Reads an object of another built-in type (a subresource's) out of a call's body.
pub(crate) fn object_of(call: &Call, api_version: &str, kind: &str, validation: FieldValidation) -> Result<Value, Status> {
    let (group, version) = pharos_api::meta::split_api_version(api_version);
    let definition = pharos_api::schema::definition_for(group, version, kind)
        .ok_or_else(|| status::internal(format!("{api_version} {kind} has no schema")))?;
    decode(call, api_version, kind, Wanted::Type(definition), validation)
}

fn decode(call: &Call, api_version: &str, kind: &str, wanted: Wanted<'_>, validation: FieldValidation) -> Result<Value, Status> {
    let cannot = |api_version: &str, found: &str, why: &str| {
        let version = api_version.rsplit('/').next().unwrap_or(api_version);
        status::bad_request(format!("{found} in version {version:?} cannot be handled as a {kind}: {why}"))
    };
    let custom = matches!(wanted, Wanted::Kind(kind) if kind.custom);
    let check = |value: Value| match wanted {
        Wanted::Kind(kind) => fields::check(kind, value),
        Wanted::Type(definition) => fields::check_as(definition, value),
    };
    if call.body.is_empty() {
        return Err(status::bad_request("no kind or version in an empty body: unable to decode"));
    }
    let decoded = match encoding(&call.headers)? {
        Encoding::Protobuf if custom => {
            return Err(status::unsupported_media_type(
                "application/vnd.kubernetes.protobuf",
                "application/json, application/yaml",
            ));
        }
        Encoding::Protobuf => {
            let message = protobuf::decode(&call.body, Some((api_version, kind)))
                .map_err(|error| status::bad_request(error.to_string()))?;
            check(message.value)
        }
        Encoding::Json => match wanted {
            Wanted::Kind(kind) => fields::decode(kind, &call.body),
            Wanted::Type(definition) => fields::decode_as(definition, &call.body),
        },
        Encoding::Yaml => {
            let document = pharos_api::yaml::decode(&call.body).map_err(|error| status::bad_request(error.to_string()))?;
            check(document.value).map(|mut decoded| {
                if !document.duplicates.is_empty() {
                    decoded.problems.insert(0, fields::Problem::Yaml(document.duplicates));
                }
                decoded
            })
        }
    };
    let mut decoded = decoded.map_err(|error| match error {
        fields::DecodeError::Syntax(why) => status::bad_request(format!("couldn't get version/kind; json parse error: {why}")),
        other => cannot(api_version, kind, &other.to_string()),
    })?;
    if !decoded.value.is_object() {
        return Err(cannot(api_version, kind, "json: cannot unmarshal into Go value: an object is needed"));
    }
    let found_kind = decoded.value["kind"].as_str().unwrap_or_default().to_owned();
    let found_version = decoded.value["apiVersion"].as_str().unwrap_or_default().to_owned();
    if !found_version.is_empty() && found_version != api_version {
        return Err(status::bad_request(format!(
            "the API version in the data ({found_version}) does not match the expected API version ({api_version})"
        )));
    }
    if !found_kind.is_empty() && found_kind != kind {
        return Err(cannot(api_version, &found_kind, &format!("the object provided is unrecognized (must be of type {kind})")));
    }
    decoded.value["apiVersion"] = Value::String(api_version.to_owned());
    decoded.value["kind"] = Value::String(kind.to_owned());
    call.audit.request_object(&decoded.value);
    report(call, validation, &decoded.problems, |why| cannot(api_version, kind, why))?;
    Ok(decoded.value)
}

/// Refuses or warns of unknown and duplicate fields.
pub(crate) fn report(
    call: &Call,
    validation: FieldValidation,
    problems: &[fields::Problem],
    refuse: impl Fn(&str) -> Status,
) -> Result<(), Status> {
    match validation {
        FieldValidation::Strict if !problems.is_empty() => Err(refuse(&fields::strict_error(problems))),
        FieldValidation::Warn => {
            problems.iter().for_each(|problem| call.warn(problem.to_string()));
            Ok(())
        }
        FieldValidation::Strict | FieldValidation::Ignore => Ok(()),
    }
}

/// Checks the result of a patch against the kind's schema.
pub(crate) fn check_patched(call: &Call, kind: &Kind, value: Value, validation: FieldValidation) -> Result<Value, Status> {
    let name = value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let decoded =
        fields::check(kind, value).map_err(|error| patch_refused(&kind.group, &kind.kind, &name, &error.to_string()))?;
    report(call, validation, &decoded.problems, |why| patch_refused(&kind.group, &kind.kind, &name, why))?;
    Ok(decoded.value)
}

/// The same for another built-in type (a subresource's).
pub(crate) fn check_patched_of(
    call: &Call,
    api_version: &str,
    kind: &str,
    value: Value,
    validation: FieldValidation,
) -> Result<Value, Status> {
    let (group, version) = pharos_api::meta::split_api_version(api_version);
    let definition = pharos_api::schema::definition_for(group, version, kind)
        .ok_or_else(|| status::internal(format!("{api_version} {kind} has no schema")))?;
    let name = &call.info.name;
    let decoded = fields::check_as(definition, value).map_err(|error| patch_refused(group, kind, name, &error.to_string()))?;
    if !decoded.value.is_object() {
        return Err(status::bad_request(format!("the patch makes something other than a {kind}")));
    }
    report(call, validation, &decoded.problems, |why| patch_refused(group, kind, name, why))?;
    Ok(decoded.value)
}

fn patch_refused(group: &str, kind: &str, name: &str, why: &str) -> Status {
    status::invalid_one(group, kind, name, "FieldValueInvalid", "patch", format!("Invalid value: {why}"))
}

/// The `DeleteOptions` of a delete, if its body has any.
pub(crate) fn delete_options(call: &Call) -> Result<Option<Value>, Status> {
    if call.body.is_empty() {
        return Ok(None);
    }
    let options = read_delete_options(encoding(&call.headers)?, &call.body)?;
    call.audit.request_object(&options);
    Ok(Some(options))
}

/// Reads `DeleteOptions` by their types: what is misread here is deleted. Clients send them in many an API version (`v1`,
/// `meta.k8s.io/v1`, that of the group whose object they delete), all of which mean the same.
fn read_delete_options(encoding: Encoding, body: &[u8]) -> Result<Value, Status> {
    let definition =
        pharos_api::schema::definition(DELETE_OPTIONS).ok_or_else(|| status::internal("DeleteOptions has no schema"))?;
    let decoded = match encoding {
        Encoding::Json => fields::decode_as(definition, body),
        Encoding::Yaml => {
            let document = pharos_api::yaml::decode(body).map_err(|error| status::bad_request(error.to_string()))?;
            fields::check_as(definition, document.value)
        }
        Encoding::Protobuf => {
            let message =
                protobuf::decode(body, Some(("v1", "DeleteOptions"))).map_err(|error| status::bad_request(error.to_string()))?;
            fields::check_as(definition, message.value)
        }
    };
    let value = decoded
        .map_err(|error| match error {
            fields::DecodeError::Syntax(why) => {
                status::bad_request(format!("couldn't get version/kind; json parse error: {why}"))
            }
            other => status::bad_request(format!("the body of a delete cannot be handled as a DeleteOptions: {other}")),
        })?
        .value;
    if !value.is_object() || value["kind"].as_str().is_some_and(|kind| kind != "DeleteOptions") {
        return Err(status::bad_request("the body of a delete must be DeleteOptions"));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn delete_options_are_read_by_type() {
        let good: [(Encoding, &str, Value); 6] = [
            (Encoding::Json, "{}", json!({})),
            (Encoding::Json, r#"{"gracePeriodSeconds":0}"#, json!({"gracePeriodSeconds": 0})),
            (Encoding::Json, r#"{"orphanDependents":false,"dryRun":null}"#, json!({"orphanDependents": false})),
            (
                Encoding::Json,
                r#"{"kind":"DeleteOptions","apiVersion":"policy/v1","dryRun":["All"]}"#,
                json!({"kind": "DeleteOptions", "apiVersion": "policy/v1", "dryRun": ["All"]}),
            ),
            (Encoding::Json, r#"{"unknown":1}"#, json!({})),
            (Encoding::Yaml, "gracePeriodSeconds: 3\n", json!({"gracePeriodSeconds": 3})),
        ];
        for (encoding, body, want) in good {
            assert_eq!(read_delete_options(encoding, body.as_bytes()).unwrap(), want, "{body}");
        }
        let bad = [
            (Encoding::Json, "{"),
            (Encoding::Json, "null"),
            (Encoding::Json, "[]"),
            (Encoding::Json, r#"{"dryRun":"All"}"#),
            (Encoding::Json, r#"{"dryRun":[1]}"#),
            (Encoding::Json, r#"{"gracePeriodSeconds":"x"}"#),
            (Encoding::Json, r#"{"gracePeriodSeconds":1.5}"#),
            (Encoding::Json, r#"{"orphanDependents":"true"}"#),
            (Encoding::Json, r#"{"propagationPolicy":{}}"#),
            (Encoding::Json, r#"{"preconditions":"x"}"#),
            (Encoding::Json, r#"{"preconditions":{"uid":1}}"#),
            (Encoding::Json, r#"{"kind":"ConfigMap"}"#),
            (Encoding::Yaml, "dryRun: All\n"),
        ];
        for (encoding, body) in bad {
            assert_eq!(read_delete_options(encoding, body.as_bytes()).unwrap_err().code(), 400, "{body}");
        }
    }
}
