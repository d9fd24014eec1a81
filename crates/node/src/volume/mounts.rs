//! Mounting and unmounting.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// What is mounted at or below a directory, the deepest and latest first.
pub fn below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    let mut found: Vec<PathBuf> = text
        .lines()
        .filter_map(|l| l.split(' ').nth(4))
        .map(|p| PathBuf::from(unescape(p)))
        .filter(|p| p.starts_with(dir))
        .collect();
    found.reverse();
    found.sort_by_key(|p| std::cmp::Reverse(p.components().count()));
    Ok(found)
}

/// Whether something is mounted exactly here.
pub fn is_mounted(path: &Path) -> io::Result<bool> {
    Ok(below(path)?.iter().any(|p| p == path))
}

/// mountinfo writes blanks and backslashes in octal.
fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        let octal =
            (bytes[i] == b'\\').then(|| text.get(i + 1..i + 4).and_then(|o| u8::from_str_radix(o, 8).ok())).flatten();
        match octal {
            Some(b) => {
                out.push(b);
                i += 4;
            }
            None => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Mounts a tmpfs unless one is there. `size` is in bytes; `None` is the kernel's default, half of the memory.
pub fn tmpfs(dir: &Path, size: Option<u64>) -> io::Result<()> {
    if is_mounted(dir)? {
        return Ok(());
    }
    let options = size.map(|s| format!("size={s}"));
    mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::empty(), options.as_deref())
        .map_err(|e| failed("mount a tmpfs at", dir, e))
}

/// Binds `source` to `target`.
pub fn bind(source: &Path, target: &Path, read_only: bool) -> io::Result<()> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .map_err(|e| failed("bind to", target, e))?;
    if read_only {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(None::<&str>, target, None::<&str>, flags, None::<&str>)
            .map_err(|e| failed("make read-only", target, e))?;
    }
    Ok(())
}

/// Binds `source` with all mounts below it to `target` (made for it), all of it read-only. Done before is done.
pub fn bind_read_only(source: &Path, target: &Path) -> io::Result<()> {
    if is_mounted(target)? {
        return Ok(());
    }
    let parent = target.parent().unwrap_or(target);
    fs::create_dir_all(parent)?;
    if source.is_dir() {
        fs::create_dir_all(target)?;
    } else {
        fs::OpenOptions::new().create(true).append(true).open(target)?;
    }
    bind(source, target, false)?;
    // What is mounted on the host from now on must not appear here, writable.
    let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
    mount(None::<&str>, target, None::<&str>, private, None::<&str>).map_err(|e| failed("keep apart", target, e))?;
    for point in below(target)? {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | kept(&point)?;
        mount(None::<&str>, &point, None::<&str>, flags, None::<&str>)
            .map_err(|e| failed("make read-only", &point, e))?;
    }
    Ok(())
}

/// The flags of a mount that a remount would lose.
fn kept(point: &Path) -> io::Result<MsFlags> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    let line = text.lines().rev().find(|l| l.split(' ').nth(4).is_some_and(|p| Path::new(&unescape(p)) == point));
    let options = line.and_then(|l| l.split(' ').nth(5)).unwrap_or_default();
    let flag = |name: &str| match name {
        "nosuid" => MsFlags::MS_NOSUID,
        "nodev" => MsFlags::MS_NODEV,
        "noexec" => MsFlags::MS_NOEXEC,
        "noatime" => MsFlags::MS_NOATIME,
        "nodiratime" => MsFlags::MS_NODIRATIME,
        "relatime" => MsFlags::MS_RELATIME,
        _ => MsFlags::empty(),
    };
    Ok(options.split(',').map(flag).fold(MsFlags::empty(), |a, b| a | b))
}

/// Unmounts all at and below a directory. What is busy is detached: it goes with its last user.
pub fn unmount_below(dir: &Path) -> io::Result<()> {
    for point in below(dir)? {
        if umount2(&point, MntFlags::UMOUNT_NOFOLLOW).is_err() {
            umount2(&point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
                .map_err(|e| failed("unmount", &point, e))?;
        }
    }
    Ok(())
}

fn failed(what: &str, path: &Path, e: nix::Error) -> io::Error {
    io::Error::new(io::Error::from(e).kind(), format!("cannot {what} {}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn octal_is_read() {
        assert_eq!(unescape("/a\\040b\\134c"), "/a b\\c");
    }

    #[test]
    fn tmpfs_comes_and_goes() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let dir = std::env::temp_dir().join(format!("mounts-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        tmpfs(&dir, Some(1 << 20)).unwrap();
        tmpfs(&dir, Some(1 << 20)).unwrap();
        let inner = dir.join("x");
        fs::create_dir(&inner).unwrap();
        bind(&dir, &inner, true).unwrap();
        assert_eq!(below(&dir).unwrap().len(), 2);
        assert!(fs::write(inner.join("f"), "").is_err(), "read-only");
        unmount_below(&inner).unwrap();
        // A mount below the source is read-only too.
        tmpfs(&inner, Some(1 << 20)).unwrap();
        let target = dir.with_extension("ro");
        bind_read_only(&dir, &target).unwrap();
        assert!(fs::write(target.join("f"), "").is_err() && fs::write(target.join("x/f"), "").is_err());
        assert!(fs::write(dir.join("x/f"), "").is_ok(), "the source stays as it was");
        unmount_below(&target).unwrap();
        fs::remove_dir(target).unwrap();
        unmount_below(&dir).unwrap();
        assert!(below(&dir).unwrap().is_empty());
        fs::remove_dir(dir).unwrap();
    }
}
