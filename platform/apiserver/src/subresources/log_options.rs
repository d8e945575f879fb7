//! `PodLogOptions` (`ValidatePodLogOptions` in `pkg/apis/core/validation/validation.go`): checked here, so that a client gets a
//! Status that names the field. The kubelet checks them again.

use pharos_api::validation::{ErrorType, FieldError};
use serde_json::{Value, json};

use crate::{
    request::Query,
    status::{self, Status},
};

/// What is wrong with the options of a request for a pod's log.
pub(super) fn check(pod: &str, query: &Query) -> Result<(), Status> {
    let mut errors = Vec::new();
    for (field, least, detail) in [
        ("tailLines", 0, "must be greater than or equal to 0"),
        ("limitBytes", 1, "must be greater than 0"),
        ("sinceSeconds", 1, "must be greater than 0"),
    ] {
        if let Some(number) = number(query, field)?.filter(|number| *number < least) {
            errors.push(error(ErrorType::Invalid, field, json!(number), detail));
        }
    }
    let given = |field: &str| query.get(field).is_some_and(|text| !text.is_empty());
    if given("sinceSeconds") && given("sinceTime") {
        let detail = "at most one of `sinceTime` or `sinceSeconds` may be specified";
        errors.push(error(ErrorType::Forbidden, "", Value::Null, detail));
    }
    if errors.is_empty() { Ok(()) } else { Err(status::invalid("", "PodLogOptions", pod, &errors)) }
}

fn number(query: &Query, field: &str) -> Result<Option<i64>, Status> {
    let text = query.get(field).filter(|text| !text.is_empty());
    let parsed = text.map(|text| {
        text.parse().map_err(|_| status::bad_request(format!("strconv.ParseInt: parsing \"{text}\": invalid syntax")))
    });
    parsed.transpose()
}

fn error(ty: ErrorType, field: &str, value: Value, detail: &str) -> FieldError {
    FieldError { ty, field: field.to_owned(), value, detail: detail.to_owned() }
}
