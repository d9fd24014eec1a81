//! CustomResourceDefinitions and the resources that they make: life, status, defaults, versions, fields to select by.
//! What they publish is in `crd_openapi.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use caravel_tests::extension::{Call, Extension, Reply};
use caravel_tests::{Namespace, Watch};
use serde_json::{Value, json};
use std::time::Duration;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// A namespace, and definitions in a group of its own that go with it.
struct World {
    ns: Namespace,
    group: String,
    made: Vec<String>,
}

impl World {
    fn new(prefix: &str) -> World {
        let ns = Namespace::new(prefix);
        let group = format!("{}.example.com", ns.name);
        World { ns, group, made: vec![] }
    }

    /// A definition of `plural`, whose kind is the singular with a capital.
    fn definition(&self, plural: &str, versions: Value) -> Value {
        let singular = plural.trim_end_matches('s');
        let kind = format!("{}{}", singular[..1].to_uppercase(), &singular[1..]);
        json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.{}", self.group), "labels": {"of": self.ns.name}},
            "spec": {"group": self.group, "scope": "Namespaced", "names": {"plural": plural, "kind": kind}, "versions": versions},
        })
    }

    /// Creates it; the path of the definition.
    fn create(&mut self, definition: &Value) -> String {
        let path = format!("{DEFINITIONS}/{}", definition["metadata"]["name"].as_str().unwrap());
        self.made.push(path.clone());
        let (code, said) = self.ns.wire().post(DEFINITIONS, definition);
        assert_eq!(code, 201, "{said}");
        path
    }

    /// Creates it and waits until its resource is served; the path of the definition.
    fn establish(&mut self, definition: &Value) -> String {
        let path = self.create(definition);
        self.ns.eventually("the definition is established", || {
            let (_, now) = self.ns.wire().get(&path);
            match condition(&now, "Established")["status"].as_str() {
                Some("True") => Ok(()),
                _ => Err(now["status"].to_string()),
            }
        });
        let version = definition["spec"]["versions"][0]["name"].as_str().unwrap();
        let plural = definition["spec"]["names"]["plural"].as_str().unwrap();
        self.ns.eventually("the resource is served", || {
            let (code, said) = self.ns.wire().get(&self.objects(version, plural));
            if code == 200 { Ok(()) } else { Err(format!("{code} {said}")) }
        });
        path
    }

    fn objects(&self, version: &str, plural: &str) -> String {
        format!("/apis/{}/{version}/namespaces/{}/{plural}", self.group, self.ns.name)
    }

    fn object(&self, version: &str, kind: &str, name: &str, more: Value) -> Value {
        let mut object =
            json!({"apiVersion": format!("{}/{version}", self.group), "kind": kind, "metadata": {"name": name}});
        object.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        object
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for path in &self.made {
            self.ns.wire().delete(path);
        }
    }
}

fn condition<'a>(definition: &'a Value, kind: &str) -> &'a Value {
    let all = definition["status"]["conditions"].as_array();
    all.into_iter().flatten().find(|c| c["type"] == kind).unwrap_or(&Value::Null)
}

