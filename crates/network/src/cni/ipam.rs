//! Address management: one file an address, so that a crash at any instant loses nothing and leaks
//! at most an address that the next GC or DEL of its container frees.
//!
//! `DIR/addresses/<ip>` holds the attachment as JSON. It appears by `link(2)`, which fails when the
//! address is taken and never shows a half-written file. `DIR/lock` serialises plug-in processes;
//! `DIR/last` remembers the last address given, so that a freed one is the last to be given again.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::spec::PortMapping;

/// What an address is used for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// The container (sandbox) id.
    pub container: String,
    /// The interface in the container.
    pub interface: String,
    /// The end of the veth pair on the host.
    pub host_interface: String,
    /// The Pod, as `namespace/name`, where the runtime said it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pod: String,
    /// Host ports that lead here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub port_mappings: Vec<PortMapping>,
}

/// Why there is no address.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Every address of the range is in use.
    #[error("all {0} addresses of {1} are in use")]
    Exhausted(usize, Ipv4Net),
    /// The files could not be read or written.
    #[error("{0}: {1}")]
    Io(PathBuf, io::Error),
}

/// The address files, locked for this process (and thread) while the value lives.
pub struct Ipam {
    directory: PathBuf,
    _lock: Flock<File>,
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> Error + '_ {
    |error| Error::Io(path.to_owned(), error)
}

impl Ipam {
    /// Opens (and makes) the directory, waiting for other plug-in processes.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let addresses = directory.join("addresses");
        fs::create_dir_all(&addresses).map_err(at(&addresses))?;
        let path = directory.join("lock");
        let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(at(&path))?;
        let lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| Error::Io(path, errno.into()))?;
        Ok(Self { directory: directory.to_owned(), _lock: lock })
    }

    fn addresses(&self) -> PathBuf {
        self.directory.join("addresses")
    }

    /// Gives an address to an attachment: the one it has already (and says so), or the next free one after
    /// the last given.
    pub fn allocate(
        &self,
        subnet: Ipv4Net,
        gateway: Ipv4Addr,
        attachment: &Attachment,
    ) -> Result<(Ipv4Addr, bool), Error> {
        let existing = self.list()?;
        let mine = existing.iter().find(|(ip, a)| {
            subnet.contains(ip) && a.container == attachment.container && a.interface == attachment.interface
        });
        if let Some((ip, _)) = mine {
            self.write(*ip, attachment, true)?;
            return Ok((*ip, true));
        }
        let last = fs::read_to_string(self.directory.join("last"))
            .ok()
            .and_then(|text| text.trim().parse::<Ipv4Addr>().ok())
            .filter(|ip| subnet.contains(ip))
            .unwrap_or_else(|| subnet.network());
        let size = 1u32 << (32 - u32::from(subnet.prefix_len()));
        let base = u32::from(subnet.network());
        let start = u32::from(last) - base;
        for step in 1..=size {
            let offset = (start + step) % size;
            let ip = Ipv4Addr::from(base + offset);
            if offset == 0 || offset == size - 1 || ip == gateway {
                continue;
            }
            if self.write(ip, attachment, false)? {
                let path = self.directory.join("last");
                replace(&path, ip.to_string().as_bytes()).map_err(at(&path))?;
                return Ok((ip, false));
            }
        }
        Err(Error::Exhausted(size as usize - 3, subnet))
    }

    /// Writes an address file; `false` when the address is taken and may not be replaced.
    fn write(&self, ip: Ipv4Addr, attachment: &Attachment, replacing: bool) -> Result<bool, Error> {
        let path = self.addresses().join(ip.to_string());
        if !replacing && path.exists() {
            return Ok(false);
        }
        let temporary = self.directory.join("new");
        let bytes = serde_json::to_vec(attachment).map_err(|e| Error::Io(path.clone(), e.into()))?;
        let written = File::create(&temporary).and_then(|mut file| file.write_all(&bytes));
        written.map_err(at(&temporary))?;
        if replacing {
            fs::rename(&temporary, &path).map_err(at(&path))?;
            return Ok(true);
        }
        let linked = fs::hard_link(&temporary, &path);
        // Left-overs of a crash here are overwritten by the next call.
        let _ = fs::remove_file(&temporary);
        match linked {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(Error::Io(path, error)),
        }
    }

    /// Frees every address for which `keep` is false and returns them.
    pub fn release(&self, mut keep: impl FnMut(&Attachment) -> bool) -> Result<Vec<(Ipv4Addr, Attachment)>, Error> {
        let mut released = Vec::new();
        for (ip, attachment) in self.list()? {
            if keep(&attachment) {
                continue;
            }
            let path = self.addresses().join(ip.to_string());
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::Io(path, error));
                }
                _ => released.push((ip, attachment)),
            }
        }
        Ok(released)
    }

    /// All attachments.
    pub fn list(&self) -> Result<Vec<(Ipv4Addr, Attachment)>, Error> {
        list(&self.directory)
    }
}

