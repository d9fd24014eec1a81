//! Deciding about one Deployment.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::beyond;
use super::canary;
use super::scale;
use super::status;
use super::util::*;
use crate::common::{Event, Selector, annotation, deleting, hash, name, namespace, owner_ref, pod, sooner, uid};

/// Everything that a decision about one Deployment rests on.
pub struct Snapshot<'a> {
    /// The Deployment.
    pub deployment: &'a Deployment,
    /// The ReplicaSets that it owns.
    pub replica_sets: Vec<Arc<ReplicaSet>>,
    /// The pods of each of them, by uid of the ReplicaSet; only where they matter (no rolling update, or failures are counted).
    pub pods: HashMap<String, Vec<Arc<Pod>>>,
    /// The present.
    pub now: Timestamp,
}

/// What is to be done, in this order.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// A new pod template of the Deployment (rollback), which ends this round.
    pub rollback: Option<Deployment>,
    /// Annotations of the Deployment to set (`None` removes).
    pub annotations: Vec<(String, Option<String>)>,
    /// ReplicaSets to write back.
    pub update: Vec<ReplicaSet>,
    /// The ReplicaSet of the current template, to be made. The status follows in the next round, when it is seen.
    pub create: Option<ReplicaSet>,
    /// Old ReplicaSets beyond the history limit.
    pub delete: Vec<Arc<ReplicaSet>>,
    /// Events about the Deployment, for what was done to it or to its ReplicaSets.
    pub events: Vec<Event>,
    /// The status to write, when it differs.
    pub status: Option<DeploymentStatus>,
    /// When to look again although nothing changes (the progress deadline).
    pub again: Option<Duration>,
}

/// The ReplicaSets as they will be once the plan is carried out.
pub struct Draft {
    sets: Vec<(ReplicaSet, bool)>,
    /// Index of the ReplicaSet of the current template.
    pub new: Option<usize>,
    events: Vec<Event>,
}

impl Draft {
    fn of(s: &Snapshot<'_>) -> Self {
        let new = find_new(s.deployment, &s.replica_sets)
            .and_then(|n| s.replica_sets.iter().position(|rs| Arc::ptr_eq(rs, n)));
        Self { sets: s.replica_sets.iter().map(|rs| ((**rs).clone(), false)).collect(), new, events: vec![] }
    }

    /// One ReplicaSet.
    pub fn rs(&self, index: usize) -> &ReplicaSet {
        &self.sets[index].0
    }

    /// All of them.
    pub fn indices(&self) -> impl Iterator<Item = usize> + use<> {
        0..self.sets.len()
    }

    /// All but the newest template's.
    pub fn old(&self) -> Vec<usize> {
        self.indices().filter(|i| Some(*i) != self.new).collect()
    }

    /// Old ones that want replicas.
    pub fn active_old(&self) -> Vec<usize> {
        self.old().into_iter().filter(|i| rs_replicas(self.rs(*i)) > 0).collect()
    }

    /// Gives one ReplicaSet a size and the size annotations; returns whether the size changed.
    pub fn resize(&mut self, d: &Deployment, index: usize, size: i32) -> bool {
        let (rs, touched) = &mut self.sets[index];
        let before = rs_replicas(rs);
        let annotated = set_size_annotations(rs, replicas(d), replicas(d) + max_surge(d));
        *touched |= annotated || before != size;
        if before == size {
            return false;
        }
        rs.spec.get_or_insert_default().replicas = Some(size);
        let direction = if size > before { "up" } else { "down" };
        let note = format!("Scaled {direction} replica set {} from {before} to {size}", name(rs));
        self.events.push(Event::normal("ScalingReplicaSet", note));
        true
    }
}

/// Decides one round.
pub fn plan(s: &Snapshot<'_>) -> Plan {
    let mut plan = Plan::default();
    let d = s.deployment;
    let Some(spec) = &d.spec else { return plan };
    if Selector::new(Some(&spec.selector)).is_everything() {
        let note = "This deployment is selecting all pods. A non-empty selector is required.";
        let observed = d.status.as_ref().and_then(|s| s.observed_generation).unwrap_or(0);
        if observed < d.metadata.generation.unwrap_or(0) {
            plan.events.push(Event::warning("SelectingAll", note));
            let mut status = d.status.clone().unwrap_or_default();
            status.observed_generation = d.metadata.generation;
            plan.status = Some(status);
        }
        return plan;
    }
    // Conditions are set on a copy as the round goes, like the rest of the draft.
    let mut d = d.clone();
    let mut draft = Draft::of(s);
    if deleting(&d) {
        finish(s, &d, &draft, &mut plan, false);
        return plan;
    }
    status::pause_condition(&mut d, s.now);
    if let Some(target) = annotation(&d, ROLLBACK_TO) {
        rollback(s, &d, target, &mut plan);
        return plan;
    }
    let pods = |rs: &ReplicaSet| s.pods.get(uid(rs)).into_iter().flatten().map(|p| &**p).collect();
    if let Some((changed, event)) = beyond::roll_back(&d, &s.replica_sets, pods) {
        plan.events.push(event);
        plan.rollback = Some(changed);
        return plan;
    }
    let paused = spec.paused == Some(true);
    if paused || scaling(s, &d) {
        sync_revision(&mut d, &mut draft, &mut plan, s.now);
        scale::scale(&d, &mut draft);
        if paused {
            clean_up(&d, &draft, s, &mut plan);
        }
        finish(s, &d, &draft, &mut plan, false);
        return plan;
    }
    if rolling(&d) {
        roll(s, &mut d, draft, &mut plan)
    } else {
        recreate(s, &mut d, draft, &mut plan)
    }
    plan
}

