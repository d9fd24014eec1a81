//! Files that the server follows while it runs: further token issuers, who decides what may be done, and the keys that seal
//! Secrets.

use super::tasks;
use crate::authn::oidc::{Configuration, Issuers};
use crate::authz::{Authorizer, config};
use crate::registry::{keys, seal, store_error};
use crate::reload::{self, Take, Taken, Watch};
use crate::server::Server;
use caravel_store::At;
use std::path::Path;
use std::sync::Arc;

/// The file of `--authentication-config` as it was read first, and the watch that was there before.
pub struct Authentication {
    watch: Watch,
    text: String,
}

impl Authentication {
    /// Reads the file; `own` is the issuer of service-account tokens.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn open(path: &Path, own: &str) -> Result<(Issuers, Self), String> {
        let failed = |why: String| format!("the authentication configuration {}: {why}", path.display());
        let watch = Watch::new(path).map_err(|e| failed(e.to_string()))?;
        let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
        let issuers = Issuers::new(Configuration::parse(&text, own).map_err(failed)?);
        Ok((issuers, Self { watch, text }))
    }

    /// Follows it as long as the server runs.
    pub fn follow(self, server: &Arc<Server>) {
        let weak = Arc::downgrade(server);
        let take: Take = Box::new(move |text| {
            let server = weak.upgrade();
            Box::pin(async move {
                let Some(server) = server else { return Ok(Taken::Same) };
                let read = Configuration::parse(&text, &server.config.issuer())?;
                let mut issuers = server.issuers.write();
                *issuers = Arc::new(issuers.next(read));
                Ok(Taken::Over)
            })
        });
        let reloads = server.metrics.authentication_reloads.clone();
        reload::follow(self.watch, self.text, reloads, server.stop.clone(), take);
    }
}

/// The file of `--authorization-config` as it was read first, and the watch that was there before.
pub struct Authorization {
    watch: Watch,
    text: String,
    first: Vec<config::Entry>,
}

impl Authorization {
    /// Reads the file, and has those decide whom it names.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn open(path: &Path, authorizer: &Authorizer) -> Result<Self, String> {
        let failed = |why: String| format!("the authorization configuration {}: {why}", path.display());
        let watch = Watch::new(path).map_err(|e| failed(e.to_string()))?;
        let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
        let first = config::parse(&text, path).map_err(failed)?;
        authorizer.configure(first.clone()).map_err(failed)?;
        Ok(Self { watch, text, first })
    }

    /// Follows it as long as the server runs. Webhooks may come and go; the other authorizers are those of the start.
    pub fn follow(self, server: &Arc<Server>) {
        let Self { watch, text, first } = self;
        let (authorizer, path) = (server.authorizer.clone(), watch.path().to_path_buf());
        let mut last = first.clone();
        let take: Take = Box::new(move |text| {
            let mut replace = || {
                let next = config::parse(&text, &path)?;
                config::same_kinds(&first, &next)?;
                if next == last {
                    return Ok(Taken::Same);
                }
                authorizer.configure(next.clone())?;
                last = next;
                Ok(Taken::Over)
            };
            Box::pin(std::future::ready(replace()))
        });
        reload::follow(watch, text, server.metrics.authorization_reloads.clone(), server.stop.clone(), take);
    }
}

/// Follows the file of encryption keys: a new key in front seals from then on, and what older keys sealed is written again.
/// Keys that stored Secrets still need cannot be taken away.
///
/// # Errors
/// The file cannot be watched.
pub fn follow_keys(server: &Arc<Server>) -> Result<(), String> {
    let Some(seal) = server.registry.seal() else { return Ok(()) };
    let path = server.config.data_dir.join("pki").join(seal::FILE);
    let failed = |e: std::io::Error| format!("the encryption keys {}: {e}", path.display());
    let watch = Watch::new(&path).map_err(failed)?;
    // The keys were read before the watch was there: others since then are a change, too.
    let text = std::fs::read_to_string(&path).map_err(failed)?;
    let text = if seal.is_of(&text) { text } else { String::new() };
    let weak = Arc::downgrade(server);
    let take: Take = Box::new(move |text| {
        let server = weak.upgrade();
        Box::pin(async move {
            let Some(server) = server else { return Ok(Taken::Same) };
            replace(&server, &text).await.map(|()| Taken::Over)
        })
    });
    reload::follow(watch, text, server.metrics.encryption_reloads.clone(), server.stop.clone(), take);
    Ok(())
}

async fn replace(server: &Server, text: &str) -> Result<(), String> {
    let Some(seal) = server.registry.seal() else { return Ok(()) };
    let old = seal.keys();
    let stored = secrets(server).await?;
    seal.replace(text, stored.iter().map(|bytes| &bytes[..]))?;
    // One may have been sealed with an old key meanwhile.
    let stored = secrets(server).await?;
    if let Err(error) = seal.replace(text, stored.iter().map(|bytes| &bytes[..])) {
        seal.restore(old);
        return Err(error);
    }
    tasks::reseal(server).await.map_err(|e| e.message)
}

async fn secrets(server: &Server) -> Result<Vec<bytes::Bytes>, String> {
    let kind = server.registry.row("", "secrets").map_err(|e| e.message)?;
    let page = server.registry.store.list(&keys::prefix(&kind, ""), At::Latest, None, 0).await;
    let page = page.map_err(|e| store_error(e).message)?;
    Ok(page.entries.iter().map(|entry| entry.value.clone()).collect())
}
