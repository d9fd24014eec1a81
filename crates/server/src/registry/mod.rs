//! The registry: the verbs of the API over the store, the same for every kind.
//!
//! A write is: decode → default → admission (change) → strategy → validation → admission (refuse) → encode → commit. What
//! differs between kinds is data or a small function in [`strategy`]; what only some kinds have (cluster addresses,
//! bindings, evictions, tokens) has a module each.

pub mod codec;
pub mod conversion;
pub mod create;
pub mod delete;
pub mod eviction;
pub mod fields;
pub mod keys;
pub mod list;
pub mod options;
pub mod pods;
pub mod quota;
pub mod scale;
pub mod seal;
pub mod services;
pub mod strategy;
pub mod update;
pub mod watch;

use crate::admission::policies::Table as Policies;
use crate::admission::webhook::Hooks;
use crate::admission::{Chain, Context};
use crate::authn::UserInfo;
use crate::authz::Authorizer;
use crate::clock::Clock;
use bytes::Bytes;
use caravel_api::kinds::{Kind, KindTable, convert};
use caravel_api::meta;
use caravel_api::quota::limited::Limited;
use caravel_api::status::ApiError;
use caravel_store::{At, Entry, Error as StoreError, Store};
use parking_lot::{Mutex, RwLock};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What a write or read is done with: who, when, and what is left behind for the answer.
pub struct Call {
    /// Who asks.
    pub user: Arc<UserInfo>,
    /// Texts for `Warning` headers.
    pub warnings: Mutex<Vec<String>>,
    /// Annotations for the audit record.
    pub audit: Mutex<BTreeMap<String, String>>,
    /// The field manager when none is named: the first word of the user agent.
    pub default_manager: String,
}

impl Call {
    /// A call by `user`, whose managed fields go to `manager` unless the request names another.
    pub fn new(user: Arc<UserInfo>, manager: impl Into<String>) -> Self {
        Self { user, warnings: Mutex::default(), audit: Mutex::default(), default_manager: manager.into() }
    }

    /// Adds a `Warning` header to the answer; bounded.
    pub fn warn(&self, text: impl Into<String>) {
        let text = text.into();
        let mut warnings = self.warnings.lock();
        if warnings.len() < 64 && !warnings.contains(&text) {
            warnings.push(text);
        }
    }

    fn admission<'a>(&'a self, registry: &'a Arc<Registry>) -> Context<'a> {
        Context { registry, warnings: &self.warnings, audit: &self.audit, rounds: Mutex::default() }
    }
}

/// The verbs over the store.
pub struct Registry {
    /// The key space.
    pub store: Arc<dyn Store>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Who may do what; asked here only for escalation, binding and apply-that-creates.
    pub authorizer: Arc<Authorizer>,
    /// Addresses and ports for Services.
    pub services: services::Allocator,
    /// The admission webhooks.
    pub hooks: Arc<Hooks>,
    converters: conversion::Converters,
    /// The compiled admission policies.
    pub policies: Arc<Policies>,
    /// How large the last lists were, for flow control.
    pub sizes: crate::flow::cost::Sizes,
    /// Told when the table of kinds changed.
    pub kinds_changed: tokio::sync::Notify,
    kinds: RwLock<Arc<KindTable>>,
    chain: RwLock<Arc<Chain>>,
    seal: Option<seal::Seal>,
    event_ttl: Duration,
    quota_turns: quota::Turns,
    /// What may be used only where a quota covers it.
    limited: RwLock<Arc<Vec<Limited>>>,
}

/// The kinds of a server without custom resources: the built-in ones, and those that are measured instead of stored.
fn served() -> KindTable {
    let mut kinds = KindTable::builtin();
    crate::usage::serve(&mut kinds);
    kinds
}

impl Registry {
    /// A registry over `store`. Without `seal` Secrets are stored as they are.
    pub fn new(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        authorizer: Arc<Authorizer>,
        services: services::Allocator,
        seal: Option<seal::Seal>,
        event_ttl: Duration,
    ) -> Self {
        let hooks = Arc::new(Hooks::default());
        hooks.set_evaluator(Arc::new(crate::expressions::conditions::Cel));
        let policies = Arc::new(Policies::default());
        Self {
            store,
            clock,
            authorizer,
            services,
            kinds: RwLock::new(Arc::new(served())),
            chain: RwLock::new(Arc::new(Chain::builtin(&hooks, &policies))),
            hooks,
            policies,
            converters: conversion::Converters::default(),
            sizes: crate::flow::cost::Sizes::default(),
            kinds_changed: tokio::sync::Notify::new(),
            seal,
            event_ttl,
            quota_turns: quota::Turns::default(),
            limited: RwLock::default(),
        }
    }

