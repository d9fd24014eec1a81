//! Wires informers to the table: changed Services are compiled and applied, many at a time when many change.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use caravel_client::{Change as ObjectChange, Cluster, Informer, Key, ListSelector};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::apply::{Applier, Error, resolver_address};
use super::base::Layout;
use super::compile::{Program, View, compile, resolver};
use super::desired::{Claimant, Desired};
use super::health::HealthServer;
use crate::config::Config;

/// Changes that arrive within this time after an application go together.
const COALESCE: Duration = Duration::from_millis(5);
/// First and longest wait after the kernel refused.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));

const BY_SERVICE: &str = "service";
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const ZONE: &str = "topology.kubernetes.io/zone";

/// Services whose rows may be out of date.
#[derive(Default)]
struct Dirty {
    keys: Mutex<HashSet<Key>>,
    wake: Notify,
}

impl Dirty {
    fn mark(&self, key: Key) {
        self.keys.lock().insert(key);
        self.wake.notify_one();
    }

    fn take(&self) -> HashSet<Key> {
        std::mem::take(&mut *self.keys.lock())
    }
}

fn service_of(slice: &EndpointSlice) -> Option<Key> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    let namespace = slice.metadata.namespace.clone()?;
    Some(Key::new(namespace, name))
}

fn index(slice: &EndpointSlice) -> Vec<String> {
    service_of(slice).iter().map(Key::to_string).collect()
}

struct Sources {
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    node: Informer<Node>,
}

impl Sources {
    fn view(&self, config: &Config) -> View {
        let node = self.node.get(&Key::cluster(&config.node_name));
        View {
            node: config.node_name.clone(),
            zone: node.and_then(|n| n.metadata.labels.as_ref()?.get(ZONE).cloned()),
            dns: resolver_address(config),
        }
    }

    fn compile(&self, key: &Key, view: &View) -> (Claimant, Option<Program>) {
        let service = self.services.get(key);
        let created =
            service.as_ref().and_then(|s| s.metadata.creation_timestamp.as_ref()).map_or(i64::MAX, |t| t.0.as_second());
        let claimant = Claimant { created, name: key.to_string() };
        let program = service.map(|service| {
            let slices = self.slices.by_index(BY_SERVICE, &claimant.name);
            compile(&service, &slices, view)
        });
        (claimant, program)
    }

    /// Marks Services on every change of theirs or of their slices.
    fn feed(&self, dirty: &Arc<Dirty>) {
        let marks = dirty.clone();
        self.services.on_change(move |change| marks.mark(Key::of(change.object().as_ref())));
        let marks = dirty.clone();
        self.slices.on_change(move |change| {
            if let ObjectChange::Updated { old, .. } = change
                && let Some(key) = service_of(old)
            {
                marks.mark(key);
            }
            if let Some(key) = service_of(change.object()) {
                marks.mark(key);
            }
        });
        // A node that moves to another zone compiles everything anew.
        let (marks, services) = (dirty.clone(), self.services.clone());
        self.node.on_change(move |change| {
            let ObjectChange::Updated { old, new } = change else {
                return;
            };
            let zone = |n: &Node| n.metadata.labels.as_ref().and_then(|l| l.get(ZONE).cloned());
            if zone(old) != zone(new) {
                for service in services.list() {
                    marks.mark(Key::of(service.as_ref()));
                }
            }
        });
    }
}

/// The part that runs on a blocking thread: the claims and the kernel.
struct Worker {
    desired: Desired,
    applier: Applier,
    /// The kernel may differ from `desired`: make the table anew.
    doubtful: bool,
}

impl Worker {
    fn step(&mut self, changed: Vec<(Claimant, Option<Program>)>) -> Result<(), Error> {
        let change = self.desired.update(changed);
        if !self.doubtful {
            if change.is_empty() && change.udp.is_empty() {
                return Ok(());
            }
            match self.applier.change(&change) {
                Ok(()) => return Ok(()),
                Err(error) => {
                    tracing::warn!(%error, "a change of the service table was refused; making it anew");
                }
            }
        }
        self.doubtful = true;
        self.applier.whole(&self.desired)?;
        self.doubtful = false;
        Ok(())
    }
}

/// Runs the proxy until `stop`. The configuration's Pod range must be known.
pub async fn run(config: Config, cluster: Cluster, stop: CancellationToken) {
    let Some(layout) = Layout::of(&config) else {
        tracing::error!(node = config.node_name, "the proxy needs the node's spec.podCIDR");
        return;
    };
    let sources = Sources {
        services: cluster.informer(),
        slices: cluster.informer(),
        node: cluster.informer_with(ListSelector::fields(format!("metadata.name={}", config.node_name))),
    };
    sources.slices.add_index(BY_SERVICE, index);
    let mut worker = Worker { desired: Desired::new(layout), applier: Applier::new(&config), doubtful: true };
    // The node's own resolver is reachable before the first list has arrived.
    let view = sources.view(&config);
    let own = Claimant { created: i64::MIN, name: "the node's resolver".to_owned() };
    if let Err(error) = worker.step(vec![(own, Some(resolver(&view)))]) {
        tracing::warn!(%error, "the service table cannot be made yet");
    }
    let complete = async {
        sources.services.synced().await;
        sources.slices.synced().await;
        sources.node.synced().await;
    };
    tokio::select! {
        () = complete => {}
        () = stop.cancelled() => return,
    }
    let dirty = Arc::new(Dirty::default());
    sources.feed(&dirty);
    let looping = serve(&config, &sources, worker, &dirty, stop.clone());
    tokio::select! {
        () = looping => {}
        () = stop.cancelled() => {}
    }
}

async fn serve(config: &Config, sources: &Sources, mut worker: Worker, dirty: &Dirty, stop: CancellationToken) {
    let mut health = HealthServer::new(stop);
    let mut retry = RETRY.0;
    loop {
        let view = sources.view(config);
        let changed: Vec<_> = dirty.take().iter().map(|key| sources.compile(key, &view)).collect();
        // The thread finishes what it started even when this future is dropped: transactions stay whole.
        let stepped = tokio::task::spawn_blocking(move || {
            let result = worker.step(changed);
            (worker, result)
        });
        let result = match stepped.await {
            Ok((returned, result)) => {
                worker = returned;
                result
            }
            Err(error) => {
                tracing::error!(%error, "the proxy's worker failed");
                return;
            }
        };
        health.set(worker.desired.health()).await;
        match result {
            Ok(()) => {
                retry = RETRY.0;
                tokio::time::sleep(COALESCE).await;
                dirty.wake.notified().await;
            }
            Err(error) => {
                tracing::warn!(%error, retry_after = ?retry, "the service table is out of date");
                tokio::time::sleep(retry).await;
                retry = (retry * 2).min(RETRY.1);
            }
        }
    }
}
