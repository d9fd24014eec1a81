//! One decision: filters over the nodes until enough will do, scores over those, the best wins.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::{Profile, Rules};
use crate::model::{NodeInfo, PodInfo, Spread};
use crate::plugins::{
    MAX_SCORE, Plugin, PluginSet, Reject, balanced, devices, features, fit, image_locality, interpod, node_affinity,
    normalize, ports, spread, taints, volumes,
};
use crate::state::{NodeId, State};

/// At least so many nodes are looked for before the search stops early.
const MIN_FEASIBLE: usize = 100;

/// What is found out about a pod once, before nodes are looked at.
#[derive(Debug)]
pub struct Prepared {
    constraints: Vec<Spread>,
    own_constraints: bool,
    hard: Vec<spread::Hard>,
    interpod: interpod::Prepared,
    volumes: volumes::Prepared,
    devices: devices::Prepared,
    /// The only nodes that can do.
    only: Option<Vec<NodeId>>,
    rules: Arc<Rules>,
}

impl Prepared {
    /// Whether what was found out would be another after pods went.
    pub fn depends_on_pods(&self) -> bool {
        !self.hard.is_empty() || !self.interpod.is_empty() || !self.volumes.is_empty()
    }
}

/// Why no node will do.
#[derive(Debug, Clone)]
pub struct Failure {
    /// How many nodes there are.
    pub nodes: usize,
    /// A reason that has nothing to do with nodes.
    pub general: Option<(Plugin, String)>,
    /// Why each node that was looked at will not do.
    pub rejects: Vec<(NodeId, Reject)>,
    /// Nodes that the pod's affinity rules out by name.
    pub outside: usize,
    /// Who objected.
    pub plugins: PluginSet,
    /// What extenders said of the nodes that they are against.
    pub said: BTreeMap<NodeId, String>,
}

/// The outcome of a decision.
#[derive(Debug)]
pub enum Decision {
    /// The pod goes here, after its waiting claims are bound.
    Node {
        /// The node.
        node: NodeId,
        /// What to do about claims first.
        bindings: Vec<volumes::Binding>,
        /// What to write about resource claims first.
        bookings: Vec<devices::Booking>,
        /// How many nodes were looked at.
        evaluated: usize,
        /// How many of them would have done.
        feasible: usize,
    },
    /// Nowhere now.
    Nowhere(Failure),
}

/// Where the search goes on, and how ties are broken: the only things that differ between two decisions on the same state.
#[derive(Debug, Clone, Copy, Default)]
pub struct Turn {
    /// Where in the order of nodes the next search begins.
    pub start: usize,
    /// For breaking ties.
    pub seed: u64,
}

impl Turn {
    pub(crate) fn random(&mut self) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed = self.seed.max(1);
        self.seed
    }
}

/// Prepares a pod.
///
/// # Errors
/// A reason that no node can mend.
pub fn prepare(state: &mut State, profile: &Profile, pod: &PodInfo) -> Result<Prepared, (Plugin, String)> {
    let volumes = volumes::prepare(state, pod).map_err(|reason| (Plugin::VolumeBinding, reason))?;
    let on = |plugin| !profile.rules.off.contains(plugin);
    let devices = if on(Plugin::DynamicResources) {
        devices::prepare(&mut state.devices, pod).map_err(|reason| (Plugin::DynamicResources, reason))?
    } else {
        devices::Prepared::default()
    };
    let rule = pod.node_rule.as_ref().filter(|_| on(Plugin::NodeAffinity));
    let only = rule.and_then(|rule| rule.node_names());
    let only = only.map(|names| names.into_iter().filter_map(|n| state.find_sym(n)).collect());
    let (constraints, own_constraints) = spread::constraints(state, &profile.spread, pod);
    let hard = if on(Plugin::PodTopologySpread) { spread::prepare(state, pod, &constraints) } else { Vec::new() };
    let interpod =
        if on(Plugin::InterPodAffinity) { interpod::prepare(state, pod) } else { interpod::Prepared::default() };
    Ok(Prepared { constraints, own_constraints, hard, interpod, volumes, devices, only, rules: profile.rules.clone() })
}

