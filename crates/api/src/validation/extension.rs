//! Webhooks, admission policies, custom resource definitions, aggregated APIs, flow control.

use super::check::{
    Out, Path, child, flag, has, immutable, in_range, int, invalid_all, items, non_negative, one_of, required,
    required_name, same, text, texts, unique,
};
use super::selectors;
use crate::field::{FieldError, FieldPath};
use crate::names;
use serde_json::Value;

const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];

pub(super) fn webhooks(out: &mut Out, object: &Value, mutating: bool) {
    let list = FieldPath::root("webhooks");
    let mut seen = Vec::new();
    for (i, hook) in items(object, "webhooks").iter().enumerate() {
        let at = list.index(i);
        webhook(out, &at, hook, mutating);
        unique(out, &at.child("name"), &mut seen, text(hook, "name"));
    }
}

fn webhook(out: &mut Out, at: Path, hook: &Value, mutating: bool) {
    let name = text(hook, "name");
    if name.is_empty() {
        out.push(FieldError::required(&at.child("name"), ""));
    } else {
        invalid_all(out, &at.child("name"), name, names::fully_qualified(name, 3));
    }
    let rules = at.child("rules");
    for (i, rule) in items(hook, "rules").iter().enumerate() {
        rule_with_operations(out, &rules.index(i), rule);
    }
    one_of(out, &at.child("failurePolicy"), text(hook, "failurePolicy"), &["Fail", "Ignore"]);
    one_of(out, &at.child("matchPolicy"), text(hook, "matchPolicy"), &["Equivalent", "Exact"]);
    let effects = text(hook, "sideEffects");
    if effects.is_empty() {
        out.push(FieldError::required(&at.child("sideEffects"), "must specify one of None, NoneOnDryRun"));
    } else if !matches!(effects, "None" | "NoneOnDryRun") {
        out.push(FieldError::not_supported(&at.child("sideEffects"), effects, &["None", "NoneOnDryRun"]));
    }
    if let Some(seconds) = int(hook, "timeoutSeconds").filter(|seconds| !(1..=30).contains(seconds)) {
        out.push(FieldError::invalid(
            &at.child("timeoutSeconds"),
            seconds,
            "the timeout value must be between 1 and 30 seconds",
        ));
    }
    for field in ["namespaceSelector", "objectSelector"] {
        if has(hook, field) {
            selectors::label_selector(out, &at.child(field), child(hook, field));
        }
    }
    client_config(out, &at.child("clientConfig"), child(hook, "clientConfig"));
    let versions: Vec<&str> = texts(hook, "admissionReviewVersions").collect();
    let list = at.child("admissionReviewVersions");
    if versions.is_empty() {
        out.push(FieldError::required(&list, "must specify one of v1, v1beta1"));
    } else if !versions.iter().any(|one| matches!(*one, "v1" | "v1beta1")) {
        out.push(FieldError::invalid(
            &list,
            child(hook, "admissionReviewVersions"),
            "must include at least one of v1, v1beta1",
        ));
    }
    for (i, one) in versions.iter().enumerate() {
        invalid_all(out, &list.index(i), one, names::dns1035_label(one));
        if versions[..i].contains(one) {
            out.push(FieldError::invalid(&list.index(i), *one, "duplicate version"));
        }
    }
    match_conditions(out, &at.child("matchConditions"), hook);
    if mutating && has(hook, "reinvocationPolicy") {
        one_of(out, &at.child("reinvocationPolicy"), text(hook, "reinvocationPolicy"), &["IfNeeded", "Never"]);
    }
}

fn match_conditions(out: &mut Out, list: Path, holder: &Value) {
    let all = items(holder, "matchConditions");
    if all.len() > 64 {
        out.push(FieldError::too_many(list, all.len(), 64));
    }
    let mut seen = Vec::new();
    for (i, one) in all.iter().enumerate() {
        let at = list.index(i);
        required(out, &at.child("expression"), text(one, "expression").trim());
        let name = text(one, "name");
        required_name(out, &at.child("name"), name, names::qualified_name);
        unique(out, &at.child("name"), &mut seen, name);
    }
}

