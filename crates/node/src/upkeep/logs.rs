//! Log rotation: `0.log` is renamed, the runtime opens a new one, and of the old ones all but the newest are packed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::manager::Manager;
use crate::shared::Shared;

/// Rotates the logs of running containers that grew too long.
pub async fn rotate(shared: &Arc<Shared>, manager: &Manager) {
    let max = shared.config.log_max_bytes;
    for handle in manager.handles() {
        let long: Vec<(String, PathBuf)> = {
            let view = handle.view.lock();
            let running = view.containers.iter().filter(|c| c.running);
            running
                .filter(|c| fs::metadata(&c.log_path).is_ok_and(|m| m.len() > max))
                .map(|c| (c.id.clone(), PathBuf::from(&c.log_path)))
                .collect()
        };
        for (id, path) in long {
            if let Err(e) = one(shared, &id, &path).await {
                tracing::warn!(log = %path.display(), error = %e, "cannot rotate a log");
            }
        }
    }
}

async fn one(shared: &Arc<Shared>, id: &str, path: &Path) -> io::Result<()> {
    let stamp = jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S");
    let old = PathBuf::from(format!("{}.{stamp}", path.display()));
    fs::rename(path, &old)?;
    if let Err(e) = shared.runtime.reopen_container_log(id).await {
        // The runtime still writes to the old file: it keeps its name.
        fs::rename(&old, path)?;
        return Err(io::Error::other(e.detail()));
    }
    let (path, keep) = (path.to_path_buf(), shared.config.log_max_files.saturating_sub(1).max(1));
    tokio::task::spawn_blocking(move || tidy(&path, keep)).await.map_err(io::Error::other)?
}

/// Of the rotated files packs all but the newest and keeps the newest `keep`.
fn tidy(log: &Path, keep: usize) -> io::Result<()> {
    let mut old = rotated(log)?;
    old.sort();
    let excess = old.len().saturating_sub(keep);
    for path in old.drain(..excess) {
        fs::remove_file(path)?;
    }
    old.pop();
    old.into_iter().filter(|p| p.extension().is_none_or(|e| e != "gz")).try_for_each(|p| pack(&p))
}

fn rotated(log: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(dir), Some(name)) = (log.parent(), log.file_name().and_then(|n| n.to_str())) else {
        return Ok(Vec::new());
    };
    let prefix = format!("{name}.");
    let all = fs::read_dir(dir)?.flatten().map(|e| e.path());
    Ok(all
        .filter(|p| {
            p.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with(&prefix) && !n.ends_with(".tmp"))
        })
        .collect())
}

fn pack(path: &Path) -> io::Result<()> {
    let tmp = PathBuf::from(format!("{}.tmp", path.display()));
    let mut to = flate2::write::GzEncoder::new(fs::File::create(&tmp)?, flate2::Compression::default());
    io::copy(&mut fs::File::open(path)?, &mut to)?;
    to.finish()?;
    fs::rename(&tmp, format!("{}.gz", path.display()))?;
    fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn old_logs_are_packed_and_dropped() {
        let dir = std::env::temp_dir().join(format!("rotate-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let log = dir.join("0.log");
        fs::write(&log, "now").unwrap();
        for i in 1..=5 {
            fs::write(dir.join(format!("0.log.20260101-00000{i}")), format!("{i}")).unwrap();
        }
        tidy(&log, 3).unwrap();
        let mut names: Vec<String> =
            fs::read_dir(&dir).unwrap().flatten().map(|e| e.file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, ["0.log", "0.log.20260101-000003.gz", "0.log.20260101-000004.gz", "0.log.20260101-000005"]);
        fs::remove_dir_all(dir).unwrap();
    }
}
