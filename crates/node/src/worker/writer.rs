//! Writing Pod statuses to the API: the latest one, when it differs, one task a Pod, so that a slow API never holds up
//! containers.

use std::time::Duration;

use caravel_client::status_code;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::pod::spec;

/// The condition that the node shares with the API server, the scheduler and controllers.
const DISRUPTED: &str = "DisruptionTarget";
/// The conditions that a node owns; it leaves all others alone.
pub const OURS: [&str; 9] = [
    "AllContainersRestarting",
    "Ready",
    "ContainersReady",
    "Initialized",
    "PodReadyToStartContainers",
    "DisruptionTarget",
    "PodScheduled",
    "PodResizePending",
    "PodResizeInProgress",
];

/// What there is to write, and what the API was last seen to hold.
#[derive(Clone, Default)]
struct Latest {
    seq: u64,
    status: Option<PodStatus>,
    seen: Option<(u64, PodStatus)>,
}

/// A Pod's status on its way to the API.
pub struct Writer {
    latest: watch::Sender<Latest>,
    done: watch::Receiver<u64>,
    _task: AbortOnDropHandle<()>,
}

impl Writer {
    /// For one Pod, whose status in the API is the one it carries.
    pub fn start(client: kube::Client, pod: &Pod) -> Self {
        let (latest, rx) = watch::channel(Latest::default());
        let (done_tx, done) = watch::channel(0);
        let api = Api::namespaced(client, spec::namespace(pod));
        let base = Base {
            api,
            name: spec::name(pod).to_owned(),
            // The mirror of a static Pod has a UID of its own.
            uid: if crate::manifests::is_static(pod) { String::new() } else { spec::uid(pod).to_owned() },
            known: pod.status.clone().unwrap_or_default(),
            version: version(pod),
        };
        Writer { latest, done, _task: AbortOnDropHandle::new(tokio::spawn(base.run(rx, done_tx))) }
    }

    /// Takes a status over; an earlier one not written yet is dropped.
    pub fn send(&self, status: PodStatus) {
        self.latest.send_modify(|l| {
            l.seq += 1;
            l.status = Some(status);
        });
    }

    /// The API told the Pod. If somebody else changed what is ours, it is written again.
    pub fn seen(&self, pod: &Pod) {
        let seen = (version(pod), pod.status.clone().unwrap_or_default());
        self.latest.send_modify(|l| l.seen = Some(seen));
    }

    /// Waits until everything sent is written (or the Pod is gone).
    pub async fn flush(&mut self) {
        let want = self.latest.borrow().seq;
        let _ = self.done.wait_for(|d| *d >= want).await;
    }
}

struct Base {
    api: Api<Pod>,
    name: String,
    uid: String,
    known: PodStatus,
    version: u64,
}

/// The Pod's resource version; they can be compared (KEP-5504).
fn version(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)
}

impl Base {
    async fn run(mut self, mut latest: watch::Receiver<Latest>, done: watch::Sender<u64>) {
        let mut delay = Duration::from_millis(100);
        while latest.changed().await.is_ok() {
            loop {
                let Latest { seq, status, seen } = latest.borrow_and_update().clone();
                if let Some((version, known)) = seen.filter(|(v, _)| *v > self.version) {
                    self.version = version;
                    self.known = known;
                }
                let Some(status) = status else { break };
                if self.write(&status).await {
                    delay = Duration::from_millis(100);
                    done.send_replace(seq);
                    break;
                }
                tokio::select! {
                    () = tokio::time::sleep(delay) => {}
                    changed = latest.changed() => if changed.is_err() { return },
                }
                delay = (delay * 2).min(Duration::from_secs(10));
            }
        }
    }

    /// Whether the status is written, or need not be any more.
    async fn write(&mut self, status: &PodStatus) -> bool {
        let Some(patch) = patch(&self.uid, &self.known, status) else { return true };
        match self.api.patch_status(&self.name, &PatchParams::default(), &Patch::Strategic(patch)).await {
            Ok(p) => {
                self.version = version(&p);
                self.known = status.clone();
                true
            }
            Err(e) => match status_code(&e) {
                // The mirror of a static Pod may be on its way.
                Some(404) if self.uid.is_empty() => false,
                // It is gone, or another Pod has its name now.
                Some(404 | 409) => true,
                Some(code @ (400 | 422)) => {
                    tracing::warn!(pod = self.name, code, error = %e, "the API refuses a pod status");
                    true
                }
                _ => {
                    tracing::debug!(pod = self.name, error = %e, "cannot write a pod status yet");
                    false
                }
            },
        }
    }
}

