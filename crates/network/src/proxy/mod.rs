//! The service proxy: Services and EndpointSlices become one nftables table.
//!
//! `compile` turns one Service into rows of maps, purely. `desired` merges the rows of all Services and
//! says what a change adds and removes. `apply` sends that to the kernel in one transaction. `sync`
//! wires the three to informers.
//!
//! There is no chain for a Service: a frontend (address, protocol, port) is a row of a verdict map that
//! leads to a chain shared by all frontends of the same shape (how many endpoints, which masquerading,
//! which affinity), and its endpoints are rows of one map, numbered. So a change of a Service changes
//! only rows, whatever the number of Services.

pub mod apply;
pub mod base;
pub mod compile;
pub mod desired;
pub mod endpoints;
pub mod health;
pub mod shape;
mod sync;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_kernel;

pub use apply::purge;
pub use sync::run;
