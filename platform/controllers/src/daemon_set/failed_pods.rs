use std::{collections::HashMap, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSet;
use parking_lot::Mutex;

use crate::owners;

/// How long a failed pod is left after the one before it was replaced: doubled each time.
const FIRST: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(15 * 60);
/// A pod that held out for so long starts anew.
const STABLE: Duration = Duration::from_secs(2 * 15 * 60);
const SWEEP: Duration = Duration::from_secs(60);

/// When failed pods were replaced, so that a pod that always fails is replaced ever more slowly: upstream's
/// `failedPodsBackoff`. A node may refuse each pod at once, and the two would fight as fast as they can.
#[derive(Default)]
pub(super) struct FailedPods(Mutex<State>);

#[derive(Default)]
struct State {
    /// By DaemonSet, its generation (another template deserves another chance) and node.
    replaced: HashMap<String, Replaced>,
    swept: Timestamp,
}

#[derive(Clone, Copy)]
struct Replaced {
    at: Timestamp,
    wait: Duration,
}

impl FailedPods {
    /// How long a failed pod on a node has still to be left; without a wait it is to be replaced now, which is noted.
    pub(super) fn replace(&self, set: &DaemonSet, node: &str, now: Timestamp) -> Option<Duration> {
        let generation = set.status.as_ref().and_then(|status| status.observed_generation).unwrap_or_default();
        let key = format!("{}/{generation}/{node}", owners::uid(set));
        let mut state = self.0.lock();
        if elapsed(state.swept, now) > SWEEP {
            state.replaced.retain(|_, replaced| elapsed(replaced.at, now) <= STABLE);
            state.swept = now;
        }
        let last = state.replaced.get(&key).copied().filter(|last| elapsed(last.at, now) <= STABLE);
        let wait = match last {
            None => FIRST,
            Some(last) => {
                let left = last.wait.saturating_sub(elapsed(last.at, now));
                if !left.is_zero() {
                    return Some(left);
                }
                last.wait.saturating_mul(2).min(LIMIT)
            }
        };
        state.replaced.insert(key, Replaced { at: now, wait });
        None
    }
}

fn elapsed(since: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(since)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_that_always_fail_are_replaced_ever_more_slowly() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let (failed, mut set) = (FailedPods::default(), DaemonSet::default());
        for (node, second, left) in [
            ("a", 1000, None),
            ("a", 1000, Some(1)),
            ("a", 1001, None),
            ("a", 1002, Some(1)),
            ("b", 1002, None),
            ("a", 1003, None),
            ("a", 1006, Some(1)),
            ("a", 1007, None),
        ] {
            assert_eq!(failed.replace(&set, node, at(second)), left.map(Duration::from_secs), "{node} {second}");
        }
        set.status.get_or_insert_default().observed_generation = Some(2);
        assert_eq!(failed.replace(&set, "a", at(1008)), None, "another template");

        let mut second = 1008;
        for _ in 0..12 {
            second += 900;
            assert_eq!(failed.replace(&set, "a", at(second)), None);
        }
        assert_eq!(failed.replace(&set, "a", at(second + 899)), Some(Duration::from_secs(1)), "the longest wait");
        assert_eq!(failed.replace(&set, "a", at(second + 1801)), None);
        assert_eq!(failed.replace(&set, "a", at(second + 1801)), Some(Duration::from_secs(1)), "it had held out");
        assert_eq!(failed.0.lock().replaced.len(), 1, "what is stable is forgotten");
    }
}
