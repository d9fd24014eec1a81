//! Images made from files, without a container and without a registry.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use super::bundle::{Blob, Bundle, Data, Descriptor, Manifest, Platform, media};
use super::reference::normalize;
use crate::{Error, Result};

/// Where a file's content comes from.
#[derive(Debug, Clone)]
pub enum FileSource {
    /// From memory.
    Bytes(Vec<u8>),
    /// From a file of the machine.
    Path(PathBuf),
    /// A symbolic link to this.
    Link(String),
    /// A directory.
    Dir,
}

#[derive(Debug, Clone)]
struct Entry {
    source: FileSource,
    mode: u32,
}

/// An image of one layer. The same input gives the same digest: times are zero, owners are root, names are sorted.
#[derive(Debug, Clone)]
pub struct Builder {
    name: String,
    entries: BTreeMap<String, Entry>,
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// Further arguments, which a Pod's `args` replace.
    pub cmd: Vec<String>,
    /// `KEY=value`.
    pub env: Vec<String>,
    /// The working directory; empty is `/`.
    pub working_dir: String,
    /// `user[:group]`; empty is root.
    pub user: String,
    /// `port/protocol`.
    pub exposed_ports: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The signal that ends it; empty is TERM.
    pub stop_signal: String,
}

impl Builder {
    /// An image of this name with nothing in it.
    pub fn new(name: &str) -> Result<Self> {
        Ok(Builder {
            name: normalize(name)?,
            entries: BTreeMap::new(),
            entrypoint: Vec::new(),
            cmd: Vec::new(),
            env: vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()],
            working_dir: String::new(),
            user: String::new(),
            exposed_ports: Vec::new(),
            labels: BTreeMap::new(),
            stop_signal: String::new(),
        })
    }

    /// Puts a file, link or directory into the image. The path is from the image's root; its directories are made.
    pub fn file(&mut self, path: &str, source: FileSource, mode: u32) -> Result<&mut Self> {
        let path = clean(path)?;
        let parents: Vec<String> = Path::new(&path)
            .ancestors()
            .skip(1)
            .filter_map(|p| p.to_str().filter(|p| !p.is_empty()).map(str::to_string))
            .collect();
        for parent in parents {
            self.entries.entry(parent).or_insert(Entry { source: FileSource::Dir, mode: 0o755 });
        }
        self.entries.insert(path, Entry { source, mode });
        Ok(self)
    }

    /// Puts a directory of the machine, with all below it, at this path of the image. Links stay links; sockets and
    /// devices are left out.
    pub fn tree(&mut self, from: &Path, to: &str) -> Result<&mut Self> {
        use std::os::unix::fs::PermissionsExt;
        let what = |p: &Path| format!("reading {}", p.display());
        let mut stack = vec![(from.to_path_buf(), to.trim_matches('/').to_string())];
        while let Some((dir, prefix)) = stack.pop() {
            for item in std::fs::read_dir(&dir).map_err(|e| Error::io(what(&dir), e))? {
                let item = item.map_err(|e| Error::io(what(&dir), e))?;
                let path = item.path();
                let meta = std::fs::symlink_metadata(&path).map_err(|e| Error::io(what(&path), e))?;
                let name = item.file_name();
                let name = name
                    .to_str()
                    .ok_or_else(|| Error::InvalidArgument(format!("{} is not a UTF-8 name", path.display())))?;
                let target = if prefix.is_empty() { name.to_string() } else { format!("{prefix}/{name}") };
                let mode = meta.permissions().mode() & 0o7777;
                if meta.is_dir() {
                    self.file(&target, FileSource::Dir, mode)?;
                    stack.push((path, target));
                } else if meta.is_symlink() {
                    let link = std::fs::read_link(&path).map_err(|e| Error::io(what(&path), e))?;
                    self.file(&target, FileSource::Link(link.to_string_lossy().into_owned()), 0o777)?;
                } else if meta.is_file() {
                    self.file(&target, FileSource::Path(path), mode)?;
                }
            }
        }
        Ok(self)
    }

    /// Makes the image. Blocking.
    pub fn build(&self) -> Result<Bundle> {
        let dir = tempfile::Builder::new()
            .prefix("caravel-image-")
            .tempdir()
            .map_err(|e| Error::io("making a temporary directory", e))?;
        let path = dir.path().join("layer.tar");
        self.write_layer(&path)?;
        let len = std::fs::metadata(&path).map_err(|e| Error::io("measuring a layer", e))?.len();
        let data = Data::File { path, offset: 0, len };
        let (digest, size) = data.digest()?;
        let layer = Blob {
            descriptor: Descriptor { media_type: media::LAYER.into(), digest, size, ..Default::default() },
            data,
            labels: BTreeMap::new(),
        };
        let config = Blob::json(media::CONFIG, &self.config(&layer.descriptor.digest))?;
        let document = Manifest {
            schema_version: 2,
            media_type: media::MANIFEST.into(),
            config: config.descriptor.clone(),
            layers: vec![layer.descriptor.clone()],
        };
        let mut manifest = Blob::json(media::MANIFEST, &document)?;
        manifest.labels = document.labels();
        Ok(Bundle {
            names: vec![self.name.clone()],
            target: manifest.descriptor.clone(),
            blobs: vec![layer, config, manifest],
            keep: Some(Arc::new(dir)),
        })
    }

    fn config(&self, layer: &str) -> serde_json::Value {
        let platform = Platform::host();
        let ports: BTreeMap<&str, serde_json::Value> =
            self.exposed_ports.iter().map(|p| (p.as_str(), json!({}))).collect();
        let mut config = serde_json::Map::new();
        let mut put = |key: &str, value: serde_json::Value, empty: bool| {
            if !empty {
                config.insert(key.to_string(), value);
            }
        };
        put("Entrypoint", json!(self.entrypoint), self.entrypoint.is_empty());
        put("Cmd", json!(self.cmd), self.cmd.is_empty());
        put("Env", json!(self.env), self.env.is_empty());
        put("WorkingDir", json!(self.working_dir), self.working_dir.is_empty());
        put("User", json!(self.user), self.user.is_empty());
        put("ExposedPorts", json!(ports), ports.is_empty());
        put("Labels", json!(self.labels), self.labels.is_empty());
        put("StopSignal", json!(self.stop_signal), self.stop_signal.is_empty());
        json!({
            "architecture": platform.architecture,
            "os": platform.os,
            "created": "1970-01-01T00:00:00Z",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [layer]},
            "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "caravel image build"}],
        })
    }

    fn write_layer(&self, path: &Path) -> Result<()> {
        let what = |e| Error::io(format!("writing {}", path.display()), e);
        let file = std::io::BufWriter::new(std::fs::File::create(path).map_err(what)?);
        let mut tar = tar::Builder::new(file);
        for (name, entry) in &self.entries {
            append(&mut tar, name, entry)?;
        }
        let mut file = tar.into_inner().map_err(what)?;
        std::io::Write::flush(&mut file).map_err(what)
    }

    /// The paths in the image.
    pub fn paths(&self) -> BTreeSet<&str> {
        self.entries.keys().map(String::as_str).collect()
    }
}

