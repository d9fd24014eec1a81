//! Dynamic resource allocation: claims, templates and classes (KEP-4381); slices and what drivers tell of are beside.
//!
//! Whether the expressions of selectors compile is not asked here but in the server, which knows the language.

mod slice;
mod status;
#[cfg(test)]
mod tests;

use super::check::{
    Out, Path, child, has, int, invalid_all, items, one_of, positive, required, required_name, text, texts, unique,
};
use super::pod::volumes::driver_name;
use crate::field::{FieldError, FieldPath};
use crate::names;
use serde_json::Value;

pub(super) use slice::{slice, slice_update};
pub(super) use status::claim_status;

const REQUESTS_MAX: usize = 32;
const ALTERNATIVES_MAX: usize = 8;
const SELECTORS_MAX: usize = 32;
const CONSTRAINTS_MAX: usize = 32;
const CONFIG_MAX: usize = 32;
const TOLERATIONS_MAX: usize = 16;
/// Bytes of JSON.
const PARAMETERS_MAX: usize = 10 * 1024;
const DOMAIN_MAX: usize = 63;
const ID_MAX: usize = 32;

pub(super) fn claim(out: &mut Out, object: &Value) {
    claim_spec(out, &FieldPath::root("spec"), child(object, "spec"));
}

pub(super) fn template(out: &mut Out, object: &Value) {
    claim_spec(out, &FieldPath::root("spec.spec"), child(child(object, "spec"), "spec"));
}

/// The names by which a claim's requests can be referred to: `request` and `request/alternative`.
fn names_of(devices: &Value) -> Vec<String> {
    let mut out = Vec::new();
    for request in items(devices, "requests") {
        let name = text(request, "name");
        out.push(name.to_owned());
        out.extend(items(request, "firstAvailable").iter().map(|sub| format!("{name}/{}", text(sub, "name"))));
    }
    out
}

/// A list with an upper limit; gives its entries with their places.
fn list<'a>(out: &mut Out, at: Path, holder: &'a Value, field: &str, max: usize) -> &'a [Value] {
    let all = items(holder, field);
    if all.len() > max {
        out.push(FieldError::too_many(&at.child(field), all.len(), max));
    }
    all
}

fn claim_spec(out: &mut Out, at: Path, spec: &Value) {
    let devices = child(spec, "devices");
    let at = at.child("devices");
    let mut seen = Vec::new();
    for (i, one) in list(out, &at, devices, "requests", REQUESTS_MAX).iter().enumerate() {
        let requests = at.child("requests");
        let at = requests.index(i);
        let name = text(one, "name");
        required_name(out, &at.child("name"), name, names::dns1123_label);
        unique(out, &at.child("name"), &mut seen, name);
        request(out, &at, one);
    }
    let known = names_of(devices);
    for (i, one) in list(out, &at, devices, "constraints", CONSTRAINTS_MAX).iter().enumerate() {
        let constraints = at.child("constraints");
        constraint(out, &constraints.index(i), one, &known);
    }
    for (i, one) in list(out, &at, devices, "config", CONFIG_MAX).iter().enumerate() {
        let config = at.child("config");
        let at = config.index(i);
        references(out, &at, one, &known);
        opaque(out, &at.child("opaque"), child(one, "opaque"));
    }
}

fn constraint(out: &mut Out, at: Path, one: &Value, known: &[String]) {
    references(out, at, one, known);
    let kinds = ["matchAttribute", "distinctAttribute"];
    let set: Vec<&str> = kinds.into_iter().filter(|kind| has(one, kind)).collect();
    match set[..] {
        [kind] => fully_qualified(out, &at.child(kind), text(one, kind)),
        [] => out.push(FieldError::required(at, "exactly one of `matchAttribute` or `distinctAttribute` is required")),
        _ => out.push(FieldError::invalid(
            at,
            one,
            "exactly one of `matchAttribute` or `distinctAttribute` is required, but multiple fields are set",
        )),
    }
}

/// `requests` of a constraint or configuration.
fn references(out: &mut Out, at: Path, holder: &Value, known: &[String]) {
    list(out, at, holder, "requests", REQUESTS_MAX);
    let at = at.child("requests");
    let mut seen: Vec<&str> = Vec::new();
    for (i, name) in texts(holder, "requests").enumerate() {
        let at = at.index(i);
        reference(out, &at, name, known);
        unique(out, &at, &mut seen, name);
    }
}

fn reference(out: &mut Out, at: Path, name: &str, known: &[String]) {
    if !known.iter().any(|known| known == name) {
        out.push(FieldError::invalid(
            at,
            name,
            "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'",
        ));
    }
}

fn request(out: &mut Out, at: Path, one: &Value) {
    match (has(one, "exactly"), items(one, "firstAvailable")) {
        (true, []) => exact(out, &at.child("exactly"), child(one, "exactly"), true),
        (false, []) => out.push(FieldError::required(at, "exactly one of `exactly` or `firstAvailable` is required")),
        (true, _) => out.push(FieldError::invalid(
            at,
            one,
            "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set",
        )),
        (false, _) => {
            let mut seen = Vec::new();
            for (i, sub) in list(out, at, one, "firstAvailable", ALTERNATIVES_MAX).iter().enumerate() {
                let all = at.child("firstAvailable");
                let at = all.index(i);
                let name = text(sub, "name");
                required_name(out, &at.child("name"), name, names::dns1123_label);
                unique(out, &at.child("name"), &mut seen, name);
                exact(out, &at, sub, false);
            }
        }
    }
}

