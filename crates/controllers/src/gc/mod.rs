//! The garbage collector: deletes what lost its owners, and carries out foreground and orphaning deletion.

mod decide;
mod graph;
mod monitor;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use caravel_client::{Recorder, WorkQueue};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions, PropagationPolicy};
use parking_lot::{Mutex, RwLock};
use serde_json::json;
use tokio::sync::Notify;

use crate::common::discovery::Resource;
use crate::common::*;
use crate::context::Context;
use decide::{Owner, Verdict, decide};
use graph::{FOREGROUND, Graph, Node, ORPHAN, ResourceId, Uid, Wake};

const WORKERS: usize = 10;
/// How long an owner's watch may lag behind its dependents' before the owner is asked for.
const LAG: Duration = Duration::from_secs(1);
/// An owner of a kind that cannot be followed is asked for again after this long.
const UNFOLLOWED: Duration = Duration::from_secs(300);
/// Owners known to be absent that are remembered.
const ABSENT: usize = 1000;

/// What monitors and workers share.
struct Shared {
    client: kube::Client,
    graph: Mutex<Graph>,
    /// By number; one that the server does not serve any more keeps its number but is marked.
    resources: RwLock<Vec<(Resource, bool)>>,
    delete: WorkQueue<Uid>,
    orphan: WorkQueue<Uid>,
    monitors: Progress,
}

/// How far the first lists are.
#[derive(Default)]
struct Progress {
    waiting: AtomicUsize,
    discovered: AtomicBool,
    changed: Notify,
}

impl Progress {
    fn begin(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
    }

    fn synced(&self) {
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        self.changed.notify_one();
    }

    fn discovered(&self) {
        self.discovered.store(true, Ordering::SeqCst);
        self.changed.notify_one();
    }

    async fn complete(&self) {
        while !self.discovered.load(Ordering::SeqCst) || self.waiting.load(Ordering::SeqCst) > 0 {
            self.changed.notified().await;
        }
    }
}

impl Shared {
    /// Takes in what discovery found; returns every resource with its number. Numbers stay as they are.
    fn set_resources(&self, found: &[Resource], complete: bool) -> Vec<(Resource, ResourceId)> {
        let mut all = self.resources.write();
        let mut result = vec![];
        if complete {
            all.iter_mut().for_each(|(_, served)| *served = false);
        }
        for r in found {
            let place = all.iter().position(|(x, _)| x.api.group == r.api.group && x.api.plural == r.api.plural);
            let id = place.unwrap_or(all.len());
            match place {
                Some(i) => all[i] = (r.clone(), true),
                None => all.push((r.clone(), true)),
            }
            result.push((r.clone(), u32::try_from(id).unwrap_or(u32::MAX)));
        }
        result
    }

    fn upsert(&self, resource: ResourceId, meta: &ObjectMeta) {
        let wake = self.graph.lock().upsert(resource, meta);
        self.wake(wake);
    }

    fn remove(&self, uid: Uid) {
        let wake = self.graph.lock().remove(uid);
        self.wake(wake);
    }

    fn wake(&self, all: Vec<Wake>) {
        for w in all {
            match w {
                Wake::Delete(uid) => self.delete.add(uid),
                Wake::Unseen(uid) => self.delete.add_after(uid, LAG),
                Wake::Orphan(uid) => self.orphan.add(uid),
            }
        }
    }

    fn uids_of(&self, resource: ResourceId) -> HashSet<Uid> {
        self.graph.lock().uids_of(resource)
    }

    /// The resource that an owner reference names: of its group and kind, in whichever version.
    fn owner_resource(&self, o: &OwnerReference) -> Option<(ResourceId, Resource)> {
        let group = o.api_version.split_once('/').map_or("", |(g, _)| g);
        let all = self.resources.read();
        let i = all.iter().position(|(r, served)| *served && r.api.kind == o.kind && r.api.group == group)?;
        Some((u32::try_from(i).ok()?, all[i].0.clone()))
    }

