//! The resource quota controller: counts what a namespace uses. The server charges what is written in the commit that stores it
//! (`status.used` grows with it); this corrects what writes cannot tell: deletions, ended pods, changed quotas.
//!
//! It counts on the server, after reading the quota, and writes only if the quota is still the one that was read. A charge that
//! falls between is a new version of the quota, so the count is exact, whatever the caches show.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use caravel_api::quota::{self, Usage};
use caravel_client::{Change, Informer, Key, WorkQueue};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, Service};
use k8s_openapi::api::resource::v1::ResourceClaim;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::common::discovery::{Resource, discover};
use crate::common::metadata::{Monitor, Sink, Uid};
use crate::common::*;
use crate::context::Context;

const WORKERS: usize = 2;
/// A burst of changes is counted once.
const BURST: Duration = Duration::from_millis(100);
/// A resource that a quota names and the server does not know may come with a CustomResourceDefinition.
const UNKNOWN: SignedDuration = SignedDuration::from_secs(60);
/// Kinds whose objects weigh differently; all others are counted by number.
const WEIGHED: [(&str, &str, &str); 4] = [
    ("", "/api/v1", "pods"),
    ("", "/api/v1", "services"),
    ("", "/api/v1", "persistentvolumeclaims"),
    ("resource.k8s.io", "/apis/resource.k8s.io/v1", "resourceclaims"),
];

/// Wakes the quotas of a namespace when objects of one resource come and go.
struct Waker {
    queue: WorkQueue<Key>,
    quotas: Informer<ResourceQuota>,
    /// Where each object lives.
    objects: Mutex<HashMap<Uid, Arc<str>>>,
}

impl Sink for Waker {
    fn held(&self) -> HashSet<Uid> {
        self.objects.lock().keys().copied().collect()
    }

    fn upsert(&self, meta: &ObjectMeta) {
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let uid = Uid::of(meta.uid.as_deref().unwrap_or_default());
        if self.objects.lock().insert(uid, namespace.into()).is_none() {
            wake(&self.quotas, &self.queue, namespace);
        }
    }

    fn remove(&self, uid: Uid) {
        if let Some(namespace) = self.objects.lock().remove(&uid) {
            wake(&self.quotas, &self.queue, &namespace);
        }
    }

    fn listed(&self) {}
}

fn wake(quotas: &Informer<ResourceQuota>, queue: &WorkQueue<Key>, namespace: &str) {
    for q in quotas.list_in(namespace) {
        queue.add_after(Key::of(&*q), BURST);
    }
}

/// Resources that some quota counts by number, and the tasks that follow them.
type Followed = (BTreeMap<String, Resource>, JoinSet<()>);

struct Controller {
    context: Context,
    quotas: Informer<ResourceQuota>,
    queue: WorkQueue<Key>,
    followed: tokio::sync::Mutex<Followed>,
}

/// Runs the controller.
///
/// # Errors
/// Never by itself.
pub async fn run(context: Context) -> anyhow::Result<()> {
    let (pods, services, claims) = (context.pods(), context.cluster.informer(), context.cluster.informer());
    let devices = context.owned();
    let c = Controller {
        quotas: context.cluster.informer(),
        queue: WorkQueue::new(),
        followed: tokio::sync::Mutex::default(),
        context,
    };
    let wake_quota = c.queue.clone();
    c.quotas.on_change(move |change| match change {
        // The server's own charges are no reason to count.
        Change::Updated { old, new } if old.spec == new.spec && shows_its_limits(new) => {}
        _ => wake_quota.add(Key::of(&**change.object())),
    });
    c.wake_on(&pods, |old: &Pod, new: &Pod| {
        pod::finished(old) != pod::finished(new) || deleting(old) != deleting(new) || weight(old) != weight(new)
    });
    c.wake_on(&services, |old: &Service, new: &Service| old.spec != new.spec);
    c.wake_on(&claims, |old: &PersistentVolumeClaim, new: &PersistentVolumeClaim| {
        old.spec != new.spec || old.status != new.status
    });
    // What they ask for never changes.
    c.wake_on(&devices, |_: &ResourceClaim, _: &ResourceClaim| false);
    c.quotas.synced().await;
    c.context.work(c.queue.clone(), WORKERS, |key| c.reconcile(key)).await;
    Ok(())
}

