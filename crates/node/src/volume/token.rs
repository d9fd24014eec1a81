//! Service account tokens bound to a Pod, renewed before they expire.

use std::collections::HashMap;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount, ServiceAccountTokenProjection};
use kube::api::{Api, PostParams};
use parking_lot::Mutex;

use crate::pod::spec;
use crate::time;

const DEFAULT_SECONDS: i64 = 3600;
const DAY_NS: i64 = 86_400 * 1_000_000_000;

/// Tokens by Pod and path.
pub struct Tokens {
    client: kube::Client,
    held: Mutex<HashMap<Key, Held>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    uid: String,
    volume: String,
    path: String,
}

#[derive(Clone)]
struct Held {
    token: String,
    renew_at: i64,
}

/// When a token made now is renewed: at 80 % of its life, and at least once a day.
fn renew_at(made: i64, expires: i64) -> i64 {
    let life = (expires - made).max(0);
    made + (life / 10 * 8).min(DAY_NS)
}

impl Tokens {
    /// None yet.
    pub fn new(client: kube::Client) -> Self {
        Tokens { client, held: Mutex::default() }
    }

    /// The token of a projection, a new one if it is time; and when it is to be asked for again, ns.
    pub async fn get(
        &self,
        pod: &Pod,
        volume: &str,
        p: &ServiceAccountTokenProjection,
    ) -> Result<(String, i64), String> {
        let key = Key { uid: spec::uid(pod).into(), volume: volume.into(), path: p.path.clone() };
        let now = time::now_ns();
        let held = self.held.lock().get(&key).cloned();
        if let Some(h) = held.filter(|h| now < h.renew_at) {
            return Ok((h.token, h.renew_at));
        }
        let account = pod
            .spec
            .as_ref()
            .and_then(|s| s.service_account_name.as_deref())
            .filter(|n| !n.is_empty())
            .unwrap_or("default");
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: p.audience.clone().filter(|a| !a.is_empty()).map(|a| vec![a]),
                expiration_seconds: Some(p.expiration_seconds.unwrap_or(DEFAULT_SECONDS)),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: pod.metadata.name.clone(),
                    uid: pod.metadata.uid.clone(),
                }),
            }),
            ..Default::default()
        };
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), spec::namespace(pod));
        let answer: TokenRequest = api
            .create_subresource("token", account, &PostParams::default(), &request)
            .await
            .map_err(|e| format!("failed to fetch token: {e}"))?;
        let status = answer.status.unwrap_or_default();
        let token = status.token.filter(|t| !t.is_empty()).ok_or("the token request came back without a token")?;
        let expires = status.expiration_timestamp.as_ref().map_or(now, time::ns);
        let renew_at = renew_at(now, expires);
        self.held.lock().insert(key, Held { token: token.clone(), renew_at });
        Ok((token, renew_at))
    }

    /// Drops the tokens of a Pod.
    pub fn forget(&self, uid: &str) {
        self.held.lock().retain(|k, _| k.uid != uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal() {
        let s = 1_000_000_000;
        assert_eq!(renew_at(0, 3600 * s), 2880 * s);
        assert_eq!(renew_at(0, 365 * DAY_NS), DAY_NS);
    }
}
