//! Admission webhooks, each a real HTTPS server in this process behind a Service of the test's own namespace.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use caravel_tests::extension::{Call, Reply, allow, change, deny, review};
use caravel_tests::webhooks::{GROUP, MUTATING, VALIDATING, World, config_map};
use caravel_tests::{Namespace, busybox_pod};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

fn rules(groups: &str, versions: &str, resources: &[&str], operations: &[&str]) -> Value {
    json!([{"apiGroups": [groups], "apiVersions": [versions], "resources": resources, "operations": operations}])
}

fn maps_created() -> Value {
    rules("", "v1", &["configmaps"], &["CREATE"])
}

/// Adds a key to a ConfigMap when another is there.
fn add_after(call: &Call, have: &str, add: &str) -> Reply {
    if call.request()["object"]["data"].get(have).is_none() {
        return allow(call);
    }
    change(call, json!([{"op": "add", "path": format!("/data/{add}"), "value": "yes"}]))
}

fn refused(code: u16, said: &Value, text: &str) -> bool {
    code >= 400 && said["message"].as_str().is_some_and(|m| m.contains(text))
}

#[test]
fn the_configurations_are_discovered() {
    let ns = Namespace::new("hook-discovery");
    let (_, groups) = ns.wire().get("/apis");
    let group =
        groups["groups"].as_array().unwrap().iter().find(|g| g["name"] == "admissionregistration.k8s.io").unwrap();
    assert!(
        group["versions"].as_array().unwrap().iter().any(|v| v["groupVersion"] == "admissionregistration.k8s.io/v1")
    );
    let (_, group) = ns.wire().get("/apis/admissionregistration.k8s.io");
    assert_eq!(group["name"], "admissionregistration.k8s.io");
    assert!(group["versions"].as_array().unwrap().iter().any(|v| v["version"] == "v1"));
    let (_, resources) = ns.wire().get(GROUP);
    for name in [MUTATING, VALIDATING] {
        assert!(resources["resources"].as_array().unwrap().iter().any(|r| r["name"] == name), "{name}");
    }
}

fn deny_marked(call: &Call) -> Reply {
    let object = &call.request()["object"];
    match object["kind"].as_str() {
        Some("Pod") if object["metadata"]["name"] == "hanging" => {
            Reply::After(Duration::from_secs(30), Box::new(allow(call)))
        }
        Some("Pod") if object["spec"]["containers"][0]["name"] == "disallowed" => {
            deny(call, "the pod contains unwanted container name")
        }
        Some("ConfigMap") if object["data"]["mark"] == "bad" => {
            deny(call, "the configmap contains unwanted key and value")
        }
        _ => allow(call),
    }
}

#[test]
fn pods_and_config_maps_are_denied() {
    let mut world = World::new("hook-deny", deny_marked);
    let mut maps = world.webhook("maps", "/maps", rules("", "v1", &["configmaps"], &["CREATE", "UPDATE", "DELETE"]));
    maps["namespaceSelector"] = json!({"matchExpressions": [
        {"key": "of", "operator": "In", "values": [world.ns.name]},
        {"key": "exempt", "operator": "NotIn", "values": ["yes"]},
    ]});
    let mut pods = world.webhook("pods", "/pods", rules("", "v1", &["pods"], &["CREATE"]));
    pods["timeoutSeconds"] = json!(2);
    let me = format!("/api/v1/namespaces/{}", world.ns.name);
    world.ns.wire().merge(&me, &json!({"metadata": {"labels": {"of": world.ns.name}}}));
    world.register(VALIDATING, "deny", vec![pods, maps]);
    world.until("bad ConfigMaps are denied", json!({"mark": "bad"}), |code, said| refused(code, said, "unwanted key"));

    let path = format!("/api/v1/namespaces/{}/pods", world.ns.name);
    let pod = |name: &str, container: &str| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": [{"name": container, "image": "test/busybox:1"}]}});
    let (code, said) = world.ns.wire().post(&path, &pod("p", "disallowed"));
    assert_eq!(code, 400, "{said}");
    let hook = format!("pods.{}.example.com", world.ns.name);
    let wanted = format!("admission webhook {hook:?} denied the request: the pod contains unwanted container name");
    assert_eq!(said["message"], wanted);

    let (code, said) = world.ns.wire().post(&path, &pod("hanging", "c"));
    assert_eq!((code, &said["reason"]), (500, &json!("InternalError")), "{said}");
    assert!(refused(code, &said, "webhook") && refused(code, &said, "deadline"), "{said}");

    let (code, _) = world.create_map("bad", json!({"mark": "bad"}));
    assert_eq!(code, 400);
    assert_eq!(world.create_map("good", json!({"mark": "good"})).0, 201);
    let good = format!("{}/good", world.maps());
    let (code, said) = world.ns.wire().put(&good, &config_map("good", json!({"mark": "bad"})));
    assert!(refused(code, &said, "unwanted key"), "{said}");
    let (code, said) = world.ns.wire().merge(&good, &json!({"data": {"mark": "bad"}}));
    assert!(refused(code, &said, "unwanted key"), "{said}");
    assert_eq!(world.ns.wire().get(&good).1["data"]["mark"], "good");

    let other = Namespace::new("hook-exempt");
    let labels = json!({"metadata": {"labels": {"of": world.ns.name, "exempt": "yes"}}});
    world.ns.wire().merge(&format!("/api/v1/namespaces/{}", other.name), &labels);
    let (code, said) = other
        .wire()
        .post(&format!("/api/v1/namespaces/{}/configmaps", other.name), &config_map("x", json!({"mark": "bad"})));
    assert_eq!(code, 201, "{said}");
}

