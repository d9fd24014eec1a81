//! The cluster's zone: what a name stands for. Pure.
//!
//! Rules: the Kubernetes DNS specification 1.1.0 (kubernetes/dns, docs/specification.md). Where it leaves a
//! choice, this is what CoreDNS does: names of headless Services without ready endpoints do not exist, and
//! endpoints of other Services have names too.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use hickory_proto::ProtoError;
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use super::catalog::{Catalog, owner};

/// Time to live of all answers, in seconds: endpoints change, and asking again is cheap.
pub const TTL: u32 = 5;
/// The specification's version.
const VERSION: &str = "1.1.0";

/// What a name of the zone stands for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// Whether the name exists.
    pub exists: bool,
    /// Records of the type asked for.
    pub records: Vec<Record>,
    /// Records that save the next question.
    pub additional: Vec<Record>,
    /// The name is an alias of this one (an ExternalName).
    pub alias: Option<Name>,
}

/// The zone's names.
#[derive(Clone, Debug)]
pub struct Zone {
    origin: Name,
    dns_ip: Ipv4Addr,
}

/// A Service's endpoint for DNS.
struct Host {
    label: String,
    addresses: Vec<IpAddr>,
}

impl Zone {
    /// The zone of a cluster domain.
    pub fn new(domain: &str, dns_ip: Ipv4Addr) -> Result<Self, ProtoError> {
        let mut origin = Name::from_ascii(domain.trim_end_matches('.'))?.to_lowercase();
        origin.set_fqdn(true);
        Ok(Self { origin, dns_ip })
    }

    /// The zone's name.
    pub fn origin(&self) -> &Name {
        &self.origin
    }

    /// A name in the zone.
    fn name(&self, labels: &[&str]) -> Option<Name> {
        Name::from_labels(labels.iter().map(|l| l.as_bytes())).and_then(|name| name.append_domain(&self.origin)).ok()
    }

    /// The zone's start of authority, for answers that say no.
    pub fn soa(&self) -> Record {
        let within = |label| self.name(&[label]).unwrap_or_else(|| self.origin.clone());
        let soa = SOA::new(
            self.name(&["ns", "dns"]).unwrap_or_else(|| self.origin.clone()),
            within("hostmaster"),
            1,
            7200,
            1800,
            86_400,
            TTL,
        );
        Record::from_rdata(self.origin.clone(), TTL, RData::SOA(soa))
    }

    /// What the name stands for; `None` when it is not the zone's to say.
    pub fn answer(&self, catalog: &dyn Catalog, name: &Name, kind: RecordType) -> Option<Answer> {
        if self.origin.zone_of(name) {
            return Some(self.inside(catalog, name, kind));
        }
        self.reverse(catalog, name, kind)
    }

    fn inside(&self, catalog: &dyn Catalog, name: &Name, kind: RecordType) -> Answer {
        let depth = usize::from(name.num_labels() - self.origin.num_labels());
        let labels: Option<Vec<String>> =
            name.iter().take(depth).map(|l| String::from_utf8(l.to_ascii_lowercase()).ok()).collect();
        let Some(labels) = labels else {
            return Answer::default();
        };
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        let ask = Question { name, kind };
        match labels.as_slice() {
            [] => self.apex(&ask),
            ["svc" | "pod" | "dns"] => Answer::empty(),
            ["ns", "dns"] => ask.addresses([IpAddr::V4(self.dns_ip)]),
            ["dns-version"] => ask.one(RecordType::TXT, || RData::TXT(TXT::new(vec![VERSION.to_owned()]))),
            [namespace, "svc" | "pod"] if catalog.namespace(namespace) => Answer::empty(),
            [ip, namespace, "pod"] => pod(catalog, &ask, ip, namespace),
            [rest @ .., service, namespace, "svc"] => match catalog.service(namespace, service) {
                Some(object) => {
                    let found = Found {
                        zone: self,
                        slices: catalog.slices(namespace, service),
                        service: &object,
                        namespace,
                        label: service,
                    };
                    found.answer(&ask, rest)
                }
                None => Answer::default(),
            },
            _ => Answer::default(),
        }
    }

    fn apex(&self, ask: &Question<'_>) -> Answer {
        match ask.kind {
            RecordType::SOA => {
                let mut answer = Answer::empty();
                answer.records.push(self.soa());
                answer
            }
            RecordType::NS => match self.name(&["ns", "dns"]) {
                Some(name) => ask.one(RecordType::NS, || RData::NS(NS(name))),
                None => Answer::empty(),
            },
            _ => Answer::empty(),
        }
    }

