//! What a request asks for: its verb, resource and name, read from method, path and query.
//!
//! Follows upstream's `RequestInfoFactory` (`staging/src/k8s.io/apiserver/pkg/endpoints/request/requestinfo.go`).

use http::Method;

/// The parsed meaning of a request's method and path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RequestInfo {
    /// The path without its query.
    pub(crate) path: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; for other paths the
    /// lower-case method.
    pub(crate) verb: String,
    /// Whether the path names an API resource.
    pub(crate) is_resource: bool,
    /// The API group; empty for the core group.
    pub(crate) group: String,
    /// The API version.
    pub(crate) version: String,
    /// The namespace, empty for cluster scope and for lists over all namespaces.
    pub(crate) namespace: String,
    /// The resource, in plural.
    pub(crate) resource: String,
    /// The subresource, or empty.
    pub(crate) subresource: String,
    /// The object's name, or empty.
    pub(crate) name: String,
    /// What follows the subresource (for `proxy`), with its leading slash; empty if nothing does.
    pub(crate) rest: String,
}

impl RequestInfo {
    /// Reads a request's method, path and query.
    #[must_use]
    pub(crate) fn parse(method: &Method, path: &str, query: &Query) -> Self {
        let mut info = RequestInfo { path: path.to_owned(), verb: method.as_str().to_ascii_lowercase(), ..Self::default() };
        let parts: Vec<String> = path.split('/').filter(|part| !part.is_empty()).map(decode).collect();
        let mut parts = parts.as_slice();
        match parts {
            [api, version, _, ..] if api == "api" => {
                info.version.clone_from(version);
                parts = &parts[2..];
            }
            [apis, group, version, _, ..] if apis == "apis" => {
                info.group.clone_from(group);
                info.version.clone_from(version);
                parts = &parts[3..];
            }
            _ => return info,
        }
        info.is_resource = true;
        info.verb = match *method {
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "get",
        }
        .to_owned();
        // The old `watch/` prefix, which old clients still send.
        if let [watch, _, ..] = parts
            && watch == "watch"
            && info.verb == "get"
        {
            info.verb = "watch".into();
            parts = &parts[1..];
        }
        if let [namespaces, namespace, rest @ ..] = parts
            && namespaces == "namespaces"
        {
            info.namespace.clone_from(namespace);
            if let [first, ..] = rest
                && first != "status"
                && first != "finalize"
            {
                parts = rest;
            }
        }
        if let [resource, rest @ ..] = parts {
            info.resource.clone_from(resource);
            if let [name, rest @ ..] = rest {
                info.name.clone_from(name);
                if let [subresource, rest @ ..] = rest {
                    info.subresource.clone_from(subresource);
                    info.rest = after_segments(path, path_segments_before(path, rest.len()));
                }
            }
        }
        // A proxied path is anything at all; `namespaces` itself is not inside a namespace.
        if info.name.is_empty() {
            match info.verb.as_str() {
                "get" => info.verb = if query.flag("watch") { "watch" } else { "list" }.into(),
                "delete" => info.verb = "deletecollection".into(),
                _ => {}
            }
        } else if info.verb == "get" && info.subresource.is_empty() && query.flag("watch") {
            info.verb = "watch".into();
        }
        info
    }

    /// Whether the request may stay open for as long as its client likes.
    #[must_use]
    pub(crate) fn long_running(&self) -> bool {
        self.verb == "watch"
            || matches!(self.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy")
            || self.path.starts_with("/observe/")
    }
}

fn decode(part: &str) -> String {
    percent_encoding::percent_decode_str(part).decode_utf8_lossy().into_owned()
}

fn path_segments_before(path: &str, rest: usize) -> usize {
    path.split('/').filter(|part| !part.is_empty()).count() - rest
}

/// What is left of `path` after its first `count` segments, as it was sent (a trailing slash matters to a proxy).
fn after_segments(path: &str, count: usize) -> String {
    let mut seen = 0;
    let mut in_segment = false;
    for (at, byte) in path.bytes().enumerate() {
        if byte == b'/' {
            if in_segment && seen == count {
                return path[at..].to_owned();
            }
            in_segment = false;
        } else if !in_segment {
            in_segment = true;
            seen += 1;
        }
    }
    String::new()
}

/// A request's query parameters, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query {
    raw: String,
    pairs: Vec<(String, String)>,
}

impl Query {
    /// Decodes `a=b&c=d`.
    #[must_use]
    pub(crate) fn parse(query: Option<&str>) -> Self {
        let raw = query.unwrap_or_default().to_owned();
        let pairs =
            url::form_urlencoded::parse(raw.as_bytes()).map(|(name, value)| (name.into_owned(), value.into_owned())).collect();
        Query { raw, pairs }
    }

    /// The query as it was sent.
    #[must_use]
    pub(crate) fn raw(&self) -> &str {
        &self.raw
    }

    /// The first value of a parameter.
    #[must_use]
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Every value of a parameter.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A boolean as upstream reads it: absent, `false` and `0` are false, everything else is true.
    #[must_use]
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.optional_flag(name).unwrap_or(false)
    }

    /// Like [`Query::flag`], but tells an absent parameter apart.
    #[must_use]
    pub(crate) fn optional_flag(&self, name: &str) -> Option<bool> {
        self.get(name).map(|value| !matches!(value.to_ascii_lowercase().as_str(), "false" | "0"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(method: Method, target: &str) -> RequestInfo {
        let (path, query) = target.split_once('?').map_or((target, None), |(p, q)| (p, Some(q)));
        RequestInfo::parse(&method, path, &Query::parse(query))
    }

    #[test]
    fn reads_paths() {
        let check = |method: Method, target: &str, want: [&str; 7]| {
            let info = parse(method, target);
            let got =
                [info.verb.as_str(), &info.group, &info.version, &info.namespace, &info.resource, &info.name, &info.subresource];
            assert_eq!(got, want, "{target}");
        };
        check(Method::GET, "/api/v1/pods", ["list", "", "v1", "", "pods", "", ""]);
        check(Method::GET, "/api/v1/namespaces/a/pods?watch=1", ["watch", "", "v1", "a", "pods", "", ""]);
        check(Method::GET, "/api/v1/namespaces/a", ["get", "", "v1", "a", "namespaces", "a", ""]);
        check(Method::PUT, "/api/v1/namespaces/a/finalize", ["update", "", "v1", "a", "namespaces", "a", "finalize"]);
        check(Method::GET, "/api/v1/namespaces", ["list", "", "v1", "", "namespaces", "", ""]);
        check(
            Method::DELETE,
            "/apis/apps/v1/namespaces/a/deployments",
            ["deletecollection", "apps", "v1", "a", "deployments", "", ""],
        );
        check(Method::GET, "/api/v1/watch/namespaces/a/pods/b", ["watch", "", "v1", "a", "pods", "b", ""]);
        check(Method::POST, "/api/v1/namespaces/a/pods/b/binding", ["create", "", "v1", "a", "pods", "b", "binding"]);
        check(Method::GET, "/apis/apps/v1", ["get", "", "", "", "", "", ""]);
    }

    #[test]
    fn keeps_proxied_paths_as_sent() {
        assert_eq!(parse(Method::GET, "/api/v1/nodes/n/proxy/a/b%20c/").rest, "/a/b%20c/");
        assert_eq!(parse(Method::GET, "/api/v1/nodes/n/proxy/").rest, "/");
        assert_eq!(parse(Method::GET, "/api/v1/nodes/n/proxy").rest, "");
    }
}
