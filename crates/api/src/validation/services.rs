//! Services, Endpoints, EndpointSlices.

use super::check::{
    Out, Path, child, has, in_range, int, invalid_all, items, one_of, port_or_name, required, required_name, text,
    texts, unique,
};
use super::selectors;
use crate::field::{FieldError, FieldPath};
use crate::names;
use serde_json::Value;
use std::net::IpAddr;

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

pub(super) fn service(out: &mut Out, object: &Value) {
    let at = FieldPath::root("spec");
    let spec = child(object, "spec");
    let kind = text(spec, "type");
    let headless = text(spec, "clusterIP") == "None";
    if items(spec, "ports").is_empty() && !headless && kind != "ExternalName" {
        out.push(FieldError::required(&at.child("ports"), ""));
    }
    by_type(out, &at, spec, kind, headless);
    ports(out, &at.child("ports"), spec, kind);
    selectors::label_map(out, &at, spec, "selector");
    let affinity = text(spec, "sessionAffinity");
    one_of(out, &at.child("sessionAffinity"), affinity, &["ClientIP", "None"]);
    affinity_config(out, &at.child("sessionAffinityConfig"), spec, affinity);
    one_of(out, &at.child("type"), kind, &TYPES);
    cluster_ips(out, &at, spec, kind);
    let list = at.child("externalIPs");
    for (i, ip) in texts(spec, "externalIPs").enumerate() {
        let complaints = names::ip(ip);
        let fine = complaints.is_empty();
        invalid_all(out, &list.index(i), ip, complaints);
        if fine {
            not_special(out, &list.index(i), ip);
        }
    }
    let ranges = at.child("loadBalancerSourceRanges");
    if !items(spec, "loadBalancerSourceRanges").is_empty() {
        if kind != "LoadBalancer" {
            out.push(FieldError::forbidden(&ranges, "may only be used when `type` is 'LoadBalancer'"));
        }
        for (i, range) in texts(spec, "loadBalancerSourceRanges").enumerate() {
            invalid_all(out, &ranges.index(i), range, names::cidr(range.trim()));
        }
    }
    traffic(out, &at, spec, kind);
    let class = text(spec, "loadBalancerClass");
    if has(spec, "loadBalancerClass") {
        let here = at.child("loadBalancerClass");
        if kind != "LoadBalancer" {
            out.push(FieldError::forbidden(&here, "may only be used when `type` is 'LoadBalancer'"));
        }
        invalid_all(out, &here, class, names::qualified_name(class));
    }
    if has(spec, "allocateLoadBalancerNodePorts") && kind != "LoadBalancer" {
        out.push(FieldError::forbidden(
            &at.child("allocateLoadBalancerNodePorts"),
            "may only be used when `type` is 'LoadBalancer'",
        ));
    }
    if has(spec, "trafficDistribution") {
        one_of(
            out,
            &at.child("trafficDistribution"),
            text(spec, "trafficDistribution"),
            &["PreferClose", "PreferSameNode", "PreferSameZone"],
        );
    }
}

fn by_type(out: &mut Out, at: Path, spec: &Value, kind: &str, headless: bool) {
    match kind {
        "LoadBalancer" => {
            for (i, port) in items(spec, "ports").iter().enumerate() {
                if int(port, "port") == Some(10250) {
                    out.push(FieldError::invalid(
                        &at.child("ports").index(i),
                        10250,
                        "may not expose port 10250 externally since it is used by kubelet",
                    ));
                }
            }
            if headless {
                let here = at.child("clusterIPs");
                out.push(FieldError::invalid(
                    &here.index(0),
                    "None",
                    "may not be set to 'None' for LoadBalancer services",
                ));
            }
        }
        "NodePort" if headless => {
            let here = at.child("clusterIPs");
            out.push(FieldError::invalid(&here.index(0), "None", "may not be set to 'None' for NodePort services"));
        }
        "ExternalName" => {
            for field in ["clusterIPs", "ipFamilies"] {
                if !items(spec, field).is_empty() {
                    out.push(FieldError::forbidden(&at.child(field), "may not be set for ExternalName services"));
                }
            }
            if has(spec, "ipFamilyPolicy") {
                let here = at.child("ipFamilyPolicy");
                out.push(FieldError::forbidden(&here, "may not be set for ExternalName services"));
            }
            // The name may be written as a rooted one.
            let name = text(spec, "externalName");
            let bare = name.strip_suffix('.').unwrap_or(name);
            required_name(out, &at.child("externalName"), bare, names::dns1123_subdomain);
        }
        _ => {}
    }
}

