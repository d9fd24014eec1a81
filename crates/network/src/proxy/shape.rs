//! The chains that pick an endpoint.
//!
//! Frontends with as many endpoints and the same masquerading share one chain, their [`Shape`]. A frontend
//! with `ClientIP` affinity has a chain of its own, [`Sticky`], with a rule for each endpoint.

use std::fmt;
use std::net::Ipv4Addr;

use super::base::{AFFINITY, ENDPOINTS, Layout, destination, port_key, set_mark, source, within};
use super::endpoints::Target;
use crate::netlink::nft::{Chain, Cmp, Expr, Family, Rule};

/// By what a frontend is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum By {
    /// Destination address, protocol and port.
    Address,
    /// Protocol and port of any of the node's addresses.
    NodePort,
}

/// Which endpoints of a frontend: `externalTrafficPolicy: Local` has two lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Those for clients inside the cluster, or for everybody.
    Inside,
    /// Those for clients outside.
    Outside,
}

impl Scope {
    /// The first number of the scope's endpoints.
    pub fn number(self) -> u32 {
        match self {
            Scope::Inside => 0,
            Scope::Outside => 1 << 16,
        }
    }
}

/// Whose source address is replaced by the node's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Masquerade {
    /// Nobody's.
    Never,
    /// Everybody's but Pods'.
    Foreign,
    /// Everybody's.
    Always,
}

/// How an endpoint is picked, apart from which ones there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shape {
    /// By what the frontend is looked up.
    pub by: By,
    /// Which endpoints.
    pub scope: Scope,
    /// How many endpoints there are (1 to [`MAX_ENDPOINTS`]).
    pub endpoints: u32,
    /// Whose source is replaced.
    pub masquerade: Masquerade,
}

/// How a frontend with affinity picks: also which endpoints there are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sticky {
    /// The shape without affinity, for clients that no longer fit into the affinity set.
    pub shape: Shape,
    /// Address (zero for a node port), protocol and port.
    pub frontend: (Ipv4Addr, u8, u16),
    /// How long a client is sent to the same endpoint after its last connection, in seconds.
    pub timeout: u32,
    /// The endpoints.
    pub targets: Vec<Target>,
}

/// A chain that picks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Picker {
    /// Shared.
    Shape(Shape),
    /// A frontend's own.
    Sticky(Box<Sticky>),
}

/// Most endpoints of one frontend that are used; EndpointSlices of larger Services are used in part.
pub const MAX_ENDPOINTS: usize = 65_535;

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = match self.by {
            By::Address => "pick",
            By::NodePort => "pick-port",
        };
        write!(f, "{by}-{}", self.endpoints)?;
        if self.scope == Scope::Outside {
            write!(f, "-outside")?;
        }
        match self.masquerade {
            Masquerade::Never => Ok(()),
            Masquerade::Foreign => write!(f, "-foreign"),
            Masquerade::Always => write!(f, "-masq"),
        }
    }
}

impl Picker {
    /// The chain's name. That of a sticky one holds a digest of its content: it never changes, it is replaced.
    pub fn name(&self) -> String {
        match self {
            Picker::Shape(shape) => shape.to_string(),
            Picker::Sticky(sticky) => {
                let (ip, protocol, port) = sticky.frontend;
                let digest = digest(&format!("{sticky:?}"));
                format!("sticky-{ip}-{protocol}-{port}-{digest:08x}")
            }
        }
    }

    /// The chain.
    pub fn chain(&self, layout: &Layout) -> Chain {
        let shape = match self {
            Picker::Shape(shape) => shape,
            Picker::Sticky(sticky) => &sticky.shape,
        };
        let mut rules: Vec<Rule> = shape.mark(layout).into_iter().collect();
        if let Picker::Sticky(sticky) = self {
            rules.extend(sticky.rules());
        }
        rules.push(shape.pick());
        Chain { name: self.name(), hook: None, rules }
    }
}

/// FNV-1a.
fn digest(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// Registers of [`Shape::pick`]: endpoint number, frontend (three), endpoint (two).
const NUMBER: u8 = 0;
const FOUND: u8 = 4;

impl Shape {
    fn mark(&self, layout: &Layout) -> Option<Rule> {
        let mark = set_mark(layout.mark);
        match self.masquerade {
            Masquerade::Never => None,
            Masquerade::Always => Some(mark),
            Masquerade::Foreign => {
                let foreign = within(source(0), layout.cluster_cidr, Cmp::Ne);
                Some([foreign, mark].concat())
            }
        }
    }

    /// Picks an endpoint at random.
    fn pick(&self) -> Rule {
        let address = match self.by {
            By::Address => destination(NUMBER + 1),
            By::NodePort => Expr::Load { reg: NUMBER + 1, value: vec![0; 4] },
        };
        let [protocol, port] = port_key(NUMBER + 2);
        vec![
            Expr::Random { modulus: self.endpoints, offset: self.scope.number(), reg: NUMBER },
            address,
            protocol,
            port,
            Expr::Lookup { set: ENDPOINTS.to_owned(), reg: NUMBER, into: Some(FOUND), invert: false },
            dnat(FOUND),
        ]
    }
}

fn dnat(reg: u8) -> Expr {
    Expr::Dnat { family: Family::Ip, address: reg, port: reg + 1 }
}

impl Sticky {
    /// For each endpoint: a client that was sent there goes there again. Then for each: a new client goes
    /// there with equal chance, and that is remembered. Either starts the client's time anew.
    fn rules(&self) -> Vec<Rule> {
        let remembered = self.targets.iter().map(|target| {
            let mut rule = self.key(*target);
            rule.push(Expr::Lookup { set: AFFINITY.to_owned(), reg: 0, into: None, invert: false });
            rule.extend(self.send());
            rule
        });
        let count = self.targets.len();
        let fresh = self.targets.iter().enumerate().map(|(position, target)| {
            let mut rule = vec![
                Expr::Random { modulus: (count - position) as u32, offset: 0, reg: 0 },
                Expr::Cmp { op: Cmp::Eq, reg: 0, value: vec![0; 4] },
            ];
            rule.extend(self.key(*target));
            rule.extend(self.send());
            rule
        });
        remembered.chain(fresh).collect()
    }

    /// The affinity set's key: client, frontend (a digest; nft knows five fields at most), endpoint (two).
    fn key(&self, (ip, port): Target) -> Vec<Expr> {
        let frontend = digest(&format!("{:?} {:?}", self.frontend, self.shape.scope));
        let load = |reg, value: &[u8]| Expr::Load { reg, value: value.to_vec() };
        vec![source(0), load(1, &frontend.to_ne_bytes()), load(2, &ip.octets()), load(3, &port.to_be_bytes())]
    }

    fn send(&self) -> [Expr; 2] {
        [Expr::Update { set: AFFINITY.to_owned(), key: 0, timeout: u64::from(self.timeout) * 1000 }, dnat(2)]
    }
}
