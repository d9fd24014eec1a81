//! The proxy against the kernel: a node, its Pods, another client, all in namespaces of their own.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use super::apply::{Applier, purge};
use super::base::Layout;
use super::compile::{View, compile, resolver};
use super::desired::{Claimant, Desired};
use crate::config::Config;
use crate::testing::{Namespace, Node, Pod, Server, ask_tcp, ask_udp, route};

const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 20);
const BALANCER_IP: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const HOST_IP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const OUTSIDE_IP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);

/// A node with a proxy and a client outside the cluster.
struct World {
    node: Node,
    outside: Namespace,
    config: Config,
    desired: Desired,
    applier: Applier,
    pods: BTreeMap<String, Pod>,
    servers: Vec<Server>,
}

impl World {
    fn new() -> Self {
        Self::with_bridge_calls(true)
    }

    /// Whether packets between ports of the bridge pass the IP hooks (br_netfilter).
    fn with_bridge_calls(on: bool) -> Self {
        let node = Node::new(0);
        node.host.run(|| {
            let name = "net/bridge/bridge-nf-call-iptables";
            // Kernels without br_netfilter have one case only.
            let _ = crate::cni::bridge::set(name, if on { "1" } else { "0" });
        });
        let outside = Namespace::new();
        node.connect(&outside, "ext0", "192.0.2.1/24", "192.0.2.9/24");
        let mut config = Config::new("n", IpAddr::V4(HOST_IP), node.directory.path(), 0);
        // The tests' address files are directly in the directory.
        config.data_dir = node.directory.path().to_owned();
        config.pod_cidr = Some("10.244.0.0/24".parse().unwrap());
        std::os::unix::fs::symlink(node.directory.path(), node.directory.path().join("cni")).unwrap();
        outside.run(|| {
            route("10.96.0.0/16", HOST_IP);
            route("198.51.100.0/24", HOST_IP);
        });
        node.host.run(|| route("0.0.0.0/0", OUTSIDE_IP));
        let desired = Desired::new(Layout::of(&config).unwrap());
        let applier = Applier::new(&config);
        let mut world = Self { node, outside, config, desired, applier, pods: BTreeMap::new(), servers: Vec::new() };
        world.pod("client");
        world.whole();
        world
    }

    fn whole(&self) {
        self.node.host.run(|| self.applier.whole(&self.desired)).unwrap();
    }

    fn pod(&mut self, name: &str) {
        let pod = self.node.pod(name);
        for port in [80, 8080] {
            self.servers.push(pod.namespace.serve_tcp((pod.ip, port), name));
            self.servers.push(pod.namespace.serve_udp((pod.ip, port), name));
        }
        self.pods.insert(name.to_owned(), pod);
    }

    fn view(&self) -> View {
        View { node: "n".into(), zone: None, dns: None }
    }

    /// Applies the Service with ready endpoints of the given Pods as an increment.
    fn apply(&mut self, service: &Value, endpoints: &[&str]) {
        let list: Vec<_> = endpoints
            .iter()
            .map(|name| match self.pods.get(*name) {
                Some(pod) => json!({"addresses": [pod.ip], "nodeName": "n"}),
                None => json!({"addresses": [name], "nodeName": "elsewhere"}),
            })
            .collect();
        self.apply_endpoints(service, list);
    }

    fn apply_endpoints(&mut self, service: &Value, endpoints: Vec<Value>) {
        let service: Service = serde_json::from_value(service.clone()).unwrap();
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": {"name": "s", "namespace": "d"}, "addressType": "IPv4",
            "ports": [{"name": "web", "port": 8080, "protocol": "TCP"}, {"name": "udp", "port": 8080, "protocol": "UDP"}],
            "endpoints": endpoints,
        }))
        .unwrap();
        let claimant = Claimant { created: 0, name: "d/s".into() };
        let program = compile(&service, &[Arc::new(slice)], &self.view());
        let change = self.desired.update([(claimant, Some(program))]);
        self.node.host.run(|| self.applier.change(&change)).unwrap();
    }

    fn client(&self) -> &Namespace {
        &self.pods["client"].namespace
    }

    /// Who answers how often.
    fn census(&self, from: &Namespace, to: (Ipv4Addr, u16), times: usize) -> BTreeMap<String, usize> {
        from.run(|| {
            let mut out = BTreeMap::new();
            for _ in 0..times {
                let answer = ask_tcp(to).unwrap_or_else(|e| e.kind().to_string());
                let name = answer.split(' ').next().unwrap_or_default().to_owned();
                *out.entry(name).or_default() += 1;
            }
            out
        })
    }
}

