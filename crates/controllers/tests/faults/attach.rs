//! The stories of volumes that are attached to nodes, and of what else is done for CSI drivers.

use std::collections::BTreeMap;

use caravel_api::meta;
use serde_json::{Value, json};

use crate::kubelet::set_status;
use crate::scenarios::expect;
use crate::world::World;
use crate::{PACE, Scenario, play};

const UNIQUE: &str = "kubernetes.io/csi/d^h";

fn node(w: &mut World, name: &str) {
    w.put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name,
        "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"}},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]}}));
}

fn volume(w: &mut World, name: &str, source: Value) {
    let mut v = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": ""}});
    source.as_object().unwrap().iter().for_each(|(k, s)| v["spec"][k] = s.clone());
    w.put(v);
    w.put(json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c", "namespace": "d"},
        "spec": {"volumeName": name, "accessModes": ["ReadWriteOnce"], "storageClassName": "",
            "resources": {"requests": {"storage": "1Gi"}}}}));
}

/// A pod with the claim `c` on this node.
fn pod(w: &mut World, name: &str, node: &str) {
    w.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "d"},
        "spec": {"nodeName": node, "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}],
            "containers": [{"name": "c", "image": "v1"}]}}));
}

/// The volume was never attached to two nodes at once, and never taken from a kubelet that used it, unless that was dead.
fn history(w: &World) -> Result<(), String> {
    let (mut attached, mut used): (BTreeMap<String, bool>, BTreeMap<String, bool>) = Default::default();
    for c in &w.log {
        match c.place.1.as_str() {
            "nodes" => {
                let uses = c.object["status"]["volumesInUse"].as_array().is_some_and(|l| !l.is_empty());
                // Nobody knows what a node does whose object is gone.
                let uses = uses && c.type_ != "DELETED";
                used.insert(meta::name(&c.object).to_owned(), uses);
            }
            "volumeattachments" => {
                let node = c.object["spec"]["nodeName"].as_str().unwrap_or_default().to_owned();
                let going = meta::is_deleting(&c.object) || c.type_ == "DELETED";
                let news = going && attached.get(&node) == Some(&false);
                if news && used.get(&node) == Some(&true) && !node.starts_with("dead") {
                    return Err(format!("taken from {node}, which used it, at revision {}", c.revision));
                }
                if c.type_ == "DELETED" {
                    attached.remove(&node);
                } else {
                    attached.insert(node, going);
                }
                if attached.len() > 1 {
                    return Err(format!("attached to {attached:?} at revision {}", c.revision));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn reported(w: &World, node: &str) -> usize {
    w.get("", "nodes", "", node).map_or(0, |n| n["status"]["volumesAttached"].as_array().map_or(0, Vec::len))
}

/// A volume goes from node to node, and at last from one that died with it.
#[test]
fn a_volume_follows_its_pod() {
    play(&Scenario {
        controllers: &["persistentvolume-binder-controller", "persistentvolume-attach-detach-controller"],
        pace: PACE,
        steps: &[
            |w| {
                ["n0", "n1", "dead2"].iter().for_each(|n| node(w, n));
                w.put(json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver", "metadata": {"name": "d"}, "spec": {}}));
                volume(w, "v", json!({"csi": {"driver": "d", "volumeHandle": "h"}}));
            },
            |w| pod(w, "p", "n0"),
            |w| {
                w.remove("", "pods", "d", "p", &Value::Null);
                pod(w, "q", "n1");
            },
            |w| {
                w.remove("", "pods", "d", "q", &Value::Null);
                pod(w, "r", "dead2");
            },
            // It dies, and says to its end that it uses the volume (if it ever got it).
            |w| {
                set_status(w, "", "nodes", "", "dead2", |s| {
                    s["volumesInUse"] = json!([UNIQUE]);
                    s["conditions"] = json!([{"type": "Ready", "status": "Unknown"}]);
                });
            },
            |w| {
                w.remove("", "pods", "d", "r", &json!({"gracePeriodSeconds": 0}));
                pod(w, "s", "n0");
            },
        ],
        goal: |w| {
            history(w)?;
            let places: Vec<_> =
                w.all("storage.k8s.io", "volumeattachments").iter().map(|a| a["spec"]["nodeName"].clone()).collect();
            expect("attachments", places, ["n0"].map(Value::from))?;
            expect("reports", ["n0", "n1", "dead2"].map(|n| reported(w, n)), [1, 0, 0])?;
            expect("the pod", w.get("", "pods", "d", "s").map(|p| p["status"]["phase"].clone()), Some(json!("Running")))
        },
    });
}

/// What no driver is to attach is not attached, and what is attached to a node that goes is detached.
#[test]
fn attachments_go_with_their_node() {
    play(&Scenario {
        controllers: &["persistentvolume-binder-controller", "persistentvolume-attach-detach-controller"],
        pace: PACE,
        steps: &[
            |w| {
                ["n0", "n1"].iter().for_each(|n| node(w, n));
                volume(w, "v", json!({"csi": {"driver": "d", "volumeHandle": "h"}}));
                pod(w, "p", "n0");
            },
            |w| {
                w.remove("", "pods", "d", "p", &json!({"gracePeriodSeconds": 0}));
                w.remove("", "nodes", "", "n0", &Value::Null);
            },
            |w| pod(w, "q", "n1"),
            |w| {
                w.put(json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver", "metadata": {"name": "d"},
                    "spec": {"attachRequired": false}}));
            },
            |w| w.remove("", "pods", "d", "q", &json!({"gracePeriodSeconds": 0})),
        ],
        goal: |w| {
            history(w)?;
            expect("attachments", w.all("storage.k8s.io", "volumeattachments").len(), 0)?;
            expect("reports", reported(w, "n1"), 0)
        },
    });
}

#[test]
fn a_claim_s_resizer_is_named() {
    play(&Scenario {
        controllers: &["persistentvolume-binder-controller", "persistentvolume-expander-controller"],
        pace: PACE,
        steps: &[
            |w| volume(w, "v", json!({"awsElasticBlockStore": {"volumeID": "x"}})),
            |w| {
                w.edit("", "persistentvolumeclaims", "d", "c", |c| {
                    // The API refuses this for a claim that is not bound yet.
                    if c["status"]["phase"] == "Bound" {
                        c["spec"]["resources"]["requests"]["storage"] = json!("3Gi");
                    }
                });
            },
        ],
        goal: |w| {
            let c = w.get("", "persistentvolumeclaims", "d", "c").ok_or("the claim is gone")?;
            expect("phase", c["status"]["phase"].as_str(), Some("Bound"))?;
            let resizer = meta::annotation(c, "volume.kubernetes.io/storage-resizer");
            let grew = c["spec"]["resources"]["requests"]["storage"] == "3Gi";
            expect("resizer", resizer, grew.then_some("ebs.csi.aws.com"))
        },
    });
}

#[test]
fn attribute_classes_stay_while_they_are_used() {
    fn class(w: &mut World, name: &str) {
        w.put(json!({"apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttributesClass", "metadata": {"name": name},
            "driverName": "d"}));
    }
    play(&Scenario {
        controllers: &["volumeattributesclass-protection-controller"],
        pace: PACE,
        steps: &[
            |w| {
                ["gold", "silver", "bronze", "tin"].iter().for_each(|n| class(w, n));
                w.put(json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c", "namespace": "d"},
                    "spec": {"volumeAttributesClassName": "gold", "resources": {"requests": {"storage": "1Gi"}}}}));
                w.put(json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "v"},
                    "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
                        "volumeAttributesClassName": "silver", "hostPath": {"path": "/x"}}}));
            },
            |w| {
                for name in ["gold", "silver", "bronze"] {
                    w.remove("storage.k8s.io", "volumeattributesclasses", "", name, &Value::Null);
                }
            },
            |w| w.remove("", "persistentvolumes", "", "v", &Value::Null),
            |w| {
                w.edit("", "persistentvolumeclaims", "d", "c", |c| {
                    c["spec"]["volumeAttributesClassName"] = json!("tin")
                })
            },
        ],
        goal: |w| {
            let left: Vec<_> = w.all("storage.k8s.io", "volumeattributesclasses");
            let names: Vec<_> = left.iter().map(|c| meta::name(c).to_owned()).collect();
            expect("classes", names, ["tin"])?;
            expect("finalizers", meta::finalizers(left[0]).count(), 1)
        },
    });
}
