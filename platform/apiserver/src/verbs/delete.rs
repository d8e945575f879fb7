//! Deletes: at once, after a grace period, or once the last finalizer is gone.
//!
//! Follows `apiserver/pkg/registry/generic/registry/store.go` (`Delete`) and `registry/rest/delete.go`.

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http::StatusCode;
use jiff::Timestamp;
use pharos_api::registry::Kind;
use pharos_store::{Error, Expect, Op};
use pharos_transport::Response;
use serde_json::{Value, json};

use super::{
    list::{check_fields, find},
    object_meta,
    update::is_gone,
};
use crate::{
    admission::{self, Attributes, Operation, Options, resource_quota},
    body,
    call::Call,
    convert, names,
    negotiate::Offer,
    options::{DeleteOptions, ListOptions, Propagation},
    respond::{self, Stored},
    status::{self, Status},
    storage, strategy,
};

/// How many objects of a collection are deleted at once.
const PARALLEL: usize = 16;

/// The PriorityClasses every cluster has.
const SYSTEM_PRIORITY_CLASSES: [&str; 2] = ["system-cluster-critical", "system-node-critical"];

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// What a delete did.
pub(crate) enum Deleted {
    /// The object is gone; its last state.
    Gone(Value),
    /// It is marked and waits for its grace period or its finalizers.
    Pending(Value),
}

pub(super) async fn delete(call: &Call) -> Result<Response, Status> {
    let output = call.output(Offer::Transformable)?;
    let body = body::delete_options(call)?;
    let options = DeleteOptions::parse(&call.query, body.as_ref())?;
    if is_system_priority_class(&call.kind, &call.info.name) {
        return Err(call.forbidden(&call.info.name, "this is a system priority class and cannot be deleted"));
    }
    match delete_object(call, &options).await? {
        Deleted::Pending(object) => {
            let accepted = options.propagation == Some(Propagation::Foreground);
            let code = if accepted { StatusCode::ACCEPTED } else { StatusCode::OK };
            respond::object(call, output, code, Stored::Value(&object)).await
        }
        Deleted::Gone(object) if returns_object(&call.kind) => {
            respond::object(call, output, StatusCode::OK, Stored::Value(&object)).await
        }
        Deleted::Gone(object) => respond::plain(
            crate::negotiate::Output { shape: crate::negotiate::Shape::Object, ..output },
            StatusCode::OK,
            &success(&call.kind, &call.info.name, object_meta::text(&object, "uid")),
        ),
    }
}

