//! Container statuses.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    ContainerUser, LinuxContainerUser, PodStatus, ResourceRequirements, VolumeMountStatus,
};

use super::Facts;
use crate::pod::observed::{self, Record};
use crate::pod::spec::{self, Member, Role};
use crate::time;

/// Fills the three lists of container statuses.
pub fn fill(facts: &Facts<'_>, old: &PodStatus, new: &mut PodStatus) {
    let Some(pod_spec) = &facts.pod.spec else { return };
    let has_init = pod_spec.init_containers.iter().flatten().next().is_some();
    let (mut init, mut regular, mut ephemeral) = (Vec::new(), Vec::new(), Vec::new());
    for member in spec::members(pod_spec) {
        let name = &member.container.name;
        let (list, former) = match member.role {
            Role::Init | Role::Sidecar => (&mut init, &old.init_container_statuses),
            Role::Regular => (&mut regular, &old.container_statuses),
            Role::Ephemeral => (&mut ephemeral, &old.ephemeral_container_statuses),
        };
        let former = former.iter().flatten().find(|s| &s.name == name);
        list.push(one(facts, &member, former, has_init));
    }
    let some = |v: Vec<ContainerStatus>| (!v.is_empty()).then_some(v);
    new.init_container_statuses = some(init);
    new.container_statuses = some(regular);
    new.ephemeral_container_statuses = some(ephemeral);
}

fn one(facts: &Facts<'_>, m: &Member, former: Option<&ContainerStatus>, has_init: bool) -> ContainerStatus {
    let c = &m.container;
    let mut history = facts.observed.history(&c.name);
    let newest = history.next();
    let before = history.find(|r| r.state == observed::ContainerState::Exited);
    let mut status = match newest {
        Some(r) => from_record(facts, m, r, before, former),
        None => without_record(m, former, has_init, facts),
    };
    again(facts, m, newest, &mut status);
    hindered(facts, m, newest, &mut status);
    readiness(facts, m, newest, &mut status);
    status
}

fn from_record(
    facts: &Facts<'_>,
    m: &Member,
    r: &Record,
    before: Option<&Record>,
    former: Option<&ContainerStatus>,
) -> ContainerStatus {
    let c = &m.container;
    let running = r.state == observed::ContainerState::Running;
    ContainerStatus {
        name: c.name.clone(),
        image: if r.image.is_empty() || r.image.starts_with("sha256:") {
            c.image.clone().unwrap_or_default()
        } else {
            r.image.clone()
        },
        image_id: r.image_id.clone(),
        container_id: Some(format!("containerd://{}", r.id)),
        restart_count: i32::try_from(r.attempt).unwrap_or(i32::MAX),
        state: Some(state(r)),
        last_state: before.map(state).or_else(|| former.and_then(|f| f.last_state.clone())),
        resources: resources(facts, m, r),
        allocated_resources: if m.role == Role::Ephemeral { None } else { requests(c) },
        user: if running { user(r) } else { None },
        volume_mounts: mounts(c),
        stop_signal: c.lifecycle.as_ref().and_then(|l| l.stop_signal.clone()),
        ..Default::default()
    }
}

/// The status of a container the runtime has no trace of: not started yet, or its trace was removed.
fn without_record(m: &Member, former: Option<&ContainerStatus>, has_init: bool, facts: &Facts<'_>) -> ContainerStatus {
    let c = &m.container;
    if let Some(f) = former {
        let started_before = f.state.as_ref().is_some_and(|s| s.terminated.is_some());
        if started_before {
            // What ended and was cleaned up stays told as it was.
            return f.clone();
        }
        if f.state.as_ref().is_some_and(|s| s.running.is_some()) {
            return lost(c, f, facts);
        }
        if told_lost(f) {
            return f.clone();
        }
    }
    if facts.ended && (m.role == Role::Regular && initialized(facts)) {
        // It never ran and never will. Before a Pod is initialized its containers just wait on.
        return ContainerStatus {
            name: c.name.clone(),
            image: c.image.clone().unwrap_or_default(),
            state: Some(unlocated(None)),
            ..Default::default()
        };
    }
    let reason = if has_init { "PodInitializing" } else { "ContainerCreating" };
    ContainerStatus {
        name: c.name.clone(),
        image: c.image.clone().unwrap_or_default(),
        restart_count: former.map_or(0, |f| f.restart_count),
        last_state: former.and_then(|f| f.last_state.clone()),
        state: Some(waiting(reason, None)),
        volume_mounts: mounts(c),
        stop_signal: c.lifecycle.as_ref().and_then(|l| l.stop_signal.clone()),
        ..Default::default()
    }
}