fn exact(out: &mut Out, at: Path, request: &Value, may_be_admin: bool) {
    required_name(out, &at.child("deviceClassName"), text(request, "deviceClassName"), names::dns1123_subdomain);
    cel_selectors(out, at, request);
    let mode = text(request, "allocationMode");
    match mode {
        "ExactCount" => positive(out, &at.child("count"), Some(int(request, "count").unwrap_or(0))),
        "All" => {
            if int(request, "count").unwrap_or(0) != 0 {
                out.push(FieldError::invalid(
                    &at.child("count"),
                    int(request, "count").unwrap_or(0),
                    "must not be specified when allocationMode is 'All'",
                ));
            }
        }
        other => out.push(FieldError::not_supported(&at.child("allocationMode"), other, &["All", "ExactCount"])),
    }
    if !may_be_admin && has(request, "adminAccess") {
        out.push(FieldError::forbidden(&at.child("adminAccess"), "not allowed in subrequests"));
    }
    tolerations(out, at, request);
}

fn tolerations(out: &mut Out, at: Path, holder: &Value) {
    for (i, one) in list(out, at, holder, "tolerations", TOLERATIONS_MAX).iter().enumerate() {
        let all = at.child("tolerations");
        let at = all.index(i);
        let (key, operator, value) = (text(one, "key"), text(one, "operator"), text(one, "value"));
        if !key.is_empty() {
            invalid_all(out, &at.child("key"), key, names::qualified_name(key));
        }
        match operator {
            "Exists" if !value.is_empty() => {
                out.push(FieldError::invalid(&at.child("value"), value, "must be empty for operator `Exists`"))
            }
            "Exists" => {}
            "Equal" => invalid_all(out, &at.child("value"), value, names::label_value(value)),
            "" => out.push(FieldError::required(&at.child("operator"), "")),
            other => out.push(FieldError::not_supported(&at.child("operator"), other, &["Equal", "Exists"])),
        }
        if key.is_empty() && operator != "Exists" {
            out.push(FieldError::invalid(
                &at.child("operator"),
                operator,
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            ));
        }
        if has(one, "effect") {
            one_of(out, &at.child("effect"), text(one, "effect"), &["NoExecute", "NoSchedule"]);
        }
    }
}

fn cel_selectors(out: &mut Out, at: Path, holder: &Value) {
    for (i, one) in list(out, at, holder, "selectors", SELECTORS_MAX).iter().enumerate() {
        let all = at.child("selectors");
        let at = all.index(i);
        let cel = child(one, "cel");
        if cel.is_null() {
            out.push(FieldError::required(&at.child("cel"), ""));
        } else {
            required(out, &at.child("cel").child("expression"), text(cel, "expression"));
        }
    }
}

fn opaque(out: &mut Out, at: Path, opaque: &Value) {
    if opaque.is_null() {
        return out.push(FieldError::required(at, ""));
    }
    required_name(out, &at.child("driver"), text(opaque, "driver"), driver_name);
    let at = at.child("parameters");
    match opaque.get("parameters") {
        None | Some(Value::Null) => out.push(FieldError::required(&at, "")),
        Some(parameters @ Value::Object(_)) => {
            if parameters.to_string().len() > PARAMETERS_MAX {
                out.push(FieldError::too_long(&at, PARAMETERS_MAX));
            }
        }
        Some(_) => out.push(FieldError::invalid(&at, "<value omitted>", "must be a JSON object")),
    }
}

/// `domain/name` or a C identifier.
fn qualified(out: &mut Out, at: Path, name: &str) {
    let (domain, id) = name.split_once('/').map_or((None, name), |(domain, id)| (Some(domain), id));
    if let Some(domain) = domain {
        match domain {
            "" => out.push(FieldError::required(at, "the domain must not be empty")),
            _ if domain.len() > DOMAIN_MAX => out.push(FieldError::too_long(at, DOMAIN_MAX)),
            _ => invalid_all(out, at, domain, names::dns1123_subdomain(domain)),
        }
    }
    if id.is_empty() {
        out.push(FieldError::required(at, "the name must not be empty"));
    } else if id.len() > ID_MAX {
        out.push(FieldError::too_long(at, ID_MAX));
    } else if !names::is_c_identifier(id) {
        out.push(FieldError::invalid(
            at,
            id,
            names::regex_error("a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_'", "[A-Za-z_][A-Za-z0-9_]*", &["my_name", "MY_NAME", "MyName"]),
        ));
    }
}

/// The same with a domain in any case.
fn fully_qualified(out: &mut Out, at: Path, name: &str) {
    if name.is_empty() {
        return out.push(FieldError::required(at, "name required"));
    }
    if !name.contains('/') {
        return out.push(FieldError::invalid(at, name, "must include a domain"));
    }
    qualified(out, at, name);
}

pub(super) fn class(out: &mut Out, object: &Value) {
    let at = FieldPath::root("spec");
    let spec = child(object, "spec");
    cel_selectors(out, &at, spec);
    for (i, one) in list(out, &at, spec, "config", CONFIG_MAX).iter().enumerate() {
        let config = at.child("config");
        opaque(out, &config.index(i).child("opaque"), child(one, "opaque"));
    }
    let name = text(spec, "extendedResourceName");
    let foreign = name.split_once('/').is_some_and(|(domain, _)| {
        domain != "kubernetes.io" && !domain.ends_with(".kubernetes.io") && !name.starts_with("requests.")
    });
    if has(spec, "extendedResourceName") && !(foreign && names::qualified_name(name).is_empty()) {
        out.push(FieldError::invalid(
            &at.child("extendedResourceName"),
            name,
            "must be a valid extended resource name",
        ));
    }
}
