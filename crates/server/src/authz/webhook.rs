//! A server outside that is asked whether a request may be done: a SubjectAccessReview is sent to it, and its status decides
//! (<https://kubernetes.io/docs/reference/access-authn-authz/webhook/>). Answers are remembered for a while.

use super::config::{Failure, Settings};
use super::{Attributes, Decision, Target};
use crate::outbound::Remote;
use bytes::Bytes;
use caravel_cel::{Activation, Budget, Environment, MATCH_CONDITIONS_BUDGET, Program, Ty, Val};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How often one question is sent when it fails on the way.
const ATTEMPTS: u32 = 5;
/// Before the second attempt; half as much again before each further one.
const PAUSE: Duration = Duration::from_millis(500);
/// Answers that are remembered.
const REMEMBERED: usize = 8192;
/// A question of more bytes is asked every time.
const MAX_KEY: usize = 10_000;

/// An answer, and until when it holds.
type Known = (Decision, Instant);

/// A webhook that is ready to be asked.
pub struct Webhook {
    settings: Settings,
    remote: Remote,
    conditions: Vec<Program>,
    known: Mutex<HashMap<String, Known>>,
}

impl Webhook {
    /// Reads the file that says where it is, and compiles its conditions. Nothing is connected yet.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn open(settings: Settings) -> Result<Self, String> {
        let remote = Remote::read(&settings.file).map_err(|why| {
            format!("the authorization webhook {:?}: {}: {why}", settings.name, settings.file.display())
        })?;
        let conditions = compile(&settings)?;
        Ok(Self { settings, remote, conditions, known: Mutex::default() })
    }

    /// What it says of a request.
    pub async fn decide(&self, attributes: &Attributes<'_>) -> Decision {
        let spec = question(attributes);
        match self.concerns(&spec) {
            Ok(true) => {}
            Ok(false) => return Decision::NoOpinion(String::new()),
            Err(why) => return self.failed(&why),
        }
        let key = spec.to_string();
        if let Some(known) = self.remembered(&key) {
            return known;
        }
        match self.ask(&spec).await {
            Ok(decision) => {
                self.remember(key, &decision);
                decision
            }
            Err(why) => self.failed(&why),
        }
    }

    fn failed(&self, why: &str) -> Decision {
        tracing::warn!(webhook = %self.settings.name, error = %why, "an authorization webhook could not be asked");
        match self.settings.failure {
            Failure::NoOpinion => Decision::NoOpinion(String::new()),
            Failure::Deny => Decision::Denied(String::new()),
        }
    }

    /// Whether all conditions hold; one that is false decides, whatever goes wrong in others.
    fn concerns(&self, spec: &Value) -> Result<bool, String> {
        let budget = Budget::new(MATCH_CONDITIONS_BUDGET);
        let mut failed = None;
        for program in &self.conditions {
            let mut activation = Activation::new();
            activation.set("request", Val::json(spec));
            match program.evaluate(&activation, &budget) {
                Ok(Val::Bool(true)) => {}
                Ok(Val::Bool(false)) => return Ok(false),
                Ok(_) => failed = Some(format!("{:?} did not yield a bool", program.source())),
                Err(error) => failed = Some(format!("{:?}: {error}", program.source())),
            }
        }
        failed.map_or(Ok(true), Err)
    }

    async fn ask(&self, spec: &Value) -> Result<Decision, String> {
        let review = json!({
            "apiVersion": format!("authorization.k8s.io/{}", self.settings.version),
            "kind": "SubjectAccessReview", "metadata": {}, "spec": in_version(spec, &self.settings.version),
        });
        let body = Bytes::from(review.to_string());
        let (mut pause, mut attempt) = (PAUSE, 1);
        loop {
            match self.remote.ask(body.clone(), self.settings.timeout).await {
                Ok(answer) => return verdict(&answer),
                Err(error) if error.passes() && attempt < ATTEMPTS => tokio::time::sleep(pause).await,
                Err(error) => return Err(error.to_string()),
            }
            pause = pause * 3 / 2;
            attempt += 1;
        }
    }

    fn remembered(&self, key: &str) -> Option<Decision> {
        let mut known = self.known.lock();
        let (decision, until) = known.get(key)?;
        if *until > Instant::now() {
            return Some(decision.clone());
        }
        known.remove(key);
        None
    }

    fn remember(&self, key: String, decision: &Decision) {
        let ttl = if decision.allowed() { self.settings.authorized } else { self.settings.unauthorized };
        let Some(ttl) = ttl.filter(|_| key.len() <= MAX_KEY) else { return };
        let now = Instant::now();
        let mut known = self.known.lock();
        if known.len() >= REMEMBERED {
            known.retain(|_, (_, until)| *until > now);
        }
        if known.len() >= REMEMBERED {
            // All of them still hold: start anew rather than look for the oldest of thousands.
            known.clear();
        }
        known.insert(key, (decision.clone(), now + ttl));
    }
}

fn compile(settings: &Settings) -> Result<Vec<Program>, String> {
    let environment = Environment::new([("request", Ty::Dyn)]);
    let mut out = vec![];
    for (i, source) in settings.conditions.iter().enumerate() {
        let at =
            || format!("the authorization webhook {:?}: matchConditions[{i}].expression {source:?}", settings.name);
        let program = environment.compile(source).map_err(|e| format!("{}: compilation failed: {e}", at()))?;
        if !program.may_be(&Ty::Bool) {
            return Err(format!("{}: must evaluate to bool", at()));
        }
        out.push(program);
    }
    Ok(out)
}

