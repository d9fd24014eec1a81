//! Deployments, ReplicaSets, ReplicationControllers, DaemonSets, StatefulSets, revisions, templates. Jobs are in `jobs`.

use super::check::{
    Out, Path, at_most_100_percent, child, has, immutable, int, items, map, non_negative, number_or_percent, one_of,
    percent_of, same, text,
};
use super::pod::{self, template};
use super::selectors;
use crate::field::{FieldError, FieldPath};
use crate::names;
use crate::selector::LabelSelector;
use serde_json::Value;

/// The selector of a workload: there, not empty, and true of the template's labels.
fn selector_and_template(out: &mut Out, at: Path, spec: &Value, kind: &str) {
    let here = at.child("selector");
    let selector = child(spec, "selector");
    if selector.is_null() {
        out.push(FieldError::required(&here, ""));
    } else {
        selectors::label_selector(out, &here, selector);
        if selectors::is_empty(selector) {
            out.push(FieldError::invalid(&here, selector, format!("empty selector is invalid for {kind}")));
        }
    }
    let template_at = at.child("template");
    let pod = child(spec, "template");
    if pod.is_null() {
        return out.push(FieldError::required(&template_at, ""));
    }
    match LabelSelector::from_value(Some(selector)) {
        Ok(parsed) if !parsed.is_nothing() => matches_template(out, &template_at, &parsed, pod),
        Ok(_) => {}
        Err(_) => out.push(FieldError::invalid(&here, selector, "invalid label selector")),
    }
    template(out, &template_at, pod);
}

pub(super) fn matches_template(out: &mut Out, at: Path, selector: &LabelSelector, template: &Value) {
    let labels = child(child(template, "metadata"), "labels");
    if !selector.matches(labels) {
        let shown = if labels.is_null() { Value::Object(serde_json::Map::new()) } else { labels.clone() };
        out.push(FieldError::invalid(
            &at.child("metadata").child("labels"),
            shown,
            "`selector` does not match template `labels`",
        ));
    }
}

fn replicas(out: &mut Out, at: Path, spec: &Value) {
    non_negative(out, &at.child("replicas"), int(spec, "replicas"));
}

fn is_zero(value: &Value) -> bool {
    value.as_i64() == Some(0) || percent_of(value) == Some(0)
}

pub(super) fn deployment(out: &mut Out, object: &Value) {
    let at = FieldPath::root("spec");
    let spec = child(object, "spec");
    replicas(out, &at, spec);
    selector_and_template(out, &at, spec, "deployment");
    pod::must_restart_always(out, &at.child("template"), child(spec, "template"), "ReplicaSet");
    let strategy = child(spec, "strategy");
    let here = at.child("strategy");
    match text(strategy, "type") {
        "Recreate" => {
            if has(strategy, "rollingUpdate") {
                out.push(FieldError::forbidden(
                    &here.child("rollingUpdate"),
                    "may not be specified when strategy `type` is 'Recreate'",
                ));
            }
        }
        "RollingUpdate" => {
            let rolling = child(strategy, "rollingUpdate");
            let here = here.child("rollingUpdate");
            if rolling.is_null() {
                out.push(FieldError::required(&here, "this should be defaulted and never be nil"));
            } else {
                surge_and_unavailable(out, &here, rolling);
            }
        }
        other => out.push(FieldError::not_supported(&here, other, &["Recreate", "RollingUpdate"])),
    }
    non_negative(out, &at.child("minReadySeconds"), int(spec, "minReadySeconds"));
    non_negative(out, &at.child("revisionHistoryLimit"), int(spec, "revisionHistoryLimit"));
    if let Some(deadline) = int(spec, "progressDeadlineSeconds") {
        let here = at.child("progressDeadlineSeconds");
        non_negative(out, &here, Some(deadline));
        if deadline <= int(spec, "minReadySeconds").unwrap_or(0) {
            out.push(FieldError::invalid(&here, deadline, "must be greater than minReadySeconds"));
        }
    }
}

fn surge_and_unavailable(out: &mut Out, at: Path, rolling: &Value) {
    let (unavailable, surge) = (child(rolling, "maxUnavailable"), child(rolling, "maxSurge"));
    number_or_percent(out, &at.child("maxUnavailable"), unavailable);
    number_or_percent(out, &at.child("maxSurge"), surge);
    if is_zero(unavailable) && is_zero(surge) {
        out.push(FieldError::invalid(&at.child("maxUnavailable"), unavailable, "may not be 0 when `maxSurge` is 0"));
    }
    at_most_100_percent(out, &at.child("maxUnavailable"), unavailable);
}

pub(super) fn replica_set(out: &mut Out, object: &Value) {
    let at = FieldPath::root("spec");
    let spec = child(object, "spec");
    replicas(out, &at, spec);
    non_negative(out, &at.child("minReadySeconds"), int(spec, "minReadySeconds"));
    selector_and_template(out, &at, spec, "deployment");
    pod::must_restart_always(out, &at.child("template"), child(spec, "template"), "ReplicaSet");
}

