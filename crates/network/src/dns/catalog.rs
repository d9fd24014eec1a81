//! What the zone is made of.

use std::net::IpAddr;
use std::sync::Arc;

use caravel_client::{Cluster, Informer, Key, ListSelector};
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::config::Config;

/// The objects that names come from.
pub trait Catalog: Send + Sync {
    /// Whether the namespace exists.
    fn namespace(&self, name: &str) -> bool;
    /// The Service.
    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>>;
    /// The Service's EndpointSlices.
    fn slices(&self, namespace: &str, service: &str) -> Vec<Arc<EndpointSlice>>;
    /// The Services with the cluster IP.
    fn services_at(&self, ip: IpAddr) -> Vec<Arc<Service>>;
    /// The EndpointSlices with the address.
    fn slices_at(&self, ip: IpAddr) -> Vec<Arc<EndpointSlice>>;
    /// The namespace of the Pod of this node with the address, if it has the cluster's search path.
    fn searching_pod(&self, ip: IpAddr) -> Option<String>;
}

const BY_SERVICE: &str = "service";
const BY_CLUSTER_IP: &str = "cluster-ip";
const BY_ADDRESS: &str = "address";
const BY_POD_IP: &str = "pod-ip";
/// The label that ties a slice to its Service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The catalog of a running cluster.
#[derive(Clone)]
pub struct Informers {
    namespaces: Informer<Namespace>,
    /// All Services.
    pub services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    pods: Informer<Pod>,
}

/// `namespace/name` of the slice's Service.
pub fn owner(slice: &EndpointSlice) -> Option<(String, String)> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?.clone();
    Some((slice.metadata.namespace.clone()?, name))
}

fn slice_owner(slice: &EndpointSlice) -> Vec<String> {
    let pair = owner(slice);
    pair.map(|(namespace, name)| format!("{namespace}/{name}")).into_iter().collect()
}

fn slice_addresses(slice: &EndpointSlice) -> Vec<String> {
    let endpoints = slice.endpoints.iter().flatten();
    endpoints.flat_map(|e| e.addresses.clone()).collect()
}

fn service_addresses(service: &Service) -> Vec<String> {
    let spec = service.spec.iter();
    spec.flat_map(|s| s.cluster_ips.iter().flatten().chain(&s.cluster_ip)).filter(|ip| *ip != "None").cloned().collect()
}

fn pod_addresses(pod: &Pod) -> Vec<String> {
    let status = pod.status.iter();
    status.flat_map(|s| s.pod_ips.iter().flatten()).map(|ip| ip.ip.clone()).collect()
}

impl Informers {
    /// The informers of a cluster; they start now.
    pub fn new(cluster: &Cluster, config: &Config) -> Self {
        let here = ListSelector::fields(format!("spec.nodeName={}", config.node_name));
        let informers = Self {
            namespaces: cluster.informer(),
            services: cluster.informer(),
            slices: cluster.informer(),
            pods: cluster.informer_with(here),
        };
        informers.services.add_index(BY_CLUSTER_IP, service_addresses);
        informers.slices.add_index(BY_SERVICE, slice_owner);
        informers.slices.add_index(BY_ADDRESS, slice_addresses);
        informers.pods.add_index(BY_POD_IP, pod_addresses);
        informers
    }

    /// Returns once names can be answered (the Pods only help with search paths).
    pub async fn synced(&self) {
        self.namespaces.synced().await;
        self.services.synced().await;
        self.slices.synced().await;
    }
}

impl Catalog for Informers {
    fn namespace(&self, name: &str) -> bool {
        self.namespaces.get(&Key::cluster(name)).is_some()
    }

    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>> {
        self.services.get(&Key::new(namespace, name))
    }

    fn slices(&self, namespace: &str, service: &str) -> Vec<Arc<EndpointSlice>> {
        let owner = format!("{namespace}/{service}");
        self.slices.by_index(BY_SERVICE, &owner)
    }

    fn services_at(&self, ip: IpAddr) -> Vec<Arc<Service>> {
        self.services.by_index(BY_CLUSTER_IP, &ip.to_string())
    }

    fn slices_at(&self, ip: IpAddr) -> Vec<Arc<EndpointSlice>> {
        self.slices.by_index(BY_ADDRESS, &ip.to_string())
    }

    fn searching_pod(&self, ip: IpAddr) -> Option<String> {
        let pods = self.pods.by_index(BY_POD_IP, &ip.to_string());
        pods.iter().find_map(|pod| search_namespace(pod))
    }
}

/// The namespace whose search path the Pod has; none when its DNS settings are its own.
pub fn search_namespace(pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let standard = matches!(spec.dns_policy.as_deref(), None | Some("ClusterFirst" | "ClusterFirstWithHostNet"));
    let plain = spec.dns_config.is_none() && !spec.host_network.unwrap_or(false);
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    let living = !matches!(phase, Some("Succeeded" | "Failed"));
    (standard && plain && living).then(|| pod.metadata.namespace.clone())?
}
