//! The ReplicaSet and ReplicationController controllers: keep a number of pods of one template.

mod plan;

use std::fmt::Debug;
use std::sync::Arc;

use caravel_client::{Informer, Key, Object, WorkQueue, object_ref};
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    Pod, PodTemplateSpec, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};
use kube::Api;
use kube::core::NamespaceResourceScope;
use serde::Serialize;

use crate::common::pod;
use crate::common::pod_control::PodControl;
use crate::common::*;
use crate::context::{Context, candidates, enqueue_each, track_pods};
use plan::{Plan, Snapshot, next_available, plan, status};

const WORKERS: usize = 8;

/// What the two kinds have in common.
trait Replicated: Object + Serialize + Debug + kube::Resource<Scope = NamespaceResourceScope> {
    /// The component named in events.
    const COMPONENT: &'static str;
    /// Whether the status reports terminating pods.
    const TERMINATING: bool;
    fn replicas(&self) -> i32;
    fn min_ready_seconds(&self) -> i32;
    fn selector(&self) -> Selector;
    fn template(&self) -> PodTemplateSpec;
    fn status(&self) -> ReplicaSetStatus;
    fn with_status(&self, status: ReplicaSetStatus) -> Self;
}

impl Replicated for ReplicaSet {
    const COMPONENT: &'static str = "replicaset-controller";
    const TERMINATING: bool = true;

    fn replicas(&self) -> i32 {
        self.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
    }
    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0)
    }
    fn selector(&self) -> Selector {
        Selector::new(self.spec.as_ref().map(|s| &s.selector))
    }
    fn template(&self) -> PodTemplateSpec {
        self.spec.as_ref().and_then(|s| s.template.clone()).unwrap_or_default()
    }
    fn status(&self) -> ReplicaSetStatus {
        self.status.clone().unwrap_or_default()
    }
    fn with_status(&self, status: ReplicaSetStatus) -> Self {
        Self { status: Some(status), ..self.clone() }
    }
}

impl Replicated for ReplicationController {
    const COMPONENT: &'static str = "replication-controller";
    const TERMINATING: bool = false;

    fn replicas(&self) -> i32 {
        self.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
    }
    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0)
    }
    fn selector(&self) -> Selector {
        Selector::from_map(self.spec.as_ref().and_then(|s| s.selector.as_ref()))
    }
    fn template(&self) -> PodTemplateSpec {
        self.spec.as_ref().and_then(|s| s.template.clone()).unwrap_or_default()
    }
    fn status(&self) -> ReplicaSetStatus {
        let s = self.status.clone().unwrap_or_default();
        let conditions = s.conditions.map(|all| {
            let convert = |c: ReplicationControllerCondition| ReplicaSetCondition {
                type_: c.type_,
                status: c.status,
                reason: c.reason,
                message: c.message,
                last_transition_time: c.last_transition_time,
            };
            all.into_iter().map(convert).collect()
        });
        ReplicaSetStatus {
            replicas: s.replicas,
            fully_labeled_replicas: s.fully_labeled_replicas,
            ready_replicas: s.ready_replicas,
            available_replicas: s.available_replicas,
            observed_generation: s.observed_generation,
            terminating_replicas: None,
            conditions,
        }
    }
    fn with_status(&self, s: ReplicaSetStatus) -> Self {
        let conditions = s.conditions.map(|all| {
            let convert = |c: ReplicaSetCondition| ReplicationControllerCondition {
                type_: c.type_,
                status: c.status,
                reason: c.reason,
                message: c.message,
                last_transition_time: c.last_transition_time,
            };
            all.into_iter().map(convert).collect()
        });
        let status = ReplicationControllerStatus {
            replicas: s.replicas,
            fully_labeled_replicas: s.fully_labeled_replicas,
            ready_replicas: s.ready_replicas,
            available_replicas: s.available_replicas,
            observed_generation: s.observed_generation,
            conditions,
        };
        Self { status: Some(status), ..self.clone() }
    }
}

struct Controller<K> {
    context: Context,
    owners: Informer<K>,
    pods: Informer<Pod>,
    expectations: Arc<Expectations>,
    control: PodControl,
}

/// Runs the ReplicaSet controller.
///
/// # Errors
/// Never by itself.
pub async fn run_replica_sets(context: Context) -> anyhow::Result<()> {
    run::<ReplicaSet>(context).await
}

/// Runs the ReplicationController controller.
///
/// # Errors
/// Never by itself.
pub async fn run_replication_controllers(context: Context) -> anyhow::Result<()> {
    run::<ReplicationController>(context).await
}

