//! The conformance ledger: complete, and true as far as a program can tell.

use crate::sh;
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Tests in the v1.36 suite.
const ROWS: usize = 446;

#[derive(Deserialize)]
struct Ledger {
    test: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    name: String,
    area: String,
    proof: String,
}

/// Checks the ledger and prints a table of how many rows are proved in each area.
pub fn run() -> Result<()> {
    let text = std::fs::read_to_string(sh::root().join("tests/conformance.toml")).context("tests/conformance.toml")?;
    let ledger: Ledger = toml::from_str(&text).context("tests/conformance.toml")?;
    let names: BTreeSet<&str> = ledger.test.iter().map(|r| r.name.as_str()).collect();
    if names.len() != ROWS || ledger.test.len() != ROWS {
        bail!("the ledger has {} rows with {} names, and the suite has {ROWS}", ledger.test.len(), names.len());
    }
    let tests = test_functions(&sh::root().join("tests/tests"))?;
    let mut areas: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    let mut lies = vec![];
    for row in &ledger.test {
        let area = areas.entry(&row.area).or_default();
        area.1 += 1;
        if row.proof == "missing" {
            continue;
        }
        area.0 += 1;
        if !tests.contains(&row.proof) {
            lies.push(format!("{}: there is no test `{}` under tests/tests", row.name, row.proof));
        }
    }
    if !lies.is_empty() {
        bail!("ledger rows name tests that do not exist:\n  {}", lies.join("\n  "));
    }
    for (area, (proved, all)) in &areas {
        println!("  {area:<16} {proved:>3} of {all}");
    }
    println!("  ledger: {} of {ROWS} proved", areas.values().map(|a| a.0).sum::<usize>());
    Ok(())
}

/// Names of the test functions, as `file::function`.
fn test_functions(dir: &Path) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        let Some(stem) = path.file_stem().and_then(|s| s.to_str()).filter(|_| path.extension().is_some()) else {
            continue;
        };
        let text = std::fs::read_to_string(&path)?;
        let mut marked = false;
        for line in text.lines().map(str::trim) {
            if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                marked = true;
            } else if let Some(rest) = line.strip_prefix("fn ").or_else(|| line.strip_prefix("async fn ")) {
                if marked && let Some(name) = rest.split('(').next() {
                    found.insert(format!("{stem}::{name}"));
                }
                marked = false;
            } else if line.starts_with("#[ignore") {
                marked = false;
            }
        }
    }
    Ok(found)
}
