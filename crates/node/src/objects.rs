//! The config maps and secrets that Pods of this node refer to. Nothing of them is kept: a Pod that needs one reads it,
//! and a watch of just that one object tells when to read again.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, ListParams, WatchEvent, WatchParams};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::container::env::Objects;

/// Reads at once for one Pod.
const READS: usize = 8;

/// A kind of object Pods refer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// A config map.
    ConfigMap,
    /// A secret.
    Secret,
}

/// One object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectRef {
    /// Its kind.
    pub kind: ObjectKind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ObjectRef {
    /// A config map.
    pub fn config_map(namespace: &str, name: &str) -> Self {
        ObjectRef { kind: ObjectKind::ConfigMap, namespace: namespace.into(), name: name.into() }
    }

    /// A secret.
    pub fn secret(namespace: &str, name: &str) -> Self {
        ObjectRef { kind: ObjectKind::Secret, namespace: namespace.into(), name: name.into() }
    }
}

/// Reads objects; one that does not exist is `None` in the result.
pub async fn read(
    client: &kube::Client,
    namespace: &str,
    maps: impl IntoIterator<Item = String>,
    secrets: impl IntoIterator<Item = String>,
) -> Result<Objects, String> {
    let maps = get_all::<ConfigMap>(client, namespace, maps.into_iter().collect());
    let secrets = get_all::<Secret>(client, namespace, secrets.into_iter().collect());
    let (config_maps, secrets) = tokio::try_join!(maps, secrets)?;
    Ok(Objects { config_maps, secrets })
}

async fn get_all<K>(
    client: &kube::Client,
    namespace: &str,
    names: BTreeSet<String>,
) -> Result<HashMap<String, Option<Arc<K>>>, String>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope> + DeserializeOwned + Clone + Debug,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let get = |name: String| {
        let api = api.clone();
        async move {
            let found = api
                .get_opt(&name)
                .await
                .map_err(|e| format!("cannot read {} {name}: {e}", K::kind(&()).to_lowercase()))?;
            Ok((name, found.map(Arc::new)))
        }
    };
    stream::iter(names.into_iter().filter(|n| !n.is_empty()).map(get)).buffer_unordered(READS).try_collect().await
}

type Hint = Arc<dyn Fn(&str) + Send + Sync>;

/// Watches of single objects, shared by the Pods that refer to them.
#[derive(Clone)]
pub struct Watches {
    inner: Arc<Inner>,
}

struct Inner {
    client: kube::Client,
    hint: Hint,
    held: Mutex<HashMap<ObjectRef, Watched>>,
}

struct Watched {
    pods: HashSet<String>,
    _stop: DropGuard,
}

impl Watches {
    /// `hint` is called with the UID of each Pod that refers to an object that changed.
    pub fn new(client: kube::Client, hint: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Watches { inner: Arc::new(Inner { client, hint: Arc::new(hint), held: Mutex::default() }) }
    }

    /// Says which objects a Pod refers to from now on.
    pub fn set(&self, uid: &str, wanted: BTreeSet<ObjectRef>) {
        let mut held = self.inner.held.lock();
        held.retain(|object, w| {
            if !wanted.contains(object) {
                w.pods.remove(uid);
            }
            !w.pods.is_empty()
        });
        for object in wanted {
            let watched = held.entry(object.clone()).or_insert_with(|| {
                let stop = CancellationToken::new();
                tokio::spawn(follow(Arc::downgrade(&self.inner), object, stop.clone()));
                Watched { pods: HashSet::new(), _stop: stop.drop_guard() }
            });
            watched.pods.insert(uid.to_owned());
        }
    }

    /// How many objects are watched.
    pub fn len(&self) -> usize {
        self.inner.held.lock().len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

async fn follow(inner: std::sync::Weak<Inner>, object: ObjectRef, stop: CancellationToken) {
    let work = async {
        let Some(client) = inner.upgrade().map(|i| i.client.clone()) else { return };
        let tell = || {
            let Some(inner) = inner.upgrade() else { return };
            let pods: Vec<String> =
                inner.held.lock().get(&object).map(|w| w.pods.iter().cloned().collect()).unwrap_or_default();
            pods.iter().for_each(|p| (inner.hint)(p));
        };
        match object.kind {
            ObjectKind::ConfigMap => {
                watch::<ConfigMap>(Api::namespaced(client, &object.namespace), &object.name, tell).await
            }
            ObjectKind::Secret => watch::<Secret>(Api::namespaced(client, &object.namespace), &object.name, tell).await,
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
}

/// List, then watch; list again when the watch cannot go on. Whoever asked reads the object after this started, so the
/// first list is told of only if the object changed since it was first seen here.
async fn watch<K>(api: Api<K>, name: &str, tell: impl Fn())
where
    K: kube::Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug,
{
    let selector = format!("metadata.name={name}");
    let mut seen: Option<Option<String>> = None;
    let mut delay = Duration::from_secs(1);
    loop {
        match api.list(&ListParams::default().fields(&selector)).await {
            Ok(list) => {
                delay = Duration::from_secs(1);
                let now = list.items.first().and_then(|o| o.meta().resource_version.clone());
                // The reader may have read before this list: the first one is told too.
                if seen.as_ref() != Some(&now) {
                    tell();
                }
                seen = Some(now);
                let version = list.metadata.resource_version.unwrap_or_default();
                seen = Some(stream_changes(&api, &selector, version, seen.flatten(), &tell).await);
            }
            Err(e) => {
                tracing::debug!(name, error = %e, "cannot watch an object; trying again");
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(Duration::from_secs(60));
            }
        }
    }
}

async fn stream_changes<K>(
    api: &Api<K>,
    selector: &str,
    mut version: String,
    mut seen: Option<String>,
    tell: &impl Fn(),
) -> Option<String>
where
    K: kube::Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug,
{
    loop {
        let params = WatchParams::default().fields(selector).timeout(290);
        let Ok(events) = api.watch(&params, &version).await else {
            tokio::time::sleep(Duration::from_secs(1)).await;
            return seen;
        };
        let mut events = std::pin::pin!(events);
        let mut progressed = false;
        while let Some(event) = events.next().await {
            progressed = true;
            match event {
                Ok(WatchEvent::Added(o) | WatchEvent::Modified(o)) => {
                    version = o.meta().resource_version.clone().unwrap_or(version);
                    seen = o.meta().resource_version.clone();
                    tell();
                }
                Ok(WatchEvent::Deleted(o)) => {
                    version = o.meta().resource_version.clone().unwrap_or(version);
                    seen = None;
                    tell();
                }
                Ok(WatchEvent::Bookmark(b)) => version = b.metadata.resource_version,
                Ok(WatchEvent::Error(_)) | Err(_) => return seen,
            }
        }
        if !progressed {
            // A server that ends watches at once must not be asked without pause.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}
