//! Doing what was decided, through the API: bind, say why not, make room. Nothing here decides.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use caravel_client::{Cluster, Recorder, status_code};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;

use crate::config::Config;
use crate::extend::{CallError, Extenders};
use crate::feed::Shared;
use crate::model::{PodInfo, PodKey};
use crate::plugins::devices::Booking;
use crate::plugins::volumes::Binding;
use crate::queue::News;
use crate::state::NodeId;

/// The hands of the scheduler.
#[derive(Clone)]
pub struct Applier {
    pub(crate) cluster: Cluster,
    /// Events say which profile's they are.
    recorders: Arc<HashMap<Arc<str>, Recorder>>,
    pub(crate) shared: Arc<Shared>,
    extenders: Extenders,
}

/// A failure on the way, in words.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The API refused.
    #[error(transparent)]
    Api(#[from] kube::Error),
    /// The extender that binds refused, or cannot be reached.
    #[error(transparent)]
    Extender(#[from] CallError),
    /// Claims were not bound in time, or cannot be any more.
    #[error("binding volumes: {0}")]
    Volumes(String),
    /// A resource claim is not as it was when devices were picked for it.
    #[error("resource claim {0}")]
    Devices(String),
    /// Devices did not get ready for the node.
    #[error("{0}")]
    NotReady(String),
}

fn reference(pod: &PodInfo) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        namespace: Some(pod.key.namespace.to_string()),
        name: Some(pod.key.name.to_string()),
        uid: Some(pod.uid.to_string()),
        ..ObjectReference::default()
    }
}

impl Applier {
    /// Acts through a cluster.
    pub fn new(cluster: Cluster, shared: Arc<Shared>, config: &Config, extenders: Extenders) -> Self {
        let recorders = config.profiles.iter().map(|p| (p.name.clone(), cluster.recorder(&p.name))).collect();
        Self { cluster, recorders: Arc::new(recorders), shared, extenders }
    }

    /// Says something about a pod (or `about` another one) as the profile of the pod that is being scheduled.
    pub(crate) fn event(&self, profile: &str, about: &PodInfo, kind: &str, reason: &str, action: &str, note: &str) {
        if let Some(recorder) = self.recorders.get(profile) {
            recorder.event(&reference(about), kind, reason, action, note);
        }
    }

    fn pods(&self, namespace: &str) -> Api<core::Pod> {
        Api::namespaced(self.cluster.client(), namespace)
    }

    /// Binds a pod to the node on which it is assumed. Undoes the assumption when that fails.
    /// `permit` is for as long as the scheduler itself has something to do for it.
    /// `timeouts` is how long its volumes' claims may take to be bound, and its devices to be ready.
    pub async fn bind(
        &self,
        pod: Arc<PodInfo>,
        (id, node): (NodeId, Arc<str>),
        bindings: Vec<Binding>,
        bookings: Vec<Booking>,
        timeouts: (Duration, Duration),
        permit: OwnedSemaphorePermit,
    ) {
        let mut made = None;
        let mut permit = Some(permit);
        let result = async {
            self.bind_volumes(&node, &bindings, timeouts.0).await?;
            let claims = self.book(&pod, &bookings, &mut made).await?;
            self.await_devices(&pod, &node, &claims, timeouts.1, &mut permit).await?;
            match self.extenders.binder(&pod) {
                Some(extender) => Ok(extender.bind(&pod, &node).await?),
                None => self.post_binding(&pod, &node).await,
            }
        }
        .await;
        let volumes = || {
            bindings.iter().filter_map(|b| match b {
                Binding::Volume { volume, .. } => Some(volume.clone()),
                Binding::Provision { .. } => None,
            })
        };
        if let Some(claim) = made.filter(|_| result.is_err()) {
            self.unmake_special(&pod, &claim).await;
        }
        match result {
            Ok(()) => {
                let note = format!("Successfully assigned {} to {node}", pod.key);
                self.event(&pod.scheduler, &pod, "Normal", "Scheduled", "Binding", &note);
            }
            Err(ApplyError::Api(error)) if status_code(&error) == Some(404) => {
                // It is gone: its informer says so, too.
                self.shared.with(|core, now| {
                    bookings.iter().for_each(|b| core.state.devices.forget(&b.claim.key));
                    volumes().for_each(|v| core.state.volumes.forget(&v));
                    core.state.forget(&pod.key);
                    core.remove_pod(&pod, now);
                });
            }
            Err(error) => {
                tracing::warn!(pod = %pod.key, node = %node, %error, "cannot bind");
                let note = format!("binding rejected: {error}");
                self.event(&pod.scheduler, &pod, "Warning", "FailedScheduling", "Scheduling", &note);
                self.shared.with(|core, now| {
                    bookings.iter().for_each(|b| core.state.devices.forget(&b.claim.key));
                    volumes().for_each(|v| core.state.volumes.forget(&v));
                    core.forget(&pod, id, now);
                });
            }
        }
    }

    async fn post_binding(&self, pod: &PodInfo, node: &str) -> Result<(), ApplyError> {
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": &*pod.key.name, "namespace": &*pod.key.namespace, "uid": &*pod.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        let pods = self.pods(&pod.key.namespace);
        let _: Value = pods.create_subresource("binding", &pod.key.name, &PostParams::default(), &binding).await?;
        Ok(())
    }