fn ports(out: &mut Out, list: Path, spec: &Value, kind: &str) {
    let all = items(spec, "ports");
    let mut port_names = Vec::new();
    let (mut node_ports, mut numbers) = (Vec::new(), Vec::new());
    for (i, port) in all.iter().enumerate() {
        let at = list.index(i);
        let (name, protocol) = (text(port, "name"), text(port, "protocol"));
        if name.is_empty() {
            if all.len() > 1 {
                out.push(FieldError::required(&at.child("name"), ""));
            }
        } else {
            invalid_all(out, &at.child("name"), name, names::dns1123_label(name));
            unique(out, &at.child("name"), &mut port_names, name);
        }
        let number = int(port, "port").unwrap_or(0);
        in_range(out, &at.child("port"), Some(number), 1, 65535);
        one_of(out, &at.child("protocol"), protocol, &PROTOCOLS);
        port_or_name(out, &at.child("targetPort"), child(port, "targetPort"));
        let app = text(port, "appProtocol");
        if has(port, "appProtocol") {
            invalid_all(out, &at.child("appProtocol"), app, names::qualified_name(app));
        }
        let node = int(port, "nodePort").unwrap_or(0);
        if node != 0 {
            if matches!(kind, "ClusterIP" | "ExternalName") {
                out.push(FieldError::forbidden(
                    &at.child("nodePort"),
                    format!("may not be used when `type` is '{kind}'"),
                ));
            }
            if node_ports.contains(&(protocol, node)) {
                out.push(FieldError::duplicate(&at.child("nodePort"), node));
            }
            node_ports.push((protocol, node));
        }
        if numbers.contains(&(protocol, number)) {
            out.push(FieldError::duplicate(&at, serde_json::json!({"port": number, "protocol": protocol})));
        }
        numbers.push((protocol, number));
    }
}

fn affinity_config(out: &mut Out, at: Path, spec: &Value, affinity: &str) {
    let config = child(spec, "sessionAffinityConfig");
    if affinity == "ClientIP" {
        let seconds = int(child(config, "clientIP"), "timeoutSeconds");
        let Some(seconds) = seconds else {
            return out.push(FieldError::required(at, "when session affinity type is ClientIP"));
        };
        if !(1..=86400).contains(&seconds) {
            out.push(FieldError::invalid(
                &at.child("clientIP").child("timeoutSeconds"),
                seconds,
                "must be greater than 0 and less than 86400",
            ));
        }
    } else if affinity == "None" && !config.is_null() {
        out.push(FieldError::forbidden(at, "must not be set when session affinity is None"));
    }
}

