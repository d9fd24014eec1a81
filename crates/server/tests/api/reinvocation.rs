//! Policies and webhooks that see an object once more because something changed it after them.

use crate::harness::{Client, Cluster, MAPS};
use crate::receiver::{Receiver, json as answer};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::time::Duration;

const ADMISSION: &str = "/apis/admissionregistration.k8s.io/v1";

fn rules() -> Value {
    json!([{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}])
}

/// A policy, with its binding, that patches ConfigMaps. It is asked whatever they hold: only who was asked is asked again.
async fn policy(admin: &Client, name: &str, reinvocation: &str, condition: &str, patch: &str) {
    let patch = format!("{condition} ? {patch} : []");
    let policy = json!({"metadata": {"name": name}, "spec": {
        "reinvocationPolicy": reinvocation, "failurePolicy": "Fail", "matchConstraints": {"resourceRules": rules()},
        "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": patch}}]}});
    let (code, said) = admin.post(&format!("{ADMISSION}/mutatingadmissionpolicies"), policy).await;
    assert_eq!(code, 201, "{said}");
    let binding = json!({"metadata": {"name": name}, "spec": {"policyName": name}});
    let (code, said) = admin.post(&format!("{ADMISSION}/mutatingadmissionpolicybindings"), binding).await;
    assert_eq!(code, 201, "{said}");
}

fn add(key: &str) -> String {
    format!("[JSONPatch{{op: \"add\", path: \"/data/{key}\", value: \"yes\"}}]")
}

/// The data of a map as it is let in, once it has this key.
async fn made(admin: &Client, data: Value, key: &str) -> Value {
    let map = json!({"metadata": {"generateName": "m-"}, "data": data});
    let mut last = Value::Null;
    for _ in 0..1000 {
        let (code, said) = admin.post(&format!("{MAPS}?dryRun=All"), map.clone()).await;
        assert_eq!(code, 201, "{said}");
        if said["data"].get(key).is_some() {
            return said["data"].clone();
        }
        last = said;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{key} is not added: {last}");
}

#[tokio::test]
async fn policies_see_what_later_ones_changed() {
    let cluster = Cluster::new().await;
    let admin = cluster.admin();
    policy(&admin, "a-copies", "IfNeeded", "'two' in object.data && !('copied' in object.data)", &add("copied")).await;
    policy(&admin, "b-never", "Never", "'two' in object.data", &add("never")).await;
    policy(&admin, "c-adds", "Never", "'start' in object.data", &add("two")).await;
    assert_eq!(made(&admin, json!({"start": "x"}), "two").await, json!({"start": "x", "two": "yes", "copied": "yes"}));
    // Who was not asked in the first round is not asked in the second.
    let more = json!({"spec": {"matchConditions": [{"name": "c", "expression": "'two' in object.data"}]}});
    let (code, said) = admin.patch(&format!("{ADMISSION}/mutatingadmissionpolicies/a-copies"), more).await;
    assert_eq!(code, 200, "{said}");
    policy(&admin, "c-sees", "Never", "'see' in object.data", &add("seen")).await;
    let data = made(&admin, json!({"start": "x", "see": "x"}), "seen").await;
    assert_eq!(data.get("copied"), None, "{data}");
    // Who is asked again counts what it did itself.
    let grow = "[JSONPatch{op: \"add\", path: \"/data/n\", value: object.data.n + \"x\"}]";
    policy(&admin, "d-grows", "IfNeeded", "'n' in object.data && 'again' in object.data", grow).await;
    policy(&admin, "e-grows", "Never", "'n' in object.data && !('again' in object.data)", grow).await;
    policy(&admin, "f-there", "Never", "'n' in object.data", &add("there")).await;
    assert_eq!(made(&admin, json!({"n": ""}), "there").await["n"], "x");
    assert_eq!(made(&admin, json!({"n": "", "again": ""}), "there").await["n"], "xx", "twice, and never more");
}

#[tokio::test]
async fn policies_and_webhooks_learn_of_each_others_changes() {
    let mut receiver = Receiver::start(|call| {
        let request = &call.body["request"];
        let data = &request["object"]["data"];
        let mut response = json!({"uid": request["uid"], "allowed": true});
        if call.path.starts_with("/adds") && data.get("start").is_some() && data.get("two").is_none() {
            let patch = json!([{"op": "add", "path": "/data/two", "value": "yes"}]).to_string();
            response["patchType"] = json!("JSONPatch");
            response["patch"] = json!(STANDARD.encode(patch));
        }
        answer(&json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response}))
    })
    .await;
    let cluster = Cluster::new().await;
    let admin = cluster.admin();
    let hook = |name: &str, reinvocation: &str| {
        json!({"name": format!("{name}.example.com"), "rules": rules(), "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "reinvocationPolicy": reinvocation,
            "clientConfig": {"url": format!("https://127.0.0.1:{}/{name}", receiver.port), "caBundle": STANDARD.encode(&receiver.ca)}})
    };
    let hooks = json!({"metadata": {"name": "hooks"}, "webhooks": [hook("adds", "Never"), hook("again", "IfNeeded"), hook("once", "Never")]});
    let (code, said) = admin.post(&format!("{ADMISSION}/mutatingwebhookconfigurations"), hooks).await;
    assert_eq!(code, 201, "{said}");
    policy(&admin, "copies", "IfNeeded", "'two' in object.data && !('copied' in object.data)", &add("copied")).await;
    policy(&admin, "never", "Never", "'two' in object.data", &add("never")).await;
    // All are in force.
    assert_eq!(made(&admin, json!({"two": "x"}), "never").await["copied"], "yes");
    made(&admin, json!({"start": "x"}), "two").await;
    receiver.rest();
    let map = json!({"metadata": {"name": "m"}, "data": {"start": "x"}});
    let (code, said) = admin.post(MAPS, map).await;
    assert_eq!((code, &said["data"]), (201, &json!({"start": "x", "two": "yes", "copied": "yes"})), "{said}");
    let calls: Vec<(String, bool)> = receiver
        .rest()
        .iter()
        .map(|call| {
            let path = call.path.split('?').next().unwrap().to_owned();
            (path, call.body["request"]["object"]["data"].get("copied").is_some())
        })
        .collect();
    let wanted = [("/adds", false), ("/again", false), ("/once", false), ("/again", true)];
    assert_eq!(calls, wanted.map(|(path, copied)| (path.to_owned(), copied)));
}
