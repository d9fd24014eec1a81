//! What differs between kinds when they are written: which parts a door lets through, and what the server fills in.
//!
//! Upstream has a strategy type for every kind; the rules they share are few, so here they are tables.

use caravel_api::kinds::Kind;
use caravel_api::meta;
use serde_json::{Map, Value, json};

/// Kinds whose `metadata.generation` counts changes of their spec.
const COUNTED: &[(&str, &str)] = &[
    ("", "pods"),
    ("", "replicationcontrollers"),
    ("apps", "daemonsets"),
    ("apps", "deployments"),
    ("apps", "replicasets"),
    ("apps", "statefulsets"),
    ("batch", "cronjobs"),
    ("batch", "jobs"),
    ("networking.k8s.io", "ingresses"),
    ("networking.k8s.io", "ingressclasses"),
    ("networking.k8s.io", "networkpolicies"),
    ("policy", "poddisruptionbudgets"),
    ("apiextensions.k8s.io", "customresourcedefinitions"),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicies"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicybindings"),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicies"),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings"),
    ("flowcontrol.apiserver.k8s.io", "flowschemas"),
    ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations"),
    ("discovery.k8s.io", "endpointslices"),
    ("resource.k8s.io", "deviceclasses"),
    ("resource.k8s.io", "resourceslices"),
    ("resource.k8s.io", "devicetaintrules"),
    ("scheduling.k8s.io", "priorityclasses"),
    ("scheduling.k8s.io", "podgroups"),
    ("scheduling.k8s.io", "workloads"),
];

/// Kinds that a PUT may create.
const CREATE_ON_UPDATE: &[(&str, &str)] = &[
    ("", "endpoints"),
    ("", "events"),
    ("events.k8s.io", "events"),
    ("", "limitranges"),
    ("", "services"),
    ("coordination.k8s.io", "leases"),
    ("coordination.k8s.io", "leasecandidates"),
    ("rbac.authorization.k8s.io", "clusterroles"),
    ("rbac.authorization.k8s.io", "clusterrolebindings"),
    ("rbac.authorization.k8s.io", "roles"),
    ("rbac.authorization.k8s.io", "rolebindings"),
];

/// Kinds whose PUT must say which state it replaces.
const CONDITIONAL_UPDATE: &[(&str, &str)] = &[
    ("coordination.k8s.io", "leases"),
    ("coordination.k8s.io", "leasecandidates"),
    ("apiextensions.k8s.io", "customresourcedefinitions"),
    ("apiregistration.k8s.io", "apiservices"),
    ("policy", "poddisruptionbudgets"),
    ("node.k8s.io", "runtimeclasses"),
    ("storage.k8s.io", "csidrivers"),
    ("storage.k8s.io", "csinodes"),
    ("storage.k8s.io", "csistoragecapacities"),
    ("storage.k8s.io", "volumeattachments"),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicies"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicybindings"),
    ("networking.k8s.io", "networkpolicies"),
    ("flowcontrol.apiserver.k8s.io", "flowschemas"),
    ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations"),
];

fn among(table: &[(&str, &str)], kind: &Kind) -> bool {
    table.iter().any(|(group, plural)| kind.group == *group && kind.plural == *plural)
}

/// Whether `metadata.generation` counts changes of the spec.
pub fn counts_generation(kind: &Kind) -> bool {
    kind.is_custom() || among(COUNTED, kind)
}

/// Whether a PUT may create.
pub fn creates_on_update(kind: &Kind) -> bool {
    among(CREATE_ON_UPDATE, kind)
}

/// Whether a PUT without `resourceVersion` replaces whatever there is.
pub fn unconditional_update(kind: &Kind) -> bool {
    !kind.is_custom() && !among(CONDITIONAL_UPDATE, kind)
}

/// Whether the status is a door of its own, so that the main door does not touch it.
fn has_status(kind: &Kind) -> bool {
    kind.subresource("status").is_some()
}

