//! Containers, init containers and ephemeral containers.

use super::super::check::{
    Out, Path, child, has, in_range, int, invalid_all, items, one_of, required, required_name, text, unique,
};
use super::volumes::{self, Volumes};
use super::{Role, handlers, resources, security};
use crate::field::FieldError;
use crate::names;
use serde_json::Value;

/// Which list a container is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum List {
    Main,
    Init,
    Ephemeral,
}

/// All containers of a spec.
pub(super) fn all(out: &mut Out, at: Path, spec: &Value, volumes: &Volumes<'_>, role: Role) {
    let main = items(spec, "containers");
    let list_at = at.child("containers");
    if main.is_empty() {
        out.push(FieldError::required(&list_at, ""));
    }
    let mut names = Vec::new();
    let mut ports = Vec::new();
    for (i, one) in main.iter().enumerate() {
        let at = list_at.index(i);
        unique_name(out, &at, &mut names, one);
        container(out, &at, one, spec, volumes, role, List::Main);
        if has(one, "restartPolicy") || has(one, "restartPolicyRules") {
            restart_rules(out, &at, one);
        }
        host_ports(out, &at, one, &mut ports);
    }
    let list_at = at.child("initContainers");
    let mut init_ports = Vec::new();
    for (i, one) in items(spec, "initContainers").iter().enumerate() {
        let at = list_at.index(i);
        unique_name(out, &at, &mut names, one);
        container(out, &at, one, spec, volumes, role, List::Init);
        init_only(out, &at, one);
        // Init containers run one after the other, so only sidecars' ports can collide.
        if text(one, "restartPolicy") == "Always" {
            host_ports(out, &at, one, &mut ports);
        } else {
            init_ports.clear();
            host_ports(out, &at, one, &mut init_ports);
        }
    }
    ephemeral(out, &at.child("ephemeralContainers"), spec, volumes, &mut names);
}

fn unique_name<'a>(out: &mut Out, at: Path, seen: &mut Vec<&'a str>, container: &'a Value) {
    let name = text(container, "name");
    required_name(out, &at.child("name"), name, names::dns1123_label);
    if !name.is_empty() {
        unique(out, &at.child("name"), seen, name);
    }
}

fn container(out: &mut Out, at: Path, one: &Value, spec: &Value, volumes: &Volumes<'_>, role: Role, list: List) {
    let image = text(one, "image");
    required(out, &at.child("image"), image);
    if role == Role::Pod && image.trim() != image {
        out.push(FieldError::invalid(&at.child("image"), image, "must not have leading or trailing whitespace"));
    }
    let policy = text(one, "terminationMessagePolicy");
    match policy {
        "File" | "FallbackToLogsOnError" => {}
        "" => out.push(FieldError::required(&at.child("terminationMessagePolicy"), "")),
        other => out.push(FieldError::not_supported(
            &at.child("terminationMessagePolicy"),
            other,
            &["FallbackToLogsOnError", "File"],
        )),
    }
    one_of(out, &at.child("imagePullPolicy"), text(one, "imagePullPolicy"), &["Always", "IfNotPresent", "Never"]);
    container_ports(out, &at.child("ports"), one);
    env(out, &at.child("env"), one);
    env_from(out, &at.child("envFrom"), one);
    volumes::mounts(out, &at.child("volumeMounts"), one, volumes);
    volumes::devices(out, &at.child("volumeDevices"), one, volumes);
    resources::requirements(out, &at.child("resources"), child(one, "resources"), spec);
    security::container(out, &at.child("securityContext"), child(one, "securityContext"), spec);
    resize_policy(out, &at.child("resizePolicy"), one, spec);
    if list == List::Ephemeral {
        return;
    }
    let sidecar = list == List::Init && text(one, "restartPolicy") == "Always";
    if list == List::Main || sidecar {
        handlers::lifecycle(out, &at.child("lifecycle"), child(one, "lifecycle"), spec);
        handlers::probes(out, at, one);
    }
}

