//! The aggregated discovery document, `apidiscovery.k8s.io/v2` (KEP-3352).

use serde_json::{Map, Value, json};

use super::groups::groups;
use crate::kinds::{Gvk, Kind, KindTable, Subresource, Verbs};

/// Media type of the document, as the response must state it.
pub const CONTENT_TYPE: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Media type that clients older than 1.30 ask for.
pub const CONTENT_TYPE_V2BETA1: &str = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";

/// Which of the two doors a document is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// `/api`: the core group.
    Api,
    /// `/apis`: the named groups.
    Apis,
}

/// The version of aggregated discovery that an `Accept` header prefers, `v2` or `v2beta1`; `None` if the header
/// rather wants the older documents. Media ranges are tried in the order of the header.
pub fn is_aggregated_request(accept: &str) -> Option<&'static str> {
    for range in accept.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let parameters: Vec<&str> = parts.collect();
        let json = matches!(media, "application/json" | "application/*" | "*/*");
        if json && parameters.contains(&"as=APIGroupDiscoveryList") && parameters.contains(&"g=apidiscovery.k8s.io") {
            match parameters.iter().find_map(|p| p.strip_prefix("v=")) {
                Some("v2") => return Some("v2"),
                Some("v2beta1") => return Some("v2beta1"),
                _ => continue,
            }
        }
        let plain = parameters.iter().all(|p| !p.starts_with("as=") && !p.starts_with("g="));
        if json && plain {
            return None;
        }
    }
    None
}

/// The document for one door. `version` is `v2` or `v2beta1`.
pub fn aggregated(table: &KindTable, door: Door, version: &str) -> Value {
    let items: Vec<Value> = match door {
        Door::Api => vec![json!({
            "metadata": {"creationTimestamp": null},
            "versions": [one_version(table, "", "v1")],
        })],
        Door::Apis => groups(table)
            .iter()
            .map(|group| {
                let versions: Vec<Value> = group.versions.iter().map(|v| one_version(table, &group.name, v)).collect();
                json!({"metadata": {"name": group.name, "creationTimestamp": null}, "versions": versions})
            })
            .collect(),
    };
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {},
        "items": items,
    })
}

fn one_version(table: &KindTable, group: &str, version: &str) -> Value {
    let resources: Vec<Value> = table.group_version(group, version).map(|k| resource(k)).collect();
    json!({"version": version, "freshness": "Current", "resources": resources})
}

fn resource(kind: &Kind) -> Value {
    let mut out = Map::new();
    out.insert("resource".to_owned(), (*kind.plural).into());
    out.insert("responseKind".to_owned(), response_kind(kind, &kind.gvk()));
    out.insert("scope".to_owned(), if kind.namespaced { "Namespaced" } else { "Cluster" }.into());
    out.insert("singularResource".to_owned(), (*kind.singular).into());
    out.insert("verbs".to_owned(), verbs(kind.verbs));
    for (key, list) in [("shortNames", &kind.short_names), ("categories", &kind.categories)] {
        if !list.is_empty() {
            out.insert(key.to_owned(), list.iter().map(|s| &**s).collect::<Vec<&str>>().into());
        }
    }
    if !kind.subresources.is_empty() {
        let subresources: Vec<Value> = kind.subresources.iter().map(|s| subresource(kind, s)).collect();
        out.insert("subresources".to_owned(), subresources.into());
    }
    out.into()
}

fn subresource(kind: &Kind, subresource: &Subresource) -> Value {
    json!({
        "subresource": subresource.name,
        "responseKind": response_kind(kind, &subresource.kind),
        "verbs": verbs(subresource.verbs),
    })
}

/// Group and version stay empty where they are those of the document's section. Custom resources
/// state theirs in full, as upstream's definitions controller does.
fn response_kind(kind: &Kind, gvk: &Gvk) -> Value {
    let own = gvk.group == kind.group && gvk.version == kind.version;
    match own && !kind.is_custom() {
        true => json!({"group": "", "version": "", "kind": gvk.kind}),
        false => json!({"group": gvk.group, "version": gvk.version, "kind": gvk.kind}),
    }
}

fn verbs(verbs: Verbs) -> Value {
    verbs.names().collect::<Vec<_>>().into()
}
