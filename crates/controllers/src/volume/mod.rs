//! Persistent storage: binding claims to volumes, attaching volumes to nodes, expansion, protecting what is in use, claims of
//! ephemeral volumes.

mod attach;
mod bind;
mod binder;
mod ephemeral;
mod expand;
mod protection;

pub use attach::run as run_attach_detach;
pub use binder::run as run_binder;
pub use ephemeral::run as run_ephemeral;
pub use expand::run as run_expand;
pub use protection::{
    run_claims as run_claim_protection, run_classes as run_class_protection, run_volumes as run_volume_protection,
};
