//! Which engine keeps the cluster's objects, and its start: the embedded one, or etcd.

use std::sync::Arc;

use anyhow::Context as _;
use pharos_store::{Compactor, Embedded, Etcd, EtcdConfig, EtcdMetrics, EtcdTls, KEY_FILE, Maintenance, Store};
use pharos_telemetry::{Clock, Registries, Supervisor, health::Health};

use crate::{
    cli::DatastoreOptions,
    files::{self, Layout},
    store_socket::StoreSocket,
};

/// Upstream's and ours: what every key starts with.
const ROOT: &str = "/registry";

/// The settings of the etcd engine, if etcd is asked for.
pub fn etcd(options: &DatastoreOptions, layout: &Layout) -> Option<EtcdConfig> {
    if options.datastore_endpoint.is_empty() {
        return None;
    }
    Some(EtcdConfig {
        tls: EtcdTls {
            ca_file: options.etcd_cafile.clone(),
            cert_file: options.etcd_certfile.clone(),
            key_file: options.etcd_keyfile.clone(),
        },
        prefix: options.etcd_prefix.trim_end_matches('/').to_owned(),
        root: ROOT.to_owned(),
        ..EtcdConfig::new(options.datastore_endpoint.iter().cloned(), layout.store().join(KEY_FILE))
    })
}

/// What is wrong with the options.
pub fn mistakes(options: &DatastoreOptions, layout: &Layout) -> Option<String> {
    let is_default = options.etcd_prefix == ROOT;
    match etcd(options, layout) {
        Some(config) => config.check().err().map(|error| format!("--datastore-endpoint: {error}")),
        None if options.etcd_cafile.is_some() || options.etcd_certfile.is_some() || options.etcd_keyfile.is_some() => {
            Some("--etcd-cafile, --etcd-certfile, --etcd-keyfile: of no use without --datastore-endpoint".to_owned())
        }
        None if !is_default => Some("--etcd-prefix: of no use without --datastore-endpoint".to_owned()),
        None => None,
    }
}

/// Opens the store and starts what keeps it: compaction, its health check, and the socket of the commands.
pub async fn start(
    options: &DatastoreOptions,
    layout: &Layout,
    registries: &Registries,
    health: &Health,
    supervisor: &mut Supervisor,
) -> anyhow::Result<Arc<dyn Store>> {
    let folder = layout.store();
    files::private_folder(&folder)?;
    let registry = registries.of("store");
    let store: Arc<dyn Store> = match etcd(options, layout) {
        Some(config) => {
            let opened = Etcd::open(config, Clock::system(), EtcdMetrics::new(&registry)?).await;
            let store = opened.with_context(|| format!("use etcd at {}", options.datastore_endpoint.join(",")))?;
            supervisor.start(Compactor::new(store.clone())).await?;
            store
        }
        None => {
            let (config, metrics) = (pharos_store::Config::new(folder), pharos_store::Metrics::new(&registry)?);
            let opened = tokio::task::spawn_blocking(move || Embedded::open(config, Clock::system(), metrics)).await?;
            let store = opened.context("open the store")?;
            supervisor.start(Maintenance::new(store.clone())).await?;
            store
        }
    };
    // The check's name is upstream's, for those who probe it. It must not keep the store open.
    let open = Arc::downgrade(&store);
    health.add("etcd", true, move || match open.upgrade() {
        Some(store) => store.check().map_err(|error| error.to_string()),
        None => Err("the store is closed".to_owned()),
    });
    files::private_folder(&layout.run()?)?;
    supervisor.start(StoreSocket { path: layout.store_socket()?, store: store.clone() }).await?;
    Ok(store)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn options(flags: &[&str]) -> DatastoreOptions {
        let cli = Cli::try_parse_from(["pharos", "server"].iter().chain(flags)).unwrap();
        let Command::Server(options) = cli.command else { unreachable!("the command is server") };
        options.datastore
    }

    #[test]
    fn the_engine_is_chosen() {
        let layout = Layout("/data".into());
        assert_eq!(etcd(&options(&[]), &layout), None);
        for flag in ["--datastore-endpoint=http://a:2379,http://b:2379", "--etcd-servers=http://a:2379,http://b:2379"] {
            let config = etcd(&options(&[flag, "--etcd-prefix=/x/"]), &layout).unwrap();
            assert_eq!((config.endpoints.len(), &*config.prefix, &*config.root), (2, "/x", "/registry"));
            assert_eq!(config.key_file, std::path::Path::new("/data/server/db/encryption.keys"));
        }
    }

    #[test]
    fn mistakes_are_told() {
        let layout = Layout("/data".into());
        for (flags, expected) in [
            (&["--etcd-cafile=x"][..], "of no use"),
            (&["--etcd-prefix=/x"], "of no use"),
            (&["--datastore-endpoint=mysql://a"], "endpoint mysql://a is not"),
            (&["--datastore-endpoint=http://a", "--etcd-certfile=c", "--etcd-keyfile=k"], "no endpoint is https"),
            (&["--datastore-endpoint=https://a", "--etcd-certfile=c"], "needs its key"),
        ] {
            let mistake = mistakes(&options(flags), &layout).unwrap_or_default();
            assert!(mistake.contains(expected), "{flags:?}: {mistake}");
        }
        assert_eq!(mistakes(&options(&["--datastore-endpoint=https://a:2379"]), &layout), None);
    }
}
