//! The load behind the budgets: bounded operations against any Kubernetes API server that a kubeconfig names.
//!
//! ```text
//! caravel-load KUBECONFIG create N C [B]    N ConfigMaps with B bytes (1,000) of data over C connections
//! caravel-load KUBECONFIG get N C R         N random GETs of the first R of them
//! caravel-load KUBECONFIG update N C R      N merge patches of random ones
//! caravel-load KUBECONFIG list N C          N full LISTs of the namespace
//! caravel-load KUBECONFIG watch W N         W watches, N updates: events delivered a second, lag
//! caravel-load KUBECONFIG idle W S [shared] W watches of which nothing is heard, for S seconds (sharing connections)
//! caravel-load KUBECONFIG nodes N C         N fake Ready nodes
//! caravel-load KUBECONFIG sched P C KIND    P Pods (basic|spread|anti|affinity): time until all are bound
//! caravel-load KUBECONFIG pods N IMAGE      N Pods, one after another: time from creation to Running
//! caravel-load KUBECONFIG deployments N C   N Deployments without Pods, and all of them seen to
//! caravel-load KUBECONFIG scale N           a Deployment from none to N Pods: Pods created a second
//! caravel-load KUBECONFIG clean             removes all of it
//! ```

mod connection;
mod drive;
mod objects;
mod pods;
mod watch;
mod workloads;

use anyhow::{Context, Result, bail};
use connection::Target;
use drive::drive;
use rand::RngExt;
use serde_json::json;
use std::sync::Arc;

/// Where everything is made.
pub const NAMESPACE: &str = "/api/v1/namespaces/loadgen";

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [kubeconfig, operation, ..] = args.as_slice() else {
        bail!(
            "usage: caravel-load KUBECONFIG create|get|update|list|watch|idle|nodes|sched|pods|deployments|scale|clean …"
        );
    };
    let number = |i: usize, otherwise: usize| args.get(i).and_then(|s| s.parse().ok()).unwrap_or(otherwise);
    let target = Arc::new(Target::from_kubeconfig(kubeconfig.as_ref())?);
    let namespace = json!({"apiVersion":"v1","kind":"Namespace","metadata":{"name":"loadgen"}});
    let (status, said) =
        target.connect().await?.request("POST", "/api/v1/namespaces", Some(&namespace.to_string())).await?;
    if status != 201 && status != 409 {
        bail!("the namespace could not be made: {status} {}", String::from_utf8_lossy(&said));
    }
    let (n, c, range) = (number(2, 5000), number(3, 32), number(4, 1000));
    let bytes = number(4, 1000);
    match operation.as_str() {
        "create" => drive("create", target, n, c, move |i| objects::create_config_map(i, bytes)).await,
        "get" => drive("get", target, n, c, move |_| objects::get_config_map(random(range))).await,
        "update" => drive("update", target, n, c, move |_| objects::patch_config_map(random(range))).await,
        "list" => drive("list", target, n, c, |_| objects::list_config_maps()).await,
        "nodes" => drive("nodes", target, n, c, objects::create_node).await,
        "watch" => watch::fan_out(target, number(2, 100), number(3, 800)).await,
        "idle" => watch::idle(target, number(2, 1000), number(3, 10), args.get(4).is_some_and(|a| a == "shared")).await,
        "sched" => watch::schedule(target, n, c, args.get(4).map_or("basic", String::as_str)).await,
        "pods" => pods::start(target, n, args.get(3).map_or("bench/busybox:1", String::as_str)).await,
        "deployments" => workloads::rest(target, n, c).await,
        "scale" => workloads::scale(target, n).await,
        "clean" => clean(&target).await,
        other => bail!("unknown operation {other}"),
    }
}

fn random(below: usize) -> usize {
    rand::rng().random_range(0..below.max(1))
}

async fn clean(target: &Target) -> Result<()> {
    let mut connection = target.connect().await?;
    let paths = [
        "/apis/apps/v1/namespaces/loadgen/deployments".to_owned(),
        format!("{NAMESPACE}/pods?gracePeriodSeconds=0"),
        format!("{NAMESPACE}/configmaps"),
        "/api/v1/nodes?labelSelector=fake%3Dtrue".to_owned(),
    ];
    for path in paths {
        let (status, _) = connection.request("DELETE", &path, None).await.context("delete")?;
        println!("delete {path}: {status}");
    }
    Ok(())
}
