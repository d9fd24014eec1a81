#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::kinds::KindTable;

fn none(_: &Kind) -> Option<Value> {
    None
}

/// Drops texts, which are our own.
fn without_descriptions(value: Value) -> Value {
    match value {
        Value::Object(object) => object
            .into_iter()
            .filter(|(key, value)| key != "description" || !value.is_string())
            .map(|(key, value)| (key, without_descriptions(value)))
            .collect(),
        Value::Array(items) => items.into_iter().map(without_descriptions).collect(),
        other => other,
    }
}

#[test]
fn components_agree_with_the_reference() {
    let table = KindTable::all();
    let mut compared = 0;
    for group_version in v3::group_versions(&table) {
        let (group, version) = group_version;
        let file = format!("openapi-v3/{}_openapi.json", v3::path(&group, &version).replace('/', "__"));
        let Some(theirs) = crate::reference::read(&file) else { continue };
        let theirs: Value = serde_json::from_slice(&theirs).unwrap();
        let ours = v3::document(&table, &group, &version, &none).unwrap();
        for (name, schema) in ours["components"]["schemas"].as_object().unwrap() {
            let Some(reference) = theirs["components"]["schemas"].get(name) else {
                // Kinds of subresources may be in another document.
                continue;
            };
            // The order of required fields says nothing.
            let sorted = |mut schema: Value| {
                if let Some(required) = schema.get_mut("required").and_then(Value::as_array_mut) {
                    required.sort_by_key(Value::to_string);
                }
                schema
            };
            let (reference, schema) = (sorted(reference.clone()), sorted(schema.clone()));
            let (mut reference, mut schema) =
                (without_descriptions(reference.clone()), without_descriptions(schema.clone()));
            if name.ends_with(".DeleteOptions") || name.ends_with(".WatchEvent") {
                for schema in [&mut reference, &mut schema] {
                    schema.as_object_mut().unwrap().remove("x-kubernetes-group-version-kind");
                }
            }
            assert_eq!(reference, schema, "{file} {name}");
            compared += 1;
        }
        for (path, item) in theirs["paths"].as_object().unwrap() {
            if path.contains("/watch/") || path.ends_with('/') {
                continue;
            }
            let our_item = &ours["paths"][path];
            for (method, operation) in item.as_object().unwrap() {
                if method == "parameters" {
                    continue;
                }
                let our_operation = &our_item[method];
                for key in ["operationId", "tags", "x-kubernetes-action", "x-kubernetes-group-version-kind"] {
                    assert_eq!(operation[key], our_operation[key], "{path} {method} {key}");
                }
                let codes = |o: &Value| o["responses"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
                assert_eq!(codes(operation), codes(our_operation), "{path} {method}");
                assert_eq!(
                    operation["requestBody"].is_null(),
                    our_operation["requestBody"].is_null(),
                    "{path} {method}"
                );
                assert_eq!(schema_of(operation), schema_of(our_operation), "{path} {method}");
            }
        }
        for path in ours["paths"].as_object().unwrap().keys() {
            assert!(theirs["paths"].get(path).is_some(), "{path} is not upstream's");
        }
    }
    println!("compared {compared} components");
}

fn schema_of(operation: &Value) -> Value {
    let content = operation["responses"]["200"]["content"].as_object().unwrap();
    content.values().next().unwrap()["schema"].clone()
}

#[test]
fn kubectl_finds_what_it_looks_for() {
    let table = KindTable::builtin();
    let document = v3::document(&table, "apps", "v1", &none).unwrap();
    let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    let parameters: Vec<&str> =
        patch["parameters"].as_array().unwrap().iter().filter_map(|p| p["name"].as_str()).collect();
    assert!(parameters.contains(&"fieldValidation"));
    assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Deployment");
    assert!(patch["requestBody"]["content"]["application/strategic-merge-patch+json"].is_object());
    // Descriptions for explain.
    let schemas = &document["components"]["schemas"];
    let replicas = &schemas["io.k8s.api.apps.v1.DeploymentSpec"]["properties"]["replicas"];
    assert!(replicas["description"].as_str().unwrap().len() > 20);
    // Every reference leads somewhere.
    let text = document.to_string();
    for reference in text.split("#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(schemas.get(name).is_some(), "{name}");
    }
    assert!(v3::document(&table, "apps", "v9", &none).is_none());
    let index = v3::index(&table);
    assert!(
        index["paths"]["apis/apps/v1"]["serverRelativeURL"]
            .as_str()
            .unwrap()
            .starts_with("/openapi/v3/apis/apps/v1?hash=")
    );
}

#[test]
fn version_2_is_complete_and_encodes() {
    let document = v2::document(&KindTable::builtin(), &none);
    let text = document.to_string();
    for reference in text.split("#/definitions/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(document["definitions"].get(name).is_some(), "{name}");
    }
    let bytes = gnostic::encode(&document);
    // swagger = 1: "2.0", then info.
    assert_eq!(&bytes[..6], b"\x0a\x032.0\x12");
    println!("version 2: {} bytes of JSON, {} of protobuf", text.len(), bytes.len());
    assert!(bytes.len() > 100_000);
}

#[test]
fn custom_resources_are_in_the_documents() {
    let schema = json!({"type": "object", "description": "A cron.", "properties": {"spec": {"type": "object",
        "properties": {"n": {"type": "integer", "nullable": true}, "p": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}}}}});
    let definition = json!({"metadata": {"name": "crons.stable.example.com", "uid": "u"}, "spec": {"group": "stable.example.com",
        "names": {"plural": "crons", "kind": "Cron"}, "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}});
    let mut table = KindTable::builtin();
    let before = v3::hash(&table, "stable.example.com", "v1");
    for row in crate::kinds::custom::from_definition(&definition).unwrap() {
        table.insert(Arc::new(row));
    }
    assert_ne!(before, v3::hash(&table, "stable.example.com", "v1"));
    let raw = schema.clone();
    let schemas = move |_: &Kind| Some(raw.clone());
    let document = v3::document(&table, "stable.example.com", "v1", &schemas).unwrap();
    let component = &document["components"]["schemas"]["com.example.stable.v1.Cron"];
    assert_eq!(component["properties"]["spec"], schema["properties"]["spec"]);
    assert_eq!(component["x-kubernetes-group-version-kind"][0]["kind"], "Cron");
    let path = "/apis/stable.example.com/v1/namespaces/{namespace}/crons";
    assert_eq!(document["paths"][path]["get"]["operationId"], "listStableExampleComV1NamespacedCron");
    assert_eq!(
        document["paths"][path]["post"]["requestBody"]["content"]["*/*"]["schema"]["$ref"],
        "#/components/schemas/com.example.stable.v1.Cron"
    );
    let v2 = v2::document(&table, &schemas);
    let spec = &v2["definitions"]["com.example.stable.v1.Cron"]["properties"]["spec"]["properties"];
    assert_eq!(spec, &json!({"n": {}, "p": {"x-kubernetes-int-or-string": true}}));
}

/// The type table against the schemas of `k8s-openapi`, which are made from the published documents on another way:
/// the same fields everywhere, the same kinds of values.
#[test]
fn the_type_table_agrees_with_k8s_openapi() {
    use crate::schema::{Schema, Type, names};
    let table = KindTable::all();
    let mut types: Vec<String> = table.iter().map(|k| operations::type_name(k)).collect();
    types.extend(
        [
            "autoscaling.v1.Scale",
            "policy.v1.Eviction",
            "authentication.v1.TokenRequest",
            "meta.v1.Status",
            "meta.v1.DeleteOptions",
        ]
        .map(str::to_owned),
    );
    let descriptions = describe::Descriptions::of(types.iter().map(String::as_str));
    let (mut compared, mut fields) = (0, 0);
    for (name, definition) in descriptions.definitions() {
        let Some(properties) = definition["properties"].as_object() else { continue };
        let ours = Schema::builtin(name).unwrap_or_else(|| panic!("the table has no {name}"));
        let our_names: Vec<&str> = ours.root().fields().map(|(field, _)| field).collect();
        let mut their_names: Vec<&str> = properties.keys().map(String::as_str).collect();
        their_names.sort_unstable();
        assert_eq!(our_names, their_names, "{name}");
        for (field, node) in ours.root().fields() {
            let property = &properties[field];
            let their_type = property["type"].as_str().unwrap_or_default();
            let fits = match node.ty() {
                Type::List => their_type == "array",
                Type::Map => their_type == "object",
                Type::Bool => their_type == "boolean",
                Type::Int32 => their_type == "integer" && property["format"] == "int32",
                Type::Int64 => their_type == "integer" && property["format"] == "int64",
                Type::Double => their_type == "number",
                Type::String | Type::Bytes => their_type == "string",
                Type::Object => property["$ref"].as_str().is_some_and(|r| r.ends_with(&names::full(node.type_name()))),
                _ => true,
            };
            assert!(fits, "{name}.{field}: {node:?} against {property}");
            fields += 1;
        }
        compared += 1;
    }
    assert!(compared > 550 && fields > 2_500, "{compared} types, {fields} fields");
}