/// Whether the init containers have done their work: a regular container has run, or the last of them has passed.
fn initialized(facts: &Facts<'_>) -> bool {
    let Some(spec) = &facts.pod.spec else { return true };
    let Some(last) = spec.init_containers.iter().flatten().last() else { return true };
    let ran = |name: &str| facts.observed.current(name).is_some();
    spec.containers.iter().any(|c| ran(&c.name))
        || facts.observed.current(&last.name).is_some_and(|r| match r.state {
            observed::ContainerState::Exited => r.exit_code == 0,
            observed::ContainerState::Running => spec::is_sidecar(last),
            _ => false,
        })
}

/// Whether a status already tells, and counts, that nothing is left of the container it names.
pub fn told_lost(status: &ContainerStatus) -> bool {
    let waits = status.state.as_ref().and_then(|s| s.waiting.as_ref());
    let last = status.last_state.as_ref().and_then(|s| s.terminated.as_ref());
    waits.is_some_and(|w| w.reason.as_deref() == Some("ContainerCreating"))
        && last.is_some_and(|l| l.container_id.is_some() && l.container_id == status.container_id)
}

/// A container that ran and of which nothing is left.
fn lost(c: &Container, former: &ContainerStatus, facts: &Facts<'_>) -> ContainerStatus {
    let terminated = unlocated(former.container_id.clone());
    let mut status = ContainerStatus { ready: false, started: Some(false), ..former.clone() };
    if facts.ending || facts.ended {
        status.state = Some(terminated);
    } else {
        status.state = Some(waiting("ContainerCreating", None));
        status.last_state = Some(terminated);
        status.restart_count += 1;
    }
    status.name = c.name.clone();
    status
}

fn unlocated(container_id: Option<String>) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: 137,
            reason: Some("ContainerStatusUnknown".into()),
            message: Some("The container could not be located when the pod was terminated".into()),
            container_id,
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn state(r: &Record) -> ContainerState {
    match r.state {
        observed::ContainerState::Running => ContainerState {
            running: Some(ContainerStateRunning { started_at: time::time(r.started_at) }),
            ..Default::default()
        },
        observed::ContainerState::Created => waiting("ContainerCreating", None),
        observed::ContainerState::Exited | observed::ContainerState::Unknown => {
            let unknown = r.state == observed::ContainerState::Unknown;
            let reason = match (r.reason.as_str(), unknown) {
                ("", true) => "ContainerStatusUnknown",
                ("", false) if r.exit_code == 0 => "Completed",
                ("", false) => "Error",
                (reason, _) => reason,
            };
            ContainerState {
                terminated: Some(ContainerStateTerminated {
                    exit_code: if unknown { 137 } else { r.exit_code },
                    reason: Some(reason.to_owned()),
                    message: (!r.message.is_empty()).then(|| r.message.clone()),
                    started_at: time::time(r.started_at).or_else(|| Some(time::time_now(0))),
                    finished_at: time::time(r.finished_at).or_else(|| Some(time::time_now(0))),
                    container_id: Some(format!("containerd://{}", r.id)),
                    signal: None,
                }),
                ..Default::default()
            }
        }
    }
}

fn waiting(reason: &str, message: Option<&str>) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting { reason: Some(reason.to_owned()), message: message.map(str::to_owned) }),
        ..Default::default()
    }
}

