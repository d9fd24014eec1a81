//! What several controllers share: metadata helpers, selectors, pod states, expectations, adoption, revisions, writes.

pub mod claim;
pub mod discovery;
pub mod expectations;
pub mod floor;
pub mod hash;
pub mod history;
pub mod meta;
pub mod metadata;
pub mod node_affinity;
pub mod pod;
pub mod pod_control;
pub mod selector;
pub mod write;

pub use claim::{apply_claim, claim};
pub use expectations::Expectations;
pub use floor::Floor;
pub use meta::*;
pub use selector::Selector;
pub use write::*;

use std::time::Duration;

/// What a reconcile answers: `None` when the present needs no further look, or the time after which to look again.
pub type Outcome = anyhow::Result<Option<Duration>>;

/// An object that the server has and the cache has yet to meet is asked for again after this long: if it goes before a watch or a list
/// shows it, no change will tell.
pub const UNMET: Duration = Duration::from_secs(1);

/// The smaller of two optional wake-up times; `None` means never.
pub fn sooner(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
