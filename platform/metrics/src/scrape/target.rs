use std::{
    hash::{Hash as _, Hasher as _},
    sync::Arc,
    time::Duration,
};

use ahash::AHashMap;
use parking_lot::Mutex;
use pharos_telemetry::Ctx;
use prometheus::{
    Registry,
    proto::{MetricFamily, MetricType},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::http::{self, Endpoint};
use crate::{
    Shared,
    exposition::{self, Entry, Format},
    labels::{Labels, METRIC_NAME},
    tsdb::{Sample, SeriesId, Tsdb, stale},
};

/// What a target is read from.
#[derive(Clone)]
pub(crate) enum Kind {
    /// A registry in this process, without HTTP and text.
    Registry(Registry),
    /// A collector in this process that writes a page; it may block.
    Page(Arc<dyn Fn() -> String + Send + Sync>),
    /// Anything that speaks HTTP.
    Http(Endpoint),
}

/// A target as discovery describes it.
#[derive(Clone)]
pub(crate) struct Spec {
    pub(crate) job: String,
    pub(crate) kind: Kind,
    /// The labels of all its series, `job` and `instance` among them.
    pub(crate) labels: Labels,
    /// What discovery knew.
    pub(crate) discovered: Labels,
    /// Where a scraped label and a target's label clash, the scraped one wins.
    pub(crate) honor_labels: bool,
    /// Times in the page count.
    pub(crate) honor_timestamps: bool,
}

/// A target and how its last scrape went.
pub(crate) struct Target {
    pub(crate) key: String,
    pub(crate) spec: Spec,
    pub(crate) state: Mutex<State>,
}

/// How the last scrape went.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    pub(crate) health: Health,
    pub(crate) error: String,
    /// When it began, in milliseconds since 1970.
    pub(crate) at: Option<i64>,
    pub(crate) duration: f64,
    /// Type, help and unit of each family of the last page.
    pub(crate) metadata: AHashMap<String, Metadata>,
}

/// What a page says of a family.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Metadata {
    pub(crate) kind: String,
    pub(crate) help: String,
    pub(crate) unit: String,
}

/// What is known of a target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Health {
    /// Not read yet.
    #[default]
    Unknown,
    /// Its last scrape succeeded.
    Up,
    /// It failed.
    Down,
}

/// The task that reads one target.
pub(super) struct Loop {
    target: Arc<Target>,
    shared: Shared,
    /// The series of each line as written, so that a line that came before costs one lookup.
    cache: AHashMap<Box<str>, Cached>,
    reports: [Option<SeriesId>; REPORTS.len()],
    round: u64,
}

struct Cached {
    /// `None`: a line that is not stored.
    series: Option<SeriesId>,
    round: u64,
    /// The line carries times of its own: no staleness marker when it goes, as upstream.
    timed: bool,
}

/// One scrape's numbers.
#[derive(Default)]
struct Scrape {
    scraped: usize,
    stored: usize,
    added: usize,
}

const REPORTS: [&str; 5] =
    ["up", "scrape_duration_seconds", "scrape_samples_scraped", "scrape_samples_post_metric_relabeling", "scrape_series_added"];
/// Families whose metadata is kept for each target.
const MAX_METADATA: usize = 5000;

// === impl Health ===

impl Health {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

// === impl Target ===

impl Target {
    pub(super) fn new(key: &str, spec: Spec) -> Self {
        Self { key: key.to_owned(), spec, state: Mutex::default() }
    }

    /// Where it is read from, as a URL.
    pub(crate) fn url(&self) -> String {
        match &self.spec.kind {
            Kind::Http(endpoint) => endpoint.url(),
            Kind::Registry(_) | Kind::Page(_) => {
                let path = self.spec.labels.get("metrics_path");
                format!("inprocess://{}{}", self.spec.job, if path.is_empty() { "/metrics" } else { path })
            }
        }
    }

    /// This target's place in the interval.
    fn offset(&self, interval: Duration) -> Duration {
        let mut hasher = std::hash::DefaultHasher::new();
        self.key.hash(&mut hasher);
        let millis = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX).max(1);
        Duration::from_millis(hasher.finish() % millis)
    }
}

// === impl Loop ===

impl Loop {
    pub(super) fn new(target: Arc<Target>, shared: Shared) -> Self {
        Self { target, shared, cache: AHashMap::new(), reports: [None; REPORTS.len()], round: 0 }
    }

