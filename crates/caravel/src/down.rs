//! `caravel down`: stops the cluster with its containers, and with `--purge` leaves the machine as it was.

use crate::args::Down;
use crate::instance::Instance;
use crate::wire;
use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::{Duration, Instant};

/// The program has this long for its graceful shutdown.
const GRACE: Duration = Duration::from_secs(20);

pub fn down(args: &Down) -> Result<()> {
    let Some(mut instance) = Instance::read(&args.data.path)? else {
        if args.data.path.exists() && std::fs::read_dir(&args.data.path)?.next().is_some() {
            bail!("{} holds no cluster (it has no instance.json); nothing was touched", args.data.path.display());
        }
        println!("there is no cluster in {}", args.data.path.display());
        return Ok(());
    };
    instance.dir = std::fs::canonicalize(&instance.dir)?;
    stop_program(&instance)?;
    // Nobody may start it again while it is taken apart.
    let running = instance.lock()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(wire::stop_everything(&instance, args.purge))?;
    drop(running);
    if args.purge {
        instance.release();
        std::fs::remove_dir_all(&instance.dir)
            .with_context(|| format!("could not remove {}", instance.dir.display()))?;
        println!("the cluster in {} is gone, and nothing of it is left", instance.dir.display());
    } else {
        println!("the cluster in {} is down; `caravel up` starts it again", instance.dir.display());
    }
    Ok(())
}

fn stop_program(instance: &Instance) -> Result<()> {
    let Some(pid) = instance.pid() else { return Ok(()) };
    if !instance.is_meant(pid) {
        bail!(
            "the cluster in {} is run by a process of another pid namespace, where it is pid {pid}: end it there, or the namespace",
            instance.dir.display()
        );
    }
    let pid = Pid::from_raw(pid);
    kill(pid, Signal::SIGTERM).with_context(|| format!("could not stop pid {pid}"))?;
    if gone_within(instance, GRACE) {
        return Ok(());
    }
    eprintln!("it did not stop within {} s; killing it (nothing acknowledged is lost)", GRACE.as_secs());
    kill(pid, Signal::SIGKILL).with_context(|| format!("could not kill pid {pid}"))?;
    if !gone_within(instance, GRACE) {
        bail!("pid {pid} does not go away; it may hang in the kernel (see /proc/{pid}/stack)");
    }
    Ok(())
}

/// The lock on the data directory is free as soon as the process is gone, however it went.
fn gone_within(instance: &Instance, limit: Duration) -> bool {
    let start = Instant::now();
    while instance.pid().is_some() {
        if start.elapsed() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}
