//! Tokens in Secrets of type `kubernetes.io/service-account-token`: they have no expiry and are good as long as their Secret
//! holds them and their account exists. Nothing makes them unasked any more (KEP-2799); who wants one creates the Secret.

use super::service_account::account_user;
use super::{AuthnError, Remarks, SERVICE_ACCOUNT_PREFIX, UserInfo};
use crate::registry::options::WriteOptions;
use crate::registry::update::{Change, Update};
use crate::registry::{Call, Registry};
use caravel_api::meta;
use caravel_api::status::ApiError;
use jiff::{SignedDuration, Timestamp};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry as Metrics;
use serde_json::{Value, json};
use std::sync::Arc;

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
/// The day of the last use, in UTC.
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
/// Said to who uses a token that was made unasked.
const UNASKED: &str = "this token was made unasked and is kept in a Secret: use one from the TokenRequest API, or from a Secret that you made";

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

/// How often tokens in Secrets are used, under upstream's names. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Uses {
    all: Counter,
    manual: Counter,
    automatic: Counter,
    invalid: Counter,
}

impl Uses {
    /// Fresh counters in `registry`.
    pub fn register(registry: &mut Metrics) -> Self {
        let new = Self::default();
        for (name, help, counter) in [
            ("legacy_tokens", "Uses of tokens in Secrets", &new.all),
            ("legacy_manual_token_uses", "Uses of tokens in Secrets that somebody made", &new.manual),
            ("legacy_auto_token_uses", "Uses of tokens in Secrets that were made unasked", &new.automatic),
            ("invalid_legacy_auto_token_uses", "Uses of tokens in Secrets that were marked as invalid", &new.invalid),
        ] {
            registry.register(format!("serviceaccount_{name}"), help, counter.clone());
        }
        new
    }
}

/// The account of a token whose signature is good, if its Secret still holds it. The day of its use is noted on the Secret.
pub async fn authenticate(
    registry: &Arc<Registry>,
    uses: &Uses,
    claims: &Value,
    token: &str,
) -> Result<(UserInfo, Remarks), AuthnError> {
    use base64::Engine as _;
    let bad = |why: &str| AuthnError::Token(why.to_owned());
    let text = |part: &str| {
        claims.get(format!("kubernetes.io/serviceaccount/{part}")).and_then(Value::as_str).unwrap_or_default()
    };
    let (namespace, name) = (text("namespace"), text("secret.name"));
    let (account, uid) = (text("service-account.name"), text("service-account.uid"));
    let unavailable = |e: ApiError| AuthnError::Unavailable(e.message);
    let secret = registry.object("", "secrets", namespace, name).await.map_err(unavailable)?;
    let Some(secret) = secret.filter(|secret| !meta::is_deleting(secret)) else {
        return Err(bad("the Secret of the token has been deleted"));
    };
    let held = secret.pointer("/data/token").and_then(Value::as_str).unwrap_or_default();
    if base64::engine::general_purpose::STANDARD.decode(held).ok().as_deref() != Some(token.as_bytes()) {
        return Err(bad("the token does not match the one in its Secret"));
    }
    let found = registry.object("", "serviceaccounts", namespace, account).await.map_err(unavailable)?;
    let Some(found) = found.filter(|found| meta::uid(found) == uid && !meta::is_deleting(found)) else {
        return Err(bad("the service account has been deleted"));
    };
    uses.all.inc();
    note_use(registry, &secret).await;
    if meta::label(&secret, INVALID_SINCE).is_some_and(|since| !since.is_empty()) {
        uses.invalid.inc();
        return Err(AuthnError::Invalidated(namespace.to_owned(), name.to_owned()));
    }
    // What the account names was made unasked, by versions that still did so.
    let named = found.get("secrets").and_then(Value::as_array).into_iter().flatten();
    let automatic = named.filter_map(|one| one.get("name")).any(|one| one == name);
    let mut remarks = Remarks::default();
    let kind = if automatic {
        uses.automatic.inc();
        remarks.warnings.push(UNASKED.to_owned());
        "autogenerated"
    } else {
        uses.manual.inc();
        "manual"
    };
    remarks.annotations.push((format!("authentication.k8s.io/legacy-token-{kind}-secret"), name.to_owned()));
    Ok((account_user(namespace, account, uid), remarks))
}

/// Notes the day on the Secret, once a day. What fails is told and tried again at the next use.
async fn note_use(registry: &Arc<Registry>, secret: &Value) {
    let day = |at: Timestamp| at.strftime("%Y-%m-%d").to_string();
    let now = registry.clock.now();
    let (today, tomorrow) = (day(now), day(now.saturating_add(SignedDuration::from_hours(24)).unwrap_or(now)));
    // Another server's clock may be ahead.
    if meta::label(secret, LAST_USED).is_some_and(|last| last == today || last == tomorrow) {
        return;
    }
    let uid = meta::uid(secret).to_owned();
    let change = Change::With(Box::new(move |secret: &mut Value| {
        if meta::uid(secret) == uid {
            meta::map_mut(meta::metadata_mut(secret), "labels").insert(LAST_USED.into(), json!(today));
        }
        Ok(())
    }));
    let user = Arc::new(UserInfo::system_masters("system:apiserver"));
    let call = Call::new(user, "kube-apiserver");
    let options = WriteOptions::default();
    let (namespace, name) = (meta::namespace(secret), meta::name(secret));
    let written = async {
        let kind = registry.row("", "secrets")?;
        let update = Update { kind: &kind, namespace, name, subresource: "", change, options: &options };
        registry.update(&call, update).await
    };
    if let Err(error) = written.await {
        tracing::warn!(namespace, secret = name, %error, "the use of a token cannot be noted on its Secret");
    }
}
