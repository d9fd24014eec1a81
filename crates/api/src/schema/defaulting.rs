//! Filling in what a schema says an unset field is.

use serde_json::{Map, Value};

use super::{Node, Type};

/// Sets defaults of a custom resource's schema (KEP-570: structural defaulting): from the outside in, wherever
/// the parent exists and the field does not, or is null where null is not allowed.
pub fn apply_defaults(node: Node<'_>, value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (name, child) in node.fields() {
                let Some(default) = child.default() else { continue };
                match map.get(name) {
                    None => {
                        map.insert(name.to_owned(), default.clone());
                    }
                    Some(Value::Null) if !child.is_nullable() => {
                        map.insert(name.to_owned(), default.clone());
                    }
                    Some(_) => {}
                }
            }
            for (name, child) in map.iter_mut() {
                let Some(node) = node.child(name) else { continue };
                apply_defaults(node, child);
            }
        }
        Value::Array(items) => {
            let Some(element) = node.element() else { return };
            for item in items {
                if item.is_null()
                    && !element.is_nullable()
                    && let Some(default) = element.default()
                {
                    *item = default.clone();
                }
                apply_defaults(element, item);
            }
        }
        _ => {}
    }
}

/// Writes what Go writes for unset fields that it always writes: `{}` for structs held by value,
/// `""` and `0` for required scalars, and declarative defaults; only inside objects that are there.
/// This is for built-in types: clients that check required fields (Python's) depend on it.
pub fn fill_zero_values(node: Node<'_>, value: &mut Value) {
    match value {
        Value::Object(map) => {
            if node.ty() == Type::Object {
                fill_object(node, map);
            }
            for (name, child) in map.iter_mut() {
                if let Some(node) = node.child(name) {
                    fill_zero_values(node, child);
                }
            }
        }
        Value::Array(items) => {
            let Some(element) = node.element() else { return };
            for item in items {
                fill_zero_values(element, item);
            }
        }
        _ => {}
    }
}

/// The same for one object, not for what is below it.
pub(crate) fn fill_object(node: Node<'_>, map: &mut Map<String, Value>) {
    for (name, zero) in node.zeros() {
        if !map.contains_key(name) {
            map.insert(name.to_owned(), zero.clone());
        }
    }
}
