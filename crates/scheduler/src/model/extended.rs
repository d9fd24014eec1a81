//! What the containers of a pod ask for in extended resources: devices of a class may stand in for those (KEP-5004).

use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;

use super::{Resources, quantity_value};

/// What an extended resource is called that means the devices of a class: this and the name of the class.
pub const CLASS_PREFIX: &str = "deviceclass.resource.kubernetes.io/";

/// Whether devices may stand in for a resource: it is in a domain of its own, or means a class.
pub fn may_be_devices(name: &str) -> bool {
    let foreign = name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.");
    foreign || name.starts_with(CLASS_PREFIX)
}

/// What one container asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asks {
    /// Its name.
    pub container: Arc<str>,
    /// Its number: init containers come first, then the others.
    pub number: usize,
    /// It ends before the containers after it start: an init container that is no sidecar.
    pub passes: bool,
    /// Resource, amount, and the resource's place among all that the container requests, in the order of names.
    pub resources: Vec<(Arc<str>, i64, usize)>,
}

/// What all containers ask for; empty when `requests`, the sum, has nothing that may be devices.
pub fn asks(spec: &core::PodSpec, requests: &Resources) -> Box<[Asks]> {
    if !requests.scalar.iter().any(|(name, amount)| *amount > 0 && may_be_devices(name)) {
        return Box::default();
    }
    let init = spec.init_containers.iter().flatten().map(|c| (c, c.restart_policy.as_deref() != Some("Always")));
    let all = init.chain(spec.containers.iter().map(|c| (c, false))).enumerate();
    let asks = all.map(|(number, (container, passes))| {
        let requests = container.resources.iter().flat_map(|r| r.requests.iter().flatten()).enumerate();
        let asked = requests.map(|(place, (name, amount))| (Arc::from(name.as_str()), quantity_value(amount), place));
        Asks {
            container: container.name.as_str().into(),
            number,
            passes,
            resources: asked.filter(|(name, amount, _)| *amount > 0 && may_be_devices(name)).collect(),
        }
    });
    asks.filter(|a| !a.resources.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;
    use serde_json::json;

    #[test]
    fn which_resources_may_be_devices() {
        for (name, yes) in [
            ("example.com/gpu", true),
            ("deviceclass.resource.kubernetes.io/gpu", true),
            ("cpu", false),
            ("hugepages-2Mi", false),
            ("kubernetes.io/x", false),
            ("requests.example.com/gpu", false),
        ] {
            assert_eq!(may_be_devices(name), yes, "{name}");
        }
    }

    #[test]
    fn of_all_containers() {
        let asking = |name: &str, requests| json!({"name": name, "resources": {"requests": requests}});
        let mut sidecar = asking("side", json!({"example.com/gpu": "1"}));
        sidecar["restartPolicy"] = json!("Always");
        let wants = pod("p")
            .spec("initContainers", json!([asking("init", json!({"example.com/gpu": "2", "cpu": "1"})), sidecar]))
            .spec("containers", json!([asking("plain", json!({"cpu": "1"})), asking("c", json!({"a.io/x": "3"}))]));
        let got = wants.info().extended.to_vec();
        let one = |container: &str, number, passes, resource: &str, amount, place| Asks {
            container: container.into(),
            number,
            passes,
            resources: vec![(resource.into(), amount, place)],
        };
        assert_eq!(
            got,
            [
                one("init", 0, true, "example.com/gpu", 2, 1),
                one("side", 1, false, "example.com/gpu", 1, 0),
                one("c", 3, false, "a.io/x", 3, 0),
            ]
        );
        assert!(pod("p").cpu(1).scalar("hugepages-2Mi", 1).info().extended.is_empty());
    }
}
