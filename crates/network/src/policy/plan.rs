//! Policies as sets and chains.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use sha2::{Digest, Sha256};

use super::ranges::{Range, merged, of, one, without};
use super::selector::matches;
use crate::cni::hostports::{protocol_number, word};
use crate::netlink::nft::{Carries, Data, Element, Field, Set, Verdict};

/// Verdict map of Pods isolated for connections to them.
pub const INGRESS: &str = "policy_ingress";
/// Verdict map of Pods isolated for connections from them.
pub const EGRESS: &str = "policy_egress";

/// The direction of connections, seen from the Pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// To the Pod.
    Ingress,
    /// From the Pod.
    Egress,
}

impl Direction {
    /// The verdict map of isolated Pods.
    pub fn map(self) -> &'static str {
        match self {
            Direction::Ingress => INGRESS,
            Direction::Egress => EGRESS,
        }
    }

    fn short(self) -> &'static str {
        match self {
            Direction::Ingress => "in",
            Direction::Egress => "out",
        }
    }
}

/// The compiled policies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Sets of peer address, protocol and port, all as ranges, by name.
    pub sets: BTreeMap<String, BTreeSet<Element>>,
    /// Chains of isolated Pods: the sets of which one must have the connection, by name.
    pub chains: BTreeMap<String, (Direction, BTreeSet<String>)>,
    /// Elements of [`INGRESS`] and [`EGRESS`].
    pub isolated: BTreeMap<&'static str, BTreeSet<Element>>,
}

/// A set of a rule's peers and ports.
pub fn set(name: &str) -> Set {
    let key = [Field::Ipv4, Field::Protocol, Field::Port];
    Set::new(name, &key, Carries::Nothing).ranges()
}

/// The cluster as policies see it.
pub struct Snapshot {
    /// All policies.
    pub policies: Vec<Arc<NetworkPolicy>>,
    /// All Pods.
    pub pods: Vec<Arc<Pod>>,
    /// All namespaces.
    pub namespaces: Vec<Arc<Namespace>>,
    /// This node's name.
    pub node: String,
}

/// A Pod with an address of its own that lives.
struct Host<'a> {
    pod: &'a Pod,
    ip: Ipv4Addr,
    namespace: &'a str,
}

fn hosts(pods: &[Arc<Pod>]) -> Vec<Host<'_>> {
    let host = |pod: &'_ Arc<Pod>| -> Option<Ipv4Addr> {
        let spec = pod.spec.as_ref()?;
        let status = pod.status.as_ref()?;
        let over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        if over || spec.host_network.unwrap_or(false) {
            return None;
        }
        status.pod_ip.as_ref()?.parse().ok()
    };
    pods.iter()
        .filter_map(|pod| Some(Host { ip: host(pod)?, namespace: pod.metadata.namespace.as_deref()?, pod }))
        .collect()
}

struct Compiler<'a> {
    snapshot: &'a Snapshot,
    hosts: Vec<Host<'a>>,
    plan: Plan,
}

/// Compiles all policies for this node.
pub fn compile(snapshot: &Snapshot) -> Plan {
    let mut compiler = Compiler { hosts: hosts(&snapshot.pods), snapshot, plan: Plan::default() };
    compiler.run();
    compiler.plan
}

/// A rule's parts, the same for both directions.
struct RuleParts<'a> {
    peers: &'a [NetworkPolicyPeer],
    ports: &'a [NetworkPolicyPort],
}

fn applies(policy: &NetworkPolicy, direction: Direction) -> bool {
    let Some(spec) = &policy.spec else {
        return false;
    };
    let name = match direction {
        Direction::Ingress => "Ingress",
        Direction::Egress => "Egress",
    };
    match spec.policy_types.as_deref() {
        Some(types) if !types.is_empty() => types.iter().any(|t| t == name),
        // Defaulted by the server; the same rule here for objects that were not.
        _ => direction == Direction::Ingress || spec.egress.is_some(),
    }
}

fn rules(policy: &NetworkPolicy, direction: Direction) -> Vec<RuleParts<'_>> {
    let Some(spec) = &policy.spec else {
        return Vec::new();
    };
    match direction {
        Direction::Ingress => spec
            .ingress
            .iter()
            .flatten()
            .map(|r| RuleParts {
                peers: r.from.as_deref().unwrap_or_default(),
                ports: r.ports.as_deref().unwrap_or_default(),
            })
            .collect(),
        Direction::Egress => spec
            .egress
            .iter()
            .flatten()
            .map(|r| RuleParts {
                peers: r.to.as_deref().unwrap_or_default(),
                ports: r.ports.as_deref().unwrap_or_default(),
            })
            .collect(),
    }
}

fn digest(text: &str) -> String {
    let digest = Sha256::digest(text);
    digest[..8].iter().map(|b| format!("{b:02x}")).collect()
}

