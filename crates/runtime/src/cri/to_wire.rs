//! Our structs as CRI messages.

use k8s_cri::v1 as wire;

use super::convert::*;
use crate::types::*;

fn map(map: &StringMap) -> std::collections::HashMap<String, String> {
    map.iter().map(|(k, v)| (k.clone(), v.clone())).collect()
}

fn int64(value: Option<i64>) -> Option<wire::Int64Value> {
    value.map(|value| wire::Int64Value { value })
}

fn ids(mappings: &[IdMapping]) -> Vec<wire::IdMapping> {
    mappings
        .iter()
        .map(|m| wire::IdMapping { host_id: m.host_id, container_id: m.container_id, length: m.length })
        .collect()
}

pub(super) fn namespaces(options: &NamespaceOptions) -> wire::NamespaceOption {
    wire::NamespaceOption {
        network: namespace_mode(options.network),
        pid: namespace_mode(options.pid),
        ipc: namespace_mode(options.ipc),
        target_id: options.target_id.clone(),
        userns_options: options.userns.as_ref().map(|u| wire::UserNamespace {
            mode: wire::NamespaceMode::Pod.into(),
            uids: ids(&u.uids),
            gids: ids(&u.gids),
        }),
    }
}

pub(super) fn resources(r: &LinuxResources) -> wire::LinuxContainerResources {
    wire::LinuxContainerResources {
        cpu_period: r.cpu_period,
        cpu_quota: r.cpu_quota,
        cpu_shares: r.cpu_shares,
        memory_limit_in_bytes: r.memory_limit,
        memory_swap_limit_in_bytes: r.memory_swap_limit,
        oom_score_adj: r.oom_score_adj,
        cpuset_cpus: r.cpuset_cpus.clone(),
        cpuset_mems: r.cpuset_mems.clone(),
        hugepage_limits: r
            .hugepages
            .iter()
            .map(|h| wire::HugepageLimit { page_size: h.page_size.clone(), limit: h.limit })
            .collect(),
        unified: map(&r.unified),
    }
}

pub(super) fn sandbox_config(c: &SandboxConfig) -> wire::PodSandboxConfig {
    wire::PodSandboxConfig {
        metadata: Some(wire::PodSandboxMetadata {
            name: c.metadata.name.clone(),
            uid: c.metadata.uid.clone(),
            namespace: c.metadata.namespace.clone(),
            attempt: c.metadata.attempt,
        }),
        hostname: c.hostname.clone(),
        log_directory: c.log_directory.clone(),
        dns_config: c.dns.as_ref().map(|d| wire::DnsConfig {
            servers: d.servers.clone(),
            searches: d.searches.clone(),
            options: d.options.clone(),
        }),
        port_mappings: c.port_mappings.iter().map(port_mapping).collect(),
        labels: map(&c.labels),
        annotations: map(&c.annotations),
        linux: Some(wire::LinuxPodSandboxConfig {
            cgroup_parent: c.cgroup_parent.clone(),
            security_context: Some(sandbox_security(&c.security)),
            sysctls: map(&c.sysctls),
            overhead: c.overhead.as_ref().map(resources),
            resources: c.resources.as_ref().map(resources),
        }),
        windows: None,
    }
}

fn port_mapping(p: &PortMapping) -> wire::PortMapping {
    wire::PortMapping {
        protocol: protocol(p.protocol),
        container_port: p.container_port.into(),
        host_port: p.host_port.into(),
        host_ip: p.host_ip.clone(),
    }
}

fn sandbox_security(s: &SandboxSecurity) -> wire::LinuxSandboxSecurityContext {
    wire::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(&s.namespaces)),
        run_as_user: int64(s.run_as_user),
        run_as_group: int64(s.run_as_group),
        readonly_rootfs: s.readonly_rootfs,
        supplemental_groups: s.supplemental_groups.clone(),
        privileged: s.privileged,
        seccomp: security_profile(&s.seccomp),
        apparmor: security_profile(&s.apparmor),
        ..Default::default()
    }
}

