//! Packing endpoints into slices with few writes: what stands stays where it is.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::model::headless;
use crate::common::{deleting, labels, name, namespace, owner_ref};

/// The label that names a slice's service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The label that names who maintains a slice.
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// The label of slices and Endpoints of headless services.
pub const HEADLESS: &str = "service.kubernetes.io/headless";

/// Endpoints that share address type and ports, and so may share slices.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// `IPv4` or `IPv6`.
    pub address_type: String,
    /// The ports.
    pub ports: Vec<EndpointPort>,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// What all slices of one parent have in common.
#[derive(Clone, Debug)]
pub struct Parent {
    name: String,
    namespace: String,
    labels: BTreeMap<String, String>,
    annotations: Option<BTreeMap<String, String>>,
    owner: OwnerReference,
    /// Whether a parent without endpoints still has a (then empty) slice.
    placeholder: bool,
}

impl Parent {
    /// The parent of slices that are computed from a service's pods.
    pub fn of_service(s: &Service, manager: &str) -> Self {
        let mut l = labels(s).clone();
        for own in [SERVICE_NAME, MANAGED_BY, HEADLESS] {
            l.remove(own);
        }
        if headless(s) {
            l.insert(HEADLESS.into(), String::new());
        }
        l.insert(SERVICE_NAME.into(), name(s).into());
        l.insert(MANAGED_BY.into(), manager.into());
        Self {
            name: name(s).into(),
            namespace: namespace(s).into(),
            labels: l,
            annotations: None,
            owner: owner_ref(s),
            placeholder: true,
        }
    }

    /// The parent of slices that mirror Endpoints.
    pub fn of_endpoints(e: &Endpoints, manager: &str) -> Self {
        let mut l = labels(e).clone();
        l.insert(SERVICE_NAME.into(), name(e).into());
        l.insert(MANAGED_BY.into(), manager.into());
        let mut annotations = e.metadata.annotations.clone().unwrap_or_default();
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        annotations.remove("endpoints.kubernetes.io/last-change-trigger-time");
        Self {
            name: name(e).into(),
            namespace: namespace(e).into(),
            labels: l,
            annotations: Some(annotations).filter(|a| !a.is_empty()),
            owner: owner_ref(e),
            placeholder: false,
        }
    }

    fn slice(&self, address_type: &str, ports: Vec<EndpointPort>, endpoints: Vec<Endpoint>) -> EndpointSlice {
        EndpointSlice {
            metadata: ObjectMeta {
                generate_name: Some(format!("{}-", self.name)),
                namespace: Some(self.namespace.clone()),
                labels: Some(self.labels.clone()),
                annotations: self.annotations.clone(),
                owner_references: Some(vec![self.owner.clone()]),
                ..ObjectMeta::default()
            },
            address_type: address_type.to_owned(),
            ports: Some(ports),
            endpoints: Some(endpoints),
        }
    }
}

/// The writes.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// Slices to make; the server names them.
    pub create: Vec<EndpointSlice>,
    /// Slices to write back.
    pub update: Vec<EndpointSlice>,
    /// Slices to delete.
    pub delete: Vec<Arc<EndpointSlice>>,
}

/// An endpoint's identity: where it is found again, whatever its conditions.
type Identity = (Vec<String>, Option<String>);

fn identity(e: &Endpoint) -> Identity {
    (e.addresses.clone(), e.target_ref.as_ref().and_then(|r| r.uid.clone().or_else(|| r.name.clone())))
}

/// The ports of a slice in an order that does not matter.
fn port_key(ports: &[EndpointPort]) -> Vec<String> {
    let mut key: Vec<String> = ports.iter().map(|p| format!("{p:?}")).collect();
    key.sort();
    key
}

