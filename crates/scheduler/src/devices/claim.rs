//! ResourceClaims and DeviceClasses, compiled: what is asked for, and what is had already.

use std::sync::Arc;

use caravel_cel::device::Selector;
use k8s_openapi::api::resource::v1 as resource;

use super::binding::Binding;
use super::capacity::Amounts;
use super::constraint::Constraint;
use super::extended::ANNOTATION;
use super::slice::{Taint, quantities};
use super::{DeviceId, MAX_RESERVED};
use crate::model::{NodeRule, PodInfo, PodKey};

/// How many devices a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// So many.
    Exactly(usize),
    /// All that match.
    All,
}

/// A request, or one alternative of it.
#[derive(Clone, Debug)]
pub struct Request {
    /// `request`, or `request/alternative`.
    pub name: Arc<str>,
    /// The class of devices.
    pub class: Arc<str>,
    /// What devices must be like, as written.
    pub selectors: Vec<Arc<str>>,
    /// How many.
    pub mode: Mode,
    /// Whether devices that others have will do, too.
    pub admin: bool,
    /// Which taints do not matter.
    pub tolerations: Vec<resource::DeviceToleration>,
    /// How much of each device.
    pub amounts: Amounts,
}

impl Request {
    /// The name of the request that this is an alternative of (its own name if it is none).
    pub fn main(&self) -> &str {
        self.name.split('/').next().unwrap_or_default()
    }

    /// Whether none of the taints keeps the request away.
    pub fn tolerates(&self, taints: &[Taint]) -> bool {
        let matters = |t: &&Taint| matches!(t.effect.as_str(), "NoSchedule" | "NoExecute");
        taints.iter().filter(matters).all(|taint| self.tolerations.iter().any(|t| tolerates(t, taint)))
    }
}

/// A toleration without key tolerates all, one without effect every effect.
fn tolerates(toleration: &resource::DeviceToleration, taint: &Taint) -> bool {
    let text = |t: &Option<String>| t.as_deref().unwrap_or_default().to_owned();
    let (key, effect) = (text(&toleration.key), text(&toleration.effect));
    if !key.is_empty() && key != taint.key || !effect.is_empty() && effect != taint.effect {
        return false;
    }
    match toleration.operator.as_deref() {
        None | Some("" | "Equal") => text(&toleration.value) == taint.value,
        Some("Exists") => true,
        Some(_) => false,
    }
}

/// What a claim asks for.
#[derive(Debug)]
pub struct Wants {
    /// One entry a request: the alternatives in the order of preference.
    pub requests: Vec<Vec<Request>>,
    /// What the devices must have in common, or not.
    pub constraints: Vec<Constraint>,
    /// What is passed on to the drivers.
    pub config: Vec<resource::DeviceClaimConfiguration>,
    /// Something is asked for in a way that is not known here.
    pub unknown: Option<String>,
}

fn selectors(all: Option<&Vec<resource::DeviceSelector>>) -> Vec<Arc<str>> {
    // A selector of an unknown kind has no expression: an empty one does not compile, and so nothing is allocated by mistake.
    let text = |s: &resource::DeviceSelector| s.cel.as_ref().map_or("", |c| c.expression.as_str()).into();
    all.into_iter().flatten().map(text).collect()
}

fn mode(mode: Option<&str>, count: Option<i64>) -> Mode {
    match mode {
        Some("All") => Mode::All,
        _ => Mode::Exactly(usize::try_from(count.unwrap_or(1)).unwrap_or(usize::MAX)),
    }
}

fn amounts(capacity: Option<&resource::CapacityRequirements>) -> Amounts {
    quantities(capacity.into_iter().flat_map(|c| c.requests.iter().flatten()))
}

fn exactly(name: &str, r: &resource::ExactDeviceRequest) -> Request {
    Request {
        name: name.into(),
        class: r.device_class_name.as_str().into(),
        selectors: selectors(r.selectors.as_ref()),
        mode: mode(r.allocation_mode.as_deref(), r.count),
        admin: r.admin_access == Some(true),
        tolerations: r.tolerations.clone().unwrap_or_default(),
        amounts: amounts(r.capacity.as_ref()),
    }
}

fn alternative(name: &str, r: &resource::DeviceSubRequest) -> Request {
    Request {
        name: format!("{name}/{}", r.name).into(),
        class: r.device_class_name.as_str().into(),
        selectors: selectors(r.selectors.as_ref()),
        mode: mode(r.allocation_mode.as_deref(), r.count),
        admin: false,
        tolerations: r.tolerations.clone().unwrap_or_default(),
        amounts: amounts(r.capacity.as_ref()),
    }
}

