//! A step of a Pod that is to live.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use super::{Step, Worker};
use crate::cgroup::limits;
use crate::cgroup::qos;
use crate::container::sandbox;
use crate::container::security::Given;
use crate::pod::observed::{ContainerState, Observed};
use crate::pod::plan::{self, Input, PodPlan};
use crate::pod::restart_all;
use crate::pod::spec;
use crate::pod::status::{self, Hindrance, Verdict};
use crate::time::{self, now_ns};

const SECOND: i64 = 1_000_000_000;

fn earliest(a: Option<i64>, b: Option<i64>) -> Option<i64> {
    [a, b].into_iter().flatten().min()
}

impl Worker {
    /// Reads, plans, does, tells.
    pub(super) async fn live(&mut self, pod: &Arc<Pod>) -> Step {
        if self.rejected {
            return Step::Wait(None);
        }
        let mut observed = match self.observer.read(&self.shared, &self.uid).await {
            Ok(o) => o,
            Err(e) => {
                tracing::warn!(pod = spec::full_name(pod), error = %e, "cannot read the pod from the runtime");
                return Step::Wait(Some(self.retry("runtime", Duration::from_millis(200), Duration::from_secs(10))));
            }
        };
        self.retries.remove("runtime");
        observed.life = pod.spec.as_ref().map_or(0, |s| restart_all::life(s, &observed));
        let observed = observed;
        self.heed_the_end(pod, &observed);
        if spec::is_terminal(self.status.as_ref().and_then(|s| s.phase.as_deref())) {
            return self.over(pod, &observed).await;
        }
        if !self.admitted && !self.admit(pod, &observed) {
            return Step::Wait(None);
        }
        // What the Pod was granted counts from here on, which may not be yet what its spec asks for.
        let granted = self.grant(pod);
        let pod = &granted;
        let deadline = self.deadline(pod);
        if deadline.is_some_and(|d| d <= now_ns()) {
            return self.exceeded(pod);
        }
        if self.handle.dirty.swap(false, Ordering::AcqRel) {
            self.retries.clear();
            if let Some(v) = &mut self.volumes {
                v.renew_at = Some(0);
            }
        }
        let plan = self.plan(pod, &observed);
        self.note_waiting(pod, &observed, &plan);
        let over = plan.stop_pod && plan.sandbox.is_none();
        self.publish(pod, &observed, false, over && observed.is_stopped());
        self.probes.sync(pod, &observed, over);
        self.collect_garbage(pod, &observed).await;
        let wake = earliest(plan.wake, deadline);
        match self.perform(pod, &observed, plan, over).await {
            Step::Wait(at) => Step::Wait(earliest(at, wake)),
            other => other,
        }
    }

    /// A Pod that the API holds to have ended has ended: in an earlier life of this process, or by somebody else's word.
    /// What was told of it stands.
    fn heed_the_end(&mut self, pod: &Arc<Pod>, observed: &Observed) {
        let told = pod.status.as_ref().filter(|s| spec::is_terminal(s.phase.as_deref()));
        let Some(told) = told else { return };
        if spec::is_terminal(self.status.as_ref().and_then(|s| s.phase.as_deref())) {
            return;
        }
        match &mut self.status {
            None => self.status = Some(told.clone()),
            Some(s) => {
                s.phase = told.phase.clone();
                s.reason = told.reason.clone();
                s.message = told.message.clone();
            }
        }
        self.show(pod, observed, told);
    }

    fn plan(&mut self, pod: &Pod, observed: &Observed) -> PodPlan {
        self.stopping
            .retain(|id, _| observed.records.iter().any(|r| &r.id == id && r.state == ContainerState::Running));
        self.to_restart.retain(|id, _| observed.records.iter().any(|r| &r.id == id));
        let probes = self.probes.verdicts();
        plan::plan(&Input {
            pod,
            observed,
            probes: &probes,
            backoff: &self.backoff,
            to_restart: &self.to_restart,
            now: now_ns(),
        })
    }

