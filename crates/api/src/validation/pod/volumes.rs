//! Volumes and how containers mount them.

use super::super::check::{
    Out, Path, child, has, int, items, non_negative_quantity, one_of, optional_one_of, required, required_name, text,
    unique,
};
use super::super::storage;
use super::handlers;
use crate::field::FieldError;
use crate::names;
use serde_json::Value;

/// The volumes of a spec, by name.
pub(super) type Volumes<'a> = Vec<(&'a str, &'a Value)>;

const MODE_MESSAGE: &str = "must be a number between 0 and 0777 (octal), both inclusive";

/// `spec.volumes`; answers them by name.
pub(super) fn volumes<'a>(out: &mut Out, list: Path, spec: &'a Value) -> Volumes<'a> {
    let mut found: Volumes<'a> = Vec::new();
    for (i, one) in items(spec, "volumes").iter().enumerate() {
        let at = list.index(i);
        let name = text(one, "name");
        required_name(out, &at.child("name"), name, names::dns1123_label);
        if !name.is_empty() {
            if found.iter().any(|(seen, _)| *seen == name) {
                out.push(FieldError::duplicate(&at.child("name"), name));
            }
            found.push((name, one));
        }
        source(out, &at, one);
    }
    found
}

fn source(out: &mut Out, at: Path, volume: &Value) {
    let mut sources = 0;
    let kinds = volume.as_object().into_iter().flatten().filter(|(kind, value)| *kind != "name" && !value.is_null());
    for (kind, source) in kinds {
        sources += 1;
        let here = at.child(kind);
        if sources > 1 {
            out.push(FieldError::forbidden(&here, "may not specify more than 1 volume type"));
            continue;
        }
        one_source(out, &here, kind, source);
    }
    if sources == 0 {
        out.push(FieldError::required(at, "must specify a volume type"));
    }
}

fn one_source(out: &mut Out, at: Path, kind: &str, source: &Value) {
    match kind {
        "emptyDir" => {
            if has(source, "sizeLimit") {
                non_negative_quantity(out, &at.child("sizeLimit"), child(source, "sizeLimit"));
            }
            let medium = text(source, "medium");
            if !matches!(medium, "" | "Memory" | "HugePages") && !medium.starts_with("HugePages-") {
                out.push(FieldError::not_supported(&at.child("medium"), medium, &["", "HugePages", "Memory"]));
            }
        }
        "hostPath" => host_path(out, at, source),
        "secret" => {
            required(out, &at.child("secretName"), text(source, "secretName"));
            modes_and_items(out, at, source);
        }
        "configMap" => {
            required(out, &at.child("name"), text(source, "name"));
            modes_and_items(out, at, source);
        }
        "downwardAPI" => {
            mode(out, &at.child("defaultMode"), int(source, "defaultMode"));
            downward_items(out, &at.child("items"), source);
        }
        "projected" => projected(out, at, source),
        "persistentVolumeClaim" => required(out, &at.child("claimName"), text(source, "claimName")),
        "ephemeral" => {
            let template = child(source, "volumeClaimTemplate");
            let here = at.child("volumeClaimTemplate");
            if template.is_null() {
                return out.push(FieldError::required(&here, ""));
            }
            storage::claim_spec(out, &here.child("spec"), child(template, "spec"));
        }
        "image" => {
            required(out, &at.child("reference"), text(source, "reference"));
            optional_one_of(
                out,
                &at.child("pullPolicy"),
                text(source, "pullPolicy"),
                &["Always", "IfNotPresent", "Never"],
            );
        }
        "csi" => required_name(out, &at.child("driver"), text(source, "driver"), driver_name),
        "nfs" => nfs(out, at, source),
        "iscsi" => {
            required(out, &at.child("targetPortal"), text(source, "targetPortal"));
            required(out, &at.child("iqn"), text(source, "iqn"));
        }
        "gitRepo" => required(out, &at.child("repository"), text(source, "repository")),
        _ => {}
    }
}

/// The name of a CSI driver.
pub(in super::super) fn driver_name(name: &str) -> names::Complaints {
    if name.len() > 63 {
        return vec![names::max_len(63)];
    }
    names::dns1123_subdomain(&name.to_lowercase())
}

/// A path on the node.
pub(in super::super) fn host_path(out: &mut Out, at: Path, source: &Value) {
    let path = text(source, "path");
    if path.is_empty() {
        return out.push(FieldError::required(&at.child("path"), ""));
    }
    no_backsteps(out, &at.child("path"), path);
    let kind = text(source, "type");
    const KINDS: [&str; 8] =
        ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    if !KINDS.contains(&kind) {
        out.push(FieldError::not_supported(&at.child("type"), kind, &KINDS));
    }
}

/// An NFS export.
pub(in super::super) fn nfs(out: &mut Out, at: Path, source: &Value) {
    required(out, &at.child("server"), text(source, "server"));
    let path = text(source, "path");
    required(out, &at.child("path"), path);
    if !path.is_empty() && !path.starts_with('/') {
        out.push(FieldError::invalid(&at.child("path"), path, "must be an absolute path"));
    }
}

