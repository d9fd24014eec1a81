//! The network of a node: Pod network (CNI plug-in), service proxy and cluster DNS.
//!
//! Each part decides in pure functions and applies in one small place: `proxy` compiles Services into
//! one nftables table, `dns` answers out of the informers' stores, `cni` gives Pods their addresses.

pub mod cni;
mod config;
pub mod netlink;

#[cfg(test)]
mod testing;

pub use config::Config;
