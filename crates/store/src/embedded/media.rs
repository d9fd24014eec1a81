//! The few things the log asks of a file system, behind a trait, so that tests can make any of them slow or fail.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// A file system.
pub trait Media: Send + Sync + 'static {
    /// A new file, which must not exist yet, for appending.
    fn create(&self, path: &Path) -> io::Result<Box<dyn MediaFile>>;
    /// An existing file.
    fn open(&self, path: &Path) -> io::Result<Box<dyn MediaFile>>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes creations and removals in a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// The paths of the files in a directory.
    fn files(&self, path: &Path) -> io::Result<Vec<PathBuf>>;
}

/// An open file.
#[expect(clippy::len_without_is_empty, reason = "a length in bytes that can fail")]
pub trait MediaFile: Send {
    /// Writes at the end.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Makes what was appended durable.
    fn sync(&mut self) -> io::Result<()>;
    /// Cuts the file, and appends from there on.
    fn truncate(&mut self, len: u64) -> io::Result<()>;
    /// How long the file is.
    fn len(&mut self) -> io::Result<u64>;
    /// Fills `out` from `offset`; fewer bytes only at the end of the file.
    fn read_at(&mut self, offset: u64, out: &mut [u8]) -> io::Result<usize>;
}

/// The real file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct Disk;

impl Media for Disk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn MediaFile>> {
        Ok(Box::new(OpenOptions::new().read(true).write(true).create_new(true).open(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn MediaFile>> {
        let mut file = OpenOptions::new().read(true).write(true).open(path)?;
        file.seek(SeekFrom::End(0))?;
        Ok(Box::new(file))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn files(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        std::fs::read_dir(path)?.map(|entry| entry.map(|e| e.path())).collect()
    }
}

impl MediaFile for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.set_len(len)?;
        self.seek(SeekFrom::Start(len)).map(|_| ())
    }

    fn len(&mut self) -> io::Result<u64> {
        self.metadata().map(|m| m.len())
    }

    fn read_at(&mut self, offset: u64, out: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < out.len() {
            match std::os::unix::fs::FileExt::read_at(self, &mut out[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }
}

/// Reads a small text file whole.
pub(super) fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(4096).read_to_string(&mut text)?;
    Ok(text)
}