fn rule_with_operations(out: &mut Out, at: Path, rule: &Value) {
    rule_fields(out, at, rule);
    let operations: Vec<&str> = texts(rule, "operations").collect();
    let list = at.child("operations");
    if operations.is_empty() {
        out.push(FieldError::required(&list, ""));
    }
    if operations.len() > 1 && operations.contains(&"*") {
        out.push(FieldError::invalid(
            &list,
            child(rule, "operations"),
            "if '*' is present, must not specify other operations",
        ));
    }
    for (i, operation) in operations.iter().enumerate() {
        if !OPERATIONS.contains(operation) {
            out.push(FieldError::not_supported(&list.index(i), *operation, &OPERATIONS));
        }
    }
}

fn rule_fields(out: &mut Out, at: Path, rule: &Value) {
    for (field, what) in [("apiGroups", "API groups"), ("apiVersions", "API versions")] {
        let all: Vec<&str> = texts(rule, field).collect();
        let list = at.child(field);
        if all.is_empty() {
            out.push(FieldError::required(&list, ""));
        }
        if all.len() > 1 && all.contains(&"*") {
            out.push(FieldError::invalid(
                &list,
                child(rule, field),
                format!("if '*' is present, must not specify other {what}"),
            ));
        }
        for (i, one) in all.iter().enumerate() {
            if field == "apiVersions" && one.is_empty() {
                out.push(FieldError::required(&list.index(i), ""));
            }
        }
    }
    let resources: Vec<&str> = texts(rule, "resources").collect();
    let list = at.child("resources");
    if resources.is_empty() {
        out.push(FieldError::required(&list, ""));
    }
    for (i, one) in resources.iter().enumerate() {
        if one.is_empty() {
            out.push(FieldError::required(&list.index(i), ""));
        }
        if *one == "*/*" && resources.len() > 1 {
            out.push(FieldError::invalid(
                &list,
                child(rule, "resources"),
                "if '*/*' is present, must not specify other resources",
            ));
        }
    }
    if has(rule, "scope") {
        one_of(out, &at.child("scope"), text(rule, "scope"), &["*", "Cluster", "Namespaced"]);
    }
}

/// Where a webhook is: a URL or a Service, not both.
fn client_config(out: &mut Out, at: Path, config: &Value) {
    match (has(config, "url"), has(config, "service")) {
        (true, true) | (false, false) => {
            out.push(FieldError::required(at, "exactly one of url or service is required"));
        }
        (true, false) => web_url(out, &at.child("url"), text(config, "url")),
        (false, true) => {
            let service = child(config, "service");
            let at = at.child("service");
            required(out, &at.child("name"), text(service, "name"));
            required(out, &at.child("namespace"), text(service, "namespace"));
            let path = text(service, "path");
            if has(service, "path") {
                service_path(out, &at.child("path"), path);
            }
            let port = int(service, "port").unwrap_or(0);
            if !(1..=65535).contains(&port) {
                out.push(FieldError::invalid(
                    &at.child("port"),
                    port,
                    format!("port is not valid: {}", names::range_error(1, 65535)),
                ));
            }
        }
    }
}

fn service_path(out: &mut Out, at: Path, path: &str) {
    if path.is_empty() || path == "/" {
        return;
    }
    if !path.starts_with('/') {
        out.push(FieldError::invalid(at, path, "must start with a '/'"));
    }
    let steps = path.trim_start_matches('/').trim_end_matches('/').split('/');
    for (i, step) in steps.enumerate() {
        if step.is_empty() {
            out.push(FieldError::invalid(at, path, format!("segment[{i}] may not be empty")));
        }
    }
}

