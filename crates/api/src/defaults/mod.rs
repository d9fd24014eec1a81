//! What upstream fills in when a field is left out, kind by kind.
//!
//! [`apply`] works in place on the decoded object, on every write, before admission and validation, and
//! again after admission changed something. It is idempotent. "Left out" means what it means in Go: absent or null
//! for optional fields, and for plain fields also the zero value (`""`, `0`).

use crate::quantity::{Quantity, canonical};
use serde_json::{Map, Value, json};

mod admission;
mod apps;
mod autoscaling;
mod core;
mod pod;
mod resource;
mod services;
mod storage;
mod volumes;

pub use pod::{default_pull_policy, pod_spec, pod_template};

/// A JSON object.
pub(crate) type Object = Map<String, Value>;

/// Fills in the defaults of an object of one of the built-in kinds; other kinds are left alone.
///
/// `kind` is the kind's name, such as `Pod`; `group` is empty for the core group.
pub fn apply_to(group: &str, kind: &str, object: &mut Value) {
    let Value::Object(map) = object else { return };
    if !matches!((group, kind), ("apps", "ControllerRevision") | ("apiextensions.k8s.io", _)) {
        prune_nulls(map);
    }
    match group {
        "" => core::apply(kind, map),
        "apps" => apps::apply(kind, map),
        "batch" => apps::apply_batch(kind, map),
        "autoscaling" => autoscaling::apply(kind, map),
        "networking.k8s.io" => services::apply_networking(kind, map),
        "discovery.k8s.io" => services::apply_discovery(kind, map),
        "storage.k8s.io" => storage::apply(kind, map),
        "rbac.authorization.k8s.io" => admission::apply_rbac(kind, map),
        "admissionregistration.k8s.io" => admission::apply(kind, map),
        "apiextensions.k8s.io" => admission::apply_crd(kind, map),
        "apiregistration.k8s.io" => admission::apply_aggregation(kind, map),
        "flowcontrol.apiserver.k8s.io" => admission::apply_flow(kind, map),
        "scheduling.k8s.io" if kind == "PriorityClass" => text(map, "preemptionPolicy", "PreemptLowerPriority"),
        "resource.k8s.io" => resource::apply(kind, map),
        "authentication.k8s.io" if kind == "TokenRequest" => {
            if let Some(spec) = made(map, "spec") {
                optional(spec, "expirationSeconds", 3600);
            }
        }
        "node.k8s.io" if kind == "RuntimeClass" => {
            if let Some(overhead) = child(map, "overhead") {
                quantities_at(overhead, "podFixed");
            }
        }
        _ => {}
    }
}

/// All defaults of an object of the kind: [`apply_to`] and the zero values that Go always writes for built-in
/// kinds, the schema's defaults for custom resources.
pub fn apply(kind: &crate::kinds::Kind, object: &mut Value) {
    if kind.is_custom() {
        return crate::schema::apply_defaults(kind.schema().root(), object);
    }
    apply_to(&kind.group, &kind.kind, object);
    crate::schema::fill_zero_values(kind.schema().root(), object);
}

/// Removes members that are null, at every depth, as decoding into Go types does.
fn prune_nulls(map: &mut Object) {
    map.retain(|_, value| !value.is_null());
    for (key, value) in map.iter_mut() {
        // Field sets and raw parameters are opaque.
        if key != "managedFields" {
            prune_value(value);
        }
    }
}

fn prune_value(value: &mut Value) {
    match value {
        Value::Object(map) => prune_nulls(map),
        Value::Array(list) => list.iter_mut().for_each(prune_value),
        _ => {}
    }
}

/// Sets an optional field that is absent or null.
fn optional(map: &mut Object, field: &str, value: impl Into<Value>) {
    if map.get(field).is_none_or(Value::is_null) {
        map.insert(field.to_owned(), value.into());
    }
}

/// Sets a plain text field that is absent, null or empty.
fn text(map: &mut Object, field: &str, value: &str) {
    if map.get(field).is_none_or(|found| found.is_null() || found.as_str() == Some("")) {
        map.insert(field.to_owned(), value.into());
    }
}

/// Sets a plain number field that is absent, null or zero.
fn number(map: &mut Object, field: &str, value: i64) {
    if map.get(field).is_none_or(|found| found.is_null() || found.as_i64() == Some(0)) {
        map.insert(field.to_owned(), value.into());
    }
}

/// The text of a field, `""` if it has none.
fn get<'a>(map: &'a Object, field: &str) -> &'a str {
    map.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// The map under a field, if it is one.
fn child<'a>(map: &'a mut Object, field: &str) -> Option<&'a mut Object> {
    map.get_mut(field).and_then(Value::as_object_mut)
}

/// The map under a field, made when it is absent; `None` when something else is there.
fn made<'a>(map: &'a mut Object, field: &str) -> Option<&'a mut Object> {
    optional(map, field, json!({}));
    child(map, field)
}

/// The maps in the list under a field.
fn each<'a>(map: &'a mut Object, field: &str) -> impl Iterator<Item = &'a mut Object> {
    map.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

/// Puts the quantity under a field into canonical form.
fn quantity(map: &mut Object, field: &str) {
    if let Some(value) = map.get_mut(field)
        && let Some(text) = canonical(value)
    {
        *value = text.into();
    }
}

/// Puts the quantities of a resource list into canonical form, rounded up to thousandths.
fn quantities(list: &mut Object) {
    for value in list.values_mut() {
        if let Some(text) = canonical(value) {
            *value = text.into();
        }
        if value.as_str().is_some_and(|text| text.ends_with(['n', 'u']))
            && let Ok(fine) = Quantity::from_value(value)
        {
            *value = Quantity::from_millis(fine.milli_value(), fine.format()).to_string().into();
        }
    }
}

/// [`quantities`] of the list under a field.
fn quantities_at(map: &mut Object, field: &str) {
    if let Some(list) = child(map, field) {
        quantities(list);
    }
}

/// The quantities of `limits` and `requests` under a field that holds resource requirements.
fn requirements(map: &mut Object, field: &str) {
    if let Some(resources) = child(map, field) {
        quantities_at(resources, "limits");
        quantities_at(resources, "requests");
    }
}

#[cfg(test)]
mod tests;
