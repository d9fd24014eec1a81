//! The Lease by which the cluster sees that the node lives.

use std::time::Duration;

use caravel_client::status_code;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use kube::api::{Api, PostParams};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const NAMESPACE: &str = "kube-node-lease";

/// Renews the Lease four times in its duration, until stopped. It belongs to the Node, which may be made anew.
pub async fn renew(client: kube::Client, nodes: watch::Receiver<Node>, duration: Duration, stop: CancellationToken) {
    let api: Api<Lease> = Api::namespaced(client, NAMESPACE);
    let name = nodes.borrow().metadata.name.clone().unwrap_or_default();
    let mut held: Option<Lease> = None;
    let mut delay = Duration::from_millis(200);
    loop {
        let node = nodes.borrow().clone();
        let wait = match once(&api, &name, &node, duration, held.take()).await {
            Ok(lease) => {
                held = Some(lease);
                delay = Duration::from_millis(200);
                duration / 4
            }
            Err(e) => {
                tracing::debug!(error = %e, "cannot renew the node's lease yet");
                delay = (delay * 2).min(Duration::from_secs(7));
                delay
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

async fn once(
    api: &Api<Lease>,
    name: &str,
    node: &Node,
    duration: Duration,
    held: Option<Lease>,
) -> kube::Result<Lease> {
    let held = match held {
        Some(l) => Some(l),
        None => api.get_opt(name).await?,
    };
    let Some(mut lease) = held else {
        let new = fresh(name, node, duration);
        return match api.create(&PostParams::default(), &new).await {
            Err(e) if status_code(&e) == Some(409) => api.get(name).await,
            other => other,
        };
    };
    let spec = lease.spec.get_or_insert_default();
    spec.renew_time = Some(MicroTime(Timestamp::now()));
    spec.holder_identity = Some(name.to_owned());
    spec.lease_duration_seconds = i32::try_from(duration.as_secs()).ok();
    lease.metadata.owner_references = owner(node);
    api.replace(name, &PostParams::default(), &lease).await
}

fn owner(node: &Node) -> Option<Vec<OwnerReference>> {
    Some(vec![OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: node.metadata.name.clone()?,
        uid: node.metadata.uid.clone()?,
        ..Default::default()
    }])
}

fn fresh(name: &str, node: &Node, duration: Duration) -> Lease {
    Lease {
        metadata: ObjectMeta {
            name: Some(name.into()),
            namespace: Some(NAMESPACE.into()),
            owner_references: owner(node),
            ..Default::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(name.into()),
            lease_duration_seconds: i32::try_from(duration.as_secs()).ok(),
            renew_time: Some(MicroTime(Timestamp::now())),
            ..Default::default()
        }),
    }
}
