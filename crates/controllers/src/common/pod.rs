//! Readings of pods: phases, readiness, availability, and the order in which surplus pods go.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::{annotation, created, deleting, plus, uid, until};

/// `status.phase`, empty when the pod has none yet.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

/// Succeeded or Failed.
pub fn finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Neither finished nor being deleted: what counts as a replica.
pub fn active(pod: &Pod) -> bool {
    !finished(pod) && !deleting(pod)
}

/// Being deleted and not finished: what counts as terminating.
pub fn terminating(pod: &Pod) -> bool {
    !finished(pod) && deleting(pod)
}

/// The node that the pod is bound to; empty when unscheduled.
pub fn node_name(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default()
}

/// One condition of the pod.
pub fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.iter().flatten().find(|c| c.type_ == type_)
}

/// Whether the pod's Ready condition is True.
pub fn ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|c| c.status == "True")
}

/// When the pod became ready.
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    condition(pod, "Ready").filter(|c| c.status == "True").and_then(|c| c.last_transition_time.as_ref()).map(|t| t.0)
}

/// Ready for at least `min_ready_seconds`.
pub fn available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    ready(pod)
        && (min_ready_seconds <= 0 || ready_since(pod).is_some_and(|t| plus(t, i64::from(min_ready_seconds)) <= now))
}

