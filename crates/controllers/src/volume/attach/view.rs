//! What is true of one node, read from the caches.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use caravel_client::Key;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, Pod, Taint, Volume};
use k8s_openapi::api::storage::v1::VolumeAttachment;

use super::memory::Memory;
use super::names::VolumeId;
use super::plan::{Attachment, Elsewhere, NodeState, Snapshot, VolumeState};
use super::{Controller, Look};
use crate::common::node_affinity::claim_of;
use crate::common::{annotation, controlled_by, deleting, name, namespace, pod, uid};

/// Index of pods by claim (`NAMESPACE/NAME`).
pub const BY_CLAIM: &str = "volume-claim";
/// Index of PersistentVolumes by the unique name of their CSI volume.
pub const BY_ID: &str = "csi";
/// Index of attachments by node.
pub const BY_PLACE: &str = "node";
/// Index of attachments by PersistentVolume.
pub const BY_VOLUME: &str = "volume";

/// On a node: this controller, and not the kubelet, attaches its volumes.
const MANAGED: &str = "volumes.kubernetes.io/controller-managed-attach-detach";
/// On a node: pods that ended keep their volumes until they are deleted.
const KEEP: &str = "volumes.kubernetes.io/keep-terminated-pod-volumes";
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// The claims that a pod uses, as `NAMESPACE/NAME`.
pub fn claims_of(p: &Pod) -> Vec<String> {
    let volumes = p.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    volumes.filter_map(|v| claim_of(name(p), v)).map(|c| Key::new(namespace(p), c).to_string()).collect()
}

/// The volumes that a node's kubelet uses.
pub fn in_use(node: &Node) -> BTreeSet<String> {
    node.status.iter().flat_map(|s| s.volumes_in_use.iter().flatten()).cloned().collect()
}

fn reported(node: &Node) -> Vec<String> {
    node.status.iter().flat_map(|s| s.volumes_attached.iter().flatten()).map(|a| a.name.clone()).collect()
}

