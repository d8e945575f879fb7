//! The names that an expression may use.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value as Json;

use crate::{declaration::Declaration, types::Ty};

/// The names an expression may use at its top level, such as `self` and `oldSelf`, or `object`, `request` and `authorizer`.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    names: BTreeMap<String, Ty>,
    declarations: BTreeMap<String, Arc<Declaration>>,
}

impl Environment {
    /// Names of no particular type; but `authorizer` is the authorizer.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let ty = |name: &str| if name == "authorizer" { Ty::Opaque("kubernetes.authorization.Authorizer") } else { Ty::Dyn };
        let names = names.into_iter().map(|name| (name.to_owned(), ty(name))).collect();
        Self { names, declarations: BTreeMap::new() }
    }

    /// Gives a name the type of its OpenAPI schema; a schema that says nothing of its type changes nothing.
    #[must_use]
    pub fn with_schema(self, name: &str, schema: &Json) -> Self {
        match Declaration::new(schema, false) {
            Some(declaration) => self.with_declaration(name, &declaration.with_plain_names()),
            None => self,
        }
    }

    /// Gives a name the type of a declaration. What it is bound to must be bound with the same declaration.
    #[must_use]
    pub fn with_declaration(mut self, name: &str, declaration: &Arc<Declaration>) -> Self {
        self.names.insert(name.to_owned(), declaration.ty());
        self.declarations.insert(name.to_owned(), declaration.clone());
        self
    }

    /// Gives a name the type of a declaration, or nothing.
    #[must_use]
    pub fn with_optional(mut self, name: &str, declaration: &Arc<Declaration>) -> Self {
        self.names.insert(name.to_owned(), Ty::optional(declaration.ty()));
        self.declarations.insert(name.to_owned(), declaration.clone());
        self
    }

    pub(crate) fn ty(&self, name: &str) -> Option<&Ty> {
        self.names.get(name)
    }

    pub(crate) fn declaration(&self, name: &str) -> Option<&Arc<Declaration>> {
        self.declarations.get(name)
    }
}
