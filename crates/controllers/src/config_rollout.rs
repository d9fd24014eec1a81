//! Beyond upstream, and only for Deployments that ask by annotation: a rollout when a ConfigMap or Secret changes that the Pods refer to.
//!
//! What the objects hold is summed up in an annotation of the Deployment. When it is first asked for, the sum is only noted; when it differs
//! later, it goes into the Pod template too, which is a rollout like any other: with its surge, its deadline and its history.

use std::collections::{BTreeMap, HashSet};

use caravel_client::{Change, Informer, Key, ListSelector, WorkQueue};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, PodSpec, Secret};
use kube::Api;
use kube::api::{Patch, PatchParams};
use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::common::*;
use crate::context::{Context, record_on};

/// `"true"`: Pods are replaced when what they refer to changes.
const ASKED: &str = "caravel.dev/rollout-on-config-change";
/// The sum of what they refer to; on the Deployment always, in the template once it has changed. Written by the controller.
const SUM: &str = "caravel.dev/config-sum";
const WORKERS: usize = 2;

/// An object that a Pod refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    ConfigMap,
    Secret,
}

/// The objects that a Pod refers to, each with whether it may be missing (for all who refer to it).
type References = BTreeMap<(Kind, String), bool>;

fn asked(d: &Deployment) -> bool {
    annotation(d, ASKED) == Some("true") && !deleting(d)
}

fn references(spec: &PodSpec) -> References {
    let mut all = References::new();
    let mut add = |kind, name: Option<&str>, optional: Option<bool>| {
        if let Some(name) = name.filter(|n| !n.is_empty()) {
            let optional = optional == Some(true);
            all.entry((kind, name.to_owned())).and_modify(|o| *o &= optional).or_insert(optional);
        }
    };
    for c in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        for source in c.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
            if let Some(r) = &source.config_map_key_ref {
                add(Kind::ConfigMap, Some(&r.name), r.optional);
            }
            if let Some(r) = &source.secret_key_ref {
                add(Kind::Secret, Some(&r.name), r.optional);
            }
        }
        for source in c.env_from.iter().flatten() {
            if let Some(r) = &source.config_map_ref {
                add(Kind::ConfigMap, Some(&r.name), r.optional);
            }
            if let Some(r) = &source.secret_ref {
                add(Kind::Secret, Some(&r.name), r.optional);
            }
        }
    }
    for v in spec.volumes.iter().flatten() {
        if let Some(r) = &v.config_map {
            add(Kind::ConfigMap, Some(&r.name), r.optional);
        }
        if let Some(r) = &v.secret {
            add(Kind::Secret, r.secret_name.as_deref(), r.optional);
        }
        for source in v.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            if let Some(r) = &source.config_map {
                add(Kind::ConfigMap, Some(&r.name), r.optional);
            }
            if let Some(r) = &source.secret {
                add(Kind::Secret, Some(&r.name), r.optional);
            }
        }
    }
    all
}

fn references_of(d: &Deployment) -> References {
    d.spec.as_ref().and_then(|s| s.template.spec.as_ref()).map(references).unwrap_or_default()
}

/// The sum over what all objects hold; `None` while one is missing that must be there: its Pods wait for it anyway.
fn sum(references: &References, content: impl Fn(Kind, &str) -> Option<Value>) -> Option<String> {
    let mut digest = Sha256::new();
    for ((kind, name), optional) in references {
        let held = content(*kind, name);
        if held.is_none() && !optional {
            return None;
        }
        // serde_json keeps keys in order, so that equal contents are equal texts.
        digest.update(format!("{kind:?}/{name}={}\n", held.unwrap_or_default()));
    }
    Some(digest.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect())
}

/// The patch that a Deployment needs, and whether it is a rollout.
fn plan(d: &Deployment, content: impl Fn(Kind, &str) -> Option<Value>) -> Option<(Value, bool)> {
    let references = references_of(d);
    if !asked(d) || references.is_empty() {
        return None;
    }
    let now = sum(&references, content)?;
    let noted = annotation(d, SUM);
    if noted == Some(now.as_str()) {
        return None;
    }
    let mut patch =
        json!({"metadata": {"uid": uid(d), "resourceVersion": d.metadata.resource_version, "annotations": {SUM: now}}});
    if noted.is_some() {
        patch["spec"] = json!({"template": {"metadata": {"annotations": {SUM: now}}}});
    }
    Some((patch, noted.is_some()))
}

struct Controller {
    context: Context,
    deployments: Informer<Deployment>,
    queue: WorkQueue<Key>,
    recorder: caravel_client::Recorder,
    /// The namespaces that are followed: those where some Deployment asks. They stay followed.
    followed: Mutex<HashSet<String>>,
}

/// Runs the controller. ConfigMaps and Secrets are watched only in namespaces where some Deployment asks for it.
///
/// # Errors
/// Never by itself.
pub async fn run(context: Context) -> anyhow::Result<()> {
    let c = Controller {
        deployments: context.cluster.informer(),
        queue: WorkQueue::new(),
        recorder: context.cluster.recorder("config-rollout-controller"),
        followed: Mutex::default(),
        context,
    };
    let wake = c.queue.clone();
    c.deployments.on_change(move |change| {
        if asked(change.object()) {
            wake.add(Key::of(&**change.object()));
        }
    });
    c.deployments.synced().await;
    c.context.work(c.queue.clone(), WORKERS, |key| c.reconcile(key)).await;
    Ok(())
}

