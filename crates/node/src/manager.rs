//! The Pods of the node: one worker for each UID, from the API, from manifests, or left over in the runtime.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use caravel_client::Change;
use caravel_runtime::{self as rt, Event};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::admit;
use crate::manifests;
use crate::names;
use crate::pod::spec;
use crate::pod::status::Verdict;
use crate::shared::Shared;
use crate::source::{PodSource, PodView};
use crate::worker::{Handle, Wanted, Worker};

/// The Pods that hold resources of the node.
#[derive(Default)]
pub struct Admission {
    taken: Mutex<BTreeMap<String, Arc<Pod>>>,
}

impl Admission {
    /// Takes a Pod in, or says why not. `known` ones run already and are taken in anyway.
    pub fn enter(&self, shared: &Shared, pod: &Arc<Pod>, known: bool) -> Result<(), Verdict> {
        let mut taken = self.taken.lock();
        if !known {
            let others: Vec<Arc<Pod>> =
                taken.iter().filter(|(uid, _)| uid.as_str() != spec::uid(pod)).map(|(_, p)| p.clone()).collect();
            let node = shared.node.list().into_iter().next();
            admit::admit(
                node.as_deref(),
                &shared.machine.allocatable(&shared.config),
                &shared.config.allowed_unsafe_sysctls,
                &others,
                pod,
            )?;
        }
        taken.insert(spec::uid(pod).to_owned(), pod.clone());
        self.weigh(shared, &taken);
        Ok(())
    }

    /// Grants a Pod other resources, or says why not: `Infeasible` if it never fits the node, `Deferred` if not now.
    pub fn resize(&self, shared: &Shared, pod: &Arc<Pod>) -> Result<(), (&'static str, String)> {
        let mut taken = self.taken.lock();
        let allocatable = shared.machine.allocatable(&shared.config);
        admit::fits(&allocatable, &[], pod).map_err(|v| ("Infeasible", v.message))?;
        let others: Vec<Arc<Pod>> =
            taken.iter().filter(|(uid, _)| uid.as_str() != spec::uid(pod)).map(|(_, p)| p.clone()).collect();
        admit::fits(&allocatable, &others, pod).map_err(|v| ("Deferred", v.message))?;
        taken.insert(spec::uid(pod).to_owned(), pod.clone());
        self.weigh(shared, &taken);
        Ok(())
    }

    /// The Pod holds nothing any more.
    pub fn leave(&self, uid: &str) {
        self.taken.lock().remove(uid);
    }

    /// Burstable Pods together weigh as much as they request.
    fn weigh(&self, shared: &Shared, taken: &BTreeMap<String, Arc<Pod>>) {
        use crate::cgroup::{limits, qos};
        let burstable = taken.values().filter(|p| qos::class(p) == qos::Qos::Burstable);
        let milli: i64 = burstable.filter_map(|p| p.spec.as_ref()).map(|s| limits::pod_request(s, "cpu")).sum();
        if let Err(e) = shared.cgroups.set_burstable_shares(limits::shares(milli)) {
            tracing::debug!(error = %e, "cannot weigh the burstable pods");
        }
    }
}

/// All workers.
pub struct Manager {
    shared: Arc<Shared>,
    admission: Arc<Admission>,
    pods: Mutex<HashMap<String, Arc<Handle>>>,
    /// A mirror of a static Pod is gone or asked to go.
    pub mirror_changed: Notify,
    /// Cancelled once the manifests were read for the first time.
    pub manifests_read: CancellationToken,
}