fn service(extra: Value) -> Value {
    let mut service = json!({
        "metadata": {"name": "s", "namespace": "d"},
        "spec": {
            "type": "LoadBalancer", "clusterIP": CLUSTER_IP, "clusterIPs": [CLUSTER_IP],
            "ports": [
                {"name": "web", "port": 80, "protocol": "TCP", "nodePort": 30080},
                {"name": "udp", "port": 80, "protocol": "UDP", "nodePort": 30080},
            ],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": BALANCER_IP, "ipMode": "VIP"}]}},
    });
    for (key, value) in extra.as_object().into_iter().flatten() {
        service["spec"][key] = value.clone();
    }
    service
}

#[test]
fn balances_over_all_endpoints_from_everywhere() {
    balances(World::new());
}

#[test]
fn balances_without_bridge_calls() {
    let mut world = World::with_bridge_calls(false);
    world.pod("self");
    world.apply(&service(json!({})), &["self"]);
    let itself = &world.pods["self"].namespace;
    assert!(itself.ask_tcp((CLUSTER_IP, 80)).unwrap().starts_with("self "));
    balances(world);
}

fn balances(mut world: World) {
    for name in ["a", "b", "c"] {
        world.pod(name);
    }
    world.apply(&service(json!({})), &["a", "b", "c"]);
    let targets = [
        (world.client(), (CLUSTER_IP, 80)),
        (&world.node.host, (CLUSTER_IP, 80)),
        (&world.outside, (CLUSTER_IP, 80)),
        (world.client(), (HOST_IP, 30080)),
        (&world.node.host, (HOST_IP, 30080)),
        (&world.node.host, (Ipv4Addr::LOCALHOST, 30080)),
        (&world.outside, (HOST_IP, 30080)),
        (&world.outside, (BALANCER_IP, 80)),
        (world.client(), (BALANCER_IP, 80)),
    ];
    for (number, (from, to)) in targets.into_iter().enumerate() {
        let census = world.census(from, to, 45);
        assert_eq!(census.len(), 3, "{number} {to:?}: {census:?}");
        // The chance that one of three gets fewer than 4 of 45 is below one in 30,000.
        assert!(census.values().all(|n| *n >= 4), "{number} {to:?}: {census:?}");
    }
    // Pods keep their address towards cluster IPs; others are masqueraded.
    let seen = world.client().ask_tcp((CLUSTER_IP, 80)).unwrap();
    assert!(seen.ends_with(" 10.244.0.2"), "{seen}");
    let seen = world.outside.ask_tcp((HOST_IP, 30080)).unwrap();
    assert!(seen.ends_with(" 10.244.0.1"), "{seen}");
    assert!(world.client().ask_udp((CLUSTER_IP, 80)).is_ok());
    assert!(world.outside.ask_udp((HOST_IP, 30080)).is_ok());
}

#[test]
fn a_pod_reaches_itself() {
    let mut world = World::new();
    world.pod("a");
    world.apply(&service(json!({})), &["a"]);
    let a = &world.pods["a"].namespace;
    for to in [(CLUSTER_IP, 80), (HOST_IP, 30080), (BALANCER_IP, 80)] {
        let answer = a.ask_tcp(to).unwrap();
        assert!(answer.starts_with("a 10.244.0.1"), "{to:?} {answer}");
        assert!(a.ask_udp(to).is_ok(), "{to:?}");
    }
}

#[test]
fn services_without_endpoints_refuse_at_once() {
    let mut world = World::new();
    world.apply(&service(json!({})), &[]);
    let refused = std::io::ErrorKind::ConnectionRefused;
    let started = Instant::now();
    for (from, to) in [
        (world.client(), (CLUSTER_IP, 80)),
        (world.client(), (CLUSTER_IP, 81)),
        (world.client(), (Ipv4Addr::new(10, 96, 3, 3), 80)),
        (&world.node.host, (CLUSTER_IP, 80)),
        (&world.node.host, (CLUSTER_IP, 81)),
        (&world.outside, (HOST_IP, 30080)),
        (&world.outside, (BALANCER_IP, 80)),
        (&world.node.host, (Ipv4Addr::LOCALHOST, 30080)),
    ] {
        assert_eq!(from.ask_tcp(to).unwrap_err().kind(), refused, "{to:?}");
    }
    let error = world.client().ask_udp((CLUSTER_IP, 80)).unwrap_err();
    assert_eq!(error.kind(), refused);
    assert!(started.elapsed().as_millis() < 1500, "{:?}", started.elapsed());
    // And serve as soon as there is one.
    world.pod("a");
    world.apply(&service(json!({})), &["a"]);
    assert!(world.client().ask_tcp((CLUSTER_IP, 80)).unwrap().starts_with("a "));
}

#[test]
fn affinity_sticks_until_the_endpoint_is_gone() {
    let mut world = World::new();
    for name in ["a", "b", "c"] {
        world.pod(name);
    }
    let sticky = service(json!({
        "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 2}},
    }));
    world.apply(&sticky, &["a", "b", "c"]);
    let (client, to) = (world.client(), (CLUSTER_IP, 80));
    let first = world.census(client, to, 20);
    assert_eq!(first.len(), 1, "{first:?}");
    let by_port = world.census(&world.outside, (HOST_IP, 30080), 20);
    assert_eq!(by_port.len(), 1, "{by_port:?}");
    // The table made anew keeps affinity.
    world.whole();
    assert_eq!(world.census(world.client(), to, 20), first);
    // An endpoint that is gone is not stuck to, and the next one is.
    let gone = first.keys().next().unwrap().clone();
    let rest: Vec<_> = ["a", "b", "c"].into_iter().filter(|n| *n != gone).collect();
    world.apply(&sticky, &rest);
    let second = world.census(world.client(), to, 20);
    assert_eq!(second.len(), 1, "{second:?}");
    assert!(!second.contains_key(&gone));
    // The time starts anew with each connection, and ends: some new client falls elsewhere in the end.
    let mut others = 0;
    for _ in 0..8 {
        std::thread::sleep(std::time::Duration::from_millis(2600));
        others += usize::from(
            world.census(world.client(), to, 1) != BTreeMap::from([(second.keys().next().unwrap().clone(), 1)]),
        );
        if others > 0 {
            return;
        }
    }
    panic!("eight picks fell on the same of two endpoints: affinity does not expire");
}

#[test]
fn external_policy_local_keeps_the_client_and_drops_without_local_endpoints() {
    let mut world = World::new();
    world.pod("a");
    let local = service(json!({"externalTrafficPolicy": "Local"}));
    // 10.244.9.9 is a Pod of another node.
    world.apply(&local, &["a", "10.244.9.9"]);
    for to in [(HOST_IP, 30080), (BALANCER_IP, 80)] {
        for _ in 0..10 {
            let answer = world.outside.ask_tcp(to).unwrap();
            assert_eq!(answer, format!("a {OUTSIDE_IP}"), "{to:?}");
        }
    }
    world.apply(&local, &["10.244.9.9"]);
    let started = Instant::now();
    let error = world.outside.ask_tcp((HOST_IP, 30080)).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    assert!(started.elapsed().as_secs() >= 2);
}

#[test]
fn source_ranges_keep_others_out() {
    let mut world = World::new();
    world.pod("a");
    let open = service(json!({"loadBalancerSourceRanges": ["192.0.2.0/28", "192.0.2.8/30"]}));
    world.apply(&open, &["a"]);
    assert!(world.outside.ask_tcp((BALANCER_IP, 80)).is_ok());
    let closed = service(json!({"loadBalancerSourceRanges": ["203.0.113.0/24"]}));
    world.apply(&closed, &["a"]);
    assert!(world.outside.ask_tcp((BALANCER_IP, 80)).is_err());
    assert!(world.outside.ask_tcp((HOST_IP, 30080)).is_ok());
}

#[test]
fn udp_clients_follow_their_endpoint() {
    let mut world = World::new();
    world.pod("a");
    world.pod("b");
    world.apply(&service(json!({})), &[]);
    // One socket: the same connection for conntrack all the time.
    let socket = world.client().run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap());
    let to = (CLUSTER_IP, 80);
    assert!(ask_udp(&socket, to).is_err());
    world.apply(&service(json!({})), &["a"]);
    assert!(ask_udp(&socket, to).unwrap().starts_with("a "));
    world.apply(&service(json!({})), &["b"]);
    assert!(ask_udp(&socket, to).unwrap().starts_with("b "));
}

