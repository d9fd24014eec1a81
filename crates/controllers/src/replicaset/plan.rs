//! Deciding about one ReplicaSet or ReplicationController.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};

use crate::common::{labels, pod, sooner, stored_time};

/// Pods created or deleted in one round at most.
pub const BURST: usize = 500;

/// Everything that a decision rests on.
pub struct Snapshot<'a> {
    /// Desired replicas.
    pub replicas: i32,
    /// Seconds that a pod must be ready to count as available.
    pub min_ready_seconds: i32,
    /// The pod template.
    pub template: &'a PodTemplateSpec,
    /// `metadata.generation`.
    pub generation: Option<i64>,
    /// Active pods that it holds.
    pub active: &'a [Arc<Pod>],
    /// Terminating pods that it holds; `None` for a kind that does not report them.
    pub terminating: Option<usize>,
    /// Active pods of its siblings (same managing owner) and itself: their spread over nodes guides deletion.
    pub related: &'a [Arc<Pod>],
    /// The status as stored.
    pub status: &'a ReplicaSetStatus,
    /// The present.
    pub now: Timestamp,
}

/// Which pods to make or delete.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// How many pods to create.
    pub create: usize,
    /// Pods to delete.
    pub delete: Vec<Arc<Pod>>,
}

/// Decides which pods to make or delete. To be asked only when all expectations are met and the owner is not being deleted.
pub fn plan(s: &Snapshot<'_>) -> Plan {
    let wanted = usize::try_from(s.replicas).unwrap_or(0);
    let have = s.active.len();
    if have < wanted {
        return Plan { create: (wanted - have).min(BURST), delete: vec![] };
    }
    let surplus = (have - wanted).min(BURST);
    let delete = if surplus == 0 { vec![] } else { pod::pods_to_delete(s.active, s.related, surplus, s.now) };
    Plan { create: 0, delete }
}

/// The status to store, if it differs. `failure` is what went wrong when making or deleting pods.
pub fn status(s: &Snapshot<'_>, failure: Option<&str>) -> Option<ReplicaSetStatus> {
    let some = |n: usize| i32::try_from(n).ok().filter(|n| *n != 0);
    let empty = std::collections::BTreeMap::new();
    let wanted_labels = s.template.metadata.as_ref().and_then(|m| m.labels.as_ref()).unwrap_or(&empty);
    let fully = s.active.iter().filter(|p| wanted_labels.iter().all(|(k, v)| labels(&***p).get(k) == Some(v))).count();
    let ready = s.active.iter().filter(|p| pod::ready(p)).count();
    let available = s.active.iter().filter(|p| pod::available(p, s.min_ready_seconds, s.now)).count();
    let mut conditions = s.status.conditions.clone().unwrap_or_default();
    let stands = conditions.iter().any(|c| c.type_ == "ReplicaFailure");
    match failure {
        Some(message) if !stands => {
            let creating = (s.active.len() as i64) < i64::from(s.replicas);
            conditions.push(ReplicaSetCondition {
                type_: "ReplicaFailure".into(),
                status: "True".into(),
                reason: Some(if creating { "FailedCreate" } else { "FailedDelete" }.into()),
                message: Some(message.to_owned()),
                last_transition_time: Some(stored_time(s.now)),
            });
        }
        None => conditions.retain(|c| c.type_ != "ReplicaFailure"),
        Some(_) => {}
    }
    let new = ReplicaSetStatus {
        replicas: i32::try_from(s.active.len()).unwrap_or(i32::MAX),
        fully_labeled_replicas: some(fully),
        ready_replicas: some(ready),
        available_replicas: some(available),
        terminating_replicas: s.terminating.and_then(|n| i32::try_from(n).ok()),
        observed_generation: s.generation,
        conditions: Some(conditions).filter(|c| !c.is_empty()),
    };
    (new != *s.status).then_some(new)
}

/// When the next pod becomes available by the passing of time.
pub fn next_available(s: &Snapshot<'_>) -> Option<Duration> {
    if s.min_ready_seconds <= 0 {
        return None;
    }
    s.active.iter().map(|p| pod::available_in(p, s.min_ready_seconds, s.now)).fold(None, sooner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::pod::testing::{at, pod};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    fn check(replicas: i32, pods: usize) -> (usize, usize) {
        let active: Vec<_> = (0..pods).map(|i| Arc::new(pod(&format!("p{i}"), "n", "Running", Some(0), 0))).collect();
        let plan = plan(&Snapshot {
            replicas,
            min_ready_seconds: 0,
            template: &PodTemplateSpec::default(),
            generation: Some(1),
            active: &active,
            terminating: Some(0),
            related: &active,
            status: &ReplicaSetStatus::default(),
            now: at(10),
        });
        (plan.create, plan.delete.len())
    }

    #[test]
    fn makes_and_deletes_the_difference() {
        assert_eq!(check(3, 0), (3, 0));
        assert_eq!(check(3, 3), (0, 0));
        assert_eq!(check(1, 3), (0, 2));
        assert_eq!(check(0, 3), (0, 3));
        assert_eq!(check(2000, 0), (BURST, 0));
    }

    #[test]
    fn status_counts_and_failure_condition() {
        let active = [
            Arc::new(pod("a", "n", "Running", Some(0), 0)),
            Arc::new(pod("b", "n", "Running", Some(9), 0)),
            Arc::new(pod("c", "n", "Pending", None, 0)),
        ];
        let template = PodTemplateSpec {
            metadata: Some(ObjectMeta { labels: Some([("app".into(), "a".into())].into()), ..Default::default() }),
            spec: None,
        };
        let stored = ReplicaSetStatus::default();
        fn shot<'a>(
            stored: &'a ReplicaSetStatus,
            active: &'a [Arc<Pod>],
            template: &'a PodTemplateSpec,
        ) -> Snapshot<'a> {
            Snapshot {
                replicas: 4,
                min_ready_seconds: 5,
                template,
                generation: Some(2),
                active,
                terminating: Some(1),
                related: active,
                status: stored,
                now: at(10),
            }
        }
        let new = status(&shot(&stored, &active, &template), Some("quota")).expect("differs");
        assert_eq!(
            (new.replicas, new.fully_labeled_replicas, new.ready_replicas, new.available_replicas),
            (3, Some(3), Some(2), Some(1))
        );
        assert_eq!((new.terminating_replicas, new.observed_generation), (Some(1), Some(2)));
        let c = &new.conditions.as_ref().expect("condition")[0];
        assert_eq!((c.type_.as_str(), c.reason.as_deref()), ("ReplicaFailure", Some("FailedCreate")));
        let stored = new.clone();
        assert_eq!(
            status(&shot(&stored, &active, &template), Some("other message")),
            None,
            "the condition stands until it heals"
        );
        let healed = status(&shot(&stored, &active, &template), None).expect("differs");
        assert_eq!(healed.conditions, None);
        let stored = healed.clone();
        assert_eq!(status(&shot(&stored, &active, &template), None), None);
        assert_eq!(next_available(&shot(&stored, &active, &template)), Some(Duration::from_secs(4)));
    }
}
