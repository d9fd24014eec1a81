//! Custom resource definitions and aggregated APIs, flow control.

use super::admission::client_config;
use super::check::{
    Out, Path, child, flag, has, immutable, in_range, int, invalid_all, items, non_negative, one_of, required, same,
    text, texts,
};
use super::structural;
use crate::field::{FieldError, FieldPath};
use crate::names;
use serde_json::Value;

pub(super) fn definition(out: &mut Out, object: &Value) {
    let at = FieldPath::root("spec");
    let spec = child(object, "spec");
    let (group, wanted) = (text(spec, "group"), child(spec, "names"));
    let name = text(child(object, "metadata"), "name");
    let full = format!("{}.{group}", text(wanted, "plural"));
    if name != full {
        out.push(FieldError::invalid(
            &FieldPath::root("metadata.name"),
            name,
            "must be spec.names.plural+\".\"+spec.group",
        ));
    }
    if group.is_empty() {
        out.push(FieldError::required(&at.child("group"), ""));
    } else {
        let complaints = names::dns1123_subdomain(group);
        if !complaints.is_empty() {
            out.push(FieldError::invalid(&at.child("group"), group, complaints.join(",")));
        } else if !group.contains('.') {
            out.push(FieldError::invalid(&at.child("group"), group, "should be a domain with at least one dot"));
        }
    }
    one_of(out, &at.child("scope"), text(spec, "scope"), &["Cluster", "Namespaced"]);
    definition_names(out, &at.child("names"), wanted);
    versions(out, &at.child("versions"), spec);
    let approval = text(child(child(object, "metadata"), "annotations"), "api-approved.kubernetes.io");
    let protected = group.ends_with(".k8s.io")
        || group == "k8s.io"
        || group.ends_with(".kubernetes.io")
        || group == "kubernetes.io";
    if protected && approval.is_empty() {
        let at = FieldPath::root("metadata.annotations");
        out.push(FieldError::required(
            &at.key("api-approved.kubernetes.io"),
            "protected groups must have approval annotation \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111",
        ));
    }
    conversion(out, &at.child("conversion"), child(spec, "conversion"));
    if flag(spec, "preserveUnknownFields") {
        out.push(FieldError::invalid(
            &at.child("preserveUnknownFields"),
            true,
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead",
        ));
    }
}

fn definition_names(out: &mut Out, at: Path, wanted: &Value) {
    for (field, lower) in [("plural", false), ("singular", false), ("kind", true), ("listKind", true)] {
        let value = text(wanted, field);
        let at = at.child(field);
        if value.is_empty() {
            if field != "singular" {
                out.push(FieldError::required(&at, ""));
            }
            continue;
        }
        let shown = if lower { value.to_lowercase() } else { value.to_owned() };
        let complaints = names::dns1035_label(&shown);
        if !complaints.is_empty() {
            let why = if lower {
                format!("may have mixed case, but should otherwise match: {}", complaints.join(","))
            } else {
                complaints.join(",")
            };
            out.push(FieldError::invalid(&at, value, why));
        }
    }
    if !text(wanted, "kind").is_empty() && text(wanted, "kind") == text(wanted, "listKind") {
        out.push(FieldError::invalid(
            &at.child("listKind"),
            text(wanted, "listKind"),
            "kind and listKind may not be the same",
        ));
    }
    for field in ["shortNames", "categories"] {
        let list = at.child(field);
        for (i, one) in texts(wanted, field).enumerate() {
            let complaints = names::dns1035_label(one);
            if !complaints.is_empty() {
                out.push(FieldError::invalid(&list.index(i), one, complaints.join(",")));
            }
        }
    }
}

