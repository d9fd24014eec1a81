//! nf_tables over netlink: tables, chains, sets, elements, rules and the expressions in them.
//!
//! The numbers are the kernel's (linux/netfilter/nf_tables.h); integers are in network byte order
//! unless a comment says otherwise. Registers are numbered as 32-bit words: 0 is the first.

mod encode;
mod text;

use nix::libc;

use super::attr::{Attrs, Message};
use super::{Error, Reply, Socket, flags};

const SUBSYSTEM: u16 = 10 << 8;
const NEWTABLE: u16 = SUBSYSTEM;
const GETTABLE: u16 = SUBSYSTEM | 1;
const DELTABLE: u16 = SUBSYSTEM | 2;
const NEWCHAIN: u16 = SUBSYSTEM | 3;
const DELCHAIN: u16 = SUBSYSTEM | 5;
const NEWRULE: u16 = SUBSYSTEM | 6;
const DELRULE: u16 = SUBSYSTEM | 8;
const NEWSET: u16 = SUBSYSTEM | 9;
const DELSET: u16 = SUBSYSTEM | 11;
const NEWSETELEM: u16 = SUBSYSTEM | 12;
const GETSETELEM: u16 = SUBSYSTEM | 13;
const DELSETELEM: u16 = SUBSYSTEM | 14;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

use encode::{encode, encode_element};

/// `NFTA_LIST_ELEM`.
const LIST_ELEM: u16 = 1;
/// Elements of one message: an attribute's length has 16 bits.
const CHUNK: usize = 48 * 1024;

/// Address families of tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
}

impl Family {
    /// `NFPROTO_*`.
    pub fn number(self) -> u8 {
        match self {
            Family::Ip => 2,
            Family::Ip6 => 10,
        }
    }

    /// The name `nft` uses.
    pub fn name(self) -> &'static str {
        match self {
            Family::Ip => "ip",
            Family::Ip6 => "ip6",
        }
    }
}

/// A table's name and family: what every message begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// The family.
    pub family: Family,
    /// The name.
    pub name: String,
}

/// Where a base chain hooks into the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// `filter`, `nat` or `route`.
    pub kind: &'static str,
    /// The netfilter hook.
    pub point: HookPoint,
    /// Lower runs earlier.
    pub priority: i32,
}

/// The netfilter hooks of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookPoint {
    /// Packets that arrive.
    Prerouting = 0,
    /// Packets for this host.
    Input = 1,
    /// Packets through this host.
    Forward = 2,
    /// Packets of this host.
    Output = 3,
    /// Packets that leave.
    Postrouting = 4,
}

/// A chain with its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The name.
    pub name: String,
    /// The hook, for a base chain.
    pub hook: Option<Hook>,
    /// The rules in order.
    pub rules: Vec<Rule>,
}

/// A rule: expressions evaluated from left to right until one says stop.
pub type Rule = Vec<Expr>;

/// The types of sets' fields that we use, with their kernel-independent numbers of `nft`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    /// An IPv4 address.
    Ipv4,
    /// An IPv6 address.
    Ipv6,
    /// A protocol number, one byte.
    Protocol,
    /// A port.
    Port,
    /// A number of four bytes in host order.
    Mark,
    /// An interface name, 16 bytes.
    Interface,
}

impl Field {
    fn number(self) -> u32 {
        match self {
            Field::Ipv4 => 7,
            Field::Ipv6 => 8,
            Field::Protocol => 12,
            Field::Port => 13,
            Field::Mark => 19,
            Field::Interface => 41,
        }
    }

    /// Its bytes, not padded.
    pub fn width(self) -> u32 {
        match self {
            Field::Ipv4 | Field::Mark => 4,
            Field::Ipv6 | Field::Interface => 16,
            Field::Protocol => 1,
            Field::Port => 2,
        }
    }
}

/// `nft` numbers concatenated types with six bits a field.
fn type_number(fields: &[Field]) -> u32 {
    fields.iter().fold(0, |n, f| n << 6 | f.number())
}

fn type_len(fields: &[Field]) -> u32 {
    match fields {
        [one] => one.width(),
        many => many.iter().map(|f| f.width().next_multiple_of(4)).sum(),
    }
}

