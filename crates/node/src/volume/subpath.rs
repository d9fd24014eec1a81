//! `subPath`: a part of a volume, without letting a container's symbolic links lead out of it.
//!
//! Every step is opened with `O_NOFOLLOW` relative to the step before, so what is bound in the end is what was
//! checked, and not what a link put in its place a moment later.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat};

use super::mounts;

/// Binds `sub` of the volume to `target` (a file or directory made for it) and returns `target`. A path that does not
/// exist is made as a directory with the volume's own mode: whoever may write to the volume may write there.
pub fn bind(volume: &Path, sub: &str, target: &Path) -> io::Result<PathBuf> {
    let end = walk(volume, sub)?;
    if mounts::is_mounted(target)? {
        let (want, have) = (fstat(&end).map_err(io::Error::from)?, fs::metadata(target)?);
        if (want.st_dev, want.st_ino) == (have.dev(), have.ino()) {
            return Ok(target.to_path_buf());
        }
        // The volume's content changed since: the container's next instance sees the new.
        mounts::unmount_below(target)?;
    }
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    let kind = SFlag::from_bits_truncate(fstat(&end).map_err(io::Error::from)?.st_mode & SFlag::S_IFMT.bits());
    if kind == SFlag::S_IFDIR {
        fs::create_dir_all(target)?;
    } else {
        fs::OpenOptions::new().create(true).append(true).open(target)?;
    }
    mounts::bind(&PathBuf::from(format!("/proc/self/fd/{}", end.as_raw_fd())), target, false)?;
    Ok(target.to_path_buf())
}

/// Opens `sub` below `volume` step by step.
fn walk(volume: &Path, sub: &str) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let root = fs::canonicalize(volume)?;
    // The projected volumes' own links (`..data`) are the node's; they are resolved once, then checked.
    let resolved = fs::canonicalize(root.join(sub));
    let rest = match &resolved {
        Ok(full) => full.strip_prefix(&root).map_err(|_| outside(volume, sub))?.to_path_buf(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => PathBuf::from(sub),
        Err(e) => {
            return Err(io::Error::new(
                e.kind(),
                format!("cannot resolve subPath {sub:?} of {}: {e}", volume.display()),
            ));
        }
    };
    let mut at = open(&root, flags, Mode::empty()).map_err(io::Error::from)?;
    let mode = fstat(&at).map_err(io::Error::from)?.st_mode & 0o7777;
    for part in rest.components() {
        let Component::Normal(name) = part else {
            if part == Component::CurDir {
                continue;
            }
            return Err(outside(volume, sub));
        };
        let next = match openat(&at, Path::new(name), flags, Mode::empty()) {
            Err(Errno::ENOENT) => {
                mkdirat(&at, Path::new(name), Mode::from_bits_truncate(0o700)).map_err(io::Error::from)?;
                let made = openat(&at, Path::new(name), flags, Mode::empty()).map_err(io::Error::from)?;
                fs::set_permissions(format!("/proc/self/fd/{}", made.as_raw_fd()), fs::Permissions::from_mode(mode))?;
                made
            }
            other => other.map_err(io::Error::from)?,
        };
        let mode = fstat(&next).map_err(io::Error::from)?.st_mode;
        if mode & SFlag::S_IFMT.bits() == SFlag::S_IFLNK.bits() {
            return Err(outside(volume, sub));
        }
        at = next;
    }
    Ok(at)
}

fn outside(volume: &Path, sub: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!("subPath {sub:?} leads out of the volume {}", volume.display()),
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn links_do_not_lead_out() {
        let dir = std::env::temp_dir().join(format!("subpath-{}", std::process::id()));
        let volume = dir.join("v");
        fs::create_dir_all(volume.join("in")).unwrap();
        std::os::unix::fs::symlink("/etc", volume.join("out")).unwrap();
        std::os::unix::fs::symlink("in", volume.join("link")).unwrap();
        assert!(walk(&volume, "in").is_ok());
        assert!(walk(&volume, "link").is_ok());
        assert!(walk(&volume, "made/deep").is_ok());
        assert!(volume.join("made/deep").is_dir());
        // As open as the volume, setgid included.
        fs::set_permissions(&volume, fs::Permissions::from_mode(0o2777)).unwrap();
        assert!(walk(&volume, "open/deep").is_ok());
        for dir in ["open", "open/deep"] {
            assert_eq!(fs::metadata(volume.join(dir)).unwrap().mode() & 0o7777, 0o2777, "{dir}");
        }
        assert!(walk(&volume, "out").is_err());
        assert!(walk(&volume, "out/passwd").is_err());
        assert!(walk(&volume, "../x").is_err());
        fs::remove_dir_all(dir).unwrap();
    }
}
