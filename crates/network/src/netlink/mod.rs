//! A small blocking netlink client: message building, requests, dumps and nf_tables batches.
//!
//! The kernel answers netlink requests inside the `send` call, so a blocking socket never waits
//! for anything but the kernel's own work; the CNI plug-in therefore needs no async runtime.

pub mod attr;
pub mod conntrack;
pub mod monitor;
pub mod nft;
pub mod route;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{self, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType};

pub use attr::{Attrs, Message};

/// Flags of `struct nlmsghdr` (linux/netlink.h).
pub mod flags {
    /// The message is a request.
    pub const REQUEST: u16 = 0x1;
    /// The kernel answers with an acknowledgement.
    pub const ACK: u16 = 0x4;
    /// List everything that matches.
    pub const DUMP: u16 = 0x300;
    /// Replace what exists.
    pub const REPLACE: u16 = 0x100;
    /// Fail when it exists.
    pub const EXCL: u16 = 0x200;
    /// Create when it does not exist.
    pub const CREATE: u16 = 0x400;
    /// Add at the end.
    pub const APPEND: u16 = 0x800;
}

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER: usize = 16;
/// Netlink dumps come in datagrams of at most 32 KiB; twice that leaves room for large single objects.
const RECEIVE: usize = 64 * 1024;
/// Largest batch that is sent in one transaction, in bytes.
const MAX_BATCH: usize = 256 * 1024 * 1024;

/// What the kernel refused, in words.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel answered a request with an error.
    #[error("cannot {what}: {errno}{}", detail(.message))]
    Refused {
        /// The operation, as a verb phrase.
        what: String,
        /// The kernel's error number.
        errno: Errno,
        /// The extended acknowledgement, where the kernel gave one.
        message: Option<String>,
    },
    /// The socket itself failed.
    #[error("netlink socket: {0}")]
    Socket(#[from] io::Error),
    /// The kernel sent something that does not parse.
    #[error("netlink answer does not parse while trying to {0}")]
    Malformed(String),
}

fn detail(message: &Option<String>) -> String {
    message.as_ref().map(|m| format!(" ({m})")).unwrap_or_default()
}

impl Error {
    /// The error number, where the kernel gave one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Error::Refused { errno, .. } => Some(*errno),
            _ => None,
        }
    }

    /// Whether the object that was named does not exist.
    pub fn is_absent(&self) -> bool {
        matches!(self.errno(), Some(Errno::ENOENT | Errno::ENODEV | Errno::ESRCH | Errno::EADDRNOTAVAIL))
    }

    /// Whether the object exists already.
    pub fn exists(&self) -> bool {
        self.errno() == Some(Errno::EEXIST)
    }
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        Error::Socket(io::Error::from_raw_os_error(errno as i32))
    }
}

/// One datagram part that the kernel sent: its type and its payload after the header.
pub struct Reply {
    /// `nlmsg_type`.
    pub kind: u16,
    /// The bytes after `struct nlmsghdr`.
    pub payload: Vec<u8>,
}

/// A netlink socket of one protocol, bound to the network namespace in which it was opened.
pub struct Socket {
    fd: OwnedFd,
    seq: u32,
}

impl Socket {
    /// Opens a socket for links, addresses and routes.
    pub fn route() -> Result<Self, Error> {
        Self::open(SockProtocol::NetlinkRoute)
    }

    /// Opens a socket for nf_tables and conntrack.
    pub fn netfilter() -> Result<Self, Error> {
        Self::open(SockProtocol::NetlinkNetFilter)
    }

    fn open(protocol: SockProtocol) -> Result<Self, Error> {
        let fd = socket::socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        socket::bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        let socket = Self { fd, seq: 1 };
        socket.option(libc::NETLINK_EXT_ACK);
        socket.option(libc::NETLINK_CAP_ACK);
        Ok(socket)
    }

