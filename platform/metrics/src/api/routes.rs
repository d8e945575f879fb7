//! The routes.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use jiff::Timestamp;
use serde_json::{Value as Json, json};

use super::{
    json,
    params::{MAX_TIME, MIN_TIME, Params, parse_duration, unescape_label},
};
use crate::{
    Shared,
    exposition::series_text,
    labels::{Labels, Matcher, Sym},
    promql::{Answer, QueryError, Stats, Times, Value, number::json_float, plan},
    scrape::{Health, Target},
    tsdb::{Series, Tsdb, is_stale},
};

/// Points a series may have in one answer.
const MAX_POINTS: i64 = 11_000;
const LOOKBACK_MS: i64 = 300_000;

/// A path that is served.
pub(super) struct Route {
    /// As it is counted in metrics.
    pub(super) name: &'static str,
    pub(super) by_post: bool,
    page: Page,
}

enum Page {
    Healthy,
    Ready,
    Federate,
    Query,
    QueryRange,
    QueryExemplars,
    FormatQuery,
    Labels,
    LabelValues(String),
    Series,
    Metadata,
    Targets,
    TargetsMetadata,
    ScrapePools,
    Rules,
    Alerts,
    Alertmanagers,
    BuildInfo,
    RuntimeInfo,
    Config,
    Flags,
    TsdbStatus,
    WalReplay,
}

/// An answer before it is written.
pub(super) struct Reply {
    status: StatusCode,
    content_type: &'static str,
    allow: Option<&'static str>,
    body: Bytes,
}

/// The page of a path.
pub(super) fn find(path: &str) -> Option<Route> {
    let route = |name, by_post, page| Some(Route { name, by_post, page });
    match path {
        "/-/healthy" => return route("/-/healthy", false, Page::Healthy),
        "/-/ready" => return route("/-/ready", false, Page::Ready),
        "/federate" => return route("/federate", false, Page::Federate),
        _ => {}
    }
    match path.strip_prefix("/api/v1/")? {
        "query" => route("/api/v1/query", true, Page::Query),
        "query_range" => route("/api/v1/query_range", true, Page::QueryRange),
        "query_exemplars" => route("/api/v1/query_exemplars", true, Page::QueryExemplars),
        "format_query" => route("/api/v1/format_query", true, Page::FormatQuery),
        "labels" => route("/api/v1/labels", true, Page::Labels),
        "series" => route("/api/v1/series", true, Page::Series),
        "metadata" => route("/api/v1/metadata", false, Page::Metadata),
        "targets" => route("/api/v1/targets", false, Page::Targets),
        "targets/metadata" => route("/api/v1/targets/metadata", false, Page::TargetsMetadata),
        "scrape_pools" => route("/api/v1/scrape_pools", false, Page::ScrapePools),
        "rules" => route("/api/v1/rules", false, Page::Rules),
        "alerts" => route("/api/v1/alerts", false, Page::Alerts),
        "alertmanagers" => route("/api/v1/alertmanagers", false, Page::Alertmanagers),
        "status/buildinfo" => route("/api/v1/status/buildinfo", false, Page::BuildInfo),
        "status/runtimeinfo" => route("/api/v1/status/runtimeinfo", false, Page::RuntimeInfo),
        "status/config" => route("/api/v1/status/config", false, Page::Config),
        "status/flags" => route("/api/v1/status/flags", false, Page::Flags),
        "status/tsdb" => route("/api/v1/status/tsdb", false, Page::TsdbStatus),
        "status/walreplay" => route("/api/v1/status/walreplay", false, Page::WalReplay),
        other => {
            let name = other.strip_prefix("label/")?.strip_suffix("/values")?;
            let name = percent_encoding::percent_decode_str(name).decode_utf8().ok()?;
            route("/api/v1/label/:name/values", false, Page::LabelValues(unescape_label(&name)))
        }
    }
}

