//! Persistent volumes, claims, classes, and how many volumes nodes can attach.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::storage::v1 as storage;

use crate::model::{Labels, NodeRule, PodInfo, PodKey, Req, Selector, quantity_value};
use crate::sym::{Sym, SymMap};

/// Access modes as bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct AccessModes(u8);

impl AccessModes {
    const ONE_POD: u8 = 8;

    fn of(modes: Option<&Vec<String>>) -> Self {
        let bit = |mode: &String| match mode.as_str() {
            "ReadWriteOnce" => 1,
            "ReadOnlyMany" => 2,
            "ReadWriteMany" => 4,
            "ReadWriteOncePod" => Self::ONE_POD,
            _ => 0,
        };
        Self(modes.into_iter().flatten().map(bit).sum())
    }

    /// Whether all that are asked for are had.
    pub fn contain(self, asked: Self) -> bool {
        self.0 & asked.0 == asked.0
    }

    /// Whether only one pod may use it.
    pub fn one_pod(self) -> bool {
        self.0 & Self::ONE_POD != 0
    }
}

/// A PersistentVolume.
#[derive(Clone, Debug)]
pub struct Volume {
    /// Its name.
    pub name: Arc<str>,
    /// Its class; empty for none.
    pub class: Arc<str>,
    /// Bytes.
    pub capacity: i64,
    /// What it can do.
    pub modes: AccessModes,
    /// It is a block device.
    pub block: bool,
    /// The claim it is for: namespace, name, uid (empty while only reserved).
    pub claim: Option<(PodKey, Arc<str>)>,
    /// `status.phase` is Available (or not set yet).
    pub available: bool,
    /// Where it can be used.
    pub rule: Option<NodeRule>,
    /// Zone and region labels that nodes must have, one of each value set.
    pub zones: Vec<Req>,
    labels: Labels,
    /// Its CSI driver.
    pub driver: Option<Arc<str>>,
}

const ZONE_LABELS: [&str; 4] = [
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
];

impl Volume {
    /// Reads one.
    pub fn new(volume: &core::PersistentVolume) -> Self {
        let empty = core::PersistentVolumeSpec::default();
        let spec = volume.spec.as_ref().unwrap_or(&empty);
        let labels = volume.metadata.labels.iter().flatten();
        let zones = labels.clone().filter(|(k, _)| ZONE_LABELS.contains(&k.as_str())).map(|(key, value)| {
            let values: Vec<_> = value.split("__").map(str::to_owned).collect();
            Req::new(key, "In", &values)
        });
        let reference = spec.claim_ref.as_ref();
        let phase = volume.status.as_ref().and_then(|s| s.phase.as_deref());
        Self {
            name: volume.metadata.name.as_deref().unwrap_or_default().into(),
            class: spec.storage_class_name.as_deref().unwrap_or_default().into(),
            capacity: spec.capacity.as_ref().and_then(|c| c.get("storage")).map_or(0, quantity_value),
            modes: AccessModes::of(spec.access_modes.as_ref()),
            block: spec.volume_mode.as_deref() == Some("Block"),
            claim: reference.map(|r| {
                let text = |t: &Option<String>| t.as_deref().unwrap_or_default().into();
                (PodKey { namespace: text(&r.namespace), name: text(&r.name) }, text(&r.uid))
            }),
            available: matches!(phase, None | Some("Available" | "Pending" | ""))
                && volume.metadata.deletion_timestamp.is_none(),
            rule: spec.node_affinity.as_ref().and_then(|a| a.required.as_ref()).map(NodeRule::of_selector),
            zones: zones.collect(),
            labels: Labels::new(labels),
            driver: spec.csi.as_ref().map(|c| c.driver.as_str().into()),
        }
    }
}

/// A PersistentVolumeClaim.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Its key.
    pub key: PodKey,
    /// Its uid.
    pub uid: Arc<str>,
    /// The volume it is bound (or being bound) to.
    pub volume: Option<Arc<str>>,
    /// The binding is complete.
    pub bound: bool,
    /// Its class; `None` when it names none.
    pub class: Option<Arc<str>>,
    /// Bytes asked for.
    pub request: i64,
    /// What it must be able to do.
    pub modes: AccessModes,
    block: bool,
    selector: Option<Selector>,
    /// It is being deleted.
    pub terminating: bool,
    /// Its volume is lost.
    pub lost: bool,
}

impl Claim {
    /// Reads one.
    pub fn new(claim: &core::PersistentVolumeClaim) -> Self {
        let empty = core::PersistentVolumeClaimSpec::default();
        let spec = claim.spec.as_ref().unwrap_or(&empty);
        let meta = &claim.metadata;
        let annotation = |key: &str| meta.annotations.as_ref().is_some_and(|a| a.contains_key(key));
        let text = |t: &Option<String>| t.as_deref().filter(|t| !t.is_empty()).map(Arc::<str>::from);
        let volume = text(&spec.volume_name);
        let phase = claim.status.as_ref().and_then(|s| s.phase.as_deref());
        Self {
            key: PodKey {
                namespace: meta.namespace.as_deref().unwrap_or_default().into(),
                name: meta.name.as_deref().unwrap_or_default().into(),
            },
            uid: meta.uid.as_deref().unwrap_or_default().into(),
            bound: volume.is_some() && annotation("pv.kubernetes.io/bind-completed"),
            volume,
            class: spec.storage_class_name.as_deref().map(Into::into),
            request: spec
                .resources
                .as_ref()
                .and_then(|r| r.requests.as_ref())
                .and_then(|r| r.get("storage"))
                .map_or(0, quantity_value),
            modes: AccessModes::of(spec.access_modes.as_ref()),
            block: spec.volume_mode.as_deref() == Some("Block"),
            selector: spec.selector.as_ref().map(|s| Selector::of(Some(s))),
            terminating: meta.deletion_timestamp.is_some(),
            lost: phase == Some("Lost"),
        }
    }

