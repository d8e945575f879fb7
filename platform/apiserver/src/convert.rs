//! Versions: objects are stored in one version of their kind and served in several.
//!
//! Most versions of a built-in kind that are still served have the same fields, so conversion is a change of name. The
//! exceptions are here. Custom kinds are converted as their definitions say, and what is stored may be of any version that
//! was the storage version once.

use pharos_api::registry::Kind;
use serde_json::{Map, Value, json};

use crate::{api::Api, custom, status::Status};

/// Whether stored bytes are what a client of this version reads.
pub(crate) fn is_served_as_stored(kind: &Kind) -> bool {
    is_stored_version(kind) && !kind.strategy.defaults_on_read
}

/// Whether this is the version objects are stored in.
pub(crate) fn is_stored_version(kind: &Kind) -> bool {
    kind.group == kind.storage.api_group && kind.version == kind.storage.version
}

/// Whether these stored bytes are what a client of this version reads.
pub(crate) fn are_served(kind: &Kind, bytes: &[u8]) -> bool {
    if !kind.custom || kind.strategy.defaults_on_read {
        return is_served_as_stored(kind);
    }
    // Maps are written in the order of their keys; where that does not hold, the object is parsed, and no harm done.
    let parts = [b"{\"apiVersion\":\"", kind.group.as_bytes(), b"/", kind.version.as_bytes(), b"\","];
    parts.into_iter().try_fold(bytes, |rest, part| rest.strip_prefix(part)).is_some()
}

/// Turns a stored object into one of the version asked for.
pub(crate) async fn from_storage(api: &Api, kind: &Kind, object: Value) -> Result<Value, Status> {
    one(all_from_storage(api, kind, vec![object]).await?)
}

/// Turns stored objects into ones of the version asked for.
pub(crate) async fn all_from_storage(api: &Api, kind: &Kind, objects: Vec<Value>) -> Result<Vec<Value>, Status> {
    if kind.custom {
        let mut objects = custom::convert(api, kind, &kind.api_version(), objects).await?;
        if kind.strategy.defaults_on_read {
            objects.iter_mut().for_each(|object| pharos_api::defaulting::apply(kind, object));
        }
        return Ok(objects);
    }
    Ok(objects.into_iter().map(|object| builtin_from_storage(kind, object)).collect())
}

/// Turns an object of the version asked for into one to store.
pub(crate) async fn to_storage(api: &Api, kind: &Kind, object: Value) -> Result<Value, Status> {
    if kind.custom {
        return one(custom::convert(api, kind, &kind.storage_api_version(), vec![object]).await?);
    }
    Ok(builtin_to_storage(kind, object))
}

/// Turns an object of one version of a resource into one of another.
pub(crate) async fn between(api: &Api, from: &Kind, to: &Kind, object: Value) -> Result<Value, Status> {
    if from.group == to.group && from.version == to.version {
        return Ok(object);
    }
    if to.custom {
        return one(custom::convert(api, to, &to.api_version(), vec![object]).await?);
    }
    Ok(builtin_from_storage(to, builtin_to_storage(from, object)))
}

fn one(mut objects: Vec<Value>) -> Result<Value, Status> {
    objects.pop().ok_or_else(|| crate::status::internal("nothing was converted"))
}

fn builtin_from_storage(kind: &Kind, mut object: Value) -> Value {
    if is_stored_version(kind) {
        return object;
    }
    match (kind.plural.as_ref(), kind.storage.api_group.as_ref(), kind.group.as_ref()) {
        ("events", "", "events.k8s.io") => core_event_to_new(&mut object),
        ("events", "events.k8s.io", "") => new_event_to_core(&mut object),
        ("horizontalpodautoscalers", ..) => autoscaler(&mut object, &kind.version),
        _ => {}
    }
    object["apiVersion"] = json!(kind.api_version());
    object
}

fn builtin_to_storage(kind: &Kind, mut object: Value) -> Value {
    if is_stored_version(kind) {
        return object;
    }
    match (kind.plural.as_ref(), kind.storage.api_group.as_ref(), kind.group.as_ref()) {
        ("events", "", "events.k8s.io") => new_event_to_core(&mut object),
        ("events", "events.k8s.io", "") => core_event_to_new(&mut object),
        ("horizontalpodautoscalers", ..) => autoscaler(&mut object, &kind.storage.version),
        _ => {}
    }
    object["apiVersion"] = json!(kind.storage_api_version());
    object
}

fn rename(object: &mut Map<String, Value>, from: &str, to: &str) {
    if let Some(value) = object.remove(from) {
        object.insert(to.to_owned(), value);
    }
}

