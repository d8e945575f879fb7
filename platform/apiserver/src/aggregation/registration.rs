//! APIServices of this server's own group versions, which say where each comes in the order of groups.
//!
//! Follows `pkg/controllers/autoregister/autoregister_controller.go` of kube-aggregator and
//! `pkg/controlplane/controller/crdregistration`: those of built-in groups are made when the server starts, those of custom
//! resources come and go with them. One without the label [`MANAGED`] is somebody else's, and left alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures::{StreamExt as _, stream};
use http::{Method, StatusCode};
use pharos_api::discovery;
use pharos_store::{Cache, Scope, Start};
use pharos_telemetry::Ctx;
use serde_json::{Value, json};

use super::{GROUP, RESOURCE, availability};
use crate::{Result, api::Api, bootstrap};

/// Says that the server looks after an APIService, and when.
const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
const ON_START: &str = "onstart";
const ALWAYS: &str = "true";

const PATH: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
/// How many are written at once.
const PARALLEL: usize = 32;
/// After a failure it is tried again, less and less often.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What is to be done about an APIService.
#[derive(Debug, PartialEq)]
enum Step {
    Create(Value),
    Update(Value),
    Delete(Value),
}

/// Makes those of built-in groups what they are to be, which is done once.
pub(crate) async fn at_start(api: &Api) -> Result<()> {
    match availability::cache(api, GROUP, RESOURCE) {
        Some(definitions) => settle(api, &definitions, true).await,
        None => Ok(()),
    }
}

/// Keeps those of custom resources so.
pub(super) async fn follow(api: Api, ctx: Ctx) {
    let Some(definitions) = availability::cache(&api, GROUP, RESOURCE) else { return };
    let mut pause = SHORTEST_PAUSE;
    while !ctx.is_stopped() {
        let Ok(mut changes) = definitions.subscribe(Scope::All, Start::Now) else { return };
        loop {
            let again = match settle(&api, &definitions, false).await {
                Ok(()) => {
                    pause = SHORTEST_PAUSE;
                    None
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "api services of custom resources not written");
                    let now = pause;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    Some(now)
                }
            };
            let rest = async {
                match again {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = ctx.stopped() => return,
                () = api.0.resources.changed() => {}
                item = changes.next() => match item {
                    Ok(_) => while let Ok(Some(_)) = changes.try_next() {},
                    Err(pharos_store::Error::Closed) => return,
                    Err(_) => break, // Fell behind: start over from the whole state.
                },
                () = rest => {}
            }
        }
    }
}

async fn settle(api: &Api, definitions: &Cache, at_start: bool) -> Result<()> {
    let wanted = wanted(api);
    let name = |object: &Value| object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let found: BTreeMap<String, Value> =
        availability::objects(definitions).into_iter().map(|object| (name(&object), object)).collect();
    let names: BTreeSet<&String> = wanted.keys().chain(found.keys()).collect();
    let mut steps = Vec::new();
    for name in names {
        if let Some(step) = step(wanted.get(name), found.get(name), at_start) {
            steps.push(take(api, name.clone(), step));
        }
    }
    let mut outcomes = stream::iter(steps).buffer_unordered(PARALLEL);
    while let Some(outcome) = outcomes.next().await {
        outcome?;
    }
    Ok(())
}

/// The APIServices there are to be, by name. Group versions that are mounted have none: who installs another server for one
/// (a metrics server) brings its APIService along.
fn wanted(api: &Api) -> BTreeMap<String, Value> {
    let registry = api.0.resources.registry();
    let mut all = BTreeMap::new();
    for kind in registry.kinds() {
        let name = format!("{}.{}", kind.version, kind.group);
        let (priority, managed) = if kind.custom {
            (Some(discovery::CUSTOM_PRIORITY), ALWAYS)
        } else {
            (discovery::priority(&kind.group, &kind.version), ON_START)
        };
        let Some((group_priority, version_priority)) = priority else { continue };
        all.entry(name).or_insert_with_key(|name| {
            json!({
                "apiVersion": "apiregistration.k8s.io/v1",
                "kind": "APIService",
                "metadata": {"name": name, "labels": {MANAGED: managed}},
                "spec": {
                    "group": kind.group,
                    "version": kind.version,
                    "groupPriorityMinimum": group_priority,
                    "versionPriority": version_priority,
                },
            })
        });
    }
    all
}

