//! Strategic merge patch: a merge patch that knows from the schema which lists are sets or maps.
//!
//! Lists whose strategy is `merge` merge element by element, found by the merge key (objects) or by
//! value (scalars); all other lists are replaced. Directives in the patch say what plain merging
//! cannot:
//!
//! - `$patch: replace` in a map replaces the map, `$patch: delete` empties it; as an element of a
//!   merging list they replace the list, or delete the element with the same merge key;
//! - `$retainKeys: [a, b]` drops every other key of the map;
//! - `$deleteFromPrimitiveList/f: [x]` takes scalars out of list `f`;
//! - `$setElementOrder/f: […]` gives the order of the elements of list `f` that the writer knows; elements
//!   that only the server knows keep their places relative to their neighbours.
//!
//! (API concepts, "Strategic merge patch"; directive semantics as `kubectl apply` relies on them.)

mod list;

use serde_json::{Map, Value};

use super::PatchError;
use crate::schema::{Node, PatchStrategy, Type};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_PREFIX: &str = "$deleteFromPrimitiveList/";
const ORDER_PREFIX: &str = "$setElementOrder/";

type Object = Map<String, Value>;

/// Applies `patch` to `original`; `node` is the schema of the whole object.
///
/// # Errors
/// [`PatchError::Malformed`] for unknown directives, elements without their merge key, and directives of
/// the wrong type.
pub fn apply(node: Node<'_>, original: Value, patch: Value) -> Result<Value, PatchError> {
    let Value::Object(patch) = patch else {
        return Err(PatchError::Malformed("a strategic merge patch is an object".to_owned()));
    };
    let original = match original {
        Value::Object(original) => original,
        _ => Object::new(),
    };
    merge_object(Some(node), original, patch).map(Value::Object)
}

fn merge_object(node: Option<Node<'_>>, mut original: Object, mut patch: Object) -> Result<Object, PatchError> {
    if let Some(directive) = patch.remove(DIRECTIVE) {
        return match directive.as_str() {
            Some("replace") => Ok(without_directives(patch)),
            Some("delete") => Ok(Object::new()),
            Some("merge") => merge_object(node, original, patch),
            _ => Err(PatchError::Malformed(format!("unknown patch type: {directive} in map"))),
        };
    }
    if let Some(keys) = patch.remove(RETAIN_KEYS) {
        retain_keys(&mut original, &patch, &keys)?;
    }
    set_element_orders(node, &mut original, &mut patch)?;
    for (key, value) in patch {
        if let Some(field) = key.strip_prefix(DELETE_PREFIX) {
            delete_scalars(&mut original, field, &value)?;
            continue;
        }
        let child = node.and_then(|n| n.child(&key));
        match merge_value(child, original.remove(&key), value)? {
            Some(value) => original.insert(key, value),
            None => None,
        };
    }
    Ok(original)
}

/// The merge of one field; `None` deletes it.
fn merge_value(node: Option<Node<'_>>, original: Option<Value>, patch: Value) -> Result<Option<Value>, PatchError> {
    let strategy = node.map(strategy).unwrap_or_default();
    Ok(Some(match (original, patch) {
        (_, Value::Null) => return Ok(None),
        (Some(Value::Object(original)), Value::Object(patch)) if !strategy.replace => {
            merge_object(node, original, patch)?.into()
        }
        (Some(Value::Array(original)), Value::Array(patch)) if strategy.merge => {
            list::merge(node, original, patch)?.into()
        }
        // Nothing to merge with: lists whose elements carry directives still obey them.
        (_, Value::Array(patch)) if strategy.merge => list::merge(node, Vec::new(), patch)?.into(),
        (None, Value::Object(patch)) if patch.contains_key(DIRECTIVE) => {
            merge_object(node, Object::new(), patch)?.into()
        }
        (_, patch) => plain(patch),
    }))
}

/// The patch strategy of a place. A list that the schema says nothing about is replaced.
fn strategy(node: Node<'_>) -> PatchStrategy {
    match node.ty() {
        Type::List | Type::Map | Type::Object => node.patch_strategy(),
        _ => PatchStrategy::default(),
    }
}

/// A value of the patch taken over as it is: without nulls and without directives.
fn plain(value: Value) -> Value {
    match value {
        Value::Object(object) => without_directives(object).into(),
        Value::Array(items) => items
            .into_iter()
            .filter(|item| item.get(DIRECTIVE).is_none_or(|d| d != "delete"))
            .map(plain)
            .collect::<Vec<_>>()
            .into(),
        other => other,
    }
}

fn without_directives(object: Object) -> Object {
    let is_directive = |key: &str| {
        key == DIRECTIVE || key == RETAIN_KEYS || key.starts_with(DELETE_PREFIX) || key.starts_with(ORDER_PREFIX)
    };
    object
        .into_iter()
        .filter(|(key, value)| !value.is_null() && !is_directive(key))
        .map(|(key, value)| (key, plain(value)))
        .collect()
}

fn retain_keys(original: &mut Object, patch: &Object, keys: &Value) -> Result<(), PatchError> {
    let malformed = || PatchError::Malformed(format!("{RETAIN_KEYS} must be a list of field names, is {keys}"));
    let keys = keys.as_array().ok_or_else(malformed)?;
    let keep: Vec<&str> = keys.iter().map(Value::as_str).collect::<Option<_>>().ok_or_else(malformed)?;
    let named = |key: &str| {
        key.strip_prefix(DELETE_PREFIX).or_else(|| key.strip_prefix(ORDER_PREFIX)).unwrap_or(key).to_owned()
    };
    if let Some(extra) = patch.keys().find(|key| !keep.contains(&named(key).as_str())) {
        return Err(PatchError::Malformed(format!(
            "{RETAIN_KEYS} must name every field that the patch has; it does not name {extra:?}"
        )));
    }
    original.retain(|key, _| keep.contains(&key.as_str()));
    Ok(())
}

fn delete_scalars(original: &mut Object, field: &str, values: &Value) -> Result<(), PatchError> {
    let values = values
        .as_array()
        .ok_or_else(|| PatchError::Malformed(format!("{DELETE_PREFIX}{field} must be a list, is {values}")))?;
    if let Some(Value::Array(items)) = original.get_mut(field) {
        items.retain(|item| !values.contains(item));
    }
    Ok(())
}

/// Carries out every `$setElementOrder/f`, together with the patch of `f` itself.
fn set_element_orders(node: Option<Node<'_>>, original: &mut Object, patch: &mut Object) -> Result<(), PatchError> {
    let orders: Vec<String> = patch.keys().filter(|key| key.starts_with(ORDER_PREFIX)).cloned().collect();
    for directive in orders {
        let field = directive[ORDER_PREFIX.len()..].to_owned();
        let Some(Value::Array(order)) = patch.remove(&directive) else {
            return Err(PatchError::Malformed(format!("{directive} must be a list")));
        };
        let child = node.and_then(|n| n.child(&field));
        let changes = match patch.remove(&field) {
            None => Vec::new(),
            Some(Value::Array(changes)) => changes,
            // A null deletes the list, whatever its order.
            Some(other) => {
                patch.insert(field, other);
                continue;
            }
        };
        let before = match original.remove(&field) {
            Some(Value::Array(items)) => items,
            _ => Vec::new(),
        };
        list::check_order(child, &order, &changes)?;
        let merged = list::merge(child, before.clone(), changes)?;
        let ordered = list::in_order(child, merged, &order, &before)?;
        if !ordered.is_empty() || !before.is_empty() {
            original.insert(field, ordered.into());
        }
    }
    Ok(())
}
