//! Deciding about one DaemonSet.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};

use super::template;
use crate::common::history::HASH_LABEL;
use crate::common::{Event, created, deleting, labels, name, namespace, pod, scaled, sooner};

/// Pods made or deleted in one round at most.
const BURST: usize = 250;

/// Everything that a decision rests on.
pub struct Snapshot<'a> {
    /// The DaemonSet.
    pub ds: &'a DaemonSet,
    /// All nodes.
    pub nodes: &'a [Arc<Node>],
    /// The pods that it holds.
    pub pods: &'a [Arc<Pod>],
    /// The hash of the present template.
    pub hash: &'a str,
    /// How long a failed pod of a node is left to lie before it is replaced; `None` when it may go now.
    pub patience: &'a dyn Fn(&str) -> Option<Duration>,
    /// Whether pods may be made or deleted.
    pub may_act: bool,
    /// `status.collisionCount`.
    pub collisions: Option<i32>,
    /// The present.
    pub now: Timestamp,
}

/// What is to be done.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// Pods to delete.
    pub delete: Vec<Arc<Pod>>,
    /// Pods to make.
    pub create: Vec<Pod>,
    /// Nodes whose failed pod is among those to delete: the next failure there is left to lie for longer.
    pub failed_on: Vec<String>,
    /// Events about the DaemonSet.
    pub events: Vec<Event>,
    /// The status, when it differs.
    pub status: Option<DaemonSetStatus>,
    /// When to look again although nothing changes.
    pub again: Option<Duration>,
}

struct Place {
    start: bool,
    keep: bool,
    pods: Vec<Arc<Pod>>,
}

struct Round<'a> {
    s: &'a Snapshot<'a>,
    min_ready: i32,
    places: BTreeMap<String, Place>,
    desired: i32,
    surge: i32,
    unavailable: i32,
    plan: Plan,
}

/// Decides one round.
pub fn plan(s: &Snapshot<'_>) -> Plan {
    let mut round = Round::new(s);
    let mut nodes_to_fill = vec![];
    if s.may_act && !deleting(s.ds) {
        nodes_to_fill = round.manage();
        if nodes_to_fill.is_empty() && round.plan.delete.is_empty() && round.is_rolling() {
            nodes_to_fill = if round.surge > 0 { round.roll_with_surge() } else { round.roll() };
        }
    }
    round.plan.delete.truncate(BURST);
    nodes_to_fill.truncate(BURST);
    let spec = template::tolerant(s.ds);
    round.plan.create = nodes_to_fill.iter().map(|n| template::pod(s.ds, &spec, s.hash, n)).collect();
    round.status();
    round.plan
}

