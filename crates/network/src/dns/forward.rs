//! Names outside the cluster: asked from the host's resolvers, with a small cache.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::{RData, Record};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Longest wait for one resolver.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often each resolver is asked.
const ROUNDS: usize = 2;
/// Questions under way at a time; more are refused (the client asks again).
const MAX_PENDING: usize = 512;
/// Cached answers; the cache is emptied of old ones, then wholly, when it is full.
const MAX_CACHED: usize = 2_000;
/// Longest time an answer is cached.
const MAX_TTL: u32 = 30;
/// Largest datagram we ask for (RFC 9715).
pub const PAYLOAD: u16 = 1232;
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// What the resolvers said.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The response code.
    pub code: ResponseCode,
    /// Records.
    pub answers: Vec<Record>,
    /// The start of authority of a denial, or nothing.
    pub authorities: Vec<Record>,
    /// The answer did not fit into a datagram.
    pub truncated: bool,
    /// The resolver says that the answer was validated.
    pub authentic: bool,
}

impl Outcome {
    /// A failure without records.
    pub fn failure(code: ResponseCode) -> Self {
        Self { code, answers: Vec::new(), authorities: Vec::new(), truncated: false, authentic: false }
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct CacheKey {
    query: Query,
    secure: bool,
}

struct Cached {
    outcome: Outcome,
    since: Instant,
    until: Instant,
}

/// The resolvers of the host's configuration, read anew when the file has changed.
#[derive(Default)]
struct Host {
    changed: Option<SystemTime>,
    servers: Vec<SocketAddr>,
    search: Vec<String>,
}

/// Asks other resolvers.
pub struct Forwarder {
    fixed: Vec<SocketAddr>,
    /// Our own addresses: asking them would ask ourselves.
    own: Vec<IpAddr>,
    file: PathBuf,
    host: Mutex<Host>,
    cache: Mutex<HashMap<CacheKey, Cached>>,
    pending: Semaphore,
}

impl Forwarder {
    /// Asks `fixed` resolvers, or the host's when there are none; never `own` addresses.
    pub fn new(fixed: Vec<SocketAddr>, own: Vec<IpAddr>) -> Self {
        Self {
            fixed,
            own,
            file: RESOLV_CONF.into(),
            host: Mutex::default(),
            cache: Mutex::default(),
            pending: Semaphore::new(MAX_PENDING),
        }
    }

    /// The same, reading another file (for tests).
    pub fn with_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.file = file.into();
        self
    }

    fn refresh(&self) {
        let changed = std::fs::metadata(&self.file).and_then(|m| m.modified()).ok();
        let mut host = self.host.lock();
        if host.changed.is_some() && host.changed == changed {
            return;
        }
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        let (servers, search) = parse(&text);
        host.servers = servers;
        host.search = search;
        host.changed = changed;
    }

    /// The resolvers to ask, in order.
    pub fn servers(&self) -> Vec<SocketAddr> {
        let all = if self.fixed.is_empty() {
            self.refresh();
            self.host.lock().servers.clone()
        } else {
            self.fixed.clone()
        };
        all.into_iter().filter(|s| s.port() != 53 || !self.own.contains(&s.ip())).collect()
    }

    /// The host's search domains, which Pods' search paths end with.
    pub fn search(&self) -> Vec<String> {
        self.refresh();
        self.host.lock().search.clone()
    }

    /// Asks. `stream` says that the client can take an answer of any size.
    pub async fn ask(&self, query: &Query, secure: bool, stream: bool) -> Outcome {
        let mut normal = query.clone();
        normal.name = normal.name.to_lowercase();
        let key = CacheKey { query: normal, secure };
        if let Some(outcome) = self.cached(&key, Instant::now())
            && (!outcome.truncated || !stream)
        {
            return outcome;
        }
        // Never wait for a permit: a client that waits longer asks again, which makes things worse.
        let Ok(_permit) = self.pending.try_acquire() else {
            return Outcome::failure(ResponseCode::ServFail);
        };
        let servers = self.servers();
        let mut worst = Outcome::failure(ResponseCode::ServFail);
        for _ in 0..ROUNDS {
            for server in &servers {
                match exchange(*server, query, secure, stream).await {
                    Ok(outcome) if is_useful(outcome.code) => {
                        self.keep(key, &outcome);
                        return outcome;
                    }
                    Ok(outcome) => worst = outcome,
                    Err(error) => tracing::debug!(%server, %error, "a resolver did not answer"),
                }
            }
        }
        worst
    }

    fn cached(&self, key: &CacheKey, now: Instant) -> Option<Outcome> {
        let cache = self.cache.lock();
        let cached = cache.get(key).filter(|c| now < c.until)?;
        let mut outcome = cached.outcome.clone();
        let age = now.duration_since(cached.since).as_secs() as u32;
        for record in outcome.answers.iter_mut().chain(&mut outcome.authorities) {
            record.decrement_ttl(age);
        }
        Some(outcome)
    }

    fn keep(&self, key: CacheKey, outcome: &Outcome) {
        let ttl = lifetime(outcome).min(MAX_TTL);
        if ttl == 0 {
            return;
        }
        let now = Instant::now();
        let mut cache = self.cache.lock();
        if cache.len() >= MAX_CACHED {
            cache.retain(|_, c| now < c.until);
            if cache.len() >= MAX_CACHED {
                cache.clear();
            }
        }
        let cached = Cached { outcome: outcome.clone(), since: now, until: now + Duration::from_secs(ttl.into()) };
        cache.insert(key, cached);
    }
}

fn is_useful(code: ResponseCode) -> bool {
    matches!(code, ResponseCode::NoError | ResponseCode::NXDomain)
}

/// How long an outcome may be kept, in seconds (RFC 2308 for denials).
fn lifetime(outcome: &Outcome) -> u32 {
    if outcome.answers.is_empty() {
        let soa = outcome.authorities.iter().find_map(|r| match &r.data {
            RData::SOA(soa) => Some(r.ttl.min(soa.minimum)),
            _ => None,
        });
        return soa.unwrap_or_default();
    }
    outcome.answers.iter().map(|r| r.ttl).min().unwrap_or(0)
}

/// `nameserver` and the last `search` or `domain` of a resolv.conf.
pub fn parse(text: &str) -> (Vec<SocketAddr>, Vec<String>) {
    let mut servers = Vec::new();
    let mut search = Vec::new();
    for line in text.lines() {
        let line = line.split(['#', ';']).next().unwrap_or_default();
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => {
                let ip = words.next().and_then(|w| w.parse::<IpAddr>().ok());
                servers.extend(ip.map(|ip| SocketAddr::new(ip, 53)));
            }
            Some("search" | "domain") => search = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    (servers, search)
}

/// Our own question: a fresh, unpredictable id from an unpredictable port.
fn question(query: &Query, secure: bool) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(query.clone());
    let mut edns = Edns::new();
    edns.set_max_payload(PAYLOAD).set_dnssec_ok(secure);
    message.set_edns(edns);
    message
}

async fn exchange(server: SocketAddr, query: &Query, secure: bool, stream: bool) -> io::Result<Outcome> {
    let message = question(query, secure);
    let id = message.metadata.id;
    let bytes = message.to_vec().map_err(io::Error::other)?;
    let late = || io::Error::from(io::ErrorKind::TimedOut);
    let outcome = timeout(PATIENCE, by_datagram(server, &bytes, id, query));
    let outcome = outcome.await.map_err(|_| late())??;
    if !(outcome.truncated && stream) {
        return Ok(outcome);
    }
    let whole = timeout(PATIENCE, by_stream(server, &bytes, id, query));
    whole.await.map_err(|_| late())?
}

async fn by_datagram(server: SocketAddr, bytes: &[u8], id: u16, query: &Query) -> io::Result<Outcome> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // What does not belong to the question may be forged: go on waiting.
        if let Some(outcome) = read(&buffer[..length], id, query) {
            return Ok(outcome);
        }
    }
}

async fn by_stream(server: SocketAddr, bytes: &[u8], id: u16, query: &Query) -> io::Result<Outcome> {
    let mut stream = TcpStream::connect(server).await?;
    let mut framed = Vec::with_capacity(bytes.len() + 2);
    framed.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
    framed.extend_from_slice(bytes);
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut buffer = vec![0; usize::from(length)];
    stream.read_exact(&mut buffer).await?;
    read(&buffer, id, query).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

fn read(bytes: &[u8], id: u16, query: &Query) -> Option<Outcome> {
    let message = Message::from_vec(bytes).ok()?;
    let asked = message.queries.first()?;
    let same = message.metadata.id == id
        && asked.query_type == query.query_type
        && asked.query_class == query.query_class
        && asked.name == query.name;
    same.then_some(Outcome {
        code: message.metadata.response_code,
        answers: message.answers,
        authorities: message.authorities,
        truncated: message.metadata.truncation,
        authentic: message.metadata.authentic_data,
    })
}