pub(super) fn container_config(c: &ContainerConfig) -> wire::ContainerConfig {
    wire::ContainerConfig {
        metadata: Some(wire::ContainerMetadata { name: c.name.clone(), attempt: c.attempt }),
        image: Some(wire::ImageSpec {
            image: c.image.clone(),
            user_specified_image: c.user_specified_image.clone(),
            ..Default::default()
        }),
        command: c.command.clone(),
        args: c.args.clone(),
        working_dir: c.working_dir.clone(),
        envs: c.envs.iter().map(|(key, value)| wire::KeyValue { key: key.clone(), value: value.clone() }).collect(),
        mounts: c.mounts.iter().map(mount).collect(),
        devices: c
            .devices
            .iter()
            .map(|d| wire::Device {
                container_path: d.container_path.clone(),
                host_path: d.host_path.clone(),
                permissions: d.permissions.clone(),
            })
            .collect(),
        labels: map(&c.labels),
        annotations: map(&c.annotations),
        log_path: c.log_path.clone(),
        stdin: c.stdin,
        stdin_once: c.stdin_once,
        tty: c.tty,
        linux: Some(wire::LinuxContainerConfig {
            resources: Some(resources(&c.resources)),
            security_context: Some(container_security(&c.security)),
        }),
        windows: None,
        cdi_devices: c.cdi_devices.iter().map(|name| wire::CdiDevice { name: name.clone() }).collect(),
    }
}

fn mount(m: &Mount) -> wire::Mount {
    wire::Mount {
        container_path: m.container_path.clone(),
        host_path: m.host_path.clone(),
        readonly: m.readonly,
        selinux_relabel: m.selinux_relabel,
        propagation: propagation(m.propagation),
        recursive_read_only: m.recursive_readonly,
        ..Default::default()
    }
}

fn container_security(s: &ContainerSecurity) -> wire::LinuxContainerSecurityContext {
    let policy = if s.supplemental_groups_strict {
        wire::SupplementalGroupsPolicy::Strict
    } else {
        wire::SupplementalGroupsPolicy::Merge
    };
    wire::LinuxContainerSecurityContext {
        capabilities: Some(wire::Capability {
            add_capabilities: s.capabilities.add.clone(),
            drop_capabilities: s.capabilities.drop.clone(),
            add_ambient_capabilities: Vec::new(),
        }),
        privileged: s.privileged,
        namespace_options: Some(namespaces(&s.namespaces)),
        run_as_user: int64(s.run_as_user),
        run_as_group: int64(s.run_as_group),
        run_as_username: s.run_as_username.clone(),
        readonly_rootfs: s.readonly_rootfs,
        supplemental_groups: s.supplemental_groups.clone(),
        supplemental_groups_policy: policy.into(),
        no_new_privs: s.no_new_privs,
        masked_paths: s.masked_paths.clone(),
        readonly_paths: s.readonly_paths.clone(),
        seccomp: security_profile(&s.seccomp),
        apparmor: security_profile(&s.apparmor),
        ..Default::default()
    }
}

pub(super) fn image_spec(image: &str) -> wire::ImageSpec {
    wire::ImageSpec { image: image.to_string(), ..Default::default() }
}

pub(super) fn auth(a: &Auth) -> wire::AuthConfig {
    wire::AuthConfig {
        username: a.username.clone(),
        password: a.password.clone(),
        auth: a.auth.clone(),
        server_address: a.server_address.clone(),
        identity_token: a.identity_token.clone(),
        registry_token: a.registry_token.clone(),
    }
}

pub(super) fn sandbox_filter(f: &SandboxFilter) -> wire::PodSandboxFilter {
    wire::PodSandboxFilter {
        id: f.id.clone().unwrap_or_default(),
        state: f.state.map(|s| wire::PodSandboxStateValue { state: sandbox_state(s) }),
        label_selector: map(&f.labels),
    }
}

pub(super) fn container_filter(f: &ContainerFilter) -> wire::ContainerFilter {
    wire::ContainerFilter {
        id: f.id.clone().unwrap_or_default(),
        state: f.state.map(|s| wire::ContainerStateValue { state: container_state(s) }),
        pod_sandbox_id: f.sandbox_id.clone().unwrap_or_default(),
        label_selector: map(&f.labels),
    }
}
