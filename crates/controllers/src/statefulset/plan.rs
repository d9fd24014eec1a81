//! Deciding about one StatefulSet.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec};

use super::identity::{self, ordinal, replicas, retained, stale, start, wanted};
use crate::common::history::HASH_LABEL;
use crate::common::{Event, deleting, labels, name, namespace, pod, scaled, sooner};

/// A recorded template and the name of its revision.
pub struct Revision<'a> {
    /// The name, which pods carry as a label.
    pub name: &'a str,
    /// The template.
    pub template: &'a PodTemplateSpec,
}

/// Everything that a decision rests on.
pub struct Snapshot<'a> {
    /// The set.
    pub set: &'a StatefulSet,
    /// The pods that it holds.
    pub pods: &'a [Arc<Pod>],
    /// Claims of its namespace by name.
    pub claims: &'a dyn Fn(&str) -> Option<Arc<PersistentVolumeClaim>>,
    /// The revision that pods below the partition keep.
    pub current: Revision<'a>,
    /// The revision of the present template.
    pub update: Revision<'a>,
    /// `status.collisionCount` as it is to be stored.
    pub collisions: i32,
    /// The present.
    pub now: Timestamp,
}

/// What is to be done, in this order.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// Claims to make.
    pub create_claims: Vec<PersistentVolumeClaim>,
    /// Claims whose owners change.
    pub update_claims: Vec<PersistentVolumeClaim>,
    /// Pods to make.
    pub create: Vec<Pod>,
    /// Pods whose identity is to be set right.
    pub update: Vec<Pod>,
    /// Pods to delete.
    pub delete: Vec<Arc<Pod>>,
    /// Events about the set.
    pub events: Vec<Event>,
    /// The status, when it differs.
    pub status: Option<StatefulSetStatus>,
    /// When to look again although nothing changes.
    pub again: Option<Duration>,
}

/// Whether a pod of the set runs and is ready.
fn healthy(p: &Pod) -> bool {
    pod::phase(p) == "Running" && pod::ready(p)
}

fn revision(p: &Pod) -> &str {
    labels(p).get(HASH_LABEL).map_or("", String::as_str)
}

struct Round<'a> {
    s: &'a Snapshot<'a>,
    min_ready: i32,
    monotonic: bool,
    living: BTreeMap<i32, Arc<Pod>>,
    /// Highest ordinal first.
    condemned: Vec<(i32, Arc<Pod>)>,
    plan: Plan,
}

/// Decides one round.
pub fn plan(s: &Snapshot<'_>) -> Plan {
    let spec = s.set.spec.clone().unwrap_or_default();
    let mut round = Round {
        s,
        min_ready: spec.min_ready_seconds.unwrap_or(0),
        monotonic: spec.pod_management_policy.as_deref() != Some("Parallel"),
        living: BTreeMap::new(),
        condemned: vec![],
        plan: Plan::default(),
    };
    for p in s.pods {
        match ordinal(s.set, p) {
            Some(i) if wanted(s.set, i) => drop(round.living.insert(i, p.clone())),
            Some(i) => round.condemned.push((i, p.clone())),
            None => {}
        }
    }
    round.condemned.sort_by_key(|(i, _)| std::cmp::Reverse(*i));
    if !deleting(s.set) && round.replicas() && round.scale_down() {
        round.roll(spec.update_strategy.as_ref().and_then(|u| u.type_.as_deref()) == Some("OnDelete"));
    }
    round.status();
    round.plan
}

