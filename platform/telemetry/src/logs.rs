//! Log records: a `tracing` layer that hands every event to a bounded queue, from which the log index reads.
//!
//! The queue never blocks the code that logs. A record that finds it full is dropped and counted in
//! `pharos_log_records_dropped_total`. Lines that are no log of a component, such as the API server's audit events, enter the
//! same queue by a [`Writer`].

use std::{fmt::Write as _, sync::Arc};

use jiff::Timestamp;
use prometheus::{IntCounter, IntCounterVec, Registry};
use tokio::sync::mpsc;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    span,
};
use tracing_subscriber::{Layer, layer::Context, registry::LookupSpan};

use crate::Register as _;

/// Records that wait for the log index: at some 300 bytes each, about 2.5 MiB; with audit events among them, of a kilobyte each,
/// up to 8 MiB.
const QUEUE: usize = 8192;
/// Of these, those that are left for what components log, however many lines of other jobs come.
const RESERVED: usize = QUEUE / 4;

/// Names of fields that the log index knows as columns; any other field is kept too, under its own name.
pub const FIELDS: [&str; 14] = [
    "component",
    "kind",
    "namespace",
    "name",
    "uid",
    "node",
    "pod",
    "container",
    "revision",
    "request_id",
    "attempt",
    "elapsed_seconds",
    "error",
    "task",
];

/// One event of one component.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// When it was logged.
    pub time: Timestamp,
    /// How grave it is.
    pub level: Level,
    /// The module that logged it.
    pub target: &'static str,
    /// The constant text.
    pub message: String,
    /// Facts: the event's own fields, then those of the spans around it; the innermost of a name wins.
    pub fields: Vec<(&'static str, String)>,
    /// The job whose line this is, kept as it is: `message` is the whole of it. `None` for what components log.
    pub job: Option<&'static str>,
}

impl Record {
    /// The component that logged, or `pharos` outside any component.
    #[must_use]
    pub fn component(&self) -> &str {
        self.field("component").unwrap_or("pharos")
    }

    /// A field's value.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_str())
    }

    /// The record as a logfmt line: `level=info target=… msg="…" key=value`.
    #[must_use]
    pub fn logfmt(&self) -> String {
        let mut line = format!("level={} target={} msg={}", level_name(self.level), self.target, quoted(&self.message));
        for (name, value) in &self.fields {
            let _ = write!(line, " {name}={}", quoted(value));
        }
        line
    }
}

/// The level's name as Loki and Grafana colour it.
#[must_use]
pub fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

fn quoted(value: &str) -> String {
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'=') {
        value.to_owned()
    } else {
        format!("{value:?}")
    }
}

/// The reading end of the queue.
pub type Records = mpsc::Receiver<Record>;

/// The layer and the queue that it fills.
///
/// # Errors
/// When the metrics are registered already.
pub fn layer(registry: &Registry) -> Result<(RecordLayer, Records), prometheus::Error> {
    let (sender, records) = mpsc::channel(QUEUE);
    Ok((RecordLayer { sender, metrics: Arc::new(Metrics::new(registry)?) }, records))
}

/// See [`layer`].
pub struct RecordLayer {
    sender: mpsc::Sender<Record>,
    metrics: Arc<Metrics>,
}

/// Puts whole lines of one job into the queue. Cheap to clone.
#[derive(Clone)]
pub struct Writer {
    job: &'static str,
    sender: mpsc::Sender<Record>,
    metrics: Arc<Metrics>,
}

struct Metrics {
    records: [IntCounter; 5],
    dropped: IntCounter,
}

