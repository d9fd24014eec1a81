//! The downward API: fields and resources of a Pod as text.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, PodSpec, ResourceFieldSelector};

use crate::pod::spec;
use crate::quantity::{self, Resources};

/// What the downward API needs beside the Pod itself.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// The Pod's addresses.
    pub pod_ips: Vec<String>,
    /// The node's addresses.
    pub host_ips: Vec<String>,
    /// What the node offers to Pods; stands for limits that are not set.
    pub allocatable: Resources,
}

/// The text of a field, or why there is none.
pub fn field(pod: &Pod, around: &Surroundings, path: &str) -> Result<String, String> {
    if let Some((map, key)) = subscript(path) {
        let map = match map {
            "metadata.labels" => pod.metadata.labels.as_ref(),
            "metadata.annotations" => pod.metadata.annotations.as_ref(),
            _ => return Err(format!("fieldPath \"{path}\" does not support subscript")),
        };
        return Ok(map.and_then(|m| m.get(key)).cloned().unwrap_or_default());
    }
    let pod_spec = pod.spec.as_ref();
    Ok(match path {
        "metadata.name" => spec::name(pod).to_owned(),
        "metadata.namespace" => spec::namespace(pod).to_owned(),
        "metadata.uid" => spec::uid(pod).to_owned(),
        "metadata.labels" => lines(pod.metadata.labels.as_ref()),
        "metadata.annotations" => lines(pod.metadata.annotations.as_ref()),
        "spec.nodeName" => pod_spec.and_then(|s| s.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => pod_spec.and_then(|s| s.service_account_name.clone()).unwrap_or_default(),
        "status.podIP" => around.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => around.pod_ips.join(","),
        "status.hostIP" => around.host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => around.host_ips.join(","),
        _ => return Err(format!("unsupported fieldPath: {path}")),
    })
}

/// `a['b']` as (`a`, `b`).
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

/// One line an entry, values quoted.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    map.into_iter().flatten().map(|(k, v)| format!("{k}={}", quote(v))).collect::<Vec<_>>().join("\n")
}

/// Go's `%q`.
fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\u{b}' => out.push_str("\\v"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The figure a `resourceFieldRef` asks for. `own` is the container it is used in.
pub fn resource(
    pod: &PodSpec,
    own: &str,
    around: &Surroundings,
    selector: &ResourceFieldSelector,
) -> Result<String, String> {
    let name = selector.container_name.as_deref().filter(|n| !n.is_empty()).unwrap_or(own);
    let container = spec::member(pod, name).ok_or_else(|| format!("container {name} not found"))?.container;
    let (kind, resource) = selector
        .resource
        .split_once('.')
        .ok_or_else(|| format!("unsupported container resource: {}", selector.resource))?;
    let requirements = container.resources.as_ref();
    let limit = requirements.and_then(|r| r.limits.as_ref()).and_then(|l| l.get(resource));
    let value = match kind {
        "limits" => limit.or_else(|| around.allocatable.get(resource)),
        "requests" => requirements.and_then(|r| r.requests.as_ref()).and_then(|l| l.get(resource)),
        _ => return Err(format!("unsupported container resource: {}", selector.resource)),
    };
    let nanos = |q: &str| quantity::nanos(q).filter(|n| *n != 0);
    let divisor = selector.divisor.as_ref().and_then(|d| nanos(&d.0)).unwrap_or(1_000_000_000);
    let value = value.and_then(|q| quantity::nanos(&q.0)).unwrap_or(0);
    Ok((value.div_euclid(divisor) + i128::from(value.rem_euclid(divisor) != 0)).to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn fields() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u",
            "labels": {"b": "2", "a": "x\"y"}, "annotations": {"k/x": "v"}}, "spec": {"nodeName": "m", "containers": []}})).unwrap();
        let around = Surroundings { pod_ips: vec!["1.1.1.1".into(), "::1".into()], ..Default::default() };
        for (path, want) in [
            ("metadata.labels", "a=\"x\\\"y\"\nb=\"2\""),
            ("metadata.labels['b']", "2"),
            ("metadata.annotations['k/x']", "v"),
            ("metadata.annotations['none']", ""),
            ("spec.nodeName", "m"),
            ("status.podIP", "1.1.1.1"),
            ("status.podIPs", "1.1.1.1,::1"),
        ] {
            assert_eq!(field(&pod, &around, path).unwrap(), want, "{path}");
        }
        assert!(field(&pod, &around, "spec.none").is_err());
    }

    #[test]
    fn resources() {
        let pod: PodSpec = serde_json::from_value(json!({"containers": [{"name": "a", "resources":
            {"limits": {"cpu": "1250m", "memory": "64Mi"}, "requests": {"memory": "32Mi"}}}]}))
        .unwrap();
        let around = Surroundings {
            allocatable: serde_json::from_value(json!({"ephemeral-storage": "10Gi"})).unwrap(),
            ..Default::default()
        };
        for (resource_, divisor, want) in [
            ("limits.cpu", "", "2"),
            ("limits.cpu", "1m", "1250"),
            ("limits.memory", "1Mi", "64"),
            ("requests.memory", "0", "33554432"),
            ("limits.ephemeral-storage", "1Gi", "10"),
            ("requests.cpu", "", "0"),
        ] {
            let sel = ResourceFieldSelector {
                container_name: None,
                divisor: Some(k8s_openapi::apimachinery::pkg::api::resource::Quantity(divisor.into())),
                resource: resource_.into(),
            };
            assert_eq!(resource(&pod, "a", &around, &sel).unwrap(), want, "{resource_}/{divisor}");
        }
    }
}
