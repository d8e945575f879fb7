use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::{Answer, LogsHandler, Params, Refusal, ok, query};
use crate::{
    engine::{Series, Value},
    entry::Labels,
    index::StreamStats,
    logql::{self, Expr, Grouping, Matcher, RangeAggregation, RangeOp},
};

/// The selector of a parameter, which may be a whole log query; nothing takes all streams.
fn matchers(text: Option<&str>) -> Result<Vec<Matcher>, Refusal> {
    let Some(text) = text.map(str::trim).filter(|text| !text.is_empty() && *text != "{}") else { return Ok(Vec::new()) };
    match logql::parse_selector(text) {
        Ok(matchers) => Ok(matchers),
        Err(error) => match logql::parse(text) {
            Ok(Expr::Log(log)) => Ok(log.matchers),
            _ => Err(error.into()),
        },
    }
}

fn streams(handler: &LogsHandler, params: &Params, now: i64) -> Result<Vec<StreamStats>, Refusal> {
    let (start, end) = params.range(now, 6)?;
    let matchers = matchers(params.get("query"))?;
    Ok(handler.index.streams(start, end.saturating_add(1), &|labels| logql::selects(&matchers, labels)))
}

pub(super) fn names(handler: &LogsHandler, params: &Params, now: i64) -> Answer {
    let streams = streams(handler, params, now)?;
    let names: BTreeSet<&str> = streams.iter().flat_map(|stats| stats.stream.labels.iter().map(|(name, _)| name)).collect();
    Ok(ok(&json!({"status": "success", "data": names})))
}

pub(super) fn values(handler: &LogsHandler, params: &Params, name: &str, now: i64) -> Answer {
    let name = percent_encoding::percent_decode_str(name).decode_utf8_lossy();
    let streams = streams(handler, params, now)?;
    let values: BTreeSet<&str> = streams.iter().filter_map(|stats| stats.stream.labels.get(&name)).collect();
    Ok(ok(&json!({"status": "success", "data": values})))
}

pub(super) fn series(handler: &LogsHandler, params: &Params, now: i64) -> Answer {
    let (start, end) = params.range(now, 6)?;
    let selectors = params.all("match[]").chain(params.all("match"));
    let any: Vec<Vec<Matcher>> = selectors.map(|text| matchers(Some(text))).collect::<Result<_, _>>()?;
    let matches = |labels: &Labels| any.is_empty() || any.iter().any(|matchers| logql::selects(matchers, labels));
    let streams = handler.index.streams(start, end.saturating_add(1), &matches);
    let labels: Vec<&Labels> = streams.iter().map(|stats| &stats.stream.labels).collect();
    Ok(ok(&json!({"status": "success", "data": labels})))
}

pub(super) fn stats(handler: &LogsHandler, params: &Params, now: i64) -> Answer {
    let streams = streams(handler, params, now)?;
    let sum = |of: fn(&StreamStats) -> u64| streams.iter().map(of).sum::<u64>();
    Ok(ok(&json!({
        "streams": streams.len(),
        "chunks": sum(|stats| stats.chunks),
        "bytes": sum(|stats| stats.bytes),
        "entries": sum(|stats| stats.lines),
    })))
}

/// How volumes are summed up.
struct By {
    labels: Vec<String>,
    /// By label names, not by series.
    names: bool,
}

impl By {
    fn read(params: &Params, matchers: &[Matcher]) -> Result<Self, Refusal> {
        let names = match params.get("aggregateBy") {
            None | Some("series") => false,
            Some("labels") => true,
            Some(other) => return Err(Refusal::bad(format!("invalid aggregation option: {other}"))),
        };
        let targets = params.get("targetLabels").unwrap_or_default();
        let mut labels: Vec<String> = targets.split(',').filter(|label| !label.is_empty()).map(str::to_owned).collect();
        if labels.is_empty() && !names {
            labels = matchers.iter().map(|matcher| matcher.name.clone()).collect();
        }
        Ok(Self { labels, names })
    }

    /// The volumes that a stream counts for.
    fn keys(&self, labels: &Labels) -> Vec<Labels> {
        let wanted = |name: &str| self.labels.is_empty() || self.labels.iter().any(|label| label == name);
        if self.names {
            let names = labels.iter().filter(|(name, _)| wanted(name));
            // A label with an empty value is what Loki answers here; our sets drop those, so the name is the value.
            return names.map(|(name, _)| Labels::new([(name, name)])).collect();
        }
        let mut key = labels.clone();
        key.retain(wanted);
        vec![key]
    }

