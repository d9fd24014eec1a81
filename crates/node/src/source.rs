//! What the node's HTTPS API sees of the Pods: a snapshot, never the workers.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

/// One container of a Pod as the runtime holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerView {
    /// Its name in the Pod's spec (init and ephemeral containers included).
    pub name: String,
    /// The runtime's id.
    pub id: String,
    /// Its restart count.
    pub attempt: u32,
    /// Whether it runs.
    pub running: bool,
    /// The absolute path of its log.
    pub log_path: String,
}

/// One Pod and what runs of it.
#[derive(Debug, Clone)]
pub struct PodView {
    /// The Pod with the status the node computed last, which may be newer than the API's.
    pub pod: Arc<Pod>,
    /// The ready sandbox, if there is one.
    pub sandbox_id: Option<String>,
    /// The Pod's addresses, the primary one first (the node's with the host's network).
    pub ips: Vec<String>,
    /// Its containers, the newest first; earlier instances of a container follow its present one.
    pub containers: Vec<ContainerView>,
}

impl PodView {
    /// The newest instance of a container.
    pub fn container(&self, name: &str) -> Option<&ContainerView> {
        self.containers.iter().find(|c| c.name == name)
    }

    /// The instance before the newest one (`kubectl logs --previous`).
    pub fn previous(&self, name: &str) -> Option<&ContainerView> {
        self.containers.iter().filter(|c| c.name == name).nth(1)
    }
}

/// Where the HTTPS API finds Pods.
pub trait PodSource: Send + Sync + 'static {
    /// All Pods of this node.
    fn pods(&self) -> Vec<PodView>;
    /// One Pod by namespace and name. A Pod that ends gives way to its successor of the same name.
    fn pod(&self, namespace: &str, name: &str) -> Option<PodView>;
}