/// What the node's own properties say: cordons, taints, labels.
#[inline]
pub fn fits_rules(rules: &Rules, pod: &PodInfo, node: &NodeInfo) -> Result<(), Reject> {
    let on = |plugin| !rules.off.contains(plugin);
    if on(Plugin::NodeUnschedulable) {
        taints::filter_unschedulable(pod, node)?;
    }
    if on(Plugin::TaintToleration) {
        taints::filter(pod, node)?;
    }
    if on(Plugin::NodeAffinity) { node_affinity::filter(rules.added.as_ref(), pod, node) } else { Ok(()) }
}

/// What is left on the node: ports, resources.
#[inline]
pub fn fits_room(state: &State, rules: &Rules, pod: &PodInfo, node: &NodeInfo) -> Result<(), Reject> {
    if !rules.off.contains(Plugin::NodePorts) {
        ports::filter(pod, node)?;
    }
    if rules.off.contains(Plugin::NodeResourcesFit) {
        return Ok(());
    }
    fit::filter(pod, node).or_else(|reject| fit::overlook(reject, rules, &state.devices, pod, node))
}

#[inline]
fn fits_volumes(state: &State, prepared: &Prepared, pod: &PodInfo, node: &NodeInfo) -> Result<(), Reject> {
    match volumes::filter(state, &prepared.volumes, pod, node) {
        Err(reject) if prepared.rules.off.contains(reject.plugin) => Ok(()),
        verdict => verdict,
    }
}

/// Whether a node will do, the cheapest questions first within upstream's order.
#[inline]
pub fn filter(state: &State, prepared: &Prepared, pod: &PodInfo, id: NodeId) -> Result<(), Reject> {
    let node = state.node(id);
    fits_rules(&prepared.rules, pod, node)?;
    fits_room(state, &prepared.rules, pod, node)?;
    fits_volumes(state, prepared, pod, node)?;
    spread::filter(state, &prepared.hard, id)?;
    interpod::filter(state, &prepared.interpod, id)?;
    devices::filter(state, &prepared.devices, node)?;
    fits_features(&prepared.rules, pod, node)
}

/// What the node's kubelet knows.
#[inline]
pub fn fits_features(rules: &Rules, pod: &PodInfo, node: &NodeInfo) -> Result<(), Reject> {
    if rules.off.contains(Plugin::NodeDeclaredFeatures) { Ok(()) } else { features::filter(pod, node) }
}

/// Everything that speaks against a node, not only the first objection: for explaining.
pub fn objections(state: &State, prepared: &Prepared, pod: &PodInfo, id: NodeId) -> Vec<Reject> {
    let node = state.node(id);
    let rules = &prepared.rules;
    [
        taints::filter_unschedulable(pod, node),
        taints::filter(pod, node),
        node_affinity::filter(rules.added.as_ref(), pod, node),
        ports::filter(pod, node),
        fit::filter(pod, node).or_else(|reject| fit::overlook(reject, rules, &state.devices, pod, node)),
        volumes::filter(state, &prepared.volumes, pod, node),
        spread::filter(state, &prepared.hard, id),
        interpod::filter(state, &prepared.interpod, id),
        devices::filter(state, &prepared.devices, node),
        features::filter(pod, node),
    ]
    .into_iter()
    .filter_map(Result::err)
    .filter(|reject| !rules.off.contains(reject.plugin))
    .collect()
}

/// The same with room kept for pods for which it was made and that matter at least as much.
pub fn filter_nominated(
    state: &mut State,
    profile: &Profile,
    prepared: &Prepared,
    pod: &PodInfo,
    id: NodeId,
) -> Result<(), Reject> {
    if state.any_nominated() {
        let others: Vec<Arc<PodInfo>> = state
            .nominated(state.node(id).sym)
            .iter()
            .filter(|other| other.priority >= pod.priority && other.key != pod.key)
            .cloned()
            .collect();
        if !others.is_empty() {
            for other in &others {
                state.put_back(id, other.clone());
            }
            let with = prepare(state, profile, pod).map(|prepared| filter(state, &prepared, pod, id));
            for other in &others {
                state.take_off(id, other);
            }
            if let Ok(Err(reject)) = with {
                return Err(reject);
            }
        }
    }
    filter(state, prepared, pod, id)
}

