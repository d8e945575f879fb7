//! Pulls from registries with `oci-client`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::manifest::OciDescriptor;
use oci_client::token_cache::RegistryTokenType;
use oci_client::{Client, RegistryOperation, secrets};
use tokio::sync::Mutex;

use crate::error::{Context, Error, Result};
use crate::image::archive::record_of;
use crate::image::login;
use crate::image::reference::Reference;
use crate::image::store::{ImageStore, Record};
use crate::types::RegistryAuth;

/// A pull that gets no byte for this long has failed; kubelet's image pull progress deadline is also a minute.
pub(crate) const PROGRESS_DEADLINE: Duration = Duration::from_secs(60);
pub(crate) const CONNECT_DEADLINE: Duration = Duration::from_secs(15);
pub(crate) const USER_AGENT: &str = concat!("pharos/", env!("CARGO_PKG_VERSION"));
/// Layers fetched at once, as containerd's and Docker's default.
const CONCURRENT_LAYERS: usize = 3;

/// Pulls images; calls for the same one wait for each other.
#[derive(Debug)]
pub(crate) struct Puller {
    insecure: Vec<String>,
    // One entry for each pull under way, by reference.
    running: Mutex<BTreeMap<String, Arc<Mutex<()>>>>,
}

impl Puller {
    /// `insecure` registries are spoken to in plain HTTP, as loopback ones always are.
    pub(crate) fn new(insecure: Vec<String>) -> Self {
        // The client takes the process' TLS provider and panics without one; an earlier choice stays.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self { insecure, running: Mutex::default() }
    }

    pub(crate) async fn pull(&self, store: &Arc<ImageStore>, image: &str, auth: &RegistryAuth) -> Result<Record> {
        let reference: Reference = image.parse()?;
        let key = reference.to_string();
        let turn = Arc::clone(self.running.lock().await.entry(key.clone()).or_default());
        let result = {
            let _turn = turn.lock().await;
            self.pull_once(store, &reference, auth).await
        };
        let mut running = self.running.lock().await;
        // Two: this call's and the map's.
        if Arc::strong_count(&turn) <= 2 {
            running.remove(&key);
        }
        result
    }

    async fn pull_once(&self, store: &Arc<ImageStore>, reference: &Reference, auth: &RegistryAuth) -> Result<Record> {
        let plain = reference.is_loopback() || self.insecure.contains(&reference.registry);
        let new_client = || {
            Client::new(ClientConfig {
                protocol: if plain { ClientProtocol::Http } else { ClientProtocol::Https },
                read_timeout: Some(PROGRESS_DEADLINE),
                connect_timeout: Some(CONNECT_DEADLINE),
                user_agent: USER_AGENT,
                ..ClientConfig::default()
            })
        };
        let mut client = new_client();
        let auth = match auth {
            RegistryAuth::Anonymous => secrets::RegistryAuth::Anonymous,
            RegistryAuth::Basic { username, password } => secrets::RegistryAuth::Basic(username.clone(), password.clone()),
            RegistryAuth::Bearer(token) => secrets::RegistryAuth::Bearer(token.clone()),
        };
        let remote: oci_client::Reference = reference
            .to_string()
            .parse()
            .map_err(|error| Error::InvalidArgument(format!("invalid image reference {reference}: {error}")))?;
        let failed = |error| explain(reference, error);

        let mut manifest = client.pull_image_manifest_and_list_digest(&remote, &auth).await;
        if let Err(OciDistributionError::UnauthorizedError { .. }) = manifest
            && let Some(token) = login::by_manifest(&remote, plain, &auth).await.map_err(failed)?
        {
            let auth = match &token {
                // Kept by the client as long as it lives; it would look for another way when that of its cache runs out.
                RegistryTokenType::Bearer(token) => secrets::RegistryAuth::Bearer(token.token().to_owned()),
                RegistryTokenType::Basic(..) => auth,
            };
            client = new_client();
            client.tokens.insert(&remote, RegistryOperation::Pull, token).await;
            manifest = client.pull_image_manifest_and_list_digest(&remote, &auth).await;
        }
        let (manifest, digest, list_digest) = manifest.map_err(failed)?;
        let digest = list_digest.unwrap_or(digest);
        let mut config = Vec::new();
        client.pull_blob(&remote, &manifest.config, &mut config).await.map_err(failed)?;
        let mut record = {
            let store = Arc::clone(store);
            blocking(move || record_of(&store, &config)).await?
        };
        if record.diff_ids.len() != manifest.layers.len() {
            return Err(Error::InvalidArgument(format!("image {reference} has a configuration of other layers")));
        }
        if reference.tag.is_some() {
            record.tags.insert(Reference { digest: None, ..reference.clone() }.to_string());
        }
        record.digests.insert(format!("{}@{digest}", reference.name()));

        let scratch = {
            let store = Arc::clone(store);
            blocking(move || store.scratch()).await?
        };
        let mut fetches = Vec::new();
        for (index, (layer, diff_id)) in manifest.layers.iter().zip(&record.diff_ids).enumerate() {
            let (client, remote, layer) = (client.clone(), remote.clone(), layer.clone());
            let file = scratch.0.join(index.to_string());
            let present = store.has_layer(diff_id);
            fetches.push(async move {
                if present {
                    return Ok(None);
                }
                fetch_layer(&client, &remote, &layer, &file).await?;
                Ok(Some(file))
            });
        }
        let fetched = futures::stream::iter(fetches).buffered(CONCURRENT_LAYERS);
        let layers: Vec<Option<PathBuf>> = fetched.try_collect().await.map_err(failed)?;
        let store = Arc::clone(store);
        blocking(move || {
            let kept = store.add(record, &layers);
            drop(scratch);
            kept
        })
        .await
    }
}

