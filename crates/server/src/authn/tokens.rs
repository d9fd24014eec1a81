//! Bearer tokens that are no JWTs: static ones from the configuration, and bootstrap tokens, with which a node joins.

use super::{AuthnError, UserInfo};
use crate::registry::Registry;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;

const BOOTSTRAP_TYPE: &str = "bootstrap.kubernetes.io/token";
const BOOTSTRAPPERS: &str = "system:bootstrappers";

/// Tokens from the configuration, by their digest, so that looking one up takes no time that depends on its letters.
#[derive(Default)]
pub struct StaticTokens(HashMap<[u8; 32], Arc<UserInfo>>);

fn digest(token: &str) -> [u8; 32] {
    use sha2::Digest as _;
    sha2::Sha256::digest(token.as_bytes()).into()
}

impl StaticTokens {
    /// Pairs of token and user.
    pub fn new(tokens: impl IntoIterator<Item = (String, UserInfo)>) -> Self {
        Self(
            tokens
                .into_iter()
                .map(|(token, mut user)| {
                    user.authenticated();
                    (digest(&token), Arc::new(user))
                })
                .collect(),
        )
    }

    /// The user of `token`.
    pub fn authenticate(&self, token: &str) -> Option<Arc<UserInfo>> {
        self.0.get(&digest(token)).cloned()
    }
}

/// The two parts of a bootstrap token, `abcdef.0123456789abcdef`.
pub fn bootstrap_parts(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let plain = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    (id.len() == 6 && secret.len() == 16 && plain(id) && plain(secret)).then_some((id, secret))
}

/// Checks a bootstrap token against its Secret in `kube-system`.
pub async fn bootstrap(registry: &Registry, id: &str, secret: &str) -> Result<Arc<UserInfo>, AuthnError> {
    let bad = |why: &str| AuthnError::Token(why.to_owned());
    let object = registry
        .object("", "secrets", "kube-system", &format!("bootstrap-token-{id}"))
        .await
        .map_err(|e| AuthnError::Unavailable(e.message))?
        .ok_or_else(|| bad("there is no such bootstrap token"))?;
    check_bootstrap(&object, id, secret, registry.clock.now()).map(Arc::new)
}

fn check_bootstrap(object: &Value, id: &str, secret: &str, now: Timestamp) -> Result<UserInfo, AuthnError> {
    let bad = |why: &str| AuthnError::Token(why.to_owned());
    let data = |key: &str| -> String {
        object
            .pointer(&format!("/data/{key}"))
            .and_then(Value::as_str)
            .and_then(|text| STANDARD.decode(text).ok())
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .unwrap_or_default()
    };
    if object.get("type").and_then(Value::as_str) != Some(BOOTSTRAP_TYPE)
        || object.pointer("/metadata/deletionTimestamp").is_some()
    {
        return Err(bad("there is no such bootstrap token"));
    }
    if digest(&data("token-secret")) != digest(secret) || data("token-id") != id {
        return Err(bad("the bootstrap token's secret is wrong"));
    }
    let expiration = data("expiration");
    if !expiration.is_empty() && expiration.parse::<Timestamp>().map_or(true, |end| now >= end) {
        return Err(bad("the bootstrap token has expired"));
    }
    if data("usage-bootstrap-authentication") != "true" {
        return Err(bad("the bootstrap token is not for authentication"));
    }
    let mut groups = vec![BOOTSTRAPPERS.to_owned()];
    for group in data("auth-extra-groups").split(',').filter(|g| !g.is_empty()) {
        if !group.starts_with("system:bootstrappers:") {
            return Err(bad("the bootstrap token has a group that is not of system:bootstrappers"));
        }
        groups.push(group.to_owned());
    }
    let mut user = UserInfo { name: format!("system:bootstrap:{id}"), groups, ..UserInfo::default() };
    user.authenticated();
    Ok(user)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_form_of_bootstrap_tokens() {
        assert_eq!(bootstrap_parts("abcdef.0123456789abcdef"), Some(("abcdef", "0123456789abcdef")));
        for bad in ["", "abcdef", "abcdef.", "ABCDEF.0123456789abcdef", "abcdefg.0123456789abcdef", "a.b.c"] {
            assert_eq!(bootstrap_parts(bad), None);
        }
    }

    #[test]
    fn bootstrap_tokens_are_checked() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let encode = |text: &str| json!(STANDARD.encode(text));
        let good = json!({"type": BOOTSTRAP_TYPE, "metadata": {}, "data": {
            "token-id": encode("abcdef"), "token-secret": encode("0123456789abcdef"),
            "usage-bootstrap-authentication": encode("true"), "expiration": encode("2026-01-02T00:00:00Z"),
            "auth-extra-groups": encode("system:bootstrappers:x"),
        }});
        let check = |object: &Value| check_bootstrap(object, "abcdef", "0123456789abcdef", now);
        let user = check(&good).unwrap();
        assert_eq!(user.name, "system:bootstrap:abcdef");
        assert_eq!(user.groups, ["system:bootstrappers", "system:bootstrappers:x", "system:authenticated"]);
        for (field, value) in [
            ("token-secret", "other"),
            ("expiration", "2025-01-01T00:00:00Z"),
            ("expiration", "soon"),
            ("usage-bootstrap-authentication", "false"),
            ("auth-extra-groups", "system:masters"),
        ] {
            let mut bad = good.clone();
            bad["data"][field] = encode(value);
            assert!(check(&bad).is_err(), "{field}={value}");
        }
    }
}
