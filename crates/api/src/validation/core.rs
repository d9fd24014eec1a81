//! ConfigMaps, Secrets, Namespaces, Nodes, quotas, limits, events and bindings.

use super::check::{
    Out, Path, child, flag, has, immutable, int, invalid_all, items, members, non_negative_quantity, one_of, required,
    required_name, same, text, texts,
};
use super::pod::{self, resources};
use crate::field::{FieldError, FieldPath};
use crate::names;
use crate::quantity::Quantity;
use base64::Engine as _;
use serde_json::Value;

/// 1 MiB: all values of a ConfigMap or Secret together.
const DATA_MAX: usize = 1 << 20;

fn bytes(value: &Value) -> usize {
    // Base64 carries three bytes in four letters; padding stands for none.
    value.as_str().map_or(0, |text| text.trim_end_matches('=').len() * 3 / 4)
}

pub(super) fn config_map(out: &mut Out, object: &Value) {
    let data = FieldPath::root("data");
    let binary = FieldPath::root("binaryData");
    let mut total = 0;
    for (key, value) in members(object, "data") {
        invalid_all(out, &data.key(key), key, names::config_key(key));
        if child(object, "binaryData").get(key).is_some() {
            out.push(FieldError::invalid(&data.key(key), key.as_str(), "duplicate of key present in binaryData"));
        }
        total += value.as_str().map_or(0, str::len);
    }
    for (key, value) in members(object, "binaryData") {
        invalid_all(out, &binary.key(key), key, names::config_key(key));
        total += bytes(value);
    }
    if total > DATA_MAX {
        // The object as a whole is the field.
        out.push(FieldError::too_long(&FieldPath::root("[]"), DATA_MAX));
    }
}

pub(super) fn config_map_update(out: &mut Out, new: &Value, old: &Value) {
    frozen(out, new, old, &["data", "binaryData"]);
    config_map(out, new);
}

/// Once immutable, always immutable.
fn frozen(out: &mut Out, new: &Value, old: &Value, fields: &[&str]) {
    if !flag(old, "immutable") {
        return;
    }
    if !flag(new, "immutable") {
        out.push(FieldError::forbidden(&FieldPath::root("immutable"), "field is immutable when `immutable` is set"));
    }
    for field in fields {
        if !same(child(new, field), child(old, field)) {
            out.push(FieldError::forbidden(&FieldPath::root(field), "field is immutable when `immutable` is set"));
        }
    }
}

pub(super) fn secret(out: &mut Out, object: &Value) {
    let at = FieldPath::root("data");
    let mut total = 0;
    for (key, value) in members(object, "data") {
        invalid_all(out, &at.key(key), key, names::config_key(key));
        total += bytes(value);
    }
    if total > DATA_MAX {
        out.push(FieldError::too_long(&at, DATA_MAX));
    }
    let data = child(object, "data");
    let need = |out: &mut Out, key: &str| {
        if !has(data, key) {
            out.push(FieldError::required(&at.key(key), ""));
        }
    };
    match text(object, "type") {
        "kubernetes.io/service-account-token" => {
            let annotations = child(child(object, "metadata"), "annotations");
            let key = "kubernetes.io/service-account.name";
            if text(annotations, key).is_empty() {
                let at = FieldPath::root("metadata.annotations");
                out.push(FieldError::required(&at.key(key), ""));
            }
        }
        "kubernetes.io/dockercfg" => json_content(out, &at, data, ".dockercfg"),
        "kubernetes.io/dockerconfigjson" => json_content(out, &at, data, ".dockerconfigjson"),
        "kubernetes.io/basic-auth" if !has(data, "username") && !has(data, "password") => {
            out.push(FieldError::required(&at.key("username"), ""));
            out.push(FieldError::required(&at.key("password"), ""));
        }
        "kubernetes.io/ssh-auth" if text(data, "ssh-privatekey").is_empty() => {
            out.push(FieldError::required(&at.key("ssh-privatekey"), ""));
        }
        "kubernetes.io/tls" => {
            need(out, "tls.crt");
            need(out, "tls.key");
        }
        _ => {}
    }
}

