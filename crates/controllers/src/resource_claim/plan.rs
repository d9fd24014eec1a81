//! What to do for one pod's claims, and for one claim. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, PodResourceClaim};
use k8s_openapi::api::resource::v1::{
    ResourceClaim, ResourceClaimConsumerReference, ResourceClaimStatus, ResourceClaimTemplate,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::common::*;

/// Says which of its pod's claims a claim was made for.
pub const POD_CLAIM_NAME: &str = "resource.kubernetes.io/pod-claim-name";
/// Keeps a claim that has devices from going away.
pub const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// Most characters of the part of a generated name that says what it is for.
const MAX_BASE: usize = 57;
/// Most users of one claim.
const MAX_RESERVED: usize = 256;

/// The claim that a pod has for one of its entries.
#[derive(Debug, PartialEq, Eq)]
pub enum Named {
    /// It is to be made from this template.
    NotYet(String),
    /// It turned out not to be needed.
    Unneeded,
    /// This one, written by the user.
    Given(String),
    /// This one, made from the template.
    Made(String, String),
}

/// Reads an entry together with the pod's status.
pub fn named(pod: &Pod, entry: &PodResourceClaim) -> Named {
    let Some(template) = &entry.resource_claim_template_name else {
        return Named::Given(entry.resource_claim_name.clone().unwrap_or_default());
    };
    let mut made = pod.status.iter().flat_map(|s| s.resource_claim_statuses.iter().flatten());
    match made.find(|s| s.name == entry.name) {
        None => Named::NotYet(template.clone()),
        Some(made) => match &made.resource_claim_name {
            Some(name) => Named::Made(name.clone(), template.clone()),
            None => Named::Unneeded,
        },
    }
}

/// The claim that the scheduler made for a pod's extended resources (KEP-5004).
pub fn extended(pod: &Pod) -> Option<&str> {
    let status = pod.status.as_ref()?.extended_resource_claim_status.as_ref()?;
    Some(&status.resource_claim_name)
}

/// The names of all claims that a pod has.
pub fn claim_names(pod: &Pod) -> Vec<String> {
    let entries = pod.spec.iter().flat_map(|s| s.resource_claims.iter().flatten());
    entries
        .filter_map(|e| match named(pod, e) {
            Named::Given(name) | Named::Made(name, _) => Some(name),
            Named::NotYet(_) | Named::Unneeded => None,
        })
        .chain(extended(pod).map(str::to_owned))
        .collect()
}

/// Whether none of a pod's containers runs, nor ever will.
pub fn done(pod: &Pod) -> bool {
    pod::finished(pod) || deleting(pod) && pod::node_name(pod).is_empty()
}

/// What a pod's claims need.
#[derive(Debug, Default, PartialEq)]
pub struct PodPlan {
    /// Claims to make, by the pod's name for each.
    pub make: Vec<(String, ResourceClaim)>,
    /// Claims that are there and have to be noted in the pod's status.
    pub note: BTreeMap<String, String>,
    /// Claims that the pod names and that seem to be gone, by the pod's name for each: where one is there after all, nothing is made or
    /// noted in its place.
    pub doubt: BTreeMap<String, String>,
    /// Claims to reserve for the pod, since it was put on its node without the scheduler.
    pub reserve: Vec<ResourceClaim>,
    /// What cannot be done, by the pod's name for it.
    pub wrong: Vec<(String, String)>,
}

/// What there is around a pod.
pub struct Around<'a> {
    /// A claim of the pod's namespace.
    pub claim: &'a dyn Fn(&str) -> Option<ResourceClaim>,
    /// A template of the pod's namespace.
    pub template: &'a dyn Fn(&str) -> Option<ResourceClaimTemplate>,
    /// The claims that were made for the pod, as far as known.
    pub owned: &'a [ResourceClaim],
}

/// The claim for an entry of a pod, from its template. The server completes its name.
fn from_template(pod: &Pod, entry: &str, template: &ResourceClaimTemplate) -> ResourceClaim {
    let meta = template.spec.metadata.clone().unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    annotations.insert(POD_CLAIM_NAME.into(), entry.into());
    ResourceClaim {
        metadata: ObjectMeta {
            generate_name: Some(base_name(name(pod), entry)),
            namespace: pod.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![owner_ref(pod)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.spec.clone(),
        status: None,
    }
}

/// `pod-entry-`; when that is too long, both are shortened in proportion, so that something is left of each.
fn base_name(pod: &str, entry: &str) -> String {
    let whole = format!("{pod}-{entry}-");
    if whole.len() <= MAX_BASE {
        return whole;
    }
    let part = |text: &str| text.chars().take(text.len() * MAX_BASE / whole.len()).collect::<String>();
    format!("{}-{}", part(pod), part(entry))
}

/// The claim made for an entry that its pod's status does not know of: the oldest, whoever looks.
fn orphan<'a>(owned: &'a [ResourceClaim], entry: &str) -> Option<&'a ResourceClaim> {
    let mut all: Vec<_> = owned.iter().filter(|c| annotation(*c, POD_CLAIM_NAME) == Some(entry)).collect();
    all.sort_by_key(|c| (created(*c), name(*c)));
    all.into_iter().find(|c| !deleting(*c))
}

