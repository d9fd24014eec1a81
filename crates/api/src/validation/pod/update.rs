//! What may change in a Pod, and by which way.

use super::super::check::{Out, Path, child, has, in_range, int, items, same, text};
use super::{INT32_MAX, Role, affinity, spec_checks};
use crate::field::{FieldError, FieldPath};
use serde_json::Value;

const MAY_CHANGE: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// An update of the Pod itself: images, a shorter deadline, more tolerations; gates may fall.
pub(in super::super) fn update(out: &mut Out, new_pod: &Value, old_pod: &Value) {
    let at = FieldPath::root("spec");
    let (new, old) = (child(new_pod, "spec"), child(old_pod, "spec"));
    super::annotations(out, child(new_pod, "metadata"), new);
    for list in ["containers", "initContainers"] {
        if !images(out, &at.child(list), items(new, list), items(old, list)) {
            return;
        }
    }
    deadline(out, &at.child("activeDeadlineSeconds"), new, old);
    gates(out, &at.child("schedulingGates"), new, old);
    only_added_tolerations(out, &at.child("tolerations"), new, old);
    if same(new, old) {
        return;
    }
    let mut allowed = new.clone();
    let gated = !items(old, "schedulingGates").is_empty();
    take_over(&mut allowed, old, gated);
    if gated {
        node_selection(out, &at, new, old);
    }
    if !same(&allowed, old) {
        out.push(FieldError::forbidden(&at, format!("{MAY_CHANGE}\n{}", difference(&allowed, old))));
    }
}

fn images(out: &mut Out, list: Path, new: &[Value], old: &[Value]) -> bool {
    if new.len() != old.len() {
        out.push(FieldError::forbidden(list, "pod updates may not add or remove containers"));
        return false;
    }
    for (i, one) in new.iter().enumerate() {
        let image = text(one, "image");
        let at = list.index(i);
        if image.is_empty() {
            out.push(FieldError::required(&at.child("image"), ""));
        }
        if image.trim() != image {
            out.push(FieldError::invalid(&at.child("image"), image, "must not have leading or trailing whitespace"));
        }
    }
    true
}

fn deadline(out: &mut Out, at: Path, new: &Value, old: &Value) {
    let before = int(old, "activeDeadlineSeconds");
    match (int(new, "activeDeadlineSeconds"), before) {
        (Some(wanted), _) if !(0..=INT32_MAX).contains(&wanted) => in_range(out, at, Some(wanted), 0, INT32_MAX),
        (Some(wanted), Some(before)) if wanted > before => {
            out.push(FieldError::invalid(at, wanted, "must be less than or equal to previous value"));
        }
        (None, Some(_)) => {
            out.push(FieldError::invalid(at, None::<&str>, "must not update from a positive integer to nil value"));
        }
        _ => {}
    }
}

fn gates(out: &mut Out, at: Path, new: &Value, old: &Value) {
    let before = items(old, "schedulingGates");
    let added: Vec<&str> = items(new, "schedulingGates")
        .iter()
        .filter(|gate| !before.iter().any(|one| text(one, "name") == text(gate, "name")))
        .map(|gate| text(gate, "name"))
        .collect();
    if !added.is_empty() {
        out.push(FieldError::forbidden(
            at,
            format!("only deletion is allowed, but found new scheduling gates '{}'", added.join(", ")),
        ));
    }
}

fn only_added_tolerations(out: &mut Out, at: Path, new: &Value, old: &Value) {
    let timeless = |one: &Value| {
        let mut one = one.clone();
        if let Some(map) = one.as_object_mut() {
            map.remove("tolerationSeconds");
        }
        one
    };
    let present: Vec<Value> = items(new, "tolerations").iter().map(timeless).collect();
    let kept = items(old, "tolerations").iter().all(|one| present.iter().any(|new| same(new, &timeless(one))));
    if !kept {
        return out
            .push(FieldError::forbidden(at, "existing toleration can not be modified except its tolerationSeconds"));
    }
    affinity::tolerations(out, at, new);
}

