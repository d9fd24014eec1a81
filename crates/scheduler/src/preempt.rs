//! DefaultPreemption: which less important pods would have to go so that this one fits, and where that hurts least.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::Profile;
use crate::decide::{Failure, Prepared, Turn, filter_nominated, prepare};
use crate::message::unavailable;
use crate::model::PodInfo;
use crate::plugins::Plugin;
use crate::state::{NodeId, State};

const NO_VICTIMS: &str = "No preemption victims found for incoming pod";
const NOT_HELPFUL: &str = "Preemption is not helpful for scheduling";

/// Room that can be made on a node.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The node.
    pub node: NodeId,
    /// The pods to go, the most important first.
    pub victims: Vec<Arc<PodInfo>>,
    /// How many of them a disruption budget would keep.
    pub violations: usize,
}

/// What came of it.
#[derive(Debug)]
pub enum Outcome {
    /// These pods should go.
    Make(Candidate),
    /// Pods of this profile do not make room.
    Off,
    /// Nothing can be done: the end of the message.
    Nothing(String),
}

/// The order of importance: priority, then who has run longer.
fn importance(pod: &PodInfo) -> (Reverse<i32>, i64) {
    (Reverse(pod.priority), pod.started)
}

/// How many nodes are no candidates, by the reason.
pub type Counts = BTreeMap<String, usize>;

/// Looks for room to be made. Leaves the state as it was.
pub fn preempt(state: &mut State, profile: &Profile, pod: &PodInfo, failure: &Failure, turn: &mut Turn) -> Outcome {
    match candidates(state, profile, pod, failure, turn) {
        Ok((candidates, counts)) => choose(failure, candidates, &counts),
        Err(outcome) => outcome,
    }
}

/// The candidate where making room hurts least.
pub fn choose(failure: &Failure, candidates: Vec<Candidate>, counts: &Counts) -> Outcome {
    match candidates.into_iter().min_by_key(cost) {
        Some(best) => Outcome::Make(best),
        None => Outcome::Nothing(unavailable(failure.nodes, None, counts)),
    }
}

/// All room that could be made, and how many nodes are no candidates for which reason. Leaves the state as it was.
///
/// # Errors
/// The outcome, when the pod makes no room anywhere.
pub fn candidates(
    state: &mut State,
    profile: &Profile,
    pod: &PodInfo,
    failure: &Failure,
    turn: &mut Turn,
) -> Result<(Vec<Candidate>, Counts), Outcome> {
    if !profile.preemption.enabled {
        return Err(Outcome::Off);
    }
    if pod.never_preempts {
        return Err(Outcome::Nothing("not eligible due to preemptionPolicy=Never.".to_owned()));
    }
    if waits_for_victims(state, pod, failure) {
        return Err(Outcome::Nothing("not eligible due to a terminating pod on the nominated node.".to_owned()));
    }
    let mut counts = Counts::new();
    let mut helpful: Vec<NodeId> = Vec::new();
    if failure.general.is_none() {
        helpful.extend(failure.rejects.iter().filter(|(_, r)| !r.hopeless).map(|(id, _)| *id));
    }
    let hopeless = failure.nodes - helpful.len();
    if hopeless > 0 {
        counts.insert(NOT_HELPFUL.to_owned(), hopeless);
    }
    let wanted = (failure.nodes * profile.preemption.percentage / 100).max(profile.preemption.absolute);
    let mut candidates = Vec::new();
    let trial = Trial::new(state, profile, pod);
    let offset = if helpful.is_empty() { 0 } else { turn.random() as usize % helpful.len() };
    helpful.rotate_left(offset);
    for id in helpful {
        match dry_run(state, profile, &trial, id) {
            Some(candidate) => candidates.push(candidate),
            None => *counts.entry(NO_VICTIMS.to_owned()).or_default() += 1,
        }
        if candidates.len() >= wanted {
            break;
        }
    }
    Ok((candidates, counts))
}

/// Whether room is being made for the pod already: its victims are on their way out.
fn waits_for_victims(state: &State, pod: &PodInfo, failure: &Failure) -> bool {
    let Some(id) = pod.nominated.as_deref().and_then(|name| state.find(name)) else { return false };
    let hopeless = failure.rejects.iter().any(|(node, r)| *node == id && r.hopeless);
    !hopeless && state.node(id).pods.iter().any(|p| p.terminating && p.priority < pod.priority)
}

/// What is compared between candidates, in this order: fewer budget violations, a less important most important victim, a lower sum of
/// priorities, fewer victims, a later start of the most important one.
fn cost(candidate: &Candidate) -> (usize, i32, i64, usize, Reverse<i64>) {
    let highest = candidate.victims.iter().map(|v| v.priority).max().unwrap_or(i32::MIN);
    let sum = candidate.victims.iter().map(|v| i64::from(v.priority) + i64::from(i32::MAX) + 1).sum();
    let earliest = candidate.victims.iter().filter(|v| v.priority == highest).map(|v| v.started).min().unwrap_or(0);
    (candidate.violations, highest, sum, candidate.victims.len(), Reverse(earliest))
}

