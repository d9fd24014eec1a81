//! What a Pod's node must be able to do before the Pod is changed: PodResizeValidator and NodeDeclaredFeatureValidator (KEP-1287, KEP-5328).

use super::{Context, Operation, Plugin, Request};
use caravel_api::quota::{amounts, pod_total};
use caravel_api::status::ApiError;
use futures::future::BoxFuture;
use serde_json::Value;

/// A Guaranteed Pod can be given other CPUs while it runs.
const GUARANTEED_CPU: &str = "GuaranteedQoSPodCPUResize";
/// The resources of a Pod as a whole can be changed while it runs (KEP-5419).
const POD_LEVEL: &str = "InPlacePodLevelResourcesVerticalScaling";

/// Refuses sizes that the Pod's node never has.
pub struct PodResize;

/// Refuses changes for which the Pod's kubelet is too old.
pub struct DeclaredFeatures;

impl Plugin for PodResize {
    fn name(&self) -> &'static str {
        "PodResizeValidator"
    }

    fn handles(&self, request: &Request) -> bool {
        is_pod_update(request) && request.subresource == "resize"
    }

    fn validate<'a>(&'a self, request: &'a Request, context: &'a Context<'a>) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            let Some((old, new)) = specs(request) else { return Ok(()) };
            if old == new {
                return Ok(());
            }
            let Some(node) = node_of(request, new, context).await? else { return Ok(()) };
            fits(new, &node).map_err(|why| request.forbidden(why))
        })
    }
}

impl Plugin for DeclaredFeatures {
    fn name(&self) -> &'static str {
        "NodeDeclaredFeatureValidator"
    }

    fn handles(&self, request: &Request) -> bool {
        is_pod_update(request) && matches!(request.subresource.as_str(), "" | "resize")
    }

    fn validate<'a>(&'a self, request: &'a Request, context: &'a Context<'a>) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            let Some((old, new)) = specs(request) else { return Ok(()) };
            let class = request.old.as_ref().and_then(|pod| pod.pointer("/status/qosClass")).and_then(Value::as_str);
            let needed = needed(old, new, class);
            if needed.is_empty() {
                return Ok(());
            }
            let Some(node) = node_of(request, new, context).await? else { return Ok(()) };
            let lacking = lacking(&needed, &node);
            if lacking.is_empty() {
                return Ok(());
            }
            Err(request.forbidden(format!(
                "pod update requires features {} which are not available on node {:?}",
                lacking.join(", "),
                text(new, "nodeName")
            )))
        })
    }
}

fn is_pod_update(request: &Request) -> bool {
    request.operation == Operation::Update && request.kind.group.is_empty() && &*request.kind.plural == "pods"
}

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn specs(request: &Request) -> Option<(&Value, &Value)> {
    Some((request.old.as_ref()?.get("spec")?, request.object.as_ref()?.get("spec")?))
}

/// The node of a Pod; `None` when it has none yet.
async fn node_of(request: &Request, spec: &Value, context: &Context<'_>) -> Result<Option<Value>, ApiError> {
    let name = text(spec, "nodeName");
    if name.is_empty() {
        return Ok(None);
    }
    match context.registry.object("", "nodes", "", name).await? {
        None => Err(request.forbidden(format!("node {name:?} not found"))),
        node => Ok(node),
    }
}

/// Whether a node could hold a Pod if it had nothing else.
fn fits(spec: &Value, node: &Value) -> Result<(), String> {
    let (wanted, has) = (pod_total(spec, "requests"), amounts(node.pointer("/status/allocatable")));
    let mut wrong = Vec::new();
    for (name, milli) in [("cpu", true), ("memory", false)] {
        let of = |amounts: &caravel_api::quota::Usage| {
            amounts.get(name).map_or(0, |a| if milli { a.milli_value() } else { a.value() })
        };
        let (requested, allocatable) = (of(&wanted), of(&has));
        if requested > allocatable {
            wrong.push(format!("{name}, requested: {requested}, allocatable: {allocatable}"));
        }
    }
    if !wrong.is_empty() {
        return Err(format!("Node didn't have enough allocatable resources: {}", wrong.join("; ")));
    }
    let system = node.pointer("/metadata/labels/kubernetes.io~1os").and_then(Value::as_str).unwrap_or_default();
    if system == "linux" {
        return Ok(());
    }
    let name = node.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    Err(format!("pod resize is only supported on linux nodes, node {name:?} is {system:?}"))
}

