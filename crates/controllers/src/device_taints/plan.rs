//! When a pod has to give up its devices. Pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{
    DeviceRequestAllocationResult, DeviceTaint, DeviceToleration, ResourceClaim, ResourceSlice,
};

use crate::common::*;

/// What to do about one pod.
#[derive(Debug, PartialEq, Eq)]
pub enum Plan {
    /// It may stay.
    Stay,
    /// It has to go from then on.
    At(Timestamp),
}

/// A claim of a pod, and whether it must have been made for that pod.
pub type Held<'a> = (&'a ResourceClaim, bool);

/// Whether a toleration covers a taint. Only those for NoExecute say anything about eviction.
fn tolerates(t: &DeviceToleration, taint: &DeviceTaint) -> bool {
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    let key = text(&t.key);
    text(&t.effect) == "NoExecute"
        && (key.is_empty() || key == taint.key)
        && match t.operator.as_deref() {
            None | Some("" | "Equal") => text(&t.value) == text(&taint.value),
            Some("Exists") => true,
            Some(_) => false,
        }
}

/// When a taint drives out who has the device with these tolerations; `None` for never.
fn driven_out(tolerations: &[DeviceToleration], taint: &DeviceTaint) -> Option<Timestamp> {
    // The server completes taints without a time.
    let since = taint.time_added.as_ref().map_or(Timestamp::MIN, |t| t.0);
    let mut least: Option<i64> = None;
    for toleration in tolerations.iter().filter(|t| tolerates(t, taint)) {
        let seconds = toleration.toleration_seconds?.max(0);
        least = Some(least.map_or(seconds, |l| l.min(seconds)));
    }
    Some(least.map_or(since, |seconds| plus(since, seconds)))
}

/// The NoExecute taints of a device, as the slices of its pool say: of these only the newest generation counts.
pub fn taints(slices: &[impl AsRef<ResourceSlice>], device: &str) -> Vec<DeviceTaint> {
    let slices = || slices.iter().map(AsRef::as_ref);
    let newest = slices().map(|s| s.spec.pool.generation).max();
    let current = slices().filter(|s| Some(s.spec.pool.generation) == newest);
    let found = current.flat_map(|s| s.spec.devices.iter().flatten()).find(|d| d.name == device);
    let all = found.into_iter().flat_map(|d| d.taints.iter().flatten());
    all.filter(|t| t.effect == "NoExecute").cloned().collect()
}