    /// Reserves volumes and asks for new ones, then waits until all claims are bound.
    async fn bind_volumes(&self, node: &str, bindings: &[Binding], timeout: Duration) -> Result<(), ApplyError> {
        if bindings.is_empty() {
            return Ok(());
        }
        let mut waiting: Vec<PodKey> = Vec::new();
        for binding in bindings {
            match binding {
                Binding::Volume { claim, volume } => {
                    self.reserve(claim, volume).await?;
                    waiting.push(claim.clone());
                }
                Binding::Provision { claim } => {
                    let patch = json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": node}}});
                    let claims: Api<core::PersistentVolumeClaim> =
                        Api::namespaced(self.cluster.client(), &claim.namespace);
                    claims.patch(&claim.name, &PatchParams::default(), &Patch::Merge(patch)).await?;
                    waiting.push(claim.clone());
                }
            }
        }
        let all_bound = async {
            loop {
                let changed = self.shared.claims.notified();
                let (gone, unbound) = self.shared.with(|core, _| {
                    let claims: Vec<_> = waiting.iter().map(|key| core.state.volumes.claim(key)).collect();
                    (claims.iter().any(Option::is_none), claims.iter().flatten().any(|c| !c.bound))
                });
                if gone {
                    return Err(ApplyError::Volumes("a claim was deleted meanwhile".into()));
                }
                if !unbound {
                    return Ok(());
                }
                changed.await;
            }
        };
        tokio::time::timeout(timeout, all_bound)
            .await
            .map_err(|_| ApplyError::Volumes(format!("not done after {} s", timeout.as_secs())))?
    }

    async fn reserve(&self, claim: &PodKey, volume: &str) -> Result<(), ApplyError> {
        let uid = self.shared.with(|core, _| core.state.volumes.claim(claim).map(|c| c.uid.clone()));
        let uid = uid.ok_or_else(|| ApplyError::Volumes(format!("the claim {claim} was deleted meanwhile")))?;
        let volumes: Api<core::PersistentVolume> = Api::all(self.cluster.client());
        let patch = json!({
            "metadata": {"annotations": {"pv.kubernetes.io/bound-by-controller": "yes"}},
            "spec": {"claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "namespace": &*claim.namespace, "name": &*claim.name, "uid": &*uid}},
        });
        volumes.patch(volume, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    /// Says in a pod's status and in an event why it is not scheduled; `reason` is `Unschedulable`, or `SchedulerError` when that
    /// cannot be known. `nominated` is set when room is made for it.
    pub async fn report(&self, pod: &PodInfo, reason: &str, message: &str, nominated: Option<&str>, news: News) {
        self.event(&pod.scheduler, pod, "Warning", "FailedScheduling", "Scheduling", message);
        if news == News::Same && nominated.is_none() {
            return;
        }
        let mut condition = json!({
            "type": "PodScheduled", "status": "False", "reason": reason, "message": message, "lastProbeTime": null,
        });
        if news == News::First {
            // Later ones leave the time of the transition as it is: only the message changes.
            let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            condition["lastTransitionTime"] = json!(now);
        }
        let mut status = json!({"conditions": [condition]});
        if let Some(node) = nominated {
            status["nominatedNodeName"] = json!(node);
        }
        self.patch_status(pod, status).await;
    }

    async fn patch_status(&self, pod: &PodInfo, status: Value) {
        let patch = Patch::Strategic(json!({"metadata": {"uid": &*pod.uid}, "status": status}));
        let pods = self.pods(&pod.key.namespace);
        if let Err(error) = pods.patch_status(&pod.key.name, &PatchParams::default(), &patch).await
            && status_code(&error) != Some(404)
        {
            tracing::warn!(pod = %pod.key, %error, "cannot report why it is not scheduled");
        }
    }

    /// Takes victims away, so that `pod` fits on `node`; less important pods that had hoped for the node stop hoping.
    pub async fn make_room(&self, pod: &PodInfo, node: &str, victims: &[Arc<PodInfo>], lesser: &[Arc<PodInfo>]) {
        for other in lesser {
            self.patch_status(other, json!({"nominatedNodeName": null})).await;
        }
        for victim in victims.iter().filter(|v| !v.terminating) {
            let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            let condition = json!({"conditions": [{
                "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
                "message": format!("{}: preempting to accommodate a higher priority pod", pod.scheduler),
                "lastProbeTime": null, "lastTransitionTime": now,
            }]});
            self.patch_status(victim, condition).await;
            let only = Preconditions { uid: Some(victim.uid.to_string()), resource_version: None };
            let parameters = DeleteParams { preconditions: Some(only), ..DeleteParams::default() };
            match self.pods(&victim.key.namespace).delete(&victim.key.name, &parameters).await {
                Ok(_) => {
                    let note = format!("Preempted by pod {} on node {node}", pod.uid);
                    self.event(&pod.scheduler, victim, "Normal", "Preempted", "Preempting", &note);
                }
                Err(error) if status_code(&error) == Some(404) => {}
                Err(error) => tracing::warn!(victim = %victim.key, %error, "cannot take a pod away"),
            }
        }
    }
}
