//! The claim for a pod's extended resources (KEP-5004): made before the pod is bound, and taken away when it is not.

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::resource::v1 as resource;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::json;

use caravel_client::status_code;

use crate::apply::Applier;
use crate::book::{ATTEMPTS, FINALIZER};
use crate::devices::claim::Claim;
use crate::devices::extended::{ANNOTATION, Variant};
use crate::model::PodInfo;

/// The claim for a pod; the server completes its name.
fn special(pod: &PodInfo, spec: &resource::ResourceClaimSpec) -> resource::ResourceClaim {
    let owner = OwnerReference {
        api_version: "v1".into(),
        kind: "Pod".into(),
        name: pod.key.name.to_string(),
        uid: pod.uid.to_string(),
        controller: Some(true),
        block_owner_deletion: None,
    };
    resource::ResourceClaim {
        metadata: ObjectMeta {
            namespace: Some(pod.key.namespace.to_string()),
            generate_name: Some(format!("{}-extended-resources-", pod.key.name)),
            annotations: Some([(ANNOTATION.to_owned(), "true".to_owned())].into()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: spec.clone(),
        status: None,
    }
}

impl Applier {
    /// Makes the claim for what a pod asks for of a node.
    pub(crate) async fn make_special(
        &self,
        pod: &PodInfo,
        variant: &Variant,
    ) -> Result<resource::ResourceClaim, kube::Error> {
        let claims = Api::namespaced(self.cluster.client(), &pod.key.namespace);
        claims.create(&PostParams::default(), &special(pod, &variant.spec)).await
    }

    /// Writes into a pod's status what its containers get of the claim.
    pub(crate) async fn note_special(&self, pod: &PodInfo, claim: &str, variant: &Variant) -> Result<(), kube::Error> {
        let status = json!({"resourceClaimName": claim, "requestMappings": variant.mappings});
        let patch = json!({"metadata": {"uid": &*pod.uid}, "status": {"extendedResourceClaimStatus": status}});
        let pods: Api<core::Pod> = Api::namespaced(self.cluster.client(), &pod.key.namespace);
        pods.patch_status(&pod.key.name, &PatchParams::default(), &Patch::Strategic(patch)).await.map(drop)
    }

    /// The pod could not be bound: its claim goes. If the binding's answer only was lost, the pod needs the claim.
    pub(crate) async fn unmake_special(&self, pod: &PodInfo, claim: &resource::ResourceClaim) {
        let pods: Api<core::Pod> = Api::namespaced(self.cluster.client(), &pod.key.namespace);
        let bound = match pods.get_opt(&pod.key.name).await {
            Ok(present) => present.is_some_and(|p| {
                p.metadata.uid.as_deref() == Some(&*pod.uid) && p.spec.is_some_and(|s| s.node_name.is_some())
            }),
            // Nobody knows: if the pod is not bound, its next attempt finds the claim and removes it.
            Err(_) => true,
        };
        if !bound {
            self.remove_special(&Claim::new(claim)).await;
        }
    }

    /// Takes a claim away that was made for extended resources. A failure is told of: the next attempt of its pod begins with this.
    pub(crate) async fn remove_special(&self, claim: &Claim) {
        if let Err(error) = self.try_to_remove(claim).await {
            tracing::warn!(claim = %claim.key, %error, "cannot remove a claim for extended resources");
        }
    }

    async fn try_to_remove(&self, claim: &Claim) -> Result<(), kube::Error> {
        let claims: Api<resource::ResourceClaim> = Api::namespaced(self.cluster.client(), &claim.key.namespace);
        let name = &*claim.key.name;
        for attempt in 0..=ATTEMPTS {
            let Some(mut present) = claims.get_opt(name).await? else { return Ok(()) };
            if present.metadata.uid.as_deref() != Some(&*claim.uid) {
                return Ok(());
            }
            // Its protection is for pods that use it; this one never ran.
            let finalizers = present.metadata.finalizers.get_or_insert_default();
            if !finalizers.iter().any(|f| f == FINALIZER) {
                break;
            }
            finalizers.retain(|f| f != FINALIZER);
            match claims.replace(name, &PostParams::default(), &present).await {
                Ok(_) => break,
                Err(error) if status_code(&error) == Some(409) && attempt < ATTEMPTS => {}
                Err(error) if status_code(&error) == Some(404) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        let same = Preconditions { uid: Some(claim.uid.to_string()), resource_version: None };
        match claims.delete(name, &DeleteParams::default().preconditions(same)).await {
            Err(error) if !matches!(status_code(&error), Some(404 | 409)) => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::testing::pod;

    #[test]
    fn the_claim_is_its_pods() {
        let claim = special(&pod("p").info(), &resource::ResourceClaimSpec::default());
        assert_eq!(claim.metadata.generate_name.as_deref(), Some("p-extended-resources-"));
        let known = Claim::new(&claim);
        assert!(known.special);
        assert_eq!(known.owner.as_deref(), Some("uid-p"));
    }
}
