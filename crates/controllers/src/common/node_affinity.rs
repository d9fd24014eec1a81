//! Whether a node is one that a pod's node selector and required node affinity ask for.

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Volume};

use super::{labels, name};

/// Whether the node has the labels of `nodeSelector` and satisfies one term of the required node affinity.
pub fn fits(spec: &PodSpec, node: &Node) -> bool {
    let have = labels(node);
    if !spec.node_selector.iter().flatten().all(|(k, v)| have.get(k) == Some(v)) {
        return false;
    }
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    match affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()) {
        None => true,
        Some(selector) => selector.node_selector_terms.iter().any(|t| term(t, node)),
    }
}

/// All requirements of a term; one without any selects nothing.
pub fn term(t: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = t.match_expressions.as_deref().unwrap_or_default();
    let fields = t.match_fields.as_deref().unwrap_or_default();
    (!expressions.is_empty() || !fields.is_empty())
        && expressions.iter().all(|r| holds(r, labels(node).get(&r.key).map(String::as_str)))
        && fields.iter().all(|r| r.key == "metadata.name" && holds(r, Some(name(node))))
}

fn holds(r: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let listed = |v: &str| r.values.iter().flatten().any(|x| x == v);
    let limit = || r.values.as_ref().and_then(|v| v.first()).and_then(|v| v.parse::<i64>().ok());
    let number = || value.and_then(|v| v.parse::<i64>().ok());
    match r.operator.as_str() {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => number().zip(limit()).is_some_and(|(v, l)| v > l),
        "Lt" => number().zip(limit()).is_some_and(|(v, l)| v < l),
        _ => false,
    }
}

/// The claims that a pod's volumes use: (volume, claim name). A generic ephemeral volume uses one named after pod and volume.
pub fn claim_of(pod_name: &str, volume: &Volume) -> Option<String> {
    match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(c), _) => Some(c.claim_name.clone()),
        (None, Some(_)) => Some(format!("{pod_name}-{}", volume.name)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators() {
        let mut node = Node::default();
        node.metadata.labels = Some([("zone".to_owned(), "a".to_owned()), ("cpus".to_owned(), "8".to_owned())].into());
        let r = |key: &str, op: &str, values: &[&str]| NodeSelectorTerm {
            match_expressions: Some(vec![NodeSelectorRequirement {
                key: key.into(),
                operator: op.into(),
                values: Some(values.iter().map(|v| (*v).to_owned()).collect()),
            }]),
            match_fields: None,
        };
        for (t, want) in [
            (r("zone", "In", &["a", "b"]), true),
            (r("zone", "NotIn", &["a"]), false),
            (r("gpu", "NotIn", &["a"]), true),
            (r("gpu", "Exists", &[]), false),
            (r("gpu", "DoesNotExist", &[]), true),
            (r("cpus", "Gt", &["4"]), true),
            (r("cpus", "Lt", &["8"]), false),
            (NodeSelectorTerm::default(), false),
        ] {
            assert_eq!(term(&t, &node), want, "{t:?}");
        }
    }
}
