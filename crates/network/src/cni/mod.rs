//! The Pod network: this program is itself the CNI plug-in that the container runtime executes.
//!
//! `configure` prepares the node once (bridge, kernel switches, configuration, plug-in links);
//! `main_if_plugin` is the plug-in's whole process.

pub mod bridge;
pub mod hostports;
pub mod ipam;
pub mod netns;
pub mod plugin;
pub mod spec;

#[cfg(test)]
mod tests;

use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use crate::config::Config;
use crate::netlink::{self, Socket};
use spec::{CURRENT, Environment, Failure, code};

/// The plug-in's type, which is its file name in the directory of plug-ins.
pub const PLUGIN: &str = "caravel-cni";
/// A runtime's configuration is a few kilobytes; more is a mistake.
const MAX_INPUT: u64 = 4 * 1024 * 1024;

/// Why the node's network could not be set up or taken down.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The node's Pod range is not known yet.
    #[error("the node {0} has no spec.podCIDR yet; the Pod network cannot be configured without it")]
    NoPodCidr(String),
    /// A file could not be read or written.
    #[error("{0}: {1}")]
    Io(String, io::Error),
    /// The kernel refused.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> Error + '_ {
    |error| Error::Io(path.display().to_string(), error)
}

/// Serves as a CNI plug-in if this process was started as one (`CNI_COMMAND` is set): the first thing
/// in `main`. `None` means that it was not.
pub fn main_if_plugin() -> Option<ExitCode> {
    std::env::var_os("CNI_COMMAND")?;
    let env = Environment::from_process();
    let mut input = Vec::new();
    let read = io::stdin().lock().take(MAX_INPUT).read_to_end(&mut input);
    let outcome = match read {
        Ok(_) => plugin::execute(&env, &input),
        Err(error) => Err(Failure::new(code::IO, "cannot read the network configuration", error)),
    };
    let (printed, status) = match outcome {
        Ok(value) => (value, ExitCode::SUCCESS),
        Err(failure) => {
            let version = spec::NetworkConfig::parse(&input)
                .map(|config| config.version().to_owned())
                .unwrap_or_else(|_| CURRENT.to_owned());
            (Some(failure.to_json(&version)), ExitCode::FAILURE)
        }
    };
    if let Some(value) = printed
        && writeln!(io::stdout().lock(), "{value}").is_err()
    {
        return Some(ExitCode::FAILURE);
    }
    Some(status)
}

/// Prepares the node's Pod network, as often as called: bridge, kernel switches, the plug-in's links
/// in `DIR/cni/bin` and, last, `DIR/cni/conf/10-caravel.conflist`, which makes the runtime ready.
pub fn configure(config: &Config) -> Result<(), Error> {
    let subnet = config.pod_cidr.ok_or_else(|| Error::NoPodCidr(config.node_name.clone()))?;
    let gateway = config.gateway().ok_or_else(|| Error::NoPodCidr(config.node_name.clone()))?;
    let directory = config.cni_dir();
    let (bin, conf) = (directory.join("bin"), directory.join("conf"));
    for path in [&bin, &conf] {
        fs::create_dir_all(path).map_err(at(path))?;
    }
    forget_after_reboot(&directory)?;
    bridge::remember(&directory).map_err(at(&directory))?;
    let mut socket = Socket::route()?;
    let mtu = match config.mtu {
        Some(mtu) => mtu,
        None => bridge::default_mtu(&mut socket)?,
    };
    bridge::ensure(&mut socket, &config.bridge, subnet, gateway, mtu)?;
    let program = std::env::current_exe().map_err(at(Path::new("/proc/self/exe")))?;
    for name in [PLUGIN, plugin::LOOPBACK] {
        link(&program, &bin.join(name))?;
    }
    let list = json!({
        "cniVersion": CURRENT,
        "name": "caravel",
        "plugins": [{
            "type": PLUGIN,
            "bridge": config.bridge,
            "subnet": subnet,
            "gateway": gateway,
            "mtu": mtu,
            "dataDir": directory,
            "table": config.table,
            "capabilities": {"portMappings": true, "bandwidth": true},
        }],
    });
    let path = conf.join("10-caravel.conflist");
    let text = format!("{list:#}\n");
    if fs::read_to_string(&path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    ipam::replace(&path, text.as_bytes()).map_err(at(&path))
}

/// Makes `path` a symbolic link to the program.
fn link(program: &Path, path: &Path) -> Result<(), Error> {
    if fs::read_link(path).is_ok_and(|target| target == program) {
        return Ok(());
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(path)(error)),
        _ => {}
    }
    std::os::unix::fs::symlink(program, path).map_err(at(path))
}

/// Address files outlive a reboot, the containers do not.
fn forget_after_reboot(directory: &Path) -> Result<(), Error> {
    let boot = Path::new("/proc/sys/kernel/random/boot_id");
    let current = fs::read_to_string(boot).map_err(at(boot))?;
    let path = directory.join("boot");
    match fs::read_to_string(&path) {
        Ok(old) if old == current => return Ok(()),
        Ok(_) => {
            let addresses = directory.join("addresses");
            match fs::remove_dir_all(&addresses) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(at(&addresses)(error));
                }
                _ => {}
            }
        }
        Err(_) => {}
    }
    ipam::replace(&path, current.as_bytes()).map_err(at(&path))
}

/// Removes the Pod network from the machine: the ports and the bridge, the kernel switches and the files.
pub fn purge(config: &Config) -> Result<(), Error> {
    let directory = config.cni_dir();
    let mut socket = Socket::route()?;
    if let Some(bridge) = socket.link(&config.bridge)? {
        for port in socket.links()? {
            if port.master == Some(bridge.index) {
                socket.delete_link(&port.name)?;
            }
        }
        socket.delete_link(&config.bridge)?;
    }
    // A second cluster's bridge still needs forwarding.
    let others =
        socket.links()?.iter().any(|link| link.kind.as_deref() == Some("bridge") && link.name.starts_with("cvl"));
    if !others {
        bridge::restore(&directory).map_err(at(&directory))?;
    }
    match fs::remove_dir_all(&directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(&directory)(error)),
        _ => Ok(()),
    }
}
