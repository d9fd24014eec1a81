//! Nodes: NodeRestriction, which holds a node to its own Node and Pods, and TaintNodesByCondition, which keeps Pods away from
//! a new node until it is known to be ready.

use super::{Context, Operation, Plugin, Request};
use caravel_api::meta;
use caravel_api::status::ApiError;
use futures::future::BoxFuture;
use serde_json::{Map, Value, json};

const MIRROR: &str = "kubernetes.io/config.mirror";
const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// Labels under kubernetes.io and k8s.io that a node may set on itself, besides those under its own prefixes.
const OWN_LABELS: [&str; 12] = [
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.kubernetes.io/region",
    "failure-domain.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
];
const OWN_PREFIXES: [&str; 3] = ["kubelet.kubernetes.io", "node.kubernetes.io", "topology.kubernetes.io"];

/// NodeRestriction.
pub struct NodeRestriction;

impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn handles(&self, request: &Request) -> bool {
        request.user.node_name().is_some()
            && matches!(
                (&*request.kind.group, &*request.kind.plural),
                ("", "pods" | "nodes") | ("resource.k8s.io", "resourceslices")
            )
    }

    fn validate<'a>(&'a self, request: &'a Request, _: &'a Context<'a>) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            let node = request.user.node_name().unwrap_or_default();
            let wrong = match &*request.kind.plural {
                "pods" => pods(request, node),
                "resourceslices" => slices(request, node),
                _ => nodes(request, node),
            };
            wrong.map_err(|why| request.forbidden(why))
        })
    }
}

/// A node gets tokens only for Pods that it runs. `request` is the `TokenRequest`; others than nodes pass.
///
/// # Errors
/// 403 with what is missing.
pub async fn token(
    registry: &crate::registry::Registry,
    user: &crate::authn::UserInfo,
    namespace: &str,
    account: &str,
    request: &Value,
) -> Result<(), ApiError> {
    if user.node_name().is_none() {
        return Ok(());
    }
    let refuse = |why: &str| Err(ApiError::forbidden("", "serviceaccounts", account, why));
    let text = |field: &str| {
        request.pointer(&format!("/spec/boundObjectRef/{field}")).and_then(Value::as_str).unwrap_or_default()
    };
    if (text("apiVersion"), text("kind")) != ("v1", "Pod") || text("name").is_empty() {
        return refuse("node requested token not bound to a pod");
    }
    if text("uid").is_empty() {
        return refuse("node requested token with a pod binding without a uid");
    }
    let pod = registry.object("", "pods", namespace, text("name")).await?;
    if pod.is_some_and(|pod| Some(node_of(Some(&pod))) != user.node_name()) {
        return refuse("node requested token bound to a pod scheduled on a different node");
    }
    Ok(())
}

fn node_of(pod: Option<&Value>) -> &str {
    pod.and_then(|pod| pod.pointer("/spec/nodeName")).and_then(Value::as_str).unwrap_or_default()
}

