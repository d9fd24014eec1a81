//! What somebody with bad intentions would send: nothing falls over, nobody else suffers, no door opens another.

#[path = "../../../api/tests/fuzz/mutate.rs"]
mod mutate;

use crate::harness::{Client, Cluster, MAPS, config_map};
use caravel_server::UserInfo;
use http::Request;
use http_body_util::{BodyExt as _, StreamBody};
use mutate::{Fuzz, utf8};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::time::{Duration, Instant};
use tower::ServiceExt as _;

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";

/// Lets a user do this in the namespace `default`.
async fn grant(admin: &Client, user: &str, rules: Value) {
    let name = user.replace(':', "-");
    let role = json!({"metadata": {"name": name}, "rules": rules});
    assert_eq!(admin.post(&format!("{RBAC}/roles"), role).await.0, 201);
    let binding = json!({"metadata": {"name": name},
        "subjects": [{"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"kind": "Role", "name": name, "apiGroup": "rbac.authorization.k8s.io"}});
    assert_eq!(admin.post(&format!("{RBAC}/rolebindings"), binding).await.0, 201);
}

/// Paths and queries of strangers: an answer that says what is wrong, never an internal error.
#[tokio::test]
async fn paths_of_strangers() {
    let cluster = Cluster::new().await;
    let admin = cluster.admin();
    admin.post(MAPS, config_map("x")).await;
    let corpus: [&[u8]; 6] = [
        b"/api/v1/namespaces/default/configmaps/x?fieldValidation=Strict&dryRun=All&pretty=true",
        b"/apis/apps/v1/namespaces/default/deployments/d/status?resourceVersion=0&resourceVersionMatch=Exact&limit=5",
        b"/api/v1/pods?labelSelector=a%3Db,c+in+(d)&fieldSelector=spec.nodeName!%3Dn&continue=eyJ2IjoxfQ&timeoutSeconds=1",
        b"/openapi/v3/apis/apps/v1?hash=0&timeout=1ms",
        b"/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers/%2e%2e/%00/..//x",
        b"/api/v1/nodes/n:80/proxy/%2e%2e/metrics?x=%",
    ];
    let seen = parking_lot::Mutex::new(vec![]);
    Fuzz::new("paths", &corpus, 9).run(1500, |bytes| {
        if let Some(text) = utf8(bytes)
            && text.starts_with('/')
            && text.parse::<http::Uri>().is_ok_and(|u| u.host().is_none())
            && !text.contains("watch")
        {
            seen.lock().push(text.to_owned());
        }
    });
    let paths = seen.into_inner();
    assert!(paths.len() > 200, "{}", paths.len());
    for (i, path) in paths.iter().enumerate() {
        let method = ["GET", "DELETE", "PATCH", "PUT", "POST", "OPTIONS"][if i % 4 == 0 { i / 4 % 6 } else { 0 }];
        if method == "DELETE" && !path.contains('x') {
            continue;
        }
        let response = admin.send(method, path, &[("content-type", "application/json")], "{}").await;
        let status = response.status().as_u16();
        assert!(status != 500 && status != 501, "{method} {path}: {status}");
        drop(response);
    }
    assert_eq!(admin.get("/readyz").await.0, 200);
}

/// Labels beyond any measure, at once and little by little.
#[tokio::test]
async fn ten_megabytes_of_labels() {
    let cluster = Cluster::new().await;
    let admin = cluster.admin();
    let many = |from: usize, count: usize| -> serde_json::Map<String, Value> {
        (from..from + count).map(|i| (format!("k{i:07}.{}", "x".repeat(40)), json!("v".repeat(60)))).collect()
    };
    let mut huge = config_map("huge");
    huge["metadata"]["labels"] = Value::Object(many(0, 90_000));
    assert_eq!(admin.post(MAPS, huge).await.0, 413);
    admin.post(MAPS, config_map("grows")).await;
    let path = format!("{MAPS}/grows");
    let mut refused = 0;
    for step in 0..8 {
        let (code, said) = admin.patch(&path, json!({"metadata": {"labels": many(step * 15_000, 15_000)}})).await;
        if code != 200 {
            assert!(code == 413 || code == 422, "{code} {}", said["message"]);
            refused += 1;
        }
    }
    assert!(refused > 0, "an object may not grow for ever");
    let annotations = json!({"metadata": {"annotations": {"a": "x".repeat(300 << 10)}}});
    assert_eq!(admin.patch(&path, annotations).await.0, 422);
    let (code, object) = admin.get(&path).await;
    assert_eq!(code, 200);
    assert!(object.to_string().len() < 8 << 20);
}

/// A copy that doubles the object again and again, over the wire.
#[tokio::test]
async fn a_patch_that_multiplies() {
    let cluster = Cluster::new().await;
    let admin = cluster.admin();
    admin.post(MAPS, config_map("x")).await;
    let operations: Vec<Value> =
        (0..64).map(|i| json!({"op": "copy", "from": "", "path": format!("/data/d{i}")})).collect();
    let start = Instant::now();
    let path = format!("{MAPS}/x");
    let (code, said) =
        admin.call_as("PATCH", &path, "application/json-patch+json", json!(operations).to_string()).await;
    assert!((400..=422).contains(&code), "{code} {said}");
    assert!(start.elapsed() < Duration::from_secs(10));
    assert_eq!(admin.get(&path).await.1["data"], json!({"a": "b"}));
}

/// Definitions whose schemas, patterns or rules would cost too much are refused, and soon.
#[tokio::test]
async fn bombs_in_definitions() {
    let cluster = Cluster::new().await;
    let admin = cluster.admin();
    let list = json!({"type": "array", "items": {"type": "string"}});
    let mut deep = json!({"type": "string"});
    for _ in 0..90 {
        deep = json!({"type": "object", "properties": {"a": deep}});
    }
    let rule = "self.l.all(a, self.l.all(b, self.l.all(c, a == b && b == c)))";
    for (what, spec, wanted) in [
        (
            "nested rules",
            json!({"type": "object", "properties": {"l": list}, "x-kubernetes-validations": [{"rule": rule}]}),
            422,
        ),
        (
            "a large pattern",
            json!({"type": "object", "properties": {"s": {"type": "string", "pattern": "((a{0,500}){0,500}){0,500}"}}}),
            0,
        ),
        ("a broken pattern", json!({"type": "object", "properties": {"s": {"type": "string", "pattern": "("}}}), 422),
        ("a reference to itself", json!({"$ref": "#"}), 422),
        ("a deep schema", deep, 0),
    ] {
        let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "bombs.example.test"},
            "spec": {"group": "example.test", "scope": "Namespaced", "names": {"plural": "bombs", "singular": "bomb", "kind": "Bomb", "listKind": "BombList"},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}}}]}});
        let start = Instant::now();
        let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        let (code, said) = admin.post(path, definition).await;
        assert!(start.elapsed() < Duration::from_secs(10), "{what} took {:?}", start.elapsed());
        assert!(
            if wanted == 0 { matches!(code, 201 | 400 | 422) } else { code == wanted },
            "{what}: {code} {}",
            said["message"]
        );
        if code == 201 {
            admin.delete(&format!("{path}/bombs.example.test")).await;
            for _ in 0..500 {
                if admin.get(&format!("{path}/bombs.example.test")).await.0 == 404 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

/// Who may write a status or a scale writes nothing else through that door.
#[tokio::test]
async fn doors_open_no_other() {
    let cluster = Cluster::new().await;
    let admin = cluster.admin();
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = json!({"metadata": {"name": "d", "labels": {"a": "b"}}, "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    assert_eq!(admin.post(deployments, deployment).await.0, 201);
    let doors = json!([{"apiGroups": ["apps"], "resources": ["deployments/status", "deployments/scale"], "verbs": ["get", "update", "patch"]}]);
    grant(&admin, "mallory", doors).await;
    let mallory = cluster.client(UserInfo::new("mallory", &[]));
    let path = format!("{deployments}/d");
    let mut code = 403;
    for _ in 0..300 {
        code = mallory.get(&format!("{path}/status")).await.0;
        if code == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(code, 200);
    let evil = json!({"metadata": {"labels": {"a": "evil"}}, "spec": {"replicas": 9, "template": {"spec": {"containers": [{"name": "c", "image": "evil"}], "hostNetwork": true}}},
        "status": {"observedGeneration": 1}});
    assert_eq!(mallory.patch(&format!("{path}/status"), evil.clone()).await.0, 200);
    let (code, _) = mallory
        .call_as(
            "PATCH",
            &format!("{path}/status?fieldManager=m&force=true"),
            "application/apply-patch+yaml",
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"replicas": 9}})
                .to_string(),
        )
        .await;
    assert!(code == 200 || code == 422 || code == 400, "{code}");
    let scale = json!({"spec": {"replicas": 2, "template": {"spec": {"hostNetwork": true}}}});
    assert_eq!(mallory.patch(&format!("{path}/scale"), scale).await.0, 200);
    let now = admin.get(&path).await.1;
    assert_eq!((&now["spec"]["replicas"], &now["metadata"]["labels"]["a"]), (&json!(2), &json!("b")));
    assert_eq!(now["spec"]["template"]["spec"]["containers"][0]["image"], "i");
    assert_eq!(now["spec"]["template"]["spec"].get("hostNetwork"), None);
    assert_eq!(now["status"]["observedGeneration"], 1);
    for (method, at) in
        [("PATCH", path.clone()), ("PUT", path.clone()), ("DELETE", path.clone()), ("PATCH", format!("{MAPS}/x"))]
    {
        assert_eq!(mallory.call(method, &at, evil.clone()).await.0, 403, "{method} {at}");
    }
}

/// Pods and nodes that claim an address of the machine or of its cloud lead the server nowhere.
#[tokio::test]
async fn the_server_is_no_proxy_into_itself() {
    let cluster = Cluster::new().await;
    let admin = cluster.admin();
    let inside = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = inside.local_addr().unwrap().port();
    admin.post("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}})).await;
    for (i, address) in ["127.0.0.1", "169.254.169.254", "::1", "0.0.0.0"].into_iter().enumerate() {
        let name = format!("p{i}");
        let pod =
            json!({"metadata": {"name": name}, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}});
        assert_eq!(admin.post("/api/v1/namespaces/default/pods", pod).await.0, 201);
        let status = json!({"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}});
        let (code, said) = admin.patch(&format!("/api/v1/namespaces/default/pods/{name}/status"), status).await;
        assert!(code == 200 || code == 422, "{code} {said}");
        let start = Instant::now();
        let (code, said) = admin.get(&format!("/api/v1/namespaces/default/pods/{name}:{port}/proxy/")).await;
        assert!((400..=503).contains(&code), "{address}: {code} {said}");
        assert!(start.elapsed() < Duration::from_secs(10), "{address} is not tried: {:?}", start.elapsed());
    }
    let reached = tokio::time::timeout(Duration::from_millis(50), inside.accept()).await;
    assert!(reached.is_err(), "somebody was led to the machine itself");
}

/// A flood of one user fills its own queues; the others' reads, leases and the health go on, and the flood is told when to
/// come again.
#[tokio::test]
async fn a_flood_starves_nobody() {
    let cluster = Cluster::with(|config| config.max_in_flight = 40).await;
    let admin = cluster.admin();
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    let lease = json!({"metadata": {"name": "n"}, "spec": {"holderIdentity": "n", "leaseDurationSeconds": 40}});
    assert_eq!(admin.post(leases, lease).await.0, 201);
    let everything = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]);
    grant(&admin, "flood", everything.clone()).await;
    grant(&admin, "bob", everything).await;
    let bob = cluster.client(UserInfo::new("bob", &[]));
    for _ in 0..300 {
        if bob.get(MAPS).await.0 == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Requests that hold their seats: bodies that never end.
    let (told, mut refusals) = tokio::sync::mpsc::unbounded_channel();
    let flood: Vec<_> = (0..1500)
        .map(|_| {
            let (server, told) = (cluster.server.clone(), told.clone());
            tokio::spawn(async move {
                let body =
                    StreamBody::new(futures::stream::pending::<Result<http_body::Frame<bytes::Bytes>, Infallible>>());
                let request =
                    Request::post(MAPS).header("content-type", "application/json").body(body.boxed_unsync()).unwrap();
                let user = std::sync::Arc::new(UserInfo::new("flood", &[]));
                let response = server.local(user).oneshot(request).await.unwrap();
                if response.status() == 429 {
                    let _ = told.send(response.headers().get("retry-after").cloned());
                }
            })
        })
        .collect();
    let retry =
        tokio::time::timeout(Duration::from_secs(12), refusals.recv()).await.expect("the flood is too much").unwrap();
    assert!(retry.is_some_and(|v| v.to_str().is_ok_and(|s| s.parse::<u32>().is_ok_and(|s| s > 0))), "Retry-After");
    let node = cluster.client(UserInfo::new("system:node:n", &["system:nodes"]));
    let scheduler = cluster.client(UserInfo::new("system:kube-scheduler", &[]));
    for round in 0..20 {
        let start = Instant::now();
        assert_eq!(admin.get("/readyz").await.0, 200);
        let renewed = json!({"spec": {"leaseTransitions": round}});
        assert_eq!(node.patch(&format!("{leases}/n"), renewed).await.0, 200);
        assert_eq!(scheduler.get("/api/v1/nodes").await.0, 200);
        assert_eq!(admin.get(MAPS).await.0, 200);
        assert!(start.elapsed() < Duration::from_secs(3), "round {round} took {:?}", start.elapsed());
    }
    for one in &flood {
        one.abort();
    }
    for one in flood {
        let _ = one.await;
    }
    // The seats are given back.
    let start = Instant::now();
    assert_eq!(bob.get(MAPS).await.0, 200);
    assert!(start.elapsed() < Duration::from_secs(3));
}
