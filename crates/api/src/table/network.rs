//! Services, endpoints, ingresses, network policies, addresses.

use super::cells::{age, int, labels, list, name, some_of, text, text_or};
use super::{AGE, Column, NAME, StaticPrinter, of, shown, wide};
use crate::selector::format_label_selector;
use jiff::Timestamp;
use serde_json::Value;

pub(super) fn printer(group: &str, kind: &str) -> Option<StaticPrinter> {
    Some(match (group, kind) {
        ("", "Service") => of(&SERVICE, service),
        ("", "Endpoints") => of(&ENDPOINTS, |o, now| vec![name(o), endpoints(o).into(), age(o, now)]),
        ("discovery.k8s.io", "EndpointSlice") => of(&SLICE, slice),
        ("networking.k8s.io", "Ingress") => of(&INGRESS, ingress),
        ("networking.k8s.io", "IngressClass") => of(&INGRESS_CLASS, ingress_class),
        ("networking.k8s.io", "NetworkPolicy") => of(&POLICY, |o, now| {
            vec![name(o), format_label_selector(o.pointer("/spec/podSelector")).into(), age(o, now)]
        }),
        ("networking.k8s.io", "ServiceCIDR") => of(&CIDR, |o, now| {
            let all: Vec<&str> = list(o, "/spec/cidrs").filter_map(Value::as_str).collect();
            vec![name(o), all.join(",").into(), age(o, now)]
        }),
        ("networking.k8s.io", "IPAddress") => of(&ADDRESS, ip_address),
        _ => return None,
    })
}

static SERVICE: [Column<'static>; 7] = [
    NAME,
    shown("Type", "string", "How the service is reached."),
    shown("Cluster-IP", "string", "Address inside the cluster."),
    shown("External-IP", "string", "Addresses outside the cluster."),
    shown("Port(s)", "string", "Ports, with node ports where there are any."),
    AGE,
    wide("Selector", "Labels of the pods behind it."),
];

fn service(object: &Value, now: Timestamp) -> Vec<Value> {
    let ports: Vec<String> = list(object, "/spec/ports")
        .map(|port| {
            let (number, protocol) = (int(port, "/port"), text(port, "/protocol"));
            match int(port, "/nodePort") {
                0 => format!("{number}/{protocol}"),
                node => format!("{number}:{node}/{protocol}"),
            }
        })
        .collect();
    let ports = if ports.is_empty() { "<none>".to_owned() } else { ports.join(",") };
    vec![
        name(object),
        text(object, "/spec/type").into(),
        text_or(object, "/spec/clusterIP", "<none>").into(),
        external(object).into(),
        ports.into(),
        age(object, now),
        labels(object, "/spec/selector").into(),
    ]
}

fn external(service: &Value) -> String {
    let own: Vec<&str> = list(service, "/spec/externalIPs").filter_map(Value::as_str).collect();
    match text(service, "/spec/type") {
        "ClusterIP" | "NodePort" if own.is_empty() => "<none>".into(),
        "ClusterIP" | "NodePort" => own.join(","),
        "LoadBalancer" => {
            let mut all = balancer(service);
            all.extend(own.iter().map(|ip| (*ip).to_owned()));
            if all.is_empty() { "<pending>".into() } else { all.join(",") }
        }
        "ExternalName" => text(service, "/spec/externalName").into(),
        _ => "<unknown>".into(),
    }
}

