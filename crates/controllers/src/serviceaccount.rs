//! What every namespace is given: the ServiceAccount `default` and the ConfigMap with the cluster's certificate authority.

use std::collections::BTreeMap;
use std::time::Duration;

use caravel_client::{Change, Informer, Key, ListSelector, WorkQueue};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::PostParams;

use crate::common::*;
use crate::context::{Context, enqueue_each};

const WORKERS: usize = 2;
const DEFAULT: &str = "default";
const ROOT_CA: &str = "kube-root-ca.crt";
const CA_KEY: &str = "ca.crt";
const DESCRIPTION: (&str, &str) = (
    "kubernetes.io/description",
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal \
     service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.",
);

/// Whether the namespace is to be given anything.
fn active(ns: &Namespace) -> bool {
    !deleting(ns) && ns.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Terminating")
}

/// Runs the ServiceAccount controller.
///
/// # Errors
/// Never by itself.
pub async fn run(context: Context) -> anyhow::Result<()> {
    let namespaces: Informer<Namespace> = context.cluster.informer();
    let accounts: Informer<ServiceAccount> = context.cluster.informer();
    let queue = WorkQueue::new();
    enqueue_each(&namespaces, &queue);
    let wake = queue.clone();
    accounts.on_change(move |c| {
        if let Change::Deleted(a) = c
            && name(&**a) == DEFAULT
        {
            wake.add(Key::cluster(namespace(&**a)));
        }
    });
    namespaces.synced().await;
    accounts.synced().await;
    let client = context.client();
    let reconcile = |key: Key| {
        let wanted = namespaces.get(&key).is_some_and(|n| active(&n));
        let present = accounts.get(&Key::new(key.name.clone(), DEFAULT)).is_some();
        let api: Api<ServiceAccount> = Api::namespaced(client.clone(), &key.name);
        async move {
            if !wanted || present {
                return Ok(None);
            }
            let account = ServiceAccount {
                metadata: ObjectMeta {
                    name: Some(DEFAULT.into()),
                    namespace: Some(key.name.clone()),
                    ..ObjectMeta::default()
                },
                ..ServiceAccount::default()
            };
            created_or_there(api.create(&PostParams::default(), &account).await).map(look_again)
        }
    };
    context.work(queue, WORKERS, reconcile).await;
    Ok(())
}

/// When to see whether what was written is in the cache. Until it is, nobody would tell of its deletion: a cache that was listed before
/// the creation and again after the deletion never had it.
const SEEN: Duration = Duration::from_secs(10);

fn look_again(_: Option<Duration>) -> Option<Duration> {
    Some(SEEN)
}

/// A creation's result, where somebody else's creation, or a namespace that goes away, is as good.
fn created_or_there<T>(result: Result<T, kube::Error>) -> Outcome {
    match result {
        Ok(_) => Ok(None),
        Err(e) if is_already_exists(&e) || is_namespace_terminating(&e) || is_not_found(&e) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Runs the publisher of the certificate authority.
///
/// # Errors
/// Never by itself.
pub async fn run_root_ca(context: Context) -> anyhow::Result<()> {
    if context.config.root_ca.is_empty() {
        context.stop.cancelled().await;
        return Ok(());
    }
    let namespaces: Informer<Namespace> = context.cluster.informer();
    // Only this one ConfigMap of each namespace is held in memory.
    let maps: Informer<ConfigMap> =
        context.cluster.informer_with(ListSelector::fields(format!("metadata.name={ROOT_CA}")));
    let queue = WorkQueue::new();
    enqueue_each(&namespaces, &queue);
    let wake = queue.clone();
    maps.on_change(move |c| wake.add(Key::cluster(namespace(&**c.object()))));
    namespaces.synced().await;
    maps.synced().await;
    let client = context.client();
    let reconcile = |key: Key| {
        let wanted = namespaces.get(&key).is_some_and(|n| active(&n));
        let present = maps.get(&Key::new(key.name.clone(), ROOT_CA));
        let plan = if wanted { plan(&key.name, present.as_deref(), &context.config.root_ca) } else { None };
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), &key.name);
        async move {
            match plan {
                None => return Ok(None),
                Some(map) if map.metadata.resource_version.is_some() => {
                    created_or_there(api.replace(ROOT_CA, &PostParams::default(), &map).await)
                }
                Some(map) => created_or_there(api.create(&PostParams::default(), &map).await),
            }
            .map(look_again)
        }
    };
    context.work(queue, WORKERS, reconcile).await;
    Ok(())
}

/// The ConfigMap to write, if it is not what stands.
fn plan(ns: &str, present: Option<&ConfigMap>, ca: &str) -> Option<ConfigMap> {
    let data: BTreeMap<String, String> = [(CA_KEY.to_owned(), ca.to_owned())].into();
    if let Some(p) = present
        && p.data.as_ref() == Some(&data)
        && p.binary_data.as_ref().is_none_or(BTreeMap::is_empty)
    {
        return None;
    }
    let mut map = present.cloned().unwrap_or_else(|| ConfigMap {
        metadata: ObjectMeta { name: Some(ROOT_CA.into()), namespace: Some(ns.into()), ..ObjectMeta::default() },
        ..ConfigMap::default()
    });
    map.metadata.annotations.get_or_insert_default().insert(DESCRIPTION.0.into(), DESCRIPTION.1.into());
    map.data = Some(data);
    map.binary_data = None;
    Some(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_map_is_mended_and_a_right_one_left() {
        let made = plan("ns", None, "CA").expect("made");
        assert_eq!(plan("ns", Some(&made), "CA"), None);
        let mut spoilt = made.clone();
        spoilt.data.get_or_insert_default().insert("more".into(), "x".into());
        assert_eq!(plan("ns", Some(&spoilt), "CA"), Some(made));
    }
}
