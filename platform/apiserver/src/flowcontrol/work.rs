//! How much a request is estimated to cost (`apiserver/pkg/util/flowcontrol/request`).

use std::time::Duration;

/// Work: seats times time, in hundred-millionths of a seat-second as upstream counts, in a number no server lives to fill.
pub(super) type SeatSeconds = i128;

/// How many [`SeatSeconds`] make a seat-second.
pub(super) const SCALE: f64 = 1e8;

/// How long serving a request is thought to take before it is known (`estimatedServiceDuration` in `queueset.go`).
pub(super) const SERVICE: Duration = Duration::from_millis(3);

/// The work of holding seats for some time.
pub(super) fn seat_seconds(seats: f64, time: Duration) -> SeatSeconds {
    (seats * time.as_secs_f64() * SCALE).round() as SeatSeconds
}

/// Work as metrics have it.
pub(super) fn to_seconds(work: SeatSeconds) -> f64 {
    work as f64 / SCALE
}

/// What a request is estimated to need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Work {
    /// Seats while it is served.
    pub(super) initial_seats: u64,
    /// Seats after that, while watchers are told of what it changed.
    pub(super) final_seats: u64,
    /// How long those are held. Nobody waits for it.
    pub(super) additional_latency: Duration,
}

impl Work {
    /// Some seats while it is served.
    pub(super) const fn seats(seats: u64) -> Self {
        Work { initial_seats: seats, final_seats: 0, additional_latency: Duration::ZERO }
    }

    /// The seats it holds throughout.
    pub(super) fn max_seats(&self) -> u64 {
        self.initial_seats.max(self.final_seats)
    }

    /// All it will have cost.
    pub(super) fn total(&self) -> SeatSeconds {
        seat_seconds(self.initial_seats as f64, SERVICE) + self.final_work()
    }

    fn final_work(&self) -> SeatSeconds {
        seat_seconds(self.final_seats as f64, self.additional_latency)
    }

    /// The same final work on no more than `limit` seats, for longer.
    pub(super) fn reshaped(self, limit: u64) -> Self {
        if limit == 0 || self.final_seats <= limit {
            return self;
        }
        let additional_latency = Duration::from_secs_f64(to_seconds(self.final_work()) / limit as f64);
        Work { final_seats: limit, additional_latency, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_keeps_its_area() {
        let work = Work { initial_seats: 1, final_seats: 20, additional_latency: Duration::from_millis(5) };
        assert_eq!((work.max_seats(), work.total()), (20, 10_300_000));
        let narrow = work.reshaped(10);
        assert_eq!((narrow.final_seats, narrow.additional_latency), (10, Duration::from_millis(10)));
        assert_eq!(narrow.total(), work.total());
        assert_eq!(work.reshaped(20), work);
        assert_eq!(work.reshaped(0), work, "there is nothing to fit it in");
    }
}