/// For a pod that is ready but not available yet: how long until it is.
pub fn available_in(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Option<Duration> {
    ready_since(pod).and_then(|t| until(plus(t, i64::from(min_ready_seconds)), now))
}

/// Restarts of a pod's containers: the most of a regular one, then the most of any init container.
fn restarts(pod: &Pod) -> (i32, i32) {
    let most = |l: Option<&Vec<ContainerStatus>>| l.into_iter().flatten().map(|c| c.restart_count).max().unwrap_or(0);
    let Some(status) = &pod.status else { return (0, 0) };
    (most(status.container_statuses.as_ref()), most(status.init_container_statuses.as_ref()))
}

/// `controller.kubernetes.io/pod-deletion-cost`; absent or malformed is zero.
fn deletion_cost(pod: &Pod) -> i32 {
    annotation(pod, "controller.kubernetes.io/pod-deletion-cost").and_then(|v| v.parse().ok()).unwrap_or(0)
}

/// The binary logarithm of an age in nanoseconds: ages within a factor of two are alike, so that among them the choice is arbitrary
/// and pods of one zone are not all the youngest (KEP-2185).
fn log_age(since: Timestamp, now: Timestamp) -> i64 {
    let nanos = now.duration_since(since).as_nanos();
    if nanos > 0 { (nanos as f64).log2() as i64 } else { -1 }
}

/// `Less` when the younger moment is `a`, in logarithmic steps; ties are broken by uid.
fn younger_first(a: (&Pod, Timestamp), b: (&Pod, Timestamp), now: Timestamp) -> Ordering {
    log_age(a.1, now).cmp(&log_age(b.1, now)).then_with(|| uid(a.0).cmp(uid(b.0)))
}

/// The order of deletion: `Less` goes first (controller_utils `ActivePodsWithRanks`). `rank` is the number of related active pods on the pod's node.
fn deletion_order(a: &Pod, b: &Pod, rank: impl Fn(&Pod) -> usize, now: Timestamp) -> Ordering {
    let phase_order = |p: &Pod| match phase(p) {
        "Pending" => 0,
        "Unknown" => 1,
        "Running" => 2,
        _ => 0,
    };
    let unassigned_first = node_name(b).is_empty().cmp(&node_name(a).is_empty());
    unassigned_first
        .then_with(|| phase_order(a).cmp(&phase_order(b)))
        .then_with(|| ready(a).cmp(&ready(b)))
        .then_with(|| deletion_cost(a).cmp(&deletion_cost(b)))
        .then_with(|| rank(b).cmp(&rank(a)))
        .then_with(|| match (ready_since(a), ready_since(b)) {
            (Some(x), Some(y)) if x != y => younger_first((a, x), (b, y), now),
            _ => Ordering::Equal,
        })
        .then_with(|| {
            let (x, y) = (restarts(a), restarts(b));
            y.0.cmp(&x.0).then(y.1.cmp(&x.1))
        })
        .then_with(|| match (created(a), created(b)) {
            (x, y) if x != y => younger_first((a, x), (b, y), now),
            _ => Ordering::Equal,
        })
}

/// Chooses `count` of `pods` to delete. `related` are the active pods whose spread over nodes counts (the siblings of all revisions).
pub fn pods_to_delete(pods: &[Arc<Pod>], related: &[Arc<Pod>], count: usize, now: Timestamp) -> Vec<Arc<Pod>> {
    if count >= pods.len() {
        return pods.to_vec();
    }
    let mut on_node: HashMap<&str, usize> = HashMap::new();
    for p in related.iter().filter(|p| active(p)) {
        *on_node.entry(node_name(p)).or_default() += 1;
    }
    let rank = |p: &Pod| on_node.get(node_name(p)).copied().unwrap_or(0);
    let mut sorted = pods.to_vec();
    sorted.sort_by(|a, b| deletion_order(a, b, rank, now));
    sorted.truncate(count);
    sorted
}

/// A pod from a template, named by the server after `prefix`.
pub fn from_template(template: &PodTemplateSpec, namespace: &str, prefix: &str, owner: OwnerReference) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            namespace: Some(namespace.to_owned()),
            generate_name: Some(format!("{prefix}-")),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// The name of the index by node.
pub const BY_NODE: &str = "node";

/// Index function: the node that the pod is bound to.
pub fn node_index(pod: &Pod) -> Vec<String> {
    match node_name(pod) {
        "" => vec![],
        n => vec![n.to_owned()],
    }
}

#[cfg(test)]
pub mod testing {
    //! Pods for the table tests of all controllers.
    #![allow(clippy::unwrap_used, missing_docs)]
    use super::*;
    use k8s_openapi::api::core::v1::{PodSpec, PodStatus};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    pub fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    /// A pod in a phase; Ready since `ready_at` when given.
    pub fn pod(name: &str, node: &str, phase: &str, ready_at: Option<i64>, created_at: i64) -> Pod {
        Pod {
            metadata: ObjectMeta {
                name: Some(name.into()),
                namespace: Some("ns".into()),
                uid: Some(format!("uid-{name}")),
                creation_timestamp: Some(Time(at(created_at))),
                labels: Some([("app".to_owned(), "a".to_owned())].into()),
                ..Default::default()
            },
            spec: Some(PodSpec { node_name: (!node.is_empty()).then(|| node.into()), ..Default::default() }),
            status: Some(PodStatus {
                phase: Some(phase.into()),
                conditions: Some(vec![PodCondition {
                    type_: "Ready".into(),
                    status: if ready_at.is_some() { "True" } else { "False" }.into(),
                    last_transition_time: Some(Time(at(ready_at.unwrap_or(0)))),
                    ..Default::default()
                }]),
                ..Default::default()
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::*;
    use super::*;

    fn first(a: Pod, b: Pod, related: &[Arc<Pod>]) -> String {
        let pods = [Arc::new(a), Arc::new(b)];
        super::super::name(&*pods_to_delete(&pods, related, 1, at(1000))[0]).to_owned()
    }

    #[test]
    fn order_of_deletion() {
        // Unassigned before assigned, Pending before Running, unready before ready.
        assert_eq!(first(pod("x", "n", "Running", Some(1), 0), pod("y", "", "Pending", None, 0), &[]), "y");
        assert_eq!(first(pod("x", "n", "Running", None, 0), pod("y", "n", "Pending", None, 0), &[]), "y");
        assert_eq!(first(pod("x", "n", "Running", Some(1), 0), pod("y", "n", "Running", None, 0), &[]), "y");
        // Cost stands before age.
        let mut cheap = pod("cheap", "n", "Running", Some(0), 0);
        cheap.metadata.annotations =
            Some([("controller.kubernetes.io/pod-deletion-cost".to_owned(), "-5".to_owned())].into());
        assert_eq!(first(pod("x", "n", "Running", Some(990), 990), cheap, &[]), "cheap");
        // More siblings on the node first.
        let related: Vec<_> = [("r1", "b"), ("r2", "b"), ("r3", "a")]
            .map(|(n, node)| Arc::new(pod(n, node, "Running", Some(0), 0)))
            .into();
        assert_eq!(first(pod("x", "a", "Running", Some(0), 0), pod("y", "b", "Running", Some(0), 0), &related), "y");
        // Ready for less time first (in powers of two), then by uid.
        assert_eq!(first(pod("x", "a", "Running", Some(0), 0), pod("y", "a", "Running", Some(900), 0), &[]), "y");
        assert_eq!(first(pod("x", "a", "Running", Some(0), 0), pod("a", "a", "Running", Some(10), 0), &[]), "a");
        // Younger first among unready ones.
        assert_eq!(first(pod("x", "a", "Running", None, 0), pod("y", "a", "Running", None, 900), &[]), "y");
    }

    #[test]
    fn availability_needs_time() {
        let p = pod("x", "n", "Running", Some(10), 0);
        assert!(available(&p, 0, at(10)));
        assert!(!available(&p, 10, at(19)));
        assert!(available(&p, 10, at(20)));
        assert_eq!(available_in(&p, 10, at(12)), Some(Duration::from_secs(8)));
    }
}
