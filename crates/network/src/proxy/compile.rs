//! One Service, with its EndpointSlices, as rows of the table's maps. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::base::{
    ALLOWED, CLUSTER_IPS, ENDPOINTS, LOCAL_PORTS, LOCAL_SERVICES, NODE_PORTS, NODE_PORTS_INSIDE, NODE_PORTS_OUTSIDE,
    REJECT, RESTRICTED, SERVICES, SERVICES_INSIDE, SERVICES_OUTSIDE, UNSERVED, UNSERVED_PORTS,
};
use super::endpoints::{Target, Targets, select};
use super::shape::{By, Masquerade, Picker, Scope, Shape, Sticky};
use crate::cni::hostports::{protocol_number, word};
use crate::netlink::nft::{Data, Element, Verdict};

/// What a node knows when it compiles a Service.
#[derive(Clone, Debug)]
pub struct View {
    /// This node's name.
    pub node: String,
    /// This node's zone (`topology.kubernetes.io/zone`).
    pub zone: Option<String>,
    /// The cluster IP that this node's own resolver answers, and the resolver's address.
    pub dns: Option<(Ipv4Addr, Ipv4Addr)>,
}

/// Where clients connect to: what a Service claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Frontend {
    /// An address with protocol number and port.
    Address(Ipv4Addr, u8, u16),
    /// Protocol number and port at all the node's addresses.
    NodePort(u8, u16),
    /// A cluster IP as such, whatever the port.
    ClusterIp(Ipv4Addr),
}

/// A row: the name of a set and an element.
pub type Row = (&'static str, Element);

/// What one frontend needs in the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Its rows, sorted.
    pub rows: Vec<Row>,
    /// The chains that the rows lead to.
    pub pickers: BTreeSet<Picker>,
    /// All its endpoints, for a UDP frontend.
    pub udp: Option<BTreeSet<Target>>,
}

/// The answer of a Service's health check port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The port (`spec.healthCheckNodePort`).
    pub port: u16,
    /// How many of this node's endpoints serve.
    pub local_endpoints: usize,
}

/// A compiled Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// Plans by frontend.
    pub frontends: BTreeMap<Frontend, Plan>,
    /// The health check, for load balancers with `externalTrafficPolicy: Local`.
    pub health: Option<HealthCheck>,
}

fn element(key: Vec<u8>, data: Data) -> Element {
    Element { key, key_end: None, data }
}

impl Frontend {
    fn by(self) -> By {
        match self {
            Frontend::NodePort(..) => By::NodePort,
            _ => By::Address,
        }
    }

    /// The key in verdict maps: node ports have no address.
    fn key(self) -> Vec<u8> {
        match self {
            Frontend::Address(ip, protocol, port) => {
                [ip.octets(), word(&[protocol]), word(&port.to_be_bytes())].concat()
            }
            Frontend::NodePort(protocol, port) => [word(&[protocol]), word(&port.to_be_bytes())].concat(),
            Frontend::ClusterIp(ip) => ip.octets().to_vec(),
        }
    }

    /// Address, protocol and port, as in the endpoints' map: node ports have the address zero.
    fn full(self) -> (Ipv4Addr, u8, u16) {
        match self {
            Frontend::Address(ip, protocol, port) => (ip, protocol, port),
            Frontend::NodePort(protocol, port) => (Ipv4Addr::UNSPECIFIED, protocol, port),
            Frontend::ClusterIp(ip) => (ip, 0, 0),
        }
    }

    fn protocol(self) -> u8 {
        match self {
            Frontend::Address(_, protocol, _) | Frontend::NodePort(protocol, _) => protocol,
            Frontend::ClusterIp(_) => 0,
        }
    }
}

