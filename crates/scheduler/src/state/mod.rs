//! The scheduler's picture of the cluster: nodes with their pods (bound and assumed), counts, volumes.
//!
//! One thread decides and changes it; informers tell it what happened. A decision reads it and leaves it as it was.

mod cluster;
mod terms;
mod topology;
mod volumes;

use std::collections::HashMap;
use std::sync::Arc;

use crate::devices::state::Devices;
use crate::model::{NodeInfo, PodInfo, PodKey};
use crate::sym::{Sym, SymMap};

pub use cluster::{Budget, Cluster};
pub use terms::{Holders, MAX_TERMS, Term, TermId, Terms, TopologyId};
pub use topology::{NOWHERE, Topology};
pub use volumes::{AccessModes, Claim, Class, Volume, Volumes};

/// The number of a node. Numbers of nodes that are gone are used again.
pub type NodeId = u32;

/// Where a pod is.
#[derive(Debug)]
struct Placed {
    pod: Arc<PodInfo>,
    /// `None` while its node is not known.
    node: Option<NodeId>,
    /// Decided here, but not seen bound yet.
    assumed: bool,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct State {
    nodes: Vec<NodeInfo>,
    free: Vec<NodeId>,
    by_name: SymMap<Sym, NodeId>,
    pods: HashMap<PodKey, Placed>,
    /// Nodes in the order of the search: zones take turns.
    order: Vec<NodeId>,
    order_stale: bool,
    homeless: usize,
    /// Counts of pods.
    pub terms: Terms,
    /// Volumes and claims.
    pub volumes: Volumes,
    /// Resource claims, and the devices that there are.
    pub devices: Devices,
    /// Services, owners and budgets.
    pub cluster: Cluster,
    /// Pods for which room was made, by node.
    nominated: SymMap<Sym, Vec<Arc<PodInfo>>>,
    /// The node of each of them.
    nominated_at: HashMap<PodKey, Sym>,
    /// On how many nodes each image is.
    image_nodes: SymMap<Sym, u32>,
}

fn vacant() -> NodeInfo {
    NodeInfo::new(&k8s_openapi::api::core::v1::Node::default())
}

/// Whether two versions of a pod weigh the same on their node, so that nothing needs counting anew.
fn same_weight(a: &PodInfo, b: &PodInfo) -> bool {
    a.labels == b.labels
        && a.terminating == b.terminating
        && a.requests == b.requests
        && a.nonzero == b.nonzero
        && a.ports == b.ports
        && a.claims == b.claims
        && a.uid == b.uid
}

impl State {
    /// All node slots; those of nodes that are gone have an empty name and are in no order.
    #[inline]
    pub fn slots(&self) -> &[NodeInfo] {
        &self.nodes
    }

    /// A node.
    #[inline]
    pub fn node(&self, id: NodeId) -> &NodeInfo {
        &self.nodes[id as usize]
    }

    /// The number of nodes.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether there is no node.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// The node of a name.
    pub fn find(&self, name: &str) -> Option<NodeId> {
        self.by_name.get(&Sym::of(name)).copied()
    }

    /// The node of a name's symbol.
    pub fn find_sym(&self, name: Sym) -> Option<NodeId> {
        self.by_name.get(&name).copied()
    }

    /// Counts and node slots together, for interning terms.
    pub fn terms_and_slots(&mut self) -> (&mut Terms, &[NodeInfo]) {
        (&mut self.terms, &self.nodes)
    }

    /// On how many nodes an image is.
    pub fn image_nodes(&self, image: Sym) -> u32 {
        self.image_nodes.get(&image).copied().unwrap_or(0)
    }

    /// Nodes in the order of the search, as of the last [`State::order`].
    #[inline]
    pub fn ordered(&self) -> &[NodeId] {
        &self.order
    }

    /// Nodes in the order of the search: zones take turns.
    pub fn order(&mut self) -> &[NodeId] {
        if std::mem::take(&mut self.order_stale) {
            let mut zones: Vec<(Sym, Vec<NodeId>)> = Vec::new();
            let mut ids: Vec<_> = self.by_name.values().copied().collect();
            ids.sort_unstable();
            let mut at = SymMap::<Sym, usize>::default();
            for id in ids {
                let zone = self.nodes[id as usize].zone;
                let i = *at.entry(zone).or_insert_with(|| {
                    zones.push((zone, Vec::new()));
                    zones.len() - 1
                });
                zones[i].1.push(id);
            }
            self.order.clear();
            let longest = zones.iter().map(|(_, ids)| ids.len()).max().unwrap_or(0);
            for turn in 0..longest {
                self.order.extend(zones.iter().filter_map(|(_, ids)| ids.get(turn)));
            }
        }
        &self.order
    }

