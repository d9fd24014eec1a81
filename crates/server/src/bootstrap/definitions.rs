//! Custom resources come and go: every CustomResourceDefinition that is established is rows in the table of kinds.
//!
//! One follower does what three controllers do upstream: it accepts the names (or says what they collide with), establishes
//! the definition, and when the definition is deleted it deletes the instances first.

use crate::authn::UserInfo;
use crate::clock::rfc3339_seconds;
use crate::registry::delete::CLEANUP;
use crate::registry::options::{DeleteOptions, ListOptions, WriteOptions};
use crate::registry::update::{Change, Update};
use crate::registry::{Call, Registry, keys, store_error};
use crate::server::Server;
use caravel_api::kinds::{Kind, custom};
use caravel_api::meta::{self, Filter};
use caravel_api::status::ApiError;
use caravel_store::{At, Entry, EventKind, Revision};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const GROUP: &str = "apiextensions.k8s.io";
const PLURAL: &str = "customresourcedefinitions";

/// Group, version and plural of the rows of each definition.
type Rows = HashMap<String, Vec<(String, String, String)>>;

struct Follower {
    registry: Arc<Registry>,
    kind: Arc<Kind>,
    call: Call,
    rows: Rows,
}

/// Takes in the definitions that are there, and follows them.
pub async fn start(server: &Arc<Server>) -> Result<(), ApiError> {
    let kind = server.registry.row(GROUP, PLURAL)?;
    let user = Arc::new(UserInfo::system_masters("system:apiserver"));
    let mut follower = Follower {
        registry: server.registry.clone(),
        kind,
        call: Call::new(user, "kube-apiserver"),
        rows: Rows::default(),
    };
    let revision = follower.load().await?;
    let stop = server.stop.clone();
    tokio::spawn(async move { follower.follow(revision, stop).await });
    Ok(())
}

impl Follower {
    async fn load(&mut self) -> Result<Revision, ApiError> {
        let prefix = keys::prefix(&self.kind, "");
        let page = self.registry.store.list(&prefix, At::Latest, None, 0).await.map_err(store_error)?;
        let present: Vec<&str> = page.entries.iter().map(|e| keys::split(&e.key).1).collect();
        let gone: Vec<String> = self.rows.keys().filter(|name| !present.contains(&name.as_str())).cloned().collect();
        for name in gone {
            self.remove(&name);
        }
        for entry in &page.entries {
            self.take(entry).await;
        }
        Ok(page.revision)
    }

