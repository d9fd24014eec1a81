//! Static Pods: manifests in a directory run without the API. For each a mirror Pod in the API shows what runs; deleting
//! the mirror changes nothing, removing the file ends the Pod.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use caravel_client::{Change, status_code};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use nix::sys::inotify::AddWatchFlags;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use crate::inotify::Inotify;
use crate::manager::Manager;
use crate::names;
use crate::pod::spec;
use crate::shared::Shared;

/// A manifest at most, bytes.
const MAX_FILE: u64 = 1 << 20;

/// A manifest is written, or moved here or away, or removed.
const CHANGES: AddWatchFlags = AddWatchFlags::IN_CLOSE_WRITE
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_MOVED_FROM)
    .union(AddWatchFlags::IN_DELETE);

/// A Pod from a manifest: its name carries the node's, its UID follows from its content.
pub fn pod(text: &str, node: &str) -> Result<Pod, String> {
    let mut value: Value = serde_yaml::from_str(text).map_err(|e| format!("it is neither YAML nor JSON: {e}"))?;
    if (value["apiVersion"].as_str(), value["kind"].as_str()) != (Some("v1"), Some("Pod")) {
        return Err("it is not a v1 Pod".into());
    }
    let name =
        value["metadata"]["name"].as_str().filter(|n| !n.is_empty()).ok_or("metadata.name is missing")?.to_owned();
    let digest = Sha256::new().chain_update(text).chain_update(node).finalize();
    let hash: String = digest.iter().take(16).map(|b| format!("{b:02x}")).collect();
    caravel_api::defaults::apply_to("", "Pod", &mut value);
    if value["metadata"]["namespace"].as_str().unwrap_or_default().is_empty() {
        value["metadata"]["namespace"] = json!("default");
    }
    value["metadata"]["name"] = json!(format!("{name}-{}", node.to_lowercase()));
    value["metadata"]["uid"] = json!(hash);
    for (key, text) in [(names::CONFIG_HASH, hash.as_str()), (names::CONFIG_SOURCE, "file")] {
        value["metadata"]["annotations"][key] = json!(text);
    }
    value["spec"]["nodeName"] = json!(node);
    let tolerations = json!({"operator": "Exists", "effect": "NoExecute"});
    match value["spec"]["tolerations"].as_array_mut() {
        Some(list) => list.push(tolerations),
        None => value["spec"]["tolerations"] = json!([tolerations]),
    }
    let pod: Pod = serde_json::from_value(value).map_err(|e| e.to_string())?;
    let refers = pod.spec.as_ref().is_some_and(|s| s.service_account_name.as_deref().is_some_and(|n| !n.is_empty()));
    if refers { Err("a static pod cannot refer to a service account".into()) } else { Ok(pod) }
}

/// All manifests of a directory by file. Files that cannot be read as a Pod are told of and left out.
fn read(dir: &Path, node: &str) -> BTreeMap<PathBuf, Arc<Pod>> {
    let mut found = BTreeMap::new();
    for path in std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()) {
        let hidden = path.file_name().and_then(|n| n.to_str()).is_none_or(|n| n.starts_with('.'));
        let fits = std::fs::metadata(&path).is_ok_and(|m| m.is_file() && m.len() <= MAX_FILE);
        if hidden || !fits {
            continue;
        }
        match std::fs::read_to_string(&path).map_err(|e| e.to_string()).and_then(|t| pod(&t, node)) {
            Ok(p) => {
                found.insert(path, Arc::new(p));
            }
            Err(e) => tracing::warn!(file = %path.display(), error = e, "a manifest cannot be used"),
        }
    }
    found
}

