//! The persistent volume binder.

use std::sync::Arc;
use std::time::Duration;

use caravel_client::{Change, Informer, Key, Recorder, WorkQueue, object_ref};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Api;
use kube::api::PostParams;

use super::bind::{BY_CONTROLLER, COMPLETED, ClaimPlan, PROVISIONER, VolumePlan, class_of, plan_claim, plan_volume};
use crate::common::{Event, Outcome, UNMET, annotation, deleting, name, namespace, put_status, stored_time, uid};
use crate::context::{Context, enqueue_each, record_on};

/// Volumes by the claim that they name.
const BY_CLAIM: &str = "claim";

struct Controller {
    context: Context,
    volumes: Informer<PersistentVolume>,
    claims: Informer<PersistentVolumeClaim>,
    classes: Informer<StorageClass>,
    recorder: Recorder,
}

/// Runs the binder.
///
/// # Errors
/// Never by itself.
pub async fn run(context: Context) -> anyhow::Result<()> {
    let c = Controller {
        volumes: context.cluster.informer(),
        claims: context.cluster.informer(),
        classes: context.cluster.informer(),
        recorder: context.cluster.recorder("persistentvolume-controller"),
        context,
    };
    c.volumes.add_index(BY_CLAIM, |v| named(v).map(|key| key.to_string()).into_iter().collect());
    // Claims have a namespace and volumes none: one queue holds both.
    let queue = WorkQueue::new();
    enqueue_each(&c.claims, &queue);
    enqueue_each(&c.volumes, &queue);
    c.wake_partners(&queue);
    c.volumes.synced().await;
    c.claims.synced().await;
    c.classes.synced().await;
    // One worker: two would choose the same volume.
    c.context.work(queue, 1, |key| c.reconcile(key)).await;
    Ok(())
}

/// The claim that a volume names.
fn named(v: &PersistentVolume) -> Option<Key> {
    let r = v.spec.as_ref()?.claim_ref.as_ref()?;
    Some(Key::new(r.namespace.clone().unwrap_or_default(), r.name.clone().unwrap_or_default()))
}

fn pending(c: &PersistentVolumeClaim) -> bool {
    annotation(c, COMPLETED).is_none()
}

impl Controller {
    /// A volume that becomes free, or changes, wakes the claim that it names or the claims that wait; a claim its volume; a class its claims.
    fn wake_partners(&self, queue: &WorkQueue<Key>) {
        let (claims, wake) = (self.claims.clone(), queue.clone());
        self.volumes.on_change(move |c| {
            let v = c.object();
            match named(v) {
                Some(claim) => wake.add(claim),
                None if !matches!(c, Change::Deleted(_)) => {
                    claims.list().iter().filter(|c| pending(c)).for_each(|c| wake.add(Key::of(&**c)));
                }
                None => {}
            }
        });
        let (volumes, wake) = (self.volumes.clone(), queue.clone());
        self.claims.on_change(move |c| {
            let claim = c.object();
            if let Some(v) = claim.spec.as_ref().and_then(|s| s.volume_name.clone()).filter(|n| !n.is_empty()) {
                wake.add(Key::cluster(v));
            }
            // A claim that goes before it was told of its volume does not name it; the volume names the claim.
            let theirs = volumes.by_index(BY_CLAIM, &Key::of(&**claim).to_string());
            theirs.iter().for_each(|v| wake.add(Key::of(&**v)));
        });
        let (claims, wake) = (self.claims.clone(), queue.clone());
        self.classes.on_change(move |c| {
            let class = name(&**c.object()).to_owned();
            let waiting = claims.list().into_iter().filter(|c| pending(c) && class_of(c) == class);
            waiting.for_each(|c| wake.add(Key::of(&*c)));
        });
    }

    async fn reconcile(&self, key: Key) -> Outcome {
        if key.namespace.is_empty() { self.reconcile_volume(key).await } else { self.reconcile_claim(key).await }
    }

