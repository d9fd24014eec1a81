//! Small pieces that all checks are made of.
//!
//! The objects have passed structural decoding, so a field that is there has the type of its schema;
//! a field that is absent reads as Go's zero value.

use crate::field::{FieldError, FieldPath, ShowValue};
use crate::names::Complaints;
use crate::quantity::Quantity;
use serde_json::{Map, Value};

/// Where checks put what they find.
pub(super) type Out = Vec<FieldError>;

pub(super) type Path<'a> = &'a FieldPath<'a>;

static NULL: Value = Value::Null;

/// The value of a field; null when it is absent.
pub(super) fn child<'a>(object: &'a Value, field: &str) -> &'a Value {
    object.get(field).unwrap_or(&NULL)
}

/// Whether a field is there and not null.
pub(super) fn has(object: &Value, field: &str) -> bool {
    object.get(field).is_some_and(|value| !value.is_null())
}

/// The text of a field; `""` when it has none.
pub(super) fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// The whole number of a field, if it has one.
pub(super) fn int(object: &Value, field: &str) -> Option<i64> {
    object.get(field).and_then(Value::as_i64)
}

/// The flag of a field; false when it has none.
pub(super) fn flag(object: &Value, field: &str) -> bool {
    object.get(field).and_then(Value::as_bool).unwrap_or(false)
}

/// The list of a field; empty when it has none.
pub(super) fn items<'a>(object: &'a Value, field: &str) -> &'a [Value] {
    object.get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The texts of a list of texts.
pub(super) fn texts<'a>(object: &'a Value, field: &str) -> impl Iterator<Item = &'a str> {
    items(object, field).iter().filter_map(Value::as_str)
}

/// The members of a map field; none when it has none.
pub(super) fn members<'a>(object: &'a Value, field: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    map(object, field).into_iter().flatten()
}

/// The map of a field.
pub(super) fn map<'a>(object: &'a Value, field: &str) -> Option<&'a Map<String, Value>> {
    object.get(field).and_then(Value::as_object)
}

/// Each complaint about a value as an error of its own.
pub(super) fn invalid_all(out: &mut Out, path: Path, value: &str, complaints: Complaints) {
    for why in complaints {
        out.push(FieldError::invalid(path, value, why));
    }
}

/// A text that must be there and pass a check.
pub(super) fn required_name(out: &mut Out, path: Path, value: &str, check: impl Fn(&str) -> Complaints) {
    if value.is_empty() {
        out.push(FieldError::required(path, ""));
    } else {
        invalid_all(out, path, value, check(value));
    }
}

/// A text that must be there.
pub(super) fn required(out: &mut Out, path: Path, value: &str) {
    if value.is_empty() {
        out.push(FieldError::required(path, ""));
    }
}

/// One of a set of words; an absent one is required.
pub(super) fn one_of(out: &mut Out, path: Path, value: &str, words: &[&str]) {
    if value.is_empty() {
        out.push(FieldError::required(path, ""));
    } else if !words.contains(&value) {
        out.push(FieldError::not_supported(path, value, words));
    }
}

/// One of a set of words, or absent.
pub(super) fn optional_one_of(out: &mut Out, path: Path, value: &str, words: &[&str]) {
    if !value.is_empty() && !words.contains(&value) {
        out.push(FieldError::not_supported(path, value, words));
    }
}

/// A number that, if there, is not below zero.
pub(super) fn non_negative(out: &mut Out, path: Path, value: Option<i64>) {
    if let Some(value) = value.filter(|value| *value < 0) {
        out.push(FieldError::invalid(path, value, "must be greater than or equal to 0"));
    }
}

/// A number that, if there, is above zero.
pub(super) fn positive(out: &mut Out, path: Path, value: Option<i64>) {
    if let Some(value) = value.filter(|value| *value <= 0) {
        out.push(FieldError::invalid(path, value, "must be greater than 0"));
    }
}

/// A number that, if there, lies within bounds.
pub(super) fn in_range(out: &mut Out, path: Path, value: Option<i64>, low: i64, high: i64) {
    if let Some(value) = value.filter(|value| !(low..=high).contains(value)) {
        out.push(FieldError::invalid(path, value, crate::names::range_error(low, high)));
    }
}

/// A field that an update may not change.
pub(super) fn immutable(out: &mut Out, path: Path, new: &Value, old: &Value) {
    if !same(new, old) {
        out.push(FieldError::invalid(path, new, "field is immutable"));
    }
}

/// Equality in which absent, null and empty lists and maps are the same (Go's semantic equality).
pub(super) fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let left = a.iter().all(|(key, value)| same(value, b.get(key).unwrap_or(&NULL)));
            left && b.iter().all(|(key, value)| a.contains_key(key) || empty(value))
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => a.iter().zip(b).all(|(a, b)| same(a, b)),
        _ => a == b || (empty(a) && empty(b)),
    }
}

fn empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

/// A quantity, with a complaint when it is none.
pub(super) fn quantity(out: &mut Out, path: Path, value: &Value) -> Option<Quantity> {
    match Quantity::from_value(value) {
        Ok(amount) => Some(amount),
        Err(why) => {
            out.push(FieldError::invalid(path, value, why.to_string()));
            None
        }
    }
}

/// A quantity that is not below zero.
pub(super) fn non_negative_quantity(out: &mut Out, path: Path, value: &Value) -> Option<Quantity> {
    let amount = quantity(out, path, value)?;
    if amount.is_negative() {
        out.push(FieldError::invalid(path, value, "must be greater than or equal to 0"));
    }
    Some(amount)
}

/// A port by number or by name.
pub(super) fn port_or_name(out: &mut Out, path: Path, value: &Value) {
    match value {
        Value::String(name) => invalid_all(out, path, name, crate::names::port_name(name)),
        other => {
            let number = other.as_i64().unwrap_or(0);
            for why in crate::names::port_number(number) {
                out.push(FieldError::invalid(path, number, why));
            }
        }
    }
}

/// An int-or-string that is a number ≥ 0 or a percentage.
pub(super) fn number_or_percent(out: &mut Out, path: Path, value: &Value) {
    match value {
        Value::String(text) => invalid_all(out, path, text, crate::names::percent(text)),
        other => non_negative(out, path, other.as_i64()),
    }
}

/// The whole percents of a percentage.
pub(super) fn percent_of(value: &Value) -> Option<i64> {
    value.as_str()?.strip_suffix('%')?.parse().ok()
}

/// A percentage may not exceed a hundred.
pub(super) fn at_most_100_percent(out: &mut Out, path: Path, value: &Value) {
    if percent_of(value).is_some_and(|percent| percent > 100) {
        out.push(FieldError::invalid(path, value, "must not be greater than 100%"));
    }
}

/// A value that occurred before is a duplicate.
pub(super) fn unique<T: PartialEq + ShowValue + Copy>(out: &mut Out, path: Path, seen: &mut Vec<T>, value: T) {
    if seen.contains(&value) {
        out.push(FieldError::duplicate(path, value));
    } else {
        seen.push(value);
    }
}

/// Whether an RFC 3339 time; times are compared as texts only when equal.
pub(super) fn is_time(text: &str) -> bool {
    text.parse::<jiff::Timestamp>().is_ok()
}
