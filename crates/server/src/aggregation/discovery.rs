//! Discovery documents with the groups of other servers among this server's own, in the order of their priorities.

use super::local::priorities;
use super::{Aggregation, Claim, remote::Known};
use caravel_api::kinds::{KindTable, compare_versions};
use serde_json::{Map, Value, json};

/// A version of a group that is not this server's own.
struct Foreign {
    group: String,
    version: String,
    priorities: (i64, i64),
    known: Known,
}

impl Aggregation {
    fn foreign(&self) -> Vec<Foreign> {
        let remotes = self.remotes();
        let mut out: Vec<Foreign> = remotes
            .iter()
            .map(|remote| Foreign {
                group: remote.group.clone(),
                version: remote.version.clone(),
                priorities: (remote.group_priority, remote.version_priority),
                known: remote.known(),
            })
            .collect();
        for part in self.parts() {
            let (group, version) = (part.group().to_owned(), part.version().to_owned());
            if !matches!(self.claim(&group, &version), Some(Claim::InProcess(_))) {
                continue;
            }
            let priorities = priorities(&group, &version, false);
            let known = Known { available: true, resources: Some(part.resources()), document: None };
            out.push(Foreign { group, version, priorities, known });
        }
        out
    }

    /// The APIGroupList (or one group of it) with all groups.
    pub(crate) fn group_list(&self, kinds: &KindTable, mut document: Value) -> Value {
        let foreign = self.foreign();
        if foreign.is_empty() {
            return document;
        }
        let entry =
            |one: &Foreign| json!({"groupVersion": format!("{}/{}", one.group, one.version), "version": one.version});
        let own = document["groups"].as_array().cloned().unwrap_or_default();
        let own = own.into_iter().map(|g| (g["name"].clone(), g["versions"].clone()));
        let merged = merge(kinds, own, &foreign, entry);
        document["groups"] = merged
            .into_iter()
            .map(|(name, versions)| json!({"name": name, "preferredVersion": versions.first(), "versions": versions}))
            .collect();
        document
    }

    /// The aggregated document with all groups. What does not answer is shown as it was, and as stale.
    pub(crate) fn aggregated(&self, kinds: &KindTable, mut document: Value) -> Value {
        let foreign = self.foreign();
        if foreign.is_empty() {
            return document;
        }
        let entry = |one: &Foreign| {
            let freshness = if one.known.available { "Current" } else { "Stale" };
            let resources = one.known.resources.as_ref().map(|list| resources(list, &one.group, &one.version));
            let mut entry = json!({"version": one.version, "freshness": freshness});
            // What is not known is left out: client libraries take null for an error.
            if let Some(resources) = resources {
                entry["resources"] = resources;
            }
            entry
        };
        let own = document["items"].as_array().cloned().unwrap_or_default();
        let own = own.into_iter().map(|item| (item["metadata"]["name"].clone(), item["versions"].clone()));
        let merged = merge(kinds, own, &foreign, entry);
        document["items"] = merged
            .into_iter()
            .map(
                |(name, versions)| json!({"metadata": {"name": name, "creationTimestamp": null}, "versions": versions}),
            )
            .collect();
        document
    }

    /// The index of OpenAPI documents with those of other servers.
    pub(crate) fn openapi_index(&self, mut index: Value) -> Value {
        for remote in self.remotes().iter() {
            let path = format!("apis/{}/{}", remote.group, remote.version);
            match remote.known().document {
                Some(url) => index["paths"][path] = json!({"serverRelativeURL": url}),
                None => {
                    if let Some(paths) = index["paths"].as_object_mut() {
                        paths.remove(&path);
                    }
                }
            }
        }
        index
    }

    /// Paths under `/apis` that are not this server's own.
    pub(crate) fn paths(&self) -> Vec<String> {
        if self.is_empty() {
            return vec![];
        }
        let foreign = self.foreign();
        foreign
            .iter()
            .flat_map(|f| [format!("/apis/{}", f.group), format!("/apis/{}/{}", f.group, f.version)])
            .collect()
    }
}

type Groups = Vec<(String, Vec<Value>)>;

/// A group with its priority, and its versions with theirs.
type Ranked = (i64, String, Vec<(i64, Value)>);