    /// The table of kinds as it is now.
    pub fn kinds(&self) -> Arc<KindTable> {
        self.kinds.read().clone()
    }

    /// Changes the table of kinds (custom resources come and go).
    pub fn change_kinds(&self, change: impl FnOnce(&mut KindTable)) {
        let mut kinds = self.kinds.write();
        let mut next = KindTable::clone(&kinds);
        change(&mut next);
        *kinds = Arc::new(next);
        self.kinds_changed.notify_one();
    }

    /// The admission chain as it is now.
    pub fn chain(&self) -> Arc<Chain> {
        self.chain.read().clone()
    }

    /// Replaces the admission chain.
    pub fn set_chain(&self, chain: Chain) {
        *self.chain.write() = Arc::new(chain);
    }

    /// Runs a request through the whole admission chain, for what is not stored.
    pub async fn admit(self: &Arc<Self>, call: &Call, request: &mut crate::admission::Request) -> Result<(), ApiError> {
        let chain = self.chain();
        let context = call.admission(self);
        chain.mutate(request, &context).await?;
        chain.validate(request, &context).await
    }

    /// The row of a built-in resource in its stored version.
    pub fn row(&self, group: &str, plural: &str) -> Result<Arc<Kind>, ApiError> {
        let kinds = self.kinds();
        let found = kinds.versions(group, plural).find(|k| k.is_stored_form()).cloned();
        found.ok_or_else(|| ApiError::internal(format!("the kind {plural}.{group} is not served")))
    }

    /// Plain bytes of a stored entry: unsealed if need be.
    pub fn plain(&self, entry: &Entry) -> Result<Bytes, ApiError> {
        if !seal::Seal::is_sealed(&entry.value) {
            return Ok(entry.value.clone());
        }
        let seal = self
            .seal
            .as_ref()
            .ok_or_else(|| ApiError::internal("a stored Secret is encrypted, and encryption is off"))?;
        seal.unseal(&entry.key, &entry.value).map_err(ApiError::internal)
    }

    /// Whether stored bytes of a Secret are as they would be written today.
    pub fn is_sealed_newly(&self, bytes: &[u8]) -> bool {
        self.seal.as_ref().is_none_or(|seal| seal.is_current(bytes))
    }

    /// What seals Secrets, when they are sealed.
    pub fn seal(&self) -> Option<&seal::Seal> {
        self.seal.as_ref()
    }

    /// The object of a stored entry, in the version of `kind`.
    pub fn parse(&self, kind: &Kind, entry: &Entry) -> Result<Value, ApiError> {
        let bytes = self.plain(entry)?;
        let mut value: Value = serde_json::from_slice(&bytes)
            .map_err(|e| ApiError::internal(format!("the stored object at {:?} is not JSON: {e}", entry.key)))?;
        if kind.is_custom() {
            // Stored in whichever version was the storage version then.
            value["apiVersion"] = Value::String(kind.api_version());
        } else if !kind.is_stored_form()
            && let Some(stored) = self.kinds().storage_row(kind)
        {
            convert::convert(&mut value, stored, kind);
        }
        Ok(value)
    }

    /// Whether the bytes of a stored entry are what `kind`'s version serves, with nothing to be done.
    pub fn is_served_as_stored(&self, kind: &Kind, entry: &Entry) -> bool {
        // Lists ask this of every item before the first byte goes out: for most kinds without a look at the bytes.
        kind.is_stored_form()
            && !(keys::may_be_sealed(kind) && seal::Seal::is_sealed(&entry.value))
            && (!kind.is_custom() || codec::is_version(&entry.value, &kind.api_version()))
    }

    /// The bytes of a stored entry as `kind`'s version serves them.
    pub fn served(&self, kind: &Kind, entry: &Entry) -> Result<Bytes, ApiError> {
        if kind.is_stored_form() {
            let bytes = self.plain(entry)?;
            if !kind.is_custom() || codec::is_version(&bytes, &kind.api_version()) {
                return Ok(bytes);
            }
        }
        let value = self.parse(kind, entry)?;
        let encoded = codec::encode(&value).map_err(ApiError::internal)?;
        let revision = meta::resource_version(&value).as_bytes();
        let mut bytes = encoded.bytes;
        bytes.splice(encoded.revision_at..encoded.revision_at, revision.iter().copied());
        Ok(bytes.into())
    }