/// Takes all less important pods off a node; if the pod fits then, puts back as many as possible, the most important first and
/// those that a budget protects before the others.
fn dry_run(state: &mut State, profile: &Profile, trial: &Trial<'_>, id: NodeId) -> Option<Candidate> {
    let pod = trial.pod;
    let mut lesser: Vec<Arc<PodInfo>> =
        state.node(id).pods.iter().filter(|p| p.priority < pod.priority).cloned().collect();
    if lesser.is_empty() {
        return None;
    }
    for victim in &lesser {
        trial.take_off(state, id, victim);
    }
    if !trial.fits(state, profile, id) {
        lesser.into_iter().for_each(|p| trial.put_back(state, id, p));
        return None;
    }
    lesser.sort_by_key(|p| importance(p));
    let (protected, free) = by_budget(state, lesser);
    let mut victims = Vec::new();
    let mut violations = 0;
    for (candidate, is_protected) in
        protected.into_iter().map(|p| (p, true)).chain(free.into_iter().map(|p| (p, false)))
    {
        trial.put_back(state, id, candidate.clone());
        if !trial.fits(state, profile, id) {
            trial.take_off(state, id, &candidate);
            violations += usize::from(is_protected);
            victims.push(candidate);
        }
    }
    for victim in &victims {
        trial.put_back(state, id, victim.clone());
    }
    victims.sort_by_key(|p| importance(p));
    Some(Candidate { node: id, victims, violations })
}

/// A pod that is tried on nodes from which others were taken.
struct Trial<'a> {
    pod: &'a PodInfo,
    /// What holds whichever pods go; without it all is prepared anew for each trial.
    prepared: Option<Prepared>,
}

impl<'a> Trial<'a> {
    fn new(state: &mut State, profile: &Profile, pod: &'a PodInfo) -> Self {
        let prepared = prepare(state, profile, pod).ok().filter(|p| !p.depends_on_pods());
        Self { pod, prepared }
    }

    /// With what holds anyway, only the room on the node has to be counted anew.
    fn take_off(&self, state: &mut State, id: NodeId, victim: &Arc<PodInfo>) {
        if self.prepared.is_some() { state.lift(id, victim) } else { state.take_off(id, victim) }
    }

    fn put_back(&self, state: &mut State, id: NodeId, victim: Arc<PodInfo>) {
        if self.prepared.is_some() { state.lower(id, victim) } else { state.put_back(id, victim) }
    }

    fn fits(&self, state: &mut State, profile: &Profile, id: NodeId) -> bool {
        if let Some(prepared) = &self.prepared {
            return filter_nominated(state, profile, prepared, self.pod, id).is_ok();
        }
        let Ok(prepared) = prepare(state, profile, self.pod) else { return false };
        filter_nominated(state, profile, &prepared, self.pod, id).is_ok()
    }
}

/// Divides pods into those whose going would break a budget and the others.
fn by_budget(state: &State, pods: Vec<Arc<PodInfo>>) -> (Vec<Arc<PodInfo>>, Vec<Arc<PodInfo>>) {
    let mut allowed: Vec<(*const crate::state::Budget, i32)> = Vec::new();
    let (mut protected, mut free) = (Vec::new(), Vec::new());
    for pod in pods {
        let mut broken = false;
        for budget in state.cluster.budgets(pod.namespace).filter(|b| b.covers(&pod)) {
            let key = std::ptr::from_ref(budget);
            let left = match allowed.iter_mut().find(|(k, _)| *k == key) {
                Some((_, left)) => left,
                None => {
                    allowed.push((key, budget.allowed));
                    let last = allowed.len() - 1;
                    &mut allowed[last].1
                }
            };
            *left -= 1;
            broken |= *left < 0;
        }
        if broken { protected.push(pod) } else { free.push(pod) }
    }
    (protected, free)
}

