//! Charging resource quotas. What a write uses is added to `status.used` of the namespace's quotas in the same commit that
//! stores the object: two writers can never both take the last room, and what is not stored is not charged. What deletions
//! give back is counted by the quota controller.

use super::{Registry, keys, store_error};
use caravel_api::kinds::Kind;
use caravel_api::quota::limited::Limited;
use caravel_api::quota::{self, Occasion};
use caravel_api::status::ApiError;
use caravel_store::{At, Change, Entry, Expect, Write};
use serde_json::Value;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use tokio::sync::{Mutex, MutexGuard};

/// The reason of the error that says that a quota changed meanwhile: charge again.
pub const CHANGED: &str = "QuotaChanged";
/// How often a write is charged again when quotas change under it.
pub const ATTEMPTS: usize = 100;

/// Namespaces whose writers wait for each other; a write to a namespace with quotas takes the turn of its namespace.
#[derive(Default)]
pub struct Turns([Mutex<()>; 32]);

impl Turns {
    fn of(&self, namespace: &str) -> &Mutex<()> {
        let mut hasher = DefaultHasher::new();
        namespace.hash(&mut hasher);
        // The remainder is below the length, so the first is never taken in its stead.
        let at = usize::try_from(hasher.finish() % self.0.len() as u64).unwrap_or(0);
        self.0.get(at).unwrap_or(&self.0[0])
    }
}

/// The writes that charge quotas, and the turn that must be kept until they are committed.
#[derive(Default)]
pub struct Charges<'a> {
    /// To be committed together with the object.
    pub writes: Vec<Write>,
    _turn: Option<MutexGuard<'a, ()>>,
}

/// One write as quotas see it.
pub struct Charged<'a> {
    /// The row of the object.
    pub kind: &'a Kind,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name, for refusals.
    pub name: &'a str,
    /// Subresource, or empty.
    pub subresource: &'a str,
    /// The object as it will be.
    pub object: &'a Value,
    /// The object as it is; `None` for creations.
    pub old: Option<&'a Value>,
}

impl Charged<'_> {
    fn occasion(&self) -> Option<Occasion> {
        match (self.subresource, self.old) {
            ("", None) => Some(Occasion::Create),
            ("", Some(_)) => Some(Occasion::Update),
            ("resize", Some(_)) => Some(Occasion::Resize),
            _ => None,
        }
    }
}

impl Registry {
    /// Sets what may be used only where a quota covers it.
    pub fn limit(&self, limited: Vec<Limited>) {
        *self.limited.write() = Arc::new(limited);
    }

    /// Charges the quotas of the namespace for a write: the writes to commit with it, or 403 when a quota has no room.
    pub async fn charge(&self, charged: Charged<'_>) -> Result<Charges<'_>, ApiError> {
        if !charged.occasion().is_some_and(|occasion| quota::concerns(charged.kind, occasion)) {
            return Ok(Charges::default());
        }
        let limited = self.limited.read().clone();
        if limited.is_empty() && self.quotas(charged.namespace).await?.1.is_empty() {
            return Ok(Charges::default());
        }
        let turn = self.quota_turns.of(charged.namespace).lock().await;
        let (row, entries) = self.quotas(charged.namespace).await?;
        let charge = quota::Charge {
            group: &charged.kind.group,
            plural: &charged.kind.plural,
            object: charged.object,
            old: charged.old,
            now: self.clock.now(),
        };
        let quotas = entries.iter().map(|entry| self.parse(&row, entry)).collect::<Result<Vec<_>, _>>()?;
        let refused = |why| ApiError::forbidden(&charged.kind.group, &charged.kind.plural, charged.name, why);
        if !limited.is_empty() {
            quota::limited::covered(&limited, &quotas, &charge).map_err(refused)?;
        }
        let mut writes = vec![];
        for (entry, mut value) in entries.iter().zip(quotas) {
            let next = quota::charge(&value, &charge).map_err(refused)?;
            let Some(used) = next else { continue };
            value["status"]["used"] = used;
            let encoded = self.encode(&row, &entry.key, &value)?;
            let change = Change::Put { value: encoded.bytes.into(), revision_at: Some(encoded.revision_at), ttl: None };
            writes.push(Write { key: entry.key.to_string(), expect: Expect::Revision(entry.revision), change });
        }
        Ok(Charges { writes, _turn: Some(turn) })
    }

    async fn quotas(&self, namespace: &str) -> Result<(Arc<Kind>, Vec<Arc<Entry>>), ApiError> {
        let row = self.row("", "resourcequotas")?;
        let page = self.store.list(&keys::prefix(&row, namespace), At::Cached, None, 0).await.map_err(store_error)?;
        Ok((row, page.entries))
    }
}

/// Whether a store's key is that of a quota.
pub fn is_quota(key: &str) -> bool {
    key.starts_with("core/resourcequotas/")
}

/// The error that asks for another charge.
pub fn changed(key: &str) -> ApiError {
    ApiError::new(409, CHANGED, format!("the quota {:?} changed", keys::split(key).1))
}