    /// Containers in back-off show it; those that run have nothing that keeps them.
    fn note_waiting(&mut self, pod: &Pod, observed: &Observed, plan: &PodPlan) {
        self.hindrances.retain(|name, h| {
            let runs = observed.latest(name).is_some_and(|r| r.state == ContainerState::Running);
            let waits = plan.waiting.iter().any(|w| &w.name == name);
            !runs && (h.reason != "CrashLoopBackOff" || waits)
        });
        for w in &plan.waiting {
            let new = Hindrance { reason: w.reason.into(), message: w.message.clone() };
            if self.hindrances.insert(w.name.clone(), new.clone()) == Some(new) {
                continue;
            }
            let role = pod.spec.as_ref().and_then(|s| spec::member(s, &w.name)).map_or(spec::Role::Regular, |m| m.role);
            let about = self.shared.about(pod, role, &w.name);
            let note = format!("Back-off restarting failed container {} in pod {}", w.name, spec::full_name(pod));
            self.shared.event(&about, "Warning", "BackOff", &note);
        }
    }

    async fn perform(&mut self, pod: &Arc<Pod>, observed: &Observed, plan: PodPlan, over: bool) -> Step {
        if plan.stop_pod {
            if !observed.is_stopped() {
                self.stop_all(pod, observed, None).await;
                return Step::Again;
            }
            if over {
                return self.over(pod, observed).await;
            }
        }
        for k in &plan.kill {
            self.begin_kill(pod, observed, k);
        }
        let mut wait = None;
        let needs_volumes =
            plan.sandbox.is_some() || !plan.start.is_empty() || self.volumes.is_none() || self.volumes_due();
        if needs_volumes {
            match self.prepare(pod, observed).await {
                Ok(()) => {}
                Err(at) => {
                    wait = Some(at);
                    // Without volumes nothing starts; what runs goes on.
                    return Step::Wait(wait);
                }
            }
        }
        if let Some(attempt) = plan.sandbox {
            return match self.make_sandbox(pod, observed, attempt).await {
                Ok(()) => Step::Again,
                Err(at) => Step::Wait(Some(at)),
            };
        }
        let mut progress = match self.resize(pod, observed).await {
            Ok(changed) => changed,
            Err(at) => {
                wait = Some(at);
                false
            }
        };
        for s in &plan.start {
            if self.handle.ending.is_cancelled() {
                return Step::Again;
            }
            // Its former instance is still being stopped.
            if observed.latest(&s.name).is_some_and(|r| self.stopping.contains_key(&r.id)) {
                continue;
            }
            if let Some(at) = self.held(&s.name) {
                wait = earliest(wait, Some(at));
                continue;
            }
            match self.start(pod, observed, s).await {
                Ok(()) => progress = true,
                Err(at) => {
                    wait = earliest(wait, Some(at));
                    self.publish(pod, observed, false, false);
                }
            }
        }
        if progress {
            return Step::Again;
        }
        Step::Wait(earliest(wait, self.volumes.as_ref().and_then(|v| v.renew_at)))
    }

    fn volumes_due(&self) -> bool {
        self.volumes.as_ref().and_then(|v| v.renew_at).is_some_and(|t| t <= now_ns())
    }

