//! Reads images from `docker save` archives, OCI layouts (archive or directory), plain or gzip.
//!
//! Nothing is unpacked: blobs stay where they are in the file and are read from there. Only a gzip archive is first
//! written out, since it cannot be read at random.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::bundle::{Blob, Bundle, Data, Descriptor, Index, Manifest, Platform, media};
use super::reference::{Reference, normalize};
use crate::{Error, Result};

/// Manifests, indexes and configurations larger than this are refused.
const MAX_DOCUMENT: u64 = 16 << 20;
/// Indexes in indexes, at most.
const MAX_DEPTH: usize = 4;

/// The images of an archive. `name` is given to an archive with one image that has no name of its own (or only a tag),
/// and replaces the names of an archive with exactly one image. Blocking.
pub fn read(path: &Path, name: Option<&str>) -> Result<Vec<Bundle>> {
    let name = name.map(normalize).transpose()?;
    let source = Source::open(path)?;
    let mut bundles = if source.entries.contains_key("manifest.json") && !source.has_named_index() {
        source.docker()?
    } else if source.entries.contains_key("index.json") {
        source.oci(name.as_deref())?
    } else {
        return Err(Error::InvalidArgument(format!(
            "{} is not an image archive: it has neither manifest.json (docker save) nor index.json (OCI layout)",
            path.display()
        )));
    };
    if let (Some(name), [bundle]) = (&name, bundles.as_mut_slice()) {
        bundle.names = vec![name.clone()];
    }
    if let Some(bundle) = bundles.iter().find(|b| b.names.is_empty()) {
        return Err(Error::InvalidArgument(format!(
            "the image {} in {} has no name: give one",
            bundle.target.digest,
            path.display()
        )));
    }
    if bundles.is_empty() {
        return Err(Error::InvalidArgument(format!("{} has no image for this machine in it", path.display())));
    }
    Ok(bundles)
}

struct Source {
    path: PathBuf,
    entries: BTreeMap<String, Data>,
    keep: Option<Arc<tempfile::TempDir>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl Source {
    fn open(path: &Path) -> Result<Self> {
        let what = |e| Error::io(format!("reading {}", path.display()), e);
        if path.is_dir() {
            let mut entries = BTreeMap::new();
            list_directory(path, "", &mut entries, 0)?;
            return Ok(Source { path: path.to_path_buf(), entries, keep: None });
        }
        let mut magic = Vec::new();
        File::open(path).map_err(what)?.take(4).read_to_end(&mut magic).map_err(what)?;
        if magic.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            return Err(Error::InvalidArgument(format!(
                "{} is compressed with zstd: decompress it first, or use gzip",
                path.display()
            )));
        }
        let (file, keep) = if magic.starts_with(&[0x1f, 0x8b]) {
            let dir = tempfile::Builder::new().prefix("caravel-image-").tempdir().map_err(what)?;
            let plain = dir.path().join("archive.tar");
            let mut out = File::create(&plain).map_err(what)?;
            let mut gzip = flate2::read::MultiGzDecoder::new(std::io::BufReader::new(File::open(path).map_err(what)?));
            std::io::copy(&mut gzip, &mut out).map_err(what)?;
            (plain, Some(Arc::new(dir)))
        } else {
            (path.to_path_buf(), None)
        };
        let entries = list_archive(&file).map_err(what)?;
        Ok(Source { path: path.to_path_buf(), entries, keep })
    }

    fn entry(&self, name: &str) -> Result<&Data> {
        self.entries.get(name.trim_start_matches("./")).ok_or_else(|| {
            Error::InvalidArgument(format!("{} lacks {name}: the archive is not complete", self.path.display()))
        })
    }

