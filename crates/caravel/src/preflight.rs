//! What the machine must offer, asked before anything is started, and what was found.

use anyhow::{Result, bail};
use std::path::Path;

/// One thing looked at: what was found, and what to do when it will not work.
pub struct Finding {
    pub what: &'static str,
    pub found: String,
    /// Why a node cannot run here, and the mend.
    pub fatal: Option<String>,
}

/// Programs a node calls, with Debian's packages for them.
const PROGRAMS: &[(&str, &str)] = &[
    ("containerd", "containerd"),
    ("containerd-shim-runc-v2", "containerd"),
    ("runc", "runc"),
    ("nft", "nftables"),
    ("mount", "mount"),
];

/// Looks at everything; quick, and changes nothing.
pub fn look() -> Vec<Finding> {
    let mut found = vec![privileges(), cgroups()];
    found.extend(PROGRAMS.iter().map(|(program, package)| program_on_path(program, package)));
    found
}

/// An error that names everything that must be mended first.
pub fn refuse_what_cannot_work() -> Result<()> {
    let fatal: Vec<String> =
        look().into_iter().filter_map(|f| f.fatal.map(|mend| format!("{}: {}; {mend}", f.what, f.found))).collect();
    if !fatal.is_empty() {
        bail!("this machine cannot run a node yet:\n  {}", fatal.join("\n  "));
    }
    Ok(())
}

fn privileges() -> Finding {
    let root = nix::unistd::geteuid().is_root();
    let found = if root { "root" } else { "not root" }.to_owned();
    let fatal = (!root).then(|| "run it as root (a node makes namespaces, mounts and firewall rules)".into());
    Finding { what: "privileges", found, fatal }
}

fn cgroups() -> Finding {
    let root = Path::new("/sys/fs/cgroup");
    let v2 = std::fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
    let v1 = root.join("memory/cgroup.procs").exists() || root.join("memory/tasks").exists();
    let (found, fatal) = match (v1, v2.contains("memory")) {
        (_, true) => ("v2".to_owned(), None),
        (true, false) => ("v1".to_owned(), None),
        (false, false) => {
            ("no memory controller".to_owned(), Some("mount the cgroup file systems at /sys/fs/cgroup".into()))
        }
    };
    Finding { what: "cgroups", found, fatal }
}

fn program_on_path(program: &'static str, package: &str) -> Finding {
    match find_program(program) {
        Some(path) => Finding { what: program, found: path, fatal: None },
        None => Finding {
            what: program,
            found: "not found".into(),
            fatal: Some(format!("install it: apt-get install {package}")),
        },
    }
}

fn find_program(program: &str) -> Option<String> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin:/usr/local/sbin";
    path.split(':').map(|dir| Path::new(dir).join(program)).find(|p| p.is_file()).map(|p| p.display().to_string())
}