/// The strategic merge patch from one status to another; `None` if they are equal.
pub fn patch(uid: &str, old: &PodStatus, new: &PodStatus) -> Option<Value> {
    let (old, new) = (serde_json::to_value(old).ok()?, serde_json::to_value(new).ok()?);
    if old == new {
        return None;
    }
    let (Value::Object(old), Value::Object(new)) = (old, new) else { return None };
    let mut status = Map::new();
    for (key, value) in &new {
        if old.get(key) == Some(value) {
            continue;
        }
        let value = match key.as_str() {
            "conditions" => match conditions(old.get(key), value) {
                Value::Array(list) if list.is_empty() => continue,
                list => list,
            },
            "podIPs" | "hostIPs" => replaced(old.get(key), value),
            _ => value.clone(),
        };
        status.insert(key.clone(), value);
    }
    for key in old.keys().filter(|k| !new.contains_key(*k)) {
        status.insert(key.clone(), Value::Null);
    }
    if status.is_empty() {
        return None;
    }
    Some(if uid.is_empty() { json!({"status": status}) } else { json!({"metadata": {"uid": uid}, "status": status}) })
}

/// The conditions that differ, with `null` for what they lost.
fn conditions(old: Option<&Value>, new: &Value) -> Value {
    let list = |v: &Value| v.as_array().cloned().unwrap_or_default();
    let before = old.map(list).unwrap_or_default();
    let type_ = |c: &Value| c.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    let mine = |c: &Value| OURS.contains(&type_(c).as_str());
    let now = list(new);
    let lost: Vec<Value> = before
        .iter()
        // Others may say that the Pod is disrupted (eviction, preemption, taints): what the node did not say it does not take back.
        .filter(|b| mine(b) && type_(b) != DISRUPTED && !now.iter().any(|n| type_(n) == type_(b)))
        .map(|b| json!({"type": type_(b), "$patch": "delete"}))
        .collect();
    let changed = now.into_iter().filter(|c| mine(c) && !before.contains(c)).map(|mut c| {
        let same = before.iter().find(|b| b.get("type") == c.get("type"));
        if let (Some(Value::Object(b)), Value::Object(c)) = (same, &mut c) {
            for key in b.keys() {
                c.entry(key.clone()).or_insert(Value::Null);
            }
        }
        c
    });
    Value::Array(changed.chain(lost).collect())
}

/// A list merged by key that lost entries is replaced as a whole.
fn replaced(old: Option<&Value>, new: &Value) -> Value {
    let (Some(Value::Array(old)), Value::Array(new)) = (old, new) else { return new.clone() };
    let lost = old.iter().any(|o| !new.contains(o));
    let mut list = new.clone();
    if lost {
        list.push(json!({"$patch": "replace"}));
    }
    Value::Array(list)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn status(v: Value) -> PodStatus {
        serde_json::from_value(v).unwrap()
    }

    #[test]
    fn only_differences_are_written() {
        let old = status(json!({"phase": "Pending", "reason": "x", "podIPs": [{"ip": "1"}],
            "conditions": [{"type": "Ready", "status": "False", "reason": "r"}, {"type": "Foreign", "status": "True"}, {"type": "PodResizePending", "status": "True"}]}));
        let new = status(json!({"phase": "Running", "podIPs": [{"ip": "2"}],
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "Foreign", "status": "False"}]}));
        assert_eq!(patch("u", &old, &old), None);
        assert_eq!(
            patch("u", &old, &new).unwrap(),
            json!({"metadata": {"uid": "u"}, "status": {"phase": "Running", "reason": null,
                "podIPs": [{"ip": "2"}, {"$patch": "replace"}],
                "conditions": [{"type": "Ready", "status": "True", "reason": null}, {"type": "PodResizePending", "$patch": "delete"}]}})
        );
    }
}
