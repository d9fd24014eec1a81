//! Pods that wait: for their turn, for their back-off to pass, or for something to happen that could help them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::model::{PodInfo, PodKey};
use crate::plugins::{Plugin, PluginSet};

/// A pod that nothing has helped for so long is tried again all the same.
const FLUSH: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Active(u64),
    BackOff(Instant),
    Waiting(Instant),
    /// Held by its gates: nothing but a change of the pod itself can help.
    Gated,
    /// Being decided on, or bound.
    InFlight,
}

/// How a message about a pod compares to the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// There was none.
    First,
    /// It was another.
    Changed,
    /// It was the same.
    Same,
}

/// A pod in the queue.
#[derive(Debug)]
pub struct Entry {
    /// The pod.
    pub pod: Arc<PodInfo>,
    /// How often it was tried in vain since it came.
    pub attempts: u32,
    /// Who objected the last time.
    pub plugins: PluginSet,
    /// What was said about it in its status.
    pub reported: Option<String>,
    /// Until when it must not be tried again.
    until: Instant,
    place: Place,
}

type ActiveKey = (Reverse<i32>, u64, PodKey);

/// See the module's documentation. It holds at most the pods that are not bound.
#[derive(Debug)]
pub struct Queue {
    entries: HashMap<PodKey, Entry>,
    /// The most important first, then in the order of arrival.
    active: BTreeSet<ActiveKey>,
    back_off: BTreeSet<(Instant, PodKey)>,
    /// With what is asked of each at every event, so that asking needs no other look-up.
    waiting: BTreeMap<(Instant, PodKey), (Arc<PodInfo>, PluginSet)>,
    arrivals: u64,
    first: Duration,
    longest: Duration,
}

