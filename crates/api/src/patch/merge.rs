//! JSON Merge Patch, RFC 7386: objects merge, null deletes, anything else replaces.

use serde_json::{Map, Value};

/// Applies `patch` to `target`.
pub fn apply(target: Value, patch: Value) -> Value {
    let Value::Object(patch) = patch else { return patch };
    let mut object = match target {
        Value::Object(object) => object,
        _ => Map::new(),
    };
    for (key, value) in patch {
        if value.is_null() {
            object.remove(&key);
            continue;
        }
        let before = object.remove(&key).unwrap_or_default();
        object.insert(key, apply(before, value));
    }
    Value::Object(object)
}
