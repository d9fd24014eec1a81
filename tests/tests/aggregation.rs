//! Aggregated APIs: another server, in this process, answers a group of its own through the cluster's server.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use caravel_tests::Namespace;
use caravel_tests::extension::{Call, Extension, Reply};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Mutex;

const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";

/// An API server of one kind, `flunders`, kept in memory.
#[derive(Default)]
struct Orchard {
    objects: Mutex<BTreeMap<String, Value>>,
    group: String,
}

impl Orchard {
    fn answer(&self, call: &Call) -> Reply {
        let path = call.path.split('?').next().unwrap_or_default();
        let base = format!("/apis/{}/v1alpha1", self.group);
        if path == "/openapi/v3" {
            let here = format!("apis/{}/v1alpha1", self.group);
            return Reply::Json(
                json!({"paths": {here.clone(): {"serverRelativeURL": format!("/openapi/v3/{here}?hash=1")}}}),
            );
        }
        if path == format!("/openapi/v3{base}") {
            let kind = json!({"group": self.group, "version": "v1alpha1", "kind": "Flunder"});
            let list = json!({"get": {"responses": {}, "x-kubernetes-action": "list", "x-kubernetes-group-version-kind": kind}});
            let mut paths = json!({});
            paths[format!("{base}/namespaces/{{namespace}}/flunders")] = list;
            return Reply::Json(
                json!({"openapi": "3.0.0", "info": {"title": "orchard", "version": "v1"}, "paths": paths,
                "components": {"schemas": self.definitions("#/components/schemas")}}),
            );
        }
        if path == "/openapi/v2" {
            let same = call.header("if-none-match") == ["\"one\""];
            let (status, body) = if same { (304, vec![]) } else { (200, self.swagger().to_string().into_bytes()) };
            let headers = [("content-type", "application/json"), ("etag", "\"one\"")];
            return Reply::Plain(status, headers.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec(), body);
        }
        if path == base {
            let verbs = ["create", "delete", "get", "list"];
            return Reply::Json(
                json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": format!("{}/v1alpha1", self.group), "resources": [
                {"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "shortNames": ["fl"], "verbs": verbs},
                {"name": "flunders/status", "singularName": "", "namespaced": true, "kind": "Flunder", "verbs": ["get"]}]}),
            );
        }
        if path.ends_with("/flunders/elsewhere") {
            return Reply::Plain(302, vec![("location".into(), "https://evil.example/".into())], vec![]);
        }
        // Objects are kept by namespace: the namespace controller lists and deletes what it finds in any namespace that ends.
        let (place, rest) = match path.split_once("/flunders") {
            Some((place, rest)) => (place.to_owned(), Some(rest)),
            None => (String::new(), None),
        };
        let key = |name: &str| format!("{place}/{}", name.trim_start_matches('/'));
        let mut objects = self.objects.lock().unwrap();
        match (call.method.as_str(), rest) {
            ("POST", Some("")) => {
                let mut object = call.body.clone();
                object["metadata"]["uid"] = json!("1");
                objects.insert(key(object["metadata"]["name"].as_str().unwrap()), object.clone());
                Reply::Plain(
                    201,
                    vec![("content-type".into(), "application/json".into())],
                    object.to_string().into_bytes(),
                )
            }
            ("GET", Some("")) => {
                let here = key("");
                let items: Vec<&Value> =
                    objects.iter().filter(|(key, _)| key.starts_with(&here)).map(|(_, v)| v).collect();
                Reply::Json(
                    json!({"kind": "FlunderList", "apiVersion": format!("{}/v1alpha1", self.group), "metadata": {}, "items": items}),
                )
            }
            ("GET", Some(name)) => match objects.get(&key(name)) {
                Some(object) => Reply::Json(object.clone()),
                None => Reply::Plain(
                    404,
                    vec![("content-type".into(), "application/json".into())],
                    br#"{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404}"#
                        .to_vec(),
                ),
            },
            ("DELETE", Some(name)) => {
                objects.remove(&key(name));
                Reply::Json(json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
            }
            _ => Reply::Plain(404, vec![], vec![]),
        }
    }
}

