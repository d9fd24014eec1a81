//! Pod conditions.

use k8s_openapi::api::core::v1::{ContainerStatus, PodCondition, PodSpec, PodStatus};

use super::Facts;
use crate::pod::restart_all;
use crate::pod::spec;
use crate::time;

/// Fills the conditions that are the node's; others stay as they are.
pub fn fill(facts: &Facts<'_>, pod: &PodSpec, old: &PodStatus, new: &mut PodStatus) {
    let phase = new.phase.clone().unwrap_or_default();
    let generation = facts.pod.metadata.generation;
    let mut conditions = new.conditions.take().unwrap_or_default();
    let containers_ready = containers_ready(pod, new, &phase);
    let ready = ready(pod, &containers_ready, old, &phase);
    let sandbox = facts.observed.ready_sandbox();
    let networked = sandbox.is_some_and(|s| spec::host_network(facts.pod) || !s.ips.is_empty());
    let all = [
        ("PodReadyToStartContainers", Answer::of(networked)),
        ("Initialized", initialized(pod, new, &phase)),
        ("Ready", ready),
        ("ContainersReady", containers_ready),
    ];
    for (type_, answer) in all {
        put(&mut conditions, type_, answer, generation, facts.now);
    }
    if restart_all::possible(pod) {
        let answer = match phase.as_str() {
            "Succeeded" => Answer::because(false, "PodCompleted"),
            "Failed" => Answer::because(false, "PodFailed"),
            _ if restart_all::ending(pod, facts.observed).next().is_some() => Answer {
                status: true,
                reason: Some("RestartAllContainersStarted".to_owned()),
                message: Some("a container ended in a way that restarts all by its rules".to_owned()),
            },
            _ => Answer::of(false),
        };
        put(&mut conditions, "AllContainersRestarting", answer, generation, facts.now);
    }
    if !conditions.iter().any(|c| c.type_ == "PodScheduled") {
        put(&mut conditions, "PodScheduled", Answer::of(true), generation, facts.now);
    }
    if let Some((reason, message)) = facts.verdict.and_then(|v| v.disruption.as_ref().map(|d| (d, &v.message))) {
        let answer = Answer { status: true, reason: Some(reason.clone()), message: Some(message.clone()) };
        put(&mut conditions, "DisruptionTarget", answer, generation, facts.now);
    }
    new.conditions = Some(conditions);
}

/// Sets one condition, leaving its transition time if its status stays.
pub fn set(
    status: &mut PodStatus,
    type_: &str,
    value: bool,
    reason: Option<&str>,
    message: Option<&str>,
    generation: Option<i64>,
    now: i64,
) {
    let answer = Answer { status: value, reason: reason.map(str::to_owned), message: message.map(str::to_owned) };
    put(status.conditions.get_or_insert_default(), type_, answer, generation, now);
}

/// Removes one condition.
pub fn remove(status: &mut PodStatus, type_: &str) {
    status.conditions.iter_mut().for_each(|list| list.retain(|c| c.type_ != type_));
}

#[derive(Debug, Clone, Default)]
struct Answer {
    status: bool,
    reason: Option<String>,
    message: Option<String>,
}

impl Answer {
    fn of(status: bool) -> Self {
        Answer { status, ..Default::default() }
    }

    fn because(status: bool, reason: &str) -> Self {
        Answer { status, reason: Some(reason.to_owned()), message: None }
    }
}

fn put(conditions: &mut Vec<PodCondition>, type_: &str, a: Answer, generation: Option<i64>, now: i64) {
    let status = if a.status { "True" } else { "False" };
    match conditions.iter_mut().find(|c| c.type_ == type_) {
        Some(c) => {
            if c.status != status {
                c.last_transition_time = Some(time::time_now(now));
            }
            c.status = status.into();
            c.reason = a.reason;
            c.message = a.message;
            c.observed_generation = generation;
        }
        None => conditions.push(PodCondition {
            type_: type_.into(),
            status: status.into(),
            reason: a.reason,
            message: a.message,
            last_transition_time: Some(time::time_now(now)),
            last_probe_time: None,
            observed_generation: generation,
        }),
    }
}

