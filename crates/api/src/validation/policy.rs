//! Budgets, autoscalers, certificate requests.

use super::check::{
    Out, Path, at_most_100_percent, child, has, int, invalid_all, items, non_negative, number_or_percent, one_of,
    positive, quantity, required, required_name, same, text, texts,
};
use super::selectors;
use crate::field::{FieldError, FieldPath};
use crate::names;
use crate::quantity::Quantity;
use base64::Engine as _;
use serde_json::Value;

pub(super) fn budget(out: &mut Out, object: &Value) {
    let at = FieldPath::root("spec");
    let spec = child(object, "spec");
    if has(spec, "minAvailable") && has(spec, "maxUnavailable") {
        out.push(FieldError::invalid(&at, spec.clone(), "minAvailable and maxUnavailable cannot be both set"));
    }
    for field in ["minAvailable", "maxUnavailable"] {
        let value = child(spec, field);
        if !value.is_null() {
            number_or_percent(out, &at.child(field), value);
            at_most_100_percent(out, &at.child(field), value);
        }
    }
    if has(spec, "selector") {
        selectors::label_selector(out, &at.child("selector"), child(spec, "selector"));
    }
    if has(spec, "unhealthyPodEvictionPolicy") {
        one_of(
            out,
            &at.child("unhealthyPodEvictionPolicy"),
            text(spec, "unhealthyPodEvictionPolicy"),
            &["AlwaysAllow", "IfHealthyBudget"],
        );
    }
}

pub(super) fn budget_status(out: &mut Out, object: &Value) {
    let at = FieldPath::root("status");
    for field in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
        non_negative(out, &at.child(field), int(child(object, "status"), field));
    }
}

pub(super) fn autoscaler(out: &mut Out, object: &Value) {
    let at = FieldPath::root("spec");
    let spec = child(object, "spec");
    let (min, max) = (int(spec, "minReplicas"), int(spec, "maxReplicas").unwrap_or(0));
    // Scaling to zero is alpha upstream, and off (KEP-2021).
    if let Some(min) = min.filter(|min| *min < 1) {
        out.push(FieldError::invalid(&at.child("minReplicas"), min, "must be greater than or equal to 1"));
    }
    if max < 1 {
        out.push(FieldError::invalid(&at.child("maxReplicas"), max, "must be greater than 0"));
    }
    if min.is_some_and(|min| max < min) {
        out.push(FieldError::invalid(&at.child("maxReplicas"), max, "must be greater than or equal to `minReplicas`"));
    }
    let target = child(spec, "scaleTargetRef");
    let here = at.child("scaleTargetRef");
    required_name(out, &here.child("kind"), text(target, "kind"), names::path_segment);
    required_name(out, &here.child("name"), text(target, "name"), names::path_segment);
    let list = at.child("metrics");
    for (i, metric) in items(spec, "metrics").iter().enumerate() {
        one_metric(out, &list.index(i), metric);
    }
    let behavior = child(spec, "behavior");
    for direction in ["scaleUp", "scaleDown"] {
        let rules = child(behavior, direction);
        if !rules.is_null() {
            scaling_rules(out, &at.child("behavior").child(direction), rules);
        }
    }
}

fn one_metric(out: &mut Out, at: Path, metric: &Value) {
    let sources = [
        ("ContainerResource", "containerResource"),
        ("External", "external"),
        ("Object", "object"),
        ("Pods", "pods"),
        ("Resource", "resource"),
    ];
    let kind = text(metric, "type");
    if kind.is_empty() {
        return out.push(FieldError::required(&at.child("type"), "must specify a metric source type"));
    }
    let Some((_, wanted)) = sources.iter().find(|(one, _)| *one == kind) else {
        let words: Vec<&str> = sources.iter().map(|(one, _)| *one).collect();
        return out.push(FieldError::not_supported(&at.child("type"), kind, &words));
    };
    for (_, source) in sources {
        if source != *wanted && has(metric, source) {
            out.push(FieldError::forbidden(&at.child(source), "must populate the given metric source only"));
        }
    }
    let source = child(metric, wanted);
    let at = at.child(wanted);
    if source.is_null() {
        return out.push(FieldError::required(&at, "must populate information for the given metric source"));
    }
    match *wanted {
        "resource" | "containerResource" => required(out, &at.child("name"), text(source, "name")),
        _ => {
            let name = text(child(source, "metric"), "name");
            required_name(out, &at.child("metric").child("name"), name, names::path_segment);
        }
    }
    if *wanted == "containerResource" {
        match text(source, "container") {
            "" => out.push(FieldError::required(&at.child("container"), "must specify a container")),
            name => invalid_all(out, &at.child("container"), name, names::dns1123_label(name)),
        }
    }
    if *wanted == "object" {
        let object = child(source, "describedObject");
        required_name(out, &at.child("describedObject").child("kind"), text(object, "kind"), names::path_segment);
        required_name(out, &at.child("describedObject").child("name"), text(object, "name"), names::path_segment);
    }
    metric_target(out, &at.child("target"), child(source, "target"), wanted);
}

