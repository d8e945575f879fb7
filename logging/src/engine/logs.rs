use std::{collections::HashMap, ops::ControlFlow};

use super::{QueryError, Work, scan_all};
use crate::{
    entry::Labels,
    index::{Chunk, Following, Index},
    logql::{LogExpr, Pipeline},
    scan::{Limits, Raw, Scan},
};

/// A request for lines.
pub(crate) struct LogQuery<'q> {
    pub(crate) expr: &'q LogExpr,
    /// Nanoseconds, the first that counts.
    pub(crate) start: i64,
    /// Nanoseconds, the first that no longer counts.
    pub(crate) end: i64,
    pub(crate) limit: usize,
    pub(crate) backward: bool,
    /// Nanoseconds that two lines of a stream are at least apart; 0 for all lines.
    pub(crate) interval: i64,
}

/// A line that was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) time: i64,
    pub(crate) text: String,
    pub(crate) stream: Labels,
    pub(crate) metadata: Labels,
    pub(crate) parsed: Labels,
}

/// The first lines, in the order asked for.
pub(crate) fn logs(index: &Index, query: &LogQuery<'_>, limits: &Limits) -> Result<(Vec<Found>, Work), QueryError> {
    logs_of(index, query, limits, |scan| index.chunks(scan))
}

/// The same, and all that comes after.
pub(crate) fn logs_and_following(
    index: &Index,
    query: &LogQuery<'_>,
    limits: &Limits,
) -> Result<(Vec<Found>, Following), QueryError> {
    let mut following = None;
    let chunks = |scan: &Scan<'_>| {
        let (chunks, receiver) = index.follow(scan);
        following = Some(receiver);
        chunks
    };
    let (found, _) = logs_of(index, query, limits, chunks)?;
    following.map(|following| (found, following)).ok_or_else(|| QueryError::Bad("nothing to follow".to_owned()))
}

fn logs_of(
    index: &Index,
    query: &LogQuery<'_>,
    limits: &Limits,
    chunks: impl FnOnce(&Scan<'_>) -> Vec<Chunk>,
) -> Result<(Vec<Found>, Work), QueryError> {
    let pipeline = Pipeline::new(&query.expr.stages);
    let needles = pipeline.needles();
    let streams = |labels: &Labels| query.expr.selects(labels);
    let scan = Scan {
        start: query.start,
        end: query.end,
        streams: &streams,
        needles: &needles,
        backward: query.backward,
        lines: true,
        limits,
    };
    let mut work = Work::default();
    let mut found: Vec<Found> = Vec::new();
    let mut last_of: HashMap<u64, i64> = HashMap::new();
    for chunk in chunks(&scan) {
        // Chunks come in the order of their first line that could count: none after this one has an earlier.
        let (min, max) = chunk.times();
        let full = found.len() >= query.limit;
        if full && found.last().is_some_and(|last| if query.backward { max < last.time } else { min > last.time }) {
            break;
        }
        let bound = if full { found.last().map(|last| last.time) } else { None };
        let mut fresh = Vec::new();
        let mut take = |raw: Raw<'_>| {
            if bound.is_some_and(|bound| if query.backward { raw.time < bound } else { raw.time > bound }) {
                return ControlFlow::Break(());
            }
            work.lines += 1;
            work.bytes += raw.size as u64;
            let Some(line) = pipeline.run(raw) else { return ControlFlow::Continue(()) };
            if query.interval > 0 {
                let last = last_of.get(&raw.stream.id);
                if last.is_some_and(|last| (raw.time - last).abs() < query.interval) {
                    return ControlFlow::Continue(());
                }
                last_of.insert(raw.stream.id, raw.time);
            }
            fresh.push(Found {
                time: line.time,
                stream: line.stream_labels(),
                parsed: line.parsed_labels(),
                text: line.text.into_owned(),
                metadata: line.metadata,
            });
            if fresh.len() >= query.limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        scan_all(index, &scan, std::slice::from_ref(&chunk), &mut take)?;
        found.append(&mut fresh);
        // Stable: lines of one time stay in the order they came.
        if query.backward {
            found.sort_by_key(|line| std::cmp::Reverse(line.time));
        } else {
            found.sort_by_key(|line| line.time);
        }
        found.truncate(query.limit);
    }
    work.kept = found.len() as u64;
    Ok((found, work))
}
