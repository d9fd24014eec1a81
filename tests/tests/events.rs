//! Events: one store behind two APIs, and a short life.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use caravel_tests::{ControlPlane, Namespace, Wire};
use serde_json::{Value, json};

fn core(ns: &Namespace) -> String {
    format!("/api/v1/namespaces/{}/events", ns.name)
}

fn newer(ns: &Namespace) -> String {
    format!("/apis/events.k8s.io/v1/namespaces/{}/events", ns.name)
}

fn core_event(ns: &Namespace, name: &str, label: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {label: ns.name}}, "message": "This is a test event", "reason": "Test", "type": "Normal",
        "count": 1, "involvedObject": {"namespace": ns.name}})
}

fn new_event(ns: &Namespace, name: &str, label: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {label: ns.name}}, "regarding": {"namespace": ns.name, "kind": "Pod", "name": "p"},
        "eventTime": "2017-09-19T13:49:16.000000Z", "note": format!("This is {name}"), "action": "Do", "reason": "Test", "type": "Normal",
        "reportingController": "test-controller", "reportingInstance": "test-node"})
}

fn list(wire: &Wire, path: &str) -> Vec<Value> {
    let (code, said) = wire.get(path);
    assert_eq!(code, 200, "{said}");
    said["items"].as_array().unwrap().clone()
}

/// What a client compares: everything but what the server keeps for itself.
fn plain(mut event: Value) -> Value {
    for field in ["resourceVersion", "managedFields"] {
        event["metadata"].as_object_mut().unwrap().remove(field);
    }
    event
}

#[test]
fn lifecycle_of_a_core_event() {
    let ns = Namespace::new("event-core");
    let wire = ns.wire();
    assert_eq!(wire.post(&core(&ns), &core_event(&ns, "e", "life")).0, 201);
    let everywhere = format!("/api/v1/events?labelSelector=life%3D{}", ns.name);
    assert_eq!(list(wire, &everywhere).len(), 1);
    let one = format!("{}/e", core(&ns));
    let (code, said) = wire.strategic(&one, &json!({"message": "This is a test event - patched"}));
    assert_eq!((code, &said["message"]), (200, &json!("This is a test event - patched")), "{said}");
    let (_, mut now) = wire.get(&one);
    now["series"] = json!({"count": 100, "lastObservedTime": "2017-09-19T13:49:16.000000Z"});
    let (code, said) = wire.put(&one, &now);
    assert_eq!((code, &said["series"]), (200, &now["series"]), "{said}");
    assert_eq!(wire.get(&one).1["series"], now["series"]);
    assert_eq!(wire.delete(&one).0, 200);
    assert_eq!(list(wire, &everywhere).len(), 0);
}

#[test]
fn core_events_are_deleted_by_label() {
    let ns = Namespace::new("event-set");
    for name in ["a", "b", "c"] {
        assert_eq!(ns.wire().post(&core(&ns), &core_event(&ns, name, "set")).0, 201);
    }
    assert_eq!(ns.wire().post(&core(&ns), &core_event(&ns, "other", "kept")).0, 201);
    let mine = format!("{}?labelSelector=set%3D{}", core(&ns), ns.name);
    assert_eq!(list(ns.wire(), &mine).len(), 3);
    assert_eq!(ns.wire().delete(&mine).0, 200);
    assert_eq!(list(ns.wire(), &mine).len(), 0);
    assert_eq!(list(ns.wire(), &core(&ns)).len(), 1);
}

