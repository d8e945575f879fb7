//! Devices: claims of them, their classes, and what nodes have (`pkg/apis/resource/validation/validation.go`). What CEL
//! expressions say is not looked at here.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::at::{At, Errors};
use super::{meta, pod, quota};
use crate::names;
use crate::quantity::Quantity;
use crate::status::FieldError;

const MAX_ITEMS: usize = 32;
const MAX_FIRST_AVAILABLE: usize = 8;
const MAX_EXPRESSION: usize = 10 * 1024;
const MAX_PARAMETERS: usize = 10 * 1024;
const MAX_POOL_NAME: usize = 253;
const MAX_RESERVED: usize = 256;
const MAX_DEVICES: usize = 128;
/// With taints, counters or lists of values there are fewer.
const MAX_ADVANCED_DEVICES: usize = 64;
const MAX_COUNTER_SETS: usize = 8;
const MAX_COUNTERS: usize = 32;
const MAX_CONSUMED_SETS: usize = 2;
const MAX_TAINTS: usize = 16;
const MAX_ATTRIBUTES: usize = 32;
const MAX_ATTRIBUTE_VALUES: usize = 48;
const MAX_VALUE_BYTES: usize = 64;
const MAX_BINDING_CONDITIONS: usize = 4;
const MAX_STATUS_CONDITIONS: usize = 8;
const MAX_STATUS_DATA: usize = 10 * 1024;
const MAX_DISCRETE_VALUES: usize = 10;
const EFFECTS: [&str; 3] = ["NoExecute", "NoSchedule", "None"];

/// The requests of a claim, each with the alternatives it has.
type Requests<'a> = BTreeMap<&'a str, BTreeSet<&'a str>>;

pub(super) fn claim(root: &At<'_>, old: Option<&Value>, errors: &mut Errors) {
    let spec = root.field("spec");
    match old {
        Some(old) => spec.immutable(old.get("spec").unwrap_or(&Value::Null), errors),
        None => device_claim(&spec.field("devices"), errors),
    }
}

pub(super) fn claim_template(root: &At<'_>, old: Option<&Value>, errors: &mut Errors) {
    let spec = root.field("spec");
    match old {
        Some(old) => spec.immutable(old.get("spec").unwrap_or(&Value::Null), errors),
        None => {
            meta::template(&spec.field("metadata"), errors);
            device_claim(&spec.field("spec").field("devices"), errors);
        }
    }
}

pub(super) fn device_class(spec: &At<'_>, old: Option<&Value>, errors: &mut Errors) {
    let stored = |field: &str| {
        let before = old.and_then(|old| old.get("spec")?.get(field));
        before.is_some_and(|before| before == spec.field(field).value())
    };
    selectors(&spec.field("selectors"), stored("selectors"), errors);
    let config = spec.field("config");
    if config.at_most_items(MAX_ITEMS, errors) {
        config.items().for_each(|config| configuration(&config, stored("config"), errors));
    }
    let name = spec.field("extendedResourceName");
    if !name.is_absent() && !quota::is_extended(name.text()) {
        errors.push(name.invalid("must be a valid extended resource name"));
    }
}

fn requests<'a>(devices: &At<'a>) -> Requests<'a> {
    let mut known = Requests::new();
    for request in devices.field("requests").items() {
        let alternatives = request.field("firstAvailable").items().map(|request| request.field("name").text()).collect();
        known.insert(request.field("name").text(), alternatives);
    }
    known
}

fn device_claim(devices: &At<'_>, errors: &mut Errors) {
    let known = requests(devices);
    let (list, constraints, config) = (devices.field("requests"), devices.field("constraints"), devices.field("config"));
    if list.at_most_items(MAX_ITEMS, errors) {
        list.items().for_each(|request| self::request(&request, errors));
        unique(&list, |request| request.field("name").text().to_owned(), errors);
    }
    if constraints.at_most_items(MAX_ITEMS, errors) {
        for constraint in constraints.items() {
            references(&constraint.field("requests"), &known, errors);
            let (same, distinct) = (constraint.field("matchAttribute"), constraint.field("distinctAttribute"));
            match (same.is_absent(), distinct.is_absent()) {
                (true, true) => errors.push(constraint.required(
                    "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set",
                )),
                (false, _) => fully_qualified(&same, errors),
                (true, false) => fully_qualified(&distinct, errors),
            }
        }
    }
    if config.at_most_items(MAX_ITEMS, errors) {
        for config in config.items() {
            references(&config.field("requests"), &known, errors);
            configuration(&config, false, errors);
        }
    }
}

