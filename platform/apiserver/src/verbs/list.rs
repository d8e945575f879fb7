//! Lists: from the watch cache, at the revision asked for, a page at a time.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{BufMut as _, BytesMut};
use http::StatusCode;
use pharos_api::object::{Encoding, Object};
use pharos_store::{Error, List, ListOptions as CacheOptions};
use pharos_transport::Response;
use serde_json::{Value, json};

use crate::{
    call::Call,
    convert,
    lists::Continue,
    negotiate::{Format, Offer, Output, Shape},
    options::{ListOptions, Match},
    respond,
    status::{self, Status},
    storage,
};

/// What upstream says when a continue token has outlived its revision.
const TOO_OLD: &str = "The provided continue parameter is too old to display a consistent list result. You can start a \
    new list without the continue parameter, or use the continue token in this response to retrieve the remainder of \
    the results. Continuing with the provided token results in an inconsistent list - objects that were created, \
    modified, or deleted between the time the first chunk was returned and now may show up in the list.";

pub(super) async fn list(call: &Call) -> Result<Response, Status> {
    let output = call.output(Offer::Transformable)?;
    let mut options = ListOptions::parse(&call.query, false)?;
    check_fields(call, &mut options)?;
    let (list, metadata) = find(call, &options).await?;
    if output == Output::JSON && list.objects.iter().all(|object| convert::are_served(&call.kind, object.bytes())) {
        return Ok(joined(call, &metadata, list.objects.iter().map(|object| object.bytes())));
    }
    if output.format == Format::Protobuf && output.shape == Shape::Object && convert::is_served_as_stored(&call.kind) {
        let items = list.objects.iter().map(|object| protobuf(object)).collect::<Result<Vec<_>, _>>()?;
        let (version, kind) = (call.kind.api_version(), call.kind.list_kind());
        let body = pharos_api::protobuf::encode_list(&version, &kind, &metadata, items.iter().map(|item| &item[..]));
        return Ok(respond::bytes(StatusCode::OK, output.content_type(), body.map_err(status::internal)?));
    }
    let mut items = Vec::with_capacity(list.objects.len());
    for object in &list.objects {
        items.push(storage::parse(object.bytes())?);
    }
    let items = convert::all_from_storage(&call.api, &call.kind, items).await?;
    let body = match output.shape {
        Shape::Table(version) => respond::table(call, version, &items, &metadata)?,
        Shape::Partial(version) => json!({
            "kind": "PartialObjectMetadataList",
            "apiVersion": format!("meta.k8s.io/{version}"),
            "metadata": metadata,
            "items": items.iter().map(|item| pharos_api::partial::metadata(item, version)).collect::<Vec<Value>>(),
        }),
        Shape::Object => json!({
            "kind": call.kind.list_kind(),
            "apiVersion": call.kind.api_version(),
            "metadata": metadata,
            "items": items,
        }),
    };
    respond::plain(output, StatusCode::OK, &body)
}

/// The objects that a list's options ask for, and the list's metadata.
pub(super) async fn find(call: &Call, options: &ListOptions) -> Result<(List, Value), Status> {
    let cache = call.api.0.storage.cache(&call.kind)?;
    let token = options.continue_token.as_deref().map(Continue::decode).transpose()?;
    let mut wanted = CacheOptions { scope: call.scope(options), limit: options.limit, ..CacheOptions::default() };
    match (&token, options.resource_version, options.version_match) {
        (Some(token), ..) => {
            wanted.start = Some(format!("{}{}", cache.prefix(), token.start));
            match token.revision {
                Some(revision) => wanted.exact = Some(revision),
                None => wanted.at_least = call.api.0.storage.revision().await?,
            }
        }
        (None, Some(version), Some(Match::Exact)) => wanted.exact = Some(version),
        // Before `resourceVersionMatch` there was only this: with a limit, exactly; without, at least.
        (None, Some(version), None) if version > 0 && options.limit > 0 => wanted.exact = Some(version),
        (None, Some(version), _) => wanted.at_least = version,
        (None, None, _) => wanted.at_least = call.api.0.storage.revision().await?,
    }
    let everything = options.labels.is_everything() && options.fields.is_everything();
    let evaluated = AtomicUsize::new(0);
    let found = if everything {
        cache.list(&wanted).await
    } else {
        let filter = |object: &Object| {
            evaluated.fetch_add(1, Ordering::Relaxed);
            selects(options, object)
        };
        cache.list_matching(&wanted, filter).await
    };
    let list = found.map_err(|error| match (error, &token) {
        (Error::Compacted { .. }, Some(token)) => {
            let inconsistent = Continue { revision: None, start: token.start.clone() };
            status::expired(TOO_OLD).with_continue(inconsistent.encode())
        }
        (error, _) => error.into(),
    })?;
    call.api.0.metrics.lists.served(&call.kind, evaluated.into_inner(), list.objects.len());
    // Pages that follow are read at the revision of the first.
    let next = list
        .next
        .as_deref()
        .and_then(|key| key.strip_prefix(cache.prefix()))
        .map(|start| Continue { revision: Some(list.revision), start: start.to_owned() }.encode());
    let mut metadata = json!({"resourceVersion": list.revision.to_string()});
    if let Some(next) = next {
        metadata["continue"] = json!(next);
        if everything && let Some(remaining) = list.remaining {
            metadata["remainingItemCount"] = json!(remaining);
        }
    }
    Ok((list, metadata))
}

/// A list whose items are the stored bytes themselves.
fn joined<'a>(call: &Call, metadata: &Value, items: impl Iterator<Item = &'a bytes::Bytes> + Clone) -> Response {
    let head = format!(
        "{{\"kind\":{},\"apiVersion\":{},\"metadata\":{metadata},\"items\":[",
        json!(call.kind.list_kind()),
        json!(call.kind.api_version())
    );
    let size = head.len() + items.clone().map(|item| item.len() + 1).sum::<usize>() + 2;
    let mut body = BytesMut::with_capacity(size);
    body.put_slice(head.as_bytes());
    for (at, item) in items.enumerate() {
        if at > 0 {
            body.put_u8(b',');
        }
        body.put_slice(item);
    }
    body.put_slice(b"]}");
    respond::bytes(StatusCode::OK, "application/json", body.freeze())
}

/// A stored object as protobuf: made once, kept beside it, shared by all who ask.
pub(super) fn protobuf(object: &Object) -> Result<bytes::Bytes, Status> {
    object.encoded(Encoding::Protobuf, |object| respond::protobuf(&storage::parse(object.bytes())?))
}

/// Refuses field selectors the kind has no such field for, and calls the others by their names in the version that is stored.
pub(super) fn check_fields(call: &Call, options: &mut ListOptions) -> Result<(), Status> {
    let extra = call.kind.fields.iter().map(|field| field.label.as_ref());
    options.fields.check(call.kind.namespaced, extra).map_err(|error| status::bad_request(error.0))?;
    if !call.kind.custom && !convert::is_stored_version(&call.kind) {
        options.fields.rename(|label| Some(call.kind.selectable(label)?.paths.first()?.join(".")));
    }
    Ok(())
}

/// Whether an object is one of those asked for.
pub(super) fn selects(options: &ListOptions, object: &Object) -> bool {
    options.labels.matches(|key| object.label(key)) && options.fields.matches(|field| object.field(field))
}
