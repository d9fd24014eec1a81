//! Volumes, claims, classes, drivers; config maps and secrets.

use super::cells::{age, count, flag, list, name, quantity, scalar, text, text_or};
use super::{AGE, Column, NAME, StaticPrinter, of, shown, wide};
use crate::meta;
use jiff::Timestamp;
use serde_json::Value;

pub(super) fn printer(group: &str, kind: &str) -> Option<StaticPrinter> {
    Some(match (group, kind) {
        ("", "ConfigMap") => {
            of(&CONFIG_MAP, |o, now| vec![name(o), (count(o, "/data") + count(o, "/binaryData")).into(), age(o, now)])
        }
        ("", "Secret") => {
            of(&SECRET, |o, now| vec![name(o), text(o, "/type").into(), count(o, "/data").into(), age(o, now)])
        }
        ("", "PersistentVolume") => of(&VOLUME, volume),
        ("", "PersistentVolumeClaim") => of(&CLAIM, claim),
        ("storage.k8s.io", "StorageClass") => of(&CLASS, class),
        ("storage.k8s.io", "VolumeAttachment") => of(&ATTACHMENT, attachment),
        ("storage.k8s.io", "CSINode") => {
            of(&CSI_NODE, |o, now| vec![name(o), count(o, "/spec/drivers").into(), age(o, now)])
        }
        ("storage.k8s.io", "CSIDriver") => of(&DRIVER, driver),
        ("storage.k8s.io", "CSIStorageCapacity") => {
            of(&CAPACITY, |o, _| vec![name(o), text(o, "/storageClassName").into(), scalar(o, "/capacity").into()])
        }
        ("storage.k8s.io", "VolumeAttributesClass") => {
            of(&ATTRIBUTES, |o, now| vec![name(o), text(o, "/driverName").into(), age(o, now)])
        }
        _ => return None,
    })
}

