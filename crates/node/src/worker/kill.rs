//! Stopping containers: hooks first, within the grace period; sidecars after what they serve.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::Worker;
use crate::names;
use crate::pod::observed::{ContainerState, Observed, Record};
use crate::pod::plan::{Kill, KillReason};
use crate::pod::spec::{self, Role};
use crate::probe::action::{self, Outcome};
use crate::shared::{About, Shared};

/// Every container gets this long after TERM, whatever its hook used up, seconds.
const MIN_GRACE: u64 = 2;

/// One container to stop.
struct Victim {
    record: Record,
    container: Container,
    role: Role,
    about: About,
    ip: String,
    grace: u64,
    message: String,
}

/// A container of the spec or, if the API no longer knows it, what the runtime's notes tell of it.
fn container_of(pod: &Pod, r: &Record) -> (Container, Role) {
    if let Some(m) = pod.spec.as_ref().and_then(|s| spec::member(s, &r.name)) {
        return (m.container, m.role);
    }
    let json = |key: &str| r.annotations.get(key).map(String::as_str).unwrap_or("null");
    let pre_stop: Option<LifecycleHandler> = serde_json::from_str(json(names::PRE_STOP)).unwrap_or_default();
    let container = Container {
        name: r.name.clone(),
        ports: serde_json::from_str(json(names::PORTS)).unwrap_or_default(),
        lifecycle: pre_stop.map(|h| k8s_openapi::api::core::v1::Lifecycle { pre_stop: Some(h), ..Default::default() }),
        ..Default::default()
    };
    (container, Role::Regular)
}

/// The Pod's grace period in seconds: what its deletion says, else what its spec says.
pub(super) fn grace(pod: &Pod, over: Option<i64>) -> u64 {
    let spec_grace = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds);
    let seconds = over.or(pod.metadata.deletion_grace_period_seconds).or(spec_grace).unwrap_or(30);
    u64::try_from(seconds).unwrap_or(0).max(1)
}

impl Worker {
    /// Stops one container in the background, to be started again or not.
    pub(super) fn begin_kill(&mut self, pod: &Arc<Pod>, observed: &Observed, k: &Kill) {
        if self.stopping.contains_key(&k.id) {
            return;
        }
        let Some(record) = observed.records.iter().find(|r| r.id == k.id) else { return };
        let (mut container, role) = container_of(pod, record);
        let probe = match k.reason {
            KillReason::Liveness => container.liveness_probe.as_ref(),
            KillReason::Startup => container.startup_probe.as_ref(),
            _ => None,
        };
        let mut over = probe.and_then(|p| p.termination_grace_period_seconds);
        if k.reason == KillReason::RestartAll {
            // At once, and without hooks: what is wrong with one is taken to be wrong with all.
            over = Some(0);
            container.lifecycle.iter_mut().for_each(|l| l.pre_stop = None);
        }
        let again = if k.restart { ", will be restarted" } else { "" };
        let message = match k.reason {
            KillReason::Changed => format!("Container {} definition changed{again}", k.name),
            KillReason::Resized => format!("Container {} resize requires restart", k.name),
            KillReason::Liveness => format!("Container {} failed liveness probe{again}", k.name),
            KillReason::Startup => format!("Container {} failed startup probe{again}", k.name),
            KillReason::RestartAll => format!("Container {} is restarted with all others of its pod", k.name),
            KillReason::Unknown => "Container is in unknown state, try killing it before restart".to_owned(),
            KillReason::PodEnds => format!("Stopping container {}", k.name),
        };
        if k.restart {
            self.to_restart.insert(k.id.clone(), k.reason);
        }
        let victim = Victim {
            about: self.shared.about(pod, role, &k.name),
            ip: self.pod_ip(pod, observed),
            grace: grace(pod, over),
            record: record.clone(),
            container,
            role,
            message,
        };
        let (shared, wake) = (self.shared.clone(), self.handle.wake.clone());
        let task = tokio::spawn(async move {
            let (_tx, rx) = watch::channel(HashSet::new());
            stop(&shared, &victim, &HashSet::new(), rx).await;
            wake.notify_one();
        });
        self.stopping.insert(k.id.clone(), AbortOnDropHandle::new(task));
    }

    /// Stops all containers and sandboxes of the Pod, telling meanwhile what becomes of them. Returns early when the
    /// Pod's grace period is cut short, so that the caller begins anew.
    pub(super) async fn stop_all(&mut self, pod: &Arc<Pod>, observed: &Observed, over: Option<i64>) {
        self.stopping.clear();
        let grace = grace(pod, over);
        let ip = self.pod_ip(pod, observed);
        let mut work = std::pin::pin!(stop_pod(self.shared.clone(), pod.clone(), observed.clone(), grace, ip));
        let mut changes = self.handle.wanted.subscribe();
        let wake = self.handle.wake.clone();
        loop {
            let w = changes.borrow_and_update().clone();
            if super::ends(&w) && self::grace(&w.pod, w.grace) < grace {
                return;
            }
            tokio::select! {
                () = &mut work => return,
                changed = changes.changed() => if changed.is_err() { return work.await },
                () = wake.notified() => {
                    if let Ok(now) = self.observer.read(&self.shared, &self.uid).await && !self.rejected {
                        self.probes.sync(pod, &now, true);
                        self.publish(pod, &now, true, false);
                    }
                }
            }
        }
    }
}

