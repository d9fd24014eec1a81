//! Cluster DNS: the Kubernetes DNS specification 1.1.0, answered on each node from the informers' stores.
//!
//! `zone` answers a question from a [`catalog::Catalog`], purely. `forward` asks other resolvers for names
//! outside the cluster. `server` speaks UDP and TCP at the bridge's address, to which the proxy maps the
//! cluster IP of the DNS Service. `objects` keeps that Service and its EndpointSlice as users expect them.

pub mod catalog;
pub mod forward;
mod objects;
pub mod resolve;
pub mod server;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_server;
pub mod zone;

use std::net::SocketAddr;
use std::sync::Arc;

use caravel_client::Cluster;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use catalog::Informers;
use forward::Forwarder;
use resolve::Resolver;
use zone::Zone;

/// Serves the node's DNS until `stop`. The configuration's Pod range must be known.
pub async fn run(config: Config, cluster: Cluster, stop: CancellationToken) {
    let Some(gateway) = config.gateway() else {
        tracing::error!(node = config.node_name, "DNS needs the node's spec.podCIDR");
        return;
    };
    let zone = match Zone::new(&config.cluster_domain, config.dns_ip) {
        Ok(zone) => zone,
        Err(error) => {
            tracing::error!(domain = config.cluster_domain, %error, "the cluster domain is no DNS name");
            return;
        }
    };
    let informers = Informers::new(&cluster, &config);
    let forwarder = Forwarder::new(config.upstream_resolvers.clone(), vec![gateway.into(), config.dns_ip.into()]);
    let resolver = Arc::new(Resolver::new(zone, informers.clone(), forwarder, &config));
    let serving = async {
        // Before the first lists, every name would seem not to exist.
        informers.synced().await;
        server::run(SocketAddr::new(gateway.into(), 53), resolver, stop.clone()).await;
    };
    let objects = objects::run(&config, gateway, &cluster, &informers);
    tokio::select! {
        () = stop.cancelled() => {}
        ((), ()) = async { tokio::join!(serving, objects) } => {}
    }
}
