//! Tokens in Secrets: their uses are noted, and what was marked as invalid is no longer good.

use crate::harness::Client;
use crate::https::serve_with;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::time::Duration;

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
const TRACKING: &str = "/api/v1/namespaces/kube-system/configmaps/kube-apiserver-legacy-service-account-token-tracking";

/// Makes a token Secret; the token, once it is there.
async fn token(admin: &Client, name: &str) -> String {
    let secret = json!({"metadata": {"name": name, "annotations": {"kubernetes.io/service-account.name": "robot"}},
        "type": "kubernetes.io/service-account-token"});
    assert_eq!(admin.post(SECRETS, secret).await.0, 201);
    for _ in 0..1000 {
        let (_, secret) = admin.get(&format!("{SECRETS}/{name}")).await;
        if let Some(token) = secret["data"]["token"].as_str() {
            return String::from_utf8(STANDARD.decode(token).unwrap()).unwrap();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the Secret is not filled");
}

#[tokio::test]
async fn uses_are_noted_and_invalid_tokens_refused() {
    let served = serve_with(|_| {}).await;
    let admin = served.cluster.admin();
    let account = json!({"metadata": {"name": "robot"}, "secrets": [{"name": "unasked"}]});
    assert_eq!(admin.post(ACCOUNTS, account).await.0, 201);
    let today = jiff::Timestamp::now().strftime("%Y-%m-%d").to_string();
    let mut tracking = admin.get(TRACKING).await;
    for _ in 0..1000 {
        if tracking.0 == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        tracking = admin.get(TRACKING).await;
    }
    assert!(tracking.1["data"]["since"].as_str().is_some_and(|day| day <= today.as_str()), "{}", tracking.1);
    let ask = |token: &str| format!("GET /version HTTP/1.1\r\nauthorization: Bearer {token}");
    let label =
        |secret: &Value, what: &str| secret["metadata"]["labels"][format!("kubernetes.io/legacy-token-{what}")].clone();
    let (made, unasked) = (token(&admin, "made").await, token(&admin, "unasked").await);
    let (_, before) = admin.get(&format!("{SECRETS}/made")).await;
    assert_eq!(label(&before, "last-used"), Value::Null);
    let (code, text) = served.ask(&ask(&made), None).await;
    assert!(code == 200 && !text.to_lowercase().contains("warning: 299"), "{text}");
    let (_, after) = admin.get(&format!("{SECRETS}/made")).await;
    assert!(label(&after, "last-used").as_str().is_some_and(|day| day >= today.as_str()), "{after}");
    assert_eq!(served.ask(&ask(&made), None).await.0, 200);
    let (_, again) = admin.get(&format!("{SECRETS}/made")).await;
    assert_eq!(again["metadata"]["resourceVersion"], after["metadata"]["resourceVersion"], "once a day");
    let (code, text) = served.ask(&ask(&unasked), None).await;
    assert!(code == 200 && text.to_lowercase().contains("warning: 299"), "{text}");
    // The cleaner's mark.
    let mark = |value: Value| json!({"metadata": {"labels": {"kubernetes.io/legacy-token-invalid-since": value, "kubernetes.io/legacy-token-last-used": null}}});
    assert_eq!(admin.patch(&format!("{SECRETS}/unasked"), mark(json!("2026-01-01"))).await.0, 200);
    assert_eq!(served.ask(&ask(&unasked), None).await.0, 401);
    let (_, marked) = admin.get(&format!("{SECRETS}/unasked")).await;
    assert!(label(&marked, "last-used").is_string(), "the attempt is noted, too: {marked}");
    assert_eq!(admin.patch(&format!("{SECRETS}/unasked"), mark(Value::Null)).await.0, 200);
    assert_eq!(served.ask(&ask(&unasked), None).await.0, 200, "who takes the mark away may use it for a while");
    let (_, metrics) = admin.get("/metrics").await;
    for line in [
        "serviceaccount_legacy_manual_token_uses_total 2",
        "serviceaccount_legacy_auto_token_uses_total 2",
        "serviceaccount_invalid_legacy_auto_token_uses_total 1",
    ] {
        assert!(metrics.as_str().unwrap().contains(line), "{line}");
    }
    // A day that nobody can read becomes today.
    assert_eq!(admin.patch(TRACKING, json!({"data": {"since": "lately"}})).await.0, 200);
    for _ in 0..1000 {
        if admin.get(TRACKING).await.1["data"]["since"]
            .as_str()
            .is_some_and(|day| day >= today.as_str() && day != "lately")
        {
            return served.end().await;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the day is not mended");
}
