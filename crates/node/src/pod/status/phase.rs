//! The phase: Pending, Running, Succeeded or Failed.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, PodSpec, PodStatus};

use super::Facts;
use crate::pod::restart_all;
use crate::pod::spec::{self, Role};

fn find<'a>(statuses: &'a Option<Vec<ContainerStatus>>, name: &str) -> Option<&'a ContainerStatus> {
    statuses.iter().flatten().find(|s| s.name == name)
}

/// The exit code of a container that has ended, now or, while it waits to start again, before.
fn ended(s: &ContainerStatus) -> Option<i32> {
    let code = |st: &Option<ContainerState>| st.as_ref().and_then(|s| s.terminated.as_ref()).map(|t| t.exit_code);
    code(&s.state).or_else(|| if is_waiting(s) { code(&s.last_state) } else { None })
}

fn is_waiting(s: &ContainerStatus) -> bool {
    s.state.as_ref().is_none_or(|s| s.running.is_none() && s.terminated.is_none())
}

fn is_running(s: &ContainerStatus) -> bool {
    s.state.as_ref().is_some_and(|s| s.running.is_some())
}

/// The phase that goes with these container statuses.
pub fn phase(facts: &Facts<'_>, pod: &PodSpec, new: &PodStatus) -> &'static str {
    match facts.pod.status.as_ref().and_then(|s| s.phase.as_deref()) {
        Some("Failed") => return "Failed",
        Some("Succeeded") => return "Succeeded",
        _ if facts.verdict.is_some() => return "Failed",
        _ => {}
    }
    if facts.ended {
        return ended_phase(pod, new);
    }
    if !facts.ending && restart_all::unfinished(pod, facts.observed) {
        // In the middle of its life, whatever its containers' ends would mean otherwise.
        let ran = facts.pod.status.as_ref().is_some_and(|s| s.phase.as_deref() == Some("Running"));
        return if ran { "Running" } else { "Pending" };
    }
    let mut pending_init = false;
    let mut pending_sidecar = false;
    for c in pod.init_containers.iter().flatten() {
        let status = find(&new.init_container_statuses, &c.name);
        if spec::is_sidecar(c) {
            pending_sidecar |= status
                .is_none_or(|s| (is_running(s) && s.started != Some(true)) || (is_waiting(s) && ended(s).is_none()));
            continue;
        }
        match status.and_then(ended) {
            Some(0) => {}
            Some(code) if !spec::restarts(pod, Role::Init, c, code) => return "Failed",
            _ => pending_init = true,
        }
    }
    let (mut waiting, mut running, mut stopped, mut succeeded, mut restarting) = (0, 0, 0, 0, false);
    for c in &pod.containers {
        let Some(s) = find(&new.container_statuses, &c.name) else {
            waiting += 1;
            continue;
        };
        if is_running(s) {
            running += 1;
        } else if let Some(code) = ended(s) {
            stopped += 1;
            succeeded += u32::from(code == 0);
            restarting |= spec::restarts(pod, Role::Regular, c, code);
        } else {
            waiting += 1;
        }
    }
    if pending_init || (pending_sidecar && running + stopped == 0) || waiting > 0 {
        return "Pending";
    }
    if running > 0 {
        return "Running";
    }
    if stopped > 0 {
        if restarting && !facts.ending {
            return "Running";
        }
        // While a Pod ends its phase stays as it was until everything has stopped.
        if facts.ending || !facts.observed.is_stopped() {
            return "Running";
        }
        return if stopped == succeeded { "Succeeded" } else { "Failed" };
    }
    "Pending"
}

/// The phase of a Pod of which nothing will run again.
fn ended_phase(pod: &PodSpec, new: &PodStatus) -> &'static str {
    let regular = pod.containers.iter().all(|c| find(&new.container_statuses, &c.name).and_then(ended) == Some(0));
    let init = pod
        .init_containers
        .iter()
        .flatten()
        .filter(|c| !spec::is_sidecar(c))
        .all(|c| find(&new.init_container_statuses, &c.name).and_then(ended) == Some(0));
    if regular && init { "Succeeded" } else { "Failed" }
}
