//! Schemas of types as documents show them.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::Style;
use super::describe::Descriptions;
use crate::kinds::Gvk;
use crate::schema::{ListType, Node, Schema, Type, names};

/// Adds the names of all types that the named types refer to, scalars with names included.
pub(super) fn closure(types: &mut BTreeSet<String>) {
    let mut open: Vec<String> = types.iter().cloned().collect();
    while let Some(name) = open.pop() {
        let Some(schema) = Schema::builtin(&name) else { continue };
        for (_, node) in schema.root().fields() {
            let Some(found) = referred(node) else { continue };
            if types.insert(found.clone()) {
                open.push(found);
            }
            // The schema types that are a schema or something else refer to the schema.
            if matches!(node.ty(), Type::PropsOrArray | Type::PropsOrBool | Type::PropsOrStrings)
                && types.insert("apiextensions.v1.JSONSchemaProps".to_owned())
            {
                open.push("apiextensions.v1.JSONSchemaProps".to_owned());
            }
        }
    }
}

/// The named type inside lists and maps, if the innermost is one.
fn referred(node: Node<'_>) -> Option<String> {
    match node.ty() {
        Type::List | Type::Map => referred(node.element()?),
        _ => named(node),
    }
}

/// Short name of the type of a place, if it has a name in documents.
fn named(node: Node<'_>) -> Option<String> {
    let name = match node.ty() {
        Type::Object => node.type_name(),
        Type::Quantity => "machinery.api.resource.Quantity",
        Type::IntOrString => "machinery.util.intstr.IntOrString",
        Type::Time => "meta.v1.Time",
        Type::MicroTime => "meta.v1.MicroTime",
        Type::Duration => "meta.v1.Duration",
        Type::Raw => "machinery.runtime.RawExtension",
        Type::Fields => "meta.v1.FieldsV1",
        Type::Json => "apiextensions.v1.JSON",
        Type::PropsOrArray => "apiextensions.v1.JSONSchemaPropsOrArray",
        Type::PropsOrBool => "apiextensions.v1.JSONSchemaPropsOrBool",
        Type::PropsOrStrings => "apiextensions.v1.JSONSchemaPropsOrStringArray",
        _ => return None,
    };
    Some(name.to_owned())
}

/// The schema of a type that has a name and no fields of its own.
fn scalar(name: &str, style: Style) -> Option<Value> {
    let v3 = style == Style::V3;
    Some(match name {
        "machinery.api.resource.Quantity" if v3 => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        "machinery.api.resource.Quantity" => json!({"type": "string"}),
        "machinery.util.intstr.IntOrString" if v3 => {
            json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
        }
        "machinery.util.intstr.IntOrString" => json!({"format": "int-or-string", "type": "string"}),
        "meta.v1.Time" | "meta.v1.MicroTime" => json!({"format": "date-time", "type": "string"}),
        "meta.v1.Duration" => json!({"type": "string"}),
        "machinery.runtime.RawExtension" | "meta.v1.FieldsV1" | "meta.v1.Patch" => json!({"type": "object"}),
        "apiextensions.v1.JSON"
        | "apiextensions.v1.JSONSchemaPropsOrArray"
        | "apiextensions.v1.JSONSchemaPropsOrBool"
        | "apiextensions.v1.JSONSchemaPropsOrStringArray" => json!({}),
        _ => return None,
    })
}

/// The schema of a named type. `group_versions` are those that `DeleteOptions` and `WatchEvent` are common to.
pub(super) fn component(
    name: &str,
    style: Style,
    descriptions: &Descriptions,
    group_versions: &[(String, String)],
) -> Value {
    let mut out = match scalar(name, style) {
        Some(Value::Object(out)) => out,
        _ => object(name, style, descriptions),
    };
    let description = match descriptions.of_type(name) {
        Some(text) => Some(text.to_owned()),
        None => list_description(name),
    };
    if let Some(description) = description {
        out.insert("description".to_owned(), description.into());
    }
    let kinds = kinds_of(name, group_versions);
    if !kinds.is_empty() {
        let kinds: Vec<Value> =
            kinds.iter().map(|k| json!({"group": k.group, "version": k.version, "kind": k.kind})).collect();
        out.insert("x-kubernetes-group-version-kind".to_owned(), kinds.into());
    }
    out.into()
}

fn list_description(name: &str) -> Option<String> {
    let kind = name.rsplit('.').next()?.strip_suffix("List").filter(|k| !k.is_empty())?;
    Some(format!("{kind}List is a list of objects of kind {kind}."))
}

fn object(name: &str, style: Style, descriptions: &Descriptions) -> Map<String, Value> {
    let mut out = Map::new();
    out.insert("type".to_owned(), "object".into());
    let Some(schema) = Schema::builtin(name) else { return out };
    let root = schema.root();
    let mut properties = Map::new();
    let mut required = Vec::new();
    for (field, node) in root.fields() {
        let description = descriptions.of_field(name, field);
        properties.insert(field.to_owned(), property(node, style, description));
        if node.is_required() {
            required.push(Value::from(field));
        }
    }
    if !properties.is_empty() {
        out.insert("properties".to_owned(), properties.into());
    }
    if !required.is_empty() {
        out.insert("required".to_owned(), required.into());
    }
    // What is said of a place is not said of the type: here the type's own is wanted.
    if root.is_atomic() {
        out.insert("x-kubernetes-map-type".to_owned(), "atomic".into());
    }
    if let Some(union) = root.union() {
        out.insert("x-kubernetes-unions".to_owned(), json!([union_value(union)]));
    }
    out
}

