//! Kinds that are only data to the API: each is discovered, and can be created, read, listed, watched, patched, updated,
//! deleted one by one and as a collection, with its status where it has one.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use caravel_tests::{Namespace, Wire};
use serde_json::{Value, json};

/// What is asked of a kind.
struct Kind {
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    kind: &'static str,
    namespaced: bool,
    /// Without its name.
    object: Value,
    /// A change of the spec that a patch and an update may make, if there is any.
    change: Option<Value>,
    /// A merge patch of its status.
    status: Option<Value>,
}

fn discovered(wire: &Wire, kind: &Kind) {
    let (group, version) = (kind.group, kind.version);
    let gv = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let place = if group.is_empty() {
        assert!(wire.get("/api").1["versions"].as_array().unwrap().contains(&json!(version)));
        format!("/api/{version}")
    } else {
        let (_, groups) = wire.get("/apis");
        let has = |holder: &Value| {
            holder["versions"].as_array().unwrap().iter().any(|v| v["groupVersion"] == gv && v["version"] == version)
        };
        let found = groups["groups"].as_array().unwrap().iter().find(|g| g["name"] == group).unwrap().clone();
        assert!(has(&found), "{found}");
        let (code, one) = wire.get(&format!("/apis/{group}"));
        assert!(code == 200 && has(&one), "{one}");
        format!("/apis/{gv}")
    };
    let (code, list) = wire.get(&place);
    assert_eq!((code, &list["groupVersion"]), (200, &json!(gv)));
    let resources = list["resources"].as_array().unwrap();
    let row = resources.iter().find(|r| r["name"] == kind.plural).unwrap();
    assert_eq!((&row["kind"], &row["namespaced"]), (&json!(kind.kind), &json!(kind.namespaced)));
    for verb in ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"] {
        assert!(row["verbs"].as_array().unwrap().contains(&json!(verb)), "{verb}: {row}");
    }
    if kind.status.is_some() {
        let name = format!("{}/status", kind.plural);
        let row = resources.iter().find(|r| r["name"] == name).unwrap();
        for verb in ["get", "patch", "update"] {
            assert!(row["verbs"].as_array().unwrap().contains(&json!(verb)), "{verb}: {row}");
        }
    }
}

/// Whether all of `part` is there; others may have added to lists meanwhile.
fn has(whole: &Value, part: &Value) -> bool {
    match part {
        Value::Object(fields) => fields.iter().all(|(k, v)| has(&whole[k], v)),
        Value::Array(items) => {
            let all = whole.as_array().map(Vec::as_slice).unwrap_or_default();
            items.iter().all(|item| all.iter().any(|one| has(one, item)))
        }
        other => whole == other,
    }
}

fn contains(whole: &Value, part: &Value) {
    assert!(has(whole, part), "{part} is not all in {whole}");
}

/// Reads, changes and writes until no other writer was in between.
fn put(wire: &Wire, path: &str, change: impl Fn(&mut Value)) -> Value {
    for _ in 0..10 {
        let (_, mut object) = wire.get(path);
        change(&mut object);
        match wire.put(path, &object) {
            (200, updated) => return updated,
            (409, _) => {}
            (status, said) => panic!("PUT {path}: {status} {said}"),
        }
    }
    panic!("PUT {path}: ten conflicts in a row");
}

fn merge_into(target: &mut Value, part: &Value) {
    match part {
        Value::Object(fields) => fields.iter().for_each(|(k, v)| merge_into(&mut target[k.as_str()], v)),
        other => *target = other.clone(),
    }
}

