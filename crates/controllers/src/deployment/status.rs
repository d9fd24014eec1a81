//! The status and conditions of a Deployment.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};

use super::util::*;
use crate::common::{name, plus, until};

const PROGRESSING: &str = "Progressing";
const NEW_RS_AVAILABLE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";

/// Marks pausing and resuming in the Progressing condition, so that the time paused does not count towards the deadline.
pub fn pause_condition(d: &mut Deployment, now: Timestamp) {
    if !has_deadline(d) {
        return;
    }
    let status = d.status.clone().unwrap_or_default();
    let reason = condition(&status, PROGRESSING).and_then(|c| c.reason.as_deref());
    if reason == Some(TIMED_OUT) {
        return;
    }
    let paused = d.spec.as_ref().and_then(|s| s.paused) == Some(true);
    let was_paused = reason == Some("DeploymentPaused");
    let new = match (paused, was_paused) {
        (true, false) => ("DeploymentPaused", "Deployment is paused"),
        (false, true) => ("DeploymentResumed", "Deployment is resumed"),
        _ => return,
    };
    let c = new_condition(PROGRESSING, "Unknown", new.0, new.1.to_owned(), now);
    set_condition(d.status.get_or_insert_default(), c);
}

/// The reason of a rollout that a canary step holds.
const CANARY_HOLDS: &str = "CanaryPaused";

/// Marks that a canary step holds the rollout, and that it goes on: what is held on purpose does not count towards the deadline.
pub fn hold_condition(d: &mut Deployment, holding: Option<&str>, now: Timestamp) {
    if !has_deadline(d) {
        return;
    }
    let status = d.status.clone().unwrap_or_default();
    let held = condition(&status, PROGRESSING).filter(|c| c.reason.as_deref() == Some(CANARY_HOLDS));
    let new = match (holding, held) {
        (Some(why), held) if held.and_then(|c| c.message.as_deref()) != Some(why) => {
            // The next step's words replace the last one's, though nothing else differs.
            remove_condition(d.status.get_or_insert_default(), PROGRESSING);
            new_condition(PROGRESSING, "Unknown", CANARY_HOLDS, why.to_owned(), now)
        }
        (None, Some(_)) => new_condition(PROGRESSING, "Unknown", "CanaryResumed", "The canary goes on".to_owned(), now),
        _ => return,
    };
    set_condition(d.status.get_or_insert_default(), new);
}

/// Starts the Progressing condition when a ReplicaSet of the template is there and no such condition yet.
pub fn found_new(d: &mut Deployment, rs: &str, now: Timestamp) {
    let (asked, deadline) = (super::beyond::remembers(d), has_deadline(d));
    let status = d.status.get_or_insert_default();
    let standing = condition(status, PROGRESSING);
    // When the status could not be written after its ReplicaSet was made, the condition still speaks of the rollout before, which has no
    // deadline any more. Upstream leaves it so; who asks to be rolled back needs one.
    let stale = asked
        && standing.is_some_and(|c| {
            let message = c.message.as_deref().unwrap_or_default();
            c.reason.as_deref() == Some(NEW_RS_AVAILABLE) && !message.contains(&format!("{rs:?}"))
        });
    if (standing.is_none() || stale) && deadline {
        let message = format!("Found new replica set {rs:?}");
        let c = new_condition(PROGRESSING, "True", "FoundNewReplicaSet", message, now);
        set_condition(d.status.get_or_insert_default(), c);
    }
}

/// The condition after a ReplicaSet was made, or could not be.
pub fn created(rs: &str, error: Option<&str>, now: Timestamp) -> DeploymentCondition {
    match error {
        None => {
            new_condition(PROGRESSING, "True", "NewReplicaSetCreated", format!("Created new replica set {rs:?}"), now)
        }
        Some(e) => new_condition(
            PROGRESSING,
            "False",
            "ReplicaSetCreateError",
            format!("Failed to create new replica set {rs:?}: {e}"),
            now,
        ),
    }
}

/// The whole status. `rollout` is whether progress is judged (not while paused, scaling or being deleted).
pub fn status(
    d: &Deployment,
    all: &[&ReplicaSet],
    new: Option<&ReplicaSet>,
    rollout: bool,
    now: Timestamp,
) -> DeploymentStatus {
    let mut status = counts(d, all, new);
    let (state, reason, message) = if status.available_replicas.unwrap_or(0) >= replicas(d) - max_unavailable(d) {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    set_condition(&mut status, new_condition("Available", state, reason, message.to_owned(), now));
    if rollout {
        progress(d, new, &mut status, now);
        match failure(all, new) {
            Some(c) => set_condition(&mut status, c),
            None => remove_condition(&mut status, "ReplicaFailure"),
        }
    }
    status
}

/// The counters; zero is absent, as it is stored.
fn counts(d: &Deployment, all: &[&ReplicaSet], new: Option<&ReplicaSet>) -> DeploymentStatus {
    let some = |n: i32| Some(n).filter(|n| *n != 0);
    let available = sum(all.iter().copied(), rs_available);
    let wanted = sum(all.iter().copied(), rs_replicas);
    let terminating: Vec<i32> =
        all.iter().filter_map(|rs| rs.status.as_ref().and_then(|s| s.terminating_replicas)).collect();
    let old = d.status.clone().unwrap_or_default();
    DeploymentStatus {
        observed_generation: d.metadata.generation,
        replicas: some(sum(all.iter().copied(), rs_actual)),
        updated_replicas: some(new.map_or(0, rs_actual)),
        ready_replicas: some(sum(all.iter().copied(), |rs| {
            rs.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0)
        })),
        available_replicas: some(available),
        unavailable_replicas: some((wanted - available).max(0)),
        terminating_replicas: if terminating.is_empty() { None } else { Some(terminating.iter().sum()) },
        collision_count: old.collision_count,
        conditions: old.conditions,
    }
}