    /// Reads the target until it is gone or the component is stopped.
    pub(super) async fn run(mut self, ctx: &Ctx, gone: CancellationToken) {
        let interval = self.shared.config.interval();
        let step = i64::try_from(interval.as_millis()).unwrap_or(i64::MAX).max(1);
        let offset = self.target.offset(interval);
        let place = i64::try_from(offset.as_millis()).unwrap_or(0);
        let mut wait = Duration::from_millis(u64::try_from(place % 1000).unwrap_or(0));
        let mut last: Option<Instant> = None;
        loop {
            tokio::select! {
                () = gone.cancelled() => break,
                () = tokio::time::sleep(wait) => {}
            }
            let now = ctx.clock().now().as_millisecond();
            // A scrape close to its place in the interval gets that time: even distances compress best.
            let due = (now - place + step / 2).div_euclid(step) * step + place;
            let t = if last.is_some() && (now - due).abs() <= step / 100 { due } else { now };
            if let Some(last) = last.replace(Instant::now()) {
                let label = format!("{}s", interval.as_secs());
                self.shared.own.scrape.interval.with_label_values(&[&label]).observe(last.elapsed().as_secs_f64());
            }
            tokio::select! {
                () = gone.cancelled() => break,
                () = self.scrape(t) => {}
            }
            let now = ctx.clock().now().as_millisecond();
            let mut next = (now - place).div_euclid(step) * step + place + step;
            if next - t < 1000.min(step) {
                next += step;
            }
            wait = Duration::from_millis(u64::try_from(next - now).unwrap_or(0));
        }
        if !ctx.is_stopped() {
            self.end(ctx.clock().now().as_millisecond());
        }
    }

    /// Reads the target once, as of `t`.
    pub(super) async fn scrape(&mut self, t: i64) {
        let Some(db) = self.shared.db() else { return };
        let began = Instant::now();
        let deadline = began + self.shared.config.timeout();
        self.round += 1;
        let outcome = self.read(&db, t, deadline).await;
        let duration = began.elapsed().as_secs_f64();
        let (scrape, error) = match outcome {
            Ok(scrape) => (scrape, None),
            Err(error) => (Scrape::default(), Some(error)),
        };
        // What this scrape did not bring is gone; after a failed scrape, everything is.
        self.mark_stale(&db, t, error.is_some());
        let up = if error.is_none() { 1.0 } else { 0.0 };
        let counts = [scrape.scraped, scrape.stored, scrape.added].map(|n| n as f64);
        self.report(&db, t, [up, duration, counts[0], counts[1], counts[2]]);
        let mut state = self.target.state.lock();
        let health = if error.is_some() { Health::Down } else { Health::Up };
        if state.health != health {
            match &error {
                Some(error) => {
                    tracing::warn!(kind = %self.target.spec.job, name = %self.target.url(), error = %error, "scrape failed")
                }
                None => tracing::debug!(kind = %self.target.spec.job, name = %self.target.url(), "target is up"),
            }
        }
        (state.health, state.error) = (health, error.unwrap_or_default());
        (state.at, state.duration) = (Some(t), duration);
    }

    async fn read(&mut self, db: &Tsdb, t: i64, deadline: Instant) -> Result<Scrape, String> {
        let (page, format) = match self.target.spec.kind.clone() {
            Kind::Registry(registry) => return self.ingest_registry(db, t, &registry),
            Kind::Page(write) => {
                let page = tokio::task::spawn_blocking(move || write());
                let page = tokio::time::timeout_at(deadline, page).await.map_err(|_| "context deadline exceeded".to_owned())?;
                (page.map_err(|_| "the collector panicked".to_owned())?, Format::Text)
            }
            Kind::Http(endpoint) => {
                let limit = self.shared.config.body_size_limit_bytes;
                let fetched = tokio::time::timeout_at(deadline, http::fetch(&endpoint, limit, &self.shared.config)).await;
                match fetched {
                    Err(_) => return Err("context deadline exceeded".to_owned()),
                    Ok(Err(error)) => {
                        if matches!(error, http::FetchError::TooLarge) {
                            self.shared.own.scrape.body_limit.inc();
                        }
                        return Err(crate::chain(&error));
                    }
                    Ok(Ok(page)) => page,
                }
            }
        };
        self.ingest_page(db, t, &page, format)
    }

