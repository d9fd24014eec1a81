//! Counts of pods by topology domain, kept up with every pod that comes or goes.
//!
//! Affinity, anti-affinity and spreading all ask the same two things: how many pods that match *this selector* are in each domain, and
//! which pods already there have a term that *this pod* matches. Counting anew for each pod costs nodes × pods; here each distinct
//! term is counted once and then corrected by the pods that come and go, found by an index over label pairs. A decision
//! then costs an array access for each node.

use std::collections::HashMap;

use super::topology::{NOWHERE, Topology};
use crate::model::{Labels, NodeInfo, PodInfo, PodTerm};
use crate::sym::{Sym, SymMap};

/// The number of a counted term.
pub type TermId = u32;
/// The number of a topology key.
pub type TopologyId = u32;

/// The most terms kept. Beyond it those go that no pod holds and no decision used lately.
pub const MAX_TERMS: usize = 4096;

/// What is counted: pods that match all of `terms` (which differ in namespaces and selector only), by one topology key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TermKey {
    terms: Box<[PodTerm]>,
    /// Pods that are being deleted do not count (spreading).
    living_only: bool,
}

/// Pods that hold a term, by domain, with weights.
#[derive(Debug, Default)]
pub struct Holders {
    weights: Vec<i64>,
    /// How many pods hold it, anywhere.
    pub pods: u32,
}

impl Holders {
    fn change(&mut self, domain: u32, weight: i64, sign: i64) {
        self.pods = self.pods.wrapping_add_signed(sign as i32);
        if domain != NOWHERE {
            bump(&mut self.weights, domain, weight * sign);
        }
    }

    /// The sum of the weights in a domain.
    #[inline]
    pub fn weight(&self, domain: u32) -> i64 {
        self.weights.get(domain as usize).copied().unwrap_or(0)
    }
}

fn bump(counts: &mut Vec<i64>, at: u32, by: i64) {
    let at = at as usize;
    if counts.len() <= at {
        counts.resize(at + 1, 0);
    }
    counts[at] += by;
}

/// One counted term.
#[derive(Debug)]
pub struct Term {
    key: TermKey,
    /// Its topology key.
    pub topology: TopologyId,
    counted: bool,
    counts: Vec<i64>,
    /// All matching pods on nodes that have the topology label.
    pub total: i64,
    /// The same by node, where a decision needed that.
    per_node: Option<Vec<i64>>,
    /// Pods that must not be near what matches.
    pub anti: Holders,
    /// Pods that must be near what matches.
    pub affinity: Holders,
    /// Pods that would rather be near (or far).
    pub preferred: Holders,
    used: u64,
}

impl Term {
    /// How many matching pods are in a domain.
    #[inline]
    pub fn count(&self, domain: u32) -> i64 {
        self.counts.get(domain as usize).copied().unwrap_or(0)
    }

    /// How many matching pods are on a node; only after [`Terms::count_by_node`].
    #[inline]
    pub fn on_node(&self, node: u32) -> i64 {
        self.per_node.as_ref().and_then(|n| n.get(node as usize)).copied().unwrap_or(0)
    }

    fn matches(&self, namespaces: &SymMap<Sym, Labels>, pod: &PodInfo) -> bool {
        let known = namespaces.get(&pod.namespace);
        self.key.terms.iter().all(|t| t.matches(pod.namespace, known, &pod.labels))
    }

    fn held(&self) -> bool {
        self.anti.pods + self.affinity.pods + self.preferred.pods > 0
    }
}

/// All counted terms and topologies.
#[derive(Debug, Default)]
pub struct Terms {
    ids: HashMap<TermKey, TermId>,
    terms: Vec<Option<Term>>,
    free: Vec<TermId>,
    by_pair: SymMap<(Sym, Sym), Vec<TermId>>,
    /// Terms whose selectors name no pair.
    generic: Vec<TermId>,
    topologies: Vec<Topology>,
    topology_ids: SymMap<Sym, TopologyId>,
    /// How many pods on nodes have each label pair.
    pairs: SymMap<(Sym, Sym), u32>,
    /// Labels of namespaces.
    pub namespaces: SymMap<Sym, Labels>,
    clock: u64,
}

impl Terms {
    /// A topology.
    #[inline]
    pub fn topology(&self, id: TopologyId) -> &Topology {
        &self.topologies[id as usize]
    }

