//! Probes, lifecycle hooks and references to fields.

use super::super::check::{
    Out, Path, child, has, in_range, int, invalid_all, items, non_negative, one_of, port_or_name, positive, required,
    text,
};
use crate::field::FieldError;
use crate::names;
use crate::quantity::Quantity;
use serde_json::Value;

/// The fields that an environment variable may take its value from, sorted.
pub(super) const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// The fields that a file of a downward-API volume may take its content from, sorted.
pub(super) const VOLUME_FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
const RESOURCE_FIELDS: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// The three probes of a container.
pub(super) fn probes(out: &mut Out, at: Path, one: &Value) {
    for kind in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let found = child(one, kind);
        if found.is_null() {
            continue;
        }
        let at = at.child(kind);
        handler(out, &at, found, true);
        for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
        {
            non_negative(out, &at.child(field), int(found, field));
        }
        let grace = int(found, "terminationGracePeriodSeconds");
        if kind == "readinessProbe" {
            if has(found, "terminationGracePeriodSeconds") {
                let at = at.child("terminationGracePeriodSeconds");
                out.push(FieldError::invalid(&at, grace.unwrap_or(0), "must not be set for readinessProbes"));
            }
        } else {
            positive(out, &at.child("terminationGracePeriodSeconds"), grace);
            let threshold = int(found, "successThreshold").unwrap_or(0);
            if threshold != 1 {
                out.push(FieldError::invalid(&at.child("successThreshold"), threshold, "must be 1"));
            }
        }
    }
}

/// `postStart`, `preStop` and `stopSignal`.
pub(super) fn lifecycle(out: &mut Out, at: Path, lifecycle: &Value, spec: &Value) {
    if lifecycle.is_null() {
        return;
    }
    for kind in ["postStart", "preStop"] {
        let hook = child(lifecycle, kind);
        if hook.is_null() {
            continue;
        }
        let at = at.child(kind);
        handler(out, &at, hook, false);
        if let Some(seconds) = int(child(hook, "sleep"), "seconds") {
            let grace = int(spec, "terminationGracePeriodSeconds").unwrap_or(30);
            if seconds < 0 || seconds > grace {
                out.push(FieldError::invalid(
                    &at.child("sleep"),
                    seconds,
                    format!(
                        "must be greater than or equal to 0 and less than terminationGracePeriodSeconds ({grace}). \
                         Enable AllowPodLifecycleSleepActionZeroValue feature gate for zero sleep."
                    ),
                ));
            }
        }
    }
    if !text(lifecycle, "stopSignal").is_empty() && text(child(spec, "os"), "name").is_empty() {
        out.push(FieldError::forbidden(
            &at.child("stopSignal"),
            "may not be set for containers with empty `spec.os.name`",
        ));
    }
}

fn handler(out: &mut Out, at: Path, handler: &Value, probe: bool) {
    let kinds: &[&str] =
        if probe { &["exec", "httpGet", "tcpSocket", "grpc"] } else { &["exec", "httpGet", "tcpSocket", "sleep"] };
    let mut found = 0;
    for kind in kinds.iter().copied().filter(|kind| has(handler, kind)) {
        let at = at.child(kind);
        found += 1;
        if found > 1 {
            out.push(FieldError::forbidden(&at, "may not specify more than 1 handler type"));
            continue;
        }
        let action = child(handler, kind);
        match kind {
            "exec" if items(action, "command").is_empty() => {
                out.push(FieldError::required(&at.child("command"), ""));
            }
            "httpGet" => http_get(out, &at, action),
            "tcpSocket" => port_or_name(out, &at.child("port"), child(action, "port")),
            "grpc" => in_range(out, &at.child("port"), Some(int(action, "port").unwrap_or(0)), 1, 65535),
            _ => {}
        }
    }
    if found == 0 {
        out.push(FieldError::required(at, "must specify a handler type"));
    }
}

