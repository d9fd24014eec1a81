//! Making, limiting and removing cgroups, v1 and v2.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::limits::{CPU_PERIOD, Limits, weight};
use super::qos::Qos;

/// The node's part of the cgroup tree.
#[derive(Debug, Clone)]
pub struct Cgroups {
    mounts: Mounts,
    root: String,
}

#[derive(Debug, Clone)]
enum Mounts {
    /// One tree a controller: (controllers, mount point).
    V1(Vec<(Vec<String>, PathBuf)>),
    /// One tree for all.
    V2(PathBuf),
}

impl Cgroups {
    /// Looks at what is mounted. `root` is the path of the node's cgroup in every tree, such as `/caravel0`.
    pub fn detect(root: &str) -> io::Result<Self> {
        Ok(Cgroups {
            mounts: parse(&fs::read_to_string("/proc/self/mountinfo")?),
            root: format!("/{}", root.trim_matches('/')),
        })
    }

    /// Whether limits go through cgroup v2.
    pub fn is_v2(&self) -> bool {
        matches!(self.mounts, Mounts::V2(_))
    }

    /// The path of a Pod's cgroup from the tree's root: what CRI calls `cgroup_parent`.
    pub fn pod_path(&self, qos: Qos, uid: &str) -> String {
        match qos.dir() {
            "" => format!("{}/pod{uid}", self.root),
            dir => format!("{}/{dir}/pod{uid}", self.root),
        }
    }

    /// Makes the root and the directories of the classes.
    pub fn prepare(&self) -> io::Result<()> {
        for dir in ["", "/burstable", "/besteffort"] {
            self.make(&format!("{}{dir}", self.root))?;
        }
        self.set_shares(&format!("{}/besteffort", self.root), 2)
    }

    /// Makes a Pod's cgroup if need be and sets its limits.
    pub fn apply(&self, path: &str, limits: &Limits) -> io::Result<()> {
        self.make(path)?;
        self.set_shares(path, limits.cpu_shares)?;
        match &self.mounts {
            Mounts::V1(_) => {
                if let Some(cpu) = self.dir("cpu", path) {
                    write(&cpu.join("cpu.cfs_period_us"), &CPU_PERIOD.to_string())?;
                    write(&cpu.join("cpu.cfs_quota_us"), &limits.cpu_quota.unwrap_or(-1).to_string())?;
                }
                if let Some(memory) = self.dir("memory", path) {
                    write(&memory.join("memory.limit_in_bytes"), &limits.memory.unwrap_or(-1).to_string())?;
                }
            }
            Mounts::V2(_) => {
                let Some(dir) = self.dir("", path) else { return Ok(()) };
                let max = |v: Option<i64>| v.map_or("max".to_owned(), |v| v.to_string());
                write(&dir.join("cpu.max"), &format!("{} {CPU_PERIOD}", max(limits.cpu_quota)))?;
                write(&dir.join("memory.max"), &max(limits.memory))?;
            }
        }
        Ok(())
    }

    /// The weight of all Burstable Pods together against the others.
    pub fn set_burstable_shares(&self, shares: i64) -> io::Result<()> {
        self.set_shares(&format!("{}/burstable", self.root), shares)
    }

    /// Whether the cgroup exists in any tree.
    pub fn exists(&self, path: &str) -> bool {
        self.dirs(path).iter().any(|d| d.exists())
    }

    /// Removes a cgroup with everything below it from every tree. Processes still in it are killed first.
    pub fn remove(&self, path: &str) -> io::Result<()> {
        let mut last = Ok(());
        for dir in self.dirs(path) {
            if let Err(e) = remove_tree(&dir) {
                last = Err(e);
            }
        }
        last
    }

    /// Removes all of the node's cgroups. The root of the tree itself is never touched.
    pub fn remove_root(&self) -> io::Result<()> {
        if self.root == "/" { Ok(()) } else { self.remove(&self.root) }
    }

    /// The UIDs of Pods that have a cgroup, with its path.
    pub fn pods(&self) -> Vec<(String, String)> {
        let mut found = std::collections::BTreeMap::new();
        for class in [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort] {
            let parent = format!("{}/{}", self.root, class.dir());
            for entry in self.dirs(&parent).iter().filter_map(|d| fs::read_dir(d).ok()).flatten().flatten() {
                if let Some(uid) = entry.file_name().to_str().and_then(|n| n.strip_prefix("pod")) {
                    found.insert(uid.to_owned(), self.pod_path(class, uid));
                }
            }
        }
        found.into_iter().collect()
    }

    /// The directory of a cgroup in the tree of a controller (v1) or in the one tree (v2).
    pub fn dir(&self, controller: &str, path: &str) -> Option<PathBuf> {
        let base = match &self.mounts {
            Mounts::V1(all) => &all.iter().find(|(c, _)| c.iter().any(|c| c == controller))?.1,
            Mounts::V2(base) => base,
        };
        Some(base.join(path.trim_start_matches('/')))
    }

