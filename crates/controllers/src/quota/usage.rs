//! What single objects use of a quota.

use std::collections::BTreeMap;

use caravel_api::quantity::Quantity;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, PersistentVolumeClaim, Pod, PodSpec, ResourceQuotaSpec, ScopedResourceSelectorRequirement, Service,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use crate::common::{plus, pod};

/// Amounts by resource name.
pub type Usage = BTreeMap<String, Quantity>;

type Amounts = BTreeMap<String, Text>;

fn one() -> Quantity {
    number(1)
}

/// A plain number as an amount.
pub fn number(n: usize) -> Quantity {
    Quantity::parse(&n.to_string()).unwrap_or_default()
}

fn parse(text: &Text) -> Quantity {
    Quantity::parse(&text.0).unwrap_or_default()
}

/// Adds one usage to another.
pub fn add(total: &mut Usage, more: &Usage) {
    for (k, v) in more {
        let sum = total.get(k).map_or(*v, |t| t.add(*v));
        total.insert(k.clone(), sum);
    }
}

/// Whether a pod is charged: not when it ended, nor when its grace is over and only its node has not confirmed.
pub fn charged(p: &Pod, now: Timestamp) -> bool {
    if pod::finished(p) {
        return false;
    }
    match (&p.metadata.deletion_timestamp, p.metadata.deletion_grace_period_seconds) {
        (Some(at), Some(grace)) => now <= plus(at.0, grace),
        _ => true,
    }
}

/// What a pod uses.
pub fn of_pod(p: &Pod) -> Usage {
    let mut usage: Usage = [("pods".to_owned(), one()), ("count/pods".to_owned(), one())].into();
    let Some(spec) = &p.spec else { return usage };
    for (k, v) in total(spec, |c| c.resources.as_ref().and_then(|r| r.requests.as_ref())) {
        match k.as_str() {
            "cpu" | "memory" | "ephemeral-storage" => {
                usage.insert(k.clone(), v);
                usage.insert(format!("requests.{k}"), v);
            }
            k if k.starts_with("hugepages-") => {
                usage.insert(k.to_owned(), v);
                usage.insert(format!("requests.{k}"), v);
            }
            // Extended resources have a domain.
            k if k.contains('/') => drop(usage.insert(format!("requests.{k}"), v)),
            _ => {}
        }
    }
    for (k, v) in total(spec, |c| c.resources.as_ref().and_then(|r| r.limits.as_ref())) {
        if matches!(k.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            usage.insert(format!("limits.{k}"), v);
        }
    }
    usage
}

/// What a pod needs at its peak: all containers and sidecars together, or one init container with the sidecars before it, and the overhead.
fn total<'a>(spec: &'a PodSpec, of: impl Fn(&'a Container) -> Option<&'a Amounts>) -> Usage {
    let amounts =
        |c: &'a Container| -> Usage { of(c).into_iter().flatten().map(|(k, v)| (k.clone(), parse(v))).collect() };
    let mut running = Usage::new();
    spec.containers.iter().for_each(|c| add(&mut running, &amounts(c)));
    let (mut sidecars, mut peak) = (Usage::new(), Usage::new());
    for c in spec.init_containers.iter().flatten() {
        let own = amounts(c);
        if c.restart_policy.as_deref() == Some("Always") {
            add(&mut sidecars, &own);
            add(&mut running, &own);
            raise(&mut peak, &sidecars);
        } else {
            let mut with = sidecars.clone();
            add(&mut with, &own);
            raise(&mut peak, &with);
        }
    }
    raise(&mut running, &peak);
    let overhead: Usage = spec.overhead.iter().flatten().map(|(k, v)| (k.clone(), parse(v))).collect();
    let overhead = overhead.into_iter().filter(|(k, _)| running.contains_key(k)).collect();
    add(&mut running, &overhead);
    running
}

fn raise(total: &mut Usage, other: &Usage) {
    for (k, v) in other {
        if total.get(k).is_none_or(|t| t < v) {
            total.insert(k.clone(), *v);
        }
    }
}

/// What a service uses.
pub fn of_service(s: &Service) -> Usage {
    let spec = s.spec.clone().unwrap_or_default();
    let type_ = spec.type_.as_deref().unwrap_or("ClusterIP");
    let ports = spec.ports.as_ref().map_or(0, Vec::len);
    let balanced = type_ == "LoadBalancer";
    let node_ports = match type_ {
        "NodePort" => ports,
        "LoadBalancer" if spec.allocate_load_balancer_node_ports == Some(false) => {
            spec.ports.iter().flatten().filter(|p| p.node_port.is_some_and(|n| n != 0)).count()
        }
        "LoadBalancer" => ports,
        _ => 0,
    };
    [
        ("services".to_owned(), one()),
        ("count/services".to_owned(), one()),
        ("services.nodeports".to_owned(), number(node_ports)),
        ("services.loadbalancers".to_owned(), number(usize::from(balanced))),
    ]
    .into()
}

/// What a claim uses.
pub fn of_claim(c: &PersistentVolumeClaim) -> Usage {
    let spec = c.spec.clone().unwrap_or_default();
    let mut usage: Usage =
        [("persistentvolumeclaims".to_owned(), one()), ("count/persistentvolumeclaims".to_owned(), one())].into();
    let requested =
        spec.resources.and_then(|r| r.requests).and_then(|r| r.get("storage").map(parse)).unwrap_or_default();
    let granted = c.status.as_ref().and_then(|s| s.allocated_resources.as_ref()?.get("storage").map(parse));
    let storage = granted.map_or(requested, |g| if g > requested { g } else { requested });
    usage.insert("requests.storage".into(), storage);
    if let Some(class) = spec.storage_class_name.filter(|n| !n.is_empty()) {
        usage.insert(format!("{class}.storageclass.storage.k8s.io/requests.storage"), storage);
        usage.insert(format!("{class}.storageclass.storage.k8s.io/persistentvolumeclaims"), one());
    }
    usage
}

