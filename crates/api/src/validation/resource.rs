//! Dynamic resource allocation: claims, classes, slices (KEP-4381).

use super::check::{
    Out, Path, child, has, immutable, int, invalid_all, items, members, one_of, positive, required, required_name,
    text, unique,
};
use super::pod::volumes::driver_name;
use super::selectors;
use crate::field::{FieldError, FieldPath};
use crate::names;
use serde_json::Value;

const REQUESTS_MAX: usize = 32;
const SELECTORS_MAX: usize = 32;
const DEVICES_MAX: usize = 128;

pub(super) fn claim(out: &mut Out, object: &Value) {
    claim_spec(out, &FieldPath::root("spec"), child(object, "spec"));
}

pub(super) fn template(out: &mut Out, object: &Value) {
    claim_spec(out, &FieldPath::root("spec.spec"), child(child(object, "spec"), "spec"));
}

fn claim_spec(out: &mut Out, at: Path, spec: &Value) {
    let devices = child(spec, "devices");
    let at = at.child("devices");
    let list = at.child("requests");
    let requests = items(devices, "requests");
    if requests.len() > REQUESTS_MAX {
        out.push(FieldError::too_many(&list, requests.len(), REQUESTS_MAX));
    }
    let mut seen = Vec::new();
    for (i, one) in requests.iter().enumerate() {
        let at = list.index(i);
        let name = text(one, "name");
        required_name(out, &at.child("name"), name, names::dns1123_label);
        unique(out, &at.child("name"), &mut seen, name);
        request(out, &at, one);
    }
    let list = at.child("constraints");
    for (i, one) in items(devices, "constraints").iter().enumerate() {
        let at = list.index(i);
        known_requests(out, &at.child("requests"), one, &seen);
        let attribute = text(one, "matchAttribute");
        if has(one, "matchAttribute") {
            qualified(out, &at.child("matchAttribute"), attribute);
        } else if !has(one, "distinctAttribute") {
            out.push(FieldError::required(&at.child("matchAttribute"), ""));
        }
    }
    let list = at.child("config");
    for (i, one) in items(devices, "config").iter().enumerate() {
        let at = list.index(i);
        known_requests(out, &at.child("requests"), one, &seen);
        opaque(out, &at.child("opaque"), child(one, "opaque"));
    }
}

fn known_requests(out: &mut Out, list: Path, holder: &Value, known: &[&str]) {
    for (i, name) in super::check::texts(holder, "requests").enumerate() {
        let main = name.split('/').next().unwrap_or_default();
        if !known.contains(&main) {
            out.push(FieldError::invalid(&list.index(i), name, "must be the name of a request in the claim"));
        }
    }
}

fn request(out: &mut Out, at: Path, one: &Value) {
    match (has(one, "exactly"), items(one, "firstAvailable")) {
        (true, []) => exact(out, &at.child("exactly"), child(one, "exactly"), true),
        (false, []) => out.push(FieldError::required(at, "exactly one of `exactly` or `firstAvailable` is required")),
        (true, _) => out.push(FieldError::invalid(at, one, "exactly one of `exactly` or `firstAvailable` is required")),
        (false, all) => {
            let list = at.child("firstAvailable");
            if all.len() > 8 {
                out.push(FieldError::too_many(&list, all.len(), 8));
            }
            let mut seen = Vec::new();
            for (i, sub) in all.iter().enumerate() {
                let at = list.index(i);
                let name = text(sub, "name");
                required_name(out, &at.child("name"), name, names::dns1123_label);
                unique(out, &at.child("name"), &mut seen, name);
                exact(out, &at, sub, false);
            }
        }
    }
}

fn exact(out: &mut Out, at: Path, request: &Value, may_be_admin: bool) {
    required_name(out, &at.child("deviceClassName"), text(request, "deviceClassName"), names::dns1123_subdomain);
    cel_selectors(out, &at.child("selectors"), request);
    let mode = text(request, "allocationMode");
    match mode {
        "ExactCount" => positive(out, &at.child("count"), Some(int(request, "count").unwrap_or(0))),
        "All" => {
            if int(request, "count").unwrap_or(0) != 0 {
                out.push(FieldError::invalid(
                    &at.child("count"),
                    int(request, "count").unwrap_or(0),
                    "must not be specified when allocationMode is 'All'",
                ));
            }
        }
        other => out.push(FieldError::not_supported(&at.child("allocationMode"), other, &["All", "ExactCount"])),
    }
    if !may_be_admin && has(request, "adminAccess") {
        out.push(FieldError::forbidden(&at.child("adminAccess"), "not allowed in subrequests"));
    }
}

fn cel_selectors(out: &mut Out, list: Path, holder: &Value) {
    let all = items(holder, "selectors");
    if all.len() > SELECTORS_MAX {
        out.push(FieldError::too_many(list, all.len(), SELECTORS_MAX));
    }
    for (i, one) in all.iter().enumerate() {
        let at = list.index(i);
        let cel = child(one, "cel");
        if cel.is_null() {
            out.push(FieldError::required(&at.child("cel"), ""));
        } else {
            required(out, &at.child("cel").child("expression"), text(cel, "expression"));
        }
    }
}

