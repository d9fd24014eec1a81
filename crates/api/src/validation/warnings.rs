//! What is accepted but deserves a `Warning` header: deprecated or pointless settings.

use super::check::{child, has, int, items, members, text, texts};
use crate::field::{FieldPath, quote};
use crate::kinds::Kind;
use crate::quantity::Quantity;
use serde_json::Value;

/// Labels of nodes that have moved, and where to.
const OLD_NODE_LABELS: [(&str, &str, &str); 4] = [
    ("beta.kubernetes.io/arch", "v1.14", "kubernetes.io/arch"),
    ("beta.kubernetes.io/os", "v1.14", "kubernetes.io/os"),
    ("failure-domain.beta.kubernetes.io/region", "v1.17", "topology.kubernetes.io/region"),
    ("failure-domain.beta.kubernetes.io/zone", "v1.17", "topology.kubernetes.io/zone"),
];

/// Warnings about an object that is created (`old` is `None`) or updated. An update warns only of what it brings.
pub fn warnings(kind: &Kind, new: &Value, old: Option<&Value>) -> Vec<String> {
    let mut out = of(kind, new);
    if let Some(old) = old
        && !out.is_empty()
    {
        let before = of(kind, old);
        out.retain(|one| !before.contains(one));
    }
    out
}

fn of(kind: &Kind, object: &Value) -> Vec<String> {
    let mut out = Vec::new();
    finalizers(&mut out, object);
    let spec = child(object, "spec");
    let at = FieldPath::root("spec");
    match (&*kind.group, &*kind.kind) {
        ("", "Pod") => {
            let annotations = child(child(object, "metadata"), "annotations");
            pod_annotations(&mut out, &FieldPath::root("metadata").child("annotations"), annotations);
            pod(&mut out, &at, spec);
        }
        ("", "ReplicationController")
        | ("apps", "Deployment" | "ReplicaSet" | "DaemonSet" | "StatefulSet")
        | ("batch", "Job") => {
            template(&mut out, &at.child("template"), child(spec, "template"));
        }
        ("batch", "CronJob") => {
            let job = child(child(spec, "jobTemplate"), "spec");
            template(&mut out, &FieldPath::root("spec.jobTemplate.spec.template"), child(job, "template"));
            if text(child(object, "metadata"), "name").contains('.') {
                out.push("metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended".into());
            }
        }
        ("", "PodTemplate") => template(&mut out, &FieldPath::root("template"), child(object, "template")),
        ("", "Service") => service(&mut out, spec),
        ("networking.k8s.io", "Ingress")
            if has(child(child(object, "metadata"), "annotations"), "kubernetes.io/ingress.class") =>
        {
            out.push(
                "annotation \"kubernetes.io/ingress.class\" is deprecated, please use 'spec.ingressClassName' instead"
                    .into(),
            );
        }
        ("", "Node") => node(&mut out, object),
        ("", "PersistentVolumeClaim") => storage(&mut out, &at, spec),
        _ => {}
    }
    out
}

fn finalizers(out: &mut Vec<String>, object: &Value) {
    for finalizer in texts(child(object, "metadata"), "finalizers") {
        let standard = matches!(finalizer, "orphan" | "foregroundDeletion" | "kubernetes");
        if !finalizer.contains('/') && !standard {
            out.push(format!(
                "metadata.finalizers: {}: prefer a domain-qualified finalizer name including a path (/) to avoid accidental \
                 conflicts with other finalizer writers",
                quote(finalizer)
            ));
        }
    }
}

fn template(out: &mut Vec<String>, at: &FieldPath<'_>, template: &Value) {
    let annotations = child(child(template, "metadata"), "annotations");
    pod_annotations(out, &at.child("metadata").child("annotations"), annotations);
    pod(out, &at.child("spec"), child(template, "spec"));
}

fn pod_annotations(out: &mut Vec<String>, at: &FieldPath<'_>, annotations: &Value) {
    for key in annotations.as_object().into_iter().flatten().map(|(key, _)| key) {
        if key.starts_with("container.apparmor.security.beta.kubernetes.io/") {
            out.push(format!("{}: deprecated since v1.30; use the \"appArmorProfile\" field instead", at.key(key)));
        } else if key.starts_with("container.seccomp.security.alpha.kubernetes.io/")
            || key == "seccomp.security.alpha.kubernetes.io/pod"
        {
            out.push(format!("{}: non-functional in v1.27+; use the \"seccompProfile\" field instead", at.key(key)));
        }
    }
}

