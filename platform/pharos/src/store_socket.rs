//! How `pharos store` and `pharos secrets-encrypt` reach the store of a running server.

use std::{io, path::PathBuf, sync::Arc};

use pharos_store::{Archive, Status, Store};
use pharos_telemetry::{Component, Ctx};
use serde::{Deserialize, Serialize};

use crate::socket;

/// What can be asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Ask {
    /// Write a snapshot to a file on this machine.
    Snapshot(PathBuf),
    /// Tell of the store.
    Status,
    /// Give space that is not used back.
    Defragment,
    /// Tell of the encryption of Secrets.
    Encryption,
    /// Make a key that does not encrypt yet.
    Prepare,
    /// Let the prepared key encrypt.
    Rotate,
    /// Write what is encrypted again.
    Reencrypt,
    /// All three, one after the other.
    RotateKeys,
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    Snapshot(Summary),
    Status(Status),
    Encryption(Encryption),
    /// So many values were written again.
    Rewritten(u64),
    Done,
}

/// What a snapshot holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    pub revision: u64,
    pub entries: u64,
    pub size_bytes: u64,
    pub taken_unix_seconds: i64,
}

impl From<&Archive> for Summary {
    fn from(archive: &Archive) -> Self {
        Self {
            revision: archive.revision,
            entries: archive.entries,
            size_bytes: archive.len_bytes() as u64,
            taken_unix_seconds: archive.taken_unix_seconds,
        }
    }
}

/// How Secrets are encrypted.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Encryption {
    pub stage: String,
    pub keys: Vec<Key>,
}

/// A key, without its secret.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Key {
    pub name: String,
    pub active: bool,
    /// `prepared`, `retired`, or nothing.
    pub state: String,
}

/// The server's side.
pub struct StoreSocket {
    pub path: PathBuf,
    pub store: Arc<dyn Store>,
}

impl Component for StoreSocket {
    const NAME: &'static str = "store-socket";
    type Error = io::Error;

    async fn run(&self, ctx: Ctx) -> io::Result<()> {
        let (store, clock) = (self.store.clone(), ctx.clock().clone());
        socket::serve(&self.path, &ctx, move |ask| {
            let (store, now) = (store.clone(), clock.now().as_second());
            async move { answer(ask, &*store, now).await.map_err(|error| socket::text(&error)) }
        })
        .await
    }
}

async fn answer(ask: Ask, store: &dyn Store, now_unix_seconds: i64) -> pharos_store::Result<Answer> {
    let keyring = store.keyring();
    Ok(match ask {
        Ask::Snapshot(path) => {
            let archive = Archive::write(store, &path, now_unix_seconds).await?;
            tracing::info!(path = %path.display(), revision = archive.revision, "wrote a snapshot of the store");
            Answer::Snapshot(Summary::from(&archive))
        }
        Ask::Status => Answer::Status(store.status().await?),
        Ask::Defragment => {
            store.defragment().await?;
            Answer::Done
        }
        Ask::Encryption => {
            let key = |key: pharos_store::KeyInfo| Key { name: key.id, active: key.is_active, state: key.word.to_owned() };
            Answer::Encryption(Encryption {
                stage: keyring.stage().as_str().to_owned(),
                keys: keyring.list().into_iter().map(key).collect(),
            })
        }
        Ask::Prepare => {
            keyring.prepare()?;
            Answer::Done
        }
        Ask::Rotate => {
            keyring.rotate()?;
            Answer::Done
        }
        Ask::Reencrypt => Answer::Rewritten(pharos_store::reencrypt(store, now_unix_seconds).await?),
        Ask::RotateKeys => {
            keyring.prepare()?;
            keyring.rotate()?;
            Answer::Rewritten(pharos_store::reencrypt(store, now_unix_seconds).await?)
        }
    })
}
