//! DynamicResources: the claims of a pod must be there, be usable from the node, and get the devices that they ask for.

use std::cell::RefCell;
use std::sync::Arc;

use k8s_openapi::api::resource::v1 as resource;

use super::{Plugin, Reject};
use crate::devices::claim::{Allocation, Claim, Class, Compiled};
use crate::devices::extended::{Special, Variant};
use crate::devices::pools::Pools;
use crate::devices::result;
use crate::devices::search::{Pick, Picks, Problem, Wanted, search};
use crate::devices::state::Devices;
use crate::devices::{MAX_RESERVED, claim};
use crate::model::{NodeInfo, NodeRule, PodInfo};
use crate::state::{NodeId, State};

/// Detail of a rejection: the node does not have the devices.
pub const NO_DEVICES: u32 = 0;
/// Detail of a rejection: the node cannot use devices that a claim has already, or these will not be ready.
pub const ELSEWHERE: u32 = 1;
/// Detail of a rejection: an earlier attempt left a claim for the pod's extended resources behind, which is to go first.
pub const STALE: u32 = 2;

/// Most alternatives of one request (`FirstAvailableDeviceRequestMaxSize`).
const MAX_ALTERNATIVES: i64 = 8;

/// What a pod's claims demand, ready for filtering.
#[derive(Debug, Default)]
pub struct Prepared {
    /// All claims of the pod.
    claims: Vec<Arc<Claim>>,
    /// Which nodes can use what claims have already.
    nodes: Vec<NodeRule>,
    /// The claims that are to be given devices.
    wanted: Vec<Wanted>,
    /// Extended resources that devices may stand in for.
    special: Option<Special>,
    /// The devices of a claim will not be ready.
    lost: bool,
    /// There is a claim for extended resources from an earlier attempt.
    stale: bool,
    pools: Option<Arc<Pools>>,
    /// What turned out to be wrong with a claim while a node was looked at: no other node will do, either.
    broken: RefCell<Option<String>>,
}

/// What is to be written about a claim before its pod is bound.
#[derive(Clone, Debug)]
pub struct Booking {
    /// The claim as it was decided on.
    pub claim: Arc<Claim>,
    /// The devices it is given; `None` when it has them already and only is to be reserved for the pod.
    pub allocation: Option<(Arc<Allocation>, Box<resource::AllocationResult>)>,
    /// The claim is to be made first, for extended resources.
    pub special: Option<Arc<Variant>>,
}

impl Prepared {
    /// Whether the pod has no claims, and nothing that devices may stand in for.
    pub fn is_empty(&self) -> bool {
        self.claims.is_empty() && self.special.is_none() && !self.stale
    }

    /// What is to be allocated on a node: all claims that have no devices yet, and the one for extended resources that the node lacks.
    fn on(&self, node: &NodeInfo) -> Option<Arc<Variant>> {
        self.special.as_ref().and_then(|special| special.on(node, &self.wanted))
    }

    /// Whether some request has alternatives, of which the earlier ones are liked better.
    pub fn prefers(&self) -> bool {
        self.wanted.iter().flat_map(|w| &w.requests).any(|alternatives| alternatives.len() > 1)
    }

    /// What was found to be wrong, if anything.
    pub fn broken(&self) -> Option<String> {
        self.broken.borrow().clone()
    }
}

/// Looks at a pod's claims; an error is a reason that no node can mend.
///
/// # Errors
/// Which claim or class is missing, or is not to be had now.
pub fn prepare(devices: &mut Devices, pod: &PodInfo) -> Result<Prepared, String> {
    if pod.devices.is_empty() && (pod.extended.is_empty() || !devices.backs(pod)) {
        return Ok(Prepared::default());
    }
    let claims = devices.of_pod(pod)?;
    let mut out = Prepared { pools: Some(devices.pools()), ..Prepared::default() };
    for claim in &claims {
        if let Some(allocation) = &claim.allocation {
            if !claim.takes(pod) {
                return Err(format!("resourceclaim \"{}\" is used by {MAX_RESERVED} pods already", claim.key.name));
            }
            out.nodes.extend(allocation.nodes.clone());
            out.lost |= devices.is_lost(claim);
            continue;
        }
        if devices.is_pending(&claim.key) {
            return Err(format!("resource claim {} is in the process of being allocated", claim.key));
        }
        out.wanted.push(wanted(devices, claim)?);
    }
    out.claims = claims;
    if devices.backs(pod) {
        out.stale = devices.special_of(pod).is_some();
        out.special = Special::new(pod, |resource| backed(devices, resource));
    }
    Ok(out)
}

