//! The plug-ins: filters from cheap to costly, and scores. Each is a few pure functions over the [`State`](crate::state::State).
//!
//! The order of [`Plugin`] is upstream's order of filters; a node is rejected by the first that objects, and the message counts that reason.

pub mod balanced;
pub mod devices;
pub mod features;
pub mod fit;
pub mod image_locality;
pub mod interpod;
pub mod node_affinity;
pub mod ports;
pub mod spread;
pub mod taints;
pub mod volumes;

/// A plug-in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Plugin {
    /// The pod has scheduling gates.
    SchedulingGates,
    /// `spec.unschedulable`.
    NodeUnschedulable,
    /// `spec.nodeName` (only through explicit requests).
    NodeName,
    /// Taints and tolerations.
    TaintToleration,
    /// `nodeSelector` and node affinity.
    NodeAffinity,
    /// Host ports.
    NodePorts,
    /// CPU, memory, pods, devices.
    NodeResourcesFit,
    /// Volumes that only one pod may use.
    VolumeRestrictions,
    /// How many volumes a node can attach.
    NodeVolumeLimits,
    /// Claims: bound, or to be bound.
    VolumeBinding,
    /// Zones of volumes.
    VolumeZone,
    /// Topology spread constraints.
    PodTopologySpread,
    /// Affinity and anti-affinity between pods.
    InterPodAffinity,
    /// Resource claims.
    DynamicResources,
    /// What the node's kubelet knows.
    NodeDeclaredFeatures,
    /// Even use of different resources.
    NodeResourcesBalancedAllocation,
    /// Images that are there already.
    ImageLocality,
    /// No plug-in, but an HTTP service outside.
    Extender,
}

impl Plugin {
    /// Upstream's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::SchedulingGates => "SchedulingGates",
            Self::NodeUnschedulable => "NodeUnschedulable",
            Self::NodeName => "NodeName",
            Self::TaintToleration => "TaintToleration",
            Self::NodeAffinity => "NodeAffinity",
            Self::NodePorts => "NodePorts",
            Self::NodeResourcesFit => "NodeResourcesFit",
            Self::VolumeRestrictions => "VolumeRestrictions",
            Self::NodeVolumeLimits => "NodeVolumeLimits",
            Self::VolumeBinding => "VolumeBinding",
            Self::VolumeZone => "VolumeZone",
            Self::PodTopologySpread => "PodTopologySpread",
            Self::InterPodAffinity => "InterPodAffinity",
            Self::DynamicResources => "DynamicResources",
            Self::NodeDeclaredFeatures => "NodeDeclaredFeatures",
            Self::NodeResourcesBalancedAllocation => "NodeResourcesBalancedAllocation",
            Self::ImageLocality => "ImageLocality",
            Self::Extender => "Extender",
        }
    }
}

/// Some plug-ins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PluginSet(u32);

impl PluginSet {
    /// Adds one.
    pub fn insert(&mut self, plugin: Plugin) {
        self.0 |= 1 << plugin as u8;
    }

    /// Whether one is in.
    pub fn contains(self, plugin: Plugin) -> bool {
        self.0 & (1 << plugin as u8) != 0
    }

    /// Whether none is.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl FromIterator<Plugin> for PluginSet {
    fn from_iter<T: IntoIterator<Item = Plugin>>(plugins: T) -> Self {
        let mut set = Self::default();
        plugins.into_iter().for_each(|p| set.insert(p));
        set
    }
}

/// Why a node will not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reject {
    /// Who says so.
    pub plugin: Plugin,
    /// What exactly: each plug-in has its own numbers.
    pub detail: u32,
    /// Taking pods away from the node would not help.
    pub hopeless: bool,
}

impl Reject {
    /// Taking pods away might help.
    pub fn new(plugin: Plugin, detail: u32) -> Self {
        Self { plugin, detail, hopeless: false }
    }

    /// Taking pods away would not help.
    pub fn hopeless(plugin: Plugin, detail: u32) -> Self {
        Self { plugin, detail, hopeless: true }
    }
}

/// The best score of a plug-in on a node.
pub const MAX_SCORE: i64 = 100;

/// Scales scores so that the best is [`MAX_SCORE`]; `reverse` makes the smallest the best.
pub fn normalize(scores: &mut [i64], reverse: bool) {
    let max = scores.iter().copied().max().unwrap_or(0);
    if max == 0 {
        if reverse {
            scores.fill(MAX_SCORE);
        }
        return;
    }
    for score in scores {
        *score = MAX_SCORE * *score / max;
        if reverse {
            *score = MAX_SCORE - *score;
        }
    }
}
