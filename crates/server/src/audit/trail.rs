//! What is recorded of one request while it is served.

use super::Audit;
use super::policy::{Level, Stage, Verdict};
use crate::authn::UserInfo;
use crate::http::body::Body;
use crate::registry::Call;
use crate::request_info::RequestInfo;
use caravel_api::kinds::Gvk;
use caravel_api::protobuf;
use caravel_api::schema::Schema;
use caravel_api::status::ApiError;
use http::Response;
use http::request::Parts;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::sync::Arc;

/// Answers larger than this are not recorded, in bytes.
const MAX_OBJECT: usize = 1 << 20;

struct State {
    event: Value,
    verdict: Option<Verdict>,
    call: Option<Arc<Call>>,
    /// It is not known who asks.
    unknown: bool,
}

/// What is recorded of one request while it is served.
pub struct Trail {
    audit: Audit,
    info: Arc<RequestInfo>,
    state: Mutex<State>,
}

impl Trail {
    pub(super) fn new(audit: Audit, info: Arc<RequestInfo>, event: Value) -> Self {
        let state = Mutex::new(State { event, verdict: None, call: None, unknown: false });
        Self { audit, info, state }
    }

    /// The trail that a request carries, if it is audited.
    pub fn of(parts: &Parts) -> Option<&Arc<Self>> {
        parts.extensions.get()
    }

    /// It is known who asks: the policy decides, and the first stage is recorded.
    ///
    /// # Errors
    /// It could not be recorded, and what is not recorded must not happen.
    pub async fn known(&self, user: &UserInfo) -> Result<(), ApiError> {
        self.judge(user);
        self.state.lock().event["user"] = user.to_value();
        if self.record(Stage::RequestReceived).await {
            return Ok(());
        }
        self.audit.metrics.rejected();
        Err(ApiError::internal("failed to store audit event"))
    }

    /// It is not known who asks, so that nothing will be done. Only the answer is recorded.
    pub fn unknown(&self, attempted: Option<&str>) {
        self.judge(&UserInfo::default());
        let mut state = self.state.lock();
        state.unknown = true;
        let why = match attempted {
            Some(credential) => format!("Authentication failed, attempted: {credential}"),
            None => "Authentication failed, no credentials provided".to_owned(),
        };
        state.event["responseStatus"] = json!({"metadata": {}, "message": why});
    }

    fn judge(&self, user: &UserInfo) {
        let verdict = self.audit.policy.of(user, &self.info);
        self.audit.metrics.level(verdict.level);
        self.state.lock().verdict = Some(verdict);
    }

    /// It is known as whom, and which verb (`impersonate:…`) allowed it when that allows only some of what they may do.
    pub fn acting_as(&self, user: &UserInfo, constraint: Option<String>) {
        let mut state = self.state.lock();
        state.event["impersonatedUser"] = user.to_value();
        if let Some(constraint) = constraint {
            state.event["authenticationMetadata"] = json!({"impersonationConstraint": constraint});
        }
    }

    /// Adds an annotation.
    pub fn annotate(&self, key: &str, value: String) {
        self.state.lock().event["annotations"][key] = json!(value);
    }

    /// Whether it may be done, and why.
    pub fn decided(&self, allowed: bool, reason: &str) {
        let mut state = self.state.lock();
        state.event["annotations"]["authorization.k8s.io/decision"] = json!(if allowed { "allow" } else { "forbid" });
        state.event["annotations"]["authorization.k8s.io/reason"] = json!(reason);
    }

    /// What admission leaves behind is taken from here at the end.
    pub fn serving(&self, call: &Arc<Call>) {
        self.state.lock().call = Some(call.clone());
    }

    /// An object was sent: the event is about it.
    pub fn sent(&self, object: &Value) {
        let mut state = self.state.lock();
        let Some(level) = state.verdict.as_ref().map(|v| v.level).filter(|level| *level >= Level::Metadata) else {
            return;
        };
        for field in ["namespace", "name", "uid", "resourceVersion"] {
            let said = object.pointer(&format!("/metadata/{field}")).and_then(Value::as_str).unwrap_or_default();
            // A creation names its object in the body only.
            if !said.is_empty() && state.event["objectRef"].get(field).is_none() {
                state.event["objectRef"][field] = json!(said);
            }
        }
        if level >= Level::Request {
            let object = state.shown(object);
            state.event["requestObject"] = object;
        }
    }

    /// A patch was sent.
    pub fn patched(&self, patch: &Value) {
        let mut state = self.state.lock();
        if state.verdict.as_ref().is_some_and(|v| v.level >= Level::Request) {
            state.event["requestObject"] = patch.clone();
        }
    }

