//! Who owns whom: the graph that the garbage collector decides from.
//!
//! Of every object only its uid and place are known; more is kept only of those that have owners or wait for their dependents.
//! A change of the graph answers which objects are to be looked at. Whether something is really garbage is never decided from the
//! graph alone: the collector reads the live object, and live owners, first.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

pub use crate::common::metadata::Uid;

/// The finalizer of an owner that waits for its dependents to be deleted.
pub const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer of an owner whose dependents are to lose it before it goes.
pub const ORPHAN: &str = "orphan";

/// The number of a kind of resource, as the collector counts them.
pub type ResourceId = u32;

/// What is known of every object.
#[derive(Clone, Debug)]
struct Place {
    resource: ResourceId,
    namespace: Arc<str>,
}

impl Place {
    /// Whether an object in `namespace` may look for its owner here: owners in namespaces own what is in the same one.
    fn may_own(&self, namespace: &str) -> bool {
        self.namespace.is_empty() || &*self.namespace == namespace
    }
}

/// An object that has owners or is being deleted in company with its dependents.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its kind.
    pub resource: ResourceId,
    /// Its namespace, empty for cluster scope.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Box<str>,
    owners: Vec<(Uid, bool)>,
    /// Deletion was asked for.
    pub deleting: bool,
    /// It waits for its dependents to be deleted.
    pub foreground: bool,
    /// It waits for its dependents to be orphaned.
    pub orphaning: bool,
}

/// What is to be looked at after a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wake {
    /// This object may be garbage, or wait for dependents that are gone.
    Delete(Uid),
    /// This object has an owner that was not seen yet; the owner's watch may lag, so look a little later.
    Unseen(Uid),
    /// The dependents of this object are to be orphaned.
    Orphan(Uid),
}

/// See the module's documentation.
#[derive(Default)]
pub struct Graph {
    known: HashMap<Uid, Place>,
    nodes: HashMap<Uid, Node>,
    dependents: HashMap<Uid, HashSet<Uid>>,
    namespaces: HashSet<Arc<str>>,
}

impl Graph {
    /// Notes that an object exists in this state.
    pub fn upsert(&mut self, resource: ResourceId, meta: &ObjectMeta) -> Vec<Wake> {
        let uid = Uid::of(meta.uid.as_deref().unwrap_or_default());
        let namespace = self.intern(meta.namespace.as_deref().unwrap_or_default());
        self.known.insert(uid, Place { resource, namespace: namespace.clone() });
        let finalizer = |f: &str| meta.finalizers.iter().flatten().any(|x| x == f);
        let deleting = meta.deletion_timestamp.is_some();
        let owners: Vec<(Uid, bool)> = meta.owner_references.iter().flatten().map(owner).collect();
        let new = Node {
            resource,
            namespace,
            name: meta.name.clone().unwrap_or_default().into(),
            owners,
            deleting,
            foreground: deleting && finalizer(FOREGROUND),
            orphaning: deleting && finalizer(ORPHAN),
        };
        let keep = !new.owners.is_empty() || new.foreground || new.orphaning;
        let old = if keep { self.nodes.insert(uid, new.clone()) } else { self.nodes.remove(&uid) };
        self.relink(uid, old.as_ref().map_or(&[][..], |n| &n.owners), &new.owners);
        self.wake_after(uid, old.as_ref(), &new)
    }

