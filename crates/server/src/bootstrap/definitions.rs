//! Custom resources come and go: every CustomResourceDefinition that is established is rows in the table of kinds.
//!
//! One follower does what three controllers do upstream: it accepts the names (or says what they collide with), establishes
//! the definition, and when the definition is deleted it deletes the instances first.

use crate::authn::UserInfo;
use crate::clock::rfc3339_seconds;
use crate::follow::{self, Follower};
use crate::registry::delete::CLEANUP;
use crate::registry::options::{DeleteOptions, ListOptions, WriteOptions};
use crate::registry::update::{Change, Update};
use crate::registry::{Call, Registry, keys, store_error};
use crate::server::Server;
use caravel_api::kinds::{Kind, Verbs, custom};
use caravel_api::meta::{self, Filter};
use caravel_api::status::ApiError;
use caravel_store::{At, Entry, Event, EventKind};
use serde_json::{Map, Value, json};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

const GROUP: &str = "apiextensions.k8s.io";
const PLURAL: &str = "customresourcedefinitions";

/// Group, version and plural of the rows of each definition.
type Rows = HashMap<String, Vec<(String, String, String)>>;

struct Keeper {
    registry: Arc<Registry>,
    kind: Arc<Kind>,
    call: Call,
    rows: Rows,
    /// Definitions whose names collide with others'; looked at again when a definition goes.
    refused: BTreeSet<String>,
    /// Definitions whose instances are being deleted.
    cleaning: BTreeSet<String>,
}

/// Takes in the definitions that are there, and follows them.
pub async fn start(server: &Arc<Server>) -> Result<(), ApiError> {
    let kind = server.registry.row(GROUP, PLURAL)?;
    let user = Arc::new(UserInfo::system_masters("system:apiserver"));
    let keeper = Keeper {
        registry: server.registry.clone(),
        kind: kind.clone(),
        call: Call::new(user, "kube-apiserver"),
        rows: Rows::default(),
        refused: BTreeSet::new(),
        cleaning: BTreeSet::new(),
    };
    follow::kind(&server.registry, &kind, keeper, &server.stop).await
}

impl Follower for Keeper {
    async fn all(&mut self, entries: &[Arc<Entry>]) -> Result<(), ApiError> {
        let present: Vec<&str> = entries.iter().map(|e| keys::split(&e.key).1).collect();
        let gone: Vec<String> = self.rows.keys().filter(|name| !present.contains(&name.as_str())).cloned().collect();
        for name in gone {
            self.remove(&name);
        }
        for entry in entries {
            self.take(entry).await;
        }
        Ok(())
    }

    async fn changed(&mut self, events: &[Arc<Event>]) {
        for event in events {
            match event.kind {
                EventKind::Deleted => {
                    self.remove(keys::split(&event.entry.key).1);
                    self.retry_refused().await;
                }
                _ => self.take(&event.entry).await,
            }
        }
    }
}

