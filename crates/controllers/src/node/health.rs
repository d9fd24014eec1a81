//! The node lifecycle controller: from leases and heartbeats to conditions, taints, and the readiness of pods.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use caravel_client::{Informer, Key, ListSelector, Recorder, WorkQueue, object_ref};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, ObjectReference, Pod, Taint};
use kube::Api;
use kube::api::{Patch, PatchParams};
use parking_lot::Mutex;
use serde_json::json;

use crate::common::*;
use crate::config::NodeTimes;
use crate::context::{Context, enqueue_each, record};

const WORKERS: usize = 8;
/// Nodes by the status of their Ready condition.
const BY_READY: &str = "ready";
const LEASES: &str = "kube-node-lease";
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// Conditions that a kubelet reports and that are unknown when it falls silent.
const REPORTED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// The last sign of life of one node, by this process's own clock.
#[derive(Clone, Debug)]
struct Seen {
    at: Timestamp,
    heartbeat: Option<Timestamp>,
    renewed: Option<Timestamp>,
    /// The pods' readiness followed the node's down already.
    pods_marked: bool,
}

struct Controller {
    context: Context,
    nodes: Informer<Node>,
    leases: Informer<Lease>,
    pods: Informer<Pod>,
    recorder: Recorder,
    seen: Arc<Mutex<HashMap<String, Seen>>>,
}

/// Runs the controller.
///
/// # Errors
/// Never by itself.
pub async fn run(context: Context) -> anyhow::Result<()> {
    let leases = ListSelector { namespace: Some(LEASES.into()), ..ListSelector::default() };
    let c = Controller {
        nodes: context.cluster.informer(),
        leases: context.cluster.informer_with(leases),
        pods: context.pods(),
        recorder: context.cluster.recorder("node-controller"),
        seen: Arc::default(),
        context,
    };
    c.nodes.add_index(BY_READY, |n| ready_state(n).map(str::to_owned).into_iter().collect());
    let queue = WorkQueue::new();
    enqueue_each(&c.nodes, &queue);
    c.wake_others_on_disruption(&queue);
    c.wake_on_return(&queue);
    c.nodes.synced().await;
    c.leases.synced().await;
    c.pods.synced().await;
    c.context.work(queue, WORKERS, |key| c.reconcile(key)).await;
    Ok(())
}

/// The state of a node's Ready condition.
fn ready_state(node: &Node) -> Option<&str> {
    condition(node, "Ready").map(|c| c.status.as_str())
}

fn condition<'a>(node: &'a Node, type_: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.iter().flatten().find(|c| c.type_ == type_)
}

impl Controller {
    /// Whether no node of the cluster is ready. Asked for every node: it must not look at all of them.
    fn disrupted(&self) -> bool {
        !self.nodes.any_by_index(BY_READY, "True")
    }

    /// With the first node that is ready, and when the last one falls silent, the others have to be (un)tainted.
    fn wake_others_on_disruption(&self, queue: &WorkQueue<Key>) {
        let (nodes, queue) = (self.nodes.clone(), queue.clone());
        let disrupted = AtomicBool::new(true);
        self.nodes.on_change(move |_| {
            let now = !nodes.any_by_index(BY_READY, "True");
            if disrupted.swap(now, Ordering::SeqCst) != now {
                nodes.list().iter().filter(|n| ready_state(n) != Some("True")).for_each(|n| queue.add(Key::of(&**n)));
            }
        });
    }

    /// The lease of a silent node that is renewed again wakes it; other renewals wake nobody.
    fn wake_on_return(&self, queue: &WorkQueue<Key>) {
        let (nodes, queue) = (self.nodes.clone(), queue.clone());
        self.leases.on_change(move |c| {
            let key = Key::cluster(name(&**c.object()));
            if nodes.get(&key).is_some_and(|n| ready_state(&n) == Some("Unknown")) {
                queue.add(key);
            }
        });
    }

