//! The four patches: JSON Patch (RFC 6902), JSON Merge Patch (RFC 7386), strategic merge patch and server-side
//! apply. All are pure functions over values; the last two are driven by the schema.

pub mod apply;
pub mod json;
pub mod merge;
pub mod strategic;
#[cfg(test)]
mod tests;

use crate::status::ApiError;

/// Why a patch was not applied.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum PatchError {
    /// The patch itself is malformed. 400.
    #[error("{0}")]
    Malformed(String),
    /// The patch does not fit the object: a path that is not there, a test that fails. 422.
    #[error("{0}")]
    Unfit(String),
    /// The patch is larger than allowed. 413.
    #[error("{0}")]
    TooLarge(String),
}

impl From<PatchError> for ApiError {
    fn from(error: PatchError) -> ApiError {
        let message = error.to_string();
        match error {
            PatchError::Malformed(_) => ApiError::bad_request(message),
            PatchError::TooLarge(_) => ApiError::too_large(message),
            PatchError::Unfit(_) => {
                let general = "the server rejected our request due to an error in our request";
                ApiError::new(422, "Invalid", general).with_cause("UnexpectedServerResponse", message, "")
            }
        }
    }
}
