//! From a Service and its pods to endpoints: addresses, conditions, ports.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ContainerPort, Node, ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointHints, EndpointPort, ForNode, ForZone};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::slices::Group;
use crate::common::{Selector, deleting, labels, name, namespace, pod, uid};

/// The zone of a node, asked by name.
pub struct Zones<'a>(Box<Ask<'a>>);

type Ask<'a> = dyn Fn(&str) -> Option<String> + Send + Sync + 'a;
/// Name, number, protocol, application protocol.
type Port = (String, i32, String, Option<String>);

impl<'a> Zones<'a> {
    /// Zones as `f` knows them.
    pub fn new(f: impl Fn(&str) -> Option<String> + Send + Sync + 'a) -> Self {
        Self(Box::new(f))
    }
}

/// The zone that a node stands in.
pub fn zone_of(node: &Node) -> Option<String> {
    labels(node).get("topology.kubernetes.io/zone").cloned()
}

/// Whether the controllers keep endpoints of the service at all.
pub fn has_endpoints(s: &Service) -> bool {
    s.spec.as_ref().is_some_and(|spec| {
        spec.type_.as_deref() != Some("ExternalName") && spec.selector.as_ref().is_some_and(|m| !m.is_empty())
    })
}

/// Whether the service's selector picks the pod.
pub fn selects(s: &Service, p: &Pod) -> bool {
    Selector::from_map(s.spec.as_ref().and_then(|s| s.selector.as_ref())).matches(labels(p))
}

/// Whether the service has no cluster address.
pub fn headless(s: &Service) -> bool {
    s.spec.as_ref().is_some_and(|s| s.cluster_ip.as_deref() == Some("None"))
}

/// Whether a change of a pod can change endpoints.
pub fn relevant(old: &Pod, new: &Pod) -> bool {
    type Face<'a> = (bool, bool, bool, &'a str, Vec<&'a str>, (Option<&'a str>, Option<&'a str>), &'a str);
    fn face(p: &Pod) -> Face<'_> {
        let names = p.spec.as_ref().map_or((None, None), |s| (s.hostname.as_deref(), s.subdomain.as_deref()));
        (pod::ready(p), deleting(p), pod::finished(p), pod::node_name(p), addresses(p), names, uid(p))
    }
    face(old) != face(new) || labels(old) != labels(new)
}

/// All addresses of a pod.
fn addresses(p: &Pod) -> Vec<&str> {
    let Some(status) = &p.status else { return vec![] };
    let all: Vec<&str> = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).collect();
    if all.is_empty() { status.pod_ip.as_deref().into_iter().collect() } else { all }
}

/// `IPv4` or `IPv6`.
pub fn family(address: &str) -> Option<&'static str> {
    match address.parse::<IpAddr>().ok()? {
        IpAddr::V4(_) => Some("IPv4"),
        IpAddr::V6(_) => Some("IPv6"),
    }
}

/// The address of a pod in one family.
pub fn address_in<'a>(p: &'a Pod, wanted: &str) -> Option<&'a str> {
    addresses(p).into_iter().find(|a| family(a) == Some(wanted))
}

/// The address types that the service has slices of.
pub fn address_types(s: &Service) -> Vec<&'static str> {
    let spec = s.spec.as_ref();
    let listed: Vec<_> = spec
        .and_then(|s| s.ip_families.as_ref())
        .into_iter()
        .flatten()
        .filter_map(|f| match f.as_str() {
            "IPv4" => Some("IPv4"),
            "IPv6" => Some("IPv6"),
            _ => None,
        })
        .collect();
    if !listed.is_empty() {
        return listed;
    }
    match spec.and_then(|s| s.cluster_ip.as_deref()).and_then(family) {
        Some(one) => vec![one],
        None => vec!["IPv4", "IPv6"],
    }
}

/// The number of the pod's port that a service port leads to.
pub fn target_port(p: &Pod, port: &ServicePort) -> Option<i32> {
    match port.target_port.as_ref() {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(n)) => Some(*n),
        Some(IntOrString::String(wanted)) => {
            let spec = p.spec.as_ref()?;
            let sidecars =
                spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
            let same = |cp: &&ContainerPort| {
                cp.name.as_ref() == Some(wanted)
                    && cp.protocol.as_deref().unwrap_or("TCP") == port.protocol.as_deref().unwrap_or("TCP")
            };
            let mut all = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
            all.find(same).map(|cp| cp.container_port)
        }
    }
}

