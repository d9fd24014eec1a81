//! A step of a Pod that is to end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use caravel_client::status_code;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, Preconditions};

use super::{Step, Wanted, Worker};
use crate::cgroup::qos;
use crate::pod::observed::Observed;
use crate::pod::spec;
use crate::upkeep::deleted;

impl Worker {
    /// Stops everything; when nothing runs, removes all traces and tells the API that the Pod is gone.
    pub(super) async fn end(&mut self, wanted: &Wanted) -> Step {
        let pod = &wanted.pod;
        if let Some(v) = &wanted.verdict
            && self.verdict.is_none()
        {
            self.verdict = Some(v.clone());
        }
        self.handle.dirty.store(false, Ordering::Release);
        let observed = match self.observer.read(&self.shared, &self.uid).await {
            Ok(o) => o,
            Err(e) => {
                tracing::warn!(pod = spec::full_name(pod), error = %e, "cannot read the pod from the runtime");
                return Step::Wait(Some(self.retry("runtime", Duration::from_millis(200), Duration::from_secs(10))));
            }
        };
        self.retries.remove("runtime");
        self.probes.sync(pod, &observed, true);
        if !observed.is_stopped() {
            if !self.rejected {
                self.publish(pod, &observed, true, false);
            }
            self.stop_all(pod, &observed, wanted.grace).await;
            return Step::Again;
        }
        if !self.rejected {
            self.publish(pod, &observed, true, true);
        }
        self.admission.leave(&self.uid);
        if let Err(e) = self.release(pod).await {
            let note = format!("cannot clean up after the pod: {e}");
            self.shared.event(&self.shared.about_pod(pod), "Warning", "FailedKillPod", &note);
            return Step::Wait(Some(self.retry("release", Duration::from_millis(500), Duration::from_secs(30))));
        }
        let deleted = wanted.gone || pod.metadata.deletion_timestamp.is_some();
        if !deleted {
            return Step::Wait(None);
        }
        if let Err(e) = self.remove_traces(pod, &observed).await {
            tracing::warn!(pod = spec::full_name(pod), error = e, "cannot remove a pod's traces yet");
            return Step::Wait(Some(self.retry("traces", Duration::from_millis(500), Duration::from_secs(30))));
        }
        if !wanted.gone {
            self.writer.flush().await;
            if let Err(at) = self.delete(pod).await {
                return Step::Wait(Some(at));
            }
        }
        Step::Done
    }

    /// Gives back what a stopped Pod holds of the machine: mounts, devices and cgroup.
    pub(super) async fn release(&mut self, pod: &Pod) -> io::Result<()> {
        self.stopping.clear();
        self.volumes = None;
        let dir = self.shared.config.pod_dir(&self.uid);
        self.shared.volumes.teardown(&self.uid, dir).await?;
        self.shared.devices.release(&self.uid).await.map_err(io::Error::other)?;
        let path = self.shared.cgroups.pod_path(qos::class(pod), &self.uid);
        let cgroups = self.shared.cgroups.clone();
        tokio::task::spawn_blocking(move || cgroups.remove(&path)).await.map_err(io::Error::other)?
    }

    /// Removes containers, sandboxes and directory of the Pod. Its logs stay for a while.
    async fn remove_traces(&mut self, pod: &Pod, observed: &Observed) -> Result<(), String> {
        let runtime = &self.shared.runtime;
        let gone = |r: caravel_runtime::Result<()>| match r {
            Err(e) if !e.is_not_found() => Err(e.to_string()),
            _ => Ok(()),
        };
        for r in &observed.records {
            gone(runtime.remove_container(&r.id).await)?;
            self.shared.owners.lock().remove(&r.id);
        }
        for s in &observed.sandboxes {
            gone(runtime.remove_sandbox(&s.id).await)?;
            self.shared.owners.lock().remove(&s.id);
        }
        let config = &self.shared.config;
        let logs = config.pod_log_dir(spec::namespace(pod), spec::name(pod), &self.uid);
        deleted::mark(&logs).map_err(|e| format!("cannot note that the logs {} are old: {e}", logs.display()))?;
        let dir = config.pod_dir(&self.uid);
        match std::fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(format!("cannot remove {}: {e}", dir.display())),
            _ => Ok(()),
        }
    }

    /// Removes the Pod from the API: the last word of its life, said only to this very Pod.
    async fn delete(&mut self, pod: &Arc<Pod>) -> Result<(), i64> {
        let api: Api<Pod> = Api::namespaced(self.shared.client.clone(), spec::namespace(pod));
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: Some(self.uid.clone()), resource_version: None }),
            ..Default::default()
        };
        match api.delete(spec::name(pod), &params).await {
            Ok(_) => Ok(()),
            Err(e) if matches!(status_code(&e), Some(404 | 409)) => Ok(()),
            Err(e) => {
                tracing::warn!(pod = spec::full_name(pod), error = %e, "cannot remove the pod from the API yet");
                Err(self.retry("delete", Duration::from_millis(200), Duration::from_secs(10)))
            }
        }
    }
}
