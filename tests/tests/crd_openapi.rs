//! What definitions publish: OpenAPI of versions 2 and 3, and what kubectl makes of it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use caravel_tests::Namespace;
use serde_json::{Value, json};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

struct World {
    ns: Namespace,
    made: Vec<String>,
}

impl World {
    fn new(prefix: &str) -> World {
        World { ns: Namespace::new(prefix), made: vec![] }
    }

    fn group(&self, part: &str) -> String {
        format!("{part}.{}.example.com", self.ns.name)
    }

    /// Creates a definition whose versions all have this schema; its path.
    fn define(&mut self, part: &str, plural: &str, versions: &[&str], schema: &Value) -> String {
        let group = self.group(part);
        let versions: Vec<Value> = versions
            .iter()
            .enumerate()
            .map(|(i, name)| json!({"name": name, "served": true, "storage": i == 0, "schema": {"openAPIV3Schema": schema}}))
            .collect();
        let name = format!("{plural}.{group}");
        let definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": name},
            "spec": {"group": group, "scope": "Namespaced", "names": {"plural": plural, "kind": kind(plural)}, "versions": versions},
        });
        let path = format!("{DEFINITIONS}/{name}");
        self.made.push(path.clone());
        let (code, said) = self.ns.wire().post(DEFINITIONS, &definition);
        assert_eq!(code, 201, "{said}");
        path
    }

    /// The name under which a kind is published.
    fn name(&self, part: &str, version: &str, plural: &str) -> String {
        let group = self.group(part);
        let reversed: Vec<&str> = group.split('.').rev().collect();
        format!("{}.{version}.{}", reversed.join("."), kind(plural))
    }

    /// Waits until version 2 has the schema, as written, under this name, and version 3 has it, too.
    fn published(&self, part: &str, version: &str, plural: &str, wanted: &Value) {
        let name = self.name(part, version, plural);
        self.ns.eventually(&format!("{name} is published"), || {
            let mut found = self.version_2(&name).ok_or("it is not in version 2")?;
            let object = found.as_object_mut().unwrap();
            let gvk = object.remove("x-kubernetes-group-version-kind").unwrap_or_default();
            assert_eq!(gvk, json!([{"group": self.group(part), "version": version, "kind": kind(plural)}]));
            if let Some(properties) = object.get_mut("properties").and_then(Value::as_object_mut) {
                properties.retain(|key, _| !matches!(key.as_str(), "apiVersion" | "kind" | "metadata"));
            }
            if found != *wanted {
                return Err(format!("version 2 has {found}"));
            }
            let (code, document) = self.ns.wire().get(&format!("/openapi/v3/apis/{}/{version}", self.group(part)));
            let schema = &document["components"]["schemas"][&name];
            if code == 200 && schema.is_object() { Ok(()) } else { Err(format!("version 3 answers {code}")) }
        });
        let (_, index) = self.ns.wire().get("/openapi/v3");
        assert!(index["paths"][format!("apis/{}/{version}", self.group(part))].is_object());
    }

    fn withdrawn(&self, part: &str, version: &str, plural: &str) {
        let name = self.name(part, version, plural);
        self.ns.eventually(&format!("{name} is withdrawn"), || {
            let (_, index) = self.ns.wire().get("/openapi/v3");
            let listed = index["paths"][format!("apis/{}/{version}", self.group(part))].is_object();
            if self.version_2(&name).is_none() && !listed { Ok(()) } else { Err("it is still there".into()) }
        });
    }

    fn version_2(&self, name: &str) -> Option<Value> {
        let (code, document) = self.ns.wire().get("/openapi/v2");
        assert_eq!(code, 200);
        document["definitions"].get(name).cloned()
    }

    fn explain(&self, words: &str) -> String {
        self.ns.eventually(&format!("kubectl explains {words}"), || self.ns.try_kubectl(&["explain", words]))
    }

    /// kubectl creates, deletes and applies an object with fields that no schema names.
    fn takes_anything(&self, part: &str, plural: &str, more: &str) {
        let object = format!(
            r#"{{"kind":"{}","apiVersion":"{}/v1","metadata":{{"name":"x"}},{more}}}"#,
            kind(plural),
            self.group(part)
        );
        let full = format!("{plural}.{}", self.group(part));
        for verb in ["create", "apply"] {
            self.ns.eventually("kubectl takes it", || self.ns.try_with_input(&[verb, "-f", "-"], &object));
            self.ns.ok(&["delete", &full, "x"]);
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for path in &self.made {
            self.ns.wire().delete(path);
        }
    }
}

