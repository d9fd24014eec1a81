//! StorageVersionMigration, and lists of `meta/v1` conditions (upstream's `pkg/apis/storagemigration/validation`).

use super::check::*;
use crate::field::{FieldError, FieldPath};
use crate::names;
use serde_json::Value;

/// Bytes that a condition's reason and message may have.
const REASON_MAX: usize = 1024;
const MESSAGE_MAX: usize = 32 * 1024;
const REASON_RE: &str = "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?";

pub(super) fn migration(out: &mut Out, object: &Value) {
    let at = FieldPath::root("spec.resource");
    let resource = child(child(object, "spec"), "resource");
    let (group, plural) = (text(resource, "group"), text(resource, "resource"));
    if plural.is_empty() {
        out.push(FieldError::required(&at.child("resource"), "resource is required to be set"));
    } else {
        let wrong = names::dns1035_label(plural);
        if !wrong.is_empty() {
            out.push(FieldError::invalid(&at.child("resource"), plural, wrong.join(",")));
        }
    }
    let wrong = names::dns1123_subdomain(group);
    if !group.is_empty() && !wrong.is_empty() {
        out.push(FieldError::invalid(&at.child("group"), group, wrong.join(",")));
    }
}

pub(super) fn migration_update(out: &mut Out, new: &Value, old: &Value) {
    migration(out, new);
    immutable(out, &FieldPath::root("spec"), child(new, "spec"), child(old, "spec"));
}

pub(super) fn migration_status(out: &mut Out, new: &Value, old: &Value) {
    let at = FieldPath::root("status");
    let (now, was) = (child(new, "status"), child(old, "status"));
    let (revision, before) = (text(now, "resourceVersion"), text(was, "resourceVersion"));
    // The controller marks a migration as running before it knows the revision.
    if !revision.is_empty() && !is_resource_version(revision) {
        let why = format!("resource version is not well formed: {revision}");
        out.push(FieldError::invalid(&at.child("resourceVersion"), revision, why));
    }
    let list = at.child("conditions");
    conditions(out, &list, items(now, "conditions"));
    if !before.is_empty() && before != revision {
        out.push(FieldError::invalid(&at.child("resourceVersion"), revision, "field is immutable"));
    }
    let (succeeded, failed, running) = (is_true(now, "Succeeded"), is_true(now, "Failed"), is_true(now, "Running"));
    let wrong = [
        (succeeded && failed, "Both success and failed conditions cannot be true at the same time"),
        (succeeded && running, "Running condition cannot be true when success condition is true"),
        (failed && running, "Running condition cannot be true when failed condition is true"),
        (is_true(was, "Succeeded") && !succeeded, "Success condition cannot be set to false once it is true"),
        (is_true(was, "Failed") && !failed, "Failed condition cannot be set to false once it is true"),
    ];
    for (_, why) in wrong.iter().filter(|(broken, _)| *broken) {
        out.push(FieldError::invalid(&list, child(now, "conditions"), *why));
    }
}

fn is_true(status: &Value, kind: &str) -> bool {
    items(status, "conditions").iter().any(|one| text(one, "type") == kind && text(one, "status") == "True")
}

/// A positive whole number without leading zeros, however long (KEP-5504).
fn is_resource_version(revision: &str) -> bool {
    !revision.starts_with('0') && !revision.is_empty() && revision.bytes().all(|b| b.is_ascii_digit())
}

/// Conditions as every newer kind has them: each type once, said in full.
pub(super) fn conditions(out: &mut Out, list: Path, all: &[Value]) {
    let mut seen = vec![];
    for (i, one) in all.iter().enumerate() {
        let at = list.index(i);
        unique(out, &at.child("type"), &mut seen, text(one, "type"));
        condition(out, &at, one);
    }
}

fn condition(out: &mut Out, at: Path, one: &Value) {
    invalid_all(out, &at.child("type"), text(one, "type"), names::qualified_name(text(one, "type")));
    let status = text(one, "status");
    if !["False", "True", "Unknown"].contains(&status) {
        out.push(FieldError::not_supported(&at.child("status"), status, &["False", "True", "Unknown"]));
    }
    non_negative(out, &at.child("observedGeneration"), int(one, "observedGeneration"));
    if text(one, "lastTransitionTime").is_empty() {
        out.push(FieldError::required(&at.child("lastTransitionTime"), ""));
    }
    let (reason, path) = (text(one, "reason"), at.child("reason"));
    if reason.is_empty() {
        out.push(FieldError::required(&path, ""));
    } else {
        if !is_reason(reason) {
            let shape = "a condition reason must start with alphabetic character, optionally followed by a string of \
                         alphanumeric characters or '_,:', and must end with an alphanumeric character or '_'";
            let examples = ["my_name", "MY_NAME", "MyName", "ReasonA,ReasonB", "ReasonA:ReasonB"];
            out.push(FieldError::invalid(&path, reason, names::regex_error(shape, REASON_RE, &examples)));
        }
        if reason.len() > REASON_MAX {
            out.push(FieldError::too_long(&path, REASON_MAX));
        }
    }
    if text(one, "message").len() > MESSAGE_MAX {
        out.push(FieldError::too_long(&at.child("message"), MESSAGE_MAX));
    }
}

