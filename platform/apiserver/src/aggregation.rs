//! Aggregation: groups that other API servers answer, behind this server's door.
//!
//! Follows `staging/src/k8s.io/kube-aggregator` (`pkg/apiserver/handler_proxy.go`, `pkg/controllers/status`). An APIService
//! with a Service is a group version that is carried to one of the Service's endpoints, with the caller's name in
//! `X-Remote-*` headers, which the other server believes because of the client certificate they come with. What it has
//! is asked when the APIService, its Service or its endpoints change, and now and then. An APIService without a Service is a
//! group version of this server itself, which makes and removes those.

mod availability; // Whether it answers,
mod definition; // what an APIService says,
mod registration; // those of this server's own groups,
mod specification; // and what is documented.

use std::{collections::HashMap, sync::Arc, time::Duration};

use arc_swap::{ArcSwap, ArcSwapOption};
use http::{HeaderMap, HeaderName, HeaderValue};
use parking_lot::Mutex;
use pharos_transport::{Body, Request, Response, proxy::Target};
use rustls::ClientConfig;
use serde_json::{Value, json};

pub(crate) use availability::start;
pub(crate) use definition::{prepare_for_create, validate};
pub(crate) use registration::at_start as register;
use specification::Specification;

use crate::{
    api::Api,
    authn::UserInfo,
    outbound,
    request::RequestInfo,
    status::{self, Status},
};

const GROUP: &str = "apiregistration.k8s.io";
const RESOURCE: &str = "apiservices";
/// The headers that tell an extension API server who asks, by the names published in `extension-apiserver-authentication`.
const USER: &str = "x-remote-user";
const UID: &str = "x-remote-uid";
const GROUPS: &str = "x-remote-group";
const EXTRA: &str = "x-remote-extra-";
/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(10);

/// The other API servers.
#[derive(Default)]
pub(crate) struct Aggregation {
    /// By group and version.
    remotes: ArcSwap<HashMap<(String, String), Arc<Remote>>>,
}

/// A group version of another API server.
pub(crate) struct Remote {
    /// The APIService's name.
    name: String,
    pub(crate) group: String,
    pub(crate) version: String,
    /// What it was made from, to see changes.
    spec: Value,
    namespace: String,
    service: String,
    port: u64,
    tls: Result<Arc<ClientConfig>, String>,
    /// What it has; `None` while it is not available.
    found: ArcSwapOption<Found>,
    /// Its document of OpenAPI version 2, and when it is asked for again.
    specification: Mutex<Specification>,
}

/// What another API server says it has.
#[derive(Debug, PartialEq)]
pub(crate) struct Found {
    /// The `APIResource` entries.
    pub(crate) resources: Vec<Value>,
    /// Its entry in the index of OpenAPI version 3, if it has one.
    pub(crate) openapi: Option<Value>,
    /// What its document of OpenAPI version 2 says of its group version, if it has one.
    specification: Option<Arc<Value>>,
}

impl Aggregation {
    /// Who answers a path, if that is another server.
    pub(crate) fn find(&self, path: &str) -> Option<Arc<Remote>> {
        let remotes = self.remotes.load();
        if remotes.is_empty() {
            return None;
        }
        let mut parts = path.strip_prefix("/apis/").or_else(|| path.strip_prefix("/openapi/v3/apis/"))?.splitn(3, '/');
        let key = (parts.next()?.to_owned(), parts.next()?.to_owned());
        remotes.get(&key).cloned()
    }

    /// The group versions that can be asked now, those of highest priority first.
    pub(crate) fn served(&self) -> Vec<(Arc<Remote>, Arc<Found>)> {
        let remotes = self.remotes.load();
        let mut served: Vec<_> =
            remotes.values().filter_map(|remote| Some((remote.clone(), remote.found.load_full()?))).collect();
        served.sort_by_key(|(remote, _)| (std::cmp::Reverse(remote.priority()), remote.name.clone()));
        served
    }

    /// What the documents of OpenAPI version 2 of the others say, in the same order.
    pub(crate) fn specifications(&self) -> Vec<Arc<Value>> {
        self.served().into_iter().filter_map(|(_, found)| found.specification.clone()).collect()
    }
}

