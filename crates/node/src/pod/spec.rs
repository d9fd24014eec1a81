//! Reading a Pod's spec: which containers there are, what part each plays, when it is restarted.

use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, EphemeralContainer, Pod, PodSpec};
use sha2::{Digest, Sha256};

/// The part a container plays in its Pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Runs to its end before the next one starts.
    Init,
    /// An init container with `restartPolicy: Always`: starts in order, runs on, ends last (KEP-753).
    Sidecar,
    /// One of `spec.containers`.
    Regular,
    /// Added to a running Pod (`kubectl debug`); never restarted.
    Ephemeral,
}

/// A container of the spec and its part.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its part.
    pub role: Role,
    /// Its spec.
    pub container: Container,
    /// For ephemeral containers: whose PID namespace it joins.
    pub target: Option<String>,
}

/// A Pod's UID, empty if it has none.
pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// A Pod's namespace.
pub fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or_default()
}

/// A Pod's name.
pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

/// `name_namespace(uid)`: how messages name a Pod.
pub fn full_name(pod: &Pod) -> String {
    format!("{}_{}({})", name(pod), namespace(pod), uid(pod))
}

/// The Pod's restart policy.
pub fn restart_policy(spec: &PodSpec) -> &str {
    spec.restart_policy.as_deref().unwrap_or("Always")
}

/// Whether an init container is a sidecar.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Whether the Pod uses the host's network.
pub fn host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.host_network).unwrap_or(false)
}

/// The part of an init container.
pub fn init_role(container: &Container) -> Role {
    if is_sidecar(container) { Role::Sidecar } else { Role::Init }
}

/// A container of the Pod by name.
pub fn member(spec: &PodSpec, name: &str) -> Option<Member> {
    if let Some(c) = spec.containers.iter().find(|c| c.name == name) {
        return Some(Member { role: Role::Regular, container: c.clone(), target: None });
    }
    if let Some(c) = spec.init_containers.iter().flatten().find(|c| c.name == name) {
        return Some(Member { role: init_role(c), container: c.clone(), target: None });
    }
    let e = spec.ephemeral_containers.iter().flatten().find(|c| c.name == name)?;
    Some(Member {
        role: Role::Ephemeral,
        container: from_ephemeral(e),
        target: e.target_container_name.clone().filter(|t| !t.is_empty()),
    })
}

/// All containers of the Pod: init, regular, ephemeral.
pub fn members(spec: &PodSpec) -> Vec<Member> {
    let init = spec.init_containers.iter().flatten().map(|c| &c.name);
    let regular = spec.containers.iter().map(|c| &c.name);
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|c| &c.name);
    init.chain(regular).chain(ephemeral).filter_map(|n| member(spec, n)).collect()
}

/// An ephemeral container in the form of any other.
pub fn from_ephemeral(e: &EphemeralContainer) -> Container {
    Container {
        name: e.name.clone(),
        image: e.image.clone(),
        command: e.command.clone(),
        args: e.args.clone(),
        working_dir: e.working_dir.clone(),
        env: e.env.clone(),
        env_from: e.env_from.clone(),
        image_pull_policy: e.image_pull_policy.clone(),
        security_context: e.security_context.clone(),
        stdin: e.stdin,
        stdin_once: e.stdin_once,
        tty: e.tty,
        termination_message_path: e.termination_message_path.clone(),
        termination_message_policy: e.termination_message_policy.clone(),
        volume_devices: e.volume_devices.clone(),
        volume_mounts: e.volume_mounts.clone(),
        ..Default::default()
    }
}

/// The digest of what cannot change in a running container: its name and image (all else that may change, may change
/// in place).
pub fn hash(container: &Container) -> String {
    let mut h = Sha256::new();
    h.update(container.name.as_bytes());
    h.update([0]);
    h.update(container.image.as_deref().unwrap_or_default().as_bytes());
    h.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect()
}

/// Whether a container that ended with this code is started again, the Pod itself living on.
pub fn restarts(spec: &PodSpec, role: Role, container: &Container, exit_code: i32) -> bool {
    match role {
        Role::Sidecar => return true,
        Role::Ephemeral => return false,
        Role::Init | Role::Regular => {}
    }
    let own = container.restart_policy.as_deref();
    if own.is_some() && rule(container, exit_code).is_some_and(|rule| rule.action == "Restart") {
        return true;
    }
    match own.unwrap_or_else(|| restart_policy(spec)) {
        "Never" => false,
        "OnFailure" => exit_code != 0,
        _ => role == Role::Regular || exit_code != 0,
    }
}

/// The first of a container's rules that is about this exit code (KEP-5307).
pub fn rule(container: &Container, exit_code: i32) -> Option<&ContainerRestartRule> {
    container.restart_policy_rules.iter().flatten().find(|rule| {
        let Some(on) = &rule.exit_codes else { return false };
        let listed = on.values.iter().flatten().any(|v| *v == exit_code);
        match on.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        }
    })
}

/// Whether the Pod's phase is one it cannot leave.
pub fn is_terminal(phase: Option<&str>) -> bool {
    matches!(phase, Some("Succeeded" | "Failed"))
}