fn json_content(out: &mut Out, at: Path, data: &Value, key: &str) {
    let at = at.key(key);
    if !has(data, key) {
        return out.push(FieldError::required(&at, ""));
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(text(data, key)).unwrap_or_default();
    if let Err(why) = serde_json::from_slice::<serde_json::Map<String, Value>>(&decoded) {
        out.push(FieldError::invalid(&at, "<secret contents redacted>", why.to_string()));
    }
}

pub(super) fn secret_update(out: &mut Out, new: &Value, old: &Value) {
    immutable(out, &FieldPath::root("type"), child(new, "type"), child(old, "type"));
    frozen(out, new, old, &["data"]);
    secret(out, new);
}

pub(super) fn namespace(out: &mut Out, object: &Value) {
    let at = FieldPath::root("spec");
    for finalizer in texts(child(object, "spec"), "finalizers") {
        let at = at.child("finalizers");
        invalid_all(out, &at, finalizer, names::qualified_name(finalizer));
        if finalizer != "kubernetes" && !finalizer.contains('/') {
            out.push(FieldError::invalid(
                &at,
                finalizer,
                "name is neither a standard finalizer name nor is it fully qualified",
            ));
        }
    }
}

pub(super) fn namespace_status(out: &mut Out, object: &Value) {
    let phase = text(child(object, "status"), "phase");
    let deleting = has(child(object, "metadata"), "deletionTimestamp");
    let at = FieldPath::root("status");
    if !deleting && phase != "Active" {
        out.push(FieldError::invalid(
            &at.child("Phase"),
            phase,
            "may only be 'Active' if `deletionTimestamp` is empty",
        ));
    }
    if deleting && phase != "Terminating" {
        out.push(FieldError::invalid(
            &at.child("Phase"),
            phase,
            "may only be 'Terminating' if `deletionTimestamp` is not empty",
        ));
    }
}

pub(super) fn node(out: &mut Out, object: &Value) {
    let at = FieldPath::root("spec");
    let spec = child(object, "spec");
    let list = at.child("taints");
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (i, taint) in items(spec, "taints").iter().enumerate() {
        let at = list.index(i);
        let (key, effect, value) = (text(taint, "key"), text(taint, "effect"), text(taint, "value"));
        invalid_all(out, &at.child("key"), key, names::qualified_name(key));
        let complaints = names::label_value(value);
        if !complaints.is_empty() {
            out.push(FieldError::invalid(&at.child("value"), value, complaints.join(";")));
        }
        pod::taint_effect(out, &at.child("effect"), effect, false);
        if seen.contains(&(key, effect)) {
            out.push(FieldError::duplicate(&at, taint.clone()));
        }
        seen.push((key, effect));
    }
    let list = at.child("podCIDRs");
    let cidrs: Vec<&str> = texts(spec, "podCIDRs").collect();
    for (i, cidr) in cidrs.iter().enumerate() {
        if !names::cidr(cidr).is_empty() {
            let wrong = names::cidr(cidr);
            invalid_all(out, &list.index(i), cidr, wrong);
        }
        if cidrs[..i].contains(cidr) {
            out.push(FieldError::duplicate(&list.index(i), *cidr));
        }
    }
    if cidrs.len() > 2 {
        out.push(FieldError::invalid(
            &list,
            child(spec, "podCIDRs"),
            "may specify no more than one CIDR for each IP family",
        ));
    }
    node_status(out, object);
}

fn node_status(out: &mut Out, object: &Value) {
    let at = FieldPath::root("status");
    let status = child(object, "status");
    for list in ["capacity", "allocatable"] {
        let at = at.child(list);
        for (name, value) in members(status, list) {
            resources::amount(out, &at.key(name), name, value);
        }
    }
    let list = at.child("addresses");
    let all = items(status, "addresses");
    for (i, one) in all.iter().enumerate() {
        if all[..i].contains(one) {
            out.push(FieldError::duplicate(&list.index(i), one.clone()));
        }
    }
}

pub(super) fn node_update(out: &mut Out, new: &Value, old: &Value) {
    node(out, new);
    let at = FieldPath::root("spec");
    let (new, old) = (child(new, "spec"), child(old, "spec"));
    if has(old, "podCIDR")
        && !items(old, "podCIDRs").is_empty()
        && !same(child(new, "podCIDRs"), child(old, "podCIDRs"))
    {
        out.push(FieldError::forbidden(
            &at.child("podCIDRs"),
            "node updates may not change podCIDR except from \"\" to valid",
        ));
    }
    let provider = text(old, "providerID");
    if !provider.is_empty() && provider != text(new, "providerID") {
        out.push(FieldError::forbidden(
            &at.child("providerID"),
            "node updates may not change providerID except from \"\" to valid",
        ));
    }
}

pub(super) fn node_status_update(out: &mut Out, new: &Value) {
    node_status(out, new);
}

pub(super) fn limit_range(out: &mut Out, object: &Value) {
    let at = FieldPath::root("spec");
    let list = at.child("limits");
    let mut seen = Vec::new();
    for (i, item) in items(child(object, "spec"), "limits").iter().enumerate() {
        let at = list.index(i);
        let kind = text(item, "type");
        required_name(out, &at.child("type"), kind, names::qualified_name);
        if seen.contains(&kind) {
            out.push(FieldError::duplicate(&at.child("type"), kind));
        }
        seen.push(kind);
        limit_item(out, &at, item, kind);
    }
}

fn limit_item(out: &mut Out, at: Path, item: &Value, kind: &str) {
    let amounts = |field: &str| -> Vec<(String, Quantity)> {
        members(item, field)
            .filter_map(|(name, value)| Some((name.clone(), Quantity::from_value(value).ok()?)))
            .collect()
    };
    for field in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
        let at = at.child(field);
        for (name, value) in members(item, field) {
            non_negative_quantity(out, &at.key(name), value);
        }
    }
    if kind == "Pod" {
        for field in ["default", "defaultRequest"] {
            if !amounts(field).is_empty() {
                out.push(FieldError::forbidden(&at.child(field), "may not be specified when `type` is 'Pod'"));
            }
        }
    }
    if kind == "PersistentVolumeClaim" {
        let storage = |field: &str| amounts(field).iter().any(|(name, _)| name == "storage");
        if !storage("min") && !storage("max") {
            out.push(FieldError::required(
                &at.child("limits"),
                "either minimum or maximum storage value is required, but neither was provided",
            ));
        }
    }
    let find =
        |field: &str, name: &str| amounts(field).into_iter().find(|(one, _)| one == name).map(|(_, amount)| amount);
    let mut names: Vec<String> = ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"]
        .iter()
        .flat_map(|field| amounts(field))
        .map(|(name, _)| name)
        .collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let (min, max) = (find("min", &name), find("max", &name));
        let (default, request) = (find("default", &name), find("defaultRequest", &name));
        let ratio = find("maxLimitRequestRatio", &name);
        let mut beyond = |field: &str, value: Option<Quantity>, limit: Option<Quantity>, over: bool, what: &str| {
            let (Some(value), Some(limit)) = (value, limit) else { return };
            if (over && value > limit) || (!over && value < limit) {
                out.push(FieldError::invalid(
                    &at.child(field).key(&name),
                    value.to_string(),
                    format!(
                        "{what} value {limit} is {} than {} value {value}",
                        if over { "less" } else { "greater" },
                        label(field)
                    ),
                ));
            }
        };
        if let (Some(min), Some(max)) = (min, max)
            && min > max
        {
            out.push(FieldError::invalid(
                &at.child("min").key(&name),
                min.to_string(),
                format!("min value {min} is greater than max value {max}"),
            ));
            continue;
        }
        beyond("defaultRequest", request, min, false, "min");
        beyond("defaultRequest", request, max, true, "max");
        beyond("defaultRequest", request, default, true, "default limit");
        beyond("default", default, min, false, "min");
        beyond("default", default, max, true, "max");
        if let Some(ratio) = ratio.filter(|ratio| ratio.milli_value() < 1000) {
            out.push(FieldError::invalid(
                &at.child("maxLimitRequestRatio").key(&name),
                ratio.to_string(),
                format!("ratio {ratio} is less than 1"),
            ));
        }
    }
}

