//! Pods that nobody would end: on nodes that are gone, terminating without a node, or finished and too many.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use caravel_client::{Change, Informer, Key, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::{DeleteParams, Preconditions};
use parking_lot::Mutex;

use crate::common::*;
use crate::context::Context;
use crate::node::disrupt;

const WORKERS: usize = 4;
/// A node must be missing for this long before its pods go: it may be registering again.
const QUARANTINE: Duration = Duration::from_secs(40);
/// The key that stands for counting finished pods.
const THRESHOLD: &str = "finished pods";
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// What is known about a pod's node.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    /// It is bound to none.
    None,
    /// Its node exists; whether it is lost and declared out of service.
    On { out_of_service: bool },
    /// Its node does not exist, for so long.
    Gone(Duration),
}

/// What to do about one pod.
#[derive(Debug, PartialEq)]
enum Plan {
    Nothing,
    Later(Duration),
    /// Delete at once; the node is to be confirmed missing first.
    Orphaned,
    /// Delete at once.
    Force,
}

fn plan(pod: &Pod, place: Place) -> Plan {
    match place {
        Place::None if deleting(pod) => Plan::Force,
        Place::On { out_of_service: true } if deleting(pod) => Plan::Force,
        Place::Gone(since) if since >= QUARANTINE => Plan::Orphaned,
        Place::Gone(since) => Plan::Later(QUARANTINE - since),
        _ => Plan::Nothing,
    }
}

/// The finished pods that go, the oldest first, when there are more than the threshold.
fn surplus(pods: &[Arc<Pod>], threshold: usize) -> Vec<Arc<Pod>> {
    let mut finished: Vec<Arc<Pod>> = pods.iter().filter(|p| pod::finished(p) && !deleting(&***p)).cloned().collect();
    let count = finished.len().saturating_sub(threshold);
    if threshold == 0 || count == 0 {
        return vec![];
    }
    finished.sort_by(|a, b| created(&**a).cmp(&created(&**b)).then_with(|| name(&**a).cmp(name(&**b))));
    finished.truncate(count);
    finished
}

struct Controller {
    context: Context,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    /// Since when nodes that pods are bound to are missing.
    missing: Mutex<HashMap<String, Timestamp>>,
}

/// Runs the controller.
///
/// # Errors
/// Never by itself.
pub async fn run(context: Context) -> anyhow::Result<()> {
    let c = Controller { pods: context.pods(), nodes: context.cluster.informer(), missing: Mutex::default(), context };
    let queue = WorkQueue::new();
    c.nodes.synced().await;
    let (nodes, wake) = (c.nodes.clone(), queue.clone());
    c.pods.on_change(move |change| {
        let p = change.object();
        if matches!(change, Change::Deleted(_)) {
            return;
        }
        let placeless = pod::node_name(p).is_empty() || nodes.get(&Key::cluster(pod::node_name(p))).is_none();
        if (placeless && (deleting(&**p) || !pod::node_name(p).is_empty())) || deleting(&**p) {
            wake.add(Key::of(&**p));
        }
        let newly = match change {
            Change::Updated { old, .. } => !pod::finished(old),
            _ => true,
        };
        if pod::finished(p) && newly {
            // Not for each single one: a burst of finished pods is counted once.
            wake.add_after(Key::cluster(THRESHOLD), Duration::from_secs(1));
        }
    });
    let (pods, wake) = (c.pods.clone(), queue.clone());
    c.nodes.on_change(move |change| {
        let relevant = match change {
            Change::Updated { new, .. } => out_of_service(new),
            Change::Added(_) => false,
            Change::Deleted(_) => true,
        };
        if relevant {
            pods.by_index(pod::BY_NODE, name(&**change.object())).iter().for_each(|p| wake.add(Key::of(&**p)));
        }
    });
    c.pods.synced().await;
    c.context.work(queue, WORKERS, |key| c.reconcile(key)).await;
    Ok(())
}

/// Whether the node is not ready and an administrator declared it out of service (KEP-2268).
fn out_of_service(node: &Node) -> bool {
    let ready = node
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten())
        .any(|c| c.type_ == "Ready" && c.status == "True");
    let tainted = node.spec.iter().flat_map(|s| s.taints.iter().flatten()).any(|t| t.key == OUT_OF_SERVICE);
    tainted && !ready
}