impl Queue {
    /// An empty queue with a first and a longest back-off.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self {
            entries: HashMap::new(),
            active: BTreeSet::new(),
            back_off: BTreeSet::new(),
            waiting: BTreeMap::new(),
            arrivals: 0,
            first,
            longest,
        }
    }

    fn leave(&mut self, key: &PodKey) {
        let Some(entry) = self.entries.get(key) else { return };
        match entry.place {
            Place::Active(n) => {
                self.active.remove(&(Reverse(entry.pod.priority), n, key.clone()));
            }
            Place::BackOff(at) => {
                self.back_off.remove(&(at, key.clone()));
            }
            Place::Waiting(at) => {
                self.waiting.remove(&(at, key.clone()));
            }
            Place::Gated | Place::InFlight => {}
        }
    }

    fn put(&mut self, key: &PodKey, place: Place) {
        self.leave(key);
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.place = place;
        match place {
            Place::Active(n) => {
                self.active.insert((Reverse(entry.pod.priority), n, key.clone()));
            }
            Place::BackOff(at) => {
                self.back_off.insert((at, key.clone()));
            }
            Place::Waiting(at) => {
                self.waiting.insert((at, key.clone()), (entry.pod.clone(), entry.plugins));
            }
            Place::Gated | Place::InFlight => {}
        }
    }

    fn activate(&mut self, key: &PodKey) {
        self.arrivals += 1;
        self.put(key, Place::Active(self.arrivals));
    }

    /// Activates, or lets the back-off pass first.
    fn move_on(&mut self, key: &PodKey, now: Instant) {
        let Some(entry) = self.entries.get(key) else { return };
        let until = entry.until;
        if until > now { self.put(key, Place::BackOff(until)) } else { self.activate(key) }
    }

    /// A pod to schedule came or changed.
    pub fn set(&mut self, pod: Arc<PodInfo>, now: Instant) {
        let gate = (!pod.gates.is_empty()).then_some(Plugin::SchedulingGates);
        self.set_behind(pod, gate, now);
    }

    /// The same of a pod that is not to be tried while `gate` holds it: whoever set the gate comes again when it is open.
    pub fn set_behind(&mut self, pod: Arc<PodInfo>, gate: Option<Plugin>, now: Instant) {
        let key = pod.key.clone();
        let gated = gate.is_some();
        match self.entries.get_mut(&key).filter(|e| e.pod.uid == pod.uid) {
            None => {
                self.remove(&key);
                let plugins = PluginSet::from_iter(gate);
                let entry = Entry { pod, attempts: 0, plugins, reported: None, until: now, place: Place::InFlight };
                self.entries.insert(key.clone(), entry);
                if gated { self.put(&key, Place::Gated) } else { self.activate(&key) }
            }
            Some(entry) => {
                let helped = helps(&entry.pod, &pod);
                let place = entry.place;
                if let Place::Active(n) = place {
                    self.active.remove(&(Reverse(entry.pod.priority), n, key.clone()));
                }
                entry.pod = pod;
                match place {
                    Place::Active(_) => self.put(&key, place),
                    Place::Waiting(_) if helped => self.move_on(&key, now),
                    // What is asked about it at events is kept with its place.
                    Place::Waiting(_) => self.put(&key, place),
                    Place::Gated if !gated => self.move_on(&key, now),
                    _ => {}
                }
            }
        }
    }

    /// A pod went, or was bound.
    pub fn remove(&mut self, key: &PodKey) {
        self.leave(key);
        self.entries.remove(key);
    }

    /// What is known of a pod.
    pub fn get(&self, key: &PodKey) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// Remembers what was said about a pod in its status.
    pub fn report(&mut self, key: &PodKey, message: &str) -> News {
        let Some(entry) = self.entries.get_mut(key) else { return News::Same };
        match entry.reported.replace(message.to_owned()) {
            None => News::First,
            Some(before) if before == message => News::Same,
            Some(_) => News::Changed,
        }
    }

    /// The next pod to decide on.
    pub fn pop(&mut self, now: Instant) -> Option<Arc<PodInfo>> {
        while let Some((at, key)) = self.back_off.first().cloned()
            && at <= now
        {
            self.activate(&key);
        }
        while let Some((since, key)) = self.waiting.first_key_value().map(|(at, _)| at.clone())
            && since + FLUSH <= now
        {
            self.activate(&key);
        }
        let (_, _, key) = self.active.first().cloned()?;
        self.put(&key, Place::InFlight);
        self.entries.get(&key).map(|e| e.pod.clone())
    }

    /// When something will be due without anything happening.
    pub fn deadline(&self) -> Option<Instant> {
        let back_off = self.back_off.first().map(|(at, _)| *at);
        let flush = self.waiting.first_key_value().map(|((since, _), _)| *since + FLUSH);
        back_off.into_iter().chain(flush).min()
    }

    fn failed(&mut self, key: &PodKey, now: Instant) {
        let (first, longest) = (self.first, self.longest);
        if let Some(entry) = self.entries.get_mut(key) {
            entry.attempts += 1;
            let wait = first.saturating_mul(1 << (entry.attempts - 1).min(16));
            entry.until = now + wait.min(longest);
        }
    }

    /// No node will do: waits for something that `plugins` care for.
    pub fn unschedulable(&mut self, key: &PodKey, plugins: PluginSet, now: Instant) {
        self.failed(key, now);
        if let Some(entry) = self.entries.get_mut(key) {
            entry.plugins = plugins;
        }
        self.put(key, Place::Waiting(now));
    }

    /// Something else went wrong: tried again after the back-off.
    pub fn retry(&mut self, key: &PodKey, now: Instant) {
        self.failed(key, now);
        self.move_on(key, now);
    }

    /// Moves on the waiting pods that `helped` says can be helped now.
    pub fn wake(&mut self, now: Instant, mut helped: impl FnMut(&PodInfo, PluginSet) -> bool) {
        if self.waiting.is_empty() {
            return;
        }
        let keys: Vec<PodKey> = self
            .waiting
            .iter()
            .filter(|(_, (pod, plugins))| helped(pod, *plugins))
            .map(|((_, key), _)| key.clone())
            .collect();
        for key in keys {
            self.move_on(&key, now);
        }
    }

    /// How many pods are ready, backing off, and waiting.
    pub fn sizes(&self) -> (usize, usize, usize) {
        (self.active.len(), self.back_off.len(), self.waiting.len())
    }

    /// Whether a pod is ready now.
    pub fn has_ready(&self, now: Instant) -> bool {
        !self.active.is_empty() || self.deadline().is_some_and(|at| at <= now)
    }
}