/// The status with which an object is born.
fn newborn_status(kind: &Kind) -> Option<Value> {
    Some(match (&*kind.group, &*kind.plural) {
        ("", "pods") => json!({"phase": "Pending"}),
        ("", "namespaces") => json!({"phase": "Active"}),
        ("", "persistentvolumes" | "persistentvolumeclaims") => json!({"phase": "Pending"}),
        ("", "services") => json!({"loadBalancer": {}}),
        ("networking.k8s.io", "ingresses") => json!({"loadBalancer": {}}),
        ("", "replicationcontrollers") | ("apps", "replicasets") => json!({"replicas": 0}),
        ("apps", "statefulsets") => json!({"replicas": 0, "availableReplicas": 0}),
        ("apps", "daemonsets") => json!({
            "currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0,
        }),
        ("policy", "poddisruptionbudgets") => {
            json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0})
        }
        ("autoscaling", "horizontalpodautoscalers") => match &*kind.version {
            "v1" => json!({"currentReplicas": 0, "desiredReplicas": 0}),
            _ => json!({"desiredReplicas": 0, "currentMetrics": null}),
        },
        ("apiextensions.k8s.io", "customresourcedefinitions") => {
            json!({"conditions": null, "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": []})
        }
        ("apps", "deployments")
        | ("batch", "jobs" | "cronjobs")
        | ("", "resourcequotas")
        | ("certificates.k8s.io", "certificatesigningrequests")
        | ("flowcontrol.apiserver.k8s.io", _)
        | ("apiregistration.k8s.io", "apiservices")
        | ("storage.k8s.io", "volumeattachments")
        | ("admissionregistration.k8s.io", "validatingadmissionpolicies")
        | ("resource.k8s.io", "resourceclaims") => json!({}),
        _ => return None,
    })
}

/// Before a creation: what only the server says is taken out, what the server knows is put in.
pub fn prepare_create(kind: &Kind, object: &mut Value) {
    // A node registers itself together with its status.
    if has_status(kind) && kind.plural != "nodes" && object.get("status").is_some() {
        remove(object, "status");
    }
    // The status is written out even where it is empty, as upstream's types do.
    if kind.plural != "nodes"
        && let Some(status) = newborn_status(kind)
    {
        object["status"] = status;
    }
    if counts_generation(kind) {
        meta::set(object, "generation", 1);
    } else {
        remove(&mut object["metadata"], "generation");
    }
    match (&*kind.group, &*kind.plural) {
        ("", "namespaces") => {
            let finalizers = object.pointer("/spec/finalizers").and_then(Value::as_array).cloned().unwrap_or_default();
            let mut finalizers = finalizers;
            if !finalizers.iter().any(|f| f == "kubernetes") {
                finalizers.push(json!("kubernetes"));
            }
            object["spec"] = json!({"finalizers": finalizers});
            let name = meta::name(object).to_owned();
            meta::set_label(object, "kubernetes.io/metadata.name", &name);
        }
        ("", "pods") => {
            let class = qos_class(&object["spec"]);
            object["status"]["qosClass"] = json!(class);
        }
        ("", "persistentvolumeclaims") => {
            if let Some(status) = object.get_mut("status") {
                *status = json!({"phase": "Pending"});
            }
        }
        _ => {}
    }
}

/// Before a replacement through the main door: what belongs to the server or to another door is carried over, and the
/// generation counts a changed spec. `old` is the present object.
pub fn prepare_update(kind: &Kind, object: &mut Value, old: &Value) {
    carry_metadata(object, old);
    if has_status(kind) && !allows_status_through_main(kind) {
        carry(object, old, "status");
    }
    if (&*kind.group, &*kind.plural) == ("", "namespaces") {
        carry_at(object, old, "spec", "finalizers");
    }
    count_generation(kind, object, old);
}

/// Kinds without a status door, or whose main door takes the status along.
fn allows_status_through_main(kind: &Kind) -> bool {
    // The status of a custom resource without the subresource is data like any other; then there is no such door.
    kind.subresource("status").is_none()
}

