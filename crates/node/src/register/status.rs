//! The Node's status.

use std::sync::Arc;
use std::time::{Duration, Instant};

use caravel_client::Change;
use caravel_runtime as rt;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures,
    NodeRuntimeHandler, NodeRuntimeHandlerFeatures, NodeStatus, NodeSwapStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};

use crate::machine;
use crate::manager::Manager;
use crate::shared::Shared;
use crate::time;

/// How often the machine is looked at when nothing asks for it.
const CHECK: Duration = Duration::from_secs(60);
/// Images told of at most, with so many names each.
const MAX_IMAGES: usize = 50;
const MAX_NAMES: usize = 5;

/// What this kubelet knows that others may not (KEP-5328), in order. CPUs are nobody's own here, so every Pod can be given others.
const FEATURES: [&str; 2] = ["GuaranteedQoSPodCPUResize", "RestartAllContainersOnContainerExits"];

/// What is wrong with the node; empty if nothing is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// Why the node is not ready.
    pub not_ready: Option<String>,
    /// Too little memory.
    pub memory: bool,
    /// Too little disk.
    pub disk: bool,
    /// Too few process ids.
    pub pids: bool,
}

/// Writes the status.
pub struct Keeper {
    shared: Arc<Shared>,
    _manager: Arc<Manager>,
    written: Option<(NodeStatus, Instant)>,
}

impl Keeper {
    /// Has written nothing yet.
    pub fn new(shared: Arc<Shared>, manager: Arc<Manager>) -> Self {
        Keeper { shared, _manager: manager, written: None }
    }

    /// Looks and writes if need be; returns when to look again.
    pub async fn step(&mut self) -> Duration {
        let version = self.shared.runtime.version().await.unwrap_or_default();
        let (health, handlers) = self.health().await;
        let ready = health.not_ready.is_none();
        let images = self.shared.runtime.list_images().await.unwrap_or_default();
        let old = self.conditions_known();
        let new = status(&self.shared, &version, &health, &handlers, &images, &old, time::now_ns());
        let due = self
            .written
            .as_ref()
            .is_none_or(|(w, at)| !same(w, &new) || at.elapsed() >= self.shared.config.status_interval);
        // The cluster may have judged a node that was silent for a while, or have been given a new Node.
        let due = due || self.shared.node.list().first().is_some_and(|n| doubted(n) || is_blank(n));
        let known = self.shared.node.list().into_iter().next();
        let known = known.as_ref().and_then(|n| n.status.as_ref());
        let given = known.map(|s| extended(s, &new)).unwrap_or_default();
        let due = due || !given.is_empty() || known.is_some_and(|s| ours(s) != ours(&new));
        if due {
            let mut patch = json!({"status": patch(&new)});
            given.into_iter().for_each(|(name, value)| patch["status"]["allocatable"][name] = value);
            let api: Api<Node> = Api::all(self.shared.client.clone());
            let name = &self.shared.config.node_name;
            match api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
                Ok(_) => self.written = Some((new, Instant::now())),
                Err(e) => {
                    self.written = None;
                    tracing::warn!(error = %e, "cannot write the node's status yet");
                    return Duration::from_secs(1);
                }
            }
        }
        if ready { CHECK } else { Duration::from_secs(1) }
    }

    fn conditions_known(&self) -> Vec<NodeCondition> {
        if let Some((w, _)) = &self.written {
            return w.conditions.clone().unwrap_or_default();
        }
        let node = self.shared.node.list().into_iter().next();
        node.and_then(|n| n.status.as_ref()?.conditions.clone()).unwrap_or_default()
    }

    async fn health(&self) -> (Health, Vec<rt::RuntimeHandler>) {
        let mut h = Health::default();
        let mut handlers = Vec::new();
        match self.shared.runtime.status().await {
            Ok(s) => {
                let problem = |type_: &str, what: &str| {
                    s.condition(type_)
                        .filter(|c| !c.status)
                        .map(|c| format!("{what} not ready: {type_}=false reason:{} message:{}", c.reason, c.message))
                };
                h.not_ready = problem("RuntimeReady", "container runtime")
                    .or_else(|| problem("NetworkReady", "container runtime network"));
                handlers = s.handlers;
            }
            Err(e) => h.not_ready = Some(format!("container runtime is down: {}", e.detail())),
        }
        h.memory = self.shared.pressure.memory();
        h.disk = self.shared.pressure.disk();
        (h, handlers)
    }
}

/// Whether the API holds a condition of the node to be unknown.
pub fn doubted(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.status == "Unknown")
}

