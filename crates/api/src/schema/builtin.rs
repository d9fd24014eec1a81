//! The built-in types, read once from `types.tbl`.
//!
//! The table is text. A line that starts in the first column names a type, with `atomic` if its
//! values are replaced as a whole and `union=` if its fields exclude each other. The indented lines below it
//! are its fields: name, type, then in any order
//!
//! - `!` the field is required,
//! - `list=a,b` / `set` / `atomic` the list (or map) type with its keys,
//! - `patch=strategy[:key]` the strategic merge strategies and merge key,
//! - `plain` a scalar that Go holds by value and leaves out when it is zero,
//! - `value` a struct that Go holds by value, `default=JSON` the default,
//! - `#n[.n[.n]]` the protobuf field number, from the outside in where Go embeds structs or a list is a message of its own.
//!
//! A type is a scalar's name, a struct's name, `[]T` or `{}T`. The facts come from the published API
//! (OpenAPI extensions and protobuf definitions); tests hold the table against `k8s-openapi`.

use std::sync::OnceLock;

use serde_json::Value;

use crate::kinds::Str;

use super::arena::{Arena, Extra, Field, ListType, NodeData, NodeId, Object, PatchStrategy, Type, flags};

const TABLE: &str = include_str!("types.tbl");

/// The arena of all built-in types; laid out at the first call (about a millisecond).
pub(super) fn arena() -> &'static Arena {
    static ARENA: OnceLock<Arena> = OnceLock::new();
    ARENA.get_or_init(|| parse(TABLE))
}

/// Short names of all built-in types.
pub fn type_names() -> impl Iterator<Item = &'static str> {
    arena().roots.keys().map(|name| &**name)
}

fn parse(table: &'static str) -> Arena {
    let mut arena = Arena::default();
    // First all names, so that fields can refer to types that come later.
    for line in table.lines().filter(|l| !l.starts_with(' ') && !l.is_empty()) {
        let mut words = line.split(' ');
        let name = words.next().unwrap_or_default();
        let mut object = Object { name: name.into(), ..Object::default() };
        for word in words {
            match word.split_once('=') {
                Some(("union", text)) => object.union = Some(text.into()),
                _ => object.atomic |= word == "atomic",
            }
        }
        let object = arena.add_object(object);
        let node = arena.add(NodeData { object: Some(object), ..NodeData::new(Type::Object) });
        arena.roots.insert(name.into(), node);
    }
    let mut current = None;
    for line in table.lines() {
        match line.strip_prefix(' ') {
            None => current = arena.roots.get(line.split(' ').next().unwrap_or_default()).copied(),
            Some(line) => {
                let field = parse_field(&mut arena, line);
                if let Some(object) = current.and_then(|n| arena.nodes[n as usize].object) {
                    arena.objects[object as usize].fields.push(field);
                }
            }
        }
    }
    for object in &mut arena.objects {
        object.fields.sort_by(|a, b| a.name.cmp(&b.name));
    }
    for object in 0..arena.objects.len() {
        zeros(&mut arena, object as u32);
    }
    arena
}

/// Works out what the fields of a struct are when unset. Structs held by value cannot contain themselves,
/// so the recursion ends.
fn zeros(arena: &mut Arena, object: u32) -> Value {
    let mut zero = serde_json::Map::new();
    let mut found = Vec::new();
    let fields: Vec<(Str, NodeId)> =
        arena.objects[object as usize].fields.iter().map(|f| (f.name.clone(), f.node)).collect();
    for (index, (name, node)) in fields.into_iter().enumerate() {
        let data = arena.nodes[node as usize].clone();
        let Some(extra) = data.extra else { continue };
        let value = match (data.flags & flags::VALUE != 0, data.object) {
            (true, Some(inner)) => Some(zeros(arena, inner)),
            // What Go leaves out when it is zero is not written.
            _ => arena.extras[extra as usize].default.clone().filter(|_| data.flags & flags::PLAIN == 0),
        };
        if let Some(value) = value {
            arena.extras[extra as usize].zero = Some(value.clone());
            zero.insert(name.into_owned(), value);
            found.push(index as u32);
        }
    }
    arena.objects[object as usize].zeros = found;
    Value::Object(zero)
}