    /// The cgroup, directories and volumes. The error is when to try again.
    async fn prepare(&mut self, pod: &Arc<Pod>, observed: &Observed) -> Result<(), i64> {
        if self.volumes.is_some() && !self.volumes_due() {
            return Ok(());
        }
        if let Some(at) = self.held("/") {
            return Err(at);
        }
        let dir = self.shared.config.pod_dir(&self.uid);
        let logs = self.shared.config.pod_log_dir(spec::namespace(pod), spec::name(pod), &self.uid);
        let path = self.shared.cgroups.pod_path(qos::class(pod), &self.uid);
        let limits = pod.spec.as_ref().map(limits::of_pod).unwrap_or_default();
        let made = std::fs::create_dir_all(&dir)
            .and_then(|()| std::fs::create_dir_all(&logs))
            .and_then(|()| self.shared.cgroups.apply(&path, &limits));
        if let Err(e) = made {
            self.shared.event(
                &self.shared.about_pod(pod),
                "Warning",
                "FailedToCreatePodContainer",
                &format!("unable to ensure pod container exists: {e}"),
            );
            return Err(self.retry("/", Duration::from_millis(500), Duration::from_secs(10)));
        }
        let ips = observed.ready_sandbox().map(|s| s.ips.clone()).unwrap_or_default();
        let around = self.shared.surroundings(ips);
        let shared = self.shared.clone();
        let work = shared.volumes.setup(pod, &dir, &around);
        let ending = self.handle.ending.clone();
        let result = tokio::select! {
            r = work => r,
            () = ending.cancelled() => return Err(0),
        };
        match result {
            Ok(outcome) => {
                self.retries.remove("/");
                self.volumes = Some(outcome);
                Ok(())
            }
            Err(e) => {
                self.shared.event(&self.shared.about_pod(pod), "Warning", "FailedMount", &e.to_string());
                let at = self.retry("/", Duration::from_millis(500), Duration::from_secs(122));
                if let Some(v) = &mut self.volumes {
                    v.renew_at = Some(at);
                }
                Err(at)
            }
        }
    }

    async fn make_sandbox(&mut self, pod: &Arc<Pod>, observed: &Observed, attempt: u32) -> Result<(), i64> {
        if let Some(at) = self.held("") {
            return Err(at);
        }
        if let Err(e) = self.shared.devices.prepare(&self.shared.client, pod).await {
            let note = format!("Failed to prepare dynamic resources: {e}");
            self.shared.event(&self.shared.about_pod(pod), "Warning", "FailedPrepareDynamicResources", &note);
            return Err(self.retry("", Duration::from_millis(500), Duration::from_secs(10)));
        }
        if observed.sandboxes.is_empty()
            && self
                .status
                .as_ref()
                .is_some_and(|s| s.container_statuses.iter().flatten().any(|c| c.container_id.is_some()))
        {
            self.shared.event(
                &self.shared.about_pod(pod),
                "Normal",
                "SandboxChanged",
                "Pod sandbox changed, it will be killed and re-created.",
            );
        }
        let resolvers = self.shared.resolvers();
        let given = Given { seccomp_default: self.shared.config.seccomp_default, ..Default::default() };
        let around = sandbox::Around {
            resolvers: &resolvers,
            given: &given,
            cgroup_parent: self.shared.cgroups.pod_path(qos::class(pod), &self.uid),
            log_dir: self
                .shared
                .config
                .pod_log_dir(spec::namespace(pod), spec::name(pod), &self.uid)
                .to_string_lossy()
                .into_owned(),
        };
        let result = match sandbox::config(pod, attempt, &around) {
            Ok(config) => match self.handler(pod).await {
                Ok(handler) => self.shared.runtime.run_sandbox(&config, &handler).await.map_err(|e| e.detail()),
                Err(e) => Err(e),
            },
            Err(e) => Err(e),
        };
        match result {
            Ok(id) => {
                self.retries.remove("");
                self.shared.owners.lock().insert(id, self.uid.clone());
                Ok(())
            }
            Err(e) => {
                self.shared.event(
                    &self.shared.about_pod(pod),
                    "Warning",
                    "FailedCreatePodSandBox",
                    &format!("Failed to create pod sandbox: {e}"),
                );
                Err(self.retry("", Duration::from_millis(500), Duration::from_secs(10)))
            }
        }
    }

