//! A containerd for one test, and what to run in it.
#![allow(clippy::unwrap_used)]
#![allow(dead_code)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use caravel_runtime::containerd::{Config, Containerd, Programs, purge};
use caravel_runtime::images::build::{Builder, FileSource};
use caravel_runtime::{
    ContainerConfig, Event, EventStream, NamespaceMode, Runtime, SandboxConfig, SandboxMetadata, SecurityProfile,
};
use futures::StreamExt;

pub const BUSYBOX: &str = "docker.io/library/busybox:latest";

pub struct Node {
    pub dir: tempfile::TempDir,
    pub config: Config,
    pub daemon: Arc<Containerd>,
}

impl Node {
    /// A running daemon with the busybox image; `None` where that cannot be had.
    pub async fn start(name: &str) -> Option<Node> {
        Self::start_below(name, "").await
    }

    /// The same with a data directory deeper down.
    pub async fn start_below(name: &str, below: &str) -> Option<Node> {
        if !nix::unistd::geteuid().is_root() || Programs::find().is_err() || !Path::new("/bin/busybox").exists() {
            eprintln!("skipped: needs root, containerd, runc and busybox-static");
            return None;
        }
        let dir = tempfile::Builder::new().prefix("cvl-").tempdir().unwrap();
        let mut config = Config::new(dir.path().join(below), 0);
        config.cgroup_root = format!("/caravel-test-{name}-{}", std::process::id());
        config.run_dir = dir.path().join("run");
        let daemon = match Containerd::start(config.clone()).await {
            Ok(daemon) => daemon,
            Err(error) => {
                let _ = purge(&config).await;
                panic!("{error}");
            }
        };
        let bundle = tokio::task::spawn_blocking(busybox).await.unwrap();
        daemon.images().put(&bundle, true).await.unwrap();
        Some(Node { dir, config, daemon })
    }

    /// Removes everything and checks that nothing is left.
    pub async fn finish(self) {
        self.daemon.stop().await;
        purge(&self.config).await.unwrap();
        assert_eq!(traces(&self.config), Vec::<String>::new());
    }

    /// A point-to-point network with addresses of its own; `false` without plug-ins.
    pub fn write_cni(&self) -> bool {
        let bin = self.config.cni_bin();
        for plugin in ["loopback", "ptp", "host-local"] {
            let from = Path::new("/usr/lib/cni").join(plugin);
            if !from.exists() || std::os::unix::fs::symlink(&from, bin.join(plugin)).is_err() {
                return false;
            }
        }
        let subnet = std::process::id() % 250;
        let conf = format!(
            r#"{{"cniVersion":"0.4.0","name":"t","plugins":[{{"type":"ptp","ipam":{{"type":"host-local",
            "dataDir":"{}","ranges":[[{{"subnet":"10.199.{subnet}.0/24"}}]]}}}}]}}"#,
            self.dir.path().join("ipam").display()
        );
        std::fs::write(self.config.cni_conf().join("10-t.conflist"), conf).unwrap();
        true
    }

    pub async fn wait_network(&self) {
        for _ in 0..200 {
            if self.daemon.runtime().status().await.unwrap().network_ready() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("the network is not ready: {:?}", self.daemon.runtime().status().await);
    }
}

impl Drop for Node {
    /// After a failed assertion the machine must be left clean too.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.daemon.release();
            let config = self.config.clone();
            let _ = std::thread::spawn(move || {
                if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() {
                    let _ = runtime.block_on(purge(&config));
                }
            })
            .join();
        }
    }
}

fn busybox() -> caravel_runtime::images::Bundle {
    let mut builder = Builder::new(BUSYBOX).unwrap();
    builder.file("bin/busybox", FileSource::Path("/bin/busybox".into()), 0o755).unwrap();
    for applet in ["sh", "sleep", "cat", "true", "hostname", "id", "ls", "nc", "echo"] {
        builder.file(&format!("bin/{applet}"), FileSource::Link("busybox".into()), 0o777).unwrap();
    }
    builder.file("tmp", FileSource::Dir, 0o1777).unwrap();
    builder.cmd = vec!["sh".into()];
    builder.build().unwrap()
}