    /// PTR records of cluster IPs and endpoints; `None` when the address is neither.
    fn reverse(&self, catalog: &dyn Catalog, name: &Name, kind: RecordType) -> Option<Answer> {
        let arpa = name.to_lowercase();
        let text = arpa.to_ascii();
        if !text.ends_with(".in-addr.arpa.") && !text.ends_with(".ip6.arpa.") {
            return None;
        }
        let net = arpa.parse_arpa_name().ok()?;
        let whole = if net.addr().is_ipv4() { 32 } else { 128 };
        if net.prefix_len() != whole {
            return None;
        }
        let ip = net.addr();
        let mut names = BTreeSet::new();
        for service in catalog.services_at(ip) {
            let meta = &service.metadata;
            if let (Some(name), Some(namespace)) = (&meta.name, &meta.namespace) {
                names.extend(self.name(&[name, namespace, "svc"]));
            }
        }
        for slice in catalog.slices_at(ip) {
            let Some((namespace, service)) = owner(&slice) else {
                continue;
            };
            for endpoint in ready(&slice) {
                let host = host(endpoint);
                if host.addresses.contains(&ip) {
                    names.extend(self.name(&[&host.label, &service, &namespace, "svc"]));
                }
            }
        }
        if names.is_empty() {
            return None;
        }
        let ask = Question { name, kind };
        let mut answer = Answer::empty();
        if kind == RecordType::PTR || kind == RecordType::ANY {
            let records = names.into_iter().map(|n| ask.record(RData::PTR(PTR(n))));
            answer.records.extend(records);
        }
        Some(answer)
    }
}

impl Answer {
    /// The name exists, with no record of the type.
    fn empty() -> Self {
        Self { exists: true, ..Self::default() }
    }
}

struct Question<'a> {
    name: &'a Name,
    kind: RecordType,
}

impl Question<'_> {
    fn wants(&self, kind: RecordType) -> bool {
        self.kind == kind || self.kind == RecordType::ANY
    }

    fn record(&self, data: RData) -> Record {
        Record::from_rdata(self.name.clone(), TTL, data)
    }

    fn one(&self, kind: RecordType, data: impl FnOnce() -> RData) -> Answer {
        let mut answer = Answer::empty();
        if self.wants(kind) {
            answer.records.push(self.record(data()));
        }
        answer
    }

    /// The addresses of the type asked for.
    fn addresses(&self, ips: impl IntoIterator<Item = IpAddr>) -> Answer {
        let mut answer = Answer::empty();
        let unique: BTreeSet<IpAddr> = ips.into_iter().collect();
        for ip in unique {
            let (kind, data) = address(ip);
            if self.wants(kind) {
                answer.records.push(self.record(data));
            }
        }
        answer
    }
}

fn address(ip: IpAddr) -> (RecordType, RData) {
    match ip {
        IpAddr::V4(ip) => (RecordType::A, RData::A(A(ip))),
        IpAddr::V6(ip) => (RecordType::AAAA, RData::AAAA(AAAA(ip))),
    }
}

/// `1-2-3-4` or `fd00--1` as an address.
fn dashed(label: &str) -> Option<IpAddr> {
    if let Ok(ip) = label.replace('-', ".").parse::<Ipv4Addr>() {
        return Some(ip.into());
    }
    let ip = label.replace('-', ":").parse::<Ipv6Addr>().ok()?;
    Some(ip.into())
}

fn pod(catalog: &dyn Catalog, ask: &Question<'_>, ip: &str, namespace: &str) -> Answer {
    match dashed(ip) {
        Some(ip) if catalog.namespace(namespace) => ask.addresses([ip]),
        _ => Answer::default(),
    }
}

/// The endpoints that DNS names: ready ones (those of `publishNotReadyAddresses` are marked ready).
fn ready(slice: &EndpointSlice) -> impl Iterator<Item = &Endpoint> {
    slice.endpoints.iter().flatten().filter(|endpoint| {
        let conditions = endpoint.conditions.as_ref();
        conditions.and_then(|c| c.ready).unwrap_or(true)
    })
}

fn host(endpoint: &Endpoint) -> Host {
    let addresses: Vec<IpAddr> = endpoint.addresses.iter().filter_map(|a| a.parse().ok()).collect();
    let label = match (&endpoint.hostname, addresses.first()) {
        (Some(name), _) if !name.is_empty() => name.to_ascii_lowercase(),
        (_, Some(ip)) => ip.to_string().replace(['.', ':'], "-"),
        _ => String::new(),
    };
    Host { label, addresses }
}

/// A Service that exists.
struct Found<'a> {
    zone: &'a Zone,
    service: &'a Service,
    slices: Vec<Arc<EndpointSlice>>,
    namespace: &'a str,
    label: &'a str,
}

