//! The desired table: what all Services together claim, and what a change of some of them adds and removes.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use super::base::{self, Layout};
use super::compile::{Frontend, HealthCheck, Plan, Program};
use super::endpoints::Target;
use super::shape::Picker;
use crate::netlink::nft::{Chain, Element, Set};
use crate::policy::{self, plan::Plan as PolicyPlan};

/// Elements by the name of their set.
pub type Elements = BTreeMap<Cow<'static, str>, Vec<Element>>;

/// Who claims frontends, in the order of precedence: the older Service keeps a frontend that two claim.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Claimant {
    /// Creation, in seconds of Unix time.
    pub created: i64,
    /// `namespace/name`.
    pub name: String,
}

/// What a change does to the table, applied as one transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Sets to create (those of network policies come and go).
    pub new_sets: Vec<Set>,
    /// Chains to create.
    pub new_chains: Vec<Chain>,
    /// Elements to delete, by set.
    pub delete: Elements,
    /// Elements to add, by set.
    pub add: Elements,
    /// Chains that nothing leads to any more.
    pub dead_chains: Vec<String>,
    /// Sets that no chain uses any more.
    pub dead_sets: Vec<String>,
    /// UDP frontends that lost an endpoint or got their first, with the endpoints they have now.
    pub udp: BTreeMap<Frontend, BTreeSet<Target>>,
}

impl Change {
    /// Whether there is nothing to send to the kernel.
    pub fn is_empty(&self) -> bool {
        self.new_chains.is_empty() && self.delete.is_empty() && self.add.is_empty() && self.dead_chains.is_empty()
    }
}

/// All claims.
pub struct Desired {
    layout: Layout,
    programs: HashMap<String, (Claimant, Program)>,
    claims: HashMap<Frontend, BTreeSet<Claimant>>,
    pickers: HashMap<Picker, usize>,
    policies: PolicyPlan,
}

impl Desired {
    /// No claims.
    pub fn new(layout: Layout) -> Self {
        Self {
            layout,
            programs: HashMap::new(),
            claims: HashMap::new(),
            pickers: HashMap::new(),
            policies: PolicyPlan::default(),
        }
    }

    /// The layout of the fixed part.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Takes new programs of Services (`None` when one is gone) and says what that changes.
    pub fn update(&mut self, changed: impl IntoIterator<Item = (Claimant, Option<Program>)>) -> Change {
        let mut before: BTreeMap<Frontend, Option<Plan>> = BTreeMap::new();
        for (claimant, program) in changed {
            let name = claimant.name.clone();
            let old = self.programs.remove(&name);
            let touched: BTreeSet<Frontend> = old
                .iter()
                .flat_map(|(_, p)| p.frontends.keys())
                .chain(program.iter().flat_map(|p| p.frontends.keys()))
                .copied()
                .collect();
            // The plans in force are read before the first change of their frontend.
            if let Some(old) = old {
                self.programs.insert(name.clone(), old);
            }
            for frontend in touched {
                before.entry(frontend).or_insert_with(|| self.in_force(&frontend).cloned());
            }
            self.replace(name, claimant, program);
        }
        self.compare(before)
    }

    fn replace(&mut self, name: String, claimant: Claimant, program: Option<Program>) {
        if let Some((old_claimant, old)) = self.programs.remove(&name) {
            for frontend in old.frontends.keys() {
                if let Some(claimants) = self.claims.get_mut(frontend) {
                    claimants.remove(&old_claimant);
                    if claimants.is_empty() {
                        self.claims.remove(frontend);
                    }
                }
            }
        }
        if let Some(program) = program {
            for frontend in program.frontends.keys() {
                let claimants = self.claims.entry(*frontend).or_default();
                claimants.insert(claimant.clone());
            }
            self.programs.insert(name, (claimant, program));
        }
    }

    /// The plan of the claimant that has the frontend.
    fn in_force(&self, frontend: &Frontend) -> Option<&Plan> {
        let winner = self.claims.get(frontend)?.first()?;
        let (_, program) = self.programs.get(&winner.name)?;
        program.frontends.get(frontend)
    }

