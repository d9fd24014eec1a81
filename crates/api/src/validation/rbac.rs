//! Roles and bindings.

use super::check::{Out, Path, child, items, required, same, text};
use super::selectors;
use crate::field::{FieldError, FieldPath};
use crate::names;
use serde_json::Value;

const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) fn role(out: &mut Out, object: &Value, cluster: bool) {
    let list = FieldPath::root("rules");
    for (i, rule) in items(object, "rules").iter().enumerate() {
        policy_rule(out, &list.index(i), rule, cluster);
    }
    let aggregation = child(object, "aggregationRule");
    if cluster && !aggregation.is_null() {
        let at = FieldPath::root("aggregationRule.clusterRoleSelectors");
        let all = items(aggregation, "clusterRoleSelectors");
        if all.is_empty() {
            out.push(FieldError::required(
                &at,
                "at least one clusterRoleSelector required if aggregationRule is non-nil",
            ));
        }
        for (i, selector) in all.iter().enumerate() {
            selectors::label_selector(out, &at.index(i), selector);
        }
    }
}

fn policy_rule(out: &mut Out, at: Path, rule: &Value, cluster: bool) {
    if items(rule, "verbs").is_empty() {
        out.push(FieldError::required(&at.child("verbs"), "verbs must contain at least one value"));
    }
    let urls = items(rule, "nonResourceURLs");
    if !urls.is_empty() {
        if !cluster {
            out.push(FieldError::invalid(
                &at.child("nonResourceURLs"),
                child(rule, "nonResourceURLs"),
                "namespaced rules cannot apply to non-resource URLs",
            ));
        }
        let resources = ["apiGroups", "resources", "resourceNames"].iter().any(|field| !items(rule, field).is_empty());
        if resources {
            out.push(FieldError::invalid(
                &at.child("nonResourceURLs"),
                child(rule, "nonResourceURLs"),
                "rules cannot apply to both regular resources and non-resource URLs",
            ));
        }
        return;
    }
    if items(rule, "apiGroups").is_empty() {
        out.push(FieldError::required(&at.child("apiGroups"), "resource rules must supply at least one api group"));
    }
    if items(rule, "resources").is_empty() {
        out.push(FieldError::required(&at.child("resources"), "resource rules must supply at least one resource"));
    }
}

pub(super) fn binding(out: &mut Out, object: &Value, cluster: bool) {
    let at = FieldPath::root("roleRef");
    let role = child(object, "roleRef");
    if text(role, "apiGroup") != GROUP {
        out.push(FieldError::not_supported(&at.child("apiGroup"), text(role, "apiGroup"), &[GROUP]));
    }
    let kinds: &[&str] = if cluster { &["ClusterRole"] } else { &["ClusterRole", "Role"] };
    if !kinds.contains(&text(role, "kind")) {
        out.push(FieldError::not_supported(&at.child("kind"), text(role, "kind"), kinds));
    }
    let name = text(role, "name");
    required(out, &at.child("name"), name);
    for why in names::path_segment(name) {
        out.push(FieldError::invalid(&at.child("name"), name, why));
    }
    let list = FieldPath::root("subjects");
    for (i, one) in items(object, "subjects").iter().enumerate() {
        subject(out, &list.index(i), one, !cluster);
    }
}

fn subject(out: &mut Out, at: Path, one: &Value, namespaced: bool) {
    let name = text(one, "name");
    required(out, &at.child("name"), name);
    let group = text(one, "apiGroup");
    match text(one, "kind") {
        "ServiceAccount" => {
            if !name.is_empty() {
                for why in names::dns1123_subdomain(name) {
                    out.push(FieldError::invalid(&at.child("name"), name, why));
                }
            }
            if !group.is_empty() {
                out.push(FieldError::not_supported(&at.child("apiGroup"), group, &[""]));
            }
            // In a RoleBinding the binding's own namespace is meant.
            if !namespaced && text(one, "namespace").is_empty() {
                out.push(FieldError::required(&at.child("namespace"), ""));
            }
        }
        "User" | "Group" => {
            if group != GROUP {
                out.push(FieldError::not_supported(&at.child("apiGroup"), group, &[GROUP]));
            }
        }
        other => out.push(FieldError::not_supported(&at.child("kind"), other, &["Group", "ServiceAccount", "User"])),
    }
}

pub(super) fn binding_update(out: &mut Out, new: &Value, old: &Value, cluster: bool) {
    if !same(child(new, "roleRef"), child(old, "roleRef")) {
        out.push(FieldError::invalid(&FieldPath::root("roleRef"), child(new, "roleRef"), "cannot change roleRef"));
    }
    binding(out, new, cluster);
}
