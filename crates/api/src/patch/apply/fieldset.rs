//! Sets of field paths and their `FieldsV1` form.
//!
//! A set is a tree whose edges are path elements in their written form: `f:name` a field, `k:{…}` the
//! element of a list with those key values, `v:…` the scalar of a set, `i:n` an index. `{}` below an edge says that
//! the place is a member; with children, a member also has `.`.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::schema::{Node, Type};

/// A set of paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    /// Whether the place itself is in the set.
    pub(super) member: bool,
    /// What is below it, by written path element.
    pub(super) children: BTreeMap<String, FieldSet>,
}

impl FieldSet {
    /// The set of one place, the root of the tree.
    pub(super) fn leaf() -> FieldSet {
        FieldSet { member: true, children: BTreeMap::new() }
    }

    /// Whether no path is in the set.
    pub fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }

    /// Adds what is below an edge; an empty set adds nothing.
    pub(super) fn add(&mut self, edge: String, below: FieldSet) {
        if !below.is_empty() {
            self.children.insert(edge, below);
        }
    }

    /// Paths of either.
    pub(super) fn union(mut self, other: FieldSet) -> FieldSet {
        self.member |= other.member;
        for (edge, below) in other.children {
            let merged = match self.children.remove(&edge) {
                Some(mine) => mine.union(below),
                None => below,
            };
            self.children.insert(edge, merged);
        }
        self
    }

    /// Paths of this one that are not in the other.
    pub(super) fn difference(mut self, other: &FieldSet) -> FieldSet {
        self.member &= !other.member;
        for (edge, theirs) in &other.children {
            if let Some(mine) = self.children.remove(edge) {
                self.add(edge.clone(), mine.difference(theirs));
            }
        }
        self
    }

    /// Paths of both.
    pub(super) fn intersection(&self, other: &FieldSet) -> FieldSet {
        let mut both = FieldSet { member: self.member && other.member, children: BTreeMap::new() };
        for (edge, mine) in &self.children {
            if let Some(theirs) = other.children.get(edge) {
                both.add(edge.clone(), mine.intersection(theirs));
            }
        }
        both
    }

    /// The set with the structs that hold its members: who owns a field of `spec` owns `spec`.
    pub(super) fn with_structs(mut self, node: Option<Node<'_>>) -> FieldSet {
        self.children = std::mem::take(&mut self.children)
            .into_iter()
            .map(|(edge, below)| {
                let child = child(node, &edge);
                let mut below = below.with_structs(child);
                let named = edge.strip_prefix("f:").is_some_and(|name| node.is_some_and(|n| n.field(name).is_some()));
                below.member |= named && !below.children.is_empty();
                (edge, below)
            })
            .collect();
        self
    }

    /// The `FieldsV1` form.
    pub fn to_value(self) -> Value {
        let mut out = Map::new();
        if self.member && !self.children.is_empty() {
            out.insert(".".to_owned(), Value::Object(Map::new()));
        }
        for (edge, below) in self.children {
            out.insert(edge, below.to_value());
        }
        Value::Object(out)
    }

    /// Reads the `FieldsV1` form. Keys of path elements are brought into one order. `None` for anything that
    /// is not that form.
    pub fn from_value(value: &Value) -> Option<FieldSet> {
        let object = value.as_object()?;
        let mut set = FieldSet::default();
        for (edge, below) in object {
            if edge == "." {
                continue;
            }
            set.children.insert(canonical_edge(edge)?, Self::below(below)?);
        }
        Some(set)
    }

    fn below(value: &Value) -> Option<FieldSet> {
        let object = value.as_object()?;
        let mut set = Self::from_value(value)?;
        set.member = object.is_empty() || object.contains_key(".");
        Some(set)
    }

    /// Every path in the form that messages show: `.spec.containers[name="a"].image`.
    pub(super) fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.collect(&mut String::new(), &mut out);
        out
    }

    fn collect(&self, path: &mut String, out: &mut Vec<String>) {
        if self.member {
            out.push(path.clone());
        }
        for (edge, below) in &self.children {
            let length = path.len();
            path.push_str(&show(edge));
            below.collect(path, out);
            path.truncate(length);
        }
    }
}

/// The schema below an edge.
fn child<'a>(node: Option<Node<'a>>, edge: &str) -> Option<Node<'a>> {
    let node = node?;
    match edge.strip_prefix("f:") {
        Some(name) => node.child(name),
        None if node.ty() == Type::List => node.element(),
        None => None,
    }
}

fn canonical_edge(edge: &str) -> Option<String> {
    match edge.split_once(':')? {
        // Several keys may come in another order; a serde_json object sorts them.
        ("k", keys) if keys.contains(',') => {
            let keys: Map<String, Value> = serde_json::from_str(keys).ok()?;
            Some(format!("k:{}", Value::Object(keys)))
        }
        ("f" | "k" | "v" | "i", _) => Some(edge.to_owned()),
        _ => None,
    }
}

fn show(edge: &str) -> String {
    match edge.split_once(':') {
        Some(("f", name)) => format!(".{name}"),
        Some(("i", index)) => format!("[{index}]"),
        Some(("v", value)) => format!("[={value}]"),
        Some(("k", keys)) => match serde_json::from_str::<Map<String, Value>>(keys) {
            Ok(keys) => {
                let keys: Vec<String> = keys.iter().map(|(k, v)| format!("{k}={v}")).collect();
                format!("[{}]", keys.join(","))
            }
            Err(_) => format!("[{keys}]"),
        },
        _ => edge.to_owned(),
    }
}
