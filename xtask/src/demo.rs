//! `cargo xtask demo`: what a newcomer sees first.

use crate::cluster::{self, Cluster, Profile};
use crate::load::{self, Load};
use crate::{image, residue, setup, sh};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

#[derive(clap::Args)]
pub struct Args {
    /// Use the debug build (quicker to build, slower to run)
    #[arg(long)]
    debug: bool,
    /// Take the cluster down at the end and check that nothing is left
    #[arg(long)]
    remove: bool,
    /// Where the cluster keeps its data
    #[arg(long, default_value = "/var/lib/caravel-demo")]
    data_dir: PathBuf,
}

/// Times each step from the end of the one before.
struct Steps {
    last: Instant,
}

impl Steps {
    fn done(&mut self, what: &str) {
        let took = self.last.elapsed();
        println!("  {:>7.2} s  {what}", took.as_secs_f64());
        self.last = Instant::now();
    }
}

pub fn run(args: &Args) -> Result<()> {
    setup::ensure(setup::ALL)?;
    let program = cluster::build(if args.debug { Profile::Debug } else { Profile::Release })?;
    if args.data_dir.exists() {
        println!("==> removing the cluster of an earlier demo");
        sh::run(&mut sh::cmd(&[
            &program.display().to_string(),
            "down",
            "--purge",
            "--data-dir",
            &args.data_dir.display().to_string(),
        ]))?;
    }
    let context = image::nginx_context("v1")?;
    let before = residue::snapshot();
    println!("==> the demo");
    let mut steps = Steps { last: Instant::now() };
    let mut cluster = Cluster::up(&program, &args.data_dir)?;
    steps.done("a cluster is up and its node is Ready");
    let shown = show(&cluster, &mut steps, &context.display().to_string());
    if args.remove || shown.is_err() {
        cluster.purge()?;
        steps.done("everything removed again");
        shown?;
        return before.compare();
    }
    what_next(&program.display().to_string(), &cluster);
    // It stays up for the reader to play with.
    std::mem::forget(cluster);
    Ok(())
}

fn show(cluster: &Cluster, steps: &mut Steps, context: &str) -> Result<()> {
    for tag in ["v1", "v2"] {
        sh::read(&mut cluster.caravel(&["image", "build", "-t", &format!("demo/web:{tag}"), context]))?;
    }
    steps.done("an image of nginx from Debian's packages is in the node");
    sh::read(&mut cluster.kubectl(&["apply", "-f", "examples/web/web.yaml"]))?;
    rolled_out(cluster)?;
    steps.done("three replicas rolled out");
    let service: SocketAddr = format!("{}:80", jsonpath(cluster, "service/web", "{.spec.clusterIP}")?).parse()?;
    let answer = sh::eventually("the Service answers", Duration::from_secs(30), || {
        load::get(service).map_err(anyhow::Error::msg)
    })?;
    ensure!(answer.contains("Served by Caravel"), "the Service answered something else: {answer}");
    steps.done(&format!("the Service answers at http://{service}/"));
    heal(cluster)?;
    steps.done("a container was killed and is back");
    sh::read(&mut cluster.kubectl(&["-n", "demo", "scale", "deployment/web", "--replicas=5"]))?;
    rolled_out(cluster)?;
    steps.done("scaled to five");
    update_under_load(cluster, service, steps)
}

fn update_under_load(cluster: &Cluster, service: SocketAddr, steps: &mut Steps) -> Result<()> {
    let load = Load::start(service, 4);
    sh::read(&mut cluster.kubectl(&["-n", "demo", "set", "image", "deployment/web", "nginx=demo/web:v2"]))?;
    let updated = rolled_out(cluster);
    // The last old Pods go while requests still come.
    std::thread::sleep(Duration::from_secs(3));
    let (ok, failed, first) = load.stop();
    updated?;
    if failed > 0 {
        bail!(
            "{failed} of {} requests failed during the rolling update; the first: {}",
            ok + failed,
            first.unwrap_or_default()
        );
    }
    steps.done(&format!("rolling update under load: {ok} requests, none failed"));
    Ok(())
}

fn rolled_out(cluster: &Cluster) -> Result<()> {
    let words = ["-n", "demo", "rollout", "status", "deployment/web", "--timeout=120s"];
    let result = sh::read(&mut cluster.kubectl(&words)).map(|_| ());
    if result.is_err() {
        let _ = sh::run(&mut cluster.kubectl(&["-n", "demo", "get", "pods,events", "-o", "wide"]));
    }
    result
}

fn jsonpath(cluster: &Cluster, what: &str, path: &str) -> Result<String> {
    sh::read(&mut cluster.kubectl(&["-n", "demo", "get", what, "-o", &format!("jsonpath={path}")]))
}

/// Kills the process of one container as the kernel's OOM killer would, and waits for its replacement.
fn heal(cluster: &Cluster) -> Result<()> {
    let pods = sh::read(&mut cluster.kubectl(&["-n", "demo", "get", "pods", "-l", "app=web", "-o", "json"]))?;
    let pods: Value = serde_json::from_str(&pods)?;
    let pod = &pods["items"][0];
    let name = pod["metadata"]["name"].as_str().context("a Pod has a name")?;
    let id = pod["status"]["containerStatuses"][0]["containerID"].as_str().context("a running container has an ID")?;
    let pid = container_pid(id.rsplit('/').next().unwrap_or(id)).context("the container's process was not found")?;
    sh::read(&mut sh::cmd(&["kill", "-9", &pid]))?;
    sh::eventually("the container is back", Duration::from_secs(10), || {
        let status = jsonpath(
            cluster,
            &format!("pod/{name}"),
            "{.status.containerStatuses[0].restartCount}/{.status.containerStatuses[0].ready}",
        )?;
        ensure!(status == "1/true", "restarts/ready is {status}");
        Ok(())
    })
}

/// The first process in the container's cgroup.
fn container_pid(id: &str) -> Option<String> {
    let pids = std::fs::read_dir("/proc").ok()?.flatten();
    let mut found: Vec<u32> = pids
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .filter(|pid| std::fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|c| c.contains(id)))
        .collect();
    found.sort_unstable();
    found.first().map(u32::to_string)
}

fn what_next(program: &str, cluster: &Cluster) {
    let (config, dir) = (cluster.kubeconfig(), cluster.dir.display());
    println!(
        "\nThe cluster is still running. Try:\n\
         \n  export KUBECONFIG={}\
         \n  kubectl get pods -A -o wide\
         \n  kubectl -n demo exec deploy/web -- /usr/sbin/nginx -v\
         \n  kubectl -n demo rollout undo deployment/web\
         \n  curl http://127.0.0.1:30080/\
         \n  {program} status --data-dir {dir}\
         \n\nTo remove everything:\n\n  {program} down --purge --data-dir {dir}",
        config.display()
    );
}
