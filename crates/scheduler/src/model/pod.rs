//! What the scheduler remembers of a pod.

use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;

use super::{
    DEFAULT_CPU, DEFAULT_MEMORY, Labels, NodeRule, NodeTerm, PodTerm, Req, Resources, Selector, Taint, pod_requests,
};
use crate::sym::Sym;

/// Namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodKey {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl fmt::Display for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A port on the node that a pod wants to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostPort {
    protocol: Sym,
    ip: Sym,
    port: i32,
}

impl HostPort {
    fn new(port: &core::ContainerPort, number: i32) -> Self {
        let ip = port.host_ip.as_deref().filter(|ip| !ip.is_empty()).unwrap_or("0.0.0.0");
        Self { protocol: Sym::of(port.protocol.as_deref().unwrap_or("TCP")), ip: Sym::of(ip), port: number }
    }

    /// Whether both cannot be had: same port and protocol, and the same address or one of them all addresses.
    pub fn conflicts(&self, other: &Self) -> bool {
        let any = || {
            let all = Sym::of("0.0.0.0");
            self.ip == all || other.ip == all
        };
        self.port == other.port && self.protocol == other.protocol && (self.ip == other.ip || any())
    }
}

/// What a taint does, or which of that a toleration tolerates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaintEffect {
    /// New pods stay away.
    NoSchedule,
    /// New pods stay away when they can.
    PreferNoSchedule,
    /// All pods go away.
    NoExecute,
    /// In a toleration: all of these.
    Any,
}

impl TaintEffect {
    pub(super) fn of(text: &str) -> Self {
        match text {
            "NoSchedule" => Self::NoSchedule,
            "PreferNoSchedule" => Self::PreferNoSchedule,
            "NoExecute" => Self::NoExecute,
            _ => Self::Any,
        }
    }
}

/// A compiled toleration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toleration {
    /// `None` for all keys.
    key: Option<Arc<str>>,
    operator: TolerationOp,
    effect: TaintEffect,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum TolerationOp {
    Exists,
    Equal(Arc<str>),
    /// The taint's value is a number less than this (KEP-5471).
    Lt(i64),
    /// The taint's value is a number greater than this.
    Gt(i64),
    Never,
}

impl Toleration {
    fn new(toleration: &core::Toleration) -> Self {
        let value = toleration.value.as_deref().unwrap_or_default();
        let number = |f: fn(i64) -> TolerationOp| value.parse().map_or(TolerationOp::Never, f);
        Self {
            key: toleration.key.as_deref().filter(|k| !k.is_empty()).map(Into::into),
            operator: match toleration.operator.as_deref() {
                None | Some("" | "Equal") => TolerationOp::Equal(value.into()),
                Some("Exists") => TolerationOp::Exists,
                Some("Lt") => number(TolerationOp::Lt),
                Some("Gt") => number(TolerationOp::Gt),
                Some(_) => TolerationOp::Never,
            },
            effect: toleration.effect.as_deref().map_or(TaintEffect::Any, TaintEffect::of),
        }
    }

    /// Whether it tolerates a taint.
    pub fn tolerates(&self, taint: &Taint) -> bool {
        if self.effect != TaintEffect::Any && self.effect != taint.effect {
            return false;
        }
        if self.key.as_ref().is_some_and(|key| *key != taint.key) {
            return false;
        }
        let number = || taint.value.parse::<i64>().ok();
        match &self.operator {
            TolerationOp::Exists => true,
            TolerationOp::Equal(value) => *value == taint.value,
            TolerationOp::Lt(than) => number().is_some_and(|n| n < *than),
            TolerationOp::Gt(than) => number().is_some_and(|n| n > *than),
            TolerationOp::Never => false,
        }
    }

    /// Whether it matters for preferring nodes.
    pub fn tolerates_preferences(&self) -> bool {
        matches!(self.effect, TaintEffect::Any | TaintEffect::PreferNoSchedule)
    }
}

/// What happens when a spread constraint cannot be met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WhenUnsatisfiable {
    /// The pod waits.
    DoNotSchedule,
    /// Better nodes are preferred.
    ScheduleAnyway,
}

/// Whether nodes that a pod cannot go to count for its spreading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Inclusion {
    /// They do not count.
    Honor,
    /// They count.
    Ignore,
}

/// A topology spread constraint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Spread {
    /// How far the fullest may be from the emptiest domain.
    pub max_skew: i32,
    /// With fewer domains than this the emptiest counts as empty.
    pub min_domains: i32,
    /// Hard or soft.
    pub when: WhenUnsatisfiable,
    /// Which pods are counted, and by which node label.
    pub term: PodTerm,
    /// Whether only nodes that match the pod's node rule count.
    pub node_affinity: Inclusion,
    /// Whether only nodes whose taints the pod tolerates count.
    pub node_taints: Inclusion,
}

