//! One request for a resource, on its way through the pipeline.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use parking_lot::Mutex;
use pharos_api::{registry::Kind, validation::FieldError};
use pharos_store::Scope;

use crate::{
    api::Api,
    audit::Audit,
    authn::UserInfo,
    flowcontrol::Seat,
    negotiate::{self, Offer, Output},
    options::ListOptions,
    request::{Query, RequestInfo},
    status::{self, Status},
    took::Took,
};

/// A request for a resource: who asks for what, of which kind.
pub(crate) struct Call {
    pub(crate) api: Api,
    pub(crate) user: UserInfo,
    pub(crate) info: RequestInfo,
    pub(crate) query: Query,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) kind: Arc<Kind>,
    /// What the client is told on the side, in `Warning` headers.
    pub(crate) warnings: Mutex<Vec<String>>,
    /// What lets it be served, for as long as it is; a watch lets go of it once it has begun.
    pub(crate) seat: Mutex<Option<Seat>>,
    /// What is written down of the request.
    pub(crate) audit: Audit,
    /// How long it waited for its turn and for admission webhooks.
    pub(crate) elsewhere: Took,
}

impl Call {
    pub(crate) fn warn(&self, text: impl Into<String>) {
        self.warnings.lock().push(text.into());
    }

    /// The representation the client wants, or 406.
    pub(crate) fn output(&self, offer: Offer) -> Result<Output, Status> {
        negotiate::choose(&self.headers, self.query.flag("pretty"), offer, !self.kind.custom).ok_or_else(status::not_acceptable)
    }

    pub(crate) fn not_found(&self, name: &str) -> Status {
        status::not_found(&self.kind.group, &self.kind.plural, name)
    }

    pub(crate) fn invalid(&self, name: &str, errors: &[FieldError]) -> Status {
        status::invalid(&self.kind.group, &self.kind.kind, name, errors)
    }

    pub(crate) fn forbidden(&self, name: &str, why: &str) -> Status {
        status::forbidden(&self.kind.group, &self.kind.plural, name, why)
    }

    /// The objects a list or watch is about: the narrowest scope that holds all its selectors may match.
    pub(crate) fn scope(&self, options: &ListOptions) -> Scope {
        let namespace = self.info.namespace.clone();
        let name = match self.info.name.as_str() {
            "" => options.fields.exact("metadata.name").map(str::to_owned),
            name => Some(name.to_owned()),
        };
        match name {
            Some(name) if !self.kind.namespaced || !namespace.is_empty() => {
                return Scope::Name { namespace: if self.kind.namespaced { namespace } else { String::new() }, name };
            }
            _ => {}
        }
        if self.kind.namespaced && !namespace.is_empty() {
            return Scope::Namespace(namespace);
        }
        if self.kind.plural == "pods"
            && self.kind.group.is_empty()
            && let Some(node) = options.fields.exact("spec.nodeName")
        {
            return Scope::Field(node.to_owned());
        }
        Scope::All
    }
}

impl Call {
    /// The same caller's request for one object of the same kind.
    pub(crate) fn of_object(&self, namespace: &str, name: &str) -> Call {
        let info = RequestInfo {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            verb: if self.info.verb == "deletecollection" { "delete".into() } else { self.info.verb.clone() },
            ..self.info.clone()
        };
        self.derive(info, self.kind.clone())
    }

    /// Another request of the same caller.
    pub(crate) fn derive(&self, info: RequestInfo, kind: Arc<Kind>) -> Call {
        Call {
            api: self.api.clone(),
            user: self.user.clone(),
            info,
            query: self.query.clone(),
            headers: self.headers.clone(),
            body: self.body.clone(),
            kind,
            warnings: Mutex::default(),
            seat: Mutex::default(),
            audit: self.audit.clone(),
            elsewhere: self.elsewhere.clone(),
        }
    }

    /// Tells what was told on the side of a request that was part of this one.
    pub(crate) fn absorb(&self, part: &Call) {
        self.warnings.lock().append(&mut part.warnings.lock());
    }
}