impl Controller {
    fn informer<K: caravel_client::Object>(&self, namespace: &str) -> Informer<K> {
        let selector = ListSelector { namespace: Some(namespace.to_owned()), fields: None, labels: None };
        self.context.cluster.informer_with(selector)
    }

    /// Follows what the Deployments of a namespace refer to.
    fn follow(&self, namespace: &str, maps: &Informer<ConfigMap>, secrets: &Informer<Secret>) {
        if !self.followed.lock().insert(namespace.to_owned()) {
            return;
        }
        let waker = |kind: Kind| {
            let (deployments, queue, namespace) = (self.deployments.clone(), self.queue.clone(), namespace.to_owned());
            move |name: &str| {
                let of = (kind, name.to_owned());
                let all = deployments.list_in(&namespace);
                let concerned = all.iter().filter(|d| asked(d) && references_of(d).contains_key(&of));
                concerned.for_each(|d| queue.add(Key::of(&**d)));
            }
        };
        let (map, secret) = (waker(Kind::ConfigMap), waker(Kind::Secret));
        maps.on_change(move |c: &Change<ConfigMap>| map(name(&**c.object())));
        secrets.on_change(move |c: &Change<Secret>| secret(name(&**c.object())));
    }

    async fn reconcile(&self, key: Key) -> Outcome {
        let Some(d) = self.deployments.get(&key).filter(|d| asked(d)) else { return Ok(None) };
        let (maps, secrets) = (self.informer::<ConfigMap>(&key.namespace), self.informer::<Secret>(&key.namespace));
        self.follow(&key.namespace, &maps, &secrets);
        maps.synced().await;
        secrets.synced().await;
        let content = |kind: Kind, n: &str| {
            let key = Key::new(key.namespace.clone(), n);
            match kind {
                Kind::ConfigMap => maps.get(&key).map(|m| json!([m.data, m.binary_data])),
                Kind::Secret => secrets.get(&key).map(|s| json!([s.data])),
            }
        };
        let Some((patch, rollout)) = plan(&d, content) else { return Ok(None) };
        let api: Api<Deployment> = Api::namespaced(self.context.client(), &key.namespace);
        gone_is_fine(api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await)?;
        if rollout {
            let note = "A ConfigMap or Secret changed that the Pods refer to: they are replaced";
            record_on(&self.recorder, &*d, &[Event::normal("ConfigChanged", note)]);
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn deployment(annotations: Value, spec: Value) -> Deployment {
        serde_json::from_value(json!({"metadata": {"name": "d", "annotations": annotations},
            "spec": {"selector": {}, "template": {"spec": spec}}}))
        .unwrap()
    }

    #[test]
    fn all_references_are_found() {
        let spec = json!({
            "initContainers": [{"name": "i", "envFrom": [{"secretRef": {"name": "s1"}}]}],
            "containers": [{"name": "c", "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m1", "key": "k", "optional": true}}},
                {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s2", "key": "k"}}}], "envFrom": [{"configMapRef": {"name": "m2", "optional": true}}]}],
            "volumes": [{"name": "a", "configMap": {"name": "m1"}}, {"name": "b", "secret": {"secretName": "s3", "optional": true}},
                {"name": "p", "projected": {"sources": [{"configMap": {"name": "m3"}}, {"secret": {"name": "s4"}}]}}]});
        let found = references_of(&deployment(json!({}), spec));
        let found: Vec<_> = found.iter().map(|((_, n), optional)| (n.as_str(), *optional)).collect();
        let want =
            [("m1", false), ("m2", true), ("m3", false), ("s1", false), ("s2", false), ("s3", true), ("s4", false)];
        assert_eq!(found, want);
    }

    #[test]
    fn noted_first_and_rolled_out_when_it_changes() {
        let spec = json!({"containers": [{"name": "c", "envFrom": [{"configMapRef": {"name": "m"}}]}]});
        let holds = |v: &'static str| move |_: Kind, _: &str| Some(json!([{"k": v}]));
        assert_eq!(plan(&deployment(json!({}), spec.clone()), holds("1")), None, "nobody asked");
        let fresh = deployment(json!({ASKED: "true"}), spec.clone());
        assert_eq!(plan(&fresh, |_, _| None), None, "what is missing is waited for");
        let (patch, rollout) = plan(&fresh, holds("1")).unwrap();
        assert!(!rollout && patch.get("spec").is_none());
        let noted = patch["metadata"]["annotations"][SUM].clone();
        let standing = deployment(json!({ASKED: "true", SUM: noted}), spec);
        assert_eq!(plan(&standing, holds("1")), None);
        let (patch, rollout) = plan(&standing, holds("2")).unwrap();
        let (on_deployment, in_template) =
            (&patch["metadata"]["annotations"][SUM], &patch["spec"]["template"]["metadata"]["annotations"][SUM]);
        assert!(rollout && on_deployment == in_template && *in_template != noted);
    }
}