fn opaque(out: &mut Out, at: Path, opaque: &Value) {
    if opaque.is_null() {
        return out.push(FieldError::required(at, ""));
    }
    required_name(out, &at.child("driver"), text(opaque, "driver"), driver_name);
    if !has(opaque, "parameters") {
        out.push(FieldError::required(&at.child("parameters"), ""));
    }
}

/// `domain/name` or a C identifier.
fn qualified(out: &mut Out, at: Path, name: &str) {
    let (domain, id) = name.split_once('/').map_or((None, name), |(domain, id)| (Some(domain), id));
    if let Some(domain) = domain {
        invalid_all(out, at, domain, names::dns1123_subdomain(domain));
    }
    if !names::is_c_identifier(id) {
        out.push(FieldError::invalid(
            at,
            id,
            names::regex_error("a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_'", "[A-Za-z_][A-Za-z0-9_]*", &["my_name", "MY_NAME", "MyName"]),
        ));
    }
}

pub(super) fn class(out: &mut Out, object: &Value) {
    let at = FieldPath::root("spec");
    let spec = child(object, "spec");
    cel_selectors(out, &at.child("selectors"), spec);
    let list = at.child("config");
    for (i, one) in items(spec, "config").iter().enumerate() {
        opaque(out, &list.index(i).child("opaque"), child(one, "opaque"));
    }
}

pub(super) fn slice(out: &mut Out, object: &Value) {
    let at = FieldPath::root("spec");
    let spec = child(object, "spec");
    required_name(out, &at.child("driver"), text(spec, "driver"), driver_name);
    let pool = child(spec, "pool");
    let here = at.child("pool");
    let name = text(pool, "name");
    required(out, &here.child("name"), name);
    for part in name.split('/').filter(|part| !part.is_empty()) {
        invalid_all(out, &here.child("name"), name, names::dns1123_subdomain(part));
    }
    positive(out, &here.child("resourceSliceCount"), Some(int(pool, "resourceSliceCount").unwrap_or(0)));
    super::check::non_negative(out, &here.child("generation"), int(pool, "generation"));
    let places = ["nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection"];
    match places.iter().filter(|place| has(spec, place)).count() {
        0 => out.push(FieldError::required(
            &at,
            "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required",
        )),
        1 => {}
        _ => out.push(FieldError::invalid(
            &at,
            spec,
            "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required",
        )),
    }
    if has(spec, "nodeName") {
        required_name(out, &at.child("nodeName"), text(spec, "nodeName"), names::dns1123_subdomain);
    }
    if has(spec, "nodeSelector") {
        selectors::node_selector(out, &at.child("nodeSelector"), child(spec, "nodeSelector"));
    }
    let list = at.child("devices");
    let devices = items(spec, "devices");
    if devices.len() > DEVICES_MAX {
        out.push(FieldError::too_many(&list, devices.len(), DEVICES_MAX));
    }
    let mut seen = Vec::new();
    for (i, device) in devices.iter().enumerate() {
        let at = list.index(i);
        let name = text(device, "name");
        required_name(out, &at.child("name"), name, names::dns1123_label);
        unique(out, &at.child("name"), &mut seen, name);
        let attributes = at.child("attributes");
        for (name, value) in members(device, "attributes") {
            let at = attributes.key(name);
            qualified(out, &at, name);
            let kinds = ["bool", "int", "string", "version"].iter().filter(|kind| has(value, kind)).count();
            if kinds != 1 {
                out.push(FieldError::invalid(&at, value, "exactly one value must be specified"));
            }
        }
        let capacity = at.child("capacity");
        for (name, entry) in members(device, "capacity") {
            qualified(out, &capacity.key(name), name);
            super::check::quantity(out, &capacity.key(name).child("value"), child(entry, "value"));
        }
        for taint in items(device, "taints") {
            let at = at.child("taints");
            required_name(out, &at.child("key"), text(taint, "key"), names::qualified_name);
            one_of(out, &at.child("effect"), text(taint, "effect"), &["NoExecute", "NoSchedule"]);
        }
    }
}

pub(super) fn slice_update(out: &mut Out, new: &Value, old: &Value) {
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

pub(super) fn claim_status(out: &mut Out, new: &Value, old: &Value) {
    let at = FieldPath::root("status");
    let (now, was) = (child(new, "status"), child(old, "status"));
    let list = at.child("reservedFor");
    let reserved = items(now, "reservedFor");
    if reserved.len() > 256 {
        out.push(FieldError::too_many(&list, reserved.len(), 256));
    }
    let mut seen: Vec<&str> = Vec::new();
    for (i, one) in reserved.iter().enumerate() {
        let at = list.index(i);
        for field in ["resource", "name", "uid"] {
            required(out, &at.child(field), text(one, field));
        }
        let uid = text(one, "uid");
        if seen.contains(&uid) {
            out.push(FieldError::duplicate(&at.child("uid"), uid));
        }
        seen.push(uid);
    }
    if !reserved.is_empty() && !has(now, "allocation") {
        out.push(FieldError::forbidden(&list, "may not be specified when `allocated` is not set"));
    }
    if has(was, "allocation") && has(now, "allocation") {
        immutable(out, &at.child("allocation"), child(now, "allocation"), child(was, "allocation"));
    }
    if has(child(new, "metadata"), "deletionTimestamp") && reserved.len() > items(was, "reservedFor").len() {
        out.push(FieldError::forbidden(
            &list,
            "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set",
        ));
    }
}