/// Stops all containers, each in its turn, then the sandboxes.
async fn stop_pod(shared: Arc<Shared>, pod: Arc<Pod>, observed: Observed, grace: u64, ip: String) {
    let victims: Vec<Victim> = observed
        .running()
        .map(|r| {
            let (container, role) = container_of(&pod, r);
            Victim {
                about: shared.about(&pod, role, &r.name),
                message: format!("Stopping container {}", r.name),
                record: r.clone(),
                ip: ip.clone(),
                container,
                role,
                grace,
            }
        })
        .collect();
    let (ended, seen) = watch::channel(HashSet::new());
    let all = victims.iter().map(|v| {
        let after = waits_for(&pod, v, &victims);
        let (shared, ended, seen) = (&shared, &ended, seen.clone());
        async move {
            stop(shared, v, &after, seen).await;
            ended.send_modify(|e| {
                e.insert(v.record.name.clone());
            });
        }
    });
    join_all(all).await;
    for s in observed.sandboxes.iter().filter(|s| s.ready) {
        if let Err(e) = shared.runtime.stop_sandbox(&s.id).await {
            let note = format!("error killing pod: failed to stop sandbox: {}", e.detail());
            shared.event(&shared.about_pod(&pod), "Warning", "FailedKillPod", &note);
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

/// A sidecar ends after all regular containers and after the sidecars that were started later (KEP-753).
fn waits_for(pod: &Pod, v: &Victim, all: &[Victim]) -> HashSet<String> {
    if v.role != Role::Sidecar {
        return HashSet::new();
    }
    let order: Vec<&str> =
        pod.spec.iter().flat_map(|s| s.init_containers.iter().flatten()).map(|c| c.name.as_str()).collect();
    let place = |name: &str| order.iter().position(|n| *n == name);
    all.iter()
        .filter(|o| match o.role {
            Role::Regular => true,
            Role::Sidecar => place(&o.record.name) > place(&v.record.name),
            _ => false,
        })
        .map(|o| o.record.name.clone())
        .collect()
}

async fn stop(shared: &Shared, v: &Victim, after: &HashSet<String>, mut ended: watch::Receiver<HashSet<String>>) {
    let begun = Instant::now();
    let left = || Duration::from_secs(v.grace).saturating_sub(begun.elapsed());
    shared.event(&v.about, "Normal", "Killing", &v.message);
    if let Some(hook) = v.container.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref()) {
        pre_stop(shared, v, hook, left()).await;
    }
    if !after.is_empty() {
        let _ = tokio::time::timeout(left(), ended.wait_for(|e| after.is_subset(e))).await;
    }
    let mut grace = left().max(Duration::from_secs(MIN_GRACE));
    if let Some(signal) = v.container.lifecycle.as_ref().and_then(|l| l.stop_signal.as_deref()) {
        grace = by_signal(shared, v, signal, grace).await;
    }
    match shared.runtime.stop_container(&v.record.id, grace).await {
        Ok(()) => {}
        Err(e) if e.is_not_found() => {}
        Err(e) => {
            let note = format!("error killing container {}: {}", v.record.name, e.detail());
            shared.event(&v.about, "Warning", "FailedKillPod", &note);
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

/// Asks a container to end with the signal its spec names, which this CRI cannot; returns the grace that is left.
async fn by_signal(shared: &Shared, v: &Victim, signal: &str, grace: Duration) -> Duration {
    let begun = Instant::now();
    let Ok(signal) = signal.parse::<Signal>() else { return grace };
    let pid = shared.runtime.container_pid(&v.record.id).await.ok().flatten().filter(|p| *p > 1);
    let Some(pid) = pid else { return grace };
    if kill(Pid::from_raw(pid), signal).is_err() {
        return grace;
    }
    while begun.elapsed() < grace {
        match shared.runtime.container_status(&v.record.id).await {
            Ok(s) if s.state == ContainerState::Running => tokio::time::sleep(Duration::from_millis(100)).await,
            _ => break,
        }
    }
    Duration::ZERO
}

async fn pre_stop(shared: &Shared, v: &Victim, hook: &LifecycleHandler, limit: Duration) {
    let outcome = match action::of_hook(&v.container, hook, &v.ip) {
        Ok(a) => match tokio::time::timeout(limit, action::run(shared, &v.record.id, &a, limit)).await {
            Ok(o) => o,
            Err(_) => Outcome::Failure(format!("PreStop hook not completed in grace period of {}s", v.grace)),
        },
        Err(e) => Outcome::Unknown(e),
    };
    if let Outcome::Failure(e) | Outcome::Unknown(e) = outcome {
        shared.event(&v.about, "Warning", "FailedPreStopHook", &format!("PreStopHook failed: {e}"));
    }
}
