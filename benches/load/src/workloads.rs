//! What Deployments cost: many at rest, and one that is scaled up.

use crate::NAMESPACE;
use crate::connection::Target;
use crate::drive::{Call, drive};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/loadgen/deployments";
/// Give up after this long.
const LIMIT: Duration = Duration::from_secs(300);

fn deployment(name: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "labels": {"load": "deployments"}},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"app": name}}, "template": {
            "metadata": {"labels": {"app": name}},
            "spec": {"automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0,
                "schedulingGates": [{"name": "example.com/load"}],
                "containers": [{"name": "c", "image": "registry.k8s.io/pause:3.10"}]}}}})
}

/// Creates `n` Deployments without Pods, and waits until the controllers have seen to all of them.
pub async fn rest(target: Arc<Target>, n: usize, c: usize) -> Result<()> {
    let make = |i: usize| {
        let body = deployment(&format!("rest-{i}")).to_string();
        Call { method: "POST", path: DEPLOYMENTS.into(), body: Some(body) }
    };
    drive("deployments", target.clone(), n, c, make).await?;
    let (start, mut connection) = (Instant::now(), target.connect().await?);
    loop {
        let path = format!("{DEPLOYMENTS}?labelSelector=load%3Ddeployments");
        let (_, list) = connection.request("GET", &path, None).await?;
        let list: Value = serde_json::from_slice(&list)?;
        let seen = |d: &&Value| d["status"]["observedGeneration"] == d["metadata"]["generation"];
        let done = list["items"].as_array().into_iter().flatten().filter(seen).count();
        if done >= n {
            println!("deployments: all {n} seen to {:.1} s after the last was made", start.elapsed().as_secs_f64());
            return Ok(());
        }
        ensure!(start.elapsed() < LIMIT, "{done} of {n} Deployments were seen to");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Scales a Deployment from none to `n` Pods, which are gated so that the scheduler has no part in it: Pods created a second.
pub async fn scale(target: Arc<Target>, n: usize) -> Result<()> {
    let mut writer = target.connect().await?;
    let (status, said) = writer.request("POST", DEPLOYMENTS, Some(&deployment("scaled").to_string())).await?;
    ensure!(status == 201 || status == 409, "{status} {}", String::from_utf8_lossy(&said));
    let (_, list) = writer.request("GET", &format!("{NAMESPACE}/pods?limit=1"), None).await?;
    let list: Value = serde_json::from_slice(&list)?;
    let from = list["metadata"]["resourceVersion"].as_str().context("a list has a resourceVersion")?.to_owned();
    let (mut connection, made) = (target.connect().await?, Arc::new(AtomicUsize::new(0)));
    let (path, count) =
        (format!("{NAMESPACE}/pods?watch=1&labelSelector=app%3Dscaled&resourceVersion={from}"), made.clone());
    let watcher = tokio::spawn(async move {
        let mut seen = HashSet::new();
        let watched = connection.lines(&path, |line| {
            // Looked for, not parsed: the client must cost little.
            let name = line
                .windows(15)
                .position(|w| w == b"\"name\":\"scaled-")
                .map(|at| line[at..].iter().skip(8).take(40).copied().collect::<Vec<u8>>());
            if line.windows(7).any(|w| w == b"\"ADDED\"") && name.is_some_and(|n| seen.insert(n)) {
                count.fetch_add(1, Relaxed);
            }
            true
        });
        watched.await
    });
    // The ReplicaSet is there before the clock starts.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let start = Instant::now();
    let patch = json!({"spec": {"replicas": n}}).to_string();
    let (status, said) = writer.request("PATCH", &format!("{DEPLOYMENTS}/scaled"), Some(&patch)).await?;
    ensure!(status == 200, "{status} {}", String::from_utf8_lossy(&said));
    while made.load(Relaxed) < n && start.elapsed() < LIMIT {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let seconds = start.elapsed().as_secs_f64();
    watcher.abort();
    let made = made.load(Relaxed);
    println!("scale: 0 to {made}/{n} Pods in {seconds:.2}s = {:.0} pods/s (budget 5000)", made as f64 / seconds);
    Ok(())
}