    /// The answer is sent. Of one whose body comes over time, the end is recorded when its body ends.
    pub async fn answered(self: &Arc<Self>, answer: Answer, long_running: bool) -> Option<End> {
        if self.state.lock().unknown {
            self.record(Stage::ResponseStarted).await;
            return None;
        }
        match answer {
            Answer::Panic => self.record(Stage::Panic).await,
            Answer::Whole => self.record(Stage::ResponseComplete).await,
            Answer::OverTime => {
                if long_running {
                    self.record(Stage::ResponseStarted).await;
                }
                return Some(End(self.clone()));
            }
        };
        None
    }

    /// The answer is ready: what it says is noted.
    pub fn take_response(&self, response: &mut Response<Body>) -> Answer {
        let code = response.status().as_u16();
        let mut state = self.state.lock();
        let all = state.verdict.as_ref().is_some_and(|v| v.level >= Level::RequestResponse);
        if all {
            gather(response.body_mut());
        }
        let body = match response.body() {
            Body::Full(bytes) if bytes.len() <= MAX_OBJECT => read(bytes),
            _ => None,
        };
        let mut status = json!({"metadata": {}, "code": code});
        if let Some(told) = body.as_ref().filter(|b| b.get("kind").and_then(Value::as_str) == Some("Status")) {
            for field in ["status", "message", "reason", "details"] {
                if let Some(value) = told.get(field) {
                    status[field] = value.clone();
                }
            }
        }
        if state.unknown {
            status["message"] = state.event["responseStatus"]["message"].clone();
        }
        state.event["responseStatus"] = status;
        if all && let Some(object) = body.filter(Value::is_object) {
            let object = state.shown(&object);
            state.event["responseObject"] = object;
        }
        if let Some(call) = state.call.take() {
            for (key, value) in std::mem::take(&mut *call.audit.lock()) {
                state.event["annotations"][key] = json!(value);
            }
        }
        match response.body() {
            Body::Stream(_) | Body::Through(_) => Answer::OverTime,
            _ => Answer::Whole,
        }
    }

    fn at(&self, stage: Stage) -> Option<Value> {
        let state = self.state.lock();
        let verdict = state.verdict.as_ref().filter(|v| v.wants(stage))?;
        let mut event = state.event.clone();
        event["level"] = json!(verdict.level.name());
        event["stage"] = json!(stage.name());
        event["stageTimestamp"] = json!(now());
        Some(event)
    }

    async fn record(&self, stage: Stage) -> bool {
        match self.at(stage) {
            Some(event) => self.audit.write(&event).await,
            None => true,
        }
    }
}

/// How a request was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// With a body that is ready.
    Whole,
    /// With a body that comes over time.
    OverTime,
    /// By a panic.
    Panic,
}

/// Puts the pieces of a list together when they are few enough to be recorded.
fn gather(body: &mut Body) {
    if !matches!(body, Body::Pieces { about, .. } if *about <= MAX_OBJECT as u64) {
        return;
    }
    if let Body::Pieces { rest, .. } = std::mem::take(body) {
        let mut all = bytes::BytesMut::new();
        rest.for_each(|piece| all.extend_from_slice(&piece));
        *body = all.freeze().into();
    }
}

/// The object of an answer, as JSON, whichever of the two forms it is written in.
fn read(bytes: &[u8]) -> Option<Value> {
    if !bytes.starts_with(&protobuf::MAGIC) {
        return serde_json::from_slice(bytes).ok();
    }
    let envelope = protobuf::open(bytes).ok()?;
    let schema = Schema::of_kind(&Gvk::from_object(envelope.api_version, envelope.kind))?;
    protobuf::decode(&schema, bytes).ok()
}

impl State {
    fn shown(&self, object: &Value) -> Value {
        let mut object = object.clone();
        if self.verdict.as_ref().is_some_and(|v| v.omit_managed_fields) {
            let strip = |one: &mut Value| {
                if let Some(metadata) = one.get_mut("metadata").and_then(Value::as_object_mut) {
                    metadata.remove("managedFields");
                }
            };
            strip(&mut object);
            object.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten().for_each(strip);
            let rows = object.get_mut("rows").and_then(Value::as_array_mut).into_iter().flatten();
            rows.filter_map(|row| row.get_mut("object")).for_each(strip);
        }
        object
    }
}

/// Records the end of a lasting answer when its body is dropped.
pub struct End(Arc<Trail>);

impl Drop for End {
    fn drop(&mut self) {
        if let Some(event) = self.0.at(Stage::ResponseComplete) {
            self.0.audit.write_later(&event);
        }
    }
}

/// The time as events have it.
pub(super) fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}
