//! What is done for CSI drivers: volumes attached to nodes, claims that grow, attribute classes. The drivers' parts are played here.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use caravel_tests::{ControlPlane, Namespace, Objects, StandIn};
use serde_json::{Value, json};

/// A node whose volumes are attached for it.
fn node(ns: &Namespace, suffix: &str) -> StandIn {
    let node = StandIn::new(ns, suffix, json!({"cpu": "4", "memory": "8Gi"}));
    let managed =
        json!({"metadata": {"annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"}}});
    node.nodes.merge(&node.name, &managed);
    node
}

fn pod(name: &str, node: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
        "nodeName": node, "tolerations": [{"operator": "Exists"}],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}],
        "containers": [{"name": "c", "image": "test/busybox:1", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}})
}

/// The claim `c`, bound to a volume of a driver.
fn claim(ns: &Namespace, driver: &str, class: &str) {
    ns.cluster_objects("v1", "persistentvolumes").create(&json!({"apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": ns.name}, "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain", "storageClassName": class,
            "csi": {"driver": driver, "volumeHandle": "vol-1"}, "claimRef": {"namespace": ns.name, "name": "c"}}}));
    let claims = ns.objects("v1", "persistentvolumeclaims");
    claims.create(&json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c"},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": class, "volumeName": ns.name,
            "resources": {"requests": {"storage": "1Gi"}}}}));
    claims.until("c", "bound", |c| c["status"]["phase"] == "Bound");
}

/// The volumes that a node's status calls attached.
fn reported(node: &Value) -> Vec<&str> {
    node["status"]["volumesAttached"].as_array().into_iter().flatten().filter_map(|v| v["name"].as_str()).collect()
}

/// What the node's kubelet says that it uses.
fn uses(node: &StandIn, volumes: Value) {
    node.nodes.merge(&format!("{}/status", node.name), &json!({"status": {"volumesInUse": volumes}}));
}

fn told(ns: &Namespace, about: &str, reason: &str, note: &str) {
    ns.objects("v1", "events").until_all("", &format!("{reason} of {about}: {note}"), |all| {
        let of = |e: &&Value| {
            e["involvedObject"]["name"] == about
                && e["reason"] == reason
                && e["message"].as_str().is_some_and(|m| m.contains(note))
        };
        all.iter().find(of).cloned()
    });
}

/// The attachment to a node, once it is there.
fn attachment(all: &Objects, node: &StandIn) -> Value {
    all.until_all("", &format!("an attachment to {}", node.name), |list| {
        list.iter().find(|a| a["spec"]["nodeName"] == *node.name).cloned()
    })
}

/// As a driver's attacher: holds the attachment, and says that it is made.
fn attach(all: &Objects, made: &Value) {
    let name = made["metadata"]["name"].as_str().unwrap();
    all.merge(name, &json!({"metadata": {"finalizers": ["external-attacher/test"]}}));
    all.merge(&format!("{name}/status"), &json!({"status": {"attached": true, "attachError": null}}));
}

/// As a driver's attacher: waits until it is to detach, and does.
fn detach(all: &Objects, made: &Value) {
    let name = made["metadata"]["name"].as_str().unwrap();
    all.until(name, "to be detached", |a| a["metadata"]["deletionTimestamp"].is_string());
    all.merge(name, &json!({"metadata": {"finalizers": null}}));
    all.until_gone(name);
}

