//! The protobuf form, of every type that the API has: against message types that others generated from upstream's definitions
//! (`protobuf/oracle.rs`), and there and back again.
#![allow(clippy::unwrap_used)]

#[path = "protobuf/newer.rs"]
mod newer;
#[path = "protobuf/oracle.rs"]
mod oracle;
#[path = "protobuf/sample.rs"]
mod sample;

use caravel_api::protobuf;
use caravel_api::schema::{Schema, type_names};
use k8s_pb::api::core::v1::Pod;
use k8s_pb::apimachinery::pkg::apis::meta::v1::{Status, WatchEvent};
use k8s_pb::apimachinery::pkg::runtime::{TypeMeta, Unknown};
use newer::NEWER;
use oracle::oracle;
use prost::Message;
use sample::{Samples, is_kind, sayable};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Types whose fields have no numbers: no message is ever made of them here.
const NO_MESSAGE: &[&str] = &["machinery.version."];

fn types() -> impl Iterator<Item = (&'static str, Schema)> {
    let named = |name| (name, Schema::builtin(name).unwrap_or_else(|| panic!("no type {name}")));
    type_names().filter(|name| !NO_MESSAGE.iter().any(|p| name.starts_with(p))).map(named)
}

fn write(schema: &Schema, value: &Value) -> Vec<u8> {
    protobuf::encode(schema, value).unwrap_or_else(|e| panic!("{schema:?}: {e}"))
}

/// The message of a value, taken out of its envelope.
fn message(schema: &Schema, value: &Value) -> Vec<u8> {
    protobuf::open(&write(schema, value)).unwrap().raw.to_vec()
}

/// An envelope that is not of our making.
fn envelope(value: &Value, raw: Vec<u8>) -> Vec<u8> {
    let text = |key: &str| Some(value[key].as_str().unwrap_or_default().to_owned());
    let type_meta = TypeMeta { api_version: text("apiVersion"), kind: text("kind") };
    let unknown = Unknown { type_meta: Some(type_meta), raw: Some(raw), content_encoding: None, content_type: None };
    [&protobuf::MAGIC[..], &unknown.encode_to_vec()].concat()
}

fn read(schema: &Schema, bytes: &[u8]) -> Value {
    protobuf::decode(schema, bytes).unwrap_or_else(|e| panic!("{schema:?}: {e}"))
}

