//! InterPodAffinity: near these pods, far from those, and what the pods already there think of it.

use super::{MAX_SCORE, Plugin, Reject};
use crate::model::PodInfo;
use crate::state::{NOWHERE, NodeId, State, TermId};

/// Details of rejections.
pub const AFFINITY: u32 = 0;
/// The pod's own anti-affinity.
pub const ANTI_AFFINITY: u32 = 1;
/// The anti-affinity of a pod that is there.
pub const EXISTING: u32 = 2;

/// Required terms, ready for filtering.
#[derive(Debug, Default)]
pub struct Prepared {
    /// One for each affinity term: pods that match all of them, by its topology.
    affinity: Vec<TermId>,
    /// The pod would meet its own terms: the first of a group may go anywhere.
    first: bool,
    anti: Vec<TermId>,
    /// Terms of pods that are there and must not be near this one.
    existing: Vec<TermId>,
}

impl Prepared {
    /// Whether no pod matters, near or far.
    pub fn is_empty(&self) -> bool {
        self.affinity.is_empty() && self.anti.is_empty() && self.existing.is_empty()
    }
}

/// Prepares the required terms of a pod.
pub fn prepare(state: &mut State, pod: &PodInfo) -> Prepared {
    let (terms, slots) = state.terms_and_slots();
    let mut out = Prepared::default();
    for term in &pod.affinity {
        let id = terms.intern(slots, &pod.affinity, term.topology, false);
        terms.count(id, slots);
        out.affinity.push(id);
    }
    if !pod.affinity.is_empty() {
        let labels = terms.namespaces.get(&pod.namespace);
        let own = pod.affinity.iter().all(|t| t.matches(pod.namespace, labels, &pod.labels));
        out.first = own && out.affinity.iter().all(|id| terms.get(*id).total == 0);
    }
    for term in &pod.anti_affinity {
        let id = terms.intern(slots, std::slice::from_ref(term), term.topology, false);
        terms.count(id, slots);
        out.anti.push(id);
    }
    out.existing = terms.matching(pod, |term| term.anti.pods > 0);
    out
}

/// Whether the node is near and far as it should be.
#[inline]
pub fn filter(state: &State, prepared: &Prepared, node: NodeId) -> Result<(), Reject> {
    let terms = &state.terms;
    let domain = |id: TermId| terms.topology(terms.get(id).topology).domain(node);
    let mut near = true;
    for id in &prepared.affinity {
        let domain = domain(*id);
        if domain == NOWHERE {
            return Err(Reject::hopeless(Plugin::InterPodAffinity, AFFINITY));
        }
        near &= terms.get(*id).count(domain) > 0;
    }
    if !near && !prepared.first {
        return Err(Reject::hopeless(Plugin::InterPodAffinity, AFFINITY));
    }
    for id in &prepared.anti {
        let domain = domain(*id);
        if domain != NOWHERE && terms.get(*id).count(domain) > 0 {
            return Err(Reject::new(Plugin::InterPodAffinity, ANTI_AFFINITY));
        }
    }
    for id in &prepared.existing {
        let domain = domain(*id);
        if domain != NOWHERE && terms.get(*id).anti.weight(domain) > 0 {
            return Err(Reject::new(Plugin::InterPodAffinity, EXISTING));
        }
    }
    Ok(())
}

