//! What `/debug/api_priority_and_fairness/…` tells (`apiserver/pkg/util/flowcontrol/apf_controller_debug.go`).

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use pharos_telemetry::Clock;
use tokio::time::Instant;

use super::queueset::{QueueSet, RequestDump};
use crate::request::{Query, RequestInfo};

const BELOW: &str = "/debug/api_priority_and_fairness/";

/// Queues that are told of a level; more there are only where somebody asked for very many.
const MAX_QUEUES: usize = 10_000;

/// Go's date of nothing.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// The document at a path, if it is one of these.
pub(super) fn document(levels: &[Arc<QueueSet>], path: &str, query: &Query, clock: &Clock) -> Option<String> {
    let rows = match path.strip_prefix(BELOW)? {
        "dump_priority_levels" => priority_levels(levels),
        "dump_queues" => queues(levels),
        "dump_requests" => {
            let with_details = query.get("includeRequestDetails").is_some_and(|value| !value.is_empty());
            requests(levels, with_details, &Dates { now: clock.now(), instant: Instant::now() })
        }
        _ => return None,
    };
    Some(table(&rows))
}

type Row = Vec<String>;

fn head(columns: &[&str]) -> Row {
    columns.iter().map(|column| (*column).to_owned()).collect()
}

/// Rows as Go's `tabwriter` sets them with these settings: a comma after each cell but the last, padded by one.
fn table(rows: &[Row]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count() + 2).max().unwrap_or(0).max(8);
    let widths: Vec<usize> = (0..columns.saturating_sub(1)).map(width).collect();
    let mut text = String::new();
    for row in rows {
        for (cell, width) in row.iter().zip(&widths) {
            text.push_str(cell);
            text.push(',');
            text.extend(std::iter::repeat_n(' ', width - cell.chars().count() - 1));
        }
        text.push_str(row.last().map_or("", String::as_str));
        text.push('\n');
    }
    text
}

fn priority_levels(levels: &[Arc<QueueSet>]) -> Vec<Row> {
    let mut rows = vec![head(&[
        "PriorityLevelName",
        "ActiveQueues",
        "IsIdle",
        "IsQuiescing",
        "WaitingRequests",
        "ExecutingRequests",
        "DispatchedRequests",
        "RejectedRequests",
        "TimedoutRequests",
        "CancelledRequests",
    ])];
    for level in levels {
        let dump = level.dump();
        let active = dump.queues.iter().filter(|(_, queue)| !queue.waiting.is_empty()).count();
        let totals = dump.totals;
        rows.push(vec![
            level.name().to_owned(),
            active.to_string(),
            dump.is_idle.to_string(),
            dump.is_quiescing.to_string(),
            dump.waiting.to_string(),
            dump.executing.to_string(),
            totals.dispatched.to_string(),
            totals.rejected.to_string(),
            totals.timed_out.to_string(),
            totals.cancelled.to_string(),
        ]);
    }
    rows
}

fn queues(levels: &[Arc<QueueSet>]) -> Vec<Row> {
    let mut rows = vec![head(&[
        "PriorityLevelName",
        "Index",
        "PendingRequests",
        "ExecutingRequests",
        "SeatsInUse",
        "NextDispatchR",
        "InitialSeatsSum",
        "MaxSeatsSum",
        "TotalWorkSum",
    ])];
    for level in levels {
        let mut used = level.dump();
        let last = used.queues.last().map_or(0, |(index, _)| index + 1);
        let mut in_use = std::mem::take(&mut used.queues).into_iter().peekable();
        for index in 0..used.deck.max(last).min(MAX_QUEUES) {
            let queue = in_use.next_if(|(at, _)| *at == index).map(|(_, queue)| queue).unwrap_or_default();
            let sum = |seats: fn(&RequestDump) -> u64| queue.waiting.iter().map(seats).sum::<u64>().to_string();
            rows.push(vec![
                level.name().to_owned(),
                index.to_string(),
                queue.waiting.len().to_string(),
                queue.executing.len().to_string(),
                queue.seats_in_use.to_string(),
                seat_seconds(queue.next_r),
                sum(|request| request.work.initial_seats),
                sum(|request| request.work.max_seats()),
                seat_seconds(queue.waiting_work),
            ]);
        }
    }
    rows
}

