//! Calls of etcd: connected with TLS and keepalives, each with a deadline, errors told in the store's words.

use std::fs;
use std::future::Future;
use std::path::Path;
use std::time::Duration;

use etcd_client::{
    Certificate, Client, CompactionOptions, ConnectOptions, GetOptions, GetResponse, Identity, KvClient, LeaseClient, TlsOptions,
    Txn, TxnResponse, WatchClient, WatchOptions, WatchStream,
};
use tokio::time::{sleep, timeout};

use super::codec::{revision, signed};
use super::config::{EtcdConfig, EtcdTls};
use crate::{Error, EtcdMetrics, Result, Revision};

/// How long a call may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long defragmentation of a member may take: it stands still meanwhile.
const DEFRAGMENT_DEADLINE: Duration = Duration::from_secs(300);
/// As upstream (`storagebackend/factory/etcd3.go`): dead connections are found and ended.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// Reads are tried so often while a member is away, with this pause between, and twice that and so on.
const ATTEMPTS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(50);

pub(super) struct Calls {
    client: Client,
    config: EtcdConfig,
    metrics: EtcdMetrics,
}

impl Calls {
    pub(super) async fn connect(config: EtcdConfig, metrics: EtcdMetrics) -> Result<Self> {
        let client = connect(&config, &config.endpoints).await?;
        Ok(Self { client, config, metrics })
    }

    fn kv(&self) -> KvClient {
        self.client.kv_client().max_decoding_message_size(usize::MAX).max_encoding_message_size(usize::MAX)
    }

    /// Reads a key or range, of all members' agreed state.
    pub(super) async fn get(&self, key: &str, options: GetOptions) -> Result<GetResponse> {
        let mut pause = PAUSE;
        for _ in 1..ATTEMPTS {
            match self.call("get", DEADLINE, self.kv().get(key, Some(options.clone()))).await {
                Err(Error::Backend(_)) => {}
                outcome => return outcome,
            }
            sleep(pause).await;
            pause *= 2;
        }
        self.call("get", DEADLINE, self.kv().get(key, Some(options))).await
    }

    pub(super) async fn txn(&self, txn: Txn) -> Result<TxnResponse> {
        self.call("txn", DEADLINE, self.kv().txn(txn)).await
    }

    pub(super) async fn put(&self, key: &str, value: &str) -> Result<()> {
        self.call("put", DEADLINE, self.kv().put(key, value, None)).await.map(drop)
    }

    /// Deletes everything in a range.
    pub(super) async fn delete(&self, key: &str, end: &str) -> Result<()> {
        let options = etcd_client::DeleteOptions::new().with_range(end);
        self.call("delete", DEADLINE, self.kv().delete(key, Some(options))).await.map(drop)
    }

    pub(super) async fn compact(&self, at: Revision) -> Result<()> {
        let options = CompactionOptions::new();
        self.call("compact", DEADLINE, self.kv().compact(signed(at), Some(options))).await.map(drop)
    }

    /// Makes a lease of so many seconds.
    pub(super) async fn grant(&self, seconds: i64) -> Result<i64> {
        let mut leases: LeaseClient = self.client.lease_client();
        Ok(self.call("leaseGrant", DEADLINE, leases.grant(seconds, None)).await?.id())
    }

    pub(super) async fn watch(&self, key: &str, options: WatchOptions) -> Result<WatchStream> {
        let mut client: WatchClient = self.client.watch_client().max_decoding_message_size(usize::MAX);
        self.call("watch", DEADLINE, client.watch(key, Some(options))).await
    }

    /// Version of the member that answers first, and bytes of its database.
    pub(super) async fn status(&self) -> Result<(String, u64)> {
        let mut client = self.client.maintenance_client();
        let status = self.call("status", DEADLINE, client.status()).await?;
        Ok((status.version().to_owned(), u64::try_from(status.db_size()).unwrap_or(0)))
    }

    /// The versions of all members that answer.
    pub(super) async fn versions(&self) -> Result<Vec<String>> {
        let mut versions = vec![self.status().await?.0];
        for endpoint in self.config.endpoints.iter().filter(|_| self.config.endpoints.len() > 1) {
            let mut client = connect(&self.config, std::slice::from_ref(endpoint)).await?.maintenance_client();
            // One that is away is asked nothing now either.
            if let Ok(status) = self.call("status", CONNECT_DEADLINE, client.status()).await {
                versions.push(status.version().to_owned());
            }
        }
        Ok(versions)
    }

    /// Defragments each member by itself, one after the other: the rest answer meanwhile.
    pub(super) async fn defragment(&self) -> Result<()> {
        for endpoint in &self.config.endpoints {
            let mut client = connect(&self.config, std::slice::from_ref(endpoint)).await?.maintenance_client();
            self.call("defragment", DEFRAGMENT_DEADLINE, client.defragment()).await?;
        }
        Ok(())
    }