impl Manager {
    /// No Pods yet.
    pub fn new(shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Manager {
            shared,
            admission: Arc::default(),
            pods: Mutex::default(),
            mirror_changed: Notify::new(),
            manifests_read: CancellationToken::new(),
        })
    }

    /// The API's news of a Pod of this node.
    pub fn changed(self: &Arc<Self>, change: &Change<Pod>) {
        let pod = change.object();
        if manifests::is_mirror(pod) {
            // Mirrors are no work of their own.
            self.mirror(pod, change);
            return;
        }
        match change {
            Change::Added(pod) | Change::Updated { new: pod, .. } => self.present(pod),
            Change::Deleted(pod) => self.gone(spec::uid(pod)),
        }
    }

    /// A mirror goes when it is deleted or when its Pod is gone; one that is still of use comes back.
    fn mirror(&self, mirror: &Arc<Pod>, change: &Change<Pod>) {
        let of =
            mirror.metadata.annotations.as_ref().and_then(|a| a.get(names::CONFIG_MIRROR)).cloned().unwrap_or_default();
        let gone = matches!(change, Change::Deleted(_));
        let handle = self.pods.lock().get(&of).cloned();
        let orphan = handle.is_none();
        if let Some(h) = handle.filter(|_| !gone) {
            *h.mirror.lock() = Some(mirror.clone());
            h.wake.notify_one();
        }
        if !gone && (orphan || manifests::concerns(change)) {
            let (client, mirror) = (self.shared.client.clone(), mirror.clone());
            tokio::spawn(async move { manifests::drop_mirror(&client, &mirror).await });
        }
        if manifests::concerns(change) {
            self.mirror_changed.notify_one();
        }
    }

    /// A Pod is wanted as it is here.
    pub fn present(self: &Arc<Self>, pod: &Arc<Pod>) {
        let mut pods = self.pods.lock();
        match pods.get(spec::uid(pod)) {
            Some(h) => h.want(|w| {
                w.pod = pod.clone();
                w.gone = false;
            }),
            None => self.start(&mut pods, Wanted { pod: pod.clone(), gone: false, verdict: None, grace: None }),
        }
    }

    /// A Pod is wanted no more.
    pub fn gone(&self, uid: &str) {
        let mut pods = self.pods.lock();
        let Some(h) = pods.get(uid) else { return };
        if h.done.load(Ordering::Acquire) {
            pods.remove(uid);
            return;
        }
        h.want(|w| w.gone = true);
    }

    /// The node wants a Pod to end with this verdict and grace period (seconds).
    pub fn evict(&self, uid: &str, verdict: Verdict, grace: Option<i64>) {
        if let Some(h) = self.pods.lock().get(uid) {
            h.want(|w| {
                w.verdict.get_or_insert(verdict);
                w.grace = grace;
            });
        }
    }

    /// Something a Pod refers to changed.
    pub fn hint(&self, uid: &str) {
        if let Some(h) = self.pods.lock().get(uid) {
            h.hint();
        }
    }

    /// Wakes every worker.
    pub fn wake_all(&self) {
        self.pods.lock().values().for_each(|h| h.wake.notify_one());
    }

    fn start(self: &Arc<Self>, pods: &mut HashMap<String, Arc<Handle>>, wanted: Wanted) {
        let uid = spec::uid(&wanted.pod).to_owned();
        let handle = Arc::new(Handle::new(wanted));
        handle.want(|_| {});
        pods.insert(uid.clone(), handle.clone());
        let worker = Worker::new(self.shared.clone(), handle, self.admission.clone());
        let me = Arc::downgrade(self);
        tokio::spawn(async move {
            let pod = worker.pod();
            worker.run().await;
            // A Pod the API no longer knows is forgotten at once; the others when the API says so.
            let Some(me) = me.upgrade() else { return };
            {
                let mut pods = me.pods.lock();
                if pods.get(&uid).is_some_and(|h| h.wanted.borrow().gone) {
                    pods.remove(&uid);
                }
            }
            if manifests::is_static(&pod) {
                manifests::remove_mirror(&me.shared.client, &pod).await;
            }
        });
    }

    /// Ends what the runtime holds of Pods that nobody wants, and removes what is left of them on disk. To be called
    /// when all wanted Pods are known.
    pub async fn reconcile_orphans(self: &Arc<Self>) -> rt::Result<()> {
        let sandboxes = self.shared.runtime.list_sandboxes(&rt::SandboxFilter::default()).await?;
        let containers = self.shared.runtime.list_containers(&rt::ContainerFilter::default()).await?;
        let mut orphans: HashMap<String, Pod> = HashMap::new();
        for s in &sandboxes {
            orphans.entry(s.metadata.uid.clone()).or_insert_with(|| from_labels(&s.labels, &s.annotations));
        }
        for c in &containers {
            let uid = c.labels.get(names::POD_UID).cloned().unwrap_or_default();
            orphans.entry(uid).or_insert_with(|| from_labels(&c.labels, &c.annotations));
        }
        let known = self.adopt(orphans);
        self.remove_remains(&known).await;
        // A Pod is among the workers before anything is prepared for it.
        self.shared.devices.release_others(|uid| self.pods.lock().contains_key(uid)).await;
        Ok(())
    }

    /// Starts workers that end Pods nobody knows; returns the UIDs of all Pods there are now.
    fn adopt(self: &Arc<Self>, orphans: HashMap<String, Pod>) -> HashSet<String> {
        let mut pods = self.pods.lock();
        for (uid, pod) in orphans {
            if uid.is_empty() || pods.contains_key(&uid) {
                continue;
            }
            tracing::info!(pod = spec::full_name(&pod), "ending a pod that the API does not know");
            self.start(&mut pods, Wanted { pod: Arc::new(pod), gone: true, verdict: None, grace: None });
        }
        pods.keys().cloned().collect()
    }

    /// Directories, mounts and cgroups of Pods that are neither wanted nor in the runtime.
    async fn remove_remains(&self, known: &HashSet<String>) {
        let dirs = std::fs::read_dir(self.shared.config.root_dir.join("pods")).into_iter().flatten().flatten();
        for uid in dirs.filter_map(|e| e.file_name().into_string().ok()).filter(|u| !known.contains(u)) {
            let dir = self.shared.config.pod_dir(&uid);
            let freed = self.shared.volumes.teardown(&uid, dir.clone()).await;
            if let Err(e) = freed.and_then(|()| std::fs::remove_dir_all(&dir)) {
                tracing::warn!(dir = %dir.display(), error = %e, "cannot remove what is left of a pod");
            }
        }
        for (uid, path) in self.shared.cgroups.pods() {
            if !known.contains(&uid)
                && let Err(e) = self.shared.cgroups.remove(&path)
            {
                tracing::warn!(path, error = %e, "cannot remove the cgroup of a pod that is gone");
            }
        }
    }

    /// Passes the runtime's events on to workers.
    pub async fn follow_runtime(self: Arc<Self>, stop: CancellationToken) {
        let mut events = self.shared.runtime.events();
        loop {
            let event = tokio::select! {
                e = events.next() => e,
                () = stop.cancelled() => return,
            };
            match event {
                None => return,
                Some(Event::Resync) => self.wake_all(),
                // Workers start their containers themselves and look right after.
                Some(Event::Started { .. }) => {}
                Some(Event::Exited { id, .. } | Event::Oom { id }) => {
                    let owner = self.shared.owners.lock().get(&id).cloned();
                    if let Some(h) = owner.and_then(|uid| self.pods.lock().get(&uid).cloned()) {
                        h.wake.notify_one();
                    }
                }
            }
        }
    }

    /// All handles, for the parts that look at all Pods.
    pub fn handles(&self) -> Vec<Arc<Handle>> {
        self.pods.lock().values().cloned().collect()
    }
}

