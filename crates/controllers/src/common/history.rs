//! ControllerRevisions: the recorded templates of StatefulSets and DaemonSets.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde_json::Value;

use super::hash::{fnv32a, safe_encode};
use super::{created, name};

/// The label that holds a revision's hash on revisions and on pods.
pub const HASH_LABEL: &str = "controller-revision-hash";

/// Sorts by revision number, then age, then name: oldest first.
pub fn sort(revisions: &mut [Arc<ControllerRevision>]) {
    revisions.sort_by(|a, b| {
        a.revision
            .cmp(&b.revision)
            .then_with(|| created(&**a).cmp(&created(&**b)))
            .then_with(|| name(&**a).cmp(name(&**b)))
    });
}

/// The number that a new revision gets.
pub fn next_number(revisions: &[Arc<ControllerRevision>]) -> i64 {
    revisions.iter().map(|r| r.revision).max().unwrap_or(0) + 1
}

/// The hash of a revision's data and a collision count.
pub fn hash_of(data: &Value, collision_count: i32) -> String {
    let mut bytes = data.to_string().into_bytes();
    bytes.extend_from_slice(&collision_count.to_le_bytes());
    safe_encode(&fnv32a(bytes).to_string())
}

/// The name of a revision; the owner's name is cut so that a label of it stays valid.
pub fn name_of(owner: &str, hash: &str) -> String {
    format!("{}-{hash}", &owner[..owner.len().min(223)])
}

/// A new revision of an owner.
pub fn new_revision(
    owner: OwnerReference,
    namespace: &str,
    meta: &ObjectMeta,
    data: Value,
    number: i64,
    collision_count: i32,
) -> ControllerRevision {
    let hash = hash_of(&data, collision_count);
    let mut labels = meta.labels.clone().unwrap_or_default();
    labels.insert(HASH_LABEL.to_owned(), hash.clone());
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(name_of(&owner.name, &hash)),
            namespace: Some(namespace.to_owned()),
            labels: Some(labels),
            annotations: meta.annotations.clone(),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(data)),
        revision: number,
    }
}

/// Whether two revisions record the same data.
pub fn same_data(revision: &ControllerRevision, data: &Value) -> bool {
    revision.data.as_ref().is_some_and(|d| d.0 == *data)
}

/// The hash label of a revision.
pub fn hash_label(revision: &ControllerRevision) -> &str {
    super::labels(revision).get(HASH_LABEL).map_or("", String::as_str)
}
