//! Persistent volumes that are directories of this node.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use kube::api::Api;

use crate::pod::spec;

/// A persistent volume on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// The directory.
    pub path: PathBuf,
    /// The type to check (`hostPath` volumes).
    pub host_path_type: Option<String>,
    /// Whether a Pod's `fsGroup` takes the directory over (local volumes; a host path belongs to the host).
    pub owned: bool,
}

/// The claim a volume uses: its own, or the one made for it (generic ephemeral volumes).
pub fn claim_name(pod: &Pod, v: &Volume) -> Option<String> {
    if let Some(c) = &v.persistent_volume_claim {
        return Some(c.claim_name.clone());
    }
    v.ephemeral.as_ref().map(|_| format!("{}-{}", spec::name(pod), v.name))
}

/// Finds what a claim is bound to.
pub async fn resolve(client: &kube::Client, pod: &Pod, v: &Volume, claim: &str) -> Result<Claimed, String> {
    let ns = spec::namespace(pod);
    let failed = |e: &dyn std::fmt::Display| format!("error processing PVC {ns}/{claim}: {e}");
    let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), ns);
    let pvc = api
        .get_opt(claim)
        .await
        .map_err(|e| failed(&e))?
        .ok_or_else(|| failed(&format!("persistentvolumeclaim \"{claim}\" not found")))?;
    if pvc.metadata.deletion_timestamp.is_some() {
        return Err(failed(&"PVC is being deleted"));
    }
    if v.ephemeral.is_some() && !owned_by(&pvc, pod) {
        return Err(failed(&format!("PVC was not created for pod {ns}/{} (pod is not owner)", spec::name(pod))));
    }
    let bound = pvc.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
    let Some(name) = pvc.spec.as_ref().and_then(|s| s.volume_name.clone()).filter(|n| bound && !n.is_empty()) else {
        return Err(failed(&"PVC is not bound"));
    };
    let pv = Api::<PersistentVolume>::all(client.clone()).get(&name).await.map_err(|e| failed(&e))?;
    let pv_spec = pv.spec.ok_or_else(|| failed(&"the volume has no spec"))?;
    if pv_spec.claim_ref.as_ref().and_then(|r| r.uid.as_deref()) != pvc.metadata.uid.as_deref() {
        return Err(failed(&format!("the volume {name} is bound to another claim")));
    }
    if pv_spec.volume_mode.as_deref() == Some("Block") {
        return Err(failed(&"block volumes are not supported by this node"));
    }
    if let Some(h) = pv_spec.host_path {
        return Ok(Claimed { path: h.path.into(), host_path_type: h.type_, owned: false });
    }
    if let Some(l) = pv_spec.local {
        return Ok(Claimed { path: l.path.into(), host_path_type: Some("Directory".into()), owned: true });
    }
    Err(failed(&format!("the volume {name} is of a type that this node cannot mount (it can: hostPath, local)")))
}

fn owned_by(pvc: &PersistentVolumeClaim, pod: &Pod) -> bool {
    pvc.metadata
        .owner_references
        .iter()
        .flatten()
        .any(|o| o.controller == Some(true) && Some(&o.uid) == pod.metadata.uid.as_ref())
}
