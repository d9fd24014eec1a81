//! Which objects a quota's scopes take in.

use super::pod;
use serde::Deserialize;
use serde_json::Value;

/// Whether an object falls under all scopes of a quota. Scopes are about Pods (and one about claims): other objects fall under
/// quotas without scopes only.
pub fn in_scope(quota: &Value, group: &str, plural: &str, object: &Value) -> bool {
    selectors(quota).iter().all(|selector| selector.takes(group, plural, object))
}

/// One scope, and whom it takes in.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Selector {
    /// The scope.
    pub scope_name: String,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    #[serde(default)]
    pub operator: String,
    /// For `In` and `NotIn`.
    #[serde(default)]
    pub values: Vec<String>,
}

impl Selector {
    /// Whether an object falls under it.
    pub fn takes(&self, group: &str, plural: &str, object: &Value) -> bool {
        let values: Vec<&str> = self.values.iter().map(String::as_str).collect();
        match (group, plural) {
            ("", "pods") => pod_matches(&self.scope_name, &self.operator, &values, object),
            ("", "persistentvolumeclaims") => {
                self.scope_name == "VolumeAttributesClass" && {
                    let class =
                        |pointer: &str| object.pointer(pointer).and_then(Value::as_str).filter(|c| !c.is_empty());
                    let classes =
                        [class("/spec/volumeAttributesClassName"), class("/status/currentVolumeAttributesClassName")];
                    let wanted = classes.into_iter().flatten().next();
                    named(wanted, &self.operator, &values)
                }
            }
            _ => false,
        }
    }
}

/// The scopes of a quota.
pub fn selectors(quota: &Value) -> Vec<Selector> {
    let list = |pointer: &str| quota.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
    let plain = list("/spec/scopes").filter_map(Value::as_str).map(|scope| Selector {
        scope_name: scope.to_owned(),
        operator: "Exists".to_owned(),
        values: vec![],
    });
    let chosen = list("/spec/scopeSelector/matchExpressions").map(|expression| {
        let text = |field: &str| expression.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let values = expression.get("values").and_then(Value::as_array).into_iter().flatten();
        let values = values.filter_map(|v| v.as_str().map(str::to_owned)).collect();
        Selector { scope_name: text("scopeName"), operator: text("operator"), values }
    });
    plain.chain(chosen).collect()
}

fn pod_matches(scope: &str, operator: &str, values: &[&str], pod: &Value) -> bool {
    let deadline = pod.pointer("/spec/activeDeadlineSeconds").and_then(Value::as_i64);
    let class = pod.pointer("/spec/priorityClassName").and_then(Value::as_str).filter(|class| !class.is_empty());
    match scope {
        "Terminating" => deadline.is_some_and(|seconds| seconds >= 0),
        "NotTerminating" => deadline.is_none_or(|seconds| seconds < 0),
        "BestEffort" => pod::is_best_effort(pod),
        "NotBestEffort" => !pod::is_best_effort(pod),
        "PriorityClass" => named(class, operator, values),
        "CrossNamespacePodAffinity" => reaches_out(pod),
        _ => false,
    }
}

fn named(class: Option<&str>, operator: &str, values: &[&str]) -> bool {
    match operator {
        "In" => class.is_some_and(|class| values.contains(&class)),
        "NotIn" => class.is_none_or(|class| !values.contains(&class)),
        "DoesNotExist" => class.is_none(),
        _ => class.is_some(),
    }
}

/// Whether affinity terms of the Pod reach into other namespaces.
fn reaches_out(pod: &Value) -> bool {
    let affinity = pod.pointer("/spec/affinity").unwrap_or(&Value::Null);
    let far = |term: &Value| {
        term.get("namespaces").and_then(Value::as_array).is_some_and(|names| !names.is_empty())
            || term.get("namespaceSelector").is_some_and(|selector| !selector.is_null())
    };
    ["podAffinity", "podAntiAffinity"].iter().filter_map(|kind| affinity.get(kind)).any(|kind| {
        let list = |field: &str| kind.get(field).and_then(Value::as_array).into_iter().flatten();
        list("requiredDuringSchedulingIgnoredDuringExecution").any(far)
            || list("preferredDuringSchedulingIgnoredDuringExecution")
                .filter_map(|soft| soft.get("podAffinityTerm"))
                .any(far)
    })
}