/// How many feasible nodes are enough.
fn enough(profile: &Profile, nodes: usize) -> usize {
    if nodes < MIN_FEASIBLE {
        return nodes;
    }
    let percent = match profile.percentage_of_nodes {
        Some(percent) if percent > 0 => percent as usize,
        _ => 50_usize.saturating_sub(nodes / 125).max(5),
    };
    if percent >= 100 { nodes } else { (nodes * percent / 100).max(MIN_FEASIBLE) }
}

/// What a search over the nodes found.
#[derive(Debug)]
pub struct Found {
    prepared: Prepared,
    /// The nodes that will do; one at least.
    pub feasible: Vec<NodeId>,
    /// Why the others will not.
    pub failure: Failure,
    evaluated: usize,
    /// Room was made for the pod on the one node, and no other was looked at.
    pub nominated: bool,
}

/// Decides where a pod goes. Leaves the state as it was.
pub fn decide(state: &mut State, profile: &Profile, pod: &PodInfo, turn: &mut Turn) -> Decision {
    let found = match search(state, profile, pod, turn, true) {
        Ok(found) => found,
        Err(failure) => return Decision::Nowhere(failure),
    };
    let Found { prepared, feasible, evaluated, .. } = &found;
    if let [only] = feasible[..] {
        return chosen(state, prepared, only, *evaluated, 1);
    }
    let scores = score(state, profile, prepared, pod, feasible);
    let best = best(&scores, turn);
    chosen(state, prepared, feasible[best], *evaluated, feasible.len())
}

/// The decision for one node, if it will do.
pub fn on_node(state: &mut State, profile: &Profile, pod: &PodInfo, id: NodeId) -> Option<Decision> {
    let prepared = prepare(state, profile, pod).ok()?;
    filter_nominated(state, profile, &prepared, pod, id).ok()?;
    Some(chosen(state, &prepared, id, 1, 1))
}

/// Looks for nodes that will do, until there are enough. `nominated` is whether one where room was made for the pod comes first.
///
/// # Errors
/// Why there is none.
pub fn search(
    state: &mut State,
    profile: &Profile,
    pod: &PodInfo,
    turn: &mut Turn,
    nominated: bool,
) -> Result<Found, Failure> {
    state.terms.sweep();
    let nodes = state.order().len();
    let mut failure = Failure {
        nodes,
        general: None,
        rejects: Vec::new(),
        outside: 0,
        plugins: PluginSet::default(),
        said: BTreeMap::new(),
    };
    let prepared = match prepare(state, profile, pod) {
        Ok(prepared) => prepared,
        Err((plugin, reason)) => {
            failure.plugins.insert(plugin);
            failure.general = Some((plugin, reason));
            return Err(failure);
        }
    };
    // Room was made for it somewhere: that comes first.
    if nominated
        && let Some(id) = pod.nominated.as_deref().and_then(|name| state.find(name))
        && filter_nominated(state, profile, &prepared, pod, id).is_ok()
    {
        return Ok(Found { prepared, feasible: vec![id], failure, evaluated: 1, nominated: true });
    }
    let mut feasible = Vec::new();
    let mut evaluated = 0;
    let (count, limit, start) = match &prepared.only {
        Some(only) => (only.len(), only.len(), 0),
        None => (nodes, enough(profile, nodes), if nodes == 0 { 0 } else { turn.start % nodes }),
    };
    for i in 0..count {
        let id = match &prepared.only {
            Some(only) => only[i],
            None => {
                let at = start + i;
                state.ordered()[if at >= nodes { at - nodes } else { at }]
            }
        };
        evaluated += 1;
        match filter_nominated(state, profile, &prepared, pod, id) {
            Ok(()) => {
                feasible.push(id);
                if feasible.len() >= limit {
                    break;
                }
            }
            Err(reject) => {
                failure.plugins.insert(reject.plugin);
                failure.rejects.push((id, reject));
            }
        }
        if let Some(reason) = prepared.devices.broken() {
            failure.general = Some((Plugin::DynamicResources, reason));
            return Err(failure);
        }
    }
    if prepared.only.is_none() {
        turn.start = start + evaluated;
    } else {
        failure.outside = nodes.saturating_sub(count);
        failure.plugins.insert(Plugin::NodeAffinity);
    }
    if feasible.is_empty() {
        return Err(failure);
    }
    Ok(Found { prepared, feasible, failure, evaluated, nominated: false })
}

