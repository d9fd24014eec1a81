//! Checks on the sources that need no build, and clippy.

use crate::sh;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Who may know whom: the dependency directions of the house. A crate not listed here may know everything.
const MAY_KNOW: &[(&str, &[&str])] = &[
    ("caravel-api", &[]),
    ("caravel-cel", &["caravel-api"]),
    ("caravel-store", &[]),
    ("caravel-runtime", &[]),
    ("caravel-server", &["caravel-api", "caravel-cel", "caravel-store"]),
    ("caravel-client", &["caravel-api"]),
    ("caravel-scheduler", &["caravel-api", "caravel-cel", "caravel-client"]),
    ("caravel-controllers", &["caravel-api", "caravel-client"]),
    ("caravel-cloud", &["caravel-api", "caravel-client"]),
    ("caravel-network", &["caravel-api", "caravel-client"]),
    ("caravel-node", &["caravel-api", "caravel-client", "caravel-runtime"]),
];

/// Licences that may come in, as SPDX terms.
const LICENCES: &[&str] = &[
    "MIT",
    "MIT-0",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "MPL-2.0",
    "ISC",
    "Zlib",
    "0BSD",
    "CC0-1.0",
    "Unicode-3.0",
    "Unicode-DFS-2016",
    "CDLA-Permissive-2.0",
    "Unlicense",
    "BSL-1.0",
    "OpenSSL",
];

/// A file longer than this is two rooms in one.
const LONGEST_FILE: usize = 800;

/// All of it.
pub fn run() -> Result<()> {
    println!("==> formatting");
    sh::run(&mut sh::cmd(&["cargo", "fmt", "--all", "--check"]))?;
    println!("==> dependency directions, licences, file sizes");
    let metadata = sh::read(&mut sh::cmd(&["cargo", "metadata", "--format-version=1", "--locked"]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata")?;
    directions(&metadata)?;
    licences(&metadata)?;
    file_sizes()?;
    println!("==> clippy");
    sh::run(&mut sh::cmd(&["cargo", "clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]))
}

fn packages(metadata: &Value) -> impl Iterator<Item = &Value> {
    metadata["packages"].as_array().into_iter().flatten()
}

fn directions(metadata: &Value) -> Result<()> {
    let allowed: BTreeMap<&str, &[&str]> = MAY_KNOW.iter().copied().collect();
    let mut wrong = vec![];
    for package in packages(metadata) {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(allowed) = allowed.get(name) else { continue };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let other = dependency["name"].as_str().unwrap_or_default();
            // A test may reach further than the room it tests.
            if other.starts_with("caravel") && dependency["kind"].is_null() && !allowed.contains(&other) {
                wrong.push(format!("{name} must not know {other}"));
            }
        }
    }
    if !wrong.is_empty() {
        bail!("the walls of the house (ARCHITECTURE.md): {}", wrong.join("; "));
    }
    Ok(())
}

fn licences(metadata: &Value) -> Result<()> {
    let known: BTreeSet<&str> = LICENCES.iter().copied().collect();
    let term_ok = |term: &str| known.contains(term.trim_matches(|c| c == '(' || c == ')').trim());
    // An OR offers a choice; each AND part must be fine.
    let expression_ok = |e: &str| {
        let e = e.replace('/', " OR ");
        e.split(" AND ").all(|part| part.split(" OR ").any(term_ok))
    };
    let refused: Vec<String> = packages(metadata)
        .filter(|p| !p["license"].as_str().is_some_and(expression_ok) && !p["source"].is_null())
        .map(|p| format!("{} ({})", p["name"].as_str().unwrap_or("?"), p["license"].as_str().unwrap_or("no licence")))
        .collect();
    if !refused.is_empty() {
        bail!("licences that may not come in: {}", refused.join(", "));
    }
    Ok(())
}

fn file_sizes() -> Result<()> {
    let files = sh::read(&mut sh::cmd(&["git", "ls-files", "*.rs"]))?;
    let mut long = vec![];
    for file in files.lines() {
        let lines = std::fs::read_to_string(sh::root().join(file)).map_or(0, |t| t.lines().count());
        if lines > LONGEST_FILE {
            long.push(format!("{file} has {lines} lines"));
        }
    }
    if !long.is_empty() {
        bail!("no file past {LONGEST_FILE} lines: {}", long.join("; "));
    }
    Ok(())
}
