//! Being inside a Pod's network: the test's own threads enter the namespace, and connect or serve there. What they see is what
//! the Pod's processes see, and costs no `kubectl exec`.

use crate::{Namespace, container_pid};
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use nix::sched::{CloneFlags, setns};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The longest wait for one answer.
const ANSWER: Duration = Duration::from_secs(2);

/// A place in the network: a Pod, or this machine.
#[derive(Clone)]
pub struct Net {
    inside: Option<Arc<File>>,
}

impl Net {
    /// This machine itself, which is a node.
    pub fn host() -> Net {
        Net { inside: None }
    }

    /// The Pod's, once it runs.
    pub fn of(ns: &Namespace, pod: &str) -> Net {
        let what = format!("pod/{pod}");
        let file = ns.eventually(&format!("{pod} has a network"), || {
            let id = ns.field(&what, "{.status.containerStatuses[0].containerID}");
            if id.is_empty() || ns.field(&what, "{.status.phase}") != "Running" {
                return Err("it does not run".into());
            }
            let pid = container_pid(&id).ok_or("its container has no process")?;
            File::open(format!("/proc/{pid}/ns/net")).map_err(|e| e.to_string())
        });
        Net { inside: Some(Arc::new(file)) }
    }

    /// Runs `work` there.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let Some(file) = &self.inside else { return work() };
        std::thread::scope(|scope| {
            let there = scope.spawn(|| {
                setns(file, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            there.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// What the server at `ip:port` says over TCP before it hangs up.
    pub fn tcp(&self, ip: &str, port: u16) -> Result<String, String> {
        self.tcp_from(None, ip, port)
    }

    /// The same, from a source port of choice.
    pub fn tcp_from(&self, source: Option<u16>, ip: &str, port: u16) -> Result<String, String> {
        let to: SocketAddr = SocketAddr::new(ip.parse::<IpAddr>().map_err(|e| format!("{ip:?}: {e}"))?, port);
        self.run(|| {
            let mut stream = match source {
                None => TcpStream::connect_timeout(&to, ANSWER).map_err(|e| format!("tcp {to}: {e}"))?,
                Some(source) => connect_from(source, to).map_err(|e| format!("tcp {to}: {e}"))?,
            };
            stream.set_read_timeout(Some(ANSWER)).unwrap();
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n").map_err(|e| e.to_string())?;
            let mut said = String::new();
            stream.read_to_string(&mut said).map_err(|e| format!("tcp {to}: {e}"))?;
            Ok(body(&said))
        })
    }

    /// What the server at `ip:port` answers over UDP.
    pub fn udp(&self, ip: &str, port: u16) -> Result<String, String> {
        let to = SocketAddr::new(ip.parse::<IpAddr>().map_err(|e| format!("{ip:?}: {e}"))?, port);
        self.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(ANSWER / 2)).unwrap();
            // Connected: a refusal by ICMP is an error of the socket, and only this peer may answer.
            socket.connect(to).map_err(|e| e.to_string())?;
            socket.send(b"?").map_err(|e| format!("udp {to}: {e}"))?;
            let mut buffer = [0; 1500];
            let length = socket.recv(&mut buffer).map_err(|e| format!("udp {to}: {e}"))?;
            Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
        })
    }

    /// Both of the Pod's servers, TCP and UDP, answer with `name`, until the returned value is dropped.
    pub fn serve(&self, port: u16, name: &str) -> Serving {
        let mut serving = self.serve_tcp(port, name);
        serving.join(self.serve_udp(port, name));
        serving
    }

    /// A server that says `name` as an HTTP body to everybody, with its peer's address in a header.
    pub fn serve_tcp(&self, port: u16, name: &str) -> Serving {
        let listener = self.run(|| listen(port));
        let body = name.to_owned();
        Serving::start(move |stop| {
            while !stop.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, peer)) => {
                        let body = body.clone();
                        std::thread::spawn(move || answer(stream, peer, &body));
                    }
                    Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                    Err(_) => return,
                }
            }
        })
    }

    /// An HTTP server with a handler, over TLS (with a certificate that nobody signed) or plain.
    pub fn serve_http(
        &self,
        port: u16,
        tls: bool,
        handler: impl Fn(&Asked) -> Said + Send + Sync + 'static,
    ) -> Serving {
        let listener = self.run(|| listen(port));
        let tls = tls.then(self_signed);
        let handler = Arc::new(handler);
        Serving::start(move |stop| {
            while !stop.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let (handler, tls) = (handler.clone(), tls.clone());
                        std::thread::spawn(move || {
                            let _ = stream.set_nonblocking(false);
                            let _ = stream.set_read_timeout(Some(ANSWER));
                            let done = match tls {
                                None => exchange(stream, &*handler),
                                Some(config) => rustls::ServerConnection::new(config)
                                    .map_err(std::io::Error::other)
                                    .and_then(|tls| exchange(rustls::StreamOwned::new(tls, stream), &*handler)),
                            };
                            // A client that goes away is its own affair.
                            drop(done);
                        });
                    }
                    Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                    Err(_) => return,
                }
            }
        })
    }

    /// A server that answers every datagram with `name`.
    pub fn serve_udp(&self, port: u16, name: &str) -> Serving {
        let socket = self.run(|| UdpSocket::bind(("0.0.0.0", port)).unwrap());
        let name = name.to_owned();
        Serving::start(move |stop| {
            socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            let mut buffer = [0; 1500];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(name.as_bytes(), peer);
                }
            }
        })
    }

    /// The records of a type that the resolver at `server` has for a name (absolute), as text, the same over UDP and TCP; an
    /// error names the response code.
    pub fn dns(&self, server: &str, name: &str, kind: &str) -> Result<BTreeSet<String>, String> {
        let kind: RecordType = kind.parse().unwrap();
        let name = Name::from_ascii(format!("{}.", name.trim_end_matches('.'))).map_err(|e| e.to_string())?;
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(name, kind));
        let bytes = message.to_vec().unwrap();
        let to = SocketAddr::new(server.parse().map_err(|e| format!("{server:?}: {e}"))?, 53);
        let (udp, tcp) = self.run(|| Ok::<_, String>((ask_udp(to, &bytes)?, ask_tcp(to, &bytes)?)))?;
        let (udp, tcp) = (records(&udp)?, records(&tcp)?);
        if udp == tcp { Ok(udp) } else { Err(format!("over UDP {udp:?}, over TCP {tcp:?}")) }
    }
}

