//! Service-account tokens: TokenRequest makes them, the authenticator checks them.
//!
//! A token is good while its signature and times are, and while what it is bound to exists: its service account, and the
//! Pod, Secret or Node that it was requested for.

use super::jwt::{SigningKey, claimed_issuer};
use super::{Authenticated, AuthnError, GROUP_SERVICE_ACCOUNTS, SERVICE_ACCOUNT_PREFIX, UserInfo, legacy};
use crate::registry::Registry;
use caravel_api::field::{FieldError, FieldPath};
use caravel_api::meta;
use caravel_api::status::ApiError;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;

/// The least life of a token, in seconds.
const SHORTEST: i64 = 600;
/// The longest that may be asked for, in seconds.
const LONGEST: i64 = 1 << 32;
/// What the ServiceAccount admission plug-in asks for; such tokens live longer, for clients that never read them again.
const ADMISSION_SECONDS: i64 = 3607;
/// How long those live.
const EXTENDED_SECONDS: i64 = 365 * 24 * 3600;
/// Checked signatures that are remembered.
const REMEMBERED: usize = 4096;

/// Makes and checks tokens.
pub struct ServiceAccounts {
    key: SigningKey,
    issuer: String,
    audiences: Vec<String>,
    /// Claims of tokens whose signature was checked, by the token's digest. Two generations: when the first is full it
    /// becomes the second, so that memory is bounded and what is in use stays.
    checked: Mutex<[HashMap<[u8; 32], Arc<Value>>; 2]>,
    legacy: legacy::Uses,
}

impl ServiceAccounts {
    /// With the signing key, the issuer's URL and the audiences of this server.
    pub fn new(key: SigningKey, issuer: String, audiences: Vec<String>) -> Self {
        Self { key, issuer, audiences, checked: Mutex::default(), legacy: legacy::Uses::default() }
    }

    /// The same, counting the uses of tokens in Secrets.
    pub fn counting(self, legacy: legacy::Uses) -> Self {
        Self { legacy, ..self }
    }

    /// The issuer's URL.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The audiences of this server.
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// The keys for `/openid/v1/jwks`.
    pub fn key_set(&self) -> Value {
        self.key.key_set()
    }

    /// A token with these claims.
    pub fn sign(&self, claims: &Value) -> Result<String, ApiError> {
        self.key.sign(claims).map_err(ApiError::internal)
    }

    /// Whether `token` says that it is one of ours.
    pub fn claims(&self, token: &str) -> bool {
        claimed_issuer(token).is_some_and(|issuer| issuer == self.issuer || issuer == legacy::ISSUER)
    }

