//! The fixed part of the table: sets, base chains and dispatch.
//!
//! Register use in all rules: a key is loaded into consecutive registers, the result after it.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::cni::hostports;
use crate::config::Config;
use crate::netlink::nft::{
    Carries, Chain, Cmp, Ct, Expr, Family, Field, Hook, HookPoint, Meta, Rule, STATE_ESTABLISHED, STATE_NEW,
    STATE_RELATED, STATUS_DNAT, Set, TYPE_LOCAL, Verdict,
};
use crate::policy::plan::{Direction, EGRESS, INGRESS};

/// Frontends by address: to a shape's chain, or to [`LOCAL_SERVICES`].
pub const SERVICES: &str = "services";
/// The same for clients inside the cluster, of frontends with `externalTrafficPolicy: Local`.
pub const SERVICES_INSIDE: &str = "services_inside";
/// The same for clients outside the cluster.
pub const SERVICES_OUTSIDE: &str = "services_outside";
/// Frontends by node port.
pub const NODE_PORTS: &str = "node_ports";
/// The same for clients inside the cluster, with `externalTrafficPolicy: Local`.
pub const NODE_PORTS_INSIDE: &str = "node_ports_inside";
/// The same for clients outside the cluster.
pub const NODE_PORTS_OUTSIDE: &str = "node_ports_outside";
/// Numbered endpoints of frontends.
pub const ENDPOINTS: &str = "endpoints";
/// Which client was sent to which endpoint of which frontend lately.
pub const AFFINITY: &str = "affinity";
/// Frontends by address that have no endpoint.
pub const UNSERVED: &str = "unserved";
/// Node ports that have no endpoint.
pub const UNSERVED_PORTS: &str = "unserved_ports";
/// All cluster IPs.
pub const CLUSTER_IPS: &str = "cluster_ips";
/// Frontends with source ranges.
pub const RESTRICTED: &str = "restricted";
/// The source ranges.
pub const ALLOWED: &str = "allowed";

/// Chain that refuses.
pub const REJECT: &str = "reject";
/// Chain that divides clients of `externalTrafficPolicy: Local` addresses.
pub const LOCAL_SERVICES: &str = "local-services";
/// Chain that divides clients of `externalTrafficPolicy: Local` node ports.
pub const LOCAL_PORTS: &str = "local-ports";

/// Most clients whose affinity is remembered; more are balanced without affinity.
const MAX_AFFINITY: u32 = 65_536;

/// What the fixed part depends on.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The bridge's name.
    pub bridge: String,
    /// The mark bit that asks for masquerading.
    pub mark: u32,
    /// All Pods.
    pub cluster_cidr: Ipv4Net,
    /// This node's Pods.
    pub pod_cidr: Ipv4Net,
    /// All cluster IPs.
    pub service_cidr: Ipv4Net,
}

impl Layout {
    /// The layout of a configuration whose Pod range is known.
    pub fn of(config: &Config) -> Option<Self> {
        Some(Self {
            bridge: config.bridge.clone(),
            mark: config.masquerade_mark(),
            cluster_cidr: config.cluster_cidr,
            pod_cidr: config.pod_cidr?,
            service_cidr: config.service_cidr,
        })
    }
}

const FRONTEND: [Field; 3] = [Field::Ipv4, Field::Protocol, Field::Port];
const PORT: [Field; 2] = [Field::Protocol, Field::Port];

/// The sets, maps and verdict maps.
pub fn sets() -> Vec<Set> {
    let target = || Carries::Values(vec![Field::Ipv4, Field::Port]);
    let frontend = |name| Set::new(name, &FRONTEND, Carries::Verdicts);
    let port = |name| Set::new(name, &PORT, Carries::Verdicts);
    let numbered = [Field::Mark, Field::Ipv4, Field::Protocol, Field::Port];
    let client = [Field::Ipv4, Field::Mark, Field::Ipv4, Field::Port];
    let mut sets = vec![
        frontend(SERVICES),
        frontend(SERVICES_INSIDE),
        frontend(SERVICES_OUTSIDE),
        port(NODE_PORTS),
        port(NODE_PORTS_INSIDE),
        port(NODE_PORTS_OUTSIDE),
        Set::new(ENDPOINTS, &numbered, target()),
        Set::new(AFFINITY, &client, Carries::Nothing).filled_by_rules(MAX_AFFINITY),
        frontend(UNSERVED),
        port(UNSERVED_PORTS),
        Set::new(CLUSTER_IPS, &[Field::Ipv4], Carries::Nothing),
        Set::new(RESTRICTED, &FRONTEND, Carries::Nothing),
        Set::new(ALLOWED, &[Field::Ipv4, Field::Ipv4, Field::Protocol, Field::Port], Carries::Nothing).ranges(),
    ];
    for map in [INGRESS, EGRESS] {
        sets.push(Set::new(map, &[Field::Ipv4], Carries::Verdicts));
    }
    sets.extend(hostports::sets());
    sets
}