impl Compiler<'_> {
    fn run(&mut self) {
        for direction in [Direction::Ingress, Direction::Egress] {
            for position in 0..self.hosts.len() {
                self.isolate(direction, position);
            }
        }
    }

    /// Isolates a Pod of this node if a policy selects it.
    fn isolate(&mut self, direction: Direction, position: usize) {
        let host = &self.hosts[position];
        let spec = host.pod.spec.as_ref();
        if spec.and_then(|s| s.node_name.as_deref()) != Some(&self.snapshot.node) {
            return;
        }
        let labels = host.pod.metadata.labels.as_ref();
        let everything = Default::default();
        let selecting: Vec<Arc<NetworkPolicy>> = self
            .snapshot
            .policies
            .iter()
            .filter(|policy| {
                let selector = policy.spec.as_ref().and_then(|s| s.pod_selector.as_ref());
                policy.metadata.namespace.as_deref() == Some(host.namespace)
                    && applies(policy, direction)
                    && matches(selector.unwrap_or(&everything), labels)
            })
            .cloned()
            .collect();
        if selecting.is_empty() {
            return;
        }
        let ip = host.ip;
        let mut sets = BTreeSet::new();
        for policy in &selecting {
            for (number, parts) in rules(policy, direction).iter().enumerate() {
                sets.extend(self.rule(direction, policy, number, parts, position));
            }
        }
        let names: Vec<&str> = sets.iter().map(String::as_str).collect();
        let chain = format!("policy-{}-{}", direction.short(), digest(&names.join(" ")));
        self.plan.chains.insert(chain.clone(), (direction, sets));
        let element = Element { key: ip.octets().to_vec(), key_end: None, data: Data::Verdict(Verdict::Jump(chain)) };
        self.plan.isolated.entry(direction.map()).or_default().insert(element);
    }

    /// The set of a rule, for the Pod it is applied to (named ports are the Pod's); its name.
    fn rule(
        &mut self,
        direction: Direction,
        policy: &NetworkPolicy,
        number: usize,
        parts: &RuleParts<'_>,
        applied_to: usize,
    ) -> Option<String> {
        let namespace = policy.metadata.namespace.as_deref().unwrap_or_default();
        let selected = self.peers(parts.peers, namespace);
        let mut variant = String::new();
        let mut boxes;
        match direction {
            Direction::Ingress => {
                let ports = ports(parts.ports, Some(self.hosts[applied_to].pod));
                if parts.ports.iter().any(is_named) {
                    variant = format!("{ports:?}");
                }
                boxes = product(&ports, &selected.all());
            }
            Direction::Egress => {
                // Named ports are the peers': each Pod may have others.
                boxes = product(&ports(parts.ports, None), &selected.all());
                if parts.ports.iter().any(is_named) {
                    boxes.extend(self.named(parts, &selected));
                }
            }
        }
        let uid = policy.metadata.uid.as_deref().unwrap_or_default();
        let name = policy.metadata.name.as_deref().unwrap_or_default();
        let identity = format!("{namespace}/{name} {uid} {direction:?} {number} {variant}");
        let set = format!("policy-{}", digest(&identity));
        if !self.plan.sets.contains_key(&set) {
            self.plan.sets.insert(set.clone(), disjoint(&boxes));
        }
        Some(set)
    }

    /// Egress to named ports: each selected Pod's own.
    fn named(&self, parts: &RuleParts<'_>, selected: &Selected) -> Vec<Box3> {
        let mut out = Vec::new();
        let named: Vec<NetworkPolicyPort> = parts.ports.iter().filter(|p| is_named(p)).cloned().collect();
        for host in &self.hosts {
            let ip = one(host.ip);
            if !selected.everybody && !selected.pods.contains(&ip) {
                continue;
            }
            for (protocol, list) in ports(&named, Some(host.pod)) {
                out.extend(list.into_iter().map(|port| (ip, protocol, port)));
            }
        }
        out
    }

    fn peers(&self, peers: &[NetworkPolicyPeer], namespace: &str) -> Selected {
        let mut selected = Selected { everybody: peers.is_empty(), ..Selected::default() };
        for peer in peers {
            if let Some(block) = &peer.ip_block {
                if let Ok(net) = block.cidr.parse::<Ipv4Net>() {
                    let holes = block.except.iter().flatten();
                    let holes = holes.filter_map(|h| Some(of(h.parse().ok()?))).collect();
                    let left = without(&[of(net)], &merged(holes));
                    selected.blocks.extend(left);
                }
                continue;
            }
            let everything = Default::default();
            let pods = peer.pod_selector.as_ref().unwrap_or(&everything);
            for host in &self.hosts {
                let in_namespace = match &peer.namespace_selector {
                    None => host.namespace == namespace,
                    Some(selector) => self.namespace_matches(host.namespace, |labels| matches(selector, labels)),
                };
                if in_namespace && matches(pods, host.pod.metadata.labels.as_ref()) {
                    selected.pods.push(one(host.ip));
                }
            }
        }
        selected
    }

    fn namespace_matches(&self, name: &str, test: impl Fn(Option<&BTreeMap<String, String>>) -> bool) -> bool {
        self.snapshot
            .namespaces
            .iter()
            .find(|n| n.metadata.name.as_deref() == Some(name))
            .is_some_and(|n| test(n.metadata.labels.as_ref()))
    }
}

