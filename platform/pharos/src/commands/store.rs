//! `pharos store`: snapshots of the store and moves between engines. `pharos secrets-encrypt`: the keys of Secrets.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, bail};
use pharos_store::{Archive, Embedded, Etcd, EtcdMetrics, Metrics, Store, copy};
use pharos_telemetry::Clock;

use crate::{
    cli::{Engine, Output, SecretsEncryptCommand, StoreCommand, StoreOptions},
    commands::say,
    datastore,
    files::{self, Layout},
    socket,
    store_socket::{Answer, Ask, Encryption, Summary},
};

pub async fn run(command: StoreCommand) -> anyhow::Result<()> {
    match command {
        StoreCommand::Snapshot { output, options } => snapshot(output, &options).await,
        StoreCommand::Status { snapshot: Some(file), output, .. } => {
            let summary = Summary::from(&Archive::read(&file)?);
            print(output, &summary, || rows(&summary))
        }
        StoreCommand::Status { snapshot: None, output, options } => match ask(&options, &Ask::Status).await? {
            Answer::Status(status) => print(output, &status, || {
                let compacted = status.compacted_revision.map_or_else(|| "-".to_owned(), |revision| revision.to_string());
                vec![
                    ("engine", status.engine.to_string()),
                    ("version", status.version.clone()),
                    ("place", status.place.clone()),
                    ("revision", status.revision.to_string()),
                    ("compacted revision", compacted),
                    ("keys", status.keys.to_string()),
                    ("size", format!("{} bytes", status.size_bytes)),
                ]
            }),
            _ => bail!("the server answered something else"),
        },
        StoreCommand::Defrag { options } => {
            ask(&options, &Ask::Defragment).await?;
            say("defragmented");
            Ok(())
        }
        StoreCommand::Restore { snapshot, encryption_keys, bump_revision, options } => {
            restore(&snapshot, encryption_keys.as_deref(), bump_revision, &options)
        }
        StoreCommand::Migrate { to, datastore, options } => {
            let layout = Layout(options.data_dir);
            anyhow::ensure!(!datastore.datastore_endpoint.is_empty(), "say where etcd is, with --datastore-endpoint");
            if let Some(mistake) = datastore::mistakes(&datastore, &layout) {
                bail!("{mistake}");
            }
            let config = datastore::etcd(&datastore, &layout).context("no etcd is given")?;
            not_running(&layout)?;
            migrate(to, config, &layout).await
        }
    }
}

/// Where the server listens whose state is in a folder.
fn socket(options: &StoreOptions) -> anyhow::Result<PathBuf> {
    let socket = Layout(options.data_dir.clone()).store_socket();
    socket.with_context(|| {
        let folder = options.data_dir.display();
        format!("does a server run with the data folder {folder}? (--data-dir names another)")
    })
}

/// Refuses to touch a store that a server works with. The embedded one is locked besides; etcd is not.
fn not_running(layout: &Layout) -> anyhow::Result<()> {
    let listens = layout.store_socket().is_ok_and(|socket| std::os::unix::net::UnixStream::connect(socket).is_ok());
    anyhow::ensure!(!listens, "a server runs with the data folder {}; stop it first", layout.0.display());
    Ok(())
}

async fn ask(options: &StoreOptions, question: &Ask) -> anyhow::Result<Answer> {
    socket::ask(&socket(options)?, question).await
}

async fn snapshot(output: Option<PathBuf>, options: &StoreOptions) -> anyhow::Result<()> {
    let path = match output {
        Some(path) => std::path::absolute(path)?,
        None => {
            let folder = Layout(options.data_dir.clone()).snapshots();
            files::private_folder(&folder)?;
            folder.join(format!("snapshot-{}", Clock::system().now().strftime("%Y%m%dT%H%M%SZ")))
        }
    };
    match ask(options, &Ask::Snapshot(path.clone())).await? {
        Answer::Snapshot(summary) => say(&format!(
            "wrote {}: revision {}, {} entries, {} bytes",
            path.display(),
            summary.revision,
            summary.entries,
            summary.size_bytes
        )),
        _ => bail!("the server answered something else"),
    }
    Ok(())
}

fn restore(snapshot: &Path, key_file: Option<&Path>, bump: u64, options: &StoreOptions) -> anyhow::Result<()> {
    let archive = Archive::read(snapshot)?;
    let layout = Layout(options.data_dir.clone());
    not_running(&layout)?;
    files::private_folder(layout.store().parent().context("the data folder has no name")?)?;
    let config = pharos_store::Config::new(layout.store());
    let now = Clock::system().now().as_second();
    let restored = archive.restore(&config, key_file, bump, now);
    let old = restored.context("restore into the embedded store; it must not be in use")?;
    say(&format!("restored revision {} with {} entries to {}", archive.revision, archive.entries, layout.store().display()));
    if let Some(old) = old {
        say(&format!("what was there is in {}", old.display()));
    }
    Ok(())
}