    /// Checks a token that must be for one of `audiences`.
    pub async fn authenticate(
        &self,
        registry: &Arc<Registry>,
        token: &str,
        audiences: &[String],
    ) -> Result<Authenticated, AuthnError> {
        let bad = |why: &str| AuthnError::Token(why.to_owned());
        let claims = self.verified(token)?;
        if claims.get("iss").and_then(Value::as_str) == Some(legacy::ISSUER) {
            // These are for this server only.
            if !audiences.iter().any(|a| self.audiences.contains(a)) {
                return Err(bad("the token is not for this audience"));
            }
            let (user, remarks) = legacy::authenticate(registry, &self.legacy, &claims, token).await?;
            return Ok(Authenticated { user: Arc::new(user), audiences: vec![], remarks });
        }
        let now = registry.clock.now().as_second();
        let number = |key: &str| claims.get(key).and_then(Value::as_i64);
        if number("exp").is_none_or(|exp| now >= exp) {
            return Err(bad("service account token has expired"));
        }
        if number("nbf").is_some_and(|nbf| now + 60 < nbf) {
            return Err(bad("service account token is not valid yet"));
        }
        let matching: Vec<String> =
            audiences_of(&claims).filter(|a| audiences.iter().any(|b| b == a)).map(str::to_owned).collect();
        if matching.is_empty() {
            return Err(bad("the token is not for this audience"));
        }
        let bound = claims.get("kubernetes.io").unwrap_or(&Value::Null);
        let text = |pointer: &str| bound.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (namespace, account) = (text("/namespace"), text("/serviceaccount/name"));
        let exists = |plural: &'static str, namespace: &str, name: &str, uid: &str| {
            let (namespace, name, uid) = (namespace.to_owned(), name.to_owned(), uid.to_owned());
            async move { self.exists(registry, plural, &namespace, &name, &uid).await }
        };
        if !exists("serviceaccounts", namespace, account, text("/serviceaccount/uid")).await? {
            return Err(bad("the service account has been deleted"));
        }
        for (part, plural) in [("pod", "pods"), ("secret", "secrets")] {
            let (name, uid) = (text(&format!("/{part}/name")), text(&format!("/{part}/uid")));
            if !name.is_empty() && !exists(plural, namespace, name, uid).await? {
                return Err(bad("the object that the token is bound to has been deleted"));
            }
        }
        let (node, node_uid) = (text("/node/name"), text("/node/uid"));
        let node_only = text("/pod/name").is_empty() && !node.is_empty();
        if node_only && !exists("nodes", "", node, node_uid).await? {
            return Err(bad("the node that the token is bound to has been deleted"));
        }
        let mut user = account_user(namespace, account, text("/serviceaccount/uid"));
        for (key, pointer) in [
            ("authentication.kubernetes.io/pod-name", "/pod/name"),
            ("authentication.kubernetes.io/pod-uid", "/pod/uid"),
            (super::TOKEN_NODE, "/node/name"),
            ("authentication.kubernetes.io/node-uid", "/node/uid"),
        ] {
            if !text(pointer).is_empty() {
                user.extra.insert(key.into(), vec![text(pointer).to_owned()]);
            }
        }
        if let Some(id) = claims.get("jti").and_then(Value::as_str) {
            user.extra.insert("authentication.kubernetes.io/credential-id".into(), vec![format!("JTI={id}")]);
        }
        Ok(Authenticated::plain(Arc::new(user), matching))
    }

    fn verified(&self, token: &str) -> Result<Arc<Value>, AuthnError> {
        use sha2::Digest as _;
        let digest: [u8; 32] = sha2::Sha256::digest(token.as_bytes()).into();
        {
            let mut checked = self.checked.lock();
            if let Some(claims) = checked[0].get(&digest) {
                return Ok(claims.clone());
            }
            if let Some(claims) = checked[1].get(&digest).cloned() {
                checked[0].insert(digest, claims.clone());
                return Ok(claims);
            }
        }
        let claims = Arc::new(self.key.verify(token).map_err(|e| AuthnError::Token(e.to_string()))?);
        let issuer = claims.get("iss").and_then(Value::as_str).unwrap_or_default();
        if issuer != self.issuer && issuer != legacy::ISSUER {
            return Err(AuthnError::UnknownToken);
        }
        let mut checked = self.checked.lock();
        if checked[0].len() >= REMEMBERED {
            checked[1] = std::mem::take(&mut checked[0]);
        }
        checked[0].insert(digest, claims.clone());
        Ok(claims)
    }

    async fn exists(
        &self,
        registry: &Registry,
        plural: &str,
        namespace: &str,
        name: &str,
        uid: &str,
    ) -> Result<bool, AuthnError> {
        let unavailable = |e: ApiError| AuthnError::Unavailable(e.message);
        let kind = registry.row("", plural).map_err(unavailable)?;
        let found = registry.entry(&kind, namespace, name, caravel_store::At::Cached).await.map_err(unavailable)?;
        let Some(entry) = found else { return Ok(false) };
        let bytes = registry.plain(&entry).map_err(unavailable)?;
        let path: [std::borrow::Cow<'_, str>; 2] = ["metadata".into(), "uid".into()];
        let Ok(found) = meta::extract(&bytes, &[&path]) else { return Ok(false) };
        Ok(found.values.first().and_then(Option::as_deref) == Some(uid))
    }

    /// Answers a `TokenRequest` for an account; `request` is the decoded body.
    pub async fn request(
        &self,
        registry: &Registry,
        namespace: &str,
        name: &str,
        mut request: Value,
    ) -> Result<Value, ApiError> {
        let account = registry
            .object("", "serviceaccounts", namespace, name)
            .await?
            .ok_or_else(|| ApiError::not_found("", "serviceaccounts", name))?;
        let spec = request.get("spec").cloned().unwrap_or_default();
        let seconds = spec.get("expirationSeconds").and_then(Value::as_i64).unwrap_or(3600);
        check_seconds(name, seconds)?;
        let mut audiences: Vec<String> = spec
            .get("audiences")
            .and_then(Value::as_array)
            .map(|all| all.iter().filter_map(|a| a.as_str().map(str::to_owned)).collect())
            .unwrap_or_default();
        if audiences.is_empty() {
            audiences.clone_from(&self.audiences);
        }
        let mut bound = json!({
            "namespace": namespace, "serviceaccount": {"name": name, "uid": meta::uid(&account)},
        });
        let to_pod = bind(registry, namespace, name, spec.get("boundObjectRef"), &mut bound).await?;
        let now = registry.clock.now();
        let iat = now.as_second();
        let mut exp = iat + seconds;
        if seconds == ADMISSION_SECONDS && to_pod && audiences == self.audiences {
            bound["warnafter"] = json!(exp);
            exp = iat + EXTENDED_SECONDS;
        }
        let claims = json!({
            "aud": audiences, "exp": exp, "iat": iat, "nbf": iat, "iss": self.issuer,
            "jti": uuid::Uuid::new_v4().to_string(), "kubernetes.io": bound,
            "sub": format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}"),
        });
        let token = self.key.sign(&claims).map_err(ApiError::internal)?;
        let expires = now.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX);
        request["kind"] = json!("TokenRequest");
        request["apiVersion"] = json!("authentication.k8s.io/v1");
        let metadata = meta::metadata_mut(&mut request);
        metadata.insert("name".into(), json!(name));
        metadata.insert("namespace".into(), json!(namespace));
        metadata.insert("creationTimestamp".into(), json!(crate::clock::rfc3339_seconds(now)));
        request["spec"]["audiences"] = json!(audiences);
        request["spec"]["expirationSeconds"] = json!(seconds);
        if request["spec"].get("boundObjectRef").is_none() {
            request["spec"]["boundObjectRef"] = Value::Null;
        }
        request["status"] = json!({"token": token, "expirationTimestamp": crate::clock::rfc3339_seconds(expires)});
        Ok(request)
    }
}