#[test]
fn a_volume_goes_from_node_to_node_with_its_pods() {
    let plane = ControlPlane::start();
    let ns = Namespace::in_cluster("attach", plane.kubeconfig());
    let (a, b) = (node(&ns, "-a"), node(&ns, "-b"));
    let (pods, all) = (ns.objects("v1", "pods"), ns.cluster_objects("storage.k8s.io/v1", "volumeattachments"));
    ns.cluster_objects("storage.k8s.io/v1", "csidrivers").create(&json!({"apiVersion": "storage.k8s.io/v1",
        "kind": "CSIDriver", "metadata": {"name": "attach.example"}, "spec": {"attachRequired": true}}));
    claim(&ns, "attach.example", "");
    let unique = "kubernetes.io/csi/attach.example^vol-1";

    // Asked for when a Pod is on a node; what hinders it is told to the Pod.
    pods.create(&pod("p", &a.name));
    let made = attachment(&all, &a);
    assert_eq!(
        made["spec"],
        json!({"attacher": "attach.example", "nodeName": a.name, "source": {"persistentVolumeName": ns.name}})
    );
    let name = made["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("csi-") && name.len() == 68, "{name}");
    all.merge(
        &format!("{name}/status"),
        &json!({"status": {"attached": false, "attachError": {"message": "no disk today"}}}),
    );
    let note = format!("AttachVolume.Attach failed for volume \"{}\" : no disk today", ns.name);
    told(&ns, "p", "FailedAttachVolume", &note);
    assert!(reported(&a.nodes.get(&a.name)).is_empty());

    // Only what is attached is on the node's list, which its kubelet waits for.
    attach(&all, &made);
    a.nodes.until(&a.name, "reported", |n| reported(n) == [unique]);
    told(&ns, "p", "SuccessfulAttachVolume", &format!("AttachVolume.Attach succeeded for volume \"{}\"", ns.name));
    uses(&a, json!([unique]));

    // One node at a time: the other's Pod waits, and is told for whom.
    pods.create(&pod("q", &b.name));
    let note = format!("Multi-Attach error for volume \"{}\" Volume is already used by pod(s) p", ns.name);
    told(&ns, "q", "FailedAttachVolume", &note);
    assert_eq!(all.list("").len(), 1);
    pods.delete_with("p", &json!({"gracePeriodSeconds": 0}));
    pods.until_gone("p");

    // Detached once the kubelet does not use it any more, and first taken off the list.
    let still = all.get(name);
    assert!(still["metadata"]["deletionTimestamp"].is_null(), "{still}");
    uses(&a, Value::Null);
    all.until(name, "to be detached", |v| v["metadata"]["deletionTimestamp"].is_string());
    assert!(reported(&a.nodes.get(&a.name)).is_empty());
    detach(&all, &made);

    // Now it is the other node's turn.
    let second = attachment(&all, &b);
    attach(&all, &second);
    b.nodes.until(&b.name, "reported", |n| reported(n) == [unique]);
    uses(&b, json!([unique]));

    // A node that is out of service is not asked: its Pods go by force, and its volumes are detached though it used them.
    b.nodes.merge(
        &b.name,
        &json!({"spec": {"taints": [
        {"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"}]}}),
    );
    let now = caravel_tests::rfc3339_ago(0);
    b.nodes.merge(
        &format!("{}/status", b.name),
        &json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown",
        "reason": "NodeStatusUnknown", "message": "", "lastHeartbeatTime": now, "lastTransitionTime": now}]}}),
    );
    pods.delete("q");
    detach(&all, &second);
    pods.until_gone("q");
    b.nodes.until(&b.name, "not reported", |n| reported(n).is_empty());
    ns.cluster_objects("storage.k8s.io/v1", "csidrivers").delete("attach.example");
}

/// The driver's resizer does all; the event says that it is waited for, and its status is taken over.
#[test]
fn a_claim_that_grows_is_left_to_its_driver() {
    let plane = ControlPlane::start();
    let ns = Namespace::in_cluster("grow", plane.kubeconfig());
    let classes = ns.cluster_objects("storage.k8s.io/v1", "storageclasses");
    classes.create(&json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": ns.name},
        "provisioner": "grow.example", "allowVolumeExpansion": true}));
    claim(&ns, "grow.example", &ns.name);
    let claims = ns.objects("v1", "persistentvolumeclaims");
    claims.merge("c", &json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}}));
    told(&ns, "c", "ExternalExpanding", "waiting for an external controller to expand this PVC");
    let status = |status: Value| claims.merge("c/status", &json!({"status": status}))["status"].clone();
    let underway = status(json!({"allocatedResources": {"storage": "2Gi"},
        "allocatedResourceStatuses": {"storage": "ControllerResizeInProgress"},
        "conditions": [{"type": "Resizing", "status": "True", "lastTransitionTime": caravel_tests::rfc3339_ago(0)}]}));
    assert_eq!(underway["allocatedResourceStatuses"]["storage"], "ControllerResizeInProgress", "{underway}");
    assert_eq!(
        (&underway["allocatedResources"]["storage"], &underway["capacity"]["storage"]),
        (&json!("2Gi"), &json!("1Gi"))
    );
    let done = status(json!({"capacity": {"storage": "2Gi"}, "allocatedResourceStatuses": null, "conditions": null}));
    assert_eq!((&done["capacity"]["storage"], &done["phase"]), (&json!("2Gi"), &json!("Bound")));
    // What the binder wrote when it bound the claim is not written again.
    ns.cluster_objects("v1", "persistentvolumes").merge(&ns.name, &json!({"metadata": {"labels": {"touched": "yes"}}}));
    claims.merge("c", &json!({"metadata": {"labels": {"touched": "yes"}}}));
    assert_eq!(claims.get("c")["status"]["capacity"]["storage"], "2Gi");
}

#[test]
fn an_attribute_class_stays_while_a_claim_has_it() {
    let plane = ControlPlane::start();
    let ns = Namespace::in_cluster("class", plane.kubeconfig());
    let classes = ns.cluster_objects("storage.k8s.io/v1", "volumeattributesclasses");
    for name in ["used", "free"] {
        classes.create(&json!({"apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttributesClass",
            "metadata": {"name": name}, "driverName": "class.example", "parameters": {"iops": "100"}}));
        classes.until(name, "protected", |c| c["metadata"]["finalizers"] == json!(["kubernetes.io/vac-protection"]));
    }
    let claims = ns.objects("v1", "persistentvolumeclaims");
    claims.create(&json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c"},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "none", "volumeAttributesClassName": "used",
            "resources": {"requests": {"storage": "1Gi"}}}}));
    // Seen by the controllers, and so by the one that guards the class.
    claims.until("c", "protected", |c| c["metadata"]["finalizers"] == json!(["kubernetes.io/pvc-protection"]));
    for name in ["used", "free"] {
        classes.delete(name);
    }
    classes.until_gone("free");
    assert!(classes.get("used")["metadata"]["deletionTimestamp"].is_string());
    claims.delete("c");
    classes.until_gone("used");
}
