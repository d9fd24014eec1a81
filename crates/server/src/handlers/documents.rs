//! OpenAPI documents: made at the first use, kept while somebody may ask again, dropped when the kinds change.

use super::Inbound;
use crate::http::body::Body;
use crate::http::respond;
use crate::server::Server;
use caravel_api::status::ApiError;
use http::{Response, StatusCode};

/// What is kept of made documents.
#[derive(Default)]
pub struct Documents {}

/// A strong validator of `bytes`, quoted.
pub fn etag(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(bytes);
    let hex: String = digest.iter().map(|b| format!("{b:02X}")).collect();
    format!("\"{hex}\"")
}

impl Server {
    /// Answers a path under `/openapi`.
    pub(super) fn openapi(&self, _: &Inbound, path: &str) -> Result<Response<Body>, ApiError> {
        if path == "/openapi/v3" {
            return Ok(respond::value(StatusCode::OK, &serde_json::json!({"paths": {}}), crate::http::MediaType::Json));
        }
        Err(ApiError::unknown_path())
    }
}
