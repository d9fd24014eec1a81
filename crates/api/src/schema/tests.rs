#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::*;

#[test]
fn fields_carry_their_facts() {
    let pod = Schema::builtin("io.k8s.api.core.v1.Pod").unwrap();
    let spec = pod.root().field("spec").unwrap();
    assert_eq!(spec.type_name(), "core.v1.PodSpec");
    let containers = spec.field("containers").unwrap();
    assert_eq!(containers.ty(), Type::List);
    assert_eq!(containers.list_type(), ListType::Map);
    assert_eq!(containers.map_keys(), ["name"]);
    assert_eq!(containers.merge_key(), Some("name"));
    assert!(containers.is_required());
    let ports = containers.element().unwrap().field("ports").unwrap();
    assert_eq!(ports.map_keys(), ["containerPort", "protocol"]);
    assert_eq!(ports.merge_key(), Some("containerPort"));
    assert_eq!(ports.element().unwrap().field("protocol").unwrap().default(), Some(&json!("TCP")));
    assert!(spec.field("volumes").unwrap().patch_strategy().retain_keys);
    let selector = spec.field("nodeSelector").unwrap();
    assert_eq!((selector.ty(), selector.is_atomic()), (Type::Map, true));
    assert!(spec.field("nope").is_none());
}

#[test]
fn no_field_has_an_unknown_type() {
    // A misspelt type in the table would silently become an opaque value.
    let opaque = ["apiextensions.v1.JSONSchemaProps", "machinery.version.Info"];
    let mut fields = 0;
    for name in type_names() {
        for (field, node) in Schema::builtin(name).unwrap().root().fields() {
            fields += 1;
            let inner = std::iter::successors(Some(node), |n| n.element().filter(|_| n.ty() != Type::Object));
            for node in inner.take(4) {
                assert!(node.ty() != Type::Json || opaque.contains(&name), "{name}.{field}");
            }
        }
    }
    assert!(fields > 3000, "{fields}");
}

#[test]
fn names_turn_round() {
    for name in type_names() {
        assert_eq!(names::short(&names::full(name)), name);
    }
}

/// Every fact of the table against the published OpenAPI documents, where they lie beside the repository.
#[test]
fn facts_agree_with_the_reference() {
    let documents = crate::reference::read_all("openapi-v3");
    let mut maps = 0;
    let mut fields = 0;
    for document in documents {
        let document: Value = serde_json::from_slice(&document).unwrap();
        for (name, schema) in document["components"]["schemas"].as_object().into_iter().flatten() {
            let Some(properties) = schema["properties"].as_object() else { continue };
            let ours = Schema::builtin(name).unwrap_or_else(|| panic!("no type {name}"));
            assert_eq!(schema["x-kubernetes-map-type"] == "atomic", ours.root().is_atomic(), "{name}");
            assert_eq!(ours.root().fields().count(), properties.len(), "{name}");
            for (field, property) in properties {
                let node = ours.root().field(field).unwrap_or_else(|| panic!("{name}.{field}"));
                check_field(&format!("{name}.{field}"), property, node);
                let required = schema["required"].as_array().into_iter().flatten().any(|r| r == field.as_str());
                assert_eq!(required, node.is_required(), "{name}.{field}");
                maps += usize::from(node.list_type() == ListType::Map);
                fields += 1;
            }
        }
    }
    println!("checked {fields} fields, {maps} of them list maps");
}

