//! `fsGroup`: a volume belongs to a group of the Pod.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown};
use std::path::Path;

/// Gives the tree to the group: files readable and writable, directories also with the setgid bit. With
/// `on_root_mismatch` a tree whose root fits already is left alone.
pub fn apply(root: &Path, gid: u32, on_root_mismatch: bool) -> io::Result<()> {
    if on_root_mismatch {
        let meta = fs::metadata(root)?;
        if meta.gid() == gid && meta.mode() & 0o2770 == 0o2770 {
            return Ok(());
        }
    }
    tree(root, gid)
}

fn tree(path: &Path, gid: u32) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    if meta.is_symlink() {
        return lchown(path, None, Some(gid));
    }
    if meta.is_dir() {
        for entry in fs::read_dir(path)? {
            tree(&entry?.path(), gid)?;
        }
    }
    chown(path, None, Some(gid))?;
    let add = if meta.is_dir() { 0o2770 } else { 0o660 };
    fs::set_permissions(path, fs::Permissions::from_mode((meta.mode() & 0o7777) | add))
}
