//! NodeResourcesBalancedAllocation: CPU and memory should fill up evenly.

use super::MAX_SCORE;
use crate::model::{NodeInfo, PodInfo};

/// Whether it has anything to say: a pod that asks for nothing changes no balance.
pub fn applies(pod: &PodInfo) -> bool {
    pod.requests.cpu > 0 || pod.requests.memory > 0
}

/// The score of a node: the less the used parts of CPU and memory differ, the better.
pub fn score(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let part = |used: i64, all: i64| if all == 0 { None } else { Some((used as f64 / all as f64).min(1.0)) };
    let cpu = part(node.requested.cpu + pod.requests.cpu, node.allocatable.cpu);
    let memory = part(node.requested.memory + pod.requests.memory, node.allocatable.memory);
    match (cpu, memory) {
        // The standard deviation of two values is half their distance.
        (Some(a), Some(b)) => ((1.0 - (a - b).abs() / 2.0) * MAX_SCORE as f64) as i64,
        _ => MAX_SCORE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{node, pod};

    #[test]
    fn even_use_is_best() {
        let empty = node("n").cpu(1000).memory(1000 << 20).info();
        assert!(!applies(&pod("a").info()));
        assert_eq!(score(&pod("a").cpu(500).memory(500 << 20).info(), &empty), 100);
        assert_eq!(score(&pod("a").cpu(1000).info(), &empty), 50);
        assert_eq!(score(&pod("a").cpu(500).info(), &empty), 75);
    }
}
