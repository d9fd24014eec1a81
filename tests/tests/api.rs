//! The API's manners: what every kind answers to every verb, and what bad requests are told.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use caravel_tests::Raw;
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

fn unique(prefix: &str) -> String {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    format!("{prefix}-{:x}", nanos as u64)
}

/// One kind: where its objects live, a minimal object without its name, and a field to patch with its new value.
struct Kind {
    collection: &'static str,
    object: Value,
    patch: Value,
    status: Option<Value>,
}

/// create, get, list by label, watch, patch, update, status, delete, deletecollection: what upstream's tests named
/// "should support X API operations" demand of a kind.
async fn supports_all_operations(kind: Kind) {
    let raw = Raw::new().await;
    let (collection, run) = (kind.collection, unique("ops"));
    let named = |name: &str| {
        let mut object = kind.object.clone();
        object["metadata"]["name"] = json!(name);
        object["metadata"]["labels"]["run"] = json!(run);
        object
    };
    let name = |i: usize| format!("{run}-{i}");
    let mine = format!("{collection}?labelSelector=run%3D{run}");
    for i in 0..3 {
        let (status, made) = raw.post(collection, &named(&name(i))).await;
        assert_eq!(status, 201, "{made}");
        assert!(made["metadata"]["uid"].is_string() && made["metadata"]["creationTimestamp"].is_string(), "{made}");
    }
    let (status, twice) = raw.post(collection, &named(&name(0))).await;
    assert_eq!((status, twice["reason"].as_str()), (409, Some("AlreadyExists")), "{twice}");
    let one = format!("{collection}/{}", name(0));
    let (status, got) = raw.get(&one).await;
    assert_eq!(status, 200, "{got}");
    let (_, list) = raw.get(&mine).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 3, "{list}");
    let from = list["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    // A controller may write to the object meanwhile, so updates are tried on its present state.
    let (status, patched) = raw.merge(&one, &kind.patch).await;
    assert_eq!(status, 200, "{patched}");
    contains(&patched, &kind.patch);
    let updated = put_changed(&raw, &one, |o| o["metadata"]["annotations"]["updated"] = json!("yes")).await;
    assert_eq!(updated["metadata"]["annotations"]["updated"], "yes");
    if let Some(status_patch) = &kind.status {
        let (status, after) = raw.merge(&format!("{one}/status"), status_patch).await;
        assert_eq!(status, 200, "{after}");
        contains(&after, status_patch);
        let (status, read) = raw.get(&format!("{one}/status")).await;
        assert_eq!((status, &read["kind"]), (200, &got["kind"]), "{read}");
    }
    let (status, gone) = raw.delete(&one).await;
    assert!(status == 200 || status == 202, "{status} {gone}");
    let watched = events(&raw, collection, &run, &from).await;
    for expected in ["MODIFIED", "DELETED"] {
        assert!(watched.iter().any(|(t, n)| t == expected && *n == name(0)), "{expected}: {watched:?}");
    }
    let (status, _) = raw.get(&one).await;
    assert_eq!(status, 404);
    let (status, answer) = raw.delete(&mine).await;
    assert_eq!(status, 200, "{answer}");
    let (_, list) = raw.get(&mine).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 0, "{list}");
}

/// Reads, changes and writes until no other writer was in between.
async fn put_changed(raw: &Raw, path: &str, change: impl Fn(&mut Value)) -> Value {
    for _ in 0..10 {
        let (_, mut object) = raw.get(path).await;
        change(&mut object);
        match raw.put(path, &object).await {
            (200, updated) => return updated,
            (409, _) => {}
            (status, said) => panic!("PUT {path}: {status} {said}"),
        }
    }
    panic!("PUT {path}: ten conflicts in a row");
}

fn contains(whole: &Value, part: &Value) {
    match part {
        Value::Object(fields) => fields.iter().for_each(|(k, v)| contains(&whole[k], v)),
        other => assert_eq!(whole, other),
    }
}

