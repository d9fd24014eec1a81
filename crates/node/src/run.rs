//! The node's life from start to stop. Stopping leaves all containers running; the next start finds and keeps them.

use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use caravel_client::{Change, Cluster, ListSelector};
use caravel_runtime::Runtime;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::cgroup::Cgroups;
use crate::config::Config;
use crate::devices::Devices;
use crate::devices::registry::Registry;
use crate::image::Pulls;
use crate::machine::Machine;
use crate::manager::Manager;
use crate::manifests;
use crate::objects::Watches;
use crate::register;
use crate::server;
use crate::shared::Shared;
use crate::source::PodSource;
use crate::upkeep;
use crate::volume::{Volumes, mounts};

/// A missed event costs at most this much time.
const SAFETY_NET: Duration = Duration::from_secs(300);

/// What keeps a node from starting.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A directory or cgroup cannot be made.
    #[error("cannot prepare {what}: {source}")]
    Prepare {
        /// Which.
        what: String,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The HTTPS API cannot be served.
    #[error("the node's API cannot be served on port {port}: {why}")]
    Serve {
        /// The port.
        port: u16,
        /// Why not.
        why: String,
    },
}

fn prepare<T>(what: impl Into<String>, r: std::io::Result<T>) -> Result<T, Error> {
    r.map_err(|source| Error::Prepare { what: what.into(), source })
}

/// A node that was started.
pub struct Started {
    /// Its Pods, for the HTTPS API.
    pub manager: Arc<Manager>,
    /// What all parts share.
    pub shared: Arc<Shared>,
}

/// Runs a node until it is told to stop.
pub async fn run(
    config: Config,
    cluster: Cluster,
    runtime: Arc<dyn Runtime>,
    stop: CancellationToken,
) -> Result<(), Error> {
    let started = start(config, cluster, runtime, stop.clone()).await?;
    stop.cancelled().await;
    drop(started);
    Ok(())
}

/// Starts a node; its tasks run until `stop`.
pub async fn start(
    config: Config,
    cluster: Cluster,
    runtime: Arc<dyn Runtime>,
    stop: CancellationToken,
) -> Result<Started, Error> {
    let pods_dir = config.root_dir.join("pods");
    prepare(pods_dir.display().to_string(), std::fs::create_dir_all(&pods_dir))?;
    prepare(config.log_dir.display().to_string(), std::fs::create_dir_all(&config.log_dir))?;
    let cgroups = prepare("the cgroup tree", Cgroups::detect(&config.cgroup_root))?;
    prepare(format!("the cgroup {}", config.cgroup_root), cgroups.prepare())?;
    let record = config.root_dir.join("devices.json");
    let what = format!("what is known of prepared devices ({})", record.display());
    let devices = prepare(what, Devices::open(record, config.cdi_dirs.clone()))?;
    let client = cluster.client();
    let hinted: Arc<OnceLock<Weak<Manager>>> = Arc::default();
    let to_hint = hinted.clone();
    let watches = Watches::new(client.clone(), move |uid| {
        if let Some(m) = to_hint.get().and_then(Weak::upgrade) {
            m.hint(uid);
        }
    });
    let name = config.node_name.clone();
    let shared = Arc::new(Shared {
        machine: Machine::detect(&config.root_dir),
        recorder: cluster.recorder_on("kubelet", &name),
        volumes: Volumes::new(client.clone(), runtime.clone(), watches),
        pulls: Pulls::new(config.max_parallel_pulls),
        devices,
        services: cluster.informer::<Service>(),
        node: cluster.informer_with::<Node>(ListSelector::fields(format!("metadata.name={name}"))),
        pressure: Default::default(),
        owners: Default::default(),
        cgroups,
        runtime,
        client,
        config,
    });
    let manager = Manager::new(shared.clone());
    let _ = hinted.set(Arc::downgrade(&manager));
    serve(&shared, &manager, &stop).await?;
    tokio::spawn(live(shared.clone(), manager.clone(), cluster, stop));
    Ok(Started { manager, shared })
}

