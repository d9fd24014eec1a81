//! UPDATE, PATCH and apply: read the present state, make the next one from it, store it if the present state is still the
//! present state; else again.

use super::create::{Stored, imagined_at};
use super::fields::{self, Manager};
use super::options::{FieldValidation, WriteOptions};
use super::strategy;
use super::{Call, Registry, keys, quota, scale, services, store_error};
use crate::admission::{Operation, Request};
use crate::clock::rfc3339_seconds;
use crate::rules;
use caravel_api::decode;
use caravel_api::field::{FieldError, FieldPath};
use caravel_api::kinds::Kind;
use caravel_api::meta;
use caravel_api::patch;
use caravel_api::status::ApiError;
use caravel_api::strategy::prepare_update;
use caravel_store::{At, Change as StoreChange, Entry, Error as StoreError, Expect, Write};
use serde_json::{Value, json};
use std::sync::Arc;

/// How often a change that does not say which state it replaces is tried again when others were faster.
const ATTEMPTS: usize = 100;

/// What is to become of an object.
pub enum Change {
    /// PUT: this object, whole.
    Replace(Value),
    /// RFC 6902.
    JsonPatch(Value),
    /// RFC 7386.
    MergePatch(Value),
    /// Strategic merge patch.
    Strategic(Value),
    /// Server-side apply.
    Apply(Value),
    /// The same again, in the newest stored form (encryption under a new key).
    Rewrite,
    /// A change that the server itself makes.
    With(Edit),
}

/// Changes an object in place, or refuses to.
pub type Edit = Box<dyn Fn(&mut Value) -> Result<(), ApiError> + Send + Sync>;

/// One change of one object.
pub struct Update<'a> {
    /// The row, in the version of the request.
    pub kind: &'a Arc<Kind>,
    /// Namespace, or empty.
    pub namespace: &'a str,
    /// Object name.
    pub name: &'a str,
    /// The door: empty, `status`, `scale`, `finalize`, `approval`, `ephemeralcontainers`, `resize`.
    pub subresource: &'a str,
    /// What is to become of it.
    pub change: Change,
    /// Options of the request.
    pub options: &'a WriteOptions,
}

/// A replacement that names another object is a mistake whether or not the one on the URL exists.
fn same_name(object: &Value, name: &str) -> Result<(), ApiError> {
    let given = meta::name(object);
    if given.is_empty() || given == name {
        return Ok(());
    }
    let why = format!("the name of the object ({given}) does not match the name on the URL ({name})");
    Err(ApiError::bad_request(why))
}

impl Registry {
    /// Changes an object. The answer is the object as stored; for `scale`, the whole object still.
    pub async fn update(self: &Arc<Self>, call: &Call, update: Update<'_>) -> Result<Stored, ApiError> {
        let Update { kind, namespace, name, .. } = update;
        if let Change::Replace(object) = &update.change {
            same_name(object, name)?;
        }
        let key = keys::object(kind, namespace, name);
        let mut at = At::Cached;
        for _ in 0..ATTEMPTS {
            let found = self.store.get(&key, at).await.map_err(store_error)?;
            let Some(entry) = found.entry else {
                if at == At::Cached {
                    at = At::Latest;
                    continue;
                }
                return self.create_through_update(call, update).await;
            };
            let raw = entry;
            let entry = self.in_version(kind, raw.clone()).await?;
            match self.update_once(call, &update, &key, &entry, &raw).await {
                Err(Again::Stale) => at = At::Latest,
                Err(Again::Never(error)) => return Err(error),
                Ok(stored) => return Ok(stored),
            }
        }
        Err(ApiError::modified(&kind.group, &kind.plural, name))
    }