    fn resource(&self, id: ResourceId) -> Option<Resource> {
        self.resources.read().get(id as usize).map(|(r, _)| r.clone())
    }
}

struct Collector {
    shared: Arc<Shared>,
    recorder: Recorder,
    /// Owners that were asked for and do not exist, with the namespace they were looked for in.
    absent: Mutex<HashSet<(Uid, String)>>,
}

/// Runs the garbage collector.
///
/// # Errors
/// Never by itself.
pub async fn run(context: Context) -> anyhow::Result<()> {
    let shared = Arc::new(Shared {
        client: context.client(),
        graph: Mutex::default(),
        resources: RwLock::default(),
        delete: WorkQueue::new(),
        orphan: WorkQueue::new(),
        monitors: Progress::default(),
    });
    let following = tokio::spawn(monitor::follow(shared.clone(), context.stop.clone()));
    tokio::select! {
        () = shared.monitors.complete() => {}
        // A server of an aggregated API that hangs must not stop the collection of all else.
        () = tokio::time::sleep(Duration::from_secs(30)) => {}
        () = context.stop.cancelled() => return Ok(()),
    }
    let c = Collector {
        recorder: context.cluster.recorder("garbage-collector-controller"),
        shared: shared.clone(),
        absent: Mutex::default(),
    };
    tokio::join!(
        context.work(shared.delete.clone(), WORKERS, |uid| c.attempt_delete(uid)),
        context.work(shared.orphan.clone(), WORKERS, |uid| c.attempt_orphan(uid)),
    );
    following.await?;
    Ok(())
}

impl Collector {
    /// The node, its resource and access to its kind.
    fn locate(&self, uid: Uid) -> Option<(Node, Resource, Api<DynamicObject>)> {
        let node = self.shared.graph.lock().node(uid).cloned()?;
        let resource = self.shared.resource(node.resource)?;
        let api = resource.objects(&self.shared.client, &node.namespace);
        Some((node, resource, api))
    }

    async fn attempt_delete(&self, uid: Uid) -> Outcome {
        let Some((node, resource, api)) = self.locate(uid) else { return Ok(None) };
        if node.deleting && !node.foreground {
            return Ok(None);
        }
        let live = api.get_metadata_opt(&node.name).await?;
        let Some(live) = live.filter(|l| Uid::of(l.metadata.uid.as_deref().unwrap_or_default()) == uid) else {
            self.shared.remove(uid);
            return Ok(None);
        };
        if node.foreground {
            return self.finish_foreground(uid, &node, &api, &live.metadata).await;
        }
        let (mut owners, mut again) = (vec![], None);
        for o in live.metadata.owner_references.iter().flatten() {
            let (owner, recheck) = self.judge_owner(o, &node, &resource).await?;
            owners.push(owner);
            again = sooner(again, recheck);
        }
        let dependents: Vec<Uid> = self.shared.graph.lock().dependents_of(uid).collect();
        let policy = match decide(&live.metadata, &owners, !dependents.is_empty()) {
            Verdict::Keep => return Ok(again),
            Verdict::Unlink(rest) => {
                let patch = json!({"metadata": {
                    "resourceVersion": live.metadata.resource_version, "uid": live.metadata.uid, "ownerReferences": rest}});
                patch_metadata(&api, &node.name, patch).await?;
                return Ok(again);
            }
            Verdict::DeleteForeground => {
                self.break_circle(&dependents, &live.metadata, &api, &node).await?;
                PropagationPolicy::Foreground
            }
            Verdict::Delete(policy) => policy,
        };
        let params = DeleteParams {
            propagation_policy: Some(policy),
            // Owners that were added meanwhile must not be overlooked: what is deleted is what was judged.
            preconditions: Some(Preconditions {
                uid: live.metadata.uid.clone(),
                resource_version: live.metadata.resource_version.clone(),
            }),
            ..DeleteParams::default()
        };
        match api.delete(&node.name, &params).await {
            // It changed since it was judged.
            Err(e) if is_conflict(&e) => Ok(Some(Duration::from_millis(20))),
            other => {
                gone_is_fine(other)?;
                Ok(None)
            }
        }
    }

