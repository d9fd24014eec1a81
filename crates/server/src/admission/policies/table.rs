//! The policies of the cluster, compiled, as one snapshot that requests share.

use super::compiled::{Binding, Policy};
use caravel_api::meta;
use parking_lot::RwLock;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A policy with its bindings.
#[derive(Debug)]
pub struct Bound {
    /// The policy; or why it cannot be compiled.
    pub policy: Arc<Policy>,
    /// Its bindings, by name.
    pub bindings: Vec<Arc<Binding>>,
}

/// What requests look at.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Validating policies that have a binding, by name.
    pub validating: Vec<Bound>,
    /// Mutating policies that have a binding, by name.
    pub mutating: Vec<Bound>,
}

#[derive(Default)]
struct Side {
    policies: BTreeMap<String, Arc<Policy>>,
    bindings: BTreeMap<String, Arc<Binding>>,
}

impl Side {
    fn bound(&self) -> Vec<Bound> {
        let of = |name: &str| self.bindings.values().filter(|b| b.policy == name).cloned().collect::<Vec<_>>();
        self.policies
            .iter()
            .map(|(name, policy)| Bound { policy: policy.clone(), bindings: of(name) })
            .filter(|b| !b.bindings.is_empty())
            .collect()
    }
}

/// All policies and bindings, kept current by a follower of the store.
#[derive(Default)]
pub struct Table {
    sides: RwLock<[Side; 2]>,
    snapshot: RwLock<Arc<Snapshot>>,
}

impl Table {
    /// What holds now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.read().clone()
    }

    /// Takes in an object of one of the four kinds, by its plural.
    pub fn put(&self, plural: &str, object: &Value) {
        let name = meta::name(object).to_owned();
        let mut sides = self.sides.write();
        let side = &mut sides[usize::from(plural.starts_with("mutating"))];
        let outcome = if plural.ends_with("policies") {
            Policy::compile(object).map(|p| drop(side.policies.insert(name.clone(), Arc::new(p))))
        } else {
            Binding::read(object).map(|b| drop(side.bindings.insert(name.clone(), Arc::new(b))))
        };
        if let Err(error) = outcome {
            tracing::error!(%plural, %name, %error, "a stored admission policy cannot be used");
        }
        self.publish(&sides);
    }

    /// Forgets one.
    pub fn remove(&self, plural: &str, name: &str) {
        let mut sides = self.sides.write();
        let side = &mut sides[usize::from(plural.starts_with("mutating"))];
        if plural.ends_with("policies") {
            side.policies.remove(name);
        } else {
            side.bindings.remove(name);
        }
        self.publish(&sides);
    }

    /// The names that are known of one of the four kinds.
    pub fn names(&self, plural: &str) -> Vec<String> {
        let sides = self.sides.read();
        let side = &sides[usize::from(plural.starts_with("mutating"))];
        if plural.ends_with("policies") {
            side.policies.keys().cloned().collect()
        } else {
            side.bindings.keys().cloned().collect()
        }
    }

    fn publish(&self, sides: &[Side; 2]) {
        let next = Snapshot { validating: sides[0].bound(), mutating: sides[1].bound() };
        *self.snapshot.write() = Arc::new(next);
    }
}
