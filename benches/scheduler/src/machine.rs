//! What the machine says: CPU time and memory of this process.

use std::time::Duration;

use anyhow::{Context, Result};
use caravel_scheduler::model::PodInfo;

use crate::cluster::{Bench, nodes, pods};

/// The CPU time this thread has used.
pub fn cpu() -> Duration {
    // The first number of schedstat: nanoseconds on a CPU.
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0))
}

fn resident() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = text.split_whitespace().nth(1).context("statm")?.parse()?;
    Ok(pages * 4096)
}

/// Prints what one node with 30 pods costs the scheduler.
pub fn memory() -> Result<()> {
    const NODES: usize = 5000;
    const PODS: usize = 30;
    let before = resident()?;
    let mut bench = Bench::new();
    bench.add_nodes(nodes(NODES));
    let template = pods("app").label("app", "web").label("pod-template-hash", "6d4cf56db6").spread_zone("app=web");
    for i in 0..NODES * PODS {
        let mut info: PodInfo = template.info(i);
        info.node = Some(format!("node-{:05}", i % NODES).into());
        bench.core.set_pod(None, info.into(), bench.now);
    }
    let each = (resident()? - before) as f64 / NODES as f64 / 1024.0;
    println!("memory: {each:.1} KB a node with {PODS} pods ({NODES} nodes; budget 100 KB): {}", verdict(each <= 100.0));
    Ok(())
}

fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "MISSED" }
}