/// Before a replacement through `status`: only the status (and, except for custom resources, metadata) comes through.
pub fn prepare_status(kind: &Kind, object: &mut Value, old: &Value) {
    let status = object.get("status").cloned();
    let metadata = object.get("metadata").cloned();
    let mut next = old.clone();
    match status {
        Some(status) => next["status"] = status,
        None => remove(&mut next, "status"),
    }
    if !kind.is_custom()
        && let Some(mut metadata) = metadata
    {
        for field in ["ownerReferences", "finalizers"] {
            match old.pointer(&format!("/metadata/{field}")) {
                Some(value) => metadata[field] = value.clone(),
                None => remove(&mut metadata, field),
            }
        }
        if matches!((&*kind.group, &*kind.plural), ("apps", "deployments" | "daemonsets" | "statefulsets")) {
            match old.pointer("/metadata/labels") {
                Some(labels) => metadata["labels"] = labels.clone(),
                None => remove(&mut metadata, "labels"),
            }
        }
        next["metadata"] = metadata;
    } else if let Some(managed) = object.pointer("/metadata/managedFields") {
        next["metadata"]["managedFields"] = managed.clone();
    }
    *object = next;
    carry_metadata(object, old);
    if (&*kind.group, &*kind.plural) == ("", "pods")
        && let Some(class) = old.pointer("/status/qosClass")
    {
        object["status"]["qosClass"] = class.clone();
    }
}

/// Replaces only the field `spec.FIELD` of pods (`ephemeralcontainers`) or the like.
pub fn prepare_narrow(object: &mut Value, old: &Value, pointer: &[&str]) {
    let wanted = pointer.iter().try_fold(&*object, |at, step| at.get(step)).cloned();
    let managed = object.pointer("/metadata/managedFields").cloned();
    let mut next = old.clone();
    if let Some((last, parents)) = pointer.split_last() {
        let mut at = &mut next;
        for step in parents {
            at = &mut at[*step];
        }
        match wanted {
            Some(value) => at[*last] = value,
            None => remove(at, last),
        }
    }
    if let Some(managed) = managed {
        next["metadata"]["managedFields"] = managed;
    }
    *object = next;
    carry_metadata(object, old);
}

/// Metadata that only the server writes.
fn carry_metadata(object: &mut Value, old: &Value) {
    for field in ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "selfLink"] {
        match old.pointer(&format!("/metadata/{field}")) {
            Some(value) => object["metadata"][field] = value.clone(),
            None => remove(&mut object["metadata"], field),
        }
    }
    for field in ["name", "namespace", "generateName"] {
        if object["metadata"].get(field).and_then(Value::as_str).unwrap_or_default().is_empty()
            && let Some(value) = old.pointer(&format!("/metadata/{field}"))
        {
            object["metadata"][field] = value.clone();
        }
    }
}

