//! Jobs played to their end against a small world of pods.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use k8s_openapi::api::batch::v1::*;
use k8s_openapi::api::core::v1::*;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use super::indexes::INDEX;
use super::plan::{Plan, Snapshot, finished, plan, tracked};
use crate::common::pod::testing::at;
use crate::common::{annotation, deleting, pod};

/// How a pod ends: `None` runs on.
type End = fn(&Pod, usize) -> Option<i32>;

struct World {
    job: Job,
    pods: Vec<Pod>,
    made: usize,
    clock: i64,
    end: End,
    events: Vec<String>,
}

impl World {
    fn new(spec: JobSpec, end: End) -> Self {
        let job = Job {
            metadata: ObjectMeta {
                name: Some("j".into()),
                namespace: Some("ns".into()),
                uid: Some("j-uid".into()),
                ..Default::default()
            },
            spec: Some(spec),
            status: None,
        };
        Self { job, pods: vec![], made: 0, clock: 0, end, events: vec![] }
    }

    fn plan(&self) -> Plan {
        let pods: Vec<_> = self.pods.iter().cloned().map(Arc::new).collect();
        plan(&Snapshot { job: &self.job, pods: &pods, may_act: true, now: at(self.clock) })
    }

    fn round(&mut self) -> bool {
        let p = self.plan();
        let wrote = p != Plan { again: p.again, ..Plan::default() };
        for d in p.delete {
            let there = self.pods.iter_mut().find(|x| x.metadata.uid == d.metadata.uid).unwrap();
            there.metadata.deletion_timestamp = Some(Time(at(self.clock)));
        }
        for mut new in p.create {
            self.made += 1;
            new.metadata.name = Some(format!("p{}", self.made));
            new.metadata.uid = Some(format!("u{}", self.made));
            new.metadata.creation_timestamp = Some(Time(at(self.clock)));
            new.status = Some(PodStatus { phase: Some("Pending".into()), ..Default::default() });
            self.pods.push(new);
        }
        if let Some(s) = p.status {
            self.job.status = Some(s);
        }
        for r in p.release {
            let there = self.pods.iter_mut().find(|x| x.metadata.uid == r.metadata.uid).unwrap();
            there.metadata.finalizers = None;
        }
        self.events.extend(p.events.into_iter().map(|e| format!("{}: {}", e.reason, e.note)));
        wrote
    }

    /// The kubelet: pending pods run, running ones end, deleted ones fail and are gone once no finalizer holds them.
    fn nodes(&mut self) -> bool {
        let mut changed = false;
        let now = at(self.clock);
        for p in &mut self.pods {
            let ended = |code: i32| ContainerStatus {
                name: "c".into(),
                state: Some(ContainerState {
                    terminated: Some(ContainerStateTerminated {
                        exit_code: code,
                        finished_at: Some(Time(now)),
                        ..Default::default()
                    }),
                    ..Default::default()
                }),
                ..Default::default()
            };
            let ordinal = p.metadata.name.as_ref().unwrap()[1..].parse().unwrap();
            let outcome = (self.end)(p, ordinal);
            let gone = deleting(p);
            let status = p.status.as_mut().unwrap();
            let phase = status.phase.clone().unwrap();
            let (next, code) = match (phase.as_str(), gone) {
                ("Pending" | "Running", true) => ("Failed", Some(137)),
                ("Pending", false) => ("Running", None),
                ("Running", false) => match outcome {
                    Some(0) => ("Succeeded", Some(0)),
                    Some(code) => ("Failed", Some(code)),
                    None => continue,
                },
                _ => continue,
            };
            status.phase = Some(next.into());
            status.container_statuses = code.map(|c| vec![ended(c)]);
            changed = true;
        }
        let before = self.pods.len();
        self.pods.retain(|p| !(deleting(p) && pod::finished(p) && !tracked(p)));
        changed || before != self.pods.len()
    }