    fn compare(&mut self, before: BTreeMap<Frontend, Option<Plan>>) -> Change {
        let mut change = Change::default();
        let mut deltas: BTreeMap<Picker, isize> = BTreeMap::new();
        for (frontend, old) in before {
            let new = self.in_force(&frontend);
            if old.as_ref() == new {
                continue;
            }
            let none = Plan::default();
            let (old, new) = (old.as_ref().unwrap_or(&none), new.unwrap_or(&none));
            rows(&mut change, old, new);
            for picker in &old.pickers {
                *deltas.entry(picker.clone()).or_default() -= 1;
            }
            for picker in &new.pickers {
                *deltas.entry(picker.clone()).or_default() += 1;
            }
            if let Some(now) = stale(old, new) {
                change.udp.insert(frontend, now);
            }
        }
        for (picker, delta) in deltas {
            let count = self.pickers.get(&picker).copied().unwrap_or_default();
            let now = count.saturating_add_signed(delta);
            if count == 0 && now > 0 {
                change.new_chains.push(picker.chain(&self.layout));
            } else if count > 0 && now == 0 {
                change.dead_chains.push(picker.name());
            }
            if now == 0 {
                self.pickers.remove(&picker);
            } else {
                self.pickers.insert(picker, now);
            }
        }
        change
    }

    /// Takes newly compiled network policies and puts what that changes into `change`.
    pub fn set_policies(&mut self, new: PolicyPlan, change: &mut Change) {
        let old = std::mem::replace(&mut self.policies, new);
        policies(&old, &self.policies, change);
    }

    /// The change from an empty table to everything.
    pub fn whole(&self) -> Change {
        let mut change = Change::default();
        let mut pickers: Vec<_> = self.pickers.keys().collect();
        pickers.sort();
        change.new_chains = pickers.iter().map(|p| p.chain(&self.layout)).collect();
        for frontend in self.claims.keys() {
            if let Some(plan) = self.in_force(frontend) {
                rows(&mut change, &Plan::default(), plan);
                if let Some(endpoints) = plan.udp.clone() {
                    change.udp.insert(*frontend, endpoints);
                }
            }
        }
        policies(&PolicyPlan::default(), &self.policies, &mut change);
        for elements in change.add.values_mut() {
            elements.sort();
        }
        change
    }

    /// The health checks to answer: port, Service and local endpoints.
    pub fn health(&self) -> BTreeMap<u16, (String, HealthCheck)> {
        let mut out = BTreeMap::new();
        let mut programs: Vec<_> = self.programs.values().collect();
        programs.sort_by(|a, b| a.0.cmp(&b.0));
        for (claimant, program) in programs {
            if let Some(check) = &program.health {
                out.entry(check.port).or_insert_with(|| (claimant.name.clone(), check.clone()));
            }
        }
        out
    }
}

/// Puts the difference of two sorted lists of rows into the change.
fn rows(change: &mut Change, old: &Plan, new: &Plan) {
    let (mut a, mut b) = (old.rows.iter().peekable(), new.rows.iter().peekable());
    loop {
        match (a.peek(), b.peek()) {
            (Some(x), Some(y)) if x == y => {
                a.next();
                b.next();
            }
            (Some(x), y) if y.is_none_or(|y| *x < y) => {
                change.delete.entry(x.0.into()).or_default().push(x.1.clone());
                a.next();
            }
            (_, Some(y)) => {
                change.add.entry(y.0.into()).or_default().push(y.1.clone());
                b.next();
            }
            _ => return,
        }
    }
}

/// The difference of two compiled sets of network policies.
fn policies(old: &PolicyPlan, new: &PolicyPlan, change: &mut Change) {
    let empty = BTreeSet::new();
    for name in new.sets.keys().filter(|n| !old.sets.contains_key(*n)) {
        change.new_sets.push(policy::plan::set(name));
    }
    let lists = |plan: &PolicyPlan| -> BTreeMap<Cow<'static, str>, BTreeSet<Element>> {
        let sets = plan.sets.iter().map(|(k, v)| (k.clone().into(), v.clone()));
        let maps = plan.isolated.iter().map(|(k, v)| ((*k).into(), v.clone()));
        sets.chain(maps).collect()
    };
    let (before, after) = (lists(old), lists(new));
    for (name, elements) in &before {
        let dead = !after.contains_key(name) && !new.isolated.contains_key(name.as_ref());
        // A set that goes takes its elements with it.
        if dead && old.sets.contains_key(name.as_ref()) {
            change.dead_sets.push(name.to_string());
            continue;
        }
        let now = after.get(name).unwrap_or(&empty);
        let gone: Vec<_> = elements.difference(now).cloned().collect();
        if !gone.is_empty() {
            change.delete.entry(name.clone()).or_default().extend(gone);
        }
    }
    for (name, elements) in &after {
        let then = before.get(name).unwrap_or(&empty);
        let fresh: Vec<_> = elements.difference(then).cloned().collect();
        if !fresh.is_empty() {
            change.add.entry(name.clone()).or_default().extend(fresh);
        }
    }
    // A chain's name is a digest of its sets: one of the same name is the same.
    for (name, (direction, sets)) in &new.chains {
        if !old.chains.contains_key(name) {
            let chain = base::policy_chain(name, *direction, sets);
            change.new_chains.push(chain);
        }
    }
    let dead = old.chains.keys().filter(|n| !new.chains.contains_key(*n));
    change.dead_chains.extend(dead.cloned());
}

