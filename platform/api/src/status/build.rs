//! Constructors of every status, after apimachinery's `api/errors/errors.go`.

use std::borrow::Cow;
use std::fmt::{self, Display};

use super::{Cause, Details, FieldError, Metadata, Status, failure, go_quote, reason};

/// A request that authorization refused; its text is the reason in a `Forbidden`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Denied<'a> {
    /// The user's name.
    pub user: &'a str,
    /// The verb.
    pub verb: &'a str,
    /// The API group; empty for core.
    pub group: &'a str,
    /// The resource; empty if the request is for a plain path.
    pub resource: &'a str,
    /// The subresource, if any.
    pub subresource: &'a str,
    /// The namespace; empty at the cluster scope.
    pub namespace: &'a str,
    /// The object's name, if any.
    pub name: &'a str,
    /// The path, if no resource.
    pub path: &'a str,
    /// Why, if the authorizer says.
    pub why: &'a str,
}

impl Display for Denied<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (user, verb) = (go_quote(self.user), self.verb);
        if self.resource.is_empty() {
            write!(f, "User {user} cannot {verb} path {}", go_quote(self.path))?;
        } else {
            let slash = if self.subresource.is_empty() { "" } else { "/" };
            let (resource, subresource, group) = (self.resource, self.subresource, go_quote(self.group));
            write!(f, "User {user} cannot {verb} resource \"{resource}{slash}{subresource}\" in API group {group}")?;
            match self.namespace {
                "" => f.write_str(" at the cluster scope")?,
                namespace => write!(f, " in the namespace {}", go_quote(namespace))?,
            }
        }
        if self.why.is_empty() { Ok(()) } else { write!(f, ": {}", self.why) }
    }
}

fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

fn about(group: &str, resource: &str, name: &str) -> Details {
    Details { group: group.to_owned(), kind: resource.to_owned(), name: name.to_owned(), ..Details::default() }
}

/// The reason that goes with an HTTP status code, for answers that are no `Status` themselves.
pub fn reason_for_code(code: u16) -> &'static str {
    match code {
        400 => reason::BAD_REQUEST,
        401 => reason::UNAUTHORIZED,
        403 => reason::FORBIDDEN,
        404 => reason::NOT_FOUND,
        405 => reason::METHOD_NOT_ALLOWED,
        406 => reason::NOT_ACCEPTABLE,
        409 => reason::CONFLICT,
        410 => reason::GONE,
        413 => reason::REQUEST_ENTITY_TOO_LARGE,
        415 => reason::UNSUPPORTED_MEDIA_TYPE,
        422 => reason::INVALID,
        429 => reason::TOO_MANY_REQUESTS,
        500 => reason::INTERNAL_ERROR,
        503 => reason::SERVICE_UNAVAILABLE,
        504 => reason::TIMEOUT,
        _ => "",
    }
}

impl Status {
    /// A failure with no details.
    pub fn failure(code: u16, reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self {
            kind: (),
            api_version: (),
            metadata: Metadata {},
            status: failure(),
            message: message.into(),
            reason: reason.into(),
            details: None,
            code,
        }
    }

    /// A success, the answer to a delete that left nothing behind.
    pub fn success(details: Option<Details>) -> Self {
        Self { status: Cow::Borrowed("Success"), details: details.map(Box::new), ..Self::failure(0, "", "") }
    }

    /// The answer to a delete: the object is gone.
    pub fn deleted(group: &str, resource: &str, name: &str, uid: &str) -> Self {
        Self::success(Some(Details { uid: uid.to_owned(), ..about(group, resource, name) }))
    }

    /// The same status with other details.
    pub fn with_details(self, details: Details) -> Self {
        Self { details: Some(Box::new(details)), ..self }
    }

    /// The same status with one more cause.
    pub fn with_cause(mut self, cause: Cause) -> Self {
        self.details.get_or_insert_default().causes.push(cause);
        self
    }

    /// The same status, asking to try again after so many seconds.
    pub fn with_retry_after(mut self, seconds: u32) -> Self {
        self.details.get_or_insert_default().retry_after_seconds = seconds;
        self
    }