/// The fields of a span, kept with it.
struct SpanFields(Vec<(&'static str, String)>);

// === impl Writer ===

impl Writer {
    /// Queues a line; false if the queue is all but full or nobody reads it, and the line is dropped and counted.
    #[must_use]
    pub fn write(&self, time: Timestamp, line: String) -> bool {
        let record =
            Record { time, level: Level::INFO, target: self.job, message: line, fields: Vec::new(), job: Some(self.job) };
        let queued = self.sender.capacity() > RESERVED && self.sender.try_send(record).is_ok();
        if !queued {
            self.metrics.dropped.inc();
        }
        queued
    }
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("job", &self.job).finish_non_exhaustive()
    }
}

// === impl RecordLayer ===

impl RecordLayer {
    /// A way into the same queue for lines of a job.
    #[must_use]
    pub fn writer(&self, job: &'static str) -> Writer {
        Writer { job, sender: self.sender.clone(), metrics: self.metrics.clone() }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for RecordLayer {
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, ctx: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = ctx.span(id) {
            span.extensions_mut().insert(SpanFields(fields.facts));
        }
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, ctx: Context<'_, S>) {
        let mut fields = Fields::default();
        values.record(&mut fields);
        if let Some(span) = ctx.span(id)
            && let Some(kept) = span.extensions_mut().get_mut::<SpanFields>()
        {
            for (name, value) in fields.facts {
                kept.0.retain(|(n, _)| *n != name);
                kept.0.push((name, value));
            }
        }
    }

    fn on_event(&self, event: &Event<'_>, ctx: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        for span in ctx.event_scope(event).into_iter().flatten() {
            if let Some(kept) = span.extensions().get::<SpanFields>() {
                for (name, value) in &kept.0 {
                    if !fields.facts.iter().any(|(n, _)| n == name) {
                        fields.facts.push((name, value.clone()));
                    }
                }
            }
        }
        let level = *event.metadata().level();
        self.metrics.count(level);
        let record = Record {
            time: Timestamp::now(),
            level,
            target: event.metadata().target(),
            message: fields.message,
            fields: fields.facts,
            job: None,
        };
        if self.sender.try_send(record).is_err() {
            self.metrics.dropped.inc();
        }
    }
}

impl Metrics {
    fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let records: IntCounterVec = registry.counters("pharos_log_records_total", "Log records, by level.", &["level"])?;
        let dropped =
            registry.counter("pharos_log_records_dropped_total", "Log records that found the queue to the log index full.")?;
        let levels = [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE];
        Ok(Self { records: levels.map(|l| records.with_label_values(&[level_name(l)])), dropped })
    }

    fn count(&self, level: Level) {
        let index = match level {
            Level::ERROR => 0,
            Level::WARN => 1,
            Level::INFO => 2,
            Level::DEBUG => 3,
            Level::TRACE => 4,
        };
        self.records[index].inc();
    }
}

/// Collects fields as text.
#[derive(Default)]
struct Fields {
    message: String,
    facts: Vec<(&'static str, String)>,
}

impl Fields {
    fn push(&mut self, field: &Field, value: String) {
        match field.name() {
            "message" => self.message = value,
            name => self.facts.push((name, value)),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.push(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, value.to_owned());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, value.to_string());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, value.to_string());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, value.to_string());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.push(field, value.to_string());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.push(field, crate::supervisor::chain(value));
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[test]
    fn events_carry_the_fields_of_their_spans() {
        let registry = Registry::new();
        let (layer, mut records) = layer(&registry).unwrap();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let outer = tracing::info_span!("component", component = "kubelet", node = "a");
            let _outer = outer.enter();
            let inner = tracing::info_span!("pod", pod = "web", node = "b");
            let _inner = inner.enter();
            tracing::warn!(attempt = 3, "probe failed");
        });
        let record = records.try_recv().unwrap();
        assert_eq!((record.message.as_str(), record.level, record.component()), ("probe failed", Level::WARN, "kubelet"));
        assert_eq!((record.field("node"), record.field("attempt"), record.field("pod")), (Some("b"), Some("3"), Some("web")));
        assert!(
            record.logfmt().starts_with("level=warn target=pharos_telemetry::logs::tests msg=\"probe failed\" attempt=3 pod=web")
        );
    }

    #[test]
    fn lines_of_a_job_are_kept_as_they_are() {
        let registry = Registry::new();
        let (layer, mut records) = layer(&registry).unwrap();
        let writer = layer.writer("audit");
        assert!(writer.write(Timestamp::UNIX_EPOCH, "{}".to_owned()));
        let record = records.try_recv().unwrap();
        assert_eq!((record.job, record.message.as_str(), record.time), (Some("audit"), "{}", Timestamp::UNIX_EPOCH));
        let queued = (0..QUEUE).filter(|_| writer.write(Timestamp::UNIX_EPOCH, String::new())).count();
        assert_eq!(queued, QUEUE - RESERVED, "there is room for records of components");
        drop(records);
        assert!(!writer.write(Timestamp::UNIX_EPOCH, "{}".to_owned()));
    }

    #[test]
    fn a_full_queue_drops_and_counts() {
        let registry = Registry::new();
        let (layer, _records) = layer(&registry).unwrap();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            for _ in 0..QUEUE + 5 {
                tracing::info!("again");
            }
        });
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        assert!(text.contains("pharos_log_records_dropped_total 5"), "{text}");
    }
}
