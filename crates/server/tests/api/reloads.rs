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

/// Waits until the metric has the value.
async fn until(cluster: &Cluster, line: &str, wanted: u64) {
    for _ in 0..1000 {
        if metric(cluster, line).await == wanted {
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
    let total = |status: &str| {
        format!("apiserver_authentication_config_controller_automatic_reloads_total{{status=\"{status}\"}}")
    };
    let (good, bad) = (total("success"), total("failure"));
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
    let total =
        |status: &str| format!("apiserver_encryption_config_controller_automatic_reloads_total{{status=\"{status}\"}}");
    // The old key is still needed.
    replace(&file, &new);
    until(&cluster, &total("failure"), 1).await;
    assert_eq!(admin.get(&format!("{secrets}/s")).await.1["data"]["a"], STANDARD.encode("hidden"));
    replace(&file, &format!("{new}{old}"));
    until(&cluster, &total("success"), 1).await;
    // Everything was written again, so that the old key can go.
    replace(&file, &new);
    until(&cluster, &total("success"), 2).await;
    assert_eq!(admin.get(&format!("{secrets}/s")).await.1["data"]["a"], STANDARD.encode("hidden"));
    drop(admin);
    let again = cluster.restart().await;
    assert_eq!(again.admin().get(&format!("{secrets}/s")).await.1["data"]["a"], STANDARD.encode("hidden"));
}
