//! What a node is told at its start.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The settings of one node. Everything that differs between two clusters on one machine is here.
#[derive(Debug, Clone)]
pub struct Config {
    /// The Node's name (`metadata.name`, `kubernetes.io/hostname`).
    pub node_name: String,
    /// The Node's addresses, the primary one first; they become `InternalIP` addresses and Pods' `hostIPs`.
    pub node_ips: Vec<IpAddr>,
    /// Where the node keeps what it must find again: `pods/<uid>` (volumes, hosts files, termination messages).
    pub root_dir: PathBuf,
    /// Where containers' logs go: `<namespace>_<pod>_<uid>/<container>/<restart>.log` below it.
    pub log_dir: PathBuf,
    /// The port of the node's HTTPS API.
    pub port: u16,
    /// The certificate chain and key of that API, both PEM; without them it is not served.
    pub tls: Option<(String, String)>,
    /// The authority of the certificates its clients show, PEM.
    pub client_ca: Option<String>,
    /// Addresses of the cluster's DNS service.
    pub cluster_dns: Vec<IpAddr>,
    /// The cluster's DNS domain.
    pub cluster_domain: String,
    /// The file Pods with `dnsPolicy: Default` take their resolvers from.
    pub resolv_conf: PathBuf,
    /// The cgroup under which `burstable`, `besteffort` and guaranteed Pods live, for example `/caravel0`.
    pub cgroup_root: String,
    /// A directory of Pod manifests that run without the API (static Pods).
    pub manifest_dir: Option<PathBuf>,
    /// Where drivers of devices describe what a device adds to a container (CDI), the most important last.
    pub cdi_dirs: Vec<PathBuf>,
    /// Pods at most.
    pub max_pods: u32,
    /// Labels the Node gets at registration.
    pub labels: std::collections::BTreeMap<String, String>,
    /// Taints the Node gets at registration, as `key[=value]:Effect`.
    pub taints: Vec<String>,
    /// The Node's `providerID`.
    pub provider_id: Option<String>,
    /// The range Pods' addresses come from, when this node does not leave it to the node IPAM controller. Written to
    /// `spec.podCIDR` at registration.
    pub pod_cidr: Option<String>,
    /// Image pulls at once.
    pub max_parallel_pulls: usize,
    /// Resources kept from Pods (CPU in thousandths, memory in bytes).
    pub reserved: Reserved,
    /// A container's log file is rotated past this size, bytes.
    pub log_max_bytes: u64,
    /// Log files kept for one container, the current one included.
    pub log_max_files: usize,
    /// The first delay before a crashed container starts again.
    pub backoff_initial: Duration,
    /// The longest such delay.
    pub backoff_max: Duration,
    /// The Lease' duration; it is renewed four times in it.
    pub lease_duration: Duration,
    /// How often the Node's status is written when nothing changes.
    pub status_interval: Duration,
    /// When images and Pods are removed for want of space.
    pub thresholds: Thresholds,
    /// Containers without a seccomp profile get the runtime's default one instead of none.
    pub seccomp_default: bool,
    /// Kernel parameters Pods may set beside those that are safe; a trailing `*` stands for any end.
    pub allowed_unsafe_sysctls: Vec<String>,
    /// The version reported as kubelet's.
    pub version: String,
}

/// Resources not offered to Pods.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reserved {
    /// Thousandths of a CPU.
    pub cpu_millis: i64,
    /// Bytes.
    pub memory_bytes: i64,
}

/// Limits of disk and memory that make the node clean up.
///
/// Upstream's shares are meant for servers with small disks: a tenth of a laptop's disk is a hundred gigabytes, and a
/// node that refuses Pods with so much free helps nobody. So each share has a bound in bytes beside it.
#[derive(Debug, Clone, Copy)]
pub struct Thresholds {
    /// Evict when less memory than this is available, bytes.
    pub memory_available: u64,
    /// Evict when less than this of the node's file system is free.
    pub nodefs_available: Floor,
    /// Evict when less than this share of its inodes is free, in hundredths.
    pub nodefs_inodes_percent: u8,
    /// Remove images when less than this of the image file system is free.
    pub image_gc_start: Floor,
    /// Stop removing images when this much is free.
    pub image_gc_stop: Floor,
}

/// A share of a whole, with an upper bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Floor {
    /// Hundredths of the whole.
    pub percent: u8,
    /// Never more than so many bytes.
    pub at_most: u64,
}

impl Floor {
    /// What must be free of so many bytes.
    pub fn of(self, total: u64) -> u64 {
        (total / 100 * u64::from(self.percent)).min(self.at_most)
    }
}

impl Default for Thresholds {
    fn default() -> Self {
        Thresholds {
            memory_available: 100 << 20,
            nodefs_available: Floor { percent: 10, at_most: 1 << 30 },
            nodefs_inodes_percent: 5,
            image_gc_start: Floor { percent: 15, at_most: 4 << 30 },
            image_gc_stop: Floor { percent: 20, at_most: 6 << 30 },
        }
    }
}

impl Config {
    /// The settings of a node of this name with everything it keeps below `data_dir` (`node/` and `logs/`).
    pub fn new(node_name: impl Into<String>, node_ip: IpAddr, data_dir: &Path) -> Self {
        Config {
            node_name: node_name.into(),
            node_ips: vec![node_ip],
            root_dir: data_dir.join("node"),
            log_dir: data_dir.join("logs/pods"),
            port: 10250,
            tls: None,
            client_ca: None,
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            resolv_conf: "/etc/resolv.conf".into(),
            cgroup_root: "/caravel0".into(),
            manifest_dir: None,
            cdi_dirs: vec!["/etc/cdi".into(), "/var/run/cdi".into(), data_dir.join("cdi")],
            max_pods: 110,
            labels: Default::default(),
            taints: Vec::new(),
            provider_id: None,
            pod_cidr: None,
            max_parallel_pulls: 2,
            reserved: Reserved::default(),
            log_max_bytes: 10 << 20,
            log_max_files: 5,
            backoff_initial: Duration::from_secs(10),
            backoff_max: Duration::from_secs(300),
            lease_duration: Duration::from_secs(40),
            status_interval: Duration::from_secs(300),
            thresholds: Thresholds::default(),
            seccomp_default: true,
            allowed_unsafe_sysctls: Vec::new(),
            version: "v1.36.0".into(),
        }
    }

    /// Where plug-ins register: a socket each.
    pub fn plugins_dir(&self) -> PathBuf {
        self.root_dir.join("plugins_registry")
    }

    /// The directory of one Pod.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.root_dir.join("pods").join(uid)
    }

    /// The directory of one Pod's logs.
    pub fn pod_log_dir(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.log_dir.join(format!("{namespace}_{name}_{uid}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_floor_is_a_share_of_small_disks_and_bounded_on_large_ones() {
        let floor = Thresholds::default().nodefs_available;
        assert_eq!(floor.of(5_000_000_000), 500_000_000);
        assert_eq!(floor.of(250 << 30), 1 << 30);
    }
}
