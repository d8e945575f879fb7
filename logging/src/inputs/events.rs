use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Event;
use kube::{
    Api,
    runtime::watcher::{self, watcher},
};
use pharos_telemetry::{Backoff, Ctx};

use crate::{
    entry::{Entry, Labels, Stream},
    index::{Batch, Index},
    metrics::Source,
};

/// Events that are remembered, so that a new list does not tell them again.
const REMEMBERED: usize = 8192;

/// Stores each Kubernetes event, and each update of one, as a line.
///
/// After a restart the first list tells the events of the last hour again; those that are in the index already are left out.
pub(crate) async fn events(index: Arc<Index>, client: kube::Client, ctx: Ctx) {
    let (known, now) = (index.clone(), ctx.clock().now());
    // Fails only when the runtime is going down.
    let Ok(mut told) = tokio::task::spawn_blocking(move || Told::of(&known, now)).await else { return };
    let config = watcher::Config::default().any_semantic();
    let mut stream = Box::pin(watcher(Api::<Event>::all(client), config));
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
    loop {
        let event = tokio::select! {
            () = ctx.stopped() => return,
            event = stream.next() => event,
        };
        match event {
            Some(Ok(watcher::Event::Apply(event) | watcher::Event::InitApply(event))) => {
                backoff.reset();
                if told.is_new(&event) {
                    let entries = vec![entry(&event)];
                    index.append(Source::Event, Batch { entries, positions: Vec::new() }).await;
                }
            }
            Some(Ok(_)) => backoff.reset(),
            Some(Err(error)) => {
                tracing::warn!(error = %error, attempt = backoff.attempt(), "events could not be watched");
                tokio::select! {
                    () = ctx.stopped() => return,
                    () = tokio::time::sleep(backoff.next_wait()) => {}
                }
            }
            None => return,
        }
    }
}

/// How often each event was told to have happened, by UID.
struct Told(HashMap<String, i32>);

impl Told {
    /// From what the index holds of the last two hours: events live for one.
    fn of(index: &Index, now: jiff::Timestamp) -> Self {
        use crate::{
            engine::{LogQuery, logs},
            logql::{Expr, parse},
            scan::Limits,
        };
        let mut told = HashMap::new();
        let Ok(Expr::Log(expr)) = parse(r#"{job="kubernetes-events"} | logfmt"#) else { return Self(told) };
        let end = i64::try_from(now.as_nanosecond()).unwrap_or(i64::MAX);
        let start = end.saturating_sub(7_200_000_000_000);
        let query = LogQuery { expr: &expr, start, end: i64::MAX, limit: REMEMBERED, backward: true, interval: 0 };
        let limits = Limits { deadline: tokio::time::Instant::now() + Duration::from_secs(10), abandoned: Arc::default() };
        for line in logs(index, &query, &limits).map(|(found, _)| found).unwrap_or_default() {
            if let Some(uid) = line.parsed.get("uid") {
                let count = line.parsed.get("count").and_then(|count| count.parse().ok()).unwrap_or(1);
                let known = told.entry(uid.to_owned()).or_insert(count);
                *known = (*known).max(count);
            }
        }
        Self(told)
    }

    fn is_new(&mut self, event: &Event) -> bool {
        let Some(uid) = event.metadata.uid.clone() else { return true };
        let count = count(event);
        if self.0.get(&uid).is_some_and(|told| *told >= count) {
            return false;
        }
        if self.0.len() >= REMEMBERED {
            self.0.clear(); // Rather told twice than remembered without end.
        }
        self.0.insert(uid, count);
        true
    }
}

fn count(event: &Event) -> i32 {
    event.series.as_ref().and_then(|series| series.count).or(event.count).unwrap_or(1)
}

fn entry(event: &Event) -> Entry {
    let object = &event.involved_object;
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let labels = Labels::new([
        ("job", "kubernetes-events".to_owned()),
        ("service_name", "kubernetes-events".to_owned()),
        ("namespace", event.metadata.namespace.clone().unwrap_or_default()),
        ("kind", text(&object.kind)),
        ("name", text(&object.name)),
        ("reason", text(&event.reason)),
        ("type", text(&event.type_)),
    ]);
    let time = event
        .series
        .as_ref()
        .and_then(|series| series.last_observed_time.as_ref())
        .or(event.event_time.as_ref())
        .map(|time| time.0)
        .or(event.last_timestamp.as_ref().or(event.metadata.creation_timestamp.as_ref()).map(|time| time.0))
        .map_or(0, |time| i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX));
    let source = event.source.as_ref().and_then(|source| source.component.clone()).or_else(|| event.reporting_component.clone());
    let host = event.source.as_ref().and_then(|source| source.host.clone());
    let mut line = String::new();
    let fields = [
        ("level", if event.type_.as_deref() == Some("Warning") { "warn".to_owned() } else { "info".to_owned() }),
        ("msg", text(&event.message)),
        ("reason", text(&event.reason)),
        ("kind", text(&object.kind)),
        ("namespace", text(&object.namespace)),
        ("name", text(&object.name)),
        ("fieldpath", text(&object.field_path)),
        ("count", count(event).to_string()),
        ("source", source.unwrap_or_default()),
        ("host", host.unwrap_or_default()),
        ("uid", event.metadata.uid.clone().unwrap_or_default()),
    ];
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_empty()) {
        let plain = value.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'=');
        let value = if plain { value.clone() } else { format!("{value:?}") };
        let space = if line.is_empty() { "" } else { " " };
        line.push_str(&format!("{space}{name}={value}"));
    }
    Entry::new(time, &Stream::new(labels), &line, Vec::new())
}
