//! The sandbox of a Pod.

use caravel_runtime as rt;
use k8s_openapi::api::core::v1::Pod;

use super::dns::{self, Resolvers};
use super::hosts;
use super::security::{self, Given};
use crate::names;
use crate::pod::spec;

/// What a sandbox depends on beside the Pod.
#[derive(Debug)]
pub struct Around<'a> {
    /// Resolvers.
    pub resolvers: &'a Resolvers,
    /// For security settings.
    pub given: &'a Given,
    /// The Pod's cgroup.
    pub cgroup_parent: String,
    /// The directory of its logs.
    pub log_dir: String,
}

/// The labels of a sandbox.
pub fn labels(pod: &Pod) -> rt::StringMap {
    let mut all: rt::StringMap = pod.metadata.labels.clone().unwrap_or_default();
    all.insert(names::POD_NAME.into(), spec::name(pod).into());
    all.insert(names::POD_NAMESPACE.into(), spec::namespace(pod).into());
    all.insert(names::POD_UID.into(), spec::uid(pod).into());
    all
}

/// The sandbox to make, or why it cannot be.
pub fn config(pod: &Pod, attempt: u32, around: &Around<'_>) -> Result<rt::SandboxConfig, String> {
    let host_network = spec::host_network(pod);
    supported(pod)?;
    let names = hosts::names(pod, &around.resolvers.domain)?;
    let pod_spec = pod.spec.as_ref();
    let mut annotations: rt::StringMap = pod.metadata.annotations.clone().unwrap_or_default();
    annotations.insert(names::HOST_NETWORK.into(), host_network.to_string());
    let grace = pod_spec.and_then(|s| s.termination_grace_period_seconds).unwrap_or(30);
    annotations.insert(names::GRACE_PERIOD.into(), grace.to_string());
    Ok(rt::SandboxConfig {
        metadata: rt::SandboxMetadata {
            name: spec::name(pod).into(),
            uid: spec::uid(pod).into(),
            namespace: spec::namespace(pod).into(),
            attempt,
        },
        hostname: if host_network { String::new() } else { names.hostname },
        log_directory: around.log_dir.clone(),
        dns: Some(dns::config(pod, around.resolvers)),
        port_mappings: if host_network { Vec::new() } else { ports(pod) },
        labels: labels(pod),
        annotations,
        cgroup_parent: around.cgroup_parent.clone(),
        security: security::sandbox(pod, around.given),
        sysctls: pod_spec
            .and_then(|s| s.security_context.as_ref())
            .and_then(|s| s.sysctls.as_ref())
            .into_iter()
            .flatten()
            .map(|s| (s.name.replace('/', "."), s.value.clone()))
            .collect(),
        resources: None,
        overhead: None,
    })
}

/// What this node cannot do is refused, not left out in silence.
fn supported(pod: &Pod) -> Result<(), String> {
    let Some(s) = &pod.spec else { return Ok(()) };
    if s.host_users == Some(false) {
        return Err("hostUsers: false (a user namespace of the pod's own) is not supported by this node".into());
    }
    Ok(())
}

fn ports(pod: &Pod) -> Vec<rt::PortMapping> {
    let members = pod.spec.as_ref().map(spec::members).unwrap_or_default();
    let ports = members.iter().flat_map(|m| m.container.ports.iter().flatten());
    ports
        .filter_map(|p| {
            let port = |n: i32| u16::try_from(n).unwrap_or(0);
            let host_port = port(p.host_port.unwrap_or(0));
            (host_port != 0).then(|| rt::PortMapping {
                protocol: match p.protocol.as_deref() {
                    Some("UDP") => rt::Protocol::Udp,
                    Some("SCTP") => rt::Protocol::Sctp,
                    _ => rt::Protocol::Tcp,
                },
                container_port: port(p.container_port),
                host_port,
                host_ip: p.host_ip.clone().unwrap_or_default(),
            })
        })
        .collect()
}