impl Spread {
    fn new(constraint: &core::TopologySpreadConstraint, namespace: Sym, labels: &Labels) -> Self {
        let keys = constraint.match_label_keys.iter().flatten();
        let merged = keys.filter_map(|key| {
            let key = Sym::of(key);
            labels.get(key).map(|value| Req::equals(key, value))
        });
        let selector = Selector::of(constraint.label_selector.as_ref()).and(merged);
        let policy = |text: &Option<String>, default| match text.as_deref() {
            Some("Honor") => Inclusion::Honor,
            Some("Ignore") => Inclusion::Ignore,
            _ => default,
        };
        Self {
            max_skew: constraint.max_skew,
            min_domains: constraint.min_domains.unwrap_or(1),
            when: if constraint.when_unsatisfiable == "ScheduleAnyway" {
                WhenUnsatisfiable::ScheduleAnyway
            } else {
                WhenUnsatisfiable::DoNotSchedule
            },
            term: PodTerm::in_namespace(namespace, selector, Sym::of(&constraint.topology_key)),
            node_affinity: policy(&constraint.node_affinity_policy, Inclusion::Honor),
            node_taints: policy(&constraint.node_taints_policy, Inclusion::Ignore),
        }
    }
}

/// A resource claim of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceClaim {
    /// Its name; `None` while it is still to be made from a template.
    pub claim: Option<Arc<str>>,
    /// It is made for this pod.
    pub generated: bool,
}

impl DeviceClaim {
    /// Reads one; `None` when its pod turned out to need none.
    fn new(claim: &core::PodResourceClaim, status: Option<&core::PodStatus>) -> Option<Self> {
        if let Some(name) = &claim.resource_claim_name {
            return Some(Self { claim: Some(name.as_str().into()), generated: false });
        }
        let mut made = status.iter().flat_map(|s| s.resource_claim_statuses.iter().flatten());
        match made.find(|s| s.name == claim.name) {
            None => Some(Self { claim: None, generated: true }),
            Some(made) => {
                let name = made.resource_claim_name.as_deref()?;
                Some(Self { claim: Some(name.into()), generated: true })
            }
        }
    }
}

/// A pod, as far as scheduling is concerned.
#[derive(Clone, Debug)]
pub struct PodInfo {
    /// Where it is found.
    pub key: PodKey,
    /// `metadata.uid`.
    pub uid: Arc<str>,
    /// Its namespace.
    pub namespace: Sym,
    /// Its labels.
    pub labels: Labels,
    /// `spec.priority`.
    pub priority: i32,
    /// `preemptionPolicy: Never`.
    pub never_preempts: bool,
    /// Whose it is to schedule.
    pub scheduler: Arc<str>,
    /// The node it is bound to.
    pub node: Option<Arc<str>>,
    /// The node that was made free for it.
    pub nominated: Option<Arc<str>>,
    /// It is being deleted.
    pub terminating: bool,
    /// It ran to its end: it takes nothing of its node any more.
    pub finished: bool,
    /// Names of its scheduling gates.
    pub gates: Box<[Arc<str>]>,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// When it was started, in seconds since 1970; when it was made, as long as it was not.
    pub started: i64,
    /// What it asks for.
    pub requests: Resources,
    /// CPU and memory with defaults, for scoring.
    pub nonzero: (i64, i64),
    /// Ports on the node.
    pub ports: Box<[HostPort]>,
    /// Where it may go.
    pub node_rule: Option<NodeRule>,
    /// Where it would rather go.
    pub node_preferences: Box<[(i64, NodeTerm)]>,
    /// What it tolerates.
    pub tolerations: Box<[Toleration]>,
    /// Pods it must be near to.
    pub affinity: Box<[PodTerm]>,
    /// Pods it must be far from.
    pub anti_affinity: Box<[PodTerm]>,
    /// Pods it would rather be near to (or far from: negative).
    pub preferences: Box<[(i64, PodTerm)]>,
    /// Its own spread constraints.
    pub spread: Box<[Spread]>,
    /// Persistent volume claims it mounts.
    pub claims: Box<[Arc<str>]>,
    /// Inline CSI volumes: their drivers.
    pub inline_drivers: Box<[Arc<str>]>,
    /// Images of its containers and volumes.
    pub images: Box<[Sym]>,
    /// Its resource claims.
    pub devices: Box<[DeviceClaim]>,
    /// What its node must declare to know.
    pub features: Box<[Arc<str>]>,
    /// What its containers ask for in resources that devices may stand in for.
    pub extended: Box<[super::Asks]>,
    /// Its controller: kind and name.
    pub owner: Option<(Arc<str>, Arc<str>)>,
}

fn seconds(time: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Time) -> i64 {
    time.0.as_second()
}

fn image_name(image: &str) -> Sym {
    // As nodes report them: with a tag or digest.
    let tagged = image.rsplit('/').next().is_some_and(|last| last.contains(':') || last.contains('@'));
    if tagged { Sym::of(image) } else { Sym::of(&format!("{image}:latest")) }
}

/// All that a pod has to be given from images: its containers', and those that are volumes (KEP-4639).
fn images(spec: &core::PodSpec) -> impl Iterator<Item = &str> {
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers).filter_map(|c| c.image.as_deref());
    let volumes = spec.volumes.iter().flatten().filter_map(|v| v.image.as_ref()?.reference.as_deref());
    containers.chain(volumes)
}

