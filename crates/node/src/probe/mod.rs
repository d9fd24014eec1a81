//! Liveness, readiness and startup probes: one task for each probe of each running container.

pub mod action;
pub mod grpc;
pub mod http;
pub mod tcp;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use crate::pod::observed::{ContainerState, Observed, Record};
use crate::pod::plan::{Probes, Verdicts};
use crate::pod::spec::{self, Role};
use crate::shared::{About, Shared};
use action::Outcome;

/// What a probe is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Whether the container has started; the others wait for it.
    Startup,
    /// Whether it must be restarted.
    Liveness,
    /// Whether it can serve.
    Readiness,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Startup => "Startup",
            Kind::Liveness => "Liveness",
            Kind::Readiness => "Readiness",
        }
    }

    fn of(self, c: &Container) -> Option<&Probe> {
        match self {
            Kind::Startup => c.startup_probe.as_ref(),
            Kind::Liveness => c.liveness_probe.as_ref(),
            Kind::Readiness => c.readiness_probe.as_ref(),
        }
    }
}

/// The probes of one Pod.
pub struct ProbeSet {
    shared: Arc<Shared>,
    verdicts: Arc<Mutex<Probes>>,
    wake: Arc<Notify>,
    tasks: HashMap<(String, Kind), AbortOnDropHandle<()>>,
}

impl ProbeSet {
    /// None yet. `wake` is told when a verdict changes.
    pub fn new(shared: Arc<Shared>, wake: Arc<Notify>) -> Self {
        ProbeSet { shared, verdicts: Arc::default(), wake, tasks: HashMap::new() }
    }

    /// The verdicts so far.
    pub fn verdicts(&self) -> Probes {
        self.verdicts.lock().clone()
    }

    /// Takes verdicts over that were reached before.
    pub fn seed(&self, id: &str, verdicts: Verdicts) {
        self.verdicts.lock().insert(id.to_owned(), verdicts);
    }

    /// Starts the probes that are due and stops those of containers that do not run. While the Pod ends only readiness
    /// goes on.
    pub fn sync(&mut self, pod: &Arc<Pod>, observed: &Observed, ending: bool) {
        let Some(pod_spec) = &pod.spec else { return };
        let running: HashMap<&str, &Record> = observed
            .records
            .iter()
            .filter(|r| r.state == ContainerState::Running)
            .map(|r| (r.id.as_str(), r))
            .collect();
        self.tasks.retain(|(id, kind), _| running.contains_key(id.as_str()) && (!ending || *kind == Kind::Readiness));
        self.verdicts.lock().retain(|id, _| running.contains_key(id.as_str()));
        if ending {
            return;
        }
        for r in running.values() {
            let Some(m) = spec::member(pod_spec, &r.name) else { continue };
            if !matches!(m.role, Role::Regular | Role::Sidecar) {
                continue;
            }
            let started = m.container.startup_probe.is_none()
                || self.verdicts.lock().get(&r.id).and_then(|v| v.startup) == Some(true);
            let due: &[Kind] = if started { &[Kind::Liveness, Kind::Readiness] } else { &[Kind::Startup] };
            for kind in due {
                let Some(probe) = kind.of(&m.container) else { continue };
                let key = (r.id.clone(), *kind);
                if self.tasks.contains_key(&key) {
                    continue;
                }
                let ip = if spec::host_network(pod) {
                    self.shared.node_ips().first().cloned()
                } else {
                    observed.sandbox().and_then(|s| s.ips.first().cloned())
                };
                let worker = Worker {
                    shared: self.shared.clone(),
                    verdicts: self.verdicts.clone(),
                    wake: self.wake.clone(),
                    about: self.shared.about(pod, m.role, &r.name),
                    container: m.container.clone(),
                    id: r.id.clone(),
                    started_at: r.started_at,
                    ip: ip.unwrap_or_default(),
                    kind: *kind,
                };
                let probe = probe.clone();
                self.tasks.insert(key, AbortOnDropHandle::new(tokio::spawn(async move { worker.run(probe).await })));
            }
        }
    }
}