    /// The handler of the Pod's runtime class.
    async fn handler(&self, pod: &Pod) -> Result<String, String> {
        let Some(name) = pod.spec.as_ref().and_then(|s| s.runtime_class_name.as_deref()).filter(|n| !n.is_empty())
        else {
            return Ok(String::new());
        };
        let api: kube::Api<k8s_openapi::api::node::v1::RuntimeClass> = kube::Api::all(self.shared.client.clone());
        let class = api.get(name).await.map_err(|e| format!("failed to get sandbox runtime: {e}"))?;
        Ok(class.handler)
    }

    fn admit(&mut self, pod: &Arc<Pod>, observed: &Observed) -> bool {
        // What runs already was admitted by an earlier life of this process.
        let known = !observed.is_gone();
        if known {
            self.seed_probes(pod, observed);
        }
        match self.admission.enter(&self.shared, pod, known) {
            Ok(()) => {
                self.admitted = true;
                true
            }
            Err(verdict) => {
                self.shared.event(&self.shared.about_pod(pod), "Warning", &verdict.reason, &verdict.message);
                let status = status::rejected(pod, &verdict, now_ns());
                self.show(pod, observed, &status);
                self.writer.send(status.clone());
                self.status = Some(status);
                self.rejected = true;
                false
            }
        }
    }

    /// The end of `activeDeadlineSeconds`, ns.
    fn deadline(&self, pod: &Pod) -> Option<i64> {
        let seconds = pod.spec.as_ref()?.active_deadline_seconds?;
        let start = self.status.as_ref().or(pod.status.as_ref())?.start_time.as_ref()?;
        Some(time::ns(start) + seconds.saturating_mul(SECOND))
    }

    fn exceeded(&mut self, pod: &Pod) -> Step {
        let message = "Pod was active on the node longer than the specified deadline";
        self.shared.event(&self.shared.about_pod(pod), "Normal", "DeadlineExceeded", message);
        self.verdict = Some(Verdict { reason: "DeadlineExceeded".into(), message: message.into(), disruption: None });
        Step::Again
    }

    /// The Pod has run its course: everything stops, volumes and cgroup go, traces and logs stay until it is deleted.
    async fn over(&mut self, pod: &Arc<Pod>, observed: &Observed) -> Step {
        if !observed.is_stopped() {
            self.stop_all(pod, observed, None).await;
            return Step::Again;
        }
        if self.complete {
            return Step::Wait(None);
        }
        self.probes.sync(pod, observed, true);
        self.admission.leave(&self.uid);
        match self.release(pod).await {
            Ok(()) => {
                self.complete = true;
                Step::Wait(None)
            }
            Err(e) => {
                tracing::warn!(pod = spec::full_name(pod), error = %e, "cannot clean up after a finished pod yet");
                Step::Wait(Some(self.retry("release", Duration::from_secs(1), Duration::from_secs(60))))
            }
        }
    }

    /// Removes traces that nothing needs: of each container all but the present and the one before, and sandboxes left
    /// by earlier attempts.
    async fn collect_garbage(&mut self, pod: &Pod, observed: &Observed) {
        let mut seen: std::collections::HashMap<&str, u32> = Default::default();
        for r in &observed.records {
            let n = seen.entry(r.name.as_str()).or_default();
            *n += 1;
            let dead = matches!(r.state, ContainerState::Exited | ContainerState::Created);
            if *n > 2 && dead && !self.stopping.contains_key(&r.id) {
                if let Err(e) = self.shared.runtime.remove_container(&r.id).await {
                    tracing::debug!(container = r.name, error = %e, "cannot remove an old container");
                    continue;
                }
                self.shared.owners.lock().remove(&r.id);
                let _ = std::fs::remove_file(&r.log_path);
            }
        }
        for s in observed.sandboxes.iter().skip(1).filter(|s| !s.ready) {
            let used = observed.records.iter().any(|r| r.sandbox_id == s.id);
            if !used && self.shared.runtime.remove_sandbox(&s.id).await.is_ok() {
                self.shared.owners.lock().remove(&s.id);
            }
        }
        let _ = pod;
    }
}
