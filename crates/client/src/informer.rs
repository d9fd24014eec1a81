//! One list and watch of a kind, shared by everybody in the process.
//!
//! The protocol: list, then watch from the list's revision; when the watch ends, watch on from the last
//! revision seen; when the server says that revision is gone (410), list again and report the
//! difference. Handlers therefore see every object's latest state, though not every state between.

use crate::cluster::ListSelector;
use crate::key::Key;
use crate::line;
use crate::store::Store;
use crate::wire::{self, NoEvent, Unreadable};
use http::{HeaderValue, header::ACCEPT_ENCODING};
use k8s_openapi::serde::de::DeserializeOwned;
use kube::api::{ListParams, Request, WatchEvent, WatchParams};
use parking_lot::{Mutex, RwLock};
use std::collections::HashSet;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A kind that an informer can hold.
pub trait Object: kube::Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + Send + Sync + 'static {}
impl<K> Object for K where K: kube::Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + Send + Sync + 'static
{}

/// What happened to one object, as far as this informer has seen.
#[derive(Clone, Debug)]
pub enum Change<K> {
    /// It appeared (or was there when the handler registered).
    Added(Arc<K>),
    /// It differs from what was held before.
    Updated { old: Arc<K>, new: Arc<K> },
    /// It is gone, or no longer matches the selector; the last state held.
    Deleted(Arc<K>),
}

impl<K> Change<K> {
    /// The newest state known of the object.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Change::Added(o) | Change::Deleted(o) | Change::Updated { new: o, .. } => o,
        }
    }
}

type Handler<K> = Box<dyn Fn(&Change<K>) + Send + Sync>;

struct Shared<K> {
    store: RwLock<Store<K>>,
    /// Held while a change is applied and told, so that handlers see changes in order and a handler that
    /// registers meanwhile neither misses nor repeats one.
    handlers: Mutex<Vec<Handler<K>>>,
    synced: watch::Sender<bool>,
}

/// A live, indexed copy of the objects of one kind. Cheap to clone.
pub struct Informer<K> {
    shared: Arc<Shared<K>>,
}

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Informer { shared: self.shared.clone() }
    }
}

impl<K: Object> Informer<K> {
    pub(crate) fn start(client: kube::Client, selector: ListSelector, stop: CancellationToken) -> Self {
        let shared = Arc::new(Shared {
            store: RwLock::default(),
            handlers: Mutex::default(),
            synced: watch::Sender::new(false),
        });
        let request = Request::new(K::url_path(&(), None));
        let task = Reflector { client, request, selector, shared: shared.clone() };
        tokio::spawn(async move {
            tokio::select! { _ = stop.cancelled() => {}, _ = task.run() => {} }
        });
        Informer { shared }
    }

    /// Returns once the first complete list has been applied.
    pub async fn synced(&self) {
        let mut synced = self.shared.synced.subscribe();
        // The sender lives in `self.shared`, so waiting cannot fail.
        let _ = synced.wait_for(|s| *s).await;
    }

    /// Whether the first complete list has been applied.
    pub fn is_synced(&self) -> bool {
        *self.shared.synced.borrow()
    }

    /// The object, if it is held.
    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.shared.store.read().get(key)
    }

    /// All objects, ordered by namespace and name.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.shared.store.read().list()
    }

    /// The objects of one namespace, ordered by name.
    pub fn list_in(&self, namespace: &str) -> Vec<Arc<K>> {
        self.shared.store.read().list_in(namespace)
    }

    /// How many objects are held.
    pub fn len(&self) -> usize {
        self.shared.store.read().len()
    }

    /// Whether no object is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keeps an index: `of` gives the values under which an object is found. Adding the same one again does nothing.
    ///
    /// # Panics
    /// When another function has the name for this kind: components share informers, and one would find what it does not
    /// look for.
    pub fn add_index(&self, name: &'static str, of: impl Fn(&K) -> Vec<String> + Send + Sync + 'static) {
        self.shared.store.write().add_index(name, of);
    }

    /// The objects that the index `name` files under `value`; none if there is no such index.
    pub fn by_index(&self, name: &'static str, value: &str) -> Vec<Arc<K>> {
        self.shared.store.read().by_index(name, value)
    }

    /// Whether the index `name` files any object under `value`, without looking at them.
    pub fn any_by_index(&self, name: &'static str, value: &str) -> bool {
        self.shared.store.read().any_by_index(name, value)
    }

    /// Calls `f` for every change from now on, in order, after it has been applied; the objects already
    /// held are reported as added first. `f` runs on the informer's task: it must be quick (enqueue a
    /// key) and must not register handlers itself.
    pub fn on_change(&self, f: impl Fn(&Change<K>) + Send + Sync + 'static) {
        let mut handlers = self.shared.handlers.lock();
        for object in self.list() {
            f(&Change::Added(object));
        }
        handlers.push(Box::new(f));
    }
}

impl<K: Object> Shared<K> {
    fn upsert(&self, object: K) {
        let key = Key::of(&object);
        let new = Arc::new(object);
        let handlers = self.handlers.lock();
        let old = self.store.write().insert(key, new.clone());
        let change = match old {
            None => Change::Added(new),
            Some(old) if old.meta().resource_version == new.meta().resource_version => return,
            Some(old) => Change::Updated { old, new },
        };
        handlers.iter().for_each(|h| h(&change));
    }

    fn remove(&self, key: &Key, last: Option<K>) {
        let handlers = self.handlers.lock();
        let Some(held) = self.store.write().remove(key) else { return };
        let change = Change::Deleted(last.map_or(held, Arc::new));
        handlers.iter().for_each(|h| h(&change));
    }