#[test]
fn a_question_says_everything() {
    let mut world = World::new("hook-question", allow);
    world.register(
        VALIDATING,
        "ask",
        vec![world.webhook("ask", "/ask/it", rules("*", "*", &["configmaps", "pods/*"], &["*"]))],
    );
    world.until("the hook is asked", json!({}), |_, _| !world.hook.calls().is_empty());
    world.create_map("m", json!({"a": "b"}));
    let path = format!("{}/m", world.maps());
    world.ns.wire().merge(&format!("{path}?fieldManager=me"), &json!({"data": {"a": "c"}}));
    world.ns.wire().delete_with(&path, &json!({"propagationPolicy": "Background"}));
    let calls = world.hook.calls();
    let of = |operation: &str| {
        calls.iter().find(|c| c.request()["operation"] == operation && c.request()["name"] == "m").unwrap().clone()
    };
    let create = of("CREATE");
    assert_eq!((create.method.as_str(), create.path.as_str()), ("POST", "/ask/it?timeout=10s"));
    assert_eq!(create.body["apiVersion"], "admission.k8s.io/v1");
    let request = create.request();
    assert_eq!(request["kind"], json!({"group": "", "version": "v1", "kind": "ConfigMap"}));
    assert_eq!(request["resource"], json!({"group": "", "version": "v1", "resource": "configmaps"}));
    assert_eq!((&request["requestKind"], &request["requestResource"]), (&request["kind"], &request["resource"]));
    assert_eq!((&request["namespace"], &request["dryRun"]), (&json!(world.ns.name), &json!(false)));
    assert_eq!(request["userInfo"]["username"], "kubernetes-admin");
    assert!(request["userInfo"]["groups"].as_array().unwrap().contains(&json!("system:masters")));
    assert_eq!((&request["object"]["data"]["a"], &request["oldObject"]), (&json!("b"), &Value::Null));
    assert_eq!(request["options"]["kind"], "CreateOptions");
    let update = of("UPDATE");
    assert_eq!(
        (&update.request()["object"]["data"]["a"], &update.request()["oldObject"]["data"]["a"]),
        (&json!("c"), &json!("b"))
    );
    assert_eq!(update.request()["options"]["fieldManager"], "me");
    let delete = of("DELETE");
    assert_eq!((&delete.request()["object"], &delete.request()["oldObject"]["data"]["a"]), (&Value::Null, &json!("c")));
    assert_eq!(delete.request()["options"]["propagationPolicy"], "Background");
    // The probe was a dry run.
    assert!(calls.iter().any(|c| c.request()["dryRun"] == true && c.request()["options"]["dryRun"] == json!(["All"])));
}

#[test]
fn attaching_is_denied() {
    let mut world = World::new("hook-attach", |call| {
        let request = call.request();
        if request["operation"] == "CONNECT"
            && request["name"] == "p"
            && request["object"]["kind"] == "PodAttachOptions"
        {
            return deny(call, "attaching to pod 'p' is not allowed");
        }
        allow(call)
    });
    world.ns.apply(&busybox_pod("p", "command: [sh, -c, sleep 1000]"));
    world.ns.until("pod/p", "{.status.phase}", "Running");
    let rules = rules("", "v1", &["pods/attach"], &["CONNECT"]);
    world.register(VALIDATING, "attach", vec![world.webhook("attach", "/attach", rules)]);
    world.ns.eventually("attaching is denied", || {
        // Attached, it would run on: the time is cut.
        let said =
            world.ns.fails(&["attach", "p", "-i", "-c", "c", "--request-timeout=5s", "--pod-running-timeout=1s"]);
        if said.contains("attaching to pod 'p' is not allowed") { Ok(()) } else { Err(said) }
    });
    assert_eq!(world.ns.ok(&["exec", "p", "--", "echo", "exec is free"]).trim(), "exec is free");
    let asked = world.hook.calls();
    let request = asked.last().unwrap().request();
    assert_eq!(request["resource"]["resource"], "pods");
    assert_eq!((&request["subResource"], &request["requestSubResource"]), (&json!("attach"), &json!("attach")));
    assert_eq!(request["object"]["container"], "c");
    world.ns.wire().delete_with(&world.ns.path("pod/p"), &json!({"gracePeriodSeconds": 0}));
}