fn find<'a>(statuses: &'a Option<Vec<ContainerStatus>>, name: &str) -> Option<&'a ContainerStatus> {
    statuses.iter().flatten().find(|s| s.name == name)
}

/// Go's `[a b]`.
fn names(list: &[&str]) -> String {
    format!("[{}]", list.join(" "))
}

fn initialized(pod: &PodSpec, new: &PodStatus, phase: &str) -> Answer {
    let init = || pod.init_containers.iter().flatten();
    if init().next().is_none() {
        return Answer::of(true);
    }
    if phase == "Succeeded" {
        return Answer::because(true, "PodCompleted");
    }
    // Once a regular container has run, initialization is over, whatever became of the sidecars.
    let ran = new.container_statuses.iter().flatten().any(|s| {
        s.started == Some(true)
            || s.state.as_ref().is_some_and(|s| s.running.is_some() || s.terminated.is_some())
            || s.last_state.as_ref().is_some_and(|s| s.terminated.is_some())
    });
    if ran {
        return Answer::of(true);
    }
    let incomplete: Vec<&str> = init()
        .filter(|c| {
            let s = find(&new.init_container_statuses, &c.name);
            !s.is_some_and(|s| if spec::is_sidecar(c) { s.started == Some(true) } else { s.ready })
        })
        .map(|c| c.name.as_str())
        .collect();
    if incomplete.is_empty() {
        return Answer::of(true);
    }
    Answer {
        status: false,
        reason: Some("ContainersNotInitialized".into()),
        message: Some(format!("containers with incomplete status: {}", names(&incomplete))),
    }
}

fn containers_ready(pod: &PodSpec, new: &PodStatus, phase: &str) -> Answer {
    match phase {
        "Succeeded" => return Answer::because(false, "PodCompleted"),
        "Failed" => return Answer::because(false, "PodFailed"),
        _ => {}
    }
    let sidecars =
        pod.init_containers.iter().flatten().filter(|c| spec::is_sidecar(c)).map(|c| (c, &new.init_container_statuses));
    let regular = pod.containers.iter().map(|c| (c, &new.container_statuses));
    let (mut unknown, mut unready) = (Vec::new(), Vec::new());
    for (c, statuses) in sidecars.chain(regular) {
        match find(statuses, &c.name) {
            None => unknown.push(c.name.as_str()),
            Some(s) if !s.ready => unready.push(c.name.as_str()),
            Some(_) => {}
        }
    }
    let mut message = Vec::new();
    if !unknown.is_empty() {
        message.push(format!("containers with unknown status: {}", names(&unknown)));
    }
    if !unready.is_empty() {
        message.push(format!("containers with unready status: {}", names(&unready)));
    }
    if message.is_empty() {
        return Answer::of(true);
    }
    Answer { status: false, reason: Some("ContainersNotReady".into()), message: Some(message.join(", ")) }
}

fn ready(pod: &PodSpec, containers: &Answer, old: &PodStatus, _phase: &str) -> Answer {
    if !containers.status {
        return containers.clone();
    }
    let mut missing = Vec::new();
    for gate in pod.readiness_gates.iter().flatten() {
        match old.conditions.iter().flatten().find(|c| c.type_ == gate.condition_type) {
            None => missing.push(format!(
                "corresponding condition of pod readiness gate \"{}\" does not exist.",
                gate.condition_type
            )),
            Some(c) if c.status != "True" => missing.push(format!(
                "the status of pod readiness gate \"{}\" is not \"True\", but {}",
                gate.condition_type, c.status
            )),
            Some(_) => {}
        }
    }
    if missing.is_empty() {
        return Answer::of(true);
    }
    Answer { status: false, reason: Some("ReadinessGatesNotReady".into()), message: Some(missing.join(", ")) }
}
