//! NodePorts: host ports are had by one pod at a time.

use super::{Plugin, Reject};
use crate::model::{NodeInfo, PodInfo};

/// Whether all host ports are free.
#[inline]
pub fn filter(pod: &PodInfo, node: &NodeInfo) -> Result<(), Reject> {
    if pod.ports.is_empty() || node.ports.is_empty() {
        return Ok(());
    }
    let taken = pod.ports.iter().any(|want| node.ports.iter().any(|has| want.conflicts(has)));
    if taken { Err(Reject::new(Plugin::NodePorts, 0)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{node, pod};

    #[test]
    fn conflicts() {
        for (has, wants, free) in [
            (("TCP", "", 80), ("TCP", "", 80), false),
            (("TCP", "", 80), ("TCP", "", 81), true),
            (("TCP", "", 80), ("UDP", "", 80), true),
            (("TCP", "127.0.0.1", 80), ("TCP", "127.0.0.2", 80), true),
            (("TCP", "127.0.0.1", 80), ("TCP", "0.0.0.0", 80), false),
            (("TCP", "127.0.0.1", 80), ("TCP", "127.0.0.1", 80), false),
        ] {
            let mut on = node("n").info();
            on.add(pod("there").port(has.0, has.1, has.2).info());
            let got = filter(&pod("new").port(wants.0, wants.1, wants.2).info(), &on);
            assert_eq!(got.is_ok(), free, "{has:?} and {wants:?}");
        }
    }

    #[test]
    fn a_pod_that_leaves_frees_its_ports() {
        let mut on = node("n").info();
        let there = pod("there").port("TCP", "", 80).info();
        on.add(there.clone());
        on.remove(&there.key);
        assert!(filter(&pod("new").port("TCP", "", 80).info(), &on).is_ok());
    }
}
