//! The allocator: finds devices for all claims of a pod on one node.
//!
//! The search is exhaustive and takes the first solution: claim by claim, request by request, device by device, in the order of pools and
//! slices, going back where it cannot go on. Devices of one request are tried in that order only, so that no set is tried twice. It gives
//! up after [`STEPS`], since the number of sets can be beyond all bounds.

use std::collections::HashMap;
use std::sync::Arc;

use super::capacity::{self, Amounts};
use super::claim::{Claim, Class, Compiled, Mode, Request};
use super::pools::Pool;
use super::slice::Device;
use super::usage::Usage;
use super::{DeviceId, MAX_RESULTS};
use crate::model::NodeInfo;
use caravel_api::quantity::Quantity;
use caravel_cel::device as cel;

/// So many devices are looked at for one node before the search gives up.
const STEPS: u32 = 200_000;

/// A claim to allocate, with all that its requests refer to.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The claim.
    pub claim: Arc<Claim>,
    /// The class and the selectors (the class's first) of each alternative of each request.
    pub requests: Vec<Vec<(Arc<Class>, Vec<Compiled>)>>,
}

/// What the search is given.
#[derive(Debug)]
pub struct Problem<'a> {
    /// The node.
    pub node: &'a NodeInfo,
    /// The pools that it reaches.
    pub pools: Vec<&'a Pool>,
    /// The claims of one pod.
    pub claims: &'a [Wanted],
    /// What is taken.
    pub usage: &'a Usage,
}

/// A device for a request.
#[derive(Clone, Debug)]
pub struct Pick<'a> {
    /// The request, or its alternative.
    pub request: &'a Request,
    /// The device.
    pub device: &'a Device,
    /// How much of it, when it is shared.
    pub share: Option<Amounts>,
}

/// The picks of each claim.
pub type Picks<'a> = Vec<Vec<Pick<'a>>>;

enum Stop {
    /// More devices than a claim may have: fewer of them might do.
    TooMany,
    /// Something is wrong with the claim or its class: no node can mend that.
    Broken(String),
}

type Step = Result<bool, Stop>;

/// A request by its numbers: claim, request, alternative.
type At = (usize, usize, usize);

/// Counters of a pool by set.
type Counters = HashMap<Arc<str>, HashMap<String, Quantity>>;

struct Search<'a> {
    problem: &'a Problem<'a>,
    /// What the node reaches in usable pools, with the pool's number.
    devices: Vec<(usize, &'a Device)>,
    picks: Picks<'a>,
    matches: HashMap<(At, usize), bool>,
    all: HashMap<At, Arc<[usize]>>,
    /// What is left of each pool's counters before this search.
    counters: Vec<Option<Counters>>,
    left: u32,
}

/// Finds devices; `None` when the node does not have them.
///
/// # Errors
/// What is wrong with a claim or its class, so that no node will do.
pub fn search<'a>(problem: &'a Problem<'a>) -> Result<Option<Picks<'a>>, String> {
    for wanted in problem.claims {
        check(wanted)?;
    }
    let usable = problem.pools.iter().enumerate().filter(|(_, pool)| pool.is_usable());
    let devices = usable
        .flat_map(|(i, pool)| pool.slices.iter().flat_map(|s| &s.devices).map(move |d| (i, d)))
        .filter(|(_, d)| d.place.reaches(problem.node))
        .collect();
    let mut search = Search {
        problem,
        devices,
        picks: vec![Vec::new(); problem.claims.len()],
        matches: HashMap::new(),
        all: HashMap::new(),
        counters: problem.pools.iter().map(|_| None).collect(),
        left: STEPS,
    };
    match search.claim(0) {
        Ok(true) => Ok(Some(search.picks)),
        Ok(false) | Err(Stop::TooMany) => Ok(None),
        Err(Stop::Broken(text)) => Err(text),
    }
}

/// What can be seen to be wrong without looking at devices.
fn check(wanted: &Wanted) -> Result<(), String> {
    let (key, wants) = (&wanted.claim.key, &wanted.claim.wants);
    if let Some(unknown) = &wants.unknown {
        return Err(format!("claim {key}, {unknown}"));
    }
    let least = wants.requests.iter().map(|alternatives| {
        let counts = alternatives.iter().map(|r| if let Mode::Exactly(n) = r.mode { n } else { 0 });
        counts.min().unwrap_or(0)
    });
    let least = least.fold(0, usize::saturating_add);
    if least > MAX_RESULTS {
        return Err(format!(
            "claim {key}: number of requested devices {least} exceeds the claim limit of {MAX_RESULTS}"
        ));
    }
    Ok(())
}