    fn dirs(&self, path: &str) -> Vec<PathBuf> {
        let path = path.trim_start_matches('/');
        match &self.mounts {
            Mounts::V1(all) => all.iter().map(|(_, m)| m.join(path)).collect(),
            Mounts::V2(base) => vec![base.join(path)],
        }
    }

    fn make(&self, path: &str) -> io::Result<()> {
        match &self.mounts {
            Mounts::V1(_) => {
                for controller in ["cpu", "memory", "pids"] {
                    if let Some(dir) = self.dir(controller, path) {
                        fs::create_dir_all(dir)?;
                    }
                }
                Ok(())
            }
            Mounts::V2(base) => {
                let mut dir = base.clone();
                for part in path.split('/').filter(|p| !p.is_empty()) {
                    delegate(&dir);
                    dir.push(part);
                    fs::create_dir_all(&dir)?;
                }
                delegate(&dir);
                Ok(())
            }
        }
    }

    fn set_shares(&self, path: &str, shares: i64) -> io::Result<()> {
        let Some(dir) = self.dir("cpu", path) else { return Ok(()) };
        match &self.mounts {
            Mounts::V1(_) => write(&dir.join("cpu.shares"), &shares.to_string()),
            Mounts::V2(_) => write(&dir.join("cpu.weight"), &weight(shares).to_string()),
        }
    }
}

/// Lets children of a v2 cgroup have controllers. One that the parent does not offer is left out.
fn delegate(dir: &Path) {
    for controller in ["cpu", "memory", "pids", "io", "cpuset", "hugetlb"] {
        let _ = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

/// Writes a control file; one that this kernel does not have is no error.
fn write(file: &Path, value: &str) -> io::Result<()> {
    match fs::write(file, value) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(io::Error::new(e.kind(), format!("cannot write {value} to {}: {e}", file.display()))),
        Ok(()) => Ok(()),
    }
}

fn remove_tree(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(dir) {
        Err(e) if e.raw_os_error() == Some(nix::libc::EBUSY) => {
            for pid in fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default().lines() {
                if let Ok(pid) = pid.parse() {
                    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
                }
            }
            fs::remove_dir(dir)
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn parse(mountinfo: &str) -> Mounts {
    let mut v1 = Vec::new();
    let mut v2 = None;
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let Some(point) = left.split(' ').nth(4) else { continue };
        let mut right = right.split(' ');
        match right.next() {
            Some("cgroup") => {
                let options = right.nth(1).unwrap_or_default();
                let controllers =
                    options.split(',').filter(|o| !matches!(*o, "rw" | "ro" | "xattr")).map(str::to_owned);
                v1.push((controllers.collect::<Vec<_>>(), PathBuf::from(point)));
            }
            Some("cgroup2") => v2 = v2.or(Some(PathBuf::from(point))),
            _ => {}
        }
    }
    let has = |name: &str| v1.iter().any(|(c, _): &(Vec<String>, _)| c.iter().any(|c| c == name));
    match v2 {
        Some(base) if !has("memory") && !has("cpu") => Mounts::V2(base),
        _ => Mounts::V1(v1),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn hybrid_trees_are_v1() {
        let text = "30 25 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                    31 25 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                    32 25 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let c = Cgroups { mounts: parse(text), root: "/caravel0".into() };
        assert!(!c.is_v2());
        let path = c.pod_path(Qos::Burstable, "u");
        assert_eq!(path, "/caravel0/burstable/podu");
        assert_eq!(c.dir("cpu", &path).unwrap(), Path::new("/sys/fs/cgroup/cpu,cpuacct/caravel0/burstable/podu"));
    }

    #[test]
    fn a_lone_cgroup2_is_v2() {
        let c = Cgroups { mounts: parse("30 25 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"), root: "/r".into() };
        assert!(c.is_v2());
        assert_eq!(c.pod_path(Qos::Guaranteed, "u"), "/r/podu");
    }

    #[test]
    fn limits_reach_the_files_of_v2() {
        let tree = std::env::temp_dir().join(format!("cgroup2-{}", std::process::id()));
        let dir = tree.join("r/podu");
        fs::create_dir_all(&dir).unwrap();
        let c = Cgroups { mounts: Mounts::V2(tree.clone()), root: "/r".into() };
        c.apply("/r/podu", &Limits { cpu_shares: 1024, cpu_quota: Some(50_000), memory: None }).unwrap();
        let read = |f: &str| fs::read_to_string(dir.join(f)).unwrap();
        assert_eq!(
            (read("cpu.max").as_str(), read("memory.max").as_str(), read("cpu.weight").as_str()),
            ("50000 100000", "max", "39")
        );
        fs::remove_dir_all(tree).unwrap();
    }
}
