//! The identity of a StatefulSet's pods: names, labels, storage.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::common::history::HASH_LABEL;
use crate::common::{labels, name, namespace, owner_ref, pod, uid};

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// The first ordinal.
pub fn start(set: &StatefulSet) -> i32 {
    set.spec.as_ref().and_then(|s| s.ordinals.as_ref()).and_then(|o| o.start).unwrap_or(0)
}

/// Desired replicas (the default is one).
pub fn replicas(set: &StatefulSet) -> i32 {
    set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

/// The ordinal in a pod's name, if the name is one of the set's.
pub fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let digits = name(pod).strip_prefix(name(set))?.strip_prefix('-')?;
    let canonical = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    canonical.then(|| digits.parse().ok()).flatten()
}

/// Whether the set wants a pod of this ordinal.
pub fn wanted(set: &StatefulSet, ordinal: i32) -> bool {
    (start(set)..start(set).saturating_add(replicas(set))).contains(&ordinal)
}

fn pod_name(set: &StatefulSet, ordinal: i32) -> String {
    format!("{}-{ordinal}", name(set))
}

fn templates(set: &StatefulSet) -> &[PersistentVolumeClaim] {
    set.spec.as_ref().and_then(|s| s.volume_claim_templates.as_deref()).unwrap_or_default()
}

/// The name of the claim of one template for one ordinal.
fn claim_name(set: &StatefulSet, template: &PersistentVolumeClaim, ordinal: i32) -> String {
    format!("{}-{}-{ordinal}", name(template), name(set))
}

/// The claims that the pod of an ordinal needs.
pub fn claims(set: &StatefulSet, ordinal: i32) -> Vec<PersistentVolumeClaim> {
    let selector = set.spec.as_ref().and_then(|s| s.selector.match_labels.clone()).unwrap_or_default();
    let one = |template: &PersistentVolumeClaim| {
        let mut claim = template.clone();
        claim.metadata.name = Some(claim_name(set, template, ordinal));
        claim.metadata.namespace = set.metadata.namespace.clone();
        claim.metadata.labels.get_or_insert_default().extend(selector.clone());
        claim.status = None;
        claim
    };
    templates(set).iter().map(one).collect()
}

/// A new pod of an ordinal, from the template of a revision.
pub fn new_pod(set: &StatefulSet, template: &PodTemplateSpec, revision: &str, ordinal: i32) -> Pod {
    let mut p = pod::from_template(template, namespace(set), name(set), owner_ref(set));
    p.metadata.generate_name = None;
    p.metadata.name = Some(pod_name(set, ordinal));
    p.metadata.labels.get_or_insert_default().insert(HASH_LABEL.into(), revision.into());
    let spec = p.spec.get_or_insert_default();
    spec.hostname = p.metadata.name.clone();
    spec.subdomain = set.spec.as_ref().and_then(|s| s.service_name.clone()).filter(|n| !n.is_empty());
    identify(&mut p, ordinal);
    attach(set, &mut p, ordinal);
    p
}

fn identify(p: &mut Pod, ordinal: i32) {
    let name = name(p).to_owned();
    let l = p.metadata.labels.get_or_insert_default();
    l.insert(POD_NAME.into(), name);
    l.insert(POD_INDEX.into(), ordinal.to_string());
}

/// Puts the claims' volumes in place of any of the same names.
fn attach(set: &StatefulSet, p: &mut Pod, ordinal: i32) {
    let spec = p.spec.get_or_insert_default();
    let own: BTreeMap<&str, String> = templates(set).iter().map(|t| (name(t), claim_name(set, t, ordinal))).collect();
    let mut volumes: Vec<Volume> = own
        .iter()
        .map(|(volume, claim)| Volume {
            name: (*volume).into(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim.clone(),
                read_only: None,
            }),
            ..Volume::default()
        })
        .collect();
    volumes.extend(spec.volumes.take().unwrap_or_default().into_iter().filter(|v| !own.contains_key(v.name.as_str())));
    spec.volumes = Some(volumes).filter(|v| !v.is_empty());
}

/// The pod with its identity set right, if it is not.
pub fn mended(set: &StatefulSet, p: &Pod, ordinal: i32) -> Option<Pod> {
    let l = labels(p);
    let named = l.get(POD_NAME).is_some_and(|n| n == name(p)) && l.get(POD_INDEX) == Some(&ordinal.to_string());
    let claim_of = |volume: &str| {
        let mut all = p.spec.iter().flat_map(|s| s.volumes.iter().flatten());
        all.find(|v| v.name == volume).and_then(|v| v.persistent_volume_claim.as_ref()).map(|c| c.claim_name.clone())
    };
    let stored = templates(set).iter().all(|t| claim_of(name(t)) == Some(claim_name(set, t, ordinal)));
    (!named || !stored).then(|| {
        let mut p = p.clone();
        identify(&mut p, ordinal);
        if !stored {
            attach(set, &mut p, ordinal);
        }
        p
    })
}

/// The claim with the owners that the retention policy asks for (KEP-1847), if it has others. `p` is the pod of the ordinal.
pub fn retained(
    set: &StatefulSet,
    p: &Pod,
    ordinal: i32,
    claim: &PersistentVolumeClaim,
) -> Option<PersistentVolumeClaim> {
    let policy = set.spec.as_ref().and_then(|s| s.persistent_volume_claim_retention_policy.clone()).unwrap_or_default();
    let delete = |w: &Option<String>| w.as_deref() == Some("Delete");
    let scaled_down = !wanted(set, ordinal);
    let (by_pod, by_set) = match (delete(&policy.when_scaled), delete(&policy.when_deleted)) {
        (false, by_set) => (false, by_set),
        (true, by_set) => (scaled_down, by_set && !scaled_down),
    };
    let before = claim.metadata.owner_references.clone().unwrap_or_default();
    let mut after = before.clone();
    own(&mut after, by_set, owner_ref(set));
    if !uid(p).is_empty() {
        own(&mut after, by_pod, owner_ref(p));
    }
    (before != after).then(|| {
        let mut claim = claim.clone();
        claim.metadata.owner_references = Some(after);
        claim
    })
}

/// Adds or removes one owner. Another controller's reference is left, and ours is then not the managing one.
fn own(all: &mut Vec<OwnerReference>, present: bool, mut reference: OwnerReference) {
    let here = all.iter().any(|o| o.uid == reference.uid);
    if present && !here {
        if all.iter().any(|o| o.controller == Some(true)) {
            reference.controller = None;
        }
        all.push(reference);
    } else if !present && here {
        all.retain(|o| o.uid != reference.uid);
    }
}

/// Whether a claim still belongs to a former pod of the name: it is about to be deleted with it, and must not be used.
pub fn stale(claim: &PersistentVolumeClaim, pod_name: &str) -> bool {
    let former = |o: &OwnerReference| o.kind == "Pod" && o.api_version == "v1" && o.name == pod_name;
    claim.metadata.owner_references.iter().flatten().any(former)
}
