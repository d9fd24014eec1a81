//! Host ports: elements of maps in the node's nftables table.
//!
//! The plug-in writes a Pod's address file first and then these elements; the proxy, when it makes the
//! table, reads the address files after. Either order of the two leaves the elements in place.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use super::ipam::{self, Attachment};
use super::spec::{Failure, PortMapping, code};
use crate::netlink::nft::{Carries, Data, Element, Family, Field, Set, Table};
use crate::netlink::{self, Message, Socket};

/// Map of host ports on all the host's addresses: protocol and port to Pod address and port.
pub const ANY: &str = "host_ports";
/// Map of host ports on one address: address, protocol and port to Pod address and port.
pub const ONE: &str = "host_ip_ports";
/// Pairs of a Pod's address with itself: a Pod that reaches itself through a service or a host port.
pub const HAIRPIN: &str = "hairpin";

/// The sets of the table that the plug-in fills.
pub fn sets() -> [Set; 3] {
    let target = || Carries::Values(vec![Field::Ipv4, Field::Port]);
    [
        Set::new(ANY, &[Field::Protocol, Field::Port], target()),
        Set::new(ONE, &[Field::Ipv4, Field::Protocol, Field::Port], target()),
        Set::new(HAIRPIN, &[Field::Ipv4, Field::Ipv4], Carries::Nothing),
    ]
}

/// The number of a transport protocol by its name in any case.
pub fn protocol_number(name: &str) -> Option<u8> {
    match name.to_ascii_lowercase().as_str() {
        "" | "tcp" => Some(6),
        "udp" => Some(17),
        "sctp" => Some(132),
        _ => None,
    }
}

/// Checks mappings before anything is made.
pub fn validate(mappings: &[PortMapping]) -> Result<(), Failure> {
    for mapping in mappings {
        if protocol_number(&mapping.protocol).is_none() {
            let details = format!(
                "host port {} has protocol {:?}; tcp, udp or sctp is possible",
                mapping.host_port, mapping.protocol
            );
            return Err(Failure::new(code::CONFIG, "invalid port mapping", details));
        }
        host_ip(mapping)?;
    }
    Ok(())
}

/// The mapping's host address; `None` means all.
fn host_ip(mapping: &PortMapping) -> Result<Option<IpAddr>, Failure> {
    if mapping.host_ip.is_empty() {
        return Ok(None);
    }
    let ip: IpAddr = mapping.host_ip.parse().map_err(|_| {
        let details = format!("hostIP {:?} is no IP address", mapping.host_ip);
        Failure::new(code::CONFIG, "invalid port mapping", details)
    })?;
    Ok((!ip.is_unspecified()).then_some(ip))
}

/// Pads the fields of a key to four bytes each.
pub fn word(bytes: &[u8]) -> [u8; 4] {
    let mut out = [0; 4];
    out[..bytes.len()].copy_from_slice(bytes);
    out
}

/// The elements of an attachment, by set.
pub fn elements(ip: Ipv4Addr, mappings: &[PortMapping]) -> Vec<(&'static str, Element)> {
    let pair = [ip.octets(), ip.octets()].concat();
    let mut out = vec![(HAIRPIN, Element { key: pair, key_end: None, data: Data::Nothing })];
    for mapping in mappings {
        let Some(protocol) = protocol_number(&mapping.protocol) else {
            continue;
        };
        let port = word(&mapping.host_port.to_be_bytes());
        let data = Data::Value([ip.octets(), word(&mapping.container_port.to_be_bytes())].concat());
        let (set, key) = match host_ip(mapping) {
            Ok(None) => (ANY, [word(&[protocol]), port].concat()),
            Ok(Some(IpAddr::V4(host))) => (ONE, [host.octets(), word(&[protocol]), port].concat()),
            // Pods have no IPv6 address that an IPv6 host port could lead to.
            _ => continue,
        };
        out.push((set, Element { key, key_end: None, data }));
    }
    out
}

fn table(name: &str) -> Table {
    Table { family: Family::Ip, name: name.to_owned() }
}

/// The messages that add the elements of all attachments in the directory, for a new table.
pub fn restore(table: &Table, attachments: &[(Ipv4Addr, Attachment)]) -> Vec<Message> {
    let mut messages = Vec::new();
    for set in [ANY, ONE, HAIRPIN] {
        let mut list: Vec<Element> = attachments
            .iter()
            .flat_map(|(ip, a)| elements(*ip, &a.port_mappings))
            .filter(|(name, _)| *name == set)
            .map(|(_, element)| element)
            .collect();
        // Two Pods cannot have one host port; after a crash the later file wins nothing, the first stays.
        list.sort();
        list.dedup_by(|a, b| a.key == b.key);
        messages.extend(table.add_elements(set, &list));
    }
    messages
}

/// The attachments of a node, for [`restore`].
pub fn attachments(directory: &Path) -> Result<Vec<(Ipv4Addr, Attachment)>, ipam::Error> {
    ipam::list(directory)
}

/// Adds an attachment's elements. A table that does not exist yet gets them when the proxy makes it.
pub fn add(name: &str, ip: Ipv4Addr, mappings: &[PortMapping]) -> Result<(), netlink::Error> {
    if name.is_empty() {
        return Ok(());
    }
    let table = table(name);
    let messages =
        elements(ip, mappings).into_iter().flat_map(|(set, element)| table.add_elements(set, &[element])).collect();
    let what = |_| format!("add host ports of {ip} (is one in use by another Pod?)");
    match Socket::netfilter()?.batch(messages, what) {
        Err(error) if error.is_absent() => Ok(()),
        other => other,
    }
}

/// Removes an attachment's elements, but those that one of `others` has too, and the UDP connections
/// that came through its host ports.
pub fn remove(
    name: &str,
    ip: Ipv4Addr,
    mappings: &[PortMapping],
    others: &[(Ipv4Addr, Attachment)],
) -> Result<(), netlink::Error> {
    if name.is_empty() {
        return Ok(());
    }
    let table = table(name);
    let mut socket = Socket::netfilter()?;
    let kept: Vec<_> = others
        .iter()
        .flat_map(|(ip, a)| elements(*ip, &a.port_mappings))
        .map(|(set, element)| (set, element.key))
        .collect();
    for (set, element) in elements(ip, mappings) {
        if kept.iter().any(|k| k.0 == set && k.1 == element.key) {
            continue;
        }
        // One transaction each: an element that is gone must not keep the others.
        let messages = table.delete_elements(set, &[element]);
        match socket.batch(messages, |_| format!("remove host port of {ip}")) {
            Err(error) if !error.is_absent() => return Err(error),
            _ => {}
        }
    }
    let udp = |m: &&PortMapping| protocol_number(&m.protocol) == Some(17);
    if mappings.iter().any(|m| udp(&m)) {
        for connection in socket.connections(17)? {
            let mapped = mappings.iter().filter(udp).any(|m| m.host_port == connection.destination.1);
            if mapped && connection.endpoint.0 == IpAddr::V4(ip) {
                socket.delete_connection(&connection)?;
            }
        }
    }
    Ok(())
}
