//! `scale`: the number of replicas of anything that has one, as `autoscaling/v1` Scale.

use http::StatusCode;
use pharos_api::{patch::PatchType, validation::ErrorType};
use pharos_transport::Response;
use serde_json::{Value, json};

use super::options;
use crate::{
    admission::{self, Attributes, Operation, Options},
    body,
    call::Call,
    convert, managed_fields,
    negotiate::{Offer, Output, Shape},
    options::WriteOptions,
    patches::Patch,
    respond,
    status::{self, Status},
    storage,
    verbs::{
        create::Written,
        object_meta,
        update::{self, Change, Manage, Part},
    },
};

const API_VERSION: &str = "autoscaling/v1";

/// Where an object keeps its replicas and selector.
struct Paths {
    spec: Vec<String>,
    status: Vec<String>,
    selector: Option<Vec<String>>,
}

fn paths(call: &Call) -> Paths {
    let split = |path: &str| path.trim_start_matches('.').split('.').map(str::to_owned).collect::<Vec<_>>();
    if let Some(custom) = crate::custom::scale_paths(&call.api, &call.kind) {
        return Paths {
            spec: split(&custom.spec_replicas),
            status: split(&custom.status_replicas),
            selector: custom.label_selector.as_deref().map(split),
        };
    }
    Paths { spec: split("spec.replicas"), status: split("status.replicas"), selector: None }
}

fn at<'a>(object: &'a Value, path: &[String]) -> &'a Value {
    path.iter().fold(object, |value, step| &value[step.as_str()])
}

fn at_mut<'a>(object: &'a mut Value, path: &[String]) -> &'a mut Value {
    path.iter().fold(object, |value, step| &mut value[step.as_str()])
}

/// The Scale of an object.
fn of(call: &Call, object: &Value) -> Value {
    let paths = paths(call);
    let mut metadata = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object["metadata"].get(field) {
            metadata[field] = value.clone();
        }
    }
    let mut status = json!({"replicas": at(object, &paths.status).as_i64().unwrap_or(0)});
    let selector = match &paths.selector {
        Some(path) => at(object, path).as_str().unwrap_or_default().to_owned(),
        None => selector_text(&object["spec"]["selector"]),
    };
    if !selector.is_empty() {
        status["selector"] = json!(selector);
    }
    let mut spec = json!({});
    let replicas = at(object, &paths.spec).as_i64().unwrap_or(0);
    if replicas != 0 {
        spec["replicas"] = json!(replicas);
    }
    json!({"kind": "Scale", "apiVersion": API_VERSION, "metadata": metadata, "spec": spec, "status": status})
}

/// A selector in the form of the `labelSelector` parameter.
fn selector_text(selector: &Value) -> String {
    let labels = match selector.get("matchLabels") {
        Some(labels) => labels,
        None if selector.get("matchExpressions").is_some() => &Value::Null,
        None => selector, // A ReplicationController's is a plain map.
    };
    let mut parts: Vec<String> =
        labels.as_object().into_iter().flatten().filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?))).collect();
    for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = expression["key"].as_str().unwrap_or_default();
        let mut values: Vec<&str> = expression["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        values.sort_unstable();
        parts.push(match expression["operator"].as_str() {
            Some("In") => format!("{key} in ({})", values.join(",")),
            Some("NotIn") => format!("{key} notin ({})", values.join(",")),
            Some("DoesNotExist") => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    parts.sort();
    parts.join(",")
}

/// Asks the webhooks about the Scale that a change of an object's replicas is.
pub(crate) async fn review(call: &Call, options: &WriteOptions, new: &mut Value, old: &Value) -> Result<(), Status> {
    let mut scale = of(call, new);
    let replicas = scale["spec"]["replicas"].as_i64();
    let attributes = Attributes {
        api: &call.api,
        user: &call.user,
        kind: &call.kind,
        subresource: "scale",
        namespace: &call.info.namespace,
        name: &call.info.name,
        operation: Operation::Update,
        options: Options::Update(options),
        warnings: &call.warnings,
        audit: &call.audit,
        elsewhere: &call.elsewhere,
    };
    admission::review(&attributes, &mut scale, Some(&of(call, old))).await?;
    let changed = scale["spec"]["replicas"].as_i64();
    if changed != replicas {
        *at_mut(new, &paths(call).spec) = json!(changed.unwrap_or(0));
    }
    Ok(())
}

async fn current(call: &Call) -> Result<Value, Status> {
    let entry = call.api.0.storage.get(&call.kind, &call.info.namespace, &call.info.name).await?;
    let entry = entry.ok_or_else(|| call.not_found(&call.info.name))?;
    convert::from_storage(&call.api, &call.kind, storage::parse(&entry.bytes)?).await
}

pub(super) async fn get(call: &Call) -> Result<Response, Status> {
    let output = output(call)?;
    respond::plain(output, StatusCode::OK, &of(call, &current(call).await?))
}

/// kubectl asks for a table first; a Scale has none, so it gets the object.
fn output(call: &Call) -> Result<Output, Status> {
    Ok(Output { shape: Shape::Object, ..call.output(Offer::Transformable)? })
}

pub(super) async fn put(call: &Call) -> Result<Response, Status> {
    let output = output(call)?;
    let options = options(call)?;
    let scale = body::object_of(call, API_VERSION, "Scale", options.field_validation)?;
    write(call, output, &options, |_| Ok(scale.clone())).await
}

pub(super) async fn patch(call: &Call) -> Result<Response, Status> {
    let output = output(call)?;
    let options = options(call)?;
    let patch = Patch::read(call)?;
    if patch.kind == PatchType::Apply {
        return apply(call, output, &options, patch.configuration(call, options.field_validation)?).await;
    }
    WriteOptions::check_other_patch(&call.query)?;
    let pinned = patch.names_version();
    write(call, output, &options, |object| {
        let patched = patch.apply_untyped(&of(call, object))?;
        let mut scale = body::check_patched_of(call, API_VERSION, "Scale", patched, options.field_validation)?;
        // Whoever does not name a version means whichever is newest.
        if !pinned {
            object_meta::of(&mut scale).remove("resourceVersion");
        }
        Ok(scale)
    })
    .await
}

/// The replicas a Scale asks for.
fn replicas(call: &Call, scale: &Value) -> Result<i64, Status> {
    let name = object_meta::text(scale, "name");
    if !name.is_empty() && name != call.info.name {
        return Err(status::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            call.info.name
        )));
    }
    let replicas = match &scale["spec"]["replicas"] {
        Value::Null => 0,
        value => value.as_i64().ok_or_else(|| status::bad_request("spec.replicas must be a whole number"))?,
    };
    if replicas < 0 {
        let error = super::super::strategy::field_error(
            ErrorType::Invalid,
            "spec.replicas",
            json!(replicas),
            "must be greater than or equal to 0",
        );
        return Err(status::invalid("autoscaling", "Scale", &call.info.name, &[error]));
    }
    Ok(replicas)
}

