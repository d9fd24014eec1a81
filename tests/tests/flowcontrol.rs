//! API priority and fairness: which requests fall where, and that its objects are kept. That a flood drowns nobody else is
//! proved in the server's own tests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use caravel_tests::Namespace;
use serde_json::{Value, json};

const SCHEMAS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas";
const LEVELS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations";

fn schema(name: &str, level: &str, user: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"matchingPrecedence": 50, "priorityLevelConfiguration": {"name": level},
        "distinguisherMethod": {"type": "ByUser"},
        "rules": [{"subjects": [{"kind": "User", "user": {"name": user}}],
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}]}})
}

fn level(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 1, "lendablePercent": 0, "borrowingLimitPercent": 0,
        "limitResponse": {"type": "Queue", "queuing": {"queues": 4, "handSize": 2, "queueLengthLimit": 2}}}}})
}

fn dangling(ns: &Namespace, name: &str, status: &str) {
    ns.until_that(&format!("flowschemas/{name}"), |s| {
        let all = s["status"]["conditions"].as_array().cloned().unwrap_or_default();
        all.iter().any(|c| c["type"] == "Dangling" && c["status"] == status)
    });
}

/// The headers of an answer, with the user that `impersonate` names.
fn headers(ns: &Namespace, path: &str, user: &str) -> (u16, Vec<(String, String)>) {
    let (request, client) = (path.to_owned(), ns.wire().client());
    let user = user.to_owned();
    caravel_tests::block_on(async move {
        let mut request = http::Request::get(request);
        if !user.is_empty() {
            request = request.header("impersonate-user", user);
        }
        let answer = client.send(request.body(kube::client::Body::empty()).unwrap()).await.unwrap();
        let all = answer.headers().iter().map(|(k, v)| (k.to_string(), v.to_str().unwrap_or_default().to_owned()));
        (answer.status().as_u16(), all.collect())
    })
}

fn header(all: &[(String, String)], name: &str) -> String {
    all.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone()).unwrap_or_default()
}

#[test]
fn answers_say_where_their_requests_fell() {
    let ns = Namespace::new("flow");
    let uid = |path: &str| ns.wire().get(path).1["metadata"]["uid"].as_str().unwrap().to_owned();
    let (code, all) = headers(&ns, "/api/v1/namespaces/default", "");
    assert_eq!(code, 200);
    assert_eq!(header(&all, "x-kubernetes-pf-flowschema-uid"), uid(&format!("{SCHEMAS}/exempt")));
    assert_eq!(header(&all, "x-kubernetes-pf-prioritylevel-uid"), uid(&format!("{LEVELS}/exempt")));
    // A stranger is refused, and still told.
    let user = format!("user-{}", ns.name);
    let (code, all) = headers(&ns, "/api/v1/namespaces/default", &user);
    assert_eq!(
        (code, header(&all, "x-kubernetes-pf-flowschema-uid")),
        (403, uid(&format!("{SCHEMAS}/global-default")))
    );
    // A schema without its level is dangling and takes nothing; with it, it does.
    let name = ns.name.clone();
    assert_eq!(ns.wire().post(SCHEMAS, &schema(&name, &name, &user)).0, 201);
    dangling(&ns, &name, "True");
    let (_, all) = headers(&ns, "/api/v1/namespaces/default", &user);
    assert_eq!(header(&all, "x-kubernetes-pf-flowschema-uid"), uid(&format!("{SCHEMAS}/global-default")));
    assert_eq!(ns.wire().post(LEVELS, &level(&name)).0, 201);
    dangling(&ns, &name, "False");
    ns.eventually("the schema holds", || {
        let (_, all) = headers(&ns, "/api/v1/namespaces/default", &user);
        let found = (header(&all, "x-kubernetes-pf-flowschema-uid"), header(&all, "x-kubernetes-pf-prioritylevel-uid"));
        let wanted = (uid(&format!("{SCHEMAS}/{name}")), uid(&format!("{LEVELS}/{name}")));
        if found == wanted { Ok(()) } else { Err(format!("{found:?}")) }
    });
    let (_, metrics) = ns.wire().get("/metrics");
    let metrics = metrics.as_str().unwrap();
    assert!(metrics.contains(&format!("apiserver_flowcontrol_nominal_limit_seats{{priority_level=\"{name}\"}}")));
    ns.wire().delete(&format!("{LEVELS}/{name}"));
    dangling(&ns, &name, "True");
    ns.wire().delete(&format!("{SCHEMAS}/{name}"));
}

/// What every cluster needs comes back, whole.
#[test]
fn mandatory_objects_are_kept() {
    let ns = Namespace::new("mandatory");
    let path = format!("{SCHEMAS}/catch-all");
    let before = ns.wire().get(&path).1;
    assert_eq!(ns.wire().delete(&path).0, 200);
    let after = ns.until_that("flowschemas/catch-all", |s| s["metadata"]["uid"] != before["metadata"]["uid"]);
    assert_eq!(after["spec"], before["spec"]);
    let path = format!("{LEVELS}/catch-all");
    let before = ns.wire().get(&path).1;
    let (code, said) = ns.wire().merge(&path, &json!({"spec": {"limited": {"nominalConcurrencyShares": 77}}}));
    if code == 200 {
        ns.until_that("prioritylevelconfigurations/catch-all", |l| l["spec"] == before["spec"]);
    } else {
        assert_eq!(code, 422, "{said}");
    }
}
