//! What a run leaves on the machine, by comparing before and after.

use crate::sh;
use anyhow::{Result, bail};
use std::collections::BTreeSet;
use std::path::Path;

/// The parts of the machine's state that a cluster touches.
#[derive(Clone, PartialEq, Eq)]
pub struct Snapshot {
    facts: BTreeSet<String>,
}

/// Takes a snapshot of processes, mounts, links, namespaces, nftables, cgroups and well-known directories.
pub fn snapshot() -> Snapshot {
    let mut facts = BTreeSet::new();
    let mut note = |kind: &str, lines: String| facts.extend(lines.lines().map(|l| format!("{kind}: {}", l.trim())));
    note("process", ours_running());
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    note("mount", mounts.lines().filter_map(|l| l.split(' ').nth(1)).collect::<Vec<_>>().join("\n"));
    note("link", names("/sys/class/net"));
    note("netns", names("/run/netns") + &names("/var/run/netns"));
    note("nft table", sh::read(&mut sh::cmd(&["nft", "list", "tables"])).unwrap_or_default());
    for controller in names("/sys/fs/cgroup").lines() {
        note("cgroup", directories(&Path::new("/sys/fs/cgroup").join(controller)));
    }
    note("run", names("/run").lines().filter(|n| n.contains("caravel")).collect::<Vec<_>>().join("\n"));
    Snapshot { facts }
}

impl Snapshot {
    /// An error that lists what is there now and was not in `self`.
    pub fn compare(&self) -> Result<()> {
        let mut left = vec![];
        // What is being torn down by the kernel gets a moment.
        for _ in 0..100 {
            left = snapshot().facts.difference(&self.facts).cloned().collect();
            if left.is_empty() {
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        bail!("left behind on the machine:\n  {}", left.join("\n  "))
    }
}

fn names(dir: &str) -> String {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|e| e.file_name().to_string_lossy().into_owned() + "\n").collect()
}

fn directories(dir: &Path) -> String {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path().display().to_string() + "\n").collect()
}

fn ours_running() -> String {
    let mut found = String::new();
    for pid in names("/proc").lines().filter(|n| n.bytes().all(|b| b.is_ascii_digit())) {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let program = String::from_utf8_lossy(line.split(|b| *b == 0).next().unwrap_or_default()).into_owned();
        let name = program.rsplit('/').next().unwrap_or_default();
        if ["caravel", "containerd", "containerd-shim-runc-v2", "runc", "etcd", "docker-registry"].contains(&name) {
            found += &format!("{name} (pid {pid})\n");
        }
    }
    found
}
