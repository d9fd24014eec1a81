//! What the server does to an object between decoding and validation: which parts a request may set.
//!
//! A create starts without status; an update of the object keeps the stored status, and an update
//! of `status` keeps everything else. `metadata.generation` counts changes of what the user wants.
//! The order of a write is: decode, [`crate::defaults::apply`], mutating admission (and defaults again if it
//! changed something), then [`prepare_create`] or [`prepare_update`], then validation, then validating admission.

use crate::kinds::Kind;
use crate::meta;
use serde_json::{Map, Value, json};

mod facts;
pub mod pod;
mod services;
mod workloads;

pub use facts::{
    allows_create_on_update, allows_unconditional_update, deletes_gracefully, orphans_by_default, pod_grace_seconds,
};
pub use pod::qos_class;

type Object = Map<String, Value>;

/// Brings a new object into the state in which it is validated and stored.
///
/// `metadata.uid` must be set already (Jobs derive their selector from it). Nothing here reads a clock.
pub fn prepare_create(kind: &Kind, object: &mut Value) {
    let Value::Object(map) = object else { return };
    let metadata = meta::map_mut(map, "metadata");
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation"] {
        metadata.remove(field);
    }
    if generation_fields(kind).is_some_and(|fields| fields != Generation::FromFirstChange) {
        metadata.insert("generation".into(), 1.into());
    }
    if keeps_status_on_create(kind) {
        return;
    }
    if kind.subresource("status").is_some() {
        map.remove("status");
    }
    match (&*kind.group, &*kind.kind) {
        ("", "Pod") => pod::create(map),
        ("", "Namespace") => namespace(map),
        ("", "Service") => set(map, "status", json!({"loadBalancer": {}})),
        ("", "PersistentVolume" | "PersistentVolumeClaim") => set(map, "status", json!({"phase": "Pending"})),
        ("networking.k8s.io", "Ingress") => set(map, "status", json!({"loadBalancer": {}})),
        ("apps", "DaemonSet") => workloads::daemon_set_create(map),
        ("batch", "Job") => workloads::job_create(map),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => definition(map),
        _ => empty_status(kind, map),
    }
    if (&*kind.group, &*kind.kind) == ("batch", "Job") {
        empty_status(kind, map);
    }
}

/// Brings the new form of a stored object into the state in which it is validated and stored.
///
/// `subresource` is empty for the object itself, else `status`, `resize`, `ephemeralcontainers`, `finalize`
/// and their like.
pub fn prepare_update(kind: &Kind, subresource: &str, new: &mut Value, old: &Value) {
    let (Value::Object(map), Value::Object(before)) = (new, old) else { return };
    metadata_update(map, before);
    match subresource {
        "" => main_update(kind, map, before),
        "status" | "approval" => status_update(kind, subresource, map, before),
        "finalize" => keep_all_but(map, before, &["metadata", "spec"]),
        "ephemeralcontainers" => pod::ephemeral_update(map, before),
        "resize" => pod::resize_update(map, before),
        _ => {}
    }
    // What is written through the status never counts as a change of what the user wants.
    if !matches!(subresource, "status" | "approval") {
        bump_generation(kind, map, before);
    }
}

fn set(map: &mut Object, field: &str, value: Value) {
    map.insert(field.to_owned(), value);
}

/// Nodes are created by their kubelet, status and all; events and the like have no status that anybody guards.
fn keeps_status_on_create(kind: &Kind) -> bool {
    (&*kind.group, &*kind.kind) == ("", "Node")
}

fn empty_status(kind: &Kind, map: &mut Object) {
    if !kind.is_custom() && kind.subresource("status").is_some() && status_always_shown(&kind.group, &kind.kind) {
        set(map, "status", json!({}));
    }
}

/// Kinds whose Go type carries `status` as a plain struct without `omitzero`.
fn status_always_shown(group: &str, kind: &str) -> bool {
    matches!(group, "apps" | "batch" | "autoscaling" | "policy" | "resource.k8s.io" | "certificates.k8s.io")
        || matches!(kind, "ReplicationController" | "ResourceQuota")
}

