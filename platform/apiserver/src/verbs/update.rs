//! Updates: read, change, compare and swap.

use bytes::Bytes;
use http::StatusCode;
use pharos_api::{
    registry::Kind,
    validation::{self, ErrorType},
};
use pharos_store::{Error, Expect, Op};
use pharos_transport::Response;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    create::{self, Written},
    object_meta,
};
use crate::{
    admission::{self, Attributes, Operation, Options, resource_quota},
    api::Api,
    authz, body, bootstrap,
    call::Call,
    convert, custom, managed_fields,
    negotiate::Offer,
    options::WriteOptions,
    respond,
    status::{self, Status},
    storage, strategy,
    subresources::scale,
};

/// Which part of an object a write is for. The rest stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// All but the status.
    Main,
    /// The status.
    Status,
    /// `spec.ephemeralContainers` of a pod.
    EphemeralContainers,
    /// The resources of a pod's containers.
    Resize,
    /// `spec.finalizers` of a namespace.
    Finalize,
    /// The approval conditions of a certificate signing request.
    Approval,
    /// Whatever the server itself writes on behalf of a subresource (scale, binding, eviction): not checked again by part.
    Internal(&'static str),
}

impl Part {
    pub(crate) fn subresource(self) -> &'static str {
        match self {
            Part::Main => "",
            Part::Status => "status",
            Part::EphemeralContainers => "ephemeralcontainers",
            Part::Resize => "resize",
            Part::Finalize => "finalize",
            Part::Approval => "approval",
            Part::Internal(name) => name,
        }
    }

    /// Whether a change of the spec through it is a new generation. A binding is none: it carries out the spec that there is.
    fn changes_generation(self) -> bool {
        !matches!(self, Part::Status | Part::Internal("binding"))
    }
}

/// How a managed-fields entry comes about.
pub(crate) enum Manage {
    /// The writer owns what it changed.
    Update,
    /// The change already carries its managed fields.
    Done,
}

/// What an update makes of an object.
pub(crate) struct Change {
    /// The new state, in the version asked for.
    pub(crate) object: Value,
    /// Who owns what.
    pub(crate) manage: Manage,
}

/// PUT.
pub(crate) async fn put(call: &Call, part: Part) -> Result<Response, Status> {
    let output = call.output(Offer::Transformable)?;
    let options = WriteOptions::parse(&call.query, "UpdateOptions")?;
    let object = body::object(call, options.field_validation)?;
    let mut placed = object;
    object_meta::place(&call.kind, &mut placed, &call.info.namespace, &call.info.name)?;
    if placed["metadata"]["name"].as_str().is_none_or(str::is_empty) {
        return Err(status::bad_request("name must be provided"));
    }
    let outcome = modify(call, part, &options, |_| Ok(Change { object: placed.clone(), manage: Manage::Update })).await;
    match outcome {
        Err(missing) if missing.is_not_found() && part == Part::Main && call.kind.strategy.create_on_update => {
            may_create(call)?;
            object_meta::of(&mut placed).remove("uid");
            object_meta::of(&mut placed).remove("resourceVersion");
            let written = create::create_object(call, placed, &call.info.name, &options).await?;
            respond::object(call, output, StatusCode::CREATED, written.as_stored()).await
        }
        outcome => respond::object(call, output, StatusCode::OK, outcome?.as_stored()).await,
    }
}

/// Whether a write that turned out to be a create is allowed to be one.
pub(crate) fn may_create(call: &Call) -> Result<(), Status> {
    let info = &call.info;
    let attributes = authz::Attributes::resource(&call.user, "create", &info.group, &info.resource, &info.namespace, &info.name);
    let decision = call.api.0.authorizer.authorize(&attributes);
    if decision.allowed() {
        return Ok(());
    }
    Err(call.forbidden(&info.name, &attributes.denial(decision.reason())))
}