#[test]
fn custom_resources_are_denied() {
    let mut world = World::new("hook-custom-deny", |call| {
        let request = call.request();
        let object = if request["operation"] == "DELETE" { &request["oldObject"] } else { &request["object"] };
        match object["data"]["webhook"].as_str() {
            Some("disallow") => deny(call, "the custom resource contains unwanted data"),
            _ => allow(call),
        }
    });
    let path = world.define("gadgets", |_| {});
    let group = format!("{}.example.com", world.ns.name);
    let rules = rules(&group, "*", &["gadgets"], &["CREATE", "UPDATE", "DELETE"]);
    world.register(VALIDATING, "custom", vec![world.webhook("custom", "/custom", rules)]);
    let bad = world.custom("gadgets", "bad", json!({"webhook": "disallow"}));
    world.ns.eventually("creation is denied", || {
        let (code, said) = world.ns.wire().post(&format!("{path}?dryRun=All"), &bad);
        if refused(code, &said, "unwanted data") { Ok(()) } else { Err(format!("{code} {said}")) }
    });
    assert_eq!(world.ns.wire().post(&path, &world.custom("gadgets", "good", json!({"webhook": "allow"}))).0, 201);
    let one = format!("{path}/good");
    let (code, said) = world.ns.wire().merge(&one, &json!({"data": {"webhook": "disallow"}}));
    assert!(refused(code, &said, "unwanted data"), "{said}");
    // Where its own hook does not look, a bad state may come to be; then it cannot be deleted.
    let configuration = world.litter.iter().find(|p| p.starts_with(GROUP)).unwrap().clone();
    let operations = |all: &[&str]| json!([{"op": "replace", "path": "/webhooks/0/rules/0/operations", "value": all}]);
    assert_eq!(world.ns.wire().json_patch(&configuration, &operations(&["DELETE"])).0, 200);
    world.ns.eventually("a bad state", || {
        match world.ns.wire().merge(&one, &json!({"data": {"webhook": "disallow"}})) {
            (200, _) => Ok(()),
            (code, said) => Err(format!("{code} {said}")),
        }
    });
    let (code, said) = world.ns.wire().delete(&one);
    assert!(refused(code, &said, "unwanted data"), "{said}");
    assert_eq!(world.ns.wire().merge(&one, &json!({"data": {"webhook": "allow"}})).0, 200);
    assert_eq!(world.ns.wire().delete(&one).0, 200);
}

#[test]
fn a_hook_that_cannot_be_called_fails_closed() {
    let mut world = World::new("hook-closed", allow);
    let mut hook = world.webhook("closed", "/", rules("", "v1", &["configmaps"], &["CREATE"]));
    // Without a bundle nobody vouches for the server's certificate.
    hook["clientConfig"].as_object_mut().unwrap().remove("caBundle");
    hook["failurePolicy"] = json!("Fail");
    world.register(VALIDATING, "closed", vec![hook]);
    world.until("everything is refused", json!({}), |code, said| {
        code == 500
            && said["reason"] == "InternalError"
            && refused(code, said, "failed calling webhook")
            && refused(code, said, "x509: certificate signed by unknown authority")
    });
    let other = Namespace::new("hook-closed-other");
    let path = format!("/api/v1/namespaces/{}/configmaps", other.name);
    assert_eq!(other.wire().post(&path, &config_map("x", json!({}))).0, 201, "only this namespace is concerned");
}

#[test]
fn config_maps_are_changed_in_order() {
    let mut world = World::new("hook-order", |call| match call.path.split('?').next() {
        Some("/one") => add_after(call, "start", "one"),
        _ => add_after(call, "one", "two"),
    });
    let hooks = vec![world.webhook("one", "/one", maps_created()), world.webhook("two", "/two", maps_created())];
    world.register(MUTATING, "order", hooks);
    world.until("ConfigMaps are changed", json!({"start": "x"}), |_, said| said["data"]["two"] == "yes");
    let (_, made) = world.create_map("m", json!({"start": "x"}));
    assert_eq!(made["data"], json!({"start": "x", "one": "yes", "two": "yes"}));
    assert_eq!(world.ns.get("configmap/m")["data"], made["data"], "it is stored so");
}

#[test]
fn pods_are_defaulted_after_the_change() {
    let mut world = World::new("hook-defaults", |call| {
        let container = json!([{"name": "added", "image": "test/busybox:1"}]);
        change(call, json!([{"op": "add", "path": "/spec/initContainers", "value": container}]))
    });
    world.register(MUTATING, "pods", vec![world.webhook("pods", "/", rules("", "v1", &["pods"], &["CREATE"]))]);
    let path = format!("/api/v1/namespaces/{}/pods?dryRun=All", world.ns.name);
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "test/busybox:1"}]}});
    let made = world.ns.eventually("the Pod is changed", || {
        let (_, made) = world.ns.wire().post(&path, &pod);
        if made["spec"]["initContainers"].is_array() { Ok(made) } else { Err(made.to_string()) }
    });
    let added = &made["spec"]["initContainers"][0];
    assert_eq!((&added["name"], &added["terminationMessagePolicy"]), (&json!("added"), &json!("File")));
    assert_eq!(added["imagePullPolicy"], "IfNotPresent");
    let mounts = added["volumeMounts"].as_array().map(Vec::as_slice).unwrap_or_default();
    assert!(
        mounts.iter().any(|m| m["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount"),
        "what other plug-ins do to containers is done to the added one: {added}"
    );
}

