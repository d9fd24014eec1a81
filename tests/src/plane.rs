//! A control plane of a test's own, which it may kill.

use crate::program;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use std::collections::BTreeSet;
use std::future::Future;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// `caravel server` on loopback with a data directory of its own; killed and removed when dropped.
pub struct ControlPlane {
    pub dir: PathBuf,
    pub port: u16,
    options: Vec<String>,
    child: Mutex<Child>,
}

impl ControlPlane {
    /// Starts one and returns once it is ready.
    pub fn start() -> ControlPlane {
        Self::start_with(&[])
    }

    /// The same with more options on its command line.
    pub fn start_with(options: &[&str]) -> ControlPlane {
        let options: Vec<String> = options.iter().map(|o| (*o).to_owned()).collect();
        let dir = tempfile::Builder::new().prefix("caravel-plane-").tempdir().unwrap().keep();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Mutex::new(spawn(&dir, port, &options));
        let plane = ControlPlane { dir, port, options, child };
        plane.wait_ready();
        plane
    }

    /// The admin's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// The admin's client.
    pub async fn client(&self) -> kube::Client {
        client(self.kubeconfig()).await
    }

    /// `kill -9`, then a new process on the same data.
    pub async fn kill_and_restart(&self) {
        {
            let mut child = self.child.lock().unwrap();
            child.kill().unwrap();
            child.wait().unwrap();
            *child = spawn(&self.dir, self.port, &self.options);
        }
        tokio::task::block_in_place(|| self.wait_ready());
    }

    fn wait_ready(&self) {
        let start = Instant::now();
        loop {
            let said = Command::new("kubectl")
                .arg("--kubeconfig")
                .arg(self.kubeconfig())
                .args(["get", "--raw", "/readyz"])
                .output()
                .unwrap();
            if said.status.success() {
                return;
            }
            let log = std::fs::read_to_string(self.dir.join("plane.log")).unwrap_or_default();
            assert!(
                start.elapsed() < Duration::from_secs(30),
                "not ready: {}\n{log}",
                String::from_utf8_lossy(&said.stderr)
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Names of the ConfigMaps in `default`, by one list.
    pub async fn config_map_names(&self, client: &kube::Client) -> BTreeSet<String> {
        let api: kube::Api<ConfigMap> = kube::Api::namespaced(client.clone(), "default");
        api.list(&ListParams::default()).await.unwrap().items.into_iter().filter_map(|c| c.metadata.name).collect()
    }

    /// Names of ConfigMaps in `default` that one watch sees, which after each break goes on from its last revision
    /// and never lists again.
    pub fn watch_names(&self, stop: Arc<AtomicBool>) -> impl Future<Output = BTreeSet<String>> + use<> {
        let kubeconfig = self.kubeconfig();
        async move {
            let api: kube::Api<ConfigMap> = kube::Api::namespaced(client(kubeconfig).await, "default");
            let list = api.list(&ListParams::default()).await.unwrap();
            let mut revision = list.metadata.resource_version.unwrap();
            let mut seen: BTreeSet<String> = list.items.into_iter().filter_map(|c| c.metadata.name).collect();
            while !stop.load(Ordering::Relaxed) {
                let params = WatchParams::default().timeout(5);
                let Ok(stream) = api.watch(&params, &revision).await else {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                };
                let mut stream = stream.boxed();
                while let Ok(Some(event)) = stream.try_next().await {
                    match event {
                        WatchEvent::Added(c) | WatchEvent::Modified(c) | WatchEvent::Deleted(c) => {
                            revision = c.metadata.resource_version.unwrap();
                            seen.insert(c.metadata.name.unwrap());
                        }
                        WatchEvent::Bookmark(b) => revision = b.metadata.resource_version,
                        WatchEvent::Error(status) => {
                            panic!("the watch could not be resumed from {revision}: {status:?}")
                        }
                    }
                }
            }
            seen
        }
    }
}

/// A client for the cluster that the kubeconfig names.
pub async fn client(kubeconfig: PathBuf) -> kube::Client {
    let config = Kubeconfig::read_from(kubeconfig).unwrap();
    let mut config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.unwrap();
    // A refusal is what many tests are about: it must not be tried again behind their back.
    config.default_retry = false;
    kube::Client::try_from(config).unwrap()
}

fn spawn(dir: &std::path::Path, port: u16, options: &[String]) -> Child {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("plane.log")).unwrap();
    Command::new(program())
        .args(["server", "--bind-address", "127.0.0.1", "--port", &port.to_string(), "--data-dir"])
        .arg(dir)
        .args(options)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        let mut child = self.child.lock().unwrap();
        let _ = child.kill();
        let _ = child.wait();
        let _ = Command::new(program()).args(["down", "--purge", "--data-dir"]).arg(&self.dir).output();
    }
}
