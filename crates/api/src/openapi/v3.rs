//! OpenAPI version 3: an index and one document a group version (KEP-2896).

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::describe::{COMMON, Descriptions};
use super::operations::{self, Answer, Body, Operation, PathItem};
use super::{CustomSchemas, Style, components, custom};
use crate::kinds::KindTable;
use crate::schema::names;

/// `/openapi/v3`: the documents and where to get them. The hash in each address is that of everything the
/// document is made from, so a client may keep a document for as long as its address is listed.
pub fn index(table: &KindTable) -> Value {
    let mut paths = Map::new();
    for (group, version) in group_versions(table) {
        let path = path(&group, &version);
        let hash = hash(table, &group, &version);
        paths.insert(path.clone(), json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={hash}")}));
    }
    json!({"paths": paths})
}

/// `api/v1`, `apis/apps/v1`: the key of a document.
pub fn path(group: &str, version: &str) -> String {
    match group.is_empty() {
        true => format!("api/{version}"),
        false => format!("apis/{group}/{version}"),
    }
}

/// The group versions that have documents.
pub(super) fn group_versions(table: &KindTable) -> BTreeSet<(String, String)> {
    table.iter().map(|k| (k.group.to_string(), k.version.to_string())).collect()
}

/// A hash of what a document is made from: the program's version, the rows, and the definitions of custom
/// resources by identity and content.
pub fn hash(table: &KindTable, group: &str, version: &str) -> String {
    let mut hasher = Sha256::new();
    hasher.update(concat!("caravel ", env!("CARGO_PKG_VERSION")));
    for kind in table.group_version(group, version) {
        hasher.update(format!("{}/{}/{}/{}\n", kind.group, kind.version, kind.kind, kind.plural));
        for subresource in &kind.subresources {
            hasher.update(format!(" {}\n", subresource.name));
        }
        if let Some(custom) = &kind.custom {
            hasher.update(format!(" {} {}\n", custom.definition_uid, custom.schema_hash));
        }
    }
    let mut hex = String::with_capacity(64);
    for byte in hasher.finalize() {
        hex.push_str(&format!("{byte:02X}"));
    }
    hex
}

/// The document of a group version; `None` if nothing of it is served.
pub fn document(table: &KindTable, group: &str, version: &str, schemas: CustomSchemas<'_>) -> Option<Value> {
    let paths = operations::paths(table, group, version);
    if paths.is_empty() {
        return None;
    }
    let tag = operations::tag(group, version);
    let mut types = types_of(paths.values());
    let mut out = Map::new();
    let customs: Vec<_> = table.group_version(group, version).filter(|k| k.is_custom()).collect();
    if !customs.is_empty() {
        types.extend(["meta.v1.ObjectMeta".to_owned(), "meta.v1.ListMeta".to_owned()]);
    }
    let common = if customs.is_empty() { None } else { Some(COMMON) };
    let descriptions = Descriptions::of(types.iter().map(String::as_str).chain(common));
    for kind in customs {
        out.extend(custom::components(kind, schemas(kind), Style::V3, &descriptions));
    }
    components::closure(&mut types);
    types.retain(|t| !out.contains_key(t));
    for name in &types {
        let versions = [(group.to_owned(), version.to_owned())];
        out.insert(names::full(name), components::component(name, Style::V3, &descriptions, &versions));
    }
    let paths: Map<String, Value> = paths.into_iter().map(|(path, item)| (path, path_item(item, &tag))).collect();
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.36.0"},
        "paths": paths,
        "components": {"schemas": out, "securitySchemes": {"BearerToken": {
            "type": "apiKey", "in": "header", "name": "authorization", "description": "Bearer token"}}},
    }))
}

/// The types that operations carry.
pub(super) fn types_of<'a>(items: impl Iterator<Item = &'a PathItem>) -> BTreeSet<String> {
    let mut types = BTreeSet::new();
    for operation in items.flat_map(|i| i.operations.values()) {
        types.extend(match &operation.body {
            Body::Nothing => None,
            Body::Object(name) => Some(name.clone()),
            Body::DeleteOptions => Some("meta.v1.DeleteOptions".to_owned()),
            Body::Patch { .. } => Some("meta.v1.Patch".to_owned()),
        });
        match &operation.answer {
            Answer::Object(name) => {
                types.insert(name.clone());
            }
            Answer::List(name) => types.extend([name.clone(), "meta.v1.WatchEvent".to_owned()]),
            Answer::Text | Answer::Anything => {}
        }
    }
    types
}

