//! What informers and the deciding thread share: the state and the queue, and how events change both. No I/O.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use k8s_openapi::api::core::v1 as core;

use crate::config::{Config, Profile};
use crate::devices::claim::Claim;
use crate::hints::{self, Event};
use crate::model::{NodeInfo, PodInfo, PodKey};
use crate::plugins::Plugin;
use crate::queue::Queue;
use crate::state::{NodeId, State};

/// State and queue, changed together.
#[derive(Debug)]
pub struct Core {
    /// The cluster.
    pub state: State,
    /// The pods that wait.
    pub queue: Queue,
    profiles: Vec<Arc<Profile>>,
    /// Pods that are not tried before their resource claims are there.
    held: HashMap<PodKey, Arc<PodInfo>>,
}

impl Core {
    /// Nothing yet.
    pub fn new(config: &Config) -> Self {
        let seconds = |s: f64| std::time::Duration::try_from_secs_f64(s).unwrap_or_default();
        Self {
            state: State::default(),
            queue: Queue::new(seconds(config.backoff.0), seconds(config.backoff.1)),
            profiles: config.profiles.iter().cloned().map(Arc::new).collect(),
            held: HashMap::new(),
        }
    }

    /// The profile for a pod; `None` when another scheduler is responsible.
    pub fn profile(&self, pod: &PodInfo) -> Option<Arc<Profile>> {
        self.profiles.iter().find(|p| p.name == pod.scheduler).cloned()
    }

    /// Wakes the waiting pods that an event can help.
    pub fn happened(&mut self, event: Event<'_>, now: Instant) {
        let (state, profiles) = (&self.state, &self.profiles);
        self.queue.wake(now, |pod, plugins| {
            let profile = profiles.iter().find(|p| p.name == pod.scheduler);
            profile.is_some_and(|profile| hints::helps(state, &profile.rules, pod, plugins, event))
        });
    }

    /// A pod came or changed; `old` is what it was.
    pub fn set_pod(&mut self, old: Option<&PodInfo>, pod: Arc<PodInfo>, now: Instant) {
        if let Some(old) = old.filter(|old| old.uid != pod.uid) {
            self.remove_pod(old, now);
            return self.set_pod(None, pod, now);
        }
        if pod.node.is_some() {
            return self.set_bound(old, pod, now);
        }
        if pod.finished || pod.terminating {
            self.remove_pod(&pod, now);
            return;
        }
        // While it is assumed somewhere its binding is under way.
        if self.profile(&pod).is_none() || self.state.is_assumed(&pod.key) {
            return;
        }
        match &pod.nominated {
            Some(node) => self.state.nominate(pod.clone(), node),
            None => self.state.denominate(&pod.key),
        }
        self.enqueue(pod, now);
    }

    /// A pod whose claims are not there waits for them without being tried (PreEnqueue).
    fn enqueue(&mut self, pod: Arc<PodInfo>, now: Instant) {
        if pod.devices.is_empty() || !pod.gates.is_empty() || self.state.devices.of_pod(&pod).is_ok() {
            self.held.remove(&pod.key);
            self.queue.set(pod, now);
        } else {
            self.held.insert(pod.key.clone(), pod.clone());
            self.queue.set_behind(pod, Some(Plugin::DynamicResources), now);
        }
    }

    /// A resource claim came, changed or (`None`) went.
    pub fn set_claim(&mut self, key: &PodKey, claim: Option<Claim>, now: Instant) {
        let there = claim.is_some();
        let freed = self.state.devices.set_claim(key, claim);
        let waiting: Vec<_> =
            self.held.values().filter(|p| there && p.key.namespace == key.namespace).cloned().collect();
        for pod in waiting {
            self.enqueue(pod, now);
        }
        if there || freed {
            self.happened(Event::Claim { key, freed }, now);
        }
    }

    fn set_bound(&mut self, old: Option<&PodInfo>, pod: Arc<PodInfo>, now: Instant) {
        self.queue.remove(&pod.key);
        self.held.remove(&pod.key);
        let node = pod.node.as_deref().and_then(|n| self.state.find(n));
        let was_here = self.state.placed(&pod.key);
        self.state.set_pod(pod.clone());
        if pod.finished {
            if was_here {
                self.happened(Event::PodGone(&pod, node), now);
            }
            return;
        }
        match old.filter(|old| old.occupies()) {
            Some(old) => {
                let less =
                    old.requests != pod.requests || old.labels != pod.labels || old.terminating != pod.terminating;
                if less {
                    self.happened(Event::PodGone(old, node), now);
                }
                if old.labels != pod.labels {
                    self.happened(Event::PodCame(&pod), now);
                }
            }
            None => self.happened(Event::PodCame(&pod), now),
        }
    }

    /// A pod went.
    pub fn remove_pod(&mut self, pod: &PodInfo, now: Instant) {
        self.queue.remove(&pod.key);
        self.held.remove(&pod.key);
        self.state.denominate(&pod.key);
        let node = pod.node.as_deref().and_then(|n| self.state.find(n));
        if let Some(gone) = self.state.remove_pod(&pod.key) {
            self.happened(Event::PodGone(&gone, node), now);
        } else if pod.nominated.is_some() {
            let node = pod.nominated.as_deref().and_then(|n| self.state.find(n));
            self.happened(Event::PodGone(pod, node), now);
        }
    }

