//! `hostPath`: checks what is there against the wanted type.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

/// Checks, or makes, the path.
pub fn prepare(path: &Path, type_: &str) -> Result<(), String> {
    let found = fs::metadata(path).ok();
    let kind = found.as_ref().map(|m| m.file_type());
    let wrong = |what: &str| Err(format!("hostPath type check failed: {} is not a {what}", path.display()));
    match type_ {
        "" => Ok(()),
        "DirectoryOrCreate" => match &kind {
            Some(k) if k.is_dir() => Ok(()),
            Some(_) => wrong("directory"),
            None => fs::create_dir_all(path)
                .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
                .map_err(|e| format!("cannot create the directory {}: {e}", path.display())),
        },
        "FileOrCreate" => match &kind {
            Some(k) if k.is_file() => Ok(()),
            Some(_) => wrong("file"),
            None => fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .and_then(|f| f.set_permissions(fs::Permissions::from_mode(0o644)))
                .map_err(|e| format!("cannot create the file {}: {e}", path.display())),
        },
        "Directory" if kind.is_some_and(|k| k.is_dir()) => Ok(()),
        "Directory" => wrong("directory"),
        "File" if kind.is_some_and(|k| k.is_file()) => Ok(()),
        "File" => wrong("file"),
        "Socket" if kind.is_some_and(|k| k.is_socket()) => Ok(()),
        "Socket" => wrong("socket file"),
        "CharDevice" if kind.is_some_and(|k| k.is_char_device()) => Ok(()),
        "CharDevice" => wrong("character device"),
        "BlockDevice" if kind.is_some_and(|k| k.is_block_device()) => Ok(()),
        "BlockDevice" => wrong("block device"),
        other => Err(format!("{other} is an invalid volume type")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn types() {
        let dir = std::env::temp_dir().join(format!("hostpath-{}", std::process::id()));
        prepare(&dir, "DirectoryOrCreate").unwrap();
        prepare(&dir, "Directory").unwrap();
        let file = dir.join("f");
        assert!(prepare(&file, "File").is_err());
        prepare(&file, "FileOrCreate").unwrap();
        prepare(&file, "File").unwrap();
        assert_eq!(
            prepare(&file, "Directory").unwrap_err(),
            format!("hostPath type check failed: {} is not a directory", file.display())
        );
        prepare(Path::new("/dev/null"), "CharDevice").unwrap();
        fs::remove_dir_all(dir).unwrap();
    }
}
