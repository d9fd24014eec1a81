//! Dynamic resource allocation from end to end: a driver tells of its devices and registers with the node, the scheduler picks, the node
//! has it prepared, the container finds what it was given, and all of it is given back.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use caravel_tests::driver::Driver;
use caravel_tests::{Namespace, OwnCluster, cluster_dir, program};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Command;

const V1: &str = "resource.k8s.io/v1";

struct World {
    ns: Namespace,
    dir: PathBuf,
    /// Of the driver, and of the class of its devices.
    name: String,
}

impl World {
    fn new(ns: Namespace, dir: PathBuf) -> World {
        let name = format!("{}.example.com", ns.name);
        World { ns, dir, name }
    }

    fn driver(&self) -> Driver {
        let driver = Driver::start(self.ns.another_handle(), &self.dir, &self.name);
        self.ns.eventually("the driver is registered", || match driver.told().first().map(String::as_str) {
            Some("registered") => Ok(()),
            other => Err(format!("{other:?}")),
        });
        driver
    }

    /// A class of the driver's devices, a slice with some, and a template of a claim for one of them.
    fn offer(&self, devices: Value) {
        let selector = format!("device.driver == '{}'", self.name);
        self.ns.cluster_objects(V1, "deviceclasses").create(&json!({"apiVersion": V1, "kind": "DeviceClass",
            "metadata": {"name": self.name}, "spec": {"selectors": [{"cel": {"expression": selector}}]}}));
        let node = self.ns.wire().get("/api/v1/nodes").1["items"][0]["metadata"]["name"].clone();
        self.ns.cluster_objects(V1, "resourceslices").create(&json!({"apiVersion": V1, "kind": "ResourceSlice",
            "metadata": {"name": self.name}, "spec": {"driver": self.name, "nodeName": node, "devices": devices,
                "pool": {"name": "pool", "generation": 1, "resourceSliceCount": 1}}}));
        self.ns
            .objects(V1, "resourceclaimtemplates")
            .create(&json!({"apiVersion": V1, "kind": "ResourceClaimTemplate",
            "metadata": {"name": "one"}, "spec": {"spec": self.wants(json!([]))}}));
    }

    fn wants(&self, selectors: Value) -> Value {
        json!({"devices": {"requests": [{"name": "gpu", "exactly": {"deviceClassName": self.name, "selectors": selectors}}]}})
    }

    /// A Pod that says which device it has, and runs until it finds `/tmp/end`.
    fn pod(&self, name: &str, claim: Value) {
        let script = "echo has $DEVICE_gpu; until [ -e /tmp/end ]; do sleep 0.1; done";
        let mut entry = json!({"name": "dev"});
        entry.as_object_mut().unwrap().extend(claim.as_object().unwrap().clone());
        self.ns.make(
            "pods",
            &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "resourceClaims": [entry],
            "containers": [{"name": "c", "image": "test/busybox:1", "command": ["sh", "-c", script],
                "resources": {"claims": [{"name": "dev"}]}}]}}),
        );
    }

    /// A Pod without claims that asks for so many of a resource, says which devices it has, and runs until it finds `/tmp/end`.
    fn asks(&self, name: &str, resource: &str, count: u32) {
        let script = "echo has $(env | sed -n s/^HAS_.*=//p | sort); until [ -e /tmp/end ]; do sleep 0.1; done";
        let amount = json!({resource: count.to_string()});
        self.ns.make(
            "pods",
            &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": "test/busybox:1", "command": ["sh", "-c", script],
                "resources": {"requests": amount, "limits": amount}}]}}),
        );
    }

    /// Tells of conditions of the device of a claim, as a driver does.
    fn tell(&self, claim: &str, device: &str, condition: &str) {
        let told = json!({"status": {"devices": [{"driver": self.name, "pool": "pool", "device": device, "conditions": [
            {"type": condition, "status": "True", "reason": "Cable", "message": "as the test says",
             "lastTransitionTime": "2026-01-01T00:00:00Z"}]}]}});
        self.ns.objects(V1, "resourceclaims").merge(&format!("{claim}/status"), &told);
    }

    /// Waits for an event about a Pod.
    fn hears(&self, pod: &str, reason: &str, note: &str) {
        let about = |e: &Value| {
            e["regarding"]["name"] == pod
                && e["reason"] == reason
                && e["note"].as_str().is_some_and(|n| n.contains(note))
        };
        let events = self.ns.objects("events.k8s.io/v1", "events");
        events.until_all("", &format!("an event {reason} of {pod}"), |all| all.iter().any(about).then_some(()));
    }

    fn runs_with(&self, pod: &str, device: &str) {
        self.ns.until(&format!("pod/{pod}"), "{.status.phase}", "Running");
        self.ns.eventually(&format!("{pod} has {device}"), || {
            let log = self.ns.log(pod, "c")?;
            if log.trim() == format!("has {device}") { Ok(()) } else { Err(log) }
        });
    }

    fn waits(&self, pod: &str, why: &str) {
        self.ns.until_that(&format!("pod/{pod}"), |p| {
            let conditions = p["status"]["conditions"].as_array().cloned().unwrap_or_default();
            conditions
                .iter()
                .any(|c| c["type"] == "PodScheduled" && c["message"].as_str().is_some_and(|m| m.contains(why)))
        });
    }

    fn claim_of(&self, pod: &str) -> String {
        let found = self.ns.until_that(&format!("pod/{pod}"), |p| {
            p["status"]["resourceClaimStatuses"][0]["resourceClaimName"].is_string()
        });
        found["status"]["resourceClaimStatuses"][0]["resourceClaimName"].as_str().unwrap().to_owned()
    }

    fn gone(&self) {
        self.ns.cluster_objects(V1, "deviceclasses").delete(&self.name);
        self.ns.cluster_objects(V1, "resourceslices").delete(&self.name);
    }
}