    async fn follow(mut self, mut revision: Revision, stop: CancellationToken) {
        let prefix = keys::prefix(&self.kind, "");
        while !stop.is_cancelled() {
            let Ok(mut watch) = self.registry.store.watch(&prefix, revision) else {
                match self.load().await {
                    Ok(at) => revision = at,
                    Err(error) => {
                        tracing::error!(%error, "custom resource definitions cannot be read");
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                }
                continue;
            };
            loop {
                let batch = tokio::select! {
                    () = stop.cancelled() => return,
                    batch = watch.next() => batch,
                };
                let Ok(batch) = batch else { break };
                for event in &batch.events {
                    match event.kind {
                        EventKind::Deleted => self.remove(keys::split(&event.entry.key).1),
                        _ => self.take(&event.entry).await,
                    }
                }
                revision = batch.revision;
            }
        }
    }

    /// Brings one definition to where it should be. Failures are logged; the next change of it tries again.
    async fn take(&mut self, entry: &Entry) {
        let (_, name) = keys::split(&entry.key);
        let result = match self.registry.parse(&self.kind, entry) {
            Ok(definition) => self.reconcile(name, &definition).await,
            Err(error) => Err(error),
        };
        if let Err(error) = result
            && error.code != 404
        {
            tracing::warn!(definition = name, %error, "a custom resource definition could not be taken in");
        }
    }

    async fn reconcile(&mut self, name: &str, definition: &Value) -> Result<(), ApiError> {
        if meta::is_deleting(definition) {
            if meta::finalizers(definition).any(|f| f == CLEANUP) {
                self.clean(name, definition);
            }
            return Ok(());
        }
        let conflict = self.conflict(name, definition);
        let now = rfc3339_seconds(self.registry.clock.now());
        let status = next_status(definition, conflict.as_deref(), &now);
        if definition.get("status") != Some(&status) {
            let options = WriteOptions::default();
            let change = Change::With(Box::new(move |d: &mut Value| {
                d["status"] = status.clone();
                Ok(())
            }));
            let update =
                Update { kind: &self.kind, namespace: "", name, subresource: "status", change, options: &options };
            let stored = self.registry.update(&self.call, update).await?;
            let definition = self.registry.parse(&self.kind, &stored.entry)?;
            return self.serve(name, &definition);
        }
        self.serve(name, definition)
    }

    /// Puts the definition's rows into the table.
    fn serve(&mut self, name: &str, definition: &Value) -> Result<(), ApiError> {
        if condition(definition, "Established").is_none_or(|c| c.get("status").and_then(Value::as_str) != Some("True"))
        {
            return Ok(());
        }
        let rows = custom::from_definition(definition).map_err(|e| ApiError::internal(e.to_string()))?;
        let keys: Vec<_> =
            rows.iter().map(|k| (k.group.to_string(), k.version.to_string(), k.plural.to_string())).collect();
        let old = self.rows.insert(name.to_owned(), keys.clone()).unwrap_or_default();
        self.registry.change_kinds(|table| {
            for (group, version, plural) in old.iter().filter(|row| !keys.contains(row)) {
                table.remove(group, version, plural);
            }
            for row in rows {
                table.insert(Arc::new(row));
            }
        });
        Ok(())
    }

    fn remove(&mut self, name: &str) {
        if let Some(rows) = self.rows.remove(name) {
            self.registry.change_kinds(|table| {
                for (group, version, plural) in &rows {
                    table.remove(group, version, plural);
                }
            });
        }
    }

    /// What the names collide with: another kind of the same group.
    fn conflict(&self, name: &str, definition: &Value) -> Option<String> {
        let text = |pointer: &str| definition.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (group, plural, kind) = (text("/spec/group"), text("/spec/names/plural"), text("/spec/names/kind"));
        let own = |row: &Kind| row.custom.as_ref().is_some_and(|c| c.definition == name);
        let kinds = self.registry.kinds();
        let mut others = kinds.iter().filter(|row| row.group == group && !own(row));
        others.find_map(|row| {
            if row.plural == plural {
                Some(format!("{plural:?} is already in use"))
            } else if row.kind == kind || row.list_kind == kind {
                Some(format!("{kind:?} is already in use"))
            } else {
                None
            }
        })
    }

    /// Deletes the instances of a definition that is being deleted, then lets it go. In a task of its own: instances may have
    /// finalizers that take their time.
    fn clean(&self, name: &str, definition: &Value) {
        let registry = self.registry.clone();
        let (name, definition, kind) = (name.to_owned(), definition.clone(), self.kind.clone());
        let user = self.call.user.clone();
        tokio::spawn(async move {
            let call = Call::new(user, "kube-apiserver");
            for attempt in 0..u64::MAX {
                match clean_once(&registry, &call, &definition).await {
                    Ok(true) => break,
                    Ok(false) => {}
                    Err(error) => tracing::warn!(definition = %name, %error, "instances could not be deleted"),
                }
                tokio::time::sleep(Duration::from_millis(200 << attempt.min(5))).await;
            }
            let options = WriteOptions::default();
            let change = Change::With(Box::new(|d: &mut Value| {
                if let Some(all) = d["metadata"]["finalizers"].as_array_mut() {
                    all.retain(|f| f != CLEANUP);
                }
                Ok(())
            }));
            let update = Update { kind: &kind, namespace: "", name: &name, subresource: "", change, options: &options };
            if let Err(error) = registry.update(&call, update).await
                && error.code != 404
            {
                tracing::warn!(definition = %name, %error, "a custom resource definition could not be let go");
            }
        });
    }
}

/// Asks for the deletion of all instances; true when there are none.
async fn clean_once(registry: &Arc<Registry>, call: &Call, definition: &Value) -> Result<bool, ApiError> {
    let text = |pointer: &str| definition.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let kinds = registry.kinds();
    let row = kinds.versions(text("/spec/group"), text("/spec/names/plural")).next().cloned();
    let Some(row) = row else {
        // Never served, or no more: whatever lies there has no kind to be deleted by.
        return Ok(true);
    };
    let list = ListOptions::default();
    let options = DeleteOptions::default();
    registry.delete_collection(call, &row, "", &Filter::everything(), &list, &options).await?;
    let prefix = keys::prefix(&row, "");
    let left = registry.store.list(&prefix, At::Latest, None, 1).await.map_err(store_error)?;
    Ok(left.entries.is_empty())
}

fn condition<'a>(definition: &'a Value, kind: &str) -> Option<&'a Value> {
    let all = definition.pointer("/status/conditions").and_then(Value::as_array)?;
    all.iter().find(|c| c.get("type").and_then(Value::as_str) == Some(kind))
}

