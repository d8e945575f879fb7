//! Persistent volumes, their claims and classes, and what CSI drivers say of themselves.
//!
//! Follows `pkg/apis/core/validation/validation.go` and `pkg/apis/storage/validation/validation.go`.

use std::collections::BTreeSet;

use serde_json::Value;

use super::at::{At, Errors};
use super::{pod, volume};
use crate::names;
use crate::quantity::Quantity;
use crate::status::FieldError;

const MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

/// What classes' parameters may hold, in bytes and in entries.
const MAX_PARAMETERS: (usize, usize) = (256 * 1024, 512);

/// The longest message of a volume's error, and the most metadata of an attached volume, in bytes.
const MAX_ATTACHED_METADATA: usize = 256 * 1024;
const MAX_ERROR_MESSAGE: usize = 1024;

/// The fields of a PersistentVolume's spec that name no source.
const NO_SOURCE: [&str; 9] = [
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

fn access_modes(spec: &At<'_>, none: &str, errors: &mut Errors) {
    let modes = spec.field("accessModes");
    if modes.len() == 0 {
        errors.push(modes.required(none));
    }
    let (mut alone, mut others) = (false, false);
    for mode in modes.texts() {
        match mode {
            "ReadWriteOncePod" => alone = true,
            mode if MODES.contains(&mode) => others = true,
            mode => errors.push(FieldError::not_supported(modes.path(), mode, &MODES)),
        }
    }
    if alone && others {
        errors.push(modes.forbidden("may not use ReadWriteOncePod with other access modes"));
    }
}

pub(super) fn persistent_volume_claim(root: &At<'_>, old: Option<&Value>, errors: &mut Errors) {
    let spec = root.field("spec");
    claim_spec(&spec, old.and_then(|old| old.get("spec")), errors);
    if let Some(old) = old {
        claim_update(root, &spec, old, errors);
    }
}

/// The spec of a claim, also in a template.
pub(super) fn claim_spec(spec: &At<'_>, old: Option<&Value>, errors: &mut Errors) {
    access_modes(spec, "at least 1 access mode is required", errors);
    spec.field("selector").label_selector(errors);
    let resources = spec.field("resources");
    let storage = resources.field("requests").field("storage").told_at(format!("{}[storage]", resources.path()));
    match storage.quantity() {
        None => errors.push(storage.required("")),
        Some(quantity) if quantity.sign() <= 0 => errors.push(storage.invalid("must be greater than zero")),
        Some(_) => {}
    }
    spec.field("storageClassName").subdomain(errors);
    spec.field("volumeMode").one_of(&["Block", "Filesystem"], errors);
    let (source, reference) = (spec.field("dataSource"), spec.field("dataSourceRef"));
    // An API group that was accepted once is not looked at again.
    let group_known =
        old.is_some_and(|old| ["dataSource", "dataSourceRef"].iter().any(|field| old[*field]["apiGroup"].is_string()));
    data_source(&source, group_known, errors);
    data_source(&reference, group_known, errors);
    if !source.is_absent() && !reference.is_absent() {
        let differs = |field: &&str| source.field(field).value() != reference.field(field).value();
        if !reference.field("namespace").text().is_empty() {
            let detail = "may not be specified when dataSourceRef.namespace is specified";
            errors.push(FieldError::invalid(spec.path(), source.path(), detail));
        } else if ["apiGroup", "kind", "name"].iter().any(differs) {
            errors.push(FieldError::invalid(spec.path(), source.path(), "must match dataSourceRef"));
        }
    }
    spec.field("volumeAttributesClassName").subdomain(errors);
}

fn data_source(source: &At<'_>, group_known: bool, errors: &mut Errors) {
    if source.is_absent() {
        return;
    }
    let (kind, group) = (source.field("kind"), source.field("apiGroup"));
    source.field("name").must_be_set("", errors);
    kind.must_be_set("", errors);
    if group.text().is_empty() {
        if kind.text() != "PersistentVolumeClaim" {
            let detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
            errors.push(FieldError::invalid(source.path(), kind.text(), detail));
        }
    } else if !group_known {
        group.subdomain(errors);
    }
    source.field("namespace").label(errors);
}

/// What is fixed once a claim is made: all but its size and its class of attributes, and these may change once it is bound.
fn claim_update(root: &At<'_>, spec: &At<'_>, old: &Value, errors: &mut Errors) {
    const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
    let before = old.get("spec").unwrap_or(&Value::Null);
    let annotation = |object: &Value| -> Option<String> {
        object.pointer("/metadata/annotations")?.get(BETA_CLASS)?.as_str().map(str::to_owned)
    };
    let (old_class, new_class) = (annotation(old), annotation(root.value()));
    let (was_class, class) = (before.get("storageClassName").and_then(Value::as_str), spec.field("storageClassName"));
    let class_was_unset = was_class.is_none() && class.value().is_string();
    let from_annotation = class_was_unset && old_class.as_deref() == Some(class.text());
    let moved_to_field = from_annotation && new_class.is_none();
    if new_class != old_class && !moved_to_field {
        let path = format!("metadata.annotations[{BETA_CLASS}]");
        errors.push(FieldError::invalid(path, new_class.clone().unwrap_or_default(), "field is immutable"));
    }
    let bound = root.field("status").field("phase").text() == "Bound";
    let mut changed = ["accessModes", "dataSource", "dataSourceRef", "selector", "volumeMode"]
        .iter()
        .any(|field| spec.field(field).value() != before.get(*field).unwrap_or(&Value::Null));
    let text = |field: &str| before.get(field).and_then(Value::as_str).unwrap_or_default();
    changed |= !text("volumeName").is_empty() && text("volumeName") != spec.field("volumeName").text();
    let class_settled = class_was_unset && old_class.as_deref().is_none_or(|old| old == class.text());
    changed |= !class_settled && class.value().as_str() != was_class;
    let attributes = spec.field("volumeAttributesClassName");
    let was_attributes = before.get("volumeAttributesClassName").unwrap_or(&Value::Null);
    changed |= attributes.value() != was_attributes && (!bound || attributes.is_absent());
    let storage = spec.field("resources").field("requests").field("storage");
    let quantity = |pointer: &str| old.pointer(pointer).and_then(|value| Quantity::from_value(value).ok());
    let (was, now) = (quantity("/spec/resources/requests/storage"), storage.quantity());
    changed |= was != now && !bound;
    changed |= other_resources(spec.field("resources").value()) != other_resources(&before["resources"]);
    if changed {
        errors.push(spec.forbidden(
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
        ));
    }
    // Less than was asked for, but more than there is, takes back a growth that failed.
    if let (Some(was), Some(now)) = (was, now)
        && now < was
        && now <= quantity("/status/capacity/storage").unwrap_or(Quantity::ZERO)
    {
        errors.push(storage.forbidden("field can not be less than status.capacity"));
    }
    spec.field("volumeMode").told_at("volumeMode").immutable(before.get("volumeMode").unwrap_or(&Value::Null), errors);
    if !was_attributes.is_null() && attributes.value() != was_attributes && attributes.text().is_empty() {
        let what = if attributes.is_absent() { "nil" } else { "an empty string" };
        errors.push(attributes.forbidden(format!("update from non-nil value to {what} is forbidden")));
    }
}

/// What a claim asks for beside storage, which never changes.
fn other_resources(resources: &Value) -> BTreeSet<(&str, &str, String)> {
    let mut found = BTreeSet::new();
    for list in ["limits", "requests"] {
        for (name, amount) in resources.get(list).and_then(Value::as_object).into_iter().flatten() {
            if list == "limits" || name != "storage" {
                let text = Quantity::from_value(amount).map_or_else(|_| amount.to_string(), |amount| amount.nanos().to_string());
                found.insert((list, name.as_str(), text));
            }
        }
    }
    found
}

/// The status of a claim: amounts, and how far a resize is.
pub(super) fn claim_status(root: &At<'_>, errors: &mut Errors) {
    const STATES: [&str; 5] = [
        "ControllerResizeInProgress",
        "ControllerResizeInfeasible",
        "NodeResizePending",
        "NodeResizeInProgress",
        "NodeResizeInfeasible",
    ];
    let status = root.field("status");
    for (_, amount) in status.field("capacity").entries() {
        valid_amount(&amount, errors);
    }
    let states = status.field("allocatedResourceStatuses").told_at("status.allocatedResourceStatus");
    for (name, state) in states.entries() {
        claim_resource(name, &states, errors);
        if !STATES.contains(&state.text()) {
            errors.push(FieldError::not_supported(states.path(), name, &STATES));
        }
    }
    let allocated = status.field("allocatedResources");
    for (name, amount) in allocated.entries() {
        if claim_resource(name, &allocated, errors) {
            valid_amount(&amount, errors);
        }
    }
}

fn valid_amount(amount: &At<'_>, errors: &mut Errors) {
    if let Some(quantity) = amount.quantity().filter(|quantity| quantity.sign() < 0) {
        errors.push(FieldError::invalid(amount.path(), quantity.value(), "must be a valid resource quantity"));
    }
}

fn claim_resource(name: &str, at: &At<'_>, errors: &mut Errors) -> bool {
    let complaints = names::qualified_name(name);
    let native = !name.contains('/') || name.contains("kubernetes.io/");
    let fits = complaints.is_empty() && (!native || name == "storage");
    if complaints.is_empty() && !fits {
        errors.push(FieldError::not_supported(at.path(), name, &["storage"]));
    }
    errors.extend(complaints.into_iter().map(|detail| FieldError::invalid(at.path(), name, detail)));
    fits
}

pub(super) fn persistent_volume(root: &At<'_>, old: Option<&Value>, errors: &mut Errors) {
    let spec = root.field("spec");
    volume_spec(&spec, root.field("metadata").field("name").text(), errors);
    let Some(old) = old.and_then(|old| old.get("spec")) else { return };
    if !same_source(spec.value(), old) {
        errors.push(FieldError::forbidden(
            "spec.persistentvolumesource",
            "spec.persistentvolumesource is immutable after creation",
        ));
    }
    spec.field("volumeMode").told_at("volumeMode").immutable(old.get("volumeMode").unwrap_or(&Value::Null), errors);
    let (affinity, before) = (spec.field("nodeAffinity"), old.get("nodeAffinity").unwrap_or(&Value::Null));
    if !before.is_null() && !same_affinity(affinity.value(), before) {
        let detail = "field is immutable, except for updating from beta label to GA";
        errors.push(affinity.told_at("nodeAffinity").invalid(detail));
    }
    let class = spec.field("volumeAttributesClassName");
    if class.is_absent() && old.get("volumeAttributesClassName").is_some_and(|class| !class.is_null()) {
        errors.push(class.forbidden("update from non-nil value to nil is forbidden"));
    }
}

/// Whether the source is what it was; a Secret for growing may be named once.
fn same_source(new: &Value, old: &Value) -> bool {
    let sources = |spec: &Value| -> Vec<String> {
        let fields = spec.as_object().into_iter().flatten();
        let sources = fields.filter(|(name, value)| !NO_SOURCE.contains(&name.as_str()) && !value.is_null());
        let mut sources: Vec<String> = sources.map(|(name, _)| name.clone()).collect();
        sources.sort_unstable();
        sources
    };
    let names = sources(new);
    names == sources(old)
        && names.iter().all(|name| {
            let (new, old) = (&new[name.as_str()], &old[name.as_str()]);
            new == old || name == "csi" && same_but_expansion(new, old)
        })
}

fn same_but_expansion(new: &Value, old: &Value) -> bool {
    const FIELD: &str = "controllerExpandSecretRef";
    if !old[FIELD].is_null() {
        return false;
    }
    let mut new = new.clone();
    if let Some(new) = new.as_object_mut() {
        new.remove(FIELD);
    }
    new == *old
}

/// Whether a volume's affinity is what it was, but for labels that got their final names.
fn same_affinity(new: &Value, old: &Value) -> bool {
    const FINAL: [(&str, &str); 5] = [
        ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
        ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
        ("beta.kubernetes.io/os", "kubernetes.io/os"),
        ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
        ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"),
    ];
    if new == old {
        return true;
    }
    let mut renamed = old.clone();
    let terms = |affinity: &Value| affinity.pointer("/required/nodeSelectorTerms").cloned().unwrap_or(Value::Null);
    let new_terms = terms(new);
    for (t, term) in
        renamed.pointer_mut("/required/nodeSelectorTerms").and_then(Value::as_array_mut).into_iter().flatten().enumerate()
    {
        for list in ["matchExpressions", "matchFields"] {
            for (e, expression) in term.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten().enumerate() {
                let now = &new_terms[t][list][e]["key"];
                if FINAL.iter().any(|(beta, ga)| expression["key"] == *beta && *now == *ga) {
                    expression["key"] = now.clone();
                }
            }
        }
    }
    renamed == *new
}

fn volume_spec(spec: &At<'_>, name: &str, errors: &mut Errors) {
    access_modes(spec, "", errors);
    let capacity = spec.field("capacity");
    if capacity.len() == 0 {
        errors.push(capacity.required(""));
    }
    if capacity.field("storage").is_absent() || capacity.len() > 1 {
        errors.push(capacity.unsupported(&["storage"]));
    }
    for (_, amount) in capacity.entries() {
        valid_amount(&amount, errors);
        if amount.quantity().is_some_and(|quantity| quantity.sign() <= 0) {
            errors.push(amount.invalid("must be greater than zero"));
        }
    }
    let policy = spec.field("persistentVolumeReclaimPolicy");
    policy.one_of(&["Delete", "Recycle", "Retain"], errors);
    let affinity = spec.field("nodeAffinity");
    if !affinity.is_absent() {
        volume_affinity(&affinity, errors);
    }
    source(spec, name, errors);
    if policy.text() == "Recycle" && is_root(spec.field("hostPath").field("path").text()) {
        errors.push(policy.forbidden("may not be 'recycle' for a hostPath mount of '/'"));
    }
    spec.field("storageClassName").subdomain(errors);
    spec.field("volumeMode").one_of(&["Block", "Filesystem"], errors);
    let class = spec.field("volumeAttributesClassName");
    if !class.is_absent() {
        if class.must_be_set("an empty string is disallowed", errors) {
            class.subdomain(errors);
        }
        if spec.field("csi").is_absent() {
            errors.push(spec.field("csi").required("has to be specified when using volumeAttributesClassName"));
        }
    }
}

/// Whether a path is the root of the node's files, however it is written.
fn is_root(path: &str) -> bool {
    let mut depth = 0_u32;
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => depth = depth.saturating_sub(1),
            _ => depth += 1,
        }
    }
    path.starts_with('/') && depth == 0
}

