//! What only Pods have: binding to a node.

use super::create::{Stored, imagined_at};
use super::options::WriteOptions;
use super::{Registry, keys, store_error};
use crate::clock::rfc3339_seconds;
use caravel_api::kinds::Kind;
use caravel_api::meta;
use caravel_api::selector::Labels as _;
use caravel_api::status::ApiError;
use caravel_store::{At, Change, Error as StoreError, Expect, Write};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// How often a Pod that others keep changing is read again.
const ATTEMPTS: usize = 100;

/// The labels of nodes that Pods take over.
const TOPOLOGY: [&str; 2] = ["topology.kubernetes.io/region", "topology.kubernetes.io/zone"];

impl Registry {
    /// `pods/binding`: gives the Pod its node, once.
    pub async fn bind(
        self: &Arc<Self>,
        namespace: &str,
        name: &str,
        binding: &Value,
        options: &WriteOptions,
    ) -> Result<Stored, ApiError> {
        let kind = self.row("", "pods")?;
        let given = meta::name(binding);
        if !given.is_empty() && given != name {
            return Err(ApiError::bad_request(format!(
                "name in URL ({name}) does not match name in Binding object: {given}"
            )));
        }
        let target = binding.get("target").unwrap_or(&Value::Null);
        let text = |field: &str| target.get(field).and_then(Value::as_str).unwrap_or_default();
        let node = text("name").to_owned();
        let wrong = caravel_api::validation::binding(binding);
        if !wrong.is_empty() {
            return Err(ApiError::invalid("", "Binding", name, &wrong));
        }
        let uid = meta::uid(binding).to_owned();
        let version = meta::resource_version(binding).to_owned();
        let annotations = binding.pointer("/metadata/annotations").and_then(Value::as_object).cloned();
        let labels = binding.pointer("/metadata/labels").and_then(Value::as_object).cloned();
        let topology = self.topology_of(&node).await?;
        let now = rfc3339_seconds(self.clock.now());
        let assign = |pod: &mut Value| {
            if !uid.is_empty() && uid != meta::uid(pod) {
                return conflict(
                    name,
                    format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", meta::uid(pod)),
                );
            }
            if !version.is_empty() && version != meta::resource_version(pod) {
                return Err(ApiError::modified("", "pods", name));
            }
            may_be_assigned(pod, name)?;
            pod["spec"]["nodeName"] = json!(node);
            merge(pod, "annotations", annotations.as_ref());
            merge(pod, "labels", labels.as_ref());
            merge(pod, "labels", Some(&topology));
            scheduled(pod, &now);
            Ok(())
        };
        self.assign(&kind, &keys::object(&kind, namespace, name), options.dry_run, assign).await
    }

    /// Changes a Pod as `assign` says and stores it, reading it again when somebody else was faster. What admission had to
    /// say it said of the Binding; nobody owns the fields that a Binding sets (as upstream), and nothing in them is for
    /// validation to look at. So this is not the way of an update: a scheduler does little else.
    async fn assign(
        self: &Arc<Self>,
        kind: &Arc<Kind>,
        key: &str,
        dry_run: bool,
        assign: impl Fn(&mut Value) -> Result<(), ApiError>,
    ) -> Result<Stored, ApiError> {
        let name = keys::split(key).1;
        for attempt in 0..ATTEMPTS {
            let at = if attempt == 0 { At::Cached } else { At::Latest };
            let Some(entry) = self.store.get(key, at).await.map_err(store_error)?.entry else {
                if at == At::Cached {
                    continue;
                }
                return Err(ApiError::not_found("", "pods", name));
            };
            let mut pod = self.parse(kind, &entry)?;
            if let Err(refused) = assign(&mut pod) {
                if at == At::Cached {
                    // The state that it was judged by may be an old one.
                    continue;
                }
                return Err(refused);
            }
            let encoded = self.encode(kind, key, &pod)?;
            if dry_run {
                return Ok(Stored { entry: Arc::new(imagined_at(key, &encoded, entry.revision)), created: false });
            }
            let change = Change::Put {
                value: encoded.bytes.into(),
                revision_at: Some(encoded.revision_at),
                ttl: self.ttl(kind),
            };
            let write = Write { key: key.to_owned(), expect: Expect::Revision(entry.revision), change };
            match self.store.commit(vec![write]).await {
                Ok(committed) => {
                    let entry = committed.entries.into_iter().next().flatten();
                    let entry = entry.ok_or_else(|| ApiError::internal("the store kept nothing"))?;
                    return Ok(Stored { entry, created: false });
                }
                Err(StoreError::Conflict { .. }) => {}
                Err(other) => return Err(store_error(other)),
            }
        }
        Err(ApiError::modified("", "pods", name))
    }

    /// Where a node is, by its labels: a Pod takes them over (PodTopologyLabels, KEP-4742), so that it can read them itself.
    async fn topology_of(&self, node: &str) -> Result<Map<String, Value>, ApiError> {
        let row = self.row("", "nodes")?;
        let Some(entry) = self.entry(&row, "", node, caravel_store::At::Cached).await? else { return Ok(Map::new()) };
        let Ok(found) = meta::extract(&entry.value, &[]) else { return Ok(Map::new()) };
        let of = |key: &str| found.label(key).map(|value| (key.to_owned(), json!(value)));
        Ok(TOPOLOGY.iter().filter_map(|key| of(key)).collect())
    }
}

fn conflict(name: &str, why: String) -> Result<(), ApiError> {
    Err(ApiError::conflict("", "pods/binding", name, why))
}

/// A Pod is given its node once, and not while it waits for a gate or its end.
fn may_be_assigned(pod: &Value, name: &str) -> Result<(), ApiError> {
    if pod.pointer("/metadata/deletionTimestamp").is_some() {
        return conflict(name, format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let present = pod.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default();
    if !present.is_empty() {
        return conflict(name, format!("pod {name} is already assigned to node {present:?}"));
    }
    if pod.pointer("/spec/schedulingGates").and_then(Value::as_array).is_some_and(|gates| !gates.is_empty()) {
        return conflict(name, format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    Ok(())
}

fn merge(pod: &mut Value, field: &str, more: Option<&Map<String, Value>>) {
    let Some(more) = more.filter(|m| !m.is_empty()) else { return };
    let metadata = meta::metadata_mut(pod);
    let map = meta::map_mut(metadata, field);
    for (key, value) in more {
        map.insert(key.clone(), value.clone());
    }
}

/// Sets the condition PodScheduled to true.
fn scheduled(pod: &mut Value, now: &str) {
    let generation = meta::generation(pod);
    let status = &mut pod["status"];
    if !status.is_object() {
        *status = json!({});
    }
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    let Some(conditions) = status["conditions"].as_array_mut() else { return };
    let mut condition = json!({
        "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now,
    });
    if generation > 0 {
        condition["observedGeneration"] = json!(generation);
    }
    match conditions.iter_mut().find(|c| c.get("type").and_then(Value::as_str) == Some("PodScheduled")) {
        Some(present) => *present = condition,
        None => conditions.push(condition),
    }
}