#[test]
fn configurations_are_beyond_the_reach_of_hooks() {
    let mut world = World::new("hook-meta", |call| match call.path.split('?').next() {
        Some("/deny") => deny(call, "no"),
        _ => change(call, json!([{"op": "add", "path": "/metadata/labels/touched", "value": "yes"}])),
    });
    let resources = [VALIDATING, MUTATING];
    let mine = json!({"matchLabels": {"of": world.ns.name}});
    let mut deny = world.webhook("deny", "/deny", rules("admissionregistration.k8s.io", "*", &resources, &["DELETE"]));
    let mut touch =
        world.webhook("touch", "/touch", rules("admissionregistration.k8s.io", "*", &resources, &["CREATE"]));
    for hook in [&mut deny, &mut touch] {
        hook["objectSelector"] = mine.clone();
        hook.as_object_mut().unwrap().remove("namespaceSelector");
    }
    let maps = world.webhook("maps", "/deny", maps_created());
    world.register(VALIDATING, "deny", vec![deny, maps]);
    world.register(MUTATING, "touch", vec![touch]);
    world.until("the hooks are in force", json!({}), |code, said| refused(code, said, "denied the request: no"));
    for plural in resources {
        let hook = world.webhook("other", "/other", rules("", "v1", &["nothing"], &["CREATE"]));
        let path = world.register(plural, "other", vec![hook]);
        let (_, made) = world.ns.wire().get(&path);
        assert_eq!(made["metadata"]["labels"], json!({"of": world.ns.name}), "untouched");
        let (code, said) = world.ns.wire().delete(&path);
        assert_eq!(code, 200, "{said}");
    }
    assert!(
        world.hook.calls().iter().all(|call| call.request()["resource"]["group"] != "admissionregistration.k8s.io")
    );
}

#[test]
fn custom_resources_are_changed() {
    let mut world = World::new("hook-custom", |call| match call.path.split('?').next() {
        Some("/one") => add_after(call, "start", "one"),
        _ => add_after(call, "one", "two"),
    });
    let path = world.define("gadgets", |_| {});
    let group = format!("{}.example.com", world.ns.name);
    let all = || rules(&group, "*", &["gadgets"], &["CREATE", "UPDATE"]);
    let hooks = vec![world.webhook("one", "/one", all()), world.webhook("two", "/two", all())];
    world.register(MUTATING, "custom", hooks);
    let object = world.custom("gadgets", "g", json!({"start": "x"}));
    world.ns.eventually("custom resources are changed", || {
        let (_, made) = world.ns.wire().post(&format!("{path}?dryRun=All"), &object);
        if made["data"]["two"] == "yes" { Ok(()) } else { Err(made.to_string()) }
    });
    let (code, made) = world.ns.wire().post(&path, &object);
    assert_eq!((code, &made["data"]), (201, &json!({"start": "x", "one": "yes", "two": "yes"})));
    assert_eq!(world.ns.wire().get(&format!("{path}/g")).1["data"], made["data"]);
}

#[test]
fn what_hooks_add_is_pruned() {
    let mut world = World::new("hook-prune", |call| match call.path.split('?').next() {
        Some("/one") => add_after(call, "start", "one"),
        _ => add_after(call, "one", "two"),
    });
    let text = json!({"type": "string"});
    let closed = json!({"openAPIV3Schema": {"type": "object", "properties": {
        "data": {"type": "object", "properties": {"start": text, "one": text}}}}});
    let path = world.define("gadgets", |definition| {
        for version in definition["spec"]["versions"].as_array_mut().unwrap() {
            version["schema"] = closed.clone();
        }
    });
    let group = format!("{}.example.com", world.ns.name);
    let all = || rules(&group, "*", &["gadgets"], &["CREATE"]);
    let hooks = vec![world.webhook("one", "/one", all()), world.webhook("two", "/two", all())];
    world.register(MUTATING, "custom", hooks);
    let object = world.custom("gadgets", "g", json!({"start": "x"}));
    world.ns.eventually("both hooks are asked", || {
        world.ns.wire().post(&format!("{path}?dryRun=All"), &object);
        if world.hook.calls().iter().any(|c| c.path.starts_with("/two")) { Ok(()) } else { Err("not yet".into()) }
    });
    let (code, made) = world.ns.wire().post(&path, &object);
    assert_eq!((code, &made["data"]), (201, &json!({"start": "x", "one": "yes"})), "{made}");
}

