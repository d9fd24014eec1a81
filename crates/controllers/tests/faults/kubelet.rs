//! Scheduler and kubelets of the world: pods are bound, run, become ready, and end when they are told to.

use std::sync::Arc;
use std::time::Duration;

use caravel_api::meta;
use serde_json::{Value, json};

use super::service::Shared;
use super::world::{World, now};

/// Moves the pods of the world along, for ever. Pods of Jobs succeed.
pub async fn run(shared: Arc<Shared>) {
    for round in 0u64.. {
        let names: Vec<(String, String)> = {
            let w = shared.world.lock();
            w.all("", "pods").iter().map(|p| (meta::namespace(p).to_owned(), meta::name(p).to_owned())).collect()
        };
        for (ns, name) in names {
            if shared.random(0..3) == 0 {
                shared.change(|w| step(w, &ns, &name));
            }
        }
        if round % 10 == 0 {
            shared.change(heartbeats);
        }
        let rest = if shared.hostile.load(std::sync::atomic::Ordering::Relaxed) { 200 } else { 1000 };
        tokio::time::sleep(Duration::from_millis(rest)).await;
    }
}

/// Kubelets of nodes that are labelled as alive renew their leases.
fn heartbeats(w: &mut World) {
    let nodes: Vec<_> = w
        .all("", "nodes")
        .iter()
        .map(|n| (meta::name(n).to_owned(), n["metadata"]["labels"]["alive"] == "yes"))
        .collect();
    for (name, alive) in nodes {
        if !alive {
            continue;
        }
        let spec = json!({"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": micro_now()});
        if w.get("coordination.k8s.io", "leases", "kube-node-lease", &name).is_some() {
            w.edit("coordination.k8s.io", "leases", "kube-node-lease", &name, |l| l["spec"] = spec);
        } else {
            w.put(json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": name, "namespace": "kube-node-lease"}, "spec": spec}));
        }
    }
}

fn micro_now() -> String {
    crate::clock::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

fn step(w: &mut World, ns: &str, name: &str) {
    let Some(pod) = w.get("", "pods", ns, name).cloned() else { return };
    let kind = w.table.resource("", "v1", "pods").unwrap().clone();
    // A dead node's kubelet does nothing.
    if pod["spec"]["nodeName"].as_str().is_some_and(|n| n.starts_with("dead"))
        || pod["spec"]["schedulingGates"].is_array()
    {
        return;
    }
    let phase = pod["status"]["phase"].as_str().unwrap_or_default().to_owned();
    if meta::is_deleting(&pod) {
        if !matches!(phase.as_str(), "Succeeded" | "Failed") {
            status(w, ns, name, json!({"phase": "Failed", "conditions": [condition("False")]}));
        } else if pod["metadata"]["deletionGracePeriodSeconds"] != 0 {
            let _ = w.delete(&kind, ns, name, &json!({"gracePeriodSeconds": 0}));
        }
        return;
    }
    if !pod["spec"]["nodeName"].is_string() {
        if !super::devices::given(w, &pod) {
            return;
        }
        let place = node_for(&pod);
        w.edit("", "pods", ns, name, |p| p["spec"]["nodeName"] = json!(place));
    } else if phase == "Pending" && pod["spec"]["containers"][0]["image"] == "broken" {
        // Its image cannot be had.
    } else if phase == "Pending" {
        let ip = format!("10.0.{}.{}", meta::resource_version(&pod).len(), name.len());
        status(
            w,
            ns,
            name,
            json!({"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [condition("True")]}),
        );
    } else if phase == "Running" && meta::controller(&pod).is_some_and(|o| o["kind"] == "Job") {
        status(w, ns, name, json!({"phase": "Succeeded", "conditions": [condition("False")]}));
    }
}

fn condition(ready: &str) -> Value {
    json!({"type": "Ready", "status": ready, "lastTransitionTime": now()})
}

fn status(w: &mut World, ns: &str, name: &str, status: Value) {
    let kind = w.table.resource("", "v1", "pods").unwrap().clone();
    let _ = w.update(&kind, ns, name, json!({"metadata": {}, "status": status}), Some("status"));
}

fn node_for(pod: &Value) -> String {
    let terms = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchFields/0/values/0";
    pod.pointer(terms).and_then(Value::as_str).unwrap_or("n0").to_owned()
}
