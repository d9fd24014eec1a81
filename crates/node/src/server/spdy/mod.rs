//! SPDY/3.1 framing, as far as Kubernetes' streaming needs it, for both ends of a connection.
//!
//! kubectl's fall-back for exec, attach and port-forward speaks it, the WebSocket form of port-forward carries it, and
//! containerd's streaming server offers no other way to close standard input alone.
//!
//! The peers (moby/spdystream) neither send nor honour window updates, so flow control is that of the connection below:
//! each stream holds a few frames, then reading stops until they are taken.

mod connection;
mod frame;
mod headers;

pub use connection::{Connection, Incoming, Reader, Stream, Writer};
pub use frame::Headers;

/// Which end we are; it decides the numbers of streams that we open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Opens streams 1, 3, …
    Client,
    /// Opens streams 2, 4, …
    Server,
}
