//! Pods and pod templates.

use super::check::{
    Out, Path, child, flag, has, in_range, int, invalid_all, items, map, one_of, optional_one_of, text, unique,
};
use super::{metadata, selectors};
use crate::field::{FieldError, FieldPath};
use crate::names;
use serde_json::Value;

mod affinity;
mod containers;
mod handlers;
mod network;
pub(super) mod resources;
mod security;
mod update;
pub(super) mod volumes;

pub(super) use affinity::{node_affinity_terms, taint_effect, tolerations};
pub(super) use network::host_alias_ip;
pub(super) use update::{ephemeral, resize, status_update, update};

/// What the checks of a spec know about where the spec stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// A Pod itself.
    Pod,
    /// The template of a workload.
    Template,
}

/// Seconds that fit upstream's 32-bit integers.
const INT32_MAX: i64 = i32::MAX as i64;

/// A new Pod.
pub(super) fn create(out: &mut Out, pod: &Value) {
    let spec_at = FieldPath::root("spec");
    let spec = child(pod, "spec");
    annotations(out, child(pod, "metadata"), spec);
    spec_checks(out, &spec_at, spec, Role::Pod);
    if !items(spec, "ephemeralContainers").is_empty() {
        out.push(FieldError::forbidden(&spec_at.child("ephemeralContainers"), "cannot be set on create"));
    }
}

fn annotations(out: &mut Out, metadata: &Value, spec: &Value) {
    const MIRROR: &str = "kubernetes.io/config.mirror";
    let at = FieldPath::root("metadata");
    let at = at.child("annotations");
    let annotations = child(metadata, "annotations");
    if has(annotations, MIRROR) && text(spec, "nodeName").is_empty() {
        out.push(FieldError::invalid(
            &at.key(MIRROR),
            text(annotations, MIRROR),
            "must set spec.nodeName if mirror pod annotation is set",
        ));
    }
    if let Some(cost) = annotations.get("controller.kubernetes.io/pod-deletion-cost").and_then(Value::as_str) {
        let sane = cost.parse::<i32>().is_ok() && !cost.starts_with('+') && (cost == "0" || !cost.starts_with('0'));
        if !sane {
            out.push(FieldError::invalid(
                &at.key("controller.kubernetes.io/pod-deletion-cost"),
                cost,
                "must be a 32bit integer",
            ));
        }
    }
}

/// A pod template: its labels and annotations, and its spec.
pub(super) fn template(out: &mut Out, at: Path, template: &Value) {
    let meta = child(template, "metadata");
    // Upstream's paths: without `metadata` in between.
    metadata::labels(out, &at.child("labels"), map(meta, "labels"));
    metadata::annotations(out, &at.child("annotations"), meta);
    let spec = child(template, "spec");
    spec_checks(out, &at.child("spec"), spec, Role::Template);
    if !items(spec, "ephemeralContainers").is_empty() {
        out.push(FieldError::forbidden(
            &at.child("spec").child("ephemeralContainers"),
            "ephemeral containers not allowed in pod template",
        ));
    }
}

/// A pod spec, in a Pod or in a template.
pub(super) fn spec_checks(out: &mut Out, at: Path, spec: &Value, role: Role) {
    let volumes = volumes::volumes(out, &at.child("volumes"), spec);
    containers::all(out, at, spec, &volumes, role);
    one_of(out, &at.child("restartPolicy"), text(spec, "restartPolicy"), &["Always", "OnFailure", "Never"]);
    one_of(
        out,
        &at.child("dnsPolicy"),
        text(spec, "dnsPolicy"),
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
    );
    selectors::label_map(out, at, spec, "nodeSelector");
    security::pod(out, at, spec);
    pull_secrets(out, &at.child("imagePullSecrets"), spec);
    affinity::affinity(out, &at.child("affinity"), child(spec, "affinity"));
    network::dns_config(out, at, spec);
    readiness_gates(out, &at.child("readinessGates"), spec);
    scheduling_gates(out, &at.child("schedulingGates"), spec);
    affinity::spread(out, &at.child("topologySpreadConstraints"), spec);
    for (field, check) in [
        ("serviceAccountName", names::dns1123_subdomain as fn(&str) -> names::Complaints),
        ("nodeName", names::dns1123_subdomain),
        ("hostname", names::dns1123_label),
        ("subdomain", names::dns1123_label),
        ("priorityClassName", names::dns1123_subdomain),
        ("runtimeClassName", names::dns1123_subdomain),
    ] {
        let value = text(spec, field);
        if !value.is_empty() {
            invalid_all(out, &at.child(field), value, check(value));
        }
    }
    hostname_override(out, at, spec);
    in_range(out, &at.child("activeDeadlineSeconds"), int(spec, "activeDeadlineSeconds"), 1, INT32_MAX);
    tolerations(out, &at.child("tolerations"), spec);
    network::host_aliases(out, &at.child("hostAliases"), spec);
    optional_one_of(
        out,
        &at.child("preemptionPolicy"),
        text(spec, "preemptionPolicy"),
        &["Never", "PreemptLowerPriority"],
    );
    resources::pod_level(out, at, spec);
    resources::overhead(out, &at.child("overhead"), spec);
    if !text(spec, "nodeName").is_empty() && !items(spec, "schedulingGates").is_empty() && role == Role::Pod {
        out.push(FieldError::forbidden(
            &at.child("nodeName"),
            "cannot be set until all schedulingGates have been cleared",
        ));
    }
    operating_system(out, at, spec);
    resource_claims(out, at, spec);
}