    /// Whether a volume could be bound to it.
    pub fn fits(&self, volume: &Volume) -> bool {
        if let Some((key, uid)) = &volume.claim {
            return *key == self.key && (uid.is_empty() || *uid == self.uid);
        }
        volume.available
            && volume.class.as_ref() == self.class.as_deref().unwrap_or_default()
            && volume.block == self.block
            && volume.capacity >= self.request
            && volume.modes.contain(self.modes)
            && self.selector.as_ref().is_none_or(|s| s.matches(&volume.labels))
    }
}

/// A StorageClass.
#[derive(Clone, Debug)]
pub struct Class {
    /// Volumes are bound when a pod needs them.
    pub waits: bool,
    /// Volumes are made on demand.
    pub provisions: bool,
    /// Where they can be made: any of these, all requirements of each; empty for anywhere.
    pub topologies: Vec<Vec<Req>>,
}

impl Class {
    /// Reads one.
    pub fn new(class: &storage::StorageClass) -> Self {
        let terms = class.allowed_topologies.iter().flatten();
        let reqs = |t: &core::TopologySelectorTerm| {
            let reqs = t.match_label_expressions.iter().flatten();
            reqs.map(|r| Req::new(&r.key, "In", &r.values)).collect()
        };
        Self {
            waits: class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"),
            provisions: !class.provisioner.is_empty() && class.provisioner != "kubernetes.io/no-provisioner",
            topologies: terms.map(reqs).collect(),
        }
    }
}

/// All of them.
#[derive(Debug, Default)]
pub struct Volumes {
    volumes: HashMap<Arc<str>, Volume>,
    claims: HashMap<PodKey, Claim>,
    classes: HashMap<Arc<str>, Class>,
    /// How many volumes of each driver a node can attach.
    limits: SymMap<Sym, Vec<(Arc<str>, i64)>>,
    /// How many pods on nodes use each claim.
    users: HashMap<PodKey, u32>,
    /// Volumes chosen for claims whose binding is under way.
    assumed: HashMap<Arc<str>, PodKey>,
}

impl Volumes {
    /// A volume came, changed or went.
    pub fn set_volume(&mut self, name: &str, volume: Option<Volume>) {
        match volume {
            Some(volume) => {
                if volume.claim.is_some() {
                    self.assumed.remove(name);
                }
                self.volumes.insert(name.into(), volume);
            }
            None => {
                self.assumed.remove(name);
                self.volumes.remove(name);
            }
        }
    }

    /// A claim came, changed or went.
    pub fn set_claim(&mut self, key: &PodKey, claim: Option<Claim>) {
        match claim {
            Some(claim) => self.claims.insert(key.clone(), claim),
            None => self.claims.remove(key),
        };
    }

    /// A class came, changed or went.
    pub fn set_class(&mut self, name: &str, class: Option<Class>) {
        match class {
            Some(class) => self.classes.insert(name.into(), class),
            None => self.classes.remove(name),
        };
    }

    /// A CSINode came, changed or went.
    pub fn set_limits(&mut self, node: &str, csi: Option<&storage::CSINode>) {
        let limits: Vec<_> = csi
            .iter()
            .flat_map(|c| &c.spec.drivers)
            .filter_map(|d| Some((d.name.as_str().into(), i64::from(d.allocatable.as_ref()?.count?))))
            .collect();
        if limits.is_empty() {
            self.limits.remove(&Sym::of(node));
        } else {
            self.limits.insert(Sym::of(node), limits);
        }
    }

    /// A volume.
    pub fn volume(&self, name: &str) -> Option<&Volume> {
        self.volumes.get(name)
    }

    /// All volumes that are not chosen for a claim already.
    pub fn free(&self) -> impl Iterator<Item = &Volume> {
        self.volumes.values().filter(|v| !self.assumed.contains_key(&v.name))
    }

    /// A claim.
    pub fn claim(&self, key: &PodKey) -> Option<&Claim> {
        self.claims.get(key)
    }

    /// A class.
    pub fn class(&self, name: &str) -> Option<&Class> {
        self.classes.get(name)
    }

    /// Limits of a node by driver.
    pub fn limits(&self, node: Sym) -> &[(Arc<str>, i64)] {
        self.limits.get(&node).map_or(&[], Vec::as_slice)
    }

    /// How many pods use a claim.
    pub fn users(&self, key: &PodKey) -> u32 {
        self.users.get(key).copied().unwrap_or(0)
    }

    /// A volume is chosen for a claim.
    pub fn assume(&mut self, volume: Arc<str>, claim: PodKey) {
        self.assumed.insert(volume, claim);
    }

    /// It is not after all.
    pub fn forget(&mut self, volume: &str) {
        self.assumed.remove(volume);
    }

    /// A pod with claims came to or left a node.
    pub fn use_claims(&mut self, pod: &PodInfo, sign: i32) {
        for name in &pod.claims {
            let key = PodKey { namespace: pod.key.namespace.clone(), name: name.clone() };
            let users = self.users.entry(key.clone()).or_default();
            *users = users.saturating_add_signed(sign);
            if *users == 0 {
                self.users.remove(&key);
            }
        }
    }
}
