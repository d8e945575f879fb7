//! Patches, server-side apply among them.

use http::StatusCode;
use pharos_api::patch::PatchType;
use pharos_transport::Response;
use serde_json::{Value, json};

use super::{
    create, object_meta,
    update::{self, Change, Manage, Part},
};
use crate::{
    body,
    call::Call,
    managed_fields,
    negotiate::Offer,
    options::WriteOptions,
    patches::Patch,
    respond,
    status::{self, Status},
};

/// PATCH of an object or of a part of it.
pub(crate) async fn patch(call: &Call, part: Part) -> Result<Response, Status> {
    let output = call.output(Offer::Transformable)?;
    let options = WriteOptions::parse(&call.query, "PatchOptions")?;
    let patch = Patch::read(call)?;
    if patch.kind == PatchType::Apply {
        return apply(call, part, &options, patch.configuration(call, options.field_validation)?).await;
    }
    WriteOptions::check_other_patch(&call.query)?;
    let pinned = patch.names_version();
    let written = update::modify(call, part, &options, |old| {
        let mut patched = patch.apply(call, old)?;
        check_identity(call, &patched, old)?;
        // Whoever does not name a version means whichever is newest.
        if object_meta::text(&patched, "resourceVersion") == object_meta::text(old, "resourceVersion") && !pinned {
            object_meta::of(&mut patched).remove("resourceVersion");
        }
        let object = body::check_patched(call, &call.kind, patched, options.field_validation)?;
        Ok(Change { object, manage: Manage::Update })
    })
    .await?;
    respond::object(call, output, StatusCode::OK, written.as_stored()).await
}

/// A patch does not make another object out of one.
fn check_identity(call: &Call, patched: &Value, old: &Value) -> Result<(), Status> {
    if !patched.is_object() {
        return Err(status::bad_request("the patch makes something other than an object of the object"));
    }
    for field in ["name", "namespace"] {
        if object_meta::text(patched, field) != object_meta::text(old, field) {
            return Err(status::bad_request(format!(
                "the {field} of the object ({}) does not match the {field} on the request ({})",
                object_meta::text(patched, field),
                object_meta::text(old, field)
            )));
        }
    }
    for field in ["apiVersion", "kind"] {
        if !patched[field].is_null() && patched[field] != old[field] {
            return Err(status::bad_request(format!(
                "the {field} of the object ({}) does not match that of the {} on the server ({})",
                patched[field], call.kind.kind, old[field]
            )));
        }
    }
    Ok(())
}

/// Server-side apply: what the configuration has is set and owned, what it no longer has is given up.
async fn apply(call: &Call, part: Part, options: &WriteOptions, mut configuration: Value) -> Result<Response, Status> {
    let output = call.output(Offer::Transformable)?;
    let kind = &*call.kind;
    options.check_apply()?;
    if !configuration.is_object() {
        return Err(status::bad_request("error decoding YAML: an object is needed"));
    }
    if configuration["kind"].as_str().is_some_and(|given| given != kind.kind)
        || configuration["apiVersion"].as_str().is_some_and(|given| given != kind.api_version())
    {
        return Err(status::bad_request(format!(
            "incorrect kind or version for apply: got {} {}, want {} {}",
            configuration["apiVersion"],
            configuration["kind"],
            kind.api_version(),
            kind.kind
        )));
    }
    if !configuration["metadata"]["managedFields"].is_null() {
        return Err(status::bad_request("metadata.managedFields must be nil"));
    }
    configuration["apiVersion"] = json!(kind.api_version());
    configuration["kind"] = json!(kind.kind);
    object_meta::place(kind, &mut configuration, &call.info.namespace, &call.info.name)?;
    let configuration = body::check_patched(call, kind, configuration, options.field_validation)?;
    let outcome = update::modify(call, part, options, |old| {
        let mut object = managed_fields::applied(call, part, Some(old), &configuration, options)?;
        let given = object_meta::text(&configuration, "resourceVersion").to_owned();
        if given.is_empty() {
            object_meta::of(&mut object).remove("resourceVersion");
        } else {
            object_meta::of(&mut object).insert("resourceVersion".into(), json!(given));
        }
        Ok(Change { object, manage: Manage::Done })
    })
    .await;
    match outcome {
        Err(missing) if missing.is_not_found() && part == Part::Main => {
            if !object_meta::text(&configuration, "uid").is_empty() {
                return Err(status::conflict(
                    &kind.group,
                    &kind.plural,
                    &call.info.name,
                    "uid mismatch: the provided object specified uid, and no existing object was found",
                ));
            }
            update::may_create(call)?;
            let object = managed_fields::applied(call, part, None, &configuration, options)?;
            let written = create::create_object(call, object, &call.info.name, options).await?;
            respond::object(call, output, StatusCode::CREATED, written.as_stored()).await
        }
        outcome => respond::object(call, output, StatusCode::OK, outcome?.as_stored()).await,
    }
}