    fn metric(&self, key: &Labels) -> serde_json::Value {
        if self.names { key.iter().map(|(name, _)| (name.to_owned(), json!(""))).collect() } else { json!(key) }
    }
}

pub(super) fn volume(handler: &LogsHandler, params: &Params, now: i64) -> Answer {
    let (_, end) = params.range(now, 1)?;
    let matchers = matchers(Some(params.query()?))?;
    let by = By::read(params, &matchers)?;
    let mut volumes: BTreeMap<Labels, u64> = BTreeMap::new();
    for stats in streams(handler, params, now)? {
        for key in by.keys(&stats.stream.labels) {
            *volumes.entry(key).or_default() += stats.bytes;
        }
    }
    let mut volumes: Vec<_> = volumes.into_iter().collect();
    volumes.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    volumes.truncate(params.limit(100)?);
    let result: Vec<_> =
        volumes.iter().map(|(key, bytes)| json!({"metric": by.metric(key), "value": query::point(end, *bytes as f64)})).collect();
    Ok(ok(&json!({"status": "success", "data": {"resultType": "vector", "result": result}})))
}

pub(super) async fn volume_range(handler: &LogsHandler, params: Params, now: i64) -> Answer {
    let (start, end) = params.range(now, 1)?;
    let step = params.step(start, end)?;
    let matchers = handler.read(params.query()?, |text| matchers(Some(text))).await?;
    let by = By::read(&params, &matchers)?;
    let limit = params.limit(100)?;
    // All labels of a stream, and none of its lines'.
    let known = handler.index.streams(start, end.saturating_add(1), &|labels| logql::selects(&matchers, labels));
    let names: BTreeSet<String> =
        known.iter().flat_map(|stats| stats.stream.labels.iter().map(|(name, _)| name.to_owned())).collect();
    let range = RangeAggregation {
        op: RangeOp::Bytes,
        log: logql::LogExpr { matchers, stages: Vec::new() },
        unwrap: None,
        range: step,
        offset: 0,
        parameter: 0.0,
        grouping: None,
    };
    let aggregation = logql::Aggregation {
        op: logql::AggregationOp::Sum,
        expr: Expr::Range(Box::new(range)),
        parameter: 0,
        grouping: Grouping { without: false, labels: names.into_iter().collect() },
    };
    let (value, ..) = query::evaluate(handler, Expr::Aggregation(Box::new(aggregation)), start, end, step).await?;
    let Value::Vector(series) = value else { return Err(Refusal::bad("volume has no series")) };
    let mut volumes: BTreeMap<Labels, Vec<Option<f64>>> = BTreeMap::new();
    for Series { labels, values } in series {
        for key in by.keys(&labels) {
            let sums = volumes.entry(key).or_insert_with(|| vec![None; values.len()]);
            for (sum, value) in sums.iter_mut().zip(&values) {
                if let Some(value) = value {
                    *sum = Some(sum.unwrap_or_default() + value);
                }
            }
        }
    }
    let mut volumes: Vec<_> = volumes.into_iter().collect();
    let total = |values: &[Option<f64>]| values.iter().flatten().sum::<f64>();
    volumes.sort_by(|a, b| total(&b.1).total_cmp(&total(&a.1)));
    volumes.truncate(limit);
    let result: Vec<_> = volumes
        .iter()
        .map(|(key, values)| {
            let points =
                values.iter().enumerate().filter_map(|(at, value)| Some(query::point(start + step * at as i64, (*value)?)));
            json!({"metric": by.metric(key), "values": points.collect::<Vec<_>>()})
        })
        .collect();
    Ok(ok(&json!({"status": "success", "data": {"resultType": "matrix", "result": result}})))
}

pub(super) fn detected(handler: &LogsHandler, params: &Params, now: i64) -> Answer {
    let streams = streams(handler, params, now)?;
    let mut values: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for stats in &streams {
        for (name, value) in stats.stream.labels.iter() {
            values.entry(name).or_default().insert(value);
        }
    }
    let labels: Vec<_> = values.iter().map(|(name, values)| json!({"label": name, "cardinality": values.len()})).collect();
    Ok(ok(&json!({"detectedLabels": labels})))
}
