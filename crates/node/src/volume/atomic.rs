//! Files that change all at once: upstream's layout, which readers and reloaders rely on.
//!
//! ```text
//! <dir>/..2026_11_24_10_00_00.123456789/a/b   the files of one moment
//! <dir>/..data -> ..2026_11_24_10_00_00.123456789
//! <dir>/a -> ..data/a
//! ```
//!
//! A change writes a new moment's directory and moves `..data` to it with one rename.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};

const DATA: &str = "..data";
const DATA_TMP: &str = "..data_tmp";

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its bytes.
    pub data: Vec<u8>,
    /// Its permission bits.
    pub mode: u32,
    /// Its owner; `None` is root.
    pub uid: Option<u32>,
}

/// Files by path relative to the volume.
pub type Files = BTreeMap<String, File>;

/// Makes the directory hold exactly these files, owned by `gid` if given. Returns whether anything changed.
pub fn write(dir: &Path, files: &Files, gid: Option<u32>) -> io::Result<bool> {
    files.keys().try_for_each(|p| check(p))?;
    let old = fs::read_link(dir.join(DATA)).ok();
    if let Some(old) = &old
        && same(&dir.join(old), files, gid)?
        && visible(dir)? == wanted_links(files)
    {
        return Ok(false);
    }
    let new = new_dir(dir)?;
    fill(&dir.join(&new), files, gid)?;
    let tmp = dir.join(DATA_TMP);
    remove_if_there(&tmp)?;
    symlink(&new, &tmp)?;
    fs::rename(&tmp, dir.join(DATA))?;
    let wanted = wanted_links(files);
    let have = visible(dir)?;
    for name in wanted.difference(&have) {
        let link = dir.join(name);
        remove_if_there(&link)?;
        symlink(Path::new(DATA).join(name), link)?;
    }
    for name in have.difference(&wanted) {
        remove_if_there(&dir.join(name))?;
    }
    // Whatever other moments lie there (also those of an interrupted write) are over.
    for entry in fs::read_dir(dir)?.flatten() {
        let name = entry.file_name();
        let is_moment = name.to_str().is_some_and(|n| n.starts_with("..") && n != DATA && Path::new(n) != new);
        if is_moment && entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(true)
}

/// A path that could leave the volume is refused.
fn check(path: &str) -> io::Result<()> {
    let p = Path::new(path);
    let plain = p.components().all(|c| matches!(c, Component::Normal(_)));
    if path.is_empty() || !plain || path.starts_with("..") {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("invalid path {path:?}: must be relative and must not contain or start with '..'"),
        ));
    }
    Ok(())
}

fn new_dir(dir: &Path) -> io::Result<PathBuf> {
    let now = jiff::Timestamp::now().strftime("..%Y_%m_%d_%H_%M_%S").to_string();
    for _ in 0..100 {
        let name = PathBuf::from(format!("{now}.{:09}", rand::random::<u32>() % 1_000_000_000));
        match fs::create_dir(dir.join(&name)) {
            Ok(()) => return Ok(name),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, "no free name for a data directory"))
}

fn fill(dir: &Path, files: &Files, gid: Option<u32>) -> io::Result<()> {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
    own_dir(dir, gid)?;
    for (path, file) in files {
        let target = dir.join(path);
        if let Some(parent) = Path::new(path).parent() {
            let mut made = dir.to_path_buf();
            for part in parent.components() {
                made.push(part);
                if !made.exists() {
                    fs::create_dir(&made)?;
                    fs::set_permissions(&made, fs::Permissions::from_mode(0o755))?;
                    own_dir(&made, gid)?;
                }
            }
        }
        fs::write(&target, &file.data)?;
        fs::set_permissions(&target, fs::Permissions::from_mode(mode(file, gid)))?;
        if file.uid.is_some() || gid.is_some() {
            chown(&target, file.uid, gid)?;
        }
    }
    Ok(())
}

fn own_dir(dir: &Path, gid: Option<u32>) -> io::Result<()> {
    if gid.is_some() {
        chown(dir, None, gid)?;
        let mode = fs::metadata(dir)?.permissions().mode();
        fs::set_permissions(dir, fs::Permissions::from_mode((mode & 0o7777) | 0o2550))?;
    }
    Ok(())
}

/// The group that owns a volume can read all of it.
fn mode(file: &File, gid: Option<u32>) -> u32 {
    if gid.is_some() { file.mode | 0o440 } else { file.mode }
}

fn wanted_links(files: &Files) -> BTreeSet<String> {
    files.keys().filter_map(|p| p.split('/').next()).map(str::to_owned).collect()
}

/// The links that readers see.
fn visible(dir: &Path) -> io::Result<BTreeSet<String>> {
    let mut out = BTreeSet::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if let Some(name) = entry.file_name().to_str().filter(|n| !n.starts_with("..")) {
            out.insert(name.to_owned());
        }
    }
    Ok(out)
}

fn same(dir: &Path, files: &Files, gid: Option<u32>) -> io::Result<bool> {
    let mut have = 0;
    let mut todo = vec![dir.to_path_buf()];
    while let Some(d) = todo.pop() {
        let entries = match fs::read_dir(&d) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other?,
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                todo.push(entry.path());
                continue;
            }
            have += 1;
            let path = entry.path();
            let Some(file) = path.strip_prefix(dir).ok().and_then(Path::to_str).and_then(|p| files.get(p)) else {
                return Ok(false);
            };
            let mode_now = entry.metadata()?.permissions().mode() & 0o7777;
            if mode_now != mode(file, gid) & 0o7777 || fs::read(&path)? != file.data {
                return Ok(false);
            }
        }
    }
    Ok(have == files.len())
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn files(list: &[(&str, &str)]) -> Files {
        list.iter()
            .map(|(p, d)| ((*p).to_owned(), File { data: d.as_bytes().to_vec(), mode: 0o644, uid: None }))
            .collect()
    }

    #[test]
    fn writes_changes_and_removes_at_once() {
        let dir = std::env::temp_dir().join(format!("atomic-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        assert!(write(&dir, &files(&[("a", "1"), ("d/e/f", "2")]), None).unwrap());
        assert_eq!(fs::read_to_string(dir.join("d/e/f")).unwrap(), "2");
        assert_eq!(fs::read_link(dir.join("a")).unwrap(), Path::new("..data/a"));
        assert!(!write(&dir, &files(&[("a", "1"), ("d/e/f", "2")]), None).unwrap(), "nothing changed");
        assert!(write(&dir, &files(&[("a", "3"), ("b", "4")]), None).unwrap());
        assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "3");
        assert!(!dir.join("d").exists());
        let moments = fs::read_dir(&dir).unwrap().flatten().filter(|e| e.file_type().unwrap().is_dir()).count();
        assert_eq!(moments, 1, "old moments are removed");
        assert!(write(&dir, &files(&[("../x", "")]), None).is_err());
        assert!(write(&dir, &files(&[("/x", "")]), None).is_err());
        fs::remove_dir_all(dir).unwrap();
    }
}
