//! The attach-detach controller: VolumeAttachments for CSI volumes of pods, and what nodes are told of them.
//!
//! For each node it compares the volumes that pods there use with the VolumeAttachments to it. A driver's attacher does the work and
//! answers in the attachment's status; then the volume is put on the Node's `volumesAttached`, which the kubelet waits for. What no pod
//! uses is detached once the kubelet has taken it off `volumesInUse`, or by force: after six minutes from a node that is not ready, at
//! once from one that is declared out of service.

mod memory;
mod names;
mod plan;
mod view;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use caravel_client::{Change, Informer, Key, Recorder, WorkQueue};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment, VolumeAttachmentSource, VolumeAttachmentSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::common::{Event, Outcome, deleting, gone_is_fine, is_already_exists, name, pod, sooner, uid};
use crate::context::{Context, record_on};
use memory::{Asked, Memory};
use names::VolumeId;
use plan::{Detach, Plan, Snapshot, plan};
use view::{BY_CLAIM, BY_ID, BY_PLACE, BY_VOLUME, claims_of, in_use, matters, place_of};

/// How long a driver has for attaching before pods are told that it takes long (upstream's timeout for CSI calls).
const SLOW: Duration = Duration::from_secs(120);
/// An attachment that was asked for and is in no cache after this long is looked up.
const UNSEEN: Duration = Duration::from_secs(5);

struct Controller {
    context: Context,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    drivers: Informer<CSIDriver>,
    attachments: Informer<VolumeAttachment>,
    recorder: Recorder,
    memory: Arc<Mutex<Memory>>,
}

/// What a look at one node found.
struct Look {
    snapshot: Snapshot,
    /// The pods that use each volume, and the name of its PersistentVolume.
    users: HashMap<VolumeId, (String, Vec<Arc<Pod>>)>,
    /// The attachments in the cache.
    attachments: HashMap<VolumeId, Arc<VolumeAttachment>>,
}

/// Runs the controller.
///
/// # Errors
/// Never by itself.
pub async fn run(context: Context) -> anyhow::Result<()> {
    let c = Controller {
        pods: context.pods(),
        nodes: context.cluster.informer(),
        claims: context.cluster.informer(),
        volumes: context.cluster.informer(),
        drivers: context.cluster.informer(),
        attachments: context.cluster.informer(),
        recorder: context.cluster.recorder("attachdetach-controller"),
        memory: Arc::default(),
        context,
    };
    c.pods.add_index(BY_CLAIM, claims_of);
    c.volumes.add_index(BY_ID, |v| VolumeId::of(v).map(|id| id.unique_name()).into_iter().collect());
    c.attachments.add_index(BY_PLACE, |a| vec![a.spec.node_name.clone()]);
    c.attachments.add_index(BY_VOLUME, |a| a.spec.source.persistent_volume_name.clone().into_iter().collect());
    let queue = WorkQueue::new();
    c.wake_by_pods(&queue);
    c.wake_by_volumes(&queue);
    c.wake_by_nodes(&queue);
    c.wake_by_attachments(&queue);
    c.pods.synced().await;
    c.nodes.synced().await;
    c.claims.synced().await;
    c.volumes.synced().await;
    c.drivers.synced().await;
    c.attachments.synced().await;
    // One worker: two would give a volume to two nodes.
    c.context.work(queue, 1, |key| c.reconcile(key)).await;
    Ok(())
}

/// Enqueues the nodes of the pods that use a claim.
fn wake_users(pods: &Informer<Pod>, claim: &Key, queue: &WorkQueue<Key>) {
    for p in pods.by_index(BY_CLAIM, &claim.to_string()) {
        if !pod::node_name(&p).is_empty() {
            queue.add(Key::cluster(pod::node_name(&p)));
        }
    }
}

/// The claim that a volume is for.
fn claim_key(v: &PersistentVolume) -> Option<Key> {
    let r = v.spec.as_ref()?.claim_ref.as_ref()?;
    Some(Key::new(r.namespace.clone()?, r.name.clone()?))
}