    fn document<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<(T, Vec<u8>)> {
        let mut bytes = Vec::new();
        let reader = self.entry(name)?.open()?;
        reader.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes).map_err(|e| Error::io(format!("reading {name}"), e))?;
        if bytes.len() as u64 > MAX_DOCUMENT {
            return Err(Error::InvalidArgument(format!("{name} is larger than {} MiB", MAX_DOCUMENT >> 20)));
        }
        let value = serde_json::from_slice(&bytes).map_err(|e| {
            Error::InvalidArgument(format!("{name} in {} is not what it should be: {e}", self.path.display()))
        })?;
        Ok((value, bytes))
    }

    /// Newer `docker save` writes both formats; the index is the better one when its entries have names.
    fn has_named_index(&self) -> bool {
        self.document::<Index>("index.json").is_ok_and(|(index, _)| {
            !index.manifests.is_empty() && index.manifests.iter().all(|d| full_name(d).is_some())
        })
    }

    fn docker(&self) -> Result<Vec<Bundle>> {
        let (images, _) = self.document::<Vec<DockerImage>>("manifest.json")?;
        images.iter().map(|image| self.docker_image(image)).collect()
    }

    fn docker_image(&self, image: &DockerImage) -> Result<Bundle> {
        let (_, config) = self.document::<serde_json::Value>(&image.config)?;
        let config = Blob::bytes(media::CONFIG, config);
        let mut blobs = Vec::new();
        for name in &image.layers {
            let data = self.entry(name)?.clone();
            let (digest, size) = data.digest()?;
            let media_type = layer_type(&data.head(4)?);
            let descriptor = Descriptor { media_type: media_type.into(), digest, size, ..Default::default() };
            blobs.push(Blob { descriptor, data, labels: BTreeMap::new() });
        }
        let document = Manifest {
            schema_version: 2,
            media_type: media::MANIFEST.into(),
            config: config.descriptor.clone(),
            layers: blobs.iter().map(|b| b.descriptor.clone()).collect(),
        };
        let mut manifest = Blob::json(media::MANIFEST, &document)?;
        manifest.labels = document.labels();
        let names = image.repo_tags.iter().flatten().map(|n| normalize(n)).collect::<Result<_>>()?;
        let target = manifest.descriptor.clone();
        blobs.extend([config, manifest]);
        Ok(Bundle { names, target, blobs, keep: self.keep.clone() })
    }

    fn oci(&self, name: Option<&str>) -> Result<Vec<Bundle>> {
        let (index, _) = self.document::<Index>("index.json")?;
        let base = name.map(Reference::parse).transpose()?;
        // Several names of one image are several entries with the same digest.
        let mut bundles: BTreeMap<String, Bundle> = BTreeMap::new();
        for descriptor in &index.manifests {
            let names: Vec<String> = image_name(descriptor, base.as_ref()).into_iter().collect();
            if let Some(bundle) = bundles.get_mut(&descriptor.digest) {
                bundle.names.extend(names);
                continue;
            }
            let mut blobs = Vec::new();
            if self.collect(descriptor, &mut blobs, 0)? {
                let target = Descriptor { annotations: BTreeMap::new(), platform: None, ..descriptor.clone() };
                bundles.insert(target.digest.clone(), Bundle { names, target, blobs, keep: self.keep.clone() });
            }
        }
        Ok(bundles.into_values().collect())
    }

    /// Adds the blobs that a manifest or index needs on this machine; `false` when there is nothing for it.
    fn collect(&self, descriptor: &Descriptor, blobs: &mut Vec<Blob>, depth: usize) -> Result<bool> {
        let name = blob_path(&descriptor.digest)?;
        if depth > MAX_DEPTH {
            return Err(Error::InvalidArgument(format!("the indexes are nested more than {MAX_DEPTH} deep")));
        }
        if is_index(&descriptor.media_type) {
            let (index, bytes) = self.document::<Index>(&name)?;
            let mut labels = BTreeMap::new();
            for (i, child) in index.manifests.iter().enumerate() {
                let fits = child.platform.clone().unwrap_or_default().runs_on(&Platform::host());
                let present = self.entries.contains_key(&blob_path(&child.digest)?);
                if fits && present && self.collect(child, blobs, depth + 1)? {
                    labels.insert(format!("containerd.io/gc.ref.content.m.{i}"), child.digest.clone());
                }
            }
            let found = !labels.is_empty();
            blobs.push(Blob { labels, ..document_blob(descriptor, bytes) });
            return Ok(found);
        }
        let (manifest, bytes) = self.document::<Manifest>(&name)?;
        for part in manifest.layers.iter().chain([&manifest.config]) {
            let data = self.entry(&blob_path(&part.digest)?)?.clone();
            blobs.push(Blob { descriptor: part.clone(), data, labels: BTreeMap::new() });
        }
        blobs.push(Blob { labels: manifest.labels(), ..document_blob(descriptor, bytes) });
        Ok(true)
    }
}

