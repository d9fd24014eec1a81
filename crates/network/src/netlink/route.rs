//! Links, addresses and routes (rtnetlink).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use ipnet::IpNet;
use nix::libc;

use super::{Attrs, Error, Message, Reply, Socket, flags};

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_PROTINFO: u16 = 12;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_PRIORITY: u16 = 6;
const RTA_GATEWAY: u16 = 5;

/// A network device as the kernel lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: i32,
    /// Interface name.
    pub name: String,
    /// Hardware address, six bytes for Ethernet.
    pub mac: Vec<u8>,
    /// Largest packet, in bytes.
    pub mtu: u32,
    /// Index of the bridge this device is a port of.
    pub master: Option<i32>,
    /// `IFF_UP`.
    pub up: bool,
    /// The driver's name (`bridge`, `veth` …), where it has one.
    pub kind: Option<String>,
}

/// An address on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// Interface index.
    pub index: i32,
    /// The address with its prefix length.
    pub net: IpNet,
}

/// A unicast route in the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Where packets go; a zero prefix is the default route.
    pub destination: IpNet,
    /// The next hop; none means the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// The outgoing interface's index.
    pub interface: Option<i32>,
    /// `rtm_protocol`: who made the route.
    pub protocol: u8,
}

/// `RTPROT_BOOT`, for routes inside containers.
pub const PROTOCOL_BOOT: u8 = 3;

/// Formats a hardware address.
pub fn mac_text(mac: &[u8]) -> String {
    mac.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":")
}

fn ifinfo(family: u8, index: i32, set: u32, change: u32) -> [u8; 16] {
    let mut out = [0; 16];
    out[0] = family;
    out[4..8].copy_from_slice(&index.to_ne_bytes());
    out[8..12].copy_from_slice(&set.to_ne_bytes());
    out[12..16].copy_from_slice(&change.to_ne_bytes());
    out
}

const UP: u32 = libc::IFF_UP as u32;

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}

impl Socket {
    /// All devices.
    pub fn links(&mut self) -> Result<Vec<Link>, Error> {
        let message = Message::new(libc::RTM_GETLINK, 0).raw(&ifinfo(0, 0, 0, 0));
        let replies = self.dump("list links", message)?;
        Ok(replies.iter().filter_map(link).collect())
    }