impl Controller {
    fn wake_by_pods(&self, queue: &WorkQueue<Key>) {
        let wake = queue.clone();
        self.pods.on_change(move |c| {
            let p = c.object();
            if !pod::node_name(p).is_empty() && !claims_of(p).is_empty() {
                wake.add(Key::cluster(pod::node_name(p)));
            }
        });
    }

    fn wake_by_volumes(&self, queue: &WorkQueue<Key>) {
        let (pods, wake) = (self.pods.clone(), queue.clone());
        self.claims.on_change(move |c| wake_users(&pods, &Key::of(&**c.object()), &wake));
        let (pods, wake) = (self.pods.clone(), queue.clone());
        self.volumes.on_change(move |c| {
            if let Some(claim) = claim_key(c.object()) {
                wake_users(&pods, &claim, &wake);
            }
        });
        let (nodes, wake) = (self.nodes.clone(), queue.clone());
        // Whether a driver has volumes attached hardly ever changes.
        self.drivers.on_change(move |_| nodes.list().iter().for_each(|n| wake.add(Key::of(&**n))));
    }

    fn wake_by_nodes(&self, queue: &WorkQueue<Key>) {
        let (memory, wake) = (self.memory.clone(), queue.clone());
        self.nodes.on_change(move |c| {
            let node = c.object();
            match c {
                Change::Added(_) => memory.lock().lay(name(&**node)),
                Change::Deleted(_) => memory.lock().node_gone(name(&**node), in_use(node)),
                // Most changes are signs of life.
                Change::Updated { old, new } if matters(old) == matters(new) => return,
                Change::Updated { .. } => {}
            }
            wake.add(Key::of(&**node));
        });
    }

    /// An attachment wakes its node; one that goes, the nodes that wait for the volume, too.
    fn wake_by_attachments(&self, queue: &WorkQueue<Key>) {
        let (memory, pods, volumes, wake) =
            (self.memory.clone(), self.pods.clone(), self.volumes.clone(), queue.clone());
        self.attachments.on_change(move |c| {
            let a = c.object();
            let going = deleting(&**a) || matches!(c, Change::Deleted(_));
            memory.lock().seen(name(&**a), uid(&**a), going);
            wake.add(Key::cluster(a.spec.node_name.clone()));
            let volume = a.spec.source.persistent_volume_name.as_deref().map(Key::cluster);
            if matches!(c, Change::Deleted(_))
                && let Some(claim) = volume.and_then(|v| volumes.get(&v)).and_then(|v| claim_key(&v))
            {
                wake_users(&pods, &claim, &wake);
            }
        });
    }

    async fn reconcile(&self, key: Key) -> Outcome {
        self.find_unseen(&key.name).await?;
        let look = self.look(&key.name);
        let decided = plan(&look.snapshot);
        let slow = self.tell(&key.name, &look, &decided);
        let again = sooner(sooner(decided.again, slow), self.apply(&key.name, &look, decided).await?);
        Ok(sooner(again, self.unsettled(&look)))
    }

    /// When to look again at volumes of which an attachment, here or elsewhere, is in no cache yet: maybe it never will be.
    fn unsettled(&self, look: &Look) -> Option<Duration> {
        let memory = self.memory.lock();
        memory.asked.values().any(|a| look.snapshot.volumes.contains_key(&a.place.1)).then_some(UNSEEN)
    }

    /// Looks for attachments that were asked for long ago and that no watch has shown.
    async fn find_unseen(&self, node: &str) -> anyhow::Result<()> {
        let old = |a: &Asked| a.place.0 == node && a.at.elapsed() >= UNSEEN;
        let names: Vec<String> =
            self.memory.lock().asked.iter().filter(|(_, a)| old(a)).map(|(n, _)| n.clone()).collect();
        let api: Api<VolumeAttachment> = Api::all(self.context.client());
        for n in names {
            if api.get_opt(&n).await?.is_none() {
                self.memory.lock().asked.remove(&n);
            }
        }
        Ok(())
    }

