//! The objects that an explanation is made of.

use anyhow::{Result, bail};
use serde_json::Value;

/// What is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The kind.
    pub kind: &'static str,
    /// The namespace; empty for Nodes and Namespaces.
    pub namespace: String,
    /// The name.
    pub name: String,
}

/// Kind, path of its API, plural, whether in a namespace, other names.
type Row = (&'static str, &'static str, &'static str, bool, &'static [&'static str]);

const KINDS: [Row; 10] = [
    ("Pod", "/api/v1", "pods", true, &["po"]),
    ("Deployment", "/apis/apps/v1", "deployments", true, &["deploy"]),
    ("ReplicaSet", "/apis/apps/v1", "replicasets", true, &["rs"]),
    ("StatefulSet", "/apis/apps/v1", "statefulsets", true, &["sts"]),
    ("DaemonSet", "/apis/apps/v1", "daemonsets", true, &["ds"]),
    ("Job", "/apis/batch/v1", "jobs", true, &[]),
    ("Service", "/api/v1", "services", true, &["svc"]),
    ("PersistentVolumeClaim", "/api/v1", "persistentvolumeclaims", true, &["pvc"]),
    ("Node", "/api/v1", "nodes", false, &["no"]),
    ("Namespace", "/api/v1", "namespaces", false, &["ns"]),
];

impl Subject {
    /// Reads `KIND/NAME` or `KIND NAME`.
    pub fn parse(words: &[String], namespace: &str) -> Result<Self> {
        let (kind, name) = match words {
            [one] => one.split_once('/').unwrap_or((one, "")),
            [kind, name] => (kind.as_str(), name.as_str()),
            _ => ("", ""),
        };
        if name.is_empty() || name.contains('/') {
            bail!("say what: `caravel why pod/NAME`, or `caravel why pod NAME`");
        }
        let wanted = kind.to_ascii_lowercase();
        let wanted = wanted.split('.').next().unwrap_or_default();
        let found = KINDS.iter().find(|(kind, _, plural, _, short)| {
            wanted == kind.to_ascii_lowercase() || wanted == *plural || short.contains(&wanted)
        });
        let Some((kind, _, _, namespaced, _)) = found else {
            let known: Vec<&str> = KINDS.iter().map(|k| k.0).collect();
            bail!("{kind:?} cannot be explained; these can: {}", known.join(", "));
        };
        let namespace = if *namespaced { namespace.to_owned() } else { String::new() };
        Ok(Self { kind, namespace, name: name.to_owned() })
    }

    /// Its path in the API.
    pub fn path(&self) -> String {
        let row = KINDS.iter().find(|k| k.0 == self.kind);
        let (api, plural) = row.map_or(("", ""), |k| (k.1, k.2));
        match self.namespace.as_str() {
            "" => format!("{api}/{plural}/{}", self.name),
            namespace => format!("{api}/namespaces/{namespace}/{plural}/{}", self.name),
        }
    }
}

/// Objects of the subject's namespace, and what is not in namespaces.
#[derive(Clone, Debug, Default)]
pub struct World {
    pub subject: Value,
    pub pods: Vec<Value>,
    pub replica_sets: Vec<Value>,
    pub claims: Vec<Value>,
    pub events: Vec<Value>,
    pub nodes: Vec<Value>,
    pub volumes: Vec<Value>,
    pub classes: Vec<Value>,
    /// What could not be read, and why.
    pub unseen: Vec<String>,
}

impl World {
    /// The newest Warning about an object, of some reasons (all without any): reason and message.
    pub fn warning(&self, object: &Value, reasons: &[&str]) -> Option<(&str, &str)> {
        let uid = &object["metadata"]["uid"];
        let when = |event: &Value| {
            let times = [&event["lastTimestamp"], &event["series"]["lastObservedTime"], &event["eventTime"]];
            times
                .into_iter()
                .chain([&event["metadata"]["creationTimestamp"]])
                .map(text)
                .find(|t| !t.is_empty())
                .map(str::to_owned)
        };
        let about = |event: &&Value| {
            event["involvedObject"]["uid"] == *uid
                && event["type"] == "Warning"
                // "Error: ErrImagePull" follows an event that says why.
                && !text(&event["message"]).starts_with("Error: ")
                && (reasons.is_empty() || reasons.contains(&text(&event["reason"])))
        };
        let newest = self.events.iter().filter(about).max_by_key(|e| when(e))?;
        Some((text(&newest["reason"]), text(&newest["message"])))
    }

    /// The Pods that an object controls.
    pub fn pods_of(&self, owner: &Value) -> Vec<&Value> {
        self.pods.iter().filter(|p| controls(owner, p)).collect()
    }
}

/// Whether one object is the other's controller.
pub fn controls(owner: &Value, object: &Value) -> bool {
    let owners = object["metadata"]["ownerReferences"].as_array();
    owners.into_iter().flatten().any(|o| o["controller"] == true && o["uid"] == owner["metadata"]["uid"])
}

/// A string; empty when it is none.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A whole number; 0 when it is none.
pub fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

/// `namespace/name`, or the name alone.
pub fn name(object: &Value) -> String {
    let meta = &object["metadata"];
    match text(&meta["namespace"]) {
        "" => text(&meta["name"]).to_owned(),
        namespace => format!("{namespace}/{}", text(&meta["name"])),
    }
}

/// A condition of an object's status.
pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == kind)
}

/// Whether a condition is there and True.
pub fn is_true(object: &Value, kind: &str) -> bool {
    condition(object, kind).is_some_and(|c| c["status"] == "True")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn subjects() {
        let of = |words: &[&str]| Subject::parse(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>(), "shop");
        for words in [&["pod/x"][..], &["po/x"], &["Pods", "x"], &["pods.v1/x"]] {
            assert_eq!(of(words).unwrap().path(), "/api/v1/namespaces/shop/pods/x");
        }
        assert_eq!(of(&["deploy/x"]).unwrap().path(), "/apis/apps/v1/namespaces/shop/deployments/x");
        assert_eq!(of(&["node", "x"]).unwrap().path(), "/api/v1/nodes/x");
        assert!(of(&["pod"]).unwrap_err().to_string().contains("pod/NAME"));
        assert!(of(&["secret/x"]).unwrap_err().to_string().contains("StatefulSet"));
    }
}