async fn run<K: Replicated>(context: Context) -> anyhow::Result<()> {
    let owners: Informer<K> = context.owned();
    let c = Controller {
        pods: context.pods(),
        expectations: Arc::new(Expectations::new()),
        control: PodControl::new(context.client(), context.cluster.recorder(K::COMPONENT)),
        owners,
        context,
    };
    let queue = WorkQueue::new();
    enqueue_each(&c.owners, &queue);
    track_pods(&c.pods, &c.owners, &queue, Some(c.expectations.clone()), |owner: &K, pod| {
        owner.selector().matches(labels(pod))
    });
    c.owners.synced().await;
    c.pods.synced().await;
    c.context.work(queue, WORKERS, |key| c.reconcile(key)).await;
    Ok(())
}

impl<K: Replicated> Controller<K> {
    async fn reconcile(&self, key: Key) -> Outcome {
        let Some(owner) = self.owners.get(&key) else {
            self.expectations.forget(&key);
            return Ok(None);
        };
        // Asked before the pods are read: what is seen between the two can only make the round more careful.
        let may_act = self.expectations.satisfied(&key) && !deleting(&*owner);
        let (active, terminating) = self.pods_of(&owner, &key).await?;
        let related = self.related(&owner, &active);
        let (template, stored) = (owner.template(), owner.status());
        let snapshot = Snapshot {
            replicas: owner.replicas(),
            min_ready_seconds: owner.min_ready_seconds(),
            template: &template,
            generation: owner.meta().generation,
            active: &active,
            terminating: K::TERMINATING.then_some(terminating),
            related: &related,
            status: &stored,
            now: self.context.now(),
        };
        let failed = if may_act { self.apply(&key, &owner, &template, plan(&snapshot)).await } else { None };
        let message = failed.as_ref().map(message_of);
        if let Some(new) = status(&snapshot, message.as_deref()) {
            let api: Api<K> = Api::namespaced(self.context.client(), &key.namespace);
            put_status(&api, &owner.with_status(new)).await?;
        }
        match failed {
            Some(e) => Err(e.into()),
            None => Ok(next_available(&snapshot)),
        }
    }

    /// The pods that it holds: active ones (adopted and released as needed), and the number of terminating ones.
    async fn pods_of(&self, owner: &K, key: &Key) -> anyhow::Result<(Vec<Arc<Pod>>, usize)> {
        let found = candidates(&self.pods, uid(owner), &key.namespace);
        let terminating = found.iter().filter(|p| pod::terminating(p) && controlled_by(&***p, uid(owner))).count();
        let living = found.into_iter().filter(|p| pod::active(p));
        let claimed = claim(uid(owner), deleting(owner), &owner.selector(), living);
        let pods: Api<Pod> = Api::namespaced(self.context.client(), &key.namespace);
        let own: Api<K> = Api::namespaced(self.context.client(), &key.namespace);
        Ok((apply_claim(&pods, &owner_ref(owner), claimed, still_there(&own, owner)).await?, terminating))
    }

    /// Active pods of all owners with the same managing owner; only needed to choose among surplus pods.
    fn related(&self, owner: &K, active: &[Arc<Pod>]) -> Vec<Arc<Pod>> {
        let surplus = active.len() > usize::try_from(owner.replicas()).unwrap_or(0);
        match controller_of(owner) {
            Some(parent) if surplus => {
                let siblings = self.owners.by_index(BY_CONTROLLER, &parent.uid);
                siblings.iter().flat_map(|s| self.pods.by_index(BY_CONTROLLER, uid(&**s))).collect()
            }
            _ => active.to_vec(),
        }
    }

    async fn apply(&self, key: &Key, owner: &K, template: &PodTemplateSpec, plan: Plan) -> Option<kube::Error> {
        let about = object_ref(owner);
        if plan.create > 0 {
            let one = pod::from_template(template, &key.namespace, name(owner), owner_ref(owner));
            self.expectations.expect_creations(key, plan.create);
            let (made, error) = self.control.create_copies(&one, plan.create, &about).await;
            for _ in made..plan.create {
                self.expectations.creation_observed(key);
            }
            return error.filter(|e| !is_namespace_terminating(e));
        }
        if !plan.delete.is_empty() {
            self.expectations.expect_deletions(key, plan.delete.iter().map(|p| uid(&**p).to_owned()));
            let (not_coming, error) = self.control.delete_all(&plan.delete, &about).await;
            for uid in not_coming {
                self.expectations.deletion_observed(key, &uid);
            }
            return error;
        }
        None
    }
}
