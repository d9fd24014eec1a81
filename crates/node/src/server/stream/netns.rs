//! Connections from inside a Pod's network.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use tokio::net::{TcpSocket, TcpStream};

/// Connects to a port of `localhost` in the network namespace of a process, by IPv4 or else IPv6.
pub(super) async fn connect(pid: i32, port: u16) -> io::Result<TcpStream> {
    let (four, six) = tokio::task::spawn_blocking(move || on_own_thread(pid)).await.map_err(io::Error::other)??;
    let first = tcp(four)?.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await;
    let result = match (first, six) {
        (Err(error), Some(six)) => {
            let second = tcp(six)?.connect(SocketAddr::from((Ipv6Addr::LOCALHOST, port))).await;
            second.map_err(|_| error)
        }
        (first, _) => first,
    };
    let stream = result?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn tcp(fd: OwnedFd) -> io::Result<TcpSocket> {
    // SAFETY: the descriptor is an open socket, and ours alone.
    Ok(unsafe { TcpSocket::from_raw_fd(fd.into_raw_fd()) })
}

/// A socket belongs to the namespace in which it was made, whoever uses it later. The thread that enters the
/// namespace ends afterwards: one that came back from it might be left there by an error.
fn on_own_thread(pid: i32) -> io::Result<(OwnedFd, Option<OwnedFd>)> {
    let namespace = File::open(format!("/proc/{pid}/ns/net"))?;
    let thread = std::thread::Builder::new().name("pod-network".into()).spawn(move || {
        setns(&namespace, CloneFlags::CLONE_NEWNET)?;
        let make = |family| socket(family, SockType::Stream, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, None);
        Ok::<_, nix::Error>((make(AddressFamily::Inet)?, make(AddressFamily::Inet6).ok()))
    })?;
    let result = thread.join().map_err(|_| io::Error::other("the thread in the Pod's network broke off"))?;
    Ok(result?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn our_own_namespace_is_reached_without_leaving_it() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        match connect(std::process::id() as i32, port).await {
            Ok(_) => {}
            // setns needs privileges.
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied),
        }
        assert!(connect(i32::MAX, port).await.is_err());
    }
}
