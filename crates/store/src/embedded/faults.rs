//! A file system that is slow, failing or full on demand. For tests.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use super::media::{Disk, Media, MediaFile};

/// What goes wrong; changed while the store is open.
#[derive(Debug)]
pub struct Faults {
    /// How long each fsync takes beside its own time, in milliseconds.
    pub sync_millis: AtomicU64,
    /// fsync fails with EIO.
    pub sync_fails: AtomicBool,
    /// How many more bytes fit on the disk.
    pub room: AtomicI64,
    /// How many fsyncs there were.
    pub syncs: AtomicU64,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            sync_millis: AtomicU64::new(0),
            sync_fails: AtomicBool::new(false),
            room: AtomicI64::new(i64::MAX),
            syncs: AtomicU64::new(0),
        }
    }
}

/// The real file system with [`Faults`] in front of it.
#[derive(Debug, Clone, Default)]
pub struct Faulty(pub Arc<Faults>);

impl Faulty {
    fn wrap(&self, file: Box<dyn MediaFile>) -> Box<dyn MediaFile> {
        Box::new(FaultyFile { file, faults: self.0.clone() })
    }
}

struct FaultyFile {
    file: Box<dyn MediaFile>,
    faults: Arc<Faults>,
}

impl Media for Faulty {
    fn create(&self, path: &Path) -> io::Result<Box<dyn MediaFile>> {
        Disk.create(path).map(|f| self.wrap(f))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn MediaFile>> {
        Disk.open(path).map(|f| self.wrap(f))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let len = std::fs::metadata(path)?.len();
        Disk.remove(path)?;
        self.0.give(len);
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.0.sync()?;
        Disk.sync_dir(path)
    }

    fn files(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        Disk.files(path)
    }
}

impl Faults {
    fn sync(&self) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(self.sync_millis.load(Ordering::Relaxed)));
        if self.sync_fails.load(Ordering::Relaxed) { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
    }

    fn give(&self, bytes: u64) {
        if self.room.load(Ordering::Relaxed) < i64::MAX / 2 {
            self.room.fetch_add(bytes as i64, Ordering::Relaxed);
        }
    }
}

impl MediaFile for FaultyFile {
    /// Like a real disk, this writes what fits before it refuses the rest.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let room = self.faults.room.load(Ordering::Relaxed).max(0);
        let fits = bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX));
        if room < i64::MAX / 2 {
            self.faults.room.fetch_sub(fits as i64, Ordering::Relaxed);
        }
        self.file.append(&bytes[..fits])?;
        if fits < bytes.len() { Err(io::Error::from_raw_os_error(28)) } else { Ok(()) }
    }

    fn sync(&mut self) -> io::Result<()> {
        self.faults.sync()?;
        self.file.sync()
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        let before = self.file.len()?;
        self.file.truncate(len)?;
        self.faults.give(before.saturating_sub(len));
        Ok(())
    }

    fn len(&mut self) -> io::Result<u64> {
        self.file.len()
    }

    fn read_at(&mut self, offset: u64, out: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(offset, out)
    }
}
