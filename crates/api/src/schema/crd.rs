//! Schemas of custom resources, from the `openAPIV3Schema` of a CustomResourceDefinition's version.

use serde_json::Value;

use super::arena::{Arena, Extra, Field, ListType, NodeData, NodeId, Object, Type, flags};
use super::builtin;
use super::constraints::Constraints;

/// Deepest nesting of a schema; structural schemas are finite trees, real ones stay below 40.
const MAX_DEPTH: usize = 200;

/// Why a schema cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SchemaError {
    /// A place without a type, or with one that does not exist.
    #[error(
        "{path}.type: Unsupported value: {found:?}: must be one of array, boolean, integer, number, object, string"
    )]
    Type {
        /// Where in the schema.
        path: String,
        /// What stood there.
        found: String,
    },
    /// A list without a schema of its elements.
    #[error("{path}.items: Required value: must be specified for an array")]
    Items {
        /// Where in the schema.
        path: String,
    },
    /// Nested deeper than any real schema.
    #[error("{path}: the schema is nested deeper than {MAX_DEPTH} levels")]
    TooDeep {
        /// Where in the schema.
        path: String,
    },
}

/// The open schema: apiVersion, kind, metadata, and anything else.
pub(super) fn open() -> (Arena, NodeId) {
    let mut builder = Builder::default();
    let mut fields = Vec::new();
    builder.add_object_fields(&mut fields);
    let object = builder.arena.add_object(Object { fields, ..Object::default() });
    let root = builder.arena.add(NodeData {
        object: Some(object),
        flags: flags::PRESERVE_UNKNOWN,
        ..NodeData::new(Type::Object)
    });
    (builder.arena, root)
}

/// The schema of a custom resource's version. `preserve_unknown` is `spec.preserveUnknownFields`.
pub(super) fn build(schema: &Value, preserve_unknown: bool) -> Result<(Arena, NodeId), SchemaError> {
    if !schema.is_object() {
        return Ok(open());
    }
    let mut builder = Builder::default();
    let root = builder.node(schema, "openAPIV3Schema", 0, true)?;
    if preserve_unknown {
        builder.arena.nodes[root as usize].flags |= flags::PRESERVE_UNKNOWN;
    }
    Ok((builder.arena, root))
}

#[derive(Default)]
struct Builder {
    arena: Arena,
    /// The imported `ObjectMeta`.
    meta: Option<NodeId>,
}

impl Builder {
    fn node(&mut self, schema: &Value, path: &str, depth: usize, is_object: bool) -> Result<NodeId, SchemaError> {
        if depth > MAX_DEPTH {
            return Err(SchemaError::TooDeep { path: path.to_owned() });
        }
        let said = |key: &str| schema[key].as_bool().unwrap_or_default();
        let mut node = NodeData::new(type_of(schema, path)?);
        let mut extra = Extra { constraints: Constraints::of(schema), ..Extra::default() };
        for (key, flag) in [
            ("nullable", flags::NULLABLE),
            ("x-kubernetes-preserve-unknown-fields", flags::PRESERVE_UNKNOWN),
            ("x-kubernetes-embedded-resource", flags::EMBEDDED),
        ] {
            if said(key) {
                node.flags |= flag;
            }
        }
        let embedded = node.flags & flags::EMBEDDED != 0;
        match node.ty {
            Type::Object => self.object(schema, &mut node, path, depth, is_object || embedded)?,
            Type::List => self.list(schema, &mut node, &mut extra, path, depth)?,
            _ => {}
        }
        extra.default = schema.get("default").filter(|d| !d.is_null()).cloned();
        if extra.default.is_some() || extra.constraints.is_some() || !extra.map_keys.is_empty() {
            node.extra = Some(self.arena.add_extra(extra));
        }
        Ok(self.arena.add(node))
    }

