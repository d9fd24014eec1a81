//! Keeps the compiled RBAC policy and the node graph at the store's state: listed once, then followed by watches.

use crate::authz::Authorizer;
use crate::authz::rbac::{GROUP, PolicyKind};
use crate::follow::{self, Follower};
use crate::registry::{Registry, keys, store_error};
use crate::server::Server;
use caravel_api::kinds::Kind;
use caravel_api::meta;
use caravel_api::status::ApiError;
use caravel_store::{At, Entry, Event, EventKind};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

const FOLLOWED: [(&str, &str); 5] =
    [(GROUP, "roles"), (GROUP, "clusterroles"), (GROUP, "rolebindings"), (GROUP, "clusterrolebindings"), ("", "pods")];

/// Reads the present state, and follows it from there.
pub async fn start(server: &Arc<Server>) -> Result<(), ApiError> {
    for (group, plural) in FOLLOWED {
        let keeper = Keeper::of(server, group, plural)?;
        let kind = keeper.kind.clone();
        follow::kind(&server.registry, &kind, keeper, &server.stop).await?;
    }
    Ok(())
}

/// Reads the RBAC objects once more, so that what was just written holds at once.
pub async fn refresh(server: &Arc<Server>) -> Result<(), ApiError> {
    for (group, plural) in FOLLOWED.iter().filter(|(group, _)| *group == GROUP) {
        let keeper = Keeper::of(server, group, plural)?;
        let prefix = keys::prefix(&keeper.kind, "");
        let page = server.registry.store.list(&prefix, At::Latest, None, 0).await.map_err(store_error)?;
        page.entries.iter().for_each(|entry| keeper.put(entry));
    }
    Ok(())
}

/// Takes in the Pods of one namespace that are bound to one node, ahead of the watch.
pub async fn refresh_node(
    registry: &Registry,
    authorizer: &Authorizer,
    node: &str,
    namespace: &str,
) -> Result<(), ApiError> {
    let kind = registry.row("", "pods")?;
    let on_node = crate::registry::list::filter(&kind, "", &format!("spec.nodeName={node}"))?;
    let page = registry.store.list(&keys::prefix(&kind, namespace), At::Cached, None, 0).await.map_err(store_error)?;
    for entry in page.entries.iter().filter(|entry| on_node.matches_bytes(&entry.value)) {
        put(registry, authorizer, &kind, entry);
        // Gone meanwhile, and the watch may have said so before the Pod was put: then it would stay for ever.
        if registry.store.get(&entry.key, At::Cached).await.map_err(store_error)?.entry.is_none() {
            let (namespace, name) = keys::split(&entry.key);
            remove(authorizer, &kind, namespace, name);
        }
    }
    Ok(())
}

struct Keeper {
    registry: Arc<Registry>,
    authorizer: Arc<Authorizer>,
    kind: Arc<Kind>,
}

impl Keeper {
    fn of(server: &Server, group: &str, plural: &str) -> Result<Self, ApiError> {
        let kind = server.registry.row(group, plural)?;
        Ok(Self { registry: server.registry.clone(), authorizer: server.authorizer.clone(), kind })
    }

    fn put(&self, entry: &Entry) {
        put(&self.registry, &self.authorizer, &self.kind, entry);
    }
}

impl Follower for Keeper {
    async fn all(&mut self, entries: &[Arc<Entry>]) -> Result<(), ApiError> {
        let present: HashSet<(&str, &str)> = entries.iter().map(|e| keys::split(&e.key)).collect();
        let known = match PolicyKind::of(&self.kind.plural) {
            Some(policy) => self.authorizer.rbac.names(policy, self.kind.namespaced),
            None => self.authorizer.nodes.names(),
        };
        for (namespace, name) in known {
            if !present.contains(&(namespace.as_str(), name.as_str())) {
                remove(&self.authorizer, &self.kind, &namespace, &name);
            }
        }
        entries.iter().for_each(|entry| self.put(entry));
        Ok(())
    }

    async fn changed(&mut self, events: &[Arc<Event>]) {
        for event in events {
            match event.kind {
                EventKind::Deleted => {
                    let (namespace, name) = keys::split(&event.entry.key);
                    remove(&self.authorizer, &self.kind, namespace, name);
                }
                _ if says_nothing_new(&self.kind, event) => {}
                _ => self.put(&event.entry),
            }
        }
    }
}

fn put(registry: &Registry, authorizer: &Authorizer, kind: &Kind, entry: &Entry) {
    let (namespace, name) = keys::split(&entry.key);
    let policy = PolicyKind::of(&kind.plural);
    let read = match policy {
        Some(_) => registry.parse(kind, entry),
        None => pod_parts(entry).map_err(ApiError::internal),
    };
    match (read, policy) {
        (Ok(object), Some(policy)) => authorizer.rbac.put(policy, namespace, name, &object),
        (Ok(object), None) => authorizer.nodes.put(namespace, name, &object),
        (Err(error), _) => tracing::error!(key = %entry.key, %error, "a stored object cannot be read"),
    }
}

/// What the graph wants of a Pod: the specification, and of the status only what tells of resource claims. The rest, much of
/// it managed fields, is stepped over: this is done for every Pod that is bound.
fn pod_parts(entry: &Entry) -> Result<Value, serde_json::Error> {
    let part = |field: &str| -> Result<Value, serde_json::Error> {
        meta::member(&entry.value, field).map_or(Ok(Value::Null), serde_json::from_slice)
    };
    let status = if tells_of_claims(entry) { part("status")? } else { Value::Null };
    Ok(json!({"spec": part("spec")?, "status": status}))
}

fn tells_of_claims(entry: &Entry) -> bool {
    let has = |field: &[u8]| memchr::memmem::find(&entry.value, field).is_some();
    has(b"\"resourceClaimStatuses\"") || has(b"\"extendedResourceClaimStatus\"")
}

fn remove(authorizer: &Authorizer, kind: &Kind, namespace: &str, name: &str) {
    match PolicyKind::of(&kind.plural) {
        Some(policy) => authorizer.rbac.remove(policy, namespace, name),
        None => authorizer.nodes.remove(namespace, name),
    }
}

/// A Pod without a node, or one of whose node and specification are as before (its generation says so), is most of the traffic.
fn says_nothing_new(kind: &Kind, event: &Event) -> bool {
    if PolicyKind::of(&kind.plural).is_some() {
        return false;
    }
    let marks = |entry: &Entry| {
        let node: [Cow<'_, str>; 2] = ["spec".into(), "nodeName".into()];
        let generation: [Cow<'_, str>; 2] = ["metadata".into(), "generation".into()];
        let found = meta::extract(&entry.value, &[&node, &generation]).ok()?;
        Some((found.values.first()?.as_deref().map(str::to_owned), found.values.get(1)?.as_deref().map(str::to_owned)))
    };
    if tells_of_claims(&event.entry) {
        return false;
    }
    let Some(now) = marks(&event.entry) else { return false };
    match &event.prev {
        None => now.0.is_none_or(|node| node.is_empty()),
        Some(before) => now.1.is_some() && marks(before) == Some(now),
    }
}
