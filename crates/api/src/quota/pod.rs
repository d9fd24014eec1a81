//! What a Pod uses.

use super::{Usage, add, amounts, pieces};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use std::collections::BTreeMap;

/// The resources of nodes that are requested under their own name.
const NATIVE: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

/// The domain of extended resources that are the devices of a class (KEP-5004).
const DEVICE_CLASS: &str = "deviceclass.resource.kubernetes.io";

pub(super) fn usage(used: &mut Usage, pod: &Value, now: Timestamp) {
    if !is_charged(pod, now) {
        return;
    }
    used.insert("pods".into(), pieces(1));
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    for (name, amount) in total(spec, "requests") {
        if NATIVE.contains(&name.as_str()) || name.starts_with("hugepages-") {
            used.insert(format!("requests.{name}"), amount);
            used.insert(name, amount);
        } else if is_extended(&name) {
            used.insert(format!("requests.{name}"), amount);
        }
    }
    for (name, amount) in total(spec, "limits") {
        if NATIVE.contains(&name.as_str()) {
            used.insert(format!("limits.{name}"), amount);
        }
    }
}

pub(super) fn is_about(name: &str) -> bool {
    let plain = name.strip_prefix("requests.").or_else(|| name.strip_prefix("limits.")).unwrap_or(name);
    name == "pods"
        || NATIVE.contains(&plain)
        || (plain.starts_with("hugepages-") && !name.starts_with("limits."))
        || (name.starts_with("requests.") && is_extended(plain))
}

/// Resources with a domain that is not Kubernetes's own, and devices of a class.
fn is_extended(name: &str) -> bool {
    name.split_once('/').is_some_and(|(domain, _)| {
        domain == DEVICE_CLASS || !domain.ends_with("kubernetes.io") && !domain.ends_with("k8s.io")
    })
}

/// Not when the Pod ended, nor when its grace is over and only its node has not confirmed.
fn is_charged(pod: &Value, now: Timestamp) -> bool {
    let phase = pod.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default();
    if matches!(phase, "Succeeded" | "Failed") {
        return false;
    }
    let deleted = pod.pointer("/metadata/deletionTimestamp").and_then(Value::as_str);
    let grace = pod.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64);
    let (Some(at), Some(grace)) = (deleted.and_then(|t| t.parse::<Timestamp>().ok()), grace) else { return true };
    at.checked_add(SignedDuration::from_secs(grace)).is_ok_and(|end| now <= end)
}

fn list<'a>(spec: &'a Value, field: &str) -> &'a [Value] {
    spec.get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn of(holder: &Value, kind: &str) -> Usage {
    amounts(holder.get("resources").and_then(|r| r.get(kind)))
}

/// The `requests` or `limits` of a pod spec at its peak: all containers and sidecars together, or one init container with the
/// sidecars before it; pod-level resources (KEP-2837) speak for the whole; and the overhead of the sandbox.
pub fn total(spec: &Value, kind: &str) -> Usage {
    let mut running = Usage::new();
    list(spec, "containers").iter().for_each(|c| add(&mut running, &of(c, kind)));
    let (mut sidecars, mut peak) = (Usage::new(), Usage::new());
    for container in list(spec, "initContainers") {
        let own = of(container, kind);
        if container.get("restartPolicy").and_then(Value::as_str) == Some("Always") {
            add(&mut sidecars, &own);
            add(&mut running, &own);
            raise(&mut peak, &sidecars);
        } else {
            let mut with = sidecars.clone();
            add(&mut with, &own);
            raise(&mut peak, &with);
        }
    }
    raise(&mut running, &peak);
    running.extend(of(spec, kind));
    // The sandbox's own needs are a request; they raise only limits that there are.
    let counts = |name: &str| kind == "requests" || running.contains_key(name);
    let overhead: Usage = amounts(spec.get("overhead")).into_iter().filter(|(name, _)| counts(name)).collect();
    add(&mut running, &overhead);
    running
}

fn raise(total: &mut Usage, other: &Usage) {
    for (name, amount) in other {
        if total.get(name).is_none_or(|t| t < amount) {
            total.insert(name.clone(), *amount);
        }
    }
}

/// A quota on processors or memory wants every container to say how much of it is meant.
pub(super) fn says_enough(pod: &Value, about: &[&String]) -> Result<(), String> {
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    let mut missing: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for name in about {
        let plain = name.strip_prefix("requests.").or_else(|| name.strip_prefix("limits.")).unwrap_or(name);
        if !matches!(plain, "cpu" | "memory") {
            continue;
        }
        let kind = if name.starts_with("limits.") { "limits" } else { "requests" };
        let says = |holder: &Value| holder.pointer(&format!("/resources/{kind}/{plain}")).is_some();
        if says(spec) {
            continue;
        }
        for container in list(spec, "containers").iter().chain(list(spec, "initContainers")) {
            if !says(container) {
                let container = container.get("name").and_then(Value::as_str).unwrap_or_default();
                missing.entry(name).or_default().push(container);
            }
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let parts = missing.into_iter().map(|(resource, mut containers)| {
        containers.sort_unstable();
        containers.dedup();
        format!("{resource} for: {}", containers.join(","))
    });
    Err(format!("must specify {}", parts.collect::<Vec<_>>().join("; ")))
}

/// Whether no container asks for processors or memory at all.
pub(super) fn is_best_effort(pod: &Value) -> bool {
    match pod.pointer("/status/qosClass").and_then(Value::as_str) {
        Some(class) => class == "BestEffort",
        None => crate::strategy::qos_class(pod.get("spec").unwrap_or(&Value::Null)) == "BestEffort",
    }
}
