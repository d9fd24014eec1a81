//! Containers, in the verbs of the Container Runtime Interface (CRI).
//!
//! The room knows nothing of the rest of the house. It offers:
//!
//! * [`Runtime`]: what a node asks of whatever runs containers. Plain structs of ours go in and out
//!   ([`types`]); the wire format of one runtime is that runtime's own business.
//! * `cri::Cri`: the trait over gRPC, for containerd (or anything that serves CRI `runtime.v1`).
//! * `containerd::Containerd`: starts, adopts, watches, stops and purges a containerd of our own in
//!   the data directory.
//! * `images`: brings images into the node without a registry, and builds them from files.
//! * `pause`: the program and image that hold a Pod's namespaces open.

pub mod containerd;
pub mod cri;
pub mod error;
pub mod images;
pub mod pause;
pub mod runtime;
pub mod types;

pub use error::{Error, Result};
pub use runtime::{Fut, Runtime};
pub use types::*;