/// Whether the status has the limits of the spec. Anybody who may write the status may write others there; upstream's
/// controller corrects that at its next full count, within five minutes.
fn shows_its_limits(quota: &ResourceQuota) -> bool {
    let wanted = quota.spec.as_ref().and_then(|s| s.hard.clone()).unwrap_or_default();
    quota.status.as_ref().and_then(|s| s.hard.as_ref()) == Some(&wanted)
}

/// What of a Pod's spec may change its weight: a resize.
fn weight(p: &Pod) -> Vec<Option<&k8s_openapi::api::core::v1::ResourceRequirements>> {
    p.spec.iter().flat_map(|s| s.containers.iter().map(|c| c.resources.as_ref())).collect()
}

/// The status that a quota ought to show: for each of its hard limits what is used of it. `None` when it shows that.
fn plan(quota: &Value, used: &Usage) -> Option<Value> {
    let hard = quota.pointer("/spec/hard").cloned().unwrap_or_else(|| json!({}));
    let zero = quota::pieces(0);
    let used: Usage =
        quota::amounts(Some(&hard)).into_keys().map(|name| (name.clone(), *used.get(&name).unwrap_or(&zero))).collect();
    let shown = quota::amounts(quota.pointer("/status/used"));
    let same = quota.pointer("/status/hard") == Some(&hard) && quota.pointer("/status/used").is_some() && shown == used;
    (!same).then(|| json!({"hard": hard, "used": quota::to_value(&used)}))
}

/// When a Pod that is being deleted stops to be charged although its node says nothing.
fn grace_ends(pod: &Value) -> Option<Timestamp> {
    let at: Timestamp = pod.pointer("/metadata/deletionTimestamp")?.as_str()?.parse().ok()?;
    let grace = pod.pointer("/metadata/deletionGracePeriodSeconds")?.as_i64()?;
    at.checked_add(SignedDuration::from_secs(grace + 1)).ok()
}

impl Controller {
    fn wake_on<K: caravel_client::Object>(
        &self,
        informer: &Informer<K>,
        relevant: impl Fn(&K, &K) -> bool + Send + Sync + 'static,
    ) {
        let (quotas, queue) = (self.quotas.clone(), self.queue.clone());
        informer.on_change(move |change| {
            let relevant = match change {
                Change::Updated { old, new } => relevant(old, new),
                // What comes is charged as it comes; the count only agrees.
                Change::Added(_) | Change::Deleted(_) => true,
            };
            if relevant {
                wake(&quotas, &queue, namespace(&**change.object()));
            }
        });
    }

