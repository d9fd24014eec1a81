//! `metadata`: names by the kind's rule, labels, annotations, owners, finalizers.

use super::check::{
    Out, Path, child, flag, has, immutable, int, invalid_all, items, members, non_negative, text, texts,
};
use crate::field::{FieldError, FieldPath};
use crate::kinds::Kind;
use crate::names::{self, Complaints};
use serde_json::{Map, Value};

/// 256 KiB: all annotations of an object together.
const ANNOTATIONS_MAX: usize = 256 << 10;

/// The rule for names of a kind.
pub fn name_rule(group: &str, kind: &str) -> fn(&str) -> Complaints {
    match (group, kind) {
        ("", "Namespace" | "Service") | ("apps", "StatefulSet") => names::dns1123_label,
        ("rbac.authorization.k8s.io", _)
        | ("certificates.k8s.io", _)
        | ("apiregistration.k8s.io", _)
        | ("" | "events.k8s.io", "Event") => names::path_segment,
        ("networking.k8s.io", "IPAddress") => ip_name,
        ("batch", "CronJob") => cron_job_name,
        _ => names::dns1123_subdomain,
    }
}

/// An IPAddress is named after its address in canonical form.
fn ip_name(name: &str) -> Complaints {
    match names::parse_ip(name) {
        Some(ip) if ip.to_string() == name => Complaints::new(),
        _ => vec!["must be a valid IP address in canonical form, (e.g. 10.9.8.7 or 2001:db8::ffff)".into()],
    }
}

/// 11 characters are left for the suffix of the Jobs.
fn cron_job_name(name: &str) -> Complaints {
    let mut out = names::dns1123_subdomain(name);
    if name.len() > 52 {
        out.push("must be no more than 52 characters".into());
    }
    out
}

/// Metadata of a new object.
pub(super) fn create(out: &mut Out, kind: &Kind, object: &Value) {
    let at = FieldPath::root("metadata");
    let metadata = child(object, "metadata");
    let rule = name_rule(&kind.group, &kind.kind);
    let prefix = text(metadata, "generateName");
    if !prefix.is_empty() {
        invalid_all(out, &at.child("generateName"), prefix, rule(&names::mask_trailing_dash(prefix)));
    }
    let name = text(metadata, "name");
    if name.is_empty() {
        out.push(FieldError::required(&at.child("name"), "name or generateName is required"));
    } else {
        invalid_all(out, &at.child("name"), name, rule(name));
    }
    let namespace = text(metadata, "namespace");
    if !kind.namespaced {
        if !namespace.is_empty() {
            out.push(FieldError::forbidden(&at.child("namespace"), "not allowed on this type"));
        }
    } else if namespace.is_empty() {
        out.push(FieldError::required(&at.child("namespace"), ""));
    } else {
        invalid_all(out, &at.child("namespace"), namespace, names::dns1123_label(namespace));
    }
    common(out, &at, metadata);
}

/// Metadata of an update.
pub(super) fn update(out: &mut Out, new: &Value, old: &Value) {
    let at = FieldPath::root("metadata");
    let (new, old) = (child(new, "metadata"), child(old, "metadata"));
    if has(old, "deletionTimestamp") {
        let stored: Vec<&str> = texts(old, "finalizers").collect();
        let mut added: Vec<&str> = texts(new, "finalizers").filter(|one| !stored.contains(one)).collect();
        added.sort_unstable();
        if !added.is_empty() {
            let shown: Vec<String> = added.iter().map(|one| crate::field::quote(one)).collect();
            out.push(FieldError::forbidden(
                &at.child("finalizers"),
                format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                    shown.join(", ")
                ),
            ));
        }
    }
    if text(new, "resourceVersion").is_empty() {
        out.push(FieldError::invalid(&at.child("resourceVersion"), "", "must be specified for an update"));
    }
    if int(new, "generation").unwrap_or(0) < int(old, "generation").unwrap_or(0) {
        let generation = int(new, "generation").unwrap_or(0);
        out.push(FieldError::invalid(&at.child("generation"), generation, "must not be decremented"));
    }
    let fixed = ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"];
    for field in fixed {
        immutable(out, &at.child(field), child(new, field), child(old, field));
    }
    common(out, &at, new);
}

fn common(out: &mut Out, at: Path, metadata: &Value) {
    non_negative(out, &at.child("generation"), int(metadata, "generation"));
    labels(out, &at.child("labels"), super::check::map(metadata, "labels"));
    annotations(out, &at.child("annotations"), metadata);
    owners(out, &at.child("ownerReferences"), metadata);
    finalizers(out, &at.child("finalizers"), metadata);
}

/// Labels: qualified keys, short values.
pub(super) fn labels(out: &mut Out, at: Path, labels: Option<&Map<String, Value>>) {
    for (key, value) in labels.into_iter().flatten() {
        if !names::is_qualified_name(key) {
            invalid_all(out, at, key, names::qualified_name(key));
        }
        let value = value.as_str().unwrap_or_default();
        if !names::is_label_value(value) {
            invalid_all(out, at, value, names::label_value(value));
        }
    }
}

/// Annotations: qualified keys, and a limit on the sum of all sizes.
pub(super) fn annotations(out: &mut Out, at: Path, holder: &Value) {
    let mut total = 0;
    for (key, value) in members(holder, "annotations") {
        if !names::is_qualified_name(key) {
            // Upper case is let pass in the prefix.
            invalid_all(out, at, key, names::qualified_name(&key.to_lowercase()));
        }
        total += key.len() + value.as_str().map_or(0, str::len);
    }
    if total > ANNOTATIONS_MAX {
        out.push(FieldError::too_long(at, ANNOTATIONS_MAX));
    }
}

fn owners(out: &mut Out, at: Path, metadata: &Value) {
    let mut controller: Option<String> = None;
    for owner in items(metadata, "ownerReferences") {
        let api_version = text(owner, "apiVersion");
        if api_version.is_empty() || api_version.ends_with('/') {
            out.push(FieldError::invalid(&at.child("apiVersion"), api_version, "version must not be empty"));
        }
        for field in ["kind", "name", "uid"] {
            if text(owner, field).is_empty() {
                out.push(FieldError::invalid(&at.child(field), "", "must not be empty"));
            }
        }
        if api_version == "v1" && text(owner, "kind") == "Event" {
            out.push(FieldError::invalid(at, owner, "/v1, Kind=Event is disallowed from being an owner"));
        }
        if flag(owner, "controller") {
            let this = format!("{}/{}", text(owner, "kind"), text(owner, "name"));
            match &controller {
                Some(first) => out.push(FieldError::invalid(
                    at,
                    child(metadata, "ownerReferences"),
                    format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} \
                         and {this}"
                    ),
                )),
                None => controller = Some(this),
            }
        }
    }
}

fn finalizers(out: &mut Out, at: Path, metadata: &Value) {
    for finalizer in texts(metadata, "finalizers") {
        if !names::is_qualified_name(finalizer) {
            invalid_all(out, at, finalizer, names::qualified_name(finalizer));
        }
    }
    let set = |name: &str| texts(metadata, "finalizers").any(|one| one == name);
    if set("orphan") && set("foregroundDeletion") {
        out.push(FieldError::invalid(
            at,
            child(metadata, "finalizers"),
            "finalizer orphan and foregroundDeletion cannot be both set",
        ));
    }
}
