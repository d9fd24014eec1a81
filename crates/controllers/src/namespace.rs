//! The namespace controller: empties a namespace under deletion, then lets it go.

use std::collections::BTreeMap;
use std::time::Duration;

use caravel_client::{Change, Informer, Key, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, NamespaceStatus, Pod};
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams};

use crate::common::discovery::{Resource, discover};
use crate::common::*;
use crate::context::{Context, enqueue_each};

const WORKERS: usize = 10;
/// The finalizer in `spec.finalizers` that this controller takes away.
const FINALIZER: &str = "kubernetes";

struct Controller {
    context: Context,
    namespaces: Informer<Namespace>,
    pods: Informer<Pod>,
}

/// Runs the controller.
///
/// # Errors
/// Never by itself.
pub async fn run(context: Context) -> anyhow::Result<()> {
    let c = Controller { namespaces: context.cluster.informer(), pods: context.pods(), context };
    let queue = WorkQueue::new();
    enqueue_each(&c.namespaces, &queue);
    // The last pod's end lets the deletion go on at once.
    let (namespaces, wake) = (c.namespaces.clone(), queue.clone());
    c.pods.on_change(move |change| {
        if let Change::Deleted(p) = change {
            let key = Key::cluster(namespace(&**p));
            if namespaces.get(&key).is_some_and(|n| deleting(&*n)) {
                wake.add(key);
            }
        }
    });
    c.namespaces.synced().await;
    c.context.work(queue, WORKERS, |key| c.reconcile(key)).await;
    Ok(())
}

/// What a round of deletion left.
#[derive(Debug, Default, PartialEq)]
struct Left {
    discovery: Vec<String>,
    failures: Vec<String>,
    /// Instances by resource.
    remaining: BTreeMap<String, usize>,
    /// Instances by finalizer.
    finalizers: BTreeMap<String, usize>,
    /// The longest grace period of remaining pods.
    grace: i64,
}

impl Controller {
    async fn reconcile(&self, key: Key) -> Outcome {
        let Some(cached) = self.namespaces.get(&key).filter(|n| deleting(&**n)) else { return Ok(None) };
        let api: Api<Namespace> = Api::all(self.context.client());
        // The decision to delete everything rests on the live object: a cache might show a predecessor of the same name.
        let Some(mut ns) = api.get_opt(&key.name).await? else { return Ok(None) };
        if uid(&ns) != uid(&*cached) || !deleting(&ns) {
            return Ok(None);
        }
        if ns.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Terminating") {
            ns.status.get_or_insert_default().phase = Some("Terminating".into());
            ns = put_status(&api, &ns).await?;
        }
        if !has_finalizer(&ns) {
            return Ok(None);
        }
        let left = self.delete_contents(&key.name).await;
        let conditions = conditions(&left, ns.status.as_ref(), self.context.now());
        if ns.status.as_ref().and_then(|s| s.conditions.as_ref()) != Some(&conditions) {
            ns.status.get_or_insert_default().conditions = Some(conditions);
            ns = put_status(&api, &ns).await?;
        }
        if let Some(failure) = left.discovery.first().or(left.failures.first()) {
            anyhow::bail!("deletion of the contents of namespace {} is not complete: {failure}", key.name);
        }
        if !left.remaining.is_empty() {
            let seconds = u64::try_from(left.grace / 2).unwrap_or(0) + 1;
            return Ok(Some(Duration::from_secs(seconds)));
        }
        finalize(&api, ns).await?;
        Ok(None)
    }

    /// Deletes everything in the namespace: pods first, and the rest only when they are gone, so that nothing that a dying pod uses
    /// (a NetworkPolicy, a Secret) goes before it (KEP-5080).
    async fn delete_contents(&self, namespace: &str) -> Left {
        let client = self.context.client();
        let mut left = Left::default();
        let found = match discover(&client).await {
            Ok(found) => found,
            Err(e) => {
                left.discovery.push(message_of(&e));
                return left;
            }
        };
        left.discovery = found.failed;
        let deletable = |r: &&Resource| r.namespaced && r.can("delete") && r.can("list");
        let (pods, others): (Vec<&Resource>, Vec<&Resource>) =
            found.resources.iter().filter(deletable).partition(|r| r.api.group.is_empty() && r.api.plural == "pods");
        for r in pods {
            self.delete_all(&client, r, namespace, &mut left).await;
        }
        if left.remaining.is_empty() && left.failures.is_empty() {
            for r in others {
                self.delete_all(&client, r, namespace, &mut left).await;
            }
        }
        left
    }

    async fn delete_all(&self, client: &kube::Client, r: &Resource, namespace: &str, left: &mut Left) {
        if let Err(e) = delete_resource(client, r, namespace, left).await
            && !is_not_found(&e)
        {
            left.failures.push(format!("{}: {}", r.display(), message_of(&e)));
        }
    }
}

async fn delete_resource(client: &kube::Client, r: &Resource, ns: &str, left: &mut Left) -> Result<(), kube::Error> {
    let api = r.objects(client, ns);
    // Most kinds have nothing there: one cheap look saves the deletion.
    let before = api.list_metadata(&ListParams::default().limit(500)).await?;
    if before.items.is_empty() {
        return Ok(());
    }
    let params = DeleteParams::background();
    if r.can("deletecollection") {
        match api.delete_collection(&params, &ListParams::default()).await {
            Ok(_) => {}
            Err(e) if is_not_found(&e) => {}
            Err(e) => return Err(e),
        }
    } else {
        for item in &before.items {
            gone_is_fine(api.delete(name(item), &params).await)?;
        }
    }
    let mut after = ListParams::default().limit(500);
    loop {
        let page = api.list_metadata(&after).await?;
        for item in &page.items {
            *left.remaining.entry(r.display_in_condition()).or_default() += 1;
            for f in item.metadata.finalizers.iter().flatten() {
                *left.finalizers.entry(f.clone()).or_default() += 1;
            }
            left.grace = left.grace.max(item.metadata.deletion_grace_period_seconds.unwrap_or(0));
        }
        match page.metadata.continue_.filter(|c| !c.is_empty()) {
            Some(next) => after = after.continue_token(&next),
            None => return Ok(()),
        }
    }
}

