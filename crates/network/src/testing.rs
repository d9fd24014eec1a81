//! Network namespaces for tests: anonymous ones that vanish with their last user, so nothing stays behind.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

use crate::cni::netns;
use crate::cni::plugin;
use crate::cni::spec::{Environment, Failure};
use crate::netlink::Socket;

/// A network namespace.
pub struct Namespace {
    file: File,
}

impl Namespace {
    /// Makes a namespace with its loopback up.
    pub fn new() -> Self {
        let file = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            Socket::route().unwrap().set_up(1).unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        })
        .join()
        .unwrap();
        Self { file }
    }

    /// A path that opens the namespace while the value lives.
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }

    /// The open namespace.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Runs `work` inside.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        netns::enter(&self.file, || Ok(work())).unwrap()
    }

    /// Starts a thread inside that serves until the returned server is dropped.
    pub fn serve_tcp(&self, at: (Ipv4Addr, u16), name: &str) -> Server {
        let listener = self.run(|| TcpListener::bind(at).unwrap());
        listener.set_nonblocking(true).unwrap();
        let name = name.to_owned();
        Server::start(move || match listener.accept() {
            Ok((mut stream, peer)) => {
                // The answer names the server and what it saw as the client.
                let _ = stream.write_all(format!("{name} {}", peer.ip()).as_bytes());
                true
            }
            Err(_) => false,
        })
    }

    /// The same over UDP: each datagram is answered.
    pub fn serve_udp(&self, at: (Ipv4Addr, u16), name: &str) -> Server {
        let socket = self.run(|| UdpSocket::bind(at).unwrap());
        socket.set_nonblocking(true).unwrap();
        let name = name.to_owned();
        let mut buffer = [0; 2048];
        Server::start(move || match socket.recv_from(&mut buffer) {
            Ok((_, peer)) => {
                let _ = socket.send_to(format!("{name} {}", peer.ip()).as_bytes(), peer);
                true
            }
            Err(_) => false,
        })
    }

    /// Connects from inside and reads the answer.
    pub fn ask_tcp(&self, to: (Ipv4Addr, u16)) -> std::io::Result<String> {
        self.run(|| ask_tcp(to))
    }

    /// Sends a datagram from inside and reads the answer.
    pub fn ask_udp(&self, to: (Ipv4Addr, u16)) -> std::io::Result<String> {
        self.run(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            ask_udp(&socket, to)
        })
    }
}

/// Connects and reads the answer.
pub fn ask_tcp(to: (Ipv4Addr, u16)) -> std::io::Result<String> {
    let to = SocketAddr::from(to);
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// Sends a datagram and reads the answer.
pub fn ask_udp(socket: &UdpSocket, to: (Ipv4Addr, u16)) -> std::io::Result<String> {
    socket.set_read_timeout(Some(Duration::from_secs(3)))?;
    socket.connect(SocketAddr::from(to))?;
    socket.send(b"?")?;
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// A serving thread.
pub struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(mut once: impl FnMut() -> bool + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = stop.clone();
        let thread = thread::spawn(move || {
            while !flag.load(Ordering::Relaxed) {
                if !once() {
                    thread::sleep(Duration::from_millis(1));
                }
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A node in a namespace of its own: its bridge, its address files, its table's name.
pub struct Node {
    /// The node's namespace.
    pub host: Namespace,
    /// The directory of the address files.
    pub directory: tempfile::TempDir,
    /// The node's Pod range's third byte.
    pub number: u8,
    /// The nftables table.
    pub table: String,
}

/// A Pod attached to a node.
pub struct Pod {
    /// The Pod's namespace.
    pub namespace: Namespace,
    /// The Pod's address.
    pub ip: Ipv4Addr,
}

impl Node {
    /// A node whose Pods get `10.244.<number>.0/24`.
    pub fn new(number: u8) -> Self {
        Self { host: Namespace::new(), directory: tempfile::tempdir().unwrap(), number, table: "caravel0".to_owned() }
    }

    /// The bridge's address.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 244, self.number, 1)
    }

    /// The configuration the runtime passes.
    pub fn config(&self) -> Value {
        json!({
            "cniVersion": "1.0.0", "name": "caravel", "type": "caravel-cni", "bridge": "cvl0",
            "subnet": format!("10.244.{}.0/24", self.number), "gateway": self.gateway(), "mtu": 1400,
            "dataDir": self.directory.path(), "table": self.table,
        })
    }

    /// Runs a verb as the runtime would.
    pub fn call(
        &self,
        command: &str,
        id: &str,
        netns: Option<&Path>,
        config: &Value,
    ) -> Result<Option<Value>, Failure> {
        let env = Environment {
            command: command.to_owned(),
            container: id.to_owned(),
            netns: netns.map(Path::to_owned),
            interface: "eth0".to_owned(),
            args: BTreeMap::from([("K8S_POD_NAME".into(), id.to_owned())]),
        };
        let input = config.to_string();
        self.host.run(|| plugin::execute(&env, input.as_bytes()))
    }

    /// Adds a Pod with host ports.
    pub fn pod_with(&self, id: &str, ports: Value) -> Result<Pod, Failure> {
        let namespace = Namespace::new();
        let mut config = self.config();
        config["runtimeConfig"] = json!({"portMappings": ports});
        let result = self.call("ADD", id, Some(&namespace.path()), &config)?.unwrap();
        let address = result["ips"][0]["address"].as_str().unwrap();
        let ip = address.split('/').next().unwrap().parse().unwrap();
        Ok(Pod { namespace, ip })
    }

    /// Adds a Pod.
    pub fn pod(&self, id: &str) -> Pod {
        self.pod_with(id, json!([])).unwrap()
    }

    /// Gives the host an address on a device that leads to another node or client.
    pub fn connect(&self, other: &Namespace, name: &str, here: &str, there: &str) {
        use std::os::fd::AsFd;
        let file = other.file();
        self.host.run(|| {
            let mut socket = Socket::route().unwrap();
            socket
                .create_veth(&crate::netlink::route::VethPair {
                    host: name,
                    master: None,
                    mtu: 1500,
                    peer: "uplink",
                    peer_mac: [2, 0, 0, 0, 0, 9],
                    netns: file.as_fd(),
                })
                .unwrap();
            let index = socket.link(name).unwrap().unwrap().index;
            socket.add_address(index, here.parse().unwrap()).unwrap();
        });
        other.run(|| {
            let mut socket = Socket::route().unwrap();
            let index = socket.link("uplink").unwrap().unwrap().index;
            socket.set_up(index).unwrap();
            socket.add_address(index, there.parse().unwrap()).unwrap();
        });
    }
}

/// Adds a route by a gateway in the current namespace.
pub fn route(to: &str, by: Ipv4Addr) {
    let mut socket = Socket::route().unwrap();
    socket
        .replace_route(&crate::netlink::route::Route {
            destination: to.parse().unwrap(),
            gateway: Some(IpAddr::V4(by)),
            interface: None,
            protocol: 3,
        })
        .unwrap();
}
