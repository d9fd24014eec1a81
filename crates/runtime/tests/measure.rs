//! Figures, not assertions: `cargo test -p caravel-runtime --test measure -- --ignored --nocapture`.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use caravel_runtime::containerd::Containerd;
use caravel_runtime::{Event, Runtime};
use common::{Node, container, sandbox};
use futures::StreamExt;

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

fn status_kb(pid: i32, key: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|l| l.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn cpu_ticks(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = text.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures"]
async fn a_pods_life() {
    let begin = Instant::now();
    let Some(node) = Node::start("measure").await else { return };
    println!("cold start with busybox imported: {:.0} ms", ms(begin));
    node.daemon.stop().await;
    let begin = Instant::now();
    let daemon = Containerd::start(node.config.clone()).await.unwrap();
    println!("warm start: {:.0} ms", ms(begin));
    let begin = Instant::now();
    daemon.release();
    let daemon = Containerd::start(node.config.clone()).await.unwrap();
    println!("adoption: {:.0} ms", ms(begin));
    let cri = daemon.runtime();
    let mut events = cri.events();
    assert_eq!(events.next().await, Some(Event::Resync));
    let (mut run, mut create, mut start, mut exit, mut stop, mut remove) = Default::default();
    for i in 0..11 {
        let config = sandbox(&node, &format!("m{i}"));
        let t = Instant::now();
        let id = cri.run_sandbox(&config, "").await.unwrap();
        push(&mut run, t);
        let t = Instant::now();
        let c = cri.create_container(&id, &container("main", &["true"]), &config).await.unwrap();
        push(&mut create, t);
        let t = Instant::now();
        cri.start_container(&c).await.unwrap();
        push(&mut start, t);
        let (_, at) = common::next_exit(&mut events, &c).await;
        let latency: &mut Vec<f64> = &mut exit;
        latency.push((common::now_ns() - at) as f64 / 1e6);
        let t = Instant::now();
        cri.stop_sandbox(&id).await.unwrap();
        push(&mut stop, t);
        let t = Instant::now();
        cri.remove_sandbox(&id).await.unwrap();
        push(&mut remove, t);
    }
    println!(
        "median of 11, ms: run sandbox {:.0}, create {:.0}, start {:.0}, exit event {:.0}, stop {:.0}, remove {:.0}",
        median(run),
        median(create),
        median(start),
        median(exit),
        median(stop),
        median(remove)
    );
    let pid = daemon.pid();
    let before = cpu_ticks(pid);
    tokio::time::sleep(Duration::from_secs(20)).await;
    println!(
        "containerd: {} MB resident, {:.2} % of a core when idle",
        status_kb(pid, "VmRSS") / 1024,
        (cpu_ticks(pid) - before) as f64 / 20.0
    );
    daemon.stop().await;
    node.finish().await;
}

fn push(to: &mut Vec<f64>, since: Instant) {
    to.push(ms(since));
}