/// Whether somebody advertised a resource, or took one away, or wrote what is the kubelet's to say.
pub fn rewritten(change: &Change<Node>) -> bool {
    let told = |n: &Node| n.status.clone().map(|s| (s.capacity.clone(), ours(&s)));
    matches!(change, Change::Updated { old, new } if told(old) != told(new))
}

/// What nobody but the kubelet knows. A client that encodes a Node of which it has a part as a patch empties it, for Go
/// leaves none of these fields out.
fn ours(s: &NodeStatus) -> Ours {
    (s.node_info.clone(), s.daemon_endpoints.clone(), s.addresses.clone(), s.declared_features.clone())
}

type Ours = (Option<NodeSystemInfo>, Option<NodeDaemonEndpoints>, Option<Vec<NodeAddress>>, Option<Vec<String>>);

/// Whether nothing was told of the node yet.
fn is_blank(node: &Node) -> bool {
    node.status.as_ref().is_none_or(|s| s.conditions.iter().flatten().next().is_none())
}

/// Whether two statuses tell the same; heartbeats do not count.
fn same(a: &NodeStatus, b: &NodeStatus) -> bool {
    let strip = |s: &NodeStatus| {
        let mut s = s.clone();
        s.conditions.iter_mut().flatten().for_each(|c| c.last_heartbeat_time = None);
        s
    };
    strip(a) == strip(b)
}

/// What `allocatable` must say of extended resources, where it says something else: whoever advertises one for a node
/// writes only its capacity, and takes it away there. None stands for what must go.
fn extended(known: &NodeStatus, ours: &NodeStatus) -> Vec<(String, Value)> {
    let is_extended = |name: &str| {
        name.contains('/')
            && !name.starts_with("kubernetes.io/")
            && !ours.capacity.as_ref().is_some_and(|c| c.contains_key(name))
    };
    let (capacity, allocatable) =
        (known.capacity.clone().unwrap_or_default(), known.allocatable.clone().unwrap_or_default());
    let more = capacity
        .iter()
        .filter(|(name, value)| is_extended(name) && allocatable.get(*name) != Some(value))
        .map(|(name, value)| (name.clone(), json!(value)));
    let gone = allocatable
        .keys()
        .filter(|name| is_extended(name) && !capacity.contains_key(*name))
        .map(|name| (name.clone(), Value::Null));
    more.chain(gone).collect()
}

/// As a patch: the lists that are merged by key but are ours alone replace what is there.
fn patch(s: &NodeStatus) -> Value {
    let mut v = serde_json::to_value(s).unwrap_or_default();
    if let Some(Value::Array(list)) = v.get_mut("addresses") {
        list.push(json!({"$patch": "replace"}));
    }
    v
}

/// The status. Pure.
pub fn status(
    shared: &Shared,
    version: &rt::Version,
    health: &Health,
    handlers: &[rt::RuntimeHandler],
    images: &[rt::Image],
    old: &[NodeCondition],
    now: i64,
) -> NodeStatus {
    let config = &shared.config;
    let m = &shared.machine;
    let mut addresses: Vec<NodeAddress> =
        config.node_ips.iter().map(|ip| NodeAddress { type_: "InternalIP".into(), address: ip.to_string() }).collect();
    addresses.push(NodeAddress { type_: "Hostname".into(), address: config.node_name.clone() });
    NodeStatus {
        addresses: Some(addresses),
        capacity: Some(m.capacity(config)),
        allocatable: Some(m.allocatable(config)),
        conditions: Some(conditions(health, old, now)),
        declared_features: Some(FEATURES.map(str::to_owned).to_vec()),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(config.port) }),
        }),
        node_info: Some(NodeSystemInfo {
            architecture: machine::arch().into(),
            boot_id: m.boot_id.clone(),
            container_runtime_version: format!("{}://{}", version.runtime_name, version.runtime_version),
            kernel_version: m.kernel.clone(),
            kube_proxy_version: String::new(),
            kubelet_version: config.version.clone(),
            machine_id: m.machine_id.clone(),
            operating_system: "linux".into(),
            os_image: m.os_image.clone(),
            swap: (m.swap > 0).then(|| NodeSwapStatus { capacity: i64::try_from(m.swap).ok() }),
            system_uuid: m.system_uuid.clone(),
        }),
        images: Some(image_list(images)),
        runtime_handlers: Some(runtime_handlers(handlers)),
        features: Some(NodeFeatures { supplemental_groups_policy: Some(false) }),
        ..Default::default()
    }
}