fn append<W: std::io::Write>(tar: &mut tar::Builder<W>, name: &str, entry: &Entry) -> Result<()> {
    let what = |e| Error::io(format!("adding {name} to the layer"), e);
    let mut header = tar::Header::new_gnu();
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mode(entry.mode);
    match &entry.source {
        FileSource::Dir => {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_size(0);
            tar.append_data(&mut header, format!("{name}/"), std::io::empty()).map_err(what)
        }
        FileSource::Link(target) => {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            tar.append_link(&mut header, name, target).map_err(what)
        }
        FileSource::Bytes(bytes) => {
            header.set_size(bytes.len() as u64);
            tar.append_data(&mut header, name, bytes.as_slice()).map_err(what)
        }
        FileSource::Path(path) => {
            let file = std::fs::File::open(path).map_err(|e| Error::io(format!("reading {}", path.display()), e))?;
            let size = file.metadata().map_err(what)?.len();
            header.set_size(size);
            // A file that grows while it is read must not break the archive.
            tar.append_data(&mut header, name, file.take(size)).map_err(what)
        }
    }
}

/// A path from the image's root, without `.` and `..`.
fn clean(path: &str) -> Result<String> {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => return Err(Error::InvalidArgument(format!("{path:?} must not contain '..'"))),
            part => parts.push(part),
        }
    }
    if parts.is_empty() {
        return Err(Error::InvalidArgument(format!("{path:?} names no file in the image")));
    }
    Ok(parts.join("/"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_same_files_give_the_same_image() {
        let make = || {
            let mut b = Builder::new("test").unwrap();
            b.file("/etc/a", FileSource::Bytes(b"1".to_vec()), 0o644).unwrap();
            b.file("bin/sh", FileSource::Link("busybox".into()), 0o777).unwrap();
            b.entrypoint = vec!["/bin/sh".into()];
            b.build().unwrap()
        };
        let (one, two) = (make(), make());
        assert_eq!(one.target.digest, two.target.digest);
        assert_eq!(one.names, ["docker.io/library/test:latest"]);
        assert_eq!(one.blobs.len(), 3);
    }

    #[test]
    fn directories_are_made_and_ways_out_are_refused() {
        let mut b = Builder::new("test").unwrap();
        b.file("/a/b/c", FileSource::Bytes(Vec::new()), 0o644).unwrap();
        assert_eq!(b.paths().into_iter().collect::<Vec<_>>(), ["a", "a/b", "a/b/c"]);
        assert!(b.file("a/../../etc/passwd", FileSource::Dir, 0o755).is_err());
        assert!(b.file("/", FileSource::Dir, 0o755).is_err());
    }

    #[test]
    fn a_tree_is_taken_with_links_and_modes() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("sub/run"), "x").unwrap();
        std::fs::set_permissions(dir.path().join("sub/run"), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink("run", dir.path().join("sub/link")).unwrap();
        let mut b = Builder::new("test").unwrap();
        b.tree(dir.path(), "opt").unwrap();
        let bundle = b.build().unwrap();
        let mut archive = tar::Archive::new(bundle.blobs[0].data.open().unwrap());
        let entries: Vec<(String, u32)> = archive
            .entries()
            .unwrap()
            .map(|e| {
                let e = e.unwrap();
                (e.path().unwrap().display().to_string(), e.header().mode().unwrap())
            })
            .collect();
        let names: Vec<&str> = entries.iter().map(|(n, _)| n.as_str()).collect();
        assert_eq!(names, ["opt/", "opt/sub/", "opt/sub/link", "opt/sub/run"]);
        assert_eq!(entries[3].1, 0o755);
    }
}
