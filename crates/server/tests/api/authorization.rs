//! The authorization webhook: a real receiver between the Node authorizer and RBAC.

use crate::harness::{Client, Cluster, MAPS};
use crate::receiver::{Call, Receiver, json as answer, status};
use caravel_server::UserInfo;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A cluster whose authorizers are a webhook, of which `more` is said, and then RBAC.
async fn gated(receiver: &Receiver, more: &str) -> Cluster {
    let dir = tempfile::tempdir().unwrap();
    let kubeconfig = receiver.kubeconfig(dir.path(), "/authorize");
    let file = dir.path().join("authorization.yaml");
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers:\n\
         - type: Webhook\n  name: gate\n  webhook:\n    timeout: 3s\n    subjectAccessReviewVersion: v1\n    \
         connectionInfo: {{ type: KubeConfigFile, kubeConfigFile: {} }}\n{more}\
         - {{ type: RBAC, name: rbac }}\n",
        kubeconfig.file_name().unwrap().to_string_lossy()
    );
    std::fs::write(&file, text).unwrap();
    Cluster::with(|config| config.authorization = Some(file)).await
}

fn ann(cluster: &Cluster) -> Client {
    cluster.client(UserInfo::new("ann", &[]))
}

fn verdict(call: &Call) -> Value {
    match call.body["spec"]["resourceAttributes"]["verb"].as_str() {
        Some("list") => json!({"allowed": true, "reason": "lists are free"}),
        Some("create") => json!({"allowed": false, "denied": true, "reason": "closed today"}),
        _ => json!({"allowed": false, "reason": "ask somebody else"}),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_allows_denies_or_leaves_it_to_the_next() {
    let mut receiver = Receiver::start(|call| answer(&json!({"status": verdict(call)}))).await;
    let cluster = gated(&receiver, "    failurePolicy: NoOpinion\n").await;
    let ann = ann(&cluster);
    assert_eq!(ann.get(MAPS).await.0, 200, "the webhook allows it, RBAC would not");
    let call = receiver.call().await;
    assert_eq!((call.path.as_str(), call.authorization.as_str()), ("/authorize?timeout=3s", "Bearer let-me-in"));
    assert_eq!(
        (&call.body["kind"], &call.body["apiVersion"]),
        (&json!("SubjectAccessReview"), &json!("authorization.k8s.io/v1"))
    );
    assert_eq!(call.body["spec"]["user"], "ann");
    let about = json!({"verb": "list", "version": "v1", "resource": "configmaps", "namespace": "default"});
    assert_eq!(call.body["spec"]["resourceAttributes"], about);
    assert_eq!(ann.get(MAPS).await.0, 200);
    assert!(receiver.rest().is_empty(), "the answer was remembered");
    let (code, refused) = ann.post(MAPS, json!({"metadata": {"name": "a"}})).await;
    assert_eq!(code, 403);
    assert!(refused["message"].as_str().unwrap().ends_with(": closed today"), "{refused}");
    let (code, refused) = ann.get(&format!("{MAPS}/a")).await;
    assert_eq!(code, 403, "nobody allows it: {refused}");
    receiver.rest();
    assert_eq!(cluster.admin().get(MAPS).await.0, 200);
    assert!(receiver.rest().is_empty(), "masters are not asked about");
    // What is asked about somebody gets the same answer, its refusal included.
    let review = |verb: &str| {
        json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {"user": "bob", "resourceAttributes": {"verb": verb, "resource": "pods", "namespace": "default"}}})
    };
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let (_, said) = cluster.admin().post(path, review("list")).await;
    assert_eq!(said["status"], json!({"allowed": true, "reason": "lists are free"}));
    let (_, said) = cluster.admin().post(path, review("create")).await;
    assert_eq!(said["status"], json!({"allowed": false, "denied": true, "reason": "closed today"}));
    let (_, said) = cluster.admin().post(path, review("get")).await;
    assert_eq!(said["status"], json!({"allowed": false, "reason": "ask somebody else"}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditions_say_what_it_is_asked_about() {
    let mut receiver = Receiver::start(|_| answer(&json!({"status": {"allowed": true}}))).await;
    let more = "    failurePolicy: Deny\n    matchConditionSubjectAccessReviewVersion: v1\n    \
                matchConditions: [{ expression: \"has(request.resourceAttributes) && request.resourceAttributes.resource == 'configmaps'\" }]\n";
    let cluster = gated(&receiver, more).await;
    let ann = ann(&cluster);
    assert_eq!(ann.get("/api/v1/namespaces/default/pods").await.0, 403);
    assert_eq!(ann.get("/version").await.0, 200, "RBAC lets everybody read it");
    assert!(receiver.rest().is_empty());
    assert_eq!(ann.get(MAPS).await.0, 200);
    assert_eq!(receiver.rest().len(), 1);
    // All that somebody may do, no webhook can tell.
    let rules = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": "default"}});
    let (code, said) = ann.post("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", rules).await;
    assert_eq!((code, &said["status"]["incomplete"]), (201, &json!(true)));
    assert_eq!(said["status"]["evaluationError"], "webhook authorizer does not support user rule resolution");
}

/// A failure is tried again; one that lasts is what the file says it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_are_tried_again_and_then_judged() {
    for (policy, code) in [("Deny", 403), ("NoOpinion", 200)] {
        let once = Arc::new(AtomicBool::new(true));
        let flag = once.clone();
        let mut receiver = Receiver::start(move |_| match flag.swap(false, Ordering::SeqCst) {
            true => status(503),
            false => answer(&json!({"status": {"allowed": true}})),
        })
        .await;
        let cluster = gated(&receiver, &format!("    failurePolicy: {policy}\n")).await;
        let ann = ann(&cluster);
        assert_eq!(ann.get(MAPS).await.0, 200, "the second attempt allows it");
        assert_eq!(receiver.rest().len(), 2);
        drop(receiver);
        // RBAC would allow this one; the webhook is gone, and its answer was not asked for before.
        assert_eq!(ann.get("/version").await.0, code, "{policy}");
        assert_eq!(ann.get(MAPS).await.0, 200, "remembered");
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_used_stops_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("authorization.yaml");
    std::fs::write(&file, "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\n").unwrap();
    let mut config = caravel_server::Config::new(dir.path(), [10, 0, 0, 1].into(), 6443);
    config.authorization = Some(file);
    let options = caravel_store::embedded::Options::new(dir.path().join("store"));
    let store = Arc::new(caravel_store::embedded::Embedded::open(options).unwrap());
    let error = caravel_server::Server::open(config, store).await.err().unwrap().to_string();
    assert!(error.contains("authorization.yaml") && error.contains("at least one"), "{error}");
}
