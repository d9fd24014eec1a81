//! Several OpenAPI version 2 documents as one: that of this server, and those of aggregated ones.
//!
//! What upstream's aggregator does (`kube-openapi`, package `aggregator`): of each foreign document only what is under the paths
//! of its group and version is taken, with what that refers to. A path that is there already stays. A definition that is there
//! already and says the same is shared; one of the same name that says something else is taken in under another name. What it is
//! for (`x-kubernetes-group-version-kind`) makes no difference between two definitions: the lists are united.

use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

const GVK: &str = "x-kubernetes-group-version-kind";
/// The parts of a document that are referred to by name.
const PARTS: [&str; 2] = ["definitions", "parameters"];

/// What a document has under a path (which ends in a slash), and what that refers to: `paths`, `definitions` and `parameters`.
pub fn under(document: &Value, prefix: &str) -> Value {
    let paths = document.get("paths").and_then(Value::as_object).into_iter().flatten();
    let paths = paths.filter(|(path, _)| path.starts_with(prefix));
    let mut out = Map::new();
    out.insert("paths".into(), Value::Object(paths.map(|(path, item)| (path.clone(), item.clone())).collect()));
    keep_used(document, &mut out);
    Value::Object(out)
}

/// Fills in the definitions and parameters of `document` that are referred to, directly or not.
fn keep_used(document: &Value, out: &mut Map<String, Value>) {
    let mut seen = BTreeSet::new();
    let mut open: Vec<&Value> = document_paths(out);
    let mut kept: BTreeMap<&str, Map<String, Value>> = PARTS.into_iter().map(|part| (part, Map::new())).collect();
    while let Some(value) = open.pop() {
        let mut found = vec![];
        references(value, &mut |reference| found.push(reference));
        for reference in found {
            let Some((part, name)) = split(reference) else { continue };
            let Some(target) = document.get(part).and_then(|all| all.get(name)) else { continue };
            if seen.insert(reference) {
                kept.entry(part).or_default().insert(name.to_owned(), target.clone());
                open.push(target);
            }
        }
    }
    out.extend(kept.into_iter().map(|(part, all)| (part.to_owned(), Value::Object(all))));
}

fn document_paths(of: &Map<String, Value>) -> Vec<&Value> {
    of.get("paths").and_then(Value::as_object).into_iter().flatten().map(|(_, item)| item).collect()
}

/// Takes a foreign document, as [`under`] makes it, into another one.
pub fn merge(into: &mut Value, mut from: Value) {
    if let (Some(present), Some(paths)) = (object(into, "paths"), from.get_mut("paths").and_then(Value::as_object_mut))
    {
        paths.retain(|path, _| !present.contains_key(path));
    }
    // What only the paths referred to that are left out is left out, too.
    let mut kept = Map::new();
    kept.insert("paths".into(), from.get("paths").cloned().unwrap_or_default());
    if document_paths(&kept).is_empty() {
        return;
    }
    keep_used(&from, &mut kept);
    from = Value::Object(kept);
    make_room(into, &mut from);
    for part in ["paths"].into_iter().chain(PARTS) {
        let Some(Value::Object(new)) = from.get_mut(part).map(Value::take) else { continue };
        if new.is_empty() {
            continue;
        }
        let present = into.as_object_mut().map(|all| all.entry(part).or_insert_with(|| Value::Object(Map::new())));
        let Some(present) = present.and_then(Value::as_object_mut) else { continue };
        for (name, value) in new {
            match present.get_mut(&name) {
                Some(there) => unite_kinds(there, &value),
                None => drop(present.insert(name, value)),
            }
        }
    }
}

fn object<'a>(document: &'a Value, part: &str) -> Option<&'a Map<String, Value>> {
    document.get(part).and_then(Value::as_object)
}

/// Renames what has the name of something else. What refers to it says something else by that, too: until nothing is left.
fn make_room(into: &Value, from: &mut Value) {
    loop {
        let mut renames: BTreeMap<String, String> = BTreeMap::new();
        for part in PARTS {
            let (Some(present), Some(new)) = (object(into, part), object(from, part)) else { continue };
            let mut given: BTreeSet<String> = BTreeSet::new();
            for (name, value) in new {
                if present.get(name).is_none_or(|there| says_the_same(there, value)) {
                    continue;
                }
                // One that was renamed before may be the same.
                let fits = |other: &String| match present.get(other) {
                    Some(there) => says_the_same(there, value),
                    None => !new.contains_key(other) && !given.contains(other),
                };
                if let Some(other) = (2..).map(|n| format!("{name}_v{n}")).find(fits) {
                    renames.insert(format!("#/{part}/{name}"), format!("#/{part}/{other}"));
                    given.insert(other);
                }
            }
        }
        if renames.is_empty() {
            return;
        }
        rename(from, &renames);
    }
}

fn rename(from: &mut Value, renames: &BTreeMap<String, String>) {
    for part in PARTS {
        let Some(Value::Object(all)) = from.get_mut(part) else { continue };
        let old = std::mem::take(all);
        all.extend(old.into_iter().map(|(name, value)| {
            let new = renames.get(&format!("#/{part}/{name}")).and_then(|new| split(new));
            (new.map_or(name, |(_, new)| new.to_owned()), value)
        }));
    }
    redirect(from, renames);
}

fn says_the_same(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else { return a == b };
    let fields = |of: &Map<String, Value>| of.keys().filter(|key| *key != GVK).count();
    fields(a) == fields(b) && a.iter().filter(|(key, _)| *key != GVK).all(|(key, value)| b.get(key) == Some(value))
}

