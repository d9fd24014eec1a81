//! The scenarios of upstream's scheduler_perf.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use caravel_scheduler::testing::node;
use serde_json::json;

use crate::cluster::{Bench, Figures, Template, nodes, pods};

const ZONE: &str = "topology.kubernetes.io/zone";
const HOST: &str = "kubernetes.io/hostname";

/// One scenario at one size.
pub struct Scenario {
    pub name: &'static str,
    pub nodes: usize,
    /// Pods that are there before the measuring.
    before: usize,
    pods: usize,
    /// The least decisions a second.
    pub budget: Option<u32>,
    run: fn(&Scenario) -> Result<Figures>,
}

/// A template for a kind of pods, by the scenario's name.
pub fn template(kind: &str) -> Template {
    let required = |terms: serde_json::Value| json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}});
    let zones = json!([{"matchExpressions": [{"key": ZONE, "operator": "In", "values": ["zone0", "zone1"]}]}]);
    let plain = pods("pod");
    match kind {
        "node affinity" => plain.with(|p| p.affinity(required(zones))),
        "preferred node affinity" => plain.with(|p| {
            p.affinity(json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution":
                [{"weight": 1, "preference": zones[0]}]}}))
        }),
        "pod affinity" => plain.label("color", "blue").with(|p| p.near(ZONE, "color=blue")),
        "anti-affinity" => plain.label("color", "green").with(|p| p.far(HOST, "color=green")),
        "preferred affinity" => plain.label("color", "red").with(|p| p.prefer_near(1, HOST, "color=red")),
        "preferred anti-affinity" => plain.label("color", "yellow").with(|p| p.prefer_far(1, HOST, "color=yellow")),
        "spread" => plain.label("color", "blue").spread_zone("color=blue"),
        "preferred spread" => plain.label("color", "blue").with(|p| p.spread(ZONE, 5, "ScheduleAnyway", "color=blue")),
        "spread over hosts" => plain.label("color", "blue").with(|p| p.spread(HOST, 1, "DoNotSchedule", "color=blue")),
        "spread and node affinity" => plain
            .label("color", "blue")
            .with(|p| p.affinity(required(zones)).spread(ZONE, 5, "DoNotSchedule", "color=blue")),
        "daemonset" => plain.daemon(),
        "gated" => plain.with(|p| p.gate("example.com/wait")),
        _ => plain,
    }
}

/// All of them.
pub fn all() -> Vec<Scenario> {
    let one = |name, nodes, before, pods, budget| Scenario { name, nodes, before, pods, budget, run: simple };
    vec![
        one("basic", 500, 500, 1000, None),
        one("basic", 5000, 1000, 10_000, Some(10_000)),
        one("basic", 15_000, 5000, 50_000, None),
        one("node affinity", 500, 500, 1000, None),
        one("node affinity", 5000, 5000, 10_000, Some(3000)),
        one("node affinity", 15_000, 5000, 50_000, None),
        one("pod affinity", 500, 500, 1000, None),
        one("pod affinity", 5000, 5000, 5000, Some(3000)),
        one("pod affinity", 15_000, 5000, 50_000, None),
        one("anti-affinity", 500, 100, 400, None),
        one("anti-affinity", 5000, 1000, 2000, Some(3000)),
        one("anti-affinity", 15_000, 5000, 10_000, None),
        one("preferred affinity", 5000, 5000, 5000, Some(3000)),
        one("preferred anti-affinity", 5000, 5000, 5000, Some(3000)),
        one("preferred node affinity", 5000, 5000, 5000, Some(3000)),
        one("spread", 500, 500, 1000, None),
        one("spread", 5000, 5000, 5000, Some(3000)),
        one("spread", 15_000, 5000, 50_000, None),
        one("preferred spread", 5000, 5000, 5000, Some(3000)),
        one("spread over hosts", 5000, 1000, 5000, Some(3000)),
        one("spread and node affinity", 5000, 5000, 5000, Some(3000)),
        Scenario { run: preemption, ..one("preemption", 500, 2000, 500, None) },
        Scenario { run: preemption, ..one("preemption", 5000, 20_000, 5000, None) },
        Scenario { run: unschedulable, ..one("unschedulable", 5000, 200, 10_000, None) },
        Scenario { run: churn, ..one("mixed churn", 5000, 1000, 10_000, None) },
        Scenario { run: gated, ..one("gated", 5000, 10_000, 20_000, None) },
        one("daemonset", 15_000, 0, 15_000, None),
    ]
}

impl Scenario {
    /// Measures it.
    pub fn run(&self) -> Result<Figures> {
        (self.run)(self)
    }
}

