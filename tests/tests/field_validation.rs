//! What happens to fields that are unknown or there twice: refused, warned of, or taken, as the request asks.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use caravel_tests::{Namespace, Wire};
use serde_json::{Value, json};

const JSON: &str = "application/json";
const APPLY: &str = "application/apply-patch+yaml";

fn deployment(name: &str, metadata: &str, spec: &str) -> String {
    format!(
        r#"{{"apiVersion":"apps/v1","kind":"Deployment","metadata":{{"name":"{name}",{metadata}"labels":{{"app":"nginx"}}}},
        "spec":{{{spec}"replicas":0,"selector":{{"matchLabels":{{"app":"nginx"}}}},"template":{{"metadata":{{"labels":{{"app":"nginx"}}}},
        "spec":{{"containers":[{{"name":"nginx","image":"nginx:latest"}}]}}}}}}}}"#
    )
}

fn send(wire: &Wire, method: &str, path: &str, kind: &str, body: &str) -> (u16, String) {
    let (code, said) = wire.send(method, path, &[("content-type", kind)], body.as_bytes().to_vec());
    (code, said["message"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn typed_objects_with_unknown_and_duplicate_fields() {
    let ns = Namespace::new("fields");
    let (wire, all) = (ns.wire(), format!("/apis/apps/v1/namespaces/{}/deployments", ns.name));
    let manager = "fieldManager=field_validation_mgr";
    let bad = deployment("my-dep", "", r#""unknownField":"foo","replicas":2,"#);
    let wanted = r#"strict decoding error: unknown field "spec.unknownField", duplicate field "spec.replicas""#;
    let (code, said) = send(wire, "POST", &format!("{all}?{manager}&fieldValidation=Strict"), JSON, &bad);
    assert!(code == 400 && said.contains(wanted), "{code} {said}");
    assert_eq!(wire.get(&format!("{all}/my-dep")).0, 404);
    let (code, said) = send(wire, "POST", &format!("{all}?{manager}&fieldValidation=Sometimes"), JSON, &bad);
    assert!(code >= 400, "{code} {said}");
    // The last of equal keys counts.
    let (code, _) = send(wire, "POST", &format!("{all}?{manager}&fieldValidation=Ignore"), JSON, &bad);
    assert_eq!(code, 201);
    assert_eq!(wire.get(&format!("{all}/my-dep")).1["spec"]["replicas"], 0);
    let one = format!("{all}/my-dep?{manager}&fieldValidation=Strict");
    let (code, said) = send(wire, "PUT", &one, JSON, &bad);
    assert!(code == 400 && said.contains(wanted), "{code} {said}");
    for kind in ["application/merge-patch+json", "application/strategic-merge-patch+json"] {
        let twice = r#"{"spec":{"unknownField":"x","paused":true,"paused":false}}"#;
        let (code, said) = send(wire, "PATCH", &one, kind, twice);
        let said = said.replace("\\\"", "\"");
        assert!(code == 422 && said.contains(r#"duplicate field "spec.paused""#), "{kind}: {code} {said}");
        let (code, said) = send(wire, "PATCH", &one, kind, r#"{"spec":{"unknownField":"x"}}"#);
        let said = said.replace("\\\"", "\"");
        assert!(code == 422 && said.contains(r#"unknown field "spec.unknownField""#), "{kind}: {code} {said}");
    }
    let json_patch = r#"[{"op":"add","path":"/spec/unknownField","value":1}]"#;
    let (code, said) = send(wire, "PATCH", &one, "application/json-patch+json", json_patch);
    assert!(code == 422 && said.contains("spec.unknownField"), "{code} {said}");
    let (code, said) = send(
        wire,
        "PATCH",
        &format!("{all}/my-dep?fieldValidation=Ignore"),
        "application/merge-patch+json",
        r#"{"spec":{"unknownField":"x"}}"#,
    );
    assert_eq!(code, 200, "{said}");
}

#[test]
fn typed_objects_with_unknown_metadata() {
    let ns = Namespace::new("meta");
    let (wire, all) = (ns.wire(), format!("/apis/apps/v1/namespaces/{}/deployments", ns.name));
    let bad = deployment("my-dep", r#""unknownMeta":"foo","#, "");
    let (code, said) = send(wire, "POST", &format!("{all}?fieldManager=m&fieldValidation=Strict"), JSON, &bad);
    assert!(code == 400 && said.contains(r#"strict decoding error: unknown field "metadata.unknownMeta""#), "{said}");
    let (code, said) = send(wire, "POST", &all, JSON, r#"{"metadata":{"name":"typed"},"spec":{"replicas":"three"}}"#);
    assert!(code == 400 && said.contains("cannot unmarshal string"), "{code} {said}");
}

/// The same over kubectl, which shows warnings.
#[test]
fn warnings_are_the_default() {
    let ns = Namespace::new("warned");
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: warned}\nextra: 1\ndata: {a: b}\n";
    let mut command = ns.command(&["create", "--validate=warn", "-f", "-"]);
    command
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), text.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success() && said.contains("unknown field \"extra\""), "{said}");
    let said =
        ns.try_with_input(&["create", "--validate=strict", "-f", "-"], &text.replace("name: warned", "name: strict"));
    assert!(said.as_ref().is_err_and(|e| e.contains("unknown field \"extra\"")), "{said:?}");
    let said =
        ns.try_with_input(&["apply", "--server-side", "-f", "-"], &text.replace("name: warned", "name: applied"));
    assert!(said.as_ref().is_err_and(|e| e.contains(".extra: field not declared in schema")), "{said:?}");
}

/// A cluster-scoped custom resource of this schema (none: one that keeps whatever it is given).
struct Custom {
    ns: Namespace,
    group: String,
    plural: String,
}

impl Custom {
    fn new(prefix: &str, spec: Option<Value>) -> Custom {
        let ns = Namespace::new(prefix);
        let group = format!("{}.example.com", ns.name);
        let schema = match spec {
            Some(spec) => json!({"type": "object", "properties": {"spec": spec}}),
            None => json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}),
        };
        let definition = json!({"metadata": {"name": format!("noxus.{group}")}, "spec": {"group": group, "scope": "Cluster",
            "names": {"plural": "noxus", "singular": "noxu", "kind": "Noxu", "listKind": "NoxuList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}});
        let (code, made) = ns.wire().post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition);
        assert_eq!(code, 201, "{made}");
        let custom = Custom { plural: "noxus".into(), group, ns };
        let all = custom.collection();
        custom.ns.eventually("the kind is served", || match custom.ns.wire().get(&all) {
            (200, _) => Ok(()),
            (code, said) => Err(format!("{code} {said}")),
        });
        custom
    }

    fn collection(&self) -> String {
        format!("/apis/{}/v1/{}", self.group, self.plural)
    }

    /// Applies a body whose first lines are kind and metadata; code and message.
    fn apply(&self, metadata: &str, rest: &str) -> (u16, String) {
        let body = format!(
            "\napiVersion: {}/v1\nkind: Noxu\nmetadata:\n  name: mytest\n{metadata}  finalizers:\n  - example.com/test-finalizer\n{rest}",
            self.group
        );
        let path = format!("{}/mytest?fieldManager=field_validation_mgr&fieldValidation=Strict", self.collection());
        send(self.ns.wire(), "PATCH", &path, APPLY, &body)
    }
}

impl Drop for Custom {
    fn drop(&mut self) {
        let wire = self.ns.wire();
        wire.merge(&format!("{}/mytest", self.collection()), &json!({"metadata": {"finalizers": null}}));
        wire.delete(&format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/noxus.{}", self.group));
    }
}

const SPEC: &str = "spec:\n  foo: foo1\n  cronSpec: \"* * * * */5\"\n  ports:\n  - name: x\n    containerPort: 80\n    protocol: TCP\n";

fn spec_schema(more: Value) -> Value {
    let mut schema = json!({"type": "object", "properties": {
        "foo": {"type": "string"},
        "cronSpec": {"type": "string", "pattern": "^(\\d+|\\*)(/\\d+)?(\\s+(\\d+|\\*)(/\\d+)?){4}$"},
        "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["containerPort", "protocol"],
            "items": {"type": "object", "required": ["containerPort", "protocol"], "properties": {
                "containerPort": {"type": "integer", "format": "int32"}, "hostIP": {"type": "string"},
                "hostPort": {"type": "integer", "format": "int32"}, "name": {"type": "string"}, "protocol": {"type": "string"}}}}}});
    for (key, value) in more.as_object().unwrap() {
        match key.as_str() {
            "properties" => value.as_object().unwrap().iter().for_each(|(k, v)| schema["properties"][k] = v.clone()),
            _ => schema[key] = value.clone(),
        }
    }
    schema
}

#[test]
fn a_valid_custom_resource_is_applied() {
    let custom = Custom::new("valid", Some(spec_schema(json!({}))));
    let (code, said) = custom.apply("", SPEC);
    assert_eq!(code, 201, "{said}");
    let (code, said) = custom.apply("", &SPEC.replace("foo1", "foo2"));
    assert_eq!(code, 200, "{said}");
    let (code, said) = custom.apply("", &SPEC.replace("* * * * */5", "sometimes"));
    assert!(code == 422 && said.contains("spec.cronSpec"), "{code} {said}");
}

#[test]
fn without_a_schema_everything_is_taken() {
    let custom = Custom::new("open", None);
    let (code, said) = custom.apply("", &SPEC.replace("foo: foo1", "unknown: uk1"));
    assert_eq!(code, 201, "{said}");
    let kept = custom.ns.wire().get(&format!("{}/mytest", custom.collection())).1;
    assert_eq!(kept["spec"]["unknown"], "uk1");
}

#[test]
fn extra_properties_of_a_custom_resource_are_refused() {
    let custom = Custom::new("extra", Some(spec_schema(json!({}))));
    let (code, said) = custom.apply("", &format!("unknownField: unknown\n{SPEC}"));
    assert!(code >= 400 && said.contains(".unknownField: field not declared in schema"), "{code} {said}");
    let body = json!({"apiVersion": format!("{}/v1", custom.group), "kind": "Noxu", "metadata": {"name": "x"}, "unknownField": 1});
    let path = custom.collection();
    let (code, said) =
        send(custom.ns.wire(), "POST", &format!("{path}?fieldValidation=Strict"), JSON, &body.to_string());
    assert!(code == 400 && said.contains(r#"strict decoding error: unknown field "unknownField""#), "{code} {said}");
    let (code, made) = custom.ns.wire().post(&path, &body);
    assert!(code == 201 && made.get("unknownField").is_none(), "{made}");
}

#[test]
fn unknown_metadata_of_a_custom_resource_is_refused() {
    let template = json!({"type": "object", "x-kubernetes-embedded-resource": true, "properties": {
        "metadata": {"type": "object", "properties": {"name": {"type": "string"}}}, "spec": {"type": "object"}}});
    let schema =
        spec_schema(json!({"x-kubernetes-preserve-unknown-fields": true, "properties": {"template": template}}));
    let custom = Custom::new("root", Some(schema));
    let inner = "spec:\n  template:\n    apiVersion: foo/v1\n    kind: Sub\n    metadata:\n      unknownSubMeta: unknown\n      name: subobject\n";
    let (code, said) =
        custom.apply("  unknownMeta: unknown\n", &format!("{inner}{}", SPEC.trim_start_matches("spec:\n")));
    assert!(code >= 400, "{said}");
    assert!(said.contains(".metadata.unknownMeta: field not declared in schema"), "{said}");
    assert!(said.contains(".spec.template.metadata.unknownSubMeta: field not declared in schema"), "{said}");
}

#[test]
fn duplicates_are_found_where_unknown_fields_are_kept() {
    let schema = spec_schema(json!({"x-kubernetes-preserve-unknown-fields": true}));
    let custom = Custom::new("twice", Some(schema));
    let twice = SPEC.replace("  foo: foo1\n", "  unknown: uk1\n  foo: foo1\n  foo: foo2\n");
    let (code, said) = custom.apply("", &twice);
    assert!(code == 400 && said.contains(r#"line 11: key "foo" already set in map"#), "{code} {said}");
    let (code, said) = custom.apply("", &twice.replace("  foo: foo1\n", ""));
    assert_eq!(code, 201, "{said}");
}
