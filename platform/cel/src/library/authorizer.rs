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

    /// What a request asks for.
    pub(crate) fn of_resource(attributes: CheckAttributes) -> Self {
        Self { stage: Stage::Resource, attributes }
    }

    /// One more step: what `question.function(args)` is; none if there is no such step from here.
    pub(crate) fn step(&self, function: &str, args: &[&str]) -> Option<Self> {
        let mut next = self.clone();
        let attributes = &mut next.attributes;
        match (self.stage, function, args) {
            (Stage::Authorizer, "serviceAccount", [namespace, name]) => {
                attributes.service_account = Some(((*namespace).to_owned(), (*name).to_owned()));
            }
            (Stage::Authorizer, "path", [path]) => {
                attributes.path = Some((*path).to_owned());
                next.stage = Stage::Path;
            }
            (Stage::Authorizer, "group", [group]) => {
                attributes.group = (*group).to_owned();
                next.stage = Stage::Group;
            }
            (Stage::Group, "resource", [resource]) => {
                attributes.resource = (*resource).to_owned();
                next.stage = Stage::Resource;
            }
            (Stage::Resource, "subresource", [subresource]) => attributes.subresource = (*subresource).to_owned(),
            (Stage::Resource, "namespace", [namespace]) => attributes.namespace = (*namespace).to_owned(),
            (Stage::Resource, "name", [name]) => attributes.name = (*name).to_owned(),
            (Stage::Resource, "fieldSelector", [selector]) => attributes.field_selector = Some((*selector).to_owned()),
            (Stage::Resource, "labelSelector", [selector]) => attributes.label_selector = Some((*selector).to_owned()),
            _ => return None,
        }
        Some(next)
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