fn document_blob(descriptor: &Descriptor, bytes: Vec<u8>) -> Blob {
    let descriptor = Descriptor { size: bytes.len() as u64, ..descriptor.clone() };
    Blob { descriptor, data: Data::Bytes(bytes.into()), labels: BTreeMap::new() }
}

fn is_index(media_type: &str) -> bool {
    media_type == media::INDEX || media_type == media::DOCKER_LIST
}

fn layer_type(head: &[u8]) -> &'static str {
    match head {
        [0x1f, 0x8b, ..] => media::LAYER_GZIP,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => media::LAYER_ZSTD,
        _ => media::LAYER,
    }
}

/// A name in full that containerd, Docker or a person put on an entry of an index.
fn full_name(descriptor: &Descriptor) -> Option<String> {
    let name = descriptor.annotations.get("io.containerd.image.name");
    let name = name
        .or_else(|| descriptor.annotations.get("org.opencontainers.image.ref.name").filter(|n| n.contains(['/', ':'])));
    name.and_then(|n| normalize(n).ok())
}

/// The name of an entry; a mere tag belongs to the repository `base`.
fn image_name(descriptor: &Descriptor, base: Option<&Reference>) -> Option<String> {
    full_name(descriptor).or_else(|| {
        let tag = descriptor.annotations.get("org.opencontainers.image.ref.name")?;
        normalize(&format!("{}:{tag}", base?.repository())).ok()
    })
}

fn blob_path(digest: &str) -> Result<String> {
    match digest.split_once(':') {
        Some((algorithm, hex)) if !hex.is_empty() && hex.bytes().all(|b| b.is_ascii_hexdigit()) => {
            Ok(format!("blobs/{algorithm}/{hex}"))
        }
        _ => Err(Error::InvalidArgument(format!("{digest:?} is not a digest"))),
    }
}

fn list_archive(path: &Path) -> std::io::Result<BTreeMap<String, Data>> {
    let mut entries = BTreeMap::new();
    let mut links = Vec::new();
    let mut archive = tar::Archive::new(File::open(path)?);
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        let name = normal(&entry.path()?.to_string_lossy());
        let type_ = entry.header().entry_type();
        if type_.is_symlink() || type_.is_hard_link() {
            if let Some(target) = entry.link_name()? {
                links.push((name, target.to_string_lossy().into_owned(), type_.is_hard_link()));
            }
        } else if type_.is_file() {
            let data = Data::File { path: path.to_path_buf(), offset: entry.raw_file_position(), len: entry.size() };
            entries.insert(name, data);
        }
    }
    // Old `docker save` stores a layer once and links to it as `../<id>/layer.tar`.
    for (name, target, hard) in links {
        let target = if hard { normal(&target) } else { normal(&format!("{}/../{target}", name)) };
        if let Some(data) = entries.get(&target).cloned() {
            entries.insert(name, data);
        }
    }
    Ok(entries)
}