/// Makes the fields that may change what they were, so that what still differs may not.
fn take_over(new: &mut Value, old: &Value, gated: bool) {
    for list in ["containers", "initContainers"] {
        let before = items(old, list);
        for (one, before) in new.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten().zip(before) {
            if let (Some(one), Some(image)) = (one.as_object_mut(), before.get("image")) {
                one.insert("image".into(), image.clone());
            }
        }
    }
    let Some(map) = new.as_object_mut() else { return };
    let mut fields = vec!["activeDeadlineSeconds", "tolerations", "schedulingGates"];
    let negative = int(old, "terminationGracePeriodSeconds").is_some_and(|seconds| seconds < 0);
    if negative && map.get("terminationGracePeriodSeconds").and_then(Value::as_i64) == Some(1) {
        fields.push("terminationGracePeriodSeconds");
    }
    if gated {
        fields.extend(["nodeSelector", "affinity"]);
    }
    for field in fields {
        match old.get(field) {
            Some(value) => map.insert(field.into(), value.clone()),
            None => map.remove(field),
        };
    }
}

/// While a Pod is gated, where it may run can be narrowed (KEP-3838).
fn node_selection(out: &mut Out, at: Path, new: &Value, old: &Value) {
    let wanted = child(new, "nodeSelector");
    for (key, value) in super::super::check::members(old, "nodeSelector") {
        if wanted.get(key) != Some(value) {
            out.push(FieldError::invalid(
                &at.child("nodeSelector"),
                wanted,
                "only additions are allowed (no mutations or deletions)",
            ));
            break;
        }
    }
    affinity::affinity(out, &at.child("affinity"), child(new, "affinity"));
    let path = "/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
    let terms =
        |spec: &Value| child(spec, "affinity").pointer(path).and_then(Value::as_array).cloned().unwrap_or_default();
    let (wanted, before) = (terms(new), terms(old));
    let here = at.child("affinity");
    if !before.is_empty() && wanted.len() != before.len() {
        out.push(FieldError::invalid(
            &here.child("nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms"),
            Value::from(wanted),
            "no additions/deletions to non-empty NodeSelectorTerms list are allowed",
        ));
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        super::super::check::immutable(
            out,
            &here.child(kind),
            child(child(new, "affinity"), kind),
            child(child(old, "affinity"), kind),
        );
    }
}

/// The first places in which two specs differ, for people.
fn difference(new: &Value, old: &Value) -> String {
    let mut lines = Vec::new();
    walk("", new, old, &mut lines);
    lines.truncate(8);
    lines.join("\n")
}

fn walk(at: &str, new: &Value, old: &Value, lines: &mut Vec<String>) {
    if same(new, old) || lines.len() > 8 {
        return;
    }
    match (new, old) {
        (Value::Object(a), Value::Object(b)) => {
            let mut keys: Vec<&String> = a.keys().chain(b.keys()).collect();
            keys.sort_unstable();
            keys.dedup();
            for key in keys {
                let path = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                walk(&path, a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null), lines);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                walk(&format!("{at}[{i}]"), a, b, lines);
            }
        }
        _ => lines.push(format!("  {at}: {old} -> {new}")),
    }
}

/// An update of `status`.
pub(in super::super) fn status_update(out: &mut Out, new_pod: &Value, old_pod: &Value) {
    let at = FieldPath::root("status");
    let (new, old) = (child(new_pod, "status"), child(old_pod, "status"));
    if text(child(new_pod, "spec"), "nodeName") != text(child(old_pod, "spec"), "nodeName") {
        out.push(FieldError::forbidden(&at.child("nodeName"), "may not be changed directly"));
    }
    let nominated = text(new, "nominatedNodeName");
    if !nominated.is_empty() && nominated != text(old, "nominatedNodeName") {
        super::super::check::invalid_all(
            out,
            &at.child("nominatedNodeName"),
            nominated,
            crate::names::dns1123_subdomain(nominated),
        );
    }
    let list = at.child("conditions");
    for (i, one) in items(new, "conditions").iter().enumerate() {
        let kind = text(one, "type");
        super::super::check::invalid_all(out, &list.index(i).child("type"), kind, crate::names::qualified_name(kind));
    }
    let policy = text(child(old_pod, "spec"), "restartPolicy");
    if policy != "Always" {
        for list in ["containerStatuses", "initContainerStatuses"] {
            transitions(out, &at.child(list), items(new, list), items(old, list), policy, old_pod, list);
        }
    }
    let ips = at.child("podIPs");
    for (i, one) in items(new, "podIPs").iter().enumerate() {
        super::host_alias_ip(out, &ips.index(i), text(one, "ip"));
    }
}

