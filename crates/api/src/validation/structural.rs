//! Schemas of custom resources must be structural (KEP-1002): every place has a type, and what is forbidden in
//! structural schemas is not there.

use super::check::{Out, Path, child, flag, has, items, members, text, texts};
use crate::field::FieldError;
use serde_json::Value;

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
/// Deeper schemas are refused; no real one comes near.
const DEPTH_MAX: usize = 64;

/// What a schema describes, which decides the words of a missing type.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Root,
    Field,
    Item,
}

/// `openAPIV3Schema` of a version.
pub(super) fn schema(out: &mut Out, at: Path, schema: &Value) {
    node(out, at, schema, Place::Root, 0);
    let meta = child(child(schema, "properties"), "metadata");
    for (field, _) in members(meta, "properties") {
        if !matches!(field.as_str(), "name" | "generateName") {
            let at = at.child("properties");
            out.push(FieldError::forbidden(
                &at.key("metadata"),
                "must not specify anything other than name and generateName, but metadata is implicitly specified",
            ));
            break;
        }
    }
}

fn node(out: &mut Out, at: Path, schema: &Value, place: Place, depth: usize) {
    if depth > DEPTH_MAX {
        return out.push(FieldError::forbidden(at, format!("must not be nested deeper than {DEPTH_MAX} levels")));
    }
    kind(out, at, schema, place);
    forbidden(out, at, schema);
    extensions(out, at, schema);
    let pattern = text(schema, "pattern");
    if !pattern.is_empty()
        && let Err(why) = regex::Regex::new(pattern)
    {
        let why = why.to_string().lines().last().unwrap_or_default().to_owned();
        out.push(FieldError::invalid(
            &at.child("pattern"),
            pattern,
            format!("must be a valid regular expression, but isn't: {why}"),
        ));
    }
    default_fits(out, at, schema);
    if has(schema, "properties") && child(schema, "additionalProperties").is_object() {
        out.push(FieldError::forbidden(
            &at.child("additionalProperties"),
            "additionalProperties and properties are mutual exclusive",
        ));
    }
    let properties = at.child("properties");
    for (name, field) in members(schema, "properties") {
        // The server knows these itself.
        let implicit = place == Place::Root && matches!(name.as_str(), "apiVersion" | "kind" | "metadata");
        if implicit {
            continue;
        }
        node(out, &properties.key(name), field, Place::Field, depth + 1);
    }
    if let Some(inner) = schema.get("additionalProperties").filter(|inner| inner.is_object()) {
        node(out, &at.child("additionalProperties"), inner, Place::Field, depth + 1);
    }
    match child(schema, "items") {
        Value::Null => {
            if text(schema, "type") == "array" {
                out.push(FieldError::required(&at.child("items"), "must be specified"));
            }
        }
        Value::Array(_) => {
            out.push(FieldError::forbidden(&at.child("items"), "items must be a schema object and not an array"));
        }
        inner => node(out, &at.child("items"), inner, Place::Item, depth + 1),
    }
    for junctor in ["allOf", "anyOf", "oneOf"] {
        let list = at.child(junctor);
        for (i, inner) in items(schema, junctor).iter().enumerate() {
            value_validation(out, &list.index(i), inner, schema, depth + 1);
        }
    }
    if child(schema, "not").is_object() {
        value_validation(out, &at.child("not"), child(schema, "not"), schema, depth + 1);
    }
}

fn kind(out: &mut Out, at: Path, schema: &Value, place: Place) {
    let kind = text(schema, "type");
    let here = at.child("type");
    let untyped = flag(schema, "x-kubernetes-int-or-string") || flag(schema, "x-kubernetes-preserve-unknown-fields");
    match (kind, place) {
        ("object", _) => {}
        ("", Place::Root) => out.push(FieldError::required(&here, "must not be empty at the root")),
        (other, Place::Root) => out.push(FieldError::invalid(&here, other, "must be object at the root")),
        ("", _) if untyped => {}
        ("", Place::Field) => {
            out.push(FieldError::required(&here, "must not be empty for specified object fields"));
        }
        ("", Place::Item) => out.push(FieldError::required(&here, "must not be empty for specified array items")),
        (other, _) if !TYPES.contains(&other) => out.push(FieldError::not_supported(&here, other, &TYPES)),
        _ => {}
    }
    if !kind.is_empty() && flag(schema, "x-kubernetes-int-or-string") {
        out.push(FieldError::forbidden(&here, "must be empty if x-kubernetes-int-or-string is true"));
    }
}

