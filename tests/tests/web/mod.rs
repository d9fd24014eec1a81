//! Pods that say their names, and asking them.
#![allow(dead_code)]

use caravel_tests::{Namespace, Net, Serving};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// A Pod that sleeps; what it serves the test serves in its network.
pub fn sleeper(name: &str, labels: &Value, ports: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": "test/busybox:1", "command": ["sleep", "3600"], "ports": ports}],
        },
    })
}

pub fn service(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

pub fn running(ns: &Namespace, name: &str, labels: Value) -> Net {
    ns.make("pods", &sleeper(name, &labels, &json!([])));
    Net::of(ns, name)
}

/// Pods `web-0`… that say their names on port 8080 over TCP and UDP.
pub fn webs(ns: &Namespace, count: usize) -> Vec<Serving> {
    let names: Vec<String> = (0..count).map(|i| format!("web-{i}")).collect();
    for name in &names {
        ns.make("pods", &sleeper(name, &json!({"app": "web"}), &json!([])));
    }
    names.iter().map(|name| Net::of(ns, name).serve(8080, name)).collect()
}

pub fn text(value: &Value, pointer: &str) -> String {
    match value.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(other) if !other.is_null() => other.to_string(),
        _ => String::new(),
    }
}

pub fn node_ip(ns: &Namespace) -> String {
    let nodes = ns.must("GET", "/api/v1/nodes", &Value::Null);
    let addresses = nodes["items"][0]["status"]["addresses"].as_array().unwrap();
    text(addresses.iter().find(|a| a["type"] == "InternalIP").unwrap(), "/address")
}

pub fn reaches(ns: &Namespace, from: &Net, ip: &str, port: u16) -> String {
    ns.eventually(&format!("{ip}:{port} answers over TCP"), || from.tcp(ip, port))
}

/// All servers that answer there.
pub fn reaches_all(ns: &Namespace, from: &Net, ip: &str, port: u16, count: usize) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    ns.eventually(&format!("{count} Pods answer at {ip}:{port}"), || {
        seen.insert(from.tcp(ip, port)?);
        if seen.len() >= count { Ok(seen.clone()) } else { Err(format!("so far {seen:?}")) }
    })
}