/// No two items of a list have the same key.
fn unique<'a>(list: &At<'a>, key: impl Fn(&At<'a>) -> String, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for item in list.items() {
        let key = key(&item);
        if seen.contains(&key) {
            errors.push(FieldError::duplicate(item.path(), key));
        } else {
            seen.insert(key);
        }
    }
}

fn label(at: &At<'_>, errors: &mut Errors) {
    let complaints = names::dns1123_label(at.text());
    errors.extend(complaints.into_iter().map(|detail| FieldError::invalid(at.path(), at.text(), detail)));
}

fn request(request: &At<'_>, errors: &mut Errors) {
    const ONE: &str = "exactly one of `exactly` or `firstAvailable` is required";
    label(&request.field("name"), errors);
    let (exactly, alternatives) = (request.field("exactly"), request.field("firstAvailable"));
    match (exactly.is_absent(), alternatives.len() == 0) {
        (true, true) => errors.push(request.required(ONE)),
        (false, false) => {
            let detail = format!("{ONE}, but multiple fields are set");
            errors.push(FieldError::invalid(request.path(), Value::Null, detail));
        }
        (false, true) => device_request(&exactly, errors),
        (true, false) => {
            if alternatives.at_most_items(MAX_FIRST_AVAILABLE, errors) {
                for request in alternatives.items() {
                    label(&request.field("name"), errors);
                    device_request(&request, errors);
                }
                unique(&alternatives, |request| request.field("name").text().to_owned(), errors);
            }
        }
    }
}

fn device_request(request: &At<'_>, errors: &mut Errors) {
    let class = request.field("deviceClassName");
    if class.must_be_set("", errors) {
        class.subdomain(errors);
    }
    selectors(&request.field("selectors"), false, errors);
    let (mode, count) = (request.field("allocationMode"), request.field("count"));
    let given = count.int().unwrap_or(0);
    match mode.text() {
        "All" if given != 0 => errors.push(count.invalid("must not be specified when allocationMode is 'All'")),
        "All" => {}
        "ExactCount" if given <= 0 => {
            errors.push(FieldError::invalid(count.path(), given, "must be greater than zero"));
        }
        "ExactCount" => {}
        other => errors.push(FieldError::not_supported(mode.path(), other, &["All", "ExactCount"])),
    }
    request.field("tolerations").items().for_each(|toleration| self::toleration(&toleration, errors));
}

fn toleration(toleration: &At<'_>, errors: &mut Errors) {
    let (key, operator, value, effect) =
        (toleration.field("key"), toleration.field("operator"), toleration.field("value"), toleration.field("effect"));
    if !key.text().is_empty() {
        key.qualified(errors);
    }
    match operator.text() {
        "Exists" if !value.text().is_empty() => errors.push(value.invalid("must be empty for operator `Exists`")),
        "Exists" => {}
        "Equal" => value.all(names::label_value(value.text()), errors),
        "" => errors.push(operator.required("")),
        _ => errors.push(operator.unsupported(&["Equal", "Exists"])),
    }
    effect.one_of(&EFFECTS, errors);
}

fn taint(taint: &At<'_>, known_effect: Option<&str>, errors: &mut Errors) {
    let (value, effect) = (taint.field("value"), taint.field("effect"));
    taint.field("key").qualified(errors);
    value.all(names::label_value(value.text()), errors);
    if known_effect != Some(effect.text()) {
        effect.must_be_one_of(&EFFECTS, errors);
    }
}

fn selectors(selectors: &At<'_>, stored: bool, errors: &mut Errors) {
    if !selectors.at_most_items(MAX_ITEMS, errors) {
        return;
    }
    for selector in selectors.items() {
        let cel = selector.field("cel");
        if cel.is_absent() {
            errors.push(cel.required(""));
        } else if !stored {
            cel.field("expression").at_most_bytes(MAX_EXPRESSION, errors);
        }
    }
}