    /// Plays until nothing happens; waits for back-off as needed.
    fn settle(&mut self) {
        for _ in 0..500 {
            let a = self.round();
            let parallelism = self.job.spec.as_ref().unwrap().parallelism.unwrap_or(1);
            let active = self.pods.iter().filter(|p| pod::active(p)).count();
            assert!(active <= usize::try_from(parallelism).unwrap(), "{active} at once");
            let b = self.nodes();
            self.clock += 1;
            if finished(&self.job) || (!a && !b && self.plan().again.is_none()) {
                return;
            }
            if !a && !b {
                self.clock += 10;
            }
        }
        panic!("does not come to rest: {:?}", self.plan());
    }

    fn conditions(&self) -> String {
        let all = self.job.status.as_ref().unwrap().conditions.clone().unwrap_or_default();
        let one = |c: &JobCondition| format!("{}={} {}", c.type_, c.status, c.reason.clone().unwrap());
        all.iter().map(one).collect::<Vec<_>>().join("; ")
    }

    fn status(&self) -> JobStatus {
        self.job.status.clone().unwrap()
    }
}

fn spec(completions: i32, parallelism: i32) -> JobSpec {
    JobSpec {
        completions: Some(completions),
        parallelism: Some(parallelism),
        backoff_limit: Some(6),
        ..Default::default()
    }
}

fn indexed(completions: i32, parallelism: i32) -> JobSpec {
    JobSpec { completion_mode: Some("Indexed".into()), ..spec(completions, parallelism) }
}

#[test]
fn runs_to_completion_and_counts_each_pod_once() {
    let mut w = World::new(spec(7, 3), |_, _| Some(0));
    w.settle();
    assert_eq!(w.conditions(), "SuccessCriteriaMet=True CompletionsReached; Complete=True CompletionsReached");
    let s = w.status();
    assert_eq!((s.succeeded, s.failed, s.active, w.made), (Some(7), None, None, 7));
    assert!(s.completion_time.is_some() && s.start_time.is_some());
    assert!(w.pods.iter().all(|p| !tracked(p)));
    assert_eq!(w.events, ["Completed: Job completed"]);
}

#[test]
fn a_work_queue_ends_with_its_first_success_and_the_end_of_the_rest() {
    let mut w = World::new(JobSpec { parallelism: Some(3), backoff_limit: Some(6), ..Default::default() }, |_, n| {
        (n != 3).then_some(0)
    });
    w.settle();
    assert_eq!(w.status().active, Some(1), "others are not stopped");
    w.end = |_, _| Some(0);
    w.settle();
    assert_eq!((w.status().succeeded, w.made), (Some(3), 3));
    assert!(w.conditions().contains("Complete=True"));
}

#[test]
fn failures_are_retried_with_growing_waits_up_to_the_limit() {
    let mut w = World::new(JobSpec { backoff_limit: Some(2), ..spec(1, 1) }, |_, _| Some(1));
    w.settle();
    assert_eq!(w.conditions(), "FailureTarget=True BackoffLimitExceeded; Failed=True BackoffLimitExceeded");
    assert_eq!((w.status().failed, w.made), (Some(3), 3));
    assert!(w.clock >= 30, "10 s and 20 s were waited");
    assert_eq!(w.events, ["BackoffLimitExceeded: Job has reached the specified backoff limit"]);
}

#[test]
fn the_deadline_stops_running_pods() {
    let mut w = World::new(JobSpec { active_deadline_seconds: Some(20), ..spec(3, 3) }, |_, _| None);
    w.settle();
    assert!(w.conditions().ends_with("Failed=True DeadlineExceeded"));
    assert!(w.pods.is_empty(), "all were deleted");
    assert_eq!(w.status().failed, Some(3));
}

#[test]
fn indexes_are_all_done_once() {
    let mut w =
        World::new(indexed(5, 2), |p, n| if annotation(p, INDEX) == Some("3") && n == 4 { Some(1) } else { Some(0) });
    w.settle();
    let s = w.status();
    assert_eq!((s.completed_indexes.as_deref(), s.succeeded, s.failed), (Some("0-4"), Some(5), Some(1)));
    let one = w.pods.iter().find(|p| annotation(*p, INDEX) == Some("2")).unwrap();
    assert_eq!(one.spec.as_ref().unwrap().hostname.as_deref(), Some("j-2"));
    assert_eq!(one.metadata.labels.as_ref().unwrap()[INDEX], "2");
}

