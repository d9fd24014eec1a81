//! The configuration a containerd of ours is started with.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::host::Host;

/// The longest path of a Unix socket is 107 bytes; containerd adds `.ttrpc` to it.
const SOCKET_PATH: usize = 100;

/// What differs between two containerds on one machine.
#[derive(Debug, Clone)]
pub struct Config {
    /// The cluster's data directory; `containerd/`, `cni/` and `logs/` below it are used.
    pub data_dir: PathBuf,
    /// A directory with a short path, for sockets when the data directory's path is too long: `/run/caravel<k>`.
    pub run_dir: PathBuf,
    /// The cgroup that everything of the cluster lives in: `/caravel<k>`. containerd and its shims go to `runtime` in it.
    pub cgroup_root: String,
    /// Layers fetched at once in one pull.
    pub max_concurrent_downloads: u32,
    /// The longest line of a container's log before it is split, bytes.
    pub max_log_line: u32,
}

impl Config {
    /// The settings of instance `k` on this machine.
    pub fn new(data_dir: impl Into<PathBuf>, instance: u32) -> Self {
        Config {
            data_dir: data_dir.into(),
            run_dir: PathBuf::from(format!("/run/caravel{instance}")),
            cgroup_root: format!("/caravel{instance}"),
            max_concurrent_downloads: 3,
            max_log_line: 16 << 10,
        }
    }

    /// containerd's own directory.
    pub fn dir(&self) -> PathBuf {
        self.data_dir.join("containerd")
    }

    /// What survives a reboot: images, snapshots, metadata.
    pub fn root(&self) -> PathBuf {
        self.dir().join("root")
    }

    /// What does not: bundles, network namespaces.
    pub fn state(&self) -> PathBuf {
        self.dir().join("state")
    }

    /// runc's state, of our own so that [`purge`](super::purge) finds all of it.
    pub fn runc_root(&self) -> PathBuf {
        self.dir().join("runc")
    }

    /// Where registries are configured, a directory each.
    pub fn registries(&self) -> PathBuf {
        self.dir().join("certs.d")
    }

    /// CNI plug-ins.
    pub fn cni_bin(&self) -> PathBuf {
        self.data_dir.join("cni/bin")
    }

    /// CNI configurations.
    pub fn cni_conf(&self) -> PathBuf {
        self.data_dir.join("cni/conf")
    }

    /// Where CDI specifications are looked for: the machine's directories, and one of the cluster's own, whose word counts more.
    pub fn cdi_dirs(&self) -> [PathBuf; 3] {
        ["/etc/cdi".into(), "/var/run/cdi".into(), self.data_dir.join("cdi")]
    }

    /// containerd's messages.
    pub fn log(&self) -> PathBuf {
        self.data_dir.join("logs/containerd.log")
    }

    /// The configuration file.
    pub fn file(&self) -> PathBuf {
        self.dir().join("config.toml")
    }

    /// Names the running process.
    pub fn pid_file(&self) -> PathBuf {
        self.dir().join("containerd.pid")
    }

    /// The socket: in the data directory when its path is short enough.
    pub fn socket(&self) -> PathBuf {
        let path = self.dir().join("containerd.sock");
        if path.as_os_str().len() <= SOCKET_PATH {
            return path;
        }
        self.run_dir.join("containerd.sock")
    }
}

/// Plug-ins that would only cost time. (`runtime.v1.linux` is of no use either, but 1.6 does not start without it.)
const DISABLED: [&str; 6] = [
    "io.containerd.internal.v1.restart",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
    "io.containerd.tracing.processor.v1.otlp",
];

