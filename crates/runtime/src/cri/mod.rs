//! [`Runtime`](crate::Runtime) over CRI `runtime.v1`: gRPC on a Unix socket.
//!
//! containerd 1.6 does not serve CRI's own event stream, so events come from containerd's ([`events`]).

mod client;
mod convert;
pub mod events;
mod from_wire;
mod service;
mod snapshots;
mod to_wire;

pub use client::Cri;
pub(crate) use client::from_status;
