//! The parameters of a binding.
//!
//! Follows `CollectParams` in `policy/generic/policy_dispatcher.go`.

use pharos_store::Scope;
use serde_json::Value;

use super::definition::{ParamKind, ParamRef};
use crate::{
    admission::{Attributes, request::namespace},
    convert, storage,
};

/// One parameter that a policy is evaluated with: null where it has none.
pub(super) struct Param {
    /// The namespace and name of an object.
    pub(super) id: Option<(String, String)>,
    pub(super) value: Value,
}

/// The parameters to evaluate a policy with, in turn. None are there if there may be none.
///
/// # Errors
///
/// What is wrong with the binding, in upstream's words.
pub(super) async fn collect(
    attributes: &Attributes<'_>,
    kind: Option<&ParamKind>,
    reference: Option<&ParamRef>,
) -> Result<Vec<Param>, String> {
    let (Some(kind), Some(reference)) = (kind, reference) else {
        return Ok(vec![Param { id: None, value: Value::Null }]);
    };
    let found = find(attributes, kind, reference).await?;
    if found.is_empty() && reference.required {
        return Err("no params found for policy binding with `Deny` parameterNotFoundAction".to_owned());
    }
    Ok(found)
}

/// Whether there is such a kind.
///
/// # Errors
///
/// In upstream's words, if not.
pub(super) fn known(attributes: &Attributes<'_>, kind: Option<&ParamKind>) -> Result<(), String> {
    let Some(ParamKind { group, version, kind: name }) = kind else { return Ok(()) };
    match attributes.api.0.resources.registry().by_kind(group, version, name) {
        Some(_) => Ok(()),
        None => Err(format!("failed to find resource referenced by paramKind: '{group}/{version}, Kind={name}'")),
    }
}

async fn find(attributes: &Attributes<'_>, param: &ParamKind, reference: &ParamRef) -> Result<Vec<Param>, String> {
    let api = attributes.api;
    let kind = api.0.resources.registry().by_kind(&param.group, &param.version, &param.kind).cloned();
    let kind = kind.ok_or_else(|| {
        format!("failed to find resource referenced by paramKind: '{}/{}, Kind={}'", param.group, param.version, param.kind)
    })?;
    let namespace = match (kind.namespaced, reference.namespace.as_str(), namespace(attributes)) {
        (true, "", "") => {
            return Err("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources".to_owned());
        }
        (true, "", own) => own,
        (true, given, _) => given,
        (false, "", _) => "",
        (false, ..) => return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".to_owned()),
    };
    let cache = api.0.storage.cache(&kind).map_err(|status| status.message().to_owned())?;
    let stored = match &reference.selector {
        Some(_) if !reference.name.is_empty() => {
            return Err("paramRef.name and paramRef.selector are mutually exclusive".to_owned());
        }
        Some(selector) => {
            let scope = if kind.namespaced { Scope::Namespace(namespace.to_owned()) } else { Scope::All };
            let snapshot = cache.snapshot();
            let selected = snapshot.iter(&scope, None).filter(|(_, object)| selector.matches(|key| object.label(key)));
            selected.map(|(_, object)| object.clone()).collect()
        }
        None if reference.name.is_empty() => return Err("one of name or selector must be provided".to_owned()),
        None => cache.get(namespace, &reference.name).0.into_iter().collect::<Vec<_>>(),
    };
    let mut found = Vec::with_capacity(stored.len());
    for object in stored {
        let value = storage::parse(object.bytes()).map_err(|status| status.message().to_owned())?;
        let value = convert::from_storage(api, &kind, value).await.map_err(|status| status.message().to_owned())?;
        found.push(Param { id: Some((object.namespace().to_owned(), object.name().to_owned())), value });
    }
    Ok(found)
}