    /// A node came or changed.
    pub fn set_node(&mut self, node: &core::Node, now: Instant) {
        let fresh = NodeInfo::new(node);
        let name = fresh.name.clone();
        let matters = self.state.find(&name).is_none_or(|id| {
            let old = self.state.node(id);
            old.labels != fresh.labels
                || old.taints != fresh.taints
                || old.unschedulable != fresh.unschedulable
                || old.allocatable != fresh.allocatable
                || old.max_pods != fresh.max_pods
                || old.features != fresh.features
        });
        self.state.set_node(fresh);
        if let Some(id) = self.state.find(&name).filter(|_| matters) {
            self.happened(Event::Node(id), now);
        }
    }

    /// A node went.
    pub fn remove_node(&mut self, name: &str, now: Instant) {
        self.state.remove_node(name);
        self.happened(Event::NodeGone, now);
    }

    /// A binding failed: the pod is not where it was assumed to be.
    pub fn forget(&mut self, pod: &PodInfo, node: NodeId, now: Instant) {
        if self.state.forget(&pod.key) {
            self.queue.retry(&pod.key, now);
            self.happened(Event::PodGone(pod, Some(node)), now);
        }
    }

    /// The key of an object.
    pub fn key_of<K: kube::Resource>(object: &K) -> PodKey {
        let meta = object.meta();
        let text = |t: &Option<String>| t.as_deref().unwrap_or_default().into();
        PodKey { namespace: text(&meta.namespace), name: text(&meta.name) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::plugins::PluginSet;
    use crate::testing::{node, pod};
    use serde_json::json;

    #[test]
    fn a_pod_walks_through() {
        let now = Instant::now();
        let mut core = Core::new(&Config::default());
        core.set_node(&node("n").cpu(1000).object(), now);
        core.set_pod(None, pod("other").scheduler("someone").info(), now);
        assert!(core.queue.pop(now).is_none(), "another scheduler's");
        core.set_pod(None, pod("p").cpu(600).info(), now);
        let popped = core.queue.pop(now).unwrap();
        core.state.assume(popped.clone(), 0);
        // An update of the unbound pod meanwhile changes nothing.
        core.set_pod(Some(&popped), pod("p").cpu(600).info(), now);
        assert!(core.queue.pop(now).is_none());
        let bound = pod("p").cpu(600).on("n").info();
        core.set_pod(Some(&popped), bound.clone(), now);
        assert!(core.queue.get(&bound.key).is_none());
        assert_eq!(core.state.node(0).requested.cpu, 600);
        // Another waits for its room, and is woken when it goes.
        core.set_pod(None, pod("q").cpu(600).info(), now);
        let q = core.queue.pop(now).unwrap();
        core.queue.unschedulable(&q.key, PluginSet::from_iter([Plugin::NodeResourcesFit]), now);
        core.remove_pod(&bound, now);
        assert_eq!(core.state.node(0).requested.cpu, 0);
        assert_eq!(core.queue.sizes(), (0, 1, 0));
    }

    #[test]
    fn pods_wait_for_their_claims() {
        let now = Instant::now();
        let mut core = Core::new(&Config::default());
        core.set_node(&node("n").object(), now);
        let template = json!([{"name": "gpu", "resourceClaimTemplateName": "t"}]);
        let pod = || pod("p").spec("resourceClaims", template.clone());
        core.set_pod(None, pod().info(), now);
        assert!(core.queue.pop(now).is_none(), "its claim is not made yet");
        let mut named = pod().object();
        let made = json!([{"name": "gpu", "resourceClaimName": "p-gpu"}]);
        named.status.get_or_insert_default().resource_claim_statuses = Some(serde_json::from_value(made).unwrap());
        core.set_pod(Some(&pod().info()), Arc::new(PodInfo::new(&named)), now);
        assert!(core.queue.pop(now).is_none(), "its claim is not seen yet");
        let claim = |owner: &str| {
            Claim::new(&serde_json::from_value(json!({"metadata": {"name": "p-gpu", "namespace": "default", "uid": "c",
                "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": owner, "controller": true}]},
                "spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "gpu"}}]}}})).unwrap())
        };
        let key = claim("").key;
        core.set_claim(&key, Some(claim("somebody")), now);
        assert!(core.queue.pop(now).is_none(), "another's claim");
        core.set_claim(&key, None, now);
        core.set_claim(&key, Some(claim("uid-p")), now);
        assert!(core.queue.pop(now).is_some());
    }

    #[test]
    fn a_failed_binding_is_undone() {
        let now = Instant::now();
        let mut core = Core::new(&Config::default());
        core.set_node(&node("n").object(), now);
        core.set_pod(None, pod("p").cpu(600).info(), now);
        let popped = core.queue.pop(now).unwrap();
        core.state.assume(popped.clone(), 0);
        core.forget(&popped, 0, now);
        assert_eq!(core.state.node(0).requested.cpu, 0);
        assert_eq!(core.queue.sizes(), (0, 1, 0));
    }

    #[test]
    fn the_same_name_with_another_uid_is_another_pod() {
        let now = Instant::now();
        let mut core = Core::new(&Config::default());
        core.set_node(&node("n").object(), now);
        let first = pod("p").cpu(600).on("n").info();
        core.set_pod(None, first.clone(), now);
        let mut second = (*pod("p").cpu(100).info()).clone();
        second.uid = "another".into();
        core.set_pod(Some(&first), Arc::new(second), now);
        assert_eq!(core.state.node(0).requested.cpu, 0);
        assert!(core.queue.pop(now).is_some());
    }
}
