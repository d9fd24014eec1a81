//! NodeResourcesFit: is there room, and how full would the node be.

use std::sync::Arc;

use super::{MAX_SCORE, Plugin, Reject};
use crate::config::Rules;
use crate::devices::state::Devices;
use crate::model::{NodeInfo, PodInfo};

const PODS: u32 = 1;
const CPU: u32 = 2;
const MEMORY: u32 = 4;
const EPHEMERAL: u32 = 8;
const FIRST_SCALAR: u32 = 16;

/// Whether the pod fits, as things are.
#[inline]
pub fn filter(pod: &PodInfo, node: &NodeInfo) -> Result<(), Reject> {
    weigh(pod, node, |_, _| false)
}

/// The same without the resources that are passed over, by name and by how much the node has of them in all.
#[inline]
fn weigh(pod: &PodInfo, node: &NodeInfo, passed_over: impl Fn(&str, i64) -> bool) -> Result<(), Reject> {
    let (asked, has, used) = (&pod.requests, &node.allocatable, &node.requested);
    let mut short = 0;
    let mut never = false;
    if node.pods.len() as i64 + 1 > node.max_pods {
        short |= PODS;
    }
    if asked.cpu > 0 && asked.cpu > has.cpu - used.cpu {
        short |= CPU;
        never |= asked.cpu > has.cpu;
    }
    if asked.memory > 0 && asked.memory > has.memory - used.memory {
        short |= MEMORY;
        never |= asked.memory > has.memory;
    }
    if asked.ephemeral > 0 && asked.ephemeral > has.ephemeral - used.ephemeral {
        short |= EPHEMERAL;
        never |= asked.ephemeral > has.ephemeral;
    }
    for (i, (name, amount)) in asked.scalar.iter().enumerate().filter(|(_, (_, amount))| *amount > 0) {
        let all = has.get_scalar(name);
        if *amount > all - used.get_scalar(name) && !passed_over(name, all) {
            short |= FIRST_SCALAR << i.min(26);
            never |= *amount > all;
        }
    }
    if short == 0 {
        return Ok(());
    }
    Err(Reject { plugin: Plugin::NodeResourcesFit, detail: short, hopeless: never })
}

/// A rejection anew, without the resources that the profile ignores, and without those that the node does not have and that devices
/// stand in for: whether there are any is another plug-in's concern.
///
/// # Errors
/// The rejection for what is left.
#[cold]
pub fn overlook(
    reject: Reject,
    rules: &Rules,
    devices: &Devices,
    pod: &PodInfo,
    node: &NodeInfo,
) -> Result<(), Reject> {
    let backed = !pod.extended.is_empty() && !rules.off.contains(Plugin::DynamicResources);
    if rules.ignored.is_empty() && rules.ignored_groups.is_empty() && !backed {
        return Err(reject);
    }
    weigh(pod, node, |name, all| rules.ignores(name) || backed && all == 0 && devices.class_for(name).is_some())
}

/// The reasons behind a rejection's detail.
pub fn reasons(pod: &PodInfo, detail: u32) -> Vec<String> {
    let mut out = Vec::new();
    for (bit, text) in [
        (PODS, "Too many pods"),
        (CPU, "Insufficient cpu"),
        (MEMORY, "Insufficient memory"),
        (EPHEMERAL, "Insufficient ephemeral-storage"),
    ] {
        if detail & bit != 0 {
            out.push(text.to_owned());
        }
    }
    for (i, (name, _)) in pod.requests.scalar.iter().enumerate() {
        if detail & (FIRST_SCALAR << i.min(26)) != 0 {
            out.push(format!("Insufficient {name}"));
        }
    }
    out
}

/// How full nodes are liked.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Strategy {
    /// The emptier the better.
    #[default]
    LeastAllocated,
    /// The fuller the better.
    MostAllocated,
    /// By a curve: points of utilization (percent) and score (0 to 10), in order of utilization.
    RequestedToCapacityRatio(Vec<(i64, i64)>),
}

/// NodeResourcesFit's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scoring {
    /// The strategy.
    pub strategy: Strategy,
    /// Resources with weights.
    pub resources: Vec<(Arc<str>, i64)>,
}

impl Default for Scoring {
    fn default() -> Self {
        Self { strategy: Strategy::default(), resources: vec![("cpu".into(), 1), ("memory".into(), 1)] }
    }
}