    /// A term.
    ///
    /// # Panics
    /// When the id is not one that [`Terms::intern`] gave since the last sweep.
    #[inline]
    #[expect(clippy::expect_used, reason = "ids come from intern and live at least until the decision ends")]
    pub fn get(&self, id: TermId) -> &Term {
        self.terms[id as usize].as_ref().expect("a live term")
    }

    /// Whether there are no terms.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The number of terms.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    fn topology_of(&mut self, key: Sym, nodes: &[NodeInfo]) -> TopologyId {
        if let Some(id) = self.topology_ids.get(&key) {
            return *id;
        }
        let mut topology = Topology::new(key);
        for (id, node) in nodes.iter().enumerate() {
            topology.place(id as u32, node.labels.get(key));
        }
        let id = self.topologies.len() as TopologyId;
        self.topologies.push(topology);
        self.topology_ids.insert(key, id);
        id
    }

    /// The id of what `terms` (at least one) count together by `topology`.
    pub fn intern(&mut self, nodes: &[NodeInfo], terms: &[PodTerm], topology: Sym, living_only: bool) -> TermId {
        self.clock += 1;
        let terms: Box<[PodTerm]> = terms.iter().map(|t| t.at(topology)).collect();
        let key = TermKey { terms, living_only };
        if let Some(id) = self.ids.get(&key) {
            let id = *id;
            if let Some(term) = &mut self.terms[id as usize] {
                term.used = self.clock;
            }
            return id;
        }
        let topology = self.topology_of(topology, nodes);
        let term = Term {
            key: key.clone(),
            topology,
            counted: false,
            counts: Vec::new(),
            total: 0,
            per_node: None,
            anti: Holders::default(),
            affinity: Holders::default(),
            preferred: Holders::default(),
            used: self.clock,
        };
        let id = self.free.pop().unwrap_or_else(|| {
            self.terms.push(None);
            self.terms.len() as TermId - 1
        });
        for pair in index_pairs(&key) {
            self.by_pair.entry(pair).or_default().push(id);
        }
        if index_pairs(&key).is_empty() {
            self.generic.push(id);
        }
        self.terms[id as usize] = Some(term);
        self.ids.insert(key, id);
        id
    }

    /// Forgets terms that nobody needs, when there are too many. Not during a decision.
    pub fn sweep(&mut self) {
        if self.ids.len() <= MAX_TERMS {
            return;
        }
        let mut idle: Vec<_> = self
            .terms
            .iter()
            .enumerate()
            .filter_map(|(id, t)| t.as_ref().filter(|t| !t.held()).map(|t| (t.used, id as TermId)))
            .collect();
        idle.sort_unstable();
        idle.truncate(MAX_TERMS / 4);
        for (_, id) in idle {
            self.drop_term(id);
        }
    }

    fn drop_term(&mut self, id: TermId) {
        let Some(term) = self.terms[id as usize].take() else { return };
        for pair in index_pairs(&term.key) {
            if let Some(ids) = self.by_pair.get_mut(&pair) {
                ids.retain(|i| *i != id);
                if ids.is_empty() {
                    self.by_pair.remove(&pair);
                }
            }
        }
        self.generic.retain(|i| *i != id);
        self.ids.remove(&term.key);
        self.free.push(id);
    }

    /// Terms that a pod matches, with what `keep` accepts.
    pub fn matching(&self, pod: &PodInfo, keep: impl Fn(&Term) -> bool) -> Vec<TermId> {
        let mut found = Vec::new();
        let by_pair = pod.labels.pairs().iter().filter_map(|pair| self.by_pair.get(pair)).flatten();
        for id in by_pair.chain(&self.generic) {
            if let Some(term) = &self.terms[*id as usize]
                && keep(term)
                && term.matches(&self.namespaces, pod)
            {
                found.push(*id);
            }
        }
        found
    }

    /// Makes sure that a term's counts are there.
    pub fn count(&mut self, id: TermId, nodes: &[NodeInfo]) {
        let Some(term) = self.terms[id as usize].as_mut().filter(|t| !t.counted) else { return };
        term.counted = true;
        // Often no pod on any node has the pair: then there is nothing to go through.
        let nobody = term.key.terms.iter().any(|t| {
            t.selector.is_nothing()
                || t.selector.any_pair().is_some_and(|mut pairs| pairs.all(|p| !self.pairs.contains_key(&p)))
        });
        if nobody {
            return;
        }
        let topology = &self.topologies[term.topology as usize];
        for (node, info) in nodes.iter().enumerate() {
            let domain = topology.domain(node as u32);
            if domain == NOWHERE {
                continue;
            }
            let pods = info.pods.iter().filter(|p| !(term.key.living_only && p.terminating));
            let n = pods.filter(|p| term.matches(&self.namespaces, p)).count() as i64;
            if n > 0 {
                bump(&mut term.counts, domain, n);
                term.total += n;
            }
        }
    }

    /// Makes sure that a term's counts by node are there.
    pub fn count_by_node(&mut self, id: TermId, nodes: &[NodeInfo]) {
        self.count(id, nodes);
        let Some(term) = self.terms[id as usize].as_mut().filter(|t| t.per_node.is_none()) else { return };
        let mut per_node = vec![0; nodes.len()];
        if term.total > 0 {
            for (n, info) in per_node.iter_mut().zip(nodes) {
                let pods = info.pods.iter().filter(|p| !(term.key.living_only && p.terminating));
                *n = pods.filter(|p| term.matches(&self.namespaces, p)).count() as i64;
            }
        }
        term.per_node = Some(per_node);
    }

    /// A pod came to (`sign` 1) or left (-1) a node.
    pub fn change(&mut self, nodes: &[NodeInfo], node: u32, pod: &PodInfo, sign: i64) {
        for pair in pod.labels.pairs() {
            let count = self.pairs.entry(*pair).or_default();
            *count = count.wrapping_add_signed(sign as i32);
            if *count == 0 {
                self.pairs.remove(pair);
            }
        }
        for id in self.matching(pod, |term| term.counted && !(term.key.living_only && pod.terminating)) {
            let Some(term) = self.terms[id as usize].as_mut() else { continue };
            let domain = self.topologies[term.topology as usize].domain(node);
            if domain != NOWHERE {
                bump(&mut term.counts, domain, sign);
                term.total += sign;
            }
            if let Some(per_node) = &mut term.per_node {
                bump(per_node, node, sign);
            }
        }
        for term in &pod.anti_affinity {
            self.hold(nodes, node, term, |t| &mut t.anti, 1, sign);
        }
        for term in &pod.affinity {
            self.hold(nodes, node, term, |t| &mut t.affinity, 1, sign);
        }
        for (weight, term) in &pod.preferences {
            self.hold(nodes, node, term, |t| &mut t.preferred, *weight, sign);
        }
    }

    fn hold(
        &mut self,
        nodes: &[NodeInfo],
        node: u32,
        term: &PodTerm,
        holders: impl Fn(&mut Term) -> &mut Holders,
        weight: i64,
        sign: i64,
    ) {
        let id = self.intern(nodes, std::slice::from_ref(term), term.topology, false);
        if let Some(term) = self.terms[id as usize].as_mut() {
            let domain = self.topologies[term.topology as usize].domain(node);
            holders(term).change(domain, weight, sign);
        }
    }

    /// A node got other labels, or came. Its pods must not be counted at that moment.
    pub fn place(&mut self, node: u32, labels: &Labels) {
        for topology in &mut self.topologies {
            if let Some(key) = topology.key {
                topology.place(node, labels.get(key));
            }
        }
    }

    /// A node went. Its pods must not be counted any more.
    pub fn displace(&mut self, node: u32) {
        self.topologies.iter_mut().for_each(|t| t.remove(node));
    }

    /// A namespace came, went or got other labels: terms that select namespaces by label are counted anew when next used.
    pub fn set_namespace(&mut self, namespace: Sym, labels: Option<Labels>) {
        if self.namespaces.get(&namespace) == labels.as_ref() {
            return;
        }
        match labels {
            Some(labels) => self.namespaces.insert(namespace, labels),
            None => self.namespaces.remove(&namespace),
        };
        for term in self.terms.iter_mut().flatten() {
            if term.key.terms.iter().any(PodTerm::selects_namespaces) {
                term.counted = false;
                term.counts = Vec::new();
                term.per_node = None;
                term.total = 0;
            }
        }
    }
}

/// The label pairs under which a term is filed.
fn index_pairs(key: &TermKey) -> Vec<(Sym, Sym)> {
    let by_pairs = key.terms.iter().filter_map(|t| t.selector.any_pair()).map(Iterator::collect::<Vec<_>>);
    by_pairs.min_by_key(Vec::len).unwrap_or_default()
}
