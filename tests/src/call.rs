//! Requests by their whole path, for tests of what paths and methods do.

use crate::{Answer, Namespace, Watch};
use serde_json::Value;

impl Namespace {
    /// One request; `body` is JSON (a merge patch for PATCH), or null for none.
    pub fn call(&self, method: &str, path: &str, body: &Value) -> Answer {
        let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        match body {
            Value::Null => self.wire().send(method, path, &[], vec![]),
            body => self.wire().send(method, path, &[("content-type", kind)], body.to_string().into_bytes()),
        }
    }

    /// One request that must be answered with 200 or 201.
    pub fn must(&self, method: &str, path: &str, body: &Value) -> Value {
        let (status, answer) = self.call(method, path, body);
        assert!(matches!(status, 200 | 201), "{method} {path}: {status} {answer}");
        answer
    }

    /// `api/v1/pods/x` or `apis/GROUP/VERSION/KIND` within this namespace.
    pub fn under(&self, path: &str) -> String {
        let parts = if path.starts_with("apis/") { 3 } else { 2 };
        let cut = path.match_indices('/').nth(parts - 1).map_or(path.len(), |(at, _)| at);
        format!("/{}/namespaces/{}{}", &path[..cut], self.name, &path[cut..])
    }

    /// What is at that path within this namespace.
    pub fn read(&self, path: &str) -> Value {
        self.must("GET", &self.under(path), &Value::Null)
    }

    /// Starts a watch; `path` may have a query and is absolute.
    pub fn watch(&self, path: &str) -> Watch {
        self.wire().watch(&format!("{path}{}watch=true", if path.contains('?') { '&' } else { '?' }))
    }
}

impl Watch {
    /// Waits for an event of this type about an object that `wanted` accepts; the object.
    pub fn until_type(&self, type_: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let event =
            self.until(&format!("{type_} with {what}"), |event| event["type"] == type_ && wanted(&event["object"]));
        event["object"].clone()
    }

    /// Waits for an object, added or modified, that `wanted` accepts.
    pub fn until_any(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.until(what, |event| event["type"] != "DELETED" && wanted(&event["object"]))["object"].clone()
    }
}
