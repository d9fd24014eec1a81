//! Sets of numbers as sorted, disjoint, inclusive ranges.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// An inclusive range.
pub type Range = (u32, u32);

/// Sorted, disjoint, not adjacent ranges with the same numbers.
pub fn merged(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.sort_unstable();
    let mut out: Vec<Range> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match out.last_mut() {
            Some(previous) if first <= previous.1.saturating_add(1) => {
                previous.1 = previous.1.max(last);
            }
            _ => out.push((first, last)),
        }
    }
    out
}

/// The numbers of merged `ranges` that are not in merged `holes`.
pub fn without(ranges: &[Range], holes: &[Range]) -> Vec<Range> {
    let mut out = Vec::new();
    for (first, last) in ranges {
        let mut next = *first;
        let mut rest = true;
        for (from, to) in holes {
            if *to < next || *from > *last {
                continue;
            }
            if *from > next {
                out.push((next, from - 1));
            }
            match to.checked_add(1) {
                Some(after) if after <= *last => next = after,
                _ => {
                    rest = false;
                    break;
                }
            }
        }
        if rest {
            out.push((next, *last));
        }
    }
    out
}

/// All addresses of a network.
pub fn of(net: Ipv4Net) -> Range {
    (u32::from(net.network()), u32::from(net.broadcast()))
}

/// One address.
pub fn one(ip: Ipv4Addr) -> Range {
    (u32::from(ip), u32::from(ip))
}
