//! The world as an HTTP service that fails, delays, forgets answers, breaks watches, and lets its client die.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use caravel_api::discovery::{Door, aggregated};
use caravel_api::meta;
use caravel_api::status::ApiError;
use futures::StreamExt;
use http::{Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use kube::client::Body;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::world::{Target, World, selected};

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// What all incarnations of the controllers share.
pub struct Shared {
    pub world: Mutex<World>,
    pub changed: Notify,
    rng: Mutex<StdRng>,
    /// Faults happen.
    pub hostile: AtomicBool,
    /// Percent of events at which a watch is told that its revision is gone. What is made and deleted before the next list is never seen.
    forgetful: u32,
    /// Write requests that arrived, whatever came of them (events apart).
    pub writes: AtomicU64,
    pub last: Mutex<Vec<String>>,
}

/// One life of the controllers.
pub struct Life {
    pub dead: AtomicBool,
    /// Writes until death; negative is never.
    pub left: AtomicI64,
    pub died: Notify,
}

impl Shared {
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self {
            world: Mutex::new(World::new()),
            changed: Notify::new(),
            rng: Mutex::new(StdRng::seed_from_u64(seed)),
            hostile: AtomicBool::new(true),
            forgetful: if seed % 4 == 3 { 25 } else { 2 },
            writes: AtomicU64::new(0),
            last: Mutex::default(),
        })
    }

    pub fn chance(&self, percent: u32) -> bool {
        self.hostile.load(Ordering::Relaxed) && self.rng.lock().random_range(0..100) < percent
    }

    pub fn random(&self, range: std::ops::Range<u64>) -> u64 {
        self.rng.lock().random_range(range)
    }

    /// Changes the world and wakes the watches.
    pub fn change<R>(&self, f: impl FnOnce(&mut World) -> R) -> R {
        let mut world = self.world.lock();
        let before = world.revision;
        let r = f(&mut world);
        if world.revision != before {
            self.changed.notify_waiters();
        }
        r
    }

    async fn delay(&self) {
        let millis = match self.hostile.load(Ordering::Relaxed) {
            false => 1,
            true if self.random(0..100) < 4 => self.random(500..4000),
            true => self.random(0..30),
        };
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }
}

/// A client of the world for one life of the controllers.
pub fn client(shared: &Arc<Shared>, life: &Arc<Life>) -> kube::Client {
    let (shared, life) = (shared.clone(), life.clone());
    let service = tower::service_fn(move |request: Request<Body>| {
        let (shared, life) = (shared.clone(), life.clone());
        let answer: Pin<Box<dyn Future<Output = Result<Answer, std::io::Error>> + Send>> =
            Box::pin(async move { serve(shared, life, request).await });
        answer
    });
    kube::Client::new(service, "default")
}

async fn serve(shared: Arc<Shared>, life: Arc<Life>, request: Request<Body>) -> Result<Answer, std::io::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect_bytes().await.map_err(std::io::Error::other)?;
    let body: Value = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body)? };
    let query = head.uri.query().unwrap_or_default().to_owned();
    let path = head.uri.path().to_owned();
    if let Some(door) = match path.as_str() {
        "/api" => Some(Door::Api),
        "/apis" => Some(Door::Apis),
        _ => None,
    } {
        return Ok(reply(200, &aggregated(shared.world.lock().table, door, "v2")));
    }
    let write = head.method != Method::GET;
    if let Some(namespace) = usage_path(&path) {
        shared.delay().await;
        if shared.chance(6) {
            return Ok(reply(503, &ApiError::service_unavailable("injected").to_status()));
        }
        return Ok(reply(200, &shared.world.lock().usage(namespace)));
    }
    let Some(target) = shared.world.lock().target(&path) else {
        return Ok(reply(404, &ApiError::unknown_path().to_status()));
    };
    if &*target.kind.plural == "subjectaccessreviews" {
        shared.delay().await;
        if shared.chance(6) {
            return Ok(reply(500, &ApiError::internal("injected").to_status()));
        }
        let mut answer = body;
        answer["status"] = json!({"allowed": true});
        return Ok(reply(201, &answer));
    }
    if write && &*target.kind.plural == "events" {
        return Ok(reply(201, &body));
    }
    shared.delay().await;
    if life.dead.load(Ordering::SeqCst) {
        return std::future::pending().await;
    }
    let mut last_words = false;
    if write {
        shared.writes.fetch_add(1, Ordering::SeqCst);
        let mut last = shared.last.lock();
        last.push(format!("{} {path} {body}", head.method));
        let surplus = last.len().saturating_sub(12);
        last.drain(..surplus);
        if life.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            life.dead.store(true, Ordering::SeqCst);
            life.died.notify_one();
            last_words = true;
        }
    }
    if last_words && shared.random(0..2) == 0 {
        return std::future::pending().await;
    }
    if shared.chance(6) {
        return match shared.random(0..3) {
            0 => Err(std::io::Error::other("connection reset")),
            1 => Ok(reply(503, &ApiError::service_unavailable("injected").to_status())),
            _ => Ok(reply(500, &ApiError::internal("injected").to_status())),
        };
    }
    let parameter = |name: &str| {
        let found = query.split('&').find_map(|p| p.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default();
        found.replace("%3D", "=").replace("%2C", ",").replace("%2F", "/")
    };
    if parameter("watch") == "true" || parameter("watch") == "1" {
        let from = parameter("resourceVersion").parse().unwrap_or(0);
        return Ok(watch(shared, target, parameter("fieldSelector"), from));
    }
    let result = perform(&shared, &head, &target, body, &parameter("fieldSelector"));
    if last_words {
        return std::future::pending().await;
    }
    if write && shared.chance(5) {
        return Err(std::io::Error::other("the answer was lost"));
    }
    Ok(match result {
        Ok(text) => answer(if head.method == Method::POST { 201 } else { 200 }, text),
        Err(e) => reply(e.code, &e.to_status()),
    })
}