/// A container that the node stopped to start it again has not ended, whatever its exit code would mean otherwise: the
/// API takes an end that the restart policy makes final for final.
fn again(facts: &Facts<'_>, m: &Member, newest: Option<&Record>, status: &mut ContainerStatus) {
    let Some(r) = newest.filter(|r| r.state == observed::ContainerState::Exited) else { return };
    let Some(pod_spec) = facts.pod.spec.as_ref().filter(|_| !facts.ending && !facts.ended) else { return };
    if facts.observed.is_past(r) && m.role != Role::Ephemeral {
        status.last_state = status.state.replace(waiting("RestartingAllContainers", None));
        return;
    }
    if facts.to_restart.contains_key(&r.id) && !spec::restarts(pod_spec, m.role, &m.container, r.exit_code) {
        status.last_state = status.state.replace(waiting("ContainerCreating", None));
    }
}

/// A container that would start but cannot is waiting, with the reason; what it was before moves to `lastState`.
fn hindered(facts: &Facts<'_>, m: &Member, newest: Option<&Record>, status: &mut ContainerStatus) {
    if facts.ending || facts.ended {
        return;
    }
    let Some(h) = facts.hindrances.get(&m.container.name) else { return };
    let Some(pod_spec) = &facts.pod.spec else { return };
    let would_start = match newest {
        None => true,
        Some(r) => match r.state {
            observed::ContainerState::Running => false,
            observed::ContainerState::Exited => {
                facts.observed.is_past(r)
                    || facts.to_restart.contains_key(&r.id)
                    || spec::restarts(pod_spec, m.role, &m.container, r.exit_code)
            }
            _ => true,
        },
    };
    if !would_start {
        return;
    }
    if status.state.as_ref().is_some_and(|s| s.terminated.is_some()) {
        status.last_state = status.state.take();
    }
    status.state = Some(waiting(&h.reason, Some(&h.message)));
}

fn readiness(facts: &Facts<'_>, m: &Member, newest: Option<&Record>, status: &mut ContainerStatus) {
    if m.role == Role::Ephemeral {
        status.ready = false;
        status.started = None;
        return;
    }
    let running = newest.filter(|r| r.state == observed::ContainerState::Running);
    let verdicts = running.and_then(|r| facts.probes.get(&r.id)).copied().unwrap_or_default();
    let started = running.is_some() && (m.container.startup_probe.is_none() || verdicts.startup == Some(true));
    status.started = Some(started);
    status.ready = match m.role {
        Role::Init => status.state.as_ref().and_then(|s| s.terminated.as_ref()).is_some_and(|t| t.exit_code == 0),
        _ => started && (m.container.readiness_probe.is_none() || verdicts.readiness == Some(true)),
    };
}

fn requests(c: &Container) -> Option<BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>> {
    c.resources.as_ref().and_then(|r| r.requests.clone()).filter(|r| !r.is_empty())
}

/// The resources in force; for a container that does not run those it was given.
fn resources(facts: &Facts<'_>, m: &Member, r: &Record) -> Option<ResourceRequirements> {
    if m.role == Role::Ephemeral {
        return None;
    }
    Some(facts.applied.get(&r.id).cloned().unwrap_or_else(|| m.container.resources.clone().unwrap_or_default()))
}

fn user(r: &Record) -> Option<ContainerUser> {
    let (uid, gid, groups) = r.user.clone()?;
    let supplemental_groups = (!groups.is_empty()).then_some(groups);
    Some(ContainerUser { linux: Some(LinuxContainerUser { uid, gid, supplemental_groups }) })
}

fn mounts(c: &Container) -> Option<Vec<VolumeMountStatus>> {
    let all: Vec<_> = c
        .volume_mounts
        .iter()
        .flatten()
        .map(|v| VolumeMountStatus {
            name: v.name.clone(),
            mount_path: v.mount_path.clone(),
            read_only: v.read_only.filter(|r| *r),
            recursive_read_only: v.read_only.filter(|r| *r).map(|_| {
                let all = crate::volume::recursively_read_only(v);
                if all { "Enabled" } else { "Disabled" }.to_owned()
            }),
            ..Default::default()
        })
        .collect();
    (!all.is_empty()).then_some(all)
}
