//! What hangs below objects, and what is asked but never stored.

use http::{Method, StatusCode};
use pharos_api::registry::Verbs;
use pharos_transport::Response;
use serde_json::{Value, json};

use crate::{
    call::Call,
    negotiate::Offer,
    options::WriteOptions,
    respond,
    status::{self, Status},
    verbs::{
        self,
        update::{self, Part},
    },
};

mod binding;
pub(crate) mod connect;
mod eviction;
mod log_options;
mod review;
pub(crate) mod scale;
mod token;

/// Answers a call for a subresource.
pub(crate) async fn dispatch(call: &Call) -> Result<Response, Status> {
    let name = call.info.subresource.as_str();
    let subresource = call.kind.subresource(name).ok_or_else(status::no_such_resource)?;
    let verb = Verbs::named(&call.info.verb).ok_or_else(status::method_not_allowed)?;
    if !subresource.verbs.contains(verb) {
        return Err(status::method_not_allowed());
    }
    match (name, call.info.verb.as_str()) {
        ("scale", "get") => scale::get(call).await,
        ("scale", "update") => scale::put(call).await,
        ("scale", "patch") => scale::patch(call).await,
        ("binding", "create") => binding::create(call, &call.info.name).await,
        ("eviction", "create") => eviction::create(call).await,
        ("token", "create") => token::create(call).await,
        (_, "get") if part(name).is_some() => verbs::get(call).await,
        (_, "update") => update::put(call, part(name).ok_or_else(status::method_not_allowed)?).await,
        (_, "patch") => verbs::patch_part(call, part(name).ok_or_else(status::method_not_allowed)?).await,
        _ => Err(status::method_not_allowed()),
    }
}

/// The part of an object a subresource writes.
fn part(name: &str) -> Option<Part> {
    Some(match name {
        "status" => Part::Status,
        "ephemeralcontainers" => Part::EphemeralContainers,
        "resize" => Part::Resize,
        "finalize" => Part::Finalize,
        "approval" => Part::Approval,
        _ => return None,
    })
}

/// Creates of kinds that are answered and forgotten.
pub(crate) async fn virtual_create(call: &Call) -> Result<Response, Status> {
    if call.kind.group.is_empty() && call.kind.plural == "bindings" {
        return binding::create(call, "").await;
    }
    review::create(call).await
}

/// 201 with `Status` Success, which is how bindings and evictions are acknowledged.
fn success(call: &Call) -> Result<Response, Status> {
    let output = call.output(Offer::Plain)?;
    let value = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": StatusCode::CREATED.as_u16(),
    });
    respond::plain(output, StatusCode::CREATED, &value)
}

/// The options of a write to a subresource.
fn options(call: &Call) -> Result<WriteOptions, Status> {
    let kind = match call.info.verb.as_str() {
        "patch" => "PatchOptions",
        "update" => "UpdateOptions",
        _ => "CreateOptions",
    };
    WriteOptions::parse(&call.query, kind)
}

/// Forgets the resource version, so that the server's own change is made on whatever state is newest.
fn unpinned(object: &Value) -> Value {
    let mut object = object.clone();
    verbs::object_meta::of(&mut object).remove("resourceVersion");
    object
}

/// Whether a subresource streams instead of being answered.
pub(crate) fn connects(resource: &str, subresource: &str, method: &Method) -> bool {
    match (resource, subresource) {
        ("pods", "log") => method == Method::GET,
        ("pods", "exec" | "attach" | "portforward") => method == Method::GET || method == Method::POST,
        ("pods" | "services" | "nodes", "proxy") => true,
        _ => false,
    }
}
