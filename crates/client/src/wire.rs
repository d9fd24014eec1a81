//! Reading lists and watches so that one object that cannot be read does not hide all others.
//!
//! The generated types want a time in every `metav1.Condition`, while the API takes a condition without one, as Go's zero time
//! is written: whoever may write a status could otherwise blind every component that follows its kind. What does not fit the
//! type is read again with such times filled in; an object that does not fit even then is told by its key, and the rest goes on.

use crate::key::Key;
use crate::lean::{Lean, LeanList};
use k8s_openapi::serde::de::DeserializeOwned;
use kube::api::WatchEvent;
use kube::core::Status;
use serde_json::Value;

/// Go's zero time, which Go reads as "not set".
const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

/// An object that does not fit its type.
#[derive(Debug)]
pub(crate) struct Unreadable {
    pub key: Key,
    /// `metadata.resourceVersion`, where it has one.
    pub revision: Option<String>,
    pub error: serde_json::Error,
}

/// A complete list.
pub(crate) struct Listed<K> {
    pub revision: String,
    pub items: Vec<K>,
    pub unreadable: Vec<Unreadable>,
}

/// Why a line of a watch is no event.
#[derive(Debug)]
pub(crate) enum NoEvent {
    /// Its object does not fit; it was deleted, or else is there.
    Unreadable { object: Unreadable, deleted: bool },
    /// The server said why the watch is over.
    Status(Box<Status>),
    /// No JSON, or not an event at all.
    Text(serde_json::Error),
}

/// Reads the answer to a list.
///
/// # Errors
/// When it is not JSON, or has no list's shape.
pub(crate) fn list<K: DeserializeOwned>(text: &str) -> Result<Listed<K>, serde_json::Error> {
    if let Ok(list) = serde_json::from_str::<LeanList<K>>(text) {
        let items = list.items.unwrap_or_default().into_iter().map(|item| item.0).collect();
        return Ok(Listed { revision: list.metadata.resource_version.unwrap_or_default(), items, unreadable: vec![] });
    }
    let list: LeanList<Value> = serde_json::from_str(text)?;
    let revision = list.metadata.resource_version.unwrap_or_default();
    let mut listed = Listed { revision, items: vec![], unreadable: vec![] };
    for Lean(item) in list.items.unwrap_or_default() {
        match object(item) {
            Ok(item) => listed.items.push(item),
            Err(unreadable) => listed.unreadable.push(unreadable),
        }
    }
    Ok(listed)
}

/// Reads one line of a watch.
///
/// # Errors
/// What the line is instead of an event that can be read.
pub(crate) fn event<K: DeserializeOwned>(line: &str) -> Result<WatchEvent<K>, NoEvent> {
    let error = match serde_json::from_str::<WatchEvent<Lean<K>>>(line) {
        Ok(event) => return Ok(bare(event)),
        Err(error) => error,
    };
    if let Ok(event) = serde_json::from_str::<WatchEvent<Lean<Value>>>(line) {
        let deleted = matches!(event, WatchEvent::Deleted(_));
        let object = |Lean(value)| object(value).map_err(|object| NoEvent::Unreadable { object, deleted });
        return Ok(match event {
            WatchEvent::Added(value) => WatchEvent::Added(object(value)?),
            WatchEvent::Modified(value) => WatchEvent::Modified(object(value)?),
            WatchEvent::Deleted(value) => WatchEvent::Deleted(object(value)?),
            WatchEvent::Bookmark(mark) => WatchEvent::Bookmark(mark),
            WatchEvent::Error(status) => WatchEvent::Error(status),
        });
    }
    match serde_json::from_str::<Value>(line) {
        Ok(value) if value["kind"] == "Status" => {
            Err(serde_json::from_value(value).map_or_else(NoEvent::Text, |status| NoEvent::Status(Box::new(status))))
        }
        _ => Err(NoEvent::Text(error)),
    }
}