/// The class that stands in for an extended resource, with its selectors.
fn backed(devices: &mut Devices, resource: &str) -> Option<(Arc<str>, Arc<Class>, Vec<Compiled>)> {
    let name = devices.class_for(resource)?.clone();
    let class = devices.class(&name)?.clone();
    let selectors = of_class(&name, &class).map(|(text, origin)| devices.compiled(text, origin)).collect();
    Some((name, class, selectors))
}

fn wanted(devices: &mut Devices, claim: &Arc<Claim>) -> Result<Wanted, String> {
    let mut requests = Vec::with_capacity(claim.wants.requests.len());
    for alternatives in &claim.wants.requests {
        let mut all = Vec::with_capacity(alternatives.len());
        for request in alternatives {
            let Some(class) = devices.class(&request.class).cloned() else {
                return Err(format!("request {}: device class {} does not exist", request.name, request.class));
            };
            let selectors = selectors(devices, claim, request, &class);
            all.push((class, selectors));
        }
        requests.push(all);
    }
    Ok(Wanted { claim: claim.clone(), requests })
}

fn of_class<'a>(name: &str, class: &'a Class) -> impl Iterator<Item = (&'a Arc<str>, String)> {
    let all = class.selectors.iter().enumerate();
    all.map(move |(i, text)| (text, format!("class {name}: selector #{i}")))
}

fn selectors(devices: &mut Devices, claim: &Claim, request: &claim::Request, class: &Class) -> Vec<Compiled> {
    let own = request.selectors.iter().enumerate();
    let own = own.map(|(i, text)| (text, format!("claim {}: selector #{i}", claim.key)));
    let all: Vec<_> = of_class(&request.class, class).chain(own).collect();
    all.into_iter().map(|(text, origin)| devices.compiled(text, origin)).collect()
}

fn problem<'a>(state: &'a State, prepared: &'a Prepared, claims: &'a [Wanted], node: &'a NodeInfo) -> Problem<'a> {
    let pools = prepared.pools.as_ref().map(|p| p.of(node)).unwrap_or_default();
    Problem { node, pools, claims, usage: state.devices.usage() }
}

/// Whether the pod's claims can be met on the node.
pub fn filter(state: &State, prepared: &Prepared, node: &NodeInfo) -> Result<(), Reject> {
    if prepared.is_empty() {
        return Ok(());
    }
    // Devices are given back long after their pod: that others go does not help at once.
    let reject = |detail| Err(Reject::hopeless(Plugin::DynamicResources, detail));
    if prepared.stale {
        return reject(STALE);
    }
    if prepared.lost || !prepared.nodes.iter().all(|rule| rule.matches(node)) {
        return reject(ELSEWHERE);
    }
    let special = prepared.on(node);
    let claims = special.as_ref().map_or(&prepared.wanted, |s| &s.claims);
    if claims.is_empty() {
        return Ok(());
    }
    if prepared.broken.borrow().is_some() {
        return reject(NO_DEVICES);
    }
    match search(&problem(state, prepared, claims, node)) {
        Ok(Some(_)) => Ok(()),
        Ok(None) => reject(NO_DEVICES),
        Err(text) => {
            prepared.broken.replace(Some(text));
            reject(NO_DEVICES)
        }
    }
}

