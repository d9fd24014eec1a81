//! CREATE.

use super::options::WriteOptions;
use super::{Call, Registry, fields, keys, quota, services, store_error};
use crate::admission::{Operation, Request};
use crate::clock::rfc3339_seconds;
use crate::rules;
use caravel_api::kinds::Kind;
use caravel_api::status::ApiError;
use caravel_api::{meta, names, strategy};
use caravel_store::{Change, Entry, Error as StoreError, Expect, Write, splice_revision};
use serde_json::{Value, json};
use std::sync::Arc;

/// How often a generated name that is taken is drawn again (upstream: eight tries).
const NAME_ATTEMPTS: usize = 8;
/// How often another address or port is drawn when the first ones are taken by others meanwhile.
const ALLOCATION_ATTEMPTS: usize = 64;

/// A stored (or, in a dry run, only imagined) object.
#[derive(Clone, Debug)]
pub struct Stored {
    /// What was stored, as the store shows it.
    pub entry: Arc<Entry>,
    /// Whether it was created by this call.
    pub created: bool,
}

impl Registry {
    /// Creates `object`, which was decoded in the version of `kind`. `name` is a name that the path gave, or empty.
    pub async fn create(
        self: &Arc<Self>,
        call: &Call,
        kind: &Arc<Kind>,
        namespace: &str,
        name: &str,
        object: Value,
        options: &WriteOptions,
    ) -> Result<Stored, ApiError> {
        self.create_as(call, kind, namespace, name, object, options, true).await
    }

    /// Creates an object whose managed fields are kept already (by an apply).
    pub(super) async fn create_tracked(
        self: &Arc<Self>,
        call: &Call,
        kind: &Arc<Kind>,
        namespace: &str,
        name: &str,
        object: Value,
        options: &WriteOptions,
    ) -> Result<Stored, ApiError> {
        self.create_as(call, kind, namespace, name, object, options, false).await
    }

    #[allow(clippy::too_many_arguments)]
    async fn create_as(
        self: &Arc<Self>,
        call: &Call,
        kind: &Arc<Kind>,
        namespace: &str,
        name: &str,
        mut object: Value,
        options: &WriteOptions,
        track: bool,
    ) -> Result<Stored, ApiError> {
        self.check_identity(kind, namespace, name, &mut object)?;
        if !meta::resource_version(&object).is_empty() {
            return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created".to_owned()));
        }
        let generate = meta::text(&object, "generateName").to_owned();
        let generated = meta::name(&object).is_empty() && !generate.is_empty();
        if !generated {
            return self.create_once(call, kind, namespace, object, options, track).await;
        }
        let mut attempt = 0;
        loop {
            attempt += 1;
            let mut candidate = object.clone();
            let name = names::generated(&generate, &names::suffix_of(rand::random()));
            meta::set(&mut candidate, "name", name);
            match self.create_once(call, kind, namespace, candidate, options, track).await {
                Err(error) if error.reason == "AlreadyExists" => {
                    if attempt < NAME_ATTEMPTS {
                        continue;
                    }
                    let name = error.details.as_ref().map(|d| d.name.clone()).unwrap_or_default();
                    return Err(ApiError::generate_name_conflict(&kind.group, &kind.plural, &name, 1));
                }
                other => return other,
            }
        }
    }

    /// The object's kind, namespace and name must be those of the request, and are filled in where left out.
    pub(super) fn check_identity(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        object: &mut Value,
    ) -> Result<(), ApiError> {
        if !object.is_object() {
            return Err(ApiError::bad_request(format!("the body must be a JSON object of kind {}", kind.kind)));
        }
        object["kind"] = json!(kind.kind);
        object["apiVersion"] = json!(kind.api_version());
        let metadata = meta::metadata_mut(object);
        let given = metadata.get("namespace").and_then(Value::as_str).unwrap_or_default();
        if kind.namespaced {
            if !given.is_empty() && given != namespace {
                return Err(ApiError::bad_request(format!(
                    "the namespace of the provided object does not match the namespace sent on the request: the object says {given:?}, the request {namespace:?}"
                )));
            }
            metadata.insert("namespace".into(), json!(namespace));
        } else if !given.is_empty() {
            return Err(ApiError::bad_request(format!(
                "namespace should not be set on cluster-scoped objects, but the object says {given:?}"
            )));
        } else {
            metadata.remove("namespace");
        }
        let given = metadata.get("name").and_then(Value::as_str).unwrap_or_default();
        if !name.is_empty() {
            if !given.is_empty() && given != name {
                return Err(ApiError::bad_request(format!(
                    "the name of the object ({given}) does not match the name on the URL ({name})"
                )));
            }
            metadata.insert("name".into(), json!(name));
        }
        Ok(())
    }

