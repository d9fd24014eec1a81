//! Label selectors and node selectors inside objects.

use super::check::{Out, Path, child, invalid_all, items, map, text, texts};
use super::metadata;
use crate::field::FieldError;
use crate::names;
use serde_json::Value;

/// A `metav1.LabelSelector`.
pub(super) fn label_selector(out: &mut Out, at: Path, selector: &Value) {
    metadata::labels(out, &at.child("matchLabels"), map(selector, "matchLabels"));
    let list = at.child("matchExpressions");
    for (i, term) in items(selector, "matchExpressions").iter().enumerate() {
        let at = list.index(i);
        let values = items(term, "values").len();
        match text(term, "operator") {
            "In" | "NotIn" if values == 0 => out.push(FieldError::required(
                &at.child("values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            )),
            "Exists" | "DoesNotExist" if values > 0 => out.push(FieldError::forbidden(
                &at.child("values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            )),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => out.push(FieldError::invalid(&at.child("operator"), other, "not a valid selector operator")),
        }
        let key = text(term, "key");
        invalid_all(out, &at.child("key"), key, names::qualified_name(key));
        for (j, value) in texts(term, "values").enumerate() {
            invalid_all(out, &at.child("values").index(j), value, names::label_value(value));
        }
    }
}

/// Whether a `metav1.LabelSelector` has no terms.
pub(super) fn is_empty(selector: &Value) -> bool {
    map(selector, "matchLabels").is_none_or(|map| map.is_empty()) && items(selector, "matchExpressions").is_empty()
}

/// A `NodeSelector`: at least one term.
pub(super) fn node_selector(out: &mut Out, at: Path, selector: &Value) {
    let terms_at = at.child("nodeSelectorTerms");
    let terms = items(selector, "nodeSelectorTerms");
    if terms.is_empty() {
        out.push(FieldError::required(&terms_at, "must have at least one node selector term"));
    }
    for (i, term) in terms.iter().enumerate() {
        node_selector_term(out, &terms_at.index(i), term);
    }
}

/// One term of a node selector.
pub(super) fn node_selector_term(out: &mut Out, at: Path, term: &Value) {
    let list = at.child("matchExpressions");
    for (i, one) in items(term, "matchExpressions").iter().enumerate() {
        node_requirement(out, &list.index(i), one);
    }
    let list = at.child("matchFields");
    for (i, one) in items(term, "matchFields").iter().enumerate() {
        node_field(out, &list.index(i), one);
    }
}

fn node_requirement(out: &mut Out, at: Path, term: &Value) {
    let values = items(term, "values");
    match text(term, "operator") {
        "In" | "NotIn" => {
            if values.is_empty() {
                out.push(FieldError::required(
                    &at.child("values"),
                    "must be specified when `operator` is 'In' or 'NotIn'",
                ));
            }
        }
        "Exists" | "DoesNotExist" => {
            if !values.is_empty() {
                out.push(FieldError::forbidden(
                    &at.child("values"),
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                ));
            }
        }
        "Gt" | "Lt" => {
            if values.len() != 1 {
                out.push(FieldError::required(
                    &at.child("values"),
                    "must be specified single value when `operator` is 'Lt' or 'Gt'",
                ));
            }
        }
        other => out.push(FieldError::invalid(&at.child("operator"), other, "not a valid selector operator")),
    }
    let key = text(term, "key");
    invalid_all(out, &at.child("key"), key, names::qualified_name(key));
    for (i, value) in texts(term, "values").enumerate() {
        invalid_all(out, &at.child("values").index(i), value, names::label_value(value));
    }
}

fn node_field(out: &mut Out, at: Path, term: &Value) {
    let values = items(term, "values");
    match text(term, "operator") {
        "In" | "NotIn" => {
            if values.len() != 1 {
                out.push(FieldError::required(
                    &at.child("values"),
                    "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
                ));
            }
        }
        other => out.push(FieldError::invalid(&at.child("operator"), other, "not a valid selector operator")),
    }
    let key = text(term, "key");
    if key == "metadata.name" {
        for (i, value) in texts(term, "values").enumerate() {
            invalid_all(out, &at.child("values").index(i), value, names::dns1123_subdomain(value));
        }
    } else {
        out.push(FieldError::invalid(&at.child("key"), key, "not a valid field selector key"));
    }
}

/// `a=b` maps such as `spec.selector` of a Service.
pub(super) fn label_map(out: &mut Out, at: Path, holder: &Value, field: &str) {
    metadata::labels(out, &at.child(field), child(holder, field).as_object());
}