    fn ingest_page(&mut self, db: &Tsdb, t: i64, page: &str, format: Format) -> Result<Scrape, String> {
        let mut batch = Batch::new(t, self.target.spec.honor_timestamps, self.shared.config.sample_limit);
        let mut metadata: AHashMap<String, Metadata> = AHashMap::new();
        let mut failure = None;
        let mut describe = |name: &str, set: &mut dyn FnMut(&mut Metadata)| {
            if metadata.len() < MAX_METADATA || metadata.contains_key(name) {
                set(metadata.entry(name.to_owned()).or_default());
            }
        };
        exposition::parse(page, format, |entry| match entry {
            Entry::Help(name, help) => describe(name, &mut |m| m.help.clone_from(&help)),
            Entry::Type(name, kind) => describe(name, &mut |m| kind.clone_into(&mut m.kind)),
            Entry::Unit(name, unit) => describe(name, &mut |m| unit.clone_into(&mut m.unit)),
            Entry::Sample { series, value, time } => {
                if failure.is_none() {
                    failure = self.add(db, &mut batch, series, value, time).err();
                }
            }
        })
        .map_err(|error| error.to_string())?;
        if let Some(failure) = failure {
            return Err(failure);
        }
        self.target.state.lock().metadata = metadata;
        self.commit(db, batch)
    }

    fn ingest_registry(&mut self, db: &Tsdb, t: i64, registry: &Registry) -> Result<Scrape, String> {
        let mut batch = Batch::new(t, false, self.shared.config.sample_limit);
        let mut metadata = AHashMap::new();
        let mut failure = None;
        for family in registry.gather() {
            let kind = match family.get_field_type() {
                MetricType::COUNTER => "counter",
                MetricType::GAUGE => "gauge",
                MetricType::HISTOGRAM => "histogram",
                MetricType::SUMMARY => "summary",
                MetricType::UNTYPED => "unknown",
            };
            let described = Metadata { kind: kind.to_owned(), help: family.help().to_owned(), unit: String::new() };
            metadata.insert(family.name().to_owned(), described);
            lines(&family, &mut |series, value| {
                if failure.is_none() {
                    failure = self.add(db, &mut batch, series, value, None).err();
                }
            });
        }
        if let Some(failure) = failure {
            return Err(failure);
        }
        self.target.state.lock().metadata = metadata;
        self.commit(db, batch)
    }

    /// Adds one line to the batch.
    fn add(&mut self, db: &Tsdb, batch: &mut Batch, line: &str, value: f64, time: Option<i64>) -> Result<(), String> {
        batch.scrape.scraped += 1;
        if batch.limit > 0 && batch.scrape.scraped > batch.limit {
            self.shared.own.scrape.sample_limit.inc();
            return Err("sample limit exceeded".to_owned());
        }
        let time = time.filter(|_| batch.honor_timestamps);
        let id = match self.cache.get_mut(line) {
            Some(cached) => {
                cached.round = self.round;
                cached.series
            }
            None => {
                let labels = self.labels(line)?;
                let (id, new) = db.series(&labels);
                batch.scrape.added += usize::from(new);
                let cached = Cached { series: Some(id), round: self.round, timed: time.is_some() };
                self.cache.insert(line.into(), cached);
                Some(id)
            }
        };
        if let Some(id) = id {
            batch.samples.push((id, Sample { t: time.unwrap_or(batch.t), v: value }));
        }
        Ok(())
    }

    /// The labels of a stored series: the line's and the target's.
    fn labels(&self, line: &str) -> Result<Labels, String> {
        let mut builder = exposition::labels(line).map_err(|why| format!("{why}: {line:?}"))?;
        for (name, value) in self.target.spec.labels.iter() {
            let scraped = builder.get(name).to_owned();
            if scraped.is_empty() {
                builder.set(name.clone(), value.clone());
            } else if !self.target.spec.honor_labels {
                let mut exported = format!("exported_{name}");
                while !builder.get(&exported).is_empty() || self.target.spec.labels.has(&exported) {
                    exported.insert_str(0, "exported_");
                }
                builder.set(exported, scraped);
                builder.set(name.clone(), value.clone());
            }
        }
        Ok(builder.build())
    }

