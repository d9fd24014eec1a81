//! Files that change while the server runs.

use crate::harness::Cluster;
use crate::receiver::{Receiver, json as answer};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

async fn metric(cluster: &Cluster, line: &str) -> u64 {
    let (_, text) = cluster.admin().get("/metrics").await;
    let text = text.as_str().unwrap_or_default().to_owned();
    text.lines().find_map(|l| l.strip_prefix(line)?.trim().parse().ok()).unwrap_or(0)
}

/// How often the configuration was read again with this outcome, as a line of metrics without its value.
async fn total(cluster: &Cluster, name: &str, status: &str) -> String {
    // The identity is the machine's: its hash is the same in all of them.
    let (_, text) = cluster.admin().get("/metrics").await;
    let text = text.as_str().unwrap_or_default().to_owned();
    let used = format!("apiserver_{name}_controller_last_config_info{{apiserver_id_hash=\"");
    let id =
        text.lines().find_map(|l| l.strip_prefix(&used)).and_then(|rest| rest.split('"').next().map(str::to_owned));
    let id = id.expect("the configuration in use is told");
    assert!(id.starts_with("sha256:") && id.len() == 71, "{id}");
    format!("apiserver_{name}_controller_automatic_reloads_total{{status=\"{status}\",apiserver_id_hash=\"{id}\"}}")
}

/// Waits until the metric has the value, or more: a file that is written in place may be read when only a part of it is there.
async fn until(cluster: &Cluster, line: &str, wanted: u64) {
    for _ in 0..1000 {
        if metric(cluster, line).await >= wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{line} is not {wanted} but {}", metric(cluster, line).await);
}

/// As most programs write a file: beside it, and then over it.
fn replace(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    std::fs::write(&beside, text).unwrap();
    std::fs::rename(&beside, path).unwrap();
}

struct Issuer {
    url: String,
    ca: String,
    pair: EcdsaKeyPair,
    _receiver: Receiver,
}

impl Issuer {
    async fn start() -> Self {
        let random = ring::rand::SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).unwrap();
        let point = pair.public_key().as_ref().to_vec();
        let own: Arc<OnceLock<String>> = Arc::default();
        let url = own.clone();
        let receiver = Receiver::start(move |call| {
            let url = url.get().unwrap();
            answer(&match call.path.as_str() {
                "/.well-known/openid-configuration" => json!({"issuer": url, "jwks_uri": format!("{url}/keys")}),
                _ => json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": "one", "use": "sig",
                    "x": URL_SAFE_NO_PAD.encode(&point[1..33]), "y": URL_SAFE_NO_PAD.encode(&point[33..])}]}),
            })
        })
        .await;
        let url = own.get_or_init(|| format!("https://127.0.0.1:{}", receiver.port)).clone();
        Self { url, ca: receiver.ca.clone(), pair, _receiver: receiver }
    }

    fn config(&self, prefix: &str) -> String {
        json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration", "jwt": [{
            "issuer": {"url": self.url, "certificateAuthority": self.ca, "audiences": ["kube"]},
            "claimMappings": {"username": {"claim": "sub", "prefix": prefix}}}]})
        .to_string()
    }

    fn token(&self) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let claims = json!({"iss": self.url, "sub": "jane", "aud": "kube", "exp": 4_000_000_000_u64});
        let signed = format!("{}.{}", part(&json!({"alg": "ES256", "kid": "one"})), part(&claims));
        let signature = self.pair.sign(&ring::rand::SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }
}

async fn user_of(cluster: &Cluster, token: &str) -> Value {
    let review = json!({"spec": {"token": token}});
    let (code, said) = cluster.admin().post("/apis/authentication.k8s.io/v1/tokenreviews", review).await;
    assert_eq!(code, 201, "{said}");
    said["status"]["user"]["username"].clone()
}

#[tokio::test]
async fn issuers_are_read_again_and_a_bad_file_changes_nothing() {
    let issuer = Issuer::start().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("authentication.json");
    std::fs::write(
        &file,
        json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration"}).to_string(),
    )
    .unwrap();
    let path = file.clone();
    let cluster = Cluster::with(|config| config.authentication = Some(path)).await;
    let good = total(&cluster, "authentication_config", "success").await;
    let bad = total(&cluster, "authentication_config", "failure").await;
    let token = issuer.token();
    assert_eq!(user_of(&cluster, &token).await, Value::Null);
    replace(&file, &issuer.config("a:"));
    until(&cluster, &good, 1).await;
    assert_eq!(user_of(&cluster, &token).await, "a:jane");
    // In place, and wrong.
    std::fs::write(&file, issuer.config("b:").replace("username", "usrname")).unwrap();
    until(&cluster, &bad, 1).await;
    assert_eq!(user_of(&cluster, &token).await, "a:jane", "the old stays");
    std::fs::remove_file(&file).unwrap();
    replace(&file, &issuer.config("c:"));
    until(&cluster, &good, 2).await;
    assert_eq!(user_of(&cluster, &token).await, "c:jane");
}

