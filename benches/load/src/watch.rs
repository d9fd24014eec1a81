//! Loads whose figure is what watches see.

use crate::connection::{Connection, Target};
use crate::drive::{drive, percentile};
use crate::{NAMESPACE, objects};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Writers of the fan-out.
const WRITERS: usize = 8;
/// Give up after this long.
const LIMIT: Duration = Duration::from_secs(120);

/// Watches that share a connection.
const SHARING: usize = 100;

/// Keeps `watches` watches open in which nothing happens, each of an object of its own, and says so when all are. They
/// have connections of their own, or share them by the hundred.
pub async fn idle(target: Arc<Target>, watches: usize, seconds: usize, shared: bool) -> Result<()> {
    let (ready, all) = (Arc::new(AtomicUsize::new(0)), Duration::from_secs(seconds as u64));
    let (mut open, mut many) = (vec![], None);
    for i in 0..watches {
        if shared && i % SHARING == 0 {
            many = Some(target.connect_shared().await?);
        }
        let mut connection = match many.as_ref().and_then(Connection::again) {
            Some(connection) => connection,
            None => target.connect().await?,
        };
        let ready = ready.clone();
        open.push(tokio::spawn(async move {
            // The bookmark at the end of the present state says that the watch is open.
            let options = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
            let path = format!("{NAMESPACE}/configmaps?{options}&fieldSelector=metadata.name%3Dnone-{i}");
            let watched = connection.lines(&path, |_| {
                ready.fetch_add(1, Relaxed);
                true
            });
            tokio::time::timeout(all, watched).await.unwrap_or(Ok(()))
        }));
    }
    for watch in open {
        watch.await??;
    }
    println!("idle: {} of {watches} watches were open for {seconds} s", ready.load(Relaxed).min(watches));
    Ok(())
}

/// `watches` watches see `updates` updates: events delivered a second, and how late they were.
pub async fn fan_out(target: Arc<Target>, watches: usize, updates: usize) -> Result<()> {
    let each = updates / WRITERS;
    let (_, list) = target.connect().await?.request("GET", &format!("{NAMESPACE}/configmaps?limit=1"), None).await?;
    let list: Value = serde_json::from_slice(&list)?;
    let from = list["metadata"]["resourceVersion"].as_str().context("a list has a resourceVersion")?.to_owned();
    let (start, got) = (Instant::now(), Arc::new(AtomicUsize::new(0)));
    let mut watchers = vec![];
    for _ in 0..watches {
        let mut connection = target.connect().await?;
        let (got, path) = (got.clone(), format!("{NAMESPACE}/configmaps?watch=1&resourceVersion={from}"));
        watchers.push(tokio::spawn(async move {
            let mut lags = vec![];
            let mut seen = 0;
            let watched = connection.lines(&path, |line| {
                // Looked for, not parsed: the client must cost little.
                if let Some(at) = line.windows(5).position(|w| w == b"\"t\":\"") {
                    let digits = line[at + 5..].iter().take_while(|b| b.is_ascii_digit());
                    let sent = digits.fold(0u64, |n, b| n * 10 + u64::from(b - b'0'));
                    lags.push((start.elapsed().as_micros() as u64).saturating_sub(sent) as f64 / 1e3);
                    got.fetch_add(1, Relaxed);
                    seen += 1;
                }
                seen < each * WRITERS
            });
            watched.await.map(|()| lags)
        }));
    }
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let begun = Instant::now();
    let mut writers = vec![];
    for writer in 0..WRITERS {
        let mut connection = target.connect().await?;
        writers.push(tokio::spawn(async move {
            for j in 0..each {
                let body = json!({"data":{"t":start.elapsed().as_micros().to_string()}}).to_string();
                let path = format!("{NAMESPACE}/configmaps/cm-{}", writer * 100 + j % 100);
                let (status, _) = connection.request("PATCH", &path, Some(&body)).await?;
                ensure!(status == 200, "PATCH {path}: {status}");
            }
            Ok(())
        }));
    }
    for writer in writers {
        writer.await??;
    }
    let want = watches * each * WRITERS;
    while got.load(Relaxed) < want && begun.elapsed() < LIMIT {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let mut lags = vec![];
    for watcher in watchers {
        lags.extend(tokio::time::timeout(LIMIT, watcher).await???);
    }
    println!(
        "watch: watchers={watches} updates={updates} delivered={}/{want} events/s={:.0} lag p50={:.1}ms p99={:.1}ms",
        got.load(Relaxed),
        got.load(Relaxed) as f64 / seconds,
        percentile(&mut lags, 0.5),
        percentile(&mut lags, 0.99)
    );
    Ok(())
}

/// Creates Pods and waits until the scheduler has bound them all.
pub async fn schedule(target: Arc<Target>, pods: usize, connections: usize, kind: &str) -> Result<()> {
    let bound = Arc::new(AtomicUsize::new(0));
    let mut connection = target.connect().await?;
    let (path, count) = (format!("{NAMESPACE}/pods?watch=1&labelSelector=app%3D{kind}"), bound.clone());
    let watcher = tokio::spawn(async move {
        let mut seen = HashSet::new();
        let watched = connection.lines(&path, |line| {
            let Ok(event) = serde_json::from_slice::<Value>(line) else { return true };
            let object = &event["object"];
            if object["spec"]["nodeName"].is_string() && seen.insert(object["metadata"]["name"].to_string()) {
                count.fetch_add(1, Relaxed);
            }
            true
        });
        watched.await
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let start = Instant::now();
    let of_kind = kind.to_owned();
    drive("pods-create", target, pods, connections, move |i| objects::create_pod(i, &of_kind)).await?;
    let created = start.elapsed().as_secs_f64();
    while bound.load(Relaxed) < pods && start.elapsed() < LIMIT {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let seconds = start.elapsed().as_secs_f64();
    watcher.abort();
    let bound = bound.load(Relaxed);
    println!(
        "sched {kind}: bound={bound}/{pods} in {seconds:.2}s = {:.0} pods/s (creation alone took {created:.2}s)",
        bound as f64 / seconds
    );
    Ok(())
}