    fn wake_after(&self, uid: Uid, old: Option<&Node>, new: &Node) -> Vec<Wake> {
        let mut wake = vec![];
        if new.orphaning && !old.is_some_and(|o| o.orphaning) {
            wake.push(Wake::Orphan(uid));
        }
        if new.foreground && !old.is_some_and(|o| o.foreground) {
            wake.extend(self.dependents_of(uid).map(Wake::Delete));
            wake.push(Wake::Delete(uid));
        }
        let before = old.map_or(&[][..], |o| &o.owners);
        if before != new.owners {
            // An owner that waited for this object may wait no longer.
            let freed = |(o, blocked): &(Uid, bool)| *blocked && !new.owners.contains(&(*o, true));
            let waiting = |o: &Uid| self.nodes.get(o).is_some_and(|n| n.foreground);
            wake.extend(before.iter().filter(|o| freed(o)).map(|o| o.0).filter(waiting).map(Wake::Delete));
            // An owner that is unknown may not exist, nor one that is elsewhere count; one that waits for its dependents has a new one.
            let added = new.owners.iter().filter(|o| !before.contains(o)).map(|o| o.0);
            for o in added {
                if waiting(&o) {
                    wake.push(Wake::Delete(uid));
                } else if !self.known.get(&o).is_some_and(|place| place.may_own(&new.namespace)) {
                    wake.push(Wake::Unseen(uid));
                }
            }
        }
        wake
    }

    /// Notes that an object is gone.
    pub fn remove(&mut self, uid: Uid) -> Vec<Wake> {
        self.known.remove(&uid);
        let old = self.nodes.remove(&uid);
        let owners = old.map(|n| n.owners).unwrap_or_default();
        self.relink(uid, &owners, &[]);
        let mut wake: Vec<Wake> = self.dependents_of(uid).map(Wake::Delete).collect();
        let waiting = owners.iter().map(|o| o.0).filter(|o| self.nodes.get(o).is_some_and(|n| n.foreground));
        wake.extend(waiting.map(Wake::Delete));
        wake
    }

    fn relink(&mut self, uid: Uid, before: &[(Uid, bool)], after: &[(Uid, bool)]) {
        for (o, _) in before.iter().filter(|(o, _)| after.iter().all(|(a, _)| a != o)) {
            if let Some(set) = self.dependents.get_mut(o) {
                set.remove(&uid);
                if set.is_empty() {
                    self.dependents.remove(o);
                }
            }
        }
        for (o, _) in after {
            self.dependents.entry(*o).or_default().insert(uid);
        }
    }

    fn intern(&mut self, text: &str) -> Arc<str> {
        if let Some(have) = self.namespaces.get(text) {
            return have.clone();
        }
        let new: Arc<str> = text.into();
        self.namespaces.insert(new.clone());
        new
    }

    /// One object, if it has owners or waits for dependents.
    pub fn node(&self, uid: Uid) -> Option<&Node> {
        self.nodes.get(&uid)
    }

    /// The objects that name `uid` as an owner.
    pub fn dependents_of(&self, uid: Uid) -> impl Iterator<Item = Uid> + '_ {
        self.dependents.get(&uid).into_iter().flatten().copied()
    }

    /// The dependents that hold up the foreground deletion of `uid`.
    pub fn blocking(&self, uid: Uid) -> Vec<Uid> {
        let blocks = |d: &Uid| self.nodes.get(d).is_some_and(|n| n.owners.contains(&(uid, true)));
        self.dependents_of(uid).filter(blocks).collect()
    }

    /// Whether an owner is known to exist where a dependent in `namespace` may look for it.
    pub fn exists(&self, uid: Uid, resource: ResourceId, namespaced: bool, namespace: &str) -> bool {
        self.known.get(&uid).is_some_and(|p| p.resource == resource && (!namespaced || &*p.namespace == namespace))
    }

    /// Whether an object of this uid exists anywhere.
    pub fn is_known(&self, uid: Uid) -> bool {
        self.known.contains_key(&uid)
    }

    /// The uids known of a kind: to find what a new list lacks.
    pub fn uids_of(&self, resource: ResourceId) -> HashSet<Uid> {
        self.known.iter().filter(|(_, p)| p.resource == resource).map(|(u, _)| *u).collect()
    }
}

