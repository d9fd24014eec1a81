//! Bootstrap tokens: deleting those that expired, and signing the `cluster-info` ConfigMap for those that may be used to trust it.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use caravel_client::{Informer, Key, ListSelector, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use kube::api::{DeleteParams, PostParams, Preconditions};
use sha2::{Digest, Sha256};

use crate::common::*;
use crate::context::{Context, enqueue_each};

const TOKEN_TYPE: &str = "bootstrap.kubernetes.io/token";
const TOKEN_NAMESPACE: &str = "kube-system";
const INFO_NAMESPACE: &str = "kube-public";
const INFO: &str = "cluster-info";
const KUBECONFIG: &str = "kubeconfig";
const SIGNATURE: &str = "jws-kubeconfig-";

fn tokens(context: &Context) -> Informer<Secret> {
    context.cluster.informer_with(ListSelector {
        namespace: Some(TOKEN_NAMESPACE.into()),
        fields: Some(format!("type={TOKEN_TYPE}")),
        labels: None,
    })
}

fn text(secret: &Secret, key: &str) -> Option<String> {
    let bytes = secret.data.as_ref()?.get(key)?;
    String::from_utf8(bytes.0.clone()).ok()
}

/// When a token expires; a malformed time is in the past.
fn expiration(secret: &Secret) -> Option<Timestamp> {
    text(secret, "expiration").map(|t| t.parse().unwrap_or(Timestamp::UNIX_EPOCH))
}

/// Runs the cleaner.
///
/// # Errors
/// Never by itself.
pub async fn run_cleaner(context: Context) -> anyhow::Result<()> {
    let secrets = tokens(&context);
    let queue = WorkQueue::new();
    enqueue_each(&secrets, &queue);
    secrets.synced().await;
    let (client, clock) = (context.client(), context.config.clock);
    let reconcile = |key: Key| {
        let secret = secrets.get(&key);
        let api: Api<Secret> = Api::namespaced(client.clone(), &key.namespace);
        async move {
            let Some(secret) = secret else { return Ok(None) };
            let Some(at) = expiration(&secret) else { return Ok(None) };
            if let Some(wait) = until(at, clock()) {
                return Ok(Some(wait));
            }
            let same = Preconditions { uid: secret.metadata.uid.clone(), resource_version: None };
            gone_is_fine(api.delete(&key.name, &DeleteParams::default().preconditions(same)).await)?;
            Ok(None)
        }
    };
    context.work(queue, 1, reconcile).await;
    Ok(())
}

/// (id, secret) of a token that may sign now.
fn signing(s: &Secret, now: Timestamp) -> Option<(String, String)> {
    let (id, key) = (text(s, "token-id")?, text(s, "token-secret")?);
    let named = name(s).strip_prefix("bootstrap-token-") == Some(&id);
    let living = expiration(s).is_none_or(|at| at > now);
    let may = text(s, "usage-bootstrap-signing").as_deref() == Some("true");
    (named && living && may && !id.is_empty() && !key.is_empty()).then_some((id, key))
}

/// HMAC (RFC 2104) with SHA-256.
fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut block = [0u8; 64];
    if key.len() > block.len() {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let inner = Sha256::new().chain_update(block.map(|b| b ^ 0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(block.map(|b| b ^ 0x5c)).chain_update(inner).finalize().to_vec()
}

/// A detached JWS (RFC 7515, appendix F) of the content.
fn sign(content: &str, id: &str, secret: &str) -> String {
    let header = URL_SAFE_NO_PAD.encode(format!("{{\"alg\":\"HS256\",\"kid\":\"{id}\"}}"));
    let payload = URL_SAFE_NO_PAD.encode(content);
    let key = format!("{id}.{secret}");
    let signature = URL_SAFE_NO_PAD.encode(hmac(key.as_bytes(), format!("{header}.{payload}").as_bytes()));
    format!("{header}..{signature}")
}

/// The ConfigMap with the signatures of exactly the present tokens, if it has others.
fn plan(info: &ConfigMap, tokens: &[Arc<Secret>], now: Timestamp) -> Option<ConfigMap> {
    let before = info.data.clone().unwrap_or_default();
    let content = before.get(KUBECONFIG)?;
    let mut after: BTreeMap<String, String> = before.clone();
    after.retain(|k, _| !k.starts_with(SIGNATURE));
    for (id, secret) in tokens.iter().filter_map(|t| signing(t, now)) {
        after.insert(format!("{SIGNATURE}{id}"), sign(content, &id, &secret));
    }
    (before != after).then(|| ConfigMap { data: Some(after), ..info.clone() })
}

/// Runs the signer.
///
/// # Errors
/// Never by itself.
pub async fn run_signer(context: Context) -> anyhow::Result<()> {
    let secrets = tokens(&context);
    let maps: Informer<ConfigMap> = context.cluster.informer_with(ListSelector {
        namespace: Some(INFO_NAMESPACE.into()),
        fields: Some(format!("metadata.name={INFO}")),
        labels: None,
    });
    let queue = WorkQueue::new();
    let key = Key::new(INFO_NAMESPACE, INFO);
    let (wake, one) = (queue.clone(), key.clone());
    secrets.on_change(move |_| wake.add(one.clone()));
    enqueue_each(&maps, &queue);
    secrets.synced().await;
    maps.synced().await;
    let client = context.client();
    let reconcile = |key: Key| {
        let now = context.now();
        let all = secrets.list();
        let changed = maps.get(&key).and_then(|m| plan(&m, &all, now));
        // A signature goes when its token expires.
        let again = all.iter().filter_map(|t| until(expiration(t)?, now)).min();
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), &key.namespace);
        async move {
            if let Some(map) = changed {
                api.replace(&key.name, &PostParams::default(), &map).await?;
            }
            Ok(again)
        }
    };
    context.work(queue, 1, reconcile).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;

    #[test]
    fn hmac_known_answers() {
        // RFC 4231, test cases 2 and 6.
        let hex = |b: Vec<u8>| b.iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(
            hex(hmac(b"Jefe", b"what do ya want for nothing?")),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert_eq!(
            hex(hmac(&[0xaa; 131], b"Test Using Larger Than Block-Size Key - Hash Key First")),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        );
    }

    #[test]
    fn signatures_follow_the_tokens() {
        let token = |id: &str, expires: &str| {
            let mut s = Secret::default();
            s.metadata.name = Some(format!("bootstrap-token-{id}"));
            let data =
                [("token-id", id), ("token-secret", "s"), ("usage-bootstrap-signing", "true"), ("expiration", expires)];
            s.data = Some(data.map(|(k, v)| (k.to_owned(), ByteString(v.as_bytes().to_vec()))).into());
            Arc::new(s)
        };
        let data = [(KUBECONFIG.to_owned(), "config".to_owned()), (format!("{SIGNATURE}old"), "x".to_owned())];
        let info = ConfigMap { data: Some(data.into()), ..Default::default() };
        let all = [token("abc", "2030-01-01T00:00:00Z"), token("late", "2020-01-01T00:00:00Z")];
        let now = Timestamp::from_second(1_750_000_000).unwrap_or_default();
        let signed = plan(&info, &all, now).expect("differs");
        let keys: Vec<_> = signed.data.iter().flatten().map(|(k, _)| k.as_str()).collect();
        assert_eq!(keys, ["jws-kubeconfig-abc", "kubeconfig"]);
        assert_eq!(plan(&signed, &all, now), None);
    }
}
