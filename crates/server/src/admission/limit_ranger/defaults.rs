//! Defaults for containers.

use super::{items, type_of};
use caravel_api::meta;
use serde_json::{Map, Value, json};

/// Tells users what was filled in.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";

/// Fills in what the containers of `pod` do not say.
pub fn fill(pod: &mut Value, range: &Value) {
    let default = |field: &str| -> Map<String, Value> {
        let containers = items(range).filter(|item| type_of(item) == "Container");
        containers.filter_map(|item| item.get(field)?.as_object().cloned()).flatten().collect()
    };
    let (limits, requests) = (default("default"), default("defaultRequest"));
    let mut told = vec![];
    for (list, prefix) in [("initContainers", "init container"), ("containers", "container")] {
        let Some(containers) = pod.pointer_mut(&format!("/spec/{list}")).and_then(Value::as_array_mut) else {
            continue;
        };
        for container in containers {
            let name = meta_name(container);
            for (kind, what, defaults) in [("requests", "request", &requests), ("limits", "limit", &limits)] {
                let set = add(container, kind, defaults);
                if !set.is_empty() {
                    told.push(format!("{} {what} for {prefix} {name}", set.join(", ")));
                }
            }
        }
    }
    if told.is_empty() {
        return;
    }
    let text = format!("LimitRanger plugin set: {}", told.join("; "));
    let annotations = meta::map_mut(meta::metadata_mut(pod), "annotations");
    let all = match annotations.get(ANNOTATION).and_then(Value::as_str) {
        Some(before) if before.starts_with("LimitRanger plugin set: ") => format!("{before}; {}", told.join("; ")),
        _ => text,
    };
    annotations.insert(ANNOTATION.into(), json!(all));
}

fn meta_name(container: &Value) -> String {
    container.get("name").and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Adds the defaults that are missing; their names, sorted.
fn add(container: &mut Value, kind: &str, defaults: &Map<String, Value>) -> Vec<String> {
    let mut set = vec![];
    for (name, amount) in defaults {
        if container.pointer(&format!("/resources/{kind}")).is_some_and(|all| all.get(name).is_some()) {
            continue;
        }
        let Some(container) = container.as_object_mut() else { break };
        let resources = meta::map_mut(container, "resources");
        meta::map_mut(resources, kind).insert(name.clone(), amount.clone());
        set.push(name.clone());
    }
    set.sort_unstable();
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_stays() {
        let range = json!({"spec": {"limits": [{"type": "Container",
            "default": {"cpu": "500m", "memory": "1Gi"}, "defaultRequest": {"cpu": "100m"}}, {"type": "Pod", "max": {"cpu": "9"}}]}});
        let mut pod = json!({"metadata": {}, "spec": {"containers": [
            {"name": "a"}, {"name": "b", "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "3", "memory": "1"}}}]}});
        fill(&mut pod, &range);
        assert_eq!(
            pod["spec"]["containers"][0]["resources"],
            json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "500m", "memory": "1Gi"}})
        );
        assert_eq!(pod["spec"]["containers"][1]["resources"]["limits"], json!({"cpu": "3", "memory": "1"}));
        assert_eq!(
            pod["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: cpu request for container a; cpu, memory limit for container a"
        );
    }
}
