//! Compiled Services by table, and the whole table as text.
#![allow(clippy::unwrap_used)]

use std::net::Ipv4Addr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use super::base::Layout;
use super::compile::{HealthCheck, Program, View, compile, resolver};
use super::desired::{Change, Claimant, Desired};
use super::endpoints::select;

fn layout() -> Layout {
    Layout {
        bridge: "cvl0".into(),
        mark: 0x4000,
        cluster_cidr: "10.244.0.0/16".parse().unwrap(),
        pod_cidr: "10.244.0.0/24".parse().unwrap(),
        service_cidr: "10.96.0.0/16".parse().unwrap(),
    }
}

fn view() -> View {
    View {
        node: "n".into(),
        zone: Some("z".into()),
        dns: Some((Ipv4Addr::new(10, 96, 0, 10), Ipv4Addr::new(10, 244, 0, 1))),
    }
}

fn claim(created: i64, name: &str) -> Claimant {
    Claimant { created, name: name.into() }
}

/// A Service with port 80 to "web".
fn service(spec: Value, status: Value) -> Service {
    let mut object = json!({
        "metadata": {"name": "s", "namespace": "d"},
        "spec": {"clusterIP": "10.96.0.20", "clusterIPs": ["10.96.0.20"], "ports": [{"name": "web", "port": 80}]},
        "status": status,
    });
    for (key, value) in spec.as_object().into_iter().flatten() {
        object["spec"][key] = value.clone();
    }
    serde_json::from_value(object).unwrap()
}

fn slice(endpoints: Value) -> Vec<Arc<EndpointSlice>> {
    let slice = json!({
        "metadata": {"name": "s"}, "addressType": "IPv4",
        "ports": [{"name": "web", "port": 8080, "protocol": "TCP"}, {"name": "dns", "port": 5353, "protocol": "UDP"}],
        "endpoints": endpoints,
    });
    vec![Arc::new(serde_json::from_value(slice).unwrap())]
}

/// Two endpoints, the first on this node.
fn two() -> Vec<Arc<EndpointSlice>> {
    slice(json!([
        {"addresses": ["10.244.0.5"], "nodeName": "n", "conditions": {"ready": true}},
        {"addresses": ["10.244.1.6"], "nodeName": "m", "conditions": {"ready": true}},
    ]))
}

fn rows(program: &Program) -> String {
    let mut desired = Desired::new(layout());
    let mut change = desired.update([(claim(0, "d/s"), Some(program.clone()))]);
    change.new_chains.clear();
    change.to_string()
}

fn check(spec: Value, status: Value, slices: &[Arc<EndpointSlice>], expected: &str) {
    let program = compile(&service(spec.clone(), status), slices, &view());
    let lines = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(|l| l.trim().to_owned()).filter(|l| !l.is_empty()).collect();
        lines.sort();
        lines.join("\n")
    };
    assert_eq!(lines(&rows(&program)), lines(expected), "{spec}");
}

#[test]
fn cluster_ip() {
    let none = json!({});
    check(
        none.clone(),
        none.clone(),
        &two(),
        "+ cluster_ips 10.96.0.20
         + endpoints 0x0 . 10.96.0.20 . tcp . 80 : 10.244.0.5 . 8080
         + endpoints 0x1 . 10.96.0.20 . tcp . 80 : 10.244.1.6 . 8080
         + services 10.96.0.20 . tcp . 80 : goto pick-2-foreign",
    );
    check(
        none.clone(),
        none.clone(),
        &[],
        "+ cluster_ips 10.96.0.20
         + unserved 10.96.0.20 . tcp . 80 : goto reject",
    );
    check(
        json!({"internalTrafficPolicy": "Local"}),
        none.clone(),
        &two(),
        "+ cluster_ips 10.96.0.20
         + endpoints 0x0 . 10.96.0.20 . tcp . 80 : 10.244.0.5 . 8080
         + services 10.96.0.20 . tcp . 80 : goto pick-1-foreign",
    );
    let elsewhere = slice(json!([{"addresses": ["10.244.1.6"], "nodeName": "m"}]));
    check(
        json!({"internalTrafficPolicy": "Local"}),
        none.clone(),
        &elsewhere,
        "+ cluster_ips 10.96.0.20
         + unserved 10.96.0.20 . tcp . 80 : drop",
    );
    check(json!({"clusterIP": "None", "clusterIPs": ["None"]}), none.clone(), &two(), "");
    check(json!({"type": "ExternalName"}), none, &two(), "");
}

