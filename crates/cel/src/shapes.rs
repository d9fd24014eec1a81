//! Shapes from schemas: of custom resources as their definitions write them, and of built-in kinds.

use crate::types::{ANY, Field, Fields, ListKind, Shape, ShapeKind, escape};
use caravel_api::schema::{ListType, Node, Type};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Deepest nesting that shapes follow; what is below is not checked.
const MAX_DEPTH: usize = 64;
/// The same for built-in kinds, some of which contain themselves.
const MAX_BUILTIN_DEPTH: usize = 12;

/// The shape of an `openAPIV3Schema` (or a part of one); none when nothing is said of the type.
pub fn of_schema(schema: &Value, resource: bool) -> Option<Arc<Shape>> {
    schema_at(schema, resource, "object", 0)
}

fn number(schema: &Value, key: &str) -> Option<u64> {
    schema.get(key).and_then(Value::as_u64)
}

fn flag(schema: &Value, key: &str) -> bool {
    schema.get(key).and_then(Value::as_bool) == Some(true)
}

fn schema_at(schema: &Value, resource: bool, name: &str, depth: usize) -> Option<Arc<Shape>> {
    if depth > MAX_DEPTH {
        return Some(Arc::new(ANY.clone()));
    }
    if flag(schema, "x-kubernetes-int-or-string") {
        return Some(Arc::new(Shape::of(ShapeKind::IntOrString)));
    }
    let embedded = resource || flag(schema, "x-kubernetes-embedded-resource");
    let ty = schema.get("type").and_then(Value::as_str).unwrap_or_default();
    Some(Arc::new(match ty {
        "boolean" => Shape::of(ShapeKind::Bool),
        "integer" => Shape::of(ShapeKind::Int),
        "number" => Shape::of(ShapeKind::Double),
        "string" => string(schema),
        "array" => {
            let of = schema_at(schema.get("items")?, false, &format!("{name}.@idx"), depth + 1)?;
            Shape { kind: ShapeKind::List(of), max: number(schema, "maxItems"), list: list_kind(schema) }
        }
        "object" | "" if embedded || ty == "object" => object(schema, embedded, name, depth)?,
        _ => return None,
    }))
}

fn string(schema: &Value) -> Shape {
    let kind = match schema.get("format").and_then(Value::as_str).unwrap_or_default() {
        "byte" => ShapeKind::Bytes,
        "date" | "date-time" => ShapeKind::Timestamp,
        "duration" => ShapeKind::Duration,
        _ => ShapeKind::String,
    };
    let listed = schema.get("enum").and_then(Value::as_array);
    let longest = listed.and_then(|all| all.iter().filter_map(Value::as_str).map(|s| s.len() as u64).max());
    // A character may take four bytes.
    let stated = number(schema, "maxLength").map(|n| n.saturating_mul(4));
    Shape { kind, max: longest.or(stated), list: ListKind::Atomic }
}

fn list_kind(schema: &Value) -> ListKind {
    match schema.get("x-kubernetes-list-type").and_then(Value::as_str) {
        Some("set") => ListKind::Set,
        Some("map") => {
            let keys = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
            let keys = keys.into_iter().flatten().filter_map(Value::as_str);
            ListKind::Map(keys.filter_map(escape).collect())
        }
        _ => ListKind::Atomic,
    }
}

fn object(schema: &Value, resource: bool, name: &str, depth: usize) -> Option<Shape> {
    let properties = schema.get("properties").and_then(Value::as_object);
    if let Some(of) = schema.get("additionalProperties").filter(|a| a.is_object())
        && properties.is_none_or(|p| p.is_empty())
    {
        let of = schema_at(of, false, &format!("{name}.@elem"), depth + 1)?;
        return Some(Shape { kind: ShapeKind::Map(of), max: number(schema, "maxProperties"), list: ListKind::Atomic });
    }
    let required: Vec<&str> =
        schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let mut fields = BTreeMap::new();
    for (raw, child) in properties.into_iter().flatten() {
        let Some(escaped) = escape(raw) else { continue };
        let Some(shape) = schema_at(child, false, &format!("{name}.{escaped}"), depth + 1) else { continue };
        fields.insert(escaped, Field { name: raw.clone(), shape, required: required.contains(&raw.as_str()) });
    }
    if resource {
        for raw in ["apiVersion", "kind"] {
            let shape = Arc::new(Shape::of(ShapeKind::String));
            fields.insert(raw.to_owned(), Field { name: raw.to_owned(), shape, required: true });
        }
        let mut metadata = BTreeMap::new();
        for raw in ["name", "generateName"] {
            let shape = Arc::new(Shape { max: Some(253), ..Shape::of(ShapeKind::String) });
            metadata.insert(raw.to_owned(), Field { name: raw.to_owned(), shape, required: false });
        }
        let kind = ShapeKind::Object(Fields { name: format!("{name}.metadata"), fields: metadata });
        fields.insert(
            "metadata".to_owned(),
            Field { name: "metadata".to_owned(), shape: Arc::new(Shape::of(kind)), required: true },
        );
    }
    Some(Shape::of(ShapeKind::Object(Fields { name: name.to_owned(), fields })))
}

/// The shape of a built-in kind (or of a custom one, all metadata included), for checking admission policies.
pub fn of_kind(root: Node<'_>) -> Arc<Shape> {
    kind_at(root, "object", 0)
}

fn kind_at(node: Node<'_>, name: &str, depth: usize) -> Arc<Shape> {
    if depth > MAX_BUILTIN_DEPTH {
        return Arc::new(ANY.clone());
    }
    let kind = match node.ty() {
        Type::Bool => ShapeKind::Bool,
        Type::Int32 | Type::Int64 => ShapeKind::Int,
        Type::Double => ShapeKind::Double,
        // Admission sees objects as JSON: times and bytes are strings there.
        Type::String | Type::Bytes | Type::Time | Type::MicroTime | Type::Duration => ShapeKind::String,
        Type::IntOrString | Type::Quantity => ShapeKind::IntOrString,
        Type::List => match node.element() {
            Some(element) => ShapeKind::List(kind_at(element, &format!("{name}.@idx"), depth + 1)),
            None => ShapeKind::Any,
        },
        Type::Map => match node.element() {
            Some(element) => ShapeKind::Map(kind_at(element, &format!("{name}.@elem"), depth + 1)),
            None => ShapeKind::Any,
        },
        Type::Object if node.preserves_unknown() => ShapeKind::Any,
        Type::Object => {
            let fields = node.fields().map(|(raw, child)| {
                let shape = kind_at(child, &format!("{name}.{raw}"), depth + 1);
                (raw.to_owned(), Field { name: raw.to_owned(), shape, required: child.is_required() })
            });
            ShapeKind::Object(Fields { name: name.to_owned(), fields: fields.collect() })
        }
        _ => ShapeKind::Any,
    };
    let keys = node.map_keys().iter().map(|k| k.to_string()).collect();
    let list = match node.list_type() {
        ListType::Set => ListKind::Set,
        ListType::Map => ListKind::Map(keys),
        ListType::Atomic => ListKind::Atomic,
    };
    Arc::new(Shape { kind, max: None, list })
}
