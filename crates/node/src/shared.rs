//! What all parts of a node have in common.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use caravel_client::{Informer, Recorder, object_ref};
use caravel_runtime::Runtime;
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Service};
use parking_lot::Mutex;

use crate::cgroup::Cgroups;
use crate::config::Config;
use crate::container::dns::Resolvers;
use crate::container::fields::Surroundings;
use crate::devices::Devices;
use crate::image::Pulls;
use crate::machine::Machine;
use crate::pod::spec::Role;
use crate::upkeep::Pressure;
use crate::volume::Volumes;

/// What an event is about.
pub type About = ObjectReference;

/// The common parts.
pub struct Shared {
    /// Settings.
    pub config: Config,
    /// The API.
    pub client: kube::Client,
    /// Containers.
    pub runtime: Arc<dyn Runtime>,
    /// Events.
    pub recorder: Recorder,
    /// Cgroups.
    pub cgroups: Cgroups,
    /// Volumes.
    pub volumes: Volumes,
    /// Devices of resource claims.
    pub devices: Devices,
    /// Image pulls.
    pub pulls: Pulls,
    /// All Services, for environments.
    pub services: Informer<Service>,
    /// This node's Node.
    pub node: Informer<Node>,
    /// What the machine has.
    pub machine: Machine,
    /// What the node is short of.
    pub pressure: Pressure,
    /// Which Pod (by UID) a container or sandbox id belongs to, for runtime events.
    pub owners: Mutex<HashMap<String, String>>,
}

impl Shared {
    /// Tells an event.
    pub fn event(&self, about: &About, type_: &str, reason: &str, note: &str) {
        self.recorder.event(about, type_, reason, "", note);
    }

    /// A reference to a Pod.
    pub fn about_pod(&self, pod: &Pod) -> About {
        object_ref(pod)
    }

    /// A reference to a container of a Pod.
    pub fn about(&self, pod: &Pod, role: Role, container: &str) -> About {
        let list = match role {
            Role::Init | Role::Sidecar => "initContainers",
            Role::Regular => "containers",
            Role::Ephemeral => "ephemeralContainers",
        };
        ObjectReference { field_path: Some(format!("spec.{list}{{{container}}}")), ..object_ref(pod) }
    }

    /// The node's addresses.
    pub fn node_ips(&self) -> Vec<String> {
        self.config.node_ips.iter().map(IpAddr::to_string).collect()
    }

    /// What the downward API tells of.
    pub fn surroundings(&self, pod_ips: Vec<String>) -> Surroundings {
        Surroundings { pod_ips, host_ips: self.node_ips(), allocatable: self.machine.allocatable(&self.config) }
    }

    /// The resolvers Pods use. The host's file is read each time: it may change.
    pub fn resolvers(&self) -> Resolvers {
        let text = std::fs::read_to_string(&self.config.resolv_conf).unwrap_or_default();
        Resolvers {
            cluster: self.config.cluster_dns.clone(),
            domain: self.config.cluster_domain.clone(),
            host: crate::container::dns::parse(&text),
        }
    }
}
