//! The node's place in the API: its Node, the status of it, and its Lease.

mod lease;
mod status;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use caravel_client::status_code;
use k8s_openapi::api::core::v1::{Node, NodeSpec, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::machine;
use crate::manager::Manager;
use crate::shared::Shared;

pub use lease::renew;
pub use status::{doubted, rewritten};

/// The labels every node has.
pub fn labels(config: &Config) -> BTreeMap<String, String> {
    let arch = machine::arch();
    let mut all = config.labels.clone();
    for (k, v) in [
        ("kubernetes.io/hostname", config.node_name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", arch),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", arch),
    ] {
        all.insert(k.into(), v.into());
    }
    all
}

/// `key[=value]:Effect`.
fn taint(text: &str) -> Option<Taint> {
    let (left, effect) = text.rsplit_once(':')?;
    let (key, value) = match left.split_once('=') {
        Some((k, v)) => (k, Some(v.to_owned())),
        None => (left, None),
    };
    Some(Taint { key: key.into(), value, effect: effect.into(), time_added: None })
}

fn node(config: &Config) -> Node {
    let taints: Vec<Taint> = config.taints.iter().filter_map(|t| taint(t)).collect();
    Node {
        metadata: ObjectMeta {
            name: Some(config.node_name.clone()),
            labels: Some(labels(config)),
            annotations: Some(
                [("volumes.kubernetes.io/controller-managed-attach-detach".to_owned(), "true".to_owned())].into(),
            ),
            ..Default::default()
        },
        spec: Some(NodeSpec {
            provider_id: config.provider_id.clone(),
            taints: (!taints.is_empty()).then_some(taints),
            pod_cidr: config.pod_cidr.clone(),
            pod_cidrs: config.pod_cidr.clone().map(|c| vec![c]),
            ..Default::default()
        }),
        status: None,
    }
}

/// Makes the Node, or brings an existing one's labels up to date. Tries until it succeeds.
pub async fn register(client: &kube::Client, config: &Config) -> Node {
    let api: Api<Node> = Api::all(client.clone());
    let mut delay = Duration::from_millis(100);
    loop {
        match once(&api, config).await {
            Ok(n) => return n,
            Err(e) => tracing::warn!(node = config.node_name, error = %e, "cannot register the node yet"),
        }
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(Duration::from_secs(7));
    }
}

async fn once(api: &Api<Node>, config: &Config) -> kube::Result<Node> {
    match api.create(&PostParams::default(), &node(config)).await {
        Err(e) if status_code(&e) == Some(409) => {
            let mut patch = json!({"metadata": {"labels": labels(config)}});
            let known = api.get(&config.node_name).await?;
            let cidr = known.spec.as_ref().and_then(|s| s.pod_cidr.clone());
            if let (None, Some(wanted)) = (cidr, &config.pod_cidr) {
                patch["spec"] = json!({"podCIDR": wanted, "podCIDRs": [wanted]});
            }
            api.patch(&config.node_name, &PatchParams::default(), &Patch::Strategic(patch)).await
        }
        other => other,
    }
}

/// Keeps the Node's status true: writes it when it changes and, if not, every few minutes. `look` asks for a check.
pub async fn keep_status(shared: Arc<Shared>, manager: Arc<Manager>, look: Arc<Notify>, stop: CancellationToken) {
    let mut keeper = status::Keeper::new(shared.clone(), manager);
    loop {
        let next = keeper.step().await;
        tokio::select! {
            () = stop.cancelled() => return,
            () = look.notified() => {}
            () = tokio::time::sleep(next) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn taints_are_read() {
        let t = taint("a/b=c:NoSchedule").unwrap();
        assert_eq!((t.key.as_str(), t.value.as_deref(), t.effect.as_str()), ("a/b", Some("c"), "NoSchedule"));
        assert_eq!(taint("a:NoExecute").unwrap().value, None);
        assert!(taint("a").is_none());
    }
}
