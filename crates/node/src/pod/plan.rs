//! What to do next for a Pod that is to live: a pure function of what the API wants, what the runtime holds, what the
//! probes found and the time. The worker does it and asks again.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use super::backoff::Backoff;
use super::observed::{ContainerState, Observed, Record};
use super::restart_all;
use super::spec::{self, Role};
use super::status::containers::told_lost;

/// What the probes of one container instance found; `None` before the first verdict or without such a probe.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// The startup probe.
    pub startup: Option<bool>,
    /// The liveness probe.
    pub liveness: Option<bool>,
    /// The readiness probe.
    pub readiness: Option<bool>,
}

/// Verdicts by container id.
pub type Probes = HashMap<String, Verdicts>;

/// What a plan is made from.
#[derive(Debug)]
pub struct Input<'a> {
    /// What is wanted.
    pub pod: &'a Pod,
    /// What is.
    pub observed: &'a Observed,
    /// What the probes say.
    pub probes: &'a Probes,
    /// Waits after crashes.
    pub backoff: &'a Backoff,
    /// Containers stopped so that they start again whatever their exit code.
    pub to_restart: &'a Restarts,
    /// Now, ns.
    pub now: i64,
}

/// A container to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// Its name.
    pub name: String,
    /// Its part.
    pub role: Role,
    /// Its restart count.
    pub attempt: u32,
    /// When the instance before it ended, for the back-off; `None` for a first start.
    pub after: Option<i64>,
}

/// Why a container is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KillReason {
    /// Its spec changed.
    Changed,
    /// Its new resources need a restart.
    Resized,
    /// Its liveness probe failed.
    Liveness,
    /// Its startup probe failed.
    Startup,
    /// The runtime lost track of it.
    Unknown,
    /// Another's end restarts all.
    RestartAll,
    /// The Pod ends.
    PodEnds,
}

/// Containers that were stopped to start again, by id, and why they were stopped.
pub type Restarts = HashMap<String, KillReason>;

/// A container to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kill {
    /// The runtime's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Why.
    pub reason: KillReason,
    /// Whether it is to start again whatever its exit code.
    pub restart: bool,
}

/// A container that is kept from starting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Its name.
    pub name: String,
    /// `CrashLoopBackOff`.
    pub reason: &'static str,
    /// The wait in words.
    pub message: String,
}

/// What to do, in this order: stop the Pod or containers, make the sandbox, start containers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodPlan {
    /// Everything of the Pod is to be stopped, sandboxes included. With [`PodPlan::sandbox`] it starts over, without
    /// it is done.
    pub stop_pod: bool,
    /// A sandbox is to be made, with this attempt number.
    pub sandbox: Option<u32>,
    /// Containers to stop.
    pub kill: Vec<Kill>,
    /// Containers to start, in order.
    pub start: Vec<Start>,
    /// Containers that wait.
    pub waiting: Vec<Waiting>,
    /// When to plan again though nothing happened, ns.
    pub wake: Option<i64>,
}

impl PodPlan {
    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        !self.stop_pod && self.sandbox.is_none() && self.kill.is_empty() && self.start.is_empty()
    }
}

/// Plans for a Pod that is to live.
pub fn plan(input: &Input<'_>) -> PodPlan {
    let mut plan = PodPlan::default();
    let Some(pod_spec) = &input.pod.spec else { return plan };
    let planner = Planner { input, spec: pod_spec };
    if let Some(attempt) = planner.sandbox_wanted() {
        planner.start_over(attempt, &mut plan);
        return plan;
    }
    planner.ephemeral(&mut plan);
    if planner.end_the_past(&mut plan) {
        return plan;
    }
    let initialized = planner.init(&mut plan);
    if plan.stop_pod || !initialized {
        return plan;
    }
    planner.regular(&mut plan);
    plan
}

struct Planner<'a> {
    input: &'a Input<'a>,
    spec: &'a PodSpec,
}

