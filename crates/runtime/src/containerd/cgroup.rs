//! The few things about cgroups that starting and purging need, for v1, v2 and both at once.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The mount points of all cgroup hierarchies.
pub fn hierarchies() -> Vec<PathBuf> {
    parse_hierarchies(&std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())
}

/// `… mount-point options … - type source …`; of a hierarchy mounted twice the first counts.
fn parse_hierarchies(mountinfo: &str) -> Vec<PathBuf> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let fields: Vec<&str> = left.split(' ').collect();
        let is_cgroup = matches!(right.split(' ').next(), Some("cgroup" | "cgroup2"));
        // Only whole hierarchies: a bind mount of a part has another root than "/".
        if is_cgroup && fields.len() > 4 && fields[3] == "/" && seen.insert(fields[2].to_string()) {
            found.push(PathBuf::from(super::purge::unescape(fields[4])));
        }
    }
    found
}

/// Moves a process into `root/leaf` of every hierarchy that takes it. A hierarchy that does not (cpuset without CPUs, a
/// v2 cgroup with inner processes) keeps the process where it was.
pub fn join(root: &str, leaf: &str, pid: i32) {
    for hierarchy in hierarchies() {
        let dir = below(&hierarchy, root).join(leaf);
        if std::fs::create_dir_all(&dir).is_ok() {
            let _ = std::fs::write(dir.join("cgroup.procs"), pid.to_string());
        }
    }
}

/// The cgroup `path` of a hierarchy.
pub fn below(hierarchy: &Path, path: &str) -> PathBuf {
    hierarchy.join(path.trim_start_matches('/'))
}

/// All processes in this cgroup directory and below.
pub fn processes(dir: &Path) -> BTreeSet<i32> {
    let mut found = BTreeSet::new();
    for dir in tree(dir) {
        let text = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        found.extend(text.lines().filter_map(|l| l.trim().parse::<i32>().ok()).filter(|pid| *pid > 0));
    }
    found
}

/// Removes this cgroup directory and all below, as far as they are empty; `true` when nothing is left. The kernel
/// needs a moment between the end of a process and an empty cgroup, so it is tried for up to `limit`.
pub fn remove(dir: &Path, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        let mut dirs = tree(dir);
        dirs.reverse();
        for dir in &dirs {
            let _ = std::fs::remove_dir(dir);
        }
        if !dir.exists() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The directory and all below it, parents first.
fn tree(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut stack = vec![dir.to_path_buf()];
    while let Some(dir) = stack.pop() {
        let Ok(items) = std::fs::read_dir(&dir) else { continue };
        stack.extend(items.flatten().filter(|i| i.file_type().is_ok_and(|t| t.is_dir())).map(|i| i.path()));
        found.push(dir);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_of_both_versions_are_found() {
        let mountinfo = "\
30 29 0:26 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
31 29 0:27 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
32 1 0:27 / /other rw - cgroup2 cgroup2 rw
33 1 0:26 /sub /bind rw - cgroup cgroup rw,cpu
34 1 8:1 / / rw - ext4 /dev/sda rw";
        let found = parse_hierarchies(mountinfo);
        assert_eq!(found, [PathBuf::from("/sys/fs/cgroup/cpu"), PathBuf::from("/sys/fs/cgroup/unified")]);
    }
}
