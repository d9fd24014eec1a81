//! Create, read, update, patch, apply, delete.

use crate::harness::{Cluster, MAPS, config_map};
use http_body_util::BodyExt as _;
use serde_json::json;

#[tokio::test]
async fn the_life_of_an_object() {
    let cluster = Cluster::new().await;
    let admin = cluster.admin();
    let (code, made) = admin.post(MAPS, config_map("x")).await;
    assert_eq!(code, 201, "{made}");
    assert!(made["metadata"]["uid"].is_string() && made["metadata"]["creationTimestamp"].is_string());
    assert_eq!(admin.post(MAPS, config_map("x")).await.1["reason"], "AlreadyExists");
    let (code, got) = admin.get(&format!("{MAPS}/x")).await;
    assert_eq!((code, &got), (200, &made));

    let mut next = got.clone();
    next["data"]["a"] = json!("c");
    let (code, updated) = admin.put(&format!("{MAPS}/x"), next.clone()).await;
    assert_eq!(code, 200, "{updated}");
    assert_ne!(updated["metadata"]["resourceVersion"], got["metadata"]["resourceVersion"]);
    assert_eq!(updated["metadata"]["uid"], got["metadata"]["uid"]);
    // The old version has lost.
    let (code, lost) = admin.put(&format!("{MAPS}/x"), next).await;
    assert_eq!((code, &lost["reason"]), (409, &json!("Conflict")));
    assert!(lost["message"].as_str().unwrap().contains("the object has been modified"));

    // An update that changes nothing is no change.
    let (_, same) = admin.put(&format!("{MAPS}/x"), updated.clone()).await;
    assert_eq!(same["metadata"]["resourceVersion"], updated["metadata"]["resourceVersion"]);

    let (code, status) = admin.delete(&format!("{MAPS}/x")).await;
    assert_eq!((code, &status["status"]), (200, &json!("Success")));
    assert_eq!(status["details"]["uid"], made["metadata"]["uid"]);
    assert_eq!(admin.get(&format!("{MAPS}/x")).await.0, 404);
    assert_eq!(admin.put(&format!("{MAPS}/x"), config_map("x")).await.0, 404);
}

#[tokio::test]
async fn names_are_generated_and_dry_runs_store_nothing() {
    let cluster = Cluster::new().await;
    let admin = cluster.admin();
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "gen-"}});
    let (code, made) = admin.post(MAPS, object.clone()).await;
    assert_eq!(code, 201);
    let name = made["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("gen-") && name.len() == 9, "{name}");
    let (code, dry) = admin.post(&format!("{MAPS}?dryRun=All"), config_map("dry")).await;
    assert_eq!(code, 201, "{dry}");
    assert!(dry["metadata"]["uid"].is_string());
    assert_eq!(admin.get(&format!("{MAPS}/dry")).await.0, 404);
    assert_eq!(admin.post(&format!("{MAPS}?dryRun=Some"), config_map("dry")).await.0, 422);
    let (_, dry) = admin.patch(&format!("{MAPS}/{name}?dryRun=All"), json!({"data": {"x": "y"}})).await;
    assert_eq!(dry["data"]["x"], "y");
    let (_, got) = admin.get(&format!("{MAPS}/{name}")).await;
    assert!(got.get("data").is_none());
    assert_eq!(admin.delete(&format!("{MAPS}/{name}?dryRun=All")).await.0, 200);
    assert_eq!(admin.get(&format!("{MAPS}/{name}")).await.0, 200);
}

