//! One cluster on this machine: its data directory, its number, and the names and ranges that follow from it.
//!
//! Clusters live side by side because each has a number that no other on the machine has: address ranges, the bridge, the
//! nftables table and the cgroup are derived from it. The number is claimed by a file in [`CLAIMS`] and kept in the
//! data directory, so that it is the same after a reboot.

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// One file for each cluster's number, naming its data directory.
const CLAIMS: &str = "/run/caravel";
/// Clusters on one machine; beyond it their address ranges would meet.
const MOST: u8 = 64;
/// The layout of a data directory. A program refuses a newer one.
const FORMAT: u32 = 1;

/// What a data directory says about its cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Instance {
    /// Layout of the data directory.
    pub format: u32,
    /// The cluster's number on this machine.
    pub number: u8,
    /// The API server's port.
    pub port: u16,
    /// The address by which other machines reach this one, when the cluster is not this machine only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advertise: Option<IpAddr>,
    /// What runs here.
    #[serde(default)]
    pub role: Role,
    #[serde(skip)]
    pub dir: PathBuf,
}

/// What a data directory is of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    /// A cluster, or the control plane of one.
    #[default]
    Server,
    /// A node of a cluster elsewhere.
    Agent {
        /// The API server's URL.
        server: String,
    },
}

/// The right to run the cluster of a data directory; given up when dropped.
pub struct Running {
    _lock: Flock<File>,
}

pub fn kubeconfig_path(dir: &Path) -> PathBuf {
    dir.join("kubeconfig")
}

fn settings_path(dir: &Path) -> PathBuf {
    dir.join("instance.json")
}

/// How long a process may take to end after it was killed.
const ENDING: Duration = Duration::from_secs(10);

/// Whether a process runs. The kernel shows one whose first thread has ended as a zombie, while other threads may still
/// hold what it had open.
fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

fn pid_path(dir: &Path) -> PathBuf {
    dir.join("run/caravel.pid")
}

/// Which process a number means: the namespace that counts so, and when the process was started.
fn identity(pid: i32) -> Option<String> {
    let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // What follows the name in parentheses begins with the third field; the start is the twenty-second.
    let start = stat.rsplit_once(") ")?.1.split(' ').nth(19)?;
    Some(format!("{} {start}", namespace.display()))
}

