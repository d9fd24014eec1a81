//! Services: what was allocated stays, and what the new type does not need goes.

use super::{Object, copy};
use crate::meta;
use serde_json::{Value, json};

fn text<'a>(spec: &'a Object, field: &str) -> &'a str {
    spec.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn ports(spec: &Object) -> impl Iterator<Item = &Object> {
    spec.get("ports").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object)
}

fn number(map: &Object, field: &str) -> i64 {
    map.get(field).and_then(Value::as_i64).unwrap_or(0)
}

fn needs_cluster_ip(spec: &Object) -> bool {
    matches!(text(spec, "type"), "ClusterIP" | "NodePort" | "LoadBalancer")
}

fn needs_node_port(spec: &Object) -> bool {
    let kind = text(spec, "type");
    kind == "NodePort"
        || (kind == "LoadBalancer" && spec.get("allocateLoadBalancerNodePorts") != Some(&Value::Bool(false)))
}

fn needs_health_port(spec: &Object) -> bool {
    text(spec, "type") == "LoadBalancer" && text(spec, "externalTrafficPolicy") == "Local"
}

fn needs_external_policy(spec: &Object) -> bool {
    let external = spec.get("externalIPs").and_then(Value::as_array).is_some_and(|ips| !ips.is_empty());
    matches!(text(spec, "type"), "NodePort" | "LoadBalancer") || (text(spec, "type") == "ClusterIP" && external)
}

pub(super) fn update(map: &mut Object, before: &Object) {
    let Some(old) = before.get("spec").and_then(Value::as_object) else { return };
    let new = meta::map_mut(map, "spec");
    carry_over(new, old);
    drop_unneeded(new, old);
}

/// A request that leaves out what the server had allocated means to keep it.
fn carry_over(new: &mut Object, old: &Object) {
    if needs_cluster_ip(old) && needs_cluster_ip(new) {
        if text(new, "clusterIP").is_empty() {
            copy(new, old, "clusterIP");
        }
        let none = new.get("clusterIPs").and_then(Value::as_array).is_none_or(Vec::is_empty);
        if none && text(new, "clusterIP") == text(old, "clusterIP") {
            copy(new, old, "clusterIPs");
        }
    }
    if needs_node_port(old) && needs_node_port(new) {
        let protocol = |port: &Object| text(port, "protocol").to_owned();
        let mut taken: Vec<(String, i64)> = ports(new).map(|p| (protocol(p), number(p, "nodePort"))).collect();
        let known: Vec<(String, i64, i64)> =
            ports(old).map(|p| (protocol(p), number(p, "port"), number(p, "nodePort"))).collect();
        for port in new.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
            let Some(port) = port.as_object_mut() else { continue };
            if number(port, "nodePort") != 0 {
                continue;
            }
            let same = known.iter().find(|k| k.0 == text(port, "protocol") && k.1 == number(port, "port") && k.2 != 0);
            if let Some((protocol, _, node_port)) = same
                && !taken.contains(&(protocol.clone(), *node_port))
            {
                port.insert("nodePort".into(), json!(node_port));
                taken.push((protocol.clone(), *node_port));
            }
        }
    }
    if needs_health_port(old) && needs_health_port(new) && number(new, "healthCheckNodePort") == 0 {
        copy(new, old, "healthCheckNodePort");
    }
}

/// A change of type clears what belonged to the old type, unless the request changed it by hand.
fn drop_unneeded(new: &mut Object, old: &Object) {
    if needs_cluster_ip(old) && !needs_cluster_ip(new) {
        let same = new.get("clusterIP") == old.get("clusterIP") && new.get("clusterIPs") == old.get("clusterIPs");
        if same {
            new.remove("clusterIP");
            new.remove("clusterIPs");
        }
        for field in ["ipFamilies", "ipFamilyPolicy"] {
            if new.get(field) == old.get(field) {
                new.remove(field);
            }
        }
    }
    if needs_node_port(old) && !needs_node_port(new) {
        let list = |spec: &Object| ports(spec).map(|p| number(p, "nodePort")).collect::<Vec<_>>();
        if list(new) == list(old) {
            for port in new.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
                if let Some(port) = port.as_object_mut() {
                    port.remove("nodePort");
                }
            }
        }
    }
    let gone = |new: &mut Object, needed: fn(&Object) -> bool, field: &str| {
        if needed(old) && !needed(new) && new.get(field) == old.get(field) {
            new.remove(field);
        }
    };
    gone(new, needs_health_port, "healthCheckNodePort");
    gone(new, |spec| text(spec, "type") == "LoadBalancer", "allocateLoadBalancerNodePorts");
    gone(new, |spec| text(spec, "type") == "LoadBalancer", "loadBalancerClass");
    gone(new, needs_external_policy, "externalTrafficPolicy");
}