    /// An owner that waits: finished when no dependent blocks it, else its blocking dependents are looked at.
    async fn finish_foreground(&self, uid: Uid, node: &Node, api: &Api<DynamicObject>, live: &ObjectMeta) -> Outcome {
        let blocking = self.shared.graph.lock().blocking(uid);
        if blocking.is_empty() {
            remove_finalizer(api, &node.name, live, FOREGROUND).await?;
            return Ok(None);
        }
        for dependent in blocking {
            let waits = self.shared.graph.lock().node(dependent).is_some_and(|n| n.foreground);
            if !waits {
                self.shared.delete.add(dependent);
            }
        }
        Ok(None)
    }

    /// When a dependent waits for its own dependents too, the object stops blocking its owners: otherwise a circle would wait for ever.
    async fn break_circle(
        &self,
        dependents: &[Uid],
        live: &ObjectMeta,
        api: &Api<DynamicObject>,
        node: &Node,
    ) -> anyhow::Result<()> {
        let circle = {
            let graph = self.shared.graph.lock();
            dependents.iter().any(|d| graph.node(*d).is_some_and(|n| n.foreground))
        };
        let references = live.owner_references.clone().unwrap_or_default();
        if circle && references.iter().any(|o| o.block_owner_deletion == Some(true)) {
            let free = |mut o: OwnerReference| {
                o.block_owner_deletion = Some(false);
                o
            };
            let references: Vec<_> = references.into_iter().map(free).collect();
            let patch = json!({"metadata": {"uid": live.uid, "ownerReferences": references}});
            patch_metadata(api, &node.name, patch).await?;
        }
        Ok(())
    }

    /// What became of an owner, by a live look when the graph does not know it; and when to ask again, for one that is there and that
    /// the graph has yet to meet: if it goes before its watch sees it, nobody will tell.
    async fn judge_owner(
        &self,
        o: &OwnerReference,
        node: &Node,
        dependent: &Resource,
    ) -> anyhow::Result<(Owner, Option<Duration>)> {
        let owner = Uid::of(&o.uid);
        let Some((id, resource)) = self.shared.owner_resource(o) else {
            // The kind may come back; nothing is deleted for its sake.
            anyhow::bail!(
                "cannot tell whether owner {} {} {} exists: the server does not serve that kind",
                o.api_version,
                o.kind,
                o.name
            );
        };
        if resource.namespaced && !dependent.namespaced {
            // A cluster-wide object cannot have an owner in a namespace: the reference is invalid and nothing is done for it.
            self.warn_namespace(o, node, dependent, "is namespaced, but its dependent is not");
            return Ok((Owner::Solid, None));
        }
        {
            let graph = self.shared.graph.lock();
            if graph.node(owner).is_some_and(|n| n.foreground) {
                return Ok((Owner::Waiting, None));
            }
            if graph.exists(owner, id, resource.namespaced, &node.namespace) {
                return Ok((Owner::Solid, None));
            }
        }
        let place = (owner, if resource.namespaced { node.namespace.to_string() } else { String::new() });
        if self.absent.lock().contains(&place) {
            return Ok((Owner::Absent, None));
        }
        let api = resource.objects(&self.shared.client, &place.1);
        let live = api.get_metadata_opt(&o.name).await?;
        Ok(match live.filter(|l| l.metadata.uid.as_deref() == Some(o.uid.as_str())) {
            None => {
                let elsewhere = resource.namespaced && self.shared.graph.lock().is_known(owner);
                if elsewhere {
                    self.warn_namespace(o, node, dependent, "does not exist in the dependent's namespace");
                }
                self.remember_absent(place);
                (Owner::Absent, None)
            }
            Some(l) if l.metadata.deletion_timestamp.is_some() && has(&l.metadata, FOREGROUND) => {
                (Owner::Waiting, None)
            }
            Some(_) => (Owner::Solid, Some(if monitor::collectable(&resource) { UNMET } else { UNFOLLOWED })),
        })
    }

