//! Bounds: minimum, maximum, and the ratio of limit to request.

use super::{items, type_of};
use caravel_api::quantity::Quantity;
use caravel_api::quota::{Usage, amounts, pod_total};
use serde_json::Value;

/// What of a Pod is outside of a LimitRange's bounds.
pub fn pod(pod: &Value, range: &Value) -> Vec<String> {
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    let mut broken = vec![];
    for item in items(range) {
        match type_of(item) {
            "Container" => {
                for list in ["containers", "initContainers"] {
                    for container in spec.get(list).and_then(Value::as_array).into_iter().flatten() {
                        let of = |kind: &str| amounts(container.pointer(&format!("/resources/{kind}")));
                        check(&mut broken, item, &of("requests"), &of("limits"));
                    }
                }
            }
            "Pod" => check(&mut broken, item, &pod_total(spec, "requests"), &pod_total(spec, "limits")),
            _ => {}
        }
    }
    broken
}

/// What of a claim is outside of a LimitRange's bounds.
pub fn claim(claim: &Value, range: &Value) -> Vec<String> {
    let requests = amounts(claim.pointer("/spec/resources/requests"));
    let mut broken = vec![];
    for item in items(range).filter(|item| type_of(item) == "PersistentVolumeClaim") {
        for (name, least) in amounts(item.get("min")) {
            broken.extend(minimum("PersistentVolumeClaim", &name, least, requests.get(&name), None));
        }
        for (name, most) in amounts(item.get("max")) {
            let head = format!("maximum {name} usage per PersistentVolumeClaim is {most}");
            match requests.get(&name) {
                None => broken.push(format!("{head}.  No request is specified")),
                Some(asked) if *asked > most => broken.push(format!("{head}, but request is {asked}")),
                Some(_) => {}
            }
        }
    }
    broken
}

fn check(broken: &mut Vec<String>, item: &Value, requests: &Usage, limits: &Usage) {
    let type_ = type_of(item);
    for (name, least) in amounts(item.get("min")) {
        broken.extend(minimum(type_, &name, least, requests.get(&name), limits.get(&name)));
    }
    for (name, most) in amounts(item.get("max")) {
        broken.extend(maximum(type_, &name, most, requests.get(&name), limits.get(&name)));
    }
    for (name, most) in amounts(item.get("maxLimitRequestRatio")) {
        broken.extend(ratio(type_, &name, most, requests.get(&name), limits.get(&name)));
    }
}

fn minimum(
    type_: &str,
    name: &str,
    least: Quantity,
    request: Option<&Quantity>,
    limit: Option<&Quantity>,
) -> Option<String> {
    let head = format!("minimum {name} usage per {type_} is {least}");
    match (request, limit) {
        (None, _) => Some(format!("{head}.  No request is specified")),
        (Some(asked), _) if *asked < least => Some(format!("{head}, but request is {asked}")),
        (_, Some(limit)) if *limit < least => Some(format!("{head}, but limit is {limit}")),
        _ => None,
    }
}

fn maximum(
    type_: &str,
    name: &str,
    most: Quantity,
    request: Option<&Quantity>,
    limit: Option<&Quantity>,
) -> Option<String> {
    let head = format!("maximum {name} usage per {type_} is {most}");
    match (limit, request) {
        (None, _) => Some(format!("{head}.  No limit is specified")),
        (Some(limit), _) if *limit > most => Some(format!("{head}, but limit is {limit}")),
        (_, Some(asked)) if *asked > most => Some(format!("{head}, but request is {asked}")),
        _ => None,
    }
}

fn ratio(
    type_: &str,
    name: &str,
    most: Quantity,
    request: Option<&Quantity>,
    limit: Option<&Quantity>,
) -> Option<String> {
    let head = format!("{name} max limit to request ratio per {type_} is {most}");
    let Some(request) = request.filter(|r| !r.is_zero()) else {
        return Some(format!("{head}, but no request is specified or request is 0"));
    };
    let Some(limit) = limit.filter(|l| !l.is_zero()) else {
        return Some(format!("{head}, but no limit is specified or limit is 0"));
    };
    let observed = limit.to_f64() / request.to_f64();
    (observed > most.to_f64()).then(|| format!("{head}, but provided ratio is {observed:.6}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn range(item: Value) -> Value {
        json!({"spec": {"limits": [item]}})
    }

    fn one(requests: Value, limits: Value) -> Value {
        json!({"spec": {"containers": [{"resources": {"requests": requests, "limits": limits}}]}})
    }

    #[test]
    fn pods_and_their_containers() {
        let bounds = range(
            json!({"type": "Container", "min": {"cpu": "50m"}, "max": {"memory": "1Gi"}, "maxLimitRequestRatio": {"cpu": "2"}}),
        );
        for (pod_, said) in [
            (one(json!({"cpu": "100m", "memory": "1Gi"}), json!({"cpu": "200m", "memory": "1Gi"})), vec![]),
            (
                one(json!({"cpu": "10m"}), json!({"cpu": "20m", "memory": "1"})),
                vec!["minimum cpu usage per Container is 50m, but request is 10m"],
            ),
            (
                one(json!({"cpu": "100m"}), json!({"cpu": "300m", "memory": "2Gi"})),
                vec![
                    "maximum memory usage per Container is 1Gi, but limit is 2Gi",
                    "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000",
                ],
            ),
            (
                one(json!({}), json!({})),
                vec![
                    "minimum cpu usage per Container is 50m.  No request is specified",
                    "maximum memory usage per Container is 1Gi.  No limit is specified",
                    "cpu max limit to request ratio per Container is 2, but no request is specified or request is 0",
                ],
            ),
        ] {
            assert_eq!(pod(&pod_, &bounds), said, "{pod_}");
        }
        let whole = range(json!({"type": "Pod", "max": {"cpu": "1"}}));
        let two = json!({"spec": {"containers": [
            {"resources": {"limits": {"cpu": "600m"}}}, {"resources": {"limits": {"cpu": "600m"}}}]}});
        assert_eq!(pod(&two, &whole), ["maximum cpu usage per Pod is 1, but limit is 1200m"]);
    }

    #[test]
    fn claims() {
        let bounds =
            range(json!({"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}, "max": {"storage": "2Gi"}}));
        let of = |size: &str| claim(&json!({"spec": {"resources": {"requests": {"storage": size}}}}), &bounds);
        assert!(of("1Gi").is_empty() && of("2Gi").is_empty());
        assert_eq!(of("3Gi"), ["maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi"]);
        assert_eq!(of("1Mi"), ["minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 1Mi"]);
    }
}
