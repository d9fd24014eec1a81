//! Keeps the compiled RBAC policy and the node graph at the store's state: listed once, then followed by watches.

use crate::authz::Authorizer;
use crate::authz::rbac::{GROUP, PolicyKind};
use crate::registry::{Registry, keys, store_error};
use crate::server::Server;
use caravel_api::kinds::Kind;
use caravel_api::meta;
use caravel_api::status::ApiError;
use caravel_store::{At, Entry, Error as StoreError, Event, EventKind, Revision};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

const FOLLOWED: [(&str, &str); 5] =
    [(GROUP, "roles"), (GROUP, "clusterroles"), (GROUP, "rolebindings"), (GROUP, "clusterrolebindings"), ("", "pods")];

/// Reads the present state, and follows it from there.
pub async fn start(server: &Arc<Server>) -> Result<(), ApiError> {
    for (group, plural) in FOLLOWED {
        let kind = server.registry.row(group, plural)?;
        let revision = load(&server.registry, &server.authorizer, &kind).await?;
        let (registry, authorizer, stop) = (server.registry.clone(), server.authorizer.clone(), server.stop.clone());
        tokio::spawn(async move { follow(registry, authorizer, kind, revision, stop).await });
    }
    Ok(())
}

/// Reads the RBAC objects once more, so that what was just written holds at once.
pub async fn refresh(server: &Arc<Server>) -> Result<(), ApiError> {
    for (group, plural) in FOLLOWED.iter().filter(|(group, _)| *group == GROUP) {
        let kind = server.registry.row(group, plural)?;
        load(&server.registry, &server.authorizer, &kind).await?;
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
            remove(authorizer, &kind, entry);
        }
    }
    Ok(())
}

async fn load(registry: &Arc<Registry>, authorizer: &Authorizer, kind: &Arc<Kind>) -> Result<Revision, ApiError> {
    let page = registry.store.list(&keys::prefix(kind, ""), At::Latest, None, 0).await.map_err(store_error)?;
    for entry in &page.entries {
        put(registry, authorizer, kind, entry);
    }
    Ok(page.revision)
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
    memchr::memmem::find(&entry.value, b"\"resourceClaimStatuses\"").is_some()
}

fn remove(authorizer: &Authorizer, kind: &Kind, entry: &Entry) {
    let (namespace, name) = keys::split(&entry.key);
    match PolicyKind::of(&kind.plural) {
        Some(policy) => authorizer.rbac.remove(policy, namespace, name),
        None => authorizer.nodes.remove(namespace, name),
    }
}

async fn follow(
    registry: Arc<Registry>,
    authorizer: Arc<Authorizer>,
    kind: Arc<Kind>,
    mut revision: Revision,
    stop: CancellationToken,
) {
    let prefix = keys::prefix(&kind, "");
    while !stop.is_cancelled() {
        match watch(&registry, &authorizer, &kind, &prefix, &mut revision, &stop).await {
            Ok(()) => return,
            Err(error) => {
                tracing::warn!(%error, resource = %kind.plural, "the policy is read anew");
                match resync(&registry, &authorizer, &kind, &prefix).await {
                    Ok(at) => revision = at,
                    Err(error) => {
                        tracing::error!(%error, resource = %kind.plural, "the policy cannot be read");
                        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                    }
                }
            }
        }
    }
}

async fn watch(
    registry: &Arc<Registry>,
    authorizer: &Authorizer,
    kind: &Kind,
    prefix: &str,
    revision: &mut Revision,
    stop: &CancellationToken,
) -> Result<(), StoreError> {
    let mut watch = registry.store.watch(prefix, *revision)?;
    loop {
        let batch = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            batch = watch.next() => batch?,
        };
        for event in &batch.events {
            match event.kind {
                EventKind::Deleted => remove(authorizer, kind, &event.entry),
                _ if says_nothing_new(kind, event) => {}
                _ => put(registry, authorizer, kind, &event.entry),
            }
        }
        *revision = batch.revision;
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

/// After a gap: what is there is put, what is gone is found out by asking for each known name.
async fn resync(
    registry: &Arc<Registry>,
    authorizer: &Authorizer,
    kind: &Arc<Kind>,
    prefix: &str,
) -> Result<Revision, ApiError> {
    let page = registry.store.list(prefix, At::Latest, None, 0).await.map_err(store_error)?;
    let present: std::collections::HashSet<(&str, &str)> = page.entries.iter().map(|e| keys::split(&e.key)).collect();
    let known = match PolicyKind::of(&kind.plural) {
        Some(policy) => authorizer.rbac.names(policy, kind.namespaced),
        None => authorizer.nodes.names(),
    };
    for (namespace, name) in known {
        if !present.contains(&(namespace.as_str(), name.as_str())) {
            match PolicyKind::of(&kind.plural) {
                Some(policy) => authorizer.rbac.remove(policy, &namespace, &name),
                None => authorizer.nodes.remove(&namespace, &name),
            }
        }
    }
    for entry in &page.entries {
        put(registry, authorizer, kind, entry);
    }
    Ok(page.revision)
}
