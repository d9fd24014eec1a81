//! Objects that are kept and told of rather than acted on: create, read, list, watch, update, patch, status, delete, by name and by
//! selection.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use caravel_tests::{Namespace, Objects, name_of, pod_of, sleeper};
use serde_json::{Value, json};

/// Alters an object, and tells whether it was altered.
type Change<'a> = (&'a dyn Fn(&mut Value), &'a dyn Fn(&Value) -> bool);

/// What every kind owes: `make` gives an object of a name, `change` alters its spec so that the change can be seen with `changed`.
struct Kind<'a> {
    objects: Objects,
    label: &'a str,
    make: &'a dyn Fn(&str) -> Value,
    change: Option<Change<'a>>,
}

fn labelled(mut object: Value, label: &str, name: &str) -> Value {
    let (key, value) = label.split_once('=').unwrap();
    object["metadata"]["name"] = json!(name);
    object["metadata"]["labels"][key] = json!(value);
    object
}

fn lifecycle(kind: &Kind<'_>, prefix: &str) {
    let o = &kind.objects;
    let name = |s: &str| format!("{prefix}-{s}");
    let make = |s: &str| labelled((kind.make)(&name(s)), kind.label, &name(s));
    let (first, second, third) = (name("a"), name("b"), name("c"));
    let (code, said) = o.try_get(&first);
    assert_eq!((code, said["reason"].as_str()), (404, Some("NotFound")));
    let mut watch = o.watch(kind.label, &o.revision());
    // A dry run leaves nothing.
    let (code, _) = o.send("POST", "?dryRun=All", "application/json", Some(&make("a")));
    assert_eq!((code, o.try_get(&first).0), (201, 404));
    let made = o.create(&make("a"));
    let added = watch.until("ADDED", |v| name_of(v) == first);
    assert_eq!(added["metadata"]["uid"], made["metadata"]["uid"]);
    let (code, said) = o.try_create(&make("a"));
    assert_eq!((code, said["reason"].as_str()), (409, Some("AlreadyExists")));
    assert_eq!(o.get(&first)["metadata"]["uid"], made["metadata"]["uid"]);
    assert_eq!(o.list(kind.label).len(), 1);
    for (media, key) in
        [("application/strategic-merge-patch+json", "strategic"), ("application/merge-patch+json", "merge")]
    {
        let (code, patched) = o.send("PATCH", &first, media, Some(&json!({"metadata": {"labels": {key: "patched"}}})));
        assert_eq!((code, patched["metadata"]["labels"][key].as_str()), (200, Some("patched")), "{patched}");
        watch.until("MODIFIED", |v| v["metadata"]["labels"][key] == "patched");
    }
    let applied = json!({"apiVersion": made["apiVersion"], "kind": made["kind"], "metadata": {"name": first, "annotations": {"applied": "yes"}}});
    let (code, said) =
        o.send("PATCH", &format!("{first}?fieldManager=test"), "application/apply-patch+yaml", Some(&applied));
    assert_eq!((code, said["metadata"]["annotations"]["applied"].as_str()), (200, Some("yes")), "{said}");
    o.update(&first, |v| v["metadata"]["annotations"]["updated"] = json!("yes"));
    watch.until("MODIFIED", |v| v["metadata"]["annotations"]["updated"] == "yes");
    if let Some((change, changed)) = kind.change {
        let now = o.update(&first, change);
        assert!(changed(&now), "{now}");
        watch.until("MODIFIED", changed);
    }
    o.delete(&first);
    watch.until("DELETED", |v| name_of(v) == first);
    o.until_gone(&first);
    for s in ["b", "c"] {
        o.create(&make(s));
    }
    assert_eq!(o.list(kind.label).len(), 2);
    o.update(&second, |v| v["metadata"]["labels"]["second"] = json!("updated"));
    assert_eq!(o.list(&format!("{},second=updated", kind.label)).len(), 1);
    o.delete_collection(kind.label);
    for n in [&second, &third] {
        watch.until("DELETED", |v| name_of(v) == n.as_str() || name_of(v) == second || name_of(v) == third);
        o.until_gone(n);
    }
}