fn metric_target(out: &mut Out, at: Path, target: &Value, source: &str) {
    one_of(out, &at.child("type"), text(target, "type"), &["AverageValue", "Utilization", "Value"]);
    positive(out, &at.child("averageUtilization"), int(target, "averageUtilization"));
    for field in ["value", "averageValue"] {
        if has(target, field)
            && let Some(amount) = quantity(out, &at.child(field), child(target, field))
            && amount <= Quantity::ZERO
        {
            out.push(FieldError::invalid(&at.child(field), child(target, field), "must be positive"));
        }
    }
    let utilization = has(target, "averageUtilization");
    let average = has(target, "averageValue");
    match source {
        "resource" | "containerResource" => {
            if !utilization && !average {
                out.push(FieldError::required(
                    &at.child("averageUtilization"),
                    "must set either a target raw value or a target utilization",
                ));
            } else if utilization && average {
                out.push(FieldError::forbidden(
                    &at.child("averageValue"),
                    "may not set both a target raw value and a target utilization",
                ));
            }
        }
        "pods" => {
            if !average {
                out.push(FieldError::required(
                    &at.child("averageValue"),
                    "must specify a positive target averageValue",
                ));
            }
        }
        source => {
            let (object, value) = (source == "object", has(target, "value"));
            if !value && !average {
                let why = if object {
                    "must set either a target value or averageValue"
                } else {
                    "must set either a target value for metric or a per-pod target"
                };
                out.push(FieldError::required(&at.child("averageValue"), why));
            } else if value && average && !object {
                out.push(FieldError::forbidden(
                    &at.child("value"),
                    "may not set both a target value for metric and a per-pod target",
                ));
            }
        }
    }
}

fn above_zero(out: &mut Out, path: Path, value: i64) {
    if value <= 0 {
        out.push(FieldError::invalid(path, value, "must be greater than zero"));
    }
}

fn scaling_rules(out: &mut Out, at: Path, rules: &Value) {
    let window = at.child("stabilizationWindowSeconds");
    if let Some(seconds) = int(rules, "stabilizationWindowSeconds").filter(|seconds| *seconds < 0) {
        out.push(FieldError::invalid(&window, seconds, "must be greater than or equal to zero"));
    }
    if let Some(seconds) = int(rules, "stabilizationWindowSeconds").filter(|seconds| *seconds > 3600) {
        out.push(FieldError::invalid(&window, seconds, "must be less than or equal to 3600"));
    }
    if has(rules, "selectPolicy") {
        one_of(out, &at.child("selectPolicy"), text(rules, "selectPolicy"), &["Disabled", "Max", "Min"]);
    }
    let list = at.child("policies");
    if items(rules, "policies").is_empty() {
        out.push(FieldError::required(&list, "must specify at least one Policy"));
    }
    for (i, policy) in items(rules, "policies").iter().enumerate() {
        let at = list.index(i);
        let kind = text(policy, "type");
        if !matches!(kind, "Pods" | "Percent") {
            out.push(FieldError::not_supported(&at.child("type"), kind, &["Percent", "Pods"]));
        }
        above_zero(out, &at.child("value"), int(policy, "value").unwrap_or(0));
        let period = int(policy, "periodSeconds").unwrap_or(0);
        above_zero(out, &at.child("periodSeconds"), period);
        if period > 1800 {
            out.push(FieldError::invalid(&at.child("periodSeconds"), period, "must be less than or equal to 1800"));
        }
    }
    if has(rules, "tolerance") {
        super::check::non_negative_quantity(out, &at.child("tolerance"), child(rules, "tolerance"));
    }
}

const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

pub(super) fn certificate_request(out: &mut Out, object: &Value) {
    let at = FieldPath::root("spec");
    let spec = child(object, "spec");
    let request = text(spec, "request");
    let decoded = base64::engine::general_purpose::STANDARD.decode(request).unwrap_or_default();
    let pem = String::from_utf8_lossy(&decoded);
    if !pem.contains("-----BEGIN CERTIFICATE REQUEST-----") {
        out.push(FieldError::invalid(&at.child("request"), request, "PEM block type must be CERTIFICATE REQUEST"));
    }
    let usages: Vec<&str> = texts(spec, "usages").collect();
    let list = at.child("usages");
    if usages.is_empty() {
        out.push(FieldError::required(&list, "usages are required"));
    }
    for (i, usage) in usages.iter().enumerate() {
        if !USAGES.contains(usage) {
            out.push(FieldError::not_supported(&list.index(i), *usage, &USAGES));
        }
        if usages[..i].contains(usage) {
            out.push(FieldError::duplicate(&list.index(i), *usage));
        }
    }
    let signer = text(spec, "signerName");
    if signer == "kubernetes.io/legacy-unknown" {
        out.push(FieldError::invalid(
            &at.child("signerName"),
            signer,
            "the legacy signerName is not allowed via this API version",
        ));
    }
    signer_name(out, &at.child("signerName"), signer);
    if let Some(seconds) = int(spec, "expirationSeconds").filter(|seconds| *seconds < 600) {
        out.push(FieldError::invalid(
            &at.child("expirationSeconds"),
            seconds,
            "may not specify a duration less than 600 seconds (10 minutes)",
        ));
    }
    request_status(out, object);
}

