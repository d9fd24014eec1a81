//! Deciding about claims and volumes (upstream's `pv_controller`).

use std::sync::Arc;

use caravel_api::quantity::Quantity;
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;

use crate::common::{Event, Selector, annotation, deleting, labels, name, namespace, uid};

/// On both: the controller, not a person, chose the partner.
pub const BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// On a claim: the binding is complete.
pub const COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// On a volume: who made it.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// On a claim: the node that the scheduler chose for its first pod.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// On a claim: who is to make its volume; the second is the older name.
pub const PROVISIONER: [&str; 2] =
    ["volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"];

/// What to do about a claim.
#[derive(Debug, PartialEq)]
pub enum ClaimPlan {
    /// Bind it to this volume, or finish that.
    Bind(Arc<PersistentVolume>),
    /// It waits; an event says for what, if anything new.
    Wait(Option<Event>),
    /// Somebody is asked to make a volume.
    Provision(String),
    /// Its volume is lost.
    Lost(Event),
}

/// The storage class of a claim, empty for none.
pub fn class_of(claim: &PersistentVolumeClaim) -> &str {
    annotation(claim, "volume.beta.kubernetes.io/storage-class")
        .or_else(|| claim.spec.as_ref().and_then(|s| s.storage_class_name.as_deref()))
        .unwrap_or_default()
}

fn claim_ref(v: &PersistentVolume) -> Option<&ObjectReference> {
    v.spec.as_ref()?.claim_ref.as_ref()
}

/// Whether a volume is bound, or promised, to this claim.
fn meant_for(v: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    claim_ref(v).is_some_and(|r| {
        r.name.as_deref() == Some(name(claim))
            && r.namespace.as_deref() == Some(namespace(claim))
            && r.uid.as_deref().is_none_or(|u| u.is_empty() || u == uid(claim))
    })
}

fn size(v: &PersistentVolume) -> Quantity {
    let capacity = v.spec.as_ref().and_then(|s| s.capacity.as_ref()?.get("storage"));
    capacity.and_then(|q| Quantity::parse(&q.0).ok()).unwrap_or_default()
}

fn requested(claim: &PersistentVolumeClaim) -> Quantity {
    let request = claim.spec.as_ref().and_then(|s| s.resources.as_ref()?.requests.as_ref()?.get("storage"));
    request.and_then(|q| Quantity::parse(&q.0).ok()).unwrap_or_default()
}

/// Why a volume cannot serve a claim, if it cannot.
fn mismatch(v: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<&'static str> {
    let (vs, cs) = (v.spec.clone().unwrap_or_default(), claim.spec.clone().unwrap_or_default());
    let mode = |m: &Option<String>| m.clone().unwrap_or_else(|| "Filesystem".into());
    let modes = vs.access_modes.unwrap_or_default();
    let class = |n: Option<String>| n.unwrap_or_default();
    if size(v) < requested(claim) {
        Some("requested PV is too small")
    } else if class(vs.storage_class_name) != class_of(claim) {
        Some("storageClassName does not match")
    } else if mode(&vs.volume_mode) != mode(&cs.volume_mode) {
        Some("incompatible volumeMode")
    } else if !cs.access_modes.iter().flatten().all(|m| modes.contains(m)) {
        Some("incompatible accessMode")
    } else if class(vs.volume_attributes_class_name) != class(cs.volume_attributes_class_name) {
        Some("volumeAttributesClassName does not match")
    } else {
        None
    }
}

/// The smallest volume that serves the claim; one that is promised to it comes first.
fn best(
    claim: &PersistentVolumeClaim,
    volumes: &[Arc<PersistentVolume>],
    promised_only: bool,
) -> Option<Arc<PersistentVolume>> {
    let selector = claim.spec.as_ref().and_then(|s| s.selector.as_ref());
    let fits = |v: &&Arc<PersistentVolume>| !deleting(&***v) && mismatch(v, claim).is_none();
    if let Some(v) = volumes.iter().filter(fits).find(|v| meant_for(v, claim)) {
        return Some(v.clone());
    }
    if promised_only {
        return None;
    }
    let free = |v: &&Arc<PersistentVolume>| {
        claim_ref(v).is_none()
            && v.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Available")
            && selector.is_none_or(|s| Selector::new(Some(s)).matches(labels(&***v)))
    };
    volumes
        .iter()
        .filter(fits)
        .filter(free)
        .min_by(|a, b| size(a).cmp(&size(b)).then_with(|| name(&***a).cmp(name(&***b))))
        .cloned()
}

