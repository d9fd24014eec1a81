//! Policies against the kernel.
#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use serde_json::{Value, json};

use super::plan::{Snapshot, compile};
use crate::config::Config;
use crate::proxy::apply::Applier;
use crate::proxy::base::Layout;
use crate::proxy::desired::{Change, Desired};
use crate::testing::{Namespace, Node, Pod, Server};

struct World {
    node: Node,
    outside: Namespace,
    applier: Applier,
    desired: Desired,
    pods: Vec<(&'static str, Pod)>,
    _servers: Vec<Server>,
}

impl World {
    fn new(bridge_calls: bool) -> Self {
        let node = Node::new(0);
        let outside = Namespace::new();
        node.connect(&outside, "ext0", "192.0.2.1/24", "192.0.2.9/24");
        outside.run(|| crate::testing::route("10.244.0.0/24", Ipv4Addr::new(192, 0, 2, 1)));
        let value = if bridge_calls { "1" } else { "0" };
        node.host.run(|| {
            let name = "net/bridge/bridge-nf-call-iptables";
            // Kernels without br_netfilter have one case only.
            let _ = crate::cni::bridge::set(name, value);
        });
        let mut config = Config::new("n", IpAddr::V4([192, 0, 2, 1].into()), "/nonexistent", 0);
        config.pod_cidr = Some("10.244.0.0/24".parse().unwrap());
        let desired = Desired::new(Layout::of(&config).unwrap());
        let applier = Applier::new(&config);
        node.host.run(|| applier.whole(&desired)).unwrap();
        let pods: Vec<_> = ["a", "b", "c"].map(|n| (n, node.pod(n))).into();
        let mut servers = Vec::new();
        for (name, pod) in &pods {
            for port in [80, 81] {
                servers.push(pod.namespace.serve_tcp((pod.ip, port), name));
            }
        }
        servers.push(node.host.serve_tcp((node.gateway(), 80), "host"));
        servers.push(outside.serve_tcp((Ipv4Addr::new(192, 0, 2, 9), 80), "outside"));
        Self { node, outside, applier, desired, pods, _servers: servers }
    }

    fn pod(&self, name: &str) -> &Pod {
        &self.pods.iter().find(|(n, _)| *n == name).unwrap().1
    }

    fn policies(&mut self, specs: Vec<Value>) {
        let policy = |(number, spec): (usize, Value)| {
            let policy = json!({"metadata": {"name": format!("p{number}"), "namespace": "d"}, "spec": spec});
            Arc::new(serde_json::from_value(policy).unwrap())
        };
        let pods = self.pods.iter().map(|(name, pod)| {
            let pod = json!({
                "metadata": {"name": name, "namespace": "d", "labels": {"app": name}},
                "spec": {"nodeName": "n", "containers": []}, "status": {"podIP": pod.ip},
            });
            Arc::new(serde_json::from_value(pod).unwrap())
        });
        let snapshot = Snapshot {
            policies: specs.into_iter().enumerate().map(policy).collect(),
            pods: pods.collect(),
            namespaces: Vec::new(),
            node: "n".into(),
        };
        let mut change = Change::default();
        self.desired.set_policies(compile(&snapshot), &mut change);
        self.node.host.run(|| self.applier.change(&change)).unwrap();
    }

    fn reaches(&self, from: &str, to: &str, port: u16) -> bool {
        self.pod(from).namespace.ask_tcp((self.pod(to).ip, port)).is_ok()
    }
}

fn check(bridge_calls: bool) {
    let mut world = World::new(bridge_calls);
    assert!(world.reaches("a", "b", 80));
    // b may be reached by a at 80 only.
    let to_b = json!({
        "podSelector": {"matchLabels": {"app": "b"}},
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "a"}}}], "ports": [{"port": 80}]}],
    });
    world.policies(vec![to_b.clone()]);
    assert!(world.reaches("a", "b", 80));
    assert!(!world.reaches("a", "b", 81));
    assert!(!world.reaches("c", "b", 80));
    assert!(world.reaches("b", "c", 81), "b's own connections are free");
    assert!(world.reaches("b", "b", 81), "itself");
    assert!(world.node.host.ask_tcp((world.pod("b").ip, 81)).is_ok(), "the node");
    assert!(world.outside.ask_tcp((world.pod("b").ip, 80)).is_err());
    // A second policy adds; the table made anew is the same.
    let block = json!({
        "podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "192.0.2.0/24"}}], "ports": [{"port": 79, "endPort": 80}]}],
    });
    world.policies(vec![to_b.clone(), block]);
    world.node.host.run(|| world.applier.whole(&world.desired)).unwrap();
    assert!(world.outside.ask_tcp((world.pod("b").ip, 80)).is_ok());
    assert!(world.outside.ask_tcp((world.pod("b").ip, 81)).is_err());
    assert!(world.reaches("a", "b", 80));
    assert!(!world.reaches("b", "a", 80), "a is isolated too now");
    // Egress: nothing but b, and the node.
    let from_a = json!({
        "podSelector": {"matchLabels": {"app": "a"}}, "policyTypes": ["Egress"],
        "egress": [{"to": [{"podSelector": {"matchLabels": {"app": "b"}}}]}],
    });
    world.policies(vec![to_b, from_a]);
    assert!(world.reaches("a", "b", 80));
    assert!(!world.reaches("a", "c", 80));
    let a = &world.pod("a").namespace;
    assert!(a.ask_tcp((Ipv4Addr::new(192, 0, 2, 9), 80)).is_err());
    assert!(a.ask_tcp((world.node.gateway(), 80)).is_ok());
    world.policies(Vec::new());
    assert!(world.reaches("a", "c", 80) && world.reaches("c", "b", 81));
}

#[test]
fn connections_are_allowed_by_policies_only() {
    check(true);
}

#[test]
fn the_same_without_bridge_calls() {
    check(false);
}
