//! The resource quota controller: counts what a namespace uses. Admission charges creations at once; this corrects what
//! admission cannot see: deletions, ended pods, changed quotas.

mod usage;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use caravel_client::{Change, Informer, Key, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, ResourceQuotaStatus, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use parking_lot::Mutex;
use tokio::task::JoinSet;

use crate::common::discovery::{Resource, discover};
use crate::common::metadata::{Monitor, Sink, Uid};
use crate::common::*;
use crate::context::Context;
use usage::Usage;

const WORKERS: usize = 2;
/// A burst of changes is counted once.
const BURST: Duration = Duration::from_millis(100);
/// Kinds of the core group that are counted under their bare name, too.
const BARE: [&str; 4] = ["secrets", "configmaps", "replicationcontrollers", "resourcequotas"];

/// The objects of one resource: where each lives.
struct Counter {
    resource: Resource,
    queue: WorkQueue<Key>,
    quotas: Informer<ResourceQuota>,
    objects: Mutex<HashMap<Uid, Arc<str>>>,
    listed: tokio::sync::watch::Sender<bool>,
}

impl Counter {
    fn count(&self, namespace: &str) -> usize {
        self.objects.lock().values().filter(|n| &***n == namespace).count()
    }

    fn wake(&self, namespace: &str) {
        wake(&self.quotas, &self.queue, namespace);
    }
}

impl Sink for Counter {
    fn held(&self) -> HashSet<Uid> {
        self.objects.lock().keys().copied().collect()
    }

    fn upsert(&self, meta: &ObjectMeta) {
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let uid = Uid::of(meta.uid.as_deref().unwrap_or_default());
        if self.objects.lock().insert(uid, namespace.into()).is_none() {
            self.wake(namespace);
        }
    }

    fn remove(&self, uid: Uid) {
        if let Some(namespace) = self.objects.lock().remove(&uid) {
            self.wake(&namespace);
        }
    }

    fn listed(&self) {
        self.listed.send_replace(true);
    }
}

fn wake(quotas: &Informer<ResourceQuota>, queue: &WorkQueue<Key>, namespace: &str) {
    for q in quotas.list_in(namespace) {
        queue.add_after(Key::of(&*q), BURST);
    }
}

type Counters = (BTreeMap<String, Arc<Counter>>, JoinSet<()>);

struct Controller {
    context: Context,
    quotas: Informer<ResourceQuota>,
    pods: Informer<Pod>,
    services: Informer<Service>,
    claims: Informer<PersistentVolumeClaim>,
    queue: WorkQueue<Key>,
    /// Counters of resources that some quota names, and the tasks that feed them.
    counters: tokio::sync::Mutex<Counters>,
}

/// Runs the controller.
///
/// # Errors
/// Never by itself.
pub async fn run(context: Context) -> anyhow::Result<()> {
    let c = Controller {
        quotas: context.cluster.informer(),
        pods: context.pods(),
        services: context.cluster.informer(),
        claims: context.cluster.informer(),
        queue: WorkQueue::new(),
        counters: tokio::sync::Mutex::default(),
        context,
    };
    let wake_quota = c.queue.clone();
    c.quotas.on_change(move |change| match change {
        // Admission's own charges are no reason to count: the cache may not show yet what was charged.
        Change::Updated { old, new }
            if old.spec == new.spec && new.status.as_ref().and_then(|s| s.hard.as_ref()).is_some() => {}
        _ => wake_quota.add(Key::of(&**change.object())),
    });
    c.wake_on_usage(&c.pods, usage::of_pod, |old, new| pod::finished(old) != pod::finished(new));
    c.wake_on_usage(&c.services, usage::of_service, |_, _| false);
    c.wake_on_usage(&c.claims, usage::of_claim, |_, _| false);
    c.quotas.synced().await;
    c.pods.synced().await;
    c.services.synced().await;
    c.claims.synced().await;
    c.context.work(c.queue.clone(), WORKERS, |key| c.reconcile(key)).await;
    Ok(())
}

/// The totals that a quota ought to show: for each of its hard limits what is used of it.
fn plan(quota: &ResourceQuota, used: &Usage) -> Option<ResourceQuotaStatus> {
    let hard = quota.spec.as_ref().and_then(|s| s.hard.clone()).unwrap_or_default();
    let zero = usage::number(0);
    let used: BTreeMap<String, Text> =
        hard.keys().map(|k| (k.clone(), Text(used.get(k).unwrap_or(&zero).to_string()))).collect();
    let new = ResourceQuotaStatus { hard: Some(hard), used: Some(used) };
    (quota.status.as_ref() != Some(&new)).then_some(new)
}

/// `count/<plural>[.<group>]` and bare names as (group, plural), where they have to be counted by metadata.
fn counted(key: &str) -> Option<(&str, &str)> {
    if BARE.contains(&key) {
        return Some(("", key));
    }
    let name = key.strip_prefix("count/")?;
    let (plural, group) = name.split_once('.').unwrap_or((name, ""));
    let here = group.is_empty() && matches!(plural, "pods" | "services" | "persistentvolumeclaims");
    (!here).then_some((group, plural))
}

impl Controller {
    fn wake_on_usage<K: caravel_client::Object>(
        &self,
        informer: &Informer<K>,
        of: impl Fn(&K) -> Usage + Send + Sync + 'static,
        also: impl Fn(&K, &K) -> bool + Send + Sync + 'static,
    ) {
        let (quotas, queue) = (self.quotas.clone(), self.queue.clone());
        informer.on_change(move |c| {
            let namespace = namespace(&**c.object());
            if quotas.list_in(namespace).is_empty() {
                return;
            }
            let relevant = match c {
                Change::Updated { old, new } => {
                    of(old) != of(new) || also(old, new) || deleting(&**old) != deleting(&**new)
                }
                Change::Added(_) | Change::Deleted(_) => true,
            };
            if relevant {
                wake(&quotas, &queue, namespace);
            }
        });
    }

