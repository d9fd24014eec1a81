//! The pods of a DaemonSet: bound to one node by affinity, tolerant of the node's troubles.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Taint,
    Toleration,
};

use crate::common::history::HASH_LABEL;
use crate::common::{annotation, name, namespace, node_affinity, owner_ref, pod};
use crate::node::tolerates;

const GENERATION: &str = "pod-template-generation";
const GENERATION_ANNOTATION: &str = "deprecated.daemonset.template.generation";

/// Tolerations that every daemon pod has, as (key, effect).
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];

/// The template's pod spec with the daemon tolerations.
pub fn tolerant(ds: &DaemonSet) -> PodSpec {
    let mut spec = ds.spec.as_ref().and_then(|s| s.template.spec.clone()).unwrap_or_default();
    let host = spec.host_network == Some(true);
    let list = spec.tolerations.get_or_insert_default();
    let network = host.then_some(("node.kubernetes.io/network-unavailable", "NoSchedule"));
    for (key, effect) in TOLERATED.into_iter().chain(network) {
        let new = Toleration {
            key: Some(key.into()),
            operator: Some("Exists".into()),
            effect: Some(effect.into()),
            ..Toleration::default()
        };
        if !list.contains(&new) {
            list.push(new);
        }
    }
    spec
}

/// A pod for one node.
pub fn pod(ds: &DaemonSet, spec: &PodSpec, hash: &str, node: &str) -> Pod {
    let template = ds.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
    let mut p = pod::from_template(&template, namespace(ds), name(ds), owner_ref(ds));
    let l = p.metadata.labels.get_or_insert_default();
    l.insert(HASH_LABEL.into(), hash.into());
    if let Some(generation) = annotation(ds, GENERATION_ANNOTATION) {
        l.insert(GENERATION.into(), generation.into());
    }
    let mut spec = spec.clone();
    // The terms of the template were judged when the node was chosen; the scheduler only has to find the node.
    let only = NodeSelectorTerm {
        match_expressions: None,
        match_fields: Some(vec![NodeSelectorRequirement {
            key: "metadata.name".into(),
            operator: "In".into(),
            values: Some(vec![node.into()]),
        }]),
    };
    let affinity: &mut Affinity = spec.affinity.get_or_insert_default();
    let node_affinity: &mut NodeAffinity = affinity.node_affinity.get_or_insert_default();
    node_affinity.required_during_scheduling_ignored_during_execution =
        Some(NodeSelector { node_selector_terms: vec![only] });
    p.spec = Some(spec);
    p
}

/// The node that a daemon pod is on, or is meant for.
pub fn target(p: &Pod) -> Option<String> {
    let bound = pod::node_name(p);
    if !bound.is_empty() {
        return Some(bound.to_owned());
    }
    let affinity = p.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    let fields = terms.iter().flat_map(|t| t.match_fields.iter().flatten());
    let named = |r: &&NodeSelectorRequirement| r.key == "metadata.name" && r.operator == "In";
    fields.into_iter().find(named)?.values.as_ref()?.first().cloned()
}

/// (a pod should be started on the node, one that runs there may stay).
pub fn suits(spec: &PodSpec, node: &Node) -> (bool, bool) {
    let named = spec.node_name.as_deref().is_none_or(|n| n.is_empty() || n == name(node));
    if !named || !node_affinity::fits(spec, node) {
        return (false, false);
    }
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    let untolerated = |effect: &str| {
        let bad = |t: &&Taint| t.effect == effect && !tolerations.iter().any(|x| tolerates(x, t));
        taints.iter().any(|t| bad(&t))
    };
    let evicts = untolerated("NoExecute");
    (!evicts && !untolerated("NoSchedule"), !evicts)
}
