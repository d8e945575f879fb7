use prometheus::{
    Error, Histogram, HistogramOpts, HistogramVec, Opts, Registry,
    core::{Atomic, Collector, GenericCounter, GenericCounterVec, GenericGauge, GenericGaugeVec},
};

/// Makes metrics and registers them, so that a struct of handles reads as one expression. Whether a metric counts in whole
/// numbers is told by the field it is put in.
///
/// # Errors
/// Each fails when there is a metric of that name already, or the name is none.
pub trait Register {
    /// Registers what was made elsewhere, and hands it back.
    fn keep<C: Collector + Clone + 'static>(&self, collector: C) -> Result<C, Error>;

    /// A counter.
    fn counter<P: Atomic + 'static>(&self, name: &str, help: &str) -> Result<GenericCounter<P>, Error> {
        self.keep(GenericCounter::new(name, help)?)
    }

    /// A counter that has labels.
    fn counters<P: Atomic + 'static>(&self, name: &str, help: &str, labels: &[&str]) -> Result<GenericCounterVec<P>, Error> {
        self.keep(GenericCounterVec::new(Opts::new(name, help), labels)?)
    }

    /// A gauge.
    fn gauge<P: Atomic + 'static>(&self, name: &str, help: &str) -> Result<GenericGauge<P>, Error> {
        self.keep(GenericGauge::new(name, help)?)
    }

    /// A gauge that has labels.
    fn gauges<P: Atomic + 'static>(&self, name: &str, help: &str, labels: &[&str]) -> Result<GenericGaugeVec<P>, Error> {
        self.keep(GenericGaugeVec::new(Opts::new(name, help), labels)?)
    }

    /// A histogram; the bucket without an upper bound goes without saying.
    fn histogram(&self, name: &str, help: &str, buckets: impl AsRef<[f64]>) -> Result<Histogram, Error> {
        self.keep(Histogram::with_opts(histogram_opts(name, help, buckets))?)
    }

    /// A histogram that has labels.
    fn histograms(&self, name: &str, help: &str, buckets: impl AsRef<[f64]>, labels: &[&str]) -> Result<HistogramVec, Error> {
        self.keep(HistogramVec::new(histogram_opts(name, help, buckets), labels)?)
    }
}

impl Register for Registry {
    fn keep<C: Collector + Clone + 'static>(&self, collector: C) -> Result<C, Error> {
        self.register(Box::new(collector.clone()))?;
        Ok(collector)
    }
}

fn histogram_opts(name: &str, help: &str, buckets: impl AsRef<[f64]>) -> HistogramOpts {
    HistogramOpts::new(name, help).buckets(buckets.as_ref().to_vec())
}
