//! Pod failure policies (KEP-3329), success policies (KEP-3998) and back-off.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule, SuccessPolicy};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use super::indexes::{Indexes, parse};
use crate::common::pod::phase;
use crate::common::{annotation, deleting, name, namespace, until};

/// First wait after a failed pod.
const FIRST_BACKOFF: u64 = 10;
/// Longest wait after failed pods.
const LONGEST_BACKOFF: u64 = 600;
/// How many pods of this index failed before this one.
pub const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// How many of those failures a policy told to ignore.
pub const IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

/// What a failure policy says about a failed pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// No rule matched, or a rule says to count it: towards the limits.
    Count,
    /// Not counted.
    Ignore,
    /// The pod's index fails.
    FailIndex,
    /// The whole job fails, for this reason.
    FailJob(String),
}

/// Whether terminating pods are replaced only once they failed.
pub fn replaces_only_failed(job: &Job) -> bool {
    let spec = job.spec.as_ref();
    spec.is_some_and(|s| s.pod_replacement_policy.as_deref() == Some("Failed") || s.pod_failure_policy.is_some())
}

/// Whether the pod counts as failed: by its phase, or (where terminating pods are replaced at once) by being deleted before it succeeded.
pub fn failed(pod: &Pod, job: &Job) -> bool {
    phase(pod) == "Failed" || (!replaces_only_failed(job) && deleting(pod) && phase(pod) != "Succeeded")
}

/// What the job's failure policy says about a failed pod: the first rule that matches.
pub fn action_for(job: &Job, pod: &Pod) -> Action {
    let rules = job.spec.as_ref().and_then(|s| s.pod_failure_policy.as_ref()).map_or(&[][..], |p| &p.rules);
    for (i, rule) in rules.iter().enumerate() {
        if let Some(what) = matched(rule, pod) {
            return match rule.action.as_str() {
                "Ignore" => Action::Ignore,
                "FailIndex" => Action::FailIndex,
                "FailJob" => Action::FailJob(format!("{what} matching FailJob rule at index {i}")),
                _ => Action::Count,
            };
        }
    }
    Action::Count
}

/// In words how a rule matches a pod, if it does.
fn matched(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<String> {
    if let Some(wanted) = &rule.on_exit_codes {
        let (container, code) = exit_code(wanted, pod)?;
        let place = format!("{}/{}", namespace(pod), name(pod));
        return Some(format!("Container {container} for pod {place} failed with exit code {code}"));
    }
    for pattern in rule.on_pod_conditions.iter().flatten() {
        let status = pattern.status.as_deref().unwrap_or("True");
        let mut all = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
        if all.any(|c| c.type_ == pattern.type_ && c.status == status) {
            return Some(format!("Pod {}/{} has condition {}", namespace(pod), name(pod), pattern.type_));
        }
    }
    None
}

fn exit_code(wanted: &PodFailurePolicyOnExitCodesRequirement, pod: &Pod) -> Option<(String, i32)> {
    let listed = |code: i32| match wanted.operator.as_str() {
        "In" => wanted.values.contains(&code),
        "NotIn" => !wanted.values.contains(&code),
        _ => false,
    };
    statuses(pod).find_map(|c| {
        if wanted.container_name.as_ref().is_some_and(|n| *n != c.name) {
            return None;
        }
        let code = c.state.as_ref()?.terminated.as_ref()?.exit_code;
        (code != 0 && listed(code)).then(|| (c.name.clone(), code))
    })
}

fn statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.iter();
    status.flat_map(|s| s.container_statuses.iter().flatten().chain(s.init_container_statuses.iter().flatten()))
}

/// The rule of the success policy that is met, in words.
pub fn success(policy: Option<&SuccessPolicy>, completions: i32, succeeded: &Indexes) -> Option<String> {
    policy?.rules.iter().enumerate().find_map(|(i, rule)| {
        let count =
            |n: usize| rule.succeeded_count.is_some_and(|c| i64::try_from(n).unwrap_or(i64::MAX) >= i64::from(c));
        let met = match &rule.succeeded_indexes {
            Some(text) => {
                let wanted = parse(text, completions);
                let have = wanted.intersection(succeeded).count();
                if rule.succeeded_count.is_some() { count(have) } else { have == wanted.len() }
            }
            None => count(succeeded.len()),
        };
        met.then(|| format!("Matched rules at index {i}"))
    })
}

/// Restarts within running pods count towards the limit when containers are restarted in place.
pub fn restarts_exceed(job: &Job, active: &[std::sync::Arc<Pod>]) -> bool {
    let Some(spec) = &job.spec else { return false };
    if spec.template.spec.as_ref().and_then(|s| s.restart_policy.as_deref()) != Some("OnFailure") {
        return false;
    }
    let limit = spec.backoff_limit.unwrap_or(6);
    let running = active.iter().filter(|p| matches!(phase(p), "Running" | "Pending"));
    let restarts: i32 = running.map(|p| statuses(p).map(|c| c.restart_count).sum::<i32>()).sum();
    if limit == 0 { restarts > 0 } else { restarts >= limit }
}

/// When a finished pod finished: when its last container did, or when it was deleted.
pub fn finish_time(pod: &Pod) -> Option<Timestamp> {
    let containers = statuses(pod).filter_map(|c| c.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref());
    let last = containers.map(|t| t.0).max();
    last.or_else(|| pod.metadata.deletion_timestamp.as_ref().map(|t| t.0)).or_else(|| {
        let ready = crate::common::pod::condition(pod, "Ready")?;
        ready.last_transition_time.as_ref().map(|t| t.0)
    })
}

