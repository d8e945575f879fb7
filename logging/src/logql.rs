//! LogQL: the language, and what its parts do to a line. Follows Loki 3 (`pkg/logql`).
//!
//! Not understood, and refused by name: `approx_topk`, `offset` outside a range, `variants`, and template functions that
//! [`template`] does not list.

mod ast; // A query
mod lexer; // is read
mod parser; // from text;
pub(crate) mod units; // with numbers of several kinds;
mod pipeline; // its stages change a line
mod parsers; // by what they find in it
mod pattern; // or on it,
mod template; // and write it anew.

pub(crate) use ast::*;
pub(crate) use parser::{parse, parse_selector};
pub(crate) use pipeline::{ERROR, ERROR_DETAILS, Line, Pipeline, parsed};

/// Why a text is no query, as Loki puts it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum ParseError {
    /// At a place.
    #[error("parse error at line {line}, col {column}: {message}")]
    At {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
        /// What is wrong there.
        message: String,
    },
    /// With the whole.
    #[error("parse error : {0}")]
    Whole(String),
}

#[cfg(test)]
mod tests;
