//! What the scheduler remembers of a node.

use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;

use super::{HostPort, Labels, PodInfo, Resources, TaintEffect, quantity_value};
use crate::sym::{Sym, SymMap};

/// A taint, with its words for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taint {
    /// The key.
    pub key: Arc<str>,
    /// The value; may be empty.
    pub value: Arc<str>,
    /// What it does.
    pub effect: TaintEffect,
}

/// A node and the pods on it.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    /// `metadata.name`.
    pub name: Arc<str>,
    /// Its symbol.
    pub sym: Sym,
    /// Its labels.
    pub labels: Labels,
    /// Labels whose values are whole numbers.
    numbers: Box<[(Sym, i64)]>,
    /// Its taints.
    pub taints: Box<[Taint]>,
    /// `spec.unschedulable`.
    pub unschedulable: bool,
    /// What pods may use.
    pub allocatable: Resources,
    /// How many pods it takes.
    pub max_pods: i64,
    /// Images that are there, with their sizes in bytes.
    pub images: SymMap<Sym, i64>,
    /// What its kubelet declares to know.
    pub features: Box<[Arc<str>]>,
    /// Region and zone, for spreading the search.
    pub zone: Sym,
    /// What its pods have asked for.
    pub requested: Resources,
    /// The same for scoring, with defaults for what asks for nothing: CPU and memory.
    pub nonzero: (i64, i64),
    /// The pods on it, bound or assumed to be.
    pub pods: Vec<Arc<PodInfo>>,
    /// Host ports that are taken.
    pub ports: Vec<HostPort>,
}

impl NodeInfo {
    /// A node without pods.
    pub fn new(node: &core::Node) -> Self {
        let name: Arc<str> = node.metadata.name.as_deref().unwrap_or_default().into();
        let labels = node.metadata.labels.iter().flatten();
        let mut numbers: Vec<_> = labels.clone().filter_map(|(k, v)| Some((Sym::of(k), v.parse().ok()?))).collect();
        numbers.sort_unstable();
        let label = |key: &str| node.metadata.labels.as_ref().and_then(|l| l.get(key)).map_or("", String::as_str);
        let zone =
            Sym::of(&format!("{}:{}", label("topology.kubernetes.io/region"), label("topology.kubernetes.io/zone")));
        let status = node.status.as_ref();
        let list = status.and_then(|s| s.allocatable.as_ref().or(s.capacity.as_ref()));
        let mut images = SymMap::default();
        for image in status.iter().flat_map(|s| s.images.iter().flatten()) {
            for name in image.names.iter().flatten() {
                images.insert(Sym::of(name), image.size_bytes.unwrap_or(0));
            }
        }
        Self {
            sym: Sym::of(&name),
            name,
            labels: Labels::new(labels),
            numbers: numbers.into(),
            taints: node.spec.iter().flat_map(|s| s.taints.iter().flatten()).map(Taint::new).collect(),
            unschedulable: node.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or(false),
            allocatable: Resources::of(list),
            max_pods: list.and_then(|l| l.get("pods")).map_or(0, quantity_value),
            images,
            features: status
                .iter()
                .flat_map(|s| s.declared_features.iter().flatten())
                .map(|f| f.as_str().into())
                .collect(),
            zone,
            requested: Resources::default(),
            nonzero: (0, 0),
            pods: Vec::new(),
            ports: Vec::new(),
        }
    }

    /// The same pods on this, a newer version of the node.
    pub fn take_over(&mut self, old: &mut Self) {
        self.requested = std::mem::take(&mut old.requested);
        self.nonzero = old.nonzero;
        self.pods = std::mem::take(&mut old.pods);
        self.ports = std::mem::take(&mut old.ports);
    }

    /// The value of a label as a whole number.
    pub fn number(&self, key: Sym) -> Option<i64> {
        self.numbers.iter().find(|(k, _)| *k == key).map(|(_, n)| *n)
    }

    /// The name in the form of a label `metadata.name`, for field requirements.
    pub fn name_as_labels(&self) -> Labels {
        Labels::new([(&"metadata.name".to_owned(), &self.name.to_string())])
    }

    /// Adds a pod.
    pub fn add(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.requests);
        self.nonzero.0 += pod.nonzero.0;
        self.nonzero.1 += pod.nonzero.1;
        self.ports.extend_from_slice(&pod.ports);
        self.pods.push(pod);
    }

    /// Takes a pod away again.
    pub fn remove(&mut self, key: &super::PodKey) -> Option<Arc<PodInfo>> {
        self.remove_at(self.pods.iter().position(|p| p.key == *key)?)
    }

    /// Takes this very version of a pod away, without comparing names.
    pub fn remove_same(&mut self, pod: &Arc<PodInfo>) -> Option<Arc<PodInfo>> {
        self.remove_at(self.pods.iter().rposition(|p| Arc::ptr_eq(p, pod))?)
    }

    fn remove_at(&mut self, at: usize) -> Option<Arc<PodInfo>> {
        let pod = self.pods.swap_remove(at);
        self.requested.sub(&pod.requests);
        self.nonzero.0 -= pod.nonzero.0;
        self.nonzero.1 -= pod.nonzero.1;
        for port in &pod.ports {
            if let Some(at) = self.ports.iter().position(|p| p == port) {
                self.ports.swap_remove(at);
            }
        }
        Some(pod)
    }
}

impl Taint {
    fn new(taint: &core::Taint) -> Self {
        Self {
            key: taint.key.as_str().into(),
            value: taint.value.as_deref().unwrap_or_default().into(),
            effect: TaintEffect::of(&taint.effect),
        }
    }
}
