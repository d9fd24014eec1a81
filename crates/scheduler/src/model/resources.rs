//! Amounts of resources, and what a pod asks for.

use std::collections::BTreeMap;
use std::sync::Arc;

use caravel_api::quantity::Quantity as Amount;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// What a container without a CPU request counts for when nodes are scored, in thousandths of a core.
pub const DEFAULT_CPU: i64 = 100;
/// What a container without a memory request counts for when nodes are scored, in bytes.
pub const DEFAULT_MEMORY: i64 = 200 << 20;

/// The whole value of a quantity, rounded up; 0 for what cannot be read (the API has checked it).
pub fn quantity_value(quantity: &Quantity) -> i64 {
    Amount::parse(&quantity.0).map_or(0, Amount::value)
}

/// A quantity in thousandths, rounded up.
pub fn quantity_milli(quantity: &Quantity) -> i64 {
    Amount::parse(&quantity.0).map_or(0, Amount::milli_value)
}

/// Amounts of resources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a core.
    pub cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes of local storage.
    pub ephemeral: i64,
    /// Everything else by name: huge pages, devices.
    pub scalar: Vec<(Arc<str>, i64)>,
}

type List = BTreeMap<String, Quantity>;

impl Resources {
    /// A resource list without `pods`.
    pub fn of(list: Option<&List>) -> Self {
        let mut out = Self::default();
        for (name, quantity) in list.into_iter().flatten() {
            match name.as_str() {
                "cpu" => out.cpu = quantity_milli(quantity),
                "memory" => out.memory = quantity_value(quantity),
                "ephemeral-storage" => out.ephemeral = quantity_value(quantity),
                "pods" => {}
                other => out.scalar.push((other.into(), quantity_value(quantity))),
            }
        }
        out
    }

    /// The amount of a resource outside the three built-in ones.
    pub fn get_scalar(&self, name: &str) -> i64 {
        self.scalar.iter().find(|(n, _)| &**n == name).map_or(0, |(_, amount)| *amount)
    }

    /// The amount of any resource.
    pub fn get(&self, name: &str) -> i64 {
        match name {
            "cpu" => self.cpu,
            "memory" => self.memory,
            "ephemeral-storage" => self.ephemeral,
            other => self.get_scalar(other),
        }
    }

    fn each(&mut self, other: &Self, f: impl Fn(&mut i64, i64)) {
        f(&mut self.cpu, other.cpu);
        f(&mut self.memory, other.memory);
        f(&mut self.ephemeral, other.ephemeral);
        for (name, amount) in &other.scalar {
            match self.scalar.iter_mut().find(|(n, _)| n == name) {
                Some((_, mine)) => f(mine, *amount),
                None => {
                    let mut mine = 0;
                    f(&mut mine, *amount);
                    self.scalar.push((name.clone(), mine));
                }
            }
        }
    }

    /// Adds.
    pub fn add(&mut self, other: &Self) {
        self.each(other, |mine, theirs| *mine += theirs);
    }

    /// Takes away.
    pub fn sub(&mut self, other: &Self) {
        self.each(other, |mine, theirs| *mine -= theirs);
    }

    /// The larger of each.
    pub fn max(&mut self, other: &Self) {
        self.each(other, |mine, theirs| *mine = (*mine).max(theirs));
    }

    /// Whether it is nothing at all.
    pub fn is_zero(&self) -> bool {
        self.cpu == 0 && self.memory == 0 && self.ephemeral == 0 && self.scalar.iter().all(|(_, n)| *n == 0)
    }
}

/// What one container asks for: of a running one the larger of what is asked and what it has (in-place resize, KEP-1287).
fn container_requests(container: &core::Container, pod: Option<&core::PodStatus>) -> Resources {
    let mut asked = Resources::of(container.resources.as_ref().and_then(|r| r.requests.as_ref()));
    let Some(status) = pod else { return asked };
    let statuses = status.container_statuses.iter().chain(status.init_container_statuses.iter()).flatten();
    if let Some(has) = statuses.into_iter().find(|s| s.name == container.name) {
        asked.max(&Resources::of(has.allocated_resources.as_ref()));
        asked.max(&Resources::of(has.resources.as_ref().and_then(|r| r.requests.as_ref())));
    }
    asked
}

/// What a pod asks for as a whole: all containers and sidecars together, or what its init containers need at their worst, plus overhead; pod-level
/// requests (KEP-2837) stand over the sum. `per_container` may adjust each container's requests (defaults for scoring).
pub fn pod_requests(pod: &core::Pod, per_container: impl Fn(&mut Resources)) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    let assigned = spec.node_name.as_ref().is_some_and(|n| !n.is_empty());
    let status = pod.status.as_ref().filter(|_| assigned);
    let requests = |container: &core::Container| {
        let mut asked = container_requests(container, status);
        per_container(&mut asked);
        asked
    };
    let mut total = Resources::default();
    for container in &spec.containers {
        total.add(&requests(container));
    }
    // Init containers run one after another, beside the sidecars that were started before them.
    let mut sidecars = Resources::default();
    let mut worst = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let asked = requests(container);
        let mut then = sidecars.clone();
        then.add(&asked);
        if container.restart_policy.as_deref() == Some("Always") {
            total.add(&asked);
            sidecars = then.clone();
        }
        worst.max(&then);
    }
    total.max(&worst);
    if let Some(pod_level) = spec.resources.as_ref().and_then(|r| r.requests.as_ref()) {
        let level = Resources::of(Some(pod_level));
        for name in pod_level.keys() {
            match name.as_str() {
                "cpu" => total.cpu = level.cpu,
                "memory" => total.memory = level.memory,
                huge if huge.starts_with("hugepages-") => {
                    total.scalar.retain(|(n, _)| **n != *huge);
                    total.scalar.push((huge.into(), level.get_scalar(huge)));
                }
                _ => {}
            }
        }
    }
    total.add(&Resources::of(spec.overhead.as_ref()));
    total
}