/// What a set's elements carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Carries {
    /// Nothing: a set.
    Nothing,
    /// Values: a map.
    Values(Vec<Field>),
    /// Verdicts: a verdict map.
    Verdicts,
}

/// A named set, map or verdict map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// The name.
    pub name: String,
    /// The key's fields.
    pub key: Vec<Field>,
    /// What elements carry.
    pub carries: Carries,
    /// Elements are ranges.
    pub interval: bool,
    /// Rules add elements, which expire.
    pub dynamic: bool,
    /// Most elements; zero means no limit (dynamic sets must have one).
    pub size: u32,
}

impl Set {
    /// A set or map of single values that only we change.
    pub fn new(name: &str, key: &[Field], carries: Carries) -> Self {
        Self { name: name.to_owned(), key: key.to_vec(), carries, interval: false, dynamic: false, size: 0 }
    }

    /// The same with ranges as elements.
    pub fn ranges(mut self) -> Self {
        self.interval = true;
        self
    }

    /// The same, filled by rules with elements that expire.
    pub fn filled_by_rules(mut self, size: u32) -> Self {
        self.dynamic = true;
        self.size = size;
        self
    }
}

/// An element's value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Data {
    /// A set's element has none.
    Nothing,
    /// A map's value (fields padded to four bytes each).
    Value(Vec<u8>),
    /// A verdict map's verdict.
    Verdict(Verdict),
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Accept (in this chain).
    Accept,
    /// Drop.
    Drop,
    /// Go on behind the calling rule.
    Return,
    /// Evaluate a chain and come back.
    Jump(String),
    /// Evaluate a chain and do not come back.
    Goto(String),
}

/// An element: a key (or the first of a range), the last of the range, and the value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Element {
    /// The key; fields padded to four bytes each.
    pub key: Vec<u8>,
    /// The last key of a range, inclusive.
    pub key_end: Option<Vec<u8>>,
    /// The value.
    pub data: Data,
}

/// An element of a dynamic map, as it is carried over to a new table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expiring {
    /// The element.
    pub element: Element,
    /// Its time to live from each use, in milliseconds.
    pub timeout: u64,
    /// What is left of it, in milliseconds.
    pub expires: u64,
}

/// Comparison operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cmp {
    /// Equal.
    Eq = 0,
    /// Not equal.
    Ne = 1,
}

/// Expressions. `reg`s are 32-bit registers (0 to 15).
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Expr {
    /// Loads bytes of the network header.
    Network { offset: u32, len: u32, reg: u8 },
    /// Loads bytes of the transport header.
    Transport { offset: u32, len: u32, reg: u8 },
    /// Loads a property of the packet.
    Meta { key: Meta, reg: u8 },
    /// Sets the packet's mark.
    SetMark { reg: u8 },
    /// Compares a register.
    Cmp { op: Cmp, reg: u8, value: Vec<u8> },
    /// `reg = (reg & mask) ^ xor`.
    Bitwise { reg: u8, mask: Vec<u8>, xor: Vec<u8> },
    /// Looks a key up: in a set (stops when absent, or when present if `invert`), or in a map into `into`.
    Lookup { set: String, reg: u8, into: Option<u8>, invert: bool },
    /// Looks a key up in a verdict map and obeys.
    LookupVerdict { set: String, reg: u8 },
    /// Loads a constant.
    Load { reg: u8, value: Vec<u8> },
    /// Ends with a verdict.
    Verdict(Verdict),
    /// Loads a conntrack property.
    Ct { key: Ct, reg: u8 },
    /// Loads the route type of the source or destination address.
    FibType { source: bool, reg: u8 },
    /// Loads `offset + random % modulus`.
    Random { modulus: u32, offset: u32, reg: u8 },
    /// Destination NAT to the address and port in registers.
    Dnat { family: Family, address: u8, port: u8 },
    /// Source NAT to the outgoing device's address.
    Masquerade,
    /// Refuses with ICMP port unreachable.
    Reject { family: Family },
    /// Refuses a TCP packet with a reset.
    Reset,
    /// Adds an element to a dynamic set, or starts its time (in milliseconds) anew.
    Update { set: String, key: u8, timeout: u64 },
}

