//! OpenAPI version 2: one document for everything, for clients from before version 3.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::describe::Descriptions;
use super::operations::{self, Answer, Body, Operation, PathItem};
use super::{CustomSchemas, Style, components, custom, v3};
use crate::kinds::KindTable;
use crate::schema::{Schema, names};

/// `/openapi/v2`.
pub fn document(table: &KindTable, schemas: CustomSchemas<'_>) -> Value {
    let versions: Vec<(String, String)> = v3::group_versions(table).into_iter().collect();
    let mut types = BTreeSet::new();
    let mut definitions = Map::new();
    let mut all_paths = Map::new();
    for (group, version) in &versions {
        let paths = operations::paths(table, group, version);
        types.extend(v3::types_of(paths.values()));
        let tag = operations::tag(group, version);
        all_paths.extend(paths.into_iter().map(|(path, item)| (path, path_item(item, &tag))));
    }
    let descriptions = Descriptions::of(types.iter().map(String::as_str));
    for kind in table.iter().filter(|k| k.is_custom()) {
        definitions.extend(custom::components(kind, schemas(kind), Style::V2, &descriptions));
    }
    components::closure(&mut types);
    types.retain(|t| !definitions.contains_key(t));
    for name in &types {
        definitions.insert(names::full(name), components::component(name, Style::V2, &descriptions, &versions));
    }
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": "v1.36.0"},
        "paths": all_paths,
        "definitions": definitions,
        "securityDefinitions": {"BearerToken": {
            "type": "apiKey", "in": "header", "name": "authorization", "description": "Bearer token"}},
        "security": [{"BearerToken": []}],
    })
}

/// A hash of what the document is made from, for its `ETag`.
pub fn hash(table: &KindTable) -> String {
    let all: Vec<String> =
        v3::group_versions(table).iter().map(|(group, version)| v3::hash(table, group, version)).collect();
    use sha2::{Digest, Sha256};
    Sha256::digest(all.concat()).iter().map(|byte| format!("{byte:02X}")).collect()
}

fn path_item(item: PathItem, tag: &str) -> Value {
    let mut out = Map::new();
    let parameters: Vec<Value> = item
        .path_parameters
        .iter()
        .map(|name| {
            json!({"in": "path", "name": name, "required": true, "type": "string", "uniqueItems": true,
                "description": v3::path_text(name)})
        })
        .collect();
    if !parameters.is_empty() {
        out.insert("parameters".to_owned(), parameters.into());
    }
    for (method, operation) in item.operations {
        out.insert(method.to_owned(), render(operation, tag));
    }
    out.into()
}

fn reference(name: &str) -> Value {
    let full = match Schema::builtin(name).is_some() || name == "meta.v1.Patch" {
        true => names::full(name),
        false => name.to_owned(),
    };
    json!({"$ref": Style::V2.reference(&full)})
}

fn render(operation: Operation, tag: &str) -> Value {
    let mut parameters = Vec::new();
    let mut consumes: &[&str] = &["*/*"];
    let body = |name: &str, required: bool| {
        let mut body = json!({"in": "body", "name": "body", "schema": reference(name)});
        if required {
            body["required"] = true.into();
        }
        body
    };
    match &operation.body {
        Body::Nothing => {}
        Body::Object(name) => parameters.push(body(name, true)),
        Body::DeleteOptions => parameters.push(body("meta.v1.DeleteOptions", false)),
        Body::Patch { strategic } => {
            parameters.push(body("meta.v1.Patch", true));
            consumes = v3::patch_types(*strategic);
        }
    }
    parameters.extend(operation.parameters.iter().map(
        |p| json!({"in": "query", "name": p.name, "description": p.description, "type": p.ty, "uniqueItems": true}),
    ));
    let (produces, schema): (&[&str], Value) = match &operation.answer {
        Answer::Object(name) => (&PRODUCES[..3], reference(name)),
        Answer::List(name) => (&PRODUCES, reference(name)),
        Answer::Text => (&["text/plain"], json!({"type": "string"})),
        Answer::Anything => (&["*/*"], json!({"type": "string"})),
    };
    let mut responses = Map::new();
    for (code, text) in operation.codes {
        responses.insert((*code).to_owned(), json!({"description": text, "schema": schema}));
    }
    responses.insert("401".to_owned(), json!({"description": "Unauthorized"}));
    let gvk = &operation.gvk;
    json!({
        "operationId": operation.id,
        "description": operation.description,
        "tags": [tag],
        "schemes": ["https"],
        "consumes": consumes,
        "produces": produces,
        "parameters": parameters,
        "responses": responses,
        "x-kubernetes-action": operation.action,
        "x-kubernetes-group-version-kind": {"group": gvk.group, "version": gvk.version, "kind": gvk.kind},
    })
}

const PRODUCES: [&str; 5] = [
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
];