    /// Makes the held set equal to a complete list; of `unreadable` ones, which are there, the last state held stays.
    fn replace(&self, items: Vec<K>, unreadable: Vec<Key>) {
        let present: HashSet<Key> = items.iter().map(Key::of).chain(unreadable).collect();
        let gone: Vec<Key> = self.store.read().keys().into_iter().filter(|k| !present.contains(k)).collect();
        for key in gone {
            self.remove(&key, None);
        }
        for item in items {
            self.upsert(item);
        }
        self.synced.send_replace(true);
    }
}

/// Why a watch ended.
enum Ended {
    /// The server closed it in good order; go on from the last revision.
    Closed,
    /// The revision is no longer served; list again.
    Expired,
    /// Something failed; wait, then go on from the last revision.
    Failed,
}

struct Reflector<K> {
    client: kube::Client,
    request: Request,
    selector: ListSelector,
    shared: Arc<Shared<K>>,
}

impl<K: Object> Reflector<K> {
    async fn run(self) {
        let mut backoff = Backoff::default();
        loop {
            let mut revision = match self.list().await {
                Ok(revision) => revision,
                Err(error) => {
                    tracing::debug!(kind = %K::kind(&()), %error, "list failed; trying again");
                    tokio::time::sleep(backoff.next()).await;
                    continue;
                }
            };
            loop {
                match self.watch(&mut revision, &mut backoff).await {
                    Ended::Closed => {}
                    Ended::Expired => break,
                    Ended::Failed => tokio::time::sleep(backoff.next()).await,
                }
            }
        }
    }

    async fn list(&self) -> Result<String, kube::Error> {
        let params = ListParams {
            label_selector: self.selector.labels.clone(),
            field_selector: self.selector.field_query(),
            ..Default::default()
        };
        let request = self.request.list(&params).map_err(kube::Error::BuildRequest)?;
        let text = self.client.request_text(request).await?;
        let list = wire::list::<K>(&text).map_err(kube::Error::SerdeError)?;
        list.unreadable.iter().for_each(warn::<K>);
        self.shared.replace(list.items, list.unreadable.into_iter().map(|u| u.key).collect());
        Ok(list.revision)
    }

    async fn watch(&self, revision: &mut String, backoff: &mut Backoff) -> Ended {
        // Spread the ends of watches so that a thousand of them do not return together.
        let params = WatchParams {
            label_selector: self.selector.labels.clone(),
            field_selector: self.selector.field_query(),
            timeout: Some(rand::random_range(240..290)),
            bookmarks: true,
            ..Default::default()
        };
        let events = match self.request.watch(&params, revision).map_err(kube::Error::BuildRequest) {
            Ok(mut request) => {
                // A compressed event would wait for the next one to fill its block.
                request.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
                self.client.request_stream(request).await
            }
            Err(error) => Err(error),
        };
        let mut events = match events {
            Ok(stream) => std::pin::pin!(stream),
            Err(error) => return self.ended(&error),
        };
        let mut line = String::new();
        loop {
            match line::next(&mut events, &mut line, line::MAX_EVENT).await {
                Ok(true) => {}
                Ok(false) => return Ended::Closed,
                Err(error) => return self.ended(&kube::Error::ReadEvents(error)),
            }
            match wire::event::<K>(&line) {
                Ok(WatchEvent::Added(o) | WatchEvent::Modified(o)) => {
                    keep_revision(revision, &o);
                    self.shared.upsert(o);
                }
                Ok(WatchEvent::Deleted(o)) => {
                    keep_revision(revision, &o);
                    self.shared.remove(&Key::of(&o), Some(o));
                }
                Ok(WatchEvent::Bookmark(b)) => *revision = b.metadata.resource_version,
                Ok(WatchEvent::Error(status)) | Err(NoEvent::Status(status)) => {
                    return self.ended(&kube::Error::Api(status));
                }
                Err(NoEvent::Unreadable { object, deleted }) => {
                    warn::<K>(&object);
                    if deleted {
                        self.shared.remove(&object.key, None);
                    }
                    if let Some(seen) = object.revision {
                        *revision = seen;
                    }
                }
                // The last line of a stream that was cut.
                Err(NoEvent::Text(error)) if error.is_eof() => return Ended::Closed,
                Err(NoEvent::Text(error)) => return self.ended(&kube::Error::SerdeError(error)),
            }
            backoff.reset();
        }
    }

    fn ended(&self, error: &kube::Error) -> Ended {
        if crate::status_code(error) == Some(410) {
            return Ended::Expired;
        }
        tracing::debug!(kind = %K::kind(&()), %error, "watch failed; going on from the last revision");
        Ended::Failed
    }
}

/// An object that cannot be read is somebody's mistake that its writer should learn of; the last state held stays.
fn warn<K: kube::Resource<DynamicType = ()>>(object: &Unreadable) {
    let Unreadable { key, error, .. } = object;
    tracing::warn!(kind = %K::kind(&()), %key, %error, "cannot read an object; going on without it");
}

fn keep_revision<K: kube::Resource>(revision: &mut String, object: &K) {
    if let Some(seen) = &object.meta().resource_version {
        revision.clone_from(seen);
    }
}

/// Doubling waits from 50 ms to 15 s with jitter.
#[derive(Default)]
struct Backoff {
    failures: u32,
}

impl Backoff {
    fn next(&mut self) -> Duration {
        let base = 50u64 << self.failures.min(8);
        self.failures += 1;
        Duration::from_millis(base.min(15_000) * rand::random_range(80..120) / 100)
    }

    fn reset(&mut self) {
        self.failures = 0;
    }
}
