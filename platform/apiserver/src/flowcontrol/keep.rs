//! Follows the objects of API priority and fairness: takes on what they say, keeps those that every cluster has, and tells
//! FlowSchemas whether their level is there.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt as _, stream};
use http::{HeaderValue, Method};
use parking_lot::Mutex;
use pharos_store::{Cache, Item, Scope, Start, Subscription};
use pharos_telemetry::{Backoff, Ctx};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{bootstrap, levels::Spec, schema};
use crate::{Result, api::Api, bootstrap as objects};

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const SCHEMAS: &str = "flowschemas";
const LEVELS: &str = "prioritylevelconfigurations";
/// Whose changes these are (`ConfigConsumerAsFieldManager` and `fieldManager` of the ensurer).
const CONSUMER: &str = "api-priority-and-fairness-config-consumer-v1";
const PRODUCER: &str = "api-priority-and-fairness-config-producer-v1";

/// How many objects are written at once.
const PARALLEL: usize = 32;

/// At most so many writes of one schema's condition in a minute, lest two servers quarrel (`shouldDelayUpdate`).
const MAX_WRITES: usize = 6;
const MINUTE: Duration = Duration::from_secs(60);

/// When conditions were written, by schema.
#[derive(Default)]
pub(super) struct Writes(Mutex<HashMap<String, VecDeque<Instant>>>);

impl Writes {
    /// Whether another write may be made, which is then counted.
    fn may(&self, name: &str, now: Instant) -> bool {
        let mut writes = self.0.lock();
        let of_schema = writes.entry(name.to_owned()).or_default();
        while of_schema.front().is_some_and(|at| now.duration_since(*at) > MINUTE) {
            of_schema.pop_front();
        }
        let may = of_schema.len() < MAX_WRITES;
        if may {
            of_schema.push_back(now);
        }
        may
    }

    /// Forgets schemas that are no more.
    fn retain(&self, objects: &[Value]) {
        self.0.lock().retain(|name, _| objects.iter().any(|object| object["metadata"]["name"] == **name));
    }
}

fn cache(api: &Api, resource: &str) -> Option<Arc<Cache>> {
    let kind = api.0.resources.lookup(GROUP, "v1", resource)?;
    api.0.storage.cache(&kind).ok()
}

