//! Pods' own limits of storage: `emptyDir` sizes and `ephemeral-storage`.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::manager::Manager;
use crate::pod::spec;
use crate::pod::status::Verdict;
use crate::quantity;
use crate::shared::Shared;

/// Ends Pods that use more than they may. Only Pods with such limits cost anything.
pub async fn enforce(shared: &Arc<Shared>, manager: &Manager) {
    for handle in manager.handles() {
        let pod = handle.view.lock().pod.clone();
        let over = spec::is_terminal(pod.status.as_ref().and_then(|s| s.phase.as_deref()));
        if over || pod.metadata.deletion_timestamp.is_some() || !limited(&pod) {
            continue;
        }
        let (s, p) = (shared.clone(), pod.clone());
        let found = tokio::task::spawn_blocking(move || excess(&s, &p)).await.ok().flatten();
        if let Some(message) = found {
            shared.event(&shared.about_pod(&pod), "Warning", "Evicted", &message);
            let verdict =
                Verdict { reason: "Evicted".into(), message, disruption: Some("TerminationByKubelet".into()) };
            manager.evict(spec::uid(&pod), verdict, Some(1));
        }
    }
}

fn limit(c: &Container) -> i64 {
    quantity::value_of(c.resources.as_ref().and_then(|r| r.limits.as_ref()), "ephemeral-storage")
}

fn limited(pod: &Pod) -> bool {
    let Some(s) = &pod.spec else { return false };
    s.volumes.iter().flatten().any(|v| v.empty_dir.as_ref().is_some_and(|e| e.size_limit.is_some()))
        || s.containers.iter().any(|c| limit(c) > 0)
}

fn volume_dir(shared: &Shared, pod: &Pod, name: &str) -> PathBuf {
    shared.config.pod_dir(spec::uid(pod)).join("volumes/kubernetes.io~empty-dir").join(name)
}

/// What a Pod uses too much of.
fn excess(shared: &Shared, pod: &Pod) -> Option<String> {
    let s = pod.spec.as_ref()?;
    for v in s.volumes.iter().flatten() {
        let Some(limit) = v.empty_dir.as_ref().and_then(|e| e.size_limit.as_ref()).filter(|q| quantity::value(q) > 0)
        else {
            continue;
        };
        if usage(&volume_dir(shared, pod, &v.name)) > quantity::value(limit) {
            return Some(format!("Usage of EmptyDir volume \"{}\" exceeds the limit \"{}\". ", v.name, limit.0));
        }
    }
    let all: Option<i64> = s.containers.iter().map(|c| Some(limit(c)).filter(|l| *l > 0)).sum();
    let total = all?;
    (of_pod(shared, pod) > total).then(|| {
        format!(
            "Pod ephemeral local storage usage exceeds the total limit of containers {}. ",
            quantity::bytes(u64::try_from(total).unwrap_or(0)).0
        )
    })
}

/// What a Pod's volumes on disk and logs take, bytes.
pub fn of_pod(shared: &Shared, pod: &Pod) -> i64 {
    let on_disk = |v: &&k8s_openapi::api::core::v1::Volume| {
        v.empty_dir.as_ref().is_some_and(|e| e.medium.as_deref().unwrap_or_default().is_empty())
    };
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).filter(on_disk);
    let volumes: i64 = volumes.map(|v| usage(&volume_dir(shared, pod, &v.name))).sum();
    volumes + usage(&shared.config.pod_log_dir(spec::namespace(pod), spec::name(pod), spec::uid(pod)))
}

/// What a tree takes on disk; a file with several names counts once, and links are not followed.
fn usage(root: &Path) -> i64 {
    let mut seen = HashSet::new();
    let mut todo = vec![root.to_path_buf()];
    let mut blocks = 0;
    while let Some(path) = todo.pop() {
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        if meta.nlink() > 1 && !meta.is_dir() && !seen.insert((meta.dev(), meta.ino())) {
            continue;
        }
        blocks += meta.blocks();
        if meta.is_dir() {
            todo.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|e| e.path()));
        }
    }
    i64::try_from(blocks * 512).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn trees_are_measured() {
        let dir = std::env::temp_dir().join(format!("usage-{}", std::process::id()));
        fs::create_dir_all(dir.join("d")).unwrap();
        fs::write(dir.join("d/f"), vec![1; 1 << 20]).unwrap();
        fs::hard_link(dir.join("d/f"), dir.join("g")).unwrap();
        let n = usage(&dir);
        assert!((1 << 20..2 << 20).contains(&n), "{n}");
        fs::remove_dir_all(dir).unwrap();
    }
}