#[test]
fn a_device_goes_from_pod_to_pod() {
    let w = World::new(Namespace::new("dra"), cluster_dir());
    let driver = w.driver();
    w.offer(json!([{"name": "d0", "attributes": {"model": {"string": "A"}}}]));
    let template = json!({"resourceClaimTemplateName": "one"});
    w.pod("first", template.clone());
    w.runs_with("first", "d0");
    let first = w.claim_of("first");
    let claims = w.ns.objects(V1, "resourceclaims");
    let claim = claims.get(&first);
    assert_eq!(claim["metadata"]["annotations"]["resource.kubernetes.io/pod-claim-name"], "dev");
    assert_eq!(claim["metadata"]["finalizers"], json!(["resource.kubernetes.io/delete-protection"]));
    assert_eq!(claim["status"]["reservedFor"][0]["name"], "first");
    assert_eq!(claim["status"]["allocation"]["devices"]["results"][0]["device"], "d0");

    // There is no other device.
    w.pod("second", template);
    w.waits("second", "cannot allocate all claims");
    w.waits("second", "still not schedulable, preemption: ");
    let why = Command::new(program())
        .args(["why", "pod/second", "-n", &w.ns.name, "--kubeconfig"])
        .arg(w.dir.join("kubeconfig"))
        .output()
        .unwrap();
    let why = String::from_utf8_lossy(&why.stdout).into_owned();
    assert!(why.contains("it waits for devices"), "{why}");

    // The first ends; what it had is given back, and its claim goes.
    w.ns.ok(&["exec", "first", "--", "touch", "/tmp/end"]);
    w.ns.until("pod/first", "{.status.phase}", "Succeeded");
    claims.until_gone(&first);
    w.runs_with("second", "d0");
    let told = driver.told();
    let at = |what: String| told.iter().position(|t| *t == what).unwrap_or_else(|| panic!("no {what} in {told:?}"));
    let second = w.claim_of("second");
    assert!(at(format!("prepare {first}")) < at(format!("unprepare {first}")), "{told:?}");
    at(format!("prepare {second}"));

    // A claim of the user's own outlives its Pods, without devices.
    claims.create(&json!({"apiVersion": V1, "kind": "ResourceClaim", "metadata": {"name": "kept"},
        "spec": w.wants(json!([{"cel": {"expression": format!("device.attributes['{}'].model == 'A'", w.name)}}]))}));
    w.pod("third", json!({"resourceClaimName": "kept"}));
    w.waits("third", "cannot allocate all claims");
    w.ns.ok(&["delete", "pod", "second"]);
    w.runs_with("third", "d0");
    w.ns.ok(&["delete", "pod", "third"]);
    claims.until("kept", "it has no devices any more", |c| {
        c["status"]["allocation"].is_null()
            && c["status"]["reservedFor"].is_null()
            && c["metadata"]["finalizers"].is_null()
    });
    w.ns.eventually("all is given back to the driver", || {
        let told = driver.told();
        let count = |what: &str| told.iter().filter(|t| t.starts_with(what)).count();
        if count("prepare") == 3 && count("unprepare") == 3 { Ok(()) } else { Err(format!("{told:?}")) }
    });
    w.gone();
}

