//! DaemonSets, Jobs and certificate requests.

use super::Object;
use crate::meta;
use serde_json::{Value, json};

/// Where `apps/v1` carries the template generation that older versions had as a field.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

pub(super) fn daemon_set_create(map: &mut Object) {
    map.insert(
        "status".into(),
        json!({"currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0}),
    );
    set_template_generation(map, 1);
}

pub(super) fn daemon_set_update(map: &mut Object, before: &Object) {
    let template = |object: &Object| object.get("spec").and_then(|spec| spec.get("template")).cloned();
    let old = before
        .get("metadata")
        .and_then(|m| m.get("annotations"))
        .and_then(|a| a.get(TEMPLATE_GENERATION))
        .and_then(Value::as_str)
        .and_then(|text| text.parse::<i64>().ok())
        .unwrap_or(1);
    let changed = template(map) != template(before);
    set_template_generation(map, old + i64::from(changed));
}

fn set_template_generation(map: &mut Object, generation: i64) {
    let annotations = meta::map_mut(meta::map_mut(map, "metadata"), "annotations");
    annotations.insert(TEMPLATE_GENERATION.into(), generation.to_string().into());
}

/// A Job selects its Pods by its own uid, unless `manualSelector` says otherwise.
pub(super) fn job_create(map: &mut Object) {
    let metadata = map.get("metadata").cloned().unwrap_or_default();
    let field = |name: &str| metadata.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (uid, name) = (field("uid"), field("name"));
    let spec = meta::map_mut(map, "spec");
    if spec.get("manualSelector") == Some(&Value::Bool(true)) || uid.is_empty() {
        return;
    }
    let labels = meta::map_mut(meta::map_mut(meta::map_mut(spec, "template"), "metadata"), "labels");
    for (key, value) in [
        ("controller-uid", &uid),
        ("batch.kubernetes.io/controller-uid", &uid),
        ("job-name", &name),
        ("batch.kubernetes.io/job-name", &name),
    ] {
        labels.entry(key).or_insert_with(|| json!(value));
    }
    let wanted = meta::map_mut(meta::map_mut(spec, "selector"), "matchLabels");
    wanted.entry("batch.kubernetes.io/controller-uid").or_insert_with(|| json!(uid));
}

/// Signing cannot change the approval, and the other way round.
pub(super) fn csr_status_update(map: &mut Object, before: &Object) {
    let is_approval = |one: &&Value| matches!(one.get("type").and_then(Value::as_str), Some("Approved" | "Denied"));
    let conditions = before.get("status").and_then(|s| s.get("conditions")).and_then(Value::as_array);
    let decided: Vec<Value> = conditions.into_iter().flatten().filter(is_approval).cloned().collect();
    let status = map.get_mut("status").and_then(|status| status.get_mut("conditions"));
    for condition in status.and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(stored) = decided.iter().find(|one| one.get("type") == condition.get("type")) {
            *condition = stored.clone();
        }
    }
}
