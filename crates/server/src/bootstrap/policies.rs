//! Keeps the compiled admission policies at the store's state, and writes what type checking says of them.

use crate::admission::policies::{Table, typecheck};
use crate::authn::UserInfo;
use crate::follow::{self, Follower};
use crate::registry::options::WriteOptions;
use crate::registry::update::{Change, Update};
use crate::registry::{Call, Registry, keys};
use crate::server::Server;
use caravel_api::kinds::Kind;
use caravel_api::meta;
use caravel_api::status::ApiError;
use caravel_store::{Entry, Event, EventKind};
use serde_json::{Value, json};
use std::sync::Arc;

const GROUP: &str = "admissionregistration.k8s.io";
const FOLLOWED: [&str; 4] = [
    "validatingadmissionpolicies",
    "validatingadmissionpolicybindings",
    "mutatingadmissionpolicies",
    "mutatingadmissionpolicybindings",
];

/// Reads the present policies, and follows them from there.
pub async fn start(server: &Arc<Server>) -> Result<(), ApiError> {
    for plural in FOLLOWED {
        let Ok(kind) = server.registry.row(GROUP, plural) else { continue };
        let keeper = Keeper { registry: server.registry.clone(), table: server.registry.policies.clone(), kind };
        let kind = keeper.kind.clone();
        follow::kind(&server.registry, &kind, keeper, &server.stop).await?;
    }
    Ok(())
}

struct Keeper {
    registry: Arc<Registry>,
    table: Arc<Table>,
    kind: Arc<Kind>,
}

impl Follower for Keeper {
    async fn all(&mut self, entries: &[Arc<Entry>]) -> Result<(), ApiError> {
        for name in self.table.names(&self.kind.plural) {
            if !entries.iter().any(|e| keys::split(&e.key).1 == name) {
                self.table.remove(&self.kind.plural, &name);
            }
        }
        for entry in entries {
            self.put(entry).await;
        }
        Ok(())
    }

    async fn changed(&mut self, events: &[Arc<Event>]) {
        for event in events {
            match event.kind {
                EventKind::Deleted => self.table.remove(&self.kind.plural, keys::split(&event.entry.key).1),
                _ => self.put(&event.entry).await,
            }
        }
    }
}

impl Keeper {
    async fn put(&self, entry: &Entry) {
        let object = match self.registry.parse(&self.kind, entry) {
            Ok(object) => object,
            Err(error) => {
                tracing::error!(key = %entry.key, %error, "a stored admission policy cannot be read");
                return;
            }
        };
        self.table.put(&self.kind.plural, &object);
        if self.kind.plural == "validatingadmissionpolicies"
            && let Err(error) = self.check(&object).await
            && error.code != 404
        {
            tracing::warn!(policy = meta::name(&object), %error, "the type check could not be written");
        }
    }

    /// Writes `status.typeChecking` once per generation.
    async fn check(&self, policy: &Value) -> Result<(), ApiError> {
        let generation = meta::generation(policy);
        if policy.pointer("/status/observedGeneration").and_then(Value::as_i64) == Some(generation) {
            return Ok(());
        }
        let status = typecheck::status(policy, &self.registry.kinds());
        let user = Arc::new(UserInfo::system_masters("system:apiserver"));
        let call = Call::new(user, "kube-apiserver");
        let options = WriteOptions::default();
        let change = Change::With(Box::new(move |policy: &mut Value| {
            // A newer state is checked when it is seen.
            if meta::generation(policy) == generation {
                policy["status"]["observedGeneration"] = json!(generation);
                policy["status"]["typeChecking"] = status["typeChecking"].clone();
            }
            Ok(())
        }));
        let name = meta::name(policy);
        let update = Update { kind: &self.kind, namespace: "", name, subresource: "status", change, options: &options };
        self.registry.update(&call, update).await.map(|_| ())
    }
}