/// Each field on its own: others know the field of that number by the same name, and read the value.
#[test]
fn every_field_has_upstreams_number() {
    let mut newer = BTreeSet::new();
    let mut wrong = Vec::new();
    let mut agreed = 0;
    for (name, schema) in types() {
        let Some(oracle) = oracle(name) else {
            newer.insert(name.to_owned());
            continue;
        };
        for (field, node, path) in schema.root().proto_fields() {
            if path[0] == 0 {
                assert!(is_kind(schema.root()), "{name}.{field} has no number");
                continue;
            }
            let value = json!({field: Samples::full(NEWER).make(node)});
            let depth = path.iter().filter(|n| **n != 0).count();
            let found = match (oracle.show)(&message(&schema, &value)) {
                Ok(shown) => set_fields(&shown, depth),
                Err(error) => vec![error.to_string()],
            };
            match found.as_slice() {
                [] => drop(newer.insert(format!("{name}.{field}"))),
                [one] if *one == plain(field) => agreed += 1,
                // A list that is a message of its own.
                [one] if one == "items" && field == "verbs" && depth == 2 => agreed += 1,
                other => wrong.push(format!("{name}.{field} {path:?} is {other:?}")),
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    assert_eq!(newer.iter().map(String::as_str).collect::<Vec<_>>(), NEWER);
    assert!(agreed > 2500, "{agreed}");
}

/// Names of the fields that are set, at a depth of embedding.
fn set_fields(shown: &str, depth: usize) -> Vec<String> {
    let indent = " ".repeat(8 * depth - 4);
    let fields = shown.lines().filter_map(|l| l.strip_prefix(&indent)).filter(|l| !l.starts_with([' ', '}', ')', ']']));
    let set = fields.filter_map(|l| l.split_once(": ")).filter(|(_, v)| !matches!(*v, "None," | "[]," | "{},"));
    set.map(|(name, _)| plain(name)).collect()
}

/// A field's name without what generators and JSON write differently.
fn plain(name: &str) -> String {
    let name = name.strip_prefix("r#").unwrap_or(name);
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

/// Whole values: what others read from us they write so that we read the same; what we read from them we write so that they
/// read the same.
#[test]
fn whole_values_go_through_the_oracle() {
    let mut checked = 0;
    for (name, schema) in types() {
        let Some(oracle) = oracle(name) else { continue };
        let value = Samples::full(NEWER).make(schema.root());
        let ours = message(&schema, &value);
        let theirs = (oracle.again)(&ours).unwrap_or_else(|e| panic!("{name}: {e}"));
        let back = read(&schema, &envelope(&value, theirs.clone()));
        assert_eq!(back, value, "{name}");
        assert_eq!((oracle.same)(&theirs, &message(&schema, &back)), Ok(true), "{name}");
        checked += 1;
    }
    assert!(checked > 700, "{checked}");
}

/// Every type with every field set, what is new in 1.36 among them; of kinds and lists the envelope, too.
#[test]
fn every_field_of_every_type_survives() {
    let (mut kinds, mut lists, mut others) = (0, 0, 0);
    for (name, schema) in types() {
        let value = Samples::full(&[]).make(schema.root());
        assert_eq!(read(&schema, &write(&schema, &value)), value, "{name}");
        match (is_kind(schema.root()), value["items"].is_array()) {
            (true, true) => lists += 1,
            (true, false) => kinds += 1,
            _ => others += 1,
        }
    }
    assert!(kinds > 90 && lists > 80 && others > 500, "{kinds} kinds, {lists} lists, {others} others");
}

/// Values with some fields, some of them zero or empty: what a message can say comes back, and what comes back can be said.
#[test]
fn what_can_be_said_comes_back() {
    for (name, schema) in types() {
        for seed in 0..6 {
            let value = Samples::some(seed).make(schema.root());
            if !value.is_object() {
                continue;
            }
            let back = read(&schema, &write(&schema, &value));
            assert_eq!(back, sayable(schema.root(), &value), "{name}, seed {seed}: {value}");
            assert_eq!(read(&schema, &write(&schema, &back)), back, "{name}, seed {seed}");
        }
    }
}

#[test]
fn envelopes_and_watch_events_are_read_by_others() {
    let schema = Schema::builtin("core.v1.Pod").unwrap();
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"nodeName": "n"}});
    let frame = protobuf::watch_frame("ADDED", &write(&schema, &pod));
    let (length, event) = frame.split_at(4);
    assert_eq!(u32::from_be_bytes(length.try_into().unwrap()) as usize, event.len());
    let event = WatchEvent::decode(event).unwrap();
    assert_eq!(event.r#type.as_deref(), Some("ADDED"));
    let object = event.object.unwrap().raw.unwrap();
    let unknown = Unknown::decode(object.strip_prefix(&protobuf::MAGIC).unwrap()).unwrap();
    let kind = unknown.type_meta.unwrap();
    assert_eq!((kind.api_version.as_deref(), kind.kind.as_deref()), (Some("v1"), Some("Pod")));
    let found = Pod::decode(&*unknown.raw.unwrap()).unwrap();
    assert_eq!(found.metadata.unwrap().name.as_deref(), Some("p"));
    assert_eq!(found.spec.unwrap().node_name.as_deref(), Some("n"));

    let schema = Schema::builtin("meta.v1.Status").unwrap();
    let status = json!({"apiVersion": "v1", "kind": "Status", "code": 410, "reason": "Expired", "status": "Failure"});
    let frame = protobuf::watch_frame("ERROR", &write(&schema, &status));
    let object = WatchEvent::decode(&frame[4..]).unwrap().object.unwrap().raw.unwrap();
    let found = Status::decode(protobuf::open(&object).unwrap().raw).unwrap();
    assert_eq!((found.code, found.reason.as_deref()), (Some(410), Some("Expired")));
}

/// Lists of numbers are written one by one, as upstream's messages are of the older syntax, and read in either way.
#[test]
fn lists_of_numbers() {
    let schema = Schema::builtin("resource.v1.DeviceAttribute").unwrap();
    let value = json!({"ints": [1, 300], "bools": [true, false], "strings": ["a"], "versions": ["1.0.0"]});
    let bytes = [&[0x30, 1, 0x30, 0xac, 2, 0x38, 1, 0x38, 0, 0x42, 1, b'a', 0x4a, 5][..], b"1.0.0"].concat();
    assert_eq!(message(&schema, &value), bytes);
    let packed = [&[0x32, 3, 1, 0xac, 2, 0x3a, 2, 1, 0, 0x42, 1, b'a', 0x4a, 5][..], b"1.0.0"].concat();
    assert_eq!(read(&schema, &envelope(&Value::Null, packed)), value);
}