impl Remote {
    /// `groupPriorityMinimum` and `versionPriority`.
    pub(crate) fn priority(&self) -> (i64, i64) {
        let number = |field: &str| self.spec[field].as_i64().unwrap_or(0);
        (number("groupPriorityMinimum"), number("versionPriority"))
    }

    fn target(&self, api: &Api) -> Result<Target, String> {
        let mut target = outbound::service_target(api, &self.namespace, &self.service, self.port, self.tls.clone()?)?;
        target.connect = CONNECT;
        target.respond = None; // The request itself has a limit, if it is not one that stays open.
        Ok(target)
    }
}

/// Carries a request to the server that answers it.
pub(crate) async fn forward(
    api: &Api,
    remote: &Remote,
    mut request: Request,
    user: &UserInfo,
    info: &RequestInfo,
) -> Result<Response, Status> {
    let target = prepare(api, remote, request.headers_mut(), user)?;
    let response = api
        .0
        .outbound
        .proxy
        .forward(request, &target)
        .await
        .map_err(|error| status::unavailable(format!("error trying to reach service: {}", outbound::reason(&error))))?;
    Ok(if info.long_running() { response.map(Body::long_running) } else { response })
}

/// Where an upgraded connection goes; its headers are made ready for it.
pub(crate) fn prepare(api: &Api, remote: &Remote, headers: &mut HeaderMap, user: &UserInfo) -> Result<Target, Status> {
    if remote.found.load().is_none() {
        return Err(status::unavailable("service unavailable"));
    }
    introduce(headers, user);
    remote.target(api).map_err(|why| status::unavailable(format!("service unavailable: {why}")))
}

/// Says in a request's headers who sends it, and takes out what its client may have said there.
fn introduce(headers: &mut HeaderMap, user: &UserInfo) {
    let forged: Vec<HeaderName> = headers.keys().filter(|name| name.as_str().starts_with("x-remote-")).cloned().collect();
    for name in forged {
        headers.remove(name);
    }
    headers.remove(http::header::AUTHORIZATION);
    let mut add = |name: &str, value: &str| {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) {
            headers.append(name, value);
        }
    };
    add(USER, &user.username);
    if !user.uid.is_empty() {
        add(UID, &user.uid);
    }
    user.groups.iter().for_each(|group| add(GROUPS, group));
    for (key, values) in &user.extra {
        let name = format!("{EXTRA}{}", escape(&key.to_ascii_lowercase()));
        values.iter().for_each(|value| add(&name, value));
    }
}

/// A key as part of a header's name (`transport/round_trippers.go`, `headerKeyEscape`).
fn escape(key: &str) -> String {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte);
    let escaped = |byte: u8| if legal(byte) { char::from(byte).to_string() } else { format!("%{byte:02x}") };
    key.bytes().map(escaped).collect()
}

/// What extension API servers have to know to believe this one, as data of `extension-apiserver-authentication`.
pub(crate) fn trust(ca_pem: &str) -> Value {
    json!({
        "requestheader-allowed-names": "[\"front-proxy-client\"]",
        "requestheader-client-ca-file": ca_pem,
        "requestheader-extra-headers-prefix": "[\"X-Remote-Extra-\"]",
        "requestheader-group-headers": "[\"X-Remote-Group\"]",
        "requestheader-uid-headers": "[\"X-Remote-Uid\"]",
        "requestheader-username-headers": "[\"X-Remote-User\"]",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_are_introduced() {
        let mut headers = HeaderMap::new();
        headers.insert("x-remote-user", HeaderValue::from_static("root"));
        headers.insert("x-remote-extra-a", HeaderValue::from_static("b"));
        headers.insert("authorization", HeaderValue::from_static("Bearer t"));
        let mut user = UserInfo::new("jane", ["g", "h"]);
        user.extra.insert("Example.com/Key".into(), vec!["v".into()]);
        introduce(&mut headers, &user);
        let all: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        let mut wanted = vec![
            ("x-remote-user", "jane"),
            ("x-remote-group", "g"),
            ("x-remote-group", "h"),
            ("x-remote-extra-example.com%2fkey", "v"),
        ];
        let mut all = all;
        all.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(all, wanted);
    }
}
