//! Logs of deleted Pods: they stay where they were for a while, because the question what went wrong comes after the Pod is
//! gone. The node's API offers them below `/logs/pods/<namespace>_<pod>_<uid>/`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Its age is the time since the Pod was deleted.
const MARK: &str = ".deleted";
/// How long they stay.
const KEEP: Duration = Duration::from_secs(3600);
/// How many Pods' at most, and how much of them all, bytes; the oldest go first.
const MAX_PODS: usize = 500;
const MAX_BYTES: u64 = 256 << 20;

/// Notes that the Pod of this log directory is gone.
pub fn mark(dir: &Path) -> io::Result<()> {
    match fs::write(dir.join(MARK), "") {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The logs of one deleted Pod.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kept {
    dir: PathBuf,
    since: SystemTime,
    bytes: u64,
}

/// Removes what has been kept long enough, and the oldest of what is too much.
pub fn sweep(log_dir: &Path) {
    let dirs = fs::read_dir(log_dir).into_iter().flatten().flatten().map(|e| e.path());
    let kept = dirs.filter_map(|dir| {
        let since = fs::metadata(dir.join(MARK)).ok()?.modified().ok()?;
        Some(Kept { bytes: size(&dir), dir, since })
    });
    for gone in surplus(kept.collect(), SystemTime::now()) {
        if let Err(e) = fs::remove_dir_all(&gone) {
            tracing::warn!(dir = %gone.display(), error = %e, "cannot remove the logs of a deleted pod");
        }
    }
}

/// Which are to go. Pure.
fn surplus(mut all: Vec<Kept>, now: SystemTime) -> Vec<PathBuf> {
    all.sort_by_key(|k| std::cmp::Reverse(k.since));
    let (mut pods, mut bytes) = (0, 0);
    let mut gone = Vec::new();
    for k in all {
        pods += 1;
        bytes += k.bytes;
        let old = now.duration_since(k.since).is_ok_and(|age| age > KEEP);
        if old || pods > MAX_PODS || bytes > MAX_BYTES {
            gone.push(k.dir);
        }
    }
    gone
}

/// What the files of a log directory (`<container>/<n>.log`) take.
fn size(dir: &Path) -> u64 {
    let below = fs::read_dir(dir).into_iter().flatten().flatten();
    let files = below.flat_map(|e| fs::read_dir(e.path()).into_iter().flatten().flatten());
    files.filter_map(|f| f.metadata().ok()).map(|m| m.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_and_the_too_much_go() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100_000);
        let kept =
            |name: &str, age: u64, bytes| Kept { dir: name.into(), since: now - Duration::from_secs(age), bytes };
        let all = vec![kept("old", 3601, 1), kept("new", 1, MAX_BYTES - 1), kept("less new", 2, 2), kept("x", 3, 0)];
        assert_eq!(surplus(all, now), [PathBuf::from("less new"), "x".into(), "old".into()]);
        let many = (0..MAX_PODS as u64 + 2).map(|i| kept(&i.to_string(), i, 0)).collect();
        assert_eq!(surplus(many, now), [PathBuf::from("500"), "501".into()]);
    }
}