#[test]
fn pod_templates() {
    let ns = Namespace::new("ptpl");
    let objects = ns.objects("v1", "podtemplates");
    let label = format!("of={}", ns.name);
    let make = |n: &str| {
        let template = sleeper(n);
        json!({"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": n}, "template": template})
    };
    let change = |v: &mut Value| v["template"]["spec"]["containers"][0]["env"] = json!([{"name": "A", "value": "b"}]);
    let changed = |v: &Value| v["template"]["spec"]["containers"][0]["env"][0]["value"] == "b";
    lifecycle(&Kind { objects: objects.clone(), label: &label, make: &make, change: Some((&change, &changed)) }, "t");
    assert_eq!(objects.everywhere().list(&label).len(), 0);
}

#[test]
fn nodes() {
    let ns = Namespace::new("node");
    let objects = ns.cluster_objects("v1", "nodes");
    let label = format!("of={}", ns.name);
    let make =
        |n: &str| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": n}, "spec": {"unschedulable": true}});
    let prefix = format!("zz-{}", ns.name);
    lifecycle(&Kind { objects: objects.clone(), label: &label, make: &make, change: None }, &prefix);
    // A node's status is written by its kubelet; the object alone has one, too.
    let name = format!("{prefix}-s");
    objects.create(&labelled(make(&name), &label, &name));
    let patched = objects.strategic(
        &format!("{name}/status"),
        &json!({"status": {"conditions": [{"type": "Ready", "status": "False", "reason": "Test", "message": "m",
            "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}),
    );
    assert_eq!(caravel_tests::condition_of(&patched, "Ready").unwrap()["reason"], "Test");
    objects.delete(&name);
    objects.until_gone(&name);
}

#[test]
fn volume_attachments() {
    let ns = Namespace::new("vatt");
    let objects = ns.cluster_objects("storage.k8s.io/v1", "volumeattachments");
    let label = format!("of={}", ns.name);
    let make = |n: &str| {
        json!({"apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttachment", "metadata": {"name": n}, "spec": {
            "attacher": "no-such-driver.example.com", "nodeName": format!("node-{n}"), "source": {"persistentVolumeName": format!("pv-{n}")}}})
    };
    lifecycle(&Kind { objects: objects.clone(), label: &label, make: &make, change: None }, &ns.name);
    let name = format!("{}-s", ns.name);
    let made = objects.create(&labelled(make(&name), &label, &name));
    assert!(made["status"].is_null() || made["status"]["attached"] == false);
    let at = format!("{name}/status");
    assert_ne!(objects.get(&at)["status"]["attached"], true);
    let patched =
        objects.merge(&at, &json!({"metadata": {"annotations": {"patched": "yes"}}, "status": {"attached": true}}));
    assert_eq!(
        (patched["status"]["attached"].as_bool(), patched["metadata"]["annotations"]["patched"].as_str()),
        (Some(true), Some("yes"))
    );
    let updated = objects.update(&at, |v| v["status"]["attached"] = json!(false));
    assert_eq!(updated["status"]["attached"], false);
    // The spec never changes.
    let (code, said) =
        objects.send("PATCH", &name, "application/merge-patch+json", Some(&json!({"spec": {"nodeName": "other"}})));
    assert_eq!((code, said["reason"].as_str()), (422, Some("Invalid")), "{said}");
    objects.delete(&name);
    objects.until_gone(&name);
}

fn volume(name: &str, class: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": {
        "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "2Gi"}, "persistentVolumeReclaimPolicy": "Retain",
        "storageClassName": class, "csi": {"driver": "no-such-driver.example.com", "volumeHandle": name}}})
}

fn claim(name: &str, class: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": class}})
}

#[test]
fn volumes_and_claims() {
    let ns = Namespace::new("pvlife");
    let (volumes, claims) = (ns.cluster_objects("v1", "persistentvolumes"), ns.objects("v1", "persistentvolumeclaims"));
    let label = format!("of={}", ns.name);
    // Classes differ, so that nothing is bound under the test's hands.
    let make_volume = |n: &str| volume(n, &format!("v-{n}"));
    let make_claim = |n: &str| claim(n, &format!("c-{n}"));
    lifecycle(&Kind { objects: volumes, label: &label, make: &make_volume, change: None }, &ns.name);
    lifecycle(&Kind { objects: claims.clone(), label: &label, make: &make_claim, change: None }, "c");
    assert!(claims.everywhere().list(&label).is_empty());
}

#[test]
fn status_of_volumes_and_claims() {
    let ns = Namespace::new("pvstat");
    let (volumes, claims) = (ns.cluster_objects("v1", "persistentvolumes"), ns.objects("v1", "persistentvolumeclaims"));
    let (pv, label) = (format!("{}-pv", ns.name), format!("of={}", ns.name));
    volumes.create(&labelled(volume(&pv, &ns.name), &label, &pv));
    claims.create(&labelled(claim("c", &ns.name), &label, "c"));
    assert_eq!((volumes.list(&label).len(), claims.list(&label).len()), (1, 1));
    let bound = claims.until("c", "bound", |c| c["status"]["phase"] == "Bound");
    assert_eq!(bound["spec"]["volumeName"], pv);
    let there = volumes.until(&pv, "bound", |v| v["status"]["phase"] == "Bound");
    assert_eq!(there["spec"]["claimRef"]["name"], "c");
    let at = format!("{pv}/status");
    assert_eq!(claims.get("c/status")["status"]["phase"], "Bound");
    assert_eq!(volumes.get(&at)["status"]["phase"], "Bound");
    let condition = |t: &str| json!([{"type": t, "status": "True", "reason": "Set", "message": "by a test"}]);
    let patched = claims.merge(
        "c/status",
        &json!({"metadata": {"annotations": {"p": "1"}}, "status": {"conditions": condition("StatusPatched")}}),
    );
    assert_eq!(patched["status"]["conditions"][0]["type"], "StatusPatched");
    let patched = volumes.merge(
        &at,
        &json!({"metadata": {"annotations": {"p": "1"}}, "status": {"message": "patched", "reason": "StatusPatched"}}),
    );
    assert_eq!(
        (patched["status"]["reason"].as_str(), patched["status"]["message"].as_str()),
        (Some("StatusPatched"), Some("patched"))
    );
    let updated = claims.update("c/status", |c| c["status"]["conditions"] = condition("StatusUpdated"));
    assert_eq!(updated["status"]["conditions"][0]["type"], "StatusUpdated");
    let updated = volumes.update(&at, |v| v["status"]["reason"] = json!("StatusUpdated"));
    assert_eq!(updated["status"]["reason"], "StatusUpdated");
    // A claim in use stays until its pod is gone; a volume with its claim.
    claims.delete("c");
    claims.until_gone("c");
    volumes.until(&pv, "released", |v| v["status"]["phase"] == "Released");
    volumes.delete(&pv);
    volumes.until_gone(&pv);
}

#[test]
fn what_is_in_use_is_protected() {
    let ns = Namespace::new("pvprot");
    let (volumes, claims, pods) = (
        ns.cluster_objects("v1", "persistentvolumes"),
        ns.objects("v1", "persistentvolumeclaims"),
        ns.objects("v1", "pods"),
    );
    let pv = format!("{}-pv", ns.name);
    volumes.create(&volume(&pv, &ns.name));
    claims.create(&claim("c", &ns.name));
    claims.until("c", "bound", |c| c["status"]["phase"] == "Bound");
    // A pod that uses it, though it never runs.
    let mut pod = pod_of("user", &sleeper("user"));
    pod["spec"]["nodeName"] = json!("no-such-node-yet");
    pod["spec"]["volumes"] = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]);
    pod["metadata"]["finalizers"] = json!(["example.com/hold"]);
    pods.create(&pod);
    let going = claims.delete("c");
    assert_eq!(going["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
    volumes.delete(&pv);
    assert!(claims.get("c")["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(volumes.get(&pv)["metadata"]["finalizers"], json!(["kubernetes.io/pv-protection"]));
    pods.delete_with("user", &json!({"gracePeriodSeconds": 0}));
    pods.json_patch("user", &json!([{"op": "remove", "path": "/metadata/finalizers"}]));
    claims.until_gone("c");
    volumes.until_gone(&pv);
}

const DRIVER: &str = "driver.example.com";

fn claim_spec() -> Value {
    json!({"devices": {"requests": [{"name": "one", "exactly": {"deviceClassName": "some-class", "count": 1}}]}})
}

#[test]
fn device_classes() {
    let ns = Namespace::new("dracls");
    let objects = ns.cluster_objects("resource.k8s.io/v1", "deviceclasses");
    let make = |n: &str| {
        json!({"apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass", "metadata": {"name": n}, "spec": {
            "selectors": [{"cel": {"expression": format!("device.driver == \"{DRIVER}\"")}}]}})
    };
    let change = |v: &mut Value| v["spec"]["selectors"][0]["cel"]["expression"] = json!("true");
    let changed = |v: &Value| v["spec"]["selectors"][0]["cel"]["expression"] == "true";
    let label = format!("of={}", ns.name);
    lifecycle(&Kind { objects, label: &label, make: &make, change: Some((&change, &changed)) }, &ns.name);
}

#[test]
fn resource_claims() {
    let ns = Namespace::new("draclm");
    let objects = ns.objects("resource.k8s.io/v1", "resourceclaims");
    let make = |n: &str| json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": {"name": n}, "spec": claim_spec()});
    let label = format!("of={}", ns.name);
    lifecycle(&Kind { objects: objects.clone(), label: &label, make: &make, change: None }, "c");
    let made = objects.create(&make("s"));
    assert_eq!(made["spec"]["devices"]["requests"][0]["exactly"]["allocationMode"], "ExactCount", "defaulted");
    let (code, said) = objects.send(
        "PATCH",
        "s",
        "application/merge-patch+json",
        Some(&json!({"spec": {"devices": {"requests": []}}})),
    );
    assert_eq!((code, said["reason"].as_str()), (422, Some("Invalid")), "{said}");
    let allocation =
        json!({"devices": {"results": [{"request": "one", "driver": DRIVER, "pool": "p", "device": "d0"}]}});
    let updated = objects.update("s/status", |c| {
        c["status"]["allocation"] = allocation.clone();
        // A write to the status does not touch the spec.
        c["spec"]["devices"]["requests"][0]["name"] = json!("changed");
    });
    assert_eq!(updated["status"]["allocation"]["devices"]["results"][0]["device"], "d0");
    assert_eq!(updated["spec"]["devices"]["requests"][0]["name"], "one");
    let reserved = json!({"resource": "pods", "name": "p", "uid": "u-1"});
    let patched = objects.merge("s/status", &json!({"status": {"reservedFor": [reserved]}}));
    assert_eq!(patched["status"]["reservedFor"][0]["name"], "p");
    let again = objects.merge("s/status", &json!({"status": {"reservedFor": null, "allocation": null}}));
    assert!(again["status"]["allocation"].is_null(), "{again}");
    objects.delete("s");
    objects.until_gone("s");
}

#[test]
fn resource_claim_templates() {
    let ns = Namespace::new("dratpl");
    let objects = ns.objects("resource.k8s.io/v1", "resourceclaimtemplates");
    let make = |n: &str| json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaimTemplate", "metadata": {"name": n}, "spec": {"spec": claim_spec()}});
    let label = format!("of={}", ns.name);
    lifecycle(&Kind { objects, label: &label, make: &make, change: None }, "t");
}

#[test]
fn resource_slices() {
    let ns = Namespace::new("drasl");
    let objects = ns.cluster_objects("resource.k8s.io/v1", "resourceslices");
    let make = |n: &str| {
        json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": n}, "spec": {
            "driver": DRIVER, "nodeName": "some-node", "pool": {"name": "p", "resourceSliceCount": 1, "generation": 1},
            "devices": [{"name": "d0", "attributes": {"model": {"string": "x"}}, "capacity": {"memory": {"value": "1Gi"}}}]}})
    };
    let change = |v: &mut Value| v["spec"]["devices"] = json!([{"name": "d1"}]);
    let changed = |v: &Value| v["spec"]["devices"][0]["name"] == "d1";
    let label = format!("of={}", ns.name);
    lifecycle(&Kind { objects, label: &label, make: &make, change: Some((&change, &changed)) }, &ns.name);
}
