//! Finalizers that keep claims while pods use them and volumes while they are bound.

use std::sync::Arc;

use caravel_client::{Informer, Key, WorkQueue};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::Api;
use kube::api::{ListParams, PostParams};

use crate::common::node_affinity::claim_of;
use crate::common::*;
use crate::context::{Context, enqueue_each};

const CLAIM: &str = "kubernetes.io/pvc-protection";
const VOLUME: &str = "kubernetes.io/pv-protection";

/// What to do with the finalizer.
#[derive(Debug, PartialEq)]
enum Plan {
    Nothing,
    Add,
    Remove,
}

fn plan(has: bool, deleting: bool, in_use: bool) -> Plan {
    match (has, deleting) {
        (true, true) if !in_use => Plan::Remove,
        (false, false) => Plan::Add,
        _ => Plan::Nothing,
    }
}

fn has<K: kube::Resource>(object: &K, finalizer: &str) -> bool {
    object.meta().finalizers.iter().flatten().any(|f| f == finalizer)
}

/// The object with the finalizer added or taken away.
fn carried_out<K: kube::Resource + Clone>(object: &K, finalizer: &str, plan: &Plan) -> K {
    let mut changed = object.clone();
    let list = changed.meta_mut().finalizers.get_or_insert_default();
    list.retain(|f| f != finalizer);
    if *plan == Plan::Add {
        list.push(finalizer.into());
    }
    changed
}

/// Whether a pod holds a claim: it is bound to a node and has not ended. (The kubelet starts no pod whose claim is being deleted.)
fn uses(p: &Pod, claim: &str) -> bool {
    let volumes = p.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    let mut named = volumes.filter_map(|v| claim_of(name(p), v));
    !pod::finished(p) && !pod::node_name(p).is_empty() && named.any(|c| c == claim)
}

/// Runs the protection of claims.
///
/// # Errors
/// Never by itself.
pub async fn run_claims(context: Context) -> anyhow::Result<()> {
    let claims: Informer<PersistentVolumeClaim> = context.cluster.informer();
    let pods = context.pods();
    let queue = WorkQueue::new();
    enqueue_each(&claims, &queue);
    let (known, wake) = (claims.clone(), queue.clone());
    pods.on_change(move |c| {
        let p = c.object();
        for volume in p.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
            let Some(claim) = claim_of(name(&**p), volume) else { continue };
            let key = Key::new(namespace(&**p), claim);
            if known.get(&key).is_some_and(|c| deleting(&*c)) {
                wake.add(key);
            }
        }
    });
    claims.synced().await;
    pods.synced().await;
    let client = context.client();
    let reconcile = |key: Key| {
        let claim = claims.get(&key);
        let used = pods.list_in(&key.namespace).iter().any(|p| uses(p, &key.name));
        let client = client.clone();
        async move {
            let Some(claim) = claim else { return Ok(None) };
            let decided = plan(has(&*claim, CLAIM), deleting(&*claim), used);
            if decided == Plan::Nothing {
                return Ok(None);
            }
            if decided == Plan::Remove {
                // The cache may be behind: a pod bound just now must not lose its claim.
                let live: Api<Pod> = Api::namespaced(client.clone(), &key.namespace);
                if live.list(&ListParams::default()).await?.items.iter().any(|p| uses(p, &key.name)) {
                    return Ok(None);
                }
            }
            let api: Api<PersistentVolumeClaim> = Api::namespaced(client, &key.namespace);
            let changed = carried_out(&*claim, CLAIM, &decided);
            gone_is_fine(api.replace(&key.name, &PostParams::default(), &changed).await)?;
            Ok(None)
        }
    };
    context.work(queue, 2, reconcile).await;
    Ok(())
}

/// Runs the protection of volumes.
///
/// # Errors
/// Never by itself.
pub async fn run_volumes(context: Context) -> anyhow::Result<()> {
    let volumes: Informer<PersistentVolume> = context.cluster.informer();
    let queue = WorkQueue::new();
    enqueue_each(&volumes, &queue);
    volumes.synced().await;
    let client = context.client();
    let reconcile = |key: Key| {
        let volume: Option<Arc<PersistentVolume>> = volumes.get(&key);
        let api: Api<PersistentVolume> = Api::all(client.clone());
        async move {
            let Some(v) = volume else { return Ok(None) };
            let bound = v.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
            let decided = plan(has(&*v, VOLUME), deleting(&*v), bound);
            if decided != Plan::Nothing {
                let changed = carried_out(&*v, VOLUME, &decided);
                gone_is_fine(api.replace(&key.name, &PostParams::default(), &changed).await)?;
            }
            Ok(None)
        }
    };
    context.work(queue, 2, reconcile).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        for (has, deleting, in_use, want) in [
            (false, false, false, Plan::Add),
            (false, false, true, Plan::Add),
            (true, false, false, Plan::Nothing),
            (true, true, true, Plan::Nothing),
            (true, true, false, Plan::Remove),
            (false, true, false, Plan::Nothing),
        ] {
            assert_eq!(plan(has, deleting, in_use), want);
        }
    }
}