/// Of each type of metadata the cluster's server has one of the same name, which says something else.
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

impl Orchard {
    fn definitions(&self, at: &str) -> Value {
        let name = format!("{}.v1alpha1.Flunder", self.group);
        json!({
            name: {"type": "object", "description": "Flunder grows on trees.", "properties": {
                "metadata": {"$ref": format!("{at}/{META}"), "description": "About it."},
                "juice": {"type": "integer", "format": "int32", "description": "How much it holds, in litres."}},
                "x-kubernetes-group-version-kind": [{"group": self.group, "version": "v1alpha1", "kind": "Flunder"}]},
            META: {"type": "object", "description": "Metadata of the orchard.", "properties": {"name": {"type": "string"}}},
            "Hidden": {"type": "string"},
        })
    }

    fn swagger(&self) -> Value {
        let answer =
            |name: &str| json!({"200": {"description": "OK", "schema": {"$ref": format!("#/definitions/{name}")}}});
        let kind = json!({"group": self.group, "version": "v1alpha1", "kind": "Flunder"});
        let mut paths = json!({"/api/v1/secrets": {"get": {"responses": answer("Hidden")}}});
        paths[format!("/apis/{}/v1alpha1/namespaces/{{namespace}}/flunders", self.group)] = json!({
            "get": {"operationId": "listFlunder", "parameters": [{"$ref": "#/parameters/pretty-orchard"}],
                "responses": answer(&format!("{}.v1alpha1.Flunder", self.group)),
                "x-kubernetes-action": "list", "x-kubernetes-group-version-kind": kind}});
        json!({
            "swagger": "2.0", "info": {"title": "orchard", "version": "v1"}, "paths": paths,
            "definitions": self.definitions("#/definitions"),
            "parameters": {"pretty-orchard": {"name": "pretty", "in": "query", "type": "string"}, "unused": {"name": "x", "in": "query", "type": "string"}},
        })
    }
}

struct World {
    ns: Namespace,
    group: String,
    server: Option<Extension>,
    name: String,
}

impl World {
    fn new(prefix: &str) -> World {
        let ns = Namespace::new(prefix);
        let group = format!("{}.wardle.example.com", ns.name);
        let orchard = Orchard { group: group.clone(), ..Orchard::default() };
        let server = Some(Extension::start(&ns, "sample-api", move |call| orchard.answer(call)));
        World { name: format!("v1alpha1.{group}"), ns, group, server }
    }

    fn service(&self) -> Value {
        json!({
            "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
            "metadata": {"name": self.name, "labels": {"of": self.ns.name}},
            "spec": {"group": self.group, "version": "v1alpha1", "groupPriorityMinimum": 2000, "versionPriority": 200,
                "service": {"namespace": self.ns.name, "name": "sample-api"}, "caBundle": self.server.as_ref().unwrap().bundle()},
        })
    }

    fn register(&self, change: impl FnOnce(&mut Value)) {
        let mut service = self.service();
        change(&mut service);
        let (code, said) = self.ns.wire().post(SERVICES, &service);
        assert_eq!(code, 201, "{said}");
    }

    fn path(&self) -> String {
        format!("{SERVICES}/{}", self.name)
    }

    fn flunders(&self) -> String {
        format!("/apis/{}/v1alpha1/namespaces/{}/flunders", self.group, self.ns.name)
    }

    fn until_condition(&self, status: &str, reason: &str) -> Value {
        self.ns.eventually(&format!("it is available: {status}, {reason}"), || {
            let (_, now) = self.ns.wire().get(&self.path());
            let all = now["status"]["conditions"].as_array();
            let found = all.into_iter().flatten().find(|c| c["type"] == "Available").cloned().unwrap_or_default();
            if found["status"] == status && found["reason"] == reason {
                Ok(found)
            } else {
                Err(now["status"].to_string())
            }
        })
    }