fn versions(out: &mut Out, list: Path, spec: &Value) {
    let all = items(spec, "versions");
    let stored = all.iter().filter(|one| flag(one, "storage")).count();
    if all.is_empty() {
        out.push(FieldError::required(list, "must have exactly one version marked as storage version"));
    } else if stored != 1 {
        out.push(FieldError::invalid(
            list,
            child(spec, "versions"),
            "must have exactly one version marked as storage version",
        ));
    }
    let mut seen = Vec::new();
    for (i, one) in all.iter().enumerate() {
        let at = list.index(i);
        let name = text(one, "name");
        let complaints = names::dns1035_label(name);
        if !complaints.is_empty() {
            out.push(FieldError::invalid(&at.child("name"), name, complaints.join(",")));
        }
        if seen.contains(&name) {
            out.push(FieldError::invalid(&at.child("name"), name, "must contain unique version names"));
        }
        seen.push(name);
        if flag(one, "deprecated") || !has(one, "deprecationWarning") {
            let warning = text(one, "deprecationWarning");
            if warning.len() > 256 {
                out.push(FieldError::too_long(&at.child("deprecationWarning"), 256));
            }
        } else {
            out.push(FieldError::invalid(
                &at.child("deprecationWarning"),
                text(one, "deprecationWarning"),
                "can only be set for deprecated versions",
            ));
        }
        let schema = child(child(one, "schema"), "openAPIV3Schema");
        if schema.is_null() {
            out.push(FieldError::required(&at.child("schema").child("openAPIV3Schema"), "schemas are required"));
        } else {
            structural::schema(out, &at.child("schema").child("openAPIV3Schema"), schema);
        }
        columns(out, &at.child("additionalPrinterColumns"), one);
        scale(out, &at.child("subresources").child("scale"), child(child(one, "subresources"), "scale"));
        let fields = at.child("selectableFields");
        if items(one, "selectableFields").len() > 8 {
            out.push(FieldError::too_many(&fields, items(one, "selectableFields").len(), 8));
        }
        let mut seen = Vec::new();
        for (j, field) in items(one, "selectableFields").iter().enumerate() {
            let here = fields.index(j);
            let at = here.child("jsonPath");
            let path = text(field, "jsonPath");
            selectable(out, &at, path, schema);
            if seen.contains(&path) {
                out.push(FieldError::duplicate(&at, path));
            }
            seen.push(path);
        }
    }
}

/// A selectable field is a scalar that the schema knows, outside of metadata (KEP-4358).
fn selectable(out: &mut Out, at: Path, path: &str, schema: &Value) {
    if path.is_empty() {
        return out.push(FieldError::required(at, ""));
    }
    let simple = path.strip_prefix('.').filter(|rest| !rest.contains(['[', '*', '(', '?', ' ']) && !rest.is_empty());
    let Some(steps) = simple else {
        return out.push(FieldError::invalid(
            at,
            path,
            "is an invalid path: must be a simple json path starting with .",
        ));
    };
    if steps == "metadata" || steps.starts_with("metadata.") {
        return out.push(FieldError::invalid(at, path, "must not point to fields in metadata"));
    }
    let found = steps.split('.').try_fold(schema, |at, step| child(at, "properties").get(step));
    match found.map(|found| text(found, "type")) {
        None => out.push(FieldError::invalid(at, path, "is an invalid path: does not refer to a valid field")),
        Some("string" | "boolean" | "integer") => {}
        Some(_) => out.push(FieldError::invalid(
            at,
            path,
            "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.",
        )),
    }
}

fn columns(out: &mut Out, list: Path, version: &Value) {
    for (i, column) in items(version, "additionalPrinterColumns").iter().enumerate() {
        let at = list.index(i);
        required(out, &at.child("name"), text(column, "name"));
        let kind = text(column, "type");
        if kind.is_empty() {
            out.push(FieldError::required(&at.child("type"), "must be one of boolean,date,integer,number,string"));
        } else if !matches!(kind, "boolean" | "date" | "integer" | "number" | "string") {
            out.push(FieldError::invalid(&at.child("type"), kind, "must be one of boolean,date,integer,number,string"));
        }
        let path = text(column, "jsonPath");
        if path.is_empty() {
            out.push(FieldError::required(&at.child("jsonPath"), ""));
        } else if !path.starts_with('.') || crate::table::JsonPath::parse(path).is_err() {
            out.push(FieldError::invalid(&at.child("jsonPath"), path, "must be a simple json path starting with ."));
        }
    }
}