/// Compiles a Service. Headless ones and ExternalNames, and those of other proxies, claim nothing.
pub fn compile(service: &Service, slices: &[Arc<EndpointSlice>], view: &View) -> Program {
    let mut program = Program::default();
    let Some(spec) = service.spec.as_ref().filter(|_| is_ours(service)) else {
        return program;
    };
    let cluster_ips = cluster_ips(spec);
    if cluster_ips.is_empty() {
        return program;
    }
    for ip in &cluster_ips {
        let mut plan = Plan::default();
        plan.rows.push((CLUSTER_IPS, element(ip.octets().to_vec(), Data::Nothing)));
        program.frontends.insert(Frontend::ClusterIp(*ip), plan);
    }
    let balancer_ips = balancer_ips(service);
    let ranges = source_ranges(service);
    let sticky = sticky(spec);
    let mut local_endpoints = BTreeSet::new();
    for port in spec.ports.iter().flatten() {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let (Some(protocol), Ok(number)) = (protocol_number(protocol), u16::try_from(port.port)) else {
            continue;
        };
        let targets = targets(port, slices, view, &cluster_ips);
        local_endpoints.extend(targets.local.iter().map(|t| t.0));
        let mut claim = |frontend: Frontend, mut plan: Plan| {
            if frontend.protocol() == 17 {
                plan.udp = Some(plan_targets(&plan, &targets));
            }
            plan.rows.sort();
            plan.rows.dedup();
            program.frontends.entry(frontend).or_insert(plan);
        };
        let outer =
            Outer { local: spec.external_traffic_policy.as_deref() == Some("Local"), sticky, targets: &targets };
        for ip in &cluster_ips {
            let frontend = Frontend::Address(*ip, protocol, number);
            let local = spec.internal_traffic_policy.as_deref() == Some("Local");
            claim(frontend, internal(frontend, local, sticky, &targets));
        }
        for ip in spec.external_ips.iter().flatten() {
            if let Ok(ip) = ip.parse() {
                let frontend = Frontend::Address(ip, protocol, number);
                claim(frontend, outer.plan(frontend));
            }
        }
        for ip in &balancer_ips {
            let frontend = Frontend::Address(*ip, protocol, number);
            let mut plan = outer.plan(frontend);
            restrict(frontend, &ranges, &mut plan);
            claim(frontend, plan);
        }
        if let Some(node_port) = port.node_port.and_then(|p| u16::try_from(p).ok())
            && node_port > 0
        {
            let frontend = Frontend::NodePort(protocol, node_port);
            claim(frontend, outer.plan(frontend));
        }
    }
    program.health = spec
        .health_check_node_port
        .and_then(|port| u16::try_from(port).ok())
        .filter(|port| {
            *port > 0
                && spec.type_.as_deref() == Some("LoadBalancer")
                && spec.external_traffic_policy.as_deref() == Some("Local")
        })
        .map(|port| HealthCheck { port, local_endpoints: local_endpoints.len() });
    program
}

/// Labels by which users give Services to another proxy, or to none.
const FOREIGN_LABELS: [&str; 2] = ["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"];

fn is_ours(service: &Service) -> bool {
    let labels = service.metadata.labels.as_ref();
    let external = service.spec.as_ref().is_some_and(|s| s.type_.as_deref() == Some("ExternalName"));
    !external && !labels.is_some_and(|l| FOREIGN_LABELS.iter().any(|name| l.contains_key(*name)))
}

fn cluster_ips(spec: &ServiceSpec) -> BTreeSet<Ipv4Addr> {
    let all = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    all.filter_map(|ip| ip.parse().ok()).collect()
}