fn mode(out: &mut Out, at: Path, mode: Option<i64>) {
    if let Some(mode) = mode.filter(|mode| !(0..=0o777).contains(mode)) {
        out.push(FieldError::invalid(at, mode, MODE_MESSAGE));
    }
}

fn modes_and_items(out: &mut Out, at: Path, source: &Value) {
    mode(out, &at.child("defaultMode"), int(source, "defaultMode"));
    key_items(out, &at.child("items"), source);
}

fn key_items(out: &mut Out, list: Path, source: &Value) {
    for (i, item) in items(source, "items").iter().enumerate() {
        let at = list.index(i);
        required(out, &at.child("key"), text(item, "key"));
        let path = text(item, "path");
        required(out, &at.child("path"), path);
        relative_path(out, &at.child("path"), path);
        mode(out, &at.child("mode"), int(item, "mode"));
    }
}

fn downward_items(out: &mut Out, list: Path, source: &Value) {
    for (i, item) in items(source, "items").iter().enumerate() {
        let at = list.index(i);
        let path = text(item, "path");
        required(out, &at.child("path"), path);
        relative_path(out, &at.child("path"), path);
        match (has(item, "fieldRef"), has(item, "resourceFieldRef")) {
            (true, false) => {
                let field = child(item, "fieldRef");
                handlers::field_ref(out, &at.child("fieldRef"), field, handlers::VOLUME_FIELDS);
            }
            (false, true) => {
                let field = child(item, "resourceFieldRef");
                handlers::resource_field_ref(out, &at.child("resourceFieldRef"), field, true);
            }
            (true, true) => out.push(FieldError::invalid(
                &at,
                "resource",
                "fieldRef and resourceFieldRef can not be specified simultaneously",
            )),
            (false, false) => {
                out.push(FieldError::required(
                    &at.child("fieldRef"),
                    "one of fieldRef and resourceFieldRef is required",
                ));
            }
        }
        mode(out, &at.child("mode"), int(item, "mode"));
    }
}

fn projected(out: &mut Out, at: Path, source: &Value) {
    mode(out, &at.child("defaultMode"), int(source, "defaultMode"));
    let list = at.child("sources");
    let mut paths: Vec<&str> = Vec::new();
    for (i, one) in items(source, "sources").iter().enumerate() {
        let at = list.index(i);
        let mut kinds = 0;
        for (kind, part) in one.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()) {
            kinds += 1;
            let at = at.child(kind);
            if kinds > 1 {
                out.push(FieldError::forbidden(&at, "may not specify more than 1 volume type per source"));
                continue;
            }
            projection(out, &at, kind, part);
            let written = items(part, "items").iter().map(|item| text(item, "path"));
            let own = matches!(kind.as_str(), "serviceAccountToken" | "clusterTrustBundle").then(|| text(part, "path"));
            for path in written.chain(own).filter(|path| !path.is_empty()) {
                if paths.contains(&path) {
                    out.push(FieldError::invalid(&list, path, "conflicting duplicate paths"));
                }
                paths.push(path);
            }
        }
        if kinds == 0 {
            out.push(FieldError::required(
                &at,
                "no volume source specified: must specify one of `secret`, `configMap`, `downwardAPI`, \
                 `serviceAccountToken`, `clusterTrustBundle`, or `podCertificate`",
            ));
        }
    }
}

fn projection(out: &mut Out, at: Path, kind: &str, part: &Value) {
    match kind {
        "secret" | "configMap" => {
            required(out, &at.child("name"), text(part, "name"));
            key_items(out, &at.child("items"), part);
        }
        "downwardAPI" => downward_items(out, &at.child("items"), part),
        "serviceAccountToken" => {
            let seconds = int(part, "expirationSeconds").unwrap_or(0);
            let here = at.child("expirationSeconds");
            if seconds < 600 {
                out.push(FieldError::invalid(&here, seconds, "may not specify a duration less than 10 minutes"));
            } else if seconds > 1 << 32 {
                out.push(FieldError::invalid(&here, seconds, "may not specify a duration larger than 2^32 seconds"));
            }
            let path = text(part, "path");
            required(out, &at.child("path"), path);
            relative_path(out, &at.child("path"), path);
        }
        "clusterTrustBundle" => {
            let (name, signer) = (text(part, "name"), text(part, "signerName"));
            if name.is_empty() == signer.is_empty() {
                out.push(FieldError::required(at, "either name or signerName must be specified"));
            }
            let path = text(part, "path");
            required(out, &at.child("path"), path);
            relative_path(out, &at.child("path"), path);
        }
        _ => {}
    }
}

/// No step of a path goes up.
fn no_backsteps(out: &mut Out, at: Path, path: &str) {
    if path.split('/').any(|step| step == "..") {
        out.push(FieldError::invalid(at, path, "must not contain '..'"));
    }
}