fn volume_affinity(affinity: &At<'_>, errors: &mut Errors) {
    let required = affinity.field("required");
    if required.is_absent() {
        errors.push(required.required("must specify required node constraints"));
    } else {
        pod::node_selector(&required, errors);
    }
}

/// The one source of a volume.
fn source(spec: &At<'_>, name: &str, errors: &mut Errors) {
    let mut found = 0;
    for (kind, _) in spec.entries().filter(|(kind, at)| !NO_SOURCE.contains(kind) && !at.is_absent()) {
        let source = spec.field(kind);
        found += 1;
        if found > 1 {
            errors.push(source.forbidden("may not specify more than 1 volume type"));
            continue;
        }
        volume::persistent_source(kind, &source, name, errors);
        if kind == "local" && spec.field("nodeAffinity").is_absent() {
            errors.push(spec.field("nodeAffinity").required("Local volume requires node affinity"));
        }
    }
    if found == 0 {
        errors.push(spec.required("must specify a volume type"));
    }
}

pub(super) fn storage_class(root: &At<'_>, old: Option<&Value>, errors: &mut Errors) {
    if let Some(old) = old {
        for field in ["parameters", "provisioner", "reclaimPolicy"] {
            let at = root.field(field);
            if at.value() != old.get(field).unwrap_or(&Value::Null) {
                errors.push(at.forbidden(format!("updates to {field} are forbidden.")));
            }
        }
        root.field("volumeBindingMode").immutable(old.get("volumeBindingMode").unwrap_or(&Value::Null), errors);
        return;
    }
    provisioner(&root.field("provisioner"), errors);
    parameters(&root.field("parameters"), errors);
    root.field("reclaimPolicy").one_of(&["Delete", "Retain"], errors);
    root.field("volumeBindingMode").must_be_one_of(&["Immediate", "WaitForFirstConsumer"], errors);
    let mut terms: Vec<Vec<(&str, BTreeSet<&str>)>> = Vec::new();
    for term in root.field("allowedTopologies").items() {
        let expressions = term.field("matchLabelExpressions");
        let mut keys: Vec<(&str, BTreeSet<&str>)> = Vec::new();
        for expression in expressions.items() {
            let (key, list) = (expression.field("key"), expression.field("values"));
            let mut values = BTreeSet::new();
            if list.len() == 0 {
                errors.push(list.required(""));
            }
            for value in list.items() {
                if !values.insert(value.text()) {
                    errors.push(value.duplicate());
                }
            }
            key.qualified(errors);
            if keys.iter().any(|(known, _)| *known == key.text()) {
                errors.push(key.duplicate());
            }
            keys.push((key.text(), values));
        }
        keys.sort();
        if terms.contains(&keys) {
            errors.push(FieldError::duplicate(expressions.path(), ""));
        }
        terms.push(keys);
    }
}