/// Serves the HTTPS API, if there is a certificate for it.
async fn serve(shared: &Arc<Shared>, manager: &Arc<Manager>, stop: &CancellationToken) -> Result<(), Error> {
    let config = &shared.config;
    let port = config.port;
    let failed = |why: String| Error::Serve { port, why };
    let (Some((chain, key)), Some(client_ca)) = (&config.tls, &config.client_ca) else { return Ok(()) };
    let listener = tokio::net::TcpListener::bind(("::", port)).await;
    let listener = match listener {
        Ok(l) => l,
        // A machine without IPv6.
        Err(_) => tokio::net::TcpListener::bind(("0.0.0.0", port)).await.map_err(|e| failed(e.to_string()))?,
    };
    let server = server::Config {
        node_name: config.node_name.clone(),
        serving: server::ServingCert::from_pem(chain, key).map_err(|e| failed(format!("{e:#}")))?,
        client_ca: client_ca.clone(),
        root_dir: config.root_dir.clone(),
        // `/logs/pods/…` as on any node; beside it lie the logs of this program and of containerd.
        log_dir: config.log_dir.parent().unwrap_or(&config.log_dir).to_path_buf(),
        reviewer: Some(Arc::new(shared.client.clone())),
    };
    let (pods, runtime, stop): (Arc<dyn PodSource>, _, _) = (manager.clone(), shared.runtime.clone(), stop.clone());
    tokio::spawn(async move {
        if let Err(e) = server::serve(listener, server, pods, runtime, stop).await {
            tracing::error!(error = format!("{e:#}"), "the node's API ended");
        }
    });
    Ok(())
}

/// Removes what a node that has stopped left on the machine: mounts, its directory and its cgroups. Containers must have
/// been removed before.
pub fn purge(dir: &std::path::Path, cgroup_root: &str) -> Result<(), Error> {
    let what = dir.display().to_string();
    if dir.exists() {
        prepare(&what, mounts::unmount_below(dir))?;
        let left = prepare(&what, mounts::below(dir))?;
        if let Some(point) = left.first() {
            let busy = std::io::Error::other(format!("{} is still mounted", point.display()));
            return prepare(&what, Err(busy));
        }
        prepare(&what, std::fs::remove_dir_all(dir))?;
    }
    let cgroups = prepare("the cgroup tree", Cgroups::detect(cgroup_root))?;
    prepare(format!("the cgroup {cgroup_root}"), cgroups.remove_root())
}

async fn live(shared: Arc<Shared>, manager: Arc<Manager>, cluster: Cluster, stop: CancellationToken) {
    let work = async {
        let node = watch::Sender::new(register::register(&shared.client, &shared.config).await);
        let (look, gone) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (doubt, deleted) = (look.clone(), gone.clone());
        shared.node.on_change(move |c| {
            if let Change::Deleted(_) = c {
                deleted.notify_one();
            } else if register::doubted(c.object()) || register::rewritten(c) {
                doubt.notify_one();
            }
        });
        let manifests = static_pods(shared.clone(), manager.clone(), node.subscribe(), stop.clone());
        let lease =
            register::renew(shared.client.clone(), node.subscribe(), shared.config.lease_duration, stop.clone());
        let again = register_again(&shared, &node, &gone, &look);
        let status = register::keep_status(shared.clone(), manager.clone(), look.clone(), stop.clone());
        let events = manager.clone().follow_runtime(stop.clone());
        let registry = Registry {
            dir: shared.config.plugins_dir(),
            drivers: shared.devices.drivers.clone(),
            client: shared.client.clone(),
            node: shared.config.node_name.clone(),
        };
        let registry = registry.run(stop.clone());
        let upkeep = upkeep::run(shared.clone(), manager.clone(), look.clone(), stop.clone());
        let pods = pods(shared.clone(), manager.clone(), cluster);
        tokio::join!(lease, status, events, upkeep, manifests, pods, again, registry);
    };
    tokio::select! {
        () = work => {}
        () = stop.cancelled() => {}
    }
}

/// A Node that was deleted while its machine lives comes back.
async fn register_again(shared: &Shared, node: &watch::Sender<Node>, gone: &Notify, look: &Notify) {
    loop {
        gone.notified().await;
        tracing::warn!(node = shared.config.node_name, "the Node was deleted; it is registered again");
        node.send_replace(register::register(&shared.client, &shared.config).await);
        look.notify_one();
    }
}

async fn static_pods(shared: Arc<Shared>, manager: Arc<Manager>, node: watch::Receiver<Node>, stop: CancellationToken) {
    if let Some(dir) = shared.config.manifest_dir.clone() {
        manifests::run(shared, manager, node, dir, stop).await;
    }
}

async fn pods(shared: Arc<Shared>, manager: Arc<Manager>, cluster: Cluster) {
    // Admission looks at the Node's labels; mirrors are judged by the manifests.
    shared.node.synced().await;
    if shared.config.manifest_dir.is_some() {
        manager.manifests_read.cancelled().await;
    }
    let informer =
        cluster.informer_with::<Pod>(ListSelector::fields(format!("spec.nodeName={}", shared.config.node_name)));
    informer.synced().await;
    let m = manager.clone();
    informer.on_change(move |c| m.changed(c));
    loop {
        if let Err(e) = manager.reconcile_orphans().await {
            tracing::warn!(error = %e, "cannot look for orphaned pods yet");
            tokio::time::sleep(Duration::from_secs(1)).await;
            continue;
        }
        tokio::time::sleep(SAFETY_NET).await;
        manager.wake_all();
    }
}
