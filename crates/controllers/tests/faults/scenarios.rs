//! The stories.

use std::collections::BTreeSet;

use caravel_api::meta;
use serde_json::{Value, json};

use crate::world::World;
use crate::{PACE, Scenario, play};

pub fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

pub fn expect(what: &str, have: impl std::fmt::Debug + PartialEq, want: impl std::fmt::Debug) -> Result<(), String> {
    let (have, want) = (format!("{have:?}"), format!("{want:?}"));
    if have == want { Ok(()) } else { Err(format!("{what}: {have} instead of {want}")) }
}

/// Pods that serve, as (image, count).
pub fn serving(w: &World) -> Vec<(String, usize)> {
    let mut all = std::collections::BTreeMap::new();
    for p in w.all("", "pods") {
        let ready = p["status"]["conditions"][0]["status"] == "True";
        let image = p["spec"]["containers"][0]["image"].as_str().unwrap_or_default().to_owned();
        *all.entry(format!("{image}{}", if ready { "" } else { " not ready" })).or_insert(0) += 1;
    }
    all.into_iter().collect()
}

pub fn image(object: &mut Value, image: &str) {
    object["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image);
}

#[test]
fn replica_set() {
    play(&Scenario {
        controllers: &["replicaset-controller"],
        pace: PACE,
        steps: &[
            |w| {
                w.put(
                    json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "r", "namespace": "d"},
                    "spec": {"replicas": 5, "selector": {"matchLabels": {"app": "a"}}, "template": template("v1")}}),
                );
            },
            |w| w.edit("apps", "replicasets", "d", "r", |o| o["spec"]["replicas"] = json!(2)),
            |w| w.edit("apps", "replicasets", "d", "r", |o| o["spec"]["replicas"] = json!(4)),
        ],
        goal: |w| {
            expect("pods", serving(w), [("v1", 4)])?;
            let r = w.get("apps", "replicasets", "d", "r").unwrap();
            expect("ready", r["status"]["readyReplicas"].as_i64(), Some(4))?;
            expect("observed", r["status"]["observedGeneration"].as_i64(), r["metadata"]["generation"].as_i64())
        },
    });
}

#[test]
fn deployment() {
    play(&Scenario {
        controllers: &["deployment-controller", "replicaset-controller"],
        pace: PACE,
        steps: &[
            |w| {
                w.put(
                    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "d"},
                    "spec": {"replicas": 4, "selector": {"matchLabels": {"app": "a"}}, "template": template("v1")}}),
                );
            },
            |w| w.edit("apps", "deployments", "d", "d", |o| image(o, "v2")),
            |w| w.edit("apps", "deployments", "d", "d", |o| o["spec"]["replicas"] = json!(6)),
            |w| w.edit("apps", "deployments", "d", "d", |o| image(o, "v3")),
        ],
        goal: |w| {
            expect("pods", serving(w), [("v3", 6)])?;
            let d = w.get("apps", "deployments", "d", "d").unwrap();
            expect("updated", d["status"]["updatedReplicas"].as_i64(), Some(6))?;
            expect("available", d["status"]["availableReplicas"].as_i64(), Some(6))?;
            expect("revision", meta::annotation(d, "deployment.kubernetes.io/revision").is_some(), true)
        },
    });
}

#[test]
fn stateful_set() {
    play(&Scenario {
        controllers: &["statefulset-controller"],
        pace: PACE,
        steps: &[
            |w| {
                w.put(
                    json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "s", "namespace": "d"},
                    "spec": {"replicas": 3, "serviceName": "x", "selector": {"matchLabels": {"app": "a"}},
                        "volumeClaimTemplates": [{"metadata": {"name": "v"}, "spec": {"accessModes": ["ReadWriteOnce"],
                            "resources": {"requests": {"storage": "1Gi"}}}}],
                        "template": template("v1")}}),
                );
            },
            |w| w.edit("apps", "statefulsets", "d", "s", |o| image(o, "v2")),
            |w| w.edit("apps", "statefulsets", "d", "s", |o| o["spec"]["replicas"] = json!(2)),
        ],
        goal: |w| {
            expect("pods", serving(w), [("v2", 2)])?;
            let s = w.get("apps", "statefulsets", "d", "s").unwrap();
            expect("revisions", &s["status"]["currentRevision"], &s["status"]["updateRevision"])?;
            expect("ready", s["status"]["readyReplicas"].as_i64(), Some(2))
        },
    });
}

pub fn node(w: &mut World, name: &str) {
    w.put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]}}));
}

