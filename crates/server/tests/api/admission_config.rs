//! What the file of `--admission-control-config-file` changes.

use crate::harness::{Client, Cluster};
use caravel_server::UserInfo;
use serde_json::{Value, json};

const FILE: &str = r#"
apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
- name: PodSecurity
  configuration:
    apiVersion: pod-security.admission.config.k8s.io/v1
    kind: PodSecurityConfiguration
    defaults: { enforce: baseline, warn: restricted }
    exemptions: { namespaces: [trusted], usernames: [root], runtimeClasses: [sandbox] }
- name: ResourceQuota
  path: quota.yaml
"#;

const QUOTA: &str = r#"
apiVersion: apiserver.config.k8s.io/v1
kind: ResourceQuotaConfiguration
limitedResources:
- resource: persistentvolumeclaims
  matchContains: [requests.storage]
"#;

async fn cluster() -> Cluster {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("admission.yaml");
    std::fs::write(&file, FILE).unwrap();
    std::fs::write(dir.path().join("quota.yaml"), QUOTA).unwrap();
    let cluster = Cluster::with(|config| config.admission_configuration = Some(file)).await;
    let admin = cluster.admin();
    for name in ["plain", "open", "trusted"] {
        let level = if name == "open" { "privileged" } else { "" };
        let labels = if level.is_empty() { json!({}) } else { json!({"pod-security.kubernetes.io/enforce": level}) };
        let made = admin.post("/api/v1/namespaces", json!({"metadata": {"name": name, "labels": labels}})).await;
        assert_eq!(made.0, 201, "{}", made.1);
        let account = json!({"metadata": {"name": "default"}});
        assert_eq!(admin.post(&format!("/api/v1/namespaces/{name}/serviceaccounts"), account).await.0, 201);
    }
    cluster
}

async fn pod(client: &Client, namespace: &str, more: Value) -> (u16, String) {
    let mut spec = json!({"hostNetwork": true, "containers": [{"name": "c", "image": "i"}]});
    if let Some(more) = more.as_object() {
        spec.as_object_mut().unwrap().extend(more.clone());
    }
    let pod = json!({"metadata": {"generateName": "p-"}, "spec": spec});
    let (code, said) = client.post(&format!("/api/v1/namespaces/{namespace}/pods"), pod).await;
    (code, said["message"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn defaults_hold_where_labels_say_nothing_and_some_are_exempt() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let (code, said) = pod(&admin, "plain", json!({})).await;
    assert!(code == 403 && said.contains("violates PodSecurity \"baseline:latest\": host namespaces"), "{code} {said}");
    assert_eq!(pod(&admin, "open", json!({})).await.0, 201, "a label stands over the default");
    assert_eq!(pod(&admin, "trusted", json!({})).await.0, 201, "an exempt namespace");
    let root = cluster.client(UserInfo::system_masters("root"));
    assert_eq!(pod(&root, "plain", json!({})).await.0, 201, "an exempt user");
    let class = json!({"metadata": {"name": "sandbox"}, "handler": "h"});
    assert_eq!(admin.post("/apis/node.k8s.io/v1/runtimeclasses", class).await.0, 201);
    assert_eq!(pod(&admin, "plain", json!({"runtimeClassName": "sandbox"})).await.0, 201, "an exempt runtime class");
    // What is only warned of.
    let harmless = json!({"metadata": {"name": "w"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let response = admin
        .send("POST", "/api/v1/namespaces/plain/pods", &[("content-type", "application/json")], harmless.to_string())
        .await;
    let warning = response.headers()["warning"].to_str().unwrap().to_owned();
    assert!(response.status() == 201 && warning.contains("would violate PodSecurity"), "{warning}");
    // Labels of an exempt namespace are of no effect, and that is said.
    let labels = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
    let response = admin
        .send(
            "PATCH",
            "/api/v1/namespaces/trusted",
            &[("content-type", "application/merge-patch+json")],
            labels.to_string(),
        )
        .await;
    let warning = response.headers()["warning"].to_str().unwrap().to_owned();
    assert!(warning.contains("namespace \\\"trusted\\\" is exempt from Pod Security"), "{warning}");
}

#[tokio::test]
async fn limited_resources_need_a_quota() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let claims = "/api/v1/namespaces/plain/persistentvolumeclaims";
    let claim = |name: &str| json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    let (code, said) = admin.post(claims, claim("a")).await;
    let message = said["message"].as_str().unwrap();
    assert!(code == 403 && message.ends_with("insufficient quota to consume: requests.storage"), "{code} {said}");
    let quotas = "/api/v1/namespaces/plain/resourcequotas";
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"requests.storage": "1Gi"}}});
    assert_eq!(admin.post(quotas, quota).await.0, 201);
    // The quota controller's part.
    let status = json!({"status": {"hard": {"requests.storage": "1Gi"}, "used": {"requests.storage": "0"}}});
    assert_eq!(admin.patch(&format!("{quotas}/q/status"), status).await.0, 200);
    assert_eq!(admin.post(claims, claim("a")).await.0, 201);
    let (code, said) = admin.post(claims, claim("b")).await;
    assert!(code == 403 && said["message"].as_str().unwrap().contains("exceeded quota: q"), "{code} {said}");
}