fn owner(o: &OwnerReference) -> (Uid, bool) {
    (Uid::of(&o.uid), o.block_owner_deletion == Some(true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn meta(uid: &str, owners: &[(&str, bool)], finalizer: Option<&str>) -> ObjectMeta {
        ObjectMeta {
            uid: Some(uid.into()),
            name: Some(uid.into()),
            namespace: Some("ns".into()),
            owner_references: Some(
                owners
                    .iter()
                    .map(|(u, b)| OwnerReference {
                        uid: (*u).into(),
                        block_owner_deletion: Some(*b),
                        ..Default::default()
                    })
                    .collect(),
            ),
            finalizers: finalizer.map(|f| vec![f.to_owned()]),
            deletion_timestamp: finalizer.map(|_| Time(jiff::Timestamp::UNIX_EPOCH)),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn the_end_of_an_owner_wakes_its_dependents() {
        let mut g = Graph::default();
        assert_eq!(g.upsert(0, &meta("rs", &[], None)), []);
        assert_eq!(g.upsert(1, &meta("pod", &[("rs", true)], None)), []);
        assert_eq!(g.remove(Uid::of("rs")), [Wake::Delete(Uid::of("pod"))]);
        assert_eq!(g.remove(Uid::of("pod")), []);
        assert!(g.dependents.is_empty() && g.nodes.is_empty() && g.known.is_empty(), "nothing is left behind");
    }

    #[test]
    fn an_owner_never_seen_is_asked_for_later() {
        let mut g = Graph::default();
        assert_eq!(g.upsert(1, &meta("pod", &[("rs", true)], None)), [Wake::Unseen(Uid::of("pod"))]);
        assert_eq!(g.upsert(1, &meta("pod", &[("rs", true)], None)), [], "once");
        g.upsert(0, &meta("rs", &[], None));
        assert!(g.exists(Uid::of("rs"), 0, true, "ns"));
        assert!(!g.exists(Uid::of("rs"), 0, true, "other"), "owners do not reach across namespaces");
    }

    #[test]
    fn an_owner_in_another_namespace_is_looked_into() {
        let mut g = Graph::default();
        g.upsert(0, &meta("rs", &[], None));
        g.upsert(2, &ObjectMeta { namespace: None, ..meta("node", &[], None) });
        for (namespace, owner, wakes) in
            [(Some("far"), "rs", true), (None, "rs", true), (Some("ns"), "rs", false), (Some("far"), "node", false)]
        {
            let mut g = Graph { known: g.known.clone(), ..Graph::default() };
            let dependent = ObjectMeta { namespace: namespace.map(Into::into), ..meta("pod", &[(owner, false)], None) };
            let wake = g.upsert(1, &dependent);
            assert_eq!(wake == [Wake::Unseen(Uid::of("pod"))], wakes, "{namespace:?} {owner}: {wake:?}");
        }
    }

    #[test]
    fn foreground_waits_for_blocking_dependents() {
        let mut g = Graph::default();
        g.upsert(0, &meta("rs", &[], None));
        g.upsert(1, &meta("a", &[("rs", true)], None));
        g.upsert(1, &meta("b", &[("rs", false)], None));
        let wake: HashSet<_> = g.upsert(0, &meta("rs", &[], Some(FOREGROUND))).into_iter().collect();
        assert_eq!(wake, ["a", "b", "rs"].map(|u| Wake::Delete(Uid::of(u))).into());
        assert_eq!(g.blocking(Uid::of("rs")), [Uid::of("a")]);
        assert_eq!(g.remove(Uid::of("a")), [Wake::Delete(Uid::of("rs"))], "the waiting owner is looked at");
        // A dependent that lets go also frees its owner.
        g.upsert(1, &meta("c", &[("rs", true)], None));
        assert_eq!(
            g.upsert(1, &meta("c", &[("rs", false)], None)),
            [Wake::Delete(Uid::of("rs")), Wake::Delete(Uid::of("c"))]
        );
    }

    #[test]
    fn orphaning_wakes_once() {
        let mut g = Graph::default();
        g.upsert(0, &meta("rs", &[], None));
        assert_eq!(g.upsert(0, &meta("rs", &[], Some(ORPHAN))), [Wake::Orphan(Uid::of("rs"))]);
        assert_eq!(g.upsert(0, &meta("rs", &[], Some(ORPHAN))), []);
    }
}
