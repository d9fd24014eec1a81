//! What goes when its owner or its namespace goes, and what stays.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use caravel_tests::Namespace;
use serde_json::{Value, json};

/// A template of Pods that no node can take, so that deletion is the API's and the collector's alone.
fn template(label: &str) -> Value {
    json!({"metadata": {"labels": {"set": label}}, "spec": {"nodeSelector": {"no-such": "node"},
        "terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "test/busybox:1"}]}})
}

fn rc(name: &str, replicas: u32) -> Value {
    json!({"metadata": {"name": name}, "spec": {"replicas": replicas, "selector": {"set": name}, "template": template(name)}})
}

/// The objects of a kind with the label `set`.
fn set(ns: &Namespace, kind: &str, label: &str) -> Vec<Value> {
    let path = ns.wire().collection(&ns.name, kind).unwrap();
    ns.wire().get(&format!("{path}?labelSelector=set%3D{label}")).1["items"].as_array().unwrap().clone()
}

fn until_count(ns: &Namespace, kind: &str, label: &str, count: usize) -> Vec<Value> {
    ns.eventually(&format!("{count} {kind} of {label}"), || match set(ns, kind, label) {
        all if all.len() == count => Ok(all),
        all => Err(format!("there are {}", all.len())),
    })
}

fn delete(ns: &Namespace, what: &str, propagation: &str) {
    let (code, said) = ns.wire().delete_with(&ns.path(what), &json!({"propagationPolicy": propagation}));
    assert!(code == 200 || code == 202, "{code} {said}");
}

/// Waits until the collector has taken in everything that was done before: an object whose owner never was is collected.
fn collector_is_current(ns: &Namespace) {
    let marker = json!({"metadata": {"generateName": "marker-", "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap",
        "name": "never", "uid": "11111111-2222-3333-4444-555555555555"}]}});
    let made = ns.make("configmaps", &marker);
    ns.until_gone(&format!("configmap/{}", made["metadata"]["name"].as_str().unwrap()));
}

#[test]
fn background_takes_the_pods_of_a_controller() {
    let ns = Namespace::new("gc-rc");
    ns.make("rc", &rc("a", 2));
    until_count(&ns, "pods", "a", 2);
    delete(&ns, "rc/a", "Background");
    ns.until_gone("rc/a");
    until_count(&ns, "pods", "a", 0);
}

#[test]
fn orphans_stay_when_told_so() {
    let ns = Namespace::new("gc-orphan");
    ns.make("rc", &rc("a", 10));
    until_count(&ns, "pods", "a", 10);
    delete(&ns, "rc/a", "Orphan");
    ns.until_gone("rc/a");
    collector_is_current(&ns);
    let left = until_count(&ns, "pods", "a", 10);
    for pod in left {
        assert!(
            pod["metadata"].get("ownerReferences").is_none() && pod["metadata"].get("deletionTimestamp").is_none(),
            "{pod}"
        );
    }
}

fn deployment(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"set": name}}, "spec": {"replicas": 2,
        "selector": {"matchLabels": {"set": name}}, "template": template(name)}})
}

#[test]
fn background_takes_a_deployment_with_all_below() {
    let ns = Namespace::new("gc-deployment");
    ns.make("deployments", &deployment("d"));
    until_count(&ns, "rs", "d", 1);
    until_count(&ns, "pods", "d", 2);
    delete(&ns, "deployment/d", "Background");
    until_count(&ns, "rs", "d", 0);
    until_count(&ns, "pods", "d", 0);
}

#[test]
fn a_replica_set_can_outlive_its_deployment() {
    let ns = Namespace::new("gc-rs");
    ns.make("deployments", &deployment("d"));
    until_count(&ns, "rs", "d", 1);
    until_count(&ns, "pods", "d", 2);
    delete(&ns, "deployment/d", "Orphan");
    ns.until_gone("deployment/d");
    collector_is_current(&ns);
    let left = until_count(&ns, "rs", "d", 1);
    assert!(left[0]["metadata"].get("ownerReferences").is_none(), "{}", left[0]);
    for pod in until_count(&ns, "pods", "d", 2) {
        assert_eq!(pod["metadata"]["ownerReferences"][0]["uid"], left[0]["metadata"]["uid"]);
    }
}