/// Types and names of the events of a short watch.
async fn events(raw: &Raw, collection: &str, run: &str, from: &str) -> Vec<(String, String)> {
    let path = format!("{collection}?watch=1&labelSelector=run%3D{run}&resourceVersion={from}&timeoutSeconds=2");
    let (status, body) = raw.get(&path).await;
    assert_eq!(status, 200, "{body}");
    let text = match body {
        Value::String(text) => text,
        one => one.to_string(),
    };
    let event = |line: &str| {
        let e: Value = serde_json::from_str(line).unwrap();
        (
            e["type"].as_str().unwrap().to_owned(),
            e["object"]["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
        )
    };
    text.lines().map(event).collect()
}

macro_rules! operations {
    ($($test:ident: $collection:literal, $object:tt, $patch:tt $(, $status:tt)?;)*) => {$(
        #[tokio::test]
        async fn $test() {
            let status = None::<Value> $(.or(Some(json!($status))))?;
            supports_all_operations(Kind { collection: $collection, object: json!($object), patch: json!($patch), status }).await;
        }
    )*};
}

operations! {
    config_maps: "/api/v1/namespaces/default/configmaps", {"data":{"a":"b"}}, {"data":{"a":"c"}};
    secrets: "/api/v1/namespaces/default/secrets", {"stringData":{"a":"b"}}, {"metadata":{"annotations":{"p":"x"}}};
    pod_templates: "/api/v1/namespaces/default/podtemplates", {"template":{"spec":{"containers":[{"name":"c","image":"i"}]}}}, {"metadata":{"annotations":{"p":"x"}}};
    limit_ranges: "/api/v1/namespaces/kube-public/limitranges", {"spec":{"limits":[{"type":"Container","max":{"cpu":"1"}}]}}, {"metadata":{"annotations":{"p":"x"}}};
    service_accounts: "/api/v1/namespaces/default/serviceaccounts", {}, {"automountServiceAccountToken":false};
    csi_storage_capacities: "/apis/storage.k8s.io/v1/namespaces/default/csistoragecapacities", {"storageClassName":"fast","capacity":"1Gi"}, {"metadata":{"annotations":{"p":"x"}}};
    storage_classes: "/apis/storage.k8s.io/v1/storageclasses", {"provisioner":"e.example/fake"}, {"metadata":{"annotations":{"p":"x"}}};
    csi_drivers: "/apis/storage.k8s.io/v1/csidrivers", {"spec":{"attachRequired":false}}, {"metadata":{"annotations":{"p":"x"}}};
    csi_nodes: "/apis/storage.k8s.io/v1/csinodes", {"spec":{"drivers":[]}}, {"metadata":{"annotations":{"p":"x"}}};
    priority_classes: "/apis/scheduling.k8s.io/v1/priorityclasses", {"value":7}, {"description":"patched"};
    runtime_classes: "/apis/node.k8s.io/v1/runtimeclasses", {"handler":"h"}, {"metadata":{"annotations":{"p":"x"}}};
    leases: "/apis/coordination.k8s.io/v1/namespaces/default/leases", {"spec":{"holderIdentity":"a"}}, {"spec":{"holderIdentity":"b"}};
    ingress_classes: "/apis/networking.k8s.io/v1/ingressclasses", {"spec":{"controller":"example.com/c"}}, {"metadata":{"annotations":{"p":"x"}}};
    ingresses: "/apis/networking.k8s.io/v1/namespaces/default/ingresses", {"spec":{"defaultBackend":{"service":{"name":"s","port":{"number":80}}}}}, {"metadata":{"annotations":{"p":"x"}}}, {"status":{"loadBalancer":{"ingress":[{"ip":"169.1.1.1"}]}}};
    network_policies: "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies", {"spec":{"podSelector":{}}}, {"metadata":{"annotations":{"p":"x"}}};
    flow_schemas: "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas", {"spec":{"matchingPrecedence":10000,"priorityLevelConfiguration":{"name":"global-default"}}}, {"spec":{"matchingPrecedence":9999}};
    priority_level_configurations: "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations", {"spec":{"type":"Limited","limited":{"nominalConcurrencyShares":2,"limitResponse":{"type":"Reject"}}}}, {"metadata":{"annotations":{"p":"x"}}};
    endpoint_slices: "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", {"addressType":"IPv4","endpoints":[{"addresses":["10.1.2.3"]}],"ports":[]}, {"metadata":{"annotations":{"p":"x"}}};
    controller_revisions: "/apis/apps/v1/namespaces/default/controllerrevisions", {"revision":1,"data":{}}, {"metadata":{"annotations":{"p":"x"}}};
    validating_webhook_configurations: "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", {"webhooks":[]}, {"metadata":{"annotations":{"p":"x"}}};
    mutating_webhook_configurations: "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations", {"webhooks":[]}, {"metadata":{"annotations":{"p":"x"}}};
    cluster_roles: "/apis/rbac.authorization.k8s.io/v1/clusterroles", {"rules":[{"apiGroups":[""],"resources":["pods"],"verbs":["get"]}]}, {"metadata":{"annotations":{"p":"x"}}};
    roles: "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles", {"rules":[]}, {"metadata":{"annotations":{"p":"x"}}};
    pod_disruption_budgets: "/apis/policy/v1/namespaces/default/poddisruptionbudgets", {"spec":{"minAvailable":1,"selector":{"matchLabels":{"none":"such"}}}}, {"spec":{"minAvailable":2}};
    horizontal_pod_autoscalers: "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers", {"spec":{"maxReplicas":3,"scaleTargetRef":{"apiVersion":"apps/v1","kind":"Deployment","name":"none"}}}, {"spec":{"maxReplicas":4}};
    cron_jobs: "/apis/batch/v1/namespaces/default/cronjobs", {"spec":{"schedule":"0 0 1 1 *","suspend":true,"jobTemplate":{"spec":{"template":{"spec":{"restartPolicy":"Never","containers":[{"name":"c","image":"i"}]}}}}}}, {"spec":{"schedule":"0 1 1 1 *"}}, {"status":{"lastScheduleTime":"2020-01-01T00:00:00Z"}};
    volume_attachments: "/apis/storage.k8s.io/v1/volumeattachments", {"spec":{"attacher":"e.example","nodeName":"n","source":{"persistentVolumeName":"p"}}}, {"metadata":{"annotations":{"p":"x"}}}, {"status":{"attached":true}};
    resource_quotas: "/api/v1/namespaces/kube-public/resourcequotas", {"spec":{"hard":{"count/widgets.example.com":"5"}}}, {"spec":{"hard":{"count/widgets.example.com":"6"}}};
    services: "/api/v1/namespaces/default/services", {"spec":{"type":"LoadBalancer","ports":[{"port":80}]}}, {"spec":{"sessionAffinity":"ClientIP"}}, {"status":{"loadBalancer":{"ingress":[{"ip":"203.0.113.1","ipMode":"VIP"}]}}};
}

/// Bad requests: the right code, the right reason, and words that help.
#[tokio::test]
async fn bad_requests_are_told_what_is_wrong() {
    let raw = Raw::new().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let json = "application/json";
    let deep = format!("{}1{}", "[".repeat(20_000), "]".repeat(20_000));
    let deep = format!(r#"{{"metadata":{{"name":"deep","annotations":{deep}}}}}"#);
    let huge = format!(r#"{{"metadata":{{"name":"huge"}},"data":{{"k":"{}"}}}}"#, "x".repeat(4 << 20));
    let cases: Vec<(&str, String, &str, String, u16, &str)> = vec![
        ("POST", maps.into(), json, "{".into(), 400, "BadRequest"),
        ("POST", maps.into(), json, "[1]".into(), 400, "BadRequest"),
        ("POST", maps.into(), json, r#"{"metadata":{"name":"x"},"data":{"k":1}}"#.into(), 400, "BadRequest"),
        ("POST", maps.into(), json, r#"{"metadata":{"name":7}}"#.into(), 400, "BadRequest"),
        (
            "POST",
            maps.into(),
            json,
            r#"{"kind":"Secret","apiVersion":"v1","metadata":{"name":"x"}}"#.into(),
            400,
            "BadRequest",
        ),
        ("POST", maps.into(), json, r#"{"metadata":{"name":"x","namespace":"other"}}"#.into(), 400, "BadRequest"),
        ("POST", maps.into(), json, r#"{"metadata":{}}"#.into(), 422, "Invalid"),
        ("POST", maps.into(), json, r#"{"metadata":{"name":"UPPER"}}"#.into(), 422, "Invalid"),
        ("POST", maps.into(), json, deep, 400, "BadRequest"),
        ("POST", maps.into(), json, huge, 413, "RequestEntityTooLarge"),
        ("POST", maps.into(), "text/csv", "a,b".into(), 415, "UnsupportedMediaType"),
        (
            "POST",
            "/api/v1/namespaces/absent-namespace/configmaps".into(),
            json,
            r#"{"metadata":{"name":"x"}}"#.into(),
            404,
            "NotFound",
        ),
        ("GET", format!("{maps}?labelSelector=a%20in%20("), json, String::new(), 400, "BadRequest"),
        ("GET", format!("{maps}?fieldSelector=spec.color%3Dred"), json, String::new(), 400, "BadRequest"),
        ("GET", format!("{maps}?limit=many"), json, String::new(), 400, "BadRequest"),
        ("GET", format!("{maps}?limit=1&continue=rubbish"), json, String::new(), 400, "BadRequest"),
        ("GET", format!("{maps}?resourceVersion=soon"), json, String::new(), 400, "BadRequest"),
        ("GET", format!("{maps}?watch=1&resourceVersion=soon"), json, String::new(), 400, "BadRequest"),
        ("GET", "/apis/no.such.group/v1/things".into(), json, String::new(), 404, "NotFound"),
        ("GET", "/api/v1/things".into(), json, String::new(), 404, "NotFound"),
        ("GET", format!("{maps}/absent"), json, String::new(), 404, "NotFound"),
        ("PUT", format!("{maps}/absent"), json, r#"{"metadata":{"name":"other"}}"#.into(), 400, "BadRequest"),
        ("PATCH", format!("{maps}/absent"), json, "{}".into(), 415, "UnsupportedMediaType"),
        (
            "PATCH",
            format!("{maps}/kube-root-ca.crt"),
            "application/json-patch+json",
            r#"{"op":"add"}"#.into(),
            400,
            "BadRequest",
        ),
        (
            "PATCH",
            format!("{maps}/kube-root-ca.crt"),
            "application/json-patch+json",
            r#"[{"op":"remove","path":"/none"}]"#.into(),
            422,
            "Invalid",
        ),
        ("POST", format!("{maps}/kube-root-ca.crt"), json, "{}".into(), 405, "MethodNotAllowed"),
        (
            "DELETE",
            "/api/v1/namespaces/default/pods/absent".into(),
            json,
            r#"{"preconditions":{"uid":"x"}}"#.into(),
            404,
            "NotFound",
        ),
    ];
    for (method, path, content, body, code, reason) in cases {
        let shown: String = body.chars().take(80).collect();
        let (status, said) = raw.send(method, &path, &[("content-type", content)], body.into_bytes()).await;
        assert_eq!((status, said["reason"].as_str()), (code, Some(reason)), "{method} {path} {shown}: {said}");
        assert_eq!((said["kind"].as_str(), said["code"].as_u64()), (Some("Status"), Some(u64::from(code))), "{said}");
        assert!(said["message"].as_str().is_some_and(|m| m.len() > 10), "a message that teaches: {said}");
    }
    let (status, _) = raw.get("/readyz").await;
    assert_eq!(status, 200, "and the server is well");
}

#[tokio::test]
async fn stale_writes_conflict_and_preconditions_hold() {
    let raw = Raw::new().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let name = unique("stale");
    let one = format!("{maps}/{name}");
    let (_, first) = raw.post(maps, &json!({"metadata":{"name":name}})).await;
    let (status, _) = raw.merge(&one, &json!({"data":{"a":"1"}})).await;
    assert_eq!(status, 200);
    let (status, said) = raw.put(&one, &first).await;
    assert_eq!((status, said["reason"].as_str()), (409, Some("Conflict")), "{said}");
    assert!(said["message"].as_str().unwrap().contains("the object has been modified"), "{said}");
    let options = json!({"preconditions":{"uid":"not-this-one"}}).to_string();
    let (status, said) = raw.send("DELETE", &one, &[("content-type", "application/json")], options.into_bytes()).await;
    assert_eq!(status, 409, "{said}");
    let (status, _) = raw.send("DELETE", &format!("{one}?dryRun=All"), &[], vec![]).await;
    assert_eq!(status, 200);
    assert_eq!(raw.get(&one).await.0, 200, "a dry run deletes nothing");
    raw.delete(&one).await;
}

#[tokio::test]
async fn lists_are_chunked_at_one_revision() {
    let raw = Raw::new().await;
    let templates = "/api/v1/namespaces/default/podtemplates";
    let run = unique("chunk");
    for i in 0..25 {
        let body = json!({"metadata":{"name":format!("{run}-{i:02}"),"labels":{"run":run}},"template":{"spec":{"containers":[{"name":"c","image":"i"}]}}});
        assert_eq!(raw.post(templates, &body).await.0, 201);
    }
    let query = format!("{templates}?labelSelector=run%3D{run}&limit=10");
    let (_, page) = raw.get(&query).await;
    let revision = page["metadata"]["resourceVersion"].clone();
    let mut names: Vec<String> = vec![];
    let mut next = Some(page);
    let mut late = false;
    while let Some(page) = next.take() {
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 10);
        assert_eq!(page["metadata"]["resourceVersion"], revision, "every page is of the first one's revision");
        names.extend(items.iter().map(|i| i["metadata"]["name"].as_str().unwrap().to_owned()));
        if !late {
            // Written between pages: not part of this list.
            raw.post(templates, &json!({"metadata":{"name":format!("{run}-zz"),"labels":{"run":run}},"template":{"spec":{"containers":[{"name":"c","image":"i"}]}}})).await;
            late = true;
        }
        if let Some(token) = page["metadata"]["continue"].as_str().filter(|t| !t.is_empty()) {
            next = Some(raw.get(&format!("{query}&continue={token}")).await.1);
        }
    }
    assert_eq!(names.len(), 25, "{names:?}");
    assert!(names.is_sorted());
    raw.delete(&format!("{templates}?labelSelector=run%3D{run}")).await;
}

#[tokio::test]
async fn a_watch_streams_its_initial_state_and_marks_its_end() {
    let raw = Raw::new().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let run = unique("initial");
    raw.post(maps, &json!({"metadata":{"name":run,"labels":{"run":run}}})).await;
    let path = format!(
        "{maps}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&labelSelector=run%3D{run}&timeoutSeconds=1"
    );
    let (status, body) = raw.get(&path).await;
    assert_eq!(status, 200, "{body}");
    let lines: Vec<Value> = body.as_str().unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines[0]["type"], "ADDED");
    assert_eq!(lines[1]["type"], "BOOKMARK");
    assert_eq!(lines[1]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    raw.delete(&format!("{maps}/{run}")).await;
}