/// Whether some active ReplicaSet was sized for another `spec.replicas`.
fn scaling(s: &Snapshot<'_>, d: &Deployment) -> bool {
    s.replica_sets
        .iter()
        .filter(|rs| rs_replicas(rs) > 0)
        .any(|rs| annotation(&**rs, DESIRED).and_then(|v| v.parse::<i32>().ok()).is_some_and(|n| n != replicas(d)))
}

fn roll(s: &Snapshot<'_>, d: &mut Deployment, mut draft: Draft, plan: &mut Plan) {
    sync_revision(d, &mut draft, plan, s.now);
    let old = sum(draft.old().iter().map(|i| draft.rs(*i)), rs_replicas);
    let canary = draft.new.map(|n| canary::decide(d, draft.rs(n), old, s.now)).unwrap_or_default();
    status::hold_condition(d, canary.holding.as_deref(), s.now);
    if draft.new.is_none() {
        plan.create = Some(new_replica_set(d, &draft));
    } else if !scale::roll(d, &mut draft, canary.cap) && complete(d, &d.status.clone().unwrap_or_default()) {
        clean_up(d, &draft, s, plan);
    }
    plan.annotations.extend(canary.annotations);
    plan.events.extend(canary.events);
    finish(s, d, &draft, plan, true);
    plan.again = sooner(plan.again, canary.again);
}

fn recreate(s: &Snapshot<'_>, d: &mut Deployment, mut draft: Draft, plan: &mut Plan) {
    sync_revision(d, &mut draft, plan, s.now);
    let active = draft.active_old();
    if !active.is_empty() {
        for i in active {
            draft.resize(d, i, 0);
        }
    } else if !old_pods_run(s, &draft) {
        match draft.new {
            None => plan.create = Some(new_replica_set(d, &draft)),
            Some(new) => {
                draft.resize(d, new, replicas(d));
                if complete(d, &d.status.clone().unwrap_or_default()) {
                    clean_up(d, &draft, s, plan);
                }
            }
        }
    }
    finish(s, d, &draft, plan, true);
}

/// Whether a pod of an old template may still run: nothing new starts before.
fn old_pods_run(s: &Snapshot<'_>, draft: &Draft) -> bool {
    draft.old().into_iter().any(|i| {
        let rs = draft.rs(i);
        rs_actual(rs) > 0 || s.pods.get(uid(rs)).into_iter().flatten().any(|p| !pod::finished(p))
    })
}

/// Brings revision numbers, copied annotations and minReadySeconds of the current ReplicaSet up to date.
fn sync_revision(d: &mut Deployment, draft: &mut Draft, plan: &mut Plan, now: Timestamp) {
    let Some(new) = draft.new else { return };
    let next = draft.old().into_iter().map(|i| revision_of(draft.rs(i))).max().unwrap_or(0) + 1;
    let (rs, touched) = &mut draft.sets[new];
    *touched |= annotate(d, rs, next, true);
    let wanted = d.spec.as_ref().and_then(|s| s.min_ready_seconds).filter(|n| *n != 0);
    let spec = rs.spec.get_or_insert_default();
    if spec.min_ready_seconds.filter(|n| *n != 0) != wanted {
        spec.min_ready_seconds = wanted;
        *touched = true;
    }
    if let Some(revision) = annotation(rs, REVISION)
        && annotation(d, REVISION) != Some(revision)
    {
        plan.annotations.push((REVISION.to_owned(), Some(revision.to_owned())));
    }
    let found = name(rs).to_owned();
    status::found_new(d, &found, now);
}

