//! Decisions per second, in process: decide and assume, without the API.
//!
//! `cargo run --release --example scheduler_bench -- [NODES] [PODS] [SCENARIO]`; without arguments all scenarios on 500, 5,000 and 15,000 nodes.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use caravel_scheduler::Profile;
use caravel_scheduler::decide::{Decision, Turn, decide};
use caravel_scheduler::model::PodInfo;
use caravel_scheduler::preempt::{Outcome, preempt};
use caravel_scheduler::state::State;
use caravel_scheduler::testing::{PodBuilder, node, pod};

const ZONE: &str = "topology.kubernetes.io/zone";
const HOST: &str = "kubernetes.io/hostname";
const SCENARIOS: [&str; 7] = ["basic", "affinity", "anti", "spread", "spread-host", "preferred", "preemption"];

fn cluster(nodes: usize) -> State {
    let mut state = State::default();
    for i in 0..nodes {
        state.set_node(node(&format!("node-{i}")).zone(&format!("zone-{}", i % 10)).info());
    }
    state
}

fn wants(scenario: &str, i: usize) -> PodBuilder {
    let group = format!("g{}", i % 20);
    let app = format!("app={group}");
    let base = pod(&format!("pod-{i}")).cpu(100).memory(500 << 20).label("app", &group);
    match scenario {
        "affinity" => base.near(ZONE, &app),
        "anti" => base.far(HOST, &app),
        "spread" => base.spread(ZONE, 1, "DoNotSchedule", &app),
        "spread-host" => base.spread(HOST, 1, "DoNotSchedule", &app),
        "preferred" => base.prefer_near(5, ZONE, &app).prefer_far(10, HOST, &app),
        _ => base,
    }
}

fn resident_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap().trim().trim_end_matches(" kB").parse().unwrap()
}

/// The time this thread has been on a CPU: steadier than the clock on a machine with other work.
fn on_cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

fn report(nodes: usize, scenario: &str, mut times: Vec<Duration>, total: Duration, failed: usize) {
    times.sort_unstable();
    println!(
        "{nodes:>6} nodes  {scenario:<12} {:>7.0}/s  p50 {:>9?}  p99 {:>9?}  {} decided, {failed} nowhere",
        times.len() as f64 / total.as_secs_f64(),
        times[times.len() / 2],
        times[times.len() * 99 / 100],
        times.len(),
    );
}

fn run(nodes: usize, pods: usize, scenario: &str) {
    let mut state = cluster(nodes);
    let profile = Profile::named("default-scheduler");
    let mut turn = Turn { start: 0, seed: 42 };
    if scenario == "preemption" {
        return run_preemption(state, &profile, &mut turn, nodes, pods.min(1000));
    }
    // No more pods of a group than nodes, so that anti-affinity can be met.
    let pods = pods.min(nodes * 20);
    let ready: Vec<Arc<PodInfo>> = (0..pods).map(|i| wants(scenario, i).info()).collect();
    let mut times = Vec::with_capacity(pods);
    let mut failed = 0;
    let start = on_cpu();
    for pod in ready {
        let begun = Instant::now();
        match decide(&mut state, &profile, &pod, &mut turn) {
            Decision::Node { node, .. } => state.assume(pod, node),
            Decision::Nowhere(_) => failed += 1,
        }
        times.push(begun.elapsed());
    }
    report(nodes, scenario, times, on_cpu() - start, failed);
}

fn run_preemption(mut state: State, profile: &Profile, turn: &mut Turn, nodes: usize, pods: usize) {
    for i in 0..nodes * 4 {
        let low = pod(&format!("low-{i}")).cpu(8000).on(&format!("node-{}", i / 4)).started(i as i64);
        state.set_pod(low.info());
    }
    let ready: Vec<Arc<PodInfo>> = (0..pods).map(|i| pod(&format!("high-{i}")).cpu(8000).priority(10).info()).collect();
    let mut times = Vec::new();
    let mut failed = 0;
    let start = on_cpu();
    for pod in ready {
        let begun = Instant::now();
        let Decision::Nowhere(failure) = decide(&mut state, profile, &pod, turn) else { panic!("the cluster is full") };
        match preempt(&mut state, profile, &pod, &failure, turn) {
            Outcome::Make(candidate) => {
                for victim in &candidate.victims {
                    state.remove_pod(&victim.key);
                }
                state.assume(pod, candidate.node);
            }
            Outcome::Off | Outcome::Nothing(_) => failed += 1,
        }
        times.push(begun.elapsed());
    }
    report(nodes, "preemption", times, on_cpu() - start, failed);
}

fn memory(nodes: usize) {
    let before = resident_kb();
    let mut state = cluster(nodes);
    for i in 0..nodes * 30 {
        let group = format!("g{}", i % 500);
        let one = pod(&format!("pod-{i}")).label("app", &group).cpu(10).memory(1 << 20);
        state.set_pod(one.far(HOST, &format!("app=not-{group}")).on(&format!("node-{}", i % nodes)).info());
    }
    println!("{nodes:>6} nodes × 30 pods: {} KB a node", (resident_kb() - before) / nodes as u64);
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize| arguments.get(i).and_then(|a: &String| a.parse::<usize>().ok());
    let sizes = number(0).map_or(vec![500, 5000, 15_000], |n| vec![n]);
    let pods = number(1).unwrap_or(10_000);
    memory(sizes[0]);
    for nodes in sizes {
        for scenario in SCENARIOS.iter().filter(|s| arguments.get(2).is_none_or(|want| want == *s)) {
            run(nodes, pods, scenario);
        }
    }
}
