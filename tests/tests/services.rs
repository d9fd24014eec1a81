//! Services: from API objects to packets. Servers and clients are threads of the test inside the Pods' networks.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod web;

use caravel_tests::{Namespace, Net, Serving};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use web::{node_ip, reaches, reaches_all, running, service, sleeper, text, webs};

/// Endpoints as `pod-address:port`, of all slices of a Service.
fn slices(ns: &Namespace, service: &str) -> BTreeSet<String> {
    let list = ns.must(
        "GET",
        &format!(
            "{}?labelSelector=kubernetes.io%2Fservice-name%3D{service}",
            ns.under("apis/discovery.k8s.io/v1/endpointslices")
        ),
        &Value::Null,
    );
    let mut all = BTreeSet::new();
    for slice in list["items"].as_array().unwrap() {
        for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
            if endpoint.pointer("/conditions/ready") == Some(&json!(false)) {
                continue;
            }
            let pod = text(endpoint, "/targetRef/name");
            for port in slice["ports"].as_array().into_iter().flatten() {
                all.insert(format!("{pod}:{}", port["port"]));
            }
        }
    }
    all
}

/// The same of the Endpoints object.
fn legacy(ns: &Namespace, service: &str) -> BTreeSet<String> {
    let (status, object) = ns.call("GET", &ns.under(&format!("api/v1/endpoints/{service}")), &Value::Null);
    let mut all = BTreeSet::new();
    if status == 404 {
        all.insert("none".into());
    }
    for subset in object["subsets"].as_array().into_iter().flatten() {
        for address in subset["addresses"].as_array().into_iter().flatten() {
            for port in subset["ports"].as_array().into_iter().flatten() {
                all.insert(format!("{}:{}", text(address, "/targetRef/name"), port["port"]));
            }
        }
    }
    all
}

fn endpoints_become(ns: &Namespace, service: &str, wanted: &[&str]) {
    let wanted: BTreeSet<String> = wanted.iter().map(|w| (*w).to_owned()).collect();
    ns.eventually(&format!("{service} leads to {wanted:?}"), || {
        let (new, old) = (slices(ns, service), legacy(ns, service));
        if new == wanted && old == wanted { Ok(()) } else { Err(format!("slices {new:?}, endpoints {old:?}")) }
    });
}

/// One Pod answers `times` requests in a row.
fn sticks(ns: &Namespace, from: &Net, ip: &str, port: u16) {
    ns.eventually(&format!("a client sticks to one Pod at {ip}:{port}"), || {
        let first = from.tcp(ip, port)?;
        for i in 0..15 {
            let next = from.tcp(ip, port)?;
            if next != first {
                return Err(format!("{first}, and at request {i} {next}"));
            }
        }
        Ok(())
    });
}

