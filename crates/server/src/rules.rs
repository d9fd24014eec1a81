//! The one place where the rules of kinds (defaults, validation) are asked for.

use crate::expressions;
use caravel_api::defaults;
use caravel_api::field::FieldError;
use caravel_api::kinds::Kind;
use caravel_api::validation;
use serde_json::Value;

/// Fills in what was left out.
pub fn default(kind: &Kind, object: &mut Value) {
    defaults::apply(kind, object);
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
        // The server's own change: the body was checked by itself.
        "binding" => vec![],
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