/// Answers a request for a page.
pub(super) async fn answer(shared: &Shared, route: &Route, params: &Params) -> Reply {
    match &route.page {
        Page::Healthy => return Reply::text(StatusCode::OK, "Prometheus Server is Healthy.\n"),
        Page::Ready if shared.db().is_some() => return Reply::text(StatusCode::OK, "Prometheus Server is Ready.\n"),
        _ => {}
    }
    let (Some(db), Some(engine)) = (shared.db(), shared.engine()) else {
        return Reply::text(StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable\n");
    };
    let now = Timestamp::now().as_millisecond();
    let outcome = match &route.page {
        Page::Query => query(&engine, params, now).await,
        Page::QueryRange => query_range(&engine, params).await,
        Page::Labels | Page::LabelValues(_) | Page::Series | Page::Federate | Page::TsdbStatus => {
            // These look at many series: off the async threads.
            let page = match &route.page {
                Page::LabelValues(name) => Listing::Values(name.clone()),
                Page::Labels => Listing::Names,
                Page::Series => Listing::Series,
                Page::Federate => Listing::Federate,
                _ => Listing::Status,
            };
            let params = params.clone();
            blocking(move || ListingRequest::of(&params, page, now)?.answer(&db)).await
        }
        Page::QueryExemplars => exemplars(params).await,
        Page::FormatQuery => {
            let formatted = read(params, "query", plan::format).await;
            formatted.map(|text| Reply::success(json!(text).to_string()))
        }
        Page::Metadata => metadata(shared, params),
        Page::Targets => targets(shared, params),
        Page::TargetsMetadata => targets_metadata(shared, params).await,
        Page::ScrapePools => {
            let pools: BTreeSet<String> = shared.targets.all().iter().map(|t| t.spec.job.clone()).collect();
            Ok(Reply::success(json!({"scrapePools": pools}).to_string()))
        }
        // No rules are evaluated and no Alertmanager is told: the lists are empty because there is nothing.
        Page::Rules => Ok(Reply::success(json!({"groups": []}).to_string())),
        Page::Alerts => Ok(Reply::success(json!({"alerts": []}).to_string())),
        Page::Alertmanagers => Ok(Reply::success(json!({"activeAlertmanagers": [], "droppedAlertmanagers": []}).to_string())),
        Page::BuildInfo => Ok(Reply::success(build_info().to_string())),
        Page::RuntimeInfo => Ok(Reply::success(runtime_info(shared, &db, now).to_string())),
        Page::Config => Ok(Reply::success(json!({"yaml": config_yaml(shared)}).to_string())),
        Page::Flags => Ok(Reply::success(flags(shared).to_string())),
        Page::WalReplay => Ok(Reply::success(json!({"min": 0, "max": 0, "current": 0}).to_string())),
        Page::Healthy | Page::Ready => Err(Failure::Internal),
    };
    outcome.unwrap_or_else(Failure::into_reply)
}

/// Works off the async threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Failure::Internal))
}

/// Reads a parameter that is PromQL. Off the async threads, because regular expressions can take long to compile.
async fn read<T: Send + 'static>(
    params: &Params,
    name: &'static str,
    reader: fn(&str) -> Result<T, String>,
) -> Result<T, Failure> {
    let text = params.get(name).to_owned();
    blocking(move || reader(&text).map_err(|why| not_read(name, &why).into())).await
}

fn not_read(name: &str, why: &str) -> String {
    format!("invalid parameter {name:?}: {}", parse_error(why))
}

/// Why there is no answer.
enum Failure {
    BadData(String),
    Query(QueryError),
    Internal,
}

impl Failure {
    fn into_reply(self) -> Reply {
        match self {
            Self::BadData(why) => Reply::bad_data(why),
            Self::Query(QueryError::Parse(why)) => Reply::bad_data(format!("invalid parameter \"query\": {why}")),
            Self::Query(error @ QueryError::Execution(_)) => {
                Reply::error(StatusCode::UNPROCESSABLE_ENTITY, "execution", &error.to_string())
            }
            Self::Query(error @ QueryError::Timeout(_)) => {
                Reply::error(StatusCode::SERVICE_UNAVAILABLE, "timeout", &error.to_string())
            }
            Self::Query(QueryError::Internal) | Self::Internal => {
                Reply::error(StatusCode::INTERNAL_SERVER_ERROR, "internal", "query evaluation failed unexpectedly")
            }
        }
    }
}