/// What init containers that run to their end may not have.
fn init_only(out: &mut Out, at: Path, one: &Value) {
    match text(one, "restartPolicy") {
        "Always" => {}
        "" => {}
        "Never" | "OnFailure" if has(one, "restartPolicyRules") => {}
        other => {
            if !matches!(other, "Never" | "OnFailure") {
                out.push(FieldError::not_supported(
                    &at.child("restartPolicy"),
                    other,
                    &["Always", "Never", "OnFailure"],
                ));
            }
        }
    }
    if text(one, "restartPolicy") == "Always" {
        return;
    }
    if has(one, "lifecycle") {
        out.push(FieldError::forbidden(
            &at.child("lifecycle"),
            "may not be set for init containers without restartPolicy=Always",
        ));
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if has(one, probe) {
            out.push(FieldError::forbidden(
                &at.child(probe),
                "may not be set for init containers without restartPolicy=Always",
            ));
        }
    }
    for (i, policy) in items(one, "resizePolicy").iter().enumerate() {
        let restart = text(policy, "restartPolicy");
        if restart == "RestartContainer" {
            out.push(FieldError::invalid(
                &at.child("resizePolicy").index(i).child("restartPolicy"),
                restart,
                "must be 'NotRequired' for init containers without restartPolicy=Always",
            ));
        }
    }
}

/// Restart policies and rules of single containers (KEP-5307).
fn restart_rules(out: &mut Out, at: Path, one: &Value) {
    let policy = text(one, "restartPolicy");
    if !policy.is_empty() && !matches!(policy, "Always" | "Never" | "OnFailure") {
        out.push(FieldError::not_supported(&at.child("restartPolicy"), policy, &["Always", "Never", "OnFailure"]));
    }
    let rules = items(one, "restartPolicyRules");
    let list = at.child("restartPolicyRules");
    if !rules.is_empty() && policy.is_empty() {
        out.push(FieldError::required(
            &at.child("restartPolicy"),
            "must specify restartPolicy when restart rules are used",
        ));
    }
    if rules.len() > 20 {
        out.push(FieldError::too_long(&list, 20));
    }
    for (i, rule) in rules.iter().enumerate() {
        let at = list.index(i);
        one_of(out, &at.child("action"), text(rule, "action"), &["Restart", "RestartAllContainers"]);
        let codes = child(rule, "exitCodes");
        if codes.is_null() {
            out.push(FieldError::required(&at.child("exitCodes"), "must be specified"));
        } else {
            one_of(out, &at.child("exitCodes").child("operator"), text(codes, "operator"), &["In", "NotIn"]);
            let values = items(codes, "values").len();
            if values == 0 || values > 255 {
                out.push(FieldError::invalid(
                    &at.child("exitCodes").child("values"),
                    child(codes, "values"),
                    "must specify between 1 and 255 values",
                ));
            }
        }
    }
}

fn ephemeral<'a>(out: &mut Out, list: Path, spec: &'a Value, volumes: &Volumes<'_>, names: &mut Vec<&'a str>) {
    for (i, one) in items(spec, "ephemeralContainers").iter().enumerate() {
        let at = list.index(i);
        unique_name(out, &at, names, one);
        container(out, &at, one, spec, volumes, Role::Pod, List::Ephemeral);
        for field in ["ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "resizePolicy"] {
            if has(one, field) && !items(one, field).is_empty() | child(one, field).is_object() {
                out.push(FieldError::forbidden(&at.child(field), "cannot be set for an Ephemeral Container"));
            }
        }
        if child(one, "resources").as_object().is_some_and(|resources| !resources.is_empty()) {
            out.push(FieldError::forbidden(&at.child("resources"), "cannot be set for an Ephemeral Container"));
        }
        let target = text(one, "targetContainerName");
        if !target.is_empty() {
            let lists = ["containers", "initContainers"];
            let known = lists.iter().any(|list| items(spec, list).iter().any(|c| text(c, "name") == target));
            if !known {
                out.push(FieldError::not_found(&at.child("targetContainerName"), target));
            }
        }
        for (j, mount) in items(one, "volumeMounts").iter().enumerate() {
            if !text(mount, "subPath").is_empty() {
                let mounts = at.child("volumeMounts");
                out.push(FieldError::forbidden(
                    &mounts.index(j).child("subPath"),
                    "cannot be set for an Ephemeral Container",
                ));
            }
        }
    }
}

fn container_ports(out: &mut Out, list: Path, one: &Value) {
    let mut seen = Vec::new();
    for (i, port) in items(one, "ports").iter().enumerate() {
        let at = list.index(i);
        let name = text(port, "name");
        if !name.is_empty() {
            let complaints = names::port_name(name);
            if complaints.is_empty() {
                unique(out, &at.child("name"), &mut seen, name);
            }
            invalid_all(out, &at.child("name"), name, complaints);
        }
        match int(port, "containerPort").unwrap_or(0) {
            0 => out.push(FieldError::required(&at.child("containerPort"), "")),
            number => in_range(out, &at.child("containerPort"), Some(number), 1, 65535),
        }
        if let Some(number) = int(port, "hostPort").filter(|number| *number != 0) {
            in_range(out, &at.child("hostPort"), Some(number), 1, 65535);
        }
        one_of(out, &at.child("protocol"), text(port, "protocol"), &["SCTP", "TCP", "UDP"]);
    }
}