/// Properties of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meta {
    /// The mark, host order.
    Mark = 3,
    /// Incoming device's name, 16 bytes.
    InName = 6,
    /// Outgoing device's name, 16 bytes.
    OutName = 7,
    /// The transport protocol.
    Protocol = 16,
}

/// Properties of connections, host order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ct {
    /// State bits ([`STATE_NEW`] …).
    State = 0,
    /// Status bits ([`STATUS_DNAT`] …).
    Status = 2,
}

/// `ct state established`.
pub const STATE_ESTABLISHED: u32 = 2;
/// `ct state related`.
pub const STATE_RELATED: u32 = 4;
/// `ct state new`.
pub const STATE_NEW: u32 = 8;
/// `ct status dnat`.
pub const STATUS_DNAT: u32 = 0x20;
/// `fib … type local`.
pub const TYPE_LOCAL: u32 = 2;

fn header(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

/// The message that opens a batch.
pub fn batch_begin() -> Message {
    Message::new(BATCH_BEGIN, 0).raw(&header(0, 10))
}

/// The message that commits a batch.
pub fn batch_end() -> Message {
    Message::new(BATCH_END, 0).raw(&header(0, 10))
}

impl Table {
    fn message(&self, kind: u16, flag: u16) -> Message {
        Message::new(kind, flag).raw(&header(self.family.number(), 0)).attr_str(1, &self.name)
    }

    /// Creates the table (no error when it exists).
    pub fn create(&self) -> Message {
        self.message(NEWTABLE, flags::CREATE)
    }

    /// Deletes the table with everything in it.
    pub fn delete(&self) -> Message {
        self.message(DELTABLE, 0)
    }

    /// Creates a chain (without its rules).
    pub fn create_chain(&self, chain: &Chain) -> Message {
        let mut message = self.message(NEWCHAIN, flags::CREATE);
        message.put_str(3, &chain.name);
        if let Some(hook) = &chain.hook {
            message.put_nest(4, |m| {
                m.put_be32(1, hook.point as u32);
                m.put_be32(2, hook.priority as u32);
            });
            message.put_be32(5, libc::NF_ACCEPT as u32);
            message.put_str(7, hook.kind);
        }
        message
    }

    /// Deletes a chain that has no rules and no references.
    pub fn delete_chain(&self, name: &str) -> Message {
        let mut message = self.message(DELCHAIN, 0);
        message.put_str(3, name);
        message
    }

    /// Deletes all rules of a chain.
    pub fn flush_chain(&self, name: &str) -> Message {
        let mut message = self.message(DELRULE, 0);
        message.put_str(2, name);
        message
    }

    /// Appends a rule.
    pub fn append_rule(&self, chain: &str, rule: &Rule) -> Message {
        let mut message = self.message(NEWRULE, flags::CREATE | flags::APPEND);
        message.put_str(2, chain);
        message.put_nest(4, |m| {
            for expr in rule {
                m.put_nest(LIST_ELEM, |m| encode(expr, m));
            }
        });
        message
    }

    /// Creates a set. `id` is any number that is unique in the batch.
    pub fn create_set(&self, set: &Set, id: u32) -> Message {
        const INTERVAL: u32 = 4;
        const MAP: u32 = 8;
        const TIMEOUT: u32 = 0x10;
        const EVAL: u32 = 0x20;
        const CONCAT: u32 = 0x80;
        let mut flag = 0;
        if set.interval {
            flag |= INTERVAL;
            if set.key.len() > 1 {
                flag |= CONCAT;
            }
        }
        if set.dynamic {
            flag |= EVAL | TIMEOUT;
        }
        if set.carries != Carries::Nothing {
            flag |= MAP;
        }
        let mut message = self.message(NEWSET, flags::CREATE);
        message.put_str(2, &set.name);
        message.put_be32(3, flag);
        message.put_be32(4, type_number(&set.key));
        message.put_be32(5, type_len(&set.key));
        match &set.carries {
            Carries::Nothing => {}
            Carries::Values(fields) => {
                message.put_be32(6, type_number(fields));
                message.put_be32(7, type_len(fields));
            }
            Carries::Verdicts => {
                message.put_be32(6, 0xffff_ff00);
                message.put_be32(7, 16);
            }
        }
        message.put_be32(10, id);
        if set.size > 0 || flag & CONCAT != 0 {
            message.put_nest(9, |m| {
                if set.size > 0 {
                    m.put_be32(1, set.size);
                }
                if flag & CONCAT != 0 {
                    m.put_nest(2, |m| {
                        for field in &set.key {
                            m.put_nest(LIST_ELEM, |m| {
                                m.put_be32(1, field.width());
                            });
                        }
                    });
                }
            });
        }
        message
    }

    /// Deletes a set.
    pub fn delete_set(&self, name: &str) -> Message {
        let mut message = self.message(DELSET, 0);
        message.put_str(2, name);
        message
    }

    /// Adds elements, in as many messages as it takes.
    pub fn add_elements(&self, set: &str, elements: &[Element]) -> Vec<Message> {
        self.elements(NEWSETELEM, flags::CREATE, set, elements.iter().map(|e| (e, None)))
    }

    /// Adds elements that expire.
    pub fn add_expiring(&self, set: &str, elements: &[Expiring]) -> Vec<Message> {
        let list = elements.iter().map(|e| (&e.element, Some((e.timeout, e.expires))));
        self.elements(NEWSETELEM, flags::CREATE, set, list)
    }

    /// Deletes elements.
    pub fn delete_elements(&self, set: &str, elements: &[Element]) -> Vec<Message> {
        self.elements(DELSETELEM, 0, set, elements.iter().map(|e| (e, None)))
    }

    fn elements<'a>(
        &self,
        kind: u16,
        flag: u16,
        set: &str,
        elements: impl Iterator<Item = (&'a Element, Option<(u64, u64)>)>,
    ) -> Vec<Message> {
        let mut out = Vec::new();
        let mut elements = elements.peekable();
        while elements.peek().is_some() {
            let mut message = self.message(kind, flag);
            message.put_str(2, set);
            message.put_nest(3, |m| {
                while m.body_len() < CHUNK {
                    let Some((element, time)) = elements.next() else {
                        break;
                    };
                    m.put_nest(LIST_ELEM, |m| {
                        encode_element(element, time, kind == NEWSETELEM, m);
                    });
                }
            });
            out.push(message);
        }
        out
    }
}

/// Whether a notification says that the table was deleted.
pub fn is_deletion_of(table: &Table, kind: u16, payload: &[u8]) -> bool {
    kind == DELTABLE
        && payload.first() == Some(&table.family.number())
        && Attrs::new(payload.get(4..).unwrap_or_default()).text(1).is_some_and(|name| name == table.name)
}

impl Socket {
    /// Whether the table exists.
    pub fn table_exists(&mut self, table: &Table) -> Result<bool, Error> {
        match self.request("read table", table.message(GETTABLE, 0)) {
            Ok(_) => Ok(true),
            Err(error) if error.is_absent() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The elements of a dynamic map with their times; empty when the map does not exist.
    pub fn expiring_elements(&mut self, table: &Table, set: &str) -> Result<Vec<Expiring>, Error> {
        let mut message = table.message(GETSETELEM, 0);
        message.put_str(2, set);
        match self.dump(&format!("list elements of {set}"), message) {
            Ok(replies) => Ok(replies.iter().flat_map(expiring).collect()),
            Err(error) if error.is_absent() => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

fn expiring(reply: &Reply) -> Vec<Expiring> {
    let attrs = Attrs::new(reply.payload.get(4..).unwrap_or_default());
    let Some(list) = attrs.nested(3) else {
        return Vec::new();
    };
    let be64 = |bytes: &[u8]| Some(u64::from_be_bytes(bytes.try_into().ok()?));
    list.filter_map(|(_, bytes)| {
        let element = Attrs::new(bytes);
        let data = match element.nested(2).and_then(|d| d.find(1)) {
            Some(value) => Data::Value(value.to_vec()),
            None => Data::Nothing,
        };
        Some(Expiring {
            element: Element { key: element.nested(1)?.find(1)?.to_vec(), key_end: None, data },
            timeout: element.find(4).and_then(be64)?,
            expires: element.find(5).and_then(be64)?,
        })
    })
    .collect()
}
