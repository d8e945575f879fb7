//! Bodies out: objects, tables, metadata and `Status`, in the format the client wants.

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use pharos_api::table::{Include, Printer};
use pharos_transport::{Body, Io, Response};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::{
    call::Call,
    convert,
    negotiate::{Format, Output, Shape},
    status::Status,
};

/// Any bytes.
pub(crate) fn bytes(code: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Body::full(body.into()));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// Plain text.
pub(crate) fn text(code: StatusCode, body: impl Into<String>) -> Response {
    let mut response = bytes(code, "text/plain; charset=utf-8", body.into());
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// A JSON document.
pub(crate) fn json_document(code: StatusCode, value: &Value) -> Response {
    bytes(code, "application/json", value.to_string())
}

/// Adds a warning to an answer.
pub(crate) fn warn(response: &mut Response, text: &str) {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace(['\n', '\r'], " ");
    if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{escaped}\"")) {
        response.headers_mut().append(header::WARNING, value);
    }
}

/// A refusal.
pub(crate) fn status(status: &Status, output: Output) -> Response {
    let value = status.to_value();
    let mut response = plain(output, status.code(), &value).unwrap_or_else(|_| json_document(status.code(), &value));
    if let Some(seconds) = status.retry_after() {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Refuses a connection that wants to be upgraded.
pub(crate) async fn refuse_upgrade(mut io: Io, status: Status) {
    let body = status.to_value().to_string();
    let code = status.code();
    let head = format!(
        "HTTP/1.1 {} {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        code.as_u16(),
        code.canonical_reason().unwrap_or(""),
        body.len()
    );
    // The client may be gone; there is nobody left to tell.
    let _ = io.write_all(head.as_bytes()).await;
    let _ = io.write_all(body.as_bytes()).await;
    let _ = io.shutdown().await;
}

fn encode(value: &Value, output: Output) -> Result<Bytes, Status> {
    let encoded = match output.format {
        Format::Protobuf => return protobuf(value),
        Format::Yaml => pharos_api::yaml::encode(value).unwrap_or_default().into_bytes(),
        Format::Json if output.pretty => serde_json::to_vec_pretty(value).unwrap_or_default(),
        Format::Json => serde_json::to_vec(value).unwrap_or_default(),
    };
    Ok(encoded.into())
}

/// An object as protobuf, with its envelope.
pub(crate) fn protobuf(value: &Value) -> Result<Bytes, Status> {
    pharos_api::protobuf::encode(value).map(Bytes::from).map_err(crate::status::internal)
}

/// One object, as it is or as the client wants to see it. Its bytes go out as they are stored where that is possible.
pub(crate) async fn object(call: &Call, output: Output, code: StatusCode, object: Stored<'_>) -> Result<Response, Status> {
    if output == Output::JSON
        && let Stored::Bytes(stored) = object
        && convert::are_served(&call.kind, stored)
    {
        return Ok(bytes(code, output.content_type(), stored.clone()));
    }
    let value = match object {
        Stored::Bytes(bytes) => convert::from_storage(&call.api, &call.kind, crate::storage::parse(bytes)?).await?,
        Stored::Value(value) => value.clone(),
    };
    let shaped = match output.shape {
        Shape::Object => value,
        Shape::Partial(version) => pharos_api::partial::metadata(&value, version),
        Shape::Table(version) => {
            let metadata = json!({"resourceVersion": value["metadata"]["resourceVersion"]});
            table(call, version, &[value], &metadata)?
        }
    };
    plain(output, code, &shaped)
}

/// A document that is never a table.
pub(crate) fn plain(output: Output, code: StatusCode, value: &Value) -> Result<Response, Status> {
    Ok(bytes(code, output.content_type(), encode(value, output)?))
}

/// An object as the store has it or as it was just made.
#[derive(Clone, Copy)]
pub(crate) enum Stored<'a> {
    /// As stored.
    Bytes(&'a Bytes),
    /// In the version asked for.
    Value(&'a Value),
}

/// A `meta.k8s.io` table of some objects.
pub(crate) fn table(call: &Call, version: &str, objects: &[Value], metadata: &Value) -> Result<Value, Status> {
    let include = include(call)?;
    let printer = Printer::of(&call.kind);
    let now = call.api.0.clock.now();
    let rows = objects.iter().map(|object| printer.row(object, include, version, now)).collect();
    Ok(printer.table(rows, metadata.clone(), version, true))
}

/// What goes along with a table's rows.
pub(crate) fn include(call: &Call) -> Result<Include, Status> {
    let text = call.query.get("includeObject").unwrap_or_default();
    Include::parse(text).ok_or_else(|| {
        crate::status::bad_request(format!(
            "invalid query parameters: includeObject: Unsupported value: {text:?}: supported values: \"Metadata\", \"None\", \"Object\""
        ))
    })
}
