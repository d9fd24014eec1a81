//! The node's life from start to stop. Stopping leaves all containers running; the next start finds and keeps them.

use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use caravel_client::{Cluster, ListSelector};
use caravel_runtime::Runtime;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::cgroup::Cgroups;
use crate::config::Config;
use crate::image::Pulls;
use crate::machine::Machine;
use crate::manager::Manager;
use crate::objects::Watches;
use crate::register;
use crate::shared::Shared;
use crate::volume::Volumes;

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
pub async fn run(config: Config, cluster: Cluster, runtime: Arc<dyn Runtime>, stop: CancellationToken) -> Result<(), Error> {
    let started = start(config, cluster, runtime, stop.clone()).await?;
    stop.cancelled().await;
    drop(started);
    Ok(())
}

/// Starts a node; its tasks run until `stop`.
pub async fn start(config: Config, cluster: Cluster, runtime: Arc<dyn Runtime>, stop: CancellationToken) -> Result<Started, Error> {
    let pods_dir = config.root_dir.join("pods");
    prepare(pods_dir.display().to_string(), std::fs::create_dir_all(&pods_dir))?;
    prepare(config.log_dir.display().to_string(), std::fs::create_dir_all(&config.log_dir))?;
    let cgroups = prepare("the cgroup tree", Cgroups::detect(&config.cgroup_root))?;
    prepare(format!("the cgroup {}", config.cgroup_root), cgroups.prepare())?;
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
        recorder: cluster.recorder("kubelet"),
        volumes: Volumes::new(client.clone(), watches),
        pulls: Pulls::new(config.max_parallel_pulls),
        services: cluster.informer::<Service>(),
        node: cluster.informer_with::<Node>(ListSelector::fields(format!("metadata.name={name}"))),
        owners: Default::default(),
        cgroups,
        runtime,
        client,
        config,
    });
    let manager = Manager::new(shared.clone());
    let _ = hinted.set(Arc::downgrade(&manager));
    tokio::spawn(live(shared.clone(), manager.clone(), cluster, stop));
    Ok(Started { manager, shared })
}

async fn live(shared: Arc<Shared>, manager: Arc<Manager>, cluster: Cluster, stop: CancellationToken) {
    let work = async {
        let node = register::register(&shared.client, &shared.config).await;
        let look = Arc::new(Notify::new());
        let lease = register::renew(shared.client.clone(), node, shared.config.lease_duration, stop.clone());
        let status = register::keep_status(shared.clone(), manager.clone(), look.clone(), stop.clone());
        let events = manager.clone().follow_runtime(stop.clone());
        let pods = pods(shared.clone(), manager.clone(), cluster);
        tokio::join!(lease, status, events, pods);
    };
    tokio::select! {
        () = work => {}
        () = stop.cancelled() => {}
    }
}

async fn pods(shared: Arc<Shared>, manager: Arc<Manager>, cluster: Cluster) {
    // Admission looks at the Node's labels.
    shared.node.synced().await;
    let informer = cluster.informer_with::<Pod>(ListSelector::fields(format!("spec.nodeName={}", shared.config.node_name)));
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
