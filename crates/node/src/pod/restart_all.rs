//! One container's end may start all of its Pod anew, in the same sandbox (KEP-5532). Every container
//! notes in the runtime which life of the Pod it was made for: so a restart of this process forgets nothing, and no clock is asked.

use k8s_openapi::api::core::v1::PodSpec;

use super::observed::{ContainerState, Observed, Record};
use super::spec::{self, Role};

/// The action of a rule.
const ACTION: &str = "RestartAllContainers";

/// Whether a Pod has such a rule.
pub fn possible(pod: &PodSpec) -> bool {
    spec::members(pod).iter().any(|m| m.container.restart_policy_rules.iter().flatten().any(|r| r.action == ACTION))
}

/// Which life of its containers the Pod is in: each end that restarts all begins the next.
pub fn life(pod: &PodSpec, observed: &Observed) -> u32 {
    let members = spec::members(pod);
    let begins_next = |r: &Record| {
        let member = members.iter().find(|m| m.container.name == r.name && m.role != Role::Ephemeral);
        let rule = member.and_then(|m| spec::rule(&m.container, r.exit_code));
        r.state == ContainerState::Exited && rule.is_some_and(|rule| rule.action == ACTION)
    };
    observed.records.iter().map(|r| r.life.saturating_add(begins_next(r).into())).max().unwrap_or(0)
}

/// Whether a container of the Pod has not been started since.
pub fn unfinished(pod: &PodSpec, observed: &Observed) -> bool {
    let past = |name: &str| observed.latest(name).is_some_and(|r| observed.is_past(r));
    spec::members(pod).iter().any(|m| m.role != Role::Ephemeral && past(&m.container.name))
}

/// The containers of the past that still run.
pub fn ending<'a>(pod: &'a PodSpec, observed: &'a Observed) -> impl Iterator<Item = &'a Record> {
    let members = spec::members(pod);
    let of_pod = move |name: &str| members.iter().any(|m| m.container.name == name && m.role != Role::Ephemeral);
    observed.running().filter(move |r| observed.is_past(r) && of_pod(&r.name))
}
