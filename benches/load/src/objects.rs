//! The objects that the load is made of.

use crate::NAMESPACE;
use crate::drive::Call;
use serde_json::{Value, json};

/// A ConfigMap with a value of `bytes`.
pub fn create_config_map(i: usize, bytes: usize) -> Call {
    let body = json!({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":format!("cm-{i}"),"labels":{"app":"load"}},"data":{"k":"x".repeat(bytes)}});
    Call { method: "POST", path: format!("{NAMESPACE}/configmaps"), body: Some(body.to_string()) }
}

pub fn get_config_map(i: usize) -> Call {
    Call { method: "GET", path: format!("{NAMESPACE}/configmaps/cm-{i}"), body: None }
}

pub fn patch_config_map(i: usize) -> Call {
    let body = json!({"data":{"n":rand::random::<u32>().to_string()}});
    Call { method: "PATCH", path: format!("{NAMESPACE}/configmaps/cm-{i}"), body: Some(body.to_string()) }
}

pub fn list_config_maps() -> Call {
    Call { method: "GET", path: format!("{NAMESPACE}/configmaps?resourceVersion=0"), body: None }
}

/// A node of 32 CPUs and 256 GiB that says it is Ready.
pub fn create_node(i: usize) -> Call {
    let size = json!({"cpu":"32","memory":"256Gi","pods":"110","ephemeral-storage":"1Ti"});
    let name = format!("fake-{i}");
    let body = json!({"apiVersion":"v1","kind":"Node",
        "metadata":{"name":name,"labels":{"kubernetes.io/hostname":name,"kubernetes.io/os":"linux","topology.kubernetes.io/zone":format!("z{}", i % 10),"fake":"true"}},
        "spec":{"podCIDR":format!("10.{}.{}.0/24", 100 + i / 256, i % 256)},
        "status":{"capacity":size,"allocatable":size,"conditions":[{"type":"Ready","status":"True","reason":"fake","message":"fake","lastHeartbeatTime":null,"lastTransitionTime":null}]}});
    Call { method: "POST", path: "/api/v1/nodes".into(), body: Some(body.to_string()) }
}

/// A Pod that no node of ours will run, with the scheduling demands that `kind` names.
pub fn create_pod(i: usize, kind: &str) -> Call {
    let group = format!("g{}", i % 100);
    let mut pod: Value = json!({"apiVersion":"v1","kind":"Pod",
        "metadata":{"name":format!("p-{kind}-{i}"),"namespace":"loadgen","labels":{"app":kind,"group":group}},
        "spec":{"automountServiceAccountToken":false,"terminationGracePeriodSeconds":0,"tolerations":[{"operator":"Exists"}],
            "containers":[{"name":"c","image":"registry.k8s.io/pause:3.10","resources":{"requests":{"cpu":"100m","memory":"128Mi"}}}]}});
    let same_group = json!({"matchLabels":{"app":kind,"group":group}});
    let term = |key: &str| json!({"requiredDuringSchedulingIgnoredDuringExecution":[{"topologyKey":key,"labelSelector":same_group}]});
    match kind {
        "spread" => {
            pod["spec"]["topologySpreadConstraints"] = json!([{"maxSkew":2,"topologyKey":"topology.kubernetes.io/zone","whenUnsatisfiable":"DoNotSchedule","labelSelector":{"matchLabels":{"app":kind}}}]);
        }
        "anti" => pod["spec"]["affinity"] = json!({"podAntiAffinity":term("kubernetes.io/hostname")}),
        "affinity" => pod["spec"]["affinity"] = json!({"podAffinity":term("topology.kubernetes.io/zone")}),
        _ => {}
    }
    Call { method: "POST", path: format!("{NAMESPACE}/pods"), body: Some(pod.to_string()) }
}
