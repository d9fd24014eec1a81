//! Resource quotas: what an object uses of a namespace's budget, which quotas it falls under, and whether a quota still
//! has room for it. The server charges with these rules when something is written; the quota controller counts with the same.
//!
//! The rules are those of `k8s.io/kubernetes/pkg/quota` as its documentation and conformance tests tell them.

mod devices;
pub mod limited;
mod pod;
mod scope;

pub use pod::total as pod_total;
pub use scope::in_scope;

use crate::kinds::Kind;
use crate::quantity::{Format, Quantity};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Amounts by the names that quotas give them.
pub type Usage = BTreeMap<String, Quantity>;

/// Kinds of the core group that are counted under their bare name, too.
const BARE: [&str; 4] = ["configmaps", "replicationcontrollers", "resourcequotas", "secrets"];
/// Kinds that no quota counts: events come and go by themselves.
const UNCOUNTED: [(&str, &str); 2] = [("", "events"), ("events.k8s.io", "events")];

/// What is being done to an object, as far as quotas care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// It is created.
    Create,
    /// It is changed through this door (the subresource; empty for the object itself).
    Update,
    /// `pods/resize`.
    Resize,
}

/// `n` pieces.
pub fn pieces(n: i64) -> Quantity {
    Quantity::from_units(n, Format::DecimalSI)
}

/// Amounts of a JSON map; what is no quantity is left out.
pub fn amounts(map: Option<&Value>) -> Usage {
    let all = map.and_then(Value::as_object).into_iter().flatten();
    all.filter_map(|(name, value)| Some((name.clone(), Quantity::from_value(value).ok()?))).collect()
}

/// Amounts as JSON.
pub fn to_value(usage: &Usage) -> Value {
    Value::Object(usage.iter().map(|(name, amount)| (name.clone(), json!(amount.to_string()))).collect::<Map<_, _>>())
}

/// Adds `more` to `total`.
pub fn add(total: &mut Usage, more: &Usage) {
    for (name, amount) in more {
        let sum = total.get(name).map_or(*amount, |t| t.add(*amount));
        total.insert(name.clone(), sum);
    }
}

/// `plural.group`, or the plural alone for the core group.
pub fn count_name(group: &str, plural: &str) -> String {
    if group.is_empty() { format!("count/{plural}") } else { format!("count/{plural}.{group}") }
}

/// Whether quotas look at `kind` on this occasion.
pub fn concerns(kind: &Kind, occasion: Occasion) -> bool {
    if !kind.namespaced || UNCOUNTED.contains(&(&*kind.storage_group, &*kind.plural)) {
        return false;
    }
    matches!(
        (occasion, &*kind.group, &*kind.plural),
        (Occasion::Create, ..)
            | (Occasion::Update, "", "services" | "persistentvolumeclaims")
            | (Occasion::Resize, "", "pods")
    )
}

/// What an object uses. `now` decides whether a Pod that is being deleted has outlived its grace.
pub fn usage(group: &str, plural: &str, object: &Value, now: Timestamp) -> Usage {
    let mut used: Usage = [(count_name(group, plural), pieces(1))].into();
    match (group, plural) {
        ("", "pods") => pod::usage(&mut used, object, now),
        ("", "services") => service(&mut used, object),
        ("", "persistentvolumeclaims") => claim(&mut used, object),
        ("resource.k8s.io", "resourceclaims") => devices::usage(&mut used, object),
        ("", bare) if BARE.contains(&bare) => {
            used.insert(bare.to_owned(), pieces(1));
        }
        _ => {}
    }
    used
}

/// Whether a quota's `name` is about objects of this resource.
pub fn is_about(group: &str, plural: &str, name: &str) -> bool {
    if name == count_name(group, plural) {
        return true;
    }
    match (group, plural) {
        ("", "pods") => pod::is_about(name),
        ("", "services") => matches!(name, "services" | "services.nodeports" | "services.loadbalancers"),
        ("", "persistentvolumeclaims") => {
            matches!(name, "persistentvolumeclaims" | "requests.storage")
                || name.ends_with(".storageclass.storage.k8s.io/requests.storage")
                || name.ends_with(".storageclass.storage.k8s.io/persistentvolumeclaims")
        }
        ("resource.k8s.io", "resourceclaims") => devices::is_about(name),
        ("", bare) => BARE.contains(&bare) && name == bare,
        _ => false,
    }
}

/// The resource that a quota's `name` counts, when it is counted by number only: group and plural.
pub fn counted(name: &str) -> Option<(&str, &str)> {
    if BARE.contains(&name) {
        return Some(("", name));
    }
    let rest = name.strip_prefix("count/")?;
    let (plural, group) = rest.split_once('.').unwrap_or((rest, ""));
    let weighed = match group {
        "" => matches!(plural, "pods" | "services" | "persistentvolumeclaims"),
        _ => (group, plural) == ("resource.k8s.io", "resourceclaims"),
    };
    (!weighed).then_some((group, plural))
}