#[test]
fn no_request_fails_while_endpoints_change() {
    let mut world = World::new();
    for name in ["a", "b", "c", "d"] {
        world.pod(name);
    }
    world.apply(&service(json!({})), &["a", "b"]);
    let stop = AtomicBool::new(false);
    let done = AtomicUsize::new(0);
    let outcome = std::thread::scope(|scope| {
        let client = world.pods["client"].namespace.path();
        let client = std::fs::File::open(client).unwrap();
        let (stop, done) = (&stop, &done);
        let load = scope.spawn(move || {
            crate::cni::netns::enter(&client, || {
                let mut failures = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match ask_tcp((CLUSTER_IP, 80)) {
                        Ok(_) => {
                            done.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => failures.push(error.to_string()),
                    }
                }
                Ok(failures)
            })
            .unwrap()
        });
        let sets: [&[&str]; 4] = [&["a", "b", "c"], &["c", "d"], &["a", "d"], &["b"]];
        for round in 0..60 {
            if round == 30 {
                world.whole();
            }
            world.apply(&service(json!({})), sets[round % 4]);
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        stop.store(true, Ordering::Relaxed);
        load.join().unwrap()
    });
    assert_eq!(outcome, Vec::<String>::new());
    assert!(done.load(Ordering::Relaxed) > 50);
}

#[test]
fn host_ports_lead_to_their_pod_and_survive_the_table() {
    let mut world = World::new();
    let ports = json!([
        {"hostPort": 8081, "containerPort": 8080, "protocol": "TCP"},
        {"hostPort": 8082, "containerPort": 8080, "protocol": "UDP"},
        {"hostPort": 8083, "containerPort": 8080, "protocol": "TCP", "hostIP": "127.0.0.1"},
    ]);
    let pod = world.node.pod_with("h", ports.clone()).unwrap();
    let _tcp = pod.namespace.serve_tcp((pod.ip, 8080), "h");
    let _udp = pod.namespace.serve_udp((pod.ip, 8080), "h");
    for round in 0..2 {
        let answer = world.outside.ask_tcp((HOST_IP, 8081)).unwrap();
        assert_eq!(answer, format!("h {OUTSIDE_IP}"), "{round}");
        assert!(world.outside.ask_udp((HOST_IP, 8082)).is_ok());
        for from in [world.client(), &world.node.host, &pod.namespace] {
            assert!(from.ask_tcp((HOST_IP, 8081)).is_ok(), "{round}");
        }
        let lo = Ipv4Addr::LOCALHOST;
        assert!(world.node.host.ask_tcp((lo, 8081)).is_ok());
        assert!(world.node.host.ask_tcp((lo, 8083)).is_ok());
        assert!(world.outside.ask_tcp((HOST_IP, 8083)).is_err());
        world.whole();
    }
    // Another Pod cannot have the port, and its failure does not take the first one's.
    let error = world.node.pod_with("i", ports).err().unwrap();
    assert!(error.to_string().contains("in use by another Pod"), "{error}");
    assert!(world.outside.ask_tcp((HOST_IP, 8081)).is_ok());
    world.node.call("DEL", "h", None, &world.node.config()).unwrap();
    assert!(world.outside.ask_tcp((HOST_IP, 8081)).is_err());
    world.pod("z");
}

#[test]
fn two_tables_live_side_by_side_and_purge_removes_one() {
    let mut world = World::new();
    world.pod("a");
    world.apply(&service(json!({})), &["a"]);
    let mut second = Config::new("n", IpAddr::V4(HOST_IP), "/nonexistent", 1);
    second.pod_cidr = Some("10.243.0.0/24".parse().unwrap());
    world.node.host.run(|| {
        let applier = Applier::new(&second);
        let desired = Desired::new(Layout::of(&second).unwrap());
        applier.whole(&desired).unwrap();
        assert!(applier.exists().unwrap());
    });
    assert!(world.outside.ask_tcp((HOST_IP, 30080)).is_ok());
    assert!(world.client().ask_tcp((CLUSTER_IP, 80)).is_ok());
    world.node.host.run(|| {
        purge(&second).unwrap();
        purge(&second).unwrap();
        assert!(!Applier::new(&second).exists().unwrap());
        assert!(world.applier.exists().unwrap());
    });
    assert!(world.client().ask_tcp((CLUSTER_IP, 80)).is_ok());
    world.node.host.run(|| purge(&world.config).unwrap());
    assert!(world.client().ask_tcp((CLUSTER_IP, 80)).is_err());
}

#[test]
fn the_resolver_answers_at_its_cluster_ip() {
    let mut world = World::new();
    let gateway = world.node.gateway();
    let mut view = world.view();
    view.dns = Some((Ipv4Addr::new(10, 96, 0, 10), gateway));
    let claimant = Claimant { created: i64::MIN, name: "dns".into() };
    let change = world.desired.update([(claimant, Some(resolver(&view)))]);
    world.node.host.run(|| world.applier.change(&change)).unwrap();
    let _tcp = world.node.host.serve_tcp((gateway, 53), "dns");
    let _udp = world.node.host.serve_udp((gateway, 53), "dns");
    let to = (Ipv4Addr::new(10, 96, 0, 10), 53);
    for from in [world.client(), &world.node.host] {
        assert!(from.ask_tcp(to).unwrap().starts_with("dns"));
        assert!(from.ask_udp(to).unwrap().starts_with("dns"));
    }
    let seen = world.client().ask_udp(to).unwrap();
    assert_eq!(seen, "dns 10.244.0.2");
}

#[test]
fn the_nft_program_can_list_the_table() {
    let mut world = World::new();
    world.pod("a");
    world.apply(&service(json!({"sessionAffinity": "ClientIP"})), &["a"]);
    world.client().ask_tcp((CLUSTER_IP, 80)).unwrap();
    let listed =
        world.node.host.run(|| std::process::Command::new("nft").args(["list", "table", "ip", "caravel0"]).output());
    // Without the program there is nothing to compare with.
    let Ok(output) = listed else { return };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(text.contains("10.96.0.20 . tcp . 80 : goto sticky-10.96.0.20-6-80-"), "{text}");
    if std::env::var_os("SHOW").is_some() {
        println!("{text}");
    }
}

#[test]
fn ten_thousand_services() {
    let mut world = World::new();
    world.pod("a");
    let view = world.view();
    let compiled = Instant::now();
    let programs: Vec<_> = (0..10_000u32)
        .map(|n| {
            let service: Service = serde_json::from_value(json!({
                "metadata": {"name": format!("s{n}"), "namespace": "d"},
                "spec": {"clusterIP": format!("10.96.{}.{}", 1 + n / 250, 1 + n % 250), "ports": [{"name": "web", "port": 80}]},
            }))
            .unwrap();
            let endpoints: Vec<_> = (0..3).map(|e| json!({"addresses": [format!("10.244.{}.{}", 1 + e, 1 + n % 250)]})).collect();
            let slice: EndpointSlice = serde_json::from_value(json!({
                "metadata": {"name": "s"}, "addressType": "IPv4",
                "ports": [{"name": "web", "port": 8080}], "endpoints": endpoints,
            }))
            .unwrap();
            let claimant = Claimant { created: 0, name: format!("d/s{n}") };
            (claimant, Some(compile(&service, &[Arc::new(slice)], &view)))
        })
        .collect();
    let compiled = compiled.elapsed();
    let started = Instant::now();
    world.desired.update(programs);
    world.whole();
    let programmed = started.elapsed();
    let mut one = Vec::new();
    for endpoints in [&["a"][..], &["a", "10.244.9.9"], &["a"], &["10.244.9.9"], &["a"]] {
        let started = Instant::now();
        world.apply(&service(json!({})), endpoints);
        one.push(started.elapsed());
    }
    assert!(world.client().ask_tcp((CLUSTER_IP, 80)).unwrap().starts_with("a "));
    println!("compile {compiled:?}, program {programmed:?}, one change {one:?}");
}

#[test]
fn a_deleted_table_is_noticed() {
    let world = World::new();
    world.node.host.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let monitor = crate::netlink::monitor::Monitor::open().unwrap();
            let wait = std::time::Duration::from_millis(300);
            let noticed = monitor.deleted(world.applier.table());
            let mut other = world.config.clone();
            other.table = "other".into();
            let nothing = tokio::time::timeout(wait, async {
                purge(&other).unwrap();
                noticed.await
            });
            assert!(nothing.await.is_err(), "another table's deletion is nothing");
            purge(&world.config).unwrap();
            let noticed = tokio::time::timeout(wait, monitor.deleted(world.applier.table()));
            noticed.await.unwrap().unwrap();
        });
    });
}
