//! Pods: their first status, their quality of service, and their special subresources.

use super::{Object, copy};
use crate::quantity::Quantity;
use serde_json::{Value, json};

/// The state of a new Pod: pending, with its class, gated if it has scheduling gates.
pub(super) fn create(map: &mut Object) {
    let spec = map.get("spec").unwrap_or(&Value::Null);
    let mut status = json!({"phase": "Pending", "qosClass": qos_class(spec)});
    if spec.get("schedulingGates").and_then(Value::as_array).is_some_and(|gates| !gates.is_empty()) {
        status["conditions"] = json!([{
            "type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "lastTransitionTime": null,
            "message": "Scheduling is blocked due to non-empty scheduling gates",
        }]);
    }
    let keyed = spec.get("affinity").is_some() || spec.get("topologySpreadConstraints").is_some();
    map.insert("status".into(), status);
    if keyed {
        let labels = map.get("metadata").and_then(|m| m.get("labels")).and_then(Value::as_object).cloned();
        if let (Some(labels), Some(spec)) = (labels, map.get_mut("spec")) {
            merge_label_keys(spec, &labels);
        }
    }
}

/// `matchLabelKeys` and `mismatchLabelKeys` become part of the selectors that they refine, with the values
/// that the Pod's labels have now (KEP-3633, KEP-3243).
fn merge_label_keys(spec: &mut Value, labels: &Object) {
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(affinity) = spec.get_mut("affinity").and_then(|affinity| affinity.get_mut(kind)) else { continue };
        if let Some(Value::Array(terms)) = affinity.get_mut("requiredDuringSchedulingIgnoredDuringExecution") {
            terms.iter_mut().for_each(|term| merge_term(term, labels));
        }
        if let Some(Value::Array(terms)) = affinity.get_mut("preferredDuringSchedulingIgnoredDuringExecution") {
            terms.iter_mut().filter_map(|term| term.get_mut("podAffinityTerm")).for_each(|t| merge_term(t, labels));
        }
    }
    if let Some(Value::Array(constraints)) = spec.get_mut("topologySpreadConstraints") {
        constraints.iter_mut().for_each(|constraint| merge_term(constraint, labels));
    }
}

fn merge_term(term: &mut Value, labels: &Object) {
    let mut added = Vec::new();
    for (field, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
        for key in term.get(field).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
            if let Some(value) = labels.get(key) {
                added.push(json!({"key": key, "operator": operator, "values": [value]}));
            }
        }
    }
    if added.is_empty() {
        return;
    }
    let Some(selector) = term.get_mut("labelSelector").and_then(Value::as_object_mut) else { return };
    let list = selector.entry("matchExpressions").or_insert_with(|| json!([]));
    if let Value::Array(list) = list {
        for one in added {
            if !list.contains(&one) {
                list.push(one);
            }
        }
    }
}

/// The quality-of-service class of a pod spec: `Guaranteed`, `Burstable` or `BestEffort`.
///
/// Pod-level resources, when set, decide alone (KEP-2837); else all containers, init containers included.
pub fn qos_class(spec: &Value) -> &'static str {
    let amount = |resources: &Value, list: &str, name: &str| -> Option<Quantity> {
        let value = resources.get(list)?.get(name)?;
        Quantity::from_value(value).ok().filter(|amount| *amount > Quantity::ZERO)
    };
    let level = spec.get("resources").filter(|r| {
        ["limits", "requests"].iter().any(|l| r.get(*l).and_then(Value::as_object).is_some_and(|m| !m.is_empty()))
    });
    let mut holders: Vec<&Value> = Vec::new();
    if let Some(level) = level {
        holders.push(level);
    } else {
        let lists = ["containers", "initContainers"];
        let containers = lists.iter().filter_map(|list| spec.get(*list)?.as_array()).flatten();
        holders.extend(containers.map(|container| container.get("resources").unwrap_or(&Value::Null)));
    }
    let mut any = false;
    let mut guaranteed = !holders.is_empty();
    for resources in holders {
        for name in ["cpu", "memory"] {
            let (limit, request) = (amount(resources, "limits", name), amount(resources, "requests", name));
            any |= limit.is_some() || request.is_some();
            // A request that is left out equals the limit.
            guaranteed &= limit.is_some() && request.is_none_or(|request| Some(request) == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// The class never changes, and `podIP` is the first of `podIPs`.
pub(super) fn status_update(map: &mut Object, before: &Object) {
    let class = before.get("status").and_then(|status| status.get("qosClass")).cloned();
    let Some(status) = map.get_mut("status").and_then(Value::as_object_mut) else { return };
    if let Some(class) = class {
        status.insert("qosClass".into(), class);
    }
    let ip = status.get("podIP").and_then(Value::as_str).unwrap_or_default().to_owned();
    let first = status.get("podIPs").and_then(|ips| ips.get(0)).and_then(|one| one.get("ip")).and_then(Value::as_str);
    let first = first.unwrap_or_default().to_owned();
    if ip.is_empty() && !first.is_empty() {
        status.insert("podIP".into(), first.into());
    } else if !ip.is_empty() && first.is_empty() {
        status.insert("podIPs".into(), json!([{"ip": ip}]));
    }
}

/// Only `spec.ephemeralContainers` is taken from the request.
pub(super) fn ephemeral_update(map: &mut Object, before: &Object) {
    let wanted = map.get("spec").and_then(|spec| spec.get("ephemeralContainers")).cloned();
    keep_stored(map, before);
    if let (Some(wanted), Some(spec)) = (wanted, map.get_mut("spec").and_then(Value::as_object_mut)) {
        spec.insert("ephemeralContainers".into(), wanted);
    }
}

/// Only the resources (and resize policies) of containers and of the Pod are taken from the request (KEP-1287).
pub(super) fn resize_update(map: &mut Object, before: &Object) {
    let wanted = map.get("spec").cloned().unwrap_or_default();
    keep_stored(map, before);
    let Some(spec) = map.get_mut("spec").and_then(Value::as_object_mut) else { return };
    for list in ["containers", "initContainers"] {
        let Some(Value::Array(stored)) = spec.get_mut(list) else { continue };
        for container in stored.iter_mut().filter_map(Value::as_object_mut) {
            let name = container.get("name").cloned();
            let asked = wanted.get(list).and_then(Value::as_array).into_iter().flatten();
            let asked = asked.filter_map(Value::as_object).find(|one| one.get("name") == name.as_ref());
            if let Some(asked) = asked {
                copy(container, asked, "resources");
                copy(container, asked, "resizePolicy");
            }
        }
    }
    if let Some(wanted) = wanted.as_object()
        && wanted.contains_key("resources")
    {
        copy(spec, wanted, "resources");
    }
}

/// Everything as stored, except the resource version and uid that the request named and its managed fields.
fn keep_stored(map: &mut Object, before: &Object) {
    let metadata = map.get("metadata").cloned().unwrap_or_default();
    *map = before.clone();
    if let Some(stored) = map.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in ["resourceVersion", "uid", "managedFields", "generation"] {
            if let Some(value) = metadata.get(field) {
                stored.insert(field.into(), value.clone());
            }
        }
    }
}
