//! Security settings of containers and sandboxes.

use caravel_runtime as rt;
use k8s_openapi::api::core::v1::{
    AppArmorProfile, Container, Pod, PodSecurityContext, SeccompProfile, SecurityContext,
};

use crate::pod::spec;

/// What is hidden in a container unless it asks to see it.
const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// What cannot be written.
const READONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What security settings depend on beside the spec.
#[derive(Debug, Clone, Default)]
pub struct Given {
    /// The id of the container whose PID namespace an ephemeral container joins.
    pub target_id: Option<String>,
    /// Groups that own volumes of the Pod.
    pub volume_groups: Vec<i64>,
    /// Where seccomp profiles of type `Localhost` are.
    pub seccomp_root: String,
    /// Containers without a profile get the runtime's own.
    pub seccomp_default: bool,
}

/// Whether a container is privileged.
pub fn privileged(c: &Container) -> bool {
    c.security_context.as_ref().and_then(|s| s.privileged).unwrap_or(false)
}

/// The settings of a container.
pub fn container(pod: &Pod, c: &Container, given: &Given) -> rt::ContainerSecurity {
    let none = SecurityContext::default();
    let own = c.security_context.as_ref().unwrap_or(&none);
    let pod_none = PodSecurityContext::default();
    let shared = pod.spec.as_ref().and_then(|s| s.security_context.as_ref()).unwrap_or(&pod_none);
    let privileged = privileged(c);
    let unmasked = own.proc_mount.as_deref() == Some("Unmasked") || privileged;
    let list = |paths: &[&str]| if unmasked { Vec::new() } else { paths.iter().map(|p| (*p).to_owned()).collect() };
    let mut namespaces = namespaces(pod);
    if let Some(target) = &given.target_id {
        namespaces.pid = rt::NamespaceMode::Target;
        namespaces.target_id = target.clone();
    }
    let strip = |l: &Option<Vec<String>>| l.iter().flatten().map(|c| c.trim_start_matches("CAP_").to_owned()).collect();
    rt::ContainerSecurity {
        capabilities: own
            .capabilities
            .as_ref()
            .map_or_else(Default::default, |k| rt::Capabilities { add: strip(&k.add), drop: strip(&k.drop) }),
        privileged,
        namespaces,
        run_as_user: own.run_as_user.or(shared.run_as_user),
        run_as_group: own.run_as_group.or(shared.run_as_group),
        run_as_username: String::new(),
        readonly_rootfs: own.read_only_root_filesystem.unwrap_or(false),
        supplemental_groups: groups(shared, given),
        supplemental_groups_strict: shared.supplemental_groups_policy.as_deref() == Some("Strict"),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: list(&MASKED),
        readonly_paths: list(&READONLY),
        seccomp: if privileged {
            Some(rt::SecurityProfile::Unconfined)
        } else {
            Some(seccomp(own.seccomp_profile.as_ref().or(shared.seccomp_profile.as_ref()), given))
        },
        apparmor: own.app_armor_profile.as_ref().or(shared.app_armor_profile.as_ref()).map(apparmor),
    }
}

/// The settings of a sandbox.
pub fn sandbox(pod: &Pod, given: &Given) -> rt::SandboxSecurity {
    let none = PodSecurityContext::default();
    let pod_spec = pod.spec.as_ref();
    let shared = pod_spec.and_then(|s| s.security_context.as_ref()).unwrap_or(&none);
    let members = pod_spec.map(spec::members).unwrap_or_default();
    rt::SandboxSecurity {
        namespaces: namespaces(pod),
        run_as_user: shared.run_as_user,
        run_as_group: shared.run_as_user.and(shared.run_as_group),
        readonly_rootfs: false,
        supplemental_groups: groups(shared, given),
        privileged: members.iter().any(|m| privileged(&m.container)),
        seccomp: Some(rt::SecurityProfile::RuntimeDefault),
        apparmor: None,
    }
}

fn groups(shared: &PodSecurityContext, given: &Given) -> Vec<i64> {
    let mut all: Vec<i64> = shared.supplemental_groups.iter().flatten().copied().collect();
    all.extend(shared.fs_group);
    for g in &given.volume_groups {
        if !all.contains(g) {
            all.push(*g);
        }
    }
    all
}

fn namespaces(pod: &Pod) -> rt::NamespaceOptions {
    let Some(s) = &pod.spec else { return rt::NamespaceOptions::default() };
    let node_or = |host: Option<bool>, other| if host == Some(true) { rt::NamespaceMode::Node } else { other };
    let pid =
        if s.share_process_namespace == Some(true) { rt::NamespaceMode::Pod } else { rt::NamespaceMode::Container };
    rt::NamespaceOptions {
        network: node_or(s.host_network, rt::NamespaceMode::Pod),
        pid: node_or(s.host_pid, pid),
        ipc: node_or(s.host_ipc, rt::NamespaceMode::Pod),
        ..Default::default()
    }
}

fn seccomp(profile: Option<&SeccompProfile>, given: &Given) -> rt::SecurityProfile {
    match profile.map(|p| p.type_.as_str()) {
        Some("RuntimeDefault") => rt::SecurityProfile::RuntimeDefault,
        Some("Localhost") => {
            let file = profile.and_then(|p| p.localhost_profile.clone()).unwrap_or_default();
            rt::SecurityProfile::Localhost(format!("{}/{file}", given.seccomp_root))
        }
        None if given.seccomp_default => rt::SecurityProfile::RuntimeDefault,
        _ => rt::SecurityProfile::Unconfined,
    }
}

fn apparmor(profile: &AppArmorProfile) -> rt::SecurityProfile {
    match profile.type_.as_str() {
        "RuntimeDefault" => rt::SecurityProfile::RuntimeDefault,
        "Localhost" => rt::SecurityProfile::Localhost(profile.localhost_profile.clone().unwrap_or_default()),
        _ => rt::SecurityProfile::Unconfined,
    }
}

/// Checks `runAsNonRoot` against the user the container would have. The error is a `CreateContainerConfigError`.
pub fn check_non_root(pod: &Pod, c: &Container, image: &rt::Image) -> Result<(), String> {
    let shared = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let own = c.security_context.as_ref();
    let wanted = own.and_then(|s| s.run_as_non_root).or_else(|| shared.and_then(|s| s.run_as_non_root));
    if wanted != Some(true) {
        return Ok(());
    }
    let who = format!("(pod: \"{}\", container: {})", spec::full_name(pod), c.name);
    match own.and_then(|s| s.run_as_user).or_else(|| shared.and_then(|s| s.run_as_user)) {
        Some(0) => Err(format!("container's runAsUser breaks non-root policy {who}")),
        Some(_) => Ok(()),
        None if !image.username.is_empty() => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is non-root {who}",
            image.username
        )),
        None if image.uid.unwrap_or(0) == 0 => {
            Err(format!("container has runAsNonRoot and image will run as root {who}"))
        }
        None => Ok(()),
    }
}
