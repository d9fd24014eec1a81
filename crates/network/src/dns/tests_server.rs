//! The server over real sockets, with a resolver beside it that plays the outside world.
#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, SOA, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::forward::{Forwarder, parse};
use super::resolve::Resolver;
use super::server;
use super::tests::Written;
use super::zone::Zone;
use crate::config::Config;

const HOME: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// The outside: `www.example.com` and `big.example.com` exist, nothing else.
async fn outside(asked: Arc<AtomicUsize>) -> SocketAddr {
    let listener = TcpListener::bind((HOME, 0)).await.unwrap();
    let at = listener.local_addr().unwrap();
    let socket = UdpSocket::bind(at).await.unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            asked.fetch_add(1, Ordering::Relaxed);
            let mut answer = outside_answer(&buffer[..length]);
            if answer.to_vec().unwrap().len() > 1232 {
                answer = answer.truncate();
            }
            socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
        }
    });
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let length = stream.read_u16().await.unwrap();
            let mut bytes = vec![0; length.into()];
            stream.read_exact(&mut bytes).await.unwrap();
            let answer = outside_answer(&bytes).to_vec().unwrap();
            stream.write_u16(answer.len() as u16).await.unwrap();
            stream.write_all(&answer).await.unwrap();
        }
    });
    at
}

fn outside_answer(bytes: &[u8]) -> Message {
    let question = Message::from_vec(bytes).unwrap();
    let query = question.queries[0].clone();
    let mut answer = Message::response(question.metadata.id, OpCode::Query);
    answer.add_query(query.clone());
    let record = |data| Record::from_rdata(query.name.clone(), 20, data);
    match (query.name.to_ascii().as_str(), query.query_type) {
        ("www.example.com.", RecordType::A) => {
            answer.add_answer(record(RData::A(A::new(203, 0, 113, 5))));
        }
        ("big.example.com.", RecordType::TXT) => {
            for n in 0..20 {
                answer.add_answer(record(RData::TXT(TXT::new(vec![format!("{n:0200}")]))));
            }
        }
        ("broken.example.com.", _) => answer.metadata.response_code = ResponseCode::ServFail,
        _ => {
            answer.metadata.response_code = ResponseCode::NXDomain;
            let zone = Name::from_ascii("example.com.").unwrap();
            let soa = SOA::new(zone.clone(), zone.clone(), 1, 1, 1, 1, 20);
            answer.add_authority(Record::from_rdata(zone, 20, RData::SOA(soa)));
        }
    }
    answer
}

struct Bench {
    at: SocketAddr,
    asked: Arc<AtomicUsize>,
}

impl Bench {
    async fn new() -> Self {
        let asked = Arc::new(AtomicUsize::new(0));
        let other = outside(asked.clone()).await;
        let mut catalog = Written::example();
        catalog.searching.insert(HOME.into(), "d".to_owned());
        let config = Config::new("n", IpAddr::V4(HOME), "/nonexistent", 0);
        let zone = Zone::new("cluster.local", config.dns_ip).unwrap();
        let forwarder = Forwarder::new(vec![other], Vec::new()).with_file("/nonexistent");
        let resolver = Arc::new(Resolver::new(zone, catalog, forwarder, &config));
        let listener = TcpListener::bind((HOME, 0)).await.unwrap();
        let at = listener.local_addr().unwrap();
        let socket = Arc::new(UdpSocket::bind(at).await.unwrap());
        tokio::spawn(server::datagrams(socket, resolver.clone()));
        tokio::spawn(server::streams(listener, resolver));
        Self { at, asked }
    }

    async fn send(&self, bytes: &[u8]) -> Option<Message> {
        let socket = UdpSocket::bind((HOME, 0)).await.unwrap();
        socket.send_to(bytes, self.at).await.unwrap();
        let mut buffer = [0; 4096];
        let received = tokio::time::timeout(Duration::from_secs(1), socket.recv(&mut buffer));
        let length = received.await.ok()?.unwrap();
        Some(Message::from_vec(&buffer[..length]).unwrap())
    }

