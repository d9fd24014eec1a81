//! The disruption controller: how many pods of a PodDisruptionBudget may be evicted now.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use caravel_client::{Change, Informer, Key, Recorder, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, OwnerReference, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Api;

use crate::common::discovery::discover;
use crate::common::*;
use crate::context::{Context, enqueue_each, owner_in, record_on};

const WORKERS: usize = 4;
/// An evicted pod that is not deleted after this long counts as healthy again.
const DELETION_TIMEOUT: i64 = 120;

/// Everything that a decision rests on.
struct Snapshot<'a> {
    pdb: &'a PodDisruptionBudget,
    pods: &'a [Arc<Pod>],
    /// The sum of the desired replicas of all the pods' controllers, or why it cannot be told.
    scale: Result<i32, String>,
    now: Timestamp,
}

#[derive(Debug, Default, PartialEq)]
struct Plan {
    status: Option<PodDisruptionBudgetStatus>,
    events: Vec<Event>,
    again: Option<Duration>,
}

/// Whether the expected number of pods depends on their controllers' scale.
fn needs_scale(pdb: &PodDisruptionBudget) -> bool {
    let spec = pdb.spec.clone().unwrap_or_default();
    spec.max_unavailable.is_some() || matches!(spec.min_available, Some(IntOrString::String(_)))
}

fn plan(s: &Snapshot<'_>) -> Plan {
    let mut plan = Plan::default();
    if s.pods.is_empty() {
        plan.events.push(Event::normal("NoPods", "No matching pods found"));
    }
    let stored = s.pdb.status.clone().unwrap_or_default();
    let mut status = stored.clone();
    match expected(s) {
        Err(e) => {
            let note = format!("Failed to calculate the number of expected pods: {e}");
            plan.events.push(Event::warning("CalculateExpectedPodCountFailed", note));
            // Nobody is disrupted on a guess.
            status.disruptions_allowed = Some(0);
            set_condition(&mut status, "False", "SyncFailed", &e, s);
        }
        Ok((expected, desired)) => {
            let disrupted = still_disrupted(s, &stored, &mut plan);
            let counted = |p: &&Arc<Pod>| !deleting(&***p) && pod::ready(p) && !disrupted.contains_key(name(&***p));
            let healthy = i32::try_from(s.pods.iter().filter(counted).count()).unwrap_or(i32::MAX);
            let allowed = if expected <= 0 { 0 } else { (healthy - desired).max(0) };
            status = PodDisruptionBudgetStatus {
                current_healthy: Some(healthy),
                desired_healthy: Some(desired),
                expected_pods: Some(expected),
                disruptions_allowed: Some(allowed),
                disrupted_pods: Some(disrupted).filter(|d| !d.is_empty()),
                observed_generation: s.pdb.metadata.generation,
                conditions: stored.conditions.clone(),
            };
            let (state, reason) = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
            set_condition(&mut status, state, reason, "", s);
        }
    }
    plan.status = (status != stored).then_some(status);
    plan
}

/// (pods expected to exist, pods that have to be healthy).
fn expected(s: &Snapshot<'_>) -> Result<(i32, i32), String> {
    let spec = s.pdb.spec.clone().unwrap_or_default();
    let count = i32::try_from(s.pods.len()).unwrap_or(i32::MAX);
    let of =
        |v: &IntOrString, total| scaled(v, total, true).ok_or_else(|| format!("invalid value for IntOrString: {v:?}"));
    if let Some(max) = &spec.max_unavailable {
        let total = s.scale.clone()?;
        return Ok((total, (total - of(max, total)?).max(0)));
    }
    match &spec.min_available {
        Some(IntOrString::Int(n)) => Ok((count, *n)),
        Some(percent) => {
            let total = s.scale.clone()?;
            Ok((total, of(percent, total)?))
        }
        None => Ok((count, 0)),
    }
}

