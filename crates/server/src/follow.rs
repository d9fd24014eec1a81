//! Following the objects of one kind: read once, then kept current by a watch, and read anew when changes were missed.
//!
//! [`kind`] is the one loop of this sort; what is done with the objects is a [`Follower`]'s. [`objects`] is for kinds of which a
//! cluster has tens, not thousands (webhook configurations, API services): it hands out all of them whenever one changed.

use crate::registry::{Registry, keys, store_error};
use caravel_api::kinds::Kind;
use caravel_api::status::ApiError;
use caravel_store::{At, Entry, Error as StoreError, Event, Revision};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// After this the objects are asked for again when the store did not answer.
const PAUSE: Duration = Duration::from_secs(1);

/// Does something with the objects of one kind. What fails is its own to tell of: it is not asked again until the next change.
pub trait Follower: Send + 'static {
    /// All that is there: at first, and again after changes were missed. What it knows and is not among them is gone.
    fn all(&mut self, entries: &[Arc<Entry>]) -> impl Future<Output = Result<(), ApiError>> + Send;

    /// Changes, in their order.
    fn changed(&mut self, events: &[Arc<Event>]) -> impl Future<Output = ()> + Send;
}

/// Lets `follower` follow a kind: it has seen all that is there before this returns, and sees each change until `stop`.
///
/// # Errors
/// The store did not answer, or the follower cannot begin with what is there.
pub async fn kind<F: Follower>(
    registry: &Arc<Registry>,
    kind: &Kind,
    follower: F,
    stop: &CancellationToken,
) -> Result<(), ApiError> {
    within(registry, kind, "", follower, stop).await
}

/// The same in one namespace.
///
/// # Errors
/// As of [`kind`].
pub async fn within<F: Follower>(
    registry: &Arc<Registry>,
    kind: &Kind,
    namespace: &str,
    mut follower: F,
    stop: &CancellationToken,
) -> Result<(), ApiError> {
    let prefix = keys::prefix(kind, namespace);
    let revision = read(registry, &prefix, &mut follower).await?;
    let (registry, stop) = (registry.clone(), stop.clone());
    tokio::spawn(async move { run(&registry, &prefix, follower, revision, &stop).await });
    Ok(())
}

async fn run<F: Follower>(
    registry: &Registry,
    prefix: &str,
    mut follower: F,
    mut revision: Revision,
    stop: &CancellationToken,
) {
    while let Err(error) = watch(registry, prefix, &mut follower, revision, stop).await {
        tracing::warn!(%error, prefix, "changes were missed, and the objects are read anew");
        revision = loop {
            match read(registry, prefix, &mut follower).await {
                Ok(at) => break at,
                Err(error) => tracing::error!(%error, prefix, "objects that are followed cannot be read"),
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(PAUSE) => {}
            }
        };
    }
}

/// Hands on the changes after `revision` until `stop`.
async fn watch(
    registry: &Registry,
    prefix: &str,
    follower: &mut impl Follower,
    revision: Revision,
    stop: &CancellationToken,
) -> Result<(), StoreError> {
    let mut watch = registry.store.watch(prefix, revision)?;
    loop {
        let batch = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            batch = watch.next() => batch?,
        };
        if !batch.events.is_empty() {
            follower.changed(&batch.events).await;
        }
    }
}

async fn read(registry: &Registry, prefix: &str, follower: &mut impl Follower) -> Result<Revision, ApiError> {
    let page = registry.store.list(prefix, At::Latest, None, 0).await.map_err(store_error)?;
    follower.all(&page.entries).await?;
    Ok(page.revision)
}

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
    let row = registry.row(group, plural)?;
    let follower = All { registry: registry.clone(), kind: row.clone(), take };
    kind(registry, &row, follower, stop).await
}

struct All<T> {
    registry: Arc<Registry>,
    kind: Arc<Kind>,
    take: T,
}

impl<T: Fn(&[Value]) + Send + Sync + 'static> Follower for All<T> {
    async fn all(&mut self, entries: &[Arc<Entry>]) -> Result<(), ApiError> {
        let mut all = Vec::with_capacity(entries.len());
        for entry in entries {
            match self.registry.parse(&self.kind, entry) {
                Ok(object) => all.push(object),
                Err(error) => tracing::error!(key = %entry.key, %error, "a stored object cannot be read"),
            }
        }
        (self.take)(&all);
        Ok(())
    }

    async fn changed(&mut self, _: &[Arc<Event>]) {
        let (registry, prefix) = (self.registry.clone(), keys::prefix(&self.kind, ""));
        while let Err(error) = read(&registry, &prefix, self).await {
            tracing::error!(%error, prefix, "objects that are followed cannot be read");
            tokio::time::sleep(PAUSE).await;
        }
    }
}
