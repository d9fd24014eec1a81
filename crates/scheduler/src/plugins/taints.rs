//! NodeUnschedulable and TaintToleration.

use super::{Plugin, Reject};
use crate::model::{NodeInfo, PodInfo, Taint, TaintEffect};

fn tolerated(pod: &PodInfo, taint: &Taint) -> bool {
    pod.tolerations.iter().any(|t| t.tolerates(taint))
}

/// Whether the node takes new pods, or at least this one.
#[inline]
pub fn filter_unschedulable(pod: &PodInfo, node: &NodeInfo) -> Result<(), Reject> {
    if !node.unschedulable {
        return Ok(());
    }
    let taint =
        Taint { key: "node.kubernetes.io/unschedulable".into(), value: "".into(), effect: TaintEffect::NoSchedule };
    if tolerated(pod, &taint) { Ok(()) } else { Err(Reject::hopeless(Plugin::NodeUnschedulable, 0)) }
}

/// The first taint that keeps the pod away; the detail is its place among the node's.
#[inline]
pub fn filter(pod: &PodInfo, node: &NodeInfo) -> Result<(), Reject> {
    let bad = node.taints.iter().position(|taint| {
        matches!(taint.effect, TaintEffect::NoSchedule | TaintEffect::NoExecute) && !tolerated(pod, taint)
    });
    bad.map_or(Ok(()), |i| Err(Reject::hopeless(Plugin::TaintToleration, i as u32)))
}

/// How many preferences of the node against such pods are not tolerated.
#[inline]
pub fn score(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let mut count = 0;
    for taint in node.taints.iter().filter(|t| t.effect == TaintEffect::PreferNoSchedule) {
        let tolerated = pod.tolerations.iter().any(|t| t.tolerates_preferences() && t.tolerates(taint));
        count += i64::from(!tolerated);
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{node, pod};

    #[test]
    fn tolerations() {
        for (taint, toleration, fits) in [
            (("k", "v", "NoSchedule"), None, false),
            (("k", "v", "NoExecute"), None, false),
            (("k", "v", "PreferNoSchedule"), None, true),
            (("k", "v", "NoSchedule"), Some(("k", "Equal", "v", "NoSchedule")), true),
            (("k", "v", "NoSchedule"), Some(("k", "", "v", "")), true),
            (("k", "v", "NoSchedule"), Some(("k", "Equal", "w", "")), false),
            (("k", "v", "NoSchedule"), Some(("k", "Exists", "", "NoExecute")), false),
            (("k", "v", "NoSchedule"), Some(("k", "Exists", "", "")), true),
            (("k", "v", "NoExecute"), Some(("", "Exists", "", "")), true),
            (("k", "5", "NoSchedule"), Some(("k", "Lt", "6", "")), true),
            (("k", "5", "NoSchedule"), Some(("k", "Gt", "6", "")), false),
            (("k", "x", "NoSchedule"), Some(("k", "Gt", "6", "")), false),
        ] {
            let on = node("n").taint(taint.0, taint.1, taint.2).info();
            let mut wants = pod("p");
            if let Some((key, op, value, effect)) = toleration {
                wants = wants.tolerate(key, op, value, effect);
            }
            assert_eq!(filter(&wants.info(), &on).is_ok(), fits, "{taint:?} {toleration:?}");
        }
    }

    #[test]
    fn cordoned() {
        let on = node("n").cordoned().info();
        assert!(filter_unschedulable(&pod("p").info(), &on).is_err());
        let daemon = pod("p").tolerate("node.kubernetes.io/unschedulable", "Exists", "", "NoSchedule").info();
        assert!(filter_unschedulable(&daemon, &on).is_ok());
    }

    #[test]
    fn preferences_are_counted() {
        let on = node("n").taint("a", "", "PreferNoSchedule").taint("b", "", "PreferNoSchedule").info();
        assert_eq!(score(&pod("p").info(), &on), 2);
        assert_eq!(score(&pod("p").tolerate("a", "Exists", "", "").info(), &on), 1);
        assert_eq!(score(&pod("p").tolerate("a", "Exists", "", "NoSchedule").info(), &on), 2);
    }
}