#[tokio::test]
async fn encryption_keys_are_rotated_without_a_restart() {
    let cluster = Cluster::new().await;
    let admin = cluster.admin();
    let secrets = "/api/v1/namespaces/default/secrets";
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"a": "hidden"}});
    assert_eq!(admin.post(secrets, secret).await.0, 201);
    let file = cluster.dir.path().join("pki/encryption.keys");
    let old = std::fs::read_to_string(&file).unwrap();
    let new = format!("key2 {}\n", STANDARD.encode([7; 32]));
    let good = total(&cluster, "encryption_config", "success").await;
    let bad = total(&cluster, "encryption_config", "failure").await;
    // The old key is still needed.
    replace(&file, &new);
    until(&cluster, &bad, 1).await;
    assert_eq!(admin.get(&format!("{secrets}/s")).await.1["data"]["a"], STANDARD.encode("hidden"));
    replace(&file, &format!("{new}{old}"));
    until(&cluster, &good, 1).await;
    // Everything was written again, so that the old key can go.
    replace(&file, &new);
    until(&cluster, &good, 2).await;
    assert_eq!(admin.get(&format!("{secrets}/s")).await.1["data"]["a"], STANDARD.encode("hidden"));
    drop(admin);
    let again = cluster.restart().await;
    assert_eq!(again.admin().get(&format!("{secrets}/s")).await.1["data"]["a"], STANDARD.encode("hidden"));
}

fn authorizers(more: &[Value]) -> String {
    let mut all = vec![json!({"type": "Node", "name": "node"})];
    all.extend_from_slice(more);
    json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthorizationConfiguration", "authorizers": all})
        .to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_decides_is_read_again_and_a_bad_file_changes_nothing() {
    let receiver = Receiver::start(|_| answer(&json!({"status": {"allowed": true, "reason": "by the gate"}}))).await;
    let dir = tempfile::tempdir().unwrap();
    let kubeconfig = receiver.kubeconfig(dir.path(), "/authorize");
    let gate = json!({"type": "Webhook", "name": "gate", "webhook": {
        "timeout": "3s", "subjectAccessReviewVersion": "v1", "failurePolicy": "Deny",
        "connectionInfo": {"type": "KubeConfigFile", "kubeConfigFile": kubeconfig.file_name().unwrap().to_str().unwrap()}}});
    let rbac = json!({"type": "RBAC", "name": "rbac"});
    let file = dir.path().join("authorization.json");
    std::fs::write(&file, authorizers(std::slice::from_ref(&rbac))).unwrap();
    let path = file.clone();
    let cluster = Cluster::with(|config| config.authorization = Some(path)).await;
    let good = total(&cluster, "authorization_config", "success").await;
    let bad = total(&cluster, "authorization_config", "failure").await;
    let ann = cluster.client(caravel_server::UserInfo::new("ann", &[]));
    let maps = "/api/v1/namespaces/default/configmaps";
    assert_eq!(ann.get(maps).await.0, 403);
    replace(&file, &authorizers(&[gate.clone(), rbac.clone()]));
    until(&cluster, &good, 1).await;
    assert_eq!(ann.get(maps).await.0, 200, "the webhook allows it");
    // Wrong in one way after the other.
    let mut failures = 0;
    let unfit = |change: fn(&mut Value)| {
        let mut gate = gate.clone();
        change(&mut gate);
        authorizers(&[gate, rbac.clone()])
    };
    for text in [
        "{".to_owned(),
        authorizers(&[]),
        authorizers(&[json!({"type": "ABAC", "name": "abac"}), rbac.clone()]),
        unfit(|gate| gate["webhook"]["timeout"] = json!("31s")),
        unfit(|gate| gate["webhook"]["connectionInfo"]["kubeConfigFile"] = json!("absent")),
        unfit(|gate| {
            gate["webhook"]["matchConditionSubjectAccessReviewVersion"] = json!("v1");
            gate["webhook"]["matchConditions"] = json!([{"expression": "request.("}]);
        }),
    ] {
        replace(&file, &text);
        failures += 1;
        until(&cluster, &bad, failures).await;
        assert_eq!(ann.get(maps).await.0, 200, "the old stays after {text}");
    }
    // The same in other words is no reload; what comes after it is.
    replace(&file, &format!("{}\n\n", authorizers(&[gate, rbac.clone()])));
    replace(&file, &authorizers(&[rbac]));
    until(&cluster, &good, 2).await;
    assert_eq!(ann.get(maps).await.0, 403, "the webhook is gone, and with it what it said");
    assert_eq!(metric(&cluster, &bad).await, failures);
}