/// Decides how existing slices become the wanted groups; at most `max` endpoints each. Slices of address types not in `types` go.
pub fn plan(existing: &[Arc<EndpointSlice>], wanted: Vec<Group>, parent: &Parent, max: usize, types: &[&str]) -> Plan {
    let mut plan = Plan::default();
    let mut by_group: HashMap<(String, Vec<String>), Vec<Arc<EndpointSlice>>> = HashMap::new();
    for s in existing.iter().filter(|s| !deleting(&***s)) {
        let foreign = s.metadata.owner_references.iter().flatten().all(|o| o.uid != parent.owner.uid);
        if !types.contains(&s.address_type.as_str()) || foreign {
            plan.delete.push(s.clone());
        } else {
            let key = (s.address_type.clone(), port_key(s.ports.as_deref().unwrap_or_default()));
            by_group.entry(key).or_default().push(s.clone());
        }
    }
    let mut used: BTreeMap<String, usize> = BTreeMap::new();
    for group in wanted {
        let slices = by_group.remove(&(group.address_type.clone(), port_key(&group.ports))).unwrap_or_default();
        *used.entry(group.address_type.clone()).or_default() += 1;
        pack(slices, group, parent, max, &mut plan);
    }
    let mut left: Vec<_> = by_group.into_values().flatten().collect();
    left.sort_by(|a, b| name(&**a).cmp(name(&**b)));
    if parent.placeholder {
        for type_ in types.iter().filter(|t| !used.contains_key(**t)) {
            keep_placeholder(&mut left, type_, parent, &mut plan);
        }
    }
    plan.delete.extend(left);
    recycle(&mut plan, parent);
    plan
}

/// A slice to delete becomes one to make: whoever lists between two writes never sees the old beside the new, such as
/// the empty slice of a service beside its first endpoints. The address type of a slice cannot change, and a slice of a
/// former parent of the name is the garbage collector's.
fn recycle(plan: &mut Plan, parent: &Parent) {
    let (mut create, delete) = (std::mem::take(&mut plan.create), std::mem::take(&mut plan.delete));
    for old in delete {
        let owned = old.metadata.owner_references.iter().flatten().any(|o| o.uid == parent.owner.uid);
        match create.iter().position(|new| owned && new.address_type == old.address_type) {
            Some(i) => {
                let new = create.remove(i);
                let standing = relabelled(&old, parent).unwrap_or((*old).clone());
                plan.update.push(EndpointSlice { metadata: standing.metadata, ..new });
            }
            None => plan.delete.push(old),
        }
    }
    plan.create = create;
}

/// An address type without endpoints keeps one empty slice.
fn keep_placeholder(left: &mut Vec<Arc<EndpointSlice>>, type_: &str, parent: &Parent, plan: &mut Plan) {
    let empty = parent.slice(type_, vec![], vec![]);
    let is_empty = |s: &Arc<EndpointSlice>| {
        s.address_type == type_
            && s.endpoints.as_ref().is_none_or(Vec::is_empty)
            && s.ports.as_ref().is_none_or(Vec::is_empty)
    };
    match left.iter().position(is_empty) {
        None => plan.create.push(empty),
        Some(i) => {
            let standing = left.remove(i);
            if let Some(updated) = relabelled(&standing, parent) {
                plan.update.push(updated);
            }
        }
    }
}

/// The slice with the parent's labels and annotations, if they differ.
fn relabelled(s: &EndpointSlice, parent: &Parent) -> Option<EndpointSlice> {
    let same = s.metadata.labels.as_ref() == Some(&parent.labels)
        && (parent.annotations.is_none() || s.metadata.annotations == parent.annotations);
    (!same).then(|| {
        let mut s = s.clone();
        s.metadata.labels = Some(parent.labels.clone());
        if parent.annotations.is_some() {
            s.metadata.annotations = parent.annotations.clone();
        }
        s
    })
}