impl Instance {
    /// The cluster in `dir`, if there is one.
    pub fn read(dir: &Path) -> Result<Option<Instance>> {
        let path = settings_path(dir);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e).with_context(|| path.display().to_string()),
        };
        let mut instance: Instance =
            serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))?;
        if instance.format > FORMAT {
            bail!(
                "{} was written by a newer caravel (layout {}; this program knows {FORMAT}): use that version or a newer one",
                dir.display(),
                instance.format
            );
        }
        instance.dir = dir.to_owned();
        Ok(Some(instance))
    }

    /// The cluster in `dir`, made if there is none. `port` changes the port it had.
    pub fn open(dir: &Path, port: Option<u16>) -> Result<Instance> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).with_context(|| dir.display().to_string())?;
        let dir = fs::canonicalize(dir)?;
        for sub in ["pki", "store", "containerd", "node", "cni", "logs", "run"] {
            fs::create_dir_all(dir.join(sub))?;
        }
        fs::create_dir_all(CLAIMS).with_context(|| format!("{CLAIMS}: caravel needs to run as root"))?;
        let lock =
            Flock::lock(File::create(Path::new(CLAIMS).join("lock"))?, FlockArg::LockExclusive).map_err(|(_, e)| e)?;
        let mut instance = match Instance::read(&dir)? {
            Some(instance) => {
                if let Some(owner) = claimed(instance.number).filter(|owner| *owner != dir) {
                    bail!(
                        "the cluster in {} has number {} on this machine, and so has the one in {}: remove one with `caravel down --purge`",
                        dir.display(),
                        instance.number,
                        owner.display()
                    );
                }
                instance
            }
            None => Instance {
                format: FORMAT,
                number: free_number()?,
                port: port.unwrap_or(6443),
                advertise: None,
                role: Role::default(),
                dir: dir.clone(),
            },
        };
        instance.port = port.unwrap_or(instance.port);
        instance.dir = dir;
        fs::write(claim_path(instance.number), instance.dir.as_os_str().as_encoded_bytes())?;
        instance.save()?;
        drop(lock);
        Ok(instance)
    }

    /// Writes its settings.
    pub fn save(&self) -> Result<()> {
        write_whole(&settings_path(&self.dir), &serde_json::to_vec_pretty(self)?)
    }

    /// The address of this machine's node: the bridge's when the cluster is this machine only.
    pub fn address(&self) -> IpAddr {
        self.advertise.unwrap_or(IpAddr::V4(self.gateway()))
    }

    /// Takes the right to run it; an error when a process has it already.
    pub fn lock(&self) -> Result<Running> {
        let dir = self.dir.display();
        for _ in 0..3 {
            let file = OpenOptions::new().create(true).append(true).mode(0o600).open(self.dir.join("run/lock"))?;
            if let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                let pid = std::process::id();
                write_whole(&self.identity_path(), identity(pid.cast_signed()).unwrap_or_default().as_bytes())?;
                write_whole(&pid_path(&self.dir), pid.to_string().as_bytes())?;
                return Ok(Running { _lock: lock });
            }
            if let Some(pid) = self.pid() {
                bail!("the cluster in {dir} is already running (pid {pid}); `caravel status` tells more");
            }
            // It has just ended.
        }
        bail!("the cluster in {dir} is held by a process that does not say which it is")
    }

    /// The process that runs it; `None` when none does. One that was killed and is not gone yet is waited for: it holds
    /// its ports and files until its last thread has ended.
    pub fn pid(&self) -> Option<i32> {
        let patience = Instant::now() + ENDING;
        loop {
            let file = OpenOptions::new().append(true).open(self.dir.join("run/lock")).ok()?;
            if Flock::lock(file, FlockArg::LockExclusiveNonblock).is_ok() {
                // Nobody holds it: whatever the file says is of the past.
                return None;
            }
            let pid = fs::read_to_string(pid_path(&self.dir)).ok().and_then(|text| text.trim().parse().ok());
            if pid.is_some_and(is_alive) || Instant::now() > patience {
                return pid;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn identity_path(&self) -> PathBuf {
        self.dir.join("run/caravel.process")
    }

    /// Whether a process that [`Instance::pid`] told of is the one that wrote so: it may have been counted in another pid namespace, where
    /// the number means another process than here.
    pub fn is_meant(&self, pid: i32) -> bool {
        match fs::read_to_string(self.identity_path()) {
            Ok(noted) if !noted.is_empty() => identity(pid).as_ref() == Some(&noted),
            // An older program did not note it.
            _ => true,
        }
    }

    /// Gives the number back; the data directory must be gone or about to go.
    pub fn release(&self) {
        if claimed(self.number).is_none_or(|owner| owner == self.dir) {
            let _ = fs::remove_file(claim_path(self.number));
        }
        if fs::read_dir(CLAIMS).is_ok_and(|d| d.flatten().all(|e| e.file_name() == "lock")) {
            let _ = fs::remove_dir_all(CLAIMS);
        }
    }

    /// Addresses of this machine's Pods when the cluster is this machine only, /24.
    pub fn own_pod_cidr(&self) -> String {
        format!("10.{}.0.0/24", 244 - self.number)
    }

    /// Addresses of all Pods, /16.
    pub fn cluster_cidr(&self) -> String {
        format!("10.{}.0.0/16", 244 - self.number)
    }

    /// The bridge's address, which is the node's address when the cluster is this machine only.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 244 - self.number, 0, 1)
    }

    /// Addresses of Services, /16.
    pub fn service_cidr(&self) -> String {
        format!("10.{}.0.0/16", 96 + self.number)
    }

    /// The address of the cluster's DNS Service.
    pub fn dns_ip(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 96 + self.number, 0, 10)
    }

    /// The nftables table, and the cgroup's name.
    pub fn tag(&self) -> String {
        format!("caravel{}", self.number)
    }

    /// The port of the node's API: the usual one for the first cluster.
    pub fn kubelet_port(&self) -> u16 {
        if self.number == 0 { 10250 } else { 20250 + u16::from(self.number) }
    }
}

fn claim_path(number: u8) -> PathBuf {
    Path::new(CLAIMS).join(number.to_string())
}

/// The data directory that has this number, if that cluster still exists.
fn claimed(number: u8) -> Option<PathBuf> {
    let dir = PathBuf::from(fs::read_to_string(claim_path(number)).ok()?);
    let there = Instance::read(&dir).ok().flatten().is_some_and(|i| i.number == number);
    there.then_some(dir)
}

fn free_number() -> Result<u8> {
    match (0..MOST).find(|n| claimed(*n).is_none()) {
        Some(number) => Ok(number),
        None => bail!("{MOST} clusters live on this machine already, and that is the most: purge one"),
    }
}

/// Writes a small file so that a crash leaves the old or the new one, never half.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = path.with_extension("new");
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_has_ended_is_not_alive_before_anybody_asked_for_its_status() {
        assert!(is_alive(std::process::id() as i32));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id() as i32;
        while is_alive(pid) {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(!is_alive(pid));
    }

    #[test]
    fn two_numbers_share_no_name_and_no_range() {
        let of = |number| {
            let role = Role::default();
            let i = Instance { format: FORMAT, number, port: 1, advertise: None, role, dir: PathBuf::new() };
            [i.own_pod_cidr(), i.service_cidr(), i.tag(), i.kubelet_port().to_string()]
        };
        let mut all: Vec<String> = (0..MOST).flat_map(of).collect();
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn a_newer_layout_is_refused_and_a_damaged_one_named() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(Instance::read(dir.path()).expect("nothing is not an error").is_none());
        fs::write(settings_path(dir.path()), r#"{"format":99,"number":0,"port":1}"#).expect("write");
        let error = Instance::read(dir.path()).expect_err("newer").to_string();
        assert!(error.contains("newer caravel"), "{error}");
        fs::write(settings_path(dir.path()), "{").expect("write");
        assert!(Instance::read(dir.path()).expect_err("damaged").to_string().contains("damaged"));
    }
}
