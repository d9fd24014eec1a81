//! DELETE and DELETECOLLECTION.
//!
//! Deleting is a request to the owner of the object's end: a Pod on a node is marked and its node deletes it with grace 0, a
//! namespace is marked and its controller empties it, an object with finalizers is marked and vanishes with the last of
//! them. What nothing holds vanishes at once.

use super::options::{DeleteOptions, ListOptions, Propagation, WriteOptions};
use super::update::mark_deleted;
use super::{Call, Registry, keys, services, store_error};
use crate::admission::{Operation, Request};
use caravel_api::kinds::Kind;
use caravel_api::meta::{self, Filter};
use caravel_api::status::ApiError;
use caravel_store::{At, Change, Entry, Error as StoreError, Expect, Write};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use std::sync::Arc;

/// Finalizer that keeps an object until its dependents are orphaned.
pub const ORPHAN: &str = "orphan";
/// Finalizer that keeps an object until its dependents are deleted.
pub const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer that keeps a CustomResourceDefinition until its instances are deleted.
pub const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";
const ATTEMPTS: usize = 100;

/// What a deletion came to.
pub enum Deleted {
    /// The object is gone; its last state.
    Gone(Arc<Entry>),
    /// The object is marked and will go; its state now.
    Marked(Arc<Entry>),
}

/// Whether nothing holds a marked object any more.
pub fn is_finished(kind: &Kind, object: &Value) -> bool {
    if object.pointer("/metadata/deletionTimestamp").is_none() || meta::finalizers(object).next().is_some() {
        return false;
    }
    match (&*kind.group, &*kind.plural) {
        ("", "namespaces") => {
            object.pointer("/spec/finalizers").and_then(Value::as_array).is_none_or(|finalizers| finalizers.is_empty())
        }
        _ => object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0) == 0,
    }
}

/// What the deletion of an object in its present state comes to.
#[derive(Clone, Debug, PartialEq)]
enum Plan {
    /// Remove it.
    Remove,
    /// Store this marked object.
    Mark(Value),
    /// It is marked already, and nothing changes.
    Nothing,
}

fn plan(kind: &Kind, object: &Value, options: &DeleteOptions, now: Timestamp) -> Plan {
    let mut next = object.clone();
    let marked = object.pointer("/metadata/deletionTimestamp").is_some();
    let finalizers = next_finalizers(kind, object, options);
    if finalizers.is_empty() {
        meta::metadata_mut(&mut next).remove("finalizers");
    } else {
        meta::set(&mut next, "finalizers", json!(finalizers));
    }
    let grace = grace_period(kind, object, options);
    let left = object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64);
    match (marked, left) {
        (true, Some(left)) if grace < left => {
            // A second request may shorten the wait, never lengthen it.
            let since = object
                .pointer("/metadata/deletionTimestamp")
                .and_then(Value::as_str)
                .and_then(|text| text.parse::<Timestamp>().ok())
                .and_then(|end| end.checked_sub(SignedDuration::from_secs(left)).ok())
                .unwrap_or(now);
            let end = since.checked_add(SignedDuration::from_secs(grace)).unwrap_or(now).max(now);
            mark_deleted(&mut next, if grace == 0 { now } else { end }, grace);
        }
        (true, _) => {}
        (false, _) => {
            let end = now.checked_add(SignedDuration::from_secs(grace)).unwrap_or(now);
            mark_deleted(&mut next, end, grace);
            bump_generation(&mut next);
        }
    }
    if (&*kind.group, &*kind.plural) == ("", "namespaces") {
        next["status"]["phase"] = json!("Terminating");
    }
    if is_finished(kind, &next) {
        Plan::Remove
    } else if next == *object {
        Plan::Nothing
    } else {
        Plan::Mark(next)
    }
}

/// Upstream counts the mark as a change of the object.
fn bump_generation(object: &mut Value) {
    let generation = meta::generation(object);
    if generation > 0 {
        meta::set(object, "generation", generation + 1);
    }
}