/// The wait after `failures` in a row.
fn backoff(failures: u32) -> Duration {
    if failures == 0 {
        return Duration::ZERO;
    }
    let seconds = FIRST_BACKOFF.saturating_mul(1u64.checked_shl(failures - 1).unwrap_or(u64::MAX));
    Duration::from_secs(seconds.min(LONGEST_BACKOFF))
}

/// What is left of the wait since the last of the failures that followed the last success.
pub fn remaining(job: &Job, pods: &[std::sync::Arc<Pod>], now: Timestamp) -> Option<Duration> {
    let finished = |p: &&std::sync::Arc<Pod>| finish_time(p);
    let success = pods.iter().filter(|p| phase(p) == "Succeeded").filter_map(|p| finished(&p)).max();
    let failures: Vec<Timestamp> = pods
        .iter()
        .filter(|p| failed(p, job) && action_for(job, p) != Action::Ignore)
        .filter_map(|p| finished(&p))
        .filter(|at| success.is_none_or(|s| *at > s))
        .collect();
    let last = failures.iter().max()?;
    let wait = backoff(u32::try_from(failures.len()).unwrap_or(u32::MAX));
    until(last.checked_add(wait).ok()?, now)
}

/// The number in a counting annotation.
pub fn count_in(pod: &Pod, key: &str) -> u32 {
    annotation(pod, key).and_then(|v| v.parse().ok()).unwrap_or(0)
}

/// (counted, ignored) failures of an index once this failed pod is among them.
pub fn failures_with(job: &Job, pod: &Pod) -> (u32, u32) {
    let (counted, ignored) = (count_in(pod, FAILURES), count_in(pod, IGNORED));
    match action_for(job, pod) {
        Action::Ignore => (counted, ignored + 1),
        _ => (counted + 1, ignored),
    }
}

/// What is left of the wait before an index's failed pod is replaced.
pub fn remaining_of_index(job: &Job, pod: &Pod, now: Timestamp) -> Option<Duration> {
    let (counted, ignored) = failures_with(job, pod);
    until(finish_time(pod)?.checked_add(backoff(counted + ignored)).ok()?, now)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use k8s_openapi::api::batch::v1::*;
    use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated};

    pub fn failed_with(code: i32) -> Pod {
        let mut p = crate::common::pod::testing::pod("p", "n", "Failed", None, 0);
        p.status.as_mut().unwrap().container_statuses = Some(vec![ContainerStatus {
            name: "c".into(),
            state: Some(ContainerState {
                terminated: Some(ContainerStateTerminated { exit_code: code, ..Default::default() }),
                ..Default::default()
            }),
            ..Default::default()
        }]);
        p
    }

    fn rule(action: &str, operator: &str, values: &[i32], container: Option<&str>) -> PodFailurePolicyRule {
        PodFailurePolicyRule {
            action: action.into(),
            on_exit_codes: Some(PodFailurePolicyOnExitCodesRequirement {
                container_name: container.map(Into::into),
                operator: operator.into(),
                values: values.to_vec(),
            }),
            on_pod_conditions: None,
        }
    }

    fn job(rules: Vec<PodFailurePolicyRule>) -> Job {
        Job {
            spec: Some(JobSpec { pod_failure_policy: Some(PodFailurePolicy { rules }), ..Default::default() }),
            ..Default::default()
        }
    }

    #[test]
    fn the_first_matching_rule_decides() {
        let j = job(vec![
            rule("Ignore", "In", &[5], None),
            rule("FailIndex", "In", &[6], Some("other")),
            rule("FailJob", "NotIn", &[1, 2], None),
        ]);
        assert_eq!(action_for(&j, &failed_with(5)), Action::Ignore);
        assert_eq!(
            action_for(&j, &failed_with(6)),
            Action::FailJob("Container c for pod ns/p failed with exit code 6 matching FailJob rule at index 2".into())
        );
        assert_eq!(action_for(&j, &failed_with(1)), Action::Count);
        assert_eq!(action_for(&j, &failed_with(0)), Action::Count, "zero is never a failure");
    }

    #[test]
    fn success_rules() {
        let policy = |indexes: Option<&str>, count| SuccessPolicy {
            rules: vec![SuccessPolicyRule { succeeded_indexes: indexes.map(Into::into), succeeded_count: count }],
        };
        let have = parse("0,2-3", 10);
        assert!(success(Some(&policy(Some("2-3"), None)), 10, &have).is_some());
        assert!(success(Some(&policy(Some("1-3"), None)), 10, &have).is_none());
        assert!(success(Some(&policy(Some("1-3"), Some(2))), 10, &have).is_some());
        assert!(success(Some(&policy(None, Some(4))), 10, &have).is_none());
        assert_eq!(success(Some(&policy(None, Some(3))), 10, &have).unwrap(), "Matched rules at index 0");
        assert!(success(None, 10, &have).is_none());
    }

    #[test]
    fn backoff_doubles() {
        let seconds: Vec<u64> = (0..9).map(|n| backoff(n).as_secs()).collect();
        assert_eq!(seconds, [0, 10, 20, 40, 80, 160, 320, 600, 600]);
        assert_eq!(backoff(200).as_secs(), 600);
    }
}