    fn aggregated(&self) -> Value {
        let accept = [("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")];
        let (code, document) = self.ns.wire().send("GET", "/apis", &accept, vec![]);
        assert_eq!(code, 200);
        document["items"]
            .as_array()
            .unwrap()
            .iter()
            .find(|g| g["metadata"]["name"] == self.group)
            .cloned()
            .unwrap_or_default()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.ns.wire().delete(&self.path());
    }
}

fn header<'a>(call: &'a Call, name: &str) -> Vec<&'a str> {
    call.header(name)
}

#[test]
fn another_server_answers_its_group() {
    let world = World::new("agg");
    assert_eq!(world.ns.wire().get(&world.flunders()).0, 404);
    world.register(|_| {});
    let condition = world.until_condition("True", "Passed");
    assert_eq!(condition["message"], "all checks passed");

    let flunder = json!({"apiVersion": format!("{}/v1alpha1", world.group), "kind": "Flunder", "metadata": {"name": "rest-flunder"}});
    assert_eq!(world.ns.wire().post(&world.flunders(), &flunder).0, 201);
    let (code, list) = world.ns.wire().get(&world.flunders());
    assert_eq!((code, list["items"].as_array().unwrap().len()), (200, 1));
    assert_eq!(world.ns.wire().get(&format!("{}/rest-flunder", world.flunders())).1["kind"], "Flunder");
    let (code, said) = world.ns.wire().get(&format!("{}/none", world.flunders()));
    assert_eq!((code, &said["reason"]), (404, &json!("NotFound")), "its answers come through as they are");
    assert_eq!(world.ns.wire().delete(&format!("{}/rest-flunder", world.flunders())).0, 200);
    assert_eq!(world.ns.wire().get(&world.flunders()).1["items"], json!([]));

    // Who asks is said in headers, and a certificate vouches for it.
    let lie = [
        ("x-remote-user", "somebody"),
        ("x-remote-group", "nobodies"),
        ("connection", "x-remote-user, x-remote-group"),
        ("impersonate-user", "jane"),
        ("impersonate-group", "system:masters"),
        ("impersonate-extra-scopes", "view"),
    ];
    let path = format!("{}?limit=7", world.flunders());
    assert_eq!(world.ns.wire().send("GET", &path, &lie, vec![]).0, 200);
    let calls = world.server.as_ref().unwrap().calls();
    let call = calls.iter().find(|call| call.path.ends_with("limit=7")).unwrap();
    assert_eq!(header(call, "x-remote-user"), ["jane"]);
    assert_eq!(header(call, "x-remote-group"), ["system:masters", "system:authenticated"]);
    assert_eq!(header(call, "x-remote-extra-scopes"), ["view"]);
    assert!(header(call, "authorization").is_empty() && header(call, "impersonate-user").is_empty());
    assert!(calls.iter().all(|call| call.with_certificate));

    // kubectl and discovery know the group.
    let (_, groups) = world.ns.wire().get("/apis");
    let group = groups["groups"].as_array().unwrap().iter().find(|g| g["name"] == world.group).unwrap();
    assert_eq!(group["preferredVersion"]["version"], "v1alpha1");
    let (_, one) = world.ns.wire().get(&format!("/apis/{}", world.group));
    assert_eq!((&one["kind"], &one["versions"]), (&json!("APIGroup"), &group["versions"]));
    let (_, resources) = world.ns.wire().get(&format!("/apis/{}/v1alpha1", world.group));
    assert_eq!(resources["resources"][0]["name"], "flunders");
    let aggregated = world.aggregated();
    let version = &aggregated["versions"][0];
    assert_eq!((&version["version"], &version["freshness"]), (&json!("v1alpha1"), &json!("Current")));
    let row = &version["resources"][0];
    assert_eq!(
        (&row["resource"], &row["scope"], &row["shortNames"]),
        (&json!("flunders"), &json!("Namespaced"), &json!(["fl"]))
    );
    assert_eq!(row["subresources"][0]["subresource"], "status");
    let (_, index) = world.ns.wire().get("/openapi/v3");
    let url =
        index["paths"][format!("apis/{}/v1alpha1", world.group)]["serverRelativeURL"].as_str().unwrap().to_owned();
    assert_eq!(world.ns.wire().get(&url).1["info"]["title"], "orchard");
    world.ns.ok(&["get", &format!("flunders.{}", world.group)]);

    // A redirect is not handed on, nor does a path climb.
    let (code, said) = world.ns.wire().get(&format!("{}/elsewhere", world.flunders()));
    assert_eq!(code, 502, "{said}");
    let (code, _) = world.ns.wire().get(&format!("{}/%2e%2e/x", world.flunders()));
    assert_eq!(code, 400);

    // Deleted, the group is gone.
    assert_eq!(world.ns.wire().delete(&world.path()).0, 200);
    world.ns.eventually("the group is gone", || {
        let (code, _) = world.ns.wire().get(&world.flunders());
        let (_, groups) = world.ns.wire().get("/apis");
        let listed = groups["groups"].as_array().unwrap().iter().any(|g| g["name"] == world.group);
        if code == 404 && !listed && world.aggregated().is_null() { Ok(()) } else { Err(format!("{code}")) }
    });
}

