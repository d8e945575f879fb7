//! Histograms of a ratio over time: each nanosecond is an observation, as in upstream's `TimingRatioHistogram`.
//!
//! Their counts always rise, which whoever stores samples pays for. So unlike upstream's, one whose number has always been
//! zero is not told: most priority levels of most servers are never used.

use prometheus::proto;
use tokio::time::Instant;

/// A ratio, and how long it lay in which bucket.
#[derive(Debug)]
pub(super) struct Timing {
    buckets: &'static [f64],
    /// Nanoseconds in each bucket; the last is above all bounds.
    nanos: Vec<u64>,
    sum: f64,
    since: Instant,
    numerator: f64,
    denominator: f64,
    /// The bucket of the ratio now.
    at: usize,
    /// Whether the numerator was ever another than zero.
    is_used: bool,
}

impl Timing {
    pub(super) fn new(buckets: &'static [f64], now: Instant) -> Self {
        let mut timing = Timing {
            buckets,
            nanos: vec![0; buckets.len() + 1],
            sum: 0.0,
            since: now,
            numerator: 0.0,
            denominator: 1.0,
            at: 0,
            is_used: false,
        };
        timing.place();
        timing
    }

    /// The ratio now is of this to the denominator.
    pub(super) fn set(&mut self, now: Instant, numerator: f64) {
        if numerator.total_cmp(&self.numerator).is_ne() {
            self.advance(now);
            self.numerator = numerator;
            self.is_used = true;
            self.place();
        }
    }

    /// What the ratio is to.
    pub(super) fn set_denominator(&mut self, now: Instant, denominator: f64) {
        self.advance(now);
        self.denominator = denominator.max(1.0);
        self.place();
    }

    fn place(&mut self) {
        let ratio = self.numerator / self.denominator;
        self.at = self.buckets.partition_point(|bound| *bound < ratio);
    }

    fn advance(&mut self, now: Instant) {
        let nanos = now.saturating_duration_since(self.since).as_nanos() as u64;
        self.since = self.since.max(now);
        self.nanos[self.at] += nanos;
        self.sum += nanos as f64 * (self.numerator / self.denominator);
    }

    /// The histogram up to now; `None` if there is nothing to tell.
    pub(super) fn histogram(&mut self, now: Instant) -> Option<proto::Histogram> {
        if !self.is_used {
            return None;
        }
        self.advance(now);
        let mut histogram = proto::Histogram::default();
        let mut count = 0;
        let buckets = self.buckets.iter().zip(&self.nanos).map(|(bound, nanos)| {
            count += nanos;
            let mut bucket = proto::Bucket::default();
            bucket.set_cumulative_count(count);
            bucket.set_upper_bound(*bound);
            bucket
        });
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(self.nanos.iter().sum());
        histogram.set_sample_sum(self.sum);
        Some(histogram)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn time_falls_into_buckets() {
        let mut timing = Timing::new(&[0.0, 0.5, 1.0], Instant::now());
        timing.set_denominator(Instant::now(), 4.0);
        assert!(timing.histogram(Instant::now()).is_none());
        tokio::time::advance(Duration::from_millis(10)).await;
        timing.set(Instant::now(), 2.0);
        tokio::time::advance(Duration::from_millis(20)).await;
        timing.set(Instant::now(), 8.0);
        tokio::time::advance(Duration::from_millis(5)).await;
        let histogram = timing.histogram(Instant::now()).unwrap();
        let counts: Vec<u64> = histogram.get_bucket().iter().map(proto::Bucket::cumulative_count).collect();
        assert_eq!(counts, [10_000_000, 30_000_000, 30_000_000]);
        assert_eq!(histogram.get_sample_count(), 35_000_000);
        assert_eq!(histogram.get_sample_sum(), 1e6 * (20.0 * 0.5 + 5.0 * 2.0));
    }
}
