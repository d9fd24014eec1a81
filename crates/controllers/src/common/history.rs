//! ControllerRevisions: the recorded templates of StatefulSets and DaemonSets.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::Api;
use kube::api::PostParams;
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

/// A pod template as a revision's data: a strategic merge patch that replaces the template, which is how `kubectl rollout undo` applies it.
pub fn template_data(template: &PodTemplateSpec) -> Value {
    let mut value = serde_json::to_value(template).unwrap_or_default();
    if let Some(map) = value.as_object_mut() {
        map.insert("$patch".into(), "replace".into());
    }
    serde_json::json!({"spec": {"template": value}})
}

/// The pod template of a revision; `None` when the data is not a template.
pub fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut value = revision.data.as_ref()?.0.pointer("/spec/template")?.clone();
    value.as_object_mut()?.remove("$patch");
    serde_json::from_value(value).ok()
}

/// What is to be done so that the newest revision records the present template.
#[derive(Debug, PartialEq)]
pub enum Newest {
    /// It does.
    Latest(Arc<ControllerRevision>),
    /// An earlier one does and becomes the newest.
    Renumber(ControllerRevision),
    /// None does.
    Create(ControllerRevision),
}

/// Decides, from the owner's revisions, oldest first.
pub fn newest(
    sorted: &[Arc<ControllerRevision>],
    data: Value,
    make: impl FnOnce(Value, i64) -> ControllerRevision,
) -> Newest {
    let number = next_number(sorted);
    match sorted.iter().rposition(|r| same_data(r, &data)) {
        Some(i) if i + 1 == sorted.len() => Newest::Latest(sorted[i].clone()),
        Some(i) => Newest::Renumber(ControllerRevision { revision: number, ..(*sorted[i]).clone() }),
        None => Newest::Create(make(data, number)),
    }
}

/// Revisions beyond the limit that nothing lives from, oldest first.
pub fn surplus(
    sorted: &[Arc<ControllerRevision>],
    limit: usize,
    live: impl Fn(&ControllerRevision) -> bool,
) -> Vec<Arc<ControllerRevision>> {
    let dead: Vec<_> = sorted.iter().filter(|r| !live(r)).cloned().collect();
    let count = dead.len().saturating_sub(limit);
    dead.into_iter().take(count).collect()
}

/// Carries out [`newest`]'s answer. `Ok(None)` means that another revision took the name: the owner's collision count has to be raised.
///
/// # Errors
/// As the server answers.
pub async fn write_newest(
    api: &Api<ControllerRevision>,
    newest: Newest,
    owner_uid: &str,
) -> Result<Option<Arc<ControllerRevision>>, kube::Error> {
    match newest {
        Newest::Latest(r) => Ok(Some(r)),
        Newest::Renumber(r) => Ok(Some(Arc::new(api.replace(name(&r), &PostParams::default(), &r).await?))),
        Newest::Create(r) => match api.create(&PostParams::default(), &r).await {
            Ok(made) => Ok(Some(Arc::new(made))),
            Err(e) if super::is_already_exists(&e) => {
                let there = api.get(name(&r)).await?;
                let same = r.data.as_ref().is_some_and(|d| same_data(&there, &d.0));
                Ok((same && super::controlled_by(&there, owner_uid)).then(|| Arc::new(there)))
            }
            Err(e) => Err(e),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rollback_renumbers_and_the_surplus_goes() {
        let revision = |n: i64, text: &str| {
            let mut r = ControllerRevision { revision: n, data: Some(RawExtension(text.into())), ..Default::default() };
            r.metadata.name = Some(format!("r{n}"));
            Arc::new(r)
        };
        let all = [revision(1, "a"), revision(2, "b"), revision(3, "c")];
        let make = |data: Value, n: i64| ControllerRevision {
            revision: n,
            data: Some(RawExtension(data)),
            ..Default::default()
        };
        assert_eq!(newest(&all, "c".into(), make), Newest::Latest(all[2].clone()));
        assert!(matches!(newest(&all, "a".into(), make), Newest::Renumber(r) if r.revision == 4 && name(&r) == "r1"));
        assert!(matches!(newest(&all, "d".into(), make), Newest::Create(r) if r.revision == 4));
        let names: Vec<_> = surplus(&all, 1, |r| r.revision == 3).iter().map(|r| r.revision).collect();
        assert_eq!(names, [1]);
    }

    #[test]
    fn templates_survive() {
        let t = PodTemplateSpec { spec: Some(k8s_openapi::api::core::v1::PodSpec::default()), metadata: None };
        let r = ControllerRevision { data: Some(RawExtension(template_data(&t))), ..Default::default() };
        assert_eq!(template_of(&r), Some(t));
    }
}