/// Requests that are named are requests of the claim.
fn references(list: &At<'_>, known: &Requests<'_>, errors: &mut Errors) {
    if list.at_most_items(MAX_ITEMS, errors) {
        list.items().for_each(|name| reference(&name, known, errors));
        unique(list, |name| name.text().to_owned(), errors);
    }
}

fn reference(name: &At<'_>, known: &Requests<'_>, errors: &mut Errors) {
    const DETAIL: &str = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
    if name.text().matches('/').count() > 1 {
        errors.push(name.invalid(DETAIL));
        return;
    }
    for part in name.text().split('/') {
        let complaints = names::dns1123_label(part);
        errors.extend(complaints.into_iter().map(|detail| FieldError::invalid(name.path(), part, detail)));
    }
    let fits = match name.text().split_once('/') {
        Some((request, alternative)) => known.get(request).is_some_and(|known| known.contains(alternative)),
        None => known.contains_key(name.text()),
    };
    if !fits {
        errors.push(name.invalid(DETAIL));
    }
}

fn configuration(config: &At<'_>, stored: bool, errors: &mut Errors) {
    let opaque = config.field("opaque");
    if opaque.is_absent() {
        errors.push(opaque.required(""));
        return;
    }
    opaque.field("driver").driver_name(errors);
    raw(&opaque.field("parameters"), stored, MAX_PARAMETERS, errors);
}

/// An object of somebody else's.
fn raw(at: &At<'_>, stored: bool, most: usize, errors: &mut Errors) {
    if at.is_absent() {
        errors.push(at.required(""));
    } else if !at.value().is_object() {
        errors.push(FieldError::invalid(at.path(), "<value omitted>", "must be a valid JSON object"));
    } else if !stored && at.value().to_string().len() > most {
        errors.push(FieldError::too_long(at.path(), most));
    }
}

/// `domain/identifier`, or an identifier of the driver's own.
fn qualified(at: &At<'_>, name: &str, errors: &mut Errors) {
    match name.split_once('/') {
        None => identifier(at, name, errors),
        Some((_, id)) if id.contains('/') => {
            errors.push(FieldError::invalid(at.path(), name, "must not contain more than one slash"));
        }
        Some((domain, id)) => {
            if domain.is_empty() {
                errors.push(FieldError::invalid(at.path(), "", "the domain must not be empty"));
            } else {
                if domain.len() > 63 {
                    errors.push(FieldError::too_long(at.path(), 63));
                }
                let complaints = names::dns1123_subdomain(&domain.to_lowercase());
                errors.extend(complaints.into_iter().map(|detail| FieldError::invalid(at.path(), domain, detail)));
            }
            if id.is_empty() {
                errors.push(FieldError::invalid(at.path(), "", "the name must not be empty"));
            } else {
                identifier(at, id, errors);
            }
        }
    }
}

fn fully_qualified(at: &At<'_>, errors: &mut Errors) {
    qualified(at, at.text(), errors);
    if !at.text().contains('/') {
        errors.push(at.invalid("a fully qualified name must be a domain and a name separated by a slash"));
    }
}

fn identifier(at: &At<'_>, id: &str, errors: &mut Errors) {
    const MAX_ID: usize = 32;
    if id.len() > MAX_ID {
        errors.push(FieldError::too_long(at.path(), MAX_ID));
    }
    let first = id.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    if !first || !id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        let detail = names::regex_error(
            "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters \
             or '_'",
            "[A-Za-z_][A-Za-z0-9_]*",
            &["my_name", "MY_NAME", "MyName"],
        );
        errors.push(FieldError::invalid(at.path(), id, detail));
    }
}

fn pool_name(name: &At<'_>, errors: &mut Errors) {
    if !name.must_be_set("", errors) {
        return;
    }
    name.at_most_bytes(MAX_POOL_NAME, errors);
    for part in name.text().split('/') {
        let complaints = names::dns1123_subdomain(part);
        errors.extend(complaints.into_iter().map(|detail| FieldError::invalid(name.path(), part, detail)));
    }
}

