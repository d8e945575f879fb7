use std::{collections::HashMap, time::Duration};

use jiff::Timestamp;

/// First wait of both back-offs (`kubelet.go`, `backOffPeriod`).
pub(crate) const FIRST: Duration = Duration::from_secs(10);
/// Longest wait (`MaxCrashLoopBackOff`, `imageBackOffPeriod`'s ceiling).
pub(crate) const LIMIT: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug)]
struct Entry {
    wait: Duration,
    updated: Timestamp,
}

/// Doubling waits by key, forgotten after twice the longest: client-go's `flowcontrol.Backoff`, on dates given by the caller.
#[derive(Debug, Default)]
pub(crate) struct Backoffs(HashMap<String, Entry>);

impl Backoffs {
    /// The wait in force for what happened at `since`, and what is left of it; `None` when there is none.
    pub(crate) fn waiting(&self, key: &str, since: Timestamp, now: Timestamp) -> Option<(Duration, Duration)> {
        let entry = self.0.get(key)?;
        if expired(since, entry.updated) {
            return None;
        }
        let passed = elapsed(since, now);
        (passed < entry.wait).then(|| (entry.wait, entry.wait - passed))
    }

    /// As [`Backoffs::waiting`], since the last failure.
    pub(crate) fn waiting_since_update(&self, key: &str, now: Timestamp) -> Option<(Duration, Duration)> {
        let updated = self.0.get(key)?.updated;
        self.waiting(key, updated, now)
    }

    /// Counts a failure at `at`.
    pub(crate) fn next(&mut self, key: &str, at: Timestamp) {
        let wait = match self.0.get(key) {
            Some(entry) if !expired(at, entry.updated) => (entry.wait * 2).min(LIMIT),
            _ => FIRST,
        };
        self.0.insert(key.to_owned(), Entry { wait, updated: at });
    }
}

fn elapsed(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

fn expired(at: Timestamp, updated: Timestamp) -> bool {
    elapsed(updated, at) > LIMIT * 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    #[test]
    fn doubles_to_five_minutes_and_forgets_after_ten() {
        let mut backoffs = Backoffs::default();
        assert_eq!(backoffs.waiting("a", at(0), at(0)), None);
        let mut now = 0;
        for wait in [10, 20, 40, 80, 160, 300, 300] {
            backoffs.next("a", at(now));
            let waiting = backoffs.waiting("a", at(now), at(now + 1)).unwrap();
            assert_eq!(waiting, (Duration::from_secs(wait), Duration::from_secs(wait - 1)));
            now += wait as i64;
            assert_eq!(backoffs.waiting("a", at(now - wait as i64), at(now)), None);
        }
        backoffs.next("a", at(now + 601));
        assert_eq!(backoffs.waiting_since_update("a", at(now + 601)).unwrap().0, FIRST);
    }
}