fn kind(plural: &str) -> String {
    let singular = plural.trim_end_matches('s');
    format!("{}{}", singular[..1].to_uppercase(), &singular[1..])
}

/// Whether the pieces come in this order.
fn in_order(text: &str, pieces: &[&str]) {
    let mut rest = text;
    for piece in pieces {
        let at = rest.find(piece).unwrap_or_else(|| panic!("{piece:?} is missing, or too early, in\n{text}"));
        rest = &rest[at + piece.len()..];
    }
}

/// A schema of objects, lists and scalars, with descriptions, an enumeration and a pattern.
fn orchard() -> Value {
    let text = |description: &str| json!({"type": "string", "description": description});
    json!({
        "type": "object", "description": "An orchard for testing",
        "properties": {
            "spec": {"type": "object", "description": "What should grow", "properties": {
                "trees": {"type": "array", "description": "All trees of the orchard.", "items": {
                    "type": "object", "required": ["name"], "properties": {
                        "name": text("Name of the tree."), "age": text("Age of the tree."),
                        "mood": {"type": "string", "description": "How it is.", "enum": ["Fine", "Sad"]},
                        "apples": {"type": "array", "description": "Its apples.", "items": {"type": "string"}},
                    }}},
            }},
            "status": {"type": "object", "description": "What grows", "properties": {
                "trees": {"type": "array", "description": "All trees, as they are.", "items": {"type": "object", "properties": {
                    "name": text("Name of the tree."), "blooms": {"type": "boolean", "description": "Whether it blooms."},
                    "sort": {"type": "string", "description": "Its sort.", "pattern": "early|late"},
                }}},
            }},
        },
    })
}

fn meadow() -> Value {
    json!({"type": "object", "description": "A meadow for testing", "properties": {
        "spec": {"type": "object", "description": "What should grow", "properties": {"dummy": {"type": "object", "description": "Nothing."}}}}})
}

