//! PodTopologySpread: pods of a kind evenly over the values of a node label.

use super::{MAX_SCORE, Plugin, Reject, taints};
use crate::model::{Inclusion, NodeInfo, PodInfo, PodTerm, Spread, WhenUnsatisfiable};
use crate::state::{NOWHERE, NodeId, State, TermId};
use crate::sym::Sym;

/// Detail of a rejection: the node lacks the label.
pub const NO_LABEL: u32 = 1;

const HOSTNAME: &str = "kubernetes.io/hostname";

/// Spreading for pods that say nothing about it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Defaults {
    /// Upstream's: softly over nodes (skew 3) and zones (skew 5).
    #[default]
    System,
    /// Constraints without selectors: maximum skew, topology key, hard or soft.
    List(Vec<(i32, String, WhenUnsatisfiable)>),
}

/// The constraints that apply to a pod, and whether they are its own (or configured) rather than the system's.
pub fn constraints(state: &State, defaults: &Defaults, pod: &PodInfo) -> (Vec<Spread>, bool) {
    if !pod.spread.is_empty() {
        return (pod.spread.to_vec(), true);
    }
    let listed: Vec<(i32, &str, WhenUnsatisfiable)> = match defaults {
        Defaults::System => vec![
            (3, HOSTNAME, WhenUnsatisfiable::ScheduleAnyway),
            (5, "topology.kubernetes.io/zone", WhenUnsatisfiable::ScheduleAnyway),
        ],
        Defaults::List(list) => list.iter().map(|(skew, key, when)| (*skew, key.as_str(), *when)).collect(),
    };
    if listed.is_empty() {
        return (Vec::new(), true);
    }
    let Some(selector) = state.cluster.default_selector(pod) else { return (Vec::new(), true) };
    let made = listed.into_iter().map(|(max_skew, key, when)| Spread {
        max_skew,
        min_domains: 1,
        when,
        term: PodTerm::in_namespace(pod.namespace, selector.clone(), Sym::of(key)),
        node_affinity: Inclusion::Honor,
        node_taints: Inclusion::Ignore,
    });
    (made.collect(), *defaults != Defaults::System)
}

/// Whether a node counts for a constraint of the pod.
fn included(constraint: &Spread, pod: &PodInfo, node: &NodeInfo) -> bool {
    (constraint.node_affinity == Inclusion::Ignore || pod.node_rule.as_ref().is_none_or(|r| r.matches(node)))
        && (constraint.node_taints == Inclusion::Ignore || taints::filter(pod, node).is_ok())
}

/// Counts by domain of one constraint.
#[derive(Debug)]
struct Counts {
    term: TermId,
    /// Only when some nodes do not count: the sums over those that do; -1 for domains without any.
    restricted: Option<Vec<i64>>,
}

impl Counts {
    /// The matching pods in a domain; `None` when no node of it counts.
    #[inline]
    fn get(&self, state: &State, domain: u32) -> Option<i64> {
        match &self.restricted {
            None => Some(state.terms.get(self.term).count(domain)),
            Some(sums) => sums.get(domain as usize).copied().filter(|n| *n >= 0),
        }
    }

    /// Counts for `constraint`, one of `group`. With `all_keys` only nodes count that have the labels of the whole group.
    fn new(state: &mut State, pod: &PodInfo, constraint: &Spread, group: &[Spread], all_keys: bool) -> Self {
        let (terms, slots) = state.terms_and_slots();
        let key = constraint.term.topology;
        let term = terms.intern(slots, std::slice::from_ref(&constraint.term), key, true);
        let keys: Vec<Sym> = if all_keys { group.iter().map(|c| c.term.topology).collect() } else { Vec::new() };
        let everywhere =
            |terms: &crate::state::Terms, id: TermId| terms.topology(terms.get(id).topology).nodes as usize;
        let mut plain = (constraint.node_affinity == Inclusion::Ignore || pod.node_rule.is_none())
            && constraint.node_taints == Inclusion::Ignore;
        for other in group.iter().filter(|c| all_keys && c.term.topology != key) {
            let id = terms.intern(slots, std::slice::from_ref(&other.term), other.term.topology, true);
            plain &= everywhere(terms, id) == slots.iter().filter(|n| !n.name.is_empty()).count();
        }
        if plain {
            terms.count(term, slots);
            return Self { term, restricted: None };
        }
        terms.count_by_node(term, slots);
        let order = state.order().to_vec();
        let counted = state.terms.get(term);
        let topology = state.terms.topology(counted.topology);
        let mut sums = vec![-1; topology.size()];
        for id in order {
            let node = state.node(id);
            let domain = topology.domain(id);
            if domain == NOWHERE
                || keys.iter().any(|k| node.labels.get(*k).is_none())
                || !included(constraint, pod, node)
            {
                continue;
            }
            let sum = &mut sums[domain as usize];
            *sum = (*sum).max(0) + counted.on_node(id);
        }
        Self { term, restricted: Some(sums) }
    }
}

