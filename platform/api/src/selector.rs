//! Selectors of labels and of fields.

mod field;
mod label;

pub use field::{FieldSelector, Term};
pub use label::{LabelSelector, Operator, Requirement};

/// A selector that cannot be parsed, with upstream's text. It becomes a `BadRequest`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(pub String);

impl From<ParseError> for crate::status::Status {
    fn from(error: ParseError) -> Self {
        Self::bad_request(error.0)
    }
}
