//! Following the metadata of all objects of a resource, whatever its kind.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::Client;
use kube::api::{DynamicObject, ListParams, WatchEvent, WatchParams};
use kube::core::PartialObjectMeta;
use sha2::{Digest, Sha256};

use super::discovery::Resource;

/// A uid in 16 bytes: the UUID itself, or the beginning of the digest of one that is none (owner references hold any text).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uid(u128);

impl Uid {
    /// From its text.
    pub fn of(text: &str) -> Self {
        let hex: String = text.chars().filter(|c| *c != '-').collect();
        if text.len() == 36
            && let Ok(n) = u128::from_str_radix(&hex, 16)
        {
            return Self(n);
        }
        let digest = Sha256::digest(text.as_bytes());
        Self(digest.iter().take(16).fold(0, |n, b| n << 8 | u128::from(*b)))
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Who is told what exists.
pub trait Sink: Send + Sync + 'static {
    /// The uids that are held: what a new list lacks of them is gone.
    fn held(&self) -> HashSet<Uid>;
    /// An object exists in this state.
    fn upsert(&self, meta: &ObjectMeta);
    /// An object is gone.
    fn remove(&self, uid: Uid);
    /// A list ended, well or not.
    fn listed(&self);
}

/// Lists and watches one resource, for ever.
pub struct Monitor<S> {
    /// Access.
    pub client: Client,
    /// What is followed.
    pub resource: Resource,
    /// Who is told.
    pub sink: Arc<S>,
}

impl<S: Sink> Monitor<S> {
    /// Runs until it is dropped.
    pub async fn run(self) {
        let api = self.resource.objects(&self.client, "");
        let mut wait = Duration::from_millis(50);
        loop {
            let listed = self.list(&api).await;
            self.sink.listed();
            match listed {
                Ok(revision) => {
                    wait = Duration::from_millis(50);
                    self.watch(&api, revision).await;
                }
                Err(error) => {
                    tracing::debug!(resource = %self.resource.display(), %error, "list failed; trying again");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(Duration::from_secs(30));
                }
            }
        }
    }

    /// Tells what a list says, page by page.
    async fn list(&self, api: &Api<DynamicObject>) -> Result<String, kube::Error> {
        let mut missing = self.sink.held();
        let mut params = ListParams::default().limit(500);
        loop {
            let page = api.list_metadata(&params).await?;
            for item in &page.items {
                missing.remove(&uid_of(item));
                self.sink.upsert(&item.metadata);
            }
            match page.metadata.continue_.filter(|c| !c.is_empty()) {
                Some(next) => params = params.continue_token(&next),
                None => {
                    missing.into_iter().for_each(|uid| self.sink.remove(uid));
                    return Ok(page.metadata.resource_version.unwrap_or_default());
                }
            }
        }
    }

    /// Follows changes until the revision is not served any more.
    async fn watch(&self, api: &Api<DynamicObject>, mut revision: String) {
        let mut wait = Duration::from_millis(50);
        loop {
            let params =
                WatchParams { timeout: Some(rand::random_range(240..290)), bookmarks: true, ..Default::default() };
            let stream = match api.watch_metadata(&params, &revision).await {
                Ok(s) => s,
                Err(e) if caravel_client::status_code(&e).is_some() => {
                    // Expired, or the resource is gone: the list tells; not at once, in case it says the same.
                    tokio::time::sleep(wait).await;
                    return;
                }
                Err(_) => {
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(Duration::from_secs(15));
                    continue;
                }
            };
            let mut stream = stream.boxed();
            loop {
                match stream.try_next().await {
                    Ok(Some(WatchEvent::Added(o) | WatchEvent::Modified(o))) => {
                        keep(&mut revision, &o);
                        self.sink.upsert(&o.metadata);
                    }
                    Ok(Some(WatchEvent::Deleted(o))) => {
                        keep(&mut revision, &o);
                        self.sink.remove(uid_of(&o));
                    }
                    Ok(Some(WatchEvent::Bookmark(b))) => revision = b.metadata.resource_version,
                    Ok(Some(WatchEvent::Error(_))) => return,
                    Ok(None) => break,
                    Err(_) => {
                        tokio::time::sleep(wait).await;
                        break;
                    }
                }
                wait = Duration::from_millis(50);
            }
        }
    }
}

fn keep(revision: &mut String, o: &PartialObjectMeta<DynamicObject>) {
    if let Some(r) = &o.metadata.resource_version {
        revision.clone_from(r);
    }
}

fn uid_of(o: &PartialObjectMeta<DynamicObject>) -> Uid {
    Uid::of(o.metadata.uid.as_deref().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids() {
        assert_eq!(Uid::of("00000000-0000-0000-0000-00000000000a"), Uid(10));
        assert_ne!(Uid::of("x"), Uid::of("y"));
    }
}