#[test]
fn the_stored_version_may_change_under_a_hook() {
    let mut world = World::new("hook-stored", |call| add_after(call, "start", "one"));
    let text = json!({"type": "string"});
    let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {
        "data": {"type": "object", "properties": {"start": text, "one": text, "more": text}}}}});
    let path = world.define("gadgets", |definition| {
        for version in definition["spec"]["versions"].as_array_mut().unwrap() {
            version["schema"] = schema.clone();
        }
    });
    let group = format!("{}.example.com", world.ns.name);
    // The rule names one version: requests in the other are equivalent.
    let hook = world.webhook("one", "/one", rules(&group, "v1", &["gadgets"], &["CREATE", "UPDATE"]));
    world.register(MUTATING, "custom", vec![hook]);
    let object = world.custom("gadgets", "g", json!({"start": "x"}));
    world.ns.eventually("custom resources are changed", || {
        let (_, made) = world.ns.wire().post(&format!("{path}?dryRun=All"), &object);
        if made["data"]["one"] == "yes" { Ok(()) } else { Err(made.to_string()) }
    });
    assert_eq!(world.ns.wire().post(&path, &object).0, 201);
    let definition = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/gadgets.{group}");
    let swap = json!([
        {"op": "replace", "path": "/spec/versions/0/storage", "value": false},
        {"op": "replace", "path": "/spec/versions/1/storage", "value": true},
    ]);
    let (code, said) = world.ns.wire().json_patch(&definition, &swap);
    assert_eq!(code, 200, "{said}");
    assert_eq!(said["status"]["storedVersions"], json!(["v1", "v2"]));
    let one = path.replace("/v1/", "/v2/") + "/g";
    world.ns.eventually("the object is changed in v2", || {
        let (code, said) = world.ns.wire().merge(&one, &json!({"data": {"more": "y", "one": null}}));
        if code == 200 && said["data"] == json!({"start": "x", "one": "yes", "more": "y"}) {
            Ok(())
        } else {
            Err(format!("{code} {said}"))
        }
    });
    let calls = world.hook.calls();
    let last = calls.iter().rev().find(|c| c.request()["operation"] == "UPDATE").unwrap();
    let request = last.request();
    assert_eq!((&request["resource"]["version"], &request["requestResource"]["version"]), (&json!("v1"), &json!("v2")));
    assert_eq!(request["object"]["apiVersion"], format!("{group}/v1"), "it is shown in the rule's version");
}

#[test]
fn definitions_are_denied() {
    let mut world = World::new("hook-crd", |call| deny(call, "the crd contains unwanted label"));
    let mut hook =
        world.webhook("crd", "/", rules("apiextensions.k8s.io", "*", &["customresourcedefinitions"], &["CREATE"]));
    hook["objectSelector"] = json!({"matchLabels": {"deny": world.ns.name}});
    let maps = world.webhook("maps", "/", maps_created());
    world.register(VALIDATING, "crd", vec![hook, maps]);
    world.until("the hook is in force", json!({}), |code, said| refused(code, said, "unwanted label"));
    let group = format!("{}.example.com", world.ns.name);
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("things.{group}"), "labels": {"deny": world.ns.name}},
        "spec": {"group": group, "scope": "Cluster", "names": {"plural": "things", "kind": "Thing"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]},
    });
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let (code, said) = world.ns.wire().post(path, &definition);
    assert!(refused(code, &said, "unwanted label"), "{said}");
    assert_eq!(world.ns.wire().get(&format!("{path}/things.{group}")).0, 404);
}

#[test]
fn the_timeout_is_honoured() {
    let mut world = World::new("hook-slow", |call| Reply::After(Duration::from_secs(3), Box::new(allow(call))));
    let path = "/always-allow-delay";
    let register = |world: &mut World, seconds: u64, policy: &str| {
        let mut hook = world.webhook("slow", path, maps_created());
        hook["timeoutSeconds"] = json!(seconds);
        hook["failurePolicy"] = json!(policy);
        world.register(VALIDATING, &format!("slow-{seconds}-{}", policy.to_lowercase()), vec![hook])
    };
    // Too short a time, and the failure counts.
    let configuration = register(&mut world, 1, "Fail");
    world.until("the time runs out", json!({}), |code, said| {
        refused(code, said, "context deadline exceeded") && refused(code, said, "/always-allow-delay?timeout=1s")
    });
    assert_eq!(world.ns.wire().delete(&configuration).0, 200);
    // Too short a time, and it does not count.
    let configuration = register(&mut world, 1, "Ignore");
    let began = Instant::now();
    world.ns.eventually("the hook is asked", || {
        let before = world.hook.calls().len();
        let (code, said) =
            world.ns.wire().post(&format!("{}?dryRun=All", world.maps()), &config_map("probe", json!({})));
        if code == 201 && world.hook.calls().len() > before { Ok(()) } else { Err(format!("{code} {said}")) }
    });
    assert!(began.elapsed() >= Duration::from_millis(900));
    assert_eq!(world.ns.wire().delete(&configuration).0, 200);
    // Time enough.
    register(&mut world, 10, "Fail");
    world.ns.eventually("the slow answer is waited for", || {
        let began = Instant::now();
        let path = format!("{}?dryRun=All", world.maps());
        let (code, said) = world.ns.wire().post(&path, &config_map("probe", json!({})));
        let took = began.elapsed();
        if code == 201 && took >= Duration::from_secs(3) { Ok(()) } else { Err(format!("{code} {said} in {took:?}")) }
    });
}

