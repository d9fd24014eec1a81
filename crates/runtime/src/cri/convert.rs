//! Enumerations, both ways.

use k8s_cri::v1 as wire;

use crate::types::*;

pub(super) fn namespace_mode(mode: NamespaceMode) -> i32 {
    match mode {
        NamespaceMode::Pod => wire::NamespaceMode::Pod,
        NamespaceMode::Container => wire::NamespaceMode::Container,
        NamespaceMode::Node => wire::NamespaceMode::Node,
        NamespaceMode::Target => wire::NamespaceMode::Target,
    }
    .into()
}

pub(super) fn namespace_mode_from(mode: i32) -> NamespaceMode {
    match wire::NamespaceMode::try_from(mode) {
        Ok(wire::NamespaceMode::Container) => NamespaceMode::Container,
        Ok(wire::NamespaceMode::Node) => NamespaceMode::Node,
        Ok(wire::NamespaceMode::Target) => NamespaceMode::Target,
        _ => NamespaceMode::Pod,
    }
}

pub(super) fn protocol(protocol: Protocol) -> i32 {
    match protocol {
        Protocol::Tcp => wire::Protocol::Tcp,
        Protocol::Udp => wire::Protocol::Udp,
        Protocol::Sctp => wire::Protocol::Sctp,
    }
    .into()
}

pub(super) fn propagation(propagation: MountPropagation) -> i32 {
    match propagation {
        MountPropagation::Private => wire::MountPropagation::PropagationPrivate,
        MountPropagation::HostToContainer => wire::MountPropagation::PropagationHostToContainer,
        MountPropagation::Bidirectional => wire::MountPropagation::PropagationBidirectional,
    }
    .into()
}

pub(super) fn propagation_from(propagation: i32) -> MountPropagation {
    match wire::MountPropagation::try_from(propagation) {
        Ok(wire::MountPropagation::PropagationHostToContainer) => MountPropagation::HostToContainer,
        Ok(wire::MountPropagation::PropagationBidirectional) => MountPropagation::Bidirectional,
        _ => MountPropagation::Private,
    }
}

pub(super) fn sandbox_state(state: SandboxState) -> i32 {
    match state {
        SandboxState::Ready => wire::PodSandboxState::SandboxReady,
        SandboxState::NotReady => wire::PodSandboxState::SandboxNotready,
    }
    .into()
}

pub(super) fn sandbox_state_from(state: i32) -> SandboxState {
    match wire::PodSandboxState::try_from(state) {
        Ok(wire::PodSandboxState::SandboxReady) => SandboxState::Ready,
        _ => SandboxState::NotReady,
    }
}

pub(super) fn container_state(state: ContainerState) -> i32 {
    match state {
        ContainerState::Created => wire::ContainerState::ContainerCreated,
        ContainerState::Running => wire::ContainerState::ContainerRunning,
        ContainerState::Exited => wire::ContainerState::ContainerExited,
        ContainerState::Unknown => wire::ContainerState::ContainerUnknown,
    }
    .into()
}

pub(super) fn container_state_from(state: i32) -> ContainerState {
    match wire::ContainerState::try_from(state) {
        Ok(wire::ContainerState::ContainerCreated) => ContainerState::Created,
        Ok(wire::ContainerState::ContainerRunning) => ContainerState::Running,
        Ok(wire::ContainerState::ContainerExited) => ContainerState::Exited,
        _ => ContainerState::Unknown,
    }
}

/// Seccomp. CRI reads an unset profile as unconfined, which is also what `None` means here.
pub(super) fn security_profile(profile: &Option<SecurityProfile>) -> Option<wire::SecurityProfile> {
    use wire::security_profile::ProfileType;
    let (type_, localhost_ref) = match profile.as_ref()? {
        SecurityProfile::RuntimeDefault => (ProfileType::RuntimeDefault, String::new()),
        SecurityProfile::Unconfined => (ProfileType::Unconfined, String::new()),
        SecurityProfile::Localhost(path) => (ProfileType::Localhost, path.clone()),
    };
    Some(wire::SecurityProfile { profile_type: type_.into(), localhost_ref })
}
