//! The scheduler's own figures: decisions without the API, as `benches/scheduler` measures them, and the curve as a picture.

use crate::sh;
use anyhow::Result;
use std::process::Command;

/// Builds the measuring program and runs it; the curve goes to `docs/scheduler-curve.svg`.
pub fn run() -> Result<()> {
    println!("==> scheduler: decisions, one thread, without the API");
    // The whole workspace chooses the features, so that nothing is built twice.
    sh::run(&mut sh::cmd(&["cargo", "build", "--release", "--workspace", "--bin", "caravel-bench-scheduler"]))?;
    let curve = sh::root().join("docs/scheduler-curve.svg");
    sh::run(Command::new(sh::target().join("release/caravel-bench-scheduler")).arg("--curve").arg(curve))
}