pub(super) fn replication_controller(out: &mut Out, object: &Value) {
    let at = FieldPath::root("spec");
    let spec = child(object, "spec");
    replicas(out, &at, spec);
    non_negative(out, &at.child("minReadySeconds"), int(spec, "minReadySeconds"));
    let selector = map(spec, "selector").filter(|map| !map.is_empty());
    if selector.is_none() {
        out.push(FieldError::required(&at.child("selector"), ""));
    }
    let here = at.child("template");
    let pod = child(spec, "template");
    if pod.is_null() {
        return out.push(FieldError::required(&here, ""));
    }
    if let Some(selector) = selector {
        matches_template(out, &here, &LabelSelector::from_map(selector), pod);
    }
    template(out, &here, pod);
    pod::must_restart_always(out, &here, pod, "ReplicationController");
}

pub(super) fn daemon_set(out: &mut Out, object: &Value) {
    let at = FieldPath::root("spec");
    let spec = child(object, "spec");
    selector_and_template(out, &at, spec, "daemonset");
    pod::must_restart_always(out, &at.child("template"), child(spec, "template"), "DaemonSet");
    non_negative(out, &at.child("minReadySeconds"), int(spec, "minReadySeconds"));
    non_negative(out, &at.child("revisionHistoryLimit"), int(spec, "revisionHistoryLimit"));
    let strategy = child(spec, "updateStrategy");
    let here = at.child("updateStrategy");
    match text(strategy, "type") {
        "OnDelete" => {}
        "RollingUpdate" => {
            let rolling = child(strategy, "rollingUpdate");
            let here = here.child("rollingUpdate");
            if rolling.is_null() {
                return out.push(FieldError::required(&here, ""));
            }
            let (unavailable, surge) = (child(rolling, "maxUnavailable"), child(rolling, "maxSurge"));
            number_or_percent(out, &here.child("maxUnavailable"), unavailable);
            number_or_percent(out, &here.child("maxSurge"), surge);
            match (is_zero(unavailable) || unavailable.is_null(), is_zero(surge) || surge.is_null()) {
                (false, false) => out.push(FieldError::invalid(
                    &here.child("maxSurge"),
                    surge,
                    "may not be set when maxUnavailable is non-zero",
                )),
                (true, true) => {
                    out.push(FieldError::required(&here.child("maxUnavailable"), "cannot be 0 when maxSurge is 0"))
                }
                _ => {}
            }
            at_most_100_percent(out, &here.child("maxUnavailable"), unavailable);
            at_most_100_percent(out, &here.child("maxSurge"), surge);
        }
        other => out.push(FieldError::not_supported(&here, other, &["RollingUpdate", "OnDelete"])),
    }
}

pub(super) fn stateful_set(out: &mut Out, object: &Value) {
    let at = FieldPath::root("spec");
    let spec = child(object, "spec");
    match text(spec, "podManagementPolicy") {
        "" => out.push(FieldError::required(&at.child("podManagementPolicy"), "")),
        "OrderedReady" | "Parallel" => {}
        other => out.push(FieldError::invalid(
            &at.child("podManagementPolicy"),
            other,
            "must be 'OrderedReady' or 'Parallel'",
        )),
    }
    let strategy = child(spec, "updateStrategy");
    let here = at.child("updateStrategy");
    match text(strategy, "type") {
        "" => out.push(FieldError::required(&here, "")),
        "OnDelete" => {
            if has(strategy, "rollingUpdate") {
                out.push(FieldError::invalid(
                    &here.child("rollingUpdate"),
                    child(strategy, "rollingUpdate"),
                    "only allowed for updateStrategy 'RollingUpdate'",
                ));
            }
        }
        "RollingUpdate" => {
            let rolling = child(strategy, "rollingUpdate");
            let here = here.child("rollingUpdate");
            non_negative(out, &here.child("partition"), int(rolling, "partition"));
            if has(rolling, "maxUnavailable") {
                let unavailable = child(rolling, "maxUnavailable");
                number_or_percent(out, &here.child("maxUnavailable"), unavailable);
                at_most_100_percent(out, &here.child("maxUnavailable"), unavailable);
                if is_zero(unavailable) {
                    out.push(FieldError::invalid(&here.child("maxUnavailable"), unavailable, "cannot be 0"));
                }
            }
        }
        other => {
            out.push(FieldError::invalid(&here, other, "must be 'RollingUpdate' or 'OnDelete'"));
        }
    }
    let policy = child(spec, "persistentVolumeClaimRetentionPolicy");
    let here = at.child("persistentVolumeClaimRetentionPolicy");
    for field in ["whenDeleted", "whenScaled"] {
        one_of(out, &here.child(field), text(policy, field), &["Delete", "Retain"]);
    }
    replicas(out, &at, spec);
    non_negative(out, &at.child("minReadySeconds"), int(spec, "minReadySeconds"));
    non_negative(out, &at.child("ordinals").child("start"), int(child(spec, "ordinals"), "start"));
    let service = text(spec, "serviceName");
    if !service.is_empty() {
        super::check::invalid_all(out, &at.child("serviceName"), service, names::dns1123_subdomain(service));
    }
    with_claims(spec, |spec| selector_and_template(out, &at, spec, "statefulset"));
    pod::must_restart_always(out, &at.child("template"), child(spec, "template"), "StatefulSet");
}