/// Work as upstream writes it: `1.05000000ss`.
fn seat_seconds(work: i128) -> String {
    format!("{}.{:08}ss", work / 100_000_000, (work % 100_000_000).unsigned_abs())
}

/// Tells dates of instants.
struct Dates {
    now: Timestamp,
    instant: Instant,
}

impl Dates {
    fn of(&self, instant: Instant) -> String {
        let ago = SignedDuration::try_from(self.instant.saturating_duration_since(instant)).unwrap_or_default();
        self.now.checked_sub(ago).unwrap_or(self.now).to_string()
    }
}

fn requests(levels: &[Arc<QueueSet>], with_details: bool, dates: &Dates) -> Vec<Row> {
    let mut columns = vec![
        "PriorityLevelName",
        "FlowSchemaName",
        "QueueIndex",
        "RequestIndexInQueue",
        "FlowDistingsher",
        "ArriveTime",
        "InitialSeats",
        "FinalSeats",
        "AdditionalLatency",
        "StartTime",
    ];
    if with_details {
        columns.extend(["UserName", "Verb", "APIPath", "Namespace", "Name", "APIVersion", "Resource", "SubResource"]);
    }
    let mut rows = vec![head(&columns)];
    for level in levels {
        let dump = level.dump();
        let mut push = |queue: Option<usize>, place: Option<usize>, request: &RequestDump| {
            let index = |at: Option<usize>| at.map_or("-1".to_owned(), |at| at.to_string());
            let distinguisher: &str = match request.by_namespace {
                Some(true) => &request.info.namespace,
                Some(false) => &request.user,
                None => "",
            };
            let mut row = vec![
                level.name().to_owned(),
                request.schema.to_string(),
                index(queue),
                index(place),
                distinguisher.to_owned(),
                dates.of(request.arrived),
                request.work.initial_seats.to_string(),
                request.work.final_seats.to_string(),
                latency(request.work.additional_latency),
                request.started.map_or(NEVER.to_owned(), |started| dates.of(started)),
            ];
            if with_details {
                row.extend(details(&request.user, &request.info));
            }
            rows.push(row);
        };
        for (index, queue) in &dump.queues {
            for (place, request) in queue.waiting.iter().enumerate() {
                push(Some(*index), Some(place), request);
            }
            queue.executing.iter().for_each(|request| push(Some(*index), None, request));
        }
        dump.queueless.iter().for_each(|request| push(None, None, request));
    }
    rows
}

fn latency(latency: Duration) -> String {
    pharos_api::time::go_duration(SignedDuration::try_from(latency).unwrap_or_default())
}

fn details(user: &str, info: &RequestInfo) -> [String; 8] {
    let version = if info.group.is_empty() { info.version.clone() } else { format!("{}/{}", info.group, info.version) };
    [
        user.to_owned(),
        info.verb.clone(),
        info.path.clone(),
        info.namespace.clone(),
        info.name.clone(),
        version,
        info.resource.clone(),
        info.subresource.clone(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_set_as_upstream_sets_them() {
        let rows = [head(&["Name", "A", "B"]), head(&["workload-low", "0", "true"])];
        assert_eq!(table(&rows), "Name,         A,      B\nworkload-low, 0,      true\n");
    }

    #[test]
    fn work_is_written_in_seat_seconds() {
        for (work, want) in [(0, "0.00000000ss"), (300_000, "0.00300000ss"), (12_345_678_901, "123.45678901ss")] {
            assert_eq!(seat_seconds(work), want);
        }
    }
}