/// Loads the source address.
pub fn source(reg: u8) -> Expr {
    Expr::Network { offset: 12, len: 4, reg }
}

/// Loads the destination address.
pub fn destination(reg: u8) -> Expr {
    Expr::Network { offset: 16, len: 4, reg }
}

/// Loads transport protocol and destination port.
pub fn port_key(reg: u8) -> [Expr; 2] {
    [Expr::Meta { key: Meta::Protocol, reg }, Expr::Transport { offset: 2, len: 2, reg: reg + 1 }]
}

/// Loads destination address, transport protocol and destination port.
fn frontend_key(reg: u8) -> Vec<Expr> {
    let [protocol, port] = port_key(reg + 1);
    vec![destination(reg), protocol, port]
}

/// Goes on only for addresses in (or not in) the range.
pub fn within(load: Expr, net: Ipv4Net, op: Cmp) -> Vec<Expr> {
    let reg = match load {
        Expr::Network { reg, .. } => reg,
        _ => 0,
    };
    vec![
        load,
        Expr::Bitwise { reg, mask: net.netmask().octets().to_vec(), xor: vec![0; 4] },
        Expr::Cmp { op, reg, value: net.network().octets().to_vec() },
    ]
}

/// Goes on only when one of the (host-order) bits is set in what `load` loads into register 0.
pub fn any_bit(load: Expr, bits: u32) -> Vec<Expr> {
    vec![
        load,
        Expr::Bitwise { reg: 0, mask: bits.to_ne_bytes().to_vec(), xor: vec![0; 4] },
        Expr::Cmp { op: Cmp::Ne, reg: 0, value: vec![0; 4] },
    ]
}

/// Sets the mark that asks for masquerading.
pub fn set_mark(mark: u32) -> Rule {
    vec![
        Expr::Meta { key: Meta::Mark, reg: 0 },
        Expr::Bitwise { reg: 0, mask: (!mark).to_ne_bytes().to_vec(), xor: mark.to_ne_bytes().to_vec() },
        Expr::SetMark { reg: 0 },
    ]
}

/// Compares a device name.
pub fn device(key: Meta, name: &str, op: Cmp) -> [Expr; 2] {
    let mut value = name.as_bytes().to_vec();
    value.resize(16, 0);
    [Expr::Meta { key, reg: 0 }, Expr::Cmp { op, reg: 0, value }]
}

fn local(source: bool) -> [Expr; 2] {
    [Expr::FibType { source, reg: 0 }, Expr::Cmp { op: Cmp::Eq, reg: 0, value: TYPE_LOCAL.to_ne_bytes().to_vec() }]
}

fn vmap(key: Vec<Expr>, set: &str) -> Vec<Expr> {
    let mut rule = key;
    rule.push(Expr::LookupVerdict { set: set.to_owned(), reg: 0 });
    rule
}

fn dnat(key: Vec<Expr>, set: &str, into: u8) -> Vec<Expr> {
    let mut rule = key;
    rule.push(Expr::Lookup { set: set.to_owned(), reg: 0, into: Some(into), invert: false });
    rule.push(Expr::Dnat { family: Family::Ip, address: into, port: into + 1 });
    rule
}

fn rule<const N: usize>(parts: [Vec<Expr>; N]) -> Rule {
    parts.concat()
}

/// A chain without hook.
pub fn plain(name: &str, rules: Vec<Rule>) -> Chain {
    Chain { name: name.to_owned(), hook: None, rules }
}