/// `type:localhostProfile>LocalhostProfile` as the extension writes it.
fn union_value(text: &str) -> Value {
    let (discriminator, fields) = text.split_once(':').unwrap_or(("", text));
    let fields: Map<String, Value> =
        fields.split(',').filter_map(|f| f.split_once('>')).map(|(k, v)| (k.to_owned(), v.into())).collect();
    let mut out = Map::new();
    if !discriminator.is_empty() {
        out.insert("discriminator".to_owned(), discriminator.into());
    }
    out.insert("fields-to-discriminateBy".to_owned(), fields.into());
    out.into()
}

fn property(node: Node<'_>, style: Style, description: Option<&str>) -> Value {
    let mut out = match (value_schema(node, style), style) {
        // A reference may have no neighbours in version 3.
        (Value::Object(out), Style::V3)
            if out.contains_key("$ref") && (description.is_some() || node.default().is_some()) =>
        {
            Map::from_iter([("allOf".to_owned(), json!([out]))])
        }
        (Value::Object(out), _) => out,
        _ => Map::new(),
    };
    if let Some(description) = description {
        out.insert("description".to_owned(), description.into());
    }
    if let Some(default) = node.default().filter(|_| style == Style::V3) {
        out.insert("default".to_owned(), default.clone());
    }
    extensions(node, &mut out);
    out.into()
}

fn extensions(node: Node<'_>, out: &mut Map<String, Value>) {
    let mut put = |key: &str, value: Value| out.insert(format!("x-kubernetes-{key}"), value);
    let is_struct = node.ty() == Type::Object;
    if node.list_type_is_set() && matches!(node.ty(), Type::List | Type::Bytes) {
        let list_type = match node.list_type() {
            ListType::Map => "map",
            ListType::Set => "set",
            ListType::Atomic => "atomic",
        };
        put("list-type", list_type.into());
    }
    if node.list_type_is_set() && (node.ty() == Type::Map || is_struct) {
        put("map-type", "atomic".into());
    }
    if node.is_said_granular() {
        put("map-type", "granular".into());
    }
    if !node.map_keys().is_empty() {
        put("list-map-keys", node.map_keys().iter().map(|k| &**k).collect::<Vec<&str>>().into());
    }
    if let Some(key) = node.merge_key() {
        put("patch-merge-key", key.into());
    }
    let strategy = node.patch_strategy();
    // In the order in which upstream states them.
    let strategies: Vec<&str> =
        [("replace", strategy.replace), ("merge", strategy.merge), ("retainKeys", strategy.retain_keys)]
            .into_iter()
            .filter_map(|(name, on)| on.then_some(name))
            .collect();
    if !strategies.is_empty() {
        put("patch-strategy", strategies.join(",").into());
    }
}

fn value_schema(node: Node<'_>, style: Style) -> Value {
    if let Some(name) = named(node) {
        return json!({"$ref": style.reference(&names::full(&name))});
    }
    let element = || node.element().map(|e| value_schema(e, style)).unwrap_or_default();
    match node.ty() {
        Type::List => json!({"type": "array", "items": element()}),
        Type::Map => json!({"type": "object", "additionalProperties": element()}),
        Type::Bytes => json!({"type": "string", "format": "byte"}),
        Type::Bool => json!({"type": "boolean"}),
        Type::Int32 => json!({"type": "integer", "format": "int32"}),
        Type::Int64 => json!({"type": "integer", "format": "int64"}),
        Type::Double => json!({"type": "number", "format": "double"}),
        _ => json!({"type": "string"}),
    }
}

/// The kinds that a type is: resources, lists and bodies of subresources.
fn kinds_of(name: &str, group_versions: &[(String, String)]) -> Vec<Gvk> {
    let Some((package, kind)) = name.rsplit_once('.') else { return Vec::new() };
    if matches!(name, "meta.v1.DeleteOptions" | "meta.v1.WatchEvent") {
        let mut all: Vec<Gvk> =
            group_versions.iter().map(|(g, v)| Gvk::new(g.clone(), v.clone(), kind.to_owned())).collect();
        all.insert(0, Gvk::new("", "v1", kind.to_owned()));
        all.dedup();
        return all;
    }
    if package == "meta.v1" {
        let is_kind = matches!(kind, "Status" | "APIResourceList" | "APIGroup" | "APIGroupList" | "APIVersions");
        return is_kind.then(|| Gvk::new("", "v1", kind.to_owned())).into_iter().collect();
    }
    let Some(schema) = Schema::builtin(name) else { return Vec::new() };
    let has = |field: &str| schema.root().field(field).is_some();
    let meta = schema.root().field("metadata").is_some_and(|m| m.type_name().starts_with("meta.v1."));
    if !(has("kind") && has("apiVersion") && meta) {
        return Vec::new();
    }
    let (package, version) = package.split_once('.').unwrap_or((package, ""));
    vec![Gvk::new(group_of(package), version.to_owned(), kind.to_owned())]
}

/// The group whose types are in a package.
fn group_of(package: &str) -> String {
    const PLAIN: [&str; 4] = ["apps", "autoscaling", "batch", "policy"];
    match package {
        "core" => String::new(),
        "rbac" => "rbac.authorization.k8s.io".to_owned(),
        "flowcontrol" => "flowcontrol.apiserver.k8s.io".to_owned(),
        "apiserverinternal" => "internal.apiserver.k8s.io".to_owned(),
        _ if PLAIN.contains(&package) => package.to_owned(),
        _ => format!("{package}.k8s.io"),
    }
}