fn provisioner(at: &At<'_>, errors: &mut Errors) {
    if at.must_be_set("", errors) {
        at.all(names::qualified_name(&at.text().to_lowercase()), errors);
    }
}

fn parameters(at: &At<'_>, errors: &mut Errors) {
    let (bytes, entries) = MAX_PARAMETERS;
    if at.len() > entries {
        errors.push(FieldError::too_long(at.path(), entries));
        return;
    }
    let mut size = 0;
    for (key, value) in at.entries() {
        if key.is_empty() {
            errors.push(FieldError::invalid(at.path(), key, "field can not be empty."));
        }
        size += key.len() + value.text().len();
    }
    if size > bytes {
        errors.push(FieldError::too_long(at.path(), bytes));
    }
}

pub(super) fn volume_attributes_class(root: &At<'_>, old: Option<&Value>, errors: &mut Errors) {
    for field in ["driverName", "parameters"] {
        let at = root.field(field);
        if old.is_some_and(|old| at.value() != old.get(field).unwrap_or(&Value::Null)) {
            errors.push(at.forbidden(format!("updates to {field} are forbidden.")));
        }
    }
    provisioner(&root.field("driverName"), errors);
    let parameters = root.field("parameters");
    self::parameters(&parameters, errors);
    if parameters.len() == 0 {
        errors.push(parameters.required("must contain at least one key/value pair"));
    }
}

