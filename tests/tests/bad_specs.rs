//! Specs that cannot be right: refused as upstream refuses them, or told of by an event, and never fought about.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use caravel_tests::{Namespace, sleeper};
use serde_json::{Value, json};

fn set(base: &Value, pointer: &str, value: Value) -> Value {
    let mut object = base.clone();
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    let parent = if parent.is_empty() { &mut object } else { object.pointer_mut(parent).unwrap() };
    parent[field] = value;
    object
}

/// (resource, pointer, value, field of the cause, part of its message)
type Case = (&'static str, &'static str, Value, &'static str, &'static str);

#[test]
fn what_is_impossible_is_refused() {
    let ns = Namespace::new("badspec");
    let workload = |kind: &str| {
        json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "x"},
        "spec": {"selector": {"matchLabels": {"app": "x"}}, "template": sleeper("x")}})
    };
    let mut job =
        json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, "spec": {"template": sleeper("x")}});
    job["spec"]["template"]["spec"]["restartPolicy"] = json!("Never");
    let cron = json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "x"},
        "spec": {"schedule": "* * * * *", "jobTemplate": {"spec": job["spec"]}}});
    let hpa = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "x"},
        "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "x"}, "maxReplicas": 3}});
    let pdb = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "x"},
        "spec": {"selector": {"matchLabels": {"app": "x"}}, "minAvailable": 1}});
    let base = |resource: &str| match resource {
        "deployments" => ("apps/v1", workload("Deployment")),
        "replicasets" => ("apps/v1", workload("ReplicaSet")),
        "statefulsets" => ("apps/v1", workload("StatefulSet")),
        "daemonsets" => ("apps/v1", workload("DaemonSet")),
        "jobs" => ("batch/v1", job.clone()),
        "cronjobs" => ("batch/v1", cron.clone()),
        "horizontalpodautoscalers" => ("autoscaling/v2", hpa.clone()),
        _ => ("policy/v1", pdb.clone()),
    };
    let other = json!({"matchLabels": {"app": "other"}});
    let nothing = json!({"matchExpressions": [{"key": "app", "operator": "In", "values": []}]});
    let cases: Vec<Case> = vec![
        ("deployments", "/spec/replicas", json!(-1), "spec.replicas", "must be greater than or equal to 0"),
        (
            "deployments",
            "/spec/selector",
            other.clone(),
            "spec.template.metadata.labels",
            "`selector` does not match template `labels`",
        ),
        (
            "deployments",
            "/spec/selector",
            nothing.clone(),
            "spec.selector.matchExpressions[0].values",
            "must be specified when `operator` is 'In' or 'NotIn'",
        ),
        ("deployments", "/spec/selector", json!({}), "spec.selector", "empty selector is invalid for deployment"),
        (
            "deployments",
            "/spec/minReadySeconds",
            json!(-5),
            "spec.minReadySeconds",
            "must be greater than or equal to 0",
        ),
        (
            "deployments",
            "/spec/progressDeadlineSeconds",
            json!(0),
            "spec.progressDeadlineSeconds",
            "must be greater than minReadySeconds",
        ),
        (
            "deployments",
            "/spec/strategy",
            json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}),
            "spec.strategy.rollingUpdate.maxUnavailable",
            "may not be 0 when `maxSurge` is 0",
        ),
        ("replicasets", "/spec/replicas", json!(-1), "spec.replicas", "must be greater than or equal to 0"),
        (
            "replicasets",
            "/spec/selector",
            other.clone(),
            "spec.template.metadata.labels",
            "`selector` does not match template `labels`",
        ),
        ("statefulsets", "/spec/replicas", json!(-3), "spec.replicas", "must be greater than or equal to 0"),
        (
            "statefulsets",
            "/spec/selector",
            other.clone(),
            "spec.template.metadata.labels",
            "`selector` does not match template `labels`",
        ),
        (
            "daemonsets",
            "/spec/selector",
            other,
            "spec.template.metadata.labels",
            "`selector` does not match template `labels`",
        ),
        (
            "daemonsets",
            "/spec/minReadySeconds",
            json!(-1),
            "spec.minReadySeconds",
            "must be greater than or equal to 0",
        ),
        ("jobs", "/spec/parallelism", json!(-1), "spec.parallelism", "must be greater than or equal to 0"),
        ("jobs", "/spec/completions", json!(-1), "spec.completions", "must be greater than or equal to 0"),
        ("jobs", "/spec/backoffLimit", json!(-1), "spec.backoffLimit", "must be greater than or equal to 0"),
        (
            "jobs",
            "/spec/activeDeadlineSeconds",
            json!(-1),
            "spec.activeDeadlineSeconds",
            "must be greater than or equal to 0",
        ),
        ("cronjobs", "/spec/timeZone", json!("Mars/Olympus"), "spec.timeZone", "unknown time zone Mars/Olympus"),
        ("cronjobs", "/spec/timeZone", json!("Local"), "spec.timeZone", "must be an explicit time zone"),
        ("cronjobs", "/spec/schedule", json!("0 0 32 * *"), "spec.schedule", "end of range (32) above maximum (31)"),
        (
            "cronjobs",
            "/spec/successfulJobsHistoryLimit",
            json!(-1),
            "spec.successfulJobsHistoryLimit",
            "must be greater than or equal to 0",
        ),
        (
            "horizontalpodautoscalers",
            "/spec/minReplicas",
            json!(5),
            "spec.maxReplicas",
            "must be greater than or equal to `minReplicas`",
        ),
        ("horizontalpodautoscalers", "/spec/maxReplicas", json!(0), "spec.maxReplicas", "must be greater than 0"),
        (
            "poddisruptionbudgets",
            "/spec/minAvailable",
            json!(-1),
            "spec.minAvailable",
            "must be greater than or equal to 0",
        ),
        (
            "poddisruptionbudgets",
            "/spec/minAvailable",
            json!("120%"),
            "spec.minAvailable",
            "must not be greater than 100%",
        ),
        (
            "poddisruptionbudgets",
            "/spec/maxUnavailable",
            json!(1),
            "spec",
            "minAvailable and maxUnavailable cannot be both set",
        ),
    ];
    let mut wrong = vec![];
    for (resource, pointer, value, field, message) in cases {
        let (version, good) = base(resource);
        let (code, said) = ns.objects(version, resource).try_create(&set(&good, pointer, value.clone()));
        let causes = said["details"]["causes"].as_array().cloned().unwrap_or_default();
        let told =
            causes.iter().any(|c| c["field"] == field && c["message"].as_str().unwrap_or_default().contains(message));
        if code != 422 || said["reason"] != "Invalid" || !told {
            wrong.push(format!("{resource} {pointer}={value}: {code} {}", said["message"]));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// 30 February never comes: the CronJob is there, makes nothing, and is not written again.
#[test]
fn a_day_that_never_comes() {
    let ns = Namespace::new("feb30");
    let crons = ns.objects("batch/v1", "cronjobs");
    let mut template = sleeper("x");
    template["spec"]["restartPolicy"] = json!("Never");
    let make = |name: &str, schedule: &str| {
        crons.create(&json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": name},
            "spec": {"schedule": schedule, "jobTemplate": {"spec": {"template": template}}}}))
    };
    let made = make("never", "0 0 30 2 *");
    crons.merge("never/status", &json!({"status": {"lastScheduleTime": caravel_tests::rfc3339_ago(86_400 * 800)}}));
    let before = crons.get("never")["metadata"]["resourceVersion"].clone();
    // The other one, made later, is seen through meanwhile.
    make("now", "* * * * *");
    crons.merge("now/status", &json!({"status": {"lastScheduleTime": caravel_tests::rfc3339_ago(130)}}));
    crons.until("now", "started", |c| c["status"]["active"].is_array());
    let after = crons.get("never");
    assert_eq!(
        (after["metadata"]["uid"].clone(), after["metadata"]["resourceVersion"].clone()),
        (made["metadata"]["uid"].clone(), before)
    );
}