/// Decides about a pod.
pub fn plan_pod(pod: &Pod, around: &Around<'_>) -> PodPlan {
    let mut plan = PodPlan::default();
    if deleting(pod) || pod::finished(pod) {
        return plan;
    }
    for entry in pod.spec.iter().flat_map(|s| s.resource_claims.iter().flatten()) {
        let own = |c: &ResourceClaim| controlled_by(c, uid(pod));
        let (claim, template) = match named(pod, entry) {
            Named::Unneeded => continue,
            Named::Given(name) => ((around.claim)(&name), None),
            Named::NotYet(template) => (None, Some(template)),
            // It is there, or somebody deleted it and it is made again.
            Named::Made(name, template) => match (around.claim)(&name).filter(own) {
                Some(claim) => (Some(claim), None),
                None => {
                    plan.doubt.insert(entry.name.clone(), name);
                    (None, Some(template))
                }
            },
        };
        if let Some(template) = template {
            match (orphan(around.owned, &entry.name), (around.template)(&template)) {
                (Some(claim), _) => drop(plan.note.insert(entry.name.clone(), name(claim).to_owned())),
                (None, Some(template)) => {
                    plan.make.push((entry.name.clone(), from_template(pod, &entry.name, &template)));
                }
                (None, None) => {
                    let why = format!(
                        "resource claim template {template:?}: resourceclaimtemplate.resource.k8s.io {template:?} not found"
                    );
                    plan.wrong.push((entry.name.clone(), why));
                }
            }
            continue;
        }
        if let Some(claim) = claim.filter(|_| !pod::node_name(pod).is_empty()) {
            plan.reserve.extend(reserved_for(claim, pod));
        }
    }
    plan
}

/// The claim with a pod among its users; `None` when it is already, has no devices, or takes nobody any more.
fn reserved_for(mut claim: ResourceClaim, pod: &Pod) -> Option<ResourceClaim> {
    let status = claim.status.as_mut().filter(|s| s.allocation.is_some())?;
    let users = status.reserved_for.get_or_insert_default();
    if deleting_meta(&claim.metadata) || users.len() >= MAX_RESERVED || users.iter().any(|u| u.uid == uid(pod)) {
        return None;
    }
    users.push(ResourceClaimConsumerReference {
        api_group: None,
        resource: "pods".into(),
        name: name(pod).to_owned(),
        uid: uid(pod).to_owned(),
    });
    Some(claim)
}

fn deleting_meta(meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_some()
}

/// What is known of a user of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// It may still need the claim.
    Needs,
    /// It does not need it any more, or is gone.
    Gone,
    /// Of a kind that is not known here.
    Unknown,
}

/// What to do with a claim.
#[derive(Debug, Default, PartialEq)]
pub struct ClaimPlan {
    /// Its status, when that is to be written.
    pub status: Option<ResourceClaimStatus>,
    /// Its finalizer is to go, after the status is written.
    pub unprotect: bool,
    /// It is to be deleted: it was made for a pod that needs it no more.
    pub delete: bool,
}

/// What is known of the pod that a claim was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// It was made for none, or the pod is not known (yet): the garbage collector will see.
    Unknown,
    /// It may still need the claim.
    Needs,
    /// It does not need the claim any more, or uses another one in its place.
    Done,
}

/// Judges the pod of a claim's name for its owner.
pub fn owner(claim: &ResourceClaim, pod: Option<&Pod>) -> Owner {
    let Some(reference) = controller_of(claim).filter(|o| o.kind == "Pod" && o.api_version == "v1") else {
        return Owner::Unknown;
    };
    let Some(pod) = pod else { return Owner::Unknown };
    if uid(pod) != reference.uid || done(pod) {
        return Owner::Done;
    }
    // Two were made for one entry: an answer got lost on the way.
    let entry = annotation(claim, POD_CLAIM_NAME).unwrap_or_default();
    let mut made = pod.status.iter().flat_map(|s| s.resource_claim_statuses.iter().flatten());
    let other = made.find(|s| s.name == entry).and_then(|s| s.resource_claim_name.as_deref());
    if other.is_some_and(|other| other != name(claim)) { Owner::Done } else { Owner::Needs }
}

/// Decides about a claim. `users` says of each entry of `status.reservedFor` what is known of it.
pub fn plan_claim(claim: &ResourceClaim, users: &[User], owner: Owner) -> ClaimPlan {
    let mut plan = ClaimPlan::default();
    let protected = claim.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER);
    let status = claim.status.clone().unwrap_or_default();
    let reserved = status.reserved_for.clone().unwrap_or_default();
    let left: Vec<_> =
        reserved.iter().zip(users).filter(|(_, user)| **user != User::Gone).map(|(r, _)| r.clone()).collect();
    let unused = left.is_empty();
    // A claim gives its devices back when the last of its users goes, so that it can be had anywhere by the next; one that nobody uses
    // yet keeps them.
    let released = unused && !reserved.is_empty();
    let free = protected && (released || unused && deleting(claim));
    if left.len() < reserved.len() || free && status.allocation.is_some() {
        let allocation = if free { None } else { status.allocation.clone() };
        plan.status = Some(ResourceClaimStatus {
            reserved_for: (!left.is_empty()).then_some(left),
            // What drivers told of devices goes with them.
            devices: if allocation.is_none() { None } else { status.devices.clone() },
            allocation,
        });
    }
    // After a crash between the two writes it has neither users nor devices, and still the finalizer.
    let stranded = protected && unused && status.allocation.is_none() && (deleting(claim) || owner == Owner::Done);
    plan.unprotect = free || stranded;
    plan.delete = unused && owner == Owner::Done && !deleting(claim);
    plan
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
