//! Between the served form of a kind and its stored form, where they differ.
//!
//! Most versions of one kind have the same fields, so conversion is another `apiVersion`. The exceptions are
//! listed in [`convert`]; a conversion loses nothing that the target form can say.

use serde_json::{Map, Value, json};

use super::Kind;

/// Turns an object of `from`'s version into one of `to`'s version, in place.
pub fn convert(value: &mut Value, from: &Kind, to: &Kind) {
    if from.group == to.group && from.version == to.version {
        return;
    }
    let Value::Object(object) = value else { return };
    object.insert("apiVersion".to_owned(), to.api_version().into());
    match (&*from.kind, &*from.group, &*from.version, &*to.version) {
        ("Event", "", _, _) => rename(object, &EVENT_FIELDS, false),
        ("Event", "events.k8s.io", _, _) => rename(object, &EVENT_FIELDS, true),
        ("HorizontalPodAutoscaler", _, "v1", _) => autoscaler_to_v2(object),
        ("HorizontalPodAutoscaler", _, "v2", _) => autoscaler_to_v1(object),
        ("ResourceClaim", _, "v1beta1", _) => claim(object, "spec", nest_request),
        ("ResourceClaim", _, _, "v1beta1") => claim(object, "spec", flatten_request),
        ("ResourceClaimTemplate", _, "v1beta1", _) => template(object, nest_request),
        ("ResourceClaimTemplate", _, _, "v1beta1") => template(object, flatten_request),
        ("ResourceSlice", _, "v1beta1", _) => slice(object, flatten_device),
        ("ResourceSlice", _, _, "v1beta1") => slice(object, nest_device),
        _ => {}
    }
}

/// Field of a core event, field of the same meaning in `events.k8s.io/v1`.
const EVENT_FIELDS: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

fn rename(object: &mut Map<String, Value>, names: &[(&str, &str)], back: bool) {
    for (core, events) in names {
        let (from, to) = if back { (events, core) } else { (core, events) };
        if let Some(value) = object.remove(*from) {
            object.insert((*to).to_owned(), value);
        }
    }
}

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

fn child<'a>(object: &'a mut Map<String, Value>, name: &str) -> Option<&'a mut Map<String, Value>> {
    object.get_mut(name).and_then(Value::as_object_mut)
}

/// What autoscaling/v1 cannot say, v1 objects carry in annotations.
fn take_annotation(object: &mut Map<String, Value>, name: &str) -> Option<Value> {
    let annotations = child(child(object, "metadata")?, "annotations")?;
    let text = annotations.remove(name)?;
    let emptied = annotations.is_empty();
    if emptied && let Some(metadata) = child(object, "metadata") {
        metadata.remove("annotations");
    }
    serde_json::from_str(text.as_str()?).ok()
}

fn put_annotation(object: &mut Map<String, Value>, name: &str, value: &Value) {
    let metadata = object.entry("metadata").or_insert_with(|| json!({}));
    let Some(metadata) = metadata.as_object_mut() else { return };
    let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.insert(name.to_owned(), value.to_string().into());
    }
}

fn autoscaler_to_v2(object: &mut Map<String, Value>) {
    let metrics = take_annotation(object, METRICS);
    let current = take_annotation(object, CURRENT_METRICS);
    let conditions = take_annotation(object, CONDITIONS);
    let behavior = take_annotation(object, BEHAVIOR);
    if let Some(spec) = child(object, "spec") {
        let mut list = Vec::new();
        if let Some(Value::Array(others)) = metrics {
            list.extend(others.iter().map(metric_to_v2));
        }
        if let Some(percent) = spec.remove("targetCPUUtilizationPercentage") {
            let target = json!({"type": "Utilization", "averageUtilization": percent});
            list.push(json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}));
        }
        if !list.is_empty() {
            spec.insert("metrics".to_owned(), list.into());
        }
        if let Some(behavior) = behavior {
            spec.insert("behavior".to_owned(), behavior);
        }
    }
    if let Some(status) = child(object, "status") {
        let mut list = Vec::new();
        if let Some(Value::Array(others)) = current {
            list.extend(others);
        }
        if let Some(percent) = status.remove("currentCPUUtilizationPercentage") {
            let current = json!({"averageUtilization": percent});
            list.push(json!({"type": "Resource", "resource": {"name": "cpu", "current": current}}));
        }
        if !list.is_empty() {
            status.insert("currentMetrics".to_owned(), list.into());
        }
        if let Some(conditions) = conditions {
            status.insert("conditions".to_owned(), conditions);
        }
    }
}

fn autoscaler_to_v1(object: &mut Map<String, Value>) {
    let mut kept = Vec::new();
    if let Some(spec) = child(object, "spec") {
        if let Some(Value::Array(metrics)) = spec.remove("metrics") {
            let (cpu, others): (Vec<_>, Vec<_>) = metrics.into_iter().partition(is_cpu_utilization);
            if let Some(metric) = cpu.first() {
                let percent = metric["resource"]["target"]["averageUtilization"].clone();
                spec.insert("targetCPUUtilizationPercentage".to_owned(), percent);
            }
            if !others.is_empty() {
                kept.push((METRICS, Value::Array(others.iter().map(metric_to_v1).collect())));
            }
        }
        kept.extend(spec.remove("behavior").map(|b| (BEHAVIOR, b)));
    }
    if let Some(status) = child(object, "status") {
        if let Some(Value::Array(metrics)) = status.remove("currentMetrics") {
            let is_cpu = |m: &Value| {
                m["resource"]["name"] == "cpu" && m["resource"]["current"]["averageUtilization"].is_number()
            };
            let (cpu, others): (Vec<_>, Vec<_>) = metrics.into_iter().partition(is_cpu);
            if let Some(metric) = cpu.first() {
                let percent = metric["resource"]["current"]["averageUtilization"].clone();
                status.insert("currentCPUUtilizationPercentage".to_owned(), percent);
            }
            if !others.is_empty() {
                kept.push((CURRENT_METRICS, Value::Array(others)));
            }
        }
        kept.extend(status.remove("conditions").map(|c| (CONDITIONS, c)));
    }
    for (name, value) in kept {
        put_annotation(object, name, &value);
    }
}

