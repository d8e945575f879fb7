//! The door itself: every request passes here on its way in and out.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use pharos_store::Store;
use pharos_telemetry::{Clock, Component, Ctx, health::Health};
use pharos_transport::{Body, Handler, Io, Request, Response};
use prometheus::Registry;
use tokio::sync::Semaphore;

use crate::{
    Config, Error, Result,
    authn::{self, UserInfo, issuer::TokenIssuer},
    authz,
    metrics::Metrics,
    mount::{ApiGroup, Mount, Mounted, Mounts},
    resources::Resources,
    storage::Storage,
    strategy::allocator::{Allocator, Network},
};

/// The API server's core. Cheap to clone.
#[derive(Clone)]
pub struct Api(pub(crate) Arc<Inner>);

/// What an [`Api`] is built from.
pub struct Parts {
    /// Where objects live.
    pub store: Arc<dyn Store>,
    /// Whom to believe.
    pub authn: authn::Config,
    /// Who signs ServiceAccount tokens.
    pub issuer: TokenIssuer,
    /// What `/livez`, `/readyz` and `/healthz` report.
    pub health: Health,
    /// What `/metrics` answers: the text exposition of the API server's registry.
    pub gather: Arc<dyn Fn() -> Result<String, prometheus::Error> + Send + Sync>,
    /// Tells the date.
    pub clock: Clock,
}

pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) storage: Storage,
    pub(crate) resources: Resources,
    pub(crate) authenticator: authn::Authenticator,
    pub(crate) authorizer: authz::Authorizer,
    pub(crate) issuer: TokenIssuer,
    pub(crate) health: Health,
    pub(crate) gather: Arc<dyn Fn() -> Result<String, prometheus::Error> + Send + Sync>,
    pub(crate) clock: Clock,
    pub(crate) metrics: Metrics,
    pub(crate) mounts: Mounts,
    pub(crate) allocator: Allocator,
    pub(crate) readonly: Arc<Semaphore>,
    pub(crate) mutating: Arc<Semaphore>,
}

impl Api {
    /// Builds the core: reads nothing yet. [`Component::run`] fills the caches and makes the objects every cluster has.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for settings that make no sense, [`Error::Metrics`] if the registry has these metrics already.
    pub fn new(config: Config, parts: Parts, registry: &Registry) -> Result<Self> {
        let networks: Vec<Network> = config
            .service_cluster_ip_range
            .iter()
            .map(|text| Network::parse(text).ok_or_else(|| Error::Config(format!("service network {text:?} is not a CIDR"))))
            .collect::<Result<_>>()?;
        if networks.is_empty() {
            return Err(Error::Config("there is no service network".into()));
        }
        todo_build(config, parts, registry, networks)
    }

    /// An in-process client's way in, trusted to be `user`: give it to `kube::Client::new`.
    #[must_use]
    pub fn service(&self, user: UserInfo) -> Service {
        Service { api: self.clone(), user }
    }

    /// Lets `mount` answer everything under `prefix` (`/observe/prometheus`), as non-resource URLs.
    pub fn mount(&self, prefix: &str, mount: Arc<dyn Mount>) {
        self.0.mounts.add(Mounted { prefix: prefix.trim_end_matches('/').to_owned(), group: None, mount });
    }

    /// Lets `mount` answer a whole API group version, and lists it in discovery. Its paths start after the version:
    /// `/nodes/a` or `/namespaces/b/pods`.
    pub fn mount_group(&self, group: ApiGroup, mount: Arc<dyn Mount>) {
        let prefix = format!("/apis/{}/{}", group.group, group.version);
        self.0.mounts.add(Mounted { prefix, group: Some(group), mount });
    }

    /// Who may do what; for other doors to the cluster (the kubelet's) that ask the same questions.
    #[must_use]
    pub fn authorizer(&self) -> &authz::Authorizer {
        &self.0.authorizer
    }

    /// Who sends a request; likewise.
    #[must_use]
    pub fn authenticator(&self) -> &authn::Authenticator {
        &self.0.authenticator
    }
}

/// A tower service that calls the API core directly, as one user.
#[derive(Clone)]
pub struct Service {
    api: Api,
    user: UserInfo,
}
