//! Why a pod is pending, for people: what every node has against it, which node is nearest to taking it, and what would mend it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::resource::v1 as resource;
use k8s_openapi::api::storage::v1 as storage;
use kube::api::ListParams;
use kube::{Api, Client};

use crate::config::{Config, Profile};
use crate::core::Core;
use crate::decide::{Decision, Prepared, Turn, decide, objections, prepare};
use crate::devices::claim as device_claim;
use crate::devices::slice::Slice;
use crate::message::{message, reasons};
use crate::model::{Labels, NodeInfo, PodInfo, Selector};
use crate::plugins::{Plugin, Reject, devices};
use crate::state::{Claim, Class, NodeId, State, Volume};
use crate::sym::Sym;

/// The answer to "why is it pending?".
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Explanation {
    /// One sentence.
    pub summary: String,
    /// Each reason with the number of nodes that have it (a node may have several), the most common first.
    pub reasons: Vec<(String, usize)>,
    /// The node with the least against the pod, and what that is.
    pub nearest: Option<(String, Vec<String>)>,
    /// What would help, in words.
    pub mends: Vec<String>,
}

/// Explains a pod. Leaves the state as it was.
pub fn explain(state: &mut State, profile: Option<&Profile>, pod: &PodInfo) -> Explanation {
    let simple = |summary: String, mend: &str| Explanation {
        summary,
        mends: if mend.is_empty() { Vec::new() } else { vec![mend.to_owned()] },
        ..Explanation::default()
    };
    if let Some(node) = &pod.node {
        return simple(format!("it is bound to node {node}: what keeps it from running is there"), "");
    }
    if !pod.gates.is_empty() {
        let names: Vec<&str> = pod.gates.iter().map(|g| &**g).collect();
        return simple(
            format!("it has scheduling gates: {}", names.join(", ")),
            "whoever set the gates removes them when the pod may be scheduled; without such a controller remove spec.schedulingGates",
        );
    }
    let Some(profile) = profile else {
        return simple(
            format!("its spec.schedulerName is {:?}, and no scheduler of that name runs here", pod.scheduler),
            "use spec.schedulerName: default-scheduler, or run that scheduler",
        );
    };
    let failure = match decide(state, profile, pod, &mut Turn { start: 0, seed: 1 }) {
        Decision::Nowhere(failure) => failure,
        Decision::Node { node, .. } => {
            let name = state.node(node).name.clone();
            return simple(
                format!("it fits, on {name} for one: it has just not been its turn yet, or its last attempt backs off"),
                "",
            );
        }
    };
    let mut out = Explanation { summary: message(state, pod, &failure, None), ..Explanation::default() };
    if failure.nodes == 0 {
        out.mends.push("let a node join: caravel agent --server URL --token TOKEN".into());
        return out;
    }
    let prepared = match prepare(state, profile, pod) {
        Ok(prepared) => prepared,
        Err((_, reason)) => {
            out.mends.push(general_mend(&reason));
            return out;
        }
    };
    by_node(state, &prepared, pod, &mut out);
    out
}

/// Where nothing of the scheduler's own is against a pod an extender may be: what was said last stands then.
fn with_extenders(out: &mut Explanation, config: &Config, pod: &core::Pod, info: &PodInfo) {
    let urls: Vec<&str> = config.extenders.iter().filter(|e| e.concerns(info)).map(|e| e.url.as_str()).collect();
    if urls.is_empty() || info.node.is_some() || !info.gates.is_empty() || !out.reasons.is_empty() {
        return;
    }
    let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let said = conditions.filter(|c| c.type_ == "PodScheduled" && c.status == "False").find_map(|c| c.message.clone());
    if let Some(said) = said {
        out.summary = said;
        out.mends.push(format!("extenders have a say in it: see what {} holds against it", urls.join(" and ")));
    }
}

/// How far a node is from fitting: hopeless rejections, all rejections, what is short.
type Distance = (usize, usize, i64);