impl Found<'_> {
    /// `rest` are the labels before the Service's name.
    fn answer(&self, ask: &Question<'_>, rest: &[&str]) -> Answer {
        let spec = self.service.spec.as_ref();
        if let Some(spec) = spec.filter(|s| s.type_.as_deref() == Some("ExternalName")) {
            return match (rest, &spec.external_name) {
                ([], Some(target)) => self.external(ask, target),
                _ => Answer::default(),
            };
        }
        match rest {
            [] => self.itself(ask),
            [protocol] if protocol.starts_with('_') => {
                if self.ports(None, Some(protocol)).is_empty() {
                    Answer::default()
                } else {
                    Answer::empty()
                }
            }
            [label] => self.host(ask, label),
            [port, protocol] if port.starts_with('_') && protocol.starts_with('_') => {
                self.locate(ask, Some(port), Some(protocol))
            }
            _ => Answer::default(),
        }
    }

    fn external(&self, ask: &Question<'_>, target: &str) -> Answer {
        let Ok(mut target) = Name::from_ascii(target.trim_end_matches('.')) else {
            return Answer::empty();
        };
        target.set_fqdn(true);
        let mut answer = Answer::empty();
        answer.records.push(ask.record(RData::CNAME(CNAME(target.clone()))));
        if ask.kind != RecordType::CNAME {
            answer.alias = Some(target);
        }
        answer
    }

    fn cluster_ips(&self) -> Vec<IpAddr> {
        let spec = self.service.spec.iter();
        let unique: BTreeSet<IpAddr> = spec
            .flat_map(|s| s.cluster_ips.iter().flatten().chain(&s.cluster_ip))
            .filter_map(|ip| ip.parse().ok())
            .collect();
        unique.into_iter().collect()
    }

    fn hosts(&self) -> Vec<Host> {
        self.slices.iter().flat_map(|s| ready(s)).map(host).collect()
    }

    /// The Service's own name.
    fn itself(&self, ask: &Question<'_>) -> Answer {
        if ask.kind == RecordType::SRV {
            return self.locate(ask, None, None);
        }
        let cluster_ips = self.cluster_ips();
        if !cluster_ips.is_empty() {
            return ask.addresses(cluster_ips);
        }
        let hosts = self.hosts();
        if hosts.is_empty() {
            return Answer::default();
        }
        ask.addresses(hosts.into_iter().flat_map(|h| h.addresses))
    }

    /// The name of one endpoint: its hostname, or its address with dashes.
    fn host(&self, ask: &Question<'_>, label: &str) -> Answer {
        let matching: Vec<IpAddr> =
            self.hosts().into_iter().filter(|h| h.label == label).flat_map(|h| h.addresses).collect();
        if matching.is_empty() {
            return Answer::default();
        }
        ask.addresses(matching)
    }

    /// The ports that match `_name` and `_protocol`: name, protocol and number.
    fn ports(&self, port: Option<&str>, protocol: Option<&str>) -> Vec<(String, u16)> {
        let matches = |name: Option<&str>, kind: Option<&str>| {
            let kind = kind.unwrap_or("TCP").to_ascii_lowercase();
            port.is_none_or(|p| name.is_some_and(|n| !n.is_empty() && p[1..] == *n))
                && protocol.is_none_or(|p| p[1..] == kind)
        };
        let mut out = Vec::new();
        if self.cluster_ips().is_empty() {
            for port in self.slices.iter().flat_map(|s| s.ports.iter().flatten()) {
                if matches(port.name.as_deref(), port.protocol.as_deref())
                    && let Some(number) = port.port.and_then(|p| u16::try_from(p).ok())
                {
                    out.push((port.name.clone().unwrap_or_default(), number));
                }
            }
        } else if let Some(spec) = &self.service.spec {
            for port in spec.ports.iter().flatten() {
                if matches(port.name.as_deref(), port.protocol.as_deref())
                    && let Ok(number) = u16::try_from(port.port)
                {
                    out.push((port.name.clone().unwrap_or_default(), number));
                }
            }
        }
        out
    }

    /// SRV records: the Service's name and port, or each endpoint's of a headless one.
    fn locate(&self, ask: &Question<'_>, port: Option<&str>, protocol: Option<&str>) -> Answer {
        let cluster_ips = self.cluster_ips();
        let hosts = self.hosts();
        let targets: Vec<(Vec<&str>, Vec<IpAddr>)> = if cluster_ips.is_empty() {
            hosts.iter().map(|h| (vec![h.label.as_str(), self.label], h.addresses.clone())).collect()
        } else {
            vec![(vec![self.label], cluster_ips)]
        };
        let numbers: BTreeSet<u16> = self.ports(port, protocol).into_iter().map(|(_, number)| number).collect();
        if numbers.is_empty() || targets.is_empty() {
            return Answer::default();
        }
        let mut answer = Answer::empty();
        if !ask.wants(RecordType::SRV) {
            return answer;
        }
        let count = targets.len() * numbers.len();
        let weight = (100 / count.clamp(1, 100)) as u16;
        for (labels, addresses) in targets {
            let full = [labels, vec![self.namespace, "svc"]].concat();
            let Some(target) = self.zone.name(&full) else {
                continue;
            };
            for number in &numbers {
                let srv = SRV::new(0, weight, *number, target.clone());
                answer.records.push(ask.record(RData::SRV(srv)));
            }
            for ip in addresses {
                let (_, data) = address(ip);
                let record = Record::from_rdata(target.clone(), TTL, data);
                answer.additional.push(record);
            }
        }
        answer
    }
}
