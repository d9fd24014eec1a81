//! What a decision costs as the cluster grows.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cluster::{Bench, Figures, nodes};
use crate::scenarios::template;
use crate::svg::{Line, plot};

const SIZES: [usize; 7] = [100, 500, 1000, 2000, 5000, 10_000, 15_000];
const KINDS: [&str; 4] = ["basic", "pod affinity", "anti-affinity", "spread"];
/// Decisions measured at each size.
const DECISIONS: usize = 1000;
const LONG_ENOUGH: Duration = Duration::from_millis(200);

/// Decides on fresh clusters of one size until the clock's grain (some milliseconds) no longer matters.
fn measure(kind: &str, size: usize) -> Figures {
    let pods = template(kind).make(DECISIONS.min(size * 9 / 10));
    let mut sum = Figures::default();
    while sum.cpu < LONG_ENOUGH {
        let mut bench = Bench::new();
        bench.add_nodes(nodes(size));
        bench.arrive(&pods);
        let figures = bench.drain(|_, _| {});
        sum.cpu += figures.cpu;
        sum.decisions += figures.decisions;
        sum.looked_at += figures.looked_at;
    }
    sum
}

/// Measures and draws: microseconds of CPU of a decision over the number of nodes, and how many nodes it looks at.
pub fn draw(file: &Path) -> Result<()> {
    let mut lines = Vec::new();
    println!("cost of a decision, µs of CPU (nodes looked at):");
    for kind in KINDS {
        let mut points = Vec::new();
        let mut text = format!("  {kind:<16}");
        for size in SIZES {
            let figures = measure(kind, size);
            let micros = figures.cpu.as_secs_f64() * 1e6 / figures.decisions.max(1) as f64;
            let looked = figures.looked_at as f64 / figures.decisions.max(1) as f64;
            text += &format!("  {size}: {micros:.1} ({looked:.0})");
            points.push((size as f64, micros, looked));
        }
        println!("{text}");
        lines.push(Line { name: kind.to_owned(), points: points.iter().map(|(x, y, _)| (*x, *y)).collect() });
        if kind == "basic" {
            // The same curve if each candidate cost what it costs at the smallest size.
            let unit = points.first().map_or(0.0, |(_, micros, looked)| micros / looked.max(1.0));
            let points = points.iter().map(|(x, _, looked)| (*x, looked * unit)).collect();
            lines.push(Line { name: "candidates (basic, scaled)".to_owned(), points });
        }
    }
    let picture = plot("Cost of a scheduling decision", "nodes", "µs of CPU", &lines);
    std::fs::write(file, picture).with_context(|| file.display().to_string())?;
    println!("drawn: {}", file.display());
    Ok(())
}
