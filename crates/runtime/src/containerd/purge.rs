//! Leaves the machine as it was: no container, shim, mount, cgroup, network namespace, socket or file of a containerd
//! of ours.
//!
//! First politely, through CRI, so that CNI plug-ins take back addresses and links; then whatever is left, found by
//! what names it: shims by our socket on their command line, containers by runc's state, mounts by their path.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::config::Config;
use super::{cgroup, process};
use crate::cri::Cri;
use crate::{Error, Result};

/// How long the polite way may take.
const POLITE: Duration = Duration::from_secs(60);
/// How long killed processes may take to vanish, and cgroups to empty.
const VANISH: Duration = Duration::from_secs(10);

/// Removes everything of the containerd with these settings, whether it runs or not. The data directory's other rooms
/// are not touched. An error names what could not be removed; calling again goes on from there.
pub async fn purge(config: &Config) -> Result<()> {
    if let Some(daemon) = process::running(config)? {
        if let Ok(cri) = Cri::new(config.socket()) {
            match tokio::time::timeout(POLITE, super::remove_all(&cri)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "some containers must be removed by force"),
                Err(_) => tracing::warn!("containerd takes too long; containers are removed by force"),
            }
        }
        daemon.end(super::STOP).await;
    }
    let config = config.clone();
    tokio::task::spawn_blocking(move || force(&config))
        .await
        .map_err(|e| Error::Host(format!("purging was broken off: {e}")))?
}

fn force(config: &Config) -> Result<()> {
    let containers = runc_containers(&config.runc_root());
    let shims = shims(&config.socket());
    let pids: BTreeSet<i32> = containers.iter().filter_map(|c| c.pid).collect();
    let mut cgroups: Vec<PathBuf> = containers.into_iter().flat_map(|c| c.cgroups).collect();
    cgroups.extend(cgroup::hierarchies().iter().map(|h| cgroup::below(h, &config.cgroup_root)));
    // Containers first: their shims are their parents and take them from the process table.
    kill_all(&pids, &cgroups, &shims);
    kill_all(&shims, &cgroups, &BTreeSet::new());
    let mut left: Vec<String> = Vec::new();
    for dir in cgroups.iter().filter(|d| d.exists()) {
        if !cgroup::remove(dir, VANISH) {
            left.push(format!("cgroup {} (busy)", dir.display()));
        }
    }
    let sockets = shim_sockets(&config.state());
    left.extend(unmount_below(&config.dir()));
    for socket in sockets {
        let _ = std::fs::remove_file(socket);
    }
    // The shim makes this directory; another containerd may use it too, and then it is not empty.
    for dir in ["/run/containerd/s", "/run/containerd"] {
        let _ = std::fs::remove_dir(dir);
    }
    let socket = config.socket();
    for path in [socket.clone(), PathBuf::from(format!("{}.ttrpc", socket.display()))] {
        let _ = std::fs::remove_file(path);
    }
    let _ = std::fs::remove_dir(&config.run_dir);
    if left.is_empty() {
        remove_dir(&config.dir(), &mut left);
    }
    let _ = std::fs::remove_file(config.log());
    let _ = std::fs::remove_file(config.log().with_extension("log.1"));
    if left.is_empty() {
        return Ok(());
    }
    Err(Error::Host(format!("could not remove: {}", left.join("; "))))
}

/// One container in runc's state directory.
struct RuncContainer {
    pid: Option<i32>,
    cgroups: Vec<PathBuf>,
}

/// `<root>/<containerd namespace>/<id>/state.json`.
fn runc_containers(root: &Path) -> Vec<RuncContainer> {
    let mut found = Vec::new();
    for namespace in directories(root) {
        for container in directories(&namespace) {
            if let Ok(text) = std::fs::read(container.join("state.json")) {
                found.extend(parse_state(&text));
            }
        }
    }
    found
}

fn parse_state(text: &[u8]) -> Option<RuncContainer> {
    #[derive(serde::Deserialize)]
    struct State {
        #[serde(default)]
        init_process_pid: i32,
        #[serde(default)]
        init_process_start: u64,
        #[serde(default)]
        cgroup_paths: std::collections::BTreeMap<String, PathBuf>,
    }
    let state: State = serde_json::from_slice(text).ok()?;
    // The number may have been given to another process since: its start time tells.
    let same = start_time(state.init_process_pid) == Some(state.init_process_start);
    Some(RuncContainer {
        pid: (state.init_process_pid > 1 && same).then_some(state.init_process_pid),
        cgroups: state
            .cgroup_paths
            .into_values()
            // Never the root of a hierarchy.
            .filter(|p| p.starts_with("/sys/fs/cgroup") && p.components().count() > 5)
            .collect(),
    })
}

/// The 22nd field of `/proc/<pid>/stat`: ticks from boot to the process' start.
fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Shims that report to our socket.
fn shims(socket: &Path) -> BTreeSet<i32> {
    let socket = socket.as_os_str().as_encoded_bytes();
    directories(Path::new("/proc"))
        .into_iter()
        .filter_map(|dir| {
            let pid: i32 = dir.file_name()?.to_str()?.parse().ok()?;
            let command = std::fs::read(dir.join("cmdline")).ok()?;
            let mut arguments = command.split(|b| *b == 0);
            let program = arguments.next()?;
            let is_shim = program.windows(15).any(|w| w == b"containerd-shim");
            (is_shim && arguments.any(|a| a == socket)).then_some(pid)
        })
        .collect()
}