fn service(used: &mut Usage, service: &Value) {
    let spec = service.get("spec").unwrap_or(&Value::Null);
    let type_ = spec.get("type").and_then(Value::as_str).unwrap_or("ClusterIP");
    let ports = spec.get("ports").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let given = ports.iter().filter(|p| p.get("nodePort").and_then(Value::as_i64).is_some_and(|n| n != 0)).count();
    let without = spec.get("allocateLoadBalancerNodePorts") == Some(&Value::Bool(false));
    let node_ports = match type_ {
        "NodePort" => ports.len(),
        "LoadBalancer" if without => given,
        "LoadBalancer" => ports.len(),
        _ => 0,
    };
    used.insert("services".into(), pieces(1));
    used.insert("services.nodeports".into(), pieces(i64::try_from(node_ports).unwrap_or(i64::MAX)));
    used.insert("services.loadbalancers".into(), pieces(i64::from(type_ == "LoadBalancer")));
}

fn claim(used: &mut Usage, claim: &Value) {
    used.insert("persistentvolumeclaims".into(), pieces(1));
    let at = |pointer: &str| claim.pointer(pointer).and_then(|v| Quantity::from_value(v).ok());
    let asked = at("/spec/resources/requests/storage");
    // While a claim grows, what it was already granted counts if it is more.
    let granted = at("/status/allocatedResources/storage");
    let Some(storage) = asked.into_iter().chain(granted).max() else { return class_count(used, claim) };
    used.insert("requests.storage".into(), storage);
    if let Some(class) = class_of(claim) {
        used.insert(format!("{class}.storageclass.storage.k8s.io/requests.storage"), storage);
    }
    class_count(used, claim);
}

fn class_count(used: &mut Usage, claim: &Value) {
    if let Some(class) = class_of(claim) {
        used.insert(format!("{class}.storageclass.storage.k8s.io/persistentvolumeclaims"), pieces(1));
    }
}

fn class_of(claim: &Value) -> Option<&str> {
    let old = claim.pointer("/metadata/annotations/volume.beta.kubernetes.io~1storage-class").and_then(Value::as_str);
    old.or_else(|| claim.pointer("/spec/storageClassName").and_then(Value::as_str)).filter(|class| !class.is_empty())
}

/// What a write asks of the quotas.
pub struct Charge<'a> {
    /// API group of the object.
    pub group: &'a str,
    /// Plural name of its kind.
    pub plural: &'a str,
    /// The object as it will be.
    pub object: &'a Value,
    /// The object as it is, for changes.
    pub old: Option<&'a Value>,
    /// The present instant.
    pub now: Timestamp,
}

/// Charges one quota: its next `status.used`, `None` when the write does not concern it, or why it is refused.
///
/// # Errors
/// In upstream's words, to be told with 403.
pub fn charge(quota: &Value, charge: &Charge<'_>) -> Result<Option<Value>, String> {
    let name = crate::meta::name(quota);
    let hard = amounts(quota.pointer("/status/hard"));
    let used = amounts(quota.pointer("/status/used"));
    let about: Vec<&String> = hard.keys().filter(|n| is_about(charge.group, charge.plural, n)).collect();
    if about.is_empty() || !in_scope(quota, charge.group, charge.plural, charge.object) {
        return Ok(None);
    }
    if (charge.group, charge.plural) == ("", "pods") {
        pod::says_enough(charge.object, &about).map_err(|why| format!("failed quota: {name}: {why}"))?;
    }
    if about.iter().any(|n| !used.contains_key(*n)) {
        let list: Vec<&str> = about.iter().map(|n| n.as_str()).collect();
        return Err(format!("status unknown for quota: {name}, resources: {}", list.join(",")));
    }
    let wanted = delta(charge)?;
    let mut next = used.clone();
    let mut exceeded: Vec<&String> = vec![];
    let mut changed = false;
    for (resource, limit) in &hard {
        let Some(more) = wanted.get(resource) else { continue };
        let total = used.get(resource).map_or(*more, |u| u.add(*more));
        if total > *limit {
            exceeded.push(resource);
        }
        next.insert(resource.clone(), total);
        changed = true;
    }
    if !exceeded.is_empty() {
        let list = |of: &Usage| {
            let shown = exceeded.iter().filter_map(|n| of.get(*n).map(|amount| format!("{n}={amount}")));
            shown.collect::<Vec<_>>().join(",")
        };
        let (asked, have, limit) = (list(&wanted), list(&used), list(&hard));
        return Err(format!("exceeded quota: {name}, requested: {asked}, used: {have}, limited: {limit}"));
    }
    Ok(changed.then(|| to_value(&next)))
}

/// What the write uses more than the object uses already; never less than nothing.
fn delta(charge: &Charge<'_>) -> Result<Usage, String> {
    let mut wanted = usage(charge.group, charge.plural, charge.object, charge.now);
    let negative: Vec<&str> = wanted.iter().filter(|(_, a)| a.is_negative()).map(|(n, _)| n.as_str()).collect();
    if !negative.is_empty() {
        return Err(format!("quota usage is negative for resource(s): {}", negative.join(",")));
    }
    if let Some(old) = charge.old {
        for (name, before) in usage(charge.group, charge.plural, old, charge.now) {
            if let Some(amount) = wanted.get_mut(&name) {
                *amount = amount.sub(before);
            }
        }
    }
    wanted.retain(|_, amount| *amount > Quantity::ZERO);
    Ok(wanted)
}

#[cfg(test)]
mod tests;
