//! Security contexts of pods and containers, and host namespaces.

use super::super::check::{Out, Path, child, flag, has, in_range, int, items, one_of, required, text, texts};
use super::volumes;
use crate::field::FieldError;
use crate::names;
use serde_json::Value;

/// The highest user or group id.
const ID_MAX: i64 = i32::MAX as i64;

/// `spec.securityContext` and the `host*` fields.
pub(super) fn pod(out: &mut Out, at: Path, spec: &Value) {
    let context = child(spec, "securityContext");
    let here = at.child("securityContext");
    if flag(spec, "hostPID") && flag(spec, "shareProcessNamespace") {
        out.push(FieldError::invalid(
            &here.child("shareProcessNamespace"),
            true,
            "ShareProcessNamespace and HostPID cannot both be enabled",
        ));
    }
    if spec.get("hostUsers") == Some(&Value::Bool(false)) {
        for field in ["hostNetwork", "hostPID", "hostIPC"] {
            if flag(spec, field) {
                out.push(FieldError::forbidden(&at.child(field), "when `hostUsers` is false"));
            }
        }
    }
    if flag(spec, "hostNetwork") {
        host_network(out, at, spec);
    }
    ids(out, &here, context);
    in_range(out, &here.child("fsGroup"), int(context, "fsGroup"), 0, ID_MAX);
    for (i, group) in items(context, "supplementalGroups").iter().enumerate() {
        in_range(out, &here.child("supplementalGroups").index(i), group.as_i64(), 0, ID_MAX);
    }
    for (field, words) in [
        ("fsGroupChangePolicy", &["Always", "OnRootMismatch"][..]),
        ("supplementalGroupsPolicy", &["Merge", "Strict"]),
        ("seLinuxChangePolicy", &["MountOption", "Recursive"]),
    ] {
        if has(context, field) {
            one_of(out, &here.child(field), text(context, field), words);
        }
    }
    sysctls(out, &here.child("sysctls"), context, spec);
    profiles(out, &here, context);
}

/// On the host's network, a container's port and host port are one.
fn host_network(out: &mut Out, at: Path, spec: &Value) {
    let list = at.child("containers");
    for (i, one) in items(spec, "containers").iter().enumerate() {
        let ports = list.index(i);
        let ports = ports.child("ports");
        for (j, port) in items(one, "ports").iter().enumerate() {
            let (inside, outside) = (int(port, "containerPort"), int(port, "hostPort").unwrap_or(0));
            if outside != 0 && Some(outside) != inside {
                out.push(FieldError::invalid(
                    &ports.index(j).child("hostPort"),
                    outside,
                    "must match `containerPort` when `hostNetwork` is true",
                ));
            }
        }
    }
}

fn ids(out: &mut Out, at: Path, context: &Value) {
    in_range(out, &at.child("runAsUser"), int(context, "runAsUser"), 0, ID_MAX);
    in_range(out, &at.child("runAsGroup"), int(context, "runAsGroup"), 0, ID_MAX);
}

fn profiles(out: &mut Out, at: Path, context: &Value) {
    for (field, missing) in [
        ("seccompProfile", "must be set when seccomp type is Localhost"),
        ("appArmorProfile", "must be set when AppArmor type is Localhost"),
    ] {
        let profile = child(context, field);
        if profile.is_null() {
            continue;
        }
        let at = at.child(field);
        let kind = text(profile, "type");
        let local = text(profile, "localhostProfile");
        match kind {
            "Localhost" if local.is_empty() => out.push(FieldError::required(&at.child("localhostProfile"), missing)),
            "Localhost" if field == "seccompProfile" => {
                volumes::descending_path(out, &at.child("localhostProfile"), local);
            }
            "Localhost" => {}
            "RuntimeDefault" | "Unconfined" => {
                if has(profile, "localhostProfile") {
                    out.push(FieldError::invalid(
                        &at.child("localhostProfile"),
                        local,
                        if field == "seccompProfile" {
                            "can only be set when seccomp type is Localhost"
                        } else {
                            "can only be set when AppArmor type is Localhost"
                        },
                    ));
                }
            }
            "" => out.push(FieldError::required(&at.child("type"), "type is required when profile is set")),
            other => out.push(FieldError::not_supported(
                &at.child("type"),
                other,
                &["Localhost", "RuntimeDefault", "Unconfined"],
            )),
        }
    }
}

fn sysctls(out: &mut Out, list: Path, context: &Value, spec: &Value) {
    let mut seen = Vec::new();
    for (i, one) in items(context, "sysctls").iter().enumerate() {
        let at = list.index(i).child("name").to_string();
        let name = text(one, "name");
        let at_name = crate::field::FieldPath::root(&at);
        if name.is_empty() {
            required(out, &at_name, name);
            continue;
        }
        if name.len() > 253 || !name.split(['.', '/']).all(sysctl_segment) {
            let segment = "[a-z0-9]([-_a-z0-9]*[a-z0-9])?";
            out.push(FieldError::invalid(
                &at_name,
                name,
                format!("must have at most 253 characters and match regex ({segment}[\\./])*{segment}"),
            ));
        } else if seen.contains(&name) {
            out.push(FieldError::duplicate(&at_name, name));
        }
        seen.push(name);
        let namespaced_net = name.starts_with("net.") || name.starts_with("net/");
        if namespaced_net && flag(spec, "hostNetwork") {
            out.push(FieldError::invalid(&at_name, name, "may not be specified when 'hostNetwork' is true"));
        }
        let ipc =
            ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."].iter().any(|prefix| name.starts_with(prefix));
        if ipc && flag(spec, "hostIPC") {
            out.push(FieldError::invalid(&at_name, name, "may not be specified when 'hostIPC' is true"));
        }
    }
}

fn sysctl_segment(text: &str) -> bool {
    let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    matches!((bytes.first(), bytes.last()), (Some(first), Some(last)) if edge(*first) && edge(*last))
        && bytes.iter().all(|b| edge(*b) || matches!(b, b'-' | b'_'))
}

/// `securityContext` of a container.
pub(super) fn container(out: &mut Out, at: Path, context: &Value, spec: &Value) {
    if context.is_null() {
        return;
    }
    ids(out, at, context);
    profiles(out, at, context);
    if has(context, "procMount") {
        let mount = text(context, "procMount");
        one_of(out, &at.child("procMount"), mount, &["Default", "Unmasked"]);
        if mount == "Unmasked" && spec.get("hostUsers") != Some(&Value::Bool(false)) {
            out.push(FieldError::invalid(&at.child("procMount"), mount, "`hostUsers` must be false to use `Unmasked`"));
        }
    }
    if context.get("allowPrivilegeEscalation") == Some(&Value::Bool(false)) {
        if flag(context, "privileged") {
            out.push(FieldError::invalid(
                at,
                context,
                "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            ));
        }
        if texts(child(context, "capabilities"), "add").any(|one| one == "CAP_SYS_ADMIN") {
            out.push(FieldError::invalid(
                at,
                context,
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
            ));
        }
    }
    let windows = child(context, "windowsOptions");
    if has(windows, "gmsaCredentialSpecName") {
        let name = text(windows, "gmsaCredentialSpecName");
        for why in names::dns1123_subdomain(name) {
            out.push(FieldError::invalid(&at.child("windowsOptions").child("gmsaCredentialSpecName"), name, why));
        }
    }
}
