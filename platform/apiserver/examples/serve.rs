//! The API server alone, over HTTPS, for trying clients against: `serve DIR [PORT]` writes `DIR/admin.kubeconfig`.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use base64::Engine as _;
use pharos_apiserver::{
    Api, Config, Parts,
    authn::{self, issuer, jws::SigningKey},
};
use pharos_store::{Embedded, Store};
use pharos_telemetry::{Clock, Component as _, Ctx, health::Health};
use pharos_transport::{
    Front, FrontConfig, Limits, Tls,
    pki::{self, Ca, Identity, Subject, Template},
};
use prometheus::{Encoder as _, Registry, TextEncoder};
use tokio_util::sync::CancellationToken;

type Error = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(arguments.next().ok_or("usage: serve DIR [PORT]")?);
    let port: u16 = arguments.next().map_or(Ok(6443), |port| port.parse())?;
    let stop = CancellationToken::new();
    let ctx = Ctx::for_test(stop.clone());
    let clock = Clock::system();
    let registry = Registry::new();
    let pki_dir = dir.join("pki");
    std::fs::create_dir_all(&pki_dir)?;
    let ca = Arc::new(Ca::load_or_create(&pki_dir, "ca", "pharos-ca", clock.clone())?);
    let names = vec!["localhost".to_owned(), "kubernetes".to_owned(), "kubernetes.default.svc".to_owned()];
    let addresses = vec!["127.0.0.1".parse()?, "10.43.0.1".parse()?];
    let server = Template::server("kube-apiserver", names, addresses);
    let identity = Identity::load_or_issue(ca.clone(), &pki_dir, "apiserver", server)?;
    let admin = ca.issue(&Template::client(Subject::new("kubernetes-admin", &["system:masters"])))?;
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let kubeconfig = format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: c\n  cluster: {{server: \"https://127.0.0.1:{port}\", certificate-authority-data: {}}}\nusers:\n- name: u\n  user: {{client-certificate-data: {}, client-key-data: {}}}\ncontexts:\n- name: x\n  context: {{cluster: c, user: u}}\ncurrent-context: x\n",
        encode(ca.certificate_pem()),
        encode(&admin.certificate_pem),
        encode(&admin.key_pem),
    );
    std::fs::write(dir.join("admin.kubeconfig"), kubeconfig)?;
    let key = pki::load_or_create_signing_key(&pki_dir, "service-account")?;
    let issuer = issuer::TokenIssuer::new(
        issuer::Config::for_domain("cluster.local"),
        SigningKey::from_pem(&key.private_pem)?,
        Vec::new(),
        clock.clone(),
    );
    let store_config = pharos_store::Config { dir: dir.join("store"), ..pharos_store::Config::default() };
    let store = Embedded::open(store_config, clock.clone(), pharos_store::Metrics::new(&registry)?)?;
    let maintenance = pharos_store::Maintenance::new(store.clone());
    let config = Config {
        client_ca_pem: ca.certificate_pem().to_owned(),
        secure_port: port,
        min_request_timeout: Duration::from_secs(1800),
        ..Config::default()
    };
    let gathered = registry.clone();
    let parts = Parts {
        store: store as Arc<dyn Store>,
        authn: authn::Config { client_ca: vec![ca.certificate().clone()], ..authn::Config::default() },
        issuer: Arc::new(issuer),
        health: Health::default(),
        gather: Arc::new(move || {
            let mut text = Vec::new();
            TextEncoder::new().encode(&gathered.gather(), &mut text)?;
            String::from_utf8(text).map_err(|error| prometheus::Error::Msg(error.to_string()))
        }),
        clock,
    };
    let api = Api::new(config, parts, &registry).await?;
    let (running, context) = (api.clone(), ctx.clone());
    ctx.spawn("apiserver", async move { running.run(context).await });
    let context = ctx.clone();
    ctx.spawn("store", async move { maintenance.run(context).await });
    let front = Front::bind(FrontConfig {
        addresses: vec![SocketAddr::from(([127, 0, 0, 1], port))],
        tls: Some(Tls { certificate: identity, client_roots: Some(ca.roots()) }),
        limits: Limits::default(),
    })
    .await?;
    let ended = stop.clone();
    ctx.spawn("signal", async move {
        let _ = tokio::signal::ctrl_c().await;
        ended.cancel();
    });
    front.serve(Arc::new(api), stop).await;
    Ok(())
}