#[test]
fn what_a_claim_may_not_say() {
    let ns = Namespace::new("dra-bad");
    let claims = ns.objects(V1, "resourceclaims");
    let claim = |exactly: Value| {
        json!({"apiVersion": V1, "kind": "ResourceClaim", "metadata": {"name": "c"},
        "spec": {"devices": {"requests": [{"name": "r", "exactly": exactly}]}}})
    };
    let refused = |exactly: Value, why: &str| {
        let (code, said) = claims.try_create(&claim(exactly));
        assert_eq!(code, 422, "{why}: {said}");
        assert!(said["message"].as_str().unwrap().contains(why), "{why}: {said}");
    };
    refused(
        json!({"deviceClassName": "x", "selectors": [{"cel": {"expression": "device.none == 1"}}]}),
        "undefined field 'none'",
    );
    refused(json!({"deviceClassName": "x", "adminAccess": true}), "resource.kubernetes.io/admin-access: true");
    ns.ok(&["label", "namespace", &ns.name, "resource.kubernetes.io/admin-access=true"]);
    claims.create(&claim(json!({"deviceClassName": "x", "adminAccess": true})));
    let other = json!({"spec": {"devices": {"requests": []}}});
    let (code, said) = claims.send("PATCH", "c", "application/merge-patch+json", Some(&other));
    assert_eq!(code, 422, "{said}");
}

#[test]
fn prepared_devices_survive_a_crash_of_the_node() {
    let cluster = OwnCluster::up();
    let w = World::new(cluster.namespace("dra"), cluster.dir.clone());
    let driver = w.driver();
    w.offer(json!([{"name": "d0"}]));
    w.pod("p", json!({"resourceClaimTemplateName": "one"}));
    w.runs_with("p", "d0");
    let claim = w.claim_of("p");
    cluster.kill();
    cluster.ok(&["up", "--detach"]);
    w.ns.eventually("the driver is registered once more", || {
        let told = driver.told();
        if told.iter().filter(|t| *t == "registered").count() == 2 { Ok(()) } else { Err(format!("{told:?}")) }
    });
    w.ns.ok(&["exec", "p", "--", "touch", "/tmp/end"]);
    w.ns.eventually("what was prepared before is given back", || {
        let told = driver.told();
        if told.contains(&format!("unprepare {claim}")) { Ok(()) } else { Err(format!("{told:?}")) }
    });
    w.ns.objects(V1, "resourceclaims").until_gone(&claim);
}

#[test]
fn devices_stand_in_for_extended_resources() {
    let w = World::new(Namespace::new("dra-ext"), cluster_dir());
    let driver = w.driver();
    w.offer(json!([{"name": "d0"}, {"name": "d1"}]));
    let resource = format!("{}/gpu", w.name);
    w.ns.cluster_objects(V1, "deviceclasses").merge(&w.name, &json!({"spec": {"extendedResourceName": resource}}));
    w.asks("first", &resource, 1);
    w.runs_with("first", "d0");
    let pod = w.ns.get("pod/first");
    let status = &pod["status"]["extendedResourceClaimStatus"];
    let mapping = json!({"containerName": "c", "resourceName": resource, "requestName": "container-0-request-0"});
    assert_eq!(status["requestMappings"], json!([mapping]));
    let first = status["resourceClaimName"].as_str().unwrap().to_owned();
    assert!(first.starts_with("first-extended-resources-"), "{first}");
    let claims = w.ns.objects(V1, "resourceclaims");
    let claim = claims.get(&first);
    assert_eq!(claim["metadata"]["annotations"]["resource.kubernetes.io/extended-resource-claim"], "true");
    assert_eq!(claim["metadata"]["ownerReferences"][0]["uid"], pod["metadata"]["uid"]);
    assert_eq!(claim["status"]["reservedFor"][0]["uid"], pod["metadata"]["uid"]);
    let request = json!({"name": "container-0-request-0",
        "exactly": {"deviceClassName": w.name, "allocationMode": "ExactCount", "count": 1}});
    assert_eq!(claim["spec"]["devices"]["requests"], json!([request]));

    // Another asks for more than is left, by the name of the class.
    w.asks("second", &format!("deviceclass.resource.kubernetes.io/{}", w.name), 2);
    w.waits("second", "cannot allocate all claims");
    assert_eq!(w.ns.get("pod/second")["status"]["extendedResourceClaimStatus"], Value::Null);
    w.ns.ok(&["exec", "first", "--", "touch", "/tmp/end"]);
    w.ns.until("pod/first", "{.status.phase}", "Succeeded");
    claims.until_gone(&first);
    w.runs_with("second", "d0 d1");
    let second = w.ns.field("pod/second", "{.status.extendedResourceClaimStatus.resourceClaimName}");
    w.ns.ok(&["delete", "pod", "second"]);
    claims.until_gone(&second);
    w.ns.eventually("all is given back to the driver", || {
        let told = driver.told();
        let all = [&first, &second].iter().all(|c| told.contains(&format!("unprepare {c}")));
        if all { Ok(()) } else { Err(format!("{told:?}")) }
    });
    w.gone();
}

