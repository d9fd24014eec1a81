//! Ingresses, network policies, address ranges.

use super::check::{
    Out, Path, child, has, immutable, in_range, int, invalid_all, items, one_of, port_or_name, required, required_name,
    text, texts,
};
use super::{selectors, services};
use crate::field::{FieldError, FieldPath};
use crate::names;
use serde_json::Value;

pub(super) fn ingress(out: &mut Out, object: &Value) {
    let at = FieldPath::root("spec");
    let spec = child(object, "spec");
    if items(spec, "rules").is_empty() && !has(spec, "defaultBackend") {
        out.push(FieldError::invalid(&at, Value::Null, "either `defaultBackend` or `rules` must be specified"));
    }
    if has(spec, "defaultBackend") {
        backend(out, &at.child("defaultBackend"), child(spec, "defaultBackend"));
    }
    let list = at.child("rules");
    for (i, rule) in items(spec, "rules").iter().enumerate() {
        let at = list.index(i);
        let host = text(rule, "host");
        if !host.is_empty() {
            if names::parse_ip(host).is_some() {
                out.push(FieldError::invalid(&at.child("host"), host, "must be a DNS name, not an IP address"));
            } else if host.contains('*') {
                invalid_all(out, &at.child("host"), host, names::wildcard_dns1123_subdomain(host));
            } else {
                invalid_all(out, &at.child("host"), host, names::dns1123_subdomain(host));
            }
        }
        let http = child(rule, "http");
        if !http.is_null() {
            paths(out, &at.child("http"), http);
        }
    }
    let list = at.child("tls");
    for (i, tls) in items(spec, "tls").iter().enumerate() {
        let at = list.index(i);
        for (j, host) in texts(tls, "hosts").enumerate() {
            let complaints = if host.contains('*') {
                names::wildcard_dns1123_subdomain(host)
            } else {
                names::dns1123_subdomain(host)
            };
            invalid_all(out, &at.child("hosts").index(j), host, complaints);
        }
        let secret = text(tls, "secretName");
        if !secret.is_empty() {
            invalid_all(out, &at.child("secretName"), secret, names::dns1123_subdomain(secret));
        }
    }
    let class = text(spec, "ingressClassName");
    if has(spec, "ingressClassName") {
        invalid_all(out, &at.child("ingressClassName"), class, names::dns1123_subdomain(class));
    }
}

pub(super) fn ingress_create(out: &mut Out, object: &Value) {
    ingress(out, object);
    let key = "kubernetes.io/ingress.class";
    let annotations = child(child(object, "metadata"), "annotations");
    if has(annotations, key) && has(child(object, "spec"), "ingressClassName") {
        let at = FieldPath::root("annotations");
        out.push(FieldError::invalid(
            &at.child(key),
            text(annotations, key),
            "can not be set when the class field is also set",
        ));
    }
}

fn paths(out: &mut Out, at: Path, http: &Value) {
    let list = at.child("paths");
    let all = items(http, "paths");
    if all.is_empty() {
        out.push(FieldError::required(&list, ""));
    }
    for (i, one) in all.iter().enumerate() {
        let at = list.index(i);
        let path = text(one, "path");
        if !has(one, "pathType") {
            out.push(FieldError::required(&at.child("pathType"), "pathType must be specified"));
        } else {
            match text(one, "pathType") {
                "Exact" | "Prefix" => path_rules(out, &at.child("path"), path),
                "ImplementationSpecific" => {
                    if !path.is_empty() && !path.starts_with('/') {
                        out.push(FieldError::invalid(&at.child("path"), path, "must be an absolute path"));
                    }
                }
                other => out.push(FieldError::not_supported(
                    &at.child("pathType"),
                    other,
                    &["Exact", "ImplementationSpecific", "Prefix"],
                )),
            }
        }
        backend(out, &at.child("backend"), child(one, "backend"));
    }
}

fn path_rules(out: &mut Out, at: Path, path: &str) {
    if !path.starts_with('/') {
        out.push(FieldError::invalid(at, path, "must be an absolute path"));
    }
    for part in ["//", "/./", "/../", "%2f", "%2F"] {
        if path.contains(part) {
            out.push(FieldError::invalid(at, path, format!("must not contain '{part}'")));
        }
    }
    for end in ["/..", "/."] {
        if path.ends_with(end) {
            out.push(FieldError::invalid(at, path, format!("cannot end with '{end}'")));
        }
    }
}