    /// A node came or changed.
    pub fn set_node(&mut self, fresh: NodeInfo) {
        let id = match self.by_name.get(&fresh.sym) {
            Some(id) => *id,
            None => return self.add_node(fresh),
        };
        let old = &self.nodes[id as usize];
        self.order_stale |= old.zone != fresh.zone;
        let (old_images, new_images) = (old.images.keys().copied().collect::<Vec<_>>(), fresh.images.keys().copied());
        count_images(&mut self.image_nodes, new_images, old_images.into_iter());
        if old.labels == fresh.labels {
            let old = &mut self.nodes[id as usize];
            let mut fresh = fresh;
            fresh.take_over(old);
            *old = fresh;
            return;
        }
        // Its pods move to other domains.
        let pods = std::mem::take(&mut self.nodes[id as usize].pods);
        for pod in &pods {
            self.terms.change(&self.nodes, id, pod, -1);
        }
        self.terms.place(id, &fresh.labels);
        self.nodes[id as usize] = fresh;
        for pod in pods {
            self.terms.change(&self.nodes, id, &pod, 1);
            self.nodes[id as usize].add(pod);
        }
    }

    fn add_node(&mut self, fresh: NodeInfo) {
        let id = self.free.pop().unwrap_or_else(|| {
            self.nodes.push(vacant());
            self.nodes.len() as NodeId - 1
        });
        self.by_name.insert(fresh.sym, id);
        self.order_stale = true;
        count_images(&mut self.image_nodes, fresh.images.keys().copied(), std::iter::empty());
        self.terms.place(id, &fresh.labels);
        let name = fresh.name.clone();
        self.nodes[id as usize] = fresh;
        if self.homeless == 0 {
            return;
        }
        let here: Vec<_> = self
            .pods
            .values_mut()
            .filter(|p| p.node.is_none() && p.pod.node.as_ref() == Some(&name))
            .map(|p| {
                p.node = Some(id);
                p.pod.clone()
            })
            .collect();
        self.homeless -= here.len();
        for pod in here {
            self.attach(id, pod);
        }
    }

    /// A node went.
    pub fn remove_node(&mut self, name: &str) {
        let Some(id) = self.by_name.remove(&Sym::of(name)) else { return };
        self.order_stale = true;
        let gone = std::mem::replace(&mut self.nodes[id as usize], vacant());
        count_images(&mut self.image_nodes, std::iter::empty(), gone.images.keys().copied());
        for pod in gone.pods {
            self.terms.change(&self.nodes, id, &pod, -1);
            self.volumes.use_claims(&pod, -1);
            if let Some(placed) = self.pods.get_mut(&pod.key) {
                placed.node = None;
                self.homeless += 1;
            }
        }
        self.terms.displace(id);
        self.free.push(id);
    }

    fn attach(&mut self, id: NodeId, pod: Arc<PodInfo>) {
        self.terms.change(&self.nodes, id, &pod, 1);
        self.volumes.use_claims(&pod, 1);
        self.nodes[id as usize].add(pod);
    }

    fn detach(&mut self, id: NodeId, key: &PodKey) {
        if let Some(pod) = self.nodes[id as usize].remove(key) {
            self.detached(id, &pod);
        }
    }

    fn detached(&mut self, id: NodeId, pod: &PodInfo) {
        self.terms.change(&self.nodes, id, pod, -1);
        self.volumes.use_claims(pod, -1);
    }