/// Changes the call's object; `change` may be called several times, each time with the newest state.
///
/// A resource version in the changed object must be the present one. Without one, the change is made again on
/// whatever state others have written meanwhile: each round that is lost is one that another writer has won, and the
/// request's own deadline ends the wait (upstream's `GuaranteedUpdate` does the same).
pub(crate) async fn modify(
    call: &Call,
    part: Part,
    options: &WriteOptions,
    mut change: impl FnMut(&Value) -> Result<Change, Status> + Send,
) -> Result<Written, Status> {
    let kind = &*call.kind;
    let (namespace, name) = (call.info.namespace.as_str(), call.info.name.as_str());
    let key = kind.key(namespace, name);
    loop {
        let entry = call.api.0.storage.get(kind, namespace, name).await?.ok_or_else(|| call.not_found(name))?;
        let stored = storage::parse(&entry.bytes)?;
        // What was stored in another version than today's is written anew, changed or not.
        let outdated = stored["apiVersion"] != kind.storage_api_version();
        let old = convert::from_storage(&call.api, kind, stored).await?;
        let Change { object, manage } = change(&old)?;
        let pinned = check_preconditions(call, part, &object, &old)?;
        let prepared = prepare(call, part, options, object, &old, &manage).await?;
        let (new, reservation) = match prepared {
            Prepared::Same if outdated => (old.clone(), None),
            Prepared::Same => return Ok(Written::Stored(entry.bytes)),
            Prepared::Changed(new, reservation) => (new, reservation),
        };
        let gone = is_gone(kind, &new);
        let attributes = attributes(call, part, options);
        if options.dry_run {
            if !gone {
                resource_quota::check(&attributes, &new, Some(&old)).await?;
            }
            return Ok(Written::DryRun(new));
        }
        let mut ops = Vec::new();
        if gone {
            ops.push(Op::delete(key.as_str(), Expect::Revision(entry.revision)));
            ops.extend(resource_quota::credit(&attributes, &old).await?);
        } else {
            let value = pharos_store::Value::encode(&convert::to_storage(&call.api, kind, new.clone()).await?)?;
            let ttl = strategy::time_to_live(kind, &call.api.0.config);
            ops.push(create::with_ttl(Op::update(key.as_str(), value, entry.revision), ttl));
            ops.extend(resource_quota::charge(&attributes, &new, Some(&old)).await?);
        }
        match call.api.0.storage.commit(ops).await {
            Ok(commit) => {
                if let Some(reservation) = reservation {
                    reservation.keep();
                }
                if gone {
                    strategy::released(&call.api, kind, &new);
                    return last_state(&call.api, kind, new, commit.revision).await;
                }
                return create::written(&commit);
            }
            Err(Error::Conflict { key: conflicting, current }) if *conflicting == *key => {
                if current.is_none() {
                    return Err(call.not_found(name));
                }
                if pinned {
                    return Err(status::modified(kind, name));
                }
            }
            Err(Error::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The last state of an object that an update made go away.
async fn last_state(api: &Api, kind: &Kind, mut object: Value, revision: u64) -> Result<Written, Status> {
    object["metadata"]["resourceVersion"] = json!(revision.to_string());
    let stored = convert::to_storage(api, kind, object).await?;
    Ok(Written::Stored(Bytes::from(serde_json::to_vec(&stored).unwrap_or_default())))
}

/// Checks resource version and uid; true if the version pins the write to this state.
fn check_preconditions(call: &Call, part: Part, new: &Value, old: &Value) -> Result<bool, Status> {
    let kind = &*call.kind;
    let name = &call.info.name;
    let uid = object_meta::text(new, "uid");
    if !uid.is_empty() && uid != object_meta::text(old, "uid") {
        return Err(status::conflict(
            &kind.group,
            &kind.plural,
            name,
            &format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", object_meta::text(old, "uid")),
        ));
    }
    let version = object_meta::text(new, "resourceVersion");
    if version.is_empty() || version == "0" {
        if call.info.verb == "update" && !matches!(part, Part::Internal(_)) && !kind.strategy.unconditional_update {
            return Err(status::invalid_field(
                kind,
                name,
                ErrorType::Invalid,
                "metadata.resourceVersion",
                json!(0),
                "must be specified for an update",
            ));
        }
        return Ok(false);
    }
    if version.parse::<u64>().is_err() {
        return Err(status::invalid_field(
            kind,
            name,
            ErrorType::Invalid,
            "metadata.resourceVersion",
            json!(version),
            "must be an unsigned integer",
        ));
    }
    if version != object_meta::text(old, "resourceVersion") {
        return Err(status::modified(kind, name));
    }
    Ok(true)
}

enum Prepared {
    /// Nothing would change.
    Same,
    /// What to store, and the numbers taken for it.
    Changed(Value, Option<strategy::Reservation>),
}

fn attributes<'a>(call: &'a Call, part: Part, options: &'a WriteOptions) -> Attributes<'a> {
    Attributes {
        api: &call.api,
        user: &call.user,
        kind: &call.kind,
        subresource: part.subresource(),
        namespace: &call.info.namespace,
        name: &call.info.name,
        operation: Operation::Update,
        options: match part {
            Part::Internal(_) => Options::Unreviewed,
            _ => Options::Update(options),
        },
        warnings: &call.warnings,
        audit: &call.audit,
        elsewhere: &call.elsewhere,
    }
}

/// Defaults, admits and validates the new state of an object.
async fn prepare(
    call: &Call,
    part: Part,
    options: &WriteOptions,
    mut new: Value,
    old: &Value,
    manage: &Manage,
) -> Result<Prepared, Status> {
    let kind = &*call.kind;
    let name = &call.info.name;
    let errors = object_meta::check_update(kind, &new, old);
    if !errors.is_empty() {
        return Err(call.invalid(name, &errors));
    }
    object_meta::carry_over(&mut new, old);
    new["apiVersion"] = old["apiVersion"].clone();
    new["kind"] = old["kind"].clone();
    strategy::keep_other_parts(kind, part, &mut new, old);
    pharos_api::defaulting::apply(kind, &mut new);
    strategy::prepare_for_update(kind, part, &mut new, old, call.api.0.clock.now());
    let attributes = attributes(call, part, options);
    if let Manage::Update = manage {
        managed_fields::updated(call, part, &mut new, old, options);
    }
    admission::mutate(&attributes, &mut new, Some(old)).await?;
    if part == Part::Internal("scale") {
        scale::review(call, options, &mut new, old).await?;
    }
    pharos_api::defaulting::apply(kind, &mut new);
    object_meta::tidy(&mut new);
    if kind.strategy.generation && part.changes_generation() && object_meta::spec_differs(&new, old) {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
        object_meta::of(&mut new).insert("generation".into(), json!(generation));
    }
    let mut errors = match part {
        Part::Main | Part::EphemeralContainers | Part::Resize => validation::validate(kind, &new, Some(old)),
        Part::Status => validation::validate_status(kind, &new, old),
        Part::Approval => validation::validate_approval(kind, &new, old),
        // The server's own changes are right by construction.
        Part::Internal(_) => Vec::new(),
        // These may change what an ordinary update may not.
        _ => validation::validate(kind, &new, None),
    };
    bootstrap::allow_own_address(call, name, &mut errors);
    errors.extend(strategy::validate_update(kind, part, &new, old));
    if errors.is_empty() {
        errors.extend(admission::policy::may_read_params(&attributes, &new, Some(old)));
    }
    if kind.custom && matches!(part, Part::Main | Part::Status | Part::Internal("scale")) {
        let findings = custom::check_rules(&call.api, kind, &new, Some(old), &errors);
        errors.extend(findings.errors);
        findings.warnings.into_iter().for_each(|warning| call.warn(warning));
    }
    if !errors.is_empty() {
        return Err(call.invalid(name, &errors));
    }
    admission::validate(&attributes, Some(&new), Some(old)).await?;
    if part == Part::Main && object_meta::spec_or_labels_differ(&new, old) {
        strategy::warnings(kind).into_iter().for_each(|warning| call.warn(warning));
    }
    let reservation = match part {
        Part::Main => strategy::reserve(&call.api, kind, &mut new, Some(old)).map_err(|errors| call.invalid(name, &errors))?,
        _ => None,
    };
    let compared = Instant::now();
    let same = object_meta::same(&new, old);
    call.api.0.metrics.compared(same, compared.elapsed());
    if same {
        return Ok(Prepared::Same);
    }
    Ok(Prepared::Changed(new, reservation))
}

/// Whether nothing keeps an object that is being deleted any more.
pub(crate) fn is_gone(kind: &Kind, object: &Value) -> bool {
    let metadata = &object["metadata"];
    let empty = |list: &Value| list.as_array().is_none_or(Vec::is_empty);
    let namespace = kind.group.is_empty() && kind.plural == "namespaces";
    !metadata["deletionTimestamp"].is_null()
        && metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
        && empty(&metadata["finalizers"])
        && (!namespace || empty(&object["spec"]["finalizers"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_that_change_the_generation() {
        let table = [
            (Part::Main, true),
            (Part::Resize, true),
            (Part::EphemeralContainers, true),
            (Part::Internal("scale"), true),
            (Part::Internal("binding"), false),
            (Part::Status, false),
        ];
        for (part, changes) in table {
            assert_eq!(part.changes_generation(), changes, "{part:?}");
        }
    }
}