    async fn create_through_update(self: &Arc<Self>, call: &Call, update: Update<'_>) -> Result<Stored, ApiError> {
        let Update { kind, namespace, name, subresource, change, options } = update;
        let absent = || ApiError::not_found(&kind.group, &kind.plural, name);
        if !subresource.is_empty() {
            return Err(absent());
        }
        match change {
            Change::Replace(mut object) if strategy::creates_on_update(kind) => {
                if !meta::resource_version(&object).is_empty() {
                    return Err(ApiError::modified(&kind.group, &kind.plural, name));
                }
                meta::metadata_mut(&mut object).remove("uid");
                self.may_create(call, kind, namespace, name)?;
                self.create(call, kind, namespace, name, object, options).await
            }
            Change::Apply(patch) => {
                self.may_create(call, kind, namespace, name)?;
                let wanted = meta::uid(&patch);
                if !wanted.is_empty() {
                    let why = format!(
                        "uid mismatch: the provided object specified uid {wanted}, and no existing object was found"
                    );
                    return Err(ApiError::conflict(&kind.group, &kind.plural, name, why));
                }
                let manager = Manager::applier(options)?;
                let apply = applying(kind, "", &patch, &manager, options);
                let (object, warnings) = apply.to(None, self.clock.now())?;
                warnings.into_iter().for_each(|w| call.warn(w));
                match self.create_tracked(call, kind, namespace, name, object, options).await {
                    // Somebody else was faster: apply to theirs. One level deep, as the object is there now.
                    Err(error) if error.reason == "AlreadyExists" => {
                        let again =
                            Update { kind, namespace, name, subresource: "", change: Change::Apply(patch), options };
                        Box::pin(self.update(call, again)).await
                    }
                    other => other,
                }
            }
            Change::Replace(_)
            | Change::JsonPatch(_)
            | Change::MergePatch(_)
            | Change::Strategic(_)
            | Change::Rewrite
            | Change::With(_) => Err(absent()),
        }
    }

    /// A request that may create needs the verb `create`, too.
    fn may_create(&self, call: &Call, kind: &Kind, namespace: &str, name: &str) -> Result<(), ApiError> {
        use crate::authz::{Attributes, ResourceTarget, Target};
        self.authorizer.check(&Attributes {
            user: &call.user,
            verb: "create",
            target: Target::Resource(ResourceTarget {
                group: &kind.group,
                version: &kind.version,
                namespace,
                resource: &kind.plural,
                subresource: "",
                name,
            }),
        })
    }

    async fn update_once(
        self: &Arc<Self>,
        call: &Call,
        update: &Update<'_>,
        key: &str,
        entry: &Arc<Entry>,
        raw: &Entry,
    ) -> Result<Stored, Again> {
        let Update { kind, namespace, name, subresource, options, .. } = *update;
        let old = self.parse(kind, entry)?;
        let now = self.clock.now();
        let mut object = self.next(call, update, &old)?;
        self.check_preconditions(update, &object, &old, entry)?;
        self.check_identity(kind, namespace, name, &mut object)?;
        if subresource.is_empty() || matches!(update.change, Change::Apply(_)) {
            rules::default(kind, &mut object);
        }
        pass_door(kind, subresource, &mut object, &old);
        if !matches!(update.change, Change::Apply(_) | Change::Rewrite) {
            // Before admission: what the server itself fills in is nobody's.
            fields::track(kind, subresource, Some(&old), &mut object, &Manager::of(call, options), now);
        }
        let mut request = Request {
            operation: Operation::Update,
            kind: kind.clone(),
            subresource: subresource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            user: call.user.clone(),
            dry_run: options.dry_run,
            object: Some(object),
            old: Some(old),
            options: update_options(options),
            patch: !matches!(update.change, Change::Replace(_)),
        };
        let chain = self.chain();
        let context = call.admission(self);
        chain.mutate(&mut request, &context).await?;
        let mut object = request.object.take().unwrap_or_default();
        let old = request.old.take().unwrap_or_default();
        rules::default(kind, &mut object);
        pass_door(kind, subresource, &mut object, &old);
        if services::concerns(kind) {
            services::normalize(&mut object);
        }
        if kind.group == "rbac.authorization.k8s.io" {
            crate::authz::guard::check(self, call, kind, &object, Some(&old)).await?;
        }
        if kind.group == "certificates.k8s.io" {
            stamp_conditions(&mut object, &old, &rfc3339_seconds(now));
        }
        meta::tidy(&mut object);
        meta::set(&mut object, "resourceVersion", meta::resource_version(&old));
        let errors = rules::validate_update(kind, subresource, &object, &old);
        if !errors.is_empty() {
            return Err(ApiError::invalid(&kind.group, &kind.kind, name, &errors).into());
        }
        request.object = Some(object);
        request.old = Some(old);
        chain.validate(&request, &context).await?;
        let object = request.object.take().unwrap_or_default();
        let old = request.old.take().unwrap_or_default();
        let rewrites = matches!(update.change, Change::Rewrite) || self.is_stale(kind, raw);
        if !rewrites && fields::same(&object, &old) {
            return Ok(Stored { entry: entry.clone(), created: false });
        }
        self.commit_update(update, key, entry, object, &old).await
    }

