//! The values of names.

use std::{fmt, sync::OnceLock};

use serde_json::Value as Json;

use crate::{Authorizer, Declaration, EvaluationError, Program, Val, value::from_json};

/// Values for the names of an environment.
#[derive(Default)]
pub struct Bindings<'a> {
    values: Vec<(String, Bound<'a>)>,
    authorizer: Option<&'a dyn Authorizer>,
}

/// What a name stands for.
pub(crate) enum Bound<'a> {
    Value(Result<Val<'a>, EvaluationError>),
    Lazy(Lazy<'a>),
}

/// A map whose members are evaluated on first use, once.
pub(crate) struct Lazy<'a> {
    pub(crate) members: &'a [(String, Program)],
    pub(crate) values: Vec<OnceLock<Result<Val<'a>, EvaluationError>>>,
}

impl fmt::Debug for Bindings<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.values.iter().map(|(name, _)| name)).finish()
    }
}

impl<'a> Bindings<'a> {
    /// No values yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A JSON value; null for an object that is not there.
    #[must_use]
    pub fn json(self, name: &str, value: &'a Json) -> Self {
        self.bind(name, Bound::Value(from_json(value, None)))
    }

    /// A JSON value as its schema reads it. The name must have been declared with that declaration.
    #[must_use]
    pub fn declared(self, name: &str, value: &'a Json, declaration: &'a Declaration) -> Self {
        self.bind(name, Bound::Value(from_json(value, Some(declaration))))
    }

    /// An optional JSON value as its schema reads it.
    #[must_use]
    pub fn optional(self, name: &str, value: Option<&'a Json>, declaration: &'a Declaration) -> Self {
        let value = match value {
            None => Ok(Val::Optional(None)),
            Some(value) => from_json(value, Some(declaration)).map(Val::some),
        };
        self.bind(name, Bound::Value(value))
    }

    /// A value.
    #[must_use]
    pub fn value(self, name: &str, value: Val<'a>) -> Self {
        self.bind(name, Bound::Value(Ok(value)))
    }

    /// A map whose members are evaluated on first use, once, each seeing those before it: `variables`.
    #[must_use]
    pub fn lazy(self, name: &str, members: &'a [(String, Program)]) -> Self {
        let values = members.iter().map(|_| OnceLock::new()).collect();
        self.bind(name, Bound::Lazy(Lazy { members, values }))
    }

    /// `authorizer`, and `authorizer.requestResource`.
    #[must_use]
    pub fn authorizer(mut self, authorizer: &'a dyn Authorizer) -> Self {
        self.authorizer = Some(authorizer);
        self
    }

    fn bind(mut self, name: &str, value: Bound<'a>) -> Self {
        self.values.retain(|(other, _)| other != name);
        self.values.push((name.to_owned(), value));
        self
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Bound<'a>> {
        self.values.iter().find(|(other, _)| other == name).map(|(_, value)| value)
    }

    pub(crate) fn authority(&self) -> Option<&'a dyn Authorizer> {
        self.authorizer
    }
}