#[test]
fn the_kubernetes_service_is_found_in_all_namespaces() {
    let ns = Namespace::new("svcfind");
    let all = ns.must("GET", "/api/v1/services", &Value::Null);
    let found = all["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|s| text(s, "/metadata/name") == "kubernetes" && text(s, "/metadata/namespace") == "default");
    let port = &found.expect("default/kubernetes")["spec"]["ports"][0];
    assert_eq!(
        (text(port, "/name"), text(port, "/port"), text(port, "/protocol")),
        ("https".into(), "443".into(), "TCP".into())
    );
    // It is secure: plain HTTP is refused, and a Pod that asks without credentials is told so over TLS.
    let address = text(found.unwrap(), "/spec/clusterIP");
    let client = running(&ns, "client", json!({}));
    let said = ns.eventually("the API server is reachable from Pods", || client.tcp(&address, 443));
    assert!(!said.contains("\"kind\""), "an answer without TLS: {said}");
}

#[test]
fn the_api_server_has_endpoints_and_slices_that_agree() {
    let ns = Namespace::new("svcapi");
    let endpoints = ns.must("GET", "/api/v1/namespaces/default/endpoints/kubernetes", &Value::Null);
    let list = ns.must(
        "GET",
        "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3Dkubernetes",
        &Value::Null,
    );
    let pairs = |addresses: Vec<String>, ports: &Value| -> BTreeSet<String> {
        let ports: Vec<String> =
            ports.as_array().unwrap().iter().map(|p| format!("{}/{}", text(p, "/name"), p["port"])).collect();
        addresses.iter().flat_map(|a| ports.iter().map(move |p| format!("{a} {p}"))).collect()
    };
    let mut old = BTreeSet::new();
    for subset in endpoints["subsets"].as_array().expect("subsets") {
        let addresses = subset["addresses"].as_array().unwrap().iter().map(|a| text(a, "/ip")).collect();
        old.extend(pairs(addresses, &subset["ports"]));
    }
    let mut new = BTreeSet::new();
    for slice in list["items"].as_array().unwrap() {
        let addresses = slice["endpoints"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|e| e["addresses"].as_array().unwrap())
            .map(|a| text(a, ""))
            .collect();
        new.extend(pairs(addresses, &slice["ports"]));
    }
    assert!(!old.is_empty());
    assert_eq!(old, new);
}

#[test]
fn a_collection_of_services_is_deleted_by_its_label() {
    let ns = Namespace::new("svccoll");
    for (name, group) in [("a", "x"), ("b", "x"), ("c", "y")] {
        let mut object = service(name, json!({"ports": [{"port": 80}]}));
        object["metadata"]["labels"] = json!({"group": group});
        ns.make("services", &object);
    }
    let address = text(&ns.read("api/v1/services/a"), "/spec/clusterIP");
    let path = ns.under("api/v1/services");
    let (status, _) = ns.call("DELETE", &format!("{path}?labelSelector=group%3Dx"), &Value::Null);
    assert_eq!(status, 200);
    let left = ns.must("GET", &path, &Value::Null);
    let names: Vec<String> = left["items"].as_array().unwrap().iter().map(|s| text(s, "/metadata/name")).collect();
    assert_eq!(names, ["c"]);
    // Their addresses are free again.
    let object = service("again", json!({"clusterIP": address, "ports": [{"port": 80}]}));
    ns.make("services", &object);
}

#[test]
fn the_status_of_a_service_has_a_life_of_its_own() {
    let ns = Namespace::new("svcstatus");
    let path = ns.under("api/v1/services");
    let watch = ns.watch(&format!("{path}?labelSelector=static%3Dyes"));
    let mut object = service(
        "s",
        json!({"type": "LoadBalancer", "loadBalancerClass": "example.com/none", "ports": [
        {"name": "http", "protocol": "TCP", "port": 80, "targetPort": 80}]}),
    );
    object["metadata"]["labels"] = json!({"static": "yes"});
    ns.make("services", &object);
    watch.until_type("ADDED", "the name", |o| o["metadata"]["name"] == "s");
    let status = format!("{path}/s/status");
    let got = ns.must("GET", &status, &Value::Null);
    assert_eq!((text(&got, "/kind"), text(&got, "/status/loadBalancer")), ("Service".into(), "{}".into()));

    let patch = json!({"metadata": {"annotations": {"patched": "true"}}, "spec": {"ports": []},
        "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}}});
    let patched = ns.must("PATCH", &status, &patch);
    assert_eq!(text(&patched, "/status/loadBalancer/ingress/0/ip"), "203.0.113.1");
    assert_eq!(text(&patched, "/status/loadBalancer/ingress/0/ipMode"), "VIP");
    assert_eq!(text(&patched, "/spec/ports/0/port"), "80", "the spec is not the status's to change");
    watch.until_type("MODIFIED", "annotation and address", |o| {
        o["metadata"]["annotations"]["patched"] == "true"
            && text(o, "/status/loadBalancer/ingress/0/ip") == "203.0.113.1"
    });

    let mut next = ns.must("GET", &status, &Value::Null);
    // Go's zero time: a condition that says nothing of when.
    next["status"]["conditions"] = json!([{"type": "Updated", "status": "True", "reason": "Test", "message": "set",
        "lastTransitionTime": null}]);
    let updated = ns.must("PUT", &status, &next);
    assert_eq!(text(&updated, "/status/conditions/0/type"), "Updated");
    watch.until_type("MODIFIED", "the condition", |o| text(o, "/status/conditions/0/message") == "set");
    // Whoever follows Services goes on.
    ns.make("services", &service("other", json!({"selector": {"app": "none"}, "ports": [{"port": 80}]})));
    endpoints_become(&ns, "other", &[]);

    let (code, _) = ns.wire().strategic(&format!("{path}/s"), &json!({"metadata": {"labels": {"more": "yes"}}}));
    assert_eq!(code, 200);
    watch.until_type("MODIFIED", "the label", |o| {
        o["metadata"]["labels"]["more"] == "yes" && text(o, "/status/conditions/0/type") == "Updated"
    });
    ns.must("DELETE", &format!("{path}/s"), &Value::Null);
    watch.until_type("DELETED", "the name", |o| o["metadata"]["name"] == "s");
}

#[test]
fn endpoints_come_and_go_with_the_pods() {
    let ns = Namespace::new("svcbasic");
    let client = running(&ns, "client", json!({}));
    let made = ns.make("services", &service("s", json!({"selector": {"app": "s"}, "ports": [{"port": 80}]})));
    let ip = text(&made, "/spec/clusterIP");
    endpoints_become(&ns, "s", &[]);
    assert!(client.tcp(&ip, 80).is_err());
    let ports = json!([{"containerPort": 80}]);
    ns.make("pods", &sleeper("one", &json!({"app": "s"}), &ports));
    endpoints_become(&ns, "s", &["one:80"]);
    let _one = Net::of(&ns, "one").serve(80, "one");
    assert_eq!(reaches(&ns, &client, &ip, 80), "one");
    ns.make("pods", &sleeper("two", &json!({"app": "s"}), &ports));
    endpoints_become(&ns, "s", &["one:80", "two:80"]);
    let _two = Net::of(&ns, "two").serve(80, "two");
    reaches_all(&ns, &client, &ip, 80, 2);
    ns.must("DELETE", &ns.under("api/v1/pods/one"), &Value::Null);
    endpoints_become(&ns, "s", &["two:80"]);
    ns.eventually("only the other one answers", || match client.tcp(&ip, 80)?.as_str() {
        "two" => Ok(()),
        other => Err(other.to_owned()),
    });
    ns.must("DELETE", &ns.under("api/v1/pods/two"), &Value::Null);
    endpoints_become(&ns, "s", &[]);
    ns.eventually("nobody answers", || client.tcp(&ip, 80).map_or(Ok(()), Err));
}

#[test]
fn a_service_of_two_ports_leads_each_to_its_own_pods() {
    let ns = Namespace::new("svcmulti");
    let client = running(&ns, "client", json!({}));
    let spec = json!({"selector": {"app": "m"}, "ports": [
        {"name": "one", "port": 80, "targetPort": "first"}, {"name": "two", "port": 81, "targetPort": "second"}]});
    let ip = text(&ns.make("services", &service("m", spec)), "/spec/clusterIP");
    endpoints_become(&ns, "m", &[]);
    ns.make("pods", &sleeper("p1", &json!({"app": "m"}), &json!([{"name": "first", "containerPort": 100}])));
    endpoints_become(&ns, "m", &["p1:100"]);
    ns.make("pods", &sleeper("p2", &json!({"app": "m"}), &json!([{"name": "second", "containerPort": 101}])));
    endpoints_become(&ns, "m", &["p1:100", "p2:101"]);
    let _one = Net::of(&ns, "p1").serve(100, "p1");
    let _two = Net::of(&ns, "p2").serve(101, "p2");
    assert_eq!(reaches(&ns, &client, &ip, 80), "p1");
    assert_eq!(reaches(&ns, &client, &ip, 81), "p2");
    ns.must("DELETE", &ns.under("api/v1/pods/p1"), &Value::Null);
    endpoints_become(&ns, "m", &["p2:101"]);
    ns.must("DELETE", &ns.under("api/v1/pods/p2"), &Value::Null);
    endpoints_become(&ns, "m", &[]);
}

#[test]
fn one_port_number_serves_tcp_and_udp() {
    let ns = Namespace::new("svcproto");
    let client = running(&ns, "client", json!({}));
    let (tcp, udp) = (
        json!({"name": "tcp", "protocol": "TCP", "port": 80, "targetPort": 8080}),
        json!({"name": "udp", "protocol": "UDP", "port": 80, "targetPort": 8080}),
    );
    let spec = json!({"selector": {"app": "web"}, "ports": [tcp, udp]});
    let ip = text(&ns.make("services", &service("s", spec)), "/spec/clusterIP");
    let _webs = webs(&ns, 1);
    assert_eq!(reaches(&ns, &client, &ip, 80), "web-0");
    assert_eq!(ns.eventually("UDP", || client.udp(&ip, 80)), "web-0");
    let ports = |list: Value| {
        let mut object = ns.read("api/v1/services/s");
        object["spec"]["ports"] = list;
        ns.must("PUT", &ns.under("api/v1/services/s"), &object);
    };
    ports(json!([tcp]));
    ns.eventually("UDP is closed", || client.udp(&ip, 80).map_or(Ok(()), Err));
    assert_eq!(reaches(&ns, &client, &ip, 80), "web-0");
    ports(json!([udp]));
    ns.eventually("TCP is closed", || client.tcp(&ip, 80).map_or(Ok(()), Err));
    assert_eq!(ns.eventually("UDP", || client.udp(&ip, 80)), "web-0");
    ports(json!([tcp, udp]));
    assert_eq!(reaches(&ns, &client, &ip, 80), "web-0");
    assert_eq!(ns.eventually("UDP", || client.udp(&ip, 80)), "web-0");
}

#[test]
fn a_node_port_service_answers_by_address_name_and_node() {
    let ns = Namespace::new("svcnp");
    let client = running(&ns, "client", json!({}));
    let spec = json!({"type": "NodePort", "selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]});
    let made = ns.make("services", &service("s", spec));
    let (ip, port) = (text(&made, "/spec/clusterIP"), text(&made, "/spec/ports/0/nodePort").parse().unwrap());
    let _webs = webs(&ns, 2);
    reaches_all(&ns, &client, &ip, 80, 2);
    reaches_all(&ns, &client, &node_ip(&ns), port, 2);
    reaches_all(&ns, &Net::host(), &node_ip(&ns), port, 2);
    assert_eq!(records(&ns, &client, "s", "A"), BTreeSet::from([format!("A {ip}")]));
}

fn records(ns: &Namespace, client: &Net, service: &str, kind: &str) -> BTreeSet<String> {
    let dns =
        text(&ns.must("GET", "/api/v1/namespaces/kube-system/services/kube-dns", &Value::Null), "/spec/clusterIP");
    let name = format!("{service}.{}.svc.cluster.local", ns.name);
    client.dns(&dns, &name, kind).unwrap_or_else(|e| panic!("{name}: {e}"))
}

mod types {
    //! Changes of a Service's type.
    use super::*;

    const OUTSIDE: &str = "www.example.com";

    struct Changing {
        ns: Namespace,
        client: Net,
        _webs: Vec<Serving>,
    }

    impl Changing {
        fn new(prefix: &str) -> Changing {
            let ns = Namespace::new(prefix);
            let client = running(&ns, "client", json!({}));
            let webs = webs(&ns, 2);
            Changing { ns, client, _webs: webs }
        }

        /// Replaces parts of the spec, as a client that read the object does.
        fn change(&self, by: impl FnOnce(&mut Value)) -> Value {
            let mut object = self.ns.read("api/v1/services/s");
            by(&mut object["spec"]);
            self.ns.must("PUT", &self.ns.under("api/v1/services/s"), &object)
        }

        fn is_outside(&self, object: &Value) {
            let spec = &object["spec"];
            assert_eq!((text(spec, "/type"), text(spec, "/externalName")), ("ExternalName".into(), OUTSIDE.into()));
            for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                assert!(spec.get(field).is_none_or(|v| v == ""), "{field} is left: {spec}");
            }
            let alias = format!("CNAME {OUTSIDE}.");
            self.ns.eventually("the name is an alias", || {
                let said = records(&self.ns, &self.client, "s", "CNAME");
                if said.contains(&alias) { Ok(()) } else { Err(format!("{said:?}")) }
            });
        }

        fn is_inside(&self, object: &Value) -> String {
            let ip = text(object, "/spec/clusterIP");
            assert!(ip.starts_with("10."), "{object}");
            assert_eq!(object["spec"].get("externalName").filter(|v| **v != ""), None);
            reaches_all(&self.ns, &self.client, &ip, 80, 2);
            self.ns.eventually("the name is its address", || {
                let said = records(&self.ns, &self.client, "s", "A");
                if said == BTreeSet::from([format!("A {ip}")]) { Ok(()) } else { Err(format!("{said:?}")) }
            });
            ip
        }

        fn external(&self) -> Value {
            self.ns.make("services", &service("s", json!({"type": "ExternalName", "externalName": OUTSIDE})))
        }

        fn internal(&self, kind: &str) -> Value {
            let spec = json!({"type": kind, "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]});
            self.ns.make("services", &service("s", spec))
        }
    }

    fn inside(kind: &str) -> impl FnOnce(&mut Value) + '_ {
        move |spec| {
            spec["type"] = json!(kind);
            spec["externalName"] = json!("");
            spec["selector"] = json!({"app": "web"});
            spec["ports"] = json!([{"port": 80, "protocol": "TCP", "targetPort": 8080}]);
        }
    }

    fn outside(spec: &mut Value) {
        spec["type"] = json!("ExternalName");
        spec["externalName"] = json!(OUTSIDE);
    }

    #[test]
    fn external_name_to_cluster_ip() {
        let it = Changing::new("svcen2ip");
        let made = it.external();
        it.is_outside(&made);
        it.is_inside(&it.change(inside("ClusterIP")));
    }

    #[test]
    fn external_name_to_node_port() {
        let it = Changing::new("svcen2np");
        it.external();
        let changed = it.change(inside("NodePort"));
        it.is_inside(&changed);
        let port = text(&changed, "/spec/ports/0/nodePort").parse().unwrap();
        reaches_all(&it.ns, &it.client, &node_ip(&it.ns), port, 2);
    }

    #[test]
    fn cluster_ip_to_external_name() {
        let it = Changing::new("svcip2en");
        let ip = it.is_inside(&it.internal("ClusterIP"));
        let changed = it.change(outside);
        it.is_outside(&changed);
        it.ns.eventually("the address is closed", || it.client.tcp(&ip, 80).map_or(Ok(()), Err));
        // And free for another.
        it.ns.make("services", &service("t", json!({"clusterIP": ip, "ports": [{"port": 80}]})));
    }

    #[test]
    fn node_port_to_external_name() {
        let it = Changing::new("svcnp2en");
        let made = it.internal("NodePort");
        it.is_inside(&made);
        let port: u16 = text(&made, "/spec/ports/0/nodePort").parse().unwrap();
        let changed = it.change(outside);
        assert_eq!(text(&changed, "/spec/ports/0/nodePort"), "", "{changed}");
        it.is_outside(&changed);
        it.ns.eventually("the node port is closed", || it.client.tcp(&node_ip(&it.ns), port).map_or(Ok(()), Err));
        let other = service("t", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]}));
        it.ns.make("services", &other);
    }

    #[test]
    fn node_port_and_cluster_ip_keep_the_address() {
        let it = Changing::new("svcnp2ip");
        let made = it.internal("ClusterIP");
        let ip = text(&made, "/spec/clusterIP");
        let up = it.change(|spec| spec["type"] = json!("NodePort"));
        let port: u16 = text(&up, "/spec/ports/0/nodePort").parse().unwrap();
        assert_eq!(text(&up, "/spec/clusterIP"), ip);
        reaches_all(&it.ns, &it.client, &node_ip(&it.ns), port, 2);
        let down = it.change(|spec| spec["type"] = json!("ClusterIP"));
        assert_eq!((text(&down, "/spec/clusterIP"), text(&down, "/spec/ports/0/nodePort")), (ip, String::new()));
        it.ns.eventually("the node port is closed", || it.client.tcp(&node_ip(&it.ns), port).map_or(Ok(()), Err));
    }
}

mod affinity {
    //! Clients that keep their Pod.
    use super::*;

    fn sticky(kind: &str, prefix: &str) -> (Namespace, Net, Vec<Serving>, Value) {
        let ns = Namespace::new(prefix);
        let client = running(&ns, "client", json!({}));
        let webs = webs(&ns, 3);
        let spec = json!({"type": kind, "selector": {"app": "web"}, "sessionAffinity": "ClientIP",
            "ports": [{"port": 80, "targetPort": 8080}]});
        let made = ns.make("services", &service("s", spec));
        assert_eq!(text(&made, "/spec/sessionAffinityConfig/clientIP/timeoutSeconds"), "10800");
        endpoints_become(&ns, "s", &["web-0:8080", "web-1:8080", "web-2:8080"]);
        (ns, client, webs, made)
    }

    fn place(ns: &Namespace, made: &Value) -> (String, u16) {
        match text(made, "/spec/type").as_str() {
            "NodePort" => (node_ip(ns), text(made, "/spec/ports/0/nodePort").parse().unwrap()),
            _ => (text(made, "/spec/clusterIP"), 80),
        }
    }

    fn keeps(kind: &str, prefix: &str) {
        let (ns, client, _webs, made) = sticky(kind, prefix);
        let (ip, port) = place(&ns, &made);
        sticks(&ns, &client, &ip, port);
    }

    fn switches(kind: &str, prefix: &str) {
        let (ns, client, _webs, made) = sticky(kind, prefix);
        let (ip, port) = place(&ns, &made);
        sticks(&ns, &client, &ip, port);
        let set = |affinity: &str| {
            let mut object = ns.read("api/v1/services/s");
            object["spec"]["sessionAffinity"] = json!(affinity);
            if affinity == "None" {
                object["spec"].as_object_mut().unwrap().remove("sessionAffinityConfig");
            }
            ns.must("PUT", &ns.under("api/v1/services/s"), &object);
        };
        set("None");
        reaches_all(&ns, &client, &ip, port, 3);
        set("ClientIP");
        sticks(&ns, &client, &ip, port);
    }

    #[test]
    fn cluster_ip() {
        keeps("ClusterIP", "stickyip");
    }

    #[test]
    fn node_port() {
        keeps("NodePort", "stickynp");
    }

    #[test]
    fn switched_for_cluster_ip() {
        switches("ClusterIP", "switchip");
    }

    #[test]
    fn switched_for_node_port() {
        switches("NodePort", "switchnp");
    }

    #[test]
    fn forgotten_after_its_timeout() {
        let (ns, client, _webs, _) = sticky("ClusterIP", "stickyend");
        let mut object = ns.read("api/v1/services/s");
        object["spec"]["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"] = json!(1);
        let made = ns.must("PUT", &ns.under("api/v1/services/s"), &object);
        let ip = text(&made, "/spec/clusterIP");
        let mut seen = BTreeSet::new();
        ns.eventually("a client that was away gets another Pod", || {
            seen.insert(client.tcp(&ip, 80)?);
            // Longer than the timeout: that is what is tested.
            std::thread::sleep(std::time::Duration::from_millis(1100));
            if seen.len() > 1 { Ok(()) } else { Err(format!("{seen:?}")) }
        });
    }
}

#[test]
fn a_service_has_endpoints_soon_after_it_is_made() {
    const SERVICES: usize = 200;
    let ns = Namespace::new("svclat");
    ns.make("pods", &sleeper("p", &json!({"name": "p"}), &json!([])));
    ns.until("pod/p", "{.status.phase}", "Running");
    let watch = ns.watch(&ns.under("api/v1/endpoints"));
    let start = std::time::Instant::now();
    let mut made = BTreeMap::new();
    for i in 0..SERVICES {
        let name = format!("s{i}");
        made.insert(name.clone(), start.elapsed());
        ns.make("services", &service(&name, json!({"selector": {"name": "p"}, "ports": [{"port": 80}]})));
    }
    // One watch sees them all; those that it has not read yet only look later than they were.
    let mut seen = BTreeMap::new();
    while seen.len() < SERVICES {
        let object = watch.until_any("addresses", |o| o["subsets"].as_array().is_some_and(|s| !s.is_empty()));
        assert_eq!(text(&object, "/subsets/0/addresses/0/targetRef/name"), "p");
        seen.entry(text(&object, "/metadata/name")).or_insert_with(|| start.elapsed());
    }
    let mut times: Vec<_> = seen.iter().map(|(name, at)| at.saturating_sub(made[name])).collect();
    times.sort();
    let (median, tail) = (times[SERVICES / 2], times[SERVICES * 99 / 100]);
    assert!(median.as_secs() < 20 && tail.as_secs() < 50, "{median:?} {tail:?}");
}

mod ranges {
    //! ServiceCIDR and IPAddress (KEP-1880).
    use super::*;

    #[test]
    fn the_default_range_can_be_read_and_watched() {
        let ns = Namespace::new("cidr");
        let path = "/apis/networking.k8s.io/v1/servicecidrs";
        let range = ns.must("GET", &format!("{path}/kubernetes"), &Value::Null);
        let status = ns.must("GET", &format!("{path}/kubernetes/status"), &Value::Null);
        assert_eq!(
            (text(&status, "/kind"), text(&status, "/apiVersion")),
            ("ServiceCIDR".into(), "networking.k8s.io/v1".into())
        );
        assert_eq!(text(&status, "/metadata/uid"), text(&range, "/metadata/uid"));
        assert_eq!(text(&status, "/status/conditions/0/type"), "Ready");
        let list = ns.must("GET", path, &Value::Null);
        assert!(list["items"].as_array().unwrap().iter().any(|r| r["metadata"]["name"] == "kubernetes"));
        ns.watch(path).until_type("ADDED", "the default range", |o| o["metadata"]["name"] == "kubernetes");
    }

    #[test]
    fn addresses_are_objects() {
        let ns = Namespace::new("ipaddr");
        let path = "/apis/networking.k8s.io/v1/ipaddresses";
        let number = std::process::id() % 250 + 1;
        let (four, six) = (format!("255.255.255.{number}"), format!("fe80::42:1dff:fe84:{number:x}"));
        let address = |name: &str, kind: &str| {
            json!({"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
                "metadata": {"name": name, "labels": {"kind": kind, "test": ns.name}},
                "spec": {"parentRef": {"group": "mygroup", "resource": "myresources", "namespace": "foo", "name": "bar"}}})
        };
        for name in [&four, &six] {
            ns.call("DELETE", &format!("{path}/{name}"), &Value::Null);
        }
        let made = ns.must("POST", path, &address(&four, "four"));
        ns.must("POST", path, &address(&six, "six"));
        let one = format!("{path}/{four}");
        let patched = ns.must("PATCH", &one, &json!({"metadata": {"annotations": {"patched": "true"}}}));
        assert_eq!(text(&patched, "/metadata/annotations/patched"), "true");
        let revision = |o: &Value| text(o, "/metadata/resourceVersion").parse::<u64>().unwrap();
        assert!(revision(&patched) > revision(&made));
        let mut next = ns.must("GET", &one, &Value::Null);
        next["metadata"]["annotations"]["updated"] = json!("true");
        assert_eq!(text(&ns.must("PUT", &one, &next), "/metadata/annotations/updated"), "true");
        // The parent never changes, and names are addresses in their canonical form.
        let mut moved = ns.must("GET", &one, &Value::Null);
        moved["spec"]["parentRef"]["name"] = json!("other");
        assert_eq!(ns.call("PUT", &one, &moved).0, 422);
        assert_eq!(ns.call("POST", path, &address("255.255.255.01", "bad")).0, 422);
        let select = |kind: &str| format!("{path}?labelSelector=kind%3D{kind}%2Ctest%3D{}", ns.name);
        assert_eq!(ns.must("GET", &select("four"), &Value::Null)["items"].as_array().unwrap().len(), 1);
        ns.watch(&select("four")).until_type("ADDED", "the address", |o| o["metadata"]["name"] == four.as_str());
        ns.must("DELETE", &one, &Value::Null);
        ns.must("DELETE", &select("six"), &Value::Null);
        assert_eq!(ns.must("GET", &select("six"), &Value::Null)["items"].as_array().unwrap().len(), 0);
    }

    #[test]
    fn a_service_holds_its_address_as_an_object() {
        let ns = Namespace::new("ipheld");
        let made = ns.make("services", &service("s", json!({"ports": [{"port": 80}]})));
        let ip = text(&made, "/spec/clusterIP");
        let path = format!("/apis/networking.k8s.io/v1/ipaddresses/{ip}");
        let held = ns.must("GET", &path, &Value::Null);
        assert_eq!(text(&held, "/spec/parentRef/name"), "s");
        assert_eq!(text(&held, "/metadata/labels/ipaddress.kubernetes.io~1managed-by"), "ipallocator.k8s.io");
        let (code, refused) = ns.call(
            "POST",
            &ns.under("api/v1/services"),
            &service("t", json!({"clusterIP": ip, "ports": [{"port": 80}]})),
        );
        assert_eq!((code, text(&refused, "/details/causes/0/field")), (422, "spec.clusterIPs[0]".into()), "{refused}");
        ns.must("DELETE", &ns.under("api/v1/services/s"), &Value::Null);
        assert_eq!(ns.call("GET", &path, &Value::Null).0, 404);
    }

    #[test]
    fn a_second_range_serves_and_is_held_while_it_is_used() {
        let ns = Namespace::new("cidrtwo");
        let client = running(&ns, "client", json!({}));
        let path = "/apis/networking.k8s.io/v1/servicecidrs";
        let third = std::process::id() % 250;
        let object = json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": ns.name},
            "spec": {"cidrs": [format!("198.18.{third}.0/24")]}});
        ns.must("POST", path, &object);
        let one = format!("{path}/{}", ns.name);
        ns.eventually("the range is ready", || {
            let range = ns.must("GET", &one, &Value::Null);
            if text(&range, "/status/conditions/0/status") == "True" { Ok(()) } else { Err(range.to_string()) }
        });
        let ip = format!("198.18.{third}.10");
        let spec = json!({"clusterIP": ip, "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]});
        ns.make("services", &service("s", spec));
        let _webs = webs(&ns, 1);
        assert_eq!(reaches(&ns, &client, &ip, 80), "web-0");
        ns.must("DELETE", &one, &Value::Null);
        ns.eventually("the range says that it is used", || {
            let range = ns.must("GET", &one, &Value::Null);
            let condition = &range["status"]["conditions"][0];
            if condition["reason"] == "Terminating" { Ok(()) } else { Err(range.to_string()) }
        });
        let late = service("t", json!({"clusterIP": format!("198.18.{third}.11"), "ports": [{"port": 80}]}));
        assert_eq!(ns.call("POST", &ns.under("api/v1/services"), &late).0, 422, "a range that goes takes no more");
        ns.must("DELETE", &ns.under("api/v1/services/s"), &Value::Null);
        ns.eventually("the range is gone", || match ns.call("GET", &one, &Value::Null).0 {
            404 => Ok(()),
            code => Err(code.to_string()),
        });
    }
}

mod granular {
    //! Every Pod reaches every Pod, and so does every node.
    use super::*;

    fn all_answer(prefix: &str, from_node: bool, udp: bool) {
        let ns = Namespace::new(prefix);
        let client = if from_node { Net::host() } else { running(&ns, "client", json!({})) };
        let _webs = webs(&ns, 3);
        for i in 0..3 {
            let name = format!("web-{i}");
            let ip = ns.field(&format!("pod/{name}"), "{.status.podIP}");
            let said = ns.eventually(&name, || if udp { client.udp(&ip, 8080) } else { client.tcp(&ip, 8080) });
            assert_eq!(said, name);
        }
    }

    #[test]
    fn pods_by_tcp() {
        all_answer("pod2pod", false, false);
    }

    #[test]
    fn pods_by_udp() {
        all_answer("pod2podu", false, true);
    }

    #[test]
    fn node_by_tcp() {
        all_answer("node2pod", true, false);
    }

    #[test]
    fn node_by_udp() {
        all_answer("node2podu", true, true);
    }
}

#[test]
fn one_host_port_is_shared_by_addresses_and_protocols() {
    let ns = Namespace::new("hostport");
    let node = node_ip(&ns);
    let port = 20_000 + (std::process::id() % 9000) as u16;
    let mut serving = vec![];
    for (name, ip, protocol) in
        [("one", "127.0.0.1", "TCP"), ("two", node.as_str(), "TCP"), ("three", node.as_str(), "UDP")]
    {
        let ports = json!([{"containerPort": 8080, "hostPort": port, "hostIP": ip, "protocol": protocol}]);
        ns.make("pods", &sleeper(name, &json!({}), &ports));
        serving.push(Net::of(&ns, name).serve(8080, name));
    }
    let host = Net::host();
    assert_eq!(reaches(&ns, &host, "127.0.0.1", port), "one");
    assert_eq!(reaches(&ns, &host, &node, port), "two");
    assert_eq!(ns.eventually("UDP", || host.udp(&node, port)), "three");
    assert!(host.udp("127.0.0.1", port).is_err());
    let other = running(&ns, "client", json!({}));
    assert_eq!(reaches(&ns, &other, &node, port), "two");
    // The same address, port and protocol again finds no place.
    let ports = json!([{"containerPort": 8080, "hostPort": port, "hostIP": node, "protocol": "TCP"}]);
    ns.make("pods", &sleeper("four", &json!({}), &ports));
    let said = ns.until_that("pod/four", |p| text(p, "/status/conditions/0/reason") == "Unschedulable");
    assert!(text(&said, "/status/conditions/0/message").contains("free ports"), "{said}");
    // With a second to end, so that its place is free before it is seen to be.
    ns.must("DELETE", &format!("{}?gracePeriodSeconds=1", ns.under("api/v1/pods/two")), &Value::Null);
    ns.until("pod/four", "{.status.phase}", "Running");
    serving.push(Net::of(&ns, "four").serve(8080, "four"));
    assert_eq!(reaches(&ns, &host, &node, port), "four");
}
