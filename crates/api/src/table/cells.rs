//! Cells that several kinds share.

use super::duration::human_duration;
use crate::meta;
use crate::quantity::Quantity;
use jiff::Timestamp;
use serde_json::Value;

/// `metadata.name`.
pub(super) fn name(object: &Value) -> Value {
    meta::name(object).into()
}

/// The text at a path such as `/spec/type`; `""` when there is none.
pub(super) fn text<'a>(object: &'a Value, path: &str) -> &'a str {
    object.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

/// The text at a path, or `instead` when it is absent or empty.
pub(super) fn text_or<'a>(object: &'a Value, path: &str, instead: &'a str) -> &'a str {
    match text(object, path) {
        "" => instead,
        found => found,
    }
}

/// The whole number at a path; 0 when there is none.
pub(super) fn int(object: &Value, path: &str) -> i64 {
    object.pointer(path).and_then(Value::as_i64).unwrap_or(0)
}

/// The flag at a path; false when there is none.
pub(super) fn flag(object: &Value, path: &str) -> bool {
    object.pointer(path).and_then(Value::as_bool).unwrap_or(false)
}

/// The elements of the list at a path.
pub(super) fn list<'a>(object: &'a Value, path: &str) -> impl DoubleEndedIterator<Item = &'a Value> {
    object.pointer(path).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default().iter()
}

/// The number of elements (or members) at a path.
pub(super) fn count(object: &Value, path: &str) -> usize {
    match object.pointer(path) {
        Some(Value::Array(list)) => list.len(),
        Some(Value::Object(map)) => map.len(),
        _ => 0,
    }
}

/// The number or text at a path as text (an int-or-string, say), if there is one.
pub(super) fn scalar(object: &Value, path: &str) -> Option<String> {
    match object.pointer(path)? {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// The canonical quantity at a path; `"0"` when there is none.
pub(super) fn quantity(object: &Value, path: &str) -> String {
    object.pointer(path).and_then(|value| Quantity::from_value(value).ok()).unwrap_or_default().to_string()
}

/// How long ago an RFC 3339 time was: `5m`; `<unknown>` for none.
pub(super) fn since(time: &str, now: Timestamp) -> String {
    if time.is_empty() {
        return "<unknown>".into();
    }
    match seconds_between(time, now) {
        Some(seconds) => human_duration(seconds),
        None => "<invalid>".into(),
    }
}

/// Whole seconds from an RFC 3339 time to `now`, toward zero.
pub(super) fn seconds_between(time: &str, now: Timestamp) -> Option<i64> {
    let then: Timestamp = time.parse().ok()?;
    Some(now.duration_since(then).as_secs())
}

/// Time since creation.
pub(super) fn age(object: &Value, now: Timestamp) -> Value {
    since(meta::text(object, "creationTimestamp"), now).into()
}

/// Names and images of the containers of the template at a path, each joined by commas.
pub(super) fn containers(object: &Value, path: &str) -> (Value, Value) {
    let of = |field: &str| -> Value {
        let all: Vec<&str> = list(object, path).filter_map(|c| c.get(field)?.as_str()).collect();
        all.join(",").into()
    };
    (of("name"), of("image"))
}

/// A map of labels as `a=b,c=d`; `<none>` when empty.
pub(super) fn labels(object: &Value, path: &str) -> String {
    let map = object.pointer(path).and_then(Value::as_object);
    let parts: Vec<String> =
        map.into_iter().flatten().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
    if parts.is_empty() { "<none>".into() } else { parts.join(",") }
}

/// Up to `max` parts joined by commas, and how many more there are.
pub(super) fn some_of(parts: &[String], max: usize, none: &str) -> String {
    if parts.is_empty() {
        return none.into();
    }
    if parts.len() <= max {
        return parts.join(",");
    }
    format!("{} + {} more...", parts[..max].join(","), parts.len() - max)
}

/// The status condition of a type.
pub(super) fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    list(object, "/status/conditions").find(|one| one.get("type").and_then(Value::as_str) == Some(kind))
}

/// Whether the status condition of a type is `True`.
pub(super) fn condition_true(object: &Value, kind: &str) -> bool {
    condition(object, kind).is_some_and(|one| one.get("status").and_then(Value::as_str) == Some("True"))
}
