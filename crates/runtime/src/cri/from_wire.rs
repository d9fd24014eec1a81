//! CRI messages as our structs.

use std::collections::HashMap;

use k8s_cri::v1 as wire;

use super::convert::*;
use crate::types::*;

fn map(map: HashMap<String, String>) -> StringMap {
    map.into_iter().collect()
}

fn u64_value(value: Option<wire::UInt64Value>) -> Option<u64> {
    value.map(|v| v.value)
}

fn metadata(m: Option<wire::PodSandboxMetadata>) -> SandboxMetadata {
    let m = m.unwrap_or_default();
    SandboxMetadata { name: m.name, uid: m.uid, namespace: m.namespace, attempt: m.attempt }
}

fn ids(mappings: Vec<wire::IdMapping>) -> Vec<IdMapping> {
    mappings
        .into_iter()
        .map(|m| IdMapping { host_id: m.host_id, container_id: m.container_id, length: m.length })
        .collect()
}

fn namespaces(o: wire::NamespaceOption) -> NamespaceOptions {
    NamespaceOptions {
        network: namespace_mode_from(o.network),
        pid: namespace_mode_from(o.pid),
        ipc: namespace_mode_from(o.ipc),
        target_id: o.target_id,
        userns: o
            .userns_options
            .filter(|u| namespace_mode_from(u.mode) == NamespaceMode::Pod && !u.uids.is_empty())
            .map(|u| UserNamespace { uids: ids(u.uids), gids: ids(u.gids) }),
    }
}