/// The file's text (TOML, version 2 of containerd's format). Before 1.7 containerd knows no CDI and overlooks its settings.
pub fn render(config: &Config, host: &Host) -> String {
    let mut out = String::new();
    let disabled: Vec<String> = DISABLED.iter().map(|p| quote(p)).collect();
    // Writing to a String does not fail.
    let _ = write!(
        out,
        r#"# Written at each start; changes here are lost.
version = 2
root = {root}
state = {state}
disabled_plugins = [{disabled}]

[grpc]
address = {socket}

[plugins."io.containerd.internal.v1.opt"]
path = {opt}

[plugins."io.containerd.monitor.v1.cgroups"]
no_prometheus = true

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = {pause}
stream_server_address = "127.0.0.1"
stream_server_port = "0"
stream_idle_timeout = "4h0m0s"
max_container_log_line_size = {line}
max_concurrent_downloads = {downloads}
disable_apparmor = {disable_apparmor}
restrict_oom_score_adj = {restrict_oom}
disable_hugetlb_controller = {disable_hugetlb}
tolerate_missing_hugetlb_controller = true
enable_unprivileged_ports = true
enable_unprivileged_icmp = true
netns_mounts_under_state_dir = true
stats_collect_period = 60
enable_cdi = true
cdi_spec_dirs = [{cdi}]

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = {cni_bin}
conf_dir = {cni_conf}
max_conf_num = 1

[plugins."io.containerd.grpc.v1.cri".registry]
config_path = {registries}

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = {snapshotter}
default_runtime_name = "runc"
discard_unpacked_layers = true

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = {runc}
Root = {runc_root}
SystemdCgroup = false
"#,
        root = path(&config.root()),
        state = path(&config.state()),
        disabled = disabled.join(", "),
        socket = path(&config.socket()),
        opt = path(&config.dir().join("opt")),
        pause = quote(crate::pause::IMAGE),
        line = config.max_log_line,
        downloads = config.max_concurrent_downloads,
        disable_apparmor = !host.apparmor,
        restrict_oom = !host.negative_oom_score,
        disable_hugetlb = !host.hugetlb,
        cdi = config.cdi_dirs().each_ref().map(|dir| path(dir)).join(", "),
        cni_bin = path(&config.cni_bin()),
        cni_conf = path(&config.cni_conf()),
        registries = path(&config.registries()),
        snapshotter = quote(if host.overlayfs { "overlayfs" } else { "native" }),
        runc = path(&host.programs.runc),
        runc_root = path(&config.runc_root()),
    );
    out
}

fn path(path: &Path) -> String {
    quote(&path.to_string_lossy())
}

/// A TOML basic string.
fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// What a person finds in the directory of registries.
pub const REGISTRIES_README: &str = r#"Registries
==========

One directory for each registry, named as in image names (with the port), holding a file hosts.toml; `_default` is for
all that have none. Changes count at once. Without a directory a registry is reached by https, and one on localhost or
127.0.0.1 by plain http.

A registry at 10.0.0.5:5000 that speaks plain http, in `10.0.0.5:5000/hosts.toml`:

    server = "http://10.0.0.5:5000"

    [host."http://10.0.0.5:5000"]
      capabilities = ["pull", "resolve"]

A mirror for everything, in `_default/hosts.toml`:

    [host."https://mirror.example"]
      capabilities = ["pull", "resolve"]
      ca = "/etc/ssl/mirror-ca.pem"

An empty directory is not "no settings": it hides `_default`.
"#;

#[cfg(test)]
mod tests {
    use super::super::host::Programs;
    use super::*;

    fn host(can: bool) -> Host {
        Host {
            programs: Programs {
                containerd: "/usr/bin/containerd".into(),
                shim: "/usr/bin/containerd-shim-runc-v2".into(),
                runc: "/usr/sbin/runc".into(),
            },
            apparmor: can,
            negative_oom_score: can,
            overlayfs: can,
            hugetlb: can,
        }
    }

    #[test]
    fn what_the_host_lacks_is_switched_off() {
        let config = Config::new("/var/lib/caravel", 0);
        let poor = render(&config, &host(false));
        for line in [
            "disable_apparmor = true",
            "restrict_oom_score_adj = true",
            "snapshotter = \"native\"",
            "disable_hugetlb_controller = true",
            "SystemdCgroup = false",
            "sandbox_image = \"caravel.local/pause:1\"",
            "address = \"/var/lib/caravel/containerd/containerd.sock\"",
            "Root = \"/var/lib/caravel/containerd/runc\"",
            "cdi_spec_dirs = [\"/etc/cdi\", \"/var/run/cdi\", \"/var/lib/caravel/cdi\"]",
        ] {
            assert!(poor.contains(line), "{line} is not in\n{poor}");
        }
        let rich = render(&config, &host(true));
        for line in ["disable_apparmor = false", "restrict_oom_score_adj = false", "snapshotter = \"overlayfs\""] {
            assert!(rich.contains(line), "{line} is not in\n{rich}");
        }
    }

    #[test]
    fn long_data_directories_get_a_short_socket() {
        let config = Config::new(format!("/{}", "x".repeat(120)), 3);
        assert_eq!(config.socket(), Path::new("/run/caravel3/containerd.sock"));
    }

    #[test]
    fn strings_are_quoted() {
        assert_eq!(quote("a\"b\\c\n"), r#""a\"b\\c\u000a""#);
    }
}
