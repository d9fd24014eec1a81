//! `caravel status`: what runs, whether it is healthy, and if not why.

use crate::instance::{self, Instance, Role};
use crate::{preflight, ready};
use anyhow::{Result, bail};
use std::path::Path;

pub fn status(dir: &Path) -> Result<()> {
    for finding in preflight::look() {
        let verdict = if finding.fatal.is_none() { "ok" } else { "NOT OK" };
        println!("{:<24} {:<7} {}", finding.what, verdict, finding.found);
        if let Some(mend) = finding.fatal {
            println!("{:<24} {:<7} {mend}", "", "mend:");
        }
    }
    let Some(instance) = Instance::read(dir)? else {
        bail!("no cluster has been started in {}; `caravel up --data-dir {}` starts one", dir.display(), dir.display());
    };
    let Some(pid) = instance.pid() else {
        bail!("the cluster in {} is down; `caravel up --data-dir {}` starts it", dir.display(), dir.display());
    };
    println!("{:<24} {:<7} pid {pid}, {}", "caravel", "ok", memory(pid));
    if let Role::Agent { server } = &instance.role {
        println!("{:<24} {:<7} a node of {server}", "role", "ok");
        return Ok(());
    }
    println!("{:<24} {:<7} https://127.0.0.1:{}", "api", "ok", instance.port);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let kubeconfig = instance::kubeconfig_path(&instance.dir);
    let problems = runtime.block_on(ready::report(&kubeconfig))?;
    if !problems.is_empty() {
        bail!("not healthy:\n  {}", problems.join("\n  "));
    }
    println!("healthy");
    Ok(())
}

fn memory(pid: i32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let rss = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap_or("?").trim();
    format!("{rss} resident")
}
