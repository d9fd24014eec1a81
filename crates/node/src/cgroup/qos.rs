//! Quality of service classes.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};

use crate::quantity;

/// A class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qos {
    /// Every container has limits of CPU and memory and requests all of them.
    Guaranteed,
    /// Something is requested or limited.
    Burstable,
    /// Nothing is.
    BestEffort,
}

impl Qos {
    /// The API's name.
    pub fn name(self) -> &'static str {
        match self {
            Qos::Guaranteed => "Guaranteed",
            Qos::Burstable => "Burstable",
            Qos::BestEffort => "BestEffort",
        }
    }

    /// The directory of the class below the root; empty for `Guaranteed`.
    pub fn dir(self) -> &'static str {
        match self {
            Qos::Guaranteed => "",
            Qos::Burstable => "burstable",
            Qos::BestEffort => "besteffort",
        }
    }
}

/// The class of a Pod: what the API recorded when it was made, else what follows from its spec.
pub fn class(pod: &Pod) -> Qos {
    match pod.status.as_ref().and_then(|s| s.qos_class.as_deref()) {
        Some("Guaranteed") => Qos::Guaranteed,
        Some("Burstable") => Qos::Burstable,
        Some("BestEffort") => Qos::BestEffort,
        _ => pod.spec.as_ref().map_or(Qos::BestEffort, of),
    }
}

/// The class that follows from a spec.
pub fn of(spec: &PodSpec) -> Qos {
    if let Some(r) = spec.resources.as_ref().filter(|r| touches(r)) {
        return if guaranteed(r) { Qos::Guaranteed } else { Qos::Burstable };
    }
    let all = || spec.init_containers.iter().flatten().chain(&spec.containers);
    let touched = |c: &Container| c.resources.as_ref().is_some_and(touches);
    if !all().any(touched) {
        return Qos::BestEffort;
    }
    if all().all(|c| c.resources.as_ref().is_some_and(guaranteed)) { Qos::Guaranteed } else { Qos::Burstable }
}

fn touches(r: &ResourceRequirements) -> bool {
    ["cpu", "memory"]
        .iter()
        .any(|n| quantity::milli_of(r.requests.as_ref(), n) > 0 || quantity::milli_of(r.limits.as_ref(), n) > 0)
}

fn guaranteed(r: &ResourceRequirements) -> bool {
    ["cpu", "memory"].iter().all(|n| {
        let limit = quantity::milli_of(r.limits.as_ref(), n);
        let request = r.requests.as_ref().and_then(|l| l.get(*n)).map_or(limit, quantity::milli);
        limit > 0 && request == limit
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn classes() {
        for (resources, want) in [
            (json!({}), Qos::BestEffort),
            (json!({"requests": {"cpu": "1"}}), Qos::Burstable),
            (json!({"limits": {"cpu": "1"}}), Qos::Burstable),
            (json!({"limits": {"cpu": "1", "memory": "1Gi"}}), Qos::Guaranteed),
            (
                json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "1Gi"}}),
                Qos::Burstable,
            ),
            (
                json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}}),
                Qos::Guaranteed,
            ),
        ] {
            let spec: PodSpec =
                serde_json::from_value(json!({"containers": [{"name": "a", "resources": resources}]})).unwrap();
            assert_eq!(of(&spec), want, "{resources}");
        }
    }
}
