//! Schemas of custom resources in documents: the definition's own, with the fields that every object has.

use serde_json::{Map, Value, json};

use super::Style;
use super::describe::Descriptions;
use crate::kinds::Kind;
use crate::schema::names;

/// Name of a component: the group reversed, then version and kind (`com.example.v1.CronTab`).
pub(super) fn component_name(kind: &Kind, name: &str) -> String {
    let mut parts: Vec<&str> = kind.group.split('.').collect();
    parts.reverse();
    format!("{}.{}.{name}", parts.join("."), kind.version)
}

/// The object and its list, by component name.
pub(super) fn components(
    kind: &Kind,
    schema: Option<Value>,
    style: Style,
    descriptions: &Descriptions,
) -> [(String, Value); 2] {
    let name = component_name(kind, &kind.kind);
    let mut object = match schema {
        Some(Value::Object(object)) if !object.is_empty() => object,
        _ => Map::from_iter([
            ("type".to_owned(), "object".into()),
            ("x-kubernetes-preserve-unknown-fields".to_owned(), true.into()),
        ]),
    };
    let open = object.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
    if style == Style::V2 {
        for_v2(&mut object);
    }
    let (api_version, kind_text) = (descriptions.of_any_object("apiVersion"), descriptions.of_any_object("kind"));
    let meta_text = descriptions.of_any_object("metadata");
    let reference = |name: &str| style.reference(&names::full(name));
    let meta = match style {
        Style::V3 => json!({"allOf": [{"$ref": reference("meta.v1.ObjectMeta")}], "description": meta_text}),
        Style::V2 => json!({"$ref": reference("meta.v1.ObjectMeta"), "description": meta_text}),
    };
    if style == Style::V2 && open {
        // Clients of version 2 take an object with any known fields for a closed one.
        object = Map::from_iter([("type".to_owned(), "object".into())]);
    } else if let Some(properties) = object.entry("properties").or_insert_with(|| json!({})).as_object_mut() {
        properties.insert("apiVersion".to_owned(), json!({"type": "string", "description": api_version}));
        properties.insert("kind".to_owned(), json!({"type": "string", "description": kind_text}));
        properties.insert("metadata".to_owned(), meta);
    }
    object.insert("x-kubernetes-group-version-kind".to_owned(), gvk(kind, &kind.kind));
    let list_meta = match style {
        Style::V3 => json!({"allOf": [{"$ref": reference("meta.v1.ListMeta")}], "description": LIST_META}),
        Style::V2 => json!({"$ref": reference("meta.v1.ListMeta"), "description": LIST_META}),
    };
    let list = json!({
        "description": format!("{} is a list of {}", kind.list_kind, kind.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string", "description": api_version},
            "kind": {"type": "string", "description": kind_text},
            "metadata": list_meta,
            "items": {"type": "array", "items": {"$ref": style.reference(&name)},
                "description": format!("The objects of kind {}.", kind.kind)},
        },
        "x-kubernetes-group-version-kind": gvk(kind, &kind.list_kind),
    });
    [(name, object.into()), (component_name(kind, &kind.list_kind), list)]
}

const LIST_META: &str = "Standard metadata of a list.";

fn gvk(kind: &Kind, name: &str) -> Value {
    json!([{"group": kind.group, "version": kind.version, "kind": name}])
}

/// Takes out what version 2 cannot say. Where a value may be of several types or null, version 2 says nothing of
/// it, so that clients of that version do not refuse what the server accepts.
fn for_v2(object: &mut Map<String, Value>) {
    for key in ["oneOf", "anyOf", "allOf", "not", "default", "nullable", "x-kubernetes-validations"] {
        if object.remove(key) == Some(Value::Bool(true)) && key == "nullable" {
            for key in ["type", "items", "properties", "additionalProperties", "required", "enum"] {
                object.remove(key);
            }
        }
    }
    if object.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true)) {
        // An open object with known fields would be checked as closed.
        for key in ["items", "properties", "additionalProperties", "required"] {
            object.remove(key);
        }
    }
    if object.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
        object.remove("type");
    }
    if let Some(Value::Object(properties)) = object.get_mut("properties") {
        properties.values_mut().filter_map(Value::as_object_mut).for_each(for_v2);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(Value::Object(inner)) = object.get_mut(key) {
            for_v2(inner);
        }
    }
}
