//! The socket that the API server is reached at.

use std::{net::SocketAddr, sync::Arc};

use pharos_apiserver::Api;
use pharos_telemetry::{Component, Ctx};
use pharos_transport::{Front, FrontConfig, FrontError, Limits, Tls, pki::Identity};
use rustls::RootCertStore;

/// Serves the API over HTTPS.
pub struct Door {
    pub api: Api,
    pub addresses: Vec<SocketAddr>,
    pub identity: Arc<Identity>,
    pub client_roots: Arc<RootCertStore>,
    /// Other certificates of this process that are to be renewed while it runs.
    pub renewed: Vec<Arc<Identity>>,
}

impl Component for Door {
    const NAME: &'static str = "https";
    type Error = FrontError;

    async fn run(&self, ctx: Ctx) -> Result<(), FrontError> {
        let tls = Tls { certificate: self.identity.clone(), client_roots: Some(self.client_roots.clone()) };
        let config = FrontConfig { addresses: self.addresses.clone(), tls: Some(tls), limits: Limits::default() };
        let failed = self.api.tls_handshake_errors();
        let front = Front::bind(config).await?.on_handshake_error(move || failed.inc());
        for identity in self.renewed.iter().chain([&self.identity]) {
            let (identity, stopped) = (identity.clone(), ctx.clone());
            ctx.spawn("renew certificate", async move {
                tokio::select! {
                    () = identity.renew() => {}
                    () = stopped.stopped() => {}
                }
            });
        }
        ctx.ready();
        front.serve(Arc::new(self.api.clone()), ctx.token()).await;
        Ok(())
    }
}