#[test]
fn daemon_set() {
    play(&Scenario {
        controllers: &["daemonset-controller"],
        pace: PACE,
        steps: &[
            |w| (0..4).for_each(|i| node(w, &format!("n{i}"))),
            |w| {
                w.put(
                    json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "s", "namespace": "d"},
                    "spec": {"selector": {"matchLabels": {"app": "a"}}, "template": template("v1")}}),
                );
            },
            |w| w.edit("apps", "daemonsets", "d", "s", |o| image(o, "v2")),
            |w| node(w, "n4"),
        ],
        goal: |w| {
            expect("pods", serving(w), [("v2", 5)])?;
            let s = w.get("apps", "daemonsets", "d", "s").unwrap();
            expect("updated", s["status"]["updatedNumberScheduled"].as_i64(), Some(5))?;
            expect("available", s["status"]["numberAvailable"].as_i64(), Some(5))
        },
    });
}

#[test]
fn job() {
    play(&Scenario {
        controllers: &["job-controller"],
        pace: PACE,
        steps: &[|w| {
            w.put(json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j", "namespace": "d"},
                "spec": {"completions": 6, "parallelism": 3, "template": {"metadata": {"labels": {"app": "a"}},
                    "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "v1"}]}}}}));
        }],
        goal: |w| {
            let j = w.get("batch", "jobs", "d", "j").unwrap();
            // All that ever succeeded: one that was one too many may have come to its end before it was deleted.
            let ever = |found: fn(&Value) -> bool| -> BTreeSet<String> {
                let pods = w.log.iter().filter(|c| c.place.1 == "pods" && found(&c.object));
                pods.map(|c| meta::uid(&c.object).to_owned()).collect()
            };
            let done = ever(|p| p["status"]["phase"] == "Succeeded");
            // One that ended well while it was being deleted may have been counted before: as failed.
            let ending =
                ever(|p| p["metadata"]["deletionTimestamp"].is_string() && p["status"]["phase"] != "Succeeded");
            let doubtful = done.intersection(&ending).count();
            let done = done.len();
            let conditions: Vec<_> =
                j["status"]["conditions"].as_array().into_iter().flatten().map(|c| c["type"].clone()).collect();
            expect("conditions", conditions, ["SuccessCriteriaMet", "Complete"].map(Value::from))?;
            let held = w.all("", "pods").iter().filter(|p| meta::finalizers(p).next().is_some()).count();
            expect("pods with finalizers", held, 0)?;
            // A creation whose answer is lost may be repeated; what succeeded is counted exactly.
            let count = |field: &str| j["status"][field].as_u64().unwrap_or(0) as usize;
            let as_failed = done.saturating_sub(count("succeeded"));
            // So may one too many that still ran in the controller's eyes when the Job had enough.
            let doubtful = doubtful + done.saturating_sub(6);
            if count("succeeded") > done || as_failed > doubtful || as_failed > count("failed") {
                return Err(format!("{done} pods succeeded, {doubtful} may count as failed; {} say so", j["status"]));
            }
            if done >= 6 { Ok(()) } else { Err(format!("{done} pods succeeded")) }
        },
    });
}

#[test]
fn endpoints() {
    play(&Scenario {
        controllers: &["replicaset-controller", "endpointslice-controller", "endpoints-controller"],
        pace: PACE,
        steps: &[
            |w| {
                w.put(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "d"},
                    "spec": {"clusterIP": "10.96.0.9", "ipFamilies": ["IPv4"], "selector": {"app": "a"}, "ports": [{"port": 80}]}}));
            },
            |w| {
                w.put(
                    json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "r", "namespace": "d"},
                    "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "a"}}, "template": template("v1")}}),
                );
            },
            |w| w.edit("apps", "replicasets", "d", "r", |o| o["spec"]["replicas"] = json!(2)),
        ],
        goal: |w| {
            let mut pods: Vec<_> = w.all("", "pods").iter().map(|p| meta::uid(p).to_owned()).collect();
            pods.sort();
            let slices = w.all("discovery.k8s.io", "endpointslices");
            let all = slices.iter().flat_map(|s| s["endpoints"].as_array().into_iter().flatten());
            let mut found: Vec<_> =
                all.map(|e| e["targetRef"]["uid"].as_str().unwrap_or_default().to_owned()).collect();
            found.sort();
            expect("slices' endpoints", found, pods.clone())?;
            expect("pods", pods.len(), 2)?;
            let e = w.get("", "endpoints", "d", "s").ok_or("no Endpoints")?;
            let mut found: Vec<_> = e["subsets"][0]["addresses"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|a| a["targetRef"]["uid"].as_str().unwrap_or_default().to_owned())
                .collect();
            found.sort();
            expect("Endpoints", found, pods)
        },
    });
}