#[test]
fn node_ports_and_external_addresses() {
    check(
        json!({"type": "NodePort", "externalIPs": ["192.0.2.50"], "ports": [{"name": "web", "port": 80, "nodePort": 30080}]}),
        json!({}),
        &slice(json!([{"addresses": ["10.244.0.5"], "nodeName": "n"}])),
        "+ cluster_ips 10.96.0.20
         + endpoints 0x0 . 10.96.0.20 . tcp . 80 : 10.244.0.5 . 8080
         + endpoints 0x0 . 192.0.2.50 . tcp . 80 : 10.244.0.5 . 8080
         + endpoints 0x0 . 0.0.0.0 . tcp . 30080 : 10.244.0.5 . 8080
         + services 10.96.0.20 . tcp . 80 : goto pick-1-foreign
         + services 192.0.2.50 . tcp . 80 : goto pick-1-masq
         + node_ports tcp . 30080 : goto pick-port-1-masq",
    );
}

#[test]
fn load_balancers() {
    let status =
        json!({"loadBalancer": {"ingress": [{"ip": "198.51.100.7"}, {"ip": "198.51.100.8", "ipMode": "Proxy"}]}});
    check(
        json!({
            "type": "LoadBalancer", "externalTrafficPolicy": "Local",
            "loadBalancerSourceRanges": ["203.0.113.0/25", "203.0.113.128/25", "192.0.2.7/32"],
        }),
        status.clone(),
        &two(),
        "+ cluster_ips 10.96.0.20
         + endpoints 0x0 . 10.96.0.20 . tcp . 80 : 10.244.0.5 . 8080
         + endpoints 0x1 . 10.96.0.20 . tcp . 80 : 10.244.1.6 . 8080
         + endpoints 0x0 . 198.51.100.7 . tcp . 80 : 10.244.0.5 . 8080
         + endpoints 0x1 . 198.51.100.7 . tcp . 80 : 10.244.1.6 . 8080
         + endpoints 0x10000 . 198.51.100.7 . tcp . 80 : 10.244.0.5 . 8080
         + services 10.96.0.20 . tcp . 80 : goto pick-2-foreign
         + services 198.51.100.7 . tcp . 80 : goto local-services
         + services_inside 198.51.100.7 . tcp . 80 : goto pick-2-foreign
         + services_outside 198.51.100.7 . tcp . 80 : goto pick-1-outside
         + restricted 198.51.100.7 . tcp . 80
         + allowed 192.0.2.7 . 198.51.100.7 . tcp . 80 to 192.0.2.7 . 198.51.100.7 . tcp . 80
         + allowed 203.0.113.0 . 198.51.100.7 . tcp . 80 to 203.0.113.255 . 198.51.100.7 . tcp . 80",
    );
    // Ranges of the other family allow nobody; a range of everything restricts nothing.
    let program = |ranges: Value| {
        let spec = json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ranges});
        rows(&compile(&service(spec, status.clone()), &two(), &view()))
    };
    assert!(program(json!(["fd00::/8"])).contains("+ allowed 0.0.0.0 . "));
    assert!(!program(json!(["0.0.0.0/0", "192.0.2.0/24"])).contains("allowed"));
}

#[test]
fn health_checks_count_local_endpoints() {
    let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000});
    let program = compile(&service(spec, json!({})), &two(), &view());
    let expected = HealthCheck { port: 31_000, local_endpoints: 1 };
    assert_eq!(program.health, Some(expected));
    let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Cluster", "healthCheckNodePort": 31000});
    let program = compile(&service(spec, json!({})), &two(), &view());
    assert_eq!(program.health, None);
}