pub(super) fn status(r: wire::StatusResponse) -> RuntimeStatus {
    RuntimeStatus {
        conditions: r
            .status
            .unwrap_or_default()
            .conditions
            .into_iter()
            .map(|c| RuntimeCondition { type_: c.r#type, status: c.status, reason: c.reason, message: c.message })
            .collect(),
        handlers: r
            .runtime_handlers
            .into_iter()
            .map(|h| {
                let f = h.features.unwrap_or_default();
                RuntimeHandler {
                    name: h.name,
                    recursive_read_only_mounts: f.recursive_read_only_mounts,
                    user_namespaces: f.user_namespaces,
                }
            })
            .collect(),
    }
}

pub(super) fn sandbox(s: wire::PodSandbox) -> Sandbox {
    Sandbox {
        id: s.id,
        metadata: metadata(s.metadata),
        state: sandbox_state_from(s.state),
        created_at: s.created_at,
        labels: map(s.labels),
        annotations: map(s.annotations),
        runtime_handler: s.runtime_handler,
    }
}

pub(super) fn sandbox_status(s: wire::PodSandboxStatus) -> SandboxStatus {
    let network = s.network.unwrap_or_default();
    let ips = std::iter::once(network.ip)
        .chain(network.additional_ips.into_iter().map(|i| i.ip))
        .filter(|ip| !ip.is_empty())
        .collect();
    let options = s.linux.and_then(|l| l.namespaces).and_then(|n| n.options).unwrap_or_default();
    SandboxStatus {
        id: s.id,
        metadata: metadata(s.metadata),
        state: sandbox_state_from(s.state),
        created_at: s.created_at,
        ips,
        namespaces: namespaces(options),
        labels: map(s.labels),
        annotations: map(s.annotations),
        runtime_handler: s.runtime_handler,
    }
}

pub(super) fn container(c: wire::Container) -> Container {
    let m = c.metadata.unwrap_or_default();
    Container {
        id: c.id,
        sandbox_id: c.pod_sandbox_id,
        name: m.name,
        attempt: m.attempt,
        image: c.image.map(|i| i.image).unwrap_or_default(),
        image_ref: c.image_ref,
        image_id: c.image_id,
        state: container_state_from(c.state),
        created_at: c.created_at,
        labels: map(c.labels),
        annotations: map(c.annotations),
    }
}

fn mount(m: wire::Mount) -> Mount {
    Mount {
        container_path: m.container_path,
        host_path: m.host_path,
        readonly: m.readonly,
        recursive_readonly: m.recursive_read_only,
        propagation: propagation_from(m.propagation),
        selinux_relabel: m.selinux_relabel,
    }
}

fn resources(r: wire::LinuxContainerResources) -> LinuxResources {
    LinuxResources {
        cpu_period: r.cpu_period,
        cpu_quota: r.cpu_quota,
        cpu_shares: r.cpu_shares,
        memory_limit: r.memory_limit_in_bytes,
        memory_swap_limit: r.memory_swap_limit_in_bytes,
        oom_score_adj: r.oom_score_adj,
        cpuset_cpus: r.cpuset_cpus,
        cpuset_mems: r.cpuset_mems,
        hugepages: r
            .hugepage_limits
            .into_iter()
            .map(|h| HugepageLimit { page_size: h.page_size, limit: h.limit })
            .collect(),
        unified: map(r.unified),
    }
}

pub(super) fn container_status(c: wire::ContainerStatus) -> ContainerStatus {
    let m = c.metadata.unwrap_or_default();
    ContainerStatus {
        id: c.id,
        name: m.name,
        attempt: m.attempt,
        state: container_state_from(c.state),
        created_at: c.created_at,
        started_at: c.started_at.max(0),
        finished_at: c.finished_at.max(0),
        exit_code: c.exit_code,
        image: c.image.map(|i| i.image).unwrap_or_default(),
        image_ref: c.image_ref,
        image_id: c.image_id,
        reason: c.reason,
        message: c.message,
        labels: map(c.labels),
        annotations: map(c.annotations),
        mounts: c.mounts.into_iter().map(mount).collect(),
        log_path: c.log_path,
        resources: c.resources.and_then(|r| r.linux).map(resources),
        user: c.user.and_then(|u| u.linux).map(|u| (u.uid, u.gid, u.supplemental_groups)),
    }
}

pub(super) fn image(i: wire::Image) -> Image {
    Image {
        id: i.id,
        repo_tags: i.repo_tags,
        repo_digests: i.repo_digests,
        size: i.size,
        uid: i.uid.map(|u| u.value),
        username: i.username,
        pinned: i.pinned,
    }
}

fn filesystem(f: wire::FilesystemUsage) -> FilesystemUsage {
    FilesystemUsage {
        timestamp: f.timestamp,
        mountpoint: f.fs_id.map(|i| i.mountpoint).unwrap_or_default(),
        used_bytes: u64_value(f.used_bytes).unwrap_or_default(),
        inodes_used: u64_value(f.inodes_used).unwrap_or_default(),
    }
}

pub(super) fn image_fs_info(r: wire::ImageFsInfoResponse) -> ImageFsInfo {
    ImageFsInfo {
        image_filesystems: r.image_filesystems.into_iter().map(filesystem).collect(),
        container_filesystems: r.container_filesystems.into_iter().map(filesystem).collect(),
    }
}

fn cpu(c: wire::CpuUsage) -> CpuUsage {
    CpuUsage {
        timestamp: c.timestamp,
        usage_core_nanoseconds: u64_value(c.usage_core_nano_seconds),
        usage_nano_cores: u64_value(c.usage_nano_cores),
    }
}

fn memory(m: wire::MemoryUsage) -> MemoryUsage {
    MemoryUsage {
        timestamp: m.timestamp,
        working_set_bytes: u64_value(m.working_set_bytes),
        available_bytes: u64_value(m.available_bytes),
        usage_bytes: u64_value(m.usage_bytes),
        rss_bytes: u64_value(m.rss_bytes),
        page_faults: u64_value(m.page_faults),
        major_page_faults: u64_value(m.major_page_faults),
    }
}

fn swap(s: wire::SwapUsage) -> SwapUsage {
    SwapUsage {
        timestamp: s.timestamp,
        available_bytes: u64_value(s.swap_available_bytes),
        usage_bytes: u64_value(s.swap_usage_bytes),
    }
}

fn interface(i: wire::NetworkInterfaceUsage) -> InterfaceUsage {
    InterfaceUsage {
        name: i.name,
        rx_bytes: u64_value(i.rx_bytes),
        rx_errors: u64_value(i.rx_errors),
        tx_bytes: u64_value(i.tx_bytes),
        tx_errors: u64_value(i.tx_errors),
    }
}

fn network(n: wire::NetworkUsage) -> NetworkUsage {
    NetworkUsage {
        timestamp: n.timestamp,
        default_interface: n.default_interface.map(interface),
        interfaces: n.interfaces.into_iter().map(interface).collect(),
    }
}

pub(super) fn container_stats(s: wire::ContainerStats) -> ContainerStats {
    let attributes = s.attributes.unwrap_or_default();
    let m = attributes.metadata.unwrap_or_default();
    ContainerStats {
        id: attributes.id,
        name: m.name,
        attempt: m.attempt,
        labels: map(attributes.labels),
        annotations: map(attributes.annotations),
        cpu: s.cpu.map(cpu),
        memory: s.memory.map(memory),
        writable_layer: s.writable_layer.map(filesystem),
        swap: s.swap.map(swap),
    }
}

pub(super) fn sandbox_stats(s: wire::PodSandboxStats) -> SandboxStats {
    let attributes = s.attributes.unwrap_or_default();
    let linux = s.linux.unwrap_or_default();
    SandboxStats {
        id: attributes.id,
        metadata: metadata(attributes.metadata),
        labels: map(attributes.labels),
        cpu: linux.cpu.map(cpu),
        memory: linux.memory.map(memory),
        network: linux.network.map(network),
        process_count: linux.process.and_then(|p| u64_value(p.process_count)),
        containers: linux.containers.into_iter().map(container_stats).collect(),
    }
}
