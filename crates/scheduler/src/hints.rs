//! Queueing hints: which waiting pods an event can help. An event wakes only those.

use crate::config::Rules;
use crate::decide::{fits_features, fits_room, fits_rules};
use crate::model::{PodInfo, PodKey, WhenUnsatisfiable};
use crate::plugins::{Plugin, PluginSet, Reject};
use crate::state::{NodeId, State};

/// What happened.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// A node came, or changed in a way that matters.
    Node(NodeId),
    /// A pod left its node (or takes less of it, or is on its way out).
    PodGone(&'a PodInfo, Option<NodeId>),
    /// A pod came to a node, or got other labels.
    PodCame(&'a PodInfo),
    /// Something about volumes, claims or classes.
    Volumes,
    /// A resource claim came or changed; `freed` says that it gave its devices back.
    Claim {
        /// The claim.
        key: &'a PodKey,
        /// Whether its devices are free now.
        freed: bool,
    },
    /// There are other devices, or other classes of them.
    Devices,
    /// A namespace has other labels.
    Namespace,
    /// A node went: the domains to spread over are others.
    NodeGone,
}

const VOLUMES: [Plugin; 4] =
    [Plugin::VolumeBinding, Plugin::VolumeZone, Plugin::VolumeRestrictions, Plugin::NodeVolumeLimits];

fn any(plugins: PluginSet, of: &[Plugin]) -> bool {
    of.iter().any(|p| plugins.contains(*p))
}

/// Whether the event can help a pod to which `plugins` objected.
pub fn helps(state: &State, rules: &Rules, pod: &PodInfo, plugins: PluginSet, event: Event<'_>) -> bool {
    // Nobody knows what an extender would say now.
    if plugins.contains(Plugin::Extender) {
        return true;
    }
    match event {
        Event::Node(id) => fits_locally(state, rules, pod, id),
        Event::PodGone(gone, node) => {
            (any(plugins, &[Plugin::NodeResourcesFit, Plugin::NodePorts])
                && node.is_some_and(|id| fits_locally(state, rules, pod, id)))
                || plugins.contains(Plugin::InterPodAffinity)
                    && (keeps_away(state, pod, gone) || near(state, pod, gone))
                || plugins.contains(Plugin::PodTopologySpread) && spreads_with(pod, gone)
                || any(plugins, &VOLUMES) && !gone.claims.is_empty()
        }
        Event::PodCame(came) => {
            plugins.contains(Plugin::InterPodAffinity) && near(state, pod, came)
                || plugins.contains(Plugin::PodTopologySpread) && spreads_with(pod, came)
        }
        Event::Volumes => any(plugins, &VOLUMES),
        Event::Claim { key, freed } => plugins.contains(Plugin::DynamicResources) && (freed || uses(pod, key)),
        Event::Devices => {
            plugins.contains(Plugin::DynamicResources)
                || !pod.extended.is_empty() && plugins.contains(Plugin::NodeResourcesFit)
        }
        Event::Namespace => plugins.contains(Plugin::InterPodAffinity),
        Event::NodeGone => plugins.contains(Plugin::PodTopologySpread),
    }
}

/// Whether the claim is one of the pod's.
fn uses(pod: &PodInfo, claim: &PodKey) -> bool {
    pod.key.namespace == claim.namespace && pod.devices.iter().any(|d| d.claim.as_ref() == Some(&claim.name))
}

/// Whether the node would take the pod as far as the node alone is concerned: as it is, or after less important pods made room.
fn fits_locally(state: &State, rules: &Rules, pod: &PodInfo, id: NodeId) -> bool {
    let node = state.node(id);
    if fits_rules(rules, pod, node).and_then(|()| fits_features(rules, pod, node)).is_err() {
        return false;
    }
    match fits_room(state, rules, pod, node) {
        Ok(()) => true,
        Err(Reject { hopeless: true, .. }) => false,
        Err(_) => !pod.never_preempts && node.pods.iter().any(|p| p.priority < pod.priority),
    }
}

/// Whether one of the two must be far from the other.
fn keeps_away(state: &State, pod: &PodInfo, other: &PodInfo) -> bool {
    let labels = |of: &PodInfo| state.terms.namespaces.get(&of.namespace).cloned();
    let far = |from: &PodInfo, to: &PodInfo| {
        let known = labels(to);
        from.anti_affinity.iter().any(|t| t.matches(to.namespace, known.as_ref(), &to.labels))
    };
    far(pod, other) || far(other, pod)
}

/// Whether the pod must be near the other.
fn near(state: &State, pod: &PodInfo, other: &PodInfo) -> bool {
    let labels = state.terms.namespaces.get(&other.namespace);
    pod.affinity.iter().any(|t| t.matches(other.namespace, labels, &other.labels))
}

fn spreads_with(pod: &PodInfo, other: &PodInfo) -> bool {
    pod.namespace == other.namespace
        && pod
            .spread
            .iter()
            .any(|c| c.when == WhenUnsatisfiable::DoNotSchedule && c.term.selector.matches(&other.labels))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::queue::Queue;
    use crate::testing::{PodBuilder, node, pod, state};
    use serde_json::json;
    use std::time::{Duration, Instant};

    fn helped(state: &State, wants: PodBuilder, plugin: Plugin, event: Event<'_>) -> bool {
        let now = Instant::now();
        let mut queue = Queue::new(Duration::ZERO, Duration::ZERO);
        queue.set(wants.info(), now);
        let key = queue.pop(now).unwrap().key.clone();
        queue.unschedulable(&key, PluginSet::from_iter([plugin]), now);
        let entry = queue.get(&key).unwrap();
        helps(state, &Rules::default(), &entry.pod, entry.plugins, event)
    }

    #[test]
    fn only_what_can_help_wakes() {
        let state = state([node("small").cpu(100), node("large"), node("tainted").taint("k", "v", "NoSchedule")]);
        let id = |name: &str| state.find(name).unwrap();
        let host = "kubernetes.io/hostname";
        let web = pod("web").label("app", "web").info();
        let db = pod("db").label("app", "db").info();
        let loner = pod("loner").far(host, "app=web").info();
        let fit = Plugin::NodeResourcesFit;
        let inter = Plugin::InterPodAffinity;
        let spread = Plugin::PodTopologySpread;
        let dra = Plugin::DynamicResources;
        let claim = PodKey { namespace: "default".into(), name: "gpu".into() };
        let gpu = || pod("p").spec("resourceClaims", json!([{"name": "gpu", "resourceClaimName": "gpu"}]));
        for (name, wants, plugin, event, want) in [
            ("a node that is too small", pod("p").cpu(500), fit, Event::Node(id("small")), false),
            ("one with room", pod("p").cpu(500), fit, Event::Node(id("large")), true),
            ("one that is tainted", pod("p").cpu(500), fit, Event::Node(id("tainted")), false),
            ("room on a node", pod("p").cpu(500), fit, Event::PodGone(&web, Some(id("large"))), true),
            ("room that is no help to it", pod("p").cpu(500), fit, Event::PodGone(&web, Some(id("small"))), false),
            ("another's concern", pod("p"), inter, Event::PodGone(&web, Some(id("large"))), false),
            ("whom it avoids", pod("p").far(host, "app=web"), inter, Event::PodGone(&web, None), true),
            ("who avoids it", pod("p").label("app", "web"), inter, Event::PodGone(&loner, None), true),
            ("whom it seeks", pod("p").near(host, "app=web"), inter, Event::PodCame(&web), true),
            ("whom it does not seek", pod("p").near(host, "app=web"), inter, Event::PodCame(&db), false),
            ("its kind", pod("p").spread(host, 1, "DoNotSchedule", "app=web"), spread, Event::PodCame(&web), true),
            ("another kind", pod("p").spread(host, 1, "DoNotSchedule", "app=web"), spread, Event::PodCame(&db), false),
            ("volumes", pod("p"), Plugin::VolumeBinding, Event::Volumes, true),
            ("volumes are not its matter", pod("p"), fit, Event::Volumes, false),
            ("its claim", gpu(), dra, Event::Claim { key: &claim, freed: false }, true),
            ("another's claim", pod("p"), dra, Event::Claim { key: &claim, freed: false }, false),
            ("devices that got free", pod("p"), dra, Event::Claim { key: &claim, freed: true }, true),
            ("devices are not its matter", gpu(), fit, Event::Devices, false),
            ("new devices", gpu(), dra, Event::Devices, true),
        ] {
            assert_eq!(helped(&state, wants, plugin, event), want, "{name}");
        }
    }
}