/// All attachments, read without the lock (files appear and vanish whole).
pub fn list(directory: &Path) -> Result<Vec<(Ipv4Addr, Attachment)>, Error> {
    let addresses = directory.join("addresses");
    let entries = match fs::read_dir(&addresses) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::Io(addresses, error)),
    };
    let mut out = Vec::new();
    for entry in entries {
        let entry = entry.map_err(at(&addresses))?;
        let Some(ip) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let bytes = match fs::read(entry.path()) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Error::Io(entry.path(), error)),
        };
        // A file that does not parse was torn by the machine's crash; its container is gone with it.
        match serde_json::from_slice(&bytes) {
            Ok(attachment) => out.push((ip, attachment)),
            Err(_) => {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
    out.sort_by_key(|(ip, _)| *ip);
    Ok(out)
}

/// Replaces a file's content atomically.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    fs::write(&temporary, content)?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn attachment(container: &str) -> Attachment {
        Attachment {
            container: container.to_owned(),
            interface: "eth0".to_owned(),
            host_interface: format!("v{container}"),
            pod: String::new(),
            port_mappings: Vec::new(),
        }
    }

    fn give(ipam: &Ipam, container: &str) -> Result<String, Error> {
        let subnet: Ipv4Net = "10.1.2.0/29".parse().unwrap();
        ipam.allocate(subnet, Ipv4Addr::new(10, 1, 2, 1), &attachment(container)).map(|(ip, _)| ip.to_string())
    }

    #[test]
    fn addresses_go_round_and_run_out() {
        let dir = tempfile::tempdir().unwrap();
        let ipam = Ipam::open(dir.path()).unwrap();
        let first: Vec<_> = ["a", "b", "c", "d", "e"].iter().map(|c| give(&ipam, c).unwrap()).collect();
        assert_eq!(first, ["10.1.2.2", "10.1.2.3", "10.1.2.4", "10.1.2.5", "10.1.2.6"]);
        let full = give(&ipam, "f").unwrap_err().to_string();
        assert_eq!(full, "all 5 addresses of 10.1.2.0/29 are in use");
        ipam.release(|a| a.container != "b").unwrap();
        ipam.release(|a| a.container != "d").unwrap();
        assert_eq!(give(&ipam, "f").unwrap(), "10.1.2.3");
    }

    #[test]
    fn a_freed_address_is_the_last_to_be_given_again() {
        let dir = tempfile::tempdir().unwrap();
        let ipam = Ipam::open(dir.path()).unwrap();
        assert_eq!(give(&ipam, "a").unwrap(), "10.1.2.2");
        ipam.release(|_| false).unwrap();
        assert_eq!(give(&ipam, "b").unwrap(), "10.1.2.3");
        drop(ipam);
        let ipam = Ipam::open(dir.path()).unwrap();
        assert_eq!(give(&ipam, "c").unwrap(), "10.1.2.4");
    }

    #[test]
    fn the_same_attachment_keeps_its_address() {
        let dir = tempfile::tempdir().unwrap();
        let ipam = Ipam::open(dir.path()).unwrap();
        assert_eq!(give(&ipam, "a").unwrap(), give(&ipam, "a").unwrap());
        assert_eq!(ipam.list().unwrap().len(), 1);
    }

    #[test]
    fn torn_files_free_their_address() {
        let dir = tempfile::tempdir().unwrap();
        let ipam = Ipam::open(dir.path()).unwrap();
        fs::write(dir.path().join("addresses/10.1.2.2"), b"{\"cont").unwrap();
        assert_eq!(ipam.list().unwrap(), []);
        assert_eq!(give(&ipam, "a").unwrap(), "10.1.2.2");
    }
}
