//! Services, endpoints, ingresses and network policies.

use super::{Object, child, each, get, made, number, optional, text};
use serde_json::{Value, json};

/// 3 hours: how long a client sticks to an endpoint under `ClientIP` affinity, in seconds.
const CLIENT_IP_SECONDS: i64 = 10800;

pub(super) fn service(object: &mut Object) {
    let Some(spec) = made(object, "spec") else { return };
    text(spec, "sessionAffinity", "None");
    match get(spec, "sessionAffinity") {
        "None" => {
            spec.remove("sessionAffinityConfig");
        }
        "ClientIP" => {
            let client = made(spec, "sessionAffinityConfig").and_then(|config| made(config, "clientIP"));
            if let Some(client) = client {
                optional(client, "timeoutSeconds", CLIENT_IP_SECONDS);
            }
        }
        _ => {}
    }
    text(spec, "type", "ClusterIP");
    each(spec, "ports").for_each(service_port);
    let kind = get(spec, "type").to_owned();
    let has_external = spec.get("externalIPs").and_then(Value::as_array).is_some_and(|ips| !ips.is_empty());
    match kind.as_str() {
        "LoadBalancer" | "NodePort" => text(spec, "externalTrafficPolicy", "Cluster"),
        "ClusterIP" if has_external => text(spec, "externalTrafficPolicy", "Cluster"),
        _ => {}
    }
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer" | "ClusterIP") {
        optional(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        optional(spec, "allocateLoadBalancerNodePorts", true);
    }
    let balancer = made(object, "status").and_then(|status| made(status, "loadBalancer"));
    if kind == "LoadBalancer"
        && let Some(balancer) = balancer
    {
        for ingress in each(balancer, "ingress") {
            if !get(ingress, "ip").is_empty() {
                optional(ingress, "ipMode", "VIP");
            }
        }
    }
}

fn service_port(port: &mut Object) {
    text(port, "protocol", "TCP");
    let unset = match port.get("targetPort") {
        None | Some(Value::Null) => true,
        Some(value) => value.as_i64() == Some(0) || value.as_str() == Some(""),
    };
    if unset && let Some(number) = port.get("port").cloned() {
        port.insert("targetPort".into(), number);
    }
}

pub(super) fn endpoints(object: &mut Object) {
    for subset in each(object, "subsets") {
        for port in each(subset, "ports") {
            text(port, "protocol", "TCP");
        }
    }
}

pub(super) fn apply_discovery(kind: &str, object: &mut Object) {
    if kind == "EndpointSlice" {
        for port in each(object, "ports") {
            optional(port, "name", "");
            optional(port, "protocol", "TCP");
        }
    }
}

pub(super) fn apply_networking(kind: &str, object: &mut Object) {
    match kind {
        "NetworkPolicy" => network_policy(object),
        "Ingress" => {
            made(object, "spec");
            made(object, "status").and_then(|status| made(status, "loadBalancer"));
        }
        "IngressClass" => {
            if let Some(parameters) = child(object, "spec").and_then(|spec| child(spec, "parameters")) {
                optional(parameters, "scope", "Cluster");
            }
        }
        _ => {}
    }
}

fn network_policy(object: &mut Object) {
    let Some(spec) = made(object, "spec") else { return };
    made(spec, "podSelector");
    let unset = spec.get("policyTypes").and_then(Value::as_array).is_none_or(Vec::is_empty);
    if unset {
        let egress = spec.get("egress").and_then(Value::as_array).is_some_and(|rules| !rules.is_empty());
        let types = if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
        spec.insert("policyTypes".into(), types);
    }
    for direction in ["ingress", "egress"] {
        for rule in each(spec, direction) {
            for port in each(rule, "ports") {
                optional(port, "protocol", "TCP");
            }
        }
    }
}

/// The port of a webhook's or aggregated API's Service.
pub(super) fn service_reference(reference: &mut Object) {
    number(reference, "port", 443);
}
