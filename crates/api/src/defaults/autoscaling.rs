//! Horizontal pod autoscalers (`autoscaling/v2`; of `v1` the part that is the same).

use super::{Object, child, each, made, optional, quantity};
use serde_json::{Value, json};

pub(super) fn apply(kind: &str, object: &mut Object) {
    if kind != "HorizontalPodAutoscaler" {
        return;
    }
    let v1 = object.get("apiVersion").and_then(Value::as_str) == Some("autoscaling/v1");
    if let Some(spec) = made(object, "spec") {
        optional(spec, "minReplicas", 1);
        if !v1 && spec.get("metrics").and_then(Value::as_array).is_none_or(Vec::is_empty) {
            let cpu = json!({"type": "Resource", "resource": {
                "name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}});
            spec.insert("metrics".into(), json!([cpu]));
        }
        each(spec, "metrics").for_each(|metric| metric_quantities(metric, "target"));
        if let Some(behavior) = child(spec, "behavior") {
            up(behavior);
            down(behavior);
        }
    }
    if let Some(status) = made(object, "status") {
        each(status, "currentMetrics").for_each(|metric| metric_quantities(metric, "current"));
    }
}

fn metric_quantities(metric: &mut Object, field: &str) {
    for source in ["resource", "containerResource", "pods", "object", "external"] {
        if let Some(values) = child(metric, source).and_then(|source| child(source, field)) {
            quantity(values, "value");
            quantity(values, "averageValue");
        }
    }
}

fn up(behavior: &mut Object) {
    let Some(rules) = made(behavior, "scaleUp") else { return };
    optional(rules, "selectPolicy", "Max");
    optional(rules, "stabilizationWindowSeconds", 0);
    optional(
        rules,
        "policies",
        json!([{"type": "Pods", "value": 4, "periodSeconds": 15}, {"type": "Percent", "value": 100, "periodSeconds": 15}]),
    );
    quantity(rules, "tolerance");
}

fn down(behavior: &mut Object) {
    let Some(rules) = made(behavior, "scaleDown") else { return };
    optional(rules, "selectPolicy", "Max");
    optional(rules, "policies", json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]));
    quantity(rules, "tolerance");
}
