//! One decision with the help of extenders.
//!
//! The core is unlocked while they are asked, so that a slow one does not hold up the informers; what was found out before is looked at
//! again afterwards. Pods that no extender is interested in never come here.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use caravel_client::{Informer, Key};
use k8s_openapi::api::core::v1 as core;
use parking_lot::MutexGuard;
use serde_json::Value;
use tokio::runtime::Handle;

use super::wire::{self, MAX_SCORE as THEIRS, Victims};
use super::{Extender, Extenders};
use crate::config::Profile;
use crate::core::Core;
use crate::decide::{Decision, Failure, Found, Turn, best, on_node, prepare, score, search};
use crate::model::PodInfo;
use crate::plugins::{MAX_SCORE as OURS, Plugin, Reject};
use crate::preempt::{Candidate, Outcome, candidates, choose};
use crate::state::NodeId;

/// The objects as the API has them: extenders are sent whole ones.
#[derive(Clone)]
pub struct Objects {
    /// Pods.
    pub pods: Informer<core::Pod>,
    /// Nodes.
    pub nodes: Informer<core::Node>,
    /// Where calls run.
    pub runtime: Handle,
}

impl Objects {
    fn pod(&self, pod: &PodInfo) -> Option<Value> {
        let found = self.pods.get(&Key::new(&*pod.key.namespace, &*pod.key.name))?;
        serde_json::to_value(&*found).ok()
    }

    fn node(&self, name: &str) -> Option<Value> {
        serde_json::to_value(&*self.nodes.get(&Key::cluster(name))?).ok()
    }

    /// The question of `filter` and `prioritize`.
    fn question(&self, to: &Extender, pod: &Value, names: &[Arc<str>]) -> Value {
        let plain: Vec<&str> = names.iter().map(|n| &**n).collect();
        let whole = (!to.config.knows_nodes).then(|| plain.iter().filter_map(|n| self.node(n)).collect());
        wire::args(pod, &plain, whole)
    }
}

/// What extenders made of the nodes.
#[derive(Default)]
struct Said {
    nodes: Vec<Arc<str>>,
    /// Node, reason, whether it is hopeless.
    failed: Vec<(Arc<str>, String, bool)>,
}

/// Decides where a pod goes.
///
/// # Errors
/// What an extender that may not be passed over says, or a picture that changed too much meanwhile: the pod is to be tried again.
pub fn decide_with(
    core: &mut MutexGuard<'_, Core>,
    extenders: &Extenders,
    objects: &Objects,
    profile: &Profile,
    pod: &PodInfo,
    turn: &mut Turn,
) -> Result<Decision, String> {
    let Some(whole) = objects.pod(pod) else { return Err("it is gone".to_owned()) };
    let mut nominated = true;
    loop {
        let found = match search(&mut core.state, profile, pod, turn, nominated) {
            Ok(found) => found,
            Err(failure) => return Ok(Decision::Nowhere(failure)),
        };
        let names: Vec<Arc<str>> = found.feasible.iter().map(|id| core.state.node(*id).name.clone()).collect();
        let rejected: Vec<Arc<str>> =
            found.failure.rejects.iter().map(|(id, _)| core.state.node(*id).name.clone()).collect();
        let said = MutexGuard::unlocked(core, || {
            objects.runtime.block_on(filter(extenders, objects, pod, &whole, names.clone()))
        })?;
        if said.nodes.is_empty() {
            // Room was made for it on one node, and an extender is against that one: all are looked at.
            if std::mem::take(&mut nominated) && found.nominated {
                continue;
            }
            return Ok(Decision::Nowhere(failure(core, found, rejected, said)));
        }
        return place(core, extenders, objects, profile, (pod, &whole), said.nodes, turn);
    }
}