/// Makes a change of an object hold only for the state that a Scale names, or for whichever is newest.
fn pin(changed: &mut Value, scale: &Value) {
    let metadata = object_meta::of(changed);
    metadata.remove("resourceVersion");
    for field in ["resourceVersion", "uid"] {
        let given = object_meta::text(scale, field);
        if !given.is_empty() {
            metadata.insert(field.into(), json!(given));
        }
    }
}

async fn write(
    call: &Call,
    output: Output,
    options: &WriteOptions,
    mut scale: impl FnMut(&Value) -> Result<Value, Status> + Send,
) -> Result<Response, Status> {
    let paths = paths(call);
    let written = update::modify(call, Part::Internal("scale"), options, |object| {
        let scale = scale(object)?;
        let replicas = replicas(call, &scale)?;
        let mut changed = object.clone();
        pin(&mut changed, &scale);
        *at_mut(&mut changed, &paths.spec) = json!(replicas);
        Ok(Change { object: changed, manage: Manage::Update })
    })
    .await?;
    answer(call, output, &written).await
}

/// Server-side apply of a Scale: an apply of the object's replicas, which are all it has to own.
async fn apply(call: &Call, output: Output, options: &WriteOptions, mut scale: Value) -> Result<Response, Status> {
    options.check_apply()?;
    if !scale.is_object() {
        return Err(status::bad_request("error decoding YAML: an object is needed"));
    }
    if scale["kind"].as_str().is_some_and(|given| given != "Scale")
        || scale["apiVersion"].as_str().is_some_and(|given| given != API_VERSION)
    {
        return Err(status::bad_request(format!(
            "incorrect kind or version for apply: got {} {}, want {API_VERSION} Scale",
            scale["apiVersion"], scale["kind"]
        )));
    }
    if !scale["metadata"]["managedFields"].is_null() {
        return Err(status::bad_request("metadata.managedFields must be nil"));
    }
    scale["apiVersion"] = json!(API_VERSION);
    scale["kind"] = json!("Scale");
    // Zero replicas are owned like any other number; Go's zero would be gone after the check.
    let owns = !scale["spec"]["replicas"].is_null();
    let scale = body::check_patched_of(call, API_VERSION, "Scale", scale, options.field_validation)?;
    let configuration = configuration(call, owns.then_some(replicas(call, &scale)?));
    let paths = paths(call);
    let part = Part::Internal("scale");
    let written = update::modify(call, part, options, |object| {
        let mut changed = managed_fields::applied(call, part, Some(object), &configuration, options)?;
        pin(&mut changed, &scale);
        // A Scale without replicas has none.
        if at(&changed, &paths.spec).is_null() {
            *at_mut(&mut changed, &paths.spec) = json!(0);
        }
        Ok(Change { object: changed, manage: Manage::Done })
    })
    .await?;
    answer(call, output, &written).await
}

/// What an apply of a Scale is to the object: its replicas, if the Scale has any.
fn configuration(call: &Call, replicas: Option<i64>) -> Value {
    let mut metadata = json!({"name": call.info.name});
    if !call.info.namespace.is_empty() {
        metadata["namespace"] = json!(call.info.namespace);
    }
    let mut configuration = json!({"apiVersion": call.kind.api_version(), "kind": call.kind.kind, "metadata": metadata});
    if let Some(replicas) = replicas {
        *at_mut(&mut configuration, &paths(call).spec) = json!(replicas);
    }
    configuration
}

async fn answer(call: &Call, output: Output, written: &Written) -> Result<Response, Status> {
    let object = match written {
        Written::Stored(bytes) => convert::from_storage(&call.api, &call.kind, storage::parse(bytes)?).await?,
        Written::DryRun(object) => object.clone(),
    };
    respond::plain(output, StatusCode::OK, &of(call, &object))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_as_text() {
        assert_eq!(selector_text(&json!({"matchLabels": {"b": "1", "a": "2"}})), "a=2,b=1");
        assert_eq!(selector_text(&json!({"a": "2"})), "a=2");
        let expressions = json!({"matchExpressions": [{"key": "k", "operator": "In", "values": ["y", "x"]}]});
        assert_eq!(selector_text(&expressions), "k in (x,y)");
    }
}
