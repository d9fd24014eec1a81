//! Webhooks and admission policies.

use super::check::{
    Out, Path, child, has, int, invalid_all, items, one_of, required, required_name, text, texts, unique,
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
pub(super) fn client_config(out: &mut Out, at: Path, config: &Value) {
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
    if let Some(why) = unreadable(url) {
        return out.push(FieldError::required(at, format!("url must be a valid URL: parse {url:?}: {why}{FORM}")));
    }
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    if !scheme.eq_ignore_ascii_case("https") {
        return out.push(FieldError::invalid(at, scheme, format!("'https' is the only allowed URL scheme{FORM}")));
    }
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

/// What keeps a URL from being read at all.
fn unreadable(url: &str) -> Option<&'static str> {
    if url.chars().any(|c| c.is_ascii_control()) {
        return Some("net/url: invalid control character in URL");
    }
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    if let Some(inner) = host.strip_prefix('[') {
        let Some((_, port)) = inner.split_once(']') else { return Some("missing ']' in host") };
        return bad_port(port.strip_prefix(':').or(Some(port).filter(|p| p.is_empty())));
    }
    if host.contains([' ', '\\', '<', '>', '"', '^', '`', '{', '|', '}']) {
        return Some("invalid character in host name");
    }
    bad_port(Some(host.split_once(':').map_or("", |(_, port)| port)))
}

fn bad_port(port: Option<&str>) -> Option<&'static str> {
    let fine = port.is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()));
    (!fine).then_some("invalid port after host")
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