fn unite_kinds(there: &mut Value, more: &Value) {
    let Some(more) = more.get(GVK).and_then(Value::as_array) else { return };
    let Some(there) = there.as_object_mut() else { return };
    let list = there.entry(GVK).or_insert_with(|| Value::Array(vec![]));
    if let Some(list) = list.as_array_mut() {
        for one in more {
            if !list.contains(one) {
                list.push(one.clone());
            }
        }
    }
}

/// The part and name that a reference into the same document leads to.
fn split(reference: &str) -> Option<(&'static str, &str)> {
    let (part, name) = reference.strip_prefix("#/")?.split_once('/')?;
    PARTS.into_iter().find(|known| *known == part).map(|part| (part, name))
}

fn references<'a>(value: &'a Value, found: &mut impl FnMut(&'a str)) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::String(text) if key == "$ref" => found(text),
                    value => references(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

fn redirect(value: &mut Value, renames: &BTreeMap<String, String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::String(text) if key == "$ref" => {
                        if let Some(new) = renames.get(text) {
                            text.clone_from(new);
                        }
                    }
                    value => redirect(value, renames),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| redirect(item, renames)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn get(name: &str) -> Value {
        json!({"get": {"responses": {"200": {"schema": {"$ref": format!("#/definitions/{name}")}}}}})
    }

    #[test]
    fn only_what_is_under_the_prefix_and_what_it_needs_is_taken() {
        let document = json!({
            "swagger": "2.0",
            "paths": {
                "/apis/g/v1/things": {"get": {"parameters": [{"$ref": "#/parameters/limit"}], "responses": {"200": {"schema": {"$ref": "#/definitions/Thing"}}}}},
                "/apis/g/v10/things": get("Other"),
                "/api/v1/secrets": get("Secret"),
            },
            "definitions": {
                "Thing": {"properties": {"part": {"$ref": "#/definitions/Part"}, "gone": {"$ref": "#/definitions/Gone"}}},
                "Part": {"items": {"$ref": "#/definitions/Thing"}},
                "Other": {}, "Secret": {},
            },
            "parameters": {"limit": {"name": "limit"}, "unused": {}},
        });
        let found = under(&document, "/apis/g/v1/");
        let keys = |part: &str| found[part].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys("paths"), ["/apis/g/v1/things"]);
        assert_eq!(keys("definitions"), ["Part", "Thing"]);
        assert_eq!(keys("parameters"), ["limit"]);
        assert_eq!(under(&json!("rubbish"), "/"), json!({"paths": {}, "definitions": {}, "parameters": {}}));
    }

    #[test]
    fn what_is_there_stays_and_the_same_is_shared() {
        let mut into = json!({"paths": {"/a": get("Mine")}, "definitions": {
            "Meta": {"type": "object", GVK: [{"kind": "A"}]}, "Mine": {}}});
        let from = json!({"paths": {"/a": get("Theirs"), "/b": get("Meta")}, "definitions": {
            "Theirs": {}, "Meta": {"type": "object", GVK: [{"kind": "A"}, {"kind": "B"}]}}});
        merge(&mut into, from);
        assert_eq!(into["paths"], json!({"/a": get("Mine"), "/b": get("Meta")}));
        assert_eq!(
            into["definitions"],
            json!({"Meta": {"type": "object", GVK: [{"kind": "A"}, {"kind": "B"}]}, "Mine": {}}),
            "what only a path that stays out needs stays out, too"
        );
    }

    #[test]
    fn others_of_the_same_name_get_another_and_so_does_what_refers_to_them() {
        let whole = |text: &str| {
            json!({"Outer": {"properties": {"x": {"$ref": "#/definitions/Inner"}}}, "Inner": {"description": text},
                "Same": {"type": "string"}})
        };
        let path = |name: &str| {
            json!({"get": {"parameters": [{"$ref": "#/parameters/p"}],
            "responses": {"200": {"schema": {"$ref": format!("#/definitions/{name}")}}, "201": {"schema": {"$ref": "#/definitions/Same"}}}}})
        };
        let mut into =
            json!({"paths": {"/a": path("Outer")}, "definitions": whole("mine"), "parameters": {"p": {"name": "p"}}});
        into["definitions"]["Inner_v2"] = json!({"taken": true});
        let from = |text: &str, at: &str| {
            let mut paths = Map::new();
            paths.insert(at.into(), path("Outer"));
            json!({"paths": paths, "definitions": whole(text), "parameters": {"p": {"name": "another"}}})
        };
        merge(&mut into, from("theirs", "/b"));
        let found = &into["definitions"];
        assert_eq!(found["Inner"]["description"], "mine");
        assert_eq!(found["Outer"]["properties"]["x"]["$ref"], "#/definitions/Inner");
        assert_eq!(found["Inner_v3"]["description"], "theirs");
        assert_eq!(found["Outer_v2"]["properties"]["x"]["$ref"], "#/definitions/Inner_v3");
        assert_eq!(into["parameters"], json!({"p": {"name": "p"}, "p_v2": {"name": "another"}}));
        let of = &into["paths"]["/b"]["get"];
        assert_eq!(of["parameters"][0]["$ref"], "#/parameters/p_v2");
        assert_eq!(of["responses"]["200"]["schema"]["$ref"], "#/definitions/Outer_v2");
        assert_eq!(of["responses"]["201"]["schema"]["$ref"], "#/definitions/Same");
        // A third one like the second shares its names.
        merge(&mut into, from("theirs", "/c"));
        assert_eq!(into["paths"]["/a"], path("Outer"));
        let third = into["paths"]["/c"]["get"]["responses"]["200"]["schema"]["$ref"].as_str().unwrap().to_owned();
        assert_eq!(third, "#/definitions/Outer_v2");
        merge(&mut into, from("others", "/d"));
        assert_eq!(into["definitions"]["Inner_v4"]["description"], "others");
        assert_eq!(into["definitions"].as_object().unwrap().len(), 8);
    }
}