/// A request as a handler sees it.
pub struct Asked {
    pub method: String,
    /// Path with query.
    pub target: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Asked {
    /// A header's value, or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v.as_str())
    }
}

/// An answer: status, headers and body.
pub struct Said(pub u16, pub Vec<(String, String)>, pub String);

impl Said {
    /// 200 with a body of this type.
    pub fn ok(content_type: &str, body: impl Into<String>) -> Said {
        Said(200, vec![("Content-Type".into(), content_type.into())], body.into())
    }
}

fn listen(port: u16) -> TcpListener {
    let listener = TcpListener::bind(("0.0.0.0", port)).unwrap();
    // The kernel ends a wait for a connection after this, too.
    let wait = nix::sys::time::TimeVal::new(0, 100_000);
    nix::sys::socket::setsockopt(&listener, nix::sys::socket::sockopt::ReceiveTimeout, &wait).unwrap();
    listener
}

fn self_signed() -> Arc<rustls::ServerConfig> {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(config.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap())
}

fn exchange(mut stream: impl Read + Write, handler: &dyn Fn(&Asked) -> Said) -> std::io::Result<()> {
    let mut held = Vec::new();
    let end = loop {
        if let Some(at) = held.windows(4).position(|w| w == b"\r\n\r\n") {
            break at;
        }
        let mut piece = [0; 4096];
        let length = stream.read(&mut piece)?;
        if length == 0 || held.len() > 1 << 16 {
            return Ok(());
        }
        held.extend_from_slice(&piece[..length]);
    };
    let head = String::from_utf8_lossy(&held[..end]).into_owned();
    let mut lines = head.lines();
    let mut first = lines.next().unwrap_or_default().split(' ').map(str::to_owned);
    let headers: Vec<(String, String)> =
        lines.filter_map(|l| l.split_once(':')).map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned())).collect();
    let mut asked = Asked {
        method: first.next().unwrap_or_default(),
        target: first.next().unwrap_or_default(),
        headers,
        body: String::new(),
    };
    let length = asked.header("content-length").parse().unwrap_or(0);
    let mut body = held.split_off(end + 4);
    while body.len() < length {
        let mut piece = [0; 4096];
        let read = stream.read(&mut piece)?;
        if read == 0 {
            break;
        }
        body.extend_from_slice(&piece[..read]);
    }
    asked.body = String::from_utf8_lossy(&body).into_owned();
    let Said(status, headers, body) = handler(&asked);
    let mut text = format!("HTTP/1.1 {status} Said\r\nContent-Length: {}\r\nConnection: close\r\n", body.len());
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    if asked.method != "HEAD" {
        text.push_str(&body);
    }
    stream.write_all(text.as_bytes())?;
    stream.flush()
}