/// Puts foreign versions among this server's own, and the groups in the order of their priorities. A foreign version stands
/// in place of an own one of the same name.
fn merge(
    kinds: &KindTable,
    own: impl Iterator<Item = (Value, Value)>,
    foreign: &[Foreign],
    entry: impl Fn(&Foreign) -> Value,
) -> Groups {
    let version_of = |value: &Value| value["version"].as_str().unwrap_or_default().to_owned();
    let mut groups: Vec<Ranked> = vec![];
    for (name, versions) in own {
        let name = name.as_str().unwrap_or_default().to_owned();
        let custom = kinds.iter().filter(|k| k.group == name).all(|k| k.is_custom());
        let minimum = priorities(&name, "v1", custom).0;
        let versions = versions.as_array().cloned().unwrap_or_default();
        let versions = versions.into_iter().map(|v| (priorities(&name, &version_of(&v), custom).1, v)).collect();
        groups.push((minimum, name, versions));
    }
    for one in foreign {
        let at = groups.iter().position(|(_, name, _)| *name == one.group);
        let at = at.unwrap_or_else(|| {
            groups.push((0, one.group.clone(), vec![]));
            groups.len() - 1
        });
        let (minimum, _, versions) = &mut groups[at];
        *minimum = one.priorities.0.max(*minimum);
        versions.retain(|(_, value)| version_of(value) != one.version);
        versions.push((one.priorities.1, entry(one)));
    }
    // Own groups keep their order where priorities are equal.
    groups.sort_by_key(|(minimum, ..)| std::cmp::Reverse(*minimum));
    groups
        .into_iter()
        .map(|(_, name, mut versions)| {
            versions.sort_by(|(a, x), (b, y)| b.cmp(a).then_with(|| compare_versions(&version_of(x), &version_of(y))));
            (name, versions.into_iter().map(|(_, value)| value).collect())
        })
        .collect()
}

/// The resources of an APIResourceList as the aggregated document has them.
fn resources(list: &Value, group: &str, version: &str) -> Value {
    let all = list.as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |value: &Value, field: &str| value[field].as_str().unwrap_or_default().to_owned();
    let kind = |one: &Value| {
        let or = |found: String, own: &str| if found.is_empty() { own.to_owned() } else { found };
        json!({"group": or(text(one, "group"), group), "version": or(text(one, "version"), version), "kind": text(one, "kind")})
    };
    let mut out = vec![];
    for one in all.iter().filter(|one| !text(one, "name").contains('/')) {
        let name = text(one, "name");
        let mut entry = Map::new();
        let scope = if one["namespaced"] == true { "Namespaced" } else { "Cluster" };
        entry.insert("resource".into(), json!(name));
        entry.insert("responseKind".into(), kind(one));
        entry.insert("scope".into(), json!(scope));
        entry.insert("singularResource".into(), json!(text(one, "singularName")));
        entry.insert("verbs".into(), one["verbs"].clone());
        for field in ["shortNames", "categories"] {
            if one[field].is_array() {
                entry.insert(field.into(), one[field].clone());
            }
        }
        let subresources: Vec<Value> = all
            .iter()
            .filter_map(|sub| {
                let door = text(sub, "name").strip_prefix(&format!("{name}/"))?.to_owned();
                Some(json!({"subresource": door, "responseKind": kind(sub), "verbs": sub["verbs"]}))
            })
            .collect();
        if !subresources.is_empty() {
            entry.insert("subresources".into(), subresources.into());
        }
        out.push(Value::Object(entry));
    }
    Value::Array(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_stand_in_the_order_of_their_priorities() {
        let kinds = KindTable::builtin();
        let own = ["apps", "batch"].map(|name| (json!(name), json!([{"version": "v1"}])));
        let one = |group: &str, version: &str, priorities: (i64, i64)| Foreign {
            group: group.into(),
            version: version.into(),
            priorities,
            known: Known::default(),
        };
        let foreign =
            [one("wardle", "v1alpha1", (2000, 5)), one("wardle", "v1", (1000, 9)), one("first", "v1", (19_000, 1))];
        let merged = merge(&kinds, own.into_iter(), &foreign, |f| json!({"version": f.version}));
        let names: Vec<&str> = merged.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["first", "apps", "batch", "wardle"]);
        assert_eq!(merged[3].1, [json!({"version": "v1"}), json!({"version": "v1alpha1"})]);
    }

    #[test]
    fn lists_become_resources() {
        let list = json!([
            {"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": ["get"]},
            {"name": "flunders/status", "singularName": "", "namespaced": true, "kind": "Flunder", "verbs": ["update"]},
        ]);
        let found = resources(&list, "g", "v1");
        assert_eq!(found.as_array().unwrap().len(), 1);
        assert_eq!(found[0]["responseKind"], json!({"group": "g", "version": "v1", "kind": "Flunder"}));
        assert_eq!(found[0]["subresources"][0]["subresource"], "status");
    }
}
