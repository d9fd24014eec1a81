//! What the server fills in and refuses by its built-in plug-ins, and what it records of requests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use caravel_tests::{ControlPlane, Namespace, Wire};
use serde_json::{Value, json};

/// A cluster of its own: a default class is everybody's.
#[test]
fn claims_get_the_default_class_and_grow_where_allowed() {
    let plane = ControlPlane::start_with(&["--api-only"]);
    let wire = Wire::new(&plane.kubeconfig());
    let (classes, claims) =
        ("/apis/storage.k8s.io/v1/storageclasses", "/api/v1/namespaces/default/persistentvolumeclaims");
    let claim = |name: &str| json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    let (code, made) = wire.post(claims, &claim("before"));
    assert_eq!((code, made["spec"].get("storageClassName")), (201, None), "{made}");
    assert_eq!(made["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
    let class = |name: &str, grows: bool| {
        json!({"metadata": {"name": name, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
            "provisioner": "example.com/p", "allowVolumeExpansion": grows})
    };
    assert_eq!(wire.post(classes, &class("fixed", false)).0, 201);
    assert_eq!(wire.post(claims, &claim("fixed")).1["spec"]["storageClassName"], "fixed");
    let mut none = claim("none");
    none["spec"]["storageClassName"] = json!("");
    assert_eq!(wire.post(claims, &none).1["spec"]["storageClassName"], "", "an empty class is a choice");
    let grow = |name: &str| {
        wire.merge(&format!("{claims}/{name}"), &json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}}))
    };
    let (code, said) = grow("fixed");
    assert_eq!((code, said["reason"].as_str()), (422, Some("Invalid")), "only bound claims grow: {said}");
    let bind = |name: &str| {
        let bound =
            json!({"status": {"phase": "Bound", "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"]}});
        assert_eq!(wire.merge(&format!("{claims}/{name}/status"), &bound).0, 200);
        let volume = json!({"spec": {"volumeName": format!("pv-{name}")}});
        assert_eq!(wire.merge(&format!("{claims}/{name}"), &volume).0, 200);
    };
    bind("fixed");
    let (code, said) = grow("fixed");
    assert!(
        code == 403
            && said["message"]
                .as_str()
                .unwrap()
                .contains("the storageclass that provisions the pvc must support resize"),
        "{code} {said}"
    );
    assert_eq!(wire.delete(&format!("{classes}/fixed")).0, 200);
    assert_eq!(wire.post(classes, &class("grows", true)).0, 201);
    assert_eq!(wire.post(claims, &claim("grows")).1["spec"]["storageClassName"], "grows");
    bind("grows");
    let (code, said) = grow("grows");
    assert_eq!((code, &said["spec"]["resources"]["requests"]["storage"]), (200, &json!("2Gi")), "{said}");
}

#[test]
fn pods_take_over_what_their_runtime_class_demands() {
    let ns = Namespace::new("runtime-class");
    let classes = "/apis/node.k8s.io/v1/runtimeclasses";
    let class = json!({"metadata": {"name": ns.name}, "handler": "h", "overhead": {"podFixed": {"cpu": "10m", "memory": "1Mi"}},
        "scheduling": {"nodeSelector": {"sandbox": "yes"}, "tolerations": [{"key": "sandbox", "operator": "Exists"}]}});
    assert_eq!(ns.wire().post(classes, &class).0, 201);
    let pod = |name: &str, class: Option<&str>| {
        let mut pod = json!({"metadata": {"name": name}, "spec": {"nodeSelector": {"no-such": "node"},
            "containers": [{"name": "c", "image": "test/busybox:1"}]}});
        if let Some(class) = class {
            pod["spec"]["runtimeClassName"] = json!(class);
        }
        pod
    };
    let made = ns.make("pods", &pod("p", Some(&ns.name)));
    assert_eq!(made["spec"]["overhead"], json!({"cpu": "10m", "memory": "1Mi"}));
    assert_eq!(made["spec"]["nodeSelector"], json!({"no-such": "node", "sandbox": "yes"}));
    assert!(made["spec"]["tolerations"].as_array().unwrap().iter().any(|t| t["key"] == "sandbox"), "{made}");
    let pods = ns.wire().collection(&ns.name, "pods").unwrap();
    let refused = |pod: Value, why: &str| {
        let (code, said) = ns.wire().post(&pods, &pod);
        assert!(code == 403 && said["message"].as_str().unwrap().contains(why), "{code} {said}");
    };
    refused(pod("q", Some("no-such-class")), "pod rejected: RuntimeClass \"no-such-class\" not found");
    let mut own = pod("q", None);
    own["spec"]["overhead"] = json!({"cpu": "1"});
    refused(own, "Pod Overhead set without corresponding RuntimeClass defined Overhead");
    let mut other = pod("q", Some(&ns.name));
    other["spec"]["overhead"] = json!({"cpu": "1"});
    refused(other, "Pod's Overhead doesn't match RuntimeClass's defined Overhead");
    let mut conflicting = pod("q", Some(&ns.name));
    conflicting["spec"]["nodeSelector"] = json!({"sandbox": "no"});
    refused(conflicting, "conflict: runtimeClass.scheduling.nodeSelector[sandbox]");
    ns.wire().delete(&format!("{classes}/{}", ns.name));
}

