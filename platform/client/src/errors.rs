use kube::{Error, core::Status};

/// The `Status` that the API server answered with, if it answered.
#[must_use]
pub fn status_of(error: &Error) -> Option<&Status> {
    match error {
        Error::Api(status) => Some(status),
        _ => None,
    }
}

/// The object is gone: for a delete or an update this is often success.
#[must_use]
pub fn is_not_found(error: &Error) -> bool {
    status_of(error).is_some_and(|s| s.code == 404)
}

/// Somebody else wrote first: read again, decide again, write again.
#[must_use]
pub fn is_conflict(error: &Error) -> bool {
    status_of(error).is_some_and(|s| s.code == 409 && s.reason != "AlreadyExists")
}

/// A create met an object of that name.
#[must_use]
pub fn is_already_exists(error: &Error) -> bool {
    status_of(error).is_some_and(|s| s.code == 409 && s.reason == "AlreadyExists")
}
