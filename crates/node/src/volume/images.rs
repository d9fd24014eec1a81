//! Where volumes that are images lie, and giving them back.

use std::fs;
use std::path::{Path, PathBuf};

use caravel_runtime as rt;

/// Where a volume is mounted.
pub fn dir(pod_dir: &Path, name: &str) -> PathBuf {
    super::dir(pod_dir, "image", name)
}

/// What the runtime knows it by.
pub fn key(uid: &str, name: &str) -> String {
    format!("caravel-volume-{uid}-{name}")
}

/// The image volumes that were mounted for a Pod, by what is on disk.
pub fn of_pod(pod_dir: &Path) -> Vec<String> {
    let Some(all) = dir(pod_dir, "x").parent().map(Path::to_path_buf) else { return Vec::new() };
    let entries = fs::read_dir(all).into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().into_string().ok()).collect()
}

/// Gives the unmounted image volumes of a Pod back to the runtime.
pub async fn give_back(runtime: &dyn rt::Runtime, uid: &str, names: &[String]) -> rt::Result<()> {
    for name in names {
        runtime.unmount_image(&key(uid, name)).await?;
    }
    Ok(())
}