fn scale(out: &mut Out, at: Path, scale: &Value) {
    if scale.is_null() {
        return;
    }
    for (field, below, need) in [
        ("specReplicasPath", ".spec.", true),
        ("statusReplicasPath", ".status.", true),
        ("labelSelectorPath", "", false),
    ] {
        let path = text(scale, field);
        let at = at.child(field);
        if path.is_empty() {
            if need {
                out.push(FieldError::required(&at, ""));
            }
        } else if below.is_empty() {
            if !path.starts_with(".spec.") && !path.starts_with(".status.") {
                out.push(FieldError::invalid(&at, path, "should be a json path under either .status or .spec"));
            }
        } else if !path.starts_with(below) {
            let part = below.trim_end_matches('.');
            out.push(FieldError::invalid(&at, path, format!("should be a json path under {part}")));
        }
    }
}

fn conversion(out: &mut Out, at: Path, conversion: &Value) {
    if conversion.is_null() {
        return;
    }
    let strategy = text(conversion, "strategy");
    one_of(out, &at.child("strategy"), strategy, &["None", "Webhook"]);
    let webhook = child(conversion, "webhook");
    if strategy == "Webhook" {
        if webhook.is_null() || !has(webhook, "clientConfig") {
            out.push(FieldError::required(
                &at.child("webhookClientConfig"),
                "required when strategy is set to Webhook",
            ));
        } else {
            client_config(out, &at.child("webhookClientConfig"), child(webhook, "clientConfig"));
        }
        if items(webhook, "conversionReviewVersions").is_empty() {
            out.push(FieldError::required(&at.child("conversionReviewVersions"), ""));
        }
    } else if !webhook.is_null() {
        out.push(FieldError::forbidden(
            &at.child("webhookClientConfig"),
            "should not be set when strategy is not set to Webhook",
        ));
    }
}

pub(super) fn definition_update(out: &mut Out, new: &Value, old: &Value) {
    definition(out, new);
    let at = FieldPath::root("spec");
    let (now, was) = (child(new, "spec"), child(old, "spec"));
    let conditions = items(child(old, "status"), "conditions");
    let established = conditions.iter().any(|one| text(one, "type") == "Established" && text(one, "status") == "True");
    if established {
        immutable(out, &at.child("group"), child(now, "group"), child(was, "group"));
        immutable(out, &at.child("scope"), child(now, "scope"), child(was, "scope"));
        let (names, before) = (child(now, "names"), child(was, "names"));
        for field in ["kind", "plural"] {
            immutable(out, &at.child("names").child(field), child(names, field), child(before, field));
        }
    }
    stored_versions(out, new);
}

pub(super) fn stored_versions(out: &mut Out, object: &Value) {
    let at = FieldPath::root("status.storedVersions");
    let status = child(object, "status");
    let stored: Vec<&str> = texts(status, "storedVersions").collect();
    let all = items(child(object, "spec"), "versions");
    let storage = all.iter().find(|one| flag(one, "storage")).map(|one| text(one, "name")).unwrap_or_default();
    if stored.is_empty() {
        return out.push(FieldError::invalid(
            &at,
            child(status, "storedVersions").clone(),
            "must have at least one stored version",
        ));
    }
    for (i, one) in stored.iter().enumerate() {
        if !all.iter().any(|version| text(version, "name") == *one) {
            let list = FieldPath::root("status.storedVersions");
            out.push(FieldError::invalid(
                &list.index(i),
                *one,
                "missing from spec.versions; v1 must be added back or storage migrated".replace("v1", one),
            ));
        }
    }
    if !storage.is_empty() && !stored.contains(&storage) {
        out.push(FieldError::invalid(
            &at,
            child(status, "storedVersions"),
            format!("must have the storage version {storage}"),
        ));
    }
}