    async fn call<T>(
        &self,
        operation: &'static str,
        deadline: Duration,
        call: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T> {
        let timer = self.metrics.request_seconds.with_label_values(&[operation]).start_timer();
        let outcome = match timeout(deadline, call).await {
            Ok(outcome) => outcome.map_err(|error| self.said(&error)),
            Err(_) => Err(Error::Backend(format!("{operation}: etcd did not answer within {} s", deadline.as_secs()))),
        };
        drop(timer);
        if matches!(outcome, Err(Error::Backend(_))) {
            self.metrics.errors.with_label_values(&[operation]).inc();
        }
        outcome
    }

    /// What etcd's message means (`api/v3rpc/rpctypes/error.go`). Revisions are filled in by who knows them.
    fn said(&self, error: &etcd_client::Error) -> Error {
        let text = match error {
            etcd_client::Error::GRpcStatus(status) => status.message().to_owned(),
            other => other.to_string(),
        };
        meaning(text, self.config.max_commit_bytes, &self.config.endpoints)
    }
}

fn meaning(text: String, limit_bytes: usize, endpoints: &[String]) -> Error {
    let says = |what: &str| text.contains(what);
    if says("required revision has been compacted") {
        Error::Compacted { requested: 0, oldest: 0 }
    } else if says("required revision is a future revision") {
        Error::FutureRevision { requested: 0, current: 0 }
    } else if says("request is too large") || says("message larger than max") {
        Error::TooLarge { size_bytes: 0, limit_bytes: limit_bytes.min(3 << 19) }
    } else if says("database space exceeded") {
        Error::DiskFull { path: format!("the database of etcd at {}", endpoints.join(",")).into() }
    } else if says("too many operations in txn request") || says("duplicate key given in txn request") {
        Error::Invalid(text)
    } else {
        Error::Backend(text)
    }
}

async fn connect(config: &EtcdConfig, endpoints: &[String]) -> Result<Client> {
    let mut options = ConnectOptions::new()
        .with_keep_alive(KEEPALIVE.0, KEEPALIVE.1)
        .with_keep_alive_while_idle(true)
        .with_connect_timeout(CONNECT_DEADLINE)
        // A member cut off from the others says so, rather than be silent.
        .with_require_leader(true);
    if endpoints.iter().any(|endpoint| endpoint.starts_with("https://")) {
        options = options.with_tls(tls(&config.tls)?);
    }
    Client::connect(endpoints, Some(options)).await.map_err(|error| Error::Backend(error.to_string()))
}

fn tls(files: &EtcdTls) -> Result<TlsOptions> {
    let read = |path: &Path| fs::read(path).map_err(|e| Error::io("read", path, e));
    let mut options = match &files.ca_file {
        Some(file) => TlsOptions::new().ca_certificate(Certificate::from_pem(read(file)?)),
        None => TlsOptions::new().with_native_roots(),
    };
    if let (Some(certificate), Some(key)) = (&files.cert_file, &files.key_file) {
        options = options.identity(Identity::from_pem(read(certificate)?, read(key)?));
    }
    Ok(options)
}

/// The revision that a response's header tells.
pub(super) fn header_revision(header: Option<&etcd_client::ResponseHeader>) -> Result<Revision> {
    let header = header.ok_or_else(|| Error::Backend("etcd's answer has no header".to_owned()))?;
    Ok(revision(header.revision()))
}

/// Whether this version's answers to requests for progress can be relied on, as upstream has it
/// (`storage/feature/feature_support_checker.go`): older ones could overtake events.
pub(super) fn supports_progress(version: &str) -> bool {
    let mut numbers = version.split(['.', '-', '+']).map(|part| part.parse::<u32>().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    match (next(), next(), next()) {
        (3, 4, patch) => patch >= 31,
        (3, 5, patch) => patch >= 13,
        version => version > (3, 5, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_that_tell_progress() {
        for (version, expected) in [
            ("3.4.23", false),
            ("3.4.30", false),
            ("3.4.31", true),
            ("3.5.12", false),
            ("3.5.13", true),
            ("3.6.0-rc.1", true),
            ("3.3.99", false),
            ("4.0.0", true),
            ("", false),
        ] {
            assert_eq!(supports_progress(version), expected, "{version}");
        }
    }

    #[test]
    fn messages_are_understood() {
        let meaning = |text: &str| meaning(text.to_owned(), 3 << 20, &["http://a".to_owned()]);
        assert!(matches!(meaning("etcdserver: mvcc: required revision has been compacted"), Error::Compacted { .. }));
        assert!(matches!(meaning("etcdserver: mvcc: required revision is a future revision"), Error::FutureRevision { .. }));
        assert!(matches!(meaning("etcdserver: request is too large"), Error::TooLarge { limit_bytes: 1_572_864, .. }));
        let large = "grpc: received message larger than max (9 vs. 5)";
        assert!(matches!(meaning(large), Error::TooLarge { .. }));
        assert!(matches!(meaning("etcdserver: mvcc: database space exceeded"), Error::DiskFull { .. }));
        assert!(matches!(meaning("etcdserver: too many operations in txn request"), Error::Invalid(_)));
        assert!(matches!(meaning("etcdserver: leader changed"), Error::Backend(_)));
    }
}
