use std::{collections::HashMap, sync::Arc};

use pharos_telemetry::{
    Ctx,
    logs::{Record, Records, level_name},
};

use crate::{
    entry::{Entry, Labels, Stream},
    index::Batch,
    inputs::Sink,
    metrics::Source,
};

/// Records that are stored together.
const BATCH: usize = 512;

/// Streams by component, or job, and level.
type Streams = HashMap<(String, tracing::Level), Arc<Stream>>;

/// The level of a line that is of no component: its own words about levels mean something else.
const UNLEVELLED: (&str, &str) = ("detected_level", "info");

/// Stores what components log, and whole lines of other jobs (audit events), until told to stop, and then what is left.
pub(crate) async fn records<S: Sink>(sink: &Arc<S>, records: &mut Records, ctx: &Ctx) {
    let mut streams = Streams::new();
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        let count = tokio::select! {
            biased;
            count = records.recv_many(&mut batch, BATCH) => count,
            () = ctx.stopped() => return,
        };
        if count == 0 {
            // Whoever logs is gone: nothing more will come.
            return ctx.stopped().await;
        }
        let taken = batch.drain(..).filter(|record| sink.takes(record));
        let entries = taken.map(|record| entry(sink.node(), &mut streams, &record)).collect();
        sink.append(Source::Component, Batch { entries, positions: Vec::new() }).await;
    }
}

fn entry(node: &str, streams: &mut Streams, record: &Record) -> Entry {
    let time = i64::try_from(record.time.as_nanosecond()).unwrap_or(i64::MAX);
    if let Some(job) = record.job {
        // No component is named like a label's value with a space before it.
        let key = (format!(" {job}"), record.level);
        let stream =
            streams.entry(key).or_insert_with(|| Stream::new(Labels::new([("job", job), ("node", node), ("service_name", job)])));
        let metadata = vec![(UNLEVELLED.0.into(), UNLEVELLED.1.into())];
        return Entry::new(time, stream, &record.message, metadata);
    }
    let key = (record.component().to_owned(), record.level);
    let stream = streams.entry(key).or_insert_with_key(|(component, level)| {
        let labels = [("job", "pharos"), ("component", component), ("level", level_name(*level)), ("node", node)];
        Stream::new(Labels::new([("service_name", component.as_str())].into_iter().chain(labels)))
    });
    Entry::new(time, stream, &record.logfmt(), Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_another_job_are_streams_of_their_own() {
        let line = r#"{"kind":"Event","level":"Metadata","verb":"delete"}"#;
        let record = Record {
            time: jiff::Timestamp::UNIX_EPOCH,
            level: tracing::Level::INFO,
            target: "audit",
            message: line.to_owned(),
            fields: Vec::new(),
            job: Some("audit"),
        };
        let mut streams = Streams::new();
        let found = entry("n1", &mut streams, &record);
        assert_eq!(found.stream.labels.to_string(), r#"{job="audit", node="n1", service_name="audit"}"#);
        assert_eq!(&*found.line, line);
        let own = Record { job: None, ..record };
        assert_eq!(entry("n1", &mut streams, &own).stream.labels.get("job"), Some("pharos"));
        assert_eq!(streams.len(), 2);
    }
}
