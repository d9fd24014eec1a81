//! Makes the claims of pods' generic ephemeral volumes (KEP-1698); they are owned by the pod and go with it.

use caravel_client::{Informer, Key, WorkQueue};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::PostParams;

use crate::common::node_affinity::claim_of;
use crate::common::*;
use crate::context::{Context, enqueue_owners, record_on};

/// The claims that a pod lacks, or the name of one that belongs to somebody else.
fn plan(p: &Pod, there: impl Fn(&str) -> Option<bool>) -> Result<Vec<PersistentVolumeClaim>, String> {
    let mut missing = vec![];
    if deleting(p) || pod::finished(p) {
        return Ok(missing);
    }
    for volume in p.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
        let Some(template) = volume.ephemeral.as_ref().and_then(|e| e.volume_claim_template.as_ref()) else { continue };
        let claim = claim_of(name(p), volume).unwrap_or_default();
        match there(&claim) {
            Some(true) => {}
            Some(false) => return Err(claim),
            None => {
                let meta = template.metadata.clone().unwrap_or_default();
                missing.push(PersistentVolumeClaim {
                    metadata: ObjectMeta {
                        name: Some(claim),
                        namespace: p.metadata.namespace.clone(),
                        labels: meta.labels,
                        annotations: meta.annotations,
                        owner_references: Some(vec![owner_ref(p)]),
                        ..ObjectMeta::default()
                    },
                    spec: Some(template.spec.clone()),
                    status: None,
                });
            }
        }
    }
    Ok(missing)
}

/// Runs the controller.
///
/// # Errors
/// Never by itself.
pub async fn run(context: Context) -> anyhow::Result<()> {
    let pods = context.pods();
    let claims: Informer<PersistentVolumeClaim> = context.cluster.informer();
    let recorder = context.cluster.recorder("ephemeral_volume");
    let queue = WorkQueue::new();
    let wake = queue.clone();
    pods.on_change(move |c| {
        let p = c.object();
        if p.spec.iter().flat_map(|s| s.volumes.iter().flatten()).any(|v| v.ephemeral.is_some()) {
            wake.add(Key::of(&**p));
        }
    });
    enqueue_owners::<Pod, _>(&claims, &queue);
    pods.synced().await;
    claims.synced().await;
    let client = context.client();
    let reconcile = |key: Key| {
        let p = pods.get(&key);
        let decided = p.as_ref().map(|p| {
            let owned =
                |c: &str| claims.get(&Key::new(key.namespace.clone(), c)).map(|c| controlled_by(&*c, uid(&**p)));
            plan(p, owned)
        });
        let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &key.namespace);
        let recorder = recorder.clone();
        async move {
            let (Some(p), Some(decided)) = (p, decided) else { return Ok(None) };
            match decided {
                Err(claim) => {
                    let note =
                        format!("PVC {}/{claim} was not created for pod {key} (pod is not owner)", key.namespace);
                    record_on(&recorder, &*p, &[Event::warning("EphemeralVolumeCreationFailed", note.clone())]);
                    anyhow::bail!(note);
                }
                Ok(missing) => {
                    for claim in missing {
                        match api.create(&PostParams::default(), &claim).await {
                            Err(e) if is_namespace_terminating(&e) => return Ok(None),
                            other => drop(other?),
                        }
                    }
                    Ok(None)
                }
            }
        }
    };
    context.work(queue, 4, reconcile).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{EphemeralVolumeSource, PersistentVolumeClaimTemplate, Volume};

    #[test]
    fn makes_what_is_missing_and_takes_nothing_of_others() {
        let mut p = crate::common::pod::testing::pod("p", "", "Pending", None, 0);
        p.spec.get_or_insert_default().volumes = Some(vec![Volume {
            name: "v".into(),
            ephemeral: Some(EphemeralVolumeSource {
                volume_claim_template: Some(PersistentVolumeClaimTemplate::default()),
            }),
            ..Default::default()
        }]);
        let made = plan(&p, |_| None).unwrap_or_default();
        assert_eq!((made.len(), name(&made[0])), (1, "p-v"));
        assert_eq!(plan(&p, |_| Some(true)), Ok(vec![]));
        assert_eq!(plan(&p, |_| Some(false)), Err("p-v".into()));
    }
}