fn success(kind: &Kind, name: &str, uid: &str) -> Value {
    let mut details = json!({"name": name, "kind": kind.plural, "uid": uid});
    if !kind.group.is_empty() {
        details["group"] = json!(kind.group);
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

/// What may not be deleted by name (`pkg/registry/scheduling/priorityclass/storage/storage.go`).
fn is_system_priority_class(kind: &Kind, name: &str) -> bool {
    kind.group == "scheduling.k8s.io" && kind.plural == "priorityclasses" && SYSTEM_PRIORITY_CLASSES.contains(&name)
}

/// The kinds whose last state answers a delete (`ReturnDeletedObject` in upstream's registries).
fn returns_object(kind: &Kind) -> bool {
    kind.group.is_empty()
        && matches!(
            kind.plural.as_ref(),
            "pods"
                | "services"
                | "serviceaccounts"
                | "resourcequotas"
                | "podtemplates"
                | "persistentvolumes"
                | "persistentvolumeclaims"
        )
}

/// Deletes everything that a list of the same options would tell, each object as if alone: with a limit, that is a page.
pub(super) async fn collection(call: &Call) -> Result<Response, Status> {
    let output = call.output(Offer::Transformable)?;
    let body = body::delete_options(call)?;
    let options = DeleteOptions::parse(&call.query, body.as_ref())?;
    let mut wanted = ListOptions::parse(&call.query, false)?;
    check_fields(call, &mut wanted)?;
    let (list, metadata) = find(call, &wanted).await?;
    let calls: Vec<Call> = list.objects.iter().map(|object| call.of_object(object.namespace(), object.name())).collect();
    let deletes = stream::iter(calls).map(|one| {
        let options = options.clone();
        async move {
            let outcome = delete_object(&one, &options).await;
            call.absorb(&one);
            outcome
        }
    });
    // Several at once, so that they share the store's commits.
    let mut outcomes = deletes.buffered(PARALLEL);
    let mut items = Vec::new();
    while let Some(outcome) = outcomes.next().await {
        match outcome {
            Ok(Deleted::Gone(object) | Deleted::Pending(object)) => items.push(object),
            Err(status) if status.is_not_found() => {} // Someone else was faster.
            Err(status) => return Err(status),
        }
    }
    let list = json!({
        "kind": call.kind.list_kind(),
        "apiVersion": call.kind.api_version(),
        "metadata": metadata,
        "items": items,
    });
    let output = crate::negotiate::Output { shape: crate::negotiate::Shape::Object, ..output };
    respond::plain(output, StatusCode::OK, &list)
}

/// Deletes the call's object.
pub(crate) async fn delete_object(call: &Call, options: &DeleteOptions) -> Result<Deleted, Status> {
    let kind = &*call.kind;
    let (namespace, name) = (call.info.namespace.as_str(), call.info.name.as_str());
    let key = kind.key(namespace, name);
    let attributes = Attributes {
        api: &call.api,
        user: &call.user,
        kind,
        subresource: "",
        namespace,
        name,
        operation: Operation::Delete,
        // An eviction has been reviewed as such.
        options: if call.info.subresource.is_empty() { Options::Delete(options) } else { Options::Unreviewed },
        warnings: &call.warnings,
        audit: &call.audit,
        elsewhere: &call.elsewhere,
    };
    loop {
        let entry = call.api.0.storage.get(kind, namespace, name).await?.ok_or_else(|| call.not_found(name))?;
        let old = convert::from_storage(&call.api, kind, storage::parse(&entry.bytes)?).await?;
        check_preconditions(kind, name, options, &old)?;
        admission::validate(&attributes, None, Some(&old)).await?;
        let new = mark(kind, &old, options, call.api.0.clock.now());
        if kind.group.is_empty() && kind.plural == "namespaces" && is_deleting(&old) && !is_gone(kind, &new) && new == old {
            return Err(status::conflict(
                "",
                "namespaces",
                name,
                "The system is ensuring all content is removed from this namespace.  Upon completion, this namespace will automatically be purged by the system.",
            ));
        }
        let gone = is_gone(kind, &new);
        if !gone && object_meta::same(&new, &old) {
            return Ok(Deleted::Pending(old));
        }
        if options.dry_run {
            return Ok(if gone { Deleted::Gone(old) } else { Deleted::Pending(new) });
        }
        let mut ops = Vec::new();
        if gone {
            ops.push(Op::delete(key.as_str(), Expect::Revision(entry.revision)));
            ops.extend(resource_quota::credit(&attributes, &old).await?);
        } else {
            let value = pharos_store::Value::encode(&convert::to_storage(&call.api, kind, new.clone()).await?)?;
            ops.push(Op::update(key.as_str(), value, entry.revision));
        }
        match call.api.0.storage.commit(ops).await {
            Ok(commit) if gone => {
                strategy::released(&call.api, kind, &old);
                let mut last = old;
                last["metadata"]["resourceVersion"] = json!(commit.revision.to_string());
                return Ok(Deleted::Gone(last));
            }
            Ok(commit) => {
                let bytes = commit.changes.first().and_then(|change| change.current.as_ref()).map(|entry| &entry.bytes);
                let marked = bytes.map(|bytes: &Bytes| storage::parse(bytes)).transpose()?;
                return Ok(Deleted::Pending(match marked {
                    Some(object) => convert::from_storage(&call.api, kind, object).await?,
                    None => new,
                }));
            }
            Err(Error::Conflict { .. }) => {} // Look again.
            Err(error) => return Err(error.into()),
        }
    }
}

fn is_deleting(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

fn check_preconditions(kind: &Kind, name: &str, options: &DeleteOptions, old: &Value) -> Result<(), Status> {
    let refuse = |what: &str, wanted: &str, found: &str| {
        let why = format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {found}");
        Err(status::conflict(&kind.group, &kind.plural, name, &why))
    };
    let (uid, version) = (object_meta::text(old, "uid"), object_meta::text(old, "resourceVersion"));
    match (&options.uid, &options.resource_version) {
        (Some(wanted), _) if wanted != uid => refuse("UID", wanted, uid),
        (_, Some(wanted)) if wanted != version => refuse("ResourceVersion", wanted, version),
        _ => Ok(()),
    }
}

/// The object as a delete leaves it behind: finalizers for its dependents, deletion time, grace period.
fn mark(kind: &Kind, old: &Value, options: &DeleteOptions, now: Timestamp) -> Value {
    let mut new = old.clone();
    let finalizers = finalizers(kind, old, options);
    let metadata = object_meta::of(&mut new);
    if finalizers.is_empty() {
        metadata.remove("finalizers");
    } else {
        metadata.insert("finalizers".into(), json!(finalizers));
    }
    let seconds = strategy::grace_period(kind, old, options.grace_period_seconds);
    let earlier = metadata.get("deletionTimestamp").and_then(Value::as_str).and_then(|text| text.parse::<Timestamp>().ok());
    match earlier {
        None => {
            let at = now + Duration::from_secs(seconds.unsigned_abs());
            metadata.insert("deletionTimestamp".into(), json!(names::timestamp(at)));
            metadata.insert("deletionGracePeriodSeconds".into(), json!(seconds));
            if let Some(generation) = metadata.get("generation").and_then(Value::as_i64) {
                metadata.insert("generation".into(), json!(generation + 1));
            }
            if kind.group.is_empty() && kind.plural == "namespaces" {
                new["status"]["phase"] = json!("Terminating");
            }
        }
        // A grace period can be cut short, not prolonged.
        Some(earlier) => {
            let before = metadata.get("deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0);
            let asked = options.grace_period_seconds.is_some() || seconds == 0;
            if kind.strategy.graceful_deletion && asked && seconds < before {
                let at = earlier - Duration::from_secs((before - seconds).unsigned_abs());
                metadata.insert("deletionTimestamp".into(), json!(names::timestamp(at)));
                metadata.insert("deletionGracePeriodSeconds".into(), json!(seconds));
            }
        }
    }
    new
}

/// The finalizers after a delete: those that make the garbage collector treat dependents as asked, and the rest.
fn finalizers(kind: &Kind, old: &Value, options: &DeleteOptions) -> Vec<Value> {
    let mut finalizers = old["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    let before = finalizers.clone();
    let has = |name: &str| before.iter().any(|finalizer| finalizer == name);
    let policy = match options.propagation {
        Some(policy) => policy,
        None if has(FOREGROUND) => Propagation::Foreground,
        None if has(ORPHAN) || kind.strategy.orphan_dependents => Propagation::Orphan,
        None => Propagation::Background,
    };
    let definition = kind.plural == "customresourcedefinitions" && kind.group == "apiextensions.k8s.io";
    if definition && !is_deleting(old) && !has(crate::custom::FINALIZER) {
        finalizers.push(json!(crate::custom::FINALIZER));
    }
    finalizers.retain(|finalizer| finalizer != ORPHAN && finalizer != FOREGROUND);
    match policy {
        Propagation::Orphan => finalizers.push(json!(ORPHAN)),
        Propagation::Foreground => finalizers.push(json!(FOREGROUND)),
        Propagation::Background => {}
    }
    finalizers
}