    async fn reconcile(&self, key: Key) -> Outcome {
        let Some(node) = self.nodes.get(&key) else {
            if self.seen.lock().remove(&key.name).is_some() {
                let note = format!("Node {} event: Removing Node {0} from Controller", key.name);
                record(&self.recorder, &about_node(&key.name, ""), &[Event::normal("RemovingNode", note)]);
            }
            return Ok(None);
        };
        let now = self.context.now();
        let seen = self.observe(&node, now);
        let plan = plan(&Snapshot {
            node: &node,
            last_sign: seen.at,
            disrupted: self.disrupted(),
            times: &self.context.config.node,
            now,
        });
        self.apply(&node, &plan, &seen).await?;
        Ok(plan.again)
    }

    /// Takes in the node's heartbeat and its lease: a new one is a sign of life now.
    fn observe(&self, node: &Node, now: Timestamp) -> Seen {
        let heartbeat = condition(node, "Ready").and_then(|c| c.last_heartbeat_time.as_ref()).map(|t| t.0);
        let lease = self.leases.get(&Key::new(LEASES, name(node)));
        let renewed = lease.and_then(|l| l.spec.as_ref().and_then(|s| s.renew_time.as_ref()).map(|t| t.0));
        let mut all = self.seen.lock();
        let known = all.contains_key(name(node));
        let seen = all.entry(name(node).to_owned()).or_insert_with(|| Seen {
            // Of a node that never reported, life begins with its creation; of others with the first look: what happened before
            // this process started is not its time to count.
            at: if heartbeat.is_none() && renewed.is_none() { created(node) } else { now },
            heartbeat,
            renewed,
            pods_marked: false,
        });
        if heartbeat > seen.heartbeat || renewed > seen.renewed {
            (seen.at, seen.heartbeat, seen.renewed) = (now, heartbeat.max(seen.heartbeat), renewed.max(seen.renewed));
        }
        let seen = seen.clone();
        drop(all);
        if !known {
            let note = format!("Node {} event: Registered Node {0} in Controller", name(node));
            record(&self.recorder, &about_node(name(node), uid(node)), &[Event::normal("RegisteredNode", note)]);
        }
        seen
    }

    async fn apply(&self, node: &Node, plan: &Plan, seen: &Seen) -> anyhow::Result<()> {
        let api: Api<Node> = Api::all(self.context.client());
        let mut current = node.clone();
        if let Some(conditions) = &plan.conditions {
            current.status.get_or_insert_default().conditions = Some(conditions.clone());
            current = put_status(&api, &current).await?;
        }
        if let Some(taints) = &plan.taints {
            let patch = json!({"metadata": {"resourceVersion": current.metadata.resource_version, "uid": uid(node)},
                "spec": {"taints": taints}});
            api.patch(name(node), &PatchParams::default(), &Patch::Merge(patch)).await?;
        }
        if let Some(ready) = plan.ready {
            if !ready && !seen.pods_marked {
                let note = format!("Node {} status is now: NodeNotReady", name(node));
                record(&self.recorder, &about_node(name(node), uid(node)), &[Event::normal("NodeNotReady", note)]);
                self.mark_pods(node).await?;
            }
            if let Some(s) = self.seen.lock().get_mut(name(node)) {
                s.pods_marked = !ready;
            }
        }
        Ok(())
    }

    /// Pods of a node that is not ready are not ready: nobody would see it otherwise.
    async fn mark_pods(&self, node: &Node) -> anyhow::Result<()> {
        for p in self.pods.by_index(pod::BY_NODE, name(node)) {
            if !pod::ready(&p) {
                continue;
            }
            let api: Api<Pod> = Api::namespaced(self.context.client(), namespace(&*p));
            let patch = json!({"metadata": {"uid": uid(&*p)}, "status": {"conditions": [{
                "type": "Ready", "status": "False", "lastTransitionTime": stored_time(self.context.now())}]}});
            let result =
                api.patch_subresource("status", name(&*p), &PatchParams::default(), &Patch::Strategic(patch)).await;
            match result {
                Err(e) if is_conflict(&e) => {}
                other => gone_is_fine(other)?,
            }
            self.recorder.event(&object_ref(&*p), "Warning", "NodeNotReady", "Reconciling", "Node is not ready");
        }
        Ok(())
    }
}

