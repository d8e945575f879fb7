use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::{Answer, LogsHandler, Params, Refusal, ok};
use crate::{
    engine::{self, Evaluation, Found, LogQuery, Series, Value, Work},
    entry::Labels,
    logql::{Expr, units},
};

/// `query_range`
pub(super) async fn range(handler: &LogsHandler, params: Params, now: i64) -> Answer {
    let (start, end) = params.range(now, 1)?;
    let expr = handler.parse(params.query()?).await?;
    if let Expr::Log(expr) = expr {
        let limit = params.limit(100)?;
        let most = handler.index.config.max_entries_limit_per_query;
        if limit > most {
            return Err(Refusal::bad(format!(
                "max entries limit per query exceeded, limit > max_entries_limit_per_query ({limit} > {most})"
            )));
        }
        let (backward, interval) = (params.backward()?, params.interval()?);
        let started = tokio::time::Instant::now();
        let (found, work) = handler
            .run(move |index, limits| {
                let query = LogQuery { expr: &expr, start, end, limit, backward, interval };
                engine::logs(index, &query, limits)
            })
            .await?;
        let streams = streams(found, params.categorize);
        return Ok(answer("streams", streams, params.categorize, work, started, None));
    }
    let step = params.step(start, end)?;
    let (value, work, started) = evaluate(handler, expr, start, end, step).await?;
    let times = |at: usize| start + step * at as i64;
    let steps = ((end - start) / step) as usize + 1;
    let series = match value {
        Value::Scalar(scalar) => vec![Series { labels: Labels::default(), values: vec![Some(scalar); steps] }],
        Value::Vector(series) => series,
    };
    let (series, warning) = cut(series, handler.index.config.max_query_series);
    let result = series.iter().map(|series| {
        let values = series.values.iter().enumerate().filter_map(|(at, value)| Some(point(times(at), (*value)?)));
        json!({"metric": series.labels, "values": values.collect::<Vec<_>>()})
    });
    Ok(answer("matrix", result.collect(), false, work, started, warning))
}

/// `query`
pub(super) async fn instant(handler: &LogsHandler, params: Params, now: i64) -> Answer {
    let time = params.time(now)?;
    let expr = handler.parse(params.query()?).await?;
    if expr.is_log() {
        return Err(Refusal::bad(
            "log queries are not supported as an instant query type, please change your query to a range query type",
        ));
    }
    let (value, work, started) = evaluate(handler, expr, time, time, 1).await?;
    match value {
        Value::Scalar(scalar) => Ok(answer("scalar", point(time, scalar), false, work, started, None)),
        Value::Vector(series) => {
            let (series, warning) = cut(series, handler.index.config.max_query_series);
            let samples = series.iter().filter_map(|series| {
                let value = series.values.first().copied().flatten()?;
                Some(json!({"metric": series.labels, "value": point(time, value)}))
            });
            Ok(answer("vector", samples.collect(), false, work, started, warning))
        }
    }
}

pub(super) async fn evaluate(
    handler: &LogsHandler,
    expr: Expr,
    start: i64,
    end: i64,
    step: i64,
) -> Result<(Value, Work, tokio::time::Instant), Refusal> {
    let started = tokio::time::Instant::now();
    let (value, work) = handler
        .run(move |index, limits| {
            let mut evaluation = Evaluation { index, start, end, step, limits: limits.clone(), work: Work::default() };
            let value = evaluation.value(&expr)?;
            Ok((value, evaluation.work))
        })
        .await?;
    Ok((value, work, started))
}

/// The greatest series, and a warning if any were cut off.
fn cut(mut series: Vec<Series>, most: usize) -> (Vec<Series>, Option<String>) {
    series.retain(|series| series.values.iter().any(Option::is_some));
    if series.len() <= most {
        return (series, None);
    }
    let warning = format!("the query gives {} series; the {most} greatest are shown", series.len());
    let weight = |series: &Series| series.values.iter().flatten().sum::<f64>();
    series.sort_by(|a, b| weight(b).total_cmp(&weight(a)));
    series.truncate(most);
    (series, Some(warning))
}

/// Seconds and a number, as Prometheus writes them.
pub(super) fn point(time: i64, value: f64) -> Json {
    let milliseconds = time.div_euclid(1_000_000);
    let seconds = if milliseconds % 1000 == 0 { json!(milliseconds / 1000) } else { json!(milliseconds as f64 / 1000.0) };
    json!([seconds, units::sample(value)])
}

/// Lines by stream.
pub(super) fn streams(found: Vec<Found>, categorize: bool) -> Json {
    let mut at_of: BTreeMap<Labels, usize> = BTreeMap::new();
    let mut streams: Vec<(Labels, Vec<Json>)> = Vec::new();
    for line in found {
        let (labels, value) = if categorize {
            let mut beside = serde_json::Map::new();
            if !line.metadata.is_empty() {
                beside.insert("structuredMetadata".to_owned(), json!(line.metadata));
            }
            if !line.parsed.is_empty() {
                beside.insert("parsed".to_owned(), json!(line.parsed));
            }
            (line.stream, json!([line.time.to_string(), line.text, beside]))
        } else {
            let mut labels = line.stream;
            for (name, value) in line.metadata.iter().chain(line.parsed.iter()) {
                labels.keep(name, value);
            }
            (labels, json!([line.time.to_string(), line.text]))
        };
        let at = *at_of.entry(labels).or_insert_with_key(|labels| {
            streams.push((labels.clone(), Vec::new()));
            streams.len() - 1
        });
        streams[at].1.push(value);
    }
    streams.into_iter().map(|(labels, values)| json!({"stream": labels, "values": values})).collect()
}

fn answer(
    kind: &str,
    result: Json,
    categorize: bool,
    work: Work,
    started: tokio::time::Instant,
    warning: Option<String>,
) -> super::Response {
    let seconds = started.elapsed().as_secs_f64();
    let per_second = |count: u64| (count as f64 / seconds.max(1e-9)) as u64;
    let mut data = json!({
        "resultType": kind,
        "result": result,
        "stats": {"summary": {
            "bytesProcessedPerSecond": per_second(work.bytes),
            "linesProcessedPerSecond": per_second(work.lines),
            "totalBytesProcessed": work.bytes,
            "totalLinesProcessed": work.lines,
            "totalPostFilterLines": work.kept,
            "totalEntriesReturned": if kind == "streams" { work.kept } else { 0 },
            "execTime": seconds,
        }},
    });
    if categorize {
        data["encodingFlags"] = json!(["categorize-labels"]);
    }
    let mut body = json!({"status": "success", "data": data});
    if let Some(warning) = warning {
        body["warnings"] = json!([warning]);
    }
    ok(&body)
}
