//! Who may do what, and who is who.

use crate::harness::{Cluster, MAPS, config_map};
use crate::pods::{account, pod};
use caravel_server::UserInfo;
use serde_json::{Value, json};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

async fn eventually(mut test: impl AsyncFnMut() -> bool) {
    for _ in 0..200 {
        if test().await {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("it did not come true");
}

#[tokio::test]
async fn roles_take_effect_and_cannot_be_exceeded() {
    let cluster = Cluster::new().await;
    let admin = cluster.admin();
    let jane = cluster.client(UserInfo::new("jane", &["dev"]));
    let (code, refused) = jane.get(MAPS).await;
    assert_eq!(code, 403);
    assert_eq!(
        refused["message"],
        "configmaps is forbidden: User \"jane\" cannot list resource \"configmaps\" in API group \"\" in the namespace \"default\""
    );
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "dev"},
        "subjects": [{"kind": "Group", "name": "dev", "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"kind": "ClusterRole", "name": "edit", "apiGroup": "rbac.authorization.k8s.io"}});
    let (code, made) = admin.post(&format!("{RBAC}/namespaces/default/rolebindings"), binding.clone()).await;
    assert_eq!(code, 201, "{made}");
    eventually(async || jane.get(MAPS).await.0 == 200).await;
    assert_eq!(jane.post(MAPS, config_map("x")).await.0, 201);
    assert_eq!(jane.get("/api/v1/namespaces/kube-system/configmaps").await.0, 403);
    assert_eq!(jane.get("/api/v1/nodes").await.0, 403);
    assert_eq!(jane.post(&format!("{RBAC}/namespaces/default/rolebindings"), binding).await.0, 403);

    // An administrator of the namespace hands out what it has, and no more.
    let mut grant = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "boss"},
        "subjects": [{"kind": "User", "name": "boss", "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"kind": "ClusterRole", "name": "admin", "apiGroup": "rbac.authorization.k8s.io"}});
    admin.post(&format!("{RBAC}/namespaces/default/rolebindings"), grant.clone()).await;
    let boss = cluster.client(UserInfo::new("boss", &[]));
    eventually(async || boss.get(MAPS).await.0 == 200).await;
    grant["metadata"]["name"] = json!("more");
    grant["roleRef"]["name"] = json!("cluster-admin");
    let (code, refused) = boss.post(&format!("{RBAC}/namespaces/default/rolebindings"), grant.clone()).await;
    assert_eq!(code, 403);
    assert!(
        refused["message"].as_str().unwrap().contains("attempting to grant RBAC permissions not currently held"),
        "{refused}"
    );
    grant["roleRef"]["name"] = json!("view");
    assert_eq!(boss.post(&format!("{RBAC}/namespaces/default/rolebindings"), grant).await.0, 201);
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "r"}, "rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]});
    assert_eq!(boss.post(&format!("{RBAC}/namespaces/default/roles"), role).await.0, 403);
}

#[tokio::test]
async fn reviews_answer() {
    let cluster = Cluster::new().await;
    let admin = cluster.admin();
    let jane = cluster.client(UserInfo::new("jane", &[]));
    let ask = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {"resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "default"}}});
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    assert_eq!(admin.post(path, ask.clone()).await.1["status"]["allowed"], true);
    let (code, answer) = jane.post(path, ask).await;
    assert_eq!((code, &answer["status"]["allowed"]), (201, &json!(false)));
    let (_, rules) = jane
        .post("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", json!({"spec": {"namespace": "default"}}))
        .await;
    assert!(
        rules["status"]["resourceRules"]
            .as_array()
            .unwrap()
            .iter()
            .any(|r| r["resources"][0] == "selfsubjectaccessreviews"),
        "{rules}"
    );
    let other = json!({"spec": {"user": "x", "groups": ["system:masters"], "nonResourceAttributes": {"verb": "get", "path": "/metrics"}}});
    let (_, answer) = admin.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", other).await;
    assert_eq!(answer["status"]["allowed"], true);
    assert_eq!(
        jane.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", json!({"spec": {"user": "x"}})).await.0,
        403
    );
    assert_eq!(
        admin.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", json!({"spec": {"user": "x"}})).await.0,
        422
    );
    let (_, who) = jane.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", json!({})).await;
    assert_eq!(who["status"]["userInfo"]["username"], "jane");
}

#[tokio::test]
async fn impersonation_needs_permission() {
    let cluster = Cluster::new().await;
    let admin = cluster.admin();
    let jane = cluster.client(UserInfo::new("jane", &[]));
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let headers = [("content-type", "application/json"), ("impersonate-user", "bob"), ("impersonate-group", "g")];
    let response = admin.send("POST", path, &headers, "{}").await;
    assert_eq!(response.status(), 201);
    use http_body_util::BodyExt as _;
    let value: Value = serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap();
    assert_eq!(value["status"]["userInfo"], json!({"username": "bob", "groups": ["g", "system:authenticated"]}));
    assert_eq!(jane.send("POST", path, &headers, "{}").await.status(), 403);
    assert_eq!(admin.send("POST", path, &[("impersonate-group", "g")], "{}").await.status(), 400);
}

#[tokio::test]
async fn tokens_live_as_long_as_what_they_are_bound_to() {
    let cluster = Cluster::new().await;
    let admin = cluster.admin();
    account(&admin).await;
    let (code, made) = admin.post("/api/v1/namespaces/default/pods", pod("p")).await;
    assert_eq!(code, 201, "{made}");
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let bound = json!({"spec": {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": made["metadata"]["uid"]}}});
    let (code, answer) = admin.post(path, bound).await;
    assert_eq!(code, 201, "{answer}");
    let token = answer["status"]["token"].as_str().unwrap().to_owned();
    let review = || {
        let (admin, token) = (admin.clone(), token.clone());
        async move {
            let body =
                json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
            admin.post("/apis/authentication.k8s.io/v1/tokenreviews", body).await.1["status"].clone()
        }
    };
    let status = review().await;
    assert_eq!(
        (&status["authenticated"], &status["user"]["username"]),
        (&json!(true), &json!("system:serviceaccount:default:default")),
        "{status}"
    );
    assert_eq!(status["user"]["extra"]["authentication.kubernetes.io/pod-name"], json!(["p"]));
    assert_eq!(admin.delete("/api/v1/namespaces/default/pods/p").await.0, 200);
    assert_ne!(review().await["authenticated"], true);
    assert_eq!(admin.post(path, json!({"spec": {"expirationSeconds": 5}})).await.0, 422);
    assert_eq!(admin.post("/api/v1/namespaces/default/serviceaccounts/none/token", json!({})).await.0, 404);
    let (_, other) = admin.post(path, json!({"spec": {"audiences": ["vault"]}})).await;
    let body = json!({"spec": {"token": other["status"]["token"]}});
    assert_ne!(
        admin.post("/apis/authentication.k8s.io/v1/tokenreviews", body).await.1["status"]["authenticated"],
        true
    );
}

#[tokio::test]
async fn nodes_are_kept_to_themselves() {
    let cluster = Cluster::new().await;
    let admin = cluster.admin();
    account(&admin).await;
    let secret = |name: &str| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}});
    for name in ["mine", "other"] {
        admin.post("/api/v1/namespaces/default/secrets", secret(name)).await;
    }
    let mut mine = pod("p");
    mine["spec"]["nodeName"] = json!("n1");
    mine["spec"]["volumes"] = json!([{"name": "s", "secret": {"secretName": "mine"}}]);
    assert_eq!(admin.post("/api/v1/namespaces/default/pods", mine).await.0, 201);
    let n1 = cluster.client(UserInfo::new("system:node:n1", &["system:nodes"]));
    let n2 = cluster.client(UserInfo::new("system:node:n2", &["system:nodes"]));
    eventually(async || n1.get("/api/v1/namespaces/default/secrets/mine").await.0 == 200).await;
    assert_eq!(n1.get("/api/v1/namespaces/default/secrets/other").await.0, 403);
    assert_eq!(n2.get("/api/v1/namespaces/default/secrets/mine").await.0, 403);
    assert_eq!(n1.get("/api/v1/namespaces/default/secrets").await.0, 403);
    assert_eq!(n1.get("/api/v1/pods?fieldSelector=spec.nodeName=n1").await.0, 200);
}
