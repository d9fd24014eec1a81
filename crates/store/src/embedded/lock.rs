//! Who has the directory open, and what format is in it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Seek, Write};
use std::path::Path;

use super::SUPPORTED;
use super::log::failure;
use super::media::read_text;
use crate::Error;

/// The lock on a store's directory, held as long as this lives. The kernel lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "held, not used")] File);

impl Lock {
    pub(super) fn take(dir: &Path) -> Result<Self, Error> {
        let path = dir.join("lock");
        let fail = |e: std::io::Error| failure(&path, &e);
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(fail)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = read_text(&path).unwrap_or_default().trim().to_owned();
                let holder = if holder.is_empty() { "unknown".to_owned() } else { holder };
                return Err(Error::Locked { path: dir.to_owned(), holder });
            }
            Err(TryLockError::Error(error)) => return Err(fail(error)),
        }
        // Only a courtesy to whoever finds the lock taken, so a full disk is no obstacle.
        let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Self(file))
    }
}

/// Checks the `format` file, writing it when the directory is new.
pub(super) fn check_format(dir: &Path) -> Result<(), Error> {
    let path = dir.join("format");
    match read_text(&path) {
        Ok(text) if text.trim() == SUPPORTED => Ok(()),
        // A crash may have left it empty before anything else was written.
        Ok(text) if !text.trim().is_empty() => {
            Err(Error::Format { path: dir.to_owned(), found: text.trim().to_owned(), supported: SUPPORTED })
        }
        Ok(_) => write_format(&path),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => write_format(&path),
        Err(e) => Err(failure(&path, &e)),
    }
}

fn write_format(path: &Path) -> Result<(), Error> {
    let write = || {
        let mut file = File::create(path)?;
        writeln!(file, "{SUPPORTED}")?;
        file.sync_all()
    };
    write().map_err(|e| failure(path, &e))
}