    async fn ask(&self, name: &str, kind: RecordType) -> Message {
        let message = question(name, kind, None);
        let answer = self.send(&message.to_vec().unwrap()).await.unwrap();
        assert_eq!(answer.metadata.id, message.metadata.id);
        answer
    }

    async fn ask_stream(&self, messages: &[Message]) -> Vec<Message> {
        let mut stream = TcpStream::connect(self.at).await.unwrap();
        for message in messages {
            let bytes = message.to_vec().unwrap();
            stream.write_u16(bytes.len() as u16).await.unwrap();
            stream.write_all(&bytes).await.unwrap();
        }
        let mut out = Vec::new();
        for _ in messages {
            let length = stream.read_u16().await.unwrap();
            let mut bytes = vec![0; length.into()];
            stream.read_exact(&mut bytes).await.unwrap();
            out.push(Message::from_vec(&bytes).unwrap());
        }
        out
    }
}

fn question(name: &str, kind: RecordType, payload: Option<u16>) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    if let Some(payload) = payload {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        message.set_edns(edns);
    }
    message
}

fn addresses(message: &Message) -> Vec<String> {
    let data = |r: &Record| matches!(r.data, RData::A(_)).then(|| r.data.to_string());
    message.answers.iter().filter_map(data).collect()
}

#[tokio::test]
async fn inside_names_are_answered_here() {
    let bench = Bench::new().await;
    let answer = bench.ask("kubernetes.default.svc.cluster.local.", RecordType::A).await;
    assert_eq!(addresses(&answer), ["10.96.0.1"]);
    assert!(answer.metadata.authoritative && answer.metadata.recursion_available);
    assert!(answer.metadata.recursion_desired);
    assert_eq!(answer.metadata.message_type, MessageType::Response);
    assert!(answer.edns.is_none());
    let answer = bench.ask("x.y.svc.cluster.local.", RecordType::A).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(answer.authorities[0].record_type(), RecordType::SOA);
    let answer = bench.ask("kubernetes.default.svc.cluster.local.", RecordType::AAAA).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
    assert_eq!(answer.authorities[0].record_type(), RecordType::SOA);
    let answer = bench.ask("9.9.96.10.in-addr.arpa.", RecordType::PTR).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(bench.asked.load(Ordering::Relaxed), 0);
    // Each answer begins with another endpoint.
    let name = "sts.d.svc.cluster.local.";
    let first = addresses(&bench.ask(name, RecordType::A).await);
    let second = addresses(&bench.ask(name, RecordType::A).await);
    assert_ne!(first, second);
    assert_eq!(first.len(), 2);
}