    /// 404: no such object.
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} {} not found", qualified(group, resource), go_quote(name));
        Self::failure(404, reason::NOT_FOUND, message).with_details(about(group, resource, name))
    }

    /// 404: no such path or resource.
    pub fn unknown_path() -> Self {
        Self::failure(404, reason::NOT_FOUND, "the server could not find the requested resource").with_details(Details::default())
    }

    /// 409: an object of that name exists.
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} {} already exists", qualified(group, resource), go_quote(name));
        Self::failure(409, reason::ALREADY_EXISTS, message).with_details(about(group, resource, name))
    }

    /// 409: every generated name tried was taken.
    pub fn generate_name_conflict(group: &str, resource: &str, name: &str) -> Self {
        let message = format!(
            "{} {} already exists, the server was not able to generate a unique name for the object",
            qualified(group, resource),
            go_quote(name)
        );
        Self::failure(409, reason::ALREADY_EXISTS, message).with_details(about(group, resource, name)).with_retry_after(1)
    }

    /// 409: the operation does not fit the object's state.
    pub fn conflict(group: &str, resource: &str, name: &str, why: impl Display) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {}: {why}", qualified(group, resource), go_quote(name));
        Self::failure(409, reason::CONFLICT, message).with_details(about(group, resource, name))
    }

    /// 409: the resourceVersion sent is not the current one.
    pub fn modified(group: &str, resource: &str, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(group, resource, name, why)
    }

    /// 409: other managers own fields that an apply would change.
    pub fn apply_conflict(message: impl Into<String>, causes: Vec<Cause>) -> Self {
        Self::failure(409, reason::CONFLICT, message).with_details(Details { causes, ..Details::default() })
    }

    /// 410: the resource is no longer there.
    pub fn gone(message: impl Into<String>) -> Self {
        Self::failure(410, reason::GONE, message)
    }

    /// 410: the revision or continue token is too old.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::failure(410, reason::EXPIRED, message)
    }

    /// 422: the object breaks rules. `kind` is the kind, not the resource.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Self {
        let mut texts: Vec<String> = Vec::with_capacity(errors.len());
        for text in errors.iter().map(ToString::to_string) {
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
        let why = match texts.as_slice() {
            [] => String::new(),
            [one] => format!(": {one}"),
            many => format!(": [{}]", many.join(", ")),
        };
        let message = format!("{} {} is invalid{why}", qualified(group, kind), go_quote(name));
        let cause = |e: &FieldError| Cause { reason: e.ty.reason().into(), message: e.body(), field: e.field.clone() };
        let causes = errors.iter().map(cause).collect();
        Self::failure(422, reason::INVALID, message).with_details(Details { causes, ..about(group, kind, name) })
    }

    /// 422: a patch cannot be applied. Upstream tells no more than this.
    pub fn unprocessable() -> Self {
        let message = "the server rejected our request due to an error in our request";
        Self::failure(422, reason::INVALID, message).with_details(Details::default())
    }

    /// 400: the request makes no sense.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::failure(400, reason::BAD_REQUEST, message)
    }

    /// 401: the credentials are missing or wrong.
    pub fn unauthorized() -> Self {
        Self::failure(401, reason::UNAUTHORIZED, "Unauthorized")
    }

    /// 403: not allowed, for a reason (admission, quota, a [`Denied`]).
    pub fn forbidden(group: &str, resource: &str, name: &str, why: impl Display) -> Self {
        let message = match (resource, name) {
            ("", _) => format!("forbidden: {why}"),
            (_, "") => format!("{} is forbidden: {why}", qualified(group, resource)),
            _ => format!("{} {} is forbidden: {why}", qualified(group, resource), go_quote(name)),
        };
        Self::failure(403, reason::FORBIDDEN, message).with_details(about(group, resource, name))
    }

    /// 403: authorization refused.
    pub fn denied(denied: Denied<'_>) -> Self {
        Self::forbidden(denied.group, denied.resource, denied.name, denied)
    }

    /// 405: the resource has no such verb.
    pub fn method_not_supported(group: &str, resource: &str, verb: &str) -> Self {
        let message = format!("{verb} is not supported on resources of kind {}", go_quote(&qualified(group, resource)));
        Self::failure(405, reason::METHOD_NOT_ALLOWED, message).with_details(about(group, resource, ""))
    }

    /// 405: the path has no such method.
    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::failure(405, reason::METHOD_NOT_ALLOWED, message).with_details(Details::default())
    }

    /// 406: nothing the client accepts can be made.
    pub fn not_acceptable<S: AsRef<str>>(offered: &[S]) -> Self {
        let list: Vec<&str> = offered.iter().map(AsRef::as_ref).collect();
        let message = format!("only the following media types are accepted: {}", list.join(", "));
        Self::failure(406, reason::NOT_ACCEPTABLE, message)
    }

    /// 413: the body is too large.
    pub fn request_entity_too_large(limit_bytes: u64) -> Self {
        let message = format!("Request entity too large: limit is {limit_bytes}");
        Self::failure(413, reason::REQUEST_ENTITY_TOO_LARGE, message)
    }

    /// 415: the body is in no format known here.
    pub fn unsupported_media_type<S: AsRef<str>>(accepted: &[S]) -> Self {
        let list: Vec<&str> = accepted.iter().map(AsRef::as_ref).collect();
        let message =
            format!("the body of the request was in an unknown format - accepted media types include: {}", list.join(", "));
        Self::failure(415, reason::UNSUPPORTED_MEDIA_TYPE, message)
    }

    /// 429: too many requests, or an eviction that a budget forbids for now.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self::failure(429, reason::TOO_MANY_REQUESTS, message).with_details(Details { retry_after_seconds, ..Details::default() })
    }

    /// 500: something broke. The text must be fit for the client.
    pub fn internal(message: impl Display) -> Self {
        let message = message.to_string();
        let cause = Cause { message: message.clone(), ..Cause::default() };
        Self::failure(500, reason::INTERNAL_ERROR, format!("Internal error occurred: {message}"))
            .with_details(Details { causes: vec![cause], ..Details::default() })
    }

    /// 500: the operation could not be completed now.
    pub fn server_timeout(group: &str, resource: &str, operation: &str, retry_after_seconds: u32) -> Self {
        let message = format!(
            "The {operation} operation against {} could not be completed at this time, please try again.",
            qualified(group, resource)
        );
        let details = Details { retry_after_seconds, ..about(group, resource, operation) };
        Self::failure(500, reason::SERVER_TIMEOUT, message).with_details(details)
    }

    /// 503: not ready, shutting down, or a back end is away.
    pub fn service_unavailable(message: impl Into<String>) -> Self {
        Self::failure(503, reason::SERVICE_UNAVAILABLE, message)
    }

    /// 504: the request took too long.
    pub fn timeout(message: impl Display, retry_after_seconds: u32) -> Self {
        Self::failure(504, reason::TIMEOUT, format!("Timeout: {message}"))
            .with_details(Details { retry_after_seconds, ..Details::default() })
    }
}