fn healthy(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

fn out_of_service(node: &Node) -> bool {
    let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    taints.into_iter().any(|t: &Taint| t.key == OUT_OF_SERVICE)
}

fn managed(node: &Node) -> bool {
    annotation(node, MANAGED).is_some()
}

/// All of a node that this controller looks at.
pub fn matters(node: &Node) -> impl PartialEq + use<> {
    let keep = annotation(node, KEEP).map(str::to_owned);
    (in_use(node), reported(node), healthy(node), out_of_service(node), managed(node), keep)
}

/// Whether all of a pod is over: it ended, or it is being deleted and nothing of it runs.
pub fn over(p: &Pod) -> bool {
    let containers = p.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
    let mut states = containers.map(|c| c.state.as_ref());
    let runs = |s: Option<&k8s_openapi::api::core::v1::ContainerState>| {
        s.is_none_or(|s| s.terminated.is_none() && s.waiting.is_none())
    };
    pod::finished(p) || (deleting(p) && !states.any(runs))
}

/// The volume of an attachment whose PersistentVolume is gone: one that the node names and that gives the attachment's name.
pub fn place_of(a: &VolumeAttachment, node: &Node) -> Option<VolumeId> {
    let named = reported(node).into_iter().chain(in_use(node));
    named.filter_map(|n| VolumeId::parse(&n)).find(|id| id.attachment(name(node)) == name(a))
}

/// Whether a volume can be attached to one node at a time; one that says nothing of its access modes is left to its driver.
fn exclusive(v: &PersistentVolume) -> bool {
    let modes = v.spec.as_ref().and_then(|s| s.access_modes.as_deref()).unwrap_or_default();
    !modes.is_empty() && !modes.iter().any(|m| m == "ReadWriteMany" || m == "ReadOnlyMany")
}

fn attachment(a: &VolumeAttachment) -> Attachment {
    if deleting(a) {
        Attachment::Deleting
    } else if attached(a) {
        Attachment::Attached
    } else {
        Attachment::Pending
    }
}

fn attached(a: &VolumeAttachment) -> bool {
    a.status.as_ref().is_some_and(|s| s.attached)
}

impl Controller {
    /// The CSI volume that one of a pod's volumes is, if it is to be attached, and its PersistentVolume.
    fn attachable(&self, p: &Pod, volume: &Volume) -> Option<(VolumeId, Arc<PersistentVolume>)> {
        let claim = self.claims.get(&Key::new(namespace(p), claim_of(name(p), volume)?))?;
        if volume.ephemeral.is_some() && !controlled_by(&*claim, uid(p)) {
            return None;
        }
        let bound = claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
        let named = claim.spec.as_ref()?.volume_name.as_deref().filter(|_| bound)?;
        let v = self.volumes.get(&Key::cluster(named))?;
        let theirs = v.spec.as_ref()?.claim_ref.as_ref()?.uid.as_deref() == Some(uid(&*claim));
        let id = VolumeId::of(&v).filter(|_| theirs)?;
        let driver = self.drivers.get(&Key::cluster(id.driver.clone()));
        let required = driver.is_none_or(|d| d.spec.attach_required != Some(false));
        required.then_some((id, v))
    }

    /// Reads all about one node.
    pub(super) fn look(&self, node_name: &str) -> Look {
        let node = self.nodes.get(&Key::cluster(node_name));
        let mut look = Look { snapshot: Snapshot::default(), users: HashMap::new(), attachments: HashMap::new() };
        let Some(state) = self.node_state(node.as_deref()) else { return look };
        look.snapshot.node = state;
        let mut volumes: BTreeMap<VolumeId, VolumeState> = BTreeMap::new();
        for id in look.snapshot.node.reported.iter().filter_map(|n| VolumeId::parse(n)) {
            volumes.entry(id).or_default();
        }
        self.attached_to(node_name, node.as_deref(), &mut volumes, &mut look);
        self.wanted_on(node_name, node.as_deref(), &mut volumes, &mut look);
        let mut memory = self.memory.lock();
        let used = node.as_deref().map_or_else(|| memory.ghost(node_name), in_use);
        for (id, v) in &mut volumes {
            let place = (node_name.to_owned(), id.clone());
            v.in_use = used.contains(&id.unique_name());
            if v.exclusive {
                v.elsewhere = self.elsewhere(&memory, id, node_name);
            }
            if v.wanted {
                memory.wanted(&place);
            } else if v.attachment.is_some() {
                v.unwanted_for = memory.unwanted_for(&place);
            }
        }
        memory.keep(node_name, |id| volumes.get(id).is_some_and(|v| v.wanted || v.attachment.is_some()));
        if volumes.is_empty() && node.is_none() {
            memory.lay(node_name);
        }
        drop(memory);
        look.snapshot.volumes = volumes;
        look
    }

    /// `None` for a node whose volumes are none of this controller's business.
    fn node_state(&self, node: Option<&Node>) -> Option<NodeState> {
        let Some(node) = node else { return Some(NodeState::default()) };
        managed(node).then(|| NodeState {
            exists: true,
            healthy: healthy(node),
            out_of_service: out_of_service(node),
            reported: reported(node),
        })
    }

    fn attached_to(
        &self,
        node_name: &str,
        node: Option<&Node>,
        volumes: &mut BTreeMap<VolumeId, VolumeState>,
        look: &mut Look,
    ) {
        let memory = self.memory.lock();
        for (_, asked) in memory.asked.iter().filter(|(_, a)| a.place.0 == node_name) {
            volumes.entry(asked.place.1.clone()).or_default().attachment =
                Some(if asked.going { Attachment::Deleting } else { Attachment::Pending });
        }
        for a in self.attachments.by_index(BY_PLACE, node_name) {
            let Some(id) = self.volume_of(&a, node) else { continue };
            let gone = memory.deleted.get(name(&*a)).is_some_and(|u| u == uid(&*a));
            volumes.entry(id.clone()).or_default().attachment =
                Some(if gone { Attachment::Deleting } else { attachment(&a) });
            look.attachments.insert(id, a);
        }
    }

    fn wanted_on(
        &self,
        node_name: &str,
        node: Option<&Node>,
        volumes: &mut BTreeMap<VolumeId, VolumeState>,
        look: &mut Look,
    ) {
        let keep = node.is_some_and(|n| annotation(n, KEEP) == Some("true"));
        for p in self.pods.by_index(pod::BY_NODE, node_name) {
            if over(&p) && !keep {
                continue;
            }
            for volume in p.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
                let Some((id, v)) = self.attachable(&p, volume) else { continue };
                let state = volumes.entry(id.clone()).or_default();
                state.wanted = true;
                state.exclusive = exclusive(&v);
                let (_, users) = look.users.entry(id).or_insert_with(|| (name(&*v).to_owned(), vec![]));
                users.push(p.clone());
            }
        }
    }

    fn elsewhere(&self, memory: &Memory, id: &VolumeId, node: &str) -> Elsewhere {
        let volumes = self.volumes.by_index(BY_ID, &id.unique_name());
        let all = volumes.iter().flat_map(|v| self.attachments.by_index(BY_VOLUME, name(&**v)));
        let others: Vec<_> =
            all.filter(|a| a.spec.node_name != node && id.attachment(&a.spec.node_name) == name(&**a)).collect();
        if others.iter().any(|a| attached(a)) {
            Elsewhere::Attached
        } else if !others.is_empty() || memory.asked.values().any(|a| a.place.1 == *id && a.place.0 != node) {
            Elsewhere::Underway
        } else {
            Elsewhere::No
        }
    }
}
