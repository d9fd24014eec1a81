//! TCP connections of probes and hooks.

use std::io::ErrorKind;
use std::time::Duration;

use tokio::net::TcpStream;

/// Connects. The error is worded as Go words it.
pub async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    let shown = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    TcpStream::connect((host, port)).await.map_err(|e| {
        let why = match e.kind() {
            ErrorKind::ConnectionRefused => "connection refused".to_owned(),
            ErrorKind::HostUnreachable => "no route to host".to_owned(),
            ErrorKind::NetworkUnreachable => "network is unreachable".to_owned(),
            ErrorKind::TimedOut => "connection timed out".to_owned(),
            _ => e.to_string(),
        };
        format!("dial tcp {shown}: connect: {why}")
    })
}

/// Whether something accepts connections.
pub async fn probe(host: &str, port: u16, timeout: Duration) -> Result<(), String> {
    match tokio::time::timeout(timeout, connect(host, port)).await {
        Ok(r) => r.map(drop),
        Err(_) => Err(format!("dial tcp {host}:{port}: i/o timeout")),
    }
}
