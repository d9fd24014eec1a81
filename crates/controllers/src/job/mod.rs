//! The Job controller: pods that run to their end, counted exactly once by means of finalizers (KEP-2307).

mod indexes;
mod plan;
mod policy;
mod template;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use caravel_client::{Change, Informer, Key, Recorder, WorkQueue, object_ref};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::common::pod_control::{PodControl, slow_start};
use crate::common::*;
use crate::context::{Context, candidates, enqueue_each, owner_in, record_on, track_pods};
use plan::{Plan, Snapshot, TRACKING, finished, plan, tracked};

const WORKERS: usize = 8;
/// The value of `spec.managedBy` that means this controller.
const SELF: &str = "kubernetes.io/job-controller";

struct Controller {
    context: Context,
    jobs: Informer<Job>,
    pods: Informer<Pod>,
    expectations: Arc<Expectations>,
    floor: Floor,
    control: PodControl,
    recorder: Recorder,
}

/// Runs the controller.
///
/// # Errors
/// Never by itself.
pub async fn run(context: Context) -> anyhow::Result<()> {
    let recorder = context.cluster.recorder("job-controller");
    let c = Controller {
        jobs: context.owned(),
        pods: context.pods(),
        expectations: Arc::new(Expectations::new()),
        floor: Floor::default(),
        control: PodControl::new(context.client(), recorder.clone()),
        recorder,
        context,
    };
    let queue = WorkQueue::new();
    enqueue_each(&c.jobs, &queue);
    track_pods(&c.pods, &c.jobs, &queue, Some(c.expectations.clone()), |job: &Job, p| selector(job).matches(labels(p)));
    c.jobs.synced().await;
    c.pods.synced().await;
    let orphans = c.orphans();
    tokio::join!(
        c.context.work(queue, WORKERS, |key| c.reconcile(key)),
        c.context.work(orphans, 2, |key| c.release_orphan(key)),
    );
    Ok(())
}

fn selector(job: &Job) -> Selector {
    Selector::new(job.spec.as_ref().and_then(|s| s.selector.as_ref()))
}

/// Whether another controller has the Job.
fn foreign(job: &Job) -> bool {
    job.spec.as_ref().and_then(|s| s.managed_by.as_deref()).is_some_and(|m| m != SELF)
}

impl Controller {
    /// A queue of pods whose Job is gone: their finalizers must go, or they would never.
    fn orphans(&self) -> WorkQueue<Key> {
        let queue: WorkQueue<Key> = WorkQueue::new();
        let (jobs, wake) = (self.jobs.clone(), queue.clone());
        self.pods.on_change(move |c| {
            let p = c.object();
            if !matches!(c, Change::Deleted(_))
                && tracked(p)
                && owner_in::<Job, _>(&jobs, &**p).is_none_or(|j| finished(&j))
            {
                wake.add(Key::of(&**p));
            }
        });
        let (pods, wake) = (self.pods.clone(), queue.clone());
        self.jobs.on_change(move |c| {
            let job = c.object();
            if matches!(c, Change::Deleted(_)) || finished(job) {
                let all = pods.by_index(BY_CONTROLLER, uid(&**job));
                all.iter().filter(|p| tracked(p)).for_each(|p| wake.add(Key::of(&**p)));
            }
        });
        queue
    }

    async fn release_orphan(&self, key: Key) -> Outcome {
        let Some(p) = self.pods.get(&key).filter(|p| tracked(p)) else { return Ok(None) };
        if let Some(job) = owner_in::<Job, _>(&self.jobs, &*p) {
            if foreign(&job) || !finished(&job) || pod::active(&p) {
                return Ok(None);
            }
        } else if let Some(owner) = controller_of(&*p).filter(|o| o.kind == "Job") {
            // The pod may have been seen before its Job.
            let api: Api<Job> = Api::namespaced(self.context.client(), &key.namespace);
            if api.get_opt(&owner.name).await?.is_some_and(|j| uid(&j) == owner.uid) {
                return Ok(Some(UNMET));
            }
        }
        self.release(&p).await?;
        Ok(None)
    }