#[derive(Default)]
struct Selected {
    everybody: bool,
    pods: Vec<Range>,
    blocks: Vec<Range>,
}

impl Selected {
    fn all(&self) -> Vec<Range> {
        if self.everybody {
            return vec![(0, u32::MAX)];
        }
        merged(self.pods.iter().chain(&self.blocks).copied().collect())
    }
}

/// Port ranges by range of protocols.
type Ports = BTreeMap<Range, Vec<Range>>;

/// Peer, protocol and port ranges.
type Box3 = (Range, Range, Range);

const ANY_PORT: Range = (0, 65_535);
const ANY_PROTOCOL: Range = (0, 255);

fn is_named(port: &NetworkPolicyPort) -> bool {
    matches!(&port.port, Some(IntOrString::String(_)))
}

/// The ports of a rule; named ones as the Pod names them, if one is given.
fn ports(list: &[NetworkPolicyPort], pod: Option<&Pod>) -> Ports {
    if list.is_empty() {
        return Ports::from([(ANY_PROTOCOL, vec![ANY_PORT])]);
    }
    let mut out = Ports::new();
    for port in list {
        let name = port.protocol.as_deref().unwrap_or("TCP");
        let Some(protocol) = protocol_number(name).map(u32::from) else {
            continue;
        };
        let entry = out.entry((protocol, protocol)).or_default();
        match &port.port {
            None => entry.push(ANY_PORT),
            Some(IntOrString::Int(first)) => {
                let last = port.end_port.unwrap_or(*first);
                if let (Ok(first), Ok(last)) = (u16::try_from(*first), u16::try_from(last)) {
                    entry.push((first.into(), last.into()));
                }
            }
            Some(IntOrString::String(label)) => {
                entry.extend(pod.into_iter().flat_map(|p| container_ports(p, label, name)));
            }
        }
    }
    for list in out.values_mut() {
        *list = merged(std::mem::take(list));
    }
    out
}

fn container_ports(pod: &Pod, label: &str, protocol: &str) -> Vec<Range> {
    let spec = pod.spec.iter();
    let containers = spec.flat_map(|s| {
        let restarting = s.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
        s.containers.iter().chain(restarting)
    });
    containers
        .flat_map(|c| c.ports.iter().flatten())
        .filter(|p| p.name.as_deref() == Some(label) && p.protocol.as_deref().unwrap_or("TCP") == protocol)
        .filter_map(|p| u32::try_from(p.container_port).ok())
        .map(|port| (port, port))
        .collect()
}

/// Each peer range with each port range.
fn product(ports: &Ports, peers: &[Range]) -> Vec<Box3> {
    let mut out = Vec::new();
    for (protocol, list) in ports {
        for peer in peers {
            out.extend(list.iter().map(|port| (*peer, *protocol, *port)));
        }
    }
    out
}

/// Elements that cover the same as the boxes without overlaps, which the kernel refuses.
///
/// A sweep over peer addresses: between two borders the open port ranges are the same.
fn disjoint(boxes: &[Box3]) -> BTreeSet<Element> {
    let mut by_protocol: BTreeMap<Range, Vec<(u64, bool, Range)>> = BTreeMap::new();
    for (peer, protocol, port) in boxes {
        let borders = by_protocol.entry(*protocol).or_default();
        borders.push((peer.0.into(), true, *port));
        borders.push((u64::from(peer.1) + 1, false, *port));
    }
    let mut out = BTreeSet::new();
    for (protocol, mut borders) in by_protocol {
        borders.sort_unstable();
        let mut open: BTreeMap<Range, usize> = BTreeMap::new();
        let mut strip: Option<(Range, Vec<Range>)> = None;
        let mut from = 0;
        for (position, opens, port) in borders {
            if position > from && !open.is_empty() {
                let ports = merged(open.keys().copied().collect());
                let peer = (from as u32, (position - 1) as u32);
                strip = match strip.take() {
                    Some((before, same)) if same == ports && before.1 + 1 == peer.0 => Some(((before.0, peer.1), same)),
                    other => {
                        out.extend(strip_elements(other, protocol));
                        Some((peer, ports))
                    }
                };
            }
            from = position;
            let count = open.entry(port).or_default();
            if opens {
                *count += 1;
            } else {
                *count -= 1;
                if *count == 0 {
                    open.remove(&port);
                }
            }
        }
        out.extend(strip_elements(strip, protocol));
    }
    out
}

fn strip_elements(strip: Option<(Range, Vec<Range>)>, protocol: Range) -> Vec<Element> {
    let strip = strip.into_iter();
    strip.flat_map(|(peer, ports)| ports.into_iter().map(move |port| (peer, protocol, port))).map(element).collect()
}

fn element((peer, protocol, port): Box3) -> Element {
    let key = |ip: u32, protocol: u32, port: u32| {
        let port = word(&(port as u16).to_be_bytes());
        [ip.to_be_bytes(), word(&[protocol as u8]), port].concat()
    };
    Element {
        key: key(peer.0, protocol.0, port.0),
        key_end: Some(key(peer.1, protocol.1, port.1)),
        data: Data::Nothing,
    }
}
