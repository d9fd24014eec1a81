//! WATCH: which state it begins with, and what each event of the store means to one watcher.
//!
//! The frames of a watch in the stored form are cut from the stored bytes; nothing is encoded again.

use super::list::parse_revision;
use super::options::ListOptions;
use super::{Registry, keys, store_error};
use bytes::{BufMut, Bytes, BytesMut};
use caravel_api::kinds::Kind;
use caravel_api::meta::Filter;
use caravel_api::status::ApiError;
use caravel_store::{At, Entry, Error as StoreError, Event, EventKind, Revision, Watch};
use std::sync::Arc;

/// What a watcher is told about an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It appeared (or came into the selector).
    Added,
    /// It changed.
    Modified,
    /// It went (or left the selector).
    Deleted,
}

impl Change {
    /// As on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// How a watch begins.
pub struct Opened {
    /// The present objects to be sent first, as added.
    pub initial: Vec<Arc<Entry>>,
    /// The revision of `initial`, and where the watch goes on.
    pub revision: Revision,
    /// A bookmark must follow `initial`, annotated as the end of the initial events.
    pub mark_end: bool,
    /// Then the events.
    pub watch: Watch,
}

impl Registry {
    /// Opens a watch on `kind` in `namespace` (empty for all).
    pub async fn open_watch(
        &self,
        kind: &Kind,
        namespace: &str,
        filter: &Filter,
        options: &ListOptions,
    ) -> Result<Opened, ApiError> {
        let mut prefix = keys::prefix(kind, namespace);
        if let Some(name) = filter.exact_name()
            && (!kind.namespaced || !namespace.is_empty())
            && !name.contains('/')
        {
            prefix.push_str(name);
        }
        let asked = parse_revision(&options.resource_version)?;
        let with_state = match (options.initial_events, asked) {
            (Some(initial), _) => initial,
            (None, None | Some(0)) => true,
            (None, Some(_)) => false,
        };
        if !with_state {
            let from = match asked {
                Some(revision) if revision > 0 => revision,
                _ => self.store.revision(),
            };
            let watch = self.store.watch(&prefix, from).map_err(|e| too_old(e, from))?;
            return Ok(Opened { initial: vec![], revision: from, mark_end: false, watch });
        }
        let at = match asked {
            None => At::Latest,
            Some(0) => At::Cached,
            Some(revision) => At::NotOlder(revision),
        };
        let page = self.store.list(&prefix, at, None, 0).await.map_err(store_error)?;
        let watch = self.store.watch(&prefix, page.revision).map_err(|e| too_old(e, page.revision))?;
        let mut initial = self.all_in_version(kind, page.entries).await?;
        if !filter.is_everything() {
            let mut passed = Vec::with_capacity(initial.len().min(64));
            for entry in initial {
                if filter.matches_bytes(&self.plain(&entry)?) {
                    passed.push(entry);
                }
            }
            initial = passed;
        }
        let mark_end = options.initial_events == Some(true) && options.bookmarks;
        Ok(Opened { initial, revision: page.revision, mark_end, watch })
    }

    /// What `event` means to a watcher with `filter`: how the object changed for it, and which state to show. `None` when
    /// it does not concern the watcher.
    pub fn meaning(&self, event: &Event, filter: &Filter) -> Result<Option<(Change, Arc<Entry>)>, ApiError> {
        let simple = match event.kind {
            EventKind::Created => Change::Added,
            EventKind::Updated => Change::Modified,
            EventKind::Deleted => Change::Deleted,
        };
        if filter.is_everything() {
            return Ok(Some((simple, event.entry.clone())));
        }
        let passes = |entry: &Entry| -> Result<bool, ApiError> { Ok(filter.matches_bytes(&self.plain(entry)?)) };
        match (event.kind, &event.prev) {
            (EventKind::Updated, Some(prev)) => Ok(match (passes(prev)?, passes(&event.entry)?) {
                (true, true) => Some((Change::Modified, event.entry.clone())),
                (false, true) => Some((Change::Added, event.entry.clone())),
                (true, false) => Some((Change::Deleted, Arc::new(prev.stamped(event.revision)))),
                (false, false) => None,
            }),
            _ => Ok(passes(&event.entry)?.then(|| (simple, event.entry.clone()))),
        }
    }
}

/// A watch from a forgotten revision: 410, told in the stream.
fn too_old(error: StoreError, from: Revision) -> ApiError {
    match error {
        StoreError::Compacted { oldest } => ApiError::expired(format!("too old resource version: {from} ({oldest})")),
        other => store_error(other),
    }
}

/// The error that ends a watch which fell behind.
pub fn fell_behind(error: StoreError) -> ApiError {
    match error {
        StoreError::Compacted { oldest } => ApiError::expired(format!(
            "too old resource version: this watch was too slow, and events before {oldest} are no longer kept"
        )),
        other => store_error(other),
    }
}

/// Appends the frame of one event: a line of JSON.
pub fn frame(out: &mut BytesMut, change: &str, object: &[u8]) {
    out.reserve(object.len() + 40);
    out.put_slice(b"{\"type\":\"");
    out.put_slice(change.as_bytes());
    out.put_slice(b"\",\"object\":");
    out.put_slice(object.trim_ascii_end());
    out.put_slice(b"}\n");
}

/// The object of a bookmark.
pub fn bookmark(kind: &Kind, revision: Revision, end_of_initial: bool) -> Bytes {
    let mut metadata = serde_json::json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
    if end_of_initial {
        metadata["annotations"] = serde_json::json!({"k8s.io/initial-events-end": "true"});
    }
    serde_json::json!({"kind": kind.kind, "apiVersion": kind.api_version(), "metadata": metadata})
        .to_string()
        .into_bytes()
        .into()
}
