//! ResourceSlices, compiled: what drivers have to offer.

use std::collections::BTreeMap;
use std::sync::Arc;

use caravel_api::quantity::Quantity;
use caravel_cel::device::Attribute;
use k8s_openapi::api::core::v1::NodeSelector;
use k8s_openapi::api::resource::v1 as resource;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use super::DeviceId;
use super::capacity::Capacity;
use crate::model::{NodeInfo, NodeRule};

/// From where something can be used.
#[derive(Clone, Debug)]
pub enum Place {
    /// One node.
    Node(Arc<str>),
    /// Nodes of a selector, compiled and as written.
    Nodes(NodeRule, Box<NodeSelector>),
    /// Every node.
    All,
    /// Each device says so itself.
    EachDevice,
    /// Nothing that is known here: nobody can use it.
    Nowhere,
}

impl Place {
    fn new(node: Option<&str>, selector: Option<&NodeSelector>, all: Option<bool>) -> Self {
        match (node.filter(|n| !n.is_empty()), selector) {
            (Some(node), _) => Self::Node(node.into()),
            (None, _) if all == Some(true) => Self::All,
            (None, Some(selector)) => Self::Nodes(NodeRule::of_selector(selector), Box::new(selector.clone())),
            (None, None) => Self::Nowhere,
        }
    }

    /// Whether a node can use it.
    pub fn reaches(&self, node: &NodeInfo) -> bool {
        match self {
            Self::Node(name) => *name == node.name,
            Self::Nodes(rule, _) => rule.matches(node),
            Self::All => true,
            Self::EachDevice | Self::Nowhere => false,
        }
    }
}

/// What a device takes of a set of counters.
#[derive(Clone, Debug)]
pub struct Consumption {
    /// The set.
    pub set: Arc<str>,
    /// How much of each counter.
    pub counters: BTreeMap<String, Quantity>,
}

/// A taint of a device.
#[derive(Clone, Debug)]
pub struct Taint {
    /// The key.
    pub key: String,
    /// The value; may be empty.
    pub value: String,
    /// `NoSchedule` or `NoExecute`; others keep nobody away.
    pub effect: String,
}

/// A device.
#[derive(Clone, Debug)]
pub struct Device {
    /// Its names.
    pub id: DeviceId,
    /// From where it can be used.
    pub place: Place,
    /// What it is like.
    pub attributes: BTreeMap<String, Attribute>,
    /// What it has, as selectors see it.
    pub amounts: BTreeMap<String, Quantity>,
    /// What it has, with the rules for taking a part.
    pub capacity: BTreeMap<String, Capacity>,
    /// Several claims may have a part of it.
    pub shared: bool,
    /// What it takes of the pool's counters.
    pub consumes: Vec<Consumption>,
    /// What keeps claims away that do not tolerate it.
    pub taints: Vec<Taint>,
    /// It is bound to the node for which it is allocated.
    pub binds_to_node: bool,
    /// What must be met before a pod is bound, and what says that it will not be.
    pub conditions: (Vec<String>, Vec<String>),
}

impl Device {
    /// Looks an attribute up by its full name; one without a domain belongs to the driver's.
    pub fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.attributes.get(name).or_else(|| {
            let (domain, id) = name.split_once('/')?;
            (domain == &*self.id.driver).then(|| self.attributes.get(id)).flatten()
        })
    }
}

/// A ResourceSlice: a part of a pool.
#[derive(Clone, Debug)]
pub struct Slice {
    /// `metadata.name`.
    pub name: Arc<str>,
    /// Who drives its devices.
    pub driver: Arc<str>,
    /// The pool it is part of.
    pub pool: Arc<str>,
    /// The pool's generation that it belongs to.
    pub generation: i64,
    /// How many slices the pool has in this generation.
    pub count: i64,
    /// From where its devices can be used.
    pub place: Place,
    /// Its devices.
    pub devices: Vec<Device>,
    /// Sets of counters that the pool's devices share.
    pub counters: BTreeMap<Arc<str>, BTreeMap<String, Quantity>>,
}

