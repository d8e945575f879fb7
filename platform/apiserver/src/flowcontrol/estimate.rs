//! What a request will need (`apiserver/pkg/util/flowcontrol/request/{list,mutating}_work_estimator.go`).
//!
//! Lists are served from memory here, at whatever revision, so they cost what upstream thinks a list from its cache costs.

use std::time::Duration;

use pharos_api::selector::FieldSelector;

use super::{metrics::FlowMetrics, watches::Watches, work::Work};
use crate::{
    api::Api,
    request::{Query, RequestInfo},
};

/// Bytes of objects for which a list takes a seat.
const BYTES_PER_SEAT: u64 = 100_000;

/// The most bytes of a list that are in memory for it at once, as it is streamed.
const MAX_BYTES: u64 = 1_000_000;

/// Watchers for which a change takes a seat,
const WATCHERS_PER_SEAT: u64 = 10;

/// and for how long.
const PER_EVENT: Duration = Duration::from_millis(5);

/// How many objects of a resource there are, and how large they are together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stock {
    pub(super) objects: u64,
    pub(super) bytes: u64,
}

/// The work of a request, with no more than `max_seats`.
pub(super) fn work(
    api: &Api,
    watches: &Watches,
    info: &RequestInfo,
    query: &Query,
    max_seats: u64,
    metrics: &FlowMetrics,
) -> Work {
    match info.verb.as_str() {
        "list" | "watch" => list(info, query, max_seats, || stock(api, info)),
        "create" | "update" | "patch" | "delete" if info.is_resource => {
            // A token is no event for those who watch its account.
            if info.resource == "serviceaccounts" && info.subresource == "token" {
                return Work::seats(1);
            }
            let watchers = watches.interested(info);
            metrics.watchers(watchers);
            change(watchers as u64, max_seats)
        }
        _ => Work::seats(1),
    }
}

/// `None` for what is not stored here: others do that work.
fn stock(api: &Api, info: &RequestInfo) -> Option<Stock> {
    let kind = api.0.resources.lookup(&info.group, &info.version, &info.resource)?;
    let (objects, bytes) = api.0.storage.cache(&kind).ok()?.size();
    Some(Stock { objects: objects as u64, bytes: bytes as u64 })
}

fn list(info: &RequestInfo, query: &Query, max_seats: u64, stock: impl FnOnce() -> Option<Stock>) -> Work {
    let given = |name: &str| query.get(name).filter(|value| !value.is_empty());
    if info.verb == "watch" {
        let wants_all = query.flag("sendInitialEvents") || given("resourceVersion").is_none_or(|version| version == "0");
        if !wants_all {
            return Work::seats(1);
        }
    }
    let limit = match given("limit").map(str::parse::<u64>) {
        None | Some(Ok(0)) => u64::MAX,
        Some(Ok(limit)) => limit,
        // It will be refused; upstream is on the safe side too.
        Some(Err(_)) => return Work::seats(max_seats),
    };
    let Some(stock) = stock() else { return Work::seats(1) };
    let named = || {
        let selector = given("fieldSelector").and_then(|text| FieldSelector::parse(text).ok());
        selector.is_some_and(|selector| selector.exact("metadata.name").is_some())
    };
    let read = if !info.name.is_empty() || named() { 1 } else { stock.objects.min(limit) };
    let average = stock.bytes.checked_div(stock.objects).unwrap_or(0);
    let bytes = read.saturating_mul(average).min(MAX_BYTES);
    Work::seats(bytes.div_ceil(BYTES_PER_SEAT).clamp(1, max_seats.max(1)))
}

fn change(watchers: u64, max_seats: u64) -> Work {
    if watchers < WATCHERS_PER_SEAT {
        return Work::seats(1);
    }
    let wide = Work { final_seats: watchers.div_ceil(WATCHERS_PER_SEAT), additional_latency: PER_EVENT, ..Work::seats(1) };
    // Narrower and longer: a wide request keeps seats empty while it waits for them.
    wide.reshaped(max_seats)
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    #[test]
    fn lists_take_seats_by_size() {
        let table = [
            ("/api/v1/pods", 0, 0, 1),
            ("/api/v1/pods", 100, 500, 1),
            ("/api/v1/pods", 100, 2_000, 2),
            ("/api/v1/pods?limit=20", 100, 20_000, 4),
            ("/api/v1/pods?limit=0", 100, 20_000, 8),
            ("/api/v1/pods?limit=x", 1, 1, 8),
            ("/api/v1/pods?labelSelector=a", 100, 20_000, 8),
            ("/api/v1/pods?fieldSelector=metadata.name%3Dx", 100, 20_000, 1),
            ("/api/v1/pods?fieldSelector=spec.nodeName%3Dx", 100, 20_000, 8),
            ("/api/v1/pods?watch=1", 100, 20_000, 8),
            ("/api/v1/pods?watch=1&resourceVersion=0", 100, 20_000, 8),
            ("/api/v1/pods?watch=1&resourceVersion=5", 100, 20_000, 1),
            ("/api/v1/pods?watch=1&resourceVersion=5&sendInitialEvents=true", 100, 20_000, 8),
        ];
        for (target, objects, average, want) in table {
            let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
            let query = Query::parse(query);
            let info = RequestInfo::parse(&Method::GET, path, &query);
            let work = list(&info, &query, 8, || Some(Stock { objects, bytes: objects * average }));
            assert_eq!(work, Work::seats(want), "{target} of {objects} of {average}");
        }
    }

    #[test]
    fn lists_of_others_take_one_seat() {
        let info = RequestInfo::parse(&Method::GET, "/apis/metrics.k8s.io/v1beta1/pods", &Query::parse(None));
        assert_eq!(list(&info, &Query::parse(None), 8, || None), Work::seats(1));
    }

    #[test]
    fn changes_take_seats_by_watchers() {
        for (watchers, seats, millis) in [(0, 0, 0), (9, 0, 0), (10, 1, 5), (11, 2, 5), (100, 10, 5), (200, 10, 10)] {
            let want = Work { final_seats: seats, additional_latency: Duration::from_millis(millis), ..Work::seats(1) };
            assert_eq!(change(watchers, 10), want, "{watchers}");
        }
    }
}