/// Puts a group's endpoints into its slices.
fn pack(slices: Vec<Arc<EndpointSlice>>, group: Group, parent: &Parent, max: usize, plan: &mut Plan) {
    let mut missing: BTreeMap<Identity, Endpoint> = group.endpoints.into_iter().map(|e| (identity(&e), e)).collect();
    let (mut changed, mut untouched): (Vec<EndpointSlice>, Vec<Arc<EndpointSlice>>) = (vec![], vec![]);
    for s in slices {
        let before = s.endpoints.clone().unwrap_or_default();
        let after: Vec<Endpoint> = before.iter().filter_map(|e| missing.remove(&identity(e))).collect();
        if after.is_empty() {
            plan.delete.push(s);
        } else if after != before {
            changed.push(EndpointSlice { endpoints: Some(after), ..relabelled(&s, parent).unwrap_or((*s).clone()) });
        } else if let Some(new) = relabelled(&s, parent) {
            changed.push(new);
        } else {
            untouched.push(s);
        }
    }
    let mut missing: Vec<Endpoint> = missing.into_values().collect();
    // Slices that are written anyway are filled first, the fullest before the others.
    changed.sort_by_key(|s| std::cmp::Reverse(s.endpoints.as_ref().map_or(0, Vec::len)));
    for s in &mut changed {
        fill(s, &mut missing, max);
    }
    // Less than a slice is left: one that can take all of it saves a new slice.
    if !missing.is_empty() && missing.len() < max {
        let room = |s: &Arc<EndpointSlice>| s.endpoints.as_ref().map_or(0, Vec::len) + missing.len() <= max;
        let best = untouched.iter().filter(|s| room(s)).max_by_key(|s| s.endpoints.as_ref().map_or(0, Vec::len));
        if let Some(s) = best {
            let mut s = (**s).clone();
            fill(&mut s, &mut missing, max);
            changed.push(s);
        }
    }
    // A slice that is emptied is used again before it is deleted and another one made.
    while !missing.is_empty() {
        let rest = missing.split_off(missing.len().min(max));
        let part = std::mem::replace(&mut missing, rest);
        let reusable = plan.delete.iter().position(|s| {
            s.address_type == group.address_type
                && port_key(s.ports.as_deref().unwrap_or_default()) == port_key(&group.ports)
                && s.metadata.owner_references.iter().flatten().any(|o| o.uid == parent.owner.uid)
        });
        match reusable {
            Some(i) => {
                let s = plan.delete.remove(i);
                changed.push(EndpointSlice { endpoints: Some(part), ..relabelled(&s, parent).unwrap_or((*s).clone()) });
            }
            None => plan.create.push(parent.slice(&group.address_type, group.ports.clone(), part)),
        }
    }
    plan.update.extend(changed);
}

