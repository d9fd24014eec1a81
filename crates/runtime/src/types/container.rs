//! Containers.

use super::{NamespaceOptions, SecurityProfile, StringMap};

/// Whether mounts made later are seen on the other side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MountPropagation {
    /// On neither side (`None` in the Pod API).
    #[default]
    Private,
    /// The host's are seen in the container.
    HostToContainer,
    /// Both ways.
    Bidirectional,
}

/// A file or directory of the host in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mount {
    /// Where in the container.
    pub container_path: String,
    /// What of the host. Symbolic links are resolved; a missing path is made as a directory by containerd.
    pub host_path: String,
    /// Not writable.
    pub readonly: bool,
    /// Not writable, with everything mounted below.
    pub recursive_readonly: bool,
    /// Propagation.
    pub propagation: MountPropagation,
    /// SELinux labels are to be changed for the container.
    pub selinux_relabel: bool,
}

/// A device of the host in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Device {
    /// The path in the container.
    pub container_path: String,
    /// The path on the host.
    pub host_path: String,
    /// Some of `rwm`.
    pub permissions: String,
}

/// The limit of one size of huge pages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HugepageLimit {
    /// For example `2MB`.
    pub page_size: String,
    /// Bytes.
    pub limit: u64,
}

/// Resource settings. Zero means "not set" for numbers, as in CRI.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinuxResources {
    /// The period of the CPU quota, µs.
    pub cpu_period: i64,
    /// CPU time in a period, µs.
    pub cpu_quota: i64,
    /// The relative weight (cgroup v1 scale, 2 to 262144).
    pub cpu_shares: i64,
    /// The memory limit, bytes.
    pub memory_limit: i64,
    /// The limit of memory and swap together, bytes.
    pub memory_swap_limit: i64,
    /// How early the out-of-memory killer comes, −1000 to 1000.
    pub oom_score_adj: i64,
    /// CPUs the container is bound to, as a list (`0-2,7`).
    pub cpuset_cpus: String,
    /// Memory nodes the container is bound to.
    pub cpuset_mems: String,
    /// Huge pages.
    pub hugepages: Vec<HugepageLimit>,
    /// cgroup v2 files written as they are.
    pub unified: StringMap,
}

/// Capability names without `CAP_`; `ALL` stands for all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Added to the runtime's default set.
    pub add: Vec<String>,
    /// Taken from it.
    pub drop: Vec<String>,
}

/// The security settings of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerSecurity {
    /// Capabilities.
    pub capabilities: Capabilities,
    /// All capabilities, all devices, no confinement.
    pub privileged: bool,
    /// Namespaces; network and IPC must be those of the sandbox.
    pub namespaces: NamespaceOptions,
    /// The numeric user; `None` with no name is the image's.
    pub run_as_user: Option<i64>,
    /// The numeric group; needs a user.
    pub run_as_group: Option<i64>,
    /// The user by name, looked up in the image; empty for none.
    pub run_as_username: String,
    /// The root file system is read-only.
    pub readonly_rootfs: bool,
    /// Further groups.
    pub supplemental_groups: Vec<i64>,
    /// `true`: the groups of the image's `/etc/group` do not count (policy `Strict`).
    pub supplemental_groups_strict: bool,
    /// Programs cannot gain privileges (`allowPrivilegeEscalation: false`).
    pub no_new_privs: bool,
    /// Paths hidden in the container; empty with privileged or `procMount: Unmasked`.
    pub masked_paths: Vec<String>,
    /// Paths that are read-only in the container.
    pub readonly_paths: Vec<String>,
    /// The seccomp profile; `None` is unconfined.
    pub seccomp: Option<SecurityProfile>,
    /// The AppArmor profile; `None` is the runtime's choice.
    pub apparmor: Option<SecurityProfile>,
}

