use super::*;
use crate::kinds::KindTable;
use std::sync::Arc;

fn kind(group: &str, name: &str) -> Arc<Kind> {
    let table = KindTable::builtin();
    table.preferred(group, name).unwrap_or_else(|| panic!("{group} {name}")).clone()
}

fn created(group: &str, name: &str, mut object: Value) -> Value {
    prepare_create(&kind(group, name), &mut object);
    object
}

fn updated(group: &str, name: &str, sub: &str, mut new: Value, old: &Value) -> Value {
    prepare_update(&kind(group, name), sub, &mut new, old);
    new
}

#[test]
fn creation() {
    let pod = created(
        "",
        "Pod",
        json!({"metadata": {"name": "p", "generation": 7, "deletionTimestamp": "x"},
        "spec": {"containers": [{"name": "c"}]}, "status": {"phase": "Running"}}),
    );
    assert_eq!(pod["status"], json!({"phase": "Pending", "qosClass": "BestEffort"}));
    assert_eq!(pod["metadata"], json!({"name": "p", "generation": 1}));
    let node = created("", "Node", json!({"status": {"capacity": {}}}));
    assert_eq!(node["status"], json!({"capacity": {}}));
    let namespace = created("", "Namespace", json!({}));
    assert_eq!(namespace["spec"], json!({"finalizers": ["kubernetes"]}));
    let job =
        created("batch", "Job", json!({"metadata": {"uid": "u", "name": "j"}, "spec": {}, "status": {"active": 1}}));
    assert_eq!(job["spec"]["selector"]["matchLabels"], json!({"batch.kubernetes.io/controller-uid": "u"}));
    assert_eq!(job["spec"]["template"]["metadata"]["labels"]["job-name"], "j");
    assert_eq!(job["status"], json!({}));
    assert!(created("", "ConfigMap", json!({}))["metadata"].get("generation").is_none());
}

#[test]
fn classes() {
    let spec = |limits: Value, requests: Value| json!({"containers": [{"resources": {"limits": limits, "requests": requests}}]});
    let cases = [
        (spec(json!({}), json!({})), "BestEffort"),
        (spec(json!({}), json!({"cpu": "0"})), "BestEffort"),
        (spec(json!({}), json!({"cpu": "1"})), "Burstable"),
        (spec(json!({"cpu": "1", "memory": "1"}), json!({"cpu": "1000m", "memory": "1"})), "Guaranteed"),
        (spec(json!({"cpu": "1"}), json!({"cpu": "1"})), "Burstable"),
        (spec(json!({"cpu": "2", "memory": "1"}), json!({"cpu": "1", "memory": "1"})), "Burstable"),
        (json!({"resources": {"limits": {"cpu": "1", "memory": "1"}}, "containers": [{}]}), "Guaranteed"),
    ];
    for (spec, want) in cases {
        assert_eq!(qos_class(&spec), want, "{spec}");
    }
}

#[test]
fn updates_keep_the_other_half() {
    let old = json!({"metadata": {"name": "d", "uid": "u", "generation": 3, "creationTimestamp": "t", "labels": {"a": "b"}},
        "spec": {"replicas": 1}, "status": {"replicas": 1}});
    let main = updated(
        "apps",
        "Deployment",
        "",
        json!({"metadata": {"name": "d", "generation": 9}, "spec": {"replicas": 2}, "status": {"replicas": 7}}),
        &old,
    );
    assert_eq!(main["status"], old["status"]);
    assert_eq!(main["metadata"], json!({"name": "d", "uid": "u", "generation": 4, "creationTimestamp": "t"}));
    let status = updated(
        "apps",
        "Deployment",
        "status",
        json!({"metadata": {"name": "d", "labels": {"x": "y"}, "annotations": {"k": "v"}}, "spec": {"replicas": 9}, "status": {"replicas": 2}}),
        &old,
    );
    assert_eq!(status["spec"], old["spec"]);
    assert_eq!(status["status"], json!({"replicas": 2}));
    assert_eq!(status["metadata"]["labels"], json!({"a": "b"}));
    // A Deployment's annotations count as wanted state, but not when its controller notes the revision with the status.
    assert_eq!(status["metadata"]["annotations"], json!({"k": "v"}));
    assert_eq!(status["metadata"]["generation"], 3);
    let same = updated("apps", "Deployment", "", old.clone(), &old);
    assert_eq!(same, old);
}

#[test]
fn pods_are_resized_and_debugged() {
    let old = json!({"metadata": {"name": "p", "generation": 1}, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}});
    let new = json!({"metadata": {"name": "p", "labels": {"x": "y"}}, "spec": {"nodeName": "z", "containers": [{"name": "c", "image": "j", "resources": {"limits": {"cpu": "1"}}}],
        "ephemeralContainers": [{"name": "e"}]}});
    let resized = updated("", "Pod", "resize", new.clone(), &old);
    assert_eq!(
        resized["spec"],
        json!({"nodeName": "n", "containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "1"}}}]})
    );
    assert_eq!(resized["metadata"], json!({"name": "p", "generation": 2}));
    let debugged = updated("", "Pod", "ephemeralcontainers", new, &old);
    assert_eq!(
        debugged["spec"],
        json!({"nodeName": "n", "containers": [{"name": "c", "image": "i"}], "ephemeralContainers": [{"name": "e"}]})
    );
}

#[test]
fn services_keep_allocations() {
    let old = json!({"metadata": {"name": "s"}, "spec": {"type": "NodePort", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
        "externalTrafficPolicy": "Cluster", "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30000}]}});
    let kept = updated(
        "",
        "Service",
        "",
        json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}]}}),
        &old,
    );
    assert_eq!(
        (&kept["spec"]["clusterIP"], &kept["spec"]["ports"][0]["nodePort"]),
        (&json!("10.0.0.1"), &json!(30000))
    );
    let mut plain = old.clone();
    plain["spec"]["type"] = json!("ClusterIP");
    let dropped = updated("", "Service", "", plain, &old);
    assert_eq!(
        dropped["spec"],
        json!({"type": "ClusterIP", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ports": [{"port": 80, "protocol": "TCP"}]})
    );
    let mut named = old.clone();
    named["spec"]["type"] = json!("ExternalName");
    assert_eq!(
        updated("", "Service", "", named, &old)["spec"],
        json!({"type": "ExternalName", "ports": [{"port": 80, "protocol": "TCP"}]})
    );
}

#[test]
fn affinity_keys_are_merged() {
    let pod = created(
        "",
        "Pod",
        json!({"metadata": {"labels": {"v": "1"}}, "spec": {"topologySpreadConstraints": [
        {"matchLabelKeys": ["v", "w"], "labelSelector": {"matchLabels": {"a": "b"}}}]}}),
    );
    assert_eq!(
        pod["spec"]["topologySpreadConstraints"][0]["labelSelector"],
        json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "v", "operator": "In", "values": ["1"]}]})
    );
}
