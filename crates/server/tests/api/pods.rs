//! Pods: admission, binding, graceful deletion, eviction, tokens.

use crate::harness::{Client, Cluster};
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/default/pods";

pub fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}})
}

pub async fn account(admin: &Client) {
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    assert_eq!(admin.post("/api/v1/namespaces/default/serviceaccounts", account).await.0, 201);
}

async fn bind(admin: &Client, name: &str) -> (u16, Value) {
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": {"kind": "Node", "name": "n1"}});
    admin.post(&format!("{PODS}/{name}/binding"), binding).await
}

#[tokio::test]
async fn a_pod_is_completed_bound_and_ended() {
    let cluster = Cluster::new().await;
    let admin = cluster.admin();
    let (code, refused) = admin.post(PODS, pod("early")).await;
    assert_eq!(code, 403);
    assert!(refused["message"].as_str().unwrap().contains("error looking up service account default/default"));
    account(&admin).await;
    let (code, made) = admin.post(PODS, pod("p")).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!((&made["status"]["phase"], &made["status"]["qosClass"]), (&json!("Pending"), &json!("BestEffort")));
    let spec = &made["spec"];
    assert_eq!(
        (&spec["serviceAccountName"], &spec["priority"], &spec["preemptionPolicy"]),
        (&json!("default"), &json!(0), &json!("PreemptLowerPriority"))
    );
    assert_eq!(spec["tolerations"].as_array().unwrap().len(), 2);
    assert!(spec["volumes"][0]["name"].as_str().unwrap().starts_with("kube-api-access-"));
    assert_eq!(spec["containers"][0]["volumeMounts"][0]["mountPath"], "/var/run/secrets/kubernetes.io/serviceaccount");

    let (code, bound) = bind(&admin, "p").await;
    assert_eq!((code, &bound["status"]), (201, &json!("Success")), "{bound}");
    let (_, got) = admin.get(&format!("{PODS}/p")).await;
    assert_eq!(got["spec"]["nodeName"], "n1");
    assert_eq!(got["status"]["conditions"][0]["type"], "PodScheduled");
    assert_eq!(got["metadata"]["generation"], made["metadata"]["generation"]);
    assert_eq!(bind(&admin, "p").await.0, 409);

    let (code, marked) = admin.delete(&format!("{PODS}/p")).await;
    assert_eq!((code, &marked["metadata"]["deletionGracePeriodSeconds"]), (200, &json!(30)));
    let (code, gone) = admin.call("DELETE", &format!("{PODS}/p"), json!({"gracePeriodSeconds": 0})).await;
    assert_eq!((code, &gone["kind"]), (200, &json!("Pod")));
    assert_eq!(admin.get(&format!("{PODS}/p")).await.0, 404);
}

#[tokio::test]
async fn fields_select_pods() {
    let cluster = Cluster::new().await;
    let admin = cluster.admin();
    account(&admin).await;
    for name in ["a", "b"] {
        admin.post(PODS, pod(name)).await;
    }
    bind(&admin, "b").await;
    let (_, list) = admin.get("/api/v1/pods?fieldSelector=spec.nodeName=n1,status.phase!=Failed").await;
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    assert_eq!(list["items"][0]["metadata"]["name"], "b");
}

#[tokio::test]
async fn evictions_respect_budgets() {
    let cluster = Cluster::new().await;
    let admin = cluster.admin();
    account(&admin).await;
    admin.post(PODS, pod("p")).await;
    bind(&admin, "p").await;
    admin
        .patch(
            &format!("{PODS}/p/status"),
            json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}),
        )
        .await;
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "x"}}}});
    assert_eq!(admin.post(budgets, budget).await.0, 201);
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
    let evict = || admin.post("/api/v1/namespaces/default/pods/p/eviction", eviction.clone());
    let (code, refused) = evict().await;
    assert_eq!((code, &refused["reason"]), (429, &json!("TooManyRequests")), "{refused}");
    assert_eq!(refused["details"]["retryAfterSeconds"], 10, "the budget is not counted yet");
    let status = json!({"status": {"observedGeneration": 1, "disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1}});
    assert_eq!(admin.patch(&format!("{budgets}/b/status"), status).await.0, 200);
    let (code, refused) = evict().await;
    assert_eq!(code, 429);
    assert_eq!(
        refused["details"]["causes"][0]["message"],
        "The disruption budget b needs 1 healthy pods and has 1 currently"
    );
    assert_eq!(refused["details"].get("retryAfterSeconds"), None, "nobody knows when that ends");
    admin.patch(&format!("{budgets}/b/status"), json!({"status": {"disruptionsAllowed": 1}})).await;
    let (code, done) = evict().await;
    assert_eq!(code, 201, "{done}");
    let (_, got) = admin.get(&format!("{PODS}/p")).await;
    assert!(got["metadata"]["deletionTimestamp"].is_string());
    assert!(got["status"]["conditions"].as_array().unwrap().iter().any(|c| c["type"] == "DisruptionTarget"));
    let (_, budget) = admin.get(&format!("{budgets}/b")).await;
    assert_eq!(budget["status"]["disruptionsAllowed"], 0);
}

#[tokio::test]
async fn connections_to_pods_say_what_is_wrong() {
    let cluster = Cluster::new().await;
    let admin = cluster.admin();
    account(&admin).await;
    admin.post(PODS, pod("p")).await;
    // Of what runs nowhere yet there is no log.
    assert_eq!(admin.get(&format!("{PODS}/p/log")).await, (204, json!("")));
    let (code, error) = admin.get(&format!("{PODS}/p/exec?command=sh")).await;
    assert_eq!((code, error["message"].as_str()), (400, Some("pod p does not have a host assigned")));
    bind(&admin, "p").await;
    let (code, error) = admin.get(&format!("{PODS}/p/log?container=z")).await;
    assert_eq!((code, error["message"].as_str()), (400, Some("container z is not valid for pod p")));
    assert_eq!(admin.get(&format!("{PODS}/p/log?tailLines=-1")).await.0, 422);
    assert_eq!(admin.get(&format!("{PODS}/none/log")).await.0, 404);
    assert_eq!(admin.get("/api/v1/nodes/none/proxy/metrics").await.0, 404);
    assert_eq!(admin.get("/api/v1/namespaces/default/services/none/proxy/").await.0, 404);
}
