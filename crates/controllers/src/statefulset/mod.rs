//! The StatefulSet controller: pods with names and storage of their own, made and replaced in order.

mod identity;
mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use caravel_client::{Informer, Key, Recorder, WorkQueue, object_ref};
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolumeClaim, Pod};
use kube::Api;
use kube::api::{DeleteParams, PostParams, Preconditions};

use crate::common::history::{self, write_newest};
use crate::common::*;
use crate::context::{Context, candidates, enqueue_each, enqueue_owners, record, track_pods};
use plan::{Plan, Revision, Snapshot, plan};

const WORKERS: usize = 8;

struct Controller {
    context: Context,
    sets: Informer<StatefulSet>,
    pods: Informer<Pod>,
    claims: Informer<PersistentVolumeClaim>,
    revisions: Informer<ControllerRevision>,
    recorder: Recorder,
}

/// Runs the controller.
///
/// # Errors
/// Never by itself.
pub async fn run(context: Context) -> anyhow::Result<()> {
    let c = Controller {
        sets: context.cluster.informer(),
        pods: context.pods(),
        claims: context.cluster.informer(),
        revisions: context.owned(),
        recorder: context.cluster.recorder("statefulset-controller"),
        context,
    };
    let queue = WorkQueue::new();
    enqueue_each(&c.sets, &queue);
    enqueue_owners::<StatefulSet, _>(&c.revisions, &queue);
    track_pods(&c.pods, &c.sets, &queue, None, |set: &StatefulSet, p| belongs(set, p));
    c.sets.synced().await;
    c.pods.synced().await;
    c.claims.synced().await;
    c.revisions.synced().await;
    c.context.work(queue, WORKERS, |key| c.reconcile(key)).await;
    Ok(())
}

fn selector(set: &StatefulSet) -> Selector {
    Selector::new(set.spec.as_ref().map(|s| &s.selector))
}

/// Whether the set may adopt the pod: by labels and by name.
fn belongs(set: &StatefulSet, p: &Pod) -> bool {
    selector(set).matches(labels(p)) && identity::ordinal(set, p).is_some()
}

