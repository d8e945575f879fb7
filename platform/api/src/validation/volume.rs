//! Volumes of pods.

use std::collections::BTreeSet;

use super::at::{At, Errors};
use super::container;
use crate::names;

/// Every volume; gives the names that mounts may use.
pub(super) fn list<'a>(volumes: &At<'a>, errors: &mut Errors) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    for volume in volumes.items() {
        let name = volume.field("name");
        if name.must_be_set("", errors) {
            name.all(names::dns1123_label(name.text()), errors);
            if !seen.insert(name.text()) {
                errors.push(name.duplicate());
            }
        }
        source(&volume, errors);
    }
    seen
}

fn source(volume: &At<'_>, errors: &mut Errors) {
    let mut found = 0;
    for (kind, _) in volume.entries().filter(|(kind, at)| *kind != "name" && !at.is_absent()) {
        let at = volume.field(kind);
        found += 1;
        if found > 1 {
            errors.push(at.forbidden("may not specify more than 1 volume type"));
            continue;
        }
        one(kind, &at, errors);
    }
    if found == 0 {
        errors.push(volume.required("must specify a volume type"));
    }
}

fn one(kind: &str, at: &At<'_>, errors: &mut Errors) {
    match kind {
        "emptyDir" if at.field("sizeLimit").quantity().is_some_and(|q| q.sign() < 0) => {
            errors.push(at.field("sizeLimit").forbidden("SizeLimit field must be a valid resource quantity"));
        }
        "hostPath" => host_path(at, errors),
        "secret" => {
            at.field("secretName").must_be_set("", errors);
            modes(at, errors);
        }
        "configMap" => {
            at.field("name").must_be_set("", errors);
            modes(at, errors);
        }
        "downwardAPI" => {
            mode(&at.field("defaultMode"), errors);
            downward(&at.field("items"), errors);
        }
        "projected" => projected(at, errors),
        "persistentVolumeClaim" => drop(at.field("claimName").must_be_set("", errors)),
        "nfs" => {
            at.field("server").must_be_set("", errors);
            at.field("path").must_be_set("", errors);
            if !at.field("path").text().is_empty() && !at.field("path").text().starts_with('/') {
                errors.push(at.field("path").invalid("must be an absolute path"));
            }
        }
        "csi" => drop(at.field("driver").must_be_set("", errors)),
        "ephemeral" => drop(at.field("volumeClaimTemplate").must_be_set("", errors)),
        "image" => at.field("pullPolicy").one_of(&["Always", "IfNotPresent", "Never"], errors),
        _ => {}
    }
}

/// A path on the node.
pub(super) fn host_path(at: &At<'_>, errors: &mut Errors) {
    let path = at.field("path");
    if path.must_be_set("", errors) && path.text().split('/').any(|part| part == "..") {
        errors.push(path.invalid("must not contain '..'"));
    }
    let types = ["", "DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice", "BlockDevice"];
    at.field("type").one_of(&types, errors);
}

fn mode(mode: &At<'_>, errors: &mut Errors) {
    if mode.int().is_some_and(|m| !(0..=0o777).contains(&m)) {
        errors.push(mode.invalid("must be a number between 0 and 0777 (octal), both inclusive"));
    }
}

fn modes(at: &At<'_>, errors: &mut Errors) {
    mode(&at.field("defaultMode"), errors);
    items(&at.field("items"), errors);
}

fn items(items: &At<'_>, errors: &mut Errors) {
    for item in items.items() {
        item.field("key").must_be_set("", errors);
        let path = item.field("path");
        if path.must_be_set("", errors) {
            path.descending_path(errors);
            if path.text().starts_with("..") {
                errors.push(path.invalid("must not start with '..'"));
            }
        }
        mode(&item.field("mode"), errors);
    }
}

fn downward(items: &At<'_>, errors: &mut Errors) {
    const FIELDS: [&str; 5] = ["metadata.name", "metadata.namespace", "metadata.labels", "metadata.annotations", "metadata.uid"];
    for item in items.items() {
        let path = item.field("path");
        if path.must_be_set("", errors) {
            path.descending_path(errors);
        }
        mode(&item.field("mode"), errors);
        let (field, resource) = (item.field("fieldRef"), item.field("resourceFieldRef"));
        match (field.is_absent(), resource.is_absent()) {
            (true, true) => errors.push(item.required("one of fieldRef and resourceFieldRef must be specified")),
            (false, false) => errors.push(resource.invalid("fieldRef and resourceFieldRef can not be specified simultaneously")),
            (false, true) => {
                let path = field.field("fieldPath");
                let keyed = ["metadata.labels['", "metadata.annotations['"].iter().any(|p| path.text().starts_with(p));
                if path.must_be_set("", errors) && !keyed {
                    path.one_of(&FIELDS, errors);
                }
            }
            (true, false) => {
                resource.field("containerName").must_be_set("", errors);
                resource.field("resource").must_be_set("", errors);
            }
        }
    }
}

fn projected(at: &At<'_>, errors: &mut Errors) {
    mode(&at.field("defaultMode"), errors);
    for source in at.field("sources").items() {
        let given = source.entries().filter(|(_, at)| !at.is_absent()).count();
        if given > 1 {
            errors.push(source.forbidden("may not specify more than 1 volume type"));
        }
        for kind in ["secret", "configMap"] {
            let projection = source.field(kind);
            if !projection.is_absent() {
                projection.field("name").must_be_set("", errors);
                items(&projection.field("items"), errors);
            }
        }
        downward(&source.field("downwardAPI").field("items"), errors);
        let token = source.field("serviceAccountToken");
        if !token.is_absent() {
            token.field("path").must_be_set("", errors);
            let seconds = token.field("expirationSeconds");
            if seconds.int().is_some_and(|s| s < 600) {
                errors.push(seconds.invalid("may not specify a duration less than 10 minutes"));
            }
            if seconds.int().is_some_and(|s| s > 1 << 32) {
                errors.push(seconds.invalid("may not specify a duration larger than 2^32 seconds"));
            }
        }
    }
}

/// The keys of a ConfigMap's or Secret's data.
pub(super) fn keys(data: &At<'_>, errors: &mut Errors) {
    for (key, at) in data.entries() {
        let complaints = container::key_complaints(key);
        errors.extend(complaints.into_iter().map(|detail| crate::status::FieldError::invalid(at.path(), key, detail)));
    }
}