fn chosen(state: &State, prepared: &Prepared, node: NodeId, evaluated: usize, feasible: usize) -> Decision {
    let bindings = volumes::bindings(state, &prepared.volumes, state.node(node)).unwrap_or_default();
    let bookings = devices::bookings(state, &prepared.devices, state.node(node));
    Decision::Node { node, bindings, bookings, evaluated, feasible }
}

/// The weighted scores of feasible nodes.
pub fn score(state: &mut State, profile: &Profile, prepared: &Prepared, pod: &PodInfo, nodes: &[NodeId]) -> Vec<i64> {
    let weights = profile.weights;
    let balance = weights.balanced > 0 && balanced::applies(pod);
    let mut total: Vec<i64> = nodes
        .iter()
        .map(|id| {
            let node = state.node(*id);
            let mut sum = weights.fit * fit::score(&profile.fit, pod, node);
            if balance {
                sum += weights.balanced * balanced::score(pod, node);
            }
            if weights.images > 0 && !node.images.is_empty() {
                sum += weights.images * image_locality::score(state, pod, node);
            }
            sum
        })
        .collect();
    let mut add = |weight: i64, scores: Vec<i64>| {
        total.iter_mut().zip(scores).for_each(|(sum, score)| *sum += weight * score);
    };
    if weights.taints > 0 && nodes.iter().any(|id| !state.node(*id).taints.is_empty()) {
        let mut scores: Vec<_> = nodes.iter().map(|id| taints::score(pod, state.node(*id))).collect();
        normalize(&mut scores, true);
        add(weights.taints, scores);
    }
    let added = &profile.rules.preferences;
    if weights.node_affinity > 0 && !(pod.node_preferences.is_empty() && added.is_empty()) {
        let mut scores: Vec<_> = nodes.iter().map(|id| node_affinity::score(added, pod, state.node(*id))).collect();
        normalize(&mut scores, false);
        add(weights.node_affinity, scores);
    }
    if weights.spread > 0 {
        let scores = spread::score(state, pod, &prepared.constraints, prepared.own_constraints, nodes);
        add(weights.spread, scores.unwrap_or_default());
    }
    let nobody_asks = profile.ignore_preferences_of_others && pod.preferences.is_empty();
    if weights.interpod > 0 && !nobody_asks {
        add(weights.interpod, interpod::score(state, pod, profile.hard_affinity_weight, nodes).unwrap_or_default());
    }
    if weights.devices > 0 && prepared.devices.prefers() {
        let mut scores: Vec<_> =
            nodes.iter().map(|id| devices::score(state, &prepared.devices, state.node(*id))).collect();
        normalize(&mut scores, false);
        add(weights.devices, scores);
    }
    debug_assert!(total.iter().all(|s| *s <= 8 * MAX_SCORE * 100), "eight scores, each with a weight of at most 100");
    total
}

