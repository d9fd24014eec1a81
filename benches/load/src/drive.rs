//! N requests over C connections, with the spread of their times.

use crate::connection::Target;
use anyhow::Result;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

/// One request to send.
pub struct Call {
    pub method: &'static str,
    pub path: String,
    pub body: Option<String>,
}

/// Sends `call(0..n)` over `c` connections and prints the figures.
pub async fn drive(
    name: &str,
    target: Arc<Target>,
    n: usize,
    c: usize,
    call: impl Fn(usize) -> Call + Clone + Send + 'static,
) -> Result<()> {
    let (next, bytes, errors) =
        (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut connections = vec![];
    for _ in 0..c {
        connections.push(target.connect().await?);
    }
    let start = Instant::now();
    let workers: Vec<_> = connections
        .into_iter()
        .map(|mut connection| {
            let (next, bytes, errors, call) = (next.clone(), bytes.clone(), errors.clone(), call.clone());
            tokio::spawn(async move {
                let mut times = vec![];
                loop {
                    let i = next.fetch_add(1, Relaxed);
                    if i >= n {
                        return times;
                    }
                    let call = call(i);
                    let sent = Instant::now();
                    match connection.request(call.method, &call.path, call.body.as_deref()).await {
                        Ok((200..=299, body)) => _ = bytes.fetch_add(body.len(), Relaxed),
                        other => {
                            if errors.fetch_add(1, Relaxed) < 3 {
                                eprintln!(
                                    "{} {}: {:?}",
                                    call.method,
                                    call.path,
                                    other.map(|(s, b)| (s, String::from_utf8_lossy(&b).into_owned()))
                                );
                            }
                        }
                    }
                    times.push(sent.elapsed().as_secs_f64() * 1e3);
                }
            })
        })
        .collect();
    let mut times = vec![];
    for worker in workers {
        times.extend(worker.await?);
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{name}: n={n} c={c} ops/s={:.0} p50={:.2}ms p99={:.2}ms MB/s={:.1} errors={}",
        n as f64 / seconds,
        percentile(&mut times, 0.5),
        percentile(&mut times, 0.99),
        bytes.load(Relaxed) as f64 / seconds / 1e6,
        errors.load(Relaxed)
    );
    Ok(())
}

/// The value below which the share `p` of all values lies; 0 without values.
pub fn percentile(values: &mut [f64], p: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(((values.len() as f64 - 1.0).max(0.0) * p) as usize).copied().unwrap_or(0.0)
}