pub(super) fn resource_slice(spec: &At<'_>, old: Option<&Value>, errors: &mut Errors) {
    let (driver, pool, node) = (spec.field("driver"), spec.field("pool"), spec.field("nodeName"));
    driver.driver_name(errors);
    pool_name(&pool.field("name"), errors);
    let (count, generation) = (pool.field("resourceSliceCount"), pool.field("generation"));
    if count.int().unwrap_or(0) <= 0 {
        errors.push(FieldError::invalid(count.path(), count.int().unwrap_or(0), "must be greater than zero"));
    }
    if generation.int().is_some_and(|n| n < 0) {
        errors.push(generation.invalid("must be greater than or equal to zero"));
    }
    if let Some(old) = old {
        let before = |pointer: &str| old.pointer(pointer).unwrap_or(&Value::Null);
        pool.field("name").immutable(before("/spec/pool/name"), errors);
        driver.immutable(before("/spec/driver"), errors);
        node.immutable(before("/spec/nodeName"), errors);
    }
    let selector = spec.field("nodeSelector");
    if !selector.is_absent() {
        let terms = selector.field("nodeSelectorTerms");
        pod::node_selector(&selector, errors);
        if terms.len() != 1 {
            errors.push(terms.invalid("must have exactly one node selector term"));
        }
    }
    let fields = ["nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection"];
    let set = placement(spec, &fields, "must be either unset or set to a non-empty string", errors);
    let detail = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    match set.as_slice() {
        [] => errors.push(spec.required(detail)),
        [_] => {}
        several => errors.push(FieldError::invalid(
            spec.path(),
            format!("{{{}}}", several.join(", ")),
            format!("{detail}, but multiple fields are set"),
        )),
    }
    let (devices, counters) = (spec.field("devices"), spec.field("sharedCounters"));
    if !devices.is_absent() && !counters.is_absent() {
        errors.push(FieldError::invalid(spec.path(), "", "only one of `sharedCounters` or `devices` is allowed"));
    }
    let advanced = devices.items().any(|device| {
        device.field("taints").len() + device.field("consumesCounters").len() > 0
            || device.field("attributes").entries().any(|(_, value)| LISTS.iter().any(|field| !value.field(field).is_absent()))
    });
    if devices.at_most_items(if advanced { MAX_ADVANCED_DEVICES } else { MAX_DEVICES }, errors) {
        let per_device = spec.field("perDeviceNodeSelection").is_true();
        devices.items().for_each(|device| self::device(&device, per_device, errors));
        unique(&devices, |device| device.field("name").text().to_owned(), errors);
    }
    if counters.at_most_items(MAX_COUNTER_SETS, errors) {
        for set in counters.items() {
            if set.field("name").must_be_set("", errors) {
                set.field("name").label(errors);
            }
            counter_map(&set.field("counters"), errors);
        }
        unique(&counters, |set| set.field("name").text().to_owned(), errors);
    }
}

const LISTS: [&str; 4] = ["bools", "ints", "strings", "versions"];

/// Which of these fields say on which nodes a device is.
fn placement(at: &At<'_>, fields: &[&str], empty: &str, errors: &mut Errors) -> Vec<String> {
    let mut set = Vec::new();
    for field in fields {
        let given = at.field(field);
        if given.is_absent() {
            continue;
        }
        match *field {
            "nodeName" if given.text().is_empty() => errors.push(given.invalid(empty)),
            "nodeName" => {
                given.subdomain(errors);
                set.push("`nodeName`".to_owned());
            }
            "nodeSelector" => set.push("`nodeSelector`".to_owned()),
            _ if given.is_true() => set.push(format!("`{field}`")),
            _ => errors.push(given.invalid("must be either unset or set to true")),
        }
    }
    set
}

fn counter_map(counters: &At<'_>, errors: &mut Errors) {
    if counters.len() == 0 {
        errors.push(counters.required(""));
    } else if counters.at_most_items(MAX_COUNTERS, errors) {
        for (name, _) in counters.entries() {
            let complaints = names::dns1123_label(name);
            errors.extend(complaints.into_iter().map(|detail| FieldError::invalid(counters.path(), name, detail)));
        }
    }
}

