//! The etcd backend over a real etcd that the test starts.
#![allow(clippy::unwrap_used)]

mod suite;

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use caravel_store::etcd::{Etcd, Options};
use caravel_store::{At, Error, Store, Write};

/// An etcd of our own on loopback, ended with the test.
struct Server {
    child: Option<Child>,
    dir: tempfile::TempDir,
    ports: (u16, u16),
}

impl Server {
    fn start() -> Option<Self> {
        if Command::new("etcd").arg("--version").stdout(Stdio::null()).status().is_err() {
            eprintln!("skipped: there is no etcd on this machine");
            return None;
        }
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = Self { child: None, dir: tempfile::tempdir().unwrap(), ports: (free(), free()) };
        server.run();
        Some(server)
    }

    fn run(&mut self) {
        let (client, peer) = self.ports;
        let child = Command::new("etcd")
            .arg("--data-dir")
            .arg(self.dir.path())
            .args(["--listen-client-urls", &self.url(), "--advertise-client-urls", &self.url()])
            .args(["--listen-peer-urls", &format!("http://127.0.0.1:{peer}")])
            .args(["--initial-advertise-peer-urls", &format!("http://127.0.0.1:{peer}")])
            .args(["--initial-cluster", &format!("default=http://127.0.0.1:{peer}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
        let begun = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", client)).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(20), "etcd does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.0)
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    async fn connect(&self) -> Etcd {
        Etcd::connect(Options::new([self.url()])).await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn common_suite() {
    let Some(server) = Server::start() else { return };
    suite::all(Arc::new(server.connect().await)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_expire() {
    let Some(server) = Server::start() else { return };
    suite::expiry(Arc::new(server.connect().await), Duration::from_secs(1), Duration::from_secs(20)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_see_each_other_at_once() {
    let Some(server) = Server::start() else { return };
    let (one, two) = (server.connect().await, server.connect().await);
    for i in 0..200 {
        let made = one.commit(vec![Write::put("t/k/a", format!("{i}"))]).await.unwrap();
        let seen = two.get("t/k/a", At::Latest).await.unwrap();
        assert_eq!(seen.entry.unwrap().value, format!("{i}"), "a read after an acknowledged write sees it");
        assert!(seen.revision >= made.revision);
    }
    // Somebody else's keys in the same etcd do not disturb.
    let mut foreign = etcd_client::Client::connect([server.url()], None).await.unwrap();
    for i in 0..20 {
        foreign.put(format!("elsewhere/{i}"), "x", None).await.unwrap();
        assert!(two.get("t/k/a", At::Latest).await.unwrap().entry.is_some());
    }
    assert_eq!(one.list("", At::Latest, None, 0).await.unwrap().entries.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn goes_on_after_etcd_was_gone_without_a_gap() {
    let Some(mut server) = Server::start() else { return };
    let store = server.connect().await;
    let first = store.commit(vec![Write::put("t/k/a", "1")]).await.unwrap().revision;
    let mut watch = store.watch("t/k/", first).unwrap();
    server.kill();
    let refused = store.commit(vec![Write::put("t/k/a", "2")]).await;
    assert!(matches!(refused, Err(Error::Unavailable { .. })), "{refused:?}");
    assert_eq!(store.get("t/k/a", At::Cached).await.unwrap().entry.unwrap().value, "1");
    server.run();
    // Written by another while this one may still be reconnecting.
    let other = server.connect().await;
    other.commit(vec![Write::put("t/k/b", "x")]).await.unwrap();
    let last = other.commit(vec![Write::put("t/k/c", "x")]).await.unwrap().revision;
    let mut keys = Vec::new();
    while !keys.contains(&"t/k/c".to_owned()) {
        let batch = tokio::time::timeout(Duration::from_secs(30), watch.next()).await.unwrap().unwrap();
        keys.extend(batch.events.iter().map(|e| e.key().to_string()).filter(|k| k != "t/k/a"));
    }
    assert_eq!(keys, ["t/k/b", "t/k/c"]);
    assert!(store.get("t/k/c", At::Latest).await.unwrap().revision >= last);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loads_many_pages_of_what_is_there() {
    let Some(server) = Server::start() else { return };
    let store = server.connect().await;
    for chunk in (0..1500).collect::<Vec<_>>().chunks(100) {
        store.commit(chunk.iter().map(|i| Write::put(format!("t/k/{i:05}"), "x")).collect()).await.unwrap();
    }
    let again = server.connect().await;
    let page = again.list("t/k/", At::Cached, None, 0).await.unwrap();
    assert_eq!(page.entries.len(), 1500);
    assert_eq!(page.revision, store.revision());
}

#[tokio::test]
async fn nonsense_is_refused() {
    let none: [String; 0] = [];
    assert!(matches!(Etcd::connect(Options::new(none)).await.err().unwrap(), Error::Config { .. }));
    let options = Options { prefix: "x".into(), ..Options::new(["http://127.0.0.1:1"]) };
    assert!(matches!(Etcd::connect(options).await.err().unwrap(), Error::Config { .. }));
    let nobody = Etcd::connect(Options::new(["http://127.0.0.1:1"])).await.err().unwrap();
    assert!(matches!(nobody, Error::Unavailable { .. }), "{nobody}");
}
