//! How the cluster's scheduler is configured, as the cluster itself tells: `caravel why` explains by the profiles that are at work.

use std::time::Duration;

use anyhow::{Context, Result};
use caravel_scheduler::Config;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::json;
use tokio_util::sync::CancellationToken;

const NAMESPACE: &str = "kube-system";
const NAME: &str = "caravel-scheduler";
const KEY: &str = "config.yaml";

fn maps(client: &kube::Client) -> Api<ConfigMap> {
    Api::namespaced(client.clone(), NAMESPACE)
}

/// Writes what may be known of the configuration, and tries until it is written. Without one, what an earlier start wrote goes.
pub async fn publish(client: kube::Client, text: Option<String>, stop: CancellationToken) {
    let mut wait = Duration::from_millis(200);
    loop {
        match write(&client, text.as_deref()).await {
            Ok(()) => return,
            Err(error) => tracing::warn!(%error, "the scheduler's configuration cannot be told yet"),
        }
        tokio::select! { () = stop.cancelled() => return, () = tokio::time::sleep(wait) => {} }
        wait = (wait * 2).min(Duration::from_secs(30));
    }
}

async fn write(client: &kube::Client, text: Option<&str>) -> Result<(), kube::Error> {
    let Some(text) = text else {
        return match maps(client).delete(NAME, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            other => other.map(|_| ()),
        };
    };
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": NAMESPACE, "name": NAME}, "data": {KEY: text}});
    maps(client).patch(NAME, &PatchParams::apply("caravel").force(), &Patch::Apply(&map)).await.map(|_| ())
}

/// The configuration that is at work; the default one when the cluster tells of no other.
///
/// # Errors
/// When it cannot be read: then nobody knows which profile a Pod is scheduled by.
pub async fn read(client: &kube::Client) -> Result<Config> {
    let Some(map) = maps(client).get_opt(NAME).await.with_context(|| format!("ConfigMap {NAMESPACE}/{NAME}"))? else {
        return Ok(Config::default());
    };
    let text = map.data.as_ref().and_then(|d| d.get(KEY)).map(String::as_str).unwrap_or_default();
    caravel_scheduler::file::parse(text).with_context(|| format!("ConfigMap {NAMESPACE}/{NAME}"))
}
