//! ResourceSlices: what drivers have to offer.

use super::super::check::{
    Out, Path, child, flag, has, immutable, int, invalid_all, items, map, members, non_negative, one_of, positive,
    quantity, required, required_name, text, unique,
};
use super::super::pod::volumes::driver_name;
use super::super::selectors;
use super::{list, qualified};
use crate::field::{FieldError, FieldPath};
use crate::names;
use crate::quantity::Quantity;
use serde_json::Value;

const DEVICES_MAX: usize = 128;
/// With taints or counters a device takes more room.
const LARGE_DEVICES_MAX: usize = 64;
const COUNTER_SETS_MAX: usize = 8;
const COUNTERS_MAX: usize = 32;
const CONSUMPTIONS_MAX: usize = 2;
const TAINTS_MAX: usize = 16;
/// Attributes and capacities of one device together.
const PROPERTIES_MAX: usize = 32;
const VALUE_MAX: usize = 64;
const VALID_VALUES_MAX: usize = 10;
const POOL_NAME_MAX: usize = 253;

/// A pool's name: parts between slashes, each a subdomain.
pub(super) fn pool_name(out: &mut Out, at: Path, name: &str) {
    required(out, at, name);
    if name.len() > POOL_NAME_MAX {
        return out.push(FieldError::too_long(at, POOL_NAME_MAX));
    }
    for part in name.split('/').filter(|_| !name.is_empty()) {
        invalid_all(out, at, part, names::dns1123_subdomain(part));
    }
}

pub(in super::super) fn slice(out: &mut Out, object: &Value) {
    let at = FieldPath::root("spec");
    let spec = child(object, "spec");
    required_name(out, &at.child("driver"), text(spec, "driver"), driver_name);
    let pool = child(spec, "pool");
    let here = at.child("pool");
    pool_name(out, &here.child("name"), text(pool, "name"));
    positive(out, &here.child("resourceSliceCount"), Some(int(pool, "resourceSliceCount").unwrap_or(0)));
    non_negative(out, &here.child("generation"), int(pool, "generation"));
    let each = flag(spec, "perDeviceNodeSelection");
    places(out, &at, spec, &["nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection"], "");
    if has(spec, "sharedCounters") && has(spec, "devices") {
        out.push(FieldError::invalid(&at, "", "only one of `sharedCounters` or `devices` is allowed"));
    }
    let large = |device: &Value| has(device, "taints") || has(device, "consumesCounters");
    let max = if items(spec, "devices").iter().any(large) { LARGE_DEVICES_MAX } else { DEVICES_MAX };
    let mut seen = Vec::new();
    for (i, one) in list(out, &at, spec, "devices", max).iter().enumerate() {
        let devices = at.child("devices");
        let at = devices.index(i);
        unique(out, &at.child("name"), &mut seen, text(one, "name"));
        device(out, &at, one, each);
    }
    let mut seen = Vec::new();
    for (i, set) in list(out, &at, spec, "sharedCounters", COUNTER_SETS_MAX).iter().enumerate() {
        let sets = at.child("sharedCounters");
        let at = sets.index(i);
        let name = text(set, "name");
        required_name(out, &at.child("name"), name, names::dns1123_label);
        unique(out, &at.child("name"), &mut seen, name);
        counters(out, &at, set);
    }
}

/// From where something can be used: exactly one of some fields says it.
fn places(out: &mut Out, at: Path, holder: &Value, fields: &[&str], when: &str) {
    for field in ["allNodes", "perDeviceNodeSelection"] {
        if holder.get(field) == Some(&Value::Bool(false)) {
            out.push(FieldError::invalid(&at.child(field), false, "must be either unset or set to true"));
        }
    }
    if holder.get("nodeName").is_some_and(|name| name == "") {
        let wrong = "must be either unset or set to a non-empty string";
        out.push(FieldError::invalid(&at.child("nodeName"), "", wrong));
    } else if has(holder, "nodeName") {
        required_name(out, &at.child("nodeName"), text(holder, "nodeName"), names::dns1123_subdomain);
    }
    if has(holder, "nodeSelector") {
        let here = at.child("nodeSelector");
        let selector = child(holder, "nodeSelector");
        selectors::node_selector(out, &here, selector);
        if items(selector, "nodeSelectorTerms").len() != 1 && when.is_empty() {
            let terms = here.child("nodeSelectorTerms");
            out.push(FieldError::invalid(
                &terms,
                child(selector, "nodeSelectorTerms"),
                "must have exactly one node selector term",
            ));
        }
    }
    let says = |field: &&&str| match **field {
        "nodeName" => !text(holder, "nodeName").is_empty(),
        "nodeSelector" => has(holder, "nodeSelector"),
        other => flag(holder, other),
    };
    let set: Vec<String> = fields.iter().filter(says).map(|field| format!("`{field}`")).collect();
    let all: Vec<String> = fields.iter().map(|field| format!("`{field}`")).collect();
    let wanted = format!("exactly one of {} is required{when}", all.join(", "));
    match set.len() {
        0 => out.push(FieldError::required(at, wanted)),
        1 => {}
        _ => out.push(FieldError::invalid(
            at,
            format!("{{{}}}", set.join(", ")).as_str(),
            format!("{wanted}, but multiple fields are set"),
        )),
    }
}

