//! The DaemonSet controller: one pod on each node that suits.

mod plan;
mod template;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use caravel_client::{Change, Informer, Key, Recorder, WorkQueue, object_ref};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::DeleteParams;
use parking_lot::Mutex;

use crate::common::history::{self, hash_label, write_newest};
use crate::common::pod_control::PodControl;
use crate::common::*;
use crate::context::{Context, candidates, enqueue_each, enqueue_owners, record, record_on, track_pods};
use plan::{Plan, Snapshot, plan};

const WORKERS: usize = 4;
/// First and longest time that failed pods of one node are left to lie.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(900));

/// When a pod of a DaemonSet failed on a node last, and how long the next one lies.
type Failures = HashMap<(Key, String), (Timestamp, Duration)>;

struct Controller {
    context: Context,
    sets: Informer<DaemonSet>,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    revisions: Informer<ControllerRevision>,
    expectations: Arc<Expectations>,
    control: PodControl,
    recorder: Recorder,
    failures: Mutex<Failures>,
}

/// Runs the controller.
///
/// # Errors
/// Never by itself.
pub async fn run(context: Context) -> anyhow::Result<()> {
    let recorder = context.cluster.recorder("daemonset-controller");
    let c = Controller {
        sets: context.cluster.informer(),
        nodes: context.cluster.informer(),
        pods: context.pods(),
        revisions: context.owned(),
        expectations: Arc::new(Expectations::new()),
        control: PodControl::new(context.client(), recorder.clone()),
        recorder,
        failures: Mutex::default(),
        context,
    };
    let queue = WorkQueue::new();
    enqueue_each(&c.sets, &queue);
    enqueue_owners::<DaemonSet, _>(&c.revisions, &queue);
    track_pods(&c.pods, &c.sets, &queue, Some(c.expectations.clone()), |ds: &DaemonSet, p| {
        selector(ds).matches(labels(p))
    });
    let (sets, wake) = (c.sets.clone(), queue.clone());
    c.nodes.on_change(move |change| {
        let taints = |n: &Node| n.spec.as_ref().and_then(|s| s.taints.clone());
        let relevant = match change {
            Change::Updated { old, new } => labels(&**old) != labels(&**new) || taints(old) != taints(new),
            Change::Added(_) | Change::Deleted(_) => true,
        };
        if relevant {
            sets.list().iter().for_each(|s| wake.add(Key::of(&**s)));
        }
    });
    c.sets.synced().await;
    c.nodes.synced().await;
    c.pods.synced().await;
    c.revisions.synced().await;
    c.context.work(queue, WORKERS, |key| c.reconcile(key)).await;
    Ok(())
}

fn selector(ds: &DaemonSet) -> Selector {
    Selector::new(ds.spec.as_ref().map(|s| &s.selector))
}

impl Controller {
    async fn reconcile(&self, key: Key) -> Outcome {
        let Some(ds) = self.sets.get(&key) else {
            self.expectations.forget(&key);
            self.failures.lock().retain(|(k, _), _| *k != key);
            return Ok(None);
        };
        if selector(&ds).is_everything() {
            let note = "This daemon set is selecting all pods. A non-empty selector is required.";
            record_on(&self.recorder, &*ds, &[Event::warning("SelectingAll", note)]);
            return Ok(None);
        }
        let may_act = self.expectations.satisfied(&key);
        let own: Api<DaemonSet> = Api::namespaced(self.context.client(), &key.namespace);
        let api: Api<ControllerRevision> = Api::namespaced(self.context.client(), &key.namespace);
        let mut revisions = self.revisions_of(&ds, &key, &own, &api).await?;
        history::sort(&mut revisions);
        let collisions = ds.status.as_ref().and_then(|s| s.collision_count);
        let template = ds.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
        let make = |data, number| {
            let meta = ObjectMeta {
                labels: template.metadata.as_ref().and_then(|m| m.labels.clone()),
                annotations: ds.metadata.annotations.clone(),
                ..ObjectMeta::default()
            };
            history::new_revision(owner_ref(&*ds), &key.namespace, &meta, data, number, collisions.unwrap_or(0))
        };
        let newest = history::newest(&revisions, history::template_data(&template), make);
        let Some(current) = write_newest(&api, newest, uid(&*ds)).await? else {
            let mut changed = (*ds).clone();
            changed.status.get_or_insert_default().collision_count = Some(collisions.unwrap_or(0) + 1);
            put_status(&own, &changed).await?;
            return Ok(None);
        };
        let pods = self.pods_of(&ds, &key, &own).await?;
        let now = self.context.now();
        let decided = {
            let patience = |node: &str| self.patience(&key, node, now);
            plan(&Snapshot {
                ds: &ds,
                nodes: &self.nodes.list(),
                pods: &pods,
                hash: hash_label(&current),
                patience: &patience,
                may_act,
                collisions,
                now,
            })
        };
        let again = self.apply(&key, &ds, decided, &own, now).await?;
        self.truncate(&ds, &api, &revisions, &current, &pods).await?;
        Ok(again)
    }