/// A CSIDriver. Upstream tells of `attachRequired` as `attachedRequired`.
pub(super) fn csi_driver(root: &At<'_>, old: Option<&Value>, errors: &mut Errors) {
    let spec = root.field("spec");
    for (field, told) in
        [("attachRequired", "attachedRequired"), ("podInfoOnMount", "podInfoOnMount"), ("storageCapacity", "storageCapacity")]
    {
        if spec.field(field).is_absent() {
            errors.push(FieldError::required(format!("spec.{told}"), ""));
        }
    }
    let policy = spec.field("fsGroupPolicy");
    let policies = ["ReadWriteOnceWithFSType", "File", "None"];
    if !policy.is_absent() && !policies.contains(&policy.text()) {
        errors.push(policy.unsupported(&policies));
    }
    let mut audiences = BTreeSet::new();
    for request in spec.field("tokenRequests").items() {
        let (audience, seconds) = (request.field("audience"), request.field("expirationSeconds"));
        if !audiences.insert(audience.text()) {
            errors.push(FieldError::duplicate(audience.path(), audience.text()));
            continue;
        }
        volume::token_lifetime(&seconds, errors);
    }
    let modes = spec.field("volumeLifecycleModes");
    for mode in modes.texts().filter(|mode| !matches!(*mode, "Persistent" | "Ephemeral")) {
        errors.push(FieldError::not_supported(modes.path(), mode, &["Persistent", "Ephemeral"]));
    }
    if spec.field("seLinuxMount").is_absent() {
        errors.push(spec.field("seLinuxMount").required(""));
    }
    let period = spec.field("nodeAllocatableUpdatePeriodSeconds");
    if period.int().is_some_and(|seconds| seconds < 10) {
        errors.push(period.invalid("must be greater than or equal to 10 seconds"));
    }
    if let Some(old) = old.and_then(|old| old.get("spec")) {
        let before = |field: &str| old.get(field).unwrap_or(&Value::Null);
        spec.field("attachRequired").told_at("spec.attachedRequired").immutable(before("attachRequired"), errors);
        modes.immutable(before("volumeLifecycleModes"), errors);
    }
}