    /// The device of that name.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, Error> {
        let message = Message::new(libc::RTM_GETLINK, 0).raw(&ifinfo(0, 0, 0, 0)).attr_str(IFLA_IFNAME, name);
        match self.request(&format!("read link {name}"), message) {
            Ok(replies) => Ok(replies.iter().find_map(link)),
            Err(error) if error.is_absent() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Creates a bridge that is up.
    pub fn create_bridge(&mut self, name: &str, mac: [u8; 6], mtu: u32) -> Result<(), Error> {
        let message = Message::new(libc::RTM_NEWLINK, flags::CREATE | flags::EXCL)
            .raw(&ifinfo(0, 0, UP, UP))
            .attr_str(IFLA_IFNAME, name)
            .attr(IFLA_ADDRESS, &mac)
            .attr_u32(IFLA_MTU, mtu)
            .nest(IFLA_LINKINFO, |m| {
                m.put_str(IFLA_INFO_KIND, "bridge");
            });
        self.request(&format!("create bridge {name}"), message)?;
        Ok(())
    }

    /// Creates a veth pair: one end here, a port of `master` and up; the other in `netns`, down.
    pub fn create_veth(&mut self, pair: &VethPair<'_>) -> Result<(), Error> {
        let mut message = Message::new(libc::RTM_NEWLINK, flags::CREATE | flags::EXCL)
            .raw(&ifinfo(0, 0, UP, UP))
            .attr_str(IFLA_IFNAME, pair.host)
            .attr_u32(IFLA_MTU, pair.mtu);
        if let Some(master) = pair.master {
            message = message.attr_u32(IFLA_MASTER, master as u32);
        }
        let message = message.nest(IFLA_LINKINFO, |m| {
            m.put_str(IFLA_INFO_KIND, "veth");
            m.put_nest(IFLA_INFO_DATA, |m| {
                m.put_nest(VETH_INFO_PEER, |m| {
                    // The peer cannot come up before the pair is complete.
                    m.put_raw(&ifinfo(0, 0, 0, 0));
                    m.put_str(IFLA_IFNAME, pair.peer);
                    m.put(IFLA_MTU, &pair.mtu.to_ne_bytes());
                    m.put(IFLA_ADDRESS, &pair.peer_mac);
                    let fd = pair.netns.as_raw_fd() as u32;
                    m.put(IFLA_NET_NS_FD, &fd.to_ne_bytes());
                });
            });
        });
        let what = format!("create veth pair {} – {}", pair.host, pair.peer);
        self.request(&what, message)?;
        Ok(())
    }

    /// Brings a device up.
    pub fn set_up(&mut self, index: i32) -> Result<(), Error> {
        let message = Message::new(libc::RTM_NEWLINK, 0).raw(&ifinfo(0, index, UP, UP));
        self.request(&format!("bring up link {index}"), message)?;
        Ok(())
    }

    /// Sets a bridge port's hairpin mode and whether it is isolated from other isolated ports.
    pub fn set_bridge_port(&mut self, index: i32, hairpin: bool, isolated: bool) -> Result<(), Error> {
        let message = Message::new(libc::RTM_SETLINK, 0).raw(&ifinfo(libc::AF_BRIDGE as u8, index, 0, 0)).nest(
            IFLA_PROTINFO,
            |m| {
                m.put(IFLA_BRPORT_MODE, &[u8::from(hairpin)]);
                m.put(IFLA_BRPORT_ISOLATED, &[u8::from(isolated)]);
            },
        );
        self.request(&format!("set up bridge port {index}"), message)?;
        Ok(())
    }

    /// Deletes a device; a device that is absent is no error.
    pub fn delete_link(&mut self, name: &str) -> Result<bool, Error> {
        let message = Message::new(libc::RTM_DELLINK, 0).raw(&ifinfo(0, 0, 0, 0)).attr_str(IFLA_IFNAME, name);
        match self.request(&format!("delete link {name}"), message) {
            Ok(_) => Ok(true),
            Err(error) if error.is_absent() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// All addresses.
    pub fn addresses(&mut self) -> Result<Vec<Address>, Error> {
        let message = Message::new(libc::RTM_GETADDR, 0).raw(&[0; 8]);
        let replies = self.dump("list addresses", message)?;
        Ok(replies.iter().filter_map(interface_address).collect())
    }

    /// Adds an address to a device; one that exists is no error.
    pub fn add_address(&mut self, index: i32, net: IpNet) -> Result<(), Error> {
        let mut header = [family(net.addr()), net.prefix_len(), 0, 0, 0, 0, 0, 0];
        header[4..8].copy_from_slice(&index.to_ne_bytes());
        let bytes = octets(net.addr());
        let message = Message::new(libc::RTM_NEWADDR, flags::CREATE | flags::REPLACE)
            .raw(&header)
            .attr(IFA_LOCAL, &bytes)
            .attr(IFA_ADDRESS, &bytes);
        self.request(&format!("add address {net} to link {index}"), message)?;
        Ok(())
    }

    /// Removes an address from a device; one that is absent is no error.
    pub fn delete_address(&mut self, index: i32, net: IpNet) -> Result<(), Error> {
        let mut header = [family(net.addr()), net.prefix_len(), 0, 0, 0, 0, 0, 0];
        header[4..8].copy_from_slice(&index.to_ne_bytes());
        let message = Message::new(libc::RTM_DELADDR, 0).raw(&header).attr(IFA_LOCAL, &octets(net.addr()));
        match self.request(&format!("remove address {net} from link {index}"), message) {
            Err(error) if !error.is_absent() => Err(error),
            _ => Ok(()),
        }
    }

    /// The unicast routes of the main table, of one family each.
    pub fn routes(&mut self) -> Result<Vec<Route>, Error> {
        let mut routes = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let mut header = [0; 12];
            header[0] = family as u8;
            let message = Message::new(libc::RTM_GETROUTE, 0).raw(&header);
            let replies = self.dump("list routes", message)?;
            routes.extend(replies.iter().filter_map(route));
        }
        Ok(routes)
    }

    /// Adds a route, or replaces the one to the same destination.
    pub fn replace_route(&mut self, route: &Route) -> Result<(), Error> {
        let what = format!("add route to {}", route.destination);
        let message = route_message(libc::RTM_NEWROUTE, flags::CREATE | flags::REPLACE, route, true);
        self.request(&what, message)?;
        Ok(())
    }

    /// Removes a route; one that is absent is no error.
    pub fn delete_route(&mut self, route: &Route) -> Result<(), Error> {
        let what = format!("remove route to {}", route.destination);
        let message = route_message(libc::RTM_DELROUTE, 0, route, false);
        match self.request(&what, message) {
            Err(error) if !error.is_absent() => Err(error),
            _ => Ok(()),
        }
    }
}

/// `struct tc_ratespec` of linux/pkt_sched.h with a rate that fits 32 bits, or its largest value.
fn rate_spec(bytes_a_second: u64) -> [u8; 12] {
    const LINK_LAYER_ETHERNET: u8 = 1;
    let mut out = [0; 12];
    out[1] = LINK_LAYER_ETHERNET;
    let rate = u32::try_from(bytes_a_second).unwrap_or(u32::MAX);
    out[8..12].copy_from_slice(&rate.to_ne_bytes());
    out
}

impl Socket {
    /// Limits what a device sends with a token bucket (tbf) of the rate and burst, in bytes (a second).
    pub fn limit_rate(&mut self, index: i32, rate: u64, burst: u32) -> Result<(), Error> {
        const NEWQDISC: u16 = 36;
        const ROOT: u32 = u32::MAX;
        const KIND: u16 = 1;
        const OPTIONS: u16 = 2;
        const PARAMETERS: u16 = 1;
        const RATE64: u16 = 4;
        const BURST: u16 = 6;
        /// Longest time a packet waits for tokens.
        const LATENCY_MS: u64 = 25;
        /// Nanoseconds in a tick of the packet scheduler.
        const TICK: u64 = 64;
        let rate = rate.max(1);
        let mut header = [0; 20];
        header[4..8].copy_from_slice(&index.to_ne_bytes());
        header[12..16].copy_from_slice(&ROOT.to_ne_bytes());
        let limit = rate * LATENCY_MS / 1000 + u64::from(burst);
        let buffer = u64::from(burst) * 1_000_000_000 / rate / TICK;
        let small = |value: u64| u32::try_from(value).unwrap_or(u32::MAX).to_ne_bytes();
        let parameters = [&rate_spec(rate)[..], &[0; 12], &small(limit), &small(buffer), &[0; 4]].concat();
        let message = Message::new(NEWQDISC, flags::CREATE | flags::REPLACE).raw(&header).attr_str(KIND, "tbf").nest(
            OPTIONS,
            |m| {
                m.put(PARAMETERS, &parameters);
                m.put(RATE64, &rate.to_ne_bytes());
                m.put(BURST, &burst.to_ne_bytes());
            },
        );
        self.request(&format!("limit the rate of link {index}"), message)?;
        Ok(())
    }
}

/// What `Socket::create_veth` makes.
pub struct VethPair<'a> {
    /// Name of the end on the host.
    pub host: &'a str,
    /// Index of the bridge that the host end joins.
    pub master: Option<i32>,
    /// Largest packet, in bytes, for both ends.
    pub mtu: u32,
    /// Name of the end in the other namespace.
    pub peer: &'a str,
    /// Hardware address of the peer.
    pub peer_mac: [u8; 6],
    /// The peer's network namespace.
    pub netns: BorrowedFd<'a>,
}

fn route_message(kind: u16, flag: u16, route: &Route, adding: bool) -> Message {
    let scope = if !adding {
        libc::RT_SCOPE_NOWHERE
    } else if route.gateway.is_some() {
        libc::RT_SCOPE_UNIVERSE
    } else {
        libc::RT_SCOPE_LINK
    };
    let header = [
        family(route.destination.addr()),
        route.destination.prefix_len(),
        0,
        0,
        libc::RT_TABLE_MAIN,
        route.protocol,
        scope,
        libc::RTN_UNICAST,
        0,
        0,
        0,
        0,
    ];
    let mut message = Message::new(kind, flag).raw(&header);
    if route.destination.prefix_len() > 0 {
        message = message.attr(RTA_DST, &octets(route.destination.addr()));
    }
    if let Some(gateway) = route.gateway {
        message = message.attr(RTA_GATEWAY, &octets(gateway));
    }
    if let Some(index) = route.interface {
        message = message.attr_u32(RTA_OIF, index as u32);
    }
    message
}

fn link(reply: &Reply) -> Option<Link> {
    if reply.kind != libc::RTM_NEWLINK {
        return None;
    }
    let header = reply.payload.get(..16)?;
    let attrs = Attrs::new(reply.payload.get(16..)?);
    Some(Link {
        index: i32::from_ne_bytes(header[4..8].try_into().ok()?),
        name: attrs.text(IFLA_IFNAME)?,
        mac: attrs.find(IFLA_ADDRESS).unwrap_or_default().to_vec(),
        mtu: attrs.u32(IFLA_MTU).unwrap_or_default(),
        master: attrs.u32(IFLA_MASTER).map(|v| v as i32),
        up: u32::from_ne_bytes(header[8..12].try_into().ok()?) & UP != 0,
        kind: attrs.nested(IFLA_LINKINFO).and_then(|info| info.text(IFLA_INFO_KIND)),
    })
}

fn interface_address(reply: &Reply) -> Option<Address> {
    if reply.kind != libc::RTM_NEWADDR {
        return None;
    }
    let header = reply.payload.get(..8)?;
    let attrs = Attrs::new(reply.payload.get(8..)?);
    let value = attrs.find(IFA_LOCAL).or_else(|| attrs.find(IFA_ADDRESS))?;
    Some(Address {
        index: i32::from_ne_bytes(header[4..8].try_into().ok()?),
        net: IpNet::new(address(value)?, header[1]).ok()?,
    })
}

fn route(reply: &Reply) -> Option<Route> {
    if reply.kind != libc::RTM_NEWROUTE {
        return None;
    }
    let header = reply.payload.get(..12)?;
    if header[4] != libc::RT_TABLE_MAIN || header[7] != libc::RTN_UNICAST {
        return None;
    }
    let attrs = Attrs::new(reply.payload.get(12..)?);
    let destination = match attrs.find(RTA_DST) {
        Some(bytes) => address(bytes)?,
        None if header[0] == libc::AF_INET as u8 => Ipv4Addr::UNSPECIFIED.into(),
        None => Ipv6Addr::UNSPECIFIED.into(),
    };
    // A metric other than the default makes the route somebody's fall-back; it is not ours to compare with.
    if header[0] == libc::AF_INET as u8 && attrs.u32(RTA_PRIORITY).unwrap_or_default() > 0xffff {
        return None;
    }
    Some(Route {
        destination: IpNet::new(destination, header[1]).ok()?,
        gateway: attrs.find(RTA_GATEWAY).and_then(address),
        interface: attrs.u32(RTA_OIF).map(|v| v as i32),
        protocol: header[5],
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn loopback_is_listed() {
        let mut socket = Socket::route().unwrap();
        let lo = socket.link("lo").unwrap().unwrap();
        assert_eq!(lo.index, 1);
        assert!(socket.links().unwrap().contains(&lo));
        assert_eq!(socket.link("no-such-link").unwrap(), None);
    }

    #[test]
    fn refusal_names_the_operation() {
        let mut socket = Socket::route().unwrap();
        let error = socket.set_up(99_999).unwrap_err().to_string();
        assert!(error.contains("bring up link 99999") && error.contains("ENODEV"), "{error}");
    }
}
