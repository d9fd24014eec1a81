//! VolumeRestrictions, NodeVolumeLimits, VolumeBinding, VolumeZone.

use std::sync::Arc;

use super::{Plugin, Reject};
use crate::model::{NodeInfo, PodInfo, PodKey};
use crate::state::{State, Volume};

/// Details of VolumeBinding's rejections.
pub const AFFINITY: u32 = 0;
/// Nothing to bind to a waiting claim.
pub const NOTHING_TO_BIND: u32 = 1;
/// The volume of a bound claim is gone.
pub const VOLUME_GONE: u32 = 2;

/// A claim that waits for the node to be chosen.
#[derive(Debug)]
struct Waiting {
    claim: PodKey,
    /// Volumes that could be bound to it, the smallest first.
    candidates: Vec<Arc<str>>,
    /// The class to make a volume of.
    provision: Option<Arc<str>>,
}

/// What a pod's claims demand, ready for filtering.
#[derive(Debug, Default)]
pub struct Prepared {
    bound: Vec<Arc<str>>,
    waiting: Vec<Waiting>,
    /// A claim that only one pod may use is in use.
    taken: bool,
    gone: bool,
}

/// What is to be done about a claim before its pod is bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Binding {
    /// Reserve this volume for it.
    Volume {
        /// The claim.
        claim: PodKey,
        /// The volume.
        volume: Arc<str>,
    },
    /// Have one made for the chosen node.
    Provision {
        /// The claim.
        claim: PodKey,
    },
}

impl Prepared {
    /// Whether the pod has no persistent volumes.
    pub fn is_empty(&self) -> bool {
        self.bound.is_empty() && self.waiting.is_empty() && !self.taken && !self.gone
    }
}

/// Looks at a pod's claims; an error is a reason that no node can mend.
pub fn prepare(state: &State, pod: &PodInfo) -> Result<Prepared, String> {
    let mut out = Prepared::default();
    for name in &pod.claims {
        let key = PodKey { namespace: pod.key.namespace.clone(), name: name.clone() };
        let Some(claim) = state.volumes.claim(&key) else {
            return Err(format!("persistentvolumeclaim \"{name}\" not found"));
        };
        if claim.terminating {
            return Err(format!("persistentvolumeclaim \"{name}\" is being deleted"));
        }
        if claim.lost {
            let volume = claim.volume.as_deref().unwrap_or_default();
            return Err(format!(
                "persistentvolumeclaim \"{name}\" bound to non-existent persistentvolume \"{volume}\""
            ));
        }
        out.taken |= claim.modes.one_pod() && state.volumes.users(&key) > 0 && !state.placed(&pod.key);
        if claim.bound {
            match claim.volume.clone().filter(|v| state.volumes.volume(v).is_some()) {
                Some(volume) => out.bound.push(volume),
                None => out.gone = true,
            }
            continue;
        }
        let class = claim.class.as_deref().unwrap_or_default();
        let waits = claim.volume.is_none() && state.volumes.class(class).is_some_and(|c| c.waits);
        if !waits {
            return Err("pod has unbound immediate PersistentVolumeClaims".to_owned());
        }
        let mut candidates: Vec<&Volume> = state.volumes.free().filter(|v| claim.fits(v)).collect();
        // One that is reserved for the claim comes first, then the smallest.
        candidates
            .sort_by(|a, b| (a.claim.is_none(), a.capacity, &a.name).cmp(&(b.claim.is_none(), b.capacity, &b.name)));
        out.waiting.push(Waiting {
            candidates: candidates.into_iter().map(|v| v.name.clone()).collect(),
            provision: state.volumes.class(class).filter(|c| c.provisions).map(|_| class.into()),
            claim: key,
        });
    }
    Ok(out)
}

/// Whether the pod's volumes can be had on the node.
pub fn filter(state: &State, prepared: &Prepared, pod: &PodInfo, node: &NodeInfo) -> Result<(), Reject> {
    if prepared.is_empty() && pod.inline_drivers.is_empty() {
        return Ok(());
    }
    if prepared.taken {
        return Err(Reject::new(Plugin::VolumeRestrictions, 0));
    }
    limits(state, prepared, pod, node)?;
    if prepared.gone {
        return Err(Reject::hopeless(Plugin::VolumeBinding, VOLUME_GONE));
    }
    let mut zones_fit = true;
    for name in &prepared.bound {
        let Some(volume) = state.volumes.volume(name) else { continue };
        if volume.rule.as_ref().is_some_and(|rule| !rule.matches(node)) {
            return Err(Reject::hopeless(Plugin::VolumeBinding, AFFINITY));
        }
        zones_fit &= volume.zones.iter().all(|r| r.matches(&node.labels, |_| None));
    }
    if bindings(state, prepared, node).is_none() {
        return Err(Reject::hopeless(Plugin::VolumeBinding, NOTHING_TO_BIND));
    }
    if zones_fit { Ok(()) } else { Err(Reject::hopeless(Plugin::VolumeZone, 0)) }
}