fn backend(out: &mut Out, at: Path, backend: &Value) {
    let (service, resource) = (child(backend, "service"), child(backend, "resource"));
    match (service.is_null(), resource.is_null()) {
        (false, false) => {
            return out.push(FieldError::invalid(at, "", "cannot set both resource and service backends"));
        }
        (true, true) => return out.push(FieldError::required(at, "resource or service backend is required")),
        (true, false) => {
            let at = at.child("resource");
            required(out, &at.child("kind"), text(resource, "kind"));
            required(out, &at.child("name"), text(resource, "name"));
            return;
        }
        (false, true) => {}
    }
    let at = at.child("service");
    let name = text(service, "name");
    required_name(out, &at.child("name"), name, names::dns1123_label);
    let port = child(service, "port");
    let here = at.child("port");
    match (text(port, "name"), int(port, "number").unwrap_or(0)) {
        ("", 0) => out.push(FieldError::required(&here, "port name or number is required")),
        ("", number) => in_range(out, &here.child("number"), Some(number), 1, 65535),
        (name, 0) => invalid_all(out, &here.child("name"), name, names::port_name(name)),
        _ => out.push(FieldError::invalid(&at, "", "cannot set both port name & port number")),
    }
}

pub(super) fn ingress_status(out: &mut Out, object: &Value) {
    let at = FieldPath::root("status.loadBalancer.ingress");
    services::balancer_ingress(out, &at, child(child(object, "status"), "loadBalancer"), false);
}

pub(super) fn ingress_class(out: &mut Out, object: &Value) {
    let at = FieldPath::root("spec");
    let spec = child(object, "spec");
    let controller = text(spec, "controller");
    let here = at.child("controller");
    if controller.is_empty() {
        out.push(FieldError::required(&here, ""));
    } else {
        if controller.len() > 250 {
            out.push(FieldError::too_long(&here, 250));
        }
        invalid_all(out, &here, controller, names::domain_prefixed_path(controller));
    }
    let parameters = child(spec, "parameters");
    if parameters.is_null() {
        return;
    }
    let at = at.child("parameters");
    required(out, &at.child("kind"), text(parameters, "kind"));
    required(out, &at.child("name"), text(parameters, "name"));
    let (scope, namespaced) = (text(parameters, "scope"), has(parameters, "namespace"));
    one_of(out, &at.child("scope"), scope, &["Cluster", "Namespace"]);
    match scope {
        "Namespace" if !namespaced => {
            out.push(FieldError::required(&at.child("namespace"), "`parameters.scope` is set to 'Namespace'"));
        }
        "Cluster" if namespaced => {
            out.push(FieldError::forbidden(&at.child("namespace"), "`parameters.scope` is set to 'Cluster'"));
        }
        _ => {}
    }
}

pub(super) fn ingress_class_update(out: &mut Out, new: &Value, old: &Value) {
    ingress_class(out, new);
    let at = FieldPath::root("spec");
    immutable(
        out,
        &at.child("controller"),
        child(child(new, "spec"), "controller"),
        child(child(old, "spec"), "controller"),
    );
}

pub(super) fn network_policy(out: &mut Out, object: &Value) {
    let at = FieldPath::root("spec");
    let spec = child(object, "spec");
    selectors::label_selector(out, &at.child("podSelector"), child(spec, "podSelector"));
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        let list = at.child(direction);
        for (i, rule) in items(spec, direction).iter().enumerate() {
            let at = list.index(i);
            let ports = at.child("ports");
            for (j, port) in items(rule, "ports").iter().enumerate() {
                policy_port(out, &ports.index(j), port);
            }
            let list = at.child(peers);
            for (j, peer) in items(rule, peers).iter().enumerate() {
                policy_peer(out, &list.index(j), peer);
            }
        }
    }
    let types = items(spec, "policyTypes");
    let list = at.child("policyTypes");
    if types.len() > 2 {
        return out.push(FieldError::invalid(
            &list,
            child(spec, "policyTypes"),
            "may not specify more than two policyTypes",
        ));
    }
    for (i, kind) in texts(spec, "policyTypes").enumerate() {
        one_of(out, &list.index(i), kind, &["Egress", "Ingress"]);
    }
}

