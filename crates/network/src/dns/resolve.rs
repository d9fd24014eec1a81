//! From a client's message to the answer: the zone first, then the search path, then other resolvers.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::CNAME;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use ipnet::Ipv4Net;

use super::catalog::{Catalog, Informers};
use super::forward::{Forwarder, Outcome, PAYLOAD};
use super::zone::{Answer, TTL, Zone};
use crate::config::Config;

/// Longest chain of aliases that is followed.
const MAX_ALIASES: usize = 8;
/// Largest datagram that a client is sent even if it says it could take more.
const MAX_DATAGRAM: u16 = 4096;

/// How a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Answers must fit.
    Datagram,
    /// Answers of any size.
    Stream,
}

/// Answers clients.
pub struct Resolver<C = Informers> {
    zone: Zone,
    catalog: C,
    forwarder: Forwarder,
    /// Ranges whose reverse names are ours even when nothing has the address.
    ranges: [Ipv4Net; 2],
    turn: AtomicUsize,
}

struct Reply {
    code: ResponseCode,
    authoritative: bool,
    truncated: bool,
    authentic: bool,
    answers: Vec<Record>,
    authorities: Vec<Record>,
    additional: Vec<Record>,
}

impl Reply {
    fn outside(outcome: Outcome) -> Self {
        Self {
            code: outcome.code,
            authoritative: false,
            truncated: outcome.truncated,
            authentic: outcome.authentic,
            answers: outcome.answers,
            authorities: outcome.authorities,
            additional: Vec::new(),
        }
    }
}

impl<C: Catalog> Resolver<C> {
    /// A resolver of a cluster's names and, by the forwarder, all others.
    pub fn new(zone: Zone, catalog: C, forwarder: Forwarder, config: &Config) -> Self {
        Self { zone, catalog, forwarder, ranges: [config.service_cidr, config.cluster_cidr], turn: AtomicUsize::new(0) }
    }

    /// Answers a message; `None` when it deserves no answer at all.
    pub async fn answer(&self, bytes: &[u8], from: IpAddr, by: Transport) -> Option<Vec<u8>> {
        let request = match Message::from_vec(bytes) {
            Ok(request) => request,
            Err(_) => return malformed(bytes),
        };
        // Answering answers would let two servers talk to each other for ever.
        if request.metadata.message_type != MessageType::Query {
            return None;
        }
        let mut response = Message::new(0, MessageType::Response, OpCode::Query);
        response.metadata = Metadata::response_from_request(&request.metadata);
        response.metadata.recursion_available = true;
        response.add_queries(request.queries.iter().cloned());
        let edns = request.edns.as_ref();
        if let Some(edns) = edns {
            let mut ours = Edns::new();
            ours.set_max_payload(PAYLOAD).set_dnssec_ok(edns.flags().dnssec_ok);
            response.set_edns(ours);
        }
        let problem = match (&request.queries[..], edns) {
            _ if request.metadata.op_code != OpCode::Query => Some(ResponseCode::NotImp),
            (_, Some(edns)) if edns.version() > 0 => Some(ResponseCode::BADVERS),
            ([query], _) if query.query_class != DNSClass::IN => Some(ResponseCode::Refused),
            ([query], _) if query.query_type == RecordType::AXFR => Some(ResponseCode::Refused),
            ([_], _) => None,
            _ => Some(ResponseCode::FormErr),
        };
        match (problem, request.queries.first()) {
            (None, Some(query)) => {
                let secure = edns.is_some_and(|e| e.flags().dnssec_ok);
                let reply = self.resolve(query, from, secure, by).await;
                fill(&mut response, reply);
            }
            (problem, _) => set_code(&mut response, problem.unwrap_or(ResponseCode::FormErr)),
        }
        encode(&response, edns.map(Edns::max_payload), by)
    }

    async fn resolve(&self, query: &Query, from: IpAddr, secure: bool, by: Transport) -> Reply {
        let local = self.zone.answer(&self.catalog, &query.name, query.query_type);
        match local {
            Some(answer) if answer.exists => {
                let mut reply = self.local(answer.clone());
                if let Some(target) = answer.alias {
                    self.follow(target, query, secure, by, &mut reply).await;
                }
                reply
            }
            Some(answer) => {
                let found = self.search(query, from, secure, by).await;
                found.unwrap_or_else(|| self.local(answer))
            }
            None if self.is_ours(&query.name) => self.local(Answer::default()),
            None => {
                let stream = by == Transport::Stream;
                Reply::outside(self.forwarder.ask(query, secure, stream).await)
            }
        }
    }

    /// An answer of the zone; each time another record comes first.
    fn local(&self, mut answer: Answer) -> Reply {
        let denied = answer.records.is_empty();
        if answer.alias.is_none() && answer.records.len() > 1 {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            let count = answer.records.len();
            answer.records.rotate_left(turn % count);
        }
        Reply {
            code: if answer.exists { ResponseCode::NoError } else { ResponseCode::NXDomain },
            authoritative: true,
            truncated: false,
            authentic: false,
            answers: answer.records,
            authorities: if denied { vec![self.zone.soa()] } else { Vec::new() },
            additional: answer.additional,
        }
    }