    async fn release(&self, p: &Pod) -> Result<(), kube::Error> {
        let api: Api<Pod> = Api::namespaced(self.context.client(), namespace(p));
        let patch = json!({"metadata": {"uid": uid(p), "$deleteFromPrimitiveList/finalizers": [TRACKING]}});
        match api.patch(name(p), &PatchParams::default(), &Patch::Strategic(patch)).await {
            // Another pod of the name: ours is gone.
            Err(e) if is_conflict(&e) => Ok(()),
            other => gone_is_fine(other),
        }
    }

    async fn reconcile(&self, key: Key) -> Outcome {
        let Some(job) = self.jobs.get(&key) else {
            self.expectations.forget(&key);
            return Ok(None);
        };
        if finished(&job) || foreign(&job) {
            return Ok(None);
        }
        if !self.floor.reached(&*job) {
            return Ok(Some(std::time::Duration::from_secs(1)));
        }
        let mode = job.spec.as_ref().and_then(|s| s.completion_mode.as_deref()).unwrap_or("NonIndexed");
        if !matches!(mode, "NonIndexed" | "Indexed") {
            let note = format!("Skipped Job sync because completion mode is unknown: {mode}");
            record_on(&self.recorder, &*job, &[Event::warning("UnknownCompletionMode", note)]);
            return Ok(None);
        }
        let may_act = self.expectations.satisfied(&key);
        let pods = self.pods_of(&job, &key).await?;
        let decided = plan(&Snapshot { job: &job, pods: &pods, may_act, now: self.context.now() });
        self.apply(&key, &job, decided).await
    }

    async fn pods_of(&self, job: &Job, key: &Key) -> anyhow::Result<Vec<Arc<Pod>>> {
        let found = candidates(&self.pods, uid(job), &key.namespace);
        let claimed = claim(uid(job), deleting(job), &selector(job), found);
        let adopting: Vec<String> = claimed.adopt.iter().map(|p| name(&**p).to_owned()).collect();
        let pods: Api<Pod> = Api::namespaced(self.context.client(), &key.namespace);
        let own: Api<Job> = Api::namespaced(self.context.client(), &key.namespace);
        let all = apply_claim(&pods, &owner_ref(job), claimed, still_there(&own, job)).await?;
        for adopted in adopting {
            let patch = json!({"metadata": {"finalizers": [TRACKING]}});
            gone_is_fine(pods.patch(&adopted, &PatchParams::default(), &Patch::Strategic(patch)).await)?;
        }
        Ok(all)
    }

    async fn apply(&self, key: &Key, job: &Job, plan: Plan) -> Outcome {
        let about = object_ref(job);
        let mut failure: Option<kube::Error> = None;
        let mut status = plan.status;
        if !plan.delete.is_empty() {
            self.expectations.expect_deletions(key, plan.delete.iter().map(|p| uid(&**p).to_owned()));
            let (not_coming, error) = self.control.delete_all(&plan.delete, &about).await;
            not_coming.iter().for_each(|u| self.expectations.deletion_observed(key, u));
            failure = error;
        }
        if !plan.create.is_empty() {
            self.expectations.expect_creations(key, plan.create.len());
            let (made, error) = slow_start(&plan.create, 1, |p| self.control.create(p, &about)).await;
            let missing = plan.create.len() - made;
            (0..missing).for_each(|_| self.expectations.creation_observed(key));
            if missing > 0 {
                // The status tells what is, not what was meant.
                let s = status.get_or_insert_with(|| job.status.clone().unwrap_or_default());
                let active = s.active.unwrap_or(0) - i32::try_from(missing).unwrap_or(0);
                s.active = Some(active).filter(|n| *n > 0);
            }
            failure = failure.or(error.filter(|e| !is_namespace_terminating(e)));
        }
        if let Some(e) = failure.as_ref().filter(|_| status.is_none()) {
            anyhow::bail!("pods of job {key} could not be made or deleted: {}", message_of(e));
        }
        if let Some(new) = status.filter(|s| job.status.as_ref() != Some(s)) {
            let api: Api<Job> = Api::namespaced(self.context.client(), &key.namespace);
            let written = put_status(&api, &Job { status: Some(new), ..job.clone() }).await?;
            self.floor.wrote(&written);
        }
        record_on(&self.recorder, job, &plan.events);
        let (_, error) = slow_start(&plan.release, 8, |p| self.release(p)).await;
        match failure.or(error) {
            Some(e) => Err(e.into()),
            None => Ok(plan.again),
        }
    }
}