fn host_ports(out: &mut Out, at: Path, one: &Value, seen: &mut Vec<String>) {
    let list = at.child("ports");
    for (i, port) in items(one, "ports").iter().enumerate() {
        let Some(number) = int(port, "hostPort").filter(|number| *number != 0) else { continue };
        let key = format!("{}/{}/{number}", text(port, "protocol"), text(port, "hostIP"));
        if seen.contains(&key) {
            out.push(FieldError::duplicate(&list.index(i).child("hostPort"), key.as_str()));
        } else {
            seen.push(key);
        }
    }
}

fn env(out: &mut Out, list: Path, one: &Value) {
    for (i, var) in items(one, "env").iter().enumerate() {
        let at = list.index(i);
        required_name(out, &at.child("name"), text(var, "name"), names::env_name);
        if has(var, "valueFrom") {
            value_from(out, &at.child("valueFrom"), var);
        }
    }
}

fn value_from(out: &mut Out, at: Path, var: &Value) {
    let from = child(var, "valueFrom");
    let mut sources = 0;
    if has(from, "fieldRef") {
        sources += 1;
        handlers::field_ref(out, &at.child("fieldRef"), child(from, "fieldRef"), handlers::ENV_FIELDS);
    }
    if has(from, "resourceFieldRef") {
        sources += 1;
        handlers::resource_field_ref(out, &at.child("resourceFieldRef"), child(from, "resourceFieldRef"), false);
    }
    for kind in ["configMapKeyRef", "secretKeyRef"] {
        if has(from, kind) {
            sources += 1;
            key_ref(out, &at.child(kind), child(from, kind));
        }
    }
    if has(from, "fileKeyRef") {
        sources += 1;
        let file = child(from, "fileKeyRef");
        let at = at.child("fileKeyRef");
        required_name(out, &at.child("key"), text(file, "key"), names::env_name);
        required_name(out, &at.child("volumeName"), text(file, "volumeName"), names::dns1123_label);
        volumes::relative_path(out, &at.child("path"), text(file, "path"));
    }
    if sources == 0 {
        out.push(FieldError::invalid(
            at,
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
        ));
    } else if !text(var, "value").is_empty() {
        out.push(FieldError::invalid(at, "", "may not be specified when `value` is not empty"));
    } else if sources > 1 {
        out.push(FieldError::invalid(at, "", "may not have more than one field specified at a time"));
    }
}

fn key_ref(out: &mut Out, at: Path, reference: &Value) {
    let name = text(reference, "name");
    invalid_all(out, &at.child("name"), name, names::dns1123_subdomain(name));
    required_name(out, &at.child("key"), text(reference, "key"), names::config_key);
}

fn env_from(out: &mut Out, list: Path, one: &Value) {
    for (i, from) in items(one, "envFrom").iter().enumerate() {
        let at = list.index(i);
        let prefix = text(from, "prefix");
        if !prefix.is_empty() {
            invalid_all(out, &at.child("prefix"), prefix, names::env_name(prefix));
        }
        let mut sources = 0;
        for kind in ["configMapRef", "secretRef"] {
            if has(from, kind) {
                sources += 1;
                let name = text(child(from, kind), "name");
                required_name(out, &at.child(kind).child("name"), name, names::dns1123_subdomain);
            }
        }
        match sources {
            0 => out.push(FieldError::invalid(list, "", "must specify one of: `configMapRef` or `secretRef`")),
            1 => {}
            _ => out.push(FieldError::invalid(list, "", "may not have more than one field specified at a time")),
        }
    }
}

fn resize_policy(out: &mut Out, list: Path, one: &Value, spec: &Value) {
    let mut seen = Vec::new();
    for (i, policy) in items(one, "resizePolicy").iter().enumerate() {
        let at = list.index(i);
        let resource = text(policy, "resourceName");
        one_of(out, &at.child("resourceName"), resource, &["cpu", "memory"]);
        if seen.contains(&resource) {
            out.push(FieldError::duplicate(&at, resource));
        }
        seen.push(resource);
        let restart = text(policy, "restartPolicy");
        one_of(out, &at.child("restartPolicy"), restart, &["NotRequired", "RestartContainer"]);
        if text(spec, "restartPolicy") == "Never" && restart == "RestartContainer" {
            out.push(FieldError::invalid(&at, restart, "must be 'NotRequired' when `restartPolicy` is 'Never'"));
        }
    }
}
