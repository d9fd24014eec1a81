//! Evicting Pods before the machine runs out of memory or disk.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::storage;
use crate::cgroup::{limits, qos};
use crate::machine;
use crate::manager::Manager;
use crate::pod::spec;
use crate::pod::status::Verdict;
use crate::quantity;
use crate::shared::Shared;

/// A condition stays for this long after its cause is over, so that it does not flap.
const TRANSITION: Duration = Duration::from_secs(300);

/// What the node was short of, and when last.
#[derive(Default)]
pub struct Pressure {
    memory: Mutex<Option<Instant>>,
    disk: Mutex<Option<Instant>>,
}

impl Pressure {
    /// Whether the node counts as short of memory.
    pub fn memory(&self) -> bool {
        recent(&self.memory)
    }

    /// Whether the node counts as short of disk.
    pub fn disk(&self) -> bool {
        recent(&self.disk)
    }
}

fn recent(at: &Mutex<Option<Instant>>) -> bool {
    at.lock().is_some_and(|t| t.elapsed() < TRANSITION)
}

/// A Pod that could be evicted.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    uid: String,
    priority: i32,
    usage: i64,
    request: i64,
}

/// Who goes first: those above their request, then the least important, then the furthest above.
fn rank(all: &mut [Candidate]) {
    all.sort_by_key(|c| (c.usage <= c.request, c.priority, std::cmp::Reverse(c.usage - c.request)));
}

/// Looks, and evicts at most one Pod. Returns whether the node is short of disk.
pub async fn relieve(shared: &Arc<Shared>, manager: &Manager, look: &Notify) -> bool {
    let t = shared.config.thresholds;
    let pressure = &shared.pressure;
    let before = (pressure.memory(), pressure.disk());
    let available = machine::meminfo("MemAvailable");
    let short_of_memory = available > 0 && available < t.memory_available;
    let disk = machine::disk(&shared.config.root_dir).unwrap_or_default();
    let floor = t.nodefs_available.of(disk.total);
    let short_of_inodes = disk.inodes > 0 && disk.inodes_free < disk.inodes / 100 * u64::from(t.nodefs_inodes_percent);
    let short_of_disk = disk.available < floor || short_of_inodes;
    if short_of_memory {
        *pressure.memory.lock() = Some(Instant::now());
    }
    if short_of_disk {
        *pressure.disk.lock() = Some(Instant::now());
    }
    if before != (pressure.memory(), pressure.disk()) {
        look.notify_one();
    }
    if short_of_memory {
        let threshold = quantity::bytes(t.memory_available).0;
        let why = format!(
            "The node was low on resource: memory. Threshold quantity: {threshold}, available: {}. ",
            quantity::bytes(available).0
        );
        evict(shared, manager, "memory", &why, |pod| memory_of(shared, pod)).await;
    } else if short_of_disk {
        let (threshold, available) = (quantity::bytes(floor).0, quantity::bytes(disk.available).0);
        let why = format!(
            "The node was low on resource: ephemeral-storage. Threshold quantity: {threshold}, available: {available}. "
        );
        evict(shared, manager, "ephemeral-storage", &why, |pod| storage::of_pod(shared, pod)).await;
    }
    short_of_disk
}

async fn evict(shared: &Shared, manager: &Manager, resource: &str, why: &str, usage: impl Fn(&Pod) -> i64) {
    let pods: Vec<Arc<Pod>> = manager.handles().iter().map(|h| h.view.lock().pod.clone()).collect();
    let mut all: Vec<Candidate> = pods
        .iter()
        .filter(|p| evictable(p))
        .map(|p| Candidate {
            uid: spec::uid(p).to_owned(),
            priority: p.spec.as_ref().and_then(|s| s.priority).unwrap_or(0),
            usage: usage(p),
            request: p.spec.as_ref().map_or(0, |s| limits::pod_request(s, resource)),
        })
        .collect();
    rank(&mut all);
    let Some(first) = all.first() else { return };
    let Some(pod) = pods.iter().find(|p| spec::uid(p) == first.uid) else { return };
    let text = |n: i64| quantity::bytes(u64::try_from(n).unwrap_or(0)).0;
    let message = format!(
        "{why}Pod was using {}, request is {}, has larger consumption of {resource}. ",
        text(first.usage),
        text(first.request)
    );
    shared.event(&shared.about_pod(pod), "Warning", "Evicted", &message);
    let verdict = Verdict { reason: "Evicted".into(), message, disruption: Some("TerminationByKubelet".into()) };
    manager.evict(&first.uid, verdict, Some(1));
}

/// Pods that have ended free nothing, and critical ones stay.
fn evictable(pod: &Pod) -> bool {
    let critical = pod.spec.as_ref().and_then(|s| s.priority).is_some_and(|p| p >= 2_000_000_000);
    let over = spec::is_terminal(pod.status.as_ref().and_then(|s| s.phase.as_deref()));
    !critical && !over && pod.metadata.deletion_timestamp.is_none()
}

/// A Pod's working set: what its cgroup uses less what the kernel could take back.
fn memory_of(shared: &Shared, pod: &Pod) -> i64 {
    let path = shared.cgroups.pod_path(qos::class(pod), spec::uid(pod));
    let Some(dir) = shared.cgroups.dir("memory", &path) else { return 0 };
    let (usage, inactive) = if shared.cgroups.is_v2() {
        ("memory.current", "inactive_file")
    } else {
        ("memory.usage_in_bytes", "total_inactive_file")
    };
    number(&dir.join(usage)) - field(&dir.join("memory.stat"), inactive)
}

fn number(path: &Path) -> i64 {
    fs::read_to_string(path).ok().and_then(|t| t.trim().parse().ok()).unwrap_or(0)
}

fn field(path: &Path, name: &str) -> i64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().find_map(|l| l.strip_prefix(name)?.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranking() {
        let c = |uid: &str, priority, usage, request| Candidate { uid: uid.into(), priority, usage, request };
        let mut all = [c("within", 0, 5, 10), c("important", 100, 90, 10), c("above", 0, 20, 10), c("far", 0, 50, 10)];
        rank(&mut all);
        assert_eq!(all.iter().map(|c| c.uid.as_str()).collect::<Vec<_>>(), ["far", "above", "important", "within"]);
    }
}
