//! What every controller is given, and how it is wired to informers and its queue.

use std::fmt::Display;
use std::hash::Hash;
use std::sync::Arc;

use caravel_client::{Change, Cluster, Error, Informer, Key, Object, Recorder, WorkQueue, object_ref, run_workers};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::Resource;
use tokio_util::sync::CancellationToken;

use crate::Config;
use crate::common::pod::{self, node_index};
use crate::common::{
    BY_CONTROLLER, Event, Expectations, Outcome, controller_index, controller_of, deleting, is_namespace_terminating,
    labels, namespace, orphans_of, uid,
};

/// The cluster, the settings and the signal to stop; cheap to clone.
#[derive(Clone)]
pub struct Context {
    /// The cluster as the controllers see it.
    pub cluster: Cluster,
    /// Settings of all controllers.
    pub config: Arc<Config>,
    /// Cancelled when the controllers are to stop.
    pub stop: CancellationToken,
}

impl Context {
    /// The client for writes.
    pub fn client(&self) -> kube::Client {
        self.cluster.client()
    }

    /// The present by the wall clock.
    pub fn now(&self) -> Timestamp {
        (self.config.clock)()
    }

    /// An informer of pods, indexed by managing owner and by node.
    pub fn pods(&self) -> Informer<Pod> {
        let pods = self.cluster.informer::<Pod>();
        pods.add_index(BY_CONTROLLER, controller_index::<Pod>);
        pods.add_index(pod::BY_NODE, node_index);
        pods
    }

    /// An informer of a kind whose objects have managing owners, indexed by them.
    pub fn owned<K: Object>(&self) -> Informer<K> {
        let informer = self.cluster.informer::<K>();
        informer.add_index(BY_CONTROLLER, controller_index::<K>);
        informer
    }

    /// Works on a queue of keys until the controllers stop. `reconcile` reads the present and acts once.
    pub async fn work<T, F, Fut>(&self, queue: WorkQueue<T>, workers: usize, reconcile: F)
    where
        T: Eq + Hash + Clone + Display + Send + 'static,
        F: Fn(T) -> Fut,
        Fut: Future<Output = Outcome>,
    {
        let closing = queue.clone();
        let stop = self.stop.clone();
        let reconcile = &reconcile;
        let work = run_workers(queue, workers, move |key| {
            let running = reconcile(key);
            async move {
                match running.await {
                    // What is refused because its namespace goes away is never to be tried again.
                    Err(e) if e.downcast_ref().is_some_and(is_namespace_terminating) => Ok(None),
                    other => other.map_err(to_client_error),
                }
            }
        });
        tokio::pin!(work);
        tokio::select! {
            () = &mut work => {}
            () = stop.cancelled() => {
                closing.shut_down();
                // Reconciles in flight end by themselves; they are short.
                let _ = tokio::time::timeout(std::time::Duration::from_secs(5), work).await;
            }
        }
    }
}

/// Keeps the API's own refusals recognisable: a conflict is logged quietly.
fn to_client_error(error: anyhow::Error) -> Error {
    match error.downcast::<kube::Error>() {
        Ok(e) => Error::from(e),
        Err(e) => Error::Other(e),
    }
}

/// Records events about an object.
pub fn record<'a>(recorder: &Recorder, about: &ObjectReference, events: impl IntoIterator<Item = &'a Event>) {
    for e in events {
        recorder.event(about, e.type_, e.reason, "Reconciling", &e.note);
    }
}

/// As [`record`], about the object itself.
pub fn record_on<'a, K: Resource<DynamicType = ()>>(
    recorder: &Recorder,
    object: &K,
    events: impl IntoIterator<Item = &'a Event>,
) {
    record(recorder, &object_ref(object), events);
}

/// Enqueues every object of a kind when it changes.
pub fn enqueue_each<K: Object>(informer: &Informer<K>, queue: &WorkQueue<Key>) {
    let queue = queue.clone();
    informer.on_change(move |c| queue.add(Key::of(&**c.object())));
}

