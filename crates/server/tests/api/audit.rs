//! The audit webhook: a real receiver, batches, failures, and what is counted.

use crate::harness::{Cluster, MAPS, config_map};
use crate::receiver::{Call, Receiver, status};
use caravel_server::AuditOptions;
use caravel_server::audit::webhook::{Mode, WebhookOptions};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// Only what the administrator does is recorded, once a request.
const POLICY: &str = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n\
    - { level: RequestResponse, users: [admin], resources: [{ group: '', resources: [configmaps] }], omitManagedFields: true }\n\
    - { level: Metadata, users: [admin], omitStages: [ResponseStarted] }\n";

async fn audited(receiver: &Receiver, change: impl FnOnce(&mut WebhookOptions)) -> Cluster {
    let dir = tempfile::tempdir().unwrap();
    let policy = dir.path().join("policy.yaml");
    std::fs::write(&policy, POLICY).unwrap();
    let mut webhook = WebhookOptions::new(receiver.kubeconfig(dir.path(), "/events/"));
    // What a test does not wait for must not come by itself.
    webhook.max_batch_wait = Duration::from_secs(3600);
    webhook.initial_backoff = Duration::from_millis(1);
    change(&mut webhook);
    Cluster::with(|config| config.audit = Some(AuditOptions { policy, log: None, webhook: Some(webhook) })).await
}

fn events(call: &Call) -> Vec<Value> {
    assert_eq!((&call.body["kind"], &call.body["apiVersion"]), (&json!("EventList"), &json!("audit.k8s.io/v1")));
    call.body["items"].as_array().unwrap().clone()
}

async fn metric(cluster: &Cluster, line: &str) -> Option<u64> {
    let (_, text) = cluster.admin().get("/metrics").await;
    let text = text.as_str().unwrap_or_default().to_owned();
    text.lines().find_map(|l| l.strip_prefix(line)?.trim().parse().ok())
}

#[tokio::test]
async fn events_go_in_full_batches_and_tell_everything() {
    let mut receiver = Receiver::start(|_| status(200)).await;
    let cluster = audited(&receiver, |webhook| webhook.max_batch_size = 3).await;
    let admin = cluster.admin();
    assert_eq!(admin.post(MAPS, config_map("a")).await.0, 201);
    assert_eq!(admin.patch(&format!("{MAPS}/a"), json!({"data": {"x": "y"}})).await.0, 200);
    assert_eq!(admin.get(MAPS).await.0, 200);
    let call = receiver.call().await;
    assert_eq!((call.path.as_str(), call.authorization.as_str()), ("/events?timeout=30s", "Bearer let-me-in"));
    let events = events(&call);
    let verbs: Vec<_> = events.iter().map(|e| e["verb"].as_str().unwrap()).collect();
    assert_eq!(verbs, ["create", "patch", "list"]);
    for event in &events {
        assert_eq!((&event["level"], &event["stage"]), (&json!("RequestResponse"), &json!("ResponseComplete")));
        assert_eq!((&event["user"]["username"], &event["sourceIPs"]), (&json!("admin"), &json!(["127.0.0.1"])));
    }
    assert_eq!(events[0]["objectRef"]["name"], "a", "a creation names its object in the body");
    assert_eq!(events[0]["requestObject"]["data"], json!({"a": "b"}));
    assert_eq!(events[0]["responseObject"]["metadata"]["managedFields"], Value::Null);
    assert_eq!(events[1]["requestObject"], json!({"data": {"x": "y"}}), "a patch is recorded as it was sent");
    assert_eq!(events[1]["responseObject"]["data"], json!({"a": "b", "x": "y"}));
    assert_eq!(events[2]["responseObject"]["items"][0]["metadata"]["name"], "a");
    assert_eq!(events[2]["responseObject"]["items"][0]["metadata"]["managedFields"], Value::Null);
    // A batch that is not full waits; the end sends it.
    let protobuf = [("accept", "application/vnd.kubernetes.protobuf")];
    assert_eq!(admin.send("GET", &format!("{MAPS}/a"), &protobuf, "").await.status(), 200);
    assert!(receiver.rest().is_empty());
    cluster.server.finish_audit().await;
    let last = self::events(&receiver.call().await);
    assert_eq!(last[0]["responseObject"]["data"], json!({"a": "b", "x": "y"}), "whichever form the answer has");
    assert_eq!(
        metric(&cluster, "apiserver_audit_error_total{plugin=\"buffered\"}").await,
        None,
        "none was lost until then"
    );
}