fn hooked(name: &str, kind: &'static str, point: HookPoint, priority: i32, rules: Vec<Rule>) -> Chain {
    Chain { name: name.to_owned(), hook: Some(Hook { kind, point, priority }), rules }
}

fn to(verdict: Verdict) -> Vec<Expr> {
    vec![Expr::Verdict(verdict)]
}

const LOOPBACK: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);

/// The chains that do not depend on Services.
pub fn chains(layout: &Layout) -> Vec<Chain> {
    let reject = Expr::Reject { family: Family::Ip };
    let status = || Expr::Ct { key: Ct::Status, reg: 0 };
    let fresh = || {
        let state = Expr::Ct { key: Ct::State, reg: 0 };
        rule([any_bit(state, STATE_NEW), to(Verdict::Jump("check".into()))])
    };
    let ports = || port_key(0).to_vec();
    vec![
        plain(REJECT, vec![vec![reject.clone()]]),
        services(),
        divide(LOCAL_SERVICES, layout, &frontend_key(0), SERVICES_INSIDE, SERVICES_OUTSIDE),
        divide(LOCAL_PORTS, layout, &ports(), NODE_PORTS_INSIDE, NODE_PORTS_OUTSIDE),
        firewall(),
        plain(
            "check",
            vec![
                // What was translated is served; its new destination must not be mistaken for a frontend.
                rule([any_bit(status(), STATUS_DNAT), to(Verdict::Return)]),
                vmap(frontend_key(0), UNSERVED),
                rule([local(false).to_vec(), vmap(ports(), UNSERVED_PORTS)]),
                // A cluster IP at a port that no Service has, and cluster IPs that no Service has.
                vec![
                    destination(0),
                    Expr::Lookup { set: CLUSTER_IPS.to_owned(), reg: 0, into: None, invert: false },
                    reject.clone(),
                ],
                rule([within(destination(0), layout.service_cidr, Cmp::Eq), vec![reject]]),
            ],
        ),
        // The bridge routes loopback addresses for node ports at 127.0.0.1; nobody may come in that way.
        hooked(
            "guard-loopback",
            "filter",
            HookPoint::Prerouting,
            -300,
            vec![rule([
                device(Meta::InName, "lo", Cmp::Ne).to_vec(),
                within(destination(0), LOOPBACK, Cmp::Eq),
                to(Verdict::Drop),
            ])],
        ),
        hooked(
            "firewall-prerouting",
            "filter",
            HookPoint::Prerouting,
            -110,
            vec![to(Verdict::Jump("firewall".into()))],
        ),
        hooked("firewall-output", "filter", HookPoint::Output, -110, vec![to(Verdict::Jump("firewall".into()))]),
        hooked("prerouting", "nat", HookPoint::Prerouting, -100, vec![to(Verdict::Jump("dispatch".into()))]),
        hooked("output", "nat", HookPoint::Output, -100, vec![to(Verdict::Jump("dispatch".into()))]),
        hooked("postrouting", "nat", HookPoint::Postrouting, 100, masquerading(layout)),
        hooked("filter-input", "filter", HookPoint::Input, 0, vec![fresh()]),
        hooked("filter-forward", "filter", HookPoint::Forward, 0, vec![fresh()]),
        hooked("policy", "filter", HookPoint::Forward, 1, policies()),
        hooked("filter-output", "filter", HookPoint::Output, 0, vec![fresh(), no_redirects(layout)]),
    ]
}

fn services() -> Chain {
    let at_host = |key: Vec<Expr>| rule([local(false).to_vec(), key]);
    plain(
        "dispatch",
        vec![
            vmap(frontend_key(0), SERVICES),
            at_host(vmap(port_key(0).to_vec(), NODE_PORTS)),
            at_host(dnat(frontend_key(0), hostports::ONE, 3)),
            at_host(dnat(port_key(0).to_vec(), hostports::ANY, 2)),
        ],
    )
}

/// Clients inside the cluster may use all endpoints; those outside only the ones on this node.
fn divide(name: &str, layout: &Layout, key: &[Expr], inside: &str, outside: &str) -> Chain {
    plain(
        name,
        vec![
            rule([within(source(0), layout.cluster_cidr, Cmp::Eq), vmap(key.to_vec(), inside)]),
            rule([local(true).to_vec(), vmap(key.to_vec(), inside)]),
            vmap(key.to_vec(), outside),
        ],
    )
}

