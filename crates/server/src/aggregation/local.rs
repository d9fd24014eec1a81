//! The APIServices of this server's own groups: one for each group and version of the table of kinds, and for each that a
//! part of this program answers. Written where they are missing, and removed when a custom resource's group is gone.

use super::check::{self, Verdict};
use super::{Aggregation, GROUP, PLURAL};
use crate::authn::UserInfo;
use crate::registry::options::{DeleteOptions, WriteOptions};
use crate::registry::{Call, Registry};
use crate::server::Server;
use caravel_api::meta;
use caravel_api::status::ApiError;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const AGAIN: Duration = Duration::from_secs(1);
const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";

/// Upstream's `groupPriorityMinimum` and `versionPriority` of the stable version, group by group.
const PRIORITIES: [(&str, i64, i64); 23] = [
    ("", 18_000, 1),
    ("apiregistration.k8s.io", 18_000, 18),
    ("apps", 17_800, 15),
    ("events.k8s.io", 17_750, 15),
    ("authentication.k8s.io", 17_700, 15),
    ("authorization.k8s.io", 17_600, 15),
    ("autoscaling", 17_500, 15),
    ("batch", 17_400, 15),
    ("certificates.k8s.io", 17_300, 15),
    ("networking.k8s.io", 17_200, 15),
    ("policy", 17_100, 15),
    ("rbac.authorization.k8s.io", 17_000, 15),
    ("storage.k8s.io", 16_800, 15),
    ("admissionregistration.k8s.io", 16_700, 15),
    ("apiextensions.k8s.io", 16_700, 15),
    ("scheduling.k8s.io", 16_600, 15),
    ("coordination.k8s.io", 16_500, 15),
    ("node.k8s.io", 16_300, 15),
    ("discovery.k8s.io", 16_200, 15),
    ("flowcontrol.apiserver.k8s.io", 16_100, 21),
    ("resource.k8s.io", 15_900, 20),
    ("storagemigration.k8s.io", 15_800, 15),
    ("metrics.k8s.io", 100, 100),
];

/// Priorities of a group and version that this server answers itself.
pub(super) fn priorities(group: &str, version: &str, custom: bool) -> (i64, i64) {
    if custom {
        return (1000, 100);
    }
    let found = PRIORITIES.iter().find(|(name, ..)| *name == group);
    let (minimum, stable) = found.map_or((15_000, 15), |(_, minimum, stable)| (*minimum, *stable));
    let priority = match (group, version) {
        ("autoscaling", "v2") => 30,
        (_, version) if version.contains("alpha") => 1,
        (_, version) if version.contains("beta") => 9,
        _ => stable,
    };
    (minimum, priority)
}

/// Keeps the APIServices at the groups that are answered.
pub(super) fn start(server: &Arc<Server>) {
    let server = server.clone();
    tokio::spawn(async move {
        loop {
            let kept = keep(&server.registry, &server.aggregation).await;
            let again = async {
                if let Err(error) = kept {
                    tracing::warn!(%error, "the APIServices of this server's own groups could not be written; it is tried again");
                    return tokio::time::sleep(AGAIN).await;
                }
                tokio::select! {
                    () = server.aggregation.changed.notified() => {}
                    () = server.registry.kinds_changed.notified() => {}
                }
            };
            tokio::select! {
                () = server.stop.cancelled() => return,
                () = again => {}
            }
        }
    });
}

/// Group and version of what this server answers, and whether it is a custom resource's.
fn answered(registry: &Registry, aggregation: &Aggregation) -> BTreeMap<(String, String), bool> {
    let mut out = BTreeMap::new();
    for kind in registry.kinds().iter() {
        let custom = out.entry((kind.group.to_string(), kind.version.to_string())).or_insert(true);
        *custom &= kind.is_custom();
    }
    for part in aggregation.parts() {
        out.insert((part.group().to_owned(), part.version().to_owned()), false);
    }
    out
}

async fn keep(registry: &Arc<Registry>, aggregation: &Aggregation) -> Result<(), ApiError> {
    let call = Call::new(Arc::new(UserInfo::system_masters("system:apiserver")), "kube-apiserver");
    let kind = registry.row(GROUP, PLURAL)?;
    let present = registry.objects(GROUP, PLURAL, "").await?;
    let wanted = answered(registry, aggregation);
    let is_available = |object: &Value| {
        let all = object.pointer("/status/conditions").and_then(Value::as_array);
        all.into_iter().flatten().any(|c| c.get("reason").and_then(Value::as_str) == Some("Local"))
    };
    let local =
        Verdict { available: true, reason: "Local", message: "Local APIServices are always available".to_owned() };
    let mut known = vec![];
    for object in &present {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let key = (text("/spec/group"), text("/spec/version"));
        let remote = object.pointer("/spec/service").is_some_and(Value::is_object);
        let gone = !remote && !wanted.contains_key(&key) && meta::label(object, MANAGED) == Some("true");
        if gone {
            let options = DeleteOptions::default();
            match registry.delete(&call, &kind, "", meta::name(object), &options).await {
                Err(error) if error.code != 404 => return Err(error),
                _ => {}
            }
        } else if !remote && !is_available(object) {
            ignore_absent(check::write(registry, meta::name(object), &local).await)?;
        }
        known.push(key);
    }
    let missing: Vec<_> = wanted.iter().filter(|(key, _)| !known.contains(key)).collect();
    let made = missing.into_iter().map(|((group, version), custom)| {
        let (registry, call, kind, local) = (registry.clone(), &call, &kind, &local);
        async move {
            let object = service(group, version, *custom);
            let name = meta::name(&object).to_owned();
            let options = WriteOptions::default();
            match registry.create(call, kind, "", &name, object, &options).await {
                Err(error) if error.reason != "AlreadyExists" => Err(error),
                _ => ignore_absent(check::write(&registry, &name, local).await),
            }
        }
    });
    futures::future::try_join_all(made).await.map(|_| ())
}

fn ignore_absent(result: Result<(), ApiError>) -> Result<(), ApiError> {
    match result {
        Err(error) if error.code == 404 => Ok(()),
        other => other,
    }
}

fn service(group: &str, version: &str, custom: bool) -> Value {
    let (minimum, priority) = priorities(group, version, custom);
    let mut spec = json!({"version": version, "groupPriorityMinimum": minimum, "versionPriority": priority});
    if !group.is_empty() {
        spec["group"] = json!(group);
    }
    json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {
            "name": format!("{version}.{group}"), "labels": {MANAGED: if custom { "true" } else { "onstart" }},
        },
        "spec": spec,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_groups_have_upstreams_priorities() {
        assert_eq!(priorities("", "v1", false), (18_000, 1));
        assert_eq!(priorities("autoscaling", "v2", false), (17_500, 30));
        assert_eq!(priorities("example.com", "v1", true), (1000, 100));
        assert_eq!(service("", "v1", false)["metadata"]["name"], "v1.");
        assert!(priorities("networking.k8s.io", "v1beta1", false).1 < 15);
    }
}
