//! `authorizer`: questions put together step by step, then asked.
//!
//! `staging/src/k8s.io/apiserver/pkg/cel/library/authz.go`.

use crate::authorizer::CheckAttributes;

/// A question that is not complete yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    pub(crate) stage: Stage,
    pub(crate) attributes: CheckAttributes,
}

/// How far a question has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Who asks.
    Authorizer,
    /// May they reach a path?
    Path,
    /// Something of a group.
    Group,
    /// May they do something with a resource?
    Resource,
}

impl Question {
    /// The beginning.
    pub(crate) fn new() -> Self {
        Self { stage: Stage::Authorizer, attributes: CheckAttributes::default() }
    }

    pub(crate) fn type_name(&self) -> &'static str {
        match self.stage {
            Stage::Authorizer => "kubernetes.authorization.Authorizer",
            Stage::Path => "kubernetes.authorization.PathCheck",
            Stage::Group => "kubernetes.authorization.GroupCheck",
            Stage::Resource => "kubernetes.authorization.ResourceCheck",
        }
    }
}