/// What would be used of a resource with the pod on the node, and how much there is.
fn use_of(resource: &str, pod: &PodInfo, node: &NodeInfo) -> (i64, i64) {
    match resource {
        "cpu" => (node.nonzero.0 + pod.nonzero.0, node.allocatable.cpu),
        "memory" => (node.nonzero.1 + pod.nonzero.1, node.allocatable.memory),
        other => (node.requested.get(other) + pod.requests.get(other), node.allocatable.get(other)),
    }
}

/// The score of a node.
pub fn score(scoring: &Scoring, pod: &PodInfo, node: &NodeInfo) -> i64 {
    let mut sum = 0;
    let mut weights = 0;
    for (resource, weight) in &scoring.resources {
        let (used, all) = use_of(resource, pod, node);
        if all == 0 {
            continue;
        }
        sum += weight * score_one(&scoring.strategy, used, all);
        weights += weight;
    }
    if weights == 0 { 0 } else { sum / weights }
}

fn score_one(strategy: &Strategy, used: i64, all: i64) -> i64 {
    match strategy {
        Strategy::LeastAllocated if used > all => 0,
        Strategy::LeastAllocated => part(all - used, all),
        Strategy::MostAllocated => part(used.min(all), all),
        Strategy::RequestedToCapacityRatio(shape) => {
            let utilization = if used > all { 100 } else { part(used, all) };
            curve(shape, utilization) * (MAX_SCORE / 10)
        }
    }
}

fn part(of: i64, all: i64) -> i64 {
    // In 128 bits: bytes times a hundred may not fit.
    (i128::from(of) * i128::from(MAX_SCORE) / i128::from(all)) as i64
}

fn curve(shape: &[(i64, i64)], x: i64) -> i64 {
    let mut before: Option<(i64, i64)> = None;
    for &(at, score) in shape {
        if x <= at {
            return match before {
                Some((x0, y0)) if at > x0 => y0 + (score - y0) * (x - x0) / (at - x0),
                _ => score,
            };
        }
        before = Some((at, score));
    }
    before.map_or(0, |(_, score)| score)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{node, pod};

    #[test]
    fn rooms() {
        let mut full = node("n").cpu(1000).memory(1 << 30).pods(2).scalar("x.io/gpu", 1).info();
        full.add(pod("used").cpu(600).memory(1 << 29).info());
        for (wants, reasons_wanted, hopeless) in [
            (pod("a").cpu(400).memory(1 << 29), vec![], false),
            (pod("a").cpu(401), vec!["Insufficient cpu"], false),
            (pod("a").cpu(1001), vec!["Insufficient cpu"], true),
            (pod("a").cpu(500).memory(1 << 30), vec!["Insufficient cpu", "Insufficient memory"], false),
            (pod("a").scalar("x.io/gpu", 1), vec![], false),
            (pod("a").scalar("x.io/gpu", 2), vec!["Insufficient x.io/gpu"], true),
            (pod("a").scalar("x.io/none", 1), vec!["Insufficient x.io/none"], true),
            (pod("a"), vec![], false),
        ] {
            let pod = wants.info();
            let got = filter(&pod, &full);
            let text = got.err().map(|r| reasons(&pod, r.detail)).unwrap_or_default();
            assert_eq!(text, reasons_wanted);
            assert_eq!(got.err().is_some_and(|r| r.hopeless), hopeless);
        }
        full.add(pod("second").info());
        let third = filter(&pod("a").info(), &full).err();
        assert_eq!(third.map(|r| reasons(&pod("a").info(), r.detail)), Some(vec!["Too many pods".to_owned()]));
    }

    #[test]
    fn scores() {
        let mut half = node("n").cpu(1000).memory(1000 << 20).info();
        half.add(pod("used").cpu(250).memory(250 << 20).info());
        let wants = pod("a").cpu(250).memory(250 << 20).info();
        let of = |strategy| score(&Scoring { strategy, ..Scoring::default() }, &wants, &half);
        assert_eq!(of(Strategy::LeastAllocated), 50);
        assert_eq!(of(Strategy::MostAllocated), 50);
        assert_eq!(of(Strategy::RequestedToCapacityRatio(vec![(0, 0), (100, 10)])), 50);
        assert_eq!(of(Strategy::RequestedToCapacityRatio(vec![(0, 10), (50, 2), (100, 0)])), 20);
        let greedy = pod("a").cpu(5000).info();
        assert_eq!(score(&Scoring::default(), &greedy, &half), (1000 - 450) * 100 / 1000 / 2);
    }
}