fn label(field: &str) -> &'static str {
    match field {
        "defaultRequest" => "default request",
        _ => "default",
    }
}

pub(super) fn resource_quota(out: &mut Out, object: &Value) {
    let at = FieldPath::root("spec");
    let spec = child(object, "spec");
    quota_amounts(out, &at.child("hard"), spec, "hard");
    let known = [
        "BestEffort",
        "CrossNamespacePodAffinity",
        "NotBestEffort",
        "NotTerminating",
        "PriorityClass",
        "Terminating",
        "VolumeAttributesClass",
    ];
    let scopes: Vec<&str> = texts(spec, "scopes").collect();
    let here = at.child("scopes");
    for scope in &scopes {
        if !known.contains(scope) {
            out.push(FieldError::invalid(&here, child(spec, "scopes"), "unsupported scope"));
        }
    }
    for (a, b) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
        if scopes.contains(&a) && scopes.contains(&b) {
            out.push(FieldError::invalid(&here, child(spec, "scopes"), "conflicting scopes"));
        }
    }
    let list = at.child("scopeSelector");
    let list = list.child("matchExpressions");
    for (i, one) in items(child(spec, "scopeSelector"), "matchExpressions").iter().enumerate() {
        let at = list.index(i);
        let (scope, operator) = (text(one, "scopeName"), text(one, "operator"));
        if !known.contains(&scope) {
            out.push(FieldError::invalid(&at.child("scopeName"), scope, "unsupported scope"));
        }
        if scope != "PriorityClass" && scope != "VolumeAttributesClass" && operator != "Exists" {
            out.push(FieldError::invalid(
                &at.child("operator"),
                operator,
                "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, \
                 ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or \
                 ResourceQuotaScopeCrossNamespacePodAffinity",
            ));
        }
        let values = items(one, "values");
        match operator {
            "In" | "NotIn" if values.is_empty() => out.push(FieldError::required(
                &at.child("values"),
                "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
            )),
            "Exists" | "DoesNotExist" if !values.is_empty() => out.push(FieldError::invalid(
                &at.child("values"),
                child(one, "values"),
                "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
            )),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => out.push(FieldError::invalid(&at.child("operator"), other, "not a valid selector operator")),
        }
    }
}