    fn remember_absent(&self, place: (Uid, String)) {
        let mut absent = self.absent.lock();
        if absent.len() >= ABSENT {
            absent.clear();
        }
        absent.insert(place);
    }

    fn warn_namespace(&self, o: &OwnerReference, node: &Node, resource: &Resource, why: &str) {
        let about = ObjectReference {
            api_version: Some(resource.api.api_version.clone()),
            kind: Some(resource.api.kind.clone()),
            namespace: Some(node.namespace.to_string()).filter(|n| !n.is_empty()),
            name: Some(node.name.to_string()),
            ..ObjectReference::default()
        };
        let note = format!("ownerRef [{}/{}, name: {}, uid: {}] {why}", o.api_version, o.kind, o.name, o.uid);
        self.recorder.event(&about, "Warning", "OwnerRefInvalidNamespace", "GarbageCollecting", &note);
    }

    /// Takes an owner out of all its dependents, then its orphan finalizer off.
    async fn attempt_orphan(&self, uid: Uid) -> Outcome {
        let Some((node, _, api)) = self.locate(uid).filter(|(n, ..)| n.orphaning) else { return Ok(None) };
        let dependents: Vec<Uid> = self.shared.graph.lock().dependents_of(uid).collect();
        for d in dependents {
            let Some((dependent, _, kind)) = self.locate(d) else { continue };
            let Some(live) = kind.get_metadata_opt(&dependent.name).await? else { continue };
            if Uid::of(live.metadata.uid.as_deref().unwrap_or_default()) != d {
                continue;
            }
            let all = live.metadata.owner_references.clone().unwrap_or_default();
            let rest: Vec<_> = all.iter().filter(|o| Uid::of(&o.uid) != uid).cloned().collect();
            if rest.len() != all.len() {
                let patch = json!({"metadata": {
                    "resourceVersion": live.metadata.resource_version, "uid": live.metadata.uid, "ownerReferences": rest}});
                patch_metadata(&kind, &dependent.name, patch).await?;
            }
        }
        let live = api.get_metadata_opt(&node.name).await?;
        match live.filter(|l| Uid::of(l.metadata.uid.as_deref().unwrap_or_default()) == uid) {
            None => self.shared.remove(uid),
            Some(l) => remove_finalizer(&api, &node.name, &l.metadata, ORPHAN).await?,
        }
        Ok(None)
    }
}

fn has(meta: &ObjectMeta, finalizer: &str) -> bool {
    meta.finalizers.iter().flatten().any(|f| f == finalizer)
}

/// Takes a finalizer off, guarded by the revision that was read.
async fn remove_finalizer(
    api: &Api<DynamicObject>,
    name: &str,
    live: &ObjectMeta,
    finalizer: &str,
) -> anyhow::Result<()> {
    if !has(live, finalizer) {
        return Ok(());
    }
    let rest: Vec<_> = live.finalizers.iter().flatten().filter(|f| *f != finalizer).collect();
    let patch = json!({"metadata": {"resourceVersion": live.resource_version, "uid": live.uid, "finalizers": rest}});
    patch_metadata(api, name, patch).await
}

/// A merge patch of metadata; an object that is gone needs none.
async fn patch_metadata(api: &Api<DynamicObject>, name: &str, patch: serde_json::Value) -> anyhow::Result<()> {
    Ok(gone_is_fine(api.patch_metadata(name, &PatchParams::default(), &Patch::Merge(patch)).await)?)
}