impl Keeper {
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
            if meta::finalizers(definition).any(|f| f == CLEANUP) && self.cleaning.insert(name.to_owned()) {
                self.close(name);
                self.clean(name, definition);
            }
            return Ok(());
        }
        let names = names(&self.others(name, definition), definition);
        let now = rfc3339_seconds(self.registry.clock.now());
        let status = next_status(definition, &names, &now);
        if names.conflict.is_some() {
            self.refused.insert(name.to_owned());
        } else {
            self.refused.remove(name);
        }
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

    /// Definitions that were refused for their names may have them now.
    async fn retry_refused(&mut self) {
        for name in std::mem::take(&mut self.refused) {
            match self.registry.entry(&self.kind, "", &name, At::Latest).await {
                Ok(Some(entry)) => self.take(&entry).await,
                Ok(None) => {}
                Err(error) => tracing::warn!(definition = %name, %error, "a custom resource definition cannot be read"),
            }
        }
    }

    /// Nothing more is created of a definition that goes.
    fn close(&self, name: &str) {
        let Some(rows) = self.rows.get(name) else { return };
        self.registry.change_kinds(|table| {
            for (group, version, plural) in rows {
                if let Some(row) = table.resource(group, version, plural) {
                    let mut closed = Kind::clone(row);
                    closed.verbs = closed.verbs.without(Verbs::CREATE);
                    table.insert(Arc::new(closed));
                }
            }
        });
    }

    fn remove(&mut self, name: &str) {
        self.refused.remove(name);
        self.cleaning.remove(name);
        self.registry.forget_converter(name);
        if let Some(rows) = self.rows.remove(name) {
            self.registry.change_kinds(|table| {
                for (group, version, plural) in &rows {
                    table.remove(group, version, plural);
                }
            });
        }
    }

    /// The other kinds of the definition's group.
    fn others(&self, name: &str, definition: &Value) -> Vec<Arc<Kind>> {
        let group = definition.pointer("/spec/group").and_then(Value::as_str).unwrap_or_default();
        let own = |row: &Kind| row.custom.as_ref().is_some_and(|c| c.definition == name);
        self.registry.kinds().iter().filter(|row| row.group == group && !own(row)).cloned().collect()
    }

    /// Deletes the instances of a definition that is being deleted, then lets it go. In a task of its own: instances may have
    /// finalizers that take their time.
    fn clean(&self, name: &str, definition: &Value) {
        let registry = self.registry.clone();
        let (name, definition, kind) = (name.to_owned(), definition.clone(), self.kind.clone());
        let user = self.call.user.clone();
        tokio::spawn(async move {
            let call = Call::new(user, "kube-apiserver");
            let stop_early = mark_terminating(&registry, &call, &kind, &name, true, IN_PROGRESS).await;
            if let Err(error) = stop_early
                && error.code == 404
            {
                return;
            }
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

const IN_PROGRESS: (&str, &str) = ("InstanceDeletionInProgress", "CustomResource deletion is in progress");

/// Says in the definition's status how far the deletion of its instances is.
async fn mark_terminating(
    registry: &Arc<Registry>,
    call: &Call,
    kind: &Arc<Kind>,
    name: &str,
    value: bool,
    (reason, message): (&'static str, &'static str),
) -> Result<(), ApiError> {
    let now = rfc3339_seconds(registry.clock.now());
    let options = WriteOptions::default();
    let change = Change::With(Box::new(move |definition: &mut Value| {
        let mut conditions = conditions_of(definition);
        set_condition(definition, &mut conditions, "Terminating", (value, reason, message), &now);
        definition["status"]["conditions"] = Value::Array(conditions);
        Ok(())
    }));
    let update = Update { kind, namespace: "", name, subresource: "status", change, options: &options };
    registry.update(call, update).await.map(|_| ())
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

fn conditions_of(definition: &Value) -> Vec<Value> {
    definition.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default()
}

/// Sets a condition of the definition's present generation.
fn set_condition(definition: &Value, all: &mut Vec<Value>, kind: &str, (value, reason, message): Said, now: &str) {
    let text = if value { "True" } else { "False" };
    let mut next = json!({
        "type": kind, "status": text, "reason": reason, "message": message, "lastTransitionTime": now,
        "observedGeneration": meta::generation(definition),
    });
    match all.iter_mut().find(|c| c.get("type").and_then(Value::as_str) == Some(kind)) {
        Some(present) => {
            if present.get("status") == next.get("status") {
                next["lastTransitionTime"] = present["lastTransitionTime"].clone();
            }
            *present = next;
        }
        None => all.push(next),
    }
}

/// A condition's value, reason and message.
type Said<'a> = (bool, &'a str, &'a str);

/// Which of the wanted names a definition has.
#[derive(Debug, PartialEq)]
struct Names {
    accepted: Value,
    /// Reason and message of the last that it cannot have.
    conflict: Option<(&'static str, String)>,
}

/// Gives a definition the names that no other kind of its group has; what it cannot have stays as it had it before.
fn names(others: &[Arc<Kind>], definition: &Value) -> Names {
    let resources: BTreeSet<&str> = others
        .iter()
        .flat_map(|row| [&row.plural, &row.singular].into_iter().chain(&row.short_names))
        .map(|name| &**name)
        .collect();
    let kinds: BTreeSet<&str> = others.iter().flat_map(|row| [&*row.kind, &*row.list_kind]).collect();
    let wanted = wanted_names(definition);
    let had = definition.pointer("/status/acceptedNames").cloned().unwrap_or_default();
    let mut accepted = Map::new();
    let mut conflict = None;
    for (field, taken, reason) in [
        ("plural", &resources, "PluralConflict"),
        ("singular", &resources, "SingularConflict"),
        ("shortNames", &resources, "ShortNamesConflict"),
        ("kind", &kinds, "KindConflict"),
        ("listKind", &kinds, "ListKindConflict"),
    ] {
        let value = wanted.get(field).cloned().unwrap_or_default();
        let all = match &value {
            Value::Array(all) => all.iter().filter_map(Value::as_str).collect(),
            other => Vec::from_iter(other.as_str()),
        };
        let collisions: Vec<String> = all
            .into_iter()
            .filter(|name| taken.contains(name))
            .map(|name| format!("{name:?} is already in use"))
            .collect();
        let mut keep = value;
        if let [first, rest @ ..] = &collisions[..] {
            let message = if rest.is_empty() { first.clone() } else { format!("[{}]", collisions.join(", ")) };
            conflict = Some((reason, message));
            keep = had.get(field).cloned().unwrap_or_default();
        }
        if !keep.is_null() {
            accepted.insert(field.to_owned(), keep);
        }
    }
    if let Some(categories) = wanted.get("categories") {
        accepted.insert("categories".to_owned(), categories.clone());
    }
    for field in ["plural", "kind"] {
        accepted.entry(field).or_insert_with(|| json!(""));
    }
    Names { accepted: Value::Object(accepted), conflict }
}

fn wanted_names(definition: &Value) -> Map<String, Value> {
    let mut out = definition.pointer("/spec/names").and_then(Value::as_object).cloned().unwrap_or_default();
    let kind = out.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    out.entry("listKind").or_insert_with(|| json!(format!("{kind}List")));
    out.entry("singular").or_insert_with(|| json!(kind.to_lowercase()));
    out
}

fn next_status(definition: &Value, names: &Names, now: &str) -> Value {
    let mut status = definition.get("status").filter(|s| s.is_object()).cloned().unwrap_or_else(|| json!({}));
    let mut conditions = conditions_of(definition);
    let mut set = |kind: &str, value: bool, reason: &str, message: &str| {
        set_condition(definition, &mut conditions, kind, (value, reason, message), now);
    };
    let established =
        condition(definition, "Established").and_then(|c| c.get("status")).and_then(Value::as_str) == Some("True");
    match &names.conflict {
        None => {
            set("NamesAccepted", true, "NoConflicts", "no conflicts found");
            set("Established", true, "InitialNamesAccepted", "the initial names have been accepted");
        }
        Some((reason, message)) => {
            set("NamesAccepted", false, reason, message);
            if !established {
                set("Established", false, "NotAccepted", "not all names are accepted");
            }
        }
    }
    approval(definition, &mut conditions, now);
    status["conditions"] = Value::Array(conditions);
    status["observedGeneration"] = json!(meta::generation(definition));
    status["acceptedNames"] = names.accepted.clone();
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

const APPROVAL: &str = "api-approved.kubernetes.io";

/// Groups of the project itself say who approved their definitions (KEP-1111).
fn approval(definition: &Value, conditions: &mut Vec<Value>, now: &str) {
    let group = definition.pointer("/spec/group").and_then(Value::as_str).unwrap_or_default();
    let protected =
        ["k8s.io", "kubernetes.io"].iter().any(|domain| group == *domain || group.ends_with(&format!(".{domain}")));
    if !protected {
        return;
    }
    let said = meta::annotation(definition, APPROVAL).unwrap_or_default();
    let (value, reason, message) = if said.starts_with("https://") || said.starts_with("http://") {
        (true, "ApprovedAnnotation", format!("approved in {said}"))
    } else if said.starts_with("unapproved") {
        (false, "UnapprovedAnnotation", format!("not approved: {said:?}"))
    } else {
        (
            false,
            "InvalidAnnotation",
            format!("the annotation {APPROVAL} must be a URL or begin with \"unapproved\", not {said:?}"),
        )
    };
    set_condition(definition, conditions, "KubernetesAPIApprovalPolicyConformant", (value, reason, &message), now);
}

#[cfg(test)]
mod tests {
    use super::*;
    use caravel_api::kinds::KindTable;

    fn definition(kind: &str, short: &str) -> Value {
        json!({
            "metadata": {"name": "as.g.io"},
            "spec": {
                "group": "g.io", "scope": "Cluster", "names": {"plural": "as", "kind": kind, "shortNames": [short]},
                "versions": [{"name": "v1", "storage": true, "served": true}],
            },
        })
    }

    #[test]
    fn names_are_accepted_once() {
        let mut definition = definition("A", "x");
        let free = names(&[], &definition);
        let status = next_status(&definition, &free, "now");
        let wanted = json!({"plural": "as", "kind": "A", "listKind": "AList", "singular": "a", "shortNames": ["x"]});
        assert_eq!(status["acceptedNames"], wanted);
        assert_eq!(status["storedVersions"], json!(["v1"]));
        definition["status"] = status.clone();
        assert_eq!(next_status(&definition, &free, "later"), status, "nothing more to do");
        definition["metadata"]["generation"] = json!(2);
        let status = next_status(&definition, &free, "later");
        assert_eq!(status["observedGeneration"], 2);
        for condition in status["conditions"].as_array().unwrap() {
            assert_eq!(
                (&condition["observedGeneration"], &condition["lastTransitionTime"]),
                (&json!(2), &json!("now"))
            );
        }
    }

    #[test]
    fn names_of_others_are_refused() {
        let mut other = definition("B", "x");
        other["metadata"]["name"] = json!("bs.g.io");
        other["spec"]["names"]["plural"] = json!("bs");
        let rows = custom::from_definition(&other).unwrap().into_iter().map(Arc::new);
        let others: Vec<Arc<Kind>> = KindTable::from_rows(rows.map(|row| Kind::clone(&row))).iter().cloned().collect();
        let mut wanted = definition("A", "x");
        let found = names(&others, &wanted);
        assert_eq!(found.conflict, Some(("ShortNamesConflict", "\"x\" is already in use".to_owned())));
        let status = next_status(&wanted, &found, "now");
        assert_eq!(
            (&status["conditions"][0]["status"], &status["conditions"][1]["status"]),
            (&json!("False"), &json!("False"))
        );
        assert!(status["acceptedNames"]["shortNames"].is_null());
        wanted["status"] =
            json!({"conditions": [{"type": "Established", "status": "True"}], "acceptedNames": {"kind": "A"}});
        wanted["spec"]["names"]["kind"] = json!("B");
        let found = names(&others, &wanted);
        assert_eq!(found.accepted["kind"], "A", "what it has it keeps");
        let status = next_status(&wanted, &found, "later");
        assert_eq!(status["conditions"][0]["status"], "True", "what was established stays so");
    }
}