    async fn revisions_of(
        &self,
        ds: &DaemonSet,
        key: &Key,
        own: &Api<DaemonSet>,
        api: &Api<ControllerRevision>,
    ) -> anyhow::Result<Vec<Arc<ControllerRevision>>> {
        let found = candidates(&self.revisions, uid(ds), &key.namespace);
        let claimed = claim(uid(ds), deleting(ds), &selector(ds), found);
        apply_claim(api, &owner_ref(ds), claimed, still_there(own, ds)).await
    }

    async fn pods_of(&self, ds: &DaemonSet, key: &Key, own: &Api<DaemonSet>) -> anyhow::Result<Vec<Arc<Pod>>> {
        let found = candidates(&self.pods, uid(ds), &key.namespace);
        let claimed = claim(uid(ds), deleting(ds), &selector(ds), found);
        let api: Api<Pod> = Api::namespaced(self.context.client(), &key.namespace);
        apply_claim(&api, &owner_ref(ds), claimed, still_there(own, ds)).await
    }

    /// How long a failed pod is left to lie from now.
    fn patience(&self, key: &Key, node: &str, now: Timestamp) -> Option<Duration> {
        let failures = self.failures.lock();
        let (at, wait) = failures.get(&(key.clone(), node.to_owned()))?;
        until(at.checked_add(*wait).ok()?, now)
    }

    fn remember_failures(&self, key: &Key, nodes: Vec<String>, now: Timestamp) {
        let mut failures = self.failures.lock();
        for node in nodes {
            let entry = failures.entry((key.clone(), node)).or_insert((now, Duration::ZERO));
            // A node that was well for twice the longest time starts anew.
            let quiet = until(now, entry.0).unwrap_or_default() > PATIENCE.1 * 2;
            let wait = if quiet { PATIENCE.0 } else { (entry.1 * 2).clamp(PATIENCE.0, PATIENCE.1) };
            *entry = (now, wait);
        }
    }

    async fn apply(&self, key: &Key, ds: &DaemonSet, plan: Plan, own: &Api<DaemonSet>, now: Timestamp) -> Outcome {
        let about = object_ref(ds);
        record(&self.recorder, &about, &plan.events);
        self.remember_failures(key, plan.failed_on, now);
        let mut failure = None;
        if !plan.delete.is_empty() {
            self.expectations.expect_deletions(key, plan.delete.iter().map(|p| uid(&**p).to_owned()));
            let (not_coming, error) = self.control.delete_all(&plan.delete, &about).await;
            not_coming.iter().for_each(|u| self.expectations.deletion_observed(key, u));
            failure = error;
        }
        if !plan.create.is_empty() {
            self.expectations.expect_creations(key, plan.create.len());
            let (made, error) = self.control.create_batch(&plan.create, &about).await;
            (made..plan.create.len()).for_each(|_| self.expectations.creation_observed(key));
            failure = failure.or(error.filter(|e| !is_namespace_terminating(e)));
        }
        if let Some(status) = plan.status {
            put_status(own, &DaemonSet { status: Some(status), ..ds.clone() }).await?;
        }
        match failure {
            Some(e) => Err(e.into()),
            None => Ok(plan.again),
        }
    }

    async fn truncate(
        &self,
        ds: &DaemonSet,
        api: &Api<ControllerRevision>,
        revisions: &[Arc<ControllerRevision>],
        current: &ControllerRevision,
        pods: &[Arc<Pod>],
    ) -> anyhow::Result<()> {
        let limit = ds.spec.as_ref().and_then(|s| s.revision_history_limit).unwrap_or(10);
        let used = |r: &ControllerRevision| {
            let pod_has = |p: &Arc<Pod>| labels(&**p).get(history::HASH_LABEL).is_some_and(|h| h == hash_label(r));
            name(r) == name(current) || pods.iter().any(pod_has)
        };
        for r in history::surplus(revisions, usize::try_from(limit).unwrap_or(usize::MAX), used) {
            gone_is_fine(api.delete(name(&*r), &DeleteParams::default()).await)?;
        }
        Ok(())
    }
}