#[test]
fn a_validating_configuration_may_change() {
    let mut world = World::new("hook-change-v", |call| deny(call, "not now"));
    let path = world.register(VALIDATING, "change", vec![world.webhook("maps", "/", maps_created())]);
    let is_denied = |code: u16, said: &Value| refused(code, said, "not now");
    world.until("creation is denied", json!({}), is_denied);
    let (_, mut present) = world.ns.wire().get(&path);
    present["webhooks"][0]["rules"][0]["operations"] = json!(["UPDATE"]);
    let (code, said) = world.ns.wire().put(&path, &present);
    assert_eq!((code, &said["metadata"]["generation"]), (200, &json!(2)), "{said}");
    world.until("creation is free", json!({}), |code, _| code == 201);
    let back = json!([{"op": "replace", "path": "/webhooks/0/rules/0/operations", "value": ["CREATE"]}]);
    assert_eq!(world.ns.wire().json_patch(&path, &back).0, 200);
    world.until("creation is denied again", json!({}), is_denied);
}

#[test]
fn a_mutating_configuration_may_change() {
    let mut world = World::new("hook-change-m", |call| add_after(call, "start", "one"));
    let path = world.register(MUTATING, "change", vec![world.webhook("maps", "/", maps_created())]);
    let start = json!({"start": "x"});
    world.until("the map is changed", start.clone(), |_, said| said["data"]["one"] == "yes");
    let (_, mut present) = world.ns.wire().get(&path);
    present["webhooks"][0]["rules"][0]["operations"] = json!(["UPDATE"]);
    assert_eq!(world.ns.wire().put(&path, &present).0, 200);
    world.until("the map is left alone", start.clone(), |_, said| said["data"] == json!({"start": "x"}));
    let back = json!({"webhooks": [{"name": present["webhooks"][0]["name"], "rules": maps_created()}]});
    let (code, said) = world.ns.wire().strategic(&path, &back);
    assert_eq!(code, 200, "{said}");
    world.until("the map is changed again", start, |_, said| said["data"]["one"] == "yes");
}

/// Ten configurations of a kind are listed by label and deleted as a collection; afterwards nothing is asked any more.
fn listed(
    world: &mut World,
    plural: &str,
    data: Value,
    is_hooked: impl Fn(u16, &Value) -> bool,
    free: impl Fn(u16, &Value) -> bool,
) {
    for i in 0..10 {
        world.register(plural, &format!("list-{i}"), vec![world.webhook("maps", "/", maps_created())]);
    }
    let (code, list) = world.ns.wire().get(&format!("{GROUP}/{plural}?labelSelector=of%3D{}", world.ns.name));
    assert_eq!((code, list["items"].as_array().unwrap().len()), (200, 10));
    world.until("the hooks are in force", data.clone(), is_hooked);
    let (code, said) = world.ns.wire().delete(&format!("{GROUP}/{plural}?labelSelector=of%3D{}", world.ns.name));
    assert_eq!(code, 200, "{said}");
    let (_, list) = world.ns.wire().get(&format!("{GROUP}/{plural}?labelSelector=of%3D{}", world.ns.name));
    assert_eq!(list["items"], json!([]));
    world.until("the hooks are gone", data, free);
}

#[test]
fn validating_configurations_are_listed() {
    let mut world = World::new("hook-list-v", |call| deny(call, "listed"));
    listed(&mut world, VALIDATING, json!({}), |code, said| refused(code, said, "listed"), |code, _| code == 201);
}

#[test]
fn mutating_configurations_are_listed() {
    let mut world = World::new("hook-list-m", |call| add_after(call, "start", "one"));
    let start = json!({"start": "x"});
    listed(
        &mut world,
        MUTATING,
        start,
        |_, said| said["data"]["one"] == "yes",
        |_, said| said["data"] == json!({"start": "x"}),
    );
}

#[test]
fn a_hook_may_be_asked_again() {
    // The first copies what the second adds, so it must see the object after the second.
    let mut world = World::new("hook-again", |call| match call.path.split('?').next() {
        Some("/copy") => add_after(call, "two", "copied"),
        Some("/never") => add_after(call, "two", "never"),
        _ if call.request()["object"]["data"].get("two").is_some() => allow(call),
        _ => add_after(call, "start", "two"),
    });
    let mut copy = world.webhook("copy", "/copy", maps_created());
    copy["reinvocationPolicy"] = json!("IfNeeded");
    let never = world.webhook("never", "/never", maps_created());
    let add = world.webhook("add", "/add", maps_created());
    world.register(MUTATING, "again", vec![copy, never, add]);
    world.until("the hooks are in force", json!({"start": "x"}), |_, said| said["data"]["two"] == "yes");
    let before = world.hook.calls().len();
    let (_, made) = world.create_map("m", json!({"start": "x"}));
    assert_eq!(made["data"], json!({"start": "x", "two": "yes", "copied": "yes"}));
    assert_eq!(world.hook.calls().len() - before, 4, "three, and the first once more");
}

#[test]
fn warnings_and_dry_runs() {
    let mut world = World::new("hook-warn", |call| {
        review(call, json!({"allowed": true, "warnings": ["mind the gap"], "auditAnnotations": {"a": "b"}}))
    });
    let mut hook = world.webhook("warn", "/", maps_created());
    hook["admissionReviewVersions"] = json!(["v2", "v1beta1"]);
    world.register(VALIDATING, "warn", vec![hook]);
    let said = world.ns.eventually("the warning comes through", || {
        let mut child = world.ns.command(&["create", "--dry-run=server", "configmap", "m"]);
        let out = child.output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        if said.contains("Warning: mind the gap") { Ok(said) } else { Err(said) }
    });
    assert!(!said.contains("rror"), "{said}");
    assert!(world.hook.calls().iter().all(|c| c.body["apiVersion"] == "admission.k8s.io/v1beta1"));
    assert!(world.hook.calls().iter().all(|c| c.request()["dryRun"] == true));
}

