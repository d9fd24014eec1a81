//! Deletes finished Jobs after their time to live (KEP-592).

use std::time::Duration;

use caravel_client::{Informer, Key, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use kube::Api;
use kube::api::{DeleteParams, Preconditions};

use crate::common::*;
use crate::context::{Context, enqueue_each};

/// What to do about one Job.
#[derive(Debug, PartialEq)]
enum Plan {
    Nothing,
    Later(Duration),
    Delete,
}

/// Decides: a Job with a time to live goes that long after it finished.
fn plan(job: &Job, now: Timestamp) -> Plan {
    let Some(ttl) = job.spec.as_ref().and_then(|s| s.ttl_seconds_after_finished) else { return Plan::Nothing };
    if deleting(job) {
        return Plan::Nothing;
    }
    let conditions = job.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let finished = conditions
        .filter(|c| c.status == "True" && matches!(c.type_.as_str(), "Complete" | "Failed"))
        .find_map(|c| c.last_transition_time.as_ref());
    match finished {
        None => Plan::Nothing,
        Some(at) => until(plus(at.0, i64::from(ttl)), now).map_or(Plan::Delete, Plan::Later),
    }
}

/// Runs the controller.
///
/// # Errors
/// Never by itself.
pub async fn run(context: Context) -> anyhow::Result<()> {
    let jobs: Informer<Job> = context.owned();
    let queue = WorkQueue::new();
    enqueue_each(&jobs, &queue);
    jobs.synced().await;
    let (client, clock) = (context.client(), context.config.clock);
    let reconcile = |key: Key| {
        let job = jobs.get(&key);
        let api: Api<Job> = Api::namespaced(client.clone(), &key.namespace);
        async move {
            let Some(job) = job else { return Ok(None) };
            match plan(&job, clock()) {
                Plan::Nothing => return Ok(None),
                Plan::Later(wait) => return Ok(Some(wait)),
                Plan::Delete => {}
            }
            // The time to live may have been raised since: what is deleted is what was judged.
            let Some(live) = api.get_opt(&key.name).await? else { return Ok(None) };
            match plan(&live, clock()) {
                Plan::Later(wait) => return Ok(Some(wait)),
                Plan::Delete if uid(&live) == uid(&*job) => {}
                _ => return Ok(None),
            }
            let params = DeleteParams::foreground().preconditions(Preconditions {
                uid: live.metadata.uid.clone(),
                resource_version: live.metadata.resource_version.clone(),
            });
            gone_is_fine(api.delete(&key.name, &params).await)?;
            Ok(None)
        }
    };
    context.work(queue, 5, reconcile).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::batch::v1::{JobCondition, JobSpec, JobStatus};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    #[test]
    fn table() {
        let at = |s: i64| Timestamp::from_second(s).unwrap_or_default();
        let job = |ttl: Option<i32>, condition: Option<(&str, &str)>| Job {
            spec: Some(JobSpec { ttl_seconds_after_finished: ttl, ..Default::default() }),
            status: Some(JobStatus {
                conditions: condition.map(|(t, s)| {
                    vec![JobCondition {
                        type_: t.into(),
                        status: s.into(),
                        last_transition_time: Some(Time(at(100))),
                        ..Default::default()
                    }]
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let cases = [
            (job(None, Some(("Complete", "True"))), Plan::Nothing),
            (job(Some(10), None), Plan::Nothing),
            (job(Some(10), Some(("Complete", "False"))), Plan::Nothing),
            (job(Some(10), Some(("Suspended", "True"))), Plan::Nothing),
            (job(Some(10), Some(("Complete", "True"))), Plan::Later(Duration::from_secs(5))),
            (job(Some(0), Some(("Failed", "True"))), Plan::Delete),
            (job(Some(5), Some(("Failed", "True"))), Plan::Delete),
        ];
        for (i, (j, want)) in cases.into_iter().enumerate() {
            assert_eq!(plan(&j, at(105)), want, "case {i}");
        }
    }
}
