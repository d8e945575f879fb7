use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use parking_lot::Mutex;
use pharos_client::Key;
use tokio::time::Instant;

/// After this the cache is believed whatever was expected of it (upstream's `ExpectationsTimeout`).
const TIMEOUT: Duration = Duration::from_secs(300);

/// What a controller has done that its cache does not show yet: it must not decide again before.
///
/// Deletions are known by UID, so one that is seen twice counts once. Bounded by the number of owners.
#[derive(Default)]
pub(crate) struct Expectations(Mutex<HashMap<Key, Expected>>);

struct Expected {
    creations: usize,
    deletions: HashSet<String>,
    since: Instant,
}

impl Expectations {
    pub(crate) fn expect_creations(&self, owner: &Key, count: usize) {
        let expected = Expected { creations: count, deletions: HashSet::new(), since: Instant::now() };
        self.0.lock().insert(owner.clone(), expected);
    }

    pub(crate) fn expect_deletions(&self, owner: &Key, uids: impl IntoIterator<Item = String>) {
        let expected = Expected { creations: 0, deletions: uids.into_iter().collect(), since: Instant::now() };
        self.0.lock().insert(owner.clone(), expected);
    }

    /// Both at once.
    pub(crate) fn expect(&self, owner: &Key, creations: usize, deletions: impl IntoIterator<Item = String>) {
        let expected = Expected { creations, deletions: deletions.into_iter().collect(), since: Instant::now() };
        self.0.lock().insert(owner.clone(), expected);
    }

    pub(crate) fn created(&self, owner: &Key, count: usize) {
        if let Some(expected) = self.0.lock().get_mut(owner) {
            expected.creations = expected.creations.saturating_sub(count);
        }
    }

    pub(crate) fn deleted(&self, owner: &Key, uid: &str) {
        if let Some(expected) = self.0.lock().get_mut(owner) {
            expected.deletions.remove(uid);
        }
    }

    pub(crate) fn forget(&self, owner: &Key) {
        self.0.lock().remove(owner);
    }

    /// Whether the cache shows all that was done, or has had its time.
    pub(crate) fn are_met(&self, owner: &Key) -> bool {
        self.0.lock().get(owner).is_none_or(|expected| {
            (expected.creations == 0 && expected.deletions.is_empty()) || expected.since.elapsed() > TIMEOUT
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn met_when_seen_or_late() {
        let expectations = Expectations::default();
        let key = Key::new("default", "web");
        assert!(expectations.are_met(&key));
        expectations.expect(&key, 2, ["u1".to_owned()]);
        expectations.created(&key, 1);
        expectations.deleted(&key, "u1");
        expectations.deleted(&key, "u1");
        assert!(!expectations.are_met(&key));
        expectations.created(&key, 1);
        assert!(expectations.are_met(&key));
        expectations.expect_creations(&key, 1);
        tokio::time::advance(Duration::from_secs(301)).await;
        assert!(expectations.are_met(&key));
    }
}
