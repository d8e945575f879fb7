//! A number over time: its mean, deviation and highest value since it was last asked for
//! (`apiserver/pkg/util/flowcontrol/fairqueuing/integrator.go`).

use tokio::time::Instant;

/// Integrates a number over time.
#[derive(Debug)]
pub(super) struct Integrator {
    since: Instant,
    value: f64,
    max: f64,
    seconds: f64,
    integral: f64,
    squares: f64,
}

/// What became of the number in a period.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Period {
    pub(super) seconds: f64,
    pub(super) average: f64,
    pub(super) deviation: f64,
    pub(super) max: f64,
}

impl Integrator {
    pub(super) fn new(now: Instant) -> Self {
        Integrator { since: now, value: 0.0, max: 0.0, seconds: 0.0, integral: 0.0, squares: 0.0 }
    }

    /// The number changes.
    pub(super) fn set(&mut self, now: Instant, value: f64) {
        self.advance(now);
        self.value = value;
        self.max = self.max.max(value);
    }

    /// The highest value in this period.
    pub(super) fn max(&self) -> f64 {
        self.max
    }

    /// Ends a period and begins the next.
    pub(super) fn take(&mut self, now: Instant) -> Period {
        self.advance(now);
        let period = self.period();
        (self.seconds, self.integral, self.squares) = (0.0, 0.0, 0.0);
        self.max = self.value;
        period
    }

    fn period(&self) -> Period {
        if self.seconds <= 0.0 {
            return Period { max: self.max, ..Period::default() };
        }
        let average = self.integral / self.seconds;
        // Rounding may make a little less than nothing of it.
        let deviation = (self.squares / self.seconds - average * average).max(0.0).sqrt();
        Period { seconds: self.seconds, average, deviation, max: self.max }
    }

    fn advance(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.since).as_secs_f64();
        self.since = self.since.max(now);
        self.seconds += seconds;
        self.integral += self.value * seconds;
        self.squares += self.value * self.value * seconds;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn means_are_weighed_by_time() {
        let mut integrator = Integrator::new(Instant::now());
        tokio::time::advance(Duration::from_secs(3)).await;
        integrator.set(Instant::now(), 4.0);
        tokio::time::advance(Duration::from_secs(1)).await;
        integrator.set(Instant::now(), 2.0);
        let period = integrator.take(Instant::now());
        assert_eq!((period.seconds, period.average, period.max), (4.0, 1.0, 4.0));
        assert!((period.deviation - 3.0_f64.sqrt()).abs() < 1e-9, "{period:?}");
        tokio::time::advance(Duration::from_secs(2)).await;
        let next = integrator.take(Instant::now());
        assert_eq!(next, Period { seconds: 2.0, average: 2.0, deviation: 0.0, max: 2.0 });
    }
}
