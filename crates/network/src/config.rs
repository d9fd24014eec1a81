//! What the network part of a node needs to know; the program fills it in.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use ipnet::Ipv4Net;

/// The network's configuration on one node. Everything that could collide with a second cluster on
/// the same machine (names, ranges, paths) comes from here.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node's name (`metadata.name` of its Node).
    pub node_name: String,
    /// This node's InternalIP.
    pub node_ip: IpAddr,
    /// The cluster's data directory; the network keeps its files under `cni/` in it.
    pub data_dir: PathBuf,
    /// Name of the bridge that Pods hang on (`cvl<k>`; at most 15 bytes).
    pub bridge: String,
    /// Name of the nftables table (`caravel<k>`).
    pub table: String,
    /// The instance number: distinguishes packet marks and route owners of clusters side by side.
    pub instance: u8,
    /// The range all Pods' addresses come from.
    pub cluster_cidr: Ipv4Net,
    /// This node's part of it; `None` until the node's `spec.podCIDR` is known.
    pub pod_cidr: Option<Ipv4Net>,
    /// The range ClusterIPs come from.
    pub service_cidr: Ipv4Net,
    /// The ClusterIP of the DNS service.
    pub dns_ip: Ipv4Addr,
    /// The cluster's DNS domain, without a final dot.
    pub cluster_domain: String,
    /// Largest packet on Pod interfaces, in bytes; `None` takes the default route's device's.
    pub mtu: Option<u32>,
    /// Resolvers for names outside the cluster; empty takes the host's `/etc/resolv.conf`.
    pub upstream_resolvers: Vec<SocketAddr>,
}

impl Config {
    /// The defaults of the `instance`-th cluster on a machine (0 is the first).
    pub fn new(node_name: impl Into<String>, node_ip: IpAddr, data_dir: impl Into<PathBuf>, instance: u8) -> Self {
        let net = |second: u8| Ipv4Net::new_assert(Ipv4Addr::new(10, second, 0, 0), 16);
        Self {
            node_name: node_name.into(),
            node_ip,
            data_dir: data_dir.into(),
            bridge: format!("cvl{instance}"),
            table: format!("caravel{instance}"),
            instance,
            cluster_cidr: net(244u8.saturating_sub(instance)),
            pod_cidr: None,
            service_cidr: net(96u8.saturating_add(instance)),
            dns_ip: Ipv4Addr::new(10, 96u8.saturating_add(instance), 0, 10),
            cluster_domain: "cluster.local".to_owned(),
            mtu: None,
            upstream_resolvers: Vec::new(),
        }
    }

    /// Where the CNI configuration, plug-in links and address files are.
    pub fn cni_dir(&self) -> PathBuf {
        self.data_dir.join("cni")
    }

    /// The address of the bridge on this node: the first of the node's Pod range.
    pub fn gateway(&self) -> Option<Ipv4Addr> {
        self.pod_cidr.and_then(|net| net.hosts().next())
    }

    /// The packet-mark bit that asks for masquerading.
    ///
    /// The first instance uses the bit kube-proxy uses; others count down from it, so that the marks of
    /// clusters on one machine do not mix.
    pub fn masquerade_mark(&self) -> u32 {
        0x4000 >> (self.instance % 8)
    }

    /// `rtm_protocol` of routes made by this instance.
    pub fn route_protocol(&self) -> u8 {
        200 + self.instance % 50
    }
}
