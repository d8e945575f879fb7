//! How `pharos image` reaches the runtime of a running node: a Unix socket that only its owner may open. One JSON line asks, one
//! answers.

use std::{
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use pharos_runtime::{
    Runtime,
    types::{Image, ImageSpec},
};
use pharos_telemetry::{Component, Ctx};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
};

/// The longest request: a path or a name.
const MAX_REQUEST: u64 = 64 * 1024;
/// Requests at once; more are refused.
const CLIENTS: usize = 16;
const DEADLINE: Duration = Duration::from_secs(600);

/// What can be asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Ask {
    /// Load every image of an archive on this machine.
    Load(PathBuf),
    /// List the images.
    List,
    /// Remove an image, by name or ID.
    Remove(String),
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// Images: those loaded, or all.
    Images(Vec<Row>),
    /// It is gone.
    Removed,
    /// It failed, and why.
    Failed(String),
}

/// An image as it is listed.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    pub id: String,
    pub names: Vec<String>,
    pub size_bytes: u64,
}

impl From<Image> for Row {
    fn from(image: Image) -> Self {
        let names = if image.repo_tags.is_empty() { image.repo_digests } else { image.repo_tags };
        Self { id: image.id, names, size_bytes: image.size_bytes }
    }
}

/// The node's side.
pub struct ImageSocket {
    pub path: PathBuf,
    pub runtime: Arc<dyn Runtime>,
}

impl Component for ImageSocket {
    const NAME: &'static str = "image-socket";
    type Error = io::Error;

    async fn run(&self, ctx: Ctx) -> io::Result<()> {
        let _ = std::fs::remove_file(&self.path);
        let listener = UnixListener::bind(&self.path)?;
        std::fs::set_permissions(&self.path, std::fs::Permissions::from_mode(0o600))?;
        ctx.ready();
        let slots = Arc::new(Semaphore::new(CLIENTS));
        loop {
            let (stream, _) = tokio::select! {
                biased;
                () = ctx.stopped() => return Ok(()),
                accepted = listener.accept() => accepted?,
            };
            let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
            let runtime = self.runtime.clone();
            ctx.spawn("image request", async move {
                let _slot = slot;
                match tokio::time::timeout(DEADLINE, serve(stream, &*runtime)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::debug!(error = %error, "image request broke off"),
                    Err(_) => tracing::warn!(error = "no end in time", "image request was given up"),
                }
            });
        }
    }
}

async fn serve(stream: UnixStream, runtime: &dyn Runtime) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    BufReader::new(reader.take(MAX_REQUEST)).read_line(&mut line).await?;
    let answer = match serde_json::from_str(&line) {
        Ok(ask) => answer(ask, runtime).await,
        Err(error) => Answer::Failed(error.to_string()),
    };
    let mut line = serde_json::to_vec(&answer)?;
    line.push(b'\n');
    writer.write_all(&line).await
}

async fn answer(ask: Ask, runtime: &dyn Runtime) -> Answer {
    let rows = |images: Vec<Image>| Answer::Images(images.into_iter().map(Row::from).collect());
    let outcome = match ask {
        Ask::Load(path) => runtime.load_image(&path).await.map(rows),
        Ask::List => runtime.list_images(None).await.map(rows),
        Ask::Remove(name) => remove(&ImageSpec { image: name }, runtime).await,
    };
    outcome.unwrap_or_else(|error| {
        let error: &dyn std::error::Error = &error;
        let texts: Vec<String> = std::iter::successors(Some(error), |e| e.source()).map(ToString::to_string).collect();
        Answer::Failed(texts.join(": "))
    })
}

/// To a runtime an image that is not there is removed, as the CRI has it. Who types a name wants to know.
async fn remove(image: &ImageSpec, runtime: &dyn Runtime) -> pharos_runtime::Result<Answer> {
    if runtime.image_status(image).await?.is_none() {
        return Ok(Answer::Failed("no such image".to_owned()));
    }
    runtime.remove_image(image).await.map(|()| Answer::Removed)
}

/// The command line's side.
pub async fn ask(path: &Path, ask: &Ask) -> anyhow::Result<Answer> {
    let stream =
        UnixStream::connect(path).await.with_context(|| format!("reach the node at {}: does it run?", path.display()))?;
    let (reader, mut writer) = stream.into_split();
    let mut line = serde_json::to_vec(ask)?;
    line.push(b'\n');
    writer.write_all(&line).await?;
    let mut answer = String::new();
    let mut reader = BufReader::new(reader);
    let read = tokio::time::timeout(DEADLINE, reader.read_line(&mut answer));
    read.await.context("no answer in time")??;
    serde_json::from_str(&answer).context("the node broke off")
}
