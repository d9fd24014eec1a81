//! Durations as flags of Kubernetes have them: Go's `1m30s`, `500ms`.

use std::time::Duration;

pub use caravel_api::duration::text_std as text;

/// Reads a duration that is not negative.
///
/// # Errors
/// What would be right.
pub fn parse(text: &str) -> Result<Duration, String> {
    caravel_api::duration::parse_std(text)
        .ok_or_else(|| format!("{text:?} must be a duration such as 30s, 1m30s or 500ms"))
}