/// The place of the highest score; among equals each with the same probability.
pub(crate) fn best(scores: &[i64], turn: &mut Turn) -> usize {
    let (mut at, mut ties) = (0, 1);
    for (i, score) in scores.iter().enumerate().skip(1) {
        if *score > scores[at] {
            (at, ties) = (i, 1);
        } else if *score == scores[at] {
            ties += 1;
            if turn.random().is_multiple_of(ties) {
                at = i;
            }
        }
    }
    at
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::testing::{PodBuilder, node, pod, state};
    use serde_json::json;

    fn go(state: &mut State, wants: PodBuilder, turn: &mut Turn) -> Result<(String, usize, usize), Failure> {
        let profile = Profile::named("default-scheduler");
        match decide(state, &profile, &wants.info(), turn) {
            Decision::Node { node, evaluated, feasible, .. } => {
                Ok((state.node(node).name.to_string(), evaluated, feasible))
            }
            Decision::Nowhere(failure) => Err(failure),
        }
    }

    fn first() -> Turn {
        Turn { start: 0, seed: 7 }
    }

    #[test]
    fn the_emptier_node_wins() {
        let mut state = state([node("a"), node("b"), node("c")]);
        for (name, on) in [("1", "a"), ("2", "b"), ("3", "b")] {
            state.set_pod(pod(name).cpu(1000).memory(1 << 30).on(on).info());
        }
        assert_eq!(go(&mut state, pod("p").cpu(100).memory(1 << 20), &mut first()).unwrap(), ("c".into(), 3, 3));
    }

    #[test]
    fn weights_order_the_wishes() {
        let mut state = state([
            node("plain"),
            node("ssd").label("disk", "ssd"),
            node("shunned").taint("k", "", "PreferNoSchedule"),
        ]);
        let prefer = json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 1, "preference": {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}}]}});
        for seed in 1..20 {
            let mut turn = Turn { start: 0, seed };
            assert_eq!(go(&mut state, pod("p").affinity(prefer.clone()), &mut turn).unwrap().0, "ssd");
            assert_ne!(go(&mut state, pod("p"), &mut turn).unwrap().0, "shunned");
        }
    }

    #[test]
    fn ties_fall_on_all_alike() {
        let mut state = state([node("a"), node("b"), node("c")]);
        let mut counts = std::collections::BTreeMap::new();
        let mut turn = first();
        for _ in 0..3000 {
            *counts.entry(go(&mut state, pod("p"), &mut turn).unwrap().0).or_insert(0) += 1;
        }
        assert!(counts.len() == 3 && counts.values().all(|n| *n > 800), "{counts:?}");
    }

    #[test]
    fn large_clusters_are_searched_in_part_and_in_turn() {
        let mut state = state((0..1000).map(|i| node(&format!("n{i}"))));
        let mut turn = first();
        let (_, evaluated, feasible) = go(&mut state, pod("p"), &mut turn).unwrap();
        assert_eq!((evaluated, feasible), (420, 420), "50 % less one for each 125 nodes");
        assert_eq!(turn.start, 420, "the next search goes on from there");
        let profile = Profile { percentage_of_nodes: Some(100), ..Profile::named("x") };
        let all = decide(&mut state, &profile, &pod("p").info(), &mut turn);
        assert!(matches!(all, Decision::Node { evaluated: 1000, .. }));
    }

    #[test]
    fn pods_of_a_daemon_look_at_their_node_only() {
        let mut state = state([node("a"), node("b").cpu(100), node("c")]);
        let to = |name: &str| {
            json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}]}}})
        };
        assert_eq!(go(&mut state, pod("p").affinity(to("c")), &mut first()).unwrap(), ("c".into(), 1, 1));
        let wants = pod("p").cpu(500).affinity(to("b"));
        let failure = go(&mut state, wants.clone(), &mut first()).unwrap_err();
        assert_eq!(
            crate::message::message(&state, &wants.info(), &failure, None),
            "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't satisfy plugin(s) [NodeAffinity]."
        );
    }

    #[test]
    fn without_nodes_or_devices() {
        let wants = pod("p");
        let failure = go(&mut State::default(), wants.clone(), &mut first()).unwrap_err();
        let text = crate::message::message(&State::default(), &wants.info(), &failure, None);
        assert_eq!(text, "no nodes available to schedule pods");
        let mut state = state([node("a")]);
        let devices = pod("p").spec("resourceClaims", json!([{"name": "gpu", "resourceClaimName": "x"}]));
        let failure = go(&mut state, devices.clone(), &mut first()).unwrap_err();
        let text = crate::message::message(&state, &devices.info(), &failure, None);
        assert_eq!(
            text,
            "0/1 nodes are available: resourceclaim.resource.k8s.io \"x\" not found. still not schedulable"
        );
    }
}
