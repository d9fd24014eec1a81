//! The CronJob controller: Jobs by the clock.

mod plan;
mod schedule;

use std::sync::Arc;
use std::time::Duration;

use caravel_client::{Informer, Key, Recorder, WorkQueue};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use kube::Api;
use kube::api::{DeleteParams, PostParams};

use crate::common::*;
use crate::context::{Context, enqueue_each, enqueue_owners, record_on};
use plan::{Plan, Snapshot, active_entry, plan};

const WORKERS: usize = 5;

struct Controller {
    context: Context,
    crons: Informer<CronJob>,
    jobs: Informer<Job>,
    floor: Floor,
    recorder: Recorder,
}

/// Runs the controller.
///
/// # Errors
/// Never by itself.
pub async fn run(context: Context) -> anyhow::Result<()> {
    let c = Controller {
        crons: context.cluster.informer(),
        jobs: context.owned(),
        floor: Floor::default(),
        recorder: context.cluster.recorder("cronjob-controller"),
        context,
    };
    let queue = WorkQueue::new();
    enqueue_each(&c.crons, &queue);
    enqueue_owners::<CronJob, _>(&c.jobs, &queue);
    c.crons.synced().await;
    c.jobs.synced().await;
    c.context.work(queue, WORKERS, |key| c.reconcile(key)).await;
    Ok(())
}

impl Controller {
    async fn reconcile(&self, key: Key) -> Outcome {
        let Some(cron) = self.crons.get(&key) else { return Ok(None) };
        if !self.floor.reached(&*cron) {
            return Ok(Some(Duration::from_secs(1)));
        }
        let api: Api<Job> = Api::namespaced(self.context.client(), &key.namespace);
        let mut jobs = self.jobs.by_index(BY_CONTROLLER, uid(&*cron));
        let known = jobs.len();
        for active in cron.status.iter().flat_map(|s| s.active.iter().flatten()) {
            let uid_of_active = active.uid.as_deref().unwrap_or_default();
            if jobs.iter().any(|j| uid(&**j) == uid_of_active) {
                continue;
            }
            // The cache may be behind: only the server knows that it is gone.
            let live = api.get_opt(active.name.as_deref().unwrap_or_default()).await?;
            jobs.extend(live.filter(|j| uid(j) == uid_of_active).map(Arc::new));
        }
        let decided = plan(&Snapshot { cron: &cron, jobs: &jobs, now: self.context.now() });
        let unmet = (jobs.len() > known).then_some(UNMET);
        let again = self.apply(&cron, decided, &api).await?;
        Ok(sooner(again, unmet))
    }

    async fn apply(&self, cron: &CronJob, plan: Plan, api: &Api<Job>) -> Outcome {
        for job in &plan.delete {
            gone_is_fine(api.delete(name(&**job), &DeleteParams::background()).await)?;
        }
        record_on(&self.recorder, cron, &plan.events);
        let mut status = plan.status;
        let mut failure = None;
        if let Some((job, at)) = &plan.start {
            match self.start(cron, job, api).await {
                Ok(started) => {
                    let s = status.get_or_insert_with(|| cron.status.clone().unwrap_or_default());
                    if let Some(job) = started {
                        s.active.get_or_insert_default().push(active_entry(&job));
                    }
                    s.last_schedule_time = Some(stored_time(*at));
                }
                Err(e) => failure = Some(e),
            }
        }
        if let Some(status) = status {
            let own: Api<CronJob> = Api::namespaced(self.context.client(), namespace(cron));
            let written = put_status(&own, &CronJob { status: Some(status), ..cron.clone() }).await?;
            self.floor.wrote(&written);
        }
        match failure {
            Some(e) if !is_namespace_terminating(&e) => Err(e.into()),
            _ => Ok(plan.again),
        }
    }

    /// Makes the Job of a moment. One of the name that is ours was made by a former life of this controller; it counts when it still runs.
    async fn start(&self, cron: &CronJob, job: &Job, api: &Api<Job>) -> Result<Option<Job>, kube::Error> {
        match api.create(&PostParams::default(), job).await {
            Ok(made) => {
                let note = format!("Created job {}", name(&made));
                record_on(&self.recorder, cron, &[Event::normal("SuccessfulCreate", note)]);
                Ok(Some(made))
            }
            Err(e) if is_already_exists(&e) => {
                let there = api.get(name(job)).await?;
                if !controlled_by(&there, uid(cron)) {
                    let note = format!("Error creating job: {}", message_of(&e));
                    record_on(&self.recorder, cron, &[Event::warning("FailedCreate", note)]);
                    return Err(e);
                }
                let ended = there
                    .status
                    .iter()
                    .flat_map(|s| s.conditions.iter().flatten())
                    .any(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True");
                Ok((!ended).then_some(there))
            }
            Err(e) => {
                if !is_namespace_terminating(&e) {
                    let note = format!("Error creating job: {}", message_of(&e));
                    record_on(&self.recorder, cron, &[Event::warning("FailedCreate", note)]);
                }
                Err(e)
            }
        }
    }
}