/// A path that stays below where it starts.
pub(super) fn descending_path(out: &mut Out, at: Path, path: &str) {
    if path.starts_with('/') {
        out.push(FieldError::invalid(at, path, "must be a relative path"));
    }
    no_backsteps(out, at, path);
}

/// A file in a volume: a relative path that stays below, and does not start with `..`.
pub(super) fn relative_path(out: &mut Out, at: Path, path: &str) {
    descending_path(out, at, path);
    if path.starts_with("..") && !path.split('/').any(|step| step == "..") {
        out.push(FieldError::invalid(at, path, "must not start with '..'"));
    }
}

/// `volumeMounts` of a container.
pub(super) fn mounts(out: &mut Out, list: Path, one: &Value, volumes: &Volumes<'_>) {
    let mut seen = Vec::new();
    for (i, mount) in items(one, "volumeMounts").iter().enumerate() {
        let at = list.index(i);
        let name = text(mount, "name");
        required(out, &at.child("name"), name);
        let volume = volumes.iter().find(|(known, _)| *known == name);
        if !name.is_empty() && volume.is_none() {
            out.push(FieldError::not_found(&at.child("name"), name));
        }
        let path = text(mount, "mountPath");
        required(out, &at.child("mountPath"), path);
        if seen.contains(&path) {
            out.push(FieldError::invalid(&at.child("mountPath"), path, "must be unique"));
        }
        seen.push(path);
        let devices = items(one, "volumeDevices");
        if devices.iter().any(|device| text(device, "name") == name) {
            out.push(FieldError::invalid(&at.child("name"), name, "must not already exist in volumeDevices"));
        }
        if devices.iter().any(|device| text(device, "devicePath") == path) {
            let at = at.child("mountPath");
            out.push(FieldError::invalid(&at, path, "must not already exist as a path in volumeDevices"));
        }
        sub_paths(out, &at, mount);
        if has(mount, "mountPropagation") {
            propagation(out, &at.child("mountPropagation"), text(mount, "mountPropagation"), one);
        }
        if has(mount, "recursiveReadOnly") {
            recursive(out, &at.child("recursiveReadOnly"), mount);
        }
    }
}

fn sub_paths(out: &mut Out, at: Path, mount: &Value) {
    let (plain, expanded) = (text(mount, "subPath"), text(mount, "subPathExpr"));
    if !plain.is_empty() {
        descending_path(out, &at.child("subPath"), plain);
    }
    if !expanded.is_empty() {
        if !plain.is_empty() {
            let at = at.child("subPathExpr");
            out.push(FieldError::invalid(&at, expanded, "subPathExpr and subPath are mutually exclusive"));
        }
        descending_path(out, &at.child("subPathExpr"), expanded);
    }
}

fn propagation(out: &mut Out, at: Path, value: &str, container: &Value) {
    handlers::mount_propagation(out, at, value);
    let privileged = child(container, "securityContext").get("privileged") == Some(&Value::Bool(true));
    if value == "Bidirectional" && !privileged {
        out.push(FieldError::forbidden(
            at,
            "Bidirectional mount propagation is available only to privileged containers",
        ));
    }
}

fn recursive(out: &mut Out, at: Path, mount: &Value) {
    let value = text(mount, "recursiveReadOnly");
    one_of(out, at, value, &["Disabled", "Enabled", "IfPossible"]);
    if matches!(value, "Enabled" | "IfPossible") {
        if mount.get("readOnly") != Some(&Value::Bool(true)) {
            out.push(FieldError::forbidden(at, "may only be specified when readOnly is true"));
        }
        if !matches!(text(mount, "mountPropagation"), "" | "None") {
            out.push(FieldError::forbidden(at, "may only be specified when mountPropagation is None or not specified"));
        }
    }
}

/// `volumeDevices` of a container.
pub(super) fn devices(out: &mut Out, list: Path, one: &Value, volumes: &Volumes<'_>) {
    let (mut names_seen, mut paths) = (Vec::new(), Vec::new());
    for (i, device) in items(one, "volumeDevices").iter().enumerate() {
        let at = list.index(i);
        let (name, path) = (text(device, "name"), text(device, "devicePath"));
        required(out, &at.child("name"), name);
        if !name.is_empty() {
            unique(out, &at.child("name"), &mut names_seen, name);
            match volumes.iter().find(|(known, _)| *known == name) {
                None => out.push(FieldError::not_found(&at.child("name"), name)),
                Some((_, volume)) if !has(volume, "persistentVolumeClaim") && !has(volume, "ephemeral") => {
                    out.push(FieldError::invalid(
                        &at.child("name"),
                        name,
                        "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
                    ));
                }
                Some(_) => {}
            }
        }
        required(out, &at.child("devicePath"), path);
        if !path.is_empty() {
            no_backsteps(out, &at.child("devicePath"), path);
            if paths.contains(&path) {
                out.push(FieldError::invalid(&at.child("devicePath"), path, "must be unique"));
            }
            paths.push(path);
        }
    }
}
