//! Dynamic resource allocation (KEP-4381).

use super::{Object, child, each, get, made, number, optional, quantity, text};

pub(super) fn apply(kind: &str, object: &mut Object) {
    match kind {
        "ResourceClaim" => {
            claim(object);
            made(object, "status");
        }
        "ResourceClaimTemplate" => {
            if let Some(template) = made(object, "spec") {
                made(template, "metadata");
                claim(template);
            }
        }
        "ResourceSlice" => {
            if let Some(spec) = made(object, "spec") {
                for device in each(spec, "devices") {
                    if let Some(capacity) = child(device, "capacity") {
                        for entry in capacity.values_mut().filter_map(|v| v.as_object_mut()) {
                            quantity(entry, "value");
                        }
                    }
                }
            }
        }
        _ => {}
    }
}

fn claim(owner: &mut Object) {
    let Some(devices) = made(owner, "spec").and_then(|spec| child(spec, "devices")) else { return };
    for one in each(devices, "requests") {
        if let Some(exactly) = child(one, "exactly") {
            request(exactly);
        }
        each(one, "firstAvailable").for_each(request);
    }
}

fn request(request: &mut Object) {
    text(request, "allocationMode", "ExactCount");
    if get(request, "allocationMode") == "ExactCount" {
        number(request, "count", 1);
    }
    for toleration in each(request, "tolerations") {
        optional(toleration, "operator", "Equal");
    }
}