#[tokio::test]
async fn the_four_patches() {
    let cluster = Cluster::new().await;
    let admin = cluster.admin();
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {
        "replicas": 1, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "one", "image": "x"}, {"name": "two", "image": "y"}]}},
    }});
    let (code, made) = admin.post(path, deployment).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["metadata"]["generation"], 1);
    assert_eq!(made["spec"]["strategy"]["type"], "RollingUpdate");
    let one = format!("{path}/d");
    let (code, patched) = admin.patch(&one, json!({"spec": {"replicas": 3}})).await;
    assert_eq!((code, &patched["spec"]["replicas"], &patched["metadata"]["generation"]), (200, &json!(3), &json!(2)));
    let strategic = json!({"spec": {"template": {"spec": {"containers": [{"name": "two", "image": "z"}]}}}});
    let (code, patched) =
        admin.call_as("PATCH", &one, "application/strategic-merge-patch+json", strategic.to_string()).await;
    assert_eq!(code, 200, "{patched}");
    let containers = patched["spec"]["template"]["spec"]["containers"].as_array().unwrap();
    assert_eq!((containers.len(), &containers[1]["image"]), (2, &json!("z")));
    let operations = json!([{"op": "test", "path": "/spec/replicas", "value": 3}, {"op": "replace", "path": "/spec/replicas", "value": 4}]);
    let (code, patched) = admin.call_as("PATCH", &one, "application/json-patch+json", operations.to_string()).await;
    assert_eq!((code, &patched["spec"]["replicas"]), (200, &json!(4)));
    assert_eq!(admin.call_as("PATCH", &one, "application/json-patch+json", operations.to_string()).await.0, 422);
    assert_eq!(admin.call_as("PATCH", &one, "text/plain", "x").await.0, 415);
    // The status door and the main door do not touch each other's part.
    let (_, after) = admin.patch(&one, json!({"status": {"replicas": 9}})).await;
    assert_ne!(after["status"]["replicas"], 9);
    let (code, after) =
        admin.patch(&format!("{one}/status"), json!({"status": {"replicas": 9}, "spec": {"replicas": 0}})).await;
    assert_eq!((code, &after["status"]["replicas"], &after["spec"]["replicas"]), (200, &json!(9), &json!(4)));
    let (code, scale) = admin.get(&format!("{one}/scale")).await;
    assert_eq!((code, &scale["spec"]["replicas"], &scale["status"]["selector"]), (200, &json!(4), &json!("a=b")));
    let (code, scale) = admin.patch(&format!("{one}/scale"), json!({"spec": {"replicas": 6}})).await;
    assert_eq!((code, &scale["spec"]["replicas"]), (200, &json!(6)), "{scale}");
}

#[tokio::test]
async fn server_side_apply() {
    let cluster = Cluster::new().await;
    let admin = cluster.admin();
    let one = format!("{MAPS}/applied");
    let apply = |manager: &str, force: bool, data: serde_json::Value| {
        let admin = admin.clone();
        let path = format!("{one}?fieldManager={manager}&force={force}");
        async move {
            let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}, "data": data});
            admin.call_as("PATCH", &path, "application/apply-patch+yaml", body.to_string()).await
        }
    };
    let (code, made) = apply("one", false, json!({"a": "1", "b": "1"})).await;
    assert_eq!(code, 201, "{made}");
    let (code, again) = apply("one", false, json!({"a": "1", "b": "1"})).await;
    assert_eq!((code, &again["metadata"]["resourceVersion"]), (200, &made["metadata"]["resourceVersion"]));
    let (code, conflict) = apply("two", false, json!({"a": "2"})).await;
    assert_eq!((code, &conflict["reason"]), (409, &json!("Conflict")), "{conflict}");
    assert_eq!(conflict["details"]["causes"][0]["field"], ".data.a");
    let (code, forced) = apply("two", true, json!({"a": "2"})).await;
    assert_eq!((code, &forced["data"]["a"]), (200, &json!("2")));
    // What the first manager no longer applies, and nobody else owns, goes.
    let (_, fewer) = apply("one", false, json!({})).await;
    assert_eq!(fewer["data"], json!({"a": "2"}));
    let path = format!("{one}?force=true");
    assert_eq!(admin.call_as("PATCH", &path, "application/apply-patch+yaml", "{}").await.0, 422);
}

#[tokio::test]
async fn deletion_waits_for_finalizers_and_honours_preconditions() {
    let cluster = Cluster::new().await;
    let admin = cluster.admin();
    let mut object = config_map("held");
    object["metadata"]["finalizers"] = json!(["example.com/hold"]);
    let (_, made) = admin.post(MAPS, object).await;
    let one = format!("{MAPS}/held");
    let wrong = json!({"preconditions": {"uid": "other"}});
    assert_eq!(admin.call("DELETE", &one, wrong).await.0, 409);
    let (code, marked) = admin.delete(&one).await;
    assert_eq!(code, 200);
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(marked["metadata"]["uid"], made["metadata"]["uid"]);
    let (code, _) = admin.patch(&one, json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(code, 200);
    assert_eq!(admin.get(&one).await.0, 404);
}

#[tokio::test]
async fn namespaces_end_when_they_are_finalized() {
    let cluster = Cluster::new().await;
    let admin = cluster.admin();
    let (code, made) = admin
        .post("/api/v1/namespaces", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}}))
        .await;
    assert_eq!((code, &made["status"]["phase"]), (201, &json!("Active")));
    assert_eq!(made["metadata"]["labels"]["kubernetes.io/metadata.name"], "n");
    assert_eq!(admin.delete("/api/v1/namespaces/n").await.1["status"]["phase"], "Terminating");
    let (code, refused) = admin.post("/api/v1/namespaces/n/configmaps", config_map("x")).await;
    assert_eq!(code, 403);
    assert_eq!(refused["details"]["causes"][0]["reason"], "NamespaceTerminating");
    let (_, mut namespace) = admin.get("/api/v1/namespaces/n").await;
    namespace["spec"]["finalizers"] = json!([]);
    assert_eq!(admin.put("/api/v1/namespaces/n/finalize", namespace).await.0, 200);
    assert_eq!(admin.get("/api/v1/namespaces/n").await.0, 404);
    assert_eq!(admin.delete("/api/v1/namespaces/default").await.0, 403);
    assert_eq!(admin.post("/api/v1/namespaces/nowhere/configmaps", config_map("x")).await.0, 404);
}

