//! Bad input gets the right refusal, in JSON, with a message; nothing panics.

use crate::harness::{Cluster, MAPS, config_map};
use serde_json::json;

#[tokio::test]
async fn refusals() {
    let cluster = Cluster::new().await;
    let admin = cluster.admin();
    admin.post(MAPS, config_map("x")).await;
    let one = format!("{MAPS}/x");
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let deep_data = format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"d"}},"data":{}1{}}}"#,
        r#"{"a":"#.repeat(500),
        "}".repeat(500)
    );
    let huge = format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"h"}},"data":{{"a":"{}"}}}}"#,
        "x".repeat(4 << 20)
    );
    let long_label = json!({"metadata": {"labels": {"a": "x".repeat(100)}}}).to_string();
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\ng: [*f,*f,*f,*f,*f,*f,*f,*f,*f]\n";
    let json_media = "application/json";
    let merge = "application/merge-patch+json";
    let table: Vec<(&str, &str, &str, &str, u16)> = vec![
        ("POST", MAPS, json_media, "", 400),
        ("POST", MAPS, json_media, "{", 400),
        ("POST", MAPS, json_media, "[]", 400),
        ("POST", MAPS, json_media, "null", 400),
        ("POST", MAPS, json_media, "\"text\"", 400),
        ("POST", MAPS, json_media, "\u{feff}{}", 400),
        ("POST", MAPS, json_media, &deep, 400),
        ("POST", MAPS, json_media, &deep_data, 400),
        ("POST", MAPS, json_media, &huge, 413),
        ("POST", MAPS, "application/yaml", bomb, 422),
        ("POST", MAPS, "text/csv", "a,b", 415),
        ("POST", MAPS, "application/vnd.kubernetes.protobuf", "k8s\0\u{1}\u{2}", 400),
        ("POST", MAPS, "application/cbor", "x", 415),
        ("POST", MAPS, json_media, r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"y"}}"#, 400),
        ("POST", MAPS, json_media, r#"{"apiVersion":"v2","kind":"ConfigMap","metadata":{"name":"y"}}"#, 400),
        ("POST", MAPS, json_media, r#"{"metadata":{"name":5}}"#, 400),
        ("POST", MAPS, json_media, r#"{"metadata":{"name":"y"},"data":{"a":1}}"#, 400),
        ("POST", MAPS, json_media, r#"{"metadata":{"name":"Not_A_Name"}}"#, 422),
        ("POST", MAPS, json_media, r#"{"metadata":{"name":"../x"}}"#, 422),
        ("POST", MAPS, json_media, r#"{"metadata":{}}"#, 422),
        ("POST", MAPS, json_media, r#"{"metadata":{"name":"y","namespace":"other"}}"#, 400),
        ("POST", MAPS, json_media, r#"{"metadata":{"name":"y","resourceVersion":"5"}}"#, 400),
        ("PUT", &one, json_media, r#"{"metadata":{"name":"z"}}"#, 400),
        ("PUT", &one, json_media, r#"{"metadata":{"name":"x","resourceVersion":"abc"}}"#, 422),
        ("PUT", &one, json_media, r#"{"metadata":{"name":"x","resourceVersion":"1"}}"#, 409),
        ("PUT", &one, json_media, r#"{"metadata":{"name":"x","uid":"not-the-one"}}"#, 409),
        ("PATCH", &one, merge, "[]", 400),
        ("PATCH", &one, merge, "{", 400),
        ("PATCH", &one, merge, &long_label, 422),
        ("PATCH", &one, "application/json-patch+json", "{}", 400),
        ("PATCH", &one, "application/json-patch+json", r#"[{"op":"copy","from":"/data","path":"/data/none/x"}]"#, 422),
        ("PATCH", &one, "application/strategic-merge-patch+json", r#"{"$patch":"explode"}"#, 400),
        ("PATCH", MAPS, merge, "{}", 405),
        ("POST", &one, json_media, "{}", 405),
        ("GET", "/api/v1/namespaces/default/nothings", json_media, "", 404),
        ("GET", "/apis/nothing/v1/things", json_media, "", 404),
        ("GET", "/api/v1/namespaces/default/configmaps/x/status", json_media, "", 404),
        ("GET", "/api/v1/namespaces/default/nodes", json_media, "", 404),
        ("GET", "/api/v1/configmaps/x", json_media, "", 404),
        ("GET", "/nothing/here", json_media, "", 404),
        ("POST", "/healthz", json_media, "", 405),
        ("DELETE", "/version", json_media, "", 405),
        ("GET", "/api/v1/namespaces/default/configmaps/%2e%2e", json_media, "", 400),
        ("DELETE", &one, json_media, r#"{"gracePeriodSeconds":"soon"}"#, 400),
        ("DELETE", &one, json_media, r#"{"propagationPolicy":"Sideways"}"#, 422),
        ("GET", "/api/v1/pods?watch=1&resourceVersion=-1", json_media, "", 400),
        ("GET", "/api/v1/pods?limit=-x", json_media, "", 400),
        ("GET", "/api/v1/pods?labelSelector=%3D%3D%3D", json_media, "", 400),
        ("GET", "/api/v1/pods?fieldSelector=spec.unknown%3Dx", json_media, "", 400),
        ("POST", &format!("{MAPS}?fieldValidation=Strict"), json_media, r#"{"metadata":{"name":"y"},"dota":{}}"#, 400),
        ("POST", &format!("{MAPS}?fieldValidation=Perhaps"), json_media, r#"{"metadata":{"name":"y"}}"#, 400),
    ]
    .into_iter()
    .map(|(a, b, c, d, e)| (a, Box::leak(b.to_owned().into_boxed_str()) as &str, c, d, e))
    .collect();
    for (method, path, media, body, wanted) in table {
        let (code, answer) = admin.call_as(method, path, media, body).await;
        let shown: String = body.chars().take(60).collect();
        assert_eq!(code, wanted, "{method} {path} {shown}: {answer}");
        assert_eq!(answer["kind"], "Status", "{method} {path} {shown}");
        assert!(answer["message"].as_str().is_some_and(|m| !m.is_empty()), "{method} {path} {shown}: {answer}");
        assert_ne!(answer["reason"], "InternalError", "{method} {path} {shown}: {answer}");
    }
    // And it still works.
    assert_eq!(admin.get(&one).await.0, 200);
}

#[tokio::test]
async fn unknown_fields_warn() {
    let cluster = Cluster::new().await;
    let body = r#"{"metadata":{"name":"w"},"dota":{},"data":{"a":"1","a":"2"}}"#;
    let response = cluster.admin().send("POST", MAPS, &[("content-type", "application/json")], body).await;
    assert_eq!(response.status(), 201);
    let warnings: Vec<_> =
        response.headers().get_all("warning").iter().map(|v| v.to_str().unwrap().to_owned()).collect();
    assert!(warnings.iter().any(|w| w.contains("unknown field \\\"dota\\\"")), "{warnings:?}");
    assert!(warnings.iter().any(|w| w.contains("duplicate field")), "{warnings:?}");
    assert!(response.headers().contains_key("audit-id"));
}