async fn migrate(to: Engine, config: pharos_store::EtcdConfig, layout: &Layout) -> anyhow::Result<()> {
    let registry = prometheus::Registry::new();
    let embedded = pharos_store::Config::new(layout.store());
    let metrics = Metrics::new(&registry)?;
    let open_etcd = async { Etcd::open(config, Clock::system(), EtcdMetrics::new(&registry)?).await.context("use etcd") };
    let count = match to {
        Engine::Etcd => {
            anyhow::ensure!(layout.store().exists(), "there is no embedded store in {}", layout.store().display());
            let opened = tokio::task::spawn_blocking(move || Embedded::open(embedded, Clock::system(), metrics)).await?;
            let from = opened.context("open the embedded store; no server may use it")?;
            let to: Arc<Etcd> = open_etcd.await?;
            let is_empty = to.list(pharos_store::Range { limit: 1, ..Default::default() }).await?.entries.is_empty();
            anyhow::ensure!(is_empty, "etcd has entries already under this prefix");
            let copied = copy(&*from, &*to, Clock::system().now().as_second()).await;
            if copied.is_err() {
                to.clear().await.context("delete what was copied; do so by hand before you try again")?;
            }
            from.close().await;
            copied?
        }
        Engine::Embedded => {
            files::private_folder(&layout.store())?;
            let from = open_etcd.await?;
            Embedded::copy_from(&*from, embedded, Clock::system(), metrics).await?
        }
    };
    say(&format!("copied {count} entries"));
    Ok(())
}

pub async fn secrets_encrypt(command: SecretsEncryptCommand) -> anyhow::Result<()> {
    let (question, options) = match &command {
        SecretsEncryptCommand::Status { options, .. } => (Ask::Encryption, options),
        SecretsEncryptCommand::Prepare { options } => (Ask::Prepare, options),
        SecretsEncryptCommand::Rotate { options } => (Ask::Rotate, options),
        SecretsEncryptCommand::Reencrypt { options } => (Ask::Reencrypt, options),
        SecretsEncryptCommand::RotateKeys { options } => (Ask::RotateKeys, options),
    };
    match (ask(options, &question).await?, &command) {
        (Answer::Encryption(encryption), SecretsEncryptCommand::Status { output: Output::Json, .. }) => {
            say(&serde_json::to_string(&encryption)?);
        }
        (Answer::Encryption(encryption), _) => table(&encryption).iter().for_each(|line| say(line)),
        (Answer::Done, SecretsEncryptCommand::Prepare { .. }) => say("prepare completed successfully"),
        (Answer::Done, _) => say("rotate completed successfully"),
        (Answer::Rewritten(count), _) => say(&format!("reencryption completed successfully: {count} values written")),
        _ => bail!("the server answered something else"),
    }
    Ok(())
}

/// In the manner of `k3s secrets-encrypt status`.
fn table(encryption: &Encryption) -> Vec<String> {
    let mut lines = vec![
        "Encryption Status: Enabled".to_owned(),
        format!("Current Rotation Stage: {}", encryption.stage),
        String::new(),
        "Active  Key Type     Name      State".to_owned(),
        "------  --------     ----      -----".to_owned(),
    ];
    for key in &encryption.keys {
        let active = if key.active { '*' } else { ' ' };
        lines.push(format!(" {active}      AES-256-GCM  {}  {}", key.name, key.state).trim_end().to_owned());
    }
    lines
}

fn rows(summary: &Summary) -> Vec<(&'static str, String)> {
    let taken = jiff::Timestamp::from_second(summary.taken_unix_seconds).map(|at| at.to_string()).unwrap_or_default();
    vec![
        ("revision", summary.revision.to_string()),
        ("entries", summary.entries.to_string()),
        ("size", format!("{} bytes", summary.size_bytes)),
        ("taken", taken),
    ]
}

fn print(
    output: Output,
    value: &impl serde::Serialize,
    rows: impl FnOnce() -> Vec<(&'static str, String)>,
) -> anyhow::Result<()> {
    match output {
        Output::Json => say(&serde_json::to_string(value)?),
        Output::Text => rows().iter().for_each(|(name, value)| say(&format!("{name:<20}{value}"))),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store_socket::Key;

    #[test]
    fn keys_are_shown_as_k3s_does() {
        let key = |name: &str, active, state: &str| Key { name: name.into(), active, state: state.into() };
        let encryption = Encryption { stage: "prepare".into(), keys: vec![key("0a", true, ""), key("0b", false, "prepared")] };
        let lines = table(&encryption);
        assert_eq!(lines[1], "Current Rotation Stage: prepare");
        assert_eq!(lines[5..], [" *      AES-256-GCM  0a", "        AES-256-GCM  0b  prepared"]);
    }

    #[test]
    fn without_a_server() {
        let error = format!("{:#}", socket(&StoreOptions { data_dir: "/nosuch".into() }).unwrap_err());
        assert!(error.contains("run with the data folder /nosuch?") && error.contains("--data-dir"), "{error}");
    }
}