#[test]
fn a_pod_waits_until_its_device_is_ready_for_the_node() {
    let w = World::new(Namespace::new("dra-wait"), cluster_dir());
    let _driver = w.driver();
    w.offer(json!([{"name": "d0", "bindsToNode": true,
        "bindingConditions": ["example.com/attached"], "bindingFailureConditions": ["example.com/broken"]}]));
    w.pod("p", json!({"resourceClaimTemplateName": "one"}));
    let name = w.claim_of("p");
    let claims = w.ns.objects(V1, "resourceclaims");
    let has_devices = |c: &Value| !c["status"]["allocation"].is_null() && c["status"]["devices"].is_null();
    let claim = claims.until(&name, "it has a device", has_devices);
    let allocation = &claim["status"]["allocation"];
    assert_eq!(allocation["devices"]["results"][0]["bindingConditions"], json!(["example.com/attached"]));
    assert_eq!(allocation["devices"]["results"][0]["bindingFailureConditions"], json!(["example.com/broken"]));
    assert!(allocation["allocationTimestamp"].is_string(), "{allocation}");
    assert_eq!(allocation["nodeSelector"]["nodeSelectorTerms"][0]["matchFields"][0]["key"], "metadata.name");
    w.hears("p", "BindingConditionsPending", "waiting for binding conditions for device on node");
    assert_eq!(w.ns.get("pod/p")["spec"]["nodeName"], Value::Null, "nobody said that the device is ready");

    // It cannot be had: the claim gives it back, and another attempt is made.
    w.tell(&name, "d0", "example.com/broken");
    w.hears("p", "FailedScheduling", "binding failed: reason=Cable, message=\"as the test says\"");
    claims.until(&name, "it has a device once more", has_devices);
    assert_eq!(w.ns.get("pod/p")["spec"]["nodeName"], Value::Null, "nobody said that the device is ready");
    w.tell(&name, "d0", "example.com/attached");
    w.runs_with("p", "d0");
    w.ns.ok(&["delete", "pod", "p"]);
    claims.until_gone(&name);
    w.gone();
}

#[test]
fn pods_leave_devices_that_they_must_not_have() {
    let w = World::new(Namespace::new("dra-taint"), cluster_dir());
    let _driver = w.driver();
    w.offer(json!([{"name": "d0"}, {"name": "d1"}]));
    w.pod("goes", json!({"resourceClaimTemplateName": "one"}));
    w.runs_with("goes", "d0");
    let claims = w.ns.objects(V1, "resourceclaims");
    let mut wants = w.wants(json!([]));
    wants["devices"]["requests"][0]["exactly"]["tolerations"] =
        json!([{"key": "example.com/broken", "operator": "Exists", "effect": "NoExecute"}]);
    claims.create(&json!({"apiVersion": V1, "kind": "ResourceClaim", "metadata": {"name": "patient"}, "spec": wants}));
    w.pod("stays", json!({"resourceClaimName": "patient"}));
    w.runs_with("stays", "d1");
    // Held, so that what is written into its status can be read.
    let pods = w.ns.objects("v1", "pods");
    pods.merge("goes", &json!({"metadata": {"finalizers": ["example.com/held"]}}));
    w.ns.cluster_objects(V1, "resourceslices").update(&w.name, |slice| {
        for device in slice["spec"]["devices"].as_array_mut().unwrap() {
            device["taints"] = json!([{"key": "example.com/broken", "effect": "NoExecute"}]);
        }
    });
    let goes = pods.until("goes", "it is told to go", |p| p["metadata"]["deletionTimestamp"].is_string());
    let conditions = goes["status"]["conditions"].as_array().unwrap();
    let disrupted = conditions.iter().find(|c| c["type"] == "DisruptionTarget").unwrap();
    assert_eq!((&disrupted["status"], &disrupted["reason"]), (&json!("True"), &json!("DeletionByDeviceTaintManager")));
    w.hears("goes", "DeviceTaintManagerEviction", "Marking for deletion");
    pods.merge("goes", &json!({"metadata": {"finalizers": null}}));
    pods.until_gone("goes");

    w.pod("next", json!({"resourceClaimTemplateName": "one"}));
    w.waits("next", "cannot allocate all claims");
    assert_eq!(w.ns.get("pod/stays")["metadata"]["deletionTimestamp"], Value::Null);
    w.ns.ok(&["delete", "pod", "stays", "next"]);
    w.gone();
}