#[test]
fn other_proxies_services_are_left_alone() {
    let mut object = service(json!({}), json!({}));
    let label = "service.kubernetes.io/service-proxy-name";
    object.metadata.labels = Some([(label.to_owned(), "other".to_owned())].into());
    assert_eq!(compile(&object, &two(), &view()), Program::default());
}

#[test]
fn endpoints_by_condition_locality_and_topology() {
    let port: ServicePort = serde_json::from_value(json!({"name": "web", "port": 80})).unwrap();
    #[rustfmt::skip]
    let table: [(Value, &[u8], &[u8]); 8] = [
        // Last byte of addresses: of the cluster's list, of the local list.
        (json!([{"addresses": ["10.0.0.1"], "nodeName": "n"}, {"addresses": ["10.0.0.2"]}]), &[1, 2], &[1]),
        (json!([{"addresses": ["10.0.0.1"], "nodeName": "n", "conditions": {"ready": false}}]), &[], &[]),
        // Terminating ones serve when there is nothing else, for each list on its own.
        (json!([
            {"addresses": ["10.0.0.1"], "nodeName": "n", "conditions": {"ready": false, "serving": true, "terminating": true}},
            {"addresses": ["10.0.0.2"], "nodeName": "m", "conditions": {"ready": true}},
        ]), &[2], &[1]),
        (json!([
            {"addresses": ["10.0.0.1"], "nodeName": "n", "conditions": {"ready": false, "serving": false, "terminating": true}},
            {"addresses": ["10.0.0.2"], "nodeName": "m", "conditions": {"ready": false, "serving": true, "terminating": true}},
        ]), &[2], &[]),
        // Hints: to the zone when complete, not when one is missing, to the node before the zone.
        (json!([
            {"addresses": ["10.0.0.1"], "hints": {"forZones": [{"name": "z"}]}},
            {"addresses": ["10.0.0.2"], "hints": {"forZones": [{"name": "y"}]}},
        ]), &[1], &[]),
        (json!([{"addresses": ["10.0.0.1"], "hints": {"forZones": [{"name": "z"}]}}, {"addresses": ["10.0.0.2"]}]), &[1, 2], &[]),
        (json!([{"addresses": ["10.0.0.1"], "hints": {"forZones": [{"name": "y"}]}}]), &[1], &[]),
        (json!([
            {"addresses": ["10.0.0.1"], "hints": {"forNodes": [{"name": "n"}], "forZones": [{"name": "z"}]}},
            {"addresses": ["10.0.0.2"], "hints": {"forNodes": [{"name": "m"}], "forZones": [{"name": "z"}]}},
        ]), &[1], &[]),
    ];
    for (endpoints, cluster, local) in table {
        let targets = select(&port, &slice(endpoints.clone()), "n", Some("z"));
        let last = |list: &[(Ipv4Addr, u16)]| -> Vec<u8> { list.iter().map(|(ip, _)| ip.octets()[3]).collect() };
        assert_eq!(last(&targets.cluster), cluster, "{endpoints}");
        assert_eq!(last(&targets.local), local, "{endpoints}");
    }
}

fn update(desired: &mut Desired, by: Claimant, spec: Value, slices: &[Arc<EndpointSlice>]) -> Change {
    let program = compile(&service(spec, json!({})), slices, &view());
    desired.update([(by, Some(program))])
}