fn by_node(state: &mut State, prepared: &Prepared, pod: &PodInfo, out: &mut Explanation) {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut nearest: Option<(Distance, NodeId, Vec<Reject>)> = None;
    for id in state.order().to_vec() {
        let rejects = objections(state, prepared, pod, id);
        for reason in rejects.iter().flat_map(|r| reasons(state, pod, id, *r)) {
            *counts.entry(reason).or_default() += 1;
        }
        let far = (rejects.iter().filter(|r| r.hopeless).count(), rejects.len(), shortage(pod, state.node(id)));
        if nearest.as_ref().is_none_or(|(best, _, _)| far < *best) {
            nearest = Some((far, id, rejects));
        }
    }
    out.reasons = counts.into_iter().collect();
    out.reasons.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    if let Some((_, id, rejects)) = nearest {
        let texts = rejects.iter().flat_map(|r| reasons(state, pod, id, *r)).collect();
        out.nearest = Some((state.node(id).name.to_string(), texts));
        out.mends.extend(rejects.iter().flat_map(|r| mends(state, pod, state.node(id), *r)));
    }
}

/// How much is missing, in thousandths of what is asked.
fn shortage(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let part = |asked: i64, has: i64, used: i64| {
        let missing = asked - (has - used);
        if asked <= 0 || missing <= 0 { 0 } else { (i128::from(missing) * 1000 / i128::from(asked)) as i64 }
    };
    let (asked, has, used) = (&pod.requests, &node.allocatable, &node.requested);
    part(asked.cpu, has.cpu, used.cpu) + part(asked.memory, has.memory, used.memory)
}

fn bytes(n: i64) -> String {
    let n = n.max(0);
    if n >= 1 << 30 && n % (1 << 30) == 0 { format!("{}Gi", n >> 30) } else { format!("{}Mi", n >> 20) }
}

fn mends(state: &State, pod: &PodInfo, node: &NodeInfo, reject: Reject) -> Vec<String> {
    let name = &node.name;
    match reject.plugin {
        Plugin::NodeResourcesFit => fit_mends(pod, node),
        Plugin::TaintToleration => match node.taints.get(reject.detail as usize) {
            Some(taint) => vec![format!(
                "tolerate the taint {{{}: {}}} in the pod, or take it off the node: kubectl taint nodes {name} {}-",
                taint.key, taint.value, taint.key
            )],
            None => Vec::new(),
        },
        Plugin::NodeUnschedulable => vec![format!("let the node take pods again: kubectl uncordon {name}")],
        Plugin::NodeAffinity => {
            vec![format!(
                "label a node as the pod's nodeSelector or node affinity demands (kubectl label node {name} KEY=VALUE), or relax them"
            )]
        }
        Plugin::NodePorts => {
            let holder = node.pods.iter().find(|p| p.ports.iter().any(|a| pod.ports.iter().any(|b| a.conflicts(b))));
            let holder = holder.map_or_else(String::new, |p| format!(" (it is taken by pod {})", p.key));
            vec![format!("use another hostPort{holder}, or a Service instead of a hostPort")]
        }
        Plugin::VolumeBinding | Plugin::VolumeZone => {
            let bound = pod.claims.iter().filter_map(|c| {
                let key = crate::model::PodKey { namespace: pod.key.namespace.clone(), name: c.clone() };
                state.volumes.claim(&key)?.volume.clone()
            });
            let names: Vec<_> = bound.map(|v| v.to_string()).collect();
            vec![match names.is_empty() {
                true => "make a PersistentVolume that fits the claim and this node, or use a class with a provisioner"
                    .into(),
                false => format!("its volume ({}) can be used on other nodes only: make room there", names.join(", ")),
            }]
        }
        Plugin::VolumeRestrictions => vec!["another pod uses its ReadWriteOncePod claim: end that one".into()],
        Plugin::NodeVolumeLimits => vec![format!("{name} has as many volumes attached as it can: use another node")],
        Plugin::PodTopologySpread => {
            vec!["raise maxSkew, use whenUnsatisfiable: ScheduleAnyway, or add nodes in the emptier domains".into()]
        }
        Plugin::InterPodAffinity => {
            vec![
                "add a node in another topology domain, or make the pod (anti-)affinity preferred instead of required"
                    .into(),
            ]
        }
        Plugin::DynamicResources => device_mends(state, pod, name, reject.detail),
        Plugin::NodeDeclaredFeatures => {
            vec![format!("upgrade the kubelet of {name}: it does not know what the pod uses")]
        }
        _ => Vec::new(),
    }
}