fn web_url(out: &mut Out, at: Path, url: &str) {
    const FORM: &str = "; desired format: https://host[/path]";
    let Some(rest) = url.strip_prefix("https://") else {
        let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
        return out.push(FieldError::invalid(at, scheme, format!("'https' is the only allowed URL scheme{FORM}")));
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.is_empty() {
        out.push(FieldError::invalid(at, "", format!("host must be specified{FORM}")));
    }
    if authority.contains('@') {
        out.push(FieldError::invalid(at, authority, format!("user information is not permitted in the URL{FORM}")));
    }
    if rest.contains('#') {
        out.push(FieldError::invalid(at, url, "fragments are not permitted in the URL"));
    }
    if rest.contains('?') {
        out.push(FieldError::invalid(at, url, "query parameters are not permitted in the URL"));
    }
}

pub(super) fn admission_policy(out: &mut Out, object: &Value, mutating: bool) {
    let at = FieldPath::root("spec");
    let spec = child(object, "spec");
    one_of(out, &at.child("failurePolicy"), text(spec, "failurePolicy"), &["Fail", "Ignore"]);
    if has(spec, "paramKind") {
        let kind = child(spec, "paramKind");
        required(out, &at.child("paramKind").child("apiVersion"), text(kind, "apiVersion"));
        required(out, &at.child("paramKind").child("kind"), text(kind, "kind"));
    }
    match_constraints(out, &at, spec);
    match_conditions(out, &at.child("matchConditions"), spec);
    variables(out, &at.child("variables"), spec);
    let (field, also) = if mutating { ("mutations", "") } else { ("validations", "auditAnnotations") };
    if items(spec, field).is_empty() && (also.is_empty() || items(spec, also).is_empty()) {
        let why = if mutating {
            "mutations must contain at least one item"
        } else {
            "validations or auditAnnotations must be non-empty for"
        };
        out.push(FieldError::required(&at.child(field), why.trim_end_matches(" for")));
    }
    if mutating {
        one_of(out, &at.child("reinvocationPolicy"), text(spec, "reinvocationPolicy"), &["IfNeeded", "Never"]);
        return;
    }
    let list = at.child("validations");
    for (i, one) in items(spec, "validations").iter().enumerate() {
        let at = list.index(i);
        required(out, &at.child("expression"), text(one, "expression").trim());
        let message = text(one, "message");
        if has(one, "message") && message.trim().is_empty() {
            out.push(FieldError::invalid(&at.child("message"), message, "message must be non-empty if specified"));
        } else if message.contains('\n') {
            out.push(FieldError::invalid(&at.child("message"), message, "message must not contain line breaks"));
        }
        if has(one, "reason") {
            one_of(
                out,
                &at.child("reason"),
                text(one, "reason"),
                &["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"],
            );
        }
    }
    let list = at.child("auditAnnotations");
    let mut seen = Vec::new();
    for (i, one) in items(spec, "auditAnnotations").iter().enumerate() {
        let at = list.index(i);
        required_name(out, &at.child("key"), text(one, "key"), names::qualified_name);
        required(out, &at.child("valueExpression"), text(one, "valueExpression").trim());
        unique(out, &at.child("key"), &mut seen, text(one, "key"));
    }
}

fn variables(out: &mut Out, list: Path, spec: &Value) {
    let mut seen = Vec::new();
    for (i, one) in items(spec, "variables").iter().enumerate() {
        let at = list.index(i);
        let name = text(one, "name");
        if name.is_empty() {
            out.push(FieldError::required(&at.child("name"), "name is not specified"));
        } else if !names::is_c_identifier(name) {
            out.push(FieldError::invalid(&at.child("name"), name, "name is not a valid CEL identifier"));
        }
        required(out, &at.child("expression"), text(one, "expression").trim());
        unique(out, &at.child("name"), &mut seen, name);
    }
}

fn match_constraints(out: &mut Out, at: Path, spec: &Value) {
    let constraints = child(spec, "matchConstraints");
    let here = at.child("matchConstraints");
    if constraints.is_null() {
        return out.push(FieldError::required(&here, ""));
    }
    match_resources(out, &here, constraints);
    if items(constraints, "resourceRules").is_empty() {
        out.push(FieldError::required(&here.child("resourceRules"), ""));
    }
}

fn match_resources(out: &mut Out, at: Path, resources: &Value) {
    one_of(out, &at.child("matchPolicy"), text(resources, "matchPolicy"), &["Equivalent", "Exact"]);
    for field in ["namespaceSelector", "objectSelector"] {
        if has(resources, field) {
            selectors::label_selector(out, &at.child(field), child(resources, field));
        } else {
            out.push(FieldError::required(&at.child(field), ""));
        }
    }
    for field in ["resourceRules", "excludeResourceRules"] {
        let list = at.child(field);
        for (i, rule) in items(resources, field).iter().enumerate() {
            rule_with_operations(out, &list.index(i), rule);
        }
    }
}

pub(super) fn policy_binding(out: &mut Out, object: &Value, mutating: bool) {
    let at = FieldPath::root("spec");
    let spec = child(object, "spec");
    required_name(out, &at.child("policyName"), text(spec, "policyName"), names::dns1123_subdomain);
    let reference = child(spec, "paramRef");
    if !reference.is_null() {
        let at = at.child("paramRef");
        match (has(reference, "name"), has(reference, "selector")) {
            (true, true) => {
                out.push(FieldError::forbidden(&at.child("name"), "name and selector are mutually exclusive"))
            }
            (false, false) => out.push(FieldError::required(&at, "one of name or selector must be specified")),
            _ => {}
        }
        if has(reference, "parameterNotFoundAction") {
            one_of(
                out,
                &at.child("parameterNotFoundAction"),
                text(reference, "parameterNotFoundAction"),
                &["Allow", "Deny"],
            );
        } else {
            out.push(FieldError::required(&at.child("parameterNotFoundAction"), ""));
        }
    }
    if has(spec, "matchResources") {
        match_resources(out, &at.child("matchResources"), child(spec, "matchResources"));
    }
    if mutating {
        return;
    }
    let actions: Vec<&str> = texts(spec, "validationActions").collect();
    let list = at.child("validationActions");
    if actions.is_empty() {
        out.push(FieldError::required(&list, "must specify at least one of Audit, Deny, Warn"));
    }
    for (i, action) in actions.iter().enumerate() {
        if !matches!(*action, "Audit" | "Deny" | "Warn") {
            out.push(FieldError::not_supported(&list.index(i), *action, &["Audit", "Deny", "Warn"]));
        }
        if actions[..i].contains(action) {
            out.push(FieldError::duplicate(&list.index(i), *action));
        }
    }
    if actions.contains(&"Deny") && actions.contains(&"Warn") {
        out.push(FieldError::invalid(
            &list,
            child(spec, "validationActions"),
            "must not contain both Deny and Warn (repeating the same validation failure information in the API response and \
             headers serves no purpose)",
        ));
    }
}

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
        }
        columns(out, &at.child("additionalPrinterColumns"), one);
        scale(out, &at.child("subresources").child("scale"), child(child(one, "subresources"), "scale"));
        let fields = at.child("selectableFields");
        if items(one, "selectableFields").len() > 8 {
            out.push(FieldError::too_many(&fields, items(one, "selectableFields").len(), 8));
        }
        for (j, field) in items(one, "selectableFields").iter().enumerate() {
            required(out, &fields.index(j).child("jsonPath"), text(field, "jsonPath"));
        }
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
    immutable(out, &at.child("group"), child(now, "group"), child(was, "group"));
    immutable(out, &at.child("scope"), child(now, "scope"), child(was, "scope"));
    let (names, before) = (child(now, "names"), child(was, "names"));
    for field in ["kind", "plural"] {
        immutable(out, &at.child("names").child(field), child(names, field), child(before, field));
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
