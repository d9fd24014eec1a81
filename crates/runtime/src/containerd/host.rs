//! What this machine offers containerd. Everything is probed, nothing assumed.

use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::{Error, Result};

/// The programs that run containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    /// The daemon.
    pub containerd: PathBuf,
    /// One process a sandbox, which outlives the daemon.
    pub shim: PathBuf,
    /// Makes containers.
    pub runc: PathBuf,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// The programs.
    pub programs: Programs,
    /// AppArmor is on, and its parser is there.
    pub apparmor: bool,
    /// A process may be made less likely to be killed for want of memory (needs CAP_SYS_RESOURCE).
    pub negative_oom_score: bool,
    /// overlayfs can be mounted on the data directory's file system.
    pub overlayfs: bool,
    /// Huge pages can be limited.
    pub hugetlb: bool,
}

/// Where programs are looked for besides `$PATH`: a service's path often lacks the administrator's directories.
const DIRECTORIES: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

impl Programs {
    /// Finds them, or names all that are missing and the packages they come in.
    pub fn find() -> Result<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let dirs: Vec<PathBuf> = std::env::split_paths(&path).chain(DIRECTORIES.iter().map(PathBuf::from)).collect();
        Self::find_in(&dirs)
    }

    fn find_in(dirs: &[PathBuf]) -> Result<Self> {
        let find = |name: &str| dirs.iter().map(|d| d.join(name)).find(|p| is_executable(p));
        let found = ["containerd", "containerd-shim-runc-v2", "runc"].map(|name| (name, find(name)));
        match found {
            [(_, Some(containerd)), (_, Some(shim)), (_, Some(runc))] => Ok(Programs { containerd, shim, runc }),
            found => {
                let missing: Vec<&str> = found.iter().filter(|(_, p)| p.is_none()).map(|(n, _)| *n).collect();
                Err(Error::Host(format!(
                    "this machine has no {}: install the packages containerd and runc (Debian, Ubuntu: apt-get install \
                     containerd runc; Fedora: dnf install containerd runc)",
                    missing.join(", ")
                )))
            }
        }
    }

    /// A `PATH` with the programs' directories first.
    pub fn path(&self) -> String {
        let mut dirs: Vec<String> = Vec::new();
        let own = [&self.containerd, &self.shim, &self.runc].into_iter().filter_map(|p| p.parent());
        for dir in own.map(|d| d.to_string_lossy().into_owned()).chain(DIRECTORIES.iter().map(|d| d.to_string())) {
            if !dirs.contains(&dir) {
                dirs.push(dir);
            }
        }
        dirs.join(":")
    }
}

impl Host {
    /// Looks at the machine; `dir` is a directory on the file system that containers will live on. Blocking.
    pub fn probe(dir: &Path) -> Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            return Err(Error::Host("running containers needs root: start caravel as root (sudo)".into()));
        }
        Ok(Host {
            programs: Programs::find()?,
            apparmor: apparmor(),
            negative_oom_score: negative_oom_score(),
            overlayfs: overlayfs(dir),
            hugetlb: hugetlb(),
        })
    }
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

fn apparmor() -> bool {
    let on = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|v| v.trim() == "Y");
    on && DIRECTORIES.iter().any(|d| is_executable(&Path::new(d).join("apparmor_parser")))
}

/// Lowers our own score by one and puts it back.
fn negative_oom_score() -> bool {
    const FILE: &str = "/proc/self/oom_score_adj";
    let Some(now) = std::fs::read_to_string(FILE).ok().and_then(|v| v.trim().parse::<i32>().ok()) else {
        return false;
    };
    if now <= -1000 {
        return true;
    }
    let lowered = std::fs::write(FILE, (now - 1).to_string()).is_ok();
    if lowered {
        let _ = std::fs::write(FILE, now.to_string());
    }
    lowered
}

/// Mounts an overlay of three empty directories.
fn overlayfs(dir: &Path) -> bool {
    let Ok(probe) = tempfile::Builder::new().prefix("probe-").tempdir_in(dir) else { return false };
    let part = |name: &str| {
        let path = probe.path().join(name);
        std::fs::create_dir(&path).ok().map(|()| path)
    };
    let (Some(lower), Some(upper), Some(work), Some(merged)) =
        (part("lower"), part("upper"), part("work"), part("merged"))
    else {
        return false;
    };
    let options = format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
    let mounted = mount(Some("overlay"), &merged, Some("overlay"), MsFlags::empty(), Some(options.as_str())).is_ok();
    if mounted {
        let _ = umount2(&merged, MntFlags::MNT_DETACH);
    }
    mounted
}

/// On cgroup v1 the controller has a hierarchy of its own. containerd looks for it there while a v1 tree is in use.
fn hugetlb() -> bool {
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers");
    match std::fs::read_to_string(unified) {
        Ok(controllers) => controllers.split_whitespace().any(|c| c == "hugetlb"),
        Err(_) => Path::new("/sys/fs/cgroup/hugetlb").is_dir(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn missing_programs_are_named_with_their_packages() {
        let dir = tempfile::tempdir().unwrap();
        let error = Programs::find_in(&[dir.path().to_path_buf()]).unwrap_err().to_string();
        assert!(error.contains("containerd, containerd-shim-runc-v2, runc"), "{error}");
        assert!(error.contains("apt-get install containerd runc"), "{error}");
    }

    #[test]
    fn the_probe_leaves_the_score_as_it_was() {
        let before = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap();
        negative_oom_score();
        assert_eq!(std::fs::read_to_string("/proc/self/oom_score_adj").unwrap(), before);
    }
}
