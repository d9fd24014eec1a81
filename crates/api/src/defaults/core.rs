//! The core group, without pods' specs and volumes.

use super::{Object, child, each, get, made, optional, pod, quantities, quantities_at, services, storage, text};
use base64::Engine as _;
use serde_json::{Value, json};

pub(super) fn apply(kind: &str, object: &mut Object) {
    match kind {
        "Pod" => pod::pod(object),
        "PodTemplate" => pod::pod_template(object, "template"),
        "ReplicationController" => replication_controller(object),
        "Service" => services::service(object),
        "Endpoints" => services::endpoints(object),
        "Namespace" => namespace(object),
        "Node" => node(object),
        "Secret" => secret(object),
        "PersistentVolume" => storage::volume(object),
        "PersistentVolumeClaim" => storage::claim(object),
        "LimitRange" => limit_range(object),
        "ResourceQuota" => {
            for part in ["spec", "status"] {
                if let Some(part) = child(object, part) {
                    quantities_at(part, "hard");
                    quantities_at(part, "used");
                }
            }
        }
        _ => {}
    }
}

fn replication_controller(object: &mut Object) {
    let Some(spec) = made(object, "spec") else { return };
    optional(spec, "replicas", 1);
    if spec.get("template").is_some_and(Value::is_object) {
        pod::pod_template(spec, "template");
    }
    let labels = spec.get("template").and_then(|t| t.pointer("/metadata/labels")).cloned();
    let Some(labels) = labels.filter(|labels| labels.as_object().is_some_and(|map| !map.is_empty())) else { return };
    let empty = |value: Option<&Value>| value.and_then(Value::as_object).is_none_or(|map| map.is_empty());
    if empty(spec.get("selector")) {
        spec.insert("selector".into(), labels.clone());
    }
    if let Some(metadata) = made(object, "metadata")
        && empty(metadata.get("labels"))
    {
        metadata.insert("labels".into(), labels);
    }
}

fn namespace(object: &mut Object) {
    if let Some(metadata) = made(object, "metadata") {
        let name = get(metadata, "name").to_owned();
        if !name.is_empty()
            && let Some(labels) = made(metadata, "labels")
        {
            labels.insert("kubernetes.io/metadata.name".into(), name.into());
        }
    }
    made(object, "spec");
    if let Some(status) = made(object, "status") {
        text(status, "phase", "Active");
    }
}

fn node(object: &mut Object) {
    made(object, "spec");
    let Some(status) = made(object, "status") else { return };
    quantities_at(status, "capacity");
    quantities_at(status, "allocatable");
    let missing = status.get("allocatable").is_none_or(|value| value.as_object().is_none_or(|map| map.is_empty()));
    if missing && let Some(capacity) = status.get("capacity").cloned() {
        status.insert("allocatable".into(), capacity);
    }
}

/// `stringData` is write-only: it is folded into `data`.
fn secret(object: &mut Object) {
    text(object, "type", "Opaque");
    let Some(Value::Object(texts)) = object.remove("stringData") else { return };
    if let Some(data) = made(object, "data") {
        for (key, value) in texts {
            let text = value.as_str().unwrap_or_default();
            data.insert(key, base64::engine::general_purpose::STANDARD.encode(text).into());
        }
    }
}

fn limit_range(object: &mut Object) {
    let Some(spec) = child(object, "spec") else { return };
    for item in each(spec, "limits") {
        for list in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
            if let Some(list) = child(item, list) {
                quantities(list);
            }
        }
        if get(item, "type") != "Container" {
            continue;
        }
        let list = |item: &Object, field: &str| item.get(field).and_then(Value::as_object).cloned().unwrap_or_default();
        let mut default = list(item, "default");
        for (name, amount) in list(item, "max") {
            default.entry(name).or_insert(amount);
        }
        let mut request = list(item, "defaultRequest");
        for (name, amount) in default.clone().into_iter().chain(list(item, "min")) {
            request.entry(name).or_insert(amount);
        }
        for (field, amounts) in [("default", default), ("defaultRequest", request)] {
            if !amounts.is_empty() {
                item.insert(field.into(), json!(amounts));
            }
        }
    }
}
