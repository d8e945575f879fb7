//! A CustomResourceDefinition, read: its registry rows, its status, what is wrong with it.

use std::{collections::HashMap, sync::Arc};

use pharos_api::{
    registry::{Column, Kind, KindSchema, NameRule, Registry, SelectableField, Storage, Strategy, Subresource, Verbs},
    schema::Str,
    validation::{ErrorType, FieldError},
};
use serde_json::{Value, json};

use super::{
    ScalePaths,
    rules::{Rules, check_definition},
    schema,
};

/// Holds a definition until its objects are gone.
pub(crate) const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

fn text(value: &Value) -> Str {
    value.as_str().unwrap_or_default().to_owned().into()
}

fn texts(value: &Value) -> Vec<Str> {
    value.as_array().into_iter().flatten().map(text).collect()
}

fn versions(definition: &Value) -> impl Iterator<Item = &Value> {
    definition["spec"]["versions"].as_array().into_iter().flatten()
}

/// The registry rows of a definition, and where the scale of each version is.
pub(super) fn kinds(definition: &Value) -> (Vec<Arc<Kind>>, HashMap<String, ScalePaths>) {
    let spec = &definition["spec"];
    let names = &spec["names"];
    let (group, plural, kind) = (text(&spec["group"]), text(&names["plural"]), text(&names["kind"]));
    let storage_version =
        versions(definition).find(|version| version["storage"] == true).map(|version| text(&version["name"])).unwrap_or_default();
    let mut scales = HashMap::new();
    let rows = versions(definition)
        .filter(|version| version["served"] == true)
        .map(|version| {
            let name = text(&version["name"]);
            let subresources = &version["subresources"];
            if subresources["scale"].is_object() {
                let path = |field: &str| subresources["scale"][field].as_str().map(str::to_owned);
                scales.insert(
                    name.to_string(),
                    ScalePaths {
                        spec_replicas: path("specReplicasPath").unwrap_or_default(),
                        status_replicas: path("statusReplicasPath").unwrap_or_default(),
                        label_selector: path("labelSelectorPath"),
                    },
                );
            }
            let singular = match names["singular"].as_str() {
                Some(singular) if !singular.is_empty() => singular.to_owned(),
                _ => kind.to_lowercase(),
            };
            Arc::new(Kind {
                group: group.clone(),
                version: name,
                kind: kind.clone(),
                plural: plural.clone(),
                singular: singular.into(),
                short_names: texts(&names["shortNames"]),
                categories: texts(&names["categories"]),
                namespaced: spec["scope"] == "Namespaced",
                verbs: Verbs::ALL,
                subresources: subresource_rows(&kind, subresources),
                storage: Storage {
                    group: group.clone(),
                    resource: plural.clone(),
                    api_group: group.clone(),
                    version: storage_version.clone(),
                },
                schema: KindSchema::Custom(Arc::new(schema::root(&version["schema"]["openAPIV3Schema"]))),
                fields: selectable(version),
                columns: columns(version),
                strategy: Strategy {
                    status: subresources["status"].is_object(),
                    generation: true,
                    graceful_deletion: false,
                    create_on_update: false,
                    unconditional_update: false,
                    orphan_dependents: false,
                    name: NameRule::Subdomain,
                    virtual_only: false,
                    defaults_on_read: has_default(&version["schema"]["openAPIV3Schema"]),
                },
                custom: true,
            })
        })
        .collect();
    (rows, scales)
}

/// Whether a schema says a default anywhere.
fn has_default(schema: &Value) -> bool {
    let inside = |value: &Value| value.is_object() && has_default(value);
    schema.get("default").is_some()
        || schema["properties"].as_object().is_some_and(|properties| properties.values().any(inside))
        || ["items", "additionalProperties"].iter().any(|place| inside(&schema[*place]))
}

fn subresource_rows(kind: &Str, subresources: &Value) -> Vec<Subresource> {
    let mut rows = Vec::new();
    if subresources["status"].is_object() {
        rows.push(Subresource { name: "status".into(), group_version: None, kind: kind.clone(), verbs: Verbs::STATUS });
    }
    if subresources["scale"].is_object() {
        rows.push(Subresource {
            name: "scale".into(),
            group_version: Some(("autoscaling".into(), "v1".into())),
            kind: "Scale".into(),
            verbs: Verbs::STATUS,
        });
    }
    rows
}