impl Controller {
    async fn reconcile(&self, key: Key) -> Outcome {
        let Some(set) = self.sets.get(&key) else { return Ok(None) };
        let client = self.context.client();
        let own: Api<StatefulSet> = Api::namespaced(client.clone(), &key.namespace);
        let mut revisions = self.revisions_of(&set, &key).await?;
        history::sort(&mut revisions);
        let pods = self.pods_of(&set, &key).await?;
        let mut collisions = set.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0);
        let template = set.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
        let data = history::template_data(&template);
        let make = |data, number| {
            history::new_revision(owner_ref(&*set), &key.namespace, &template_meta(&set), data, number, collisions)
        };
        let newest = history::newest(&revisions, data, make);
        let api: Api<ControllerRevision> = Api::namespaced(client, &key.namespace);
        let Some(update) = write_newest(&api, newest, uid(&*set)).await? else {
            collisions += 1;
            let mut changed = (*set).clone();
            changed.status.get_or_insert_default().collision_count = Some(collisions);
            put_status(&own, &changed).await?;
            return Ok(None);
        };
        let current_name = set.status.as_ref().and_then(|s| s.current_revision.clone()).unwrap_or_default();
        let current = revisions.iter().find(|r| name(&***r) == current_name).unwrap_or(&update).clone();
        let current_template = history::template_of(&current).unwrap_or_else(|| template.clone());
        let namespace = key.namespace.clone();
        let decided = {
            let claims = |n: &str| self.claims.get(&Key::new(namespace.clone(), n));
            plan(&Snapshot {
                set: &set,
                pods: &pods,
                claims: &claims,
                current: Revision { name: name(&*current), template: &current_template },
                update: Revision { name: name(&*update), template: &template },
                collisions,
                now: self.context.now(),
            })
        };
        let again = self.apply(&set, decided, &own).await?;
        self.truncate(&set, &api, &revisions, &[name(&*current), name(&*update)], &pods).await?;
        Ok(again)
    }

    async fn revisions_of(&self, set: &StatefulSet, key: &Key) -> anyhow::Result<Vec<Arc<ControllerRevision>>> {
        let found = candidates(&self.revisions, uid(set), &key.namespace);
        let claimed = claim(uid(set), deleting(set), &selector(set), found);
        let api: Api<ControllerRevision> = Api::namespaced(self.context.client(), &key.namespace);
        let own: Api<StatefulSet> = Api::namespaced(self.context.client(), &key.namespace);
        apply_claim(&api, &owner_ref(set), claimed, still_there(&own, set)).await
    }

    async fn pods_of(&self, set: &StatefulSet, key: &Key) -> anyhow::Result<Vec<Arc<Pod>>> {
        let found = candidates(&self.pods, uid(set), &key.namespace);
        let named = found.into_iter().filter(|p| controlled_by(&**p, uid(set)) || identity::ordinal(set, p).is_some());
        let claimed = claim(uid(set), deleting(set), &selector(set), named);
        let api: Api<Pod> = Api::namespaced(self.context.client(), &key.namespace);
        let own: Api<StatefulSet> = Api::namespaced(self.context.client(), &key.namespace);
        apply_claim(&api, &owner_ref(set), claimed, still_there(&own, set)).await
    }

    async fn apply(&self, set: &StatefulSet, plan: Plan, own: &Api<StatefulSet>) -> Outcome {
        let about = object_ref(set);
        record(&self.recorder, &about, &plan.events);
        let pods = self.apply_pods(set, &about, &plan).await;
        // The status tells what is seen, whether the writes went well or not.
        if let Some(status) = plan.status {
            put_status(own, &StatefulSet { status: Some(status), ..set.clone() }).await?;
        }
        pods?;
        Ok(plan.again)
    }

    async fn apply_pods(&self, set: &StatefulSet, about: &ObjectReference, plan: &Plan) -> anyhow::Result<()> {
        let client = self.context.client();
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace(set));
        let pods: Api<Pod> = Api::namespaced(client, namespace(set));
        for c in &plan.create_claims {
            let what = format!("Claim {} Pod {}", name(c), pod_of(set, c));
            match claims.create(&PostParams::default(), c).await {
                Err(e) if is_already_exists(&e) => {}
                other => self.report(set, about, "create", &what, other.map(drop))?,
            }
        }
        for c in &plan.update_claims {
            claims.replace(name(c), &PostParams::default(), c).await?;
        }
        for p in &plan.create {
            let what = format!("Pod {}", name(p));
            match pods.create(&PostParams::default(), p).await {
                // Our own that the cache does not show yet, or another's: the next round tells.
                Err(e) if is_already_exists(&e) => return Err(e.into()),
                other => self.report(set, about, "create", &what, other.map(drop))?,
            }
        }
        for p in &plan.update {
            let what = format!("Pod {}", name(p));
            let result = pods.replace(name(p), &PostParams::default(), p).await;
            self.report(set, about, "update", &what, result.map(drop))?;
        }
        for p in &plan.delete {
            let what = format!("Pod {}", name(&**p));
            let same = Preconditions { uid: p.metadata.uid.clone(), resource_version: None };
            match pods.delete(name(&**p), &DeleteParams::default().preconditions(same)).await {
                Err(e) if is_not_found(&e) || is_conflict(&e) => {}
                other => self.report(set, about, "delete", &what, other.map(drop))?,
            }
        }
        Ok(())
    }

    /// Records how a write went, in upstream's words.
    fn report(
        &self,
        set: &StatefulSet,
        about: &ObjectReference,
        verb: &str,
        what: &str,
        result: Result<(), kube::Error>,
    ) -> anyhow::Result<()> {
        let title = format!("{}{}", verb[..1].to_uppercase(), &verb[1..]);
        match result {
            Ok(()) => {
                let end = if what.starts_with("Claim") { "success" } else { "successful" };
                let note = format!("{verb} {what} in StatefulSet {} {end}", name(set));
                self.recorder.event(about, "Normal", &format!("Successful{title}"), "Reconciling", &note);
                Ok(())
            }
            Err(e) if is_namespace_terminating(&e) => Ok(()),
            Err(e) => {
                let note = format!("{verb} {what} in StatefulSet {} failed error: {}", name(set), message_of(&e));
                self.recorder.event(about, "Warning", &format!("Failed{title}"), "Reconciling", &note);
                Err(e.into())
            }
        }
    }

    async fn truncate(
        &self,
        set: &StatefulSet,
        api: &Api<ControllerRevision>,
        revisions: &[Arc<ControllerRevision>],
        live: &[&str],
        pods: &[Arc<Pod>],
    ) -> anyhow::Result<()> {
        let limit = set.spec.as_ref().and_then(|s| s.revision_history_limit).unwrap_or(10);
        let used = |r: &ControllerRevision| {
            let pod_has = |p: &Arc<Pod>| labels(&**p).get(history::HASH_LABEL).is_some_and(|h| h == name(r));
            live.contains(&name(r)) || pods.iter().any(pod_has)
        };
        for r in history::surplus(revisions, usize::try_from(limit).unwrap_or(usize::MAX), used) {
            gone_is_fine(api.delete(name(&*r), &DeleteParams::default()).await)?;
        }
        Ok(())
    }
}

/// The name of the pod that a claim is for: `template-set-ordinal` without the template.
fn pod_of<'a>(set: &StatefulSet, claim: &'a PersistentVolumeClaim) -> &'a str {
    let n = name(claim);
    n.rfind(&format!("{}-", name(set))).map_or(n, |i| &n[i..])
}

/// The labels and annotations that a revision takes over.
fn template_meta(set: &StatefulSet) -> k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
    let template = set.spec.as_ref().and_then(|s| s.template.metadata.clone()).unwrap_or_default();
    k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
        labels: template.labels,
        annotations: set.metadata.annotations.clone(),
        ..Default::default()
    }
}
