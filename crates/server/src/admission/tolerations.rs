//! DefaultTolerationSeconds: a Pod that says nothing about unready and unreachable nodes stays on one for five minutes.

use super::{Context, Operation, Plugin, Request};
use caravel_api::status::ApiError;
use futures::future::BoxFuture;
use serde_json::{Value, json};

const SECONDS: u64 = 300;
const TAINTS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

/// The plug-in.
pub struct DefaultTolerationSeconds;

impl Plugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    fn handles(&self, request: &Request) -> bool {
        matches!(request.operation, Operation::Create | Operation::Update) && request.is("", "pods")
    }

    fn mutate<'a>(&'a self, request: &'a mut Request, _: &'a Context<'a>) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            if let Some(pod) = request.object.as_mut() {
                add_tolerations(pod);
            }
            Ok(())
        })
    }
}

fn add_tolerations(pod: &mut Value) {
    let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let present = spec.get("tolerations").and_then(Value::as_array).cloned().unwrap_or_default();
    let tolerated = |taint: &str| {
        present.iter().any(|toleration| {
            let text = |key: &str| toleration.get(key).and_then(Value::as_str).unwrap_or_default();
            (text("key") == taint || text("key").is_empty()) && matches!(text("effect"), "NoExecute" | "")
        })
    };
    let added: Vec<Value> = TAINTS
        .iter()
        .filter(|taint| !tolerated(taint))
        .map(|taint| json!({"key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS}))
        .collect();
    if !added.is_empty() {
        spec.insert("tolerations".into(), present.iter().cloned().chain(added).collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_is_added() {
        let table = [
            (json!({"spec": {}}), 2),
            (json!({"spec": {"tolerations": [{"operator": "Exists"}]}}), 1),
            (json!({"spec": {"tolerations": [{"key": TAINTS[0], "operator": "Exists", "effect": "NoExecute"}]}}), 2),
            (json!({"spec": {"tolerations": [{"key": TAINTS[0], "operator": "Exists", "effect": "NoSchedule"}]}}), 3),
        ];
        for (mut pod, count) in table {
            add_tolerations(&mut pod);
            assert_eq!(pod["spec"]["tolerations"].as_array().unwrap().len(), count, "{pod}");
        }
    }
}
