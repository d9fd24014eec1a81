//! `cargo xtask bench`: the budgets, measured.

use anyhow::Result;

#[derive(clap::Args)]
pub struct Args {}

pub fn run(_args: &Args) -> Result<()> {
    anyhow::bail!("no benchmark is built yet")
}