impl<'a> Search<'a> {
    fn request_of(&self, (c, r, a): At) -> &'a Request {
        &self.problem.claims[c].claim.wants.requests[r][a]
    }

    fn claim(&mut self, c: usize) -> Step {
        if c == self.problem.claims.len() { Ok(true) } else { self.request(c, 0) }
    }

    fn request(&mut self, c: usize, r: usize) -> Step {
        let alternatives = match self.problem.claims[c].claim.wants.requests.get(r) {
            Some(alternatives) => alternatives.len(),
            // Other picks for this claim may leave room for fewer devices of a later one.
            None => {
                return match self.claim(c + 1) {
                    Err(Stop::TooMany) => Ok(false),
                    other => other,
                };
            }
        };
        let mut too_many = true;
        for a in 0..alternatives {
            match self.pick((c, r, a), 0, 0) {
                Err(Stop::TooMany) => {}
                Ok(false) => too_many = false,
                other => return other,
            }
        }
        if too_many { Err(Stop::TooMany) } else { Ok(false) }
    }

    /// Picks the `nth` device of a request, among those from number `from` on.
    fn pick(&mut self, at: At, nth: usize, from: usize) -> Step {
        let (c, r, _) = at;
        let request = self.request_of(at);
        let count = match request.mode {
            Mode::Exactly(count) => count,
            Mode::All => {
                let all = self.all(at)?;
                if all.is_empty() {
                    return Ok(false);
                }
                all.len()
            }
        };
        if nth >= count {
            return self.request(c, r + 1);
        }
        if self.picks[c].len().saturating_add(count - nth) > MAX_RESULTS {
            return Err(Stop::TooMany);
        }
        if request.mode == Mode::All {
            // All are needed: in which order does not matter.
            let device = self.all(at)?[nth];
            return if self.take(at, device)? { self.go_on(at, nth, 0) } else { Ok(false) };
        }
        for device in from..self.devices.len() {
            if self.left == 0 {
                return Ok(false);
            }
            self.left -= 1;
            if self.is_free(at, device) && self.selected(at, device)? && self.take(at, device)? {
                match self.go_on(at, nth, device + 1) {
                    Ok(false) => {}
                    other => return other,
                }
            }
        }
        Ok(false)
    }

    /// Picks the rest; gives the last device back when that cannot be done.
    fn go_on(&mut self, at: At, nth: usize, from: usize) -> Step {
        let depth = self.picks[at.0].len();
        let done = self.pick(at, nth + 1, from);
        if !matches!(done, Ok(true)) {
            self.picks[at.0].truncate(depth - 1);
        }
        done
    }

    /// All devices that a request for all of them means. Of a pool that is not whole nobody knows them all.
    fn all(&mut self, at: At) -> Result<Arc<[usize]>, Stop> {
        if let Some(known) = self.all.get(&at) {
            return Ok(known.clone());
        }
        let whole = self.problem.pools.iter().all(|p| p.is_usable());
        let mut found = Vec::new();
        for device in 0..if whole { self.devices.len() } else { 0 } {
            if self.selected(at, device)? {
                found.push(device);
            }
        }
        let found: Arc<[usize]> = found.into();
        self.all.insert(at, found.clone());
        Ok(found)
    }

    fn picked(&self, id: &'a DeviceId) -> impl Iterator<Item = (usize, &Pick<'a>)> {
        let all = self.picks.iter().enumerate().flat_map(|(c, picks)| picks.iter().map(move |p| (c, p)));
        all.filter(move |(_, pick)| pick.device.id == *id)
    }

    /// Whether nobody has the device, as far as the request minds.
    fn is_free(&self, at: At, device: usize) -> bool {
        let (_, device) = self.devices[device];
        let whole = |(_, pick): &(usize, &Pick<'a>)| pick.share.is_none();
        if self.request_of(at).admin {
            return !self.picked(&device.id).filter(whole).any(|(c, _)| c == at.0);
        }
        !self.problem.usage.is_taken(&device.id) && !self.picked(&device.id).any(|one| whole(&one))
    }

    /// Whether the device is of the class and like what the request asks for.
    fn selected(&mut self, at: At, number: usize) -> Result<bool, Stop> {
        if let Some(known) = self.matches.get(&(at, number)) {
            return Ok(*known);
        }
        let (c, r, a) = at;
        let (_, device) = self.devices[number];
        let seen = cel::Device {
            driver: &device.id.driver,
            attributes: &device.attributes,
            capacity: &device.amounts,
            shared: device.shared,
        };
        let mut fits = true;
        for one in &self.problem.claims[c].requests[r][a].1 {
            let origin = &one.origin;
            let selector = match &one.selector {
                Ok(selector) => selector,
                Err(why) => return Err(Stop::Broken(format!("{origin}: CEL compile error: {why}"))),
            };
            fits = selector
                .matches(&seen)
                .map_err(|why| Stop::Broken(format!("{origin} on device {}: CEL runtime error: {why}", device.id)))?;
            if !fits {
                break;
            }
        }
        self.matches.insert((at, number), fits);
        Ok(fits)
    }

    /// Picks a device for a request if it can be had.
    fn take(&mut self, at: At, number: usize) -> Step {
        let request = self.request_of(at);
        let (pool, device) = self.devices[number];
        if !self.is_free(at, number) || !request.tolerates(&device.taints) {
            return Ok(false);
        }
        let Some(share) = self.share(request, device) else { return Ok(false) };
        if !device.consumes.is_empty() && !self.counters_suffice(pool, device) {
            return Ok(false);
        }
        let constraints = &self.problem.claims[at.0].claim.wants.constraints;
        let picked = || self.picks[at.0].iter().map(|p| (&*p.request.name, p.device));
        if !constraints.iter().all(|c| c.admits(picked(), &request.name, device)) {
            return Ok(false);
        }
        self.picks[at.0].push(Pick { request, device, share });
        Ok(true)
    }

    /// How much of a shared device the request takes (`Some(None)` for all of a device that is not shared); `None` when there is not
    /// enough.
    fn share(&self, request: &Request, device: &'a Device) -> Option<Option<Amounts>> {
        let taken = if device.shared {
            capacity::taken(&device.id.driver, &device.capacity, &request.amounts)?
        } else {
            // What is asked for must be there; a policy is for those who share.
            let plain = device.capacity.iter().map(|(name, c)| (name.clone(), c.without_policy())).collect();
            let taken = capacity::taken(&device.id.driver, &plain, &request.amounts)?;
            return capacity::fits(&device.capacity, &[], &taken).then_some(None);
        };
        let mut before = vec![self.problem.usage.amounts(&device.id)];
        before.extend(self.picked(&device.id).map(|(_, pick)| pick.share.as_ref()));
        capacity::fits(&device.capacity, &before, &taken).then_some(Some(taken))
    }

    fn counters_suffice(&mut self, pool: usize, device: &'a Device) -> bool {
        let parts = self.problem.usage.is_used(&device.id) || self.picked(&device.id).next().is_some();
        if device.shared && parts {
            // Its counters were taken with its first part.
            return true;
        }
        let (all, usage) = (self.problem.pools[pool], self.problem.usage);
        let mut left = self.counters[pool].get_or_insert_with(|| available(all, usage)).clone();
        let mut seen: Vec<&DeviceId> = Vec::new();
        for pick in self.picks.iter().flatten() {
            let here = pick.device.id.driver == all.driver && pick.device.id.pool == all.name;
            if here && !seen.contains(&&pick.device.id) && !usage.is_used(&pick.device.id) {
                seen.push(&pick.device.id);
                subtract(&mut left, pick.device);
            }
        }
        subtract(&mut left, device);
        device.consumes.iter().all(|consumption| {
            let Some(set) = left.get(&consumption.set) else { return true };
            consumption.counters.keys().all(|name| set.get(name).is_none_or(|q| !q.is_negative()))
        })
    }
}

fn subtract(left: &mut Counters, device: &Device) {
    for consumption in &device.consumes {
        let Some(set) = left.get_mut(&consumption.set) else { continue };
        for (name, amount) in &consumption.counters {
            if let Some(counter) = set.get_mut(name) {
                *counter = counter.sub(*amount);
            }
        }
    }
}

/// What others left of a pool's counters.
fn available(pool: &Pool, usage: &Usage) -> Counters {
    let sets = pool.slices.iter().flat_map(|s| &s.counters);
    let mut left: Counters =
        sets.map(|(set, counters)| (set.clone(), counters.iter().map(|(n, q)| (n.clone(), *q)).collect())).collect();
    let devices = pool.slices.iter().flat_map(|s| &s.devices);
    devices.filter(|d| usage.is_used(&d.id)).for_each(|d| subtract(&mut left, d));
    left
}