/// How much the devices are liked that the pod would get on a node: of each request with alternatives, the earlier the more (KEP-4816).
pub fn score(state: &State, prepared: &Prepared, node: &NodeInfo) -> i64 {
    let special = prepared.on(node);
    let claims = special.as_ref().map_or(&prepared.wanted, |s| &s.claims);
    let problem = problem(state, prepared, claims, node);
    let picks = search(&problem).ok().flatten().unwrap_or_default();
    let of_claim = |(wanted, picks): (&Wanted, &Vec<Pick<'_>>)| -> i64 {
        let several = wanted.claim.wants.requests.iter().filter(|all| all.iter().any(|a| a.main() != &*a.name));
        let place = |all: &Vec<claim::Request>| all.iter().position(|a| picks.iter().any(|p| p.request.name == a.name));
        several.filter_map(place).map(|i| MAX_ALTERNATIVES - i as i64).sum()
    };
    claims.iter().zip(&picks).map(of_claim).sum()
}

/// What is to be written when the pod goes to a node that passed the filter.
pub fn bookings(state: &State, prepared: &Prepared, node: &NodeInfo) -> Vec<Booking> {
    if prepared.is_empty() {
        return Vec::new();
    }
    let special = prepared.on(node);
    let claims = special.as_ref().map_or(&prepared.wanted, |s| &s.claims);
    let problem = problem(state, prepared, claims, node);
    let picks: Picks<'_> =
        if claims.is_empty() { Vec::new() } else { search(&problem).ok().flatten().unwrap_or_default() };
    let given = claims.iter().zip(&picks).map(|(wanted, picks)| {
        let (own, written) = result::allocation(wanted, picks, node);
        (wanted.claim.key.clone(), (Arc::new(own), Box::new(written)))
    });
    let mut given: Vec<_> = given.collect();
    let mut booking = |claim: &Arc<Claim>| {
        let at = given.iter().position(|(key, _)| *key == claim.key);
        Booking { claim: claim.clone(), allocation: at.map(|i| given.swap_remove(i).1), special: None }
    };
    let mut all: Vec<Booking> = prepared.claims.iter().map(&mut booking).collect();
    if let Some((wanted, special)) = special.as_ref().and_then(|s| Some((s.claims.last()?, s))) {
        all.push(Booking { special: Some(special.clone()), ..booking(&wanted.claim) });
    }
    all
}

/// A claim that keeps the pod from nodes on which it would fit, and that nobody else uses: it gives its devices back, so that others
/// may be found (PostFilter).
pub fn to_release(state: &State, pod: &PodInfo, rejects: &[(NodeId, Reject)]) -> Option<Arc<Claim>> {
    let elsewhere = |(_, r): &&(NodeId, Reject)| r.plugin == Plugin::DynamicResources && r.detail == ELSEWHERE;
    let nodes: Vec<NodeId> = rejects.iter().filter(elsewhere).map(|(id, _)| *id).collect();
    if pod.devices.is_empty() || nodes.is_empty() {
        return None;
    }
    let lost = |claim: &Arc<Claim>| state.devices.is_lost(claim);
    let keeps_away = |claim: &Arc<Claim>| {
        let rule = claim.allocation.as_ref().and_then(|a| a.nodes.as_ref());
        rule.is_some_and(|rule| nodes.iter().any(|id| !rule.matches(state.node(*id))))
    };
    let only_its_own = |claim: &Arc<Claim>| claim.reserved.iter().all(|uid| *uid == pod.uid);
    state.devices.of_pod(pod).ok()?.into_iter().find(|c| (lost(c) || keeps_away(c)) && only_its_own(c))
}

/// The claim that an earlier attempt left behind for the pod's extended resources: it is in the way of another (PostFilter).
pub fn to_remove(state: &State, pod: &PodInfo) -> Option<Arc<Claim>> {
    if pod.extended.is_empty() {
        return None;
    }
    state.devices.special_of(pod).cloned()
}

#[cfg(test)]
#[path = "devices_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "devices_special_tests.rs"]
mod special_tests;