    /// Adds what an alias leads to: clients' stub resolvers do not follow aliases themselves.
    async fn follow(&self, mut target: Name, query: &Query, secure: bool, by: Transport, reply: &mut Reply) {
        for _ in 0..MAX_ALIASES {
            let Some(answer) = self.zone.answer(&self.catalog, &target, query.query_type) else {
                let query = Query::query(target, query.query_type);
                let stream = by == Transport::Stream;
                let outcome = self.forwarder.ask(&query, secure, stream).await;
                reply.code = outcome.code;
                reply.truncated |= outcome.truncated;
                reply.answers.extend(outcome.answers);
                reply.authorities = outcome.authorities;
                return;
            };
            if !answer.exists {
                reply.code = ResponseCode::NXDomain;
            }
            if answer.records.is_empty() {
                reply.authorities = vec![self.zone.soa()];
            }
            reply.answers.extend(answer.records);
            match answer.alias {
                Some(next) => target = next,
                None => return,
            }
        }
        reply.code = ResponseCode::ServFail;
    }

    /// The search path, walked here: when a Pod's resolver library asks for the first candidate
    /// (`name.<namespace>.svc.<zone>`), the answer to the first candidate that exists is given as an alias,
    /// which saves it the questions in between.
    async fn search(&self, query: &Query, from: IpAddr, secure: bool, by: Transport) -> Option<Reply> {
        if !matches!(query.query_type, RecordType::A | RecordType::AAAA) {
            return None;
        }
        let namespace = self.catalog.searching_pod(from)?;
        let first = self.candidate(&[&namespace, "svc"])?;
        if !first.zone_of(&query.name) || first.num_labels() == query.name.num_labels() {
            return None;
        }
        let depth = usize::from(query.name.num_labels() - first.num_labels());
        let labels: Vec<&[u8]> = query.name.iter().take(depth).collect();
        let name = Name::from_labels(labels).ok()?;
        let mut domains = vec![self.candidate(&["svc"])?, self.zone.origin().clone()];
        for domain in self.forwarder.search() {
            domains.extend(Name::from_ascii(&domain).ok());
        }
        domains.push(Name::root());
        for domain in domains {
            let Ok(mut candidate) = name.clone().append_domain(&domain) else {
                continue;
            };
            candidate.set_fqdn(true);
            if let Some(reply) = self.candidate_reply(candidate, query, secure, by).await {
                return Some(reply);
            }
        }
        None
    }

    fn candidate(&self, labels: &[&str]) -> Option<Name> {
        let name = Name::from_labels(labels.iter().map(|l| l.as_bytes())).ok()?;
        name.append_domain(self.zone.origin()).ok()
    }

    /// The reply if the candidate exists with records of the type.
    async fn candidate_reply(&self, candidate: Name, query: &Query, secure: bool, by: Transport) -> Option<Reply> {
        let alias = Record::from_rdata(query.name.clone(), TTL, RData::CNAME(CNAME(candidate.clone())));
        let mut reply = Reply {
            code: ResponseCode::NoError,
            authoritative: true,
            truncated: false,
            authentic: false,
            answers: vec![alias],
            authorities: Vec::new(),
            additional: Vec::new(),
        };
        self.follow(candidate, query, secure, by, &mut reply).await;
        let found = reply.code == ResponseCode::NoError && reply.answers.len() > 1;
        found.then_some(reply)
    }

    /// Whether a reverse name belongs to the cluster's ranges.
    fn is_ours(&self, name: &Name) -> bool {
        let name = name.to_lowercase();
        if !name.to_ascii().ends_with(".in-addr.arpa.") {
            return false;
        }
        match name.parse_arpa_name().map(|net| net.addr()) {
            Ok(IpAddr::V4(ip)) => self.ranges.iter().any(|r| r.contains::<&Ipv4Addr>(&ip)),
            _ => false,
        }
    }
}

/// An answer to what does not parse, if at least its header does.
fn malformed(bytes: &[u8]) -> Option<Vec<u8>> {
    let header = bytes.get(..12)?;
    if header[2] & 0x80 != 0 {
        return None;
    }
    let id = u16::from_be_bytes([header[0], header[1]]);
    Message::error_msg(id, OpCode::Query, ResponseCode::FormErr).to_vec().ok()
}

fn set_code(response: &mut Message, code: ResponseCode) {
    response.metadata.response_code = code;
    if code.high() > 0
        && let Some(edns) = &mut response.edns
    {
        edns.set_rcode_high(code.high());
    }
}

fn fill(response: &mut Message, reply: Reply) {
    set_code(response, reply.code);
    response.metadata.authoritative = reply.authoritative;
    response.metadata.truncation = reply.truncated;
    response.metadata.authentic_data = reply.authentic;
    response.answers = reply.answers;
    response.authorities = reply.authorities;
    response.additionals = reply.additional;
}

/// Encodes, leaving out additional records first and then everything when it does not fit.
fn encode(response: &Message, payload: Option<u16>, by: Transport) -> Option<Vec<u8>> {
    let bytes = response.to_vec().ok()?;
    let limit = match by {
        Transport::Stream => usize::from(u16::MAX),
        Transport::Datagram => usize::from(payload.unwrap_or(512).clamp(512, MAX_DATAGRAM)),
    };
    if bytes.len() <= limit {
        return Some(bytes);
    }
    if !response.additionals.is_empty() {
        let mut less = response.clone();
        less.additionals.clear();
        let bytes = less.to_vec().ok()?;
        if bytes.len() <= limit {
            return Some(bytes);
        }
    }
    response.truncate().to_vec().ok()
}