fn path_item(item: PathItem, tag: &str) -> Value {
    let mut out = Map::new();
    let parameters: Vec<Value> = item.path_parameters.iter().map(|name| path_parameter(name)).collect();
    if !parameters.is_empty() {
        out.insert("parameters".to_owned(), parameters.into());
    }
    for (method, operation) in item.operations {
        out.insert(method.to_owned(), render(operation, tag));
    }
    out.into()
}

fn path_parameter(name: &str) -> Value {
    json!({"in": "path", "name": name, "required": true, "description": path_text(name),
        "schema": {"type": "string", "uniqueItems": true}})
}

/// What a path parameter is.
pub(super) fn path_text(name: &str) -> &'static str {
    match name {
        "name" => "Name of the object.",
        "namespace" => "Namespace of the object.",
        _ => "Path at the target.",
    }
}

fn render(operation: Operation, tag: &str) -> Value {
    let parameters: Vec<Value> = operation
        .parameters
        .iter()
        .map(|p| {
            json!({"in": "query", "name": p.name, "description": p.description,
                "schema": {"type": p.ty, "uniqueItems": true}})
        })
        .collect();
    let mut responses = Map::new();
    for (code, text) in operation.codes {
        responses.insert((*code).to_owned(), json!({"description": text, "content": content(&operation.answer)}));
    }
    responses.insert("401".to_owned(), json!({"description": "Unauthorized"}));
    let mut out = Map::new();
    out.insert("operationId".to_owned(), operation.id.into());
    out.insert("description".to_owned(), operation.description.into());
    out.insert("tags".to_owned(), json!([tag]));
    out.insert("parameters".to_owned(), parameters.into());
    out.insert("responses".to_owned(), responses.into());
    out.insert("x-kubernetes-action".to_owned(), operation.action.into());
    let gvk = &operation.gvk;
    out.insert(
        "x-kubernetes-group-version-kind".to_owned(),
        json!({"group": gvk.group, "version": gvk.version, "kind": gvk.kind}),
    );
    if let Some(body) = request_body(&operation.body) {
        out.insert("requestBody".to_owned(), body);
    }
    out.into()
}

fn reference(name: &str) -> Value {
    // Names of custom components are full already; those of built-in types are short.
    let full = if crate::schema::Schema::builtin(name).is_some() || name == "meta.v1.Patch" {
        names::full(name)
    } else {
        name.to_owned()
    };
    json!({"schema": {"$ref": Style::V3.reference(&full)}})
}

fn request_body(body: &Body) -> Option<Value> {
    Some(match body {
        Body::Nothing => return None,
        Body::Object(name) => json!({"required": true, "content": {"*/*": reference(name)}}),
        Body::DeleteOptions => json!({"content": {"*/*": reference("meta.v1.DeleteOptions")}}),
        Body::Patch { strategic } => {
            let content: Map<String, Value> =
                patch_types(*strategic).iter().map(|media| ((*media).to_owned(), reference("meta.v1.Patch"))).collect();
            json!({"required": true, "content": content})
        }
    })
}

/// Media types of patches.
pub(super) fn patch_types(strategic: bool) -> &'static [&'static str] {
    const TYPES: [&str; 4] = [
        "application/apply-patch+yaml",
        "application/json-patch+json",
        "application/merge-patch+json",
        "application/strategic-merge-patch+json",
    ];
    if strategic { &TYPES } else { &TYPES[..3] }
}

const MEDIA: [&str; 3] = ["application/json", "application/vnd.kubernetes.protobuf", "application/yaml"];
const WATCH_MEDIA: [&str; 2] = ["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];

fn content(answer: &Answer) -> Value {
    let all = |media: &[&str], schema: Value| -> Map<String, Value> {
        media.iter().map(|m| ((*m).to_owned(), schema.clone())).collect()
    };
    let text = json!({"schema": {"type": "string"}});
    match answer {
        Answer::Object(name) => all(&MEDIA, reference(name)),
        Answer::List(name) => {
            let mut content = all(&MEDIA, reference(name));
            content.extend(all(&WATCH_MEDIA, reference(name)));
            content
        }
        Answer::Text => all(&["text/plain"], text),
        Answer::Anything => all(&["*/*"], text),
    }
    .into()
}
