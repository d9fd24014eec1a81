//! Policies by table.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::{Value, json};

use super::plan::{INGRESS, Plan, Snapshot, compile};
use super::ranges::{merged, without};
use super::selector::matches;

fn pod(namespace: &str, name: &str, ip: &str, node: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8000 + name.len()}]}]},
        "status": {"podIP": ip, "phase": "Running"},
    })
}

/// Pods a and b in d on this node, bb in d and c in e elsewhere.
fn world(policy_spec: Value) -> Snapshot {
    let parse = |v: Value| Arc::new(serde_json::from_value(v).unwrap());
    let policy = json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": policy_spec});
    let namespace = |name: &str| json!({"metadata": {"name": name, "labels": {"team": name}}});
    Snapshot {
        policies: vec![Arc::new(serde_json::from_value(policy).unwrap())],
        pods: vec![
            parse(pod("d", "a", "10.244.0.2", "n")),
            parse(pod("d", "b", "10.244.0.3", "n")),
            parse(pod("d", "bb", "10.244.1.2", "m")),
            parse(pod("e", "c", "10.244.1.9", "m")),
        ],
        namespaces: ["d", "e"].iter().map(|n| Arc::new(serde_json::from_value(namespace(n)).unwrap())).collect(),
        node: "n".into(),
    }
}

/// The elements of the only set, as text.
fn elements(plan: &Plan) -> Vec<String> {
    assert!(plan.sets.len() <= 1, "{plan:?}");
    let text = |key: &[u8]| {
        let port = u16::from_be_bytes([key[8], key[9]]);
        format!("{}.{}.{}.{} {} {port}", key[0], key[1], key[2], key[3], key[4])
    };
    plan.sets.values().flatten().map(|e| format!("{} - {}", text(&e.key), text(e.key_end.as_ref().unwrap()))).collect()
}

fn allowed(spec: Value) -> Vec<String> {
    elements(&compile(&world(spec)))
}

fn isolated(plan: &Plan, map: &str) -> Vec<u8> {
    let elements = plan.isolated.get(map).into_iter().flatten();
    elements.map(|e| e.key[3]).collect()
}

#[test]
fn only_selected_pods_of_this_node_are_isolated() {
    let plan = compile(&world(json!({"podSelector": {}, "policyTypes": ["Ingress"]})));
    assert_eq!(isolated(&plan, INGRESS), [2, 3]);
    assert_eq!(plan.isolated.len(), 1);
    assert_eq!(plan.sets.len(), 0, "nothing is allowed");
    assert_eq!(plan.chains.len(), 1, "both Pods share a chain");
    let plan = compile(&world(json!({
        "podSelector": {"matchLabels": {"app": "a"}}, "policyTypes": ["Ingress", "Egress"],
    })));
    assert_eq!(isolated(&plan, INGRESS), [2]);
    assert_eq!(plan.isolated.len(), 2);
    let plan = compile(&world(json!({"podSelector": {"matchLabels": {"app": "c"}}})));
    assert_eq!(plan, Plan::default(), "another namespace's Pod");
}

#[test]
fn peers_and_ports() {
    let ingress = |rule: Value| allowed(json!({"podSelector": {"matchLabels": {"app": "a"}}, "ingress": [rule]}));
    assert_eq!(ingress(json!({})), ["0.0.0.0 0 0 - 255.255.255.255 255 65535"]);
    assert_eq!(
        ingress(json!({"from": [{"podSelector": {}}], "ports": [{"port": 80}]})),
        ["10.244.0.2 6 80 - 10.244.0.3 6 80", "10.244.1.2 6 80 - 10.244.1.2 6 80"]
    );
    assert_eq!(
        ingress(
            json!({"from": [{"namespaceSelector": {"matchLabels": {"team": "e"}}}], "ports": [{"protocol": "UDP"}]})
        ),
        ["10.244.1.9 17 0 - 10.244.1.9 17 65535"]
    );
    assert_eq!(
        ingress(
            json!({"from": [{"namespaceSelector": {"matchLabels": {"team": "e"}}, "podSelector": {"matchLabels": {"app": "x"}}}]})
        ),
        Vec::<String>::new()
    );
    assert_eq!(
        ingress(
            json!({"from": [{"ipBlock": {"cidr": "192.0.2.0/30", "except": ["192.0.2.2/32"]}}], "ports": [{"port": 80, "endPort": 90}, {"port": 85, "endPort": 99}]})
        ),
        ["192.0.2.0 6 80 - 192.0.2.1 6 99", "192.0.2.3 6 80 - 192.0.2.3 6 99"]
    );
    // A named port is the selected Pod's for ingress, the peer's for egress.
    assert_eq!(
        ingress(json!({"from": [{"ipBlock": {"cidr": "192.0.2.0/31"}}], "ports": [{"port": "http"}]})),
        ["192.0.2.0 6 8001 - 192.0.2.1 6 8001"]
    );
    let egress = json!({
        "podSelector": {"matchLabels": {"app": "a"}}, "policyTypes": ["Egress"],
        "egress": [{"to": [{"podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["b", "bb"]}]}}],
                    "ports": [{"port": "http"}, {"port": 8001}]}],
    });
    assert_eq!(allowed(egress), ["10.244.0.3 6 8001 - 10.244.0.3 6 8001", "10.244.1.2 6 8001 - 10.244.1.2 6 8002",]);
}

#[test]
fn policy_types_are_defaulted() {
    let spec = json!({"podSelector": {}, "egress": [{}]});
    assert_eq!(compile(&world(spec)).isolated.len(), 2);
    let spec = json!({"podSelector": {}, "ingress": [{}]});
    assert_eq!(compile(&world(spec)).isolated.len(), 1);
}

#[test]
fn selectors() {
    let labels = [("a".to_owned(), "1".to_owned())].into();
    #[rustfmt::skip]
    let table = [
        (json!({}), true, true),
        (json!({"matchLabels": {"a": "1"}}), true, false),
        (json!({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "2"]}]}), true, false),
        (json!({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}), false, true),
        (json!({"matchExpressions": [{"key": "a", "operator": "Exists"}]}), true, false),
        (json!({"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}), false, true),
        (json!({"matchExpressions": [{"key": "a", "operator": "Unheard"}]}), false, false),
    ];
    for (selector, with, without) in table {
        let parsed: LabelSelector = serde_json::from_value(selector.clone()).unwrap();
        assert_eq!(matches(&parsed, Some(&labels)), with, "{selector}");
        assert_eq!(matches(&parsed, None), without, "{selector}");
    }
}

proptest::proptest! {
    #[test]
    fn ranges_hold_the_same_numbers(a in proptest::collection::vec((0u32..60, 0u32..12), 0..8),
                                    b in proptest::collection::vec((0u32..60, 0u32..12), 0..8)) {
        let ranges = |list: &[(u32, u32)]| merged(list.iter().map(|(f, n)| (*f, f + n)).collect());
        let has = |list: &[(u32, u32)], n: u32| list.iter().any(|(f, t)| *f <= n && n <= *t);
        let (a, b) = (ranges(&a), ranges(&b));
        let left = without(&a, &b);
        for n in 0..80 {
            proptest::prop_assert_eq!(has(&left, n), has(&a, n) && !has(&b, n));
        }
        for pair in left.windows(2) {
            proptest::prop_assert!(pair[0].1 < pair[1].0);
        }
    }
}