fn family_of(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// `clusterIP`, `clusterIPs`, `ipFamilies` and `ipFamilyPolicy` fit together (KEP-563).
fn cluster_ips(out: &mut Out, at: Path, spec: &Value, kind: &str) {
    if kind == "ExternalName" {
        return;
    }
    let (first, all) = (text(spec, "clusterIP"), items(spec, "clusterIPs"));
    let here = at.child("clusterIPs");
    let families: Vec<&str> = texts(spec, "ipFamilies").collect();
    for (i, family) in families.iter().enumerate() {
        let list = at.child("ipFamilies");
        one_of(out, &list.index(i), family, &["IPv4", "IPv6"]);
        if families[..i].contains(family) {
            out.push(FieldError::duplicate(&list.index(i), *family));
        }
    }
    if has(spec, "ipFamilyPolicy") {
        one_of(
            out,
            &at.child("ipFamilyPolicy"),
            text(spec, "ipFamilyPolicy"),
            &["PreferDualStack", "RequireDualStack", "SingleStack"],
        );
    }
    if !first.is_empty() && all.is_empty() {
        return out.push(FieldError::required(&here, ""));
    }
    if let Some(one) = all.first().and_then(Value::as_str)
        && one != first
    {
        out.push(FieldError::invalid(&here, child(spec, "clusterIPs"), "first value must match `clusterIP`"));
    }
    for (i, ip) in all.iter().filter_map(Value::as_str).enumerate() {
        let here = here.index(i);
        if ip == "None" {
            if all.len() > 1 {
                out.push(FieldError::invalid(
                    &here,
                    child(spec, "clusterIPs"),
                    "'None' must be the first and only value",
                ));
            }
            continue;
        }
        match names::parse_ip(ip) {
            None => out.push(FieldError::invalid(
                &here,
                ip,
                "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            )),
            Some(parsed) => {
                if let Some(family) = families.get(i).filter(|family| **family != family_of(parsed)) {
                    out.push(FieldError::invalid(
                        &here,
                        ip,
                        format!("expected an {family} value as indicated by `ipFamilies[{i}]`"),
                    ));
                }
            }
        }
    }
    if all.len() > 2 {
        out.push(FieldError::invalid(&here, child(spec, "clusterIPs"), "may only hold up to 2 values"));
    }
}

fn traffic(out: &mut Out, at: Path, spec: &Value, kind: &str) {
    let external = text(spec, "externalTrafficPolicy");
    let here = at.child("externalTrafficPolicy");
    let reachable =
        matches!(kind, "LoadBalancer" | "NodePort") || (kind == "ClusterIP" && !items(spec, "externalIPs").is_empty());
    if external.is_empty() {
        if reachable {
            out.push(FieldError::required(&here, ""));
        }
    } else if !reachable {
        out.push(FieldError::invalid(&here, external, "may only be set for externally-accessible services"));
    } else {
        one_of(out, &here, external, &["Cluster", "Local"]);
    }
    if let Some(port) = int(spec, "healthCheckNodePort").filter(|port| *port != 0) {
        let here = at.child("healthCheckNodePort");
        if kind != "LoadBalancer" || external != "Local" {
            out.push(FieldError::invalid(
                &here,
                port,
                "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
            ));
        } else {
            in_range(out, &here, Some(port), 1, 65535);
        }
    }
    let internal = text(spec, "internalTrafficPolicy");
    if has(spec, "internalTrafficPolicy") {
        one_of(out, &at.child("internalTrafficPolicy"), internal, &["Cluster", "Local"]);
    } else if kind != "ExternalName" && TYPES.contains(&kind) {
        out.push(FieldError::required(&at.child("internalTrafficPolicy"), ""));
    }
}

/// Addresses that stand for this host, a link or a group, which nothing outside can reach.
fn not_special(out: &mut Out, at: Path, text: &str) {
    // An IPv4 address that is written as one of IPv6 leads where it does.
    let Some(ip) = names::parse_ip(text).map(|ip| ip.to_canonical()) else { return };
    if ip.is_unspecified() {
        out.push(FieldError::invalid(at, text, format!("may not be unspecified ({text})")));
    }
    if ip.is_loopback() {
        out.push(FieldError::invalid(at, text, "may not be in the loopback range (127.0.0.0/8, ::1/128)"));
    }
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => (ip.segments()[0] & 0xffc0) == 0xfe80,
    };
    if link_local {
        out.push(FieldError::invalid(at, text, "may not be in the link-local range (169.254.0.0/16, fe80::/10)"));
    }
    let link_local_group = match ip {
        IpAddr::V4(ip) => ip.octets()[..3] == [224, 0, 0],
        IpAddr::V6(ip) => (ip.segments()[0] & 0xff0f) == 0xff02,
    };
    if link_local_group {
        out.push(FieldError::invalid(
            at,
            text,
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)",
        ));
    }
}

pub(super) fn service_update(out: &mut Out, new_service: &Value, old_service: &Value) {
    service(out, new_service);
    let at = FieldPath::root("spec");
    let (new, old) = (child(new_service, "spec"), child(old_service, "spec"));
    let (kind, before) = (text(new, "type"), text(old, "type"));
    if kind != "ExternalName" && before != "ExternalName" {
        let (ips, stored) = (items(new, "clusterIPs"), items(old, "clusterIPs"));
        let list = at.child("clusterIPs");
        if let (Some(ip), Some(was)) = (ips.first(), stored.first())
            && ip != was
        {
            out.push(FieldError::invalid(&list.index(0), child(new, "clusterIPs"), "may not change once set"));
        } else if ips.is_empty() && !stored.is_empty() {
            out.push(FieldError::invalid(&list.index(0), Value::Null, "primary clusterIP can not be unset"));
        }
    }
    if kind == "LoadBalancer" && before == "LoadBalancer" {
        super::check::immutable(
            out,
            &at.child("loadBalancerClass"),
            child(new, "loadBalancerClass"),
            child(old, "loadBalancerClass"),
        );
    }
}

pub(super) fn service_status(out: &mut Out, object: &Value) {
    let at = FieldPath::root("status");
    let at = at.child("loadBalancer");
    let balancer = child(child(object, "status"), "loadBalancer");
    let list = at.child("ingress");
    let kind = text(child(object, "spec"), "type");
    if !items(balancer, "ingress").is_empty() && kind != "LoadBalancer" {
        out.push(FieldError::forbidden(&list, "may only be used when `spec.type` is \"LoadBalancer\""));
    }
    balancer_ingress(out, &list, balancer, true);
}

/// The addresses of a load balancer, of a Service or an Ingress.
pub(super) fn balancer_ingress(out: &mut Out, list: Path, balancer: &Value, modes: bool) {
    for (i, one) in items(balancer, "ingress").iter().enumerate() {
        let at = list.index(i);
        let (ip, host) = (text(one, "ip"), text(one, "hostname"));
        if !ip.is_empty() {
            invalid_all(out, &at.child("ip"), ip, names::ip(ip));
            if modes && !matches!(text(one, "ipMode"), "VIP" | "Proxy") {
                if text(one, "ipMode").is_empty() {
                    out.push(FieldError::required(&at.child("ipMode"), "must be specified when `ip` is set"));
                } else {
                    out.push(FieldError::not_supported(&at.child("ipMode"), text(one, "ipMode"), &["Proxy", "VIP"]));
                }
            }
        } else if modes && has(one, "ipMode") {
            out.push(FieldError::forbidden(&at.child("ipMode"), "may not be specified when `ip` is not set"));
        }
        if !host.is_empty() {
            invalid_all(out, &at.child("hostname"), host, names::dns1123_subdomain(host));
            if names::parse_ip(host).is_some() {
                out.push(FieldError::invalid(&at.child("hostname"), host, "must be a DNS name, not an IP address"));
            }
        }
    }
}

pub(super) fn endpoints(out: &mut Out, object: &Value) {
    let list = FieldPath::root("subsets");
    for (i, subset) in items(object, "subsets").iter().enumerate() {
        let at = list.index(i);
        let (ready, waiting) = (items(subset, "addresses"), items(subset, "notReadyAddresses"));
        if ready.is_empty() && waiting.is_empty() {
            out.push(FieldError::required(&at, "must specify `addresses` or `notReadyAddresses`"));
        }
        for (field, all) in [("addresses", ready), ("notReadyAddresses", waiting)] {
            let list = at.child(field);
            for (j, one) in all.iter().enumerate() {
                endpoint_address(out, &list.index(j), one);
            }
        }
        let ports = items(subset, "ports");
        for (j, port) in ports.iter().enumerate() {
            let list = at.child("ports");
            let at = list.index(j);
            let name = text(port, "name");
            if name.is_empty() {
                if ports.len() > 1 {
                    required(out, &at.child("name"), name);
                }
            } else {
                invalid_all(out, &at.child("name"), name, names::dns1123_label(name));
            }
            in_range(out, &at.child("port"), Some(int(port, "port").unwrap_or(0)), 1, 65535);
            one_of(out, &at.child("protocol"), text(port, "protocol"), &PROTOCOLS);
        }
    }
}

fn endpoint_address(out: &mut Out, at: Path, one: &Value) {
    let ip = text(one, "ip");
    let complaints = names::ip(ip);
    let fine = complaints.is_empty();
    invalid_all(out, &at.child("ip"), ip, complaints);
    let host = text(one, "hostname");
    if !host.is_empty() {
        invalid_all(out, &at.child("hostname"), host, names::dns1123_label(host));
    }
    let node = text(one, "nodeName");
    if has(one, "nodeName") {
        invalid_all(out, &at.child("nodeName"), node, names::dns1123_subdomain(node));
    }
    if fine {
        not_special(out, &at.child("ip"), ip);
    }
}

pub(super) fn endpoint_slice(out: &mut Out, object: &Value) {
    let kind = text(object, "addressType");
    one_of(out, &FieldPath::root("addressType"), kind, &["FQDN", "IPv4", "IPv6"]);
    let list = FieldPath::root("endpoints");
    let all = items(object, "endpoints");
    if all.len() > 1000 {
        out.push(FieldError::too_many(&list, all.len(), 1000));
    }
    for (i, one) in all.iter().enumerate() {
        slice_endpoint(out, &list.index(i), one, kind);
    }
    let list = FieldPath::root("ports");
    let ports = items(object, "ports");
    if ports.len() > 20_000 {
        out.push(FieldError::too_many(&list, ports.len(), 20_000));
    }
    let mut seen = Vec::new();
    for (i, port) in ports.iter().enumerate() {
        let at = list.index(i);
        let name = text(port, "name");
        if !name.is_empty() {
            invalid_all(out, &at.child("name"), name, names::dns1123_label(name));
        }
        unique(out, &at.child("name"), &mut seen, name);
        one_of(out, &at.child("protocol"), text(port, "protocol"), &PROTOCOLS);
        let app = text(port, "appProtocol");
        if has(port, "appProtocol") {
            invalid_all(out, &at.child("appProtocol"), app, names::qualified_name(app));
        }
    }
}

fn slice_endpoint(out: &mut Out, at: Path, one: &Value, kind: &str) {
    let list = at.child("addresses");
    let addresses = items(one, "addresses");
    if addresses.is_empty() {
        out.push(FieldError::required(&list, "must contain at least 1 address"));
    } else if addresses.len() > 100 {
        out.push(FieldError::too_many(&list, addresses.len(), 100));
    }
    for (i, address) in addresses.iter().filter_map(Value::as_str).enumerate() {
        let at = list.index(i);
        match kind {
            "IPv4" | "IPv6" => match names::parse_ip(address) {
                Some(ip) if family_of(ip) == kind && ip == ip.to_canonical() => not_special(out, &at, address),
                _ => out.push(FieldError::invalid(&at, address, format!("must be a valid {kind} address"))),
            },
            "FQDN" => invalid_all(out, &at, address, names::fully_qualified(address, 2)),
            _ => {}
        }
    }
    let node = text(one, "nodeName");
    if has(one, "nodeName") {
        invalid_all(out, &at.child("nodeName"), node, names::dns1123_subdomain(node));
    }
    let host = text(one, "hostname");
    if has(one, "hostname") {
        invalid_all(out, &at.child("hostname"), host, names::dns1123_label(host));
    }
}
