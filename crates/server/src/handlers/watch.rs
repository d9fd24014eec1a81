//! The body of a watch: a stream of frames, several to a piece when they come fast.

use super::Inbound;
use super::present::{partial, table_options};
use crate::http::body::{Body, BoxError};
use crate::http::negotiate::{Accept, Form, MediaType};
use crate::http::respond;
use crate::registry::options::ListOptions;
use crate::registry::watch::{Opened, bookmark, fell_behind, frame};
use crate::server::Server;
use bytes::{Bytes, BytesMut};
use caravel_api::kinds::Kind;
use caravel_api::meta::Filter;
use caravel_api::protobuf;
use caravel_api::status::ApiError;
use caravel_api::table;
use caravel_store::Entry;
use http::{Response, StatusCode};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Bookmarks come about this often.
const BOOKMARKS: Duration = Duration::from_secs(60);
/// Frames are gathered into pieces of about this many bytes.
const PIECE: usize = 64 * 1024;

/// Over a connection, the events of a watch go out no more often than this. The first after a pause goes at once; what follows
/// closely is gathered: sending costs more than what is sent, for both sides.
const PACE: Duration = Duration::from_millis(2);

struct Stream {
    server: Arc<Server>,
    kind: Arc<Kind>,
    filter: Filter,
    media: MediaType,
    form: Form,
    table: Option<table::Options>,
    opened: Option<Opened>,
    /// The rest of the present state, still to be sent.
    initial: VecDeque<Arc<Entry>>,
    /// Bookmarks are wanted; the next is due at.
    bookmark_at: Option<Instant>,
    deadline: Instant,
    /// When the next events may go out; `None` where sending costs nothing.
    paced: Option<Instant>,
    ended: bool,
}

impl Server {
    /// Answers a watch. What is wrong with it is told in the stream when it is about revisions, as upstream.
    pub(super) async fn watch(
        self: &Arc<Self>,
        inbound: &Inbound,
        kind: &Arc<Kind>,
        filter: Filter,
        options: &ListOptions,
    ) -> Result<Response<Body>, ApiError> {
        let accept = Accept::choose(&inbound.parts.headers, true, !kind.is_custom())?;
        if accept.media == MediaType::Yaml {
            return Err(ApiError::not_acceptable(&["application/json", protobuf::CONTENT_TYPE]));
        }
        let media = accept.media;
        let table = match accept.form {
            Form::Table => Some(table_options(self, inbound, true)?),
            _ => None,
        };
        let opened = match self.registry.open_watch(kind, &inbound.info.namespace, &filter, options).await {
            Ok(opened) => opened,
            Err(error) if error.code == 410 => {
                let mut out = BytesMut::new();
                put(&mut out, media, "ERROR", error.to_status().to_string().as_bytes());
                return Ok(answer(media, Body::stream(futures::stream::once(async move { Ok(out.freeze()) }))));
            }
            Err(error) => return Err(error),
        };
        let seconds = options.timeout_seconds.filter(|s| *s > 0).map(Duration::from_secs);
        let spread = rand::random::<f64>();
        let lasts = seconds.unwrap_or_else(|| self.config.min_watch.mul_f64(1.0 + spread));
        // Those who all came at once should not all go at once.
        let now = Instant::now();
        let mut opened = opened;
        let stream = Stream {
            server: self.clone(),
            kind: kind.clone(),
            filter,
            media,
            form: accept.form,
            table,
            initial: std::mem::take(&mut opened.initial).into(),
            opened: Some(opened),
            bookmark_at: options.bookmarks.then(|| now + BOOKMARKS.mul_f64(0.8 + 0.2 * spread)),
            deadline: now + lasts,
            paced: (!inbound.is_in_process()).then_some(now),
            ended: false,
        };
        Ok(answer(
            media,
            Body::stream(futures::stream::unfold(stream, |mut stream| async move {
                let piece = stream.next().await?;
                Some((Ok::<Bytes, BoxError>(piece), stream))
            })),
        ))
    }
}

fn answer(media: MediaType, body: Body) -> Response<Body> {
    let content_type = match media {
        MediaType::Protobuf => protobuf::WATCH_CONTENT_TYPE,
        _ => "application/json",
    };
    respond::with(StatusCode::OK, content_type, body)
}

/// Appends a frame whose object is given as JSON.
fn put(out: &mut BytesMut, media: MediaType, change: &str, json: &[u8]) {
    if media == MediaType::Protobuf {
        let value = serde_json::from_slice(json).unwrap_or_default();
        if let Some(object) = respond::to_protobuf(&value) {
            out.extend_from_slice(&protobuf::watch_frame(change, &object));
        }
        return;
    }
    frame(out, change, json);
}

