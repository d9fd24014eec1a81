//! What else matters: Services and owners (for default spreading), disruption budgets (for preemption).

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use crate::model::{PodInfo, PodKey, Selector};
use crate::sym::{Sym, SymMap};

/// A disruption budget.
#[derive(Clone, Debug)]
pub struct Budget {
    selector: Selector,
    /// How many of its pods may go now.
    pub allowed: i32,
    /// Pods already on their way out under it.
    disrupted: Vec<Sym>,
}

impl Budget {
    /// Reads one.
    pub fn new(budget: &PodDisruptionBudget) -> Self {
        let status = budget.status.as_ref();
        Self {
            selector: Selector::of(budget.spec.as_ref().and_then(|s| s.selector.as_ref())),
            allowed: status.and_then(|s| s.disruptions_allowed).unwrap_or(0),
            disrupted: status.iter().flat_map(|s| s.disrupted_pods.iter().flatten()).map(|(n, _)| Sym::of(n)).collect(),
        }
    }

    /// Whether taking this pod away counts against it.
    pub fn covers(&self, pod: &PodInfo) -> bool {
        !self.selector.is_everything()
            && self.selector.matches(&pod.labels)
            && !self.disrupted.contains(&Sym::of(&pod.key.name))
    }
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Cluster {
    services: SymMap<Sym, Vec<(Arc<str>, Selector)>>,
    /// Selectors of ReplicationControllers, ReplicaSets and StatefulSets, by kind and key.
    owners: HashMap<(Arc<str>, PodKey), Selector>,
    budgets: SymMap<Sym, Vec<(Arc<str>, Budget)>>,
}

fn set<T>(map: &mut SymMap<Sym, Vec<(Arc<str>, T)>>, key: &PodKey, value: Option<T>) {
    let namespace = Sym::of(&key.namespace);
    let list = map.entry(namespace).or_default();
    list.retain(|(name, _)| *name != key.name);
    list.extend(value.map(|v| (key.name.clone(), v)));
    if list.is_empty() {
        map.remove(&namespace);
    }
}

impl Cluster {
    /// A Service came, changed or (`None`, also without a selector) went.
    pub fn set_service(&mut self, key: &PodKey, selector: Option<Selector>) {
        set(&mut self.services, key, selector);
    }

    /// A budget came, changed or went.
    pub fn set_budget(&mut self, key: &PodKey, budget: Option<Budget>) {
        set(&mut self.budgets, key, budget);
    }

    /// An owner came, changed or went.
    pub fn set_owner(&mut self, kind: &str, key: PodKey, selector: Option<Selector>) {
        let key = (kind.into(), key);
        match selector {
            Some(selector) => self.owners.insert(key, selector),
            None => self.owners.remove(&key),
        };
    }

    /// The budgets of a namespace.
    pub fn budgets(&self, namespace: Sym) -> impl Iterator<Item = &Budget> {
        self.budgets.get(&namespace).into_iter().flatten().map(|(_, b)| b)
    }

    /// The pods that default spreading holds together with this one: those of all its Services and its owner.
    pub fn default_selector(&self, pod: &PodInfo) -> Option<Selector> {
        let mut reqs = Vec::new();
        for (_, selector) in self.services.get(&pod.namespace).into_iter().flatten() {
            if selector.matches(&pod.labels) {
                reqs.extend_from_slice(selector.reqs());
            }
        }
        if let Some((kind, name)) = &pod.owner {
            let key = PodKey { namespace: pod.key.namespace.clone(), name: name.clone() };
            if let Some(owner) = self.owners.get(&(kind.clone(), key)) {
                reqs.extend_from_slice(owner.reqs());
            }
        }
        (!reqs.is_empty()).then(|| Selector::all_of(reqs))
    }
}