impl From<QueryError> for Failure {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::Parse(why) if !why.starts_with("invalid expression type") => {
                Self::Query(QueryError::Parse(parse_error(&why)))
            }
            other => Self::Query(other),
        }
    }
}

impl From<String> for Failure {
    fn from(why: String) -> Self {
        Self::BadData(why)
    }
}

fn parse_error(why: &str) -> String {
    format!("parse error: {why}")
}

// === impl Reply ===

impl Reply {
    pub(super) fn text(status: StatusCode, body: &'static str) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", allow: None, body: Bytes::from_static(body.as_bytes()) }
    }

    pub(super) fn empty(status: StatusCode) -> Self {
        Self { status, content_type: "", allow: Some("GET, OPTIONS, POST"), body: Bytes::new() }
    }

    pub(super) fn with_allow(mut self, allow: &'static str) -> Self {
        self.allow = Some(allow);
        self
    }

    pub(super) fn bad_data(why: impl AsRef<str>) -> Self {
        Self::error(StatusCode::BAD_REQUEST, "bad_data", why.as_ref())
    }

    fn error(status: StatusCode, kind: &str, why: &str) -> Self {
        // The order of the fields is upstream's.
        let mut body = format!("{{\"status\":\"error\",\"errorType\":\"{kind}\",\"error\":");
        json::string(&mut body, why);
        body.push('}');
        Self { status, content_type: "application/json", allow: None, body: body.into() }
    }

    fn success(data: impl AsRef<str>) -> Self {
        Self::success_with(data.as_ref(), &[], &[])
    }

    fn success_with(data: &str, warnings: &[String], infos: &[String]) -> Self {
        let mut body = format!("{{\"status\":\"success\",\"data\":{data}");
        for (name, notes) in [("warnings", warnings), ("infos", infos)] {
            if !notes.is_empty() {
                body.push_str(&format!(",\"{name}\":{}", json::list(notes, |out, note| json::string(out, note))));
            }
        }
        body.push('}');
        Self { status: StatusCode::OK, content_type: "application/json", allow: None, body: body.into() }
    }

    pub(super) fn into_response(self) -> Response<Bytes> {
        let mut response = Response::new(self.body);
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        if !self.content_type.is_empty() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        }
        if let Some(allow) = self.allow {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        response
    }
}

/// An answer as it is sent; with what it took if `stats` asks for that, by steps too if it is `all`.
fn answered(answer: &Answer, stats: &str) -> Reply {
    let mut data = json::value(&answer.value);
    if !stats.is_empty() && data.ends_with('}') {
        data.pop();
        data.push_str(&format!(",\"stats\":{}}}", stats_json(&answer.stats, stats == "all")));
    }
    Reply::success_with(&data, &answer.warnings, &answer.infos)
}

/// As upstream's `stats.QueryStats`. What is sorted is sorted while it is evaluated.
fn stats_json(stats: &Stats, by_step: bool) -> Json {
    let [queued, prepared, evaluated] = [stats.queued, stats.prepared, stats.evaluated].map(|time| time.as_secs_f64());
    let mut samples = json!({
        "totalQueryableSamples": stats.samples.iter().map(|(_, count)| count).sum::<u64>(),
        "peakSamples": stats.peak_samples,
    });
    if by_step {
        let seconds = |t: i64| if t % 1000 == 0 { json!(t / 1000) } else { json!(t as f64 / 1000.0) };
        samples["totalQueryableSamplesPerStep"] = stats.samples.iter().map(|(t, count)| json!([seconds(*t), count])).collect();
    }
    json!({
        "timings": {
            "evalTotalTime": prepared + evaluated,
            "resultSortTime": 0.0,
            "queryPreparationTime": prepared,
            "innerEvalTime": evaluated,
            "execQueueTime": queued,
            "execTotalTime": queued + prepared + evaluated,
        },
        "samples": samples,
    })
}