/// The policy says what is recorded; secrets' contents are not.
#[test]
fn requests_are_recorded_as_the_policy_asks() {
    let dir = tempfile::tempdir().unwrap();
    let (policy, log) = (dir.path().join("policy.yaml"), dir.path().join("audit.log"));
    let text = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n- { level: None, users: ['system:apiserver'] }\n- { level: Metadata, resources: [{ group: '', resources: [secrets] }] }\n- { level: RequestResponse, omitManagedFields: true, resources: [{ group: '', resources: [configmaps] }] }\n";
    std::fs::write(&policy, text).unwrap();
    let options = [
        format!("--audit-policy-file={}", policy.display()),
        format!("--audit-log-path={}", log.display()),
        "--api-only".into(),
    ];
    let plane = ControlPlane::start_with(&options.iter().map(String::as_str).collect::<Vec<_>>());
    let wire = Wire::new(&plane.kubeconfig());
    let (maps, secrets) = ("/api/v1/namespaces/default/configmaps", "/api/v1/namespaces/default/secrets");
    assert_eq!(wire.post(secrets, &json!({"metadata": {"name": "s"}, "stringData": {"a": "hidden"}})).0, 201);
    let headers = [("content-type", "application/json"), ("impersonate-user", "jane")];
    assert_eq!(wire.send("POST", maps, &headers, br#"{"metadata":{"name":"m"}}"#.to_vec()).0, 403);
    assert_eq!(wire.post(maps, &json!({"metadata": {"name": "m"}, "data": {"k": "shown"}})).0, 201);
    let watch = wire.watch(&format!("{maps}?watch=true&timeoutSeconds=1"));
    watch.until("the map", |e| e["type"] == "ADDED");
    let start = std::time::Instant::now();
    let events = loop {
        let text = std::fs::read_to_string(&log).unwrap();
        let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        if events.iter().any(|e| e["verb"] == "watch" && e["stage"] == "ResponseComplete") {
            assert!(!text.contains("hidden") && !text.contains("aGlkZGVu"), "contents of Secrets are not recorded");
            break events;
        }
        assert!(start.elapsed() < caravel_tests::PATIENCE, "the watch's end is not recorded: {text}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    };
    let find = |resource: &str, code: u64| {
        let of = |e: &&Value| {
            e["verb"] == "create" && e["objectRef"]["resource"] == resource && e["responseStatus"]["code"] == code
        };
        events.iter().find(of).unwrap_or_else(|| panic!("no {resource} {code} in {events:#?}")).clone()
    };
    let secret = find("secrets", 201);
    assert_eq!(
        (&secret["level"], &secret["stage"], secret.get("requestObject")),
        (&json!("Metadata"), &json!("ResponseComplete"), None)
    );
    assert_eq!(
        (&secret["user"]["username"], &secret["objectRef"]["namespace"]),
        (&json!("kubernetes-admin"), &json!("default"))
    );
    let made = find("configmaps", 201);
    assert_eq!(
        (&made["requestObject"]["data"]["k"], &made["responseObject"]["data"]["k"]),
        (&json!("shown"), &json!("shown"))
    );
    assert!(
        made["responseObject"]["metadata"].get("managedFields").is_none() && made["objectRef"]["name"] == "m",
        "{made}"
    );
    assert_eq!(made["annotations"]["authorization.k8s.io/decision"], "allow");
    let refused = find("configmaps", 403);
    assert_eq!(
        (&refused["impersonatedUser"]["username"], &refused["annotations"]["authorization.k8s.io/decision"]),
        (&json!("jane"), &json!("forbid"))
    );
    assert_eq!(
        (&refused["authenticationMetadata"], made.get("authenticationMetadata")),
        (&json!({"impersonationConstraint": "impersonate:user-info"}), None)
    );
    assert_eq!(refused["responseStatus"]["reason"], "Forbidden");
    let started = events.iter().find(|e| e["verb"] == "watch").unwrap();
    assert_eq!(started["stage"], "ResponseStarted");
}

/// What depends on the whole cluster: default classes, and where nodes are.
#[test]
fn ingresses_get_the_default_class_and_pods_learn_where_they_are() {
    let plane = ControlPlane::start_with(&["--api-only"]);
    let wire = Wire::new(&plane.kubeconfig());
    let ingresses = "/apis/networking.k8s.io/v1/namespaces/default/ingresses";
    let ingress = |name: &str| json!({"metadata": {"name": name}, "spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}});
    assert_eq!(wire.post(ingresses, &ingress("before")).1["spec"].get("ingressClassName"), None);
    let class = json!({"metadata": {"name": "mine", "annotations": {"ingressclass.kubernetes.io/is-default-class": "true"}},
        "spec": {"controller": "example.com/c"}});
    assert_eq!(wire.post("/apis/networking.k8s.io/v1/ingressclasses", &class).0, 201);
    assert_eq!(wire.post(ingresses, &ingress("after")).1["spec"]["ingressClassName"], "mine");
    let mut old = ingress("old");
    old["metadata"]["annotations"] = json!({"kubernetes.io/ingress.class": "other"});
    assert_eq!(wire.post(ingresses, &old).1["spec"].get("ingressClassName"), None);
    let node = json!({"metadata": {"name": "n", "labels": {"topology.kubernetes.io/zone": "z1", "topology.kubernetes.io/region": "r1", "a": "b"}}});
    assert_eq!(wire.post("/api/v1/nodes", &node).0, 201);
    assert_eq!(
        wire.post("/api/v1/namespaces/default/serviceaccounts", &json!({"metadata": {"name": "default"}})).0,
        201
    );
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let (code, made) = wire.post(pods, &pod);
    assert_eq!(code, 201, "{made}");
    let binding = json!({"target": {"kind": "Node", "name": "n"}});
    assert_eq!(wire.post(&format!("{pods}/p/binding"), &binding).0, 201);
    let (_, bound) = wire.get(&format!("{pods}/p"));
    assert_eq!(
        bound["metadata"]["labels"],
        json!({"topology.kubernetes.io/zone": "z1", "topology.kubernetes.io/region": "r1"}),
        "{bound}"
    );
}