/// A container that has ended for good may not run again.
fn transitions(out: &mut Out, list: Path, new: &[Value], old: &[Value], policy: &str, pod: &Value, kind: &str) {
    let specs = if kind == "containerStatuses" { "containers" } else { "initContainers" };
    for (i, before) in old.iter().enumerate() {
        let ended = child(child(before, "state"), "terminated");
        if ended.is_null() || (int(ended, "exitCode").unwrap_or(0) != 0 && policy == "OnFailure") {
            continue;
        }
        let name = text(before, "name");
        let own = items(child(pod, "spec"), specs).iter().find(|one| text(one, "name") == name);
        if own.is_some_and(|one| has(one, "restartPolicy") || has(one, "restartPolicyRules")) {
            continue;
        }
        let now = new.iter().find(|one| text(one, "name") == name);
        if now.is_some_and(|now| child(child(now, "state"), "terminated").is_null()) {
            out.push(FieldError::forbidden(
                &list.index(i).child("state"),
                "may not be transitioned to non-terminated state",
            ));
        }
    }
}

/// An update through `ephemeralcontainers`: containers may be added, never changed or taken away.
pub(in super::super) fn ephemeral(out: &mut Out, new_pod: &Value, old_pod: &Value) {
    let at = FieldPath::root("spec");
    let (new, old) = (child(new_pod, "spec"), child(old_pod, "spec"));
    spec_checks(out, &at, new, Role::Pod);
    let at = at.child("ephemeralContainers");
    let present = items(new, "ephemeralContainers");
    for one in items(old, "ephemeralContainers") {
        let name = text(one, "name");
        match present.iter().find(|new| text(new, "name") == name) {
            None => out.push(FieldError::forbidden(
                &at,
                format!("existing ephemeral containers \"{name}\" may not be removed\n"),
            )),
            Some(now) if !same(now, one) => {
                out.push(FieldError::forbidden(
                    &at,
                    format!("existing ephemeral containers \"{name}\" may not be changed\n"),
                ));
            }
            Some(_) => {}
        }
    }
}

/// An update through `resize` (KEP-1287): amounts may change, kinds of resources and the class may not.
pub(in super::super) fn resize(out: &mut Out, new_pod: &Value, old_pod: &Value) {
    let at = FieldPath::root("spec");
    let (new, old) = (child(new_pod, "spec"), child(old_pod, "spec"));
    spec_checks(out, &at, new, Role::Pod);
    if crate::strategy::qos_class(new) != crate::strategy::qos_class(old) {
        out.push(FieldError::invalid(
            &at,
            crate::strategy::qos_class(new),
            "Pod QOS Class may not change as a result of resizing",
        ));
    }
    if text(child(old, "os"), "name") == "windows" {
        out.push(FieldError::forbidden(&at, "windows pods cannot be resized"));
    }
    for list in ["containers", "initContainers"] {
        let list_at = at.child(list);
        for (i, (one, before)) in items(new, list).iter().zip(items(old, list)).enumerate() {
            let at = list_at.index(i);
            let sidecar = text(before, "restartPolicy") == "Always";
            let (now, then) = (child(one, "resources"), child(before, "resources"));
            if list == "initContainers" && !sidecar && !same(now, then) {
                out.push(FieldError::forbidden(
                    &at.child("resources"),
                    "resize of non-restartable init containers is not supported",
                ));
            }
            for kind in ["limits", "requests"] {
                let at = at.child("resources");
                for (name, amount) in super::super::check::members(then, kind) {
                    let kept = child(now, kind).get(name);
                    if kept.is_none() && matches!(name.as_str(), "cpu" | "memory") {
                        out.push(FieldError::forbidden(
                            &at.child(kind),
                            "resource limits cannot be removed".replace("limits", kind),
                        ));
                    } else if kept != Some(amount) && !matches!(name.as_str(), "cpu" | "memory") {
                        out.push(FieldError::forbidden(&at.child(kind), "only cpu and memory resources are mutable"));
                    }
                }
            }
        }
    }
}
