//! Compacts history every five minutes, once for all servers of one etcd, as upstream (`storage/etcd3/compact.go`): whoever
//! raises the version of `compact_rev_key` first does it, the others see that it was done.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Compare, CompareOp, GetOptions, PutOptions, Txn, TxnOp, TxnOpResponse};
use pharos_telemetry::{Component, Ctx};
use tokio::time::sleep;

use super::Etcd;
use super::client::header_revision;
use crate::{Error, Result, Revision, Store as _};

/// As upstream (`storagebackend.DefaultCompactInterval`).
const INTERVAL: Duration = Duration::from_secs(300);
/// Upstream's key. It is outside of every prefix: all of an etcd's history is compacted at once.
const KEY: &str = "compact_rev_key";

/// The component that compacts the history of an [`Etcd`] store.
pub struct Compactor {
    store: Arc<Etcd>,
    interval: Duration,
}

/// What one server knows of the compactions.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn {
    /// How often it was compacted: the key's version.
    version: i64,
    /// The revision then: what happened before is old enough at the next.
    revision: Revision,
}

impl Compactor {
    /// Compacts every five minutes, so that history lives five to ten.
    pub fn new(store: Arc<Etcd>) -> Self {
        Self { store, interval: INTERVAL }
    }

    /// Compacts at another interval.
    #[must_use]
    pub fn with_interval(self, interval: Duration) -> Self {
        Self { interval, ..self }
    }
}

impl Component for Compactor {
    const NAME: &'static str = "store";
    type Error = Error;

    async fn run(&self, ctx: Ctx) -> Result<()> {
        let mut turn = Turn::default();
        let mut revisions = self.store.revisions();
        ctx.ready();
        loop {
            // Nothing happens while nothing was written.
            tokio::select! {
                biased;
                () = ctx.stopped() => return Ok(()),
                changed = revisions.changed() => changed.map_err(|_| Error::Closed)?,
            }
            tokio::select! {
                biased;
                () = ctx.stopped() => return Ok(()),
                () = sleep(self.interval) => {}
            }
            revisions.mark_unchanged();
            match self.store.compact_in_turn(turn).await {
                Ok(next) => turn = next,
                Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "could not compact history"),
            }
        }
    }
}

impl Etcd {
    /// Compacts up to the revision of the last turn, if no other server did. Returns where to go on.
    pub(super) async fn compact_in_turn(&self, turn: Turn) -> Result<Turn> {
        let txn = Txn::new()
            .when([Compare::version(KEY, CompareOp::Equal, turn.version)])
            .and_then([TxnOp::put(KEY, turn.revision.to_string(), Some(PutOptions::new()))])
            .or_else([TxnOp::get(KEY, Some(GetOptions::new()))]);
        let response = self.core.calls.txn(txn).await?;
        let revision = header_revision(response.header())?;
        if !response.succeeded() {
            let version = match response.op_responses().first() {
                Some(TxnOpResponse::Get(got)) => got.kvs().first().map_or(0, |kv| kv.version()),
                _ => 0,
            };
            return Ok(Turn { version, revision });
        }
        if turn.revision > 0 {
            match self.core.calls.compact(turn.revision).await {
                // Somebody else's, by hand or by etcd's own.
                Ok(()) | Err(Error::Compacted { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Turn { version: turn.version + 1, revision })
    }
}