/// A hard constraint, ready for filtering.
#[derive(Debug)]
pub struct Hard {
    counts: Counts,
    max_skew: i64,
    /// 1 when the pod itself is counted.
    own: i64,
    min: i64,
}

/// Prepares the hard constraints of a pod.
pub fn prepare(state: &mut State, pod: &PodInfo, constraints: &[Spread]) -> Vec<Hard> {
    let hard: Vec<Spread> =
        constraints.iter().filter(|c| c.when == WhenUnsatisfiable::DoNotSchedule).cloned().collect();
    let mut out = Vec::with_capacity(hard.len());
    for constraint in &hard {
        let counts = Counts::new(state, pod, constraint, &hard, true);
        let topology = state.terms.topology(state.terms.get(counts.term).topology);
        let mut domains = 0;
        let mut min = i64::MAX;
        for domain in 0..topology.size() as u32 {
            if topology.population[domain as usize] == 0 {
                continue;
            }
            if let Some(n) = counts.get(state, domain) {
                domains += 1;
                min = min.min(n);
            }
        }
        if domains < constraint.min_domains || min == i64::MAX {
            min = 0;
        }
        let own = i64::from(constraint.term.selector.matches(&pod.labels));
        out.push(Hard { counts, max_skew: i64::from(constraint.max_skew), own, min });
    }
    out
}

/// Whether the pod on this node would keep the skew.
#[inline]
pub fn filter(state: &State, hard: &[Hard], node: NodeId) -> Result<(), Reject> {
    for constraint in hard {
        let term = state.terms.get(constraint.counts.term);
        let domain = state.terms.topology(term.topology).domain(node);
        if domain == NOWHERE {
            return Err(Reject::hopeless(Plugin::PodTopologySpread, NO_LABEL));
        }
        let there = constraint.counts.get(state, domain).unwrap_or(0);
        if there + constraint.own - constraint.min > constraint.max_skew {
            return Err(Reject::new(Plugin::PodTopologySpread, 0));
        }
    }
    Ok(())
}

/// Scores feasible nodes by the soft constraints; `None` when there are none.
pub fn score(
    state: &mut State,
    pod: &PodInfo,
    constraints: &[Spread],
    own: bool,
    nodes: &[NodeId],
) -> Option<Vec<i64>> {
    let soft: Vec<Spread> =
        constraints.iter().filter(|c| c.when == WhenUnsatisfiable::ScheduleAnyway).cloned().collect();
    if soft.is_empty() {
        return None;
    }
    let counts: Vec<Counts> = soft.iter().map(|c| Counts::new(state, pod, c, &soft, own)).collect();
    let ignored = |state: &State, node: NodeId| {
        own && soft.iter().any(|c| state.node(node).labels.get(c.term.topology).is_none())
    };
    let hostname = Sym::of(HOSTNAME);
    let mut raw = vec![0.0_f64; nodes.len()];
    let mut counted_nodes = 0;
    let skip: Vec<bool> = nodes.iter().map(|n| ignored(state, *n)).collect();
    counted_nodes += skip.iter().filter(|s| !**s).count();
    for (constraint, counts) in soft.iter().zip(&counts) {
        let term = state.terms.get(counts.term);
        let topology = state.terms.topology(term.topology);
        let size = if constraint.term.topology == hostname {
            counted_nodes
        } else {
            let mut seen = vec![false; topology.size()];
            let domains = nodes.iter().zip(&skip).filter(|(_, skip)| !**skip).map(|(n, _)| topology.domain(*n));
            domains.filter(|d| *d != NOWHERE && !std::mem::replace(&mut seen[*d as usize], true)).count()
        };
        let weight = (size as f64 + 2.0).ln();
        for (score, node) in raw.iter_mut().zip(nodes) {
            let domain = topology.domain(*node);
            if domain != NOWHERE {
                let there = counts.get(state, domain).unwrap_or(0);
                *score += there as f64 * weight + f64::from(constraint.max_skew - 1);
            }
        }
    }
    Some(normalize(&raw, &skip))
}

