//! The Deployment controller: one ReplicaSet for each pod template, and rolling from one to the next.

mod beyond;
mod canary;
mod plan;
mod scale;
mod status;
#[cfg(test)]
mod tests;
mod util;

use std::sync::Arc;

use caravel_client::{Change, Informer, Key, Recorder, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::json;

use crate::common::pod;
use crate::common::*;
use crate::context::{Context, candidates, enqueue_each, enqueue_owners, owner_in, record_on};
use plan::{Plan, Snapshot, plan};

/// Pods whose deletion lets a Recreate rollout go on.
const WORKERS: usize = 8;

struct Controller {
    context: Context,
    deployments: Informer<Deployment>,
    replica_sets: Informer<ReplicaSet>,
    pods: Informer<Pod>,
    recorder: Recorder,
}

/// Runs the controller.
///
/// # Errors
/// Never by itself.
pub async fn run(context: Context) -> anyhow::Result<()> {
    let c = Controller {
        deployments: context.cluster.informer(),
        replica_sets: context.owned(),
        pods: context.pods(),
        recorder: context.cluster.recorder("deployment-controller"),
        context,
    };
    let queue = WorkQueue::new();
    enqueue_each(&c.deployments, &queue);
    enqueue_owners::<Deployment, _>(&c.replica_sets, &queue);
    c.wake_adopters(&queue);
    c.wake_by_pods(&queue);
    c.deployments.synced().await;
    c.replica_sets.synced().await;
    c.pods.synced().await;
    c.context.work(queue, WORKERS, |key| c.reconcile(key)).await;
    Ok(())
}

impl Controller {
    /// Unmanaged ReplicaSets wake the Deployments that select them.
    fn wake_adopters(&self, queue: &WorkQueue<Key>) {
        let (deployments, queue) = (self.deployments.clone(), queue.clone());
        self.replica_sets.on_change(move |c| {
            let rs = c.object();
            if controller_of(&**rs).is_some() || matches!(c, Change::Deleted(_)) {
                return;
            }
            for d in deployments.list_in(namespace(&**rs)) {
                if selector(&d).matches(labels(&**rs)) {
                    queue.add(Key::of(&*d));
                }
            }
        });
    }

    /// The end of a pod wakes a Deployment that waits for all old pods to end; a failure, one that counts them.
    fn wake_by_pods(&self, queue: &WorkQueue<Key>) {
        let (deployments, replica_sets, queue) = (self.deployments.clone(), self.replica_sets.clone(), queue.clone());
        self.pods.on_change(move |c| {
            let (ended, failed) = match c {
                Change::Deleted(_) => (true, false),
                Change::Updated { old, new } => {
                    let more = beyond::failures([&**new]) > beyond::failures([&**old]);
                    (pod::finished(new) && !pod::finished(old), more)
                }
                Change::Added(_) => (false, false),
            };
            if !ended && !failed {
                return;
            }
            if let Some(rs) = owner_in::<ReplicaSet, _>(&replica_sets, &**c.object())
                && let Some(d) = owner_in::<Deployment, _>(&deployments, &*rs)
                && (ended && !util::rolling(&d) || failed && beyond::max_failures(&d).is_some())
            {
                queue.add(Key::of(&*d));
            }
        });
    }

    async fn reconcile(&self, key: Key) -> Outcome {
        let Some(d) = self.deployments.get(&key) else { return Ok(None) };
        let sets = self.replica_sets_of(&d, &key).await?;
        let pods = if util::rolling(&d) && beyond::max_failures(&d).is_none() {
            Default::default()
        } else {
            sets.iter().map(|rs| (uid(&**rs).to_owned(), self.pods.by_index(BY_CONTROLLER, uid(&**rs)))).collect()
        };
        let now = self.context.now();
        let decided = plan(&Snapshot { deployment: &d, replica_sets: sets, pods, now });
        self.apply(&d, decided, now).await
    }

    async fn replica_sets_of(&self, d: &Deployment, key: &Key) -> anyhow::Result<Vec<Arc<ReplicaSet>>> {
        let found = candidates(&self.replica_sets, uid(d), &key.namespace);
        let claimed = claim(uid(d), deleting(d), &selector(d), found);
        let api: Api<ReplicaSet> = Api::namespaced(self.context.client(), &key.namespace);
        let own: Api<Deployment> = Api::namespaced(self.context.client(), &key.namespace);
        apply_claim(&api, &owner_ref(d), claimed, still_there(&own, d)).await
    }

    async fn apply(&self, d: &Deployment, plan: Plan, now: Timestamp) -> Outcome {
        let api: Api<Deployment> = Api::namespaced(self.context.client(), namespace(d));
        let sets: Api<ReplicaSet> = Api::namespaced(self.context.client(), namespace(d));
        if let Some(changed) = plan.rollback {
            api.replace(name(d), &PostParams::default(), &changed).await?;
            record_on(&self.recorder, d, &plan.events);
            return Ok(None);
        }
        let mut current = d.clone();
        if !plan.annotations.is_empty() {
            let annotations: serde_json::Map<_, _> = plan.annotations.into_iter().map(|(k, v)| (k, json!(v))).collect();
            let patch = json!({"metadata": {
                "annotations": annotations, "uid": uid(d), "resourceVersion": d.metadata.resource_version}});
            // Through the status: on the main endpoint an annotation counts as a new generation.
            current = api.patch_status(name(d), &PatchParams::default(), &Patch::Merge(patch)).await?;
        }
        for rs in &plan.update {
            sets.replace(name(rs), &PostParams::default(), rs).await?;
        }
        record_on(&self.recorder, d, &plan.events);
        let mut status = plan.status;
        let mut failed = None;
        if let Some(rs) = &plan.create {
            let mut next = status.take().or_else(|| d.status.clone()).unwrap_or_default();
            failed = self.create(d, &sets, rs, &mut next, now).await?;
            if d.status.as_ref() != Some(&next) {
                status = Some(next);
            }
        }
        for rs in &plan.delete {
            let params = DeleteParams::background().preconditions(Preconditions {
                uid: rs.metadata.uid.clone(),
                resource_version: rs.metadata.resource_version.clone(),
            });
            gone_is_fine(sets.delete(name(&**rs), &params).await)?;
        }
        if let Some(status) = status {
            current.status = Some(status);
            put_status(&api, &current).await?;
        }
        failed.map_or(Ok(plan.again), Err)
    }

    /// Makes a ReplicaSet and writes into `status` what came of it. Returns the error to retry after, once the status is written.
    async fn create(
        &self,
        d: &Deployment,
        sets: &Api<ReplicaSet>,
        rs: &ReplicaSet,
        status: &mut k8s_openapi::api::apps::v1::DeploymentStatus,
        now: Timestamp,
    ) -> anyhow::Result<Option<anyhow::Error>> {
        let conditions = util::has_deadline(d);
        match sets.create(&PostParams::default(), rs).await {
            Ok(made) => {
                let size = util::rs_replicas(rs);
                if size > 0 {
                    let note = format!("Scaled up replica set {} from 0 to {size}", name(&made));
                    record_on(&self.recorder, d, &[Event::normal("ScalingReplicaSet", note)]);
                }
                if conditions {
                    util::set_condition(status, status::created(name(&made), None, now));
                }
                Ok(None)
            }
            Err(e) if is_already_exists(&e) => {
                let there = sets.get(name(rs)).await?;
                let template = |r: &ReplicaSet| r.spec.as_ref().and_then(|s| s.template.clone()).unwrap_or_default();
                let same = controlled_by(&there, uid(d)) && util::same_template(&template(&there), &template(rs));
                if !same {
                    // Another template got this hash: the next one is salted by the count.
                    status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
                }
                Ok(Some(e.into()))
            }
            // Nothing can be made in a namespace that goes away; there is no use in trying again.
            Err(e) if is_namespace_terminating(&e) => Ok(None),
            Err(e) => {
                let message = message_of(&e);
                if conditions {
                    util::set_condition(status, status::created(name(rs), Some(&message), now));
                }
                let note = format!("Failed to create new replica set {:?}: {message}", name(rs));
                record_on(&self.recorder, d, &[Event::warning("ReplicaSetCreateError", note)]);
                Ok(Some(e.into()))
            }
        }
    }
}

fn selector(d: &Deployment) -> Selector {
    Selector::new(d.spec.as_ref().map(|s| &s.selector))
}
