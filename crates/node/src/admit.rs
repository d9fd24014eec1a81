//! Whether the node takes a Pod in: the scheduler decided on what it knew, the node knows better. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec};

use crate::cgroup::limits;
use crate::pod::spec;
use crate::pod::status::Verdict;
use crate::quantity::{self, Resources};

fn refuse(reason: &str, message: String) -> Verdict {
    Verdict { reason: reason.into(), message: format!("Pod was rejected: {message}"), disruption: None }
}

/// Checks a Pod against the node and the Pods it has taken in already.
pub fn admit(
    node: Option<&Node>,
    allocatable: &Resources,
    unsafe_sysctls: &[String],
    others: &[Arc<Pod>],
    pod: &Pod,
) -> Result<(), Verdict> {
    let Some(pod_spec) = &pod.spec else { return Ok(()) };
    if let Some(os) = pod_spec.os.as_ref().filter(|o| o.name != "linux") {
        return Err(refuse("PodOSNotSupported", format!("Pod's OS field doesn't match node OS: {}", os.name)));
    }
    sysctls(pod_spec, unsafe_sysctls)?;
    fits(allocatable, others, pod).map_err(|v| refuse(&v.reason, v.message))?;
    if let Some(node) = node
        && !selected(node, pod_spec)
    {
        return Err(refuse(
            "NodeAffinity",
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector".into(),
        ));
    }
    if ports_taken(others, pod_spec) {
        return Err(refuse(
            "NodePorts",
            "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports".into(),
        ));
    }
    Ok(())
}

/// The kernel parameters that touch nobody but the Pod.
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// `allowed` names further parameters, a trailing `*` standing for any end.
fn sysctls(pod: &PodSpec, allowed: &[String]) -> Result<(), Verdict> {
    let on_host = |name: &str| {
        (name.starts_with("net.") && pod.host_network == Some(true))
            || ((name.starts_with("kernel.") || name.starts_with("fs.mqueue.")) && pod.host_ipc == Some(true))
    };
    for s in pod.security_context.iter().flat_map(|c| c.sysctls.iter().flatten()) {
        let name = s.name.replace('/', ".");
        let listed = SAFE_SYSCTLS.contains(&name.as_str())
            || allowed.iter().any(|a| a.strip_suffix('*').map_or(*a == name, |prefix| name.starts_with(prefix)));
        if on_host(&name) {
            return Err(refuse(
                "SysctlForbidden",
                format!("forbidden sysctl: \"{name}\" not allowed with host namespaces enabled"),
            ));
        }
        if !listed {
            return Err(refuse("SysctlForbidden", format!("forbidden sysctl: \"{name}\" not allowlisted")));
        }
    }
    Ok(())
}

fn request(pod: &PodSpec, resource: &str) -> i64 {
    match resource {
        "pods" => 1,
        _ => limits::pod_request(pod, resource),
    }
}

/// Whether the node has room; the verdict's message has no preamble.
pub fn fits(allocatable: &Resources, others: &[Arc<Pod>], pod: &Pod) -> Result<(), Verdict> {
    let Some(pod) = &pod.spec else { return Ok(()) };
    let ordered = ["pods", "cpu", "memory", "ephemeral-storage"];
    let rest = allocatable.keys().map(String::as_str).filter(|k| !ordered.contains(k));
    for resource in ordered.into_iter().chain(rest) {
        let want = request(pod, resource);
        if want == 0 {
            continue;
        }
        let have = if resource == "cpu" {
            quantity::milli_of(Some(allocatable), resource)
        } else {
            quantity::value_of(Some(allocatable), resource)
        };
        let used: i64 = others.iter().filter_map(|p| p.spec.as_ref()).map(|s| request(s, resource)).sum();
        if used + want > have {
            return Err(Verdict {
                reason: format!("OutOf{resource}"),
                message: format!(
                    "Node didn't have enough resource: {resource}, requested: {want}, used: {used}, capacity: {have}"
                ),
                disruption: None,
            });
        }
    }
    Ok(())
}

fn selected(node: &Node, pod: &PodSpec) -> bool {
    let empty = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&empty);
    if !pod.node_selector.iter().flatten().all(|(k, v)| labels.get(k) == Some(v)) {
        return false;
    }
    let required = pod
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref())
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    match required {
        None => true,
        Some(r) => r.node_selector_terms.iter().any(|t| term(t, labels, node)),
    }
}

fn term(t: &NodeSelectorTerm, labels: &BTreeMap<String, String>, node: &Node) -> bool {
    let expressions = t.match_expressions.as_deref().unwrap_or_default();
    let fields = t.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let name = node.metadata.name.as_deref();
    expressions.iter().all(|r| requirement(r, labels.get(&r.key).map(String::as_str)))
        && fields.iter().all(|r| requirement(r, name.filter(|_| r.key == "metadata.name")))
}

