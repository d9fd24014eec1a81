//! The volume expansion controller, which expands nothing itself: no volume is made of what this program can enlarge.
//!
//! A claim that asks for more than it has is left to its driver's external resizer, which writes conditions, `allocatedResources` and
//! capacity; an event says so. Volumes of the kinds that drivers took over from the API server's program get the name of that driver on
//! their claim first, for the resizer looks for it.

use std::sync::Arc;

use caravel_api::quantity::Quantity;
use caravel_client::{Change, Informer, Key, Recorder, WorkQueue};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::common::*;
use crate::context::{Context, record_on};

const WORKERS: usize = 4;
/// On a claim: who is to enlarge its volume.
const RESIZER: &str = "volume.kubernetes.io/storage-resizer";
/// On a volume: its capacity before it was enlarged, while its file system is not.
const BEFORE: &str = "volume.alpha.kubernetes.io/pre-resize-capacity";

/// What to do about one claim.
#[derive(Debug, Default, PartialEq)]
struct Plan {
    /// The driver to note on the claim.
    resizer: Option<&'static str>,
    event: Option<Event>,
}

/// Upstream's name of the kind of a volume that a CSI driver took over, and of that driver.
fn migrated(spec: &PersistentVolumeSpec) -> Option<(&'static str, &'static str)> {
    if spec.aws_elastic_block_store.is_some() {
        Some(("kubernetes.io/aws-ebs", "ebs.csi.aws.com"))
    } else if spec.gce_persistent_disk.is_some() {
        Some(("kubernetes.io/gce-pd", "pd.csi.storage.gke.io"))
    } else if spec.azure_disk.is_some() {
        Some(("kubernetes.io/azure-disk", "disk.csi.azure.com"))
    } else if spec.azure_file.is_some() {
        Some(("kubernetes.io/azure-file", "file.csi.azure.com"))
    } else if spec.cinder.is_some() {
        Some(("kubernetes.io/cinder", "cinder.csi.openstack.org"))
    } else if spec.vsphere_volume.is_some() {
        Some(("kubernetes.io/vsphere-volume", "csi.vsphere.vmware.com"))
    } else if spec.portworx_volume.is_some() {
        Some(("kubernetes.io/portworx-volume", "pxd.portworx.com"))
    } else {
        None
    }
}

fn requested(c: &PersistentVolumeClaim) -> Option<Quantity> {
    let requests = c.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?;
    Quantity::parse(&requests.get("storage")?.0).ok()
}

fn capacity(c: &PersistentVolumeClaim) -> Option<Quantity> {
    Quantity::parse(&c.status.as_ref()?.capacity.as_ref()?.get("storage")?.0).ok()
}

fn bound(c: &PersistentVolumeClaim) -> bool {
    c.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound")
}

/// Whether a change may call for something: more is asked for, or more is had.
fn grew(old: &PersistentVolumeClaim, new: &PersistentVolumeClaim) -> bool {
    let more =
        |of: fn(&PersistentVolumeClaim) -> Option<Quantity>| of(new).unwrap_or_default() > of(old).unwrap_or_default();
    more(requested) || more(capacity) || (bound(new) && !bound(old))
}

fn theirs(v: &PersistentVolume, c: &PersistentVolumeClaim) -> bool {
    v.spec.as_ref().and_then(|s| s.claim_ref.as_ref()).is_some_and(|r| r.uid.as_deref() == Some(uid(c)))
}

fn plan(c: &PersistentVolumeClaim, v: &PersistentVolume) -> Plan {
    let Some(spec) = &v.spec else { return Plan::default() };
    let wants = requested(c).unwrap_or_default() > capacity(c).unwrap_or_default();
    if !bound(c) || !theirs(v, c) || !(wants || annotation(v, BEFORE).is_some()) {
        return Plan::default();
    }
    match migrated(spec) {
        Some((kind, driver)) => {
            let note = format!("CSI migration enabled for {kind}; waiting for external resizer to expand the pvc");
            let resizer = (annotation(c, RESIZER) != Some(driver)).then_some(driver);
            Plan { resizer, event: Some(Event::normal("ExternalExpanding", note)) }
        }
        None => {
            let note = "waiting for an external controller to expand this PVC";
            Plan { resizer: None, event: Some(Event::normal("ExternalExpanding", note)) }
        }
    }
}

