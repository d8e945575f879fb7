//! Keeps the embedded engine small: forgets history, deletes what expired, folds the log into the snapshot.

use std::sync::Arc;
use std::time::Duration;

use pharos_telemetry::{Component, Ctx};
use tokio::time::{Instant, sleep, sleep_until};

use crate::{Embedded, Error, Result, Revision, Store as _};

/// As upstream (`storagebackend.DefaultCompactInterval`).
const COMPACTION_INTERVAL: Duration = Duration::from_secs(300);
/// Until a fold or expiry that failed is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// The component that maintains an [`Embedded`] store. Does nothing while nothing is due.
pub struct Maintenance {
    store: Arc<Embedded>,
    compaction_interval: Duration,
}

/// What one run knows: when to compact, and up to where.
struct State {
    due: Instant,
    /// The revision at the last compaction: what happened before is old enough at the next.
    mark: Revision,
}

impl Maintenance {
    /// Maintains `store`, compacting every five minutes, so that history lives five to ten.
    pub fn new(store: Arc<Embedded>) -> Self {
        Self { store, compaction_interval: COMPACTION_INTERVAL }
    }

    /// Compacts at another interval.
    #[must_use]
    pub fn with_compaction_interval(self, compaction_interval: Duration) -> Self {
        Self { compaction_interval, ..self }
    }

    /// Does what is due. Returns when to try again if something failed.
    async fn work(&self, state: &mut State) -> Option<Instant> {
        let outcome = async {
            self.store.fold().await.inspect_err(|_| self.store.metrics().snapshot_failures.inc())?;
            while self.store.expire().await? > 0 {}
            Ok::<_, Error>(())
        };
        let failed = outcome.await.err();
        if let Some(error) = &failed {
            tracing::warn!(error = error as &dyn std::error::Error, "store maintenance failed, retrying");
        }
        if state.due <= Instant::now() {
            self.compact(state).await;
        }
        failed.map(|_| Instant::now() + RETRY)
    }

    async fn compact(&self, state: &mut State) {
        match self.store.compact(state.mark).await {
            // Already gone if memory ran short in between.
            Ok(()) | Err(Error::Compacted { .. }) => {}
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "could not compact history"),
        }
        state.mark = *self.store.revisions().borrow();
        state.due = Instant::now() + self.compaction_interval;
    }
}

impl Component for Maintenance {
    const NAME: &'static str = "store";
    type Error = Error;

    async fn run(&self, ctx: Ctx) -> Result<()> {
        let mut state = State { due: Instant::now() + self.compaction_interval, mark: *self.store.revisions().borrow() };
        ctx.ready();
        loop {
            let retry = self.work(&mut state).await;
            let expiry = self.store.next_expiry().filter(|_| retry.is_none()).map(|at| {
                let wait = at.saturating_sub(ctx.clock().now().as_second());
                Duration::from_secs(u64::try_from(wait).unwrap_or(0))
            });
            let has_history = self.store.has_history();
            tokio::select! {
                biased;
                () = ctx.stopped() => return Ok(()),
                () = self.store.maintenance().notified() => {}
                () = sleep(expiry.unwrap_or_default()), if expiry.is_some() => {}
                () = sleep_until(retry.unwrap_or(state.due)), if retry.is_some() => {}
                () = sleep_until(state.due), if has_history => {}
            }
        }
    }
}
