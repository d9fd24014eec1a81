//! The conformance ledger: complete, and true as far as a program can tell.

use crate::sh;
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

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
    let tests = whole_cluster_tests()?;
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

/// Names of the whole-cluster tests as `file::test`, macro-made ones included: only the compiled tests know them.
fn whole_cluster_tests() -> Result<BTreeSet<String>> {
    let words = ["cargo", "nextest", "list", "--workspace", "-E", "package(caravel-tests)", "--message-format", "json"];
    let list: Value = serde_json::from_str(&sh::read(&mut sh::cmd(&words))?).context("cargo nextest list")?;
    let mut found = BTreeSet::new();
    for suite in list["rust-suites"].as_object().into_iter().flat_map(|s| s.values()) {
        let file = suite["binary-name"].as_str().unwrap_or_default();
        for (name, case) in suite["testcases"].as_object().into_iter().flatten() {
            if case["ignored"] == false {
                found.insert(format!("{file}::{name}"));
            }
        }
    }
    Ok(found)
}
