//! The arithmetic, annotations and conditions of Deployments (upstream's `deploymentutil`).

use std::cmp::Ordering;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet, RollingUpdateDeployment,
};
use k8s_openapi::api::core::v1::PodTemplateSpec;

use crate::common::{annotation, created, name, scaled, stored_time};

/// The label that tells the pods of one template from those of another.
pub const HASH_LABEL: &str = "pod-template-hash";
/// The revision number, on the Deployment and on each ReplicaSet.
pub const REVISION: &str = "deployment.kubernetes.io/revision";
/// Earlier revision numbers of a ReplicaSet that was rolled back to.
pub const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// The Deployment's replicas when the ReplicaSet was last sized: differs from the spec when a scaling has to be spread.
pub const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
/// The most replicas that the Deployment might have had then, surge included.
pub const MAX: &str = "deployment.kubernetes.io/max-replicas";
/// The rollback request of extensions/v1beta1, which upstream still honours.
pub const ROLLBACK_TO: &str = "deprecated.deployment.rollback.to";

/// Annotations that describe the Deployment itself and are not copied to its ReplicaSets.
pub const NOT_COPIED: [&str; 6] =
    ["kubectl.kubernetes.io/last-applied-configuration", REVISION, REVISION_HISTORY, DESIRED, MAX, ROLLBACK_TO];

/// Desired replicas of a Deployment (the default is one).
pub fn replicas(d: &Deployment) -> i32 {
    d.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

/// Desired replicas of a ReplicaSet.
pub fn rs_replicas(rs: &ReplicaSet) -> i32 {
    rs.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

/// Available replicas that a ReplicaSet reports.
pub fn rs_available(rs: &ReplicaSet) -> i32 {
    rs.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)
}

/// Replicas that a ReplicaSet reports to exist.
pub fn rs_actual(rs: &ReplicaSet) -> i32 {
    rs.status.as_ref().map_or(0, |s| s.replicas)
}

/// Sum of a reading over ReplicaSets.
pub fn sum<'a>(all: impl IntoIterator<Item = &'a ReplicaSet>, f: impl Fn(&ReplicaSet) -> i32) -> i32 {
    all.into_iter().map(f).sum()
}

/// Whether the strategy is RollingUpdate (the default).
pub fn rolling(d: &Deployment) -> bool {
    d.spec.as_ref().and_then(|s| s.strategy.as_ref()).and_then(|s| s.type_.as_deref()) != Some("Recreate")
}

/// (max surge, max unavailable) as numbers: surge is rounded up, unavailable down, and both cannot be zero.
fn fenceposts(d: &Deployment) -> (i32, i32) {
    let rolling: Option<&RollingUpdateDeployment> =
        d.spec.as_ref().and_then(|s| s.strategy.as_ref()).and_then(|s| s.rolling_update.as_ref());
    let of = |v: Option<&_>, up| v.and_then(|v| scaled(v, replicas(d), up)).unwrap_or(0);
    let surge = of(rolling.and_then(|r| r.max_surge.as_ref()), true);
    let unavailable = of(rolling.and_then(|r| r.max_unavailable.as_ref()), false);
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

/// How many pods may exist above the desired number during a rolling update.
pub fn max_surge(d: &Deployment) -> i32 {
    if rolling(d) { fenceposts(d).0 } else { 0 }
}

/// How many of the desired pods may be unavailable during a rolling update.
pub fn max_unavailable(d: &Deployment) -> i32 {
    if !rolling(d) || replicas(d) == 0 { 0 } else { fenceposts(d).1.min(replicas(d)) }
}

/// Whether a progress deadline is set (absent and the greatest number both mean none).
pub fn has_deadline(d: &Deployment) -> bool {
    d.spec.as_ref().and_then(|s| s.progress_deadline_seconds).is_some_and(|s| s != i32::MAX)
}

/// Whether old ReplicaSets are limited in number.
pub fn history_limit(d: &Deployment) -> Option<usize> {
    let limit = d.spec.as_ref()?.revision_history_limit.filter(|l| *l != i32::MAX)?;
    usize::try_from(limit).ok()
}

/// A condition of a Deployment's status.
pub fn condition<'a>(status: &'a DeploymentStatus, type_: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.iter().flatten().find(|c| c.type_ == type_)
}

/// A new condition, changed now.
pub fn new_condition(type_: &str, status: &str, reason: &str, message: String, now: Timestamp) -> DeploymentCondition {
    DeploymentCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_update_time: Some(stored_time(now)),
        last_transition_time: Some(stored_time(now)),
    }
}