fn pods(request: &Request, node: &str) -> Result<(), String> {
    match (request.operation, request.subresource.as_str()) {
        (Operation::Create, "") => {
            let pod = request.object.as_ref().unwrap_or(&Value::Null);
            if meta::annotation(pod, MIRROR).is_none() {
                return Err(format!(
                    "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
                ));
            }
            if node_of(Some(pod)) != node {
                return Err(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
            }
            Ok(())
        }
        (Operation::Update, "status") => {
            if node_of(request.old.as_ref()) != node {
                return Err(format!(
                    "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
                ));
            }
            let labels = |pod: &Option<Value>| pod.as_ref().and_then(|p| p.pointer("/metadata/labels")).cloned();
            if labels(&request.object) != labels(&request.old) {
                return Err(format!("node {node:?} cannot update labels through pod status"));
            }
            Ok(())
        }
        (Operation::Delete, "") if node_of(request.old.as_ref()) != node => {
            Err(format!("node {node:?} can only delete pods with spec.nodeName set to itself"))
        }
        _ => Ok(()),
    }
}

/// A node tells of its own devices only.
fn slices(request: &Request, node: &str) -> Result<(), String> {
    let (verb, object) = match request.operation {
        Operation::Create => ("create", &request.object),
        Operation::Update => ("update", &request.old),
        Operation::Delete => ("delete", &request.old),
        Operation::Connect => return Ok(()),
    };
    if node_of(object.as_ref()) == node {
        return Ok(());
    }
    Err(format!("can only {verb} ResourceSlice with the same NodeName as the requesting node"))
}

fn nodes(request: &Request, node: &str) -> Result<(), String> {
    let labels = |object: &Option<Value>| -> Map<String, Value> {
        object
            .as_ref()
            .and_then(|o| o.pointer("/metadata/labels"))
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default()
    };
    if request.name != node {
        return Err(format!("node {node:?} is not allowed to modify node {:?}", request.name));
    }
    match request.operation {
        Operation::Create => {
            let foreign = foreign_labels(labels(&request.object).keys());
            if !foreign.is_empty() {
                return Err(format!("node {node:?} is not allowed to set the following labels: {foreign}"));
            }
            Ok(())
        }
        Operation::Update => {
            let taints = |object: &Option<Value>| object.as_ref().and_then(|o| o.pointer("/spec/taints")).cloned();
            if taints(&request.object).unwrap_or_default() != taints(&request.old).unwrap_or_default() {
                return Err(format!("node {node:?} is not allowed to modify taints"));
            }
            let (new, old) = (labels(&request.object), labels(&request.old));
            let changed: Vec<&String> =
                new.keys().chain(old.keys()).filter(|key| new.get(*key) != old.get(*key)).collect();
            let foreign = foreign_labels(changed);
            if !foreign.is_empty() {
                return Err(format!("is not allowed to modify labels: {foreign}"));
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Those of `keys` that a node may not set on itself, sorted and once each.
fn foreign_labels<'a>(keys: impl IntoIterator<Item = &'a String>) -> String {
    let mut foreign: Vec<&str> = keys.into_iter().map(String::as_str).filter(|key| !is_own(key)).collect();
    foreign.sort_unstable();
    foreign.dedup();
    foreign.join(", ")
}

fn is_own(key: &str) -> bool {
    let Some((prefix, _)) = key.split_once('/') else { return true };
    let under = |domain: &str| prefix == domain || prefix.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
    if under("node-restriction.kubernetes.io") {
        return false;
    }
    if !under("kubernetes.io") && !under("k8s.io") {
        return true;
    }
    OWN_LABELS.contains(&key) || OWN_PREFIXES.iter().any(|own| under(own))
}

/// TaintNodesByCondition.
pub struct TaintNodesByCondition;

impl Plugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    fn handles(&self, request: &Request) -> bool {
        request.operation == Operation::Create && request.is("", "nodes")
    }

    fn mutate<'a>(&'a self, request: &'a mut Request, _: &'a Context<'a>) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            let Some(node) = request.object.as_mut() else { return Ok(()) };
            let taint = json!({"key": NOT_READY, "effect": "NoSchedule"});
            match node["spec"]["taints"].as_array_mut() {
                Some(all) if all.iter().any(|t| t["key"] == NOT_READY && t["effect"] == "NoSchedule") => {}
                Some(all) => all.push(taint),
                None => node["spec"]["taints"] = json!([taint]),
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used)]
    use super::*;

    #[test]
    fn a_node_tells_of_its_own_devices_only() {
        let table = caravel_api::kinds::KindTable::builtin();
        let kind = table.resource("resource.k8s.io", "v1", "resourceslices").expect("a built-in kind").clone();
        let of = |node: &str| Some(json!({"spec": {"nodeName": node}}));
        for (operation, object, old, good) in [
            (Operation::Create, of("n"), None, true),
            (Operation::Create, of("m"), None, false),
            (Operation::Create, Some(json!({"spec": {"allNodes": true}})), None, false),
            (Operation::Update, of("n"), of("m"), false),
            (Operation::Update, of("n"), of("n"), true),
            (Operation::Delete, None, of("m"), false),
            (Operation::Delete, None, of("n"), true),
        ] {
            let user = crate::authn::UserInfo::new("system:node:n", &["system:nodes"]);
            let request = Request {
                operation,
                kind: kind.clone(),
                subresource: String::new(),
                namespace: String::new(),
                name: "s".into(),
                user: std::sync::Arc::new(user),
                dry_run: false,
                object,
                old,
                options: Value::Null,
                patch: false,
            };
            assert!(NodeRestriction.handles(&request));
            assert_eq!(slices(&request, "n").is_ok(), good, "{operation:?} {:?} {:?}", request.object, request.old);
        }
    }

    #[test]
    fn labels_that_are_a_nodes_own() {
        for (key, own) in [
            ("team", true),
            ("example.com/team", true),
            ("kubernetes.io/hostname", true),
            ("node.kubernetes.io/anything", true),
            ("x.kubelet.kubernetes.io/anything", true),
            ("node-restriction.kubernetes.io/secure", false),
            ("x.node-restriction.kubernetes.io/secure", false),
            ("kubernetes.io/other", false),
            ("node-role.kubernetes.io/control-plane", false),
            ("foo.k8s.io/x", false),
        ] {
            assert_eq!(is_own(key), own, "{key}");
        }
    }
}
