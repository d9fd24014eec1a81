#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::kinds::KindTable;

fn target(group: &str, version: &str, plural: &str) -> Target {
    Target::of(KindTable::all().resource(group, version, plural).unwrap())
}

fn decode(target: &Target, text: &str, unknown: Unknown) -> Result<Decoded, DecodeError> {
    body(target, text.as_bytes(), Format::Json, &Options { unknown, fill: false, ..Options::default() })
}

fn error(target: &Target, text: &str) -> String {
    decode(target, text, Unknown::Strict).unwrap_err().to_string()
}

#[test]
fn types_are_held_against_the_schema() {
    let deployments = target("apps", "v1", "deployments");
    let cases = [
        (
            r#"{"spec":{"replicas":"3"}}"#,
            r#"Deployment in version "v1" cannot be handled as a Deployment: json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32"#,
        ),
        (
            r#"{"spec":{"replicas":3.5}}"#,
            r#"Deployment in version "v1" cannot be handled as a Deployment: json: cannot unmarshal number 3.5 into Go struct field DeploymentSpec.spec.replicas of type int32"#,
        ),
        (
            r#"{"spec":{"replicas":5000000000}}"#,
            r#"Deployment in version "v1" cannot be handled as a Deployment: json: cannot unmarshal number 5000000000 into Go struct field DeploymentSpec.spec.replicas of type int32"#,
        ),
        (
            r#"{"spec":{"template":{"spec":{"containers":{"name":"a"}}}}}"#,
            r#"Deployment in version "v1" cannot be handled as a Deployment: json: cannot unmarshal object into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container"#,
        ),
        (
            r#"{"spec":{"template":{"spec":{"containers":[{"env":[{"name":"A","value":1}]}]}}}}"#,
            r#"Deployment in version "v1" cannot be handled as a Deployment: json: cannot unmarshal number into Go struct field EnvVar.spec.template.spec.containers.env.value of type string"#,
        ),
        (
            r#"{"metadata":{"labels":{"a":true}}}"#,
            r#"Deployment in version "v1" cannot be handled as a Deployment: json: cannot unmarshal bool into Go struct field ObjectMeta.metadata.labels.a of type string"#,
        ),
        (
            r#"{"apiVersion":"apps/v1beta1","kind":"Deployment"}"#,
            "the API version in the data (apps/v1beta1) does not match the expected API version (apps/v1)",
        ),
        (
            r#"{"apiVersion":"apps/v1","kind":"DaemonSet","spec":{"replicas":"x"}}"#,
            r#"DaemonSet in version "v1" cannot be handled as a Deployment: converting (v1.DaemonSet) to (v1.Deployment): unknown conversion"#,
        ),
        (
            "[]",
            r#"Deployment in version "v1" cannot be handled as a Deployment: json: cannot unmarshal array into Go value of type v1.Deployment"#,
        ),
    ];
    for (text, want) in cases {
        assert_eq!(error(&deployments, text), want, "{text}");
    }
    let broken = error(&deployments, "{\"spec\": ");
    assert!(broken.starts_with("the object provided is unrecognized (must be of type Deployment)"), "{broken}");
    assert!(error(&deployments, "{} {}").contains("parse error"));
}

