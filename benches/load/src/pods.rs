//! How long a Pod takes from its creation to Running, one after another, with the image on the node.

use crate::NAMESPACE;
use crate::connection::Target;
use crate::drive::percentile;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Instant;

/// Creates `n` Pods of `image`, waits for each, removes it, and prints the spread of the times.
pub async fn start(target: Arc<Target>, n: usize, image: &str) -> Result<()> {
    let mut writer = target.connect().await?;
    let mut times = vec![];
    for i in 0..n {
        let name = format!("start-{i}");
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "main", "image": image, "command": ["sleep", "1000000"]}]},
        });
        let begun = Instant::now();
        // The account of a new namespace may still be on its way.
        let created = loop {
            let (status, said) = writer.request("POST", &format!("{NAMESPACE}/pods"), Some(&pod.to_string())).await?;
            match status {
                201 => break serde_json::from_slice::<Value>(&said)?,
                403 if i == 0 => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
                _ => bail!("the Pod was not created: {status} {}", String::from_utf8_lossy(&said)),
            }
        };
        let from = created["metadata"]["resourceVersion"].as_str().context("a Pod without resourceVersion")?;
        let path = format!(
            "{NAMESPACE}/pods?watch=1&fieldSelector=metadata.name%3D{name}&resourceVersion={from}&timeoutSeconds=60"
        );
        let mut running = false;
        target
            .connect()
            .await?
            .lines(&path, |line| {
                let event: Value = serde_json::from_slice(line).unwrap_or_default();
                running = event["object"]["status"]["phase"] == "Running";
                !running
            })
            .await?;
        if !running {
            bail!("{name} was not Running within a minute");
        }
        times.push(begun.elapsed().as_secs_f64() * 1e3);
        writer.request("DELETE", &format!("{NAMESPACE}/pods/{name}?gracePeriodSeconds=0"), None).await?;
    }
    let (middle, late) = (percentile(&mut times, 0.5), percentile(&mut times, 0.99));
    println!("pods: n={n} created to Running p50={middle:.0}ms p99={late:.0}ms");
    Ok(())
}
