//! The node controllers: noticing that a node is lost, taints, eviction from tainted nodes, pod networks.

mod eviction;
mod health;
mod ipam;

pub use eviction::{disrupt, run as run_eviction, tolerates};
pub use health::run as run_lifecycle;
pub use ipam::run as run_ipam;