fn device(device: &At<'_>, per_device: bool, errors: &mut Errors) {
    label(&device.field("name"), errors);
    let (attributes, capacity) = (device.field("attributes"), device.field("capacity"));
    let total = attributes.len() + capacity.len();
    if total > MAX_ATTRIBUTES {
        let detail = format!("the total number of attributes and capacities must not exceed {MAX_ATTRIBUTES}");
        errors.push(FieldError::invalid(device.path(), total, detail));
    }
    let values: usize =
        attributes.entries().map(|(_, value)| LISTS.iter().map(|field| value.field(field).len()).sum::<usize>().max(1)).sum();
    if values > MAX_ATTRIBUTE_VALUES {
        let detail = format!("the total number of attribute values must not exceed {MAX_ATTRIBUTE_VALUES}");
        errors.push(FieldError::invalid(device.path(), values, detail));
    }
    for (name, value) in attributes.entries() {
        qualified(&attributes, name, errors);
        attribute(&value, errors);
    }
    let shared = device.field("allowMultipleAllocations").is_true();
    for (name, value) in capacity.entries() {
        qualified(&capacity, name, errors);
        let policy = value.field("requestPolicy");
        if policy.is_absent() {
            continue;
        }
        if shared {
            request_policy(&value.field("value"), &policy, errors);
        } else {
            errors.push(policy.forbidden("allowMultipleAllocations must be true"));
        }
    }
    let taints = device.field("taints");
    if taints.at_most_items(MAX_TAINTS, errors) {
        taints.items().for_each(|taint| self::taint(&taint, None, errors));
    }
    let consumed = device.field("consumesCounters");
    if consumed.at_most_items(MAX_CONSUMED_SETS, errors) {
        for set in consumed.items() {
            if set.field("counterSet").must_be_set("", errors) {
                set.field("counterSet").label(errors);
            }
            counter_map(&set.field("counters"), errors);
        }
        unique(&consumed, |set| set.field("counterSet").text().to_owned(), errors);
    }
    let fields = ["nodeName", "nodeSelector", "allNodes"];
    if per_device {
        if !device.field("nodeSelector").is_absent() {
            pod::node_selector(&device.field("nodeSelector"), errors);
        }
        let set = placement(device, &fields, "must not be empty", errors);
        let detail = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set \
                      to true in the ResourceSlice spec";
        match set.as_slice() {
            [] => errors.push(device.required(detail)),
            [_] => {}
            several => errors.push(FieldError::invalid(device.path(), format!("{{{}}}", several.join(", ")), detail)),
        }
    } else if fields.iter().any(|field| !device.field(field).is_absent()) {
        let detail = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in \
                      the ResourceSlice spec";
        errors.push(FieldError::invalid(device.path(), Value::Null, detail));
    }
    binding_conditions(device, errors);
}

fn attribute(value: &At<'_>, errors: &mut Errors) {
    const FIELDS: [&str; 8] = ["bool", "int", "string", "version", "bools", "ints", "strings", "versions"];
    let mut given = 0;
    for field in FIELDS {
        let at = value.field(field);
        if at.is_absent() {
            continue;
        }
        given += 1;
        match field {
            "string" => at.at_most_bytes(MAX_VALUE_BYTES, errors),
            "version" => version(&at, errors),
            _ if LISTS.contains(&field) && at.len() == 0 => errors.push(at.invalid("must not be empty if specified")),
            "strings" => at.items().for_each(|item| item.at_most_bytes(MAX_VALUE_BYTES, errors)),
            "versions" => at.items().for_each(|item| version(&item, errors)),
            _ => {}
        }
    }
    match given {
        0 => errors.push(FieldError::invalid(value.path(), "", "exactly one value must be specified")),
        1 => {}
        _ => errors.push(value.invalid("exactly one value must be specified")),
    }
}

fn version(at: &At<'_>, errors: &mut Errors) {
    if !is_semver(at.text()) {
        errors.push(at.invalid("must be a string compatible with semver.org spec 2.0.0"));
    }
    at.at_most_bytes(MAX_VALUE_BYTES, errors);
}

/// `1.2.3-alpha.1+build.5`.
fn is_semver(text: &str) -> bool {
    let (rest, build) = text.split_once('+').map_or((text, None), |(rest, build)| (rest, Some(build)));
    let (core, pre) = rest.split_once('-').map_or((rest, None), |(core, pre)| (core, Some(pre)));
    let number =
        |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) && (part == "0" || !part.starts_with('0'));
    let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let pre_word = |part: &str| word(part) && (number(part) || !part.bytes().all(|b| b.is_ascii_digit()));
    core.split('.').count() == 3
        && core.split('.').all(number)
        && pre.is_none_or(|pre| pre.split('.').all(pre_word))
        && build.is_none_or(|build| build.split('.').all(word))
}

