//! Reviews: questions about who someone is and what they may do, answered and forgotten.

use http::StatusCode;
use pharos_transport::Response;

use super::options;
use crate::{
    admission::{self, Attributes},
    authn::Authenticator,
    authz::review,
    body,
    call::Call,
    negotiate::Offer,
    respond,
    status::{self, Status},
};

pub(super) async fn create(call: &Call) -> Result<Response, Status> {
    let output = call.output(Offer::Plain)?;
    let options = options(call)?;
    let mut question = body::object(call, options.field_validation)?;
    admission::review(&Attributes::of_subresource(call, &options), &mut question, None).await?;
    let authorizer = &call.api.0.authorizer;
    let user = &call.user;
    let kind = &call.kind;
    let answered = match (kind.group.as_ref(), kind.plural.as_ref()) {
        ("authorization.k8s.io", "subjectaccessreviews") => review::subject_access(authorizer, &question),
        ("authorization.k8s.io", "localsubjectaccessreviews") => {
            review::local_subject_access(authorizer, &call.info.namespace, &question)
        }
        ("authorization.k8s.io", "selfsubjectaccessreviews") => review::self_subject_access(authorizer, user, &question),
        ("authorization.k8s.io", "selfsubjectrulesreviews") => review::self_subject_rules(authorizer, user, &question),
        ("authentication.k8s.io", "selfsubjectreviews") => Ok(Authenticator::review_self(&question, user)),
        ("authentication.k8s.io", "tokenreviews") => {
            return match call.api.authenticator().review_token(&question).await {
                Ok(answer) => respond::plain(output, StatusCode::CREATED, &answer),
                Err(message) => Err(status::bad_request(message)),
            };
        }
        _ => return Err(status::method_not_allowed()),
    };
    let answered = answered.map_err(|error| match error {
        review::Error::BadRequest(message) => status::bad_request(message),
        review::Error::Invalid { field, value, message, .. } => status::invalid_one(
            &kind.group,
            &kind.kind,
            "",
            "FieldValueInvalid",
            field,
            format!("Invalid value: {value}: {message}"),
        ),
    })?;
    respond::plain(output, StatusCode::CREATED, &answered)
}
