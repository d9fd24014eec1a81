//! Addresses and ports of Services.

use crate::harness::Cluster;
use serde_json::{Value, json};
use std::collections::BTreeSet;

const SERVICES: &str = "/api/v1/namespaces/default/services";

fn service(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

#[tokio::test]
async fn the_kubernetes_service_is_there() {
    let cluster = Cluster::new().await;
    let admin = cluster.admin();
    let (_, service) = admin.get(&format!("{SERVICES}/kubernetes")).await;
    assert_eq!(
        (&service["spec"]["clusterIP"], &service["spec"]["ports"][0]["targetPort"]),
        (&json!("10.96.0.1"), &json!(6443))
    );
    let (_, slice) = admin.get("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes").await;
    assert_eq!(slice["endpoints"][0]["addresses"][0], "10.0.0.1", "{slice}");
    let (_, endpoints) = admin.get("/api/v1/namespaces/default/endpoints/kubernetes").await;
    assert_eq!(endpoints["subsets"][0]["addresses"][0]["ip"], "10.0.0.1");
}

#[tokio::test]
async fn addresses_are_unique_kept_and_given_back() {
    let cluster = Cluster::with(|config| config.service_cidrs = vec!["10.5.0.0/28".into()]).await;
    let admin = cluster.admin();
    // 14 addresses, of which `kubernetes` has one; all others at once.
    let made = futures::future::join_all((0..13).map(|i| {
        let admin = admin.clone();
        async move { admin.post(SERVICES, service(&format!("s{i}"), json!({"ports": [{"port": 80}]}))).await }
    }))
    .await;
    let mut seen = BTreeSet::from(["10.5.0.1".to_owned()]);
    for (code, one) in &made {
        assert_eq!(*code, 201, "{one}");
        assert!(seen.insert(one["spec"]["clusterIP"].as_str().unwrap().to_owned()));
    }
    let (code, full) = admin.post(SERVICES, service("more", json!({"ports": [{"port": 80}]}))).await;
    assert_eq!(code, 500);
    assert!(full["message"].as_str().unwrap().contains("range is full"));
    let taken = made[0].1["spec"]["clusterIP"].clone();
    let (code, refused) =
        admin.post(SERVICES, service("same", json!({"clusterIP": taken, "ports": [{"port": 80}]}))).await;
    assert_eq!(code, 422, "{refused}");
    assert!(refused["message"].as_str().unwrap().contains("provided IP is already allocated"));
    let (code, refused) =
        admin.post(SERVICES, service("out", json!({"clusterIP": "10.6.0.1", "ports": [{"port": 80}]}))).await;
    assert_eq!(code, 422, "{refused}");
    assert_eq!(admin.delete(&format!("{SERVICES}/s0")).await.0, 200);
    let (code, again) =
        admin.post(SERVICES, service("same", json!({"clusterIP": taken, "ports": [{"port": 80}]}))).await;
    assert_eq!((code, &again["spec"]["clusterIP"]), (201, &taken), "{again}");
    let (_, addresses) = admin.get("/apis/networking.k8s.io/v1/ipaddresses").await;
    assert_eq!(addresses["items"].as_array().unwrap().len(), 14);
}

#[tokio::test]
async fn node_ports_and_types() {
    let cluster = Cluster::new().await;
    let admin = cluster.admin();
    let two =
        json!({"type": "NodePort", "ports": [{"name": "t", "port": 53}, {"name": "u", "port": 53, "protocol": "UDP"}]});
    let (code, made) = admin.post(SERVICES, service("np", two)).await;
    assert_eq!(code, 201, "{made}");
    let port = made["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
    assert!((30000..=32767).contains(&port));
    assert_eq!(made["spec"]["ports"][1]["nodePort"], port, "one number for both protocols");
    let same = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]});
    let (code, refused) = admin.post(SERVICES, service("same", same.clone())).await;
    assert_eq!(code, 422);
    assert!(refused["message"].as_str().unwrap().contains("provided port is already allocated"));
    let (_, kept) = admin.patch(&format!("{SERVICES}/np"), json!({"metadata": {"labels": {"x": "y"}}})).await;
    assert_eq!(kept["spec"], made["spec"]);
    let (code, plain) = admin.patch(&format!("{SERVICES}/np"), json!({"spec": {"type": "ClusterIP"}})).await;
    assert_eq!(code, 200, "{plain}");
    assert!(plain["spec"]["ports"][0].get("nodePort").is_none());
    assert_eq!(admin.post(SERVICES, service("same", same)).await.0, 201);
    let (_, headless) = admin
        .post(
            SERVICES,
            service("headless", json!({"clusterIP": "None", "selector": {"a": "b"}, "ports": [{"port": 80}]})),
        )
        .await;
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    let (code, external) =
        admin.post(SERVICES, service("ext", json!({"type": "ExternalName", "externalName": "example.com"}))).await;
    assert_eq!(code, 201, "{external}");
    assert!(external["spec"].get("clusterIP").is_none());

    drop(admin);
    let cluster = cluster.restart().await;
    let (code, refused) = cluster
        .admin()
        .post(SERVICES, service("other", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]})))
        .await;
    assert_eq!(code, 422, "{refused}");
}