fn is_cpu_utilization(metric: &Value) -> bool {
    let resource = &metric["resource"];
    metric["type"] == "Resource" && resource["name"] == "cpu" && resource["target"]["averageUtilization"].is_number()
}

/// The source of a metric spec: the field that its type names.
fn source(metric: &Value) -> (&'static str, &Value) {
    for name in ["resource", "pods", "object", "external", "containerResource"] {
        if metric[name].is_object() {
            return (name, &metric[name]);
        }
    }
    ("resource", &Value::Null)
}

/// autoscaling/v1's flat metric (`targetAverageValue`) from v2's (`target.averageValue`).
fn metric_to_v1(metric: &Value) -> Value {
    let (name, spec) = source(metric);
    let mut flat = Map::new();
    let mut put = |key: &str, value: &Value| {
        if !value.is_null() {
            flat.insert(key.to_owned(), value.clone());
        }
    };
    let target = &spec["target"];
    match name {
        "resource" | "containerResource" => {
            put("name", &spec["name"]);
            put("container", &spec["container"]);
            put("targetAverageUtilization", &target["averageUtilization"]);
            put("targetAverageValue", &target["averageValue"]);
        }
        "pods" => {
            put("metricName", &spec["metric"]["name"]);
            put("selector", &spec["metric"]["selector"]);
            put("targetAverageValue", &target["averageValue"]);
        }
        "object" => {
            put("metricName", &spec["metric"]["name"]);
            put("selector", &spec["metric"]["selector"]);
            put("target", &spec["describedObject"]);
            put("targetValue", &target["value"]);
            put("averageValue", &target["averageValue"]);
        }
        _ => {
            put("metricName", &spec["metric"]["name"]);
            put("metricSelector", &spec["metric"]["selector"]);
            put("targetValue", &target["value"]);
            put("targetAverageValue", &target["averageValue"]);
        }
    }
    json!({"type": metric["type"], name: flat})
}

fn metric_to_v2(metric: &Value) -> Value {
    let (name, flat) = source(metric);
    let mut target = Map::new();
    for (key, kind, from) in [
        ("averageUtilization", "Utilization", &flat["targetAverageUtilization"]),
        ("averageValue", "AverageValue", &flat["targetAverageValue"]),
        ("averageValue", "AverageValue", &flat["averageValue"]),
        ("value", "Value", &flat["targetValue"]),
    ] {
        if !from.is_null() {
            target.insert(key.to_owned(), from.clone());
            target.entry("type").or_insert_with(|| kind.into());
        }
    }
    let mut spec = Map::new();
    spec.insert("target".to_owned(), target.into());
    let mut put = |key: &str, value: &Value| {
        if !value.is_null() {
            spec.insert(key.to_owned(), value.clone());
        }
    };
    match name {
        "resource" | "containerResource" => {
            put("name", &flat["name"]);
            put("container", &flat["container"]);
        }
        _ => {
            let mut identifier = json!({"name": flat["metricName"]});
            let selector = if name == "external" { &flat["metricSelector"] } else { &flat["selector"] };
            if !selector.is_null() {
                identifier["selector"] = selector.clone();
            }
            put("metric", &identifier);
            if name == "object" {
                put("describedObject", &flat["target"]);
            }
        }
    }
    json!({"type": metric["type"], name: spec})
}

fn claim(object: &mut Map<String, Value>, spec: &str, turn: fn(&mut Map<String, Value>)) {
    let requests = child(object, spec).and_then(|s| child(s, "devices")).and_then(|d| d.get_mut("requests"));
    for request in requests.and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(request) = request.as_object_mut() {
            turn(request);
        }
    }
}

fn template(object: &mut Map<String, Value>, turn: fn(&mut Map<String, Value>)) {
    if let Some(spec) = child(object, "spec") {
        claim(spec, "spec", turn);
    }
}

/// v1beta1 states an exact request flat; later versions under `exactly`.
fn nest_request(request: &mut Map<String, Value>) {
    let mut exactly = Map::new();
    for key in ["deviceClassName", "selectors", "allocationMode", "count", "adminAccess", "tolerations", "capacity"] {
        if let Some(value) = request.remove(key) {
            exactly.insert(key.to_owned(), value);
        }
    }
    if !exactly.is_empty() {
        request.insert("exactly".to_owned(), exactly.into());
    }
}

fn flatten_request(request: &mut Map<String, Value>) {
    if let Some(Value::Object(exactly)) = request.remove("exactly") {
        request.extend(exactly);
    }
}

fn slice(object: &mut Map<String, Value>, turn: fn(&mut Map<String, Value>)) {
    let devices = child(object, "spec").and_then(|s| s.get_mut("devices"));
    for device in devices.and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(device) = device.as_object_mut() {
            turn(device);
        }
    }
}

fn flatten_device(device: &mut Map<String, Value>) {
    if let Some(Value::Object(basic)) = device.remove("basic") {
        device.extend(basic);
    }
}

fn nest_device(device: &mut Map<String, Value>) {
    let name = device.remove("name");
    let basic = std::mem::take(device);
    device.extend(name.map(|n| ("name".to_owned(), n)));
    device.insert("basic".to_owned(), basic.into());
}
