//! When those who are rejected shall try again: in a second, or later if many are rejected
//! (`apiserver/pkg/util/flowcontrol/dropped_requests_tracker.go`).

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::time::Instant;

const MAX_SECONDS: u64 = 32;

/// The rejected of a priority level.
pub(super) struct Dropped(Mutex<State>);

struct State {
    /// When seconds are counted from.
    start: Instant,
    /// The seconds before this one in which any were rejected, and how many. At most as many as [`MAX_SECONDS`].
    history: VecDeque<(u64, u64)>,
    second: u64,
    count: u64,
    retry_after: u64,
    /// The second in which it was last raised.
    raised: Option<u64>,
}

impl Dropped {
    pub(super) fn new(now: Instant) -> Self {
        let history = VecDeque::new();
        Dropped(Mutex::new(State { start: now, history, second: 0, count: 0, retry_after: 1, raised: None }))
    }

    /// Counts one, and tells how many seconds it shall wait.
    pub(super) fn record(&self, now: Instant) -> u64 {
        let mut state = self.0.lock();
        let second = now.saturating_duration_since(state.start).as_secs();
        if second == state.second {
            state.count += 1;
        } else {
            let past = (state.second, state.count);
            state.history.push_back(past);
            let kept = (2 * state.retry_after).min(MAX_SECONDS);
            while state.history.front().is_some_and(|(at, _)| second - at > kept) {
                state.history.pop_front();
            }
            (state.second, state.count) = (second, 1);
            state.adjust(second);
        }
        state.retry_after
    }
}

impl State {
    /// Doubles the wait when three in a second of it were rejected, at most once in its length; takes a second off when
    /// less than one was.
    fn adjust(&mut self, second: u64) {
        let since = second.saturating_sub(self.retry_after);
        let dropped: u64 = self.history.iter().filter(|(at, _)| *at >= since).map(|(_, count)| count).sum();
        let may_raise = self.raised.is_none_or(|raised| second - raised >= self.retry_after);
        if may_raise && dropped >= 3 * self.retry_after {
            self.retry_after = (2 * self.retry_after).min(MAX_SECONDS);
            self.raised = Some(second);
        } else if dropped < self.retry_after && self.retry_after > 1 {
            self.retry_after -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_wait_follows_the_load() {
        let start = Instant::now();
        let dropped = Dropped::new(start);
        let mut seen = Vec::new();
        // How many in each second, and what the last of them is told.
        for (second, count) in [(0, 1), (1, 5), (2, 5), (3, 5), (4, 5), (5, 5), (20, 1), (40, 1), (60, 1)] {
            let told = (0..count).map(|_| dropped.record(start + Duration::from_secs(second))).last();
            seen.push(told.unwrap());
        }
        // Five in the second before: doubled. Too soon. Ten in two: doubled again. Then nobody for long: a second less.
        assert_eq!(seen, [1, 1, 2, 2, 4, 4, 3, 2, 1]);
    }
}
