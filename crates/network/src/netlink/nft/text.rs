//! Sets, verdicts and expressions as text: for golden tests and for people.

use std::fmt;

use super::{Carries, Expr, Field, Set, Verdict};

impl Field {
    fn name(self) -> &'static str {
        match self {
            Field::Ipv4 => "ipv4_addr",
            Field::Ipv6 => "ipv6_addr",
            Field::Protocol => "inet_proto",
            Field::Port => "inet_service",
            Field::Mark => "mark",
            Field::Interface => "ifname",
        }
    }
}

fn type_name(fields: &[Field]) -> String {
    let names: Vec<_> = fields.iter().map(|f| f.name()).collect();
    names.join(" . ")
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.carries {
            Carries::Nothing => write!(f, "set {} {{ {}", self.name, type_name(&self.key))?,
            Carries::Values(v) => write!(f, "map {} {{ {} : {}", self.name, type_name(&self.key), type_name(v))?,
            Carries::Verdicts => write!(f, "map {} {{ {} : verdict", self.name, type_name(&self.key))?,
        }
        if self.interval {
            write!(f, "; interval")?;
        }
        if self.dynamic {
            write!(f, "; dynamic, timeout, size {}", self.size)?;
        }
        write!(f, " }}")
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Accept => write!(f, "accept"),
            Verdict::Drop => write!(f, "drop"),
            Verdict::Return => write!(f, "return"),
            Verdict::Jump(chain) => write!(f, "jump {chain}"),
            Verdict::Goto(chain) => write!(f, "goto {chain}"),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expr::Network { offset, len, reg } => write!(f, "r{reg} = ip[{offset}+{len}]"),
            Expr::Transport { offset, len, reg } => write!(f, "r{reg} = th[{offset}+{len}]"),
            Expr::Meta { key, reg } => write!(f, "r{reg} = meta {key:?}"),
            Expr::SetMark { reg } => write!(f, "meta Mark = r{reg}"),
            Expr::Cmp { op, reg, value } => write!(f, "r{reg} {op:?} {}", hex(value)),
            Expr::Bitwise { reg, mask, xor } => {
                write!(f, "r{reg} = (r{reg} & {}) ^ {}", hex(mask), hex(xor))
            }
            Expr::Lookup { set, reg, into, invert } => {
                let not = if *invert { "not " } else { "" };
                write!(f, "{not}r{reg} in @{set}")?;
                into.map_or(Ok(()), |into| write!(f, " => r{into}"))
            }
            Expr::LookupVerdict { set, reg } => write!(f, "r{reg} vmap @{set}"),
            Expr::Load { reg, value } => write!(f, "r{reg} = {}", hex(value)),
            Expr::Verdict(verdict) => write!(f, "{verdict}"),
            Expr::Ct { key, reg } => write!(f, "r{reg} = ct {key:?}"),
            Expr::FibType { source, reg } => {
                let side = if *source { "saddr" } else { "daddr" };
                write!(f, "r{reg} = fib {side} type")
            }
            Expr::Random { modulus, offset, reg } => {
                write!(f, "r{reg} = {offset:#x} + random % {modulus}")
            }
            Expr::Dnat { address, port, .. } => write!(f, "dnat r{address}:r{port}"),
            Expr::Masquerade => write!(f, "masquerade"),
            Expr::Reject { .. } => write!(f, "reject"),
            Expr::Reset => write!(f, "reject with tcp reset"),
            Expr::Update { set, key, timeout } => {
                write!(f, "update @{set} r{key} for {timeout} ms")
            }
        }
    }
}
