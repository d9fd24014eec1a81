//! A steady HTTP load, with every failed request counted.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// One GET over a new connection; the body, or what went wrong.
pub fn get(address: SocketAddr) -> Result<String, String> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT).map_err(|e| format!("connect: {e}"))?;
    let limits = stream.set_read_timeout(Some(TIMEOUT)).and(stream.set_write_timeout(Some(TIMEOUT)));
    limits.map_err(|e| e.to_string())?;
    stream.write_all(b"GET / HTTP/1.0\r\nHost: demo\r\n\r\n").map_err(|e| format!("write: {e}"))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(|e| format!("read: {e}"))?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.split(' ').nth(1) == Some("200") => Ok(body.to_owned()),
        Some((head, _)) => Err(head.lines().next().unwrap_or_default().to_owned()),
        None => Err(format!("an answer of {} bytes without an end of its head", answer.len())),
    }
}

#[derive(Default)]
struct Counts {
    stop: AtomicBool,
    ok: AtomicU64,
    failed: AtomicU64,
}

/// Requests going on in the background until [`Load::stop`].
pub struct Load {
    counts: Arc<Counts>,
    threads: Vec<JoinHandle<Option<String>>>,
}

impl Load {
    /// `threads` threads, each one request after another with 5 ms between.
    pub fn start(address: SocketAddr, threads: usize) -> Load {
        let counts = Arc::new(Counts::default());
        let one = |counts: Arc<Counts>| {
            move || {
                let mut first_error = None;
                while !counts.stop.load(Relaxed) {
                    match get(address) {
                        Ok(_) => {
                            counts.ok.fetch_add(1, Relaxed);
                        }
                        Err(error) => {
                            counts.failed.fetch_add(1, Relaxed);
                            first_error.get_or_insert(error);
                        }
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
                first_error
            }
        };
        let threads = (0..threads).map(|_| std::thread::spawn(one(counts.clone()))).collect();
        Load { counts, threads }
    }

    /// Ends it: requests answered, requests failed, and the first failure.
    pub fn stop(self) -> (u64, u64, Option<String>) {
        self.counts.stop.store(true, Relaxed);
        let errors: Vec<String> = self.threads.into_iter().filter_map(|t| t.join().ok().flatten()).collect();
        (self.counts.ok.load(Relaxed), self.counts.failed.load(Relaxed), errors.into_iter().next())
    }
}
