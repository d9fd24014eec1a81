//! NodeDeclaredFeatures: a node's kubelet knows what the pod is built upon (KEP-5328).

use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;

use super::{Plugin, Reject};
use crate::model::{NodeInfo, PodInfo};

/// A container's exit may restart all of its pod (KEP-5532).
const RESTART_ALL: &str = "RestartAllContainersOnContainerExits";

/// What a pod needs its node to declare.
pub fn needed(spec: &core::PodSpec) -> Box<[Arc<str>]> {
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let mut rules = containers.flat_map(|c| c.restart_policy_rules.iter().flatten());
    if rules.any(|rule| rule.action == "RestartAllContainers") { [RESTART_ALL.into()].into() } else { [].into() }
}

/// Whether the node declares all that the pod needs.
#[inline]
pub fn filter(pod: &PodInfo, node: &NodeInfo) -> Result<(), Reject> {
    let has_all = pod.features.iter().all(|f| node.features.contains(f));
    if has_all { Ok(()) } else { Err(Reject::hopeless(Plugin::NodeDeclaredFeatures, 0)) }
}

/// What the node lacks, in words.
pub fn reason(pod: &PodInfo, node: &NodeInfo) -> String {
    let mut lacking: Vec<&str> = pod.features.iter().filter(|f| !node.features.contains(f)).map(|f| &**f).collect();
    lacking.sort();
    format!("node declared features check failed - unsatisfied requirements: {}", lacking.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{node, pod};
    use serde_json::json;

    #[test]
    fn what_a_pod_is_built_upon_is_declared() {
        let rule = |action: &str| json!({"restartPolicyRules": [{"action": action, "exitCodes": {"operator": "In", "values": [1]}}]});
        let old = node("old").info();
        let new = node("new").declares(RESTART_ALL).info();
        for (what, one, old_will_do) in [
            ("nothing", json!({}), true),
            ("its own restart", rule("Restart"), true),
            ("restart of all", rule("RestartAllContainers"), false),
        ] {
            for list in ["containers", "initContainers"] {
                let wants = pod("p").spec(list, json!([one])).info();
                assert_eq!(filter(&wants, &old).is_ok(), old_will_do, "{what} in {list}");
                assert!(filter(&wants, &new).is_ok(), "{what} in {list}");
            }
        }
        let wants = pod("p").spec("containers", json!([rule("RestartAllContainers")])).info();
        assert_eq!(
            reason(&wants, &old),
            format!("node declared features check failed - unsatisfied requirements: {RESTART_ALL}")
        );
    }
}