/// The namespace of a question for the use of its pods.
fn usage_path(path: &str) -> Option<&str> {
    path.strip_prefix("/apis/metrics.k8s.io/v1beta1/namespaces/")?.strip_suffix("/pods")
}

fn perform(
    shared: &Shared,
    head: &http::request::Parts,
    t: &Target,
    body: Value,
    fields: &str,
) -> Result<String, ApiError> {
    let name = t.name.clone().unwrap_or_default();
    let found = |o: Option<String>| o.ok_or_else(|| ApiError::not_found(&t.kind.group, &t.kind.plural, &name));
    let text = |o: Arc<Value>| o.to_string();
    shared.change(|w| match (&head.method, t.name.is_some()) {
        (&Method::GET, true) if t.sub.as_deref() == Some("scale") => found(w.scale(t).map(|o| o.to_string())),
        (&Method::GET, true) => {
            found(w.get(&t.kind.group, &t.kind.plural, &t.namespace, &name).map(ToString::to_string))
        }
        (&Method::GET, false) => Ok(list(t, w.revision, &w.list(t, fields))),
        (&Method::POST, _) => w.create(&t.kind, &t.namespace, body).map(text),
        (&Method::PUT, _) => {
            w.update(&t.kind, &t.namespace, &name, body, t.sub.as_deref()).map(|o| match t.sub.as_deref() {
                Some("scale") => w.scale(t).map_or_else(|| o.to_string(), |scale| scale.to_string()),
                _ => o.to_string(),
            })
        }
        (&Method::PATCH, _) => {
            let media = head.headers.get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
            w.patch(t, &media, body).map(text)
        }
        (&Method::DELETE, true) => w.delete(&t.kind, &t.namespace, &name, &body).map(text),
        (&Method::DELETE, false) => {
            for o in w.list(t, fields) {
                w.delete(&t.kind, meta::namespace(&o), meta::name(&o), &body)?;
            }
            Ok(json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}).to_string())
        }
        _ => Err(ApiError::method_not_allowed()),
    })
}

fn list(t: &Target, revision: u64, items: &[Arc<Value>]) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    format!(
        "{{\"apiVersion\":\"{}\",\"kind\":\"{}\",\"metadata\":{{\"resourceVersion\":\"{revision}\"}},\"items\":[{}]}}",
        t.kind.api_version(),
        t.kind.list_kind,
        items.join(",")
    )
}

/// A watch: each event comes late by its own time; now and then the stream breaks or its revision is gone.
fn watch(shared: Arc<Shared>, t: Target, fields: String, from: u64) -> Answer {
    struct State {
        shared: Arc<Shared>,
        t: Target,
        fields: String,
        at: u64,
        over: bool,
    }
    let state = State { shared, t, fields, at: from, over: false };
    let stream = futures::stream::unfold(state, |mut s| async move {
        if s.over {
            return None;
        }
        loop {
            let shared = s.shared.clone();
            let waiting = shared.changed.notified();
            tokio::pin!(waiting);
            waiting.as_mut().enable();
            let next = {
                let w = s.shared.world.lock();
                let start = w.log.partition_point(|c| c.revision <= s.at);
                let of_kind = |c: &&super::world::Change| c.place.0 == *s.t.kind.group && c.place.1 == *s.t.kind.plural;
                let found = w.log[start..].iter().find(|c| of_kind(c) && selected(&s.t, &s.fields, &c.object)).cloned();
                if found.is_none() {
                    s.at = s.at.max(w.revision);
                }
                found
            };
            match next {
                None => waiting.await,
                Some(c) => {
                    s.shared.delay().await;
                    if s.shared.chance(2) {
                        return None;
                    }
                    if s.shared.chance(s.shared.forgetful) {
                        s.over = true;
                        let gone = ApiError::expired("injected").to_status();
                        return Some((line(&json!({"type": "ERROR", "object": gone})), s));
                    }
                    s.at = c.revision;
                    return Some((c.line, s));
                }
            }
        }
    });
    let frames = stream.map(|b| Ok::<_, Infallible>(http_body::Frame::data(b)));
    Response::new(StreamBody::new(frames).boxed_unsync())
}

fn line(v: &Value) -> Bytes {
    Bytes::from(v.to_string() + "\n")
}

fn reply(code: u16, v: &Value) -> Answer {
    answer(code, v.to_string())
}

fn answer(code: u16, text: String) -> Answer {
    let mut r = Response::new(Full::new(Bytes::from(text)).boxed_unsync());
    *r.status_mut() = http::StatusCode::from_u16(code).unwrap();
    r
}
