//! Persistent storage: binding claims to volumes, protecting what is in use, claims of ephemeral volumes.

mod bind;
mod binder;
mod ephemeral;
mod protection;

pub use binder::run as run_binder;
pub use ephemeral::run as run_ephemeral;
pub use protection::{run_claims as run_claim_protection, run_volumes as run_volume_protection};
