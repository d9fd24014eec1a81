//! Endpoints, EndpointSlices, and what Ingress objects promise to their controllers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use caravel_tests::{Namespace, Net};
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn text(value: &Value, pointer: &str) -> String {
    match value.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(other) if !other.is_null() => other.to_string(),
        _ => String::new(),
    }
}

fn items(list: &Value) -> Vec<Value> {
    list["items"].as_array().cloned().unwrap_or_default()
}

fn sleeper(name: &str, labels: Value, ports: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": "test/busybox:1", "command": ["sleep", "3600"], "ports": ports}],
        },
    })
}

fn service(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

fn slices_of(ns: &Namespace, service: &str) -> Vec<Value> {
    let path = ns.under("apis/discovery.k8s.io/v1/endpointslices");
    items(&ns.must("GET", &format!("{path}?labelSelector=kubernetes.io%2Fservice-name%3D{service}"), &Value::Null))
}

fn slice(name: &str, service: &str, ports: Value, addresses: &[&str]) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service, "endpointslice.kubernetes.io/managed-by": "a-test"}},
        "addressType": "IPv4", "ports": ports,
        "endpoints": addresses.iter().map(|a| json!({"addresses": [a]})).collect::<Vec<_>>(),
    })
}

/// What the API promises for every kind: all verbs, with what each must give.
struct Kind<'a> {
    group: &'a str,
    plural: &'a str,
    namespaced: bool,
    /// An object without name.
    object: Value,
}

impl Kind<'_> {
    fn collection(&self, ns: &Namespace) -> String {
        match self.namespaced {
            true => ns.under(&format!("apis/{}/v1/{}", self.group, self.plural)),
            false => format!("/apis/{}/v1/{}", self.group, self.plural),
        }
    }

    fn is_discovered(&self, ns: &Namespace) {
        let groups = ns.must("GET", "/apis", &Value::Null);
        let group = groups["groups"].as_array().unwrap().iter().find(|g| g["name"] == self.group).expect("the group");
        let has_v1 = |group: &Value| group["versions"].as_array().unwrap().iter().any(|v| v["version"] == "v1");
        assert!(has_v1(group) && has_v1(&ns.must("GET", &format!("/apis/{}", self.group), &Value::Null)));
        let resources = ns.must("GET", &format!("/apis/{}/v1", self.group), &Value::Null);
        let resource =
            resources["resources"].as_array().unwrap().iter().find(|r| r["name"] == self.plural).expect("the kind");
        for verb in ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"] {
            assert!(resource["verbs"].as_array().unwrap().contains(&json!(verb)), "{verb}: {resource}");
        }
    }

    /// Goes through all verbs; `status` is tried on one object that exists.
    fn operations(&self, ns: &Namespace, status: impl FnOnce(&str)) {
        self.is_discovered(ns);
        let path = self.collection(ns);
        let mut object = self.object.clone();
        object["metadata"] = json!({"generateName": "e2e-", "labels": {"special": ns.name}});
        let select = format!("{path}?labelSelector=special%3D{}", ns.name);
        let made: Vec<Value> = (0..3).map(|_| ns.must("POST", &path, &object)).collect();
        let one = format!("{path}/{}", text(&made[0], "/metadata/name"));
        assert_eq!(text(&ns.must("GET", &one, &Value::Null), "/metadata/uid"), text(&made[0], "/metadata/uid"));
        let list = ns.must("GET", &select, &Value::Null);
        assert_eq!(items(&list).len(), 3);
        if self.namespaced {
            let all = format!("/apis/{}/v1/{}?labelSelector=special%3D{}", self.group, self.plural, ns.name);
            assert_eq!(items(&ns.must("GET", &all, &Value::Null)).len(), 3);
        }
        let watch = ns.watch(&format!("{select}&resourceVersion={}", text(&list, "/metadata/resourceVersion")));
        let patched = ns.must("PATCH", &one, &json!({"metadata": {"annotations": {"patched": "true"}}}));
        assert_eq!(text(&patched, "/metadata/annotations/patched"), "true");
        let mut next = patched;
        next["metadata"]["annotations"]["updated"] = json!("true");
        assert_eq!(text(&ns.must("PUT", &one, &next), "/metadata/annotations/updated"), "true");
        watch.until_type("MODIFIED", "the patch", |o| o["metadata"]["annotations"]["patched"] == "true");
        watch.until_type("MODIFIED", "the update", |o| o["metadata"]["annotations"]["updated"] == "true");
        status(&one);
        ns.must("DELETE", &one, &Value::Null);
        watch.until_type("DELETED", "the name", |o| o["metadata"]["uid"] == made[0]["metadata"]["uid"]);
        ns.eventually("it is gone", || match ns.call("GET", &one, &Value::Null) {
            (404, _) => Ok(()),
            (code, _) => Err(code.to_string()),
        });
        assert_eq!(items(&ns.must("GET", &select, &Value::Null)).len(), 2);
        ns.must("DELETE", &select, &Value::Null);
        assert_eq!(items(&ns.must("GET", &select, &Value::Null)).len(), 0);
    }
}