/// Counts when anything but metadata and status differs.
pub fn count_generation(kind: &Kind, object: &mut Value, old: &Value) {
    if !counts_generation(kind) {
        return;
    }
    let differs = |field: &str| object.get(field) != old.get(field);
    let keys = |value: &Value| value.as_object().map(|m| m.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    let changed = keys(object)
        .iter()
        .chain(&keys(old))
        .any(|field| !matches!(field.as_str(), "metadata" | "status" | "apiVersion" | "kind") && differs(field));
    let has_status_door = has_status(kind);
    let status_is_data = kind.is_custom() && !has_status_door && object.get("status") != old.get("status");
    if changed || status_is_data {
        meta::set(object, "generation", meta::generation(old) + 1);
    }
}

fn carry(object: &mut Value, old: &Value, field: &str) {
    match old.get(field) {
        Some(value) => object[field] = value.clone(),
        None => remove(object, field),
    }
}

fn carry_at(object: &mut Value, old: &Value, parent: &str, field: &str) {
    match old.get(parent).and_then(|p| p.get(field)) {
        Some(value) => object[parent][field] = value.clone(),
        None => remove(&mut object[parent], field),
    }
}

fn remove(object: &mut Value, field: &str) {
    if let Some(map) = object.as_object_mut() {
        map.remove(field);
    }
}

/// The quality of service of a Pod: `BestEffort` without any request or limit of CPU or memory, `Guaranteed` when every
/// container limits both and requests what it limits, else `Burstable`.
pub fn qos_class(spec: &Value) -> &'static str {
    let lists = ["containers", "initContainers"];
    let containers: Vec<&Value> =
        lists.iter().filter_map(|l| spec.get(*l).and_then(Value::as_array)).flatten().collect();
    let amounts = |of: &Value, what: &str| -> Map<String, Value> {
        let all = of.pointer(&format!("/resources/{what}")).and_then(Value::as_object).cloned().unwrap_or_default();
        all.into_iter()
            .filter(|(name, amount)| matches!(name.as_str(), "cpu" | "memory") && !is_zero(amount))
            .collect()
    };
    let pod_level = json!({"resources": spec.get("resources").cloned().unwrap_or_default()});
    let by_pod = !amounts(&pod_level, "requests").is_empty() || !amounts(&pod_level, "limits").is_empty();
    let subjects: Vec<&Value> = if by_pod { vec![&pod_level] } else { containers };
    let (mut any, mut guaranteed) = (false, true);
    for subject in subjects {
        let (requests, limits) = (amounts(subject, "requests"), amounts(subject, "limits"));
        any |= !requests.is_empty() || !limits.is_empty();
        let both_limited = limits.contains_key("cpu") && limits.contains_key("memory");
        let same = requests.iter().all(|(name, amount)| limits.get(name).is_some_and(|limit| equal(limit, amount)));
        guaranteed &= both_limited && same;
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

fn amount(value: &Value) -> Option<caravel_api::quantity::Quantity> {
    match value {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.to_string().parse().ok(),
        _ => None,
    }
}

fn is_zero(value: &Value) -> bool {
    amount(value).is_some_and(|q| q.to_string() == "0")
}

fn equal(a: &Value, b: &Value) -> bool {
    match (amount(a), amount(b)) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use caravel_api::kinds::KindTable;

    fn kind(group: &str, plural: &str) -> std::sync::Arc<Kind> {
        KindTable::builtin().resource(group, "v1", plural).unwrap().clone()
    }

    #[test]
    fn the_main_door_keeps_the_status_and_counts_the_spec() {
        let deployments = kind("apps", "deployments");
        let old = json!({"metadata": {"name": "d", "uid": "u", "generation": 4}, "spec": {"replicas": 1}, "status": {"x": 1}});
        let mut new = json!({"metadata": {"name": "d", "uid": "other"}, "spec": {"replicas": 2}, "status": {"x": 2}});
        prepare_update(&deployments, &mut new, &old);
        assert_eq!(new, json!({"metadata": {"name": "d", "uid": "u", "generation": 5}, "spec": {"replicas": 2}, "status": {"x": 1}}));
        let mut same = json!({"metadata": {"name": "d", "labels": {"a": "b"}}, "spec": {"replicas": 1}});
        prepare_update(&deployments, &mut same, &old);
        assert_eq!(same["metadata"]["generation"], 4);
    }

    #[test]
    fn the_status_door_keeps_the_spec() {
        let pods = kind("", "pods");
        let old = json!({"metadata": {"name": "p", "uid": "u", "ownerReferences": [1]}, "spec": {"a": 1}, "status": {"qosClass": "Burstable"}});
        let mut new = json!({"metadata": {"name": "p", "annotations": {"x": "y"}}, "spec": {"a": 2}, "status": {"phase": "Running"}});
        prepare_status(&pods, &mut new, &old);
        assert_eq!(new["spec"], json!({"a": 1}));
        assert_eq!(new["status"], json!({"phase": "Running", "qosClass": "Burstable"}));
        assert_eq!(new["metadata"]["annotations"]["x"], "y");
        assert_eq!(new["metadata"]["ownerReferences"], json!([1]));
    }

    #[test]
    fn quality_of_service() {
        let container = |requests: Value, limits: Value| json!({"resources": {"requests": requests, "limits": limits}});
        for (containers, class) in [
            (json!([{}]), "BestEffort"),
            (json!([container(json!({"cpu": "1"}), json!({}))]), "Burstable"),
            (json!([container(json!({"cpu": "1", "memory": "1Gi"}), json!({"cpu": "1000m", "memory": "1024Mi"}))]), "Guaranteed"),
            (json!([container(json!({"cpu": "1", "memory": "1Gi"}), json!({"cpu": "1", "memory": "1Gi"})), {}]), "Burstable"),
            (json!([container(json!({"cpu": "1", "memory": "1Gi"}), json!({"cpu": "2", "memory": "1Gi"}))]), "Burstable"),
            (json!([container(json!({"cpu": "0"}), json!({}))]), "BestEffort"),
        ] {
            assert_eq!(qos_class(&json!({"containers": containers})), class, "{containers}");
        }
    }
}