    /// Encodes an object of `kind` for the store under `key`: converted to the stored version, sealed if need be.
    pub fn encode(&self, kind: &Kind, key: &str, object: &Value) -> Result<codec::Encoded, ApiError> {
        let converted;
        let stored = object.get("apiVersion").and_then(Value::as_str);
        let object = if kind.is_stored_form() || stored.is_some_and(|v| v == kind.storage_api_version()) {
            object
        } else {
            let kinds = self.kinds();
            let stored = kinds.storage_row(kind).ok_or_else(|| {
                ApiError::internal(format!("{} cannot be stored: its stored version is not known", kind.kind))
            })?;
            let mut copy = object.clone();
            convert::convert(&mut copy, kind, stored);
            converted = copy;
            &converted
        };
        let encoded = codec::encode(object).map_err(ApiError::internal)?;
        match &self.seal {
            Some(seal) if keys::may_be_sealed(kind) => seal.seal(key, &encoded).map_err(ApiError::internal),
            _ => Ok(encoded),
        }
    }

    /// How long entries of `kind` live.
    pub fn ttl(&self, kind: &Kind) -> Option<Duration> {
        (kind.plural == "events" && !kind.is_custom() && matches!(&*kind.group, "" | "events.k8s.io"))
            .then_some(self.event_ttl)
    }

    /// The entry of one object.
    pub async fn entry(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        at: At,
    ) -> Result<Option<Arc<Entry>>, ApiError> {
        let key = keys::object(kind, namespace, name);
        match self.store.get(&key, at).await.map_err(store_error)?.entry {
            Some(entry) => self.in_version(kind, entry).await.map(Some),
            None => Ok(None),
        }
    }

    /// The entry of one object that must be there.
    pub async fn must(&self, kind: &Kind, namespace: &str, name: &str, at: At) -> Result<Arc<Entry>, ApiError> {
        self.entry(kind, namespace, name, at).await?.ok_or_else(|| ApiError::not_found(&kind.group, &kind.plural, name))
    }

    /// A built-in object by group and plural, as this process knows it now.
    pub async fn object(
        &self,
        group: &str,
        plural: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Value>, ApiError> {
        let row = self.row(group, plural)?;
        let key = keys::object(&row, namespace, name);
        match self.store.get(&key, At::Cached).await.map_err(store_error)?.entry {
            Some(entry) => self.parse(&row, &entry).map(Some),
            None => Ok(None),
        }
    }

    /// All built-in objects of a resource, as this process knows them now.
    pub async fn objects(&self, group: &str, plural: &str, namespace: &str) -> Result<Vec<Value>, ApiError> {
        let row = self.row(group, plural)?;
        self.entries(&row, namespace).await?.iter().map(|entry| self.parse(&row, entry)).collect()
    }

    /// As [`Registry::objects`], as they are stored.
    pub async fn entries(&self, row: &Kind, namespace: &str) -> Result<Vec<Arc<Entry>>, ApiError> {
        let page = self.store.list(&keys::prefix(row, namespace), At::Cached, None, 0).await.map_err(store_error)?;
        Ok(page.entries)
    }

    /// Whether there is a namespace of this name and, if so, whether it is going away. Looked at freshly when the cache does
    /// not have it.
    pub async fn namespace_ends(&self, name: &str) -> Result<Option<bool>, ApiError> {
        let row = self.row("", "namespaces")?;
        let entry = match self.entry(&row, "", name, At::Cached).await? {
            Some(entry) => Some(entry),
            None => self.entry(&row, "", name, At::Latest).await?,
        };
        let Some(entry) = entry else { return Ok(None) };
        let phase: [std::borrow::Cow<'_, str>; 2] = ["status".into(), "phase".into()];
        let deleted: [std::borrow::Cow<'_, str>; 2] = ["metadata".into(), "deletionTimestamp".into()];
        let found = meta::extract(&entry.value, &[&phase, &deleted])
            .map_err(|_| ApiError::internal(format!("the stored namespace {name:?} is not JSON")))?;
        let value = |at: usize| found.values.get(at).and_then(Option::as_deref);
        Ok(Some(value(0) == Some("Terminating") || value(1).is_some()))
    }
}

/// The answer to a failure of the store.
pub fn store_error(error: StoreError) -> ApiError {
    match error {
        StoreError::Compacted { .. } => {
            ApiError::expired("The provided resource version is too old; list again without one.")
        }
        StoreError::FutureRevision { requested, current } => ApiError::timeout(
            format!("Too large resource version: {requested}, current: {current}"),
            1,
        )
        .with_cause("ResourceVersionTooLarge", "Too large resource version", ""),
        StoreError::TooLarge { .. } => ApiError::too_large(error),
        StoreError::Full { .. } | StoreError::Io { .. } | StoreError::Unavailable { .. } | StoreError::Closed => {
            ApiError::service_unavailable(error.to_string()).retry_after(1)
        }
        other => ApiError::internal(other),
    }
}