#[test]
fn endpoint_slices_have_all_verbs() {
    let ns = Namespace::new("sliceapi");
    let object = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "endpoints": [{"addresses": ["1.2.3.4", "5.6.7.8"]}, {"addresses": ["2.2.3.4", "6.6.7.8"]}],
    });
    Kind { group: "discovery.k8s.io", plural: "endpointslices", namespaced: true, object }.operations(&ns, |_| {});
}

mod ingress {
    use super::*;

    #[test]
    fn ingresses_have_all_verbs_and_a_status() {
        let ns = Namespace::new("ingapi");
        let backend = json!({"service": {"name": "default-backend", "port": {"number": 80}}});
        let object = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
            "spec": {"defaultBackend": backend, "rules": []},
        });
        let kind = Kind { group: "networking.k8s.io", plural: "ingresses", namespaced: true, object };
        kind.operations(&ns, |one| {
            let status = format!("{one}/status");
            let patch = json!({"metadata": {"annotations": {"patchedstatus": "true"}},
                "status": {"loadBalancer": {"ingress": [{"ip": "169.1.1.1"}]}}});
            let patched = ns.must("PATCH", &status, &patch);
            assert_eq!(text(&patched, "/status/loadBalancer/ingress/0/ip"), "169.1.1.1");
            assert_eq!(text(&patched, "/metadata/annotations/patchedstatus"), "true");
            let mut next = ns.must("GET", one, &Value::Null);
            next["status"]["loadBalancer"]["ingress"] = json!([{"ip": "169.1.1.2"}]);
            next["spec"]["defaultBackend"]["service"]["name"] = json!("not-by-status");
            let updated = ns.must("PUT", &status, &next);
            assert_eq!(text(&updated, "/status/loadBalancer/ingress/0/ip"), "169.1.1.2");
            assert_eq!(text(&updated, "/spec/defaultBackend/service/name"), "default-backend");
            let got = ns.must("GET", &status, &Value::Null);
            assert_eq!((text(&got, "/kind"), text(&got, "/status")), ("Ingress".into(), text(&updated, "/status")));
        });
    }

    #[test]
    fn ingress_classes_have_all_verbs() {
        let ns = Namespace::new("ingclass");
        let object = json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "spec": {"controller": "example.com/controller"}});
        Kind { group: "networking.k8s.io", plural: "ingressclasses", namespaced: false, object }
            .operations(&ns, |_| {});
    }
}

