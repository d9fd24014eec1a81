//! Why no node will do, in upstream's words: people and tools read these messages.

use std::collections::BTreeMap;

use crate::decide::Failure;
use crate::model::PodInfo;
use crate::plugins::{Plugin, Reject, devices, features, fit, interpod, node_affinity, spread, volumes};
use crate::state::{NodeId, State};

/// The reasons for which one node was rejected.
pub fn reasons(state: &State, pod: &PodInfo, node: NodeId, reject: Reject) -> Vec<String> {
    let text = match (reject.plugin, reject.detail) {
        (Plugin::NodeResourcesFit, detail) => return fit::reasons(pod, detail),
        (Plugin::NodeDeclaredFeatures, _) => return vec![features::reason(pod, state.node(node))],
        (Plugin::TaintToleration, at) => match state.node(node).taints.get(at as usize) {
            Some(taint) => return vec![format!("node(s) had untolerated taint {{{}: {}}}", taint.key, taint.value)],
            None => "node(s) had untolerated taints",
        },
        (Plugin::NodeUnschedulable, _) => "node(s) were unschedulable",
        (Plugin::NodeName, _) => "node(s) didn't match the requested node name",
        (Plugin::NodeAffinity, node_affinity::ADDED) => "node(s) didn't match scheduler-enforced node affinity",
        (Plugin::NodeAffinity, _) => "node(s) didn't match Pod's node affinity/selector",
        (Plugin::NodePorts, _) => "node(s) didn't have free ports for the requested pod ports",
        (Plugin::VolumeRestrictions, _) => {
            "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode"
        }
        (Plugin::NodeVolumeLimits, _) => "node(s) exceed max volume count",
        (Plugin::VolumeBinding, volumes::NOTHING_TO_BIND) => "node(s) didn't find available persistent volumes to bind",
        (Plugin::VolumeBinding, volumes::VOLUME_GONE) => {
            "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"
        }
        (Plugin::VolumeBinding, _) => "node(s) didn't match PersistentVolume's node affinity",
        (Plugin::VolumeZone, _) => "node(s) had no available volume zone",
        (Plugin::PodTopologySpread, spread::NO_LABEL) => {
            "node(s) didn't match pod topology spread constraints (missing required label)"
        }
        (Plugin::PodTopologySpread, _) => "node(s) didn't match pod topology spread constraints",
        (Plugin::InterPodAffinity, interpod::ANTI_AFFINITY) => "node(s) didn't match pod anti-affinity rules",
        (Plugin::InterPodAffinity, interpod::EXISTING) => "node(s) didn't satisfy existing pods anti-affinity rules",
        (Plugin::InterPodAffinity, _) => "node(s) didn't match pod affinity rules",
        (Plugin::DynamicResources, devices::ELSEWHERE) => "resourceclaim not available on the node",
        (Plugin::DynamicResources, devices::STALE) => "cannot schedule extended resource claim",
        (Plugin::DynamicResources, _) => "cannot allocate all claims",
        (other, _) => other.name(),
    };
    vec![text.to_owned()]
}

/// How many nodes have which reason.
pub fn histogram(state: &State, pod: &PodInfo, failure: &Failure) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for (node, reject) in &failure.rejects {
        if let Some(said) = failure.said.get(node).filter(|_| reject.plugin == Plugin::Extender) {
            *counts.entry(said.clone()).or_default() += 1;
            continue;
        }
        for reason in reasons(state, pod, *node, *reject) {
            *counts.entry(reason).or_default() += 1;
        }
    }
    if failure.outside > 0 {
        *counts.entry("node(s) didn't satisfy plugin(s) [NodeAffinity]".to_owned()).or_default() += failure.outside;
    }
    counts
}

/// `0/3 nodes are available: …`, from reasons with counts.
pub fn unavailable(nodes: usize, general: Option<&str>, counts: &BTreeMap<String, usize>) -> String {
    let mut text = format!("0/{nodes} nodes are available:");
    if let Some(general) = general {
        text.push_str(&format!(" {general}."));
        return text;
    }
    let mut parts: Vec<String> = counts.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    parts.sort();
    if !parts.is_empty() {
        text.push_str(&format!(" {}.", parts.join(", ")));
    }
    text
}

/// The whole message of a failure; `preemption` is what came of that.
pub fn message(state: &State, pod: &PodInfo, failure: &Failure, preemption: Option<&str>) -> String {
    if failure.nodes == 0 {
        return "no nodes available to schedule pods".to_owned();
    }
    let general = failure.general.as_ref().map(|(_, text)| text.as_str());
    let mut text = unavailable(failure.nodes, general, &histogram(state, pod, failure));
    // What other plug-ins did to help comes first.
    let helped = (!pod.devices.is_empty() || state.devices.backs(pod)).then(|| "still not schedulable".to_owned());
    let rest: Vec<String> = helped.into_iter().chain(preemption.map(|p| format!("preemption: {p}"))).collect();
    if !rest.is_empty() {
        text.push_str(&format!(" {}", rest.join(", ")));
    }
    text
}