    async fn reconcile(&self, key: Key) -> Outcome {
        let Some(quota) = self.quotas.get(&key) else { return Ok(None) };
        let spec = quota.spec.clone().unwrap_or_default();
        let now = Timestamp::now();
        let mut used = Usage::new();
        let scoped = spec.scopes.is_some() || spec.scope_selector.is_some();
        for p in self.pods.list_in(&key.namespace) {
            if usage::charged(&p, now) && usage::in_scope(&spec, &p) {
                usage::add(&mut used, &usage::of_pod(&p));
            }
        }
        if !scoped {
            self.services.list_in(&key.namespace).iter().for_each(|s| usage::add(&mut used, &usage::of_service(s)));
            self.claims.list_in(&key.namespace).iter().for_each(|c| usage::add(&mut used, &usage::of_claim(c)));
            for hard in spec.hard.iter().flat_map(|h| h.keys()) {
                if let Some((group, plural)) = counted(hard)
                    && let Some(counter) = self.counter(group, plural).await?
                {
                    used.insert(hard.clone(), usage::number(counter.count(&key.namespace)));
                }
            }
        }
        if let Some(status) = plan(&quota, &used) {
            let api: Api<ResourceQuota> = Api::namespaced(self.context.client(), &key.namespace);
            put_status(&api, &ResourceQuota { status: Some(status), ..(*quota).clone() }).await?;
        }
        Ok(None)
    }

    /// The counter of a resource, started when first asked for; `None` when the server has no such resource.
    async fn counter(&self, group: &str, plural: &str) -> anyhow::Result<Option<Arc<Counter>>> {
        let name = format!("{plural}.{group}");
        let counter = {
            let mut counters = self.counters.lock().await;
            match counters.0.get(&name) {
                Some(c) => c.clone(),
                None => {
                    let client = self.context.client();
                    let found = discover(&client).await?;
                    let of = |r: &&Resource| {
                        r.api.group == group && r.api.plural == plural && r.namespaced && r.can("watch")
                    };
                    let Some(resource) = found.resources.iter().find(of).cloned() else { return Ok(None) };
                    let counter = Arc::new(Counter {
                        resource: resource.clone(),
                        queue: self.queue.clone(),
                        quotas: self.quotas.clone(),
                        objects: Mutex::default(),
                        listed: tokio::sync::watch::Sender::new(false),
                    });
                    counters.0.insert(name, counter.clone());
                    let stop = self.context.stop.clone();
                    let monitor = Monitor { client, resource, sink: counter.clone() };
                    counters.1.spawn(async move {
                        tokio::select! { () = stop.cancelled() => {}, () = monitor.run() => {} }
                    });
                    counter
                }
            }
        };
        let mut listed = counter.listed.subscribe();
        let ready = tokio::time::timeout(Duration::from_secs(10), listed.wait_for(|l| *l)).await;
        anyhow::ensure!(ready.is_ok(), "the first list of {} takes too long", counter.resource.display());
        Ok(Some(counter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ResourceQuotaSpec;

    #[test]
    fn names() {
        assert_eq!(counted("count/deployments.apps"), Some(("apps", "deployments")));
        assert_eq!(counted("count/secrets"), Some(("", "secrets")));
        assert_eq!(counted("secrets"), Some(("", "secrets")));
        assert_eq!(counted("count/pods"), None);
        assert_eq!(counted("requests.cpu"), None);
    }

    #[test]
    fn the_status_has_the_hard_names_only() {
        let hard = |k: &str| (k.to_owned(), Text("5".into()));
        let mut q = ResourceQuota {
            spec: Some(ResourceQuotaSpec { hard: Some([hard("pods"), hard("services")].into()), ..Default::default() }),
            ..Default::default()
        };
        let used: Usage = [("pods".to_owned(), usage::number(2)), ("cpu".to_owned(), usage::number(9))].into();
        let status = plan(&q, &used).expect("differs");
        let text: Vec<_> = status.used.iter().flatten().map(|(k, v)| format!("{k}={}", v.0)).collect();
        assert_eq!(text, ["pods=2", "services=0"]);
        q.status = Some(status);
        assert_eq!(plan(&q, &used), None);
    }
}
