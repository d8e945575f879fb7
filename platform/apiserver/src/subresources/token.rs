//! `serviceaccounts/{name}/token`: tokens on request.

use http::StatusCode;
use pharos_transport::Response;

use super::options;
use crate::{
    admission::{self, Attributes},
    authn::{issuer::Refused, jws},
    body,
    call::Call,
    negotiate::Offer,
    respond,
    status::{self, Status},
};

pub(super) async fn create(call: &Call) -> Result<Response, Status> {
    let output = call.output(Offer::Plain)?;
    let options = options(call)?;
    let mut request = body::object_of(call, "authentication.k8s.io/v1", "TokenRequest", options.field_validation)?;
    let attributes = Attributes::of_subresource(call, &options);
    crate::authz_hooks::restrict_node(&attributes, Some(&request), None)?;
    admission::review(&attributes, &mut request, None).await?;
    let (namespace, name) = (&call.info.namespace, &call.info.name);
    let objects = crate::background::CachedObjects(call.api.clone());
    let answered = call.api.0.issuer.request(namespace, name, &request, &objects).map_err(|refused| refuse(name, refused))?;
    // By it the token's uses are found again in the audit log.
    let claims = answered["status"]["token"].as_str().and_then(|token| jws::peek(token).ok());
    if let Some(id) = claims.as_ref().and_then(|claims| claims["jti"].as_str()) {
        call.audit.annotate("authentication.kubernetes.io/issued-credential-id", &format!("JTI={id}"));
    }
    respond::plain(output, StatusCode::CREATED, &answered)
}

fn refuse(account: &str, refused: Refused) -> Status {
    let text = refused.to_string();
    match refused {
        Refused::BadRequest(message) => status::bad_request(message),
        Refused::Invalid { field, value, message } => status::invalid_one(
            "authentication.k8s.io",
            "TokenRequest",
            account,
            "FieldValueInvalid",
            field,
            format!("Invalid value: {value}: {message}"),
        ),
        Refused::NotFound { resource, name } => status::not_found("", resource, &name),
        Refused::Conflict { resource, name, message } => status::conflict("", resource, &name, &message),
        Refused::Sign(_) => status::internal(text),
    }
}
