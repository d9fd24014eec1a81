//! Changing the resources of running containers in place (KEP-1287). What a Pod was granted and what is in force lies in
//! the Pod's directory, so that a restart of this process forgets neither.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, PodStatus, ResourceRequirements};
use serde::{Deserialize, Serialize};

use super::Worker;
use crate::cgroup::{limits, qos};
use crate::container::config;
use crate::pod::observed::Observed;
use crate::pod::plan::{Kill, KillReason};
use crate::pod::spec::{self, Role};
use crate::pod::status;
use crate::quantity;
use crate::time::now_ns;

/// What a Pod's containers were granted, and what is in force.
#[derive(Default, Serialize, Deserialize)]
pub struct Sizes {
    /// By container name.
    granted: BTreeMap<String, ResourceRequirements>,
    /// By container id.
    applied: BTreeMap<String, ResourceRequirements>,
    /// Why what the spec asks for is not granted: reason and message.
    #[serde(skip)]
    pending: Option<(&'static str, String)>,
    /// What is granted is being put in force; the text says what went wrong.
    #[serde(skip)]
    in_progress: Option<Option<String>>,
    #[serde(skip)]
    file: PathBuf,
}

impl Sizes {
    /// As an earlier life of this process left them.
    pub fn load(pod_dir: &Path) -> Self {
        let file = pod_dir.join("sizes.json");
        let mut sizes: Sizes =
            std::fs::read(&file).ok().and_then(|b| serde_json::from_slice(&b).ok()).unwrap_or_default();
        sizes.file = file;
        sizes
    }

    fn save(&self) {
        let Ok(bytes) = serde_json::to_vec(self) else { return };
        let tmp = self.file.with_extension("tmp");
        if let Err(e) = std::fs::write(&tmp, bytes).and_then(|()| std::fs::rename(&tmp, &self.file)) {
            tracing::warn!(file = %self.file.display(), error = %e, "cannot note a pod's resources");
        }
    }

    /// What is in force, by container id.
    pub fn applied(&self) -> &BTreeMap<String, ResourceRequirements> {
        &self.applied
    }

    /// A container was made with these resources.
    pub fn started(&mut self, id: &str, c: &Container) {
        self.granted.insert(c.name.clone(), c.resources.clone().unwrap_or_default());
        self.applied.insert(id.to_owned(), c.resources.clone().unwrap_or_default());
        self.save();
    }

    /// Sets or removes the conditions that tell of a resize.
    pub fn conditions(&self, s: &mut PodStatus, generation: Option<i64>) {
        let now = now_ns();
        match &self.pending {
            Some((reason, message)) => {
                status::set_condition(s, "PodResizePending", true, Some(reason), Some(message), generation, now)
            }
            None => status::remove_condition(s, "PodResizePending"),
        }
        match &self.in_progress {
            Some(error) => {
                let reason = error.as_ref().map(|_| "Error");
                status::set_condition(s, "PodResizeInProgress", true, reason, error.as_deref(), generation, now);
            }
            None => status::remove_condition(s, "PodResizeInProgress"),
        }
    }
}

/// Whether two settings mean the same CPU and memory.
fn same(a: &ResourceRequirements, b: &ResourceRequirements) -> bool {
    ["cpu", "memory"].iter().all(|r| same_resource(a, b, r))
}

fn same_resource(a: &ResourceRequirements, b: &ResourceRequirements, name: &str) -> bool {
    let get = |r: &Option<quantity::Resources>| quantity::milli_of(r.as_ref(), name);
    get(&a.limits) == get(&b.limits) && get(&a.requests) == get(&b.requests)
}

/// The containers that can be resized.
fn resizable(pod: &mut Pod) -> impl Iterator<Item = &mut Container> {
    let spec = pod.spec.get_or_insert_default();
    let sidecars = spec.init_containers.iter_mut().flatten().filter(|c| spec::is_sidecar(c));
    sidecars.chain(&mut spec.containers)
}

impl Worker {
    /// The Pod with the resources it was granted. New ones are granted if the node has them.
    pub(super) fn grant(&mut self, pod: &Arc<Pod>) -> Arc<Pod> {
        let mut wanted = Pod::clone(pod);
        let differs = resizable(&mut wanted).any(|c| {
            let now = c.resources.clone().unwrap_or_default();
            self.sizes.granted.get(&c.name).is_some_and(|g| !same(g, &now))
        });
        if !differs {
            self.sizes.pending = None;
            return pod.clone();
        }
        match self.admission.resize(&self.shared, pod) {
            Ok(()) => {
                for c in resizable(&mut wanted) {
                    if let Some(g) = self.sizes.granted.get_mut(&c.name) {
                        *g = c.resources.clone().unwrap_or_default();
                    }
                }
                self.sizes.pending = None;
                self.sizes.in_progress = Some(None);
                self.sizes.save();
                self.shared.event(&self.shared.about_pod(pod), "Normal", "ResizeStarted", "Pod resize started");
                pod.clone()
            }
            Err((reason, message)) => {
                let new = Some((reason, message.clone()));
                if self.sizes.pending != new {
                    let event = if reason == "Deferred" { "ResizeDeferred" } else { "ResizeInfeasible" };
                    self.shared.event(&self.shared.about_pod(pod), "Warning", event, &message);
                    self.sizes.pending = new;
                }
                for c in resizable(&mut wanted) {
                    if let Some(g) = self.sizes.granted.get(&c.name) {
                        c.resources = Some(g.clone());
                    }
                }
                Arc::new(wanted)
            }
        }
    }