/// Thresholds: how many equal outcomes in a row make a verdict. Pure.
#[derive(Debug, Clone, Copy)]
struct Counter {
    success: u32,
    failure: u32,
    run: u32,
    last: Option<bool>,
}

impl Counter {
    fn new(p: &Probe) -> Self {
        let n =
            |v: Option<i32>, default: u32| v.and_then(|v| u32::try_from(v).ok()).filter(|v| *v > 0).unwrap_or(default);
        Counter { success: n(p.success_threshold, 1), failure: n(p.failure_threshold, 3), run: 0, last: None }
    }

    /// Notes an outcome; returns the verdict if it is reached (or goes on).
    fn note(&mut self, good: bool) -> Option<bool> {
        if self.last == Some(good) {
            self.run = self.run.saturating_add(1);
        } else {
            self.last = Some(good);
            self.run = 1;
        }
        (self.run >= if good { self.success } else { self.failure }).then_some(good)
    }
}

struct Worker {
    shared: Arc<Shared>,
    verdicts: Arc<Mutex<Probes>>,
    wake: Arc<Notify>,
    about: About,
    container: Container,
    id: String,
    started_at: i64,
    ip: String,
    kind: Kind,
}

impl Worker {
    async fn run(self, probe: Probe) {
        let secs = |v: Option<i32>, default: u64| {
            Duration::from_secs(v.and_then(|v| u64::try_from(v).ok()).unwrap_or(default))
        };
        let period = secs(probe.period_seconds, 10).max(Duration::from_secs(1));
        let timeout = secs(probe.timeout_seconds, 1).max(Duration::from_secs(1));
        let initial = secs(probe.initial_delay_seconds, 0);
        let age = Duration::from_nanos(u64::try_from(crate::time::now_ns() - self.started_at).unwrap_or(0));
        tokio::time::sleep(initial.saturating_sub(age)).await;
        let mut tick = tokio::time::interval(period);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut counter = Counter::new(&probe);
        loop {
            tick.tick().await;
            let good = match self.once(&probe, timeout).await {
                Some(good) => good,
                None => continue,
            };
            let Some(verdict) = counter.note(good) else { continue };
            self.set(verdict);
            let over = match self.kind {
                // Done: the others take over, or the container is replaced.
                Kind::Startup => true,
                Kind::Liveness => !verdict,
                Kind::Readiness => false,
            };
            if over {
                return;
            }
        }
    }

    /// One attempt; `None` if it says nothing either way.
    async fn once(&self, probe: &Probe, timeout: Duration) -> Option<bool> {
        let outcome = match action::of_probe(&self.container, probe, &self.ip) {
            Ok(a) => action::run(&self.shared, &self.id, &a, timeout).await,
            Err(e) => Outcome::Unknown(e),
        };
        let name = self.kind.name();
        match outcome {
            Outcome::Success => Some(true),
            Outcome::Warning(w) => {
                self.shared.event(&self.about, "Warning", "ProbeWarning", &format!("{name} probe warning: {w}"));
                Some(true)
            }
            Outcome::Failure(f) => {
                self.shared.event(&self.about, "Warning", "Unhealthy", &format!("{name} probe failed: {f}"));
                Some(false)
            }
            Outcome::Unknown(e) => {
                self.shared.event(
                    &self.about,
                    "Warning",
                    "Unhealthy",
                    &format!("{name} probe errored and resulted in unknown state: {e}"),
                );
                None
            }
        }
    }

    fn set(&self, verdict: bool) {
        let mut all = self.verdicts.lock();
        let v: &mut Verdicts = all.entry(self.id.clone()).or_default();
        let slot = match self.kind {
            Kind::Startup => &mut v.startup,
            Kind::Liveness => &mut v.liveness,
            Kind::Readiness => &mut v.readiness,
        };
        if *slot != Some(verdict) {
            *slot = Some(verdict);
            self.wake.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds() {
        let mut c =
            Counter::new(&Probe { failure_threshold: Some(2), success_threshold: Some(2), ..Default::default() });
        let got: Vec<_> = [true, true, false, true, false, false, false].into_iter().map(|g| c.note(g)).collect();
        assert_eq!(got, [None, Some(true), None, None, None, Some(false), Some(false)]);
    }
}