/// Whether a change of a pod itself could help it.
fn helps(old: &PodInfo, new: &PodInfo) -> bool {
    old.gates != new.gates
        || old.labels != new.labels
        || old.requests != new.requests
        || old.tolerations != new.tolerations
        || old.node_rule != new.node_rule
        || old.priority != new.priority
        || old.claims != new.claims
        || old.devices != new.devices
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::testing::pod;

    const SECOND: Duration = Duration::from_secs(1);

    fn queue() -> (Queue, Instant) {
        (Queue::new(SECOND, 10 * SECOND), Instant::now())
    }

    fn name(popped: Option<Arc<PodInfo>>) -> Option<String> {
        popped.map(|p| p.key.name.to_string())
    }

    #[test]
    fn the_important_first_then_in_order() {
        let (mut queue, now) = queue();
        queue.set(pod("a").info(), now);
        queue.set(pod("b").info(), now);
        queue.set(pod("c").priority(5).info(), now);
        let order: Vec<_> = std::iter::from_fn(|| name(queue.pop(now))).collect();
        assert_eq!(order, ["c", "a", "b"]);
    }

    #[test]
    fn back_off_doubles_up_to_its_limit() {
        let (mut queue, mut now) = queue();
        queue.set(pod("a").info(), now);
        let key = pod("a").info().key.clone();
        for wait in [1, 2, 4, 8, 10, 10] {
            assert_eq!(name(queue.pop(now)).as_deref(), Some("a"));
            queue.retry(&key, now);
            assert_eq!(queue.deadline(), Some(now + wait * SECOND));
            assert!(queue.pop(now + wait * SECOND - SECOND / 2).is_none());
            now += wait * SECOND;
        }
    }

    #[test]
    fn waits_for_what_helps() {
        let (mut queue, now) = queue();
        queue.set(pod("a").info(), now);
        let key = queue.pop(now).unwrap().key.clone();
        queue.unschedulable(&key, PluginSet::from_iter([Plugin::NodeResourcesFit]), now);
        queue.wake(now, |_, plugins| plugins.contains(Plugin::NodePorts));
        assert_eq!(queue.sizes(), (0, 0, 1));
        queue.wake(now, |_, plugins| plugins.contains(Plugin::NodeResourcesFit));
        assert_eq!(queue.sizes(), (0, 1, 0), "it still has to back off");
        assert_eq!(name(queue.pop(now + SECOND)).as_deref(), Some("a"));
        queue.unschedulable(&key, PluginSet::default(), now);
        assert_eq!(name(queue.pop(now + FLUSH)).as_deref(), Some("a"), "tried again after long");
    }

    #[test]
    fn gates_hold_back() {
        let (mut queue, now) = queue();
        queue.set(pod("a").gate("x").info(), now);
        assert!(queue.pop(now + 2 * FLUSH).is_none());
        queue.wake(now, |_, _| true);
        assert!(queue.pop(now).is_none());
        queue.set(pod("a").info(), now);
        assert_eq!(name(queue.pop(now)).as_deref(), Some("a"));
    }

    #[test]
    fn changes_and_departures() {
        let (mut queue, now) = queue();
        queue.set(pod("a").info(), now);
        queue.set(pod("a").priority(7).info(), now);
        queue.set(pod("b").priority(3).info(), now);
        assert_eq!(queue.pop(now).unwrap().priority, 7);
        queue.remove(&pod("b").info().key);
        assert!(queue.pop(now).is_none());
        queue.remove(&pod("a").info().key);
        queue.retry(&pod("a").info().key, now);
        assert_eq!(queue.sizes(), (0, 0, 0));
    }
}