impl Planner<'_> {
    /// The attempt number of the sandbox to make, if there is none that serves.
    fn sandbox_wanted(&self) -> Option<u32> {
        let Some(newest) = self.input.observed.sandbox() else { return Some(0) };
        let wants_host = spec::host_network(self.input.pod);
        let serves = newest.ready && newest.host_network == wants_host && (wants_host || !newest.ips.is_empty());
        (!serves).then_some(newest.attempt + 1)
    }

    /// No sandbox serves: everything starts in a new one, or the Pod is done.
    fn start_over(&self, attempt: u32, plan: &mut PodPlan) {
        let o = self.input.observed;
        plan.stop_pod = !o.is_stopped();
        if attempt != 0
            && spec::restart_policy(self.spec) == "Never"
            && o.records.iter().any(|r| !o.is_past(r))
            && !self.any_rule_restarts()
        {
            plan.stop_pod = true;
            return;
        }
        let left = self.spec.containers.iter().any(|c| match o.current(&c.name) {
            Some(r) if r.state == ContainerState::Exited => {
                self.input.to_restart.contains_key(&r.id) || spec::restarts(self.spec, Role::Regular, c, r.exit_code)
            }
            _ => true,
        });
        if !left {
            plan.stop_pod = true;
            return;
        }
        plan.sandbox = Some(attempt);
    }

    fn any_rule_restarts(&self) -> bool {
        self.spec.containers.iter().any(|c| {
            c.restart_policy.is_some()
                && self.input.observed.current(&c.name).is_none_or(|r| {
                    r.state != ContainerState::Exited || spec::restarts(self.spec, Role::Regular, c, r.exit_code)
                })
        })
    }

    /// When all containers restart, nothing starts before everything has ended; returns whether something has not.
    fn end_the_past(&self, plan: &mut PodPlan) -> bool {
        let past = restart_all::ending(self.spec, self.input.observed);
        plan.kill.extend(past.map(|r| kill(r, KillReason::RestartAll, true)));
        !plan.kill.is_empty()
    }

    fn ephemeral(&self, plan: &mut PodPlan) {
        for c in self.spec.ephemeral_containers.iter().flatten() {
            if self.input.observed.latest(&c.name).is_none() {
                plan.start.push(Start { name: c.name.clone(), role: Role::Ephemeral, attempt: 0, after: None });
            }
        }
    }

    /// Brings the init containers forward; returns whether the regular ones may run.
    fn init(&self, plan: &mut PodPlan) -> bool {
        let init: &[Container] = self.spec.init_containers.as_deref().unwrap_or_default();
        if init.is_empty() {
            return true;
        }
        let o = self.input.observed;
        let started =
            self.spec.containers.iter().any(|c| o.active(&c.name).is_some_and(|r| r.state != ContainerState::Unknown));
        if started {
            init.iter().filter(|c| spec::is_sidecar(c)).for_each(|c| self.sidecar(c, plan));
            return true;
        }
        // The last one with a trace decides; those before it have passed (their traces may have been removed).
        let Some(front) = init.iter().rposition(|c| o.active(&c.name).is_some()) else {
            self.start(&init[0], spec::init_role(&init[0]), plan);
            return false;
        };
        init[..front].iter().filter(|c| spec::is_sidecar(c)).for_each(|c| self.sidecar(c, plan));
        let passed = self.front(&init[front], plan);
        if !passed {
            return false;
        }
        match init.get(front + 1) {
            None => true,
            Some(next) => {
                self.start(next, spec::init_role(next), plan);
                false
            }
        }
    }

    /// Handles the init container that is at work; returns whether the next may start.
    fn front(&self, c: &Container, plan: &mut PodPlan) -> bool {
        let Some(r) = self.input.observed.active(&c.name) else { return false };
        if spec::is_sidecar(c) {
            self.sidecar(c, plan);
            return r.state == ContainerState::Running && self.started(c, r);
        }
        match r.state {
            ContainerState::Running => false,
            ContainerState::Exited if r.exit_code == 0 => true,
            ContainerState::Exited => {
                if spec::restarts(self.spec, Role::Init, c, r.exit_code) {
                    self.start(c, Role::Init, plan);
                } else {
                    self.fail(plan);
                }
                false
            }
            ContainerState::Created => {
                self.start(c, Role::Init, plan);
                false
            }
            ContainerState::Unknown => {
                if spec::restarts(self.spec, Role::Init, c, 137) {
                    plan.kill.push(kill(r, KillReason::Unknown, false));
                    self.start(c, Role::Init, plan);
                } else {
                    self.fail(plan);
                }
                false
            }
        }
    }

    fn fail(&self, plan: &mut PodPlan) {
        plan.stop_pod = true;
        plan.start.clear();
        plan.waiting.clear();
    }

    /// Keeps a sidecar running.
    fn sidecar(&self, c: &Container, plan: &mut PodPlan) {
        match self.input.observed.active(&c.name) {
            Some(r) if r.state == ContainerState::Running => {
                if let Some(reason) = self.unwanted(c, r) {
                    plan.kill.push(kill(r, reason, true));
                }
            }
            _ => self.start(c, Role::Sidecar, plan),
        }
    }

    fn regular(&self, plan: &mut PodPlan) {
        let mut kept = 0;
        let mut starting = 0;
        for c in &self.spec.containers {
            match self.input.observed.current(&c.name) {
                Some(r) if r.state == ContainerState::Running => {
                    kept += 1;
                    if let Some(reason) = self.unwanted(c, r) {
                        let policy = c.restart_policy.as_deref().unwrap_or_else(|| spec::restart_policy(self.spec));
                        let again = reason == KillReason::Changed || policy != "Never";
                        plan.kill.push(kill(r, reason, again));
                    }
                }
                Some(r) if r.state == ContainerState::Exited => {
                    if self.input.to_restart.contains_key(&r.id)
                        || spec::restarts(self.spec, Role::Regular, c, r.exit_code)
                    {
                        starting += 1;
                        self.start(c, Role::Regular, plan);
                    }
                }
                Some(r) => {
                    starting += 1;
                    if r.state == ContainerState::Unknown {
                        plan.kill.push(kill(r, KillReason::Unknown, true));
                    }
                    self.start(c, Role::Regular, plan);
                }
                None => {
                    starting += 1;
                    self.start(c, Role::Regular, plan);
                }
            }
        }
        if kept == 0 && starting == 0 {
            // All regular containers are done for good: sidecars do not keep a Pod alive.
            self.fail(plan);
        }
    }

    /// Why a running container must not go on.
    fn unwanted(&self, c: &Container, r: &Record) -> Option<KillReason> {
        if !r.hash.is_empty() && r.hash != spec::hash(c) {
            return Some(KillReason::Changed);
        }
        let v = self.input.probes.get(&r.id)?;
        if v.liveness == Some(false) {
            return Some(KillReason::Liveness);
        }
        (v.startup == Some(false)).then_some(KillReason::Startup)
    }

    fn started(&self, c: &Container, r: &Record) -> bool {
        c.startup_probe.is_none() || self.input.probes.get(&r.id).and_then(|v| v.startup) == Some(true)
    }

    /// Starts a container now, or notes that it waits.
    fn start(&self, c: &Container, role: Role, plan: &mut PodPlan) {
        let last = self.input.observed.latest(&c.name);
        let after = self.back_off_from(&c.name);
        if let Some((end, delay)) =
            after.and_then(|t| self.input.backoff.until(&key(self.input.pod, c), t, self.input.now))
        {
            plan.waiting.push(Waiting {
                name: c.name.clone(),
                reason: "CrashLoopBackOff",
                message: back_off_message(self.input.pod, &c.name, delay),
            });
            plan.wake = Some(plan.wake.map_or(end, |w| w.min(end)));
            return;
        }
        let attempt = last.map_or_else(|| self.told_starts(&c.name), |r| r.attempt + 1);
        plan.start.push(Start { name: c.name.clone(), role, attempt, after });
    }

    /// How often a container that left no trace in the runtime was started, as far as the API was told: the node may have
    /// lost all of it (`down`, a new disk) while the Pod lives on.
    fn told_starts(&self, name: &str) -> u32 {
        let Some(status) = &self.input.pod.status else { return 0 };
        let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
        let told = all.into_iter().find(|s| s.name == name && s.container_id.is_some());
        told.map_or(0, |s| u32::try_from(s.restart_count).unwrap_or(0) + u32::from(!told_lost(s)))
    }

    /// The end that a wait counts from: the last one that was not our own doing. A failed probe is the container's.
    fn back_off_from(&self, name: &str) -> Option<i64> {
        let mut ends = self.input.observed.history(name).filter(|r| r.state == ContainerState::Exited);
        let free = |r: &Record| {
            let why = self.input.to_restart.get(&r.id);
            why.is_some_and(|k| !matches!(k, KillReason::Liveness | KillReason::Startup))
        };
        ends.find(|r| !free(r)).map(|r| r.finished_at)
    }
}

fn kill(r: &Record, reason: KillReason, restart: bool) -> Kill {
    Kill { id: r.id.clone(), name: r.name.clone(), reason, restart }
}

/// The key of a container's back-off: a new image starts anew.
pub fn key(pod: &Pod, c: &Container) -> String {
    format!("{}/{}/{}", spec::uid(pod), c.name, spec::hash(c))
}

/// How a wait is told.
pub fn back_off_message(pod: &Pod, container: &str, delay: Duration) -> String {
    format!(
        "back-off {} restarting failed container={container} pod={}",
        caravel_api::duration::text_std(delay),
        spec::full_name(pod)
    )
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