/// Puts a condition in place of the one of its type; nothing changes when status and reason are the same already.
pub fn set_condition(status: &mut DeploymentStatus, mut new: DeploymentCondition) {
    if let Some(old) = condition(status, &new.type_) {
        if old.status == new.status && old.reason == new.reason {
            return;
        }
        if old.status == new.status {
            new.last_transition_time = old.last_transition_time.clone();
        }
    }
    remove_condition(status, &new.type_);
    status.conditions.get_or_insert_default().push(new);
}

/// Takes a condition away.
pub fn remove_condition(status: &mut DeploymentStatus, type_: &str) {
    if let Some(list) = &mut status.conditions {
        list.retain(|c| c.type_ != type_);
        if list.is_empty() {
            status.conditions = None;
        }
    }
}

/// Whether a status says that everything runs the newest template and is available.
pub fn complete(d: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = Some(replicas(d)).filter(|n| *n != 0);
    let same = |n: Option<i32>| n.filter(|n| *n != 0) == wanted;
    same(status.updated_replicas)
        && same(status.replicas)
        && same(status.available_replicas)
        && status.observed_generation.unwrap_or(0) >= d.metadata.generation.unwrap_or(0)
}

/// Whether two templates are the same, apart from the hash label.
pub fn same_template(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    if a.spec != b.spec {
        return false;
    }
    let strip = |t: &PodTemplateSpec| {
        let mut m = t.metadata.clone().unwrap_or_default();
        if let Some(l) = &mut m.labels {
            l.remove(HASH_LABEL);
        }
        m.labels = m.labels.filter(|l| !l.is_empty());
        m.annotations = m.annotations.filter(|l| !l.is_empty());
        m.creation_timestamp = None;
        m
    };
    strip(a) == strip(b)
}

/// Revision number in an object's annotation; malformed or absent is zero.
pub fn revision_of<K: kube::Resource>(object: &K) -> i64 {
    annotation(object, REVISION).and_then(|v| v.parse().ok()).unwrap_or(0)
}

/// Oldest first, ties by name.
pub fn by_age(a: &ReplicaSet, b: &ReplicaSet) -> Ordering {
    created(a).cmp(&created(b)).then_with(|| name(a).cmp(name(b)))
}

/// The ReplicaSet of the current template: the oldest when (by a collision) there are several.
pub fn find_new<'a>(d: &Deployment, all: &'a [Arc<ReplicaSet>]) -> Option<&'a Arc<ReplicaSet>> {
    let template = &d.spec.as_ref()?.template;
    all.iter()
        .filter(|rs| rs.spec.as_ref().and_then(|s| s.template.as_ref()).is_some_and(|t| same_template(t, template)))
        .min_by(|a, b| by_age(a, b))
}

/// Sets annotations on a ReplicaSet that its Deployment determines; returns whether any changed. `revision` is the number
/// that it ought to have at least; `exists` is false for one that is about to be made.
pub fn annotate(d: &Deployment, rs: &mut ReplicaSet, revision: i64, exists: bool) -> bool {
    let mut changed = false;
    let own = rs.metadata.annotations.get_or_insert_default();
    for (k, v) in d.metadata.annotations.iter().flatten() {
        let copied = !NOT_COPIED.contains(&k.as_str()) && !k.starts_with(super::beyond::PREFIX);
        if copied && own.get(k) != Some(v) {
            own.insert(k.clone(), v.clone());
            changed = true;
        }
    }
    let old = own.get(REVISION).cloned();
    let old_number = match old.as_deref() {
        None | Some("") => 0,
        Some(text) => match text.parse::<i64>() {
            Ok(n) => n,
            // A number that cannot be read is left alone: whoever wrote it may know why.
            Err(_) => return changed,
        },
    };
    if old_number < revision {
        own.insert(REVISION.to_owned(), revision.to_string());
        changed = true;
        if let Some(old) = old.filter(|o| !o.is_empty()) {
            own.entry(REVISION_HISTORY.to_owned())
                .and_modify(|h| {
                    h.push(',');
                    h.push_str(&old);
                    // Upstream's bound on this text; the oldest go.
                    while h.len() > 2000 {
                        match h.find(',') {
                            Some(i) => drop(h.drain(..=i)),
                            None => h.clear(),
                        }
                    }
                })
                .or_insert(old);
        }
    }
    if !exists {
        changed |= set_size_annotations(rs, replicas(d), replicas(d) + max_surge(d));
    }
    if rs.metadata.annotations.as_ref().is_some_and(|a| a.is_empty()) {
        rs.metadata.annotations = None;
    }
    changed
}

/// Writes the desired and the greatest number of replicas; returns whether they changed.
pub fn set_size_annotations(rs: &mut ReplicaSet, desired: i32, max: i32) -> bool {
    let own = rs.metadata.annotations.get_or_insert_default();
    let mut put = |k: &str, v: i32| own.insert(k.to_owned(), v.to_string()) != Some(v.to_string());
    let a = put(DESIRED, desired);
    let b = put(MAX, max);
    a || b
}
