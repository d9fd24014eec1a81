//! Fills Secrets of type `kubernetes.io/service-account-token` with a token of their account, and removes them when the
//! account is not (or no longer) there. The server does it because it alone has the signing key.

use crate::authn::UserInfo;
use crate::authn::legacy::{self, ACCOUNT_NAME, ACCOUNT_UID, SECRET_TYPE};
use crate::registry::options::{DeleteOptions, WriteOptions};
use crate::registry::update::{Change, Update};
use crate::registry::{Call, keys, store_error};
use crate::server::Server;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use caravel_api::kinds::Kind;
use caravel_api::meta;
use caravel_api::status::ApiError;
use caravel_store::{At, Entry, EventKind, Revision};
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
pub fn start(server: &Arc<Server>) -> Result<(), ApiError> {
    let keeper = Arc::new(Keeper {
        secrets: server.registry.row("", "secrets")?,
        accounts: server.registry.row("", "serviceaccounts")?,
        call: Call::new(Arc::new(UserInfo::system_masters("system:apiserver")), "kube-apiserver"),
        server: server.clone(),
    });
    let stop = server.stop.clone();
    tokio::spawn(async move {
        tokio::select! { () = stop.cancelled() => {}, () = keeper.run() => {} }
    });
    Ok(())
}

impl Keeper {
    async fn run(self: Arc<Self>) {
        loop {
            if let Err(error) = self.follow().await {
                tracing::warn!(%error, "token Secrets are read anew");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }

    async fn follow(self: &Arc<Self>) -> Result<(), ApiError> {
        let store = &self.server.registry.store;
        let (secrets, accounts) = (keys::prefix(&self.secrets, ""), keys::prefix(&self.accounts, ""));
        let page = store.list(&secrets, At::Latest, None, 0).await.map_err(store_error)?;
        for entry in &page.entries {
            self.take(entry);
        }
        let from: Revision = page.revision;
        let mut changed = store.watch(&secrets, from).map_err(store_error)?;
        let mut gone = store.watch(&accounts, from).map_err(store_error)?;
        loop {
            tokio::select! {
                batch = changed.next() => {
                    for event in batch.map_err(store_error)?.events.iter().filter(|e| e.kind != EventKind::Deleted) {
                        self.take(&event.entry);
                    }
                }
                batch = gone.next() => {
                    for event in batch.map_err(store_error)?.events.iter().filter(|e| e.kind == EventKind::Deleted) {
                        let (namespace, _) = keys::split(&event.entry.key);
                        let prefix = keys::prefix(&self.secrets, namespace);
                        for entry in store.list(&prefix, At::Cached, None, 0).await.map_err(store_error)?.entries {
                            self.take(&entry);
                        }
                    }
                }
            }
        }
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
