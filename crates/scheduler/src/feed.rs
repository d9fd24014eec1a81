//! Informers to [`Core`]: every change of an object goes in, under the lock, in order.

use std::sync::Arc;
use std::time::Instant;

use caravel_client::{Change, Cluster, Object};
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::resource::v1 as resource;
use k8s_openapi::api::storage::v1 as storage;
use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

use crate::core::Core;
use crate::devices::claim as device_claim;
use crate::devices::slice::Slice;
use crate::hints::Event;
use crate::model::{Labels, PodInfo, PodKey, Selector};
use crate::state::{Budget, Claim, Class, Volume};
use crate::sym::Sym;

/// [`Core`] with its lock, and how to wake whoever waits for it.
#[derive(Debug)]
pub struct Shared {
    core: Mutex<Core>,
    changed: Condvar,
    /// Told of every change of a claim.
    pub claims: Notify,
    /// Told of every change of a resource claim.
    pub device_claims: Notify,
}

impl Shared {
    /// Around a core.
    pub fn new(core: Core) -> Self {
        Self { core: Mutex::new(core), changed: Condvar::new(), claims: Notify::new(), device_claims: Notify::new() }
    }

    /// Changes the core, and wakes the deciding thread.
    pub fn with<T>(&self, f: impl FnOnce(&mut Core, Instant) -> T) -> T {
        let out = f(&mut self.core.lock(), Instant::now());
        self.changed.notify_one();
        out
    }

    /// The lock, for the deciding thread.
    pub fn lock(&self) -> parking_lot::MutexGuard<'_, Core> {
        self.core.lock()
    }

    /// Waits for a change, at most until `deadline`.
    pub fn wait(&self, core: &mut parking_lot::MutexGuard<'_, Core>, deadline: Option<Instant>) {
        match deadline {
            Some(at) => {
                self.changed.wait_until(core, at);
            }
            None => self.changed.wait(core),
        }
    }

    /// Wakes the deciding thread.
    pub fn nudge(&self) {
        let _core = self.core.lock();
        self.changed.notify_all();
    }
}

/// Feeds one kind; `f` gets the key and the newest state (`None` when it went).
async fn feed<K: Object>(
    cluster: &Cluster,
    shared: &Arc<Shared>,
    f: impl Fn(&mut Core, Instant, &PodKey, Option<&K>) + Send + Sync + 'static,
) {
    let informer = cluster.informer::<K>();
    informer.synced().await;
    let shared = shared.clone();
    informer.on_change(move |change: &Change<K>| {
        shared.with(|core, now| match change {
            Change::Added(object) | Change::Updated { new: object, .. } => {
                f(core, now, &Core::key_of(&**object), Some(object));
            }
            Change::Deleted(object) => f(core, now, &Core::key_of(&**object), None),
        });
    });
}

/// Starts all informers, and returns when everything that is there has gone in: pods last, so that nothing is decided on half a picture.
pub async fn start(cluster: &Cluster, shared: &Arc<Shared>) {
    feed::<core::Namespace>(cluster, shared, |core, now, key, namespace| {
        let labels = namespace.map(|n| Labels::new(n.metadata.labels.iter().flatten()));
        core.state.terms.set_namespace(Sym::of(&key.name), labels);
        core.happened(Event::Namespace, now);
    })
    .await;
    feed_others(cluster, shared).await;
    feed_volumes(cluster, shared).await;
    feed_devices(cluster, shared).await;
    feed::<core::Node>(cluster, shared, |core, now, key, node| match node {
        Some(node) => core.set_node(node, now),
        None => core.remove_node(&key.name, now),
    })
    .await;
    let pods = cluster.informer::<core::Pod>();
    pods.synced().await;
    let shared = shared.clone();
    pods.on_change(move |change: &Change<core::Pod>| match change {
        Change::Added(pod) => {
            let pod = Arc::new(PodInfo::new(pod));
            shared.with(|core, now| core.set_pod(None, pod, now));
        }
        Change::Updated { old, new } => {
            let (old, new) = (PodInfo::new(old), Arc::new(PodInfo::new(new)));
            shared.with(|core, now| core.set_pod(Some(&old), new, now));
        }
        Change::Deleted(pod) => {
            let pod = PodInfo::new(pod);
            shared.with(|core, now| core.remove_pod(&pod, now));
        }
    });
}

async fn feed_others(cluster: &Cluster, shared: &Arc<Shared>) {
    feed::<core::Service>(cluster, shared, |core, _, key, service| {
        let selector = service.and_then(|s| s.spec.as_ref()).and_then(|s| s.selector.as_ref());
        core.state.cluster.set_service(key, selector.filter(|s| !s.is_empty()).map(Selector::of_map));
    })
    .await;
    feed::<ReplicaSet>(cluster, shared, |core, _, key, owner| {
        let selector = owner.and_then(|o| o.spec.as_ref()).map(|s| Selector::of(Some(&s.selector)));
        core.state.cluster.set_owner("ReplicaSet", key.clone(), selector);
    })
    .await;
    feed::<StatefulSet>(cluster, shared, |core, _, key, owner| {
        let selector = owner.and_then(|o| o.spec.as_ref()).map(|s| Selector::of(Some(&s.selector)));
        core.state.cluster.set_owner("StatefulSet", key.clone(), selector);
    })
    .await;
    feed::<core::ReplicationController>(cluster, shared, |core, _, key, owner| {
        let selector = owner.and_then(|o| o.spec.as_ref()).and_then(|s| s.selector.as_ref()).map(Selector::of_map);
        core.state.cluster.set_owner("ReplicationController", key.clone(), selector);
    })
    .await;
    feed::<PodDisruptionBudget>(cluster, shared, |core, _, key, budget| {
        core.state.cluster.set_budget(key, budget.map(Budget::new));
    })
    .await;
}

async fn feed_devices(cluster: &Cluster, shared: &Arc<Shared>) {
    feed::<resource::DeviceClass>(cluster, shared, |core, now, key, class| {
        core.state.devices.set_class(&key.name, class.map(device_claim::Class::new));
        core.happened(Event::Devices, now);
    })
    .await;
    feed::<resource::ResourceSlice>(cluster, shared, |core, now, key, slice| {
        core.state.devices.set_slice(&key.name, slice.map(Slice::new));
        core.happened(Event::Devices, now);
    })
    .await;
    let told = shared.clone();
    feed::<resource::ResourceClaim>(cluster, shared, move |core, now, key, claim| {
        core.set_claim(key, claim.map(device_claim::Claim::new), now);
        told.device_claims.notify_waiters();
    })
    .await;
}

async fn feed_volumes(cluster: &Cluster, shared: &Arc<Shared>) {
    feed::<core::PersistentVolume>(cluster, shared, |core, now, key, volume| {
        core.state.volumes.set_volume(&key.name, volume.map(Volume::new));
        core.happened(Event::Volumes, now);
    })
    .await;
    let told = shared.clone();
    feed::<core::PersistentVolumeClaim>(cluster, shared, move |core, now, key, claim| {
        core.state.volumes.set_claim(key, claim.map(Claim::new));
        core.happened(Event::Volumes, now);
        told.claims.notify_waiters();
    })
    .await;
    feed::<storage::StorageClass>(cluster, shared, |core, now, key, class| {
        core.state.volumes.set_class(&key.name, class.map(Class::new));
        core.happened(Event::Volumes, now);
    })
    .await;
    feed::<storage::CSINode>(cluster, shared, |core, now, key, csi| {
        core.state.volumes.set_limits(&key.name, csi);
        core.happened(Event::Volumes, now);
    })
    .await;
}