/// The name that DNS gives to the pod under the service, if any.
pub fn hostname(p: &Pod, s: &Service) -> Option<String> {
    let spec = p.spec.as_ref()?;
    let under = spec.subdomain.as_deref() == Some(name(s)) && namespace(p) == namespace(s);
    spec.hostname.clone().filter(|h| under && !h.is_empty())
}

/// A reference to the pod behind an endpoint.
pub fn target_ref(p: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".into()),
        namespace: p.metadata.namespace.clone(),
        name: p.metadata.name.clone(),
        uid: p.metadata.uid.clone(),
        ..Default::default()
    }
}

/// Whether a pod can be an endpoint: it has an address and may still serve.
pub fn can_serve(p: &Pod, include_terminating: bool) -> bool {
    !pod::finished(p) && !addresses(p).is_empty() && (include_terminating || !deleting(p))
}

/// The endpoints of a service, grouped by address type and by ports.
pub fn groups(s: &Service, pods: &[Arc<Pod>], types: &[&'static str], zones: &Zones<'_>) -> Vec<Group> {
    let mut by_ports: BTreeMap<(&str, Vec<Port>), Vec<Endpoint>> = BTreeMap::new();
    for p in pods.iter().filter(|p| can_serve(p, true)) {
        let ports = ports_of(s, p);
        if ports.is_empty() && !(headless(s) && no_ports(s)) {
            continue;
        }
        for type_ in types {
            if let Some(address) = address_in(p, type_) {
                by_ports.entry((type_, ports.clone())).or_default().push(endpoint(s, p, address, zones));
            }
        }
    }
    let convert = |((type_, ports), endpoints): ((&str, Vec<_>), Vec<Endpoint>)| Group {
        address_type: type_.to_owned(),
        ports: ports.into_iter().map(to_port).collect(),
        endpoints,
    };
    by_ports.into_iter().map(convert).collect()
}

fn to_port((name, port, protocol, app_protocol): Port) -> EndpointPort {
    EndpointPort { name: Some(name), port: Some(port), protocol: Some(protocol), app_protocol }
}

fn no_ports(s: &Service) -> bool {
    s.spec.as_ref().is_none_or(|s| s.ports.as_ref().is_none_or(Vec::is_empty))
}

/// (name, number, protocol, application protocol) of each service port that the pod offers.
fn ports_of(s: &Service, p: &Pod) -> Vec<Port> {
    let ports = s.spec.iter().flat_map(|s| s.ports.iter().flatten());
    ports
        .filter_map(|sp| {
            let number = target_port(p, sp)?;
            let protocol = sp.protocol.clone().unwrap_or_else(|| "TCP".into());
            Some((sp.name.clone().unwrap_or_default(), number, protocol, sp.app_protocol.clone()))
        })
        .collect()
}

fn endpoint(s: &Service, p: &Pod, address: &str, zones: &Zones<'_>) -> Endpoint {
    let serving = pod::ready(p);
    let terminating = deleting(p);
    let publish = s.spec.as_ref().and_then(|s| s.publish_not_ready_addresses) == Some(true);
    let ready = publish || (serving && !terminating);
    let node = Some(pod::node_name(p)).filter(|n| !n.is_empty());
    let zone = node.and_then(|n| zones.0(n));
    Endpoint {
        addresses: vec![address.to_owned()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hints: if ready { hints(s, node, zone.as_deref()) } else { None },
        hostname: hostname(p, s),
        node_name: node.map(str::to_owned),
        target_ref: Some(target_ref(p)),
        zone,
        deprecated_topology: None,
    }
}

/// Hints of `spec.trafficDistribution` (KEP-4444, KEP-3015): whom the endpoint is for.
fn hints(s: &Service, node: Option<&str>, zone: Option<&str>) -> Option<EndpointHints> {
    let mode = s.spec.as_ref()?.traffic_distribution.as_deref()?;
    let for_zones = zone.map(|z| vec![ForZone { name: z.to_owned() }]);
    match mode {
        "PreferClose" | "PreferSameZone" if for_zones.is_some() => Some(EndpointHints { for_zones, for_nodes: None }),
        "PreferSameNode" => {
            let for_nodes = node.map(|n| vec![ForNode { name: n.to_owned() }]);
            (for_zones.is_some() || for_nodes.is_some()).then_some(EndpointHints { for_zones, for_nodes })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::common::pod::testing::pod;
    use k8s_openapi::api::core::v1::{Container, PodIP, ServiceSpec};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

    pub fn service(spec: ServiceSpec) -> Service {
        Service {
            metadata: ObjectMeta { name: Some("s".into()), namespace: Some("ns".into()), ..Default::default() },
            spec: Some(spec),
            status: None,
        }
    }

    fn serving(name: &str, ip: &str) -> Pod {
        let mut p = pod(name, "node1", "Running", Some(0), 0);
        let status = p.status.as_mut().unwrap();
        status.pod_ip = Some(ip.into());
        status.pod_ips = Some(vec![PodIP { ip: ip.into() }, PodIP { ip: "fd00::1".into() }]);
        p.spec.as_mut().unwrap().containers = vec![Container {
            name: "c".into(),
            ports: Some(vec![ContainerPort { name: Some("web".into()), container_port: 8080, ..Default::default() }]),
            ..Default::default()
        }];
        p
    }

    fn web(target: IntOrString) -> ServiceSpec {
        ServiceSpec {
            ports: Some(vec![ServicePort {
                name: Some("http".into()),
                port: 80,
                target_port: Some(target),
                ..Default::default()
            }]),
            ip_families: Some(vec!["IPv4".into()]),
            ..Default::default()
        }
    }

    fn of(spec: ServiceSpec, p: Pod) -> Vec<Group> {
        let s = service(spec);
        let types = address_types(&s);
        groups(&s, &[Arc::new(p)], &types, &Zones::new(|n| (n == "node1").then(|| "z1".into())))
    }

    #[test]
    fn conditions_follow_readiness_and_deletion() {
        let named = || web(IntOrString::String("web".into()));
        let conditions = |spec, p| {
            let c = of(spec, p)[0].endpoints[0].conditions.clone().unwrap();
            (c.ready.unwrap(), c.serving.unwrap(), c.terminating.unwrap())
        };
        assert_eq!(conditions(named(), serving("a", "10.0.0.1")), (true, true, false));
        let mut gone = serving("a", "10.0.0.1");
        gone.metadata.deletion_timestamp = Some(Time(jiff::Timestamp::UNIX_EPOCH));
        assert_eq!(conditions(named(), gone), (false, true, true));
        let mut unready = serving("a", "10.0.0.1");
        unready.status.as_mut().unwrap().conditions = None;
        assert_eq!(conditions(named(), unready.clone()), (false, false, false));
        let publish = ServiceSpec { publish_not_ready_addresses: Some(true), ..named() };
        assert_eq!(conditions(publish, unready), (true, false, false));
        let mut done = serving("a", "10.0.0.1");
        done.status.as_mut().unwrap().phase = Some("Succeeded".into());
        assert!(of(named(), done).is_empty());
    }

    #[test]
    fn ports_families_and_places() {
        let g = of(web(IntOrString::String("web".into())), serving("a", "10.0.0.1"));
        assert_eq!(g.len(), 1);
        assert_eq!(g[0].ports[0].port, Some(8080));
        let e = &g[0].endpoints[0];
        assert_eq!((e.node_name.as_deref(), e.zone.as_deref()), (Some("node1"), Some("z1")));
        assert!(of(web(IntOrString::String("nope".into())), serving("a", "10.0.0.1")).is_empty());
        let dual = ServiceSpec { ip_families: Some(vec!["IPv4".into(), "IPv6".into()]), ..web(IntOrString::Int(9)) };
        let types: Vec<_> = of(dual, serving("a", "10.0.0.1")).into_iter().map(|g| g.address_type).collect();
        assert_eq!(types, ["IPv4", "IPv6"]);
        let portless = ServiceSpec {
            cluster_ip: Some("None".into()),
            ip_families: Some(vec!["IPv4".into()]),
            ..Default::default()
        };
        assert_eq!(of(portless, serving("a", "10.0.0.1"))[0].ports, []);
        let close = ServiceSpec { traffic_distribution: Some("PreferClose".into()), ..web(IntOrString::Int(9)) };
        let hints = of(close, serving("a", "10.0.0.1"))[0].endpoints[0].hints.clone().unwrap();
        assert_eq!(hints.for_zones.unwrap()[0].name, "z1");
    }
}