fn parse_field(arena: &mut Arena, line: &'static str) -> Field {
    let mut words = line.split(' ');
    let name = words.next().unwrap_or_default();
    let mut node = parse_type(arena, words.next().unwrap_or_default());
    let mut extra = Extra::default();
    let mut proto = [0; 3];
    for word in words {
        if word == "!" {
            node.flags |= flags::REQUIRED;
        } else if let Some(path) = word.strip_prefix('#') {
            for (slot, number) in proto.iter_mut().zip(path.split('.')) {
                *slot = number.parse().unwrap_or_default();
            }
        } else {
            attribute(word, &mut node, &mut extra);
        }
    }
    if extra.default.is_some() || extra.merge_key.is_some() || !extra.map_keys.is_empty() {
        node.extra = Some(arena.add_extra(extra));
    }
    Field { name: name.into(), node: arena.add(node), proto }
}

fn attribute(word: &'static str, node: &mut NodeData, extra: &mut Extra) {
    match word.split_once('=') {
        Some(("list", keys)) => {
            node.list_type = ListType::Map;
            node.flags |= flags::LIST_TYPE_SET;
            extra.map_keys = keys.split(',').map(Into::into).collect();
        }
        Some(("patch", text)) => {
            let (strategies, key) = text.split_once(':').unwrap_or((text, ""));
            node.strategy = PatchStrategy {
                merge: strategies.split('+').any(|s| s == "merge"),
                retain_keys: strategies.split('+').any(|s| s == "retainKeys"),
                replace: strategies.split('+').any(|s| s == "replace"),
            };
            extra.merge_key = (!key.is_empty()).then(|| key.into());
        }
        Some(("default", json)) => extra.default = serde_json::from_str(json).ok(),
        _ => match word {
            "set" => {
                node.list_type = ListType::Set;
                node.flags |= flags::LIST_TYPE_SET;
            }
            "atomic" => node.flags |= flags::ATOMIC | flags::LIST_TYPE_SET,
            "plain" => node.flags |= flags::PLAIN,
            "granular" => node.flags |= flags::GRANULAR,
            "value" => {
                node.flags |= flags::VALUE;
                extra.default = Some(Value::Object(serde_json::Map::new()));
            }
            _ => {}
        },
    }
}

fn parse_type(arena: &mut Arena, text: &'static str) -> NodeData {
    if let Some(inner) = text.strip_prefix("[]") {
        let element = element(arena, inner);
        return NodeData { element: Some(element), ..NodeData::new(Type::List) };
    }
    if let Some(inner) = text.strip_prefix("{}") {
        let element = element(arena, inner);
        return NodeData { element: Some(element), ..NodeData::new(Type::Map) };
    }
    let props = arena.roots.get("apiextensions.v1.JSONSchemaProps").copied();
    let ty = match text {
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "bool" => Type::Bool,
        "int32" => Type::Int32,
        "int64" => Type::Int64,
        "double" => Type::Double,
        "quantity" => Type::Quantity,
        "intstr" => Type::IntOrString,
        "time" => Type::Time,
        "microtime" => Type::MicroTime,
        "duration" => Type::Duration,
        "raw" => Type::Raw,
        "fields" => Type::Fields,
        "props|array" => return NodeData { element: props, ..NodeData::new(Type::PropsOrArray) },
        "props|bool" => return NodeData { element: props, ..NodeData::new(Type::PropsOrBool) },
        "props|strings" => return NodeData { element: props, ..NodeData::new(Type::PropsOrStrings) },
        name => match arena.roots.get(name) {
            Some(root) => return arena.nodes[*root as usize].clone(),
            None => Type::Json,
        },
    };
    NodeData::new(ty)
}

fn element(arena: &mut Arena, text: &'static str) -> NodeId {
    match arena.roots.get(text) {
        Some(root) => *root,
        None => {
            let node = parse_type(arena, text);
            arena.add(node)
        }
    }
}