/// `pkg/apis/events/v1/conversion.go`.
const EVENT_FIELDS: [(&str, &str); 6] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

fn core_event_to_new(object: &mut Value) {
    let Some(object) = object.as_object_mut() else { return };
    EVENT_FIELDS.iter().for_each(|(core, new)| rename(object, core, new));
    rename(object, "reportingComponent", "reportingController");
}

fn new_event_to_core(object: &mut Value) {
    let Some(object) = object.as_object_mut() else { return };
    EVENT_FIELDS.iter().for_each(|(core, new)| rename(object, new, core));
    rename(object, "reportingController", "reportingComponent");
}

/// autoscaling/v1 knows one CPU target and keeps the rest in annotations (`pkg/apis/autoscaling/v1/conversion.go`).
fn autoscaler(object: &mut Value, version: &str) {
    let cpu = |metric: &Value| metric["type"] == "Resource" && metric["resource"]["name"] == "cpu";
    if version == "v1" {
        let metrics = object["spec"]["metrics"].take();
        let mut others = Vec::new();
        for metric in metrics.as_array().into_iter().flatten() {
            match metric["resource"]["target"]["averageUtilization"].as_i64() {
                Some(target) if cpu(metric) => object["spec"]["targetCPUUtilizationPercentage"] = json!(target),
                _ => others.push(metric.clone()),
            }
        }
        let behavior = object["spec"]["behavior"].take();
        for (annotation, value) in [("metrics", json!(others)), ("behavior", behavior)] {
            let empty = value.is_null() || value.as_array().is_some_and(Vec::is_empty);
            if !empty {
                object["metadata"]["annotations"][format!("autoscaling.alpha.kubernetes.io/{annotation}")] =
                    json!(value.to_string());
            }
        }
        if let Some(spec) = object["spec"].as_object_mut() {
            spec.remove("metrics");
            spec.remove("behavior");
        }
        let current = object["status"]["currentMetrics"].take();
        for metric in current.as_array().into_iter().flatten().filter(|metric| cpu(metric)) {
            object["status"]["currentCPUUtilizationPercentage"] = metric["resource"]["current"]["averageUtilization"].clone();
        }
        let conditions = object["status"]["conditions"].take();
        if conditions.as_array().is_some_and(|conditions| !conditions.is_empty()) {
            object["metadata"]["annotations"]["autoscaling.alpha.kubernetes.io/conditions"] = json!(conditions.to_string());
        }
        if let Some(status) = object["status"].as_object_mut() {
            status.retain(|_, value| !value.is_null());
        }
        return;
    }
    let mut metrics = Vec::new();
    if let Some(target) = object["spec"]["targetCPUUtilizationPercentage"].as_i64() {
        metrics.push(json!({"type": "Resource", "resource": {
            "name": "cpu", "target": {"type": "Utilization", "averageUtilization": target}}}));
    }
    let mut stashed = |name: &str| {
        let annotations = object["metadata"]["annotations"].as_object_mut()?;
        let text = annotations.remove(&format!("autoscaling.alpha.kubernetes.io/{name}"))?;
        serde_json::from_str::<Value>(text.as_str()?).ok()
    };
    if let Some(Value::Array(others)) = stashed("metrics") {
        metrics.extend(others);
    }
    let behavior = stashed("behavior");
    if let Some(spec) = object["spec"].as_object_mut() {
        spec.remove("targetCPUUtilizationPercentage");
        if !metrics.is_empty() {
            spec.insert("metrics".into(), json!(metrics));
        }
        if let Some(behavior) = behavior {
            spec.insert("behavior".into(), behavior);
        }
    }
    if let Some(status) = object["status"].as_object_mut()
        && let Some(current) = status.remove("currentCPUUtilizationPercentage")
    {
        status.insert(
            "currentMetrics".into(),
            json!([{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": current}}}]),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_back() {
        let core = json!({"involvedObject": {"name": "a"}, "message": "m", "reportingComponent": "c", "count": 2});
        let mut event = core.clone();
        core_event_to_new(&mut event);
        assert_eq!(event["note"], "m");
        new_event_to_core(&mut event);
        assert_eq!(event, core);
    }

    #[test]
    fn autoscalers_come_back() {
        let v1 = json!({"metadata": {}, "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 50}});
        let mut object = v1.clone();
        autoscaler(&mut object, "v2");
        assert_eq!(object["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 50);
        autoscaler(&mut object, "v1");
        assert_eq!(object["spec"], v1["spec"]);
    }
}