fn everything_placed(figures: Figures, pods: usize) -> Result<Figures> {
    ensure!(figures.placed == pods, "{} of {pods} pods were placed: {figures:?}", figures.placed);
    Ok(figures)
}

/// Pods of one kind on a cluster that holds some of them.
fn simple(scenario: &Scenario) -> Result<Figures> {
    let mut bench = Bench::new();
    bench.add_nodes(nodes(scenario.nodes));
    let all = template(scenario.name).make(scenario.before + scenario.pods);
    bench.arrive(&all[..scenario.before]);
    bench.drain(|_, _| {});
    bench.arrive(&all[scenario.before..]);
    everything_placed(bench.drain(|_, _| {}), scenario.pods)
}

/// Nodes full of unimportant pods, and important ones that need three of a node's four places.
fn preemption(scenario: &Scenario) -> Result<Figures> {
    let mut bench = Bench::new();
    bench.add_nodes(nodes(scenario.nodes));
    bench.arrive(&pods("low").with(|p| p.cpu(900).priority(0)).make(scenario.before));
    let filled = bench.drain(|_, _| {});
    ensure!(filled.placed == scenario.before, "the cluster could not be filled: {filled:?}");
    bench.arrive(&pods("high").with(|p| p.cpu(3000).priority(10)).make(scenario.pods));
    let mut figures = bench.drain(|_, _| {});
    // Their back-off passes; the room was made.
    bench.now += Duration::from_secs(20);
    let second = bench.drain(|_, _| {});
    figures.placed += second.placed;
    figures.wall += second.wall;
    figures.cpu += second.cpu;
    figures.decisions = scenario.pods;
    figures.looked_at += second.looked_at;
    ensure!(figures.placed == scenario.pods, "{} of {} pods were placed", figures.placed, scenario.pods);
    figures.notes.push(format!("{} victims; both decisions on each pod are counted as one", figures.preempted));
    Ok(figures)
}

/// Pods that fit nowhere wait while others come and go.
fn unschedulable(scenario: &Scenario) -> Result<Figures> {
    let mut bench = Bench::new();
    bench.add_nodes(nodes(scenario.nodes));
    bench.arrive(&pods("large").with(|p| p.cpu(9000)).make(scenario.before));
    bench.drain(|_, _| {});
    bench.arrive(&pods("pod").make(scenario.pods));
    let figures = bench.drain(|_, _| {});
    let waiting = bench.core.queue.sizes().2;
    ensure!(waiting == scenario.before, "{waiting} pods wait, not {}", scenario.before);
    everything_placed(figures, scenario.pods)
}

/// Nodes, pods that fit nowhere and pods that run come and go between decisions.
fn churn(scenario: &Scenario) -> Result<Figures> {
    let mut bench = Bench::new();
    bench.add_nodes(nodes(scenario.nodes));
    let kinds = ["basic", "pod affinity", "preferred anti-affinity", "spread", "preferred spread"];
    let each = scenario.before / kinds.len();
    for kind in kinds {
        bench.arrive(&template(kind).with(|p| p.namespace(&kind.replace(' ', "-"))).make(each));
        bench.drain(|_, _| {});
    }
    bench.arrive(&pods("pod").make(scenario.pods));
    let large = pods("large").with(|p| p.cpu(9000)).make(1);
    let mut turn = 0;
    let figures = bench.drain(|bench, _| {
        turn += 1;
        if turn % 20 == 0 {
            let node = node(&format!("churn-{}", turn / 20 % 10)).cpu(100).pods(0);
            match turn / 20 % 2 {
                0 => bench.core.set_node(&node.object(), bench.now),
                _ => bench.core.remove_node(&format!("churn-{}", (turn / 20 - 1) % 10), bench.now),
            }
        }
        match turn % 40 {
            10 => bench.arrive(&large),
            30 => bench.core.remove_pod(&large[0], bench.now),
            _ => {}
        }
    });
    ensure!(figures.placed == scenario.pods, "{} of {} pods were placed", figures.placed, scenario.pods);
    Ok(figures)
}

/// Many pods that are not to be looked at, beside those that are.
fn gated(scenario: &Scenario) -> Result<Figures> {
    let mut bench = Bench::new();
    bench.add_nodes(nodes(scenario.nodes));
    let held: Vec<Arc<_>> = template("gated").with(|p| p.label("held", "yes")).make(scenario.before);
    bench.arrive(&held);
    let none = bench.drain(|_, _| {});
    ensure!(none.decisions == 0, "gated pods were looked at");
    bench.arrive(&template("basic").with(|p| p.namespace("other")).make(scenario.pods));
    everything_placed(bench.drain(|_, _| {}), scenario.pods)
}