fn namespace(map: &mut Object) {
    set(map, "status", json!({"phase": "Active"}));
    let spec = meta::map_mut(map, "spec");
    let finalizers = spec.entry("finalizers").or_insert_with(|| json!([]));
    if let Value::Array(list) = finalizers
        && !list.iter().any(|one| one == "kubernetes")
    {
        list.push("kubernetes".into());
    }
}

/// A definition starts with the version it stores under as its only stored version.
fn definition(map: &mut Object) {
    let versions = map.get("spec").and_then(|spec| spec.get("versions")).and_then(Value::as_array);
    let storage = versions
        .into_iter()
        .flatten()
        .find(|version| version.get("storage") == Some(&Value::Bool(true)))
        .and_then(|version| version.get("name"))
        .cloned();
    let stored: Vec<Value> = storage.into_iter().collect();
    set(
        map,
        "status",
        json!({"conditions": [], "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": stored}),
    );
}

/// What a changed definition stores under from now on is among its stored versions in the same write.
fn add_stored_version(map: &mut Object) {
    let versions = map.get("spec").and_then(|spec| spec.get("versions")).and_then(Value::as_array);
    let mut versions = versions.into_iter().flatten();
    let storage = versions.find(|version| version.get("storage") == Some(&Value::Bool(true)));
    let Some(name) = storage.and_then(|version| version.get("name")).cloned() else { return };
    let status = meta::map_mut(map, "status");
    if let Value::Array(stored) = status.entry("storedVersions").or_insert_with(|| json!([]))
        && !stored.contains(&name)
    {
        stored.push(name);
    }
}

/// Fields of `metadata` that no update may change, and those that fall back to what is stored.
fn metadata_update(map: &mut Object, before: &Object) {
    let Some(old) = before.get("metadata").and_then(Value::as_object) else { return };
    let new = meta::map_mut(map, "metadata");
    new.remove("selfLink");
    for field in ["creationTimestamp", "generation"] {
        copy(new, old, field);
    }
    if old.contains_key("deletionTimestamp") {
        copy(new, old, "deletionTimestamp");
    } else {
        new.remove("deletionTimestamp");
    }
    for field in ["uid", "deletionGracePeriodSeconds", "name", "namespace"] {
        let missing = new.get(field).is_none_or(|value| value.is_null() || value.as_str() == Some(""));
        if missing {
            copy(new, old, field);
        }
    }
}

/// Makes `field` what it was, absence included.
fn copy(to: &mut Object, from: &Object, field: &str) {
    match from.get(field) {
        Some(value) => {
            to.insert(field.to_owned(), value.clone());
        }
        None => {
            to.remove(field);
        }
    }
}

/// Makes every top-level field but the named ones what it was.
fn keep_all_but(map: &mut Object, before: &Object, named: &[&str]) {
    map.retain(|field, _| named.contains(&field.as_str()) || before.contains_key(field));
    for (field, value) in before {
        if !named.contains(&field.as_str()) {
            map.insert(field.clone(), value.clone());
        }
    }
}

fn main_update(kind: &Kind, map: &mut Object, before: &Object) {
    if kind.subresource("status").is_some() {
        copy(map, before, "status");
    }
    match (&*kind.group, &*kind.kind) {
        ("", "Namespace") => {
            let old = before.get("spec").and_then(Value::as_object).cloned().unwrap_or_default();
            copy(meta::map_mut(map, "spec"), &old, "finalizers");
        }
        ("", "Service") => services::update(map, before),
        ("apps", "DaemonSet") => workloads::daemon_set_update(map, before),
        ("certificates.k8s.io", "CertificateSigningRequest") => copy(map, before, "spec"),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => add_stored_version(map),
        _ => {}
    }
}

