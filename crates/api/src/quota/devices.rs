//! What a ResourceClaim uses: so many devices of each class, at worst.

use super::{Usage, pieces};
use serde_json::Value;
use std::collections::BTreeMap;

/// Behind the name of a class: how many devices of it claims may ask for.
const PER_CLASS: &str = ".deviceclass.resource.k8s.io/devices";
/// Before the name of a class: the same as an extended resource (KEP-5004).
const IMPLICIT: &str = "requests.deviceclass.resource.kubernetes.io/";
/// Most devices of one claim (`AllocationResultsMaxSize`).
const MOST: i64 = 32;
/// Says of a claim that it was made for the extended resources of a Pod, which is charged for them itself.
const EXTENDED: &str = "/metadata/annotations/resource.kubernetes.io~1extended-resource-claim";

fn list<'a>(holder: &'a Value, field: &str) -> &'a [Value] {
    holder.get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The class and the number of devices of a request, or of one alternative.
fn devices(request: &Value) -> Option<(&str, i64)> {
    let class = request.get("deviceClassName").and_then(Value::as_str).filter(|c| !c.is_empty())?;
    let count = match request.get("allocationMode").and_then(Value::as_str) {
        Some("All") => MOST,
        None | Some("ExactCount" | "") => request.get("count").and_then(Value::as_i64).unwrap_or(1),
        // Of modes that are not known here nobody knows how many they mean.
        Some(_) => 0,
    };
    Some((class, count))
}

pub(super) fn usage(used: &mut Usage, claim: &Value) {
    let requests = claim.pointer("/spec/devices").map(|d| list(d, "requests")).unwrap_or_default();
    let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
    for request in requests {
        // Version v1beta1 has no `exactly` between.
        let exactly = request.get("exactly").unwrap_or(request);
        let mut most: BTreeMap<&str, i64> = devices(exactly).into_iter().collect();
        for (class, count) in list(request, "firstAvailable").iter().filter_map(devices) {
            let known = most.entry(class).or_default();
            *known = count.max(*known);
        }
        for (class, count) in most {
            let sum = counts.entry(class).or_default();
            *sum = sum.saturating_add(count);
        }
    }
    let charged_with_its_pod = claim.pointer(EXTENDED).and_then(Value::as_str) == Some("true");
    for (class, count) in counts {
        used.insert(format!("{class}{PER_CLASS}"), pieces(count));
        if !charged_with_its_pod {
            used.insert(format!("{IMPLICIT}{class}"), pieces(count));
        }
    }
}

pub(super) fn is_about(name: &str) -> bool {
    name.ends_with(PER_CLASS) || name.starts_with(IMPLICIT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(requests: Value, annotations: Value) -> Vec<String> {
        let mut used = Usage::new();
        usage(
            &mut used,
            &json!({"metadata": {"annotations": annotations}, "spec": {"devices": {"requests": requests}}}),
        );
        used.iter().map(|(name, amount)| format!("{name}={amount}")).collect()
    }

    #[test]
    fn devices_of_each_class_at_worst() {
        let gpu = |count: i64| json!({"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": count});
        let all = json!({"deviceClassName": "gpu", "allocationMode": "All"});
        for (name, requests, want) in [
            ("none", json!([]), None),
            ("one", json!([{"exactly": gpu(1)}]), Some(1)),
            ("of the first version", json!([gpu(2)]), Some(2)),
            ("together", json!([{"exactly": gpu(2)}, {"exactly": gpu(3)}]), Some(5)),
            ("all of them", json!([{"exactly": all}]), Some(32)),
            ("the largest alternative", json!([{"firstAvailable": [gpu(4), gpu(1)]}, {"exactly": gpu(1)}]), Some(5)),
        ] {
            let both = want
                .map(|n| vec![format!("gpu.deviceclass.resource.k8s.io/devices={n}"), format!("{IMPLICIT}gpu={n}")]);
            assert_eq!(of(requests, json!({})), both.unwrap_or_default(), "{name}");
        }
        let special = json!({"resource.kubernetes.io/extended-resource-claim": "true"});
        assert_eq!(of(json!([{"exactly": gpu(1)}]), special), ["gpu.deviceclass.resource.k8s.io/devices=1"]);
    }
}
