//! Following every resource of the cluster by metadata, and following which resources there are.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::graph::{ResourceId, Uid};
use crate::common::discovery::{Resource, discover};
use crate::common::metadata::{Monitor, Sink};

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
                        let defines =
                            DEFINITIONS.contains(&(resource.api.group.as_str(), resource.api.plural.as_str()));
                        let feed = Feed {
                            shared: shared.clone(),
                            id,
                            definitions: defines.then(|| changed.clone()),
                            first: AtomicBool::new(true),
                        };
                        let monitor = Monitor { client: shared.client.clone(), resource, sink: Arc::new(feed) };
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

/// Whether a resource is followed.
pub fn collectable(r: &Resource) -> bool {
    let is = |l: &[(&str, &str)]| l.contains(&(r.api.group.as_str(), r.api.plural.as_str()));
    r.can("delete") && r.can("list") && r.can("watch") && !is(&IGNORED)
}

/// Feeds the graph from one resource.
struct Feed {
    shared: Arc<Shared>,
    id: ResourceId,
    /// Told when the resource defines others.
    definitions: Option<Arc<Notify>>,
    first: AtomicBool,
}

impl Sink for Feed {
    fn held(&self) -> HashSet<Uid> {
        self.shared.uids_of(self.id)
    }

    fn upsert(&self, meta: &ObjectMeta) {
        self.shared.upsert(self.id, meta);
        self.definitions.iter().for_each(|d| d.notify_one());
    }

    fn remove(&self, uid: Uid) {
        self.shared.remove(uid);
        self.definitions.iter().for_each(|d| d.notify_one());
    }

    fn listed(&self) {
        // A resource that cannot be listed does not hold up the others for ever.
        if self.first.swap(false, Ordering::SeqCst) {
            self.shared.monitors.synced();
        }
    }
}
