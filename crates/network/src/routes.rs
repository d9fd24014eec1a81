//! Routes to the Pods of other nodes: directly by the nodes' InternalIPs, which must share a link.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use caravel_client::{Change, Cluster};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::cni::bridge;
use crate::config::Config;
use crate::netlink::{Error, Socket, route::Route};

/// Wait after a refusal.
const RETRY: Duration = Duration::from_secs(10);

fn internal_ip(node: &Node) -> Option<IpAddr> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    addresses.iter().find(|a| a.type_ == "InternalIP")?.address.parse().ok()
}

/// The other nodes' Pod ranges with their next hops.
pub fn plan(nodes: &[Arc<Node>], this: &str, protocol: u8) -> BTreeSet<Route> {
    let others = nodes.iter().filter(|n| n.metadata.name.as_deref() != Some(this));
    others
        .flat_map(|node| {
            let spec = node.spec.as_ref();
            let gateway = internal_ip(node);
            let ranges = spec
                .into_iter()
                .flat_map(|s| s.pod_cidrs.iter().flatten().chain(&s.pod_cidr))
                .filter_map(|c| c.parse::<IpNet>().ok());
            let ranges: BTreeSet<IpNet> = ranges.collect();
            ranges
                .into_iter()
                .filter(move |range| gateway.is_some_and(|g| g.is_ipv4() == range.addr().is_ipv4()))
                .map(move |destination| Route { destination: destination.trunc(), gateway, interface: None, protocol })
        })
        .collect()
}

/// Brings the kernel's routes that are ours to the plan; returns the first refusal after trying all.
pub fn apply(wanted: &BTreeSet<Route>, protocol: u8) -> Result<(), Error> {
    let mut socket = Socket::route()?;
    let present: Vec<Route> = socket.routes()?.into_iter().filter(|r| r.protocol == protocol).collect();
    let mut result = Ok(());
    for route in wanted {
        let there = present.iter().any(|p| p.destination == route.destination && p.gateway == route.gateway);
        if there {
            continue;
        }
        if let Err(error) = socket.replace_route(route) {
            result = result.and(Err(error));
        }
    }
    for route in present {
        if !wanted.iter().any(|w| w.destination == route.destination) {
            socket.delete_route(&route)?;
        }
    }
    if !wanted.is_empty() {
        localhost(&mut socket, protocol);
    }
    result
}

/// Clients that use a NodePort at 127.0.0.1 may be sent to another node: its link must carry them
/// (their source is replaced on the way out, and nothing comes in that way).
fn localhost(socket: &mut Socket, protocol: u8) {
    let (Ok(routes), Ok(links)) = (socket.routes(), socket.links()) else {
        return;
    };
    for link in links {
        let used = |r: &Route| r.protocol == protocol && r.interface == Some(link.index);
        if routes.iter().any(used) {
            let name = format!("net/ipv4/conf/{}/route_localnet", link.name);
            if let Err(error) = bridge::set(&name, "1") {
                tracing::debug!(%error, "NodePorts at 127.0.0.1 cannot reach other nodes");
            }
        }
    }
}

/// What of a node matters here; heartbeats do not.
fn relevant(node: &Node) -> (Option<IpAddr>, Vec<String>) {
    let spec = node.spec.as_ref();
    let ranges = spec.into_iter().flat_map(|s| s.pod_cidrs.iter().flatten().chain(&s.pod_cidr));
    (internal_ip(node), ranges.cloned().collect())
}

/// Keeps the routes until `stop`.
pub async fn run(config: Config, cluster: Cluster, stop: CancellationToken) {
    let nodes = cluster.informer::<Node>();
    let wake = Arc::new(Notify::new());
    tokio::select! {
        () = nodes.synced() => {}
        () = stop.cancelled() => return,
    }
    let signal = wake.clone();
    nodes.on_change(move |change| {
        let idle = matches!(change, Change::Updated { old, new } if relevant(old) == relevant(new));
        if !idle {
            signal.notify_one();
        }
    });
    let protocol = config.route_protocol();
    loop {
        let wanted = plan(&nodes.list(), &config.node_name, protocol);
        let applied = tokio::task::spawn_blocking(move || apply(&wanted, protocol)).await;
        let refused = match applied {
            Ok(Ok(())) => false,
            Ok(Err(error)) => {
                tracing::warn!(%error, "routes to other nodes' Pods are incomplete; nodes need a common link");
                true
            }
            Err(error) => {
                tracing::error!(%error, "the route worker failed");
                return;
            }
        };
        tokio::select! {
            () = wake.notified() => {}
            () = tokio::time::sleep(RETRY), if refused => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Removes all our routes.
pub fn purge(config: &Config) -> Result<(), Error> {
    apply(&BTreeSet::new(), config.route_protocol())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn node(name: &str, ip: &str, range: &str) -> Arc<Node> {
        Arc::new(
            serde_json::from_value(serde_json::json!({
                "metadata": {"name": name}, "spec": {"podCIDR": range, "podCIDRs": [range]},
                "status": {"addresses": [{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": ip}]},
            }))
            .unwrap(),
        )
    }

    #[test]
    fn other_nodes_only_and_each_once() {
        let nodes = [
            node("a", "192.0.2.1", "10.244.0.0/24"),
            node("b", "192.0.2.2", "10.244.1.0/24"),
            node("c", "fd00::3", "10.244.2.0/24"),
        ];
        let routes = plan(&nodes, "a", 200);
        assert_eq!(routes.len(), 1);
        let route = routes.first().unwrap();
        assert_eq!(route.destination.to_string(), "10.244.1.0/24");
        assert_eq!(route.gateway.unwrap().to_string(), "192.0.2.2");
    }
}