fn bare<K>(event: WatchEvent<Lean<K>>) -> WatchEvent<K> {
    match event {
        WatchEvent::Added(Lean(object)) => WatchEvent::Added(object),
        WatchEvent::Modified(Lean(object)) => WatchEvent::Modified(object),
        WatchEvent::Deleted(Lean(object)) => WatchEvent::Deleted(object),
        WatchEvent::Bookmark(mark) => WatchEvent::Bookmark(mark),
        WatchEvent::Error(status) => WatchEvent::Error(status),
    }
}

fn object<K: DeserializeOwned>(mut value: Value) -> Result<K, Unreadable> {
    fill_in_times(&mut value);
    let text = |field: &str| value["metadata"][field].as_str().map(str::to_owned);
    let key = Key { namespace: text("namespace").unwrap_or_default(), name: text("name").unwrap_or_default() };
    let revision = text("resourceVersion");
    serde_json::from_value(value).map_err(|error| Unreadable { key, revision, error })
}

/// Gives every condition without a time Go's zero time, wherever conditions stand.
fn fill_in_times(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(fill_in_times),
        Value::Object(members) => {
            for (name, member) in members {
                if let (true, Some(conditions)) = (name == "conditions", member.as_array_mut()) {
                    for condition in conditions.iter_mut().filter_map(Value::as_object_mut) {
                        let time = condition.entry("lastTransitionTime").or_insert(Value::Null);
                        if time.is_null() {
                            *time = ZERO_TIME.into();
                        }
                    }
                }
                fill_in_times(member);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Service;
    use serde_json::json;

    fn service(name: &str, conditions: Value) -> Value {
        json!({"kind": "Service", "apiVersion": "v1", "metadata": {"name": name, "namespace": "n", "resourceVersion": "7"},
            "status": {"conditions": conditions}})
    }

    fn timeless() -> Value {
        json!([{"type": "T", "status": "True"}, {"type": "U", "status": "True", "lastTransitionTime": null}])
    }

    #[test]
    fn a_condition_needs_no_time() {
        let line = json!({"type": "MODIFIED", "object": service("s", timeless())}).to_string();
        let WatchEvent::Modified(seen) = event::<Service>(&line).unwrap() else { panic!("{line}") };
        let conditions = seen.status.unwrap().conditions.unwrap();
        assert_eq!(conditions.iter().map(|c| c.type_.as_str()).collect::<Vec<_>>(), ["T", "U"]);
        assert!(conditions.iter().all(|c| json!(c.last_transition_time) == ZERO_TIME));
    }

    #[test]
    fn one_that_cannot_be_read_does_not_hide_the_others() {
        let items = [service("a", json!([])), service("b", json!("no list")), service("c", timeless())];
        let text = json!({"metadata": {"resourceVersion": "9"}, "items": items}).to_string();
        let listed = list::<Service>(&text).unwrap();
        assert_eq!(listed.revision, "9");
        let names: Vec<_> = listed.items.iter().map(|s| s.metadata.name.as_deref().unwrap()).collect();
        assert_eq!(names, ["a", "c"]);
        assert_eq!(listed.unreadable.iter().map(|u| u.key.to_string()).collect::<Vec<_>>(), ["n/b"]);
    }

    #[test]
    fn what_is_no_event_says_what_it_is() {
        let line = |type_: &str| json!({"type": type_, "object": service("b", json!("no list"))}).to_string();
        for (type_, gone) in [("ADDED", false), ("MODIFIED", false), ("DELETED", true)] {
            match event::<Service>(&line(type_)) {
                Err(NoEvent::Unreadable { object, deleted }) => {
                    assert_eq!(
                        (object.key.to_string().as_str(), object.revision.as_deref(), deleted),
                        ("n/b", Some("7"), gone)
                    );
                }
                other => panic!("{other:?}"),
            }
        }
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 410}).to_string();
        assert!(matches!(event::<Service>(&status), Err(NoEvent::Status(s)) if s.code == 410));
        for text in ["", "{", "no JSON", "{}", "[]"] {
            assert!(matches!(event::<Service>(text), Err(NoEvent::Text(_))), "{text}");
        }
        assert!(list::<Service>("no JSON").is_err());
    }
}