/// Owners in a circle: the garbage collector lets them live as long as all do, and takes all of them when one is deleted in the foreground.
#[test]
fn a_circle_of_owners() {
    let ns = Namespace::new("circle");
    let maps = ns.objects("v1", "configmaps");
    let names = ["a", "b", "c"];
    let made: Vec<Value> = names
        .iter()
        .map(|n| maps.create(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": n}})))
        .collect();
    for (i, name) in names.iter().enumerate() {
        let owner = &made[(i + 1) % 3]["metadata"];
        maps.merge(
            name,
            &json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": owner["name"],
            "uid": owner["uid"], "blockOwnerDeletion": true}]}}),
        );
    }
    maps.delete_with("a", &json!({"propagationPolicy": "Foreground"}));
    names.iter().for_each(|n| maps.until_gone(n));
}

/// Two Deployments that select each other's Pods: each has its own, and both come to rest.
#[test]
fn overlapping_deployments_leave_each_other_alone() {
    let ns = Namespace::new("overlap");
    let deployments = ns.objects("apps/v1", "deployments");
    for (name, extra) in [("x", "1"), ("y", "2")] {
        let mut template = sleeper("same");
        template["spec"]["containers"][0]["env"] = json!([{"name": "OF", "value": extra}]);
        deployments.create(&json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
            "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "same"}}, "template": template}}));
    }
    let rest = |name: &str| {
        deployments.until(name, "available", |d| d["status"]["availableReplicas"] == 1 && d["status"]["replicas"] == 1)
    };
    rest("x");
    rest("y");
    assert_eq!(ns.objects("v1", "pods").list("app=same").len(), 2);
    assert_eq!(ns.objects("apps/v1", "replicasets").list("app=same").len(), 2);
}