impl PodInfo {
    /// Reads a pod.
    pub fn new(pod: &core::Pod) -> Self {
        let empty = core::PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let meta = &pod.metadata;
        let status = pod.status.as_ref();
        let namespace_name: Arc<str> = meta.namespace.as_deref().unwrap_or_default().into();
        let namespace = Sym::of(&namespace_name);
        let labels = Labels::new(meta.labels.iter().flatten());
        let affinity = spec.affinity.as_ref();
        let near = affinity.and_then(|a| a.pod_affinity.as_ref());
        let far = affinity.and_then(|a| a.pod_anti_affinity.as_ref());
        let terms = |terms: Option<&Vec<core::PodAffinityTerm>>| -> Box<[PodTerm]> {
            terms.into_iter().flatten().map(|t| PodTerm::new(t, namespace)).collect()
        };
        let weighted = |terms: Option<&Vec<core::WeightedPodAffinityTerm>>, sign: i64| -> Vec<(i64, PodTerm)> {
            let terms = terms.into_iter().flatten();
            terms.map(|t| (sign * i64::from(t.weight), PodTerm::new(&t.pod_affinity_term, namespace))).collect()
        };
        let mut preferences =
            weighted(near.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()), 1);
        preferences
            .extend(weighted(far.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()), -1));
        let nonzero = pod_requests(pod, |asked| {
            if asked.cpu == 0 {
                asked.cpu = DEFAULT_CPU;
            }
            if asked.memory == 0 {
                asked.memory = DEFAULT_MEMORY;
            }
        });
        let created = meta.creation_timestamp.as_ref().map_or(0, seconds);
        let text = |text: &Option<String>| text.as_deref().filter(|t| !t.is_empty()).map(Arc::<str>::from);
        let pod_name: Arc<str> = meta.name.as_deref().unwrap_or_default().into();
        let volumes = spec.volumes.iter().flatten();
        let claims = volumes.clone().filter_map(|v| match (&v.persistent_volume_claim, &v.ephemeral) {
            (Some(claim), _) => Some(claim.claim_name.as_str().into()),
            (None, Some(_)) => Some(format!("{pod_name}-{}", v.name).into()),
            (None, None) => None,
        });
        let owner = meta.owner_references.iter().flatten().find(|o| o.controller == Some(true));
        let host_network = spec.host_network.unwrap_or(false);
        let containers = spec.containers.iter();
        let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
        let ports = containers.clone().chain(sidecars).flat_map(|c| c.ports.iter().flatten()).filter_map(|p| {
            let number = match p.host_port {
                Some(port) if port > 0 => port,
                _ if host_network => p.container_port,
                _ => return None,
            };
            Some(HostPort::new(p, number))
        });
        let requests = pod_requests(pod, |_| {});
        Self {
            extended: super::extended::asks(spec, &requests),
            uid: meta.uid.as_deref().unwrap_or_default().into(),
            namespace,
            priority: spec.priority.unwrap_or(0),
            never_preempts: spec.preemption_policy.as_deref() == Some("Never"),
            scheduler: spec.scheduler_name.as_deref().filter(|s| !s.is_empty()).unwrap_or("default-scheduler").into(),
            node: text(&spec.node_name),
            nominated: status.and_then(|s| text(&s.nominated_node_name)),
            terminating: meta.deletion_timestamp.is_some(),
            finished: matches!(status.and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed")),
            gates: spec.scheduling_gates.iter().flatten().map(|g| g.name.as_str().into()).collect(),
            created,
            started: status.and_then(|s| s.start_time.as_ref()).map_or(created, seconds),
            requests,
            nonzero: (nonzero.cpu, nonzero.memory),
            ports: ports.collect(),
            node_rule: NodeRule::of(spec),
            node_preferences: affinity
                .and_then(|a| a.node_affinity.as_ref())
                .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref())
                .into_iter()
                .flatten()
                .map(|t| (i64::from(t.weight), NodeTerm::new(&t.preference)))
                .collect(),
            tolerations: spec.tolerations.iter().flatten().map(Toleration::new).collect(),
            affinity: terms(near.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())),
            anti_affinity: terms(far.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())),
            preferences: preferences.into(),
            spread: spec
                .topology_spread_constraints
                .iter()
                .flatten()
                .map(|c| Spread::new(c, namespace, &labels))
                .collect(),
            claims: claims.collect(),
            inline_drivers: volumes.filter_map(|v| v.csi.as_ref()).map(|c| c.driver.as_str().into()).collect(),
            images: images(spec).map(image_name).collect(),
            features: crate::plugins::features::needed(spec),
            devices: spec.resource_claims.iter().flatten().filter_map(|c| DeviceClaim::new(c, status)).collect(),
            owner: owner.map(|o| (o.kind.as_str().into(), o.name.as_str().into())),
            labels,
            key: PodKey { namespace: namespace_name, name: pod_name },
        }
    }

    /// Whether it takes part in what nodes have to bear: bound, and not at its end.
    pub fn occupies(&self) -> bool {
        self.node.is_some() && !self.finished
    }
}
