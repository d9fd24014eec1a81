//! Volumes, claims, classes and drivers.

use super::{Object, child, made, optional, quantities_at, quantity, requirements, text, volumes};
use serde_json::{Value, json};

pub(super) fn volume(object: &mut Object) {
    if let Some(spec) = made(object, "spec") {
        text(spec, "persistentVolumeReclaimPolicy", "Retain");
        optional(spec, "volumeMode", "Filesystem");
        quantities_at(spec, "capacity");
        volumes::network(spec);
    }
    if let Some(status) = made(object, "status") {
        text(status, "phase", "Pending");
    }
}

pub(super) fn claim(object: &mut Object) {
    claim_spec(object);
    if let Some(status) = made(object, "status") {
        text(status, "phase", "Pending");
        quantities_at(status, "capacity");
        quantities_at(status, "allocatedResources");
    }
}

/// The spec of a claim or of a template for one. `dataSource` and `dataSourceRef` mirror each other when the
/// source is local (KEP-1495).
pub(super) fn claim_spec(owner: &mut Object) {
    let Some(spec) = made(owner, "spec") else { return };
    optional(spec, "volumeMode", "Filesystem");
    requirements(spec, "resources");
    made(spec, "resources");
    let local = |kind: &Value| matches!(kind.as_str(), Some("PersistentVolumeClaim" | "VolumeSnapshot"));
    match (spec.get("dataSource").cloned(), spec.get("dataSourceRef").cloned()) {
        (Some(source), None) if source.is_object() => {
            spec.insert("dataSourceRef".into(), source);
        }
        (None, Some(source)) if source.get("namespace").is_none() && source.get("kind").is_some_and(local) => {
            spec.insert("dataSource".into(), source);
        }
        _ => {}
    }
}

pub(super) fn apply(kind: &str, object: &mut Object) {
    match kind {
        "StorageClass" => {
            optional(object, "reclaimPolicy", "Delete");
            optional(object, "volumeBindingMode", "Immediate");
        }
        "CSIDriver" => {
            if let Some(spec) = made(object, "spec") {
                optional(spec, "attachRequired", true);
                optional(spec, "podInfoOnMount", false);
                optional(spec, "storageCapacity", false);
                optional(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
                optional(spec, "requiresRepublish", false);
                optional(spec, "seLinuxMount", false);
                if spec.get("volumeLifecycleModes").and_then(Value::as_array).is_none_or(Vec::is_empty) {
                    spec.insert("volumeLifecycleModes".into(), json!(["Persistent"]));
                }
            }
        }
        "CSIStorageCapacity" => {
            quantity(object, "capacity");
            quantity(object, "maximumVolumeSize");
        }
        "VolumeAttachment" => {
            made(object, "status");
            let inline = child(object, "spec")
                .and_then(|spec| child(spec, "source"))
                .and_then(|source| child(source, "inlineVolumeSpec"));
            if let Some(spec) = inline {
                quantities_at(spec, "capacity");
                volumes::network(spec);
            }
        }
        _ => {}
    }
}