/// The pods whose eviction was granted and that are still to be deleted.
fn still_disrupted(s: &Snapshot<'_>, stored: &PodDisruptionBudgetStatus, plan: &mut Plan) -> BTreeMap<String, Time> {
    let mut left = BTreeMap::new();
    for (pod_name, since) in stored.disrupted_pods.iter().flatten() {
        let Some(p) = s.pods.iter().find(|p| name(&***p) == pod_name && !deleting(&***p)) else { continue };
        match until(plus(since.0, DELETION_TIMEOUT), s.now) {
            Some(wait) => {
                left.insert(pod_name.clone(), since.clone());
                plan.again = sooner(plan.again, Some(wait));
            }
            None => {
                let note = format!(
                    "Pod {} was expected by PDB {}/{} to be deleted but it wasn't",
                    name(&**p),
                    namespace(s.pdb),
                    name(s.pdb)
                );
                plan.events.push(Event::warning("NotDeleted", note));
            }
        }
    }
    left
}

fn set_condition(status: &mut PodDisruptionBudgetStatus, state: &str, reason: &str, message: &str, s: &Snapshot<'_>) {
    let all = status.conditions.get_or_insert_default();
    let old = all.iter().position(|c| c.type_ == "DisruptionAllowed");
    let since = old.filter(|i| all[*i].status == state).map(|i| all[i].last_transition_time.clone());
    let new = Condition {
        type_: "DisruptionAllowed".into(),
        status: state.into(),
        reason: reason.into(),
        message: message.into(),
        observed_generation: s.pdb.metadata.generation,
        last_transition_time: since.unwrap_or_else(|| stored_time(s.now)),
    };
    match old {
        Some(i) => all[i] = new,
        None => all.push(new),
    }
}

struct Controller {
    context: Context,
    budgets: Informer<PodDisruptionBudget>,
    pods: Informer<Pod>,
    replica_sets: Informer<ReplicaSet>,
    deployments: Informer<Deployment>,
    stateful_sets: Informer<StatefulSet>,
    replication_controllers: Informer<ReplicationController>,
    floor: Floor,
    recorder: Recorder,
}

/// Runs the controller.
///
/// # Errors
/// Never by itself.
pub async fn run(context: Context) -> anyhow::Result<()> {
    let c = Controller {
        budgets: context.cluster.informer(),
        pods: context.pods(),
        replica_sets: context.owned(),
        deployments: context.cluster.informer(),
        stateful_sets: context.cluster.informer(),
        replication_controllers: context.owned(),
        floor: Floor::default(),
        recorder: context.cluster.recorder("controllermanager"),
        context,
    };
    let queue = WorkQueue::new();
    enqueue_each(&c.budgets, &queue);
    let (budgets, wake) = (c.budgets.clone(), queue.clone());
    c.pods.on_change(move |change| {
        let p = change.object();
        for b in budgets.list_in(namespace(&**p)) {
            let s = selector(&b);
            let before = match change {
                Change::Updated { old, .. } => s.matches(labels(&**old)),
                _ => false,
            };
            if before || s.matches(labels(&**p)) {
                wake.add(Key::of(&*b));
            }
        }
    });
    wake_on_scale(&c.replica_sets, &c.budgets, &queue, |r| r.spec.as_ref().and_then(|s| s.replicas));
    wake_on_scale(&c.deployments, &c.budgets, &queue, |d| d.spec.as_ref().and_then(|s| s.replicas));
    wake_on_scale(&c.stateful_sets, &c.budgets, &queue, |d| d.spec.as_ref().and_then(|s| s.replicas));
    wake_on_scale(&c.replication_controllers, &c.budgets, &queue, |d| d.spec.as_ref().and_then(|s| s.replicas));
    c.budgets.synced().await;
    c.pods.synced().await;
    c.replica_sets.synced().await;
    c.deployments.synced().await;
    c.stateful_sets.synced().await;
    c.replication_controllers.synced().await;
    c.context.work(queue, WORKERS, |key| c.reconcile(key)).await;
    Ok(())
}