#[test]
fn lifecycle_of_a_new_event() {
    let ns = Namespace::new("event-new");
    let wire = ns.wire();
    let (code, said) = wire.post(&newer(&ns), &new_event(&ns, "e", "life"));
    assert_eq!(code, 201, "{said}");
    let everywhere = format!("/apis/events.k8s.io/v1/events?labelSelector=life%3D{}", ns.name);
    let here = format!("{}?labelSelector=life%3D{}", newer(&ns), ns.name);
    assert_eq!((list(wire, &everywhere).len(), list(wire, &here).len()), (1, 1));
    let by_source = list(wire, &format!("{}?fieldSelector=source%3Dtest-controller", core(&ns)));
    assert_eq!(
        (by_source.len(), &by_source[0]["message"]),
        (1, &json!("This is e")),
        "the same object in the older form"
    );
    assert_eq!(by_source[0]["involvedObject"]["name"], "p");
    assert_eq!(list(wire, &format!("{}?fieldSelector=source%3Dother", core(&ns))).len(), 0);
    assert_eq!(list(wire, &format!("{}?fieldSelector=reportingController%3Dtest-controller", newer(&ns))).len(), 1);
    assert_eq!(list(wire, &format!("{}?fieldSelector=regarding.kind%3DPod,reason%3DTest", newer(&ns))).len(), 1);
    let one = format!("{}/e", newer(&ns));
    let mut event = plain(wire.get(&one).1);
    let (code, said) = wire.strategic(&one, &json!({"note": "This is a test event - patched"}));
    assert_eq!(code, 200, "{said}");
    event["note"] = json!("This is a test event - patched");
    assert_eq!(plain(wire.get(&one).1), event);
    event["series"] = json!({"count": 100, "lastObservedTime": "2017-09-19T13:49:16.000000Z"});
    let (code, said) = wire.put(&one, &event);
    assert_eq!(code, 200, "without a version: {said}");
    assert_eq!(plain(wire.get(&one).1), event);
    assert_eq!(wire.delete(&one).0, 200);
    assert_eq!((list(wire, &everywhere).len(), list(wire, &here).len()), (0, 0));
    assert_eq!(wire.get(&format!("{}/e", core(&ns))).0, 404);
}

#[test]
fn new_events_are_deleted_by_label() {
    let ns = Namespace::new("event-new-set");
    for name in ["test-event-1", "test-event-2", "test-event-3"] {
        assert_eq!(ns.wire().post(&newer(&ns), &new_event(&ns, name, "set")).0, 201);
    }
    let mine = format!("{}?labelSelector=set%3D{}", newer(&ns), ns.name);
    assert_eq!(list(ns.wire(), &mine).len(), 3);
    assert_eq!(ns.wire().delete(&mine).0, 200);
    assert_eq!(list(ns.wire(), &mine).len(), 0);
}

/// The newer API demands what the older one only allows.
#[test]
fn new_events_must_be_complete() {
    let ns = Namespace::new("event-invalid");
    let without = |field: &str| {
        let mut event = new_event(&ns, "e", "bad");
        event.as_object_mut().unwrap().remove(field);
        let (code, said) = ns.wire().post(&newer(&ns), &event);
        assert_eq!((code, said["reason"].as_str()), (422, Some("Invalid")), "without {field}: {said}");
    };
    for field in ["eventTime", "reportingController", "reportingInstance", "action", "reason", "type"] {
        without(field);
    }
    let mut elsewhere = new_event(&ns, "e", "bad");
    elsewhere["regarding"]["namespace"] = json!("default");
    assert_eq!(ns.wire().post(&newer(&ns), &elsewhere).0, 422);
}

/// Events end by themselves, everything else does not; their watchers see it.
#[test]
fn events_expire() {
    let plane = ControlPlane::start_with(&["--event-ttl", "2"]);
    let wire = Wire::new(&plane.kubeconfig());
    let (events, maps) = ("/api/v1/namespaces/default/events", "/api/v1/namespaces/default/configmaps");
    let watch = wire.watch(&format!("{events}?watch=true&fieldSelector=metadata.name%3Dshort"));
    let event = json!({"metadata": {"name": "short"}, "message": "m", "reason": "Test", "type": "Normal", "involvedObject": {"namespace": "default"}});
    assert_eq!(wire.post(events, &event).0, 201);
    assert_eq!(wire.post(maps, &json!({"metadata": {"name": "long"}})).0, 201);
    watch.until("the event", |e| e["type"] == "ADDED");
    watch.until("its end", |e| e["type"] == "DELETED" && e["object"]["metadata"]["name"] == "short");
    assert_eq!(wire.get(&format!("{events}/short")).0, 404);
    assert_eq!(wire.get(&format!("{maps}/long")).0, 200);
}

/// A plug-in that is off by default is on where it is asked for.
#[test]
fn external_addresses_are_denied_where_wanted() {
    let service = |name: &str, addresses: Value| json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}], "externalIPs": addresses}});
    let ns = Namespace::new("external");
    ns.make("services", &service("s", json!(["192.0.2.1"])));
    let plane = ControlPlane::start_with(&["--enable-admission-plugins", "DenyServiceExternalIPs", "--api-only"]);
    let wire = Wire::new(&plane.kubeconfig());
    let path = "/api/v1/namespaces/default/services";
    let (code, said) = wire.post(path, &service("s", json!(["192.0.2.1"])));
    assert!(
        code == 403
            && said["message"].as_str().unwrap().contains("Use of external IPs is denied by admission control."),
        "{code} {said}"
    );
    let (code, said) = wire.post(path, &service("s", json!([])));
    assert_eq!(code, 201, "{said}");
}
