//! The status of a Pod: a pure function of its spec, its former status and what the runtime holds.

mod conditions;
pub(super) mod containers;
mod phase;

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{HostIP, Pod, PodIP, PodStatus, ResourceRequirements};

use super::observed::Observed;
use super::plan::{Probes, Restarts};
use super::spec;
use crate::time;

pub use conditions::{remove as remove_condition, set as set_condition};

/// Why a container could not be started: a reason such as `ErrImagePull` and what goes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hindrance {
    /// CamelCase.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// Hindrances by container name.
pub type Hindrances = HashMap<String, Hindrance>;

/// A verdict of the node on the whole Pod that its containers do not show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// `Evicted`, `DeadlineExceeded`, `OutOfcpu`, …
    pub reason: String,
    /// For people.
    pub message: String,
    /// The reason of the `DisruptionTarget` condition, if the Pod gets one.
    pub disruption: Option<String>,
}

/// What a status is made from.
#[derive(Debug)]
pub struct Facts<'a> {
    /// The Pod; its status is the former one.
    pub pod: &'a Pod,
    /// What the runtime holds.
    pub observed: &'a Observed,
    /// What the probes say.
    pub probes: &'a Probes,
    /// What keeps containers from starting.
    pub hindrances: &'a Hindrances,
    /// Containers stopped so that they start again.
    pub to_restart: &'a Restarts,
    /// The node failed the Pod.
    pub verdict: Option<&'a Verdict>,
    /// The Pod ends: nothing of it starts any more.
    pub ending: bool,
    /// Everything has ended and the Pod cannot come back.
    pub ended: bool,
    /// The resources in force of containers, by id.
    pub applied: &'a std::collections::BTreeMap<String, ResourceRequirements>,
    /// The node's addresses, the primary one first.
    pub node_ips: &'a [String],
    /// Now, ns.
    pub now: i64,
}

/// The status.
pub fn status(facts: &Facts<'_>) -> PodStatus {
    let pod = facts.pod;
    let old = pod.status.clone().unwrap_or_default();
    let Some(pod_spec) = &pod.spec else { return old };
    let mut new = PodStatus {
        start_time: old.start_time.clone().or_else(|| Some(time::time_now(facts.now))),
        qos_class: Some(old.qos_class.clone().unwrap_or_else(|| crate::cgroup::qos::class(pod).name().to_owned())),
        conditions: old.conditions.clone(),
        nominated_node_name: old.nominated_node_name.clone(),
        observed_generation: pod.metadata.generation.or(old.observed_generation),
        resource_claim_statuses: old.resource_claim_statuses.clone(),
        extended_resource_claim_status: old.extended_resource_claim_status.clone(),
        host_ip: facts.node_ips.first().cloned(),
        host_ips: Some(facts.node_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect()),
        allocated_resources: old.allocated_resources.clone(),
        resources: old.resources.clone(),
        ..Default::default()
    };
    addresses(facts, &old, &mut new);
    containers::fill(facts, &old, &mut new);
    let phase = phase::phase(facts, pod_spec, &new);
    new.phase = Some(phase.to_owned());
    match facts.verdict {
        Some(v) => {
            new.reason = Some(v.reason.clone());
            new.message = Some(v.message.clone());
        }
        None if spec::is_terminal(old.phase.as_deref()) => {
            new.reason = old.reason.clone();
            new.message = old.message.clone();
        }
        None => {}
    }
    conditions::fill(facts, pod_spec, &old, &mut new);
    new
}

fn addresses(facts: &Facts<'_>, old: &PodStatus, new: &mut PodStatus) {
    let ips: Vec<String> = if spec::host_network(facts.pod) {
        if facts.observed.sandbox().is_some() || old.pod_ip.is_some() { facts.node_ips.to_vec() } else { Vec::new() }
    } else {
        match facts.observed.ready_sandbox() {
            Some(s) if !s.ips.is_empty() => s.ips.clone(),
            // A Pod that has ended keeps the addresses it had.
            _ => old.pod_ips.iter().flatten().map(|p| p.ip.clone()).collect(),
        }
    };
    new.pod_ip = ips.first().cloned();
    new.pod_ips = (!ips.is_empty()).then(|| ips.into_iter().map(|ip| PodIP { ip }).collect());
}

/// The status of a Pod the node does not take in.
pub fn rejected(pod: &Pod, verdict: &Verdict, now: i64) -> PodStatus {
    let old = pod.status.clone().unwrap_or_default();
    PodStatus {
        phase: Some("Failed".into()),
        reason: Some(verdict.reason.clone()),
        message: Some(verdict.message.clone()),
        start_time: old.start_time.clone().or_else(|| Some(time::time_now(now))),
        observed_generation: pod.metadata.generation,
        ..old
    }
}

#[cfg(test)]
mod tests;