fn pod(out: &mut Vec<String>, at: &FieldPath<'_>, spec: &Value) {
    let selector = at.child("nodeSelector");
    for (key, _) in members(spec, "nodeSelector") {
        if let Some((_, since, now)) = OLD_NODE_LABELS.iter().find(|(old, _, _)| old == key) {
            out.push(format!("{}: deprecated since {since}; use {} instead", selector.key(key), quote(now)));
        }
    }
    let list = at.child("volumes");
    for (i, volume) in items(spec, "volumes").iter().enumerate() {
        if has(volume, "gitRepo") {
            out.push(format!(
                "{}: deprecated in v1.11, and disabled by default in v1.33+",
                list.index(i).child("gitRepo")
            ));
        }
    }
    let list = at.child("imagePullSecrets");
    for (i, secret) in items(spec, "imagePullSecrets").iter().enumerate() {
        if text(secret, "name").is_empty() {
            out.push(format!("{}: invalid empty name \"\"", list.index(i).child("name")));
        }
    }
    if int(spec, "terminationGracePeriodSeconds").is_some_and(|seconds| seconds < 0) {
        out.push(format!(
            "{}: must be >= 0; negative values are invalid and will be treated as 1",
            at.child("terminationGracePeriodSeconds")
        ));
    }
    for list in ["initContainers", "containers"] {
        let list_at = at.child(list);
        for (i, container) in items(spec, list).iter().enumerate() {
            one_container(out, &list_at.index(i), container);
        }
    }
    for name in ["memory", "ephemeral-storage"] {
        if fractional(child(child(spec, "overhead"), name)) {
            let value = text(child(spec, "overhead"), name);
            out.push(format!(
                "{}: fractional byte value {} is invalid, must be an integer",
                at.child("overhead").key(name),
                quote(value)
            ));
        }
    }
}

fn fractional(value: &Value) -> bool {
    Quantity::from_value(value).is_ok_and(|amount| !amount.is_integer())
}

fn one_container(out: &mut Vec<String>, at: &FieldPath<'_>, container: &Value) {
    let vars = items(container, "env");
    let list = at.child("env");
    for (i, var) in vars.iter().enumerate() {
        let name = text(var, "name");
        // A later one that refers to the former extends it, which is a known idiom.
        let extends = text(var, "value").contains(&format!("$({name})"));
        if !extends && vars[..i].iter().any(|before| text(before, "name") == name) {
            out.push(format!(
                "{}: hides previous definition of {}, which may be dropped when using apply",
                list.index(i),
                quote(name)
            ));
        }
    }
    let ports = items(container, "ports");
    let list = at.child("ports");
    for (i, port) in ports.iter().enumerate() {
        let same = |other: &&Value| {
            let equal = |field: &str| child(port, field) == child(other, field);
            equal("containerPort") && equal("protocol") && equal("hostPort") && equal("hostIP")
        };
        if let Some(first) = ports[..i].iter().position(|other| same(&other)) {
            out.push(format!("{}: duplicate port definition with {}", list.index(i), list.index(first)));
        }
    }
    for kind in ["limits", "requests"] {
        let amounts = child(child(container, "resources"), kind);
        for name in ["memory", "ephemeral-storage"] {
            if fractional(child(amounts, name)) {
                let at = at.child("resources");
                out.push(format!(
                    "{}: fractional byte value {} is invalid, must be an integer",
                    at.child(kind).key(name),
                    quote(text(amounts, name))
                ));
            }
        }
    }
}

fn service(out: &mut Vec<String>, spec: &Value) {
    let headless = text(spec, "clusterIP") == "None";
    if headless && text(spec, "sessionAffinity") == "ClientIP" {
        out.push("spec.SessionAffinity is ignored for headless services".into());
    }
    if headless && !text(spec, "loadBalancerIP").is_empty() {
        out.push("spec.loadBalancerIP is ignored for headless services".into());
    }
    if headless && !items(spec, "externalIPs").is_empty() {
        out.push("spec.externalIPs is ignored when spec.clusterIP is \"None\"".into());
    }
    if headless && !text(spec, "externalName").is_empty() {
        out.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".into());
    }
}

fn node(out: &mut Vec<String>, object: &Value) {
    if !text(child(object, "spec"), "externalID").is_empty() {
        out.push("spec.externalID: this field is deprecated, and is unused by Kubernetes".into());
    }
}

fn storage(out: &mut Vec<String>, at: &FieldPath<'_>, spec: &Value) {
    let request = child(child(child(spec, "resources"), "requests"), "storage");
    if fractional(request) {
        out.push(format!(
            "{}: fractional byte value {} is invalid, must be an integer",
            at.child("resources").child("requests").key("storage"),
            quote(request.as_str().unwrap_or_default())
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::KindTable;
    use serde_json::json;

    #[test]
    fn pods_warn() {
        let kind = KindTable::builtin().preferred("", "Pod").unwrap().clone();
        let pod = json!({"metadata": {"finalizers": ["x"]}, "spec": {
            "nodeSelector": {"beta.kubernetes.io/os": "linux"}, "terminationGracePeriodSeconds": -1,
            "containers": [{"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}, {"name": "A", "value": "$(A):3"}],
                            "ports": [{"containerPort": 1}, {"containerPort": 1}],
                            "resources": {"limits": {"memory": "100m"}}}]}});
        assert_eq!(
            warnings(&kind, &pod, None),
            [
                "metadata.finalizers: \"x\": prefer a domain-qualified finalizer name including a path (/) to avoid accidental conflicts with other finalizer writers",
                "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
                "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1",
                "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
                "spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]",
                "spec.containers[0].resources.limits[memory]: fractional byte value \"100m\" is invalid, must be an integer",
            ]
        );
        assert!(warnings(&kind, &pod, Some(&pod)).is_empty());
    }
}