    async fn create_once(
        self: &Arc<Self>,
        call: &Call,
        kind: &Arc<Kind>,
        namespace: &str,
        mut object: Value,
        options: &WriteOptions,
        track: bool,
    ) -> Result<Stored, ApiError> {
        let now = self.clock.now();
        {
            let metadata = meta::metadata_mut(&mut object);
            for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion"] {
                metadata.remove(field);
            }
            metadata.insert("uid".into(), json!(crate::handlers::fresh_uid()));
            metadata.insert("creationTimestamp".into(), json!(rfc3339_seconds(now)));
        }
        rules::default(kind, &mut object);
        if track {
            // Before admission: what the server itself fills in is nobody's.
            fields::track(kind, "", None, &mut object, &fields::Manager::of(call, options), now);
        }
        // Upstream lets admission see the object before the strategy resets what may not be set.
        let mut request = Request {
            operation: Operation::Create,
            kind: kind.clone(),
            subresource: String::new(),
            namespace: namespace.to_owned(),
            name: meta::name(&object).to_owned(),
            user: call.user.clone(),
            dry_run: options.dry_run,
            object: Some(object),
            old: None,
            options: create_options(options),
            patch: false,
        };
        let chain = self.chain();
        let context = call.admission(self);
        chain.mutate(&mut request, &context).await?;
        let mut object = request.object.take().unwrap_or_default();
        strategy::prepare_create(kind, &mut object);
        rules::default(kind, &mut object);
        self.before_create(call, kind, &mut object)?;
        if kind.group == "rbac.authorization.k8s.io" {
            crate::authz::guard::check(self, call, kind, &object, None).await?;
        }
        meta::tidy(&mut object);
        let mut errors = rules::validate_create(kind, &object);
        let name = meta::name(&object).to_owned();
        if name.is_empty() && errors.is_empty() {
            let path = caravel_api::field::FieldPath::root("metadata");
            errors.push(caravel_api::field::FieldError::required(
                &path.child("name"),
                "name or generateName is required",
            ));
        }
        if !errors.is_empty() {
            return Err(ApiError::invalid(&kind.group, &kind.kind, &name, &errors));
        }
        request.name = name;
        request.object = Some(object);
        chain.validate(&request, &context).await?;
        let object = request.object.take().unwrap_or_default();
        self.commit_charged(kind, namespace, object, options).await
    }

    /// Stores a finished new object and charges the quotas for it, in one commit.
    async fn commit_charged(
        &self,
        kind: &Arc<Kind>,
        namespace: &str,
        object: Value,
        options: &WriteOptions,
    ) -> Result<Stored, ApiError> {
        for _ in 0..quota::ATTEMPTS {
            let charged = quota::Charged {
                kind,
                namespace,
                name: meta::name(&object),
                subresource: "",
                object: &object,
                old: None,
            };
            let charges = self.charge(charged).await?;
            let stored = if services::concerns(kind) {
                self.create_allocating(kind, namespace, object.clone(), &charges.writes, options).await
            } else {
                self.commit_new(kind, namespace, &object, charges.writes, options.dry_run).await
            };
            match stored {
                Err(error) if error.reason == quota::CHANGED => {}
                other => return other,
            }
        }
        Err(ApiError::server_timeout(&kind.group, &kind.plural, "create", 1))
    }

    /// Checks of single kinds that need the registry.
    fn before_create(&self, call: &Call, kind: &Kind, object: &mut Value) -> Result<(), ApiError> {
        match (&*kind.group, &*kind.plural) {
            ("certificates.k8s.io", "certificatesigningrequests") => {
                // Who asks is recorded, never believed.
                let user = call.user.to_value();
                let spec = &mut object["spec"];
                for (field, from) in
                    [("username", "username"), ("uid", "uid"), ("groups", "groups"), ("extra", "extra")]
                {
                    match user.get(from) {
                        Some(value) => spec[field] = value.clone(),
                        None => {
                            if let Some(spec) = spec.as_object_mut() {
                                spec.remove(field);
                            }
                        }
                    }
                }
                Ok(())
            }
            ("", "services") => {
                services::normalize(object);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A Service takes addresses and ports in the same commit that stores it; what others took meanwhile is drawn again.
    async fn create_allocating(
        &self,
        kind: &Arc<Kind>,
        namespace: &str,
        object: Value,
        charges: &[Write],
        options: &WriteOptions,
    ) -> Result<Stored, ApiError> {
        for _ in 0..ALLOCATION_ATTEMPTS {
            let mut candidate = object.clone();
            let claims = self.services.allocate(self, &mut candidate, None).await?;
            let writes = claims.writes.iter().chain(charges).cloned().collect();
            match self.commit_new(kind, namespace, &candidate, writes, options.dry_run).await {
                Err(error) if error.reason == services::TAKEN => {
                    claims.explain(&error)?;
                }
                other => return other,
            }
        }
        Err(ApiError::server_timeout(&kind.group, &kind.plural, "create", 1))
    }

    /// Stores a finished new object, together with `more` writes.
    pub(super) async fn commit_new(
        &self,
        kind: &Arc<Kind>,
        namespace: &str,
        object: &Value,
        more: Vec<Write>,
        dry_run: bool,
    ) -> Result<Stored, ApiError> {
        let name = meta::name(object);
        let key = keys::object(kind, namespace, name);
        let stored = self.stored_form(kind, object).await?;
        let encoded = self.encode(kind, &key, &stored)?;
        let taken = || ApiError::already_exists(&kind.group, &kind.plural, name);
        if more.iter().any(|write| write.key == key) {
            // A quota that counts quotas, and is to be created again.
            return Err(taken());
        }
        if dry_run {
            if self.store.get(&key, caravel_store::At::Latest).await.map_err(store_error)?.entry.is_some() {
                return Err(taken());
            }
            let entry = self.in_version(kind, Arc::new(imagined(&key, &encoded))).await?;
            return Ok(Stored { entry, created: true });
        }
        let value =
            Change::Put { value: encoded.bytes.into(), revision_at: Some(encoded.revision_at), ttl: self.ttl(kind) };
        let mut writes = vec![Write { key: key.clone(), expect: Expect::Absent, change: value }];
        writes.extend(more);
        match self.store.commit(writes).await {
            Ok(committed) => match committed.entries.into_iter().next().flatten() {
                Some(entry) => Ok(Stored { entry: self.in_version(kind, entry).await?, created: true }),
                None => Err(ApiError::internal("the store kept nothing")),
            },
            Err(StoreError::Conflict { key: at, .. }) if at == key => Err(taken()),
            Err(StoreError::Conflict { key: at, .. }) if quota::is_quota(&at) => Err(quota::changed(&at)),
            Err(StoreError::Conflict { key: at, .. }) => Err(ApiError::new(409, services::TAKEN, at)),
            Err(other) => Err(store_error(other)),
        }
    }
}

/// What a dry run would have stored: it has no revision.
pub(super) fn imagined(key: &str, encoded: &super::codec::Encoded) -> Entry {
    Entry {
        key: key.into(),
        value: bytes::Bytes::copy_from_slice(&encoded.bytes),
        revision: 0,
        revision_at: u32::try_from(encoded.revision_at).unwrap_or(u32::MAX),
        expires: 0,
        slot: caravel_store::Slot::default(),
    }
}

/// The same with a revision filled in: a dry run of an update shows the present one.
pub(super) fn imagined_at(key: &str, encoded: &super::codec::Encoded, revision: u64) -> Entry {
    Entry { value: splice_revision(&encoded.bytes, encoded.revision_at, revision), revision, ..imagined(key, encoded) }
}

pub(crate) fn create_options(options: &WriteOptions) -> Value {
    let mut out = json!({"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"});
    if options.dry_run {
        out["dryRun"] = json!(["All"]);
    }
    if !options.field_manager.is_empty() {
        out["fieldManager"] = json!(options.field_manager);
    }
    out
}