pub(super) fn csi_node(root: &At<'_>, old: Option<&Value>, errors: &mut Errors) {
    let drivers = root.field("spec").field("drivers");
    let known = |name: &str| {
        let list = old.and_then(|old| old.pointer("/spec/drivers")).and_then(Value::as_array);
        list.into_iter().flatten().find(|driver| driver["name"] == name)
    };
    let mut seen = BTreeSet::new();
    for driver in drivers.items() {
        let (name, id) = (driver.field("name"), driver.field("nodeID"));
        name.driver_name(errors);
        id.must_be_set("", errors);
        // An id that was accepted once is not looked at again.
        let accepted = known(name.text()).is_some_and(|old| old["nodeID"] == *id.value());
        if !accepted && id.text().len() > 192 {
            errors.push(id.invalid("must be 192 characters or less"));
        }
        driver.field("allocatable").field("count").non_negative(errors);
        if !seen.insert(name.text()) {
            errors.push(name.duplicate());
        }
        let mut keys = BTreeSet::new();
        for key in driver.field("topologyKeys").texts() {
            if key.is_empty() {
                errors.push(driver.required(""));
            }
            if !keys.insert(key) {
                errors.push(FieldError::duplicate(driver.path(), key));
            }
            let complaints = names::qualified_name(key);
            errors.extend(complaints.into_iter().map(|detail| FieldError::invalid(driver.path(), key, detail)));
        }
    }
    // What a driver said of itself is fixed, but for how many volumes it can attach.
    for driver in drivers.items() {
        let Some(old) = known(driver.field("name").text()) else { continue };
        if ["nodeID", "topologyKeys"].iter().any(|field| driver.field(field).value() != old.get(*field).unwrap_or(&Value::Null)) {
            errors.push(driver.told_at("spec.drivers").invalid("field is immutable"));
        }
    }
}