/// Whether a pod falls under all scopes of a quota.
pub fn in_scope(q: &ResourceQuotaSpec, p: &Pod) -> bool {
    let plain = q.scopes.iter().flatten().all(|s| scope(s, "Exists", &[], p));
    let chosen = q.scope_selector.iter().flat_map(|s| s.match_expressions.iter().flatten());
    plain
        && chosen.into_iter().all(|r: &ScopedResourceSelectorRequirement| {
            scope(&r.scope_name, &r.operator, r.values.as_deref().unwrap_or_default(), p)
        })
}

fn scope(name: &str, operator: &str, values: &[String], p: &Pod) -> bool {
    let spec = p.spec.clone().unwrap_or_default();
    let best_effort = || {
        p.status.as_ref().and_then(|s| s.qos_class.as_deref()).map_or_else(
            || {
                let mut all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
                all.all(|c| {
                    c.resources.as_ref().is_none_or(|r| {
                        r.requests.as_ref().is_none_or(BTreeMap::is_empty)
                            && r.limits.as_ref().is_none_or(BTreeMap::is_empty)
                    })
                })
            },
            |q| q == "BestEffort",
        )
    };
    match name {
        "Terminating" => spec.active_deadline_seconds.is_some_and(|s| s >= 0),
        "NotTerminating" => spec.active_deadline_seconds.is_none(),
        "BestEffort" => best_effort(),
        "NotBestEffort" => !best_effort(),
        "PriorityClass" => {
            let class = spec.priority_class_name.filter(|c| !c.is_empty());
            match operator {
                "In" => class.is_some_and(|c| values.contains(&c)),
                "NotIn" => class.is_none_or(|c| !values.contains(&c)),
                "DoesNotExist" => class.is_none(),
                _ => class.is_some(),
            }
        }
        "CrossNamespacePodAffinity" => crosses(&spec),
        _ => false,
    }
}

/// Whether a pod's affinity terms reach into other namespaces.
fn crosses(spec: &PodSpec) -> bool {
    let Some(a) = &spec.affinity else { return false };
    let far = |t: &k8s_openapi::api::core::v1::PodAffinityTerm| {
        t.namespaces.as_ref().is_some_and(|n| !n.is_empty()) || t.namespace_selector.is_some()
    };
    let affinity = a.pod_affinity.iter();
    let anti = a.pod_anti_affinity.iter();
    affinity
        .flat_map(|p| {
            let soft =
                p.preferred_during_scheduling_ignored_during_execution.iter().flatten().map(|w| &w.pod_affinity_term);
            p.required_during_scheduling_ignored_during_execution.iter().flatten().chain(soft)
        })
        .any(far)
        || anti
            .flat_map(|p| {
                let soft = p
                    .preferred_during_scheduling_ignored_during_execution
                    .iter()
                    .flatten()
                    .map(|w| &w.pod_affinity_term);
                p.required_during_scheduling_ignored_during_execution.iter().flatten().chain(soft)
            })
            .any(far)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::common::pod::testing::{at, pod};
    use k8s_openapi::api::core::v1::{ResourceRequirements, ServicePort, ServiceSpec};

    fn container(cpu: &str, always: bool) -> Container {
        Container {
            name: "c".into(),
            restart_policy: always.then(|| "Always".into()),
            resources: Some(ResourceRequirements {
                requests: Some([("cpu".to_owned(), Text(cpu.into()))].into()),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn pods_at_their_peak() {
        let mut p = pod("p", "n", "Running", None, 0);
        let spec = p.spec.as_mut().unwrap();
        spec.containers = vec![container("100m", false), container("200m", false)];
        spec.init_containers = Some(vec![container("50m", true), container("500m", false)]);
        let u = of_pod(&p);
        assert_eq!(u["requests.cpu"].to_string(), "550m", "the init container with the sidecar before it");
        assert_eq!(u["cpu"], u["requests.cpu"]);
        assert_eq!(u["pods"].to_string(), "1");
        p.status.as_mut().unwrap().phase = Some("Succeeded".into());
        assert!(!charged(&p, at(0)));
    }

    #[test]
    fn services() {
        let service = |type_: &str| Service {
            spec: Some(ServiceSpec {
                type_: Some(type_.into()),
                ports: Some(vec![ServicePort::default(), ServicePort::default()]),
                ..Default::default()
            }),
            ..Default::default()
        };
        let counts = |t: &str| {
            let u = of_service(&service(t));
            (u["services.nodeports"].to_string(), u["services.loadbalancers"].to_string())
        };
        assert_eq!(counts("ClusterIP"), ("0".into(), "0".into()));
        assert_eq!(counts("NodePort"), ("2".into(), "0".into()));
        assert_eq!(counts("LoadBalancer"), ("2".into(), "1".into()));
    }

    #[test]
    fn scopes() {
        let mut p = pod("p", "n", "Running", None, 0);
        let q = |s: &str| ResourceQuotaSpec { scopes: Some(vec![s.into()]), ..Default::default() };
        assert!(in_scope(&q("BestEffort"), &p) && in_scope(&q("NotTerminating"), &p));
        assert!(!in_scope(&q("NotBestEffort"), &p) && !in_scope(&q("Terminating"), &p));
        p.spec.as_mut().unwrap().active_deadline_seconds = Some(5);
        p.spec.as_mut().unwrap().containers = vec![container("1", false)];
        assert!(in_scope(&q("NotBestEffort"), &p) && in_scope(&q("Terminating"), &p));
    }
}
