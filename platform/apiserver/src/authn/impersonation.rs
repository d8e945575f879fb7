//! `Impersonate-*` headers: acting as somebody else, when RBAC lets one.
//!
//! Follows `staging/src/k8s.io/apiserver/pkg/endpoints/filters/impersonation.go`.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName};
use percent_encoding::percent_decode_str;

use super::{ALL_AUTHENTICATED, ALL_UNAUTHENTICATED, ANONYMOUS, UserInfo, split_service_account_username};
use crate::authz::{Attributes, Authorizer, Decision};

const USER: &str = "impersonate-user";
const UID: &str = "impersonate-uid";
const GROUP: &str = "impersonate-group";
const EXTRA_PREFIX: &str = "impersonate-extra-";

/// The API group of the resources `uids` and `userextras`.
const AUTHENTICATION: &str = "authentication.k8s.io";

/// Whom a request wants to act as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    user: String,
    uid: String,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
}

/// Why impersonation is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// Groups, a uid or extras without a user, or a header that is no text: 500 upstream, and here.
    #[error("{0}")]
    Invalid(String),
    /// 403: the whole message, and what may not be impersonated.
    #[error("{message}")]
    Forbidden {
        /// What the client is told.
        message: String,
        /// The API group of the resource.
        group: &'static str,
        /// What stands for this part of the wish: `users`, `groups`, …
        resource: &'static str,
        /// Which one of them.
        name: String,
    },
}

impl Request {
    /// Reads the headers; `None` when they ask for nothing.
    ///
    /// # Errors
    ///
    /// When they do not name a user.
    pub fn read(headers: &HeaderMap) -> Result<Option<Self>, Error> {
        let text = |name: &HeaderName, value: &http::HeaderValue| {
            value.to_str().map(str::to_owned).map_err(|_| Error::Invalid(format!("header {name} is not text")))
        };
        let mut request = Request { user: String::new(), uid: String::new(), groups: Vec::new(), extra: BTreeMap::new() };
        for (name, value) in headers {
            match name.as_str() {
                USER if request.user.is_empty() => request.user = text(name, value)?,
                UID if request.uid.is_empty() => request.uid = text(name, value)?,
                GROUP => request.groups.push(text(name, value)?),
                other => {
                    if let Some(key) = other.strip_prefix(EXTRA_PREFIX) {
                        let key = percent_decode_str(key).decode_utf8_lossy().to_ascii_lowercase();
                        request.extra.entry(key).or_default().push(text(name, value)?);
                    }
                }
            }
        }
        let more = !request.groups.is_empty() || !request.extra.is_empty() || !request.uid.is_empty();
        match (request.user.is_empty(), more) {
            (false, _) => Ok(Some(request)),
            (true, false) => Ok(None),
            (true, true) => Err(Error::Invalid(format!(
                "requested {} without impersonating a user",
                crate::authz::rules::quote_list(&request.parts())
            ))),
        }
    }

    /// Removes the headers, so that nothing behind this server acts on them again.
    pub fn strip(headers: &mut HeaderMap) {
        let ours: Vec<HeaderName> = headers
            .keys()
            .filter(|name| matches!(name.as_str(), USER | UID | GROUP) || name.as_str().starts_with(EXTRA_PREFIX))
            .cloned()
            .collect();
        for name in ours {
            headers.remove(name);
        }
    }

    /// Whom the request acts as from here on, if `requestor` may impersonate every part.
    ///
    /// # Errors
    ///
    /// The first part that RBAC does not allow.
    pub fn authorize(self, requestor: &UserInfo, authorizer: &Authorizer) -> Result<UserInfo, Error> {
        let ask = |group: &'static str, resource: &'static str, namespace: &str, name: &str, subresource: &str| {
            let attributes = Attributes {
                version: "v1",
                ..Attributes::resource(requestor, "impersonate", group, resource, namespace, name).with_subresource(subresource)
            };
            match authorizer.authorize(&attributes) {
                Decision::Allow(_) => Ok(()),
                Decision::NoOpinion(reason) | Decision::Deny(reason) => {
                    Err(Error::Forbidden { message: attributes.forbidden(&reason), group, resource, name: name.to_owned() })
                }
            }
        };
        let account = split_service_account_username(&self.user);
        match account {
            Some((namespace, name)) => ask("", "serviceaccounts", namespace, name, "")?,
            None => ask("", "users", "", &self.user, "")?,
        }
        for group in &self.groups {
            ask("", "groups", "", group, "")?;
        }
        for (key, values) in &self.extra {
            for value in values {
                ask(AUTHENTICATION, "userextras", "", value, key)?;
            }
        }
        if !self.uid.is_empty() {
            ask(AUTHENTICATION, "uids", "", &self.uid, "")?;
        }
        let mut groups = self.groups;
        if let (Some((namespace, _)), true) = (account, groups.is_empty()) {
            groups = vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")];
        }
        // Whoever is impersonated counts as authenticated, or as not, without asking for it.
        let known = groups.iter().any(|group| group == ALL_AUTHENTICATED || group == ALL_UNAUTHENTICATED);
        if !known {
            let implied = if self.user == ANONYMOUS { ALL_UNAUTHENTICATED } else { ALL_AUTHENTICATED };
            groups.push(implied.into());
        }
        Ok(UserInfo { username: self.user, uid: self.uid, groups, extra: self.extra })
    }

    fn parts(&self) -> Vec<String> {
        let mut parts = self.groups.clone();
        parts.extend(self.extra.keys().cloned());
        parts.extend((!self.uid.is_empty()).then(|| self.uid.clone()));
        parts
    }
}

#[cfg(test)]
mod tests;
