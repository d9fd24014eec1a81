//! Eviction by taints of devices (KEP-5055): pods go that have devices with NoExecute taints which their claims do not tolerate, or
//! tolerate for a time only.
//!
//! Taints come from ResourceSlices. DeviceTaintRules are off upstream by default, and not followed here. Claims for extended resources
//! drive nobody out, upstream neither.

mod plan;

use std::collections::{BTreeSet, HashMap};

use caravel_client::{Change, Informer, Key, Recorder, WorkQueue};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceSlice};
use kube::Api;
use kube::api::{DeleteParams, Preconditions};
use parking_lot::Mutex;

use crate::common::*;
use crate::context::{Context, record_on};
use crate::node::disrupt;
use crate::resource_claim::{Named, named};
use plan::{Plan, plan, taints};

const WORKERS: usize = 8;
/// The index of claims by the devices that they have, as `driver/pool/device`.
const BY_DEVICE: &str = "device";
/// The index of slices by their pools, as `driver/pool`.
const BY_POOL: &str = "pool";
const REASON: &str = "DeviceTaintManagerEviction";

struct Controller {
    context: Context,
    pods: Informer<Pod>,
    claims: Informer<ResourceClaim>,
    slices: Informer<ResourceSlice>,
    recorder: Recorder,
    /// Pods that are told to go, by uid: who stays after all is told so.
    pending: Mutex<HashMap<Key, String>>,
}

fn by_device(claim: &ResourceClaim) -> Vec<String> {
    let devices = claim.status.iter().filter_map(|s| s.allocation.as_ref()?.devices.as_ref());
    let results = devices.flat_map(|d| d.results.iter().flatten());
    results.map(|r| format!("{}/{}/{}", r.driver, r.pool, r.device)).collect()
}

fn by_pool(slice: &ResourceSlice) -> Vec<String> {
    vec![format!("{}/{}", slice.spec.driver, slice.spec.pool.name)]
}

fn evicts(slice: &ResourceSlice) -> bool {
    let taints = slice.spec.devices.iter().flatten().flat_map(|d| d.taints.iter().flatten());
    taints.into_iter().any(|t| t.effect == "NoExecute")
}

fn devices(slice: &ResourceSlice) -> impl Iterator<Item = String> {
    slice.spec.devices.iter().flatten().map(|d| d.name.clone())
}

fn wake_users(queue: &WorkQueue<Key>, claim: &ResourceClaim) {
    let users = claim.status.iter().flat_map(|s| s.reserved_for.iter().flatten());
    users.for_each(|user| queue.add(Key::new(namespace(claim), user.name.clone())));
}

/// Whether a pod looks another way at its claims than before.
fn matters(change: &Change<Pod>) -> bool {
    let has = change.object().spec.as_ref().is_some_and(|s| s.resource_claims.as_ref().is_some_and(|c| !c.is_empty()));
    let made = |p: &Pod| p.status.as_ref().and_then(|s| s.resource_claim_statuses.clone());
    has && match change {
        Change::Updated { old, new } => pod::node_name(old) != pod::node_name(new) || made(old) != made(new),
        Change::Added(_) | Change::Deleted(_) => true,
    }
}

/// Runs the controller.
///
/// # Errors
/// Never by itself.
pub async fn run(context: Context) -> anyhow::Result<()> {
    let c = Controller {
        pods: context.pods(),
        claims: context.owned(),
        slices: context.cluster.informer(),
        recorder: context.cluster.recorder("device-taint-eviction"),
        pending: Mutex::default(),
        context,
    };
    c.claims.add_index(BY_DEVICE, by_device);
    c.slices.add_index(BY_POOL, by_pool);
    let queue = WorkQueue::new();
    let wake = queue.clone();
    c.pods.on_change(move |change| {
        if matters(change) {
            wake.add(Key::of(&**change.object()));
        }
    });
    let wake = queue.clone();
    c.claims.on_change(move |change| {
        if let Change::Updated { old, .. } = change {
            wake_users(&wake, old);
        }
        wake_users(&wake, change.object());
    });
    let (claims, slices, wake) = (c.claims.clone(), c.slices.clone(), queue.clone());
    c.slices.on_change(move |change| {
        let old = if let Change::Updated { old, .. } = change { Some(&**old) } else { None };
        let slice = &**change.object();
        for pool in by_pool(slice).into_iter().chain(old.into_iter().flat_map(by_pool)).collect::<BTreeSet<_>>() {
            let present = slices.by_index(BY_POOL, &pool);
            let all = || present.iter().map(|s| &**s).chain([slice]).chain(old);
            if !all().any(evicts) {
                continue;
            }
            for device in all().flat_map(devices).collect::<BTreeSet<_>>() {
                let users = claims.by_index(BY_DEVICE, &format!("{pool}/{device}"));
                users.iter().for_each(|claim| wake_users(&wake, claim));
            }
        }
    });
    c.slices.synced().await;
    c.claims.synced().await;
    c.pods.synced().await;
    c.context.work(queue, WORKERS, |key| c.reconcile(key)).await;
    Ok(())
}

impl Controller {
    fn plan(&self, pod: &Pod) -> Plan {
        let entries = pod.spec.iter().flat_map(|s| s.resource_claims.iter().flatten());
        let claims = entries.filter_map(|entry| {
            let (name, generated) = match named(pod, entry) {
                Named::Given(name) => (name, false),
                Named::Made(name, _) => (name, true),
                Named::NotYet(_) | Named::Unneeded => return None,
            };
            Some((self.claims.get(&Key::new(namespace(pod), name))?, generated))
        });
        let claims: Vec<_> = claims.collect();
        let held: Vec<_> = claims.iter().map(|(claim, generated)| (&**claim, *generated)).collect();
        plan(pod, &held, |result| {
            let slices = self.slices.by_index(BY_POOL, &format!("{}/{}", result.driver, result.pool));
            taints(&slices, &result.device)
        })
    }

    async fn reconcile(&self, key: Key) -> Outcome {
        let Some(p) = self.pods.get(&key).filter(|p| !deleting(&**p)) else {
            self.pending.lock().remove(&key);
            return Ok(None);
        };
        let at = match self.plan(&p) {
            Plan::Stay => {
                let told = self.pending.lock().remove(&key);
                if told.is_some_and(|told| told == uid(&*p)) {
                    record_on(&self.recorder, &*p, &[Event::normal(REASON, "Cancelling deletion".to_owned())]);
                }
                return Ok(None);
            }
            Plan::At(at) => at,
        };
        self.pending.lock().insert(key.clone(), uid(&*p).to_owned());
        if let Some(wait) = until(at, self.context.now()) {
            return Ok(Some(wait));
        }
        self.evict(&key, &p).await?;
        self.pending.lock().remove(&key);
        Ok(None)
    }

    async fn evict(&self, key: &Key, p: &Pod) -> anyhow::Result<()> {
        record_on(&self.recorder, p, &[Event::normal(REASON, "Marking for deletion".to_owned())]);
        let api: Api<Pod> = Api::namespaced(self.context.client(), &key.namespace);
        let why = ("DeletionByDeviceTaintManager", "Device Taint manager: deleting due to NoExecute taint");
        if !disrupt(&api, p, why.0, why.1, None, self.context.now()).await? {
            return Ok(());
        }
        let same = Preconditions { uid: p.metadata.uid.clone(), resource_version: None };
        gone_is_fine(api.delete(&key.name, &DeleteParams::default().preconditions(same)).await)?;
        Ok(())
    }
}
