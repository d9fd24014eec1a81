//! Stories of specs that are wrong, or at odds with others: told of, never fought about.

use caravel_api::meta;
use serde_json::{Value, json};

use crate::scenarios::{expect, serving, template};
use crate::{PACE, Scenario, clock, play};

/// Two owners that select the same pods have each its own.
#[test]
fn overlapping_controllers() {
    play(&Scenario {
        controllers: &["replicaset-controller", "statefulset-controller", "replicationcontroller-controller"],
        pace: PACE,
        steps: &[
            |w| {
                let selector = json!({"matchLabels": {"app": "a"}});
                for (kind, replicas) in [("ReplicaSet", 3), ("StatefulSet", 2)] {
                    w.put(json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "x", "namespace": "d"},
                        "spec": {"replicas": replicas, "serviceName": "s", "selector": selector, "template": template(kind)}}));
                }
                w.put(json!({"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "x", "namespace": "d"},
                    "spec": {"replicas": 1, "selector": {"app": "a"}, "template": template("RC")}}));
            },
            |w| w.edit("apps", "replicasets", "d", "x", |o| o["spec"]["replicas"] = json!(1)),
        ],
        goal: |w| expect("pods", serving(w), [("RC", 1), ("ReplicaSet", 1), ("StatefulSet", 2)]),
    });
}

/// Two Deployments with one selector: each rolls its own ReplicaSets.
#[test]
fn overlapping_deployments() {
    play(&Scenario {
        controllers: &["deployment-controller", "replicaset-controller"],
        pace: PACE,
        steps: &[
            |w| {
                for name in ["x", "y"] {
                    w.put(json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": "d"},
                        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "a"}}, "template": template(name)}}));
                }
            },
            |w| w.edit("apps", "deployments", "d", "x", |o| crate::scenarios::image(o, "x2")),
        ],
        goal: |w| expect("pods", serving(w), [("x2", 2), ("y", 2)]),
    });
}

/// Owners in a circle, with a tail: deleted in the foreground, all of it goes.
#[test]
fn circles_of_owners() {
    play(&Scenario {
        controllers: &["garbage-collector-controller"],
        pace: PACE,
        steps: &[
            |w| {
                for name in ["a", "b", "c", "tail"] {
                    w.put(
                        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "d"}}),
                    );
                }
                for (name, owner) in [("a", "c"), ("b", "a"), ("c", "b"), ("tail", "a")] {
                    let uid = meta::uid(w.get("", "configmaps", "d", owner).unwrap()).to_owned();
                    w.edit("", "configmaps", "d", name, |o| {
                        o["metadata"]["ownerReferences"] =
                            json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": owner, "uid": uid, "blockOwnerDeletion": true}]);
                    });
                }
            },
            |w| w.remove("", "configmaps", "d", "b", &json!({"propagationPolicy": "Foreground"})),
        ],
        goal: |w| expect("left", w.all("", "configmaps").len(), 0),
    });
}

/// A moment that never comes, a zone that is not on the map, a schedule that says nothing: events, and nothing else.
#[test]
fn schedules_without_a_moment() {
    play(&Scenario {
        controllers: &["cronjob-controller"],
        pace: PACE,
        steps: &[
            |w| {
                for (name, schedule, zone) in [
                    ("never", "0 0 30 2 *", Value::Null),
                    ("nowhere", "* * * * *", json!("Mars/Olympus")),
                    ("nothing", "every now and then", Value::Null),
                ] {
                    w.put(json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": name, "namespace": "d"},
                        "spec": {"schedule": schedule, "timeZone": zone, "jobTemplate": {"spec": {"template": template("v1")}}}}));
                }
            },
            |_| clock::jump(20 * 365 * 86_400),
            |_| clock::jump(-40 * 365 * 86_400),
        ],
        goal: |w| {
            expect("jobs", w.all("batch", "jobs").len(), 0)?;
            let written = w.log.iter().filter(|c| c.place.1 == "cronjobs").count();
            expect("changes", written, 3)
        },
    });
}

/// The clock jumps while workloads roll, wait for their deadlines, and end.
#[test]
fn a_clock_that_jumps() {
    play(&Scenario {
        controllers: &["deployment-controller", "replicaset-controller", "job-controller", "statefulset-controller"],
        pace: PACE,
        steps: &[
            |w| {
                let selector = json!({"matchLabels": {"app": "a"}});
                w.put(
                    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "d"},
                    "spec": {"replicas": 3, "minReadySeconds": 5, "selector": selector, "template": template("v1")}}),
                );
                w.put(json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "s", "namespace": "d"},
                    "spec": {"replicas": 2, "minReadySeconds": 3, "serviceName": "s", "selector": {"matchLabels": {"app": "s"}},
                        "template": {"metadata": {"labels": {"app": "s"}}, "spec": {"containers": [{"name": "c", "image": "s"}]}}}}));
                w.put(json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j", "namespace": "d"},
                    "spec": {"completions": 3, "parallelism": 1, "activeDeadlineSeconds": 100_000, "template": {"metadata": {"labels": {"app": "j"}},
                        "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "j"}]}}}}));
            },
            |_| clock::jump(3600),
            |w| w.edit("apps", "deployments", "d", "d", |o| crate::scenarios::image(o, "v2")),
            |_| clock::jump(-2 * 3600),
        ],
        goal: |w| {
            let live: Vec<_> = serving(w).into_iter().filter(|(image, _)| !image.starts_with('j')).collect();
            expect("pods", live, [("s", 2), ("v2", 3)])?;
            let d = w.get("apps", "deployments", "d", "d").unwrap();
            expect("available", d["status"]["availableReplicas"].as_i64(), Some(3))?;
            let j = w.get("batch", "jobs", "d", "j").unwrap();
            let conditions = j["status"]["conditions"].as_array().cloned().unwrap_or_default();
            expect("complete", conditions.iter().any(|c| c["type"] == "Complete"), true)
        },
    });
}
