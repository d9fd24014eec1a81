//! Lists of a strategic merge patch: merging, deleting, ordering.

use serde_json::Value;

use super::{DIRECTIVE, Object, merge_object, without_directives};
use crate::patch::PatchError;
use crate::schema::Node;

/// Merges a patch's list into the original one.
pub(super) fn merge(node: Option<Node<'_>>, original: Vec<Value>, patch: Vec<Value>) -> Result<Vec<Value>, PatchError> {
    let objects = original.iter().chain(&patch).any(Value::is_object);
    let before = original.clone();
    let order = patch.clone();
    let merged = match objects {
        false => merge_scalars(original, patch),
        true => merge_objects(node, original, patch)?,
    };
    in_order(node, merged, &order, &before)
}

/// Scalars merge as a set: what is there stays, what is new follows.
fn merge_scalars(original: Vec<Value>, patch: Vec<Value>) -> Vec<Value> {
    let mut merged: Vec<Value> = Vec::with_capacity(original.len() + patch.len());
    for item in original.into_iter().chain(patch) {
        if !merged.contains(&item) {
            merged.push(item);
        }
    }
    merged
}

fn merge_objects(
    node: Option<Node<'_>>,
    mut original: Vec<Value>,
    patch: Vec<Value>,
) -> Result<Vec<Value>, PatchError> {
    let key = merge_key(node)?;
    let element = node.and_then(Node::element);
    let mut changes = Vec::with_capacity(patch.len());
    let mut replace = false;
    for item in patch {
        let Value::Object(mut item) = item else {
            return Err(PatchError::Malformed(format!("a list of objects merges with objects, not with {item}")));
        };
        match item.remove(DIRECTIVE) {
            None => changes.push(item),
            Some(directive) => match directive.as_str() {
                Some("delete") => {
                    let value = key_of(&item, key)?.clone();
                    original.retain(|other| other.get(key) != Some(&value));
                }
                Some("replace") => {
                    replace = true;
                    // The marker may stand alone or in an element with content.
                    if !item.is_empty() {
                        changes.push(item);
                    }
                }
                Some("merge") => changes.push(item),
                _ => return Err(PatchError::Malformed(format!("unknown patch type: {directive} in list"))),
            },
        }
    }
    if replace {
        return Ok(changes.into_iter().map(|item| without_directives(item).into()).collect());
    }
    for item in changes {
        let value = key_of(&item, key)?;
        match original.iter().position(|other| other.get(key) == Some(value)) {
            Some(at) => {
                let before = match std::mem::take(&mut original[at]) {
                    Value::Object(before) => before,
                    _ => Object::new(),
                };
                original[at] = merge_object(element, before, item)?.into();
            }
            None => original.push(merge_object(element, Object::new(), item)?.into()),
        }
    }
    Ok(original)
}

fn merge_key<'a>(node: Option<Node<'a>>) -> Result<&'a str, PatchError> {
    node.and_then(Node::merge_key).ok_or_else(|| {
        let name = node.map(Node::type_name).unwrap_or_default();
        PatchError::Malformed(format!("cannot merge lists without merge key for type {name}"))
    })
}

fn key_of<'v>(item: &'v Object, key: &str) -> Result<&'v Value, PatchError> {
    item.get(key).ok_or_else(|| {
        let item = Value::Object(item.clone());
        PatchError::Malformed(format!("map: {item} does not contain declared merge key: {key}"))
    })
}

/// Checks that the order names every element that the patch changes, in the order of the patch.
pub(super) fn check_order(node: Option<Node<'_>>, order: &[Value], changes: &[Value]) -> Result<(), PatchError> {
    let same = sameness(node, order, changes);
    let mut from = 0;
    for item in changes.iter().filter(|item| item.get(DIRECTIVE).is_none()) {
        match order[from..].iter().position(|o| same(o, item)) {
            Some(at) => from += at + 1,
            None => {
                return Err(PatchError::Malformed(format!(
                    "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}",
                    Value::from(changes.to_vec()),
                    Value::from(order.to_vec())
                )));
            }
        }
    }
    Ok(())
}

/// How elements are known to be the same: objects by merge key, scalars by value.
fn sameness<'a>(node: Option<Node<'a>>, some: &[Value], others: &[Value]) -> impl Fn(&Value, &Value) -> bool + use<'a> {
    let objects = some.iter().chain(others).any(Value::is_object);
    let key = if objects { node.and_then(Node::merge_key) } else { None };
    move |a: &Value, b: &Value| match key {
        Some(key) => a.get(key).is_some() && a.get(key) == b.get(key),
        None => a == b,
    }
}

/// Orders a merged list. Elements that the writer names stand in the writer's order; the others keep
/// their place before the named elements that they stood before in `before`.
pub(super) fn in_order(
    node: Option<Node<'_>>,
    merged: Vec<Value>,
    order: &[Value],
    before: &[Value],
) -> Result<Vec<Value>, PatchError> {
    let same = sameness(node, &merged, order);
    let place = |list: &[Value], item: &Value| list.iter().position(|other| same(other, item));
    let (mut named, mut others): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|item| place(order, item).is_some());
    named.sort_by_key(|item| place(order, item));
    others.sort_by_key(|item| place(before, item).unwrap_or(usize::MAX));
    let mut result = Vec::with_capacity(named.len() + others.len());
    let mut named = named.into_iter().peekable();
    let mut others = others.into_iter().peekable();
    loop {
        let other_first = match (others.peek(), named.peek()) {
            (Some(other), Some(one)) => {
                matches!((place(before, other), place(before, one)), (Some(a), Some(b)) if a < b)
            }
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (None, None) => return Ok(result),
        };
        let next = if other_first { others.next() } else { named.next() };
        result.extend(next);
    }
}
