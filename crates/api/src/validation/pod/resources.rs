//! Requests and limits.

use super::super::check::{Out, Path, child, has, invalid_all, items, map, members, text, unique};
use crate::field::FieldError;
use crate::names;
use crate::quantity::Quantity;
use serde_json::Value;

/// Names of resources that need no domain.
const STANDARD: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

/// Whether a resource of nodes and containers belongs to Kubernetes itself.
pub(in super::super) fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

fn is_hugepage(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// Whether a resource is extended: in a domain of its own, and not a quota name.
pub(in super::super) fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && names::is_qualified_name(&format!("requests.{name}"))
}

/// The name of a resource of a container.
fn container_resource_name(out: &mut Out, at: Path, name: &str) {
    let complaints = names::qualified_name(name);
    if !complaints.is_empty() {
        return invalid_all(out, at, name, complaints);
    }
    if !name.contains('/') {
        if !STANDARD.contains(&name) && !is_hugepage(name) {
            out.push(FieldError::invalid(at, name, "must be a standard resource for containers"));
        }
    } else if !name.contains("kubernetes.io/") && !is_extended(name) {
        out.push(FieldError::invalid(at, name, "doesn't follow extended resource name standard"));
    }
}

/// An amount: not negative; whole where the resource comes in whole pieces.
pub(in super::super) fn amount(out: &mut Out, at: Path, name: &str, value: &Value) -> Option<Quantity> {
    let amount = super::super::check::non_negative_quantity(out, at, value)?;
    if (is_extended(name) || is_hugepage(name)) && !amount.is_integer() {
        out.push(FieldError::invalid(at, value, "must be an integer"));
    }
    Some(amount)
}

/// `resources` of a container.
pub(super) fn requirements(out: &mut Out, at: Path, resources: &Value, spec: &Value) {
    let (limits_at, requests_at) = (at.child("limits"), at.child("requests"));
    let mut hugepages = false;
    let mut standard = false;
    for (list_at, list) in [(&limits_at, "limits"), (&requests_at, "requests")] {
        for (name, value) in members(resources, list) {
            let at = list_at.key(name);
            container_resource_name(out, &at, name);
            amount(out, &at, name, value);
            hugepages |= is_hugepage(name);
            standard |= matches!(name.as_str(), "cpu" | "memory");
        }
    }
    for (name, value) in members(resources, "requests") {
        let Ok(request) = Quantity::from_value(value) else { continue };
        let limit = child(resources, "limits").get(name).and_then(|limit| Quantity::from_value(limit).ok());
        let fixed = is_extended(name) || is_hugepage(name);
        match limit {
            Some(limit) if fixed && request != limit => {
                out.push(FieldError::invalid(&requests_at, value, format!("must be equal to {name} limit of {limit}")))
            }
            Some(limit) if request > limit => out.push(FieldError::invalid(
                &requests_at,
                value,
                format!("must be less than or equal to {name} limit of {limit}"),
            )),
            None if fixed => {
                out.push(FieldError::required(&limits_at, "Limit must be set for non overcommitable resources"))
            }
            _ => {}
        }
    }
    if hugepages && !standard && !has(spec, "resources") {
        out.push(FieldError::forbidden(at, "HugePages require cpu or memory"));
    }
    claims(out, &at.child("claims"), resources, spec);
}

fn claims(out: &mut Out, list: Path, resources: &Value, spec: &Value) {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (i, claim) in items(resources, "claims").iter().enumerate() {
        let at = list.index(i);
        let (name, request) = (text(claim, "name"), text(claim, "request"));
        if name.is_empty() {
            out.push(FieldError::required(&at.child("name"), ""));
            continue;
        }
        if seen.contains(&(name, request)) {
            out.push(FieldError::duplicate(&at, name));
        }
        seen.push((name, request));
        if !items(spec, "resourceClaims").iter().any(|one| text(one, "name") == name) {
            out.push(FieldError::not_found(&at, name));
        }
    }
}

/// `spec.resources` (KEP-2837): cpu, memory and huge pages, and not less than the containers ask for.
pub(super) fn pod_level(out: &mut Out, at: Path, spec: &Value) {
    let resources = child(spec, "resources");
    if resources.is_null() {
        return;
    }
    let at = at.child("resources");
    if !items(resources, "claims").is_empty() {
        out.push(FieldError::forbidden(&at.child("claims"), "claims may not be set for Resources at pod-level"));
    }
    let (limits_at, requests_at) = (at.child("limits"), at.child("requests"));
    for (list_at, list) in [(&limits_at, "limits"), (&requests_at, "requests")] {
        for (name, value) in members(resources, list) {
            let at = list_at.key(name);
            if !matches!(name.as_str(), "cpu" | "memory") && !is_hugepage(name) {
                out.push(FieldError::not_supported(&at, name.as_str(), &["cpu", "hugepages-", "memory"]));
            }
            amount(out, &at, name, value);
        }
    }
    for (name, value) in members(resources, "requests") {
        let Ok(request) = Quantity::from_value(value) else { continue };
        let limit = child(resources, "limits").get(name).and_then(|limit| Quantity::from_value(limit).ok());
        if let Some(limit) = limit.filter(|limit| request > *limit) {
            out.push(FieldError::invalid(
                &requests_at,
                value,
                format!("must be less than or equal to {name} limit of {limit}"),
            ));
        }
        let sum = items(spec, "containers")
            .iter()
            .filter_map(|one| map(child(one, "resources"), "requests")?.get(name))
            .filter_map(|value| Quantity::from_value(value).ok())
            .fold(Quantity::ZERO, Quantity::add);
        if sum > request {
            out.push(FieldError::invalid(
                &requests_at.key(name),
                value,
                format!("must be greater than or equal to aggregate container requests of {sum}"),
            ));
        }
    }
}

/// `spec.overhead`.
pub(super) fn overhead(out: &mut Out, at: Path, spec: &Value) {
    for (name, value) in members(spec, "overhead") {
        let at = at.key(name);
        container_resource_name(out, &at, name);
        amount(out, &at, name, value);
    }
}

/// Names that occur once, for lists of requests by name.
pub(in super::super) fn unique_names<'a>(out: &mut Out, list: Path, holders: &'a [Value]) {
    let mut seen: Vec<&'a str> = Vec::new();
    for (i, one) in holders.iter().enumerate() {
        unique(out, &list.index(i).child("name"), &mut seen, text(one, "name"));
    }
}