fn device(out: &mut Out, at: Path, device: &Value, each: bool) {
    required_name(out, &at.child("name"), text(device, "name"), names::dns1123_label);
    let size = |field: &str| map(device, field).map_or(0, |m| m.len());
    let properties = size("attributes") + size("capacity");
    if properties > PROPERTIES_MAX {
        out.push(FieldError::invalid(
            at,
            properties as i64,
            format!("the total number of attributes and capacities must not exceed {PROPERTIES_MAX}"),
        ));
    }
    let attributes = at.child("attributes");
    for (name, value) in members(device, "attributes") {
        let at = attributes.key(name);
        qualified(out, &at, name);
        attribute(out, &at, value);
    }
    let capacities = at.child("capacity");
    for (name, entry) in members(device, "capacity") {
        let at = capacities.key(name);
        qualified(out, &at, name);
        capacity(out, &at, entry, flag(device, "allowMultipleAllocations"));
    }
    for (i, one) in list(out, at, device, "taints", TAINTS_MAX).iter().enumerate() {
        let taints = at.child("taints");
        taint(out, &taints.index(i), one);
    }
    let mut seen = Vec::new();
    for (i, one) in list(out, at, device, "consumesCounters", CONSUMPTIONS_MAX).iter().enumerate() {
        let all = at.child("consumesCounters");
        let at = all.index(i);
        let set = text(one, "counterSet");
        required_name(out, &at.child("counterSet"), set, names::dns1123_label);
        unique(out, &at.child("counterSet"), &mut seen, set);
        counters(out, &at, one);
    }
    let fields = ["nodeName", "nodeSelector", "allNodes"];
    if each {
        let when = " when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
        places(out, at, device, &fields, when);
    } else if fields.iter().any(|field| has(device, field)) {
        let wrong = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
        out.push(FieldError::invalid(at, "", wrong));
    }
}

fn attribute(out: &mut Out, at: Path, value: &Value) {
    let kinds = ["bool", "int", "string", "version"].iter().filter(|kind| has(value, kind)).count();
    if kinds != 1 {
        out.push(FieldError::invalid(at, value, "exactly one value must be specified"));
    }
    for field in ["string", "version"] {
        if text(value, field).len() > VALUE_MAX {
            out.push(FieldError::too_long(&at.child(field), VALUE_MAX));
        }
    }
    if has(value, "version") && !is_semver(text(value, "version")) {
        let wrong = "must be a string compatible with semver.org spec 2.0.0";
        out.push(FieldError::invalid(&at.child("version"), text(value, "version"), wrong));
    }
}

/// semver.org 2.0.0: three numbers without leading zeros, then perhaps a pre-release and build metadata.
fn is_semver(text: &str) -> bool {
    let (text, build) = text.split_once('+').map_or((text, None), |(t, b)| (t, Some(b)));
    let (core, before) = text.split_once('-').map_or((text, None), |(c, b)| (c, Some(b)));
    let identifier = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let number = |part: &str| digits(part) && (part == "0" || !part.starts_with('0'));
    core.split('.').count() == 3
        && core.split('.').all(number)
        && before.is_none_or(|b| b.split('.').all(|p| identifier(p) && (!digits(p) || number(p))))
        && build.is_none_or(|b| b.split('.').all(identifier))
}

fn taint(out: &mut Out, at: Path, taint: &Value) {
    required_name(out, &at.child("key"), text(taint, "key"), names::qualified_name);
    let value = text(taint, "value");
    if !value.is_empty() {
        invalid_all(out, &at.child("value"), value, names::label_value(value));
    }
    match text(taint, "effect") {
        "" => out.push(FieldError::required(&at.child("effect"), "")),
        effect => one_of(out, &at.child("effect"), effect, &["NoExecute", "NoSchedule", "None"]),
    }
}