pub(super) fn csi_storage_capacity(root: &At<'_>, old: Option<&Value>, errors: &mut Errors) {
    if let Some(old) = old {
        for field in ["nodeTopology", "storageClassName"] {
            root.field(field).immutable(old.get(field).unwrap_or(&Value::Null), errors);
        }
        return;
    }
    root.field("nodeTopology").label_selector(errors);
    let class = root.field("storageClassName");
    class.all(names::dns1123_subdomain(class.text()), errors);
    let capacity = root.field("capacity");
    if capacity.quantity().is_some_and(|quantity| quantity.sign() < 0) {
        errors.push(capacity.invalid("must be greater than or equal to 0"));
    }
}

pub(super) fn volume_attachment(root: &At<'_>, old: Option<&Value>, errors: &mut Errors) {
    let spec = root.field("spec");
    let (attacher, source) = (spec.field("attacher"), spec.field("source"));
    attacher.must_be_set("", errors);
    let (inline, name) = (source.field("inlineVolumeSpec"), source.field("persistentVolumeName"));
    let one = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    match (inline.is_absent(), name.is_absent()) {
        (true, true) => errors.push(source.required(one)),
        (false, false) => errors.push(source.forbidden(one)),
        (true, false) => {
            name.must_be_set("must specify non empty persistentVolumeName", errors);
        }
        (false, true) => inline_volume(&inline, errors),
    }
    let node = spec.field("nodeName");
    node.all(names::dns1123_subdomain(node.text()), errors);
    attachment_status(&root.field("status"), errors);
    match old {
        None => {
            attacher.driver_name(errors);
            name.subdomain(errors);
        }
        Some(old) => spec.immutable(old.get("spec").unwrap_or(&Value::Null), errors),
    }
}

/// A volume that a driver serves without a PersistentVolume.
fn inline_volume(spec: &At<'_>, errors: &mut Errors) {
    let inline = "may not be specified in the context of inline volumes";
    let (claim, capacity) = (spec.field("claimRef"), spec.field("capacity"));
    if !claim.is_absent() {
        errors.push(claim.forbidden(inline));
    }
    if capacity.len() > 0 {
        errors.push(capacity.forbidden(inline));
    }
    if spec.field("csi").is_absent() {
        errors.push(spec.field("csi").required("has to be specified in the context of inline volumes"));
    }
    access_modes(spec, "", errors);
    let policy = spec.field("persistentVolumeReclaimPolicy");
    if !matches!(policy.text(), "" | "Retain") {
        errors.push(policy.forbidden("may only be Retain in the context of inline volumes"));
    }
    if !spec.field("nodeAffinity").is_absent() {
        errors.push(spec.field("nodeAffinity").forbidden(inline));
    }
    source(spec, "", errors);
    if !spec.field("storageClassName").text().is_empty() {
        errors.push(spec.field("storageClassName").forbidden(inline));
    }
    let mode = spec.field("volumeMode");
    if !matches!(mode.text(), "" | "Filesystem") {
        errors.push(mode.forbidden("may not specify volumeMode other than Filesystem in the context of inline volumes"));
    }
}

/// How an attachment went.
pub(super) fn attachment_status(status: &At<'_>, errors: &mut Errors) {
    let metadata = status.field("attachmentMetadata");
    if metadata.entries().map(|(key, value)| key.len() + value.text().len()).sum::<usize>() > MAX_ATTACHED_METADATA {
        errors.push(FieldError::too_long(metadata.path(), MAX_ATTACHED_METADATA));
    }
    for field in ["attachError", "detachError"] {
        let error = status.field(field);
        if error.is_absent() {
            continue;
        }
        if error.field("message").text().len() > MAX_ERROR_MESSAGE {
            errors.push(FieldError::too_long(error.field("message").path(), MAX_ATTACHED_METADATA));
        }
        error.field("errorCode").within(0, i64::from(i32::MAX), errors);
    }
}