fn ask_udp(to: SocketAddr, question: &[u8]) -> Result<Vec<u8>, String> {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(ANSWER)).unwrap();
    socket.connect(to).map_err(|e| e.to_string())?;
    socket.send(question).map_err(|e| e.to_string())?;
    let mut buffer = vec![0; 4096];
    let length = socket.recv(&mut buffer).map_err(|e| e.to_string())?;
    buffer.truncate(length);
    Ok(buffer)
}

fn ask_tcp(to: SocketAddr, question: &[u8]) -> Result<Vec<u8>, String> {
    let mut stream = TcpStream::connect_timeout(&to, ANSWER).map_err(|e| e.to_string())?;
    stream.set_read_timeout(Some(ANSWER)).unwrap();
    let framed = [&(question.len() as u16).to_be_bytes()[..], question].concat();
    stream.write_all(&framed).map_err(|e| e.to_string())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length).map_err(|e| e.to_string())?;
    let mut buffer = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut buffer).map_err(|e| e.to_string())?;
    Ok(buffer)
}

fn records(said: &[u8]) -> Result<BTreeSet<String>, String> {
    let answer = Message::from_vec(said).map_err(|e| e.to_string())?;
    if answer.metadata.response_code != ResponseCode::NoError {
        return Err(answer.metadata.response_code.to_string());
    }
    Ok(answer.answers.iter().map(|record| format!("{} {}", record.record_type(), record.data)).collect())
}

fn connect_from(source: u16, to: SocketAddr) -> std::io::Result<TcpStream> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt};
    use std::os::fd::AsRawFd;
    let SocketAddr::V4(to) = to else { return Err(ErrorKind::Unsupported.into()) };
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    bind(fd.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, source))?;
    connect(fd.as_raw_fd(), &SockaddrIn::from(to))?;
    Ok(TcpStream::from(fd))
}

fn body(said: &str) -> String {
    said.split_once("\r\n\r\n").map_or(said, |(_, body)| body).trim().to_owned()
}

fn answer(mut stream: TcpStream, peer: SocketAddr, body: &str) {
    let _ = stream.set_nonblocking(false);
    let _ = stream.set_read_timeout(Some(ANSWER));
    let mut head = [0; 1024];
    let _ = stream.read(&mut head);
    let text = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\nX-Peer: {peer}\r\n\r\n{body}", body.len());
    let _ = stream.write_all(text.as_bytes());
}

/// Servers that run until this is dropped.
pub struct Serving {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
    more: Vec<Serving>,
}

impl Serving {
    fn start(work: impl FnOnce(Arc<AtomicBool>) + Send + 'static) -> Serving {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        Serving { stop, threads: vec![std::thread::spawn(move || work(told))], more: vec![] }
    }

    fn join(&mut self, other: Serving) {
        self.more.push(other);
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