/// Events about nodes name them without a namespace; upstream puts the name in the uid of a node that is gone.
fn about_node(name: &str, uid: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Node".into()),
        name: Some(name.into()),
        uid: Some(if uid.is_empty() { name } else { uid }.into()),
        ..ObjectReference::default()
    }
}

/// What a decision about one node rests on.
struct Snapshot<'a> {
    node: &'a Node,
    last_sign: Timestamp,
    /// No node of the cluster is ready: the fault is more likely ours, or the network's, and nobody is evicted.
    disrupted: bool,
    times: &'a NodeTimes,
    now: Timestamp,
}

/// What is to be done about one node.
#[derive(Debug, Default, PartialEq)]
struct Plan {
    conditions: Option<Vec<NodeCondition>>,
    taints: Option<Vec<Taint>>,
    /// Whether the node is ready, for its pods; `None` as long as it never said.
    ready: Option<bool>,
    again: Option<Duration>,
}

fn plan(s: &Snapshot<'_>) -> Plan {
    let grace = if condition(s.node, "Ready").is_some() { s.times.grace } else { s.times.startup_grace };
    let deadline = s.last_sign.checked_add(grace).unwrap_or(Timestamp::MAX);
    let silent = s.now >= deadline;
    let mut conditions = s.node.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    let mut changed = false;
    if silent {
        for type_ in REPORTED {
            changed |= make_unknown(&mut conditions, type_, s);
        }
    }
    let state = |type_: &str| conditions.iter().find(|c| c.type_ == type_).map(|c| c.status.as_str());
    let ready = state("Ready").map(|s| s == "True");
    let wanted = wanted_taints(s, state);
    let current = s.node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
    let taints = merge_taints(&current, wanted, s.now);
    Plan {
        taints: (taints != current).then_some(taints),
        ready,
        // A silent node wakes by its lease or heartbeat; a living one is looked at when it would fall silent.
        again: if silent { None } else { until(deadline, s.now) },
        conditions: changed.then_some(conditions),
    }
}

fn make_unknown(conditions: &mut Vec<NodeCondition>, type_: &str, s: &Snapshot<'_>) -> bool {
    match conditions.iter_mut().find(|c| c.type_ == type_) {
        None => {
            conditions.push(NodeCondition {
                type_: type_.into(),
                status: "Unknown".into(),
                reason: Some("NodeStatusNeverUpdated".into()),
                message: Some("Kubelet never posted node status.".into()),
                last_heartbeat_time: s.node.metadata.creation_timestamp.clone(),
                last_transition_time: Some(stored_time(s.now)),
            });
            true
        }
        Some(c) if c.status != "Unknown" => {
            c.status = "Unknown".into();
            c.reason = Some("NodeStatusUnknown".into());
            c.message = Some("Kubelet stopped posting node status.".into());
            c.last_transition_time = Some(stored_time(s.now));
            true
        }
        Some(_) => false,
    }
}

/// (key, effect) of the taints that the node's state asks for.
fn wanted_taints<'a>(s: &Snapshot<'_>, state: impl Fn(&str) -> Option<&'a str>) -> Vec<(&'static str, &'static str)> {
    let mut wanted = vec![];
    match state("Ready") {
        Some("False") => wanted.push((NOT_READY, "NoSchedule")),
        Some("Unknown") => wanted.push((UNREACHABLE, "NoSchedule")),
        _ => {}
    }
    for (condition, key) in [
        ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
        ("DiskPressure", "node.kubernetes.io/disk-pressure"),
        ("PIDPressure", "node.kubernetes.io/pid-pressure"),
        ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
    ] {
        if state(condition) == Some("True") {
            wanted.push((key, "NoSchedule"));
        }
    }
    if s.node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true) {
        wanted.push(("node.kubernetes.io/unschedulable", "NoSchedule"));
    }
    if !s.disrupted {
        match state("Ready") {
            Some("False") => wanted.push((NOT_READY, "NoExecute")),
            Some("Unknown") => wanted.push((UNREACHABLE, "NoExecute")),
            _ => {}
        }
    }
    wanted
}

