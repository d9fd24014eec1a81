//! UDP and TCP at one address.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::catalog::Catalog;
use super::resolve::{Resolver, Transport};

/// Datagrams that wait for other resolvers at a time; more are dropped, as a full queue would.
const MAX_DATAGRAMS: usize = 1024;
/// TCP connections at a time.
const MAX_STREAMS: usize = 128;
/// Longest silence of a TCP client.
const PATIENCE: Duration = Duration::from_secs(10);
/// Wait before the address is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Serves until `stop`. The address may appear later, or be taken for a while.
pub async fn run<C: Catalog + 'static>(at: SocketAddr, resolver: Arc<Resolver<C>>, stop: CancellationToken) {
    let mut told = false;
    loop {
        match bind(at).await {
            Ok((socket, listener)) => {
                told = false;
                tokio::select! {
                    () = datagrams(socket, resolver.clone()) => {}
                    () = streams(listener, resolver.clone()) => {}
                    () = stop.cancelled() => return,
                }
            }
            Err(error) if !told => {
                tracing::warn!(%at, %error, "cluster DNS cannot listen; trying again");
                told = true;
            }
            Err(_) => {}
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn bind(at: SocketAddr) -> io::Result<(Arc<UdpSocket>, TcpListener)> {
    let socket = UdpSocket::bind(at).await?;
    Ok((Arc::new(socket), TcpListener::bind(at).await?))
}

/// Serves datagrams until the socket fails.
pub async fn datagrams<C: Catalog + 'static>(socket: Arc<UdpSocket>, resolver: Arc<Resolver<C>>) {
    let room = Arc::new(Semaphore::new(MAX_DATAGRAMS));
    let mut buffer = vec![0; 4096];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // An earlier answer could not be delivered; the socket goes on.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(error) => {
                tracing::warn!(%error, "the DNS socket failed");
                return;
            }
        };
        let Ok(permit) = room.clone().try_acquire_owned() else {
            continue;
        };
        let bytes = buffer[..length].to_vec();
        let (socket, resolver) = (socket.clone(), resolver.clone());
        tokio::spawn(async move {
            let _permit = permit;
            let answer = resolver.answer(&bytes, from.ip(), Transport::Datagram).await;
            if let Some(answer) = answer {
                // A client that is gone is its own affair.
                let _ = socket.send_to(&answer, from).await;
            }
        });
    }
}

/// Serves connections for ever.
pub async fn streams<C: Catalog + 'static>(listener: TcpListener, resolver: Arc<Resolver<C>>) {
    let room = Arc::new(Semaphore::new(MAX_STREAMS));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, from)) => {
                let resolver = resolver.clone();
                tokio::spawn(async move {
                    let _permit = permit;
                    // Ends with the client's silence, or its mistake.
                    let _ = connection(stream, from, &resolver).await;
                });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn connection<C: Catalog>(mut stream: TcpStream, from: SocketAddr, resolver: &Resolver<C>) -> io::Result<()> {
    let silent = |_| io::Error::from(io::ErrorKind::TimedOut);
    loop {
        let length = timeout(PATIENCE, stream.read_u16()).await.map_err(silent)??;
        let mut bytes = vec![0; usize::from(length)];
        let read = timeout(PATIENCE, stream.read_exact(&mut bytes));
        read.await.map_err(silent)??;
        let answer = resolver.answer(&bytes, from.ip(), Transport::Stream).await;
        let Some(answer) = answer.filter(|a| a.len() <= usize::from(u16::MAX)) else {
            return Ok(());
        };
        let mut framed = Vec::with_capacity(answer.len() + 2);
        framed.extend_from_slice(&(answer.len() as u16).to_be_bytes());
        framed.extend_from_slice(&answer);
        let written = timeout(PATIENCE, stream.write_all(&framed));
        written.await.map_err(silent)??;
    }
}
