//! The one place where the rules of kinds (defaults, validation) are asked for.

use caravel_api::defaults;
use caravel_api::field::FieldError;
use caravel_api::kinds::Kind;
use caravel_api::schema::apply_defaults;
use serde_json::Value;

/// Fills in what was left out.
pub fn default(kind: &Kind, object: &mut Value) {
    if kind.is_custom() {
        apply_defaults(kind.schema().root(), object);
    } else {
        defaults::apply(kind, object);
    }
}

/// What a new object breaks.
pub fn validate_create(_kind: &Kind, _object: &Value) -> Vec<FieldError> {
    vec![]
}

/// What a changed object breaks.
pub fn validate_update(_kind: &Kind, _new: &Value, _old: &Value) -> Vec<FieldError> {
    vec![]
}

/// What a changed status breaks.
pub fn validate_status(_kind: &Kind, _new: &Value, _old: &Value) -> Vec<FieldError> {
    vec![]
}