/// The one document of OpenAPI version 2 has the kinds of other servers, as long as they are registered.
#[test]
fn one_document_describes_all_kinds() {
    let mut world = World::new("agg-openapi");
    let name = format!("{}.v1alpha1.Flunder", world.group);
    let path = format!("/apis/{}/v1alpha1/namespaces/{{namespace}}/flunders", world.group);
    let whole = || world.ns.wire().get("/openapi/v2").1;
    let own = whole();
    world.register(|_| {});
    world.until_condition("True", "Passed");
    let merged = world.ns.eventually("its definitions are there", || {
        let document = whole();
        if document["definitions"][&name].is_object() { Ok(document) } else { Err("not yet".to_owned()) }
    });
    // The kind, under its own path; nothing else of that server, and nothing that was there is another.
    let get = &merged["paths"][&path]["get"];
    assert_eq!(get["responses"]["200"]["schema"]["$ref"], format!("#/definitions/{name}"));
    assert_eq!(get["parameters"][0]["$ref"], "#/parameters/pretty-orchard");
    assert_eq!(merged["parameters"]["pretty-orchard"]["in"], "query");
    assert!(merged["parameters"].get("unused").is_none() && merged["definitions"].get("Hidden").is_none());
    assert_eq!(merged["paths"]["/api/v1/secrets"], own["paths"]["/api/v1/secrets"]);
    assert_eq!(merged["definitions"][META], own["definitions"][META]);
    // What has the name of something else has another, or that which another test's server of the same kind brought.
    let meta = merged["definitions"][&name]["properties"]["metadata"]["$ref"].as_str().unwrap();
    let meta = meta.strip_prefix("#/definitions/").unwrap();
    assert!(meta.starts_with(&format!("{META}_v")), "{meta}");
    assert_eq!(merged["definitions"][meta]["description"], "Metadata of the orchard.");

    // kubectl reads it, in protobuf, and the document of version 3, which is the server's own.
    let version = format!("--api-version={}/v1alpha1", world.group);
    for output in ["plaintext", "plaintext-openapiv2"] {
        let said = world.ns.eventually("kubectl explains it", || {
            world.ns.try_kubectl(&["explain", "flunders", &version, "--output", output])
        });
        assert!(said.contains("Flunder grows on trees.") && said.contains("juice"), "{output}: {said}");
        let said = world.ns.ok(&["explain", "flunders.juice", &version, "--output", output]);
        assert!(said.contains("in litres"), "{output}: {said}");
        let said = world.ns.ok(&["explain", "flunders.metadata", &version, "--output", output]);
        // Through the reference, to the one of the two types of that name that is meant.
        assert!(said.contains("Metadata of the orchard.") && said.contains("name"), "{output}: {said}");
    }

    // A server that does not answer keeps its place; one that is not registered any more has none.
    world.server = None;
    world.ns.eventually("its requests fail", || match world.ns.wire().get(&world.flunders()) {
        (503, _) => Ok(()),
        (code, said) => Err(format!("{code} {said}")),
    });
    let whole = || world.ns.wire().get("/openapi/v2").1;
    assert!(whole()["definitions"][&name].is_object());
    assert_eq!(world.ns.wire().delete(&world.path()).0, 200);
    world.ns.eventually("its definitions are gone", || {
        let document = whole();
        let left = document["definitions"].get(&name).is_some() || document["paths"].get(&path).is_some();
        if left { Err("it is still there".to_owned()) } else { Ok(()) }
    });
}