fn forbidden(out: &mut Out, at: Path, schema: &Value) {
    for field in ["$ref", "definitions", "dependencies", "patternProperties", "additionalItems", "id", "$schema"] {
        if has(schema, field) {
            out.push(FieldError::forbidden(&at.child(field), format!("{field} is not supported")));
        }
    }
    if flag(schema, "uniqueItems") {
        out.push(FieldError::forbidden(
            &at.child("uniqueItems"),
            "uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
        ));
    }
    if schema.get("additionalProperties") == Some(&Value::Bool(false)) {
        out.push(FieldError::forbidden(
            &at.child("additionalProperties"),
            "additionalProperties cannot be set to false",
        ));
    }
}

fn extensions(out: &mut Out, at: Path, schema: &Value) {
    let kind = text(schema, "type");
    if schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(false)) {
        out.push(FieldError::invalid(
            &at.child("x-kubernetes-preserve-unknown-fields"),
            false,
            "must be true or undefined",
        ));
    }
    if flag(schema, "x-kubernetes-embedded-resource") && kind != "object" {
        out.push(FieldError::invalid(
            &at.child("type"),
            kind,
            "must be object if x-kubernetes-embedded-resource is true",
        ));
    }
    let list = text(schema, "x-kubernetes-list-type");
    let here = at.child("x-kubernetes-list-type");
    if has(schema, "x-kubernetes-list-type") {
        if kind != "array" {
            out.push(FieldError::invalid(
                &at.child("type"),
                kind,
                "must be array if x-kubernetes-list-type is specified",
            ));
        }
        if !matches!(list, "atomic" | "map" | "set") {
            out.push(FieldError::not_supported(&here, list, &["atomic", "map", "set"]));
        }
    }
    let keys: Vec<&str> = texts(schema, "x-kubernetes-list-map-keys").collect();
    let keys_at = at.child("x-kubernetes-list-map-keys");
    if list == "map" {
        if keys.is_empty() {
            out.push(FieldError::required(&keys_at, "must not be empty if x-kubernetes-list-type is map"));
        }
        let item = child(schema, "items");
        if text(item, "type") != "object" {
            let at = at.child("items");
            out.push(FieldError::invalid(
                &at.child("type"),
                text(item, "type"),
                "must be object if parent array's x-kubernetes-list-type is map",
            ));
        }
        for (i, key) in keys.iter().enumerate() {
            let field = child(item, "properties").get(*key);
            match field.map(|field| text(field, "type")) {
                None => out.push(FieldError::invalid(
                    &keys_at.index(i),
                    *key,
                    "entries must all be names of item properties",
                )),
                Some("array" | "object") => {
                    let properties = at.child("items.properties");
                    out.push(FieldError::invalid(
                        &properties.key(key).child("type"),
                        field.map(|field| text(field, "type")).unwrap_or_default(),
                        "must be a scalar type if parent array's x-kubernetes-list-type is map",
                    ));
                }
                Some(_) => {
                    let required = texts(item, "required").any(|one| one == *key);
                    let defaulted = field.is_some_and(|field| has(field, "default"));
                    if !required && !defaulted {
                        let properties = at.child("items.properties");
                        out.push(FieldError::required(
                            &properties.key(key).child("default"),
                            "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
                        ));
                    }
                }
            }
            if keys[..i].contains(key) {
                out.push(FieldError::duplicate(&keys_at.index(i), *key));
            }
        }
    } else if !keys.is_empty() {
        out.push(FieldError::forbidden(&keys_at, "must not be specified if x-kubernetes-list-type is not map"));
    }
    if list == "set" && matches!(text(child(schema, "items"), "type"), "object" | "array") {
        let item = child(schema, "items");
        let atomic =
            text(item, "x-kubernetes-map-type") == "atomic" || text(item, "x-kubernetes-list-type") == "atomic";
        if !atomic {
            out.push(FieldError::invalid(
                &at.child("items"),
                text(item, "type"),
                "must be atomic as item of a list with x-kubernetes-list-type=set",
            ));
        }
    }
    if has(schema, "x-kubernetes-map-type") {
        if kind != "object" {
            out.push(FieldError::invalid(
                &at.child("type"),
                kind,
                "must be object if x-kubernetes-map-type is specified",
            ));
        }
        let map = text(schema, "x-kubernetes-map-type");
        if !matches!(map, "atomic" | "granular") {
            out.push(FieldError::not_supported(&at.child("x-kubernetes-map-type"), map, &["atomic", "granular"]));
        }
    }
}

