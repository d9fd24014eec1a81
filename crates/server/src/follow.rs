//! Following a few objects of one kind: whoever needs all of them, ready at hand, is given all of them whenever one changed.
//! For kinds of which a cluster has tens, not thousands (webhook configurations, API services).

use crate::registry::{Registry, keys, store_error};
use caravel_api::kinds::Kind;
use caravel_api::status::ApiError;
use caravel_store::{At, Revision};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Gives `take` all objects of a built-in kind, in the order of their names: before this returns, and after each change
/// until `stop`.
///
/// # Errors
/// The store did not answer.
pub async fn objects(
    registry: &Arc<Registry>,
    group: &str,
    plural: &str,
    stop: &CancellationToken,
    take: impl Fn(&[Value]) + Send + Sync + 'static,
) -> Result<(), ApiError> {
    let kind = registry.row(group, plural)?;
    let mut revision = read(registry, &kind, &take).await?;
    let (registry, stop) = (registry.clone(), stop.clone());
    tokio::spawn(async move {
        let prefix = keys::prefix(&kind, "");
        while !stop.is_cancelled() {
            if let Ok(mut watch) = registry.store.watch(&prefix, revision) {
                loop {
                    let batch = tokio::select! {
                        () = stop.cancelled() => return,
                        batch = watch.next() => batch,
                    };
                    let Ok(batch) = batch else { break };
                    revision = batch.revision;
                    if batch.events.is_empty() {
                        continue;
                    }
                    if let Err(error) = read(&registry, &kind, &take).await {
                        tracing::error!(%error, resource = %kind.plural, "objects that are followed cannot be read");
                        break;
                    }
                }
            }
            // Events were missed, or the store did not answer.
            match read(&registry, &kind, &take).await {
                Ok(at) => revision = at,
                Err(error) => {
                    tracing::error!(%error, resource = %kind.plural, "objects that are followed cannot be read");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    });
    Ok(())
}

async fn read(registry: &Registry, kind: &Kind, take: &impl Fn(&[Value])) -> Result<Revision, ApiError> {
    let page = registry.store.list(&keys::prefix(kind, ""), At::Latest, None, 0).await.map_err(store_error)?;
    let mut all = Vec::with_capacity(page.entries.len());
    for entry in &page.entries {
        match registry.parse(kind, entry) {
            Ok(object) => all.push(object),
            Err(error) => tracing::error!(key = %entry.key, %error, "a stored object cannot be read"),
        }
    }
    take(&all);
    Ok(page.revision)
}