/// What the pod's claims lack on a node.
fn device_mends(state: &State, pod: &PodInfo, node: &str, detail: u32) -> Vec<String> {
    let claims = state.devices.of_pod(pod).unwrap_or_default();
    let names = |has: bool| {
        let names: Vec<_> = claims.iter().filter(|c| c.allocation.is_some() == has).map(|c| &*c.key.name).collect();
        names.join(", ")
    };
    if detail == devices::ELSEWHERE {
        return vec![format!(
            "the devices of its claim ({}) can be used on other nodes only: make room there",
            names(true)
        )];
    }
    let mut lacking = names(false);
    if lacking.is_empty() {
        let asked = pod.extended.iter().flat_map(|a| a.resources.iter().map(|(name, ..)| &**name));
        lacking = asked.collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(", ");
    }
    vec![format!(
        "it waits for devices: {node} has none left for its claim ({lacking}). See which there are with: kubectl get resourceslices; and which \
         claims have them with: kubectl get resourceclaims -A. End a pod that uses one, ask for less, or start a driver on a node that has some"
    )]
}

fn fit_mends(pod: &PodInfo, node: &NodeInfo) -> Vec<String> {
    let (asked, has, used) = (&pod.requests, &node.allocatable, &node.requested);
    let mut out = Vec::new();
    if asked.cpu > has.cpu - used.cpu {
        let free = (has.cpu - used.cpu).max(0);
        out.push(format!(
            "it asks for {}m of cpu and {} has {free}m free: ask for no more than that, or free {}m there",
            asked.cpu,
            node.name,
            asked.cpu - free
        ));
    }
    if asked.memory > has.memory - used.memory {
        let free = (has.memory - used.memory).max(0);
        out.push(format!(
            "it asks for {} of memory and {} has {} free: ask for no more than that, or free the rest there",
            bytes(asked.memory),
            node.name,
            bytes(free)
        ));
    }
    if node.pods.len() as i64 + 1 > node.max_pods {
        out.push(format!(
            "{} runs {} pods and takes no more: raise maxPods, or add a node",
            node.name,
            node.pods.len()
        ));
    }
    for (resource, amount) in &asked.scalar {
        let free = has.get_scalar(resource) - used.get_scalar(resource);
        if *amount > free {
            out.push(format!(
                "it asks for {amount} {resource} and {} has {free} free: add a node that has them",
                node.name
            ));
        }
    }
    out
}

fn general_mend(reason: &str) -> String {
    if reason.contains("ResourceClaim not created yet") {
        "its claim is to be made from a template: see whether that is there with: kubectl get resourceclaimtemplates"
            .into()
    } else if reason.contains("resourceclaim") && reason.contains("not found") {
        "create the ResourceClaim, or correct the name in spec.resourceClaims".into()
    } else if reason.contains("device class") {
        "create the DeviceClass (the driver of the devices usually brings it along), or correct the name in the claim"
            .into()
    } else if reason.contains("not found") {
        "create the claim, or correct the name in spec.volumes".into()
    } else if reason.contains("unbound immediate") {
        "its claim is not bound yet: see why with: caravel why pvc/NAME (no class, no provisioner, or no volume that fits)".into()
    } else {
        format!("mend this first: {reason}")
    }
}