/// `domain/path`: who signs.
pub(super) fn signer_name(out: &mut Out, at: Path, signer: &str) {
    if signer.is_empty() {
        return out.push(FieldError::required(at, ""));
    }
    let Some((domain, path)) = signer.split_once('/') else {
        return out.push(FieldError::invalid(
            at,
            signer,
            "must be a fully qualified domain and path of the form 'example.com/signer-name'",
        ));
    };
    if path.contains('/') {
        return out.push(FieldError::invalid(
            at,
            signer,
            "must be a fully qualified domain and path of the form 'example.com/signer-name'",
        ));
    }
    let mut complaints = names::dns1123_subdomain(domain);
    if complaints.is_empty() && !domain.contains('.') {
        complaints.push("should be a domain with at least two segments separated by dots".into());
    }
    for why in complaints {
        out.push(FieldError::invalid(at, domain, format!("validating label \"{domain}\": {why}")));
    }
    for why in names::dns1123_subdomain(path) {
        out.push(FieldError::invalid(at, path, format!("validating label \"{path}\": {why}")));
    }
}

pub(super) fn request_status(out: &mut Out, object: &Value) {
    let list = FieldPath::root("status.conditions");
    let mut seen: Vec<&str> = Vec::new();
    for (i, one) in items(child(object, "status"), "conditions").iter().enumerate() {
        let at = list.index(i);
        let (kind, status) = (text(one, "type"), text(one, "status"));
        match kind {
            "" => out.push(FieldError::required(&at.child("type"), "")),
            "Approved" | "Denied" | "Failed" => {
                one_of(out, &at.child("status"), status, &["True"]);
            }
            _ => one_of(out, &at.child("status"), status, &["False", "True", "Unknown"]),
        }
        if seen.contains(&kind) {
            out.push(FieldError::duplicate(&at.child("type"), kind));
        }
        seen.push(kind);
    }
    if seen.contains(&"Approved") && seen.contains(&"Denied") {
        out.push(FieldError::invalid(&list, "Denied", "Approved and Denied conditions are mutually exclusive"));
    }
}

pub(super) fn request_update(out: &mut Out, new: &Value, old: &Value, sub: &str) {
    request_status(out, new);
    let find = |object: &Value, kind: &str| -> Vec<Value> {
        let all = items(child(object, "status"), "conditions");
        all.iter().filter(|one| text(one, "type") == kind).cloned().collect()
    };
    let at = FieldPath::root("status.conditions");
    for kind in ["Approved", "Denied", "Failed"] {
        let (now, was) = (find(new, kind), find(old, kind));
        if sub != "approval" && kind != "Failed" && now.len() > was.len() {
            out.push(FieldError::forbidden(&at, format!("updates may not add a condition of type \"{kind}\"")));
        }
        if !was.is_empty() && now.is_empty() {
            out.push(FieldError::forbidden(&at, format!("updates may not remove a condition of type \"{kind}\"")));
        }
    }
    let (now, was) = (child(child(new, "status"), "certificate"), child(child(old, "status"), "certificate"));
    if sub == "status" && !was.is_null() && !same(now, was) {
        out.push(FieldError::forbidden(
            &FieldPath::root("status.certificate"),
            "updates may not change existing certificate content",
        ));
    }
}

/// A bundle is named after its signer.
pub(super) fn trust_bundle(out: &mut Out, object: &Value) {
    let spec = child(object, "spec");
    let at = FieldPath::root("spec");
    let signer = text(spec, "signerName");
    let name = text(child(object, "metadata"), "name");
    if !signer.is_empty() {
        signer_name(out, &at.child("signerName"), signer);
        let prefix = format!("{}:", signer.replace('/', ":"));
        if !name.starts_with(&prefix) {
            out.push(FieldError::invalid(
                &FieldPath::root("metadata.name"),
                name,
                format!("ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}"),
            ));
        }
    }
    required(out, &at.child("trustBundle"), text(spec, "trustBundle"));
}
