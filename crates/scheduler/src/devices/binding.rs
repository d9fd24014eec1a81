//! Conditions of devices that must be met before their pod is bound (KEP-5007), as the drivers tell of them in `status.devices`.

use jiff::Timestamp;
use k8s_openapi::api::resource::v1 as resource;

/// How far the devices of a claim are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Readiness {
    /// None of them has conditions.
    #[default]
    Unasked,
    /// All conditions are met.
    Ready,
    /// Not yet.
    Waiting,
    /// They will not be met: why.
    Failed(String),
}

/// How far a claim is, and when it was given its devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Binding {
    /// How far.
    pub readiness: Readiness,
    /// Since when it has its devices, if that is known.
    pub since: Option<Timestamp>,
}

impl Binding {
    /// Reads the status of the claim of a name.
    pub fn new(name: &str, status: &resource::ResourceClaimStatus) -> Self {
        let Some(allocation) = &status.allocation else { return Self::default() };
        let results = allocation.devices.iter().flat_map(|d| d.results.iter().flatten());
        let mut readiness = Readiness::Unasked;
        for result in results.filter(|r| r.binding_conditions.as_ref().is_some_and(|c| !c.is_empty())) {
            readiness = match of_device(name, result, status) {
                failed @ Readiness::Failed(_) => {
                    readiness = failed;
                    break;
                }
                Readiness::Waiting => Readiness::Waiting,
                ready if readiness == Readiness::Unasked => ready,
                _ => readiness,
            };
        }
        Self { readiness, since: allocation.allocation_timestamp.as_ref().map(|t| t.0) }
    }
}

fn of_device(
    claim: &str,
    result: &resource::DeviceRequestAllocationResult,
    status: &resource::ResourceClaimStatus,
) -> Readiness {
    let same = |d: &&resource::AllocatedDeviceStatus| {
        (&d.driver, &d.pool, &d.device) == (&result.driver, &result.pool, &result.device)
    };
    let told = status.devices.iter().flatten().find(same);
    let Some(told) = told else { return Readiness::Waiting };
    let holds =
        |name: &String| told.conditions.iter().flatten().find(|c| c.type_ == *name).filter(|c| c.status == "True");
    if let Some(failed) = result.binding_failure_conditions.iter().flatten().find_map(holds) {
        let (reason, message) = (&failed.reason, &failed.message);
        return Readiness::Failed(format!("claim {claim} binding failed: reason={reason}, message={message:?}"));
    }
    let met = result.binding_conditions.iter().flatten().all(|name| holds(name).is_some());
    if met { Readiness::Ready } else { Readiness::Waiting }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn how_far_devices_are() {
        let result = |device: &str| {
            json!({"request": "r", "driver": "d", "pool": "p", "device": device,
            "bindingConditions": ["attached", "ready"], "bindingFailureConditions": ["broken"]})
        };
        let told = |device: &str, conditions: &[(&str, &str)]| {
            let conditions: Vec<Value> = conditions
                .iter()
                .map(|(name, status)| {
                    json!({"type": name, "status": status, "reason": "Why", "message": "so",
                    "lastTransitionTime": "2026-01-01T00:00:00Z"})
                })
                .collect();
            json!({"driver": "d", "pool": "p", "device": device, "conditions": conditions})
        };
        let plain = json!({"request": "r", "driver": "d", "pool": "p", "device": "x"});
        let met = &[("attached", "True"), ("ready", "True")];
        let failed = Readiness::Failed("claim c binding failed: reason=Why, message=\"so\"".into());
        for (name, results, devices, want) in [
            ("without conditions", json!([plain]), json!([]), Readiness::Unasked),
            ("nothing told", json!([result("x")]), json!([]), Readiness::Waiting),
            ("another device's", json!([result("x")]), json!([told("y", met)]), Readiness::Waiting),
            (
                "half",
                json!([result("x")]),
                json!([told("x", &[("attached", "True"), ("ready", "False")])]),
                Readiness::Waiting,
            ),
            ("all", json!([result("x")]), json!([told("x", met)]), Readiness::Ready),
            ("all, beside one without", json!([plain, result("x")]), json!([told("x", met)]), Readiness::Ready),
            ("one of two", json!([result("x"), result("y")]), json!([told("x", met)]), Readiness::Waiting),
            ("the other of two", json!([result("x"), result("y")]), json!([told("y", met)]), Readiness::Waiting),
            ("no failure", json!([result("x")]), json!([told("x", &[("broken", "False")])]), Readiness::Waiting),
            (
                "a failure",
                json!([result("x")]),
                json!([told("x", &[("attached", "True"), ("ready", "True"), ("broken", "True")])]),
                failed.clone(),
            ),
            (
                "a failure beside one that waits",
                json!([result("y"), result("x")]),
                json!([told("x", &[("broken", "True")])]),
                failed,
            ),
        ] {
            let status = serde_json::from_value(json!({"allocation": {"devices": {"results": results},
                "allocationTimestamp": "2026-01-01T00:00:00Z"}, "devices": devices}))
            .unwrap();
            let got = Binding::new("c", &status);
            assert_eq!(got.readiness, want, "{name}");
            assert!(got.since.is_some());
        }
        assert_eq!(Binding::new("c", &resource::ResourceClaimStatus::default()), Binding::default());
    }
}
