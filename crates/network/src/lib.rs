//! The network of a node: Pod network (CNI plug-in), service proxy and cluster DNS.
//!
//! Each part decides in pure functions and applies in one small place: `proxy` compiles Services into
//! one nftables table, `dns` answers out of the informers' stores, `cni` gives Pods their addresses.

pub mod cni;
mod config;
pub mod dns;
pub mod netlink;
pub mod policy;
pub mod proxy;
pub mod routes;
#[cfg(test)]
mod testing;

use caravel_client::{Cluster, Key, ListSelector};
use k8s_openapi::api::core::v1::Node;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub use config::Config;

/// Why the network cannot run or cannot be removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The Pod network.
    #[error(transparent)]
    Cni(#[from] cni::Error),
    /// The kernel refused.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// A worker thread failed.
    #[error("network worker: {0}")]
    Worker(#[from] tokio::task::JoinError),
}

/// Runs the node's network until `stop`: Pod network, proxy, DNS and routes.
///
/// When the configuration has no Pod range, the node's `spec.podCIDR` is waited for first.
pub async fn run(mut config: Config, cluster: Cluster, stop: CancellationToken) -> Result<(), Error> {
    if config.pod_cidr.is_none() {
        config.pod_cidr = tokio::select! {
            range = pod_cidr(&config.node_name, &cluster) => Some(range),
            () = stop.cancelled() => return Ok(()),
        };
    }
    let network = config.clone();
    tokio::task::spawn_blocking(move || cni::configure(&network)).await??;
    tokio::join!(
        proxy::run(config.clone(), cluster.clone(), stop.clone()),
        dns::run(config.clone(), cluster.clone(), stop.clone()),
        routes::run(config, cluster, stop),
    );
    Ok(())
}

/// Waits until the node has an IPv4 `spec.podCIDR`.
async fn pod_cidr(name: &str, cluster: &Cluster) -> ipnet::Ipv4Net {
    let selector = ListSelector::fields(format!("metadata.name={name}"));
    let nodes = cluster.informer_with::<Node>(selector);
    let wake = std::sync::Arc::new(Notify::new());
    let signal = wake.clone();
    nodes.on_change(move |_| signal.notify_one());
    loop {
        let node = nodes.get(&Key::cluster(name));
        let spec = node.as_ref().and_then(|n| n.spec.as_ref());
        let range = spec
            .into_iter()
            .flat_map(|s| s.pod_cidr.iter().chain(s.pod_cidrs.iter().flatten()))
            .find_map(|text| text.parse().ok());
        if let Some(range) = range {
            return range;
        }
        wake.notified().await;
    }
}

/// Removes everything the network made on this machine: table, routes, bridge, links and files.
pub fn purge(config: &Config) -> Result<(), Error> {
    proxy::purge(config)?;
    routes::purge(config)?;
    cni::purge(config)?;
    Ok(())
}