async fn filter(
    extenders: &Extenders,
    objects: &Objects,
    pod: &PodInfo,
    whole: &Value,
    names: Vec<Arc<str>>,
) -> Result<Said, String> {
    let mut said = Said { nodes: names, failed: Vec::new() };
    for e in extenders.interested(pod) {
        if said.nodes.is_empty() {
            break;
        }
        let answer = match e.filter(&objects.question(e, whole, &said.nodes)).await {
            Ok(Some(answer)) => answer,
            Ok(None) => continue,
            Err(error) if e.config.ignorable => {
                tracing::warn!(%error, "passed over");
                continue;
            }
            Err(error) => return Err(error.to_string()),
        };
        let (stay, go): (Vec<_>, Vec<_>) =
            said.nodes.into_iter().partition(|n| answer.nodes.iter().any(|a| **a == **n));
        said.nodes = stay;
        said.failed.extend(go.into_iter().map(|n| match answer.hopeless.get(&*n) {
            Some(reason) => (n, reason.clone(), true),
            None => {
                let reason = answer.failed.get(&*n).cloned();
                (n, reason.unwrap_or_else(|| "node(s) didn't satisfy an extender".to_owned()), false)
            }
        }));
    }
    Ok(said)
}

/// The failure when extenders leave no node. Nodes that went meanwhile are left out of it.
fn failure(core: &Core, found: Found, rejected: Vec<Arc<str>>, said: Said) -> Failure {
    let mut failure = found.failure;
    let mut names = rejected.into_iter();
    failure.rejects.retain(|(id, _)| names.next().is_some_and(|n| core.state.find(&n) == Some(*id)));
    for (name, reason, hopeless) in said.failed {
        let Some(id) = core.state.find(&name) else { continue };
        let reject = if hopeless { Reject::hopeless(Plugin::Extender, 0) } else { Reject::new(Plugin::Extender, 0) };
        failure.rejects.push((id, reject));
        failure.said.insert(id, reason);
    }
    failure.plugins.insert(Plugin::Extender);
    failure
}

/// Chooses among nodes that all will do, by this scheduler's scores and those of extenders.
fn place(
    core: &mut MutexGuard<'_, Core>,
    extenders: &Extenders,
    objects: &Objects,
    profile: &Profile,
    (pod, whole): (&PodInfo, &Value),
    names: Vec<Arc<str>>,
    turn: &mut Turn,
) -> Result<Decision, String> {
    let mut nodes: Vec<(Arc<str>, NodeId)> =
        names.into_iter().filter_map(|n| Some((n.clone(), core.state.find(&n)?))).collect();
    if nodes.len() > 1 {
        let ids: Vec<NodeId> = nodes.iter().map(|(_, id)| *id).collect();
        let mut scores = match prepare(&mut core.state, profile, pod) {
            Ok(prepared) => score(&mut core.state, profile, &prepared, pod, &ids),
            Err((_, reason)) => return Err(reason),
        };
        if extenders.interested(pod).any(|e| e.config.prioritize.is_some()) {
            let asked: Vec<Arc<str>> = nodes.iter().map(|(n, _)| n.clone()).collect();
            let theirs = MutexGuard::unlocked(core, || {
                objects.runtime.block_on(prioritize(extenders, objects, pod, whole, &asked))
            });
            for (at, (name, _)) in nodes.iter().enumerate() {
                scores[at] += theirs.get(&**name).copied().unwrap_or(0);
            }
        }
        // The best first: the next one is for when it went, or filled, meanwhile.
        while !nodes.is_empty() {
            let at = best(&scores, turn);
            let (name, _) = nodes.swap_remove(at);
            scores.swap_remove(at);
            if let Some(decision) = still(core, profile, pod, &name) {
                return Ok(decision);
            }
        }
    } else if let Some((name, _)) = nodes.first()
        && let Some(decision) = still(core, profile, pod, name)
    {
        return Ok(decision);
    }
    Err("the nodes changed while extenders were asked".to_owned())
}

