//! Usage figures. `None` is "not known", which is not 0.

use super::{FilesystemUsage, SandboxMetadata, StringMap};

/// CPU.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuUsage {
    /// When measured, ns.
    pub timestamp: i64,
    /// Nanoseconds of CPU time since the start.
    pub usage_core_nanoseconds: Option<u64>,
    /// Nanoseconds of CPU time a second, lately.
    pub usage_nano_cores: Option<u64>,
}

/// Memory, bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryUsage {
    /// When measured, ns.
    pub timestamp: i64,
    /// What cannot be reclaimed easily.
    pub working_set_bytes: Option<u64>,
    /// Limit − working set.
    pub available_bytes: Option<u64>,
    /// All.
    pub usage_bytes: Option<u64>,
    /// Anonymous memory.
    pub rss_bytes: Option<u64>,
    /// Minor faults.
    pub page_faults: Option<u64>,
    /// Major faults.
    pub major_page_faults: Option<u64>,
}

/// Swap, bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SwapUsage {
    /// When measured, ns.
    pub timestamp: i64,
    /// Free.
    pub available_bytes: Option<u64>,
    /// Taken.
    pub usage_bytes: Option<u64>,
}

/// One network interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InterfaceUsage {
    /// Its name.
    pub name: String,
    /// Bytes received.
    pub rx_bytes: Option<u64>,
    /// Receive errors.
    pub rx_errors: Option<u64>,
    /// Bytes sent.
    pub tx_bytes: Option<u64>,
    /// Send errors.
    pub tx_errors: Option<u64>,
}

/// A Pod's network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkUsage {
    /// When measured, ns.
    pub timestamp: i64,
    /// The interface with the default route.
    pub default_interface: Option<InterfaceUsage>,
    /// All others.
    pub interfaces: Vec<InterfaceUsage>,
}

/// One container's usage.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerStats {
    /// The container's id.
    pub id: String,
    /// Its name in the Pod.
    pub name: String,
    /// Attempt.
    pub attempt: u32,
    /// Labels.
    pub labels: StringMap,
    /// Annotations.
    pub annotations: StringMap,
    /// CPU.
    pub cpu: Option<CpuUsage>,
    /// Memory.
    pub memory: Option<MemoryUsage>,
    /// What it wrote to its root file system.
    pub writable_layer: Option<FilesystemUsage>,
    /// Swap.
    pub swap: Option<SwapUsage>,
}

/// One sandbox' usage, its containers included.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SandboxStats {
    /// The sandbox' id.
    pub id: String,
    /// Identity.
    pub metadata: SandboxMetadata,
    /// Labels.
    pub labels: StringMap,
    /// CPU.
    pub cpu: Option<CpuUsage>,
    /// Memory.
    pub memory: Option<MemoryUsage>,
    /// Network.
    pub network: Option<NetworkUsage>,
    /// Processes.
    pub process_count: Option<u64>,
    /// Its containers.
    pub containers: Vec<ContainerStats>,
}
