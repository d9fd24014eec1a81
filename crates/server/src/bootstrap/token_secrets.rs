//! Fills Secrets of type `kubernetes.io/service-account-token` with a token of their account, and removes them when the
//! account is not (or no longer) there. The server does it because it alone has the signing key.

use crate::authn::UserInfo;
use crate::authn::legacy::{self, ACCOUNT_NAME, ACCOUNT_UID, SECRET_TYPE};
use crate::follow::{self, Follower};
use crate::registry::options::{DeleteOptions, WriteOptions};
use crate::registry::update::{Change, Update};
use crate::registry::{Call, keys, store_error};
use crate::server::Server;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use caravel_api::kinds::Kind;
use caravel_api::meta;
use caravel_api::status::ApiError;
use caravel_store::{At, Entry, Event, EventKind};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// How long an account may be missing before its token Secrets are removed: clients create both at once, in any order.
const PATIENCE: Duration = Duration::from_secs(2);

struct Keeper {
    server: Arc<Server>,
    secrets: Arc<Kind>,
    accounts: Arc<Kind>,
    call: Call,
}

/// Starts to keep the Secrets.
pub async fn start(server: &Arc<Server>) -> Result<(), ApiError> {
    let keeper = Arc::new(Keeper {
        secrets: server.registry.row("", "secrets")?,
        accounts: server.registry.row("", "serviceaccounts")?,
        call: Call::new(Arc::new(UserInfo::system_masters("system:apiserver")), "kube-apiserver"),
        server: server.clone(),
    });
    let (secrets, accounts) = (keeper.secrets.clone(), keeper.accounts.clone());
    follow::kind(&server.registry, &secrets, Secrets(keeper.clone()), &server.stop).await?;
    follow::kind(&server.registry, &accounts, Accounts { keeper, read: false }, &server.stop).await
}

/// What becomes of Secrets.
struct Secrets(Arc<Keeper>);

impl Follower for Secrets {
    async fn all(&mut self, entries: &[Arc<Entry>]) -> Result<(), ApiError> {
        entries.iter().for_each(|entry| self.0.take(entry));
        Ok(())
    }

    async fn changed(&mut self, events: &[Arc<Event>]) {
        events.iter().filter(|e| e.kind != EventKind::Deleted).for_each(|event| self.0.take(&event.entry));
    }
}

/// Which accounts go, and their Secrets with them.
struct Accounts {
    keeper: Arc<Keeper>,
    /// At first all Secrets were looked at anyway.
    read: bool,
}

impl Follower for Accounts {
    async fn all(&mut self, _: &[Arc<Entry>]) -> Result<(), ApiError> {
        if std::mem::replace(&mut self.read, true) { self.keeper.take_all("").await } else { Ok(()) }
    }

    async fn changed(&mut self, events: &[Arc<Event>]) {
        for event in events.iter().filter(|e| e.kind == EventKind::Deleted) {
            let (namespace, name) = keys::split(&event.entry.key);
            if let Err(error) = self.keeper.take_all(namespace).await {
                tracing::warn!(namespace, account = name, %error, "the token Secrets of an account that is gone cannot be read");
            }
        }
    }
}

impl Keeper {
    /// Looks at the Secrets of a namespace, or of all.
    async fn take_all(self: &Arc<Self>, namespace: &str) -> Result<(), ApiError> {
        let prefix = keys::prefix(&self.secrets, namespace);
        let page = self.server.registry.store.list(&prefix, At::Latest, None, 0).await.map_err(store_error)?;
        page.entries.iter().for_each(|entry| self.take(entry));
        Ok(())
    }

    /// Brings one Secret to where it should be. A failure is logged; the next change of it tries again.
    fn take(self: &Arc<Self>, entry: &Entry) {
        let secret = match self.server.registry.parse(&self.secrets, entry) {
            Ok(secret) => secret,
            Err(error) => return tracing::error!(key = %entry.key, %error, "a stored Secret cannot be read"),
        };
        if secret.get("type").and_then(Value::as_str) != Some(SECRET_TYPE) || meta::is_deleting(&secret) {
            return;
        }
        let (keeper, key) = (self.clone(), entry.key.clone());
        // On its own, since an account is waited for; such Secrets are few.
        tokio::spawn(async move {
            if let Err(error) = keeper.keep(&secret).await
                && error.code != 404
            {
                tracing::warn!(%key, %error, "a token Secret could not be filled");
            }
        });
    }

    async fn keep(&self, secret: &Value) -> Result<(), ApiError> {
        let registry = &self.server.registry;
        let (namespace, name) = (meta::namespace(secret), meta::name(secret));
        let account = meta::annotation(secret, ACCOUNT_NAME).unwrap_or_default();
        let said = meta::annotation(secret, ACCOUNT_UID).unwrap_or_default();
        let mut found = registry.object("", "serviceaccounts", namespace, account).await?;
        if found.is_none() {
            tokio::time::sleep(PATIENCE).await;
            found = registry.object("", "serviceaccounts", namespace, account).await?;
        }
        let Some(uid) = found.map(|a| meta::uid(&a).to_owned()).filter(|uid| said.is_empty() || said == uid) else {
            let options = DeleteOptions { uid: Some(meta::uid(secret).to_owned()), ..DeleteOptions::default() };
            registry.delete(&self.call, &self.secrets, namespace, name, &options).await?;
            return Ok(());
        };
        let ca = STANDARD.encode(self.server.pki.ca.cert_pem());
        let has =
            |key: &str| secret.pointer(&format!("/data/{key}")).and_then(Value::as_str).is_some_and(|v| !v.is_empty());
        if said == uid && has("token") && has("namespace") && secret["data"]["ca.crt"] == json!(ca) {
            return Ok(());
        }
        let token = self.server.service_accounts.sign(&legacy::claims(namespace, name, account, &uid))?;
        let (token, in_namespace) = (STANDARD.encode(token), STANDARD.encode(namespace));
        let change = Change::With(Box::new(move |secret: &mut Value| {
            meta::map_mut(meta::metadata_mut(secret), "annotations").insert(ACCOUNT_UID.into(), json!(uid));
            if !secret["data"].is_object() {
                secret["data"] = json!({});
            }
            secret["data"]["ca.crt"] = json!(ca);
            for (key, value) in [("token", &token), ("namespace", &in_namespace)] {
                if secret["data"].get(key).and_then(Value::as_str).is_none_or(str::is_empty) {
                    secret["data"][key] = json!(value);
                }
            }
            Ok(())
        }));
        let options = WriteOptions::default();
        let update = Update { kind: &self.secrets, namespace, name, subresource: "", change, options: &options };
        registry.update(&self.call, update).await.map(drop)
    }
}
