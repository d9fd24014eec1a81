//! Adoption and release: which objects belong to an owner by selector and managing reference.

use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, Patch, PatchParams};
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::{Selector, controller_of, deleting, is_not_found, labels, uid};

/// The outcome of looking through candidates for one owner.
#[derive(Debug)]
pub struct Claim<K> {
    /// Owned already and still selected.
    pub owned: Vec<Arc<K>>,
    /// Orphans that the owner may take once a live read confirms that it still exists.
    pub adopt: Vec<Arc<K>>,
    /// Owned but no longer selected: to be released.
    pub release: Vec<Arc<K>>,
}

/// Sorts candidates of the owner's namespace into owned, adoptable and to be released. An owner under deletion neither adopts nor releases;
/// an object under deletion is never adopted; what another controller manages is left alone.
pub fn claim<K: Resource>(
    owner_uid: &str,
    owner_deleting: bool,
    selector: &Selector,
    candidates: impl IntoIterator<Item = Arc<K>>,
) -> Claim<K> {
    let mut result = Claim { owned: vec![], adopt: vec![], release: vec![] };
    for object in candidates {
        let selected = selector.matches(labels(&*object));
        match controller_of(&*object) {
            Some(o) if o.uid == owner_uid && selected => result.owned.push(object),
            Some(o) if o.uid == owner_uid && !owner_deleting => result.release.push(object),
            None if selected && !owner_deleting && !deleting(&*object) => result.adopt.push(object),
            _ => {}
        }
    }
    result
}

/// Carries out a claim: confirms the owner by `owner_alive` (asked at most once, only when there is something to adopt), adopts, releases.
/// Returns everything that the owner then holds.
///
/// # Errors
/// When a write fails for another reason than that the object is gone.
pub async fn apply_claim<K, F>(
    api: &Api<K>,
    owner: &OwnerReference,
    result: Claim<K>,
    owner_alive: F,
) -> anyhow::Result<Vec<Arc<K>>>
where
    K: Resource + Clone + DeserializeOwned + Serialize + Debug,
    F: Future<Output = anyhow::Result<bool>>,
{
    let Claim { mut owned, adopt, release } = result;
    for object in release {
        release_one(api, &owner.uid, &*object).await?;
    }
    if !adopt.is_empty() {
        anyhow::ensure!(
            owner_alive.await?,
            "cannot adopt for {} {}: it was deleted or replaced meanwhile",
            owner.kind,
            owner.name
        );
        for object in adopt {
            let patch = json!({"metadata": {"ownerReferences": [owner], "uid": uid(&*object)}});
            match api.patch(&object.name_any(), &PatchParams::default(), &Patch::Strategic(patch)).await {
                Ok(adopted) => owned.push(Arc::new(adopted)),
                Err(e) if is_not_found(&e) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
    Ok(owned)
}

/// Takes our managing reference off one object. Gone, or replaced by another object of the name, is as good.
async fn release_one<K>(api: &Api<K>, owner_uid: &str, object: &K) -> anyhow::Result<()>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let patch = json!({"metadata": {
        "ownerReferences": [{"$patch": "delete", "uid": owner_uid}],
        "uid": uid(object),
    }});
    match api.patch(&object.name_any(), &PatchParams::default(), &Patch::Strategic(patch)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(s)) if s.is_not_found() || s.is_invalid() => Ok(()),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, Time};

    fn pod(name: &str, label: &str, owner: Option<&str>, deleted: bool) -> Arc<Pod> {
        Arc::new(Pod {
            metadata: ObjectMeta {
                name: Some(name.into()),
                labels: Some([("app".to_owned(), label.to_owned())].into()),
                owner_references: owner
                    .map(|u| vec![OwnerReference { uid: u.into(), controller: Some(true), ..Default::default() }]),
                deletion_timestamp: deleted.then_some(Time(jiff::Timestamp::UNIX_EPOCH)),
                ..Default::default()
            },
            ..Default::default()
        })
    }

    #[test]
    fn table() {
        let selector = Selector::new(Some(&LabelSelector {
            match_labels: Some([("app".to_owned(), "a".to_owned())].into()),
            match_expressions: None,
        }));
        // (label, owner, pod deleted, owner deleting, owned, adopt, release)
        let cases = [
            ("a", Some("me"), false, false, 1, 0, 0),
            ("a", Some("me"), true, false, 1, 0, 0),
            ("a", Some("other"), false, false, 0, 0, 0),
            ("b", Some("me"), false, false, 0, 0, 1),
            ("b", Some("me"), false, true, 0, 0, 0),
            ("a", None, false, false, 0, 1, 0),
            ("a", None, true, false, 0, 0, 0),
            ("a", None, false, true, 0, 0, 0),
            ("b", None, false, false, 0, 0, 0),
        ];
        for (i, (label, owner, gone, owner_gone, owned, adopt, release)) in cases.into_iter().enumerate() {
            let c = claim("me", owner_gone, &selector, [pod("p", label, owner, gone)]);
            assert_eq!((c.owned.len(), c.adopt.len(), c.release.len()), (owned, adopt, release), "case {i}");
        }
    }
}