/// The load balancer's addresses that packets arrive with (`ipMode: Proxy` ones do not, KEP-1860).
fn balancer_ips(service: &Service) -> BTreeSet<Ipv4Addr> {
    let is_balancer = service.spec.as_ref().is_some_and(|s| s.type_.as_deref() == Some("LoadBalancer"));
    let ingress = service.status.as_ref().and_then(|s| s.load_balancer.as_ref()).and_then(|b| b.ingress.as_ref());
    ingress
        .filter(|_| is_balancer)
        .into_iter()
        .flatten()
        .filter(|i| i.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(|i| i.ip.as_ref()?.parse().ok())
        .collect()
}

/// The source ranges, merged; empty means everybody.
fn source_ranges(service: &Service) -> Vec<Ipv4Net> {
    const ANNOTATION: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
    let mut texts: Vec<&str> =
        service.spec.iter().flat_map(|s| s.load_balancer_source_ranges.iter().flatten()).map(String::as_str).collect();
    if texts.is_empty()
        && let Some(text) = service.metadata.annotations.as_ref().and_then(|a| a.get(ANNOTATION))
    {
        texts.extend(text.split(',').filter(|t| !t.trim().is_empty()));
    }
    let ranges: Vec<Ipv4Net> = texts.iter().filter_map(|t| t.trim().parse::<Ipv4Net>().ok()).collect();
    // Ranges of the other family only: nobody with an IPv4 address is allowed.
    if ranges.is_empty() && !texts.is_empty() {
        return vec![Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 32)];
    }
    let merged = Ipv4Net::aggregate(&ranges);
    if merged.iter().any(|net| net.prefix_len() == 0) {
        return Vec::new();
    }
    merged
}

fn sticky(spec: &ServiceSpec) -> Option<u32> {
    const DEFAULT: i32 = 10_800;
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let seconds =
        spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref()?.timeout_seconds).unwrap_or(DEFAULT);
    u32::try_from(seconds).ok().filter(|s| *s > 0)
}

fn targets(
    port: &ServicePort,
    slices: &[Arc<EndpointSlice>],
    view: &View,
    cluster_ips: &BTreeSet<Ipv4Addr>,
) -> Targets {
    // The node answers the cluster's DNS name service itself, whatever the slices say.
    if let Some((service, resolver)) = view.dns
        && port.port == 53
        && cluster_ips.contains(&service)
    {
        return Targets { cluster: vec![(resolver, 53)], local: vec![(resolver, 53)] };
    }
    select(port, slices, &view.node, view.zone.as_deref())
}

/// The endpoints that a plan's rows lead to.
fn plan_targets(plan: &Plan, targets: &Targets) -> BTreeSet<Target> {
    if plan.pickers.is_empty() {
        return BTreeSet::new();
    }
    let all = targets.local.iter().chain(&targets.cluster);
    all.copied().collect()
}

fn unserved(frontend: Frontend, reject: bool) -> Row {
    let set = match frontend.by() {
        By::Address => UNSERVED,
        By::NodePort => UNSERVED_PORTS,
    };
    let verdict = if reject { Verdict::Goto(REJECT.to_owned()) } else { Verdict::Drop };
    (set, element(frontend.key(), Data::Verdict(verdict)))
}

/// Adds the row that leads to the picking chain, and the endpoints' rows.
fn serve(
    plan: &mut Plan,
    set: &'static str,
    frontend: Frontend,
    (shape, sticky): (Shape, Option<u32>),
    targets: &[Target],
) {
    let full = frontend.full();
    let picker = match sticky {
        None => Picker::Shape(shape),
        Some(timeout) => Picker::Sticky(Box::new(Sticky { shape, frontend: full, timeout, targets: targets.to_vec() })),
    };
    let verdict = Verdict::Goto(picker.name());
    plan.rows.push((set, element(frontend.key(), Data::Verdict(verdict))));
    plan.pickers.insert(picker);
    let (ip, protocol, port) = full;
    let full = Frontend::Address(ip, protocol, port).key();
    for (number, (ip, port)) in targets.iter().enumerate() {
        let slot = shape.scope.number() + number as u32;
        let target = [ip.octets(), word(&port.to_be_bytes())].concat();
        let key = [&slot.to_ne_bytes()[..], &full].concat();
        plan.rows.push((ENDPOINTS, element(key, Data::Value(target))));
    }
}

