//! The cgroups of Pods: one for each, below one for each quality of service, below the node's root.
//!
//! ```text
//! <root>/pod<uid>               Guaranteed
//! <root>/burstable/pod<uid>     Burstable
//! <root>/besteffort/pod<uid>    BestEffort
//! ```

mod fs;
pub mod limits;
pub mod qos;

pub use fs::Cgroups;
