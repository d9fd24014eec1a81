//! The one place where the rules of kinds (defaults, validation) are asked for.

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
    validation::create(kind, object)
}

/// What a changed object breaks, having come through the door `subresource`.
pub fn validate_update(kind: &Kind, subresource: &str, new: &Value, old: &Value) -> Vec<FieldError> {
    match subresource {
        // A Scale became a change of the spec.
        "scale" => validation::update(kind, new, old),
        // The server's own change: the body was checked by itself.
        "binding" => vec![],
        door => validation::update_subresource(kind, door, new, old),
    }
}
