//! Access of tests to the published API documents, which lie beside the repository in some places and not
//! in others. `CARAVEL_REFERENCE` names the folder; without it `../shared/reference/kubernetes-1.36`
//! relative to the repository is tried.

use std::path::PathBuf;

fn folder() -> Option<PathBuf> {
    let folder = match std::env::var_os("CARAVEL_REFERENCE") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/reference/kubernetes-1.36"),
    };
    if folder.is_dir() {
        return Some(folder);
    }
    println!("skipped: no reference documents (set CARAVEL_REFERENCE)");
    None
}

/// One document, or `None` where there is no reference.
pub(crate) fn read(name: &str) -> Option<Vec<u8>> {
    std::fs::read(folder()?.join(name)).ok()
}

/// Every document of a folder; empty where there is no reference.
pub(crate) fn read_all(name: &str) -> Vec<Vec<u8>> {
    let Some(folder) = folder() else { return Vec::new() };
    let entries = std::fs::read_dir(folder.join(name)).into_iter().flatten().flatten();
    entries.filter_map(|entry| std::fs::read(entry.path()).ok()).collect()
}