fn progress(d: &Deployment, new: Option<&ReplicaSet>, status: &mut DeploymentStatus, now: Timestamp) {
    if !has_deadline(d) {
        remove_condition(status, PROGRESSING);
        return;
    }
    let old = d.status.clone().unwrap_or_default();
    let current = condition(&old, PROGRESSING);
    let finished = status.replicas == status.updated_replicas
        && current.is_some_and(|c| c.reason.as_deref() == Some(NEW_RS_AVAILABLE));
    let held = current.is_some_and(|c| c.reason.as_deref() == Some(CANARY_HOLDS)) && !complete(d, status);
    if finished || held {
        return;
    }
    let what = match new {
        Some(rs) => format!("ReplicaSet {:?}", name(rs)),
        None => format!("Deployment {:?}", name(d)),
    };
    if complete(d, status) {
        let message = format!("{what} has successfully progressed.");
        set_condition(status, new_condition(PROGRESSING, "True", NEW_RS_AVAILABLE, message, now));
    } else if progressing(&old, status) {
        let message = format!("{what} is progressing.");
        let mut c = new_condition(PROGRESSING, "True", "ReplicaSetUpdated", message, now);
        if let Some(current) = current {
            if current.status == "True" {
                c.last_transition_time = current.last_transition_time.clone();
            }
            // The update time moves with each step of progress: the deadline counts from the last.
            remove_condition(status, PROGRESSING);
        }
        set_condition(status, c);
    } else if timed_out(d, current, now) {
        let message = format!("{what} has timed out progressing.");
        set_condition(status, new_condition(PROGRESSING, "False", TIMED_OUT, message, now));
    }
}

fn progressing(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let n = |v: Option<i32>| v.unwrap_or(0);
    let outdated = |s: &DeploymentStatus| n(s.replicas) - n(s.updated_replicas);
    n(new.updated_replicas) > n(old.updated_replicas)
        || outdated(new) < outdated(old)
        || n(new.ready_replicas) > n(old.ready_replicas)
        || n(new.available_replicas) > n(old.available_replicas)
}

fn timed_out(d: &Deployment, current: Option<&DeploymentCondition>, now: Timestamp) -> bool {
    let Some(c) = current else { return false };
    match c.reason.as_deref() {
        Some(NEW_RS_AVAILABLE) => false,
        Some(TIMED_OUT) => true,
        _ => deadline(d, c).is_some_and(|at| at < now),
    }
}

fn deadline(d: &Deployment, c: &DeploymentCondition) -> Option<Timestamp> {
    let seconds = d.spec.as_ref()?.progress_deadline_seconds?;
    Some(plus(c.last_update_time.as_ref()?.0, i64::from(seconds)))
}

/// When the progress deadline ought to be looked at next; `None` when the rollout is over either way.
pub fn deadline_in(d: &Deployment, status: &DeploymentStatus, now: Timestamp) -> Option<Duration> {
    let c = condition(status, PROGRESSING)?;
    let paused = d.spec.as_ref().and_then(|s| s.paused) == Some(true);
    if !has_deadline(d)
        || paused
        || complete(d, status)
        || matches!(c.reason.as_deref(), Some(TIMED_OUT | NEW_RS_AVAILABLE | CANARY_HOLDS))
    {
        return None;
    }
    Some(until(deadline(d, c)?, now).unwrap_or_default() + Duration::from_secs(1))
}

/// What keeps a ReplicaSet from making its pods: the newest one's failure first.
fn failure(all: &[&ReplicaSet], new: Option<&ReplicaSet>) -> Option<DeploymentCondition> {
    let of = |rs: &ReplicaSet| {
        let c = rs.status.as_ref()?.conditions.iter().flatten().find(|c| c.type_ == "ReplicaFailure")?;
        Some(DeploymentCondition {
            type_: c.type_.clone(),
            status: c.status.clone(),
            reason: c.reason.clone(),
            message: c.message.clone(),
            last_transition_time: c.last_transition_time.clone(),
            last_update_time: c.last_transition_time.clone(),
        })
    };
    new.and_then(of).or_else(|| all.iter().find_map(|rs| of(rs)))
}
