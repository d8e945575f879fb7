//! The verbs, each for every kind alike.

use http::StatusCode;
use pharos_api::registry::Verbs;
use pharos_transport::Response;

use crate::{
    call::Call,
    negotiate::Offer,
    respond::{self, Stored},
    status::{self, Status},
    subresources,
};

pub(crate) mod create;
pub(crate) mod delete;
mod list;
pub(crate) mod object_meta;
mod patch;
pub(crate) mod update;
pub(crate) mod watch;

/// Answers a call: finds the verb and, below an object, the subresource.
pub(crate) async fn dispatch(call: &Call) -> Result<Response, Status> {
    if !call.info.subresource.is_empty() {
        return subresources::dispatch(call).await;
    }
    let verb = Verbs::named(&call.info.verb).ok_or_else(status::method_not_allowed)?;
    if !call.kind.verbs.contains(verb) {
        return Err(status::method_not_allowed());
    }
    let named = !call.info.name.is_empty();
    match call.info.verb.as_str() {
        "get" => get(call).await,
        "list" => list::list(call).await,
        "watch" => watch::watch(call).await,
        // A name in the path of a create is no resource's.
        "create" if named => Err(status::method_not_allowed()),
        "create" if call.kind.strategy.virtual_only => subresources::virtual_create(call).await,
        "create" => create::create(call).await,
        "update" if named => update::put(call, update::Part::Main).await,
        "patch" if named => patch::patch(call, update::Part::Main).await,
        "delete" if named => delete::delete(call).await,
        "deletecollection" => delete::collection(call).await,
        _ => Err(status::method_not_allowed()),
    }
}

/// One object.
pub(crate) async fn get(call: &Call) -> Result<Response, Status> {
    let output = call.output(Offer::Transformable)?;
    let (namespace, name) = (&call.info.namespace, &call.info.name);
    if let Some(version) = call.query.get("resourceVersion").filter(|text| !text.is_empty()) {
        let version = version.parse().map_err(|_| status::bad_request(format!("invalid resource version {version:?}")))?;
        call.api.0.storage.cache(&call.kind)?.wait(version).await?;
    }
    let entry = call.api.0.storage.get(&call.kind, namespace, name).await?;
    let entry = entry.ok_or_else(|| call.not_found(name))?;
    respond::object(call, output, StatusCode::OK, Stored::Bytes(&entry.bytes)).await
}

pub(crate) use patch::patch as patch_part;