/// A cluster IP's plan.
fn internal(frontend: Frontend, local: bool, sticky: Option<u32>, targets: &Targets) -> Plan {
    let mut plan = Plan::default();
    let used = if local { &targets.local } else { &targets.cluster };
    if used.is_empty() {
        plan.rows.push(unserved(frontend, targets.cluster.is_empty()));
        return plan;
    }
    let shape = Shape {
        by: frontend.by(),
        scope: Scope::Inside,
        endpoints: used.len() as u32,
        masquerade: Masquerade::Foreign,
    };
    serve(&mut plan, SERVICES, frontend, (shape, sticky), used);
    plan
}

/// What plans of outer frontends (external IPs, load balancers, node ports) have in common.
struct Outer<'a> {
    local: bool,
    sticky: Option<u32>,
    targets: &'a Targets,
}

impl Outer<'_> {
    fn shape(
        &self,
        frontend: Frontend,
        scope: Scope,
        masquerade: Masquerade,
        targets: &[Target],
    ) -> (Shape, Option<u32>) {
        let shape = Shape { by: frontend.by(), scope, endpoints: targets.len() as u32, masquerade };
        (shape, self.sticky)
    }

    fn plan(&self, frontend: Frontend) -> Plan {
        let mut plan = Plan::default();
        let Targets { cluster, local } = self.targets;
        if cluster.is_empty() {
            plan.rows.push(unserved(frontend, true));
            return plan;
        }
        let (all, inside, outside, divide) = match frontend.by() {
            By::Address => (SERVICES, SERVICES_INSIDE, SERVICES_OUTSIDE, LOCAL_SERVICES),
            By::NodePort => (NODE_PORTS, NODE_PORTS_INSIDE, NODE_PORTS_OUTSIDE, LOCAL_PORTS),
        };
        if !self.local {
            let shape = self.shape(frontend, Scope::Inside, Masquerade::Always, cluster);
            serve(&mut plan, all, frontend, shape, cluster);
            return plan;
        }
        let verdict = Data::Verdict(Verdict::Goto(divide.to_owned()));
        plan.rows.push((all, element(frontend.key(), verdict)));
        let shape = self.shape(frontend, Scope::Inside, Masquerade::Foreign, cluster);
        serve(&mut plan, inside, frontend, shape, cluster);
        if local.is_empty() {
            // The load balancer learns by the health check to send nothing here.
            plan.rows.push(unserved(frontend, false));
        } else {
            let shape = self.shape(frontend, Scope::Outside, Masquerade::Never, local);
            serve(&mut plan, outside, frontend, shape, local);
        }
        plan
    }
}

/// Adds the rows of source ranges.
fn restrict(frontend: Frontend, ranges: &[Ipv4Net], plan: &mut Plan) {
    if ranges.is_empty() {
        return;
    }
    let key = frontend.key();
    plan.rows.push((RESTRICTED, element(key.clone(), Data::Nothing)));
    for net in ranges {
        plan.rows.push((
            ALLOWED,
            Element {
                key: [&net.network().octets()[..], &key].concat(),
                key_end: Some([&net.broadcast().octets()[..], &key].concat()),
                data: Data::Nothing,
            },
        ));
    }
}

/// The rows of the node's own resolver, which work before the DNS Service exists.
pub fn resolver(view: &View) -> Program {
    let mut program = Program::default();
    let Some((service, resolver)) = view.dns else {
        return program;
    };
    let targets = Targets { cluster: vec![(resolver, 53)], local: vec![(resolver, 53)] };
    for protocol in [6, 17] {
        let frontend = Frontend::Address(service, protocol, 53);
        let mut plan = internal(frontend, false, None, &targets);
        plan.rows.sort();
        if protocol == 17 {
            plan.udp = Some(targets.cluster.iter().copied().collect());
        }
        program.frontends.insert(frontend, plan);
    }
    program
}
