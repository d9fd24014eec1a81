//! Figures of the embedded store: `cargo run --example store_bench -- DIR [OBJECTS]`.
//!
//! Durable creations and updates per second from 64 writers, memory and size on disk with OBJECTS objects of 2 KB, and how long opening takes.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use caravel_store::embedded::{Embedded, Options};
use caravel_store::{Store, Write};

const WRITERS: u64 = 64;

fn resident_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let kb: u64 =
        status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap().trim().trim_end_matches(" kB").parse().unwrap();
    kb / 1024
}

async fn write(store: &Arc<Embedded>, what: &str, objects: u64, count: u64) {
    let begun = Instant::now();
    let workers: Vec<_> = (0..WRITERS)
        .map(|w| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut times = Vec::new();
                for i in (w..count).step_by(WRITERS as usize) {
                    let n = i.wrapping_mul(0x9E37_79B9_7F4A_7C15) % objects;
                    let n = if count == objects { i } else { n };
                    let begun = Instant::now();
                    store
                        .commit(vec![Write::put(format!("core/pods/default/object-{n}"), vec![7_u8; 2000])])
                        .await
                        .unwrap();
                    times.push(begun.elapsed());
                }
                times
            })
        })
        .collect();
    let mut times: Vec<Duration> = Vec::new();
    for worker in workers {
        times.extend(worker.await.unwrap());
    }
    times.sort_unstable();
    println!(
        "{what}: {:.0}/s, p50 {:?}, p99 {:?}, longest {:?}; {} MB resident, {:.2} x on disk",
        count as f64 / begun.elapsed().as_secs_f64(),
        times[times.len() / 2],
        times[times.len() * 99 / 100],
        times[times.len() - 1],
        resident_mb(),
        store.stats().disk_bytes as f64 / store.stats().live_bytes as f64,
    );
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().unwrap_or_else(|| "/tmp/store-bench".into());
    let objects: u64 = arguments.next().map_or(200_000, |n| n.parse().unwrap());
    println!("{} MB resident before", resident_mb());
    if std::path::Path::new(&dir).exists() {
        // Left by an earlier run with KEEP set: only opening is measured.
        let begun = Instant::now();
        let store = Embedded::open(Options::new(&dir)).unwrap();
        println!("opened {} objects in {:?}, {} MB resident", store.stats().entries, begun.elapsed(), resident_mb());
        return;
    }
    let store = Arc::new(Embedded::open(Options::new(&dir)).unwrap());
    println!("{} MB resident, empty", resident_mb());
    write(&store, "create", objects, objects).await;
    write(&store, "update", objects, objects / 2 + 1).await;
    drop(store);
    let begun = Instant::now();
    let store = Embedded::open(Options::new(&dir)).unwrap();
    println!("opened {} objects in {:?}, {} MB resident", store.stats().entries, begun.elapsed(), resident_mb());
    store.close();
    if std::env::var_os("KEEP").is_none() {
        let _ = std::fs::remove_dir_all(&dir);
    }
}