/// The ReplicaSet for a template that has none.
fn new_replica_set(d: &Deployment, draft: &Draft) -> ReplicaSet {
    let spec = d.spec.clone().unwrap_or_default();
    let collisions = d.status.as_ref().and_then(|s| s.collision_count);
    let hash = hash::object_hash(&spec.template, collisions);
    let mut template = spec.template;
    let meta = template.metadata.get_or_insert_default();
    meta.labels.get_or_insert_default().insert(HASH_LABEL.to_owned(), hash.clone());
    let mut selector = spec.selector;
    selector.match_labels.get_or_insert_default().insert(HASH_LABEL.to_owned(), hash.clone());
    let all: Vec<&ReplicaSet> = draft.indices().map(|i| draft.rs(i)).collect();
    let mut rs = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", name(d))),
            namespace: Some(namespace(d).to_owned()),
            labels: meta.labels.clone(),
            owner_references: Some(vec![owner_ref(d)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(scale::new_rs_size(d, &all, 0)),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    };
    let old = sum(all.iter().copied(), rs_replicas);
    if let (Some(cap), Some(spec)) = (canary::first_cap(d, old), &mut rs.spec) {
        spec.replicas = spec.replicas.map(|n| n.min(cap));
    }
    let next = all.iter().map(|rs| revision_of(*rs)).max().unwrap_or(0) + 1;
    annotate(d, &mut rs, next, false);
    rs
}

/// Deletes the oldest revisions beyond the history limit that are idle and at rest.
fn clean_up(d: &Deployment, draft: &Draft, s: &Snapshot<'_>, plan: &mut Plan) {
    let Some(limit) = history_limit(d) else { return };
    let mut old: Vec<usize> = draft.old().into_iter().filter(|i| !deleting(draft.rs(*i))).collect();
    let surplus = old.len().saturating_sub(limit);
    old.sort_by(|a, b| {
        revision_of(draft.rs(*a)).cmp(&revision_of(draft.rs(*b))).then(by_age(draft.rs(*a), draft.rs(*b)))
    });
    for i in old.into_iter().take(surplus) {
        let rs = draft.rs(i);
        let observed = rs.status.as_ref().and_then(|s| s.observed_generation).unwrap_or(0);
        if rs_actual(rs) == 0 && rs_replicas(rs) == 0 && rs.metadata.generation.unwrap_or(0) <= observed {
            plan.delete.push(s.replica_sets[i].clone());
        }
    }
}

/// The deprecated rollback annotation: takes the template of an earlier revision (0 is the one before the current).
fn rollback(s: &Snapshot<'_>, d: &Deployment, target: &str, plan: &mut Plan) {
    let new = find_new(d, &s.replica_sets);
    let mut wanted: i64 = target.parse().unwrap_or(0);
    if wanted == 0 {
        let mut revisions: Vec<i64> = s.replica_sets.iter().map(|rs| revision_of(&**rs)).collect();
        revisions.sort_unstable();
        wanted = revisions.iter().rev().nth(1).copied().unwrap_or(0);
    }
    let mut changed = d.clone();
    if let Some(a) = &mut changed.metadata.annotations {
        a.remove(ROLLBACK_TO);
    }
    let found = s.replica_sets.iter().find(|rs| wanted > 0 && revision_of(&***rs) == wanted);
    let event = match found {
        None => Event::warning(
            "DeploymentRollbackRevisionNotFound",
            if wanted == 0 {
                "Unable to find last revision.".to_owned()
            } else {
                "Unable to find the revision to rollback to.".to_owned()
            },
        ),
        Some(rs) if new.is_some_and(|n| Arc::ptr_eq(n, rs)) => Event::warning(
            "DeploymentRollbackTemplateUnchanged",
            format!("The rollback revision contains the same template as current deployment {:?}", name(d)),
        ),
        Some(rs) => {
            let mut template = rs.spec.as_ref().and_then(|s| s.template.clone()).unwrap_or_default();
            if let Some(l) = template.metadata.as_mut().and_then(|m| m.labels.as_mut()) {
                l.remove(HASH_LABEL);
            }
            changed.spec.get_or_insert_default().template = template;
            Event::normal("DeploymentRollback", format!("Rolled back deployment {:?} to revision {wanted}", name(d)))
        }
    };
    plan.events.push(event);
    plan.rollback = Some(changed);
}

/// Ends a round: what was resized is to be written, and the status computed.
fn finish(s: &Snapshot<'_>, d: &Deployment, draft: &Draft, plan: &mut Plan, rollout: bool) {
    plan.events.extend(draft.events.iter().cloned());
    plan.update.extend(draft.sets.iter().filter(|(_, touched)| *touched).map(|(rs, _)| rs.clone()));
    let all: Vec<&ReplicaSet> = draft.indices().map(|i| draft.rs(i)).collect();
    let new = draft.new.map(|i| draft.rs(i));
    let status = status::status(d, &all, new, rollout, s.now);
    plan.again = status::deadline_in(d, &status, s.now);
    plan.annotations.extend(rollout.then(|| beyond::remember(d, &status, new)).flatten());
    if s.deployment.status.as_ref() != Some(&status) {
        plan.status = Some(status);
    }
}