fn http_get(out: &mut Out, at: Path, action: &Value) {
    required(out, &at.child("path"), text(action, "path"));
    port_or_name(out, &at.child("port"), child(action, "port"));
    let scheme = text(action, "scheme");
    if !matches!(scheme, "HTTP" | "HTTPS") {
        out.push(FieldError::not_supported(&at.child("scheme"), scheme, &["HTTP", "HTTPS"]));
    }
    for header in items(action, "httpHeaders") {
        let name = text(header, "name");
        invalid_all(out, &at.child("httpHeaders"), name, names::http_header_name(name));
    }
}

/// A reference to a field of the Pod.
pub(super) fn field_ref(out: &mut Out, at: Path, reference: &Value, fields: &[&str]) {
    if text(reference, "apiVersion").is_empty() {
        return out.push(FieldError::required(&at.child("apiVersion"), ""));
    }
    let path = text(reference, "fieldPath");
    if path.is_empty() {
        return out.push(FieldError::required(&at.child("fieldPath"), ""));
    }
    if text(reference, "apiVersion") != "v1" {
        return out.push(FieldError::invalid(
            &at.child("fieldPath"),
            path,
            format!("error converting fieldPath: unsupported pod version: {}", text(reference, "apiVersion")),
        ));
    }
    if let Some((base, subscript)) = path.strip_suffix("']").and_then(|path| path.split_once("['")) {
        return match base {
            "metadata.annotations" => invalid_all(out, at, subscript, names::qualified_name(&subscript.to_lowercase())),
            "metadata.labels" => invalid_all(out, at, subscript, names::qualified_name(subscript)),
            _ => out.push(FieldError::invalid(
                &at.child("fieldPath"),
                path,
                format!("error converting fieldPath: field label does not support subscript: {path}"),
            )),
        };
    }
    if !fields.contains(&path) {
        let known = ENV_FIELDS.contains(&path) || VOLUME_FIELDS.contains(&path);
        if known {
            out.push(FieldError::not_supported(&at.child("fieldPath"), path, fields));
        } else {
            out.push(FieldError::invalid(
                &at.child("fieldPath"),
                path,
                format!("error converting fieldPath: field label not supported: {path}"),
            ));
        }
    }
}

/// A reference to a container's requests or limits.
pub(super) fn resource_field_ref(out: &mut Out, at: Path, reference: &Value, volume: bool) {
    let resource = text(reference, "resource");
    let hugepages = ["limits.hugepages-", "requests.hugepages-"].iter().any(|prefix| resource.starts_with(prefix));
    if volume && text(reference, "containerName").is_empty() {
        out.push(FieldError::required(&at.child("containerName"), ""));
    } else if resource.is_empty() {
        out.push(FieldError::required(&at.child("resource"), ""));
    } else if !hugepages && !RESOURCE_FIELDS.contains(&resource) {
        out.push(FieldError::not_supported(&at.child("resource"), resource, RESOURCE_FIELDS));
    }
    let Some(divisor) = reference.get("divisor").and_then(|value| Quantity::from_value(value).ok()) else { return };
    if divisor.is_zero() {
        return;
    }
    let shown = divisor.to_string();
    const SIZES: &[&str] = &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
    let (allowed, kind, words): (&[&str], &str, &str) = match resource.split_once('.').map_or("", |(_, name)| name) {
        "cpu" => (&["1m", "1"], "the cpu resource", "1m and 1"),
        "memory" => (SIZES, "the memory resource", "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei"),
        "ephemeral-storage" => {
            (SIZES, "the local ephemeral storage resource", "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei")
        }
        _ if hugepages => (SIZES, "the hugepages resource", "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei"),
        _ => return,
    };
    if !allowed.contains(&shown.as_str()) {
        out.push(FieldError::invalid(
            &at.child("divisor"),
            resource,
            format!("only divisor's values {words} are supported with {kind}"),
        ));
    }
}

/// A scheme word, for callers that take one.
pub(super) fn mount_propagation(out: &mut Out, at: Path, value: &str) {
    one_of(out, at, value, &["Bidirectional", "HostToContainer", "None"]);
}