/// Decides about one claim.
pub fn plan_claim(
    claim: &PersistentVolumeClaim,
    volumes: &[Arc<PersistentVolume>],
    class: Option<&StorageClass>,
) -> ClaimPlan {
    let wanted = claim.spec.as_ref().and_then(|s| s.volume_name.clone()).filter(|n| !n.is_empty());
    let volume = wanted.as_ref().and_then(|n| volumes.iter().find(|v| name(&***v) == n));
    if annotation(claim, COMPLETED).is_some() {
        return bound_claim(claim, wanted.is_some(), volume);
    }
    match (wanted, volume) {
        (Some(_), None) => ClaimPlan::Wait(None),
        (Some(_), Some(v)) if claim_ref(v).is_none() => match mismatch(v, claim) {
            None => ClaimPlan::Bind(v.clone()),
            Some(why) => {
                let note = format!("Cannot bind to requested volume {:?}: {why}", name(&**v));
                ClaimPlan::Wait(Some(Event::warning("VolumeMismatch", note)))
            }
        },
        (Some(_), Some(v)) if meant_for(v, claim) => ClaimPlan::Bind(v.clone()),
        (Some(_), Some(v)) => {
            let note = format!("volume {:?} already bound to a different claim.", name(&**v));
            ClaimPlan::Wait(Some(Event::warning("FailedBinding", note)))
        }
        (None, _) => open_claim(claim, volumes, class),
    }
}