/// A quantity; the server lets only good ones in, and one that is not counts as nothing.
pub(super) fn quantity(text: &Text) -> Quantity {
    Quantity::parse(&text.0).unwrap_or_default()
}

pub(super) fn quantities<'a>(all: impl IntoIterator<Item = (&'a String, &'a Text)>) -> BTreeMap<String, Quantity> {
    all.into_iter().map(|(name, text)| (name.clone(), quantity(text))).collect()
}

fn attribute(a: &resource::DeviceAttribute) -> Option<Attribute> {
    match a {
        resource::DeviceAttribute { int: Some(i), .. } => Some(Attribute::Int(*i)),
        resource::DeviceAttribute { bool: Some(b), .. } => Some(Attribute::Bool(*b)),
        resource::DeviceAttribute { string: Some(s), .. } => Some(Attribute::String(s.as_str().into())),
        resource::DeviceAttribute { version: Some(v), .. } => Some(Attribute::Version(v.as_str().into())),
        // Lists are an alpha feature (KEP-5491), which is off.
        _ => None,
    }
}

fn device(spec: &resource::ResourceSliceSpec, place: &Place, d: &resource::Device) -> Device {
    let own = matches!(place, Place::EachDevice);
    let capacity: BTreeMap<String, Capacity> =
        d.capacity.iter().flatten().map(|(name, c)| (name.clone(), Capacity::new(c))).collect();
    Device {
        id: DeviceId::new(&spec.driver, &spec.pool.name, &d.name),
        place: if own {
            Place::new(d.node_name.as_deref(), d.node_selector.as_ref(), d.all_nodes)
        } else {
            place.clone()
        },
        attributes: d.attributes.iter().flatten().filter_map(|(n, a)| Some((n.clone(), attribute(a)?))).collect(),
        amounts: capacity.iter().map(|(name, c)| (name.clone(), c.value)).collect(),
        capacity,
        shared: d.allow_multiple_allocations == Some(true),
        consumes: d
            .consumes_counters
            .iter()
            .flatten()
            .map(|c| Consumption {
                set: c.counter_set.as_str().into(),
                counters: quantities(c.counters.iter().map(|(name, counter)| (name, &counter.value))),
            })
            .collect(),
        taints: d
            .taints
            .iter()
            .flatten()
            .map(|t| Taint { key: t.key.clone(), value: t.value.clone().unwrap_or_default(), effect: t.effect.clone() })
            .collect(),
        binds_to_node: d.binds_to_node == Some(true),
        conditions: (
            d.binding_conditions.clone().unwrap_or_default(),
            d.binding_failure_conditions.clone().unwrap_or_default(),
        ),
    }
}

impl Slice {
    /// Whether some device of it has conditions to be met before binding.
    pub fn has_conditions(&self) -> bool {
        self.devices.iter().any(|d| !d.conditions.0.is_empty())
    }

    /// Reads one.
    pub fn new(slice: &resource::ResourceSlice) -> Self {
        let spec = &slice.spec;
        let place = match spec.per_device_node_selection {
            Some(true) => Place::EachDevice,
            _ => Place::new(spec.node_name.as_deref(), spec.node_selector.as_ref(), spec.all_nodes),
        };
        Self {
            name: slice.metadata.name.as_deref().unwrap_or_default().into(),
            driver: spec.driver.as_str().into(),
            pool: spec.pool.name.as_str().into(),
            generation: spec.pool.generation,
            count: spec.pool.resource_slice_count,
            devices: spec.devices.iter().flatten().map(|d| device(spec, &place, d)).collect(),
            counters: spec
                .shared_counters
                .iter()
                .flatten()
                .map(|set| {
                    let counters = quantities(set.counters.iter().map(|(name, counter)| (name, &counter.value)));
                    (set.name.as_str().into(), counters)
                })
                .collect(),
            place,
        }
    }
}