fn managed(object: &Value) -> Option<&str> {
    object["metadata"]["labels"][MANAGED].as_str()
}

fn step(wanted: Option<&Value>, found: Option<&Value>, at_start: bool) -> Option<Step> {
    let is_due = |object: &Value| match managed(object) {
        Some(ON_START) => at_start,
        Some(_) => true,
        None => false,
    };
    match (wanted, found) {
        (Some(wanted), None) => is_due(wanted).then(|| Step::Create(wanted.clone())),
        (_, Some(found)) if !is_due(found) => None,
        (None, Some(found)) => Some(Step::Delete(found.clone())),
        (Some(wanted), Some(found)) if is_same(wanted, found) => None,
        (Some(wanted), Some(found)) => {
            let mut object = found.clone();
            object["spec"] = wanted["spec"].clone();
            object["metadata"]["labels"][MANAGED] = wanted["metadata"]["labels"][MANAGED].clone();
            Some(Step::Update(object))
        }
        (None, None) => None,
    }
}

fn is_same(wanted: &Value, found: &Value) -> bool {
    let text = |object: &Value, field: &str| object["spec"][field].as_str().unwrap_or_default().to_owned();
    managed(wanted) == managed(found)
        && found["spec"]["service"].is_null()
        && ["group", "version"].iter().all(|field| text(wanted, field) == text(found, field))
        && ["groupPriorityMinimum", "versionPriority"].iter().all(|field| wanted["spec"][*field] == found["spec"][*field])
}

async fn take(api: &Api, name: String, step: Step) -> Result<()> {
    let path = format!("{PATH}/{name}");
    let (method, path, body) = match step {
        Step::Create(object) => (Method::POST, PATH.to_owned(), object),
        Step::Update(object) => (Method::PUT, path, object),
        Step::Delete(found) => (Method::DELETE, path, json!({"preconditions": {"uid": found["metadata"]["uid"]}})),
    };
    let (code, value) = bootstrap::call(api, &bootstrap::myself(), method, &path, "application/json", Some(&body)).await?;
    // What is there already, has changed or is gone, is seen as a change.
    let is_late = matches!(code, StatusCode::NOT_FOUND | StatusCode::CONFLICT);
    if code.is_success() || is_late { Ok(()) } else { Err(bootstrap::failed(&path, &value)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(label: Option<&str>, priority: i64) -> Value {
        json!({
            "metadata": {"name": "v1.g", "labels": {MANAGED: label}},
            "spec": {"group": "g", "version": "v1", "groupPriorityMinimum": priority, "versionPriority": 1},
        })
    }

    #[test]
    fn steps_are_those_of_the_table_upstream() {
        let made = |label, priority| Some(object(label, priority));
        let (start, always) = (Some(ON_START), Some(ALWAYS));
        // Wanted, found, and what is done at the start and later.
        for (wanted, found, first, later) in [
            (None, None, "", ""),
            (None, made(None, 1), "", ""),
            (None, made(start, 1), "delete", ""),
            (None, made(always, 1), "delete", "delete"),
            (made(start, 1), None, "create", ""),
            (made(start, 1), made(None, 2), "", ""),
            (made(start, 1), made(start, 1), "", ""),
            (made(start, 1), made(start, 2), "update", ""),
            (made(start, 1), made(always, 1), "update", "update"),
            (made(always, 1), None, "create", "create"),
            (made(always, 1), made(None, 2), "", ""),
            (made(always, 1), made(start, 1), "update", ""),
            (made(always, 1), made(always, 1), "", ""),
            (made(always, 1), made(always, 2), "update", "update"),
        ] {
            for (at_start, want) in [(true, first), (false, later)] {
                let step = step(wanted.as_ref(), found.as_ref(), at_start);
                let got = match &step {
                    None => "",
                    Some(Step::Create(_)) => "create",
                    Some(Step::Update(object)) => {
                        assert!(is_same(wanted.as_ref().unwrap(), object));
                        "update"
                    }
                    Some(Step::Delete(_)) => "delete",
                };
                assert_eq!(got, want, "{wanted:?} {found:?} {at_start}");
            }
        }
    }
}