/// How much of a capacity may be asked for.
fn request_policy(capacity: &At<'_>, policy: &At<'_>, errors: &mut Errors) {
    let (values, range, default) = (policy.field("validValues"), policy.field("validRange"), policy.field("default"));
    let most = capacity.quantity().unwrap_or(Quantity::ZERO);
    if values.len() > 0 && !range.is_absent() {
        errors.push(policy.forbidden(
            "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same time",
        ));
    } else if values.len() > 0 {
        match default.quantity() {
            None => errors.push(default.required("required when validValues is defined")),
            Some(default) => valid_values(&values, default, most, errors),
        }
    } else if !range.is_absent() {
        match default.quantity() {
            None => errors.push(default.required("required when validRange is defined")),
            Some(default) => valid_range(&range, default, most, errors),
        }
    }
}

fn valid_values(values: &At<'_>, default: Quantity, most: Quantity, errors: &mut Errors) {
    let mut last: Option<Quantity> = None;
    for value in values.items() {
        let Some(quantity) = value.quantity() else { continue };
        if last.is_some_and(|last| last > quantity) {
            errors.push(value.invalid("values must be sorted in ascending order"));
        }
        last = Some(quantity);
    }
    if !values.at_most_items(MAX_DISCRETE_VALUES, errors) {
        return;
    }
    for value in values.items() {
        if value.quantity().is_some_and(|quantity| quantity > most) {
            errors.push(value.invalid(format!("option is larger than capacity value: {most}")));
        }
    }
    unique(values, |value| value.quantity().unwrap_or(Quantity::ZERO).value().to_string(), errors);
    if !values.items().any(|value| value.quantity() == Some(default)) {
        let detail = "default value is not valid according to the requestPolicy";
        errors.push(FieldError::invalid(values.path(), default.to_string(), detail));
    }
}

fn valid_range(range: &At<'_>, default: Quantity, most: Quantity, errors: &mut Errors) {
    let (low, high, step) = (range.field("min"), range.field("max"), range.field("step"));
    let Some(min) = low.quantity() else {
        errors.push(low.required("required when validRange is defined"));
        return;
    };
    let mut wrong = |field: &str, value: Quantity, detail: String| {
        errors.push(FieldError::invalid(format!("{}.{field}", range.path()), value.to_string(), detail));
    };
    if min > most {
        wrong("min", min, format!("min is larger than capacity value: {most}"));
    }
    if default < min {
        wrong("default", default, format!("default is less than min: {min}"));
    }
    if let Some(max) = high.quantity() {
        if min > max {
            wrong("max", min, format!("min is larger than max: {max}"));
        }
        if max > most {
            wrong("max", max, format!("max is larger than capacity value: {most}"));
        }
        if default > max {
            wrong("default", default, format!("default is more than max: {max}"));
        }
    }
    let Some(step) = step.quantity() else { return };
    if step.sign() <= 0 {
        wrong("step", step, "must be greater than zero".to_owned());
        return;
    }
    if min + step > most {
        wrong("step", step, format!("one step {} is larger than capacity value: {most}", min + step));
    }
    for value in std::iter::once(default).chain(high.quantity()) {
        if (value.nanos() - min.nanos()) % step.nanos() != 0 {
            wrong("step", value, format!("value is not a multiple of a given step ({step}) from ({min})"));
        }
    }
}

/// Conditions a pod waits for, and those that say it waits in vain.
fn binding_conditions(device: &At<'_>, errors: &mut Errors) {
    let (wanted, failed) = (device.field("bindingConditions"), device.field("bindingFailureConditions"));
    for list in [&wanted, &failed] {
        if list.at_most_items(MAX_BINDING_CONDITIONS, errors) {
            list.items().for_each(|condition| condition.qualified(errors));
        }
    }
    unique(&wanted, |condition| condition.text().to_owned(), errors);
    unique(&failed, |condition| condition.text().to_owned(), errors);
    for condition in failed.items().filter(|condition| wanted.texts().any(|other| other == condition.text())) {
        errors.push(condition.invalid("bindingFailureConditions must not overlap with bindingConditions"));
    }
    if wanted.len() == 0 && failed.len() > 0 {
        errors.push(wanted.invalid("bindingConditions are required to use bindingFailureConditions"));
    }
    if failed.len() == 0 && wanted.len() > 0 {
        errors.push(failed.invalid("bindingFailureConditions are required to use bindingConditions"));
    }
}

