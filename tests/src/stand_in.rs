//! A Node object that stands in for a second machine: no kubelet, but the API, the scheduler and the controllers take it for one.

use crate::{Namespace, Objects};
use serde_json::{Value, json};

/// The Node object; deleted when dropped. Its taint `stand-in` keeps all pods away that do not tolerate it, and its name sorts last.
pub struct StandIn {
    pub name: String,
    pub nodes: Objects,
}

impl StandIn {
    /// A Ready node with these allocatable resources (pods: 110 unless told), labelled `pool: <namespace>`.
    pub fn new(ns: &Namespace, suffix: &str, resources: Value) -> StandIn {
        let nodes = ns.cluster_objects("v1", "nodes");
        let name = format!("zz-{}{suffix}", ns.name);
        nodes.create(&json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "pool": &ns.name}},
            "spec": {"taints": [{"key": "stand-in", "value": &ns.name, "effect": "NoSchedule"}]},
        }));
        let mut all = resources;
        if all["pods"].is_null() {
            all["pods"] = json!("110");
        }
        let now = crate::rfc3339_ago(0);
        nodes.merge(
            &format!("{name}/status"),
            &json!({"status": {"capacity": all, "allocatable": all, "conditions": [{
                "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "",
                "lastHeartbeatTime": now, "lastTransitionTime": now}]}}),
        );
        // The node controller takes the taint of a node that is not ready yet off.
        nodes.until(&name, "taken for a node", |n| {
            n["spec"]["taints"].as_array().is_some_and(|t| t.iter().all(|t| t["key"] == "stand-in"))
        });
        StandIn { name, nodes }
    }

    /// What a pod's spec needs to be sent here, and only here.
    pub fn attract(&self, ns: &Namespace, pod: &mut Value) {
        pod["spec"]["nodeSelector"] = json!({"pool": &ns.name});
        pod["spec"]["tolerations"] = json!([{"key": "stand-in", "operator": "Exists"}]);
    }

    /// Says, as a kubelet would, that a pod runs and is ready.
    pub fn runs(&self, pods: &Objects, pod: &str) {
        let now = crate::rfc3339_ago(0);
        pods.merge(
            &format!("{pod}/status"),
            &json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": now}]}}),
        );
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let _ = self.nodes.send("DELETE", &self.name, "application/json", None);
    }
}
