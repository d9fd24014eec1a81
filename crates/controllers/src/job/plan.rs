//! Deciding about one Job.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;

use super::indexes::{self, Indexes, index_of};
use super::policy::{self, Action, action_for, failed, failures_with};
use super::template;
use crate::common::{Event, deleting, plus, pod, sooner, stored_time, uid, until};

/// The finalizer by which a pod stays until it is counted.
pub const TRACKING: &str = "batch.kubernetes.io/job-tracking";
/// Pods made, deleted or counted in one round at most.
const BURST: usize = 500;

/// Everything that a decision about one Job rests on.
pub struct Snapshot<'a> {
    /// The Job, not finished.
    pub job: &'a Job,
    /// The pods that it holds.
    pub pods: &'a [Arc<Pod>],
    /// Whether pods may be made or deleted (all expectations are met).
    pub may_act: bool,
    /// The present.
    pub now: Timestamp,
}

/// What is to be done, in this order.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// Pods to delete.
    pub delete: Vec<Arc<Pod>>,
    /// Pods to make.
    pub create: Vec<Pod>,
    /// The status to write when it differs; it assumes that all of the above succeeds.
    pub status: Option<JobStatus>,
    /// Pods that are accounted for once the status is written: their finalizers go.
    pub release: Vec<Arc<Pod>>,
    /// Events about the Job, once the status is written.
    pub events: Vec<Event>,
    /// When to look again although nothing changes.
    pub again: Option<Duration>,
}

/// One round's reckoning.
struct Round<'a> {
    s: &'a Snapshot<'a>,
    spec: &'a JobSpec,
    indexed: bool,
    completions: Option<i32>,
    active: Vec<Arc<Pod>>,
    terminating: i32,
    status: JobStatus,
    succeeded: i32,
    succeeded_indexes: Indexes,
    failed_indexes: Indexes,
    /// Uids counted but whose pods may still carry the finalizer.
    uncounted: (BTreeSet<String>, BTreeSet<String>),
    plan: Plan,
}

/// Whether the pod still waits to be counted.
pub fn tracked(p: &Pod) -> bool {
    p.metadata.finalizers.iter().flatten().any(|f| f == TRACKING)
}