/// The features of a kubelet that a change of a Pod of this class needs.
fn needed(old: &Value, new: &Value, class: Option<&str>) -> Vec<&'static str> {
    let mut needed = Vec::new();
    let cpu = |c: &Value| amounts(c.pointer("/resources/requests")).get("cpu").copied();
    let containers = |spec: &Value| spec.get("containers").and_then(Value::as_array).cloned().unwrap_or_default();
    let other_cpu = || containers(old).iter().zip(&containers(new)).any(|(old, new)| cpu(old) != cpu(new));
    if class.is_none_or(|class| class == "Guaranteed") && other_cpu() {
        needed.push(GUARANTEED_CPU);
    }
    if old.get("resources") != new.get("resources") {
        needed.push(POD_LEVEL);
    }
    needed
}

/// What of it the node does not declare.
fn lacking(needed: &[&'static str], node: &Value) -> Vec<&'static str> {
    let declared = node.pointer("/status/declaredFeatures").and_then(Value::as_array);
    let has = |feature: &str| declared.is_some_and(|all| all.iter().any(|f| f == feature));
    needed.iter().copied().filter(|feature| !has(feature)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn spec(cpu: &str, memory: &str, whole: Value) -> Value {
        json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}}], "resources": whole})
    }

    #[test]
    fn sizes_that_the_node_never_has_are_refused() {
        let node = |os: &str| {
            json!({"metadata": {"name": "n", "labels": {"kubernetes.io/os": os}},
                "status": {"allocatable": {"cpu": "2", "memory": "1Gi"}}})
        };
        for (wants, os, why) in [
            (spec("2", "1Gi", Value::Null), "linux", ""),
            (spec("2001m", "1Gi", Value::Null), "linux", "cpu, requested: 2001, allocatable: 2000"),
            (
                spec("3", "2Gi", Value::Null),
                "linux",
                "cpu, requested: 3000, allocatable: 2000; memory, requested: 2147483648, allocatable: 1073741824",
            ),
            (spec("1", "1Gi", json!({"requests": {"cpu": "3"}})), "linux", "cpu, requested: 3000, allocatable: 2000"),
            (spec("1", "1Gi", Value::Null), "windows", "node \"n\" is \"windows\""),
        ] {
            let got = fits(&wants, &node(os)).err().unwrap_or_default();
            assert!(got.ends_with(why) && got.is_empty() == why.is_empty(), "{got:?} instead of {why:?}");
        }
    }

    #[test]
    fn changes_need_what_the_kubelet_knows() {
        let before = spec("1", "1Gi", Value::Null);
        for (after, class, want) in [
            (spec("1000m", "2Gi", Value::Null), Some("Guaranteed"), vec![]),
            (spec("2", "1Gi", Value::Null), Some("Guaranteed"), vec![GUARANTEED_CPU]),
            (spec("2", "1Gi", Value::Null), None, vec![GUARANTEED_CPU]),
            (spec("2", "1Gi", Value::Null), Some("Burstable"), vec![]),
            (spec("1", "1Gi", json!({"limits": {"cpu": "1"}})), Some("Burstable"), vec![POD_LEVEL]),
        ] {
            assert_eq!(needed(&before, &after, class), want, "{after} {class:?}");
        }
        let node = json!({"status": {"declaredFeatures": [GUARANTEED_CPU]}});
        assert_eq!(lacking(&[GUARANTEED_CPU, POD_LEVEL], &node), [POD_LEVEL]);
        assert_eq!(lacking(&[GUARANTEED_CPU], &json!({})), [GUARANTEED_CPU]);
    }
}
