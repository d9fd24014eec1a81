//! The bridge that Pods hang on, and the kernel switches it needs.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

use ipnet::Ipv4Net;

use crate::netlink::{Error, Socket};

/// The locally administered hardware address that belongs to an IPv4 address (`0a:58:` and its bytes).
///
/// Derived addresses keep neighbours' ARP caches right when an address moves to another Pod.
pub fn mac(ip: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = ip.octets();
    [0x0a, 0x58, a, b, c, d]
}

/// Makes the bridge exist, up, with the gateway's address and no other IPv4 address; returns its index.
pub fn ensure(socket: &mut Socket, name: &str, subnet: Ipv4Net, gateway: Ipv4Addr, mtu: u32) -> Result<i32, Error> {
    let link = match socket.link(name)? {
        Some(link) => link,
        None => {
            match socket.create_bridge(name, mac(gateway), mtu) {
                Err(error) if !error.exists() => return Err(error),
                _ => {}
            }
            socket.link(name)?.ok_or_else(|| Error::Malformed(format!("read back bridge {name}")))?
        }
    };
    if let Some(kind) = link.kind.as_deref().filter(|kind| *kind != "bridge") {
        return Err(Error::Refused {
            what: format!("use {name} as the Pods' bridge"),
            errno: nix::errno::Errno::EEXIST,
            message: Some(format!("a device of that name and kind {kind} exists")),
        });
    }
    let net = Ipv4Net::new_assert(gateway, subnet.prefix_len());
    let mut present = false;
    for address in socket.addresses()? {
        if address.index != link.index || !address.net.addr().is_ipv4() {
            continue;
        }
        if address.net == net.into() {
            present = true;
        } else {
            socket.delete_address(link.index, address.net)?;
        }
    }
    if !present {
        socket.add_address(link.index, net.into())?;
    }
    if !link.up {
        socket.set_up(link.index)?;
    }
    set("net/ipv4/ip_forward", "1")?;
    // Clients on the host that use a NodePort at 127.0.0.1 leave by the bridge with a loopback source.
    set(&format!("net/ipv4/conf/{name}/route_localnet"), "1")?;
    // Pods are routed through the bridge and back out of it; a redirect would tell them to bypass the host.
    set(&format!("net/ipv4/conf/{name}/send_redirects"), "0")?;
    Ok(link.index)
}

/// Writes a kernel switch when it differs; returns what it was before, if it was changed.
pub fn set(name: &str, value: &str) -> io::Result<Option<String>> {
    let path = Path::new("/proc/sys").join(name);
    let old = fs::read_to_string(&path).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
    if old.trim() == value {
        return Ok(None);
    }
    fs::write(&path, value).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
    Ok(Some(old.trim().to_owned()))
}

/// Switches whose former value is kept for `purge`.
const GLOBAL: [&str; 1] = ["net/ipv4/ip_forward"];

/// Notes the machine-wide switches' values before the first change.
pub fn remember(directory: &Path) -> io::Result<()> {
    let path = directory.join("sysctl.json");
    if path.exists() {
        return Ok(());
    }
    let mut values = BTreeMap::new();
    for name in GLOBAL {
        if let Ok(value) = fs::read_to_string(Path::new("/proc/sys").join(name)) {
            values.insert(name, value.trim().to_owned());
        }
    }
    super::ipam::replace(&path, &serde_json::to_vec(&values)?)
}

/// Puts the machine-wide switches back.
pub fn restore(directory: &Path) -> io::Result<()> {
    let bytes = match fs::read(directory.join("sysctl.json")) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let values: BTreeMap<String, String> = serde_json::from_slice(&bytes).unwrap_or_default();
    for name in GLOBAL {
        if let Some(value) = values.get(name) {
            set(name, value)?;
        }
    }
    Ok(())
}

/// The MTU of the default route's device, or Ethernet's.
pub fn default_mtu(socket: &mut Socket) -> Result<u32, Error> {
    let index = socket
        .routes()?
        .into_iter()
        .filter(|route| route.destination.prefix_len() == 0)
        .find_map(|route| route.interface);
    let mtu = socket.links()?.into_iter().find(|link| Some(link.index) == index).map(|link| link.mtu);
    Ok(mtu.unwrap_or(1500).clamp(576, 65_535))
}
