//! The audit log: one JSON object a line, in a file that is rotated.
//!
//! Events wait in a bounded queue; when it is full, requests wait for it, so that nothing is done unrecorded.

use bytes::Bytes;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc;

/// Events that wait to be written.
const QUEUE: usize = 10_000;

/// Where and how the log is kept, by upstream's flags `--audit-log-*`.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// The file; `-` is standard output.
    pub path: PathBuf,
    /// Rotated when larger than this, in bytes; 0 is never.
    pub max_size: u64,
    /// Rotated files that are kept; 0 is no limit.
    pub max_backups: usize,
    /// Rotated files older than this are removed; zero is no limit.
    pub max_age: Duration,
}

/// The end of the queue that events go into.
#[derive(Clone)]
pub struct Log {
    queue: mpsc::Sender<Bytes>,
}

impl Log {
    /// Opens the file and starts its writer, which ends with the last handle.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(options: LogOptions) -> Result<Self, String> {
        let mut file = Rotating::open(options)?;
        let (queue, mut events) = mpsc::channel::<Bytes>(QUEUE);
        let write = move || {
            while let Some(first) = events.blocking_recv() {
                let mut result = file.line(&first);
                while let Ok(next) = events.try_recv() {
                    result = result.and_then(|()| file.line(&next));
                }
                if let Err(error) = result.and_then(|()| file.flush()) {
                    tracing::error!(%error, "audit events could not be written");
                }
            }
        };
        let spawned = std::thread::Builder::new().name("audit".into()).spawn(write);
        spawned.map_err(|e| format!("the audit log's writer could not be started: {e}"))?;
        Ok(Self { queue })
    }

    /// Writes an encoded event; waits when the queue is full.
    pub async fn write(&self, event: &Bytes) {
        // The writer lives as long as this handle.
        let _ = self.queue.send(event.clone()).await;
    }

    /// The same from where nothing can wait: false, and lost, when the queue is full.
    pub fn try_write(&self, event: &Bytes) -> bool {
        self.queue.try_send(event.clone()).is_ok()
    }
}

struct Rotating {
    options: LogOptions,
    out: Box<dyn Write + Send>,
    size: u64,
}

impl Rotating {
    fn open(options: LogOptions) -> Result<Self, String> {
        if options.path == Path::new("-") {
            return Ok(Self { options, out: Box::new(std::io::stdout()), size: 0 });
        }
        let failed = |e: std::io::Error| format!("the audit log {}: {e}", options.path.display());
        let (file, size) = open(&options.path).map_err(failed)?;
        Ok(Self { options, out: Box::new(BufWriter::new(file)), size })
    }

    fn line(&mut self, line: &[u8]) -> std::io::Result<()> {
        let length = line.len() as u64 + 1;
        let rotates = self.options.path != Path::new("-") && self.options.max_size > 0;
        if rotates && self.size > 0 && self.size + length > self.options.max_size {
            self.rotate()?;
        }
        self.size += length;
        self.out.write_all(line)?;
        self.out.write_all(b"\n")
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }

    fn rotate(&mut self) -> std::io::Result<()> {
        self.out.flush()?;
        let path = &self.options.path;
        let stamp = jiff::Timestamp::now().strftime("%Y-%m-%dT%H-%M-%S%.3f").to_string();
        std::fs::rename(path, backup(path, &stamp))?;
        let (file, size) = open(path)?;
        (self.out, self.size) = (Box::new(BufWriter::new(file)), size);
        self.clean();
        Ok(())
    }

    /// Removes backups that are too many or too old. What cannot be removed stays, and is told.
    fn clean(&self) {
        let path = &self.options.path;
        let (Some(dir), Some(stem)) = (path.parent(), path.file_stem().and_then(|s| s.to_str())) else { return };
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        let Ok(entries) = std::fs::read_dir(dir) else { return };
        let mine = |p: &PathBuf| {
            let name = p.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            *p != *path && name.strip_prefix(stem).is_some_and(|rest| rest.starts_with("-2"))
        };
        let mut backups: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(mine).collect();
        // The stamp in the name sorts by time; newest first.
        backups.sort();
        backups.reverse();
        let now = SystemTime::now();
        for (i, old) in backups.iter().enumerate() {
            let age = std::fs::metadata(old).and_then(|m| m.modified()).ok().and_then(|at| now.duration_since(at).ok());
            let aged = !self.options.max_age.is_zero() && age.is_some_and(|age| age > self.options.max_age);
            let many = self.options.max_backups > 0 && i >= self.options.max_backups;
            if (aged || many)
                && let Err(error) = std::fs::remove_file(old)
            {
                tracing::warn!(%error, file = %old.display(), "an old audit log could not be removed");
            }
        }
    }
}

/// Only the server's user may read what others did.
fn open(path: &Path) -> std::io::Result<(File, u64)> {
    use std::os::unix::fs::OpenOptionsExt as _;
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        std::fs::create_dir_all(dir)?;
    }
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

fn backup(path: &Path, stamp: &str) -> PathBuf {
    let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or("audit");
    let end = path.extension().and_then(|e| e.to_str()).map(|e| format!(".{e}")).unwrap_or_default();
    path.with_file_name(format!("{stem}-{stamp}{end}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_file_is_rotated_and_backups_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let options = LogOptions { path: path.clone(), max_size: 100, max_backups: 2, max_age: Duration::ZERO };
        let mut file = Rotating::open(options).unwrap();
        for i in 0..10 {
            file.line(format!("{i}{}", "x".repeat(60)).as_bytes()).unwrap();
            // Names of backups are told apart by milliseconds.
            std::thread::sleep(Duration::from_millis(2));
        }
        file.flush().unwrap();
        let mut names: Vec<String> =
            std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names.len(), 3, "{names:?}");
        assert!(std::fs::read_to_string(&path).unwrap().starts_with("9x"));
    }
}
