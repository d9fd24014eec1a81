//! `cargo xtask bench`: the budgets, measured. Figures, not verdicts: the client shares the machine with the server, so the
//! server's CPU seconds are steadier than the rates.

use crate::cluster::{self, Cluster, Profile};
use crate::{bench_scheduler, setup, sh, test};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

#[derive(clap::Args)]
pub struct Args {
    /// `api`, `data` (200,000 objects), `decide` (the scheduler without the API), `scheduler` (both without and with it),
    /// `workloads` or `node`; all without it
    part: Option<String>,
}

/// Clock ticks a second in /proc (USER_HZ, fixed in the kernel's ABI).
const TICKS: f64 = 100.0;

pub fn run(args: &Args) -> Result<()> {
    if args.part.as_deref() == Some("decide") {
        setup::ensure(setup::BUILD)?;
        return bench_scheduler::run();
    }
    setup::ensure(setup::ALL)?;
    let program = cluster::build(Profile::Release)?;
    sh::run(&mut sh::cmd(&["cargo", "build", "--release", "-p", "caravel-load"]))?;
    let wants = |part: &str| args.part.as_deref().is_none_or(|p| p == part);
    if wants("api") {
        api(&program)?;
    }
    if wants("data") {
        data(&program)?;
    }
    if wants("scheduler") {
        bench_scheduler::run()?;
        scheduler(&program)?;
    }
    if wants("workloads") {
        workloads(&program)?;
    }
    if wants("node") {
        node(&program)?;
    }
    Ok(())
}

/// Control plane only, on loopback.
struct Plane {
    child: Child,
    dir: PathBuf,
}