/// A controller that is scaled wakes the budgets of its namespace that depend on scales.
fn wake_on_scale<K: caravel_client::Object>(
    owners: &Informer<K>,
    budgets: &Informer<PodDisruptionBudget>,
    queue: &WorkQueue<Key>,
    replicas: fn(&K) -> Option<i32>,
) {
    let (budgets, queue) = (budgets.clone(), queue.clone());
    owners.on_change(move |c| {
        let relevant = match c {
            Change::Updated { old, new } => replicas(old) != replicas(new),
            _ => true,
        };
        if relevant {
            let all = budgets.list_in(namespace(&**c.object()));
            all.iter().filter(|b| needs_scale(b)).for_each(|b| queue.add(Key::of(&**b)));
        }
    });
}

fn selector(b: &PodDisruptionBudget) -> Selector {
    Selector::new(b.spec.as_ref().and_then(|s| s.selector.as_ref()))
}

impl Controller {
    async fn reconcile(&self, key: Key) -> Outcome {
        let Some(pdb) = self.budgets.get(&key) else { return Ok(None) };
        if !self.floor.reached(&*pdb) {
            return Ok(Some(Duration::from_secs(1)));
        }
        let selector = selector(&pdb);
        let pods: Vec<Arc<Pod>> =
            self.pods.list_in(&key.namespace).into_iter().filter(|p| selector.matches(labels(&**p))).collect();
        let scale = if needs_scale(&pdb) { self.scale(&key.namespace, &pods).await? } else { Ok(0) };
        let decided = plan(&Snapshot { pdb: &pdb, pods: &pods, scale, now: self.context.now() });
        record_on(&self.recorder, &*pdb, &decided.events);
        if let Some(status) = decided.status {
            let api: Api<PodDisruptionBudget> = Api::namespaced(self.context.client(), &key.namespace);
            let written = put_status(&api, &PodDisruptionBudget { status: Some(status), ..(*pdb).clone() }).await?;
            self.floor.wrote(&written);
        }
        Ok(decided.again)
    }

    /// The sum of the scales of the pods' controllers, each once.
    async fn scale(&self, namespace: &str, pods: &[Arc<Pod>]) -> anyhow::Result<Result<i32, String>> {
        let mut seen: BTreeSet<String> = BTreeSet::new();
        let mut total = 0;
        for p in pods {
            // Pods without a controller cannot be expected to come back; they do not count.
            let Some(owner) = controller_of(&**p) else { continue };
            let found = match self.known_scale(p) {
                Some(found) => found,
                None => match self.asked_scale(namespace, owner).await? {
                    Ok(found) => found,
                    Err(e) => return Ok(Err(e)),
                },
            };
            if seen.insert(found.0) {
                total += found.1;
            }
        }
        Ok(Ok(total))
    }

