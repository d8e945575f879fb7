//! Volumes of pods, and the sources PersistentVolumes share with them (`pkg/apis/core/validation/validation.go`).

use std::collections::{BTreeMap, BTreeSet};

use super::at::{At, Errors};
use super::{certificates, container, meta, storage, trust};
use crate::names;
use crate::status::FieldError;

/// The sources that a volume of a pod has, by its name.
pub(super) type Volumes<'a> = BTreeMap<&'a str, &'a str>;

/// Every volume; gives those that mounts may use. `pod` is the pod's name, if there is a pod yet.
pub(super) fn list<'a>(volumes: &At<'a>, pod: Option<&str>, errors: &mut Errors) -> Volumes<'a> {
    let mut known = Volumes::new();
    let claims = |name: &str| {
        pod.is_some_and(|pod| {
            let made = name.strip_prefix(pod).and_then(|rest| rest.strip_prefix('-'));
            made.is_some_and(|made| {
                volumes.items().any(|volume| volume.field("name").text() == made && !volume.field("ephemeral").is_absent())
            })
        })
    };
    for volume in volumes.items() {
        let before = errors.len();
        let name = volume.field("name");
        let source = self::source(&volume, pod, errors);
        if name.must_be_set("", errors) {
            name.all(names::dns1123_label(name.text()), errors);
        }
        if known.contains_key(name.text()) {
            errors.push(name.duplicate());
        }
        if errors.len() == before {
            known.insert(name.text(), source);
        }
        let claim = volume.field("persistentVolumeClaim").field("claimName");
        if !claim.text().is_empty() && claims(claim.text()) {
            errors.push(claim.invalid("must not reference a PVC that gets created for an ephemeral volume"));
        }
    }
    known
}

fn source<'a>(volume: &At<'a>, pod: Option<&str>, errors: &mut Errors) -> &'a str {
    let mut found = "";
    for (kind, _) in volume.entries().filter(|(kind, at)| *kind != "name" && !at.is_absent()) {
        let at = volume.field(kind);
        if !found.is_empty() {
            errors.push(at.forbidden("may not specify more than 1 volume type"));
            continue;
        }
        found = kind;
        one(kind, &at, volume.field("name").text(), pod, errors);
    }
    if found.is_empty() {
        errors.push(volume.required("must specify a volume type"));
    }
    found
}

fn one(kind: &str, at: &At<'_>, name: &str, pod: Option<&str>, errors: &mut Errors) {
    match kind {
        "emptyDir" => {
            if at.field("sizeLimit").quantity().is_some_and(|quantity| quantity.sign() < 0) {
                errors.push(at.field("sizeLimit").forbidden("SizeLimit field must be a valid resource quantity"));
            }
        }
        "gitRepo" => {
            at.field("repository").must_be_set("", errors);
            at.field("directory").descending_path(errors);
        }
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
            downward(at, errors);
        }
        "projected" => projected(at, errors),
        "persistentVolumeClaim" => {
            at.field("claimName").must_be_set("", errors);
        }
        "csi" => {
            at.field("driver").driver_name(errors);
            let secret = at.field("nodePublishSecretRef");
            if !secret.is_absent() && secret.field("name").must_be_set("", errors) {
                secret.field("name").told_at(format!("{}.name", at.path())).subdomain(errors);
            }
        }
        "ephemeral" => {
            claim_template(&at.field("volumeClaimTemplate"), errors);
            if let Some(pod) = pod.filter(|_| !name.is_empty()) {
                let claim = format!("{pod}-{name}");
                for complaint in names::dns1123_subdomain(&claim) {
                    let path = at.path();
                    let path = path.strip_suffix("ephemeral").map_or_else(|| path.clone(), |base| format!("{base}name"));
                    errors.push(FieldError::invalid(path, name, format!("PVC name {claim:?}: {complaint}")));
                }
            }
        }
        "image" => {
            if pod.is_some() {
                at.field("reference").must_be_set("", errors);
            }
            at.field("pullPolicy").must_be_one_of(&["Always", "IfNotPresent", "Never"], errors);
        }
        "iscsi" => {
            iscsi(at, false, errors);
            if !at.field("initiatorName").is_absent() && name.len() + 1 + at.field("targetPortal").text().len() > 64 {
                let path = at.path();
                let path = path.strip_suffix("iscsi").map_or_else(|| path.clone(), |base| format!("{base}name"));
                errors.push(FieldError::invalid(path, name, TOO_LONG_PORTAL));
            }
        }
        "storageos" => storage_os(at, false, errors),
        _ => shared(kind, at, false, errors),
    }
}