fn requirement(r: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = r.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|v| values.iter().any(|x| x == v));
    let number = |s: &str| s.parse::<i64>().ok();
    let compare = || Some((number(value?)?, number(values.first()?)?));
    match r.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare().is_some_and(|(a, b)| a > b),
        "Lt" => compare().is_some_and(|(a, b)| a < b),
        _ => false,
    }
}

/// Host ports as (protocol, address, port).
fn host_ports(pod: &PodSpec) -> Vec<(String, String, i32)> {
    let members = spec::members(pod).into_iter().filter(|m| m.role != spec::Role::Init);
    members
        .flat_map(|m| m.container.ports.unwrap_or_default())
        .filter_map(|p| {
            let port = p.host_port.filter(|h| *h > 0)?;
            let ip = p.host_ip.filter(|i| !i.is_empty()).unwrap_or_else(|| "0.0.0.0".into());
            Some((p.protocol.unwrap_or_else(|| "TCP".into()), ip, port))
        })
        .collect()
}

fn ports_taken(others: &[Arc<Pod>], pod: &PodSpec) -> bool {
    let wanted = host_ports(pod);
    if wanted.is_empty() {
        return false;
    }
    let any = |ip: &str| ip == "0.0.0.0" || ip == "::";
    let taken = others.iter().filter_map(|p| p.spec.as_ref()).flat_map(host_ports);
    taken.into_iter().any(|t| wanted.iter().any(|w| w.0 == t.0 && w.2 == t.2 && (w.1 == t.1 || any(&w.1) || any(&t.1))))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Arc<Pod> {
        Arc::new(serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap())
    }

    fn reason(others: &[Arc<Pod>], spec: serde_json::Value) -> String {
        let node: Node =
            serde_json::from_value(json!({"metadata": {"name": "n", "labels": {"disk": "ssd", "gen": "5"}}})).unwrap();
        let allocatable: Resources = serde_json::from_value(json!({"cpu": "2", "memory": "1Gi", "pods": "2"})).unwrap();
        admit(Some(&node), &allocatable, &["net.core.*".to_owned()], others, &pod(spec))
            .map_or_else(|v| v.reason, |()| String::new())
    }

    #[test]
    fn refusals() {
        let with = |c: serde_json::Value| json!({"containers": [c]});
        let cpu = |n: &str| with(json!({"name": "a", "resources": {"requests": {"cpu": n}}}));
        let port =
            |p: i32, ip: &str| with(json!({"name": "a", "ports": [{"containerPort": 1, "hostPort": p, "hostIP": ip}]}));
        let one = [pod(cpu("1500m"))];
        assert_eq!(reason(&one, cpu("500m")), "");
        assert_eq!(reason(&one, cpu("501m")), "OutOfcpu");
        assert_eq!(reason(&[pod(cpu("0")), pod(cpu("0"))], cpu("0")), "OutOfpods");
        assert_eq!(
            reason(&[], with(json!({"name": "a", "resources": {"requests": {"memory": "2Gi"}}}))),
            "OutOfmemory"
        );
        assert_eq!(reason(&[pod(port(80, ""))], port(80, "127.0.0.1")), "NodePorts");
        assert_eq!(reason(&[pod(port(80, "127.0.0.2"))], port(80, "127.0.0.1")), "");
        assert_eq!(reason(&[], json!({"containers": [], "nodeSelector": {"disk": "hdd"}})), "NodeAffinity");
        let affine = |op: &str, v: serde_json::Value| {
            json!({"containers": [], "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [{"matchExpressions": [{"key": "gen", "operator": op, "values": v}]}]}}}})
        };
        assert_eq!(reason(&[], affine("Gt", json!(["4"]))), "");
        assert_eq!(reason(&[], affine("Lt", json!(["4"]))), "NodeAffinity");
        let sysctl =
            |name: &str| json!({"containers": [], "securityContext": {"sysctls": [{"name": name, "value": "1"}]}});
        assert_eq!(reason(&[], sysctl("kernel.shm_rmid_forced")), "");
        assert_eq!(reason(&[], sysctl("net.core.somaxconn")), "");
        assert_eq!(reason(&[], sysctl("kernel.msgmax")), "SysctlForbidden");
        assert_eq!(reason(&[], json!({"containers": [], "os": {"name": "windows"}})), "PodOSNotSupported");
    }

    #[test]
    fn the_message_says_what_is_missing() {
        let allocatable: Resources = serde_json::from_value(json!({"cpu": "1", "pods": "9"})).unwrap();
        let v = admit(
            None,
            &allocatable,
            &[],
            &[],
            &pod(json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "2"}}}]})),
        )
        .unwrap_err();
        assert_eq!(
            v.message,
            "Pod was rejected: Node didn't have enough resource: cpu, requested: 2000, used: 0, capacity: 1000"
        );
    }
}