/// A path without `.`, `..` and empty parts.
fn normal(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn list_directory(dir: &Path, prefix: &str, entries: &mut BTreeMap<String, Data>, depth: usize) -> Result<()> {
    let what = |e| Error::io(format!("reading {}", dir.display()), e);
    for item in std::fs::read_dir(dir).map_err(what)? {
        let item = item.map_err(what)?;
        let name = format!("{prefix}{}", item.file_name().to_string_lossy());
        let meta = item.metadata().map_err(what)?;
        if meta.is_dir() && depth < 3 {
            list_directory(&item.path(), &format!("{name}/"), entries, depth + 1)?;
        } else if meta.is_file() {
            entries.insert(name, Data::File { path: item.path(), offset: 0, len: meta.len() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Write;

    fn tar_of(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, bytes.as_slice()).unwrap();
        }
        tar.into_inner().unwrap()
    }

    fn docker_archive() -> Vec<u8> {
        let manifest = r#"[{"Config":"c.json","RepoTags":["app:1","app:2"],"Layers":["l1/layer.tar"]}]"#;
        tar_of(&[
            ("c.json", br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#.to_vec()),
            ("l1/layer.tar", vec![0; 1024]),
            ("manifest.json", manifest.into()),
        ])
    }

    fn write(bytes: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn docker_archives_plain_and_gzip_give_the_same_image() {
        let plain = read(write(&docker_archive()).path(), None).unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&docker_archive()).unwrap();
        let packed = read(write(&gzip.finish().unwrap()).path(), None).unwrap();
        assert_eq!(plain[0].names, ["docker.io/library/app:1", "docker.io/library/app:2"]);
        assert_eq!(plain[0].target.digest, packed[0].target.digest);
        assert_eq!(packed[0].blobs[0].data.digest().unwrap().0, packed[0].blobs[0].descriptor.digest);
    }

    #[test]
    fn a_name_replaces_that_of_a_single_image() {
        let images = read(write(&docker_archive()).path(), Some("other:3")).unwrap();
        assert_eq!(images[0].names, ["docker.io/library/other:3"]);
    }

    fn oci_archive(ref_name: Option<&str>, foreign: bool) -> Vec<u8> {
        let config = Blob::bytes(media::CONFIG, b"{}".to_vec());
        let layer = Blob::bytes(media::LAYER, vec![0; 1024]);
        let document = Manifest {
            schema_version: 2,
            media_type: media::MANIFEST.into(),
            config: config.descriptor.clone(),
            layers: vec![layer.descriptor.clone()],
        };
        let manifest = Blob::json(media::MANIFEST, &document).unwrap();
        let architecture = if foreign { "s390x".to_string() } else { Platform::host().architecture };
        let mut entry = manifest.descriptor.clone();
        entry.platform = Some(Platform { architecture, os: "linux".into(), variant: None });
        let index = Index { schema_version: 2, media_type: media::INDEX.into(), manifests: vec![entry] };
        let index = Blob::json(media::INDEX, &index).unwrap();
        let mut top = index.descriptor.clone();
        if let Some(name) = ref_name {
            top.annotations.insert("org.opencontainers.image.ref.name".into(), name.into());
        }
        let layout = Index { schema_version: 2, media_type: String::new(), manifests: vec![top] };
        let mut files = vec![("index.json".to_string(), serde_json::to_vec(&layout).unwrap())];
        for blob in [config, layer, manifest, index] {
            let Data::Bytes(bytes) = blob.data else { unreachable!() };
            files.push((blob_path(&blob.descriptor.digest).unwrap(), bytes.to_vec()));
        }
        tar_of(&files.iter().map(|(n, b)| (n.as_str(), b.clone())).collect::<Vec<_>>())
    }

    #[test]
    fn an_oci_index_is_followed_to_this_machines_manifest() {
        let images = read(write(&oci_archive(Some("quay.example/a:1"), false)).path(), None).unwrap();
        assert_eq!(images[0].names, ["quay.example/a:1"]);
        assert_eq!(images[0].target.media_type, media::INDEX);
        assert_eq!(images[0].blobs.len(), 4);
        let last = images[0].blobs.last().unwrap();
        assert_eq!(last.descriptor.digest, images[0].target.digest);
        assert_eq!(last.labels.len(), 1);
    }

    #[test]
    fn an_image_for_another_processor_is_refused() {
        let error = read(write(&oci_archive(Some("a:1"), true)).path(), None).unwrap_err().to_string();
        assert!(error.contains("no image for this machine"), "{error}");
    }

    #[test]
    fn a_nameless_image_needs_a_name() {
        let file = write(&oci_archive(None, false));
        assert!(read(file.path(), None).unwrap_err().to_string().contains("give one"));
        assert_eq!(read(file.path(), Some("mine")).unwrap()[0].names, ["docker.io/library/mine:latest"]);
    }

    #[test]
    fn what_is_no_image_is_refused_with_the_reason() {
        let error = read(write(&tar_of(&[("x", vec![1])])).path(), None).unwrap_err().to_string();
        assert!(error.contains("neither manifest.json"), "{error}");
        let missing = tar_of(&[("manifest.json", br#"[{"Config":"c","Layers":[]}]"#.to_vec())]);
        assert!(read(write(&missing).path(), None).unwrap_err().to_string().contains("lacks c"));
    }
}