/// A hostname that overrides all else (KEP-4762).
fn hostname_override(out: &mut Out, at: Path, spec: &Value) {
    if !has(spec, "hostnameOverride") {
        return;
    }
    let here = at.child("hostnameOverride");
    let name = text(spec, "hostnameOverride");
    invalid_all(out, &here, name, names::dns1123_subdomain(name));
    if name.len() > 64 {
        out.push(FieldError::too_long(&here, 64));
    }
    if flag(spec, "setHostnameAsFQDN") {
        out.push(FieldError::forbidden(
            &at.child("setHostnameAsFQDN"),
            "may not be specified when `hostnameOverride` is specified",
        ));
    }
    if flag(spec, "hostNetwork") {
        out.push(FieldError::forbidden(&here, "may not be specified when `hostNetwork` is true"));
    }
}

fn pull_secrets(out: &mut Out, at: Path, spec: &Value) {
    for (i, one) in items(spec, "imagePullSecrets").iter().enumerate() {
        if one.as_object().is_some_and(|one| one.keys().any(|key| key != "name")) {
            out.push(FieldError::invalid(&at.index(i), one, "only name may be set"));
        }
    }
}

fn readiness_gates(out: &mut Out, at: Path, spec: &Value) {
    for (i, gate) in items(spec, "readinessGates").iter().enumerate() {
        let kind = text(gate, "conditionType");
        invalid_all(out, &at.index(i).child("conditionType"), kind, names::qualified_name(kind));
    }
}

fn scheduling_gates(out: &mut Out, at: Path, spec: &Value) {
    let mut seen = Vec::new();
    for (i, gate) in items(spec, "schedulingGates").iter().enumerate() {
        let name = text(gate, "name");
        invalid_all(out, &at.index(i), name, names::qualified_name(name));
        if seen.contains(&name) {
            out.push(FieldError::duplicate(&at.index(i), name));
        }
        seen.push(name);
    }
}

fn operating_system(out: &mut Out, at: Path, spec: &Value) {
    let os = child(spec, "os");
    if os.is_null() {
        return;
    }
    let name = text(os, "name");
    one_of(out, &at.child("os").child("name"), name, &["linux", "windows"]);
    if name == "windows" {
        for field in ["hostPID", "hostIPC", "shareProcessNamespace"] {
            if flag(spec, field) {
                out.push(FieldError::forbidden(&at.child(field), "cannot be set for a windows pod"));
            }
        }
    }
}

fn resource_claims(out: &mut Out, at: Path, spec: &Value) {
    let mut seen = Vec::new();
    let list = at.child("resourceClaims");
    for (i, claim) in items(spec, "resourceClaims").iter().enumerate() {
        let at = list.index(i);
        let name = text(claim, "name");
        if name.is_empty() {
            out.push(FieldError::required(&at.child("name"), ""));
        } else {
            unique(out, &at.child("name"), &mut seen, name);
            invalid_all(out, &at.child("name"), name, names::dns1123_label(name));
        }
        let (direct, template) = (text(claim, "resourceClaimName"), text(claim, "resourceClaimTemplateName"));
        match (direct.is_empty(), template.is_empty()) {
            (false, false) => out.push(FieldError::invalid(
                &at,
                claim,
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
            )),
            (true, true) => out.push(FieldError::invalid(
                &at,
                claim,
                "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
            )),
            _ => {}
        }
        for (field, value) in [("resourceClaimName", direct), ("resourceClaimTemplateName", template)] {
            if !value.is_empty() {
                invalid_all(out, &at.child(field), value, names::dns1123_subdomain(value));
            }
        }
    }
}

/// Whether the restart policy of a template suits a workload that keeps its pods running.
pub(super) fn must_restart_always(out: &mut Out, at: Path, template: &Value, kind: &str) {
    let spec_at = at.child("spec");
    let policy = text(child(template, "spec"), "restartPolicy");
    if policy != "Always" {
        out.push(FieldError::not_supported(&spec_at.child("restartPolicy"), policy, &["Always"]));
    }
    if has(child(template, "spec"), "activeDeadlineSeconds") {
        out.push(FieldError::forbidden(
            &spec_at.child("activeDeadlineSeconds"),
            format!("activeDeadlineSeconds in {kind} is not Supported"),
        ));
    }
}

/// Names of the containers of all lists, in order.
pub(super) fn container_names(spec: &Value) -> impl Iterator<Item = &str> {
    ["initContainers", "containers", "ephemeralContainers"]
        .into_iter()
        .flat_map(move |list| items(spec, list).iter().map(|one| text(one, "name")))
}