fn supported(kind: &Kind) {
    let ns = Namespace::new("kinds");
    let wire = ns.wire();
    discovered(wire, kind);
    let root = if kind.group.is_empty() {
        format!("/api/{}", kind.version)
    } else {
        format!("/apis/{}/{}", kind.group, kind.version)
    };
    let everywhere = format!("{root}/{}", kind.plural);
    let collection =
        if kind.namespaced { format!("{root}/namespaces/{}/{}", ns.name, kind.plural) } else { everywhere.clone() };
    let query = format!("labelSelector=run%3D{}", ns.name);
    let mine = format!("{collection}?{query}");
    let all = format!("{everywhere}?{query}");
    let create = |name: Option<&str>| {
        let mut object = kind.object.clone();
        match name {
            Some(name) => object["metadata"]["name"] = json!(name),
            None => object["metadata"]["generateName"] = json!(format!("{}-", ns.name)),
        }
        object["metadata"]["labels"]["run"] = json!(ns.name);
        let (code, made) = wire.post(&collection, &object);
        assert_eq!(code, 201, "{made}");
        made
    };
    let name_of = |object: &Value| object["metadata"]["name"].as_str().unwrap().to_owned();
    let items = |path: &str| wire.get(path).1["items"].as_array().unwrap().clone();

    let first = create(Some(&format!("{}-first", ns.name)));
    let (code, twice) =
        wire.post(&collection, &json!({"metadata": {"name": name_of(&first)}, "spec": kind.object["spec"]}));
    assert!(code == 409 || code == 422, "{twice}");
    let (second, third) = (create(None), create(None));
    assert_ne!(name_of(&second), name_of(&third));
    let one = format!("{collection}/{}", name_of(&first));
    let (code, read) = wire.get(&one);
    assert_eq!((code, &read["metadata"]["uid"]), (200, &first["metadata"]["uid"]));
    contains(&read, &kind.object);
    assert_eq!((items(&mine).len(), items(&all).len()), (3, 3));

    let from = wire.get(&mine).1["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let watch = wire.watch(&format!("{collection}?{query}&watch=true&resourceVersion={from}"));
    let wide = wire.watch(&format!("{everywhere}?{query}&watch=true&resourceVersion={from}"));

    let mut patch = json!({"metadata": {"annotations": {"patched": "true"}}});
    if let Some(change) = &kind.change {
        merge_into(&mut patch, change);
    }
    let (code, patched) = wire.merge(&one, &patch);
    assert_eq!(code, 200, "{patched}");
    contains(&patched, &patch);
    let number = |o: &Value| o["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap();
    assert!(number(&patched) > number(&first));
    let (code, strategic) = wire.strategic(&one, &json!({"metadata": {"labels": {"strategic": "yes"}}}));
    assert_eq!((code, &strategic["metadata"]["labels"]["strategic"]), (200, &json!("yes")));
    let updated = put(wire, &one, |o| o["metadata"]["annotations"]["updated"] = json!("true"));
    assert_eq!(updated["metadata"]["annotations"]["updated"], "true");
    for watch in [&watch, &wide] {
        let seen = watch.until("the patch", |e| {
            e["type"] == "MODIFIED" && e["object"]["metadata"]["annotations"]["patched"] == "true"
        });
        assert_eq!(seen["object"]["kind"], kind.kind);
    }

    if let Some(status) = &kind.status {
        let door = format!("{one}/status");
        let mut patch = status.clone();
        // The status of an admission policy is written without its metadata.
        if kind.plural != "validatingadmissionpolicies" {
            patch["metadata"]["annotations"]["patchedstatus"] = json!("true");
        }
        let (code, patched) = wire.merge(&door, &patch);
        assert_eq!(code, 200, "{patched}");
        contains(&patched, &patch);
        let (code, read) = wire.get(&door);
        assert_eq!(
            (code, &read["kind"], &read["metadata"]["uid"]),
            (200, &json!(kind.kind), &first["metadata"]["uid"])
        );
        let updated = put(wire, &door, |o| merge_into(o, status));
        contains(&updated, status);
        // The status is not written through the main door, nor the spec through this one.
        let (_, spec) = wire.get(&one);
        let (code, kept) = wire.merge(&one, &json!({"status": null}));
        assert_eq!(code, 200, "{kept}");
        contains(&kept, status);
        if spec.get("spec").is_some() && kind.change.is_some() {
            let (code, kept) = wire.merge(&door, &json!({"spec": kind.object["spec"]}));
            assert_eq!((code, &kept["spec"]), (200, &spec["spec"]), "{kept}");
        }
    }

    let (code, gone) = wire.delete(&one);
    assert!(code == 200 || code == 202, "{gone}");
    watch.until("the deletion", |e| e["type"] == "DELETED" && name_of(&e["object"]) == name_of(&first));
    assert_eq!(wire.get(&one).0, 404);
    assert_eq!(items(&mine).len(), 2);
    let (code, answer) = wire.delete(&mine);
    assert_eq!(code, 200, "{answer}");
    // A controller may hold one for a moment, by its finalizer.
    ns.eventually("the collection is empty", || match items(&mine).len() {
        0 => Ok(()),
        more => Err(format!("{more} are left")),
    });
}

macro_rules! kinds {
    ($($test:ident: $group:literal, $version:literal, $plural:literal, $kind:literal, $namespaced:literal,
        $object:tt $(, change $change:tt)? $(, status $status:tt)?;)*) => {$(
        #[test]
        fn $test() {
            supported(&Kind {
                group: $group, version: $version, plural: $plural, kind: $kind, namespaced: $namespaced,
                object: json!($object),
                change: None::<Value> $(.or(Some(json!($change))))?,
                status: None::<Value> $(.or(Some(json!($status))))?,
            });
        }
    )*};
}

kinds! {
    storage_classes: "storage.k8s.io", "v1", "storageclasses", "StorageClass", false, {"provisioner": "e.example/fake"};
    volume_attributes_classes: "storage.k8s.io", "v1", "volumeattributesclasses", "VolumeAttributesClass", false, {"driverName": "e.example", "parameters": {"a": "b"}};
    csi_drivers: "storage.k8s.io", "v1", "csidrivers", "CSIDriver", false, {"spec": {"attachRequired": false, "volumeLifecycleModes": ["Ephemeral"]}};
    csi_nodes: "storage.k8s.io", "v1", "csinodes", "CSINode", false, {"spec": {"drivers": []}};
    csi_storage_capacities: "storage.k8s.io", "v1", "csistoragecapacities", "CSIStorageCapacity", true, {"storageClassName": "fast", "capacity": "1Gi"};
    volume_attachments: "storage.k8s.io", "v1", "volumeattachments", "VolumeAttachment", false, {"spec": {"attacher": "e.example", "nodeName": "n", "source": {"persistentVolumeName": "p"}}}, status {"status": {"attached": true}};
    ingresses: "networking.k8s.io", "v1", "ingresses", "Ingress", true, {"spec": {"defaultBackend": {"service": {"name": "default-backend", "port": {"number": 80}}}, "rules": [{"host": "foo.bar.com", "http": {"paths": [{"path": "/", "pathType": "ImplementationSpecific", "backend": {"service": {"name": "test-backend", "port": {"number": 8080}}}}]}}]}}, change {"spec": {"ingressClassName": "other"}}, status {"status": {"loadBalancer": {"ingress": [{"ip": "169.1.1.1"}]}}};
    ingress_classes: "networking.k8s.io", "v1", "ingressclasses", "IngressClass", false, {"spec": {"controller": "example.com/controller"}};
    service_cidrs: "networking.k8s.io", "v1", "servicecidrs", "ServiceCIDR", false, {"spec": {"cidrs": ["203.0.113.0/28"]}}, status {"status": {"conditions": [{"type": "Test", "status": "True", "reason": "Said", "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}};
    runtime_classes: "node.k8s.io", "v1", "runtimeclasses", "RuntimeClass", false, {"handler": "h"};
    pod_templates: "", "v1", "podtemplates", "PodTemplate", true, {"template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}}, change {"template": {"metadata": {"labels": {"x": "y"}}}};
    leases: "coordination.k8s.io", "v1", "leases", "Lease", true, {"spec": {"holderIdentity": "a", "leaseDurationSeconds": 30, "acquireTime": "2026-01-01T00:00:00.000000Z", "renewTime": "2026-01-01T00:00:05.000000Z", "leaseTransitions": 0}}, change {"spec": {"holderIdentity": "b", "leaseTransitions": 1}};
    flow_schemas: "flowcontrol.apiserver.k8s.io", "v1", "flowschemas", "FlowSchema", false, {"spec": {"matchingPrecedence": 10000, "priorityLevelConfiguration": {"name": "global-default"}, "distinguisherMethod": {"type": "ByUser"}, "rules": [{"subjects": [{"kind": "User", "user": {"name": "nobody-of-this-name"}}], "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}]}}, change {"spec": {"matchingPrecedence": 9999}}, status {"status": {"conditions": [{"type": "Test", "status": "False", "reason": "Said", "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}};
    priority_level_configurations: "flowcontrol.apiserver.k8s.io", "v1", "prioritylevelconfigurations", "PriorityLevelConfiguration", false, {"spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 2, "limitResponse": {"type": "Reject"}}}}, change {"spec": {"limited": {"nominalConcurrencyShares": 4}}}, status {"status": {"conditions": [{"type": "Test", "status": "False", "reason": "Said", "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}};
    validating_admission_policies: "admissionregistration.k8s.io", "v1", "validatingadmissionpolicies", "ValidatingAdmissionPolicy", false, {"spec": {"validations": [{"expression": "object.spec.replicas <= 100"}], "matchConstraints": {"resourceRules": [{"operations": ["CREATE"], "apiGroups": ["none.example.com"], "apiVersions": ["v1"], "resources": ["deployments"]}]}}}, change {"spec": {"failurePolicy": "Ignore"}}, status {"status": {"conditions": [{"type": "Test", "status": "True", "reason": "Said", "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}};
    validating_admission_policy_bindings: "admissionregistration.k8s.io", "v1", "validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding", false, {"spec": {"policyName": "none.example.com", "validationActions": ["Deny"]}}, change {"spec": {"policyName": "other.example.com"}};
    mutating_admission_policies: "admissionregistration.k8s.io", "v1", "mutatingadmissionpolicies", "MutatingAdmissionPolicy", false, {"spec": {"reinvocationPolicy": "Never", "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "Object{metadata: Object.metadata{annotations: {\"a\": \"b\"}}}"}}], "matchConstraints": {"resourceRules": [{"operations": ["CREATE"], "apiGroups": ["none.example.com"], "apiVersions": ["v1"], "resources": ["deployments"]}]}}}, change {"spec": {"failurePolicy": "Ignore"}};
    mutating_admission_policy_bindings: "admissionregistration.k8s.io", "v1", "mutatingadmissionpolicybindings", "MutatingAdmissionPolicyBinding", false, {"spec": {"policyName": "none.example.com"}}, change {"spec": {"policyName": "other.example.com"}};
}

/// The address of every Service is one of these, and so may be anything else that is no Service's.
#[test]
fn ip_addresses() {
    let ns = Namespace::new("addresses");
    let (wire, all) = (ns.wire(), "/apis/networking.k8s.io/v1/ipaddresses");
    let of = |name: &str, kind: &str| {
        json!({"metadata": {"name": name, "labels": {"type": format!("{kind}-{}", ns.name)}},
            "spec": {"parentRef": {"group": "mygroup", "resource": "myresources", "namespace": "foo", "name": "bar"}}})
    };
    let mine = |kind: &str| format!("{all}?labelSelector=type%3D{kind}-{}", ns.name);
    let (code, four) = wire.post(all, &of("255.255.255.255", "broadcast"));
    assert_eq!(code, 201, "{four}");
    let (code, six) = wire.post(all, &of("fe80::42:1dff:fe84:f9e2", "link-local"));
    assert_eq!(code, 201, "{six}");
    let (code, bad) = wire.post(all, &of("fe80:0::1", "other"));
    assert_eq!(code, 422, "only the canonical form is a name: {bad}");
    let one = format!("{all}/255.255.255.255");
    let (code, patched) = wire.merge(&one, &json!({"metadata": {"annotations": {"patched": "true"}}}));
    assert_eq!((code, &patched["metadata"]["annotations"]["patched"]), (200, &json!("true")));
    let number = |o: &Value| o["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap();
    assert!(number(&patched) > number(&four));
    let (code, refused) = wire.merge(&one, &json!({"spec": {"parentRef": {"name": "other"}}}));
    assert_eq!(code, 422, "{refused}");
    put(wire, &one, |o| o["metadata"]["annotations"]["updated"] = json!("true"));
    assert_eq!(wire.get(&mine("broadcast")).1["items"].as_array().unwrap().len(), 1);
    assert_eq!(wire.delete(&one).0, 200);
    assert_eq!(wire.get(&one).0, 404);
    assert_eq!(wire.delete(&mine("link-local")).0, 200);
    assert!(wire.get(&mine("link-local")).1["items"].as_array().unwrap().is_empty());
}

/// The range that the cluster was made with is an object, ready, and watched and listed like others.
#[test]
fn the_default_service_cidr() {
    let ns = Namespace::new("cidr");
    let (wire, all) = (ns.wire(), "/apis/networking.k8s.io/v1/servicecidrs");
    let (code, default) = wire.get(&format!("{all}/kubernetes"));
    assert_eq!(code, 200, "{default}");
    let (code, status) = wire.get(&format!("{all}/kubernetes/status"));
    assert_eq!((code, &status["kind"]), (200, &json!("ServiceCIDR")));
    assert_eq!(status["metadata"]["uid"], default["metadata"]["uid"]);
    assert!(!default["spec"]["cidrs"].as_array().unwrap().is_empty());
    assert!(!wire.get(all).1["items"].as_array().unwrap().is_empty());
    let watch = wire.watch(&format!("{all}?watch=true"));
    watch.until("the present one", |e| e["type"] == "ADDED" && e["object"]["metadata"]["name"] == "kubernetes");
}

fn run_class(ns: &Namespace, name: &str, more: Value) {
    let mut object = json!({"metadata": {"name": name}, "handler": "runc"});
    merge_into(&mut object, &more);
    let (code, made) = ns.wire().post("/apis/node.k8s.io/v1/runtimeclasses", &object);
    assert_eq!(code, 201, "{made}");
}

fn pod_of_class(class: &str) -> Value {
    json!({"metadata": {"name": format!("pod-{class}")}, "spec": {"runtimeClassName": class, "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": "test/busybox:1", "command": ["true"]}], "restartPolicy": "Never"}})
}

/// A Pod cannot ask for a class that is not there, be it that it never was or that it was deleted.
#[test]
fn pods_of_absent_runtime_classes_are_refused() {
    let ns = Namespace::new("absent-class");
    let pods = format!("/api/v1/namespaces/{}/pods", ns.name);
    let (code, said) = ns.wire().post(&pods, &pod_of_class("no-such-class"));
    assert_eq!((code, said["reason"].as_str()), (403, Some("Forbidden")), "{said}");
    assert!(said["message"].as_str().unwrap().contains("RuntimeClass \"no-such-class\" not found"), "{said}");
    let class = format!("deleted-{}", ns.name);
    run_class(&ns, &class, json!({}));
    assert_eq!(ns.wire().delete(&format!("/apis/node.k8s.io/v1/runtimeclasses/{class}")).0, 200);
    let (code, said) = ns.wire().post(&pods, &pod_of_class(&class));
    assert_eq!(code, 403, "{said}");
}

/// A class gives its Pods their overhead, and places them.
#[test]
fn runtime_classes_give_overhead_and_placement() {
    let ns = Namespace::new("class");
    let wire = ns.wire();
    let pods = format!("/api/v1/namespaces/{}/pods", ns.name);
    let (plain, heavy) = (format!("plain-{}", ns.name), format!("heavy-{}", ns.name));
    run_class(&ns, &plain, json!({}));
    let overhead = json!({"cpu": "10m", "memory": "1Mi"});
    let scheduling = json!({"nodeSelector": {"kubernetes.io/os": "linux"}, "tolerations": [{"key": "foo", "operator": "Equal", "value": "bar", "effect": "NoSchedule"}]});
    run_class(&ns, &heavy, json!({"overhead": {"podFixed": overhead}, "scheduling": scheduling}));
    let (code, made) = wire.post(&pods, &pod_of_class(&plain));
    assert_eq!(code, 201, "{made}");
    assert!(made["spec"].get("overhead").is_none());
    let (code, made) = wire.post(&pods, &pod_of_class(&heavy));
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["spec"]["overhead"], overhead);
    assert_eq!(made["spec"]["nodeSelector"], json!({"kubernetes.io/os": "linux"}));
    assert!(made["spec"]["tolerations"].as_array().unwrap().contains(&scheduling["tolerations"][0]));
    for class in [&plain, &heavy] {
        ns.until_that(&format!("pod/pod-{class}"), |p| {
            p["status"]["conditions"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|c| c["type"] == "PodScheduled" && c["status"] == "True")
        });
    }
    let mut other = pod_of_class(&heavy);
    other["metadata"]["name"] = json!("other-overhead");
    other["spec"]["overhead"] = json!({"cpu": "20m"});
    assert_eq!(wire.post(&pods, &other).0, 403, "an overhead of one's own is refused");
    let mut none = pod_of_class(&heavy);
    none["metadata"]["name"] = json!("no-class");
    none["spec"].as_object_mut().unwrap().remove("runtimeClassName");
    none["spec"]["overhead"] = json!({"cpu": "20m"});
    assert_eq!(wire.post(&pods, &none).0, 403, "without a class there is none");
    for class in [plain, heavy] {
        wire.delete(&format!("/apis/node.k8s.io/v1/runtimeclasses/{class}"));
    }
}

/// Pods may name volumes of a CSI driver, whether or not it is there.
#[test]
fn pods_with_inline_csi_volumes() {
    let ns = Namespace::new("inline");
    let (wire, pods) = (ns.wire(), format!("/api/v1/namespaces/{}/pods", ns.name));
    let pod = json!({"metadata": {"name": "inline", "labels": {"run": ns.name}}, "spec": {"terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": "test/busybox:1", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        "nodeName": "no-such-node",
        "volumes": [{"name": "v", "csi": {"driver": "e2e.example.com", "readOnly": true, "volumeAttributes": {"a": "b"}}}]}});
    let (code, made) = wire.post(&pods, &pod);
    assert_eq!(code, 201, "{made}");
    let (_, read) = wire.get(&format!("{pods}/inline"));
    assert_eq!(read["spec"]["volumes"][0]["csi"], pod["spec"]["volumes"][0]["csi"]);
    let (code, patched) =
        wire.strategic(&format!("{pods}/inline"), &json!({"metadata": {"labels": {"patched": "true"}}}));
    assert_eq!((code, &patched["metadata"]["labels"]["patched"]), (200, &json!("true")));
    let everywhere = wire.get(&format!("/api/v1/pods?labelSelector=run%3D{}", ns.name)).1;
    assert_eq!(everywhere["items"].as_array().unwrap().len(), 1);
    let (code, said) = wire.delete_with(&format!("{pods}/inline"), &json!({"gracePeriodSeconds": 0}));
    assert_eq!(code, 200, "{said}");
    ns.until_gone("pod/inline");
}

/// A Lease may be given to another by update and patch, and others stay when one is deleted by its label.
#[test]
fn leases_change_hands() {
    let ns = Namespace::new("lease");
    let (wire, all) = (ns.wire(), format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", ns.name));
    let spec = json!({"holderIdentity": "holder", "leaseDurationSeconds": 30, "leaseTransitions": 0,
        "acquireTime": "2026-01-01T00:00:00.000000Z", "renewTime": "2026-01-01T00:00:05.000000Z"});
    assert_eq!(wire.post(&all, &json!({"metadata": {"name": "l"}, "spec": spec})).0, 201);
    let one = format!("{all}/l");
    assert_eq!(wire.get(&one).1["spec"], spec);
    let next = json!({"holderIdentity": "holder2", "leaseDurationSeconds": 60, "leaseTransitions": 1,
        "acquireTime": "2026-01-01T00:00:10.000000Z", "renewTime": "2026-01-01T00:00:15.000000Z"});
    put(wire, &one, |o| o["spec"] = next.clone());
    assert_eq!(wire.get(&one).1["spec"], next);
    let (code, said) = wire.strategic(&one, &json!({"spec": {"holderIdentity": "holder3", "leaseTransitions": 2}}));
    assert_eq!(code, 200, "{said}");
    let read = wire.get(&one).1;
    assert_eq!((&read["spec"]["holderIdentity"], &read["spec"]["leaseTransitions"]), (&json!("holder3"), &json!(2)));
    let labelled = json!({"metadata": {"name": "l2", "labels": {"deletecollection": "true"}}, "spec": spec});
    assert_eq!(wire.post(&all, &labelled).0, 201);
    assert_eq!(wire.get(&all).1["items"].as_array().unwrap().len(), 2);
    assert_eq!(wire.delete(&format!("{all}?labelSelector=deletecollection%3Dtrue")).0, 200);
    let left = wire.get(&all).1["items"].as_array().unwrap().clone();
    assert_eq!((left.len(), &left[0]["metadata"]["name"]), (1, &json!("l")));
    assert_eq!(wire.delete(&one).0, 200);
    assert_eq!(wire.get(&one).0, 404);
}
