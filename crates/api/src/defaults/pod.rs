//! Pods and everything that holds a pod template.

use super::{Object, child, each, get, made, number, optional, quantities, quantities_at, requirements, text, volumes};
use crate::quantity::Quantity;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// `Always` for an image without tag and digest or with the tag `latest`, else `IfNotPresent`.
pub fn default_pull_policy(image: &str) -> &'static str {
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    // A colon before the last slash belongs to a registry's port.
    let last = name.rsplit('/').next().unwrap_or(name);
    let tag = last.split_once(':').map(|(_, tag)| tag);
    match (tag, digest) {
        (Some("latest"), _) | (None, None) => "Always",
        _ => "IfNotPresent",
    }
}

/// A whole Pod.
pub(super) fn pod(pod: &mut Object) {
    let Some(spec) = made(pod, "spec") else { return };
    pod_spec(spec);
    for list in ["containers", "initContainers"] {
        for container in each(spec, list) {
            requests_from_limits(container);
        }
    }
    pod_level_requests(spec);
    optional(spec, "enableServiceLinks", true);
    if spec.get("hostNetwork") == Some(&Value::Bool(true)) {
        for list in ["containers", "initContainers"] {
            each(spec, list).for_each(host_ports);
        }
    }
    made(pod, "status");
}

fn host_ports(container: &mut Object) {
    for port in each(container, "ports") {
        if let Some(number_there) = port.get("containerPort").and_then(Value::as_i64) {
            number(port, "hostPort", number_there);
        }
    }
}

fn requests_from_limits(container: &mut Object) {
    let Some(resources) = child(container, "resources") else { return };
    let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() else { return };
    if limits.is_empty() {
        return;
    }
    if let Some(requests) = made(resources, "requests") {
        for (name, amount) in limits {
            requests.entry(name).or_insert(amount);
        }
    }
}

/// Pod-level requests follow from the containers' requests or the pod-level limits (KEP-2837).
fn pod_level_requests(spec: &mut Object) {
    let limits = match spec.get("resources").and_then(|r| r.get("limits")).and_then(Value::as_object) {
        Some(limits) if !limits.is_empty() => limits.clone(),
        _ => return,
    };
    let supported = |name: &str| name == "cpu" || name == "memory" || name.starts_with("hugepages-");
    let of_containers = effective_requests(spec);
    let Some(requests) = child(spec, "resources").and_then(|resources| made(resources, "requests")) else { return };
    for (name, amount) in of_containers {
        if matches!(name.as_str(), "cpu" | "memory") {
            requests.entry(name).or_insert_with(|| amount.to_string().into());
        }
    }
    for (name, amount) in limits {
        if supported(&name) {
            requests.entry(name).or_insert(amount);
        }
    }
}

/// What the containers together ask for: the larger of the running set and each init step (KEP-753).
fn effective_requests(spec: &Object) -> BTreeMap<String, Quantity> {
    let mut running: BTreeMap<String, Quantity> = BTreeMap::new();
    let requests = |container: &Value| -> Vec<(String, Quantity)> {
        let list = container.pointer("/resources/requests").and_then(Value::as_object);
        list.into_iter()
            .flatten()
            .filter_map(|(name, amount)| Some((name.clone(), Quantity::from_value(amount).ok()?)))
            .collect()
    };
    let add = |to: &mut BTreeMap<String, Quantity>, what: Vec<(String, Quantity)>| {
        for (name, amount) in what {
            let sum = to.entry(name).or_default();
            *sum = sum.add(amount);
        }
    };
    for container in spec.get("containers").and_then(Value::as_array).into_iter().flatten() {
        add(&mut running, requests(container));
    }
    let mut sidecars: BTreeMap<String, Quantity> = BTreeMap::new();
    let mut peak: BTreeMap<String, Quantity> = BTreeMap::new();
    for container in spec.get("initContainers").and_then(Value::as_array).into_iter().flatten() {
        let asked = requests(container);
        let mut step = sidecars.clone();
        if container.get("restartPolicy").and_then(Value::as_str) == Some("Always") {
            add(&mut running, asked.clone());
            add(&mut sidecars, asked);
            step = sidecars.clone();
        } else {
            add(&mut step, asked);
        }
        for (name, amount) in step {
            let most = peak.entry(name).or_default();
            *most = (*most).max(amount);
        }
    }
    for (name, amount) in peak {
        let most = running.entry(name).or_default();
        *most = (*most).max(amount);
    }
    running
}

/// The template under `field` of a workload's spec.
pub fn pod_template(owner: &mut Object, field: &str) {
    if let Some(template) = made(owner, field) {
        made(template, "metadata");
        if let Some(spec) = made(template, "spec") {
            pod_spec(spec);
        }
    }
}

/// The spec of a Pod or a pod template: what both have in common.
pub fn pod_spec(spec: &mut Object) {
    text(spec, "dnsPolicy", "ClusterFirst");
    text(spec, "restartPolicy", "Always");
    optional(spec, "securityContext", json!({}));
    optional(spec, "terminationGracePeriodSeconds", 30);
    text(spec, "schedulerName", "default-scheduler");
    service_account(spec);
    requirements(spec, "resources");
    quantities_at(spec, "overhead");
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        each(spec, list).for_each(container);
    }
    each(spec, "volumes").for_each(volumes::volume);
}

/// `serviceAccount` is the old name of `serviceAccountName`; both are served, always equal.
fn service_account(spec: &mut Object) {
    let name = match (get(spec, "serviceAccountName"), get(spec, "serviceAccount")) {
        ("", "") => return,
        ("", old) => old.to_owned(),
        (name, old) if name == old => return,
        (name, _) => name.to_owned(),
    };
    spec.insert("serviceAccountName".into(), name.clone().into());
    spec.insert("serviceAccount".into(), name.into());
}

fn container(container: &mut Object) {
    let policy = default_pull_policy(get(container, "image"));
    text(container, "imagePullPolicy", policy);
    text(container, "terminationMessagePath", "/dev/termination-log");
    text(container, "terminationMessagePolicy", "File");
    if let Some(resources) = made(container, "resources") {
        for list in ["limits", "requests"] {
            if let Some(amounts) = child(resources, list) {
                quantities(amounts);
            }
        }
    }
    for port in each(container, "ports") {
        text(port, "protocol", "TCP");
    }
    for env in each(container, "env") {
        if let Some(from) = child(env, "valueFrom") {
            volumes::field_refs(from);
        }
    }
    for kind in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = child(container, kind) {
            number(probe, "timeoutSeconds", 1);
            number(probe, "periodSeconds", 10);
            number(probe, "successThreshold", 1);
            number(probe, "failureThreshold", 3);
            handler(probe);
            if let Some(grpc) = child(probe, "grpc") {
                optional(grpc, "service", "");
            }
        }
    }
    if let Some(lifecycle) = child(container, "lifecycle") {
        for kind in ["postStart", "preStop"] {
            if let Some(hook) = child(lifecycle, kind) {
                handler(hook);
            }
        }
    }
}

fn handler(handler: &mut Object) {
    if let Some(get) = child(handler, "httpGet") {
        text(get, "path", "/");
        text(get, "scheme", "HTTP");
    }
}