const TOO_LONG_PORTAL: &str =
    "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";

/// A source of a PersistentVolume.
pub(super) fn persistent_source(kind: &str, at: &At<'_>, volume: &str, errors: &mut Errors) {
    match kind {
        "local" => {
            let path = at.field("path");
            if path.must_be_set("", errors) {
                no_backsteps(&path, errors);
            }
        }
        "csi" => {
            at.field("driver").driver_name(errors);
            at.field("volumeHandle").must_be_set("", errors);
            for field in
                ["controllerPublishSecretRef", "controllerExpandSecretRef", "nodePublishSecretRef", "nodeExpandSecretRef"]
            {
                let secret = at.field(field);
                if secret.is_absent() {
                    continue;
                }
                let (name, namespace) = (secret.field("name"), secret.field("namespace"));
                if name.must_be_set("", errors) {
                    name.subdomain(errors);
                }
                if namespace.must_be_set("", errors) {
                    namespace.label(errors);
                }
            }
        }
        "iscsi" => {
            let portal = at.field("targetPortal");
            if !at.field("initiatorName").is_absent() && volume.len() + 1 + portal.text().len() > 64 {
                let path = format!("{}.targetportal", at.path());
                errors.push(FieldError::invalid(path, portal.text(), TOO_LONG_PORTAL));
            }
            iscsi(at, true, errors);
        }
        "glusterfs" => {
            shared(kind, at, true, errors);
            let namespace = at.field("endpointsNamespace");
            if namespace.value() == "" {
                errors.push(namespace.invalid("if the endpointnamespace is set, it must be a valid namespace name"));
            }
            namespace.label(errors);
        }
        "storageos" => storage_os(at, true, errors),
        _ => shared(kind, at, true, errors),
    }
}

/// The sources that volumes of pods and PersistentVolumes have in common; `persistent` asks a bit more of a few.
fn shared(kind: &str, at: &At<'_>, persistent: bool, errors: &mut Errors) {
    let needed: &[&str] = match kind {
        "nfs" => &["server", "path"],
        "glusterfs" => &["endpoints", "path"],
        "rbd" => &["monitors", "image"],
        "cephfs" => &["monitors"],
        "cinder" | "awsElasticBlockStore" | "portworxVolume" => &["volumeID"],
        "gcePersistentDisk" => &["pdName"],
        "flexVolume" => &["driver"],
        "azureFile" => &["secretName", "shareName"],
        "azureDisk" => &["diskName", "diskURI"],
        "vsphereVolume" => &["volumePath"],
        "photonPersistentDisk" => &["pdID"],
        "scaleIO" => &["gateway", "system", "volumeName"],
        _ => &[],
    };
    // Upstream tells of this one by another name.
    let renamed;
    let at = if kind == "gcePersistentDisk" {
        renamed = at.told_at(at.path().replace("gcePersistentDisk", "persistentDisk"));
        &renamed
    } else {
        at
    };
    for field in needed {
        at.field(field).must_be_set("", errors);
    }
    match kind {
        "hostPath" => host_path(at, errors),
        "nfs" => {
            let path = at.field("path");
            if !path.text().starts_with('/') {
                errors.push(FieldError::invalid(path.path(), path.text(), "must be an absolute path"));
            }
        }
        "gcePersistentDisk" | "awsElasticBlockStore" => {
            let partition = at.field("partition");
            if partition.int().is_some_and(|n| !(0..=255).contains(&n)) {
                // Upstream's words for it.
                errors.push(partition.invalid("must be between 1 and 255, inclusive"));
            }
        }
        "fc" => fibre_channel(at, errors),
        "flexVolume" => {
            for (key, option) in at.field("options").entries() {
                let domain = format!(".{}", key.split_once('/').map_or(key, |(domain, _)| domain).to_lowercase());
                if domain.ends_with(".kubernetes.io") || domain.ends_with(".k8s.io") {
                    let detail = "kubernetes.io and k8s.io namespaces are reserved";
                    errors.push(FieldError::invalid(option.path(), key, detail));
                }
            }
        }
        "flocker" => flocker(at, errors),
        "quobyte" => quobyte(at, errors),
        "cinder" => {
            let secret = at.field("secretRef");
            if !secret.is_absent() {
                secret.field("name").must_be_set("", errors);
                if persistent {
                    secret.field("namespace").must_be_set("", errors);
                }
            }
        }
        "azureFile" if persistent && at.field("secretNamespace").value() == "" => {
            errors.push(at.field("secretNamespace").required(""));
        }
        "azureDisk" => azure_disk(at, errors),
        _ => {}
    }
}