    /// Events about what hinders pods. Returns when to look again at an attachment that takes its time.
    fn tell(&self, node: &str, look: &Look, plan: &Plan) -> Option<Duration> {
        let mut memory = self.memory.lock();
        let mut again = None;
        for (id, v) in look.snapshot.volumes.iter().filter(|(_, v)| v.wanted) {
            let Some((volume, pods)) = look.users.get(id) else { continue };
            let place = (node.to_owned(), id.clone());
            if v.attachment == Some(plan::Attachment::Attached) {
                memory.settled(&place);
            } else if plan.refused.contains(id) {
                for p in pods {
                    let why = self.who_has(id, node, p);
                    let note = format!("Multi-Attach error for volume {volume:?} {why}");
                    if memory.is_news(&place, &note) {
                        record_on(&self.recorder, &**p, &[Event::warning("FailedAttachVolume", note)]);
                    }
                }
            } else if v.attachment == Some(plan::Attachment::Pending) {
                let said =
                    look.attachments.get(id).and_then(|a| a.status.as_ref()?.attach_error.as_ref()?.message.clone());
                let waited = memory.waiting_for(&place);
                let slow = waited >= SLOW;
                if slow {
                    memory.wait_anew(&place);
                }
                again = sooner(again, Some(if slow { SLOW } else { SLOW - waited }));
                let reason = match said {
                    Some(message) if memory.is_news(&place, &message) => message,
                    None if slow => format!(
                        "timed out waiting for external-attacher of {} CSI driver to attach volume {}",
                        id.driver, id.handle
                    ),
                    _ => continue,
                };
                let event = Event::warning(
                    "FailedAttachVolume",
                    format!("AttachVolume.Attach failed for volume {volume:?} : {reason}"),
                );
                pods.iter().for_each(|p| record_on(&self.recorder, &**p, std::slice::from_ref(&event)));
            }
        }
        again
    }

    /// Who keeps a volume from being attached, as far as the owner of `p` may know.
    fn who_has(&self, id: &VolumeId, node: &str, p: &Pod) -> String {
        let elsewhere = |u: &&Arc<Pod>| pod::node_name(u) != node && !view::over(u);
        let users: Vec<Arc<Pod>> = self.users_of(id).iter().filter(elsewhere).cloned().collect();
        let (own, others): (Vec<_>, Vec<_>) = users.iter().partition(|u| u.metadata.namespace == p.metadata.namespace);
        let names: Vec<&str> = own.iter().map(|u| name(&***u)).collect();
        match (names.is_empty(), others.len()) {
            (true, 0) => {
                "Volume is already exclusively attached to one node and can't be attached to another".to_owned()
            }
            (true, n) => format!("Volume is already used by {n} pod(s) in different namespaces"),
            (false, 0) => format!("Volume is already used by pod(s) {}", names.join(", ")),
            (false, n) => {
                format!("Volume is already used by pod(s) {} and {n} pod(s) in different namespaces", names.join(", "))
            }
        }
    }

    async fn apply(&self, node: &str, look: &Look, plan: Plan) -> Outcome {
        if let Some(list) = &plan.report {
            self.report(node, look, list).await?;
        }
        let mut again = None;
        for d in &plan.detach {
            again = sooner(again, self.detach(node, look, d).await?);
        }
        for id in &plan.attach {
            self.attach(node, look, id).await?;
        }
        Ok(again)
    }

    async fn report(&self, node: &str, look: &Look, list: &[String]) -> anyhow::Result<()> {
        let entries: Vec<Value> = list.iter().map(|n| json!({"name": n, "devicePath": ""})).collect();
        let list_or_none = if entries.is_empty() { Value::Null } else { Value::Array(entries) };
        let patch = Patch::Merge(json!({"status": {"volumesAttached": list_or_none}}));
        let api: Api<Node> = Api::all(self.context.client());
        gone_is_fine(api.patch_status(node, &PatchParams::default(), &patch).await)?;
        let new = |id: &VolumeId| {
            let unique = id.unique_name();
            list.contains(&unique) && !look.snapshot.node.reported.contains(&unique)
        };
        for (volume, pods) in look.users.iter().filter(|(id, _)| new(id)).map(|(_, u)| u) {
            let note = format!("AttachVolume.Attach succeeded for volume {volume:?}");
            let event = Event::normal("SuccessfulAttachVolume", note);
            pods.iter().for_each(|p| record_on(&self.recorder, &**p, std::slice::from_ref(&event)));
        }
        Ok(())
    }