    /// Sets a boolean option; old kernels lack some, which only costs detail in error messages.
    fn option(&self, name: libc::c_int) {
        let one: libc::c_int = 1;
        // SAFETY: the descriptor is open for the life of `self` and the pointer is to a live c_int of the stated size.
        unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_NETLINK,
                name,
                std::ptr::from_ref(&one).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            );
        }
    }

    fn next_seq(&mut self) -> u32 {
        self.seq = self.seq.wrapping_add(1).max(1);
        self.seq
    }

    /// Sends one request, waits for its acknowledgement, and returns what came before it.
    pub fn request(&mut self, what: &str, message: Message) -> Result<Vec<Reply>, Error> {
        let seq = self.next_seq();
        let bytes = message.finish(seq, flags::REQUEST | flags::ACK);
        socket::send(self.fd.as_raw_fd(), &bytes, MsgFlags::empty())?;
        self.collect(what, seq)
    }

    /// Sends a dump request and returns every part of the answer.
    pub fn dump(&mut self, what: &str, message: Message) -> Result<Vec<Reply>, Error> {
        // A dump that was interrupted by a change is inconsistent (NLM_F_DUMP_INTR): take it again.
        for _ in 0..8 {
            let seq = self.next_seq();
            let bytes = message.clone().finish(seq, flags::REQUEST | flags::DUMP);
            socket::send(self.fd.as_raw_fd(), &bytes, MsgFlags::empty())?;
            match self.collect(what, seq) {
                Err(Error::Refused { errno: Errno::EINTR, .. }) => continue,
                other => return other,
            }
        }
        Err(Error::Refused {
            what: what.to_owned(),
            errno: Errno::EINTR,
            message: Some("the list kept changing while it was read".to_owned()),
        })
    }

    fn collect(&mut self, what: &str, seq: u32) -> Result<Vec<Reply>, Error> {
        const NLM_F_DUMP_INTR: u16 = 0x10;
        let mut replies = Vec::new();
        let mut interrupted = false;
        let mut buffer = vec![0; RECEIVE];
        loop {
            let length = socket::recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            for part in Parts::new(&buffer[..length]) {
                if part.seq != seq {
                    continue;
                }
                interrupted |= part.flags & NLM_F_DUMP_INTR != 0;
                match part.kind {
                    NLMSG_ERROR => {
                        refused(what, &part)?;
                        return Ok(replies);
                    }
                    NLMSG_DONE if interrupted => {
                        return Err(Error::Refused { what: what.to_owned(), errno: Errno::EINTR, message: None });
                    }
                    NLMSG_DONE => return Ok(replies),
                    kind => replies.push(Reply { kind, payload: part.payload.to_vec() }),
                }
            }
        }
    }

    /// Sends an nf_tables batch, which the kernel applies whole or not at all.
    ///
    /// `describe` names the operation of a message by its position, for the error.
    pub fn batch(&mut self, messages: Vec<Message>, describe: impl Fn(usize) -> String) -> Result<(), Error> {
        let first = self.next_seq();
        let mut bytes = Vec::with_capacity(messages.iter().map(Message::len).sum::<usize>() + 64);
        let count = messages.len() as u32;
        nft::batch_begin().append_to(&mut bytes, first, flags::REQUEST);
        for (offset, message) in messages.into_iter().enumerate() {
            let seq = first.wrapping_add(1 + offset as u32);
            message.append_to(&mut bytes, seq, flags::REQUEST);
        }
        let end = first.wrapping_add(1 + count);
        nft::batch_end().append_to(&mut bytes, end, flags::REQUEST);
        self.seq = end;
        if bytes.len() > MAX_BATCH {
            return Err(Error::Refused {
                what: "apply nf_tables batch".to_owned(),
                errno: Errno::EMSGSIZE,
                message: Some(format!("the batch has {} bytes, over {MAX_BATCH}", bytes.len())),
            });
        }
        self.room_for(bytes.len())?;
        socket::send(self.fd.as_raw_fd(), &bytes, MsgFlags::empty())?;
        self.batch_errors(first, &describe)
    }

    /// Grows the send buffer: a batch has to fit into one datagram.
    fn room_for(&self, length: usize) -> Result<(), Error> {
        let size = (length * 2).max(256 * 1024);
        socket::setsockopt(&self.fd, socket::sockopt::SndBufForce, &size)?;
        Ok(())
    }

    /// The kernel has worked through a batch when `send` returns; only errors wait to be read.
    fn batch_errors(&mut self, first: u32, describe: &impl Fn(usize) -> String) -> Result<(), Error> {
        let mut result = Ok(());
        let mut buffer = vec![0; RECEIVE];
        loop {
            let length = match socket::recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => length,
                Err(Errno::EAGAIN) => return result,
                // The queue of error reports overflowed: the first ones are kept.
                Err(Errno::ENOBUFS) => continue,
                Err(errno) => return Err(errno.into()),
            };
            for part in Parts::new(&buffer[..length]) {
                if part.kind != NLMSG_ERROR || result.is_err() {
                    continue;
                }
                let what = match part.seq.wrapping_sub(first) {
                    0 => "begin nf_tables batch".to_owned(),
                    position => describe(position as usize - 1),
                };
                result = refused(&what, &part);
            }
        }
    }
}

/// Reads an `NLMSG_ERROR`: zero is an acknowledgement.
fn refused(what: &str, part: &Part<'_>) -> Result<(), Error> {
    const NLM_F_CAPPED: u16 = 0x100;
    const NLM_F_ACK_TLVS: u16 = 0x200;
    const NLMSGERR_ATTR_MSG: u16 = 1;
    let code = part
        .payload
        .get(..4)
        .and_then(|b| b.try_into().ok())
        .map(i32::from_ne_bytes)
        .ok_or_else(|| Error::Malformed(what.to_owned()))?;
    if code == 0 {
        return Ok(());
    }
    let message = (part.flags & NLM_F_ACK_TLVS != 0)
        .then(|| {
            let echoed = if part.flags & NLM_F_CAPPED != 0 {
                HEADER
            } else {
                let length = part.payload.get(4..8)?.try_into().ok()?;
                attr::align(u32::from_ne_bytes(length) as usize)
            };
            let attrs = Attrs::new(part.payload.get(4 + echoed..)?);
            attrs.find(NLMSGERR_ATTR_MSG).map(attr::text)
        })
        .flatten();
    Err(Error::Refused { what: what.to_owned(), errno: Errno::from_raw(-code), message })
}

struct Part<'a> {
    kind: u16,
    flags: u16,
    seq: u32,
    payload: &'a [u8],
}

/// Iterates over the messages of one datagram; stops at the first that is cut short.
struct Parts<'a>(&'a [u8]);

impl<'a> Parts<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
}

impl<'a> Iterator for Parts<'a> {
    type Item = Part<'a>;

    fn next(&mut self) -> Option<Part<'a>> {
        let header = self.0.get(..HEADER)?;
        let length = u32::from_ne_bytes(header[0..4].try_into().ok()?) as usize;
        let payload = self.0.get(HEADER..length)?;
        let part = Part {
            kind: u16::from_ne_bytes(header[4..6].try_into().ok()?),
            flags: u16::from_ne_bytes(header[6..8].try_into().ok()?),
            seq: u32::from_ne_bytes(header[8..12].try_into().ok()?),
            payload,
        };
        self.0 = self.0.get(attr::align(length)..).unwrap_or_default();
        Some(part)
    }
}