#[test]
fn endpoints_have_a_life_of_their_own() {
    let ns = Namespace::new("eplife");
    let path = ns.under("api/v1/endpoints");
    let watch = ns.watch(&format!("{path}?labelSelector=static%3Dyes"));
    let object = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "e", "labels": {"static": "yes"}},
        "subsets": [{"addresses": [{"ip": "10.0.0.24"}], "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}]});
    let made = ns.must("POST", &path, &object);
    watch.until_type("ADDED", "the name", |o| o["metadata"]["name"] == "e");
    let all = ns.must("GET", "/api/v1/endpoints?labelSelector=static%3Dyes", &Value::Null);
    assert!(items(&all).iter().any(|e| e["metadata"]["uid"] == made["metadata"]["uid"]));
    let mut next = made.clone();
    next["metadata"]["labels"]["more"] = json!("updated");
    ns.must("PUT", &format!("{path}/e"), &next);
    watch.until_type("MODIFIED", "the label", |o| o["metadata"]["labels"]["more"] == "updated");
    let patch = json!({"metadata": {"labels": {"more": "patched"}},
        "subsets": [{"addresses": [{"ip": "10.0.0.25"}], "ports": [{"name": "http-test", "port": 8080}]}]});
    let (code, _) = ns.wire().strategic(&format!("{path}/e"), &patch);
    assert_eq!(code, 200);
    watch.until_type("MODIFIED", "the patch", |o| o["metadata"]["labels"]["more"] == "patched");
    let got = ns.must("GET", &format!("{path}/e"), &Value::Null);
    let subset = &got["subsets"][0];
    assert_eq!(
        (text(subset, "/addresses/0/ip"), text(subset, "/ports/0/name"), text(subset, "/ports/0/port")),
        ("10.0.0.25".into(), "http-test".into(), "8080".into()),
        "{got}"
    );
    assert_eq!(got["subsets"].as_array().unwrap().len(), 1);
    let (code, _) = ns.call("DELETE", &format!("{path}?labelSelector=static%3Dyes"), &Value::Null);
    assert_eq!(code, 200);
    watch.until_type("DELETED", "the name", |o| o["metadata"]["name"] == "e");
}

#[test]
fn a_service_without_pods_has_empty_endpoints_while_it_lives() {
    let ns = Namespace::new("epempty");
    let spec =
        json!({"selector": {"matches": "nothing"}, "ports": [{"name": "example", "port": 80, "protocol": "TCP"}]});
    ns.make("services", &service("s", spec));
    let endpoints = ns.until_that("endpoints/s", |_| true);
    assert!(endpoints["subsets"].as_array().is_none_or(Vec::is_empty), "{endpoints}");
    let slice = ns.eventually("a slice", || slices_of(&ns, "s").pop().ok_or("none".into()));
    assert_eq!(
        text(&slice, "/metadata/labels/endpointslice.kubernetes.io~1managed-by"),
        "endpointslice-controller.k8s.io"
    );
    assert!(slice["endpoints"].as_array().is_none_or(Vec::is_empty), "{slice}");
    assert_eq!(text(&slice, "/metadata/ownerReferences/0/name"), "s");
    ns.must("DELETE", &ns.under("api/v1/services/s"), &Value::Null);
    ns.until_gone("endpoints/s");
    ns.eventually("the slices are gone", || match slices_of(&ns, "s").len() {
        0 => Ok(()),
        n => Err(format!("{n}")),
    });
}

/// Endpoints of all slices of a Service, as `pod port-name:port`, and how many slices there are.
fn led_to(ns: &Namespace, service: &str) -> (BTreeSet<String>, usize) {
    let mut all = BTreeSet::new();
    let slices = slices_of(ns, service);
    for slice in &slices {
        for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
            let reference = &endpoint["targetRef"];
            assert_eq!((text(reference, "/kind"), text(reference, "/namespace")), ("Pod".into(), ns.name.clone()));
            let pod = ns.get(&format!("pod/{}", text(reference, "/name")));
            assert_eq!(endpoint["addresses"], json!([pod["status"]["podIP"]]));
            assert_eq!((&endpoint["nodeName"], &reference["uid"]), (&pod["spec"]["nodeName"], &pod["metadata"]["uid"]));
            for port in slice["ports"].as_array().into_iter().flatten() {
                assert_eq!(text(port, "/protocol"), "TCP");
                all.insert(format!("{} {}:{}", text(reference, "/name"), text(port, "/name"), port["port"]));
            }
        }
    }
    (all, slices.len())
}

fn led_to_by_endpoints(ns: &Namespace, service: &str) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    let Ok(endpoints) = ns.try_get(&format!("endpoints/{service}")) else { return BTreeSet::from(["absent".into()]) };
    for subset in endpoints["subsets"].as_array().into_iter().flatten() {
        for address in subset["addresses"].as_array().into_iter().flatten() {
            for port in subset["ports"].as_array().into_iter().flatten() {
                all.insert(format!("{} {}:{}", text(address, "/targetRef/name"), text(port, "/name"), port["port"]));
            }
        }
    }
    all
}