#[test]
fn hostile_hooks_do_no_harm() {
    let mut world = World::new("hook-hostile", |call| match call.path.split('?').next() {
        Some("/huge") => Reply::Plain(200, vec![], vec![b'x'; 10 << 20]),
        Some("/rubbish") => Reply::Plain(200, vec![], b"\x00\xff{]".to_vec()),
        Some("/deep") => Reply::Plain(200, vec![], "[".repeat(100_000).into_bytes()),
        Some("/elsewhere") => Reply::Plain(302, vec![("location".into(), "https://localhost/healthz".into())], vec![]),
        Some("/other-uid") => Reply::Json(
            json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": {"uid": "x", "allowed": true}}),
        ),
        Some("/no-response") => Reply::Json(json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1"})),
        Some("/bad-patch") => review(call, json!({"allowed": true, "patchType": "JSONPatch", "patch": "e30="})),
        Some("/unfit-patch") => change(call, json!([{"op": "replace", "path": "/data", "value": [1, 2]}])),
        Some("/rename") => change(call, json!([{"op": "replace", "path": "/kind", "value": "Secret"}])),
        Some("/boom") => Reply::Plain(500, vec![], b"out of cheese".to_vec()),
        _ => allow(call),
    });
    for (path, wanted) in [
        ("/huge", "the answer is larger than"),
        ("/rubbish", "couldn't decode the answer"),
        ("/deep", "couldn't decode the answer"),
        ("/elsewhere", "redirects are not followed"),
        ("/other-uid", "expected response.uid"),
        ("/no-response", "webhook response was absent"),
        ("/bad-patch", "JSON patch"),
        ("/unfit-patch", "webhook"),
        ("/rename", "webhook"),
        ("/boom", "out of cheese"),
    ] {
        let configuration = world.register(MUTATING, "hostile", vec![world.webhook("hostile", path, maps_created())]);
        world.until(path, json!({"a": "b"}), |code, said| code == 500 && refused(code, said, wanted));
        assert_eq!(world.ns.wire().delete(&configuration).0, 200);
        world.until("it is gone", json!({"a": "b"}), |code, _| code == 201);
    }
    let after = world.hook.calls();
    assert!(after.iter().all(|call| call.path != "/healthz"), "no redirect was followed");
    // A path cannot lead to another host, nor break out of its line.
    let (code, said) = world.ns.wire().post(
        &format!("{GROUP}/{VALIDATING}"),
        &json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": format!("bad-{}", world.ns.name)},
            "webhooks": [{"name": "a.b.c", "sideEffects": "None", "admissionReviewVersions": ["v1"],
                "clientConfig": {"url": "http://user@evil.example/x?y#z"}}]}),
    );
    assert_eq!(code, 422, "{said}");
    let odd = world.webhook("odd", "/@evil.example/..", maps_created());
    world.register(VALIDATING, "odd", vec![odd]);
    world.until("the odd path is asked for at its own server", json!({}), |code, _| {
        code == 201 && world.hook.calls().iter().any(|call| call.path.starts_with("/@evil.example/.."))
    });
}

#[test]
fn a_hook_at_a_url_and_one_without_endpoints() {
    let mut world = World::new("hook-url", |call| deny(call, "by url"));
    let mut hook = world.webhook("url", "/", maps_created());
    hook["clientConfig"] = world.hook.url("/by/url");
    let configuration = world.register(VALIDATING, "url", vec![hook]);
    world.until("the hook at the url is asked", json!({}), |code, said| refused(code, said, "by url"));
    assert!(world.hook.calls().iter().all(|call| call.path == "/by/url?timeout=10s"));
    world.ns.wire().delete(&configuration);
    let mut hook = world.webhook("none", "/", maps_created());
    hook["clientConfig"]["service"]["name"] = json!("absent");
    world.register(VALIDATING, "none", vec![hook]);
    world.until("a Service that is not there", json!({}), |code, said| {
        code == 500 && refused(code, said, "service \"absent\" not found")
    });
}

#[test]
fn a_scale_is_shown_as_a_scale() {
    let mut world = World::new("hook-scale", |call| {
        if call.request()["object"]["spec"]["replicas"] == 3 {
            return change(call, json!([{"op": "replace", "path": "/spec/replicas", "value": 2}]));
        }
        allow(call)
    });
    let rules = rules("apps", "v1", &["deployments/scale"], &["UPDATE"]);
    world.register(MUTATING, "scale", vec![world.webhook("scale", "/", rules)]);
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {
        "replicas": 0, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "test/busybox:1"}]}}}});
    let path = format!("/apis/apps/v1/namespaces/{}/deployments", world.ns.name);
    assert_eq!(world.ns.wire().post(&path, &deployment).0, 201);
    let scale = format!("{path}/d/scale?dryRun=All");
    world.ns.eventually("the scale is changed", || {
        let (code, said) = world.ns.wire().merge(&scale, &json!({"spec": {"replicas": 3}}));
        if code == 200 && said["spec"]["replicas"] == 2 { Ok(()) } else { Err(format!("{code} {said}")) }
    });
    let calls = world.hook.calls();
    let request = calls[0].request();
    assert_eq!(request["kind"], json!({"group": "autoscaling", "version": "v1", "kind": "Scale"}));
    assert_eq!(request["resource"]["resource"], "deployments");
    assert_eq!((&request["object"]["kind"], &request["oldObject"]["spec"]), (&json!("Scale"), &json!({})));
}

