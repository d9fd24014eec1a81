//! Finalizers that keep claims while pods use them, volumes while they are bound, and attribute classes while volumes have them.

use std::sync::Arc;

use caravel_client::{Change, Informer, Key, WorkQueue};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use kube::Api;
use kube::api::{ListParams, PostParams};

use crate::common::node_affinity::claim_of;
use crate::common::*;
use crate::context::{Context, enqueue_each};

const CLAIM: &str = "kubernetes.io/pvc-protection";
const VOLUME: &str = "kubernetes.io/pv-protection";
const CLASS: &str = "kubernetes.io/vac-protection";
/// Index of claims and volumes by the attribute classes that they name.
const BY_CLASS: &str = "attribute class";

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

/// Whether a pod holds a claim: it is bound to a node and exists, ended or not. (The kubelet starts no pod whose claim is being
/// deleted.) A claim that was made for the pod is let go when the kubelet is done with it: each would wait for the other to go first.
fn uses(p: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let done = deleting(p) && p.metadata.deletion_grace_period_seconds == Some(0);
    let holds = |v: &Volume| match (&v.persistent_volume_claim, &v.ephemeral) {
        (Some(c), _) => c.claim_name == name(claim),
        (None, Some(_)) => {
            !done && claim_of(name(p), v).as_deref() == Some(name(claim)) && controlled_by(claim, uid(p))
        }
        _ => false,
    };
    !pod::node_name(p).is_empty() && p.spec.iter().flat_map(|s| s.volumes.iter().flatten()).any(holds)
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
        let used =
            claim.as_ref().is_some_and(|c| deleting(&**c) && pods.list_in(&key.namespace).iter().any(|p| uses(p, c)));
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
                if live.list(&ListParams::default()).await?.items.iter().any(|p| uses(p, &claim)) {
                    return Ok(Some(UNMET));
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

/// The attribute classes that a claim names: asked for, in force, and on the way.
fn classes_of(c: &PersistentVolumeClaim) -> Vec<String> {
    let status = c.status.as_ref();
    let named = [
        c.spec.as_ref().and_then(|s| s.volume_attributes_class_name.clone()),
        status.and_then(|s| s.current_volume_attributes_class_name.clone()),
        status.and_then(|s| s.modify_volume_status.as_ref()?.target_volume_attributes_class_name.clone()),
    ];
    distinct(named.into_iter().flatten())
}

fn class_of(v: &PersistentVolume) -> Vec<String> {
    distinct(v.spec.as_ref().and_then(|s| s.volume_attributes_class_name.clone()))
}

fn distinct(names: impl IntoIterator<Item = String>) -> Vec<String> {
    let set: std::collections::BTreeSet<String> = names.into_iter().filter(|n| !n.is_empty()).collect();
    set.into_iter().collect()
}

/// Enqueues the classes that an object names no more.
fn enqueue_left<K: caravel_client::Object>(informer: &Informer<K>, queue: &WorkQueue<Key>, of: fn(&K) -> Vec<String>) {
    let queue = queue.clone();
    informer.on_change(move |c| {
        let left: Vec<String> = match c {
            Change::Added(_) => vec![],
            Change::Updated { old, new } => {
                let now = of(new);
                of(old).into_iter().filter(|n| !now.contains(n)).collect()
            }
            Change::Deleted(gone) => of(gone),
        };
        left.into_iter().for_each(|n| queue.add(Key::cluster(n)));
    });
}

/// Runs the protection of volume attribute classes (KEP-3751).
///
/// # Errors
/// Never by itself.
pub async fn run_classes(context: Context) -> anyhow::Result<()> {
    let classes: Informer<VolumeAttributesClass> = context.cluster.informer();
    let claims: Informer<PersistentVolumeClaim> = context.cluster.informer();
    let volumes: Informer<PersistentVolume> = context.cluster.informer();
    claims.add_index(BY_CLASS, classes_of);
    volumes.add_index(BY_CLASS, class_of);
    let queue = WorkQueue::new();
    enqueue_each(&classes, &queue);
    enqueue_left(&claims, &queue, classes_of);
    enqueue_left(&volumes, &queue, class_of);
    classes.synced().await;
    claims.synced().await;
    volumes.synced().await;
    let client = context.client();
    let reconcile = |key: Key| {
        let class = classes.get(&key);
        let used =
            !claims.by_index(BY_CLASS, &key.name).is_empty() || !volumes.by_index(BY_CLASS, &key.name).is_empty();
        let api: Api<VolumeAttributesClass> = Api::all(client.clone());
        async move {
            let Some(c) = class else { return Ok(None) };
            let decided = plan(has(&*c, CLASS), deleting(&*c), used);
            if decided != Plan::Nothing {
                let changed = carried_out(&*c, CLASS, &decided);
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
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::{Value, json};

    /// A pod that ended holds its claim until it is deleted; one that the kubelet is done with does not hold what was made for it.
    #[test]
    fn who_uses_a_claim() {
        let claim: PersistentVolumeClaim =
            serde_json::from_value(json!({"metadata": {"name": "p-v", "ownerReferences": [
            {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true}]}}))
            .unwrap();
        let named = json!({"name": "v", "persistentVolumeClaim": {"claimName": "p-v"}});
        let made = json!({"name": "v", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}});
        let other = json!({"name": "w", "persistentVolumeClaim": {"claimName": "x"}});
        let pod = |volume: &Value, node: &str, phase: &str, uid: &str, grace: Option<i64>| -> Pod {
            let deleted = grace.map(|_| "2026-01-01T00:00:00Z");
            serde_json::from_value(json!({"metadata": {"name": "p", "uid": uid, "deletionTimestamp": deleted,
                "deletionGracePeriodSeconds": grace}, "spec": {"nodeName": node, "containers": [], "volumes": [volume]},
                "status": {"phase": phase}}))
            .unwrap()
        };
        for (p, want) in [
            (pod(&named, "n", "Running", "u", None), true),
            (pod(&named, "n", "Succeeded", "u", None), true),
            (pod(&named, "", "Pending", "u", None), false),
            (pod(&other, "n", "Running", "u", None), false),
            (pod(&named, "n", "Failed", "u", Some(0)), true),
            (pod(&made, "n", "Running", "u", None), true),
            (pod(&made, "n", "Running", "u", Some(30)), true),
            (pod(&made, "n", "Failed", "u", Some(0)), false),
            (pod(&made, "n", "Running", "another", None), false),
        ] {
            assert_eq!(uses(&p, &claim), want, "{p:?}");
        }
    }

    #[test]
    fn classes_that_a_claim_names() {
        let c: PersistentVolumeClaim = serde_json::from_value(json!({"metadata": {"name": "c"},
            "spec": {"volumeAttributesClassName": "new"}, "status": {"currentVolumeAttributesClassName": "old",
                "modifyVolumeStatus": {"status": "InProgress", "targetVolumeAttributesClassName": "new"}}}))
        .unwrap();
        assert_eq!(classes_of(&c), ["new", "old"]);
        assert!(classes_of(&PersistentVolumeClaim::default()).is_empty());
    }

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
