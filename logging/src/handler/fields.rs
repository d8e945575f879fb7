use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::{Answer, LogsHandler, Params, Refusal, ok};
use crate::{
    engine::{self, Found, LogQuery},
    logql::{self, Expr, LogExpr, Stage, Unit},
};

/// Lines that are looked at.
const SAMPLE: usize = 1000;

/// Values of one field that are kept.
const MOST_VALUES: usize = 1000;

/// A field of some lines.
#[derive(Default)]
struct Field {
    values: BTreeSet<String>,
    /// `json` or `logfmt`; neither for metadata.
    parsers: BTreeSet<&'static str>,
}

/// `detected_fields`
pub(super) async fn detected(handler: &LogsHandler, params: Params, now: i64) -> Answer {
    let limit = params.get("limit").map_or(Ok(1000), |_| params.limit(1000))?;
    let fields = fields(handler, &params, now).await?;
    let fields: Vec<_> = fields
        .iter()
        .take(limit)
        .map(|(name, field)| {
            let parsers = if field.parsers.is_empty() { json!(null) } else { json!(field.parsers) };
            json!({"label": name, "type": kind(&field.values), "cardinality": field.values.len(), "parsers": parsers})
        })
        .collect();
    Ok(ok(&json!({"fields": fields, "limit": limit})))
}

/// `detected_field/{name}/values`
pub(super) async fn values(handler: &LogsHandler, params: Params, name: String, now: i64) -> Answer {
    let limit = params.get("limit").map_or(Ok(1000), |_| params.limit(1000))?;
    let name = percent_encoding::percent_decode_str(&name).decode_utf8_lossy().into_owned();
    let mut fields = fields(handler, &params, now).await?;
    let values: Vec<String> = fields.remove(&name).unwrap_or_default().values.into_iter().take(limit).collect();
    Ok(ok(&json!({"values": values, "limit": limit})))
}

async fn fields(handler: &LogsHandler, params: &Params, now: i64) -> Result<BTreeMap<String, Field>, Refusal> {
    let (start, end) = params.range(now, 1)?;
    let Expr::Log(expr) = handler.parse(params.query()?).await? else {
        return Err(Refusal::bad("only log selector is supported"));
    };
    let found = handler
        .run(move |index, limits| {
            let query = LogQuery { expr: &expr, start, end, limit: SAMPLE, backward: true, interval: 0 };
            let mut fields = BTreeMap::new();
            for line in engine::logs(index, &query, limits)?.0 {
                collect(&line, &mut fields);
            }
            Ok(fields)
        })
        .await?;
    Ok(found)
}

fn collect(line: &Found, fields: &mut BTreeMap<String, Field>) {
    let mut add = |name: &str, value: &str, parser: Option<&'static str>| {
        let field = fields.entry(name.to_owned()).or_default();
        field.parsers.extend(parser);
        if field.values.len() < MOST_VALUES {
            field.values.insert(value.to_owned());
        }
    };
    for (name, value) in line.metadata.iter() {
        add(name, value, None);
    }
    let (stage, parser) = if line.text.trim_start().starts_with('{') {
        (Stage::Json(Vec::new()), "json")
    } else {
        (Stage::Logfmt { strict: false, keep_empty: false, fields: Vec::new() }, "logfmt")
    };
    let log = LogExpr { matchers: Vec::new(), stages: vec![stage] };
    for (name, value) in logql::parsed(&log, &line.text).iter().filter(|(_, value)| !value.is_empty()) {
        add(name, value, Some(parser));
    }
}

/// What all values are.
fn kind(values: &BTreeSet<String>) -> &'static str {
    let all = |is: &dyn Fn(&str) -> bool| !values.is_empty() && values.iter().all(|value| is(value));
    if all(&|value| value.parse::<i64>().is_ok()) {
        "int"
    } else if all(&|value| value.parse::<f64>().is_ok()) {
        "float"
    } else if all(&|value| matches!(value, "true" | "false")) {
        "boolean"
    } else if all(&|value| Unit::Duration.read(value).is_some()) {
        "duration"
    } else if all(&|value| Unit::Bytes.read(value).is_some()) {
        "bytes"
    } else {
        "string"
    }
}
