//! Wires informers to the table: changed Services are compiled and applied, many at a time when many change.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use caravel_client::{Change as ObjectChange, Cluster, Informer, Key, ListSelector};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::apply::{Applier, Error, resolver_address};
use super::base::Layout;
use super::compile::{Program, View, compile, resolver};
use super::desired::{Claimant, Desired};
use super::health::HealthServer;
use crate::config::Config;
use crate::netlink;
use crate::netlink::monitor::Monitor;
use crate::netlink::nft::Table;
use crate::policy::{self, plan::Snapshot};

/// Changes that arrive within this time after an application go together.
const COALESCE: Duration = Duration::from_millis(5);
/// First and longest wait after the kernel refused.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));

const BY_SERVICE: &str = "proxied service";
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const ZONE: &str = "topology.kubernetes.io/zone";

/// What may be out of date.
#[derive(Default)]
struct Dirty {
    services: Mutex<HashSet<Key>>,
    policies: AtomicBool,
    /// The table may have been deleted by another program.
    table: AtomicBool,
    wake: Notify,
}

impl Dirty {
    fn mark(&self, key: Key) {
        self.services.lock().insert(key);
        self.wake.notify_one();
    }

    fn mark_policies(&self) {
        self.policies.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    fn take(&self) -> HashSet<Key> {
        std::mem::take(&mut *self.services.lock())
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
    policies: Informer<NetworkPolicy>,
}

/// What network policies select. Watched only once there is a policy: all Pods of the cluster are many.
struct Selected {
    pods: Informer<Pod>,
    namespaces: Informer<Namespace>,
}

impl Selected {
    fn start(cluster: &Cluster, dirty: &Arc<Dirty>) -> Self {
        let selected = Self { pods: cluster.informer(), namespaces: cluster.informer() };
        let marks = dirty.clone();
        selected.pods.on_change(move |change| match change {
            ObjectChange::Updated { old, new } if same(old, new) => {}
            _ => marks.mark_policies(),
        });
        let marks = dirty.clone();
        selected.namespaces.on_change(move |change| match change {
            ObjectChange::Updated { old, new } if old.metadata.labels == new.metadata.labels => {}
            _ => marks.mark_policies(),
        });
        let (pods, namespaces) = (selected.pods.clone(), selected.namespaces.clone());
        let marks = dirty.clone();
        tokio::spawn(async move {
            pods.synced().await;
            namespaces.synced().await;
            marks.mark_policies();
        });
        selected
    }

    fn is_synced(&self) -> bool {
        self.pods.is_synced() && self.namespaces.is_synced()
    }
}

/// Whether a Pod is the same to policies (probes and the like change its status often).
fn same(old: &Pod, new: &Pod) -> bool {
    let status = |pod: &Pod| {
        let status = pod.status.as_ref();
        status.map(|s| (s.pod_ip.clone(), s.phase.clone()))
    };
    old.metadata.labels == new.metadata.labels && status(old) == status(new)
}

/// Compiled network policies, if they are to be compiled now.
fn policies(
    config: &Config,
    sources: &Sources,
    cluster: &Cluster,
    selected: &mut Option<Selected>,
    dirty: &Arc<Dirty>,
) -> Option<policy::Plan> {
    if !dirty.policies.swap(false, Ordering::AcqRel) {
        return None;
    }
    if sources.policies.is_empty() {
        return Some(policy::Plan::default());
    }
    let selected = selected.get_or_insert_with(|| Selected::start(cluster, dirty));
    // When the lists are complete, this is done again.
    selected.is_synced().then(|| {
        policy::compile(&Snapshot {
            policies: sources.policies.list(),
            pods: selected.pods.list(),
            namespaces: selected.namespaces.list(),
            node: config.node_name.clone(),
        })
    })
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
        let marks = dirty.clone();
        self.policies.on_change(move |change| match change {
            ObjectChange::Updated { old, new } if old.spec == new.spec => {}
            _ => marks.mark_policies(),
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
    fn step(
        &mut self,
        changed: Vec<(Claimant, Option<Program>)>,
        policies: Option<policy::Plan>,
        look: bool,
    ) -> Result<(), Error> {
        if look && !self.doubtful && !self.applier.exists()? {
            tracing::warn!("another program deleted the service table; making it anew");
            self.doubtful = true;
        }
        let mut change = self.desired.update(changed);
        if let Some(policies) = policies {
            self.desired.set_policies(policies, &mut change);
        }
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
        policies: cluster.informer(),
    };
    sources.slices.add_index(BY_SERVICE, index);
    let mut worker = Worker { desired: Desired::new(layout), applier: Applier::new(&config), doubtful: true };
    // The node's own resolver is reachable before the first list has arrived.
    let view = sources.view(&config);
    let own = Claimant { created: i64::MIN, name: "the node's resolver".to_owned() };
    if let Err(error) = worker.step(vec![(own, Some(resolver(&view)))], None, false) {
        tracing::warn!(%error, "the service table cannot be made yet");
    }
    let complete = async {
        sources.services.synced().await;
        sources.slices.synced().await;
        sources.node.synced().await;
        sources.policies.synced().await;
    };
    tokio::select! {
        () = complete => {}
        () = stop.cancelled() => return,
    }
    let dirty = Arc::new(Dirty::default());
    sources.feed(&dirty);
    let guard = guard(worker.applier.table().clone(), &dirty);
    let looping = serve(&config, &cluster, &sources, worker, &dirty, stop.clone());
    tokio::select! {
        () = looping => {}
        () = guard => {}
        () = stop.cancelled() => {}
    }
}

/// Wakes the worker when somebody deletes the table. Never returns.
async fn guard(table: Table, dirty: &Dirty) {
    loop {
        let watched = match Monitor::open() {
            Ok(monitor) => loop {
                if let Err(error) = monitor.deleted(&table).await {
                    break Err(error.into());
                }
                dirty.table.store(true, Ordering::Release);
                dirty.wake.notify_one();
            },
            Err(error) => Err::<(), netlink::Error>(error),
        };
        if let Err(error) = watched {
            tracing::warn!(%error, "the service table is not watched");
        }
        tokio::time::sleep(RETRY.1).await;
    }
}

async fn serve(
    config: &Config,
    cluster: &Cluster,
    sources: &Sources,
    mut worker: Worker,
    dirty: &Arc<Dirty>,
    stop: CancellationToken,
) {
    let mut health = HealthServer::new(stop);
    let mut retry = RETRY.0;
    let mut selected = None;
    loop {
        let view = sources.view(config);
        let changed: Vec<_> = dirty.take().iter().map(|key| sources.compile(key, &view)).collect();
        let policies = policies(config, sources, cluster, &mut selected, dirty);
        let look = dirty.table.swap(false, Ordering::AcqRel);
        // The thread finishes what it started even when this future is dropped: transactions stay whole.
        let stepped = tokio::task::spawn_blocking(move || {
            let result = worker.step(changed, policies, look);
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
