//! One container's end may start all of its Pod anew, in the same sandbox (KEP-5532). When that was is read from what the runtime holds, so
//! that a restart of this process forgets nothing.

use k8s_openapi::api::core::v1::PodSpec;

use super::observed::{ContainerState, Observed};
use super::spec::{self, Role};

/// The action of a rule.
const ACTION: &str = "RestartAllContainers";

/// Whether a Pod has such a rule.
pub fn possible(pod: &PodSpec) -> bool {
    spec::members(pod).iter().any(|m| m.container.restart_policy_rules.iter().flatten().any(|r| r.action == ACTION))
}

/// Since when the Pod's containers are to be new, ns: the last end of one that restarts all; 0 when there was none.
pub fn since(pod: &PodSpec, observed: &Observed) -> i64 {
    let members = spec::members(pod);
    let ended = observed.records.iter().filter(|r| r.state == ContainerState::Exited);
    let triggers = ended.filter(|r| {
        let member = members.iter().find(|m| m.container.name == r.name && m.role != Role::Ephemeral);
        member.and_then(|m| spec::rule(&m.container, r.exit_code)).is_some_and(|rule| rule.action == ACTION)
    });
    triggers.map(|r| r.finished_at).max().unwrap_or(0)
}

/// Whether a container of the Pod has not been started since.
pub fn unfinished(pod: &PodSpec, observed: &Observed) -> bool {
    let past = |name: &str| observed.latest(name).is_some_and(|r| observed.is_past(r));
    spec::members(pod).iter().any(|m| m.role != Role::Ephemeral && past(&m.container.name))
}

/// Whether containers that are to be new still run.
pub fn ending(pod: &PodSpec, observed: &Observed) -> bool {
    let members = spec::members(pod);
    let of_pod = |name: &str| members.iter().any(|m| m.container.name == name && m.role != Role::Ephemeral);
    observed.running().any(|r| observed.is_past(r) && of_pod(&r.name))
}
