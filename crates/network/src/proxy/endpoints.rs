//! Which endpoints of a Service's port serve whom: readiness, termination, locality and topology.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::ServicePort;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use super::shape::MAX_ENDPOINTS;

/// An endpoint's address and port.
pub type Target = (Ipv4Addr, u16);

/// The endpoints of one port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Targets {
    /// For traffic policy `Cluster`.
    pub cluster: Vec<Target>,
    /// For traffic policy `Local`: those on this node.
    pub local: Vec<Target>,
}

struct Candidate<'a> {
    target: Target,
    ready: bool,
    terminating: bool,
    local: bool,
    endpoint: &'a Endpoint,
}

/// The endpoints of a Service's port as this node uses them.
///
/// Ready ones; only when there is none, those that terminate but still serve (KEP-1669), for each policy
/// on its own. Topology hints (KEP-2433, KEP-3015) narrow the `Cluster` list when they are complete.
pub fn select(port: &ServicePort, slices: &[Arc<EndpointSlice>], node: &str, zone: Option<&str>) -> Targets {
    let candidates = candidates(port, slices, node);
    let ready: Vec<_> = candidates.iter().filter(|c| c.ready).collect();
    let cluster = if ready.is_empty() {
        finish(candidates.iter().filter(|c| c.terminating))
    } else {
        finish(near(&ready, node, zone).into_iter())
    };
    let mut local = finish(candidates.iter().filter(|c| c.local && c.ready));
    if local.is_empty() {
        local = finish(candidates.iter().filter(|c| c.local && c.terminating));
    }
    Targets { cluster, local }
}

fn candidates<'a>(port: &ServicePort, slices: &'a [Arc<EndpointSlice>], node: &str) -> Vec<Candidate<'a>> {
    let name = port.name.as_deref().unwrap_or_default();
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let mut out = Vec::new();
    for slice in slices.iter().filter(|s| s.address_type == "IPv4") {
        let numbers = slice.ports.iter().flatten().filter(|p| {
            p.name.as_deref().unwrap_or_default() == name && p.protocol.as_deref().unwrap_or("TCP") == protocol
        });
        for number in numbers.filter_map(|p| u16::try_from(p.port?).ok()) {
            for endpoint in slice.endpoints.iter().flatten() {
                // Only the first address counts (discovery.k8s.io/v1).
                let Some(ip) = endpoint.addresses.first().and_then(|a| a.parse().ok()) else {
                    continue;
                };
                let conditions = endpoint.conditions.as_ref();
                let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
                let serving = conditions.and_then(|c| c.serving).unwrap_or(ready);
                let terminating = conditions.and_then(|c| c.terminating).unwrap_or(false);
                out.push(Candidate {
                    target: (ip, number),
                    ready,
                    terminating: serving && terminating,
                    local: endpoint.node_name.as_deref() == Some(node),
                    endpoint,
                });
            }
        }
    }
    out
}

/// Narrows ready endpoints by hints: to this node if every endpoint has node hints and one is for it, else to
/// this zone in the same way, else not at all.
fn near<'a, 'b>(ready: &[&'b Candidate<'a>], node: &str, zone: Option<&str>) -> Vec<&'b Candidate<'a>> {
    let for_node = |c: &Candidate<'_>| {
        let hints = c.endpoint.hints.as_ref()?.for_nodes.as_ref()?;
        (!hints.is_empty()).then(|| hints.iter().any(|h| h.name == node))
    };
    let for_zone = |c: &Candidate<'_>| {
        let hints = c.endpoint.hints.as_ref()?.for_zones.as_ref()?;
        (!hints.is_empty()).then(|| hints.iter().any(|h| Some(h.name.as_str()) == zone))
    };
    narrowed(ready, for_node).or_else(|| zone.and_then(|_| narrowed(ready, for_zone))).unwrap_or_else(|| ready.to_vec())
}

fn narrowed<'a, 'b>(
    ready: &[&'b Candidate<'a>],
    hint: impl Fn(&Candidate<'a>) -> Option<bool>,
) -> Option<Vec<&'b Candidate<'a>>> {
    let mut out = Vec::new();
    for candidate in ready {
        if hint(candidate)? {
            out.push(*candidate);
        }
    }
    (!out.is_empty()).then_some(out)
}

fn finish<'a>(candidates: impl Iterator<Item = impl std::borrow::Borrow<Candidate<'a>>>) -> Vec<Target> {
    let unique: BTreeSet<Target> = candidates.map(|c| c.borrow().target).collect();
    unique.into_iter().take(MAX_ENDPOINTS).collect()
}