fn firewall() -> Chain {
    let mut key = vec![source(0)];
    key.extend(frontend_key(1));
    let lookup = |set: &str, reg, invert| Expr::Lookup { set: set.to_owned(), reg, into: None, invert };
    plain(
        "firewall",
        vec![rule([key, vec![lookup(RESTRICTED, 1, false), lookup(ALLOWED, 0, true)], to(Verdict::Drop)])],
    )
}

fn masquerading(layout: &Layout) -> Vec<Rule> {
    let mark = Expr::Meta { key: Meta::Mark, reg: 0 };
    let translated = || any_bit(Expr::Ct { key: Ct::Status, reg: 0 }, STATUS_DNAT);
    let clear = vec![
        mark.clone(),
        Expr::Bitwise { reg: 0, mask: (!layout.mark).to_ne_bytes().to_vec(), xor: vec![0; 4] },
        Expr::SetMark { reg: 0 },
        Expr::Masquerade,
    ];
    let itself = vec![
        source(0),
        destination(1),
        Expr::Lookup { set: hostports::HAIRPIN.to_owned(), reg: 0, into: None, invert: false },
        Expr::Masquerade,
    ];
    vec![
        rule([any_bit(mark, layout.mark), clear]),
        // A Pod that reaches itself would answer itself directly.
        rule([translated(), itself]),
        // Host ports at 127.0.0.1.
        rule([translated(), within(source(0), LOOPBACK, Cmp::Eq), vec![Expr::Masquerade]]),
        // Pods are known inside the cluster only.
        rule([
            within(source(0), layout.pod_cidr, Cmp::Eq),
            within(destination(0), layout.cluster_cidr, Cmp::Ne),
            device(Meta::OutName, &layout.bridge, Cmp::Ne).to_vec(),
            vec![Expr::Masquerade],
        ]),
    ]
}

/// New connections through the host: first the source's policies, then the destination's. Both may only drop.
fn policies() -> Vec<Rule> {
    let state = Expr::Ct { key: Ct::State, reg: 0 };
    let itself = Expr::Lookup { set: hostports::HAIRPIN.to_owned(), reg: 0, into: None, invert: false };
    vec![
        rule([any_bit(state, STATE_ESTABLISHED | STATE_RELATED), to(Verdict::Accept)]),
        // A Pod cannot be kept from itself.
        vec![source(0), destination(1), itself, Expr::Verdict(Verdict::Accept)],
        vmap(vec![source(0)], EGRESS),
        vmap(vec![destination(0)], INGRESS),
    ]
}

/// The chain of a Pod's policies: one of the sets must have the connection's peer, protocol and port.
pub fn policy_chain(name: &str, direction: Direction, sets: &BTreeSet<String>) -> Chain {
    let peer = match direction {
        Direction::Ingress => source(0),
        Direction::Egress => destination(0),
    };
    let mut rules: Vec<Rule> = sets
        .iter()
        .map(|set| {
            let [protocol, port] = port_key(1);
            let lookup = Expr::Lookup { set: set.clone(), reg: 0, into: None, invert: false };
            let found = Expr::Verdict(Verdict::Return);
            vec![peer.clone(), protocol, port, lookup, found]
        })
        .collect();
    rules.push(to(Verdict::Drop));
    plain(name, rules)
}

/// Pods of one node are routed through the bridge and back: the kernel would advise against it.
fn no_redirects(layout: &Layout) -> Rule {
    const ICMP: u8 = 1;
    const REDIRECT: u8 = 5;
    let equals = |value: u8| Expr::Cmp { op: Cmp::Eq, reg: 0, value: vec![value] };
    rule([
        device(Meta::OutName, &layout.bridge, Cmp::Eq).to_vec(),
        vec![
            Expr::Meta { key: Meta::Protocol, reg: 0 },
            equals(ICMP),
            Expr::Transport { offset: 0, len: 1, reg: 0 },
            equals(REDIRECT),
        ],
        to(Verdict::Drop),
    ])
}