/// What containers can be given by runtime handler; a runtime that names none has the default one. Read-only mounts are
/// made recursive by the node itself, whatever the handler can do.
fn runtime_handlers(handlers: &[rt::RuntimeHandler]) -> Vec<NodeRuntimeHandler> {
    let one = |name: &str| NodeRuntimeHandler {
        name: Some(name.to_owned()),
        features: Some(NodeRuntimeHandlerFeatures {
            recursive_read_only_mounts: Some(true),
            user_namespaces: Some(false),
        }),
    };
    if handlers.is_empty() { vec![one("")] } else { handlers.iter().map(|h| one(&h.name)).collect() }
}

fn image_list(images: &[rt::Image]) -> Vec<ContainerImage> {
    let mut all: Vec<ContainerImage> = images
        .iter()
        .map(|i| ContainerImage {
            names: Some(i.repo_digests.iter().chain(&i.repo_tags).take(MAX_NAMES).cloned().collect()),
            size_bytes: i64::try_from(i.size).ok(),
        })
        .collect();
    all.sort_by(|a, b| b.size_bytes.cmp(&a.size_bytes).then_with(|| a.names.cmp(&b.names)));
    all.truncate(MAX_IMAGES);
    all
}

fn conditions(h: &Health, old: &[NodeCondition], now: i64) -> Vec<NodeCondition> {
    let pressure = |type_: &'static str, bad: bool, yes: (&'static str, &str), no: (&'static str, &str)| {
        let (reason, what) = if bad { yes } else { no };
        (type_, bad, reason, format!("kubelet has {what}"))
    };
    let ready = match &h.not_ready {
        None => ("Ready", true, "KubeletReady", "kubelet is posting ready status".to_owned()),
        Some(why) => ("Ready", false, "KubeletNotReady", why.clone()),
    };
    let all = [
        pressure(
            "MemoryPressure",
            h.memory,
            ("KubeletHasInsufficientMemory", "insufficient memory available"),
            ("KubeletHasSufficientMemory", "sufficient memory available"),
        ),
        pressure(
            "DiskPressure",
            h.disk,
            ("KubeletHasDiskPressure", "disk pressure"),
            ("KubeletHasNoDiskPressure", "no disk pressure"),
        ),
        pressure(
            "PIDPressure",
            h.pids,
            ("KubeletHasInsufficientPID", "insufficient PID available"),
            ("KubeletHasSufficientPID", "sufficient PID available"),
        ),
        ready,
    ];
    let stamp = Some(time::time_now(now));
    all.into_iter()
        .map(|(type_, on, reason, message)| {
            let status = if on { "True" } else { "False" };
            let before = old.iter().find(|c| c.type_ == type_ && c.status == status);
            NodeCondition {
                type_: type_.into(),
                status: status.into(),
                reason: Some(reason.into()),
                message: Some(message),
                last_heartbeat_time: stamp.clone(),
                last_transition_time: before
                    .and_then(|c| c.last_transition_time.clone())
                    .or_else(|| stamp.clone() as Option<Time>),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn extended_resources_follow_the_capacity_that_somebody_wrote() {
        let node = |v: Value| serde_json::from_value::<NodeStatus>(v).unwrap();
        let ours = node(json!({"capacity": {"cpu": "2"}, "allocatable": {"cpu": "2"}}));
        let advertised = node(json!({"capacity": {"cpu": "2", "a.com/x": "4"}, "allocatable": {"cpu": "2"}}));
        assert_eq!(extended(&advertised, &ours), [("a.com/x".to_owned(), json!("4"))]);
        let taken = node(json!({"capacity": {"cpu": "2"}, "allocatable": {"cpu": "2", "a.com/x": "4"}}));
        assert_eq!(extended(&taken, &ours), [("a.com/x".to_owned(), Value::Null)]);
        let settled =
            node(json!({"capacity": {"cpu": "2", "a.com/x": "4"}, "allocatable": {"cpu": "2", "a.com/x": "4"}}));
        assert_eq!(extended(&settled, &ours), []);
    }
    #[test]
    fn what_a_node_is_is_the_kubelets_to_say() {
        let node = |port: i32, version: &str, phase: &str| {
            Arc::new(serde_json::from_value::<Node>(json!({"metadata": {"name": "n"}, "status": {"phase": phase,
                "addresses": [{"type": "Hostname", "address": "n"}], "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
                "nodeInfo": {"kubeletVersion": version, "architecture": "", "bootID": "", "containerRuntimeVersion": "",
                    "kernelVersion": "", "kubeProxyVersion": "", "machineID": "", "operatingSystem": "", "osImage": "",
                    "systemUUID": ""}}}))
            .unwrap())
        };
        let change = |new| Change::Updated { old: node(10250, "v1", ""), new };
        assert!(!rewritten(&change(node(10250, "v1", "Running"))));
        assert!(rewritten(&change(node(0, "v1", ""))));
        assert!(rewritten(&change(node(10250, "", ""))));
    }
}
