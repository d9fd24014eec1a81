//! Housekeeping that runs as long as the server: certificates are renewed, and Secrets are written again under a new
//! encryption key.

use crate::authn::UserInfo;
use crate::registry::options::WriteOptions;
use crate::registry::update::{Change, Update};
use crate::registry::{Call, keys};
use crate::server::Server;
use caravel_api::status::ApiError;
use caravel_store::At;
use std::sync::{Arc, Weak};

/// Starts the tasks. They hold the server only while they work, and end with it.
pub fn start(server: &Arc<Server>) {
    let stop = server.stop.clone();
    let weak = Arc::downgrade(server);
    tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = renew(weak) => {}
        }
    });
    let server = server.clone();
    tokio::spawn(async move {
        if let Err(error) = reseal(&server).await {
            tracing::warn!(%error, "not all Secrets could be written under the newest encryption key; they are tried again at the next start");
        }
    });
}

async fn renew(server: Weak<Server>) {
    loop {
        let wait = {
            let Some(server) = server.upgrade() else { return };
            match server.pki.renew() {
                Ok(true) => tracing::info!("certificates were renewed"),
                Ok(false) => {}
                Err(error) => tracing::error!(%error, "certificates could not be renewed; it is tried again"),
            }
            server.pki.next_check().max(std::time::Duration::from_secs(30))
        };
        tokio::time::sleep(wait).await;
    }
}

/// Writes again what was not sealed with the newest key.
pub(super) async fn reseal(server: &Server) -> Result<(), ApiError> {
    let kind = server.registry.row("", "secrets")?;
    let page = server
        .registry
        .store
        .list(&keys::prefix(&kind, ""), At::Cached, None, 0)
        .await
        .map_err(crate::registry::store_error)?;
    let stale: Vec<_> = page.entries.iter().filter(|e| !server.registry.is_sealed_newly(&e.value)).collect();
    if stale.is_empty() {
        return Ok(());
    }
    tracing::info!(count = stale.len(), "Secrets are written under the newest encryption key");
    let call = Call::new(Arc::new(UserInfo::system_masters("system:apiserver")), "kube-apiserver");
    let options = WriteOptions::default();
    for entry in stale {
        let (namespace, name) = keys::split(&entry.key);
        let change = Change::Rewrite;
        let update = Update { kind: &kind, namespace, name, subresource: "", change, options: &options };
        match server.registry.update(&call, update).await {
            Err(error) if error.code != 404 => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