/// What a deletion answers is what the documents say of its kind.
#[tokio::test]
async fn a_deletion_answers_with_the_object_or_with_a_status() {
    let cluster = Cluster::new().await;
    let admin = cluster.admin();
    let table = [
        (MAPS, config_map("x"), "Status"),
        ("/api/v1/namespaces/default/serviceaccounts", json!({"kind": "ServiceAccount"}), "ServiceAccount"),
        ("/apis/storage.k8s.io/v1/storageclasses", json!({"kind": "StorageClass", "provisioner": "p"}), "StorageClass"),
        ("/apis/resource.k8s.io/v1/deviceclasses", json!({"kind": "DeviceClass", "spec": {}}), "DeviceClass"),
        ("/apis/scheduling.k8s.io/v1/priorityclasses", json!({"kind": "PriorityClass", "value": 1}), "Status"),
    ];
    for (path, mut object, kind) in table {
        object["metadata"] = json!({"name": "x"});
        let (code, made) = admin.post(path, object).await;
        assert_eq!(code, 201, "{made}");
        let (code, said) = admin.delete(&format!("{path}/x")).await;
        assert_eq!((code, &said["kind"]), (200, &json!(kind)), "{path}: {said}");
    }
}

#[tokio::test]
async fn objects_go_out_as_tables_metadata_and_yaml() {
    let cluster = Cluster::new().await;
    let admin = cluster.admin();
    admin.post(MAPS, config_map("x")).await;
    let ask = |path: String, accept: &'static str| {
        let admin = admin.clone();
        async move {
            let response = admin.send("GET", &path, &[("accept", accept)], "").await;
            let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
            (kind, response.into_body().collect().await.unwrap().to_bytes())
        }
    };
    let (_, table) = ask(MAPS.into(), "application/json;as=Table;v=v1;g=meta.k8s.io").await;
    let table: serde_json::Value = serde_json::from_slice(&table).unwrap();
    assert_eq!((&table["kind"], &table["rows"][0]["cells"][0]), (&json!("Table"), &json!("x")));
    let (_, list) = ask(MAPS.into(), "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io").await;
    let list: serde_json::Value = serde_json::from_slice(&list).unwrap();
    assert_eq!(list["items"][0]["kind"], "PartialObjectMetadata");
    assert!(list["items"][0].get("data").is_none());
    let (kind, yaml) = ask(format!("{MAPS}/x"), "application/yaml").await;
    assert_eq!(kind, "application/yaml");
    assert!(String::from_utf8_lossy(&yaml).contains("\nkind: ConfigMap\n") || yaml.starts_with(b"apiVersion: v1"));
    let (kind, proto) = ask(format!("{MAPS}/x"), "application/vnd.kubernetes.protobuf").await;
    assert_eq!(kind, "application/vnd.kubernetes.protobuf");
    assert!(proto.starts_with(b"k8s\0"));
    let created = admin.call_as("POST", MAPS, "application/vnd.kubernetes.protobuf", proto.to_vec()).await;
    // The bytes carry a resourceVersion, which a create may not.
    assert_eq!(created.0, 400, "{}", created.1);
}

#[tokio::test]
async fn secrets_are_encrypted_in_the_store() {
    let cluster = Cluster::new().await;
    let admin = cluster.admin();
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"password": "plain-and-open"}});
    let (code, made) = admin.post("/api/v1/namespaces/default/secrets", secret).await;
    assert_eq!((code, &made["data"]["password"]), (201, &json!("cGxhaW4tYW5kLW9wZW4=")), "{made}");
    drop(admin);
    let cluster = cluster.restart().await;
    let (_, got) = cluster.admin().get("/api/v1/namespaces/default/secrets/s").await;
    assert_eq!(got, made);
    let mut stack = vec![cluster.dir.path().join("store")];
    while let Some(dir) = stack.pop() {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            if entry.path().is_dir() {
                stack.push(entry.path());
            } else if let Ok(bytes) = std::fs::read(entry.path()) {
                assert!(memchr::memmem::find(&bytes, b"cGxhaW4tYW5kLW9wZW4").is_none(), "{:?}", entry.path());
            }
        }
    }
}