/// Whether a failure can be helped by taking pods away at all (a quick look).
pub fn worth_trying(failure: &Failure) -> bool {
    failure.general.is_none() && !failure.plugins.contains(Plugin::SchedulingGates)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::decide::{Decision, decide};
    use crate::message::message;
    use crate::model::PodKey;
    use crate::state::Budget;
    use crate::testing::{node, pod, state};
    use serde_json::json;

    fn run(state: &mut State, pod: &PodInfo) -> (Outcome, Failure) {
        let profile = Profile::named("default-scheduler");
        let mut turn = Turn { start: 0, seed: 1 };
        let Decision::Nowhere(failure) = decide(state, &profile, pod, &mut turn) else { panic!("it fits") };
        (preempt(state, &profile, pod, &failure, &mut turn), failure)
    }

    fn full() -> State {
        let mut state = state([
            node("a").cpu(1000),
            node("b").cpu(1000),
            node("c").cpu(500),
            node("t").taint("k", "v", "NoSchedule"),
        ]);
        for (name, on, cpu, priority, started) in [
            ("a-low", "a", 400, 1, 100),
            ("a-mid", "a", 400, 5, 100),
            ("b-low1", "b", 400, 1, 100),
            ("b-low2", "b", 500, 1, 200),
        ] {
            state.set_pod(pod(name).cpu(cpu).priority(priority).started(started).on(on).info());
        }
        state
    }

    fn names(candidate: &Candidate) -> Vec<&str> {
        candidate.victims.iter().map(|v| &*v.key.name).collect()
    }

    #[test]
    fn takes_the_cheapest_victims() {
        let mut state = full();
        let (outcome, _) = run(&mut state, &pod("new").cpu(600).priority(10).info());
        let Outcome::Make(best) = outcome else { panic!("{outcome:?}") };
        // On a both would not have to go, but then one with priority 1 goes; on b one with priority 1, too: the later one.
        assert_eq!(best.victims.len(), 1);
        assert_eq!(best.victims[0].priority, 1);
        assert_eq!(names(&best), ["b-low2"]);
        let before = state.node(best.node).requested.clone();
        let (again, _) = run(&mut state, &pod("new").cpu(600).priority(10).info());
        assert!(matches!(again, Outcome::Make(_)));
        assert_eq!(state.node(best.node).requested, before, "a trial leaves everything as it was");
    }

    #[test]
    fn budgets_are_spared_when_possible() {
        let mut state = full();
        state.set_pod(pod("b-low2").label("app", "db").cpu(500).priority(1).started(200).on("b").info());
        let key = PodKey { namespace: "default".into(), name: "budget".into() };
        let budget = serde_json::from_value(json!({"metadata": {"name": "budget"}, "spec": {"selector": {"matchLabels": {"app": "db"}}}, "status": {"disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1}})).unwrap();
        state.cluster.set_budget(&key, Some(Budget::new(&budget)));
        let (outcome, _) = run(&mut state, &pod("new").cpu(600).priority(10).info());
        let Outcome::Make(best) = outcome else { panic!("{outcome:?}") };
        assert_eq!(best.violations, 0);
        assert!(!names(&best).contains(&"b-low2"), "{:?}", names(&best));
        // When there is no other way the budget does not hold.
        let (outcome, _) = run(&mut state, &pod("new").cpu(1000).priority(2).info());
        let Outcome::Make(best) = outcome else { panic!("{outcome:?}") };
        assert_eq!((names(&best), best.violations), (vec!["b-low1", "b-low2"], 1));
    }

    #[test]
    fn messages() {
        let mut state = full();
        let wants = pod("new").cpu(600).info();
        let (outcome, failure) = run(&mut state, &wants);
        let Outcome::Nothing(end) = outcome else { panic!("{outcome:?}") };
        assert_eq!(
            message(&state, &wants, &failure, Some(&end)),
            "0/4 nodes are available: 1 node(s) had untolerated taint {k: v}, 3 Insufficient cpu. \
             preemption: 0/4 nodes are available: 2 No preemption victims found for incoming pod, 2 Preemption is not helpful for scheduling."
        );
        let never = pod("new").cpu(600).priority(10).never_preempts().info();
        assert!(matches!(run(&mut state, &never).0, Outcome::Nothing(text) if text.contains("preemptionPolicy=Never")));
        let claim = pod("new").claim("missing").info();
        let (outcome, failure) = run(&mut state, &claim);
        let Outcome::Nothing(end) = outcome else { panic!("{outcome:?}") };
        assert_eq!(
            message(&state, &claim, &failure, Some(&end)),
            "0/4 nodes are available: persistentvolumeclaim \"missing\" not found. \
             preemption: 0/4 nodes are available: 4 Preemption is not helpful for scheduling."
        );
    }

    #[test]
    fn room_made_is_kept_for_whom_it_was_made() {
        let mut state = state([node("a").cpu(1000)]);
        let first = pod("first").cpu(800).priority(10).info();
        state.nominate(first.clone(), "a");
        let profile = Profile::named("default-scheduler");
        let mut turn = Turn { start: 0, seed: 1 };
        let lesser = pod("lesser").cpu(500).priority(5).info();
        assert!(matches!(decide(&mut state, &profile, &lesser, &mut turn), Decision::Nowhere(_)));
        let greater = pod("greater").cpu(500).priority(20).info();
        assert!(matches!(decide(&mut state, &profile, &greater, &mut turn), Decision::Node { .. }));
        assert!(matches!(decide(&mut state, &profile, &first, &mut turn), Decision::Node { .. }));
        assert!(state.node(0).pods.is_empty());
    }

    #[test]
    fn pods_far_from_victims_fit_after_them() {
        let mut state = state([node("a"), node("b")]);
        for (name, on) in [("1", "a"), ("2", "b")] {
            state.set_pod(pod(name).label("app", "x").priority(1).far("kubernetes.io/hostname", "app=x").on(on).info());
        }
        let wants = pod("new").label("app", "x").priority(9).far("kubernetes.io/hostname", "app=x").info();
        let (outcome, _) = run(&mut state, &wants);
        let Outcome::Make(best) = outcome else { panic!("{outcome:?}") };
        assert_eq!(best.victims.len(), 1);
        let near = pod("near").near("kubernetes.io/hostname", "app=none").priority(9).info();
        assert!(matches!(run(&mut state, &near).0, Outcome::Nothing(_)));
    }
}
