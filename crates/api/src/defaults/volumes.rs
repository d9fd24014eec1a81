//! Volumes of pods.

use super::pod::default_pull_policy;
use super::storage::claim_spec;
use super::{Object, child, each, get, made, number, optional, quantity, text};
use serde_json::json;

/// 0644: the mode of files made from objects.
const FILE_MODE: i64 = 0o644;

/// One volume of a pod.
pub(super) fn volume(volume: &mut Object) {
    if volume.keys().all(|key| key == "name") {
        volume.insert("emptyDir".into(), json!({}));
        return;
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = child(volume, source) {
            optional(source, "defaultMode", FILE_MODE);
        }
    }
    if let Some(source) = child(volume, "downwardAPI") {
        each(source, "items").for_each(field_refs);
    }
    if let Some(source) = child(volume, "projected") {
        each(source, "sources").for_each(projection);
    }
    if let Some(source) = child(volume, "emptyDir") {
        quantity(source, "sizeLimit");
    }
    if let Some(source) = child(volume, "image") {
        let policy = default_pull_policy(get(source, "reference"));
        text(source, "pullPolicy", policy);
    }
    if let Some(template) = child(volume, "ephemeral").and_then(|source| child(source, "volumeClaimTemplate")) {
        made(template, "metadata");
        claim_spec(template);
    }
    network(volume);
}

/// Sources that pods and persistent volumes share.
pub(super) fn network(volume: &mut Object) {
    if let Some(source) = child(volume, "hostPath") {
        optional(source, "type", "");
    }
    if let Some(source) = child(volume, "iscsi") {
        text(source, "iscsiInterface", "default");
    }
    if let Some(source) = child(volume, "rbd") {
        text(source, "pool", "rbd");
        text(source, "user", "admin");
        text(source, "keyring", "/etc/ceph/keyring");
    }
    if let Some(source) = child(volume, "azureDisk") {
        optional(source, "cachingMode", "ReadWrite");
        optional(source, "kind", "Shared");
        optional(source, "fsType", "ext4");
        optional(source, "readOnly", false);
    }
    if let Some(source) = child(volume, "scaleIO") {
        text(source, "storageMode", "ThinProvisioned");
        text(source, "fsType", "xfs");
    }
}

fn projection(source: &mut Object) {
    if let Some(token) = child(source, "serviceAccountToken") {
        optional(token, "expirationSeconds", 3600);
    }
    if let Some(api) = child(source, "downwardAPI") {
        each(api, "items").for_each(field_refs);
    }
    if let Some(certificate) = child(source, "podCertificate") {
        number(certificate, "maxExpirationSeconds", 86400);
    }
}

/// `fieldRef` and `resourceFieldRef`, in environment variables and downward-API files.
pub(super) fn field_refs(holder: &mut Object) {
    if let Some(field) = child(holder, "fieldRef") {
        text(field, "apiVersion", "v1");
    }
    if let Some(field) = child(holder, "resourceFieldRef") {
        optional(field, "divisor", "0");
        quantity(field, "divisor");
    }
}
