//! Handlers that stand behind the API server's door but are not part of it.

use std::sync::Arc;

use arc_swap::ArcSwap;
use pharos_transport::{Request, Response};

/// Answers requests under a prefix. Authentication, authorization, limits and panics are taken care of.
#[async_trait::async_trait]
pub trait Mount: Send + Sync + 'static {
    /// Answers one request. Its path is relative to the mount and starts with a slash; its extensions carry the
    /// [`UserInfo`](crate::authn::UserInfo) of its sender.
    async fn handle(&self, request: Request) -> Response;

    /// Takes over a WebSocket or SPDY connection. The default refuses with 400.
    async fn upgrade(&self, request: http::Request<()>, io: pharos_transport::Io) {
        let _ = request;
        crate::respond::refuse_upgrade(io, crate::status::bad_request("this path does not upgrade")).await;
    }
}

/// A whole API group version answered by a [`Mount`], and what discovery says of it.
#[derive(Clone)]
pub struct ApiGroup {
    /// The group, such as `metrics.k8s.io`.
    pub group: &'static str,
    /// The version, such as `v1beta1`.
    pub version: &'static str,
    /// The `APIResource` entries (`name`, `singularName`, `namespaced`, `kind`, `verbs`, …).
    pub resources: Vec<serde_json::Value>,
}

#[derive(Clone)]
pub(crate) struct Mounted {
    pub(crate) prefix: String,
    pub(crate) group: Option<ApiGroup>,
    pub(crate) mount: Arc<dyn Mount>,
}

/// Everything mounted.
#[derive(Default)]
pub(crate) struct Mounts(ArcSwap<Vec<Mounted>>);

impl Mounts {
    pub(crate) fn add(&self, mounted: Mounted) {
        self.0.rcu(|all| {
            let mut all: Vec<Mounted> = all.iter().filter(|other| other.prefix != mounted.prefix).cloned().collect();
            all.push(mounted.clone());
            all.sort_by_key(|mounted| std::cmp::Reverse(mounted.prefix.len()));
            all
        });
    }

    /// The mount of a path, and the path within it.
    pub(crate) fn find(&self, path: &str) -> Option<(Mounted, String)> {
        self.0.load().iter().find_map(|mounted| {
            let rest = path.strip_prefix(&mounted.prefix)?;
            match rest {
                "" => Some((mounted.clone(), "/".to_owned())),
                _ if rest.starts_with('/') => Some((mounted.clone(), rest.to_owned())),
                _ => None,
            }
        })
    }

    pub(crate) fn groups(&self) -> Vec<ApiGroup> {
        self.0.load().iter().filter_map(|mounted| mounted.group.clone()).collect()
    }

    pub(crate) fn prefixes(&self) -> Vec<String> {
        self.0.load().iter().map(|mounted| mounted.prefix.clone()).collect()
    }
}
