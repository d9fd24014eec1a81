//! Audit: a record of who did what, as the policy asks (`audit.k8s.io/v1` Event). Without a policy nothing here costs anything.

pub mod log;
pub mod policy;

use crate::authn::UserInfo;
use crate::http::body::Body;
use crate::registry::Call;
use crate::request_info::RequestInfo;
use crate::server::Origin;
use http::Response;
use http::request::Parts;
use log::{Log, LogOptions};
use parking_lot::Mutex;
use policy::{Level, Policy, Stage, Verdict};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

/// Objects larger than this are not recorded, in bytes.
const MAX_OBJECT: usize = 1 << 20;

/// A policy and where its events go.
#[derive(Clone)]
pub struct Audit {
    policy: Arc<Policy>,
    log: Log,
}

impl Audit {
    /// Reads the policy and opens the log.
    ///
    /// # Errors
    /// What is wrong with the policy or the file.
    pub fn open(policy: &Path, log: LogOptions) -> Result<Self, String> {
        Ok(Self { policy: Arc::new(Policy::read(policy)?), log: Log::open(log)? })
    }

    /// The trail of a request that just came in.
    pub fn begin(&self, id: &str, parts: &Parts, info: &Arc<RequestInfo>, origin: &Origin) -> Arc<Trail> {
        let source = match origin {
            Origin::Local(_) => "127.0.0.1".to_owned(),
            Origin::Remote(peer) => peer.peer.address.ip().to_string(),
        };
        let agent = parts.headers.get(http::header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let uri = parts.uri.path_and_query().map_or_else(|| info.path.clone(), ToString::to_string);
        let mut event = json!({
            "kind": "Event", "apiVersion": "audit.k8s.io/v1", "auditID": id, "requestURI": uri, "verb": info.verb,
            "user": {}, "sourceIPs": [source], "userAgent": agent, "requestReceivedTimestamp": now(),
        });
        if info.is_resource {
            let mut about = json!({"resource": info.resource});
            for (field, value) in [
                ("namespace", &info.namespace),
                ("name", &info.name),
                ("apiGroup", &info.group),
                ("apiVersion", &info.version),
                ("subresource", &info.subresource),
            ] {
                if !value.is_empty() {
                    about[field] = json!(value);
                }
            }
            event["objectRef"] = about;
        }
        let state = State { event, verdict: None, call: None };
        Arc::new(Trail { audit: self.clone(), info: info.clone(), state: Mutex::new(state) })
    }
}

struct State {
    event: Value,
    verdict: Option<Verdict>,
    call: Option<Arc<Call>>,
}

/// What is recorded of one request while it is served.
pub struct Trail {
    audit: Audit,
    info: Arc<RequestInfo>,
    state: Mutex<State>,
}

impl Trail {
    /// The trail that a request carries, if it is audited.
    pub fn of(parts: &Parts) -> Option<&Arc<Self>> {
        parts.extensions.get()
    }

    /// It is known who asks: the policy decides, and the first stage is recorded.
    pub async fn known(&self, user: &UserInfo) {
        let verdict = self.audit.policy.of(user, &self.info);
        {
            let mut state = self.state.lock();
            state.event["user"] = user.to_value();
            state.verdict = Some(verdict);
        }
        self.record(Stage::RequestReceived).await;
    }

    /// It is known as whom.
    pub fn acting_as(&self, user: &UserInfo) {
        self.state.lock().event["impersonatedUser"] = user.to_value();
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

    /// What was sent.
    pub fn sent(&self, object: &Value) {
        let mut state = self.state.lock();
        if state.verdict.as_ref().is_some_and(|v| v.level >= Level::Request) {
            let object = state.shown(object);
            state.event["requestObject"] = object;
            if let Some(name) = object_name(&state.event) {
                state.event["objectRef"]["name"] = json!(name);
            }
        }
    }

    /// The answer is sent. Of one that lasts, the end is recorded when its body ends.
    pub async fn answered(self: &Arc<Self>, lasting: bool, panicked: bool) -> Option<End> {
        if panicked {
            self.record(Stage::Panic).await;
        } else if lasting {
            self.record(Stage::ResponseStarted).await;
            return Some(End(self.clone()));
        } else {
            self.record(Stage::ResponseComplete).await;
        }
        None
    }

    /// The answer is ready; whether it lasts.
    pub fn take_response(&self, response: &Response<Body>) -> bool {
        let code = response.status().as_u16();
        let body: Option<Value> = match response.body() {
            Body::Full(bytes) if bytes.len() <= MAX_OBJECT => serde_json::from_slice(bytes).ok(),
            _ => None,
        };
        let mut state = self.state.lock();
        let mut status = json!({"metadata": {}, "code": code});
        if let Some(told) = body.as_ref().filter(|b| b.get("kind").and_then(Value::as_str) == Some("Status")) {
            for field in ["status", "message", "reason", "details"] {
                if let Some(value) = told.get(field) {
                    status[field] = value.clone();
                }
            }
        }
        state.event["responseStatus"] = status;
        if state.verdict.as_ref().is_some_and(|v| v.level >= Level::RequestResponse)
            && let Some(object) = body.filter(Value::is_object)
        {
            let object = state.shown(&object);
            state.event["responseObject"] = object;
        }
        if let Some(call) = state.call.take() {
            for (key, value) in std::mem::take(&mut *call.audit.lock()) {
                state.event["annotations"][key] = json!(value);
            }
        }
        matches!(response.body(), Body::Stream(_) | Body::Through(_))
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

    async fn record(&self, stage: Stage) {
        if let Some(event) = self.at(stage) {
            self.audit.log.write(&event).await;
        }
    }
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
        }
        object
    }
}

/// A creation names its object in the body only.
fn object_name(event: &Value) -> Option<String> {
    let about = event.get("objectRef")?;
    let unnamed = about.get("name").is_none();
    let name = event.pointer("/requestObject/metadata/name").and_then(Value::as_str)?;
    (unnamed && !name.is_empty()).then(|| name.to_owned())
}

/// Records the end of a lasting answer when its body is dropped.
pub struct End(Arc<Trail>);

impl Drop for End {
    fn drop(&mut self) {
        if let Some(event) = self.0.at(Stage::ResponseComplete) {
            self.0.audit.log.try_write(&event);
        }
    }
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}