#[test]
fn a_change_touches_only_what_changed() {
    let mut desired = Desired::new(layout());
    update(&mut desired, claim(0, "d/s"), json!({}), &two());
    // A third endpoint behind the two.
    let three = slice(json!([
        {"addresses": ["10.244.0.5"], "nodeName": "n"},
        {"addresses": ["10.244.1.6"], "nodeName": "m"},
        {"addresses": ["10.244.1.7"], "nodeName": "m"},
    ]));
    let change = update(&mut desired, claim(0, "d/s"), json!({}), &three);
    let text = change.to_string();
    let lines: Vec<&str> = text.lines().filter(|l| l.starts_with(['+', '-', '!'])).collect();
    assert_eq!(
        lines,
        [
            "- services 10.96.0.20 . tcp . 80 : goto pick-2-foreign",
            "+ endpoints 0x2 . 10.96.0.20 . tcp . 80 : 10.244.1.7 . 8080",
            "+ services 10.96.0.20 . tcp . 80 : goto pick-3-foreign",
            "- chain pick-2-foreign",
        ]
    );
    let change = update(&mut desired, claim(0, "d/s"), json!({}), &three);
    assert!(change.is_empty());
    let change = desired.update([(claim(0, "d/s"), None)]);
    assert_eq!(change.delete.len(), 3);
    assert_eq!(change.add.len(), 0);
    assert_eq!(change.dead_chains, ["pick-3-foreign"]);
    assert!(desired.whole().is_empty());
}

#[test]
fn the_older_service_keeps_a_contested_address() {
    let mut desired = Desired::new(layout());
    let shared = json!({"externalIPs": ["192.0.2.50"]});
    let mut second = shared.clone();
    second["clusterIP"] = json!("10.96.0.21");
    second["clusterIPs"] = json!(["10.96.0.21"]);
    let endpoint = |ip: &str| slice(json!([{"addresses": [ip]}]));
    update(&mut desired, claim(2, "d/b"), second, &endpoint("10.0.0.2"));
    let contested = |d: &Desired| {
        let text = d.whole().to_string();
        let line = text.lines().find(|l| l.contains("0x0 . 192.0.2.50"));
        line.unwrap_or_default().to_owned()
    };
    assert!(contested(&desired).ends_with("10.0.0.2 . 8080"));
    let change = update(&mut desired, claim(1, "d/a"), shared, &endpoint("10.0.0.1"));
    assert!(contested(&desired).ends_with("10.0.0.1 . 8080"));
    assert!(change.to_string().contains("- endpoints 0x0 . 192.0.2.50"));
    desired.update([(claim(1, "d/a"), None)]);
    assert!(contested(&desired).ends_with("10.0.0.2 . 8080"));
}

#[test]
fn udp_frontends_that_lose_endpoints_are_named() {
    let mut desired = Desired::new(layout());
    let spec = json!({"ports": [{"name": "dns", "port": 5353, "protocol": "UDP"}]});
    let first = update(&mut desired, claim(0, "d/s"), spec.clone(), &two());
    assert_eq!(first.udp.len(), 1, "none before, some now");
    let one = slice(json!([{"addresses": ["10.244.1.6"], "nodeName": "m"}]));
    let lost = update(&mut desired, claim(0, "d/s"), spec.clone(), &one);
    let targets: Vec<_> = lost.udp.values().next().unwrap().iter().collect();
    assert_eq!(targets, [&(Ipv4Addr::new(10, 244, 1, 6), 5353)]);
    let gained = update(&mut desired, claim(0, "d/s"), spec, &two());
    assert!(gained.udp.is_empty(), "{gained}");
}

#[test]
fn the_whole_table() {
    let mut desired = Desired::new(layout());
    desired.update([(claim(i64::MIN, "resolver"), Some(resolver(&view())))]);
    let spec = json!({
        "type": "NodePort", "sessionAffinity": "ClientIP",
        "ports": [{"name": "web", "port": 80, "nodePort": 30080}],
    });
    update(&mut desired, claim(0, "d/s"), spec, &two());
    let expected = include_str!("golden.txt");
    let actual = desired.to_string();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/proxy/golden.txt");
        std::fs::write(path, &actual).unwrap();
        return;
    }
    assert!(expected == actual, "the table differs from golden.txt (UPDATE_GOLDEN=1 writes it); it is now:\n{actual}");
}
