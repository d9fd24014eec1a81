//! Dynamic resource allocation (KEP-4381): which devices a pod's claims get.
//!
//! Drivers tell of their devices in ResourceSlices, users say in ResourceClaims what they need, and the scheduler picks devices for a
//! node: [`search`] is the allocator, a pure function of the pools that a node can reach ([`pools`]), of what is taken already
//! ([`usage`]) and of the claims ([`claim`]). What is decided and not written yet counts as taken ([`state`]).
//!
//! Also here: lists of alternatives (KEP-4816), admin access (KEP-5018), shared counters of partitionable devices (KEP-4815), taints of
//! devices (KEP-5055), devices of which several claims take a part (KEP-5075), claims for extended resources ([`extended`], KEP-5004), and
//! conditions that devices want to be met before their pod is bound ([`binding`], KEP-5007).

pub mod binding;
pub mod capacity;
pub mod claim;
pub mod constraint;
pub mod extended;
pub mod pools;
pub mod result;
pub mod search;
pub mod slice;
pub mod state;
pub mod usage;

use std::fmt;
use std::sync::Arc;

/// Most devices of one claim (`AllocationResultsMaxSize`).
pub const MAX_RESULTS: usize = 32;
/// Most users of one claim (`ResourceClaimReservedForMaxSize`).
pub const MAX_RESERVED: usize = 256;

/// A device in the whole cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId {
    /// Who drives it.
    pub driver: Arc<str>,
    /// The pool it is in.
    pub pool: Arc<str>,
    /// Its name there.
    pub device: Arc<str>,
}

impl DeviceId {
    /// From its three names.
    pub fn new(driver: &str, pool: &str, device: &str) -> Self {
        Self { driver: driver.into(), pool: pool.into(), device: device.into() }
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.driver, self.pool, self.device)
    }
}