fn check_field(at: &str, property: &Value, node: Node<'_>) {
    let text = |key: &str| property[key].as_str().unwrap_or_default().to_owned();
    let list_type = match (node.list_type_is_set(), node.list_type()) {
        (false, _) => "",
        (true, ListType::Map) => "map",
        (true, ListType::Set) => "set",
        (true, ListType::Atomic) => "atomic",
    };
    if node.ty() == Type::List || node.ty() == Type::Bytes {
        assert_eq!(text("x-kubernetes-list-type"), list_type, "{at}");
    }
    let keys: Vec<&str> = node.map_keys().iter().map(|k| &**k).collect();
    let theirs: Vec<&str> =
        property["x-kubernetes-list-map-keys"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    assert_eq!(theirs, keys, "{at}");
    assert_eq!(text("x-kubernetes-patch-merge-key"), node.merge_key().unwrap_or_default(), "{at}");
    let strategy = node.patch_strategy();
    let said = text("x-kubernetes-patch-strategy");
    assert_eq!(said.contains("merge"), strategy.merge, "{at}");
    assert_eq!(said.contains("retainKeys"), strategy.retain_keys, "{at}");
    assert_eq!(property.get("default"), node.default(), "{at}");
}

#[test]
fn custom_schemas_are_the_same_schema() {
    let schema = Schema::from_definition(
        &json!({"type": "object", "required": ["spec"], "properties": {"spec": {"type": "object", "properties": {
            "port": {"x-kubernetes-int-or-string": true},
            "size": {"type": "integer", "minimum": 1, "default": 3},
            "rules": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "properties": {"name": {"type": "string"}}}},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}}),
        false,
    )
    .unwrap();
    let root = schema.root();
    assert_eq!(root.field("metadata").unwrap().type_name(), "meta.v1.ObjectMeta");
    let spec = root.field("spec").unwrap();
    assert!(spec.is_required());
    assert_eq!(spec.field("port").unwrap().ty(), Type::IntOrString);
    assert_eq!(spec.field("labels").unwrap().ty(), Type::Map);
    assert_eq!(spec.field("rules").unwrap().map_keys(), ["name"]);
    assert!(spec.field("any").unwrap().preserves_unknown());
    assert_eq!(spec.field("size").unwrap().constraints().unwrap().minimum, Some((1.0, false)));
    let mut value = json!({"spec": {"rules": [{}]}});
    apply_defaults(root, &mut value);
    assert_eq!(value, json!({"spec": {"size": 3, "rules": [{}]}}));
    let error = Schema::from_definition(&json!({"type": "object", "properties": {"a": {}}}), false).unwrap_err();
    assert!(error.to_string().starts_with("openAPIV3Schema.properties[a].type: Unsupported value"), "{error}");
}

#[test]
fn zero_values_are_what_go_writes() {
    let schema = Schema::builtin("apps.v1.ReplicaSet").unwrap();
    let mut value = json!({"spec": {"template": {"spec": {"containers": [{"name": "c"}]}}}});
    fill_zero_values(schema.root(), &mut value);
    assert_eq!(value["status"], json!({"replicas": 0}));
    assert_eq!(value["spec"]["template"]["spec"]["containers"][0], json!({"name": "c", "resources": {}}));
    assert_eq!(value["spec"]["template"]["metadata"], json!({}));
}

/// The errors of a custom resource whose spec has the given properties.
fn errors(properties: Value, spec: Value) -> Vec<String> {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": properties}}});
    let schema = Schema::from_definition(&schema, false).unwrap();
    validate(schema.root(), &json!({"spec": spec})).iter().map(ToString::to_string).collect()
}

#[test]
fn custom_values_are_validated_in_upstreams_words() {
    let cases = [
        (
            json!({"n": {"type": "integer"}}),
            json!({"n": "x"}),
            r#"spec.n: Invalid value: "string": spec.n in body must be of type integer: "string""#,
        ),
        (
            json!({"n": {"type": "integer"}}),
            json!({"n": null}),
            r#"spec.n: Invalid value: "null": spec.n in body must be of type integer: "null""#,
        ),
        (
            json!({"n": {"type": "integer", "minimum": 1}}),
            json!({"n": 0}),
            "spec.n: Invalid value: 0: spec.n in body should be greater than or equal to 1",
        ),
        (
            json!({"n": {"type": "number", "maximum": 1, "exclusiveMaximum": true}}),
            json!({"n": 1}),
            "spec.n: Invalid value: 1: spec.n in body should be less than 1",
        ),
        (
            json!({"n": {"type": "integer", "multipleOf": 3}}),
            json!({"n": 4}),
            "spec.n: Invalid value: 4: spec.n in body should be a multiple of 3",
        ),
        (
            json!({"s": {"type": "string", "pattern": "^a+$"}}),
            json!({"s": "b"}),
            r#"spec.s: Invalid value: "b": spec.s in body should match '^a+$'"#,
        ),
        (
            json!({"s": {"type": "string", "minLength": 2}}),
            json!({"s": "é"}),
            r#"spec.s: Invalid value: "é": spec.s in body should be at least 2 chars long"#,
        ),
        (
            json!({"s": {"type": "string", "maxLength": 2}}),
            json!({"s": "abc"}),
            "spec.s: Too long: may not be more than 2 bytes",
        ),
        (
            json!({"s": {"type": "string", "enum": ["a", "b"]}}),
            json!({"s": "c"}),
            r#"spec.s: Unsupported value: "c": supported values: "a", "b""#,
        ),
        (
            json!({"s": {"type": "string", "format": "date-time"}}),
            json!({"s": "c"}),
            r#"spec.s: Invalid value: "c": spec.s in body must be of type date-time: "c""#,
        ),
        (
            json!({"l": {"type": "array", "maxItems": 1, "items": {"type": "string"}}}),
            json!({"l": ["a", "b"]}),
            "spec.l: Too many: 2: must have at most 1 item",
        ),
        (
            json!({"l": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}}}),
            json!({"l": ["a", "a"]}),
            r#"spec.l[1]: Duplicate value: "a""#,
        ),
        (
            json!({"o": {"type": "object", "required": ["x"], "properties": {"x": {"type": "string"}}}}),
            json!({"o": {}}),
            "spec.o.x: Required value",
        ),
        (
            json!({"p": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}}),
            json!({"p": true}),
            r#"spec.p: Invalid value: "boolean": spec.p in body must be of type integer,string: "boolean""#,
        ),
        (
            json!({"o": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}, "oneOf": [{"required": ["a"]}, {"required": ["b"]}]}}),
            json!({"o": {}}),
            r#"spec.o: Invalid value: "": "spec.o" must validate one and only one schema (oneOf). Found none valid"#,
        ),
        (
            json!({"e": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}}),
            json!({"e": {"apiVersion": "v1"}}),
            "spec.e.kind: Required value: must not be empty",
        ),
    ];
    for (properties, spec, want) in cases {
        assert_eq!(errors(properties.clone(), spec.clone()), [want], "{properties} {spec}");
    }
}

#[test]
fn good_custom_values_pass() {
    let properties = json!({
        "n": {"type": "integer", "nullable": true, "format": "int32"},
        "p": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
        "d": {"type": "string", "format": "duration"},
        "m": {"type": "object", "additionalProperties": {"type": "integer"}},
        "not": {"type": "string", "not": {"enum": ["bad"]}},
        "ip": {"type": "string", "format": "ipv4"}});
    let good = json!({"n": null, "p": 1, "d": "1h30m", "m": {"a": 1}, "not": "good", "ip": "10.0.0.1"});
    assert_eq!(errors(properties.clone(), good), Vec::<String>::new());
    let bad = json!({"n": 5_000_000_000_i64, "p": [], "d": "1x", "m": {"a": "b"}, "not": "bad", "ip": "10.0.0"});
    assert_eq!(errors(properties, bad).len(), 6);
}