fn quota_amounts(out: &mut Out, at: Path, holder: &Value, field: &str) {
    for (name, value) in members(holder, field) {
        let at = at.key(name);
        let complaints = names::qualified_name(name);
        let fine = complaints.is_empty();
        invalid_all(out, &at, name, complaints);
        if fine && !name.contains('/') && !is_quota_name(name) {
            out.push(FieldError::invalid(&at, name.as_str(), "must be a standard resource for quota"));
        }
        if let Some(amount) = non_negative_quantity(out, &at, value)
            && is_count(name)
            && !amount.is_integer()
        {
            out.push(FieldError::invalid(&at, value, "must be an integer"));
        }
    }
}

const COUNTS: [&str; 9] = [
    "pods",
    "services",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

fn is_count(name: &str) -> bool {
    COUNTS.contains(&name) || name.starts_with("count/")
}

fn is_quota_name(name: &str) -> bool {
    const AMOUNTS: [&str; 11] = [
        "cpu",
        "memory",
        "ephemeral-storage",
        "storage",
        "requests.cpu",
        "requests.memory",
        "requests.storage",
        "requests.ephemeral-storage",
        "limits.cpu",
        "limits.memory",
        "limits.ephemeral-storage",
    ];
    is_count(name)
        || AMOUNTS.contains(&name)
        || name.starts_with("hugepages-")
        || name.starts_with("requests.hugepages-")
}

pub(super) fn resource_quota_update(out: &mut Out, new: &Value, old: &Value) {
    resource_quota(out, new);
    let at = FieldPath::root("spec");
    let scopes = |object: &Value| {
        let mut all: Vec<String> = texts(child(object, "spec"), "scopes").map(str::to_owned).collect();
        all.sort_unstable();
        all
    };
    if scopes(new) != scopes(old) {
        out.push(FieldError::invalid(&at.child("scopes"), child(child(new, "spec"), "scopes"), "field is immutable"));
    }
    immutable(
        out,
        &at.child("scopeSelector"),
        child(child(new, "spec"), "scopeSelector"),
        child(child(old, "spec"), "scopeSelector"),
    );
}

pub(super) fn resource_quota_status(out: &mut Out, object: &Value) {
    let at = FieldPath::root("status");
    for field in ["hard", "used"] {
        quota_amounts(out, &at.child(field), child(object, "status"), field);
    }
}

/// Events of both groups; the newer rules apply to those that set `eventTime`.
pub(super) fn event(out: &mut Out, object: &Value) {
    let namespace = text(child(object, "metadata"), "namespace");
    let about = if has(object, "involvedObject") { "involvedObject" } else { "regarding" };
    let target = text(child(object, about), "namespace");
    let at = FieldPath::root(about);
    if target.is_empty() {
        if namespace != "default" && namespace != "kube-system" {
            out.push(FieldError::invalid(&at.child("namespace"), target, "does not match event.namespace"));
        }
    } else if target != namespace {
        out.push(FieldError::invalid(&at.child("namespace"), target, "does not match event.namespace"));
    }
    if !has(object, "eventTime") {
        return;
    }
    complete_event(out, object);
}

/// What `events.k8s.io/v1` demands beside: the fields that the older API lets out, and none of those that only it has.
pub(super) fn new_event(out: &mut Out, object: &Value) {
    if !has(object, "eventTime") {
        out.push(FieldError::required(&FieldPath::root("eventTime"), ""));
        complete_event(out, object);
    }
    for (field, older) in [
        ("deprecatedFirstTimestamp", "firstTimestamp"),
        ("deprecatedLastTimestamp", "lastTimestamp"),
        ("deprecatedCount", "count"),
    ] {
        let unset = |value: &Value| value.is_null() || value.as_i64() == Some(0);
        if !unset(child(object, field)) {
            out.push(FieldError::invalid(&FieldPath::root(older), child(object, field), "needs to be unset"));
        }
    }
    if child(object, "deprecatedSource").as_object().is_some_and(|source| !source.is_empty()) {
        let at = FieldPath::root("source");
        out.push(FieldError::invalid(&at, child(object, "deprecatedSource"), "needs to be unset"));
    }
}

fn complete_event(out: &mut Out, object: &Value) {
    let controller = if has(object, "reportingComponent") { "reportingComponent" } else { "reportingController" };
    let reporter = FieldPath::root("reportingController");
    required_name(out, &reporter, text(object, controller), names::qualified_name);
    let limited = |out: &mut Out, field: &str, max: usize, need: bool| {
        let value = text(object, field);
        let at = FieldPath::root(field);
        if value.is_empty() && need {
            out.push(FieldError::required(&at, ""));
        } else if value.len() > max {
            out.push(FieldError::invalid(&at, value, format!("can have at most {max} characters")));
        }
    };
    limited(out, "reportingInstance", 128, true);
    limited(out, "action", 128, true);
    limited(out, "reason", 128, true);
    limited(out, "message", 1024, false);
    limited(out, "note", 1024, false);
    if !matches!(text(object, "type"), "Normal" | "Warning") {
        out.push(FieldError::invalid(
            &FieldPath::root("type"),
            "",
            "has invalid value: ".to_owned() + text(object, "type"),
        ));
    }
}

/// A Binding: which node a Pod goes to.
pub(super) fn binding(out: &mut Out, object: &Value) {
    let at = FieldPath::root("target");
    let target = child(object, "target");
    if !matches!(text(target, "kind"), "" | "Node") {
        out.push(FieldError::not_supported(&at.child("kind"), text(target, "kind"), &["Node", "<empty>"]));
    }
    required(out, &at.child("name"), text(target, "name"));
}

pub(super) fn lease(out: &mut Out, object: &Value) {
    let at = FieldPath::root("spec");
    let spec = child(object, "spec");
    super::check::positive(out, &at.child("leaseDurationSeconds"), int(spec, "leaseDurationSeconds"));
    super::check::non_negative(out, &at.child("leaseTransitions"), int(spec, "leaseTransitions"));
    if has(spec, "holderIdentity") && text(spec, "holderIdentity").is_empty() {
        out.push(FieldError::invalid(&at.child("holderIdentity"), "", "must not be empty"));
    }
    if has(spec, "strategy") {
        required_name(out, &at.child("strategy"), text(spec, "strategy"), |name| {
            if names::is_qualified_name(name) { Vec::new() } else { names::qualified_name(name) }
        });
    }
    for field in ["acquireTime", "renewTime"] {
        let time = text(spec, field);
        if !time.is_empty() && !super::check::is_time(time) {
            out.push(FieldError::invalid(&at.child(field), time, "must be an RFC 3339 time"));
        }
    }
}

pub(super) fn priority_class(out: &mut Out, object: &Value) {
    let name = text(child(object, "metadata"), "name");
    let value = int(object, "value").unwrap_or(0);
    if name.starts_with("system-") {
        let known = [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];
        if !known.contains(&(name, value)) {
            out.push(FieldError::forbidden(
                &FieldPath::root("metadata.name"),
                "priority class names with 'system-' prefix are reserved for system use only",
            ));
        }
    } else if value > 1_000_000_000 {
        out.push(FieldError::forbidden(
            &FieldPath::root("value"),
            "maximum allowed value of a user defined priority is 1000000000",
        ));
    }
    if has(object, "preemptionPolicy") {
        one_of(
            out,
            &FieldPath::root("preemptionPolicy"),
            text(object, "preemptionPolicy"),
            &["Never", "PreemptLowerPriority"],
        );
    }
}

pub(super) fn priority_class_update(out: &mut Out, new: &Value, old: &Value) {
    if int(new, "value") != int(old, "value") {
        out.push(FieldError::forbidden(&FieldPath::root("value"), "may not be changed in an update."));
    }
    immutable(
        out,
        &FieldPath::root("preemptionPolicy"),
        child(new, "preemptionPolicy"),
        child(old, "preemptionPolicy"),
    );
}

pub(super) fn runtime_class(out: &mut Out, object: &Value) {
    let handler = text(object, "handler");
    invalid_all(out, &FieldPath::root("handler"), handler, names::dns1123_label(handler));
    let at = FieldPath::root("overhead.podFixed");
    for (name, value) in members(child(object, "overhead"), "podFixed") {
        resources::amount(out, &at.key(name), name, value);
    }
    let scheduling = child(object, "scheduling");
    let at = FieldPath::root("scheduling");
    super::selectors::label_map(out, &at, scheduling, "nodeSelector");
    pod::tolerations(out, &at.child("tolerations"), scheduling);
}

pub(super) fn runtime_class_update(out: &mut Out, new: &Value, old: &Value) {
    runtime_class(out, new);
    immutable(out, &FieldPath::root("handler"), child(new, "handler"), child(old, "handler"));
}