    /// What the change makes of the present object, before the server's own rules.
    fn next(&self, call: &Call, update: &Update<'_>, old: &Value) -> Result<Value, ApiError> {
        let Update { kind, subresource, options, .. } = *update;
        if subresource == "scale" {
            return scale::change(kind, old, &update.change, options, |text| call.warn(text));
        }
        let patched = match &update.change {
            Change::Replace(object) => return Ok(object.clone()),
            Change::Rewrite => return Ok(old.clone()),
            Change::With(change) => {
                let mut next = old.clone();
                change(&mut next)?;
                return Ok(next);
            }
            Change::Apply(configuration) => {
                let manager = Manager::applier(options)?;
                let apply = applying(kind, subresource, configuration, &manager, options);
                let (next, warnings) = apply.to(Some(old), self.clock.now())?;
                warnings.into_iter().for_each(|w| call.warn(w));
                return Ok(next);
            }
            Change::JsonPatch(operations) => patch::json::apply(old.clone(), operations)?,
            Change::MergePatch(merge) => patch::merge::apply(old.clone(), merge.clone()),
            Change::Strategic(merge) => patch::strategic::apply(kind.schema().root(), old.clone(), merge.clone())?,
        };
        let target = decode::Target::of(kind);
        let read = decode::Options { unknown: validation(options), ..decode::Options::default() };
        let decoded = decode::value(&target, patched, &read).map_err(|error| {
            // A patched object that does not fit its kind is the patch's fault: 422, as upstream.
            let why = error.to_string();
            let path = FieldPath::root("patch");
            ApiError::invalid(&kind.group, &kind.kind, update.name, &[FieldError::invalid(&path, "", why)])
        })?;
        decoded.warnings.into_iter().for_each(|w| call.warn(w));
        Ok(decoded.value)
    }

    /// `resourceVersion` and `uid` in the new object are conditions.
    fn check_preconditions(
        &self,
        update: &Update<'_>,
        object: &Value,
        old: &Value,
        entry: &Entry,
    ) -> Result<(), Again> {
        let kind = update.kind;
        let wanted = meta::uid(object);
        if !wanted.is_empty() && wanted != meta::uid(old) {
            let why =
                format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {}", meta::uid(old));
            return Err(ApiError::conflict(&kind.group, &kind.plural, update.name, why).into());
        }
        let version = meta::resource_version(object);
        if version.is_empty() || version == "0" {
            if matches!(update.change, Change::Replace(_))
                && update.subresource != "scale"
                && !strategy::unconditional_update(kind)
            {
                let path = FieldPath::root("metadata");
                let error =
                    FieldError::invalid(&path.child("resourceVersion"), version, "must be specified for an update");
                return Err(ApiError::invalid(&kind.group, &kind.kind, update.name, &[error]).into());
            }
            return Ok(());
        }
        match version.parse::<u64>() {
            Ok(revision) if revision == entry.revision => Ok(()),
            Ok(_) => {
                // A patch does not say which state it changes unless it names a version; a present one that was read
                // from a stale cache is read again.
                let said = !matches!(update.change, Change::With(_)) && version != meta::resource_version(old);
                if said || matches!(update.change, Change::Replace(_)) {
                    return Err(ApiError::modified(&kind.group, &kind.plural, update.name).into());
                }
                Err(Again::Stale)
            }
            Err(_) => {
                let path = FieldPath::root("metadata");
                let error = FieldError::invalid(&path.child("resourceVersion"), version, "must be an unsigned integer");
                Err(ApiError::invalid(&kind.group, &kind.kind, update.name, &[error]).into())
            }
        }
    }