/// Cuts a list of series to a limit, and says so.
fn limited(value: &mut Value, limit: usize) -> Option<String> {
    let len = match value {
        Value::Vector(series) => {
            let len = series.len();
            series.truncate(if limit > 0 { limit } else { len });
            len
        }
        Value::Matrix(series) => {
            let len = series.len();
            series.truncate(if limit > 0 { limit } else { len });
            len
        }
        _ => return None,
    };
    (limit > 0 && len > limit).then(|| "results truncated due to limit".to_owned())
}

async fn query(engine: &crate::promql::Engine, params: &Params, now: i64) -> Result<Reply, Failure> {
    let (limit, t, timeout) = (params.limit()?, params.time("time", now)?, params.timeout()?);
    let mut answer = engine.query(params.get("query"), Times::Instant(t), timeout, params.lookback_delta()?).await?;
    answer.warnings.extend(limited(&mut answer.value, limit));
    Ok(answered(&answer, params.get("stats")))
}

async fn query_range(engine: &crate::promql::Engine, params: &Params) -> Result<Reply, Failure> {
    let limit = params.limit()?;
    for name in ["start", "end"] {
        if params.get(name).is_empty() {
            return Err(Failure::BadData(format!("invalid parameter {name:?}: cannot parse \"\" to a valid timestamp")));
        }
    }
    let (start, end) = (params.time("start", 0)?, params.time("end", 0)?);
    if end < start {
        return Err(Failure::BadData("invalid parameter \"end\": end timestamp must not be before start time".to_owned()));
    }
    let step = parse_duration(params.get("step")).map_err(|why| format!("invalid parameter \"step\": {why}"))?;
    if step <= 0 {
        let why = "zero or negative query resolution step widths are not accepted. Try a positive integer";
        return Err(Failure::BadData(format!("invalid parameter \"step\": {why}")));
    }
    if (end - start) / step > MAX_POINTS {
        let why = "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)";
        return Err(Failure::BadData(why.to_owned()));
    }
    let (timeout, lookback) = (params.timeout()?, params.lookback_delta()?);
    let mut answer = engine.query(params.get("query"), Times::Range { start, end, step }, timeout, lookback).await?;
    answer.warnings.extend(limited(&mut answer.value, limit));
    Ok(answered(&answer, params.get("stats")))
}

/// Nothing stores exemplars: the list is empty, the request is checked all the same.
async fn exemplars(params: &Params) -> Result<Reply, Failure> {
    let (start, end) = (params.time("start", MIN_TIME)?, params.time("end", MAX_TIME)?);
    if end < start {
        return Err(Failure::BadData("invalid parameter \"end\": end timestamp must not be before start timestamp".to_owned()));
    }
    read(params, "query", plan::parse).await?;
    Ok(Reply::success("[]"))
}

/// What is listed.
enum Listing {
    Names,
    Values(String),
    Series,
    Federate,
    Status,
}

struct ListingRequest {
    listing: Listing,
    selectors: Vec<Vec<Matcher>>,
    start: i64,
    end: i64,
    limit: usize,
}

impl ListingRequest {
    fn of(params: &Params, listing: Listing, now: i64) -> Result<Self, String> {
        let mut selectors = Vec::new();
        for text in params.all("match[]") {
            selectors.push(plan::parse_selector(text).map_err(|why| not_read("match[]", &why))?);
        }
        if selectors.is_empty() && matches!(listing, Listing::Series | Listing::Federate) {
            return Err("no match[] parameter provided".to_owned());
        }
        if matches!(&listing, Listing::Values(name) if name.is_empty()) {
            return Err("invalid label name: \"\"".to_owned());
        }
        let (start, end) = match listing {
            Listing::Federate => (now - LOOKBACK_MS + 1, now),
            _ => (params.time("start", MIN_TIME)?, params.time("end", MAX_TIME)?),
        };
        if end < start {
            return Err("invalid parameter \"end\": end timestamp must not be before start timestamp".to_owned());
        }
        let mut limit = params.limit()?;
        if matches!(listing, Listing::Status) && limit == 0 {
            limit = 10;
        }
        Ok(Self { listing, selectors, start, end, limit })
    }

