//! Every controller against an API that fails, delays, reorders watches, serves stale caches, and dies between any two writes, from a seed.
//! Each has to reach its goal all the same, and then write no more.
#![allow(clippy::unwrap_used)]

mod attach;
mod beyond;
mod clock;
mod devices;
mod kubelet;
mod migration;
mod more;
mod scenarios;
mod service;
mod spoilt;
mod storage;
mod world;

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use caravel_client::Cluster;
use caravel_controllers::{Config, LegacyTokens};
use service::{Life, Shared, client};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use world::World;

/// One story: what is there, what users do, and what has to come of it.
pub struct Scenario {
    /// The controllers that run.
    pub controllers: &'static [&'static str],
    /// What users do, one step after the other while the faults last.
    pub steps: &'static [fn(&mut World)],
    /// Milliseconds between one step and the next.
    pub pace: std::ops::Range<u64>,
    /// What is true in the end; says what is not.
    pub goal: fn(&World) -> Result<(), String>,
}

/// The pace of most stories.
pub const PACE: std::ops::Range<u64> = 500..15_000;

/// Seeds played for each scenario; `CARAVEL_FAULT_SEEDS` asks for more or fewer.
fn seeds() -> u64 {
    std::env::var("CARAVEL_FAULT_SEEDS").ok().and_then(|v| v.parse().ok()).unwrap_or(100)
}

/// Plays a scenario from many seeds.
pub fn play(scenario: &Scenario) {
    let only: Option<u64> = std::env::var("CARAVEL_FAULT_SEED").ok().and_then(|v| v.parse().ok());
    for seed in only.map_or(0..seeds(), |s| s..s + 1) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(one(scenario, seed));
    }
}

async fn one(scenario: &Scenario, seed: u64) {
    clock::start();
    let shared = Shared::new(seed);
    let kubelets = tokio::spawn(kubelet::run(shared.clone()));
    let stop = CancellationToken::new();
    let lives = tokio::spawn(lives(scenario.controllers, shared.clone(), stop.clone()));
    for step in scenario.steps {
        shared.change(step);
        tokio::time::sleep(Duration::from_millis(shared.random(scenario.pace.clone()))).await;
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    shared.hostile.store(false, Ordering::Relaxed);
    let mut quiet = (shared.writes.load(Ordering::SeqCst), 0);
    for round in 0.. {
        tokio::time::sleep(Duration::from_secs(10)).await;
        let writes = shared.writes.load(Ordering::SeqCst);
        quiet = if writes == quiet.0 { (writes, quiet.1 + 1) } else { (writes, 0) };
        let reached = (scenario.goal)(&shared.world.lock());
        // Five minutes without a write at the goal: at rest.
        if reached.is_ok() && quiet.1 >= 30 {
            break;
        }
        assert!(
            round < 800,
            "seed {seed}: not at rest at the goal: {reached:?}, quiet for {} s; the last writes: {:#?}",
            quiet.1 * 10,
            shared.last.lock()
        );
    }
    stop.cancel();
    let _ = lives.await;
    kubelets.abort();
    // Informers and what listens to them hold each other, for a program's life; ten thousand worlds are too many to keep.
    *shared.world.lock() = World::new();
}

/// The controllers, life after life: each ends in the middle of some write, until the faults are over.
async fn lives(controllers: &'static [&'static str], shared: Arc<Shared>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let hostile = shared.hostile.load(Ordering::Relaxed);
        let left = if hostile { i64::try_from(shared.random(1..25)).unwrap() } else { -1 };
        let life = Arc::new(Life { dead: AtomicBool::new(false), left: AtomicI64::new(left), died: Notify::new() });
        let cluster = Cluster::new(client(&shared, &life), "test");
        let config = Config {
            enabled: controllers.iter().map(|c| (*c).to_owned()).collect(),
            root_ca: "CA".into(),
            signing_ca: Some(more::authority()),
            cluster_cidr: Some(([10, 0, 0, 0].into(), 22)),
            terminated_pod_threshold: 2,
            legacy_tokens: LegacyTokens { unused: Duration::from_secs(60), interval: Duration::from_secs(30) },
            clock: clock::now,
            ..Config::default()
        };
        let ending = stop.child_token();
        let run = tokio::spawn(caravel_controllers::run(cluster, config, ending.clone()));
        // A life that is left when the faults end would still die of its count.
        let peace = async {
            while shared.hostile.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            life.left.store(-1, Ordering::SeqCst);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = life.died.notified() => {}
            () = peace, if hostile => {}
        }
        ending.cancel();
        run.abort();
        let _ = run.await;
    }
}
