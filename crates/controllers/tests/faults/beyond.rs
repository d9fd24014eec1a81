//! The stories of what is offered beyond upstream.

use caravel_api::meta;
use serde_json::{Value, json};

use crate::scenarios::{expect, image, serving, template};
use crate::{PACE, Scenario, play};

fn deployment(annotations: Value, template: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "d", "annotations": annotations},
        "spec": {"replicas": 3, "progressDeadlineSeconds": 30, "selector": {"matchLabels": {"app": "a"}}, "template": template}})
}

/// The world's pods with an image called `broken` never become ready: the Deployment goes back, once.
#[test]
fn a_broken_rollout_is_rolled_back() {
    play(&Scenario {
        controllers: &["deployment-controller", "replicaset-controller"],
        pace: 40_000..80_000,
        steps: &[
            |w| drop(w.put(deployment(json!({"caravel.dev/rollback-on-deadline": "true"}), template("v1")))),
            |w| w.edit("apps", "deployments", "d", "d", |o| image(o, "v2")),
            |w| w.edit("apps", "deployments", "d", "d", |o| image(o, "broken")),
        ],
        goal: |w| {
            expect("pods", serving(w), [("v2", 3)])?;
            let d = w.get("apps", "deployments", "d", "d").unwrap();
            expect("given up", meta::annotation(d, "caravel.dev/rolled-back-from").is_some(), true)?;
            expect("available", d["status"]["availableReplicas"].as_i64(), Some(3))
        },
    });
}

/// The world's pods of an image called `crashing` are ready, and restart again and again.
#[test]
fn a_canary_that_crashes_is_rolled_back() {
    play(&Scenario {
        controllers: &["deployment-controller", "replicaset-controller"],
        pace: 100_000..200_000,
        steps: &[
            |w| {
                let asked = json!({"caravel.dev/canary-steps": "30%:1h", "caravel.dev/rollback-on-failures": "4"});
                drop(w.put(deployment(asked, template("v1"))));
            },
            |w| w.edit("apps", "deployments", "d", "d", |o| image(o, "crashing")),
        ],
        goal: |w| {
            expect("pods", serving(w), [("v1", 3)])?;
            let d = w.get("apps", "deployments", "d", "d").unwrap();
            expect("given up", meta::annotation(d, "caravel.dev/rolled-back-from").is_some(), true)?;
            expect("state", meta::annotation(d, "caravel.dev/canary-state"), None::<&str>)?;
            expect("available", d["status"]["availableReplicas"].as_i64(), Some(3))
        },
    });
}

#[test]
fn a_canary_is_promoted() {
    play(&Scenario {
        controllers: &["deployment-controller", "replicaset-controller"],
        pace: 100_000..200_000,
        steps: &[
            |w| drop(w.put(deployment(json!({"caravel.dev/canary-steps": "30%:20s,60%"}), template("v1")))),
            |w| w.edit("apps", "deployments", "d", "d", |o| image(o, "v2")),
            |w| {
                w.edit("apps", "deployments", "d", "d", |o| {
                    o["metadata"]["annotations"]["caravel.dev/canary-promote"] = json!("all");
                });
            },
        ],
        goal: |w| {
            expect("pods", serving(w), [("v2", 3)])?;
            let d = w.get("apps", "deployments", "d", "d").unwrap();
            let left = ["canary-state", "canary-promote"].map(|k| meta::annotation(d, &format!("caravel.dev/{k}")));
            expect("left", left, [None::<&str>; 2])?;
            expect("available", d["status"]["availableReplicas"].as_i64(), Some(3))
        },
    });
}

#[test]
fn a_changed_config_is_rolled_out() {
    play(&Scenario {
        controllers: &["deployment-controller", "replicaset-controller", "config-rollout-controller"],
        pace: PACE,
        steps: &[
            |w| {
                for kind in ["ConfigMap", "Secret"] {
                    w.put(json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "x", "namespace": "d"}, "data": {"k": "b25l"}}));
                }
                let mut t = template("v1");
                t["spec"]["containers"][0]["envFrom"] =
                    json!([{"configMapRef": {"name": "x"}}, {"secretRef": {"name": "x"}}]);
                w.put(deployment(json!({"caravel.dev/rollout-on-config-change": "true"}), t));
            },
            |w| w.edit("", "configmaps", "d", "x", |m| m["data"] = json!({"k": "two"})),
            |w| w.edit("", "secrets", "d", "x", |m| m["data"] = json!({"k": "dHdv"})),
        ],
        goal: |w| {
            expect("pods", serving(w), [("v1", 3)])?;
            let d = w.get("apps", "deployments", "d", "d").unwrap();
            let sum = "caravel.dev/config-sum";
            let (noted, template) =
                (meta::annotation(d, sum), d["spec"]["template"]["metadata"]["annotations"][sum].as_str());
            expect("noted", noted.is_some(), true)?;
            // Changed before the first note there is nothing to roll out.
            if template.is_some() {
                expect("sums", template, noted)?;
            }
            Ok(())
        },
    });
}