/// The user of a service account.
pub fn account_user(namespace: &str, name: &str, uid: &str) -> UserInfo {
    let mut user = UserInfo {
        name: format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}"),
        uid: uid.to_owned(),
        groups: vec![GROUP_SERVICE_ACCOUNTS.into(), format!("{GROUP_SERVICE_ACCOUNTS}:{namespace}")],
        ..UserInfo::default()
    };
    user.authenticated();
    user
}

fn audiences_of(claims: &Value) -> impl Iterator<Item = &str> {
    let all: Vec<&str> = match claims.get("aud") {
        Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).collect(),
        Some(Value::String(one)) => vec![one.as_str()],
        _ => vec![],
    };
    all.into_iter()
}

fn check_seconds(name: &str, seconds: i64) -> Result<(), ApiError> {
    let root = FieldPath::root("spec");
    let path = root.child("expirationSeconds");
    let why = if seconds < SHORTEST {
        "may not specify a duration less than 10 minutes"
    } else if seconds > LONGEST {
        "may not specify a duration larger than 2^32 seconds"
    } else {
        return Ok(());
    };
    let errors = [FieldError::invalid(&path, seconds, why)];
    Err(ApiError::invalid("authentication.k8s.io", "TokenRequest", name, &errors))
}

/// Checks what the token is to be bound to and writes it into the claims. True for a Pod.
async fn bind(
    registry: &Registry,
    namespace: &str,
    account: &str,
    reference: Option<&Value>,
    bound: &mut Value,
) -> Result<bool, ApiError> {
    let Some(reference) = reference.filter(|r| !r.is_null()) else { return Ok(false) };
    let text = |field: &str| reference.get(field).and_then(Value::as_str).unwrap_or_default();
    let (kind, name, uid) = (text("kind"), text("name"), text("uid"));
    let plural = match (text("apiVersion"), kind) {
        ("v1", "Pod") => "pods",
        ("v1", "Secret") => "secrets",
        ("v1", "Node") => "nodes",
        _ => {
            return Err(ApiError::bad_request(format!(
                "cannot bind token for serviceaccount {account:?} to object {kind:?}: only Pod, Secret and Node of v1 can be bound to"
            )));
        }
    };
    let scope = if plural == "nodes" { "" } else { namespace };
    let object =
        registry.object("", plural, scope, name).await?.ok_or_else(|| ApiError::not_found("", plural, name))?;
    if !uid.is_empty() && uid != meta::uid(&object) {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(ApiError::conflict("", plural, name, why));
    }
    let part = json!({"name": name, "uid": meta::uid(&object)});
    match plural {
        "pods" => {
            let runs_as = object.pointer("/spec/serviceAccountName").and_then(Value::as_str).unwrap_or_default();
            if runs_as != account {
                return Err(ApiError::bad_request(format!(
                    "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
                )));
            }
            bound["pod"] = part;
            let node = object.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default();
            if !node.is_empty() {
                let found = registry.object("", "nodes", "", node).await?;
                let mut node = json!({"name": node});
                if let Some(found) = found {
                    node["uid"] = json!(meta::uid(&found));
                }
                bound["node"] = node;
            }
            Ok(true)
        }
        "nodes" => {
            bound["node"] = part;
            Ok(false)
        }
        _ => {
            bound["secret"] = part;
            Ok(false)
        }
    }
}
