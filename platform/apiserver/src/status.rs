//! Refusals: each is a `Status` with upstream's code, reason and message
//! (`staging/src/k8s.io/apimachinery/pkg/api/errors/errors.go`).

use std::borrow::Cow;

use http::StatusCode;
use pharos_api::{
    registry::Kind,
    validation::{ErrorType, FieldError},
};
use serde_json::{Value, json};

/// Why a request was refused, as its client reads it.
#[derive(Debug, Clone)]
pub(crate) struct Status(Box<Parts>);

#[derive(Debug, Clone)]
struct Parts {
    code: StatusCode,
    reason: Cow<'static, str>,
    message: String,
    details: Value,
    /// `metadata.continue` of an expired list.
    next: Option<String>,
}

impl Status {
    pub(crate) fn new(code: u16, reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Status(Box::new(Parts {
            code: StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            reason: reason.into(),
            message: message.into(),
            details: Value::Null,
            next: None,
        }))
    }

    pub(crate) fn code(&self) -> StatusCode {
        self.0.code
    }

    pub(crate) fn reason(&self) -> &str {
        &self.0.reason
    }

    pub(crate) fn message(&self) -> &str {
        &self.0.message
    }

    /// `Retry-After`, in seconds.
    pub(crate) fn retry_after(&self) -> Option<u64> {
        self.0.details["retryAfterSeconds"].as_u64()
    }

    pub(crate) fn is_not_found(&self) -> bool {
        self.0.reason == "NotFound"
    }

    /// The details another server gave along.
    pub(crate) fn with_foreign_details(mut self, details: &Value) -> Self {
        self.0.details = details.clone();
        self
    }

    /// The same with another code and reason.
    pub(crate) fn with_code(mut self, code: u16, reason: impl Into<Cow<'static, str>>) -> Self {
        self.0.code = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        self.0.reason = reason.into();
        self
    }

    /// The same with another message.
    pub(crate) fn with_message(mut self, message: impl Into<String>) -> Self {
        self.0.message = message.into();
        self
    }

    pub(crate) fn with_details(mut self, group: &str, kind: &str, name: &str) -> Self {
        let details = &mut self.0.details;
        for (field, value) in [("name", name), ("group", group), ("kind", kind)] {
            if !value.is_empty() {
                details[field] = json!(value);
            }
        }
        self
    }

    pub(crate) fn with_causes(mut self, causes: Vec<Value>) -> Self {
        self.0.details["causes"] = Value::Array(causes);
        self
    }

    /// Zero seconds are none: Go leaves them out.
    pub(crate) fn with_retry_after(mut self, seconds: u64) -> Self {
        if seconds > 0 {
            self.0.details["retryAfterSeconds"] = json!(seconds);
        }
        self
    }

    pub(crate) fn with_continue(mut self, token: String) -> Self {
        self.0.next = Some(token);
        self
    }

    pub(crate) fn to_value(&self) -> Value {
        let parts = &*self.0;
        let mut metadata = json!({});
        if let Some(next) = &parts.next {
            metadata["continue"] = json!(next);
        }
        let mut value = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": metadata,
            "status": if parts.code.is_success() { "Success" } else { "Failure" },
            "code": parts.code.as_u16(),
        });
        if !parts.message.is_empty() {
            value["message"] = json!(parts.message);
        }
        if !parts.reason.is_empty() {
            value["reason"] = json!(parts.reason);
        }
        if !parts.details.is_null() {
            value["details"] = parts.details.clone();
        }
        value
    }
}

fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

pub(crate) fn bad_request(message: impl Into<String>) -> Status {
    Status::new(400, "BadRequest", message)
}

pub(crate) fn unauthorized() -> Status {
    Status::new(401, "Unauthorized", "Unauthorized")
}

pub(crate) fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> Status {
    let message = match (resource.is_empty(), name.is_empty()) {
        (true, _) => format!("forbidden: {why}"),
        (false, true) => format!("{} is forbidden: {why}", qualified(group, resource)),
        (false, false) => format!("{} \"{name}\" is forbidden: {why}", qualified(group, resource)),
    };
    Status::new(403, "Forbidden", message).with_details(group, resource, name)
}

pub(crate) fn not_found(group: &str, resource: &str, name: &str) -> Status {
    Status::new(404, "NotFound", format!("{} \"{name}\" not found", qualified(group, resource)))
        .with_details(group, resource, name)
}

/// 404 for a path or resource that does not exist.
pub(crate) fn no_such_resource() -> Status {
    Status::new(404, "NotFound", "the server could not find the requested resource").with_details("", "", "")
}

pub(crate) fn already_exists(group: &str, resource: &str, name: &str) -> Status {
    Status::new(409, "AlreadyExists", format!("{} \"{name}\" already exists", qualified(group, resource)))
        .with_details(group, resource, name)
}

