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