#[tokio::test]
async fn outside_names_are_asked_once_and_cached() {
    let bench = Bench::new().await;
    for name in ["www.example.com.", "WWW.example.com."] {
        let answer = bench.ask(name, RecordType::A).await;
        assert_eq!(addresses(&answer), ["203.0.113.5"]);
        assert!(!answer.metadata.authoritative);
    }
    assert_eq!(bench.asked.load(Ordering::Relaxed), 1);
    for _ in 0..2 {
        let answer = bench.ask("no.example.com.", RecordType::A).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    }
    assert_eq!(bench.asked.load(Ordering::Relaxed), 2);
    let answer = bench.ask("broken.example.com.", RecordType::A).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn aliases_are_followed_inside_and_outside() {
    let bench = Bench::new().await;
    let answer = bench.ask("out.d.svc.cluster.local.", RecordType::A).await;
    assert_eq!(answer.answers[0].record_type(), RecordType::CNAME);
    assert_eq!(addresses(&answer), ["203.0.113.5"]);
    let answer = bench.ask("in.d.svc.cluster.local.", RecordType::A).await;
    assert_eq!(addresses(&answer), ["10.96.0.1"]);
    let answer = bench.ask("loop.d.svc.cluster.local.", RecordType::A).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn the_search_path_is_walked_here() {
    let bench = Bench::new().await;
    // What a Pod in namespace d asks first for "kubernetes.default" and for "www.example.com".
    let answer = bench.ask("kubernetes.default.d.svc.cluster.local.", RecordType::A).await;
    assert_eq!(addresses(&answer), ["10.96.0.1"]);
    assert_eq!(answer.answers[0].record_type(), RecordType::CNAME);
    let answer = bench.ask("www.example.com.d.svc.cluster.local.", RecordType::A).await;
    assert_eq!(addresses(&answer), ["203.0.113.5"]);
    // No data of this type: the client goes on itself.
    let answer = bench.ask("www.example.com.d.svc.cluster.local.", RecordType::AAAA).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    let answer = bench.ask("nothing.at.all.d.svc.cluster.local.", RecordType::A).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    // Another namespace's path is not this Pod's.
    let answer = bench.ask("kubernetes.default.default.svc.cluster.local.", RecordType::A).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
}

#[tokio::test]
async fn large_answers_go_by_stream() {
    let bench = Bench::new().await;
    for payload in [None, Some(1232)] {
        let message = question("big.example.com.", RecordType::TXT, payload);
        let answer = bench.send(&message.to_vec().unwrap()).await.unwrap();
        assert!(answer.metadata.truncation);
        assert_eq!(answer.edns.is_some(), payload.is_some());
    }
    let small = question("kubernetes.default.svc.cluster.local.", RecordType::A, None);
    let large = question("big.example.com.", RecordType::TXT, None);
    let answers = bench.ask_stream(&[small, large]).await;
    assert_eq!(addresses(&answers[0]), ["10.96.0.1"]);
    assert!(!answers[1].metadata.truncation);
    assert_eq!(answers[1].answers.len(), 20);
}

#[tokio::test]
async fn bad_messages_get_an_error_or_nothing() {
    let bench = Bench::new().await;
    assert!(bench.send(b"x").await.is_none());
    let mut broken = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    broken.extend([200, 1, 2]);
    let answer = bench.send(&broken).await.unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::FormErr);
    assert_eq!(answer.metadata.id, 0x1234);
    let reply = Message::response(7, OpCode::Query).to_vec().unwrap();
    assert!(bench.send(&reply).await.is_none());
    let mut update = question("a.", RecordType::A, None);
    update.metadata.op_code = OpCode::Update;
    let answer = bench.send(&update.to_vec().unwrap()).await.unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::NotImp);
    let mut newer = question("a.", RecordType::A, Some(1232));
    if let Some(edns) = &mut newer.edns {
        edns.set_version(1);
    }
    let answer = bench.send(&newer.to_vec().unwrap()).await.unwrap();
    // BADVERS shares its number with BADSIG, as which it is read.
    assert_eq!(u16::from(answer.metadata.response_code), 16);
}

#[test]
fn resolv_conf_is_read_as_the_c_library_does() {
    let text = "# comment\nsearch a.example b.example\nnameserver 192.0.2.53 ; x\nnameserver fd00::53\n\
                nameserver nonsense\noptions ndots:5\n";
    let (servers, search) = parse(text);
    assert_eq!(servers.iter().map(ToString::to_string).collect::<Vec<_>>(), ["192.0.2.53:53", "[fd00::53]:53"]);
    assert_eq!(search, ["a.example", "b.example"]);
}

#[test]
fn our_own_addresses_are_never_asked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("resolv.conf");
    std::fs::write(&path, "nameserver 10.96.0.10\nnameserver 192.0.2.53\n").unwrap();
    let own = vec!["10.96.0.10".parse().unwrap()];
    let forwarder = Forwarder::new(Vec::new(), own).with_file(path);
    let servers = forwarder.servers();
    assert_eq!(servers, ["192.0.2.53:53".parse().unwrap()]);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
    #[test]
    fn no_message_makes_the_resolver_fail(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let config = Config::new("n", IpAddr::V4(HOME), "/nonexistent", 0);
        let zone = Zone::new("cluster.local", config.dns_ip).unwrap();
        let forwarder = Forwarder::new(Vec::new(), Vec::new()).with_file("/nonexistent");
        let resolver = Resolver::new(zone, Written::example(), forwarder, &config);
        let answer = runtime.block_on(resolver.answer(&bytes, HOME.into(), super::resolve::Transport::Datagram));
        if let Some(answer) = answer {
            let answer = Message::from_vec(&answer).unwrap();
            proptest::prop_assert_eq!(answer.metadata.message_type, MessageType::Response);
        }
    }
}