pub(super) fn api_service(out: &mut Out, object: &Value) {
    let at = FieldPath::root("spec");
    let spec = child(object, "spec");
    let (group, version) = (text(spec, "group"), text(spec, "version"));
    let name = text(child(object, "metadata"), "name");
    let required_name_ = format!("{version}.{group}");
    if name != required_name_ {
        out.push(FieldError::invalid(
            &FieldPath::root("metadata.name"),
            name,
            format!("must be `spec.version+\".\"+spec.group`: \"{required_name_}\""),
        ));
    }
    if group.is_empty() && version != "v1" {
        out.push(FieldError::required(
            &at.child("group"),
            "only v1 may have an empty group and it better be legacy kube",
        ));
    }
    invalid_all(out, &at.child("version"), version, names::dns1035_label(version));
    let (minimum, priority) =
        (int(spec, "groupPriorityMinimum").unwrap_or(0), int(spec, "versionPriority").unwrap_or(0));
    if !(1..=20000).contains(&minimum) {
        out.push(FieldError::invalid(
            &at.child("groupPriorityMinimum"),
            minimum,
            "must be positive and less than 20000",
        ));
    }
    if !(1..=1000).contains(&priority) {
        out.push(FieldError::invalid(&at.child("versionPriority"), priority, "must be positive and less than 1000"));
    }
    let service = child(spec, "service");
    if service.is_null() {
        if !text(spec, "caBundle").is_empty() {
            out.push(FieldError::invalid(&at.child("caBundle"), "", "local APIServices may not have a caBundle"));
        }
        if flag(spec, "insecureSkipTLSVerify") {
            out.push(FieldError::invalid(
                &at.child("insecureSkipTLSVerify"),
                true,
                "local APIServices may not have insecureSkipTLSVerify",
            ));
        }
        return;
    }
    let here = at.child("service");
    required(out, &here.child("namespace"), text(service, "namespace"));
    required(out, &here.child("name"), text(service, "name"));
    in_range(out, &here.child("port"), Some(int(service, "port").unwrap_or(0)), 1, 65535);
    if flag(spec, "insecureSkipTLSVerify") && !text(spec, "caBundle").is_empty() {
        out.push(FieldError::invalid(
            &at.child("insecureSkipTLSVerify"),
            true,
            "may not be true if caBundle is present",
        ));
    }
}

pub(super) fn flow_schema(out: &mut Out, object: &Value) {
    let at = FieldPath::root("spec");
    let spec = child(object, "spec");
    in_range_words(out, &at.child("matchingPrecedence"), int(spec, "matchingPrecedence"), 10_000);
    let name = text(child(object, "metadata"), "name");
    if int(spec, "matchingPrecedence") == Some(1) && name != "exempt" {
        out.push(FieldError::invalid(
            &at.child("matchingPrecedence"),
            1,
            "only the schema named 'exempt' may have matchingPrecedence 1",
        ));
    }
    let method = child(spec, "distinguisherMethod");
    if !method.is_null() {
        one_of(out, &at.child("distinguisherMethod").child("type"), text(method, "type"), &["ByNamespace", "ByUser"]);
    }
    let level = text(child(spec, "priorityLevelConfiguration"), "name");
    let here = at.child("priorityLevelConfiguration");
    if level.is_empty() {
        out.push(FieldError::required(&here.child("name"), "must reference a priority level"));
    } else {
        invalid_all(out, &here.child("name"), level, names::dns1123_subdomain(level));
    }
    let list = at.child("rules");
    for (i, rule) in items(spec, "rules").iter().enumerate() {
        let at = list.index(i);
        if items(rule, "subjects").is_empty() {
            out.push(FieldError::required(&at.child("subjects"), "subjects must contain at least one value"));
        }
        if items(rule, "resourceRules").is_empty() && items(rule, "nonResourceRules").is_empty() {
            out.push(FieldError::required(
                &at,
                "at least one of resourceRules and nonResourceRules has to be non-empty",
            ));
        }
        let subjects = at.child("subjects");
        for (j, subject) in items(rule, "subjects").iter().enumerate() {
            let at = subjects.index(j);
            let kind = text(subject, "kind");
            let field = match kind {
                "User" => "user",
                "Group" => "group",
                "ServiceAccount" => "serviceAccount",
                other => {
                    out.push(FieldError::not_supported(&at.child("kind"), other, &["Group", "ServiceAccount", "User"]));
                    continue;
                }
            };
            if !has(subject, field) {
                out.push(FieldError::required(
                    &at.child(field),
                    format!("{field} is required when subject kind is '{kind}'"),
                ));
            } else {
                required(out, &at.child(field).child("name"), text(child(subject, field), "name"));
            }
        }
    }
}