fn counters(out: &mut Out, at: Path, holder: &Value) {
    let at = at.child("counters");
    let count = map(holder, "counters").map_or(0, |m| m.len());
    if count == 0 {
        out.push(FieldError::required(&at, ""));
    } else if count > COUNTERS_MAX {
        out.push(FieldError::too_many(&at, count, COUNTERS_MAX));
    }
    for (name, counter) in members(holder, "counters") {
        let at = at.key(name);
        invalid_all(out, &at, name, names::dns1123_label(name));
        quantity(out, &at.child("value"), child(counter, "value"));
    }
}

fn capacity(out: &mut Out, at: Path, entry: &Value, shared: bool) {
    let value = quantity(out, &at.child("value"), child(entry, "value"));
    if !has(entry, "requestPolicy") {
        return;
    }
    let at = at.child("requestPolicy");
    if !shared {
        return out.push(FieldError::forbidden(&at, "allowMultipleAllocations must be true"));
    }
    policy(out, &at, child(entry, "requestPolicy"), value.unwrap_or_default());
}

/// How much may be taken at once: a range or a list of amounts, and what is taken by whoever does not say.
fn policy(out: &mut Out, at: Path, policy: &Value, value: Quantity) {
    let (range, values) = (child(policy, "validRange"), items(policy, "validValues"));
    let default = Quantity::from_value(child(policy, "default")).ok();
    if !range.is_null() && !values.is_empty() {
        let wrong =
            "exactly one policy can be specified, cannot specify `validValues` and `validRange` at the same time";
        return out.push(FieldError::forbidden(&at.child("validValues"), wrong));
    }
    if (!range.is_null() || !values.is_empty()) && default.is_none() {
        out.push(FieldError::required(&at.child("default"), "required when a policy is defined"));
    }
    let exceeds = |out: &mut Out, field: &str, amount: Option<Quantity>| {
        if let Some(amount) = amount.filter(|a| *a > value) {
            let wrong = format!("exceeds the capacity value {value}");
            out.push(FieldError::invalid(&at.child(field), amount.to_string().as_str(), wrong));
        }
    };
    exceeds(out, "default", default);
    if values.len() > VALID_VALUES_MAX {
        out.push(FieldError::too_many(&at.child("validValues"), values.len(), VALID_VALUES_MAX));
    }
    let amounts: Vec<Quantity> = values.iter().filter_map(|v| Quantity::from_value(v).ok()).collect();
    for amount in &amounts {
        exceeds(out, "validValues", Some(*amount));
    }
    if let Some(default) = default.filter(|d| !amounts.is_empty() && !amounts.contains(d)) {
        let wrong = "default value is not valid according to the requestPolicy";
        out.push(FieldError::invalid(&at.child("default"), default.to_string().as_str(), wrong));
    }
    if range.is_null() {
        return;
    }
    let here = at.child("validRange");
    let of = |field: &str| Quantity::from_value(child(range, field)).ok();
    let (min, max, step) = (of("min"), of("max"), of("step"));
    let Some(min) = min else {
        return out.push(FieldError::required(&here.child("min"), "required when validRange is defined"));
    };
    if max.is_some_and(|max| min > max) {
        out.push(FieldError::invalid(
            &here.child("min"),
            min.to_string().as_str(),
            "min must be less than or equal to max",
        ));
    }
    let outside = |d: &Quantity| *d < min || max.is_some_and(|max| *d > max);
    let between = |d: &Quantity| step.is_some_and(|s| s.nanos() > 0 && (d.nanos() - min.nanos()) % s.nanos() != 0);
    if let Some(default) = default.filter(|d| outside(d) || between(d)) {
        let wrong = "default value is not valid according to the requestPolicy";
        out.push(FieldError::invalid(&at.child("default"), default.to_string().as_str(), wrong));
    }
}

pub(in super::super) fn slice_update(out: &mut Out, new: &Value, old: &Value) {
    slice(out, new);
    let at = FieldPath::root("spec");
    let (now, was) = (child(new, "spec"), child(old, "spec"));
    for field in ["driver", "nodeName"] {
        immutable(out, &at.child(field), child(now, field), child(was, field));
    }
    immutable(
        out,
        &at.child("pool").child("name"),
        child(child(now, "pool"), "name"),
        child(child(was, "pool"), "name"),
    );
}