/// What `docker save` would write for an image with busybox and `/hello`.
pub fn docker_archive(path: &Path, name: &str) {
    let mut layer = tar::Builder::new(Vec::new());
    let mut add = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o755);
        layer.append_data(&mut header, name, bytes).unwrap();
    };
    add("bin/cat", &std::fs::read("/bin/busybox").unwrap());
    add("hello", b"hello\n");
    let layer = layer.into_inner().unwrap();
    let digest = caravel_runtime::images::bundle::Data::Bytes(layer.clone().into()).digest().unwrap().0;
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"Env":["PATH=/bin"]}},
        "rootfs":{{"type":"layers","diff_ids":["{digest}"]}}}}"#
    );
    let manifest = format!(r#"[{{"Config":"c.json","RepoTags":["{name}"],"Layers":["l/layer.tar"]}}]"#);
    let mut tar = tar::Builder::new(std::fs::File::create(path).unwrap());
    for (name, bytes) in [("c.json", config.into_bytes()), ("l/layer.tar", layer), ("manifest.json", manifest.into())] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, bytes.as_slice()).unwrap();
    }
    tar.finish().unwrap();
}

/// A sandbox on the host's network.
pub fn sandbox(node: &Node, name: &str) -> SandboxConfig {
    let mut config = SandboxConfig {
        metadata: SandboxMetadata {
            name: name.into(),
            uid: format!("uid-{name}"),
            namespace: "default".into(),
            attempt: 0,
        },
        log_directory: node.dir.path().join("logs/pods").join(name).to_string_lossy().into_owned(),
        cgroup_parent: format!("{}/besteffort/pod-{name}", node.config.cgroup_root),
        ..Default::default()
    };
    config.security.namespaces.network = NamespaceMode::Node;
    config.security.namespaces.pid = NamespaceMode::Container;
    config.security.seccomp = Some(SecurityProfile::RuntimeDefault);
    config
}

pub fn container(name: &str, command: &[&str]) -> ContainerConfig {
    let mut config = ContainerConfig {
        name: name.into(),
        image: BUSYBOX.into(),
        command: command.iter().map(|c| c.to_string()).collect(),
        log_path: format!("{name}/0.log"),
        ..Default::default()
    };
    config.security.namespaces.network = NamespaceMode::Node;
    config.security.namespaces.pid = NamespaceMode::Container;
    config.security.seccomp = Some(SecurityProfile::RuntimeDefault);
    config
}

/// Waits for the exit of a container: its code and time.
pub async fn next_exit(events: &mut EventStream, wanted: &str) -> (u32, i64) {
    let wait = async {
        loop {
            match events.next().await {
                Some(Event::Exited { id, exit_code, exited_at }) if id == wanted => return (exit_code, exited_at),
                Some(_) => {}
                None => panic!("the events ended"),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.expect("no exit event")
}

pub fn now_ns() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as i64
}

/// Everything on this machine that names the daemon's directory or cgroup: files, mounts, processes, cgroups.
pub fn traces(config: &Config) -> Vec<String> {
    let mut found = Vec::new();
    let dir = config.dir();
    if dir.exists() {
        found.push(format!("directory {}", dir.display()));
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let text = dir.to_string_lossy();
    found.extend(mounts.lines().filter(|l| l.contains(&*text)).map(|l| format!("mount {l}")));
    for hierarchy in caravel_runtime::containerd::cgroup::hierarchies() {
        let path = hierarchy.join(config.cgroup_root.trim_start_matches('/'));
        if path.exists() {
            found.push(format!("cgroup {}", path.display()));
        }
    }
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if command.contains(&*text) {
            found.push(format!("process {command}"));
        }
    }
    found
}

/// Whether a process runs (a zombie that nobody took from the process table does not).
pub fn runs(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// Kills everything of the daemon at once and drops its mounts, as the end of power does.
pub fn power_off(config: &Config) {
    let socket = config.socket().to_string_lossy().into_owned();
    for _ in 0..3 {
        let mut pids: Vec<i32> = Vec::new();
        for hierarchy in caravel_runtime::containerd::cgroup::hierarchies() {
            let dir = hierarchy.join(config.cgroup_root.trim_start_matches('/'));
            pids.extend(caravel_runtime::containerd::cgroup::processes(&dir));
        }
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&command).contains(&socket) {
                pids.extend(entry.file_name().to_string_lossy().parse::<i32>());
            }
        }
        for pid in pids {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    caravel_runtime::containerd::unmount_below(&config.dir());
}