#[test]
fn garbage_collector() {
    fn map(w: &mut World, name: &str, owner: Option<(&str, &str, bool)>) {
        let owners: Vec<_> = owner
            .map(|(name, uid, block)| json!({"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": uid, "blockOwnerDeletion": block}))
            .into_iter()
            .collect();
        w.put(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "d", "ownerReferences": owners}}));
    }
    fn uid(w: &World, name: &str) -> String {
        meta::uid(w.get("", "configmaps", "d", name).unwrap()).to_owned()
    }
    fn delete(w: &mut World, name: &str, policy: &str) {
        let kind = w.table.resource("", "v1", "configmaps").unwrap().clone();
        w.delete(&kind, "d", name, &json!({"propagationPolicy": policy})).unwrap();
    }
    play(&Scenario {
        controllers: &["garbage-collector-controller"],
        pace: PACE,
        steps: &[
            |w| {
                for top in ["background", "foreground", "orphan"] {
                    map(w, top, None);
                    let parent = uid(w, top);
                    for i in 0..3 {
                        let middle = format!("{top}-{i}");
                        map(w, &middle, Some((top, &parent, true)));
                        let id = uid(w, &middle);
                        map(w, &format!("{middle}-leaf"), Some((&middle, &id, true)));
                    }
                }
                map(w, "lost", Some(("never", "00000000-0000-4000-8000-ffffffffffff", true)));
            },
            |w| delete(w, "background", "Background"),
            |w| delete(w, "foreground", "Foreground"),
            |w| delete(w, "orphan", "Orphan"),
        ],
        goal: |w| {
            let left: Vec<_> = w.all("", "configmaps").iter().map(|o| meta::name(o).to_owned()).collect();
            let want = ["orphan-0", "orphan-0-leaf", "orphan-1", "orphan-1-leaf", "orphan-2", "orphan-2-leaf"];
            expect("left", left, want)?;
            let free = w.get("", "configmaps", "d", "orphan-0").unwrap();
            let owners = free["metadata"]["ownerReferences"].as_array().map_or(0, Vec::len);
            expect("owners", owners, 0)
        },
    });
}

#[test]
fn namespace_deletion() {
    play(&Scenario {
        controllers: &["namespace-controller", "serviceaccount-controller", "root-ca-certificate-publisher-controller"],
        pace: PACE,
        steps: &[
            |w| {
                for ns in ["d", "e"] {
                    w.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": ns}}));
                }
            },
            |w| {
                w.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "d"},
                    "spec": {"containers": [{"name": "c", "image": "v1"}]}}));
                w.put(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "d"}}));
            },
            |w| {
                let kind = w.table.resource("", "v1", "namespaces").unwrap().clone();
                w.delete(&kind, "", "d", &Value::Null).unwrap();
            },
        ],
        goal: |w| {
            expect("namespace", w.get("", "namespaces", "", "d").is_some(), false)?;
            expect("pods", w.all("", "pods").len(), 0)?;
            expect("secrets", w.all("", "secrets").len(), 0)?;
            let accounts: Vec<_> = w.all("", "serviceaccounts").iter().map(|o| meta::namespace(o).to_owned()).collect();
            expect("accounts", accounts, ["e"])?;
            let maps: Vec<_> = w.all("", "configmaps").iter().map(|o| meta::namespace(o).to_owned()).collect();
            expect("maps", maps, ["e"])
        },
    });
}

#[test]
fn disruption_budget() {
    play(&Scenario {
        controllers: &["replicaset-controller", "disruption-controller"],
        pace: PACE,
        steps: &[
            |w| {
                w.put(
                    json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "r", "namespace": "d"},
                    "spec": {"replicas": 4, "selector": {"matchLabels": {"app": "a"}}, "template": template("v1")}}),
                );
                w.put(json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b", "namespace": "d"},
                    "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "a"}}}}));
            },
            |w| w.edit("apps", "replicasets", "d", "r", |o| o["spec"]["replicas"] = json!(3)),
        ],
        goal: |w| {
            let s = &w.get("policy", "poddisruptionbudgets", "d", "b").unwrap()["status"];
            let numbers =
                ["currentHealthy", "desiredHealthy", "expectedPods", "disruptionsAllowed"].map(|f| s[f].as_i64());
            expect("status", numbers, [Some(3), Some(2), Some(3), Some(1)])
        },
    });
}

#[test]
fn resource_quota() {
    play(&Scenario {
        controllers: &["replicaset-controller", "resourcequota-controller"],
        pace: PACE,
        steps: &[
            |w| {
                w.put(json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q", "namespace": "d"},
                    "spec": {"hard": {"pods": "10", "secrets": "5", "count/replicasets.apps": "3"}}}));
                w.put(
                    json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "r", "namespace": "d"},
                    "spec": {"replicas": 4, "selector": {"matchLabels": {"app": "a"}}, "template": template("v1")}}),
                );
                w.put(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "d"}}));
            },
            |w| w.edit("apps", "replicasets", "d", "r", |o| o["spec"]["replicas"] = json!(2)),
        ],
        goal: |w| {
            let used = &w.get("", "resourcequotas", "d", "q").unwrap()["status"]["used"];
            expect("used", used, json!({"pods": "2", "secrets": "1", "count/replicasets.apps": "1"}))
        },
    });
}
