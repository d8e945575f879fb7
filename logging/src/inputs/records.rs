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

/// Streams by component and level.
type Streams = HashMap<(String, tracing::Level), Arc<Stream>>;

/// Stores what components log until told to stop, and then what is left.
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
    let key = (record.component().to_owned(), record.level);
    let stream = streams.entry(key).or_insert_with_key(|(component, level)| {
        let labels = [("job", "pharos"), ("component", component), ("level", level_name(*level)), ("node", node)];
        Stream::new(Labels::new([("service_name", component.as_str())].into_iter().chain(labels)))
    });
    let time = i64::try_from(record.time.as_nanosecond()).unwrap_or(i64::MAX);
    Entry::new(time, stream, &record.logfmt(), Vec::new())
}
