//! The scheduler measured without the API: decide, assume, and take in that the pod was bound.
//!
//! ```text
//! caravel-bench-scheduler [--only NAME] [--nodes N] [--curve SVG]
//! ```
//! The scenarios are those of upstream's scheduler_perf, made anew here: every decision is a real one, on the real state and queue,
//! one thread. What is not measured is the API: reading objects and posting bindings.

mod cluster;
mod curve;
mod machine;
mod scenarios;
mod svg;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Args {
    only: Option<String>,
    nodes: Option<usize>,
    curve: Option<PathBuf>,
}

fn args() -> Result<Args> {
    let mut out = Args { only: None, nodes: None, curve: None };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} wants a value"));
        match word.as_str() {
            "--only" => out.only = Some(value()?),
            "--nodes" => out.nodes = Some(value()?.parse().context("--nodes wants a number")?),
            "--curve" => out.curve = Some(value()?.into()),
            other => bail!("unknown argument {other:?}: --only NAME, --nodes N and --curve FILE are known"),
        }
    }
    Ok(out)
}

fn main() -> Result<()> {
    let args = args()?;
    println!(
        "{:<24} {:>7} {:>7} {:>11} {:>8} {:>9} {:>11} {:>10}",
        "scenario", "nodes", "pods", "pods/s", "CPU s", "looked at", "ns a node", "budget"
    );
    let mut missed = 0;
    for scenario in scenarios::all() {
        if args.only.as_deref().is_some_and(|only| !scenario.name.contains(only))
            || args.nodes.is_some_and(|nodes| nodes != scenario.nodes)
        {
            continue;
        }
        let figures = scenario.run()?;
        let budget = scenario.budget.map_or_else(String::new, |least| {
            let met = figures.per_second() >= f64::from(least);
            missed += u32::from(!met);
            format!("{} {least}", if met { "met" } else { "MISSED" })
        });
        println!(
            "{:<24} {:>7} {:>7} {:>11.0} {:>8.2} {:>9.0} {:>11.0} {:>10}",
            scenario.name,
            scenario.nodes,
            figures.decisions,
            figures.per_second(),
            figures.cpu.as_secs_f64(),
            figures.looked_at as f64 / figures.decisions.max(1) as f64,
            figures.wall.as_nanos() as f64 / figures.looked_at.max(1) as f64,
            budget,
        );
        for note in &figures.notes {
            println!("    {note}");
        }
    }
    if args.only.is_none() {
        machine::memory()?;
    }
    if let Some(file) = &args.curve {
        curve::draw(file)?;
    }
    if missed > 0 {
        println!("{missed} budgets missed");
    }
    Ok(())
}
