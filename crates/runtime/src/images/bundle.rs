//! An image on its way into the node: names, a target and the blobs it needs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// Media types of the OCI image format.
pub mod media {
    /// An image index.
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// Docker's manifest list.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// An image manifest.
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// Docker's image manifest.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// An image configuration.
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// A layer.
    pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// A layer, gzip.
    pub const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// A layer, zstandard.
    pub const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
}

/// Points to a blob.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type.
    #[serde(default)]
    pub media_type: String,
    /// `sha256:…`.
    pub digest: String,
    /// Bytes.
    #[serde(default)]
    pub size: u64,
    /// What it runs on, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Names and the like.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// An operating system and processor, in Go's names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// `amd64`, `arm64`, …
    #[serde(default)]
    pub architecture: String,
    /// `linux`.
    #[serde(default)]
    pub os: String,
    /// `v8`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// This machine.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Platform { architecture: architecture.into(), os: "linux".into(), variant: None }
    }

    /// Whether an image for `self` runs on `host`. An image that does not say runs anywhere.
    pub fn runs_on(&self, host: &Platform) -> bool {
        (self.os.is_empty() || self.os == host.os)
            && (self.architecture.is_empty() || self.architecture == host.architecture)
    }
}

/// An image manifest.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// 2.
    pub schema_version: u32,
    /// Media type.
    #[serde(default)]
    pub media_type: String,
    /// The configuration.
    pub config: Descriptor,
    /// Layers, the lowest first.
    #[serde(default)]
    pub layers: Vec<Descriptor>,
}

/// An index of manifests.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// 2.
    #[serde(default)]
    pub schema_version: u32,
    /// Media type.
    #[serde(default)]
    pub media_type: String,
    /// Entries.
    #[serde(default)]
    pub manifests: Vec<Descriptor>,
}

/// Where a blob's bytes are.
#[derive(Debug, Clone)]
pub enum Data {
    /// In memory.
    Bytes(bytes::Bytes),
    /// Part of a file.
    File {
        /// The file.
        path: PathBuf,
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
}

impl Data {
    /// Reads from the start. Blocking.
    pub fn open(&self) -> Result<Box<dyn Read + Send>> {
        match self {
            Data::Bytes(bytes) => Ok(Box::new(std::io::Cursor::new(bytes.clone()))),
            Data::File { path, offset, len } => {
                let what = || format!("reading {}", path.display());
                let mut file = std::fs::File::open(path).map_err(|e| Error::io(what(), e))?;
                file.seek(SeekFrom::Start(*offset)).map_err(|e| Error::io(what(), e))?;
                Ok(Box::new(file.take(*len)))
            }
        }
    }

    /// Digest and size. Blocking.
    pub fn digest(&self) -> Result<(String, u64)> {
        let mut reader = self.open()?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 256 << 10];
        let mut size = 0;
        loop {
            let n = reader.read(&mut buffer).map_err(|e| Error::io("reading a layer", e))?;
            if n == 0 {
                return Ok((hex_digest(&hash.finalize()), size));
            }
            hash.update(&buffer[..n]);
            size += n as u64;
        }
    }

    /// The first bytes, at most `n`. Blocking.
    pub fn head(&self, n: usize) -> Result<Vec<u8>> {
        let mut out = Vec::with_capacity(n);
        self.open()?.take(n as u64).read_to_end(&mut out).map_err(|e| Error::io("reading a layer", e))?;
        Ok(out)
    }
}

/// A blob and the labels by which containerd's garbage collector sees what it needs.
#[derive(Debug, Clone)]
pub struct Blob {
    /// What it is.
    pub descriptor: Descriptor,
    /// Its bytes.
    pub data: Data,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// One image with all its blobs; a blob comes after those it needs.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// Normalized names.
    pub names: Vec<String>,
    /// The manifest or index.
    pub target: Descriptor,
    /// Blobs.
    pub blobs: Vec<Blob>,
    /// Files that must live until the blobs were read.
    pub keep: Option<Arc<tempfile::TempDir>>,
}

impl Blob {
    /// A JSON document as a blob.
    pub fn json(media_type: &str, value: &impl Serialize) -> Result<Self> {
        let bytes =
            serde_json::to_vec(value).map_err(|e| Error::Runtime(format!("cannot encode {media_type}: {e}")))?;
        Ok(Self::bytes(media_type, bytes))
    }

    /// Bytes as a blob.
    pub fn bytes(media_type: &str, bytes: Vec<u8>) -> Self {
        let digest = hex_digest(&Sha256::digest(&bytes));
        Blob {
            descriptor: Descriptor {
                media_type: media_type.into(),
                digest,
                size: bytes.len() as u64,
                ..Default::default()
            },
            data: Data::Bytes(bytes.into()),
            labels: BTreeMap::new(),
        }
    }
}

impl Manifest {
    /// The labels of the manifest's blob.
    pub fn labels(&self) -> BTreeMap<String, String> {
        let mut labels =
            BTreeMap::from([("containerd.io/gc.ref.content.config".to_string(), self.config.digest.clone())]);
        for (i, layer) in self.layers.iter().enumerate() {
            labels.insert(format!("containerd.io/gc.ref.content.l.{i}"), layer.digest.clone());
        }
        labels
    }
}

/// `sha256:` and the hash in hex.
pub fn hex_digest(hash: &[u8]) -> String {
    let mut out = String::with_capacity(7 + 2 * hash.len());
    out.push_str("sha256:");
    for byte in hash {
        let _ = write!(out, "{byte:02x}");
    }
    out
}