/// Bundles name their shim's socket in the file `address`.
fn shim_sockets(state: &Path) -> Vec<PathBuf> {
    let tasks = state.join("io.containerd.runtime.v2.task");
    let bundles = directories(&tasks).into_iter().flat_map(|namespace| directories(&namespace));
    bundles
        .filter_map(|bundle| std::fs::read_to_string(bundle.join("address")).ok())
        .filter_map(|address| address.trim().strip_prefix("unix://").map(PathBuf::from))
        .filter(|path| path.starts_with("/run/containerd/s"))
        .collect()
}

fn directories(dir: &Path) -> Vec<PathBuf> {
    let Ok(items) = std::fs::read_dir(dir) else { return Vec::new() };
    items.flatten().filter(|i| i.file_type().is_ok_and(|t| t.is_dir())).map(|i| i.path()).collect()
}

/// Kills the processes and all in the cgroups, also those started meanwhile, until none is left or time is up; those in
/// `spared` live on.
fn kill_all(pids: &BTreeSet<i32>, cgroups: &[PathBuf], spared: &BTreeSet<i32>) {
    let own = std::process::id() as i32;
    let deadline = Instant::now() + VANISH;
    let mut wanted = pids.clone();
    loop {
        wanted.extend(cgroups.iter().flat_map(|dir| cgroup::processes(dir)));
        wanted.retain(|pid| *pid != own && !spared.contains(pid) && alive(*pid));
        if wanted.is_empty() || Instant::now() > deadline {
            return;
        }
        for pid in &wanted {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether a process runs; a zombie does not.
fn alive(pid: i32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    !stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']))
}

/// Unmounts everything at and below a directory, the latest mount first; returns what stays, in words.
pub fn unmount_below(dir: &Path) -> Vec<String> {
    let mut left = Vec::new();
    // Mounts may be stacked: look again until nothing is there or nothing moves.
    for _ in 0..16 {
        let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points = mounts_below(&text, dir);
        if points.is_empty() {
            return Vec::new();
        }
        left.clear();
        let mut moved = false;
        for point in points.iter().rev() {
            match umount2(point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
                Ok(()) => moved = true,
                Err(errno) => left.push(format!("mount {} ({errno})", point.display())),
            }
        }
        if !moved {
            return left;
        }
    }
    left
}

/// Mount points at and below `dir`, in the order of mounting.
fn mounts_below(mountinfo: &str, dir: &Path) -> Vec<PathBuf> {
    mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| PathBuf::from(unescape(point)))
        .filter(|point| point.starts_with(dir))
        .collect()
}

/// mountinfo writes spaces and the like as `\040`.
pub(super) fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let octal =
            bytes.get(i + 1..i + 4).filter(|d| bytes[i] == b'\\' && d.iter().all(|b| (b'0'..=b'7').contains(b)));
        match octal {
            Some(d) => {
                out.push((d[0] - b'0') << 6 | (d[1] - b'0') << 3 | (d[2] - b'0'));
                i += 4;
            }
            None => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn remove_dir(dir: &Path, left: &mut Vec<String>) {
    // A killed process may write its last file while we remove.
    for attempt in 0..20 {
        match std::fs::remove_dir_all(dir) {
            Ok(()) => return,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return,
            Err(e) if attempt == 19 => left.push(format!("{} ({e})", dir.display())),
            Err(_) => std::thread::sleep(Duration::from_millis(25)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_by_path_not_by_prefix() {
        let text = "\
1 0 8:1 / / rw - ext4 /dev/sda rw
2 1 0:5 / /data/containerd/state/a\\040b rw - tmpfs tmpfs rw
3 1 0:6 / /data/containerd2 rw - tmpfs tmpfs rw
4 2 0:7 / /data/containerd rw - tmpfs tmpfs rw";
        let found = mounts_below(text, Path::new("/data/containerd"));
        assert_eq!(found, [PathBuf::from("/data/containerd/state/a b"), PathBuf::from("/data/containerd")]);
    }

    #[test]
    fn the_state_of_a_dead_container_gives_no_process() {
        let own = std::process::id() as i32;
        let start = start_time(own).unwrap_or_default();
        let state = |pid: i32, start: u64| {
            let text = format!(
                r#"{{"init_process_pid":{pid},"init_process_start":{start},
                "cgroup_paths":{{"cpu":"/sys/fs/cgroup/cpu/k8s.io/x","bad":"/sys/fs/cgroup/cpu","worse":"/etc"}}}}"#
            );
            parse_state(text.as_bytes())
        };
        let live = state(own, start);
        assert_eq!(live.as_ref().and_then(|c| c.pid), Some(own));
        assert_eq!(live.map(|c| c.cgroups), Some(vec![PathBuf::from("/sys/fs/cgroup/cpu/k8s.io/x")]));
        assert_eq!(state(own, start + 1).and_then(|c| c.pid), None);
        assert!(parse_state(b"not json").is_none());
    }
}