async fn fetch_layer(
    client: &Client,
    remote: &oci_client::Reference,
    layer: &OciDescriptor,
    file: &std::path::Path,
) -> Result<(), OciDistributionError> {
    let file = tokio::fs::File::create(file).await?;
    // The client checks the digest as the bytes arrive.
    client.pull_blob(remote, layer, tokio::io::BufWriter::with_capacity(256 << 10, file)).await
}

/// Runs blocking work on a blocking thread.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.context(|| "run blocking work")?
}

fn explain(reference: &Reference, error: OciDistributionError) -> Error {
    let context = format!("failed to pull image {reference}");
    let denied = |error: &OciDistributionError| match error {
        OciDistributionError::AuthenticationFailure(_) | OciDistributionError::UnauthorizedError { .. } => true,
        OciDistributionError::RegistryError { envelope, .. } => {
            envelope.errors.iter().any(|one| matches!(one.code, OciErrorCode::Unauthorized | OciErrorCode::Denied))
        }
        OciDistributionError::ServerError { code, .. } => matches!(code, 401 | 403),
        _ => false,
    };
    let missing = |error: &OciDistributionError| match error {
        OciDistributionError::ImageManifestNotFoundError(_) => true,
        OciDistributionError::RegistryError { envelope, .. } => envelope.errors.iter().any(|one| {
            matches!(
                one.code,
                OciErrorCode::ManifestUnknown | OciErrorCode::NameUnknown | OciErrorCode::BlobUnknown | OciErrorCode::NotFound
            )
        }),
        OciDistributionError::ServerError { code, .. } => *code == 404,
        _ => false,
    };
    match error {
        error if denied(&error) => Error::Unauthenticated(format!("{context}: authorization failed: {error}")),
        error if missing(&error) => Error::NotFound { what: "image", id: reference.to_string() },
        OciDistributionError::RequestError(error) if error.is_timeout() => {
            Error::DeadlineExceeded { operation: "pull image", timeout: PROGRESS_DEADLINE }
        }
        error @ (OciDistributionError::DigestError(_)
        | OciDistributionError::JsonError(_)
        | OciDistributionError::ManifestParsingError(_)
        | OciDistributionError::IncompatibleLayerMediaTypeError(_)) => Error::internal(context, error),
        error => Error::unavailable(context, error),
    }
}