    /// A bound pod came or changed.
    pub fn set_pod(&mut self, pod: Arc<PodInfo>) {
        self.denominate(&pod.key);
        if !pod.occupies() {
            self.remove_pod(&pod.key);
            return;
        }
        let node = pod.node.as_deref().and_then(|name| self.find(name));
        if let (Some(placed), Some(id)) = (self.pods.get_mut(&pod.key), node)
            && placed.node == Some(id)
            && same_weight(&placed.pod, &pod)
        {
            if let Some(here) = self.nodes[id as usize].pods.iter_mut().find(|p| p.key == pod.key) {
                *here = pod.clone();
            }
            placed.pod = pod;
            placed.assumed = false;
            return;
        }
        self.remove_pod(&pod.key);
        self.pods.insert(pod.key.clone(), Placed { pod: pod.clone(), node, assumed: false });
        match node {
            Some(id) => self.attach(id, pod),
            None => self.homeless += 1,
        }
    }

    /// A pod that was bound (or assumed to be) went.
    pub fn remove_pod(&mut self, key: &PodKey) -> Option<Arc<PodInfo>> {
        let placed = self.pods.remove(key)?;
        match placed.node {
            Some(id) => self.detach(id, key),
            None => self.homeless -= 1,
        }
        Some(placed.pod)
    }

    /// Counts a pod as being on a node, before it is bound.
    pub fn assume(&mut self, pod: Arc<PodInfo>, node: NodeId) {
        self.denominate(&pod.key);
        self.remove_pod(&pod.key);
        self.pods.insert(pod.key.clone(), Placed { pod: pod.clone(), node: Some(node), assumed: true });
        self.attach(node, pod);
    }

    /// The binding failed: takes an assumption back. Gives whether there was one.
    pub fn forget(&mut self, key: &PodKey) -> bool {
        let assumed = self.pods.get(key).is_some_and(|p| p.assumed);
        if assumed {
            self.remove_pod(key);
        }
        assumed
    }

    /// Whether a pod is counted on a node.
    pub fn placed(&self, key: &PodKey) -> bool {
        self.pods.contains_key(key)
    }

    /// Whether a pod is assumed only.
    pub fn is_assumed(&self, key: &PodKey) -> bool {
        self.pods.get(key).is_some_and(|p| p.assumed)
    }

    /// Remembers that room on a node was made for a pod.
    pub fn nominate(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.denominate(&pod.key);
        let node = Sym::of(node);
        self.nominated_at.insert(pod.key.clone(), node);
        self.nominated.entry(node).or_default().push(pod);
    }

    /// Forgets that.
    pub fn denominate(&mut self, key: &PodKey) {
        if self.nominated_at.is_empty() {
            return;
        }
        let Some(node) = self.nominated_at.remove(key) else { return };
        if let Some(pods) = self.nominated.get_mut(&node) {
            pods.retain(|p| p.key != *key);
            if pods.is_empty() {
                self.nominated.remove(&node);
            }
        }
    }

    /// Pods for which room was made on a node.
    pub fn nominated(&self, node: Sym) -> &[Arc<PodInfo>] {
        self.nominated.get(&node).map_or(&[], Vec::as_slice)
    }

    /// Whether any pod waits for room made.
    pub fn any_nominated(&self) -> bool {
        !self.nominated.is_empty()
    }

    /// Takes a pod off its node for a trial; [`State::put_back`] undoes it.
    pub fn take_off(&mut self, node: NodeId, pod: &Arc<PodInfo>) {
        if let Some(pod) = self.nodes[node as usize].remove_same(pod) {
            self.detached(node, &pod);
        }
    }

    /// Takes a pod off its node for a trial that asks for room on the node only: counts of affinity and of volumes stay as they are.
    pub fn lift(&mut self, node: NodeId, pod: &Arc<PodInfo>) {
        self.nodes[node as usize].remove_same(pod);
    }

    /// Undoes [`State::lift`].
    pub fn lower(&mut self, node: NodeId, pod: Arc<PodInfo>) {
        self.nodes[node as usize].add(pod);
    }

    /// Puts a pod on a node for a trial, or back after one.
    pub fn put_back(&mut self, node: NodeId, pod: Arc<PodInfo>) {
        self.attach(node, pod);
    }
}

fn count_images(counts: &mut SymMap<Sym, u32>, came: impl Iterator<Item = Sym>, went: impl Iterator<Item = Sym>) {
    for image in came {
        *counts.entry(image).or_default() += 1;
    }
    for image in went {
        if let Some(n) = counts.get_mut(&image) {
            *n -= 1;
            if *n == 0 {
                counts.remove(&image);
            }
        }
    }
}