#[test]
fn an_api_service_is_an_object_like_others() {
    let world = World::new("agg-object");
    world.register(|_| {});
    world.until_condition("True", "Passed");
    let (code, list) = world.ns.wire().get(&format!("{SERVICES}?labelSelector=of%3D{}", world.ns.name));
    assert_eq!((code, list["items"].as_array().unwrap().len()), (200, 1));
    let (code, status) = world.ns.wire().get(&format!("{}/status", world.path()));
    assert_eq!((code, &status["kind"]), (200, &json!("APIService")));
    let mine = json!({"type": "StatusPatched", "status": "True", "reason": "E2E", "message": "by patch", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let add = json!([{"op": "add", "path": "/status/conditions/-", "value": mine}]);
    let (code, said) = world.ns.wire().json_patch(&format!("{}/status", world.path()), &add);
    assert_eq!(code, 200, "{said}");
    assert!(said["status"]["conditions"].as_array().unwrap().contains(&mine));
    let (code, said) = world.ns.wire().merge(&world.path(), &json!({"metadata": {"labels": {"patched": "yes"}}}));
    assert_eq!((code, &said["metadata"]["labels"]["patched"]), (200, &json!("yes")));
    world.ns.eventually("it is updated", || {
        let (_, mut now) = world.ns.wire().get(&world.path());
        now["metadata"]["labels"]["updated"] = json!("yes");
        match world.ns.wire().put(&world.path(), &now) {
            (200, _) => Ok(()),
            (code, said) => Err(format!("{code} {said}")),
        }
    });
    let text = world.ns.ok(&["get", "apiservice", &world.name]);
    assert!(
        text.contains("SERVICE") && text.contains(&format!("{}/sample-api", world.ns.name)) && text.contains("True"),
        "{text}"
    );
    let (code, said) = world.ns.wire().delete(&format!("{SERVICES}?labelSelector=of%3D{}", world.ns.name));
    assert_eq!(code, 200, "{said}");
    world.ns.eventually("it is gone", || match world.ns.wire().get(&world.path()) {
        (404, _) => Ok(()),
        (code, said) => Err(format!("{code} {said}")),
    });
}

#[test]
fn what_cannot_be_reached_is_unavailable() {
    let mut world = World::new("agg-down");
    world.register(|service| service["spec"]["service"]["name"] = json!("absent"));
    world.until_condition("False", "ServiceNotFound");
    let (code, said) = world.ns.wire().get(&world.flunders());
    assert_eq!((code, said.as_str().unwrap().trim()), (503, "service unavailable"));
    // A server that nobody vouches for is not believed, unless that is said.
    let edit = |world: &World, change: &dyn Fn(&mut Value)| {
        world.ns.eventually("the APIService is changed", || {
            let (_, mut now) = world.ns.wire().get(&world.path());
            change(&mut now["spec"]);
            match world.ns.wire().put(&world.path(), &now) {
                (200, _) => Ok(()),
                (code, said) => Err(format!("{code} {said}")),
            }
        });
    };
    edit(&world, &|spec| {
        spec["service"]["name"] = json!("sample-api");
        spec.as_object_mut().unwrap().remove("caBundle");
    });
    let condition = world.until_condition("False", "FailedDiscoveryCheck");
    assert!(condition["message"].as_str().unwrap().contains("x509"), "{condition}");
    edit(&world, &|spec| spec["insecureSkipTLSVerify"] = json!(true));
    world.until_condition("True", "Passed");
    assert_eq!(world.ns.wire().get(&world.flunders()).0, 200);
    // The server goes, and that is found out by the first request that fails.
    world.server = None;
    world.ns.eventually("its requests fail", || match world.ns.wire().get(&world.flunders()) {
        (503, _) => Ok(()),
        (code, said) => Err(format!("{code} {said}")),
    });
    world.until_condition("False", "FailedDiscoveryCheck");
    let stale = world.aggregated();
    assert_eq!(
        (&stale["versions"][0]["freshness"], &stale["versions"][0]["resources"][0]["resource"]),
        (&json!("Stale"), &json!("flunders"))
    );
    assert_eq!(world.ns.wire().get("/api/v1/namespaces/default").0, 200, "the rest goes on");
}

#[test]
fn own_groups_have_api_services() {
    let ns = Namespace::new("agg-local");
    let find = |name: &str| ns.wire().get(&format!("{SERVICES}/{name}"));
    for (name, minimum, priority) in [("v1.", 18_000, 1), ("v1.apps", 17_800, 15), ("v2.autoscaling", 17_500, 30)] {
        let found = ns.eventually(name, || match find(name) {
            (200, found) if found["status"]["conditions"][0]["reason"] == "Local" => Ok(found),
            (code, said) => Err(format!("{code} {said}")),
        });
        assert_eq!(found["metadata"]["labels"]["kube-aggregator.kubernetes.io/automanaged"], "onstart");
        assert_eq!(
            (&found["spec"]["groupPriorityMinimum"], &found["spec"]["versionPriority"]),
            (&json!(minimum), &json!(priority))
        );
        let condition = &found["status"]["conditions"][0];
        assert_eq!((&condition["type"], &condition["status"]), (&json!("Available"), &json!("True")));
    }
    let group = format!("{}.example.com", ns.name);
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": format!("things.{group}")},
        "spec": {"group": group, "scope": "Cluster", "names": {"plural": "things", "kind": "Thing"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]},
    });
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    assert_eq!(ns.wire().post(definitions, &definition).0, 201);
    let name = format!("v1.{group}");
    let found = ns.eventually("the custom group has one", || match find(&name) {
        (200, found) => Ok(found),
        (code, said) => Err(format!("{code} {said}")),
    });
    assert_eq!(
        (&found["spec"]["groupPriorityMinimum"], &found["spec"]["versionPriority"]),
        (&json!(1000), &json!(100))
    );
    assert_eq!(ns.wire().delete(&format!("{definitions}/things.{group}")).0, 200);
    ns.eventually("it goes with the group", || match find(&name) {
        (404, _) => Ok(()),
        (code, said) => Err(format!("{code} {said}")),
    });
    let (code, said) = ns.wire().post(SERVICES, &json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": "wrong"}, "spec": {"group": "g.example.com", "version": "v1", "groupPriorityMinimum": 0, "versionPriority": 1}}));
    assert_eq!(code, 422, "{said}");
}

#[test]
fn extension_servers_learn_whom_to_trust() {
    let ns = Namespace::new("agg-trust");
    let (code, map) = ns.wire().get("/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication");
    assert_eq!(code, 200);
    for key in ["client-ca-file", "requestheader-client-ca-file"] {
        assert!(map["data"][key].as_str().unwrap().starts_with("-----BEGIN CERTIFICATE-----"), "{key}");
    }
    assert_eq!(map["data"]["requestheader-allowed-names"], "[\"front-proxy-client\"]");
    assert_eq!(map["data"]["requestheader-username-headers"], "[\"X-Remote-User\"]");
    let role =
        "/apis/rbac.authorization.k8s.io/v1/namespaces/kube-system/roles/extension-apiserver-authentication-reader";
    let (code, role) = ns.wire().get(role);
    assert_eq!(code, 200);
    assert_eq!(role["rules"][0]["resourceNames"], json!(["extension-apiserver-authentication"]));
}
