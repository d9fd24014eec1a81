//! Scheduler, kubelets and a storage driver of the world: pods are bound, run, become ready, and end when they are told to; volumes
//! are attached and used.

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
        if shared.random(0..3) == 0 {
            shared.change(attacher);
            shared.change(users);
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
    } else if phase == "Pending" && (pod["spec"]["containers"][0]["image"] == "broken" || !attached(w, &pod)) {
        // Its image cannot be had, or its volumes.
    } else if phase == "Pending" {
        // One that crashes has done so often by the time that it is looked at.
        let restarts = if pod["spec"]["containers"][0]["image"] == "crashing" { 5 } else { 0 };
        let container = json!({"name": "c", "restartCount": restarts, "ready": true, "image": "i", "imageID": "i",
            "state": {"running": {}}});
        let ip = format!("10.0.{}.{}", meta::resource_version(&pod).len(), name.len());
        status(
            w,
            ns,
            name,
            json!({"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [condition("True")],
                "containerStatuses": [container]}),
        );
    } else if phase == "Running" && meta::controller(&pod).is_some_and(|o| o["kind"] == "Job") {
        status(w, ns, name, json!({"phase": "Succeeded", "conditions": [condition("False")]}));
    }
}

fn condition(ready: &str) -> Value {
    json!({"type": "Ready", "status": ready, "lastTransitionTime": now()})
}

fn status(w: &mut World, ns: &str, name: &str, mut status: Value) {
    // What others write into the status stays.
    if let Some(claims) = w.get("", "pods", ns, name).and_then(|p| p["status"].get("resourceClaimStatuses")) {
        status["resourceClaimStatuses"] = claims.clone();
    }
    let kind = w.table.resource("", "v1", "pods").unwrap().clone();
    let _ = w.update(&kind, ns, name, json!({"metadata": {}, "status": status}), Some("status"));
}

/// Changes the status of an object.
pub fn set_status(w: &mut World, group: &str, plural: &str, ns: &str, name: &str, f: impl FnOnce(&mut Value)) {
    let Some(mut object) = w.get(group, plural, ns, name).cloned() else { return };
    let kind = w.table.resource(group, "v1", plural).unwrap().clone();
    f(&mut object["status"]);
    w.update(&kind, ns, name, object, Some("status")).unwrap();
}

/// The driver's attacher: it holds attachments by a finalizer, says when they are made, and lets go.
fn attacher(w: &mut World) {
    const HOLD: &str = "external-attacher/d";
    let all: Vec<Value> = w.all("storage.k8s.io", "volumeattachments").into_iter().cloned().collect();
    for a in all {
        let name = meta::name(&a);
        if meta::is_deleting(&a) {
            w.edit("storage.k8s.io", "volumeattachments", "", name, |a| a["metadata"]["finalizers"] = json!([]));
        } else if a["status"]["attached"] != true {
            w.edit("storage.k8s.io", "volumeattachments", "", name, |a| a["metadata"]["finalizers"] = json!([HOLD]));
            set_status(w, "storage.k8s.io", "volumeattachments", "", name, |s| *s = json!({"attached": true}));
        }
    }
}

/// The CSI volumes of a pod, by the names that nodes have for them.
fn volumes_of(w: &World, pod: &Value) -> Vec<String> {
    let named = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let claims = named.filter_map(|v| v["persistentVolumeClaim"]["claimName"].as_str());
    let unique = |claim: &str| {
        let c = w.get("", "persistentvolumeclaims", meta::namespace(pod), claim)?;
        let csi = &w.get("", "persistentvolumes", "", c["spec"]["volumeName"].as_str()?)?["spec"]["csi"];
        Some(format!("kubernetes.io/csi/{}^{}", csi["driver"].as_str()?, csi["volumeHandle"].as_str()?))
    };
    claims.filter_map(unique).collect()
}

fn on_list(node: &Value, volume: &str) -> bool {
    node["status"]["volumesAttached"].as_array().into_iter().flatten().any(|a| a["name"] == volume)
}

/// Whether a pod's node has its volumes.
fn attached(w: &World, pod: &Value) -> bool {
    let node = w.get("", "nodes", "", pod["spec"]["nodeName"].as_str().unwrap_or_default());
    node.is_none_or(|n| volumes_of(w, pod).iter().all(|v| on_list(n, v)))
}

/// Kubelets note the volumes that they use: those of their pods, once these are attached.
fn users(w: &mut World) {
    let nodes: Vec<Value> = w.all("", "nodes").into_iter().cloned().collect();
    for node in nodes {
        let name = meta::name(&node);
        if name.starts_with("dead") {
            continue;
        }
        let of_node = |p: &&Value| {
            p["spec"]["nodeName"] == name && !matches!(p["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
        };
        let mut used: Vec<String> =
            w.all("", "pods").into_iter().filter(of_node).flat_map(|p| volumes_of(w, p)).collect();
        used.retain(|v| on_list(&node, v));
        used.sort();
        used.dedup();
        if json!(used) != node["status"]["volumesInUse"]
            && !(used.is_empty() && node["status"]["volumesInUse"].is_null())
        {
            set_status(w, "", "nodes", "", name, |s| s["volumesInUse"] = json!(used));
        }
    }
}

fn node_for(pod: &Value) -> String {
    let terms = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchFields/0/values/0";
    pod.pointer(terms).and_then(Value::as_str).unwrap_or("n0").to_owned()
}