fn status_update(kind: &Kind, subresource: &str, map: &mut Object, before: &Object) {
    keep_all_but(map, before, &["metadata", "status"]);
    let kept: &[&str] = match (&*kind.group, &*kind.kind) {
        ("", "Pod") => {
            pod::status_update(map, before);
            &["ownerReferences"]
        }
        ("apps", "Deployment") => &["labels"],
        ("certificates.k8s.io", "CertificateSigningRequest") => {
            if subresource == "status" {
                workloads::csr_status_update(map, before);
            }
            &[]
        }
        ("apiextensions.k8s.io" | "apiregistration.k8s.io" | "resource.k8s.io" | "admissionregistration.k8s.io", _) => {
            &["labels", "annotations", "finalizers", "ownerReferences"]
        }
        _ if kind.is_custom() => &["labels", "annotations", "finalizers", "ownerReferences"],
        _ => &[],
    };
    if let (Some(new), Some(old)) =
        (map.get_mut("metadata").and_then(Value::as_object_mut), before.get("metadata").and_then(Value::as_object))
    {
        for field in kept {
            copy(new, old, field);
        }
    }
}

/// Which changes count as a new generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Generation {
    /// Changes of these top-level fields.
    Fields(&'static [&'static str]),
    /// Changes of anything but metadata and, where it is a subresource, status.
    AllButStatus,
    /// As `AllButStatus`, but counting starts at the first change.
    FromFirstChange,
    /// 1 for ever.
    Fixed,
}

fn generation_fields(kind: &Kind) -> Option<Generation> {
    use Generation::{AllButStatus, Fields, Fixed, FromFirstChange};
    if kind.is_custom() {
        return Some(AllButStatus);
    }
    match (&*kind.group, &*kind.kind) {
        ("", "Pod" | "ReplicationController") => Some(Fields(&["spec"])),
        ("", "PodTemplate") => Some(Fields(&["template"])),
        ("apps", "ControllerRevision") => None,
        ("apps" | "batch", _) => Some(Fields(&["spec"])),
        ("policy", "PodDisruptionBudget") => Some(Fields(&["spec"])),
        ("networking.k8s.io", _) => Some(Fields(&["spec"])),
        ("discovery.k8s.io", "EndpointSlice") => Some(AllButStatus),
        ("admissionregistration.k8s.io", _) => Some(Fields(&["spec", "webhooks"])),
        ("flowcontrol.apiserver.k8s.io", _) => Some(Fields(&["spec"])),
        ("apiextensions.k8s.io", _) => Some(Fields(&["spec"])),
        ("scheduling.k8s.io", "PriorityClass") => Some(Fixed),
        ("resource.k8s.io", "DeviceClass" | "ResourceSlice") => Some(Fields(&["spec"])),
        ("storage.k8s.io", "CSIDriver") => Some(FromFirstChange),
        _ => None,
    }
}

fn bump_generation(kind: &Kind, map: &mut Object, before: &Object) {
    let Some(rule) = generation_fields(kind) else { return };
    let status = kind.subresource("status").is_some();
    let counted = |field: &str| field != "metadata" && (field != "status" || !status);
    let changed = match rule {
        Generation::Fixed => false,
        Generation::Fields(fields) => fields.iter().any(|field| map.get(*field) != before.get(*field)),
        Generation::AllButStatus | Generation::FromFirstChange => {
            let fields = map.keys().chain(before.keys());
            let mut fields = fields.filter(|field| counted(field.as_str()));
            fields.any(|field| map.get(field) != before.get(field))
        }
    };
    let annotated = (&*kind.group, &*kind.kind) == ("apps", "Deployment") && annotations(map) != annotations(before);
    if changed || annotated {
        let old = before.get("metadata").and_then(|m| m.get("generation")).and_then(Value::as_i64).unwrap_or(0);
        meta::map_mut(map, "metadata").insert("generation".into(), (old + 1).into());
    }
}

fn annotations(map: &Object) -> Option<&Object> {
    map.get("metadata")?.get("annotations")?.as_object().filter(|map| !map.is_empty())
}

#[cfg(test)]
mod tests;