static CONFIG_MAP: [Column<'static>; 3] = [NAME, shown("Data", "string", "Number of entries."), AGE];
static SECRET: [Column<'static>; 4] =
    [NAME, shown("Type", "string", "What the secret is for."), shown("Data", "string", "Number of entries."), AGE];

/// Access modes in short: `RWO,ROX`.
fn modes(object: &Value, path: &str) -> String {
    let has = |mode: &str| list(object, path).any(|one| one.as_str() == Some(mode));
    let all =
        [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    let short: Vec<&str> = all.iter().filter(|(mode, _)| has(mode)).map(|(_, short)| *short).collect();
    short.join(",")
}

/// The class, which an annotation named before there was a field.
fn storage_class(object: &Value) -> Value {
    let old = meta::annotation(object, "volume.beta.kubernetes.io/storage-class").unwrap_or_default();
    if old.is_empty() { text(object, "/spec/storageClassName").into() } else { old.into() }
}

fn phase(object: &Value) -> Value {
    if meta::is_deleting(object) { "Terminating".into() } else { text(object, "/status/phase").into() }
}

static VOLUME: [Column<'static>; 11] = [
    NAME,
    shown("Capacity", "string", "Size."),
    shown("Access Modes", "string", "How it can be mounted."),
    shown("Reclaim Policy", "string", "What happens when its claim is gone."),
    shown("Status", "string", "Phase."),
    shown("Claim", "string", "Claim that it is bound to."),
    shown("StorageClass", "string", "Class of the volume."),
    shown("VolumeAttributesClass", "string", "Attributes class of the volume."),
    shown("Reason", "string", "Why it is in its phase."),
    AGE,
    wide("VolumeMode", "Filesystem or block device."),
];

fn volume(object: &Value, now: Timestamp) -> Vec<Value> {
    let claim = match object.pointer("/spec/claimRef") {
        Some(Value::Object(_)) => {
            format!("{}/{}", text(object, "/spec/claimRef/namespace"), text(object, "/spec/claimRef/name"))
        }
        _ => String::new(),
    };
    vec![
        name(object),
        quantity(object, "/spec/capacity/storage").into(),
        modes(object, "/spec/accessModes").into(),
        text(object, "/spec/persistentVolumeReclaimPolicy").into(),
        phase(object),
        claim.into(),
        storage_class(object),
        text_or(object, "/spec/volumeAttributesClassName", "<unset>").into(),
        text(object, "/status/reason").into(),
        age(object, now),
        text_or(object, "/spec/volumeMode", "<unset>").into(),
    ]
}

static CLAIM: [Column<'static>; 9] = [
    NAME,
    shown("Status", "string", "Phase."),
    shown("Volume", "string", "Volume that it is bound to."),
    shown("Capacity", "string", "Size of the volume."),
    shown("Access Modes", "string", "How the volume can be mounted."),
    shown("StorageClass", "string", "Class that it asks for."),
    shown("VolumeAttributesClass", "string", "Attributes class that it asks for."),
    AGE,
    wide("VolumeMode", "Filesystem or block device."),
];

fn claim(object: &Value, now: Timestamp) -> Vec<Value> {
    let bound = !text(object, "/spec/volumeName").is_empty();
    let (capacity, access) = if bound {
        (quantity(object, "/status/capacity/storage"), modes(object, "/status/accessModes"))
    } else {
        (String::new(), String::new())
    };
    vec![
        name(object),
        phase(object),
        text(object, "/spec/volumeName").into(),
        capacity.into(),
        access.into(),
        storage_class(object),
        text_or(object, "/spec/volumeAttributesClassName", "<unset>").into(),
        age(object, now),
        text_or(object, "/spec/volumeMode", "<unset>").into(),
    ]
}

static CLASS: [Column<'static>; 6] = [
    NAME,
    shown("Provisioner", "string", "Who makes the volumes."),
    shown("ReclaimPolicy", "string", "What happens when a claim is gone."),
    shown("VolumeBindingMode", "string", "When volumes are made and bound."),
    shown("AllowVolumeExpansion", "string", "Whether volumes can grow."),
    AGE,
];

fn class(object: &Value, now: Timestamp) -> Vec<Value> {
    let default = ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
    let is_default = default.iter().any(|key| meta::annotation(object, key) == Some("true"));
    let shown = if is_default { format!("{} (default)", meta::name(object)) } else { meta::name(object).into() };
    vec![
        shown.into(),
        text(object, "/provisioner").into(),
        text_or(object, "/reclaimPolicy", "Delete").into(),
        text_or(object, "/volumeBindingMode", "Immediate").into(),
        flag(object, "/allowVolumeExpansion").into(),
        age(object, now),
    ]
}

static ATTACHMENT: [Column<'static>; 6] = [
    NAME,
    Column { format: "name", ..shown("Attacher", "string", "Driver that attaches it.") },
    shown("PV", "string", "Volume."),
    shown("Node", "string", "Node that it is attached to."),
    shown("Attached", "boolean", "Whether it is attached."),
    AGE,
];

fn attachment(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        text(object, "/spec/attacher").into(),
        text(object, "/spec/source/persistentVolumeName").into(),
        text(object, "/spec/nodeName").into(),
        flag(object, "/status/attached").into(),
        age(object, now),
    ]
}

static CSI_NODE: [Column<'static>; 3] = [NAME, shown("Drivers", "integer", "Number of drivers on the node."), AGE];

static DRIVER: [Column<'static>; 8] = [
    NAME,
    shown("AttachRequired", "boolean", "Whether volumes must be attached."),
    shown("PodInfoOnMount", "boolean", "Whether mounting tells about the pod."),
    shown("StorageCapacity", "boolean", "Whether capacity is looked at in scheduling."),
    shown("TokenRequests", "string", "Audiences of tokens that it gets."),
    shown("RequiresRepublish", "boolean", "Whether mounting is repeated."),
    shown("Modes", "string", "Persistent, ephemeral or both."),
    AGE,
];

fn driver(object: &Value, now: Timestamp) -> Vec<Value> {
    let audiences: Vec<&str> = list(object, "/spec/tokenRequests").map(|one| text(one, "/audience")).collect();
    let audiences = if audiences.is_empty() { "<unset>".to_owned() } else { audiences.join(",") };
    let modes: Vec<&str> = list(object, "/spec/volumeLifecycleModes").filter_map(Value::as_str).collect();
    let modes = if modes.is_empty() { "<none>".to_owned() } else { modes.join(",") };
    let attach = object.pointer("/spec/attachRequired").and_then(Value::as_bool).unwrap_or(true);
    vec![
        name(object),
        attach.into(),
        flag(object, "/spec/podInfoOnMount").into(),
        flag(object, "/spec/storageCapacity").into(),
        audiences.into(),
        flag(object, "/spec/requiresRepublish").into(),
        modes.into(),
        age(object, now),
    ]
}

static CAPACITY: [Column<'static>; 3] = [
    NAME,
    shown("StorageClassName", "string", "Class that the capacity is of."),
    shown("Capacity", "string", "What is left."),
];
static ATTRIBUTES: [Column<'static>; 3] =
    [NAME, shown("DriverName", "string", "Driver that knows the attributes."), AGE];