/// The decision for one node, if that will still do.
fn still(core: &mut Core, profile: &Profile, pod: &PodInfo, name: &str) -> Option<Decision> {
    let id = core.state.find(name)?;
    on_node(&mut core.state, profile, pod, id)
}

/// The sum of the extenders' weighted scores, on this scheduler's scale. One that fails has no say (as upstream has it).
async fn prioritize(
    extenders: &Extenders,
    objects: &Objects,
    pod: &PodInfo,
    whole: &Value,
    names: &[Arc<str>],
) -> HashMap<String, i64> {
    let mut sums: HashMap<String, i64> = HashMap::new();
    for e in extenders.interested(pod).filter(|e| e.config.prioritize.is_some()) {
        match e.prioritize(&objects.question(e, whole, names)).await {
            Ok(scores) => {
                for (node, score) in scores {
                    let weighted = score.saturating_mul(e.config.weight).saturating_mul(OURS / THEIRS);
                    let sum = sums.entry(node).or_default();
                    *sum = sum.saturating_add(weighted);
                }
            }
            Err(error) => tracing::warn!(%error, "its scores do not count"),
        }
    }
    sums
}

/// Looks for room to be made, where extenders agree.
pub fn preempt_with(
    core: &mut MutexGuard<'_, Core>,
    extenders: &Extenders,
    objects: &Objects,
    profile: &Profile,
    pod: &PodInfo,
    failure: &Failure,
    turn: &mut Turn,
) -> Outcome {
    let (mine, counts) = match candidates(&mut core.state, profile, pod, failure, turn) {
        Ok(found) => found,
        Err(outcome) => return outcome,
    };
    let Some(whole) = objects.pod(pod).filter(|_| !mine.is_empty()) else { return choose(failure, mine, &counts) };
    let mut nodes: BTreeMap<String, Victims> = BTreeMap::new();
    let mut victims: HashMap<String, Arc<PodInfo>> = HashMap::new();
    for c in &mine {
        let uids = c.victims.iter().map(|v| v.uid.to_string()).collect();
        nodes.insert(core.state.node(c.node).name.to_string(), Victims { uids, violations: c.violations });
        victims.extend(c.victims.iter().map(|v| (v.uid.to_string(), v.clone())));
    }
    let asked = MutexGuard::unlocked(core, || {
        objects.runtime.block_on(agree(extenders, objects, pod, &whole, nodes, &victims))
    });
    match asked {
        Ok(nodes) => choose(failure, nodes.iter().filter_map(|(n, v)| candidate(core, n, v)).collect(), &counts),
        Err(text) => Outcome::Nothing(text),
    }
}

async fn agree(
    extenders: &Extenders,
    objects: &Objects,
    pod: &PodInfo,
    whole: &Value,
    mut nodes: BTreeMap<String, Victims>,
    victims: &HashMap<String, Arc<PodInfo>>,
) -> Result<BTreeMap<String, Victims>, String> {
    let find = |uid: &str| victims.get(uid).and_then(|v| objects.pod(v));
    let find: &wire::Find<'_> = &find;
    for e in extenders.interested(pod) {
        let Some(verb) = e.config.preempt.as_deref().filter(|_| !nodes.is_empty()) else { continue };
        let question = wire::preemption(whole, &nodes, (!e.config.knows_nodes).then_some(find));
        match e.preempt(verb, &question).await {
            Ok(left) => nodes = left,
            Err(error) if e.config.ignorable => tracing::warn!(%error, "passed over"),
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(nodes)
}

/// A candidate of an extender, with the pods that it names as they are on the node now.
fn candidate(core: &Core, name: &str, victims: &Victims) -> Option<Candidate> {
    let node = core.state.find(name)?;
    let pods = &core.state.node(node).pods;
    let found: Option<Vec<_>> = victims.uids.iter().map(|uid| pods.iter().find(|p| *p.uid == **uid).cloned()).collect();
    Some(Candidate { node, victims: found.filter(|v| !v.is_empty())?, violations: victims.violations })
}