/// Runs the controller.
///
/// # Errors
/// Never by itself.
pub async fn run(context: Context) -> anyhow::Result<()> {
    let claims: Informer<PersistentVolumeClaim> = context.cluster.informer();
    let volumes: Informer<PersistentVolume> = context.cluster.informer();
    let recorder = context.cluster.recorder("volume_expand");
    let queue = WorkQueue::new();
    let wake = queue.clone();
    claims.on_change(move |c| match c {
        Change::Added(c) => wake.add(Key::of(&**c)),
        Change::Updated { old, new } if grew(old, new) => wake.add(Key::of(&**new)),
        _ => {}
    });
    claims.synced().await;
    volumes.synced().await;
    let client = context.client();
    let reconcile = |key: Key| {
        let claim = claims.get(&key);
        let named = claim.as_ref().and_then(|c| c.spec.as_ref()?.volume_name.clone());
        let volume = named.and_then(|n| volumes.get(&Key::cluster(n)));
        let (client, recorder) = (client.clone(), recorder.clone());
        async move {
            let Some(c) = claim.filter(|c| bound(c)) else { return Ok(None) };
            // A claim that is bound has a volume; one that is not there, or not its own, is one that the cache is behind with.
            let Some(v) = volume.filter(|v| theirs(v, &c)) else {
                anyhow::bail!("its volume is not bound to it (yet)")
            };
            apply(&client, &recorder, &c, plan(&c, &v)).await
        }
    };
    context.work(queue, WORKERS, reconcile).await;
    Ok(())
}

async fn apply(client: &kube::Client, recorder: &Recorder, c: &Arc<PersistentVolumeClaim>, plan: Plan) -> Outcome {
    if let Some(driver) = plan.resizer {
        let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace(&**c));
        let patch = json!({"metadata": {"uid": uid(&**c), "annotations": {RESIZER: driver}}});
        gone_is_fine(api.patch(name(&**c), &PatchParams::default(), &Patch::Merge(patch)).await)?;
    }
    record_on(recorder, &**c, &plan.event);
    Ok(None)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::Value;

    fn claim(asked: &str, had: &str, phase: &str, annotations: Value) -> PersistentVolumeClaim {
        serde_json::from_value(
            json!({"metadata": {"name": "c", "namespace": "d", "uid": "u", "annotations": annotations},
            "spec": {"volumeName": "v", "resources": {"requests": {"storage": asked}}},
            "status": {"phase": phase, "capacity": {"storage": had}}}),
        )
        .unwrap()
    }

    fn volume(of: &str, source: Value, annotations: Value) -> PersistentVolume {
        let mut v = json!({"metadata": {"name": "v", "annotations": annotations}, "spec": {"claimRef": {"uid": of}}});
        source.as_object().unwrap().iter().for_each(|(k, s)| v["spec"][k] = s.clone());
        serde_json::from_value(v).unwrap()
    }

    #[test]
    fn table() {
        let none = json!({});
        let csi = json!({"csi": {"driver": "d", "volumeHandle": "h"}});
        let disk = json!({"awsElasticBlockStore": {"volumeID": "x"}});
        let waits = "waiting for an external controller to expand this PVC";
        let moved = "CSI migration enabled for kubernetes.io/aws-ebs; waiting for external resizer to expand the pvc";
        let noted = json!({RESIZER: "ebs.csi.aws.com"});
        let before = json!({BEFORE: "1Gi"});
        for (c, v, resizer, note) in [
            (claim("2Gi", "1Gi", "Bound", none.clone()), volume("u", csi.clone(), none.clone()), None, waits),
            (
                claim("2Gi", "1Gi", "Bound", none.clone()),
                volume("u", disk.clone(), none.clone()),
                Some("ebs.csi.aws.com"),
                moved,
            ),
            (claim("2Gi", "1Gi", "Bound", noted), volume("u", disk, none.clone()), None, moved),
            (claim("1Gi", "1Gi", "Bound", none.clone()), volume("u", csi.clone(), before), None, waits),
            (claim("1Gi", "1Gi", "Bound", none.clone()), volume("u", csi.clone(), none.clone()), None, ""),
            (claim("2Gi", "1Gi", "Pending", none.clone()), volume("u", csi.clone(), none.clone()), None, ""),
            (claim("2Gi", "1Gi", "Bound", none.clone()), volume("other", csi, none), None, ""),
        ] {
            let p = plan(&c, &v);
            assert_eq!(
                (p.resizer, p.event.map_or(String::new(), |e| e.note)),
                (resizer, note.to_owned()),
                "{c:?} {v:?}"
            );
        }
    }

    #[test]
    fn what_wakes() {
        let c = |asked, had, phase| claim(asked, had, phase, json!({}));
        let old = c("1Gi", "1Gi", "Bound");
        assert!(grew(&old, &c("2Gi", "1Gi", "Bound")) && grew(&old, &c("1Gi", "2Gi", "Bound")));
        assert!(!grew(&old, &old) && !grew(&c("2Gi", "1Gi", "Bound"), &old));
        assert!(grew(&c("1Gi", "1Gi", "Pending"), &old));
    }
}