    async fn reconcile(&self, key: Key) -> Outcome {
        if self.quotas.get(&key).is_none() {
            return Ok(None);
        }
        let path = format!("/api/v1/namespaces/{}/resourcequotas/{}", key.namespace, key.name);
        let mut quota = match self.read(&path).await {
            Ok(quota) => quota,
            Err(e) if is_not_found(&e) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let now = self.context.now();
        let (mut used, mut next) = (Usage::new(), None);
        let hard = quota::amounts(quota.pointer("/spec/hard"));
        for (group, root, plural) in WEIGHED {
            if !hard.keys().any(|name| quota::is_about(group, plural, name)) {
                continue;
            }
            let list = self.read(&format!("{root}/namespaces/{}/{plural}", key.namespace)).await?;
            for object in list.get("items").and_then(Value::as_array).into_iter().flatten() {
                if quota::in_scope(&quota, group, plural, object) {
                    quota::add(&mut used, &quota::usage(group, plural, object, now));
                    next = next.into_iter().chain(grace_ends(object).filter(|end| *end > now)).min();
                }
            }
        }
        let scoped = quota.pointer("/spec/scopes").is_some() || quota.pointer("/spec/scopeSelector").is_some();
        for name in hard.keys().filter(|_| !scoped) {
            if let Some((group, plural)) = quota::counted(name) {
                match self.count(group, plural, &key.namespace).await? {
                    Some(count) => drop(used.insert(name.clone(), quota::pieces(count))),
                    None => next = next.or_else(|| now.checked_add(UNKNOWN).ok()),
                }
            }
        }
        if let Some(status) = plan(&quota, &used) {
            quota["status"] = status;
            let request = http::Request::put(format!("{path}/status")).header("content-type", "application/json");
            let written = self.context.client().request::<Value>(request.body(serde_json::to_vec(&quota)?)?).await;
            gone_is_fine(written)?;
        }
        Ok(next.and_then(|end| until(end, now)))
    }

    async fn read(&self, path: &str) -> Result<Value, kube::Error> {
        let request = http::Request::get(path).body(vec![]).map_err(kube::Error::HttpError)?;
        self.context.client().request(request).await
    }

    /// How many objects of a resource a namespace has; `None` when the server does not know the resource.
    async fn count(&self, group: &str, plural: &str, namespace: &str) -> anyhow::Result<Option<i64>> {
        let Some(resource) = self.follow(group, plural).await? else { return Ok(None) };
        let root = if group.is_empty() { "api".to_owned() } else { format!("apis/{group}") };
        let version = &resource.api.version;
        let page = self.read(&format!("/{root}/{version}/namespaces/{namespace}/{plural}?limit=1")).await;
        let page = match page {
            Err(e) if is_not_found(&e) => return Ok(None),
            page => page?,
        };
        let shown = page.get("items").and_then(Value::as_array).map_or(0, Vec::len);
        let more = page.pointer("/metadata/remainingItemCount").and_then(Value::as_i64).unwrap_or(0);
        Ok(Some(i64::try_from(shown).unwrap_or(0) + more))
    }

    /// The resource, which from now on wakes quotas when its objects come and go; `None` when the server has no such resource.
    async fn follow(&self, group: &str, plural: &str) -> anyhow::Result<Option<Resource>> {
        let name = format!("{plural}.{group}");
        let mut followed = self.followed.lock().await;
        if let Some(resource) = followed.0.get(&name) {
            return Ok(Some(resource.clone()));
        }
        let client = self.context.client();
        let found = discover(&client).await?;
        let of = |r: &&Resource| r.api.group == group && r.api.plural == plural && r.namespaced && r.can("watch");
        let Some(resource) = found.resources.iter().find(of).cloned() else { return Ok(None) };
        followed.0.insert(name, resource.clone());
        let sink =
            Arc::new(Waker { queue: self.queue.clone(), quotas: self.quotas.clone(), objects: Mutex::default() });
        let monitor = Monitor { client, resource: resource.clone(), sink };
        let stop = self.context.stop.clone();
        followed.1.spawn(async move {
            tokio::select! { () = stop.cancelled() => {}, () = monitor.run() => {} }
        });
        Ok(Some(resource))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_status_has_the_hard_names_only() {
        let mut quota = json!({"spec": {"hard": {"pods": "5", "services": "5"}}});
        let used: Usage = [("pods".to_owned(), quota::pieces(2)), ("cpu".to_owned(), quota::pieces(9))].into();
        let status = plan(&quota, &used).unwrap();
        assert_eq!(status, json!({"hard": {"pods": "5", "services": "5"}, "used": {"pods": "2", "services": "0"}}));
        quota["status"] = status;
        assert_eq!(plan(&quota, &used), None);
        quota["spec"]["hard"]["pods"] = json!("6");
        assert!(plan(&quota, &used).is_some());
    }
}