    async fn commit_update(
        &self,
        update: &Update<'_>,
        key: &str,
        entry: &Arc<Entry>,
        mut object: Value,
        old: &Value,
    ) -> Result<Stored, Again> {
        let Update { kind, options, .. } = *update;
        // The last finalizer of a deleted object is gone: so is the object.
        let gone = super::delete::is_finished(kind, &object);
        let claims = if services::concerns(kind) {
            if gone { self.services.release(old) } else { self.services.allocate(self, &mut object, Some(old)).await? }
        } else {
            services::Claims::default()
        };
        let charged = quota::Charged {
            kind,
            namespace: update.namespace,
            name: update.name,
            subresource: update.subresource,
            object: &object,
            old: Some(old),
        };
        let charges = if gone { quota::Charges::default() } else { self.charge(charged).await? };
        let stored = self.stored_form(kind, &object).await?;
        let encoded = self.encode(kind, key, &stored)?;
        if options.dry_run {
            let entry = self.in_version(kind, Arc::new(imagined_at(key, &encoded, entry.revision))).await?;
            return Ok(Stored { entry, created: false });
        }
        let change = if gone {
            StoreChange::Delete
        } else {
            StoreChange::Put {
                value: encoded.bytes.clone().into(),
                revision_at: Some(encoded.revision_at),
                ttl: self.ttl(kind),
            }
        };
        let mut writes = vec![Write { key: key.to_owned(), expect: Expect::Revision(entry.revision), change }];
        writes.extend(claims.writes.iter().chain(&charges.writes).cloned());
        match self.store.commit(writes).await {
            Ok(committed) if gone => {
                let last = Arc::new(imagined_at(key, &encoded, committed.revision));
                Ok(Stored { entry: self.in_version(kind, last).await?, created: false })
            }
            Ok(committed) => match committed.entries.into_iter().next().flatten() {
                Some(entry) => Ok(Stored { entry: self.in_version(kind, entry).await?, created: false }),
                None => Err(ApiError::internal("the store kept nothing").into()),
            },
            Err(StoreError::Conflict { key: at, .. }) if at == key => {
                // Whoever named the state has lost; whoever did not tries again.
                if matches!(&update.change, Change::Replace(new) if !meta::resource_version(new).is_empty()) {
                    return Err(ApiError::modified(&kind.group, &kind.plural, update.name).into());
                }
                Err(Again::Stale)
            }
            Err(StoreError::Conflict { key: at, .. }) if quota::is_quota(&at) => Err(Again::Stale),
            Err(StoreError::Conflict { key: at, .. }) => {
                claims.explain(&ApiError::new(409, services::TAKEN, at))?;
                Err(Again::Stale)
            }
            Err(other) => Err(store_error(other).into()),
        }
    }
}

fn applying<'a>(
    kind: &'a Kind,
    subresource: &'a str,
    configuration: &'a Value,
    manager: &'a Manager,
    options: &WriteOptions,
) -> fields::Apply<'a> {
    fields::Apply { kind, subresource, configuration, manager, force: options.force, unknown: validation(options) }
}

/// Why an attempt did not succeed.
enum Again {
    /// The state was not the newest.
    Stale,
    /// It never will.
    Never(ApiError),
}

impl From<ApiError> for Again {
    fn from(error: ApiError) -> Self {
        Self::Never(error)
    }
}

/// Lets through what the door lets through.
fn pass_door(kind: &Kind, subresource: &str, object: &mut Value, old: &Value) {
    match subresource {
        // A Scale was turned into a change of the spec before.
        "scale" => prepare_update(kind, "", object, old),
        door => prepare_update(kind, door, object, old),
    }
}

/// Conditions of a signing request that say no times get them.
fn stamp_conditions(object: &mut Value, old: &Value, now: &str) {
    let before = old.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let conditions = object.pointer_mut("/status/conditions").and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten() {
        let unset = |field: &str| condition.get(field).is_none_or(Value::is_null);
        let (update, transition) = (unset("lastUpdateTime"), unset("lastTransitionTime"));
        if update {
            condition["lastUpdateTime"] = json!(now);
        }
        if transition {
            let same =
                |c: &&Value| c.get("type") == condition.get("type") && c.get("status") == condition.get("status");
            let since = before.iter().find(same).and_then(|c| c.get("lastTransitionTime")).filter(|t| !t.is_null());
            condition["lastTransitionTime"] = since.cloned().unwrap_or_else(|| json!(now));
        }
    }
}

/// The `fieldValidation` of a request, as decoding wants it.
pub fn validation(options: &WriteOptions) -> decode::Unknown {
    match options.field_validation {
        FieldValidation::Ignore => decode::Unknown::Ignore,
        FieldValidation::Warn => decode::Unknown::Warn,
        FieldValidation::Strict => decode::Unknown::Strict,
    }
}

fn update_options(options: &WriteOptions) -> Value {
    let mut out = json!({"kind": "UpdateOptions", "apiVersion": "meta.k8s.io/v1"});
    if options.dry_run {
        out["dryRun"] = json!(["All"]);
    }
    if !options.field_manager.is_empty() {
        out["fieldManager"] = json!(options.field_manager);
    }
    out
}

/// Marks an object as being deleted.
pub(super) fn mark_deleted(object: &mut Value, at: jiff::Timestamp, grace: i64) {
    meta::set(object, "deletionTimestamp", rfc3339_seconds(at));
    meta::set(object, "deletionGracePeriodSeconds", grace);
}
