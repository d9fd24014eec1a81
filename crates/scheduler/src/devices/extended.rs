//! Extended resources by devices (KEP-5004): the claim that is made for what the containers of a pod ask for.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::resource::v1 as resource;

use super::claim::{Claim, Class, Compiled};
use super::search::Wanted;
use crate::model::{Asks, NodeInfo, PodInfo};

/// Says of a claim that it was made for the extended resources of its owner.
pub const ANNOTATION: &str = "resource.kubernetes.io/extended-resource-claim";

/// A request of the claim.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Request {
    name: String,
    resource: Arc<str>,
    count: i64,
    /// The number of the container that it is made for.
    number: usize,
}

/// What a container gets of which request.
pub type Mapping = core::ContainerExtendedResourceRequest;

fn mapping(asks: &Asks, resource: &str, request: &str) -> Mapping {
    Mapping {
        container_name: asks.container.to_string(),
        resource_name: resource.to_owned(),
        request_name: request.to_owned(),
    }
}

/// The requests and who gets what of them, for the resources of which `by_devices` holds.
///
/// Containers that live on beside each other get devices of their own. An init container that passes uses what later containers will
/// have, and more only as far as that is not enough; those have that one after the other.
fn requests(asks: &[Asks], by_devices: &BTreeSet<Arc<str>>) -> (Vec<Request>, Vec<Mapping>) {
    let (mut all, mut mappings) = (Vec::new(), Vec::new());
    for resource in by_devices {
        let of = |a: &Asks| a.resources.iter().find(|(name, ..)| name == resource).map(|(_, n, place)| (*n, *place));
        let request = |a: &Asks, count, place| Request {
            name: format!("container-{}-request-{place}", a.number),
            resource: resource.clone(),
            count,
            number: a.number,
        };
        let asking = || asks.iter().filter_map(|a| Some((a, of(a)?)));
        let lasting: Vec<Request> =
            asking().filter(|(a, _)| !a.passes).map(|(a, (n, place))| request(a, n, place)).collect();
        let lives = asking().filter(|(a, _)| !a.passes).zip(&lasting);
        mappings.extend(lives.map(|((a, _), r)| mapping(a, resource, &r.name)));
        let mut most: Option<Request> = None;
        let mut passing: Vec<(Mapping, bool)> = Vec::new();
        for (a, (wanted, place)) in asking().filter(|(a, _)| a.passes) {
            let mut had = 0;
            for later in lasting.iter().filter(|r| r.number >= a.number) {
                if had >= wanted {
                    break;
                }
                had += later.count;
                passing.push((mapping(a, resource, &later.name), false));
            }
            if had >= wanted {
                continue;
            }
            let more = request(a, wanted - had, place);
            passing.push((mapping(a, resource, &more.name), true));
            if most.as_ref().is_none_or(|m| m.count < more.count) {
                most = Some(more);
            }
        }
        mappings.extend(passing.into_iter().map(|(mut one, own)| {
            if let Some(most) = most.as_ref().filter(|_| own) {
                one.request_name.clone_from(&most.name);
            }
            one
        }));
        all.extend(most);
        all.extend(lasting);
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    (all, mappings)
}

/// A resource that devices of a class can stand in for.
#[derive(Debug)]
struct Backed {
    resource: Arc<str>,
    class_name: Arc<str>,
    class: Arc<Class>,
    selectors: Vec<Compiled>,
}

/// What the claim of a pod is on nodes that lack the same of its resources.
#[derive(Debug)]
pub struct Variant {
    /// What is to be allocated: the pod's other claims, and this one as the last.
    pub claims: Vec<Wanted>,
    /// The specification of the claim.
    pub spec: resource::ResourceClaimSpec,
    /// What goes into the pod's status.
    pub mappings: Vec<Mapping>,
}

/// What a pod asks for of which devices may take the place.
#[derive(Debug)]
pub struct Special {
    pod: Arc<str>,
    namespace: Arc<str>,
    asks: Box<[Asks]>,
    backed: Vec<Backed>,
    /// By which of the resources a node lacks.
    variants: RefCell<Vec<(Vec<bool>, Arc<Variant>)>>,
}

impl Special {
    /// For a pod. `class` finds the class of a resource with its compiled selectors; `None` when there is none for anything.
    pub fn new(
        pod: &PodInfo,
        mut class: impl FnMut(&str) -> Option<(Arc<str>, Arc<Class>, Vec<Compiled>)>,
    ) -> Option<Self> {
        let names: BTreeSet<&Arc<str>> = pod.extended.iter().flat_map(|a| a.resources.iter().map(|r| &r.0)).collect();
        let backed: Vec<Backed> = names
            .into_iter()
            .filter_map(|resource| {
                let (class_name, class, selectors) = class(resource)?;
                Some(Backed { resource: resource.clone(), class_name, class, selectors })
            })
            .collect();
        (!backed.is_empty()).then(|| Self {
            pod: pod.uid.clone(),
            namespace: pod.key.namespace.clone(),
            asks: pod.extended.clone(),
            backed,
            variants: RefCell::default(),
        })
    }

    /// What is to be allocated on a node beside `others`; `None` when the node has all of it as resources of its own.
    pub fn on(&self, node: &NodeInfo, others: &[Wanted]) -> Option<Arc<Variant>> {
        let lacks: Vec<bool> = self.backed.iter().map(|b| node.allocatable.get_scalar(&b.resource) == 0).collect();
        if !lacks.contains(&true) {
            return None;
        }
        if let Some((_, known)) = self.variants.borrow().iter().find(|(of, _)| *of == lacks) {
            return Some(known.clone());
        }
        let made = Arc::new(self.variant(&lacks, others));
        self.variants.borrow_mut().push((lacks, made.clone()));
        Some(made)
    }

    fn variant(&self, lacks: &[bool], others: &[Wanted]) -> Variant {
        let missing = || self.backed.iter().zip(lacks).filter(|(_, lacks)| **lacks).map(|(b, _)| b);
        let (requests, mappings) = requests(&self.asks, &missing().map(|b| b.resource.clone()).collect());
        let backed = |r: &Request| missing().find(|b| b.resource == r.resource);
        let written = |r: &Request| resource::DeviceRequest {
            name: r.name.clone(),
            exactly: Some(resource::ExactDeviceRequest {
                device_class_name: backed(r).map(|b| b.class_name.to_string()).unwrap_or_default(),
                allocation_mode: Some("ExactCount".into()),
                count: Some(r.count),
                ..Default::default()
            }),
            ..Default::default()
        };
        let devices =
            resource::DeviceClaim { requests: Some(requests.iter().map(written).collect()), ..Default::default() };
        let spec = resource::ResourceClaimSpec { devices: Some(devices) };
        let compiled =
            requests.iter().map(|r| backed(r).map(|b| (b.class.clone(), b.selectors.clone())).into_iter().collect());
        let wanted = Wanted { claim: Arc::new(self.claim(&spec)), requests: compiled.collect() };
        Variant { claims: others.iter().cloned().chain([wanted]).collect(), spec, mappings }
    }

    /// The claim as long as it is not made: under a name that no claim can have.
    fn claim(&self, spec: &resource::ResourceClaimSpec) -> Claim {
        let mut claim = Claim::new(&resource::ResourceClaim { spec: spec.clone(), ..Default::default() });
        claim.key.namespace = self.namespace.clone();
        claim.key.name = format!("<extended-resources> of {}", self.pod).into();
        claim.uid = self.pod.clone();
        claim
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks(number: usize, passes: bool, amount: i64) -> Asks {
        let resources = vec![("x.io/gpu".into(), amount, 0)];
        Asks { container: format!("c{number}").into(), number, passes, resources }
    }

    #[test]
    fn who_shares_with_whom() {
        for (name, asks, want, mapped) in [
            ("side by side", vec![asks(0, false, 1), asks(1, false, 2)], "0:1 1:2", "c0>0 c1>1"),
            ("an init container uses what comes later", vec![asks(0, true, 1), asks(1, false, 2)], "1:2", "c1>1 c0>1"),
            (
                "of two, if one is not enough",
                vec![asks(0, true, 2), asks(1, false, 1), asks(2, false, 1)],
                "1:1 2:1",
                "c1>1 c2>2 c0>1 c0>2",
            ),
            ("and more, if need be", vec![asks(0, true, 5), asks(1, false, 2)], "0:3 1:2", "c1>1 c0>1 c0>0"),
            ("one after the other", vec![asks(0, true, 2), asks(1, true, 3)], "1:3", "c0>1 c1>1"),
            ("not what was there before", vec![asks(0, false, 4), asks(1, true, 1)], "0:4 1:1", "c0>0 c1>1"),
        ] {
            let (requests, mappings) = requests(&asks, &[Arc::from("x.io/gpu")].into());
            let short = |request: &str| request.split('-').nth(1).unwrap_or_default().to_owned();
            let got: Vec<_> = requests.iter().map(|r| format!("{}:{}", short(&r.name), r.count)).collect();
            assert_eq!(got.join(" "), want, "{name}");
            let got: Vec<_> =
                mappings.iter().map(|m| format!("{}>{}", m.container_name, short(&m.request_name))).collect();
            assert_eq!(got.join(" "), mapped, "{name}");
        }
        let (none, mapped) = requests(&[asks(0, false, 1)], &BTreeSet::new());
        assert!(none.is_empty() && mapped.is_empty(), "what the node has itself");
    }
}
