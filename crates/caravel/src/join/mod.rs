//! A cluster of several machines: tokens with which nodes join, what the cluster publishes for them, and the node's side.
//!
//! A node needs three things: the API server's address, its authority's certificate, and the right to ask for a client
//! certificate. A bootstrap token (`abcdef.0123456789abcdef`) is that right, for a while; the authority is pinned by the
//! hash of its public key, as kubeadm does. With them the node reads the `cluster-info` ConfigMap, asks for its
//! certificates by CertificateSigningRequests, and never uses the token again.

mod agent;
mod bootstrap;
mod credentials;
mod publish;
mod serving;
mod token;

pub use agent::{Agent, run as agent};
pub use publish::{Published, publish};
pub use token::{Token, run as token};

/// ConfigMap `kube-system/caravel-config`: what a node must know of the cluster beside its address.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterSettings {
    /// The range of all Pods' addresses.
    pub cluster_cidr: ipnet::Ipv4Net,
    /// The range of Services' addresses.
    pub service_cidr: ipnet::Ipv4Net,
    /// The address of the cluster's DNS Service.
    pub dns_ip: std::net::Ipv4Addr,
    /// The cluster's DNS domain.
    pub domain: String,
    /// A node that is silent for so many seconds is lost; upstream's time when it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_grace_seconds: Option<u64>,
}

/// How long a node's Lease lasts when it may be silent for `grace` seconds: upstream's 40 of 50. It is renewed four times in it.
pub fn lease_duration(grace: u64) -> std::time::Duration {
    std::time::Duration::from_secs((grace * 4 / 5).max(4))
}

/// Namespace and name of the settings.
const SETTINGS: (&str, &str) = ("kube-system", "caravel-config");
/// The key of the ConfigMap that holds them.
const SETTINGS_KEY: &str = "cluster.json";
/// Namespace and name of what a node may read before it trusts anybody.
const INFO: (&str, &str) = ("kube-public", "cluster-info");