/// Conditions are stored as they are given, and may be changed.
fn with_conditions(world: &mut World, plural: &str) {
    let mut hook = world.webhook("maps", "/", maps_created());
    hook["matchConditions"] =
        json!([{"name": "expression-1", "expression": "object.metadata.namespace == 'production'"}]);
    let path = world.register(plural, "conditions", vec![hook.clone()]);
    let (_, present) = world.ns.wire().get(&path);
    assert_eq!(present["webhooks"][0]["matchConditions"], hook["matchConditions"]);
    let other = json!([
        {"name": "expression-1", "expression": "object.metadata.namespace == 'production'"},
        {"name": "expression-2", "expression": "object.metadata.namespace == 'staging'"},
    ]);
    let change = json!([{"op": "replace", "path": "/webhooks/0/matchConditions", "value": other}]);
    let (code, said) = world.ns.wire().json_patch(&path, &change);
    assert_eq!(code, 200, "{said}");
    assert_eq!(world.ns.wire().get(&path).1["webhooks"][0]["matchConditions"], other);
}

#[test]
fn a_validating_configuration_has_conditions() {
    with_conditions(&mut World::new("hook-cel-v", allow), VALIDATING);
}

#[test]
fn a_mutating_configuration_has_conditions() {
    with_conditions(&mut World::new("hook-cel-m", allow), MUTATING);
}
/// A condition that is no CEL is refused.
fn bad_conditions(world: &World, plural: &str) {
    let kind = if plural == MUTATING { "MutatingWebhookConfiguration" } else { "ValidatingWebhookConfiguration" };
    let mut hook = world.webhook("maps", "/", maps_created());
    hook["matchConditions"] = json!([{"name": "invalid-expression-1", "expression": "... [] bad expression"}]);
    let object = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
        "metadata": {"name": format!("bad-{}", world.ns.name)}, "webhooks": [hook],
    });
    let (code, said) = world.ns.wire().post(&format!("{GROUP}/{plural}"), &object);
    assert_eq!((code, &said["reason"]), (422, &json!("Invalid")), "{said}");
    assert!(said["message"].as_str().unwrap().contains("compilation failed"), "{said}");
    assert_eq!(said["details"]["causes"][0]["field"], "webhooks[0].matchConditions[0].expression");
}

#[test]
fn a_validating_configuration_with_a_bad_condition_is_refused() {
    bad_conditions(&World::new("hook-bad-v", allow), VALIDATING);
}

#[test]
fn a_mutating_configuration_with_a_bad_condition_is_refused() {
    bad_conditions(&World::new("hook-bad-m", allow), MUTATING);
}

#[test]
fn a_condition_spares_an_object() {
    let mut world = World::new("hook-skip", |call| {
        change(call, json!([{"op": "add", "path": "/data", "value": {"changed": "yes"}}]))
    });
    let mut hook = world.webhook("maps", "/", maps_created());
    hook["matchConditions"] = json!([{"name": "skip-me", "expression": "object.metadata.name != 'skip-me'"}]);
    world.register(MUTATING, "skip", vec![hook]);
    world.until("others are changed", json!({}), |_, said| said["data"]["changed"] == "yes");
    let (code, made) = world.create_map("skip-me", json!({"a": "b"}));
    assert_eq!((code, &made["data"]), (201, &json!({"a": "b"})));
    let (code, made) = world.create_map("other", json!({"a": "b"}));
    assert_eq!((code, &made["data"]), (201, &json!({"changed": "yes"})));
}

/// What the conditions leave out is not asked about.
#[test]
fn conditions_leave_out() {
    let mut world = World::new("hook-skip", |call| add_after(call, "start", "one"));
    let mut hook = world.webhook("maps", "/", maps_created());
    hook["matchConditions"] = json!([
        {"name": "skip-me", "expression": "object.metadata.name != 'skip-me'"},
        {"name": "create", "expression": "request.operation == 'CREATE' && oldObject == null"},
    ]);
    world.register(MUTATING, "skip", vec![hook]);
    let start = json!({"start": "x"});
    world.until("the map is changed", start.clone(), |_, said| said["data"]["one"] == "yes");
    let (code, made) = world.create_map("skip-me", start.clone());
    assert_eq!((code, &made["data"]), (201, &start), "{made}");
    let (code, made) = world.create_map("other", start);
    assert_eq!((code, &made["data"]["one"]), (201, &json!("yes")), "{made}");
}
