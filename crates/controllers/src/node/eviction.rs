//! Eviction by taints: pods leave nodes whose NoExecute taints they do not tolerate, or tolerate for a time only.

use std::collections::HashMap;

use caravel_client::{Change, Informer, Key, WorkQueue, object_ref};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use parking_lot::Mutex;
use serde_json::json;

use crate::common::*;
use crate::context::Context;

const WORKERS: usize = 8;

/// Whether a toleration covers a taint.
pub fn tolerates(t: &Toleration, taint: &Taint) -> bool {
    let effect = t.effect.as_deref().unwrap_or_default();
    let key = t.key.as_deref().unwrap_or_default();
    let value = |v: &Option<String>| v.clone().unwrap_or_default();
    (effect.is_empty() || effect == taint.effect)
        && (key.is_empty() || key == taint.key)
        && match t.operator.as_deref().unwrap_or("Equal") {
            "Exists" => true,
            "Equal" | "" => value(&t.value) == value(&taint.value),
            "Lt" | "Gt" => numeric(t, taint),
            _ => false,
        }
}

/// The numeric operators (KEP-5471): the taint's value is less, or greater, than the toleration's.
fn numeric(t: &Toleration, taint: &Taint) -> bool {
    let number = |v: &Option<String>| v.as_deref().and_then(|v| v.parse::<i64>().ok());
    match (number(&taint.value), number(&t.value), t.operator.as_deref()) {
        (Some(taint), Some(wanted), Some("Lt")) => taint < wanted,
        (Some(taint), Some(wanted), Some("Gt")) => taint > wanted,
        _ => false,
    }
}

/// What to do about one pod.
#[derive(Debug, PartialEq)]
enum Plan {
    Stay,
    At(Timestamp),
}

/// Decides when a pod has to leave: the least of the times of the tolerations in use, counted from when the taints came.
/// `first_seen` stands in for taints without a time.
fn plan(pod: &Pod, taints: &[Taint], first_seen: Timestamp) -> Plan {
    if taints.is_empty() {
        return Plan::Stay;
    }
    let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.clone()).unwrap_or_default();
    let mut seconds: Option<i64> = None;
    for taint in taints {
        let mut covering = tolerations.iter().filter(|t| tolerates(t, taint)).peekable();
        if covering.peek().is_none() {
            return Plan::At(Timestamp::MIN);
        }
        for limit in covering.filter_map(|t| t.toleration_seconds) {
            seconds = Some(seconds.map_or(limit, |s| s.min(limit)));
        }
    }
    let since = taints.iter().map(|t| t.time_added.as_ref().map_or(first_seen, |t| t.0)).max().unwrap_or(first_seen);
    seconds.map_or(Plan::Stay, |s| Plan::At(plus(since, s.max(0))))
}

struct Controller {
    context: Context,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    recorder: caravel_client::Recorder,
    /// Pods that have to leave, by uid, with the time from which that is so.
    pending: Mutex<HashMap<Key, (String, Timestamp)>>,
}

/// Runs the controller.
///
/// # Errors
/// Never by itself.
pub async fn run(context: Context) -> anyhow::Result<()> {
    let c = Controller {
        nodes: context.cluster.informer(),
        pods: context.pods(),
        recorder: context.cluster.recorder("taint-eviction-controller"),
        pending: Mutex::default(),
        context,
    };
    let queue = WorkQueue::new();
    let (pods, wake) = (c.pods.clone(), queue.clone());
    c.nodes.on_change(move |change| {
        let changed = match change {
            Change::Updated { old, new } => evicting(old) != evicting(new),
            Change::Added(n) => !evicting(n).is_empty(),
            Change::Deleted(_) => false,
        };
        if changed {
            let node = name(&**change.object());
            pods.by_index(pod::BY_NODE, node).iter().for_each(|p| wake.add(Key::of(&**p)));
        }
    });
    let (nodes, wake) = (c.nodes.clone(), queue.clone());
    c.pods.on_change(move |change| {
        let p = change.object();
        let bound_or_tolerant = match change {
            Change::Updated { old, new } => {
                pod::node_name(old) != pod::node_name(new)
                    || old.spec.as_ref().map(|s| &s.tolerations) != new.spec.as_ref().map(|s| &s.tolerations)
            }
            Change::Added(_) | Change::Deleted(_) => true,
        };
        let tainted = || nodes.get(&Key::cluster(pod::node_name(p))).is_some_and(|n| !evicting(&n).is_empty());
        if bound_or_tolerant && !pod::node_name(p).is_empty() && tainted() {
            wake.add(Key::of(&**p));
        }
    });
    c.nodes.synced().await;
    c.pods.synced().await;
    c.context.work(queue, WORKERS, |key| c.reconcile(key)).await;
    Ok(())
}

/// The NoExecute taints of a node.
fn evicting(node: &Node) -> Vec<Taint> {
    let all = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    all.filter(|t| t.effect == "NoExecute").cloned().collect()
}