    /// Deletes an attachment, unless the kubelet began to use the volume meanwhile; then its Node's change wakes this one again.
    async fn detach(&self, node: &str, look: &Look, d: &Detach) -> Outcome {
        if !d.forced {
            let api: Api<Node> = Api::all(self.context.client());
            let live = api.get_opt(node).await?;
            if live.is_some_and(|n| in_use(&n).contains(&d.volume.unique_name())) {
                return Ok(Some(UNSEEN));
            }
        } else {
            tracing::warn!(node, volume = %d.volume.unique_name(), "detaching a volume that may still be in use: its node is lost");
        }
        let attachment = d.volume.attachment(node);
        let shown = look.attachments.get(&d.volume).map(|a| uid(&**a).to_owned());
        let is_shown = shown.is_some();
        let of = shown.or_else(|| self.memory.lock().asked.get(&attachment)?.uid.clone());
        if let Some(uid) = &of {
            self.memory.lock().deleted.insert(attachment.clone(), uid.clone());
        }
        let params = DeleteParams::default().preconditions(Preconditions { uid: of, resource_version: None });
        let api: Api<VolumeAttachment> = Api::all(self.context.client());
        let result = gone_is_fine(api.delete(&attachment, &params).await);
        let mut memory = self.memory.lock();
        match &result {
            Ok(()) if is_shown => drop(memory.asked.remove(&attachment)),
            // It goes when its driver has let go. No cache shows it yet, so this is all that keeps others from the volume.
            Ok(()) => memory.asked.get_mut(&attachment).into_iter().for_each(|asked| asked.going = true),
            // Nobody knows whether it was done: what was asked for may be there all the same.
            Err(_) => drop(memory.deleted.remove(&attachment)),
        }
        Ok(result.map(|()| None)?)
    }

    async fn attach(&self, node: &str, look: &Look, id: &VolumeId) -> anyhow::Result<()> {
        let Some((volume, _)) = look.users.get(id) else { return Ok(()) };
        let attachment = VolumeAttachment {
            metadata: ObjectMeta { name: Some(id.attachment(node)), ..ObjectMeta::default() },
            spec: VolumeAttachmentSpec {
                attacher: id.driver.clone(),
                node_name: node.to_owned(),
                source: VolumeAttachmentSource {
                    persistent_volume_name: Some(volume.clone()),
                    inline_volume_spec: None,
                },
            },
            status: None,
        };
        // Remembered first: an answer may be lost, and the volume must not be given to another node then.
        let asked = Asked { place: (node.to_owned(), id.clone()), at: Instant::now(), uid: None, going: false };
        self.memory.lock().asked.insert(id.attachment(node), asked);
        let api: Api<VolumeAttachment> = Api::all(self.context.client());
        match api.create(&PostParams::default(), &attachment).await {
            Ok(made) => {
                if let Some(asked) = self.memory.lock().asked.get_mut(&id.attachment(node)) {
                    asked.uid = Some(uid(&made).to_owned());
                }
                Ok(())
            }
            Err(e) if is_already_exists(&e) => Ok(()),
            Err(e) => {
                if matches!(&e, kube::Error::Api(s) if s.code < 500) {
                    self.memory.lock().asked.remove(&id.attachment(node));
                }
                Err(e.into())
            }
        }
    }

    /// All pods that use a volume.
    fn users_of(&self, id: &VolumeId) -> Vec<Arc<Pod>> {
        let volumes = self.volumes.by_index(BY_ID, &id.unique_name());
        let claims: BTreeSet<Key> = volumes.iter().filter_map(|v| claim_key(v)).collect();
        claims.iter().flat_map(|c| self.pods.by_index(BY_CLAIM, &c.to_string())).collect()
    }

    /// The volume that an attachment is for: by its PersistentVolume, or, when that is gone, by what its node says of itself.
    fn volume_of(&self, a: &VolumeAttachment, node: Option<&Node>) -> Option<VolumeId> {
        let volume = a.spec.source.persistent_volume_name.as_deref()?;
        match self.volumes.get(&Key::cluster(volume)) {
            // Attachments of other names are not of this controller's making.
            Some(v) => VolumeId::of(&v).filter(|id| id.attachment(&a.spec.node_name) == name(a)),
            None => place_of(a, node?),
        }
    }
}
