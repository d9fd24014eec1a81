//! The shape in which objects and lists go out: as they are, as a Table, or as metadata only.

use super::Inbound;
use crate::http::body::Body;
use crate::http::negotiate::{Accept, Form, MediaType};
use crate::http::respond;
use crate::registry::codec;
use crate::registry::list::Listed;
use crate::request_info::query_value;
use crate::server::Server;
use bytes::{BufMut, Bytes, BytesMut};
use caravel_api::kinds::Kind;
use caravel_api::status::ApiError;
use caravel_api::table::{self, IncludeObject};
use caravel_store::Entry;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use std::sync::Arc;

/// Lists go out in pieces of about this many bytes.
const PIECE: usize = 64 * 1024;

/// How rows of a table are made for a request.
pub fn table_options(server: &Server, inbound: &Inbound, headers: bool) -> Result<table::Options, ApiError> {
    let text = query_value(&inbound.parts.uri, "includeObject").unwrap_or_default();
    let include = IncludeObject::parse(&text).ok_or_else(|| {
        ApiError::bad_request(format!(
            "unrecognized includeObject value: {text:?}: supported are None, Metadata, Object"
        ))
    })?;
    Ok(table::Options { now: server.config.clock.now(), include, headers })
}

/// Metadata only.
pub fn partial(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": object.get("metadata").cloned().unwrap_or_default(),
    })
}

impl Server {
    /// One stored object.
    pub(super) fn present(
        &self,
        inbound: &Inbound,
        kind: &Kind,
        entry: &Entry,
        accept: Accept,
        status: StatusCode,
    ) -> Result<Response<Body>, ApiError> {
        match accept.form {
            Form::Object => Ok(respond::stored(status, self.registry.served(kind, entry)?, accept.media)),
            _ => {
                let object = self.registry.parse(kind, entry)?;
                self.present_value(inbound, kind, &object, accept, status)
            }
        }
    }

    /// One object that is not stored as it goes out.
    pub(crate) fn present_value(
        &self,
        inbound: &Inbound,
        kind: &Kind,
        object: &Value,
        accept: Accept,
        status: StatusCode,
    ) -> Result<Response<Body>, ApiError> {
        let value = match accept.form {
            Form::Object => return Ok(respond::value(status, object, accept.media)),
            Form::Metadata => partial(object),
            Form::Table => table::render(kind, &[object], None, &table_options(self, inbound, true)?),
        };
        Ok(respond::value(status, &value, accept.media))
    }

    /// A list.
    pub(super) fn present_list(
        &self,
        inbound: &Inbound,
        kind: &Kind,
        listed: &Listed,
        accept: Accept,
    ) -> Result<Response<Body>, ApiError> {
        let mut metadata = json!({"resourceVersion": listed.revision.to_string()});
        if !listed.token.is_empty() {
            metadata["continue"] = json!(listed.token);
        }
        if let Some(remaining) = listed.remaining {
            metadata["remainingItemCount"] = json!(remaining);
        }
        match accept.form {
            Form::Object if accept.media == MediaType::Json => self.stream_list(kind, listed, &metadata),
            Form::Table => {
                let objects: Vec<Value> =
                    listed.entries.iter().map(|e| self.registry.parse(kind, e)).collect::<Result<_, _>>()?;
                let references: Vec<&Value> = objects.iter().collect();
                let options = table_options(self, inbound, true)?;
                let value = table::render(kind, &references, Some(&metadata), &options);
                Ok(respond::value(StatusCode::OK, &value, accept.media))
            }
            form => {
                let mut items = Vec::with_capacity(listed.entries.len());
                for entry in &listed.entries {
                    let object = self.registry.parse(kind, entry)?;
                    items.push(if form == Form::Metadata { partial(&object) } else { object });
                }
                let value = match form {
                    Form::Metadata => json!({
                        "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                        "metadata": metadata, "items": items,
                    }),
                    _ => json!({
                        "kind": kind.list_kind, "apiVersion": kind.api_version(), "metadata": metadata, "items": items,
                    }),
                };
                Ok(respond::value(StatusCode::OK, &value, accept.media))
            }
        }
    }

    /// The stored bytes of all items between brackets. Items of built-in kinds go without kind and apiVersion, which the
    /// list says once; those of custom resources carry them, as upstream.
    fn stream_list(&self, kind: &Kind, listed: &Listed, metadata: &Value) -> Result<Response<Body>, ApiError> {
        let head = format!(
            "{{\"kind\":{},\"apiVersion\":{},\"metadata\":{metadata},\"items\":[",
            json!(kind.list_kind),
            json!(kind.api_version())
        );
        let total: usize = listed.entries.iter().map(|e| e.value.len()).sum();
        let mut items = Vec::with_capacity(listed.entries.len());
        for entry in &listed.entries {
            items.push(match self.registry.is_served_as_stored(kind, entry) {
                true => Item::Stored(entry.clone()),
                // What can fail does so before the answer begins.
                false => Item::Made(self.registry.served(kind, entry)?),
            });
        }
        let pieces = ListPieces { head: Some(head), items: items.into_iter(), whole: kind.is_custom(), first: true };
        Ok(respond::with(StatusCode::OK, MediaType::Json.header(), Body::pieces(pieces, total as u64)))
    }
}

/// An item of a list.
enum Item {
    Stored(Arc<Entry>),
    Made(Bytes),
}

/// Makes the text of a list piece by piece.
struct ListPieces {
    /// What comes before the items; `None` once it is said.
    head: Option<String>,
    items: std::vec::IntoIter<Item>,
    /// Items carry kind and apiVersion.
    whole: bool,
    first: bool,
}

impl Iterator for ListPieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.head.is_none() && self.items.as_slice().is_empty() {
            return None;
        }
        let mut piece = BytesMut::with_capacity(PIECE + 4096);
        piece.put_slice(self.head.take().unwrap_or_default().as_bytes());
        for item in self.items.by_ref() {
            if !std::mem::take(&mut self.first) {
                piece.put_u8(b',');
            }
            let (bytes, revision_at) = match &item {
                Item::Stored(entry) => (&entry.value, usize::try_from(entry.revision_at).ok()),
                Item::Made(bytes) => (bytes, None),
            };
            let revision_at = revision_at.filter(|at| *at < bytes.len());
            if self.whole {
                piece.put_slice(bytes);
            } else {
                piece.put_u8(b'{');
                piece.put_slice(codec::item_tail(bytes, revision_at));
            }
            if piece.len() >= PIECE {
                break;
            }
        }
        if self.items.as_slice().is_empty() {
            piece.put_slice(b"]}\n");
        }
        Some(piece.freeze())
    }
}