#[test]
fn foreground_keeps_the_owner_until_the_last_dependent() {
    let ns = Namespace::new("gc-foreground");
    ns.make("rc", &rc("a", 10));
    let pods = until_count(&ns, "pods", "a", 10);
    let held = format!("pod/{}", pods[3]["metadata"]["name"].as_str().unwrap());
    let hold = |finalizers: Value| {
        let (code, said) = ns.wire().merge(&ns.path(&held), &json!({"metadata": {"finalizers": finalizers}}));
        assert_eq!(code, 200, "{said}");
    };
    hold(json!(["example.com/hold"]));
    delete(&ns, "rc/a", "Foreground");
    ns.until_that(&held, |pod| pod["metadata"]["deletionTimestamp"].is_string());
    until_count(&ns, "pods", "a", 1);
    collector_is_current(&ns);
    let owner = ns.get("rc/a");
    assert_eq!(owner["metadata"]["finalizers"], json!(["foregroundDeletion"]), "{owner}");
    assert!(owner["metadata"]["deletionTimestamp"].is_string());
    hold(json!([]));
    until_count(&ns, "pods", "a", 0);
    ns.until_gone("rc/a");
}

#[test]
fn a_dependent_with_another_valid_owner_stays() {
    let ns = Namespace::new("gc-owners");
    ns.make("rc", &rc("going", 10));
    let staying = ns.make("rc", &rc("staying", 0));
    let pods = until_count(&ns, "pods", "going", 10);
    for pod in &pods[..5] {
        let path = ns.path(&format!("pod/{}", pod["metadata"]["name"].as_str().unwrap()));
        let owner = json!({"apiVersion": "v1", "kind": "ReplicationController", "name": "staying", "uid": staying["metadata"]["uid"]});
        let (code, said) = ns.wire().strategic(&path, &json!({"metadata": {"ownerReferences": [owner]}}));
        assert_eq!((code, said["metadata"]["ownerReferences"].as_array().unwrap().len()), (200, 2), "{said}");
    }
    delete(&ns, "rc/going", "Foreground");
    ns.until_gone("rc/going");
    collector_is_current(&ns);
    for pod in until_count(&ns, "pods", "going", 5) {
        assert!(pod["metadata"].get("deletionTimestamp").is_none(), "{pod}");
        let owners = pod["metadata"]["ownerReferences"].as_array().unwrap();
        assert_eq!((owners.len(), &owners[0]["name"]), (1, &json!("staying")), "{pod}");
    }
}

#[test]
fn a_circle_of_owners_is_collected() {
    let ns = Namespace::new("gc-circle");
    let pods: Vec<Value> = (1..=3)
        .map(|i| {
            let mut pod = template("circle");
            pod["metadata"]["name"] = json!(format!("pod{i}"));
            ns.make("pods", &pod)
        })
        .collect();
    for i in 0..3 {
        let owner = &pods[(i + 2) % 3]["metadata"];
        let patch = json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": owner["name"],
            "uid": owner["uid"], "controller": true, "blockOwnerDeletion": true}]}});
        assert_eq!(ns.wire().merge(&ns.path(&format!("pod/pod{}", i + 1)), &patch).0, 200);
    }
    delete(&ns, "pod/pod1", "Foreground");
    until_count(&ns, "pods", "circle", 0);
}