/// The `spec` of the review (version v1).
fn question(attributes: &Attributes<'_>) -> Value {
    let user = attributes.user;
    let mut spec = Map::new();
    let mut put = |field: &str, value: Value| {
        if !matches!(&value, Value::String(s) if s.is_empty()) {
            spec.insert(field.to_owned(), value);
        }
    };
    put("user", json!(user.name));
    put("uid", json!(user.uid));
    if !user.groups.is_empty() {
        put("groups", json!(user.groups));
    }
    if !user.extra.is_empty() {
        put("extra", json!(user.extra));
    }
    match attributes.target {
        Target::Resource(r) => {
            let fields = [
                ("namespace", r.namespace),
                ("verb", attributes.verb),
                ("group", r.group),
                ("version", r.version),
                ("resource", r.resource),
                ("subresource", r.subresource),
                ("name", r.name),
            ];
            let said = fields.iter().filter(|(_, value)| !value.is_empty());
            let resource: Map<String, Value> = said.map(|(field, value)| ((*field).to_owned(), json!(value))).collect();
            put("resourceAttributes", Value::Object(resource));
        }
        Target::Path(path) => put("nonResourceAttributes", json!({"path": path, "verb": attributes.verb})),
    }
    Value::Object(spec)
}

/// The same as an older version writes it: `groups` was `group`.
fn in_version(spec: &Value, version: &str) -> Value {
    let mut spec = spec.clone();
    if version == "v1beta1"
        && let Some(map) = spec.as_object_mut()
        && let Some(groups) = map.remove("groups")
    {
        map.insert("group".into(), groups);
    }
    spec
}

fn verdict(answer: &[u8]) -> Result<Decision, String> {
    let answer: Value = serde_json::from_slice(answer).map_err(|e| format!("its answer is no JSON: {e}"))?;
    let status = answer.get("status").and_then(Value::as_object).ok_or("its answer has no status")?;
    let flag = |field: &str| status.get(field).and_then(Value::as_bool).unwrap_or(false);
    let reason = status.get("reason").and_then(Value::as_str).unwrap_or_default().to_owned();
    match (flag("allowed"), flag("denied")) {
        (true, true) => Err("it said both allowed and denied".into()),
        (true, false) => Ok(Decision::Allowed(reason)),
        (false, true) => Ok(Decision::Denied(reason)),
        (false, false) => Ok(Decision::NoOpinion(reason)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::UserInfo;
    use crate::authz::ResourceTarget;

    fn settings(conditions: &[&str]) -> Settings {
        Settings {
            name: "gate".into(),
            timeout: Duration::from_secs(1),
            authorized: None,
            unauthorized: None,
            version: "v1".into(),
            failure: Failure::Deny,
            file: "none".into(),
            conditions: conditions.iter().map(|c| (*c).to_owned()).collect(),
        }
    }

    #[test]
    fn the_question_says_who_and_what() {
        let user = UserInfo::new("ann", &["devs"]);
        let target =
            Target::Resource(ResourceTarget { namespace: "ns", resource: "pods", ..ResourceTarget::default() });
        let spec = question(&Attributes { user: &user, verb: "list", target });
        let resource = json!({"namespace": "ns", "verb": "list", "resource": "pods"});
        assert_eq!(spec["resourceAttributes"], resource);
        assert_eq!((&spec["user"], &spec["groups"]), (&json!("ann"), &json!(["devs", "system:authenticated"])));
        assert_eq!(in_version(&spec, "v1beta1")["group"], spec["groups"]);
        let spec = question(&Attributes { user: &user, verb: "get", target: Target::Path("/metrics") });
        assert_eq!(spec["nonResourceAttributes"], json!({"path": "/metrics", "verb": "get"}));
    }

    #[test]
    fn what_it_answers() {
        let read = |status: Value| verdict(json!({"status": status}).to_string().as_bytes());
        assert_eq!(read(json!({"allowed": true, "reason": "r"})), Ok(Decision::Allowed("r".into())));
        assert_eq!(read(json!({"allowed": false, "denied": true})), Ok(Decision::Denied(String::new())));
        assert_eq!(read(json!({"allowed": false})), Ok(Decision::NoOpinion(String::new())));
        assert!(read(json!({"allowed": true, "denied": true})).is_err());
        assert!(verdict(b"{}").is_err() && verdict(b"<html>").is_err());
    }

    #[test]
    fn conditions_are_checked_when_they_are_read() {
        assert_eq!(compile(&settings(&["has(request.resourceAttributes)", "request.user != 'x'"])).unwrap().len(), 2);
        for (wrong, why) in
            [("request.user", ""), ("request.", "compilation failed"), ("1 + 1", "must evaluate to bool")]
        {
            match compile(&settings(&[wrong])) {
                // Of an open type: what it yields is seen when it is evaluated.
                Ok(_) => assert!(why.is_empty(), "{wrong}"),
                Err(error) => assert!(!why.is_empty() && error.contains(why), "{wrong}: {error}"),
            }
        }
    }
}