    /// The series that any selector selects, each once.
    fn series(&self, db: &Tsdb) -> Vec<std::sync::Arc<Series>> {
        let mut found: BTreeMap<Labels, std::sync::Arc<Series>> = BTreeMap::new();
        for selector in &self.selectors {
            found.extend(db.select(selector, self.start, self.end).into_iter().map(|s| (s.labels().clone(), s)));
        }
        found.into_values().collect()
    }

    fn answer(&self, db: &Tsdb) -> Result<Reply, Failure> {
        let all_time = self.start == MIN_TIME && self.end == MAX_TIME;
        let names: Vec<Sym> = match &self.listing {
            Listing::Names if self.selectors.is_empty() && all_time => db.label_names(),
            Listing::Values(name) if self.selectors.is_empty() && all_time => db.label_values(name),
            Listing::Names | Listing::Values(_) => {
                let series = if self.selectors.is_empty() { db.select(&[], self.start, self.end) } else { self.series(db) };
                let mut names = BTreeSet::new();
                for one in &series {
                    match &self.listing {
                        Listing::Values(wanted) => {
                            names.extend(one.labels().iter().filter(|(n, _)| **n == **wanted).map(|(_, v)| v.clone()));
                        }
                        _ => names.extend(one.labels().iter().map(|(n, _)| n.clone())),
                    }
                }
                names.into_iter().collect()
            }
            Listing::Series => {
                let series = self.series(db);
                let list = json::list(series.iter().take(self.take()), |out, s| json::labels(out, s.labels()));
                return Ok(Reply::success_with(&list, &self.truncated(series.len()), &[]));
            }
            Listing::Federate => return Ok(self.federate(db)),
            Listing::Status => return Ok(Reply::success(status(db, self.limit).to_string())),
        };
        let list = json::list(names.iter().take(self.take()), |out, name| json::string(out, name));
        Ok(Reply::success_with(&list, &self.truncated(names.len()), &[]))
    }

    fn take(&self) -> usize {
        if self.limit == 0 { usize::MAX } else { self.limit }
    }

    fn truncated(&self, len: usize) -> Vec<String> {
        if len > self.take() { vec!["results truncated due to limit".to_owned()] } else { Vec::new() }
    }

    fn federate(&self, db: &Tsdb) -> Reply {
        let (mut text, mut family, mut samples) = (String::new(), String::new(), Vec::new());
        let mut found = self.series(db);
        // A family in one piece, whatever its labels sort like.
        found.sort_by(|a, b| a.labels().name().cmp(b.labels().name()));
        for series in found {
            samples.clear();
            series.read(self.start, self.end, &mut samples);
            let Some(last) = samples.last().filter(|s| !is_stale(s.v)) else { continue };
            let name = series.labels().name();
            if family != name {
                text.push_str(&format!("# TYPE {name} untyped\n"));
                name.clone_into(&mut family);
            }
            let mut shown = series_text(series.labels());
            // As upstream: whoever scrapes this must not take it for metrics of this server.
            if series.labels().get("instance").is_empty() {
                if shown.ends_with('}') {
                    shown.pop();
                    shown.push(',');
                } else {
                    shown.push('{');
                }
                shown.push_str("instance=\"\"}");
            }
            text.push_str(&format!("{shown} {} {}\n", json_float(last.v), last.t));
        }
        let content_type = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";
        Reply { status: StatusCode::OK, content_type, allow: None, body: text.into() }
    }
}

