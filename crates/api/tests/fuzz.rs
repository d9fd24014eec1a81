//! Fuzz targets of everything that reads what strangers send: a corpus is mutated and fed, from a fixed seed.
//!
//! Bounded here, so that every run of the tests does the same; `CARAVEL_FUZZ_SECONDS=600` lets each target run that long,
//! from a seed of the clock. What fails is printed as a byte string that can be put into the corpus.
#![allow(clippy::unwrap_used)]

#[path = "fuzz/mutate.rs"]
mod mutate;

use caravel_api::decode::{self, Format, Options, Target, Unknown};
use caravel_api::kinds::{Gvk, custom};
use caravel_api::patch::{self, apply};
use caravel_api::schema::Schema;
use caravel_api::selector::{FieldSelector, LabelSelector};
use caravel_api::{protobuf, quantity::Quantity};
use mutate::{Fuzz, utf8};
use serde_json::{Value, json};

const POD: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","labels":{"a":"b"},"creationTimestamp":"2026-01-02T03:04:05Z","managedFields":[{"manager":"m","operation":"Apply","apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":{"f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{".":{},"f:image":{}}}}}}]},"spec":{"containers":[{"name":"c","image":"i","ports":[{"containerPort":80}],"resources":{"limits":{"cpu":"1.5","memory":"1Gi"}},"env":[{"name":"A","value":"\u00e9\ud83d\ude00"}]}],"tolerations":[{"tolerationSeconds":9007199254740993}],"volumes":[{"name":"v","emptyDir":{}}]}}"#;
const YAML: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: &m\n  name: x\n  labels: {a: 'b', c: \"d\"}\ndata:\n  k: |\n    text\n  n: !!str 1\n  0x1: ~\nother: *m\n";
const DEFINITION: &str = r#"{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"xs.g.io"},"spec":{"group":"g.io","scope":"Namespaced","names":{"plural":"xs","kind":"X","singular":"x","listKind":"XList"},"versions":[{"name":"v1","served":true,"storage":true,"subresources":{"status":{},"scale":{"specReplicasPath":".spec.n","statusReplicasPath":".status.n"}},"additionalPrinterColumns":[{"name":"N","type":"integer","jsonPath":".spec.list[?(@.k==\"a\")].v"}],"selectableFields":[{"jsonPath":".spec.s"}],"schema":{"openAPIV3Schema":{"type":"object","required":["spec"],"properties":{"spec":{"type":"object","x-kubernetes-validations":[{"rule":"self.n > 1"}],"properties":{"n":{"type":"integer","minimum":0,"default":3,"multipleOf":1},"s":{"type":"string","pattern":"^a+$","maxLength":9,"format":"date-time","nullable":true},"p":{"x-kubernetes-int-or-string":true,"anyOf":[{"type":"integer"},{"type":"string"}]},"list":{"type":"array","x-kubernetes-list-type":"map","x-kubernetes-list-map-keys":["k"],"items":{"type":"object","required":["k"],"properties":{"k":{"type":"string","default":"d"},"v":{"type":"number"}}}},"open":{"type":"object","x-kubernetes-preserve-unknown-fields":true},"map":{"type":"object","additionalProperties":{"type":"boolean"}}}}}}}}]}}"#;

fn target(group: &'static str, version: &'static str, kind: &'static str) -> Target {
    Target::of_gvk(&Gvk::new(group, version, kind)).unwrap()
}

fn all_fits(value: &Value, bytes: usize) {
    let size = value.to_string().len();
    assert!(size <= 64 * bytes + (1 << 16), "{bytes} bytes became {size}");
}

#[test]
fn json_bodies() {
    let pod = target("", "v1", "Pod");
    Fuzz::new("json", &[POD.as_bytes(), DEFINITION.as_bytes()], 1).run(3000, |bytes| {
        for unknown in [Unknown::Strict, Unknown::Warn] {
            let options = Options { unknown, ..Options::default() };
            if let Ok(decoded) = decode::body(&pod, bytes, Format::Json, &options) {
                let again = decode::value(&pod, decoded.value.clone(), &options).unwrap();
                assert_eq!(again.value, decoded.value, "what was read reads as itself");
                all_fits(&decoded.value, bytes.len());
            }
        }
        let _ = decode::untyped(bytes, Format::Json, 1 << 20);
    });
}

#[test]
fn yaml_bodies() {
    let map = target("", "v1", "ConfigMap");
    Fuzz::new("yaml", &[YAML.as_bytes(), POD.as_bytes(), b"a: &a [*a]\n? {b: c}\n: - - d\n"], 2).run(3000, |bytes| {
        if let Ok(decoded) = decode::body(&map, bytes, Format::Yaml, &Options::default()) {
            all_fits(&decoded.value, bytes.len());
        }
        let _ = decode::untyped_noted(bytes, Format::Yaml, 1 << 20);
        if let Some(text) = utf8(bytes) {
            let _ = decode::yaml_duplicates(text);
        }
    });
}

#[test]
fn protobuf_bodies() {
    let pod = Schema::builtin("core.v1.Pod").unwrap();
    let definition = Schema::builtin("apiextensions.v1.CustomResourceDefinition").unwrap();
    let first = protobuf::encode(&pod, &serde_json::from_str(POD).unwrap()).unwrap();
    let second = protobuf::encode(&definition, &serde_json::from_str(DEFINITION).unwrap()).unwrap();
    Fuzz::new("protobuf", &[&first, &second], 3).run(6000, |bytes| {
        for schema in [&pod, &definition] {
            if let Ok(value) = protobuf::decode(schema, bytes) {
                all_fits(&value, bytes.len());
                if let Ok(written) = protobuf::encode(schema, &value) {
                    assert_eq!(protobuf::decode(schema, &written).unwrap(), value, "what was written reads as itself");
                }
            }
        }
    });
}

const PATCHES: [&str; 4] = [
    r#"[{"op":"add","path":"/metadata/labels/x~1y","value":"z"},{"op":"copy","from":"/spec","path":"/spec/copy"},{"op":"move","from":"/metadata","path":"/m"},{"op":"test","path":"/kind","value":"Pod"},{"op":"remove","path":"/spec/containers/0"},{"op":"replace","path":"/spec/containers/-","value":null}]"#,
    r#"{"metadata":{"labels":{"a":null,"b":"c"}},"spec":{"containers":[{"name":"d"}],"volumes":null}}"#,
    r#"{"metadata":{"labels":{"$patch":"replace","z":"y"}},"spec":{"$retainKeys":["containers"],"$setElementOrder/containers":[{"name":"c"},{"name":"d"}],"containers":[{"name":"c","$patch":"delete"},{"name":"d","image":"j","ports":[{"containerPort":80,"$patch":"merge"}]}],"$deleteFromPrimitiveList/x":["y"]}}"#,
    r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","labels":{"q":"r"}},"spec":{"containers":[{"name":"c","image":"k","ports":[{"containerPort":80,"protocol":"TCP"}]}]}}"#,
];

#[test]
fn patches() {
    let schema = Schema::builtin("core.v1.Pod").unwrap();
    let live: Value = serde_json::from_str(POD).unwrap();
    let corpus: Vec<&[u8]> = PATCHES.iter().map(|p| p.as_bytes()).collect();
    Fuzz::new("patches", &corpus, 4).run(4000, |bytes| {
        let Ok(wanted) = serde_json::from_slice::<Value>(bytes) else { return };
        if let Ok(next) = patch::json::apply(live.clone(), &wanted) {
            assert!(next.to_string().len() < 16 << 20);
        }
        let once = patch::merge::apply(live.clone(), wanted.clone());
        assert_eq!(patch::merge::apply(once.clone(), wanted.clone()), once, "a merge patch is idempotent");
        if let Ok(next) = patch::strategic::apply(schema.root(), live.clone(), wanted.clone()) {
            all_fits(&next, bytes.len() + POD.len());
        }
        let write = apply::Write {
            manager: "fuzz",
            api_version: "v1",
            subresource: "",
            now: "2026-01-01T00:00:00Z",
            ignored: &["status"],
        };
        if wanted.is_object()
            && let Ok(next) = apply::apply(&schema, Some(&live), &wanted, write, true)
        {
            let again = apply::apply(&schema, Some(&next), &wanted, write, false).unwrap();
            assert_eq!(again, next, "an apply is idempotent");
        }
    });
}

#[test]
fn selectors() {
    let corpus: [&[u8]; 4] = [
        b"a=b,c!=d,e in (f,g),h notin (i),j,!k",
        b"x.io/y==z,n>5,m<7",
        b"metadata.name=a,spec.nodeName!=b\\,c",
        b"a in (,b,)",
    ];
    let object: Value = serde_json::from_str(POD).unwrap();
    Fuzz::new("selectors", &corpus, 5).run(8000, |bytes| {
        let Some(text) = utf8(bytes) else { return };
        if let Ok(selector) = LabelSelector::parse(text) {
            let _ = selector.matches_object(&object);
        }
        if let Ok(selector) = FieldSelector::parse(text) {
            let _ = selector.matches(|_| "a".into());
        }
        let _ = text.parse::<Quantity>();
    });
}

#[test]
fn label_selectors_of_objects() {
    let corpus: [&[u8]; 1] = [br#"{"matchLabels":{"a":"b"},"matchExpressions":[{"key":"k","operator":"In","values":["v"]},{"key":"l","operator":"Exists"}]}"#];
    let object: Value = serde_json::from_str(POD).unwrap();
    Fuzz::new("label selectors", &corpus, 6).run(4000, |bytes| {
        let Ok(value) = serde_json::from_slice::<Value>(bytes) else { return };
        if let Ok(selector) = LabelSelector::from_value(Some(&value)) {
            let _ = selector.matches_object(&object);
        }
    });
}

/// Schemas of strangers, and what they say about values of strangers.
#[test]
fn definitions() {
    let kind = target("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    let value = json!({"spec": {"n": 5, "s": "aaa", "p": "x", "list": [{"k": "a", "v": 1.5}], "open": {"q": [1]}, "map": {"t": true}}});
    Fuzz::new("definitions", &[DEFINITION.as_bytes()], 7).run(1500, |bytes| {
        let Ok(decoded) = decode::body(&kind, bytes, Format::Json, &Options::default()) else { return };
        let Ok(rows) = custom::from_definition(&decoded.value) else { return };
        for row in rows {
            let _ = caravel_api::schema::validate(row.schema().root(), &value);
            let _ = decode::value(&Target::of(&row), value.clone(), &Options::default());
        }
    });
}

/// A schema that nests, and one that is wide, end soon and say why.
#[test]
fn schema_bombs() {
    let with = |schema: Value| {
        let mut definition: Value = serde_json::from_str(DEFINITION).unwrap();
        definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"] = schema;
        definition
    };
    let mut deep = json!({"type": "string"});
    for _ in 0..2000 {
        deep = json!({"type": "object", "properties": {"a": deep}});
    }
    let wide: serde_json::Map<String, Value> = (0..20_000)
        .map(|i| (format!("p{i}"), json!({"type": "object", "properties": {"q": {"type": "string"}}})))
        .collect();
    let start = std::time::Instant::now();
    let _ = custom::from_definition(&with(json!({"type": "object", "properties": wide})));
    // What is too deep to be read is refused before it is a schema; one that got through must not exhaust the stack.
    let thread = std::thread::Builder::new().stack_size(64 << 20).spawn(move || {
        let refused = custom::from_definition(&with(deep.clone())).is_err();
        std::mem::forget(deep);
        refused
    });
    let _ = thread.unwrap().join().expect("a deep schema does not exhaust the stack");
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}

/// Patterns that would try for ever elsewhere are linear here, and those that would need much memory are refused.
#[test]
fn regex_bombs() {
    let start = std::time::Instant::now();
    for (pattern, text) in [
        ("^(a+)+$", format!("{}b", "a".repeat(50_000))),
        ("^(a|aa)+$", format!("{}b", "a".repeat(50_000))),
        ("(.*)(.*)(.*)(.*)(.*)x", "y".repeat(10_000)),
        ("((a{0,500}){0,500}){0,500}", "a".repeat(1000)),
        (&"(".repeat(5000), String::new()),
    ] {
        let mut definition: Value = serde_json::from_str(DEFINITION).unwrap();
        definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"] =
            json!({"type": "object", "properties": {"s": {"type": "string", "pattern": pattern}}});
        let Ok(rows) = custom::from_definition(&definition) else { continue };
        let _ = caravel_api::schema::validate(rows[0].schema().root(), &json!({"spec": {"s": text}}));
    }
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}

/// A JSON patch that doubles a value over and over stops at its limit.
#[test]
fn patches_that_multiply() {
    let operations: Vec<Value> =
        (0..60).map(|i| json!({"op": "copy", "from": "/spec", "path": format!("/spec/c{i}")})).collect();
    let start = std::time::Instant::now();
    assert!(patch::json::apply(serde_json::from_str(POD).unwrap(), &json!(operations)).is_err());
    assert!(start.elapsed().as_secs() < 5);
}
