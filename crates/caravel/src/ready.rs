//! Whether the cluster is fit for use, asked through the API as a user would.

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use std::path::Path;

/// A client for the cluster that the kubeconfig names.
pub async fn client(kubeconfig: &Path) -> Result<kube::Client> {
    let config = Kubeconfig::read_from(kubeconfig)?;
    let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
    Ok(kube::Client::try_from(config)?)
}

/// Prints nodes and Pods in a line each, and returns what is wrong with them.
pub async fn report(kubeconfig: &Path) -> Result<Vec<String>> {
    let client = client(kubeconfig).await?;
    let nodes =
        kube::Api::<Node>::all(client.clone()).list(&ListParams::default()).await.context("the API does not answer")?;
    let mut problems = vec![];
    for node in &nodes.items {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let problem = node_problem(node);
        println!("{:<24} {:<7} node", name, if problem.is_none() { "ok" } else { "NOT OK" });
        problems.extend(problem.map(|p| format!("node {name}: {p}")));
    }
    if nodes.items.is_empty() {
        problems.push("no node has joined".into());
    }
    let pods = kube::Api::<Pod>::all(client).list(&ListParams::default()).await?;
    let running = pods.items.iter().filter(|p| phase(p) == "Running").count();
    println!("{:<24} {:<7} {running} of {} running", "pods", "ok", pods.items.len());
    Ok(problems)
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

/// Why a node is not Ready; `None` when it is.
pub fn node_problem(node: &Node) -> Option<String> {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    match conditions.iter().find(|c| c.type_ == "Ready") {
        Some(ready) if ready.status == "True" => None,
        Some(ready) => Some(ready.message.clone().unwrap_or_else(|| "not Ready".into())),
        None => Some("it has not reported yet".into()),
    }
}

/// Whether Pods can go to a node: it is Ready, and nothing keeps them away for not being so.
fn is_usable(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    node_problem(node).is_none() && !taints.iter().any(|t| t.key == "node.kubernetes.io/not-ready")
}

/// Returns once the Node is there, Ready, and open to Pods.
pub async fn node_is_ready(client: &kube::Client, name: &str) -> Result<()> {
    use futures::{StreamExt, TryStreamExt};
    use kube::api::{WatchEvent, WatchParams};
    let api = kube::Api::<Node>::all(client.clone());
    let fields = format!("metadata.name={name}");
    loop {
        let list = api.list(&ListParams::default().fields(&fields)).await?;
        if list.items.first().is_some_and(is_usable) {
            return Ok(());
        }
        let from = list.metadata.resource_version.unwrap_or_default();
        let mut events = api.watch(&WatchParams::default().fields(&fields), &from).await?.boxed();
        while let Ok(Some(event)) = events.try_next().await {
            match event {
                WatchEvent::Added(n) | WatchEvent::Modified(n) if is_usable(&n) => return Ok(()),
                _ => {}
            }
        }
    }
}