/// A claim that takes any volume that fits.
fn open_claim(
    claim: &PersistentVolumeClaim,
    volumes: &[Arc<PersistentVolume>],
    class: Option<&StorageClass>,
) -> ClaimPlan {
    let late = class.is_some_and(|c| c.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"));
    let waiting = late && annotation(claim, SELECTED_NODE).is_none();
    if let Some(v) = best(claim, volumes, waiting) {
        return ClaimPlan::Bind(v);
    }
    if waiting {
        let note = "waiting for first consumer to be created before binding";
        return ClaimPlan::Wait(Some(Event::normal("WaitForFirstConsumer", note)));
    }
    if class_of(claim).is_empty() {
        let note = "no persistent volumes available for this claim and no storage class is set";
        return ClaimPlan::Wait(Some(Event::normal("FailedBinding", note)));
    }
    match class {
        None => {
            let note = format!("storageclass.storage.k8s.io {:?} not found", class_of(claim));
            ClaimPlan::Wait(Some(Event::warning("ProvisioningFailed", note)))
        }
        // Only people make volumes of this class.
        Some(c) if c.provisioner == "kubernetes.io/no-provisioner" => ClaimPlan::Wait(None),
        Some(c) => ClaimPlan::Provision(c.provisioner.clone()),
    }
}

/// A claim whose binding was complete once.
fn bound_claim(claim: &PersistentVolumeClaim, named: bool, volume: Option<&Arc<PersistentVolume>>) -> ClaimPlan {
    match volume {
        None if !named => ClaimPlan::Lost(Event::warning(
            "ClaimLost",
            "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!",
        )),
        None => ClaimPlan::Lost(Event::warning(
            "ClaimLost",
            "Bound claim has lost its PersistentVolume. Data on the volume is lost!",
        )),
        Some(v) if claim_ref(v).is_none() || meant_for(v, claim) => ClaimPlan::Bind(v.clone()),
        Some(_) => ClaimPlan::Lost(Event::warning(
            "ClaimMisbound",
            "Two claims are bound to the same volume, this one is bound incorrectly",
        )),
    }
}

/// What to do about a volume.
#[derive(Debug, PartialEq)]
pub enum VolumePlan {
    /// Only its phase.
    Phase(&'static str),
    /// Its claim is gone: nobody here can delete or scrub it, which is said.
    Stranded(Event),
    /// The claim took another volume: this one is free again.
    Unbind,
}

/// Decides about one volume; `claim` is the claim that it names, if it exists and is the very one.
pub fn plan_volume(v: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> VolumePlan {
    let Some(reference) = claim_ref(v) else { return VolumePlan::Phase("Available") };
    if reference.uid.as_deref().is_none_or(str::is_empty) {
        return VolumePlan::Phase("Available");
    }
    let Some(claim) = claim else { return released(v) };
    let taken = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or_default();
    if taken == name(v) {
        VolumePlan::Phase("Bound")
    } else if taken.is_empty() {
        // The claim's own round completes the binding.
        VolumePlan::Phase(if v.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound") {
            "Bound"
        } else {
            "Available"
        })
    } else if annotation(v, PROVISIONED_BY).is_some() && policy(v) == "Delete" {
        released(v)
    } else {
        VolumePlan::Unbind
    }
}

fn policy(v: &PersistentVolume) -> &str {
    v.spec.as_ref().and_then(|s| s.persistent_volume_reclaim_policy.as_deref()).unwrap_or("Retain")
}

fn released(v: &PersistentVolume) -> VolumePlan {
    // The external provisioner that made it also deletes it.
    let external = annotation(v, PROVISIONED_BY).is_some() || v.spec.as_ref().is_some_and(|s| s.csi.is_some());
    match policy(v) {
        "Delete" if !external => {
            let note = format!(
                "error getting deleter volume plugin for volume {:?}: no deletable volume plugin matched",
                name(v)
            );
            VolumePlan::Stranded(Event::warning("VolumeFailedDelete", note))
        }
        "Recycle" => {
            VolumePlan::Stranded(Event::warning("VolumeFailedRecycle", "No recycler plugin found for the volume!"))
        }
        _ => VolumePlan::Phase("Released"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use k8s_openapi::api::core::v1::*;
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    fn volume(n: &str, size: &str, class: &str, claimed: Option<(&str, &str)>) -> Arc<PersistentVolume> {
        Arc::new(PersistentVolume {
            metadata: ObjectMeta { name: Some(n.into()), ..Default::default() },
            spec: Some(PersistentVolumeSpec {
                capacity: Some([("storage".to_owned(), Text(size.into()))].into()),
                storage_class_name: Some(class.into()),
                access_modes: Some(vec!["ReadWriteOnce".into()]),
                claim_ref: claimed.map(|(name, uid)| ObjectReference {
                    name: Some(name.into()),
                    namespace: Some("ns".into()),
                    uid: Some(uid.into()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            status: Some(PersistentVolumeStatus { phase: Some("Available".into()), ..Default::default() }),
        })
    }

    fn claim(size: &str, class: &str, volume: Option<&str>, bound: bool) -> PersistentVolumeClaim {
        PersistentVolumeClaim {
            metadata: ObjectMeta {
                name: Some("c".into()),
                namespace: Some("ns".into()),
                uid: Some("u".into()),
                annotations: bound.then(|| [(COMPLETED.to_owned(), "yes".to_owned())].into()),
                ..Default::default()
            },
            spec: Some(PersistentVolumeClaimSpec {
                resources: Some(VolumeResourceRequirements {
                    requests: Some([("storage".to_owned(), Text(size.into()))].into()),
                    limits: None,
                }),
                storage_class_name: Some(class.into()),
                access_modes: Some(vec!["ReadWriteOnce".into()]),
                volume_name: volume.map(Into::into),
                ..Default::default()
            }),
            status: None,
        }
    }

    fn chosen(c: &PersistentVolumeClaim, volumes: &[Arc<PersistentVolume>], class: Option<&StorageClass>) -> String {
        match plan_claim(c, volumes, class) {
            ClaimPlan::Bind(v) => name(&*v).to_owned(),
            ClaimPlan::Wait(e) => format!("wait {}", e.map_or("", |e| e.reason)),
            ClaimPlan::Provision(p) => format!("provision {p}"),
            ClaimPlan::Lost(e) => format!("lost {}", e.reason),
        }
    }

    #[test]
    fn claims() {
        let all = [
            volume("big", "10Gi", "", None),
            volume("fit", "2Gi", "", None),
            volume("small", "1Gi", "", None),
            volume("classy", "5Gi", "fast", None),
            volume("taken", "2Gi", "", Some(("other", "x"))),
            volume("promised", "20Gi", "own", Some(("c", ""))),
        ];
        let fast = StorageClass { provisioner: "csi".into(), ..Default::default() };
        let late = StorageClass { volume_binding_mode: Some("WaitForFirstConsumer".into()), ..fast.clone() };
        for (c, class, want) in [
            (claim("1500Mi", "", None, false), None, "fit"),
            (claim("11Gi", "", None, false), None, "wait FailedBinding"),
            (claim("1Gi", "fast", None, false), Some(&fast), "classy"),
            (claim("6Gi", "fast", None, false), Some(&fast), "provision csi"),
            (claim("1Gi", "fast", None, false), Some(&late), "wait WaitForFirstConsumer"),
            (claim("1Gi", "own", None, false), Some(&late), "promised"),
            (claim("1Gi", "none", None, false), None, "wait ProvisioningFailed"),
            (claim("1Gi", "", Some("big"), false), None, "big"),
            (claim("11Gi", "", Some("big"), false), None, "wait VolumeMismatch"),
            (claim("1Gi", "", Some("taken"), false), None, "wait FailedBinding"),
            (claim("1Gi", "", Some("absent"), false), None, "wait "),
            (claim("1Gi", "", Some("absent"), true), None, "lost ClaimLost"),
            (claim("1Gi", "", Some("taken"), true), None, "lost ClaimMisbound"),
        ] {
            assert_eq!(chosen(&c, &all, class), want);
        }
    }

    #[test]
    fn volumes() {
        let bound = claim("1Gi", "", Some("v"), true);
        let elsewhere = claim("1Gi", "", Some("w"), true);
        let v = volume("v", "1Gi", "", Some(("c", "u")));
        assert_eq!(plan_volume(&volume("v", "1Gi", "", None), None), VolumePlan::Phase("Available"));
        assert_eq!(plan_volume(&volume("v", "1Gi", "", Some(("c", ""))), None), VolumePlan::Phase("Available"));
        assert_eq!(plan_volume(&v, Some(&bound)), VolumePlan::Phase("Bound"));
        assert_eq!(plan_volume(&v, Some(&elsewhere)), VolumePlan::Unbind);
        assert_eq!(plan_volume(&v, None), VolumePlan::Phase("Released"));
        let mut delete = (*v).clone();
        delete.spec.as_mut().unwrap().persistent_volume_reclaim_policy = Some("Delete".into());
        assert!(matches!(plan_volume(&delete, None), VolumePlan::Stranded(_)));
        delete.metadata.annotations = Some([(PROVISIONED_BY.to_owned(), "csi".to_owned())].into());
        assert_eq!(plan_volume(&delete, None), VolumePlan::Phase("Released"), "its provisioner deletes it");
    }
}