fn stored(api: &Api, resource: &str) -> Vec<Value> {
    let Some(cache) = cache(api, resource) else { return Vec::new() };
    let snapshot = cache.snapshot();
    let objects = snapshot.iter(&Scope::All, None);
    objects.filter_map(|(_, object)| serde_json::from_slice(object.bytes()).ok()).collect()
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// The stored objects, as they were taken on.
pub(crate) struct Loaded {
    levels: Vec<Value>,
    schemas: Vec<Value>,
}

/// Takes on what the stored objects say.
pub(crate) fn load(api: &Api) -> Loaded {
    let (levels, schemas) = (stored(api, LEVELS), stored(api, SCHEMAS));
    let uids: HashMap<&str, HeaderValue> = levels.iter().map(|level| (name(level), schema::uid(level))).collect();
    let mut specs = BTreeMap::new();
    for level in &levels {
        match Spec::parse(name(level), &level["spec"]) {
            Some(spec) => drop(specs.insert(name(level).to_owned(), spec)),
            None => tracing::warn!(name = name(level), "priority level is passed over: its spec is broken"),
        }
    }
    let flow_control = &api.0.flowcontrol;
    let found = flow_control.levels.digest(specs);
    let level = |name: &str| {
        let uid = uids.get(name).cloned().unwrap_or(HeaderValue::from_static(""));
        found.get(name).map(|level| (level.clone(), uid))
    };
    flow_control.table.store(Arc::new(schema::Table::new(&schemas, level)));
    Loaded { levels, schemas }
}

/// Makes the objects every cluster has, puts right those that are to follow this program, takes on what all say, and tells
/// schemas what became of them. Whether something is left for later.
///
/// # Errors
///
/// [`crate::Error::Bootstrap`] if an object could not be written.
pub(crate) async fn maintain(api: &Api) -> Result<bool> {
    // Levels first, so that no schema is told in between that its level is not there.
    keep(api, LEVELS, bootstrap::levels()).await?;
    keep(api, SCHEMAS, bootstrap::schemas()).await?;
    tell(api, &load(api)).await
}

async fn keep(api: &Api, resource: &str, wanted: Vec<Value>) -> Result<()> {
    let found = stored(api, resource);
    let collection = format!("/apis/{GROUP}/v1/{resource}");
    let object = |name: &str| format!("{collection}/{name}");
    let by = |path: &str| format!("{path}?fieldManager={PRODUCER}");
    let mut writes = Vec::new();
    for wanted in &wanted {
        match found.iter().find(|object| name(object) == name(wanted)) {
            None => writes.push((Method::POST, by(&collection), wanted.clone())),
            // The revision makes sure that nobody's change is lost: then it is looked at again.
            Some(current) => {
                let revised = bootstrap::revised(current, wanted);
                writes.extend(revised.map(|revised| (Method::PUT, by(&object(name(wanted))), revised)));
            }
        }
    }
    let unwanted = found.iter().filter(|object| bootstrap::is_unwanted(object, &wanted));
    writes.extend(unwanted.map(|found| (Method::DELETE, object(name(found)), Value::Null)));
    let mut writes = stream::iter(writes)
        .map(|(method, path, body)| async move { write(api, method, &path, "application/json", &body).await })
        .buffer_unordered(PARALLEL);
    while let Some(outcome) = writes.next().await {
        outcome?;
    }
    Ok(())
}

/// Writes an object. Somebody who was faster has caused an event, upon which it is looked at again.
async fn write(api: &Api, method: Method, path: &str, content_type: &str, body: &Value) -> Result<()> {
    let body = Some(body).filter(|body| !body.is_null());
    let (code, value) = objects::call(api, &objects::myself(), method, path, content_type, body).await?;
    if code.is_success() || matches!(value["reason"].as_str(), Some("Conflict" | "AlreadyExists" | "NotFound")) {
        return Ok(());
    }
    Err(objects::failed(path, &value))
}

/// Writes the condition `Dangling` where it is not what it should be, of schemas that count already. Whether any was put off.
async fn tell(api: &Api, Loaded { levels, schemas }: &Loaded) -> Result<bool> {
    let flow_control = &api.0.flowcontrol;
    flow_control.writes.retain(schemas);
    let sound: Vec<&str> = levels.iter().filter(|level| Spec::parse(name(level), &level["spec"]).is_some()).map(name).collect();
    let now = pharos_api::time::format(api.0.clock.now());
    let stale: Vec<(String, Value)> = schemas
        .iter()
        .filter_map(|schema| {
            let level = schema["spec"]["priorityLevelConfiguration"]["name"].as_str().unwrap_or_default();
            let wanted = dangling(level, sound.contains(&level));
            is_stale(schema, &wanted).then(|| (name(schema).to_owned(), wanted))
        })
        .collect();
    let (due, late): (Vec<_>, Vec<_>) = stale.into_iter().partition(|(name, _)| flow_control.writes.may(name, Instant::now()));
    let mut writes = stream::iter(due)
        .map(|(name, mut condition)| {
            condition["lastTransitionTime"] = json!(now);
            async move {
                let path = format!("/apis/{GROUP}/v1/{SCHEMAS}/{name}/status?fieldManager={CONSUMER}&force=true");
                let body = json!({
                    "apiVersion": format!("{GROUP}/v1"), "kind": "FlowSchema", "metadata": {"name": name},
                    "status": {"conditions": [condition]},
                });
                write(api, Method::PATCH, &path, "application/apply-patch+yaml", &body).await
            }
        })
        .buffer_unordered(PARALLEL);
    while let Some(outcome) = writes.next().await {
        outcome?;
    }
    Ok(!late.is_empty())
}

/// The condition of a schema of this level, but for its time.
fn dangling(level: &str, is_there: bool) -> Value {
    let (status, reason, end) =
        if is_there { ("False", "Found", "it exists") } else { ("True", "NotFound", "there is no such object") };
    let conjunction = if is_there { "and" } else { "but" };
    json!({
        "type": "Dangling", "status": status, "reason": reason,
        "message": format!(
            "This FlowSchema references the PriorityLevelConfiguration object named \"{level}\" {conjunction} {end}"),
    })
}

fn is_stale(schema: &Value, wanted: &Value) -> bool {
    let conditions = schema["status"]["conditions"].as_array().into_iter().flatten();
    let mut found = conditions.filter(|condition| condition["type"] == "Dangling");
    found.next().is_none_or(|found| ["status", "reason", "message"].iter().any(|field| found[field] != wanted[field]))
}

/// Starts the tasks that follow the objects, give seats back and divide them anew.
pub(crate) fn start(api: &Api, ctx: &Ctx) {
    ctx.spawn("flow control objects", follow(api.clone(), ctx.clone()));
    ctx.spawn("flow control seats", give_back(api.clone(), ctx.clone()));
    ctx.spawn("flow control demand", adjust(api.clone(), ctx.clone()));
}

async fn follow(api: Api, ctx: Ctx) {
    let mut backoff = Backoff::new(Duration::from_millis(200), MINUTE);
    while !ctx.is_stopped() {
        let subscribe = |resource| cache(&api, resource)?.subscribe(Scope::All, Start::Now).ok();
        let Some((mut schemas, mut levels)) = subscribe(SCHEMAS).zip(subscribe(LEVELS)) else { return };
        loop {
            let retry = match maintain(&api).await {
                Ok(false) => {
                    backoff.reset();
                    None
                }
                // A condition was put off: upstream looks again after this long, too.
                Ok(true) => Some(MINUTE),
                Err(error) => {
                    // What could not be written does not keep the rest from counting.
                    let _ = load(&api);
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "objects of API priority and fairness are not as they should be");
                    Some(backoff.next_wait())
                }
            };
            let retry = async {
                match retry {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            let event = tokio::select! {
                () = ctx.stopped() => return,
                event = schemas.next() => event,
                event = levels.next() => event,
                () = api.0.flowcontrol.signals.drained.notified() => continue,
                () = retry => continue,
            };
            match event.and_then(|_| drain(&mut schemas)).and_then(|()| drain(&mut levels)) {
                Ok(()) => {}
                Err(pharos_store::Error::Closed) => return,
                Err(_) => break, // Fell behind: start over.
            }
        }
    }
}

/// What came together is looked at once.
fn drain(subscription: &mut Subscription) -> pharos_store::Result<()> {
    while let Some(Item::Event(_) | Item::Synced(_)) = subscription.try_next()? {}
    Ok(())
}

/// Gives seats back that requests hold on after they have ended.
async fn give_back(api: Api, ctx: Ctx) {
    let flow_control = &api.0.flowcontrol;
    loop {
        let next = flow_control.levels.all().iter().filter_map(|level| level.tick()).min();
        let due = async {
            match next {
                Some(next) => tokio::time::sleep_until(next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = ctx.stopped() => return,
            () = flow_control.signals.lingering.notified() => {}
            () = due => {}
        }
    }
}

/// Divides seats anew as long as anybody wants any. Past demand fades by the time that went by, so that nothing is lost
/// by sleeping.
async fn adjust(api: Api, ctx: Ctx) {
    let flow_control = &api.0.flowcontrol;
    loop {
        tokio::select! {
            () = ctx.stopped() => return,
            () = flow_control.signals.demand.notified() => {}
        }
        flow_control.levels.adjust();
        loop {
            tokio::select! {
                () = ctx.stopped() => return,
                () = tokio::time::sleep(super::levels::ADJUSTMENT_PERIOD) => {}
            }
            if !flow_control.levels.adjust() && flow_control.falls_asleep() {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_have_upstreams_words() {
        let there = dangling("l", true);
        assert_eq!(
            there["message"],
            "This FlowSchema references the PriorityLevelConfiguration object named \"l\" and it exists"
        );
        let gone = dangling("l", false);
        assert_eq!(
            gone["message"],
            "This FlowSchema references the PriorityLevelConfiguration object named \"l\" but there is no such object"
        );
        let schema = |conditions: Value| json!({"status": {"conditions": conditions}});
        for (have, want, is_stale) in [
            (json!([]), &there, true),
            (json!([there]), &there, false),
            (json!([there]), &gone, true),
            (json!([{"type": "Other"}, gone]), &gone, false),
        ] {
            assert_eq!(super::is_stale(&schema(have.clone()), want), is_stale, "{have} {want}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn conditions_are_not_fought_over() {
        let writes = Writes::default();
        let may = |name: &str| writes.may(name, Instant::now());
        assert!((0..MAX_WRITES).all(|_| may("a")));
        assert!(!may("a") && may("b"));
        tokio::time::advance(MINUTE + Duration::from_secs(1)).await;
        assert!(may("a"));
        writes.retain(&[json!({"metadata": {"name": "b"}})]);
        assert_eq!(writes.0.lock().keys().collect::<Vec<_>>(), ["b"]);
    }
}
