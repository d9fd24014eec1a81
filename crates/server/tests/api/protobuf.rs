//! The protobuf form over the API: which answers have it, and that they say what the JSON says.

use crate::definitions::until;
use crate::harness::{Client, Cluster};
use caravel_api::kinds::Gvk;
use caravel_api::protobuf;
use caravel_api::schema::Schema;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const METADATA: &str =
    "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
const METADATA_LIST: &str =
    "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";

/// What an envelope holds, by the kind that it names.
fn read(bytes: &[u8]) -> Value {
    let envelope = protobuf::open(bytes).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(bytes)));
    let gvk = Gvk::from_object(envelope.api_version, envelope.kind);
    let schema = Schema::of_kind(&gvk).unwrap_or_else(|| panic!("no schema of {gvk}"));
    protobuf::decode(&schema, bytes).unwrap()
}

/// Status, content type and object of an answer that is protobuf.
async fn get(client: &Client, path: &str, accept: &str) -> (u16, Value) {
    let response = client.send("GET", path, &[("accept", accept)], "").await;
    assert_eq!(response.headers()["content-type"], PROTOBUF, "{path}");
    let code = response.status().as_u16();
    (code, read(&response.into_body().collect().await.unwrap().to_bytes()))
}

fn definition() -> Value {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "string"}}});
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "as.e.com"},
        "spec": {"group": "e.com", "scope": "Cluster", "names": {"plural": "as", "kind": "A"}, "versions": [
            {"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}})
}

#[tokio::test]
async fn metadata_of_any_kind_goes_out_as_protobuf() {
    let cluster = Cluster::new().await;
    let admin = cluster.admin();
    let (code, said) = admin.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition()).await;
    assert_eq!(code, 201, "{said}");
    until(&admin, "/apis/e.com/v1/as", 200).await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let objects = [
        (
            maps,
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "labels": {"a": "b"}}, "data": {"k": "v"}}),
        ),
        (
            "/apis/e.com/v1/as",
            json!({"apiVersion": "e.com/v1", "kind": "A", "metadata": {"name": "x", "labels": {"a": "b"}}, "spec": "s"}),
        ),
    ];
    for (path, object) in objects {
        let (code, made) = admin.post(path, object).await;
        assert_eq!(code, 201, "{made}");
        let partial = |metadata: &Value| json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": metadata});
        let want = partial(&made["metadata"]);
        assert_eq!(get(&admin, &format!("{path}/x"), METADATA).await, (200, want.clone()));

        let (_, list) = get(&admin, &format!("{path}?labelSelector=a=b"), METADATA_LIST).await;
        assert_eq!(list["kind"], "PartialObjectMetadataList");
        assert_eq!(list["items"], json!([{"metadata": made["metadata"]}]));

        let response =
            admin.send("GET", &format!("{path}?watch=1&labelSelector=a=b"), &[("accept", METADATA)], "").await;
        assert_eq!(response.headers()["content-type"], format!("{PROTOBUF};stream=watch"));
        let piece = response.into_body().frame().await.unwrap().unwrap().into_data().unwrap();
        let expected = protobuf::encode(&Schema::builtin("meta.v1.PartialObjectMetadata").unwrap(), &want).unwrap();
        let length = u32::from_be_bytes(piece[..4].try_into().unwrap()) as usize;
        assert_eq!(piece[..4 + length], protobuf::watch_frame("ADDED", &expected));
    }
    // The object itself has a form only when its kind is built in, and a table has none.
    for (path, accept) in [
        ("/apis/e.com/v1/as/x", PROTOBUF.to_owned()),
        (maps, format!("{PROTOBUF};as=Table;g=meta.k8s.io;v=v1")),
        (maps, "application/cbor".to_owned()),
    ] {
        let response = admin.send("GET", path, &[("accept", &accept)], "").await;
        assert_eq!(response.status().as_u16(), 406, "{path} {accept}");
    }
}

#[tokio::test]
async fn discovery_is_the_same_as_protobuf() {
    let cluster = Cluster::new().await;
    let admin = cluster.admin();
    for path in ["/api", "/apis", "/apis/apps", "/api/v1", "/apis/resource.k8s.io/v1"] {
        let (code, json) = admin.get(path).await;
        assert_eq!(code, 200, "{path}");
        let mut want = json;
        // An empty singular name is one that is not said; so is a group of the core.
        unsay(&mut want);
        let (code, mut found) = get(&admin, path, PROTOBUF).await;
        unsay(&mut found);
        assert_eq!((code, found), (200, want), "{path}");
    }
}

/// Takes out what is empty.
fn unsay(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.values_mut().for_each(unsay);
            fields.retain(|_, v| *v != "" && *v != json!([]) && !v.is_null());
        }
        Value::Array(items) => items.iter_mut().for_each(unsay),
        _ => {}
    }
}

#[tokio::test]
async fn refusals_are_statuses_in_the_form_that_was_asked_for() {
    let cluster = Cluster::new().await;
    let (code, status) = get(&cluster.admin(), "/api/v1/namespaces/default/pods/none", PROTOBUF).await;
    assert_eq!((code, &status["reason"], &status["details"]["name"]), (404, &json!("NotFound"), &json!("none")));
}
