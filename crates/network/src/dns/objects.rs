//! The objects that users expect of cluster DNS: Service `kube-system/kube-dns` and its EndpointSlice.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use caravel_client::{Change, Cluster, Key};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::sync::Notify;

use super::catalog::{Informers, SERVICE_NAME};
use crate::config::Config;

const NAMESPACE: &str = "kube-system";
const NAME: &str = "kube-dns";
const MANAGER: &str = "caravel-dns";
/// First and longest wait after a refusal (the namespace appears a moment after the server).
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// The Service, without a selector: its endpoints are the nodes' own resolvers.
fn service(dns_ip: Ipv4Addr) -> Result<Service, serde_json::Error> {
    serde_json::from_value(json!({
        "metadata": {
            "name": NAME, "namespace": NAMESPACE,
            "labels": {"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"},
        },
        "spec": {
            "clusterIP": dns_ip, "clusterIPs": [dns_ip],
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
            ],
        },
    }))
}

/// The node's slice; the garbage collector removes it with the node.
fn slice(node: &str, address: Ipv4Addr, owner: &Node) -> serde_json::Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": slice_name(node), "namespace": NAMESPACE,
            "labels": {SERVICE_NAME: NAME, "endpointslice.kubernetes.io/managed-by": MANAGER},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": node, "uid": owner.uid()}],
        },
        "addressType": "IPv4",
        "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}],
        "endpoints": [{
            "addresses": [address], "nodeName": node,
            "conditions": {"ready": true, "serving": true, "terminating": false},
        }],
    })
}

fn slice_name(node: &str) -> String {
    let mut name = format!("{NAME}-{node}");
    name.truncate(253);
    name
}

/// Makes the objects, and makes them again when they are deleted. Never returns.
pub async fn run(config: &Config, gateway: Ipv4Addr, cluster: &Cluster, informers: &Informers) {
    let wake = Arc::new(Notify::new());
    let signal = wake.clone();
    informers.services.on_change(move |change| {
        let key = Key::of(change.object().as_ref());
        let ours = key.namespace == NAMESPACE && key.name == NAME;
        if ours && matches!(change, Change::Deleted(_)) {
            signal.notify_one();
        }
    });
    informers.services.synced().await;
    let mut wait = RETRY.0;
    loop {
        match ensure(config, gateway, cluster).await {
            Ok(()) => {
                wait = RETRY.0;
                wake.notified().await;
            }
            Err(error) => {
                tracing::debug!(%error, "the DNS Service cannot be made yet");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(RETRY.1);
            }
        }
    }
}

async fn ensure(config: &Config, gateway: Ipv4Addr, cluster: &Cluster) -> Result<(), kube::Error> {
    let services = Api::<Service>::namespaced(cluster.client(), NAMESPACE);
    if services.get_opt(NAME).await?.is_none() {
        let new = service(config.dns_ip).map_err(kube::Error::SerdeError)?;
        match services.create(&PostParams::default(), &new).await {
            // Another node was faster.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            other => {
                other?;
            }
        }
    }
    let node = Api::<Node>::all(cluster.client()).get(&config.node_name).await?;
    let slices = Api::<EndpointSlice>::namespaced(cluster.client(), NAMESPACE);
    let wanted = slice(&config.node_name, gateway, &node);
    let name = slice_name(&config.node_name);
    let parameters = PatchParams::apply(MANAGER).force();
    slices.patch(&name, &parameters, &Patch::Apply(&wanted)).await?;
    Ok(())
}
