//! The discovery documents from before aggregation: one request a group version.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::groups::{Group, groups};
use crate::kinds::{Gvk, Kind, KindTable, Verbs, join_api_version};

/// `/api`: the versions of the core group. `address` is `host:port` of this server as clients reach it.
pub fn api_versions(address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    })
}

/// `/apis`: every named group.
pub fn api_group_list(table: &KindTable) -> Value {
    let groups: Vec<Value> = groups(table).iter().map(group_value).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/{group}`; `None` if nothing of that group is served.
pub fn api_group(table: &KindTable, name: &str) -> Option<Value> {
    let group = groups(table).into_iter().find(|g| g.name == name)?;
    let Value::Object(mut value) = group_value(&group) else { return None };
    value.insert("kind".to_owned(), "APIGroup".into());
    value.insert("apiVersion".to_owned(), "v1".into());
    Some(value.into())
}

fn group_value(group: &Group) -> Value {
    let version = |v: &str| json!({"groupVersion": join_api_version(&group.name, v), "version": v});
    let versions: Vec<Value> = group.versions.iter().map(|v| version(v)).collect();
    json!({"name": group.name, "preferredVersion": versions.first(), "versions": versions})
}

/// `/api/v1` or `/apis/{group}/{version}`; `None` if nothing of that group version is served.
pub fn api_resource_list(table: &KindTable, group: &str, version: &str) -> Option<Value> {
    let mut resources = Vec::new();
    for kind in table.group_version(group, version) {
        resources.push(resource(kind));
        for sub in &kind.subresources {
            let name = format!("{}/{}", kind.plural, sub.name);
            resources.push(entry(kind, &name, "", &sub.kind, sub.verbs).into());
        }
    }
    if resources.is_empty() {
        return None;
    }
    Some(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": join_api_version(group, version),
        "resources": resources,
    }))
}

fn resource(kind: &Kind) -> Value {
    let mut out = entry(kind, &kind.plural, &kind.singular, &kind.gvk(), kind.verbs);
    for (key, list) in [("shortNames", &kind.short_names), ("categories", &kind.categories)] {
        if !list.is_empty() {
            out.insert(key.to_owned(), list.iter().map(|s| &**s).collect::<Vec<&str>>().into());
        }
    }
    if kind.verbs.contains(Verbs::LIST) && kind.verbs.contains(Verbs::CREATE) {
        out.insert("storageVersionHash".to_owned(), storage_version_hash(kind).into());
    }
    out.into()
}

fn entry(kind: &Kind, name: &str, singular: &str, gvk: &Gvk, verbs: Verbs) -> Map<String, Value> {
    let mut out = Map::new();
    out.insert("name".to_owned(), name.into());
    out.insert("singularName".to_owned(), singular.into());
    out.insert("namespaced".to_owned(), kind.namespaced.into());
    if gvk.group != kind.group || gvk.version != kind.version {
        out.insert("group".to_owned(), (*gvk.group).into());
        out.insert("version".to_owned(), (*gvk.version).into());
    }
    out.insert("kind".to_owned(), (*gvk.kind).into());
    out.insert("verbs".to_owned(), verbs.names().collect::<Vec<_>>().into());
    out
}

/// A short opaque hash of the stored form: clients compare it to see whether two resources share storage.
fn storage_version_hash(kind: &Kind) -> String {
    let stored = format!("{}/{}/{}", kind.storage_group, kind.storage_version, kind.kind);
    STANDARD.encode(&Sha256::digest(stored)[..8])
}
