//! The one place where the rules of kinds (defaults, validation) are asked for.

use crate::expressions;
use caravel_api::defaults;
use caravel_api::field::FieldError;
use caravel_api::kinds::Kind;
use caravel_api::validation;
use serde_json::Value;

/// Fills in what was left out.
pub fn default(kind: &Kind, object: &mut Value) {
    tidy(object);
    defaults::apply(kind, object);
}

/// Leaves out of the metadata what is empty: upstream writes no empty list or map there, so that a finalizer or owner that was the last
/// one takes its field with it.
fn tidy(object: &mut Value) {
    let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    for field in ["finalizers", "ownerReferences", "labels", "annotations"] {
        let empty = meta.get(field).is_some_and(|v| {
            v.is_null()
                || v.as_array().is_some_and(Vec::is_empty)
                || v.as_object().is_some_and(serde_json::Map::is_empty)
        });
        if empty {
            meta.remove(field);
        }
    }
}

/// What a new object breaks.
pub fn validate_create(kind: &Kind, object: &Value) -> Vec<FieldError> {
    let mut found = validation::create(kind, object);
    said_in_cel(kind, object, None, &mut found);
    found
}

/// What a changed object breaks, having come through the door `subresource`.
pub fn validate_update(kind: &Kind, subresource: &str, new: &Value, old: &Value) -> Vec<FieldError> {
    match subresource {
        // A Scale became a change of the spec.
        "" | "scale" => {
            let mut found = validation::update(kind, new, old);
            said_in_cel(kind, new, Some(old), &mut found);
            found
        }
        door => {
            let mut found = validation::update_subresource(kind, door, new, old);
            if kind.is_custom() {
                said_in_cel(kind, new, Some(old), &mut found);
            }
            found
        }
    }
}

/// Rules that custom resources state in CEL, and expressions that must compile.
fn said_in_cel(kind: &Kind, object: &Value, old: Option<&Value>, found: &mut Vec<FieldError>) {
    let more = if kind.is_custom() {
        expressions::custom::validate(kind, object, old, found)
    } else {
        expressions::check(kind, object, old)
    };
    found.extend(more);
}