/// Whether a taint is this controller's to set and to take away.
fn ours(t: &Taint) -> bool {
    match t.effect.as_str() {
        "NoExecute" => t.key == NOT_READY || t.key == UNREACHABLE,
        "NoSchedule" => matches!(
            t.key.as_str(),
            NOT_READY
                | UNREACHABLE
                | "node.kubernetes.io/memory-pressure"
                | "node.kubernetes.io/disk-pressure"
                | "node.kubernetes.io/pid-pressure"
                | "node.kubernetes.io/network-unavailable"
                | "node.kubernetes.io/unschedulable"
        ),
        _ => false,
    }
}

/// Others' taints stay as they are and where they are; ours become the wanted ones, and those that stand keep their time.
fn merge_taints(current: &[Taint], wanted: Vec<(&'static str, &'static str)>, now: Timestamp) -> Vec<Taint> {
    let is = |t: &Taint, (key, effect): &(&str, &str)| t.key == *key && t.effect == *effect;
    let mut result: Vec<Taint> =
        current.iter().filter(|t| !ours(t) || wanted.iter().any(|w| is(t, w))).cloned().collect();
    for w in wanted {
        if !result.iter().any(|t| is(t, &w)) {
            result.push(Taint { key: w.0.into(), effect: w.1.into(), value: None, time_added: Some(stored_time(now)) });
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{NodeSpec, NodeStatus};

    fn at(s: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + s).unwrap_or_default()
    }

    fn node(ready: Option<&str>) -> Node {
        Node {
            status: Some(NodeStatus {
                conditions: ready
                    .map(|r| vec![NodeCondition { type_: "Ready".into(), status: r.into(), ..Default::default() }]),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn decide(node: &Node, silent_for: i64, disrupted: bool) -> Plan {
        plan(&Snapshot { node, last_sign: at(0), disrupted, times: &NodeTimes::default(), now: at(silent_for) })
    }

    fn taints(p: &Plan) -> Vec<String> {
        p.taints
            .iter()
            .flatten()
            .map(|t| format!("{}:{}", t.key.trim_start_matches("node.kubernetes.io/"), t.effect))
            .collect()
    }

    #[test]
    fn silence_makes_unknown_and_taints() {
        let n = node(Some("True"));
        let quiet = decide(&n, 49, false);
        assert_eq!((quiet.conditions, quiet.taints, quiet.again), (None, None, Some(Duration::from_secs(1))));
        let lost = decide(&n, 50, false);
        let c = lost.conditions.as_ref().map(|l| l.iter().map(|c| c.status.as_str()).collect::<Vec<_>>());
        assert_eq!(c, Some(vec!["Unknown"; 4]));
        assert_eq!(taints(&lost), ["unreachable:NoSchedule", "unreachable:NoExecute"]);
        assert_eq!(lost.ready, Some(false));
        assert_eq!(taints(&decide(&n, 50, true)), ["unreachable:NoSchedule"], "nobody is evicted when all are lost");
    }

    #[test]
    fn a_node_that_never_spoke_has_longer() {
        assert_eq!(decide(&node(None), 59, false).conditions, None);
        let lost = decide(&node(None), 60, false);
        assert_eq!(lost.conditions.as_ref().and_then(|c| c[0].reason.as_deref()), Some("NodeStatusNeverUpdated"));
    }

    #[test]
    fn taints_follow_conditions_and_leave_others_alone() {
        let mut n = node(Some("False"));
        let own = Taint { key: "mine".into(), effect: "NoExecute".into(), ..Default::default() };
        n.spec = Some(NodeSpec { taints: Some(vec![own.clone()]), unschedulable: Some(true), ..Default::default() });
        let p = decide(&n, 0, false);
        assert_eq!(
            taints(&p),
            ["mine:NoExecute", "not-ready:NoSchedule", "unschedulable:NoSchedule", "not-ready:NoExecute"]
        );
        // Stored as planned nothing changes; recovered, only the other's taint is left.
        n.spec.get_or_insert_default().taints = p.taints;
        assert_eq!(decide(&n, 10, false).taints, None);
        n.status = node(Some("True")).status;
        n.spec.get_or_insert_default().unschedulable = None;
        assert_eq!(decide(&n, 10, false).taints, Some(vec![own]));
    }
}
