//! Reading and writing key material: directories 0700, keys 0600, never a half-written file.

use super::PkiError;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Makes `dir` (and its parents), readable by the owner only.
pub fn private_dir(dir: &Path) -> Result<(), PkiError> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|source| PkiError::File {
        action: "create",
        path: dir.to_owned(),
        source,
    })
}

/// The file's bytes, or `None` when there is no such file.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, PkiError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PkiError::File { action: "read", path: path.to_owned(), source }),
    }
}

/// Writes the whole file or nothing: a temporary file beside it, synced, then renamed over it.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), PkiError> {
    let temporary = path.with_extension(format!("tmp{}", std::process::id()));
    let attempt = || -> std::io::Result<()> {
        let _ = std::fs::remove_file(&temporary);
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    attempt().map_err(|source| PkiError::File { action: "write", path: path.to_owned(), source })
}
