//! What was prepared for whom, on disk: it survives the process, so that no device is forgotten in the prepared state.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::wire;

/// A prepared device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// The requests it is for; all when empty.
    pub requests: Vec<String>,
    /// Its pool.
    pub pool: String,
    /// Its name.
    pub device: String,
    /// What the runtime knows it by.
    pub cdi: Vec<String>,
}

impl From<wire::Device> for Device {
    fn from(d: wire::Device) -> Self {
        Self { requests: d.request_names, pool: d.pool_name, device: d.device_name, cdi: d.cdi_device_ids }
    }
}

/// A claim with devices on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Who uses it: Pods by uid, with the names that they have for the claim.
    pub pods: BTreeMap<String, BTreeSet<String>>,
    /// Its devices by driver. A driver is there before it is asked to prepare anything.
    pub drivers: BTreeMap<String, Vec<Device>>,
    /// All drivers prepared it, in this life of the process: after a restart they are asked again.
    #[serde(skip)]
    pub prepared: bool,
}

/// All claims, by uid.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// See the type.
    pub claims: BTreeMap<String, Claim>,
}

/// The file, and what is in it.
#[derive(Debug)]
pub struct Record {
    path: PathBuf,
    /// What is in it.
    pub known: Claims,
}

impl Record {
    /// Reads the file of an earlier life, if there is one.
    ///
    /// # Errors
    /// It cannot be read, or it is damaged.
    pub fn open(path: &Path) -> io::Result<Self> {
        let known = match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::other)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Claims::default(),
            Err(e) => return Err(e),
        };
        Ok(Self { path: path.to_owned(), known })
    }

    /// Writes it, durably: a new file takes the place of the old one.
    ///
    /// # Errors
    /// The file system's.
    pub fn save(&self) -> io::Result<()> {
        use std::io::Write as _;
        let fresh = self.path.with_extension("new");
        let mut file = std::fs::File::create(&fresh)?;
        file.write_all(&serde_json::to_vec(&self.known)?)?;
        file.sync_all()?;
        std::fs::rename(&fresh, &self.path)?;
        match self.path.parent() {
            Some(dir) => std::fs::File::open(dir)?.sync_all(),
            None => Ok(()),
        }
    }

    /// The CDI devices for one claim reference of a container: `request` narrows it to one request of the claim.
    pub fn cdi(&self, pod: &str, claim: &str, request: Option<&str>) -> Vec<String> {
        let mine = self.known.claims.values().filter(|c| c.pods.get(pod).is_some_and(|names| names.contains(claim)));
        let is_for = |d: &&Device| {
            // An alternative counts as its request.
            let main = |name: &String| name.split('/').next() == request || Some(name.as_str()) == request;
            request.is_none() || d.requests.is_empty() || d.requests.iter().any(main)
        };
        mine.flat_map(|c| c.drivers.values().flatten()).filter(is_for).flat_map(|d| d.cdi.iter().cloned()).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn survives_and_tells_devices_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("devices.json");
        let mut record = Record::open(&path).unwrap();
        let device = |requests: &[&str], cdi: &str| Device {
            requests: requests.iter().map(|r| (*r).to_owned()).collect(),
            cdi: vec![cdi.to_owned()],
            ..Device::default()
        };
        record.known.claims.insert(
            "u".into(),
            Claim {
                name: "c".into(),
                pods: [("p".to_owned(), ["gpus".to_owned()].into())].into(),
                drivers: [(
                    "d".to_owned(),
                    vec![device(&["one"], "a"), device(&["two/best"], "b"), device(&[], "all")],
                )]
                .into(),
                prepared: true,
                ..Claim::default()
            },
        );
        record.save().unwrap();
        let again = Record::open(&path).unwrap();
        assert!(!again.known.claims["u"].prepared, "drivers are asked again");
        assert_eq!(again.cdi("p", "gpus", None), ["a", "b", "all"]);
        assert_eq!(again.cdi("p", "gpus", Some("one")), ["a", "all"]);
        assert_eq!(again.cdi("p", "gpus", Some("two")), ["b", "all"]);
        assert!(again.cdi("p", "other", None).is_empty());
        assert!(again.cdi("q", "gpus", None).is_empty());
        std::fs::write(&path, "{").unwrap();
        assert!(Record::open(&path).is_err(), "a damaged one is not taken for an empty one");
    }
}
