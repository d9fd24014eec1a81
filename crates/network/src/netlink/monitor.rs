//! Tells when somebody deletes an nftables table (`nft flush ruleset` deletes all).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType};
use tokio::io::unix::AsyncFd;

use super::nft::{Table, is_deletion_of};
use super::{Error, Parts};

/// `NFNLGRP_NFTABLES`, as a bit.
const GROUP: u32 = 1 << 6;

/// A subscription to changes of nftables in this network namespace.
pub struct Monitor {
    fd: AsyncFd<OwnedFd>,
}

impl Monitor {
    /// Subscribes. Must be called inside a tokio runtime.
    pub fn open() -> Result<Self, Error> {
        let fd = socket::socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkNetFilter,
        )?;
        socket::bind(fd.as_raw_fd(), &NetlinkAddr::new(0, GROUP))?;
        // SAFETY: the descriptor is owned by the AsyncFd and stays open as long as it is registered.
        let fd = unsafe { AsyncFd::register(fd) };
        Ok(Self { fd: fd.map_err(io::Error::from)? })
    }

    /// Returns when the table may have been deleted: look whether it exists.
    pub async fn deleted(&self, table: &Table) -> io::Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let mut ready = self.fd.readable().await?;
            match socket::recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) => {
                    let mut parts = Parts::new(&buffer[..length]);
                    if parts.any(|part| is_deletion_of(table, part.kind, part.payload)) {
                        return Ok(());
                    }
                }
                Err(Errno::EAGAIN) => ready.clear_ready(),
                // Messages were lost: it may have been among them.
                Err(Errno::ENOBUFS) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}