impl Controller {
    async fn reconcile(&self, key: Key) -> Outcome {
        let Some(p) = self.pods.get(&key).filter(|p| !deleting(&**p)) else {
            self.pending.lock().remove(&key);
            return Ok(None);
        };
        let node = self.nodes.get(&Key::cluster(pod::node_name(&p)));
        let taints = node.map(|n| evicting(&n)).unwrap_or_default();
        let now = self.context.now();
        let first_seen = match self.pending.lock().get(&key) {
            Some((uid_, since)) if uid_ == uid(&*p) => *since,
            _ => now,
        };
        let at = match plan(&p, &taints, first_seen) {
            Plan::Stay => {
                if self.pending.lock().remove(&key).is_some() {
                    let note = format!("Cancelling deletion of Pod {key}");
                    self.recorder.event(&object_ref(&*p), "Normal", "TaintManagerEviction", "Reconciling", &note);
                }
                return Ok(None);
            }
            Plan::At(at) => at,
        };
        self.pending.lock().insert(key.clone(), (uid(&*p).to_owned(), first_seen));
        if let Some(wait) = until(at, now) {
            return Ok(Some(wait));
        }
        self.evict(&key, &p).await?;
        self.pending.lock().remove(&key);
        Ok(None)
    }

    async fn evict(&self, key: &Key, p: &Pod) -> anyhow::Result<()> {
        let note = format!("Marking for deletion Pod {key}");
        self.recorder.event(&object_ref(p), "Normal", "TaintManagerEviction", "Reconciling", &note);
        let api: Api<Pod> = Api::namespaced(self.context.client(), &key.namespace);
        let why = ("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint");
        if !disrupt(&api, p, why.0, why.1, None, self.context.now()).await? {
            return Ok(());
        }
        let same = Preconditions { uid: p.metadata.uid.clone(), resource_version: None };
        gone_is_fine(api.delete(&key.name, &DeleteParams::default().preconditions(same)).await)?;
        Ok(())
    }
}

/// Writes into a pod's status that it is disrupted, and why, with a phase if one is given. Returns false when the pod is gone.
///
/// # Errors
/// As the server answers.
pub async fn disrupt(
    api: &Api<Pod>,
    p: &Pod,
    reason: &str,
    message: &str,
    phase: Option<&str>,
    now: Timestamp,
) -> anyhow::Result<bool> {
    let standing = pod::condition(p, "DisruptionTarget")
        .is_some_and(|c| c.status == "True" && c.reason.as_deref() == Some(reason));
    if standing && phase.is_none_or(|wanted| wanted == pod::phase(p)) {
        return Ok(true);
    }
    let mut status = json!({"conditions": [{
        "type": "DisruptionTarget", "status": "True", "reason": reason, "message": message,
        "observedGeneration": p.metadata.generation,
        "lastTransitionTime": stored_time(now)}]});
    if let Some(phase) = phase {
        status["phase"] = json!(phase);
    }
    let patch = json!({"metadata": {"uid": uid(p)}, "status": status});
    match api.patch_subresource("status", name(p), &PatchParams::default(), &Patch::Strategic(patch)).await {
        Ok(_) => Ok(true),
        Err(e) if is_not_found(&e) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::pod::testing::{at, pod};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn tolerant(seconds: Option<i64>) -> Toleration {
        Toleration {
            key: Some("k".into()),
            operator: Some("Exists".into()),
            effect: Some("NoExecute".into()),
            toleration_seconds: seconds,
            value: None,
        }
    }

    #[test]
    fn table() {
        let taint = Taint { key: "k".into(), effect: "NoExecute".into(), value: None, time_added: Some(Time(at(100))) };
        let with = |tolerations: Vec<Toleration>| {
            let mut p = pod("p", "n", "Running", None, 0);
            p.spec.get_or_insert_default().tolerations = Some(tolerations);
            p
        };
        let cases = [
            (with(vec![]), vec![], Plan::Stay),
            (with(vec![]), vec![taint.clone()], Plan::At(Timestamp::MIN)),
            (with(vec![tolerant(None)]), vec![taint.clone()], Plan::Stay),
            (with(vec![tolerant(Some(30))]), vec![taint.clone()], Plan::At(at(130))),
            (with(vec![tolerant(Some(30)), tolerant(Some(10))]), vec![taint.clone()], Plan::At(at(110))),
            (with(vec![tolerant(Some(-5))]), vec![taint.clone()], Plan::At(at(100))),
            (
                with(vec![tolerant(None)]),
                vec![taint.clone(), Taint { key: "other".into(), ..taint.clone() }],
                Plan::At(Timestamp::MIN),
            ),
        ];
        for (i, (p, taints, want)) in cases.into_iter().enumerate() {
            assert_eq!(plan(&p, &taints, at(0)), want, "case {i}");
        }
    }

    #[test]
    fn matching() {
        let taint = Taint { key: "k".into(), effect: "NoSchedule".into(), value: Some("v".into()), time_added: None };
        let t = |key: &str, op: &str, value: &str, effect: &str| Toleration {
            key: Some(key.into()),
            operator: Some(op.into()),
            value: Some(value.into()),
            effect: Some(effect.into()),
            toleration_seconds: None,
        };
        assert!(tolerates(&t("k", "Equal", "v", "NoSchedule"), &taint));
        assert!(tolerates(&t("k", "", "v", ""), &taint));
        assert!(tolerates(&t("", "Exists", "", ""), &taint));
        assert!(!tolerates(&t("k", "Equal", "w", "NoSchedule"), &taint));
        assert!(!tolerates(&t("k", "Exists", "", "NoExecute"), &taint));
    }
}
