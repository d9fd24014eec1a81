//! What only Pods have: binding to a node.

use super::create::Stored;
use super::options::WriteOptions;
use super::update::{Change, Update};
use super::{Call, Registry};
use crate::clock::rfc3339_seconds;
use caravel_api::meta;
use caravel_api::selector::Labels as _;
use caravel_api::status::ApiError;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// The labels of nodes that Pods take over.
const TOPOLOGY: [&str; 2] = ["topology.kubernetes.io/region", "topology.kubernetes.io/zone"];

impl Registry {
    /// `pods/binding`: gives the Pod its node, once.
    pub async fn bind(
        self: &Arc<Self>,
        call: &Call,
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
        let now = self.clock.now();
        let pod_name = name.to_owned();
        let change = Change::With(Box::new(move |pod: &mut Value| {
            let conflict = |why: String| Err(ApiError::conflict("", "pods/binding", &pod_name, why));
            if !uid.is_empty() && uid != meta::uid(pod) {
                return conflict(format!(
                    "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                    meta::uid(pod)
                ));
            }
            if !version.is_empty() && version != meta::resource_version(pod) {
                return Err(ApiError::modified("", "pods", &pod_name));
            }
            if pod.pointer("/metadata/deletionTimestamp").is_some() {
                return conflict(format!("pod {pod_name} is being deleted, cannot be assigned to a host"));
            }
            let present = pod.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default();
            if !present.is_empty() {
                return conflict(format!("pod {pod_name} is already assigned to node {present:?}"));
            }
            if pod.pointer("/spec/schedulingGates").and_then(Value::as_array).is_some_and(|gates| !gates.is_empty()) {
                return conflict(format!("pod {pod_name} has non-empty .spec.schedulingGates"));
            }
            pod["spec"]["nodeName"] = json!(node);
            merge(pod, "annotations", annotations.as_ref());
            merge(pod, "labels", labels.as_ref());
            merge(pod, "labels", Some(&topology));
            scheduled(pod, &rfc3339_seconds(now));
            Ok(())
        }));
        let update = Update { kind: &kind, namespace, name, subresource: "binding", change, options };
        self.update_status_and_spec(call, update).await
    }

    /// Where a node is, by its labels: a Pod takes them over (PodTopologyLabels, KEP-4742), so that it can read them itself.
    async fn topology_of(&self, node: &str) -> Result<Map<String, Value>, ApiError> {
        let row = self.row("", "nodes")?;
        let Some(entry) = self.entry(&row, "", node, caravel_store::At::Cached).await? else { return Ok(Map::new()) };
        let Ok(found) = meta::extract(&entry.value, &[]) else { return Ok(Map::new()) };
        let of = |key: &str| found.label(key).map(|value| (key.to_owned(), json!(value)));
        Ok(TOPOLOGY.iter().filter_map(|key| of(key)).collect())
    }

    /// A change of the server's own that is not narrowed to one door.
    async fn update_status_and_spec(self: &Arc<Self>, call: &Call, update: Update<'_>) -> Result<Stored, ApiError> {
        self.update(call, update).await
    }
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