fn in_range_words(out: &mut Out, at: Path, value: Option<i64>, max: i64) {
    let value = value.unwrap_or(0);
    if value <= 0 {
        out.push(FieldError::invalid(at, value, "must be a positive value"));
    } else if value > max {
        out.push(FieldError::invalid(at, value, format!("must not be greater than {max}")));
    }
}

pub(super) fn priority_level(out: &mut Out, object: &Value) {
    let at = FieldPath::root("spec");
    let spec = child(object, "spec");
    let name = text(child(object, "metadata"), "name");
    let kind = text(spec, "type");
    if (name == "exempt") != (kind == "Exempt") {
        out.push(FieldError::invalid(&at.child("type"), kind, "type must be 'Exempt' if and only if name is 'exempt'"));
    }
    match kind {
        "Exempt" => {
            if has(spec, "limited") {
                out.push(FieldError::forbidden(&at.child("limited"), "must be nil if the type is not Limited"));
            }
        }
        "Limited" => {
            if has(spec, "exempt") {
                out.push(FieldError::forbidden(&at.child("exempt"), "must be nil if the type is Limited"));
            }
            let limited = child(spec, "limited");
            if limited.is_null() {
                out.push(FieldError::required(&at.child("limited"), "must not be empty when type is Limited"));
            } else {
                limited_level(out, &at.child("limited"), limited);
            }
        }
        other => out.push(FieldError::not_supported(&at.child("type"), other, &["Exempt", "Limited"])),
    }
}

fn limited_level(out: &mut Out, at: Path, limited: &Value) {
    non_negative(out, &at.child("nominalConcurrencyShares"), int(limited, "nominalConcurrencyShares"));
    if let Some(percent) = int(limited, "lendablePercent").filter(|percent| !(0..=100).contains(percent)) {
        out.push(FieldError::invalid(&at.child("lendablePercent"), percent, "must be between 0 and 100, inclusive"));
    }
    non_negative(out, &at.child("borrowingLimitPercent"), int(limited, "borrowingLimitPercent"));
    let response = child(limited, "limitResponse");
    let at = at.child("limitResponse");
    let queuing = child(response, "queuing");
    match text(response, "type") {
        "Reject" => {
            if !queuing.is_null() {
                out.push(FieldError::forbidden(
                    &at.child("queuing"),
                    "must be nil if limited.limitResponse.type is not Limited",
                ));
            }
        }
        "Queue" => {
            let at = at.child("queuing");
            if queuing.is_null() {
                return out
                    .push(FieldError::required(&at, "must not be empty if limited.limitResponse.type is Limited"));
            }
            let (queues, hand, length) =
                (int(queuing, "queues"), int(queuing, "handSize"), int(queuing, "queueLengthLimit"));
            in_range_words(out, &at.child("queues"), queues, 10_000_000);
            in_range_words(out, &at.child("queueLengthLimit"), length, 2_000_000_000);
            in_range_words(out, &at.child("handSize"), hand, 2_000_000_000);
            if hand > queues {
                out.push(FieldError::invalid(
                    &at.child("handSize"),
                    hand.unwrap_or(0),
                    format!("should not be greater than queues ({})", queues.unwrap_or(0)),
                ));
            }
        }
        "" => out.push(FieldError::required(&at.child("type"), "must not be empty")),
        other => out.push(FieldError::not_supported(&at.child("type"), other, &["Queue", "Reject"])),
    }
}

/// The built-in level and schema that exempt the system may not change shape.
pub(super) fn fixed_flow(out: &mut Out, new: &Value, old: &Value) {
    let name = text(child(new, "metadata"), "name");
    if matches!(name, "exempt" | "catch-all") {
        let (mut now, mut was) = (child(new, "spec").clone(), child(old, "spec").clone());
        for spec in [&mut now, &mut was] {
            if let Some(exempt) = spec.get_mut("exempt").and_then(Value::as_object_mut) {
                exempt.clear();
            }
        }
        if !same(&now, &was) {
            out.push(FieldError::invalid(
                &FieldPath::root("spec"),
                child(new, "spec").clone(),
                format!("spec of '{name}' must equal the fixed value"),
            ));
        }
    }
}
