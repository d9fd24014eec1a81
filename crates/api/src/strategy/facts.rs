//! Facts about kinds that the registry needs: how they may be written, and how they are deleted.

use crate::kinds::Kind;
use serde_json::Value;

/// Whether a PUT may leave out the resource version and so overwrite whatever is stored.
pub fn allows_unconditional_update(kind: &Kind) -> bool {
    if kind.is_custom() {
        return false;
    }
    match (&*kind.group, &*kind.kind) {
        ("coordination.k8s.io", _)
        | ("apiextensions.k8s.io", _)
        | ("apiregistration.k8s.io", _)
        | ("admissionregistration.k8s.io", _)
        | ("node.k8s.io", _)
        | ("storagemigration.k8s.io", _)
        | ("policy", _) => false,
        ("storage.k8s.io", name) => name == "StorageClass",
        _ => true,
    }
}

/// Whether a PUT of an object that does not exist creates it.
pub fn allows_create_on_update(kind: &Kind) -> bool {
    matches!(
        (&*kind.group, &*kind.kind),
        ("", "Endpoints" | "Event" | "LimitRange" | "Service")
            | ("events.k8s.io", "Event")
            | ("coordination.k8s.io", "Lease")
            | ("rbac.authorization.k8s.io", _)
    )
}

/// Whether dependents stay when a delete says nothing about them.
pub fn orphans_by_default(kind: &Kind) -> bool {
    matches!((&*kind.group, &*kind.kind), ("", "ReplicationController") | ("batch", "Job"))
}

/// Whether a delete only starts the end of the object, which others then finish: Pods, with grace.
pub fn deletes_gracefully(kind: &Kind) -> bool {
    kind.group.is_empty() && kind.kind == "Pod"
}

/// The seconds that a deleted Pod gets to end: what was asked for, else what its spec says; none when
/// nothing runs (it has no node, or has ended). Negative grace counts as 1.
pub fn pod_grace_seconds(pod: &Value, asked: Option<i64>) -> i64 {
    let of = |path: &str| pod.pointer(path);
    let spec = of("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64);
    let text = |path: &str| of(path).and_then(Value::as_str).unwrap_or_default();
    let unplaced = text("/spec/nodeName").is_empty();
    let ended = matches!(text("/status/phase"), "Succeeded" | "Failed");
    match asked.or(spec).unwrap_or(0) {
        _ if unplaced || ended => 0,
        seconds if seconds < 0 => 1,
        seconds => seconds,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn grace() {
        let running =
            json!({"spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30}, "status": {"phase": "Running"}});
        let cases = [
            (running.clone(), None, 30),
            (running.clone(), Some(5), 5),
            (running.clone(), Some(0), 0),
            (running, Some(-3), 1),
            (json!({"spec": {"terminationGracePeriodSeconds": 30}}), None, 0),
            (
                json!({"spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30}, "status": {"phase": "Failed"}}),
                None,
                0,
            ),
        ];
        for (pod, asked, want) in cases {
            assert_eq!(pod_grace_seconds(&pod, asked), want, "{pod} {asked:?}");
        }
    }
}