fn fibre_channel(at: &At<'_>, errors: &mut Errors) {
    let (names, ids, lun) = (at.field("targetWWNs"), at.field("wwids"), at.field("lun"));
    match (names.len(), ids.len()) {
        (0, 0) => errors.push(names.required("must specify either targetWWNs or wwids, but not both")),
        (1.., 1..) => errors.push(names.invalid("targetWWNs and wwids can not be specified simultaneously")),
        _ => {}
    }
    if names.len() > 0 {
        if lun.is_absent() {
            errors.push(lun.required("lun is required if targetWWNs is specified"));
        }
        lun.within(0, 255, errors);
    }
}

fn flocker(at: &At<'_>, errors: &mut Errors) {
    let (name, id) = (at.field("datasetName"), at.field("datasetUUID"));
    match (name.text().is_empty(), id.text().is_empty()) {
        (true, true) => errors.push(at.required("one of datasetName and datasetUUID is required")),
        (false, false) => {
            let detail = "datasetName and datasetUUID can not be specified simultaneously";
            errors.push(FieldError::invalid(at.path(), "resource", detail));
        }
        _ => {}
    }
    if name.text().contains('/') {
        errors.push(name.invalid("must not contain '/'"));
    }
}

fn quobyte(at: &At<'_>, errors: &mut Errors) {
    const PAIRS: &str = "must be a host:port pair or multiple pairs separated by commas";
    let registry = at.field("registry");
    if registry.must_be_set(PAIRS, errors) {
        if at.field("tenant").text().len() >= 65 {
            let detail = "must be a UUID and may not exceed a length of 64 characters";
            errors.push(at.field("tenant").required(detail));
        } else {
            for pair in registry.text().split(',') {
                let host = pair.rsplit_once(':').map(|(host, _)| host);
                if host.is_none_or(|host| host.contains(':') && !(host.starts_with('[') && host.ends_with(']'))) {
                    errors.push(registry.invalid(PAIRS));
                }
            }
        }
    }
    at.field("volume").must_be_set("", errors);
}

fn azure_disk(at: &At<'_>, errors: &mut Errors) {
    at.field("cachingMode").one_of(&["None", "ReadOnly", "ReadWrite"], errors);
    let (kind, uri) = (at.field("kind"), at.field("diskURI"));
    kind.one_of(&["Shared", "Dedicated", "Managed"], errors);
    if kind.text() == "Managed" && !uri.text().starts_with("/subscriptions/") {
        errors.push(FieldError::not_supported(
            uri.path(),
            uri.text(),
            &["/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"],
        ));
    }
    if !matches!(kind.text(), "" | "Managed") && !uri.text().starts_with("https://") {
        let pattern = "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd";
        errors.push(FieldError::not_supported(uri.path(), uri.text(), &[pattern]));
    }
}

fn storage_os(at: &At<'_>, persistent: bool, errors: &mut Errors) {
    if at.field("volumeName").must_be_set("", errors) {
        at.field("volumeName").label(errors);
    }
    at.field("volumeNamespace").label(errors);
    let secret = at.field("secretRef");
    if !secret.is_absent() {
        secret.field("name").must_be_set("", errors);
        if persistent {
            secret.field("namespace").must_be_set("", errors);
        }
    }
}

fn iscsi(at: &At<'_>, persistent: bool, errors: &mut Errors) {
    const FORMAT: &str = "must be valid format";
    const START: &str = "must be valid format starting with iqn, eui, or naa";
    let start = if persistent { FORMAT } else { START };
    at.field("targetPortal").must_be_set("", errors);
    let name = at.field("iqn");
    if name.must_be_set("", errors) {
        if !["iqn", "eui", "naa"].iter().any(|kind| name.text().starts_with(kind)) {
            errors.push(name.invalid(start));
        } else if !is_initiator(name.text()) {
            errors.push(name.invalid(FORMAT));
        }
    }
    at.field("lun").within(0, 255, errors);
    let secret = at.field("secretRef");
    let chap = at.field("chapAuthDiscovery").is_true() || at.field("chapAuthSession").is_true();
    if chap && secret.is_absent() {
        errors.push(secret.required(""));
    }
    if persistent && !secret.is_absent() {
        secret.field("name").must_be_set("", errors);
    }
    let initiator = at.field("initiatorName").told_at(format!("{}.initiatorname", at.path()));
    if !initiator.is_absent() {
        if !["iqn", "eui", "naa"].iter().any(|kind| initiator.text().starts_with(kind)) {
            errors.push(initiator.invalid(start));
        } else if !is_initiator(initiator.text()) {
            errors.push(initiator.invalid(FORMAT));
        }
    }
}

