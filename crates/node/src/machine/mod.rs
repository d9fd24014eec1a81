//! What the machine is and has.

use std::fs;
use std::path::Path;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::config::Config;
use crate::quantity::{self, Resources};

/// The facts a node reports of its machine.
#[derive(Debug, Clone, Default)]
pub struct Machine {
    /// CPUs.
    pub cpus: u64,
    /// Memory, bytes.
    pub memory: u64,
    /// The file system of Pods, bytes.
    pub disk: u64,
    /// `/etc/machine-id`.
    pub machine_id: String,
    /// The firmware's id of the system.
    pub system_uuid: String,
    /// Changes with every boot.
    pub boot_id: String,
    /// `uname -r`.
    pub kernel: String,
    /// `PRETTY_NAME` of `/etc/os-release`.
    pub os_image: String,
    /// Swap, bytes.
    pub swap: u64,
}

impl Machine {
    /// Looks. `dir` lies on the file system that Pods use.
    pub fn detect(dir: &Path) -> Self {
        let word = |p: &str| fs::read_to_string(p).unwrap_or_default().trim().to_owned();
        let machine_id = word("/etc/machine-id");
        let boot_id = word("/proc/sys/kernel/random/boot_id");
        let uuid = word("/sys/class/dmi/id/product_uuid");
        let os_image = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let os_image =
            os_image.lines().find_map(|l| l.strip_prefix("PRETTY_NAME=")).map(|v| v.trim_matches('"').to_owned());
        Machine {
            cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u64),
            memory: meminfo("MemTotal"),
            disk: disk(dir).map_or(0, |d| d.total),
            system_uuid: if uuid.is_empty() { machine_id.clone() } else { uuid },
            machine_id: if machine_id.is_empty() { boot_id.clone() } else { machine_id },
            boot_id,
            kernel: word("/proc/sys/kernel/osrelease"),
            os_image: os_image.unwrap_or_else(|| "Linux".into()),
            swap: meminfo("SwapTotal"),
        }
    }

    /// What there is.
    pub fn capacity(&self, config: &Config) -> Resources {
        let q = |s: String| Quantity(s);
        Resources::from([
            ("cpu".to_owned(), q(self.cpus.to_string())),
            ("memory".to_owned(), quantity::bytes(self.memory)),
            ("ephemeral-storage".to_owned(), quantity::bytes(self.disk)),
            ("hugepages-1Gi".to_owned(), q("0".into())),
            ("hugepages-2Mi".to_owned(), q("0".into())),
            ("pods".to_owned(), q(config.max_pods.to_string())),
        ])
    }

    /// What there is for Pods: less what is reserved and what must stay free.
    pub fn allocatable(&self, config: &Config) -> Resources {
        let mut all = self.capacity(config);
        let cpu = i64::try_from(self.cpus).unwrap_or(i64::MAX) * 1000 - config.reserved.cpu_millis;
        let cpu = if cpu % 1000 == 0 { (cpu / 1000).to_string() } else { format!("{cpu}m") };
        all.insert("cpu".into(), Quantity(cpu));
        let reserved = u64::try_from(config.reserved.memory_bytes).unwrap_or(0) + config.thresholds.memory_available;
        all.insert("memory".into(), quantity::bytes(self.memory.saturating_sub(reserved)));
        let free = config.thresholds.nodefs_available.of(self.disk);
        all.insert("ephemeral-storage".into(), Quantity(self.disk.saturating_sub(free).to_string()));
        all
    }
}

/// A line of `/proc/meminfo`, bytes.
pub fn meminfo(key: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'));
    line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// A file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct Disk {
    /// Bytes.
    pub total: u64,
    /// Bytes free for users.
    pub available: u64,
    /// Inodes.
    pub inodes: u64,
    /// Inodes free.
    pub inodes_free: u64,
}

/// The file system a path lies on.
#[allow(clippy::unnecessary_cast)] // The fields' widths differ between platforms.
pub fn disk(path: &Path) -> Option<Disk> {
    let s = nix::sys::statvfs::statvfs(path).ok()?;
    let unit = s.fragment_size() as u64;
    Some(Disk {
        total: s.blocks() as u64 * unit,
        available: s.blocks_available() as u64 * unit,
        inodes: s.files() as u64,
        inodes_free: s.files_available() as u64,
    })
}

/// Go's name of this architecture.
pub fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
