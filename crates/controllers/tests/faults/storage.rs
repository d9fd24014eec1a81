//! The stories of volumes and claims.

use caravel_api::meta;
use serde_json::{Value, json};

use crate::scenarios::expect;
use crate::world::World;
use crate::{PACE, Scenario, play};

fn volume(w: &mut World, name: &str, size: &str) {
    w.put(json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
        "spec": {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": "", "hostPath": {"path": "/x"}}}));
}

fn claim(w: &mut World, name: &str, size: &str) {
    w.put(json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name, "namespace": "d"},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "", "resources": {"requests": {"storage": size}}}}));
}

fn phase<'a>(w: &'a World, plural: &str, ns: &str, name: &str) -> &'a str {
    w.get("", plural, ns, name).and_then(|o| o["status"]["phase"].as_str()).unwrap_or("none")
}

#[test]
fn claims_and_volumes() {
    play(&Scenario {
        controllers: &[
            "persistentvolume-binder-controller",
            "persistentvolumeclaim-protection-controller",
            "persistentvolume-protection-controller",
        ],
        pace: PACE,
        steps: &[
            |w| {
                volume(w, "small", "1Gi");
                volume(w, "large", "10Gi");
                claim(w, "first", "5Gi");
            },
            |w| {
                claim(w, "second", "1Gi");
                claim(w, "third", "1Gi");
                w.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "d"},
                    "spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "first"}}], "containers": [{"name": "c", "image": "v1"}]}}));
            },
            |w| w.remove("", "persistentvolumeclaims", "d", "first", &Value::Null),
            |w| w.remove("", "persistentvolumes", "", "small", &Value::Null),
            |w| w.remove("", "pods", "d", "p", &Value::Null),
        ],
        goal: |w| {
            // How far each claim and volume came before it was deleted is chance; how they go together is not.
            expect("first", w.get("", "persistentvolumeclaims", "d", "first").is_some(), false)?;
            for name in ["second", "third"] {
                let claim = w.get("", "persistentvolumeclaims", "d", name).ok_or("a claim is gone")?;
                let volume = claim["spec"]["volumeName"].as_str().and_then(|v| w.get("", "persistentvolumes", "", v));
                let theirs = volume.is_some_and(|v| v["spec"]["claimRef"]["name"] == name);
                let phase = claim["status"]["phase"].as_str().unwrap_or_default();
                expect(name, (phase, theirs), if theirs { ("Bound", true) } else { ("Pending", false) })?;
            }
            let waiting = ["second", "third"].iter().any(|c| phase(w, "persistentvolumeclaims", "d", c) == "Pending");
            for volume in w.all("", "persistentvolumes") {
                let owner = volume["spec"]["claimRef"]["name"].as_str().unwrap_or_default();
                let wanted = match owner {
                    "first" => "Released",
                    "" => "Available",
                    _ => "Bound",
                };
                expect(meta::name(volume), volume["status"]["phase"].as_str(), Some(wanted))?;
                if waiting && wanted == "Available" {
                    return Err(format!("{} is free, and a claim waits", meta::name(volume)));
                }
                if meta::is_deleting(volume) && wanted != "Bound" {
                    return Err(format!("{} is deleted and nobody has it", meta::name(volume)));
                }
            }
            Ok(())
        },
    });
}

#[test]
fn ephemeral_volumes() {
    play(&Scenario {
        controllers: &[
            "ephemeral-volume-controller",
            "garbage-collector-controller",
            "persistentvolumeclaim-protection-controller",
        ],
        pace: PACE,
        steps: &[
            |w| {
                for name in ["stays", "goes"] {
                    let template = json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
                    w.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "d"},
                        "spec": {"volumes": [{"name": "v", "ephemeral": {"volumeClaimTemplate": template}}], "containers": [{"name": "c", "image": "v1"}]}}));
                }
            },
            |w| w.remove("", "pods", "d", "goes", &Value::Null),
        ],
        goal: |w| {
            let left: Vec<_> = w.all("", "persistentvolumeclaims").iter().map(|o| meta::name(o).to_owned()).collect();
            expect("claims", left, ["stays-v"])?;
            expect("pods", w.all("", "pods").len(), 1)
        },
    });
}
