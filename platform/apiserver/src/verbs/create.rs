//! Creates.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use pharos_store::{Error, Op};
use pharos_transport::Response;
use serde_json::{Value, json};

use super::object_meta;
use crate::{
    admission::{self, Attributes, Operation, Options, resource_quota},
    body, bootstrap,
    call::Call,
    convert, custom, managed_fields, names,
    negotiate::Offer,
    options::WriteOptions,
    respond::{self, Stored},
    status::{self, Status},
    storage, strategy,
};

/// How often a generated name is tried anew (`apiserver/pkg/registry/generic/registry`, KEP-4420).
const GENERATE_NAME_TRIES: usize = 8;

/// The outcome of a write.
#[derive(Debug, Clone)]
pub(crate) enum Written {
    /// As stored.
    Stored(Bytes),
    /// As it would have been stored, in the version asked for.
    DryRun(Value),
}

impl Written {
    pub(crate) fn as_stored(&self) -> Stored<'_> {
        match self {
            Written::Stored(bytes) => Stored::Bytes(bytes),
            Written::DryRun(value) => Stored::Value(value),
        }
    }
}

pub(super) async fn create(call: &Call) -> Result<Response, Status> {
    let output = call.output(Offer::Transformable)?;
    let options = WriteOptions::parse(&call.query, "CreateOptions")?;
    let object = body::object(call, options.field_validation)?;
    let written = create_object(call, object, "", &options).await?;
    respond::object(call, output, StatusCode::CREATED, written.as_stored()).await
}

/// Creates an object of the call's kind in its namespace; `name` is the URL's, if it has one.
pub(crate) async fn create_object(call: &Call, mut object: Value, name: &str, options: &WriteOptions) -> Result<Written, Status> {
    let kind = &*call.kind;
    object_meta::place(kind, &mut object, &call.info.namespace, name)?;
    if !object_meta::text(&object, "resourceVersion").is_empty() {
        return Err(status::bad_request("resourceVersion should not be set on objects to be created"));
    }
    if !object_meta::wants_generated_name(kind, &object)? {
        return create_named(call, object, options).await;
    }
    let base = object_meta::text(&object, "generateName").to_owned();
    for attempt in 1.. {
        let mut named = object.clone();
        object_meta::of(&mut named).insert("name".into(), json!(names::generate(&base)));
        match create_named(call, named, options).await {
            Err(status) if status.reason() == "AlreadyExists" && attempt < GENERATE_NAME_TRIES => {}
            outcome => return outcome,
        }
    }
    unreachable!("the loop returns")
}

async fn create_named(call: &Call, mut object: Value, options: &WriteOptions) -> Result<Written, Status> {
    let kind = &*call.kind;
    let api = &call.api.0;
    let name = object_meta::text(&object, "name").to_owned();
    let attributes = Attributes {
        api: &call.api,
        user: &call.user,
        kind,
        subresource: "",
        namespace: &call.info.namespace,
        name: &name,
        operation: Operation::Create,
        options: Options::Create(options),
        warnings: &call.warnings,
        audit: &call.audit,
        elsewhere: &call.elsewhere,
    };
    object_meta::fill(kind, &mut object, api.clock.now());
    pharos_api::defaulting::apply(kind, &mut object);
    strategy::prepare_for_create(kind, &mut object);
    strategy::stamp_requestor(kind, &mut object, &call.user);
    // What admission adds belongs to nobody, so that a client's later apply does not take it away.
    managed_fields::created(call, &mut object, options);
    admission::mutate(&attributes, &mut object, None).await?;
    pharos_api::defaulting::apply(kind, &mut object);
    object_meta::tidy(&mut object);
    let mut errors = pharos_api::validation::validate(kind, &object, None);
    bootstrap::allow_own_address(call, &name, &mut errors);
    errors.extend(strategy::validate_create(kind, &object));
    if errors.is_empty() {
        errors.extend(admission::policy::may_read_params(&attributes, &object, None));
    }
    if kind.custom {
        errors.extend(custom::check_rules(&call.api, kind, &object, None, &errors).errors);
    }
    if !errors.is_empty() {
        return Err(call.invalid(&name, &errors));
    }
    admission::validate(&attributes, Some(&object), None).await?;
    strategy::warnings(kind).into_iter().for_each(|warning| call.warn(warning));
    let reservation = strategy::reserve(&call.api, kind, &mut object, None).map_err(|errors| call.invalid(&name, &errors))?;
    if options.dry_run {
        resource_quota::check(&attributes, &object, None).await?;
        return Ok(Written::DryRun(object));
    }
    let key = kind.key(&call.info.namespace, &name);
    let value = pharos_store::Value::encode(&convert::to_storage(&call.api, kind, object.clone()).await?)?;
    let ttl = strategy::time_to_live(kind, &api.config);
    // Every round that is lost is one that another write has won; the request's own deadline ends the wait.
    loop {
        let mut ops = vec![with_ttl(Op::create(key.as_str(), value.clone()), ttl)];
        ops.extend(resource_quota::charge(&attributes, &object, None).await?);
        match api.storage.commit(ops).await {
            Ok(commit) => {
                if let Some(reservation) = reservation {
                    reservation.keep();
                }
                return written(&commit);
            }
            Err(Error::Conflict { key: conflicting, current }) if *conflicting == *key => {
                return Err(exists(call, &name, current.as_deref()));
            }
            Err(Error::Conflict { .. }) => {} // A quota changed: count again.
            Err(error) => return Err(error.into()),
        }
    }
}

pub(crate) fn with_ttl(op: Op, ttl: Option<Duration>) -> Op {
    match ttl {
        Some(ttl) => op.with_ttl(ttl),
        None => op,
    }
}

/// The state after the first operation of a commit.
pub(crate) fn written(commit: &pharos_store::Commit) -> Result<Written, Status> {
    let entry = commit.changes.first().and_then(|change| change.current.as_ref());
    entry.map(|entry| Written::Stored(entry.bytes.clone())).ok_or_else(|| status::internal("the store kept nothing"))
}

fn exists(call: &Call, name: &str, current: Option<&pharos_store::Entry>) -> Status {
    let kind = &*call.kind;
    let deleting = current
        .and_then(|entry| storage::parse(&entry.bytes).ok())
        .is_some_and(|object| !object["metadata"]["deletionTimestamp"].is_null());
    if deleting {
        return Status::new(
            409,
            "AlreadyExists",
            format!("object is being deleted: {} \"{name}\" already exists", qualified(kind)),
        )
        .with_details(&kind.group, &kind.plural, name);
    }
    status::already_exists(&kind.group, &kind.plural, name)
}

fn qualified(kind: &pharos_api::registry::Kind) -> String {
    if kind.group.is_empty() { kind.plural.to_string() } else { format!("{}.{}", kind.plural, kind.group) }
}