/// Lets `check` see a StatefulSet's template with the volumes that its claim templates will give to the Pods.
fn with_claims(spec: &Value, check: impl FnOnce(&Value)) {
    let claims = items(spec, "volumeClaimTemplates");
    if claims.is_empty() {
        return check(spec);
    }
    let mut spec = spec.clone();
    let volumes = spec.pointer("/template/spec/volumes").and_then(Value::as_array).cloned().unwrap_or_default();
    let names: Vec<&str> = claims.iter().map(|claim| text(child(claim, "metadata"), "name")).collect();
    // Own volumes stay in front, so that paths in messages are those of the template; a claim hides a volume of its name.
    let mut all: Vec<Value> = volumes
        .into_iter()
        .map(|volume| match names.iter().find(|name| **name == text(&volume, "name")) {
            Some(name) => claimed(name),
            None => volume,
        })
        .collect();
    for name in names {
        if !all.iter().any(|volume| text(volume, "name") == name) {
            all.push(claimed(name));
        }
    }
    if let Some(pod) = spec.pointer_mut("/template/spec").and_then(Value::as_object_mut) {
        pod.insert("volumes".to_owned(), Value::Array(all));
    }
    check(&spec);
}

fn claimed(name: &str) -> Value {
    serde_json::json!({"name": name, "persistentVolumeClaim": {"claimName": name}})
}

pub(super) fn stateful_set_update(out: &mut Out, new: &Value, old: &Value) {
    stateful_set(out, new);
    let (new, old) = (child(new, "spec"), child(old, "spec"));
    const FREE: [&str; 7] = [
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    ];
    let fields = |spec: &Value| -> Vec<String> {
        let keys = spec.as_object().into_iter().flat_map(|map| map.keys().cloned());
        keys.filter(|key| !FREE.contains(&key.as_str())).collect()
    };
    let changed = fields(new).into_iter().chain(fields(old)).any(|key| !same(child(new, &key), child(old, &key)));
    if changed {
        out.push(FieldError::forbidden(
            &FieldPath::root("spec"),
            "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', \
             'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        ));
    }
}

/// Checks after which the selector is compared: it never changes once made.
pub(super) fn fixed_selector(out: &mut Out, new: &Value, old: &Value) {
    let at = FieldPath::root("spec");
    immutable(out, &at.child("selector"), child(child(new, "spec"), "selector"), child(child(old, "spec"), "selector"));
}

pub(super) fn revision(out: &mut Out, object: &Value) {
    if !has(object, "data") {
        out.push(FieldError::required(&FieldPath::root("data"), "data is mandatory"));
    }
    non_negative(out, &FieldPath::root("revision"), int(object, "revision"));
}

pub(super) fn pod_template(out: &mut Out, object: &Value) {
    template(out, &FieldPath::root("template"), child(object, "template"));
}

/// Numbers of a workload's status are not below zero.
pub(super) fn status_counts(out: &mut Out, object: &Value, fields: &[&str]) {
    let at = FieldPath::root("status");
    let status = child(object, "status");
    for field in fields {
        non_negative(out, &at.child(field), int(status, field));
    }
}

/// The number that tells apart what hashes alike only grows.
pub(super) fn collisions(out: &mut Out, new: &Value, old: &Value) {
    let count = |object: &Value| int(child(object, "status"), "collisionCount");
    if count(old).is_some_and(|old| count(new).unwrap_or(0) < old) {
        let at = FieldPath::root("status.collisionCount");
        out.push(FieldError::invalid(&at, count(new).unwrap_or(0), "cannot be decremented"));
    }
}

/// Ready and available pods are among all of them.
pub(super) fn status_order(out: &mut Out, object: &Value) {
    let at = FieldPath::root("status");
    let status = child(object, "status");
    let count = |field: &str| int(status, field).unwrap_or(0);
    for (less, more) in [
        ("readyReplicas", "replicas"),
        ("availableReplicas", "replicas"),
        ("availableReplicas", "readyReplicas"),
        ("fullyLabeledReplicas", "replicas"),
        ("updatedReplicas", "replicas"),
        ("currentReplicas", "replicas"),
    ] {
        if count(less) > count(more) {
            out.push(FieldError::invalid(
                &at.child(less),
                count(less),
                format!(
                    "cannot be greater than {}",
                    match more {
                        "replicas" => "status.replicas",
                        _ => "readyReplicas",
                    }
                ),
            ));
        }
    }
}