fn fill(s: &mut EndpointSlice, missing: &mut Vec<Endpoint>, max: usize) {
    let list = s.endpoints.get_or_insert_default();
    let take = max.saturating_sub(list.len()).min(missing.len());
    list.extend(missing.drain(..take));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parent() -> Parent {
        let mut s = Service::default();
        s.metadata.name = Some("s".into());
        s.metadata.uid = Some("u".into());
        Parent::of_service(&s, "m")
    }

    fn group(range: std::ops::Range<usize>) -> Group {
        let endpoints =
            range.map(|i| Endpoint { addresses: vec![format!("10.0.0.{}", 1000 + i)], ..Default::default() });
        Group {
            address_type: "IPv4".into(),
            ports: vec![EndpointPort { port: Some(80), ..Default::default() }],
            endpoints: endpoints.collect(),
        }
    }

    fn store(plan: Plan, mut have: Vec<Arc<EndpointSlice>>, serial: &mut usize) -> Vec<Arc<EndpointSlice>> {
        have.retain(|s| plan.delete.iter().all(|d| name(&**d) != name(&**s)));
        for u in plan.update {
            let i = have.iter().position(|s| name(&**s) == name(&u)).expect("updated one exists");
            have[i] = Arc::new(u);
        }
        for mut c in plan.create {
            *serial += 1;
            c.metadata.name = Some(format!("s-{serial}"));
            have.push(Arc::new(c));
        }
        have
    }

    fn sizes(have: &[Arc<EndpointSlice>]) -> Vec<usize> {
        have.iter().map(|s| s.endpoints.as_ref().map_or(0, Vec::len)).collect()
    }

    #[test]
    fn grows_and_shrinks_with_few_writes() {
        let mut serial = 0;
        let p = |have: &[Arc<EndpointSlice>], g: Vec<Group>| plan(have, g, &parent(), 100, &["IPv4"]);
        let mut have = store(p(&[], vec![]), vec![], &mut serial);
        assert_eq!(sizes(&have), [0], "a placeholder");
        assert_eq!(p(&have, vec![]), Plan::default());
        let first = p(&have, vec![group(0..250)]);
        assert_eq!(
            (first.create.len(), first.update.len(), first.delete.len()),
            (2, 1, 0),
            "the placeholder is filled"
        );
        have = store(first, have, &mut serial);
        assert_eq!(sizes(&have), [100, 100, 50]);
        assert_eq!(p(&have, vec![group(0..250)]), Plan::default());
        let add = p(&have, vec![group(0..251)]);
        assert_eq!((add.create.len(), add.update.len(), add.delete.len()), (0, 1, 0));
        have = store(add, have, &mut serial);
        // Ten go from the first slice and ten others come: one write.
        let swap = p(&have, vec![group(10..261)]);
        assert_eq!((swap.create.len(), swap.update.len(), swap.delete.len()), (0, 1, 0));
        have = store(swap, have, &mut serial);
        assert_eq!(sizes(&have), [100, 100, 51]);
        let none = p(&have, vec![]);
        assert_eq!((none.create.len(), none.update.len(), none.delete.len()), (0, 1, 2));
        have = store(none, have, &mut serial);
        assert_eq!(sizes(&have), [0]);
    }

    #[test]
    fn all_addresses_replaced_reuses_the_slice() {
        let mut serial = 0;
        let have = store(plan(&[], vec![group(0..5)], &parent(), 100, &["IPv4"]), vec![], &mut serial);
        let p = plan(&have, vec![group(5..10)], &parent(), 100, &["IPv4"]);
        assert_eq!((p.create.len(), p.update.len(), p.delete.len()), (0, 1, 0));
    }

    /// One port becomes another: the slice changes in place. One of a former service of the name is not taken over.
    #[test]
    fn a_slice_is_used_again_only_by_its_own_parent() {
        let mut serial = 0;
        let have = store(plan(&[], vec![group(0..5)], &parent(), 100, &["IPv4"]), vec![], &mut serial);
        let other = || Group { ports: vec![EndpointPort { port: Some(81), ..Default::default() }], ..group(0..5) };
        let moved = plan(&have, vec![other()], &parent(), 100, &["IPv4"]);
        assert_eq!((moved.create.len(), moved.update.len(), moved.delete.len()), (0, 1, 0));
        assert_eq!(name(&moved.update[0]), name(&*have[0]));
        assert_eq!(moved.update[0].ports.as_ref().and_then(|p| p[0].port), Some(81));
        let mut heir = parent();
        heir.owner.uid = "v".into();
        let anew = plan(&have, vec![other()], &heir, 100, &["IPv4"]);
        assert_eq!((anew.create.len(), anew.update.len(), anew.delete.len()), (1, 0, 1));
    }

    #[test]
    fn a_family_that_is_dropped_goes() {
        let mut serial = 0;
        let have = store(plan(&[], vec![group(0..5)], &parent(), 100, &["IPv4", "IPv6"]), vec![], &mut serial);
        assert_eq!(have.len(), 2, "an empty one for IPv6");
        let p = plan(&have, vec![group(0..5)], &parent(), 100, &["IPv4"]);
        assert_eq!((p.create.len(), p.update.len(), p.delete.len()), (0, 0, 1));
    }
}