#[test]
fn pods_of_a_service_are_its_endpoints_by_number_and_by_name() {
    let ns = Namespace::new("eppods");
    ns.make(
        "pods",
        &sleeper(
            "pod1",
            json!({"pod1": "on", "shared": "on"}),
            json!([{"name": "example-name", "containerPort": 3000}]),
        ),
    );
    let ports = json!([{"name": "example-name", "containerPort": 3001}, {"name": "other-port", "containerPort": 3002}]);
    ns.make("pods", &sleeper("pod2", json!({"pod2": "on", "shared": "on"}), ports));
    let spec = |selector: &str, name: &str, target: Value| {
        json!({"selector": {selector: "on"}, "publishNotReadyAddresses": true,
            "ports": [{"name": name, "port": 80, "targetPort": target, "protocol": "TCP"}]})
    };
    ns.make("services", &service("int-port", spec("pod1", "example", json!(3000))));
    ns.make("services", &service("named-port", spec("shared", "http", json!("example-name"))));
    ns.make("services", &service("no-match", spec("pod3", "no-match", json!(8080))));
    let becomes = |service: &str, wanted: &[&str], slices: usize| {
        let wanted: BTreeSet<String> = wanted.iter().map(|w| (*w).to_owned()).collect();
        ns.eventually(&format!("{service} is {wanted:?} in {slices} slices"), || {
            let (found, old) = (led_to(&ns, service), led_to_by_endpoints(&ns, service));
            if found == (wanted.clone(), slices) && old == wanted { Ok(()) } else { Err(format!("{found:?} {old:?}")) }
        });
    };
    becomes("int-port", &["pod1 example:3000"], 1);
    becomes("named-port", &["pod1 http:3000", "pod2 http:3001"], 2);
    becomes("no-match", &[], 1);
    // Slices that somebody deletes come again.
    for slice in slices_of(&ns, "named-port") {
        ns.must(
            "DELETE",
            &ns.under(&format!("apis/discovery.k8s.io/v1/endpointslices/{}", text(&slice, "/metadata/name"))),
            &Value::Null,
        );
    }
    becomes("named-port", &["pod1 http:3000", "pod2 http:3001"], 2);
}

#[test]
fn custom_endpoints_are_mirrored() {
    let ns = Namespace::new("epmirror");
    ns.make("services", &service("s", json!({"ports": [{"name": "example", "port": 80, "protocol": "TCP"}]})));
    let mut object = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "s"},
        "subsets": [{"addresses": [{"ip": "10.1.2.3"}], "ports": [{"port": 80}]}]});
    ns.make("endpoints", &object);
    let mirrored = |address: &str| {
        ns.eventually(&format!("a mirror of {address}"), || match &slices_of(&ns, "s")[..] {
            [slice]
                if slice["endpoints"].as_array().is_some_and(|e| e.len() == 1)
                    && slice["endpoints"][0]["addresses"] == json!([address])
                    && slice["ports"].as_array().is_some_and(|p| p.len() == 1)
                    && slice["ports"][0]["port"] == 80 =>
            {
                Ok(slice.clone())
            }
            other => Err(format!("{other:?}")),
        })
    };
    let first = mirrored("10.1.2.3");
    assert_eq!(
        text(&first, "/metadata/labels/endpointslice.kubernetes.io~1managed-by"),
        "endpointslicemirroring-controller.k8s.io"
    );
    object["subsets"][0]["addresses"] = json!([{"ip": "10.2.3.4"}]);
    ns.must("PUT", &ns.under("api/v1/endpoints/s"), &object);
    mirrored("10.2.3.4");
    ns.must("DELETE", &ns.under("api/v1/endpoints/s"), &Value::Null);
    ns.eventually("the mirror is gone", || match slices_of(&ns, "s").len() {
        0 => Ok(()),
        n => Err(format!("{n}")),
    });
}