fn normalize(raw: &[f64], skip: &[bool]) -> Vec<i64> {
    let scores: Vec<i64> = raw.iter().map(|s| s.round() as i64).collect();
    let counted = || scores.iter().zip(skip).filter(|(_, skip)| !**skip).map(|(s, _)| *s);
    let (min, max) = (counted().min().unwrap_or(0), counted().max().unwrap_or(0));
    let one = |(score, skip): (&i64, &bool)| match (skip, max) {
        (true, _) => 0,
        (false, 0) => MAX_SCORE,
        (false, _) => MAX_SCORE * (max + min - score) / max,
    };
    scores.iter().zip(skip).map(one).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::testing::{node, pod, state};

    fn cluster() -> State {
        let mut state = state([
            node("a1").zone("a"),
            node("a2").zone("a"),
            node("b1").zone("b"),
            node("c1").zone("c").taint("k", "v", "NoSchedule"),
            node("x").label("none", "1"),
        ]);
        for (name, on, app) in [("1", "a1", "web"), ("2", "a2", "web"), ("3", "b1", "web"), ("4", "b1", "db")] {
            state.set_pod(pod(name).label("app", app).on(on).info());
        }
        state
    }

    fn verdicts(state: &mut State, pod: &PodInfo) -> String {
        let (constraints, _) = constraints(state, &Defaults::System, pod);
        let hard = prepare(state, pod, &constraints);
        let verdict = |name: &str| match filter(state, &hard, state.find(name).unwrap()) {
            Ok(()) => '+',
            Err(r) if r.detail == NO_LABEL => '?',
            Err(_) => '-',
        };
        ["a1", "a2", "b1", "c1", "x"].iter().map(|n| verdict(n)).collect()
    }

    #[test]
    fn hard_constraints() {
        let zone = "topology.kubernetes.io/zone";
        let web = || pod("new").label("app", "web");
        for (name, wants, want) in [
            ("skew 1: only the empty zone", web().spread(zone, 1, "DoNotSchedule", "app=web"), "---+?"),
            ("skew 2", web().spread(zone, 2, "DoNotSchedule", "app=web"), "--++?"),
            ("skew 3", web().spread(zone, 3, "DoNotSchedule", "app=web"), "++++?"),
            ("not counted itself", pod("new").spread(zone, 2, "DoNotSchedule", "app=web"), "++++?"),
            ("soft filters nothing", web().spread(zone, 1, "ScheduleAnyway", "app=web"), "+++++"),
            ("fewer domains than wanted", web().spread(zone, 2, "DoNotSchedule", "app=web").min_domains(4), "--++?"),
            (
                "the tainted zone does not count",
                web().spread(zone, 1, "DoNotSchedule", "app=web").inclusion("Honor", "Honor"),
                // A node that does not count has nothing against it here; its taint is another plug-in's business.
                "--++?",
            ),
            (
                "only zones that the pod can go to count",
                web().spread(zone, 1, "DoNotSchedule", "app=web").node_selector(zone, "a"),
                "++++?",
            ),
            (
                "unless told otherwise",
                web()
                    .spread(zone, 1, "DoNotSchedule", "app=web")
                    .inclusion("Ignore", "Ignore")
                    .node_selector(zone, "a"),
                "---+?",
            ),
        ] {
            let mut state = cluster();
            let got = verdicts(&mut state, &wants.info());
            assert_eq!(got, want, "{name}");
        }
    }

    #[test]
    fn counts_follow_pods_and_nodes() {
        let zone = "topology.kubernetes.io/zone";
        let mut state = cluster();
        let wants = pod("new").label("app", "web").spread(zone, 1, "DoNotSchedule", "app=web").info();
        assert_eq!(verdicts(&mut state, &wants), "---+?");
        state.set_pod(pod("5").label("app", "web").on("c1").info());
        assert_eq!(verdicts(&mut state, &wants), "--++?");
        state.remove_pod(&pod("1").info().key);
        assert_eq!(verdicts(&mut state, &wants), "++++?");
        state.set_pod(pod("2").label("app", "web").on("a2").terminating().info());
        assert_eq!(verdicts(&mut state, &wants), "++--?", "the terminating one does not count");
        state.set_node(node("a2").zone("b").info());
        assert_eq!(verdicts(&mut state, &wants), "+---?", "moved to zone b, alone in a now");
        state.remove_node("a1");
        state.set_node(node("a1").zone("d").info());
        assert_eq!(verdicts(&mut state, &wants), "+---?");
    }

    #[test]
    fn soft_constraints_prefer_the_emptier() {
        let mut state = cluster();
        let wants =
            pod("new").label("app", "web").spread("topology.kubernetes.io/zone", 1, "ScheduleAnyway", "app=web").info();
        let nodes: Vec<_> = ["a1", "b1", "c1", "x"].iter().map(|n| state.find(n).unwrap()).collect();
        let (constraints, own) = constraints(&state, &Defaults::System, &wants);
        let scores = score(&mut state, &wants, &constraints, own, &nodes).unwrap();
        assert!(scores[2] > scores[1] && scores[1] > scores[0], "{scores:?}");
        assert_eq!(scores[2], 100);
        assert_eq!(scores[3], 0, "without the label");
    }

    #[test]
    fn defaults_apply_to_pods_of_services() {
        let mut state = cluster();
        let wants = pod("new").label("app", "web").info();
        assert!(constraints(&state, &Defaults::System, &wants).0.is_empty());
        let key = pod("svc").info().key.clone();
        let selector = crate::model::Selector::of_map(&[("app".to_owned(), "web".to_owned())].into());
        state.cluster.set_service(&key, Some(selector));
        let (made, own) = constraints(&state, &Defaults::System, &wants);
        assert_eq!(made.len(), 2);
        assert!(!own);
        assert!(constraints(&state, &Defaults::List(Vec::new()), &wants).0.is_empty());
    }
}
