//! Values seen through their schema: which fields a value sets, what two values differ in, how two merge, and
//! taking fields out. (KEP-555; structured merge semantics: scalars, atomic lists and maps are leaves, lists
//! with keys and sets have elements that stand for themselves.)

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::ApplyError;
use super::fieldset::FieldSet;
use crate::schema::{ListType, Node, Type};

/// What two values differ in.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    pub added: FieldSet,
    pub modified: FieldSet,
    pub removed: FieldSet,
}

impl Comparison {
    pub fn is_same(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    fn add(&mut self, edge: &Edge<'_>, below: Comparison) {
        for (set, part) in
            [(&mut self.added, below.added), (&mut self.modified, below.modified), (&mut self.removed, below.removed)]
        {
            if !part.is_empty() {
                set.children.insert(edge.text(), part);
            }
        }
    }
}

/// Which fields of the two topmost levels are not looked at.
#[derive(Clone, Copy)]
pub(super) enum Filter<'a> {
    /// At the object itself; the dotted paths are those that the door does not write.
    Root(&'a [&'a str]),
    /// In the named top-level field.
    Inside(&'a [&'a str], &'a str),
    /// Deeper.
    Nothing,
}

/// Metadata that no manager manages: the server does.
const SYSTEM_METADATA: [&str; 9] = [
    "clusterName",
    "creationTimestamp",
    "generation",
    "managedFields",
    "name",
    "namespace",
    "resourceVersion",
    "selfLink",
    "uid",
];

impl<'a> Filter<'a> {
    fn skips(self, name: &str) -> bool {
        match self {
            Filter::Root(ignored) => matches!(name, "apiVersion" | "kind") || ignored.contains(&name),
            Filter::Inside(ignored, parent) => {
                (parent == "metadata" && SYSTEM_METADATA.contains(&name))
                    || ignored.iter().any(|path| path.split_once('.') == Some((parent, name)))
            }
            Filter::Nothing => false,
        }
    }

    fn below(self, name: &'a str) -> Filter<'a> {
        match self {
            Filter::Root(ignored) => Filter::Inside(ignored, name),
            _ => Filter::Nothing,
        }
    }
}

/// How a value is walked.
enum Shape<'a> {
    /// One value as a whole.
    Leaf,
    /// Named fields or keys, each on its own.
    Fields(Option<Node<'a>>),
    /// Elements found by key or value.
    Elements(Node<'a>),
}

/// The shape of a value. What the schema does not know is a leaf, as is anything of an unexpected type.
fn shape<'a>(node: Option<Node<'a>>, value: &Value) -> Shape<'a> {
    let Some(node) = node else { return Shape::Leaf };
    match (node.ty(), value) {
        (Type::Object | Type::Map, Value::Object(_)) if !node.is_atomic() => Shape::Fields(Some(node)),
        (Type::List, Value::Array(_)) if node.list_type() != ListType::Atomic => Shape::Elements(node),
        _ => Shape::Leaf,
    }
}

/// A path element before it is written down.
enum Edge<'a> {
    Field(&'a str),
    Element(String),
}

impl Edge<'_> {
    fn text(&self) -> String {
        match self {
            Edge::Field(name) => field_edge(name),
            Edge::Element(text) => text.clone(),
        }
    }
}

/// The written path element of a field.
fn field_edge(name: &str) -> String {
    let mut edge = String::with_capacity(name.len() + 2);
    edge.push_str("f:");
    edge.push_str(name);
    edge
}

/// The written path element of a list's element. Keys are in alphabetical order.
fn element_edge(node: Node<'_>, index: usize, item: &Value) -> Result<String, ApplyError> {
    let mut edge = String::with_capacity(32);
    if node.list_type() == ListType::Set {
        edge.push_str("v:");
        push_json(&mut edge, item);
        return Ok(edge);
    }
    edge.push_str("k:{");
    let declared = node.map_keys();
    let mut sorted: Vec<&str> = Vec::new();
    // One key, the most frequent case, needs no list.
    if declared.len() > 1 {
        sorted.extend(declared.iter().map(|k| &**k));
        sorted.sort_unstable();
    }
    for (at, declared) in declared.iter().enumerate() {
        let key = sorted.get(at).copied().unwrap_or(declared);
        let default = || node.element().and_then(|e| e.field(key)).and_then(Node::default);
        let Some(value) = item.get(key).or_else(default) else {
            return Err(ApplyError::Invalid(format!(
                "element {index}: associative list with keys has an element that omits key field {key:?} (and doesn't have default value)"
            )));
        };
        edge.push_str(if at == 0 { "\"" } else { ",\"" });
        edge.push_str(key);
        edge.push_str("\":");
        push_json(&mut edge, value);
    }
    edge.push('}');
    Ok(edge)
}