/// A UDP frontend whose tracked connections may lead astray: the endpoints it has now.
fn stale(old: &Plan, new: &Plan) -> Option<BTreeSet<Target>> {
    let empty = BTreeSet::new();
    if old.udp.is_none() && new.udp.is_none() {
        return None;
    }
    let before = old.udp.as_ref().unwrap_or(&empty);
    let now = new.udp.as_ref().unwrap_or(&empty);
    let lost = before.iter().any(|target| !now.contains(target));
    let first = before.is_empty() && !now.is_empty();
    (lost || first).then(|| now.clone())
}

impl fmt::Display for Desired {
    /// The whole table as text, for tests and for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for set in base::sets() {
            writeln!(f, "{set}")?;
        }
        for chain in base::chains(&self.layout) {
            write_chain(f, &chain)?;
        }
        write!(f, "{}", self.whole())
    }
}

fn write_chain(f: &mut fmt::Formatter<'_>, chain: &Chain) -> fmt::Result {
    write!(f, "chain {}", chain.name)?;
    if let Some(hook) = &chain.hook {
        write!(f, " {} {:?} {}", hook.kind, hook.point, hook.priority)?;
    }
    writeln!(f)?;
    for rule in &chain.rules {
        let parts: Vec<_> = rule.iter().map(ToString::to_string).collect();
        writeln!(f, "  {}", parts.join("; "))?;
    }
    Ok(())
}

impl fmt::Display for Change {
    /// Chains, then `-` and `+` rows, then `!` UDP frontends.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for set in &self.new_sets {
            writeln!(f, "{set}")?;
        }
        for chain in &self.new_chains {
            write_chain(f, chain)?;
        }
        for (sign, list) in [("-", &self.delete), ("+", &self.add)] {
            for (set, elements) in list {
                for element in elements {
                    writeln!(f, "{sign} {set} {}", text::element(set, element))?;
                }
            }
        }
        for chain in &self.dead_chains {
            writeln!(f, "- chain {chain}")?;
        }
        for set in &self.dead_sets {
            writeln!(f, "- set {set}")?;
        }
        for (frontend, targets) in &self.udp {
            writeln!(f, "! {frontend:?} {targets:?}")?;
        }
        Ok(())
    }
}

/// Elements as text.
mod text {
    use crate::netlink::nft::{Carries, Data, Element, Field};

    fn fields(kinds: &[Field], bytes: &[u8]) -> String {
        let mut rest = bytes;
        let mut out = Vec::new();
        for kind in kinds {
            let width = (kind.width() as usize).next_multiple_of(4);
            let (head, tail) = rest.split_at(width.min(rest.len()));
            rest = tail;
            let number = |n: &[u8]| n.iter().fold(0u64, |v, b| v << 8 | u64::from(*b));
            out.push(match (kind, head) {
                (Field::Ipv4, [a, b, c, d]) => format!("{a}.{b}.{c}.{d}"),
                (Field::Protocol, [6, ..]) => "tcp".to_owned(),
                (Field::Protocol, [17, ..]) => "udp".to_owned(),
                (Field::Protocol, [132, ..]) => "sctp".to_owned(),
                (Field::Port, [high, low, ..]) => number(&[*high, *low]).to_string(),
                (Field::Mark, [a, b, c, d]) => {
                    format!("{:#x}", u32::from_ne_bytes([*a, *b, *c, *d]))
                }
                (_, other) => format!("{:#x}", number(other)),
            });
        }
        out.join(" . ")
    }

    pub fn element(set: &str, element: &Element) -> String {
        let mut sets = super::base::sets();
        let set = match sets.iter().position(|s| s.name == set) {
            Some(position) => sets.swap_remove(position),
            None => crate::policy::plan::set(set),
        };
        let mut out = fields(&set.key, &element.key);
        if let Some(end) = &element.key_end {
            out = format!("{out} to {}", fields(&set.key, end));
        }
        match (&element.data, &set.carries) {
            (Data::Verdict(verdict), _) => format!("{out} : {verdict}"),
            (Data::Value(value), Carries::Values(kinds)) => {
                format!("{out} : {}", fields(kinds, value))
            }
            _ => out,
        }
    }
}