/// Whether a Job has a final condition.
pub fn finished(job: &Job) -> bool {
    let conditions = job.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().any(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True")
}

/// Decides one round.
pub fn plan(s: &Snapshot<'_>) -> Plan {
    let Some(spec) = &s.job.spec else { return Plan::default() };
    let stored = s.job.status.clone().unwrap_or_default();
    let mut round = Round::new(s, spec, stored.clone());
    round.settle_counted();
    let suspended = spec.suspend == Some(true);
    if round.status.start_time.is_none() && !suspended {
        round.status.start_time = Some(stored_time(s.now));
    }
    let finishing = round.finishing();
    round.count_new(finishing.is_some());
    match &finishing {
        Some(_) => round.stop_active(),
        None => round.manage(suspended),
    }
    let finishing = finishing.or_else(|| round.completed());
    round.finish(finishing);
    let Round { mut status, mut plan, .. } = round;
    status.conditions = status.conditions.filter(|c| !c.is_empty());
    plan.status = (status != stored).then_some(status);
    plan
}

impl<'a> Round<'a> {
    fn new(s: &'a Snapshot<'a>, spec: &'a JobSpec, status: JobStatus) -> Self {
        let indexed = spec.completion_mode.as_deref() == Some("Indexed");
        let completions = spec.completions;
        let limit = completions.unwrap_or(0);
        let list = |t: &Option<String>| indexes::parse(t.as_deref().unwrap_or_default(), limit);
        let u = status.uncounted_terminated_pods.clone().unwrap_or_default();
        let set = |l: Option<Vec<String>>| l.unwrap_or_default().into_iter().collect();
        Self {
            indexed,
            completions,
            active: s.pods.iter().filter(|p| pod::active(p)).cloned().collect(),
            terminating: count(s.pods.iter().filter(|p| pod::terminating(p))),
            succeeded: 0,
            succeeded_indexes: list(&status.completed_indexes),
            failed_indexes: list(&status.failed_indexes),
            uncounted: (set(u.succeeded), set(u.failed)),
            status,
            s,
            spec,
            plan: Plan::default(),
        }
    }

    fn per_index(&self) -> Option<u32> {
        self.spec.backoff_limit_per_index.filter(|_| self.indexed).and_then(|l| u32::try_from(l).ok())
    }

    fn index(&self, p: &Pod) -> Option<i32> {
        index_of(p, self.completions.unwrap_or(0))
    }

    /// What was counted and has lost its finalizer moves from the uids to the numbers.
    fn settle_counted(&mut self) {
        let waiting: BTreeSet<&str> = self.s.pods.iter().filter(|p| tracked(p)).map(|p| uid(&**p)).collect();
        let settle = |set: &mut BTreeSet<String>| {
            let before = set.len();
            set.retain(|u| waiting.contains(u.as_str()));
            i32::try_from(before - set.len()).unwrap_or(0)
        };
        let (done, lost) = (settle(&mut self.uncounted.0), settle(&mut self.uncounted.1));
        if !self.indexed {
            self.status.succeeded = some(self.status.succeeded.unwrap_or(0) + done);
        }
        self.status.failed = some(self.status.failed.unwrap_or(0) + lost);
    }

    /// Whether, and by which interim condition, the Job is on its way to its end.
    fn finishing(&self) -> Option<JobCondition> {
        let standing =
            |t: &str| self.status.conditions.iter().flatten().find(|c| c.type_ == t && c.status == "True").cloned();
        if let Some(c) = standing("SuccessCriteriaMet").or_else(|| standing("FailureTarget")) {
            return Some(c);
        }
        let fail =
            |reason: &str, message: String| Some(condition("FailureTarget", "True", reason, message, self.s.now));
        let lost: Vec<_> = self.s.pods.iter().filter(|p| failed(p, self.s.job)).collect();
        for p in &lost {
            if let Action::FailJob(message) = action_for(self.s.job, p) {
                return fail("PodFailurePolicy", message);
            }
        }
        let new: Vec<_> = lost.iter().filter(|p| self.counts_as_new_failure(p)).collect();
        let total = i64::from(self.status.failed.unwrap_or(0)) + (self.uncounted.1.len() + new.len()) as i64;
        if total > i64::from(self.spec.backoff_limit.unwrap_or(6)) || policy::restarts_exceed(self.s.job, &self.active)
        {
            return fail("BackoffLimitExceeded", "Job has reached the specified backoff limit".into());
        }
        if self.deadline().is_some_and(|at| at <= self.s.now) {
            return fail("DeadlineExceeded", "Job was active longer than specified deadline".into());
        }
        if !self.indexed {
            return None;
        }
        let completions = self.completions.unwrap_or(0);
        let done = self.succeeded_now();
        if let Some(limit) = self.per_index() {
            let lost = self.failed_now(limit);
            if self.spec.max_failed_indexes.is_some_and(|m| count(lost.iter()) > m) {
                let message = "Job has exceeded the specified maximal number of failed indexes";
                return fail("MaxFailedIndexesExceeded", message.into());
            }
            if !lost.is_empty() && count(lost.iter()) + count(done.iter()) >= completions {
                return fail("FailedIndexes", "Job has failed indexes".into());
            }
        }
        let message = policy::success(self.spec.success_policy.as_ref(), completions, &done)?;
        Some(condition("SuccessCriteriaMet", "True", "SuccessPolicy", message, self.s.now))
    }

    fn deadline(&self) -> Option<Timestamp> {
        let seconds = self.spec.active_deadline_seconds.filter(|_| self.spec.suspend != Some(true))?;
        Some(plus(self.status.start_time.as_ref()?.0, seconds))
    }

    fn counts_as_new_failure(&self, p: &Pod) -> bool {
        let valid = !self.indexed || self.index(p).is_some();
        tracked(p) && valid && !self.uncounted.1.contains(uid(p)) && action_for(self.s.job, p) != Action::Ignore
    }

    /// Indexes that have a succeeded pod, counted before or seen now.
    fn succeeded_now(&self) -> Indexes {
        let seen = self.s.pods.iter().filter(|p| tracked(p) && pod::phase(p) == "Succeeded");
        let mut all = self.succeeded_indexes.clone();
        all.extend(seen.filter_map(|p| self.index(p)));
        all
    }

    /// Indexes that failed for good, counted before or seen now.
    fn failed_now(&self, limit: u32) -> Indexes {
        let mut all = self.failed_indexes.clone();
        let lost = self.s.pods.iter().filter(|p| tracked(p) && failed(p, self.s.job));
        let for_good =
            |p: &&Arc<Pod>| action_for(self.s.job, p) == Action::FailIndex || failures_with(self.s.job, p).0 > limit;
        all.extend(lost.filter(for_good).filter_map(|p| self.index(p)));
        all
    }

    /// Counts the pods that ended since, and chooses those that may go.
    fn count_new(&mut self, finishing: bool) {
        let delayed = if finishing { BTreeSet::new() } else { self.delayed() };
        if self.indexed {
            self.succeeded_indexes = self.succeeded_now();
            self.status.completed_indexes = Some(indexes::format(&self.succeeded_indexes)).filter(|t| !t.is_empty());
            if let Some(limit) = self.per_index() {
                self.failed_indexes = self.failed_now(limit);
                self.status.failed_indexes = Some(indexes::format(&self.failed_indexes));
            }
        }
        for p in self.s.pods.iter().filter(|p| tracked(p)) {
            if self.plan.release.len() >= BURST {
                self.plan.again = Some(Duration::ZERO);
                break;
            }
            let known = self.uncounted.0.contains(uid(&**p)) || self.uncounted.1.contains(uid(&**p));
            if pod::phase(p) == "Succeeded" {
                if !known && !self.indexed {
                    self.uncounted.0.insert(uid(&**p).to_owned());
                }
            } else if failed(p, self.s.job) || finishing {
                // Of a job that ends, a pod that did not is a failed one.
                if delayed.contains(uid(&**p)) {
                    continue;
                }
                if !known && self.counts_as_new_failure(p) {
                    self.uncounted.1.insert(uid(&**p).to_owned());
                }
            } else {
                continue;
            }
            self.plan.release.push(p.clone());
        }
    }

    /// With limits per index, the last failed pod of an index stays until it is replaced: it carries the number of failures.
    fn delayed(&self) -> BTreeSet<String> {
        let Some(limit) = self.per_index() else { return BTreeSet::new() };
        let over = self.failed_now(limit);
        let mut last: BTreeMap<i32, &Arc<Pod>> = BTreeMap::new();
        for p in self.s.pods.iter().filter(|p| tracked(p) && failed(p, self.s.job)) {
            if let Some(i) = self.index(p) {
                let more = |old: &Arc<Pod>| failures_with(self.s.job, p) > failures_with(self.s.job, old);
                if last.get(&i).is_none_or(|old| more(old)) {
                    last.insert(i, p);
                }
            }
        }
        let replaced: Indexes = self.active.iter().filter_map(|p| self.index(p)).collect();
        let done = self.succeeded_now();
        let waits = |i: &i32| !over.contains(i) && !replaced.contains(i) && !done.contains(i);
        last.into_iter().filter(|(i, _)| waits(i)).map(|(_, p)| uid(&**p).to_owned()).collect()
    }

    fn total_succeeded(&self) -> i32 {
        if self.indexed {
            count(self.succeeded_indexes.iter())
        } else {
            self.status.succeeded.unwrap_or(0) + count(self.uncounted.0.iter())
        }
    }

    /// A Job that ends deletes what still runs.
    fn stop_active(&mut self) {
        if !self.s.may_act {
            // What was deleted before is not seen yet.
            return;
        }
        self.plan.delete = std::mem::take(&mut self.active);
        self.terminating += count(self.plan.delete.iter());
    }

    /// Makes and deletes pods towards the wanted parallelism.
    fn manage(&mut self, suspended: bool) {
        self.succeeded = self.total_succeeded();
        if let Some(at) = self.deadline() {
            self.plan.again = sooner(self.plan.again, until(at, self.s.now));
        }
        if !self.s.may_act || deleting(self.s.job) {
            return;
        }
        if suspended {
            self.plan.delete = std::mem::take(&mut self.active);
            self.terminating += count(self.plan.delete.iter());
        } else {
            self.towards(self.wanted());
        }
        self.suspension(suspended);
    }

    fn wanted(&self) -> i32 {
        let parallelism = self.spec.parallelism.unwrap_or(1);
        match self.completions {
            None if self.succeeded > 0 => count(self.active.iter()),
            None => parallelism,
            Some(n) => (n - self.succeeded - count(self.failed_indexes.iter())).min(parallelism).max(0),
        }
    }

    fn towards(&mut self, wanted: i32) {
        let surplus = usize::try_from(count(self.active.iter()) - wanted).unwrap_or(0);
        let remove = self.for_removal(surplus);
        if !remove.is_empty() {
            self.active.retain(|p| remove.iter().all(|r| uid(&**r) != uid(&**p)));
            self.terminating += count(remove.iter());
            self.plan.delete = remove;
            return;
        }
        let blocked = if policy::replaces_only_failed(self.s.job) { self.terminating } else { 0 };
        let missing = usize::try_from(wanted - count(self.active.iter()) - blocked).unwrap_or(0).min(BURST);
        if missing == 0 {
            return;
        }
        if self.per_index().is_some() {
            self.create_by_index(missing);
            return;
        }
        if let Some(wait) = policy::remaining(self.s.job, self.s.pods, self.s.now) {
            self.plan.again = sooner(self.plan.again, Some(wait));
            return;
        }
        self.plan.create = if self.indexed {
            self.pending().take(missing).map(|i| template::pod(self.s.job, Some(i), None)).collect()
        } else {
            vec![template::pod(self.s.job, None, None); missing]
        };
    }

    /// Indexes that have neither ended nor a pod at work.
    fn pending(&self) -> impl Iterator<Item = i32> + use<> {
        let only_failed = policy::replaces_only_failed(self.s.job);
        let held = self.s.pods.iter().filter(|p| pod::active(p) || (only_failed && pod::terminating(p)));
        let mut taken: Indexes = held.filter_map(|p| self.index(p)).collect();
        taken.extend(&self.succeeded_indexes);
        taken.extend(&self.failed_indexes);
        (0..self.completions.unwrap_or(0)).filter(move |i| !taken.contains(i))
    }

    fn create_by_index(&mut self, missing: usize) {
        let mut last: BTreeMap<i32, &Arc<Pod>> = BTreeMap::new();
        for p in self.s.pods.iter().filter(|p| failed(p, self.s.job)) {
            if let Some(i) = self.index(p)
                && last.get(&i).is_none_or(|old| failures_with(self.s.job, p) > failures_with(self.s.job, old))
            {
                last.insert(i, p);
            }
        }
        let mut again = None;
        for i in self.pending() {
            if self.plan.create.len() >= missing {
                break;
            }
            match last.get(&i) {
                Some(p) => match policy::remaining_of_index(self.s.job, p, self.s.now) {
                    Some(wait) => again = sooner(again, Some(wait)),
                    None => {
                        let counts = failures_with(self.s.job, p);
                        self.plan.create.push(template::pod(self.s.job, Some(i), Some(counts)));
                    }
                },
                None => self.plan.create.push(template::pod(self.s.job, Some(i), Some((0, 0)))),
            }
        }
        self.plan.again = sooner(self.plan.again, again);
    }

    /// Surplus pods; of an indexed Job those of no index, of an index done, or of one that has another pod go in any case.
    fn for_removal(&self, surplus: usize) -> Vec<Arc<Pod>> {
        let mut remove: Vec<Arc<Pod>> = vec![];
        let mut rest = self.active.clone();
        if self.indexed {
            let mut by_index: BTreeMap<Option<i32>, Vec<Arc<Pod>>> = BTreeMap::new();
            for p in rest.drain(..) {
                let i =
                    self.index(&p).filter(|i| !self.succeeded_indexes.contains(i) && !self.failed_indexes.contains(i));
                by_index.entry(i).or_default().push(p);
            }
            for (i, pods) in by_index {
                let extra = if i.is_none() { pods.len() } else { pods.len() - 1 };
                let doomed = pod::pods_to_delete(&pods, &pods, extra, self.s.now);
                rest.extend(pods.into_iter().filter(|p| doomed.iter().all(|d| uid(&**d) != uid(&**p))));
                remove.extend(doomed);
            }
        }
        if remove.len() < surplus {
            remove.extend(pod::pods_to_delete(&rest, &rest, surplus - remove.len(), self.s.now));
        }
        remove.truncate(BURST);
        remove
    }

    /// Keeps the Suspended condition and the start time.
    fn suspension(&mut self, suspended: bool) {
        let standing =
            self.status.conditions.iter().flatten().find(|c| c.type_ == "Suspended").map(|c| c.status.clone());
        let (status, reason, message, event) = match (suspended, standing.as_deref()) {
            (true, Some("True")) | (false, None | Some("False")) => return,
            (true, _) => ("True", "JobSuspended", "Job suspended", "Suspended"),
            (false, _) => ("False", "JobResumed", "Job resumed", "Resumed"),
        };
        self.set(condition("Suspended", status, reason, message.into(), self.s.now));
        // Cleared, too, when it is suspended (KEP-5440): whoever resumes it may place it anew.
        self.status.start_time = (!suspended).then(|| stored_time(self.s.now));
        self.plan.events.push(Event::normal(event, message));
    }

    /// Success by the number of completions.
    fn completed(&self) -> Option<JobCondition> {
        let idle = self.active.is_empty() && self.plan.create.is_empty();
        let enough = match self.completions {
            None => self.succeeded > 0,
            Some(n) => self.succeeded >= n,
        };
        (idle && enough).then(|| {
            let message = "Reached expected number of succeeded pods";
            condition("SuccessCriteriaMet", "True", "CompletionsReached", message.into(), self.s.now)
        })
    }

    /// Writes the numbers, and the final condition once nothing of the Job is left to count or to end.
    fn finish(&mut self, finishing: Option<JobCondition>) {
        let create = count(self.plan.create.iter());
        self.status.active = some(count(self.active.iter()) + create);
        self.status.ready = Some(count(self.active.iter().filter(|p| pod::ready(p))));
        self.status.terminating = Some(self.terminating);
        if self.indexed {
            self.status.succeeded = some(self.total_succeeded());
        }
        let list = |set: &BTreeSet<String>| Some(set.iter().cloned().collect::<Vec<_>>()).filter(|l| !l.is_empty());
        self.status.uncounted_terminated_pods =
            Some(UncountedTerminatedPods { succeeded: list(&self.uncounted.0), failed: list(&self.uncounted.1) });
        let Some(interim) = finishing else { return };
        let last = self.uncounted.0.is_empty() && self.uncounted.1.is_empty() && self.terminating == 0;
        let ended = last && self.active.is_empty() && self.s.may_act;
        let type_ = if interim.type_ == "SuccessCriteriaMet" { "Complete" } else { "Failed" };
        let (reason, message) =
            (interim.reason.clone().unwrap_or_default(), interim.message.clone().unwrap_or_default());
        self.set(interim);
        if !ended {
            return;
        }
        self.set(condition(type_, "True", &reason, message.clone(), self.s.now));
        if type_ == "Complete" {
            self.status.completion_time = Some(stored_time(self.s.now));
            self.plan.events.push(Event::normal("Completed", "Job completed"));
        } else {
            self.plan.events.push(Event { type_: "Warning", reason: failure_reason(&reason), note: message });
        }
    }

    /// Puts a condition in place of the one of its type, if that says something else.
    fn set(&mut self, new: JobCondition) {
        let all = self.status.conditions.get_or_insert_default();
        match all.iter_mut().find(|c| c.type_ == new.type_) {
            Some(old) if old.status == new.status && old.reason == new.reason && old.message == new.message => {}
            Some(old) => *old = new,
            None => all.push(new),
        }
    }
}

/// The reasons of failure, as events need them.
fn failure_reason(reason: &str) -> &'static str {
    match reason {
        "PodFailurePolicy" => "PodFailurePolicy",
        "BackoffLimitExceeded" => "BackoffLimitExceeded",
        "DeadlineExceeded" => "DeadlineExceeded",
        "MaxFailedIndexesExceeded" => "MaxFailedIndexesExceeded",
        "FailedIndexes" => "FailedIndexes",
        _ => "Failed",
    }
}

fn condition(type_: &str, status: &str, reason: &str, message: String, now: Timestamp) -> JobCondition {
    JobCondition {
        type_: type_.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_probe_time: Some(stored_time(now)),
        last_transition_time: Some(stored_time(now)),
    }
}

fn count<T>(items: impl Iterator<Item = T>) -> i32 {
    i32::try_from(items.count()).unwrap_or(i32::MAX)
}

fn some(n: i32) -> Option<i32> {
    Some(n).filter(|n| *n != 0)
}