/// Runs the manifests of a directory until stopped.
pub async fn run(
    shared: Arc<Shared>,
    manager: Arc<Manager>,
    node: tokio::sync::watch::Receiver<Node>,
    dir: PathBuf,
    stop: CancellationToken,
) {
    let watch = match Inotify::of(&dir, CHANGES) {
        Ok(w) => w,
        Err(e) => {
            tracing::error!(dir = %dir.display(), error = %e, "the directory of static pods cannot be watched");
            return;
        }
    };
    let mut running: HashSet<String> = HashSet::new();
    loop {
        let pods = read(&dir, &shared.config.node_name);
        let now: HashSet<String> = pods.values().map(|p| spec::uid(p).to_owned()).collect();
        for uid in running.difference(&now) {
            manager.gone(uid);
        }
        pods.values().filter(|p| !running.contains(spec::uid(p))).for_each(|p| manager.present(p));
        running = now;
        manager.manifests_read.cancel();
        let owner = node.borrow().clone();
        mirror(&shared, &owner, pods.values()).await;
        tokio::select! {
            () = stop.cancelled() => return,
            () = manager.mirror_changed.notified() => {}
            r = watch.changed() => if r.is_err() { return },
        }
        // An editor writes a file in several steps.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Brings the mirrors in line with the manifests.
async fn mirror<'a>(shared: &Shared, node: &Node, pods: impl Iterator<Item = &'a Arc<Pod>>) {
    for pod in pods {
        if let Err(e) = mirror_one(shared, node, pod).await {
            tracing::warn!(pod = spec::full_name(pod), error = %e, "cannot show a static pod in the API");
        }
    }
}

async fn mirror_one(shared: &Shared, node: &Node, pod: &Pod) -> kube::Result<()> {
    let api: Api<Pod> = Api::namespaced(shared.client.clone(), spec::namespace(pod));
    if let Some(found) = api.get_opt(spec::name(pod)).await? {
        let mirrored = found.metadata.annotations.as_ref().and_then(|a| a.get(names::CONFIG_MIRROR));
        if mirrored.map(String::as_str) == Some(spec::uid(pod)) && found.metadata.deletion_timestamp.is_none() {
            return Ok(());
        }
        delete(&api, &found).await?;
    }
    let mut mirror = pod.clone();
    mirror.metadata.uid = None;
    mirror.status = None;
    mirror.metadata.annotations.get_or_insert_default().insert(names::CONFIG_MIRROR.into(), spec::uid(pod).into());
    mirror.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: node.metadata.name.clone().unwrap_or_default(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        ..Default::default()
    }]);
    match api.create(&PostParams::default(), &mirror).await {
        Err(e) if status_code(&e) == Some(409) => Ok(()),
        other => other.map(drop),
    }
}

async fn delete(api: &Api<Pod>, found: &Pod) -> kube::Result<()> {
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid: found.metadata.uid.clone(), resource_version: None }),
        ..Default::default()
    };
    match api.delete(spec::name(found), &params).await {
        Err(e) if matches!(status_code(&e), Some(404 | 409)) => Ok(()),
        other => other.map(drop),
    }
}

/// Whether this is news of a mirror; one whose Pod is gone is removed.
pub fn is_mirror(pod: &Pod) -> bool {
    pod.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(names::CONFIG_MIRROR))
}

/// Whether a Pod comes from a manifest.
pub fn is_static(pod: &Pod) -> bool {
    !is_mirror(pod)
        && pod.metadata.annotations.as_ref().and_then(|a| a.get(names::CONFIG_SOURCE)).is_some_and(|s| s == "file")
}

/// Removes the mirror of a static Pod that has ended.
pub async fn remove_mirror(client: &kube::Client, pod: &Pod) {
    let api: Api<Pod> = Api::namespaced(client.clone(), spec::namespace(pod));
    let Ok(Some(found)) = api.get_opt(spec::name(pod)).await else { return };
    let of = found.metadata.annotations.as_ref().and_then(|a| a.get(names::CONFIG_MIRROR));
    if of.map(String::as_str) == Some(spec::uid(pod)) {
        drop_mirror(client, &found).await;
    }
}

/// Removes a mirror that shows nothing any more, or that was asked to go.
pub async fn drop_mirror(client: &kube::Client, mirror: &Pod) {
    let api: Api<Pod> = Api::namespaced(client.clone(), spec::namespace(mirror));
    if let Err(e) = delete(&api, mirror).await {
        tracing::warn!(pod = spec::full_name(mirror), error = %e, "cannot remove a mirror pod");
    }
}

/// What a change of a mirror asks for: `true` if the mirrors must be looked at again.
pub fn concerns(change: &Change<Pod>) -> bool {
    match change {
        Change::Deleted(p) => is_mirror(p),
        Change::Added(p) | Change::Updated { new: p, .. } => is_mirror(p) && p.metadata.deletion_timestamp.is_some(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_manifest_becomes_a_pod_of_this_node() {
        let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: a, image: i}]}\n";
        let p = pod(text, "n1").unwrap();
        assert_eq!((spec::name(&p), spec::namespace(&p)), ("web-n1", "default"));
        assert_eq!(spec::uid(&p), spec::uid(&pod(text, "n1").unwrap()));
        assert_ne!(spec::uid(&p), spec::uid(&pod(text, "n2").unwrap()));
        assert_eq!(p.spec.as_ref().unwrap().node_name.as_deref(), Some("n1"));
        assert_eq!(p.spec.as_ref().unwrap().restart_policy.as_deref(), Some("Always"), "defaults are set");
        assert!(is_static(&p));
        assert!(pod("kind: Pod", "n").is_err());
        assert!(pod("apiVersion: v1\nkind: Pod\nmetadata: {}\n", "n").is_err());
    }
}