impl Resource {
    /// `plural.group`, with the dot also for the core group: upstream's form in the condition's message.
    fn display_in_condition(&self) -> String {
        format!("{}.{}", self.api.plural, self.api.group)
    }
}

fn has_finalizer(ns: &Namespace) -> bool {
    ns.spec.as_ref().and_then(|s| s.finalizers.as_ref()).is_some_and(|f| f.iter().any(|f| f == FINALIZER))
}

async fn finalize(api: &Api<Namespace>, mut ns: Namespace) -> Result<(), kube::Error> {
    if let Some(f) = ns.spec.as_mut().and_then(|s| s.finalizers.as_mut()) {
        f.retain(|f| f != FINALIZER);
    }
    let name = name(&ns).to_owned();
    gone_is_fine(api.replace_subresource("finalize", &name, &PostParams::default(), &ns).await)
}

/// (type, reason when all is well, message when all is well).
const KINDS: [(&str, &str, &str); 5] = [
    ("NamespaceDeletionDiscoveryFailure", "ResourcesDiscovered", "All resources successfully discovered"),
    ("NamespaceDeletionGroupVersionParsingFailure", "ParsedGroupVersions", "All legacy kube types successfully parsed"),
    (
        "NamespaceDeletionContentFailure",
        "ContentDeleted",
        "All content successfully deleted, may be waiting on finalization",
    ),
    ("NamespaceContentRemaining", "ContentRemoved", "All content successfully removed"),
    ("NamespaceFinalizersRemaining", "ContentHasNoFinalizers", "All content-preserving finalizers finished"),
];

/// The conditions that tell what holds the namespace up.
fn conditions(left: &Left, status: Option<&NamespaceStatus>, now: Timestamp) -> Vec<NamespaceCondition> {
    let list = |all: &BTreeMap<String, usize>, form: fn(&str, usize) -> String| {
        all.iter().map(|(k, n)| form(k, *n)).collect::<Vec<_>>().join(", ")
    };
    let bad = |type_: &str| -> Option<(&str, String)> {
        match type_ {
            "NamespaceDeletionDiscoveryFailure" if !left.discovery.is_empty() => Some((
                "DiscoveryFailed",
                format!(
                    "Discovery failed for some groups, {} failing: {}",
                    left.discovery.len(),
                    left.discovery.join(", ")
                ),
            )),
            "NamespaceDeletionContentFailure" if !left.failures.is_empty() => Some((
                "ContentDeletionFailed",
                format!(
                    "Failed to delete all resource types, {} remaining: {}",
                    left.failures.len(),
                    left.failures.join(", ")
                ),
            )),
            "NamespaceContentRemaining" if !left.remaining.is_empty() => Some((
                "SomeResourcesRemain",
                format!(
                    "Some resources are remaining: {}",
                    list(&left.remaining, |k, n| format!("{k} has {n} resource instances"))
                ),
            )),
            "NamespaceFinalizersRemaining" if !left.finalizers.is_empty() => Some((
                "SomeFinalizersRemain",
                format!(
                    "Some content in the namespace has finalizers remaining: {}",
                    list(&left.finalizers, |k, n| format!("{k} in {n} resource instances"))
                ),
            )),
            _ => None,
        }
    };
    let mut all: Vec<NamespaceCondition> = status.and_then(|s| s.conditions.clone()).unwrap_or_default();
    for (type_, good_reason, good_message) in KINDS {
        let (state, reason, message) = match bad(type_) {
            Some((reason, message)) => ("True", reason, message),
            None => ("False", good_reason, good_message.to_owned()),
        };
        let new = NamespaceCondition {
            type_: type_.into(),
            status: state.into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_transition_time: Some(stored_time(now)),
        };
        match all.iter_mut().find(|c| c.type_ == type_) {
            Some(old) if old.status == new.status && old.reason == new.reason && old.message == new.message => {}
            Some(old) => {
                let since = if old.status == new.status { old.last_transition_time.clone() } else { None };
                *old = new;
                old.last_transition_time = since.or_else(|| old.last_transition_time.take());
            }
            None => all.push(new),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_tell_what_remains() {
        let left = Left {
            remaining: [("pods.".to_owned(), 2)].into(),
            finalizers: [("x/y".to_owned(), 1)].into(),
            ..Left::default()
        };
        let now = Timestamp::UNIX_EPOCH;
        let all = conditions(&left, None, now);
        let message = |t: &str| {
            let c =
                all.iter().find(|c| c.type_ == t).map(|c| (c.status.clone(), c.message.clone().unwrap_or_default()));
            c.unwrap_or_default()
        };
        assert_eq!(
            message("NamespaceContentRemaining"),
            ("True".into(), "Some resources are remaining: pods. has 2 resource instances".into())
        );
        assert_eq!(
            message("NamespaceFinalizersRemaining"),
            (
                "True".into(),
                "Some content in the namespace has finalizers remaining: x/y in 1 resource instances".into()
            )
        );
        assert_eq!(message("NamespaceDeletionDiscoveryFailure").0, "False");
        // The same again changes nothing, later or not.
        let status = NamespaceStatus { conditions: Some(all.clone()), phase: None };
        assert_eq!(conditions(&left, Some(&status), Timestamp::MAX), all);
    }
}