    async fn reconcile_claim(&self, key: Key) -> Outcome {
        let Some(claim) = self.claims.get(&key).filter(|c| !deleting(&**c) || !pending(c)) else { return Ok(None) };
        let class = self.classes.get(&Key::cluster(class_of(&claim)));
        match plan_claim(&claim, &self.volumes.list(), class.as_deref()) {
            ClaimPlan::Bind(v) => self.bind(&claim, &v).await?,
            ClaimPlan::Wait(event) => {
                record_on(&self.recorder, &*claim, &event);
                self.set_claim_phase(&claim, "Pending").await?;
            }
            ClaimPlan::Provision(provisioner) => self.ask(&claim, &provisioner).await?,
            ClaimPlan::Lost(event) => {
                if claim.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Lost") {
                    record_on(&self.recorder, &*claim, &[event]);
                    self.set_claim_phase(&claim, "Lost").await?;
                }
            }
        }
        Ok(None)
    }

    fn claims_api(&self, claim: &PersistentVolumeClaim) -> Api<PersistentVolumeClaim> {
        Api::namespaced(self.context.client(), namespace(claim))
    }

    async fn set_claim_phase(&self, claim: &PersistentVolumeClaim, phase: &str) -> anyhow::Result<()> {
        if claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some(phase) {
            return Ok(());
        }
        let mut changed = claim.clone();
        let status = changed.status.get_or_insert_default();
        status.phase = Some(phase.into());
        if phase == "Pending" {
            (status.access_modes, status.capacity) = (None, None);
        }
        put_status(&self.claims_api(claim), &changed).await?;
        Ok(())
    }

    /// Binds in four writes, each of which is skipped when it was done: the volume's promise, its phase, the claim's, its status.
    async fn bind(&self, claim: &PersistentVolumeClaim, volume: &Arc<PersistentVolume>) -> anyhow::Result<()> {
        let volumes: Api<PersistentVolume> = Api::all(self.context.client());
        let mut v = (**volume).clone();
        let promised = v.spec.as_ref().and_then(|s| s.claim_ref.as_ref()?.uid.clone()).is_some_and(|u| u == uid(claim));
        if !promised {
            let spec = v.spec.get_or_insert_default();
            if spec.claim_ref.is_none() {
                v.metadata.annotations.get_or_insert_default().insert(BY_CONTROLLER.into(), "yes".into());
            }
            spec.claim_ref = Some(object_ref(claim));
            v = volumes.replace(name(&v), &PostParams::default(), &v).await?;
        }
        self.set_volume_phase(&v, "Bound", None).await?;
        let mut c = claim.clone();
        let chosen = c.spec.as_ref().and_then(|s| s.volume_name.as_deref()) == Some(name(&v));
        if !chosen || pending(&c) {
            let annotations = c.metadata.annotations.get_or_insert_default();
            annotations.insert(COMPLETED.into(), "yes".into());
            if !chosen {
                annotations.insert(BY_CONTROLLER.into(), "yes".into());
                c.spec.get_or_insert_default().volume_name = v.metadata.name.clone();
            }
            c = self.claims_api(claim).replace(name(&c), &PostParams::default(), &c).await?;
        }
        let status = c.status.get_or_insert_default();
        if status.phase.as_deref() != Some("Bound") {
            status.phase = Some("Bound".into());
            let spec = v.spec.clone().unwrap_or_default();
            status.access_modes = spec.access_modes;
            status.capacity = spec.capacity;
            status.current_volume_attributes_class_name = spec.volume_attributes_class_name;
            put_status(&self.claims_api(claim), &c).await?;
        }
        Ok(())
    }

    /// Marks the claim for the provisioner of its class.
    async fn ask(&self, claim: &PersistentVolumeClaim, provisioner: &str) -> anyhow::Result<()> {
        let mut c = claim.clone();
        let annotations = c.metadata.annotations.get_or_insert_default();
        let mut changed = false;
        for key in PROVISIONER {
            changed |= annotations.insert(key.into(), provisioner.into()).as_deref() != Some(provisioner);
        }
        if changed {
            c = self.claims_api(claim).replace(name(&c), &PostParams::default(), &c).await?;
        }
        let note = format!(
            "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system \
             administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."
        );
        record_on(&self.recorder, claim, &[Event::normal("ExternalProvisioning", note)]);
        self.set_claim_phase(&c, "Pending").await
    }

    async fn reconcile_volume(&self, key: Key) -> Outcome {
        let Some(v) = self.volumes.get(&key) else { return Ok(None) };
        let (claim, again) = self.claim_of(&v).await?;
        match plan_volume(&v, claim.as_deref()) {
            VolumePlan::Phase(phase) => self.set_volume_phase(&v, phase, None).await?,
            VolumePlan::Stranded(event) => {
                if v.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Failed") {
                    record_on(&self.recorder, &*v, std::slice::from_ref(&event));
                    self.set_volume_phase(&v, "Failed", Some(event.note)).await?;
                }
            }
            VolumePlan::Unbind => self.unbind(&v).await?,
        }
        Ok(again)
    }

    /// The claim that a volume names, if it is the very one; the server is asked when the cache has none. And when to ask again.
    async fn claim_of(
        &self,
        v: &PersistentVolume,
    ) -> anyhow::Result<(Option<Arc<PersistentVolumeClaim>>, Option<Duration>)> {
        let Some(r) = v.spec.as_ref().and_then(|s| s.claim_ref.as_ref()) else { return Ok((None, None)) };
        let (ns, n) = (r.namespace.clone().unwrap_or_default(), r.name.clone().unwrap_or_default());
        let same = |c: &PersistentVolumeClaim| r.uid.as_deref() == Some(uid(c));
        if let Some(c) = self.claims.get(&Key::new(ns.clone(), n.clone())).filter(|c| same(c)) {
            return Ok((Some(c), None));
        }
        if r.uid.as_deref().is_none_or(str::is_empty) {
            return Ok((None, None));
        }
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.context.client(), &ns);
        let live = api.get_opt(&n).await?.filter(same).map(Arc::new);
        let again = live.as_ref().map(|_| UNMET);
        Ok((live, again))
    }

    async fn set_volume_phase(&self, v: &PersistentVolume, phase: &str, message: Option<String>) -> anyhow::Result<()> {
        if v.status.as_ref().and_then(|s| s.phase.as_deref()) == Some(phase) {
            return Ok(());
        }
        let mut v = v.clone();
        let status = v.status.get_or_insert_default();
        status.phase = Some(phase.into());
        status.message = message;
        status.last_phase_transition_time = Some(stored_time(self.context.now()));
        let api: Api<PersistentVolume> = Api::all(self.context.client());
        put_status(&api, &v).await?;
        Ok(())
    }

    /// Frees a volume; one that a person promised to the claim keeps the promise, without the uid.
    async fn unbind(&self, v: &PersistentVolume) -> anyhow::Result<()> {
        let api: Api<PersistentVolume> = Api::all(self.context.client());
        let mut v = v.clone();
        let ours = annotation(&v, BY_CONTROLLER).is_some();
        let spec = v.spec.get_or_insert_default();
        if ours {
            spec.claim_ref = None;
        } else if let Some(r) = &mut spec.claim_ref {
            r.uid = None;
        }
        if let Some(a) = &mut v.metadata.annotations {
            a.remove(BY_CONTROLLER);
        }
        let v = api.replace(name(&v), &PostParams::default(), &v).await?;
        self.set_volume_phase(&v, "Available", None).await
    }
}