    /// Puts in force what was granted. Returns whether anything changed; the error is when to try again.
    pub(super) async fn resize(&mut self, pod: &Arc<Pod>, observed: &Observed) -> Result<bool, i64> {
        let Some(pod_spec) = &pod.spec else { return Ok(false) };
        let mut todo = Vec::new();
        for r in observed.running() {
            let Some(m) = spec::member(pod_spec, &r.name).filter(|m| matches!(m.role, Role::Regular | Role::Sidecar))
            else {
                continue;
            };
            let wanted = m.container.resources.clone().unwrap_or_default();
            match self.sizes.applied.get(&r.id) {
                Some(a) if !same(a, &wanted) => todo.push((r.clone(), m.container, a.clone(), wanted)),
                _ => {}
            }
        }
        self.sizes.applied.retain(|id, _| observed.records.iter().any(|r| &r.id == id));
        if todo.is_empty() {
            if self.sizes.in_progress.take().is_some() {
                self.shared.event(&self.shared.about_pod(pod), "Normal", "ResizeCompleted", "Pod resize completed");
                return Ok(true);
            }
            return Ok(false);
        }
        if let Some(at) = self.held("resize") {
            return Err(at);
        }
        match self.put_in_force(pod, observed, todo).await {
            Ok(changed) => {
                self.retries.remove("resize");
                self.sizes.save();
                Ok(changed)
            }
            Err(e) => {
                self.shared.event(&self.shared.about_pod(pod), "Warning", "ResizeError", &e);
                self.sizes.in_progress = Some(Some(e));
                self.publish(pod, observed, false, false);
                Err(self.retry("resize", Duration::from_secs(1), Duration::from_secs(60)))
            }
        }
    }

    /// The Pod's own limits open first and close last, so that containers always fit.
    async fn put_in_force(
        &mut self,
        pod: &Arc<Pod>,
        observed: &Observed,
        todo: Vec<(crate::pod::observed::Record, Container, ResourceRequirements, ResourceRequirements)>,
    ) -> Result<bool, String> {
        let path = self.shared.cgroups.pod_path(qos::class(pod), &self.uid);
        let target = pod.spec.as_ref().map(limits::of_pod).unwrap_or_default();
        let open = limits::Limits { cpu_quota: None, memory: None, ..target };
        self.shared.cgroups.apply(&path, &open).map_err(|e| e.to_string())?;
        let mut changed = false;
        for (r, c, before, wanted) in todo {
            let restart =
                c.resize_policy.iter().flatten().any(|p| {
                    p.restart_policy == "RestartContainer" && !same_resource(&before, &wanted, &p.resource_name)
                });
            if restart {
                let again = c
                    .restart_policy
                    .as_deref()
                    .unwrap_or_else(|| pod.spec.as_ref().map_or("Always", spec::restart_policy))
                    != "Never";
                self.begin_kill(
                    pod,
                    observed,
                    &Kill { id: r.id.clone(), name: r.name.clone(), reason: KillReason::Resized, restart: again },
                );
                continue;
            }
            let memory = i64::try_from(self.shared.machine.memory).unwrap_or(i64::MAX);
            let mut resources = config::resources(pod, &c, memory, self.shared.cgroups.is_v2());
            if resources.cpu_quota == 0 {
                // Zero would mean "leave as it is".
                resources.cpu_period = limits::CPU_PERIOD;
                resources.cpu_quota = -1;
            }
            self.shared.runtime.update_container_resources(&r.id, &resources).await.map_err(|e| e.detail())?;
            self.sizes.applied.insert(r.id.clone(), wanted);
            changed = true;
        }
        self.shared.cgroups.apply(&path, &target).map_err(|e| e.to_string())?;
        Ok(changed)
    }
}
