//! Tokens in Secrets of type `kubernetes.io/service-account-token`: they have no expiry and are good as long as their Secret
//! holds them and their account exists. Nothing makes them unasked any more (KEP-2799); who wants one creates the Secret.

use super::service_account::account_user;
use super::{AuthnError, SERVICE_ACCOUNT_PREFIX, UserInfo};
use crate::registry::Registry;
use caravel_api::meta;
use serde_json::{Value, json};

/// The issuer that these tokens name.
pub const ISSUER: &str = "kubernetes/serviceaccount";
/// The type of their Secrets.
pub const SECRET_TYPE: &str = "kubernetes.io/service-account-token";
/// The annotation that names the account.
pub const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
/// The annotation with the account's uid.
pub const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
/// Set by the cleaner on tokens that were not used for long: they are good no more.
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";

/// The claims of the token that the Secret of this name holds.
pub fn claims(namespace: &str, secret: &str, account: &str, uid: &str) -> Value {
    json!({
        "iss": ISSUER, "sub": format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{account}"),
        "kubernetes.io/serviceaccount/namespace": namespace,
        "kubernetes.io/serviceaccount/secret.name": secret,
        "kubernetes.io/serviceaccount/service-account.name": account,
        "kubernetes.io/serviceaccount/service-account.uid": uid,
    })
}

/// The account of a token whose signature is good, if its Secret still holds it.
pub async fn authenticate(registry: &Registry, claims: &Value, token: &str) -> Result<UserInfo, AuthnError> {
    use base64::Engine as _;
    let bad = |why: &str| AuthnError::Token(why.to_owned());
    let text = |part: &str| {
        claims.get(format!("kubernetes.io/serviceaccount/{part}")).and_then(Value::as_str).unwrap_or_default()
    };
    let namespace = text("namespace");
    let (account, uid) = (text("service-account.name"), text("service-account.uid"));
    let unavailable = |e: caravel_api::status::ApiError| AuthnError::Unavailable(e.message);
    let secret = registry.object("", "secrets", namespace, text("secret.name")).await.map_err(unavailable)?;
    let Some(secret) = secret.filter(|secret| !meta::is_deleting(secret)) else {
        return Err(bad("the Secret of the token has been deleted"));
    };
    let held = secret.pointer("/data/token").and_then(Value::as_str).unwrap_or_default();
    if base64::engine::general_purpose::STANDARD.decode(held).ok().as_deref() != Some(token.as_bytes()) {
        return Err(bad("the token does not match the one in its Secret"));
    }
    if meta::label(&secret, INVALID_SINCE).is_some() {
        return Err(bad("the token in the Secret has been marked as invalid"));
    }
    let found = registry.object("", "serviceaccounts", namespace, account).await.map_err(unavailable)?;
    if found.is_none_or(|found| meta::uid(&found) != uid || meta::is_deleting(&found)) {
        return Err(bad("the service account has been deleted"));
    }
    Ok(account_user(namespace, account, uid))
}
