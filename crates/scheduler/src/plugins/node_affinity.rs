//! NodeAffinity: `nodeSelector`, required and preferred node affinity.

use super::{Plugin, Reject};
use crate::model::{NodeInfo, NodeRule, NodeTerm, PodInfo};

/// Detail of a rejection: the profile's own affinity.
pub const ADDED: u32 = 1;

/// Whether the pod may go to the node; `added` is what its profile demands beside.
#[inline]
pub fn filter(added: Option<&NodeRule>, pod: &PodInfo, node: &NodeInfo) -> Result<(), Reject> {
    if added.is_some_and(|rule| !rule.matches(node)) {
        return Err(Reject::hopeless(Plugin::NodeAffinity, ADDED));
    }
    match &pod.node_rule {
        Some(rule) if !rule.matches(node) => Err(Reject::hopeless(Plugin::NodeAffinity, 0)),
        _ => Ok(()),
    }
}

/// The weights of the preferences that the node meets, the profile's own and the pod's.
#[inline]
pub fn score(added: &[(i64, NodeTerm)], pod: &PodInfo, node: &NodeInfo) -> i64 {
    added.iter().chain(&pod.node_preferences).filter(|(_, term)| term.matches(node)).map(|(weight, _)| weight).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{node, pod};
    use serde_json::json;

    #[test]
    fn rules() {
        let on = node("n1").label("disk", "ssd").label("cores", "8").info();
        let affinity = |terms: serde_json::Value| json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}});
        let req = |key: &str, op: &str, values: &[&str]| json!({"key": key, "operator": op, "values": values});
        for (name, wants, fits) in [
            ("no rule", pod("p"), true),
            ("selector", pod("p").node_selector("disk", "ssd"), true),
            ("other selector", pod("p").node_selector("disk", "hdd"), false),
            ("in", pod("p").affinity(affinity(json!([{"matchExpressions": [req("disk", "In", &["ssd", "hdd"])]}]))), true),
            ("all of a term", pod("p").affinity(affinity(json!([{"matchExpressions": [req("disk", "Exists", &[]), req("cores", "Lt", &["8"])]}]))), false),
            ("any of the terms", pod("p").affinity(affinity(json!([{"matchExpressions": [req("cores", "Lt", &["8"])]}, {"matchExpressions": [req("cores", "Gt", &["7"])]}]))), true),
            ("an empty term", pod("p").affinity(affinity(json!([{}]))), false),
            ("by name", pod("p").affinity(affinity(json!([{"matchFields": [req("metadata.name", "In", &["n1"])]}]))), true),
            ("by another name", pod("p").affinity(affinity(json!([{"matchFields": [req("metadata.name", "In", &["n2"])]}]))), false),
            ("both", pod("p").node_selector("disk", "hdd").affinity(affinity(json!([{"matchExpressions": [req("disk", "Exists", &[])]}]))), false),
        ] {
            assert_eq!(filter(None, &wants.info(), &on).is_ok(), fits, "{name}");
        }
    }

    #[test]
    fn preferences_add_up() {
        let on = node("n1").label("disk", "ssd").info();
        let prefer = |weight: i32, value: &str| json!({"weight": weight, "preference": {"matchExpressions": [{"key": "disk", "operator": "In", "values": [value]}]}});
        let wants = pod("p").affinity(json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [prefer(5, "ssd"), prefer(7, "hdd"), prefer(3, "ssd")]}}));
        assert_eq!(score(&[], &wants.info(), &on), 8);
    }
}
