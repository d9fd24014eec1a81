//! From the API's requests and limits to the kernel's figures.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};

use super::qos::{self, Qos};
use crate::pod::spec as pod_spec;
use crate::quantity;

/// The period of CPU quotas, µs.
pub const CPU_PERIOD: i64 = 100_000;
const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;
const MIN_QUOTA: i64 = 1_000;

/// What a cgroup is limited to. `None` means no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// CPU weight in the scale of cgroup v1.
    pub cpu_shares: i64,
    /// CPU time in a period, µs.
    pub cpu_quota: Option<i64>,
    /// Bytes.
    pub memory: Option<i64>,
}

/// CPU shares of a request in thousandths.
pub fn shares(milli: i64) -> i64 {
    (milli.saturating_mul(1024) / 1000).clamp(MIN_SHARES, MAX_SHARES)
}

/// The quota of a limit in thousandths; `None` for none.
pub fn quota(milli: i64) -> Option<i64> {
    (milli > 0).then(|| (milli.saturating_mul(CPU_PERIOD) / 1000).max(MIN_QUOTA))
}

/// cgroup v2's weight (1 to 10000) for v1's shares (2 to 262144).
pub fn weight(shares: i64) -> i64 {
    1 + ((shares.clamp(MIN_SHARES, MAX_SHARES) - MIN_SHARES) * 9999) / (MAX_SHARES - MIN_SHARES)
}

/// What one container gets.
pub fn of_container(c: &Container) -> Limits {
    of_requirements(c.resources.as_ref())
}

fn of_requirements(r: Option<&ResourceRequirements>) -> Limits {
    let limits = r.and_then(|r| r.limits.as_ref());
    let requests = r.and_then(|r| r.requests.as_ref());
    let cpu_limit = quantity::milli_of(limits, "cpu");
    let request = requests.and_then(|l| l.get("cpu")).map_or(cpu_limit, quantity::milli);
    let memory = quantity::value_of(limits, "memory");
    Limits { cpu_shares: shares(request), cpu_quota: quota(cpu_limit), memory: (memory > 0).then_some(memory) }
}

/// What a resource of a Pod comes to: its regular containers and sidecars together, or, if more, what an init
/// container needs with the sidecars started before it; and the overhead (KEP-753).
pub fn pod_total(spec: &PodSpec, of: impl Fn(&Container) -> i64, overhead: i64) -> i64 {
    let mut sidecars = 0;
    let mut init_peak = 0;
    for c in spec.init_containers.iter().flatten() {
        if pod_spec::is_sidecar(c) {
            sidecars += of(c);
            init_peak = init_peak.max(sidecars);
        } else {
            init_peak = init_peak.max(sidecars + of(c));
        }
    }
    let regular: i64 = spec.containers.iter().map(&of).sum();
    (regular + sidecars).max(init_peak) + overhead
}

/// A resource as requested by the whole Pod: CPU in thousandths, everything else in whole units.
pub fn pod_request(spec: &PodSpec, resource: &str) -> i64 {
    let get = |r: Option<&quantity::Resources>| {
        if resource == "cpu" { quantity::milli_of(r, resource) } else { quantity::value_of(r, resource) }
    };
    let overhead = get(spec.overhead.as_ref());
    if let Some(whole) = spec.resources.as_ref().and_then(|r| r.requests.as_ref()).filter(|r| r.contains_key(resource))
    {
        return get(Some(whole)) + overhead;
    }
    pod_total(spec, |c| get(c.resources.as_ref().and_then(|r| r.requests.as_ref())), overhead)
}

/// What the Pod's own cgroup gets: limits only where every container has one.
pub fn of_pod(spec: &PodSpec) -> Limits {
    let limit = |name: &'static str| -> Option<i64> {
        let get = |r: Option<&quantity::Resources>| {
            if name == "cpu" { quantity::milli_of(r, name) } else { quantity::value_of(r, name) }
        };
        let overhead = get(spec.overhead.as_ref());
        if let Some(whole) = spec.resources.as_ref().and_then(|r| r.limits.as_ref()).filter(|r| r.contains_key(name)) {
            return Some(get(Some(whole)) + overhead);
        }
        let of = |c: &Container| get(c.resources.as_ref().and_then(|r| r.limits.as_ref()));
        let lasting = spec.init_containers.iter().flatten().filter(|c| pod_spec::is_sidecar(c)).chain(&spec.containers);
        let all = lasting.into_iter().all(|c| of(c) > 0);
        all.then(|| pod_total(spec, of, overhead))
    };
    if qos::of(spec) == Qos::BestEffort {
        return Limits { cpu_shares: MIN_SHARES, ..Default::default() };
    }
    Limits {
        cpu_shares: shares(pod_request(spec, "cpu")),
        cpu_quota: limit("cpu").and_then(quota),
        memory: limit("memory").filter(|m| *m > 0),
    }
}

/// How early the kernel's out-of-memory killer comes for a container.
pub fn oom_score_adj(pod: &Pod, c: &Container, memory_capacity: i64) -> i64 {
    if pod.spec.as_ref().and_then(|s| s.priority).is_some_and(|p| p >= 2_000_000_000) {
        return -997;
    }
    match qos::class(pod) {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let request = quantity::value_of(c.resources.as_ref().and_then(|r| r.requests.as_ref()), "memory");
            let adj = 1000 - 1000_i64.saturating_mul(request) / memory_capacity.max(1);
            adj.clamp(3, 999)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn spec(v: serde_json::Value) -> PodSpec {
        serde_json::from_value(v).unwrap()
    }

    #[test]
    fn kernel_figures() {
        assert_eq!((shares(0), shares(100), shares(1000)), (2, 102, 1024));
        assert_eq!((quota(0), quota(5), quota(500)), (None, Some(1000), Some(50_000)));
        assert_eq!((weight(2), weight(1024), weight(262_144)), (1, 39, 10_000));
    }

    #[test]
    fn pods_are_limited_only_if_all_containers_are() {
        let both = spec(json!({"containers": [
            {"name": "a", "resources": {"limits": {"cpu": "1", "memory": "1Mi"}, "requests": {"cpu": "500m"}}},
            {"name": "b", "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "500m"}}}]}));
        assert_eq!(of_pod(&both), Limits { cpu_shares: 1024, cpu_quota: Some(200_000), memory: None });
        assert_eq!(of_pod(&spec(json!({"containers": [{"name": "a"}]}))).cpu_shares, 2);
    }

    #[test]
    fn sidecars_add_to_what_starts_after_them() {
        let s = spec(json!({
            "initContainers": [
                {"name": "i", "resources": {"requests": {"cpu": "1"}}},
                {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "200m"}}},
                {"name": "j", "resources": {"requests": {"cpu": "2"}}}],
            "containers": [{"name": "a", "resources": {"requests": {"cpu": "500m"}}}]}));
        assert_eq!(pod_request(&s, "cpu"), 2200);
    }
}