    /// (uid, replicas) of the top controller of the usual kinds.
    fn known_scale(&self, p: &Pod) -> Option<(String, i32)> {
        if let Some(rs) = owner_in::<ReplicaSet, _>(&self.replica_sets, p) {
            return Some(match owner_in::<Deployment, _>(&self.deployments, &*rs) {
                Some(d) => (uid(&*d).to_owned(), d.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)),
                None => (uid(&*rs).to_owned(), rs.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)),
            });
        }
        if let Some(s) = owner_in::<StatefulSet, _>(&self.stateful_sets, p) {
            return Some((uid(&*s).to_owned(), s.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)));
        }
        let rc = owner_in::<ReplicationController, _>(&self.replication_controllers, p)?;
        Some((uid(&*rc).to_owned(), rc.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)))
    }

    /// The scale of any other controller, by its scale subresource.
    async fn asked_scale(&self, namespace: &str, o: &OwnerReference) -> anyhow::Result<Result<(String, i32), String>> {
        let client = self.context.client();
        let group = o.api_version.split_once('/').map_or("", |(g, _)| g);
        let found = discover(&client).await?;
        let Some(r) = found.resources.iter().find(|r| r.api.kind == o.kind && r.api.group == group) else {
            return Ok(Err(format!("the server does not serve {} {}", o.api_version, o.kind)));
        };
        match r.objects(&client, namespace).get_scale(&o.name).await {
            Ok(scale) => {
                let replicas = scale.spec.and_then(|s| s.replicas).unwrap_or(0);
                Ok(Ok((o.uid.clone(), replicas)))
            }
            Err(e) if is_not_found(&e) => Ok(Err(format!("{} does not implement the scale subresource", r.display()))),
            Err(e) => Err(e.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::common::pod::testing::{at, pod};
    use k8s_openapi::api::policy::v1::PodDisruptionBudgetSpec;

    fn budget(max: Option<&str>, min: Option<&str>) -> PodDisruptionBudget {
        let value = |s: &str| s.parse().map_or(IntOrString::String(s.into()), IntOrString::Int);
        PodDisruptionBudget {
            spec: Some(PodDisruptionBudgetSpec {
                max_unavailable: max.map(value),
                min_available: min.map(value),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn decide(pdb: &PodDisruptionBudget, ready: usize, unready: usize, scale: i32) -> PodDisruptionBudgetStatus {
        let pods: Vec<_> = (0..ready + unready)
            .map(|i| Arc::new(pod(&format!("p{i}"), "n", "Running", (i < ready).then_some(0), 0)))
            .collect();
        plan(&Snapshot { pdb, pods: &pods, scale: Ok(scale), now: at(10) }).status.unwrap()
    }

    #[test]
    fn table() {
        for (max, min, ready, unready, scale, want) in [
            (Some("1"), None, 3, 0, 3, (3, 2, 3, 1)),
            (Some("1"), None, 2, 1, 3, (2, 2, 3, 0)),
            (Some("50%"), None, 5, 0, 5, (5, 2, 5, 3)),
            (Some("0"), None, 3, 0, 3, (3, 3, 3, 0)),
            (None, Some("2"), 3, 0, 0, (3, 2, 3, 1)),
            (None, Some("50%"), 3, 0, 3, (3, 2, 3, 1)),
            (None, Some("100%"), 3, 0, 3, (3, 3, 3, 0)),
            (None, Some("1"), 0, 0, 0, (0, 1, 0, 0)),
        ] {
            let s = decide(&budget(max, min), ready, unready, scale);
            let have = (
                s.current_healthy.unwrap(),
                s.desired_healthy.unwrap(),
                s.expected_pods.unwrap(),
                s.disruptions_allowed.unwrap(),
            );
            assert_eq!(have, want, "{max:?} {min:?}");
        }
    }

    #[test]
    fn granted_evictions_count_until_they_time_out() {
        let mut b = budget(None, Some("1"));
        b.status = Some(PodDisruptionBudgetStatus {
            disrupted_pods: Some([("p0".to_owned(), Time(at(0))), ("gone".to_owned(), Time(at(0)))].into()),
            ..Default::default()
        });
        let pods: Vec<_> = (0..3).map(|i| Arc::new(pod(&format!("p{i}"), "n", "Running", Some(0), 0))).collect();
        let p = plan(&Snapshot { pdb: &b, pods: &pods, scale: Ok(0), now: at(10) });
        let s = p.status.unwrap();
        assert_eq!((s.current_healthy, s.disrupted_pods.unwrap().len()), (Some(2), 1));
        assert_eq!(p.again, Some(Duration::from_secs(110)));
        let p = plan(&Snapshot { pdb: &b, pods: &pods, scale: Ok(0), now: at(121) });
        assert_eq!((p.status.unwrap().current_healthy, p.events[0].reason), (Some(3), "NotDeleted"));
    }

    #[test]
    fn an_unknown_scale_allows_nothing() {
        let b = budget(Some("1"), None);
        let p = plan(&Snapshot { pdb: &b, pods: &[], scale: Err("no".into()), now: at(0) });
        let s = p.status.unwrap();
        assert_eq!((s.disruptions_allowed, s.conditions.unwrap()[0].reason.as_str()), (Some(0), "SyncFailed"));
    }
}
