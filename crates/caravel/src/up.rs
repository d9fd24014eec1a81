//! `caravel up`: a cluster of one on this machine.

use crate::args::Up;
use crate::detach::{self, Notify};
use crate::instance::{self, Instance, Role};
use crate::{preflight, run};
use anyhow::{Context, Result, bail};
use std::time::Instant;

/// Runs it here, or, with `--detach`, in a process of its own.
pub fn up(args: Up) -> Result<()> {
    preflight::refuse_what_cannot_work()?;
    args.scheduler.config()?;
    if args.detach { detached(&args) } else { in_front(args) }
}

fn detached(args: &Up) -> Result<()> {
    let started = Instant::now();
    let instance = Instance::open(&args.data.path, args.port)?;
    if let Some(pid) = instance.pid() {
        println!("the cluster in {} is already up (pid {pid})", instance.dir.display());
        return Ok(());
    }
    let mut words = vec!["up".to_owned(), "--data-dir".into(), instance.dir.display().to_string()];
    words.extend(["--port".into(), instance.port.to_string()]);
    if let Some(name) = &args.node_name {
        words.extend(["--node-name".into(), name.clone()]);
    }
    if let Some(address) = &args.others.advertise_address {
        words.extend(["--advertise-address".into(), address.to_string()]);
    }
    if let Some(seconds) = args.others.node_grace_period {
        words.extend(["--node-grace-period".into(), seconds.to_string()]);
    }
    words.extend(args.api.words());
    words.extend(args.scheduler.words());
    let log = instance.dir.join("logs/caravel.log");
    let progress = Progress::new();
    detach::start(&words, &log, |step| progress.step(step)).with_context(|| format!("the log is {}", log.display()))?;
    progress.done();
    println!("Ready in {:.2} s: https://127.0.0.1:{}", started.elapsed().as_secs_f64(), instance.port);
    println!("export KUBECONFIG={}", instance::kubeconfig_path(&instance.dir).display());
    Ok(())
}

fn in_front(args: Up) -> Result<()> {
    let mut notify = Notify::from_environment();
    let result = Instance::open(&args.data.path, args.port).and_then(|mut instance| {
        if let Role::Agent { server } = &instance.role {
            bail!("{} is of a node of {server}; `caravel agent` starts it", instance.dir.display());
        }
        let running = instance.lock()?;
        instance.advertise = args.others.advertise_address.or(instance.advertise);
        instance.save()?;
        run::up(&instance, &args, &mut notify).map(|()| drop(running))
    });
    if let Err(error) = &result {
        notify.failed(&format!("{error:#}"));
    }
    result
}

/// A spinner on a terminal, plain lines elsewhere.
struct Progress {
    bar: Option<indicatif::ProgressBar>,
}

impl Progress {
    fn new() -> Progress {
        use std::io::IsTerminal;
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = indicatif::ProgressBar::new_spinner();
            bar.enable_steady_tick(std::time::Duration::from_millis(100));
            bar
        });
        Progress { bar }
    }

    fn step(&self, what: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(what.to_owned()),
            None => eprintln!("  {what}"),
        }
    }

    fn done(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