pub(crate) fn conflict(group: &str, resource: &str, name: &str, why: &str) -> Status {
    let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", qualified(group, resource));
    Status::new(409, "Conflict", message).with_details(group, resource, name)
}

/// 409 because someone else was faster.
pub(crate) fn modified(kind: &Kind, name: &str) -> Status {
    conflict(
        &kind.group,
        &kind.plural,
        name,
        "the object has been modified; please apply your changes to the latest version and try again",
    )
}

pub(crate) fn invalid(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Status {
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    let list = match texts.as_slice() {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    };
    let causes =
        errors.iter().map(|error| json!({"reason": error.ty.reason(), "message": error.body(), "field": error.field})).collect();
    Status::new(422, "Invalid", format!("{} \"{name}\" is invalid: {list}", qualified(group, kind)))
        .with_details(group, kind, name)
        .with_causes(causes)
}

/// 422 with one cause that is already text.
pub(crate) fn invalid_one(group: &str, kind: &str, name: &str, reason: &str, field: &str, message: String) -> Status {
    Status::new(422, "Invalid", format!("{} \"{name}\" is invalid: {field}: {message}", qualified(group, kind)))
        .with_details(group, kind, name)
        .with_causes(vec![json!({"reason": reason, "message": message, "field": field})])
}

pub(crate) fn invalid_field(kind: &Kind, name: &str, ty: ErrorType, field: &str, value: Value, detail: &str) -> Status {
    let error = FieldError { ty, field: field.to_owned(), value, detail: detail.to_owned() };
    invalid(&kind.group, &kind.kind, name, &[error])
}

pub(crate) fn expired(message: impl Into<String>) -> Status {
    Status::new(410, "Expired", message)
}

pub(crate) fn method_not_allowed() -> Status {
    Status::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
}

pub(crate) fn not_acceptable() -> Status {
    Status::new(
        406,
        "NotAcceptable",
        "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf",
    )
}

pub(crate) fn unsupported_media_type(given: &str, accepted: &str) -> Status {
    let _ = given;
    Status::new(
        415,
        "UnsupportedMediaType",
        format!("the body of the request was in an unknown format - accepted media types include: {accepted}"),
    )
}

pub(crate) fn too_large(limit_bytes: usize) -> Status {
    Status::new(413, "RequestEntityTooLarge", format!("Request entity too large: limit is {limit_bytes}"))
}

pub(crate) fn too_many_requests(message: impl Into<String>, retry_after_seconds: u64) -> Status {
    Status::new(429, "TooManyRequests", message).with_retry_after(retry_after_seconds)
}

pub(crate) fn timeout(message: impl Into<String>) -> Status {
    Status::new(504, "Timeout", message)
}

pub(crate) fn internal(message: impl std::fmt::Display) -> Status {
    Status::new(500, "InternalError", format!("Internal error occurred: {message}"))
}

pub(crate) fn unavailable(message: impl Into<String>) -> Status {
    Status::new(503, "ServiceUnavailable", message)
}

impl From<pharos_store::Error> for Status {
    fn from(error: pharos_store::Error) -> Self {
        use pharos_store::Error;
        match error {
            Error::Compacted { requested, oldest } => expired(format!("too old resource version: {requested} ({oldest})")),
            Error::Lagged { revision } => expired(format!("too old resource version: {revision} (lagged)")),
            Error::FutureRevision { requested, current } => {
                timeout(format!("Too large resource version: {requested}, current: {current}"))
                    .with_causes(vec![json!({
                        "reason": "ResourceVersionTooLarge",
                        "message": "Too large resource version",
                    })])
                    .with_retry_after(1)
            }
            Error::TooLarge { .. } => Status::new(413, "RequestEntityTooLarge", error.to_string()),
            Error::Conflict { .. } => Status::new(409, "Conflict", "the object has been modified"),
            // As upstream's `NewServerTimeout`: a remote store is away for a moment, clients try again.
            Error::Backend(why) => {
                tracing::warn!(error = why, "store did not answer");
                Status::new(500, "ServerTimeout", "The operation could not be completed at this time, please try again.")
                    .with_retry_after(2)
            }
            other => {
                let error = &other as &dyn std::error::Error;
                tracing::error!(error, "store failed");
                internal("the store did not answer")
            }
        }
    }
}

impl From<pharos_api::status::Status> for Status {
    fn from(status: pharos_api::status::Status) -> Self {
        let mut made = Status::new(status.code, status.reason.clone(), status.message.clone());
        if let Some(details) = &status.details {
            made.0.details = serde_json::to_value(details).unwrap_or(Value::Null);
        }
        made
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_time_to_wait_is_not_told() {
        for (seconds, told) in [(0, None), (10, Some(10))] {
            let status = too_many_requests("later", seconds).with_causes(Vec::new());
            assert_eq!(status.retry_after(), told);
            assert_eq!(status.to_value()["details"].get("retryAfterSeconds").and_then(Value::as_u64), told);
        }
    }
}