/// A Pod as far as the runtime knows it.
fn from_labels(labels: &rt::StringMap, annotations: &rt::StringMap) -> Pod {
    let get = |k: &str| labels.get(k).cloned();
    Pod {
        metadata: ObjectMeta {
            name: get(names::POD_NAME),
            namespace: get(names::POD_NAMESPACE),
            uid: get(names::POD_UID),
            ..Default::default()
        },
        spec: Some(PodSpec {
            termination_grace_period_seconds: annotations.get(names::GRACE_PERIOD).and_then(|g| g.parse().ok()),
            host_network: Some(annotations.get(names::HOST_NETWORK).is_some_and(|v| v == "true")),
            ..Default::default()
        }),
        status: None,
    }
}

impl PodSource for Manager {
    fn pods(&self) -> Vec<PodView> {
        self.handles().iter().filter(|h| !h.done.load(Ordering::Acquire)).map(|h| h.view.lock().clone()).collect()
    }

    fn pod(&self, namespace: &str, name: &str) -> Option<PodView> {
        let all = self.handles();
        let mut named: Vec<PodView> = all
            .iter()
            .filter(|h| !h.done.load(Ordering::Acquire))
            .map(|h| h.view.lock().clone())
            .filter(|v| spec::namespace(&v.pod) == namespace && spec::name(&v.pod) == name)
            .collect();
        named.sort_by_key(|v| {
            (
                v.pod.metadata.deletion_timestamp.is_some(),
                std::cmp::Reverse(v.pod.metadata.creation_timestamp.as_ref().map(|t| t.0)),
            )
        });
        named.into_iter().next()
    }
}