impl Controller {
    async fn reconcile(&self, key: Key) -> Outcome {
        if key == Key::cluster(THRESHOLD) {
            for p in surplus(&self.pods.list(), self.context.config.terminated_pod_threshold) {
                self.delete(&p, None).await?;
            }
            return Ok(None);
        }
        let Some(p) = self.pods.get(&key) else { return Ok(None) };
        match plan(&p, self.place(&p)) {
            Plan::Nothing => {}
            Plan::Later(wait) => return Ok(Some(wait)),
            Plan::Force => self.delete(&p, Some(None)).await?,
            Plan::Orphaned => {
                let nodes: Api<Node> = Api::all(self.context.client());
                if nodes.get_opt(pod::node_name(&p)).await?.is_some() {
                    return Ok(Some(QUARANTINE));
                }
                self.delete(&p, Some(Some("PodGC: node no longer exists"))).await?;
            }
        }
        Ok(None)
    }

    fn place(&self, p: &Pod) -> Place {
        let node = pod::node_name(p);
        if node.is_empty() {
            return Place::None;
        }
        let mut missing = self.missing.lock();
        if let Some(n) = self.nodes.get(&Key::cluster(node)) {
            missing.remove(node);
            return Place::On { out_of_service: out_of_service(&n) };
        }
        // Entries of nodes without pods are dropped, so that the map stays as small as the trouble.
        if missing.len() > 1000 {
            missing.retain(|n, _| !self.pods.by_index(pod::BY_NODE, n).is_empty());
        }
        let now = self.context.now();
        let since = *missing.entry(node.to_owned()).or_insert(now);
        Place::Gone(until(now, since).unwrap_or_default())
    }

    /// Deletes without grace. `fail` marks a pod that did not finish as Failed first, with the reason if there is one.
    async fn delete(&self, p: &Pod, fail: Option<Option<&str>>) -> anyhow::Result<()> {
        let api: Api<Pod> = Api::namespaced(self.context.client(), namespace(p));
        if let Some(message) = fail
            && !pod::finished(p)
        {
            let alive = match message {
                Some(m) => disrupt(&api, p, "DeletionByPodGC", m, Some("Failed"), self.context.now()).await?,
                None => fail_pod(&api, p).await?,
            };
            if !alive {
                return Ok(());
            }
        }
        let same = Preconditions { uid: p.metadata.uid.clone(), resource_version: None };
        gone_is_fine(api.delete(name(p), &DeleteParams::default().grace_period(0).preconditions(same)).await)?;
        Ok(())
    }
}

async fn fail_pod(api: &Api<Pod>, p: &Pod) -> anyhow::Result<bool> {
    let patch = serde_json::json!({"metadata": {"uid": uid(p)}, "status": {"phase": "Failed"}});
    let params = kube::api::PatchParams::default();
    match api.patch_subresource("status", name(p), &params, &kube::api::Patch::Strategic(patch)).await {
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

    #[test]
    fn table() {
        let living = pod("p", "n", "Running", None, 0);
        let mut dying = living.clone();
        dying.metadata.deletion_timestamp = Some(Time(at(0)));
        let on = |out_of_service| Place::On { out_of_service };
        let cases = [
            (&living, Place::None, Plan::Nothing),
            (&dying, Place::None, Plan::Force),
            (&living, on(false), Plan::Nothing),
            (&dying, on(false), Plan::Nothing),
            (&dying, on(true), Plan::Force),
            (&living, on(true), Plan::Nothing),
            (&living, Place::Gone(Duration::from_secs(10)), Plan::Later(Duration::from_secs(30))),
            (&living, Place::Gone(QUARANTINE), Plan::Orphaned),
            (&dying, Place::Gone(QUARANTINE), Plan::Orphaned),
        ];
        for (i, (p, place, want)) in cases.into_iter().enumerate() {
            assert_eq!(plan(p, place), want, "case {i}");
        }
    }

    #[test]
    fn the_oldest_finished_go() {
        let pods: Vec<_> = [("a", "Failed", 3), ("b", "Succeeded", 1), ("c", "Running", 0), ("d", "Failed", 2)]
            .map(|(n, phase, created)| Arc::new(pod(n, "n", phase, None, created)))
            .into();
        let names = |t| surplus(&pods, t).iter().map(|p| name(&**p).to_owned()).collect::<Vec<_>>();
        assert_eq!(names(1), ["b", "d"]);
        assert!(names(3).is_empty());
        assert!(names(0).is_empty(), "zero is no limit");
    }
}