#[test]
fn a_custom_endpoint_with_two_subsets_of_one_address_serves_both_ports() {
    let ns = Namespace::new("epsubsets");
    ns.make("pods", &sleeper("client", json!({}), json!([])));
    ns.make("pods", &sleeper("server", json!({}), json!([])));
    let (client, server) = (Net::of(&ns, "client"), Net::of(&ns, "server"));
    let _both = [server.serve_tcp(8090, "first"), server.serve_tcp(9090, "second")];
    let spec = json!({"ports": [{"name": "port80", "port": 80}, {"name": "port81", "port": 81}]});
    let ip = text(&ns.make("services", &service("s", spec)), "/spec/clusterIP");
    let address = ns.field("pod/server", "{.status.podIP}");
    ns.make(
        "endpoints",
        &json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "s"}, "subsets": [
        {"addresses": [{"ip": address}], "ports": [{"name": "port80", "port": 8090}]},
        {"addresses": [{"ip": address}], "ports": [{"name": "port81", "port": 9090}]}]}),
    );
    assert_eq!(ns.eventually("the first port", || client.tcp(&ip, 80)), "first");
    assert_eq!(ns.eventually("the second port", || client.tcp(&ip, 81)), "second");
}

mod by_hand {
    //! Services whose slices people write.
    use super::*;

    struct World {
        ns: Namespace,
        client: Net,
        address: Vec<String>,
        servers: Vec<Net>,
    }

    fn world(prefix: &str, servers: usize) -> World {
        let ns = Namespace::new(prefix);
        let names: Vec<String> = (0..servers).map(|i| format!("server-{i}")).collect();
        ns.make("pods", &sleeper("client", json!({}), json!([])));
        for name in &names {
            ns.make("pods", &sleeper(name, json!({}), json!([])));
        }
        let client = Net::of(&ns, "client");
        let nets = names.iter().map(|n| Net::of(&ns, n)).collect();
        let address = names.iter().map(|n| ns.field(&format!("pod/{n}"), "{.status.podIP}")).collect();
        World { ns, client, address, servers: nets }
    }

    #[test]
    fn ports_of_one_address_in_two_slices() {
        let w = world("sliceports", 1);
        let _both = [w.servers[0].serve_tcp(8090, "first"), w.servers[0].serve_tcp(9090, "second")];
        let spec = json!({"ports": [{"name": "port80", "port": 80}, {"name": "port81", "port": 81}]});
        let ip = text(&w.ns.make("services", &service("s", spec)), "/spec/clusterIP");
        w.ns.make("endpointslices", &slice("a", "s", json!([{"name": "port80", "port": 8090}]), &[&w.address[0]]));
        w.ns.make("endpointslices", &slice("b", "s", json!([{"name": "port81", "port": 9090}]), &[&w.address[0]]));
        assert_eq!(w.ns.eventually("the first port", || w.client.tcp(&ip, 80)), "first");
        assert_eq!(w.ns.eventually("the second port", || w.client.tcp(&ip, 81)), "second");
    }

    #[test]
    fn addresses_with_ports_of_their_own_in_two_slices() {
        let w = world("sliceips", 2);
        let _both = [w.servers[0].serve_tcp(8090, "first"), w.servers[1].serve_tcp(9090, "second")];
        let spec = json!({"ports": [{"name": "web", "port": 80}]});
        let ip = text(&w.ns.make("services", &service("s", spec)), "/spec/clusterIP");
        w.ns.make("endpointslices", &slice("a", "s", json!([{"name": "web", "port": 8090}]), &[&w.address[0]]));
        w.ns.make("endpointslices", &slice("b", "s", json!([{"name": "web", "port": 9090}]), &[&w.address[1]]));
        let mut seen = BTreeSet::new();
        w.ns.eventually("both answer", || {
            seen.insert(w.client.tcp(&ip, 80)?);
            if seen.len() == 2 { Ok(()) } else { Err(format!("{seen:?}")) }
        });
        w.ns.must("DELETE", &w.ns.under("apis/discovery.k8s.io/v1/endpointslices/a"), &Value::Null);
        w.ns.eventually("only the second answers", || match w.client.tcp(&ip, 80)?.as_str() {
            "second" => Ok(()),
            other => Err(other.to_owned()),
        });
    }
}