#[test]
fn unknown_and_duplicate_fields_are_reported_as_asked() {
    let pods = target("", "v1", "pods");
    let text = r#"{"spec":{"nodeName":"a","nodeName":"b","containers":[{"name":"c","nope":{"x":[1]}}]},"foo":1}"#;
    let warned = decode(&pods, text, Unknown::Warn).unwrap();
    let notes =
        [r#"duplicate field "spec.nodeName""#, r#"unknown field "spec.containers[0].nope""#, r#"unknown field "foo""#];
    assert_eq!(warned.warnings, notes);
    assert_eq!(
        warned.value,
        json!({"apiVersion": "v1", "kind": "Pod", "spec": {"nodeName": "b", "containers": [{"name": "c"}]}})
    );
    assert!(decode(&pods, text, Unknown::Ignore).unwrap().warnings.is_empty());
    let strict = error(&pods, text);
    assert_eq!(
        strict,
        format!(r#"Pod in version "v1" cannot be handled as a Pod: strict decoding error: {}"#, notes.join(", "))
    );
}

#[test]
fn scalars_take_their_canonical_form() {
    let pods = target("", "v1", "pods");
    let text = r#"{"metadata":{"creationTimestamp":"2024-01-31T10:00:00.5+02:00"},"spec":{"containers":[{"name":"c",
        "resources":{"requests":{"cpu":0.5,"memory":"1024Mi"}},
        "livenessProbe":{"httpGet":{"port":"http"}},"readinessProbe":{"httpGet":{"port":80}}}]}}"#;
    let value = decode(&pods, text, Unknown::Strict).unwrap().value;
    let container = &value["spec"]["containers"][0];
    assert_eq!(container["resources"]["requests"], json!({"cpu": "500m", "memory": "1Gi"}));
    assert_eq!(container["livenessProbe"]["httpGet"]["port"], "http");
    assert_eq!(container["readinessProbe"]["httpGet"]["port"], 80);
    assert_eq!(value["metadata"]["creationTimestamp"], "2024-01-31T08:00:00Z");
    for (text, part) in [
        (r#"{"metadata":{"creationTimestamp":"yesterday"}}"#, "parsing time \"yesterday\""),
        (r#"{"spec":{"overhead":{"cpu":"much"}}}"#, "quantities must match the regular expression"),
        (r#"{"spec":{"containers":[{"livenessProbe":{"tcpSocket":{"port":true}}}]}}"#, "cannot unmarshal bool"),
    ] {
        assert!(error(&pods, text).contains(part), "{}", error(&pods, text));
    }
    let secrets = target("", "v1", "secrets");
    assert!(error(&secrets, r#"{"data":{"a":"%"}}"#).contains("illegal base64 data at input byte 0"));
}

#[test]
fn null_is_unset_for_built_in_kinds() {
    let pods = target("", "v1", "pods");
    let text = r#"{"metadata":{"name":null,"labels":{"a":null},"annotations":null},"spec":{"containers":[null]}}"#;
    let value = decode(&pods, text, Unknown::Strict).unwrap().value;
    assert_eq!(value["metadata"], json!({"labels": {"a": ""}}));
    assert_eq!(value["spec"]["containers"], json!([{}]));
    let revisions = target("apps", "v1", "controllerrevisions");
    let value = decode(&revisions, r#"{"data":{"a":null},"revision":1}"#, Unknown::Strict).unwrap().value;
    assert_eq!(value["data"], json!({"a": null}));
}

#[test]
fn filling_writes_what_go_writes() {
    let text = br#"{"metadata":{"name":"r"},"spec":{"template":{"spec":{"containers":[{"name":"c"}]}}}}"#;
    let decoded = body(&target("apps", "v1", "replicasets"), text, Format::Json, &Options::default()).unwrap();
    assert_eq!(decoded.value["status"], json!({"replicas": 0}));
    assert_eq!(decoded.value["spec"]["template"]["metadata"], json!({}));
    assert_eq!(decoded.value["spec"]["template"]["spec"]["containers"][0]["resources"], json!({}));
    let twice = value(&target("apps", "v1", "replicasets"), decoded.value.clone(), &Options::default()).unwrap();
    assert_eq!(twice.value, decoded.value);
}

#[test]
fn yaml_is_read_and_its_bombs_refused() {
    let maps = target("", "v1", "configmaps");
    let read = |text: &str| body(&maps, text.as_bytes(), Format::Yaml, &Options { fill: false, ..Options::default() });
    let value = read("kind: ConfigMap\nmetadata: {name: a}\ndata:\n  a: \"1\"\n  2: two\n").unwrap().value;
    assert_eq!(value["data"], json!({"a": "1", "2": "two"}));
    let merged = read("base: &b {x: \"1\"}\ndata:\n  <<: *b\n  y: \"2\"\n").unwrap();
    assert_eq!(merged.value["data"], json!({"x": "1", "y": "2"}));
    assert_eq!(merged.warnings, [r#"unknown field "base""#]);
    assert!(read("data: {a: 1}").unwrap_err().to_string().contains("cannot unmarshal number"));
    let mut bomb = String::from("metadata:\n  managedFields:\n  - fieldsV1:\n      a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for level in 1..9 {
        let before = level - 1;
        let list = vec![format!("*a{before}"); 10].join(",");
        bomb.push_str(&format!("      a{level}: &a{level} [{list}]\n"));
    }
    let refused = read(&bomb).unwrap_err().to_string();
    assert!(refused.contains("expands") || refused.contains("repetition limit"), "{refused}");
}

#[test]
fn keys_that_stand_twice_are_found_by_their_lines() {
    let text = "\na: 1\nspec:\n  foo: x\n  list:\n  - name: a\n    name: b\n  - name: c\n  foo: y\nblock: |\n  foo: 1\n  foo: 2\na: 2\n";
    assert_eq!(
        yaml_duplicates(text),
        [
            "line 7: key \"name\" already set in map",
            "line 9: key \"foo\" already set in map",
            "line 13: key \"a\" already set in map"
        ]
    );
    let (value, notes) = untyped_noted(text.as_bytes(), Format::Yaml, 1 << 20).unwrap();
    assert_eq!(value["spec"]["foo"], "y");
    assert_eq!(notes.len(), 3, "{notes:?}");
}

#[test]
fn size_and_depth_are_limited() {
    let maps = target("", "v1", "configmaps");
    let options = Options { max_bytes: 10, ..Options::default() };
    assert_eq!(body(&maps, b"{\"data\":{}}", Format::Json, &options), Err(DecodeError::TooLarge { limit: 10 }));
    let deep =
        format!("{{\"metadata\":{{\"managedFields\":[{{\"fieldsV1\":{}1{}}}]}}}}", "[".repeat(200), "]".repeat(200));
    let refused = error(&maps, &deep);
    assert!(refused.contains("recursion limit") || refused.contains("nested deeper"), "{refused}");
}

#[test]
fn custom_resources_leave_types_to_validation_but_not_in_metadata() {
    let definition = json!({"metadata": {"name": "as.e.com"}, "spec": {"group": "e.com", "names": {"plural": "as", "kind": "A"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object",
            "properties": {"spec": {"type": "object", "properties": {"n": {"type": "integer"},
                "keep": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                    "properties": {"known": {"type": "object", "properties": {"a": {"type": "string"}}}}}}}}}}}]}});
    let rows = crate::kinds::custom::from_definition(&definition).unwrap();
    let target = Target::of(&rows[0]);
    let text = r#"{"spec":{"n":"text","other":1,"keep":{"x":{"y":null},"known":{"b":1}}}}"#;
    let decoded = decode(&target, text, Unknown::Warn).unwrap();
    assert_eq!(decoded.value["spec"], json!({"n": "text", "keep": {"x": {"y": null}, "known": {}}}));
    assert_eq!(decoded.warnings, [r#"unknown field "spec.other""#, r#"unknown field "spec.keep.known.b""#]);
    assert!(error(&target, r#"{"metadata":{"labels":[]}}"#).contains("cannot unmarshal array"));
}

#[test]
fn bodies_of_subresources_decode_too() {
    let gvk = crate::kinds::Gvk::new("autoscaling", "v1", "Scale");
    let scale = Target::of_gvk(&gvk).unwrap();
    let value = decode(&scale, r#"{"spec":{"replicas":4}}"#, Unknown::Strict).unwrap().value;
    assert_eq!(value["apiVersion"], "autoscaling/v1");
    let delete = Target::of_gvk(&crate::kinds::Gvk::new("apps", "v1", "DeleteOptions")).unwrap();
    let text = r#"{"kind":"DeleteOptions","apiVersion":"v1","gracePeriodSeconds":0}"#;
    assert!(decode(&delete, text, Unknown::Strict).is_ok());
}

/// Any JSON value of few and short names, so that known fields are met.
fn any_value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        (-9.0..9.0_f64).prop_map(Into::into),
        "[a-z0-9]{0,3}".prop_map(Into::into),
    ];
    leaf.prop_recursive(6, 40, 5, |inner| {
        let name = prop_oneof![
            Just("metadata"),
            Just("spec"),
            Just("labels"),
            Just("name"),
            Just("containers"),
            Just("resources"),
            Just("limits"),
            Just("ports"),
            Just("fieldsV1"),
            Just("other")
        ];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(serde_json::Value::from),
            proptest::collection::btree_map(name, inner, 0..5)
                .prop_map(|m| m.into_iter().map(|(k, v)| (k.to_owned(), v)).collect::<serde_json::Value>()),
        ]
    })
}

proptest! {
    /// Nothing that a client sends makes decoding panic; what is accepted is accepted unchanged the second time,
    /// and says the same whether it came as text or as a value.
    #[test]
    fn decoding_settles(input in any_value()) {
        let pods = target("", "v1", "pods");
        let options = Options { unknown: Unknown::Warn, ..Options::default() };
        let text = input.to_string();
        let from_text = body(&pods, text.as_bytes(), Format::Json, &options);
        let from_yaml = body(&pods, text.as_bytes(), Format::Yaml, &options);
        if let Ok(decoded) = &from_text {
            let again = value(&pods, decoded.value.clone(), &options).unwrap();
            prop_assert_eq!(&again.value, &decoded.value);
            prop_assert!(again.warnings.is_empty(), "{:?}", again.warnings);
            prop_assert_eq!(&value(&pods, input, &options).unwrap().value, &decoded.value);
            // Floats in YAML may be written differently; objects without them read the same.
            if let Ok(yaml) = from_yaml {
                prop_assert_eq!(&yaml.value, &decoded.value);
            }
        }
    }
}