/// Scores feasible nodes by preferences, those of the pod and those of the pods that are there; `None` when there are none.
/// `hard_weight` is what a required affinity of a pod that is there counts for.
pub fn score(state: &mut State, pod: &PodInfo, hard_weight: i64, nodes: &[NodeId]) -> Option<Vec<i64>> {
    let (terms, slots) = state.terms_and_slots();
    let mut own = Vec::with_capacity(pod.preferences.len());
    for (weight, term) in &pod.preferences {
        let id = terms.intern(slots, std::slice::from_ref(term), term.topology, false);
        terms.count(id, slots);
        if terms.get(id).total > 0 {
            own.push((*weight, id));
        }
    }
    let theirs = terms.matching(pod, |t| t.preferred.pods > 0 || (hard_weight > 0 && t.affinity.pods > 0));
    if own.is_empty() && theirs.is_empty() {
        return None;
    }
    let mut scores = vec![0; nodes.len()];
    for (weight, id) in own {
        let term = terms.get(id);
        let topology = terms.topology(term.topology);
        for (score, node) in scores.iter_mut().zip(nodes) {
            let domain = topology.domain(*node);
            if domain != NOWHERE {
                *score += weight * term.count(domain);
            }
        }
    }
    for id in theirs {
        let term = terms.get(id);
        let topology = terms.topology(term.topology);
        for (score, node) in scores.iter_mut().zip(nodes) {
            let domain = topology.domain(*node);
            if domain != NOWHERE {
                *score += term.preferred.weight(domain) + hard_weight * term.affinity.weight(domain);
            }
        }
    }
    let (min, max) = (scores.iter().min().copied()?, scores.iter().max().copied()?);
    for score in &mut scores {
        *score = if max > min { MAX_SCORE * (*score - min) / (max - min) } else { 0 };
    }
    Some(scores)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::sym::Sym;
    use crate::testing::{node, pod, state};
    use std::collections::BTreeMap;

    fn cluster() -> State {
        let mut state = state([node("a1").zone("a"), node("a2").zone("a"), node("b1").zone("b"), node("x")]);
        state.set_pod(pod("db").label("app", "db").on("a1").info());
        state.set_pod(pod("far").namespace("other").label("app", "db").on("b1").info());
        state
    }

    fn verdicts(state: &mut State, pod: &PodInfo) -> String {
        let prepared = prepare(state, pod);
        let verdict = |name: &str| match filter(state, &prepared, state.find(name).unwrap()) {
            Ok(()) => '+',
            Err(r) => char::from_digit(r.detail, 10).unwrap(),
        };
        ["a1", "a2", "b1", "x"].iter().map(|n| verdict(n)).collect()
    }

    #[test]
    fn required_terms() {
        let zone = "topology.kubernetes.io/zone";
        let host = "kubernetes.io/hostname";
        for (name, wants, want) in [
            ("near in the zone", pod("n").near(zone, "app=db"), "++00"),
            ("near on the host", pod("n").near(host, "app=db"), "+000"),
            ("far in the zone", pod("n").far(zone, "app=db"), "11++"),
            ("far on the host", pod("n").far(host, "app=db"), "1+++"),
            ("nobody to be near to", pod("n").near(zone, "app=web"), "0000"),
            ("the first of its group", pod("n").label("app", "web").near(zone, "app=web"), "+++0"),
            ("both terms at once", pod("n").near(zone, "app=db").near(zone, "tier=x"), "0000"),
            ("near and far", pod("n").near(zone, "app=db").far(host, "app=db"), "1+00"),
        ] {
            assert_eq!(verdicts(&mut cluster(), &wants.info()), want, "{name}");
        }
    }

    #[test]
    fn pods_that_are_there_object() {
        let zone = "topology.kubernetes.io/zone";
        let mut state = cluster();
        state.set_pod(pod("loner").far(zone, "app=web").on("b1").info());
        assert_eq!(verdicts(&mut state, &pod("n").label("app", "web").info()), "++2+");
        assert_eq!(verdicts(&mut state, &pod("n").label("app", "db").info()), "++++");
        state.remove_pod(&pod("loner").info().key);
        assert_eq!(verdicts(&mut state, &pod("n").label("app", "web").info()), "++++");
    }

    #[test]
    fn namespaces_by_label() {
        let zone = "topology.kubernetes.io/zone";
        let mut state = cluster();
        let labels = |team: &str| {
            let map: BTreeMap<String, String> = [("team".to_owned(), team.to_owned())].into();
            Some(crate::model::Labels::new(&map))
        };
        state.terms.set_namespace(Sym::of("other"), labels("blue"));
        let wants = pod("n").near_in(zone, "app=db", "team=blue").info();
        assert_eq!(verdicts(&mut state, &wants), "00+0");
        state.terms.set_namespace(Sym::of("other"), labels("red"));
        assert_eq!(verdicts(&mut state, &wants), "0000");
        state.terms.set_namespace(Sym::of("default"), labels("blue"));
        assert_eq!(verdicts(&mut state, &wants), "++00");
    }

    #[test]
    fn preferences_of_both_sides() {
        let zone = "topology.kubernetes.io/zone";
        let mut state = cluster();
        let nodes: Vec<_> = ["a1", "b1", "x"].iter().map(|n| state.find(n).unwrap()).collect();
        assert_eq!(score(&mut state, &pod("n").info(), 1, &nodes), None);
        let near = pod("n").prefer_near(10, zone, "app=db").info();
        assert_eq!(score(&mut state, &near, 1, &nodes), Some(vec![100, 0, 0]));
        let far = pod("n").prefer_far(10, zone, "app=db").info();
        assert_eq!(score(&mut state, &far, 1, &nodes), Some(vec![0, 100, 100]));
        state.set_pod(pod("likes-web").near(zone, "app=web").on("b1").info());
        let web = pod("n").label("app", "web").info();
        assert_eq!(score(&mut state, &web, 1, &nodes), Some(vec![0, 100, 0]));
        assert_eq!(score(&mut state, &web, 0, &nodes), None);
    }
}