/// `iqn.2001-04.com.example:storage`, `eui.` and 16 letters or digits, or `naa.` and 32.
fn is_initiator(text: &str) -> bool {
    let id = |text: &str, length: usize| text.len() == length && text.bytes().all(|b| b.is_ascii_alphanumeric());
    if let Some(rest) = text.strip_prefix("eui.") {
        return id(rest, 16);
    }
    if let Some(rest) = text.strip_prefix("naa.") {
        return id(rest, 32);
    }
    let Some((head, name)) = text.strip_prefix("iqn.").and_then(|rest| rest.split_once(':')) else { return false };
    let Some((date, domain)) = head.split_once('.') else { return false };
    let is_date = date.len() == 7 && date.bytes().enumerate().all(|(at, b)| if at == 4 { b == b'-' } else { b.is_ascii_digit() });
    let is_domain = !domain.is_empty() && domain.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'));
    let is_name = !name.is_empty() && !name.contains([',', ';', '*', '&', '$', '|', ' ', '\t', '\n', '\x0c', '\r']);
    is_date && is_domain && is_name
}

/// A path on the node.
pub(super) fn host_path(at: &At<'_>, errors: &mut Errors) {
    const TYPES: [&str; 8] =
        ["", "DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice", "BlockDevice"];
    let path = at.field("path");
    if path.must_be_set("", errors) {
        no_backsteps(&path, errors);
        at.field("type").one_of(&TYPES, errors);
    }
}

