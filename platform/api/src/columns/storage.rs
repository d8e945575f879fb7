//! Volumes, claims, classes, CSI.

use serde_json::Value;

use super::{Cells, Print, join, or, quantity, text};
use crate::meta;

const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

pub(super) fn core(kind: &str) -> Option<(&'static str, Print)> {
    Some(match kind {
        "PersistentVolume" => (
            "Name|Capacity|Access Modes|Reclaim Policy|Status|Claim|StorageClass|VolumeAttributesClass|Reason|Age|VolumeMode*",
            volume,
        ),
        "PersistentVolumeClaim" => {
            ("Name|Status|Volume|Capacity|Access Modes|StorageClass|VolumeAttributesClass|Age|VolumeMode*", claim)
        }
        _ => return None,
    })
}

pub(super) fn find(kind: &str) -> Option<(&'static str, Print)> {
    Some(match kind {
        "StorageClass" => ("Name|Provisioner|ReclaimPolicy|VolumeBindingMode|AllowVolumeExpansion|Age", class),
        "VolumeAttributesClass" => ("Name|DriverName|Age", |o| {
            let default = "storageclass.kubernetes.io/is-default-class";
            vec![named(o, &[default]), o.text("driverName").into(), o.age()]
        }),
        "VolumeAttachment" => ("Name|Attacher|PV|Node|Attached?|Age", attachment),
        "CSINode" => ("Name|Drivers#|Age", |o| vec![o.name(), o.count("spec.drivers").into(), o.age()]),
        "CSIDriver" => {
            ("Name|AttachRequired?|PodInfoOnMount?|StorageCapacity?|TokenRequests|RequiresRepublish?|Modes|Age", driver)
        }
        "CSIStorageCapacity" => ("Name|StorageClassName|Capacity", |o| {
            let capacity = match o.at("capacity") {
                Value::Null => "<unset>".to_owned(),
                capacity => quantity(capacity),
            };
            vec![o.name(), o.text("storageClassName").into(), capacity.into()]
        }),
        _ => return None,
    })
}

/// `RWO,ROX,RWX,RWOP`, those there are, in this order.
fn access_modes(modes: &[Value]) -> String {
    let known = [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    join(known.into_iter().filter(|(mode, _)| modes.iter().any(|m| m == mode)).map(|(_, short)| short), ",")
}

fn phase<'a>(o: &Cells<'a>) -> &'a str {
    if meta::is_deleting(o.object) { "Terminating" } else { o.text("status.phase") }
}

fn storage_class<'a>(o: &Cells<'a>) -> &'a str {
    meta::annotation(o.object, BETA_CLASS).unwrap_or(o.text("spec.storageClassName"))
}

fn volume(o: &Cells<'_>) -> Vec<Value> {
    let claim = match o.at("spec.claimRef") {
        Value::Object(_) => format!("{}/{}", o.text("spec.claimRef.namespace"), o.text("spec.claimRef.name")),
        _ => String::new(),
    };
    vec![
        o.name(),
        quantity(o.at("spec.capacity.storage")).into(),
        access_modes(o.list("spec.accessModes")).into(),
        o.text("spec.persistentVolumeReclaimPolicy").into(),
        phase(o).into(),
        claim.into(),
        storage_class(o).into(),
        or(o.text("spec.volumeAttributesClassName"), "<unset>").into(),
        o.text("status.reason").into(),
        o.age(),
        or(o.text("spec.volumeMode"), "<unset>").into(),
    ]
}

fn claim(o: &Cells<'_>) -> Vec<Value> {
    let volume = o.text("spec.volumeName");
    let (capacity, modes) = match volume {
        "" => Default::default(),
        _ => (quantity(o.at("status.capacity.storage")), access_modes(o.list("status.accessModes"))),
    };
    vec![
        o.name(),
        phase(o).into(),
        volume.into(),
        capacity.into(),
        modes.into(),
        storage_class(o).into(),
        or(o.text("spec.volumeAttributesClassName"), "<unset>").into(),
        o.age(),
        or(o.text("spec.volumeMode"), "<unset>").into(),
    ]
}

/// The name, marked if an annotation makes it the default.
fn named(o: &Cells<'_>, annotations: &[&str]) -> Value {
    let default = annotations.iter().any(|a| meta::annotation(o.object, a) == Some("true"));
    format!("{}{}", meta::name(o.object), if default { " (default)" } else { "" }).into()
}

fn class(o: &Cells<'_>) -> Vec<Value> {
    let defaults = ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
    vec![
        named(o, &defaults),
        o.text("provisioner").into(),
        or(o.text("reclaimPolicy"), "Delete").into(),
        or(o.text("volumeBindingMode"), "Immediate").into(),
        o.flag("allowVolumeExpansion", false),
        o.age(),
    ]
}

fn attachment(o: &Cells<'_>) -> Vec<Value> {
    vec![
        o.name(),
        o.text("spec.attacher").into(),
        o.text("spec.source.persistentVolumeName").into(),
        o.text("spec.nodeName").into(),
        o.flag("status.attached", false),
        o.age(),
    ]
}

fn driver(o: &Cells<'_>) -> Vec<Value> {
    let tokens = match o.at("spec.tokenRequests") {
        Value::Null => "<unset>".to_owned(),
        tokens => join(super::items(tokens).iter().map(|t| text(t, "audience")), ","),
    };
    let modes = join(o.list("spec.volumeLifecycleModes").iter().filter_map(Value::as_str), ",");
    vec![
        o.name(),
        o.flag("spec.attachRequired", true),
        o.flag("spec.podInfoOnMount", false),
        o.flag("spec.storageCapacity", false),
        tokens.into(),
        o.flag("spec.requiresRepublish", false),
        or(&modes, "<none>").into(),
        o.age(),
    ]
}