fn next_finalizers(kind: &Kind, object: &Value, options: &DeleteOptions) -> Vec<String> {
    let mut all: Vec<String> = meta::finalizers(object).map(str::to_owned).collect();
    let policy = options.propagation.or_else(|| default_propagation(kind, &all));
    let mut want = |name: &str, wanted: bool| {
        let there = all.iter().any(|f| f == name);
        if wanted && !there {
            all.push(name.to_owned());
        } else if !wanted && there {
            all.retain(|f| f != name);
        }
    };
    match policy {
        Some(Propagation::Orphan) => {
            want(FOREGROUND, false);
            want(ORPHAN, true);
        }
        Some(Propagation::Foreground) => {
            want(ORPHAN, false);
            want(FOREGROUND, true);
        }
        Some(Propagation::Background) => {
            want(ORPHAN, false);
            want(FOREGROUND, false);
        }
        None => {}
    }
    let definition = (&*kind.group, &*kind.plural) == ("apiextensions.k8s.io", "customresourcedefinitions");
    if definition && object.pointer("/metadata/deletionTimestamp").is_none() {
        want(CLEANUP, true);
    }
    all
}

/// Without a policy the finalizers that are there decide; ReplicationControllers and Jobs are older than garbage collection,
/// and their default is to orphan (upstream keeps it for `batch/v1` Jobs, too).
fn default_propagation(kind: &Kind, finalizers: &[String]) -> Option<Propagation> {
    if finalizers.iter().any(|f| f == ORPHAN) {
        return Some(Propagation::Orphan);
    }
    if finalizers.iter().any(|f| f == FOREGROUND) {
        return Some(Propagation::Foreground);
    }
    match (&*kind.group, &*kind.plural) {
        ("", "replicationcontrollers") | ("batch", "jobs") => Some(Propagation::Orphan),
        _ => None,
    }
}

/// Seconds until the object may be removed. Only Pods that run on a node get any.
fn grace_period(kind: &Kind, object: &Value, options: &DeleteOptions) -> i64 {
    if (&*kind.group, &*kind.plural) != ("", "pods") {
        return 0;
    }
    let scheduled = object.pointer("/spec/nodeName").and_then(Value::as_str).is_some_and(|node| !node.is_empty());
    let phase = object.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default();
    if !scheduled || matches!(phase, "Succeeded" | "Failed") {
        return 0;
    }
    let wanted = options
        .grace
        .or_else(|| object.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64))
        .unwrap_or(30);
    if wanted < 0 { 1 } else { wanted }
}