impl Stream {
    /// The next frames; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.ended {
                return None;
            }
            let mut out = BytesMut::new();
            match self.fill(&mut out).await {
                Ok(()) => {}
                Err(error) => {
                    self.ended = true;
                    put(&mut out, self.media, "ERROR", error.to_status().to_string().as_bytes());
                }
            }
            if !out.is_empty() {
                return Some(out.freeze());
            }
        }
    }

    async fn fill(&mut self, out: &mut BytesMut) -> Result<(), ApiError> {
        while let Some(entry) = self.initial.pop_front() {
            self.object(out, "ADDED", &entry)?;
            if out.len() >= PIECE {
                return Ok(());
            }
        }
        let Some(opened) = self.opened.as_mut() else {
            self.ended = true;
            return Ok(());
        };
        if std::mem::take(&mut opened.mark_end) {
            let revision = opened.revision;
            self.bookmark(out, revision, true)?;
        }
        if !out.is_empty() {
            return Ok(());
        }
        if let Some(at) = self.paced.filter(|at| *at > Instant::now()) {
            tokio::select! {
                () = tokio::time::sleep_until(at) => {}
                () = self.server.stop.cancelled() => {}
            }
        }
        let until = self.bookmark_at.map_or(self.deadline, |at| at.min(self.deadline));
        let Some(opened) = self.opened.as_mut() else { return Ok(()) };
        let batch = tokio::select! {
            biased;
            batch = opened.watch.next() => batch.map_err(fell_behind)?,
            () = self.server.stop.cancelled() => {
                self.ended = true;
                return Ok(());
            }
            () = tokio::time::sleep_until(until) => {
                let progress = opened.watch.progress();
                let now = Instant::now();
                if now >= self.deadline {
                    self.ended = true;
                }
                if let (Some(_), Some(revision)) = (self.bookmark_at, progress) {
                    self.bookmark_at = Some(now + BOOKMARKS);
                    self.bookmark(out, revision, false)?;
                }
                return Ok(());
            }
        };
        self.paced = self.paced.map(|_| Instant::now() + PACE);
        self.follow_definition();
        for event in &batch.events {
            let converted = self.server.registry.event_in_version(&self.kind, event).await?;
            let event = converted.as_ref().unwrap_or(event);
            if let Some((change, entry)) = self.server.registry.meaning(event, &self.filter)? {
                self.object(out, change.name(), &entry)?;
            }
        }
        Ok(())
    }

    /// A custom resource is shown as its definition is now, not as it was when the watch began; a version that is no longer
    /// served ends it.
    fn follow_definition(&mut self) {
        if !self.kind.is_custom() {
            return;
        }
        let kinds = self.server.registry.kinds();
        match kinds.resource(&self.kind.group, &self.kind.version, &self.kind.plural) {
            Some(row) => self.kind = row.clone(),
            None => self.ended = true,
        }
    }

    fn object(&mut self, out: &mut BytesMut, change: &str, entry: &Entry) -> Result<(), ApiError> {
        let registry = &self.server.registry;
        match self.form {
            Form::Object => put(out, self.media, change, &registry.served(&self.kind, entry)?),
            Form::Metadata => {
                let stored = registry.plain(entry)?;
                let metadata = caravel_api::meta::member(&stored, "metadata").unwrap_or(b"{}");
                let partial = [
                    &b"{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":"[..],
                    metadata,
                    b"}",
                ];
                put(out, self.media, change, &partial.concat());
            }
            Form::Table => {
                let object = registry.parse(&self.kind, entry)?;
                self.rows(out, change, &object)?;
            }
        }
        Ok(())
    }

    /// A table of one row; only the first says the columns.
    fn rows(&mut self, out: &mut BytesMut, change: &str, object: &serde_json::Value) -> Result<(), ApiError> {
        let Some(options) = self.table.as_mut() else { return Ok(()) };
        options.now = self.server.config.clock.now();
        let table = table::render(&self.kind, &[object], None, options);
        options.headers = false;
        frame(out, change, table.to_string().as_bytes());
        Ok(())
    }

    fn bookmark(&mut self, out: &mut BytesMut, revision: u64, end: bool) -> Result<(), ApiError> {
        let object = bookmark(&self.kind, revision, end);
        match self.form {
            Form::Object => put(out, self.media, "BOOKMARK", &object),
            form => {
                let value: serde_json::Value = serde_json::from_slice(&object).map_err(ApiError::internal)?;
                match form {
                    Form::Table => {
                        let metadata = value["metadata"].clone();
                        let Some(options) = self.table.as_mut() else { return Ok(()) };
                        let mut table = table::render(&self.kind, &[&value], Some(&metadata), options);
                        options.headers = false;
                        // A bookmark's row carries the metadata only.
                        if let Some(cells) = table.pointer_mut("/rows/0/cells")
                            && let Some(cells) = cells.as_array_mut()
                        {
                            cells.iter_mut().for_each(|cell| *cell = serde_json::Value::Null);
                        }
                        frame(out, "BOOKMARK", table.to_string().as_bytes());
                    }
                    _ => put(out, self.media, "BOOKMARK", partial(&value).to_string().as_bytes()),
                }
            }
        }
        Ok(())
    }
}
