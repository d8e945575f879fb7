//! How `pharos image` reaches the runtime of a running node.

use std::{io, path::PathBuf, sync::Arc};

use pharos_runtime::{
    Runtime,
    types::{Image, ImageSpec},
};
use pharos_telemetry::{Component, Ctx};
use serde::{Deserialize, Serialize};

use crate::socket;

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
        let runtime = self.runtime.clone();
        socket::serve(&self.path, &ctx, move |ask| answer(ask, runtime.clone())).await
    }
}

async fn answer(ask: Ask, runtime: Arc<dyn Runtime>) -> Result<Answer, String> {
    let rows = |images: Vec<Image>| Answer::Images(images.into_iter().map(Row::from).collect());
    let outcome = match ask {
        Ask::Load(path) => runtime.load_image(&path).await.map(rows),
        Ask::List => runtime.list_images(None).await.map(rows),
        Ask::Remove(name) => return remove(&ImageSpec { image: name }, &*runtime).await,
    };
    outcome.map_err(|error| socket::text(&error))
}

/// To a runtime an image that is not there is removed, as the CRI has it. Who types a name wants to know.
async fn remove(image: &ImageSpec, runtime: &dyn Runtime) -> Result<Answer, String> {
    let failed = |error: pharos_runtime::Error| socket::text(&error);
    if runtime.image_status(image).await.map_err(failed)?.is_none() {
        return Err("no such image".to_owned());
    }
    runtime.remove_image(image).await.map(|()| Answer::Removed).map_err(failed)
}
