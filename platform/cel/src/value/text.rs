//! Strings: of the object, or made by the expression.

use std::{ops::Deref, sync::Arc};

/// A string that costs nothing to clone.
#[derive(Debug, Clone)]
pub enum Text<'a> {
    /// Of the object.
    Borrowed(&'a str),
    /// Made by the expression.
    Shared(Arc<str>),
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Borrowed(text) => text,
            Self::Shared(text) => text,
        }
    }
}

impl Text<'_> {
    /// The same, without the reference.
    pub(crate) fn into_shared(self) -> Arc<str> {
        match self {
            Self::Borrowed(text) => text.into(),
            Self::Shared(text) => text,
        }
    }
}