/// What a container is to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerConfig {
    /// The container's name in its Pod.
    pub name: String,
    /// How often it was made before.
    pub attempt: u32,
    /// The image: an id or name that [`image_status`](crate::Runtime::image_status) knows.
    pub image: String,
    /// The image as the Pod's author wrote it.
    pub user_specified_image: String,
    /// Replaces the image's entry point; empty keeps it.
    pub command: Vec<String>,
    /// Replaces the image's arguments; empty keeps them (unless a command is given).
    pub args: Vec<String>,
    /// Empty is the image's.
    pub working_dir: String,
    /// Environment in order.
    pub envs: Vec<(String, String)>,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// Devices.
    pub devices: Vec<Device>,
    /// CDI device names.
    pub cdi_devices: Vec<String>,
    /// Labels to find the container by.
    pub labels: StringMap,
    /// Data to keep with the container.
    pub annotations: StringMap,
    /// The log, relative to the sandbox' `log_directory`.
    pub log_path: String,
    /// Standard input is kept for attach.
    pub stdin: bool,
    /// Standard input closes after the first attach.
    pub stdin_once: bool,
    /// A terminal.
    pub tty: bool,
    /// Resources.
    pub resources: LinuxResources,
    /// Security settings.
    pub security: ContainerSecurity,
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ContainerState {
    /// Made, not started.
    Created,
    /// Running.
    Running,
    /// Ended.
    Exited,
    /// The runtime cannot tell.
    #[default]
    Unknown,
}

/// A container in a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Container {
    /// The runtime's id.
    pub id: String,
    /// Its sandbox.
    pub sandbox_id: String,
    /// Its name in the Pod.
    pub name: String,
    /// Attempt.
    pub attempt: u32,
    /// The image as given at creation.
    pub image: String,
    /// The image's reference in the runtime.
    pub image_ref: String,
    /// The image's id in the runtime; empty when it does not say.
    pub image_id: String,
    /// State.
    pub state: ContainerState,
    /// When it was made, ns.
    pub created_at: i64,
    /// Labels.
    pub labels: StringMap,
    /// Annotations.
    pub annotations: StringMap,
}

/// A container in full.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerStatus {
    /// The runtime's id.
    pub id: String,
    /// Its name in the Pod.
    pub name: String,
    /// Attempt.
    pub attempt: u32,
    /// State.
    pub state: ContainerState,
    /// ns.
    pub created_at: i64,
    /// ns; 0 before the start.
    pub started_at: i64,
    /// ns; 0 while it runs.
    pub finished_at: i64,
    /// Valid once it has ended; 128 + signal when a signal ended it.
    pub exit_code: i32,
    /// A name of the image.
    pub image: String,
    /// `name@digest` when the image came from a registry, else its id.
    pub image_ref: String,
    /// The image's id in the runtime; empty when it does not say.
    pub image_id: String,
    /// `OOMKilled`, `Error`, `Completed`, `StartError`, …
    pub reason: String,
    /// The same for people.
    pub message: String,
    /// Labels.
    pub labels: StringMap,
    /// Annotations.
    pub annotations: StringMap,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// The absolute path of the log.
    pub log_path: String,
    /// The resources in force, when the runtime says.
    pub resources: Option<LinuxResources>,
    /// The user in force, when the runtime says: uid, gid, further groups.
    pub user: Option<(i64, i64, Vec<i64>)>,
}

/// Which containers to list. All conditions must hold; the default lists all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerFilter {
    /// This id, or a unique prefix of it.
    pub id: Option<String>,
    /// This state.
    pub state: Option<ContainerState>,
    /// This sandbox.
    pub sandbox_id: Option<String>,
    /// These labels.
    pub labels: StringMap,
}

/// What a command run to its end gave. containerd keeps 16 MiB of each stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecResult {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// The exit code.
    pub exit_code: i32,
}

/// Which streams of an exec or attach session are wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StreamOptions {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error; must be false with `tty`.
    pub stderr: bool,
    /// A terminal.
    pub tty: bool,
}