/// A receiver that fails gets the batch again; when it fails for good, the events are counted as lost.
#[tokio::test]
async fn failures_are_tried_again_and_counted() {
    let bad = Arc::new(AtomicUsize::new(2));
    let left = bad.clone();
    let mut receiver = Receiver::start(move |_| {
        let fails = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
        // A redirect is a failure, too: it leads nowhere.
        if fails {
            http::Response::builder()
                .status(307)
                .header("location", "https://127.0.0.1:1/")
                .body(Default::default())
                .unwrap()
        } else {
            status(201)
        }
    })
    .await;
    let cluster = audited(&receiver, |webhook| webhook.max_batch_size = 1).await;
    let admin = cluster.admin();
    admin.post(MAPS, config_map("a")).await;
    let calls = [receiver.call().await, receiver.call().await, receiver.call().await];
    let ids: Vec<_> = calls.iter().map(|call| events(call)[0]["auditID"].clone()).collect();
    assert!(ids[0] == ids[1] && ids[1] == ids[2], "{ids:?}");
    bad.store(usize::MAX, Ordering::SeqCst);
    admin.get(&format!("{MAPS}/a")).await;
    for _ in 0..5 {
        assert_eq!(events(&receiver.call().await)[0]["verb"], "get");
    }
    cluster.server.finish_audit().await;
    assert!(receiver.rest().is_empty(), "five attempts, no more");
    assert_eq!(metric(&cluster, "apiserver_audit_error_total{plugin=\"webhook\"}").await, Some(1));
}

/// A receiver that is slow holds nobody up: what its queue cannot hold is dropped and counted.
#[tokio::test]
async fn a_full_queue_drops_and_counts() {
    let receiver = Receiver::start(|_| status(200)).await;
    let cluster = audited(&receiver, |webhook| {
        webhook.buffer_size = 2;
        // The batch is never full, and holds four at most beside the queue.
        webhook.max_batch_size = 4;
        webhook.throttle = Some((0.000_001, 1));
    })
    .await;
    let admin = cluster.admin();
    for _ in 0..50 {
        assert_eq!(admin.get(MAPS).await.0, 200);
    }
    let lost = metric(&cluster, "apiserver_audit_error_total{plugin=\"buffered\"}").await.unwrap();
    // Two batches of four are taken from the queue at most: one sent, one that waits for the throttle; two wait in the queue.
    assert!((40..=48).contains(&lost), "{lost}");
    assert!(metric(&cluster, "apiserver_audit_event_total").await.unwrap() >= 50);
    assert!(metric(&cluster, "apiserver_audit_level_total{level=\"RequestResponse\"}").await.unwrap() >= 50);
}

/// In the strict mode nothing happens that cannot be recorded.
#[tokio::test]
async fn strict_means_recorded_or_refused() {
    let up = Arc::new(AtomicBool::new(true));
    let answers = up.clone();
    let mut receiver = Receiver::start(move |_| status(if answers.load(Ordering::SeqCst) { 200 } else { 500 })).await;
    let strict = |webhook: &mut WebhookOptions| webhook.mode = Mode::BlockingStrict;
    let cluster = audited(&receiver, |webhook| {
        strict(webhook);
        let policy = POLICY.replace("omitStages: [RequestReceived]\n", "");
        std::fs::write(webhook.config.with_file_name("policy.yaml"), policy).unwrap();
    })
    .await;
    let admin = cluster.admin();
    assert_eq!(admin.post(MAPS, config_map("a")).await.0, 201);
    let stages = [receiver.call().await, receiver.call().await].map(|call| events(&call)[0]["stage"].clone());
    assert_eq!(stages, [json!("RequestReceived"), json!("ResponseComplete")], "both were sent before the answer");
    up.store(false, Ordering::SeqCst);
    let (code, said) = admin.post(MAPS, config_map("b")).await;
    assert_eq!((code, &said["reason"]), (500, &json!("InternalError")), "{said}");
    up.store(true, Ordering::SeqCst);
    assert_eq!(admin.get(&format!("{MAPS}/b")).await.0, 404, "what was refused did not happen");
    assert_eq!(metric(&cluster, "apiserver_audit_requests_rejected_total").await, Some(1));
}

