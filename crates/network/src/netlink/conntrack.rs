//! Connection tracking: finding and deleting entries (ctnetlink).
//!
//! UDP has no end of connection: entries that lead to an endpoint that is gone would go on swallowing
//! a client's datagrams for as long as it sends.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::libc;

use super::attr::{Attrs, Message};
use super::{Error, Reply, Socket};

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_TUPLE_ZONE: u16 = 3;

/// A tracked connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The transport protocol.
    pub protocol: u8,
    /// Where the first packet came from.
    pub source: (IpAddr, u16),
    /// Where the first packet was addressed to, before translation.
    pub destination: (IpAddr, u16),
    /// Where answers come from: the endpoint, after translation.
    pub endpoint: (IpAddr, u16),
    family: u8,
    tuple: Vec<u8>,
    id: Vec<u8>,
    zone: Option<Vec<u8>>,
}

impl Socket {
    /// All tracked connections of a protocol.
    pub fn connections(&mut self, protocol: u8) -> Result<Vec<Connection>, Error> {
        let mut out = Vec::new();
        for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
            let message = Message::new(GET, 0).raw(&[family, 0, 0, 0]);
            let replies = match self.dump("list connections", message) {
                Ok(replies) => replies,
                // A kernel without conntrack loaded tracks nothing.
                Err(error) if error.errno() == Some(nix::errno::Errno::EINVAL) => continue,
                Err(error) => return Err(error),
            };
            out.extend(replies.iter().filter_map(connection).filter(|c| c.protocol == protocol));
        }
        Ok(out)
    }

    /// Forgets a connection; one that is gone already is no error.
    pub fn delete_connection(&mut self, connection: &Connection) -> Result<(), Error> {
        const NLA_F_NESTED: u16 = 0x8000;
        let mut message = Message::new(DELETE, 0)
            .raw(&[connection.family, 0, 0, 0])
            .attr(CTA_TUPLE_ORIG | NLA_F_NESTED, &connection.tuple)
            .attr(CTA_ID, &connection.id);
        if let Some(zone) = &connection.zone {
            message.put(CTA_ZONE, zone);
        }
        match self.request("delete connection", message) {
            Err(error) if !error.is_absent() => Err(error),
            _ => Ok(()),
        }
    }
}

struct Tuple {
    protocol: u8,
    source: (IpAddr, u16),
    destination: (IpAddr, u16),
}

fn connection(reply: &Reply) -> Option<Connection> {
    let attrs = Attrs::new(reply.payload.get(4..)?);
    let bytes = attrs.find(CTA_TUPLE_ORIG)?;
    let original = tuple(Attrs::new(bytes))?;
    let answer = tuple(attrs.nested(CTA_TUPLE_REPLY)?)?;
    Some(Connection {
        protocol: original.protocol,
        source: original.source,
        destination: original.destination,
        endpoint: answer.source,
        family: *reply.payload.first()?,
        tuple: bytes.to_vec(),
        id: attrs.find(CTA_ID)?.to_vec(),
        zone: attrs.find(CTA_ZONE).or_else(|| Attrs::new(bytes).find(CTA_TUPLE_ZONE)).map(<[u8]>::to_vec),
    })
}

fn tuple(attrs: Attrs<'_>) -> Option<Tuple> {
    let ip = attrs.nested(CTA_TUPLE_IP)?;
    let proto = attrs.nested(CTA_TUPLE_PROTO)?;
    let v4 = |kind| {
        let bytes: [u8; 4] = ip.find(kind)?.try_into().ok()?;
        Some(IpAddr::from(Ipv4Addr::from(bytes)))
    };
    let v6 = |kind| {
        let bytes: [u8; 16] = ip.find(kind)?.try_into().ok()?;
        Some(IpAddr::from(Ipv6Addr::from(bytes)))
    };
    // Protocols without ports (ICMP) have none of the attributes.
    let port = |kind| proto.find(kind).and_then(|b| b.try_into().ok()).map_or(0, u16::from_be_bytes);
    Some(Tuple {
        protocol: *proto.find(1)?.first()?,
        source: (v4(1).or_else(|| v6(3))?, port(2)),
        destination: (v4(2).or_else(|| v6(4))?, port(3)),
    })
}