impl Wants {
    /// Reads what a claim asks for.
    pub fn new(spec: &resource::ResourceClaimSpec) -> Self {
        let empty = resource::DeviceClaim::default();
        let devices = spec.devices.as_ref().unwrap_or(&empty);
        let mut out = Self {
            requests: Vec::new(),
            constraints: Vec::new(),
            config: devices.config.clone().unwrap_or_default(),
            unknown: None,
        };
        for request in devices.requests.iter().flatten() {
            let name = &request.name;
            let several = request.first_available.iter().flatten();
            let alternatives: Vec<Request> = match &request.exactly {
                Some(one) => vec![exactly(name, one)],
                None => several.map(|sub| alternative(name, sub)).collect(),
            };
            if alternatives.is_empty() || alternatives.iter().any(|a| a.class.is_empty()) {
                out.unknown = Some(format!("request {name}: unsupported request type"));
            }
            out.requests.push(alternatives);
        }
        for (i, constraint) in devices.constraints.iter().flatten().enumerate() {
            match Constraint::new(constraint) {
                Some(constraint) => out.constraints.push(constraint),
                None => out.unknown = Some(format!("constraint #{i}: empty constraint (unsupported constraint type?)")),
            }
        }
        out
    }
}

/// A device that a claim has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The device.
    pub id: DeviceId,
    /// Others may have it, too.
    pub admin: bool,
    /// How much of it, when it is shared.
    pub share: Option<Amounts>,
}

/// What a claim was given.
#[derive(Clone, Debug, Default)]
pub struct Allocation {
    /// Its devices.
    pub devices: Vec<Held>,
    /// The nodes that can use them; all when `None`.
    pub nodes: Option<NodeRule>,
}

impl Allocation {
    /// Reads one.
    pub fn new(result: &resource::AllocationResult) -> Self {
        let devices = result.devices.iter().flat_map(|d| d.results.iter().flatten());
        let held = |r: &resource::DeviceRequestAllocationResult| Held {
            id: DeviceId::new(&r.driver, &r.pool, &r.device),
            admin: r.admin_access == Some(true),
            share: r.share_id.as_ref().map(|_| quantities(r.consumed_capacity.iter().flatten())),
        };
        Self { devices: devices.map(held).collect(), nodes: result.node_selector.as_ref().map(NodeRule::of_selector) }
    }
}

/// A ResourceClaim.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Where it is found.
    pub key: PodKey,
    /// `metadata.uid`.
    pub uid: Arc<str>,
    /// `metadata.resourceVersion`: later ones are greater.
    pub version: u64,
    /// It is being deleted.
    pub terminating: bool,
    /// The uid of the pod that it was made for.
    pub owner: Option<Arc<str>>,
    /// What it asks for.
    pub wants: Arc<Wants>,
    /// What it has.
    pub allocation: Option<Arc<Allocation>>,
    /// The uids of those who use it.
    pub reserved: Vec<Arc<str>>,
    /// How far its devices are with what is to be met before a pod is bound.
    pub binding: Binding,
    /// It was made for the extended resources of its owner.
    pub special: bool,
}

impl Claim {
    /// Reads one.
    pub fn new(claim: &resource::ResourceClaim) -> Self {
        let meta = &claim.metadata;
        let text = |t: &Option<String>| Arc::<str>::from(t.as_deref().unwrap_or_default());
        let owner = meta.owner_references.iter().flatten().find(|o| o.controller == Some(true) && o.kind == "Pod");
        let status = claim.status.as_ref();
        let annotations = meta.annotations.as_ref();
        Self {
            key: PodKey { namespace: text(&meta.namespace), name: text(&meta.name) },
            uid: text(&meta.uid),
            version: meta.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0),
            terminating: meta.deletion_timestamp.is_some(),
            owner: owner.map(|o| o.uid.as_str().into()),
            wants: Arc::new(Wants::new(&claim.spec)),
            allocation: status.and_then(|s| s.allocation.as_ref()).map(|a| Arc::new(Allocation::new(a))),
            binding: status.map(|s| Binding::new(meta.name.as_deref().unwrap_or_default(), s)).unwrap_or_default(),
            special: annotations.is_some_and(|a| a.get(ANNOTATION).is_some_and(|v| v == "true")),
            reserved: status
                .iter()
                .flat_map(|s| s.reserved_for.iter().flatten())
                .map(|r| r.uid.as_str().into())
                .collect(),
        }
    }

    /// Whether one more pod can use it.
    pub fn takes(&self, pod: &PodInfo) -> bool {
        self.reserved.len() < MAX_RESERVED || self.reserved.contains(&pod.uid)
    }
}

/// A DeviceClass.
#[derive(Clone, Debug)]
pub struct Class {
    /// What devices must be like to belong to it, as written.
    pub selectors: Vec<Arc<str>>,
    /// What is passed on to the drivers.
    pub config: Vec<resource::DeviceClassConfiguration>,
    /// The extended resource that its devices stand in for, beside the one that is named after the class.
    pub extended: Option<Arc<str>>,
    /// When it was made, in seconds since 1970.
    pub created: i64,
}

impl Class {
    /// Reads one.
    pub fn new(class: &resource::DeviceClass) -> Self {
        Self {
            selectors: selectors(class.spec.selectors.as_ref()),
            config: class.spec.config.clone().unwrap_or_default(),
            extended: class.spec.extended_resource_name.as_deref().map(Into::into),
            created: class.metadata.creation_timestamp.as_ref().map_or(0, |t| t.0.as_second()),
        }
    }
}

/// A selector with the words that say whose it is.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// `class x: selector #0` or `claim ns/x: selector #0`.
    pub origin: String,
    /// The expression, or what is wrong with it.
    pub selector: Result<Arc<Selector>, Arc<str>>,
}
