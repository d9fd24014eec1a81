//! Cuts each node's pod network out of the cluster's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use caravel_client::{Informer, Key, WorkQueue};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams};
use parking_lot::Mutex;
use serde_json::json;

use crate::common::*;
use crate::context::{Context, enqueue_each, record_on};

/// Nodes by the network that they have.
const BY_NETWORK: &str = "pod-network";

/// The networks of a size that a cluster's network divides into.
#[derive(Clone, Copy, Debug)]
struct Pool {
    base: u128,
    bits: u32,
    node_mask: u8,
    count: u32,
}

impl Pool {
    fn new((address, mask): (IpAddr, u8), node_mask: u8) -> anyhow::Result<Self> {
        let (base, bits) = match address {
            IpAddr::V4(a) => (u128::from(u32::from(a)), 32),
            IpAddr::V6(a) => (u128::from(a), 128),
        };
        anyhow::ensure!(
            mask <= node_mask && u32::from(node_mask) <= bits && node_mask - mask <= 16,
            "the cluster network {address}/{mask} cannot be divided into networks of /{node_mask}: the node mask must be as long as \
             the cluster's or up to 16 longer"
        );
        Ok(Self { base, bits, node_mask, count: 1 << (node_mask - mask) })
    }

    fn nth(&self, n: u32) -> String {
        let value = self.base + (u128::from(n) << (self.bits - u32::from(self.node_mask)));
        let address = if self.bits == 32 {
            IpAddr::V4(Ipv4Addr::from(u32::try_from(value).unwrap_or_default()))
        } else {
            IpAddr::V6(Ipv6Addr::from(value))
        };
        format!("{address}/{}", self.node_mask)
    }

    /// The number of the first network from `from` on that is not taken, and the network; after the last comes the first.
    fn free(&self, from: u32, taken: impl Fn(&str) -> bool) -> Option<(u32, String)> {
        let mut order = (from..self.count).chain(0..from.min(self.count));
        order.find_map(|n| Some((n, self.nth(n))).filter(|(_, network)| !taken(network)))
    }
}

fn cidr(node: &Node) -> Option<&str> {
    node.spec.as_ref()?.pod_cidr.as_deref().filter(|c| !c.is_empty())
}

/// Runs the controller; without a cluster network it has nothing to do.
///
/// # Errors
/// When the networks of the configuration do not fit.
pub async fn run(context: Context) -> anyhow::Result<()> {
    let Some(cluster) = context.config.cluster_cidr else {
        context.stop.cancelled().await;
        return Ok(());
    };
    let pool = Pool::new(cluster, context.config.node_cidr_mask)?;
    let nodes: Informer<Node> = context.cluster.informer();
    let recorder = context.cluster.recorder("cidrAllocator");
    // Given, but perhaps not yet seen in the informer.
    let given: Arc<Mutex<Vec<(Key, String)>>> = Arc::default();
    nodes.add_index(BY_NETWORK, |n| cidr(n).map(str::to_owned).into_iter().collect());
    // Where the search goes on: those before were taken, and what is given back is used again when all were given once.
    let next = AtomicU32::new(0);
    let queue = WorkQueue::new();
    enqueue_each(&nodes, &queue);
    nodes.synced().await;
    let client = context.client();
    let reconcile = |key: Key| {
        let (nodes, given, recorder, next) = (nodes.clone(), given.clone(), recorder.clone(), &next);
        let api: Api<Node> = Api::all(client.clone());
        async move {
            let Some(node) = nodes.get(&key) else {
                given.lock().retain(|(k, _)| *k != key);
                return Ok(None);
            };
            if cidr(&node).is_some() {
                given.lock().retain(|(k, _)| *k != key);
                return Ok(None);
            }
            let taken = |network: &str| {
                nodes.any_by_index(BY_NETWORK, network) || given.lock().iter().any(|(k, c)| *k != key && c == network)
            };
            // What it was given before, if writing that failed.
            let before = given.lock().iter().find(|(k, _)| *k == key).map(|(_, c)| c.clone());
            let network = match before.filter(|c| !nodes.any_by_index(BY_NETWORK, c)) {
                Some(network) => network,
                None => {
                    let Some((n, network)) = pool.free(next.load(Ordering::Relaxed), taken) else {
                        let note = format!("Node {} status is now: CIDRNotAvailable", key.name);
                        record_on(&recorder, &*node, &[Event::normal("CIDRNotAvailable", note)]);
                        anyhow::bail!("all pod networks of the cluster are taken; node {} gets none", key.name);
                    };
                    next.store(n + 1, Ordering::Relaxed);
                    let mut given = given.lock();
                    given.retain(|(k, _)| *k != key);
                    given.push((key.clone(), network.clone()));
                    network
                }
            };
            let patch = json!({"metadata": {"uid": uid(&*node), "resourceVersion": node.metadata.resource_version},
                "spec": {"podCIDR": network, "podCIDRs": [network]}});
            gone_is_fine(api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await)?;
            Ok(None)
        }
    };
    // One worker: two would choose the same network.
    context.work(queue, 1, reconcile).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn networks_in_order_and_to_the_end() {
        let pool = Pool::new(("10.244.0.0".parse().unwrap(), 22), 24).unwrap();
        let mut taken: Vec<String> = Vec::new();
        let free = |from, taken: &[String]| pool.free(from, |c| taken.iter().any(|t| t == c));
        for (n, want) in (0..).zip(["10.244.0.0/24", "10.244.1.0/24", "10.244.2.0/24", "10.244.3.0/24"]) {
            assert_eq!(free(n, &taken), Some((n, want.to_owned())));
            taken.push(want.to_owned());
        }
        for from in 0..6 {
            assert_eq!(free(from, &taken), None);
        }
        taken.remove(1);
        for from in 0..6 {
            assert_eq!(free(from, &taken), Some((1, "10.244.1.0/24".to_owned())), "from {from}");
        }
        let six = Pool::new(("fd00::".parse().unwrap(), 56), 64).unwrap();
        assert_eq!(six.nth(3), "fd00:0:0:3::/64");
        assert!(Pool::new(("10.0.0.0".parse().unwrap(), 24), 16).is_err());
    }
}