impl Registry {
    /// Deletes one object.
    pub async fn delete(
        self: &Arc<Self>,
        call: &Call,
        kind: &Arc<Kind>,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Deleted, ApiError> {
        let key = keys::object(kind, namespace, name);
        let mut at = At::Cached;
        for _ in 0..ATTEMPTS {
            let found = self.store.get(&key, at).await.map_err(store_error)?;
            let Some(entry) = found.entry else {
                if at == At::Cached {
                    at = At::Latest;
                    continue;
                }
                return Err(ApiError::not_found(&kind.group, &kind.plural, name));
            };
            at = At::Latest;
            let entry = self.in_version(kind, entry).await?;
            let object = self.parse(kind, &entry)?;
            check_preconditions(kind, name, &object, options)?;
            let mut request = Request {
                operation: Operation::Delete,
                kind: kind.clone(),
                subresource: String::new(),
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                user: call.user.clone(),
                dry_run: options.dry_run,
                object: None,
                old: Some(object),
                options: delete_options(options),
                patch: false,
            };
            let chain = self.chain();
            let context = call.admission(self);
            chain.mutate(&mut request, &context).await?;
            chain.validate(&request, &context).await?;
            let object = request.old.take().unwrap_or_default();
            let write = match plan(kind, &object, options, self.clock.now()) {
                Plan::Nothing => return Ok(Deleted::Marked(entry)),
                Plan::Remove => None,
                Plan::Mark(next) => Some(next),
            };
            match self.commit_delete(kind, &key, &entry, &object, write, options.dry_run).await? {
                Some(deleted) => return Ok(deleted),
                None => continue,
            }
        }
        Err(ApiError::modified(&kind.group, &kind.plural, name))
    }

    /// `None` when the object changed meanwhile.
    async fn commit_delete(
        &self,
        kind: &Kind,
        key: &str,
        entry: &Arc<Entry>,
        object: &Value,
        marked: Option<Value>,
        dry_run: bool,
    ) -> Result<Option<Deleted>, ApiError> {
        let encoded = match &marked {
            Some(next) => Some(self.encode(kind, key, &*self.stored_form(kind, next).await?)?),
            None => None,
        };
        if dry_run {
            return Ok(Some(match encoded {
                Some(encoded) => {
                    let marked = Arc::new(super::create::imagined_at(key, &encoded, entry.revision));
                    Deleted::Marked(self.in_version(kind, marked).await?)
                }
                None => Deleted::Gone(entry.clone()),
            }));
        }
        let gone = encoded.is_none();
        let change = match encoded {
            Some(encoded) => {
                Change::Put { value: encoded.bytes.into(), revision_at: Some(encoded.revision_at), ttl: self.ttl(kind) }
            }
            None => Change::Delete,
        };
        let mut writes = vec![Write { key: key.to_owned(), expect: Expect::Revision(entry.revision), change }];
        if gone && services::concerns(kind) {
            writes.extend(self.services.release(object).writes);
        }
        match self.store.commit(writes).await {
            Ok(committed) => {
                let after = committed.entries.into_iter().next().flatten().unwrap_or_else(|| entry.clone());
                let after = self.in_version(kind, after).await?;
                Ok(Some(if gone { Deleted::Gone(after) } else { Deleted::Marked(after) }))
            }
            Err(StoreError::Conflict { .. }) => Ok(None),
            Err(other) => Err(store_error(other)),
        }
    }

    /// Deletes all objects that pass `filter`; gives back the entries that it was about.
    pub async fn delete_collection(
        self: &Arc<Self>,
        call: &Call,
        kind: &Arc<Kind>,
        namespace: &str,
        filter: &Filter,
        list: &ListOptions,
        options: &DeleteOptions,
    ) -> Result<super::list::Listed, ApiError> {
        let listed = self.list(kind, namespace, filter, list).await?;
        for entry in &listed.entries {
            let (namespace, name) = keys::split(&entry.key);
            match self.delete(call, kind, namespace, name, options).await {
                Ok(_) => {}
                Err(error) if error.code == 404 => {}
                Err(error) => return Err(error),
            }
        }
        Ok(listed)
    }
}

fn check_preconditions(kind: &Kind, name: &str, object: &Value, options: &DeleteOptions) -> Result<(), ApiError> {
    let refuse = |what: &str, wanted: &str, present: &str| {
        let why = format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {present}");
        Err(ApiError::conflict(&kind.group, &kind.plural, name, why))
    };
    if let Some(wanted) = &options.uid
        && wanted != meta::uid(object)
    {
        return refuse("UID", wanted, meta::uid(object));
    }
    if let Some(wanted) = &options.resource_version
        && wanted != meta::resource_version(object)
    {
        return refuse("ResourceVersion", wanted, meta::resource_version(object));
    }
    Ok(())
}

fn delete_options(options: &DeleteOptions) -> Value {
    let mut out = json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1"});
    if options.dry_run {
        out["dryRun"] = json!(["All"]);
    }
    if let Some(grace) = options.grace {
        out["gracePeriodSeconds"] = json!(grace);
    }
    if let Some(propagation) = options.propagation {
        out["propagationPolicy"] = json!(format!("{propagation:?}"));
    }
    if options.uid.is_some() || options.resource_version.is_some() {
        let mut preconditions = json!({});
        if let Some(uid) = &options.uid {
            preconditions["uid"] = json!(uid);
        }
        if let Some(version) = &options.resource_version {
            preconditions["resourceVersion"] = json!(version);
        }
        out["preconditions"] = preconditions;
    }
    out
}

/// The write options of a change that a deletion makes.
impl From<&DeleteOptions> for WriteOptions {
    fn from(options: &DeleteOptions) -> Self {
        Self { dry_run: options.dry_run, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use caravel_api::kinds::KindTable;

    fn kind(group: &str, plural: &str) -> Arc<Kind> {
        KindTable::builtin().resource(group, "v1", plural).unwrap().clone()
    }

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    fn marked(plan: Plan) -> Value {
        match plan {
            Plan::Mark(object) => object,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_nothing_holds_goes_at_once() {
        let object = json!({"metadata": {"name": "x"}});
        assert_eq!(plan(&kind("", "configmaps"), &object, &DeleteOptions::default(), now()), Plan::Remove);
    }

    #[test]
    fn finalizers_hold() {
        let object = json!({"metadata": {"name": "x", "finalizers": ["a/b"]}});
        let next = marked(plan(&kind("", "configmaps"), &object, &DeleteOptions::default(), now()));
        assert_eq!(next["metadata"]["deletionTimestamp"], "2026-01-01T00:00:00Z");
        assert_eq!(plan(&kind("", "configmaps"), &next, &DeleteOptions::default(), now()), Plan::Nothing);
    }

    #[test]
    fn propagation_is_a_finalizer() {
        let object = json!({"metadata": {"name": "x"}});
        for (propagation, finalizers) in [
            (Some(Propagation::Foreground), json!(["foregroundDeletion"])),
            (Some(Propagation::Orphan), json!(["orphan"])),
        ] {
            let options = DeleteOptions { propagation, ..DeleteOptions::default() };
            let next = marked(plan(&kind("apps", "deployments"), &object, &options, now()));
            assert_eq!(next["metadata"]["finalizers"], finalizers);
        }
        let background = DeleteOptions { propagation: Some(Propagation::Background), ..DeleteOptions::default() };
        assert_eq!(plan(&kind("batch", "jobs"), &object, &background, now()), Plan::Remove);
        let next = marked(plan(&kind("batch", "jobs"), &object, &DeleteOptions::default(), now()));
        assert_eq!(next["metadata"]["finalizers"], json!(["orphan"]));
    }

    #[test]
    fn pods_on_nodes_get_their_grace() {
        let pods = kind("", "pods");
        let pod = |node: &str, phase: &str| json!({"metadata": {"name": "p"}, "spec": {"nodeName": node, "terminationGracePeriodSeconds": 30}, "status": {"phase": phase}});
        let with = |grace| DeleteOptions { grace, ..DeleteOptions::default() };
        assert_eq!(plan(&pods, &pod("", "Pending"), &with(None), now()), Plan::Remove);
        assert_eq!(plan(&pods, &pod("n", "Succeeded"), &with(None), now()), Plan::Remove);
        assert_eq!(plan(&pods, &pod("n", "Running"), &with(Some(0)), now()), Plan::Remove);
        let next = marked(plan(&pods, &pod("n", "Running"), &with(None), now()));
        assert_eq!(next["metadata"]["deletionTimestamp"], "2026-01-01T00:00:30Z");
        assert_eq!(next["metadata"]["deletionGracePeriodSeconds"], 30);
        assert_eq!(plan(&pods, &next, &with(Some(60)), now()), Plan::Nothing);
        let shorter = marked(plan(&pods, &next, &with(Some(5)), now()));
        assert_eq!(shorter["metadata"]["deletionTimestamp"], "2026-01-01T00:00:05Z");
        assert_eq!(plan(&pods, &shorter, &with(Some(0)), now()), Plan::Remove);
    }

    #[test]
    fn namespaces_wait_to_be_emptied() {
        let namespaces = kind("", "namespaces");
        let object =
            json!({"metadata": {"name": "x"}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}});
        let mut next = marked(plan(&namespaces, &object, &DeleteOptions::default(), now()));
        assert_eq!(next["status"]["phase"], "Terminating");
        assert!(!is_finished(&namespaces, &next));
        next["spec"]["finalizers"] = json!([]);
        assert!(is_finished(&namespaces, &next));
    }
}
