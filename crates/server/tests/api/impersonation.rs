//! Acting as another for some requests only, and what the gate of it turns off.

use crate::harness::{Client, Cluster, MAPS, config_map};
use caravel_server::UserInfo;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use std::time::Duration;

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

async fn bind(admin: &Client, user: &str, rules: Value) {
    let role = json!({"metadata": {"name": user}, "rules": rules});
    assert_eq!(admin.post(&format!("{RBAC}/clusterroles"), role).await.0, 201);
    let binding = json!({"metadata": {"name": user}, "subjects": [{"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"kind": "ClusterRole", "name": user, "apiGroup": "rbac.authorization.k8s.io"}});
    assert_eq!(admin.post(&format!("{RBAC}/clusterrolebindings"), binding).await.0, 201);
    let ask = json!({"spec": {"user": user, "resourceAttributes": {"verb": "get", "group": "last.example", "resource": "x"}}});
    for _ in 0..500 {
        let (_, said) = admin.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", ask.clone()).await;
        if said["status"]["allowed"] == true {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the rights of {user} do not hold");
}

/// `bob` may list and create ConfigMaps; `deputy` may be him, or `eve`, to list them.
async fn deputy(cluster: &Cluster) -> Client {
    let last = json!({"apiGroups": ["last.example"], "resources": ["x"], "verbs": ["get"]});
    let maps = json!({"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list", "create"]});
    bind(&cluster.admin(), "bob", json!([maps, last])).await;
    let name = json!({"apiGroups": ["authentication.k8s.io"], "resources": ["users"], "resourceNames": ["bob", "eve"], "verbs": ["impersonate:user-info"]});
    let deed = json!({"apiGroups": [""], "resources": ["configmaps"], "verbs": ["impersonate-on:user-info:list"]});
    bind(&cluster.admin(), "deputy", json!([name, deed, last])).await;
    cluster.client(UserInfo::new("deputy", &[]))
}

async fn as_bob(who: &Client, method: &str, body: Value) -> (u16, Value) {
    acting(who, "bob", method, body).await
}

async fn acting(who: &Client, whom: &str, method: &str, body: Value) -> (u16, Value) {
    let headers = [("content-type", "application/json"), ("impersonate-user", whom)];
    let response = who.send(method, MAPS, &headers, body.to_string()).await;
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (code, serde_json::from_slice(&bytes).unwrap())
}

#[tokio::test]
async fn a_deputy_does_some_things_in_anothers_name() {
    let cluster = Cluster::new().await;
    let deputy = deputy(&cluster).await;
    let (code, said) = as_bob(&deputy, "GET", json!({})).await;
    assert_eq!(code, 200, "{said}");
    assert_eq!(deputy.get(MAPS).await.0, 403, "it is no right to do so in one's own name");
    let (code, said) = as_bob(&deputy, "POST", config_map("a")).await;
    assert_eq!((code, &said["reason"], &said["details"]["kind"]), (403, &json!("Forbidden"), &json!("configmaps")));
    assert_eq!(
        said["message"],
        "configmaps is forbidden: User \"deputy\" cannot impersonate-on:user-info:create resource \"configmaps\" in API group \"\" in the namespace \"default\""
    );
    // Whoever one is, that one has to be allowed what is done.
    let (code, said) = acting(&deputy, "eve", "GET", json!({})).await;
    let told = said["message"].as_str().unwrap();
    assert!(code == 403 && told.contains("User \"eve\" cannot list resource \"configmaps\""), "{said}");
    let (_, text) = cluster.admin().get("/metrics").await;
    let counted = "apiserver_impersonation_attempts_total{mode=\"user-info\",decision=\"allowed\"} 2";
    assert!(text.as_str().unwrap().lines().any(|line| line == counted));
}

#[tokio::test]
async fn the_gate_turns_it_off() {
    let cluster = Cluster::with(|config| config.feature_gates = vec!["ConstrainedImpersonation=false".into()]).await;
    let deputy = deputy(&cluster).await;
    let (code, said) = as_bob(&deputy, "GET", json!({})).await;
    assert_eq!(code, 403);
    assert_eq!(
        said["message"],
        "users \"bob\" is forbidden: User \"deputy\" cannot impersonate resource \"users\" in API group \"\" at the cluster scope"
    );
    assert_eq!(as_bob(&cluster.admin(), "GET", json!({})).await.0, 200, "the older verb is always there");
}