fn selectable(version: &Value) -> Vec<SelectableField> {
    let fields = version["selectableFields"].as_array().into_iter().flatten();
    fields
        .filter_map(|field| {
            let path = field["jsonPath"].as_str()?.trim_start_matches('.').to_owned();
            Some(SelectableField {
                paths: vec![path.split('.').map(|step| step.to_owned().into()).collect()],
                label: path.into(),
                absent: "".into(),
            })
        })
        .collect()
}

fn columns(version: &Value) -> Vec<Column> {
    let columns = version["additionalPrinterColumns"].as_array().into_iter().flatten();
    columns
        .map(|column| Column {
            name: text(&column["name"]),
            ty: column["type"].as_str().unwrap_or("string").to_owned().into(),
            format: text(&column["format"]),
            description: text(&column["description"]),
            priority: column["priority"].as_i64().and_then(|priority| i32::try_from(priority).ok()).unwrap_or(0),
            json_path: text(&column["jsonPath"]),
        })
        .collect()
}

/// Whether a definition has a condition of that status.
pub(super) fn has_condition(definition: &Value, ty: &str, status: &str) -> bool {
    let conditions = definition["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|condition| condition["type"] == ty && condition["status"] == status)
}

/// The reason and text of a clash of names with another kind of the group.
pub(super) fn name_conflict(definition: &Value, registry: &Registry) -> Option<(&'static str, String)> {
    let spec = &definition["spec"];
    let (group, plural) = (text(&spec["group"]), text(&spec["names"]["plural"]));
    let singular = spec["names"]["singular"].as_str().unwrap_or_default();
    let kind = spec["names"]["kind"].as_str().unwrap_or_default();
    let short = texts(&spec["names"]["shortNames"]);
    for other in registry.kinds().filter(|other| other.group == group) {
        if other.plural == plural {
            if !other.custom {
                return Some(("PluralConflict", format!("{plural:?} is already in use")));
            }
            continue; // Its own earlier rows.
        }
        let taken =
            |name: &str| other.plural == name || other.singular == name || other.short_names.iter().any(|short| short == name);
        if taken(&plural) {
            return Some(("PluralConflict", format!("{plural:?} is already in use")));
        }
        if !singular.is_empty() && taken(singular) {
            return Some(("SingularConflict", format!("{singular:?} is already in use")));
        }
        if let Some(short) = short.iter().find(|short| taken(short)) {
            return Some(("ShortNamesConflict", format!("{short:?} is already in use")));
        }
        if other.kind == kind {
            return Some(("KindConflict", format!("{kind:?} is already in use")));
        }
    }
    None
}

/// The status a definition should have.
pub(super) fn status(definition: &Value, conflict: Option<(&'static str, String)>, now: &str) -> Value {
    let spec = &definition["spec"];
    let mut status = definition["status"].clone();
    if !status.is_object() {
        status = json!({});
    }
    let accepted = conflict.is_none();
    if accepted {
        let mut names = spec["names"].clone();
        let kind = spec["names"]["kind"].as_str().unwrap_or_default();
        if names["singular"].as_str().is_none_or(str::is_empty) {
            names["singular"] = json!(kind.to_lowercase());
        }
        if names["listKind"].as_str().is_none_or(str::is_empty) {
            names["listKind"] = json!(format!("{kind}List"));
        }
        status["acceptedNames"] = names;
    } else if !status["acceptedNames"].is_object() {
        status["acceptedNames"] = json!({"plural": "", "kind": ""});
    }
    let mut stored = status["storedVersions"].as_array().cloned().unwrap_or_default();
    for version in versions(definition).filter(|version| version["storage"] == true) {
        if !stored.contains(&version["name"]) {
            stored.push(version["name"].clone());
        }
    }
    status["storedVersions"] = json!(stored);
    let (names_status, reason, message) = match conflict {
        None => ("True", "NoConflicts", "no conflicts found".to_owned()),
        Some((reason, message)) => ("False", reason, message),
    };
    set_condition(&mut status, "NamesAccepted", names_status, reason, &message, now);
    let was = has_condition(definition, "Established", "True");
    if accepted && !was {
        let text = "the initial names have been accepted";
        set_condition(&mut status, "Established", "True", "InitialNamesAccepted", text, now);
    } else if !accepted && !was {
        set_condition(&mut status, "Established", "False", "NotAccepted", "not all names are accepted", now);
    }
    status
}

fn set_condition(status: &mut Value, ty: &str, value: &str, reason: &str, message: &str, now: &str) {
    let mut conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    let condition =
        |since: &Value| json!({"type": ty, "status": value, "reason": reason, "message": message, "lastTransitionTime": since});
    match conditions.iter_mut().find(|condition| condition["type"] == ty) {
        Some(old) => {
            let since = if old["status"] == value { old["lastTransitionTime"].clone() } else { json!(now) };
            let new = condition(&since);
            let same = ["status", "reason", "message"].iter().all(|field| old[*field] == new[*field]);
            if !same {
                *old = new;
            }
        }
        None => conditions.push(condition(&json!(now))),
    }
    status["conditions"] = json!(conditions);
}

/// What is wrong with a definition.
pub(crate) fn validate(definition: &Value) -> Vec<FieldError> {
    let error = crate::strategy::field_error;
    let spec = &definition["spec"];
    let mut errors = Vec::new();
    let wanted = format!("{}.{}", text(&spec["names"]["plural"]), text(&spec["group"]));
    if definition["metadata"]["name"] != wanted {
        errors.push(error(
            ErrorType::Invalid,
            "metadata.name",
            definition["metadata"]["name"].clone(),
            "must be spec.names.plural+\".\"+spec.group",
        ));
    }
    let storage = versions(definition).filter(|version| version["storage"] == true).count();
    if storage != 1 {
        errors.push(error(
            ErrorType::Invalid,
            "spec.versions",
            spec["versions"].clone(),
            "must have exactly one version marked as storage version",
        ));
    }
    for (at, stored) in definition["status"]["storedVersions"].as_array().into_iter().flatten().enumerate() {
        if !versions(definition).any(|version| version["name"] == *stored) {
            let field = format!("status.storedVersions[{at}]");
            errors.push(error(ErrorType::Invalid, &field, stored.clone(), "must appear in spec.versions"));
        }
    }
    for (at, version) in versions(definition).enumerate() {
        if !version["schema"]["openAPIV3Schema"].is_object() {
            let field = format!("spec.versions[{at}].schema.openAPIV3Schema");
            errors.push(error(ErrorType::Required, &field, Value::Null, "schemas are required"));
        } else if version["schema"]["openAPIV3Schema"]["type"] != "object" {
            let field = format!("spec.versions[{at}].schema.openAPIV3Schema.type");
            let found = version["schema"]["openAPIV3Schema"]["type"].clone();
            errors.push(error(ErrorType::Invalid, &field, found, "must be object at the root"));
        }
    }
    if errors.is_empty() {
        errors = rules(definition);
    }
    errors
}

/// What is wrong with validation rules. A schema that all versions share is at the place upstream's internal type has for it.
fn rules(definition: &Value) -> Vec<FieldError> {
    let mut schemas = versions(definition).map(|version| &version["schema"]["openAPIV3Schema"]);
    let Some(first) = schemas.next() else { return Vec::new() };
    if schemas.all(|schema| schema == first) {
        return check_definition(first, "spec.validation.openAPIV3Schema");
    }
    let versions = versions(definition).enumerate();
    versions
        .flat_map(|(at, version)| {
            check_definition(&version["schema"]["openAPIV3Schema"], &format!("spec.versions[{at}].schema.openAPIV3Schema"))
        })
        .collect()
}

/// The validation rules of each version, by its name; those of a schema that did not change are kept.
pub(super) fn compiled_rules(definition: &Value, before: &HashMap<String, Arc<Rules>>) -> HashMap<String, Arc<Rules>> {
    let mut all = HashMap::new();
    for version in versions(definition) {
        let (name, schema) = (text(&version["name"]).to_string(), &version["schema"]["openAPIV3Schema"]);
        let known = before.get(&name).filter(|rules| rules.is_of(schema)).cloned();
        if let Some(rules) = known.or_else(|| Rules::new(schema).map(Arc::new)) {
            all.insert(name, rules);
        }
    }
    all
}