fn policy_port(out: &mut Out, at: Path, port: &Value) {
    if has(port, "protocol") {
        let protocol = text(port, "protocol");
        if !matches!(protocol, "TCP" | "UDP" | "SCTP") {
            out.push(FieldError::not_supported(&at.child("protocol"), protocol, &["SCTP", "TCP", "UDP"]));
        }
    }
    let start = child(port, "port");
    if !start.is_null() {
        port_or_name(out, &at.child("port"), start);
    }
    if let Some(end) = int(port, "endPort") {
        let here = at.child("endPort");
        match start {
            Value::Null => {
                out.push(FieldError::required(&at.child("port"), "must be specified when `endPort` is specified"))
            }
            Value::String(_) => {
                out.push(FieldError::invalid(&here, end, "may not specify endPort when `port` is non-numeric"))
            }
            number => {
                if end < number.as_i64().unwrap_or(0) {
                    out.push(FieldError::invalid(&here, end, "must be greater than or equal to `port`"));
                }
                in_range(out, &here, Some(end), 1, 65535);
            }
        }
    }
}

fn policy_peer(out: &mut Out, at: Path, peer: &Value) {
    let mut kinds = 0;
    for field in ["podSelector", "namespaceSelector"] {
        if has(peer, field) {
            kinds += 1;
            selectors::label_selector(out, &at.child(field), child(peer, field));
        }
    }
    let block = child(peer, "ipBlock");
    if !block.is_null() {
        if kinds > 0 {
            out.push(FieldError::forbidden(at, "may not specify both ipBlock and another peer"));
        }
        kinds += 1;
        ip_block(out, &at.child("ipBlock"), block);
    }
    if kinds == 0 {
        out.push(FieldError::required(at, "must specify a peer"));
    }
}

fn ip_block(out: &mut Out, at: Path, block: &Value) {
    let cidr = text(block, "cidr");
    if cidr.is_empty() {
        return out.push(FieldError::required(&at.child("cidr"), ""));
    }
    invalid_all(out, &at.child("cidr"), cidr, names::cidr(cidr));
    let Some(network) = names::parse_cidr(cidr) else { return };
    let list = at.child("except");
    for (i, except) in texts(block, "except").enumerate() {
        invalid_all(out, &list.index(i), except, names::cidr(except));
        let Some(inner) = names::parse_cidr(except) else { continue };
        if !names::cidr_contains(network, inner.0) || inner.1 <= network.1 {
            out.push(FieldError::invalid(&list.index(i), except, format!("must be a strict subset of `{cidr}`")));
        }
    }
}

pub(super) fn service_cidr(out: &mut Out, object: &Value) {
    let list = FieldPath::root("spec.cidrs");
    let cidrs: Vec<&str> = texts(child(object, "spec"), "cidrs").collect();
    if cidrs.is_empty() {
        return out.push(FieldError::required(&list, "at least one CIDR required"));
    }
    if cidrs.len() > 2 {
        return out.push(FieldError::too_many(&list, cidrs.len(), 2));
    }
    for (i, cidr) in cidrs.iter().enumerate() {
        invalid_all(out, &list.index(i), cidr, names::cidr(cidr));
    }
    let families: Vec<bool> =
        cidrs.iter().filter_map(|cidr| names::parse_cidr(cidr)).map(|(ip, _)| ip.is_ipv4()).collect();
    if families.len() == 2 && families[0] == families[1] {
        out.push(FieldError::invalid(
            &list,
            child(child(object, "spec"), "cidrs"),
            "may specify no more than one CIDR for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64",
        ));
    }
}

pub(super) fn service_cidr_update(out: &mut Out, new: &Value, old: &Value) {
    let (now, was) = (items(child(new, "spec"), "cidrs"), items(child(old, "spec"), "cidrs"));
    let list = FieldPath::root("spec.cidrs");
    // A second family may be added.
    if now.len() < was.len() || now[..was.len()] != *was {
        out.push(FieldError::invalid(&list, child(child(new, "spec"), "cidrs"), "field is immutable"));
    }
    service_cidr(out, new);
}

pub(super) fn ip_address(out: &mut Out, object: &Value) {
    let at = FieldPath::root("spec.parentRef");
    let parent = child(child(object, "spec"), "parentRef");
    if parent.is_null() {
        return out.push(FieldError::required(&at, ""));
    }
    let group = text(parent, "group");
    if !group.is_empty() {
        invalid_all(out, &at.child("group"), group, names::dns1123_subdomain(group));
    }
    for (field, value) in [("resource", text(parent, "resource")), ("name", text(parent, "name"))] {
        required_name(out, &at.child(field), value, names::path_segment);
    }
    let namespace = text(parent, "namespace");
    if !namespace.is_empty() {
        invalid_all(out, &at.child("namespace"), namespace, names::path_segment(namespace));
    }
}