/// What binding the waiting claims for a node takes; `None` when it cannot be done.
pub fn bindings(state: &State, prepared: &Prepared, node: &NodeInfo) -> Option<Vec<Binding>> {
    let mut out: Vec<Binding> = Vec::with_capacity(prepared.waiting.len());
    for waiting in &prepared.waiting {
        let taken = |name: &Arc<str>| out.iter().any(|b| matches!(b, Binding::Volume { volume, .. } if volume == name));
        let found = waiting.candidates.iter().find(|name| {
            !taken(name)
                && state.volumes.volume(name).is_some_and(|v| v.rule.as_ref().is_none_or(|rule| rule.matches(node)))
        });
        if let Some(volume) = found {
            out.push(Binding::Volume { claim: waiting.claim.clone(), volume: volume.clone() });
            continue;
        }
        let class = state.volumes.class(waiting.provision.as_deref()?)?;
        let anywhere = class.topologies.is_empty();
        if !anywhere && !class.topologies.iter().any(|t| t.iter().all(|r| r.matches(&node.labels, |_| None))) {
            return None;
        }
        out.push(Binding::Provision { claim: waiting.claim.clone() });
    }
    Some(out)
}

/// Whether the node can attach the pod's CSI volumes beside those of its other pods.
fn limits(state: &State, prepared: &Prepared, pod: &PodInfo, node: &NodeInfo) -> Result<(), Reject> {
    let limits = state.volumes.limits(node.sym);
    if limits.is_empty() {
        return Ok(());
    }
    let volumes_of = |pod: &PodInfo| -> Vec<Arc<str>> {
        let claims = pod.claims.iter().map(|name| PodKey { namespace: pod.key.namespace.clone(), name: name.clone() });
        claims.filter_map(|key| state.volumes.claim(&key)?.volume.clone()).collect()
    };
    for (driver, limit) in limits {
        let driven = |name: &Arc<str>| state.volumes.volume(name).is_some_and(|v| v.driver.as_ref() == Some(driver));
        let mut attached: Vec<Arc<str>> = node.pods.iter().flat_map(|p| volumes_of(p)).filter(driven).collect();
        let inline = |p: &PodInfo| p.inline_drivers.iter().filter(|d| *d == driver).count();
        let inline_there: usize = node.pods.iter().map(|p| inline(p)).sum();
        let before = attached.len();
        attached.extend(prepared.bound.iter().filter(|v| driven(v)).cloned());
        let new = attached.len() - before + inline(pod);
        if new == 0 {
            continue;
        }
        attached.sort();
        attached.dedup();
        if (attached.len() + inline_there + inline(pod)) as i64 > *limit {
            return Err(Reject::new(Plugin::NodeVolumeLimits, 0));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::state::{Claim, Class};
    use crate::testing::{node, pod, state};
    use serde_json::json;

    fn from<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    fn local(name: &str, gi: u32, host: &str, claim: Option<&str>) -> Volume {
        Volume::new(&from(json!({
            "metadata": {"name": name},
            "spec": {
                "capacity": {"storage": format!("{gi}Gi")}, "accessModes": ["ReadWriteOnce"], "storageClassName": "local",
                "claimRef": claim.map(|c| json!({"namespace": "default", "name": c})),
                "csi": {"driver": "d", "volumeHandle": name},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                    {"key": "kubernetes.io/hostname", "operator": "In", "values": [host]}]}]}},
            },
        })))
    }

    fn claim(name: &str, class: &str, volume: Option<&str>, mode: &str) -> Claim {
        let bound = volume.map(|_| json!({"pv.kubernetes.io/bind-completed": "yes"}));
        Claim::new(&from(json!({
            "metadata": {"name": name, "namespace": "default", "annotations": bound},
            "spec": {"storageClassName": class, "volumeName": volume, "accessModes": [mode],
                     "resources": {"requests": {"storage": "2Gi"}}},
        })))
    }

    fn cluster() -> State {
        let mut state = state([node("a").zone("z1"), node("b").zone("z2")]);
        let v = &mut state.volumes;
        for volume in [
            local("small", 1, "a", None),
            local("fits", 2, "a", None),
            local("large", 5, "a", None),
            local("on-b", 2, "b", Some("bound")),
        ] {
            let name = volume.name.clone();
            v.set_volume(&name, Some(volume));
        }
        let class = |provisioner: &str, mode: &str| {
            Class::new(&from(json!({"metadata": {"name": "x"}, "provisioner": provisioner, "volumeBindingMode": mode,
                "allowedTopologies": [{"matchLabelExpressions": [{"key": "topology.kubernetes.io/zone", "values": ["z2"]}]}]})))
        };
        v.set_class("local", Some(class("kubernetes.io/no-provisioner", "WaitForFirstConsumer")));
        v.set_class("made", Some(class("csi.x", "WaitForFirstConsumer")));
        v.set_class("now", Some(class("csi.x", "Immediate")));
        for c in [
            claim("bound", "local", Some("on-b"), "ReadWriteOnce"),
            claim("waits", "local", None, "ReadWriteOnce"),
            claim("waits2", "local", None, "ReadWriteOnce"),
            claim("waits3", "local", None, "ReadWriteOnce"),
            claim("made", "made", None, "ReadWriteOnce"),
            claim("immediate", "now", None, "ReadWriteOnce"),
            claim("single", "local", Some("on-b"), "ReadWriteOncePod"),
            claim("gone", "local", Some("nowhere"), "ReadWriteOnce"),
        ] {
            let key = c.key.clone();
            v.set_claim(&key, Some(c));
        }
        state
    }

    fn verdict(state: &State, claims: &[&str]) -> Result<String, String> {
        let wants = claims.iter().fold(pod("p"), |p, c| p.claim(c)).info();
        let prepared = prepare(state, &wants)?;
        let one = |name: &str| match filter(state, &prepared, &wants, state.node(state.find(name).unwrap())) {
            Ok(()) => "+".to_owned(),
            Err(r) => format!("{}{}", r.plugin.name(), r.detail),
        };
        Ok(format!("{} {}", one("a"), one("b")))
    }

    #[test]
    fn claims() {
        let state = cluster();
        for (claims, want) in [
            (&["bound"][..], Ok("VolumeBinding0 +")),
            (&["waits"], Ok("+ VolumeBinding1")),
            (&["waits", "waits2"], Ok("+ VolumeBinding1")),
            (&["waits", "waits2", "waits3"], Ok("VolumeBinding1 VolumeBinding1")),
            (&["made"], Ok("VolumeBinding1 +")),
            (&["gone"], Ok("VolumeBinding2 VolumeBinding2")),
            (&["immediate"], Err("pod has unbound immediate PersistentVolumeClaims")),
            (&["missing"], Err("persistentvolumeclaim \"missing\" not found")),
        ] {
            let want = want.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(verdict(&state, claims), want, "{claims:?}");
        }
    }

    #[test]
    fn the_smallest_that_fits_is_bound() {
        let state = cluster();
        let wants = pod("p").claim("waits").info();
        let prepared = prepare(&state, &wants).unwrap();
        let a = state.node(state.find("a").unwrap());
        let got = bindings(&state, &prepared, a).unwrap();
        assert!(matches!(&got[..], [Binding::Volume { volume, .. }] if &**volume == "fits"), "{got:?}");
        let mut state = state;
        state.volumes.assume("fits".into(), prepared.waiting[0].claim.clone());
        let prepared = prepare(&state, &wants).unwrap();
        let got = bindings(&state, &prepared, state.node(state.find("a").unwrap())).unwrap();
        assert!(matches!(&got[..], [Binding::Volume { volume, .. }] if &**volume == "large"), "{got:?}");
    }

    #[test]
    fn one_pod_at_a_time() {
        let mut state = cluster();
        assert_eq!(verdict(&state, &["single"]).unwrap(), "VolumeBinding0 +");
        state.set_pod(pod("user").claim("single").on("b").info());
        assert_eq!(verdict(&state, &["single"]).unwrap(), "VolumeRestrictions0 VolumeRestrictions0");
        state.remove_pod(&pod("user").info().key);
        assert_eq!(verdict(&state, &["single"]).unwrap(), "VolumeBinding0 +");
    }

    #[test]
    fn nodes_attach_only_so_many() {
        let mut state = cluster();
        let csi = json!({"metadata": {"name": "b"}, "spec": {"drivers": [{"name": "d", "nodeID": "b", "allocatable": {"count": 1}}]}});
        state.volumes.set_limits("b", Some(&from(csi)));
        let other = local("other-b", 2, "b", Some("other"));
        state.volumes.set_volume("other-b", Some(other));
        let c = claim("other", "local", Some("other-b"), "ReadWriteOnce");
        state.volumes.set_claim(&c.key.clone(), Some(c));
        assert_eq!(verdict(&state, &["bound"]).unwrap(), "VolumeBinding0 +");
        state.set_pod(pod("user").claim("other").on("b").info());
        assert_eq!(verdict(&state, &["bound"]).unwrap(), "VolumeBinding0 NodeVolumeLimits0");
        state.set_pod(pod("user").claim("bound").on("b").info());
        assert_eq!(verdict(&state, &["bound"]).unwrap(), "VolumeBinding0 +", "the same volume is attached once");
    }
}