impl Plane {
    fn start(program: &Path, extra: &[&str]) -> Result<Plane> {
        let dir = std::env::temp_dir().join(format!("caravel-bench-{}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        let child = Self::serve(program, &dir, extra)?;
        Ok(Plane { child, dir })
    }

    /// Kills the server and starts it again on what it had stored.
    fn crash(&mut self, program: &Path) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        self.child = Self::serve(program, &self.dir, &[])?;
        Ok(())
    }

    /// Starts the server and says how long it took until it was ready.
    fn serve(program: &Path, dir: &Path, extra: &[&str]) -> Result<Child> {
        let port = cluster::free_port()?.to_string();
        let log = std::fs::File::create(dir.join("bench.log"))?;
        let start = Instant::now();
        let child = Command::new(program)
            .args(["server", "--bind-address", "127.0.0.1", "--port", &port, "--data-dir"])
            .arg(dir)
            .args(extra)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        sh::eventually("the API server is ready", Duration::from_secs(30), || {
            let url = format!("https://127.0.0.1:{port}/readyz");
            sh::read(&mut sh::cmd(&["curl", "-sfk", "--max-time", "1", &url]))
        })?;
        println!("  process start to /readyz ok: {:.2} s", start.elapsed().as_secs_f64());
        Ok(child)
    }

    /// Runs one load and prints what it cost the server.
    fn load(&self, words: &[&str]) -> Result<()> {
        let before = usage(self.child.id())?;
        let mut command = Command::new(sh::target().join("release/caravel-load"));
        let said = sh::read(command.arg(self.dir.join("kubeconfig")).args(words))?;
        let after = usage(self.child.id())?;
        println!("  {said}\n      server: {:.2} CPU s, {} MB resident", after.cpu - before.cpu, after.resident >> 20);
        Ok(())
    }

    /// The share of a core, in percent, that the server uses in a minute with nothing to do.
    fn rest(&self) -> Result<f64> {
        std::thread::sleep(Duration::from_secs(20));
        let (before, begun) = (usage(self.child.id())?, Instant::now());
        std::thread::sleep(Duration::from_secs(60));
        let after = usage(self.child.id())?;
        Ok((after.cpu - before.cpu) / begun.elapsed().as_secs_f64() * 100.0)
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

struct Usage {
    cpu: f64,
    resident: u64,
}

fn usage(pid: u32) -> Result<Usage> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("the server is gone; see its log")?;
    // The name, in parentheses, may hold spaces.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let number = |i: usize| fields.get(i).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
    Ok(Usage { cpu: (number(11) + number(12)) as f64 / TICKS, resident: number(21) * 4096 })
}

fn api(program: &Path) -> Result<()> {
    println!("==> api: durable, embedded store, TLS over loopback");
    let plane = Plane::start(program, &[])?;
    plane.load(&["create", "10000", "64"])?;
    plane.load(&["get", "20000", "64", "10000"])?;
    plane.load(&["update", "5000", "64", "10000"])?;
    plane.load(&["list", "40", "4"])?;
    plane.load(&["watch", "100", "800"])
}

/// Objects of the `data` part, and how many bytes each holds.
const OBJECTS: (usize, usize) = (200_000, 1_700);

/// Many objects: memory, start-up after a crash, one list of all, and watches that nothing happens in.
fn data(program: &Path) -> Result<()> {
    println!("==> data: {} objects of 2 KB", OBJECTS.0);
    let mut plane = Plane::start(program, &[])?;
    let (count, bytes) = (OBJECTS.0.to_string(), OBJECTS.1.to_string());
    plane.load(&["create", &count, "64", &bytes])?;
    plane.crash(program)?;
    let resident = |plane: &Plane| Ok::<u64, anyhow::Error>(usage(plane.child.id())?.resident >> 20);
    println!("      started again: {} MB resident", resident(&plane)?);
    plane.load(&["list", "2", "1"])?;
    for how in ["shared", "own"] {
        let before = resident(&plane)?;
        let mut watching = Command::new(sh::target().join("release/caravel-load"))
            .arg(plane.dir.join("kubeconfig"))
            .args(["idle", "1000", "8", how])
            .spawn()?;
        std::thread::sleep(Duration::from_secs(5));
        println!("  1,000 idle watches, connections {how}: {} MB more", resident(&plane)?.saturating_sub(before));
        watching.wait()?;
    }
    Ok(())
}

fn scheduler(program: &Path) -> Result<()> {
    println!("==> scheduler: 1,000 nodes, end to end through the durable API");
    for (pods, kind) in [("5000", "basic"), ("3000", "spread"), ("3000", "anti"), ("3000", "affinity")] {
        let plane = Plane::start(program, &[])?;
        plane.load(&["nodes", "1000", "32"])?;
        plane.load(&["sched", pods, "64", kind])?;
    }
    Ok(())
}

fn workloads(program: &Path) -> Result<()> {
    println!("==> workloads: a Deployment scaled up, and 10,000 of them at rest");
    Plane::start(program, &[])?.load(&["scale", "5000"])?;
    let plane = Plane::start(program, &[])?;
    plane.load(&["deployments", "10000", "64"])?;
    // Settle, then look at a minute of rest; without Deployments, too, for what the server alone costs.
    let busy = plane.rest()?;
    let idle = Plane::start(program, &[])?.rest()?;
    println!("  at rest: {busy:.2} % of a core with 10,000 Deployments, {idle:.2} % without any");
    Ok(())
}

fn node(program: &Path) -> Result<()> {
    println!("==> node: one machine, everything in one process");
    let dir = std::env::temp_dir().join(format!("caravel-bench-node-{}", std::process::id()));
    let start = Instant::now();
    let mut cluster = Cluster::up(program, &dir)?;
    println!("  `up` to Ready: {:.2} s", start.elapsed().as_secs_f64());
    let context = test::busybox_context()?;
    sh::read(cluster.caravel(&["image", "build", "-t", "bench/busybox:1"]).arg(&context))?;
    let mut load = Command::new(sh::target().join("release/caravel-load"));
    let said = sh::read(load.arg(cluster.kubeconfig()).args(["pods", "50", "bench/busybox:1"]))?;
    println!("  {said}");
    let pid: u32 = std::fs::read_to_string(cluster.dir.join("run/caravel.pid"))?.trim().parse()?;
    // Settle, then look at a minute of rest.
    std::thread::sleep(Duration::from_secs(20));
    let (before, begun) = (usage(pid)?, Instant::now());
    std::thread::sleep(Duration::from_secs(60));
    let after = usage(pid)?;
    let share = (after.cpu - before.cpu) / begun.elapsed().as_secs_f64() * 100.0;
    println!("  idle: {share:.2} % of a core, {} MB resident", after.resident >> 20);
    cluster.purge()
}