fn status(db: &Tsdb, limit: usize) -> Json {
    let stats = db.stats(limit);
    let pairs =
        |list: &[(Sym, usize)]| list.iter().map(|(name, value)| json!({"name": &**name, "value": value})).collect::<Vec<_>>();
    json!({
        "headStats": {
            "numSeries": stats.series,
            "numLabelPairs": stats.label_pairs,
            "chunkCount": stats.chunks,
            "minTime": stats.min_t,
            "maxTime": stats.max_t,
        },
        "seriesCountByMetricName": pairs(&stats.by_name),
        "labelValueCountByLabelName": pairs(&stats.values_by_label),
        "memoryInBytesByLabelName": pairs(&stats.bytes_by_label),
        "seriesCountByLabelValuePair": stats.by_pair.iter().map(|(n, v)| json!({"name": n, "value": v})).collect::<Vec<_>>(),
    })
}

fn metadata(shared: &Shared, params: &Params) -> Result<Reply, Failure> {
    let (limit, only) = (params.limit()?, params.get("metric"));
    let per_metric = match params.get("limit_per_metric") {
        "" => 0,
        text => text.parse::<usize>().map_err(|_| "limit_per_metric must be a number".to_owned())?,
    };
    let mut all: BTreeMap<String, BTreeSet<(String, String, String)>> = BTreeMap::new();
    for target in shared.targets.all() {
        for (name, m) in &target.state.lock().metadata {
            if only.is_empty() || only == name {
                let kind = if m.kind.is_empty() { "unknown" } else { kind(&m.kind) };
                all.entry(name.clone()).or_default().insert((kind.to_owned(), m.help.clone(), m.unit.clone()));
            }
        }
    }
    let take = |n: usize| if n == 0 { usize::MAX } else { n };
    let data: serde_json::Map<String, Json> = all
        .into_iter()
        .take(take(limit))
        .map(|(name, entries)| {
            let entries = entries.into_iter().take(take(per_metric));
            (name, entries.map(|(kind, help, unit)| json!({"type": kind, "help": help, "unit": unit})).collect())
        })
        .collect();
    Ok(Reply::success(Json::Object(data).to_string()))
}

fn kind(written: &str) -> &str {
    if written == "untyped" { "unknown" } else { written }
}

async fn targets_metadata(shared: &Shared, params: &Params) -> Result<Reply, Failure> {
    let limit = params.limit()?;
    let only = params.get("metric");
    let selector: Vec<Matcher> = match params.get("match_target") {
        "" => Vec::new(),
        _ => read(params, "match_target", plan::parse_selector).await?,
    };
    let mut list = Vec::new();
    for target in shared.targets.all() {
        if !Matcher::all_match(&selector, &target.spec.labels) {
            continue;
        }
        let state = target.state.lock();
        let mut families: Vec<_> = state.metadata.iter().filter(|(name, _)| only.is_empty() || only == *name).collect();
        families.sort_by(|a, b| a.0.cmp(b.0));
        for (name, m) in families {
            let mut entry =
                json!({"target": labels_json(&target.spec.labels), "type": kind(&m.kind), "help": m.help, "unit": m.unit});
            if only.is_empty() {
                entry["metric"] = json!(name);
            }
            list.push(entry);
        }
    }
    if limit > 0 {
        list.truncate(limit);
    }
    Ok(Reply::success(Json::Array(list).to_string()))
}

fn labels_json(labels: &Labels) -> Json {
    Json::Object(labels.iter().map(|(n, v)| (n.to_string(), json!(&**v))).collect())
}

fn targets(shared: &Shared, params: &Params) -> Result<Reply, Failure> {
    let state = params.get("state");
    if !matches!(state, "" | "any" | "active" | "dropped") {
        return Err(Failure::BadData(format!("invalid parameter \"state\": {state:?}")));
    }
    let pool = params.get("scrapePool");
    let active: Vec<Json> = match state {
        "dropped" => Vec::new(),
        _ => shared
            .targets
            .all()
            .iter()
            .filter(|t| pool.is_empty() || pool == t.spec.job)
            .map(|t| target_json(shared, t))
            .collect(),
    };
    let data = json!({"activeTargets": active, "droppedTargets": [], "droppedTargetCounts": {}});
    Ok(Reply::success(data.to_string()))
}