/// Addresses of the load balancer, sorted, each once.
fn balancer(object: &Value) -> Vec<String> {
    let mut all: Vec<String> = list(object, "/status/loadBalancer/ingress")
        .map(|one| text_or(one, "/ip", text(one, "/hostname")).to_owned())
        .filter(|one| !one.is_empty())
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

static ENDPOINTS: [Column<'static>; 3] = [NAME, shown("Endpoints", "string", "Addresses and ports that answer."), AGE];

fn endpoints(object: &Value) -> String {
    let mut all = Vec::new();
    for subset in list(object, "/subsets") {
        let addresses = || list(subset, "/addresses").map(|one| text(one, "/ip"));
        if list(subset, "/ports").next().is_none() {
            // Headless services without ports still have addresses.
            all.extend(addresses().map(str::to_owned));
        }
        for port in list(subset, "/ports") {
            all.extend(addresses().map(|ip| join_host_port(ip, int(port, "/port"))));
        }
    }
    some_of(&all, 3, "<none>")
}

fn join_host_port(ip: &str, port: i64) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

static SLICE: [Column<'static>; 5] = [
    NAME,
    shown("AddressType", "string", "Kind of the addresses."),
    shown("Ports", "string", "Ports that the endpoints serve."),
    shown("Endpoints", "string", "Addresses of the endpoints."),
    AGE,
];

fn slice(object: &Value, now: Timestamp) -> Vec<Value> {
    let ports: Vec<String> = list(object, "/ports")
        .map(|port| match (int(port, "/port"), text(port, "/name")) {
            (0, "") => "*".to_owned(),
            (0, name) => name.to_owned(),
            (number, _) => number.to_string(),
        })
        .collect();
    let addresses: Vec<String> = list(object, "/endpoints")
        .flat_map(|one| list(one, "/addresses"))
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    vec![
        name(object),
        text(object, "/addressType").into(),
        some_of(&ports, 3, "<unset>").into(),
        some_of(&addresses, 3, "<unset>").into(),
        age(object, now),
    ]
}

static INGRESS: [Column<'static>; 6] = [
    NAME,
    shown("Class", "string", "Class that serves it."),
    shown("Hosts", "string", "Hosts that its rules are for."),
    shown("Address", "string", "Where it is reached."),
    shown("Ports", "string", "Ports that are open."),
    AGE,
];

fn ingress(object: &Value, now: Timestamp) -> Vec<Value> {
    let rules: Vec<&Value> = list(object, "/spec/rules").collect();
    let hosts: Vec<&str> = rules.iter().map(|rule| text(rule, "/host")).filter(|host| !host.is_empty()).collect();
    let hosts = match hosts.len() {
        0 => "*".to_owned(),
        1..=3 => hosts.join(","),
        _ => format!("{} + {} more...", hosts[..3].join(","), rules.len() - 3),
    };
    let tls = list(object, "/spec/tls").next().is_some();
    vec![
        name(object),
        text_or(object, "/spec/ingressClassName", "<none>").into(),
        hosts.into(),
        balancer(object).join(",").into(),
        if tls { "80, 443" } else { "80" }.into(),
        age(object, now),
    ]
}

static INGRESS_CLASS: [Column<'static>; 4] = [
    NAME,
    shown("Controller", "string", "Controller that serves the class."),
    shown("Parameters", "string", "Object with settings of the class."),
    AGE,
];

fn ingress_class(object: &Value, now: Timestamp) -> Vec<Value> {
    let parameters = object.pointer("/spec/parameters").filter(|p| p.is_object()).map(|p| {
        let kind = text(p, "/kind");
        match text(p, "/apiGroup") {
            "" => format!("{kind}/{}", text(p, "/name")),
            group => format!("{kind}.{group}/{}", text(p, "/name")),
        }
    });
    vec![
        name(object),
        text(object, "/spec/controller").into(),
        parameters.unwrap_or_else(|| "<none>".into()).into(),
        age(object, now),
    ]
}

static POLICY: [Column<'static>; 3] = [NAME, shown("Pod-Selector", "string", "Pods that the policy is for."), AGE];
static CIDR: [Column<'static>; 3] =
    [NAME, shown("CIDRs", "string", "Networks that services take addresses from."), AGE];
static ADDRESS: [Column<'static>; 3] = [NAME, shown("ParentRef", "string", "Object that holds the address."), AGE];

fn ip_address(object: &Value, now: Timestamp) -> Vec<Value> {
    let parent = object.pointer("/spec/parentRef").filter(|p| p.is_object()).map(|p| {
        let parts = ["/resource", "/group", "/namespace", "/name"].map(|path| text(p, path));
        let [resource, group, namespace, name] = parts;
        let kind = crate::status::qualified(group, resource);
        if namespace.is_empty() { format!("{kind}/{name}") } else { format!("{kind}/{namespace}/{name}") }
    });
    vec![name(object), parent.unwrap_or_else(|| "<none>".into()).into(), age(object, now)]
}