fn no_backsteps(path: &At<'_>, errors: &mut Errors) {
    if path.text().split('/').any(|part| part == "..") {
        errors.push(path.invalid("must not contain '..'"));
    }
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

/// A path below a volume that does not begin with what the kubelet keeps to itself.
fn local_path(path: &At<'_>, errors: &mut Errors) {
    path.descending_path(errors);
    if path.text().starts_with("..") && !path.text().starts_with("../") && path.text() != ".." {
        errors.push(path.invalid("must not start with '..'"));
    }
}

fn items(items: &At<'_>, errors: &mut Errors) {
    for item in items.items() {
        item.field("key").must_be_set("", errors);
        let path = item.field("path");
        path.must_be_set("", errors);
        local_path(&path, errors);
        mode(&item.field("mode"), errors);
    }
}

/// What a pod knows of itself, as files. Upstream tells of the list's owner, not of the item.
fn downward(at: &At<'_>, errors: &mut Errors) {
    const FIELDS: [&str; 5] = ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
    for item in at.field("items").items() {
        let item = item.told_at(at.path());
        let path = item.field("path");
        path.must_be_set("", errors);
        local_path(&path, errors);
        let (field, resource) = (item.field("fieldRef"), item.field("resourceFieldRef"));
        if !field.is_absent() {
            container::field_ref(&field, &FIELDS, errors);
            if !resource.is_absent() {
                let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errors.push(FieldError::invalid(item.path(), "resource", detail));
            }
        } else if !resource.is_absent() {
            container::resource_field_ref(&resource, true, errors);
        } else {
            errors.push(item.required("one of fieldRef and resourceFieldRef is required"));
        }
        mode(&item.field("mode"), errors);
    }
}

fn projected(at: &At<'_>, errors: &mut Errors) {
    mode(&at.field("defaultMode"), errors);
    let mut paths: BTreeSet<&str> = BTreeSet::new();
    for source in at.field("sources").items() {
        let given = source.entries().filter(|(_, at)| !at.is_absent()).count();
        for kind in ["secret", "configMap"] {
            let projection = source.field(kind);
            if projection.is_absent() {
                continue;
            }
            let name = projection.field("name");
            name.must_be_set("", errors);
            let list = projection.field("items");
            items(&list, errors);
            for item in list.items() {
                let path = item.field("path").text();
                if !path.is_empty() && !paths.insert(path) {
                    errors.push(FieldError::invalid(at.path(), name.text(), "conflicting duplicate paths"));
                }
            }
        }
        let own = source.field("downwardAPI");
        if !own.is_absent() {
            downward(&own, errors);
            for item in own.field("items").items() {
                let path = item.field("path").text();
                if !path.is_empty() && !paths.insert(path) {
                    errors.push(FieldError::invalid(at.path(), path, "conflicting duplicate paths"));
                }
            }
        }
        let token = source.field("serviceAccountToken");
        if !token.is_absent() {
            token_lifetime(&token.field("expirationSeconds"), errors);
            let path = token.field("path").told_at(format!("{}.path", at.path()));
            if path.must_be_set("", errors) {
                local_path(&path, errors);
            }
        }
        let bundle = source.field("clusterTrustBundle");
        if !bundle.is_absent() {
            trust_bundle(&bundle, errors);
            let path = bundle.field("path").text();
            if !paths.insert(path) {
                errors.push(FieldError::invalid(at.path(), path, "conflicting duplicate paths"));
            }
        }
        let certificate = source.field("podCertificate");
        if !certificate.is_absent() {
            pod_certificate(&certificate, errors);
            let files = ["credentialBundlePath", "keyPath", "certificateChainPath"];
            for path in files.iter().map(|field| certificate.field(field).text()).filter(|path| !path.is_empty()) {
                if !paths.insert(path) {
                    errors.push(FieldError::invalid(at.path(), path, "conflicting duplicate paths"));
                }
            }
        }
        if given > 1 {
            errors.push(source.forbidden("may not specify more than 1 volume type per source"));
        }
    }
}

/// How long a token is good for, in seconds.
pub(super) fn token_lifetime(seconds: &At<'_>, errors: &mut Errors) {
    if seconds.int().is_some_and(|s| s < 600) {
        errors.push(seconds.invalid("may not specify a duration less than 10 minutes"));
    }
    if seconds.int().is_some_and(|s| s > 1 << 32) {
        errors.push(seconds.invalid("may not specify a duration larger than 2^32 seconds"));
    }
}

fn trust_bundle(bundle: &At<'_>, errors: &mut Errors) {
    let (name, signer) = (bundle.field("name"), bundle.field("signerName"));
    match (name.is_absent(), signer.is_absent()) {
        (false, false) => errors.push(bundle.invalid("only one of name and signerName may be used")),
        (false, true) => {
            name.must_be_set("must be a valid object name", errors);
            let owner = name.text().rsplit_once(':').map_or(String::new(), |(owner, _)| owner.replace(':', "/"));
            for complaint in trust::bundle_name(name.text(), &owner) {
                errors.push(name.invalid(format!("not a valid clustertrustbundlename: {complaint}")));
            }
            let selector = bundle.field("labelSelector");
            if !selector.is_absent() {
                errors.push(selector.invalid("labelSelector must be unset if name is specified"));
            }
        }
        (true, false) => {
            signer.must_be_set("must be a valid signer name", errors);
            certificates::signer_name(&signer, errors);
            bundle.field("labelSelector").label_selector(errors);
        }
        (true, true) => errors.push(bundle.required("either name or signerName must be specified")),
    }
    let path = bundle.field("path");
    path.must_be_set("", errors);
    local_path(&path, errors);
}

fn pod_certificate(at: &At<'_>, errors: &mut Errors) {
    const KEYS: [&str; 6] = ["ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519", "RSA3072", "RSA4096"];
    let signer = at.field("signerName");
    certificates::signer_name(&signer, errors);
    let key = at.field("keyType");
    if !KEYS.contains(&key.text()) {
        errors.push(FieldError::not_supported(key.path(), key.text(), &KEYS));
    }
    trust::lifetime(&at.field("maxExpirationSeconds"), signer.text(), errors);
    let files = ["credentialBundlePath", "keyPath", "certificateChainPath"].map(|field| at.field(field));
    files.iter().filter(|path| !path.text().is_empty()).for_each(|path| local_path(path, errors));
    if files.iter().all(|path| path.text().is_empty()) {
        errors.push(at.required("specify at least one of credentialBundlePath, keyPath, and certificateChainPath"));
    }
    meta::annotations(&at.field("userAnnotations"), errors);
}

/// The claim of a volume that lives as long as its pod.
fn claim_template(template: &At<'_>, errors: &mut Errors) {
    if template.is_absent() {
        errors.push(template.required(""));
        return;
    }
    meta::template(&template.field("metadata"), errors);
    storage::claim_spec(&template.field("spec"), None, errors);
}

/// The keys of a ConfigMap's or Secret's data.
pub(super) fn keys(data: &At<'_>, errors: &mut Errors) {
    for (key, at) in data.entries() {
        let complaints = container::key_complaints(key);
        errors.extend(complaints.into_iter().map(|detail| FieldError::invalid(at.path(), key, detail)));
    }
}