fn is_reason(reason: &str) -> bool {
    let word = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
    let bytes = reason.as_bytes();
    let inside = bytes.iter().all(|b| word(b) || matches!(b, b',' | b':'));
    inside && bytes.first().is_some_and(u8::is_ascii_alphabetic) && bytes.last().is_some_and(word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn said(check: impl Fn(&mut Out)) -> String {
        let mut out = Vec::new();
        check(&mut out);
        out.iter().map(|e| format!("{}: {}", e.field, e.body())).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn the_resource_is_named_and_stays() {
        let of = |group: &str, resource: &str| json!({"spec": {"resource": {"group": group, "resource": resource}}});
        let table = [
            ("example.com", "widgets", ""),
            ("", "pods", ""),
            ("", "", "spec.resource.resource: Required value: resource is required to be set"),
            ("", "pods/status", "spec.resource.resource: Invalid value: \"pods/status\": a DNS-1035 label"),
            ("Example", "pods", "spec.resource.group: Invalid value: \"Example\": a lowercase RFC 1123 subdomain"),
        ];
        for (group, resource, want) in table {
            let got = said(|out| migration(out, &of(group, resource)));
            assert!(got.starts_with(want) && got.is_empty() == want.is_empty(), "{group} {resource}: {got}");
        }
        let changed = said(|out| migration_update(out, &of("", "pods"), &of("", "secrets")));
        assert!(changed.starts_with("spec: Invalid value") && changed.ends_with("field is immutable"), "{changed}");
    }

    #[test]
    fn a_status_goes_one_way() {
        let condition = |kind: &str, status: &str| json!({"type": kind, "status": status, "reason": "R", "lastTransitionTime": "2026-01-01T00:00:00Z", "message": ""});
        let of = |revision: &str, conditions: &[(&str, &str)]| {
            let all: Vec<Value> = conditions.iter().map(|(kind, status)| condition(kind, status)).collect();
            json!({"status": {"resourceVersion": revision, "conditions": all}})
        };
        let (running, ended) = (("Running", "True"), ("Running", "False"));
        let table = [
            (of("", &[]), of("", &[running]), ""),
            (of("", &[]), of("12", &[running]), ""),
            (of("12", &[running]), of("12", &[ended, ("Succeeded", "True")]), ""),
            (of("12", &[running]), of("12", &[ended, ("Failed", "True")]), ""),
            (of("12", &[]), of("13", &[]), "status.resourceVersion: Invalid value: \"13\": field is immutable"),
            (of("12", &[]), of("", &[]), "status.resourceVersion: Invalid value: \"\": field is immutable"),
            (
                of("", &[]),
                of("x1", &[]),
                "status.resourceVersion: Invalid value: \"x1\": resource version is not well formed: x1",
            ),
            (of("", &[]), of("012", &[]), "not well formed: 012"),
            (of("", &[]), of("0", &[]), "not well formed: 0"),
            (of("1", &[]), of("1", &[("Succeeded", "True"), ("Failed", "True")]), "Both success and failed conditions"),
            (of("1", &[]), of("1", &[running, ("Succeeded", "True")]), "cannot be true when success condition is true"),
            (of("1", &[]), of("1", &[running, ("Failed", "True")]), "cannot be true when failed condition is true"),
            (
                of("1", &[("Succeeded", "True")]),
                of("1", &[("Succeeded", "False")]),
                "Success condition cannot be set to false",
            ),
            (of("1", &[("Failed", "True")]), of("1", &[]), "Failed condition cannot be set to false"),
            (of("1", &[]), of("1", &[running, running]), "status.conditions[1].type: Duplicate value: \"Running\""),
            (of("1", &[]), of("1", &[("Running", "Yes")]), "status.conditions[0].status: Unsupported value: \"Yes\""),
            (of("1", &[]), of("1", &[("", "True")]), "status.conditions[0].type: Invalid value"),
        ];
        for (i, (old, new, want)) in table.iter().enumerate() {
            let got = said(|out| migration_status(out, new, old));
            assert!(got.contains(want) && got.is_empty() == want.is_empty(), "{i}: {got}");
        }
        let mut bare = of("1", &[running]);
        bare["status"]["conditions"][0] = json!({"type": "Running", "status": "True", "reason": "no reason"});
        let got = said(|out| migration_status(out, &bare, &of("1", &[])));
        assert!(got.contains("conditions[0].lastTransitionTime: Required value"), "{got}");
        assert!(
            got.contains("conditions[0].reason: Invalid value: \"no reason\": a condition reason must start"),
            "{got}"
        );
        bare["status"]["conditions"][0]["reason"] = json!("");
        let got = said(|out| migration_status(out, &bare, &of("1", &[])));
        assert!(got.contains("conditions[0].reason: Required value"), "{got}");
    }

    #[test]
    fn reasons() {
        for good in ["A", "MyName", "my_name", "ReasonA,ReasonB", "ReasonA:ReasonB", "a_"] {
            assert!(is_reason(good), "{good}");
        }
        for bad in ["", "1a", "a:", "a b", "_a", "ä"] {
            assert!(!is_reason(bad), "{bad}");
        }
    }
}
