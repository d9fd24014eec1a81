//! What aggregated servers say of themselves in OpenAPI version 2, for this server's one document.
//!
//! Clients know only one such document, so theirs are read (once a minute, as upstream has it, and when a server comes back),
//! and what they have of their own group and version goes into this server's. A server that does not answer any more keeps its
//! place until its APIService goes.

use super::{Aggregation, Remote};
use crate::registry::Registry;
use bytes::Bytes;
use caravel_api::openapi::merge;
use http::StatusCode;
use http::header::ETAG;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The largest document that is read, in bytes.
const MOST: usize = 16 << 20;
/// After this it is asked for again.
const AGAIN: Duration = Duration::from_secs(60);

/// The part of a server's document that is about its group and version.
#[derive(Debug)]
pub struct Swagger {
    /// How the server marked the whole document; empty if it did not.
    tag: String,
    /// Of `part`, in hexadecimal digits.
    hash: String,
    /// As [`merge::under`] makes it, in JSON.
    part: Bytes,
}

impl Swagger {
    fn of(document: &[u8], tag: String, prefix: &str) -> Result<Self, String> {
        let document: Value = serde_json::from_slice(document).map_err(|e| format!("it is no JSON: {e}"))?;
        let part = serde_json::to_vec(&merge::under(&document, prefix)).map_err(|e| e.to_string())?;
        let hash = Sha256::digest(&part).iter().map(|byte| format!("{byte:02X}")).collect();
        Ok(Self { tag, hash, part: part.into() })
    }
}

/// What was read of a server.
#[derive(Debug, Default)]
pub(super) struct Read {
    last: Option<Instant>,
    found: Option<Arc<Swagger>>,
}

impl Remote {
    /// Reads the document, unless it was read just now and the server has not been `away` since.
    pub(super) async fn read_swagger(&self, registry: &Registry, away: bool) {
        let (last, had) = {
            let read = self.swagger.lock();
            (read.last, read.found.clone())
        };
        if !away && last.is_some_and(|last| last.elapsed() < AGAIN) {
            return;
        }
        let tag = had.as_ref().map_or("", |had| had.tag.as_str());
        match self.ask_swagger(registry, tag).await {
            Ok(found) => {
                let mut read = self.swagger.lock();
                read.last = Some(Instant::now());
                read.found = found.or(had);
            }
            // What it said before still stands, and it is asked at the next look.
            Err(why) => {
                tracing::debug!(service = %self.name, %why, "an aggregated server's OpenAPI document cannot be read")
            }
        }
    }

    /// The document, or nothing when it has none or the same as before.
    async fn ask_swagger(&self, registry: &Registry, tag: &str) -> Result<Option<Arc<Swagger>>, String> {
        let answer = self.fetch(registry, "/openapi/v2", tag, MOST).await?;
        match answer.status() {
            StatusCode::NOT_MODIFIED | StatusCode::NOT_FOUND => return Ok(None),
            status if !status.is_success() => return Err(format!("it answered {status}")),
            _ => {}
        }
        let tag = answer.headers().get(ETAG).and_then(|tag| tag.to_str().ok()).unwrap_or_default().to_owned();
        let prefix = format!("/apis/{}/{}/", self.group, self.version);
        let body = answer.into_body();
        // Megabytes of JSON are no work for a thread that others wait for.
        let work = tokio::task::spawn_blocking(move || Swagger::of(&body, tag, &prefix));
        work.await.map_err(|e| e.to_string())?.map(|found| Some(Arc::new(found)))
    }
}

/// The documents of all aggregated servers, in the order in which they are taken in: those of the highest priority first.
pub(crate) struct Swaggers(Vec<Arc<Swagger>>);

impl Aggregation {
    pub(crate) fn swaggers(&self) -> Swaggers {
        let remotes = self.remotes();
        let mut all: Vec<&Arc<Remote>> = remotes.iter().collect();
        all.sort_by(|a, b| {
            let rank = |of: &Remote| (of.group_priority, of.version_priority);
            rank(b).cmp(&rank(a)).then_with(|| a.name.cmp(&b.name))
        });
        Swaggers(all.into_iter().filter_map(|remote| remote.swagger.lock().found.clone()).collect())
    }
}

impl Swaggers {
    /// A hash of the own document, whose hash is `own`, with these in it.
    pub(crate) fn hash(&self, own: String) -> String {
        if self.0.is_empty() {
            return own;
        }
        let all = self.0.iter().fold(own, |all, one| all + &one.hash);
        Sha256::digest(all).iter().map(|byte| format!("{byte:02X}")).collect()
    }

    /// Takes them into the own document.
    pub(crate) fn merge_into(&self, document: &mut Value) {
        for one in &self.0 {
            // It was JSON before.
            if let Ok(part) = serde_json::from_slice(&one.part) {
                merge::merge(document, part);
            }
        }
    }
}