fn next_status(definition: &Value, conflict: Option<&str>, now: &str) -> Value {
    let mut status = definition.get("status").filter(|s| s.is_object()).cloned().unwrap_or_else(|| json!({}));
    let mut conditions: Vec<Value> = status.get("conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut set = |kind: &str, value: bool, reason: &str, message: &str| {
        let text = if value { "True" } else { "False" };
        let next = json!({
            "type": kind, "status": text, "reason": reason, "message": message, "lastTransitionTime": now,
        });
        match conditions.iter_mut().find(|c| c.get("type").and_then(Value::as_str) == Some(kind)) {
            Some(present) if present.get("status") == next.get("status") => {
                present["reason"] = next["reason"].clone();
                present["message"] = next["message"].clone();
            }
            Some(present) => *present = next,
            None => conditions.push(next),
        }
    };
    let established =
        condition(definition, "Established").and_then(|c| c.get("status")).and_then(Value::as_str) == Some("True");
    match conflict {
        None => {
            set("NamesAccepted", true, "NoConflicts", "no conflicts found");
            set("Established", true, "InitialNamesAccepted", "the initial names have been accepted");
        }
        Some(why) => {
            set("NamesAccepted", false, "NameConflict", why);
            if !established {
                set("Established", false, "NotAccepted", "not all names are accepted");
            }
        }
    }
    status["conditions"] = Value::Array(conditions);
    if conflict.is_none() {
        status["acceptedNames"] = accepted_names(definition);
    }
    let mut stored: Vec<Value> = status.get("storedVersions").and_then(Value::as_array).cloned().unwrap_or_default();
    let versions = definition.pointer("/spec/versions").and_then(Value::as_array);
    let storage = versions.into_iter().flatten().find(|v| v.get("storage").and_then(Value::as_bool) == Some(true));
    if let Some(name) = storage.and_then(|v| v.get("name"))
        && !stored.contains(name)
    {
        stored.push(name.clone());
    }
    status["storedVersions"] = Value::Array(stored);
    status
}

fn accepted_names(definition: &Value) -> Value {
    let names = definition.pointer("/spec/names").and_then(Value::as_object).cloned().unwrap_or_default();
    let kind = names.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut out: Map<String, Value> = names;
    out.entry("listKind").or_insert_with(|| json!(format!("{kind}List")));
    out.entry("singular").or_insert_with(|| json!(kind.to_lowercase()));
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_accepted_once() {
        let mut definition = json!({"spec": {"group": "g", "names": {"plural": "as", "kind": "A"}, "versions": [{"name": "v1", "storage": true}]}});
        let status = next_status(&definition, None, "now");
        assert_eq!(status["acceptedNames"], json!({"plural": "as", "kind": "A", "listKind": "AList", "singular": "a"}));
        assert_eq!(status["storedVersions"], json!(["v1"]));
        definition["status"] = status.clone();
        assert_eq!(next_status(&definition, None, "later"), status, "nothing more to do");
        let conflicted = next_status(&definition, Some("\"as\" is already in use"), "later");
        assert_eq!(conflicted["conditions"][0]["status"], "False");
        assert_eq!(conflicted["conditions"][1]["status"], "True", "what was established stays so");
    }
}