/// Large events lose their objects, and say so.
#[tokio::test]
async fn large_events_are_cut() {
    let mut receiver = Receiver::start(|_| status(200)).await;
    let cluster = audited(&receiver, |webhook| {
        webhook.max_batch_size = 1;
        webhook.truncate = Some(caravel_server::audit::truncate::Limits { event: 4096, batch: 8192 });
    })
    .await;
    let mut large = config_map("large");
    large["data"]["a"] = json!("x".repeat(5000));
    assert_eq!(cluster.admin().post(MAPS, large).await.0, 201);
    let event = events(&receiver.call().await).remove(0);
    assert_eq!(event["annotations"]["audit.k8s.io/truncated"], "true");
    assert_eq!((event.get("requestObject"), event.get("responseObject")), (None, None));
    assert_eq!(event["objectRef"]["name"], "large");
}

/// Who is not known is recorded by the answer only, with what was tried.
#[tokio::test]
async fn strangers_are_recorded_by_their_refusal() {
    let mut receiver = Receiver::start(|_| status(200)).await;
    let dir = tempfile::tempdir().unwrap();
    let policy = dir.path().join("policy.yaml");
    let text = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- { level: Metadata, verbs: [list] }\n";
    std::fs::write(&policy, text).unwrap();
    let mut webhook = WebhookOptions::new(receiver.kubeconfig(dir.path(), ""));
    webhook.max_batch_size = 1;
    let served = crate::https::serve_with(|config| {
        config.audit = Some(AuditOptions { policy, log: None, webhook: Some(webhook) });
    })
    .await;
    let stranger = "GET /api/v1/pods HTTP/1.1\r\nx-forwarded-for: 203.0.113.7\r\nauthorization: Bearer wrong";
    assert_eq!(served.ask(stranger, None).await.0, 401);
    let event = events(&receiver.call().await).remove(0);
    assert_eq!((&event["stage"], &event["user"]), (&json!("ResponseStarted"), &json!({})));
    assert_eq!(event["responseStatus"]["code"], 401);
    assert_eq!(event["responseStatus"]["message"], "Authentication failed, attempted: bearer");
    assert_eq!(event["sourceIPs"], json!(["203.0.113.7", "127.0.0.1"]));
    assert!(!event.to_string().contains("wrong"), "credentials are not recorded");
    served.end().await;
    let further = receiver.rest();
    assert!(further.iter().all(|call| events(call)[0]["auditID"] != event["auditID"]), "once");
}

#[tokio::test]
async fn mistakes_in_the_files_are_told() {
    let receiver = Receiver::start(|_| status(200)).await;
    let dir = tempfile::tempdir().unwrap();
    let policy = dir.path().join("policy.yaml");
    std::fs::write(&policy, POLICY).unwrap();
    let webhook = WebhookOptions::new(receiver.kubeconfig(dir.path(), ""));
    let text = std::fs::read_to_string(&webhook.config).unwrap().replace("receiver.pem", "gone.pem");
    std::fs::write(&webhook.config, text).unwrap();
    let options = AuditOptions { policy, log: None, webhook: Some(webhook) };
    let said = caravel_server::audit::Audit::open(&options, Default::default()).err().unwrap();
    assert!(said.contains("gone.pem") && said.contains("clusters[\"it\"]"), "{said}");
}
