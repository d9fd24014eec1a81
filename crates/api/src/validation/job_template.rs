//! What of a Job's template may change.

use super::check::{Out, Path, child, flag, int, items, same, text};
use crate::field::FieldError;
use serde_json::{Map, Value};

/// A Job's template stays as it is, but queueing controllers may place and size a suspended Job (KEP-2926, KEP-5440), as long as it has no
/// Pods of the old template: it never started, or its suspension is complete.
pub(super) fn update(out: &mut Out, at: Path, new: &Value, old_job: &Value) {
    let old = child(child(old_job, "spec"), "template");
    if !suspended(old_job) {
        if !same(new, old) {
            out.push(FieldError::invalid(at, new, "field is immutable"));
        }
        return;
    }
    let rest = without_what_may_change(new, old);
    if !same(child(&rest, "metadata"), child(old, "metadata")) {
        out.push(FieldError::invalid(at, new, "field is immutable"));
    } else if !same(child(&rest, "spec"), child(old, "spec")) {
        out.push(FieldError::invalid(&at.child("spec"), child(new, "spec"), "field is immutable"));
    }
}

fn suspended(job: &Value) -> bool {
    let status = child(job, "status");
    let says_so = |c: &Value| text(c, "type") == "Suspended" && text(c, "status") == "True";
    let settled = child(status, "startTime").is_null() || items(status, "conditions").iter().any(says_so);
    flag(child(job, "spec"), "suspend") && settled && int(status, "active").unwrap_or(0) == 0
}

/// The new template with the old scheduling directives and sizes.
fn without_what_may_change(new: &Value, old: &Value) -> Value {
    let mut rest = new.clone();
    let directives =
        [("metadata", &["annotations", "labels"][..]), ("spec", &["nodeSelector", "tolerations", "schedulingGates"])];
    for (part, fields) in directives {
        for field in fields {
            put(&mut rest[part], field, child(child(old, part), field));
        }
    }
    // Of affinity, what is about nodes; other Pods' places are not the queue's to say.
    put(&mut rest["spec"]["affinity"], "nodeAffinity", child(child(child(old, "spec"), "affinity"), "nodeAffinity"));
    for list in ["containers", "initContainers"] {
        let before = items(child(old, "spec"), list);
        let containers = rest["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten();
        for (container, before) in containers.zip(before) {
            put(container, "resources", child(before, "resources"));
        }
    }
    rest
}

/// Sets a field; a null takes it away.
fn put(object: &mut Value, field: &str, value: &Value) {
    if object.is_null() {
        *object = Value::Object(Map::new());
    }
    let Some(map) = object.as_object_mut() else { return };
    if value.is_null() {
        map.remove(field);
    } else {
        map.insert(field.to_owned(), value.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::FieldPath;
    use serde_json::json;

    fn template(more: Value) -> Value {
        let mut template = json!({"metadata": {"labels": {"job-name": "j"}},
            "spec": {"containers": [{"name": "c", "image": "v1", "resources": {"requests": {"cpu": "1"}}}]}});
        crate::patch::merge::apply(template.take(), more)
    }

    fn errors(old: &Value, suspend: bool, status: Value, new: &Value) -> Vec<String> {
        let job = json!({"spec": {"suspend": suspend, "template": old}, "status": status});
        let mut out = Out::new();
        update(&mut out, &FieldPath::root("spec").child("template"), new, &job);
        out.iter().map(|e| e.field.to_string()).collect()
    }

    #[test]
    fn a_suspended_job_may_be_placed_and_sized_anew() {
        let bigger = template(
            json!({"spec": {"containers": [{"name": "c", "image": "v1", "resources": {"limits": {"cpu": "4"}}}]}}),
        );
        let node = json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}});
        let placed = template(json!({"metadata": {"labels": {"queue": "q"}, "annotations": {"a": "b"}}, "spec": {
            "affinity": node, "nodeSelector": {"zone": "a"}, "tolerations": [{"operator": "Exists"}],
            "schedulingGates": [{"name": "g"}]}}));
        let other_image = template(json!({"spec": {"containers": [{"name": "c", "image": "v2"}]}}));
        let near_pods = template(json!({"spec": {"affinity": {"podAffinity": {"x": [1]}}}}));
        let two =
            template(json!({"spec": {"containers": [{"name": "c", "image": "v1"}, {"name": "d", "image": "v1"}]}}));
        let started = json!({"startTime": "2026-01-01T00:00:00Z"});
        let suspended =
            json!({"startTime": "2026-01-01T00:00:00Z", "conditions": [{"type": "Suspended", "status": "True"}]});
        let all = "spec.template";
        let spec = "spec.template.spec";
        for (what, suspend, status, new, wanted) in [
            ("the same", false, json!({}), &template(json!({})), None),
            ("runs: sizes", false, json!({}), &bigger, Some(all)),
            ("runs: place", false, json!({}), &placed, Some(all)),
            ("never started: sizes", true, json!({}), &bigger, None),
            ("never started: place", true, json!({}), &placed, None),
            ("never started: image", true, json!({}), &other_image, Some(spec)),
            ("never started: affinity to pods", true, json!({}), &near_pods, Some(spec)),
            ("never started: one container more", true, json!({}), &two, Some(spec)),
            ("started, not yet settled", true, started, &bigger, Some(all)),
            ("started, settled: sizes", true, suspended.clone(), &bigger, None),
            ("started, settled: place", true, suspended, &placed, None),
            ("pods are left", true, json!({"active": 1}), &bigger, Some(all)),
        ] {
            let wanted: Vec<_> = wanted.into_iter().map(str::to_owned).collect();
            assert_eq!(errors(&template(json!({})), suspend, status.clone(), new), wanted, "{what}");
            assert!(errors(&placed, true, json!({}), &template(json!({}))).is_empty(), "and taken back");
        }
    }
}