pub(super) fn taint_rule(spec: &At<'_>, old: Option<&Value>, errors: &mut Errors) {
    let selector = spec.field("deviceSelector");
    if !selector.field("driver").is_absent() {
        selector.field("driver").driver_name(errors);
    }
    if !selector.field("pool").is_absent() {
        pool_name(&selector.field("pool"), errors);
    }
    if !selector.field("device").is_absent() {
        label(&selector.field("device"), errors);
    }
    let known = old.and_then(|old| old.pointer("/spec/taint/effect")?.as_str());
    taint(&spec.field("taint"), known, errors);
}

pub(super) fn taint_rule_status(status: &At<'_>, errors: &mut Errors) {
    status.field("conditions").at_most_items(MAX_STATUS_CONDITIONS, errors);
}

/// What a claim was given, by whom it is used, and what its devices say of themselves.
pub(super) fn claim_status(root: &At<'_>, old: &Value, errors: &mut Errors) {
    let status = root.field("status");
    let (users, allocation) = (status.field("reservedFor"), status.field("allocation"));
    if users.at_most_items(MAX_RESERVED, errors) {
        for user in users.items() {
            for field in ["resource", "name", "uid"] {
                user.field(field).must_be_set("", errors);
            }
        }
        unique(&users, |user| user.field("uid").text().to_owned(), errors);
    }
    let device_of = |at: &At<'_>| {
        let field = |name: &str| at.field(name).text().to_owned();
        (field("driver"), field("pool"), field("device"), field("shareID"))
    };
    let given: BTreeSet<_> = allocation.field("devices").field("results").items().map(|result| device_of(&result)).collect();
    let devices = status.field("devices");
    for device in devices.items() {
        device.field("driver").driver_name(errors);
        pool_name(&device.field("pool"), errors);
        label(&device.field("device"), errors);
        let id = device_of(&device);
        if !given.contains(&id) {
            let shown = format!("{}/{}/{}", id.0, id.1, id.2);
            errors.push(FieldError::invalid(device.path(), shown, "must be an allocated device in the claim"));
        }
        device.field("conditions").at_most_items(MAX_STATUS_CONDITIONS, errors);
        if !device.field("data").is_absent() {
            raw(&device.field("data"), false, MAX_STATUS_DATA, errors);
        }
    }
    let before = old.pointer("/status/allocation").unwrap_or(&Value::Null);
    if users.len() > 0 {
        let deleted = !root.field("metadata").field("deletionTimestamp").is_absent();
        let known = old.pointer("/status/reservedFor").and_then(Value::as_array);
        let fresh = || users.items().any(|user| !known.is_some_and(|known| known.contains(user.value())));
        if allocation.is_absent() {
            errors.push(users.forbidden("may not be specified when `allocated` is not set"));
        } else if deleted && fresh() {
            errors.push(
                users.forbidden("new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set"),
            );
        }
    }
    if !allocation.is_absent() && !before.is_null() {
        allocation.immutable(before, errors);
    } else if !allocation.is_absent() {
        self::allocation(&allocation, &requests(&root.field("spec").field("devices")), errors);
    }
}

fn allocation(allocation: &At<'_>, known: &Requests<'_>, errors: &mut Errors) {
    let devices = allocation.field("devices");
    let (results, config) = (devices.field("results"), devices.field("config"));
    if results.at_most_items(MAX_ITEMS, errors) {
        for result in results.items() {
            reference(&result.field("request"), known, errors);
            result.field("driver").driver_name(errors);
            pool_name(&result.field("pool"), errors);
            label(&result.field("device"), errors);
            binding_conditions(&result, errors);
            result.field("tolerations").items().for_each(|toleration| self::toleration(&toleration, errors));
        }
    }
    if config.at_most_items(2 * MAX_ITEMS, errors) {
        for config in config.items() {
            config.field("source").must_be_one_of(&["FromClaim", "FromClass"], errors);
            references(&config.field("requests"), known, errors);
            configuration(&config, false, errors);
        }
    }
    if !allocation.field("nodeSelector").is_absent() {
        pod::node_selector(&allocation.field("nodeSelector"), errors);
    }
}