fn open_version(name: &str, storage: bool) -> Value {
    json!({"name": name, "served": true, "storage": storage,
        "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}})
}

fn closed_version(name: &str, storage: bool, properties: Value) -> Value {
    json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": {"type": "object", "properties": properties}}})
}

#[test]
fn definitions_are_created_and_deleted() {
    let mut world = World::new("crd-life");
    let path = world.establish(&world.definition("things", json!([open_version("v1", true)])));
    let objects = world.objects("v1", "things");
    assert_eq!(world.ns.wire().post(&objects, &world.object("v1", "Thing", "t", json!({}))).0, 201);
    let (code, said) = world.ns.wire().delete(&path);
    assert_eq!(code, 200, "{said}");
    world.ns.eventually("the definition is gone", || match world.ns.wire().get(&path) {
        (404, _) => Ok(()),
        (code, said) => Err(format!("{code} {said}")),
    });
    world.ns.eventually("the resource is no longer served", || match world.ns.wire().get(&objects) {
        (404, _) => Ok(()),
        (code, said) => Err(format!("{code} {said}")),
    });
    // Made anew, it has none of the objects of its predecessor.
    world.establish(&world.definition("things", json!([open_version("v1", true)])));
    assert_eq!(world.ns.wire().get(&objects).1["items"], json!([]));
}

#[test]
fn definitions_are_listed_and_deleted_together() {
    let mut world = World::new("crd-list");
    for i in 0..10 {
        world.create(&world.definition(&format!("n{i}things"), json!([open_version("v1", true)])));
    }
    let mut other = world.definition("others", json!([open_version("v1", true)]));
    other["metadata"]["labels"] = json!({"other": world.ns.name});
    let other = world.establish(&other);
    let of = format!("{DEFINITIONS}?labelSelector=of%3D{}", world.ns.name);
    let (code, list) = world.ns.wire().get(&of);
    assert_eq!((code, list["items"].as_array().unwrap().len()), (200, 10));
    let (code, said) = world.ns.wire().delete(&of);
    assert_eq!(code, 200, "{said}");
    world.ns.eventually("the labelled ones are gone", || {
        let (_, list) = world.ns.wire().get(&of);
        if list["items"] == json!([]) { Ok(()) } else { Err(list.to_string()) }
    });
    assert_eq!(world.ns.wire().get(&other).0, 200, "the other one stays");
}

#[test]
fn the_status_of_a_definition_is_written_through_its_door() {
    let mut world = World::new("crd-status");
    let path = world.establish(&world.definition("things", json!([open_version("v1", true)])));
    let status = format!("{path}/status");
    let (code, read) = world.ns.wire().get(&status);
    assert_eq!((code, &read["metadata"]["name"]), (200, &json!(format!("things.{}", world.group))));
    let mine = json!({"type": "Checked", "status": "True", "reason": "E2E", "message": "by update", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let written = world.ns.eventually("the status is updated", || {
        let (_, mut now) = world.ns.wire().get(&status);
        now["status"]["conditions"].as_array_mut().unwrap().push(mine.clone());
        now["spec"]["scope"] = json!("Cluster");
        match world.ns.wire().put(&status, &now) {
            (200, written) => Ok(written),
            (code, said) => Err(format!("{code} {said}")),
        }
    });
    assert_eq!(condition(&written, "Checked"), &mine);
    assert_eq!(written["spec"]["scope"], "Namespaced", "the spec is behind another door");
    let patch = json!({"metadata": {"annotations": {"patched": "yes"}}, "status": {"conditions": [
        {"type": "Patched", "status": "True", "reason": "E2E", "message": "by patch", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    let (code, patched) = world.ns.wire().merge(&status, &patch);
    assert_eq!((code, &condition(&patched, "Patched")["message"]), (200, &json!("by patch")));
    world.ns.eventually("the server keeps its own conditions beside it", || {
        let (_, now) = world.ns.wire().get(&path);
        let all = ["Established", "NamesAccepted", "Patched"];
        if all.iter().all(|kind| condition(&now, kind)["status"] == "True") {
            Ok(())
        } else {
            Err(now["status"].to_string())
        }
    });
}

#[test]
fn definitions_are_discovered() {
    let ns = Namespace::new("crd-discovery");
    let (_, groups) = ns.wire().get("/apis");
    let group = groups["groups"].as_array().unwrap().iter().find(|g| g["name"] == "apiextensions.k8s.io").unwrap();
    let wanted = json!({"groupVersion": "apiextensions.k8s.io/v1", "version": "v1"});
    assert!(group["versions"].as_array().unwrap().contains(&wanted));
    let (code, group) = ns.wire().get("/apis/apiextensions.k8s.io");
    assert_eq!((code, &group["preferredVersion"]), (200, &wanted));
    let (_, resources) = ns.wire().get("/apis/apiextensions.k8s.io/v1");
    let row =
        resources["resources"].as_array().unwrap().iter().find(|r| r["name"] == "customresourcedefinitions").unwrap();
    assert_eq!((&row["kind"], &row["namespaced"]), (&json!("CustomResourceDefinition"), &json!(false)));
}

#[test]
fn defaults_hold_for_requests_and_for_what_is_stored() {
    let mut world = World::new("crd-default");
    let text = json!({"type": "string"});
    let with = |default: &str| json!({"type": "string", "default": default});
    let properties = |a: &Value, b: &Value| json!({"a": a, "b": b});
    let path =
        world.establish(&world.definition("things", json!([closed_version("v1", true, properties(&text, &text))])));
    let objects = world.objects("v1", "things");
    let (_, first) = world.ns.wire().post(&objects, &world.object("v1", "Thing", "first", json!({})));
    assert!(first.get("a").is_none());
    let set = |a: &Value, b: &Value| {
        let patch = json!([{"op": "replace", "path": "/spec/versions/0/schema/openAPIV3Schema/properties", "value": properties(a, b)}]);
        let (code, said) = world.ns.wire().json_patch(&path, &patch);
        assert_eq!(code, 200, "{said}");
    };
    let until = |name: &str, a: Value, b: Value| {
        world.ns.eventually(&format!("{name} has a = {a}, b = {b}"), || {
            let (_, now) = world.ns.wire().get(&format!("{objects}/{name}"));
            if (now.get("a"), now.get("b")) == (Some(&a).filter(|v| !v.is_null()), Some(&b).filter(|v| !v.is_null())) {
                Ok(())
            } else {
                Err(now.to_string())
            }
        });
    };
    set(&with("A"), &text);
    until("first", json!("A"), Value::Null);
    let (code, second) = world.ns.wire().post(&objects, &world.object("v1", "Thing", "second", json!({})));
    assert_eq!((code, &second["a"]), (201, &json!("A")));
    // Seen by a list and a watch, too.
    let (_, list) = world.ns.wire().get(&objects);
    assert!(list["items"].as_array().unwrap().iter().all(|item| item["a"] == "A"), "{list}");
    let watch = world.ns.wire().watch(&format!("{objects}?watch=true&fieldSelector=metadata.name%3Dfirst"));
    assert_eq!(watch.next(Duration::from_secs(10)).unwrap()["object"]["a"], "A");
    set(&text, &with("B"));
    until("second", json!("A"), json!("B"));
    until("first", Value::Null, json!("B"));
    // A field that the schema no longer knows is not shown any more.
    let only_b = json!([{"op": "remove", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/a"}]);
    assert_eq!(world.ns.wire().json_patch(&path, &only_b).0, 200);
    until("second", Value::Null, json!("B"));
}

fn step(watch: &Watch) -> (String, String) {
    let event = watch.next(Duration::from_secs(10)).expect("an event");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (text(&event["type"]), text(&event["object"]["metadata"]["name"]))
}

#[test]
fn custom_resources_are_watched() {
    let mut world = World::new("crd-watch");
    world.establish(&world.definition("noxus", json!([open_version("v1beta1", true)])));
    let objects = world.objects("v1beta1", "noxus");
    let watches: Vec<(&str, Watch)> = ["a", "b"]
        .map(|name| {
            (name, world.ns.wire().watch(&format!("{objects}?watch=true&fieldSelector=metadata.name%3D{name}")))
        })
        .into();
    for (name, watch) in &watches {
        let event = |kind: &str| (kind.to_owned(), (*name).to_owned());
        assert_eq!(world.ns.wire().post(&objects, &world.object("v1beta1", "Noxu", name, json!({"num": 1}))).0, 201);
        assert_eq!(step(watch), event("ADDED"));
        assert_eq!(world.ns.wire().merge(&format!("{objects}/{name}"), &json!({"num": 2})).0, 200);
        assert_eq!(step(watch), event("MODIFIED"));
        assert_eq!(world.ns.wire().delete(&format!("{objects}/{name}")).0, 200);
        assert_eq!(step(watch), event("DELETED"));
    }
    for (name, watch) in &watches {
        assert!(watch.next(Duration::from_millis(200)).is_none(), "{name} saw what is not its own");
    }
}

/// v1 has `hostPort`, v2 has `host` and `port`.
fn convert(call: &Call) -> Reply {
    let request = call.request();
    let wanted = request["desiredAPIVersion"].as_str().unwrap();
    let converted: Vec<Value> = request["objects"]
        .as_array()
        .unwrap()
        .iter()
        .map(|object| {
            let mut object = object.clone();
            if wanted.ends_with("/v2") {
                let both = object["hostPort"].as_str().unwrap_or_default().to_owned();
                let (host, port) = both.split_once(':').unwrap_or((&both, ""));
                object["host"] = json!(host);
                object["port"] = json!(port);
                object.as_object_mut().unwrap().remove("hostPort");
            } else {
                let text = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
                object["hostPort"] = json!(format!("{}:{}", text("host"), text("port")));
                object.as_object_mut().unwrap().retain(|key, _| key != "host" && key != "port");
            }
            object["apiVersion"] = json!(wanted);
            object
        })
        .collect();
    Reply::Json(json!({
        "kind": "ConversionReview", "apiVersion": call.body["apiVersion"],
        "response": {"uid": request["uid"], "convertedObjects": converted, "result": {"status": "Success"}},
    }))
}

/// A resource `hosts` in two versions with a conversion webhook; the path of its definition.
fn convertible(world: &mut World, hook: &Extension) -> String {
    let text = json!({"type": "string"});
    let mut v1 = closed_version("v1", true, json!({"hostPort": text}));
    v1["selectableFields"] = json!([{"jsonPath": ".hostPort"}]);
    let mut v2 = closed_version("v2", false, json!({"host": text, "port": text}));
    v2["selectableFields"] = json!([{"jsonPath": ".host"}, {"jsonPath": ".port"}]);
    let mut definition = world.definition("hosts", json!([v1, v2]));
    definition["spec"]["conversion"] = json!({"strategy": "Webhook", "webhook": {
        "clientConfig": hook.service(&world.ns, "hook", "/convert"), "conversionReviewVersions": ["v1", "v1beta1"]}});
    world.establish(&definition)
}

#[test]
fn one_version_is_read_as_another() {
    let mut world = World::new("crd-convert");
    let hook = Extension::start(&world.ns, "hook", convert);
    convertible(&mut world, &hook);
    let (v1, v2) = (world.objects("v1", "hosts"), world.objects("v2", "hosts"));
    let watch = world.ns.wire().watch(&format!("{v2}?watch=true"));
    let object = world.object("v1", "Host", "h", json!({"hostPort": "example.com:1234"}));
    let (code, made) = world.ns.wire().post(&v1, &object);
    assert_eq!((code, &made["hostPort"]), (201, &json!("example.com:1234")), "{made}");
    let (code, read) = world.ns.wire().get(&format!("{v2}/h"));
    assert_eq!(code, 200, "{read}");
    assert_eq!((&read["host"], &read["port"], read.get("hostPort")), (&json!("example.com"), &json!("1234"), None));
    assert_eq!(read["apiVersion"], format!("{}/v2", world.group));
    assert_eq!(
        (&read["metadata"]["uid"], &read["metadata"]["resourceVersion"]),
        (&made["metadata"]["uid"], &made["metadata"]["resourceVersion"])
    );
    let event = watch.next(Duration::from_secs(10)).unwrap();
    assert_eq!((&event["type"], &event["object"]["host"]), (&json!("ADDED"), &json!("example.com")));
    // Written in v2, stored in v1.
    let (code, said) = world.ns.wire().merge(&format!("{v2}/h"), &json!({"port": "80"}));
    assert_eq!((code, &said["port"], &said["apiVersion"]), (200, &json!("80"), &read["apiVersion"]), "{said}");
    assert_eq!(world.ns.wire().get(&format!("{v1}/h")).1["hostPort"], "example.com:80");
    let event = watch.next(Duration::from_secs(10)).unwrap();
    assert_eq!((&event["type"], &event["object"]["port"]), (&json!("MODIFIED"), &json!("80")));
    let (code, said) = world.ns.wire().post(&v2, &world.object("v2", "Host", "i", json!({"host": "x", "port": "1"})));
    assert_eq!((code, &said["host"]), (201, &json!("x")), "{said}");
    assert_eq!(world.ns.wire().get(&format!("{v1}/i")).1["hostPort"], "x:1");
    assert_eq!(world.ns.wire().delete(&format!("{v2}/h")).0, 200);
    watch.until("the deletion in v2", |e| e["type"] == "DELETED" && e["object"]["port"] == "80");
    assert!(hook.calls().iter().all(|call| call.path == "/convert?timeout=30s"));
}

#[test]
fn a_list_of_mixed_versions_is_read_as_one() {
    let mut world = World::new("crd-mixed");
    let hook = Extension::start(&world.ns, "hook", convert);
    let definition = convertible(&mut world, &hook);
    let (v1, v2) = (world.objects("v1", "hosts"), world.objects("v2", "hosts"));
    let object = world.object("v1", "Host", "one", json!({"hostPort": "example.com:1"}));
    assert_eq!(world.ns.wire().post(&v1, &object).0, 201);
    let swap = json!([
        {"op": "replace", "path": "/spec/versions/0/storage", "value": false},
        {"op": "replace", "path": "/spec/versions/1/storage", "value": true},
    ]);
    let (code, said) = world.ns.wire().json_patch(&definition, &swap);
    assert_eq!((code, &said["status"]["storedVersions"]), (200, &json!(["v1", "v2"])), "{said}");
    // Stored as v2 once the server has taken the change in: then a v1 object is converted when it is written.
    world.ns.eventually("v2 is the stored version", || {
        let before = hook.calls().len();
        let object = world.object("v2", "Host", "probe", json!({"host": "x", "port": "1"}));
        let (code, said) = world.ns.wire().post(&format!("{v2}?dryRun=All"), &object);
        let asked = hook.calls().len() > before;
        if code == 201 && !asked { Ok(()) } else { Err(format!("{code} {said}")) }
    });
    let object = world.object("v1", "Host", "two", json!({"hostPort": "example.com:2"}));
    assert_eq!(world.ns.wire().post(&v1, &object).0, 201);
    let (code, list) = world.ns.wire().get(&v2);
    assert_eq!(code, 200, "{list}");
    let seen: Vec<(&Value, &Value, &Value)> =
        list["items"].as_array().unwrap().iter().map(|i| (&i["metadata"]["name"], &i["host"], &i["port"])).collect();
    let host = json!("example.com");
    assert_eq!(seen, [(&json!("one"), &host, &json!("1")), (&json!("two"), &host, &json!("2"))]);
    let (_, list) = world.ns.wire().get(&v1);
    assert!(
        list["items"].as_array().unwrap().iter().all(|i| i["hostPort"].as_str().unwrap().starts_with("example.com:"))
    );
    // A webhook that fails is told, and what is stored in the wanted version is still read.
    drop(hook);
    let (code, said) = world.ns.wire().get(&format!("{v2}/one"));
    assert_eq!(code, 500);
    let message = said["message"].as_str().unwrap();
    assert!(message.contains(&format!("conversion webhook for {}/v2, Kind=Host failed", world.group)), "{message}");
    assert_eq!(world.ns.wire().get(&format!("{v2}/two")).0, 200);
}

#[test]
fn objects_are_selected_by_fields_in_each_version() {
    let mut world = World::new("crd-fields");
    let hook = Extension::start(&world.ns, "hook", convert);
    convertible(&mut world, &hook);
    let (v1, v2) = (world.objects("v1", "hosts"), world.objects("v2", "hosts"));
    let by = |base: &str, selector: &str| {
        format!("{base}?fieldSelector={}", selector.replace('=', "%3D").replace(',', "%2C"))
    };
    let watch_v1 = world.ns.wire().watch(&(by(&v1, "hostPort=a:80") + "&watch=true"));
    let watch_v2 = world.ns.wire().watch(&(by(&v2, "host=a,port=80") + "&watch=true"));
    for (name, both) in [("one", "a:80"), ("two", "a:81"), ("three", "b:80")] {
        let object = world.object("v1", "Host", name, json!({"hostPort": both}));
        assert_eq!(world.ns.wire().post(&v1, &object).0, 201);
    }
    let names = |path: &str| -> Vec<String> {
        let (code, list) = world.ns.wire().get(path);
        assert_eq!(code, 200, "{list}");
        list["items"].as_array().unwrap().iter().map(|i| i["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&by(&v1, "hostPort=a:80")), ["one"]);
    assert_eq!(names(&by(&v2, "host=a")), ["one", "two"]);
    assert_eq!(names(&by(&v2, "host=a,port=80")), ["one"]);
    assert_eq!(names(&by(&v2, "host!=a")), ["three"]);
    let (code, said) = world.ns.wire().get(&by(&v1, "host=a"));
    assert_eq!((code, &said["reason"]), (400, &json!("BadRequest")), "v1 has no such field: {said}");
    for watch in [&watch_v1, &watch_v2] {
        assert_eq!(step(watch), ("ADDED".into(), "one".into()));
    }
    // Out of the selection, and back in.
    assert_eq!(world.ns.wire().merge(&format!("{v2}/one"), &json!({"port": "81"})).0, 200);
    for watch in [&watch_v1, &watch_v2] {
        assert_eq!(step(watch), ("DELETED".into(), "one".into()));
    }
    assert_eq!(world.ns.wire().merge(&format!("{v1}/two"), &json!({"hostPort": "a:80"})).0, 200);
    for watch in [&watch_v1, &watch_v2] {
        assert_eq!(step(watch), ("ADDED".into(), "two".into()));
    }
    let (code, said) = world.ns.wire().delete(&by(&v2, "host=a,port=80"));
    assert_eq!(code, 200, "{said}");
    for watch in [&watch_v1, &watch_v2] {
        assert_eq!(step(watch), ("DELETED".into(), "two".into()));
    }
    assert_eq!(names(&v1), ["one", "three"]);
}

#[test]
fn names_are_given_once() {
    let mut world = World::new("crd-names");
    let mut first = world.definition("things", json!([open_version("v1", true)]));
    first["spec"]["names"]["shortNames"] = json!(["tg"]);
    let first = world.establish(&first);
    let mut second = world.definition("others", json!([open_version("v1", true)]));
    second["spec"]["names"]["kind"] = json!("Thing");
    second["spec"]["names"]["shortNames"] = json!(["tg", "ot"]);
    let second = world.create(&second);
    world.ns.eventually("the second is refused its names", || {
        let (_, now) = world.ns.wire().get(&second);
        let names = condition(&now, "NamesAccepted");
        let refused = names["status"] == "False" && names["reason"] == "ListKindConflict";
        let waits = condition(&now, "Established")["reason"] == "NotAccepted";
        if refused && waits { Ok(()) } else { Err(now["status"].to_string()) }
    });
    assert_eq!(world.ns.wire().get(&world.objects("v1", "others")).0, 404);
    assert_eq!(world.ns.wire().delete(&first).0, 200);
    world.ns.eventually("the names are free", || {
        let (_, now) = world.ns.wire().get(&second);
        if condition(&now, "Established")["status"] == "True" { Ok(()) } else { Err(now["status"].to_string()) }
    });
}

#[test]
fn nothing_is_created_of_a_definition_that_goes() {
    let mut world = World::new("crd-ends");
    let path = world.establish(&world.definition("things", json!([open_version("v1", true)])));
    let objects = world.objects("v1", "things");
    let mut held = world.object("v1", "Thing", "held", json!({}));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    assert_eq!(world.ns.wire().post(&objects, &held).0, 201);
    assert_eq!(world.ns.wire().delete(&path).0, 200);
    world.ns.eventually("its instances are being deleted", || {
        let (_, now) = world.ns.wire().get(&path);
        let (_, held) = world.ns.wire().get(&format!("{objects}/held"));
        let ends = condition(&now, "Terminating")["status"] == "True";
        if ends && held["metadata"]["deletionTimestamp"].is_string() { Ok(()) } else { Err(now.to_string()) }
    });
    let (code, said) = world.ns.wire().post(&objects, &world.object("v1", "Thing", "late", json!({})));
    assert_eq!((code, &said["reason"]), (405, &json!("MethodNotAllowed")), "{said}");
    assert_eq!(world.ns.wire().merge(&format!("{objects}/held"), &json!({"metadata": {"finalizers": null}})).0, 200);
    world.ns.eventually("it is gone", || match world.ns.wire().get(&path) {
        (404, _) => Ok(()),
        (code, said) => Err(format!("{code} {said}")),
    });
}

#[test]
fn bad_definitions_are_told_what_is_wrong() {
    let world = World::new("crd-bad");
    let good = world.definition("things", json!([closed_version("v1", true, json!({"spec": {"type": "object", "properties": {"a": {"type": "string"}, "l": {"type": "array", "items": {"type": "string"}}}}}))]));
    type Case<'a> = (&'a str, Value, &'a str);
    let cases: [Case<'_>; 7] = [
        ("/metadata/name", json!("wrong"), "metadata.name"),
        ("/spec/scope", json!("Everywhere"), "spec.scope"),
        ("/spec/versions/0/storage", json!(false), "spec.versions"),
        (
            "/spec/versions/0/schema/openAPIV3Schema/properties/spec",
            json!({"properties": {}}),
            "spec.versions[0].schema.openAPIV3Schema.properties[spec].type",
        ),
        (
            "/spec/versions/0/additionalPrinterColumns",
            json!([{"name": "x", "type": "text", "jsonPath": ".a"}]),
            "spec.versions[0].additionalPrinterColumns[0].type",
        ),
        (
            "/spec/versions/0/selectableFields",
            json!([{"jsonPath": ".spec.absent"}]),
            "spec.versions[0].selectableFields[0].jsonPath",
        ),
        (
            "/spec/versions/0/selectableFields",
            json!([{"jsonPath": ".spec.l"}]),
            "spec.versions[0].selectableFields[0].jsonPath",
        ),
    ];
    for (pointer, value, field) in cases {
        let mut bad = good.clone();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        bad.pointer_mut(parent).unwrap()[key] = value;
        let (code, said) = world.ns.wire().post(DEFINITIONS, &bad);
        assert_eq!((code, &said["reason"]), (422, &json!("Invalid")), "{pointer}: {said}");
        let causes = said["details"]["causes"].as_array().unwrap();
        assert!(causes.iter().any(|c| c["field"] == field), "{pointer}: {said}");
    }
}