/// Appends a value's JSON text. Most keys are plain words.
fn push_json(out: &mut String, value: &Value) {
    match value {
        Value::String(text) if text.bytes().all(|b| b >= b' ' && b != b'"' && b != b'\\' && b < 0x7f) => {
            out.push('"');
            out.push_str(text);
            out.push('"');
        }
        other => out.push_str(&other.to_string()),
    }
}

/// The elements of a list by path element. A list that breaks its own rules (an element without its key) is
/// indexed by position, so that tracking never fails on what is stored already.
fn edges(node: Node<'_>, items: &[Value]) -> Vec<String> {
    let edge = |(index, item)| element_edge(node, index, item).unwrap_or_else(|_| format!("i:{index}"));
    items.iter().enumerate().map(edge).collect()
}

/// The fields that a value sets.
///
/// # Errors
/// An element of a list without its key, or two with the same.
pub(super) fn to_set(node: Option<Node<'_>>, value: &Value, filter: Filter<'_>) -> Result<FieldSet, ApplyError> {
    let mut set = FieldSet::default();
    match (shape(node, value), value) {
        (Shape::Fields(node), Value::Object(object)) => {
            for (name, value) in object.iter().filter(|(name, _)| !filter.skips(name)) {
                let below_node = node.and_then(|n| n.child(name));
                let mut below = to_set(below_node, value, filter.below(name))?;
                let named = node.is_some_and(|n| n.field(name).is_some());
                let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                below.member |= empty || !named;
                set.add(field_edge(name), below);
            }
        }
        (Shape::Elements(node), Value::Array(items)) => {
            for (index, item) in items.iter().enumerate() {
                let edge = element_edge(node, index, item)?;
                let mut below = to_set(node.element(), item, Filter::Nothing)?;
                below.member = true;
                if set.children.insert(edge.clone(), below).is_some() {
                    return Err(ApplyError::Invalid(format!("duplicate entries for key [{edge}]")));
                }
            }
        }
        _ => set.member = true,
    }
    Ok(set)
}

/// Every place of a value that is new as a whole.
fn all_of(node: Option<Node<'_>>, value: &Value, filter: Filter<'_>) -> FieldSet {
    let mut set = FieldSet::leaf();
    match (shape(node, value), value) {
        (Shape::Fields(node), Value::Object(object)) => {
            for (name, value) in object.iter().filter(|(name, _)| !filter.skips(name)) {
                let below = all_of(node.and_then(|n| n.child(name)), value, filter.below(name));
                set.children.insert(field_edge(name), below);
            }
        }
        (Shape::Elements(node), Value::Array(items)) => {
            for (edge, item) in edges(node, items).into_iter().zip(items) {
                set.children.insert(edge, all_of(node.element(), item, Filter::Nothing));
            }
        }
        _ => {}
    }
    set
}

/// What a new object sets, compared with the empty object of its kind: structs held by value and
/// lists that are always written are there already, so only what is in them counts.
pub(super) fn compare_with_empty(node: Option<Node<'_>>, value: &Value, filter: Filter<'_>) -> FieldSet {
    let mut set = FieldSet::default();
    let (Shape::Fields(node), Value::Object(object)) = (shape(node, value), value) else {
        return FieldSet::leaf();
    };
    for (name, value) in object.iter().filter(|(name, _)| !filter.skips(name)) {
        let below_node = node.and_then(|n| n.child(name));
        let filter = filter.below(name);
        let below = match below_node {
            Some(inner) if inner.is_value() => compare_with_empty(below_node, value, filter),
            Some(inner) if inner.is_required() && matches!(inner.ty(), Type::List | Type::Map) => {
                let mut below = all_of(below_node, value, filter);
                below.member = below.children.is_empty();
                below
            }
            Some(inner) if inner.is_required() && inner.default() == Some(value) => continue,
            _ => all_of(below_node, value, filter),
        };
        set.add(field_edge(name), below);
    }
    set
}

/// What `new` differs from `old` in.
pub(super) fn compare(node: Option<Node<'_>>, old: &Value, new: &Value, filter: Filter<'_>) -> Comparison {
    let mut found = Comparison::default();
    match (shape(node, old), old, shape(node, new), new) {
        (Shape::Fields(node), Value::Object(old), Shape::Fields(_), Value::Object(new)) => {
            for (name, before) in old.iter().filter(|(name, _)| !filter.skips(name)) {
                let filter = filter.below(name);
                let below_node = node.and_then(|n| n.child(name));
                let edge = Edge::Field(name);
                match new.get(name) {
                    Some(after) => found.add(&edge, compare(below_node, before, after, filter)),
                    None => {
                        found.removed.children.insert(edge.text(), all_of(below_node, before, filter));
                    }
                }
            }
            for (name, after) in new.iter().filter(|(name, _)| !old.contains_key(*name) && !filter.skips(name)) {
                let below_node = node.and_then(|n| n.child(name));
                found.added.children.insert(field_edge(name), all_of(below_node, after, filter.below(name)));
            }
        }
        (Shape::Elements(node), Value::Array(old), Shape::Elements(_), Value::Array(new)) => {
            compare_elements(node, old, new, &mut found);
        }
        _ if old != new => found.modified.member = true,
        _ => {}
    }
    found
}

