//! Pod sandboxes: the namespaces and cgroup that a Pod's containers share.

use super::{LinuxResources, StringMap};

/// What identifies a sandbox beside its id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SandboxMetadata {
    /// The Pod's name.
    pub name: String,
    /// The Pod's UID.
    pub uid: String,
    /// The Pod's namespace.
    pub namespace: String,
    /// How often a sandbox was made for this Pod before.
    pub attempt: u32,
}

/// The resolver configuration of the Pod; the runtime writes it to `resolv.conf` as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DnsConfig {
    /// Addresses of the resolvers.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Options such as `ndots:5`.
    pub options: Vec<String>,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A port of the host that leads to a port of the Pod (CNI `portMappings`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortMapping {
    /// The protocol.
    pub protocol: Protocol,
    /// The Pod's port.
    pub container_port: u16,
    /// The host's port; 0 for none.
    pub host_port: u16,
    /// The host's address to listen on; empty for all.
    pub host_ip: String,
}

/// Whose namespace a container joins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum NamespaceMode {
    /// The Pod's.
    #[default]
    Pod,
    /// One of its own.
    Container,
    /// The host's.
    Node,
    /// That of another container, named by `target_id`.
    Target,
}

/// The namespaces of a sandbox or container. CRI's default for PID is a Pod-wide one; the kubelet sets
/// [`NamespaceMode::Container`] unless `shareProcessNamespace` is set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamespaceOptions {
    /// Network: `Pod` or `Node`.
    pub network: NamespaceMode,
    /// PID: any.
    pub pid: NamespaceMode,
    /// IPC: `Pod` or `Node`.
    pub ipc: NamespaceMode,
    /// The container whose PID namespace is joined with [`NamespaceMode::Target`].
    pub target_id: String,
    /// A user namespace of the Pod's own. `None` means the host's.
    pub userns: Option<UserNamespace>,
}

/// The id ranges of a Pod's user namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserNamespace {
    /// User ids.
    pub uids: Vec<IdMapping>,
    /// Group ids.
    pub gids: Vec<IdMapping>,
}

/// `length` ids from `container_id` inside are those from `host_id` outside.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IdMapping {
    /// First id on the host.
    pub host_id: u32,
    /// First id inside.
    pub container_id: u32,
    /// How many.
    pub length: u32,
}

/// A seccomp or AppArmor profile. CRI's unset profile means *unconfined*, so a node says what it means.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum SecurityProfile {
    /// The runtime's own profile.
    #[default]
    RuntimeDefault,
    /// None at all.
    Unconfined,
    /// A file (seccomp) or loaded profile (AppArmor) of the host.
    Localhost(String),
}

/// The security settings of the sandbox itself (its pause process and namespaces).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SandboxSecurity {
    /// The Pod's namespaces.
    pub namespaces: NamespaceOptions,
    /// The pause process' user; `None` is the image's.
    pub run_as_user: Option<i64>,
    /// The pause process' group; only with a user.
    pub run_as_group: Option<i64>,
    /// The root file system is read-only.
    pub readonly_rootfs: bool,
    /// Further groups.
    pub supplemental_groups: Vec<i64>,
    /// Some container of the Pod is privileged.
    pub privileged: bool,
    /// The seccomp profile; `None` is unconfined.
    pub seccomp: Option<SecurityProfile>,
    /// The AppArmor profile; `None` is the runtime's choice.
    pub apparmor: Option<SecurityProfile>,
}

/// What a sandbox is to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SandboxConfig {
    /// Identity; (name, uid, namespace, attempt) are unique in a runtime.
    pub metadata: SandboxMetadata,
    /// The Pod's host name; must be empty with the host's network.
    pub hostname: String,
    /// The directory that containers' `log_path` is relative to.
    pub log_directory: String,
    /// `None` takes the host's `resolv.conf`.
    pub dns: Option<DnsConfig>,
    /// Ports of the host.
    pub port_mappings: Vec<PortMapping>,
    /// Labels to find the sandbox by.
    pub labels: StringMap,
    /// Data to keep with the sandbox.
    pub annotations: StringMap,
    /// The Pod's cgroup, from the cgroup root, for example `/caravel0/burstable/pod<uid>`.
    pub cgroup_parent: String,
    /// Security settings.
    pub security: SandboxSecurity,
    /// Kernel parameters of the Pod's namespaces.
    pub sysctls: StringMap,
    /// The resources of all containers together, for runtimes that size the sandbox by them.
    pub resources: Option<LinuxResources>,
    /// The overhead of the Pod's RuntimeClass.
    pub overhead: Option<LinuxResources>,
}

/// Whether a sandbox still holds its namespaces.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SandboxState {
    /// Containers can be made in it.
    Ready,
    /// It was stopped, or its pause process died.
    #[default]
    NotReady,
}

/// A sandbox in a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sandbox {
    /// The runtime's id.
    pub id: String,
    /// Identity.
    pub metadata: SandboxMetadata,
    /// State.
    pub state: SandboxState,
    /// When it was made, ns.
    pub created_at: i64,
    /// Labels.
    pub labels: StringMap,
    /// Annotations.
    pub annotations: StringMap,
    /// The handler that runs it; empty is the default.
    pub runtime_handler: String,
}

/// A sandbox in full.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SandboxStatus {
    /// The runtime's id.
    pub id: String,
    /// Identity.
    pub metadata: SandboxMetadata,
    /// State.
    pub state: SandboxState,
    /// When it was made, ns.
    pub created_at: i64,
    /// The Pod's addresses, the primary one first. Empty with the host's network and after a stop.
    pub ips: Vec<String>,
    /// The Pod's namespaces.
    pub namespaces: NamespaceOptions,
    /// Labels.
    pub labels: StringMap,
    /// Annotations.
    pub annotations: StringMap,
    /// The handler that runs it.
    pub runtime_handler: String,
}

/// Which sandboxes to list. All conditions must hold; the default lists all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SandboxFilter {
    /// This id, or a unique prefix of it.
    pub id: Option<String>,
    /// This state.
    pub state: Option<SandboxState>,
    /// These labels.
    pub labels: StringMap,
}