    fn commit(&mut self, db: &Tsdb, mut batch: Batch) -> Result<Scrape, String> {
        let outcome = db.append(&batch.samples);
        if outcome.unknown > 0 {
            // Retention removed series that the cache still names: the next scrape makes them again.
            self.cache.clear();
        }
        self.shared.own.scrape.out_of_order.inc_by(outcome.out_of_order as u64);
        self.shared.own.scrape.duplicate.inc_by(outcome.duplicate as u64);
        batch.scrape.stored = batch.samples.len();
        let entries = self.target.state.lock().metadata.len();
        self.shared.own.scrape.cache_entries.with_label_values(&[&self.target.spec.job]).set(entries as f64);
        Ok(batch.scrape)
    }

    /// Ends the series that were not in this round; `all`: of this round too.
    fn mark_stale(&mut self, db: &Tsdb, t: i64, all: bool) {
        let round = self.round;
        let mut ended = Vec::new();
        self.cache.retain(|_, cached| {
            let gone = all || cached.round != round;
            if let Some(id) = cached.series.filter(|_| gone && !cached.timed) {
                ended.push((id, Sample { t, v: stale() }));
            }
            !gone
        });
        if !ended.is_empty() {
            db.append(&ended);
        }
    }

    fn report(&mut self, db: &Tsdb, t: i64, values: [f64; REPORTS.len()]) {
        let mut samples = Vec::with_capacity(REPORTS.len());
        for (i, name) in REPORTS.iter().enumerate() {
            let id = *self.reports[i].get_or_insert_with(|| {
                let mut builder = self.target.spec.labels.builder();
                builder.set(METRIC_NAME, *name);
                db.series(&builder.build()).0
            });
            samples.push((id, Sample { t, v: values[i] }));
        }
        if db.append(&samples).unknown > 0 {
            self.reports = [None; REPORTS.len()];
        }
    }

    /// The target is gone: so are its series.
    fn end(&mut self, t: i64) {
        let Some(db) = self.shared.db() else { return };
        self.mark_stale(&db, t, true);
        let ended: Vec<_> = self.reports.iter().flatten().map(|id| (*id, Sample { t, v: stale() })).collect();
        db.append(&ended);
    }
}

/// One scrape's samples.
struct Batch {
    t: i64,
    honor_timestamps: bool,
    limit: usize,
    samples: Vec<(SeriesId, Sample)>,
    scrape: Scrape,
}

impl Batch {
    fn new(t: i64, honor_timestamps: bool, limit: usize) -> Self {
        Self { t, honor_timestamps, limit, samples: Vec::new(), scrape: Scrape::default() }
    }
}

/// The lines of a family, as the text format would write them.
fn lines(family: &MetricFamily, f: &mut dyn FnMut(&str, f64)) {
    let name = family.name();
    let mut line = String::new();
    for metric in family.get_metric() {
        let mut emit = |suffix: &str, extra: Option<(&str, &str)>, value: f64| {
            line.clear();
            let full: &str = &format!("{name}{suffix}");
            let labels = metric.get_label().iter().map(|l| (l.name(), l.value()));
            exposition::write_series(&mut line, full, labels.chain(extra));
            f(&line, value);
        };
        match family.get_field_type() {
            MetricType::COUNTER => emit("", None, metric.get_counter().get_value()),
            MetricType::GAUGE => emit("", None, metric.get_gauge().get_value()),
            MetricType::UNTYPED => {}
            MetricType::SUMMARY => {
                let summary = metric.get_summary();
                for quantile in summary.get_quantile() {
                    let q = exposition::open_metrics_float(quantile.quantile());
                    emit("", Some(("quantile", &q)), quantile.value());
                }
                emit("_sum", None, summary.sample_sum());
                emit("_count", None, summary.sample_count() as f64);
            }
            MetricType::HISTOGRAM => {
                let histogram = metric.get_histogram();
                let mut endless = false;
                for bucket in histogram.get_bucket() {
                    endless |= bucket.upper_bound() == f64::INFINITY;
                    let le = exposition::open_metrics_float(bucket.upper_bound());
                    emit("_bucket", Some(("le", &le)), bucket.cumulative_count() as f64);
                }
                if !endless {
                    emit("_bucket", Some(("le", "+Inf")), histogram.get_sample_count() as f64);
                }
                emit("_sum", None, histogram.get_sample_sum());
                emit("_count", None, histogram.get_sample_count() as f64);
            }
        }
    }
}
