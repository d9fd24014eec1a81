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

/// A request whose body and answer are protobuf.
async fn send(client: &Client, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let gvk = Gvk::from_object(body["apiVersion"].as_str().unwrap(), body["kind"].as_str().unwrap());
    let bytes = protobuf::encode(&Schema::of_kind(&gvk).unwrap(), body).unwrap();
    let headers = [("content-type", PROTOBUF), ("accept", PROTOBUF)];
    let response = client.send(method, path, &headers, bytes).await;
    assert_eq!(response.headers()["content-type"], PROTOBUF, "{method} {path}");
    let code = response.status().as_u16();
    (code, read(&response.into_body().collect().await.unwrap().to_bytes()))
}

#[tokio::test]
async fn bodies_of_every_sort_may_be_protobuf() {
    let cluster = Cluster::new().await;
    let admin = cluster.admin();
    let at = |what: &str| format!("/api/v1/namespaces/default/{what}");
    let core = |kind: &str, rest: Value| {
        let mut object = json!({"apiVersion": "v1", "kind": kind});
        object.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        object
    };
    let map = core("ConfigMap", json!({"metadata": {"name": "m"}, "data": {"k": "v"}, "binaryData": {"b": "AAEC"}}));
    let (code, mut made) = send(&admin, "POST", &at("configmaps"), &map).await;
    assert_eq!((code, &made["binaryData"]), (201, &map["binaryData"]), "{made}");
    made["data"]["k"] = json!("w");
    let (code, put) = send(&admin, "PUT", &at("configmaps/m"), &made).await;
    assert_eq!((code, &put["data"]["k"]), (200, &json!("w")), "{put}");
    assert_eq!(admin.get(&at("configmaps/m")).await.1["data"]["k"], "w");

    // Options of a deletion say the version of whatever is deleted.
    let options = |version: &str, uid: &Value| json!({"apiVersion": version, "kind": "DeleteOptions", "preconditions": {"uid": uid}});
    for version in ["v1", "apps/v1", "meta.k8s.io/v1"] {
        let (code, said) = send(&admin, "DELETE", &at("configmaps/m"), &options(version, &json!("other"))).await;
        assert_eq!((code, &said["reason"]), (409, &json!("Conflict")), "{version}: {said}");
    }
    let (code, said) = send(&admin, "DELETE", &at("configmaps/m"), &options("v1", &made["metadata"]["uid"])).await;
    assert_eq!((code, &said["status"]), (200, &json!("Success")), "{said}");

    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {"user": "u", "groups": ["system:masters"], "extra": {"e": ["1", "2"]}, "resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let (code, said) = send(&admin, "POST", path, &review).await;
    assert_eq!((code, &said["status"]["allowed"], &said["spec"]), (201, &json!(true), &review["spec"]), "{said}");

    let (code, said) =
        send(&admin, "POST", &at("serviceaccounts"), &core("ServiceAccount", json!({"metadata": {"name": "default"}})))
            .await;
    assert_eq!(code, 201, "{said}");
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": ["a"], "expirationSeconds": 700}});
    let (code, said) = send(&admin, "POST", &at("serviceaccounts/default/token"), &request).await;
    assert_eq!((code, said["status"]["token"].is_string()), (201, true), "{said}");

    let pod = core("Pod", json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}));
    let (code, said) = send(&admin, "POST", &at("pods"), &pod).await;
    assert_eq!(code, 201, "{said}");
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"},
        "deleteOptions": {"preconditions": {"uid": "other"}}});
    let (code, said) = send(&admin, "POST", &at("pods/p/eviction"), &eviction).await;
    assert_eq!((code, &said["reason"]), (409, &json!("Conflict")), "{said}");

    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}});
    let (code, made) = send(&admin, "POST", deployments, &deployment).await;
    assert_eq!((code, &made["spec"]["strategy"]["rollingUpdate"]["maxSurge"]), (201, &json!("25%")), "{made}");
    let scale =
        json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d"}, "spec": {"replicas": 3}});
    let (code, said) = send(&admin, "PUT", &format!("{deployments}/d/scale"), &scale).await;
    assert_eq!((code, &said["spec"]["replicas"]), (200, &json!(3)), "{said}");

    for body in [&b"k8s\0\x0a\xff"[..], b"{}", b""] {
        let (code, said) = admin.call_as("POST", &at("configmaps"), PROTOBUF, body.to_vec()).await;
        assert_eq!((code, &said["reason"]), (400, &json!("BadRequest")), "{said}");
    }
    let (code, said) = admin.call_as("POST", &at("configmaps"), "application/cbor", b"\xa0".to_vec()).await;
    assert_eq!((code, &said["reason"]), (415, &json!("UnsupportedMediaType")), "{said}");
}