fn target_json(shared: &Shared, target: &Target) -> Json {
    let state = target.state.lock().clone();
    let last = state.at.and_then(|t| Timestamp::from_millisecond(t).ok());
    json!({
        "discoveredLabels": labels_json(&target.spec.discovered),
        "labels": labels_json(&target.spec.labels),
        "scrapePool": target.spec.job,
        "scrapeUrl": target.url(),
        "globalUrl": target.url(),
        "lastError": if state.health == Health::Down { state.error.as_str() } else { "" },
        "lastScrape": last.map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), |t| t.to_string()),
        "lastScrapeDuration": state.duration,
        "health": state.health.text(),
        "scrapeInterval": duration_text(shared.config.scrape_interval_seconds),
        "scrapeTimeout": duration_text(shared.config.scrape_timeout_seconds),
    })
}

fn duration_text(seconds: f64) -> String {
    let ms = (seconds * 1000.0).round() as i64;
    if ms % 1000 != 0 {
        return format!("{ms}ms");
    }
    let (mut left, mut text) = (ms / 1000, String::new());
    for (unit, size) in [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)] {
        if left >= size {
            text.push_str(&format!("{}{unit}", left / size));
            left %= size;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// The version is the one whose semantics are followed. No `features`: Grafana would take the server for Mimir.
fn build_info() -> Json {
    json!({
        "version": "3.14.0",
        "revision": concat!("pharos-", env!("CARGO_PKG_VERSION")),
        "branch": "",
        "buildUser": "",
        "buildDate": "",
        "goVersion": "",
    })
}

fn runtime_info(shared: &Shared, db: &Tsdb, now: i64) -> Json {
    let corruptions = shared.own.tsdb.corruptions.get();
    json!({
        "startTime": shared.started.to_string(),
        "CWD": std::env::current_dir().map(|d| d.display().to_string()).unwrap_or_default(),
        "hostname": shared.config.node_name,
        "serverTime": Timestamp::from_millisecond(now).map(|t| t.to_string()).unwrap_or_default(),
        "reloadConfigSuccess": true,
        "lastConfigTime": shared.started.to_string(),
        "corruptionCount": corruptions,
        // Live tasks are what comes closest.
        "goroutineCount": tokio::runtime::Handle::try_current().map_or(0, |h| h.metrics().num_alive_tasks()),
        "GOMAXPROCS": std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        "GOMEMLIMIT": 0,
        "GOGC": "",
        "GODEBUG": "",
        "storageRetention": retention(shared),
        "timeSeriesCount": db.stats(0).series,
    })
}

fn retention(shared: &Shared) -> String {
    let config = &shared.config;
    let mut parts = Vec::new();
    if config.retention_seconds > 0 {
        parts.push(duration_text(config.retention_seconds as f64));
    }
    if config.retention_bytes > 0 {
        parts.push(format!("{}B", config.retention_bytes));
    }
    parts.join(" or ")
}

fn config_yaml(shared: &Shared) -> String {
    format!(
        "global:\n  scrape_interval: {}\n  scrape_timeout: {}\n  sample_limit: {}\n  body_size_limit: {}B\n",
        duration_text(shared.config.scrape_interval_seconds),
        duration_text(shared.config.scrape_timeout_seconds),
        shared.config.sample_limit,
        shared.config.body_size_limit_bytes,
    )
}

fn flags(shared: &Shared) -> Json {
    let config = &shared.config;
    json!({
        "query.lookback-delta": duration_text(config.query_lookback_delta_seconds),
        "query.max-concurrency": config.query_max_concurrency.to_string(),
        "query.max-samples": config.query_max_samples.to_string(),
        "query.timeout": duration_text(config.query_timeout_seconds),
        "storage.tsdb.path": config.dir.display().to_string(),
        "storage.tsdb.retention.time": duration_text(config.retention_seconds as f64),
        "storage.tsdb.retention.size": format!("{}B", config.retention_bytes),
    })
}
