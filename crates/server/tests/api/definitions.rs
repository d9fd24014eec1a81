//! Custom resources: served while their definition is there.

use crate::harness::{Client, Cluster};
use serde_json::{Value, json};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";

fn definition() -> Value {
    let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {
        "spec": {"type": "object", "required": ["size"], "properties": {
            "size": {"type": "integer", "minimum": 1}, "color": {"type": "string", "default": "red"},
            "replicas": {"type": "integer"},
        }},
        "status": {"type": "object", "properties": {"replicas": {"type": "integer"}, "selector": {"type": "string"}}},
    }}});
    let version = |name: &str, storage: bool| {
        json!({"name": name, "served": true, "storage": storage, "schema": schema,
            "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}},
            "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}]})
    };
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "shortNames": ["wd"]},
            "versions": [version("v1", true), version("v1beta1", false)]}})
}

pub async fn until(client: &Client, path: &str, wanted: u16) {
    for _ in 0..300 {
        if client.get(path).await.0 == wanted {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("{path} did not answer {wanted}");
}

#[tokio::test]
async fn a_custom_resource_lives_as_long_as_its_definition() {
    let cluster = Cluster::new().await;
    let admin = cluster.admin();
    let (code, made) = admin.post(DEFINITIONS, definition()).await;
    assert_eq!(code, 201, "{made}");
    until(&admin, WIDGETS, 200).await;
    let (_, made) = admin.get(&format!("{DEFINITIONS}/widgets.example.com")).await;
    assert_eq!(made["status"]["storedVersions"], json!(["v1"]));
    assert!(
        made["status"]["conditions"]
            .as_array()
            .unwrap()
            .iter()
            .any(|c| c["type"] == "Established" && c["status"] == "True")
    );

    let widget = |spec: Value| json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": spec});
    let (code, refused) = admin.post(WIDGETS, widget(json!({"size": 0}))).await;
    assert_eq!(code, 422, "{refused}");
    let (code, made) = admin.post(WIDGETS, widget(json!({"size": 3, "unknown": 1}))).await;
    assert_eq!((code, &made["spec"]), (201, &json!({"size": 3, "color": "red"})), "{made}");
    assert_eq!(made["metadata"]["generation"], 1);
    let (code, other) = admin.get("/apis/example.com/v1beta1/namespaces/default/widgets/w").await;
    assert_eq!((code, &other["apiVersion"]), (200, &json!("example.com/v1beta1")));
    let (_, list) = admin.get(WIDGETS).await;
    assert_eq!((&list["kind"], &list["items"][0]["kind"]), (&json!("WidgetList"), &json!("Widget")));
    let one = format!("{WIDGETS}/w");
    let (code, scaled) = admin.patch(&format!("{one}/scale"), json!({"spec": {"replicas": 4}})).await;
    assert_eq!((code, &scaled["spec"]["replicas"]), (200, &json!(4)), "{scaled}");
    let (_, got) = admin.get(&one).await;
    assert_eq!((&got["spec"]["replicas"], &got["metadata"]["generation"]), (&json!(4), &json!(2)));
    let (code, status) =
        admin.patch(&format!("{one}/status"), json!({"status": {"replicas": 2}, "spec": {"size": 9}})).await;
    assert_eq!((code, &status["status"]["replicas"], &status["spec"]["size"]), (200, &json!(2), &json!(3)));
    assert_eq!(admin.call_as("PATCH", &one, "application/strategic-merge-patch+json", "{}").await.0, 415);
    let (_, groups) = admin.get("/apis/example.com/v1").await;
    assert!(groups["resources"].as_array().unwrap().iter().any(|r| r["name"] == "widgets/scale"));
    let (code, document) = admin.get("/openapi/v3/apis/example.com/v1").await;
    assert_eq!(code, 200);
    assert!(document.to_string().contains("com.example.v1.Widget"));

    // Deleting the definition deletes the instances first.
    admin.patch(&one, json!({"metadata": {"finalizers": ["example.com/hold"]}})).await;
    assert_eq!(admin.delete(&format!("{DEFINITIONS}/widgets.example.com")).await.0, 200);
    for _ in 0..300 {
        if admin.get(&one).await.1["metadata"]["deletionTimestamp"].is_string() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(admin.get(&format!("{DEFINITIONS}/widgets.example.com")).await.0, 200);
    assert_eq!(admin.patch(&one, json!({"metadata": {"finalizers": null}})).await.0, 200);
    until(&admin, &format!("{DEFINITIONS}/widgets.example.com"), 404).await;
    until(&admin, WIDGETS, 404).await;
}