/// Custom resources are owners and dependents like all others.
#[test]
fn custom_resources_take_part() {
    let ns = Namespace::new("gc-custom");
    let plural = format!("things{}", std::process::id());
    let group = format!("{}.example.com", ns.name);
    let crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let crd = json!({"metadata": {"name": format!("{plural}.{group}")}, "spec": {"group": group, "scope": "Namespaced",
        "names": {"plural": plural, "singular": plural, "kind": "Thing", "listKind": "ThingList"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
    assert_eq!(ns.wire().post(crds, &crd).0, 201);
    let path = format!("/apis/{group}/v1/namespaces/{}/{plural}", ns.name);
    let thing = |name: &str| json!({"apiVersion": format!("{group}/v1"), "kind": "Thing", "metadata": {"name": name}});
    let owner = ns.eventually("the owner", || match ns.wire().post(&path, &thing("owner")) {
        (201, made) => Ok(made),
        (code, said) => Err(format!("{code} {said}")),
    });
    let mut dependent = thing("dependent");
    dependent["metadata"]["ownerReferences"] = json!([{"apiVersion": format!("{group}/v1"), "kind": "Thing", "name": "owner",
        "uid": owner["metadata"]["uid"]}]);
    assert_eq!(ns.wire().post(&path, &dependent).0, 201);
    assert_eq!(ns.wire().delete(&format!("{path}/owner")).0, 200);
    ns.eventually("the dependent gone", || match ns.wire().get(&format!("{path}/dependent")).0 {
        404 => Ok(()),
        code => Err(format!("{code}")),
    });
    ns.wire().delete(&format!("{crds}/{plural}.{group}"));
}

/// A namespace's path, and what it is now.
fn itself(ns: &Namespace) -> String {
    format!("/api/v1/namespaces/{}", ns.name)
}

fn until_ended(ns: &Namespace) {
    ns.eventually("the namespace is gone", || match ns.wire().get(&itself(ns)) {
        (404, _) => Ok(()),
        (code, now) => Err(format!("{code} {now}")),
    });
}

#[test]
fn a_namespace_takes_its_pods() {
    let ns = Namespace::new("ns-pods");
    let mut pod = template("x");
    pod["metadata"]["name"] = json!("p");
    pod["spec"]["nodeSelector"] = json!({});
    pod["spec"]["containers"][0]["command"] = json!(["sleep", "3600"]);
    ns.make("pods", &pod);
    ns.until("pod/p", "{.status.phase}", "Running");
    assert_eq!(ns.wire().delete(&itself(&ns)).0, 200);
    until_ended(&ns);
    assert_eq!(ns.wire().post("/api/v1/namespaces", &json!({"metadata": {"name": ns.name}})).0, 201);
    assert_eq!(set(&ns, "pods", "x").len(), 0);
}

#[test]
fn a_namespace_takes_its_services() {
    let ns = Namespace::new("ns-services");
    ns.make("services", &json!({"metadata": {"name": "s", "labels": {"set": "s"}}, "spec": {"ports": [{"port": 80}]}}));
    assert_eq!(ns.wire().delete(&itself(&ns)).0, 200);
    until_ended(&ns);
    assert_eq!(ns.wire().post("/api/v1/namespaces", &json!({"metadata": {"name": ns.name}})).0, 201);
    assert_eq!(set(&ns, "services", "s").len(), 0);
}

#[test]
fn pods_go_before_all_else_in_a_namespace() {
    let ns = Namespace::new("ns-order");
    let mut pod = template("x");
    pod["metadata"]["name"] = json!("p");
    pod["metadata"]["finalizers"] = json!(["example.com/hold"]);
    ns.make("pods", &pod);
    ns.make("configmaps", &json!({"metadata": {"name": "m"}}));
    assert_eq!(ns.wire().delete(&itself(&ns)).0, 200);
    ns.until_that("pod/p", |p| p["metadata"]["deletionTimestamp"].is_string());
    let condition = |now: &Value, type_: &str| -> Value {
        let all = now["status"]["conditions"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|c| c["type"] == type_).unwrap_or_default()
    };
    ns.eventually("the conditions that tell why", || {
        let (_, now) = ns.wire().get(&itself(&ns));
        let told = condition(&now, "NamespaceFinalizersRemaining")["message"].as_str().unwrap_or_default().to_owned();
        match told.contains("example.com/hold in 1 resource instances") && now["status"]["phase"] == "Terminating" {
            true => Ok(()),
            false => Err(now.to_string()),
        }
    });
    let map = ns.get("configmap/m");
    assert!(map["metadata"].get("deletionTimestamp").is_none(), "{map}");
    let (code, said) =
        ns.wire().post(&ns.wire().collection(&ns.name, "configmaps").unwrap(), &json!({"metadata": {"name": "late"}}));
    assert_eq!((code, &said["details"]["causes"][0]["reason"]), (403, &json!("NamespaceTerminating")), "{said}");
    assert_eq!(ns.wire().merge(&ns.path("pod/p"), &json!({"metadata": {"finalizers": []}})).0, 200);
    until_ended(&ns);
}

#[test]
fn namespaces_are_patched_and_updated() {
    let ns = Namespace::new("ns-patch");
    let path = itself(&ns);
    let (code, said) = ns.wire().strategic(&path, &json!({"metadata": {"labels": {"testLabel": "testValue"}}}));
    assert_eq!((code, &said["metadata"]["labels"]["testLabel"]), (200, &json!("testValue")), "{said}");
    assert_eq!(ns.wire().get(&path).1["metadata"]["labels"]["testLabel"], "testValue");
    ns.eventually("PUT", || {
        let (_, mut now) = ns.wire().get(&path);
        now["metadata"]["labels"]["updated"] = json!("yes");
        match ns.wire().put(&path, &now) {
            (200, after) if after["metadata"]["labels"]["updated"] == "yes" => Ok(()),
            (code, said) => Err(format!("{code} {said}")),
        }
    });
    assert_eq!(ns.wire().get(&path).1["metadata"]["labels"]["kubernetes.io/metadata.name"], json!(ns.name));
}

#[test]
fn the_status_of_a_namespace_has_a_door() {
    let ns = Namespace::new("ns-status");
    let path = format!("{}/status", itself(&ns));
    let (code, now) = ns.wire().get(&path);
    assert_eq!((code, &now["status"]["phase"]), (200, &json!("Active")), "{now}");
    let condition = |type_: &str| json!({"type": type_, "status": "True", "reason": "Test", "message": "set by a test", "lastTransitionTime": null});
    let patch =
        json!({"metadata": {"annotations": {"patched": "yes"}}, "status": {"conditions": [condition("StatusPatch")]}});
    let (code, said) = ns.wire().merge(&path, &patch);
    assert_eq!((code, &said["metadata"]["annotations"]["patched"]), (200, &json!("yes")), "{said}");
    assert_eq!(said["status"]["conditions"][0]["reason"], "Test");
    assert_eq!(said["status"]["phase"], "Active");
    let (_, mut now) = ns.wire().get(&path);
    now["status"]["conditions"].as_array_mut().unwrap().push(condition("StatusUpdate"));
    let (code, said) = ns.wire().put(&path, &now);
    assert_eq!((code, &said["status"]["conditions"][1]["type"]), (200, &json!("StatusUpdate")), "{said}");
}

#[test]
fn finalizers_of_a_namespace_are_put_and_removed() {
    let ns = Namespace::new("ns-finalizer");
    let path = itself(&ns);
    let change = |edit: &dyn Fn(&mut Vec<Value>)| {
        let (_, mut now) = ns.wire().get(&path);
        edit(now["spec"]["finalizers"].as_array_mut().unwrap());
        let (code, said) = ns.wire().put(&format!("{path}/finalize"), &now);
        assert_eq!(code, 200, "{said}");
        said["spec"]["finalizers"].clone()
    };
    let fake = json!("e2e.example.com/fakeFinalizer");
    assert_eq!(change(&|all| all.push(fake.clone())), json!(["kubernetes", "e2e.example.com/fakeFinalizer"]));
    assert_eq!(ns.wire().get(&path).1["spec"]["finalizers"][1], fake);
    // The main door does not touch them.
    let (code, said) = ns.wire().merge(&path, &json!({"spec": {"finalizers": []}}));
    assert_eq!((code, said["spec"]["finalizers"].as_array().unwrap().len()), (200, 2), "{said}");
    assert_eq!(change(&|all| all.retain(|f| *f != fake)), json!(["kubernetes"]));
}
