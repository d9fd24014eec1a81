//! Requests that are answered and never stored: access reviews, token reviews, token requests, scales.

use super::check::{Out, child, has, int, items, non_negative, text};
use crate::field::{FieldError, FieldPath};
use serde_json::Value;

/// 2³² seconds: the longest life of a token.
const TOKEN_SECONDS_MAX: i64 = 1 << 32;

/// Checks an object that is posted for an answer. Objects of other kinds pass.
pub fn review(group: &str, kind: &str, object: &Value) -> Vec<FieldError> {
    let mut out = Vec::new();
    match (group, kind) {
        ("authorization.k8s.io", "SubjectAccessReview") => access(&mut out, object, true),
        ("authorization.k8s.io", "LocalSubjectAccessReview") => {
            access(&mut out, object, true);
            local(&mut out, object);
        }
        ("authorization.k8s.io", "SelfSubjectAccessReview") => access(&mut out, object, false),
        ("authentication.k8s.io", "TokenReview") if text(child(object, "spec"), "token").is_empty() => {
            out.push(FieldError::required(&FieldPath::root("spec.token"), ""));
        }
        ("authentication.k8s.io", "TokenRequest") => token_request(&mut out, object),
        ("autoscaling", "Scale") => {
            non_negative(&mut out, &FieldPath::root("spec.replicas"), int(child(object, "spec"), "replicas"));
        }
        _ => {}
    }
    out
}

fn access(out: &mut Out, object: &Value, of_other: bool) {
    let at = FieldPath::root("spec");
    let spec = child(object, "spec");
    match (has(spec, "resourceAttributes"), has(spec, "nonResourceAttributes")) {
        (true, true) => out.push(FieldError::invalid(
            &at.child("nonResourceAttributes"),
            child(spec, "nonResourceAttributes"),
            "cannot be specified in combination with resourceAttributes",
        )),
        (false, false) => out.push(FieldError::invalid(
            &at.child("resourceAttributes"),
            Value::Null,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )),
        _ => {}
    }
    if of_other && text(spec, "user").is_empty() && items(spec, "groups").is_empty() {
        out.push(FieldError::invalid(&at.child("user"), "", "at least one of user or group must be specified"));
    }
    let attributes = child(spec, "resourceAttributes");
    for selector in ["fieldSelector", "labelSelector"] {
        let found = child(attributes, selector);
        let both = !text(found, "rawSelector").is_empty() && !items(found, "requirements").is_empty();
        if both {
            let at = at.child("resourceAttributes");
            out.push(FieldError::invalid(
                &at.child(selector).child("rawSelector"),
                text(found, "rawSelector"),
                "may not specified at the same time as requirements",
            ));
        }
    }
}

/// The namespace in the path and the one asked about are one.
fn local(out: &mut Out, object: &Value) {
    let namespace = text(child(object, "metadata"), "namespace");
    let attributes = child(child(object, "spec"), "resourceAttributes");
    let asked = text(attributes, "namespace");
    let at = FieldPath::root("spec.resourceAttributes.namespace");
    if asked != namespace {
        out.push(FieldError::invalid(&at, asked, "must match metadata.namespace"));
    }
    if has(child(object, "spec"), "nonResourceAttributes") {
        out.push(FieldError::invalid(
            &FieldPath::root("spec.nonResourceAttributes"),
            child(child(object, "spec"), "nonResourceAttributes"),
            "disallowed on this kind of request",
        ));
    }
}

fn token_request(out: &mut Out, object: &Value) {
    let at = FieldPath::root("spec.expirationSeconds");
    let seconds = int(child(object, "spec"), "expirationSeconds").unwrap_or(3600);
    if seconds < 600 {
        out.push(FieldError::invalid(&at, seconds, "may not specify a duration less than 10 minutes"));
    } else if seconds > TOKEN_SECONDS_MAX {
        out.push(FieldError::invalid(&at, seconds, "may not specify a duration larger than 2^32 seconds"));
    }
}

#[cfg(test)]
mod tests {
    use super::review;
    use crate::field::aggregate;
    use serde_json::json;

    #[test]
    fn reviews() {
        let access = "SubjectAccessReview";
        let cases = [
            (access, json!({"spec": {"user": "u", "resourceAttributes": {}}}), ""),
            (
                access,
                json!({"spec": {"resourceAttributes": {}}}),
                "spec.user: Invalid value: \"\": at least one of user or group must be specified",
            ),
            (
                access,
                json!({"spec": {"user": "u"}}),
                "spec.resourceAttributes: Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified",
            ),
            (
                "LocalSubjectAccessReview",
                json!({"metadata": {"namespace": "n"}, "spec": {"user": "u", "resourceAttributes": {"namespace": "m"}}}),
                "spec.resourceAttributes.namespace: Invalid value: \"m\": must match metadata.namespace",
            ),
        ];
        for (kind, object, want) in cases {
            let errors = review("authorization.k8s.io", kind, &object);
            assert_eq!(if errors.is_empty() { String::new() } else { aggregate(&errors) }, want);
        }
        assert_eq!(
            review("authentication.k8s.io", "TokenRequest", &json!({"spec": {"expirationSeconds": 5}})).len(),
            1
        );
        assert_eq!(review("autoscaling", "Scale", &json!({"spec": {"replicas": -1}})).len(), 1);
    }
}