/// Explains a pod of a running cluster; reads what is needed through the API.
///
/// # Errors
/// What the API answers, e.g. that there is no such pod.
pub async fn explain_pod(
    client: Client,
    config: &Config,
    namespace: &str,
    name: &str,
) -> Result<Explanation, kube::Error> {
    let all = ListParams::default();
    let pod = Api::<core::Pod>::namespaced(client.clone(), namespace).get(name).await?;
    let mut state = State::default();
    for item in Api::<core::Namespace>::all(client.clone()).list(&all).await? {
        let name = Sym::of(item.metadata.name.as_deref().unwrap_or_default());
        state.terms.set_namespace(name, Some(Labels::new(item.metadata.labels.iter().flatten())));
    }
    for item in Api::<core::Node>::all(client.clone()).list(&all).await? {
        state.set_node(NodeInfo::new(&item));
    }
    for item in Api::<core::Service>::all(client.clone()).list(&all).await? {
        let selector = item.spec.as_ref().and_then(|s| s.selector.as_ref()).filter(|s| !s.is_empty());
        state.cluster.set_service(&Core::key_of(&item), selector.map(Selector::of_map));
    }
    for item in Api::<core::PersistentVolume>::all(client.clone()).list(&all).await? {
        let volume = Volume::new(&item);
        state.volumes.set_volume(&volume.name.clone(), Some(volume));
    }
    for item in Api::<core::PersistentVolumeClaim>::all(client.clone()).list(&all).await? {
        state.volumes.set_claim(&Core::key_of(&item), Some(Claim::new(&item)));
    }
    for item in Api::<storage::StorageClass>::all(client.clone()).list(&all).await? {
        state.volumes.set_class(&Core::key_of(&item).name, Some(Class::new(&item)));
    }
    for item in Api::<storage::CSINode>::all(client.clone()).list(&all).await? {
        state.volumes.set_limits(&Core::key_of(&item).name, Some(&item));
    }
    for item in Api::<resource::DeviceClass>::all(client.clone()).list(&all).await? {
        state.devices.set_class(&Core::key_of(&item).name, Some(device_claim::Class::new(&item)));
    }
    for item in Api::<resource::ResourceSlice>::all(client.clone()).list(&all).await? {
        state.devices.set_slice(&Core::key_of(&item).name, Some(Slice::new(&item)));
    }
    for item in Api::<resource::ResourceClaim>::all(client.clone()).list(&all).await? {
        state.devices.set_claim(&Core::key_of(&item), Some(device_claim::Claim::new(&item)));
    }
    for item in Api::<core::Pod>::all(client.clone()).list(&all).await? {
        let info = PodInfo::new(&item);
        if info.node.is_some() {
            state.set_pod(info.into());
        }
    }
    let info = PodInfo::new(&pod);
    let profile = config.profiles.iter().find(|p| p.name == info.scheduler);
    let mut out = explain(&mut state, profile, &info);
    with_extenders(&mut out, config, &pod, &info);
    Ok(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::testing::{PodBuilder, node, pod, state};

    fn of(wants: PodBuilder) -> Explanation {
        let mut state = state([
            node("small").cpu(500),
            node("busy").cpu(2000),
            node("tainted").cpu(4000).taint("gpu", "yes", "NoSchedule"),
            node("off").cpu(400).cordoned(),
        ]);
        state.set_pod(pod("there").cpu(1700).port("TCP", "", 80).on("busy").info());
        explain(&mut state, Some(&Profile::named("default-scheduler")), &wants.info())
    }

    #[test]
    fn the_nearest_node_and_the_mend() {
        let got = of(pod("p").cpu(600));
        assert!(got.summary.starts_with("0/4 nodes are available: "), "{}", got.summary);
        assert_eq!(got.reasons[0], ("Insufficient cpu".to_owned(), 3), "every reason counts, not only the first");
        assert_eq!(got.nearest, Some(("busy".to_owned(), vec!["Insufficient cpu".to_owned()])));
        assert_eq!(
            got.mends,
            ["it asks for 600m of cpu and busy has 300m free: ask for no more than that, or free 300m there"]
        );
        let got = of(pod("p").cpu(3000));
        assert_eq!(got.nearest.unwrap().0, "tainted");
        assert!(got.mends[0].contains("kubectl taint nodes tainted gpu-"), "{:?}", got.mends);
    }

    #[test]
    fn what_has_nothing_to_do_with_nodes() {
        assert!(of(pod("p").gate("wait")).summary.contains("scheduling gates: wait"));
        assert!(of(pod("p").on("busy")).summary.contains("bound to node busy"));
        assert!(of(pod("p").cpu(10)).summary.starts_with("it fits"));
        assert!(of(pod("p").claim("none")).mends[0].contains("create the claim"));
        let of_template = serde_json::json!([{"name": "gpu", "resourceClaimTemplateName": "t"}]);
        let got = of(pod("p").spec("resourceClaims", of_template));
        assert!(got.summary.contains("ResourceClaim not created yet") && got.mends[0].contains("template"), "{got:?}");
        let of_name = serde_json::json!([{"name": "gpu", "resourceClaimName": "c"}]);
        assert!(of(pod("p").spec("resourceClaims", of_name)).mends[0].contains("create the ResourceClaim"));
        let mut empty = State::default();
        let got = explain(&mut empty, Some(&Profile::named("default-scheduler")), &pod("p").info());
        assert!(got.mends[0].contains("caravel agent"));
        let got = explain(&mut empty, None, &pod("p").scheduler("mine").info());
        assert!(got.summary.contains("\"mine\""));
    }
}
