//! The status of claims: what the scheduler gave them, who uses them, what drivers tell of their devices.

use super::super::check::{Out, Path, child, has, immutable, items, one_of, required, required_name, text, unique};
use super::super::pod::volumes::driver_name;
use super::super::selectors;
use super::slice::pool_name;
use super::{list, names_of, opaque, reference, references, tolerations};
use crate::field::{FieldError, FieldPath};
use crate::names;
use serde_json::Value;

const RESERVED_MAX: usize = 256;
const RESULTS_MAX: usize = 32;
const CONFIG_MAX: usize = 64;
const CONDITIONS_MAX: usize = 8;

pub(in super::super) fn claim_status(out: &mut Out, new: &Value, old: &Value) {
    let at = FieldPath::root("status");
    let (now, was) = (child(new, "status"), child(old, "status"));
    let reserved = list(out, &at, now, "reservedFor", RESERVED_MAX);
    let here = at.child("reservedFor");
    let mut seen: Vec<&str> = Vec::new();
    for (i, one) in reserved.iter().enumerate() {
        let at = here.index(i);
        for field in ["resource", "name", "uid"] {
            required(out, &at.child(field), text(one, field));
        }
        unique(out, &at.child("uid"), &mut seen, text(one, "uid"));
    }
    if !reserved.is_empty() && !has(now, "allocation") {
        out.push(FieldError::forbidden(&here, "may not be specified when `allocated` is not set"));
    }
    let is_new = |one: &&Value| !items(was, "reservedFor").contains(one);
    if has(child(new, "metadata"), "deletionTimestamp") && reserved.iter().filter(is_new).count() > 0 {
        out.push(FieldError::forbidden(
            &here,
            "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set",
        ));
    }
    match (has(was, "allocation"), has(now, "allocation")) {
        (true, true) => immutable(out, &at.child("allocation"), child(now, "allocation"), child(was, "allocation")),
        (false, true) => {
            let known = names_of(child(child(new, "spec"), "devices"));
            allocation(out, &at.child("allocation"), child(now, "allocation"), &known);
        }
        _ => {}
    }
    devices(out, &at, now);
}

fn allocation(out: &mut Out, at: Path, allocation: &Value, known: &[String]) {
    let here = at.child("devices");
    let devices = child(allocation, "devices");
    for (i, one) in list(out, &here, devices, "results", RESULTS_MAX).iter().enumerate() {
        let results = here.child("results");
        let at = results.index(i);
        reference(out, &at.child("request"), text(one, "request"), known);
        device_names(out, &at, one);
        tolerations(out, &at, one);
        let share = text(one, "shareID");
        if has(one, "shareID") && !is_uuid(share) {
            let wrong = "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters";
            out.push(FieldError::invalid(&at.child("shareID"), share, wrong));
        }
    }
    for (i, one) in list(out, &here, devices, "config", CONFIG_MAX).iter().enumerate() {
        let config = here.child("config");
        let at = config.index(i);
        match text(one, "source") {
            "" => out.push(FieldError::required(&at.child("source"), "")),
            source => one_of(out, &at.child("source"), source, &["FromClaim", "FromClass"]),
        }
        references(out, &at, one, known);
        opaque(out, &at.child("opaque"), child(one, "opaque"));
    }
    if has(allocation, "nodeSelector") {
        selectors::node_selector(out, &at.child("nodeSelector"), child(allocation, "nodeSelector"));
    }
}

fn is_uuid(text: &str) -> bool {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    text.len() == 36
        && text.bytes().enumerate().all(|(i, b)| if matches!(i, 8 | 13 | 18 | 23) { b == b'-' } else { hex(b) })
}

fn device_names(out: &mut Out, at: Path, one: &Value) {
    required_name(out, &at.child("driver"), text(one, "driver"), driver_name);
    pool_name(out, &at.child("pool"), text(one, "pool"));
    required_name(out, &at.child("device"), text(one, "device"), names::dns1123_label);
}

type DeviceKey<'a> = [&'a str; 4];

fn key(one: &Value) -> DeviceKey<'_> {
    ["driver", "pool", "device", "shareID"].map(|field| text(one, field))
}

/// What drivers tell of the devices that the claim has (KEP-4817).
fn devices(out: &mut Out, at: Path, status: &Value) {
    let allocated: Vec<DeviceKey<'_>> =
        items(child(child(status, "allocation"), "devices"), "results").iter().map(key).collect();
    let all = at.child("devices");
    let mut seen: Vec<DeviceKey<'_>> = Vec::new();
    for (i, one) in items(status, "devices").iter().enumerate() {
        let at = all.index(i);
        device_names(out, &at, one);
        let id = key(one);
        if seen.contains(&id) {
            out.push(FieldError::duplicate(&at, id.join("/").trim_end_matches('/')));
        }
        seen.push(id);
        if !allocated.contains(&id) {
            let wrong = "must be an allocated device in the claim";
            out.push(FieldError::invalid(&at, id.join("/").trim_end_matches('/'), wrong));
        }
        list(out, &at, one, "conditions", CONDITIONS_MAX);
    }
}