/// A default has the type of its place.
fn default_fits(out: &mut Out, at: Path, schema: &Value) {
    let Some(default) = schema.get("default") else { return };
    let kind = text(schema, "type");
    let fits = match kind {
        "object" => default.is_object(),
        "array" => default.is_array(),
        "string" => default.is_string(),
        "boolean" => default.is_boolean(),
        "integer" => default.is_i64() || default.is_u64() || default.as_f64().is_some_and(|n| n.fract() == 0.0),
        "number" => default.is_number(),
        _ => true,
    };
    let nullable = default.is_null() && flag(schema, "nullable");
    if !fits && !nullable {
        out.push(FieldError::invalid(
            &at.child("default"),
            default,
            format!("must be of type {kind}: \"{}\"", type_of(default)),
        ));
    }
    let words = items(schema, "enum");
    if fits && !words.is_empty() && !words.contains(default) {
        let supported: Vec<&str> = words.iter().filter_map(Value::as_str).collect();
        out.push(FieldError::not_supported(&at.child("default"), default, &supported));
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Below a junctor only value validation may stand: no types, no defaults, and only fields that the structure knows.
fn value_validation(out: &mut Out, at: Path, inner: &Value, structure: &Value, depth: usize) {
    if depth > DEPTH_MAX {
        return out.push(FieldError::forbidden(at, format!("must not be nested deeper than {DEPTH_MAX} levels")));
    }
    let int_or_string = flag(structure, "x-kubernetes-int-or-string");
    for field in ["type", "default", "description", "title", "nullable", "additionalProperties"] {
        if has(inner, field) && !(field == "type" && int_or_string) {
            out.push(FieldError::forbidden(&at.child(field), "must be empty to be structural"));
        }
    }
    let properties = at.child("properties");
    for (name, field) in members(inner, "properties") {
        match child(structure, "properties").get(name) {
            Some(known) => value_validation(out, &properties.key(name), field, known, depth + 1),
            None if child(structure, "additionalProperties").is_object() => {
                value_validation(
                    out,
                    &properties.key(name),
                    field,
                    child(structure, "additionalProperties"),
                    depth + 1,
                );
            }
            None => out.push(FieldError::required(
                &properties.key(name),
                "because it is defined in a junctor, it must be specified in the structure too",
            )),
        }
    }
    if child(inner, "items").is_object() {
        value_validation(out, &at.child("items"), child(inner, "items"), child(structure, "items"), depth + 1);
    }
    for junctor in ["allOf", "anyOf", "oneOf"] {
        let list = at.child(junctor);
        for (i, one) in items(inner, junctor).iter().enumerate() {
            value_validation(out, &list.index(i), one, structure, depth + 1);
        }
    }
    if child(inner, "not").is_object() {
        value_validation(out, &at.child("not"), child(inner, "not"), structure, depth + 1);
    }
}

#[cfg(test)]
mod tests {
    use crate::field::{FieldPath, aggregate};
    use serde_json::{Value, json};

    fn text(schema: &Value) -> String {
        let mut out = Vec::new();
        super::schema(&mut out, &FieldPath::root("s"), schema);
        if out.is_empty() { "ok".into() } else { aggregate(&out) }
    }

    #[test]
    fn structure() {
        let of = |properties: Value| json!({"type": "object", "properties": properties});
        let cases = [
            (of(json!({"spec": {"type": "object", "properties": {"a": {"type": "string", "default": "x"}}}})), "ok"),
            (json!({}), "s.type: Required value: must not be empty at the root"),
            (json!({"type": "string"}), "s.type: Invalid value: \"string\": must be object at the root"),
            (
                of(json!({"a": {}})),
                "s.properties[a].type: Required value: must not be empty for specified object fields",
            ),
            (of(json!({"a": {"x-kubernetes-preserve-unknown-fields": true}})), "ok"),
            (
                of(
                    json!({"a": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}}),
                ),
                "ok",
            ),
            (of(json!({"a": {"type": "array"}})), "s.properties[a].items: Required value: must be specified"),
            (
                of(json!({"a": {"type": "array", "items": {}}})),
                "s.properties[a].items.type: Required value: must not be empty for specified array items",
            ),
            (
                of(json!({"a": {"type": "int"}})),
                "s.properties[a].type: Unsupported value: \"int\": supported values: \"array\", \"boolean\", \"integer\", \"number\", \"object\", \"string\"",
            ),
            (
                of(json!({"a": {"type": "string", "pattern": "["}})),
                "s.properties[a].pattern: Invalid value: \"[\": must be a valid regular expression, but isn't: error: unclosed character class",
            ),
            (
                of(json!({"a": {"type": "integer", "default": "x"}})),
                "s.properties[a].default: Invalid value: \"x\": must be of type integer: \"string\"",
            ),
            (
                of(
                    json!({"a": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": {"type": "object", "properties": {"k": {"type": "string"}}}}}),
                ),
                "s.properties[a].items.properties[k].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
            ),
            (
                of(json!({"a": {"type": "string", "anyOf": [{"type": "string"}]}})),
                "s.properties[a].anyOf[0].type: Forbidden: must be empty to be structural",
            ),
            (
                of(json!({"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}})),
                "s.properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is implicitly specified",
            ),
        ];
        for (schema, want) in cases {
            assert_eq!(text(&schema), want);
        }
        let mut deep = json!({"type": "string"});
        for _ in 0..100 {
            deep = of(json!({"a": deep}));
        }
        assert!(text(&deep).contains("nested deeper"));
    }
}
