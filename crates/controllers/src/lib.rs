//! The controllers: each brings one kind of object from its present towards its spec.
//!
//! All have one shape. A pure `plan(snapshot) -> Plan` decides from what informers hold; a small applier carries the plan out;
//! `reconcile(key)` reads the present, plans and applies, once. Nothing is written when nothing differs, so a cluster at rest costs
//! nothing. What woke a reconciler does not matter to it; retries and their back-off live in its queue.
//!
//! To add one: write its module, with `pub async fn run(Context) -> anyhow::Result<()>`, and add its row to [`TABLE`].

mod bootstrap;
mod cluster_role_aggregation;
mod common;
mod config;
mod config_rollout;
mod context;
mod cronjob;
mod csr;
mod daemonset;
mod deployment;
mod device_taints;
mod endpoints;
mod gc;
mod hpa;
mod job;
mod legacy_tokens;
mod migration;
mod namespace;
mod node;
mod pdb;
mod pod_gc;
mod quota;
mod replicaset;
mod resource_claim;
mod service_cidr;
mod serviceaccount;
mod statefulset;
mod ttl_after_finished;
mod volume;

pub use config::{Config, NodeTimes};
pub use legacy_tokens::LegacyTokens;
pub use migration::NAME as MIGRATOR;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use caravel_client::Cluster;
use context::Context;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

type Running = Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>;

macro_rules! table {
    ($($name:literal => $run:path),* $(,)?) => {
        /// Every controller by the name that `Config::enabled` knows it by (upstream's names).
        const TABLE: &[(&str, fn(Context) -> Running)] = &[$(($name, |c| Box::pin($run(c)))),*];
    };
}

table! {
    "deployment-controller" => deployment::run,
    "config-rollout-controller" => config_rollout::run,
    "replicaset-controller" => replicaset::run_replica_sets,
    "replicationcontroller-controller" => replicaset::run_replication_controllers,
    "endpointslice-controller" => endpoints::run_slices,
    "endpoints-controller" => endpoints::run_endpoints,
    "endpointslice-mirroring-controller" => endpoints::run_mirroring,
    "garbage-collector-controller" => gc::run,
    "daemonset-controller" => daemonset::run,
    "cronjob-controller" => cronjob::run,
    "clusterrole-aggregation-controller" => cluster_role_aggregation::run,
    "disruption-controller" => pdb::run,
    "resourcequota-controller" => quota::run,
    "persistentvolume-binder-controller" => volume::run_binder,
    "persistentvolume-attach-detach-controller" => volume::run_attach_detach,
    "persistentvolume-expander-controller" => volume::run_expand,
    "volumeattributesclass-protection-controller" => volume::run_class_protection,
    "persistentvolumeclaim-protection-controller" => volume::run_claim_protection,
    "persistentvolume-protection-controller" => volume::run_volume_protection,
    "ephemeral-volume-controller" => volume::run_ephemeral,
    "certificatesigningrequest-approving-controller" => csr::run_approver,
    "certificatesigningrequest-signing-controller" => csr::run_signer,
    "certificatesigningrequest-cleaner-controller" => csr::run_cleaner,
    "token-cleaner-controller" => bootstrap::run_cleaner,
    "bootstrap-signer-controller" => bootstrap::run_signer,
    "legacy-serviceaccount-token-cleaner-controller" => legacy_tokens::run,
    "horizontal-pod-autoscaler-controller" => hpa::run,
    "job-controller" => job::run,
    "statefulset-controller" => statefulset::run,
    "namespace-controller" => namespace::run,
    "service-cidr-controller" => service_cidr::run,
    "serviceaccount-controller" => serviceaccount::run,
    "root-ca-certificate-publisher-controller" => serviceaccount::run_root_ca,
    "node-lifecycle-controller" => node::run_lifecycle,
    "taint-eviction-controller" => node::run_eviction,
    "device-taint-eviction-controller" => device_taints::run,
    "node-ipam-controller" => node::run_ipam,
    "pod-garbage-collector-controller" => pod_gc::run,
    "ttl-after-finished-controller" => ttl_after_finished::run,
    "resourceclaim-controller" => resource_claim::run,
    "storage-version-migrator-controller" => migration::run,
}

/// The names of all controllers.
pub fn names() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|(name, _)| *name)
}

/// Runs the enabled controllers until `stop`.
///
/// # Errors
/// When a controller cannot start or ends by itself: the others are stopped then too, since a cluster without one of its controllers
/// looks healthy and is not.
pub async fn run(cluster: Cluster, config: Config, stop: CancellationToken) -> anyhow::Result<()> {
    let stop = stop.child_token();
    let context = Context { cluster, config: Arc::new(config), stop: stop.clone() };
    let mut running = JoinSet::new();
    for (name, start) in TABLE.iter().filter(|(name, _)| context.config.is_enabled(name)) {
        let (future, name) = (start(context.clone()), *name);
        running.spawn(async move { (name, future.await) });
    }
    let mut first = None;
    while let Some(joined) = running.join_next().await {
        let failure = match joined {
            Ok((_, Ok(()))) if stop.is_cancelled() => continue,
            Ok((name, Ok(()))) => anyhow::anyhow!("the controller {name} ended by itself"),
            Ok((name, Err(e))) => e.context(format!("the controller {name} failed")),
            Err(e) => anyhow::Error::from(e).context("a controller panicked"),
        };
        stop.cancel();
        first.get_or_insert(failure);
    }
    first.map_or(Ok(()), Err)
}