#[test]
fn limits_per_index() {
    let job = JobSpec { backoff_limit_per_index: Some(1), backoff_limit: Some(i32::MAX), ..indexed(3, 3) };
    let mut w = World::new(job.clone(), |p, _| Some(if annotation(p, INDEX) == Some("1") { 1 } else { 0 }));
    w.settle();
    let s = w.status();
    assert_eq!(
        (s.completed_indexes.as_deref(), s.failed_indexes.as_deref(), s.failed),
        (Some("0,2"), Some("1"), Some(2))
    );
    assert!(w.conditions().ends_with("Failed=True FailedIndexes"));
    let mut w = World::new(JobSpec { max_failed_indexes: Some(0), ..job }, |p, _| {
        if annotation(p, INDEX) == Some("1") { Some(1) } else { None }
    });
    w.settle();
    assert!(w.conditions().ends_with("Failed=True MaxFailedIndexesExceeded"));
}

#[test]
fn a_success_policy_ends_early() {
    let policy =
        SuccessPolicy { rules: vec![SuccessPolicyRule { succeeded_indexes: Some("0".into()), succeeded_count: None }] };
    let mut w = World::new(JobSpec { success_policy: Some(policy), ..indexed(3, 3) }, |p, _| {
        (annotation(p, INDEX) == Some("0")).then_some(0)
    });
    w.settle();
    assert_eq!(w.conditions(), "SuccessCriteriaMet=True SuccessPolicy; Complete=True SuccessPolicy");
    assert_eq!(w.status().completed_indexes.as_deref(), Some("0"));
    assert!(w.pods.iter().all(pod::finished));
}

#[test]
fn failure_policies() {
    let rule = |action: &str| PodFailurePolicyRule {
        action: action.into(),
        on_exit_codes: Some(PodFailurePolicyOnExitCodesRequirement {
            container_name: None,
            operator: "In".into(),
            values: vec![42],
        }),
        on_pod_conditions: None,
    };
    let job = |action| JobSpec {
        pod_failure_policy: Some(PodFailurePolicy { rules: vec![rule(action)] }),
        backoff_limit: Some(0),
        ..spec(1, 1)
    };
    let mut w = World::new(job("FailJob"), |_, _| Some(42));
    w.settle();
    assert!(w.conditions().ends_with("Failed=True PodFailurePolicy"));
    assert_eq!(w.made, 1);
    let mut w = World::new(job("Ignore"), |_, n| Some(if n < 3 { 42 } else { 0 }));
    w.settle();
    assert!(w.conditions().ends_with("Complete=True CompletionsReached"));
    assert_eq!((w.status().failed, w.made), (None, 3));
}

#[test]
fn suspending_and_resuming() {
    let mut w = World::new(JobSpec { suspend: Some(true), ..spec(2, 2) }, |_, _| None);
    w.settle();
    assert_eq!((w.conditions().as_str(), w.made), ("Suspended=True JobSuspended", 0));
    assert_eq!(w.status().start_time, None);
    w.job.spec.as_mut().unwrap().suspend = Some(false);
    w.settle();
    assert_eq!((w.conditions().as_str(), w.made), ("Suspended=False JobResumed", 2));
    assert!(w.status().start_time.is_some());
    w.job.spec.as_mut().unwrap().suspend = Some(true);
    w.settle();
    assert_eq!((w.pods.len(), w.status().active), (0, None));
    assert_eq!(w.status().start_time, None);
    w.job.spec.as_mut().unwrap().suspend = None;
    w.end = |_, _| Some(0);
    w.settle();
    assert!(w.conditions().ends_with("Complete=True CompletionsReached"));
}

#[test]
fn lowering_parallelism_removes_pods() {
    let mut w = World::new(spec(5, 4), |_, _| None);
    w.settle();
    assert_eq!(w.pods.len(), 4);
    w.job.spec.as_mut().unwrap().parallelism = Some(1);
    for _ in 0..5 {
        w.round();
        w.nodes();
    }
    assert_eq!(w.pods.iter().filter(|p| pod::active(p)).count(), 1);
}