impl Round<'_> {
    fn available(&self, p: &Pod) -> bool {
        healthy(p) && pod::available(p, self.min_ready, self.s.now)
    }

    /// Notes when a pod that is only waited for becomes available by time.
    fn wait_for(&mut self, p: &Pod) {
        if healthy(p) {
            self.plan.again = sooner(self.plan.again, pod::available_in(p, self.min_ready, self.s.now));
        }
    }

    /// Makes, mends and restarts the wanted pods; returns whether the round may go on to deletions.
    fn replicas(&mut self) -> bool {
        for i in start(self.s.set)..start(self.s.set).saturating_add(replicas(self.s.set)) {
            match self.living.get(&i).cloned() {
                None => {
                    if !self.create(i) {
                        if self.monotonic {
                            return false;
                        }
                        continue;
                    }
                    if self.monotonic {
                        return false;
                    }
                }
                Some(p) => {
                    if !self.tend(i, &p) && self.monotonic {
                        return false;
                    }
                }
            }
        }
        // Nothing is taken away while something is still to be made.
        self.plan.create.is_empty() && !self.plan.delete.iter().any(|p| pod::finished(p))
    }

    /// One pod that exists; returns whether an ordered set may go on to the next.
    fn tend(&mut self, i: i32, p: &Arc<Pod>) -> bool {
        if pod::finished(p) {
            // It is made again once it is gone.
            if !deleting(&**p) {
                let (reason, what) = match pod::phase(p) {
                    "Failed" => ("RecreatingFailedPod", "failed"),
                    _ => ("RecreatingTerminatedPod", "terminated"),
                };
                let place = format!("{}/{}", namespace(self.s.set), name(self.s.set));
                let note = format!("StatefulSet {place} is recreating {what} Pod {}", name(&**p));
                self.plan.events.push(Event::warning(reason, note));
                self.plan.delete.push(p.clone());
            }
            return false;
        }
        if pod::phase(p) == "Pending" {
            self.claims_for(i, p);
        }
        if deleting(&**p) || !healthy(p) {
            return false;
        }
        if !self.available(p) {
            self.wait_for(p);
            return false;
        }
        self.plan.update.extend(identity::mended(self.s.set, p, i));
        self.claims_for(i, p);
        true
    }

    /// A missing pod and its claims; returns false when it has to wait for a claim of its predecessor to go.
    fn create(&mut self, i: i32) -> bool {
        let r = if self.keeps_current(i) { &self.s.current } else { &self.s.update };
        let new = identity::new_pod(self.s.set, r.template, r.name, i);
        let held = identity::claims(self.s.set, i).into_iter().filter_map(|c| (self.s.claims)(name(&c)));
        if held.into_iter().any(|c| deleting(&*c) || stale(&c, name(&new))) {
            self.plan.again = sooner(self.plan.again, Some(Duration::from_secs(1)));
            return false;
        }
        self.claims_for(i, &new);
        self.plan.create.push(new);
        true
    }

    /// Claims of a pod: those missing are made, and owners follow the retention policy.
    fn claims_for(&mut self, i: i32, p: &Pod) {
        for wanted in identity::claims(self.s.set, i) {
            match (self.s.claims)(name(&wanted)) {
                None => {
                    let new = retained(self.s.set, p, i, &wanted).unwrap_or(wanted);
                    self.plan.create_claims.push(new);
                }
                Some(there) => self.plan.update_claims.extend(retained(self.s.set, p, i, &there)),
            }
        }
    }

    fn partition(&self) -> Option<i32> {
        let strategy = self.s.set.spec.as_ref()?.update_strategy.as_ref()?;
        strategy.rolling_update.as_ref()?.partition
    }

    /// Whether a new pod of this ordinal is made from the current revision rather than the update revision.
    fn keeps_current(&self, i: i32) -> bool {
        let strategy = self.s.set.spec.as_ref().and_then(|s| s.update_strategy.as_ref());
        if strategy.and_then(|u| u.type_.as_deref()) == Some("OnDelete") {
            return false;
        }
        let below = match strategy.and_then(|u| u.rolling_update.as_ref()) {
            None => self.s.set.status.as_ref().and_then(|s| s.current_replicas).unwrap_or(0),
            Some(r) => r.partition.unwrap_or(0),
        };
        i < start(self.s.set).saturating_add(below)
    }

    /// Deletes surplus pods, highest ordinal first; returns whether the round may go on to updates.
    fn scale_down(&mut self) -> bool {
        let unhealthy = |p: &Pod| !healthy(p) || deleting(p);
        let first_unhealthy = self
            .living
            .values()
            .find(|p| unhealthy(p))
            .or_else(|| self.condemned.iter().rev().map(|(_, p)| p).find(|p| unhealthy(p)))
            .map(|p| name(&**p).to_owned());
        for (i, p) in self.condemned.clone() {
            if let Some(claims) = self.condemned_claims(i, &p) {
                self.plan.update_claims.extend(claims);
            }
            if deleting(&*p) {
                if self.monotonic {
                    return false;
                }
                continue;
            }
            // Another pod that is not well is waited for; the one that is not well itself may go.
            if self.monotonic && first_unhealthy.as_deref() != Some(name(&*p)) && !self.available(&p) {
                self.wait_for(&p);
                return false;
            }
            self.plan.delete.push(p);
            if self.monotonic {
                return false;
            }
        }
        true
    }

    fn condemned_claims(&self, i: i32, p: &Pod) -> Option<Vec<PersistentVolumeClaim>> {
        let held = identity::claims(self.s.set, i).into_iter().filter_map(|c| (self.s.claims)(name(&c)));
        let changed: Vec<_> = held.filter_map(|c| retained(self.s.set, p, i, &c)).collect();
        (!changed.is_empty()).then_some(changed)
    }

    /// Replaces pods of old templates, highest ordinal first, down to the partition.
    fn roll(&mut self, on_delete: bool) {
        if on_delete {
            return;
        }
        let least = start(self.s.set).saturating_add(self.partition().unwrap_or(0));
        let rolling = self.s.set.spec.as_ref().and_then(|s| s.update_strategy.as_ref()?.rolling_update.clone());
        let limit = rolling.and_then(|r| r.max_unavailable);
        let limit = limit.and_then(|l| scaled(&l, replicas(self.s.set), true)).unwrap_or(1).max(1);
        let lost = self.living.values().filter(|p| deleting(&***p) || !self.available(p)).count();
        let mut budget = limit - i32::try_from(lost).unwrap_or(i32::MAX);
        let candidates: Vec<_> = self.living.range(least..).rev().map(|(_, p)| p.clone()).collect();
        for p in candidates {
            let down = deleting(&*p) || !self.available(&p);
            if revision(&p) != self.s.update.name && !deleting(&*p) {
                // A pod that is down already costs nothing.
                if !down && budget <= 0 {
                    return;
                }
                budget -= i32::from(!down);
                self.plan.delete.push(p);
                if limit == 1 {
                    return;
                }
            } else if down && limit == 1 {
                self.wait_for(&p);
                return;
            } else if down {
                self.wait_for(&p);
            }
        }
    }

    fn status(&mut self) {
        let count = |f: &dyn Fn(&Pod) -> bool| i32::try_from(self.s.pods.iter().filter(|p| f(p)).count()).unwrap_or(0);
        let some = |n: i32| Some(n).filter(|n| *n != 0);
        let counted = |p: &Pod| !pod::phase(p).is_empty();
        let at = |p: &Pod, name: &str| counted(p) && !deleting(p) && revision(p) == name;
        let total = count(&counted);
        let ready = count(&healthy);
        let updated = count(&|p| at(p, self.s.update.name));
        let available = count(&|p| self.available(p));
        let mut current = (self.s.current.name.to_owned(), count(&|p| at(p, self.s.current.name)));
        let wanted = replicas(self.s.set);
        let on_delete = self.s.set.spec.as_ref().and_then(|s| s.update_strategy.as_ref()?.type_.clone());
        if on_delete.as_deref() != Some("OnDelete") && (updated, total, ready) == (wanted, wanted, wanted) {
            // The update is complete: its revision is the current one.
            current = (self.s.update.name.to_owned(), updated);
        }
        let old = self.s.set.status.clone().unwrap_or_default();
        let new = StatefulSetStatus {
            observed_generation: self.s.set.metadata.generation,
            replicas: total,
            ready_replicas: some(ready),
            available_replicas: Some(available),
            current_replicas: some(current.1),
            updated_replicas: some(updated),
            current_revision: Some(current.0),
            update_revision: Some(self.s.update.name.to_owned()),
            collision_count: Some(self.s.collisions),
            conditions: old.conditions.clone(),
        };
        if self.min_ready > 0 {
            for p in self.s.pods.iter().filter(|p| healthy(p)) {
                let wait = pod::available_in(p, self.min_ready, self.s.now);
                self.plan.again = sooner(self.plan.again, wait);
            }
        }
        self.plan.status = (new != old).then_some(new);
    }
}