impl<'a> Round<'a> {
    fn new(s: &'a Snapshot<'a>) -> Self {
        let spec = template::tolerant(s.ds);
        let mut places: BTreeMap<String, Place> = s
            .nodes
            .iter()
            .map(|n| {
                let (start, keep) = template::suits(&spec, n);
                (name(&**n).to_owned(), Place { start, keep, pods: vec![] })
            })
            .collect();
        let mut homeless = vec![];
        for p in s.pods {
            match template::target(p).and_then(|n| places.get_mut(&n)) {
                Some(place) => place.pods.push(p.clone()),
                // One that waits for a node that is gone would wait for ever; bound ones are the pod collector's.
                None if pod::node_name(p).is_empty() && !deleting(&**p) => homeless.push(p.clone()),
                None => {}
            }
        }
        for place in places.values_mut() {
            // Bound ones before those that wait, older before younger.
            place.pods.sort_by_key(|p| (pod::node_name(p).is_empty(), created(&**p), name(&**p).to_owned()));
        }
        let desired = i32::try_from(places.values().filter(|p| p.start).count()).unwrap_or(i32::MAX);
        let update =
            s.ds.spec.as_ref().and_then(|s| s.update_strategy.as_ref()?.rolling_update.clone()).unwrap_or_default();
        let number =
            |v: &Option<_>, default| v.as_ref().map_or(Some(default), |v| scaled(v, desired, true)).unwrap_or(default);
        let (surge, mut unavailable) = (number(&update.max_surge, 0), number(&update.max_unavailable, 1));
        if surge == 0 && unavailable == 0 {
            unavailable = 1;
        }
        let min_ready = s.ds.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0);
        Self { s, min_ready, places, desired, surge, unavailable, plan: Plan { delete: homeless, ..Plan::default() } }
    }

    fn is_rolling(&self) -> bool {
        let strategy = self.s.ds.spec.as_ref().and_then(|s| s.update_strategy.as_ref());
        strategy.and_then(|u| u.type_.as_deref()) != Some("OnDelete")
    }

    fn current(&self, p: &Pod) -> bool {
        labels(p).get(HASH_LABEL).is_some_and(|h| h == self.s.hash)
    }

    fn available(&self, p: &Pod) -> bool {
        pod::available(p, self.min_ready, self.s.now)
    }

    /// One pod on each node that suits, none elsewhere; returns the nodes that lack one.
    fn manage(&mut self) -> Vec<String> {
        let mut lacking = vec![];
        let mut places = std::mem::take(&mut self.places);
        for (node, place) in &mut places {
            if place.start && place.pods.is_empty() {
                lacking.push(node.clone());
            } else if place.keep {
                let running = self.running(node, &place.pods);
                if self.surge > 0 {
                    if running.is_empty() && place.start && place.pods.iter().all(|p| deleting(&**p)) {
                        lacking.push(node.clone());
                    } else {
                        self.prune_surged(&running);
                    }
                } else {
                    self.plan.delete.extend(running.into_iter().skip(1));
                }
            } else {
                self.plan.delete.extend(place.pods.iter().filter(|p| !deleting(&***p)).cloned());
            }
        }
        self.places = places;
        lacking
    }

    /// The pods of a node that are neither ended nor ending; ended ones are to be deleted, in their time.
    fn running(&mut self, node: &str, pods: &[Arc<Pod>]) -> Vec<Arc<Pod>> {
        let mut running = vec![];
        for p in pods.iter().filter(|p| !deleting(&***p)) {
            let (reason, what, end) = match pod::phase(p) {
                "Failed" => ("FailedDaemonPod", "failed", "kill"),
                "Succeeded" => ("SucceededDaemonPod", "succeeded", "delete"),
                _ => {
                    running.push(p.clone());
                    continue;
                }
            };
            if pod::phase(p) == "Failed" {
                if let Some(wait) = (self.s.patience)(node) {
                    self.plan.again = sooner(self.plan.again, Some(wait));
                    continue;
                }
                self.plan.failed_on.push(node.to_owned());
            }
            let place = format!("{}/{}", namespace(&**p), name(&**p));
            let note = format!("Found {what} daemon pod {place} on node {node}, will try to {end} it");
            let type_ = if what == "failed" { "Warning" } else { "Normal" };
            self.plan.events.push(Event { type_, reason, note });
            self.plan.delete.push(p.clone());
        }
        running
    }

    /// With surge a node may have one new pod beside an old one, until the new one is available or the old one is not.
    fn prune_surged(&mut self, running: &[Arc<Pod>]) {
        if running.len() < 2 {
            return;
        }
        let (mut new, mut old): (Option<&Arc<Pod>>, Option<&Arc<Pod>>) = (None, None);
        for p in running {
            let slot = if self.current(p) { &mut new } else { &mut old };
            if slot.is_none() {
                *slot = Some(p);
            } else {
                self.plan.delete.push(p.clone());
            }
        }
        if let (Some(new), Some(old)) = (new, old)
            && (!pod::ready(old) || self.available(new))
        {
            self.plan.delete.push(old.clone());
        }
    }

    /// (new pod, old pod) of a node; `None` when there are several of one sort, which `manage` mends.
    #[allow(clippy::type_complexity)]
    fn pair(&self, place: &Place) -> Option<(Option<Arc<Pod>>, Option<Arc<Pod>>)> {
        let (mut new, mut old) = (None, None);
        for p in place.pods.iter().filter(|p| !deleting(&***p)) {
            let slot = if self.current(p) { &mut new } else { &mut old };
            if slot.replace(p.clone()).is_some() {
                return None;
            }
        }
        Some((new, old))
    }

    /// Deletes old pods as far as `maxUnavailable` allows; those that are down already go first.
    fn roll(&mut self) -> Vec<String> {
        let (mut down, mut free, mut candidates) = (0, vec![], vec![]);
        for place in self.places.values().filter(|p| p.start || !p.pods.is_empty()) {
            match self.pair(place) {
                None | Some((None, None) | (Some(_), Some(_))) => down += 1,
                Some((Some(new), None)) => down += i32::from(!self.available(&new)),
                Some((None, Some(old))) if !self.available(&old) => free.push(old),
                Some((None, Some(old))) => candidates.push(old),
            }
        }
        // What is down and old counts too, but is not held up by the count.
        let budget = usize::try_from(self.unavailable - down - i32::try_from(free.len()).unwrap_or(0)).unwrap_or(0);
        self.plan.delete.extend(free);
        self.plan.delete.extend(candidates.into_iter().take(budget));
        vec![]
    }

    /// Starts new pods beside old ones as far as `maxSurge` allows, and deletes old ones that are not needed any more.
    fn roll_with_surge(&mut self) -> Vec<String> {
        let (mut surged, mut free, mut candidates) = (0, vec![], vec![]);
        let mut delete = vec![];
        for (node, place) in self.places.iter() {
            match self.pair(place) {
                None => surged += 1,
                Some((_, None)) => {}
                Some((None, Some(_))) if !place.start => {}
                Some((None, Some(old))) if !self.available(&old) => free.push(node.clone()),
                Some((None, Some(_))) => candidates.push(node.clone()),
                Some((Some(new), Some(old))) => {
                    if !self.available(&old) || self.available(&new) {
                        delete.push(old);
                    } else {
                        surged += 1;
                    }
                }
            }
        }
        self.plan.delete.extend(delete);
        let budget = usize::try_from(self.surge - surged).unwrap_or(0);
        free.into_iter().chain(candidates.into_iter().take(budget)).collect()
    }

    fn status(&mut self) {
        let (mut current, mut misscheduled, mut ready, mut available, mut updated) = (0, 0, 0, 0, 0);
        for place in self.places.values() {
            let Some(first) = place.pods.first() else { continue };
            if !place.start {
                misscheduled += 1;
                continue;
            }
            current += 1;
            if pod::ready(first) {
                ready += 1;
                available += i32::from(self.available(first));
                self.plan.again = sooner(self.plan.again, pod::available_in(first, self.min_ready, self.s.now));
            }
            updated += i32::from(self.current(first));
        }
        let some = |n: i32| Some(n).filter(|n| *n != 0);
        let old = self.s.ds.status.clone().unwrap_or_default();
        let new = DaemonSetStatus {
            observed_generation: self.s.ds.metadata.generation,
            desired_number_scheduled: self.desired,
            current_number_scheduled: current,
            number_misscheduled: misscheduled,
            number_ready: ready,
            number_available: some(available),
            number_unavailable: some(self.desired - available),
            updated_number_scheduled: some(updated),
            collision_count: self.s.collisions,
            conditions: old.conditions.clone(),
        };
        self.plan.status = (new != old).then_some(new);
    }
}
