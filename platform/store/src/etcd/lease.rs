//! Leases, few for many entries: as upstream's (`storage/etcd3/lease_manager.go`), one serves all entries of about a minute.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::client::Calls;
use crate::Result;

/// How long after an entry's time its lease may end: at most this, and at most a twentieth of its time.
const REUSE: Duration = Duration::from_secs(60);
/// Entries of one lease: etcd deletes them in one step.
const MAX_ENTRIES: usize = 1000;

pub(super) struct Leases {
    calls: Arc<Calls>,
    last: Mutex<Option<Lease>>,
}

struct Lease {
    id: i64,
    ends: Instant,
    entries: usize,
}

impl Leases {
    pub(super) fn new(calls: Arc<Calls>) -> Self {
        Self { calls, last: Mutex::default() }
    }

    /// A lease that ends when `ttl` is over or a little later. Those who need a new one at once wait for the same.
    pub(super) async fn get(&self, ttl: Duration) -> Result<i64> {
        let seconds = ttl.as_secs_f64().ceil().max(1.0);
        let spare = (seconds * 0.05).floor().min(REUSE.as_secs_f64());
        let mut last = self.last.lock().await;
        let now = Instant::now();
        if let Some(lease) = last.as_mut().filter(|lease| lease.serves(now, seconds, spare)) {
            lease.entries += 1;
            return Ok(lease.id);
        }
        let id = self.calls.grant((seconds + spare) as i64).await?;
        *last = Some(Lease { id, ends: now + Duration::from_secs_f64(seconds + spare), entries: 1 });
        Ok(id)
    }
}

impl Leases {
    /// Forgets the lease: etcd does not know it any more.
    pub(super) async fn forget(&self) {
        *self.last.lock().await = None;
    }
}

impl Lease {
    fn serves(&self, now: Instant, seconds: f64, spare: f64) -> bool {
        let left = self.ends.saturating_duration_since(now).as_secs_f64();
        self.entries < MAX_ENTRIES && left >= seconds && left <= seconds + spare
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lease_serves_what_ends_about_then() {
        let now = Instant::now();
        let lease = |seconds, entries| Lease { id: 1, ends: now + Duration::from_secs(seconds), entries };
        for (left, entries, seconds, expected) in [
            (3660, 1, 3600.0, true),
            (3600, 1, 3600.0, true),
            (3599, 1, 3600.0, false), // Would end too early.
            (3661, 1, 3600.0, false), // Would last too long.
            (3660, MAX_ENTRIES, 3600.0, false),
        ] {
            assert_eq!(lease(left, entries).serves(now, seconds, 60.0), expected, "{left}");
        }
    }
}
