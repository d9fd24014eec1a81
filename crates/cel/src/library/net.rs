//! IP addresses and CIDR ranges.

use super::{Called, library};
use crate::eval::{Evaluator, fail};
use crate::ops::text_cost;
use crate::value::{Library, Val};
use caravel_api::names::{cidr_contains, network_address, parse_cidr};
use std::net::IpAddr;

/// Strict: no zones, no IPv4 in IPv6, no leading zeros.
fn parse_ip(text: &str) -> Result<IpAddr, String> {
    if text.contains('%') {
        return Err(format!("IP address {text:?} with zone value is not allowed"));
    }
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => {
            Err(format!("IPv4-mapped IPv6 address {text:?} is not allowed"))
        }
        Ok(ip) => Ok(ip),
        Err(_) => Err(format!("IP Address {text:?} parse error during conversion from string: unable to parse IP")),
    }
}

pub(super) fn call<'a>(evaluator: &Evaluator<'a, '_>, name: &str, args: &[Val<'a>]) -> Called<'a> {
    if let (true, [Val::String(text)]) = (matches!(name, "ip" | "isIP" | "ip.isCanonical" | "cidr" | "isCIDR"), args) {
        let text = text.as_str();
        if let Err(error) = evaluator.charge(text_cost(text.len())) {
            return Some(Err(error));
        }
        return Some(match name {
            "isIP" => Ok(Val::Bool(parse_ip(text).is_ok())),
            "ip" => parse_ip(text).map_or_else(fail, |ip| Ok(Val::library(Library::Ip(ip)))),
            "ip.isCanonical" => parse_ip(text).map_or_else(fail, |ip| Ok(Val::Bool(ip.to_string() == text))),
            "isCIDR" => Ok(Val::Bool(parse_cidr(text).is_some())),
            _ => match parse_cidr(text) {
                Some((ip, length)) => Ok(Val::library(Library::Cidr(ip, length))),
                None => fail(format!("network address parse error during conversion from string: {text:?}")),
            },
        });
    }
    match library(args)? {
        Library::Ip(ip) => on_ip(*ip, name),
        Library::Cidr(ip, length) => on_cidr((*ip, *length), name, &args[1..]),
        _ => None,
    }
    .map(Ok)
}

fn on_ip<'a>(ip: IpAddr, name: &str) -> Option<Val<'a>> {
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => (v6.segments()[0] & 0xffc0) == 0xfe80,
    };
    let link_local_multicast = match ip {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => (v6.segments()[0] & 0xff0f) == 0xff02,
    };
    Some(match name {
        "family" => Val::Int(if ip.is_ipv4() { 4 } else { 6 }),
        "isUnspecified" => Val::Bool(ip.is_unspecified()),
        "isLoopback" => Val::Bool(ip.is_loopback()),
        "isLinkLocalMulticast" => Val::Bool(link_local_multicast),
        "isLinkLocalUnicast" => Val::Bool(link_local),
        "isGlobalUnicast" => {
            let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
            Val::Bool(!(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || link_local || broadcast))
        }
        _ => return None,
    })
}

fn on_cidr<'a>((ip, length): (IpAddr, u8), name: &str, rest: &[Val<'a>]) -> Option<Val<'a>> {
    let contains = |(address, inner): (IpAddr, u8)| {
        address.is_ipv4() == ip.is_ipv4()
            && inner >= length
            && cidr_contains((network_address(ip, length), length), address)
    };
    let full = |ip: IpAddr| (ip, if ip.is_ipv4() { 32 } else { 128 });
    Some(match (name, rest) {
        ("ip", []) => Val::library(Library::Ip(ip)),
        ("prefixLength", []) => Val::Int(length.into()),
        ("masked", []) => Val::library(Library::Cidr(network_address(ip, length), length)),
        ("containsIP", [Val::String(text)]) => Val::Bool(parse_ip(text.as_str()).is_ok_and(|ip| contains(full(ip)))),
        ("containsCIDR", [Val::String(text)]) => Val::Bool(parse_cidr(text.as_str()).is_some_and(contains)),
        ("containsIP" | "containsCIDR", [Val::Library(other)]) => match &**other {
            Library::Ip(ip) => Val::Bool(contains(full(*ip))),
            Library::Cidr(ip, length) => Val::Bool(contains((*ip, *length))),
            _ => return None,
        },
        _ => return None,
    })
}