fn compare_elements(node: Node<'_>, old: &[Value], new: &[Value], found: &mut Comparison) {
    // Most lists do not change; equal lists need no path elements.
    if old == new {
        return;
    }
    let old_edges = edges(node, old);
    let before: HashMap<&str, &Value> = old_edges.iter().map(|e| &**e).zip(old).collect();
    let new_edges = edges(node, new);
    let after: HashMap<&str, &Value> = new_edges.iter().map(|e| &**e).zip(new).collect();
    for (edge, item) in old_edges.iter().zip(old) {
        if !after.contains_key(&**edge) {
            found.removed.children.insert(edge.clone(), all_of(node.element(), item, Filter::Nothing));
        }
    }
    for (edge, item) in new_edges.iter().zip(new) {
        match before.get(&**edge) {
            Some(was) => found.add(&Edge::Element(edge.clone()), compare(node.element(), was, item, Filter::Nothing)),
            None => {
                found.added.children.insert(edge.clone(), all_of(node.element(), item, Filter::Nothing));
            }
        }
    }
}

/// Merges what a manager applies into the live value. Leaves of `applied` win.
pub(super) fn merge(node: Option<Node<'_>>, live: Value, applied: &Value) -> Value {
    match (shape(node, applied), live, applied) {
        (Shape::Fields(node), Value::Object(mut live), Value::Object(applied)) => {
            for (name, value) in applied {
                let below_node = node.and_then(|n| n.child(name));
                let merged = match live.remove(name) {
                    Some(before) => merge(below_node, before, value),
                    None => value.clone(),
                };
                live.insert(name.clone(), merged);
            }
            Value::Object(live)
        }
        (Shape::Elements(node), Value::Array(live), Value::Array(applied)) => {
            Value::Array(merge_elements(node, live, applied))
        }
        _ => applied.clone(),
    }
}

/// Elements in an order that keeps the applied order and, as far as that allows, the live one: an element
/// that only the live list has stays before the element that it stood before.
fn merge_elements(node: Node<'_>, live: Vec<Value>, applied: &[Value]) -> Vec<Value> {
    let live_edges = edges(node, &live);
    let applied_edges = edges(node, applied);
    let wanted: HashMap<&str, usize> = applied_edges.iter().enumerate().map(|(i, e)| (&**e, i)).collect();
    let mut shared: HashMap<&str, Value> = HashMap::new();
    let mut own: Vec<(usize, Value)> = Vec::new();
    // For each element that only the live list has: how many applied elements stand before it.
    let mut after = 0;
    for (edge, item) in live_edges.iter().zip(live) {
        match wanted.get(&**edge) {
            Some(at) => {
                after = after.max(at + 1);
                shared.entry(&**edge).or_insert(item);
            }
            None => own.push((after, item)),
        }
    }
    let mut own = own.into_iter().peekable();
    let mut merged = Vec::with_capacity(applied.len() + own.len());
    for (at, (edge, item)) in applied_edges.iter().zip(applied).enumerate() {
        while let Some((_, item)) = own.next_if(|(after, _)| *after <= at) {
            merged.push(item);
        }
        merged.push(match shared.remove(&**edge) {
            Some(before) => merge(node.element(), before, item),
            None => item.clone(),
        });
    }
    merged.extend(own.map(|(_, item)| item));
    merged
}

/// Takes the members of `set` out of a value. Containers that are not members stay, even when this
/// empties them: somebody else manages them.
pub(super) fn remove(node: Option<Node<'_>>, value: Value, set: &FieldSet) -> Value {
    if set.children.is_empty() {
        return value;
    }
    match (shape(node, &value), value) {
        (Shape::Fields(node), Value::Object(object)) => {
            let mut left = Map::new();
            for (name, value) in object {
                match set.children.get(format!("f:{name}").as_str()) {
                    None => {
                        left.insert(name, value);
                    }
                    Some(below) if below.member => {}
                    Some(below) => {
                        let value = remove(node.and_then(|n| n.child(&name)), value, below);
                        left.insert(name, value);
                    }
                }
            }
            Value::Object(left)
        }
        (Shape::Elements(node), Value::Array(items)) => {
            let edges = edges(node, &items);
            let mut left = Vec::with_capacity(items.len());
            for (edge, item) in edges.into_iter().zip(items) {
                match set.children.get(&edge) {
                    None => left.push(item),
                    Some(below) if below.member => {}
                    Some(below) => left.push(remove(node.element(), item, below)),
                }
            }
            Value::Array(left)
        }
        (_, value) => value,
    }
}