    fn object(
        &mut self,
        schema: &Value,
        node: &mut NodeData,
        path: &str,
        depth: usize,
        meta: bool,
    ) -> Result<(), SchemaError> {
        if schema["x-kubernetes-map-type"] == "atomic" {
            node.flags |= flags::ATOMIC;
        }
        let mut fields = Vec::new();
        if meta {
            self.add_object_fields(&mut fields);
        }
        let required: Vec<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if let Some(properties) = schema["properties"].as_object() {
            for (name, child) in properties {
                if meta && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
                    continue;
                }
                let id = self.node(child, &format!("{path}.properties[{name}]"), depth + 1, false)?;
                if required.contains(&name.as_str()) {
                    self.arena.nodes[id as usize].flags |= flags::REQUIRED;
                }
                fields.push(Field { name: name.clone().into(), node: id, proto: [0; 3] });
            }
        }
        match &schema["additionalProperties"] {
            Value::Object(_) => {
                let path = format!("{path}.additionalProperties");
                node.element = Some(self.node(&schema["additionalProperties"], &path, depth + 1, false)?);
                if fields.is_empty() {
                    node.ty = Type::Map;
                    return Ok(());
                }
            }
            Value::Bool(true) => node.flags |= flags::PRESERVE_UNKNOWN,
            _ => {}
        }
        node.object = Some(self.arena.add_object(Object { fields, ..Object::default() }));
        Ok(())
    }

    fn list(
        &mut self,
        schema: &Value,
        node: &mut NodeData,
        extra: &mut Extra,
        path: &str,
        depth: usize,
    ) -> Result<(), SchemaError> {
        let items = schema.get("items").filter(|i| i.is_object());
        let items = items.ok_or_else(|| SchemaError::Items { path: path.to_owned() })?;
        node.element = Some(self.node(items, &format!("{path}.items"), depth + 1, false)?);
        if let Some(list_type) = schema["x-kubernetes-list-type"].as_str() {
            node.flags |= flags::LIST_TYPE_SET;
            node.list_type = match list_type {
                "map" => ListType::Map,
                "set" => ListType::Set,
                _ => ListType::Atomic,
            };
        }
        let keys = schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten();
        extra.map_keys = keys.filter_map(Value::as_str).map(|k| k.to_owned().into()).collect();
        Ok(())
    }

    /// The three fields that every object has.
    fn add_object_fields(&mut self, fields: &mut Vec<Field>) {
        let text = NodeData::new(Type::String);
        for name in ["apiVersion", "kind"] {
            let node = self.arena.add(text.clone());
            fields.push(Field { name: name.into(), node, proto: [0; 3] });
        }
        let node = match self.meta {
            Some(node) => node,
            None => {
                let node = self.import("meta.v1.ObjectMeta");
                self.meta = Some(node);
                node
            }
        };
        fields.push(Field { name: "metadata".into(), node, proto: [0; 3] });
    }

    /// Copies a built-in type (of those that do not refer to themselves) into this arena.
    fn import(&mut self, name: &str) -> NodeId {
        match builtin::arena().roots.get(name) {
            Some(root) => self.copy(*root),
            None => self.arena.add(NodeData::new(Type::Json)),
        }
    }

    fn copy(&mut self, id: NodeId) -> NodeId {
        let from = builtin::arena();
        let mut node = from.nodes[id as usize].clone();
        node.element = node.element.map(|e| self.copy(e));
        node.object = node.object.map(|o| {
            let mut object = from.objects[o as usize].clone();
            for field in &mut object.fields {
                field.node = self.copy(field.node);
            }
            self.arena.add_object(object)
        });
        node.extra = node.extra.map(|e| self.arena.add_extra(from.extras[e as usize].clone()));
        self.arena.add(node)
    }
}

fn type_of(schema: &Value, path: &str) -> Result<Type, SchemaError> {
    if schema["x-kubernetes-int-or-string"] == true {
        return Ok(Type::IntOrString);
    }
    let preserve = schema["x-kubernetes-preserve-unknown-fields"] == true;
    match schema["type"].as_str().unwrap_or_default() {
        "object" => Ok(Type::Object),
        "array" => Ok(Type::List),
        "string" => Ok(Type::String),
        "boolean" => Ok(Type::Bool),
        // A custom resource's integer is 64 bits wide; the format narrows it as a validation.
        "integer" => Ok(Type::Int64),
        "number" => Ok(Type::Double),
        "" if preserve => Ok(match schema["properties"].is_object() {
            true => Type::Object,
            false => Type::Json,
        }),
        "" if schema["x-kubernetes-embedded-resource"] == true => Ok(Type::Object),
        found => Err(SchemaError::Type { path: path.to_owned(), found: found.to_owned() }),
    }
}
