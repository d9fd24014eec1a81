//! Elements and expressions as attributes.

use nix::libc;

use super::super::attr::Message;
use super::{Data, Element, Expr, Family, Meta, Verdict};

pub(super) fn encode_element(element: &Element, time: Option<(u64, u64)>, adding: bool, m: &mut Message) {
    m.put_nest(1, |m| {
        m.put(1, &element.key);
    });
    if let Some(end) = &element.key_end {
        m.put_nest(10, |m| {
            m.put(1, end);
        });
    }
    if !adding {
        return;
    }
    if let Some((timeout, expires)) = time {
        m.put(4, &timeout.to_be_bytes());
        m.put(5, &expires.to_be_bytes());
    }
    match &element.data {
        Data::Nothing => {}
        Data::Value(value) => {
            m.put_nest(2, |m| {
                m.put(1, value);
            });
        }
        Data::Verdict(verdict) => {
            m.put_nest(2, |m| encode_verdict(verdict, m));
        }
    }
}

fn encode_verdict(verdict: &Verdict, m: &mut Message) {
    let (code, chain) = match verdict {
        Verdict::Drop => (libc::NF_DROP, None),
        Verdict::Accept => (libc::NF_ACCEPT, None),
        Verdict::Return => (-5, None),
        Verdict::Jump(chain) => (-3, Some(chain)),
        Verdict::Goto(chain) => (-4, Some(chain)),
    };
    m.put_nest(2, |m| {
        m.put_be32(1, code as u32);
        if let Some(chain) = chain {
            m.put_str(2, chain);
        }
    });
}

/// The number of a 32-bit register in the kernel's numbering.
fn register(reg: u8) -> u32 {
    8 + u32::from(reg)
}

pub(super) fn encode(expr: &Expr, m: &mut Message) {
    m.put_str(1, kernel_name(expr));
    m.put_nest(2, |m| encode_data(expr, m));
}

fn kernel_name(expr: &Expr) -> &'static str {
    match expr {
        Expr::Network { .. } | Expr::Transport { .. } => "payload",
        Expr::Meta { .. } | Expr::SetMark { .. } => "meta",
        Expr::Cmp { .. } => "cmp",
        Expr::Bitwise { .. } => "bitwise",
        Expr::Lookup { .. } | Expr::LookupVerdict { .. } => "lookup",
        Expr::Load { .. } | Expr::Verdict(_) => "immediate",
        Expr::Ct { .. } => "ct",
        Expr::FibType { .. } => "fib",
        Expr::Random { .. } => "numgen",
        Expr::Dnat { .. } => "nat",
        Expr::Masquerade => "masq",
        Expr::Reject { .. } | Expr::Reset => "reject",
        Expr::Update { .. } => "dynset",
    }
}

fn value(kind: u16, bytes: &[u8], m: &mut Message) {
    m.put_nest(kind, |m| {
        m.put(1, bytes);
    });
}

fn payload(base: u32, offset: u32, len: u32, reg: u8, m: &mut Message) {
    m.put_be32(1, register(reg)).put_be32(2, base).put_be32(3, offset).put_be32(4, len);
}

fn encode_data(expr: &Expr, m: &mut Message) {
    match expr {
        Expr::Network { offset, len, reg } => payload(1, *offset, *len, *reg, m),
        Expr::Transport { offset, len, reg } => payload(2, *offset, *len, *reg, m),
        Expr::Meta { key, reg } => {
            m.put_be32(1, register(*reg)).put_be32(2, *key as u32);
        }
        Expr::SetMark { reg } => {
            m.put_be32(2, Meta::Mark as u32).put_be32(3, register(*reg));
        }
        Expr::Cmp { op, reg, value: v } => {
            m.put_be32(1, register(*reg)).put_be32(2, *op as u32);
            value(3, v, m);
        }
        Expr::Bitwise { reg, mask, xor } => {
            m.put_be32(1, register(*reg)).put_be32(2, register(*reg)).put_be32(3, mask.len() as u32);
            value(4, mask, m);
            value(5, xor, m);
        }
        Expr::Lookup { set, reg, into, invert } => {
            m.put_str(1, set).put_be32(2, register(*reg));
            if let Some(into) = into {
                m.put_be32(3, register(*into));
            }
            if *invert {
                m.put_be32(5, 1);
            }
        }
        Expr::LookupVerdict { set, reg } => {
            m.put_str(1, set).put_be32(2, register(*reg)).put_be32(3, 0);
        }
        Expr::Load { reg, value: v } => {
            m.put_be32(1, register(*reg));
            value(2, v, m);
        }
        Expr::Verdict(verdict) => {
            m.put_be32(1, 0);
            m.put_nest(2, |m| encode_verdict(verdict, m));
        }
        Expr::Ct { key, reg } => {
            m.put_be32(1, register(*reg)).put_be32(2, *key as u32);
        }
        Expr::FibType { source, reg } => {
            let flag = if *source { 1 } else { 2 };
            m.put_be32(1, register(*reg)).put_be32(2, 3).put_be32(3, flag);
        }
        Expr::Random { modulus, offset, reg } => {
            m.put_be32(1, register(*reg)).put_be32(2, *modulus).put_be32(3, 1).put_be32(4, *offset);
        }
        Expr::Dnat { family, address, port } => {
            m.put_be32(1, 1)
                .put_be32(2, u32::from(family.number()))
                .put_be32(3, register(*address))
                .put_be32(5, register(*port));
        }
        Expr::Masquerade => {
            const RANDOM_FULLY: u32 = 1 << 4;
            m.put_be32(1, RANDOM_FULLY);
        }
        Expr::Reject { family } => {
            // Port unreachable is code 3 in ICMP and 4 in ICMPv6.
            let code = if *family == Family::Ip { 3 } else { 4 };
            m.put_be32(1, 0).put(2, &[code]);
        }
        Expr::Reset => {
            m.put_be32(1, 1);
        }
        Expr::Update { set, key, timeout } => {
            const UPDATE: u32 = 1;
            m.put_str(1, set).put_be32(3, UPDATE).put_be32(4, register(*key)).put(6, &timeout.to_be_bytes());
        }
    }
}
