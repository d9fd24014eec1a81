//! Following every resource of the cluster by metadata, and following which resources there are.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use kube::Api;
use kube::api::{DynamicObject, ListParams, WatchEvent, WatchParams};
use kube::core::PartialObjectMeta;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::graph::{ResourceId, Uid};
use crate::common::discovery::{Resource, discover};

/// Resources without owners or dependents that change all the time, or that are a second door to the first ones.
const IGNORED: [(&str, &str); 2] = [("", "events"), ("events.k8s.io", "events")];
/// Kinds whose changes mean that there may be other resources than before.
const DEFINITIONS: [(&str, &str); 2] =
    [("apiextensions.k8s.io", "customresourcedefinitions"), ("apiregistration.k8s.io", "apiservices")];
/// After a definition changed discovery may take this long to show it; it is asked at each.
const SETTLING: [Duration; 3] = [Duration::from_millis(200), Duration::from_secs(2), Duration::from_secs(10)];

/// Starts and ends monitors as resources come and go, until `stop`.
pub async fn follow(shared: Arc<Shared>, stop: CancellationToken) {
    let mut running: HashMap<String, CancellationToken> = HashMap::new();
    let changed = Arc::new(Notify::new());
    loop {
        let mut again = vec![];
        match discover(&shared.client).await {
            Ok(found) => {
                // A group that did not answer keeps its monitors.
                let complete = found.failed.is_empty();
                let wanted: Vec<Resource> = found.resources.into_iter().filter(collectable).collect();
                let ids = shared.set_resources(&wanted, complete);
                if complete {
                    running.retain(|key, token| {
                        let keep = wanted.iter().any(|r| r.display() == *key);
                        if !keep {
                            token.cancel();
                        }
                        keep
                    });
                } else {
                    again.push(Duration::from_secs(30));
                }
                for (resource, id) in ids {
                    running.entry(resource.display()).or_insert_with(|| {
                        let token = stop.child_token();
                        shared.monitors.begin();
                        let monitor = Monitor { shared: shared.clone(), resource, id, changed: changed.clone() };
                        let until = token.clone();
                        tokio::spawn(async move {
                            tokio::select! { () = until.cancelled() => {}, () = monitor.run() => {} }
                        });
                        token
                    });
                }
                shared.monitors.discovered();
            }
            Err(error) => {
                tracing::debug!(%error, "discovery failed; trying again");
                again.push(Duration::from_secs(1));
            }
        }
        if again.is_empty() {
            tokio::select! { () = stop.cancelled() => return, () = changed.notified() => again.extend(SETTLING) }
        }
        for wait in again {
            tokio::select! { () = stop.cancelled() => return, () = tokio::time::sleep(wait) => {} }
            if let Ok(found) = discover(&shared.client).await {
                let known = |r: &Resource| running.contains_key(&r.display());
                if found.resources.iter().filter(|r| collectable(r)).any(|r| !known(r)) {
                    break;
                }
            }
        }
    }
}

fn collectable(r: &Resource) -> bool {
    let is = |l: &[(&str, &str)]| l.contains(&(r.api.group.as_str(), r.api.plural.as_str()));
    r.can("delete") && r.can("list") && r.can("watch") && !is(&IGNORED)
}

struct Monitor {
    shared: Arc<Shared>,
    resource: Resource,
    id: ResourceId,
    changed: Arc<Notify>,
}

impl Monitor {
    async fn run(self) {
        let api = self.resource.objects(&self.shared.client, "");
        let mut first = true;
        let mut wait = Duration::from_millis(50);
        loop {
            let listed = self.list(&api).await;
            if std::mem::take(&mut first) {
                // A resource that cannot be listed does not hold up the others for ever.
                self.shared.monitors.synced();
            }
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

    /// Brings the graph to what a list says, page by page.
    async fn list(&self, api: &Api<DynamicObject>) -> Result<String, kube::Error> {
        let mut missing = self.shared.uids_of(self.id);
        let mut params = ListParams::default().limit(500);
        loop {
            let page = api.list_metadata(&params).await?;
            for item in &page.items {
                missing.remove(&uid_of(item));
                self.shared.upsert(self.id, &item.metadata);
            }
            match page.metadata.continue_.filter(|c| !c.is_empty()) {
                Some(next) => params = params.continue_token(&next),
                None => {
                    missing.into_iter().for_each(|uid| self.shared.remove(uid));
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
                Err(e) if caravel_client::status_code(&e).is_some() => return,
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
                        self.seen(&mut revision, &o);
                        self.shared.upsert(self.id, &o.metadata);
                    }
                    Ok(Some(WatchEvent::Deleted(o))) => {
                        self.seen(&mut revision, &o);
                        self.shared.remove(uid_of(&o));
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

    fn seen(&self, revision: &mut String, o: &PartialObjectMeta<DynamicObject>) {
        if let Some(r) = &o.metadata.resource_version {
            revision.clone_from(r);
        }
        if DEFINITIONS.contains(&(self.resource.api.group.as_str(), self.resource.api.plural.as_str())) {
            self.changed.notify_one();
        }
    }
}

fn uid_of(o: &PartialObjectMeta<DynamicObject>) -> Uid {
    Uid::of(o.metadata.uid.as_deref().unwrap_or_default())
}