#[test]
fn a_schema_is_published_and_explained() {
    let mut world = World::new("oapi-schema");
    world.define("a", "groves", &["v1"], &orchard());
    world.published("a", "v1", "groves", &orchard());
    let full = format!("groves.{}", world.group("a"));
    let object = |spec: &str| {
        format!(r#"{{"kind":"Grove","apiVersion":"{}/v1","metadata":{{"name":"o"}},"spec":{spec}}}"#, world.group("a"))
    };
    for verb in ["create", "apply"] {
        world.ns.eventually("kubectl takes a good one", || {
            world.ns.try_with_input(&[verb, "-f", "-"], &object(r#"{"trees":[{"name":"t"}]}"#))
        });
        world.ns.ok(&["delete", &full, "o"]);
        for (spec, said) in [
            (r#"{"trees":[{"name":"t","mood":"Angry"}]}"#, "Unsupported value: \"Angry\""),
            (r#"{"foo":true}"#, "unknown field \"spec.foo\""),
            (r#"{"trees":[{"age":"10"}]}"#, "spec.trees[0].name: Required value"),
        ] {
            let refused = world.ns.try_with_input(&[verb, "-f", "-"], &object(spec)).unwrap_err();
            assert!(refused.contains(said), "{spec}: {refused}");
        }
    }
    in_order(
        &world.explain(&full),
        &[
            "DESCRIPTION:",
            "An orchard for testing",
            "FIELDS:",
            "apiVersion",
            "<string>",
            "APIVersion defines",
            "spec",
            "<Object>",
            "What should grow",
        ],
    );
    in_order(
        &world.explain("groves.metadata"),
        &[
            "DESCRIPTION:",
            "Standard object's metadata",
            "FIELDS:",
            "creationTimestamp",
            "<string>",
            "CreationTimestamp is a timestamp",
        ],
    );
    in_order(
        &world.explain("groves.spec"),
        &["DESCRIPTION:", "What should grow", "FIELDS:", "trees", "<[]Object>", "All trees of the orchard."],
    );
    in_order(
        &world.explain("groves.spec.trees"),
        &[
            "trees",
            "<[]Object>",
            "DESCRIPTION:",
            "All trees of the orchard.",
            "FIELDS:",
            "apples",
            "<[]string>",
            "Its apples.",
            "name",
            "<string>",
            "Name of the tree.",
        ],
    );
    let said = world.ns.fails(&["explain", "groves.spec.trees2"]);
    assert!(said.contains("field \"trees2\" does not exist"), "{said}");
}

#[test]
fn without_a_schema_everything_is_taken() {
    let mut world = World::new("oapi-empty");
    world.define("a", "voids", &["v1"], &json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}));
    world.published("a", "v1", "voids", &json!({"type": "object"}));
    world.takes_anything("a", "voids", r#""a":{"b":[{"c":"d"}]}"#);
    in_order(&world.explain(&format!("voids.{}", world.group("a"))), &["DESCRIPTION:", "<empty>"]);
}

#[test]
fn what_is_open_at_the_root_takes_everything() {
    let mut world = World::new("oapi-root");
    let mut schema = meadow();
    schema["x-kubernetes-preserve-unknown-fields"] = json!(true);
    world.define("a", "meadows", &["v1"], &schema);
    world.takes_anything("a", "meadows", r#""a":{"b":[{"c":"d"}]}"#);
    in_order(&world.explain(&format!("meadows.{}", world.group("a"))), &["KIND:", "Meadow"]);
}

#[test]
fn what_is_open_inside_takes_everything_there() {
    let mut world = World::new("oapi-inside");
    let mut schema = meadow();
    schema["properties"]["spec"]["x-kubernetes-preserve-unknown-fields"] = json!(true);
    world.define("a", "meadows", &["v1"], &schema);
    world.takes_anything("a", "meadows", r#""spec":{"a":null,"b":[{"c":"d"}]}"#);
    in_order(&world.explain(&format!("meadows.{}", world.group("a"))), &["DESCRIPTION:", "A meadow for testing"]);
    let refused = world.ns.try_with_input(
        &["create", "-f", "-"],
        &format!(r#"{{"kind":"Meadow","apiVersion":"{}/v1","metadata":{{"name":"x"}},"outside":1}}"#, world.group("a")),
    );
    assert!(refused.unwrap_err().contains("unknown field \"outside\""));
}

#[test]
fn definitions_of_several_groups() {
    let mut world = World::new("oapi-groups");
    world.define("a", "orchards", &["v1"], &orchard());
    let b = world.define("b", "meadows", &["v1beta1"], &meadow());
    world.published("a", "v1", "orchards", &orchard());
    world.published("b", "v1beta1", "meadows", &meadow());
    assert_eq!(world.ns.wire().delete(&b).0, 200);
    world.withdrawn("b", "v1beta1", "meadows");
    world.published("a", "v1", "orchards", &orchard());
}

#[test]
fn one_definition_in_several_versions() {
    let mut world = World::new("oapi-versions");
    world.define("a", "orchards", &["v2", "v3"], &orchard());
    world.published("a", "v2", "orchards", &orchard());
    world.published("a", "v3", "orchards", &orchard());
    // And two definitions of one group in different versions.
    world.define("b", "orchards", &["v4"], &orchard());
    world.define("b", "meadows", &["v5"], &meadow());
    world.published("b", "v4", "orchards", &orchard());
    world.published("b", "v5", "meadows", &meadow());
}

#[test]
fn several_kinds_of_one_group_and_version() {
    let mut world = World::new("oapi-kinds");
    world.define("a", "orchards", &["v6"], &orchard());
    world.define("a", "meadows", &["v6"], &meadow());
    world.published("a", "v6", "orchards", &orchard());
    world.published("a", "v6", "meadows", &meadow());
}

#[test]
fn a_version_is_renamed() {
    let mut world = World::new("oapi-rename");
    let path = world.define("a", "orchards", &["v2", "v3"], &orchard());
    world.published("a", "v3", "orchards", &orchard());
    let (code, said) =
        world.ns.wire().json_patch(&path, &json!([{"op": "replace", "path": "/spec/versions/1/name", "value": "v4"}]));
    assert_eq!(code, 200, "{said}");
    world.published("a", "v4", "orchards", &orchard());
    world.withdrawn("a", "v3", "orchards");
    world.published("a", "v2", "orchards", &orchard());
}

#[test]
fn a_version_is_no_longer_served() {
    let mut world = World::new("oapi-unserve");
    let path = world.define("a", "orchards", &["v5", "v6alpha1"], &orchard());
    world.published("a", "v6alpha1", "orchards", &orchard());
    let (_, mut present) = world.ns.wire().get(&path);
    present["spec"]["versions"][1]["served"] = json!(false);
    let (code, said) = world.ns.wire().put(&path, &present);
    assert_eq!(code, 200, "{said}");
    world.withdrawn("a", "v6alpha1", "orchards");
    world.published("a", "v5", "orchards", &orchard());
    let gone = format!("/apis/{}/v6alpha1/namespaces/{}/orchards", world.group("a"), world.ns.name);
    assert_eq!(world.ns.wire().get(&gone).0, 404);
}