/// Decides about a pod. `taints` gives the NoExecute taints of a device that it has.
pub fn plan(
    pod: &Pod,
    claims: &[Held<'_>],
    taints: impl Fn(&DeviceRequestAllocationResult) -> Vec<DeviceTaint>,
) -> Plan {
    if deleting(pod) || pod::finished(pod) || pod::node_name(pod).is_empty() {
        return Plan::Stay;
    }
    let is_its = |(claim, generated): &&Held<'_>| {
        let mut users = claim.status.iter().flat_map(|s| s.reserved_for.iter().flatten());
        users.any(|u| u.uid == uid(pod)) && (!generated || controlled_by(*claim, uid(pod)))
    };
    let results = claims.iter().filter(is_its).filter_map(|(claim, _)| claim.status.as_ref()?.allocation.as_ref());
    let results = results.filter_map(|a| a.devices.as_ref()).flat_map(|d| d.results.iter().flatten());
    let times = results.flat_map(|result| {
        let tolerations = result.tolerations.clone().unwrap_or_default();
        taints(result).into_iter().filter_map(move |taint| driven_out(&tolerations, &taint))
    });
    times.min().map_or(Plan::Stay, Plan::At)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::common::pod::testing::{at, pod};
    use serde_json::{Value, json};
    use std::sync::Arc;

    fn claim(tolerations: Value, user: &str, owner: &str) -> ResourceClaim {
        serde_json::from_value(json!({"metadata": {"name": "c", "uid": "c", "ownerReferences": [
            {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": owner, "controller": true}]}, "spec": {},
            "status": {"allocation": {"devices": {"results": [{"request": "r", "driver": "d", "pool": "p", "device": "x",
                "tolerations": tolerations}]}}, "reservedFor": [{"resource": "pods", "name": "p", "uid": user}]}}))
        .unwrap()
    }

    fn taint(key: &str, second: i64) -> DeviceTaint {
        serde_json::from_value(
            json!({"key": key, "value": "v", "effect": "NoExecute", "timeAdded": at(second).to_string()}),
        )
        .unwrap()
    }

    #[test]
    fn who_has_to_go_when() {
        let p = pod("p", "n", "Running", None, 0);
        let mine = uid(&p).to_owned();
        let forever = json!({"key": "k", "operator": "Exists", "effect": "NoExecute"});
        let seconds = |n: i64| json!({"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": n});
        let one = vec![taint("k", 100)];
        let cases = [
            ("no taint", json!([]), vec![], Plan::Stay),
            ("not tolerated", json!([]), one.clone(), Plan::At(at(100))),
            ("the earliest", json!([]), vec![taint("k", 100), taint("l", 50)], Plan::At(at(50))),
            ("tolerated", json!([forever]), one.clone(), Plan::Stay),
            ("tolerated for a time", json!([seconds(30)]), one.clone(), Plan::At(at(130))),
            ("the shortest of these", json!([seconds(30), seconds(10)]), one.clone(), Plan::At(at(110))),
            ("one of them forever", json!([seconds(30), forever]), one.clone(), Plan::Stay),
            ("not at all", json!([seconds(-5)]), one.clone(), Plan::At(at(100))),
            ("another one, too", json!([forever]), vec![taint("k", 100), taint("l", 150)], Plan::At(at(150))),
            ("all of them", json!([{"operator": "Exists", "effect": "NoExecute"}]), one.clone(), Plan::Stay),
            ("of this value", json!([{"key": "k", "value": "v", "effect": "NoExecute"}]), one.clone(), Plan::Stay),
            (
                "of another value",
                json!([{"key": "k", "value": "w", "effect": "NoExecute"}]),
                one.clone(),
                Plan::At(at(100)),
            ),
            (
                "for scheduling only",
                json!([{"operator": "Exists", "effect": "NoSchedule"}]),
                one.clone(),
                Plan::At(at(100)),
            ),
        ];
        for (name, tolerations, taints, want) in cases {
            let claim = claim(tolerations, &mine, &mine);
            assert_eq!(plan(&p, &[(&claim, true)], |_| taints.clone()), want, "{name}");
        }
    }

    #[test]
    fn only_who_has_the_device() {
        let p = pod("p", "n", "Running", None, 0);
        let mine = uid(&p).to_owned();
        let all = |_: &DeviceRequestAllocationResult| vec![taint("k", 100)];
        let go = Plan::At(at(100));
        assert_eq!(plan(&p, &[(&claim(json!([]), &mine, "other"), false)], all), go);
        assert_eq!(plan(&p, &[(&claim(json!([]), &mine, "other"), true)], all), Plan::Stay, "made for another");
        assert_eq!(plan(&p, &[(&claim(json!([]), "other", &mine), true)], all), Plan::Stay, "not reserved for it");
        let waiting = pod("p", "", "Pending", None, 0);
        assert_eq!(plan(&waiting, &[(&claim(json!([]), uid(&waiting), "o"), false)], all), Plan::Stay, "on no node");
        let ended = pod("p", "n", "Succeeded", None, 0);
        assert_eq!(plan(&ended, &[(&claim(json!([]), uid(&ended), "o"), false)], all), Plan::Stay);
    }

    #[test]
    fn the_newest_generation_counts() {
        let slice = |generation: i64, device: &str, effect: &str| -> Arc<ResourceSlice> {
            Arc::new(
                serde_json::from_value(json!({"metadata": {"name": "s"}, "spec": {"driver": "d", "nodeName": "n",
                    "pool": {"name": "p", "generation": generation, "resourceSliceCount": 1},
                    "devices": [{"name": device, "taints": [{"key": "k", "effect": effect}]}]}}))
                .unwrap(),
            )
        };
        let count = |slices: &[Arc<ResourceSlice>]| taints(slices, "x").len();
        assert_eq!(count(&[slice(1, "x", "NoExecute")]), 1);
        assert_eq!(count(&[slice(1, "x", "NoSchedule")]), 0);
        assert_eq!(count(&[slice(1, "y", "NoExecute")]), 0);
        assert_eq!(count(&[slice(1, "x", "NoExecute"), slice(2, "x", "None")]), 0);
        assert_eq!(count(&[slice(1, "x", "None"), slice(2, "x", "NoExecute")]), 1);
    }
}