/// Enqueues the owner (of kind `O`) of every object of a kind that changes, the former owner too.
pub fn enqueue_owners<O, K>(informer: &Informer<K>, queue: &WorkQueue<Key>)
where
    O: Resource<DynamicType = ()>,
    K: Object,
{
    let queue = queue.clone();
    informer.on_change(move |c| {
        if let Change::Updated { old, .. } = c
            && let Some(key) = owner_key::<O, K>(old)
        {
            queue.add(key);
        }
        if let Some(key) = owner_key::<O, K>(c.object()) {
            queue.add(key);
        }
    });
}

/// The key of the managing owner when it is of kind `O`.
pub fn owner_key<O: Resource<DynamicType = ()>, K: Resource>(object: &K) -> Option<Key> {
    let owner = controller_of(object)?;
    let group = owner.api_version.split_once('/').map_or("", |(g, _)| g);
    (owner.kind == O::kind(&()) && group == O::group(&())).then(|| Key::new(namespace(object), owner.name.clone()))
}

/// The owner of kind `O` of an object, if it is known and is the very one (by uid).
pub fn owner_in<O: Object, K: Resource>(owners: &Informer<O>, object: &K) -> Option<Arc<O>> {
    let owner = owners.get(&owner_key::<O, K>(object)?)?;
    (uid(&*owner) == controller_of(object)?.uid).then_some(owner)
}

/// The objects that an owner may have to do with: those it manages and the unmanaged ones of its namespace.
pub fn candidates<K: Object>(informer: &Informer<K>, owner_uid: &str, namespace: &str) -> Vec<Arc<K>> {
    let mut all = informer.by_index(BY_CONTROLLER, owner_uid);
    all.extend(informer.by_index(BY_CONTROLLER, &orphans_of(namespace)));
    all
}

/// Wires the pods of owners of kind `O`: owners are enqueued when their pods change, unmanaged pods wake the owners that select them,
/// and expectations learn what was seen.
pub fn track_pods<O: Object>(
    pods: &Informer<Pod>,
    owners: &Informer<O>,
    queue: &WorkQueue<Key>,
    expectations: Option<Arc<Expectations>>,
    selects: fn(&O, &Pod) -> bool,
) {
    let (owners, queue) = (owners.clone(), queue.clone());
    let adopters = move |pod: &Pod| {
        let all = owners.list_in(namespace(pod));
        all.into_iter().filter(|o| selects(o, pod)).map(|o| Key::of(&*o)).collect::<Vec<_>>()
    };
    let observe = Observe::<O> { expectations, kind: std::marker::PhantomData };
    pods.on_change(move |c| {
        let mut wake: Vec<Key> = vec![];
        match c {
            Change::Added(p) => {
                observe.added(p);
                wake.extend(owner_key::<O, Pod>(p));
                if controller_of(&**p).is_none() && !deleting(&**p) {
                    wake.extend(adopters(p));
                }
            }
            Change::Updated { old, new } => {
                if uid(&**old) != uid(&**new) {
                    observe.gone(old);
                    observe.added(new);
                } else if deleting(&**new) {
                    observe.gone(new);
                }
                wake.extend(owner_key::<O, Pod>(new));
                let before = owner_key::<O, Pod>(old);
                if before.is_some() && before != wake.first().cloned() {
                    wake.extend(before);
                }
                let orphan = controller_of(&**new).is_none();
                if orphan && (controller_of(&**old).is_some() || labels(&**old) != labels(&**new)) {
                    wake.extend(adopters(new));
                }
            }
            Change::Deleted(p) => {
                observe.gone(p);
                wake.extend(owner_key::<O, Pod>(p));
            }
        }
        wake.into_iter().for_each(|key| queue.add(key));
    });
}

struct Observe<O> {
    expectations: Option<Arc<Expectations>>,
    kind: std::marker::PhantomData<fn(O)>,
}

impl<O: Object> Observe<O> {
    fn added(&self, pod: &Pod) {
        if let (Some(e), Some(key)) = (&self.expectations, owner_key::<O, Pod>(pod)) {
            e.creation_observed(&key);
            if deleting(pod) {
                e.deletion_observed(&key, uid(pod));
            }
        }
    }

    fn gone(&self, pod: &Pod) {
        if let (Some(e), Some(key)) = (&self.expectations, owner_key::<O, Pod>(pod)) {
            e.deletion_observed(&key, uid(pod));
        }
    }
}
