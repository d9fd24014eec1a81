//! One identity's view of the cluster, and the registry of its shared informers.

use crate::informer::{Informer, Object};
use crate::recorder::Recorder;
use parking_lot::Mutex;
use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::Arc;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Which objects of a kind an informer holds; empty means all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ListSelector {
    /// A label selector in query form (`app=web,tier!=db`).
    pub labels: Option<String>,
    /// A field selector in query form (`spec.nodeName=n1`).
    pub fields: Option<String>,
    /// Only this namespace.
    pub namespace: Option<String>,
}

impl ListSelector {
    /// Only objects that match the field selector, e.g. `spec.nodeName=n1`.
    pub fn fields(selector: impl Into<String>) -> Self {
        ListSelector { fields: Some(selector.into()), ..Default::default() }
    }

    /// Only objects that match the label selector.
    pub fn labels(selector: impl Into<String>) -> Self {
        ListSelector { labels: Some(selector.into()), ..Default::default() }
    }

    /// The field selector to send: every kind can be selected by `metadata.namespace`.
    pub(crate) fn field_query(&self) -> Option<String> {
        match (&self.fields, &self.namespace) {
            (None, None) => None,
            (Some(f), None) => Some(f.clone()),
            (None, Some(ns)) => Some(format!("metadata.namespace={ns}")),
            (Some(f), Some(ns)) => Some(format!("{f},metadata.namespace={ns}")),
        }
    }
}

/// The informers of one process, whoever asked for them first.
struct Informers {
    client: kube::Client,
    running: Mutex<HashMap<(TypeId, ListSelector), Box<dyn Any + Send + Sync>>>,
    stop: CancellationToken,
    _guard: DropGuard,
}

struct Inner {
    client: kube::Client,
    component: String,
    informers: Arc<Informers>,
    stop: CancellationToken,
    _guard: DropGuard,
}

/// How a component sees the cluster. Cheap to clone; clones share informers.
///
/// Informers stop when the last view that shares them is dropped.
#[derive(Clone)]
pub struct Cluster {
    inner: Arc<Inner>,
}

impl Cluster {
    /// A view through `client`; `component` names the owner in events and logs.
    pub fn new(client: kube::Client, component: &str) -> Self {
        let stop = CancellationToken::new();
        let informers =
            Informers { client: client.clone(), running: Mutex::default(), _guard: stop.clone().drop_guard(), stop };
        Self::with(client, component, Arc::new(informers))
    }

    /// The view of another component of the same process: writes and one-off reads go through `client`, informers are
    /// those of `self`. So an object is decoded and held once, however many components look at it; they must be
    /// allowed to see what `self` sees.
    pub fn shared_with(&self, client: kube::Client, component: &str) -> Self {
        Self::with(client, component, self.inner.informers.clone())
    }

    fn with(client: kube::Client, component: &str, informers: Arc<Informers>) -> Self {
        let stop = CancellationToken::new();
        let guard = stop.clone().drop_guard();
        let inner = Inner { client, component: component.to_owned(), informers, stop, _guard: guard };
        Cluster { inner: Arc::new(inner) }
    }

    /// The client for writes and one-off reads.
    pub fn client(&self) -> kube::Client {
        self.inner.client.clone()
    }

    /// The name given at construction.
    pub fn component(&self) -> &str {
        &self.inner.component
    }

    /// The informer over all objects of a kind, started at the first call.
    pub fn informer<K: Object>(&self) -> Informer<K> {
        self.informer_with(ListSelector::default())
    }

    /// The informer over the objects of a kind that `selector` picks, shared with every other caller
    /// that asked for the same kind and selector.
    pub fn informer_with<K: Object>(&self, selector: ListSelector) -> Informer<K> {
        let Informers { client, running, stop, .. } = &*self.inner.informers;
        let mut running = running.lock();
        let slot = running
            .entry((TypeId::of::<K>(), selector.clone()))
            .or_insert_with(|| Box::new(Informer::<K>::start(client.clone(), selector, stop.child_token())));
        slot.downcast_ref::<Informer<K>>()
            .cloned()
            .unwrap_or_else(|| unreachable!("the type is part of the slot's key"))
    }

    /// An event recorder that reports as `component`.
    pub fn recorder(&self, component: &str) -> Recorder {
        Recorder::start(self.client(), component, None, self.inner.stop.child_token())
    }

    /// The same for a component of a node: its events name the node, whatever the machine calls itself.
    pub fn recorder_on(&self, component: &str, node: &str) -> Recorder {
        Recorder::start(self.client(), component, Some(node), self.inner.stop.child_token())
    }
}
